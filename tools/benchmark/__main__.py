"""Speed and memory of this suite beside its peers, in one run: python tools/benchmark.py [MODE] [flags] (see --help).

    step      the training step of the whole recipe, and the kernels it executes
    eval      uint8 images to logits
    input     the training pipeline beside MindSpore's C++ operators, on generated JPEGs of 500x375 pixels
    compile   from the start of a process through its first training step
    memory    largest resident memory of a process that trains
    scale     1.28 million files in 1,000 classes (hard links): time to a batch and memory; not part of all

Data are synthetic. Each subject runs in a process of its own, is warmed up, and is timed in rounds in turn with
the others, so that a busy machine slows all of them; ratios are medians over the rounds. Peers are run by the
interpreter that the environment variable PEER_PYTHON names.
"""
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
from src.cli import Parser, make_config  # noqa: E402  pylint: disable=wrong-import-position
from src.errors import UserError  # noqa: E402  pylint: disable=wrong-import-position
from tools import rounds  # noqa: E402  pylint: disable=wrong-import-position

MODES = ('step', 'eval', 'input', 'compile', 'memory')
STARTS = 3              # fresh processes of `compile`
LINKS = 60000           # to one file; ext4 allows 65,000
GPUS, SPEED, CORES = 8, 300, 16     # the machine whose input is reckoned: GPUs of so many img/s, CPU cores


def parse(argv=None):
    """Flags and configuration of the command line."""
    parser = Parser('Measure this suite beside its peers.')
    parser.add_argument('mode', nargs='?', default='all', choices=MODES + ('all', 'scale'), help='what to measure')
    parser.add_argument('--peer', action='append', default=[], choices=('pytorch', 'onnxruntime', 'mindcv'),
                        help='compare with it (step, eval, memory); run by the interpreter PEER_PYTHON')
    parser.add_argument('--rounds', default=7, type=int, metavar='N', help='timed rounds of each subject')
    parser.add_argument('--images', type=int, metavar='N',
                        help='files of input (not given: 512) or scale (not given: 1,280,000)')
    parser.add_argument('--json', metavar='FILE', help='write all figures there')
    parser.add_config_keys()
    flags, given = parser.parse(argv)
    config = make_config({'batch_size': 16}, given)
    if flags.rounds < 1:
        parser.error('--rounds must be 1 or more, got %d' % flags.rounds)
    if flags.images is not None and flags.images < 1000 * (flags.mode == 'scale') + config.batch_size:
        parser.error('--images %d is too few: give a batch, in scale 1,000 more' % flags.images)
    if flags.peer and not shutil.which(os.environ.get('PEER_PYTHON', '')):
        parser.error('--peer needs the environment variable PEER_PYTHON: a Python with the packages of the peer')
    if 'pytorch' in flags.peer and config.cells_per_stage != 4:
        parser.error('the PyTorch port has four cells a stage: leave --cells_per_stage out')
    if 'pytorch' in flags.peer and config.image_size % 32:
        parser.error('the PyTorch port takes multiples of 32 pixels: choose another --image_size')
    return flags, config


def command(flags, config, job, script='benchmark_suite.py', **settings):
    """(command, settings) of a worker."""
    python = os.environ['PEER_PYTHON'] if script == 'benchmark_peers.py' else sys.executable
    return ([python, os.path.join(ROOT, 'tools', script)],
            dict(settings, job=job, platform=flags.platform, device_id=flags.device_id, config=vars(config)))


def peers(flags, config, job):
    """{name: command} of PyTorch in both layouts and of MindCV, as wanted."""
    found = {'pytorch_' + layout: command(flags, config, job, 'benchmark_peers.py', layout=layout)
             for layout in ('nchw', 'channels_last') if 'pytorch' in flags.peer}
    for tuned in (False, True) if 'mindcv' in flags.peer else ():       # as it comes, and with the suite's settings
        found['mindcv' + '_tuned' * tuned] = command(flags, config, 'mindcv_' + job, 'benchmark_peers.py', tuned=tuned)
    return found


def once(subject):
    """Facts of a worker that answers but once."""
    process, facts = rounds.start(*subject)
    rounds.stop(process)
    return facts


