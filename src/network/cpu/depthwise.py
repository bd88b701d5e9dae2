"""ReLU and depthwise convolutions by depthwise.cc. On a CPU MindSpore's own operators for them take most of a step."""
import ctypes
import functools
import hashlib
import os
import stat
import subprocess
import sys

from src.errors import UserError
from src.files import whole_file
from src.framework import mindspore, nn, ops
from src.network.layers import Depthwise

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'depthwise.cc')
COMMAND = ('c++', '-std=c++17', '-O3', '-march=native', '-fopenmp', '-shared', '-fPIC')


def use_own_kernels(network):
    """Let `network` compute its float32 depthwise convolutions by depthwise.cc when it is compiled; returns it.

    The function and the gradients are the same but for rounding. Nothing changes on a device other than a CPU, in
    PyNative mode, and where the kernels cannot be compiled or loaded. Do not call this for a network that is to be
    exported, because the kernels exist only on this machine.
    """
    if (mindspore.get_context('device_target') == 'CPU' and mindspore.get_context('mode') == mindspore.GRAPH_MODE
            and library()):
        for _, cell in network.cells_and_names():
            if isinstance(cell, Depthwise):
                cell.own_kernels = OwnKernels(sum(cell.shares), cell.convs[0].stride[0])
                cell.weights = mindspore.ParameterTuple(convolution.weight for convolution in cell.convs)
    return network


def has_own_kernels(network):
    """Whether `use_own_kernels` has changed a network."""
    return any(isinstance(cell, Depthwise) and cell.own_kernels is not None
               for _, cell in network.cells_and_names())


@functools.lru_cache(None)
def library():
    """Path of depthwise.cc compiled for this machine. None: it cannot be had, and stderr says why.

    It lies in the user's cache, under a name that depends on everything it was made from, so that it is compiled
    only once.
    """
    try:
        path = _compiled()
        ctypes.CDLL(path)       # MindSpore would not say why it cannot be loaded
    except (OSError, subprocess.CalledProcessError, UserError) as error:
        reason = getattr(error, 'stderr', None) or getattr(error, 'sentence', None) or str(error)
        print('slower on this CPU: src/network/cpu/depthwise.cc could not be compiled or loaded (%s); it needs a C++ '
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
    path = os.path.join(folder, 'depthwise-%s.so' % _origin())
    if ':' in path:
        raise OSError('MindSpore takes no path with a colon: %s' % path)
    _make_private(folder)
    fault = _fault(path) if os.path.lexists(path) else None
    if fault:
        print('src/network/cpu/depthwise.cc is compiled again: %s %s' % (path, fault), file=sys.stderr)
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


def _run(command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True).stdout


class OwnKernels(nn.Cell):
    """ReLU, then depthwise convolutions that pad 'same'; everything is float32.

    construct(inputs ((N, C_i, H, W), ...), weights ((D_j, 1, K_j, K_j), ...)) -> (N, C, H / stride, W / stride).
    Each weight convolves its share of the channels, in their order.

    Args:
        channels: C, the sum of all C_i and also of all D_j.
        stride: 1 or 2.
    """

    def __init__(self, channels, stride):
        super().__init__()

        def out_shape(x, *_):
            return x[0], channels, -(-x[2] // stride), -(-x[3] // stride)

        def first(x, *_):
            return x

        def all_but_last(*of_inputs):
            return of_inputs[:-1]
        self.forward = ops.Custom(library() + ':forward', out_shape, first, 'aot')
        self.forward.add_prim_attr('stride', stride)        # without it MindSpore 1.10 takes two operators for one
        self.backward = ops.Custom(library() + ':backward', all_but_last, all_but_last, 'aot')

    def construct(self, inputs, weights):
        return self.forward(*inputs, *weights)

    def bprop(self, inputs, weights, _, gradient):
        """Gradients of the inputs and of the weights."""
        gradients = self.backward(*inputs, *weights, gradient)
        return gradients[:len(inputs)], gradients[len(inputs):]
