"""Speed of training with 1, 2 and more processes on this machine: python tools/benchmark/scaling.py [--ranks 1 2].

For each number of processes it trains generated JPEGs (or --dataset_path) for --steps steps, after two steps that do
not count. It prints where the time of a step goes: waiting for input, averaging gradients over the processes, and the
rest, which is computation. The average is timed separately, as if no part of it could run during computation. It is
an error if a sum of known numbers over the processes is wrong. Other
flags are keys of src/config.py, for example --batch_size 8. The table at the end is an estimate for 8 GPUs, not a
measurement.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)
from src.cli import Parser, make_config, training_config
from src.config import presets
from src.errors import UserError
from src.startup import prepare

WARM_UP = 2                         # steps that do not count
AVERAGES = 5                        # timed averages of the gradients
# The estimate. Parameters of the network for ImageNet with its auxiliary head, in float32:
GRADIENT_BYTES = 7701218 * 4
# Bytes a second at which NCCL's all-reduce is assumed to move data on each of 8 GPUs ("bus bandwidth" of nccl-tests):
# a half to nine tenths of what the links of one machine can carry (V100 NVLink 150 GB/s and H100 NVSwitch 450 GB/s
# in each direction, PCI Express 3.0 x16 16 GB/s).
LINKS = (('8 x V100, PCI Express', 10e9), ('8 x V100, NVLink', 130e9), ('8 x H100, NVSwitch', 400e9))
LATENCY = 50e-6                     # assumed seconds of an all-reduce without data; there is one in a step
SPEEDS = (200, 500, 1000, 2000)     # images a second of one GPU; nobody has measured it yet


def parse(argv=None):
    """(flags, {configuration key: value}) of the command line."""
    parser = Parser('Measure data-parallel training on this machine.')
    parser.add_argument('--ranks', type=int, nargs='+', default=[1, 2], metavar='N', help='numbers of processes')
    parser.add_argument('--steps', type=int, default=10, metavar='N', help='steps that are timed')
    parser.add_argument('--json', metavar='FILE', help='write all figures to this file')
    parser.add_argument('--dataset_path', metavar='DIR', help='images, a folder per class; else generated ones')
    parser.add_argument('--preset', default='imagenet', choices=sorted(presets), help='values of src/config.py')
    parser.add_argument('--worker', type=int, default=0, help=argparse.SUPPRESS)    # this is one of so many processes
    parser.add_config_keys()
    flags, given = parser.parse(argv)
    if flags.steps < 1 or min(flags.ranks) < 1:
        parser.error('--steps and --ranks must be 1 or more')
    if make_config(presets[flags.preset], given).accumulation_steps > 1:
        parser.error('--accumulation_steps would make averaging look cheap: leave it out')
    return flags, given


def measure(flags, config, group):
    """Train as one process of `group`; returns the seconds of a step {'step', 'input', 'communication'}."""
    from src.dataset import create_dataset
    from src.network.build import build_network
    from src.network.initialize import initialize
    from src.training.train_step import StepRunner, build_train_step
    dataset = create_dataset(flags.dataset_path, config, training=True)
    train_step = build_train_step(initialize(build_network(config, training=True), 1), config, group)
    train_step.set_train(True)
    steps = dataset.get_dataset_size()
    run_step = StepRunner(train_step, config, steps)
    waits = []      # seconds that each batch was waited for
    batches = endless_batches(dataset, waits)
    for number in range(WARM_UP + flags.steps):
        if number == WARM_UP:
            began = time.time()
        run_step(batches, *divmod(number, steps))[0].asnumpy()
    step = (time.time() - began) / flags.steps
    batches.close()
    size = sum(parameter.size for parameter in train_step.optimizer.parameters)
    return {'step': step, 'input': sum(waits[WARM_UP:]) / flags.steps, 'communication': time_of_average(group, size)}


def endless_batches(dataset, waits):
    """Generate the batches of one epoch after the other; appends the seconds that each one took to `waits`."""
    epoch, batches = 0, dataset.batches(0)
    try:
        while True:
            began = time.time()
            batch = next(batches, None)
            if batch is None:
                epoch += 1
                batches = dataset.batches(epoch)
                batch = next(batches)
            waits.append(time.time() - began)
            yield batch
    finally:
        batches.close()


def time_of_average(group, size):
    """Seconds that the average of a vector of `size` float32 over all processes takes; 0 with one process."""
    mean = group.gradient_mean()
    if mean is None:
        return 0.0
    import numpy as np

    from src.framework import Tensor
    gradient = Tensor(np.zeros(size, np.float32))
    mean(gradient).asnumpy()        # compiles
    began = time.time()
    for _ in range(AVERAGES):
        mean(gradient).asnumpy()
    return (time.time() - began) / AVERAGES


def require_right_sum(group):
    """UserError if the sum of 1, 2, ... over the processes of `group` is another number than it must be."""
    import numpy as np
    found, expected = int(group.sum(np.array([group.rank + 1]))[0]), group.size * (group.size + 1) // 2
    if found != expected:
        raise UserError('the sum of 1 to %d over %d processes is %d and not %d: the processes do not exchange what '
                        'they should' % (group.size, group.size, found, expected))


def work(flags, given):
    """Be one of the measured processes; rank 0 prints its figures as a line of JSON."""
    from src.distributed.group import ending_together, join
    group = join(flags.platform, flags.device_id, flags.worker > 1)
    with ending_together(group):
        require_right_sum(group)
        figures = measure(flags, group.configure(training_config(presets[flags.preset], given)), group)
        if group.rank == 0:
            print(json.dumps(figures))


def launch(count, platform, arguments):
    """Measure in `count` new processes; returns the figures of rank 0."""
    command = [sys.executable, os.path.abspath(__file__), '--worker', str(count), '--platform', platform] + arguments
    if count > 1:
        root = ['--allow-run-as-root'] * (os.getuid() == 0)
        command = ['mpirun', '--quiet', '--oversubscribe', '--bind-to', 'none', '-n', str(count)] + root + command
    try:
        process = subprocess.run(command, stdout=subprocess.PIPE, universal_newlines=True)
    except OSError as error:
        raise UserError('%s cannot be started (%s): install Open MPI 4 or 5' % (command[0], error.strerror))
    if process.returncode:
        raise UserError('the run of %d processes ended with %d: see above' % (count, process.returncode))
    return json.loads(process.stdout.strip().split('\n')[-1])


def show(flags, batch_size, arguments):
    """Measure each number of processes and print a row for it.

    Returns:
        a list of {'processes', 'images_per_second', 'efficiency', 'communication', 'input'}. Efficiency is the speed
        divided by that of as many single processes; the last two are shares of the time of a step.
    """
    from loky import cpu_count

    from src.framework import mindspore
    print('%s, %d cores, MindSpore %s, batch %d a process, %d steps'
          % (flags.platform, cpu_count(), mindspore.__version__, batch_size, flags.steps))
    print('%9s %9s %11s %9s %15s %7s' % ('processes', 'img/s', 'of 1 x N', 'compute', 'communication', 'input'))
    first, rows = None, []      # images a second of one process, in the first row
    for count in flags.ranks:
        part = launch(count, flags.platform, arguments)
        speed = count * batch_size / part['step']
        first = first or speed / count
        sent, waited = part['communication'] / part['step'], part['input'] / part['step']
        print('%9d %9.1f %10.0f%% %8.0f%% %14.0f%% %6.0f%%'
              % (count, speed, 100 * speed / first / count, 100 * (1 - sent - waited), 100 * sent, 100 * waited),
              flush=True)
        rows.append({'processes': count, 'images_per_second': speed, 'efficiency': speed / first / count,
                     'communication': sent, 'input': waited})
    return rows


def estimate():
    """Print the speed of 8 GPUs that follows from the bytes of a gradient and the assumed links."""
    print('estimate, not measured: 8 processes, batch 32 each, %.1f MB of gradients a step, averaged after the '
          'computation' % (GRADIENT_BYTES / 1e6))
    print('%-24s' % 'img/s of one GPU' + ''.join('%18d' % speed for speed in SPEEDS))
    for name, bandwidth in LINKS:
        # A ring of n processes sends and receives 2 (n - 1) / n times the vector in each process.
        seconds = 2 * 7 / 8 * GRADIENT_BYTES / bandwidth + LATENCY
        print('%-24s' % name + ''.join('%11.0f (%3.0f%%)' % (8 * 32 / (32 / speed + seconds),
                                                             100 * 32 / speed / (32 / speed + seconds))
                                       for speed in SPEEDS) + '   %.2f ms a step' % (1000 * seconds))
    print('img/s of 8 GPUs (share of 8 times one). The input must keep up: divide by the img/s that one CPU core '
          'decodes.')


def main(argv=None):
    """Measure what the flags ask for and print a table and the estimate."""
    flags, given = parse(argv)
    prepare(given)
    if flags.worker:
        work(flags, given)
        return
    from src.files import prepare_folder, write_text
    remedy = 'choose another --json'
    if flags.json:
        prepare_folder(os.path.dirname(flags.json), remedy)
    arguments = ['--steps', str(flags.steps), '--preset', flags.preset]
    for key, value in given.items():
        arguments += ['--' + key, str(value)]
    batch_size = make_config(presets[flags.preset], given).batch_size
    with tempfile.TemporaryDirectory() as folder:
        if not flags.dataset_path:
            from tools.make_demo_dataset import make
            make(folder, max(32, -(-batch_size * max(flags.ranks) // 8)), 1, 1)     # a batch for each rank; 8 classes
        arguments += ['--dataset_path', flags.dataset_path or os.path.join(folder, 'train')]
        rows = show(flags, batch_size, arguments)
    estimate()
    if flags.json:
        write_text(flags.json, json.dumps(rows, indent=1), remedy)


if __name__ == '__main__':
    main()
