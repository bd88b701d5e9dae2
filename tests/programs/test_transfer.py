"""Moving averages, the best checkpoint, and training from given weights, by the programs with the small network."""
import csv
import os

import numpy as np
import pytest

from src.checkpoints.checkpoint import load, restore
from src.checkpoints.run_folder import BEST
from src.errors import UserError
from src.network.build import build_network
from src.network.merge import plain_values
from tests.helpers import SMALL_FLAGS, run, small_config

pytestmark = pytest.mark.slow


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
    assert (folder / BEST).read_bytes() == (folder / ('nasnet-a-mobile-rank0-%d_4.ckpt' % best)).read_bytes()


def test_averages_are_evaluated_and_exported_by_choice(averaged, image_folder, tmp_path):
    folder, last = averaged[0], averaged[0] / 'nasnet-a-mobile-rank0-3_4.ckpt'
    loaded = load(str(last))
    network = build_network(small_config(), training=False)
    for weights, prefix in (('raw', ''), ('ema', 'ema.'), (None, 'ema.')):
        restore(loaded, network, weights)
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
        restore(loaded, network, 'ema')
    plain = loaded._replace(arrays={name: a for name, a in loaded.arrays.items() if not name.startswith('ema.')})
    with pytest.raises(UserError, match='has no moving averages: use --weights raw'):
        restore(plain, network, 'ema')


def test_a_run_with_averages_resumes_to_the_bit(averaged, image_folder, tmp_path):
    command = ('train.py', '--dataset_path', image_folder / 'train', '--eval_dataset_path', image_folder / 'val',
               '--ema_decay', 0.5, '--ckpt_path', tmp_path) + tuple(SMALL_FLAGS)
    for flags in (('--epoch_size', 1), ('--epoch_size', 3, '--resume', 'auto')):
        process = run(*command + flags)
        assert process.returncode == 0, process.stderr
    whole, resumed = (load(str(folder / 'nasnet-a-mobile-rank0-3_4.ckpt')).arrays
                      for folder in (averaged[0], tmp_path))
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not np.array_equal(whole[name], resumed[name])] == []
    assert (tmp_path / BEST).exists() and validation(tmp_path) == validation(averaged[0])


def test_pretrained_weights_are_used_and_other_classifiers_are_newly_drawn(averaged, image_folder, tmp_path):
    start = averaged[0] / 'nasnet-a-mobile-rank0-3_4.ckpt'
    process = run('train.py', '--platform', 'CPU', '--dataset_path', image_folder / 'train', '--pretrained', start,
                  '--preset', 'finetune', '--num_classes', 5, '--freeze', 'backbone', '--epoch_size', 1, '--batch_size',
                  8, '--ckpt_path', tmp_path)
    assert process.returncode == 0, process.stderr
    heads = 'auxiliary_head.classifier.bias, auxiliary_head.classifier.weight, classifier.bias, classifier.weight'
    assert 'starting from %s; newly drawn: %s\n' % (start, heads) in process.stdout
    before = load(str(start)).arrays
    after = load(str(tmp_path / 'nasnet-a-mobile-rank0-1_4.ckpt'))
    assert after.arrays['classifier.weight'].shape == (5, 96)
    assert after.meta['config']['cells_per_stage'] == 1         # the checkpoint says how large the network is
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
