"""Parameters as parts of one flat vector."""
import numpy as np

from src.framework import Parameter, Tensor
from src.training.flat import FlatLayout

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
