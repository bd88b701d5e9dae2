"""Weight files that PyTorch, Keras, TensorFlow and MindCV wrote (golden/make_sources.py) give the same logits here."""
import collections
import io
import lzma
import os
import pickle
import zipfile

import h5py
import numpy as np
import pytest

from nasnet_a_mobile import NASNetAMobile
from src.checkpoints.checkpoint import load, restore
from src.convert.foreign import read_weights
from src.convert.names import foreign_name, from_foreign
from src.errors import UserError
from src.framework import Tensor, mindspore
from src.network.merge import plain_values
from tests.helpers import ROOT, run
from tools.convert_weights import convert
from tools.golden import draw

SOURCES = os.path.join(ROOT, 'tests', 'golden', 'sources')
LOGITS = np.load(os.path.join(SOURCES, 'logits.npz'))
BOUND = 5e-5
# (file, its kind, whose logits are expected, how often the 10 classes are in it)
CASES = [('port_zip.pth', 'pytorch', 'port', 1), ('port_old.pth', 'pytorch', 'port', 1),
         ('port.safetensors', 'pytorch', 'port', 1), ('keras.keras', 'keras', 'keras', 1),
         ('keras.weights.h5', 'keras', 'keras', 1), ('keras_2.h5', 'keras', 'keras', 1),
         pytest.param('model.ckpt-1', 'tf_slim', 'port', 100, marks=pytest.mark.slow),
         pytest.param('model.ckpt-2', 'tf_slim', 'port', 100, marks=pytest.mark.slow),
         ('mindcv.ckpt', 'mindspore', 'port', 1)]


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    """The files, unpacked."""
    folder = tmp_path_factory.mktemp('sources')
    for name in os.listdir(SOURCES):
        if name.endswith('.xz'):
            with lzma.open(os.path.join(SOURCES, name)) as file:
                (folder / name[:-len('.xz')]).write_bytes(file.read())
    return folder


@pytest.fixture(scope='module')
def networks():
    """{number of classes: network}. Each is compiled only once."""
    return {classes: NASNetAMobile(classes, penultimate_filters=96) for classes in (10, 1000)}


@pytest.mark.parametrize('name,kind,reference,times', CASES)
def test_converted_weights_give_the_logits_of_their_library(sources, networks, tmp_path, capsys, name, kind,
                                                             reference, times):
    output = str(tmp_path / 'converted.ckpt')
    convert(str(sources / name), 'auto', output)
    text = capsys.readouterr().out
    assert '%s weights, %d classes' % (kind, 10 * times) in text and 'images in RGB and [-1, 1]' in text
    assert ('auxiliary head' in text) == (kind == 'tf_slim') == ('auxiliary_head.full.weight'
                                                                 in load(output).arrays)
    assert ('trained with another padding' in text) == (kind == 'mindspore')
    loaded = load(output)
    assert loaded.meta['config']['penultimate_filters'] == 96
    network = networks[10 * times].set_train(False)
    restore(loaded, network)
    logits = network(Tensor(draw.images('thin'))).asnumpy()
    assert np.abs(logits - np.tile(LOGITS[reference], times)).max() <= BOUND


def test_moving_averages_are_preferred(sources, tmp_path, capsys):
    convert(str(sources / 'model.ckpt-2'), 'tf_slim', str(tmp_path / 'a.ckpt'))      # its raw values are larger by 1
    assert 'moving averages taken instead of the raw values' in capsys.readouterr().out
    arrays = load(str(tmp_path / 'a.ckpt')).arrays
    name = 'auxiliary_head.full.weight'
    np.testing.assert_array_equal(arrays[name], draw.coarse_parameter(name, arrays[name].shape))


def test_keras_without_top_is_for_pretraining(sources, tmp_path, capsys):
    output = str(tmp_path / 'a.ckpt')
    convert(str(sources / 'keras_no_top.weights.h5'), 'auto', output)
    assert 'the file has no classifier: use the result only for --pretrained' in capsys.readouterr().out
    network = NASNetAMobile(7, penultimate_filters=96)
    with pytest.raises(UserError, match='lacks classifier'):
        restore(load(output), network)
    assert restore(load(output), network, new_classes=True) == ['classifier.bias',
                                                                                      'classifier.weight']


