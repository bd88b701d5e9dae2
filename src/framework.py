"""The one module that knows which MindSpore this is: loading it, choosing the device, what differs between versions.

Everything else imports MindSpore's names from here, so that the libraries that MindSpore needs are in the process
before MindSpore is imported.
"""
import ctypes
import glob
import itertools
import os
import sys
import sysconfig
from contextlib import contextmanager

from src.errors import UserError

# MindSpore's C++ reads these when it is loaded. A value that the user has set stays.
os.environ.setdefault('GLOG_v', '3')                       # log only errors
# Only for a CPU: with AVX-512 the oneDNN of MindSpore 2.10 runs most of this network's convolutions by its reference
# code (`ONEDNN_VERBOSE=1` shows jit_uni_ncsp:conv+ref:any), which takes ten times as long as its AVX2 code.
os.environ.setdefault('ONEDNN_MAX_CPU_ISA', 'AVX2')
# Only for a CPU: idle OpenMP threads that keep spinning take the cores that the next operator needs.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


def _preload_cuda_wheels():
    """Load the CUDA 11 libraries of the pip wheels nvidia-*-cu11, if they are installed.

    mindspore-gpu 1.10 is linked against them, and the loader does not look into site-packages. Once they are in the
    process, their names resolve. With a CUDA 11 of the system nothing of this is needed.
    """
    folders = sorted(glob.glob(os.path.join(sysconfig.get_paths()['purelib'], 'nvidia', '*', 'lib')))
    if not any(glob.glob(os.path.join(folder, 'libcudart.so.11*')) for folder in folders):
        return          # there are no such wheels, or they are another package's CUDA 12
    # The loader no longer reads this variable, but MindSpore's own version check does.
    os.environ['LD_LIBRARY_PATH'] = ':'.join([os.environ.get('LD_LIBRARY_PATH', '')] + folders).strip(':')
    waiting = [path for folder in folders for path in glob.glob(os.path.join(folder, '*.so*'))]
    while waiting:      # a library may need another one that is not loaded yet: repeat until nothing changes
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
    """Drop what the framework's C++ writes to stderr inside the block. Its exceptions repeat what matters."""
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
    """Import MindSpore without its warnings about an absent driver; a failure becomes one sentence."""
    try:
        import numpy
        if int(numpy.__version__.split('.')[0]) > 1:
            raise UserError('MindSpore fails with NumPy %s: install requirements.txt (numpy<2)' % numpy.__version__)
        with without_chatter():
            import mindspore as imported
        return imported
    except (ImportError, OSError) as error:     # MindSpore 1.10 starts ldd, which may be absent
        raise UserError('MindSpore cannot be imported (%s): install requirements.txt with Python 3.10-3.12 '
                        '(mindspore 2) or 3.7-3.9 (mindspore-gpu 1.10 and CUDA 11), this is Python %d.%d'
                        % ((error,) + sys.version_info[:2]))


_preload_cuda_wheels()
mindspore = _import_mindspore()

from mindspore import Parameter, Tensor, nn, ops  # noqa: F401

VERSION = tuple(int(part) for part in mindspore.__version__.split('.')[:2])
if VERSION < (1, 10):
    raise UserError('MindSpore %s is too old: install requirements.txt' % mindspore.__version__)

from mindspore.ops import signature
from mindspore.ops.operations._grad_ops import ReluGrad  # noqa: F401
from mindspore.train.mind_ir_pb2 import ModelProto  # noqa: F401

# Of training, in the moving average of BatchNorm: MindSpore 1.10 takes the variance with bias.
UNBIASED_MOVING_VARIANCE = VERSION >= (2, 0)
# Whether a ReLU on a GPU keeps its result for its gradient. MindSpore 1.10 keeps one bit of each value.
RELU_KEEPS_ITS_RESULT = VERSION >= (2, 0)
_REMEDY = 'run with --platform CPU (PLATFORM=CPU for the scripts)'      # for a machine without a GPU
_numbers = itertools.count()        # of the layers that tell_apart has seen


def use_device(platform, device_id=0, processes_here=1):
    """Run everything from here on as compiled graphs on one device.

    Args:
        platform: 'GPU', 'CPU' or 'Ascend'.
        device_id: number of the device on this machine.
        processes_here: how many processes of this run are on this machine; each of them needs a GPU of its own.

    Raises:
        UserError: there is no such device, or this MindSpore cannot use it.
    """
    if platform == 'GPU':
        device_id = _require_gpu(device_id, processes_here)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    if platform == 'GPU':
        # Else float16 convolutions are moved to the NHWC layout, with transposes around everything that is not, and
        # images below about 128 pixels do not compile.
        mindspore.set_context(disable_format_transform=True)
    try:
        if hasattr(mindspore, 'set_device'):
            mindspore.set_device(platform, device_id)
        elif platform == 'CPU':     # MindSpore 1.10 sets a number only once in a process, and a CPU has none
            mindspore.set_context(device_target='CPU')
        else:
            mindspore.set_context(device_target=platform, device_id=device_id)
    except (RuntimeError, ValueError) as error:
        raise UserError('this MindSpore %s cannot use %s (%s): run with --platform CPU or install a build for it'
                        % (mindspore.__version__, platform, str(error).strip().split('\n')[0]))


