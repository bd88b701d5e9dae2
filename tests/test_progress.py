"""The progress of long work: a bar only on a terminal, and lines in a log only when nothing else comes."""
import fcntl
import io
import os
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

from src import progress
from src.errors import UserError
from src.progress import Progress, duration
from tests.helpers import ROOT


@pytest.fixture
def terminal(monkeypatch):
    """The master of a terminal of 100 columns, which is where a script lets the bar go."""
    master, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 30, 100, 0, 0))
    monkeypatch.setenv('PROGRESS_FD', str(terminal))
    yield master
    os.close(master)
    os.close(terminal)


def shown(master):
    """What a terminal has shown. The kernel may deliver it in parts."""
    text = b''
    while select.select([master], [], [], 0.3)[0]:
        text += os.read(master, 100000)
    return text.decode()


def test_the_bar_goes_only_to_the_terminal_and_its_clock_does_not_stand_still(terminal, capsys):
    with Progress('evaluating', 200, 'images', note='compiling') as work:
        time.sleep(1.3)         # one part takes long
        work.update(50, 'top-1 62.50%')
        time.sleep(0.6)
        work.print('a line')
    bar, printed = shown(terminal), capsys.readouterr().err
    assert re.search(r'evaluating:   0%\|.*\| 0/200 \[00:01<\?, \? images/s, compiling\]', bar)
    assert re.search(r'evaluating:  25%\|.*\| 50/200 \[00:0\d<.* images/s, top-1 62\.50%\]', bar)
    assert bar.endswith('\r')         # the bar has gone
    assert printed == 'a line\n'


def test_a_terminal_that_has_gone_is_no_error(monkeypatch, capsys):
    master, terminal = os.openpty()
    monkeypatch.setenv('PROGRESS_FD', str(terminal))
    with Progress('evaluating', 200, 'images') as work:
        os.close(master)
        work.update(50)
        time.sleep(0.6)
        work.print('a line')
    os.close(terminal)
    assert capsys.readouterr().err == 'a line\n'


def test_work_without_parts_shows_its_time_on_the_terminal(terminal):
    with Progress('reading FILE'):
        time.sleep(1.2)
    assert 'reading FILE: 00:01' in shown(terminal)


def test_a_log_gets_a_line_when_nothing_was_printed_for_a_while(monkeypatch, capsys):
    monkeypatch.setattr(progress, 'SILENCE', 1)
    with Progress('evaluating', 200, 'images', note='compiling') as work:
        first = ''
        while not first:        # a thread prints it
            time.sleep(0.1)
            first = capsys.readouterr().err
        work.print('another line')
        work.update(50, 'top-1 62.50%')
        time.sleep(0.5)
        work.update(50)
        time.sleep(1.5)
    second, *more = capsys.readouterr().err.split('\n')
    assert re.match(r'evaluating: 0/200 images, compiling, 00:00:0\d so far\n$', first) and second == 'another line'
    assert re.match(r'evaluating: 100/200 images, top-1 62\.50%, 00:00:0\d so far, about 00:00:0\d left$', more[0])


def test_short_work_leaves_nothing_in_a_log(capsys):
    with Progress('evaluating', 2, 'images') as work:
        work.update(2)
    with Progress('evaluating', 2, 'images', shown=False) as work:
        work.update(2)
    output = capsys.readouterr()
    assert output.out == output.err == ''


def test_nothing_goes_on_after_an_error(monkeypatch):
    monkeypatch.setattr(progress, 'SILENCE', 0)
    lines, threads = io.StringIO(), threading.active_count()
    with pytest.raises(KeyError):
        with Progress('evaluating', 2, 'images', stream=lines):
            raise KeyError
    assert lines.getvalue() == '' and threading.active_count() == threads


def test_a_full_disk_ends_the_program_with_its_sentence(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise UserError('the output cannot be written (No space left on device)')
    monkeypatch.setattr(progress, 'SILENCE', 0)
    with pytest.raises(UserError, match='No space left'):
        with Progress('evaluating', 2, 'images', stream=Full()):
            time.sleep(1.2)


def test_a_closed_pipe_is_no_error():
    code = ('import time; from src import progress; progress.SILENCE = 0\n'
            'with progress.Progress("evaluating", 2, "images"): time.sleep(2.5)\nprint("end")')
    process = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, universal_newlines=True)
    process.stderr.close()
    assert process.stdout.read() == 'end\n' and process.wait() == 0
    process.stdout.close()


@pytest.mark.parametrize('seconds,text', [(59.9, '00:00:59'), (3661, '01:01:01'), (93784, '1d 02:03:04')])
def test_durations(seconds, text):
    assert duration(seconds) == text
