"""Loading MindSpore, and choosing a device: what is missing becomes one sentence."""
import os
import subprocess
import sys

import pytest

from src import framework
from src.errors import UserError
from tests.helpers import ROOT


class Driver:
    """A stand-in for the NVIDIA driver that finds four devices."""

    def __init__(self, _):
        self.cuInit = lambda flags: 0
        self.cuDeviceGetCount = lambda pointer: setattr(pointer._obj, 'value', 4) or 0


@pytest.mark.parametrize('device_id,processes,sentence', [
    (0, 8, '8 processes on this machine, but the NVIDIA driver finds 4 GPUs .*DEVICE_NUM'),
    (4, 1, 'no GPU 4: the NVIDIA driver finds 4, numbered from 0; choose another --device_id')])
def test_fewer_gpus_than_are_asked_for_are_one_sentence(monkeypatch, device_id, processes, sentence):
    monkeypatch.setattr(framework.ctypes, 'CDLL', Driver)
    with pytest.raises(UserError, match=sentence):
        framework.use_device('GPU', device_id, processes)


@pytest.mark.parametrize('package,version,sentence', [
    ('mindspore', '1.5.0', 'MindSpore 1.5.0 is too old: install requirements.txt'),
    ('numpy', '2.1.0', 'MindSpore fails with NumPy 2.1.0')])
def test_wrong_versions_are_one_sentence(tmp_path, package, version, sentence):
    fake = tmp_path / package
    fake.mkdir()
    (fake / '__init__.py').write_text('__version__ = %r\nParameter = Tensor = nn = ops = None\n' % version)
    result = subprocess.run([sys.executable, '-c', 'import src.framework'], cwd=ROOT, stderr=subprocess.PIPE,
                            env=dict(os.environ, PYTHONPATH=str(tmp_path)), universal_newlines=True)
    assert result.returncode == 1 and result.stderr.startswith('error: ' + sentence)
    assert result.stderr.count('\n') == 1
