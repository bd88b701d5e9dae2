"""Reads PyTorch's files as {name: array}: zip files, the older files of pickles, and safetensors."""
import io
import os
import re
import struct
import zipfile

import numpy as np
from safetensors import deserialize

from src.convert.limits import Allowance, open_archive, product, read_member
from src.convert.names import EMA
from src.convert.pickles import BFLOAT16, LARGEST, Tensor, Unpickler

DEEPEST = 4         # Tensors are looked for in so many dicts inside each other.
_SAFETENSORS = {'F64': '<f8', 'F32': '<f4', 'F16': '<f2', 'BF16': BFLOAT16}


def read_pytorch(path, key=None):
    """Read a PyTorch file.

    Args:
        path: path of the file.
        key: which state dict of a training checkpoint is meant, for example 'state_dict_ema'; dots separate keys of
            dicts inside each other. None: the largest, and moving averages in addition if there are any.

    Returns:
        {name: array}. The names of such moving averages end in names.EMA, as in TF-Slim's checkpoints.

    Raises:
        ValueError: the file holds no state dict or asks for too much memory. A damaged file may raise any error.
    """
    if path.endswith('.safetensors'):
        return _read_safetensors(path)
    allowance = Allowance(os.path.getsize(path))
    tensors, storages = (_read_zip if zipfile.is_zipfile(path) else _read_pickles)(path, key, allowance)
    return {name: _array(name, tensor, storages[tensor.storage.key], allowance) for name, tensor in tensors.items()}


def _read_safetensors(path):
    """Read a safetensors file. Its library refuses tensors that overlap or reach outside the file."""
    with open(path, 'rb') as file:
        entries = deserialize(file.read())
    return {name: _numbers(entry['data'], _SAFETENSORS[entry['dtype']]).reshape(entry['shape'])
            for name, entry in entries if entry['dtype'] in _SAFETENSORS}


def _read_zip(path, key, allowance):
    """Read a zip file, PyTorch's format since 1.6 -> ({name: Tensor}, {key of a storage: its bytes})."""
    with open_archive(path) as archive:
        pickles = [name for name in archive.namelist() if name.split('/')[-1] == 'data.pkl']
        if not pickles:
            raise ValueError('it has no data.pkl')
        unpickler = Unpickler(io.BytesIO(read_member(archive, pickles[0], allowance, LARGEST)))
        tensors = _state_dict(unpickler.load(), key, unpickler.unknown)
        folder = pickles[0][:-len('data.pkl')]
        keys = {tensor.storage.key for tensor in tensors.values()}
        return tensors, {key: read_member(archive, '%sdata/%s' % (folder, key), allowance) for key in keys}


def _read_pickles(path, key, allowance):
    """Read a file of several pickles, PyTorch's older format; returns what `_read_zip` returns."""
    with open(path, 'rb') as file:
        pickles = io.BytesIO(file.read(LARGEST))
        try:
            for _ in range(3):      # These are a magic number, the protocol, and sizes of types where it was written.
                Unpickler(pickles).load()
            unpickler = Unpickler(pickles)
            tensors = _state_dict(unpickler.load(), key, unpickler.unknown)
            keys = Unpickler(pickles).load()
        except EOFError:
            raise ValueError('its pickles have no end in the first %d bytes' % LARGEST)
        wanted = {tensor.storage.key for tensor in tensors.values()}
        storages = {}
        file.seek(pickles.tell())
        for name in keys:
            if type(name) not in (str, int) or name not in unpickler.dtypes:
                raise ValueError('it has a storage that no tensor refers to')
            size = struct.unpack('<q', file.read(8))[0] * _item_size(unpickler.dtypes[name])
            if not 0 <= size <= allowance.size - file.tell():
                raise ValueError('a storage in it claims %d bytes, which the rest of the file does not have' % size)
            if name in wanted:
                allowance.take(size)
                storages[name] = file.read(size)
            else:
                file.seek(size, os.SEEK_CUR)
    return tensors, storages


def _state_dict(content, key, unknown):
    """Return {name: Tensor}: the state dict in what a file holds, which may be a training checkpoint.

    Args:
        content: what the unpickler returned.
        key: see `read_pytorch`.
        unknown: names of classes that the unpickler did not build.
    """
    found = _dicts_of_tensors(content)
    if not found:
        if unknown:
            raise ValueError('it has no state dict, but refers to %s, which is no part of a state dict'
                             % ', '.join(unknown))
        raise ValueError('it has no state dict; the keys there are: %s' % ', '.join(map(str, list(content)[:20]))
                         if isinstance(content, dict) and content else 'it has no state dict')
    if key is not None:
        if key not in found:
            raise ValueError('it has no tensors under the key %s, but under: %s' % (key, _listing(found)))
        return found[key]
    averages = {path: tensors for path, tensors in found.items() if re.search(r'(^|[._])ema([._]|$)', path)}
    raw = {path: tensors for path, tensors in found.items() if path not in averages}
    tensors = _largest(raw or averages)
    if raw and averages:
        tensors = dict(tensors, **{name + EMA: tensor for name, tensor in _largest(averages).items()})
    return tensors


def _largest(found):
    """Return the largest of the dicts {path: {name: Tensor}}. It raises ValueError if two are equally large."""
    sizes = sorted((len(tensors), path) for path, tensors in found.items())
    if len(sizes) > 1 and sizes[-2][0] == sizes[-1][0]:
        raise ValueError('it has several state dicts, name one with --key: %s' % _listing(found))
    return found[sizes[-1][1]]


def _listing(found):
    """Return the first of the paths of {path: anything} as text."""
    return ', '.join(path or "''" for path in sorted(found)[:20])


def _dicts_of_tensors(content):
    """Return {path: {name: Tensor}} of all dicts in `content` that have tensors; a path is keys with dots between."""
    found, seen, level = {}, set(), [('', content)]
    for _ in range(DEEPEST):
        below = []
        for path, value in level:
            if not isinstance(value, dict) or id(value) in seen:
                continue
            seen.add(id(value))
            tensors = {name: item for name, item in value.items() if isinstance(item, Tensor) and type(name) is str}
            if tensors:
                found[path] = tensors
            below.extend((path + '.' * bool(path) + name, item) for name, item in value.items()
                         if isinstance(item, dict) and type(name) is str and len(path) + len(name) < 200)
        level = below
    return found


def _item_size(dtype):
    """Return the bytes of one number."""
    if not isinstance(dtype, str):
        raise ValueError('it has numbers of a type that is not known here')
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def _numbers(data, dtype):
    """Return the numbers in `data`, flat."""
    if dtype == BFLOAT16:
        return (np.frombuffer(data, '<u2').astype('<u4') << 16).view('<f4')
    return np.frombuffer(data, dtype)


def _array(name, tensor, data, allowance):
    """Return the values of a Tensor as an array; `data` are the bytes of its storage."""
    _item_size(tensor.storage.dtype)
    flat, count = _numbers(data, tensor.storage.dtype), product(tensor.shape)
    if not count:
        return np.zeros(tensor.shape, flat.dtype)
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride))
    # A stride of 0 repeats a number. Weights have no such strides, and a few bytes could become any number of them.
    if last >= flat.size or count > flat.size:
        raise ValueError('%s claims %d numbers, and its data does not have them' % (name, count))
    allowance.take(count * flat.itemsize)
    strides = tuple(step * flat.itemsize for step in tensor.stride)
    return np.lib.stride_tricks.as_strided(flat[tensor.offset:], tensor.shape, strides).copy()
