"""Weight files of other frameworks as {name: array}, read without those frameworks; nothing in a file is run.

PyTorch: its zip files, its older pickle files, safetensors. Keras: HDF5 (Keras 2 and 3) and .keras.
TensorFlow: checkpoints V1 (one table of slices) and V2 (index and data files). MindSpore: .ckpt.
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

from src import checkpoint
from src.errors import UserError

FORMATS = ('pytorch', 'keras', 'tf_slim', 'mindspore')


def read_weights(path, kind='auto'):
    """Read a weight file -> (its format, one of FORMATS, {name: float array}); other tensors are left out.

    Args:
        path: the file; of a TensorFlow V2 checkpoint its prefix or its .index file.
        kind: one of FORMATS, or 'auto' to look at the contents.

    Raises:
        UserError: no such file, an unknown format, or a file that is damaged or holds other things.
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
    except Exception as error:      # a damaged file may fail in any way in the libraries that read it
        raise UserError('%s cannot be read as a %s file (%s): check the download, or name another --format'
                        % (path, kind, str(error).split('\n')[0] or type(error).__name__))
    return kind, {name: array for name, array in arrays.items() if array.dtype.kind == 'f'}


def _kind(path):
    """The format of a file by its first and last bytes."""
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
_Tensor = collections.namedtuple('_Tensor', 'storage offset shape stride')
_Storage = collections.namedtuple('_Storage', 'key dtype')


class _Unpickler(pickle.Unpickler):
    """Knows the three things a state dict is made of; every other name in the pickle is refused."""

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
    if path.endswith('.safetensors'):
        return load_file(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            folder = next(name for name in archive.namelist() if name.endswith('data.pkl'))[:-len('data.pkl')]
            content = _Unpickler(io.BytesIO(archive.read(folder + 'data.pkl'))).load()
            tensors = _state_dict(content)
            storages = {key: archive.read('%sdata/%s' % (folder, key))
                        for key in {tensor.storage.key for tensor in tensors.values()}}
    else:
        with open(path, 'rb') as file:
            for _ in range(3):      # magic number, protocol, sizes of the writer's types
                _Unpickler(file).load()
            tensors = _state_dict(_Unpickler(file).load())
            sizes = {tensor.storage.key: np.dtype(tensor.storage.dtype).itemsize for tensor in tensors.values()}
            storages = {}
            for key in _Unpickler(file).load():
                count = struct.unpack('<q', file.read(8))[0]
                storages[key] = file.read(count * sizes[key])
    return {name: _array(tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}


def _state_dict(content):
    """{name: _Tensor} of a state dict, also of one inside a training checkpoint or of a parallel module."""
    while isinstance(content.get('state_dict'), dict):
        content = content['state_dict']
    return {name[len('module.'):] if name.startswith('module.') else name: value
            for name, value in content.items() if isinstance(value, _Tensor)}


def _array(tensor, data):
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
    """{layer name/variable name: array}"""
    if not zipfile.is_zipfile(path):
        with h5py.File(path, 'r') as file:
            return _read_keras_3(file['layers']) if 'layers' in file else _read_keras_2(file)
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read('model.weights.h5')), 'r') as file:
        return _read_keras_3(file['layers'])


def _read_keras_2(file):
    arrays = {}
    group = file['model_weights'] if 'model_weights' in file else file
    for layer in group.values():
        for name in layer.attrs.get('weight_names', ()):
            name = name.decode() if isinstance(name, bytes) else name
            arrays['/'.join(name.split(':')[0].split('/')[-2:])] = layer[name][()]
    return arrays


def _read_keras_3(layers):
    """Layers are filed under their class and a count there; their names are an attribute."""
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
# Both versions are LevelDB tables (tensorflow/core/lib/io/table_format.txt) of protocol buffers
# (tensor_bundle.proto, saved_tensor_slice.proto).

_TABLE_MAGIC = bytes.fromhex('57fb808b247547db')
_DTYPES = {1: '<f4', 2: '<f8', 3: '<i4', 9: '<i8', 10: '?', 19: '<f2'}      # types.proto


def _read_tensorflow(path):
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
        if dtype is None or _field(value, 7):       # strings; variables cut into slices are none of NASNet's
            continue
        start, size = _varint_field(value, 4), _varint_field(value, 5)
        raw = data[_varint_field(value, 3)][start:start + size].tobytes()
        arrays[name.decode()] = np.frombuffer(raw, dtype).reshape(_shape(_field(value, 2)))
    return arrays


def _read_slices(entries):
    """V1: the value of each key but the first is a whole tensor with its name."""
    shapes = {}
    for meta in _fields(_field(entries.pop(b''), 1)).get(1, ()):
        shapes[_field(meta, 1)] = (_shape(_field(meta, 2)), _DTYPES.get(_varint_field(meta, 3)))
    arrays = {}
    for value in entries.values():
        slice_ = _field(value, 2)
        name, tensor = _field(slice_, 1), _field(slice_, 3)
        shape, dtype = shapes[name]
        number = {'<f4': 5, '<f8': 6}.get(dtype)
        if number:          # tensor_content, or a packed list of values
            arrays[name.decode()] = np.frombuffer(_field(tensor, 4) or _field(tensor, number), dtype).reshape(shape)
    return arrays


def _table(data):
    """(key, value) of a LevelDB table."""
    if data[-8:] != _TABLE_MAGIC:
        raise ValueError('no table of tensors')
    position = len(data) - 48
    for _ in range(2):      # the handle of the meta index, which is not needed
        _, position = _varint(data, position)
    start, position = _varint(data, position)
    size, _ = _varint(data, position)
    for _, handle in _block(data, start, size):
        start, position = _varint(handle, 0)
        yield from _block(data, start, _varint(handle, position)[0])


def _block(data, start, size):
    """Entries of a block; a key is given as the length it shares with the one before, and the rest."""
    if start + size >= len(data):
        raise ValueError('the table is truncated')
    compressed, block = data[start + size], data[start:start + size]
    if compressed:
        block = bytes(cramjam.snappy.decompress_raw(block))
    end = len(block) - 4 * (1 + struct.unpack('<I', block[-4:])[0])
    key, position = b'', 0
    while position < end:
        shared, position = _varint(block, position)
        fresh, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position:position + fresh]
        position += fresh
        yield key, block[position:position + length]
        position += length


def _varint(data, position):
    """(number, position after it)"""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _fields(message):
    """{field number: list of values} of a protocol buffer; nested messages stay bytes."""
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
    return _fields(message).get(number, [b''])[-1]


def _varint_field(message, number, default=0):
    return _fields(message).get(number, [default])[-1]


def _shape(message):
    return tuple(_varint_field(dimension, 1) for dimension in _fields(message).get(2, ()))
