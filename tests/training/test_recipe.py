"""Loss, learning rate, optimizer and the training step against float64 references."""
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from nasnet_a_mobile import NASNetAMobile, initialize
from src.build import build_network, build_train_step
from src.checkpoint import state
from src.cli import make_config
from src.framework import Parameter, Tensor, nn
from src.loss import CrossEntropySmooth, NASNetLoss
from src.loss_scale import DynamicLossScale
from src.lr_generator import learning_rate
from src.optimizer import FlatRMSProp, is_decayed
from src.train_step import LUMA, AccumulatedStep, Preprocess
from tests.conftest import SMALL


def smoothed_cross_entropy(logits, labels, smooth):
    """TensorFlow's definition in float64."""
    logits = logits.astype(np.float64)
    classes = logits.shape[1]
    targets = np.full(logits.shape, smooth / classes)
    targets[np.arange(len(labels)), labels] += 1 - smooth
    logits -= logits.max(1, keepdims=True)
    return -(targets * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1).mean()


@pytest.mark.parametrize('classes,smooth', [(2, 0.0), (10, 0.1), (1000, 0.1), (1000, 0.5)])
def test_loss_is_tensorflows_label_smoothing(mode, classes, smooth):
    random = np.random.RandomState(classes)
    logits = (5 * random.randn(8, classes)).astype(np.float32)
    labels = random.randint(0, classes, 8).astype(np.int32)
    loss = float(CrossEntropySmooth(classes, smooth)(Tensor(logits), Tensor(labels)).asnumpy())
    assert loss == pytest.approx(smoothed_cross_entropy(logits, labels, smooth), rel=1e-6)


def test_auxiliary_loss_is_added_with_its_factor(mode):
    random = np.random.RandomState(0)
    main, auxiliary = random.randn(2, 4, 10).astype(np.float32)
    labels = np.array([0, 3, 9, 5], np.int32)
    loss = NASNetLoss(10, 0.1, 0.4)((Tensor(main), Tensor(auxiliary)), Tensor(labels))
    expected = smoothed_cross_entropy(main, labels, 0.1) + 0.4 * smoothed_cross_entropy(auxiliary, labels, 0.1)
    assert float(loss.asnumpy()) == pytest.approx(expected, rel=1e-6)
    alone = NASNetLoss(10, 0.1, 0.0)(Tensor(main), Tensor(labels))
    assert float(alone.asnumpy()) == pytest.approx(smoothed_cross_entropy(main, labels, 0.1), rel=1e-6)


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
    # The twelfth epoch ends the fifth stair exactly, where floating point would be one step late.
    assert learning_rate(12 * steps, steps, config) == pytest.approx(0.16 * 0.97 ** 5, rel=1e-12)


def tf1_rmsprop(weights, gradients, rates, weight_decay, momentum, decay, eps, clip_norm):
    """TensorFlow 1's ApplyRMSProp after weight decay and clip_by_global_norm, float64."""
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


SIZES = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100, 1023, 100003)


@pytest.mark.parametrize('eps,clip_norm', [(1.0, 10.0), (1.0, 1e9), (1e-3, 10.0)])
def test_optimizer_is_tf1_rmsprop_over_100_steps(mode, eps, clip_norm):
    random = np.random.RandomState(3)
    weights = {'layer_%d.%s' % (size, kind): random.randn(size).astype(np.float32)
               for size in SIZES for kind in ('weight', 'gamma')}
    parameters = [Parameter(Tensor(w), name=name) for name, w in weights.items()]
    optimizer = FlatRMSProp(parameters, 4e-5, 0.9, 0.9, eps, clip_norm, loss_scale=1024)
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
    for parameter in parameters:
        name = parameter.name
        # Relative to the largest value on the way: one scalar may end near zero by cancellation.
        assert np.abs(parameter.asnumpy() - expected[name]).max() <= 1e-6 * peak[name]
        assert distance(state['mean_square.' + name], square[name]) <= 1e-6
        assert distance(state['moment.' + name], moment[name]) <= 2e-6


def distance(array, reference):
    """Relative to the largest element."""
    return np.abs(array - reference).max() / np.abs(reference).max()


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


