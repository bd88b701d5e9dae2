"""The layers that the cells of NASNet-A are made of. They compute in the type of their input.

Every separable convolution and every pool pads 'same' as TensorFlow does: the bottom and the right side get the odd
pixel. With that padding published weights give published outputs.
"""
from src.framework import RELU_KEEPS_ITS_RESULT, ReluGrad, mindspore, nn, ops, tell_apart

BN_EPSILON = 1e-3       # TF-Slim's nasnet_mobile_arg_scope


def in_type_of(x, parameter):
    """A parameter in the type of x, for use in a construct. A cast to its own type would lose its gradient in PyNative
    mode of MindSpore 1.10."""
    return parameter if parameter.dtype == x.dtype else parameter.astype(x.dtype)


class Conv(nn.Conv2d):
    """A convolution without bias: (N, in_channels, H, W) -> (N, out_channels, H', W')."""

    weight_source = None        # src/training/flat.py sets it

    def construct(self, x):
        return self.conv2d(x, self.value(x))

    def value(self, x):
        """The weight for an input x, for use in a construct."""
        return in_type_of(x, self.weight) if self.weight_source is None else self.weight_source(x)


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm over (N, H, W) of x (N, C, H, W). Its parameters and statistics are float32, whatever the type of x."""

    gamma_source = beta_source = None       # src/training/flat.py sets them

    def construct(self, x):
        gamma, beta = self.scale_and_shift()
        operation = self.bn_train if self.training else self.bn_infer
        return operation(x, gamma, beta, self.moving_mean, self.moving_variance)[0]

    def scale_and_shift(self):
        """gamma and beta, for use in a construct."""
        return (self.gamma if self.gamma_source is None else self.gamma_source(self.gamma),
                self.beta if self.beta_source is None else self.beta_source(self.beta))


class Dense(nn.Dense):
    """A dense layer: (N, in_channels) -> (N, out_channels)."""

    weight_source = bias_source = None      # src/training/flat.py sets them

    def construct(self, x):
        weight = in_type_of(x, self.weight) if self.weight_source is None else self.weight_source(x)
        bias = in_type_of(x, self.bias) if self.bias_source is None else self.bias_source(x)
        return self.bias_add(self.matmul(x, weight), bias)


def conv(in_channels, out_channels, kernel_size=1, stride=1, pad_mode='same', padding=0, group=1):
    """A convolution without bias. Its weights are zero until `initialize` draws them."""
    return tell_apart(Conv(in_channels, out_channels, kernel_size, stride, pad_mode, padding, group=group,
                           weight_init='zeros'))


def depthwise_conv(channels, kernel_size, stride):
    """A depthwise convolution that pads 'same'.

    With stride 1 that is kernel_size // 2 pixels on each side. For this form MindSpore 2 has kernels of its own on
    GPUs, and uses them in float16 (seen on the null CUDA of tests/gpu).
    """
    if stride == 1:
        return conv(channels, channels, kernel_size, 1, 'pad', kernel_size // 2, group=channels)
    return conv(channels, channels, kernel_size, stride, group=channels)


def batch_norm(channels, decay):
    """BatchNorm over (N, H, W). MindSpore calls `momentum` what TensorFlow calls decay."""
    return tell_apart(BatchNorm(channels, eps=BN_EPSILON, momentum=decay))


def dense(in_channels, out_channels):
    """A dense layer. Its weights are zero until `initialize` draws them."""
    return tell_apart(Dense(in_channels, out_channels, weight_init='zeros', bias_init='zeros'))


def pick(values, positions):
    """The tuple of the values at some positions, for use in a construct."""
    chosen = ()
    for i in positions:
        chosen += (values[i],)
    return chosen


def cut(x, shares):
    """Cut x (N, C, ...) along C into pieces of these sizes -> tuple, for use in a construct.

    Unequal pieces are slices, because a GPU has no operator of MindSpore 1.10 that makes them.
    """
    if len(set(shares)) == 1:
        return ops.Split(1, len(shares))(x)
    pieces = ()
    start = 0
    for share in shares:
        pieces += (x[:, start:start + share],)
        start += share
    return pieces


def are_stacked(shares):
    """Whether pieces of these channels are joined by `stack` in training.

    On a GPU this is one copy of pointers and one kernel, where a concatenation copies a second list, of sizes. On a
    CPU a stack takes longer: with MindSpore 1.10 all stacks of a step took a quarter of its time.
    """
    return len(set(shares)) == 1 and mindspore.get_context('device_target') != 'CPU'


def stack(pieces):
    """Join equal pieces (N, C, H, W) along C, for use in a construct."""
    n, channels, height, width = pieces[0].shape
    return ops.stack(pieces, 1).reshape(n, len(pieces) * channels, height, width)


class Cut(nn.Cell):
    """construct(x (N, C, ...)) -> tuple of pieces along C.

    Args:
        shares: the channels of each piece.
    """

    def __init__(self, shares):
        super().__init__()
        self.shares = tuple(shares)
        self.in_graph = CutInGraph(shares) if is_graph_mode() else None

    def construct(self, x):
        return cut(x, self.shares) if self.in_graph is None else self.in_graph(x)


class Join(nn.Cell):
    """construct(*pieces (N, C_i, ...)) -> (N, sum of C_i, ...), the inverse of Cut.

    Args:
        shares: C_i of each piece.
    """

    def __init__(self, shares):
        super().__init__()
        self.in_graph = JoinInGraph(shares) if is_graph_mode() else None

    def construct(self, *pieces):
        return ops.concat(pieces, 1) if self.in_graph is None else self.in_graph(pieces)


def is_graph_mode():
    """Whether a network that is made now may have gradients of its own. MindSpore 1.10 fails with them in PyNative."""
    return mindspore.get_context('mode') == mindspore.GRAPH_MODE


class CutInGraph(nn.Cell):
    """A Cut whose gradient is one operation. MindSpore would fill zeros for each piece and add all of them."""

    def __init__(self, shares):
        super().__init__()
        self.shares = tuple(shares)
        self.stacked = are_stacked(shares)

    def construct(self, x):
        return cut(x, self.shares)

    def bprop(self, x, _, gradients):
        """The gradient of x."""
        return (stack(gradients) if self.stacked else ops.concat(gradients, 1),)


class JoinInGraph(nn.Cell):
    """A Join of a tuple of pieces. Its gradient is a Cut, also with MindSpore 2, which would slice equal pieces."""

    def __init__(self, shares):
        super().__init__()
        self.shares = tuple(shares)
        self.stacked = are_stacked(shares)

    def construct(self, pieces):
        if self.training and self.stacked:
            return stack(pieces)
        return ops.concat(pieces, 1)        # an operator that every exporter knows

    def bprop(self, pieces, _, gradient):
        """The gradients of the pieces."""
        return (cut(gradient, self.shares),)


class Identity(nn.Cell):
    """Returns its input. The ONNX exporter of MindSpore 1.10 does not know the operator of nn.Identity."""

    def construct(self, x):
        return x


class ReluAndCut(nn.Cell):
    """construct(x (N, C, ...)) -> tuple of pieces along C of max(x, 0).

    Args:
        shares: the channels of each piece.
    """

    def __init__(self, shares):
        super().__init__()
        self.relu = nn.ReLU()
        self.cut = Cut(shares) if len(shares) > 1 else None
        in_graph = len(shares) > 1 and RELU_KEEPS_ITS_RESULT and is_graph_mode()
        self.in_graph = ReluAndCutInGraph(shares) if in_graph else None

    def construct(self, x):
        if self.in_graph is not None:
            return self.in_graph(x)
        x = self.relu(x)
        return (x,) if self.cut is None else self.cut(x)


class ReluAndCutInGraph(CutInGraph):
    """A ReluAndCut whose gradient needs only the pieces, which the convolutions keep for their gradients anyway.

    MindSpore 2 would also keep the result of the ReLU, the same values a second time: 17 of 82 MB for each image.
    """

    def __init__(self, shares):
        super().__init__(shares)
        self.relu, self.relu_grad = nn.ReLU(), ReluGrad()

    def construct(self, x):
        return cut(self.relu(x), self.shares)

    def bprop(self, x, pieces, gradients):
        """The gradient of x."""
        passed = ()
        for i in range(len(self.shares)):
            passed += (self.relu_grad(gradients[i], pieces[i]),)
        return super().bprop(x, pieces, passed)


class Depthwise(nn.Cell):
    """ReLU, then depthwise convolutions of several kernel sizes; each size convolves its share of the channels.

    construct(*inputs (N, C_i, H, W)) -> (N, sum of C_i, H / stride, W / stride), all float.

    Args:
        kernels: ((kernel size, channels), ...) in the order of the channels.
        stride: 1 or 2.
        inputs: number of inputs, all of the same size.
    """

    def __init__(self, kernels, stride=1, inputs=1):
        super().__init__()
        self.shares = tuple(channels for _, channels in kernels)
        self.convs = nn.CellList([depthwise_conv(channels, kernel_size, stride) for kernel_size, channels in kernels])
        self.join_inputs = Join([sum(self.shares) // inputs] * inputs)
        self.relu_and_cut, self.join = ReluAndCut(self.shares), Join(self.shares)
        self.own_kernels = None     # src/network/cpu/kernels.py sets it on a CPU

    def construct(self, *inputs):
        if self.own_kernels is not None and inputs[0].dtype == mindspore.float32:
            weights = ()
            for i in range(len(self.shares)):
                weights += (self.convs[i].value(inputs[0]),)
            return self.own_kernels(inputs, weights)
        pieces = self.relu_and_cut(self.join_inputs(*inputs) if len(inputs) > 1 else inputs[0])
        if len(pieces) == 1:
            return self.convs[0](pieces[0])
        results = ()
        position = 0
        for convolution in self.convs:  # the graph mode of MindSpore 1.10 has no enumerate over cells
            results += (convolution(pieces[position]),)
            position += 1
        return self.join(*results)


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
        self.depthwise_1 = Depthwise([(size, number * in_channels) for size, number in kernels], stride, count)
        self.pointwise_1 = conv(count * in_channels, count * out_channels, group=count)
        self.bn_1 = batch_norm(count * out_channels, decay)
        self.depthwise_2 = Depthwise([(size, number * out_channels) for size, number in kernels])
        self.pointwise_2 = conv(count * out_channels, count * out_channels, group=count)
        self.bn_2 = batch_norm(count * out_channels, decay)
        self.cut = Cut([out_channels] * count)

    def construct(self, *inputs):
        x = self.bn_1(self.pointwise_1(self.depthwise_1(*inputs)))
        x = self.bn_2(self.pointwise_2(self.depthwise_2(x)))
        return self.cut(x) if len(inputs) > 1 else (x,)


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
        shares = (out_channels // 2, out_channels - out_channels // 2)
        self.path_1 = conv(in_channels, shares[0], stride=2)
        # Padding of one pixel, with the first row and column of the output dropped, samples pixels 1, 3, 5, ... and
        # a zero beyond the edge. TF-Slim pads and crops to the same effect; this needs no copy and exports to ONNX.
        self.path_2 = conv(in_channels, shares[1], 1, 2, 'pad', 1)
        self.join = Join(shares)
        self.bn = batch_norm(out_channels, decay)

    def construct(self, x):
        return self.bn(self.join(self.path_1(x), self.path_2(x)[:, :, 1:, 1:]))
