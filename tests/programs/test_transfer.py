"""Moving averages, the best checkpoint, starting from given weights, with the small network."""
import csv
import os

import numpy as np
import pytest

from nasnet_a_mobile import initialize
from src import checkpoint
from src.build import build_network, build_train_step
from src.config import presets
from src.ema import average_decay
from src.errors import UserError
from src.framework import Tensor
from src.merge import plain_values
from tests.conftest import SMALL_FLAGS, run
from tests.test_recipe import random_batch, small_config


def step_of(config):
    """(network, training step, function that takes step number `n`)"""
    network = initialize(build_network(config, training=True), 1)
    step = build_train_step(network, config)
    step.set_train(True)

    def take(n):
        step(*random_batch(config, n), Tensor(np.float32(0.02)), Tensor(np.float32(average_decay(n, config.ema_decay))))
    return network, step, take


def test_moving_averages_are_tensorflows():
    network, step, take = step_of(small_config(ema_decay=0.3))
    expected = {p.name: p.asnumpy().astype(np.float64) for p in network.get_parameters()}
    for n in range(6):
        take(n)
        decay = min(0.3, (1 + n) / (10 + n))        # tf.train.ExponentialMovingAverage(0.3, num_updates=n)
        for p in network.get_parameters():
            expected[p.name] += (1 - decay) * (p.asnumpy() - expected[p.name])
    state = step.average.state()
    assert set(state) == {'ema.' + name for name in expected}
    for name, value in expected.items():
        np.testing.assert_allclose(state['ema.' + name], value, rtol=1e-5, atol=1e-6)
    own = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    with step.average.applied():
        for p in network.get_parameters():
            np.testing.assert_array_equal(p.asnumpy(), state['ema.' + p.name])
    for p in network.get_parameters():
        np.testing.assert_array_equal(p.asnumpy(), own[p.name])


def test_a_frozen_backbone_stays_as_it_is():
    network, _, take = step_of(small_config(freeze='backbone'))
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    take(0)
    moved = {p.name.split('.')[0] for p in network.get_parameters() if not np.array_equal(p.asnumpy(), before[p.name])}
    assert moved == {'classifier', 'auxiliary_head'}


@pytest.fixture(scope='module')
def averaged(image_folder, tmp_path_factory):
    """(folder, process) of a run of three epochs with moving averages and validation."""
    folder = tmp_path_factory.mktemp('averaged')
    return folder, run('train.py', '--dataset_path', image_folder / 'train', '--eval_dataset_path',
                       image_folder / 'val', '--epoch_size', 3, '--ema_decay', 0.5, '--ckpt_path', folder, *SMALL_FLAGS)


def validation(folder):
    """Validation top-1 of each epoch."""
    with open(str(folder / 'metrics.csv')) as file:
        return [float(row['top1']) for row in csv.DictReader(file)]


def test_the_best_checkpoint_is_kept(averaged):
    folder, process = averaged
    assert process.returncode == 0, process.stderr
    best = 1 + int(np.argmax(validation(folder)))
    assert (folder / checkpoint.BEST).read_bytes() == (folder / ('nasnet-a-mobile-rank0-%d_4.ckpt' % best)).read_bytes()


