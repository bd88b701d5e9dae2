"""The network for inference alone: each BatchNorm is part of the convolution before it."""
import numpy as np

from nasnet_a_mobile import Identity
from src.framework import Tensor, nn


def fold(network):
    """Turn a network, in place, into the same function of its images in fewer operations; returns it.

    A BatchNorm in evaluation mode scales and shifts each channel, which the weights and a bias of the convolution
    before it can do (two convolutions where their outputs are concatenated). Logits move by rounding alone. The
    network must not have run yet, or MindSpore goes on with the graph it has; it cannot be trained or saved as a
    checkpoint any more.
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
    """Fold a child of `parent` into the last of the `convolutions` that together have its channels."""
    norm = getattr(parent, norm_name)
    gamma, beta, mean, variance = (p.asnumpy().astype(np.float64) for p in
                                   (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance))
    scale = gamma / np.sqrt(variance + norm.eps)
    shift = beta - mean * scale
    stop = len(scale)
    while stop > 0:
        name = convolutions.pop()
        old = getattr(parent, name)
        own = slice(stop - old.out_channels, stop)
        weight = old.weight.asnumpy() * scale[own].reshape(-1, 1, 1, 1)
        new = nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size, old.stride, old.pad_mode, old.padding,
                        old.dilation, old.group, has_bias=True, weight_init=Tensor(weight.astype(np.float32)),
                        bias_init=Tensor(shift[own].astype(np.float32)))
        weight_name = old.weight.name
        setattr(parent, name, new)              # MindSpore names its parameters anew here
        new.weight.name = weight_name
        new.bias.name = weight_name[:-len('weight')] + 'bias'
        stop = own.start
    setattr(parent, norm_name, Identity())
