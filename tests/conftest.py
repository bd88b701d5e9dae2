"""What pytest gives to the tests: MindSpore on the CPU, a folder of images, and an answer to missing programs."""
import os
import shutil
import signal

import pytest

from src.framework import mindspore
from tests.helpers import make_noise_images

PACKAGES = {'mpirun': 'openmpi-bin', 'c++': 'g++'}      # Debian's packages of programs, if they have another name


def pytest_configure():
    """Let the programs under test hear Ctrl-C. A shell starts what it runs in the background with SIGINT ignored, all
    processes inherit that, and the shell of a script could not change it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item):
    """A test marked needs(PROGRAM...) is skipped where a program is missing. In CI it fails instead."""
    for program in (program for mark in item.iter_markers('needs') for program in mark.args):
        if shutil.which(program) is None:
            answer = pytest.fail if os.environ.get('CI') == 'true' else pytest.skip
            answer('%s is not installed (Debian: apt-get install %s)' % (program, PACKAGES.get(program, program)))


@pytest.fixture(autouse=True)
def graph_mode():
    """Every test starts on the CPU in graph mode, and without what PyNative mode remembers.

    PyNative mode of MindSpore 1.10 would take the gradient of an earlier network for that of one that looks like it.
    """
    mindspore.common.api._pynative_executor.clear_res()
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
    """A folder of JPEGs: train/ with 4 classes of 8 images, val/ with 4 classes of 5."""
    folder = tmp_path_factory.mktemp('images')
    make_noise_images(folder, 0, 'JPEG')
    return folder
