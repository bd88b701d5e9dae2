"""A network for inference without BatchNorms."""
import numpy as np

from src.framework import Tensor, nn
from src.network.cpu.kernels import use_own_kernels
from src.network.fold import fold
from src.network.layers import FactorizedReduction, Squeeze
from tests.helpers import graph_mode_is_slow
from tools.golden import draw
from tools.golden.compare import drawn


@graph_mode_is_slow
def test_folded_batch_norms_change_only_rounding(mode):
    folded = fold(drawn('narrow'))
    assert not any(isinstance(cell, nn.BatchNorm2d) for _, cell in folded.cells_and_names())
    network = drawn('narrow')
    network.set_train(False)
    images = Tensor(draw.images('narrow'))
    plain = network(images).asnumpy()
    assert np.abs(folded(images).asnumpy() - plain).max() <= 1e-5
    if mode == 'graph':
        assert np.abs(use_own_kernels(fold(drawn('narrow')))(images).asnumpy() - plain).max() <= 1e-5


class Layers(nn.Cell):
    """Both kinds of layers that are folded: one convolution before a BatchNorm, and two that are concatenated."""

    def __init__(self):
        super().__init__()
        self.squeeze = Squeeze(4, 8, 0.9)
        self.reduction = FactorizedReduction(8, 7, 0.9)

    def construct(self, x):
        return self.reduction(self.squeeze(x))


def test_one_convolution_and_two_that_are_concatenated_are_folded():
    random = np.random.RandomState(0)
    layers, x = Layers(), Tensor(random.normal(0, 1, (2, 4, 9, 9)).astype(np.float32))
    for parameter in layers.get_parameters():
        value = random.uniform(0.5, 1.5, parameter.shape)
        parameter.set_data(Tensor(value.astype(np.float32)))
    folded = Layers()
    for own, other in zip(folded.get_parameters(), layers.get_parameters()):
        own.set_data(Tensor(other.asnumpy()))
    plain = layers.set_train(False)(x).asnumpy()
    names = [p.name for p in folded.get_parameters()]
    found = fold(folded)(x).asnumpy()
    assert np.abs(found - plain).max() <= 1e-5 * np.abs(plain).max()
    assert {p.name for p in folded.get_parameters() if p.name.endswith('weight')} <= set(names)
    assert not any(isinstance(cell, nn.BatchNorm2d) for _, cell in folded.cells_and_names())
