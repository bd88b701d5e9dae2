"""Exported files are evaluated and used like the checkpoint that they were made from."""
import os
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import eval as program
import export
from src.checkpoints.checkpoint import arrays_of, save
from src.cli import make_config
from src.dataset import create_dataset
from src.errors import UserError
from src.framework import Tensor, use_device
from src.inference.classify import classify_images
from src.inference.evaluation import EvalStep, evaluate_checkpoint, on_device, open_checkpoint
from src.inference.export import export_checkpoint
from src.inference.exported import add_note, load_exported, run_exported
from src.input.preprocess import Preprocess, network_input
from src.network.build import build_network
from tests.helpers import SMALL
from tools.golden.compare import filled
from tools.make_demo_dataset import PATTERNS, make

NAMES = sorted(PATTERNS)
BATCH = 3


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Images of seven of the demo's eight classes, a checkpoint of all eight, and the files that export.py made of it.

    The files take batches of 3 images, and there are 14.
    """
    use_device('CPU')
    folder = tmp_path_factory.mktemp('exported')
    make(str(folder / 'data'), 0, 2, classes=NAMES[1:])
    config = make_config(SMALL, {'num_classes': 8, 'image_size': 64, 'batch_size': 14, 'aux_factor': 0})
    network = filled(build_network(config, training=False))
    batch = next(create_dataset(str(folder / 'data' / 'val'), config, training=False).batches(0))
    arrays = arrays_of(network)
    # With drawn weights all images would be of one class. Without the mean of the logits they are of several.
    arrays['classifier.bias'] -= on_device(EvalStep(network))(batch.images).mean(0)
    save(str(folder / 'network.ckpt'), arrays, {'config': vars(config), 'class_names': NAMES})
    for kind in ('MINDIR', 'ONNX'):
        export_checkpoint(*export.parse([
            '--platform', 'CPU', '--ckpt_file', str(folder / 'network.ckpt'), '--file_format', kind,
            '--file_name', str(folder / 'network'), '--batch_size', str(BATCH)]))
    return folder


def arguments(place, ending, *flags):
    """(flags, configuration keys) of eval.py for a file of `place`."""
    return program.parse(['--platform', 'CPU', '--checkpoint', str(place / ('network.' + ending))]
                         + [str(flag) for flag in flags])


@pytest.mark.slow
def test_checkpoint_mindir_and_onnx_agree_on_images_of_the_demo(place, capsys):
    images, printed = ('--dataset_path', place / 'data' / 'val'), {}
    capsys.readouterr()
    for ending in ('ckpt', 'mindir', 'onnx'):
        report = place / ('report_' + ending)
        evaluate_checkpoint(*arguments(place, ending, *images, '--report', report))
        printed[ending] = re.findall('^acc=.*|^14 images, 0 unreadable', capsys.readouterr().out, re.M) + [
            (report / name).read_text() for name in ('confusion.csv', 'per_class.csv')]
        assert len(printed[ending]) == 5
    assert printed['mindir'] == printed['onnx'] == printed['ckpt']
    # All classes of the checkpoint are known, although one has no folder. The predictions are of several classes.
    rows = [line.split(',') for line in printed['onnx'][3].split()[3:]]
    assert [row[0] for row in rows] == NAMES
    counts = np.array([row[1:] for row in rows], int)
    assert counts.sum(1).tolist() == [0] + [2] * 7 and (counts.sum(0) > 0).sum() > 2


@pytest.mark.slow
def test_images_are_classified_alike(place, capsys):
    printed = []
    for ending in ('mindir', 'onnx'):
        capsys.readouterr()
        assert classify_images(*arguments(place, ending, '--image', place / 'data' / 'val' / NAMES[3])) == 0
        printed.append([line.split() for line in capsys.readouterr().out.strip().split('\n')])
    assert [len(lines) for lines in printed] == [12, 12]        # two files, five classes of each
    for one, other in zip(*printed):
        assert one[0] == other[0] and (one[0] in NAMES or one[0].endswith('.JPEG'))
        assert one[1:] == other[1:] or float(one[1]) == pytest.approx(float(other[1]), abs=0.02)


def test_the_input_of_an_exported_network_is_that_of_the_live_one():
    images = np.random.RandomState(0).randint(0, 256, (2, 5, 7, 3)).astype(np.uint8)
    assert np.array_equal(network_input(images), Preprocess()(Tensor(images)).asnumpy())


@pytest.mark.slow
@pytest.mark.parametrize('ending', ['mindir', 'onnx'])
def test_sizes_and_weights_of_an_exported_network_are_fixed(place, ending):
    checkpoint, config = open_checkpoint(*arguments(place, ending, '--image', 'a', '--batch_size', BATCH))
    assert checkpoint.meta == {'class_names': NAMES,
                               'config': {'num_classes': 8, 'image_size': 64, 'batch_size': BATCH}}
    assert (config.num_classes, config.image_size, config.batch_size) == (8, 64, BATCH)
    for given, sentence in ((['--batch_size', 8], 'has batch_size 3, .* leave --batch_size out'),
                            (['--image_size', 72], 'has image_size 64, .* leave --image_size out'),
                            (['--weights', 'raw'], 'only one set of weights: leave --weights out')):
        with pytest.raises(UserError, match=sentence):
            open_checkpoint(*arguments(place, ending, '--image', 'a', *given))
    with pytest.raises(UserError, match='one process evaluates: leave --is_distributed out'):
        open_checkpoint(*arguments(place, ending, '--dataset_path', 'a', '--is_distributed', 'True'))


@pytest.mark.slow
@pytest.mark.parametrize('ending', ['mindir', 'onnx'])
def test_a_damaged_or_absent_file_is_one_sentence(place, tmp_path, ending):
    path = str(tmp_path / ('network.' + ending))
    with pytest.raises(UserError, match='is not a file'):
        load_exported(path)
    whole = (place / ('network.' + ending)).read_bytes()
    for content in (b'', b'no network', whole[:len(whole) // 2]):
        with open(path, 'wb') as file:
            file.write(content)
        with pytest.raises(UserError) as error:
            load_exported(path)
            run_exported(path)
        assert path in error.value.sentence and '\n' not in error.value.sentence
        assert 'cannot be read' in error.value.sentence or 'another network' in error.value.sentence


@pytest.mark.slow
def test_a_note_of_another_program_is_ignored(place, tmp_path):
    path = str(tmp_path / 'network.onnx')
    for note in ('text', [], {'class_names': 'ant'}, {'class_names': [1]}):
        with open(path, 'wb') as file:
            file.write((place / 'network.onnx').read_bytes())
        add_note(path, note)
        assert set(load_exported(path).meta) == {'config'}
    names = ['ant', os.fsdecode(b'caf\xe9')]        # a name of a folder may be no UTF-8
    add_note(path, {'class_names': names, 'source': 'a.pth (pytorch)'})
    assert load_exported(path).meta['class_names'] == names and load_exported(path).meta['source'] == 'a.pth (pytorch)'


@pytest.mark.slow
def test_onnxruntime_may_be_missing_or_have_no_gpu(place, monkeypatch, capsys):
    import onnxruntime
    path = str(place / 'network.onnx')
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: ['CPUExecutionProvider'])
    run_exported(path, 'GPU')
    assert capsys.readouterr().err == 'warning: the installed onnxruntime cannot use a GPU: %s runs on the CPU\n' % path
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(UserError, match=r'needs onnxruntime \(.*\): install it by python -m pip install "onnxruntime'):
        load_exported(path)


def test_a_network_of_another_kind_is_refused(monkeypatch, tmp_path):
    path = tmp_path / 'network.onnx'
    path.write_bytes(b'')
    session = SimpleNamespace(get_modelmeta=lambda: SimpleNamespace(description=''))
    monkeypatch.setattr('src.inference.exported._session', lambda path, providers: session)
    good = [(None, 3, 64, 64)], [('N', 8)]
    for inputs, outputs in (good, ([(1, 64, 64, 3)], good[1]), (good[0] * 2, good[1]), (good[0], [(1, 8, 1, 1)]),
                            ([(1, 3, 'H', 'W')], good[1]), ([(1, 3, 64, 32)], good[1]), (good[0], [(1, None)]),
                            ([], [])):
        session.get_inputs = lambda shapes=inputs: [SimpleNamespace(shape=list(shape)) for shape in shapes]
        session.get_outputs = lambda shapes=outputs: [SimpleNamespace(shape=list(shape)) for shape in shapes]
        if (inputs, outputs) == good:       # the batch size is open, so eval.py chooses it
            assert load_exported(str(path)).meta['config'] == {'num_classes': 8, 'image_size': 64}
        else:
            with pytest.raises(UserError, match='is another network: its inputs are'):
                load_exported(str(path))
