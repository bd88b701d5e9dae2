"""The layers that the cells of NASNet-A are made of.

Every separable convolution and every pool pads 'same' as TensorFlow does: the bottom and the right side get the odd
pixel. With that padding published weights give published outputs.
"""
from src.framework import mindspore, nn, ops

BN_EPSILON = 1e-3       # TF-Slim's nasnet_mobile_arg_scope


def conv(in_channels, out_channels, kernel_size=1, stride=1, pad_mode='same', group=1):
    """A convolution without bias. Its weights are zero until `initialize` draws them."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, pad_mode, group=group, weight_init='zeros')


def batch_norm(channels, decay):
    """BatchNorm over (N, H, W). MindSpore calls `momentum` what TensorFlow calls decay."""
    return nn.BatchNorm2d(channels, eps=BN_EPSILON, momentum=decay)


def cut(x, sizes):
    """Cut x (N, C, ...) along C into pieces of these sizes, for use in a construct.

    Slices, because a GPU has no operator of MindSpore 1.10 that makes unequal pieces.
    """
    pieces = ()
    start = 0
    for size in sizes:
        pieces += (x[:, start:start + size],)
        start += size
    return pieces


def pick(values, positions):
    """The tuple of the values at some positions, for use in a construct."""
    chosen = ()
    for i in positions:
        chosen += (values[i],)
    return chosen


class Identity(nn.Cell):
    """Returns its input. The ONNX exporter of MindSpore 1.10 does not know the operator of nn.Identity."""

    def construct(self, x):
        return x


class Depthwise(nn.Cell):
    """ReLU, then depthwise convolutions of several kernel sizes; each size convolves its share of the channels.

    construct(*inputs (N, C_i, H, W)) -> (N, sum of C_i, H / stride, W / stride), all float.

    Args:
        kernels: ((kernel size, channels), ...) in the order of the channels.
        stride: 1 or 2.
    """

    def __init__(self, kernels, stride=1):
        super().__init__()
        self.shares = tuple(channels for _, channels in kernels)
        self.equal_shares = len(set(self.shares)) == 1
        self.split = ops.Split(1, len(kernels))     # a single kernel, as is its gradient, but it makes equal pieces
        self.relu = nn.ReLU()
        self.convs = nn.CellList([conv(channels, channels, kernel_size, stride, group=channels)
                                  for kernel_size, channels in kernels])
        self.own_kernels = self.weights = None      # src/network/cpu/kernels.py sets them on a CPU

    def construct(self, *inputs):
        if self.own_kernels is not None and inputs[0].dtype == mindspore.float32:
            return self.own_kernels(inputs, self.weights)
        x = self.relu(ops.concat(inputs, 1) if len(inputs) > 1 else inputs[0])
        if len(self.shares) == 1:
            return self.convs[0](x)
        pieces = self.split(x) if self.equal_shares else cut(x, self.shares)
        results = ()
        position = 0
        for convolution in self.convs:  # the graph mode of MindSpore 1.10 has no enumerate over cells
            results += (convolution(pieces[position]),)
            position += 1
        return ops.concat(results, 1)


class SeparableConv(nn.Cell):
    """Separable convolutions that are computed together: ReLU, depthwise, pointwise, BatchNorm, all of it twice.

    construct(*inputs (N, in_channels, H, W)) -> tuple with one (N, out_channels, H / stride, W / stride) for each
    input. The stride is in the first depthwise convolution.

    Args:
        kernels: ((kernel size, number of separable convolutions of this size), ...). The numbers add up to the
            number of inputs.
        in_channels: channels of each input.
        out_channels: channels of each output.
        stride: 1 or 2.
        decay: decay of BatchNorm's moving averages.
    """

    def __init__(self, kernels, in_channels, out_channels, stride, decay):
        super().__init__()
        count = sum(number for _, number in kernels)
        self.depthwise_1 = Depthwise([(size, number * in_channels) for size, number in kernels], stride)
        self.pointwise_1 = conv(count * in_channels, count * out_channels, group=count)
        self.bn_1 = batch_norm(count * out_channels, decay)
        self.depthwise_2 = Depthwise([(size, number * out_channels) for size, number in kernels])
        self.pointwise_2 = conv(count * out_channels, count * out_channels, group=count)
        self.bn_2 = batch_norm(count * out_channels, decay)
        self.split = ops.Split(1, count)

    def construct(self, *inputs):
        x = self.bn_1(self.pointwise_1(self.depthwise_1(*inputs)))
        x = self.bn_2(self.pointwise_2(self.depthwise_2(x)))
        return self.split(x) if len(inputs) > 1 else (x,)


class Squeeze(nn.Cell):
    """1x1 convolution and BatchNorm: (N, in_channels, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels, out_channels, decay):
        super().__init__()
        self.conv = conv(in_channels, out_channels)
        self.bn = batch_norm(out_channels, decay)

    def construct(self, x):
        return self.bn(self.conv(x))


class FactorizedReduction(nn.Cell):
    """Halves height and width: two 1x1 stride-2 paths, the second shifted by one pixel, concatenation, BatchNorm.

    construct(x (N, in_channels, H, W)) -> (N, out_channels, H / 2, W / 2)
    """

    def __init__(self, in_channels, out_channels, decay):
        super().__init__()
        self.path_1 = conv(in_channels, out_channels // 2, stride=2)
        # Padding of one pixel, with the first row and column of the output dropped, samples pixels 1, 3, 5, ... and
        # a zero beyond the edge. TF-Slim pads and crops to the same effect; this needs no copy and exports to ONNX.
        self.path_2 = nn.Conv2d(in_channels, out_channels - out_channels // 2, 1, 2, 'pad', 1, weight_init='zeros')
        self.bn = batch_norm(out_channels, decay)

    def construct(self, x):
        return self.bn(ops.concat((self.path_1(x), self.path_2(x)[:, :, 1:, 1:]), 1))
