"""Functions and values that several tests use."""
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from src.cli import make_config
from src.framework import VERSION, Tensor
from src.network.build import build_network
from src.network.initialize import initialize
from src.training.train_step import build_train_step

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SMALL = {'penultimate_filters': 96, 'cells_per_stage': 1}     # the same cells, 1/11 of the width, 7 cells instead of 16
SMALL_FLAGS = ('--platform CPU --penultimate_filters 96 --cells_per_stage 1 --num_classes 4 --image_size 72 '
               '--batch_size 8 --bn_decay 0.9 --log_steps 2').split()
RATES = Tensor(np.float32(0.02)), Tensor(np.float32(0.5))       # learning rate, decay of the moving averages

# For tests with the fixture `mode`: to compile a whole network takes long.
graph_mode_is_slow = pytest.mark.parametrize('mode', [pytest.param('graph', marks=pytest.mark.slow), 'pynative'],
                                             indirect=True)


# Before the name of a program: its progress then has a line every half second, not only after a long silence.
IMPATIENT = ('-c', 'import runpy, sys\nfrom src import progress\nprogress.SILENCE = 0\ndel sys.argv[0]\n'
                   'runpy.run_path(sys.argv[0], run_name="__main__")')


def run(*command, **options):
    """Run a program of the project -> CompletedProcess with text output."""
    return subprocess.run([sys.executable] + [str(part) for part in command], cwd=ROOT, timeout=600,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, **options)


def in_a_group(launch, words):
    """The result of launch(), which starts several ranks and waits for them.

    The CPU cluster of MindSpore 1.10 does not always form. The program then says so, and this starts it again, twice at
    most. `words` returns what a result has said.
    """
    for _ in range(1 if VERSION >= (2, 0) else 3):
        result = launch()
        if result.returncode == 0 or not re.search('cannot be formed|did not find each other', words(result)):
            break
    return result


def make_noise_images(folder, seed, ending):
    """Write images into `folder`: train/ with 4 classes of 8 and val/ with 4 classes of 5.

    They are noise, and the brightness tells the class.
    """
    random = np.random.RandomState(seed)
    for split, count in (('train', 8), ('val', 5)):
        for label in range(4):
            target = folder / split / ('class %d' % label)
            target.mkdir(parents=True)
            for number in range(count):
                pixels = random.randint(0, 60, tuple(random.randint(60, 140, 2)) + (3,)) + 60 * label
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(str(target / ('%d.%s' % (number, ending))))


def small_config(**keys):
    """The configuration of the small network at 72 pixels."""
    return make_config(SMALL, {'num_classes': 4, 'image_size': 72, 'batch_size': 8, 'bn_decay': 0.9}, keys)


def small_step(config):
    """(network, training step in training mode) for a configuration, with initial weights of seed 1."""
    network = initialize(build_network(config, training=True), 1)
    return network, build_train_step(network, config).set_train(True)


def random_batch(config, seed=0):
    """Images, labels, colour factors and dropout mask of one batch, as Tensors."""
    random = np.random.RandomState(seed)
    size = config.image_size
    return (Tensor(random.randint(0, 256, (config.batch_size, size, size, 3)).astype(np.uint8)),
            Tensor(random.randint(0, config.num_classes, config.batch_size).astype(np.int32)),
            Tensor(random.uniform(0.6, 1.4, (config.batch_size, 3)).astype(np.float32)),
            Tensor(2 * random.randint(0, 2, (config.batch_size, config.penultimate_filters)).astype(np.float32)))
