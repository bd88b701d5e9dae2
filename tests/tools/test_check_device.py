"""tools/check_device.py says yes to a CPU, says no to wrong numbers, and outlives a child that crashes or hangs."""
import json
import os
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from src.checkpoints.checkpoint import save
from src.cli import training_config
from src.framework import mindspore
from tests.helpers import SMALL_FLAGS, run
from tools import check_device, check_jobs
from tools.children import ChildFailed, run_child
from tools.golden import draw

FLAGS = {'device_id': 0, 'limit': 60, 'batch_sizes': (4, 8), 'devices': 2}


def flags(platform):
    return SimpleNamespace(platform=platform, **FLAGS)


@pytest.mark.slow
def test_a_cpu_is_fine(tmp_path):
    process = run('tools/check_device.py', *SMALL_FLAGS, '--only', 'logits', 'steps', '--amp_level', 'O0',
                  '--json', tmp_path / 'found.json')
    assert process.returncode == 0 and process.stderr == '', process.stdout + process.stderr
    logits, step = json.loads((tmp_path / 'found.json').read_text())['rows']
    assert logits['verdict'] == 'ok' and logits['bound'] == '5e-05'
    assert step['verdict'] == '-' and step['figures']['kernels'] > 500 and step['figures']['seconds'] > 0
    for row in (logits, step):
        assert '| %(check)s | %(result)s | %(bound)s | %(verdict)s |' % row in process.stdout


@pytest.fixture
def in_this_process(monkeypatch):
    """Jobs run in this process and not in children, without compilation."""
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    monkeypatch.setattr(check_device, 'ask', lambda _, job, keys, **settings: [
        getattr(check_jobs, job)(training_config(keys), settings)[0]])


@pytest.mark.parametrize('check', ['logits', 'gradients'])
def test_a_broken_weight_is_found(monkeypatch, in_this_process, check):
    def verdict():
        row, = check_device.CHECKS[check](flags('CPU'), {'amp_level': 'O0'})
        return row['verdict']
    assert verdict() == 'ok'
    right = draw.parameter
    monkeypatch.setattr(draw, 'parameter', lambda name, shape: right(name, shape) * (
        np.float32(1.1) if name == 'cell_5.block_0.left.bn_2.gamma' else 1))
    assert verdict() == 'BROKEN'


def answers(monkeypatch, *facts):
    """Children give these answers in turn; an exception among them is raised."""
    left = list(facts)

    def ask(*_, **__):
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer
    monkeypatch.setattr(check_device, 'ask', ask)


def ran(*digests):
    """Answers of `ten_steps`; the third run and all after it take twice as long."""
    return [[{'digest': digest, 'seconds': 1.0 if number < 2 else 2.0}] for number, digest in enumerate(digests)]


@pytest.mark.parametrize('platform,digests,verdict,result', [
    ('CPU', 'aa', 'ok', 'the same bits'), ('GPU', 'aa', 'ok', 'the same bits'), ('CPU', 'ab', 'BROKEN', 'other bits'),
    ('GPU', 'abcc', '-', 'the same bits in 2.00 times'), ('GPU', 'abcd', '-', 'other bits in 2.00 times'),
    ('GPU', ['a', 'b', None, None], '-', 'no setting')])
def test_repeated_steps(monkeypatch, platform, digests, verdict, result):
    answers(monkeypatch, *ran(*digests))
    row, = check_device.check_repeat(flags(platform), {})
    assert row['verdict'] == verdict and result in row['result']


def test_too_little_memory_for_a_large_batch_is_no_failure(monkeypatch):
    step = [{'images': 4, 'gpu_memory_mb': 1500.0}] + [{'seconds': 0.02, 'cpu_seconds': 0.01}] * 5
    kernels = [{'kernels': 9, 'device_seconds': 0.015}]
    full = ChildFailed('full', out_of_memory=True)
    answers(monkeypatch, step, kernels, full)
    one, two = check_device.check_steps(flags('GPU'), {})
    assert one['result'] == ('200.0 images/s, 20.0 ms, 10.0 ms of CPU time, 1500 MB of the GPU in use, 9 kernels, '
                             'idle 25 %')
    assert two['result'] == 'out of memory' and two['verdict'] == '-'
    answers(monkeypatch, full, step, [{'not_counted': 'no libcupti'}])
    one, two = check_device.check_steps(flags('GPU'), {})
    assert one['verdict'] == 'FAILED' and two['result'].endswith('in use, kernels not counted (no libcupti)')


