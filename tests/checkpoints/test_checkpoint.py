"""Checkpoint files: what is in them, that damage and strangers are refused, that nothing is half written."""
import os
import stat

import numpy as np
import pytest

from nasnet_a_mobile import NASNetAMobile, initialize
from src import checkpoint
from src.errors import UserError
from src.framework import Tensor, mindspore
from src.merge import join, plain_values, split
from src.optimizer import FlatRMSProp
from tests.conftest import SMALL

META = {'epoch': 3, 'config': {'num_classes': 4}}


@pytest.fixture
def network():
    return initialize(NASNetAMobile(4, 72, **SMALL), 1)


@pytest.fixture
def saved(network, tmp_path):
    """Path of a checkpoint of `network`."""
    path = str(tmp_path / 'a.ckpt')
    checkpoint.save(path, checkpoint.state(network, FlatRMSProp(network.trainable_params())), META)
    return path


def test_holds_network_and_optimizer_under_readable_names(network, saved):
    loaded = checkpoint.load(saved)
    names = set(plain_values(network))
    trained = set(split({p.name: p.asnumpy() for p in network.trainable_params()}))
    assert set(loaded.arrays) == (names | {'mean_square.' + name for name in trained}
                                  | {'moment.' + name for name in trained})
    assert 'cell_1.block_0.left.depthwise_1.weight' in names
    assert loaded.meta == META
    assert stat.S_IMODE(os.stat(saved).st_mode) == 0o644
    assert os.listdir(os.path.dirname(saved)) == ['a.ckpt']


def test_optimizer_state_comes_back_through_plain_names(network):
    optimizer, other = FlatRMSProp(network.trainable_params()), FlatRMSProp(network.trainable_params())
    optimizer.load_state({name: np.random.rand(*array.shape).astype(np.float32)
                          for name, array in optimizer.state().items()})
    other.load_state(join(checkpoint.state(network, optimizer), other.state()))
    for name, array in optimizer.state().items():
        np.testing.assert_array_equal(other.state()[name], array)


def test_plain_mindspore_reads_it(network, saved):
    parameters = mindspore.load_checkpoint(saved)
    for name, value in plain_values(network).items():
        np.testing.assert_array_equal(parameters[name].asnumpy(), value)


def test_restores_with_and_without_auxiliary_head(network, saved):
    loaded = checkpoint.load(saved)
    for size in (72, None):
        other = initialize(NASNetAMobile(4, size, **SMALL), 2)
        checkpoint.restore(loaded, other)
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
        checkpoint.restore(checkpoint.load(saved), network)
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
        checkpoint.load(path)
    assert path in str(refused.value)


def test_a_lost_record_is_refused(saved, tmp_path):
    parameters = mindspore.load_checkpoint(saved)
    path = str(tmp_path / 'cut.ckpt')
    mindspore.save_checkpoint([{'name': name, 'data': Tensor(parameter.asnumpy())}
                               for name, parameter in parameters.items() if name != 'classifier.bias'], path)
    with pytest.raises(UserError, match='damaged'):
        checkpoint.load(path)


def test_a_failed_write_leaves_the_old_file(network, saved, monkeypatch):
    with open(saved, 'rb') as file:
        before = file.read()

    def full_disk(objects, path):
        with open(path, 'wb') as file:
            file.write(b'half')
        raise RuntimeError('No space left on device')
    monkeypatch.setattr(mindspore, 'save_checkpoint', full_disk)
    with pytest.raises(UserError, match='No space left'):
        checkpoint.save(saved, checkpoint.state(network, FlatRMSProp(network.trainable_params())), META)
    with open(saved, 'rb') as file:
        assert file.read() == before
    assert os.listdir(os.path.dirname(saved)) == ['a.ckpt']


def test_only_the_newest_are_kept_by_number(tmp_path):
    for name in ('1_7', '2_7', '9_7', '10_7', '11_10', '11_9'):
        (tmp_path / ('nasnet-a-mobile-rank0-%s.ckpt' % name)).write_bytes(b'')
    (tmp_path / 'nasnet-a-mobile-rank1-1_7.ckpt').write_bytes(b'')
    (tmp_path / 'mine.ckpt').write_bytes(b'')
    (tmp_path / (checkpoint.UNFINISHED + 'nasnet-a-mobile-rank0-11_8.ckpt')).mkdir()
    checkpoint.prune(str(tmp_path), 0, 2)
    assert sorted(os.listdir(str(tmp_path))) == ['mine.ckpt', 'nasnet-a-mobile-rank0-11_10.ckpt',
                                                 'nasnet-a-mobile-rank0-11_9.ckpt',
                                                 'nasnet-a-mobile-rank1-1_7.ckpt']


def test_names_are_epoch_and_steps():
    assert checkpoint.checkpoint_path('c', 0, 12, 10009) == os.path.join('c', 'nasnet-a-mobile-rank0-12_10009.ckpt')


def test_full_network_with_optimizer_state_is_about_89_mib(tmp_path):
    network = initialize(NASNetAMobile(1000, 224), 1)
    path = str(tmp_path / 'full.ckpt')
    checkpoint.save(path, checkpoint.state(network, FlatRMSProp(network.trainable_params())), META)
    assert 88 * 2 ** 20 < os.path.getsize(path) < 91 * 2 ** 20
