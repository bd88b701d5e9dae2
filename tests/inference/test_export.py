"""Exported files are compared with the network by the size of its logits, and a failure is one sentence."""
import os
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest

from nasnet_a_mobile import NASNetAMobile
from src.checkpoints.checkpoint import arrays_of, save
from src.errors import UserError
from src.framework import mindspore
from src.inference import export as exporting
from src.inference.export import compare, export_checkpoint
from src.network.initialize import initialize
from tests.helpers import SMALL


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Path of a checkpoint of the smallest network."""
    path = str(tmp_path_factory.mktemp('export') / 'a.ckpt')
    save(path, arrays_of(initialize(NASNetAMobile(2, None, **SMALL), 1)),
         {'config': dict(SMALL, num_classes=2, image_size=32)})
    return path


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """The CPU is chosen already, and MindSpore 1.10 takes only one choice."""
    monkeypatch.setattr(exporting, 'use_device', lambda *_: None)


def export(checkpoint, path):
    """Export as ONNX."""
    export_checkpoint(SimpleNamespace(ckpt_file=checkpoint, file_format='ONNX', file_name=str(path), weights=None,
                                      platform='CPU', device_id=0), {})


@pytest.mark.parametrize('error', [RuntimeError('No space left\nmore lines'), ValueError('No space left'),
                                   OSError('No space left')])
def test_what_mindspore_cannot_write_is_one_sentence(checkpoint, tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error
    monkeypatch.setattr(mindspore, 'export', fail)
    with pytest.raises(UserError, match=r'MindSpore cannot write the ONNX file in \S+ \(No space left\): make room'):
        export(checkpoint, tmp_path / 'net')
    assert os.listdir(str(tmp_path)) == []


def test_without_a_temporary_folder_is_one_sentence(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'absent'))
    with pytest.raises(UserError, match='no temporary folder can be made .*: set TMPDIR'):
        export(checkpoint, tmp_path / 'net')
    assert os.listdir(str(tmp_path)) == []


def test_a_folder_that_cannot_be_written_is_said_before_the_work(checkpoint, monkeypatch):
    monkeypatch.setattr('src.inference.export._export', None)
    with pytest.raises(UserError, match=r'/proc cannot be written \(.*\): choose another --file_name'):
        export(checkpoint, '/proc/net.onnx')


def test_a_folder_is_no_name(checkpoint, tmp_path):
    with pytest.raises(UserError, match='--file_name .*/new/ is a folder: give the name of a file in it'):
        export(checkpoint, str(tmp_path / 'new') + os.sep)
    assert os.listdir(str(tmp_path)) == []


def test_the_difference_is_compared_with_the_largest_logit():
    logits = np.float32([[0.5, -1140]])
    compare('net.onnx', logits + np.float32([[0, 0.1]]), logits)
    with pytest.raises(UserError, match=r'net.onnx differs from the network by 0.2, more than 0.114: it is not'):
        compare('net.onnx', logits + np.float32([[0.2, 0]]), logits)
    compare('net.onnx', np.float32([[0.50009]]), np.float32([[0.5]]))       # a network of small logits
    with pytest.raises(UserError, match='differs from the network by 0.0002, more than 0.0001'):
        compare('net.onnx', np.float32([[0.5002]]), np.float32([[0.5]]))
    with pytest.raises(UserError, match='differs from the network by nan'):
        compare('net.onnx', np.float32([[np.nan]]), np.float32([[0.5]]))


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_of_a_diverged_run(value):
    logits = np.float32([[0.5, value]])
    with pytest.raises(UserError, match='not finite: the checkpoint is of a diverged run, and net.onnx is not written'):
        compare('net.onnx', logits, logits)
