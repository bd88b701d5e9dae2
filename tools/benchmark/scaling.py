"""Speed of training on 1, 2 ... processes of this machine: python tools/scaling.py [--ranks 1 2] [--platform CPU].

Each count trains generated JPEGs (or --dataset_path) for --steps steps after two that are not counted, and says
where the time of a step went: waiting for input, the average of the gradients over the processes (timed alone,
as if nothing of it were hidden behind the computation), and the rest, computation. Flags that are not known
here are keys of src/config.py: --batch_size 8. At the end an estimate, not a measurement, of 8 GPUs.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
from nasnet_a_mobile import initialize  # noqa: E402  pylint: disable=wrong-import-position
from src import group  # noqa: E402  pylint: disable=wrong-import-position
from src.build import build_network, build_train_step  # noqa: E402  pylint: disable=wrong-import-position
from src.cli import Parser, make_config  # noqa: E402  pylint: disable=wrong-import-position
from src.config import presets  # noqa: E402  pylint: disable=wrong-import-position
from src.dataset import create_dataset  # noqa: E402  pylint: disable=wrong-import-position
from src.framework import Tensor, mindspore  # noqa: E402  pylint: disable=wrong-import-position
from tools.make_demo_dataset import make  # noqa: E402  pylint: disable=wrong-import-position

WARM_UP = 2
GRADIENT_BYTES = 7701218 * 4        # of ImageNet's network with its auxiliary head, in float32
# Bytes a second at which NCCL's all-reduce is assumed to move data on each of 8 GPUs ("bus bandwidth" of nccl-tests):
# a half to nine tenths of what the links of one machine add up to (V100 NVLink 150 GB/s, H100 NVSwitch 450 GB/s
# in each direction, PCI Express 3.0 x16 16 GB/s).
LINKS = (('8 x V100, PCI Express', 10e9), ('8 x V100, NVLink', 130e9), ('8 x H100, NVSwitch', 400e9))
LATENCY = 50e-6                     # seconds of a call; two calls a step
SPEEDS = (200, 500, 1000, 2000)     # images a second of one GPU, unknown as long as nobody has measured it


def measure(flags, config):
    """Seconds of a step spent on each part by this process -> {part: seconds}."""
    flags.is_distributed = flags.worker > 1
    group.enter(flags, config)
    dataset = create_dataset(flags.dataset_path, config, training=True)
    step = build_train_step(initialize(build_network(config, training=True), 1), config).set_train(True)
    mask = Tensor(np.ones((config.batch_size, config.penultimate_filters), np.float32))
    numbers = [Tensor(value, mindspore.float32) for value in (0.0, 0.0)]
    waited, done, epoch = 0.0, 0, 0
    batches, start = dataset.batches(0), None
    while done < WARM_UP + flags.steps:
        if done == WARM_UP:
            start, waited = time.time(), 0.0
        before = time.time()
        batch = next(batches, None)
        if batch is None:
            epoch += 1
            batches = dataset.batches(epoch)
            batch = next(batches)
        waited += time.time() - before
        step(Tensor(batch.images), Tensor(batch.labels), Tensor(batch.color), mask, *numbers)[0].asnumpy()
        done += 1
    whole, sent = (time.time() - start) / flags.steps, 0.0
    if flags.worker > 1:
        mean = group.GroupMean(config.group_size)
        gradient = Tensor(np.zeros(sum(p.size for p in step.optimizer.parameters), np.float32))
        mean(gradient).asnumpy()
        start = time.time()
        for _ in range(5):
            mean(gradient).asnumpy()
        sent = (time.time() - start) / 5
    batches.close()
    return {'step': whole, 'input': waited / flags.steps, 'communication': sent}


def launch(count, platform, arguments):
    """Measure in `count` new processes; returns the numbers of rank 0."""
    command = [sys.executable, os.path.abspath(__file__), '--worker', str(count), '--platform', platform] + arguments
    if count > 1:
        root = ['--allow-run-as-root'] * (os.getuid() == 0)
        command = ['mpirun', '--quiet', '--oversubscribe', '--bind-to', 'none', '-n', str(count)] + root + command
    try:
        process = subprocess.run(command, stdout=subprocess.PIPE, universal_newlines=True)
    except OSError as error:
        sys.exit('error: %s cannot be started (%s): install Open MPI 4 or 5' % (command[0], error.strerror))
    if process.returncode:
        sys.exit('error: the run of %d processes ended with %d: see above' % (count, process.returncode))
    return json.loads(process.stdout.strip().split('\n')[-1])


def estimate():
    """Share of the time that averaging gradients would take on 8 GPUs, from their bytes and assumed links."""
    print('estimate, not measured: 8 processes, batch 32 each, %.1f MB of gradients a step, nothing overlapped'
          % (GRADIENT_BYTES / 1e6))
    print('%-24s' % 'img/s of one GPU' + ''.join('%18d' % speed for speed in SPEEDS))
    for name, bandwidth in LINKS:
        seconds = 2 * 7 / 8 * GRADIENT_BYTES / bandwidth + 2 * LATENCY
        print('%-24s' % name + ''.join('%11.0f (%3.0f%%)' % (8 * 32 / (32 / speed + seconds),
                                                             100 * 32 / speed / (32 / speed + seconds))
                                       for speed in SPEEDS) + '   %.2f ms a step' % (1000 * seconds))
    print('img/s of 8 GPUs (share of 8 times one); input must keep up: divide by the img/s of a core that '
          'decodes')


def main():
    """Flags to a table."""
    parser = Parser('Measure data-parallel training on this machine.')
    parser.add_argument('--ranks', type=int, nargs='+', default=[1, 2], metavar='N', help='numbers of processes')
    parser.add_argument('--steps', type=int, default=10, metavar='N', help='steps that are timed')
    parser.add_argument('--dataset_path', metavar='DIR', help='images, a folder per class; else generated ones')
    parser.add_argument('--preset', default='imagenet', choices=sorted(presets), help='values of src/config.py')
    parser.add_argument('--worker', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_config_keys()
    flags, given = parser.parse()
    config = make_config(presets[flags.preset], given)
    if config.accumulation_steps > 1:
        parser.error('--accumulation_steps would hide what is measured: leave it out')
    if flags.worker:
        numbers = measure(flags, config)
        if config.rank == 0:
            print(json.dumps(numbers))
        return
    arguments = ['--steps', str(flags.steps), '--preset', flags.preset]
    for key, value in given.items():
        arguments += ['--' + key, str(value)]
    with tempfile.TemporaryDirectory() as work:
        if not flags.dataset_path:
            make(work, 32, 1, 1)
        arguments += ['--dataset_path', flags.dataset_path or os.path.join(work, 'train')]
        print('%s, %d cores, MindSpore %s, batch %d a process, %d steps'
              % (flags.platform, os.cpu_count(), mindspore.__version__, config.batch_size, flags.steps))
        print('%9s %9s %11s %9s %15s %7s' % ('processes', 'img/s', 'of 1 x N', 'compute', 'communication', 'input'))
        first = None
        for count in flags.ranks:
            part = launch(count, flags.platform, arguments)
            speed = count * config.batch_size / part['step']
            first = first or speed / count
            sent, waited = part['communication'] / part['step'], part['input'] / part['step']
            print('%9d %9.1f %10.0f%% %8.0f%% %14.0f%% %6.0f%%' % (
                count, speed, 100 * speed / first / count, 100 * (1 - sent - waited), 100 * sent, 100 * waited),
                flush=True)
    estimate()


if __name__ == '__main__':
    main()
