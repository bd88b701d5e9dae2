"""NASNet-A (4 @ 1056), the network of "Learning Transferable Architectures for Scalable Image
Recognition" (arXiv 1707.07012), as TF-Slim's `nets/nasnet/nasnet.py` trained it.

The two searched cells are the constants below; `Cell` reads them, and computes sibling separable
convolutions together where it can (src/merge.py). Every separable convolution and every pool pads
'same' as TensorFlow does (bottom and right get the odd pixel), which is what makes published weights
give published outputs. The network takes any image size and knows no configuration.
"""
import re
import zlib
from collections import namedtuple

import numpy as np

from src.framework import cut, mindspore, nn, ops
from src.merge import common_name, plain_values, program, set_plain_values

# A block adds left(state[i]) and right(state[j]). Hidden state 0 is the squeezed current input,
# 1 the adjusted previous input, k + 2 the output of block k (figure 4 of the paper; order of TF-Slim).
Genotype = namedtuple('Genotype', 'blocks concat')

NORMAL_CELL = Genotype(
    blocks=((('sep5', 0), ('sep3', 1)),
            (('sep5', 1), ('sep3', 1)),
            (('avg3', 0), ('none', 1)),
            (('avg3', 1), ('avg3', 1)),
            (('sep3', 0), ('none', 0))),
    concat=(1, 2, 3, 4, 5, 6))

REDUCTION_CELL = Genotype(
    blocks=((('sep5', 0), ('sep7', 1)),
            (('max3', 0), ('sep7', 1)),
            (('avg3', 0), ('sep5', 1)),
            (('none', 3), ('avg3', 2)),
            (('sep3', 2), ('max3', 0))),
    concat=(3, 4, 5, 6))

STEM_CHANNELS = 32      # output channels of the first convolution (TF-Slim, mobile)
BN_EPSILON = 1e-3       # TF-Slim's nasnet_mobile_arg_scope


def conv(in_channels, out_channels, kernel_size=1, stride=1, pad_mode='same', group=1):
    """Convolution without bias; weights are zero until `initialize` draws them."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, pad_mode, group=group, weight_init='zeros')


def batch_norm(channels, decay):
    """BatchNorm over (N, H, W); MindSpore's momentum is TensorFlow's decay."""
    return nn.BatchNorm2d(channels, eps=BN_EPSILON, momentum=decay)


class Identity(nn.Cell):
    """The input itself; MindSpore 1.10's nn.Identity is an operator its ONNX exporter does not know."""

    def construct(self, x):
        return x


class Depthwise(nn.Cell):
    """ReLU and depthwise convolutions of several kernel sizes, each of its share of the channels.

    construct(*inputs (N, C_i, H, W)) -> (N, sum of C_i, H / stride, W / stride)

    Args:
        kernels: ((kernel size, channels), ...), in the order of the channels.
    """

    def __init__(self, kernels, stride=1):
        super().__init__()
        self.shares = tuple(channels for _, channels in kernels)
        self.alike = len(set(self.shares)) == 1
        self.split = ops.Split(1, len(kernels))     # one kernel, and its gradient one; it makes equal pieces only
        self.relu = nn.ReLU()
        self.convs = nn.CellList([conv(channels, channels, kernel_size, stride, group=channels)
                                  for kernel_size, channels in kernels])
        self.own_kernels = self.weights = None      # src/depthwise.py sets them where it pays

    def construct(self, *inputs):
        if self.own_kernels is not None and inputs[0].dtype == mindspore.float32:
            return self.own_kernels(inputs, self.weights)
        x = self.relu(ops.concat(inputs, 1) if len(inputs) > 1 else inputs[0])
        if len(self.shares) == 1:
            return self.convs[0](x)
        pieces = self.split(x) if self.alike else cut(x, self.shares)
        results = ()
        position = 0
        for convolution in self.convs:  # MindSpore 1.10's graph mode has no enumerate over cells
            results += (convolution(pieces[position]),)
            position += 1
        return ops.concat(results, 1)


class SeparableConv(nn.Cell):
    """Separable convolutions side by side: ReLU, depthwise, pointwise, BN, twice.

    construct(*inputs (N, in_channels, H, W)) -> tuple of as many (N, out_channels, H / stride, W / stride). The stride
    is in the first depthwise convolution.

    Args:
        kernels: ((kernel size, how many separable convolutions of it), ...); their sum is count.
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
    """1x1 convolution, BN: brings an input of a cell to the cell's filters."""

    def __init__(self, in_channels, out_channels, decay):
        super().__init__()
        self.conv = conv(in_channels, out_channels)
        self.bn = batch_norm(out_channels, decay)

    def construct(self, x):
        return self.bn(self.conv(x))


