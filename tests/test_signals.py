"""Ctrl-C and the signals that ask a process to end."""
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT

WAIT = 'print("ready", flush=True)\nwhile True: time.sleep(0.1)'
LISTEN = 'import time\nfrom src.signals import StopRequest\nstop = StopRequest()\n'


def start(code):
    """Start Python code that prints a line when it listens to signals -> Popen."""
    process = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               universal_newlines=True)
    assert process.stdout.readline() == 'ready\n'
    return process


@pytest.mark.parametrize('number,status', [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143),
                                           (signal.SIGUSR2, 130)])
def test_the_first_signal_is_noted(number, status):
    process = start(LISTEN + 'print("ready", flush=True)\nwhile not stop.status: time.sleep(0.01)\nprint(stop.status)')
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == '%d\n' % status and process.returncode == 0


def test_a_second_signal_ends_at_once():
    process = start('import src.framework\n' + LISTEN + WAIT)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)          # a script's copy of the same Ctrl-C
    time.sleep(0.8)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == 130


def test_ctrl_c_ends_without_a_traceback_although_mindspore_is_loaded():
    process = start('import time\nfrom src.signals import keep_ctrl_c\nkeep_ctrl_c()\nimport src.framework\n' + WAIT)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ('', '') and process.returncode == 130


def test_a_background_job_listens_to_ctrl_c_although_its_shell_ignores_it():
    code = ('import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n'
            'from src.signals import keep_ctrl_c\nkeep_ctrl_c()\n' + WAIT)
    process = start(code)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ('', '') and process.returncode == 130
