"""Reads weight files of other frameworks as {name: array}, without those frameworks and without running their code.

PyTorch: zip files, the older pickle files, safetensors. Keras: HDF5 files (Keras 2 and 3) and .keras files.
TensorFlow: checkpoints V1 (one table with the values) and V2 (an index file and data files). MindSpore: .ckpt files.
"""
import collections
import io
import os
import pickle
import struct
import zipfile

import cramjam
import h5py
import numpy as np
from safetensors.numpy import load_file

from src.checkpoints import checkpoint
from src.errors import UserError

FORMATS = ('pytorch', 'keras', 'tf_slim', 'mindspore')


def read_weights(path, kind='auto'):
    """Read the tensors of floating-point numbers from a weight file.

    Args:
        path: path of the file. For a TensorFlow V2 checkpoint it is the common prefix, or the .index file.
        kind: one of FORMATS, or 'auto': the contents of the file decide.

    Returns:
        (one of FORMATS, {name in the file: float array}). Other tensors are left out.

    Raises:
        UserError: there is no such file, its format is unknown, or it is damaged or holds something else.
    """
    if os.path.isfile(path + '.index'):
        path += '.index'
    if not os.path.isfile(path):
        raise UserError('%s is not a file: give the path of a weight file' % path)
    if kind == 'auto':
        kind = _kind(path)
    reader = {'pytorch': _read_pytorch, 'keras': _read_keras, 'tf_slim': _read_tensorflow,
              'mindspore': lambda path: checkpoint.load(path).arrays}[kind]
    try:
        arrays = reader(path)
    except UserError:
        raise
    except MemoryError:
        raise UserError('%s claims to be larger than the memory: it is damaged' % path)
    except Exception as error:      # On a damaged file the libraries that read it may raise errors of any type.
        raise UserError('%s cannot be read as a %s file (%s): check the download, or name another --format'
                        % (path, kind, str(error).split('\n')[0] or type(error).__name__))
    return kind, {name: array for name, array in arrays.items() if array.dtype.kind == 'f'}


def _kind(path):
    """Return the format of a file, one of FORMATS; its first and last bytes tell it."""
    with open(path, 'rb') as file:
        start = file.read(8)
        file.seek(max(0, os.path.getsize(path) - 8))
        end = file.read(8)
    if end == _TABLE_MAGIC:
        return 'tf_slim'
    if start == b'\x89HDF\r\n\x1a\n':
        return 'keras'
    if start.startswith(b'PK'):
        try:
            with zipfile.ZipFile(path) as archive:
                return 'keras' if 'config.json' in archive.namelist() else 'pytorch'
        except zipfile.BadZipFile:
            raise UserError('%s is damaged or was not copied whole: check the download' % path)
    if start.startswith(b'\x80') or path.endswith('.safetensors'):
        return 'pytorch'
    if path.endswith('.ckpt'):
        return 'mindspore'
    raise UserError('%s is of no known format: give a PyTorch, safetensors, Keras, TensorFlow or MindSpore file' % path)


# --- PyTorch ------------------------------------------------------------------------------------------------

_STORAGES = {'DoubleStorage': '<f8', 'FloatStorage': '<f4', 'HalfStorage': '<f2', 'LongStorage': '<i8',
             'IntStorage': '<i4', 'ShortStorage': '<i2', 'CharStorage': 'i1', 'ByteStorage': 'u1', 'BoolStorage': '?'}
_Tensor = collections.namedtuple('_Tensor', 'storage offset shape stride')     # offset and stride in numbers
_Storage = collections.namedtuple('_Storage', 'key dtype')


class _Unpickler(pickle.Unpickler):
    """Builds only what a state dict consists of. It refuses every other name, so no code in a pickle can run."""

    def find_class(self, module, name):
        if (module, name) == ('collections', 'OrderedDict'):
            return collections.OrderedDict
        if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
            return lambda storage, offset, shape, stride, *_: _Tensor(storage, offset, tuple(shape), tuple(stride))
        if (module, name) == ('torch._utils', '_rebuild_parameter'):
            return lambda tensor, *_: tensor
        if module == 'torch' and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError('it refers to %s.%s, which is no part of a state dict' % (module, name))

    def persistent_load(self, pid):
        _, dtype, key = pid[:3]
        return _Storage(str(key), dtype)


