"""kernels.cc compiled for this machine and kept in the user's cache."""
import ctypes
import functools
import hashlib
import os
import stat
import subprocess
import sys

from src.errors import UserError
from src.files import whole_file

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'kernels.cc')
COMMAND = ('c++', '-std=c++17', '-O3', '-march=native', '-fopenmp', '-shared', '-fPIC')


@functools.lru_cache(None)
def library():
    """Path of kernels.cc compiled for this machine. None: it cannot be had, and stderr says why; or CPU_KERNELS is 0 in
    the environment.

    It lies in the user's cache, under a name that depends on everything it was made from, so that it is compiled
    only once.
    """
    if os.environ.get('CPU_KERNELS') == '0':
        return None
    try:
        path = _compiled()
        ctypes.CDLL(path)       # MindSpore would not say why it cannot be loaded
    except (OSError, subprocess.CalledProcessError, UserError) as error:
        reason = getattr(error, 'stderr', None) or getattr(error, 'sentence', None) or str(error)
        print('slower on this CPU: src/network/cpu/kernels.cc could not be compiled or loaded (%s); it needs a C++ '
              'compiler called c++, with OpenMP, and XDG_CACHE_HOME or ~/.cache to keep the result'
              % reason.strip().split('\n')[0], file=sys.stderr)
        return None
    return path


def _compiled():
    """Return the path of the library, and compile it if it is not there or cannot be trusted; stderr says the latter.

    Raises:
        OSError, SaveError: it cannot be kept anywhere. subprocess.CalledProcessError: it cannot be compiled.
    """
    folder = os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'nasnet_a_mobile')
    path = os.path.join(folder, 'kernels-%s.so' % _origin())
    if ':' in path:
        raise OSError('MindSpore takes no path with a colon: %s' % path)
    _make_private(folder)
    fault = _fault(path) if os.path.lexists(path) else None
    if fault:
        print('src/network/cpu/kernels.cc is compiled again: %s %s' % (path, fault), file=sys.stderr)
    if fault or not os.path.exists(path):
        with whole_file(path, 'set XDG_CACHE_HOME to a folder that can be written') as unfinished:
            _run(COMMAND + ('-o', unfinished, SOURCE))
            with open(unfinished, 'rb+') as file:
                file.write(hashlib.sha256(file.read()).digest())
        os.chmod(path, 0o600)
    return path


def _make_private(folder):
    """Make the folder for the library, in which only this user can write. A library of another user is not loaded.

    Raises:
        OSError: there is no home folder, or `folder` cannot be made or belongs to another user.
    """
    if not os.path.isabs(folder):       # `~` stays as it is if there is neither HOME nor an entry for this user.
        raise OSError('%s is no full path, so there is no folder to keep it in' % folder)
    os.makedirs(folder, 0o700, exist_ok=True)
    if os.path.islink(folder) or os.lstat(folder).st_uid != os.geteuid():
        raise OSError('%s is a link or belongs to another user' % folder)
    if os.lstat(folder).st_mode & 0o022:
        os.chmod(folder, 0o700)
    if os.lstat(folder).st_mode & 0o022:
        raise OSError('other users can write in %s' % folder)


def _fault(path):
    """Return what is wrong with a library, the end of a sentence; None if it can be loaded.

    The linker takes a truncated library and ends the process, so the file ends with a digest of itself.
    """
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        return 'is a link or belongs to another user'
    if status.st_mode & 0o022:
        return 'can be written by other users'
    with open(path, 'rb') as file:
        content = file.read()
    return None if hashlib.sha256(content[:-32]).digest() == content[-32:] else 'is damaged'


def _origin():
    """Digest of the source, the command, the compiler and the processor, 16 hexadecimal digits.

    'SHA-256' stands for the end of the file. Libraries of earlier versions have no digest there.
    """
    with open(SOURCE, 'rb') as source, open('/proc/cpuinfo') as cpuinfo:
        kinds = ('model name', 'flags', 'Features', 'CPU part')
        processor = sorted({line for line in cpuinfo if line.startswith(kinds)})
        parts = [source.read(), repr((COMMAND, processor)).encode(), _run((COMMAND[0], '--version')).encode()]
    return hashlib.sha256(b'\0'.join(parts + [b'SHA-256'])).hexdigest()[:16]


def source_digest():
    """The first 8 hexadecimal digits of the digest of kernels.cc. Other kernels may give other bits."""
    with open(SOURCE, 'rb') as source:
        return hashlib.sha256(source.read()).hexdigest()[:8]


def _run(command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True).stdout
