"""Weights, images and probes. The references and the tests draw the same ones, from a seed and a name."""
import zlib

import numpy as np

SEED = 20
# {variant: (constructor arguments, image size, number of images)}: the full network, and narrower ones of the same
# cells.
VARIANTS = {'full': ({'num_classes': 1000, 'penultimate_filters': 1056}, 224, 2),
            'narrow': ({'num_classes': 10, 'penultimate_filters': 192}, 64, 8),
            'thin': ({'num_classes': 10, 'penultimate_filters': 96}, 64, 4)}
PROBES = 4      # number of random directions on which a gradient is projected


def generator(key):
    """A random generator that depends only on a name."""
    return np.random.RandomState(zlib.crc32(('%d/%s' % (SEED, key)).encode()))


def parameter(name, shape):
    """A value for a parameter: as large as in a trained network, and statistics far from 0 and 1."""
    random = generator(name)
    if name.endswith('.gamma'):
        return random.uniform(0.4, 1.0, shape).astype(np.float32)
    if name.endswith(('.beta', '.moving_mean', '.bias')):
        return random.normal(0, 0.2, shape).astype(np.float32)
    if name.endswith('.moving_variance'):
        return random.uniform(0.4, 1.6, shape).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return random.normal(0, np.sqrt(1.6 / fan_in), shape).astype(np.float32)


def coarse_parameter(name, shape):
    """The value of `parameter` rounded to 1/32, so that files with it can be compressed."""
    value = np.round(parameter(name, shape) * 32) / 32
    return (np.maximum(value, 0.25) if name.endswith('.moving_variance') else value).astype(np.float32)


def images(variant):
    """(N, 3, S, S) float32 in [-1, 1], smooth enough to have structure at the scale of the deep cells."""
    _, size, count = VARIANTS[variant]
    coarse = generator('images').uniform(-1, 1, (count, 3, 8, 8))
    fine = generator('grain').uniform(-0.3, 0.3, (count, 3, size, size))
    return (0.7 * np.kron(coarse, np.ones((1, 1, size // 8, size // 8))) + fine).astype(np.float32)


def weights_of_logits(variant):
    """(N, K) float32: the scalar whose gradient is tested is sum(logits * weights)."""
    arguments, _, count = VARIANTS[variant]
    return generator('loss').normal(0, 1, (count, arguments['num_classes'])).astype(np.float32)


def samples(name, array):
    """64 values of an array at places drawn from its name."""
    flat = np.asarray(array).reshape(-1)
    return flat[generator('samples of ' + name).randint(0, flat.size, 64)]


def projections(name, gradient):
    """Norm of a gradient and its products with PROBES random unit vectors, float64 (1 + PROBES,)."""
    flat = np.asarray(gradient, np.float64).reshape(-1)
    probes = generator('probes of ' + name).normal(0, 1, (PROBES, flat.size))
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    return np.concatenate([[np.linalg.norm(flat)], probes @ flat])
