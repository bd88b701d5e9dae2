"""Checkpoint files: whole or absent, checked on the way in, readable by plain mindspore.load_checkpoint.

A file holds every parameter of the network under its own name, the optimizer's state as
mean_square.NAME and moment.NAME, moving averages as ema.NAME, a dynamic loss scale as loss_scale.NAME,
`meta` (JSON as uint8: configuration, position, rows of metrics.csv) and `digest` (SHA-256 of all the
rest), because MindSpore notices neither a flipped bit nor a lost record.
"""
import hashlib
import json
import os
import re
import shutil
import sys
from collections import namedtuple

import numpy as np

from src.config import free_on_resume, nasnet_a_mobile_config_gpu
from src.errors import UserError
from src.files import SaveError, sync
from src.framework import Tensor, mindspore, without_chatter
from src.merge import join, plain_values, set_plain_values, split

Checkpoint = namedtuple('Checkpoint', 'path arrays meta')
UNFINISHED = '.unfinished-'      # a checkpoint in the making is in a folder of this name and its own
BEST = 'nasnet-a-mobile-best.ckpt'
_STATE = ('mean_square.', 'moment.', 'ema.', 'loss_scale.')
_HEADS = ('classifier.', 'auxiliary_head.')
# Configuration of programs that do not train: an auxiliary head's smallest image size is none of theirs.
NO_AUXILIARY_HEAD = {'aux_factor': 0.0}


def checkpoint_path(folder, rank, epoch, step):
    """CKPT_PATH/nasnet-a-mobile-rank0-{epoch}_{steps of it that are done}.ckpt"""
    return os.path.join(folder, 'nasnet-a-mobile-rank%d-%d_%d.ckpt' % (rank, epoch, step))


def list_checkpoints(folder, rank):
    """Paths of this rank's checkpoints, oldest first by epoch and step."""
    pattern = re.compile(r'nasnet-a-mobile-rank%d-(\d+)_(\d+)\.ckpt$' % rank)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [match for match in map(pattern.match, names) if match]
    return [os.path.join(folder, match.group(0))
            for match in sorted(found, key=lambda match: (int(match.group(1)), int(match.group(2))))]


