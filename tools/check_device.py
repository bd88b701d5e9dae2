"""Run this first on a new device: python tools/check_device.py --platform GPU [--only CHECK...]

It checks that the device computes what independent references say, and measures what a training step costs. It prints a
table for an issue, writes the figures as JSON, and ends with status 1 if a check does not hold.

    logits     of the full network against the reference: float32, TF32 (evaluation never uses float16)
    gradients  of all parameters of a narrow network against the reference: float32, each float16 level, TF32
    repeat     ten training steps in two processes: the same bits? If not: do MindSpore's settings help, at what price?
    steps      a training step at several batch sizes: speed, memory, kernels, share of idle time
    ranks      a sum over 1, 2, 4, 8 devices, and the speed of training on them
    script     scripts/run_distribute_train_for_gpu.sh on all devices: do the ranks hold the same bits?
    export     MINDIR and ONNX files of export.py, run on a CPU, against the reference

Each check has processes of its own with a time limit, so a crash is one row of the table. The keys of src/config.py
count for repeat, steps, ranks and script. --batch_size leaves out all other batch sizes, --amp_level all other levels.
"""
import glob
import json
import os
import signal
import statistics
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
from src.cli import Parser, training_config
from src.config import choices
from src.errors import UserError
from src.startup import prepare
from tools.children import ChildFailed, run_child

BATCH_SIZES = {'GPU': (32, 64, 128, 256)}
OTHER_BATCH_SIZES = (8, 16)
RANKS = (1, 2, 4, 8)
REMEDY = 'choose another --json'
ANSWERS = 'name', 'peak_rss_mb'     # what each answer of a child holds
ROUNDS = 5                  # timed rounds of a step, of half a second or more; the median counts
# For factors of 10 bits (float16, TF32). A simulation of TF32 moves logits of size 3 by 9e-4. On a CPU float16 moves
# the median gradient by 0.09, because training with batch statistics of 8 images amplifies rounding.
HALF_BOUND, HALF_GRADIENT_BOUND = 0.02, 0.3


def ask(flags, job, keys, file='check_jobs.py', rounds=0, **settings):
    """Let a child do a job of a file in tools/ with these configuration keys; returns its answers, a list of dicts."""
    settings = dict({'platform': flags.platform, 'device_id': flags.device_id}, job=job,
                    config=vars(training_config(keys)), **settings)
    command = [sys.executable, os.path.join(ROOT, 'tools', file), json.dumps(settings)]
    return [json.loads(line) for line in run_child(command, flags.limit, 'round\n' * rounds).splitlines()]


def run_program(flags, command, keys, **variables):
    """Run a program of the project with these configuration keys as flags."""
    words = [word for key, value in keys.items() for word in ('--' + key, value)]
    run_child([command[0], os.path.join(ROOT, command[1])] + command[2:] + words, flags.limit, **variables)


def row(check, compute, *arguments):
    """A row of the table, a dict. `compute(*arguments)` returns (result, bound, whether it holds or None, figures)."""
    try:
        result, bound, holds, figures = compute(*arguments)
        verdict = {True: 'ok', False: 'BROKEN', None: '-'}[holds]
    except ChildFailed as error:
        result, bound, verdict, figures = str(error), '', 'FAILED', {}
    return {'check': check, 'result': result, 'bound': bound, 'verdict': verdict, 'figures': figures}


def precisions(flags, given):
    """[(name, configuration keys, whether it is float32)] of the ways to compute that this device has."""
    levels = (given['amp_level'],) if 'amp_level' in given else choices['amp_level']
    found = [('float32' if level == 'O0' else 'float16 ' + level, {'amp_level': level}, level == 'O0')
             for level in levels]
    return found + [('TF32', {'tf32': True}, False)] * (flags.platform == 'GPU' and 'amp_level' not in given)


def check_logits(flags, given):
    """Rows of the outputs of the full network."""
    from tools.golden.compare import BOUND

    def compute(keys, bound):
        error = ask(flags, 'logits', keys)[0]['error']
        return 'differ by %.2g' % error, '%g' % bound, error <= bound, {'error': error}
    for name, keys, exact in precisions(flags, given):
        if keys.get('amp_level', 'O0') == 'O0':
            yield row('logits, ' + name, compute, keys, BOUND if exact else HALF_BOUND)


