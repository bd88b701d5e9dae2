"""Train NASNet-A-Mobile on a folder of images: python train.py --dataset_path DIR (see --help)."""
import os
import shlex
import sys
import time

from src import framework
from src.build import build_network, build_train_step
from src.checkpoint import (SaveError, check_room, checkpoint_path, keep_best, list_checkpoints, load, network_config,
                            prune, restore, resume, save, state)
from src.cli import Parser, boolean, make_config
from src.config import presets
from src.dataset import create_dataset, first_position, save_class_names
from src.draws import dropout_mask
from src.ema import average_decay
from src.errors import UserError
from src.evaluation import evaluate
from src.framework import Tensor
from src.lr_generator import learning_rate
from src.monitor import Monitor
from src.signals import StopRequest
from src.train_step import AccumulatedStep, EvalStep
from nasnet_a_mobile import initialize

NO_STEPS = (0, 0.0, 0.0)     # steps of an epoch that are done, sums of their losses and gradient norms


def parse(argv=None):
    """Flags and configuration of the command line."""
    parser = Parser('Train NASNet-A-Mobile.')
    parser.add_argument('--dataset_path', required=True, metavar='DIR', help='training images, a folder per class')
    parser.add_argument('--eval_dataset_path', metavar='DIR', help='images to validate on after each epoch')
    parser.add_argument('--is_distributed', default=False, type=boolean, metavar='True|False',
                        help='one of several data-parallel processes, started by mpirun or msrun')
    parser.add_argument('--resume', metavar='FILE|auto',
                        help='continue from this checkpoint, or from the newest good one in ckpt_path')
    parser.add_argument('--pretrained', metavar='FILE',
                        help='start from the weights of this checkpoint; classifiers of other classes start anew')
    parser.add_argument('--preset', default='imagenet', choices=sorted(presets), help='values of src/config.py')
    parser.add_config_keys()
    flags, given = parser.parse(argv)
    flags.pretrained = flags.pretrained and load(flags.pretrained)
    network = network_config(flags.pretrained) if flags.pretrained else {}
    network.pop('num_classes', None)
    return flags, make_config(presets[flags.preset], network, given)