def compare(subjects, count):
    """Time subjects in turn.

    Returns {'subjects': {name: facts, median seconds and CPU seconds of one repetition, images_per_second,
    images_per_cpu_second, peak_rss_mb}, 'ratios': {'suite/NAME': {'seconds', 'cpu_seconds'}}}; a ratio is the
    median over the rounds of suite's time / the other's.
    """
    workers, facts = {}, {}
    figures = {name: [] for name in subjects}
    try:
        for name, subject in subjects.items():
            workers[name], facts[name] = rounds.start(*subject)
        for _ in range(count):
            for name, process in workers.items():
                figures[name].append(rounds.ask(process))
    finally:
        for process in workers.values():
            rounds.stop(process)
    result, ratios = {}, {}
    for name, rows in figures.items():
        seconds, cpu_seconds = (statistics.median(row[key] for row in rows) for key in ('seconds', 'cpu_seconds'))
        result[name] = dict(facts[name], seconds=seconds, cpu_seconds=cpu_seconds,
                            images_per_second=facts[name]['images'] / seconds,
                            images_per_cpu_second=facts[name]['images'] / cpu_seconds,
                            peak_rss_mb=rows[-1]['peak_rss_mb'], rounds=rows)
        if name != 'suite':
            ratios['suite/' + name] = {
                key: statistics.median(own[key] * facts[name]['images'] / (row[key] * facts['suite']['images'])
                                       for own, row in zip(figures['suite'], rows))
                for key in ('seconds', 'cpu_seconds')}
    return {'subjects': result, 'ratios': ratios}


def show(result):
    """Print what `compare` found, ratios first."""
    for pair, ratio in result['ratios'].items():
        print('  suite takes %.2f x the time and %.2f x the CPU time of %s'
              % (ratio['seconds'], ratio['cpu_seconds'], result['subjects'][pair.split('/')[1]]['name']))
    for subject in result['subjects'].values():
        print('  %-42s %8.3f s  %9.1f img/s  %8.1f img/CPU-s  %6.0f MB peak'
              % (subject['name'], subject['seconds'], subject['images_per_second'], subject['images_per_cpu_second'],
                 subject['peak_rss_mb']))


def measure_step(flags, config, _):
    """The training step, and its kernels by kind."""
    result = compare(dict({'suite': command(flags, config, 'step')}, **peers(flags, config, 'step')), flags.rounds)
    show(result)
    result['kernels'] = {}
    for name, own_kernels in (('as timed', True), ('by MindSpore\'s operators alone, the form for a GPU', False)):
        if own_kernels or flags.platform == 'CPU':
            counted = once(command(flags, config, 'kernels', own_kernels=own_kernels))
            result['kernels'][name] = {key: counted[key] for key in ('kernels', 'kinds')}
            kinds = list(counted['kinds'].items())[:8]
            print('  kernels executed a step, %s: %d (%s, ...)'
                  % (name, counted['kernels'], ', '.join('%s %d' % kind for kind in kinds)))
    return result


def measure_eval(flags, config, folder):
    """uint8 images to logits."""
    subjects = dict({'suite': command(flags, config, 'eval')}, **peers(flags, config, 'eval'))
    if 'onnxruntime' in flags.peer:
        weights, exported = os.path.join(folder, 'random.ckpt'), os.path.join(folder, 'random')
        once(command(flags, config, 'checkpoint', path=weights))
        export = [sys.executable, os.path.join(ROOT, 'export.py'), '--ckpt_file', weights, '--file_format', 'ONNX',
                  '--file_name', exported, '--batch_size', str(config.batch_size), '--platform', flags.platform,
                  '--device_id', str(flags.device_id)]
        if subprocess.call(export, stdout=subprocess.DEVNULL):
            raise UserError('the ONNX file for onnxruntime could not be exported: see above')
        subjects['onnxruntime'] = command(flags, config, 'onnxruntime', 'benchmark_peers.py', path=exported + '.onnx')
    result = compare(subjects, flags.rounds)
    show(result)
    return result


