"""Files that are whole or absent, whatever kills the process or fills the disk; digests of arrays.

A file is first written under another name: into a hidden folder beside its target. It is flushed to the disk and
then renamed, which the file system does in one step. A reader sees the old file or the new one and nothing between.
Who may read it, the user's umask says. No mode is changed, because some file systems refuse that.
"""
import errno
import hashlib
import os
import shutil
import socket
import time
from contextlib import contextmanager

import numpy as np

from src.errors import UserError

UNFINISHED = '.unfinished-'     # a folder .unfinished-NAME-HOST-PID holds files that process PID is writing
FOREIGN_AGE = 86400             # seconds after which an unfinished folder of another host is taken as abandoned
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What file systems answer that cannot flush a file or a folder (FUSE, SMB, object stores), and what the system answers
# for a folder in which this user may write but whose list of files it may not read. A failing disk answers EIO.
_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)


class SaveError(UserError):
    """A file could not be written."""


def save_error(path, error, remedy):
    """SaveError for an OSError. The remedy fits the cause: to make room helps only where the disk is full.

    Args:
        path: the file that could not be written.
        error: the OSError.
        remedy: what else the user can do, the end of the sentence.
    """
    return SaveError('%s cannot be written (%s): %s%s' % (path, error.strerror or error,
                                                          'make room or ' * (error.errno in _DISK_FULL), remedy))


@contextmanager
def unfinished_folder(folder, remedy, name='files'):
    """Yield the path of a new hidden folder. When the block ends, its files appear in `folder`, each of them whole.

    An earlier file of the same name is replaced. If the block raises, `folder` stays as it was. What killed
    processes left unfinished in `folder` is removed first.

    Args:
        folder: an existing folder.
        remedy: the end of the error sentence, for example 'choose another --ckpt_path'.
        name: what is written, for the name of the hidden folder.

    Raises:
        SaveError: the folder cannot be written or the disk is full.
    """
    unfinished = os.path.join(folder, '%s%s-%s-%d' % (UNFINISHED, name, socket.gethostname(), os.getpid()))
    try:
        remove_leftovers(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
        os.mkdir(unfinished)
        yield unfinished
        for written in sorted(os.listdir(unfinished)):
            source = os.path.join(unfinished, written)
            sync(source)
            os.replace(source, os.path.join(folder, written))
        sync(folder)
    except OSError as error:
        raise save_error(os.path.join(folder, name) if name != 'files' else folder, error, remedy)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def whole_file(path, remedy):
    """Yield a path to write to. When the block ends, `path` is that file; if the block raises, it is as it was.

    Raises:
        SaveError: the folder cannot be written or the disk is full.
    """
    folder, name = os.path.split(path)
    with unfinished_folder(folder or '.', remedy, name) as unfinished:
        yield os.path.join(unfinished, name)


def prepare_folder(folder, remedy):
    """Make `folder` if it does not exist, and try to write in it. Call it before long work whose result goes there.

    Args:
        folder: its path; an empty path is the working folder.
        remedy: the end of the error sentence.

    Raises:
        SaveError: it cannot be made or written.
    """
    folder = folder or '.'
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise save_error(folder, error, remedy)
    with unfinished_folder(folder, remedy):
        pass


def write_text(path, text, remedy):
    """Write `text` as UTF-8 to `path`. A kill or a power cut leaves the old file or the new one.

    Raises:
        SaveError: the folder cannot be written or the disk is full. `path` is as it was.
    """
    with whole_file(path, remedy) as unfinished:
        with open(unfinished, 'w', encoding='utf-8', errors='surrogateescape', newline='') as file:
            file.write(text)


def append(path, data, remedy):
    """Append bytes to a file, all of them or none, and wait until the disk holds them. A kill may leave a part of them.

    Raises:
        SaveError: the file cannot be written or the disk is full. It is as it was.
    """
    try:
        is_new = not os.path.exists(path)
        with open(path, 'ab', buffering=0) as file:
            size, rest = file.seek(0, os.SEEK_END), memoryview(data)
            try:
                while rest:
                    rest = rest[file.write(rest):]
                sync(path)
            except OSError:
                os.remove(path) if is_new else file.truncate(size)
                raise
    except OSError as error:
        raise save_error(path, error, remedy)


def remove_leftovers(folder):
    """Remove what processes left unfinished in `folder` when they were killed.

    A folder of a living process stays. Whether a process of another host lives cannot be asked, so its folder stays
    for a day.
    """
    for name in os.listdir(folder):
        if not name.startswith(UNFINISHED):
            continue
        path = os.path.join(folder, name)
        head, _, process = name.rpartition('-')
        try:
            if process.isdigit() and head.endswith('-' + socket.gethostname()):
                abandoned = not _is_alive(int(process))
            else:
                abandoned = os.path.getmtime(path) < time.time() - FOREIGN_AGE
        except OSError:         # its process has removed it
            continue
        if abandoned:
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:     # it lives, and belongs to another user
        pass
    return True


def sync(path):
    """Wait until the disk holds what was written to a file, or a folder's list of files, if it can say so."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise


def digest(arrays):
    """SHA-256 over the names, dtypes, shapes and bytes of {name: array}, (32,) uint8."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(('%s %s %s;' % (name, array.dtype, array.shape)).encode())
        total.update(array.tobytes())
    return np.frombuffer(total.digest(), np.uint8)
