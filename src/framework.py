"""The one module that knows which MindSpore this is: loading it, choosing the device, what differs.

Everything else imports MindSpore's names from here, so that MindSpore is never imported before the
libraries it needs are in the process.
"""
import ctypes
import glob
import os
import sys
import sysconfig
from contextlib import contextmanager

from src import launch
from src.errors import UserError

# Read when MindSpore's C++ is loaded, so set before.
os.environ.setdefault('GLOG_v', '3')                       # errors only
# CPU alone: from AVX-512 on, the oneDNN of MindSpore 2.10 runs most of these convolutions by its
# reference code (`ONEDNN_VERBOSE=1` shows jit_uni_ncsp:conv+ref:any), ten times slower than its AVX2 code.
os.environ.setdefault('ONEDNN_MAX_CPU_ISA', 'AVX2')
# CPU alone: OpenMP's idle threads would keep the cores busy that the next operator needs.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


def _preload_cuda_wheels():
    """Load the CUDA 11 libraries of the pip wheels nvidia-*-cu11, if they are installed.

    mindspore-gpu 1.10 is linked against them and the loader does not look into site-packages; once
    they are in the process their names resolve. A system CUDA 11 needs none of this.
    """
    folders = sorted(glob.glob(os.path.join(sysconfig.get_paths()['purelib'], 'nvidia', '*', 'lib')))
    if not any(glob.glob(os.path.join(folder, 'libcudart.so.11*')) for folder in folders):
        return          # none, or another package's CUDA 12
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


@contextmanager
def without_chatter():
    """Drop what the framework writes to stderr meanwhile; the exception it raises says it again."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, 'wb') as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)


def _import_mindspore():
    """Import MindSpore: silent about an absent driver, a failure becomes a sentence."""
    try:
        import numpy
        if int(numpy.__version__.split('.')[0]) > 1:
            raise UserError('MindSpore fails with NumPy %s: install requirements.txt (numpy<2)' % numpy.__version__)
        with without_chatter():
            import mindspore as imported
        return imported
    except ImportError as error:
        raise UserError('MindSpore cannot be imported (%s): install requirements.txt with Python 3.10-3.12 '
                        '(mindspore 2) or 3.7-3.9 (mindspore-gpu 1.10 and CUDA 11), this is Python %d.%d'
                        % ((error,) + sys.version_info[:2]))


_preload_cuda_wheels()
mindspore = _import_mindspore()

from mindspore import Parameter, Tensor, nn, ops  # noqa: E402  pylint: disable=wrong-import-position

VERSION = tuple(int(part) for part in mindspore.__version__.split('.')[:2])
if VERSION < (1, 10):
    raise UserError('MindSpore %s is too old: install requirements.txt' % mindspore.__version__)


if VERSION >= (2, 0):
    def cut(x, sizes):
        """x (N, C, ...) cut along C into pieces of these sizes; usable in a construct."""
        return ops.split(x, sizes, 1)
else:
    def cut(x, sizes):
        """x (N, C, ...) cut along C into pieces of these sizes; 1.10 has no operator for unequal ones on a GPU."""
        pieces = ()
        start = 0
        for size in sizes:
            pieces += (x[:, start:start + size],)
            start += size
        return pieces


def use_device(platform, device_id=0, distributed=False):
    """Run everything from here on as compiled graphs on device `device_id` of 'GPU', 'CPU' or 'Ascend'.

    In a group each process takes the device of its rank on its machine.

    Raises:
        UserError: there is no such device, or this MindSpore cannot use it.
    """
    place = launch.require() if distributed else None
    if place:
        device_id = place.local_rank
    if platform == 'GPU':
        _require_gpu(device_id, place and place.local_size)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    try:
        if hasattr(mindspore, 'set_device'):
            mindspore.set_device(platform, device_id)
        else:
            mindspore.set_context(device_target=platform, device_id=device_id)
    except (RuntimeError, ValueError) as error:
        raise UserError('this MindSpore %s cannot use %s (%s): run with --platform CPU or install a build for it'
                        % (mindspore.__version__, platform, str(error).strip().split('\n')[0]))


def _require_gpu(device_id, processes=None):
    """MindSpore reports a missing GPU late and obscurely, so ask the driver first."""
    remedy = 'run with --platform CPU (PLATFORM=CPU for the scripts)'
    try:
        driver = ctypes.CDLL('libcuda.so.1')
    except OSError:
        raise UserError('no GPU: the NVIDIA driver library libcuda.so.1 is not installed; ' + remedy)
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        raise UserError('no GPU: the NVIDIA driver finds no device (CUDA_VISIBLE_DEVICES=%s); %s'
                        % (os.environ.get('CUDA_VISIBLE_DEVICES', ''), remedy))
    if processes and processes > count.value:
        raise UserError('%d processes on this machine, but the NVIDIA driver finds %d GPUs (CUDA_VISIBLE_DEVICES=%s): '
                        'lower DEVICE_NUM' % (processes, count.value, os.environ.get('CUDA_VISIBLE_DEVICES', '')))
    if device_id >= count.value:
        raise UserError('no GPU %d: the NVIDIA driver finds %d, numbered from 0; choose another --device_id'
                        % (device_id, count.value))
    with open('/proc/self/maps') as maps:
        loaded = 'libmindspore_gpu.so' in maps.read()
    if not loaded:
        raise UserError('MindSpore %s did not load its GPU part: it needs the CUDA 11 and cuDNN 8 libraries%s; '
                        'install them or %s' % (mindspore.__version__, ' and CUDA_HOME set to a CUDA 11 with nvcc'
                                                if VERSION >= (2, 0) else '', remedy))


def precision(level, platform):
    """`amp_level` with what auto stands for."""
    return {'auto': 'O0' if platform == 'CPU' else 'O2'}.get(level, level)


def set_precision(network, level):
    """Let `network`, when it is next compiled, compute as `amp_level` O0, O2 or O3 in src/config.py says."""
    network.to_float(mindspore.float16 if level == 'O3' else mindspore.float32)
    if level == 'O2':
        for _, cell in network.cells_and_names():
            if isinstance(cell, (nn.Conv2d, nn.Dense)):
                cell.to_float(mindspore.float16)
