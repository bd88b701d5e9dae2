"""A data set's batches are a function of (files, configuration, epoch, step); mistakes get one sentence."""
import gc
import os
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from src import dataset as module
from src.dataset import create_dataset
from src.errors import UserError
from src.input.image import decode, resize_centre_crop

COUNTS = {'ant': 7, 'bee': 5, 'cat': 11}        # 23 images


def config(**changes):
    values = dict(random_seed=1, rank=0, group_size=1, work_nums=2, batch_size=4, accumulation_steps=1,
                  num_classes=3, image_size=32, crop_min_area=0.08, color_jitter=0.4, on_bad_image='skip',
                  max_bad_images=1.0)
    values.update(changes)
    return SimpleNamespace(**values)


def make_images(root, counts=None):
    """JPEG files root/class/0.jpg ... of random smooth colours."""
    random = np.random.RandomState(0)
    for name, count in sorted((counts or COUNTS).items()):
        folder = os.path.join(str(root), name)
        os.makedirs(folder)
        for number in range(count):
            noise = random.randint(0, 256, (6, 8, 3)).astype(np.uint8)
            Image.fromarray(cv2.resize(noise, (64, 48))).save(os.path.join(folder, '%d.jpg' % number))
    return str(root)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp('images') / 'set')


@pytest.fixture
def own_images(tmp_path):
    return make_images(tmp_path / 'set')


def epoch(path, number=0, first_step=0, training=True, **changes):
    return list(create_dataset(path, config(**changes), training).batches(number, first_step))


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)


# What a batch holds

@pytest.mark.parametrize('training', [True, False])
def test_a_batch_has_its_shapes_types_and_ranges(images, training):
    for batch in epoch(images, training=training):
        assert batch.images.shape == (4, 32, 32, 3) and batch.images.dtype == np.uint8
        assert batch.labels.shape == (4,) and batch.labels.dtype == np.int32
        assert batch.color.shape == (4, 3) and batch.color.dtype == np.float32
        assert batch.valid.shape == (4,) and batch.valid.dtype == np.float32
        assert all(array.flags.c_contiguous for array in batch)


def test_labels_are_positions_among_the_sorted_folders(images):
    dataset = create_dataset(images, config(), training=False)
    assert dataset.class_names == ['ant', 'bee', 'cat'] and dataset.num_images == 23
    labels = np.concatenate([batch.labels[batch.valid > 0] for batch in dataset.batches(0)])
    assert labels.tolist() == [0] * 7 + [1] * 5 + [2] * 11


def test_color_factors_spread_over_their_range(images):
    color = np.concatenate([batch.color for number in range(40) for batch in epoch(images, number)])
    assert 0.6 <= color.min() < 0.62 and 1.38 < color.max() <= 1.4
    assert np.abs(color.mean(0) - 1).max() < 0.04
    assert all((batch.color == 1).all() for batch in epoch(images, color_jitter=0.0))
    assert all((batch.color == 1).all() for batch in epoch(images, training=False))


def test_neighbours_of_one_file_get_different_crops(tmp_path):
    one = make_images(tmp_path / 'one', {'ant': 1})
    dataset = create_dataset(one, config(batch_size=1), training=True)
    crops = {next(dataset.batches(number)).images.tobytes() for number in range(32)}
    assert len(crops) == 32
    same = make_images(tmp_path / 'same', {'ant': 32})
    for number in range(1, 32):
        os.remove(os.path.join(same, 'ant', '%d.jpg' % number))
        os.link(os.path.join(same, 'ant', '0.jpg'), os.path.join(same, 'ant', '%d.jpg' % number))
    batch, = epoch(same, batch_size=32)
    assert len({image.tobytes() for image in batch.images}) == 32


# Reproducibility

@pytest.mark.parametrize('training', [True, False])
def test_any_number_of_workers_gives_the_same_bytes(images, training, monkeypatch):
    monkeypatch.setattr(module, 'cpu_count', lambda: 8)
    one = epoch(images, training=training, work_nums=1)
    for workers in (2, 5, 8):
        assert_same(epoch(images, training=training, work_nums=workers), one)


def test_there_are_no_more_threads_than_processors_that_this_process_may_use(images):
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        batches = create_dataset(images, config(work_nums=8), True).batches(0)
        next(batches)
        assert sum(thread.name.startswith('ThreadPoolExecutor') for thread in threading.enumerate()) == 1
        batches.close()
    finally:
        os.sched_setaffinity(0, allowed)


def test_opencv_leaves_threads_to_the_data_set(images):
    cv2.setNumThreads(2)
    create_dataset(images, config(), True)
    assert cv2.getNumThreads() == 1


