"""The learning rate as a pure function of the step."""
import math
from fractions import Fraction


def learning_rate(step, steps_per_epoch, config):
    """Learning rate of global step `step` (from 0), a float.

    lr_init x group_size (TF-Slim's rule: 0.04 for each synchronous replica of batch 32), multiplied
    by lr_decay_rate once every num_epoch_per_decay epochs, in a staircase. Fractions, because
    floor(step / (2.4 * steps_per_epoch)) in floating point is one stair late at exact multiples.
    """
    steps_per_decay = Fraction(str(config.num_epoch_per_decay)) * steps_per_epoch
    return config.lr_init * config.group_size * math.pow(config.lr_decay_rate, step // steps_per_decay)
