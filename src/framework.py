"""The one module that knows which MindSpore this is: loading it, choosing the device, what differs.

Everything else imports MindSpore's names from here, so that MindSpore is never imported before the
libraries it needs are in the process.
"""
import ctypes
import glob
import os
import sys
import sysconfig
import tempfile

from src.errors import UserError

os.environ.setdefault('GLOG_v', '3')     # errors only; must be set before MindSpore's C++ is loaded


def _preload_cuda_wheels():
    """Load the CUDA 11 libraries of the pip wheels nvidia-*-cu11, if they are installed.

    mindspore-gpu 1.10 is linked against them and the loader does not look into site-packages; once
    they are in the process their names resolve. A system CUDA 11 needs none of this.
    """
    folders = sorted(glob.glob(os.path.join(sysconfig.get_paths()['purelib'], 'nvidia', '*', 'lib')))
    if not folders:
        return
    # MindSpore's own version check reads this variable; the loader no longer does.
    os.environ['LD_LIBRARY_PATH'] = ':'.join([os.environ.get('LD_LIBRARY_PATH', '')] + folders).strip(':')
    waiting = [path for folder in folders for path in glob.glob(os.path.join(folder, '*.so*'))]
    while waiting:                       # a library may need another one first: repeat until nothing moves
        failed = []
        for path in waiting:
            try:
                ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
            except OSError:
                failed.append(path)
        if len(failed) == len(waiting):
            return
        waiting = failed


def _import_mindspore():
    """Import MindSpore; its chatter about an absent driver is dropped, a failure becomes a sentence."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            import mindspore
            return mindspore
        except ImportError as error:
            raise UserError('MindSpore cannot be imported (%s): install requirements.txt with Python 3.10-3.12 '
                            '(mindspore 2) or 3.7-3.9 (mindspore-gpu 1.10 and CUDA 11), this is Python %d.%d'
                            % ((error,) + sys.version_info[:2]))
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)


_preload_cuda_wheels()
mindspore = _import_mindspore()

from mindspore import Parameter, Tensor, nn, ops  # noqa: E402  pylint: disable=wrong-import-position

VERSION = tuple(int(part) for part in mindspore.__version__.split('.')[:2])
