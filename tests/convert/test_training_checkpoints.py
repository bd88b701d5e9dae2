"""State dicts of PyTorch inside training checkpoints, under the names that wrappers of a network make."""
import argparse
import collections
import lzma
import os

import numpy as np
import pytest

from src.convert.foreign import read_weights
from src.convert.names import from_foreign
from src.errors import UserError
from tests.convert.torch_files import Tensor, write_pickles, write_zip
from tests.helpers import ROOT


@pytest.fixture(scope='module')
def port(tmp_path_factory):
    """{name: array} of a file of the port."""
    path = tmp_path_factory.mktemp('port') / 'port.pth'
    with lzma.open(os.path.join(ROOT, 'tests', 'golden', 'sources', 'port_zip.pth.xz')) as file:
        path.write_bytes(file.read())
    return read_weights(str(path))[1]


def state_dict(arrays, prefix='', shift=0):
    """What model.state_dict() returns, with `shift` added to all values."""
    return collections.OrderedDict((prefix + name, Tensor(array + np.float32(shift))) for name, array in arrays.items())


OPTIMIZER = {'state': {0: {'step': Tensor(np.zeros(1, np.float32)), 'square_avg': Tensor(np.zeros(9, np.float32))}},
             'param_groups': [{'lr': np.float64(0.1), 'params': [0]}]}
# What stands around the state dict, and before its names.
WRAPPED = {'plain': (lambda state: state, ''),
           'state_dict': (lambda state: {'epoch': 3, 'state_dict': state, 'optimizer': OPTIMIZER}, 'module.'),
           'model': (lambda state: {'model': state, 'args': argparse.Namespace(lr=0.1, hidden={1, 2})}, ''),
           'model_state_dict': (lambda state: {'model_state_dict': state, 'loss': np.float64(3)}, '_orig_mod.'),
           'net': (lambda state: {'net': state, 'best': np.array([1.5])}, '_orig_mod.module.'),
           'nested': (lambda state: {'trainer': {'model': state}}, 'backbone.'),
           'lightning': (lambda state: {'state_dict': state, 'pytorch-lightning_version': '2.0'}, 'model.')}


@pytest.mark.parametrize('form', sorted(WRAPPED))
@pytest.mark.parametrize('write', [write_zip, write_pickles])
def test_a_state_dict_is_found(port, tmp_path, form, write):
    wrap, prefix = WRAPPED[form]
    path = tmp_path / 'a.pth'
    write(path, wrap(state_dict(port, prefix)))
    kind, arrays = read_weights(str(path))
    assert kind == 'pytorch' and set(arrays) == {prefix + name for name in port}
    found, expected = from_foreign(kind, arrays), from_foreign(kind, port)
    assert found[1:] == expected[1:]
    for name, array in expected[0].items():
        np.testing.assert_array_equal(found[0][name], array)


def test_newer_protocols_of_pickle_are_read(port, tmp_path):
    write_zip(tmp_path / 'a.pth', WRAPPED['model'][0](state_dict(port)), protocol=4)
    assert set(read_weights(str(tmp_path / 'a.pth'))[1]) == set(port)


def test_moving_averages_are_preferred_and_a_key_chooses(port, tmp_path):
    path = str(tmp_path / 'a.pth')
    write_zip(path, {'state_dict': state_dict(port, 'module.', shift=1), 'state_dict_ema': state_dict(port)})
    plain = from_foreign('pytorch', port)[0]
    for key, shift in ((None, 0), ('state_dict_ema', 0), ('state_dict', 1)):
        found, _, remarks = from_foreign(*read_weights(path, key=key))
        remark = '%d exponential moving averages taken instead of the raw values' % len(port)
        assert (remark in remarks) == (key is None)
        for name, array in plain.items():
            np.testing.assert_array_equal(found[name], array + np.float32(shift))


def test_bfloat16_has_the_same_values_in_float32(tmp_path):
    values = np.array([1, -2.5, 3e38, 0], np.float32)
    data = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    write_zip(tmp_path / 'a.pth', {'weight': Tensor(data, (2, 2), (2, 1), 'BFloat16Storage')})
    _, arrays = read_weights(str(tmp_path / 'a.pth'))
    np.testing.assert_array_equal(arrays['weight'], (values.view(np.uint32) >> 16 << 16).view(np.float32).reshape(2, 2))
    assert arrays['weight'].dtype == np.float32


@pytest.mark.parametrize('value', [np.nan, -np.inf, 1e300])
def test_weights_that_are_not_finite_are_named(port, value):
    arrays = dict(port)
    name = sorted(name for name in arrays if name.endswith('running_var'))[0]
    arrays[name] = np.full(arrays[name].shape, value, np.float64)
    with pytest.raises(UserError, match='^error: 1 tensors have values that are not finite in float32, the first is '
                                        '%s: take the weights of an earlier epoch, or check the download$' % name):
        from_foreign('pytorch', arrays)


one = {'weight': Tensor(np.ones(3, np.float32))}
UNCLEAR = [({'epoch': 1, 'args': 'x'}, None, 'it has no state dict; the keys there are: epoch, args'),
           ({'args': argparse.Namespace()}, None, 'refers to argparse.Namespace, which is no part of a state dict'),
           ([1], None, r'it has no state dict\)'),
           ({'netG': one, 'netD': dict(one)}, None, 'it has several state dicts, name one with --key: netD, netG'),
           ({'netG': one, 'netD': dict(one)}, 'net', 'it has no tensors under the key net, but under: netD, netG'),
           ({'weight': Tensor(b'1234', (1,), (1,), 'ComplexFloatStorage')}, None, 'of a type that is not known here')]


@pytest.mark.parametrize('content,key,sentence', UNCLEAR)
def test_what_is_there_is_said(tmp_path, content, key, sentence):
    path = str(tmp_path / 'a.pth')
    write_zip(path, content)
    with pytest.raises(UserError, match=sentence):
        read_weights(path, key=key)


def test_other_names_are_shown(tmp_path):
    write_zip(tmp_path / 'a.pth', {'model': one})
    with pytest.raises(UserError, match=r'missing: cell_0.conv_1x1.conv.weight; the first names there are: weight$'):
        from_foreign(*read_weights(str(tmp_path / 'a.pth')))


def test_a_key_is_for_pytorch(tmp_path):
    (tmp_path / 'a.safetensors').write_bytes(b'{}')
    with pytest.raises(UserError, match='is no training checkpoint of PyTorch: leave --key out'):
        read_weights(str(tmp_path / 'a.safetensors'), key='model')
