"""NASNet-A (4 @ 1056), the network of "Learning Transferable Architectures for Scalable Image Recognition"
(arXiv 1707.07012), as TF-Slim's `nets/nasnet/nasnet.py` trained it.

The two searched cells are the constants below. `Cell` reads them, and computes separable convolutions together
where it can (src/network/merge.py). The network takes any image size and knows no configuration.
"""
import re
from collections import namedtuple

from src.framework import nn
from src.network.layers import (
    FactorizedReduction,
    Identity,
    Join,
    SeparableConv,
    Squeeze,
    batch_norm,
    conv,
    dense,
    pick,
)
from src.network.merge import common_name, program

# A block adds left(state[i]) and right(state[j]). Hidden state 0 is the squeezed current input, state 1 is the
# adjusted previous input, and state k + 2 is the output of block k (figure 4 of the paper, in TF-Slim's order).
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

STEM_CHANNELS = 32              # output channels of the first convolution (TF-Slim, mobile)
SMALLEST_AUXILIARY_SIZE = 67    # pixels: below it the map is smaller than the head's 5x5 pool


class Cell(nn.Cell):
    """A searched cell.

    construct(current (N, channels, H, W), previous (N, previous_channels, H * previous_stride, W * previous_stride))
    -> (N, len(genotype.concat) * filters, H / stride, W / stride). Both inputs have passed their ReLU, because two
    cells read each output and share it.

    Args:
        genotype: NORMAL_CELL or REDUCTION_CELL.
        channels: channels of the current input.
        previous_channels: channels of the previous input. None: it is used as it is (first stem cell).
        previous_stride: 2 where the previous input is twice as high and wide as the current one, else 1.
        filters: channels of each hidden state.
        stride: 2 in a reduction cell, else 1. It applies to operations on the inputs, not to those on blocks.
        decay: decay of BatchNorm's moving averages.
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
            reads_input = step.reads[0] < 2
            if step.operation == 'sep':
                return SeparableConv([(size, len(names)) for size, names in step.kernels],
                                     widths[step.reads[0]] if reads_input else filters, filters,
                                     stride if reads_input else 1, decay)
            pool = {'avg': nn.AvgPool2d, 'max': nn.MaxPool2d}[step.operation[:-1]]
            return pool(int(step.operation[-1]), stride if reads_input else 1, pad_mode='same')
        self.steps = nn.CellList([operation(step) for step in steps])
        self.branches = tuple(tuple(names for _, names in step.kernels) for step in steps)
        self.operations = tuple(step.operation for step in steps)
        self.reads = tuple(step.reads for step in steps)
        self.outputs = tuple(states[i] for i in genotype.concat)
        self.join = Join([widths[i] if i < 2 else filters for i in genotype.concat])

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
        return self.join(*pick(values, self.outputs))


class AuxiliaryHead(nn.Cell):
    """A second classifier, on the last normal cell of stage 2; it only helps training (TF-Slim's _build_aux_head).

    construct(x (N, channels, map_size, map_size), after its ReLU) -> logits (N, num_classes): average pool 5x5 with
    stride 3, 1x1 convolution to 128 channels, convolution over the whole map to 768 channels, dense layer.
    """

    def __init__(self, channels, map_size, num_classes, decay):
        super().__init__()
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(5, 3, pad_mode='valid')
        self.projection = conv(channels, 128)
        self.bn_1 = batch_norm(128, decay)
        self.full = conv(128, 768, (map_size - 5) // 3 + 1, pad_mode='valid')
        self.bn_2 = batch_norm(768, decay)
        self.classifier = dense(768, num_classes)

    def construct(self, x):
        x = self.relu(self.bn_1(self.projection(self.pool(x))))
        x = self.relu(self.bn_2(self.full(x)))
        return self.classifier(x.reshape(x.shape[0], -1))


class NASNetAMobile(nn.Cell):
    """NASNet-A with `cells_per_stage` @ `penultimate_filters`; the defaults are NASNet-A-Mobile.

    construct(images, dropout_mask=None) -> logits (N, num_classes), or with `auxiliary_size`
    (logits, auxiliary logits). images: (N, 3, H, W), RGB in [-1, 1]; with float16 images the network computes in
    float16 and returns it, but weights and BatchNorm's statistics are float32. dropout_mask: (N, penultimate_filters)
    float32, multiplies the features before the classifier (0 or 1 / keep probability); None: no dropout.

    Args:
        num_classes: number of classes, at least 2.
        auxiliary_size: image size in pixels that the auxiliary head is built for, at least 67; None: no head. Its
            last convolution covers the whole map (4x4 at 224 pixels), as in TF-Slim.
        penultimate_filters: channels before the classifier, a multiple of 96. The hidden states of the three stages
            have 1/24, 2/24 and 4/24 of it, those of the two stem cells 1/96 and 2/96.
        cells_per_stage: number of normal cells in each stage.
        bn_decay: decay of BatchNorm's moving averages.

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
        if auxiliary_size is not None and auxiliary_size < SMALLEST_AUXILIARY_SIZE:
            raise ValueError('the auxiliary head needs images of at least %d pixels, got %r'
                             % (SMALLEST_AUXILIARY_SIZE, auxiliary_size))
        filters = penultimate_filters // 24
        plan = self.plan(filters, cells_per_stage)
        self.stem_conv = conv(3, STEM_CHANNELS, 3, 2, 'valid')
        self.stem_bn = batch_norm(STEM_CHANNELS, bn_decay)
        self.cell_names = tuple(name for name, _, _ in plan)
        cells = []
        channels, previous_channels, previous_stride = STEM_CHANNELS, None, 1
        for _, genotype, width in plan:
            stride = 2 if genotype is REDUCTION_CELL else 1
            cells.append(Cell(genotype, channels, previous_channels, previous_stride, width, stride, bn_decay))
            previous_channels, previous_stride = channels, stride
            channels = len(genotype.concat) * width
        self.chain = nn.CellList(cells)
        self.auxiliary_index = self.cell_names.index('reduction_1') - 1
        self.auxiliary_head = None
        if auxiliary_size is not None:
            # The first convolution is 'valid' with stride 2; then come three reductions with 'same' padding.
            map_size = -(-((auxiliary_size - 1) // 2) // 8)
            self.auxiliary_head = AuxiliaryHead(12 * filters, map_size, num_classes, bn_decay)
        self.relu = nn.ReLU()
        self.classifier = dense(channels, num_classes)
        for path, parameter in self.parameters_and_names():
            parameter.name = self.readable(path)

    @staticmethod
    def plan(filters, cells_per_stage):
        """[(name, genotype, filters of a hidden state)] of all cells, in the order of the network."""
        stages = [[('cell_%d' % (stage * cells_per_stage + i), NORMAL_CELL, 2 ** stage * filters)
                   for i in range(cells_per_stage)] for stage in range(3)]
        return ([('stem_0', REDUCTION_CELL, filters // 4), ('stem_1', REDUCTION_CELL, filters // 2)] + stages[0]
                + [('reduction_0', REDUCTION_CELL, 2 * filters)] + stages[1]
                + [('reduction_1', REDUCTION_CELL, 4 * filters)] + stages[2])

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
            features = features * dropout_mask.astype(features.dtype)
        logits = self.classifier(features)
        if self.auxiliary_head is None:
            return logits
        return logits, auxiliary_logits
