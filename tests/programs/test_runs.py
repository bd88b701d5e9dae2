"""No run harms another: one run owns its folder, and it goes on only with its own classes, images and checkpoints."""
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from src.checkpoints import checkpoint
from tests.helpers import ROOT, SMALL_FLAGS, run

pytestmark = pytest.mark.slow
FLAGS = SMALL_FLAGS + ['--image_size', '40', '--aux_factor', '0']


def train(images, folder, *flags):
    """Train for one epoch of 4 steps unless `flags` say otherwise -> CompletedProcess."""
    return run('train.py', '--dataset_path', images, '--ckpt_path', folder, '--epoch_size', 1, *FLAGS, *flags)


def name(epoch, step=4):
    """Name of a checkpoint."""
    return 'nasnet-a-mobile-rank0-%d_%d.ckpt' % (epoch, step)


@pytest.fixture(scope='module')
def images(image_folder):
    """The training images."""
    return image_folder / 'train'


@pytest.fixture(scope='module')
def trained(images, tmp_path_factory):
    """Folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp('trained') / 'run'
    process = train(images, folder)
    assert process.returncode == 0, process.stderr
    return folder


def test_one_run_at_a_time_owns_a_folder_and_a_killed_one_is_no_obstacle(images, tmp_path):
    folder = tmp_path / 'run'
    command = [sys.executable, 'train.py', '--dataset_path', images, '--ckpt_path', folder, '--epoch_size', 1000]
    owner = subprocess.Popen([str(word) for word in command + FLAGS], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        while not (folder / name(1)).exists() and owner.poll() is None:
            time.sleep(0.05)
        second = train(images, folder, '--resume', 'auto')
        assert second.returncode == 1 and second.stderr.count('\n') == 1
        assert second.stderr.startswith('error: another run owns the folder %s (process %d on %s)'
                                        % (folder, owner.pid, os.uname().nodename))
        assert owner.poll() is None
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    assert (folder / '.lock').exists()
    newest = checkpoint.load(str(folder / name(1))).meta['run']
    third = train(images, folder, '--resume', 'auto', '--epoch_size', 1000, '--lr_init', '1e30')
    assert 'lr_init' in third.stderr                            # refused for another reason than the lock
    finished = train(images, folder, '--resume', 'auto')        # several epochs are done, it asks for one
    assert finished.returncode == 0 and 'it is finished, ' in finished.stdout
    assert not (folder / '.lock').exists()
    assert checkpoint.load(str(folder / name(1))).meta['run'] == newest


def test_a_finished_run_says_so(images, trained):
    process = train(images, trained, '--resume', 'auto')
    assert process.returncode == 0
    assert '%s is the end of the run: it is finished, 1 of 1 epochs are done' % (trained / name(1)) in process.stdout


def test_renamed_classes_are_refused(images, trained, tmp_path):
    renamed = tmp_path / 'images'
    shutil.copytree(str(images), str(renamed))
    (renamed / 'class 0').rename(renamed / 'z class 0')
    before = (trained / 'classes.txt').read_text()
    for more in ([], ['--other_images', 'True']):
        process = train(renamed, trained, '--resume', 'auto', '--epoch_size', 2, *more)
        assert process.returncode == 1 and process.stderr.count('\n') == 1
        assert '4 classes there, 4 here; only there: \'class 0\'; only here: \'z class 0\'' in process.stderr
    assert (trained / 'classes.txt').read_text() == before


def test_other_images_are_refused_unless_they_are_wanted(images, trained, tmp_path):
    other = tmp_path / 'images'
    shutil.copytree(str(images), str(other))
    (other / 'class 0' / '0.JPEG').rename(other / 'class 1' / 'moved.JPEG')
    folder = tmp_path / 'run'
    shutil.copytree(str(trained), str(folder))
    process = train(other, folder, '--resume', 'auto', '--epoch_size', 2)
    assert process.returncode == 1 and process.stderr.count('\n') == 1
    assert 'training images: 32 images in 4 classes' in process.stderr and '--other_images True' in process.stderr
    process = train(other, folder, '--resume', 'auto', '--epoch_size', 2, '--other_images', 'True')
    assert process.returncode == 0 and (folder / name(2)).exists(), process.stderr


def test_the_folder_of_another_run_is_refused(images, trained, tmp_path):
    folder = tmp_path / 'other'
    assert train(images, folder, '--random_seed', 2).returncode == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    process = train(images, folder, '--resume', trained / name(1), '--epoch_size', 2)
    assert process.returncode == 1 and process.stderr.count('\n') == 1
    assert '%s is of another run than %s' % (folder / name(1), trained / name(1)) in process.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != '.lock'} == before
    # Its own copy in another folder is the same run.
    assert train(images, tmp_path / 'copy', '--resume', trained / name(1), '--epoch_size', 2).returncode == 0
    assert train(images, trained, '--resume', tmp_path / 'copy' / name(2), '--epoch_size', 2).returncode == 0


def test_checkpoints_come_by_the_clock_and_only_the_newest_are_kept(images, tmp_path):
    process = train(images, tmp_path, '--save_checkpoint_minutes', '1e-9', '--epoch_size', 2)
    assert process.returncode == 0, process.stderr
    found = sorted(path.name for path in tmp_path.glob('*.ckpt'))
    assert found == [name(1), name(2, 1), name(2, 2), name(2, 3), name(2)]


def test_other_versions_are_said_on_resume(images, trained, tmp_path):
    found = checkpoint.load(str(trained / name(1)))
    assert set(found.meta['versions']) == {'MindSpore', 'NumPy', 'OpenCV', 'Pillow', 'simplejpeg', 'own CPU kernels'}
    changed = dict(found.meta, versions=dict(found.meta['versions'], OpenCV='3.0'))
    path = tmp_path / name(1)
    checkpoint.save(str(path), found.arrays, changed)
    process = train(images, tmp_path, '--resume', path, '--epoch_size', 2)
    assert process.returncode == 0 and process.stderr.count('\n') == 1
    assert process.stderr.startswith('warning: the checkpoint was written with OpenCV 3.0, this is ')


@pytest.mark.parametrize('program', [
    ['train.py', '--dataset_path', 'data'], ['eval.py', '--dataset_path', 'data', '--checkpoint', 'CHECKPOINT'],
    ['eval.py', '--image', 'data', '--checkpoint', 'CHECKPOINT']])
def test_several_processes_that_know_nothing_of_each_other_are_refused(trained, program):
    environment = dict(os.environ, OMPI_COMM_WORLD_RANK='1', OMPI_COMM_WORLD_SIZE='8', OMPI_COMM_WORLD_LOCAL_RANK='1',
                       OMPI_COMM_WORLD_LOCAL_SIZE='8')
    words = [str(trained / name(1)) if word == 'CHECKPOINT' else word for word in program]
    process = run(*words, '--platform', 'CPU', env=environment)
    assert process.returncode == 1 and process.stderr.count('\n') == 1
    assert 'mpirun has started 8 processes, but --is_distributed True is missing' in process.stderr
