"""Checkpoint files: whole or absent, checked on the way in, readable by plain mindspore.load_checkpoint.

A file holds every parameter of the network under its own name, the optimizer's state as
mean_square.NAME and moment.NAME, `meta` (JSON as uint8: configuration, epoch, step) and `digest`
(SHA-256 of all the rest), because MindSpore notices neither a flipped bit nor a lost record.
"""
import hashlib
import json
import os
import re
import shutil
import sys
from collections import namedtuple

import numpy as np

from src.config import free_on_resume
from src.errors import UserError
from src.framework import Tensor, mindspore, without_chatter

Checkpoint = namedtuple('Checkpoint', 'path arrays meta')
UNFINISHED = '.unfinished-'      # a checkpoint in the making is in a folder of this name and its own
_STATE = ('mean_square.', 'moment.')


class SaveError(UserError):
    """A checkpoint could not be written."""


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


def check_room(folder, network):
    """UserError if the disk of `folder` cannot take one checkpoint of `network` (three times its size)."""
    needed = 12 * sum(p.size for p in network.get_parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError('the disk of %s has %d MiB free, a checkpoint takes %d MiB: make room or choose another '
                        '--ckpt_path' % (folder, free >> 20, needed >> 20))


def save(path, network, optimizer, meta):
    """Write a checkpoint under another name, then move it to `path`: a kill leaves the old file or the new.

    Raises:
        SaveError: the folder cannot be written or the disk is full; `path` is as it was.
        UserError: a value is not finite; likewise.
    """
    arrays = {p.name: p.asnumpy() for p in network.get_parameters()}
    arrays.update(optimizer.state())
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError('%s is not finite any more: training has diverged, %s is not written; lower --lr_init '
                            'and go on from an earlier checkpoint' % (name, path))
    arrays['meta'] = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8)
    arrays['digest'] = _digest(arrays)
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
        _sync(written)
        os.replace(written, path)
        _sync(folder or '.')
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
        if 'digest' not in arrays or not np.array_equal(arrays.pop('digest'), _digest(arrays)):
            raise UserError('%s is damaged (its digest does not match its contents): use another checkpoint' % path)
        meta = json.loads(arrays.pop('meta').tobytes().decode())
    return Checkpoint(path, arrays, meta)


def restore(checkpoint, network):
    """Set every parameter of `network`; optimizer state, and an auxiliary head it lacks, are left aside.

    Raises:
        UserError: a missing or extra parameter, or another shape, named.
    """
    wanted = {p.name: p for p in network.get_parameters()}
    names = {name for name in checkpoint.arrays if not name.startswith(_STATE)}
    if not any(name.startswith('auxiliary_head.') for name in wanted):
        names = {name for name in names if not name.startswith('auxiliary_head.')}
    remedy = 'it is a checkpoint of another network'
    for what, which in (('lacks', set(wanted) - names), ('has unknown', names - set(wanted))):
        if which:
            raise UserError('%s does not fit: it %s %s%s; %s'
                            % (checkpoint.path, what, min(which),
                               ' and %d more' % (len(which) - 1) if len(which) > 1 else '', remedy))
    for name in sorted(names):
        array, parameter = checkpoint.arrays[name], wanted[name]
        if array.shape != tuple(parameter.shape) or array.dtype != np.float32:
            hint = 'set --num_classes %d' % array.shape[0] if name.startswith('classifier.') else remedy
            raise UserError('%s does not fit: %s is %s %s there, %s float32 in this network; %s'
                            % (checkpoint.path, name, array.shape, array.dtype, tuple(parameter.shape), hint))
    for name in names:
        wanted[name].set_data(Tensor(checkpoint.arrays[name]))


def resume(which, folder, rank, config, images, network, optimizer):
    """Set network and optimizer from a checkpoint of the same run; returns its meta, {} to start fresh.

    Args:
        which: path of a checkpoint, or 'auto': the newest good one of `folder`; damaged ones are named.
        images: training images of the data set.

    Raises:
        UserError: the checkpoint is damaged or of a run that differs in a configuration key that matters.
    """
    loaded = load(which) if which != 'auto' else None
    for path in reversed(list_checkpoints(folder, rank)) if which == 'auto' else ():
        try:
            loaded = load(path)
            break
        except UserError as error:
            print('warning: %s' % error, file=sys.stderr, flush=True)
    if loaded is None:
        return {}
    if 'sums' not in loaded.meta:
        raise UserError('%s holds no position to resume from: it was not written by train.py' % loaded.path)
    differing = ['%s %r there, %r here' % (key, value, getattr(config, key, None))
                 for key, value in sorted(loaded.meta['config'].items())
                 if key not in free_on_resume and getattr(config, key, None) != value]
    if loaded.meta['images'] != images:
        differing.append('%d training images there, %d here' % (loaded.meta['images'], images))
    if differing:
        raise UserError('%s is of another run (%s): set the same values, or start anew in another --ckpt_path'
                        % (loaded.path, '; '.join(differing)))
    restore(loaded, network)
    optimizer.load_state(loaded.arrays)
    return dict(loaded.meta, path=loaded.path)


def network_config(checkpoint):
    """The configuration keys that say which network a checkpoint is of; {} for files from elsewhere."""
    keys = ('num_classes', 'image_size', 'penultimate_filters', 'cells_per_stage')
    return {key: value for key, value in checkpoint.meta.get('config', {}).items() if key in keys}


def _digest(arrays):
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(('%s %s %s;' % (name, array.dtype, array.shape)).encode())
        digest.update(array.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
