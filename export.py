"""Export a checkpoint: python export.py --ckpt_file FILE --file_format MINDIR|AIR|ONNX --file_name NAME.

The exported network takes (N, 3, H, W) float32, RGB in [-1, 1], and returns logits (N, classes); N, H
and W are fixed. Each BatchNorm is folded into the convolution before it. What was written is read back and
compared with the live network as it was trained.
"""
import os
import tempfile

from src import framework       # before NumPy: see src/__init__.py
import numpy as np  # pylint: disable=wrong-import-order

from src.build import build_network
from src.checkpoint import NO_AUXILIARY_HEAD, load, network_config, restore
from src.cli import Parser, make_config
from src.errors import UserError
from src.fold import fold
from src.framework import Tensor, mindspore, nn

TOLERANCE = 1e-4    # largest difference of a logit between the exported and the live network


def parse(argv=None):
    """Flags, checkpoint, and configuration: the checkpoint's network under the command line's values."""
    parser = Parser('Export a checkpoint of NASNet-A-Mobile.')
    parser.add_argument('--ckpt_file', required=True, metavar='FILE', help='checkpoint of train.py')
    parser.add_argument('--file_format', required=True, choices=('MINDIR', 'AIR', 'ONNX'), help='what to write')
    parser.add_argument('--file_name', required=True, metavar='NAME', help='where, without the ending')
    parser.add_weights()
    parser.add_config_keys()
    flags, given = parser.parse(argv)
    checkpoint = load(flags.ckpt_file)
    return flags, checkpoint, make_config(NO_AUXILIARY_HEAD, network_config(checkpoint), {'batch_size': 1}, given)


def main(flags, checkpoint, config):
    """Write the file, compare it with the network, print where it is."""
    if flags.file_format == 'AIR' and flags.platform != 'Ascend':
        raise UserError('AIR is written by a MindSpore build for Ascend alone: use --platform Ascend there, or '
                        '--file_format MINDIR or ONNX')
    framework.use_device(flags.platform, flags.device_id)
    network, folded = build_network(config, training=False), build_network(config, training=False)
    for each in (network, folded):
        restore(checkpoint, each, flags.weights)
    network.set_train(False)
    fold(folded)
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    images = np.random.RandomState(config.random_seed).uniform(-1, 1, shape).astype(np.float32)
    logits = network(Tensor(images)).asnumpy()

    path = '%s.%s' % (flags.file_name, flags.file_format.lower())
    folder = os.path.dirname(path) or '.'
    try:
        os.makedirs(folder, exist_ok=True)
        # In a folder of its own until it is known to be right; MindSpore also makes the folder private.
        with tempfile.TemporaryDirectory(prefix='.unfinished-', dir=folder) as unfinished:
            written = os.path.join(unfinished, os.path.basename(path))
            mindspore.export(folded, Tensor(images), file_name=written, file_format=flags.file_format)
            if flags.file_format != 'AIR':
                difference = float(np.abs(reload(written, images) - logits).max())
                print('largest difference from the live network: %.3g (logits up to %.3g)'
                      % (difference, np.abs(logits).max()))
                if not difference <= TOLERANCE:
                    raise UserError('%s differs from the network by %.3g, more than %g: it is not written'
                                    % (path, difference, TOLERANCE))
            os.chmod(written, 0o644)
            os.replace(written, path)
    except OSError as error:
        raise UserError('%s cannot be written (%s): choose another --file_name' % (path, error.strerror or error))
    print('exported: %s' % path)


def reload(path, images):
    """Logits of the exported file."""
    if path.endswith('.onnx'):
        import onnxruntime  # pylint: disable=import-outside-toplevel
        session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        return session.run(None, {session.get_inputs()[0].name: images})[0]
    return nn.GraphCell(mindspore.load(path))(Tensor(images)).asnumpy()


if __name__ == '__main__':
    main(*parse())
