"""Checkpoint files: what is in them, what is refused, and that no file is left half written."""
import errno
import os
import stat

import numpy as np
import pytest

from nasnet_a_mobile import NASNetAMobile
from src.checkpoints import checkpoint
from src.checkpoints.checkpoint import arrays_of, load, network_config, restore, save
from src.errors import UserError
from src.files import SaveError
from src.framework import Tensor, mindspore
from src.network.initialize import initialize
from src.network.merge import join, plain_values, split
from src.training.optimizer import FlatRMSProp
from tests.helpers import SMALL

META = {'epoch': 3, 'config': {'num_classes': 4}}


@pytest.fixture
def network():
    return initialize(NASNetAMobile(4, 72, **SMALL), 1)


@pytest.fixture
def saved(network, tmp_path):
    """Path of a checkpoint of `network`."""
    path = str(tmp_path / 'a.ckpt')
    save(path, arrays_of(network, FlatRMSProp(network.trainable_params())), META)
    return path


def test_holds_network_and_optimizer_under_readable_names(network, saved):
    loaded = load(saved)
    names = set(plain_values(network))
    trained = set(split({p.name: p.asnumpy() for p in network.trainable_params()}))
    assert set(loaded.arrays) == (names | {'mean_square.' + name for name in trained}
                                  | {'moment.' + name for name in trained})
    assert 'cell_1.block_0.left.depthwise_1.weight' in names
    assert loaded.meta == META
    assert os.listdir(os.path.dirname(saved)) == ['a.ckpt']


@pytest.mark.parametrize('umask,mode', [(0o077, 0o600), (0o002, 0o664), (0o022, 0o644)])
def test_the_umask_says_who_may_read_it(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save(str(tmp_path / 'a.ckpt'), {'a': np.zeros(3, np.float32)}, META)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(str(tmp_path / 'a.ckpt')).st_mode) == mode


def test_optimizer_state_comes_back_through_plain_names(network):
    optimizer, other = FlatRMSProp(network.trainable_params()), FlatRMSProp(network.trainable_params())
    optimizer.load_state({name: np.random.rand(*array.shape).astype(np.float32)
                          for name, array in optimizer.state().items()})
    other.load_state(join(arrays_of(network, optimizer), other.state()))
    for name, array in optimizer.state().items():
        np.testing.assert_array_equal(other.state()[name], array)


def test_plain_mindspore_reads_it(network, saved):
    parameters = mindspore.load_checkpoint(saved)
    for name, value in plain_values(network).items():
        np.testing.assert_array_equal(parameters[name].asnumpy(), value)


def test_restores_with_and_without_auxiliary_head(network, saved):
    loaded = load(saved)
    for size in (72, None):
        other = initialize(NASNetAMobile(4, size, **SMALL), 2)
        restore(loaded, other)
        for name, value in plain_values(other).items():
            np.testing.assert_array_equal(value, loaded.arrays[name])


@pytest.mark.parametrize('other,sentence', [
    (dict(SMALL, num_classes=5), 'set --num_classes 4'),
    (dict(SMALL, num_classes=4, cells_per_stage=2), 'lacks cell_'),
    (dict(SMALL, num_classes=4, penultimate_filters=192), 'is a checkpoint of another network')])
def test_another_network_is_refused_by_name(saved, other, sentence):
    network = NASNetAMobile(**other)
    before = [p.asnumpy().copy() for p in network.get_parameters()]
    with pytest.raises(UserError) as refused:
        restore(load(saved), network)
    assert sentence in str(refused.value) and saved in str(refused.value)
    for parameter, array in zip(network.get_parameters(), before):
        np.testing.assert_array_equal(parameter.asnumpy(), array)


def damage(kind, data):
    """The bytes of a damaged checkpoint."""
    if kind == 'empty':
        return b''
    if kind == 'text':
        return b'not a checkpoint\n' * 100
    if kind == 'truncated':
        return data[:len(data) // 2]
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    return bytes(flipped)


@pytest.mark.parametrize('kind', ['empty', 'text', 'truncated', 'flipped bit'])
def test_damage_is_refused(saved, kind, tmp_path):
    with open(saved, 'rb') as file:
        data = file.read()
    path = str(tmp_path / 'damaged.ckpt')
    with open(path, 'wb') as file:
        file.write(damage(kind, data))
    with pytest.raises(UserError, match='damaged') as refused:
        load(path)
    assert path in str(refused.value)


def test_a_lost_record_is_refused(saved, tmp_path):
    parameters = mindspore.load_checkpoint(saved)
    path = str(tmp_path / 'cut.ckpt')
    mindspore.save_checkpoint([{'name': name, 'data': Tensor(parameter.asnumpy())}
                               for name, parameter in parameters.items() if name != 'classifier.bias'], path)
    with pytest.raises(UserError, match='damaged'):
        load(path)


def test_a_failed_write_leaves_the_old_file(network, saved, monkeypatch):
    with open(saved, 'rb') as file:
        before = file.read()

    def full_disk(path, arrays):
        with open(path, 'wb') as file:
            file.write(b'half')
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(checkpoint, 'write_records', full_disk)
    with pytest.raises(SaveError, match=r'a\.ckpt cannot be written \(No space left on device\): make room or choose'):
        save(saved, arrays_of(network, FlatRMSProp(network.trainable_params())), META)
    with open(saved, 'rb') as file:
        assert file.read() == before
    assert os.listdir(os.path.dirname(saved)) == ['a.ckpt']


def test_values_that_are_not_finite_are_not_written(tmp_path):
    path = str(tmp_path / 'a.ckpt')
    with pytest.raises(UserError, match=r'b\.weight is not finite any more: training has diverged, \S+a\.ckpt is not'):
        save(path, {'a.weight': np.zeros(3, np.float32), 'b.weight': np.array([1, np.nan], np.float32)}, META)
    assert os.listdir(str(tmp_path)) == []


def test_values_that_are_not_finite_are_not_taken(network, tmp_path):
    path = str(tmp_path / 'foreign.ckpt')
    arrays = plain_values(network)
    arrays['classifier.weight'][0, 0] = np.inf
    mindspore.save_checkpoint([{'name': name, 'data': Tensor(array)} for name, array in arrays.items()], path)
    with pytest.raises(UserError, match='foreign.ckpt has values that are not finite in classifier.weight: it is of a'):
        restore(load(path), network)


def test_the_network_of_a_checkpoint_is_known(saved, tmp_path):
    assert network_config(load(saved)) == {'num_classes': 4}
    path = str(tmp_path / 'foreign.ckpt')
    mindspore.save_checkpoint([{'name': 'conv.weight', 'data': Tensor([1.0])}], path)
    foreign = load(path)
    assert network_config(foreign) == foreign.meta == {} and foreign.arrays['conv.weight'].tolist() == [1]


def test_full_network_with_optimizer_state_is_about_89_mib(tmp_path):
    network = initialize(NASNetAMobile(1000, 224), 1)
    path = str(tmp_path / 'full.ckpt')
    save(path, arrays_of(network, FlatRMSProp(network.trainable_params())), META)
    assert 88 * 2 ** 20 < os.path.getsize(path) < 91 * 2 ** 20
