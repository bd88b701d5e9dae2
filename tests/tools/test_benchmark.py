"""The benchmark: every mode runs on a small network and gives what it promises. Speed itself is not tested."""
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from src.distributed.group import Group
from src.errors import UserError
from tests.helpers import ROOT, in_a_group
from tools.benchmark import kernels, measures, scaling
from tools.benchmark.data import write_photographs
from tools.benchmark.weights import like_trained

BENCHMARK = os.path.join(ROOT, 'tools', 'benchmark')
TINY = ('--platform CPU --penultimate_filters 96 --num_classes 10 --image_size 96 --batch_size 4 '
        '--work_nums 2').split()
ONE_CELL = ['--cells_per_stage', '1']
SUBJECT = {'name', 'seconds', 'cpu_seconds', 'images_per_second', 'images_per_cpu_second', 'peak_rss_mb'}


def start(program, folder, *flags, **options):
    """Run a program in `folder`, so that it must find the project itself; returns a CompletedProcess."""
    return subprocess.run([sys.executable, program] + [str(flag) for flag in flags], cwd=str(folder), timeout=600,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, **options)


def benchmark(tmp_path, *flags):
    """(output, figures of the JSON file)"""
    result = start(BENCHMARK, tmp_path, *TINY, *flags, '--rounds', 1, '--json', 'figures.json')
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert {'cpu', 'cores', 'load', 'python', 'platform'} <= set(figures['machine'])
    return result.stdout, figures


@pytest.mark.slow
def test_step(tmp_path):
    output, figures = benchmark(tmp_path, 'step', *ONE_CELL)
    step = figures['step']
    assert SUBJECT <= set(step['subjects']['suite']) and 'this suite, MindSpore' in output
    own, plain = step['kernels'].values()
    for counted in (own, plain):
        assert counted['kernels'] == sum(counted['kinds'].values()) > 600 and counted['kinds']['Conv2D'] > 30
    assert own['kinds'].get('Custom', 0) == (164 if shutil.which('c++') else 0) and 'Custom' not in plain['kinds']


@pytest.mark.slow
def test_eval_and_memory(tmp_path):
    assert SUBJECT <= set(benchmark(tmp_path, 'eval', *ONE_CELL)[1]['eval']['subjects']['suite'])
    memory = benchmark(tmp_path, 'memory', *ONE_CELL)[1]['memory']
    assert memory['subjects']['suite']['peak_rss_mb'] > 100


@pytest.mark.slow
def test_input(tmp_path):
    output, figures = benchmark(tmp_path, 'input', '--images', 16)
    assert set(figures['input']['ratios']) == {'suite/mindspore'} and 'x those of MindSpore' in output
    assert {'images_per_cpu_second_ratio', 'cores_for_8_gpus', 'bytes_per_image'} <= set(figures['input'])
    assert SUBJECT <= set(figures['input']['subjects']['mindspore']) and 'input-bound' in output


@pytest.mark.slow
def test_compile(tmp_path):
    found = benchmark(tmp_path, 'compile', *ONE_CELL)[1]['compile']
    for kind in ('seconds', 'cpu_seconds', 'peak_mb'):
        assert set(found[kind]) == {'import', 'build', 'compile_and_first_step', 'second_step'}


@pytest.mark.slow
def test_scale(tmp_path):
    output, figures = benchmark(tmp_path, 'scale', '--images', 2000, '--num_classes', 1000)
    own = figures['scale']['subjects']['suite']
    assert own['files'] == 2000 and own['classes'] == 1000 and 'mid-epoch' in output
    assert {'scan_seconds', 'first_batch_seconds', 'first_batch_peak_rss_mb', 'epoch_order_seconds',
            'mid_epoch_seconds'} <= set(own)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get('PEER_PYTHON'), reason='PEER_PYTHON names no interpreter with the peers')
def test_peers(tmp_path):
    peers = [word for peer in ('pytorch', 'torch.compile', 'onnxruntime', 'openvino') for word in ('--peer', peer)]
    torch = {'suite/pytorch_nchw', 'suite/pytorch_channels_last', 'suite/pytorch_compiled'}
    ratios = benchmark(tmp_path, 'eval', *peers)[1]['eval']['ratios']
    assert set(ratios) == torch | {'suite/onnxruntime', 'suite/openvino'}
    assert set(benchmark(tmp_path, 'step', *peers)[1]['step']['ratios']) == torch


