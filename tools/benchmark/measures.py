"""What each mode of the benchmark measures, prints and returns.

Each `measure_MODE(flags, config, folder)` takes the flags of the command line, the configuration, and an empty
temporary folder. It prints the figures and returns them as a dict for the JSON file.
"""
import os
import statistics
import subprocess
import sys

from src.errors import UserError
from tools.benchmark import rounds
from tools.benchmark.data import write_photographs

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
STARTS = 3          # fresh processes that `compile` starts
IMAGES = 512        # files of `input`, if --images does not say it
FILES = 1280000     # files of `scale`, if --images does not say it; ImageNet has 1,281,167
CLASSES = 1000      # class folders of `scale`
LINKS = 60000       # hard links to one file in `scale`; ext4 allows 65,000
# A machine that is assumed for the question whether training waits for its input.
GPUS, GPU_SPEED, CORES = 8, 300, 16     # images a second of each GPU; CPU cores of the machine


def measure_step(flags, config, _):
    """The training step with the whole recipe, and how many kernels it executes."""
    result = rounds.compare(dict({'suite': _suite(flags, config, 'step')}, **_peers(flags, config, 'step')),
                            flags.rounds)
    _show(result)
    return dict(result, kernels=_count_kernels(flags, config))


def measure_eval(flags, config, folder):
    """uint8 images to logits."""
    subjects = dict({'suite': _suite(flags, config, 'eval')}, **_peers(flags, config, 'eval'))
    readers = [peer for peer in ('onnxruntime', 'openvino') if peer in flags.peer]
    path = _export(flags, config, folder) if readers else None
    for peer in readers:
        subjects[peer] = _command(os.environ['PEER_PYTHON'], 'peers.py', flags, config, peer, path=path)
    result = rounds.compare(subjects, flags.rounds)
    _show(result)
    return result


def measure_input(flags, config, folder):
    """The training pipeline beside MindSpore's, and whether training on 8 GPUs would wait for it."""
    folder, count = os.path.join(folder, 'photographs'), flags.images or IMAGES
    size = write_photographs([os.path.join(folder, 'class_%d' % (i % 8), '%d.JPEG' % i) for i in range(count)])
    result = rounds.compare({'suite': _suite(flags, config, 'input', folder=folder),
                             'mindspore': _suite(flags, config, 'mindspore_input', folder=folder)}, flags.rounds)
    needed = GPUS * GPU_SPEED / result['subjects']['suite']['images_per_cpu_second']
    result.update(images=count, bytes_per_image=size, cores_for_8_gpus=needed,
                  images_per_cpu_second_ratio=1 / result['ratios']['suite/mindspore']['cpu_seconds'])
    print('  %d JPEGs of %.0f KB' % (count, size / 1000))
    print('  images per CPU-second: %.2f x those of %s' % (result['images_per_cpu_second_ratio'],
                                                           result['subjects']['mindspore']['name']))
    _show(result)
    left = CORES - GPUS     # The process of each GPU keeps one core busy.
    print('  the input of %d GPUs at %d img/s needs %.1f CPU cores; with %d cores, of which each GPU\'s process takes '
          'one, training would %sbe input-bound' % (GPUS, GPU_SPEED, needed, CORES, '' if needed > left else 'not '))
    return result


def measure_compile(flags, config, _):
    """Time and memory from the start of a process to its second training step, the medians of fresh processes."""
    starts = [rounds.once(_suite(flags, config, 'compile')) for _ in range(min(STARTS, flags.rounds))]
    result = {kind: {part: statistics.median(start[kind][part] for start in starts) for part in starts[0][kind]}
              for kind in ('seconds', 'cpu_seconds', 'peak_mb')}
    result['subjects'] = {'suite': {'name': starts[0]['name'], 'starts': starts}}
    for part, seconds in result['seconds'].items():
        print('  %-26s %7.2f s  %7.2f CPU-s  %6.0f MB peak so far'
              % (part.replace('_', ' '), seconds, result['cpu_seconds'][part], result['peak_mb'][part]))
    return result


def measure_memory(flags, config, _):
    """Peak memory of training. Each worker is the only one while it runs."""
    subjects = dict({'suite': _suite(flags, config, 'step')}, **_peers(flags, config, 'step'))
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
        print('  %-42s %6.0f MB peak, the suite takes %.2f x' % (subject['name'], subject['peak_rss_mb'], ratio))
    return result


def measure_scale(flags, config, folder):
    """Time to a batch and memory with as many files as ImageNet, beside MindSpore's own reader.

    The directories have just been written, so both find them in the system's cache.
    """
    tree = os.path.join(folder, 'tree')
    _write_links(os.path.join(folder, 'sources'), tree, flags.images or FILES)
    own = rounds.once(_suite(flags, config, 'scale', folder=tree))
    other = rounds.once(_suite(flags, config, 'mindspore_scale', folder=tree))
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


