"""Make the files in sources/ with the libraries that users have them from, and the logits of these libraries.

    python make_sources.py names      needs MindSpore
    python make_sources.py port       needs requirements.txt beside this file
    python make_sources.py keras      needs tensorflow (with Keras 3)
    python make_sources.py tf_slim    needs tensorflow
    python make_sources.py mindcv     needs MindSpore 2 and `pip install --no-deps --target DIR mindcv`, MINDCV=DIR

Each file holds a thin network of 10 classes with coarse weights, so that it can be compressed. The checkpoints with
TF-Slim's names have 1001 classes and the auxiliary head. The one of format V2 has moving averages, and its raw values
are different ones.
"""
import json
import lzma
import os
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(os.path.dirname(HERE)))
from tools.golden import draw


def keep(path, name=None):
    """Compress a file into sources/."""
    with open(path, 'rb') as file:
        data = lzma.compress(file.read(), preset=9)
    with open(os.path.join(HERE, 'sources', (name or os.path.basename(path)) + '.xz'), 'wb') as file:
        file.write(data)
    print('%s: %d bytes' % (os.path.basename(path), len(data)))


def keep_logits(name, logits):
    """Add an array to sources/logits.npz."""
    path = os.path.join(HERE, 'sources', 'logits.npz')
    arrays = dict(np.load(path)) if os.path.exists(path) else {}
    arrays[name] = np.asarray(logits, np.float32)
    np.savez_compressed(path, **arrays)
    print('%s: logits up to %.3g' % (name, np.abs(logits).max()))


def names(folder):
    """Our names and shapes, and what src/convert/names.py calls them in Keras and TF-Slim."""
    from nasnet_a_mobile import NASNetAMobile
    from src.convert.names import foreign_name
    from src.network.merge import plain_values
    network = NASNetAMobile(auxiliary_size=67, **draw.VARIANTS['thin'][0])
    shapes = {name: value.shape for name, value in plain_values(network).items()}
    path = os.path.join(folder, 'names.json')
    with open(path, 'w') as file:
        json.dump([(name, shape, foreign_name(name, 'keras', shapes), foreign_name(name, 'tf_slim', shapes))
                   for name, shape in shapes.items()], file)
    keep(path)


def read_names():
    """[(our name, shape, Keras's name, TF-Slim's)]"""
    with lzma.open(os.path.join(HERE, 'sources', 'names.json.xz')) as file:
        return json.load(file)


def port(folder):
    """The PyTorch port: both of PyTorch's formats, and safetensors."""
    import torch
    from safetensors.torch import save_file

    from tools.golden import make_golden
    model, _ = make_golden.build('thin', draw.coarse_parameter)
    model.float().eval()
    with torch.no_grad():
        keep_logits('port', model(torch.from_numpy(draw.images('thin'))).numpy())
    state = model.state_dict()
    for name, new in (('port_zip.pth', True), ('port_old.pth', False)):
        torch.save(state, os.path.join(folder, name), _use_new_zipfile_serialization=new)
        keep(os.path.join(folder, name))
    save_file(state, os.path.join(folder, 'port.safetensors'))
    keep(os.path.join(folder, 'port.safetensors'))


def keras(folder):
    """Keras's own network, and its logits with the pools of the reduction cells padded as TF-Slim's are."""
    import keras as library
    from keras.src.applications.nasnet import NASNet
    _, size, _ = draw.VARIANTS['thin']
    arguments = {'input_shape': (size, size, 3), 'penultimate_filters': 96, 'num_blocks': 4, 'stem_block_filters': 32,
             'skip_reduction': False, 'weights': None}
    model = NASNet(classes=10, default_size=size, include_top=True, classifier_activation=None,
                   **arguments)
    theirs = {name: (ours, shape) for ours, shape, name, _ in read_names() if name}
    for weight in model.weights:
        name, shape = theirs.pop('/'.join(weight.path.split('/')[-2:]))
        value = draw.coarse_parameter(name, shape)
        if value.ndim > 1:
            value = (value.T if value.ndim == 2 else
                     value.transpose((2, 3, 0, 1) if 'depthwise' in name else (2, 3, 1, 0)))
        weight.assign(value)
    assert not theirs, theirs
    model.save(os.path.join(folder, 'keras.keras'))
    model.save(os.path.join(folder, 'keras_2.h5'))
    model.save_weights(os.path.join(folder, 'keras.weights.h5'))
    for name in ('keras.keras', 'keras_2.h5', 'keras.weights.h5'):
        keep(os.path.join(folder, name))
    headless = library.Model(model.input, model.layers[-2].output)
    headless.save_weights(os.path.join(folder, 'keras_no_top.weights.h5'))
    keep(os.path.join(folder, 'keras_no_top.weights.h5'))
    images = draw.images('thin').transpose(0, 2, 3, 1)
    stock = model.predict(images, verbose=0)
    config = model.get_config()
    for layer in config['layers']:
        name = layer['config']['name']
        if name.startswith('reduction_pad_1_'):
            layer['config']['padding'] = ((0, 0), (0, 0))
        elif layer['class_name'] in ('MaxPooling2D', 'AveragePooling2D') and name.startswith('reduction_'):
            layer['config']['padding'] = 'same'
    corrected = library.Model.from_config(config)
    corrected.set_weights(model.get_weights())
    logits = corrected.predict(images, verbose=0)
    print('stock Keras differs by %.3g' % np.abs(stock - logits).max())
    keep_logits('keras', logits)