@pytest.mark.slow
@pytest.mark.needs('mpirun')
def test_scaling(tmp_path):
    program = os.path.join(BENCHMARK, 'scaling.py')
    result = in_a_group(lambda: start(program, tmp_path, '--ranks', 1, 2, '--steps', 2, '--json', 'figures.json',
                                      *TINY, *ONE_CELL), lambda result: result.stderr)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.split('\n')
    rows = [line.split() for line in lines[2:4]]
    assert [row[0] for row in rows] == ['1', '2'] and all(float(row[1]) > 0 for row in rows), result.stdout
    assert rows[0][4] == '0%' and lines[4].startswith('estimate, not measured')
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert [row['processes'] for row in figures] == [1, 2] and figures[0]['efficiency'] == 1


def test_a_wrong_sum_over_the_processes_is_said():
    scaling.require_right_sum(Group())
    with pytest.raises(UserError, match='the sum of 1 to 2 over 2 processes is 2 and not 3'):
        scaling.require_right_sum(SimpleNamespace(rank=1, size=2, sum=lambda counts: counts))


def test_a_profiler_that_fails_costs_no_timings(monkeypatch, capsys):
    flags = SimpleNamespace(platform='GPU', device_id=0, peer=[], rounds=1)
    timed = {'subjects': {'suite': dict.fromkeys(SUBJECT, 1.0)}, 'ratios': {}}

    def ended(_):
        raise UserError('it ended')
    monkeypatch.setattr(measures.rounds, 'compare', lambda *_: timed)
    for answer, reason in ((lambda _: {'name': 'suite', 'not_counted': 'no libcupti'}, 'no libcupti'),
                           (ended, 'it ended')):
        monkeypatch.setattr(measures.rounds, 'once', answer)
        result = measures.measure_step(flags, SimpleNamespace(), '')
        assert result['subjects'] and result['kernels'] == {'as timed': {'not_counted': reason}}
        assert 'could not be counted (%s)' % reason in capsys.readouterr().out


def test_why_kernels_are_not_counted(monkeypatch):
    class Profiler:
        def __init__(self, output_path):
            self.stop = self.analyse = lambda: None
    monkeypatch.setattr(kernels.mindspore, 'Profiler', Profiler)
    with pytest.raises(kernels.NotCounted, match='no table'):
        kernels.count_kernels(lambda: None)
    tables = {'op_type_info_0.csv': 'op_type,type_occurrences\nConv2D,3\n',
              'gpu_activity_data_0.csv': 'name,total_duration(us)\nf,1500\ng,500.5\n'}

    class OfGPU(Profiler):
        def __init__(self, output_path):
            super().__init__(output_path)
            for name, text in tables.items():
                with open(os.path.join(output_path, name), 'w') as file:
                    file.write(text)
    monkeypatch.setattr(kernels.mindspore, 'Profiler', OfGPU)
    assert kernels.count_kernels(lambda: None) == ({'Conv2D': 3}, 0.0020005)

    def fail(output_path):
        raise RuntimeError('libcupti.so: cannot open\nmore')
    monkeypatch.setattr(kernels.mindspore, 'Profiler', fail)
    with pytest.raises(kernels.NotCounted, match='libcupti.so: cannot open$'):
        kernels.count_kernels(lambda: None)


def test_photographs_are_like_imagenets(tmp_path):
    paths = [str(tmp_path / 'a' / ('%d.JPEG' % i)) for i in range(66)]
    assert 85e3 < write_photographs(paths) < 110e3
    assert len({open(path, 'rb').read() for path in paths}) == 64


@pytest.mark.parametrize('name, shape, low, high', [
    ('stem_bn.gamma', (500,), 0.4, 1.0), ('conv0.bn.weight', (500,), 0.4, 1.0),
    ('stem_bn.moving_variance', (500,), 0.4, 1.6), ('conv0.bn.running_var', (500,), 0.4, 1.6),
    ('stem_bn.beta', (500,), -1.0, 1.0), ('classifier.weight', (10, 400), -0.4, 0.4)])
def test_weights_are_drawn_by_kind(name, shape, low, high):
    values = like_trained(name, shape)
    assert values.shape == shape and values.dtype == 'float32' and low <= values.min() < values.max() <= high
    assert (values == like_trained(name, shape)).all()


@pytest.mark.parametrize('flags, sentence', [
    (['step', '--peer', 'pytorch'], 'PEER_PYTHON'), (['--rounds', 0], '--rounds must be 1 or more'),
    (['eval', '--peer', 'openvino', '--platform', 'GPU'], 'OpenVINO runs on CPUs only'),
    (['input', '--images', 3], '--images 3 is too few'), (['fast'], 'invalid choice')])
def test_mistakes(tmp_path, flags, sentence):
    environment = {key: value for key, value in os.environ.items() if key != 'PEER_PYTHON'}
    result = start(BENCHMARK, tmp_path, *flags, env=environment)
    assert result.returncode == 2 and result.stderr.startswith('error: ') and sentence in result.stderr
    assert result.stderr.count('\n') == 1
