"""Every random number of a run as a pure function of (seed, epoch, position).

Nothing is drawn in sequence, so any step of any epoch can be computed alone: a resumed run, another
number of worker threads or another split over processes sees the same numbers. The generator is
Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a block of four
64-bit words is a function of a key and a counter. Only NumPy's raw words are used, because NumPy
promises stable bit streams for those and not for the distributions built on them.
"""
import numpy as np

# Streams: numbers drawn for one purpose never meet those of another.
ORDER, CROP, COLOR, DROPOUT = range(4)


def epoch_order(seed, epoch, count):
    """The order in which an epoch visits `count` files: a permutation of 0..count-1, (count,) int64."""
    # Stable: should two words be equal, every machine still sorts them alike.
    return np.argsort(_words(seed, epoch, ORDER, 0, count), kind='stable').astype(np.int64)


def uniforms(seed, epoch, stream, first, rows, columns):
    """Uniform numbers of the positions first..first+rows-1, (rows, columns) float64 in [0, 1).

    Row i depends on (seed, epoch, stream, first + i, columns) alone.
    """
    blocks = -(-columns // 4)                   # a row starts on a block of its own
    words = _words(seed, epoch, stream, first * blocks, rows * blocks * 4).reshape(rows, blocks * 4)
    return (words[:, :columns] >> np.uint64(11)) * 2.0 ** -53


def dropout_mask(seed, epoch, first, rows, features, keep_prob):
    """What dropout multiplies features with: 0 or 1/keep_prob, (rows, features) float32.

    Row i depends on (seed, epoch, first + i, features, keep_prob) alone; keep_prob 1 gives ones.
    """
    kept = uniforms(seed, epoch, DROPOUT, first, rows, features) < keep_prob
    return kept.astype(np.float32) * np.float32(1 / keep_prob)


def _words(seed, epoch, stream, block, count):
    """`count` words from block number `block` of a stream, (count,) uint64."""
    key = np.array([seed, epoch], np.uint64)
    counter = np.array([block, 0, 0, stream], np.uint64)
    return np.random.Philox(counter=counter, key=key).random_raw(count)
