"""What each rank of test_distributed.py runs: python tests/distributed/ranks.py IMAGES FOLDER.

Rank N writes what it has and sees to FOLDER/N.npz.
"""
import atexit
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from src.cli import make_config
from src.dataset import create_dataset
from src.distributed.group import ending_together, join
from src.framework import Parameter, Tensor
from src.network.build import build_network
from src.network.initialize import initialize
from src.training.train_step import build_train_step


def files_seen(config, images):
    """The numbers of the files that this rank reads in one epoch."""
    dataset = create_dataset(images, config, training=True)
    seen, read = [], dataset._read
    dataset._read = lambda index, *rest: seen.append(index) or read(index, *rest)
    for _ in dataset.batches(0):
        pass
    return seen


def gradients(config, images, group):
    """(this rank's own gradient of one batch, the mean over the ranks)"""
    batch = next(create_dataset(images, config, training=True).batches(0))
    step = build_train_step(initialize(build_network(config, training=True), 1), config, group).set_train(True)
    own = step.loss_and_gradients(step.preprocess(Tensor(batch.images)), Tensor(batch.labels),
                                  Tensor(np.ones((config.batch_size, config.penultimate_filters), np.float32)))[1]
    own = np.concatenate([gradient.asnumpy().reshape(-1) for gradient in own])
    return own, group.gradient_mean()(Tensor(own)).asnumpy()


def main(images, folder):
    """Join the group, write what this rank has and sees, and leave the group."""
    group = join('CPU', is_distributed=True)
    atexit.register(lambda: open(os.path.join(folder, '%d.usual-end' % group.rank), 'w').close())
    with ending_together(group):
        write(images, folder, group)


def write(images, folder, group):
    """Write what this rank has and sees."""
    rank = group.rank
    config = make_config({'rank': rank, 'group_size': group.size, 'penultimate_filters': 96, 'cells_per_stage': 1,
                          'num_classes': 4, 'image_size': 72, 'batch_size': 4})
    counts = np.array([2 ** 24 - 1 - rank, 1281167, 50000 + rank, 0], np.int64)
    own, mean = gradients(config, images, group)
    statistics = [Parameter(Tensor(np.full(shape, 1 + rank, np.float32)), name='a') for shape in ((2, 3), (5,))]
    group.take_rank_0s(statistics)
    np.savez(os.path.join(folder, '%d.npz' % rank), size=group.size, seen=files_seen(config, images), own=own,
             mean=mean, counts=counts, sums=group.sum(counts), texts=group.gather('é' * (3 * rank)),
             losses=group.mean(np.array([rank, 0.1 * rank], np.float32)),
             statistics=np.concatenate([parameter.asnumpy().reshape(-1) for parameter in statistics]))


if __name__ == '__main__':
    main(*sys.argv[1:])
