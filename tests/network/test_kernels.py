"""The own CPU kernels, against float64 and against MindSpore's operators."""
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from nasnet_a_mobile import NASNetAMobile
from src.framework import Tensor, mindspore, nn, ops
from src.network.build import build_network
from src.network.cpu.kernels import (
    BatchNormKernels,
    DepthwiseKernels,
    OwnBatchNorm,
    OwnPool,
    PoolKernels,
    use_own_kernels,
    version_of_own_kernels,
)
from src.network.cpu.library import library
from src.network.initialize import initialize
from src.network.layers import Depthwise, batch_norm
from src.training.train_step import build_train_step
from tests.helpers import ROOT, SMALL, small_config

pytestmark = pytest.mark.needs('c++')

# (images, height, width), channels of the inputs, (channels, kernel size) of the weights, stride
SHAPES = [((2, 7, 7), (3,), ((3, 3),), 1),
          ((2, 28, 28), (4, 4, 4, 4, 4), ((8, 5), (12, 3)), 1),
          ((3, 14, 9), (6,), ((2, 5), (4, 3)), 1),
          ((2, 9, 12), (2, 2, 2, 2), ((4, 5), (4, 7)), 2),
          ((2, 55, 55), (1, 1), ((2, 7),), 2),
          ((1, 8, 8), (5,), ((5, 3),), 2),
          ((17, 5, 4), (1, 2), ((3, 5),), 1),       # the kernel reaches over the whole image
          ((2, 1, 3), (2,), ((2, 7),), 1),
          ((2, 1, 2), (2,), ((2, 3),), 2),
          ((1, 2, 2), (1,), ((1, 7),), 2)]


