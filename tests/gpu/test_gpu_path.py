"""MindSpore's GPU backend runs this suite without a GPU, on the null CUDA (null_cuda.py).

What passing shows: the graphs compile for GPUs, each operator has a kernel for its types, memory can be planned, and
the calls, the copies and the exchanges between ranks happen in a number that is known. What it cannot show: a correct
number, the speed of a device, and whether the real libraries accept each call. The tests use a small network, except
the one that counts the calls of the full network.
"""
import glob
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from src.checkpoints.checkpoint import arrays_of, load, save
from src.config import choices
from src.framework import VERSION
from src.network.build import build_network
from tests.gpu.count_calls import read, totals
from tests.gpu.null_cuda import build
from tests.helpers import ROOT, SMALL_FLAGS, run, small_config
from tools.golden.compare import filled

# The device calls of one training step of the full network at 224 pixels with batch 32 and everything of the recipe.
# They are upper bounds: lower them when a change saves calls. The loss is read once in ten steps, hence the tenths.
# Each row: version of MindSpore, amp_level, the bounds.
KINDS = ('kernels', 'transposes', 'casts', 'copies on the device', 'copies to the device', 'synchronizations',
         'device calls')
MOST_CALLS = {
    ((1, 10), 'O0'): (950, 1, 2, 8, 294, 3.1, 1964.1),
    ((1, 10), 'O3'): (996, 1, 15, 12, 301, 3.1, 2021.1),
    ((2, 10), 'O0'): (972, 1, 2, 8, 290, 1.1, 1973.1),
    ((2, 10), 'O3'): (1144, 1, 16, 12, 290, 1.1, 2019.1),
}
# Upper bounds of the peak of MindSpore 2's memory pool in this step, in MB. MindSpore 1.10 does not tell the peak.
MOST_MEMORY = {'O0': 2254, 'O3': 1177}
FLAGS = SMALL_FLAGS + ['--platform', 'GPU']     # the last one counts

pytestmark = pytest.mark.needs('c++')       # Debian's g++ brings cc, which builds the null CUDA


@pytest.fixture(scope='module')
def null_cuda(tmp_path_factory):
    """The environment variables with which a process uses the null CUDA."""
    return build(tmp_path_factory.mktemp('null_cuda'))


def succeed(null_cuda, *command, **variables):
    """Run a program of the project on the null CUDA, with further environment variables; returns its output."""
    process = run(*command, env=dict(os.environ, **null_cuda, **variables))
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope='module')
def trained(null_cuda, image_folder, tmp_path_factory):
    """(command of a training with validation, its output after one epoch of four steps, its last checkpoint)"""
    folder = tmp_path_factory.mktemp('run')
    command = ['train.py', '--dataset_path', image_folder / 'train', '--eval_dataset_path', image_folder / 'val',
               '--ckpt_path', folder] + FLAGS
    return command, succeed(null_cuda, *command + ['--epoch_size', 1]), folder / 'nasnet-a-mobile-rank0-1_4.ckpt'


def test_a_machine_with_everything_is_ready_for_one_gpu_and_lacks_seven(null_cuda):
    output = succeed(null_cuda, 'tools/check_gpu.py')
    assert 'one GPU: ready' in output and output.count('missing') == 1
    assert '8 GPUs: missing (8 processes on this machine, but the NVIDIA driver finds 1 GPUs' in output


@pytest.mark.slow
def test_training_validates_saves_and_resumes(null_cuda, trained):
    """Passing shows that training and validation compile and run, and that weights and optimizer state go to the
    device and come back. It does not show that they change as they should."""
    command, output, checkpoint = trained
    assert 'epoch 1/1 step 4/4 loss' in output and 'last checkpoint: %s' % checkpoint in output
    resumed = succeed(null_cuda, *command + ['--epoch_size', 2, '--resume', 'auto'])
    assert 'resuming %s' % checkpoint in resumed and 'epoch 2/2 step 4/4 loss' in resumed
    one, two = load(str(checkpoint)).arrays, load(str(checkpoint).replace('1_4', '2_4')).arrays
    # No kernel has written anything. So this also shows that the tests run on a device that computes nothing.
    assert [name for name in one if not np.array_equal(one[name], two[name])] == []


@pytest.mark.slow
def test_evaluation_counts_images(null_cuda, trained, image_folder):
    """Passing shows that eval.py compiles and runs, and that each image is counted once. The accuracy means nothing."""
    output = succeed(null_cuda, 'eval.py', '--dataset_path', image_folder / 'val', '--checkpoint', trained[2])
    assert output.startswith('acc=') and '\n20 images, 0 unreadable' in output


@pytest.mark.slow
def test_photos_are_classified_without_meaning(null_cuda, trained, image_folder):
    """Passing shows that eval.py --image compiles and runs. The probabilities must differ from a CPU's: a test of
    values has to fail here, because nothing is computed."""
    command = ['eval.py', '--image', image_folder / 'val' / 'class 0', '--format', 'json', '--checkpoint', trained[2]]
    on_gpu = succeed(null_cuda, *command).splitlines()
    on_cpu = succeed(null_cuda, *command + ['--platform', 'CPU']).splitlines()
    assert len(on_gpu) == len(on_cpu) == 5 and not set(on_gpu) & set(on_cpu)


