"""One training run: set up, epochs of steps, validation, checkpoints, and the end that a signal asks for."""
import importlib
import os
import shlex
import sys
import time
import uuid
from contextlib import closing, nullcontext

import numpy as np

from src.checkpoints import run_folder
from src.checkpoints.checkpoint import arrays_of, load, network_config, restore, save
from src.cli import require_batch_statistics, training_config
from src.config import presets
from src.dataset import create_dataset
from src.distributed.group import ending_together, join
from src.errors import needed_for
from src.files import SaveError
from src.framework import Tensor
from src.inference.evaluation import EvalStep, evaluate, on_device
from src.lr_generator import learning_rate
from src.network.build import build_network
from src.network.cpu.kernels import version_of_own_kernels
from src.network.initialize import initialize
from src.progress import COMPILING
from src.signals import StopRequest
from src.training.monitor import Monitor
from src.training.train_step import StepRunner, build_train_step
from src.versions import versions

MOST_IMAGES = 32        # of the first batch that TensorBoard shows
STOP_CHECK_STEPS = 10   # steps after which ranks on GPUs ask each other whether to stop; the question waits for them


def train(flags, given):
    """What train.py does.

    Args:
        flags: those of train.py.
        given: {configuration key: value} of the command line.
    """
    pretrained = flags.pretrained and load(flags.pretrained)
    network = network_config(pretrained) if pretrained else {}
    network.pop('num_classes', None)        # the data may have other classes
    config = training_config(presets[flags.preset], network, given)
    require_batch_statistics(config)
    with needed_for('--tensorboard True'):
        if config.tensorboard:
            importlib.import_module('tensorboardX')     # before anything is written
    group = join(flags.platform, flags.device_id, flags.is_distributed)
    with ending_together(group):
        trainer = Trainer(flags, group.configure(config), group, pretrained)
        trainer.run()
        if trainer.writes and trainer.monitor.checkpoint:
            print('last checkpoint: %s' % trainer.monitor.checkpoint)


