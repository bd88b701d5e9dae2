"""Facts about this machine and its GPU: names, versions, memory in use."""
import ctypes
import os
import platform as python_platform
import shutil
import subprocess

from loky import cpu_count

CUDART = 'libcudart.so.11.0'    # the name that every CUDA 11 has; it is already in a process that uses a GPU
VERSION_FUNCTIONS = {'CUDA of the driver': ('libcuda.so.1', 'cuDriverGetVersion'),
                     'CUDA runtime': (CUDART, 'cudaRuntimeGetVersion'),
                     'NCCL': ('libnccl.so.2', 'ncclGetVersion')}


def machine(platform, device_id):
    """{'cpu', 'cores', 'memory_gb', 'load', 'python', 'platform', and 'gpu' if one is used and nvidia-smi knows it}"""
    with open('/proc/cpuinfo') as cpuinfo:
        model = next((line.split(':')[1].strip() for line in cpuinfo if line.startswith('model name')), 'unknown CPU')
    with open('/proc/meminfo') as meminfo:
        memory = int(meminfo.readline().split()[1]) / 2 ** 20
    found = {'cpu': model, 'cores': cpu_count(), 'memory_gb': round(memory, 1), 'load': os.getloadavg()[0],
             'python': python_platform.python_version(), 'platform': platform}
    if platform == 'GPU' and shutil.which('nvidia-smi'):
        query = ['nvidia-smi', '--query-gpu=name,memory.total,driver_version', '--format=csv,noheader', '-i',
                 str(device_id)]
        found['gpu'] = subprocess.run(query, stdout=subprocess.PIPE, universal_newlines=True).stdout.strip()
    return found


def gpu_libraries():
    """{library: version} of what this process can ask, as the libraries write their versions (11060 is 11.6)."""
    found = {}
    for name, (library, function) in VERSION_FUNCTIONS.items():
        version = ctypes.c_int(0)
        if _call(library, function, ctypes.byref(version)) == 0:
            found[name] = version.value
    cudnn = _call('libcudnn.so.8', 'cudnnGetVersion')
    return dict(found, cuDNN=cudnn) if cudnn else found


def count_gpus():
    """The number of GPUs that the driver finds."""
    count = ctypes.c_int(0)
    _call('libcuda.so.1', 'cuInit', 0)
    _call('libcuda.so.1', 'cuDeviceGetCount', ctypes.byref(count))
    return count.value


def gpu_memory_mb(device_id):
    """MiB of a GPU that are in use, by all processes; None if the CUDA runtime does not say it."""
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    _call(CUDART, 'cudaSetDevice', device_id)
    if _call(CUDART, 'cudaMemGetInfo', ctypes.byref(free), ctypes.byref(total)) != 0:
        return None
    return (total.value - free.value) / 2 ** 20


def _call(library, function, *arguments):
    """The int that a function of a shared library returns; None if there is no such function."""
    try:
        return getattr(ctypes.CDLL(library), function)(*arguments)
    except (OSError, AttributeError):
        return None
