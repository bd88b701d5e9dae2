"""A wrong command ends with a status other than 0 and one sentence that names the mistake, and writes nothing."""
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from nasnet_a_mobile import NASNetAMobile
from src.checkpoints.checkpoint import arrays_of, save
from src.config import nasnet_a_mobile_config_gpu
from src.framework import Tensor, mindspore
from src.network.initialize import initialize
from src.training.optimizer import FlatRMSProp
from tests.helpers import ROOT, SMALL, SMALL_FLAGS

TRAIN = 'train.py --dataset_path good --ckpt_path new ' + ' '.join(SMALL_FLAGS)
EVAL = 'eval.py --platform CPU --dataset_path good --checkpoint '
IMAGE = 'eval.py --platform CPU --checkpoint own.ckpt --image '
EXPORT = 'export.py --platform CPU --file_format ONNX --file_name out --ckpt_file '
SH = 'sh scripts/'
# (command, what the sentence must name). The fixture `place` makes the files and folders of the commands.
MISTAKES = [
    ('train.py', '--dataset_path'),
    ('train.py --dataset_path', '--dataset_path'),
    (TRAIN + ' --frobnicate 1', '--frobnicate'),
    (TRAIN + ' --batchsize 8', '--batch_size'),
    (TRAIN + ' --batch_size x', '--batch_size'),
    (TRAIN + ' --batch_size 2.5', '--batch_size'),
    (TRAIN + ' --batch_size -1', 'batch_size must be 1 or more'),
    (TRAIN + ' --batch_size 0', 'batch_size must be 1 or more'),
    (TRAIN + ' --batch_size 100', 'lower --batch_size'),
    (TRAIN + ' --batch_size 1', 'set --batch_size 2 or more, or --aux_factor 0'),
    (TRAIN + ' --accumulation_steps 0', 'accumulation_steps must be 1 or more'),
    (TRAIN + ' --accumulation_steps 2', 'fewer than a step of 16'),
    (TRAIN + ' --amp_level O1', 'amp_level must be O0 or O3'),
    (TRAIN + ' --loss_scale -1', 'loss_scale must be 0 or more'),
    (TRAIN + ' --epoch_size 0', 'epoch_size must be 1 or more'),
    (TRAIN + ' --lr_init nan', 'lr_init must be a number'),
    (TRAIN + ' --bn_decay 2', 'bn_decay must be from 0 to 1'),
    (TRAIN + ' --image_size 64', 'image_size'),
    (TRAIN + ' --penultimate_filters 100', 'multiple of 96'),
    (TRAIN + ' --num_classes 1', 'num_classes'),
    (TRAIN + ' --num_classes 2', 'set --num_classes 3'),
    (TRAIN + ' --preset demoo', '--preset'),
    (TRAIN + ' --platform TPU', '--platform'),
    (TRAIN + ' --platform Ascend', 'Ascend'),
    (TRAIN + ' --platform GPU', '--platform CPU'),
    (TRAIN + ' --device_id -1', '--device_id'),
    (TRAIN + ' --device_id one', '--device_id'),
    (TRAIN + ' --is_distributed maybe', '--is_distributed'),
    (TRAIN + ' --tensorboard yes', '--tensorboard'),
    (TRAIN + ' --on_bad_image delete', 'on_bad_image must be skip or stop'),
    (TRAIN + ' --on_save_error ignore', 'on_save_error must be stop or continue'),
    (TRAIN + ' --freeze heads', 'freeze must be none or backbone'),
    (TRAIN + ' --ema_decay 1', 'ema_decay must be from 0 to 0.999999'),
    (TRAIN + ' --pretrained absent.ckpt', 'absent.ckpt'),
    (TRAIN + ' --pretrained foreign.ckpt', 'foreign.ckpt does not fit'),
    (TRAIN + ' --rank 1', 'rank 1 is not below group_size 1'),
    (TRAIN + ' --group_size 2', 'group_size 2 without --is_distributed True'),
    (TRAIN + ' --is_distributed True', 'neither mpirun nor msrun started this process'),
    (TRAIN + ' --resume absent.ckpt', 'absent.ckpt'),
    (TRAIN + ' --resume text.ckpt', 'text.ckpt'),
    (TRAIN + ' --resume foreign.ckpt', 'foreign.ckpt'),
    (TRAIN.replace('good', 'absent'), 'absent'),
    (TRAIN.replace('good', 'text.ckpt'), 'text.ckpt'),
    (TRAIN.replace('good', 'empty'), 'no class folder'),
    (TRAIN.replace('good', 'emptyclass'), 'emptyclass/a'),
    (TRAIN + ' --eval_dataset_path absent', 'absent'),
    (TRAIN + ' --eval_dataset_path strange', 'strange/z'),
    (TRAIN.replace('new', 'text.ckpt'), '--ckpt_path'),
    (TRAIN.replace('new', 'text.ckpt/below'), '--ckpt_path'),
    (TRAIN.replace('new', '/proc/new'), '--ckpt_path'),
    (EVAL + 'absent.ckpt', 'absent.ckpt'),
    (EVAL + 'good', 'good'),
    (EVAL + 'empty.ckpt', 'empty.ckpt'),
    (EVAL + 'text.ckpt', 'text.ckpt'),
    (EVAL + 'readme.txt', 'readme.txt'),
    (EVAL + 'own.ckpt --num_classes 5', 'classifier.'),
    (EVAL + 'own.ckpt --cells_per_stage 2', 'lacks cell_'),
    (EVAL + 'own.ckpt --penultimate_filters 192', 'another network'),
    (EVAL + 'foreign.ckpt', 'lacks'),
    (EVAL.replace('good', 'strange') + 'own.ckpt', 'strange/z'),
    ('eval.py --dataset_path good --checkpoint own.ckpt', '--platform CPU'),
    ('eval.py --platform CPU --checkpoint own.ckpt', '--image FILE_OR_FOLDER'),
    (EVAL + 'own.ckpt --image good/a/0.JPEG', '--image FILE_OR_FOLDER'),
    (EVAL + 'own.ckpt --weights ema', '--weights raw'),
    (EVAL + 'own.ckpt --weights best', '--weights'),
    (IMAGE + 'absent.jpg', 'absent.jpg'),
    (IMAGE + 'empty', 'the folder empty has no image'),
    (IMAGE + 'good/a --report new', '--report'),
    (EVAL + 'own.ckpt --report /proc/new', 'choose another --report'),
    (IMAGE + 'good/a --format xml', '--format'),
    (EXPORT + 'absent.ckpt', 'absent.ckpt'),
    (EXPORT + 'text.ckpt', 'text.ckpt'),
    (EXPORT + 'own.ckpt --batch_size 0', 'batch_size'),
    (EXPORT.replace('ONNX', 'PDF') + 'own.ckpt', '--file_format'),
    (EXPORT.replace('ONNX', 'AIR') + 'own.ckpt', 'Ascend'),
    (EXPORT.replace('out', 'text.ckpt/out') + 'own.ckpt', '--file_name'),
    (EXPORT.replace('out', '/proc/out') + 'own.ckpt', '--file_name'),
    ('tools/convert_weights.py --source absent.pth --output new.ckpt', 'absent.pth'),
    ('tools/convert_weights.py --source text.ckpt --output new.ckpt', 'text.ckpt'),
    ('tools/convert_weights.py --source readme.txt --output new.ckpt', 'of no known format'),
    ('tools/convert_weights.py --source own.ckpt --output new.bin', '--output'),
    ('tools/convert_weights.py --source own.ckpt --output absent/new.ckpt', '--output'),
    ('tools/finetune_demo.py good', 'good is not empty'),
    ('tools/check_dataset.py absent', 'absent'),
    ('tools/check_dataset.py good --workers 0', '--workers'),
    ('tools/check_dataset.py good --json /proc/new', 'choose another --json'),
    ('tools/check_device.py --platform CPU --json /proc/new', 'choose another --json'),
    ('tools/benchmark step --platform CPU --json /proc/new', 'choose another --json'),
    ('tools/benchmark/scaling.py --platform CPU --json /proc/new', 'choose another --json'),
    ('tools/make_demo_dataset.py good', 'good'),
    ('tools/plot_metrics.py', 'RUN'),
    ('tools/plot_metrics.py absent', 'absent is of no use (No such file or directory)'),
    ('tools/plot_metrics.py good', 'good/metrics.csv is of no use'),
    ('tools/plot_metrics.py readme.txt', 'readme.txt is of no use (it has no columns epoch and loss)'),
    ('tools/plot_metrics.py good --output runs.jpg', '--output'),
    (SH + 'run_standalone_train_for_gpu.sh', 'usage: '),
    (SH + 'run_standalone_train_for_gpu.sh x good', 'DEVICE_ID'),
    (SH + 'run_standalone_train_for_gpu.sh 0 absent', 'absent'),
    (SH + 'run_distribute_train_for_gpu.sh', 'usage: '),
    (SH + 'run_eval_for_gpu.sh 0 good', 'usage: '),
    (SH + 'run_eval_for_gpu.sh 0 good absent.ckpt', 'absent.ckpt')]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with data sets and checkpoints, good and bad."""
    folder = tmp_path_factory.mktemp('place')
    for name in ('good/a', 'good/b', 'good/c', 'strange/a', 'strange/z', 'emptyclass/a', 'emptyclass/b', 'empty'):
        (folder / name).mkdir(parents=True)
        if '/' in name and name != 'emptyclass/a':
            for number in range(4):
                Image.new('RGB', (80, 80), (number, 9, 9)).save(str(folder / name / ('%d.JPEG' % number)))
    (folder / 'text.ckpt').write_text('not a checkpoint')
    (folder / 'empty.ckpt').write_text('')
    (folder / 'readme.txt').write_text('not a checkpoint either')
    (folder / 'classes.txt').write_text('a\nb\nc\n')
    network = initialize(NASNetAMobile(4, 72, **SMALL), 1)
    config = dict(nasnet_a_mobile_config_gpu, num_classes=4, image_size=72, **SMALL)
    save(str(folder / 'own.ckpt'), arrays_of(network, FlatRMSProp(network.trainable_params())),
         {'epoch': 1, 'sums': [0, 0.0, 0.0], 'images': 12, 'config': config})
    mindspore.save_checkpoint([{'name': 'conv.weight', 'data': Tensor([1.0])}], str(folder / 'foreign.ckpt'))
    shutil.copytree(os.path.join(ROOT, 'scripts'), str(folder / 'scripts'), ignore=shutil.ignore_patterns('*.log'))
    return folder


def everything(folder):
    """[(path, size)] of all files below a folder."""
    return sorted((os.path.join(base, name), os.path.getsize(os.path.join(base, name)))
                  for base, _, names in os.walk(str(folder)) for name in names)


@pytest.mark.slow
def test_every_mistake_is_one_sentence_and_changes_nothing(place):
    before = everything(place)
    gpu = os.path.exists('/proc/driver/nvidia/version')     # then it is no mistake to name no platform

    def attempt(mistake):
        words = mistake[0].split()
        if words[0] == 'sh':
            words[0] = 'dash'
        else:
            words = [sys.executable, os.path.join(ROOT, words[0])] + words[1:]
        return subprocess.run(words, cwd=str(place), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300,
                              env=dict(os.environ, PYTHON=sys.executable), universal_newlines=True)
    mistakes = [mistake for mistake in MISTAKES if not (gpu and mistake[1] == '--platform CPU')]
    assert len(mistakes) >= 40
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(attempt, mistakes))
    for (command, culprit), result in zip(mistakes, results):
        story = '%s\nstatus %d\n%s%s' % (command, result.returncode, result.stdout, result.stderr)
        assert result.returncode in (1, 2), story
        lines = result.stderr.strip().split('\n')
        if command.startswith('tools/') and result.returncode == 2:
            lines = lines[-1:]          # argparse prints its usage before the sentence
        assert len(lines) == 1 and culprit in lines[0] and 'Traceback' not in result.stderr, story
        assert result.stdout == '', story
    assert everything(place) == before


@pytest.mark.slow
@pytest.mark.parametrize('command,library', [
    (TRAIN + ' --tensorboard True', 'tensorboardX'), (EVAL + 'own.ckpt --report new', 'matplotlib')])
def test_a_missing_library_is_one_sentence_before_the_work_begins(place, tmp_path, command, library):
    (tmp_path / (library + '.py')).write_text('raise ImportError("No module named %s")' % library)
    before, words = everything(place), command.split()
    result = subprocess.run([sys.executable, os.path.join(ROOT, words[0])] + words[1:], cwd=str(place),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300, universal_newlines=True,
                            env=dict(os.environ, PYTHONPATH=str(tmp_path)))
    assert (result.returncode, result.stdout) == (1, '')
    assert result.stderr == ('error: %s needs a library that cannot be imported (No module named %s): install '
                             'requirements.txt\n' % (words[-2] + ' True' * (library == 'tensorboardX'), library))
    assert everything(place) == before
