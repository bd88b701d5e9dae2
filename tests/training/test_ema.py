"""Moving averages of the weights are TensorFlow's."""
import numpy as np
import pytest

from src.framework import Tensor
from src.training.ema import average_decay
from tests.helpers import random_batch, small_config, small_step


@pytest.mark.parametrize('step,decay', [(0, 1 / 10), (1, 2 / 11), (89990, 89991 / 90000), (10 ** 6, 0.9999)])
def test_the_decay_grows_with_the_step_up_to_its_limit(step, decay):
    assert average_decay(step, 0.9999) == decay


@pytest.mark.slow
def test_moving_averages_are_tensorflows():
    config = small_config(ema_decay=0.3)
    network, step = small_step(config)
    expected = {p.name: p.asnumpy().astype(np.float64) for p in network.get_parameters()}
    for n in range(6):
        step(*random_batch(config, n), Tensor(np.float32(0.02)), Tensor(np.float32(average_decay(n, 0.3))))
        step.optimizer.write_parameters()
        decay = min(0.3, (1 + n) / (10 + n))        # tf.train.ExponentialMovingAverage(0.3, num_updates=n)
        for p in network.get_parameters():
            expected[p.name] += (1 - decay) * (p.asnumpy() - expected[p.name])
    state = step.average.state()
    assert set(state) == {'ema.' + name for name in expected}
    for name, value in expected.items():
        np.testing.assert_allclose(state['ema.' + name], value, rtol=1e-5, atol=1e-6)
    own = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    with step.average.applied():
        step.optimizer.write_parameters()
        for p in network.get_parameters():
            np.testing.assert_array_equal(p.asnumpy(), state['ema.' + p.name])
    step.optimizer.write_parameters()
    for p in network.get_parameters():
        np.testing.assert_array_equal(p.asnumpy(), own[p.name])
