"""Reads TensorFlow's checkpoints as {name: array}, without TensorFlow.

Both versions of a checkpoint are LevelDB tables (tensorflow/core/lib/io/table_format.txt). The values in a table are
protocol buffers: tensor_bundle.proto in V2, saved_tensor_slice.proto in V1. The field numbers here are from these
files.
"""
import os
import struct

import cramjam
import numpy as np

from src.checkpoints.records import blob, fields, integer, varint
from src.convert.limits import Allowance
from src.errors import UserError

MAGIC = bytes.fromhex('57fb808b247547db')        # the last 8 bytes of each table
_DTYPES = {1: '<f4', 2: '<f8', 3: '<i4', 9: '<i8', 10: '?', 19: '<f2'}      # from types.proto
_ENTRY_BYTES = 200      # Python's memory for an entry of a table, without its bytes
_SNAPPY_TIMES = 22      # 3 bytes of snappy's format become at most 64


def read_tensorflow(path):
    """Read a V1 checkpoint, or the V2 checkpoint of an .index file -> {name: array}.

    Raises:
        UserError: a data file of a V2 checkpoint is missing.
        ValueError: the file asks for too much memory. A damaged file may raise any error.
    """
    allowance = Allowance(os.path.getsize(path))
    with open(path, 'rb') as file:
        entries = dict(_table(memoryview(file.read()), allowance))
    return _read_bundle(path, entries) if path.endswith('.index') else _read_slices(entries)


def _read_bundle(path, entries):
    """Read the tensors of a V2 checkpoint; `entries` are those of its .index file, {key: value}."""
    count = integer(entries.pop(b''), 1, 1)
    data = []
    for shard in range(count):
        name = '%s.data-%05d-of-%05d' % (path[:-len('.index')], shard, count)
        if not os.path.isfile(name):
            raise UserError('%s is missing: it belongs to %s' % (name, path))
        data.append(np.memmap(name, np.uint8, 'r'))
    allowance = Allowance(sum(map(len, data)))
    arrays = {}
    for name, value in entries.items():
        dtype = _DTYPES.get(integer(value, 1))
        if dtype is None or blob(value, 7):       # Strings, and variables cut into slices: NASNet has neither.
            continue
        start, size = integer(value, 4), integer(value, 5)
        allowance.take(size)        # Entries may overlap.
        raw = data[integer(value, 3)][start:start + size].tobytes()
        arrays[name.decode()] = np.frombuffer(raw, dtype).reshape(_shape(blob(value, 2)))
    return arrays


def _read_slices(entries):
    """Read the entries of a V1 table -> {name: array}.

    The first entry holds the shapes and dtypes. Each other entry holds a whole tensor with its name.
    """
    shapes = {}
    for number, meta in fields(blob(entries.pop(b''), 1)):
        if number == 1:
            shapes[bytes(blob(meta, 1))] = (_shape(blob(meta, 2)), _DTYPES.get(integer(meta, 3)))
    arrays = {}
    for value in entries.values():
        slice_ = blob(value, 2)
        name, tensor = bytes(blob(slice_, 1)), blob(slice_, 3)
        shape, dtype = shapes[name]
        number = {'<f4': 5, '<f8': 6}.get(dtype)
        if number:
            # The values are in tensor_content (field 4), or in a packed list of their dtype. They are copied because
            # MindSpore takes no array at an odd address.
            values = bytes(blob(tensor, 4) or blob(tensor, number))
            arrays[name.decode()] = np.frombuffer(values, dtype).reshape(shape)
    return arrays


def _table(data, allowance):
    """Generate the (key, value) pairs of a LevelDB table: bytes and a memoryview.

    Keys share their beginnings, blocks may be compressed, and any number of entries may refer to one block. So the
    pairs are counted against an Allowance.
    """
    if data[-8:] != MAGIC:
        raise ValueError('no table of tensors')
    position = len(data) - 48
    for _ in range(2):      # This skips the two numbers that say where the meta index is. It is not needed.
        _, position = varint(data, position)
    start, position = varint(data, position)
    size, _ = varint(data, position)
    for _, handle in _block(data, start, size, allowance):
        start, position = varint(handle, 0)
        yield from _block(data, start, varint(handle, position)[0], allowance)


def _block(data, start, size, allowance):
    """Generate the (key, value) pairs of one block of a table.

    For each key the block stores only how many bytes it shares with the key before it, and the rest of its bytes.
    """
    if start + size >= len(data):
        raise ValueError('the table is truncated')
    block = data[start:start + size]
    if data[start + size]:
        block = _decompress(block, allowance)
    end = len(block) - 4 * (1 + struct.unpack('<I', block[-4:])[0])
    key, position = b'', 0
    while position < end:
        shared, position = varint(block, position)
        unshared, position = varint(block, position)
        length, position = varint(block, position)
        allowance.take(min(shared, len(key)) + unshared + length + _ENTRY_BYTES)
        key = key[:shared] + bytes(block[position:position + unshared])
        position += unshared
        yield key, block[position:position + length]
        position += length


def _decompress(block, allowance):
    """Unpack a block. Snappy's library takes as much memory as the first number of the block says."""
    size, _ = varint(block, 0)
    if size > _SNAPPY_TIMES * len(block):
        raise ValueError('a compressed block claims more bytes than snappy can make of it')
    allowance.take(size)
    return memoryview(bytes(cramjam.snappy.decompress_raw(bytes(block))))


def _shape(message):
    """Return the tuple of the sizes in a TensorShapeProto."""
    return tuple(integer(dimension, 1) for number, dimension in fields(message) if number == 2)
