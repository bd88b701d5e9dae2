"""train.py, eval.py and export.py as a user runs them, on real JPEGs, with the small network."""
import csv
import io
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from src.checkpoints.checkpoint import load
from src.inference.exported import load_exported
from tests.helpers import IMPATIENT, ROOT, SMALL_FLAGS, run
from tools.crash_test import points


@pytest.fixture(scope='module')
def trained(image_folder, tmp_path_factory):
    """(folder, finished process) of a run of three epochs of four steps."""
    folder = tmp_path_factory.mktemp('run')
    return folder, run('train.py', '--dataset_path', image_folder / 'train', '--eval_dataset_path',
                       image_folder / 'val', '--epoch_size', 3, '--keep_checkpoint_max', 2, '--tensorboard', True,
                       '--ckpt_path', folder / 'checkpoint', *SMALL_FLAGS)


@pytest.mark.smoke
def test_training_leaves_checkpoints_metrics_and_class_list(trained):
    folder, process = trained
    assert process.returncode == 0, process.stderr
    last = folder / 'checkpoint' / 'nasnet-a-mobile-rank0-3_4.ckpt'
    assert process.stdout.strip().split('\n')[-1] == 'last checkpoint: %s' % last
    assert sorted(os.listdir(str(folder / 'checkpoint'))) == [
        'classes.txt', 'events.out.tfevents.000001.nasnet-a-mobile', 'metrics.csv', 'metrics.png',
        'nasnet-a-mobile-best.ckpt', 'nasnet-a-mobile-rank0-2_4.ckpt', 'nasnet-a-mobile-rank0-3_4.ckpt']
    assert (folder / 'checkpoint' / 'classes.txt').read_text().split('\n')[:4] == ['class %d' % i for i in range(4)]
    with open(str(folder / 'checkpoint' / 'metrics.csv')) as file:
        rows = list(csv.DictReader(file))
    assert [(row['epoch'], row['step']) for row in rows] == [('1', '4'), ('2', '8'), ('3', '12')]
    # The rate changes after 2.4 epochs, which are 9.6 steps. So the last step of epoch 3 has the second rate.
    assert [float(row['learning_rate']) for row in rows] == pytest.approx([0.04, 0.04, 0.04 * 0.97])
    for row in rows:
        assert 0 <= float(row['top1']) <= float(row['top5']) == 1 and float(row['loss']) > 0
        assert float(row['images_per_second']) > 0 and float(row['gradient_norm']) > 0


def test_training_log_is_plain_lines(trained):
    _, process = trained
    lines = [line for line in process.stdout.split('\n') if ' step ' in line]
    assert len(lines) == 6
    for line in lines:
        assert re.match(r'epoch \d/3 step [24]/4 loss \d+\.\d+ lr 0\.0\d+ \d+\.\d img/s ETA \d\d:\d\d:\d\d$', line)
    assert '\r' not in process.stdout and process.stderr == ''


def test_training_state_and_auxiliary_head_are_in_the_checkpoint(trained):
    loaded = load(str(trained[0] / 'checkpoint' / 'nasnet-a-mobile-rank0-3_4.ckpt'))
    assert loaded.meta['epoch'] == 3 and loaded.meta['images'] == 32
    assert loaded.meta['config']['bn_decay'] == 0.9
    for name in ('auxiliary_head.full.weight', 'auxiliary_head.classifier.bias'):
        assert np.abs(loaded.arrays['moment.' + name]).max() > 0
        assert np.abs(loaded.arrays['mean_square.' + name] - 1).max() > 0


@pytest.mark.slow
def test_a_folder_with_checkpoints_is_not_overwritten(trained, image_folder):
    folder = trained[0] / 'checkpoint'
    before = {name: (folder / name).read_bytes() for name in os.listdir(str(folder))}
    process = run('train.py', '--dataset_path', image_folder / 'train', '--ckpt_path', folder, *SMALL_FLAGS)
    assert process.returncode == 1 and 'of an earlier run: go on with it by --resume auto' in process.stderr
    assert {name: (folder / name).read_bytes() for name in os.listdir(str(folder))} == before


@pytest.mark.slow
def test_same_command_same_bits(trained, image_folder, tmp_path):
    process = run('train.py', '--dataset_path', image_folder / 'train', '--epoch_size', 2, '--work_nums', 1,
                  '--ckpt_path', tmp_path, *SMALL_FLAGS)
    assert process.returncode == 0, process.stderr
    name = 'nasnet-a-mobile-rank0-2_4.ckpt'
    first, second = (load(str(folder / name)).arrays for folder in (trained[0] / 'checkpoint', tmp_path))
    assert first.keys() == second.keys()
    assert [key for key in first if not np.array_equal(first[key], second[key])] == []


