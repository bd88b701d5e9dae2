"""The layers that kernels.cc computes. On a CPU MindSpore's own operators for them take most of a step."""
from src.framework import UNBIASED_MOVING_VARIANCE, Tensor, mindspore, nn, ops
from src.network.cpu.library import library, source_digest
from src.network.layers import Depthwise


def use_own_kernels(network):
    """Let `network` compute some layers in float32 by kernels.cc when it is compiled; returns it.

    These are the depthwise convolutions, the 3x3 pools, and the BatchNorms in training. The function and the gradients
    are the same but for rounding. Nothing changes on a device other than a CPU, in PyNative mode, and where the kernels
    cannot be compiled or loaded. Do not call this for a network that is to be exported, because the kernels exist only
    on this machine.
    """
    if (mindspore.get_context('device_target') == 'CPU' and mindspore.get_context('mode') == mindspore.GRAPH_MODE
            and library()):
        names = [(parameter, parameter.name) for parameter in network.get_parameters()]
        for _, parent in list(network.cells_and_names()):
            if isinstance(parent, Depthwise):
                parent.own_kernels = DepthwiseKernels(sum(parent.shares), parent.convs[0].stride[0])
            for name, child in list(parent.name_cells().items()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(parent, name, OwnBatchNorm(child))
                elif isinstance(child, (nn.AvgPool2d, nn.MaxPool2d)) and child.kernel_size == 3:
                    setattr(parent, name, OwnPool(child))
        for parameter, name in names:       # MindSpore has given them names that follow the new cells.
            parameter.name = name
    return network


def version_of_own_kernels(network):
    """'False' if `use_own_kernels` has not changed a network, else 8 digits that tell one kernels.cc from another."""
    used = any(isinstance(cell, Depthwise) and cell.own_kernels is not None for _, cell in network.cells_and_names())
    return source_digest() if used else 'False'


def first_shape(x, *_):
    """Shape or type of the first tensor, for a Custom operator."""
    return x


class DepthwiseKernels(nn.Cell):
    """ReLU, then depthwise convolutions that pad 'same'; everything is float32.

    construct(inputs ((N, C_i, H, W), ...), weights ((D_j, 1, K_j, K_j), ...)) -> (N, C, H / stride, W / stride).
    Each weight convolves its share of the channels, in their order.

    Args:
        channels: C, the sum of all C_i and also of all D_j.
        stride: 1 or 2.
    """

    def __init__(self, channels, stride):
        super().__init__()

        def out_shape(x, *_):
            return x[0], channels, -(-x[2] // stride), -(-x[3] // stride)

        def all_but_last(*of_inputs):
            return of_inputs[:-1]
        self.forward = ops.Custom(library() + ':depthwise', out_shape, first_shape, 'aot')
        self.forward.add_prim_attr('stride', stride)        # without it MindSpore 1.10 takes two operators for one
        self.backward = ops.Custom(library() + ':depthwise_backward', all_but_last, all_but_last, 'aot')

    def construct(self, inputs, weights):
        return self.forward(*inputs, *weights)

    def bprop(self, inputs, weights, _, gradient):
        """Gradients of the inputs and of the weights."""
        gradients = self.backward(*inputs, *weights, gradient)
        return gradients[:len(inputs)], gradients[len(inputs):]


class PoolKernels(nn.Cell):
    """3x3 pool that pads 'same': construct(x (N, C, H, W) float32) -> (N, C, H / stride, W / stride).

    Args:
        kind: 'average' or 'largest'.
        stride: 1 or 2.
    """

    def __init__(self, kind, stride):
        super().__init__()

        def out_shape(x):
            return x[0], x[1], -(-x[2] // stride), -(-x[3] // stride)
        self.forward = ops.Custom('%s:%s' % (library(), kind), out_shape, first_shape, 'aot')
        self.forward.add_prim_attr('stride', stride)        # as above
        self.backward = ops.Custom('%s:%s_backward' % (library(), kind), first_shape, first_shape, 'aot')

    def construct(self, x):
        return self.forward(x)

    def bprop(self, x, _, gradient):
        """Gradient of x. Of several largest pixels the first gets all."""
        return (self.backward(x, gradient),)


class OwnPool(nn.Cell):
    """Stands for a pool of MindSpore: construct(x (N, C, H, W)) -> (N, C, H / stride, W / stride)."""

    def __init__(self, plain):
        super().__init__()
        self.plain = plain
        self.kernels = PoolKernels('average' if isinstance(plain, nn.AvgPool2d) else 'largest', plain.stride)

    def construct(self, x):
        return self.kernels(x) if x.dtype == mindspore.float32 else self.plain(x)


class BatchNormKernels(nn.Cell):
    """BatchNorm in training: construct(x (N, C, H, W), gamma, beta, moving mean, moving variance) -> (y (N, C, H, W),
    mean, 1 / standard deviation, new moving mean, new moving variance); all float32, and (C,) if not said otherwise.

    Args:
        epsilon: is added to the variance.
        momentum: weight of the batch in the new moving averages.
    """

    def __init__(self, epsilon, momentum):
        super().__init__()
        # As their own operators, MindSpore 2 averages the variance without bias and MindSpore 1.10 the one with bias.
        self.settings = Tensor([epsilon, momentum, UNBIASED_MOVING_VARIANCE], mindspore.float32)

        def results(x, gamma, *_):
            return x, gamma, gamma, gamma, gamma

        def gradients(x, gamma, *_):
            return x, gamma, gamma
        self.forward = ops.Custom(library() + ':batch_norm', results, results, 'aot')
        self.backward = ops.Custom(library() + ':batch_norm_backward', gradients, gradients, 'aot')

    def construct(self, x, gamma, beta, moving_mean, moving_variance):
        return self.forward(x, gamma, beta, moving_mean, moving_variance, self.settings)

    def bprop(self, x, gamma, beta, moving_mean, moving_variance, results, gradients):
        """Gradients of x, gamma and beta; none of the moving averages."""
        return self.backward(x, gamma, results[1], results[2], gradients[0]) + (
            ops.zeros_like(moving_mean), ops.zeros_like(moving_variance))


class OwnBatchNorm(nn.Cell):
    """Stands for a BatchNorm2d of MindSpore, with its parameters: construct(x (N, C, H, W)) -> the same shape."""

    def __init__(self, plain):
        super().__init__()
        self.plain = plain
        self.kernels = BatchNormKernels(plain.eps, plain.momentum)

    def construct(self, x):
        if not self.training or x.dtype != mindspore.float32:
            return self.plain(x)
        plain = self.plain
        gamma, beta = self.plain.scale_and_shift()
        y, _, _, mean, variance = self.kernels(x, gamma, beta, plain.moving_mean, plain.moving_variance)
        y = ops.depend(y, ops.assign(plain.moving_mean, mean))
        return ops.depend(y, ops.assign(plain.moving_variance, variance))
