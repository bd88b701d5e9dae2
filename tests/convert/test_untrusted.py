"""Files that were made to take memory, to read other files or to lead out of an archive are refused by a sentence."""
import json
import os
import pickle
import stat
import struct
import subprocess
import sys
import zipfile
import zlib

import cramjam
import h5py
import numpy as np
import pytest

from src.convert.foreign import read_weights
from src.convert.limits import LEAST
from src.convert.tensorflow import MAGIC
from src.errors import UserError
from tests.convert.torch_files import Tensor, dump, write_pickles, write_zip
from tests.helpers import ROOT

MANY = 10 ** 9
NUMBERS = np.ones(3, np.float32)


def raw_pickle(instructions):
    """A pickle of protocol 2 with these instructions, in a file of PyTorch's older format."""
    return (pickle.dumps(1, 2) * 3) + b'\x80\x02' + instructions + b'.' + pickle.dumps([], 2)


def instruction(name, text=b''):
    return getattr(pickle, name) + text


ORDERED_DICT = instruction('GLOBAL', b'collections\nOrderedDict\n')
PAIR = instruction('MARK') + instruction('BINUNICODE', b'\1\0\0\0k') + instruction('NONE') + instruction('TUPLE')
PICKLES = {
    # The C version of the unpickler takes 16 bytes for each place below this one.
    'place of the memo': instruction('EMPTY_DICT') + instruction('LONG_BINPUT', struct.pack('<I', 2 ** 28)),
    'length of bytes': instruction('BINBYTES8', struct.pack('<Q', 2 ** 33)) + b'x',
    'length of a frame': instruction('FRAME', struct.pack('<Q', 2 ** 40)) + b'x',
    'one list in many dicts': (
        instruction('EMPTY_LIST') + instruction('MARK') + PAIR * 10 ** 4 + instruction('APPENDS')
        + instruction('BINPUT', b'\0') + instruction('TUPLE1') + instruction('BINPUT', b'\1')
        + (ORDERED_DICT + instruction('BINPUT', b'\2'))
        + (instruction('BINGET', b'\2') + instruction('BINGET', b'\1') + instruction('REDUCE')) * 10 ** 5),
    'tuples as a key': (instruction('EMPTY_DICT') + instruction('EMPTY_TUPLE') + instruction('TUPLE1') * 10 ** 6
                        + instruction('NONE') + instruction('SETITEM')),
    'too long': instruction('EMPTY_DICT') + (instruction('EMPTY_SET') + instruction('POP')) * 2 * 10 ** 6,
    'unknown instruction': instruction('INST', b'os\nsystem\n')}