@pytest.mark.smoke
def test_eval_counts_every_image_once(trained, image_folder):
    process = run(*IMPATIENT, 'eval.py', '--platform', 'CPU', '--dataset_path', image_folder / 'val', '--batch_size', 8,
                  '--checkpoint', trained[0] / 'checkpoint' / 'nasnet-a-mobile-rank0-3_4.ckpt')
    assert process.returncode == 0, process.stderr
    assert re.search(r'^evaluating: 0/20 images, compiling the network, 00:\d\d:\d\d so far$', process.stderr, re.M)
    lines = process.stdout.split('\n')
    top1 = float(re.match(r'acc=(\d+\.\d+)%\(TOP1\)$', lines[0]).group(1))
    assert re.match(r'acc=100\.00%\(TOP5\)$', lines[1])
    assert lines[2].startswith('20 images, 0 unreadable and left out') and 'img/s' in lines[2]
    with open(str(trained[0] / 'checkpoint' / 'metrics.csv')) as file:
        assert 100 * float(list(csv.DictReader(file))[-1]['top1']) == pytest.approx(top1)


def test_tensorboard_gets_lines_validations_and_the_first_images_once(trained):
    folder = trained[0] / 'checkpoint'
    found = points(folder)
    names = {name for _, name, _ in found}
    assert names == {'training/' + name for name in ('loss', 'gradient_norm', 'learning_rate', 'loss_scale')} | {
        'validation/top1', 'validation/top5', 'training/images'}
    assert [step for step, name, _ in found if name == 'training/loss'] == [2, 4, 6, 8, 10, 12]
    with open(str(folder / 'metrics.csv')) as file:
        rows = list(csv.DictReader(file))
    assert [(step, '%.6f' % value) for step, name, value in found if name == 'validation/top1'] == [
        (int(row['step']), row['top1']) for row in rows]
    picture, = [value for _, name, value in found if name == 'training/images']
    assert Image.open(io.BytesIO(picture)).size == (8 * 72, 72)         # the 8 images of a batch, side by side
    images = np.array(Image.open(io.BytesIO(picture)).convert('RGB'))
    assert images.std() > 20 and 40 < images.mean() < 215


@pytest.mark.smoke
@pytest.mark.slow
def test_resumed_run_is_the_same_run(trained, image_folder, tmp_path):
    """A run that SIGTERM, Ctrl-C and SIGKILL end, and that is resumed each time, has the bits of a whole run."""
    command = ('train.py', '--dataset_path', image_folder / 'train', '--eval_dataset_path', image_folder / 'val',
               '--epoch_size', 3, '--save_checkpoint_steps', 1, '--keep_checkpoint_max', 3, '--resume', 'auto',
               '--tensorboard', True,
               '--ckpt_path', tmp_path) + tuple(SMALL_FLAGS)
    for wanted, number in (('1_1', signal.SIGTERM), ('1_3', signal.SIGINT), ('2_2', signal.SIGKILL)):
        process = subprocess.Popen([sys.executable] + [str(word) for word in command], cwd=ROOT, text=True,
                                   stdout=subprocess.PIPE)
        while not list(tmp_path.glob('*-%s.ckpt' % wanted)) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        output = process.communicate(timeout=300)[0]
        if number != signal.SIGKILL:
            assert process.returncode == 128 + number, output
            assert '--resume %s' % tmp_path in output.strip().split('\n')[-1]
    last = run(*command)
    assert last.returncode == 0, last.stderr
    assert 'resuming %s' % tmp_path in last.stdout
    name = 'nasnet-a-mobile-rank0-3_4.ckpt'
    whole, resumed = (load(str(folder / name)) for folder in (trained[0] / 'checkpoint', tmp_path))
    assert whole.arrays.keys() == resumed.arrays.keys()
    assert [key for key in whole.arrays if not np.array_equal(whole.arrays[key], resumed.arrays[key])] == []
    rows = []
    for folder in (trained[0] / 'checkpoint', tmp_path):
        with open(str(folder / 'metrics.csv')) as file:
            rows.append([row[:-1] for row in csv.reader(file)])         # all but the speed
    assert rows[0] == rows[1]
    assert points(tmp_path) == points(trained[0] / 'checkpoint')
    assert not list(tmp_path.glob('*unfinished*'))