def test_averages_are_evaluated_and_exported_by_choice(averaged, image_folder, tmp_path):
    folder, last = averaged[0], averaged[0] / 'nasnet-a-mobile-rank0-3_4.ckpt'
    loaded = checkpoint.load(str(last))
    network = build_network(small_config(), training=False)
    for weights, prefix in (('raw', ''), ('ema', 'ema.'), (None, 'ema.')):
        checkpoint.restore(loaded, network, weights)
        for name, value in plain_values(network).items():
            np.testing.assert_array_equal(value, loaded.arrays[prefix + name])
    assert not np.array_equal(loaded.arrays['classifier.weight'], loaded.arrays['ema.classifier.weight'])
    process = run('eval.py', '--platform', 'CPU', '--dataset_path', image_folder / 'val', '--checkpoint', last)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith('acc=%.2f%%(TOP1)' % (100 * validation(folder)[-1]))
    process = run('export.py', '--platform', 'CPU', '--ckpt_file', last, '--weights', 'raw', '--file_format', 'ONNX',
                  '--file_name', tmp_path / 'raw')
    assert process.returncode == 0, process.stderr
    del loaded.arrays['ema.classifier.weight']
    with pytest.raises(UserError, match='lacks classifier.weight'):
        checkpoint.restore(loaded, network, 'ema')
    plain = loaded._replace(arrays={name: a for name, a in loaded.arrays.items() if not name.startswith('ema.')})
    with pytest.raises(UserError, match='has no moving averages: use --weights raw'):
        checkpoint.restore(plain, network, 'ema')


def test_a_run_with_averages_resumes_to_the_bit(averaged, image_folder, tmp_path):
    command = ('train.py', '--dataset_path', image_folder / 'train', '--eval_dataset_path', image_folder / 'val',
               '--ema_decay', 0.5, '--ckpt_path', tmp_path) + tuple(SMALL_FLAGS)
    for flags in (('--epoch_size', 1), ('--epoch_size', 3, '--resume', 'auto')):
        process = run(*command + flags)
        assert process.returncode == 0, process.stderr
    whole, resumed = (checkpoint.load(str(folder / 'nasnet-a-mobile-rank0-3_4.ckpt')).arrays
                      for folder in (averaged[0], tmp_path))
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not np.array_equal(whole[name], resumed[name])] == []
    assert (tmp_path / checkpoint.BEST).exists() and validation(tmp_path) == validation(averaged[0])


def test_pretrained_weights_come_in_and_new_classifiers_start_anew(averaged, image_folder, tmp_path):
    start = averaged[0] / 'nasnet-a-mobile-rank0-3_4.ckpt'
    process = run('train.py', '--platform', 'CPU', '--dataset_path', image_folder / 'train', '--pretrained', start,
                  '--preset', 'finetune', '--num_classes', 5, '--freeze', 'backbone', '--epoch_size', 1, '--batch_size',
                  8, '--ckpt_path', tmp_path)
    assert process.returncode == 0, process.stderr
    anew = ('auxiliary_head.classifier.bias, auxiliary_head.classifier.weight, classifier.bias, classifier.weight')
    assert 'starting from %s; anew: %s\n' % (start, anew) in process.stdout
    before = checkpoint.load(str(start)).arrays
    after = checkpoint.load(str(tmp_path / 'nasnet-a-mobile-rank0-1_4.ckpt'))
    assert after.arrays['classifier.weight'].shape == (5, 96)
    assert after.meta['config']['cells_per_stage'] == 1         # the network's shape is the checkpoint's
    backbone = [name for name in before if name.startswith('ema.') and 'classifier' not in name and 'aux' not in name]
    assert len(backbone) > 300
    for name in backbone:
        np.testing.assert_array_equal(after.arrays[name[len('ema.'):]], before[name])
    assert os.path.exists(str(tmp_path / 'classes.txt'))


def test_another_backbone_is_refused(averaged, image_folder, tmp_path):
    process = run('train.py', '--platform', 'CPU', '--dataset_path', image_folder / 'train', '--pretrained',
                  averaged[0] / 'nasnet-a-mobile-rank0-3_4.ckpt', '--num_classes', 4, '--batch_size', 8,
                  '--cells_per_stage', 2, '--ckpt_path', tmp_path / 'new')
    assert process.returncode == 1 and 'does not fit' in process.stderr and process.stderr.count('\n') == 1
    assert not (tmp_path / 'new').exists()


def test_the_finetune_preset_is_gentle():
    preset = presets['finetune']
    assert preset['lr_init'] < 0.04 and preset['bn_decay'] < 0.9997 and preset['epoch_size'] < 100
