"""How other frameworks call the tensors of this network, and how their tensors become tensors of this network."""
import re

import numpy as np

from nasnet_a_mobile import NORMAL_CELL, REDUCTION_CELL, NASNetAMobile
from src.convert.limits import Allowance
from src.errors import UserError
from src.network.merge import plain_values

# Each row has the names of one layer: here, in the PyTorch port (package pretrainedmodels), in Keras (a layer) and in
# TF-Slim (a scope). None: the layer does not exist there. {kernel} is the kernel size of a separable convolution in
# pixels, {number} is Keras's number of a block in its cell, and {kind} is normal or reduction.
TABLE = (
    ('stem_conv', 'conv0.conv', 'stem_conv1', 'conv0'),
    ('stem_bn', 'conv0.bn', 'stem_bn1', 'conv0_bn'),
    ('{cell}.squeeze.conv', '{cell}.conv_1x1.conv', '{kind}_conv_1_{cell}', '{cell}/1x1'),
    ('{cell}.squeeze.bn', '{cell}.conv_1x1.bn', '{kind}_bn_1_{cell}', '{cell}/beginning_bn'),
    ('{cell}.adjust.conv', '{cell}.conv_prev_1x1.conv', 'adjust_conv_projection_{cell}', '{cell}/prev_1x1'),
    ('{cell}.adjust.bn', '{cell}.conv_prev_1x1.bn', 'adjust_bn_{cell}', '{cell}/prev_bn'),
    ('{cell}.adjust.path_{n}', '{cell}.path_{n}.conv', 'adjust_conv_{n}_{cell}', '{cell}/path{n}_conv'),
    ('{cell}.adjust.bn after paths', '{cell}.final_path_bn', 'adjust_bn_{cell}', '{cell}/final_path_bn'),
    ('{cell}.block_{b}.{side}.depthwise_{n}', '{cell}.comb_iter_{b}_{side}.separable_{n}.depthwise_conv2d',
     'separable_conv_{n}_{kind}_{side}{number}_{cell}', '{cell}/comb_iter_{b}/{side}/separable_{kernel}x{kernel}_{n}'),
    ('{cell}.block_{b}.{side}.pointwise_{n}', '{cell}.comb_iter_{b}_{side}.separable_{n}.pointwise_conv2d',
     'separable_conv_{n}_{kind}_{side}{number}_{cell}', '{cell}/comb_iter_{b}/{side}/separable_{kernel}x{kernel}_{n}'),
    ('{cell}.block_{b}.{side}.bn_{n}', '{cell}.comb_iter_{b}_{side}.bn_sep_{n}',
     'separable_conv_{n}_bn_{kind}_{side}{number}_{cell}', '{cell}/comb_iter_{b}/{side}/bn_sep_{kernel}x{kernel}_{n}'),
    ('auxiliary_head.projection', None, None, 'aux_7/aux_logits/proj'),
    ('auxiliary_head.bn_1', None, None, 'aux_7/aux_logits/aux_bn0'),
    ('auxiliary_head.full', None, None, 'aux_7/aux_logits/Conv'),
    ('auxiliary_head.bn_2', None, None, 'aux_7/aux_logits/aux_bn1'),
    ('auxiliary_head.classifier', None, None, 'aux_7/aux_logits/FC'),
    ('classifier', 'last_linear', 'predictions', 'final_layer/FC'),
)
GROUPS = {'cell': r'(?:cell|stem|reduction)_\d+', 'b': r'\d', 'n': r'\d', 'side': 'left|right'}
ROWS = tuple((re.compile(re.sub(r'\{(\w+)\}', lambda m: '(?P<%s>%s)' % (m.group(1), GROUPS[m.group(1)]),
                                row[0].replace('.', r'\.'))),) + row[1:] for row in TABLE)