class Trainer:
    """A training run on this rank.

    Args:
        flags: those of train.py.
        config: the configuration of this rank.
        group: the ranks of the run.
        pretrained: a Checkpoint whose weights the run starts from, or None.

    Attributes:
        writes: whether this rank writes checkpoints.
        steps: number of steps of an epoch.
        files: the training images in a few words, with a digest of their names.
        trainer_state: what a checkpoint holds beside the network (optimizer, loss scale, moving averages).
        per_rank_parameters: BatchNorm's statistics (and averages of them), which each rank computes from its own
            images. Before they are saved or used for validation, all ranks take rank 0's, as TF-Slim does. So one
            checkpoint resumes all ranks.
        stop_check_interval: number of steps after which ranks ask each other whether one of them is to stop.
        position: where the run starts or goes on.
        versions: {library: version} of this process.
        run_id: tells this run from all others; it stays when the run is resumed.
        folder: the RunFolder, which only rank 0 has.
        saved: when the last checkpoint was written, or the run began, in seconds.
        monitor: what a person sees of the run.
        events: the EventFile for TensorBoard on rank 0, or None.
    """

    def __init__(self, flags, config, group, pretrained=None):
        self.flags, self.config, self.group, self.pretrained = flags, config, group, pretrained
        self.writes = group.rank == 0 or not config.is_save_on_master
        self.stop_check_interval = 1 if flags.platform == 'CPU' or group.size == 1 else STOP_CHECK_STEPS
        self.dataset = create_dataset(flags.dataset_path, config, training=True)
        self.validation = flags.eval_dataset_path and create_dataset(
            flags.eval_dataset_path, config, training=False, class_names=self.dataset.class_names)
        self.steps, self.files = self.dataset.get_dataset_size(), self.dataset.describe()
        self._build()
        self.versions = dict(versions(), **{'own CPU kernels': version_of_own_kernels(self.network)})
        self.position = self._find_position()
        self.run_id = group.gather(self.position.run or uuid.uuid4().hex)[0]
        self._require_agreement()
        self.folder = self._open_folder()
        self.monitor = Monitor(config.ckpt_path if group.rank == 0 else None, config.epoch_size, self.steps,
                               config.batch_size * config.accumulation_steps * group.size, config.log_steps,
                               self.position.rows, group.mean, config.loss_scale)
        self.monitor.checkpoint = self.position.path
        self.events = self._open_events() if config.tensorboard and group.rank == 0 else None
        self._print_start()

    # --- set up ---------------------------------------------------------------------------------------------

    def _build(self):
        """Make the network, its training step and its evaluation step."""
        self.network = initialize(build_network(self.config, training=True), self.config.random_seed)
        self.new_heads = self.pretrained and restore(self.pretrained, self.network, new_classes=True)
        # From here on the optimizer has the weights; see FlatRMSProp.
        self.train_step = build_train_step(self.network, self.config, self.group)
        self.run_step = StepRunner(self.train_step, self.config, self.steps)
        self.eval_step = EvalStep(self.network)
        self.trainer_state = self.train_step.parts()
        self.per_rank_parameters = [p for p in self.network.get_parameters()
                                    if p.name.endswith(('.moving_mean', '.moving_variance'))]
        if self.train_step.average is not None:
            self.per_rank_parameters.append(self.train_step.average.average)

    def _find_position(self):
        """Restore the checkpoint that --resume asks for -> Position; the START of a run without one."""
        which = self.flags.resume
        found = which and run_folder.find_checkpoint(which, self.config.ckpt_path, self.group.rank)
        if not found:
            return run_folder.START
        position = run_folder.resume(found, self.config, self.dataset, self.flags.other_images, self.network,
                                     *self.trainer_state)
        self.train_step.optimizer.read_parameters()
        for library, version in sorted(position.versions.items()):
            if self.group.rank == 0 and self.versions.get(library) != version:
                print('warning: the checkpoint was written with %s %s, this is %s: the run goes on, but its bits may '
                      'differ from those of an undisturbed run' % (library, version, self.versions.get(library)),
                      file=sys.stderr, flush=True)
        return position

    def _require_agreement(self):
        """UserError if the ranks are not going to do the same."""
        if self.group.size == 1:
            return
        position = self.position
        self.group.require_agreement(self.config, self._arrays(), {
            'training images': self.files,
            'validation images': self.validation and self.validation.describe(),
            'own CPU kernels': self.versions['own CPU kernels'],
            'position': position.path and 'after %d epochs and %d steps' % (position.epoch, position.sums[0])})

    def _open_folder(self):
        """Take the folder of the run and check that checkpoints can be written into it -> RunFolder or None."""
        path = self.config.ckpt_path
        if self.group.rank > 0:
            if self.writes:
                run_folder.make_folder(path)        # its machine may not share rank 0's disk
            return None
        folder = run_folder.RunFolder(path, 0, self.position, self.flags.resume)
        copies = 1 if self.config.is_save_on_master else self.group.size
        run_folder.check_room(path, self._arrays(), copies)
        run_folder.save_class_names(os.path.join(path, run_folder.CLASS_NAMES), self.dataset.class_names)
        return folder

    def _open_events(self):
        """The file of this process for TensorBoard, or None if it cannot be written and the run goes on all the same.

        The first process of a run also shows its first images there.
        """
        from src.training.events import EventFile  # tensorboardX takes 0.4 s to import
        done = self.position.epoch * self.steps
        opened = []
        if not self._try(lambda: opened.append(EventFile(self.config.ckpt_path, done + self.position.sums[0], done))):
            return None
        events, = opened
        if events.is_first:
            with closing(self.dataset.batches(0)) as batches:
                batch = next(batches)
            images, color = (Tensor(array[:MOST_IMAGES]) for array in (batch.images, batch.color))
            self._try(events.add_images, self.train_step.preprocess(images, color).asnumpy())
        return events

    def _print_start(self):
        """Print what is trained and where the run starts."""
        dataset, position = self.dataset, self.position
        self.monitor.print('training on %s: %d images in %d classes (%d other files ignored), %d epochs of %d steps'
                           % (self.flags.platform, dataset.num_images, len(dataset.class_names),
                              dataset.ignored_files, self.config.epoch_size, self.steps))
        if position.epoch >= self.config.epoch_size:
            self.monitor.print('%s is the end of the run: it is finished, %d of %d epochs are done'
                               % (position.path, position.epoch, self.config.epoch_size))
        elif position.path:
            self.monitor.print('resuming %s in epoch %d after step %d'
                               % (position.path, position.epoch + 1, position.sums[0]))
        elif self.flags.resume:
            self.monitor.print('no checkpoint in %s: starting from the beginning' % self.config.ckpt_path)
        if self.pretrained and not position.path:
            self.monitor.print('starting from %s%s' % (self.pretrained.path, '; newly drawn: ' + ', '.join(
                self.new_heads) if self.new_heads else ''))

    # --- the loop -------------------------------------------------------------------------------------------

    def run(self):
        """Train to the last epoch."""
        self.update_metrics_and_best()      # a kill may have come between a checkpoint and these
        self.stop, self.saved = StopRequest(), time.monotonic()
        sums = self.position.sums
        for epoch in range(self.position.epoch, self.config.epoch_size):
            self.train_epoch(epoch, sums)
            self.finish_epoch(epoch)
            sums = run_folder.START.sums
        self.group.barrier()                # rank 0 may still be writing
        if self.folder:
            self.folder.release()

    def train_epoch(self, epoch, sums):
        """Run the steps of `epoch` (from 0) that `sums` says are not done yet."""
        self.train_step.set_train(True)
        with self.monitor.begin_epoch(epoch + 1, sums), closing(self.dataset.batches(epoch, sums[0])) as batches:
            for step in range(sums[0], self.steps):
                loss, norm, rate = self.run_step(batches, epoch, step)
                line = self.monitor.step(epoch + 1, step + 1, loss, norm, rate)
                if line and self.events:
                    line['loss_scale'] = self.train_step.loss_scale.number()
                    self._try(self.events.add, epoch * self.steps + step + 1, 'training', line)
                self.after_step(epoch, step + 1)

    def after_step(self, epoch, done):
        """Save a checkpoint if one is due, and end the run if a signal has asked for it; `done` steps are done."""
        interval = self.config.save_checkpoint_steps
        due = interval and done % interval == 0
        status = 0
        if due or done % self.stop_check_interval == 0 or done == self.steps:
            status, late = self.ask_ranks()
            due = (due or late) and done < self.steps       # at the end of an epoch a checkpoint follows anyway
        if due or status:
            self.save(epoch, done, epoch, self.monitor.epoch_sums())
        if status:
            self.end(status)

    def finish_epoch(self, epoch):
        """Validate, write the epoch's line and row, and save."""
        accuracy = None
        if self.validation:
            # A kill during the validation costs no step.
            self.save(epoch, self.steps, epoch, self.monitor.epoch_sums())
            accuracy = self.validate(COMPILING if epoch == self.position.epoch else '')
        rate = learning_rate((epoch + 1) * self.steps - 1, self.steps, self.config)
        self.monitor.end_epoch(epoch + 1, rate, accuracy)
        if accuracy and self.events:
            self._try(self.events.add, (epoch + 1) * self.steps, 'validation',
                      {'top1': accuracy.top1, 'top5': accuracy.top5})
        self.save(epoch, self.steps, epoch + 1, run_folder.START.sums)
        status, _ = self.ask_ranks()
        if status:
            self.end(status)

    def validate(self, note):
        """Accuracy on the validation images, with the moving averages if there are any; `note` is for the progress."""
        paused, average = time.time(), self.train_step.average
        with nullcontext() if average is None else average.applied():
            accuracy = evaluate(on_device(self.eval_step), self.validation, self.group, None, note, sys.stdout)
        self.monitor.pause(time.time() - paused)
        return accuracy

    # --- what is written ------------------------------------------------------------------------------------

    def save(self, epoch, step, resume_epoch, sums):
        """Write the checkpoint {epoch + 1}_{step}. From it a run goes on in `resume_epoch` with `sums`.

        Every rank must call this, also one that does not write.
        """
        self.group.take_rank_0s(self.per_rank_parameters)
        self.saved = time.monotonic()
        if not self.writes:
            return
        paused, config = time.time(), self.config
        path = run_folder.checkpoint_path(config.ckpt_path, self.group.rank, epoch + 1, step)
        meta = {'epoch': resume_epoch, 'sums': sums, 'rows': self.monitor.rows, 'images': self.dataset.num_images,
                'files': self.files, 'class_names': self.dataset.class_names, 'run': self.run_id,
                'versions': self.versions, 'config': vars(config)}
        written = self._try(save, path, self._arrays(), meta)
        if written:
            self.monitor.checkpoint = path
        self.update_metrics_and_best()
        if written:
            run_folder.prune(config.ckpt_path, self.group.rank, config.keep_checkpoint_max, path, self.steps)
        self.monitor.pause(time.time() - paused)

    def update_metrics_and_best(self):
        """Bring metrics.csv and the best checkpoint up to date; only rank 0 does."""
        if self.group.rank == 0:
            self._try(self.monitor.write)
            best_epoch = self.monitor.best()[1]
            self._try(run_folder.keep_best,
                      run_folder.checkpoint_path(self.config.ckpt_path, 0, best_epoch, self.steps))

    def _arrays(self):
        """What a checkpoint holds, {name: array}."""
        self.train_step.optimizer.write_parameters()
        return arrays_of(self.network, *self.trainer_state)

    def _try(self, write, *arguments):
        """Call `write`; returns whether it could write. If not, on_save_error decides whether the run goes on."""
        try:
            write(*arguments)
            return True
        except SaveError as error:
            if self.config.on_save_error == 'stop':
                raise
            print('warning: %s' % error.sentence, file=sys.stderr, flush=True)
            return False

    # --- the end --------------------------------------------------------------------------------------------

    def ask_ranks(self):
        """(status, late), the same on all ranks.

        status: what to end with if one rank is asked to end, else 0. late: whether rank 0's clock says that it is
        time for a checkpoint.
        """
        minutes = self.config.save_checkpoint_minutes
        late = self.group.rank == 0 and minutes and time.monotonic() - self.saved >= 60 * minutes
        terminated, interrupted, late = self.group.sum(
            np.array([self.stop.status == 143, self.stop.status == 130, bool(late)], np.int64))
        return 143 if terminated else 130 if interrupted else 0, bool(late)

    def end(self, status):
        """Print the command that goes on, and end the process with the status of the signal."""
        self.group.barrier()                # rank 0 may still be writing
        path = self.monitor.checkpoint
        if path and self.group.rank == 0:
            command = ' '.join(map(shlex.quote, [sys.executable] + sys.argv)) if self.group.size == 1 \
                else 'the same launch with'
            # If --resume stands in a command twice, the last one counts.
            print('stopped by a signal; this goes on: %s --resume %s' % (command, shlex.quote(path)), flush=True)
        sys.exit(status)
