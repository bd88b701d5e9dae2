"""Every random number of a training run, as a pure function of (seed, epoch, position).

No number depends on the numbers that were drawn before it, so the numbers of any step of any epoch can be
computed directly. A resumed run, another number of worker threads, or another split over processes sees the same
numbers.

The generator is Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a block of
four 64-bit words is a function of a key and a counter. This module uses only the raw words of NumPy's Philox,
because NumPy promises that these never change. It does not promise this for the distributions built on them.
"""
import numpy as np

# Each purpose has a stream of its own, so two purposes never share a number.
ORDER, CROP, COLOR, DROPOUT, REPLACEMENT = range(5)


def epoch_order(seed, epoch, count):
    """Compute the order in which an epoch visits the files.

    Args:
        seed: random_seed of the run, an int from 0.
        epoch: number of the epoch, from 0.
        count: number of files.

    Returns:
        A permutation of 0..count-1, (count,) int64.
    """
    # A stable sort gives the same order on every machine even if two words are equal.
    return np.argsort(_words(seed, epoch, ORDER, 0, count), kind='stable').astype(np.int64)


def uniforms(seed, epoch, stream, first, rows, columns):
    """Draw uniform random numbers for the positions first..first+rows-1 of an epoch.

    Row i depends only on (seed, epoch, stream, first + i, columns).

    Args:
        seed, epoch: see `epoch_order`.
        stream: CROP, COLOR, DROPOUT or REPLACEMENT.
        first: first position in the order of the epoch, from 0.
        rows: number of positions.
        columns: how many numbers each position gets.

    Returns:
        (rows, columns) float64 in [0, 1), multiples of 2 ** -53.
    """
    blocks = -(-columns // 4)                   # every row starts at the beginning of a block
    words = _words(seed, epoch, stream, first * blocks, rows * blocks * 4).reshape(rows, blocks * 4)
    return (words[:, :columns] >> np.uint64(11)) * 2.0 ** -53


def dropout_mask(seed, epoch, first, rows, features, keep_prob):
    """Draw the factors with which dropout multiplies the features.

    Row i depends only on (seed, epoch, first + i, features, keep_prob).

    Args:
        seed, epoch, first, rows: see `uniforms`.
        features: number of features of one image.
        keep_prob: share of the features that are kept. 1 gives a mask of ones.

    Returns:
        (rows, features) float32; each value is 0 or 1/keep_prob.
    """
    kept = uniforms(seed, epoch, DROPOUT, first, rows, features) < keep_prob
    return kept.astype(np.float32) * np.float32(1 / keep_prob)


def _words(seed, epoch, stream, block, count):
    """Return `count` words of a stream, from its block number `block` on, (count,) uint64."""
    key = np.array([seed, epoch], np.uint64)
    counter = np.array([block, 0, 0, stream], np.uint64)
    return np.random.Philox(counter=counter, key=key).random_raw(count)
