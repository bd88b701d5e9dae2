"""A network for inference only: each BatchNorm becomes part of the convolution before it."""
import numpy as np

from src.framework import Tensor, nn
from src.network.layers import Identity


def fold(network):
    """Turn a network, in place, into the same function of its images with fewer operations; returns the network.

    In evaluation mode a BatchNorm scales and shifts each channel. The weights and a bias of the convolution before it
    can do the same (of two convolutions, where their outputs are concatenated). Logits change only by rounding.

    The network must not have run yet, because MindSpore would go on with the graph that it has compiled. Afterwards
    it cannot be trained or saved as a checkpoint.
    """
    for _, parent in list(network.cells_and_names()):
        convolutions = []
        for name, child in list(parent.name_cells().items()):
            if isinstance(child, nn.Conv2d):
                convolutions.append(name)
            elif isinstance(child, nn.BatchNorm2d):
                _fold_one(parent, convolutions, name)
                convolutions = []
    network.set_train(False)
    return network


def _fold_one(parent, convolutions, norm_name):
    """Fold one BatchNorm of `parent` into the last of its `convolutions` that together have the same channels."""
    norm = getattr(parent, norm_name)
    gamma, beta, mean, variance = (p.asnumpy().astype(np.float64) for p in
                                   (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance))
    scale = gamma / np.sqrt(variance + norm.eps)
    shift = beta - mean * scale
    stop = len(scale)
    while stop > 0:
        name = convolutions.pop()
        channels = slice(stop - getattr(parent, name).out_channels, stop)
        _replace_convolution(parent, name, scale[channels], shift[channels])
        stop = channels.start
    setattr(parent, norm_name, Identity())


def _replace_convolution(parent, name, scale, shift):
    """Replace a convolution of `parent` by one whose outputs are scaled and shifted by channel."""
    old = getattr(parent, name)
    weight = (old.weight.asnumpy() * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
    new = nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size, old.stride, old.pad_mode, old.padding,
                    old.dilation, old.group, has_bias=True, weight_init=Tensor(weight),
                    bias_init=Tensor(shift.astype(np.float32)))
    weight_name = old.weight.name
    setattr(parent, name, new)      # here MindSpore gives the parameters other names
    new.weight.name = weight_name
    new.bias.name = weight_name[:-len('weight')] + 'bias'