class FactorizedReduction(nn.Cell):
    """Two 1x1 stride-2 paths, the second shifted by one pixel, concat, BN: halves height and width."""

    def __init__(self, in_channels, out_channels, decay):
        super().__init__()
        self.path_1 = conv(in_channels, out_channels // 2, stride=2)
        # Padding 1 and dropping the first output row and column samples pixels 1, 3, 5, ... with a
        # zero past the edge: TF-Slim's pad-and-crop without the copies, and exportable to ONNX.
        self.path_2 = nn.Conv2d(in_channels, out_channels - out_channels // 2, 1, 2, 'pad', 1, weight_init='zeros')
        self.bn = batch_norm(out_channels, decay)

    def construct(self, x):
        return self.bn(ops.concat((self.path_1(x), self.path_2(x)[:, :, 1:, 1:]), 1))


class Cell(nn.Cell):
    """A searched cell: construct(current, previous) -> (N, len(concat) * filters, H / stride, W / stride).

    Both inputs come after their ReLU, which the two cells that read an output share.
    `previous_stride` 2 means that the previous input is twice as high and wide as the current one.
    `previous_channels` None leaves the previous input as it is (first stem cell).
    """

    def __init__(self, genotype, channels, previous_channels, previous_stride, filters, stride, decay):
        super().__init__()
        self.squeeze = Squeeze(channels, filters, decay)
        if previous_channels is None:
            self.adjust = Identity()
        elif previous_stride == 2:
            self.adjust = FactorizedReduction(previous_channels, filters, decay)
        else:
            self.adjust = Squeeze(previous_channels, filters, decay)
        widths = (filters, channels if previous_channels is None else filters)
        steps, states = program(genotype, widths)

        def operation(step):
            if step.operation == 'add':
                return Identity()
            on_input = step.reads[0] < 2        # the stride applies to the cell's inputs, not to its blocks
            if step.operation == 'sep':
                return SeparableConv([(size, len(names)) for size, names in step.kernels],
                                     widths[step.reads[0]] if on_input else filters, filters,
                                     stride if on_input else 1, decay)
            pool = {'avg': nn.AvgPool2d, 'max': nn.MaxPool2d}[step.operation[:-1]]
            return pool(int(step.operation[-1]), stride if on_input else 1, pad_mode='same')
        self.steps = nn.CellList([operation(step) for step in steps])
        self.branches = tuple(tuple(names for _, names in step.kernels) for step in steps)
        self.operations = tuple(step.operation for step in steps)
        self.reads = tuple(step.reads for step in steps)
        self.outputs = tuple(states[i] for i in genotype.concat)

    def construct(self, current, previous):
        values = (self.squeeze(current), self.adjust(previous))
        position = 0
        for step in self.steps:
            chosen = pick(values, self.reads[position])
            if self.operations[position] == 'sep':
                values += step(*chosen)
            elif self.operations[position] == 'add':
                values += (chosen[0] + chosen[1],)
            else:
                values += (step(chosen[0]),)
            position += 1
        return ops.concat(pick(values, self.outputs), 1)


def pick(values, positions):
    """The values at some positions."""
    chosen = ()
    for i in positions:
        chosen += (values[i],)
    return chosen


class AuxiliaryHead(nn.Cell):
    """Classifier on the last normal cell of stage 2 (after its ReLU): pool 5/3, 1x1 to 128, full-map conv, dense."""

    def __init__(self, channels, map_size, num_classes, decay):
        super().__init__()
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(5, 3, pad_mode='valid')
        self.projection = conv(channels, 128)
        self.bn_1 = batch_norm(128, decay)
        self.full = conv(128, 768, (map_size - 5) // 3 + 1, pad_mode='valid')
        self.bn_2 = batch_norm(768, decay)
        self.classifier = nn.Dense(768, num_classes, weight_init='zeros', bias_init='zeros')

    def construct(self, x):
        x = self.relu(self.bn_1(self.projection(self.pool(x))))
        x = self.relu(self.bn_2(self.full(x)))
        return self.classifier(x.reshape(x.shape[0], -1))


class NASNetAMobile(nn.Cell):
    """NASNet-A with `cells_per_stage` @ `penultimate_filters`; the defaults are NASNet-A-Mobile.

    construct(images, dropout_mask=None): images (N, 3, H, W) float32, RGB in [-1, 1]; dropout_mask
    (N, penultimate_filters) float32 multiplies the features before the classifier (0 or 1 / keep
    probability; None: no dropout). Returns logits (N, num_classes), or with `auxiliary_size`
    (logits, auxiliary logits).

    Args:
        num_classes: number of classes, at least 2.
        auxiliary_size: image size in pixels the auxiliary head is built for, at least 67; None: no head.
            Its last convolution covers the whole map (4x4 at 224), as in TF-Slim.
        penultimate_filters: channels before the classifier, a multiple of 96: the three stages have
            1/24, 2/24 and 4/24 of it, the stem cells 1/96 and 2/96.
        cells_per_stage: normal cells in each stage.
        bn_decay: decay of the BatchNorm moving averages.

    Raises:
        ValueError: an argument is outside these bounds.
    """

    def __init__(self, num_classes=1000, auxiliary_size=None, penultimate_filters=1056, cells_per_stage=4,
                 bn_decay=0.9997):
        super().__init__()
        if num_classes < 2:
            raise ValueError('num_classes must be at least 2, got %r' % (num_classes,))
        if penultimate_filters < 96 or penultimate_filters % 96:
            raise ValueError('penultimate_filters must be a multiple of 96, got %r' % (penultimate_filters,))
        if cells_per_stage < 1:
            raise ValueError('cells_per_stage must be at least 1, got %r' % (cells_per_stage,))
        if auxiliary_size is not None and auxiliary_size < 67:
            raise ValueError('the auxiliary head needs images of at least 67 pixels, got %r' % (auxiliary_size,))
        filters = penultimate_filters // 24
        stages = [[('cell_%d' % (stage * cells_per_stage + i), NORMAL_CELL, 2 ** stage * filters)
                   for i in range(cells_per_stage)] for stage in range(3)]
        plan = ([('stem_0', REDUCTION_CELL, filters // 4), ('stem_1', REDUCTION_CELL, filters // 2)] + stages[0]
                + [('reduction_0', REDUCTION_CELL, 2 * filters)] + stages[1]
                + [('reduction_1', REDUCTION_CELL, 4 * filters)] + stages[2])

        self.stem_conv = conv(3, STEM_CHANNELS, 3, 2, 'valid')
        self.stem_bn = batch_norm(STEM_CHANNELS, bn_decay)
        self.cell_names = tuple(name for name, _, _ in plan)
        cells = []
        channels, previous_channels, previous_stride = STEM_CHANNELS, None, 1
        for name, genotype, width in plan:
            stride = 2 if genotype is REDUCTION_CELL else 1
            cells.append(Cell(genotype, channels, previous_channels, previous_stride, width, stride, bn_decay))
            previous_channels, previous_stride = channels, stride
            channels = len(genotype.concat) * width
        self.chain = nn.CellList(cells)
        self.auxiliary_index = self.cell_names.index('reduction_1') - 1
        self.auxiliary_head = None
        if auxiliary_size is not None:
            map_size = -(-((auxiliary_size - 1) // 2) // 8)     # first conv 'valid', then three stride-2 'same'
            self.auxiliary_head = AuxiliaryHead(12 * filters, map_size, num_classes, bn_decay)
        self.relu = nn.ReLU()
        self.classifier = nn.Dense(channels, num_classes, weight_init='zeros', bias_init='zeros')
        for path, parameter in self.parameters_and_names():
            parameter.name = self.readable(path)

    def readable(self, path):
        """chain.5.steps.0.depthwise_1.convs.0.weight -> cell_3.{block_0.left,block_1.left}.depthwise_1.weight"""
        match = re.match(r'chain\.(\d+)\.(?:steps\.(\d+)\.)?', path)
        if not match:
            return path
        cell, step, rest = int(match.group(1)), match.group(2), path[match.end():]
        if step:
            branches = self.chain[cell].branches[int(step)]
            kernel = re.search(r'\.convs\.(\d+)', rest)
            names = branches[int(kernel.group(1))] if kernel else sum(branches, ())
            rest = common_name(names) + '.' + re.sub(r'\.convs\.\d+', '', rest)
        return self.cell_names[cell] + '.' + rest

    def construct(self, images, dropout_mask=None):
        previous = current = self.relu(self.stem_bn(self.stem_conv(images)))
        auxiliary_logits = None
        position = 0
        for cell in self.chain:
            previous, current = current, self.relu(cell(current, previous))
            if self.auxiliary_head is not None and position == self.auxiliary_index:
                auxiliary_logits = self.auxiliary_head(current)
            position += 1
        features = current.mean((2, 3))
        if dropout_mask is not None:
            features = features * dropout_mask
        logits = self.classifier(features)
        if self.auxiliary_head is None:
            return logits
        return logits, auxiliary_logits


def initialize(network, seed):
    """Draw the weights as TF-Slim does: truncated normal, variance 2 / fan_out; biases and BN at their defaults.

    TF-Slim's nasnet arg scope uses variance_scaling_initializer(mode='FAN_OUT'): standard deviation
    sqrt(1.3 * 2 / fan_out) cut at two deviations, fan_out = kernel height x width x output channels
    (1 for a depthwise kernel). A classifier of fewer than ImageNet's 1000 classes starts as one of 1000
    would: by the rule alone 8 classes would start with logits of size 10. Each tensor is a function of
    (seed, its plain name) alone, so every rank, backend and framework version starts from the same bits.
    """
    values = plain_values(network)
    for name, value in values.items():
        if not name.endswith('weight'):
            continue
        if value.ndim == 2:
            fan_out = max(value.shape[0], 1000)
        else:
            fan_out = value.shape[2] * value.shape[3] * (1 if 'depthwise' in name else value.shape[0])
        generator = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
        draw = generator.standard_normal(value.shape)
        while np.any(np.abs(draw) > 2):
            outside = np.abs(draw) > 2
            draw[outside] = generator.standard_normal(int(outside.sum()))
        values[name] = (draw * np.sqrt(2.6 / fan_out)).astype(np.float32)
    set_plain_values(network, values)
    return network
