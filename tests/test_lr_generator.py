"""The learning rate is a staircase without rounding errors."""
from fractions import Fraction
from types import SimpleNamespace

import pytest

from src.lr_generator import learning_rate


def test_learning_rate_is_exact_over_600_imagenet_epochs():
    config = SimpleNamespace(lr_init=0.04, group_size=4, lr_decay_rate=0.97, num_epoch_per_decay=2.4)
    steps = 10009
    stair = Fraction(24, 10) * steps                    # 24021.6 steps
    for decays in range(int(600 * steps / stair)):
        first = -(-decays * stair.numerator // stair.denominator)      # first step of this stair
        expected = 0.04 * 4 * 0.97 ** decays
        assert learning_rate(first, steps, config) == pytest.approx(expected, rel=1e-12)
        if decays:
            assert learning_rate(first - 1, steps, config) == pytest.approx(expected / 0.97, rel=1e-12)
    # The twelfth epoch ends the fifth stair exactly. With floating point numbers the rate would change one step late.
    assert learning_rate(12 * steps, steps, config) == pytest.approx(0.16 * 0.97 ** 5, rel=1e-12)
