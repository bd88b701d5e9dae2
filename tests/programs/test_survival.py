"""What can happen to a long run: kills, a full disk, broken images, a divergence."""
import io
import json
import os
import re
import resource

import numpy as np
import pytest
from PIL import Image

from src.checkpoints.checkpoint import load
from src.checkpoints.run_folder import list_checkpoints
from tests.helpers import SMALL_FLAGS, run


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


def test_check_dataset_names_every_bad_file(zoo, tmp_path):
    process = run('tools/check_dataset.py', zoo, '--workers', 2, '--json', tmp_path / 'report.json')
    assert process.returncode == 1 and 'Traceback' not in process.stderr
    bad = set(BAD) | {'dangling link'}
    assert re.findall(r'^/.*/animals/(.*)\.JPEG: .+', process.stdout, re.M) == sorted(bad)
    assert process.stdout.strip().endswith('%d image files, %d bad, 1 other files ignored' % (len(GOOD) + len(bad),
                                                                                              len(bad)))
    report = json.loads((tmp_path / 'report.json').read_text())
    assert {os.path.basename(path)[:-5] for path in report['bad']} == bad and report['files'] == len(GOOD) + len(bad)
    for name in bad:
        os.remove(str(zoo / 'animals' / (name + '.JPEG')))
    assert run('tools/check_dataset.py', zoo).returncode == 0


@pytest.mark.slow
def test_training_names_bad_images_once_and_goes_on_or_stops(zoo, tmp_path):
    command = ('train.py', '--dataset_path', zoo, '--epoch_size', 2, '--max_bad_images', 0.5) + tuple(SMALL_FLAGS)
    process = run(*command + ('--ckpt_path', tmp_path / 'a'))
    assert process.returncode == 0, process.stderr
    assert sorted(re.findall(r'^warning: .*/animals/(.*)\.JPEG: ', process.stderr, re.M)) == sorted(
        list(BAD) + ['dangling link'])
    process = run(*command + ('--ckpt_path', tmp_path / 'b', '--on_bad_image', 'stop'))
    assert process.returncode == 1 and process.stderr.count('\n') == 1
    assert re.match(r'error: .*/animals/.*\.JPEG: .*--on_bad_image skip', process.stderr)


@pytest.mark.slow
def test_divergence_stops_before_anything_poisoned_is_written(image_folder, tmp_path):
    process = run('train.py', '--dataset_path', image_folder / 'train', '--ckpt_path', tmp_path, '--lr_init', '1e30',
                  '--save_checkpoint_steps', 1, '--epoch_size', 3, *SMALL_FLAGS)
    assert process.returncode == 1 and process.stderr.count('\n') == 1, process.stderr
    assert process.stderr.startswith('error: ') and '--lr_init' in process.stderr
    for path in list_checkpoints(str(tmp_path), 0):
        assert all(np.isfinite(array).all() for array in load(path).arrays.values())
    assert not list(tmp_path.glob('*unfinished*'))


@pytest.mark.slow
def test_a_full_disk_stops_with_the_last_checkpoint_intact(image_folder, tmp_path):
    command = ('train.py', '--dataset_path', image_folder / 'train', '--ckpt_path', tmp_path) + tuple(SMALL_FLAGS)
    assert run(*command + ('--epoch_size', 1)).returncode == 0
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(str(tmp_path))}
    process = run(*command + ('--epoch_size', 2, '--resume', 'auto', '--save_checkpoint_steps', 1),
                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10 ** 6, 10 ** 6)))
    assert process.returncode == 1, process.stdout
    assert re.match(r'error: \S+2_1\.ckpt cannot be written .*: make room', process.stderr), process.stderr
    assert process.stderr.count('\n') == 1
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(str(tmp_path))} == before
    # With room again it goes on, and ends where a run that never met the limit ends.
    assert run(*command + ('--epoch_size', 2, '--resume', 'auto')).returncode == 0
    whole = tmp_path / 'undisturbed'
    assert run(*command + ('--epoch_size', 2, '--ckpt_path', whole)).returncode == 0
    name = 'nasnet-a-mobile-rank0-2_4.ckpt'
    one, other = (load(str(folder / name)).arrays for folder in (tmp_path, whole))
    assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_a_run_may_go_on_with_a_full_disk(image_folder, tmp_path):
    process = run('train.py', '--dataset_path', image_folder / 'train', '--ckpt_path', tmp_path, '--epoch_size', 1,
                  '--on_save_error', 'continue', *SMALL_FLAGS,
                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10 ** 6, 10 ** 6)))
    assert process.returncode == 0, process.stderr
    assert re.match(r'warning: \S+1_4\.ckpt cannot be written .*: make room', process.stderr), process.stderr
    assert sorted(os.listdir(str(tmp_path))) == ['classes.txt', 'metrics.csv', 'metrics.png']


