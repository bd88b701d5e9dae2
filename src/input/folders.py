"""What lies in the folder of a data set: the class folders and their images, and entries that are no part of it."""
import errno
import os
import sys
import unicodedata

from src.errors import UserError, one_line
from src.progress import Progress

EXTENSIONS = ('.jpeg', '.jpg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff')
# What no person has made: the folders that file systems (ext4, Windows), archives (macOS) and network disks (Synology,
# QNAP) put beside the folders of their users. Lower case.
SYSTEM_FOLDERS = ('lost+found', '$recycle.bin', 'system volume information', '__macosx', '@eadir', '#recycle',
                  '#snapshot', '@recycle')


def scan(path, shown=True):
    """List the images of a data set.

    What a person may have meant to be a part of the data set is named on stderr: images in folders inside a class
    folder, and links that lead to nothing or to themselves.

    Args:
        path: folder that holds one folder for each class. Hidden entries, SYSTEM_FOLDERS and other files are ignored.
        shown: whether the progress is shown.

    Returns:
        ({class name: sorted list of file names}, number of ignored entries). The classes are sorted by name.

    Raises:
        UserError: `path` is not a readable folder or holds no class folder; a class has no images or a name with a
            line end; two classes have names that look the same.
    """
    if not os.path.exists(path):
        raise UserError('the data set %s does not exist: '
                        'give a folder with one folder of images per class' % path)
    if not os.path.isdir(path):
        raise UserError('the data set %s is a file: '
                        'give a folder with one folder of images per class' % path)
    try:
        with os.scandir(path) as entries:
            entries = list(entries)
        classes = sorted(entry.name for entry in entries if _is_folder(entry) and not _is_ignored(entry.name))
        broken = sorted(entry.path for entry in entries if entry.is_symlink() and not os.path.exists(entry.path)
                        and not _is_ignored(entry.name))
        folders, ignored, nested = {}, len(entries) - len(classes), []
        with Progress('listing the images of %s' % path, len(classes), 'folders', shown=shown) as progress:
            for name in classes:
                folders[name], others = _list(os.path.join(path, name))
                ignored += len(others)
                nested += nested_images(others)
                progress.update()
    except OSError as error:
        remedy = 'allow this user to read it' if error.errno in (errno.EACCES, errno.EPERM) else \
            'make the file system work again, then start again'
        raise UserError('%s cannot be read (%s): %s' % (error.filename, error.strerror, remedy))
    _require_classes(path, folders, nested)
    if shown:
        _warn('links in %s lead to nothing' % path, broken, 'mend or remove them')
        _warn('folders inside the class folders of %s hold images, which are not used' % path, nested,
              'move these images up into the class folder')
    return folders, ignored


def list_images(folder):
    """List the entries of one folder that are images by their name, without hidden files.

    Args:
        folder: path of the folder.

    Returns:
        (sorted list of file names, number of the other entries).

    Raises:
        OSError: the folder cannot be read.
    """
    names, others = _list(folder)
    return names, len(others)


def _list(folder):
    """Return (sorted names of the images of one folder, entries of os.scandir of everything else)."""
    names, others = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            # "Not a folder" instead of "a file": a link whose target is missing must be reported later, not ignored.
            if _is_image(entry.name) and not _is_folder(entry):
                names.append(entry.name)
            else:
                others.append(entry)
    return sorted(names), others


def nested_images(entries):
    """List the paths of the folders among `entries` of os.scandir, and in them, that hold images; sorted."""
    found = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        if not _is_ignored(entry.name) and entry.is_dir(follow_symlinks=False):
            for path, folders, files in os.walk(entry.path):
                folders[:] = sorted(name for name in folders if not _is_ignored(name))
                found += [path] * any(map(_is_image, files))
    return found


def look_alike(name, names):
    """Return the first of `names` that a person may take for `name`, or None.

    It differs only in capital letters, in spaces around it, or in the form of its letters: macOS writes an accented
    letter as two characters (Unicode's form NFD), other systems write it as one (NFC).
    """
    return next((other for other in names if other != name and _plain(other) == _plain(name)), None)


def _plain(name):
    return unicodedata.normalize('NFC', name).strip().casefold()


def _is_folder(entry):
    """Whether an entry of os.scandir is a folder. A link that leads to itself is none; it is reported later."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _is_image(name):
    return name.lower().endswith(EXTENSIONS) and not _is_ignored(name)


def _is_ignored(name):
    return name.startswith('.') or name.lower() in SYSTEM_FOLDERS


def _require_classes(path, folders, nested):
    """UserError if {class name: files} of a data set is not what labels can be made of."""
    if not folders:
        raise UserError('the data set %s has no class folder: '
                        'put the images into one folder per class' % path)
    seen = {}
    for name, files in folders.items():
        folder = os.path.join(path, name)
        if one_line(name) != name:
            raise UserError('the class folder %s has a line end in its name: rename it' % folder)
        other = seen.setdefault(unicodedata.normalize('NFC', name), name)
        if other != name:
            raise UserError('two class folders of %s have names that look the same, %a and %a: put their images into '
                            'one of them' % (path, other, name))
        if not files:
            below = next((below for below in nested if below.startswith(folder + os.sep)), None)
            if below:
                raise UserError('the class folder %s has no image itself, but %s has: give %s if its folders are the '
                                'classes, else move the images up' % (folder, below, folder))
            raise UserError('the class folder %s has no image (%s): add images or remove the folder'
                            % (folder, ' '.join(EXTENSIONS)))


def _warn(text, paths, remedy):
    """Print a warning with the first of `paths`, if there are any."""
    if paths:
        print(one_line('warning: %s (%s; %d in all): %s' % (text, ', '.join(paths[:3]), len(paths), remedy)),
              file=sys.stderr, flush=True)