def torch_files(folder):
    """Write PyTorch files and yield (name, what the sentence has)."""
    for name, instructions in PICKLES.items():
        (folder / (name + '.pth')).write_bytes(raw_pickle(instructions))
        yield name + '.pth', 'cannot be read as a pytorch file'
    repeated = {'weight': Tensor(b'1234', (MANY,), (0,), 'FloatStorage')}
    write_zip(folder / 'stride 0.pth', repeated)
    assert os.path.getsize(str(folder / 'stride 0.pth')) < 600
    write_pickles(folder / 'stride 0 old.pth', repeated)
    for name in ('stride 0.pth', 'stride 0 old.pth'):
        yield name, 'weight claims %d numbers, and its data does not have them' % MANY
    write_pickles(folder / 'count.pth', {'weight': Tensor(NUMBERS)}, counts=2 ** 40)
    yield 'count.pth', 'a storage in it claims %d bytes, which the rest of the file does not have' % 2 ** 42
    write_pickles(folder / 'negative count.pth', {'weight': Tensor(NUMBERS)}, counts=-1)
    yield 'negative count.pth', 'a storage in it claims -4 bytes'
    for name, tensor in (('shape.pth', ('x', 'x')), ('big shape.pth', ((10 ** 40,), (1,))),
                         ('negative stride.pth', ((2,), (-1,)))):
        write_zip(folder / name, {'weight': Tensor(b'12345678', *tensor, 'FloatStorage')})
        yield name, 'a tensor in it has no proper shape'
    size = 5 * LEAST
    write_zip(folder / 'deflated.pth', {'weight': Tensor(bytes(size), (size // 4,), (1,), 'FloatStorage')},
              zipfile.ZIP_DEFLATED)
    yield 'deflated.pth', 'its contents would take more than 64 MiB of memory, and the file has'
    content, _ = dump({'weight': Tensor(NUMBERS)})
    for name, data, method in (('large pickle.pth', content + bytes(size), zipfile.ZIP_DEFLATED),
                               ('lzma.pth', content, zipfile.ZIP_LZMA)):
        with zipfile.ZipFile(str(folder / name), 'w', method) as archive:
            archive.writestr('archive/data.pkl', data)
        yield name, 'a state dict needs at most' if data is not content else 'by another method than deflate'
    # 4.8 MB that name a network of 10^14 numbers.
    wide = Tensor(np.zeros((4 * 10 ** 5, 3, 1, 1), np.float32))
    write_zip(folder / 'wide.pth', {'cell_0.conv_1x1.conv.weight': wide})
    yield 'wide.pth', 'a network with such shapes has more than'
    header = json.dumps({'weight': {'dtype': 'F32', 'shape': [MANY], 'data_offsets': [0, 4 * MANY]}}).encode()
    (folder / 'a.safetensors').write_bytes(struct.pack('<Q', len(header)) + header + b'1234')
    yield 'a.safetensors', 'cannot be read as a pytorch file'


def archives(folder):
    """Write archives with names that lead elsewhere."""
    for number, name in enumerate(('/etc/passwd', '../data.pkl', 'archive/../../data.pkl', '..\\data.pkl', 'C:\\data')):
        for ending, first in (('pth', 'archive/data.pkl'), ('keras', 'config.json')):
            path = 'elsewhere%d.%s' % (number, ending)
            with zipfile.ZipFile(str(folder / path), 'w') as archive:
                archive.writestr(first, b'')
                archive.writestr(name, b'')
            yield path, 'a name in it leads out of the archive'
    link = zipfile.ZipInfo('archive/data.pkl')
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(str(folder / 'link.pth'), 'w') as archive:
        archive.writestr(link, '/etc/passwd')
    yield 'link.pth', "'archive/data.pkl' in it is a symbolic link"


def keras_2(path):
    """A new file of Keras 2 with one layer: (file, group of the layer)."""
    file = h5py.File(str(path), 'w')
    return file, file.create_group('model_weights/conv')


def stored_elsewhere(folder):
    """Write Keras files that refer to other files; secret.bin and secret.h5 must not be read."""
    NUMBERS.tofile(str(folder / 'secret.bin'))
    with h5py.File(str(folder / 'secret.h5'), 'w') as file:
        file['numbers'] = NUMBERS
        file.create_group('layers/conv/vars')['0'] = NUMBERS
        file['layers/conv/vars'].attrs['name'] = 'conv'
    file, layer = keras_2(folder / 'external storage.h5')
    with file:
        layer.create_dataset('kernel', (3,), 'f4', external=[(str(folder / 'secret.bin'), 0, 12)])
    yield 'external storage.h5', 'the values of /model_weights/conv/kernel are in another file'
    file, layer = keras_2(folder / 'virtual.h5')
    with file:
        virtual = h5py.VirtualLayout((3,), 'f4')
        virtual[:] = h5py.VirtualSource(str(folder / 'secret.h5'), 'numbers', (3,))
        layer.create_virtual_dataset('kernel', virtual)
    yield 'virtual.h5', 'the values of /model_weights/conv/kernel are in another file'
    for name, link in (('external', h5py.ExternalLink(str(folder / 'secret.h5'), '/numbers')),
                       ('soft', h5py.SoftLink('/elsewhere'))):
        file, layer = keras_2(folder / (name + ' link.h5'))
        with file:
            file['elsewhere'] = h5py.ExternalLink(str(folder / 'secret.h5'), '/numbers')
            layer['kernel'] = link
        yield name + ' link.h5', 'kernel in it is a link to another place'
    with h5py.File(str(folder / 'layers elsewhere.weights.h5'), 'w') as file:
        file['layers'] = h5py.ExternalLink(str(folder / 'secret.h5'), '/layers')
    yield 'layers elsewhere.weights.h5', 'layers in it is a link to another place'
    with h5py.File(str(folder / 'group elsewhere.h5'), 'w') as file:
        file['model_weights'] = h5py.ExternalLink(str(folder / 'secret.h5'), '/layers/conv')
    yield 'group elsewhere.h5', 'model_weights in it is a link to another place'


def large_hdf5(folder):
    """Write Keras files that become larger when they are read."""
    size = 5 * LEAST // 4
    for name, options in (('gzip', {'compression': 'gzip', 'chunks': (size // 8,)}), ('empty', {'chunks': (1024,)}),
                          ('contiguous', {})):
        file, layer = keras_2(folder / (name + '.h5'))
        with file:
            dataset = layer.create_dataset('kernel', (size,), 'f4', **options)
            if name == 'gzip':
                dataset[:] = 0
        yield name + '.h5', 'its contents would take more than 64 MiB of memory'
    file, layer = keras_2(folder / 'long chunk.h5')
    with file:
        dataset = layer.create_dataset('kernel', (1024,), 'f4', compression='gzip', chunks=(1024,))
        dataset.id.write_direct_chunk((0,), zlib.compress(bytes(5 * LEAST)))
    yield 'long chunk.h5', 'a chunk of /model_weights/conv/kernel becomes larger than 4096 bytes'
    file, layer = keras_2(folder / 'large chunk.h5')
    with file:
        layer.create_dataset('kernel', (3,), 'f4', maxshape=(None,), compression='gzip', chunks=(MANY,))
    yield 'large chunk.h5', 'the chunks of /model_weights/conv/kernel are larger than the file'
    file, layer = keras_2(folder / 'lzf.h5')
    with file:
        layer.create_dataset('kernel', (1024,), 'f4', compression='lzf')
    yield 'lzf.h5', '/model_weights/conv/kernel is compressed by another method than gzip'
    file, layer = keras_2(folder / 'many paths.h5')
    with file:
        for _ in range(14):
            below = layer.create_group('0')
            for number in range(1, 10):
                layer[str(number)] = below
            layer = below
        layer['kernel'] = NUMBERS
    yield 'many paths.h5', 'its contents would take more than 64 MiB of memory'
    path = folder / 'long name.weights.h5'
    with h5py.File(str(path), 'w') as file:
        file.create_group('layers/conv/vars')['0'] = NUMBERS
        file['layers/conv/vars'].attrs['name'] = 'abcdefghijk'
    data = path.read_bytes()
    reference = data.index(struct.pack('<IQ', 11, data.index(b'GCOL')))
    path.write_bytes(data[:reference] + struct.pack('<I', 2 ** 31 - 1) + data[reference + 4:])
    yield path.name, 'cannot be read as a keras file'
    with zipfile.ZipFile(str(folder / 'deflated.keras'), 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('config.json', b'{}')
        archive.writestr('model.weights.h5', bytes(5 * LEAST))
    yield 'deflated.keras', 'its contents would take more than 64 MiB of memory'


def number(value):
    """A number of variable length, as in protocol buffers."""
    data = b''
    while value > 127:
        data, value = data + bytes([value & 127 | 128]), value >> 7
    return data + bytes([value])


def part(field, value):
    """A field of a protocol buffer: an int or bytes."""
    if isinstance(value, int):
        return number(field << 3) + number(value)
    return number(field << 3 | 2) + number(len(value)) + value


def block(entries):
    """A block of a table, not compressed; entries are (length shared with the key before, rest of the key, value)."""
    data = b''.join(number(shared) + number(len(key)) + number(len(value)) + key + value
                    for shared, key, value in entries)
    return data + struct.pack('<II', 0, 1)


def table(data, compressed=0, repeat=1):
    """A table with one block, which the index names `repeat` times."""
    index = block([(0, b'%08d' % name, number(0) + number(len(data))) for name in range(repeat)])
    handle = number(0) + number(0) + number(len(data) + 5) + number(len(index))
    return data + bytes([compressed]) + bytes(4) + index + bytes(5) + handle.ljust(40, b'\0') + MAGIC


def tensorflow_files(folder):
    """Write checkpoints of TensorFlow that become larger when they are read."""
    files = {'snappy length': (number(2 ** 31) + b'\0' * 100, 1),
             'snappy': (bytes(cramjam.snappy.compress_raw(block([(0, b'k', bytes(5 * LEAST))]))), 1),
             'shared keys': (block([(0, b'k' * 10 ** 6, b'')] + [(10 ** 6, b'%05d' % key, b'')
                                                                   for key in range(10 ** 4)]), 0)}
    for name, (data, compressed) in files.items():
        (folder / name).write_bytes(table(data, compressed))
        yield name, 'claims more bytes than snappy' if name == 'snappy length' else 'MiB of memory, and the file has'
    (folder / 'one block').write_bytes(table(block([(0, b'key', bytes(10 ** 5))]), repeat=10 ** 4))
    yield 'one block', 'take more than 64 MiB of memory'
    (folder / 'shards.index').write_bytes(table(block([(0, b'', part(1, 2 ** 60))])))
    yield 'shards', 'shards.data-00000-of-%d is missing' % 2 ** 60
    (folder / 'overlap.data-00000-of-00001').write_bytes(bytes(4 * 10 ** 5))
    entry = part(1, 1) + part(2, part(2, part(1, 10 ** 5))) + part(5, 4 * 10 ** 5)
    (folder / 'overlap.index').write_bytes(table(block([(0, b'', part(1, 1))] + [
        (0, b'%05d' % name, entry) for name in range(1000)])))
    yield 'overlap', 'take more than 64 MiB of memory'
    tensor = part(1, MANY) + part(2, b'Float32') + part(3, bytes(400))
    (folder / 'shape.ckpt').write_bytes(part(1, part(1, b'weight') + part(2, tensor)))
    yield 'shape.ckpt', 'weight has 100 numbers, and its shape needs another number of them'
    (folder / 'records.ckpt').write_bytes(part(1, b'') * 2 * 10 ** 6)
    yield 'records.ckpt', 'a record has no name'


CONVERT = '''
import json, resource, sys
from tools.convert_weights import convert
for path in json.load(sys.stdin):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        said = convert(path, 'auto', sys.argv[1])
    except SystemExit as error:
        said = str(error)
    print(json.dumps([path, said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024]), flush=True)
'''


@pytest.mark.slow
@pytest.mark.parametrize('files', [torch_files, archives, stored_elsewhere, large_hdf5, tensorflow_files])
def test_refused_without_memory(tmp_path, files):
    expected = list(files(tmp_path))
    paths = [str(tmp_path / name) for name, _ in expected]
    process = subprocess.run([sys.executable, '-c', CONVERT, str(tmp_path / 'converted.ckpt')], cwd=ROOT, timeout=600,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, input=json.dumps(paths),
                             universal_newlines=True)
    assert process.returncode == 0, process.stderr
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    assert [path for path, _, _ in lines] == paths
    for (name, sentence), (path, said, megabytes) in zip(expected, lines):
        assert said and said.startswith('error: %s' % path) or name == 'shards', said
        assert sentence in said and '\n' not in said, (name, said)
        assert megabytes <= LEAST + 3 * os.path.getsize(path) >> 20 if name not in ('shards', 'overlap') else 64, name
    assert not (tmp_path / 'converted.ckpt').exists()


def rewritten(path, target, **options):
    """Copy an HDF5 file; its datasets are written with these options."""
    with h5py.File(str(path), 'r') as source, h5py.File(str(target), 'w') as copy:
        def write(name, item):
            if isinstance(item, h5py.Dataset):
                copy.create_dataset(name, data=item[()], **(options if item.size > 1 else {}))
            else:
                copy.require_group(name).attrs.update(item.attrs)
        source.visititems(write)


@pytest.mark.parametrize('options', [{'compression': 'gzip'}, {'chunks': True, 'compression': 'gzip', 'shuffle': True},
                                     {'chunks': True}, {'compression': 'gzip', 'fletcher32': True}])
def test_compressed_hdf5_is_read(tmp_path, options):
    values = np.random.RandomState(0).normal(0, 1, (7, 5, 30, 10)).astype(np.float32)
    file, layer = keras_2(tmp_path / 'plain.h5')
    with file:
        layer['conv/kernel:0'] = values
        layer['conv/zeros:0'] = np.zeros((300, 300), np.float32)
        layer['conv/step:0'] = np.arange(5)
    rewritten(tmp_path / 'plain.h5', tmp_path / 'other.h5', **options)
    _, arrays = read_weights(str(tmp_path / 'other.h5'))
    assert sorted(arrays) == ['conv/kernel', 'conv/zeros'] and not arrays['conv/zeros'].any()
    np.testing.assert_array_equal(arrays['conv/kernel'], values)


def test_a_deflated_archive_is_read(tmp_path):
    values = np.random.RandomState(0).normal(0, 1, (30, 7)).astype(np.float32)
    write_zip(tmp_path / 'a.pth', {'weight': Tensor(values), 'turned': Tensor(values.tobytes(), (7, 30), (1, 7),
                                                                             'FloatStorage')}, zipfile.ZIP_DEFLATED)
    _, arrays = read_weights(str(tmp_path / 'a.pth'))
    np.testing.assert_array_equal(arrays['weight'], values)
    np.testing.assert_array_equal(arrays['turned'], values.T)


def test_the_secret_is_not_in_the_sentence(tmp_path):
    for name, _ in stored_elsewhere(tmp_path):
        with pytest.raises(UserError) as refused:
            read_weights(str(tmp_path / name))
        assert str(tmp_path / 'secret') not in str(refused.value)
