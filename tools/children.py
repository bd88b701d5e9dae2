"""Runs child processes of which each may crash or hang, and says why in one line."""
import os
import re
import signal
import subprocess
import tempfile

OUT_OF_MEMORY = re.compile(r'out of memory|memory (is )?not enough|memory isn.t enough|cudaMalloc failed'
                           r'|alloc\w* (device )?memory failed', re.I)


class ChildFailed(Exception):
    """A child failed or took too long; the message is one line. `out_of_memory`: it asked for more than there is."""

    def __init__(self, message, out_of_memory=False):
        super().__init__(message)
        self.out_of_memory = out_of_memory


def run_child(command, limit, text='', **variables):
    """Run a command in an empty folder with `text` as its input and further environment variables.

    Returns:
        its standard output.

    Raises:
        ChildFailed: it ended with another status than 0, or it took more than `limit` seconds and was ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([str(word) for word in command], cwd=folder, start_new_session=True,
                                   env=dict(os.environ, **variables), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, universal_newlines=True, errors='replace')
        try:
            output, errors = process.communicate(text, timeout=limit)
        except subprocess.TimeoutExpired:
            raise ChildFailed('took more than %d s' % limit)
        finally:
            _end(process)
    if process.returncode == -signal.SIGKILL:       # what Linux does when the memory of the host is used up
        raise ChildFailed('was killed', out_of_memory=True)
    if process.returncode:
        raise ChildFailed('status %d: %s' % (process.returncode, _reason(errors + output)),
                          OUT_OF_MEMORY.search(errors) is not None)
    return output


def _end(process):
    """End a process that still runs, with all that it has started. The scripts end at once at a second SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                pass


def _reason(text):
    """The line of an output that says most: a sentence of this suite, else a Python error, else the last line."""
    lines = [line.strip() for line in text.split('\n') if line.strip()] or ['it said nothing']
    for pattern in ('error: ', r'[\w.]*(Error|Exception)\b', ''):
        said = [line for line in lines if re.match(pattern, line)]
        if said:
            return said[-1][:200]
