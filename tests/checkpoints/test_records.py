"""Reading and writing .ckpt files without MindSpore: the same arrays and bytes, and no trust in what a file says."""
import resource

import numpy as np
import pytest

from src.checkpoints.checkpoint import load, network_config, save
from src.checkpoints.records import fields, read_records, varint, write_records
from src.errors import UserError
from src.framework import Tensor, mindspore

VALUES = {'scalar': np.float32(3), 'one': np.int32([1]), 'flags': np.array([True, False]), 'half': np.float16([[1, 2]]),
          'bytes': np.arange(5, dtype=np.uint8), 'double': np.float64([0.1, 2]), 'long': np.int64([[-1], [2 ** 40]]),
          'weight': np.random.RandomState(0).normal(0, 1, (3, 4, 5)).astype(np.float32)}


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / 'a.ckpt')
    mindspore.save_checkpoint([{'name': name, 'data': Tensor(value)} for name, value in VALUES.items()], path)
    return path


def test_the_arrays_are_those_that_were_saved(path):
    arrays = read_records(path)
    assert list(arrays) == list(VALUES)
    for name, value in VALUES.items():
        assert arrays[name].dtype == value.dtype and arrays[name].shape == value.shape
        np.testing.assert_array_equal(arrays[name], value)


def test_what_is_written_are_the_bytes_of_mindspore(path, tmp_path):
    own, plain = str(tmp_path / 'own.ckpt'), {name: value for name, value in VALUES.items() if name != 'scalar'}
    mindspore.save_checkpoint([{'name': name, 'data': Tensor(value)} for name, value in plain.items()], path)
    write_records(own, plain)
    with open(own, 'rb') as one, open(path, 'rb') as other:
        assert one.read() == other.read()
    write_records(own, VALUES)          # the versions of MindSpore write a scalar in two ways, and read both
    assert mindspore.load_checkpoint(own)['scalar'].asnumpy() == read_records(own)['scalar'] == 3
    # Arrays that are not as MindSpore keeps them: of other strides, of the other byte order, without numbers.
    odd = {'strided': np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2], 'large end': np.arange(3, dtype='>f4'),
           'empty': np.zeros((0, 3), np.float32)}
    write_records(own, odd)
    for name, array in read_records(own).items():
        np.testing.assert_array_equal(array, odd[name])


def test_text_and_a_checksum_at_the_end_are_left_out(path):
    mindspore.save_checkpoint([{'name': 'weight', 'data': Tensor(VALUES['weight'])}], path, append_dict={'lr': 0.5})
    with open(path, 'ab') as file:
        file.write(b'crc_num' + bytes(10))
    arrays = read_records(path)
    assert sorted(arrays) == ['lr', 'weight'] and arrays['lr'] == np.float32(0.5)


def record(name, dimensions, content, kind=b'Float32'):
    """A record as MindSpore writes it, for texts of less than 128 bytes."""
    def part(field, text):
        return bytes([field << 3 | 2, len(text)]) + text
    shape = b''.join(b'\x08' + size for size in dimensions)
    return part(1, part(1, name) + part(2, shape + part(2, kind) + part(3, content)))


BILLION = b'\x80\x94\xeb\xdc\x03'      # 10^9 as a number of variable length
DAMAGED = {
    'large shape': record(b'a', [BILLION], bytes(40)),
    'small shape': record(b'a', [b'\x02'], bytes(40)),
    'many dimensions': record(b'a', [b'\x02'] * 40, b'1234'),
    'negative shape': record(b'a', [b'\xff' * 9 + b'\x01'], b'1234'),
    'endless number': record(b'a', [b'\xff' * 20], b'1234'),
    'half a value': record(b'a', [b'\x01'], b'123'),
    'a name again': record(b'a', [], b'1234') + record(b'b', [], b'1234') + record(b'a', [], b'1234'),
    'empty records': b'\x0a\x00' * 10 ** 6,
    'a number as a record': b'\x08\xff\xff\xff\x7f',
    'a long record': b'\x0a\xff\xff\xff\x7f',
    'a number as a name': b'\x0a\x06\x08\xff\xff\xff\xff\x0f',
    'an unknown kind of field': b'\x0b\x00',
    'nothing': b''}


@pytest.mark.parametrize('damage', sorted(DAMAGED))
def test_what_a_file_says_about_itself_is_not_believed(tmp_path, damage):
    path = str(tmp_path / 'a.ckpt')
    with open(path, 'wb') as file:
        file.write(DAMAGED[damage])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match='is not a MindSpore checkpoint or is damaged') as refused:
        load(path)
    assert '\n' not in str(refused.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10      # KiB


def test_records_of_one_name_are_one_tensor(tmp_path):
    path = str(tmp_path / 'a.ckpt')
    with open(path, 'wb') as file:
        for part in ([1, 2], [3]):
            file.write(record(b'a', [b'\x03'], np.float32(part).tobytes()))
    assert read_records(path)['a'].tolist() == [1, 2, 3]


@pytest.mark.parametrize('key,value', [('penultimate_filters', 960000), ('cells_per_stage', 10 ** 6),
                                       ('num_classes', 10 ** 9)])
def test_a_small_file_cannot_name_a_large_network(tmp_path, key, value):
    path = str(tmp_path / 'a.ckpt')
    save(path, {'classifier.bias': np.zeros(3, np.float32)}, {'config': {key: value}})
    with pytest.raises(UserError, match='is damaged: its configuration belongs to a network of more than'):
        network_config(load(path))


def test_numbers_and_fields():
    assert varint(b'\xac\x02', 0) == (300, 2)
    assert [(number, value if isinstance(value, int) else bytes(value)) for number, value in
            fields(b'\x08\x96\x01\x12\x01a\x19' + bytes(8) + b'\x25abcd')] == [(1, 150), (2, b'a'), (3, bytes(8)),
                                                                               (4, b'abcd')]
