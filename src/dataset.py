"""A folder of images, one folder per class, as batches of uint8 arrays.

What a batch holds is a function of (files, configuration, epoch, step) alone: threads only fill rows, and
every random number comes from `src.draws` by position. So any step of any epoch can be had at once, and
neither the number of threads nor the split of a global batch over processes changes a byte.
"""
import collections
import hashlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from src.draws import COLOR, CROP, epoch_order, uniforms
from src.errors import UserError
from src.files import write_text
from src.image import CROP_DRAWS, decode, random_resized_crop, resize_centre_crop

EXTENSIONS = ('.jpeg', '.jpg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff')
AHEAD = 2       # batches in the making beyond the one that is waited for

Batch = collections.namedtuple('Batch', 'images labels color valid')


def create_dataset(dataset_path, config, training, class_names=None):
    """Scan `dataset_path`, one folder per class -> ImageFolder.

    Args:
        config: random_seed, rank, group_size, work_nums, batch_size, accumulation_steps, num_classes,
            image_size, crop_min_area, color_jitter and on_bad_image as attributes (src/config.py).
        training: shuffled, augmented and without a last incomplete batch; else in file order, every
            image once.
        class_names: labels are positions in this list, the one of the training, instead of positions
            among the folders sorted by name. A folder may be missing, an unknown one is an error.

    Raises:
        UserError: no such folder, no class, a class without images, too many or unknown classes, fewer
            training images than a global batch.
    """
    folders, ignored = scan(dataset_path)
    names = sorted(folders) if class_names is None else list(class_names)
    unknown = sorted(set(folders) - set(names))
    if unknown:
        raise UserError('%s is not among the %d classes of the training: remove or rename that folder'
                        % (os.path.join(dataset_path, unknown[0]), len(names)))
    if len(names) > config.num_classes:
        raise UserError('%s has %d classes, more than num_classes %d: set --num_classes %d'
                        % (dataset_path, len(names), config.num_classes, len(names)))
    dataset = ImageFolder(dataset_path, config, training, names, folders, ignored)
    if training and dataset.get_dataset_size() == 0:
        raise UserError('%s has %d images, fewer than a step of %d (batch_size x accumulation_steps x group_size): '
                        'lower --batch_size or add images'
                        % (dataset_path, dataset.num_images,
                           config.batch_size * config.accumulation_steps * config.group_size))
    return dataset


