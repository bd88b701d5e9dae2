"""Write a small data set of procedural JPEGs.

    python tools/make_demo_dataset.py DIR [--train N] [--val N] [--classes NAME...]

DIR/train/CLASS/*.JPEG and DIR/val/CLASS/*.JPEG show patterns. A mirror, a crop or a change of colour does not turn the
pattern of one class into that of another. Size, aspect ratio, colours, scale, noise, blur and JPEG quality vary.

A pattern is a function of (random, x, y, ...): a RandomState, and the coordinates of each pixel, two arrays (H, W) of
numbers in periods of the pattern. It returns a bool array (H, W) that says which of two colours a pixel gets.
"""
import argparse
import os
import sys
import zlib

import numpy as np
from PIL import Image, ImageFilter

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from src.errors import UserError
from src.progress import Progress


def stripes(random, x, y, angle):
    """Parallel stripes across the direction `angle`, in radians from the x axis."""
    return np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle) + random.rand())) > random.uniform(-0.4, 0.4)


def checkerboard(random, x, y):
    """Squares of alternating colour."""
    return (np.floor(2 * (x + random.rand())) + np.floor(2 * (y + random.rand()))) % 2 > 0


def scattered(random, x, y, inside):
    """One figure in each square period, a little displaced and scaled.

    `inside(u, v)` takes the offsets from the figure's centre, in periods, and says which pixels belong to it.
    """
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    shift = random.uniform(-0.12, 0.12, (2, row.max() + 1, column.max() + 1))
    scale = random.uniform(0.8, 1.1, shift.shape[1:])[row, column]
    return inside((x - column - 0.5 - shift[0][row, column]) / scale, (y - row - 0.5 - shift[1][row, column]) / scale)


def dots(random, x, y):
    """Filled circles."""
    return scattered(random, x, y, lambda u, v: np.hypot(u, v) < 0.3)


def rings(random, x, y):
    """Circles with a hole in the middle."""
    return scattered(random, x, y, lambda u, v: abs(np.hypot(u, v) - 0.28) < 0.1)


def crosses(random, x, y):
    """Upright crosses."""
    return scattered(random, x, y, lambda u, v: (np.minimum(abs(u), abs(v)) < 0.1) & (np.maximum(abs(u), abs(v)) < 0.4))


def speckle(random, x, y):
    """Small squares of random colour."""
    grains = random.rand(int(y.max() * 5) + 2, int(x.max() * 5) + 2) > random.uniform(0.4, 0.6)
    return grains[(y * 5).astype(int), (x * 5).astype(int)]


PATTERNS = {        # {name of the class: function}
    'checkerboard': checkerboard,
    'crosses': crosses,
    'diagonal_stripes': lambda random, x, y: stripes(
        random, x, y, random.choice([-1, 1]) * (np.pi / 4 + random.uniform(-0.15, 0.15))),
    'dots': dots,
    'horizontal_stripes': lambda random, x, y: stripes(random, x, y, np.pi / 2 + random.uniform(-0.1, 0.1)),
    'rings': rings,
    'speckle': speckle,
    'vertical_stripes': lambda random, x, y: stripes(random, x, y, random.uniform(-0.1, 0.1)),
}


def draw(name, random):
    """Draw an image of the class `name` with numbers of the RandomState `random`; returns a Pillow image in RGB."""
    height, width = random.randint(100, 321, 2)
    height, width = max(height, width // 2), max(width, height // 2)
    period = min(height, width) / random.uniform(3.5, 5.5)
    y, x = np.mgrid[:height, :width] / period
    pattern = PATTERNS[name](random, x, y)
    while True:                     # Colours of different brightness show the pattern, whatever their hues are.
        colors = random.uniform(0, 255, (2, 3))
        if abs(colors[0].mean() - colors[1].mean()) > 70:
            break
    pixels = np.where(pattern[:, :, None], colors[0], colors[1])
    pixels = pixels + random.normal(0, random.uniform(0, 14), pixels.shape)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0, period / 25)))


def make(folder, train, val, seed=1, classes=tuple(PATTERNS)):
    """Write the data set. The same arguments give the same pixels.

    Args:
        folder: where train/ and val/ are made.
        train: number of training images in each class.
        val: number of validation images in each class.
        seed: of all random numbers.
        classes: names in PATTERNS.

    Raises:
        UserError: `folder` exists and is not empty, or cannot be written.
    """
    try:
        if os.path.exists(folder) and os.listdir(folder):
            raise UserError('%s is not empty: choose a new folder' % folder)
        with Progress('drawing', (train + val) * len(classes), 'images') as progress:
            for split, count in (('train', train), ('val', val)):
                for name in classes:
                    target = os.path.join(folder, split, name)
                    os.makedirs(target)
                    for number in range(count):
                        key = '%d/%s/%s/%d' % (seed, split, name, number)
                        random = np.random.RandomState(zlib.crc32(key.encode()))
                        draw(name, random).save(os.path.join(target, '%s_%04d.JPEG' % (name, number)),
                                                quality=int(random.randint(70, 96)))
                        progress.update()
    except OSError as error:
        raise UserError('%s cannot be written (%s): choose another folder' % (folder, error.strerror))


def main():
    """Write what the flags describe."""
    parser = argparse.ArgumentParser(description='Write a small data set of procedural JPEGs in 8 classes.')
    parser.add_argument('folder', metavar='DIR', help='new folder for train/ and val/')
    parser.add_argument('--train', type=int, default=80, metavar='N', help='training images per class')
    parser.add_argument('--val', type=int, default=25, metavar='N', help='validation images per class')
    parser.add_argument('--seed', type=int, default=1, metavar='N', help='of all random numbers')
    parser.add_argument('--classes', nargs='+', choices=sorted(PATTERNS), default=sorted(PATTERNS), metavar='NAME',
                        help='some of %s; default: all' % ' '.join(sorted(PATTERNS)))
    flags = parser.parse_args()
    make(flags.folder, flags.train, flags.val, flags.seed, flags.classes)
    print('%s: %d training and %d validation images in %d classes'
          % (flags.folder, flags.train * len(flags.classes), flags.val * len(flags.classes), len(flags.classes)))


if __name__ == '__main__':
    main()
