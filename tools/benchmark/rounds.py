"""Timed rounds in worker processes: the benchmark asks by a line on a pipe, a worker answers by a line of JSON.

Plain Python, so that the interpreter of another framework can be a worker.
"""
import json
import os
import subprocess
import sys
import time

ROUND_SECONDS = 0.5     # a round repeats its work for at least so long: one training step on a CPU, many on a GPU


def serve(prepare):
    """Run a worker: `prepare(settings)` returns (facts, work or None); facts are sent, then a round of work a line.

    `settings` are the JSON object of the command line. `work` must end with its result on the host, so that the
    device has done it.
    """
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)           # a framework may print what it likes

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
    """(seconds, CPU seconds of all threads) of one call of `work`, the mean over as many as fill `at_least` seconds."""
    count, start, cpu = 0, time.perf_counter(), time.process_time()
    while count == 0 or time.perf_counter() < start + at_least:
        work()
        count += 1
    return (time.perf_counter() - start) / count, (time.process_time() - cpu) / count


def peak_rss_mb():
    """Largest resident memory of this process so far; unlike getrusage's, not its parent's."""
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith('VmHWM'))


def start(command, settings):
    """Start a worker -> (process, its facts)."""
    try:
        process = subprocess.Popen(list(command) + [json.dumps(settings)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, universal_newlines=True)
    except OSError as error:
        raise SystemExit('error: %s cannot be run (%s)' % (command[0], error.strerror))
    try:
        return process, _answer(process)
    except BaseException:
        stop(process)
        raise


def ask(process):
    """Have a worker do one round -> its figures."""
    process.stdin.write('round\n')
    process.stdin.flush()
    return _answer(process)


def stop(process):
    """End a worker."""
    process.kill()
    process.communicate()


def _answer(process):
    line = process.stdout.readline()
    if not line:
        raise SystemExit('error: %s ended with status %d: see above' % (' '.join(process.args[:2]), process.wait()))
    return json.loads(line)
