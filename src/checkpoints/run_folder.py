"""What a training run keeps in its folder (ckpt_path): checkpoints, the best one, and the class list.

The curves lie there too; src/training/metrics.py and events.py write them.
"""
import atexit
import codecs
import errno
import fcntl
import os
import re
import shutil
import socket
import sys
from collections import namedtuple

from src.checkpoints.checkpoint import REMEDY, load, restore
from src.config import choices, free_on_resume, nasnet_a_mobile_config_gpu
from src.errors import UserError
from src.files import remove_leftovers, whole_file, write_text
from src.input.folders import look_alike
from src.network.merge import join

BEST = 'nasnet-a-mobile-best.ckpt'
CLASS_NAMES = 'classes.txt'

LOCK = '.lock'
PARTIAL = 3         # checkpoints within an epoch that are kept: the newest, and two in case it is damaged

# Where a run goes on: the number of whole epochs that are done; of the epoch that is not, (steps that are done, sum
# of their losses, sum of their gradient norms); the rows of metrics.csv; the path of the checkpoint, or None; the id
# of the run; {library: version} that wrote the checkpoint.
Position = namedtuple('Position', 'epoch sums rows path run versions')
START = Position(0, (0, 0.0, 0.0), (), None, None, {})


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


class RunFolder:
    """The folder of a run, which one run at a time owns.

    The owner holds a lock (flock) on the file .lock in the folder until its process ends, however it ends, so the
    lock of a dead process is no obstacle. Linux makes flock work on NFS across machines too. A file system that has
    no locks is used without one, and stderr says so: a lock file that must be deleted by hand would stop every run
    that goes on after a crash.

    Args:
        folder: path of the folder; it is made if it does not exist.
        rank: whose checkpoints are looked for.
        position: the Position that this run goes on from, or START.
        resuming: whether the run was started with --resume.

    Raises:
        UserError: the folder cannot be used, another run owns it, or it holds checkpoints of another run.
    """

    def __init__(self, folder, rank, position, resuming):
        self.lock = None
        make_folder(folder)
        try:
            self._lock(os.path.join(folder, LOCK))
        except OSError as error:
            raise _unusable(folder, error)
        try:        # only the owner looks: another run could still write while it looks
            best = os.path.join(folder, BEST)
            taken = list_checkpoints(folder, rank) or [best] * os.path.exists(best)
            if taken and not resuming:
                raise UserError('%s is of an earlier run: go on with it by --resume auto, or choose another '
                                '--ckpt_path' % taken[-1])
            if position.path and os.path.dirname(os.path.abspath(position.path)) != os.path.abspath(folder):
                _require_run(taken, position)
        except UserError:
            self.release()
            raise

    def _lock(self, path):
        while True:
            lock = open(path, 'a+')
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    lock.seek(0)
                    raise UserError('another run owns the folder %s (%s): wait for its end, or choose another '
                                    '--ckpt_path' % (os.path.dirname(path), lock.read().strip() or 'unknown'))
                print('warning: the file system of %s has no locks (%s): do not start a second run there'
                      % (path, error.strerror), file=sys.stderr, flush=True)
                lock.close()
                return
            try:
                current = os.path.samestat(os.stat(path), os.fstat(lock.fileno()))
            except FileNotFoundError:
                current = False
            if current:
                break
            lock.close()        # its last owner has just removed this file: take the lock of a new one
        lock.truncate(0)
        lock.write('process %d on %s\n' % (os.getpid(), socket.gethostname()))
        lock.flush()
        self.lock = lock
        atexit.register(self.release)

    def release(self):
        """Give the folder back at the end of a run, and remove the lock's file."""
        if self.lock:
            try:
                os.remove(self.lock.name)       # first: whoever waits for the lock finds out and opens a new file
            except OSError:
                pass
            self.lock.close()
            self.lock = None