def padded(x, kernel, stride, value=0):
    """(x with TensorFlow's 'same' padding, (height, width) of the output)"""
    sizes = [-(-side // stride) for side in x.shape[2:]]
    pads = [max((size - 1) * stride + kernel - side, 0) for size, side in zip(sizes, x.shape[2:])]
    return np.pad(x, [(0, 0), (0, 0)] + [(pad // 2, pad - pad // 2 + stride) for pad in pads],
                  constant_values=value), sizes


def taps(kernel, stride, sizes):
    """Generate ((i, j), the slice of a padded image that element (i, j) of the kernel multiplies)."""
    for i in range(kernel):
        for j in range(kernel):
            yield (i, j), (slice(None), slice(None)) + tuple(
                slice(start, start + (size - 1) * stride + 1, stride) for start, size in zip((i, j), sizes))


def reference(x, weights, y_gradient, stride):
    """(y, gradient of x, gradients of the weights) in float64."""
    outputs, x_gradients, weight_gradients, first = [], [], [], 0
    for weight in weights:
        kernel, own = weight.shape[2], slice(first, first + len(weight))
        first = own.stop
        image, sizes = padded(np.maximum(x[:, own], 0).astype(np.float64), kernel, stride)
        y, x_gradient, weight_gradient = 0, np.zeros_like(image), np.zeros(weight.shape)
        for (i, j), read in taps(kernel, stride, sizes):
            factor = weight[:, 0, i, j].reshape(1, -1, 1, 1)
            y = y + factor * image[read]
            if y_gradient is not None:
                x_gradient[read] += factor * y_gradient[:, own]
                weight_gradient[:, 0, i, j] = (image[read] * y_gradient[:, own]).sum((0, 2, 3))
        top, left = (max((size - 1) * stride + kernel - side, 0) // 2 for size, side in zip(sizes, x.shape[2:]))
        outputs.append(y)
        x_gradients.append(x_gradient[:, :, top:top + x.shape[2], left:left + x.shape[3]] * (x[:, own] > 0))
        weight_gradients.append(weight_gradient)
    return np.concatenate(outputs, 1), np.concatenate(x_gradients, 1), weight_gradients


class Flat(nn.Cell):
    """construct(*inputs, *weights) of DepthwiseKernels; MindSpore has no gradients of tuples that are inputs."""

    def __init__(self, function, inputs):
        super().__init__()
        self.function = function
        self.inputs = inputs

    def construct(self, *tensors):
        return self.function(tensors[:self.inputs], tensors[self.inputs:])


@pytest.mark.parametrize('sides,channels,kernels,stride', SHAPES)
def test_function_and_gradients_in_float64(sides, channels, kernels, stride):
    random = np.random.RandomState(0)
    x = random.normal(0, 1, (sides[0], sum(channels)) + sides[1:]).astype(np.float32)
    inputs = tuple(map(Tensor, np.split(x, np.cumsum(channels)[:-1], 1)))
    weights = tuple(random.normal(0, 1, (count, 1, size, size)).astype(np.float32) for count, size in kernels)
    expected = reference(x, weights, None, stride)[0]
    gradient = random.normal(0, 1, expected.shape).astype(np.float32)
    expected, x_gradient, weight_gradients = reference(x, weights, gradient, stride)
    function = Flat(DepthwiseKernels(sum(channels), stride), len(channels))
    tensors = inputs + tuple(map(Tensor, weights))
    found = function(*tensors).asnumpy()
    gradients = [part.asnumpy() for part in ops.GradOperation(get_all=True, sens_param=True)(function)(
        *tensors, Tensor(gradient))]
    for ours, theirs in [(found, expected), (np.concatenate(gradients[:len(inputs)], 1), x_gradient),
                         *zip(gradients[len(inputs):], weight_gradients)]:
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 2e-6 * np.abs(theirs).max()


def differentiated(function, *tensors):
    """(result of a function of all tensors but the last, its gradients if the last one is that of the result)"""
    *inputs, gradient = map(Tensor, tensors)
    result = function(*inputs)
    gradients = ops.GradOperation(get_all=True, sens_param=True)(function)(*inputs, gradient)
    return result, [part.asnumpy() for part in gradients]


def close(found, expected):
    """Whether an array has the expected values but for rounding."""
    return found.shape == expected.shape and np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize('kind', ['average', 'largest'])
@pytest.mark.parametrize('shape,stride', [((2, 3, 7, 7), 1), ((2, 2, 28, 28), 1), ((1, 3, 9, 12), 2),
                                          ((2, 1, 55, 56), 2), ((17, 2, 5, 4), 2), ((2, 3, 1, 2), 2),
                                          ((2, 2, 1, 1), 1)])
def test_pools_in_float64(kind, shape, stride):
    random = np.random.RandomState(0)
    x = random.normal(1, 1, shape).astype(np.float32)
    image, sizes = padded(x.astype(np.float64), 3, stride, 0 if kind == 'average' else -np.inf)
    inside = padded(np.ones(shape), 3, stride)[0]
    y_gradient = random.normal(0, 1, shape[:2] + tuple(sizes)).astype(np.float32)
    reads = [read for _, read in taps(3, stride, sizes)]
    count = sum(inside[read] for read in reads)
    y = sum(image[read] for read in reads) / count if kind == 'average' else np.max([image[read] for read in reads], 0)
    gradient = np.zeros_like(image)
    for read in reads:
        gradient[read] += y_gradient / count if kind == 'average' else y_gradient * (image[read] == y)
    top, left = (max((size - 1) * stride + 3 - side, 0) // 2 for size, side in zip(sizes, shape[2:]))
    found, (x_gradient,) = differentiated(PoolKernels(kind, stride), x, y_gradient)
    assert close(found.asnumpy(), y)
    assert close(x_gradient, gradient[:, :, top:top + shape[2], left:left + shape[3]])


def test_the_first_of_equal_pixels_gets_the_gradient():
    _, (gradient,) = differentiated(PoolKernels('largest', 2), np.ones((1, 1, 4, 4), np.float32),
                                    np.array([[[[1, 2], [3, 4]]]], np.float32))
    assert gradient[0, 0].tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]


class FirstResult(nn.Cell):
    """The first of the results of a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def construct(self, *tensors):
        return self.function(*tensors)[0]


@pytest.mark.parametrize('shape', [(16, 5, 7, 7), (2, 3, 28, 27), (4, 7, 1, 1), (1, 2, 5, 3)])
def test_batch_norm_in_float64(shape):
    random = np.random.RandomState(0)
    x = random.normal(3, 2, shape).astype(np.float32)
    gamma, beta = random.uniform(0.5, 1.5, (2, shape[1])).astype(np.float32)
    y_gradient = random.normal(0, 1, shape).astype(np.float32)
    moving = np.zeros(shape[1], np.float32), np.ones(shape[1], np.float32)
    found, gradients = differentiated(FirstResult(BatchNormKernels(1e-3, 0.25)), x, gamma, beta, *moving, y_gradient)
    axes, column = (0, 2, 3), (1, -1, 1, 1)
    mean, variance = x.mean(axes, np.float64, keepdims=True), x.var(axes, np.float64, keepdims=True)
    deviation = np.sqrt(variance + 1e-3)
    normal = (x - mean) / deviation
    assert close(found.asnumpy(), normal * gamma.reshape(column) + beta.reshape(column))
    assert close(gradients[0], gamma.reshape(column) / deviation * (
        y_gradient - y_gradient.mean(axes, np.float64, keepdims=True)
        - normal * (y_gradient * normal).mean(axes, np.float64, keepdims=True)))
    assert close(gradients[1], (y_gradient * normal).sum(axes))
    assert close(gradients[2], y_gradient.sum(axes, np.float64))
    # The moving averages are those of MindSpore's own operator; it uses another variance in each version.
    plain, own = (batch_norm(shape[1], 0.75).set_train() for _ in range(2))
    for norm in (plain, OwnBatchNorm(own).set_train()):
        norm(Tensor(x))
    assert close(own.moving_mean.asnumpy(), plain.moving_mean.asnumpy())
    assert close(own.moving_variance.asnumpy(), plain.moving_variance.asnumpy())


def test_a_batch_norm_that_is_not_trained_keeps_its_averages():
    norm = batch_norm(3, 0.9)
    x = np.random.RandomState(0).normal(3, 2, (2, 3, 4, 4)).astype(np.float32)
    assert np.allclose(OwnBatchNorm(norm).set_train(False)(Tensor(x)).asnumpy(), x / 1.001 ** 0.5, rtol=1e-4)
    assert not norm.moving_mean.asnumpy().any()


@pytest.mark.slow
def test_own_kernels_are_in_use_and_agree_with_mindspores_operators():
    images = Tensor(np.random.RandomState(0).normal(0, 1, (4, 3, 96, 96)).astype(np.float32))
    plain, own = (initialize(NASNetAMobile(4, 96, bn_decay=0.9, **SMALL), 1) for _ in range(2))
    use_own_kernels(own)
    cells = [cell for _, cell in own.cells_and_names()]
    layers = [cell for cell in cells if isinstance(cell, Depthwise)]
    assert len(layers) == 24 and all(cell.own_kernels is not None for cell in layers)
    norms = [cell for cell in cells if isinstance(cell, nn.BatchNorm2d)]
    assert len(norms) == sum(isinstance(cell, OwnBatchNorm) for cell in cells) == 40
    assert sum(isinstance(cell, OwnPool) for cell in cells) == 18
    assert [p.name for p in own.get_parameters()] == [p.name for p in plain.get_parameters()]
    for train in (False, True):
        logits = []
        for network in (plain, own):
            network.set_train(train)
            logits.append(np.concatenate([output.asnumpy() for output in network(images)]))
        assert np.abs(logits[0] - logits[1]).max() <= 1e-4 * np.abs(logits[0]).max()
        assert not np.array_equal(logits[0], logits[1])         # equal bits would be of the same operators


def test_what_is_not_finite_stays_so():
    for value in (np.nan, np.inf):
        x = np.zeros((1, 1, 9, 9), np.float32)
        x[0, 0, 4, 4] = value
        y = DepthwiseKernels(1, 1)((Tensor(x),), (Tensor(np.ones((1, 1, 3, 3), np.float32)),)).asnumpy()
        assert not np.isfinite(y[0, 0, 3:6, 3:6]).any()
        assert np.isfinite(y).sum() == 72


class Strides(nn.Cell):
    """Two layers that differ only in their stride."""

    def __init__(self):
        super().__init__()
        self.one, self.two = Depthwise(((3, 1),), 1), Depthwise(((3, 1),), 2)

    def construct(self, x):
        return self.one(x), self.two(x)


def test_strides_are_told_apart():
    network = Strides()
    assert version_of_own_kernels(network) == 'False'
    outputs = use_own_kernels(network)(Tensor(np.ones((1, 1, 8, 8), np.float32)))
    assert [output.shape for output in outputs] == [(1, 1, 8, 8), (1, 1, 4, 4)]
    assert re.match('[0-9a-f]{8}$', version_of_own_kernels(network))


def test_float16_and_pynative_mode_go_to_mindspores_operators():
    random = np.random.RandomState(0)
    x, weight = random.normal(0, 1, (1, 2, 9, 9)), random.normal(0, 1, (2, 1, 3, 3)).astype(np.float32)
    outputs = []
    for change in (use_own_kernels, lambda network: network):
        layer = change(Depthwise(((3, 2),)))
        layer.convs[0].weight.set_data(Tensor(weight))
        outputs.append(layer.to_float(mindspore.float16)(Tensor(x.astype(np.float16))).asnumpy())
    np.testing.assert_array_equal(*outputs)
    assert np.abs(outputs[0]).max() > 1
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    assert use_own_kernels(Depthwise(((3, 2),))).own_kernels is None


SENTENCE = ('slower on this CPU: src/network/cpu/kernels.cc could not be compiled or loaded (%s); it needs a C++ '
            'compiler')
BITS = '''
from src.framework import use_device
use_device('CPU')
from tests.helpers import RATES, random_batch, small_config, small_step
config = small_config()
_, step = small_step(config)
for seed in range(3):
    loss, norm = step(*random_batch(config, seed), *RATES)
print('loss', repr(loss.asnumpy()), repr(norm.asnumpy()))
'''


def bits(**environment):
    """(loss and gradient norm after three steps, text on stderr) of a new process with these environment variables."""
    result = subprocess.run([sys.executable, '-c', BITS], cwd=ROOT, timeout=600, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, universal_newlines=True, env=dict(os.environ, **environment))
    assert result.returncode == 0, result.stderr
    return re.search('loss .*', result.stdout).group(), result.stderr


@pytest.mark.slow
def test_bits_do_not_depend_on_the_number_of_threads_and_it_is_compiled_once(tmp_path):
    one, two = (bits(OMP_NUM_THREADS=threads, XDG_CACHE_HOME=str(tmp_path)) for threads in '12')
    assert one == two
    (name,) = os.listdir(str(tmp_path / 'nasnet_a_mobile'))
    assert re.match(r'kernels-[0-9a-f]{16}\.so$', name)


@pytest.mark.slow
def test_without_a_compiler_training_is_the_same_and_says_so(tmp_path):
    compiler = tmp_path / 'c++'
    compiler.write_text('#!/bin/sh\necho broken >&2\nexit 1\n')
    compiler.chmod(0o755)
    found, said = bits(PATH='%s:%s' % (tmp_path, os.environ['PATH']))
    assert said.startswith(SENTENCE % 'broken') and said.count('\n') == 1
    numbers = [[float(number) for number in re.findall(r'\d+\.\d+', text)] for text in (found, bits()[0])]
    assert len(numbers[0]) == 2
    np.testing.assert_allclose(*numbers, rtol=1e-3)


@pytest.mark.parametrize('variable,value,reason', [
    ('PATH', '/nowhere', "[Errno 2] No such file or directory: 'c++'"),
    ('XDG_CACHE_HOME', '/dev/null', "[Errno 20] Not a directory: '/dev/null/nasnet_a_mobile'"),
    ('XDG_CACHE_HOME', '/nowhere/a:b', 'MindSpore takes no path with a colon: /nowhere/a:b/nasnet_a_mobile/')])
def test_what_stands_in_the_way_is_said(monkeypatch, capsys, variable, value, reason):
    monkeypatch.setenv(variable, value)
    assert library.__wrapped__() is None
    said = capsys.readouterr().err
    assert said.startswith(SENTENCE.split('%')[0] + reason[:9]) and reason in said and said.count('\n') == 1


def test_training_in_float32_uses_them(monkeypatch):
    networks = []
    monkeypatch.setattr('src.training.train_step.use_own_kernels', networks.append)
    for level in ('O0', 'O3'):
        config = small_config(amp_level=level)
        build_train_step(build_network(config, training=True), config)
    assert len(networks) == 1
