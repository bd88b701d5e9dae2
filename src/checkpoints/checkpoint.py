"""Checkpoint files: whole or absent, checked when they are read, readable by plain mindspore.load_checkpoint.

A file holds every parameter of the network under its plain name, the optimizer's state as mean_square.NAME and
moment.NAME, moving averages as ema.NAME, a dynamic loss scale as loss_scale.NAME, `meta` (JSON as uint8:
configuration, position, rows of metrics.csv) and `digest` (SHA-256 of all the rest). MindSpore itself notices
neither a flipped bit nor a lost record, so the digest is needed.
"""
import json
import os
from collections import namedtuple

import numpy as np

from src.checkpoints.records import read_records, write_records
from src.errors import UserError
from src.files import digest, whole_file
from src.network.merge import plain_values, set_plain_values, split

# path: of the file; arrays: {plain name: array}; meta: {} in files that this suite did not write.
Checkpoint = namedtuple('Checkpoint', 'path arrays meta')
REMEDY = 'choose another --ckpt_path'
_STATE = ('mean_square.', 'moment.', 'ema.', 'loss_scale.')
_HEADS = ('classifier.', 'auxiliary_head.')
_NETWORK_KEYS = ('num_classes', 'image_size', 'penultimate_filters', 'cells_per_stage')


def arrays_of(network, *parts):
    """{plain name: array} of the parameters of a network and of the state() of each part (optimizer, averages)."""
    arrays = plain_values(network)
    for part in parts:
        arrays.update(split(part.state()))
    return arrays


def save(path, arrays, meta, remedy=REMEDY):
    """Write a checkpoint. A kill leaves the old file or the new one under `path`.

    Args:
        arrays: {plain name: array}, what `arrays_of` returns.
        meta: a dict that JSON can express: configuration and position.
        remedy: the end of the sentence if the file cannot be written.

    Raises:
        SaveError: the folder cannot be written or the disk is full. `path` is as it was.
        UserError: a value is not finite. `path` is as it was.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError('%s is not finite any more: training has diverged, %s is not written; start a new run '
                            'with a lower --lr_init, from an earlier checkpoint by --pretrained' % (name, path))
    arrays = dict(arrays, meta=np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8))
    arrays['digest'] = digest(arrays)
    with whole_file(path, remedy) as unfinished:
        write_records(unfinished, arrays)


def load(path):
    """Read a checkpoint -> Checkpoint.

    Raises:
        UserError: there is no such file, it is not a checkpoint, or it is damaged.
    """
    if not os.path.isfile(path):
        raise UserError('the checkpoint %s is not a file: give the path of a .ckpt file' % path)
    if not path.endswith('.ckpt'):
        raise UserError('%s does not end in .ckpt: give the path of a MindSpore checkpoint' % path)
    try:
        arrays = read_records(path)
    except (ValueError, OSError, MemoryError) as error:
        raise UserError('%s is not a MindSpore checkpoint or is damaged (%s): use another one'
                        % (path, str(error).strip().split('\n')[0]))
    meta = {}
    if 'meta' in arrays or 'digest' in arrays:
        if 'digest' not in arrays or not np.array_equal(arrays.pop('digest'), digest(arrays)):
            raise UserError('%s is damaged (its digest does not match its contents): use another checkpoint' % path)
        try:
            meta = dict(json.loads(arrays.pop('meta').tobytes().decode()))
        except (KeyError, TypeError, ValueError, RecursionError):
            raise UserError('%s is damaged (its configuration is no JSON): use another checkpoint' % path)
    return Checkpoint(path, arrays, meta)


def restore(checkpoint, network, weights=None, new_classes=False):
    """Set the parameters of `network` from a checkpoint.

    The optimizer's state is not used, and neither is an auxiliary head that the network does not have.

    Args:
        weights: 'raw' (those that training steps changed), 'ema' (the moving averages), or None: the averages if
            there are any.
        new_classes: keep the network's own classifier tensors that are missing there or have another shape there.

    Returns:
        Sorted names of the parameters that were kept.

    Raises:
        UserError: there are no moving averages, or a parameter is missing, unknown, of another shape or not finite; it
            is named.
    """
    arrays = _weights_of(checkpoint, weights)
    values = plain_values(network)
    wanted = {name: value.shape for name, value in values.items()}
    if not any(name.startswith('auxiliary_head.') for name in wanted):
        arrays = {name: array for name, array in arrays.items() if not name.startswith('auxiliary_head.')}
    kept = sorted(name for name, shape in wanted.items() if new_classes and name.startswith(_HEADS)
                  and (name not in arrays or arrays[name].shape != shape))
    for name in kept:
        wanted.pop(name)
        arrays.pop(name, None)
    _require_fit(checkpoint.path, arrays, wanted)
    set_plain_values(network, dict(values, **arrays))
    return kept


def _weights_of(checkpoint, weights):
    """{plain name: array} of a network's parameters in a checkpoint; `weights` as in `restore`."""
    averages = {name[len('ema.'):]: array for name, array in checkpoint.arrays.items() if name.startswith('ema.')}
    if weights == 'ema' and not averages:
        raise UserError('%s has no moving averages: use --weights raw' % checkpoint.path)
    if weights == 'raw' or not averages:
        return {name: array for name, array in checkpoint.arrays.items() if not name.startswith(_STATE)}
    return averages


def _require_fit(path, arrays, wanted):
    """UserError that names the first tensor of `arrays` that is not as `wanted` ({name: shape}), if there is one."""
    remedy = 'it is a checkpoint of another network'
    for what, which in (('lacks', set(wanted) - set(arrays)), ('has unknown', set(arrays) - set(wanted))):
        if which:
            raise UserError('%s does not fit: it %s %s%s; %s'
                            % (path, what, min(which), ' and %d more' % (len(which) - 1) if len(which) > 1 else '',
                               remedy))
    for name, array in sorted(arrays.items()):
        shape = wanted[name]
        if array.shape != shape or array.dtype != np.float32:
            hint = 'set --num_classes %d' % array.shape[0] if name.startswith('classifier.') else remedy
            raise UserError('%s does not fit: %s is %s %s there, %s float32 in this network; %s'
                            % (path, name, array.shape, array.dtype, shape, hint))
        if not np.isfinite(array).all():
            raise UserError('%s has values that are not finite in %s: it is of a run that has diverged; use an earlier '
                            'checkpoint' % (path, name))


def network_config(checkpoint):
    """The configuration keys that say which network a checkpoint belongs to; {} for files from elsewhere.

    Raises:
        UserError: the checkpoint does not have as many tensors as that network. A small file could otherwise name a
            network that fills the memory.
    """
    config = {key: value for key, value in checkpoint.meta.get('config', {}).items() if key in _NETWORK_KEYS}
    cells, filters, classes = (config[key] if type(config.get(key)) is int else smallest for key, smallest in
                               (('cells_per_stage', 1), ('penultimate_filters', 96), ('num_classes', 2)))
    # Lower bounds for networks of every size: tensors of a cell of each stage, and their numbers.
    tensors, numbers = 200 * cells, 400 * cells * (filters // 24) ** 2 + classes * filters
    present = sum(array.size for array in checkpoint.arrays.values())
    if config and (len(checkpoint.arrays) < tensors or present < numbers):
        raise UserError('%s is damaged: its configuration belongs to a network of more than %d tensors with %d '
                        'numbers, and it has %d with %d'
                        % (checkpoint.path, tensors, numbers, len(checkpoint.arrays), present))
    return config
