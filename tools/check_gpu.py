"""Say which software for GPUs this machine has, and what one GPU and eight GPUs lack: python tools/check_gpu.py

scripts/setup.sh runs this at its end. The exit status is 0 whatever is found, because a CPU needs none of it.
"""
import argparse
import ctypes
import os
import re
import shlex
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from src.errors import UserError
from src.startup import prepare

# What MindSpore's GPU part is linked with in both versions (`readelf -d` of libmindspore_gpu.so), without cuDNN.
CUDA = ('libcudart.so.11.0', 'libcublas.so.11', 'libcufft.so.10', 'libcurand.so.10', 'libcusolver.so.11',
        'libcusparse.so.11')
WHEELS = (shlex.quote(sys.executable) + ' -m pip install '
          'nvidia-cuda-runtime-cu11 nvidia-cublas-cu11 nvidia-cufft-cu11 nvidia-curand-cu11 '
          'nvidia-cusolver-cu11 nvidia-cusparse-cu11 nvidia-cuda-nvrtc-cu11 "nvidia-cudnn-cu11<9"')
RANKS = 8       # of scripts/run_distribute_train_for_gpu.sh, if DEVICE_NUM says nothing else


def load(libraries):
    """'found' if the loader finds all these libraries; else UserError with its words for one that it does not find."""
    for name in libraries:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            raise UserError(str(error))
    return 'found'


def version(program, pattern, wanted):
    """The version that a program says, which `pattern` finds; UserError if there is none or `wanted` does not match it.
    """
    try:
        said = subprocess.run([program, '--version'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              universal_newlines=True).stdout
    except OSError as error:
        raise UserError('%s: %s' % (program, error.strerror))
    found = re.search(pattern, said)
    if not found or not re.match(wanted, found.group(1)):
        raise UserError('%s is %s' % (program, found.group(1) if found else 'of another kind'))
    return found.group(1)


def compiler():
    """Version of nvcc in CUDA_HOME, from which MindSpore 2 learns the version of CUDA; UserError if it is not 11."""
    if not os.environ.get('CUDA_HOME'):
        raise UserError('CUDA_HOME is not set')
    return version(os.path.join(os.environ['CUDA_HOME'], 'bin', 'nvcc'), r'release (\d+\.\d+)', r'11\.')


def parts():
    """What the GPU part of this MindSpore needs: [(name, function that returns what it found, how to get it)]."""
    from src.framework import VERSION, count_gpus
    needed = [('NVIDIA driver', lambda: 'found, GPUs: %d' % count_gpus(),
               'apt-get install nvidia-driver (Debian), ubuntu-drivers install (Ubuntu)'),
              ('CUDA 11', lambda: load(CUDA), WHEELS), ('cuDNN 8', lambda: load(['libcudnn.so.8']), WHEELS)]
    if VERSION >= (2, 0):
        needed.append(('nvcc', compiler, 'apt-get install cuda-nvcc-11-8 from NVIDIA\'s repository of packages, and '
                       'export CUDA_HOME=/usr/local/cuda-11.8'))
    return needed


def ready(ranks):
    """'ready' if training would find as many GPUs as there are ranks; else UserError, as training would say it."""
    from src.framework import use_device
    use_device('GPU', 0, ranks)
    return 'ready'


def report(name, ask):
    """Print a line with what `ask` returns or the sentence of its UserError; returns whether it raised none."""
    try:
        print('%s: %s' % (name, ask()))
    except UserError as error:
        print('%s: missing (%s)' % (name, error.sentence))
        return False
    return True


def main():
    """Print a line for each part, and what one GPU and eight GPUs lack."""
    argparse.ArgumentParser(description='Say which software for GPUs this machine has and lacks.').parse_args()
    prepare({})
    one = [how for name, ask, how in parts() if not report(name, ask)]
    launcher = 'apt-get install openmpi-bin (Debian, Ubuntu)'
    eight = one + [launcher] * (not report('Open MPI', lambda: version('mpirun', r'\(Open MPI\) (\S+)', r'[45]\.')))
    for name, ranks, missing in (('one GPU', 1, one), ('%d GPUs' % RANKS, RANKS, eight)):
        if not missing:
            report(name, lambda ranks=ranks: ready(ranks))
        else:
            print('%s: missing\n    %s' % (name, '\n    '.join(dict.fromkeys(missing))))


if __name__ == '__main__':
    main()
