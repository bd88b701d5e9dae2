"""What launchers say of a process."""
import os

import pytest

from src.distributed import launch
from src.distributed.cpu_cluster import Cluster
from src.errors import UserError

MPI = {'OMPI_COMM_WORLD_RANK': '9', 'OMPI_COMM_WORLD_SIZE': '16', 'OMPI_COMM_WORLD_LOCAL_RANK': '1',
       'OMPI_COMM_WORLD_LOCAL_SIZE': '8'}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """The environment of a process that no launcher started."""
    for name in list(os.environ):
        if name.startswith(('OMPI_', 'MS_', 'RANK_ID', 'DEVICE_ID')):
            monkeypatch.delenv(name)


def set_environment(monkeypatch, environment):
    """Set these variables."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize('environment,expected', [
    ({}, None), (MPI, ('mpirun', 9, 16, 1, 8)),
    ({'MS_ROLE': 'MS_WORKER', 'MS_WORKER_NUM': '16', 'MS_NODE_ID': '9', 'RANK_ID': '9', 'DEVICE_ID': '1'},
     ('msrun', 9, 16, 1, None)),
    ({'MS_ROLE': 'MS_SCHED', 'MS_WORKER_NUM': '16', 'RANK_ID': '0'}, ('msrun', 0, 16, 0, None))])
def test_what_launchers_say_of_a_process(monkeypatch, environment, expected):
    set_environment(monkeypatch, environment)
    assert launch.place() == expected


@pytest.mark.parametrize('environment', [{'OMPI_COMM_WORLD_RANK': '0'}, {'MS_ROLE': 'MS_WORKER'},
                                         dict(MPI, OMPI_COMM_WORLD_SIZE='many')])
def test_half_of_a_launchers_environment_is_one_sentence(monkeypatch, environment):
    set_environment(monkeypatch, environment)
    with pytest.raises(UserError, match="the launcher's environment is incomplete"):
        launch.place()


def test_a_distributed_run_needs_a_launcher():
    with pytest.raises(UserError, match='neither mpirun nor msrun started this process'):
        launch.require()


def test_ranks_of_a_cpu_on_several_machines_are_one_sentence(monkeypatch):
    set_environment(monkeypatch, MPI)
    with pytest.raises(UserError, match='on the CPU all 16 processes must be on one machine, 8 are on this one'):
        Cluster(launch.place())