@pytest.mark.slow
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


# Makes a folder like one on a network disk or in an object store: without modes, links, locks, flush and size.
POOR_FILE_SYSTEM = '''
import errno, fcntl, os, shutil
from types import SimpleNamespace

def refuse(module, name, number):
    original = getattr(module, name)
    def function(target, *arguments, **keywords):
        number_of_file = target if isinstance(target, int) else getattr(target, 'fileno', int)()
        path = os.readlink('/proc/self/fd/%d' % number_of_file) if number_of_file else str(target)
        if path.startswith(FOLDER):
            raise OSError(number, os.strerror(number))
        return original(target, *arguments, **keywords)
    setattr(module, name, function)

for module, name, number in ((os, 'chmod', errno.EPERM), (os, 'fchmod', errno.EPERM), (os, 'link', errno.EPERM),
                             (os, 'fsync', errno.EINVAL), (fcntl, 'flock', errno.ENOLCK)):
    refuse(module, name, number)
shutil.disk_usage = lambda path: SimpleNamespace(total=0, used=0, free=0)
'''


@pytest.mark.slow
def test_a_file_system_that_can_do_little_keeps_a_run(image_folder, tmp_path):
    folder = tmp_path / 'run'
    (tmp_path / 'sitecustomize.py').write_text('FOLDER = %r\n' % str(folder) + POOR_FILE_SYSTEM)
    process = run('train.py', '--dataset_path', image_folder / 'train', '--eval_dataset_path', image_folder / 'val',
                  '--ckpt_path', folder, '--epoch_size', 1, *SMALL_FLAGS, '--image_size', 40, '--aux_factor', 0,
                  env=dict(os.environ, PYTHONPATH=str(tmp_path)))
    assert process.returncode == 0, process.stderr
    assert re.match(r'warning: the file system of \S+ has no locks .*\n$', process.stderr), process.stderr
    last, best = 'nasnet-a-mobile-rank0-1_4.ckpt', 'nasnet-a-mobile-best.ckpt'
    assert set(os.listdir(str(folder))) >= {'classes.txt', 'metrics.csv', best, last}
    assert load(str(folder / last)).meta['epoch'] == load(str(folder / best)).meta['epoch'] == 1


@pytest.mark.slow
def test_auto_does_not_start_again_if_all_checkpoints_are_damaged(image_folder, tmp_path):
    (tmp_path / 'nasnet-a-mobile-rank0-7_4.ckpt').write_text('damaged')
    process = run('train.py', '--dataset_path', image_folder / 'train', '--ckpt_path', tmp_path, '--resume', 'auto',
                  *SMALL_FLAGS)
    assert process.returncode == 1
    last = process.stderr.strip().split('\n')[-1]
    assert last.startswith('error: none of the 1 checkpoints in %s can be used' % tmp_path)
    assert os.listdir(str(tmp_path)) == ['nasnet-a-mobile-rank0-7_4.ckpt']


@pytest.mark.slow
def test_killed_and_resumed_training_is_the_undisturbed_one():
    process = run('tools/crash_test.py', '--kills', 4)
    assert process.returncode == 0, process.stdout + process.stderr
    assert '4 kills' in process.stdout
