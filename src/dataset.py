"""A folder of images, with one folder for each class, becomes batches of uint8 arrays.

The content of a batch depends only on the files, the configuration, the epoch and the step: threads only fill the
rows, and src/input/draws.py computes every random number from the position of an image in the epoch. So any step
of any epoch can be made without the steps before it. Neither the number of threads nor the split of a global batch
over processes changes a byte.
"""
import collections
import hashlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from loky import cpu_count

from src.errors import UserError, one_line
from src.input.draws import COLOR, CROP, REPLACEMENT, epoch_order, uniforms
from src.input.folders import look_alike, scan
from src.input.image import CROP_DRAWS, decode, random_resized_crop, resize_centre_crop
from src.input.reading import read

AHEAD = 2       # number of batches that are prepared beyond the one that the consumer waits for
# This number of bad images is allowed whatever the share of max_bad_images is. In a data set of fewer than a hundred
# images one broken file is more than 1 % already, and a person can look at three warnings.
ALWAYS_ALLOWED = 3
LARGE = 2 ** 26         # bytes of pixels; a thread keeps no memory for images that are larger
REPLACEMENT_DRAWS = 64      # random files that are tried in the place of a bad one, before all files are tried in turn

Batch = collections.namedtuple('Batch', 'images labels color valid')


