"""The best classes of single images, and the names of classes."""
import csv
import json
import os
import sys

import numpy as np

from src.dataset import EXTENSIONS, load_class_names, read
from src.errors import UserError
from src.framework import Tensor
from src.image import decode, resize_centre_crop

TOP = 5


def imagenet_names():
    """{synset: name} of ImageNet's 1000 classes in the order of their labels."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'imagenet_classes.txt')
    with open(path, encoding='utf-8') as file:
        return dict(line.rstrip('\n').split(' ', 1) for line in file if not line.startswith('#'))


def class_names(checkpoint, num_classes):
    """Class folders in the order of their labels: the list beside a checkpoint, else ImageNet's for 1000, or None.

    A list beside converted weights is not theirs.

    Raises:
        UserError: the list has more names than there are classes, or cannot be read.
    """
    path = os.path.join(os.path.dirname(checkpoint.path), 'classes.txt')
    if os.path.exists(path) and 'source' not in checkpoint.meta:
        names = load_class_names(path)
        if len(names) > num_classes:
            raise UserError('%s has %d names, but %s %d classes: put it back beside its own checkpoint'
                            % (path, len(names), checkpoint.path, num_classes))
        return names
    return list(imagenet_names()) if num_classes == 1000 else None


def readable(names, num_classes):
    """What to show for each class: ImageNet's word for a synset, else the folder's name, else the number."""
    words = imagenet_names()
    names = list(names or ())
    names += ['class %d' % number for number in range(len(names), num_classes)]
    return [words.get(name, name) for name in names]


def probabilities(logits):
    """Softmax of (N, K) logits in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def find_images(paths):
    """The files among `paths` and the images in the folders among them.

    Raises:
        UserError: a path that does not exist, or a folder without images.
    """
    files = []
    for path in paths:
        if os.path.isdir(path):
            found = sorted(name for name in os.listdir(path) if name.lower().endswith(EXTENSIONS)
                           and not name.startswith('.') and not os.path.isdir(os.path.join(path, name)))
            if not found:
                raise UserError('the folder %s has no image (%s): give files or another folder'
                                % (path, ' '.join(EXTENSIONS)))
            files += [os.path.join(path, name) for name in found]
        elif os.path.exists(path):
            files.append(path)
        else:
            raise UserError('the image %s does not exist: give files or folders' % path)
    return files


def classify(step, files, config):
    """Yield (file, [(class number, probability)] of the TOP best classes, None), or (file, None, why not).

    Args:
        step: an EvalStep; it sees batches of config.batch_size, the last one filled up.
    """
    step.set_train(False)
    for first in range(0, len(files), config.batch_size):
        part = files[first:first + config.batch_size]
        batch = np.zeros((config.batch_size, config.image_size, config.image_size, 3), np.uint8)
        reasons = []
        for row, file in enumerate(part):
            image, reason = read(file, decode)
            reasons.append(reason)
            if image is not None:
                batch[row] = resize_centre_crop(image, config.image_size)
        shares = probabilities(step(Tensor(batch)).asnumpy())
        for file, reason, row in zip(part, reasons, shares):
            best = np.argsort(-row, kind='stable')[:TOP]
            yield (file, None, reason) if reason else (file, [(int(k), float(row[k])) for k in best], None)


def show(results, names, style):
    """Print what `classify` yields as a 'table', or one line a file as 'csv' or 'json'; returns how many failed.

    A file that cannot be read is named on stderr.
    """
    failed = 0
    writer = csv.writer(sys.stdout)
    if style == 'csv':
        writer.writerow(['file'] + [part % n for n in range(1, min(TOP, len(names)) + 1)
                                    for part in ('class_%d', 'probability_%d')])
    for file, best, reason in results:
        if best is None:
            failed += 1
            print('warning: %s: %s' % (file, reason), file=sys.stderr, flush=True)
        elif style == 'json':
            print(json.dumps({'file': file, 'classes': [{'class': names[k], 'label': k, 'probability': round(p, 6)}
                                                        for k, p in best]}))
        elif style == 'csv':
            writer.writerow([file] + [value for k, p in best for value in (names[k], '%.6f' % p)])
        else:
            width = max(len(names[k]) for k, _ in best)
            print(file)
            for k, p in best:
                print('  %-*s  %6.2f %%' % (width, names[k], 100 * p))
    return failed
