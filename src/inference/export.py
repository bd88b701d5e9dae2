"""A checkpoint as a file for other programs: MINDIR, AIR or ONNX.

The exported network takes images (N, 3, H, W) float32, RGB in [-1, 1], and returns logits (N, classes). N, H and W
are fixed. Each BatchNorm is folded into the convolution before it. What was written is read back and compared with
the network as it was trained.
"""
import os
import shutil
import tempfile
from contextlib import contextmanager

import numpy as np

from src.checkpoints.checkpoint import load, network_config, restore
from src.cli import make_config
from src.config import without_auxiliary_head
from src.errors import UserError
from src.files import prepare_folder, whole_file
from src.framework import Tensor, mindspore, use_device
from src.inference.class_names import class_names
from src.inference.exported import add_note, run_exported
from src.network.build import build_network
from src.network.fold import fold
from src.progress import Progress

# Largest allowed difference of a logit between the exported and the live network, where no logit is larger than 1.
# Where one is, the difference may be as much larger: float32 has about seven digits, whatever the size of a number is.
TOLERANCE = 1e-4
REMEDY = 'choose another --file_name'


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
    if not os.path.basename(flags.file_name):
        raise UserError('--file_name %s is a folder: give the name of a file in it' % flags.file_name)
    checkpoint = load(flags.ckpt_file)
    config = make_config(without_auxiliary_head, network_config(checkpoint), {'batch_size': 1}, given)
    note = {'class_names': class_names(checkpoint, config.num_classes), 'source': checkpoint.meta.get('source')}
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
    prepare_folder(os.path.dirname(path), REMEDY)
    said = ['exported: %s' % path]
    with _temporary_folder() as folder:
        written = os.path.join(folder, 'network' + ending)
        with Progress('exporting'):
            _export(folded, images, written, flags.file_format, note)
        if flags.file_format != 'AIR':
            with Progress('comparing the file with the network'):
                both = run_exported(written)(images), network(Tensor(images)).asnumpy()
            said.insert(0, compare(path, *both))
        with whole_file(path, REMEDY) as unfinished:
            shutil.copyfile(written, unfinished)
    print('\n'.join(said))


def _export(network, images, written, file_format, note):
    """Let MindSpore write the file `written`, and add the note where the format has room.

    UserError with MindSpore's words if it cannot.

    MindSpore takes only Latin letters, digits and few other characters in the name that it is given, so it gets a name
    without a folder. It makes the file and its folder private, so both are temporary.
    """
    try:
        with _working_folder(os.path.dirname(written)):
            mindspore.export(network, Tensor(images), file_name=os.path.basename(written), file_format=file_format)
        if file_format != 'AIR':
            add_note(written, note)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError('MindSpore cannot write the %s file in %s (%s): make room there or set TMPDIR to another folder'
                        % (file_format, os.path.dirname(written), str(error).strip().split('\n')[0]))


@contextmanager
def _temporary_folder():
    """Yield the path of a folder that is removed when the block ends; UserError if none can be made."""
    try:
        folder = tempfile.mkdtemp()
    except OSError as error:
        raise UserError('no temporary folder can be made (%s): set TMPDIR to a folder that can be written'
                        % error.strerror)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _working_folder(folder):
    """Run the block with another working folder."""
    before = os.open('.', os.O_PATH)        # a path would not lead back to a folder that was removed
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def compare(path, exported, logits):
    """A sentence with the largest difference of two arrays of logits (N, K) float32.

    Raises:
        UserError: a logit of the network is not finite, or the difference is too large. `path` is named.
    """
    largest = float(np.abs(logits).max())
    if not np.isfinite(largest):
        raise UserError('the network returns values that are not finite: the checkpoint is of a diverged run, and %s '
                        'is not written' % path)
    difference, allowed = float(np.abs(exported - logits).max()), TOLERANCE * max(1, largest)
    if not difference <= allowed:
        raise UserError('%s differs from the network by %.3g, more than %.3g: it is not written'
                        % (path, difference, allowed))
    return 'largest difference from the live network: %.3g (logits up to %.3g)' % (difference, largest)
