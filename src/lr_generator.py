"""The learning rate as a pure function of the step."""
import math
from fractions import Fraction


def learning_rate(step, steps_per_epoch, config):
    """Compute the learning rate of one training step.

    The rate is lr_init x group_size, multiplied by lr_decay_rate once every num_epoch_per_decay epochs. It is
    constant between two of these moments, so its curve is a staircase. The factor group_size is the rule of
    TF-Slim: 0.04 for each synchronous replica with a batch of 32.

    Args:
        step: number of the step since the beginning of the training, from 0, an int.
        steps_per_epoch: number of steps in one epoch, an int.
        config: needs the attributes lr_init, group_size, lr_decay_rate and num_epoch_per_decay (src/config.py).

    Returns:
        The learning rate, a float.
    """
    # With floats, floor(step / (2.4 * steps_per_epoch)) is one stair late when the step is an exact multiple.
    # Fractions are exact.
    steps_per_decay = Fraction(str(config.num_epoch_per_decay)) * steps_per_epoch
    return config.lr_init * config.group_size * math.pow(config.lr_decay_rate, step // steps_per_decay)
