"""Training and evaluation by several real processes on the CPU, started as a user starts them.

The cluster of MindSpore 1.10 takes several attempts to form, half a minute each, and may have to be started again. So
with that version only a few facts are tested: forming it, sums, gradients, training, and that another number of ranks
is refused.
"""
import csv
import glob
import os
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from src.checkpoints.checkpoint import load
from src.distributed.cpu_cluster import free_port
from src.framework import VERSION
from tests.helpers import ROOT, SMALL_FLAGS, in_a_group, run
from tools.crash_test import points

pytestmark = [pytest.mark.needs('mpirun', 'dash'), pytest.mark.slow]
old = pytest.mark.skipif(VERSION < (2, 0), reason='the CPU cluster of MindSpore 1.10 takes too long to form')
MPIRUN = 'mpirun --bind-to none --oversubscribe'.split() + ['--allow-run-as-root'] * (os.getuid() == 0)
# Two batches for each step and moving averages, so that these are tested with ranks too.
FLAGS = SMALL_FLAGS + '--batch_size 2 --accumulation_steps 2 --ema_decay 0.5'.split()
LAST = 'nasnet-a-mobile-rank0-2_4.ckpt'


def launch(image_folder, folder, *flags):
    """Start two epochs of four steps on two ranks by the script -> Popen; its output goes to FOLDER.out."""
    command = ['dash', 'scripts/run_distribute_train_for_gpu.sh', image_folder / 'train', '--eval_dataset_path',
               image_folder / 'val', '--epoch_size', '2', '--ckpt_path', folder] + FLAGS + list(flags)
    with open('%s.out' % folder, 'w') as output:
        return subprocess.Popen([str(word) for word in command], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT,
                                env=dict(os.environ, PYTHON=sys.executable, PLATFORM='CPU', DEVICE_NUM='2'))


def output_of(folder):
    """What the last launch with this folder has shown until now."""
    with open('%s.out' % folder) as file:
        return file.read()


def mpirun(*words, **options):
    """Run under mpirun -> CompletedProcess."""
    return subprocess.run(MPIRUN + [str(word) for word in words], cwd=ROOT, timeout=600, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True, **options)


def rows(folder):
    """metrics.csv without the speed."""
    with open(str(folder / 'metrics.csv')) as file:
        return [row[:-1] for row in csv.reader(file)]


def differing(path, other):
    """Names of the arrays that are not the same bits in two checkpoints."""
    one, two = load(str(path)).arrays, load(str(other)).arrays
    return [name for name in set(one) | set(two) if not np.array_equal(one.get(name), two.get(name))]


def processes_of(folder):
    """{rank: pid} of the training processes that write into `folder`."""
    found = {}
    for path in glob.glob('/proc/[0-9]*/cmdline'):
        try:
            with open(path, 'rb') as words, open(path.replace('cmdline', 'environ'), 'rb') as environment:
                words, environment = words.read().split(b'\0'), environment.read()
        except OSError:
            continue
        rank = re.search(rb'OMPI_COMM_WORLD_RANK=(\d+)', environment)
        if rank and b'python' in words[0] and str(folder).encode() in words:
            found[int(rank.group(1))] = int(path.split('/')[2])
    return found


@pytest.fixture(scope='module')
def trained(image_folder, tmp_path_factory):
    """(checkpoint folder, output) of an undisturbed run of two ranks that each write their checkpoints."""
    folder = tmp_path_factory.mktemp('ranks') / 'whole'

    def attempt():
        process = launch(image_folder, folder, '--is_save_on_master', '0', '--tensorboard', 'True')
        process.wait(timeout=600)
        return process
    process = in_a_group(attempt, lambda _: output_of(folder))
    assert process.returncode == 0, output_of(folder)
    return folder, output_of(folder)