# Public MindSpore code has the names of the PyTorch port with these differences: `network` may stand before all
# names, the layers of a sequence have numbers instead of names, and the last layer is called classifier.
MINDSPORE = ((r'^network\.', ''), (r'^conv0\.0\.', 'conv0.conv.'), (r'^conv0\.1\.', 'conv0.bn.'),
             (r'\.(conv_1x1|conv_prev_1x1)\.1\.', r'.\1.conv.'), (r'\.(conv_1x1|conv_prev_1x1)\.2\.', r'.\1.bn.'),
             (r'\.path_(\d)\.\d\.', r'.path_\1.conv.'), (r'^classifier\.', 'last_linear.'))
# Tensors that a file may hold in addition to the network: the state of the optimizer, counters, and in MindSpore files
# an auxiliary head, which was not trained there.
SURPLUS = {'pytorch': r'num_batches_tracked$|/ExponentialMovingAverage$', 'keras': r'^$',
           'tf_slim': r'global_step|/(RMSProp|Momentum|Adam)(_\d)?$|/ExponentialMovingAverage$|power$',
           'mindspore': r'^(rms|moment|moments|mean_square|mg|accum|ema|learning_rate|global_step|scale_sense)|aux'}
EMA = '/ExponentialMovingAverage'      # TF-Slim puts this behind the name of a tensor, and pytorch.py does so too
NOT_NASNET = 'the weights are not those of NASNet-A-Mobile; %s'


def from_foreign(kind, arrays):
    """Turn the tensors of a file of another framework into tensors of this network.

    Args:
        kind: 'pytorch', 'keras', 'tf_slim' or 'mindspore' (public MindSpore code, for example MindCV).
        arrays: {name in the file: float array}.

    Returns:
        ({our name: float32 array}, {configuration key: value} of the network, list of remarks for the user).
        A Keras file may be without a classifier. Then the result has no classifier either.

    Raises:
        UserError: tensors are missing, left over or of another shape. The message lists all of them. Or a value is
            not finite.
    """
    arrays, remarks = _with_usual_names(kind, arrays)
    config, network = _network_of(kind, arrays)
    wanted = {name: tuple(value.shape) for name, value in plain_values(network).items()}
    if 'num_classes' not in config:
        wanted = {name: shape for name, shape in wanted.items() if not name.startswith('classifier.')}
        remarks.append('the file has no classifier: use the result only for --pretrained')
    sources = {name: foreign_name(name, kind, wanted) for name in wanted}
    found, misfits = _matching(kind, arrays, wanted, sources)
    missing = ['%s (%s)' % (source, name) for name, source in sources.items() if source not in arrays]
    unused = set(arrays) - set(sources.values())
    surplus = [name for name in unused if not re.search(SURPLUS[kind], name)]
    problems = [text % ', '.join(sorted(names)) for text, names in
                (('missing: %s', missing), ('of another shape: %s', misfits), ('left over: %s', surplus)) if names]
    if problems:
        raise UserError(NOT_NASNET % '; '.join(problems))
    broken = sorted(sources[name] for name, array in found.items() if not np.isfinite(array).all())
    if broken:
        raise UserError('%d tensors have values that are not finite in float32, the first is %s: take the weights of '
                        'an earlier epoch, or check the download' % (len(broken), broken[0]))
    if unused:
        remarks.append('%d tensors that only the training needs were left out' % len(unused))
    return found, config, remarks


def _with_usual_names(kind, arrays):
    """Return ({name: array} with the names that TABLE expects, list of remarks for the user)."""
    arrays, remarks = dict(arrays), []
    if kind in ('pytorch', 'mindspore'):
        arrays = _without_prefix(arrays)
    if kind == 'mindspore':
        arrays = {mindspore_name(name): array for name, array in arrays.items()}
        remarks.append('these weights were trained with another padding in two cells: the outputs here differ from '
                       'the outputs of the code that trained them, and the accuracy here is lower')
    averaged = [name for name in arrays if name.endswith(EMA)]
    for name in averaged:
        arrays[name[:-len(EMA)]] = arrays[name]
    if averaged:
        remarks.append('%d exponential moving averages taken instead of the raw values' % len(averaged))
    return arrays, remarks


