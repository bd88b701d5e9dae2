"""The network is the published one: counts, names, shapes, and the outputs of an independent implementation."""
import numpy as np
import pytest

import nasnet_a_mobile
from nasnet_a_mobile import NORMAL_CELL, REDUCTION_CELL, Cell, Genotype, NASNetAMobile
from src.framework import Tensor, mindspore, nn, ops
from src.network import layers
from src.network.cpu.kernels import use_own_kernels
from src.network.initialize import initialize
from src.network.merge import plain_values, split
from tests.helpers import SMALL, graph_mode_is_slow
from tools.golden import compare, draw
from tools.golden.compare import BOUND, GRADIENT_BOUND, REFERENCE, drawn, filled, gradient_errors


def logit_error(network, variant):
    """`compare.logit_error`, printed."""
    error = compare.logit_error(network, variant)
    print('%s: logits differ by %.2g' % (variant, error))
    return error


def test_parameter_counts_and_names():
    network = NASNetAMobile()
    assert sum(p.size for p in network.trainable_params()) == 5289978
    assert sum(p.size for p in NASNetAMobile(auxiliary_size=224).trainable_params()) == 7701218
    names = set(split({p.name: p.asnumpy() for p in network.trainable_params()}))
    assert names == {name[len('gradient/'):] for name in REFERENCE.files if name.startswith('gradient/')}
    assert {'cell_3.block_0.left.depthwise_1.weight', 'stem_1.adjust.path_2.weight', 'cell_11.squeeze.bn.gamma',
            'reduction_1.block_4.left.pointwise_2.weight', 'classifier.bias'} < names


@graph_mode_is_slow
@pytest.mark.parametrize('variant', ['narrow', 'full'])
def test_logits_are_the_references(mode, variant):
    assert logit_error(drawn(variant), variant) <= BOUND


@graph_mode_is_slow
def test_every_cells_output_is_the_references(mode):
    variant = 'narrow' if mode == 'graph' else 'full'
    network = drawn(variant)
    network.set_train(False)
    previous = current = ops.relu(network.stem_bn(network.stem_conv(Tensor(draw.images(variant)))))
    for name, cell in zip(network.cell_names, network.chain):
        output = cell(current, previous)
        previous, current = current, ops.relu(output)
        key = '%s/%s' % (variant, name)
        error = np.abs(draw.samples(name, output.asnumpy()) - REFERENCE[key]).max()
        assert error <= 1e-5 * REFERENCE[key + '/size'], name


@graph_mode_is_slow
def test_gradients_of_all_parameters_are_autograds(mode):
    errors = gradient_errors(drawn('narrow'))
    assert len(errors) == 742
    worst = max(errors, key=errors.get)
    print('gradients differ by %.2g (median), %.2g (%s)' % (np.median(list(errors.values())), errors[worst], worst))
    assert errors[worst] <= GRADIENT_BOUND, worst


@pytest.mark.slow
@pytest.mark.needs('c++')
def test_own_kernels_give_the_references():
    network = use_own_kernels(drawn('full'))
    assert network.chain[0].steps[0].depthwise_1.own_kernels is not None
    assert logit_error(network, 'full') <= BOUND
    # test_kernels.py has bounds for the gradients of the operator itself.
    errors = list(gradient_errors(use_own_kernels(drawn('narrow'))).values())
    print('gradients differ by %.2g (median), %.2g' % (np.median(errors), max(errors)))
    assert len(errors) == 742 and np.median(errors) <= GRADIENT_BOUND and max(errors) <= compare.LARGEST_GRADIENT_BOUND


def replaced(genotype, block, *branches):
    """A copy of `genotype` with one other block."""
    blocks = list(genotype.blocks)
    blocks[block] = branches
    return Genotype(tuple(blocks), genotype.concat)


def symmetric_padding(cells):
    """A `conv` that pads symmetrically, as public code does, if the stride is 2 and `cells` holds the channels."""
    plain = layers.conv

    def conv(in_channels, out_channels, kernel_size=1, stride=1, pad_mode='same', padding=0, group=1):
        if stride == 2 and group > 1 and in_channels in cells:
            return plain(in_channels, out_channels, kernel_size, 2, "pad", kernel_size // 2, group)
        return plain(in_channels, out_channels, kernel_size, stride, pad_mode, padding, group)
    return conv


NORMAL, REDUCTION = NORMAL_CELL, REDUCTION_CELL
# {name: (module, attribute, wrong value)}. The attribute is replaced in the module that looks it up.
MUTANTS = {
    'inputs of a block swapped': (nasnet_a_mobile, 'NORMAL_CELL', replaced(NORMAL, 0, ('sep5', 1), ('sep3', 0))),
    'a pool on the other input': (nasnet_a_mobile, 'NORMAL_CELL', replaced(NORMAL, 2, ('avg3', 1), ('none', 1))),
    'an identity missing': (nasnet_a_mobile, 'NORMAL_CELL', replaced(NORMAL, 4, ('sep3', 0), ('none', 1))),
    'a pool of the other kind': (nasnet_a_mobile, 'REDUCTION_CELL', replaced(REDUCTION, 4, ('sep3', 2), ('avg3', 0))),
    'another block pooled': (nasnet_a_mobile, 'REDUCTION_CELL', replaced(REDUCTION, 3, ('none', 2), ('avg3', 3))),
    'outputs in another order': (nasnet_a_mobile, 'REDUCTION_CELL', Genotype(REDUCTION.blocks, (4, 3, 5, 6))),
    'symmetric padding in stem_1': (layers, 'conv', symmetric_padding((8,))),
    'symmetric padding in reduction_1': (layers, 'conv', symmetric_padding((64,))),
    'BatchNorm epsilon 1e-5': (layers, 'BN_EPSILON', 1e-5)}


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(MUTANTS))
def test_bounds_catch_a_wrong_network(monkeypatch, name):
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)     # no compilation
    monkeypatch.setattr(*MUTANTS[name])
    network = drawn('narrow')
    error = logit_error(network, 'narrow')
    worst = max(gradient_errors(network).values())
    print('%s: logits %.2g, gradients %.2g' % (name, error, worst))
    assert error > 10 * BOUND and worst > 10 * GRADIENT_BOUND


