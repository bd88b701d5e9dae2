"""Generated input: batches of random pixels, and JPEG files that decode like photographs."""
import os
import shutil

import numpy as np

DIFFERENT = 64      # JPEG files with contents of their own; the others are copies.


def random_batch(config):
    """Draw a training batch from config.random_seed.

    Args:
        config: random_seed, batch_size N, image_size S, num_classes and color_jitter as attributes (src/config.py).

    Returns:
        (images (N, S, S, 3) uint8, labels (N,) int32, color (N, 3) float32: factors of brightness, contrast and
        saturation)
    """
    random = np.random.RandomState(config.random_seed)
    images = random.randint(0, 256, (config.batch_size, config.image_size, config.image_size, 3)).astype(np.uint8)
    labels = random.randint(0, config.num_classes, config.batch_size).astype(np.int32)
    color = random.uniform(1 - config.color_jitter, 1 + config.color_jitter, (config.batch_size, 3))
    return images, labels, color.astype(np.float32)


def write_photographs(paths):
    """Write one JPEG of 500x375 pixels, the usual size in ImageNet, to each path; returns their mean size in bytes."""
    for number, path in enumerate(paths):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if number < DIFFERENT:
            _photograph(number).save(path, quality=95)
        else:
            shutil.copyfile(paths[number % DIFFERENT], path)
    return sum(map(os.path.getsize, paths)) / len(paths)


def _photograph(seed):
    """A picture that takes about as long to decode as a photograph.

    It is noise of eight scales. As in photographs, fine noise has less contrast than coarse noise.
    """
    from PIL import Image  # Here, because an interpreter with PyTorch may lack Pillow.

    random = np.random.RandomState(seed)
    pixels = np.full((375, 500, 3), 128.0)
    for octave in range(1, 9):
        coarse = random.normal(0, 90 * 0.75 ** octave, (3 * 2 ** (octave - 1), 4 * 2 ** (octave - 1), 3))
        coarse = 0.3 * coarse + 0.7 * coarse.mean(2, keepdims=True)     # Most contrast is grey, as in nature.
        for channel in range(3):
            layer = Image.fromarray(coarse[:, :, channel].astype(np.float32))
            pixels[:, :, channel] += np.asarray(layer.resize((500, 375), Image.BICUBIC))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