def use_deterministic_gradients():
    """Let a GPU compute the gradients of convolutions by the algorithms of cuDNN that always add in the same order.

    Call it after `use_device`. Whether the bits of a whole step then repeat, is not known.

    Returns:
        True; False: this MindSpore has no such setting.
    """
    if not hasattr(mindspore, 'device_context'):
        return False
    mindspore.device_context.gpu.op_tuning.conv_dgrad_algo('algo_1')
    mindspore.device_context.gpu.op_tuning.conv_wgrad_algo('algo_1')
    mindspore.set_deterministic(True)
    return True


def count_gpus():
    """The number of GPUs that the NVIDIA driver finds, at least 1.

    Raises:
        UserError: there is no driver, or it finds no device.
    """
    try:
        driver = ctypes.CDLL('libcuda.so.1')
    except OSError:
        raise UserError('no GPU: the NVIDIA driver library libcuda.so.1 is not installed; ' + _REMEDY)
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        raise UserError('no GPU: the NVIDIA driver finds no device (CUDA_VISIBLE_DEVICES=%s); %s'
                        % (os.environ.get('CUDA_VISIBLE_DEVICES', ''), _REMEDY))
    return count.value


def to_device(array):
    """A numpy array as a Tensor, an input of a graph. They may share memory, so the array must not change any more.

    Before a graph of MindSpore 2 runs, it waits twice for each input that is not on the GPU yet. This puts it there on
    the stream that the graph uses. According to CUDA's documentation, a copy from memory that is not page-locked has
    read that memory when the call returns.
    """
    tensor = Tensor.from_numpy(array)
    if VERSION >= (2, 0) and mindspore.get_context('device_target') == 'GPU' and hasattr(tensor, 'move_to'):
        return tensor.move_to('GPU', blocking=False)
    return tensor


def tell_apart(cell):
    """Let MindSpore compile a layer by itself; returns the layer.

    It compiles layers of one class with the same arguments only once, and then exchanges their Parameters. But it does
    not find those that a method of the layer uses, so MindSpore 1.10 would compute with the weights of another layer.
    """
    cell.cell_init_args += ' number %d' % next(_numbers)
    return cell


def set_unseen(cell, name, value):
    """Set an attribute of a cell that nn.Cell does not see: not as one of its cells or parameters, and not by name."""
    object.__setattr__(cell, name, value)


def read_only_scale(batch_norm):
    """Let an ops.BatchNorm of training take tensors for gamma and beta, where MindSpore demands Parameters.

    It is also no longer declared to write its moving averages, though it does so in place. Each declared write orders
    all reads of Parameters, so the same slice in two layers would no longer be one operation.
    """
    kinds = (('input_x', 'T1'), ('scale', 'T2'), ('bias', 'T2'), ('mean', 'T3'), ('variance', 'T3'))
    batch_norm.set_signatures(tuple(signature.make_sig(name, dtype=getattr(signature.sig_dtype, kind))
                                    for name, kind in kinds))
    batch_norm.add_prim_attr('side_effect_mem', False)


def _require_gpu(device_id, processes_here):
    """The number of the GPU to use. The driver is asked, as MindSpore reports a missing GPU late and in obscure words.

    A scheduler may show each process only its own GPU; that is then number 0, whatever `device_id` is. MindSpore 1.10
    cannot use it: in a group it takes the GPU of its local rank, whatever it is told.
    """
    count, visible = count_gpus(), os.environ.get('CUDA_VISIBLE_DEVICES', '')
    if processes_here > 1 and count == 1 and visible and VERSION >= (2, 0):
        device_id = 0
    elif processes_here > count:
        raise UserError('%d processes on this machine, but the NVIDIA driver finds %d GPUs (CUDA_VISIBLE_DEVICES=%s): '
                        'lower DEVICE_NUM, or let each process see all GPUs' % (processes_here, count, visible))
    if device_id >= count:
        raise UserError('no GPU %d: the NVIDIA driver finds %d, numbered from 0; choose another --device_id'
                        % (device_id, count))
    with open('/proc/self/maps') as maps:
        loaded = 'libmindspore_gpu.so' in maps.read()
    if not loaded:
        raise UserError('MindSpore %s did not load its GPU part (%s): it needs the CUDA 11 and cuDNN 8 libraries%s; '
                        'install them or %s' % (mindspore.__version__, _why_no_gpu_part(),
                                                ' and CUDA_HOME set to a CUDA 11 with nvcc' if VERSION >= (2, 0)
                                                else '', _REMEDY))
    return device_id


def _why_no_gpu_part():
    """Why MindSpore's GPU library cannot be loaded, in the loader's words."""
    folder = os.path.join(os.path.dirname(mindspore.__file__), 'lib')
    for path in sorted(glob.glob(os.path.join(folder, '**', 'libmindspore_gpu.so*'), recursive=True), reverse=True):
        try:
            ctypes.CDLL(path)
        except OSError as error:
            return str(error)
        return 'CUDA_HOME is %s' % os.environ.get('CUDA_HOME', 'not set')
    return 'this is a build without it'