def check_gradients(flags, given):
    """Rows of the gradients of the narrow network."""
    from tools.golden.compare import GRADIENT_BOUND, LARGEST_GRADIENT_BOUND

    def compute(keys, exact):
        facts = ask(flags, 'gradients', keys)[0]
        result = 'differ by %(error).2g (median), %(largest).2g (%(where)s)' % facts
        if not exact:
            return result, '%g (median)' % HALF_GRADIENT_BOUND, facts['error'] <= HALF_GRADIENT_BOUND, facts
        return (result, '%g (median), %g' % (GRADIENT_BOUND, LARGEST_GRADIENT_BOUND),
                facts['error'] <= GRADIENT_BOUND and facts['largest'] <= LARGEST_GRADIENT_BOUND, facts)
    for name, keys, exact in precisions(flags, given):
        yield row('gradients, ' + name, compute, keys, exact)


def check_repeat(flags, given):
    """A row that says whether ten steps give the same bits twice. The pages promise it only for a CPU."""
    keys = dict(given, batch_size=flags.batch_sizes[0])

    def compute():
        runs = [ask(flags, 'ten_steps', keys, deterministic=False)[0] for _ in range(2)]
        same = runs[0]['digest'] == runs[1]['digest']
        if same or flags.platform != 'GPU':
            return ('the same' if same else 'other') + ' bits', 'the same bits', same, {'runs': runs}
        settled = [ask(flags, 'ten_steps', keys, deterministic=True)[0] for _ in range(2)]
        if settled[0]['digest'] is None:
            return 'other bits, and this MindSpore has no setting for it', '', None, {'runs': runs}
        return ('other bits; with use_deterministic_gradients of src/framework.py %s bits in %.2f times the time'
                % ('the same' if settled[0]['digest'] == settled[1]['digest'] else 'other',
                   settled[0]['seconds'] / runs[0]['seconds']), '', None, {'runs': runs + settled})
    yield row('ten steps, two processes', compute)


def check_steps(flags, given):
    """Rows of a training step. Too little memory for a larger batch than the first one is not a failure."""
    uncounted = []      # why kernels cannot be counted; it is tried once

    def compute(size):
        keys = dict(given, batch_size=size)
        try:
            facts, *rounds = ask(flags, 'step', keys, 'benchmark/suite.py', ROUNDS)
        except ChildFailed as error:
            if error.out_of_memory and size != flags.batch_sizes[0]:
                return 'out of memory', '', None, {'reason': str(error)}
            raise
        for key in ('seconds', 'cpu_seconds'):
            facts[key] = statistics.median(each[key] for each in rounds)
        result = '%.1f images/s, %.1f ms, %.1f ms of CPU time, ' % (
            facts['images'] / facts['seconds'], 1000 * facts['seconds'], 1000 * facts['cpu_seconds'])
        if facts['gpu_memory_mb'] is None:
            result += '%.0f MB of the host' % rounds[-1]['peak_rss_mb']
        else:
            result += '%.0f MB of the GPU in use' % facts['gpu_memory_mb']
        counted, found = count(keys, facts['seconds'])
        return result + counted, '', None, dict(facts, **found)

    def count(keys, seconds):
        if not uncounted:
            try:
                found = ask(flags, 'kernels', keys, 'benchmark/suite.py', own_kernels=True)[0]
            except ChildFailed as error:        # the profiler may also end the process
                found = {'not_counted': str(error)}
            if 'kernels' in found:
                busy = found['device_seconds']
                return (', %d kernels' % found['kernels']
                        + ('' if busy is None else ', idle %.0f %%' % max(0, 100 - 100 * busy / seconds)), found)
            uncounted.append(found['not_counted'])
        return ', kernels not counted (%s)' % uncounted[0][:80], {'not_counted': uncounted[0]}
    for size in flags.batch_sizes:
        yield row('step, batch %d' % size, compute, size)


def check_ranks(flags, given):
    """Rows of training on several devices, each with a sum whose value is known."""
    speeds = []         # images a second of one rank

    def compute(count):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'figures.json')
            run_program(flags, [sys.executable, 'tools/benchmark/scaling.py', '--platform', flags.platform, '--ranks',
                                count, '--json', path], dict(given, batch_size=flags.batch_sizes[0]))
            with open(path) as file:
                found, = json.load(file)
        speeds.append(found['images_per_second'] / count)
        return ('the sum is right; %.1f images/s, %.0f %% of %d x 1, %.0f %% of a step for the exchange'
                % (found['images_per_second'], 100 * speeds[-1] / speeds[0], count, 100 * found['communication']),
                'the sum is right', True, found)
    for count in sorted({count for count in RANKS if count < flags.devices} | {flags.devices}):
        yield row('ranks: %d' % count, compute, count)