@pytest.mark.parametrize('count', [2, pytest.param(4, marks=old)])
def test_sums_gradients_and_images_of_real_ranks(image_folder, tmp_path, count):
    process = in_a_group(
        lambda: mpirun('-n', count, sys.executable, 'tests/distributed/ranks.py', image_folder / 'train', tmp_path),
        lambda process: process.stderr)
    assert process.returncode == 0, process.stderr
    ranks = [np.load(str(tmp_path / ('%d.npz' % rank))) for rank in range(count)]
    assert all(rank['size'] == count for rank in ranks)
    assert sorted(np.concatenate([rank['seen'] for rank in ranks])) == list(range(32))
    expected = np.mean([rank['own'] for rank in ranks], axis=0, dtype=np.float64)
    assert np.abs(ranks[0]['own'] - ranks[1]['own']).max() > 0.1        # their images differ
    for rank in ranks:
        assert np.abs(rank['mean'] - expected).max() <= 1e-6
        assert np.array_equal(rank['mean'], ranks[0]['mean'])
        assert np.array_equal(rank['sums'], sum(other['counts'] for other in ranks))
        assert list(rank['texts']) == ['é' * (3 * number) for number in range(count)]
        assert rank['losses'] == pytest.approx(np.array([1, 0.1]) * (count - 1) / 2)
        assert rank['statistics'].tolist() == [1] * 11          # rank 0's
    assert not list(tmp_path.glob('*.usual-end'))       # MindSpore's own end of a cluster may crash


def test_ranks_hold_the_same_bits_and_only_rank_0_reports(trained):
    folder, output = trained
    assert sorted(os.listdir(str(folder))) == [
        'classes.txt', 'events.out.tfevents.000001.nasnet-a-mobile', 'metrics.csv', 'metrics.png',
        'nasnet-a-mobile-best.ckpt'] + [
        'nasnet-a-mobile-rank%d-%d_4.ckpt' % (rank, epoch) for rank in (0, 1) for epoch in (1, 2)] + ['train.log']
    assert differing(folder / LAST, folder / LAST.replace('rank0', 'rank1')) == []
    assert len(re.findall(r'^epoch \d/2 step \d/4 ', output, re.M)) == 4
    assert output.strip().split('\n')[-1] == 'last checkpoint: %s' % (folder / LAST)
    # TF-Slim's rule: the learning rate of one process is multiplied by the number of processes.
    assert [row[:3] for row in rows(folder)[1:]] == [['1', '4', '0.08'], ['2', '8', '0.08']]


@old
def test_stopped_and_killed_launches_continue_as_one_run(trained, image_folder, tmp_path):
    whole, folder = trained[0], tmp_path / 'stopped'
    flags = ('--save_checkpoint_steps', '1', '--tensorboard', 'True', '--resume', 'auto')
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        before = set(folder.glob('*.ckpt'))
        process = launch(image_folder, folder, *flags)
        while set(folder.glob('*.ckpt')) == before and process.poll() is None:
            time.sleep(0.02)
        start = time.time()
        if number == signal.SIGKILL:
            os.kill(processes_of(folder)[1], number)
        else:
            process.send_signal(number)
        status, output = process.wait(timeout=120), output_of(folder)
        assert status == 128 + number, output
        if number == signal.SIGKILL:
            assert time.time() - start < 60
            assert re.search(r'^error: rank 1 on \S+ was killed by signal 9: .*--resume auto$', output, re.M), output
        else:
            assert 'stopped by a signal; this goes on: the same launch with --resume %s' % folder in output
        assert processes_of(folder) == {}
    process = launch(image_folder, folder, *flags)
    assert process.wait(timeout=600) == 0, output_of(folder)
    assert 'resuming %s' % folder in output_of(folder)
    assert not list(folder.glob('*rank1*')) and not list(folder.glob('*unfinished*'))
    assert differing(folder / LAST, whole / LAST) == []
    assert rows(folder) == rows(whole) and points(folder) == points(whole)


