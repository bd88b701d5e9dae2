"""The network's tensors under their names in other frameworks, and what a file of theirs becomes here."""
import re

import numpy as np

from nasnet_a_mobile import NORMAL_CELL, REDUCTION_CELL, NASNetAMobile
from src.errors import UserError
from src.merge import plain_values

# Ours, the PyTorch port (package pretrainedmodels), Keras's layer, TF-Slim's scope. {kernel} is a side of a
# separable convolution, {number} Keras's count of a cell's blocks, {kind} normal or reduction.
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
# Public MindSpore code numbers the parts of a sequence where the port names them, and calls the last layer so.
MINDSPORE = ((r'^network\.', ''), (r'^conv0\.0\.', 'conv0.conv.'), (r'^conv0\.1\.', 'conv0.bn.'),
             (r'\.(conv_1x1|conv_prev_1x1)\.1\.', r'.\1.conv.'), (r'\.(conv_1x1|conv_prev_1x1)\.2\.', r'.\1.bn.'),
             (r'\.path_(\d)\.\d\.', r'.path_\1.conv.'), (r'^classifier\.', 'last_linear.'))
# What a file may hold beside the network: optimizer state and counters, and a head nobody trained.
SURPLUS = {'pytorch': r'num_batches_tracked$', 'keras': r'^$',
           'tf_slim': r'global_step|/(RMSProp|Momentum|Adam)(_\d)?$|/ExponentialMovingAverage$|power$',
           'mindspore': r'^(rms|moment|moments|mean_square|mg|accum|ema|learning_rate|global_step|scale_sense)|aux'}
EMA = '/ExponentialMovingAverage'


def from_foreign(kind, arrays):
    """Tensors of a file of another framework as this network's.

    Args:
        kind: 'pytorch', 'keras', 'tf_slim' or 'mindspore' (public MindSpore code, MindCV).
        arrays: {name there: float array}.

    Returns:
        ({our name: float32 array}, configuration keys of the network, list of remarks for the user).
        Without a classifier in the file (Keras without top) there is none in the result.

    Raises:
        UserError: a tensor is missing, left over or of another shape; all are listed.
    """
    arrays, remarks = dict(arrays), []
    if kind == 'mindspore':
        arrays = {mindspore_name(name): array for name, array in arrays.items()}
        remarks.append('trained with another padding of two cells: its outputs differ from those of its own code, '
                       'and its accuracy is lower here than there')
    averaged = [name for name in arrays if name.endswith(EMA)]
    for name in averaged:
        arrays[name[:-len(EMA)]] = arrays[name]
    if averaged:
        remarks.append('%d exponential moving averages taken instead of the raw values' % len(averaged))
    config, network = _network_of(kind, arrays)
    wanted = {name: value.shape for name, value in plain_values(network).items()}
    if 'num_classes' not in config:
        wanted = {name: shape for name, shape in wanted.items() if not name.startswith('classifier.')}
        remarks.append('no classifier in it: for --pretrained alone')
    found, missing, misfit, used = {}, [], [], set()
    for name, shape in wanted.items():
        source = foreign_name(name, kind, wanted)
        if source not in arrays:
            missing.append('%s (%s)' % (source, name))
            continue
        used.add(source)
        array = _to_our_layout(name, arrays[source], kind)
        if 'classifier' in name and array.shape[0] == 1001:
            array = array[1:]       # TF-Slim's class 0 is the background, which has no images
        if array.shape != tuple(shape):
            misfit.append('%s is %s, not %s' % (source, array.shape, tuple(shape)))
        found[name] = np.ascontiguousarray(array, np.float32)
    surplus = sorted(name for name in set(arrays) - used if not re.search(SURPLUS[kind], name))
    problems = [text % ', '.join(sorted(names)) for text, names in
                (('missing: %s', missing), ('of another shape: %s', misfit), ('left over: %s', surplus)) if names]
    if problems:
        raise UserError('the weights are not those of NASNet-A-Mobile; %s' % '; '.join(problems))
    left = len(set(arrays) - used)
    if left:
        remarks.append('%d tensors of the training left aside' % left)
    return found, config, remarks


def mindspore_name(name):
    """The port's way to call a tensor of public MindSpore code; its leaves (gamma, moving_mean) stay MindSpore's."""
    for pattern, replacement in MINDSPORE:
        name = re.sub(pattern, replacement, name)
    return name


def foreign_name(name, kind, names):
    """The name of our tensor `name` in a file of `kind`; `names` are all of ours. None: it has none there."""
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
    """cell_4 is cell_6 in the port, 5 in Keras; Keras numbers stem cells from 1."""
    stage, number = cell.rsplit('_', 1)
    number = int(number)
    if kind == 'keras':
        return {'cell': '%d' % (number + (number >= 4)), 'stem': 'stem_%d' % (number + 1),
                'reduction': 'reduce_%d' % (4 * number + 4)}[stage]
    if stage == 'cell' and kind != 'tf_slim':
        number += number // 4 * 2
    return {'cell': 'cell_%d', 'stem': 'cell_stem_%d', 'reduction': 'reduction_cell_%d'}[stage] % number


def _leaf(base, leaf, kind):
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
    """TensorFlow's convolutions are height, width, in, out; depthwise ones height, width, in, 1; dense in, out."""
    if kind not in ('keras', 'tf_slim') or array.ndim == 1:
        return array
    return array.T if array.ndim == 2 else array.transpose((2, 3, 0, 1) if 'depthwise' in name else (3, 2, 0, 1))


def _network_of(kind, arrays):
    """(configuration keys, network) that the shapes of a file's tensors tell."""
    def shape(name):
        source = foreign_name(name, kind, ())
        return _to_our_layout(name, arrays[source], kind).shape if source in arrays else None
    squeeze, classifier = shape('cell_0.squeeze.conv.weight'), shape('classifier.weight')
    if squeeze is None or squeeze[0] % 4:
        raise UserError('the weights are not those of NASNet-A-Mobile; missing: %s'
                        % foreign_name('cell_0.squeeze.conv.weight', kind, ()))
    config = {'penultimate_filters': 24 * squeeze[0], 'cells_per_stage': 4, 'image_size': 224}
    if classifier:
        config['num_classes'] = 1000 if classifier[0] == 1001 else classifier[0]
    full = shape('auxiliary_head.full.weight')
    if full:            # its kernel covers the map: 4 at 224 pixels
        config['image_size'] = 224 if full[2] == 4 else 67 + 48 * (full[2] - 1)
    return config, NASNetAMobile(config.get('num_classes', 2), config['image_size'] if full else None,
                                 config['penultimate_filters'])