def test_weight_decay_is_on_convolution_and_dense_weights_alone():
    network = NASNetAMobile(10, 96, **SMALL)
    for parameter in network.trainable_params():
        assert is_decayed(parameter) == (len(parameter.shape) > 1), parameter.name


def test_preprocess_against_float64(mode):
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (3, 9, 7, 3)).astype(np.uint8)
    color = random.uniform(0.6, 1.4, (3, 3)).astype(np.float32)
    x = images.transpose(0, 3, 1, 2) / 255.0
    plain = Preprocess()(Tensor(images)).asnumpy()
    np.testing.assert_allclose(plain, 2 * x - 1, atol=1e-6)
    luma = np.reshape(LUMA, (1, 3, 1, 1))
    brightness, contrast, saturation = color.astype(np.float64).T.reshape(3, 3, 1, 1, 1)
    x = np.clip(x * brightness, 0, 1)
    mean = (x * luma).sum(1, keepdims=True).mean((2, 3), keepdims=True)
    x = np.clip(mean + (x - mean) * contrast, 0, 1)
    grey = (x * luma).sum(1, keepdims=True)
    x = np.clip(grey + (x - grey) * saturation, 0, 1)
    np.testing.assert_allclose(Preprocess()(Tensor(images), Tensor(color)).asnumpy(), 2 * x - 1, atol=1e-6)


def small_config(**keys):
    """A configuration of the small network at 72 pixels."""
    return make_config(SMALL, {'num_classes': 4, 'image_size': 72, 'batch_size': 8, 'bn_decay': 0.9}, keys)


RATES = Tensor(np.float32(0.02)), Tensor(np.float32(0.5))       # learning rate, decay of the moving averages


def random_batch(config, seed=0):
    """Inputs of one training step."""
    random = np.random.RandomState(seed)
    size = config.image_size
    return (Tensor(random.randint(0, 256, (config.batch_size, size, size, 3)).astype(np.uint8)),
            Tensor(random.randint(0, config.num_classes, config.batch_size).astype(np.int32)),
            Tensor(random.uniform(0.6, 1.4, (config.batch_size, 3)).astype(np.float32)),
            Tensor(2 * random.randint(0, 2, (config.batch_size, config.penultimate_filters)).astype(np.float32)))


def test_training_step_moves_every_parameter_and_learns_a_batch():
    # Twice the small width: a one-channel scale before a BatchNorm has no gradient.
    config = small_config(weight_decay=0.0, penultimate_filters=192)
    network = initialize(build_network(config, training=True), 1)
    step = build_train_step(network, config)
    step.set_train(True)
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    losses = [float(step(*random_batch(config), *RATES)[0].asnumpy()) for _ in range(12)]
    assert all('auxiliary_head.' + name in before for name in ('full.weight', 'classifier.bias', 'bn_2.gamma'))
    # Without weight decay only a gradient (or a batch, for the statistics) can have moved a parameter.
    still = [p.name for p in network.get_parameters() if np.array_equal(p.asnumpy(), before[p.name])]
    assert still == []
    assert losses[-1] < 0.8 * losses[0]


def test_loss_scale_changes_nothing_but_rounding():
    results = []
    for scale in (1, 1024):
        config = small_config(loss_scale=scale)
        network = initialize(build_network(config, training=True), 1)
        step = build_train_step(network, config)
        step.set_train(True)
        loss, norm = step(*random_batch(config), *RATES)
        results.append((float(loss.asnumpy()), float(norm.asnumpy())))
    assert results[0] == pytest.approx(results[1], rel=1e-3)


def train_small(config, scales=(None, None), batch_norm=True):
    """Train the small network on eight random images, a step for each of `scales` (dynamic loss scales, or None).

    Returns:
        (TrainStep, [(loss, gradient norm)]). With `batch_norm` False its statistics are frozen.
    """
    network = initialize(build_network(config, training=True), 1)
    step = build_train_step(network, config)
    run_step = AccumulatedStep(step)
    step.set_train(True)
    network.set_train(batch_norm)
    images = random_batch(SimpleNamespace(**dict(vars(config), batch_size=8)))
    results = []
    for scale in scales:
        if scale is not None:
            step.dynamic_scale.value.set_data(Tensor(np.float32(scale)))
        parts = ([Tensor(x.asnumpy()[first:first + config.batch_size]) for x in images]
                 for first in range(0, 8, config.batch_size))
        loss, norm = run_step(parts, *RATES)
        results.append((float(loss.asnumpy()), float(norm.asnumpy())))
    return step, results


