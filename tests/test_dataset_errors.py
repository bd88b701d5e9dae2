"""A file system that fails for a moment blames no image; bad images are bounded, counted and said."""
import contextlib
import csv
import errno
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from src.dataset import ALWAYS_ALLOWED, create_dataset
from src.distributed.group import Group
from src.errors import UserError
from src.inference.evaluation import Accuracy, evaluate
from src.input import reading
from src.training.metrics import COLUMNS
from src.training.monitor import Monitor
from tests.helpers import ROOT, SMALL_FLAGS, run

COUNTS = {'ant': 7, 'bee': 5, 'cat': 11}        # 23 images
# What network file systems and machines short of something report.
HICCUPS = ['EIO', 'ESTALE', 'ETIMEDOUT', 'EMFILE', 'ENFILE', 'ENOMEM', 'EAGAIN', 'EINTR', 'ENETDOWN', 'EHOSTDOWN',
           'ENOTCONN', 'EREMOTEIO', 'EBUSY']


def config(**changes):
    values = dict(random_seed=1, rank=0, group_size=1, work_nums=2, batch_size=4, accumulation_steps=1,
                  num_classes=3, image_size=32, crop_min_area=0.08, color_jitter=0.4, on_bad_image='skip',
                  max_bad_images=0.01)
    values.update(changes)
    return SimpleNamespace(**values)


def make_images(root, counts):
    random = np.random.RandomState(0)
    for name, count in sorted(counts.items()):
        os.makedirs(os.path.join(root, name))
        for number in range(count):
            pixels = random.randint(0, 256, (48, 64, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(os.path.join(root, name, '%02d.jpg' % number))
    return root


@pytest.fixture
def images(tmp_path):
    return make_images(str(tmp_path / 'set'), COUNTS)


def damage(root, *names):
    for name in names:
        with open(os.path.join(root, name), 'wb') as file:
            file.write(b'not an image')


def epochs(dataset, count=2):
    return [array for number in range(count) for batch in dataset.batches(number) for array in batch]


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        np.testing.assert_array_equal(a, b)


@contextlib.contextmanager
def later(seconds, function):
    """Run the block, and `function` in another thread after some seconds."""
    timer = threading.Timer(seconds, function)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def failing_open(error, until, suffix='.jpg', at_read=False):
    """A function like open() that fails for some files until a time."""
    class Failing:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self):
            raise error

    def fail(path, *arguments, **keywords):
        if path.endswith(suffix) and time.time() < until:
            if at_read:
                return Failing()
            raise error
        return open(path, *arguments, **keywords)
    return fail


# Hiccups of the file system

@pytest.mark.parametrize('name', HICCUPS)
@pytest.mark.parametrize('training', [True, False])
def test_a_hiccup_changes_no_byte_and_blames_no_file(images, monkeypatch, capsys, name, training):
    expected = epochs(create_dataset(images, config(), training))
    error = OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
    dataset = create_dataset(images, config(), training)
    monkeypatch.setattr(reading, 'open', failing_open(error, time.time() + 0.3, at_read=name == 'EIO'), raising=False)
    assert_same(epochs(dataset), expected)
    assert dataset.skipped == {} and capsys.readouterr().err == ''


@pytest.mark.parametrize('training', [True, False])
def test_a_hiccup_that_lasts_stops_with_the_file_and_the_reason(images, monkeypatch, training):
    before = threading.active_count()
    monkeypatch.setattr(reading, 'PAUSES', (0.01, 0.02))
    monkeypatch.setattr(reading, 'open', failing_open(OSError(errno.ESTALE, 'Stale file handle'), np.inf, '03.jpg'),
                        raising=False)
    dataset = create_dataset(images, config(), training)
    with pytest.raises(UserError) as caught:
        epochs(dataset)
    assert re.match(r'error: %s/\w+/03.jpg cannot be read \(Stale file handle\), also not in 3 attempts .*--resume auto'
                    % images, str(caught.value)) and '\n' not in str(caught.value)
    assert dataset.skipped == {} and threading.active_count() == before


def test_a_real_lack_of_file_handles_is_waited_for(images):
    expected = epochs(create_dataset(images, config(), True))
    dataset = create_dataset(images, config(), True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match='Too many open files'):
            open(os.path.join(images, 'ant', '00.jpg'))
        with later(0.3, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))):
            assert_same(epochs(dataset), expected)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert dataset.skipped == {}


