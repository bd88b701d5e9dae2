"""Timed rounds in worker processes.

The benchmark writes one line to a worker's standard input for each round. The worker then repeats its work for a
while and answers with one line of JSON. This file uses only Python's standard library, because the interpreter of
another framework also runs it.
"""
import json
import os
import statistics
import subprocess
import sys
import time

from src.errors import UserError

ROUND_SECONDS = 0.5     # A round lasts at least this long: one training step on a CPU, many steps on a GPU.


def serve(prepare):
    """Run a worker process until its standard input ends.

    The settings come as a JSON object in the first argument of the command line. The facts that `prepare` returns are
    the first answer; every following answer holds the seconds and CPU seconds of one call of `work`. Each answer also
    holds `peak_rss_mb`.

    Args:
        prepare: function of the settings that returns (facts, work). `facts` is a dict. `work` is a function without
            arguments that ends with its result in host memory, so that the device has finished; None: the facts are
            the only answer.
    """
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)           # Frameworks print to standard output, which must hold only answers.

    def answer(values):
        answers.write(json.dumps(dict(values, peak_rss_mb=peak_rss_mb())) + '\n')
        answers.flush()

    facts, work = prepare(json.loads(sys.argv[1]))
    answer(facts)
    if work is None:
        return
    for _ in sys.stdin:
        seconds, cpu_seconds = timed(work)
        answer({'seconds': seconds, 'cpu_seconds': cpu_seconds})


def timed(work, at_least=ROUND_SECONDS):
    """Call `work` until `at_least` seconds have passed.

    Returns:
        (seconds, CPU seconds of all threads) of one call, the means over all calls.
    """
    count, start, cpu = 0, time.perf_counter(), time.process_time()
    while count == 0 or time.perf_counter() < start + at_least:
        work()
        count += 1
    return (time.perf_counter() - start) / count, (time.process_time() - cpu) / count


def peak_rss_mb():
    """The largest resident memory that this process has had, in MiB.

    The kernel's VmHWM is read, because getrusage of a new process starts with the value of its parent.
    """
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith('VmHWM'))


def start(command, settings):
    """Start a worker.

    Args:
        command: list of words, the interpreter and the file of the worker.
        settings: dict, see `serve`.

    Returns:
        (process, facts)

    Raises:
        UserError: the command cannot be run, or the worker ended before it answered.
    """
    try:
        process = subprocess.Popen(list(command) + [json.dumps(settings)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, universal_newlines=True)
    except OSError as error:
        raise UserError('%s cannot be run (%s)' % (command[0], error.strerror))
    try:
        return process, _answer(process)
    except BaseException:
        stop(process)
        raise


def ask(process):
    """Let a worker do one round.

    Returns:
        dict of `seconds` and `cpu_seconds` of one call of its work, and `peak_rss_mb`.

    Raises:
        UserError: the worker ended.
    """
    process.stdin.write('round\n')
    process.stdin.flush()
    return _answer(process)


def stop(process):
    """End a worker."""
    process.kill()
    process.communicate()


def once(subject):
    """Start the worker `subject`, a (command, settings), and end it after its first answer; returns its facts."""
    process, facts = start(*subject)
    stop(process)
    return facts


def compare(subjects, count):
    """Time several workers in turn, so that a busy machine slows all of them alike.

    Args:
        subjects: {name: (command, settings)}. One name is 'suite'. The facts of each worker hold `images`, the number
            of images in one call of its work.
        count: rounds of each worker.

    Returns:
        {'subjects': {name: facts with the medians `seconds` and `cpu_seconds` of one call, `images_per_second`,
        `images_per_cpu_second`, `peak_rss_mb` and `rounds`},
        'ratios': {'suite/NAME': {'seconds', 'cpu_seconds'}}}. A ratio is the time of the suite divided by the time
        of the other worker, for the same number of images: the median over the rounds.

    Raises:
        UserError: a worker cannot be started or ended.
    """
    workers, facts = {}, {}
    rows = {name: [] for name in subjects}
    try:
        for name, subject in subjects.items():
            workers[name], facts[name] = start(*subject)
        for _ in range(count):
            for name, process in workers.items():
                rows[name].append(ask(process))
    finally:
        for process in workers.values():
            stop(process)
    return {'subjects': {name: _medians(facts[name], rows[name]) for name in subjects},
            'ratios': {'suite/' + name: _ratios(facts, rows, name) for name in subjects if name != 'suite'}}


def _medians(facts, rows):
    """The facts of one worker together with the medians of its rounds."""
    seconds, cpu_seconds = (statistics.median(row[key] for row in rows) for key in ('seconds', 'cpu_seconds'))
    return dict(facts, seconds=seconds, cpu_seconds=cpu_seconds, images_per_second=facts['images'] / seconds,
                images_per_cpu_second=facts['images'] / cpu_seconds, peak_rss_mb=rows[-1]['peak_rss_mb'], rounds=rows)


def _ratios(facts, rows, name):
    """Time and CPU time of the suite divided by those of the worker `name`, the medians over the rounds."""
    images = facts[name]['images'] / facts['suite']['images']
    return {key: statistics.median(own[key] * images / other[key] for own, other in zip(rows['suite'], rows[name]))
            for key in ('seconds', 'cpu_seconds')}


def _answer(process):
    line = process.stdout.readline()
    if not line:
        raise UserError('%s ended with status %d: see above' % (' '.join(process.args[:2]), process.wait()))
    return json.loads(line)
