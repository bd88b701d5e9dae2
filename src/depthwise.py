"""ReLU and depthwise convolutions by depthwise.cc, on a CPU, where MindSpore's own are some twenty times slower."""
import atexit
import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile

from nasnet_a_mobile import Depthwise
from src.framework import mindspore, nn, ops

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'depthwise.cc')


def use_own_kernels(network):
    """Let `network`, when it is next compiled, convolve float32 depthwise by depthwise.cc; returns it.

    The same function and gradients but for rounding. On a device other than a CPU, and where there is no C++
    compiler, nothing changes. A network for export must stay as it is: these operators are of this process alone.
    """
    if mindspore.get_context('device_target') == 'CPU' and library():
        for _, cell in network.cells_and_names():
            if isinstance(cell, Depthwise):
                cell.own_kernels = OwnKernels(sum(cell.shares), cell.convs[0].stride[0])
                cell.weights = mindspore.ParameterTuple(convolution.weight for convolution in cell.convs)
    return network


@functools.lru_cache(None)
def library():
    """Path of depthwise.cc compiled for this machine, while this process lives; None: it cannot be compiled."""
    try:
        folder = tempfile.mkdtemp(prefix='nasnet_a_mobile-')
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        path = os.path.join(folder, 'depthwise.so')
        subprocess.run(['c++', '-std=c++17', '-O3', '-march=native', '-fopenmp', '-shared', '-fPIC', '-o', path,
                        SOURCE], check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
        ctypes.CDLL(path)       # MindSpore would not say why it cannot be loaded
    except (OSError, subprocess.CalledProcessError) as error:
        print('slower on this CPU: src/depthwise.cc could not be compiled (%s); install a C++ compiler called c++' % (
            getattr(error, 'stderr', None) or str(error)).strip().split('\n')[0], file=sys.stderr)
        return None
    return path


class OwnKernels(nn.Cell):
    """construct(inputs ((N, C_i, H, W), ...), weights ((D_j, 1, K_j, K_j), ...)) -> (N, C, H / stride, W / stride).

    ReLU and depthwise convolutions padded 'same', all float32. C, the sum of all C_i and of all D_j, is `channels`:
    each weight convolves its share of the channels, in their order.
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
        self.backward = ops.Custom(library() + ':backward', all_but_last, all_but_last, 'aot')

    def construct(self, inputs, weights):
        return self.forward(*inputs, *weights)

    def bprop(self, inputs, weights, _, gradient):
        """Gradients of inputs and weights."""
        gradients = self.backward(*inputs, *weights, gradient)
        return gradients[:len(inputs)], gradients[len(inputs):]