@pytest.mark.parametrize('away', ['set', 'set/cat', 'unmounted'])
@pytest.mark.parametrize('training', [True, False])
def test_a_folder_that_is_away_for_half_a_second(tmp_path, away, training):
    """The data set, one class, or the class as the empty place of a file system that is not mounted."""
    root = make_images(str(tmp_path / 'set'), {'ant': 10, 'bee': 10, 'cat': 60})
    expected = epochs(create_dataset(root, config(), training))
    dataset = create_dataset(root, config(), training)
    folder = str(tmp_path / ('set/cat' if away == 'unmounted' else away))

    def come_back():
        if away == 'unmounted':
            os.rmdir(folder)
        os.rename(folder + '-away', folder)

    batches = dataset.batches(0)
    seen = list(next(batches))
    os.rename(folder, folder + '-away')
    if away == 'unmounted':
        os.mkdir(folder)
    with later(0.5, come_back):
        seen += [array for batch in batches for array in batch]
    seen += [array for batch in dataset.batches(1) for array in batch]
    assert_same(seen, expected)
    assert dataset.skipped == {}


def test_a_folder_that_comes_back_between_the_error_and_the_look(images, monkeypatch):
    path, attempts = os.path.join(images, 'cat', '00.jpg'), []

    def away_once(*arguments, **keywords):
        attempts.append(arguments)
        if len(attempts) == 1:
            raise FileNotFoundError(errno.ENOENT, 'No such file or directory')
        return open(*arguments, **keywords)

    monkeypatch.setattr(reading, 'open', away_once, raising=False)
    assert reading.read(path, len) == (os.path.getsize(path), None) and len(attempts) == 2


def test_a_folder_that_stays_away_is_named(images, monkeypatch):
    monkeypatch.setattr(reading, 'PAUSES', (0.01,))
    dataset = create_dataset(images, config(), False)
    os.rename(os.path.join(images, 'bee'), os.path.join(images, '.bee'))
    with pytest.raises(UserError, match=r'bee/00.jpg cannot be read \(No such file or directory; its folder \S+/bee is '
                                        r'empty or away\)'):
        epochs(dataset)


def test_leaving_does_not_wait_for_a_hiccup(images, monkeypatch):
    monkeypatch.setattr(reading, 'PAUSES', (60,))
    batches = create_dataset(images, config(), False).batches(0)
    next(batches)
    monkeypatch.setattr(reading, 'open', failing_open(OSError(errno.EIO, 'x'), np.inf), raising=False)
    time.sleep(0.1)
    start = time.time()
    batches.close()
    assert time.time() - start < 5


def test_too_little_memory_for_one_image_is_a_hiccup(images, monkeypatch):
    path, attempts = os.path.join(images, 'ant', '00.jpg'), []

    def decode(data):
        attempts.append(data)
        if len(attempts) < 3:
            raise MemoryError
        return 'pixels'

    assert reading.read(path, decode) == ('pixels', None) and len(attempts) == 3
    monkeypatch.setattr(reading, 'PAUSES', (0.01,))
    attempts[:] = []
    with pytest.raises(UserError, match='00.jpg cannot be read .Cannot allocate memory.'):
        reading.read(path, decode)


def test_a_scan_names_a_file_system_that_fails(images, monkeypatch):
    def scandir(path, original=os.scandir):
        if os.path.basename(path) == 'bee':
            raise OSError(errno.EIO, 'Input/output error', path)
        return original(path)

    monkeypatch.setattr(os, 'scandir', scandir)
    with pytest.raises(UserError, match='bee cannot be read .Input/output error.: make the file system work again'):
        create_dataset(images, config(), True)


# Bad images

