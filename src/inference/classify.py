"""The best classes of single images."""
import csv
import json
import os
import sys

import numpy as np

from src.cli import replace
from src.distributed.group import join
from src.errors import UserError, one_line
from src.inference.class_names import class_names, probabilities, readable
from src.inference.evaluation import device_of, logits_function, open_checkpoint
from src.inference.exported import is_exported
from src.input.folders import EXTENSIONS, list_images
from src.input.image import decode, resize_centre_crop
from src.input.reading import read
from src.progress import COMPILING, Progress

TOP = 5     # number of classes that are shown for an image


def classify_images(flags, given):
    """Classify single images as `eval.py --image` does: print the best classes of each.

    Args:
        flags: those of eval.py.
        given: {configuration key: value} of the command line.

    Returns:
        The exit status of the program: 0, or 1 if an image could not be read.

    Raises:
        UserError: the checkpoint, the configuration, the device, a class list or a path cannot be used.
    """
    checkpoint, config = open_checkpoint(flags, given)
    config = join(device_of(flags), flags.device_id).configure(config)
    names = readable(class_names(checkpoint, config.num_classes), config.num_classes)
    files = find_images(flags.image)
    logits_of = logits_function(checkpoint, config, flags)
    if not is_exported(flags.checkpoint):       # the batch size of an exported network is fixed
        config = replace(config, batch_size=min(config.batch_size, len(files)))
    return 1 if show(classify(logits_of, files, config), names, flags.format) else 0


def find_images(paths):
    """Return a list of paths: the files among `paths`, and the images of the folders among them.

    A file is taken whatever its name is. In a folder, only files whose name ends like an image's are taken.

    Raises:
        UserError: a path does not exist, or a folder has no images.
    """
    files = []
    for path in paths:
        if os.path.isdir(path):
            found, _ = list_images(path)
            if not found:
                raise UserError('the folder %s has no image (%s): give files or another folder'
                                % (path, ' '.join(EXTENSIONS)))
            files += [os.path.join(path, name) for name in found]
        elif os.path.exists(path):
            files.append(path)
        else:
            raise UserError('the image %s does not exist: give files or folders' % path)
    return files


def classify(logits_of, files, config):
    """Generate the best classes of image files.

    Args:
        logits_of: function images (N, H, W, 3) uint8 -> logits (N, K) float32, both arrays.
        files: list of paths.
        config: needs the attributes batch_size and image_size. All batches have this size, so that the step is
            compiled only once. The empty rows of the last batch are black.

    Yields:
        (file, [(class number, probability), ...], None) with the TOP most probable classes, or
        (file, None, reason) if the image is bad.

    Raises:
        UserError: the file system fails.
    """
    for first in range(0, len(files), config.batch_size):
        part = files[first:first + config.batch_size]
        batch = np.zeros((config.batch_size, config.image_size, config.image_size, 3), np.uint8)
        reasons = []
        with Progress('classifying', len(files), 'images', first, '' if first else COMPILING):
            for row, file in enumerate(part):
                image, reason = read(file, decode)
                reasons.append(reason)
                if image is not None:
                    batch[row] = resize_centre_crop(image, config.image_size)
            shares = probabilities(logits_of(batch))
        for file, reason, row in zip(part, reasons, shares):
            best = np.argsort(-row, kind='stable')[:TOP]
            yield (file, None, reason) if reason else (file, [(int(k), float(row[k])) for k in best], None)


def show(results, names, style):
    """Print what `classify` yields. A file that cannot be read is reported on stderr.

    Args:
        results: iterable of the tuples of `classify`.
        names: list of str, the name of each class.
        style: 'table': several lines for each file; 'csv' or 'json': one line for each file.

    Returns:
        How many files could not be read.
    """
    failed = 0
    writer = csv.writer(sys.stdout)
    if style == 'csv':
        writer.writerow(['file'] + [part % n for n in range(1, min(TOP, len(names)) + 1)
                                    for part in ('class_%d', 'probability_%d')])
    for file, best, reason in results:
        if best is None:
            failed += 1
            print('warning: %s: %s' % (one_line(file), reason), file=sys.stderr, flush=True)
        elif style == 'json':
            print(json.dumps({'file': file, 'classes': [{'class': names[k], 'label': k, 'probability': round(p, 6)}
                                                        for k, p in best]}))
        elif style == 'csv':
            writer.writerow([file] + [value for k, p in best for value in (names[k], '%.6f' % p)])
        else:
            width = max(len(names[k]) for k, _ in best)
            print(one_line(file))
            for k, p in best:
                print('  %-*s  %6.2f %%' % (width, names[k], 100 * p))
    return failed
