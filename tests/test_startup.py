"""What programs do before they import NumPy and MindSpore: output and TF32."""
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from src.startup import prepare
from tests.helpers import ROOT

STRICT = dict(os.environ, PYTHONIOENCODING='utf-8:strict')     # as in a terminal with a locale like en_US.UTF-8


def check(folder, **options):
    """Run tools/check_dataset.py -> CompletedProcess."""
    return subprocess.run([sys.executable, os.path.join(ROOT, 'tools', 'check_dataset.py'), str(folder)], env=STRICT,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


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
    for descriptor in (1, 2):
        process = check(odd_names, preexec_fn=lambda closed=descriptor: os.close(closed))
        assert process.returncode == 1 and b'Traceback' not in process.stderr


def test_a_program_answers_with_stderr_closed(odd_names):
    process = subprocess.run([sys.executable, os.path.join(ROOT, 'train.py'), '--platform', 'CPU', '--dataset_path',
                              str(odd_names / 'absent')], preexec_fn=lambda: os.close(2), stdout=subprocess.PIPE)
    assert process.returncode == 1


@pytest.mark.parametrize('given,expected', [({}, '0'), ({'tf32': False}, '0'), ({'tf32': True}, None)])
def test_tf32_is_off_unless_it_is_asked_for(monkeypatch, given, expected):
    monkeypatch.setattr('src.startup.keep_ctrl_c', lambda: None)
    monkeypatch.setattr('src.startup.keep_output', lambda: None)
    for before in ('0', '1'):
        monkeypatch.setenv('NVIDIA_TF32_OVERRIDE', before)
        prepare(given)
        assert os.environ.get('NVIDIA_TF32_OVERRIDE') == expected