@pytest.mark.parametrize('size,auxiliary', [(64, None)] + [pytest.param(size, size, marks=pytest.mark.slow)
                                                           for size in (96, 224, 256, 331)])
def test_any_image_size(size, auxiliary):
    network = initialize(NASNetAMobile(7, auxiliary, **SMALL), 1)
    network.set_train(False)
    outputs = network(Tensor(np.zeros((2, 3, size, size), np.float32)))
    for logits in outputs if auxiliary else (outputs,):
        assert logits.shape == (2, 7)


@pytest.mark.slow
def test_smallest_image_of_the_auxiliary_head():
    network = NASNetAMobile(5, 67, **SMALL)
    assert network(Tensor(np.zeros((1, 3, 67, 67), np.float32)))[1].shape == (1, 5)


@pytest.mark.parametrize('arguments,sentence', [
    ({'num_classes': 1}, 'num_classes must be at least 2, got 1'),
    ({'penultimate_filters': 100}, 'penultimate_filters must be a multiple of 96, got 100'),
    ({'cells_per_stage': 0}, 'cells_per_stage must be at least 1, got 0'),
    ({'auxiliary_size': 66}, 'the auxiliary head needs images of at least 67 pixels, got 66')])
def test_impossible_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        NASNetAMobile(**arguments)


def auxiliary_logits(x, values):
    """The auxiliary head in float64 numpy, from TF-Slim's description; x (N, C, H, W)."""
    def norm(x, name):
        gamma, beta, mean, variance = (values['auxiliary_head.%s.%s' % (name, part)].astype(np.float64)
                                       .reshape(1, -1, 1, 1)
                                       for part in ('gamma', 'beta', 'moving_mean', 'moving_variance'))
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    x = np.maximum(x.astype(np.float64), 0)
    count = (x.shape[2] - 5) // 3 + 1
    x = np.stack([np.stack([x[:, :, 3 * i:3 * i + 5, 3 * j:3 * j + 5].mean((2, 3)) for j in range(count)], 2)
                  for i in range(count)], 2)
    x = np.einsum('nchw,kc->nkhw', x, values['auxiliary_head.projection.weight'][:, :, 0, 0])
    x = np.maximum(norm(x, 'bn_1'), 0)
    x = np.einsum('nchw,kchw->nk', x, values['auxiliary_head.full.weight'])[:, :, None, None]
    x = np.maximum(norm(x, 'bn_2'), 0)[:, :, 0, 0]
    return x @ values['auxiliary_head.classifier.weight'].T + values['auxiliary_head.classifier.bias']


@pytest.mark.parametrize('size', [96, 224])
def test_auxiliary_head_is_tf_slims(mode, size):
    network = NASNetAMobile(10, size, **SMALL)
    values = plain_values(filled(network))
    head = network.auxiliary_head
    head.set_train(False)
    x = draw.generator('map').normal(0, 1, (2, 48, -(-((size - 1) // 2) // 8), -(-((size - 1) // 2) // 8)))
    found = head(Tensor(np.maximum(x, 0).astype(np.float32))).asnumpy()
    expected = auxiliary_logits(x.astype(np.float32), values)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_batch_norms(mode):
    network = NASNetAMobile(10, 96, bn_decay=0.75, **SMALL)
    norms = [cell for _, cell in network.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, network.stem_bn.momentum)}
    norm = network.stem_bn
    norm.set_train(True)
    x = draw.generator('bn').normal(3, 2, (4, 32, 8, 8)).astype(np.float32)
    norm(Tensor(x))
    np.testing.assert_allclose(norm.moving_mean.asnumpy(), 0.25 * x.mean((0, 2, 3)), rtol=1e-5)
    # MindSpore 1.10 uses the biased variance and MindSpore 2 the unbiased one. Here they differ by 1/255.
    np.testing.assert_allclose(norm.moving_variance.asnumpy(), 0.75 + 0.25 * x.var((0, 2, 3)), rtol=5e-3)


@pytest.mark.slow
def test_dropout_mask_multiplies_the_features():
    network = initialize(NASNetAMobile(10, **SMALL), 1)
    network.set_train(False)
    images = Tensor(draw.images('narrow'))
    plain = network(images).asnumpy()
    doubled = network(images, Tensor(np.full((8, 96), 2, np.float32))).asnumpy()
    np.testing.assert_allclose(doubled, 2 * plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())
    assert np.abs(network(images, Tensor(np.zeros((8, 96), np.float32))).asnumpy()).max() == 0


def test_cells_are_the_papers():
    assert len(NORMAL.blocks) == len(REDUCTION.blocks) == 5
    operations = [name for genotype in (NORMAL, REDUCTION) for block in genotype.blocks for name, _ in block]
    assert sorted(set(operations)) == ['avg3', 'max3', 'none', 'sep3', 'sep5', 'sep7']
    cell = Cell(REDUCTION, 16, 8, 1, 4, 2, 0.9)
    x = Tensor(np.zeros((1, 16, 9, 9), np.float32))
    assert cell(x, Tensor(np.zeros((1, 8, 9, 9), np.float32))).shape == (1, 16, 5, 5)
