"""Builds a CUDA that computes nothing (null_cuda.c) for the MindSpore of this interpreter.

    python tests/gpu/null_cuda.py SCRIPT.py [arguments...]      runs a program of the project with it

With it MindSpore's real GPU backend runs on a machine without a GPU: it compiles graphs, selects kernels, plans memory,
launches, copies, synchronizes, and exchanges between ranks. Only the arithmetic is missing, so no number that is read
back means anything.
"""
import glob
import importlib.util
import os
import re
import subprocess
import sys
import tempfile

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'null_cuda.c')
CUDA_LIBRARY = re.compile(r'lib(cuda|cudart|cudnn|cublas|cusolver|curand|cufft|cusparse|nvrtc|nccl)\.so[.\d]*$')
CUDA_FUNCTION = re.compile(r'(cu[A-Z]|cuda[A-Z]|cudnn|cublas|cusolver|curand|cufft|cusparse|nvrtc|nccl)\w+$')
KERNEL_LIBRARY = re.compile(r'libcuda_ops\.so[.\d]*$')      # MindSpore's own kernels
NVCC = '#!/bin/sh\necho "Cuda compilation tools, release 11.6, V11.6.124"\n'


def build(folder):
    """Build the null CUDA in `folder`, in a few seconds; returns the environment variables with which it is used.

    One library stands in for all libraries of CUDA and for MindSpore's library of kernels, whose own CUDA runtime would
    look for NVIDIA's driver. So a kernel is counted when one of that library's functions is called. On MindSpore 1.10 a
    float32 step launches exactly as many kernels; on MindSpore 2 this could not be compared. The library is loaded
    before all others, so it is used even where the real ones are installed. MindSpore 2 takes the version of CUDA from
    the name of a file and from nvcc.
    """
    home = str(folder)
    libraries, programs = os.path.join(home, 'lib64'), os.path.join(home, 'bin')
    for path in (libraries, programs):
        os.makedirs(path, exist_ok=True)
    needed, functions, kernel_library = _read_mindspore()
    _write(os.path.join(home, 'functions.h'), ''.join('FUNCTION(%s)\n' % name for name in sorted(functions)))
    # The symbols have no version, which fits every wanted one, but the loader wants to see that the versions exist.
    _write(os.path.join(home, 'versions'), ''.join('%s { };\n' % name for name in sorted(needed)))
    objects = []
    for name, flags in (('null_cuda.o', []), ('functions.o', ['-DFUNCTIONS="%s/functions.h"' % home])):
        objects.append(os.path.join(home, name))
        _output('cc', '-O1', '-w', '-fPIC', '-c', SOURCE, '-o', objects[-1], *flags)
    library = os.path.join(libraries, kernel_library)
    _output('cc', '-shared', '-Wl,-soname,' + kernel_library, '-Wl,--version-script=' + os.path.join(home, 'versions'),
            '-o', library, *objects)
    for name in needed | {'libcudart.so.11.6.124'}:
        os.symlink(kernel_library, os.path.join(libraries, name))
    _write(os.path.join(programs, 'nvcc'), NVCC)
    os.chmod(os.path.join(programs, 'nvcc'), 0o755)
    return {'LD_PRELOAD': library, 'LD_LIBRARY_PATH': libraries, 'CUDA_HOME': home,
            'PATH': programs + os.pathsep + os.environ['PATH']}


def _read_mindspore():
    """What MindSpore's GPU backend asks for.

    Returns:
        Names of CUDA's libraries (a set), names of their functions and of those of the library of kernels (a set), name
        of the library of kernels.
    """
    needed, undefined, defined, kernel_library = {'libcuda.so.1'}, set(), set(), None
    root = os.path.dirname(importlib.util.find_spec('mindspore').origin)
    for path in glob.glob(os.path.join(root, '**', '*.so*'), recursive=True):
        if KERNEL_LIBRARY.match(os.path.basename(path)):
            kernel_library, defined = os.path.basename(path), _symbols(path, '--defined-only')
            continue
        cuda = set(filter(CUDA_LIBRARY.match, re.findall(r'NEEDED.*\[(.*)\]', _output('readelf', '-d', path))))
        if cuda:
            needed |= cuda
            undefined |= _symbols(path, '--undefined-only')
    return needed, undefined & defined | set(filter(CUDA_FUNCTION.match, undefined)), kernel_library


def _symbols(path, which):
    """Names of the dynamic symbols of a library, without their versions."""
    return {line.split()[-1].split('@')[0] for line in _output('nm', '-D', which, path).splitlines()
            if line.split()[-2] in 'TWU'}


def _output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True).stdout


def _write(path, text):
    with open(path, 'w') as file:
        file.write(text)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(subprocess.call([sys.executable] + sys.argv[1:], env=dict(os.environ, **build(temporary))))