def test_what_a_file_itself_is_makes_it_bad_at_once(images, monkeypatch, capfd):
    folder = os.path.join(images, 'cat')
    os.symlink(os.path.join(images, 'nowhere.jpg'), os.path.join(folder, 'dangling.jpg'))
    os.symlink('loop.jpg', os.path.join(folder, 'loop.jpg'))
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        monkeypatch.chdir(folder)       # The name of a socket must be short.
        server.bind('socket.jpg')
    dataset = create_dataset(images, config(max_bad_images=1), False)
    assert dataset.num_images == 26
    os.remove(os.path.join(folder, '00.jpg'))
    os.remove(os.path.join(folder, '01.jpg'))
    os.mkdir(os.path.join(folder, '01.jpg'))
    damage(images, 'cat/02.jpg')

    def forbidden(path, *arguments, **keywords):        # The tests may run as root, who may read everything.
        if path.endswith('03.jpg') and 'cat' in path:
            raise PermissionError(errno.EACCES, 'Permission denied')
        return open(path, *arguments, **keywords)

    monkeypatch.setattr(reading, 'open', forbidden, raising=False)
    start = time.time()
    assert sum(batch.valid.sum() for batch in dataset.batches(0)) == 26 - 7
    assert time.time() - start < 2
    assert {os.path.basename(path): reason for path, reason in dataset.skipped.items()} == {
        '00.jpg': 'No such file or directory', '01.jpg': 'Is a directory', '03.jpg': 'Permission denied',
        '02.jpg': dataset.skipped[os.path.join(folder, '02.jpg')], 'dangling.jpg': 'No such file or directory',
        'loop.jpg': 'Too many levels of symbolic links', 'socket.jpg': 'No such device or address'}
    assert capfd.readouterr().err.count('warning: ') == 7


def test_a_link_into_a_folder_that_is_away_is_waited_for_and_then_bad(images, tmp_path, monkeypatch):
    target = str(tmp_path / 'mount')
    os.mkdir(target)
    path = os.path.join(images, 'cat', '00.jpg')
    os.rename(path, os.path.join(target, 'target.jpg'))
    os.symlink(os.path.join(target, 'target.jpg'), path)
    expected = epochs(create_dataset(images, config(), True))
    dataset = create_dataset(images, config(), True)
    os.rename(target, target + '-away')
    with later(0.3, lambda: os.rename(target + '-away', target)):
        assert_same(epochs(dataset), expected)
    assert dataset.skipped == {}
    os.rename(target, target + '-away')
    monkeypatch.setattr(reading, 'PAUSES', (0.01, 0.02))
    assert sum(batch.valid.sum() for batch in dataset.batches(2)) == 20


def test_any_error_of_a_decoder_is_that_files_reason(images, monkeypatch):
    def decode(data, buffer):
        raise KeyError(6)

    monkeypatch.setattr('src.dataset.decode', decode)
    dataset = create_dataset(images, config(max_bad_images=1), False)
    assert sum(batch.valid.sum() for batch in dataset.batches(0)) == 0
    assert len(dataset.skipped) == 23 and set(dataset.skipped.values()) == {'6'}


@pytest.mark.parametrize('training', [True, False])
def test_more_bad_images_than_the_share_stop_the_run(tmp_path, training):
    root = make_images(str(tmp_path / 'set'), {'ant': 40})
    damage(root, *('ant/%02d.jpg' % number for number in range(ALWAYS_ALLOWED)))
    for share in (0.0, 0.01):
        assert len(list(create_dataset(root, config(max_bad_images=share), training).batches(0))) == 10
    damage(root, 'ant/39.jpg')
    dataset = create_dataset(root, config(), training)
    with pytest.raises(UserError) as caught:
        list(dataset.batches(0))
    assert re.match(r'error: at least 4 of 40 images of %s are bad, for example (%s/ant/\d\d\.jpg \(not an image .*\), '
                    r'){2}%s/ant/\d\d\.jpg \(.*\), more than max_bad_images 0.01 allows: .* set a larger '
                    r'--max_bad_images$' % (root, root, root), str(caught.value))
    dataset = create_dataset(root, config(max_bad_images=0.1), training)
    assert len(epochs(dataset, 2)) == 4 * 20 and len(dataset.skipped) == 4
    damage(root, 'ant/38.jpg')
    with pytest.raises(UserError, match='5 of 40 images'):
        epochs(dataset, 3)


