"""The group of one process: the methods of a group of many, without an exchange; and how a rank fails."""
import os
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest

from src.cli import make_config
from src.distributed import cpu_cluster
from src.distributed.cpu_cluster import free_port
from src.distributed.group import Group, RankGroup, ending_together, join
from src.errors import UserError
from src.framework import Parameter, Tensor
from tests.helpers import ROOT


def test_a_run_of_one_process_is_rank_0_of_1():
    group = join('CPU')
    assert type(group) is Group and (group.rank, group.size) == (0, 1)


def test_one_process_has_the_methods_of_many():
    def public(kind):
        return {name for name in dir(kind) if not name.startswith('_')}
    assert public(RankGroup) == public(Group)


def test_sums_and_means_of_one_process_are_its_own_values():
    counts = np.array([2 ** 24, 1281167, 4096, 4095, 1, 0], np.int64)
    total = Group().sum(counts)
    assert total.dtype == np.int64
    np.testing.assert_array_equal(total, counts)
    losses = np.array([0.1, 2.5], np.float32)
    mean = Group().mean(losses)
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, losses)
    assert Group().gather('é 猫') == ['é 猫'] and Group().gather('') == ['']
    assert Group().gradient_mean() is None and Group().barrier() is None


def test_rank_0_keeps_its_own_values():
    parameter = Parameter(Tensor(np.arange(6, dtype=np.float32).reshape(2, 3)), name='a')
    Group().take_rank_0s([parameter])
    np.testing.assert_array_equal(parameter.asnumpy(), [[0, 1, 2], [3, 4, 5]])


class TwoRanks(Group):
    """Rank 0 of 2. What the other rank says is the same text with some words changed."""
    size = 2

    def __init__(self, *changes):
        self.changes = changes

    def gather(self, text):
        other = text
        for old, new in self.changes:
            assert old in text
            other = other.replace(old, new)
        return [text, other]


@pytest.mark.parametrize('changes,sentence', [
    ([('"lr_init": 0.04', '"lr_init": 0.4')], r'rank 1 differs from rank 0 in lr_init \(0.4, rank 0 has 0.04\)'),
    ([('32 images', '20 images')], r'rank 1 differs from rank 0 in images \(20 images, rank 0 has 32 images\)'),
    ([('"version of NumPy": "', '"version of NumPy": "0.')], 'rank 1 differs from rank 0 in version of NumPy'),
    # Other code explains every other difference, so it is named first.
    ([('"code": "', '"code": "f'), ('"lr_init": 0.04', '"lr_init": 0.4')], 'rank 1 differs from rank 0 in code'),
    ([('"parameters": "', '"parameters": "f')], 'rank 1 differs from rank 0 in parameters')])
def test_the_first_difference_between_ranks_is_named(changes, sentence):
    arrays = {'a': np.zeros(3, np.float32)}
    facts = {'images': '32 images'}
    TwoRanks().require_agreement(make_config(), arrays, facts)
    with pytest.raises(UserError, match=sentence):
        TwoRanks(*changes).require_agreement(make_config(), arrays, facts)


@pytest.mark.parametrize('keys', [{'ckpt_path': 'elsewhere'}, {'work_nums': 3}, {'rank': 1, 'group_size': 2}])
def test_ranks_may_differ_in_what_changes_no_result(keys):
    said = []

    class Listener(Group):
        """Notes what a rank says."""

        def gather(self, text):
            said.append(text)
            return [text]
    for config in (make_config({'group_size': keys.get('group_size', 1)}), make_config(keys)):
        Listener().require_agreement(config, {}, {})
    assert said[0] == said[1]


def test_an_error_of_one_rank_ends_its_process_at_once(monkeypatch, capfd):
    ended = []
    monkeypatch.setattr(os, '_exit', ended.append)
    for error, text in ((UserError('the disk is full'), 'error: the disk is full\n'), (KeyError('key'), 'KeyError')):
        with pytest.raises(type(error)):
            with ending_together(TwoRanks()):
                raise error
        assert ended.pop() == 1
        sys.stderr.flush()
        assert text in capfd.readouterr().err


@pytest.mark.parametrize('group,error', [(TwoRanks(), SystemExit(143)), (TwoRanks(), SystemExit(130)),
                                         (Group(), UserError('the disk is full')), (Group(), KeyError('key'))])
def test_an_orderly_end_and_a_single_process_end_as_usual(monkeypatch, group, error):
    monkeypatch.setattr(os, '_exit', lambda status: pytest.fail('ended at once'))
    with pytest.raises(type(error)):
        with ending_together(group):
            raise error


@pytest.mark.parametrize('end,status', [(None, 0), (SystemExit(), 0), (SystemExit(143), 143), (SystemExit(130), 130)])
def test_a_rank_of_the_cpu_cluster_leaves_it_with_its_status(monkeypatch, end, status):
    left = []
    group = TwoRanks()
    monkeypatch.setattr(group, 'leave', left.append)
    with pytest.raises(SystemExit) if end else nullcontext():
        with ending_together(group):
            if end:
                raise end
    assert left == [status]


LEAVING = '''
import sys
from src.distributed.cpu_cluster import Cluster
from src.distributed.launch import Place
print('said')
Cluster(Place('mpirun', int(sys.argv[1]), 2, 0, 2)).leave(int(sys.argv[2]))
'''


def test_ranks_leave_the_cpu_cluster_when_all_of_them_are_done(tmp_path):
    def rank(number, status):
        return subprocess.Popen([sys.executable, '-c', LEAVING, str(number), str(status)], cwd=ROOT,
                                stdout=subprocess.PIPE, env=dict(os.environ, PMIX_SERVER_TMPDIR=str(tmp_path)))
    first = rank(0, 0)
    assert rank(1, 143).wait(timeout=60) == 143         # a signal has ended it: nobody waits
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(timeout=2)
    assert rank(1, 0).wait(timeout=60) == 0
    assert first.communicate(timeout=60)[0] == b'said\n' and first.returncode == 0


def test_a_free_port_is_free():
    port = free_port()
    assert 1024 <= port < 65536 and not cpu_cluster._is_listening(port)


WAITING = '''
import time
from src import progress
from src.distributed import group, launch
progress.SILENCE = 0
launch.require = lambda: launch.Place('mpirun', 0, 2, 0, 2)

class Cluster:
    def __init__(self, place):
        pass

    def form(self, init):
        with group.without_chatter():
            time.sleep(1.2)
        raise RuntimeError('nobody came')
group.Cluster = Cluster
group.join('CPU', is_distributed=True)
'''


def test_a_rank_that_waits_for_the_others_says_so():
    process = subprocess.run([sys.executable, '-c', WAITING], cwd=ROOT, stderr=subprocess.PIPE,
                             universal_newlines=True, timeout=100)
    first, *_, last = process.stderr.splitlines()
    assert process.returncode == 1
    assert first.startswith('joining a group of 2 processes: ') and 'nobody came' in last
