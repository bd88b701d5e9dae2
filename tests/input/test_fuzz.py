"""Damaged files give a picture or a reason, and the tool that makes them notices everything else."""
import sys

import numpy as np
import pytest

from src.progress import Progress
from tests.helpers import run
from tests.input import fuzz
from tests.input.image_files import of_each_format


def test_a_sample_of_damaged_files():
    process = run('tests/input/fuzz.py', '--files', 1200, '--first', 20000)
    assert (process.returncode, process.stdout) == (0, '1200 files, 0 faults\n')


def test_a_mutant_depends_on_its_number_and_is_nearly_always_another_file():
    sound = of_each_format()
    mutants = [fuzz.mutant(sound, number) for number in range(120)]
    assert mutants == [fuzz.mutant(sound, number) for number in range(120)]
    assert [kind for kind, _ in mutants[:6]] == ['BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP']
    assert sum(data in sound[kind] for kind, data in mutants) < 10
    assert len(set(mutants)) > 100


def test_right_checksums_let_damage_reach_the_decoder():
    png = of_each_format()['PNG'][0]
    assert fuzz.with_right_checksums(png) == png
    broken = png[:29] + b'????' + png[33:]
    assert fuzz.with_right_checksums(broken) == png


def answer(result):
    """A function like `decode` that raises or returns `result`."""
    def decode(data, buffer):
        if isinstance(result, BaseException):
            raise result
        return result
    return decode


@pytest.mark.parametrize('result', [
    KeyError(6), MemoryError(), OSError('no'), SystemExit(1), ValueError(''), ValueError('two\nlines'),
    ValueError('file <_io.BytesIO object at 0x7f>'), ValueError('x' * 1000), np.zeros((4, 4), np.uint8),
    np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)], ids=repr)
def test_a_wrong_answer_is_a_fault(result, monkeypatch):
    monkeypatch.setattr(fuzz, 'decode', answer(result))
    assert fuzz.fault(b'')


@pytest.mark.parametrize('result', [ValueError('truncated or corrupt GIF'), np.zeros((1, 1, 3), np.uint8)], ids=repr)
def test_a_right_answer_is_none(result, monkeypatch):
    monkeypatch.setattr(fuzz, 'decode', answer(result))
    assert fuzz.fault(b'') is None


def test_a_crash_and_words_of_a_library_are_faults(monkeypatch, tmp_path):
    monkeypatch.setattr(fuzz, 'WORK', 'import os, sys; open(sys.argv[4], "w").write("0000000007"); '
                        'os.write(2, b"words"); os.kill(os.getpid(), 11)')
    with Progress('decoding', 20, 'files', stream=sys.stderr) as progress:
        faults, following = fuzz.run_worker(5, 25, str(tmp_path), progress)
    assert faults == ['on stderr up to file 7: words', 'file 7: the process ended with -11'] and following == 8
