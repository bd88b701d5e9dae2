"""Make reference.npz from the independent PyTorch port of NASNet-A-Mobile, in float64.

    pip install -r tests/golden/requirements.txt
    python tools/golden/make_golden.py

The port is `nasnetamobile` of the package pretrainedmodels. Its weights were converted from TensorFlow and reach the
published accuracy. draw.py draws weights and statistics by the names of our parameters, and the port gets them. A
tensor that only one side has, or that has another shape, is an error. The last pool of the port has a fixed size of
7x7; a mean replaces it, which is the same for images of 224 pixels.
"""
import importlib.util
import os
import re
import sys

import numpy as np
import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import draw

RENAMED = [
    (r'^stem_conv', 'conv0.conv'), (r'^stem_bn', 'conv0.bn'), (r'^classifier', 'last_linear'),
    (r'^stem_(\d)\.', r'cell_stem_\1.'), (r'^reduction_', 'reduction_cell_'),
    (r'squeeze\.', 'conv_1x1.'), (r'adjust\.(conv|bn)', r'conv_prev_1x1.\1'),
    (r'adjust\.path_(\d)', r'path_\1.conv'), (r'block_(\d)\.(left|right)', r'comb_iter_\1_\2'),
    (r'depthwise_(\d)', r'separable_\1.depthwise_conv2d'), (r'pointwise_(\d)', r'separable_\1.pointwise_conv2d'),
    (r'\.bn_(\d)', r'.bn_sep_\1'), (r'gamma$', 'weight'), (r'beta$', 'bias'),
    (r'moving_mean$', 'running_mean'), (r'moving_variance$', 'running_var')]
TWO_PATHS = ('stem_1', 'cell_0', 'cell_4', 'cell_8')    # cells that adjust by a factorized reduction


def port_module():
    """The module of the port. The rest of its package is not imported, because it needs other libraries."""
    package = os.path.dirname(importlib.util.find_spec('pretrainedmodels').origin)
    spec = importlib.util.spec_from_file_location('port', os.path.join(package, 'models', 'nasnet_mobile.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def port_name(name):
    """The port's name of one of our parameters; its stages are cells 0-3, 6-9 and 12-15."""
    cell = re.match(r'cell_(\d+)', name)
    if name.split('.')[0] in TWO_PATHS:
        name = name.replace('adjust.bn', 'final_path_bn')
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    if cell:
        number = int(cell.group(1))
        name = re.sub(r'^cell_\d+', 'cell_%d' % (number + number // 4 * 2), name)
    return name


def our_names(state):
    """{our name: shape} of the port's state: all names of ours whose translation the port has."""
    ours = {}
    cells = ['stem_0', 'stem_1', 'reduction_0', 'reduction_1'] + ['cell_%d' % i for i in range(12)]
    bn = ['gamma', 'beta', 'moving_mean', 'moving_variance']
    parts = ['squeeze.conv.weight', 'adjust.conv.weight', 'adjust.path_1.weight', 'adjust.path_2.weight']
    parts += ['%s.bn.%s' % (part, name) for part in ('squeeze', 'adjust') for name in bn]
    for block in ('block_%d.%s.' % (i, side) for i in range(5) for side in ('left', 'right')):
        parts += [block + '%s_%d.weight' % (kind, i) for kind in ('depthwise', 'pointwise') for i in (1, 2)]
        parts += [block + 'bn_%d.%s' % (i, name) for i in (1, 2) for name in bn]
    candidates = (['stem_conv.weight', 'classifier.weight', 'classifier.bias'] + ['stem_bn.' + name for name in bn]
                  + ['%s.%s' % (cell, part) for cell in cells for part in parts])
    for name in candidates:
        if port_name(name) in state:
            ours[name] = tuple(state[port_name(name)].shape)
    left = set(state) - {port_name(name) for name in ours}
    assert len({port_name(name) for name in ours}) == len(ours) and not left, sorted(left)[:5]
    return ours


def build(variant, parameter=draw.parameter):
    """The port in float64 with weights drawn by `parameter`, and our names of its tensors."""
    arguments, _, _ = draw.VARIANTS[variant]
    model = port_module().NASNetAMobile(**arguments).double()
    state = {name: tensor for name, tensor in model.state_dict().items() if 'num_batches' not in name}
    names = our_names(state)
    for name, shape in names.items():
        state[port_name(name)].copy_(torch.from_numpy(parameter(name, shape)))
    model.avg_pool = torch.nn.AdaptiveAvgPool2d(1)
    return model, names


def forward(variant):
    """Logits and samples of every cell's output in evaluation mode."""
    model, names = build(variant)
    model.eval()
    outputs = {}
    cells = ['stem_0', 'stem_1', 'reduction_0', 'reduction_1'] + ['cell_%d' % i for i in range(12)]
    for cell in cells:
        getattr(model, port_name(cell + '.x')[:-2]).register_forward_hook(
            lambda _, __, output, cell=cell: outputs.__setitem__(cell, output.numpy()))
    with torch.no_grad():
        logits = model(torch.from_numpy(draw.images(variant)).double()).numpy()
    result = {'%s/logits' % variant: logits}
    for cell, output in outputs.items():
        result['%s/%s' % (variant, cell)] = draw.samples(cell, output)
        result['%s/%s/size' % (variant, cell)] = np.abs(output).max()
    print('%s: %d tensors, logits up to %.2f' % (variant, len(names), np.abs(logits).max()),
          {cell: float('%.3g' % np.abs(output).max()) for cell, output in outputs.items()})
    return result


def gradients(variant, kind=torch.float64):
    """{our name: projections of the gradient} with batch statistics, no dropout."""
    model, names = build(variant)
    model.to(kind).train()
    model.dropout.p = 0.0
    weights = torch.from_numpy(draw.weights_of_logits(variant)).to(kind)
    (model(torch.from_numpy(draw.images(variant)).to(kind)) * weights).sum().backward()
    found = dict(model.named_parameters())
    return {name: draw.projections(name, found[port_name(name)].grad.numpy())
            for name in names if port_name(name) in found}


def main():
    """Write reference.npz beside this file."""
    result = {}
    for variant in ('full', 'narrow'):
        result.update(forward(variant))
    exact, rounded = gradients('narrow'), gradients('narrow', torch.float32)
    result.update({'gradient/' + name: value for name, value in exact.items()})
    scale = np.median([value[0] for value in exact.values()])
    spread = [np.abs(exact[name] - rounded[name]).max() / (exact[name][0] + 1e-2 * scale) for name in exact]
    print('gradients: norms %.3g to %.3g; float32 differs by %.2g (median), %.2g (largest)'
          % (min(v[0] for v in exact.values()), max(v[0] for v in exact.values()), np.median(spread), max(spread)))
    np.savez_compressed(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'reference.npz'),
                        **{name: np.asarray(value, np.float32) for name, value in result.items()})


if __name__ == '__main__':
    main()
