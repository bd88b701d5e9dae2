"""The compiled training step: what it moves, accumulated batches, frozen parts and float16."""
import numpy as np
import pytest

from src.checkpoints.checkpoint import arrays_of
from src.framework import Tensor
from src.input.draws import dropout_mask
from src.lr_generator import learning_rate
from src.training.train_step import StepRunner, unpack
from tests.helpers import RATES, random_batch, small_config, small_step


class Batch:
    """A part of a random batch of eight images, with the attributes of src.dataset.Batch that a step reads."""

    def __init__(self, arrays, first, size):
        self.images, self.labels, self.color = (array.asnumpy()[first:first + size] for array in arrays)


def train(config, scales=(None, None), batch_norm=True):
    """Train the small network on eight random images, one step for each of `scales`.

    Each step is run as the first one of a training, so all have the same learning rate and dropout mask.

    Args:
        scales: for each step the value that the dynamic loss scale gets before it, or None.
        batch_norm: whether BatchNorm uses the statistics of its batch; False: its moving averages.

    Returns:
        (TrainStep, [(loss, gradient norm)])
    """
    network, step = small_step(config)
    run_step = StepRunner(step, config, steps_per_epoch=1)
    network.set_train(batch_norm)
    arrays = random_batch(small_config())[:3]
    results = []
    for scale in scales:
        if scale is not None:
            step.loss_scale.value.set_data(Tensor(np.float32(scale)))
        batches = (Batch(arrays, first, config.batch_size) for first in range(0, 8, config.batch_size))
        loss, norm, rate = run_step(batches, 0, 0)
        assert rate == learning_rate(0, 1, config)
        results.append((float(loss.asnumpy()), float(norm.asnumpy())))
    return step, results


def test_training_step_moves_every_parameter_and_learns_a_batch():
    # Twice the small width, because a scale of one channel before a BatchNorm has no gradient.
    config = small_config(weight_decay=0.0, penultimate_filters=192)
    network, step = small_step(config)
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    losses = [float(step(*random_batch(config), *RATES)[0].asnumpy()) for _ in range(12)]
    step.optimizer.write_parameters()
    assert all('auxiliary_head.' + name in before for name in ('full.weight', 'classifier.bias', 'bn_2.gamma'))
    # Without weight decay only a gradient (or a batch, for the statistics) can have moved a parameter.
    still = [p.name for p in network.get_parameters() if np.array_equal(p.asnumpy(), before[p.name])]
    assert still == []
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_a_frozen_backbone_stays_as_it_is():
    config = small_config(freeze='backbone')
    network, step = small_step(config)
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    step(*random_batch(config), *RATES)
    step.optimizer.write_parameters()
    moved = {p.name.split('.')[0] for p in network.get_parameters() if not np.array_equal(p.asnumpy(), before[p.name])}
    assert moved == {'classifier', 'auxiliary_head'}


@pytest.mark.slow
def test_accumulated_batches_are_one_larger_batch():
    # With frozen statistics of BatchNorm, because these belong to single batches.
    whole, expected = train(small_config(ema_decay=0.9), batch_norm=False)
    parts, results = train(small_config(ema_decay=0.9, batch_size=2, accumulation_steps=4), batch_norm=False)
    np.testing.assert_allclose(results, expected, rtol=1e-5)
    for step in (whole, parts):
        step.optimizer.write_parameters()
    expected = arrays_of(whole.network, *whole.parts())
    for name, array in arrays_of(parts.network, *parts.parts()).items():
        assert np.abs(array - expected[name]).max() <= 1e-5 * max(1, np.abs(expected[name]).max()), name


def test_a_step_gets_the_dropout_mask_of_its_position():
    config = small_config(batch_size=2, accumulation_steps=2)
    _, step = small_step(config)
    runner = StepRunner(step, config, steps_per_epoch=5)
    batch = Batch(random_batch(small_config())[:3], 0, 2)
    inputs = [runner._inputs(batch, 3, 4, part, (0.25, 0.5)) for part in range(2)]
    unpacked = [[tensor.asnumpy() for tensor in unpack(packed, 2)] for _, packed in inputs]
    masks = [mask for _, _, _, _, mask in unpacked]
    np.testing.assert_array_equal(np.concatenate(masks), dropout_mask(1, 3, 16, 4, 96, 0.5))
    np.testing.assert_array_equal(inputs[0][0].asnumpy(), batch.images)
    for found, expected in zip(unpacked[0], (0.25, 0.5, batch.labels, batch.color)):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_float16_is_float32_but_for_rounding():
    _, [(loss, norm)] = train(small_config(), (None,))
    step, results = train(small_config(amp_level='O3', loss_scale=0), (2.0 ** 40, 1024))
    print((loss, norm), results)
    # The first scale is too much for float16. That step is skipped, so the second step is float32's first.
    assert results[0] == (pytest.approx(loss, rel=1e-3), 0)
    assert results[1] == (pytest.approx(loss, rel=1e-3), pytest.approx(norm, rel=3e-2))
    assert float(step.loss_scale.value.asnumpy()) == 1024
