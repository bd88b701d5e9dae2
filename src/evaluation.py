"""Accuracy of a network over a data set, every image counted once."""
import time
from collections import namedtuple

import numpy as np

from src.errors import UserError
from src.framework import Tensor
from src.group import group_sum

Accuracy = namedtuple('Accuracy', 'top1 top5 images skipped images_per_second')


def evaluate(step, dataset, see=None):
    """Run `step` (an EvalStep) over `dataset` -> Accuracy; top1 and top5 are shares from 0 to 1.

    `see`, if given, is called with (position of the batch's first row among this process's rows, Batch,
    logits (N, K)). In a group every process takes its share of the images, and all get the accuracy over all of them.

    Raises:
        UserError: logits are not finite, or no image could be read.
    """
    correct, images, start = np.zeros(2, np.int64), 0, time.time()
    step.set_train(False)
    for number, batch in enumerate(dataset.batches(0)):
        logits = step(Tensor(batch.images)).asnumpy()
        if not np.isfinite(logits).all():
            raise UserError('the network returns values that are not finite: the checkpoint is of a diverged run')
        if see is not None:
            see(number * len(logits), batch, logits)
        correct += count_correct(logits, batch.labels, batch.valid)
        images += int(batch.valid.sum())
    top1, top5, images, skipped = group_sum(np.array([*correct, images, len(dataset.skipped)], np.int64),
                                            dataset.config.group_size)
    if images == 0:
        raise UserError('no image of the data set could be read')
    return Accuracy(top1 / images, top5 / images, int(images), int(skipped), images / (time.time() - start))


def count_correct(logits, labels, valid):
    """How many rows with valid 1 have their label among the first 1 and the first 5 logits, (2,) int.

    Equal logits rank by class number.
    """
    best = np.argsort(-logits, axis=1, kind='stable')[:, :5]
    hits = (best == labels[:, None]) & (valid[:, None] > 0)
    return np.array([hits[:, 0].sum(), hits.sum()], np.int64)
