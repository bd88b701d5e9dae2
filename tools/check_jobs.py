"""What each child process of check_device.py computes: one job, whose facts are a line of JSON on standard output."""
import hashlib
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
from tools.benchmark import suite
from tools.benchmark.rounds import serve

STEPS = 10


def device(_, settings):
    """Names and versions of the machine, the GPU and the libraries, and the number of GPUs."""
    from src.versions import versions
    from tools.benchmark.machine import count_gpus, gpu_libraries, machine
    found = dict(machine(settings['platform'], settings['device_id']), **versions())
    if settings['platform'] == 'GPU':
        found.update(gpu_libraries(), GPUs=count_gpus())
    return found, None


def logits(*_):
    """{'error': the largest error of a logit} of the full network."""
    from src.network.cpu.kernels import use_own_kernels
    from tools.golden import compare
    network = use_own_kernels(compare.drawn('full'))        # they are used only on a CPU, as in the programs
    return {'error': compare.logit_error(network, 'full')}, None


def gradients(config, _):
    """{'error': the median error of a parameter's gradient, 'largest': the largest, 'where': its name} of the narrow
    network."""
    import numpy as np

    from src.training.train_step import COMPUTE_TYPES
    from tools.golden import compare
    errors = compare.gradient_errors(compare.drawn('narrow'), COMPUTE_TYPES[config.amp_level])
    values = list(errors.values())
    worst = int(np.argmax(values))      # the first NaN, if there is one
    return {'error': float(np.median(values)), 'largest': values[worst], 'where': list(errors)[worst]}, None


def ten_steps(config, settings):
    """A digest of the loss and the gradient norm of ten training steps and of the weights after them."""
    from src.files import digest
    from src.framework import use_deterministic_gradients
    from src.network.build import build_network
    from src.network.initialize import initialize
    from src.network.merge import plain_values
    if settings['deterministic'] and not use_deterministic_gradients():
        return {'digest': None}, None
    network = initialize(build_network(config, training=True), config.random_seed)
    work = suite.build_step(config, network=network)
    results = [work(), work()]          # compiles
    began = time.perf_counter()
    results += [work() for _ in range(STEPS - len(results))]
    seconds = (time.perf_counter() - began) / (STEPS - 2)
    work.train_step.optimizer.write_parameters()
    sums = hashlib.sha256(repr(results).encode() + digest(plain_values(network)).tobytes())
    return {'digest': sums.hexdigest()[:16], 'seconds': seconds}, None


def export(config, settings):
    """The largest error of a logit of the full network after export.py has written it, run on a CPU."""
    import numpy as np

    from src.checkpoints.checkpoint import arrays_of, save
    from src.inference.exported import run_exported
    from tools.golden import compare, draw
    images = draw.images('full')
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = os.path.join(folder, 'drawn.ckpt')
        save(checkpoint, arrays_of(compare.drawn('full')), {'config': vars(config)})
        command = [sys.executable, os.path.join(ROOT, 'export.py'), '--ckpt_file', checkpoint, '--file_format',
                   settings['file_format'], '--file_name', os.path.join(folder, 'network'), '--batch_size',
                   str(len(images)), '--platform', settings['device']]
        if subprocess.call(command):
            sys.exit(1)     # it has said why
        found = run_exported(os.path.join(folder, 'network.' + settings['file_format'].lower()))(images)
    return {'error': float(np.abs(found - compare.REFERENCE['full/logits']).max())}, None


if __name__ == '__main__':
    jobs = {job.__name__: job for job in (device, logits, gradients, ten_steps, export)}
    serve(lambda settings: suite.main(settings, jobs))
