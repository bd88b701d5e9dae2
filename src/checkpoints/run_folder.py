"""What a training run keeps in its folder (ckpt_path): checkpoints, the best one, and the class list.

metrics.csv lies there too; src/training/monitor.py writes it.
"""
import os
import re
import shutil
import sys
from collections import namedtuple

from src.checkpoints.checkpoint import REMEDY, load, restore
from src.config import free_on_resume, nasnet_a_mobile_config_gpu
from src.errors import UserError
from src.files import remove_leftovers, whole_file, write_text
from src.network.merge import join

BEST = 'nasnet-a-mobile-best.ckpt'
CLASS_NAMES = 'classes.txt'

# Where a run goes on: the number of whole epochs that are done; of the epoch that is not, (steps that are done, sum
# of their losses, sum of their gradient norms); the rows of metrics.csv; the path of the checkpoint, or None.
Position = namedtuple('Position', 'epoch sums rows path')
START = Position(0, (0, 0.0, 0.0), (), None)


def checkpoint_path(folder, rank, epoch, step):
    """FOLDER/nasnet-a-mobile-rank{rank}-{epoch}_{step}.ckpt: `step` steps of `epoch` (from 1) are done."""
    return os.path.join(folder, 'nasnet-a-mobile-rank%d-%d_%d.ckpt' % (rank, epoch, step))


def list_checkpoints(folder, rank):
    """Paths of the checkpoints that a rank has written, sorted by epoch and step."""
    pattern = re.compile(r'nasnet-a-mobile-rank%d-(\d+)_(\d+)\.ckpt$' % rank)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [match for match in map(pattern.match, names) if match]
    return [os.path.join(folder, match.group(0))
            for match in sorted(found, key=lambda match: (int(match.group(1)), int(match.group(2))))]


def open_folder(folder, rank, resuming):
    """Make the folder of a run. An earlier run's checkpoints in it must not be overwritten by mistake.

    Raises:
        UserError: the folder cannot be used, or holds checkpoints and this run does not go on from one.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        best = os.path.join(folder, BEST)
        taken = list_checkpoints(folder, rank) or [best] * os.path.exists(best)
    except OSError as error:
        raise UserError('the checkpoint folder %s cannot be used (%s): choose another --ckpt_path'
                        % (folder, error.strerror))
    if taken and not resuming:
        raise UserError('%s is of an earlier run: go on with it by --resume auto, or choose another --ckpt_path'
                        % taken[-1])


def check_room(folder, arrays, copies=1):
    """UserError if the disk of `folder` has no room for `copies` checkpoints of {name: array}."""
    needed = copies * sum(array.nbytes for array in arrays.values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError('the disk of %s has %d MiB free, a checkpoint takes %d MiB: make room or choose another '
                        '--ckpt_path' % (folder, free >> 20, needed >> 20))


def prune(folder, rank, keep):
    """Delete all but the `keep` newest checkpoints of a rank, and what killed processes left unfinished."""
    remove_leftovers(folder)
    # By age, not by number: after a damaged newest checkpoint was passed over, the good ones have lower numbers.
    for path in sorted(list_checkpoints(folder, rank), key=os.path.getmtime)[:-keep]:
        os.remove(path)


def keep_best(path):
    """Keep the checkpoint `path`, if it exists, under the name BEST in its folder, so that it is never pruned.

    Raises:
        SaveError: the folder cannot be written or the disk is full.
    """
    best = os.path.join(os.path.dirname(path), BEST)
    if not os.path.exists(path) or os.path.exists(best) and os.path.samefile(path, best):
        return
    with whole_file(best, REMEDY) as unfinished:
        try:
            os.link(path, unfinished)       # a checkpoint is never written to again, so a link is enough
        except OSError:                     # a file system without links
            shutil.copyfile(path, unfinished)


def save_class_names(path, names):
    """Write one name in each line of `path`, whole or not at all.

    Raises:
        SaveError: the file cannot be written.
    """
    write_text(path, ''.join(name + '\n' for name in names), 'choose another folder')


def load_class_names(path):
    """The list that `save_class_names` wrote.

    Raises:
        UserError: the file cannot be read, or is no list of different names.
    """
    try:
        with open(path, encoding='utf-8', errors='surrogateescape', newline='\n') as file:
            names = file.read().split('\n')
    except OSError as error:
        raise UserError('the class list %s cannot be read (%s): give the one that training wrote'
                        % (path, error.strerror))
    if names.pop() or not names or len(set(names)) < len(names) or '' in names:
        raise UserError('%s is not a list of different class names, one a line: '
                        'give the one that training wrote' % path)
    return names


def find_checkpoint(which, folder, rank):
    """The checkpoint that --resume asks for, loaded; None if `which` is 'auto' and `folder` holds none.

    Args:
        which: the path of a checkpoint, or 'auto': the newest good one in `folder`. Damaged ones are named on stderr.

    Raises:
        UserError: the checkpoint is damaged, or all in `folder` are.
    """
    if which != 'auto':
        return load(which)
    # All ranks prefer rank 0's file: a kill can leave the ranks' own files at different steps.
    found = list_checkpoints(folder, 0) or list_checkpoints(folder, rank)
    for path in reversed(found):
        try:
            return load(path)
        except UserError as error:
            print('warning: %s' % error.sentence, file=sys.stderr, flush=True)
    if found:
        raise UserError('none of the %d checkpoints in %s can be used, see above: bring a good one, or start a new '
                        'run in another --ckpt_path' % (len(found), folder))
    return None


def resume(checkpoint, config, images, network, *parts):
    """Set a network and `parts` (optimizer, loss scale, moving averages) from a checkpoint of the same run.

    Args:
        checkpoint: a Checkpoint.
        images: number of training images.

    Returns:
        The Position to go on from.

    Raises:
        UserError: the checkpoint holds no position, or its run differs in the number of images or in a
            configuration key that a resumed run may not change.
    """
    meta = checkpoint.meta
    if 'sums' not in meta:
        raise UserError('%s holds no position to resume from: it was not written by train.py' % checkpoint.path)
    there = dict(nasnet_a_mobile_config_gpu, **meta['config'])      # an older file has fewer keys
    differing = ['%s %r there, %r here' % (key, value, getattr(config, key, None))
                 for key, value in sorted(there.items())
                 if key not in free_on_resume and getattr(config, key, None) != value]
    if meta['images'] != images:
        differing.append('%d training images there, %d here' % (meta['images'], images))
    if differing:
        raise UserError('%s is of another run (%s): set the same values, or start a new run in another --ckpt_path'
                        % (checkpoint.path, '; '.join(differing)))
    restore(checkpoint, network, 'raw')
    for part in parts:
        part.load_state(join(checkpoint.arrays, part.state()))
    return Position(meta['epoch'], tuple(meta['sums']), meta.get('rows', ()), checkpoint.path)
