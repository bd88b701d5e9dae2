"""tools/plot_metrics.py draws folders and files, from any folder."""
import os
import subprocess
import sys

from PIL import Image

from src.training.metrics import write_metrics
from tests.helpers import ROOT
from tests.training.test_metrics import BLUE, ORANGE, colors, rows


def test_runs_become_one_picture(tmp_path):
    for name, count in (('fast', 2), ('slow', 5)):
        (tmp_path / name).mkdir()
        write_metrics(str(tmp_path / name), rows(count), '')
    process = subprocess.run([sys.executable, os.path.join(ROOT, 'tools', 'plot_metrics.py'), 'fast',
                              os.path.join('slow', 'metrics.csv')], cwd=str(tmp_path), stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, universal_newlines=True)
    assert (process.returncode, process.stderr) == (0, '')
    assert process.stdout == ('fast: 2 epochs, last loss 1.500000\nslow/metrics.csv: 5 epochs, last loss 0.600000\n'
                              'picture: metrics.png\n')
    assert Image.open(str(tmp_path / 'metrics.png')).size[0] == 1000
    assert {BLUE, ORANGE} <= set(colors(tmp_path / 'metrics.png'))