def check_room(folder, arrays, copies=1):
    """UserError if the disk of `folder` cannot take `copies` checkpoints of {name: array}."""
    needed = copies * sum(array.nbytes for array in arrays.values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError('the disk of %s has %d MiB free, a checkpoint takes %d MiB: make room or choose another '
                        '--ckpt_path' % (folder, free >> 20, needed >> 20))


def state(network, *others):
    """{plain name: array} of a network's parameters and of the state() of optimizer and moving averages."""
    arrays = plain_values(network)
    for other in others:
        arrays.update(split(other.state()))
    return arrays


def save(path, arrays, meta):
    """Write a checkpoint under another name, then move it to `path`: a kill leaves the old file or the new.

    Args:
        arrays: {name: array}, the parameters of the network and the state of what trains it.
        meta: what JSON can say: configuration and position.

    Raises:
        SaveError: the folder cannot be written or the disk is full; `path` is as it was.
        UserError: a value is not finite; likewise.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError('%s is not finite any more: training has diverged, %s is not written; start anew with a '
                            'lower --lr_init, from an earlier checkpoint by --pretrained' % (name, path))
    arrays = dict(arrays, meta=np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8))
    arrays['digest'] = digest(arrays)
    # In a folder of its own: MindSpore 2 writes under yet another name beside the one it is given.
    folder, name = os.path.split(path)
    unfinished = os.path.join(folder, UNFINISHED + name)
    written = os.path.join(unfinished, name)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.mkdir(unfinished)
        with without_chatter():
            mindspore.save_checkpoint([{'name': name, 'data': Tensor(array)} for name, array in arrays.items()],
                                      written)
        os.chmod(written, 0o644)
        sync(written)
        os.replace(written, path)
        sync(folder or '.')
    except (OSError, RuntimeError, ValueError) as error:
        raise SaveError('the checkpoint %s cannot be written (%s): make room or choose another --ckpt_path'
                        % (path, error))
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def prune(folder, rank, keep):
    """Delete all but the newest `keep` checkpoints of this rank, and what a killed process left unfinished."""
    for name in os.listdir(folder):
        if name.startswith('%snasnet-a-mobile-rank%d-' % (UNFINISHED, rank)):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
        if name == UNFINISHED + BEST and rank == 0:         # which makes it, and is not making it now
            os.remove(os.path.join(folder, name))
    # By age: after a damaged newest one was passed over, the good ones have lower numbers.
    for path in sorted(list_checkpoints(folder, rank), key=os.path.getmtime)[:-keep]:
        os.remove(path)


def load(path):
    """Read a checkpoint -> Checkpoint(path, {name: array}, meta); meta is {} in files from elsewhere.

    Raises:
        UserError: no file, not a checkpoint, or damaged.
    """
    if not os.path.isfile(path):
        raise UserError('the checkpoint %s is not a file: give the path of a .ckpt file' % path)
    if not path.endswith('.ckpt'):
        raise UserError('%s does not end in .ckpt: give the path of a MindSpore checkpoint' % path)
    try:
        with without_chatter():
            parameters = mindspore.load_checkpoint(path)
        arrays = {name: parameter.asnumpy() for name, parameter in parameters.items()}
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        raise UserError('%s is not a MindSpore checkpoint or is damaged (%s): use another one'
                        % (path, str(error).strip().split('\n')[0]))
    meta = {}
    if 'meta' in arrays or 'digest' in arrays:
        if 'digest' not in arrays or not np.array_equal(arrays.pop('digest'), digest(arrays)):
            raise UserError('%s is damaged (its digest does not match its contents): use another checkpoint' % path)
        meta = json.loads(arrays.pop('meta').tobytes().decode())
    return Checkpoint(path, arrays, meta)


def keep_best(path):
    """Keep the checkpoint `path`, if it is there, as BEST in its folder, whatever is pruned later.

    Raises:
        SaveError: the folder cannot be written or the disk is full.
    """
    folder = os.path.dirname(path)
    best, unfinished = os.path.join(folder, BEST), os.path.join(folder, UNFINISHED + BEST)
    try:
        if not os.path.exists(path) or os.path.exists(best) and os.path.samefile(path, best):
            return
        if os.path.exists(unfinished):
            os.remove(unfinished)
        try:
            os.link(path, unfinished)       # checkpoints are never written to again
        except OSError:                     # a file system without links
            shutil.copyfile(path, unfinished)
            sync(unfinished)
        os.replace(unfinished, best)
        sync(folder or '.')
    except OSError as error:
        raise SaveError('%s cannot be written (%s): make room or choose another --ckpt_path' % (best, error.strerror))


def restore(checkpoint, network, weights=None, new_classes=False):
    """Set the parameters of `network`; optimizer state, and an auxiliary head it lacks, are left aside.

    Args:
        weights: 'raw', 'ema' (the moving averages), or None: the averages if there are any.
        new_classes: tensors of the classifiers that are missing or of another shape stay as they are.

    Returns:
        Names of the parameters that stay as they are.

    Raises:
        UserError: no moving averages; a missing or extra parameter, or another shape, named.
    """
    arrays = {name[len('ema.'):]: array for name, array in checkpoint.arrays.items() if name.startswith('ema.')}
    if weights == 'ema' and not arrays:
        raise UserError('%s has no moving averages: use --weights raw' % checkpoint.path)
    if weights == 'raw' or not arrays:
        arrays = {name: array for name, array in checkpoint.arrays.items() if not name.startswith(_STATE)}
    values = plain_values(network)
    wanted = {name: value.shape for name, value in values.items()}
    if not any(name.startswith('auxiliary_head.') for name in wanted):
        arrays = {name: array for name, array in arrays.items() if not name.startswith('auxiliary_head.')}
    kept = sorted(name for name, shape in wanted.items() if new_classes and name.startswith(_HEADS)
                  and (name not in arrays or arrays[name].shape != shape))
    for name in kept:
        wanted.pop(name)
        arrays.pop(name, None)
    remedy = 'it is a checkpoint of another network'
    for what, which in (('lacks', set(wanted) - set(arrays)), ('has unknown', set(arrays) - set(wanted))):
        if which:
            raise UserError('%s does not fit: it %s %s%s; %s'
                            % (checkpoint.path, what, min(which),
                               ' and %d more' % (len(which) - 1) if len(which) > 1 else '', remedy))
    for name, array in sorted(arrays.items()):
        shape = wanted[name]
        if array.shape != shape or array.dtype != np.float32:
            hint = 'set --num_classes %d' % array.shape[0] if name.startswith('classifier.') else remedy
            raise UserError('%s does not fit: %s is %s %s there, %s float32 in this network; %s'
                            % (checkpoint.path, name, array.shape, array.dtype, shape, hint))
    set_plain_values(network, dict(values, **arrays))
    return kept


def resume(which, folder, rank, config, images, network, *others):
    """Set network and `others` (optimizer, moving averages) from a checkpoint of the same run.

    Args:
        which: path of a checkpoint, or 'auto': the newest good one of `folder`; damaged ones are named.
        images: training images of the data set.

    Returns:
        Its meta with its 'path'; {} to start fresh, without any checkpoint in `folder`.

    Raises:
        UserError: it is damaged, as are all in `folder`, or of a run that differs in a configuration key that
            matters.
    """
    loaded = load(which) if which != 'auto' else None
    # Rank 0's where they are at hand, so that all ranks take the same: a kill may come between two ranks' writes.
    found = (list_checkpoints(folder, 0) or list_checkpoints(folder, rank)) if which == 'auto' else []
    for path in reversed(found):
        try:
            loaded = load(path)
            break
        except UserError as error:
            print('warning: %s' % error, file=sys.stderr, flush=True)
    if found and loaded is None:
        raise UserError('none of the %d checkpoints in %s can be used, see above: bring a good one, or start anew in '
                        'another --ckpt_path' % (len(found), folder))
    if loaded is None:
        return {}
    if 'sums' not in loaded.meta:
        raise UserError('%s holds no position to resume from: it was not written by train.py' % loaded.path)
    there = dict(nasnet_a_mobile_config_gpu, **loaded.meta['config'])      # an older file knows fewer keys
    differing = ['%s %r there, %r here' % (key, value, getattr(config, key, None))
                 for key, value in sorted(there.items())
                 if key not in free_on_resume and getattr(config, key, None) != value]
    if loaded.meta['images'] != images:
        differing.append('%d training images there, %d here' % (loaded.meta['images'], images))
    if differing:
        raise UserError('%s is of another run (%s): set the same values, or start anew in another --ckpt_path'
                        % (loaded.path, '; '.join(differing)))
    restore(loaded, network, 'raw')
    for other in others:
        other.load_state(join(loaded.arrays, other.state()))
    return dict(loaded.meta, path=loaded.path)


def network_config(checkpoint):
    """The configuration keys that say which network a checkpoint is of; {} for files from elsewhere."""
    keys = ('num_classes', 'image_size', 'penultimate_filters', 'cells_per_stage')
    return {key: value for key, value in checkpoint.meta.get('config', {}).items() if key in keys}


def digest(arrays):
    """SHA-256 of names, types, shapes and values of {name: array}, (32,) uint8."""
    result = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        result.update(('%s %s %s;' % (name, array.dtype, array.shape)).encode())
        result.update(array.tobytes())
    return np.frombuffer(result.digest(), np.uint8)
