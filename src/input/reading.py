"""Reading one file: an image that is bad is told apart from a file system that fails for a moment.

A bad image is a property of its file, and stays so: the file does not exist, is a folder, or the decoder refuses its
bytes. Everything else (an input/output error, a stale handle, too many open files, a whole folder that is away) is
a property of the moment. Such a reading is tried again. If it still fails, the run must end: the file may be good,
and a training that goes on without it would be another training.
"""
import errno
import os
import stat
import threading

from src.errors import UserError

# Seconds between two attempts, 12.75 in total. A server that restarts needs longer, but then a network file system
# that is mounted "hard" (the default of NFS) lets a reader wait by itself and reports no error.
PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)


def read(path, function, stop=None):
    """Apply a function to the bytes of a file.

    Args:
        path: path of the file.
        function: takes bytes. It raises an exception with a reason, usually a ValueError, if it cannot use them.
        stop: None, or a threading.Event that ends the pauses between attempts early.

    Returns:
        (result of the function, None), or (None, reason) if the file itself is bad. The reason is a str.

    Raises:
        UserError: the file could not be read in all attempts, but this is not the file's own fault; or `stop` was
            set while this function waited.
    """
    stop = stop or threading.Event()
    already_blamed, number = False, None
    for pause in PAUSES + (None,):
        try:
            with open(path, 'rb', buffering=0) as file:
                data = file.read()
            return _apply(function, data)
        except MemoryError:
            number, reason, blamed = errno.ENOMEM, os.strerror(errno.ENOMEM), False
        except OSError as error:
            number, reason, blamed = error.errno, error.strerror or str(error), is_own_fault(path, error)
        # Between the error and the look at the folder, the folder may have come back. So the file is blamed only when
        # a second attempt has the same end.
        if blamed and already_blamed:
            return None, reason
        already_blamed = blamed
        if pause is None or stop.wait(pause):
            break
    if number == errno.ENOENT and os.path.islink(path) and not stop.is_set():
        return None, reason     # After all attempts it is still a link to nothing, and such a link is a bad image.
    raise UserError('%s cannot be read (%s%s), also not in %d attempts over %.0f seconds: make the file system work '
                    'again or remove the file, then start again (a training with --resume auto)'
                    % (path, reason, _away(path), len(PAUSES) + 1, sum(PAUSES)))


def _apply(function, data):
    """Return (function(data), None), or (None, reason) if it raises."""
    try:
        return function(data), None
    except MemoryError:
        raise
    except Exception as error:      # Libraries raise errors of any type on damaged files.
        return None, str(error) or type(error).__name__


def is_own_fault(path, error):
    """Decide whether an error tells something about this file, or about the file system at this moment.

    Args:
        path: path of the file.
        error: the OSError of an attempt to open or read it.

    Returns:
        True: the file does not exist although its folder is there, or it is a folder, a link to itself, not a
        regular file, or a file that this user may not read. False: any other error.
    """
    if error.errno in (errno.ELOOP, errno.EISDIR):
        return True
    if error.errno == errno.ENOENT:
        return _has_entries(_folder(path))
    try:
        mode = os.stat(path).st_mode
    except OSError:             # A file in a folder that may not be searched at this moment, for example.
        return False
    return error.errno in (errno.EACCES, errno.EPERM) or not stat.S_ISREG(mode)


def _folder(path):
    """Return the folder of a file, and of a link's target if it is a link."""
    return os.path.dirname(os.path.realpath(path))


def _has_entries(folder):
    """Whether a folder is there and holds something. The place of a file system that is not mounted is empty."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _away(path):
    """Return what the error sentence adds if the whole folder of a file is away."""
    folder = _folder(path)
    return '' if _has_entries(folder) else '; its folder %s is empty or away' % folder
