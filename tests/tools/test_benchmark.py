"""The benchmark: every mode runs on a small network and gives what it promises; speed itself is not tested."""
import json
import os
import shutil

import pytest

from tests.conftest import run
from tools.benchmark import photographs

TINY = ('--platform CPU --penultimate_filters 96 --num_classes 10 --image_size 96 --batch_size 4 --work_nums 2 '
        '--rounds 1').split()
ONE_CELL = ['--cells_per_stage', '1']
SUBJECT = {'name', 'seconds', 'cpu_seconds', 'images_per_second', 'images_per_cpu_second', 'peak_rss_mb'}


def benchmark(tmp_path, *flags):
    """(output, figures of the JSON file)"""
    result = run('tools/benchmark.py', *TINY, *flags, '--json', tmp_path / 'figures.json')
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert {'cpu', 'cores', 'load', 'python', 'platform'} <= set(figures['machine'])
    return result.stdout, figures


def test_step(tmp_path):
    output, figures = benchmark(tmp_path, 'step', *ONE_CELL)
    step = figures['step']
    assert SUBJECT <= set(step['subjects']['suite']) and 'this suite, MindSpore' in output
    own, plain = step['kernels'].values()
    for counted in (own, plain):
        assert counted['kernels'] == sum(counted['kinds'].values()) > 900 and counted['kinds']['Conv2D'] > 30
    assert own['kinds'].get('Custom', 0) == (48 if shutil.which('c++') else 0) and 'Custom' not in plain['kinds']


def test_eval_and_memory(tmp_path):
    assert SUBJECT <= set(benchmark(tmp_path, 'eval', *ONE_CELL)[1]['eval']['subjects']['suite'])
    memory = benchmark(tmp_path, 'memory', *ONE_CELL)[1]['memory']
    assert memory['subjects']['suite']['peak_rss_mb'] > 100


def test_input(tmp_path):
    output, figures = benchmark(tmp_path, 'input', '--images', 16)
    assert set(figures['input']['ratios']) == {'suite/mindspore'} and 'x those of MindSpore' in output
    assert {'images_per_cpu_second_ratio', 'cores_for_8_gpus', 'bytes_per_image'} <= set(figures['input'])
    assert SUBJECT <= set(figures['input']['subjects']['mindspore']) and 'input-bound' in output


def test_compile(tmp_path):
    found = benchmark(tmp_path, 'compile', *ONE_CELL)[1]['compile']
    for kind in ('seconds', 'cpu_seconds', 'peak_mb'):
        assert set(found[kind]) == {'import', 'build', 'compile_and_first_step', 'second_step'}


def test_scale(tmp_path):
    output, figures = benchmark(tmp_path, 'scale', '--images', 2000, '--num_classes', 1000)
    own = figures['scale']['subjects']['suite']
    assert own['files'] == 2000 and own['classes'] == 1000 and 'mid-epoch' in output
    assert {'scan_seconds', 'first_batch_seconds', 'first_batch_peak_rss_mb', 'epoch_order_seconds',
            'mid_epoch_seconds'} <= set(own)


@pytest.mark.skipif(not os.environ.get('PEER_PYTHON'), reason='PEER_PYTHON names no interpreter with the peers')
def test_peers(tmp_path):
    peers = ['--peer', 'pytorch', '--peer', 'onnxruntime']
    ratios = benchmark(tmp_path, 'eval', *peers)[1]['eval']['ratios']
    assert set(ratios) == {'suite/pytorch_nchw', 'suite/pytorch_channels_last', 'suite/onnxruntime'}
    ratios = benchmark(tmp_path, 'step', *peers)[1]['step']['ratios']
    assert set(ratios) == {'suite/pytorch_nchw', 'suite/pytorch_channels_last'}


def test_photographs_are_like_imagenets(tmp_path):
    paths = [str(tmp_path / 'a' / ('%d.JPEG' % i)) for i in range(66)]
    assert 85e3 < photographs(paths) < 110e3
    assert len({open(path, 'rb').read() for path in paths}) == 64


@pytest.mark.parametrize('flags, sentence', [
    (['step', '--peer', 'pytorch'], 'PEER_PYTHON'), (['--rounds', 0], '--rounds must be 1 or more'),
    (['input', '--images', 3], '--images 3 is too few'), (['fast'], 'invalid choice')])
def test_mistakes(flags, sentence):
    environment = {key: value for key, value in os.environ.items() if key != 'PEER_PYTHON'}
    result = run('tools/benchmark.py', *flags, env=environment)
    assert result.returncode == 2 and result.stderr.startswith('error: ') and sentence in result.stderr
    assert result.stderr.count('\n') == 1
