"""Parameters as parts of one flat vector."""
import numpy as np
import pytest

from src.framework import Parameter, Tensor
from src.input.preprocess import Preprocess
from src.network.build import build_network
from src.network.initialize import initialize
from src.training.flat import FlatLayout
from src.training.train_step import build_train_step
from tests.helpers import RATES, random_batch, small_config

SHAPES = {'a.weight': (2, 3), 'b.gamma': (4,), 'c.weight': (1, 1, 2, 2), 'd.bias': (1,)}


def layout():
    """A FlatLayout of four parameters."""
    return FlatLayout([Parameter(Tensor(np.zeros(shape, np.float32)), name=name) for name, shape in SHAPES.items()])


def test_parameters_lie_one_after_another():
    assert layout().offsets == (0, 6, 10, 14) and layout().size == 15
    assert [p.name for p in layout().parameters] == list(SHAPES)


def test_a_vector_is_cut_into_shapes_and_joined_again():
    flat = np.arange(15, dtype=np.float32)
    arrays = layout().cut(flat, 'ema.')
    assert {name: array.shape for name, array in arrays.items()} == {'ema.' + name: SHAPES[name] for name in SHAPES}
    np.testing.assert_array_equal(arrays['ema.a.weight'], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(arrays['ema.d.bias'], [14])
    joined = layout().join(dict(arrays, other=np.zeros(3)), 'ema.')
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined, flat)


def test_the_parts_are_copies():
    flat = np.zeros(15, np.float32)
    parts = layout().cut(flat)
    flat[:] = 1
    assert not any(part.any() for part in parts.values())


@pytest.mark.slow
def test_batch_norm_writes_its_moving_averages_also_where_it_reads_a_vector():
    """A GPU computes this form, without the CPU kernels. The reference is MindSpore's own BatchNorm with Parameters."""
    config = small_config()
    flat, plain = (initialize(build_network(config, training=True), 1) for _ in range(2))
    images, labels, color, mask = random_batch(config)
    build_train_step(flat, config, own_kernels=False).set_train(True)(images, labels, color, mask, *RATES)
    plain.set_train(True)(Preprocess()(images, color), mask)
    found = {p.name: p.asnumpy() for p in flat.get_parameters()}
    moving = [p for p in plain.get_parameters() if '.moving_' in p.name]
    assert len(moving) == 80
    for parameter in moving:
        assert set(np.unique(parameter.asnumpy())) - {0, 1}
        np.testing.assert_allclose(found[parameter.name], parameter.asnumpy(), rtol=1e-4, atol=1e-5)