@pytest.mark.slow
def test_float16_accumulated_and_resumed_is_the_same_run(image_folder, tmp_path):
    command = ('train.py', '--dataset_path', image_folder / 'train', '--eval_dataset_path', image_folder / 'val',
               '--epoch_size', 1, '--save_checkpoint_steps', 1) + tuple(SMALL_FLAGS)
    keys = ('--batch_size', 4, '--accumulation_steps', 2, '--amp_level', 'O3', '--loss_scale', 0, '--ema_decay', 0.9)
    whole = run(*command + keys + ('--ckpt_path', tmp_path / 'whole'))
    assert whole.returncode == 0 and ' 4 steps' in whole.stdout, whole.stderr
    names = ['nasnet-a-mobile-rank0-1_%d.ckpt' % step for step in (2, 4)]
    refused = run(*command + ('--ckpt_path', tmp_path / 'resumed', '--resume', tmp_path / 'whole' / names[0]))
    assert refused.returncode == 1 and refused.stderr.count('\n') == 1
    assert 'accumulation_steps 2 there, 1 here; amp_level ' in refused.stderr
    resumed = run(*command + keys + ('--ckpt_path', tmp_path / 'resumed', '--resume', tmp_path / 'whole' / names[0]))
    assert resumed.returncode == 0, resumed.stderr
    one, other = (load(str(tmp_path / folder / names[1])).arrays for folder in ('whole', 'resumed'))
    assert one.keys() == other.keys() and [key for key in one if not np.array_equal(one[key], other[key])] == []
    # The first scale is too large for this network, so it was halved at least once. The resumed run knows this.
    assert 1 <= one['loss_scale.value'] <= 2 ** 15 and one['loss_scale.good_steps'] <= 3
    assert all(array.dtype == np.float32 for array in one.values())
    # A step has two batches, so BatchNorm's averages were updated eight times. They started at 1, with a decay of 0.9.
    assert 0.9 ** 8 < one['stem_bn.moving_variance'].min() < 0.9 ** 4
    # The validation used float32 and the moving averages, as eval.py does.
    process = run('eval.py', '--platform', 'CPU', '--dataset_path', image_folder / 'val', '--batch_size', 8,
                  '--checkpoint', tmp_path / 'resumed' / names[1])
    with open(str(tmp_path / 'resumed' / 'metrics.csv')) as file:
        top1 = float(list(csv.DictReader(file))[0]['top1'])
    assert 'acc=%.2f%%(TOP1)' % (100 * top1) in process.stdout, process.stdout + process.stderr


@pytest.mark.slow
def test_resume_refuses_another_run_and_a_damaged_file(trained, image_folder, tmp_path):
    source = trained[0] / 'checkpoint' / 'nasnet-a-mobile-rank0-3_4.ckpt'
    command = ('train.py', '--dataset_path', image_folder / 'train', '--ckpt_path', tmp_path) + tuple(SMALL_FLAGS)
    other = run(*command + ('--resume', source, '--lr_init', 1, '--random_seed', 7))
    assert other.returncode == 1 and other.stderr.count('\n') == 1
    assert 'lr_init 0.04 there, 1.0 here; random_seed 1 there, 7 here' in other.stderr
    damaged = bytearray(source.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / 'nasnet-a-mobile-rank0-3_4.ckpt').write_bytes(bytes(damaged))
    shutil.copy(str(source).replace('3_4', '2_4'), str(tmp_path))
    auto = run(*command + ('--resume', 'auto', '--epoch_size', 2))
    assert auto.returncode == 0 and 'is damaged' in auto.stderr
    assert 'last checkpoint: %s' % (tmp_path / 'nasnet-a-mobile-rank0-2_4.ckpt') in auto.stdout


@pytest.mark.smoke
@pytest.mark.slow
@pytest.mark.parametrize('file_format,batch_size,ending', [('MINDIR', 1, ''), ('ONNX', 3, '.onnx')])
def test_export_agrees_with_the_network(trained, image_folder, tmp_path, file_format, batch_size, ending):
    # MindSpore itself takes no path with such characters.
    folder, temporary = tmp_path / 'größe lr=0.01' / 'run(1), a+b', tmp_path / 'tmp 猫='
    temporary.mkdir()
    process = run(*IMPATIENT, 'export.py', '--platform', 'CPU', '--file_format', file_format, '--batch_size',
                  batch_size, '--ckpt_file', trained[0] / 'checkpoint' / 'nasnet-a-mobile-rank0-3_4.ckpt',
                  '--file_name', folder / ('network' + ending), env=dict(os.environ, TMPDIR=str(temporary)),
                  preexec_fn=lambda: os.umask(0o022))
    assert process.returncode == 0, process.stderr
    assert re.search(r'^exporting: 00:\d\d:\d\d so far$', process.stderr, re.M)
    path = folder / ('network.' + file_format.lower())
    assert process.stdout.strip().endswith('exported: %s' % path)
    assert float(re.search(r'difference from the live network: (\S+)', process.stdout).group(1)) <= 1e-4
    assert os.listdir(str(folder)) == [path.name] and not list(temporary.glob('tmp*'))
    assert stat.S_IMODE(os.stat(str(path)).st_mode) == 0o644
    assert stat.S_IMODE(os.stat(str(folder)).st_mode) & 0o055 == 0o055
    assert load_exported(str(path)).meta['config'] == {'num_classes': 4, 'image_size': 72, 'batch_size': batch_size}
    judged = run('eval.py', '--platform', 'CPU', '--dataset_path', image_folder / 'val', '--checkpoint', path)
    assert judged.returncode == 0 and '20 images, 0 unreadable' in judged.stdout, judged.stderr
    with open(str(trained[0] / 'checkpoint' / 'metrics.csv')) as file:
        assert 'acc=%.2f%%(TOP1)' % (100 * float(list(csv.DictReader(file))[-1]['top1'])) in judged.stdout


def test_help_names_every_flag():
    for program in ('train.py', 'eval.py', 'export.py'):
        process = run(program, '--help')
        assert process.returncode == 0 and '--batch_size' in process.stdout and '--platform' in process.stdout
