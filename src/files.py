"""Files that are whole or absent, whatever kills the process or fills the disk."""
import os

from src.errors import UserError


class SaveError(UserError):
    """A file of the run could not be written."""


def write_text(path, text, remedy):
    """Write `text` to `path`: a kill or a power cut leaves the old file or the new.

    Raises:
        SaveError: the folder cannot be written or the disk is full; `path` is as it was. `remedy` ends the sentence.
    """
    unfinished = '%s.%d' % (path, os.getpid())      # several ranks may share the folder
    try:
        with open(unfinished, 'w', encoding='utf-8', errors='surrogateescape', newline='') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync(os.path.dirname(path) or '.')
    except OSError as error:
        if os.path.exists(unfinished):
            os.remove(unfinished)
        raise SaveError('%s cannot be written (%s): %s' % (path, error.strerror, remedy))


def sync(path):
    """Have the disk hold what was written to a file, or a folder's list of files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
