"""Fixed and dynamic loss scales."""
import numpy as np
import pytest

from src.framework import Parameter, Tensor
from src.training.loss_scale import DynamicLossScale, FixedLossScale, make_loss_scale
from src.training.optimizer import FlatRMSProp
from tests.helpers import RATES, random_batch, small_config, small_step
from tests.training.test_optimizer import Update


def test_the_configuration_chooses_a_fixed_or_a_dynamic_scale():
    fixed, dynamic = make_loss_scale(1024), make_loss_scale(0)
    assert isinstance(fixed, FixedLossScale) and fixed.value == 1024 and fixed.state() == {}
    assert isinstance(dynamic, DynamicLossScale) and float(dynamic.value.asnumpy()) == 2 ** 16


@pytest.mark.parametrize('kind', [FixedLossScale, DynamicLossScale])
def test_both_kinds_take_the_scale_out_of_a_gradient(kind):
    np.testing.assert_array_equal(kind(4).unscale(Tensor(np.float32([8, -2]))).asnumpy(), [2, -0.5])


def test_a_fixed_scale_never_skips_an_update():
    skip, norm = FixedLossScale(4).construct(Tensor(np.float32(np.inf)))
    assert skip is None and np.isinf(norm.asnumpy())


@pytest.mark.slow
def test_loss_scale_changes_nothing_but_rounding():
    results = []
    for scale in (1, 1024):
        config = small_config(loss_scale=scale)
        _, step = small_step(config)
        loss, norm = step(*random_batch(config), *RATES)
        results.append((float(loss.asnumpy()), float(norm.asnumpy())))
    assert results[0] == pytest.approx(results[1], rel=1e-3)


def test_a_dynamic_loss_scale_skips_exactly_the_updates_that_overflow(mode):
    random = np.random.RandomState(5)
    weights = {'a.weight': random.randn(17).astype(np.float32), 'a.beta': random.randn(3).astype(np.float32)}

    def optimizer(loss_scale):
        parameters = [Parameter(Tensor(w), name=name) for name, w in weights.items()]
        return FlatRMSProp(parameters, 4e-5, clip_norm=1.0, loss_scale=loss_scale)
    scale = DynamicLossScale(first=4, interval=2)
    dynamic, plain = optimizer(scale), optimizer(FixedLossScale())
    one, other = Update(dynamic), Update(plain)
    rate = Tensor(np.float32(0.1))
    # Pairs: what one gradient is multiplied with, and the scale after the step. It doubles after two good steps in a
    # row.
    for poison, after in ((1, 4), (1, 8), (1, 8), (np.inf, 4), (1, 4), (np.nan, 2), (1, 2), (1, 4), (-np.inf, 2),
                          (np.inf, 1), (1, 1)):
        gradients = [random.randn(*p.shape).astype(np.float32) for p in plain.parameters]
        factor = np.float32(scale.value.asnumpy())
        poisoned = [g * factor for g in gradients]
        poisoned[1][0] *= poison
        norm = float(one(rate, *map(Tensor, poisoned)).asnumpy())
        assert norm == (float(other(rate, *map(Tensor, gradients)).asnumpy()) if poison == 1 else 0)
        assert float(scale.value.asnumpy()) == after
        dynamic.write_parameters()
        plain.write_parameters()
        for mine, its in ((p.asnumpy(), q.asnumpy()) for p, q in zip(dynamic.parameters, plain.parameters)):
            np.testing.assert_array_equal(mine, its)
        for name, array in plain.state().items():
            np.testing.assert_array_equal(dynamic.state()[name], array)
    saved = scale.state()
    assert {name: array.shape for name, array in saved.items()} == {'loss_scale.value': (1,),
                                                                    'loss_scale.good_steps': (1,)}
    # Below 1 the scale is not the reason any more. Then the norm shows it, and the monitor ends the run.
    assert not np.isfinite(one(rate, *map(Tensor, poisoned[:1] + [np.full(3, np.nan, np.float32)])).asnumpy())
    scale.load_state(saved)
    assert float(scale.value.asnumpy()) == 1 and float(scale.good_steps.asnumpy()) == 1
