"""What each rank of tests/test_distributed.py runs: python tests/ranks.py IMAGES FOLDER; rank N writes FOLDER/N.npz."""
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from nasnet_a_mobile import initialize  # noqa: E402  pylint: disable=wrong-import-position
from src import framework, group  # noqa: E402  pylint: disable=wrong-import-position
from src.build import build_network, build_train_step  # noqa: E402  pylint: disable=wrong-import-position
from src.cli import make_config  # noqa: E402  pylint: disable=wrong-import-position
from src.dataset import create_dataset  # noqa: E402  pylint: disable=wrong-import-position
from src.framework import Tensor  # noqa: E402  pylint: disable=wrong-import-position


def files_seen(config, images):
    """Which files one epoch reads on this rank, by number."""
    dataset = create_dataset(images, config, training=True)
    seen, read = [], dataset._read
    dataset._read = lambda index: seen.append(index) or read(index)
    for _ in dataset.batches(0):
        pass
    return seen


def gradients(config, images):
    """This rank's own gradients of one batch, and their mean over the ranks as the optimizer forms it."""
    batch = next(create_dataset(images, config, training=True).batches(0))
    step = build_train_step(initialize(build_network(config, training=True), 1), config).set_train(True)
    own = step.loss_and_gradients(step.preprocess(Tensor(batch.images)), Tensor(batch.labels),
                                  Tensor(np.ones((config.batch_size, config.penultimate_filters), np.float32)))[1]
    own = np.concatenate([gradient.asnumpy().reshape(-1) for gradient in own])
    return own, group.GroupMean(config.group_size)(Tensor(own)).asnumpy()


def main(images, folder):
    """Join, and write what this rank has and sees."""
    framework.use_device('CPU', distributed=True)
    rank, size = group.join('CPU')
    config = make_config({'rank': rank, 'group_size': size, 'penultimate_filters': 96, 'cells_per_stage': 1,
                          'num_classes': 4, 'image_size': 72, 'batch_size': 4})
    counts = np.array([2 ** 24 - 1 - rank, 1281167, 50000 + rank, 0], np.int64)
    own, mean = gradients(config, images)
    np.savez(os.path.join(folder, '%d.npz' % rank), size=size, seen=files_seen(config, images), own=own, mean=mean,
             counts=counts, sums=group.group_sum(counts, size), texts=group.gather('é' * (3 * rank), rank, size),
             losses=group.group_mean(np.array([rank, 0.1 * rank], np.float32), size))


if __name__ == '__main__':
    main(*sys.argv[1:])