def tf_slim(folder):
    """TF-Slim's names and layouts, written by TensorFlow as V1 and as V2 checkpoint."""
    import tensorflow as tf
    plain, averaged = {}, {}
    for name, shape, _, theirs in read_names():
        value = draw.coarse_parameter(name, shape)
        if 'classifier' in name:        # the background class, then our 10 classes 100 times
            value = np.concatenate([value[:1] + 9] + [value] * 100)
        if value.ndim > 1:
            value = (value.T if value.ndim == 2 else
                     value.transpose((2, 3, 0, 1) if 'depthwise' in name else (2, 3, 1, 0)))
        plain[theirs] = value
        averaged[theirs], averaged[theirs + '/ExponentialMovingAverage'] = value + 1, value
        averaged[theirs + '/RMSProp'] = np.ones_like(value)
    averaged['global_step'] = plain['global_step'] = np.int64(1000)
    path = os.path.join(folder, 'model.ckpt-1')
    tf.raw_ops.Save(filename=path, tensor_names=sorted(plain), data=[plain[name] for name in sorted(plain)])
    keep(path)
    path = os.path.join(folder, 'model.ckpt-2')
    tf.raw_ops.SaveV2(prefix=path, tensor_names=sorted(averaged), shape_and_slices=[''] * len(averaged),
                      tensors=[averaged[name] for name in sorted(averaged)])
    for part in ('.index', '.data-00000-of-00001'):
        keep(path + part)


def mindcv(folder):
    """MindCV's nasnet_a_4x1056, which gives the port's logits once its stride-2 convolutions pad 'same'."""
    import importlib
    import types
    for package in ('mindcv', 'mindcv.models', 'mindcv.models.layers'):     # without their __init__.py
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [os.path.join(os.environ['MINDCV'], *package.split('.'))]
    from src.convert.names import foreign_name, mindspore_name
    from src.framework import Tensor, mindspore, nn, use_device
    use_device('CPU')
    arguments = draw.VARIANTS['thin'][0]
    shapes = {name: shape for name, shape, _, _ in read_names()}
    theirs = {foreign_name(name, 'mindspore', shapes): name for name in shapes if 'auxiliary' not in name}
    logits = {}
    for which in ('stock', 'corrected'):
        network = importlib.import_module('mindcv.models.nasnet').NASNetAMobile(**arguments)
        used = {mindspore_name(parameter.name): parameter for parameter in network.get_parameters()}
        assert set(used) == set(theirs)
        for name, parameter in used.items():
            parameter.set_data(Tensor(draw.coarse_parameter(theirs[name], parameter.shape)))
        if which == 'stock':
            path = os.path.join(folder, 'mindcv.ckpt')
            mindspore.save_checkpoint(network, path)
            keep(path)
        else:
            for cell in {id(cell): cell for _, cell in network.cells_and_names()}.values():
                for name, conv in cell.name_cells().items():
                    if isinstance(conv, nn.Conv2d) and conv.stride == (2, 2) and conv.padding:
                        same = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, 2, 'same',
                                         group=conv.group, weight_init='zeros')
                        same.weight.set_data(conv.weight)
                        setattr(cell, name, same)
        network.set_train(False)
        logits[which] = network(Tensor(draw.images('thin'))).asnumpy()
    port_logits = np.load(os.path.join(HERE, 'sources', 'logits.npz'))['port']
    for which, values in logits.items():
        print('%s MindCV differs from the port by %.3g' % (which, np.abs(values - port_logits).max()))


if __name__ == '__main__':
    os.makedirs(os.path.join(HERE, 'sources'), exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        {'names': names, 'port': port, 'keras': keras, 'tf_slim': tf_slim,
         'mindcv': mindcv}[sys.argv[1]](made)
