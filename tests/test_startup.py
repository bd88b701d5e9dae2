"""What programs do before they import NumPy and MindSpore: output, their own folder, and TF32."""
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from src.startup import prepare
from tests.helpers import ROOT

CHECK = os.path.join(ROOT, 'tools', 'check_dataset.py')
STRICT = dict(os.environ, PYTHONIOENCODING='utf-8:strict')     # as in a terminal with a locale like en_US.UTF-8


def check(folder, **options):
    """Run tools/check_dataset.py -> CompletedProcess."""
    return subprocess.run([sys.executable, CHECK, str(folder)], env=STRICT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, **options)


@pytest.fixture
def odd_names(tmp_path):
    """A data set with a good image, and a damaged one whose name is not UTF-8."""
    folder = tmp_path / 'class'
    folder.mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(str(folder / 'good.png'))
    with open(os.path.join(os.fsencode(str(folder)), b'caf\xe9.jpg'), 'wb') as file:
        file.write(b'no image')
    return tmp_path


def test_a_file_name_that_is_not_utf_8_is_escaped(odd_names):
    process = check(odd_names)
    assert process.returncode == 1 and b'Traceback' not in process.stderr
    assert b'caf\\udce9.jpg: ' in process.stdout and b'2 image files, 1 bad' in process.stdout


def test_a_closed_stream_takes_nothing_and_ends_nothing(odd_names):
    os.remove(os.path.join(os.fsencode(str(odd_names / 'class')), b'caf\xe9.jpg'))
    for closed in (1, 2):
        process = check(odd_names, preexec_fn=lambda closed=closed: os.close(closed))
        assert process.returncode == 0 and process.stderr == b''
        assert process.stdout.endswith(b'1 image files, 0 bad, 0 other files ignored\n' if closed == 2 else b'')
        assert (process.stdout == b'') == (closed == 1)


# Prints many lines to both streams, draws a bar on stderr, and says in a file that it has come to its end.
TALKATIVE = '''
import os, signal, sys, time
sys.path.insert(0, %r)
from src.startup import keep_output
keep_output()
signal.signal(signal.SIGHUP, signal.SIG_IGN)
print('ready')
sys.stdin.readline()
from tqdm import tqdm
for number in tqdm(range(2000), mininterval=0):
    print('line' + 60 * '.', number)
    print('a warning', file=sys.stderr)
open(sys.argv[1], 'w').close()
''' % ROOT


@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize('place', ['pipe', 'terminal'])
def test_a_reader_or_terminal_that_goes_away_ends_nothing(tmp_path, place, unbuffered):
    near, far = os.openpty() if place == 'terminal' else os.pipe()
    process = subprocess.Popen([sys.executable, '-c', TALKATIVE, str(tmp_path / 'end')], stdin=subprocess.PIPE,
                               stdout=far, stderr=far, env=dict(os.environ, PYTHONUNBUFFERED=unbuffered))
    os.close(far)
    assert os.read(near, 5) == b'ready'
    os.close(near)
    process.communicate(b'\n', timeout=60)
    assert process.returncode == 0 and (tmp_path / 'end').exists()


def test_output_that_is_full_for_a_moment_is_waited_for(tmp_path):
    near, far = os.pipe()
    os.set_blocking(far, False)         # as a program does that shares the terminal
    process = subprocess.Popen([sys.executable, '-c', TALKATIVE, str(tmp_path / 'end')], stdin=subprocess.PIPE,
                               stdout=far, stderr=subprocess.DEVNULL)
    os.close(far)
    process.stdin.write(b'\n')
    process.stdin.flush()
    time.sleep(0.5)         # the pipe holds 64 KiB at most
    with open(near, 'rb') as reader:
        lines = reader.read().split()
    process.communicate(timeout=60)
    assert process.returncode == 0 and [int(number) for number in lines[2::2]] == list(range(2000))


def test_a_full_disk_is_one_sentence(odd_names):
    with open('/dev/full', 'wb') as full:
        process = subprocess.run([sys.executable, CHECK, str(odd_names)], stdout=full, stderr=subprocess.PIPE)
        both = subprocess.run([sys.executable, CHECK, str(odd_names)], stdout=full, stderr=full)
    assert process.returncode == both.returncode == 1
    assert process.stderr == (b'error: the output cannot be written (No space left on device): make room, or send it '
                              b'to another place\n')


@pytest.mark.parametrize('program', ['train.py', 'eval.py', 'export.py', 'tools/check_dataset.py',
                                     'tools/convert_weights.py', 'tools/make_demo_dataset.py', 'tools/benchmark'])
def test_python_may_be_told_to_leave_out_the_folder_of_a_program(tmp_path, program):
    process = subprocess.run([sys.executable, os.path.join(ROOT, program), '--help'], stdout=subprocess.PIPE,
                             cwd=str(tmp_path), env=dict(os.environ, PYTHONSAFEPATH='1', PYTHONPATH=''))
    assert process.returncode == 0 and b'usage: ' in process.stdout


@pytest.mark.parametrize('closed', [1, 2])
def test_a_program_with_a_closed_stream_comes_to_its_end(tmp_path, closed):
    process = subprocess.run([sys.executable, '-c', TALKATIVE, str(tmp_path / 'end')], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, input=b'\n', preexec_fn=lambda: os.close(closed))
    assert process.returncode == 0 and (tmp_path / 'end').exists() and b'Traceback' not in process.stderr
    assert (process.stdout.count(b'line'), process.stderr.count(b'a warning')) == ((0, 2000) if closed == 1 else
                                                                                   (2000, 0))


@pytest.mark.parametrize('given,expected', [({}, '0'), ({'tf32': False}, '0'), ({'tf32': True}, None)])
def test_tf32_is_off_unless_it_is_asked_for(monkeypatch, given, expected):
    monkeypatch.setattr('src.startup.keep_ctrl_c', lambda: None)
    monkeypatch.setattr('src.startup.keep_output', lambda: None)
    for before in ('0', '1'):
        monkeypatch.setenv('NVIDIA_TF32_OVERRIDE', before)
        prepare(given)
        assert os.environ.get('NVIDIA_TF32_OVERRIDE') == expected