def measure_input(flags, config, folder):
    """The training pipeline, and whether a machine of 8 GPUs would wait for it."""
    folder = os.path.join(folder, 'photographs')
    count = flags.images or 512
    size = photographs([os.path.join(folder, 'class_%d' % (i % 8), '%d.JPEG' % i) for i in range(count)])
    result = compare({'suite': command(flags, config, 'input', folder=folder),
                      'mindspore': command(flags, config, 'mindspore_input', folder=folder)}, flags.rounds)
    own, other = (result['subjects'][name] for name in ('suite', 'mindspore'))
    needed = GPUS * SPEED / own['images_per_cpu_second']
    result.update(images=count, bytes_per_image=size, cores_for_8_gpus=needed,
                  images_per_cpu_second_ratio=1 / result['ratios']['suite/mindspore']['cpu_seconds'])
    print('  %d JPEGs of %.0f KB' % (count, size / 1000))
    print('  images per CPU-second: %.2f x those of %s' % (result['images_per_cpu_second_ratio'], other['name']))
    show(result)
    print('  %d GPUs at %d img/s need %.1f of %d cores for their input: %sinput-bound'
          % (GPUS, SPEED, needed, CORES, '' if needed > CORES - GPUS else 'not ')
          + ' (each GPU has a core of its own for its process)')
    return result


def measure_compile(flags, config, _):
    """Median seconds and memory of starts, each in a fresh process."""
    starts = [once(command(flags, config, 'compile')) for _ in range(min(STARTS, flags.rounds))]
    result = {kind: {name: statistics.median(start[kind][name] for start in starts) for name in starts[0][kind]}
              for kind in ('seconds', 'cpu_seconds', 'peak_mb')}
    result['subjects'] = {'suite': {'name': starts[0]['name'], 'starts': starts}}
    for name, seconds in result['seconds'].items():
        print('  %-26s %7.2f s  %7.2f CPU-s  %6.0f MB peak so far'
              % (name.replace('_', ' '), seconds, result['cpu_seconds'][name], result['peak_mb'][name]))
    return result


def measure_memory(flags, config, _):
    """Peak memory of training, each subject in a fresh process that runs alone."""
    subjects = dict({'suite': command(flags, config, 'step')}, **peers(flags, config, 'step'))
    result = {'subjects': {}, 'ratios': {}}
    for name, subject in subjects.items():
        process, facts = rounds.start(*subject)
        try:
            result['subjects'][name] = {'name': facts['name'], 'peak_rss_mb': rounds.ask(process)['peak_rss_mb']}
        finally:
            rounds.stop(process)
    for name, subject in result['subjects'].items():
        ratio = result['subjects']['suite']['peak_rss_mb'] / subject['peak_rss_mb']
        if name != 'suite':
            result['ratios']['suite/' + name] = {'peak_rss_mb': ratio}
        print('  %-42s %6.0f MB peak, suite takes %.2f x' % (subject['name'], subject['peak_rss_mb'], ratio))
    return result