def test_another_number_of_ranks_is_another_run(trained, image_folder, tmp_path):
    process = run('train.py', '--dataset_path', image_folder / 'train', '--resume', trained[0] / LAST,
                  '--ckpt_path', tmp_path, *FLAGS)
    assert process.returncode == 1 and process.stderr.count('\n') == 1
    assert 'group_size 2 there, 1 here' in process.stderr
    single = run('train.py', '--dataset_path', image_folder / 'train', '--is_distributed', 'True', *FLAGS)
    assert single.returncode == 1 and 'neither mpirun nor msrun started this process' in single.stderr


@old
def test_evaluation_is_that_of_one_process(trained, image_folder):
    # 20 images in batches of 3: one of three ranks has one batch fewer than the others.
    command = ['eval.py', '--platform', 'CPU', '--dataset_path', image_folder / 'val', '--batch_size', '3',
               '--checkpoint', trained[0] / LAST]
    one, three = run(*command), mpirun('-n', '3', sys.executable, *command + ['--is_distributed', 'True'],
                                       env=dict(os.environ, PYTHONSAFEPATH='1'))
    assert one.returncode == three.returncode == 0, three.stderr
    # On a slow machine lines about the progress stand before these.
    accuracies = [re.findall(r'^(acc=.*|\d+ images),?', process.stdout, re.M) for process in (one, three)]
    assert accuracies[0] == accuracies[1] and accuracies[0][2] == '20 images'
    # The validation during training had the same result on two ranks.
    assert accuracies[0][0] == 'acc=%.2f%%(TOP1)' % (100 * float(rows(trained[0])[-1][5]))


@old
def test_ranks_that_differ_are_told_apart(image_folder, tmp_path):
    command = [sys.executable, 'train.py', '--is_distributed', 'True', '--dataset_path', image_folder / 'train',
               '--ckpt_path', tmp_path / 'none'] + FLAGS
    process = mpirun('-n', '1', *command + [':', '-n', '1'] + command + ['--dataset_path', image_folder / 'val'])
    assert process.returncode == 1 and 'Traceback' not in process.stderr
    assert re.search(r'^error: rank 1 differs from rank 0 in training images \(20 images in 4 classes, .*'
                     r'rank 0 has 32 images.*\): give all ranks the same command, files and versions$',
                     process.stderr, re.M)
    assert not (tmp_path / 'none').exists()


@old
def test_one_failing_rank_ends_all(image_folder, tmp_path):
    """Rank 0 cannot write, while rank 1 waits for it in the next step."""
    process = mpirun('-n', '2', sys.executable, 'train.py', '--is_distributed', 'True', '--dataset_path',
                     image_folder / 'train', '--ckpt_path', tmp_path, '--save_checkpoint_steps', '1', *FLAGS,
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10 ** 6, 10 ** 6)))
    assert process.returncode == 1 and 'Traceback' not in process.stderr
    assert re.search(r'^error: \S+1_1\.ckpt cannot be written .*: make room', process.stderr, re.M), process.stderr
    assert processes_of(tmp_path) == {}


@old
def test_msrun_trains_the_same_bits(trained, image_folder, tmp_path):
    msrun = os.path.join(os.path.dirname(sys.executable), 'msrun')
    command = [msrun, '--worker_num=2', '--local_worker_num=2', '--master_addr=127.0.0.1',
               '--master_port=%d' % free_port(), '--join=True', '--log_dir=%s' % (tmp_path / 'log'),
               'train.py', '--is_distributed', 'True', '--dataset_path', image_folder / 'train',
               '--eval_dataset_path', image_folder / 'val', '--epoch_size', '2',
               '--ckpt_path', tmp_path / 'checkpoint'] + FLAGS
    process = subprocess.run([str(word) for word in command], cwd=ROOT, timeout=600, stdout=subprocess.PIPE,
                             env=dict(os.environ, PATH=os.path.dirname(sys.executable) + ':' + os.environ['PATH']))
    assert process.returncode == 0, process.stdout
    assert differing(tmp_path / 'checkpoint' / LAST, trained[0] / LAST) == []
    assert rows(tmp_path / 'checkpoint') == rows(trained[0])
