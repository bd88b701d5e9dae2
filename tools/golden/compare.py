"""How far a network is from the reference: its logits, and the gradients of all its parameters."""
import os

import numpy as np

from nasnet_a_mobile import NASNetAMobile
from src.framework import Tensor, mindspore, ops
from src.network.merge import plain_values, set_plain_values, split
from tools.golden import draw

REFERENCE = np.load(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'reference.npz'))
BOUND = 5e-5                # of logits of size 3: float32 against the reference's float64
GRADIENT_BOUND = 2e-3       # relative to a parameter's gradient norm; PyTorch's own float32 is up to 2e-4 off
# One of 455,000 values before a ReLU can be so near to zero that rounding gives it the other sign. This changes the
# gradient of one bias by a tenth. So only the median has the bound above where the order of sums is not MindSpore's on
# a CPU, and the largest error has this one.
LARGEST_GRADIENT_BOUND = 0.2


def filled(network):
    """`network` with the weights of draw.py."""
    set_plain_values(network, {name: draw.parameter(name, value.shape)
                               for name, value in plain_values(network).items()})
    return network


def drawn(variant):
    """The network of a variant of draw.py, with the weights of that file."""
    return filled(NASNetAMobile(**draw.VARIANTS[variant][0]))


def logit_error(network, variant):
    """Largest difference of the logits in evaluation mode from the reference."""
    network.set_train(False)
    logits = network(Tensor(draw.images(variant))).asnumpy()
    return float(np.abs(logits - REFERENCE[variant + '/logits']).max())


def gradient_errors(network, compute_type=mindspore.float32):
    """{name: error of its gradient's norm and projections, relative to the norm} of `drawn('narrow')` in training
    mode."""
    network.set_train(True)
    weights = Tensor(draw.weights_of_logits('narrow'))

    def scalar(images):
        return (network(images.astype(compute_type)).astype(mindspore.float32) * weights).sum()
    _, values = ops.value_and_grad(scalar, None, network.trainable_params())(Tensor(draw.images('narrow')))
    floor = 1e-2 * np.median([REFERENCE[name][0] for name in REFERENCE.files if name.startswith('gradient/')])
    errors = {}
    gradients = split({p.name: value.asnumpy() for p, value in zip(network.trainable_params(), values)})
    for name, gradient in gradients.items():
        expected = REFERENCE['gradient/' + name]
        found = draw.projections(name, gradient)
        errors[name] = float(np.abs(found - expected).max() / (expected[0] + floor))
    return errors
