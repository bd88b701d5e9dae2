"""Train NASNet-A-Mobile on a folder of images: python train.py --dataset_path DIR (see --help)."""
import os
import time

from src import framework
from src.build import build_network, build_train_step
from src.checkpoint import checkpoint_path, prune, save
from src.cli import Parser, boolean, make_config
from src.config import presets
from src.dataset import create_dataset, save_class_names
from src.draws import dropout_mask
from src.errors import UserError
from src.evaluation import evaluate
from src.framework import Tensor
from src.lr_generator import learning_rate
from src.monitor import Monitor
from src.train_step import EvalStep
from nasnet_a_mobile import initialize


def parse(argv=None):
    """Flags and configuration of the command line."""
    parser = Parser('Train NASNet-A-Mobile.')
    parser.add_argument('--dataset_path', required=True, metavar='DIR', help='training images, a folder per class')
    parser.add_argument('--eval_dataset_path', metavar='DIR', help='images to validate on after each epoch')
    parser.add_argument('--is_distributed', default=False, type=boolean, metavar='True|False',
                        help='one of several data-parallel processes, started by mpirun or msrun')
    parser.add_argument('--preset', default='imagenet', choices=sorted(presets), help='values of src/config.py')
    parser.add_config_keys()
    flags, given = parser.parse(argv)
    return flags, make_config(presets[flags.preset], given)


def train(flags, config):
    """Train as `config` says; returns the path of the last checkpoint (None on ranks that write none)."""
    framework.use_device(flags.platform, flags.device_id, flags.is_distributed)
    if flags.is_distributed:
        config.rank, config.group_size = framework.join_group(flags.platform)
    dataset = create_dataset(flags.dataset_path, config, training=True)
    validation = flags.eval_dataset_path and create_dataset(flags.eval_dataset_path, config, training=False,
                                                            class_names=dataset.class_names)
    writes = config.rank == 0 or not config.is_save_on_master
    if writes:
        open_folder(config.ckpt_path, config.rank)
        save_class_names(os.path.join(config.ckpt_path, 'classes.txt'), dataset.class_names)

    network = initialize(build_network(config, training=True), config.random_seed)
    train_step, eval_step = build_train_step(network, config), EvalStep(network)
    steps = dataset.get_dataset_size()
    monitor = Monitor(config.ckpt_path if config.rank == 0 else None, config.epoch_size, steps,
                      config.batch_size * config.group_size, config.log_steps)
    monitor.print('training on %s: %d images in %d classes (%d other files ignored), %d epochs of %d steps'
                  % (flags.platform, dataset.num_images, len(dataset.class_names), dataset.ignored_files,
                     config.epoch_size, steps))

    path = None
    for epoch in range(config.epoch_size):
        train_step.set_train(True)
        monitor.begin_epoch(epoch + 1)
        for step, batch in enumerate(dataset.batches(epoch)):
            rate = learning_rate(epoch * steps + step, steps, config)
            first = (step * config.group_size + config.rank) * config.batch_size
            mask = dropout_mask(config.random_seed, epoch, first, config.batch_size, config.penultimate_filters,
                                config.dropout_keep_prob)
            loss, norm = train_step(Tensor(batch.images), Tensor(batch.labels), Tensor(batch.color), Tensor(mask),
                                    Tensor(rate, framework.mindspore.float32))
            monitor.step(epoch + 1, step + 1, loss, norm, rate)
        paused = time.time()
        if writes:
            path = checkpoint_path(config.ckpt_path, config.rank, epoch + 1, steps)
            save(path, network, train_step.optimizer,
                 {'epoch': epoch + 1, 'step': (epoch + 1) * steps, 'config': vars(config)})
            prune(config.ckpt_path, config.rank, config.keep_checkpoint_max)
        accuracy = validation and evaluate(eval_step, validation)
        monitor.pause(time.time() - paused)
        monitor.end_epoch(epoch + 1, rate, accuracy)
    return path


def open_folder(folder, rank):
    """Make the checkpoint folder; an earlier run's checkpoints in it are not to be overwritten."""
    try:
        os.makedirs(folder, exist_ok=True)
        taken = sorted(name for name in os.listdir(folder) if name.startswith('nasnet-a-mobile-rank%d-' % rank))
    except OSError as error:
        raise UserError('the checkpoint folder %s cannot be used (%s): choose another --ckpt_path'
                        % (folder, error.strerror))
    if taken:
        raise UserError('%s already holds %s of an earlier run: choose another --ckpt_path' % (folder, taken[-1]))


if __name__ == '__main__':
    last = train(*parse())
    if last:
        print('last checkpoint: %s' % last)