def test_ranks(monkeypatch):
    def run_program(_, command, keys):
        assert keys == {'batch_size': 4}
        with open(command[-1], 'w') as file:
            json.dump([{'images_per_second': {1: 100, 2: 150}[command[-3]], 'communication': 0.1}], file)
    monkeypatch.setattr(check_device, 'run_program', run_program)
    rows = list(check_device.check_ranks(flags('GPU'), {}))
    assert [row['check'] for row in rows] == ['ranks: 1', 'ranks: 2'] and {row['verdict'] for row in rows} == {'ok'}
    assert '75 % of 2 x 1, 10 %' in rows[1]['result']


@pytest.mark.parametrize('values,verdict', [((1, 1), 'ok'), ((1, 2), 'BROKEN'), ((1,), 'BROKEN')])
def test_ranks_of_the_script_must_hold_the_same_bits(monkeypatch, values, verdict):
    def run_program(_, command, keys, **variables):
        assert variables['DEVICE_NUM'] == '2' and len(os.listdir(command[-1])) == 8
        os.mkdir(keys['ckpt_path'])
        for rank, value in enumerate(values):
            save(os.path.join(keys['ckpt_path'], 'nasnet-a-mobile-rank%d-1_2.ckpt' % rank),
                 {'classifier.bias': np.full(3, value, np.float32)}, {'rank': rank})
    monkeypatch.setattr(check_device, 'run_program', run_program)
    row, = check_device.check_script(flags('GPU'), {})
    assert row['verdict'] == verdict


def test_a_child_that_fails_is_one_row():
    row = check_device.row('it', run_child, [sys.executable, '-c', 'print(1); raise ValueError("no | good")'], 60)
    assert row['verdict'] == 'FAILED' and row['result'] == 'status 1: ValueError: no | good'


@pytest.mark.parametrize('program,message,out_of_memory', [
    ('raise SystemExit("error: no GPU")', 'status 1: error: no GPU', False),
    ('raise RuntimeError("Device memory isn\'t enough and alloc failed")', 'status 1: RuntimeError: Device mem', True),
    ('import os; os.kill(os.getpid(), 9)', 'was killed', True),
    ('import os; os.abort()', 'status -6: it said nothing', False)])
def test_why_a_child_failed(program, message, out_of_memory):
    with pytest.raises(ChildFailed) as caught:
        run_child([sys.executable, '-c', program], 60)
    assert str(caught.value).startswith(message) and caught.value.out_of_memory == out_of_memory


def test_a_child_that_hangs_is_ended_with_its_own_children(tmp_path):
    script = 'import subprocess, time; print(subprocess.Popen(["sleep", "60"]).pid, file=open(%r, "w"), flush=True); ' \
             'time.sleep(60)' % str(tmp_path / 'pid')
    began = time.time()
    with pytest.raises(ChildFailed, match='took more than 2 s'):
        run_child([sys.executable, '-c', script], 2)
    assert time.time() - began < 30
    number = (tmp_path / 'pid').read_text().strip()
    assert not os.path.exists('/proc/%s/cmdline' % number) or not open('/proc/%s/cmdline' % number).read()


@pytest.mark.parametrize('wrong,sentence', [(['--only', 'speed'], 'invalid choice'), (['--limit', '0'], '--limit must'),
                                            (['--image_size', '40'], 'the auxiliary head needs')])
def test_mistakes(wrong, sentence):
    process = run('tools/check_device.py', *wrong)
    assert process.returncode in (1, 2) and process.stderr.startswith('error: ') and sentence in process.stderr
    assert process.stderr.count('\n') == 1 and process.stdout == ''
