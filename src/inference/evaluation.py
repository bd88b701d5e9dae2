"""Accuracy of a network over a data set, with every image counted once."""
import time
from collections import namedtuple

import numpy as np

from src.checkpoints.checkpoint import arrays_of, load, network_config, restore
from src.cli import make_config
from src.config import without_auxiliary_head
from src.dataset import create_dataset
from src.distributed.group import Group, ending_together, join
from src.errors import UserError, needed_for
from src.files import prepare_folder
from src.framework import Tensor, nn
from src.inference.class_names import class_names, readable, require_known_labels
from src.inference.exported import is_exported, load_exported, run_exported
from src.input.preprocess import Preprocess, network_input
from src.network.build import build_network
from src.network.cpu.kernels import use_own_kernels, version_of_own_kernels
from src.network.fold import fold
from src.progress import COMPILING, Progress

# top1 and top5 are shares of `images`, from 0 to 1. `skipped` bad images are not among them.
Accuracy = namedtuple('Accuracy', 'top1 top5 images skipped images_per_second')


class EvalStep(nn.Cell):
    """construct(images (N, H, W, 3) uint8) -> logits (N, K) of the network in evaluation mode and in float32.

    Args:
        network: NASNetAMobile; an auxiliary head is not used.
    """

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network
        self.preprocess = Preprocess()
        self.has_auxiliary = network.auxiliary_head is not None

    def construct(self, images):
        outputs = self.network(self.preprocess(images))
        return outputs[0] if self.has_auxiliary else outputs


def on_device(step):
    """Return the function of an EvalStep: images (N, H, W, 3) uint8 -> logits (N, K) float32, both arrays."""
    step.set_train(False)
    return lambda images: step(Tensor(images)).asnumpy()


def evaluate(logits_of, dataset, group=Group(), see=None, note=COMPILING, stream=None):
    """Run a network over a data set -> Accuracy; top1 and top5 are shares from 0 to 1.

    Every rank evaluates its share of the images, and all ranks get the accuracy over all of them.

    Args:
        logits_of: function images (N, H, W, 3) uint8 -> logits (N, K) float32, both arrays. It always gets batches of
            the size that the configuration of the data set says; rows without an image are black.
        see: called for each batch with (position of its first row among this rank's rows, Batch, logits (N, K)
            float32 array); None: not called.
        note, stream: what the progress says at first and where it goes in a log, see `Progress`.

    Raises:
        UserError: logits are not finite; the file system fails; no image could be read, or more images are bad than
            max_bad_images allows.
    """
    correct, images, start = np.zeros(2, np.int64), 0, time.time()
    with Progress('evaluating', dataset.images_of_rank(), 'images' + ' of rank 0' * (group.size > 1), note=note,
                  stream=stream, shown=group.rank == 0) as progress:
        for number, batch in enumerate(dataset.batches(0)):
            logits = logits_of(batch.images)
            if not np.isfinite(logits).all():
                raise UserError('the network returns values that are not finite: the checkpoint is of a diverged run')
            if see is not None:
                see(number * len(logits), batch, logits)
            correct += count_correct(logits, batch.labels, batch.valid)
            images += int(batch.valid.sum())
            progress.update(min(len(logits), progress.total - progress.done),
                            'top-1 %.2f%%' % (100 * correct[0] / max(images, 1)))
    top1, top5, images, skipped = group.sum(np.array([*correct, images, len(dataset.skipped)], np.int64))
    # Each rank has compared only its own images. Over all ranks their number may still be too large.
    dataset.require_few_bad(int(skipped), int(images + skipped))
    if images == 0:
        raise UserError('no image of the data set could be read')
    return Accuracy(top1 / images, top5 / images, int(images), int(skipped), images / (time.time() - start))


def count_correct(logits, labels, valid):
    """Of the rows with valid 1, how many have their label among the first 1 and the first 5 logits, (2,) int64.

    Of equal logits the one with the lower class number comes first.
    """
    best = np.argsort(-logits, axis=1, kind='stable')[:, :5]
    hits = (best == labels[:, None]) & (valid[:, None] > 0)
    return np.array([hits[:, 0].sum(), hits.sum()], np.int64)


