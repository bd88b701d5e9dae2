"""Reads Keras's files as {layer name/variable name: array}: HDF5 files of Keras 2 and 3, and .keras files.

An HDF5 file may say that its values are in any other file of this computer. Such a file would carry the contents of
that file away as "weights", so only values that are in the file itself are read.
"""
import io
import os
import zipfile
import zlib

import h5py

from src.convert.limits import Allowance, address_limit, open_archive, product, read_member

DEEPEST = 16            # groups inside each other in a file
_OBJECT_BYTES = 5000    # An object counts as these bytes. It takes less memory, but also some time.
_FILTERS = {h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32}


def read_keras(path):
    """Read a Keras file -> {layer name/variable name: float array}.

    Raises:
        ValueError: a part of the file is in another file, or it asks for too much memory. A damaged file may raise
            any error.
    """
    allowance = Allowance(os.path.getsize(path))
    content = path
    if zipfile.is_zipfile(path):
        with open_archive(path) as archive:
            content = io.BytesIO(read_member(archive, 'model.weights.h5', allowance))
    with address_limit(allowance), h5py.File(content, 'r') as file:
        if 'layers' in list(file):      # `in file` would follow a link into another file.
            return _read_keras_3(_child(file, 'layers'), allowance)
        return _read_keras_2(file, allowance)


def _read_keras_2(file, allowance):
    """Read an open HDF5 file of Keras 2, which holds either a whole model or only its weights.

    The attribute weight_names of each layer is not needed: a weight's name is its path below the layer.
    """
    arrays = {}
    group = _child(file, 'model_weights') if 'model_weights' in list(file) else file
    for layer in group:
        for name, dataset in _datasets(_child(group, layer), '', allowance):
            array = _values(dataset, allowance)
            if array is not None:
                arrays['/'.join(name.split(':')[0].split('/')[-2:])] = array
    return arrays


def _datasets(group, path, allowance):
    """Generate (path below the layer, dataset) of all datasets in an HDF5 group; `path` is that of the group."""
    if not isinstance(group, h5py.Group) or path.count('/') > DEEPEST:
        return
    for name in group:
        # One object may be in many groups, so that a small file would have any number of paths.
        allowance.take(_OBJECT_BYTES + len(path) + len(name))
        child = _child(group, name)
        if isinstance(child, h5py.Dataset):
            yield path + name, child
        else:
            yield from _datasets(child, '%s%s/' % (path, name), allowance)


def _read_keras_3(layers, allowance):
    """Read the HDF5 group with the layers of Keras 3.

    The key of a layer is its class with a number. Its name is an attribute. Its variables are only numbered.
    """
    arrays = {}
    for key in layers:
        variables = _child(layers, key + '/vars')
        if not len(variables):
            continue
        name = _layer_name(variables)
        if key.startswith('batch_normalization'):
            kinds = ('gamma', 'beta', 'moving_mean', 'moving_variance')
        elif key.startswith('separable_conv2d'):
            kinds = ('depthwise_kernel', 'pointwise_kernel', 'bias')
        else:
            kinds = ('kernel', 'bias')
        for number in variables:
            array = _values(_child(variables, number), allowance)
            if array is not None:
                arrays['%s/%s' % (name, kinds[int(number)])] = array
    return arrays


def _child(group, path):
    """Return what a group has under a path of names. It must be in this file."""
    for name in filter(None, path.split('/')):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError('%s in it is a link to another place' % name)
        group = group[name]
    return group


def _layer_name(variables):
    """Return the name of a layer of Keras 3, which is an attribute of the group of its variables."""
    if 'name' not in variables.attrs:
        raise ValueError('its layers have no names: load it into Keras and save it as .h5 by model.save')
    # Only a single text is read, since many texts may be one long text that is in the file once.
    name = variables.attrs['name'] if variables.attrs.get_id('name').shape == () else None
    if not isinstance(name, str) or len(name) > 1000:
        raise ValueError('the name of a layer in it is not a short text')
    return name


def _values(dataset, allowance):
    """Return the array of a dataset; None if it has something else than floating-point numbers."""
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != 'f':
        return None
    layout = dataset.id.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise ValueError('the values of %s are in another file' % dataset.name)
    size = dataset.dtype.itemsize
    allowance.take(product(dataset.shape) * size)
    if dataset.chunks:
        _check_chunks(dataset, layout, product(dataset.chunks) * size, allowance)
    return dataset[()]


def _check_chunks(dataset, layout, size, allowance):
    """Raise ValueError if a chunk of a dataset becomes larger than it says when HDF5 decompresses it.

    HDF5 makes its memory larger until the compressed data ends. So the chunks are decompressed here first, each up to
    its size.

    Args:
        dataset: the dataset.
        layout: its creation property list.
        size: bytes of a chunk.
        allowance: Allowance of the file.
    """
    if size > allowance.whole:
        raise ValueError('the chunks of %s are larger than the file' % dataset.name)
    filters = [layout.get_filter(number)[0] for number in range(layout.get_nfilters())]
    if not set(filters) <= _FILTERS or filters.count(h5py.h5z.FILTER_DEFLATE) > 1:
        raise ValueError('%s is compressed by another method than gzip' % dataset.name)
    if h5py.h5z.FILTER_DEFLATE not in filters:
        return
    for number in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(number)
        if chunk.size > allowance.whole:
            raise ValueError('a chunk of %s is larger than the file' % dataset.name)
        skipped, data = dataset.id.read_direct_chunk(chunk.chunk_offset)
        if skipped & 1 << filters.index(h5py.h5z.FILTER_DEFLATE):
            continue        # HDF5 stores a chunk as it is if compression makes it larger.
        largest = size + 4      # A checksum has 4 bytes.
        if len(zlib.decompressobj().decompress(data, largest + 1)) > largest:
            raise ValueError('a chunk of %s becomes larger than %d bytes' % (dataset.name, size))