@pytest.mark.slow
@pytest.mark.parametrize('file_format', ['MINDIR', 'ONNX'])
def test_export_is_compared_on_the_cpu(null_cuda, tmp_path, file_format):
    """Passing shows that export.py with the platform GPU gives the device nothing to do: it compares values on the
    CPU, because on the null CUDA the comparison would fail."""
    config = small_config()
    save(str(tmp_path / 'drawn.ckpt'), arrays_of(filled(build_network(config, training=False))),
         {'config': vars(config)})
    output = succeed(null_cuda, 'export.py', '--ckpt_file', tmp_path / 'drawn.ckpt', '--file_format', file_format,
                     '--file_name', tmp_path / 'network', NULL_CUDA_REPORT=str(tmp_path))
    assert 'largest difference from the live network' in output
    assert (tmp_path / ('network.' + file_format.lower())).exists()
    assert [path for path in tmp_path.glob('*.json') if totals(read(str(path)))['device calls']] == []


@pytest.mark.parametrize('flags', [['--freeze', 'backbone']] + [
    pytest.param(flags, marks=pytest.mark.slow)
    for flags in [['--amp_level', level] for level in choices['amp_level'] if level != 'O0']
    + [['--accumulation_steps', '2', '--batch_size', '4', '--ema_decay', '0.9']]], ids=' '.join)
def test_variants_of_training(null_cuda, image_folder, tmp_path, flags):
    """Passing shows that training with these flags compiles and runs, that only float16 casts in the layers, and that
    it has a dynamic loss scale. It does not show that gradients stay finite."""
    output = succeed(null_cuda, 'train.py', '--dataset_path', image_folder / 'train', '--epoch_size', 1, '--ckpt_path',
                     tmp_path / 'run', '--eval_dataset_path', image_folder / 'val', *FLAGS + flags,
                     NULL_CUDA_REPORT=str(tmp_path))
    assert 'epoch 1/1 step 4/4 loss' in output and 'last checkpoint: ' in output
    report, = tmp_path.glob('*.json')
    kinds, is_float16 = totals(read(str(report))), '--amp_level' in flags
    assert kinds['kernels'] > 500
    assert (kinds['casts'] > 30) == is_float16, kinds
    last = load(str(tmp_path / 'run' / 'nasnet-a-mobile-rank0-1_4.ckpt'))
    assert ('loss_scale.value' in last.arrays) == is_float16


@pytest.mark.slow
def test_check_device_says_no(null_cuda, tmp_path):
    """Passing shows that tools/check_device.py runs with the platform GPU, and that wrong numbers make it say no."""
    process = run('tools/check_device.py', '--only', 'logits', '--amp_level', 'O0', '--json', tmp_path / 'found.json',
                  env=dict(os.environ, **null_cuda))
    assert process.returncode == 1, process.stdout
    assert process.stderr == 'error: 1 of 1 rows do not hold (logits, float32): see the table\n'
    assert 'GPUs: 1' in process.stdout
    row, = json.loads((tmp_path / 'found.json').read_text())['rows']
    assert row['verdict'] == 'BROKEN' and not row['figures']['error'] <= 1e-2


@pytest.mark.slow
@pytest.mark.parametrize('amp_level', choices['amp_level'])
def test_calls_of_a_step_of_the_full_network(null_cuda, tmp_path, amp_level):
    """Passing shows that the full network compiles and trains at 224 pixels with batch 32, and how much work the host
    gives to the device in a step and how much memory that takes. It does not show how long the device takes for it."""
    path = tmp_path / 'calls.json'
    succeed(null_cuda, 'tests/gpu/count_calls.py', '--amp_level', amp_level, '--json', path)
    facts = json.loads(path.read_text())
    found = facts['totals']
    assert all(found[kind] <= most for kind, most in zip(KINDS, MOST_CALLS[VERSION, amp_level])), found
    if VERSION >= (2, 0):
        assert 0 < facts['peak_memory_mb'] <= MOST_MEMORY[amp_level]


@pytest.mark.slow
@pytest.mark.needs('mpirun', 'dash')
def test_two_ranks_have_a_device_each_and_exchange_once_a_step(null_cuda, image_folder, tmp_path):
    """Passing shows that the script starts two ranks, that they agree and use different devices, and that a step has
    one AllReduce, of all gradients. NCCL is stood in for, so it does not show that real ranks can reach each other."""
    process = subprocess.run(
        ['dash', 'scripts/run_distribute_train_for_gpu.sh', str(image_folder / 'train'), '--epoch_size', '1',
         '--ckpt_path', str(tmp_path / 'run')] + FLAGS + ['--batch_size', '4'],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, timeout=600,
        env=dict(os.environ, **null_cuda, PYTHON=sys.executable, DEVICE_NUM='2', NULL_CUDA_DEVICES='2',
                 PLATFORM='GPU', NULL_CUDA_REPORT=str(tmp_path)))
    assert process.returncode == 0, process.stdout
    assert 'epoch 1/1 step 4/4 loss' in process.stdout
    arrays = load(str(tmp_path / 'run' / 'nasnet-a-mobile-rank0-1_4.ckpt')).arrays
    gradients = sum(array.size for name, array in arrays.items() if name.startswith('moment.'))
    reports = [read(path) for path in glob.glob(str(tmp_path / '*.json'))]
    for report in reports:
        sums = {int(name.split()[1]): calls for name, calls in report.items() if name.startswith('ncclAllReduce')}
        # MindSpore 1.10 makes the vector longer, to a multiple of 512 bytes.
        assert [calls for size, calls in sums.items() if gradients <= size < gradients + 128] == [4], sums
    devices = [[name for name in report if name.startswith('cudaSetDevice')] for report in reports]
    assert sorted(devices) == [['cudaSetDevice 0'], ['cudaSetDevice 1']]
