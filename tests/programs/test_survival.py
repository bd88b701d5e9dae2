"""What a long run meets: kills, a full disk, broken images, numbers that overflow."""
import fcntl
import io
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nasnet_a_mobile import NASNetAMobile
from src import checkpoint
from src.errors import UserError
from src.framework import Tensor
from src.image import decode, verify
from src.monitor import Monitor
from src.optimizer import FlatRMSProp
from tests.conftest import ROOT, SMALL_FLAGS, run


def jpeg(mode='RGB', size=(90, 70), **options):
    """Bytes of a JPEG of noise."""
    channels = {'RGB': 3, 'L': 1, 'CMYK': 4}[mode]
    pixels = np.random.RandomState(0).randint(0, 256, size[::-1] + (channels,)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if mode == 'L' else pixels, mode).save(buffer, 'JPEG', **options)
    return buffer.getvalue()


def other(kind, image=None, **options):
    """Bytes of an image of another format."""
    buffer = io.BytesIO()
    (image or Image.fromarray(np.random.RandomState(0).randint(0, 256, (70, 90, 3)).astype(np.uint8))).save(
        buffer, kind, **options)
    return buffer.getvalue()


def rotated():
    """A JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(exif=exif)


GOOD = {
    'plain': jpeg(), 'grey': jpeg('L'), 'CMYK': jpeg('CMYK'), 'EXIF-rotated': rotated(),
    'PNG named JPEG': other('PNG'), 'GIF named JPEG': other('GIF'), 'WebP named JPEG': other('WEBP'),
    '16-bit': other('PNG', Image.fromarray(np.arange(6300, dtype=np.uint16).reshape(70, 90) * 10)),
    'palette with alpha': other('PNG', Image.new('P', (40, 40)), transparency=b'\x80' * 256),
    '1x1': jpeg(size=(1, 1)), '10,000 px wide': jpeg(size=(10000, 20))}
BAD = {'truncated': jpeg()[:-200], 'cut in the middle': jpeg()[:3000], 'empty': b'', 'text': b'no image at all\n' * 9,
       'half a PNG': other('PNG')[:5000], 'overwritten': jpeg()[:2500] + b'\xff\xd9' * 200 + jpeg()[2900:]}


@pytest.fixture
def zoo(tmp_path):
    """A data set of one class with every good and bad file, a dangling link, and something to ignore."""
    folder = tmp_path / 'zoo' / 'animals'
    folder.mkdir(parents=True)
    for name, data in list(GOOD.items()) + list(BAD.items()):
        (folder / (name + '.JPEG')).write_bytes(data)
    (folder / 'dangling link.JPEG').symlink_to(tmp_path / 'nowhere')
    (folder / 'notes.txt').write_text('')
    return tmp_path / 'zoo'


@pytest.mark.parametrize('name', sorted(GOOD))
def test_verifying_accepts_what_decoding_accepts(name):
    verify(GOOD[name])
    assert decode(GOOD[name]).shape[2] == 3


@pytest.mark.parametrize('name', sorted(BAD))
def test_verifying_refuses_what_decoding_refuses(name):
    for function in (verify, decode):
        with pytest.raises(ValueError):
            function(BAD[name])


def test_check_dataset_names_every_bad_file(zoo, tmp_path):
    process = run('tools/check_dataset.py', zoo, '--workers', 2, '--json', tmp_path / 'report.json')
    assert process.returncode == 1 and 'Traceback' not in process.stderr
    bad = set(BAD) | {'dangling link'}
    named = {re.match(r'.*/animals/(.*)\.JPEG: .+', line).group(1) for line in process.stdout.split('\n')[:-2]}
    assert named == bad
    assert process.stdout.strip().endswith('%d image files, %d bad, 1 other files ignored' % (len(GOOD) + len(bad),
                                                                                              len(bad)))
    report = json.loads((tmp_path / 'report.json').read_text())
    assert {os.path.basename(path)[:-5] for path in report['bad']} == bad and report['files'] == len(GOOD) + len(bad)
    for name in bad:
        os.remove(str(zoo / 'animals' / (name + '.JPEG')))
    assert run('tools/check_dataset.py', zoo).returncode == 0


def test_training_names_bad_images_once_and_goes_on_or_stops(zoo, tmp_path):
    command = ('train.py', '--dataset_path', zoo, '--epoch_size', 2) + tuple(SMALL_FLAGS)
    process = run(*command + ('--ckpt_path', tmp_path / 'a'))
    assert process.returncode == 0, process.stderr
    assert sorted(re.findall(r'^warning: .*/animals/(.*)\.JPEG: ', process.stderr, re.M)) == sorted(
        list(BAD) + ['dangling link'])
    process = run(*command + ('--ckpt_path', tmp_path / 'b', '--on_bad_image', 'stop'))
    assert process.returncode == 1 and process.stderr.count('\n') == 1
    assert re.match(r'error: .*/animals/.*\.JPEG: .*--on_bad_image skip', process.stderr)


def test_divergence_stops_before_anything_poisoned_is_written(image_folder, tmp_path):
    process = run('train.py', '--dataset_path', image_folder / 'train', '--ckpt_path', tmp_path, '--lr_init', '1e30',
                  '--save_checkpoint_steps', 1, '--epoch_size', 3, *SMALL_FLAGS)
    assert process.returncode == 1 and process.stderr.count('\n') == 1, process.stderr
    assert process.stderr.startswith('error: ') and '--lr_init' in process.stderr
    for path in checkpoint.list_checkpoints(str(tmp_path), 0):
        assert all(np.isfinite(array).all() for array in checkpoint.load(path).arrays.values())
    assert not list(tmp_path.glob('*unfinished*'))


def test_a_full_disk_stops_with_the_last_checkpoint_intact(image_folder, tmp_path):
    command = ('train.py', '--dataset_path', image_folder / 'train', '--ckpt_path', tmp_path) + tuple(SMALL_FLAGS)
    assert run(*command + ('--epoch_size', 1)).returncode == 0
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(str(tmp_path))}
    process = run(*command + ('--epoch_size', 2, '--resume', 'auto', '--save_checkpoint_steps', 1),
                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10 ** 6, 10 ** 6)))
    assert process.returncode == 1, process.stdout
    assert re.match(r'error: the checkpoint \S+2_1\.ckpt cannot be written', process.stderr), process.stderr
    assert process.stderr.count('\n') == 1
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(str(tmp_path))} == before
    # With room again it goes on, and ends where a run that never met the limit ends.
    assert run(*command + ('--epoch_size', 2, '--resume', 'auto')).returncode == 0
    whole = tmp_path / 'undisturbed'
    assert run(*command + ('--epoch_size', 2, '--ckpt_path', whole)).returncode == 0
    name = 'nasnet-a-mobile-rank0-2_4.ckpt'
    one, other = (checkpoint.load(str(folder / name)).arrays for folder in (tmp_path, whole))
    assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_a_full_disk_may_be_outlived(image_folder, tmp_path):
    process = run('train.py', '--dataset_path', image_folder / 'train', '--ckpt_path', tmp_path, '--epoch_size', 1,
                  '--on_save_error', 'continue', *SMALL_FLAGS,
                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10 ** 6, 10 ** 6)))
    assert process.returncode == 0 and process.stderr.startswith('warning: the checkpoint ')
    assert sorted(os.listdir(str(tmp_path))) == ['classes.txt', 'metrics.csv']


@pytest.mark.parametrize('policy,status', [('stop', 1), ('continue', 0)])
def test_a_disk_that_is_full_to_the_last_byte(image_folder, tmp_path, policy, status):
    """Not even metrics.csv can be written."""
    (tmp_path / 'classes.txt').write_text('')
    process = run('train.py', '--dataset_path', image_folder / 'train', '--eval_dataset_path', image_folder / 'val',
                  '--ckpt_path', tmp_path, '--epoch_size', 1, '--on_save_error', policy, *SMALL_FLAGS,
                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60)))
    assert process.returncode == status and 'Traceback' not in process.stderr, process.stderr
    kind = 'warning' if policy == 'continue' else 'error'
    assert all(line.startswith(kind + ': ') for line in process.stderr.strip().split('\n')), process.stderr
    assert ('metrics.csv cannot be written' in process.stderr) == (policy == 'continue')
    assert os.listdir(str(tmp_path)) == ['classes.txt']


def test_auto_never_passes_over_all_checkpoints(image_folder, tmp_path):
    (tmp_path / 'nasnet-a-mobile-rank0-7_4.ckpt').write_text('damaged')
    process = run('train.py', '--dataset_path', image_folder / 'train', '--ckpt_path', tmp_path, '--resume', 'auto',
                  *SMALL_FLAGS)
    assert process.returncode == 1
    last = process.stderr.strip().split('\n')[-1]
    assert last.startswith('error: none of the 1 checkpoints in %s can be used' % tmp_path)
    assert os.listdir(str(tmp_path)) == ['nasnet-a-mobile-rank0-7_4.ckpt']


def test_no_room_is_said_at_the_start(monkeypatch, tmp_path):
    network = NASNetAMobile(auxiliary_size=224)
    arrays = checkpoint.state(network, FlatRMSProp(network.trainable_params()))
    checkpoint.check_room(str(tmp_path), arrays)
    monkeypatch.setattr(checkpoint.shutil, 'disk_usage', lambda folder: SimpleNamespace(free=80 << 20))
    with pytest.raises(UserError, match='has 80 MiB free, a checkpoint takes 88 MiB: make room'):
        checkpoint.check_room(str(tmp_path), arrays)


def test_the_progress_bar_goes_to_the_terminal_alone(monkeypatch, capsys, tmp_path):
    master, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 30, 100, 0, 0))
    monkeypatch.setenv('PROGRESS_FD', str(terminal))
    monitor = Monitor(str(tmp_path), epochs=2, steps=3, images=8, log_steps=3)
    monitor.begin_epoch(1)
    for step in range(3):
        monitor.step(1, step + 1, Tensor(np.float32(2)), Tensor(np.float32(1)), 0.1)
    monitor.end_epoch(1, 0.1)
    shown, printed = os.read(master, 100000).decode(), capsys.readouterr().out
    os.close(master), os.close(terminal)
    assert 'epoch 1/2:   0%|' in shown and '3/3' in shown
    assert '%|' not in printed and 'epoch 1/2 step 3/3 loss 2.0000' in printed


def test_a_second_signal_ends_at_once():
    process = subprocess.Popen([sys.executable, '-c', 'import time\nimport src.framework\n'
                                'from src.signals import StopRequest\nstop = StopRequest()\n'
                                'print("ready", flush=True)\nwhile True: time.sleep(0.1)'],
                               cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)          # a script's copy of the same Ctrl-C
    time.sleep(0.8)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 130
    process.stdout.close()


def test_killed_and_resumed_training_is_the_undisturbed_one():
    process = run('tools/crash_test.py', '--kills', 4)
    assert process.returncode == 0, process.stdout + process.stderr
    assert '4 kills' in process.stdout
