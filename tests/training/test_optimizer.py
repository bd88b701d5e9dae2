"""The optimizer is RMSProp as TensorFlow 1 defines it; the reference is float64."""
import numpy as np
import pytest

from nasnet_a_mobile import NASNetAMobile
from src.framework import Parameter, Tensor, nn
from src.training.loss_scale import FixedLossScale
from src.training.optimizer import FlatRMSProp, is_decayed
from tests.helpers import SMALL

SIZES = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100, 1023, 100003)


def tf1_rmsprop(weights, gradients, rates, weight_decay, momentum, decay, eps, clip_norm):
    """TensorFlow 1's ApplyRMSProp after weight decay and clip_by_global_norm, in float64.

    Returns:
        (weights, mean squares, moments, global norms, largest absolute value that each weight had on the way)
    """
    weights = {name: w.astype(np.float64) for name, w in weights.items()}
    square = {name: np.ones_like(w) for name, w in weights.items()}
    moment = {name: np.zeros_like(w) for name, w in weights.items()}
    peak = {name: np.abs(w).max() for name, w in weights.items()}
    norms = []
    for rate, gradient in zip(rates, gradients):
        g = {name: gradient[name] + (weight_decay if name.endswith('.weight') else 0) * weights[name]
             for name in weights}
        norms.append(np.sqrt(sum((x ** 2).sum() for x in g.values())))
        factor = clip_norm / max(norms[-1], clip_norm)
        for name in weights:
            x = g[name] * factor
            square[name] += (x ** 2 - square[name]) * (1 - decay)
            moment[name] = momentum * moment[name] + rate * x / np.sqrt(square[name] + eps)
            weights[name] -= moment[name]
            peak[name] = max(peak[name], np.abs(weights[name]).max())
    return weights, square, moment, norms, peak


class Update(nn.Cell):
    """The optimizer with gradients as separate inputs: a tuple of tensors would be compiled in as constants."""

    def __init__(self, optimizer):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer

    def construct(self, *inputs):
        return self.optimizer(inputs[1:], inputs[0])


def distance(array, reference):
    """The largest difference, relative to the largest element."""
    return np.abs(array - reference).max() / np.abs(reference).max()


@pytest.mark.parametrize('eps,clip_norm', [(1.0, 10.0), (1.0, 1e9), (1e-3, 10.0)])
def test_optimizer_is_tf1_rmsprop_over_100_steps(mode, eps, clip_norm):
    random = np.random.RandomState(3)
    weights = {'layer_%d.%s' % (size, kind): random.randn(size).astype(np.float32)
               for size in SIZES for kind in ('weight', 'gamma')}
    parameters = [Parameter(Tensor(w), name=name) for name, w in weights.items()]
    optimizer = FlatRMSProp(parameters, 4e-5, 0.9, 0.9, eps, clip_norm, FixedLossScale(1024))
    steps = 100 if mode == 'graph' else 20
    gradients = [{name: (0.2 * random.randn(*w.shape)).astype(np.float32) for name, w in weights.items()}
                 for _ in range(steps)]
    rates = [np.float32(0.16 * 0.97 ** (i // 24)) for i in range(steps)]
    update = Update(optimizer)
    norms = [float(update(Tensor(rate), *[Tensor(gradient[p.name] * np.float32(1024))
                                          for p in optimizer.parameters]).asnumpy())
             for gradient, rate in zip(gradients, rates)]
    expected, square, moment, expected_norms, peak = tf1_rmsprop(
        weights, gradients, rates, 4e-5, 0.9, 0.9, eps, clip_norm)
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-6)
    state = optimizer.state()
    optimizer.write_parameters()
    for parameter in parameters:
        name = parameter.name
        # Relative to the largest value on the way, because one scalar may end near zero by cancellation.
        assert np.abs(parameter.asnumpy() - expected[name]).max() <= 1e-6 * peak[name]
        assert distance(state['mean_square.' + name], square[name]) <= 1e-6
        assert distance(state['moment.' + name], moment[name]) <= 2e-6


def test_optimizer_state_comes_back_under_parameter_names():
    parameters = [Parameter(Tensor(np.zeros((2, 3), np.float32)), name='a.weight'),
                  Parameter(Tensor(np.zeros(4, np.float32)), name='a.beta')]
    optimizer = FlatRMSProp(parameters)
    state = {'%s.%s' % (kind, p.name): np.random.rand(*p.shape).astype(np.float32)
             for kind in ('mean_square', 'moment') for p in parameters}
    optimizer.load_state(state)
    assert optimizer.state().keys() == state.keys()
    for name, array in optimizer.state().items():
        np.testing.assert_array_equal(array, state[name])


def test_weight_decay_is_only_on_convolution_and_dense_weights():
    network = NASNetAMobile(10, 96, **SMALL)
    for parameter in network.trainable_params():
        assert is_decayed(parameter) == (len(parameter.shape) > 1), parameter.name