def _read_pytorch(path):
    """Read a PyTorch file -> {name: array}."""
    if path.endswith('.safetensors'):
        return load_file(path)
    tensors, storages = (_read_pytorch_zip if zipfile.is_zipfile(path) else _read_pytorch_pickles)(path)
    return {name: _array(tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}


def _read_pytorch_zip(path):
    """Read a zip file, PyTorch's format since 1.6 -> ({name: _Tensor}, {key of a storage: its bytes})."""
    with zipfile.ZipFile(path) as archive:
        folder = next(name for name in archive.namelist() if name.endswith('data.pkl'))[:-len('data.pkl')]
        tensors = _state_dict(_Unpickler(io.BytesIO(archive.read(folder + 'data.pkl'))).load())
        keys = {tensor.storage.key for tensor in tensors.values()}
        return tensors, {key: archive.read('%sdata/%s' % (folder, key)) for key in keys}


def _read_pytorch_pickles(path):
    """Read a file of several pickles, PyTorch's older format; returns what `_read_pytorch_zip` returns."""
    with open(path, 'rb') as file:
        for _ in range(3):      # These are a magic number, the protocol, and sizes of types where it was written.
            _Unpickler(file).load()
        tensors = _state_dict(_Unpickler(file).load())
        sizes = {tensor.storage.key: np.dtype(tensor.storage.dtype).itemsize for tensor in tensors.values()}
        storages = {}
        for key in _Unpickler(file).load():
            count = struct.unpack('<q', file.read(8))[0]
            storages[key] = file.read(count * sizes[key])
    return tensors, storages


def _state_dict(content):
    """Return {name: _Tensor} of a state dict, which may be inside a training checkpoint or of a parallel module."""
    while isinstance(content.get('state_dict'), dict):
        content = content['state_dict']
    return {name[len('module.'):] if name.startswith('module.') else name: value
            for name, value in content.items() if isinstance(value, _Tensor)}


def _array(tensor, data):
    """Return the values of a _Tensor as an array; `data` are the bytes of its storage."""
    flat = np.frombuffer(data, tensor.storage.dtype)
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, flat.dtype)
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride))
    if min((tensor.offset,) + tensor.stride) < 0 or last >= flat.size or len(tensor.shape) != len(tensor.stride):
        raise ValueError('a tensor reaches outside its data')
    strides = tuple(step * flat.itemsize for step in tensor.stride)
    return np.lib.stride_tricks.as_strided(flat[tensor.offset:], tensor.shape, strides).copy()


# --- Keras --------------------------------------------------------------------------------------------------

def _read_keras(path):
    """Read a Keras file -> {layer name/variable name: array}."""
    if not zipfile.is_zipfile(path):
        with h5py.File(path, 'r') as file:
            return _read_keras_3(file['layers']) if 'layers' in file else _read_keras_2(file)
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read('model.weights.h5')), 'r') as file:
        return _read_keras_3(file['layers'])


def _read_keras_2(file):
    """Read an open HDF5 file of Keras 2, which holds either a whole model or only its weights."""
    arrays = {}
    group = file['model_weights'] if 'model_weights' in file else file
    for layer in group.values():
        for name in layer.attrs.get('weight_names', ()):
            name = name.decode() if isinstance(name, bytes) else name
            arrays['/'.join(name.split(':')[0].split('/')[-2:])] = layer[name][()]
    return arrays


def _read_keras_3(layers):
    """Read the HDF5 group with the layers of Keras 3.

    The key of a layer is its class with a number. Its name is an attribute. Its variables are only numbered.
    """
    arrays = {}
    for key, layer in layers.items():
        variables = layer['vars']
        if not len(variables):
            continue
        if 'name' not in variables.attrs:
            raise ValueError('its layers have no names: load it into Keras and save it as .h5 by model.save')
        name = variables.attrs['name']
        if key.startswith('batch_normalization'):
            kinds = ('gamma', 'beta', 'moving_mean', 'moving_variance')
        elif key.startswith('separable_conv2d'):
            kinds = ('depthwise_kernel', 'pointwise_kernel', 'bias')
        else:
            kinds = ('kernel', 'bias')
        for number, array in variables.items():
            arrays['%s/%s' % (name, kinds[int(number)])] = array[()]
    return arrays


# --- TensorFlow ---------------------------------------------------------------------------------------------
# Both versions of a checkpoint are LevelDB tables (tensorflow/core/lib/io/table_format.txt). The values in a table
# are protocol buffers: tensor_bundle.proto in V2, saved_tensor_slice.proto in V1. The field numbers below are from
# these files.