class ImageFolder:
    """Made by `create_dataset`.

    Attributes:
        num_images: files of all classes and ranks.
        class_names: list; the label of an image is the position of its folder's name.
        ignored_files: entries that are neither class folders nor image files by name.
        skipped: {path: reason} of the files found unreadable so far.
    """

    def __init__(self, path, config, training, class_names, folders, ignored_files):
        self.path, self.config, self.training = path, config, training
        self.class_names, self.ignored_files = class_names, ignored_files
        # Whole paths of a million files would take twice the memory.
        self.files = [name for folder in class_names for name in folders.get(folder, ())]
        self.labels = np.repeat(np.arange(len(class_names), dtype=np.int32),
                                [len(folders.get(folder, ())) for folder in class_names])
        self.num_images = len(self.files)
        self.skipped = {}
        self._lock = threading.Lock()
        self._scratch = threading.local()
        self._epochs = 0        # passed by iterators

    def get_dataset_size(self):
        """Steps of an epoch on this rank."""
        config = self.config
        if self.training:
            return self.num_images // (config.batch_size * config.accumulation_steps * config.group_size)
        share = len(range(config.rank, self.num_images, config.group_size))
        return -(-share // config.batch_size)

    def describe(self):
        """Number and names of the images in a few words: equal for equal lists of files."""
        names = hashlib.sha256('\n'.join(self.class_names + self.files).encode('utf-8', 'surrogateescape'))
        names.update(self.labels.tobytes())
        return '%d images in %d classes, digest of their names %s' % (self.num_images, len(self.class_names),
                                                                      names.hexdigest()[:8])

    def batches(self, epoch, first_step=0):
        """Generate the batches of this rank in `epoch` from step `first_step` on, both from 0.

        In training `accumulation_steps` batches make a step. They hold the images that one batch of so many
        times the size would hold, in its order.

        Yields:
            Batch of images (B, S, S, 3) uint8 RGB, labels (B,) int32, color (B, 3) float32 factors of
            brightness, contrast and saturation (1 in evaluation), and valid (B,) float32: 1, or 0 in
            rows without an image, which only evaluation has (after the last image, or unreadable).

        An unreadable file is named on stderr once. In training the next readable one takes its place,
        with the same draws.

        Raises:
            UserError: no file of the data set can be read (training), or on_bad_image is stop and one cannot.
        """
        order = epoch_order(self.config.random_seed, epoch, self.num_images) if self.training else None
        # Of small batches more, so that every thread has work.
        ahead = AHEAD + self.config.work_nums // self.config.batch_size
        stop = threading.Event()
        pool = ThreadPoolExecutor(min(self.config.work_nums, os.cpu_count() or 1))
        pending = collections.deque()
        try:
            parts = self.config.accumulation_steps if self.training else 1
            for number in range(first_step * parts, self.get_dataset_size() * parts):
                pending.append(self._begin(pool, stop, order, epoch, number))
                if len(pending) > ahead:
                    yield _finished(pending)
            while pending:
                yield _finished(pending)
        finally:        # also when the consumer leaves early
            stop.set()
            for _, rows in pending:
                for row in rows:
                    row.cancel()
            pool.shutdown()

    def create_tuple_iterator(self, num_epochs=1, output_numpy=False):
        """Iterator over [images, labels]; see `create_dict_iterator`."""
        return _Passes(self, num_epochs, output_numpy, list)

    def create_dict_iterator(self, num_epochs=1, output_numpy=False):
        """Iterator over {'image': (N, S, S, 3) uint8, 'label': (N,) int32}, for ordinary MindSpore loops.

        Each `for` over it is the data set's next epoch; after `num_epochs` of them (-1: never) it is
        empty. Rows without an image are left out, so the last batch of an evaluation may be shorter.
        Arrays are Tensors, or NumPy's if output_numpy.
        """
        return _Passes(self, num_epochs, output_numpy, lambda row: dict(zip(('image', 'label'), row)))

    def _begin(self, pool, stop, order, epoch, number):
        """Start filling the batch `number` of this rank's in `epoch`: (Batch, futures of its rows)."""
        config = self.config
        size, rows = config.batch_size, np.arange(config.batch_size)
        batch = Batch(np.zeros((size, config.image_size, config.image_size, 3), np.uint8),
                      np.zeros(size, np.int32), np.ones((size, 3), np.float32), np.zeros(size, np.float32))
        if self.training:
            first = first_position(config, *divmod(number, config.accumulation_steps))
            draws = uniforms(config.random_seed, epoch, CROP, first, size, CROP_DRAWS)
            color = uniforms(config.random_seed, epoch, COLOR, first, size, 3)
            batch.color[:] = 1 + config.color_jitter * (2 * color - 1)
            return batch, [pool.submit(self._fill_training, batch, row, index, draws[row], stop)
                           for row, index in enumerate(order[first:first + size].tolist())]
        indices = config.rank + config.group_size * (number * size + rows)
        return batch, [pool.submit(self._fill_evaluation, batch, row, index)
                       for row, index in enumerate(indices[indices < self.num_images].tolist())]

    def _fill_training(self, batch, row, index, draws, stop):
        for other in range(index, index + self.num_images):
            image = self._read(other % self.num_images)
            if image is not None:
                random_resized_crop(image, self.config.image_size, draws, self.config.crop_min_area,
                                    batch.images[row])
                batch.labels[row] = self.labels[other % self.num_images]
                batch.valid[row] = 1
                return
            if stop.is_set():
                return
        raise UserError('none of the %d images of %s can be read: check the files named above'
                        % (self.num_images, self.path))

    def _fill_evaluation(self, batch, row, index):
        image = self._read(index)
        if image is not None:
            batch.images[row] = resize_centre_crop(image, self.config.image_size)
            batch.labels[row] = self.labels[index]
            batch.valid[row] = 1

    def _read(self, index):
        """The image of file `index`, or None if it is unreadable, which is noted the first time.

        It lasts until this thread reads the next one.
        """
        path = os.path.join(self.path, self.class_names[self.labels[index]], self.files[index])
        if path in self.skipped:
            return None
        image, reason = read(path, lambda data: decode(data, self._buffer))
        if image is not None:
            return image
        if self.config.on_bad_image == 'stop':
            raise UserError('%s: %s; mend or remove it, or set --on_bad_image skip' % (path, reason))
        with self._lock:
            if path not in self.skipped:
                self.skipped[path] = reason
                print('warning: %s: %s' % (path, reason), file=sys.stderr, flush=True)
        return None

    def _buffer(self, size):
        """Memory of this thread for one decoded image."""
        if getattr(self._scratch, 'pixels', np.empty(0)).size < size:
            self._scratch.pixels = np.empty(size, np.uint8)
        return self._scratch.pixels


class _Passes:
    """Iterator that can be run through once per epoch, as MindSpore's can."""

    def __init__(self, dataset, num_epochs, output_numpy, make_row):
        self.dataset, self.left = dataset, num_epochs
        self.output_numpy, self.make_row = output_numpy, make_row
        self.batches = None

    def __iter__(self):
        return self

    def __next__(self):
        if self.batches is None:
            if self.left == 0:
                raise StopIteration
            self.left -= 1
            self.batches = self.dataset.batches(self.dataset._epochs)
            self.dataset._epochs += 1
        for batch in self.batches:
            valid = batch.valid > 0
            row = [batch.images[valid], batch.labels[valid]]
            if not self.output_numpy:
                from src.framework import Tensor    # the rest of this file works without MindSpore
                row = [Tensor(array) for array in row]
            return self.make_row(row)
        self.batches = None
        raise StopIteration


def first_position(config, step, part=0):
    """Position in the epoch's order of the first image of batch `part` of training step `step`, both from 0."""
    return ((step * config.group_size + config.rank) * config.accumulation_steps + part) * config.batch_size


def save_class_names(path, names):
    """Write one name a line to `path`, whole or not at all.

    Raises:
        SaveError: the file cannot be written.
    """
    write_text(path, ''.join(name + '\n' for name in names), 'make room or choose another folder')


def load_class_names(path):
    """The list that `save_class_names` wrote.

    Raises:
        UserError: the file cannot be read, or is no list of different names.
    """
    try:
        with open(path, encoding='utf-8', errors='surrogateescape', newline='\n') as file:
            names = file.read().split('\n')
    except OSError as error:
        raise UserError('the class list %s cannot be read (%s): give the one that training wrote'
                        % (path, error.strerror))
    if names.pop() or not names or len(set(names)) < len(names) or '' in names:
        raise UserError('%s is not a list of different class names, one a line: '
                        'give the one that training wrote' % path)
    return names


def read(path, function):
    """(function of the bytes of a file, None), or (None, why it cannot be used)."""
    try:
        with open(path, 'rb', buffering=0) as file:
            return function(file.read()), None
    except OSError as error:
        return None, error.strerror or str(error)
    except ValueError as error:
        return None, str(error)


def _finished(pending):
    """Wait for the oldest batch; it stays in `pending` until then, to be cancelled if the wait is."""
    batch, rows = pending[0]
    for row in rows:
        row.result()
    pending.popleft()
    return batch


def scan(path):
    """({class: sorted file names}, number of other entries) of a data set."""
    if not os.path.exists(path):
        raise UserError('the data set %s does not exist: '
                        'give a folder with one folder of images per class' % path)
    if not os.path.isdir(path):
        raise UserError('the data set %s is a file: '
                        'give a folder with one folder of images per class' % path)
    try:
        with os.scandir(path) as entries:
            entries = list(entries)
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.'))
        ignored = len(entries) - len(classes)
        folders = {}
        for name in classes:
            with os.scandir(os.path.join(path, name)) as entries:
                seen, files = 0, []
                for seen, entry in enumerate(entries, 1):
                    if (entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith('.')
                            and not entry.is_dir()):     # a dangling link is to be named, not ignored
                        files.append(entry.name)
            folders[name] = sorted(files)
            ignored += seen - len(files)
    except OSError as error:
        raise UserError('%s cannot be read (%s): allow this user to read it'
                        % (error.filename, error.strerror))
    if not folders:
        raise UserError('the data set %s has no class folder: '
                        'put the images into one folder per class' % path)
    for name, files in folders.items():
        if not files:
            raise UserError('the class folder %s has no image (%s): add images or remove the folder'
                            % (os.path.join(path, name), ' '.join(EXTENSIONS)))
    return folders, ignored