def make_folder(folder):
    """Make the folder of a run if it does not exist; UserError if that cannot be done."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error)


def _unusable(folder, error):
    return UserError('the checkpoint folder %s cannot be used (%s): choose another --ckpt_path'
                     % (folder, error.strerror))


def _require_run(paths, position):
    """UserError if the newest readable checkpoint of `paths` is not of the run that `position` goes on."""
    for path in reversed(paths):
        try:
            there = load(path).meta.get('run')
        except UserError:
            continue
        if there != position.run:
            raise UserError('%s is of another run than %s: choose another --ckpt_path' % (path, position.path))
        return


def check_room(folder, arrays, copies=1):
    """UserError if the disk of `folder` has no room for `copies` checkpoints of {name: array}.

    A disk of 0 bytes is that of a file system which does not know its size, for example an object store.
    """
    needed = copies * sum(array.nbytes for array in arrays.values())
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < needed:
        raise UserError('the disk of %s has %d MiB free, a checkpoint takes %d MiB: make room or choose another '
                        '--ckpt_path' % (folder, disk.free >> 20, needed >> 20))


def prune(folder, rank, keep, written, steps):
    """Delete old checkpoints of a rank, and what killed processes left unfinished.

    The `keep` newest checkpoints at the end of an epoch stay, and the PARTIAL newest within an epoch. The number in
    the name says which is newer, because a clock may be wrong. Numbers above that of `written` belong to a part of
    the run that was left when it went on from an earlier checkpoint; they count as the oldest.

    Args:
        written: path of the checkpoint that has just been written; it always stays.
        steps: number of steps of an epoch.
    """
    remove_leftovers(folder)
    paths = list_checkpoints(folder, rank)
    newest = paths.index(written) + 1
    paths = paths[newest:] + paths[:newest]
    whole = [path for path in paths if path.endswith('_%d.ckpt' % steps)]
    partial = [path for path in paths if path not in whole]
    for path in whole[:-keep] + partial[:-min(keep, PARTIAL)]:
        if path != written:
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
    """The list that `save_class_names` wrote, also after an editor or a copy on Windows.

    Such programs put a mark at the beginning, write UTF-16, end lines with CR and LF, or leave out the last line end.

    Raises:
        UserError: the file cannot be read, or is no list of different names.
    """
    try:
        with open(path, 'rb') as file:
            content = file.read()
    except OSError as error:
        raise UserError('the class list %s cannot be read (%s): give the one that training wrote'
                        % (path, error.strerror))
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode('utf-16', 'replace') if wide else content.decode('utf-8', 'surrogateescape')
    names = text.lstrip('\ufeff').replace('\r\n', '\n').rstrip('\n').split('\n')
    lines = {}
    for line, name in enumerate(names, 1):
        if not name or lines.setdefault(name, line) != line:
            raise UserError('%s is not a list of different class names, one a line (line %d is %s): give the one that '
                            'training wrote' % (path, line, 'the same as line %d' % lines[name] if name else 'empty'))
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


def resume(checkpoint, config, dataset, other_images, network, *parts):
    """Set a network and `parts` (optimizer, loss scale, moving averages) from a checkpoint of the same run.

    Args:
        checkpoint: a Checkpoint.
        dataset: the ImageFolder of the training images.
        other_images: whether the run may go on with other images of the same classes.

    Returns:
        The Position to go on from.

    Raises:
        UserError: the checkpoint holds no position, or its run differs in the classes, the images, or a configuration
            key that a resumed run may not change.
    """
    meta = checkpoint.meta
    if 'sums' not in meta:
        raise UserError('%s holds no position to resume from: it was not written by train.py' % checkpoint.path)
    there = dict(nasnet_a_mobile_config_gpu, **meta['config'])      # an older file has fewer keys
    differing = ['%s %r there, %r here' % (key, value, getattr(config, key, None))
                 for key, value in sorted(there.items())
                 if key not in free_on_resume and getattr(config, key, None) != value]
    differing += _differing_data(meta, dataset, other_images)
    gone = [key for key in choices if there[key] not in choices[key]]
    if gone:
        raise UserError('%s has %s %s, which this version no longer offers: start a new run with --pretrained %s'
                        % (checkpoint.path, gone[0], there[gone[0]], checkpoint.path))
    if differing:
        raise UserError('%s is of another run (%s): set the same values, or start a new run in another --ckpt_path'
                        % (checkpoint.path, '; '.join(differing)))
    restore(checkpoint, network, 'raw')
    for part in parts:
        part.load_state(join(checkpoint.arrays, part.state()))
    return Position(meta['epoch'], tuple(meta['sums']), meta.get('rows', ()), checkpoint.path, meta.get('run'),
                    meta.get('versions', {}))


def _differing_data(meta, dataset, other_images):
    """What differs between the training data of a checkpoint and of this run, a list of texts."""
    names = meta.get('class_names', dataset.class_names)        # an older file holds only the number of images
    if names != dataset.class_names:
        there, here = sorted(set(names) - set(dataset.class_names)), sorted(set(dataset.class_names) - set(names))
        show = repr if not any(look_alike(name, here) for name in there) else ascii
        return ['%d classes there, %d here; only there: %s; only here: %s'
                % (len(names), len(dataset.class_names), ', '.join(map(show, there[:3])) or 'none',
                   ', '.join(map(show, here[:3])) or 'none')]
    if other_images:
        return []
    files = dataset.describe()
    if meta['images'] != dataset.num_images:
        return ['%d training images there, %d here; --other_images True accepts them' % (meta['images'],
                                                                                        dataset.num_images)]
    if meta.get('files', files) != files:
        return ['training images: %s there, %s here; --other_images True accepts them' % (meta['files'], files)]
    return []
