"""A checkpoint as a file for other programs: MINDIR, AIR or ONNX.

The exported network takes images (N, 3, H, W) float32, RGB in [-1, 1], and returns logits (N, classes). N, H and W
are fixed. Each BatchNorm is folded into the convolution before it. What was written is read back and compared with
the network as it was trained.
"""
import os
import tempfile

import numpy as np

from src.checkpoints.checkpoint import load, network_config, restore
from src.cli import make_config
from src.config import without_auxiliary_head
from src.errors import UserError
from src.files import whole_file
from src.framework import Tensor, mindspore, nn, use_device
from src.network.build import build_network
from src.network.fold import fold

TOLERANCE = 1e-4    # largest allowed difference of a logit between the exported and the live network


def export_checkpoint(flags, given):
    """What export.py does: write the file, compare it with the network, print where it is.

    Args:
        flags: those of export.py.
        given: {configuration key: value} of the command line, over the configuration of the checkpoint.

    Raises:
        UserError: the file cannot be written, or computes something else than the network.
    """
    if flags.file_format == 'AIR' and flags.platform != 'Ascend':
        raise UserError('AIR is written only by a MindSpore build for Ascend: use --platform Ascend there, or '
                        '--file_format MINDIR or ONNX')
    checkpoint = load(flags.ckpt_file)
    config = make_config(without_auxiliary_head, network_config(checkpoint), {'batch_size': 1}, given)
    # A MINDIR or ONNX file does not depend on the device. The comparison does: a GPU may round to TF32.
    use_device(*(('Ascend', flags.device_id) if flags.file_format == 'AIR' else ('CPU',)))
    network, folded = build_network(config, training=False), build_network(config, training=False)
    for each in (network, folded):
        restore(checkpoint, each, flags.weights)
    network.set_train(False)
    fold(folded)
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    images = np.random.RandomState(config.random_seed).uniform(-1, 1, shape).astype(np.float32)
    ending = '.' + flags.file_format.lower()
    path = flags.file_name if flags.file_name.endswith(ending) else flags.file_name + ending
    try:
        os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    except OSError as error:
        raise UserError('%s cannot be written (%s): choose another --file_name' % (path, error.strerror))
    with whole_file(path, 'choose another --file_name') as unfinished:
        # MindSpore makes the folder of the file private, so the file is moved out of that.
        with tempfile.TemporaryDirectory(dir=os.path.dirname(unfinished)) as private:
            written = os.path.join(private, os.path.basename(path))
            mindspore.export(folded, Tensor(images), file_name=written, file_format=flags.file_format)
            if flags.file_format != 'AIR':
                _compare(path, run_exported(written, images), network(Tensor(images)).asnumpy())
            os.replace(written, unfinished)
    print('exported: %s' % path)


def _compare(path, exported, logits):
    """Print the largest difference of two arrays of logits; UserError if it is too large."""
    difference = float(np.abs(exported - logits).max())
    print('largest difference from the live network: %.3g (logits up to %.3g)' % (difference, np.abs(logits).max()))
    if not difference <= TOLERANCE:
        raise UserError('%s differs from the network by %.3g, more than %g: it is not written'
                        % (path, difference, TOLERANCE))


def run_exported(path, images):
    """Logits (N, K) float32 of an exported .mindir or .onnx file for images (N, 3, H, W) float32."""
    if path.endswith('.onnx'):
        import onnxruntime
        session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        return session.run(None, {session.get_inputs()[0].name: images})[0]
    return nn.GraphCell(mindspore.load(path))(Tensor(images)).asnumpy()
