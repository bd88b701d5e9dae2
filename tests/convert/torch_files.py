"""Writes files in PyTorch's formats without PyTorch, also such as PyTorch would never write."""
import collections
import io
import pickle
import struct
import sys
import types
import zipfile
from unittest import mock

import numpy as np

TYPES = {'<f4': 'FloatStorage', '<f8': 'DoubleStorage', '<i8': 'LongStorage'}


class Tensor:
    """A tensor as torch.save describes it.

    Args:
        values: array; or the bytes of the storage, then the other arguments are given.
        shape, stride: in numbers, as they stand in the file. Nothing checks them.
        kind: name of PyTorch's class of the storage.
    """

    def __init__(self, values, shape=None, stride=None, kind=None):
        self.data = values if isinstance(values, bytes) else np.ascontiguousarray(values).tobytes()
        self.shape = tuple(values.shape if shape is None else shape)
        self.stride = stride
        if stride is None:
            self.stride = tuple(step // values.itemsize for step in np.ascontiguousarray(values).strides)
        self.kind = kind or TYPES[values.dtype.str]

    def __reduce__(self):
        arguments = (Storage(self), 0, self.shape, self.stride, False, collections.OrderedDict())
        return sys.modules['torch._utils']._rebuild_tensor_v2, arguments


class Storage:
    """What a tensor refers to: the pickle has only its key."""

    def __init__(self, tensor):
        self.tensor = tensor


class Pickler(pickle.Pickler):
    """Keeps the storages of the tensors that it meets, {key: Tensor}."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.storages = collections.OrderedDict()

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        key = str(len(self.storages))
        self.storages[key] = value.tensor
        return 'storage', getattr(sys.modules['torch'], value.tensor.kind), key, 'cpu', 1


def torch_modules():
    """{name: module} that stand for PyTorch while something is pickled."""
    modules = {'torch': types.ModuleType('torch'), 'torch._utils': types.ModuleType('torch._utils')}
    for kind in ('FloatStorage', 'DoubleStorage', 'LongStorage', 'BFloat16Storage', 'ComplexFloatStorage'):
        setattr(modules['torch'], kind, type(kind, (), {'__module__': 'torch'}))
    function = types.FunctionType((lambda: None).__code__, {}, '_rebuild_tensor_v2')
    function.__module__, function.__qualname__ = 'torch._utils', '_rebuild_tensor_v2'
    modules['torch._utils']._rebuild_tensor_v2 = function
    return modules


def dump(content, protocol=2):
    """(pickle of something with Tensors, {key: Tensor})."""
    file = io.BytesIO()
    pickler = Pickler(file, protocol)
    with mock.patch.dict(sys.modules, torch_modules()):
        pickler.dump(content)
    return file.getvalue(), pickler.storages


def write_zip(path, content, compression=zipfile.ZIP_STORED, protocol=2):
    """Write what torch.save(content, path) writes since PyTorch 1.6."""
    data, storages = dump(content, protocol)
    with zipfile.ZipFile(str(path), 'w', compression) as archive:
        archive.writestr('archive/data.pkl', data)
        for key, tensor in storages.items():
            archive.writestr('archive/data/' + key, tensor.data)


def write_pickles(path, content, counts=None):
    """Write the older format. `counts` is the number of values that each storage claims, instead of the true one."""
    data, storages = dump(content)
    with open(str(path), 'wb') as file:
        for part in (0x1950a86a20f9469cfc6c, 1001, {'little_endian': True}):
            file.write(pickle.dumps(part, 2))
        file.write(data + pickle.dumps(list(storages), 2))
        for tensor in storages.values():
            file.write(struct.pack('<q', len(tensor.data) // 4 if counts is None else counts) + tensor.data)
