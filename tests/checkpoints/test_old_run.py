"""A checkpoint that an older version of this suite wrote still loads, gives the same logits, and resumes.

tests/golden/old_run holds it. That version trained two steps with MindSpore 1.10 and the flags below, on the images
that `make_noise_images` makes. The expected values are from that version too.
"""
import csv
import lzma
import os

import numpy as np
import pytest

from src.checkpoints.checkpoint import load, network_config, restore
from src.cli import make_config
from src.config import without_auxiliary_head
from src.framework import Tensor
from src.network.build import build_network
from tests.helpers import ROOT, graph_mode_is_slow, make_noise_images, run

NAME = 'nasnet-a-mobile-rank0-1_2.ckpt'
FLAGS = ('--platform CPU --penultimate_filters 96 --cells_per_stage 1 --num_classes 4 --image_size 40 --aux_factor 0 '
         '--batch_size 8 --bn_decay 0.9 --log_steps 2 --ema_decay 0.9 --save_checkpoint_steps 2').split()
LOGITS = {
    'raw': [[8.4335375, 3.2167008, -0.7718932, 8.6380396], [5.8927975, 2.6762977, -0.7687497, 8.4839354]],
    'ema': [[9.0652456, 4.3217769, -0.4418902, 9.6019697], [6.5001984, 3.596334, -0.5626364, 9.3846569]]}


@pytest.fixture(scope='module')
def old_checkpoint(tmp_path_factory):
    """The checkpoint, unpacked."""
    path = tmp_path_factory.mktemp('old run') / NAME
    with lzma.open(os.path.join(ROOT, 'tests', 'golden', 'old_run', NAME + '.xz')) as file:
        path.write_bytes(file.read())
    return str(path)


@pytest.fixture(scope='module')
def old_images(tmp_path_factory):
    """The images of that run."""
    folder = tmp_path_factory.mktemp('old images')
    make_noise_images(folder, 7, 'png')
    return folder


def test_it_loads_with_its_position(old_checkpoint):
    loaded = load(old_checkpoint)
    assert network_config(loaded) == {'num_classes': 4, 'image_size': 40, 'penultimate_filters': 96,
                                      'cells_per_stage': 1}
    assert loaded.meta['epoch'] == 0 and loaded.meta['images'] == 32 and loaded.meta['sums'][0] == 2
    assert loaded.arrays['ema.cell_0.block_0.left.depthwise_1.weight'].shape == (4, 1, 5, 5)
    assert loaded.arrays['moment.classifier.weight'].shape == (4, 96)


@graph_mode_is_slow
@pytest.mark.parametrize('weights', sorted(LOGITS))
def test_its_network_gives_the_same_logits(mode, old_checkpoint, weights):
    loaded = load(old_checkpoint)
    network = build_network(make_config(without_auxiliary_head, network_config(loaded)), training=False)
    restore(loaded, network, weights)
    network.set_train(False)
    images = np.random.RandomState(8).uniform(-1, 1, (2, 3, 40, 40)).astype(np.float32)
    assert np.abs(network(Tensor(images)).asnumpy() - LOGITS[weights]).max() <= 1e-5


@pytest.mark.slow
def test_eval_reads_it(old_checkpoint, old_images):
    process = run('eval.py', '--platform', 'CPU', '--dataset_path', old_images / 'val', '--checkpoint', old_checkpoint)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith('acc=25.00%(TOP1)\nacc=100.00%(TOP5)\n20 images, ')


@pytest.mark.slow
def test_train_goes_on_from_it(old_checkpoint, old_images, tmp_path):
    process = run('train.py', '--dataset_path', old_images / 'train', '--eval_dataset_path', old_images / 'val',
                  '--epoch_size', 1, '--ckpt_path', tmp_path, '--resume', old_checkpoint, *FLAGS)
    assert process.returncode == 0, process.stderr
    assert 'resuming %s in epoch 1 after step 2' % old_checkpoint in process.stdout
    with open(str(tmp_path / 'metrics.csv')) as file:
        row, = csv.DictReader(file)
    assert (row['epoch'], row['step'], float(row['top1'])) == ('1', '4', 0.25)
    assert float(row['loss']) == pytest.approx(1.511566, rel=1e-4)
    assert float(row['gradient_norm']) == pytest.approx(10.891183, rel=1e-4)
