"""A small container: training works where almost everything that a desktop has is missing, or says what it needs."""
import os
import resource
import shutil
import subprocess
import sys

import pytest

from tests.helpers import ROOT, SMALL_FLAGS

TOOLS = ('sh', 'cat', 'sed', 'grep', 'ldd')     # that MindSpore itself starts
# Makes a full folder for temporary files and a small /dev/shm, which only the command sees that follows.
MOUNT = ('mount -t tmpfs -o size=16k tmpfs "$TMPDIR" && { head -c 100000 /dev/zero >"$TMPDIR/full" 2>/dev/null; '
         'mount -t tmpfs -o size=64k tmpfs /dev/shm; } && PATH=$TOOLS exec "$@"')


def may_mount():
    """Whether this user may mount a file system that only one process sees."""
    return shutil.which('unshare') and subprocess.call(
        ['unshare', '-m', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'], stderr=subprocess.DEVNULL) == 0


@pytest.mark.slow
def test_training_without_home_compiler_room_for_temporary_files_shared_memory_and_files(image_folder, tmp_path):
    tools = tmp_path / 'bin'
    tools.mkdir()
    for name in TOOLS:
        (tools / name).symlink_to(shutil.which(name))
    environment = {'PATH': str(tools), 'LANG': 'C', 'TMPDIR': '/nowhere'}
    command = [sys.executable, 'train.py', '--dataset_path', str(image_folder / 'train'), '--epoch_size', '1',
               '--ckpt_path', str(tmp_path / 'run')] + SMALL_FLAGS
    if not may_mount():
        (pytest.fail if os.environ.get('CI') == 'true' else pytest.skip)('this user may not mount a file system')
    (tmp_path / 'temporary').mkdir()
    command = ['unshare', '-m', 'sh', '-c', MOUNT, 'sh'] + command
    environment.update(PATH=os.environ['PATH'], TOOLS=str(tools), TMPDIR=str(tmp_path / 'temporary'))
    process = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             universal_newlines=True, timeout=600,
                             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)))
    assert process.returncode == 0, process.stderr
    assert (tmp_path / 'run' / 'nasnet-a-mobile-rank0-1_4.ckpt').exists()
    assert process.stderr.startswith('slower on this CPU: ') and process.stderr.count('\n') == 1


@pytest.mark.parametrize('script,arguments,variables,sentence', [
    ('run_standalone_train_for_gpu.sh', ['0'], {'TMPDIR': '/nowhere'},
     'no temporary folder can be made: set TMPDIR to a folder that can be written'),
    ('run_distribute_train_for_gpu.sh', [], {'PATH': 'tools'},
     'mpirun is not installed: install Open MPI 4 or 5 (Debian: openmpi-bin)')])
def test_what_a_script_needs_is_one_sentence(tmp_path, script, arguments, variables, sentence):
    (tmp_path / 'tools').mkdir()
    for name in ('sh', 'dirname', 'readlink'):
        (tmp_path / 'tools' / name).symlink_to(shutil.which(name))
    process = subprocess.run(['sh', os.path.join(ROOT, 'scripts', script)] + arguments + ['.'], cwd=str(tmp_path),
                             env=dict(os.environ, PYTHON=sys.executable, LOG_DIR='logs', **variables),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    assert process.returncode == 2 and process.stderr.split('\n')[-2:] == ['error: ' + sentence, '']