def test_a_rank_compares_with_the_images_that_it_reads(tmp_path):
    root = make_images(str(tmp_path / 'set'), {'ant': 80})
    damage(root, *('ant/%02d.jpg' % number for number in range(0, 16, 2)))       # 8 of the 40 images of rank 0
    rank_0, rank_1 = (create_dataset(root, config(max_bad_images=0.1, group_size=2, rank=rank), False)
                      for rank in range(2))
    with pytest.raises(UserError, match='at least [5-8] of 40 images'):
        list(rank_0.batches(0))
    assert len(list(rank_1.batches(0))) == 10


def zeros(images):
    """Logits of a network, all of them zero."""
    return np.zeros((len(images), 3), np.float32)


class TwoRanks(Group):
    """The other rank has read 20 images and found 3 bad ones."""

    def sum(self, counts):
        return counts + np.array([0, 0, 20, 3])


def test_evaluation_counts_the_bad_images_of_all_ranks(images):
    damage(images, 'ant/00.jpg', 'bee/00.jpg')
    accuracy = evaluate(zeros, create_dataset(images, config(), False))
    assert (accuracy.images, accuracy.skipped) == (21, 2) and accuracy.top1 == 6 / 21
    with pytest.raises(UserError, match='5 of 46 images of .* are bad, for example .*ant/00.jpg'):
        evaluate(zeros, create_dataset(images, config(max_bad_images=0.1), False), TwoRanks())
    assert evaluate(zeros, create_dataset(images, config(max_bad_images=0.11), False), TwoRanks()).skipped == 5


# Replacements

def test_a_replacement_is_drawn_from_all_files(tmp_path):
    """Of a class that is bad as a whole, the next class by name must not become the heir."""
    root = make_images(str(tmp_path / 'set'), {'ant': 30, 'bee': 20, 'cat': 10})
    damage(root, *('ant/%02d.jpg' % number for number in range(20)))
    dataset = create_dataset(root, config(max_bad_images=1, batch_size=60, image_size=8), True)
    labels = np.concatenate([batch.labels for number in range(60) for batch in dataset.batches(number)])
    count = np.bincount(labels) / 60 - [10, 20, 10]         # replacements of the 20 bad files in an epoch
    assert count.sum() == 20
    # The expected shares are 1/4, 1/2 and 1/4 of 1,200 replacements, with a standard deviation below 0.3 an epoch.
    np.testing.assert_allclose(count, [5, 10, 5], atol=1.5)


def test_a_replacement_depends_on_seed_epoch_and_position_only(images):
    damage(images, 'ant/00.jpg', 'bee/00.jpg', 'cat/09.jpg')
    whole = [list(create_dataset(images, config(batch_size=8), True).batches(epoch)) for epoch in range(2)]
    for rank in range(2):
        for workers in (1, 4):
            half = create_dataset(images, config(group_size=2, rank=rank, work_nums=workers), True)
            for epoch in (1, 0):        # What was met before does not matter.
                assert_same([array for batch in half.batches(epoch) for array in batch],
                            [array[4 * rank:4 * rank + 4] for batch in whole[epoch] for array in batch])
    later_step = create_dataset(images, config(batch_size=8), True)
    assert_same(list(next(later_step.batches(1, 1))), list(whole[1][1]))


# What the log and metrics.csv say

def finish_epochs(monitor, accuracies):
    for epoch, accuracy in enumerate(accuracies, 1):
        with monitor.begin_epoch(epoch, (3, 3.0, 3.0)):
            pass
        monitor.end_epoch(epoch, 0.1, accuracy)


