"""What the tests share: MindSpore on the CPU, a small network, a folder of images, running the programs."""
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from src.framework import mindspore

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SMALL = {'penultimate_filters': 96, 'cells_per_stage': 1}     # the same cells, 1/11 of the width, 7 of 16
SMALL_FLAGS = ('--platform CPU --penultimate_filters 96 --cells_per_stage 1 --num_classes 4 --image_size 72 '
               '--batch_size 8 --bn_decay 0.9 --log_steps 2').split()


@pytest.fixture(autouse=True)
def graph_mode():
    """Every test starts on the CPU in graph mode."""
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    if hasattr(mindspore, 'set_device'):
        mindspore.set_device('CPU')
    else:
        mindspore.set_context(device_target='CPU')


@pytest.fixture(params=['graph', 'pynative'])
def mode(request, graph_mode):
    """Runs the test in both modes of the framework."""
    mindspore.set_context(mode=mindspore.GRAPH_MODE if request.param == 'graph' else mindspore.PYNATIVE_MODE)
    return request.param


@pytest.fixture(scope='session')
def image_folder(tmp_path_factory):
    """train/ (4 classes of 8) and val/ (4 classes of 5): noise whose brightness tells the class."""
    folder = tmp_path_factory.mktemp('images')
    random = np.random.RandomState(0)
    for split, count in (('train', 8), ('val', 5)):
        for label in range(4):
            target = folder / split / ('class %d' % label)
            target.mkdir(parents=True)
            for number in range(count):
                pixels = random.randint(0, 60, tuple(random.randint(60, 140, 2)) + (3,)) + 60 * label
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(str(target / ('%d.JPEG' % number)))
    return folder


def run(*command, **options):
    """Run a program of the project -> CompletedProcess with text output."""
    return subprocess.run([sys.executable] + [str(part) for part in command], cwd=ROOT, timeout=600,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, **options)
