"""The weights that training starts from."""
import zlib

import numpy as np

from src.network.merge import plain_values, set_plain_values

IMAGENET_CLASSES = 1000


def initialize(network, seed):
    """Draw the weights of a network as TF-Slim does; biases and BatchNorm keep their defaults. Returns the network.

    TF-Slim's nasnet_mobile_arg_scope uses variance_scaling_initializer(mode='FAN_OUT'): a normal distribution of
    standard deviation sqrt(1.3 * 2 / fan_out) that is cut off at two deviations. fan_out is kernel height x width x
    output channels (1 output channel for a depthwise kernel). A classifier of fewer than 1000 classes starts as one
    of 1000 classes would: by the rule alone, logits of 8 classes would start with a size of 10.

    Each tensor depends only on (seed, its plain name), so every rank, device and version of the framework starts
    from the same bits.
    """
    values = plain_values(network)
    for name, value in values.items():
        if not name.endswith('weight'):
            continue
        if value.ndim == 2:
            fan_out = max(value.shape[0], IMAGENET_CLASSES)
        else:
            fan_out = value.shape[2] * value.shape[3] * (1 if 'depthwise' in name else value.shape[0])
        generator = np.random.Philox(key=[seed, zlib.crc32(name.encode())])
        draw = truncated_normal(generator, value.size).reshape(value.shape)
        values[name] = (draw * np.sqrt(2.6 / fan_out)).astype(np.float32)
    set_plain_values(network, values)
    return network


def truncated_normal(generator, count):
    """Numbers of a standard normal distribution that is cut off at two deviations, (count,) float64.

    Only the generator's raw words are used: NumPy promises that their stream never changes, and makes no such promise
    for its distributions. A number z is uniform in [-2, 2) and is accepted with probability exp(-z^2 / 2); 60 % are.

    Args:
        generator: a NumPy bit generator.
    """
    accepted = np.empty(0)
    while len(accepted) < count:
        words = generator.random_raw(2 * (count + 64)).reshape(2, -1)
        candidates, chances = (words >> np.uint64(11)) * 2.0 ** -53
        candidates = 4 * candidates - 2
        accepted = np.concatenate([accepted, candidates[chances < np.exp(-candidates * candidates / 2)]])
    return accepted[:count]
