"""What a person sees of a training run: a bar on a terminal, lines in a log, rows of metrics.csv."""
import math
import sys
import time

import numpy as np

from src.errors import UserError
from src.progress import COMPILING, Progress, duration
from src.training.metrics import COLUMNS, write_metrics

TOP1, IMAGES, SKIPPED = (COLUMNS.index(name) for name in ('top1', 'validation_images', 'skipped_images'))


class Monitor:
    """Follows the steps of a run. It takes tensors of the device and reads them only when a line is due.

    To read a tensor waits for the device. A loss or gradient norm that is not finite ends the run (UserError) when it
    is read, which always happens before a checkpoint is written.

    Args:
        folder: where metrics.csv goes; None (ranks other than 0): nothing is shown or written.
        epochs: number of epochs of the whole run.
        steps: number of steps of an epoch.
        images: number of images of a step, over all ranks.
        log_steps: number of steps between two lines.
        rows: rows of metrics.csv that earlier processes of this run have written, lists of text. An earlier version
            of this program wrote rows without the two columns about the validation images; they stay empty.
        mean: function of a float32 vector, the losses of this rank -> their means over all ranks. All ranks must
            then call `step`, `epoch_sums` and `end_epoch` in the same order.
        loss_scale: the fixed loss scale, or 0 for a dynamic one.

    Attributes:
        checkpoint: path of the last checkpoint that was written, or None.
    """

    def __init__(self, folder, epochs, steps, images, log_steps, rows=(), mean=lambda losses: losses,
                 loss_scale=1):
        self.folder = folder
        self.epochs, self.steps, self.images, self.log_steps, self.mean = epochs, steps, images, log_steps, mean
        self.loss_scale = loss_scale
        self.rows = [list(row[:IMAGES]) + [''] * (len(COLUMNS) - len(row)) + list(row[IMAGES:]) for row in rows]
        self.waiting = []                # (epoch, step, loss, norm, learning rate) of steps that were not read yet
        self.checkpoint = None
        self.sums = (0, 0.0, 0.0)        # steps of this epoch that are done, sum of their losses, of their norms
        self.loss = self.norm = None     # of the last step that was read
        self.done = 0                    # steps of this process without the first, which compiles the graph
        self.clock = None                # time at which the first step had ended, later by all pauses
        self.progress = None             # of the epoch's steps

    def begin_epoch(self, epoch, sums=(0, 0.0, 0.0)):
        """Epoch `epoch` (from 1) starts; `sums` are those of its steps that an earlier process has done.

        Returns a context manager, the block of the steps of this epoch.
        """
        self.sums = tuple(sums)
        self.progress = Progress('epoch %d/%d' % (epoch, self.epochs), self.steps, 'steps', self.sums[0],
                                 '' if self.clock else COMPILING, sys.stdout, shown=self.folder is not None)
        return self.progress

    def step(self, epoch, step, loss, norm, learning_rate):
        """Step `step` of epoch `epoch` (both from 1) has been started on the device.

        Returns {name: value} of what the line of this step says, for TensorBoard; None if it has no line. The speed is
        missing after the first step of this process.
        """
        self.waiting.append((epoch, step, loss, norm, learning_rate))
        note = line = None
        if self.clock is None:
            self._read()
            self.clock, note = time.time(), ''
        else:
            self.done += 1
        if step % self.log_steps == 0 or step == self.steps:
            self._read()
            left = (self.epochs - epoch + 1) * self.steps - step
            self.print('epoch %d/%d step %d/%d loss %.4f lr %.6f %.1f img/s ETA %s'
                       % (epoch, self.epochs, step, self.steps, self.loss, learning_rate, self.speed(),
                          duration(left * self.images / self.speed()) if self.done else '?'))
            note = 'loss %.4f, %.1f img/s' % (self.loss, self.speed())
            line = {'loss': self.loss, 'gradient_norm': self.norm, 'learning_rate': learning_rate}
            line.update({'images_per_second': self.speed()} if self.done else {})
        self.progress.update(1, note)
        return line

    def end_epoch(self, epoch, learning_rate, accuracy=None):
        """Epoch `epoch` is over: add a row for `write` and print a line.

        Args:
            epoch: number of the epoch, from 1.
            learning_rate: that of its last step.
            accuracy: Accuracy of the validation (src/inference/evaluation.py), the same on all ranks, or None.
        """
        steps, losses, norms = self.epoch_sums()
        self.rows.append([str(epoch), str(epoch * self.steps), '%.8g' % learning_rate, '%.6f' % (losses / steps),
                          '%.6f' % (norms / steps), '%.6f' % accuracy.top1 if accuracy else '',
                          '%.6f' % accuracy.top5 if accuracy else '', str(accuracy.images) if accuracy else '',
                          str(accuracy.skipped) if accuracy else '', '%.2f' % self.speed() if self.done else ''])
        text = 'epoch %d/%d done: mean loss %s' % (epoch, self.epochs, self.rows[-1][3])
        if accuracy:
            text += ', validation top-1 %.2f%% top-5 %.2f%%' % (100 * accuracy.top1, 100 * accuracy.top5)
            if accuracy.skipped:
                text += (' over %d of %d images (%d are bad and left out)'
                         % (accuracy.images, accuracy.images + accuracy.skipped, accuracy.skipped))
            text += ', best top-1 %.2f%% in epoch %d' % self.best()
        self.print(text)

    def write(self):
        """Write metrics.csv with all rows, and metrics.png.

        Raises:
            SaveError: the folder cannot be written or the disk is full. The file that cannot be written is as it was.
        """
        if self.folder:
            write_metrics(self.folder, self.rows, 'choose another --ckpt_path')

    def best(self):
        """(top-1 in per cent, epoch) of the epoch with the best validation so far, the earliest; (0, 0) if none.

        Epochs are compared as if each image that a validation had to leave out had been classified wrongly. So no
        epoch becomes the best because hard images were missing. One lost image also does not keep all later epochs
        from becoming the best, as it would if epochs with fewer images never won.
        """
        best = max((row for row in self.rows if row[TOP1]), default=None, key=lambda row: (_sure_top1(row),
                                                                                           -int(row[0])))
        return (100 * float(best[TOP1]), int(best[0])) if best else (0, 0)

    def epoch_sums(self):
        """(steps, sum of losses, sum of gradient norms) of this epoch so far, for a checkpoint."""
        self._read()
        return self.sums

    def pause(self, seconds):
        """Do not count `seconds`, which were spent on something else than training, in the speed."""
        if self.clock is not None:
            self.clock += seconds

    def speed(self):
        """Images per second over all ranks since the first step; 0 before the second."""
        return 0.0 if self.clock is None else self.done * self.images / max(time.time() - self.clock, 1e-9)

    def print(self, text):
        """Print a line without disturbing the bar."""
        if self.folder and self.progress:
            self.progress.print(text)
        elif self.folder:
            print(text, flush=True)

    def _read(self):
        """Read the waiting losses and norms from the device, add them up, and check that they are finite."""
        losses = np.array([loss.asnumpy() for _, _, loss, _, _ in self.waiting], np.float32)
        for (epoch, step, _, norm, rate), loss in zip(self.waiting, self.mean(losses) if self.waiting else ()):
            self.loss, self.norm = float(loss), float(norm.asnumpy())
            if not math.isfinite(self.loss) or not math.isfinite(self.norm):
                # A loss that is finite has gradients that are not if the scale lets them overflow.
                overflow = math.isfinite(self.loss) and self.loss_scale > 1
                raise UserError('training has diverged in epoch %d, step %d: loss %g, gradient norm %g, learning rate '
                                '%g, loss scale %s; the last good checkpoint is %s; start a new run with a lower %s'
                                % (epoch, step, self.loss, self.norm, rate, self.loss_scale or 'dynamic',
                                   self.checkpoint or 'none', ('--loss_scale (0: dynamic)' if overflow else '--lr_init')
                                   + ', from it by --pretrained' * bool(self.checkpoint)))
            self.sums = (self.sums[0] + 1, self.sums[1] + self.loss, self.sums[2] + self.norm)
        self.waiting = []


def _sure_top1(row):
    """The top-1 of a row of metrics.csv if all images that were left out are counted as wrong, from 0 to 1."""
    images, skipped = int(row[IMAGES] or 1), int(row[SKIPPED] or 0)     # Rows of earlier versions have no numbers.
    return float(row[TOP1]) * (images / (images + skipped))