def create_dataset(dataset_path, config, training, class_names=None):
    """Look for images in a folder that holds one folder for each class.

    Args:
        dataset_path: path of the folder.
        config: needs the attributes random_seed, rank, group_size, work_nums, batch_size, accumulation_steps,
            num_classes, image_size, crop_min_area, color_jitter, on_bad_image and max_bad_images (src/config.py).
        training: True: the images are shuffled and augmented, and a last incomplete batch is left out. False: the
            images come in the order of their files, each exactly once.
        class_names: None, or the list of class names that a training used. A label is the position of a class in
            this list. A folder of the list may be missing, but a folder that is not in it is an error. Without the
            list, a label is the position of a folder among the folders sorted by name.

    Returns:
        An ImageFolder.

    Raises:
        UserError: the folder does not exist, has no classes or cannot be read; a class has no images; there are
            too many or unknown classes; a training has fewer images than one step needs.
    """
    folders, ignored = scan(dataset_path, shown=config.rank == 0)
    names = sorted(folders) if class_names is None else list(class_names)
    unknown = sorted(set(folders) - set(names))
    if unknown:
        alike = look_alike(unknown[0], names)
        raise UserError('%s is not among the %d classes of the training%s: remove or rename that folder'
                        % (os.path.join(dataset_path, unknown[0]), len(names),
                           ', it is written as %a and the class as %a' % (unknown[0], alike) if alike else ''))
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
    """The images of a data set, and the batches that this rank makes of them. `create_dataset` makes it.

    Attributes:
        num_images: number of image files, of all classes and for all ranks together.
        class_names: list of str. The label of an image is the position of its folder's name in this list.
        ignored_files: number of entries that are neither class folders nor, by their name, image files.
        skipped: {path: reason} of the bad images that were found until now. A file that could not be read because
            the file system failed for a moment is never among them.
    """

    def __init__(self, path, config, training, class_names, folders, ignored_files):
        self.path, self.config, self.training = path, config, training
        self.class_names, self.ignored_files = class_names, ignored_files
        # The lists hold only file names. Full paths of a million files would take twice the memory.
        self.files = [name for folder in class_names for name in folders.get(folder, ())]
        self.labels = np.repeat(np.arange(len(class_names), dtype=np.int32),
                                [len(folders.get(folder, ())) for folder in class_names])
        self.num_images = len(self.files)
        self.skipped = {}
        self._threads = min(config.work_nums, cpu_count())      # asked once, because it opens files
        self.epochs_begun = 0       # by the iterators of create_tuple_iterator and create_dict_iterator
        self._lock = threading.Lock()
        self._scratch = threading.local()
        # This data set has threads of its own. OpenCV's threads below each of them would only cost time.
        cv2.setNumThreads(0)

    def get_dataset_size(self):
        """Return the number of steps of this rank in one epoch; in an evaluation a step is one batch."""
        config = self.config
        if self.training:
            return self.num_images // (config.batch_size * config.accumulation_steps * config.group_size)
        share = len(range(config.rank, self.num_images, config.group_size))
        return -(-share // config.batch_size)

    def describe(self):
        """Return the number of the images and a digest of their names as a str; equal files give an equal str."""
        names = hashlib.sha256('\n'.join(self.class_names + self.files).encode('utf-8', 'surrogateescape'))
        names.update(self.labels.tobytes())
        return '%d images in %d classes, digest of their names %s' % (self.num_images, len(self.class_names),
                                                                      names.hexdigest()[:8])

    def batches(self, epoch, first_step=0):
        """Generate the batches of this rank.

        A training step has `accumulation_steps` batches. Together they hold the same images, in the same order, as
        one batch of `accumulation_steps` times the size.

        A bad image (src/input/reading.py says what that is) is reported on stderr once. In training another file
        takes its place, with the same random numbers: it is drawn from all files, so no class becomes more frequent.
        In evaluation its row stays empty.

        Args:
            epoch: number of the epoch, from 0.
            first_step: number of the first step in this epoch, from 0.

        Yields:
            Batch with images (B, S, S, 3) uint8 RGB; labels (B,) int32; color (B, 3) float32, the factors of
            brightness, contrast and saturation, which are 1 in evaluation; valid (B,) float32, which is 1, or 0 in
            a row without an image. Only evaluation has such rows: after the last image, and for unreadable files.

        Raises:
            UserError: the file system fails and does not recover within some seconds; an image is bad and
                on_bad_image is stop; more images of the epoch are bad than max_bad_images allows; in training no
                file of the data set can be read.
        """
        now = _Pass(epoch, epoch_order(self.config.random_seed, epoch, self.num_images) if self.training else None)
        parts = self.config.accumulation_steps if self.training else 1
        # If the batches are small, more of them are prepared, so that every thread has work.
        ahead = AHEAD + self.config.work_nums // self.config.batch_size
        pool = ThreadPoolExecutor(self._threads)
        pending = collections.deque()
        try:
            for number in range(first_step * parts, self.get_dataset_size() * parts):
                pending.append(self._begin(pool, now, number))
                if len(pending) > ahead:
                    yield _finished(pending)
            while pending:
                yield _finished(pending)
        finally:        # This also runs when the consumer leaves early.
            now.stop.set()
            for _, rows in pending:
                for row in rows:
                    row.cancel()
            pool.shutdown()

    def create_tuple_iterator(self, num_epochs=1, output_numpy=False):
        """Return an iterator over [images, labels]; see `create_dict_iterator`."""
        return _EpochIterator(self, num_epochs, output_numpy, list)

    def create_dict_iterator(self, num_epochs=1, output_numpy=False):
        """Return an iterator over {'image': (N, S, S, 3) uint8, 'label': (N,) int32}, for usual MindSpore loops.

        Each `for` over the iterator is the next epoch of the data set. Rows without an image are left out, so the
        last batch of an evaluation may be shorter.

        Args:
            num_epochs: after this number of epochs the iterator is empty. -1: it never is.
            output_numpy: True: the values are NumPy arrays. False: they are MindSpore Tensors.
        """
        return _EpochIterator(self, num_epochs, output_numpy, lambda row: dict(zip(('image', 'label'), row)))

    def images_of_rank(self):
        """Return how many images this rank reads in one epoch."""
        if self.training:
            return self.get_dataset_size() * self.config.batch_size * self.config.accumulation_steps
        return len(range(self.config.rank, self.num_images, self.config.group_size))

    def require_few_bad(self, bad, images):
        """Check that only a small share of images is bad.

        Args:
            bad: number of bad images.
            images: number of images among which they were found.

        Raises:
            UserError: more of them are bad than max_bad_images allows. The sentence names some of them.
        """
        share = self.config.max_bad_images
        # A product like 0.29 * 100 is 28.999999999999996, hence `round`.
        if bad <= max(ALWAYS_ALLOWED, round(share * images, 6)):
            return
        with self._lock:
            examples = ['%s (%s)' % item for item in sorted(self.skipped.items())[:3]]
        raise UserError('at least %d of %d images of %s are bad%s, more than max_bad_images %g allows: repair or '
                        'remove them (tools/check_dataset.py names all of them), or set a larger --max_bad_images'
                        % (bad, images, self.path, ', for example ' * bool(examples) + ', '.join(examples), share))

    def _begin(self, pool, now, number):
        """Start to fill batch `number` of this rank: return (Batch, list of the futures of its rows)."""
        config = self.config
        size, rows = config.batch_size, np.arange(config.batch_size)
        batch = Batch(np.zeros((size, config.image_size, config.image_size, 3), np.uint8),
                      np.zeros(size, np.int32), np.ones((size, 3), np.float32), np.zeros(size, np.float32))
        if self.training:
            first = first_position(config, *divmod(number, config.accumulation_steps))
            draws = uniforms(config.random_seed, now.epoch, CROP, first, size, CROP_DRAWS)
            color = uniforms(config.random_seed, now.epoch, COLOR, first, size, 3)
            batch.color[:] = 1 + config.color_jitter * (2 * color - 1)
            return batch, [pool.submit(self._fill_training, now, batch, row, first + row, draws[row])
                           for row in range(size)]
        indices = config.rank + config.group_size * (number * size + rows)
        return batch, [pool.submit(self._fill_evaluation, now, batch, row, index)
                       for row, index in enumerate(indices[indices < self.num_images].tolist())]

    def _fill_training(self, now, batch, row, position, draws):
        """Put the file at `position` in the order of the epoch, or else another file, into a row of the batch."""
        for attempt, index in enumerate(self._candidates(now, position)):
            image = self._read(index, now.stop)
            if image is not None:
                random_resized_crop(image, self.config.image_size, draws, self.config.crop_min_area,
                                    batch.images[row])
                batch.labels[row] = self.labels[index]
                batch.valid[row] = 1
                return
            if attempt == 0:
                self._count_bad(now)
            if now.stop.is_set():
                return
        raise UserError('none of the %d images of %s can be read: check the files named above'
                        % (self.num_images, self.path))

    def _candidates(self, now, position):
        """Generate the indices of the files that are tried for a position of the epoch, first its own file.

        They depend only on the seed, the epoch, the position and the number of files.
        """
        yield int(now.order[position])
        draws = uniforms(self.config.random_seed, now.epoch, REPLACEMENT, position, 1, REPLACEMENT_DRAWS)[0]
        drawn = (draws * self.num_images).astype(np.int64).tolist()
        yield from drawn
        for step in range(self.num_images):
            yield (drawn[-1] + step) % self.num_images

    def _fill_evaluation(self, now, batch, row, index):
        """Put file `index` into a row of the batch; the row stays empty if the image is bad."""
        image = self._read(index, now.stop)
        if image is None:
            self._count_bad(now)
            return
        batch.images[row] = resize_centre_crop(image, self.config.image_size)
        batch.labels[row] = self.labels[index]
        batch.valid[row] = 1

    def _count_bad(self, now):
        """Note that one more image of this epoch is bad; raise a UserError if these are too many."""
        with self._lock:
            now.bad += 1
            bad = now.bad
        self.require_few_bad(bad, self.images_of_rank())

    def _read(self, index, stop):
        """Return the image of file `index`, (H, W, 3) uint8, or None if it is bad.

        The first time, a bad image is noted in `skipped` and reported. The array may be overwritten when this thread
        reads its next file.
        """
        path = os.path.join(self.path, self.class_names[self.labels[index]], self.files[index])
        if path in self.skipped:
            return None
        image, reason = read(path, lambda data: decode(data, self._buffer), stop)
        if image is not None:
            return image
        if self.config.on_bad_image == 'stop':
            raise UserError('%s: %s; repair or remove it, or set --on_bad_image skip' % (path, reason))
        with self._lock:
            if path not in self.skipped:
                self.skipped[path] = reason
                print('warning: %s: %s' % (one_line(path), reason), file=sys.stderr, flush=True)
        return None

    def _buffer(self, size):
        """Return a uint8 vector of at least `size` bytes, which this thread uses again for each usual image."""
        if size > LARGE:
            return np.empty(size, np.uint8)
        if getattr(self._scratch, 'pixels', np.empty(0)).size < size:
            self._scratch.pixels = np.empty(size, np.uint8)
        return self._scratch.pixels


class _Pass:
    """One pass over the data set: what the threads of one call of `batches` share.

    Attributes:
        epoch: number of the epoch, from 0.
        order: the order of the files in a training epoch, (N,) int64; None in an evaluation.
        stop: threading.Event. It is set when nobody waits for the batches any more.
        bad: number of this rank's images of the epoch that were found bad until now.
    """

    def __init__(self, epoch, order):
        self.epoch, self.order = epoch, order
        self.stop = threading.Event()
        self.bad = 0


class _EpochIterator:
    """An iterator that starts again in each `for`, once for every epoch, as MindSpore's iterators do.

    Its length is the number of batches of an epoch. MindSpore's GeneratorDataset asks for it.
    """

    def __init__(self, dataset, num_epochs, output_numpy, make_row):
        self.dataset, self.epochs_left = dataset, num_epochs
        self.output_numpy, self.make_row = output_numpy, make_row
        self.batches = None

    def __iter__(self):
        return self

    def __len__(self):
        return self.dataset.get_dataset_size()

    def __next__(self):
        if self.batches is None:
            if self.epochs_left == 0:
                raise StopIteration
            self.epochs_left -= 1
            self.batches = self.dataset.batches(self.dataset.epochs_begun)
            self.dataset.epochs_begun += 1
        for batch in self.batches:
            valid = batch.valid > 0
            row = [batch.images[valid], batch.labels[valid]]
            if not self.output_numpy:
                from src.framework import Tensor  # imported here, because the rest works without MindSpore
                row = [Tensor(array) for array in row]
            return self.make_row(row)
        self.batches = None
        raise StopIteration


def first_position(config, step, part=0):
    """Return the position, in the order of the epoch, of the first image of a training batch.

    Args:
        config: needs the attributes rank, group_size, accumulation_steps and batch_size.
        step: number of the step in the epoch, from 0.
        part: number of the batch in the step, from 0 to accumulation_steps - 1.
    """
    return ((step * config.group_size + config.rank) * config.accumulation_steps + part) * config.batch_size


def _finished(pending):
    """Wait for the oldest pending batch, remove it from `pending` and return it."""
    batch, rows = pending[0]
    for row in rows:
        row.result()
    pending.popleft()       # Only now, because until here `batches` must cancel the rows if waiting fails.
    return batch