def open_checkpoint(flags, given):
    """Read what --checkpoint of eval.py names: a checkpoint, or an exported network -> (Checkpoint, Config).

    Args:
        flags: those of eval.py.
        given: {configuration key: value} of the command line, over the configuration of the file.

    Raises:
        UserError: the file cannot be used, or the command line asks for what an exported network does not have.
    """
    path = flags.checkpoint
    if not is_exported(path):
        checkpoint = load(path)
        return checkpoint, make_config(without_auxiliary_head, network_config(checkpoint), given)
    if flags.weights:
        raise UserError('%s holds only one set of weights: leave --weights out, or name it to export.py' % path)
    if flags.is_distributed:
        raise UserError('%s is an exported network, which one process evaluates: leave --is_distributed out' % path)
    checkpoint = load_exported(path)
    for key, value in checkpoint.meta['config'].items():
        if given.get(key, value) != value:
            raise UserError('%s has %s %d, which cannot be changed any more: leave --%s out' % (path, key, value, key))
    return checkpoint, make_config(without_auxiliary_head, checkpoint.meta['config'], given)


def device_of(flags):
    """The platform on which MindSpore runs what --checkpoint names. It does not run ONNX files, so it needs no GPU."""
    return 'CPU' if flags.checkpoint.endswith('.onnx') else flags.platform


def logits_function(checkpoint, config, flags, group=Group(), dataset=None):
    """Return the function images (N, H, W, 3) uint8 -> logits (N, K) float32, both arrays, of a Checkpoint.

    It is the fastest form of the network for the device in use.

    Args:
        checkpoint, config: what `open_checkpoint` returned.
        flags: those of eval.py.
        group: the ranks, which must agree on the network and on the files of the data set.
        dataset: an ImageFolder; None if there is only one rank.

    Raises:
        UserError: the checkpoint does not fit, an exported file is damaged, or the ranks differ.
    """
    if is_exported(checkpoint.path):
        run = run_exported(checkpoint.path, flags.platform, flags.device_id)
        return lambda images: run(network_input(images))
    network = build_network(config, training=False)
    restore(checkpoint, network, flags.weights)
    network = use_own_kernels(fold(network))
    if group.size > 1:
        group.require_agreement(config, arrays_of(network), {
            'images': dataset.describe(), 'own CPU kernels': version_of_own_kernels(network)})
    return on_device(EvalStep(network))


def evaluate_checkpoint(flags, given):
    """What eval.py does for --dataset_path: print the accuracy of a checkpoint and write the report.

    Args:
        flags: those of eval.py.
        given: {configuration key: value} of the command line, over the configuration of the checkpoint.
    """
    checkpoint, config = open_checkpoint(flags, given)
    group = join(device_of(flags), flags.device_id, flags.is_distributed)
    with ending_together(group):
        _evaluate_checkpoint(flags, checkpoint, group.configure(config), group)


def _evaluate_checkpoint(flags, checkpoint, config, group):
    folders = class_names(checkpoint, config.num_classes)
    dataset = create_dataset(flags.dataset_path, config, training=False, class_names=folders)
    require_known_labels(dataset, folders, checkpoint, config.num_classes)
    logits_of = logits_function(checkpoint, config, flags, group, dataset)
    report = None
    if flags.report:
        with needed_for('--report'):
            from src.inference import report as reporting  # matplotlib takes a second to import
        report = reporting.Report(dataset, readable(folders, config.num_classes))
        prepare_folder(flags.report, reporting.REMEDY)
    start = time.time()
    accuracy = evaluate(logits_of, dataset, group, report and report.see)
    if group.rank > 0:
        return
    print('acc=%.2f%%(TOP1)' % (100 * accuracy.top1))
    print('acc=%.2f%%(TOP5)' % (100 * accuracy.top5))
    print('%d images, %d unreadable and left out, %.1f s with graph compilation, %.1f img/s'
          % (accuracy.images, accuracy.skipped, time.time() - start, accuracy.images_per_second))
    if report:
        with Progress('writing the report'):
            report.write(flags.report)
        print('report: %s' % flags.report)
