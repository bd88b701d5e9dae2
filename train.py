"""Train NASNet-A-Mobile on a folder of images: python train.py --dataset_path DIR (see --help)."""
import os
import shlex
import sys
import time

from src import framework, group
from src.build import build_network, build_train_step
from src.checkpoint import (BEST, check_room, checkpoint_path, keep_best, list_checkpoints, load, network_config,
                            prune, restore, resume, save, state)
from src.cli import Parser, boolean, make_config
from src.config import presets
from src.dataset import create_dataset, first_position, save_class_names
from src.draws import dropout_mask
from src.ema import average_decay
from src.errors import UserError
from src.evaluation import evaluate
from src.files import SaveError
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
    group.enter(flags, config)
    dataset = create_dataset(flags.dataset_path, config, training=True)
    validation = flags.eval_dataset_path and create_dataset(flags.eval_dataset_path, config, training=False,
                                                            class_names=dataset.class_names)
    network = initialize(build_network(config, training=True), config.random_seed)
    fresh = flags.pretrained and restore(flags.pretrained, network, new_classes=True)
    train_step, eval_step = build_train_step(network, config), EvalStep(network, config.amp_level)
    run_step = AccumulatedStep(train_step)
    learned = [part for part in (train_step.optimizer, train_step.average, train_step.dynamic_scale)
               if part is not None]
    # Of its own images on each rank; rank 0's count, as in TF-Slim, and in a checkpoint alone they resume exactly.
    own = [p for p in network.get_parameters() if p.name.endswith(('.moving_mean', '.moving_variance'))]
    if train_step.average is not None:
        own.append(train_step.average.average)
    steps = dataset.get_dataset_size()
    writes = config.rank == 0 or not config.is_save_on_master
    position = resume(flags.resume, config.ckpt_path, config.rank, config, dataset.num_images, network,
                      *learned) if flags.resume else {}
    if config.group_size > 1:
        group.require_agreement(config, state(network, *learned), {
            'training images': dataset.describe(), 'validation images': validation and validation.describe(),
            'position': position and 'after %d epochs and %d steps' % (position['epoch'], position['sums'][0])})
    if writes:
        open_folder(config.ckpt_path, config.rank, flags.resume)
        check_room(config.ckpt_path, state(network, *learned), 1 if config.is_save_on_master else config.group_size)
        save_class_names(os.path.join(config.ckpt_path, 'classes.txt'), dataset.class_names)
    monitor = Monitor(config.ckpt_path if config.rank == 0 else None, config.epoch_size, steps,
                      config.batch_size * config.accumulation_steps * config.group_size, config.log_steps,
                      position.get('rows', ()), lambda losses: group.group_mean(losses, config.group_size))
    monitor.print('training on %s: %d images in %d classes (%d other files ignored), %d epochs of %d steps'
                  % (flags.platform, dataset.num_images, len(dataset.class_names), dataset.ignored_files,
                     config.epoch_size, steps))
    if position:
        monitor.checkpoint = position['path']
        monitor.print('resuming %s in epoch %d after step %d' % (position['path'], position['epoch'] + 1,
                                                                 position['sums'][0]))
    elif flags.resume:
        monitor.print('no checkpoint in %s: starting fresh' % config.ckpt_path)
    if flags.pretrained and not position:
        monitor.print('starting from %s%s' % (flags.pretrained.path, '; anew: ' + ', '.join(fresh) if fresh else ''))

    def inputs(batch, epoch, step, part):
        """Images, labels, colour factors and dropout mask of batch `part` of a step, on the device."""
        mask = dropout_mask(config.random_seed, epoch, first_position(config, step, part), config.batch_size,
                            config.penultimate_filters, config.dropout_keep_prob)
        return Tensor(batch.images), Tensor(batch.labels), Tensor(batch.color), Tensor(mask)

    def saved(write, *arguments):
        """Whether `write` could; where not, config.on_save_error says what happens."""
        try:
            write(*arguments)
            return True
        except SaveError as error:
            if config.on_save_error == 'stop':
                raise
            print('warning: %s' % str(error)[len('error: '):], file=sys.stderr, flush=True)
            return False

    def keep(epoch, step, resume_epoch, sums):
        """Write the checkpoint {epoch}_{step}; a run goes on from it in `resume_epoch` with `sums`.

        Every rank must come here.
        """
        group.follow_rank_0(own, config)
        if not writes:
            return
        paused = time.time()
        target = checkpoint_path(config.ckpt_path, config.rank, epoch + 1, step)
        written = saved(save, target, state(network, *learned),
                        {'epoch': resume_epoch, 'sums': sums, 'rows': monitor.rows, 'images': dataset.num_images,
                         'config': vars(config)})
        if written:
            monitor.checkpoint = target
        keep_books()
        if written:
            prune(config.ckpt_path, config.rank, config.keep_checkpoint_max)
        monitor.pause(time.time() - paused)

    def keep_books():
        """Bring metrics.csv and the best checkpoint up to date, also after a kill or a full disk."""
        if config.rank == 0:
            saved(monitor.write)
            saved(keep_best, checkpoint_path(config.ckpt_path, 0, monitor.best()[1], steps))

    def validate():
        if train_step.average is None:
            return evaluate(eval_step, validation)
        with train_step.average.applied():
            return evaluate(eval_step, validation)

    keep_books()
    stop = StopRequest()
    # Steps between two times that ranks ask each other whether to stop, which waits for the device.
    look = 1 if flags.platform == 'CPU' or config.group_size == 1 else 10
    start, sums = position.get('epoch', 0), position.get('sums', NO_STEPS)
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
            ending = stop.agreed(config.group_size) if due or (step + 1) % look == 0 or step + 1 == steps else 0
            if ending or due:
                keep(epoch, step + 1, epoch, monitor.epoch_sums())
            if ending:
                end(ending, monitor.checkpoint, config)
        batches.close()
        accuracy, sums = None, NO_STEPS
        if validation:
            keep(epoch, steps, epoch, monitor.epoch_sums())     # a kill while validating costs no step
            paused = time.time()
            accuracy = validate()
            monitor.pause(time.time() - paused)
        monitor.end_epoch(epoch + 1, learning_rate((epoch + 1) * steps - 1, steps, config), accuracy)
        keep(epoch, steps, epoch + 1, NO_STEPS)
        ending = stop.agreed(config.group_size)
        if ending:
            end(ending, monitor.checkpoint, config)
    group.wait(config.group_size)       # for rank 0 to have written
    return monitor.checkpoint if writes else None


def end(status, path, config):
    """Print the command that goes on, and end with the signal's status once rank 0 has written."""
    group.wait(config.group_size)
    if path and config.rank == 0:
        command = ' '.join(map(shlex.quote, [sys.executable] + sys.argv)) if config.group_size == 1 \
            else 'the same launch with'
        # Of two --resume the last one counts.
        print('stopped by a signal; this goes on: %s --resume %s' % (command, shlex.quote(path)), flush=True)
    sys.exit(status)


def open_folder(folder, rank, resuming):
    """Make the checkpoint folder; an earlier run's checkpoints in it are not to be overwritten unawares."""
    try:
        os.makedirs(folder, exist_ok=True)
        taken = list_checkpoints(folder, rank) or [path for path in [os.path.join(folder, BEST)]
                                                   if os.path.exists(path)]
    except OSError as error:
        raise UserError('the checkpoint folder %s cannot be used (%s): choose another --ckpt_path'
                        % (folder, error.strerror))
    if taken and not resuming:
        raise UserError('%s is of an earlier run: go on with it by --resume auto, or choose another --ckpt_path'
                        % taken[-1])


if __name__ == '__main__':
    with group.failing_for_all():
        last = train(*parse())
        if last:
            print('last checkpoint: %s' % last)
