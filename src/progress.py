"""How far long work is: a bar on a terminal, and lines in a log."""
import os
import sys
import threading
import time

from tqdm import tqdm

from src.errors import UserError

# Seconds without output after which a log gets a line. A person waits at most 10: MindSpore's compiler may keep this
# thread waiting for 2 seconds (measured on two cores with 2.10).
SILENCE = 8
COMPILING = 'compiling the network'     # a note for the first step or batch of a process


class Progress:
    """Shows how far one piece of work is, from here to `close`; also a context manager.

    On a terminal it is a bar, which disappears at the end. If the output goes to a file or a pipe, it is a line each
    time that nothing was printed for SILENCE seconds. So work that is done sooner leaves no line in a log. A thread
    writes both, because they must not stand still when one part of the work takes long, as compiling a network does.

    Args:
        what: the work in a few words, for example 'validating'.
        total: number of the parts of the work. None: it has no parts that can be counted.
        unit: the parts in the plural, for example 'images'.
        done: number of parts that are done already.
        note: more words; `update` can change them.
        stream: where lines go; None: to sys.stderr, because the results of a program go to stdout.
        shown: False: nothing is shown, as on ranks other than 0.

    Raises (at the end):
        UserError: the stream raised it when a line was written, see `Output` (src/startup.py).
    """

    def __init__(self, what, total=None, unit='', done=0, note='', stream=None, shown=True):
        self.what, self.total, self.unit, self.done, self.note = what, total, unit, done, note
        self.stream = stream or sys.stderr
        self.begin = self.printed = time.monotonic()
        self.first = None       # (time, parts that were done) after the first update, which may have compiled a graph
        terminal = _terminal() if shown else None
        self.bar = tqdm(total=total, initial=done, desc=what, unit=' ' + unit, postfix=note or None, leave=False,
                        file=terminal, disable=terminal is None, dynamic_ncols=True,
                        bar_format=None if total else '{desc}: {elapsed}{postfix}')
        self.lock, self.failed = threading.Lock(), None
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)
        if shown:
            self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def update(self, count=1, note=None):
        """`count` more parts are done; `note` replaces the words of before."""
        self.done += count
        self.first = self.first or (time.monotonic(), self.done)
        if note is not None:
            self.note = note

    def print(self, text, stream=None):
        """Print a line without disturbing the bar, to another stream if one is given."""
        stream = stream or self.stream
        with self.lock:
            self.printed = time.monotonic()
            self._draw(self.bar.clear)
            stream.write(text + '\n')
            stream.flush()
            self._draw(self.bar.refresh)

    def close(self):
        """The work is over, or has failed."""
        self.closed.set()
        if self.thread.is_alive():
            self.thread.join()
        self._draw(self.bar.close)
        if self.failed:
            raise self.failed

    def _follow(self):
        """Draw the bar, and print a line when one is due, until the work is over."""
        while not self.closed.wait(0.5):
            self.bar.set_postfix_str(self.note, refresh=False)
            self._draw(self.bar.update, self.done - self.bar.n)
            self._draw(self.bar.refresh)
            try:
                if time.monotonic() - self.printed >= SILENCE and not self.stream.isatty():
                    self.print(self._line())
            except (OSError, ValueError):       # nobody reads the output any more
                return
            except UserError as error:
                self.failed = error             # the thread of the program must end, not this one
                return

    def _draw(self, draw, *arguments):
        """Call a method of the bar, which is not drawn any more when the terminal has gone."""
        try:
            draw(*arguments)
        except (OSError, ValueError):
            self.bar.disable = True

    def _line(self):
        """The state of the work in a line."""
        now = time.monotonic()
        parts = [self.note] * bool(self.note) + ['%s so far' % duration(now - self.begin)]
        if self.total and self.first and self.done > self.first[1]:
            speed = (self.done - self.first[1]) / (now - self.first[0])
            parts.append('about %s left' % duration((self.total - self.done) / speed))
        if self.total:
            parts.insert(0, '%d/%d %s' % (self.done, self.total, self.unit))
        return '%s: %s' % (self.what, ', '.join(parts))


def duration(seconds):
    """93784 -> '1d 02:03:04'"""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return ('%dd ' % days if days else '') + '%02d:%02d:%02d' % (hours, minutes, seconds)


def _terminal():
    """The terminal for the bar, or None: stderr, or the one that a script keeps open for programs that it logs."""
    if sys.stderr.isatty():
        return sys.stderr
    descriptor = os.environ.get('PROGRESS_FD', '')
    if descriptor.isdigit() and os.isatty(int(descriptor)):
        return os.fdopen(os.dup(int(descriptor)), 'w')
    return None