def test_an_epoch_says_what_its_validation_left_out(tmp_path, capsys):
    monitor = Monitor(str(tmp_path), epochs=2, steps=3, images=8, log_steps=3)
    finish_epochs(monitor, [Accuracy(0.5, 0.75, 200, 0, 9.0), Accuracy(0.25, 0.5, 198, 2, 9.0)])
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith('validation top-1 50.00% top-5 75.00%, best top-1 50.00% in epoch 1')
    assert ('validation top-1 25.00% top-5 50.00% over 198 of 200 images (2 are bad and left out), best' in second)
    monitor.write()
    with open(str(tmp_path / 'metrics.csv'), newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['validation_images'], row['skipped_images'], row['top1']) for row in rows] == [
        ('200', '0', '0.500000'), ('198', '2', '0.250000')]


def test_an_epoch_is_not_the_best_because_images_were_missing(tmp_path):
    monitor = Monitor(None, epochs=5, steps=3, images=8, log_steps=3)
    finish_epochs(monitor, [Accuracy(0.80, 1.0, 200, 0, 9.0),
                            Accuracy(160 / 199, 1.0, 199, 1, 9.0)])      # the same 160 right ones, one image less
    assert monitor.best() == (80.0, 1)
    finish_epochs(monitor, [Accuracy(161 / 199, 1.0, 199, 1, 9.0)])     # 161 right ones: better in any case
    assert monitor.best()[1] == 1 and len(monitor.rows) == 3
    monitor.rows[-1][0] = '3'
    assert monitor.best()[1] == 3 and monitor.best()[0] == pytest.approx(100 * 161 / 199, abs=1e-4)


def test_rows_of_an_earlier_version_go_on(tmp_path):
    old = ['1', '3', '0.1', '1.000000', '1.000000', '0.900000', '1.000000', '12.50']
    monitor = Monitor(str(tmp_path), epochs=3, steps=3, images=8, log_steps=3, rows=[old])
    assert monitor.best() == (90.0, 1)
    with monitor.begin_epoch(2, (3, 3.0, 3.0)):
        pass
    monitor.end_epoch(2, 0.1, Accuracy(0.95, 1.0, 200, 0, 9.0))
    assert monitor.best() == (95.0, 2)
    again = Monitor(str(tmp_path), epochs=3, steps=3, images=8, log_steps=3, rows=monitor.rows)
    assert again.rows == monitor.rows and {len(row) for row in again.rows} == {len(COLUMNS)}
    again.write()
    with open(str(tmp_path / 'metrics.csv'), newline='') as file:
        first = next(csv.DictReader(file))
    assert first['images_per_second'] == '12.50' and first['top1'] == '0.900000' and first['skipped_images'] == ''


# The whole program

@pytest.mark.slow
def test_an_outage_stops_training_with_its_last_checkpoint_and_it_can_go_on(image_folder, tmp_path):
    data, folder = tmp_path / 'data', tmp_path / 'run'
    subprocess.check_call(['cp', '-r', str(image_folder / 'train'), str(data)])
    command = ['train.py', '--dataset_path', data, '--ckpt_path', folder, '--save_checkpoint_steps', 1,
               '--keep_checkpoint_max', 2] + SMALL_FLAGS
    process = subprocess.Popen([sys.executable] + [str(word) for word in command + ['--epoch_size', 10000]], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True)
    try:
        while not list(folder.glob('*.ckpt')) and process.poll() is None:
            time.sleep(0.05)
        os.rename(str(data / 'class 2'), str(tmp_path / 'away'))
        error = process.communicate(timeout=120)[1]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    assert process.returncode == 1 and error.count('\n') == 1, error
    assert re.match(r'error: .*/class 2/\d\.JPEG cannot be read \(No such file or directory; its folder .* away', error)
    os.rename(str(tmp_path / 'away'), str(data / 'class 2'))
    found = list(folder.glob('nasnet-a-mobile-rank0-*.ckpt'))
    last = max(int(re.search(r'-(\d+)_', path.name).group(1)) for path in found)
    process = run(*command + ['--epoch_size', last + 1, '--resume', 'auto'])
    assert process.returncode == 0 and 'resuming ' in process.stdout and process.stderr == '', process.stderr