def check_script(flags, given):
    """A row of the script for several GPUs, where there are several. It trains two steps with generated images."""
    def compute():
        from src.checkpoints.checkpoint import load
        from src.files import digest
        from tools.make_demo_dataset import make
        count, size = flags.devices, flags.batch_sizes[0]
        with tempfile.TemporaryDirectory() as folder:
            make(os.path.join(folder, 'images'), -(-2 * size * count // 8), 1, 1)      # it has 8 classes
            run_program(flags, ['sh', 'scripts/run_distribute_train_for_gpu.sh',
                                os.path.join(folder, 'images', 'train')],
                        dict(given, batch_size=size, epoch_size=1, is_save_on_master=0,
                             ckpt_path=os.path.join(folder, 'run')),
                        DEVICE_NUM=str(count), PLATFORM=flags.platform, PYTHON=sys.executable, LOG_DIR=folder)
            found = [digest(load(path).arrays).tobytes().hex()[:16]
                     for path in sorted(glob.glob(os.path.join(folder, 'run', 'nasnet-a-mobile-rank*-1_2.ckpt')))]
        return ('%d checkpoints, %s bits' % (len(found), 'the same' if len(set(found)) == 1 else 'different'),
                '%d checkpoints, the same bits' % count, len(found) == count and len(set(found)) == 1,
                {'digests': found})
    if flags.devices > 1:
        yield row('script, %d ranks' % flags.devices, compute)


def check_export(flags, _):
    """Rows of the exported files."""
    from tools.golden.compare import BOUND

    def compute(file_format):
        error = ask(flags, 'export', {}, platform='CPU', device=flags.platform, file_format=file_format)[0]['error']
        return 'logits differ by %.2g' % error, '%g' % BOUND, error <= BOUND, {'error': error}
    for file_format in ('MINDIR', 'ONNX'):
        yield row('export, ' + file_format, compute, file_format)


CHECKS = {'logits': check_logits, 'gradients': check_gradients, 'repeat': check_repeat, 'steps': check_steps,
          'ranks': check_ranks, 'script': check_script, 'export': check_export}


def parse(argv=None):
    """(flags, {configuration key: value}) of the command line."""
    parser = Parser('Check a device against references, and measure training on it.')
    parser.add_argument('--only', nargs='+', choices=CHECKS, default=list(CHECKS), metavar='CHECK',
                        help='some of: ' + ', '.join(CHECKS))
    parser.add_argument('--limit', type=int, default=1800, metavar='SECONDS', help='time limit of a child process')
    parser.add_argument('--json', default='check_device.json', metavar='FILE', help='where to write the figures')
    parser.add_config_keys()
    flags, given = parser.parse(argv)
    if flags.limit < 1:
        parser.error('--limit must be 1 or more, got %d' % flags.limit)
    flags.batch_sizes = BATCH_SIZES.get(flags.platform, OTHER_BATCH_SIZES)
    if 'batch_size' in given:
        flags.batch_sizes = (given['batch_size'],)
    training_config(given)      # Whether the values fit together is said before anything starts.
    return flags, given


def show(*cells):
    """Print a row of a table in Markdown, at once, because the next one may take minutes."""
    print('| %s |' % ' | '.join(str(cell).replace('|', '/') for cell in cells), flush=True)


def main(argv=None):
    """Check, print the table, write the JSON file."""
    flags, given = parse(argv)
    prepare(given)
    for number in (signal.SIGTERM, signal.SIGHUP):      # so that children are ended too
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    from src.files import prepare_folder, write_text
    prepare_folder(os.path.dirname(flags.json), REMEDY)
    try:
        facts = ask(flags, 'device', {})[0]
    except ChildFailed as error:        # then nothing else can work
        raise UserError('the device cannot be used: %s' % str(error).split('error: ')[-1])
    flags.devices = facts.get('GPUs', 2)        # on a CPU: processes
    print(', '.join('%s: %s' % (key, value) for key, value in facts.items() if key not in ANSWERS) + '\n')
    columns, rows = ('check', 'result', 'bound', 'verdict'), []
    show(*columns)
    show(*['---'] * len(columns))
    for name in CHECKS:
        for found in CHECKS[name](flags, given) if name in flags.only else ():
            show(*[found[column] for column in columns])
            rows.append(found)
    write_text(flags.json, json.dumps({'device': facts, 'config': given, 'rows': rows}, indent=1),
               REMEDY)
    bad = [each['check'] for each in rows if each['verdict'] in ('BROKEN', 'FAILED')]
    if bad:
        raise UserError('%d of %d rows do not hold (%s): see the table' % (len(bad), len(rows), '; '.join(bad)))


if __name__ == '__main__':
    main()