def parameters_of(step):
    """{name: array} of the network and of what trains it."""
    return state(step.network, *(part for part in (step.optimizer, step.average, step.dynamic_scale) if part))


def test_accumulated_batches_are_one_larger_batch():
    # With BatchNorm's statistics frozen: those are of single batches.
    whole, expected = train_small(small_config(ema_decay=0.9), batch_norm=False)
    parts, results = train_small(small_config(ema_decay=0.9, batch_size=2, accumulation_steps=4), batch_norm=False)
    np.testing.assert_allclose(results, expected, rtol=1e-5)
    expected = parameters_of(whole)
    for name, array in parameters_of(parts).items():
        assert np.abs(array - expected[name]).max() <= 1e-5 * max(1, np.abs(expected[name]).max()), name


def test_a_dynamic_loss_scale_skips_exactly_the_updates_that_overflow(mode):
    random = np.random.RandomState(5)
    weights = {'a.weight': random.randn(17).astype(np.float32), 'a.beta': random.randn(3).astype(np.float32)}

    def optimizer(loss_scale):
        parameters = [Parameter(Tensor(w), name=name) for name, w in weights.items()]
        return FlatRMSProp(parameters, 4e-5, clip_norm=1.0, loss_scale=loss_scale)
    scale = DynamicLossScale(first=4, interval=2)
    dynamic, plain = optimizer(scale), optimizer(1)
    one, other = Update(dynamic), Update(plain)
    rate = Tensor(np.float32(0.1))
    # What the gradients are multiplied with, and the scale after the step: doubled after two good ones in a row.
    for poison, after in ((1, 4), (1, 8), (1, 8), (np.inf, 4), (1, 4), (np.nan, 2), (1, 2), (1, 4), (-np.inf, 2),
                          (np.inf, 1), (1, 1)):
        gradients = [random.randn(*p.shape).astype(np.float32) for p in plain.parameters]
        factor = np.float32(scale.value.asnumpy())
        poisoned = [g * factor for g in gradients]
        poisoned[1][0] *= poison
        norm = float(one(rate, *map(Tensor, poisoned)).asnumpy())
        assert norm == (float(other(rate, *map(Tensor, gradients)).asnumpy()) if poison == 1 else 0)
        assert float(scale.value.asnumpy()) == after
        for mine, its in ((p.asnumpy(), q.asnumpy()) for p, q in zip(dynamic.parameters, plain.parameters)):
            np.testing.assert_array_equal(mine, its)
        for name, array in plain.state().items():
            np.testing.assert_array_equal(dynamic.state()[name], array)
    saved = scale.state()
    assert {name: array.shape for name, array in saved.items()} == {'loss_scale.value': (1,),
                                                                    'loss_scale.good_steps': (1,)}
    # Below 1 it is no longer the scale: the norm shows it, and the monitor ends the run.
    assert not np.isfinite(one(rate, *map(Tensor, poisoned[:1] + [np.full(3, np.nan, np.float32)])).asnumpy())
    scale.load_state(saved)
    assert float(scale.value.asnumpy()) == 1 and float(scale.good_steps.asnumpy()) == 1


def test_float16_is_float32_but_for_rounding():
    _, [(loss, norm)] = train_small(small_config(), (None,))
    for level in ('O2', 'O3'):
        step, results = train_small(small_config(amp_level=level, loss_scale=0), (2.0 ** 40, 1024))
        print(level, (loss, norm), results)
        # The first scale is too much for float16: that step is skipped, so the second one is float32's first.
        assert results[0] == (pytest.approx(loss, rel=1e-3), 0)
        assert results[1] == (pytest.approx(loss, rel=1e-3), pytest.approx(norm, rel=3e-2))
        assert float(step.dynamic_scale.value.asnumpy()) == 1024