@pytest.mark.parametrize('step', [0, 2, 4, 5])
def test_an_epoch_can_start_at_any_step(images, step):
    assert_same(epoch(images, 3, step), epoch(images, 3)[step:])


def test_epochs_and_seeds_differ(images):
    firsts = {epoch(images, number, random_seed=seed)[0].images.tobytes()
              for number in (0, 1) for seed in (1, 2)}
    assert len(firsts) == 4


@pytest.mark.parametrize('group_size', [2, 4])
def test_the_global_batch_does_not_depend_on_its_split(images, group_size):
    whole = epoch(images, 1, batch_size=8)
    parts = [epoch(images, 1, batch_size=8 // group_size, group_size=group_size, rank=rank)
             for rank in range(group_size)]
    joined = [[np.concatenate(arrays) for arrays in zip(*batches)] for batches in zip(*parts)]
    assert_same(joined, whole)


@pytest.mark.parametrize('group_size', [1, 2])
def test_accumulated_batches_hold_the_images_of_one_larger_batch(images, group_size):
    for rank in range(group_size):
        whole = epoch(images, 1, batch_size=6, group_size=group_size, rank=rank)
        parts = epoch(images, 1, batch_size=2, accumulation_steps=3, group_size=group_size, rank=rank)
        joined = [[np.concatenate(arrays) for arrays in zip(*parts[first:first + 3])]
                  for first in range(0, len(parts), 3)]
        assert_same(joined, whole)
        again = create_dataset(images, config(batch_size=2, accumulation_steps=3, group_size=group_size, rank=rank),
                               training=True)
        assert again.get_dataset_size() == len(whole)
        assert_same(list(again.batches(1, len(whole) - 1)), parts[-3:])


# Every image once

def test_training_shows_an_image_at_most_once_an_epoch(images):
    # A crop shows the whole image, mirrored or not, so its mean tells which file it is.
    known = {tuple(np.round(image.reshape(-1, 3).mean(0, dtype=np.float64), 6)) for batch in
             epoch(images, 0, crop_min_area=1.0, batch_size=1, color_jitter=0.0) for image in batch.images}
    assert len(known) == 23


@pytest.mark.parametrize('group_size', [1, 2, 3, 30])
def test_evaluation_shows_every_image_once_over_the_ranks(images, group_size):
    seen = []
    for rank in range(group_size):
        dataset = create_dataset(images, config(rank=rank, group_size=group_size), training=False)
        batches = list(dataset.batches(0))
        assert len(batches) == dataset.get_dataset_size() == -(-len(range(rank, 23, group_size)) // 4)
        for batch in batches:
            assert (batch.images[batch.valid == 0] == 0).all()
            seen += [image.tobytes() for image in batch.images[batch.valid > 0]]
    expected = []
    for name in sorted(COUNTS):
        for file in sorted(os.listdir(os.path.join(images, name))):
            with open(os.path.join(images, name, file), 'rb') as data:
                expected.append(resize_centre_crop(decode(data.read()), 32).tobytes())
    assert sorted(seen) == sorted(expected)
    assert group_size > 1 or seen == expected


@pytest.mark.parametrize('batch_size, group_size, steps',
                         [(4, 1, 5), (23, 1, 1), (1, 1, 23), (4, 2, 2), (5, 4, 1)])
def test_training_drops_the_last_incomplete_global_batch(images, batch_size, group_size, steps):
    dataset = create_dataset(images, config(batch_size=batch_size, group_size=group_size), training=True)
    batches = list(dataset.batches(0))
    assert len(batches) == dataset.get_dataset_size() == steps
    assert all(batch.valid.all() for batch in batches)


# Unreadable files

def damage(root, *names):
    for name in names:
        with open(os.path.join(root, name), 'r+b') as file:
            file.truncate(os.path.getsize(file.name) // 2)


def test_training_puts_another_file_in_the_place_of_a_bad_one(own_images, capsys):
    good = epoch(own_images, batch_size=23)[0]
    order = np.argsort(module.epoch_order(1, 0, 23))        # row of file 0, 1, ...
    damage(own_images, 'ant/6.jpg', 'bee/0.jpg', 'cat/9.jpg')       # files 6, 7, and the last by name, 22
    dataset = create_dataset(own_images, config(batch_size=23), training=True)
    for _ in range(2):
        batch, = dataset.batches(0)
        assert batch.valid.all()
        others = np.delete(np.arange(23), order[[6, 7, 22]])
        np.testing.assert_array_equal(batch.images[others], good.images[others])
        np.testing.assert_array_equal(batch.color, good.color)
    paths = [os.path.join(own_images, name) for name in ('ant/6.jpg', 'bee/0.jpg', 'cat/9.jpg')]
    assert sorted(dataset.skipped) == paths
    assert set(dataset.skipped.values()) == {'truncated or corrupt JPEG (Truncated File Read)'}
    warnings = sorted(capsys.readouterr().err.splitlines())
    assert warnings == ['warning: %s: %s' % (path, dataset.skipped[path]) for path in paths]


def test_replacements_are_the_same_for_any_number_of_workers(own_images, monkeypatch):
    monkeypatch.setattr(module, 'cpu_count', lambda: 8)
    damage(own_images, *('ant/%d.jpg' % number for number in range(7)))
    assert_same(epoch(own_images, work_nums=8), epoch(own_images, work_nums=1))


def test_evaluation_leaves_unreadable_files_out(own_images):
    damage(own_images, 'bee/2.jpg')
    dataset = create_dataset(own_images, config(), training=False)
    for _ in range(2):
        batches = list(dataset.batches(0))
        assert sum(batch.valid.sum() for batch in batches) == 22
        assert batches[2].valid.tolist() == [1, 0, 1, 1]
    assert list(dataset.skipped) == [os.path.join(own_images, 'bee', '2.jpg')]


def test_a_file_that_vanishes_is_skipped(own_images):
    dataset = create_dataset(own_images, config(), training=True)
    os.remove(os.path.join(own_images, 'cat', '3.jpg'))
    assert sum(len(batch.valid) for batch in dataset.batches(0)) == 20
    damage(own_images, 'cat/0.jpg')
    list(dataset.batches(1)), list(dataset.batches(2))
    assert dataset.skipped[os.path.join(own_images, 'cat', '3.jpg')] == 'No such file or directory'


def test_a_data_set_without_a_readable_file_is_an_error(tmp_path):
    root = make_images(tmp_path / 'bad', {'ant': 4, 'bee': 4})
    damage(root, *('%s/%d.jpg' % (name, number) for name in ('ant', 'bee') for number in range(4)))
    with pytest.raises(UserError, match='none of the 8 images of .*bad can be read: check the files named'):
        epoch(root)
    assert sum(batch.valid.sum() for batch in epoch(root, training=False)) == 0


# Threads

def workers():
    return [thread for thread in threading.enumerate() if thread is not threading.main_thread()]


def test_a_thread_keeps_no_memory_for_a_very_large_image(images, monkeypatch):
    dataset = create_dataset(images, config(), True)
    assert np.shares_memory(dataset._buffer(1000), dataset._buffer(900))
    monkeypatch.setattr(module, 'LARGE', 2000)
    assert not np.shares_memory(dataset._buffer(2001), dataset._buffer(2001))
    assert len(dataset._buffer(2000)) == 2000


def test_leaving_early_ends_the_threads(images):
    before = len(workers())
    dataset = create_dataset(images, config(batch_size=2), training=True)
    for _ in dataset.batches(0):
        break
    gc.collect()
    assert len(workers()) == before
    generator = dataset.batches(0)
    next(generator)
    assert len(workers()) > before
    generator.close()
    assert len(workers()) == before
    list(dataset.batches(0))
    assert len(workers()) == before


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
def test_an_error_in_the_middle_cancels_the_work_in_hand(images, monkeypatch, error):
    before, started = len(workers()), []

    def slow(self, index, stop):
        started.append(index)
        time.sleep(0.02)
        if len(started) > 4:
            raise error()
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(module.ImageFolder, '_read', slow)
    with pytest.raises(error):
        epoch(images, batch_size=4)
    assert len(started) < 20 and len(workers()) == before


def test_no_more_batches_are_made_than_needed_ahead(images, monkeypatch):
    read = []

    def count(self, index, stop, original=module.ImageFolder._read):
        read.append(index)
        return original(self, index, stop)

    monkeypatch.setattr(module.ImageFolder, '_read', count)
    generator = create_dataset(images, config(batch_size=2), training=True).batches(0)
    next(generator)
    time.sleep(0.2)
    assert len(read) <= 2 * (1 + module.AHEAD + 1)
    generator.close()


# Scanning

def test_other_files_are_ignored_and_counted(own_images):
    for name in ('notes.txt', '.hidden.jpg', 'ant/notes.txt', 'ant/.hidden.jpg', 'bee/list.jpg.csv'):
        with open(os.path.join(own_images, name), 'w') as file:
            file.write('x')
    os.makedirs(os.path.join(own_images, 'cat', 'folder.jpg'))
    os.makedirs(os.path.join(own_images, '.thumbnails'))
    dataset = create_dataset(own_images, config(), training=True)
    assert dataset.num_images == 23 and dataset.ignored_files == 7


def test_extensions_count_in_any_case(tmp_path):
    root = make_images(tmp_path / 'set', {'ant': 9})
    for number, ending in enumerate('jpeg JPG Png bmp GIF webp tif TIFF JPEG'.split()):
        path = os.path.join(root, 'ant', str(number))
        os.rename(path + '.jpg', '%s.%s' % (path, ending))
    assert create_dataset(root, config(), training=True).num_images == 9


def test_linked_folders_and_files_count(images, tmp_path):
    os.makedirs(str(tmp_path / 'bee'))
    os.symlink(os.path.join(images, 'ant'), str(tmp_path / 'ant'))
    os.symlink(os.path.join(images, 'bee', '0.jpg'), str(tmp_path / 'bee' / '0.jpg'))
    assert create_dataset(str(tmp_path), config(), training=True).num_images == 8


def test_labels_follow_a_given_list_of_classes(images):
    names = ['zebra', 'cat', 'bee', 'ant']
    dataset = create_dataset(images, config(num_classes=4), training=False, class_names=names)
    labels = np.concatenate([batch.labels[batch.valid > 0] for batch in dataset.batches(0)])
    assert dataset.class_names == names and labels.tolist() == [1] * 11 + [2] * 5 + [3] * 7


# Mistakes

def sentence(path, training=True, class_names=None, **changes):
    with pytest.raises(UserError) as caught:
        create_dataset(str(path), config(**changes), training, class_names)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_mistakes_about_the_folder(tmp_path):
    layout = 'give a folder with one folder of images per class'
    missing, file = tmp_path / 'no', tmp_path / 'file'
    file.write_text('x')
    assert sentence(missing) == 'error: the data set %s does not exist: %s' % (missing, layout)
    assert sentence(file) == 'error: the data set %s is a file: %s' % (file, layout)
    assert sentence(tmp_path) == ('error: the data set %s has no class folder: '
                                  'put the images into one folder per class' % tmp_path)


def test_mistakes_about_classes(own_images):
    assert sentence(own_images, num_classes=2) == (
        'error: %s has 3 classes, more than num_classes 2: set --num_classes 3' % own_images)
    assert sentence(own_images, training=False, class_names=['ant', 'cat']) == (
        'error: %s/bee is not among the 2 classes of the training: remove or rename that folder' % own_images)
    assert sentence(own_images, training=False, class_names=['ant', 'cat', 'Bee']) == (
        "error: %s/bee is not among the 3 classes of the training, it is written as 'bee' and the class as 'Bee': "
        'remove or rename that folder' % own_images)
    os.makedirs(os.path.join(own_images, 'dog'))
    assert sentence(own_images) == (
        'error: the class folder %s/dog has no image (.jpeg .jpg .png .bmp .gif .webp .tif .tiff): '
        'add images or remove the folder' % own_images)


def test_a_batch_larger_than_the_data_set_is_a_mistake_in_training(images):
    assert sentence(images, batch_size=8, group_size=3) == (
        'error: %s has 23 images, fewer than a step of 24 (batch_size x accumulation_steps x group_size): '
        'lower --batch_size or add images' % images)
    assert create_dataset(images, config(batch_size=64), training=False).get_dataset_size() == 1


def test_a_folder_without_permission_is_named(images, monkeypatch):
    def scandir(path, original=os.scandir):
        if os.path.basename(path) == 'bee':
            raise PermissionError(13, 'Permission denied', path)
        return original(path)

    monkeypatch.setattr(os, 'scandir', scandir)
    assert sentence(images) == (
        'error: %s/bee cannot be read (Permission denied): allow this user to read it' % images)


# MindSpore's way of looping

def test_iterators_give_an_epoch_at_each_pass(images):
    iterator = create_dataset(images, config(), True).create_tuple_iterator(num_epochs=2, output_numpy=True)
    for number in range(2):
        rows = list(iterator)
        assert len(iterator) == len(rows)
        assert_same(rows, [batch[:2] for batch in epoch(images, number)])
    assert list(iterator) == []
    dataset = create_dataset(images, config(), True)
    firsts = {next(dataset.create_dict_iterator(output_numpy=True))['image'].tobytes() for _ in range(3)}
    assert len(firsts) == 3


def test_iterators_leave_out_rows_without_an_image(images):
    rows = list(create_dataset(images, config(), False).create_dict_iterator(output_numpy=True))
    assert [sorted(row) for row in rows] == [['image', 'label']] * 6
    assert [len(row['label']) for row in rows] == [4] * 5 + [3]
    assert rows[-1]['image'].shape == (3, 32, 32, 3)