def _without_prefix(arrays):
    """Return {name: array} without what a wrapper put before the names of the network, such as `module.` or `model.`.

    A tensor that every network has tells the prefix. Moving averages may have another one than the raw values.
    """
    result = {}
    for averaged in (False, True):
        names = [name for name in arrays if name.endswith(EMA) == averaged]
        matches = [re.match(r'(.*?)cell_0\.conv_1x1\.', name) for name in names]
        # An optimizer puts its own prefix before that of the network, so the shortest one is the network's.
        prefix = min((match.group(1) for match in matches if match), key=len, default='')
        result.update((name[len(prefix):] if name.startswith(prefix) else name, arrays[name]) for name in names)
    return result


def _matching(kind, arrays, wanted, sources):
    """Look for the tensors of this network in a file.

    Args:
        kind, arrays: see `from_foreign`; the names are already the usual ones.
        wanted: {our name: shape}.
        sources: {our name: name in the file}.

    Returns:
        ({our name: float32 array}, list of sentences about tensors of another shape). Missing tensors are left out.
    """
    found, misfits = {}, []
    for name, shape in wanted.items():
        source = sources[name]
        if source not in arrays:
            continue
        array = _to_our_layout(name, arrays[source], kind)
        if 'classifier' in name and array.shape[:1] == (1001,):
            array = array[1:]       # Class 0 of TF-Slim is the background. No image belongs to it.
        if array.shape != shape:
            misfits.append('%s is %s, not %s' % (source, array.shape, shape))
        with np.errstate(over='ignore'):        # what is too large becomes infinite, and `from_foreign` looks for that
            found[name] = np.ascontiguousarray(array, np.float32)
    return found, misfits


def mindspore_name(name):
    """Return the PyTorch port's name of a tensor of public MindSpore code.

    The last part of the name (gamma, moving_mean) stays as it is in MindSpore.
    """
    for pattern, replacement in MINDSPORE:
        name = re.sub(pattern, replacement, name)
    return name


def foreign_name(name, kind, names):
    """Return the name that a tensor of this network has in a file of another framework.

    Args:
        name: our plain name, for example cell_3.block_0.left.depthwise_1.weight.
        kind: see `from_foreign`.
        names: our names of all tensors; they tell which BatchNorms follow a factorized reduction.

    Returns:
        A str, or None if the tensor does not exist there.

    Raises:
        KeyError: `name` is not a name of this network.
    """
    base, leaf = name.rsplit('.', 1)
    if base.endswith('.adjust.bn') and base.replace('.bn', '.path_1') + '.weight' in names:
        base += ' after paths'
    column = {'pytorch': 1, 'mindspore': 1, 'keras': 2, 'tf_slim': 3}[kind]
    for row in ROWS:
        match = row[0].fullmatch(base)
        if match:
            break
    else:
        raise KeyError(name)
    if row[column] is None:
        return None
    parts = match.groupdict()
    if 'cell' in parts:
        reduction = not parts['cell'].startswith('cell')
        parts['kind'] = 'reduction' if reduction else 'normal'
        if 'b' in parts:
            block = int(parts['b'])
            genotype = REDUCTION_CELL if reduction else NORMAL_CELL
            parts['kernel'] = genotype.blocks[block][parts['side'] == 'right'][0][-1]
            parts['number'] = 4 if reduction and block == 4 else block + 1
        parts['cell'] = _cell(parts['cell'], kind)
    return row[column].format(**parts) + _leaf(base, leaf, kind)


def _cell(cell, kind):
    """Return the name of a cell in another framework.

    Normal cells have other numbers there. The port calls them cell_0 to cell_3, cell_6 to cell_9, and cell_12 to
    cell_15. Keras numbers them 0 to 3 and 5 to 12, and the stem cells from 1.
    """
    stage, number = cell.rsplit('_', 1)
    number = int(number)
    if kind == 'keras':
        return {'cell': '%d' % (number + (number >= 4)), 'stem': 'stem_%d' % (number + 1),
                'reduction': 'reduce_%d' % (4 * number + 4)}[stage]
    if stage == 'cell' and kind != 'tf_slim':
        number += number // 4 * 2
    return {'cell': 'cell_%d', 'stem': 'cell_stem_%d', 'reduction': 'reduction_cell_%d'}[stage] % number