def train(flags, config):
    """Train as `config` says; returns the path of the last checkpoint (None on ranks that write none)."""
    framework.use_device(flags.platform, flags.device_id, flags.is_distributed)
    if flags.is_distributed:
        config.rank, config.group_size = framework.join_group(flags.platform)
    dataset = create_dataset(flags.dataset_path, config, training=True)
    validation = flags.eval_dataset_path and create_dataset(flags.eval_dataset_path, config, training=False,
                                                            class_names=dataset.class_names)
    network = initialize(build_network(config, training=True), config.random_seed)
    fresh = flags.pretrained and restore(flags.pretrained, network, new_classes=True)
    train_step, eval_step = build_train_step(network, config), EvalStep(network, config.amp_level)
    run_step = AccumulatedStep(train_step)
    learned = [part for part in (train_step.optimizer, train_step.average, train_step.dynamic_scale)
               if part is not None]
    steps = dataset.get_dataset_size()
    writes = config.rank == 0 or not config.is_save_on_master
    position = flags.resume and resume(flags.resume, config.ckpt_path, 0 if config.is_save_on_master else config.rank,
                                       config, dataset.num_images, network, *learned)
    if writes:
        open_folder(config.ckpt_path, config.rank, flags.resume)
        check_room(config.ckpt_path, network)
        save_class_names(os.path.join(config.ckpt_path, 'classes.txt'), dataset.class_names)
    monitor = Monitor(config.ckpt_path if config.rank == 0 else None, config.epoch_size, steps,
                      config.batch_size * config.accumulation_steps * config.group_size, config.log_steps)
    monitor.print('training on %s: %d images in %d classes (%d other files ignored), %d epochs of %d steps'
                  % (flags.platform, dataset.num_images, len(dataset.class_names), dataset.ignored_files,
                     config.epoch_size, steps))
    start, sums, path = 0, NO_STEPS, None
    if position:
        start, sums, path = position['epoch'], position['sums'], position['path']
        monitor.checkpoint = path
        monitor.print('resuming %s in epoch %d after step %d' % (path, start + 1, sums[0]))
    elif flags.resume:
        monitor.print('no checkpoint in %s: starting fresh' % config.ckpt_path)
    if flags.pretrained and not position:
        monitor.print('starting from %s%s' % (flags.pretrained.path, '; anew: ' + ', '.join(fresh) if fresh else ''))

    def inputs(batch, epoch, step, part):
        """Images, labels, colour factors and dropout mask of batch `part` of a step, on the device."""
        mask = dropout_mask(config.random_seed, epoch, first_position(config, step, part), config.batch_size,
                            config.penultimate_filters, config.dropout_keep_prob)
        return Tensor(batch.images), Tensor(batch.labels), Tensor(batch.color), Tensor(mask)

    def write(epoch, step, position):
        """Write the checkpoint {epoch}_{step}; (epoch, sums) is where a resumed run goes on."""
        meta = {'epoch': position[0], 'sums': position[1], 'images': dataset.num_images, 'config': vars(config)}
        target = checkpoint_path(config.ckpt_path, config.rank, epoch + 1, step)
        try:
            save(target, state(network, *learned), meta)
            if position[1] == NO_STEPS and monitor.best(epoch + 1)[1] == epoch + 1:
                keep_best(target)
        except SaveError as error:
            if config.on_save_error == 'stop':
                raise
            print('warning: %s' % error, file=sys.stderr, flush=True)
            return monitor.checkpoint
        prune(config.ckpt_path, config.rank, config.keep_checkpoint_max)
        monitor.checkpoint = target
        return target

    def validate():
        if train_step.average is None:
            return evaluate(eval_step, validation)
        with train_step.average.applied():
            return evaluate(eval_step, validation)

    if writes and position and tuple(sums) == NO_STEPS and monitor.best(start)[1] == start:
        keep_best(path)         # the run may have been killed just before
    stop = StopRequest()
    for epoch in range(start, config.epoch_size):
        train_step.set_train(True)
        monitor.begin_epoch(epoch + 1, sums)
        batches = dataset.batches(epoch, sums[0])
        for step in range(sums[0], steps):
            rate = learning_rate(epoch * steps + step, steps, config)
            parts = (inputs(next(batches), epoch, step, part) for part in range(config.accumulation_steps))
            loss, norm = run_step(parts, Tensor(rate, framework.mindspore.float32),
                                  Tensor(average_decay(epoch * steps + step, config.ema_decay),
                                         framework.mindspore.float32))
            monitor.step(epoch + 1, step + 1, loss, norm, rate)
            due = config.save_checkpoint_steps and (step + 1) % config.save_checkpoint_steps == 0
            if writes and (stop or due):
                path = write(epoch, step + 1, (epoch, monitor.epoch_sums()))
            if stop:
                end(path, stop)
        sums, paused = NO_STEPS, time.time()
        accuracy = validation and validate()
        monitor.pause(time.time() - paused)
        # The row first: a kill between the two repeats the row, never leaves it out.
        monitor.end_epoch(epoch + 1, learning_rate((epoch + 1) * steps - 1, steps, config), accuracy)
        paused = time.time()
        if writes:
            path = write(epoch, steps, (epoch + 1, NO_STEPS))
        monitor.pause(time.time() - paused)
        if stop:
            end(path, stop)
    return path


def end(path, stop):
    """Print the command that goes on, and end with the signal's status."""
    if path:
        command = ['python'] + sys.argv + ['--resume', path]        # of two --resume the last one counts
        print('stopped by a signal; this goes on: %s' % ' '.join(map(shlex.quote, command)), flush=True)
    sys.exit(stop.status)


def open_folder(folder, rank, resuming):
    """Make the checkpoint folder; an earlier run's checkpoints in it are not to be overwritten unawares."""
    try:
        os.makedirs(folder, exist_ok=True)
        taken = list_checkpoints(folder, rank)
    except OSError as error:
        raise UserError('the checkpoint folder %s cannot be used (%s): choose another --ckpt_path'
                        % (folder, error.strerror))
    if taken and not resuming:
        raise UserError('%s is of an earlier run: go on with it by --resume auto, or choose another --ckpt_path'
                        % taken[-1])


if __name__ == '__main__':
    last = train(*parse())
    if last:
        print('last checkpoint: %s' % last)