MEASURES = {'step': measure_step, 'eval': measure_eval, 'input': measure_input, 'compile': measure_compile,
            'memory': measure_memory, 'scale': measure_scale}


def _command(python, file, flags, config, job, **settings):
    """(command, settings) of a worker, see `rounds.start`."""
    return ([python, os.path.join(HERE, file)],
            dict(settings, job=job, platform=flags.platform, device_id=flags.device_id, config=vars(config)))


def _suite(flags, config, job, **settings):
    """(command, settings) of a worker that does a job of suite.py."""
    return _command(sys.executable, 'suite.py', flags, config, job, **settings)


def _peers(flags, config, job):
    """{name: (command, settings)} of the wanted peers: PyTorch in both layouts, and channels last with torch.compile;
    MindCV without and with the settings of MindSpore that the suite uses."""
    python, found = os.environ.get('PEER_PYTHON'), {}
    if 'pytorch' in flags.peer:
        for layout in ('nchw', 'channels_last'):
            found['pytorch_' + layout] = _command(python, 'peers.py', flags, config, job, layout=layout, compiled=False)
    if 'torch.compile' in flags.peer:
        found['pytorch_compiled'] = _command(python, 'peers.py', flags, config, job, layout='channels_last',
                                             compiled=True)
    if 'mindcv' in flags.peer:
        for name, tuned in (('mindcv', False), ('mindcv_tuned', True)):
            found[name] = _command(python, 'peers.py', flags, config, 'mindcv_' + job, tuned=tuned)
    return found


def _show(result):
    """Print what `rounds.compare` found, the ratios first."""
    for pair, ratio in result['ratios'].items():
        print('  suite takes %.2f x the time and %.2f x the CPU time of %s'
              % (ratio['seconds'], ratio['cpu_seconds'], result['subjects'][pair.split('/')[1]]['name']))
    for subject in result['subjects'].values():
        print('  %-42s %8.3f s  %9.1f img/s  %8.1f img/CPU-s  %6.0f MB peak'
              % (subject['name'], subject['seconds'], subject['images_per_second'], subject['images_per_cpu_second'],
                 subject['peak_rss_mb']))


def _count_kernels(flags, config):
    """Count the kernels of a training step, on a CPU with and without the suite's own kernels.

    Timings are worth keeping on a machine where the profiler does not work, so that is not an error.

    Returns:
        {form of the step: {'kernels': number, 'kinds': {kind: number}}, or {'not_counted': reason}}
    """
    forms = {'as timed': True}
    if flags.platform == 'CPU':
        forms['with MindSpore\'s operators only, as on a GPU'] = False
    result = {}
    for form, own_kernels in forms.items():
        try:
            facts = rounds.once(_suite(flags, config, 'kernels', own_kernels=own_kernels))
        except UserError as error:      # The profiler may also end the process.
            facts = {'not_counted': error.sentence}
        result[form] = {key: facts[key] for key in ('kernels', 'kinds', 'not_counted') if key in facts}
        if 'not_counted' in facts:
            print('  kernels of a step, %s: could not be counted (%s)' % (form, facts['not_counted']))
        else:
            print('  kernels of a step, %s: %d (%s, ...)'
                  % (form, facts['kernels'], ', '.join('%s %d' % kind for kind in list(facts['kinds'].items())[:8])))
    return result


def _export(flags, config, folder):
    """Export the network that `eval` measures; returns the path of the ONNX file."""
    weights, target = os.path.join(folder, 'random.ckpt'), os.path.join(folder, 'random')
    rounds.once(_suite(flags, config, 'checkpoint', path=weights))
    export = [sys.executable, os.path.join(ROOT, 'export.py'), '--ckpt_file', weights, '--file_format', 'ONNX',
              '--file_name', target, '--batch_size', str(config.batch_size), '--platform', flags.platform,
              '--device_id', str(flags.device_id)]
    if subprocess.call(export, stdout=subprocess.DEVNULL):
        raise UserError('the ONNX file for onnxruntime could not be exported: see above')
    return target + '.onnx'


def _write_links(sources, tree, count):
    """Make a data set of `count` files in `tree`. They are hard links to a few JPEGs in `sources`, so all fit on a
    disk."""
    paths = [os.path.join(sources, '%d.JPEG' % i) for i in range(-(-count // LINKS))]
    write_photographs(paths)
    for label in range(CLASSES):
        name = 'n%08d' % label
        os.makedirs(os.path.join(tree, name))
        for i in range(label, count, CLASSES):
            os.link(paths[i // LINKS], os.path.join(tree, name, '%s_%d.JPEG' % (name, i)))