def _leaf(base, leaf, kind):
    """Return the last part of a name in another framework, with its separator; `base` is our name before it."""
    if kind == 'mindspore':
        return '.' + leaf
    if kind == 'pytorch':
        return '.' + {'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean',
                      'moving_variance': 'running_var'}.get(leaf, leaf)
    part = re.search('(depthwise|pointwise)_.$', base)
    if leaf == 'weight':
        leaf = (part.group(1) + '_' if part else '') + ('kernel' if kind == 'keras' else 'weights')
    return '/' + ('biases' if (leaf, kind) == ('bias', 'tf_slim') else leaf)


def _to_our_layout(name, array, kind):
    """Return an array with our order of dimensions; `name` is our name of the tensor.

    TensorFlow's order is (height, width, in, out) for convolutions, (height, width, in, 1) for depthwise
    convolutions and (in, out) for dense layers. Ours is (out, in, height, width), (in, 1, height, width) and
    (out, in).
    """
    if kind not in ('keras', 'tf_slim') or array.ndim not in (2, 4):
        return array
    return array.T if array.ndim == 2 else array.transpose((2, 3, 0, 1) if 'depthwise' in name else (3, 2, 0, 1))


def _network_of(kind, arrays):
    """Derive the network from the shapes of a file's tensors: return ({configuration key: value}, network).

    Raises:
        UserError: the shapes are not those of this network, or the file has too few numbers for them. A few bytes of
            a file could otherwise name a network that fills the memory.
    """
    squeeze = _shape('cell_0.squeeze.conv.weight', 4, kind, arrays)
    classifier = _shape('classifier.weight', 2, kind, arrays)
    full = _shape('auxiliary_head.full.weight', 4, kind, arrays)
    if not squeeze:
        raise UserError(NOT_NASNET % ('missing: %s; the first names there are: %s' % (
            foreign_name('cell_0.squeeze.conv.weight', kind, ()), ', '.join(sorted(arrays)[:3]) or 'none')))
    filters = squeeze[0]
    classes = classifier[0] - (classifier[0] == 1001) if classifier else None
    if filters % 4 or classifier and classes < 2:
        raise UserError(NOT_NASNET % ('cell_0 has %d filters, and there are %s classes' % (filters, classes)))
    # The cells have more than 2000 numbers for each square of `filters`, whatever the width is.
    needed = 2000 * filters ** 2 + 24 * filters * (classes or 0) + (128 * 768 * full[2] ** 2 if full else 0)
    present = sum(array.size for array in arrays.values())
    try:
        Allowance(4 * present).take(4 * needed)
    except ValueError:
        raise UserError(NOT_NASNET % ('a network with such shapes has more than %d numbers, and the file has %d'
                                      % (needed, present)))
    config = {'penultimate_filters': 24 * filters, 'cells_per_stage': 4, 'image_size': 224}
    if classifier:
        config['num_classes'] = classes
    if full:
        # The kernel of this convolution covers its whole input map. The map has 4 x 4 values for images of 224
        # pixels. For another map, 67 + 48 * (side - 1) is the smallest image size that gives it.
        config['image_size'] = 224 if full[2] == 4 else 67 + 48 * (full[2] - 1)
    return config, NASNetAMobile(config.get('num_classes', 2), config['image_size'] if full else None,
                                 config['penultimate_filters'])


def _shape(name, dimensions, kind, arrays):
    """Return the shape, in our order, of a file's tensor that is `name` here; None if the file does not have it."""
    source = foreign_name(name, kind, ())
    if source not in arrays:
        return None
    shape = _to_our_layout(name, arrays[source], kind).shape
    if len(shape) != dimensions or 0 in shape:
        raise UserError(NOT_NASNET % ('of another shape: %s is %s' % (source, shape)))
    return shape
