"""Weights for networks that are only timed."""
import zlib

import numpy as np


def like_trained(name, shape):
    """Draw one tensor of a network, with values of the size that a trained network has.

    Initial weights would not do. In evaluation, BatchNorm would use its initial statistics, and the values would grow
    or vanish from cell to cell. Arithmetic with denormal numbers, which are left then, takes a hundred times as long.
    The end of the name tells the kind of tensor. The names of this suite, of MindCV and of PyTorch are understood.

    Args:
        name: of the tensor. The same name and shape give the same values.
        shape: tuple. A tensor of two or more dimensions is a kernel (outputs, inputs, ...).

    Returns:
        array of this shape, float32.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if len(shape) > 1:
        values = random.normal(0, np.sqrt(1.6 / np.prod(shape[1:])), shape)
    elif name.endswith(('moving_variance', 'running_var')):
        values = random.uniform(0.4, 1.6, shape)
    elif name.endswith(('gamma', 'weight')):        # the factor of BatchNorm
        values = random.uniform(0.4, 1.0, shape)
    else:                                           # a bias or a mean
        values = random.normal(0, 0.2, shape)
    return values.astype(np.float32)
