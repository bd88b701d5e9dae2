"""What the tests share: MindSpore on the CPU, in graph or PyNative mode, and a small network."""
import pytest

from src.framework import mindspore

SMALL = {'penultimate_filters': 96, 'cells_per_stage': 1}     # the same cells, 1/11 of the width, 7 of 16


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