@pytest.mark.smoke
@pytest.mark.slow
def test_a_converted_checkpoint_works_in_the_programs(sources, tmp_path):
    process = run('tools/convert_weights.py', '--source', sources / 'port_zip.pth', '--output', tmp_path / 'a.ckpt')
    assert process.returncode == 0, process.stderr
    process = run('export.py', '--platform', 'CPU', '--ckpt_file', tmp_path / 'a.ckpt', '--file_format', 'MINDIR',
                  '--file_name', tmp_path / 'a.mindir')
    assert process.returncode == 0, process.stderr
    assert sorted(os.listdir(str(tmp_path))) == ['a.ckpt', 'a.mindir']


def test_names_are_one_to_one():
    names = plain_values(NASNetAMobile(auxiliary_size=224))
    for kind in ('pytorch', 'keras', 'tf_slim', 'mindspore'):
        there = [foreign_name(name, kind, names) for name in names]
        there = [name for name in there if name is not None]
        assert len(set(there)) == len(there)
        assert len(names) - len(there) == {'tf_slim': 0}.get(kind, 12)      # without the auxiliary head


def test_what_does_not_fit_is_listed(sources):
    kind, arrays = read_weights(str(sources / 'port_zip.pth'))
    assert kind == 'pytorch'
    arrays['extra.weight'] = arrays.pop('cell_0.conv_1x1.bn.weight')
    arrays['last_linear.bias'] = arrays['last_linear.bias'][:9]
    with pytest.raises(UserError) as refused:
        from_foreign(kind, arrays)
    for part in ('missing: cell_0.conv_1x1.bn.weight (cell_0.squeeze.bn.gamma)', 'left over: extra.weight',
                 'of another shape: last_linear.bias is (9,), not (10,)'):
        assert part in str(refused.value)


class Evil:
    """Whoever unpickles this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


@pytest.mark.parametrize('form', ['zip', 'old'])
def test_code_in_a_file_is_not_run(tmp_path, form):
    content = pickle.dumps(collections.OrderedDict(weight=Evil(str(tmp_path / 'created'))), 2)
    path = tmp_path / 'evil.pth'
    if form == 'zip':
        with zipfile.ZipFile(str(path), 'w') as archive:
            archive.writestr('archive/data.pkl', content)
    else:
        path.write_bytes(content * 4)
    with pytest.raises(UserError, match='which is no part of a state dict'):
        read_weights(str(path))
    assert not (tmp_path / 'created').exists()


def damaged(sources, tmp_path):
    """Generate the paths of files that cannot be converted."""
    files = {}
    for name in ('port_zip.pth', 'port_old.pth', 'port.safetensors', 'keras.keras', 'keras.weights.h5', 'model.ckpt-1'):
        data = (sources / name).read_bytes()
        files['half ' + name] = data[:len(data) // 2]
    files['empty.pth'], files['text.h5'] = b'', b'no weights\n' * 100
    buffer = io.BytesIO()
    with h5py.File(buffer, 'w') as file:
        file['something'] = np.zeros(3)
    files['other.h5'] = buffer.getvalue()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        yield str(tmp_path / name)
    (tmp_path / 'model.ckpt-2.index').write_bytes((sources / 'model.ckpt-2.index').read_bytes())
    yield str(tmp_path / 'model.ckpt-2')
    mindspore.save_checkpoint([{'name': 'conv.weight', 'data': Tensor([1.0])}], str(tmp_path / 'other.ckpt'))
    yield str(tmp_path / 'other.ckpt')
    yield str(tmp_path / 'absent.pth')


def test_damaged_and_other_files_are_one_sentence(sources, tmp_path):
    for path in damaged(sources, tmp_path):
        with pytest.raises(UserError) as refused:
            convert(path, 'auto', str(tmp_path / 'converted.ckpt'))
        assert path in str(refused.value) and '\n' not in str(refused.value), path
    assert not (tmp_path / 'converted.ckpt').exists()