def measure_scale(flags, config, folder):
    """A large folder: time to batches and memory, the suite's and MindSpore's own reader's."""
    count = flags.images or 1280000
    sources = [os.path.join(folder, 'sources', '%d.JPEG' % i) for i in range(-(-count // LINKS))]
    photographs(sources)
    tree = os.path.join(folder, 'tree')
    for label in range(1000):
        name = 'n%08d' % label
        os.makedirs(os.path.join(tree, name))
        for i in range(label, count, 1000):
            os.link(sources[i // LINKS], os.path.join(tree, name, '%s_%d.JPEG' % (name, i)))
    # Both find the directories in the system's cache: they have just been written.
    own = once(command(flags, config, 'scale', folder=tree))
    other = once(command(flags, config, 'mindspore_scale', folder=tree))
    ratios = {key: own[key] / other[key] for key in ('first_batch_seconds', 'first_batch_mb')}
    print('  first batch: suite takes %.2f x the time and %.2f x the memory of %s'
          % (ratios['first_batch_seconds'], ratios['first_batch_mb'], other['name']))
    print('  %d files in %d classes: scan %.2f s, first batch after %.2f s, %.0f MB more, peak %.0f MB'
          % (own['files'], own['classes'], own['scan_seconds'], own['first_batch_seconds'], own['first_batch_mb'],
             own['first_batch_peak_rss_mb']))
    print('  order of an epoch %.2f s, first batch of a run resumed in mid-epoch %.2f s after the scan; peak %.0f MB'
          % (own['epoch_order_seconds'], own['mid_epoch_seconds'], own['peak_rss_mb']))
    print('  %s: first batch after %.2f s, %.0f MB more, peak %.0f MB'
          % (other['name'], other['first_batch_seconds'], other['first_batch_mb'], other['first_batch_peak_rss_mb']))
    return {'subjects': {'suite': own, 'mindspore': other}, 'ratios': {'suite/mindspore': ratios}}


def photographs(paths):
    """Write a JPEG of 500x375 pixels and photograph-like detail to each path; returns their mean size in bytes.

    Noise of all scales, its contrast falling with frequency as in photographs, makes decoding cost what it does
    there. Only the first 64 differ.
    """
    for number, path in enumerate(paths):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if number >= 64:
            shutil.copyfile(paths[number % 64], path)
            continue
        random = np.random.RandomState(number)
        pixels = np.full((375, 500, 3), 128.0)
        for octave in range(1, 9):
            coarse = random.normal(0, 90 * 0.75 ** octave, (3 * 2 ** (octave - 1), 4 * 2 ** (octave - 1), 3))
            coarse = 0.3 * coarse + 0.7 * coarse.mean(2, keepdims=True)     # mostly grey, as colours in nature
            for channel in range(3):
                layer = Image.fromarray(coarse[:, :, channel].astype(np.float32))
                pixels[:, :, channel] += np.asarray(layer.resize((500, 375), Image.BICUBIC))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=95)
    return sum(map(os.path.getsize, paths)) / len(paths)


def machine(flags):
    """What the figures were measured on."""
    with open('/proc/cpuinfo') as cpuinfo:
        model = next((line.split(':')[1].strip() for line in cpuinfo if line.startswith('model name')), 'unknown CPU')
    with open('/proc/meminfo') as meminfo:
        memory = int(meminfo.readline().split()[1]) / 2 ** 20
    found = {'cpu': model, 'cores': os.cpu_count(), 'memory_gb': round(memory, 1), 'load': os.getloadavg()[0],
             'python': platform.python_version(), 'platform': flags.platform}
    if flags.platform == 'GPU' and shutil.which('nvidia-smi'):
        query = ['nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader', '-i', str(flags.device_id)]
        found['gpu'] = subprocess.run(query, stdout=subprocess.PIPE, universal_newlines=True).stdout.strip()
    return found


def main(flags, config):
    """Measure, print, write the figures."""
    figures = {'machine': machine(flags), 'config': vars(config)}
    described = figures['machine']
    print('%s%s, %d cores, %.0f GB, load %.2f at the start; Python %s; batch %d, %d pixels, %d rounds'
          % (described['gpu'] + '; ' if 'gpu' in described else '', described['cpu'], described['cores'],
             described['memory_gb'], described['load'], described['python'], config.batch_size, config.image_size,
             flags.rounds))
    measures = {'step': measure_step, 'eval': measure_eval, 'input': measure_input, 'compile': measure_compile,
                'memory': measure_memory, 'scale': measure_scale}
    for mode in MODES if flags.mode == 'all' else (flags.mode,):
        print('%s:' % mode, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            figures[mode] = measures[mode](flags, config, folder)
    if 'step' in figures and 'input' in figures:
        share = (figures['step']['subjects']['suite']['images_per_second']
                 / figures['input']['subjects']['suite']['images_per_second'])
        print('training here takes %.1f %% of what the input delivers' % (100 * share))
    if flags.json:
        try:
            with open(flags.json, 'w') as output:
                json.dump(figures, output, indent=1)
        except OSError as error:
            raise UserError('%s cannot be written (%s): choose another file' % (flags.json, error.strerror))


if __name__ == '__main__':
    main(*parse())