_TABLE_MAGIC = bytes.fromhex('57fb808b247547db')        # the last 8 bytes of each table
_DTYPES = {1: '<f4', 2: '<f8', 3: '<i4', 9: '<i8', 10: '?', 19: '<f2'}      # from types.proto


def _read_tensorflow(path):
    """Read a V1 checkpoint, or the V2 checkpoint of an .index file -> {name: array}."""
    with open(path, 'rb') as file:
        entries = dict(_table(file.read()))
    if not path.endswith('.index'):
        return _read_slices(entries)
    shards = _varint_field(entries.pop(b''), 1, 1)
    names = ['%s.data-%05d-of-%05d' % (path[:-len('.index')], shard, shards) for shard in range(shards)]
    missing = [name for name in names if not os.path.isfile(name)]
    if missing:
        raise UserError('%s is missing: it belongs to %s' % (missing[0], path))
    data = [np.memmap(name, np.uint8, 'r') for name in names]
    arrays = {}
    for name, value in entries.items():
        dtype = _DTYPES.get(_varint_field(value, 1))
        if dtype is None or _field(value, 7):       # Strings, and variables cut into slices: NASNet has neither.
            continue
        start, size = _varint_field(value, 4), _varint_field(value, 5)
        raw = data[_varint_field(value, 3)][start:start + size].tobytes()
        arrays[name.decode()] = np.frombuffer(raw, dtype).reshape(_shape(_field(value, 2)))
    return arrays


def _read_slices(entries):
    """Read the entries of a V1 table -> {name: array}.

    The first entry holds the shapes and dtypes. Each other entry holds a whole tensor with its name.
    """
    shapes = {}
    for meta in _fields(_field(entries.pop(b''), 1)).get(1, ()):
        shapes[_field(meta, 1)] = (_shape(_field(meta, 2)), _DTYPES.get(_varint_field(meta, 3)))
    arrays = {}
    for value in entries.values():
        slice_ = _field(value, 2)
        name, tensor = _field(slice_, 1), _field(slice_, 3)
        shape, dtype = shapes[name]
        number = {'<f4': 5, '<f8': 6}.get(dtype)
        if number:          # The values are in tensor_content (field 4), or in a packed list of their dtype.
            arrays[name.decode()] = np.frombuffer(_field(tensor, 4) or _field(tensor, number), dtype).reshape(shape)
    return arrays


def _table(data):
    """Generate the (key, value) pairs of a LevelDB table, both bytes."""
    if data[-8:] != _TABLE_MAGIC:
        raise ValueError('no table of tensors')
    position = len(data) - 48
    for _ in range(2):      # This skips the two numbers that say where the meta index is. It is not needed.
        _, position = _varint(data, position)
    start, position = _varint(data, position)
    size, _ = _varint(data, position)
    for _, handle in _block(data, start, size):
        start, position = _varint(handle, 0)
        yield from _block(data, start, _varint(handle, position)[0])


def _block(data, start, size):
    """Generate the (key, value) pairs of one block of a table.

    For each key the block stores only how many bytes it shares with the key before it, and the rest of its bytes.
    """
    if start + size >= len(data):
        raise ValueError('the table is truncated')
    compressed, block = data[start + size], data[start:start + size]
    if compressed:
        block = bytes(cramjam.snappy.decompress_raw(block))
    end = len(block) - 4 * (1 + struct.unpack('<I', block[-4:])[0])
    key, position = b'', 0
    while position < end:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position:position + unshared]
        position += unshared
        yield key, block[position:position + length]
        position += length


def _varint(data, position):
    """Read a number of variable length: return (number, position of the byte after it)."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _fields(message):
    """Return {field number: list of values} of a protocol buffer; a nested message stays bytes."""
    fields, position = {}, 0
    while position < len(message):
        tag, position = _varint(message, position)
        if tag & 7 == 0:
            value, position = _varint(message, position)
        else:
            if tag & 7 == 2:
                length, position = _varint(message, position)
            else:
                length = {1: 8, 5: 4}[tag & 7]
            value, position = message[position:position + length], position + length
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _field(message, number):
    """Return the last value of a field that holds bytes; b'' if the message does not have it."""
    return _fields(message).get(number, [b''])[-1]


def _varint_field(message, number, default=0):
    """Return the last value of a field that holds an int."""
    return _fields(message).get(number, [default])[-1]


def _shape(message):
    """Return the tuple of the sizes in a TensorShapeProto."""
    return tuple(_varint_field(dimension, 1) for dimension in _fields(message).get(2, ()))
