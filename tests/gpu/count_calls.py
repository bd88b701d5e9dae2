"""Device calls of one steady training step on the null CUDA, by name, as JSON. From the project's folder:

    python tests/gpu/null_cuda.py tests/gpu/count_calls.py [--json FILE] [configuration keys]

Nothing is computed, so this shows what the framework does with a step, and not how long a device would take for it.
`peak_memory_mb` is what MindSpore 2 used of the device's memory, in MiB. MindSpore 1.10 only logs it, when the program
ends and the environment variable MS_SUBMODULE_LOG_v is {PRE_ACT:1}.
"""
import collections
import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STEPS = 10
# Kernels have the mangled names of C++. Functions of cuDNN and cuBLAS that only set or ask something do not count.
KINDS = {
    'kernels': r'_Z',
    'transposes': r'_Z.*(Transpose|NHWC)',
    'casts': r'_Z\d*Cast',
    'library calls': r'cudnn(?!Get|Set|Create|Destroy)|cublas(?!Get|Set|Create|Destroy)|ncclAllReduce',
    'copies on the device': r'copy device to device',
    'copies to the device': r'copy host to device',
    'copies from the device': r'copy device to host',
    'fills': r'cudaMemset',
    'synchronizations': r'cuda(Stream|Event|Device)Synchronize',
}
DEVICE_CALLS = ('kernels', 'library calls', 'copies on the device', 'copies to the device', 'copies from the device',
                'fills')


def totals(calls):
    """{kind: number} of {function: number of its calls}; 'device calls' is all work that a device gets."""
    sums = {kind: sum(number for name, number in calls.items() if re.match(pattern, name))
            for kind, pattern in KINDS.items()}
    sums['device calls'] = sum(sums[kind] for kind in DEVICE_CALLS)
    return sums


def read(path):
    """{function: number of its calls} of a report of null_cuda.c."""
    with open(path) as file:
        return {name: calls for name, calls in json.load(file).items() if calls}


def count(config):
    """Compile and run the training step of a configuration; returns {function: number of its calls in one step}.

    As in training, the loss is read only after several steps.
    """
    from tools.benchmark.suite import build_step
    null_cuda = ctypes.CDLL(None)       # it was loaded before everything else
    work = build_step(config)
    for _ in range(3):
        work()
    null_cuda.null_cuda_reset()
    for _ in range(STEPS):
        loss, _ = work.run()
    loss.asnumpy()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'report.json')
        null_cuda.null_cuda_report(path.encode())
        return {name: calls / STEPS for name, calls in read(path).items()}


def readable(calls):
    """The same with the names as C++ has them, without parameters; the function that is called most comes first."""
    names = subprocess.run(['c++filt', '-p'], input='\n'.join(calls), stdout=subprocess.PIPE, check=True,
                           universal_newlines=True).stdout.split('\n')
    sums = collections.Counter()
    for name, number in zip(names, calls.values()):
        sums[name] += number
    return dict(sums.most_common())


def main():
    """Count, and print or write the JSON."""
    from src.cli import Parser
    from src.errors import UserError
    parser = Parser('Count the device calls of a training step on the null CUDA.')
    parser.add_argument('--json', metavar='FILE', help='where to write; without it the JSON is printed')
    parser.add_config_keys()
    flags, given = parser.parse()
    if not hasattr(ctypes.CDLL(None), 'null_cuda_reset'):
        raise UserError('this needs the null CUDA: python tests/gpu/null_cuda.py tests/gpu/count_calls.py')
    from src.framework import mindspore, use_device
    use_device('GPU')
    from src.training.trainer import training_config
    calls = count(training_config(given))
    facts = {'mindspore': mindspore.__version__, 'config': given, 'totals': totals(calls),
             'calls': readable(calls)}
    if hasattr(mindspore, 'runtime'):
        facts['peak_memory_mb'] = mindspore.runtime.max_memory_allocated() / 2 ** 20
    text = json.dumps(facts, indent=1)
    if flags.json:
        with open(flags.json, 'w') as file:
            file.write(text)
    else:
        print(text)


if __name__ == '__main__':
    sys.path.insert(0, ROOT)
    main()
