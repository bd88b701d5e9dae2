"""One step of training as one compiled function of its inputs. Everything that runs on the device is here."""
import numpy as np

from src.dataset import first_position
from src.distributed.group import Group
from src.framework import Parameter, Tensor, mindspore, nn, ops
from src.input.draws import dropout_mask
from src.input.preprocess import Preprocess
from src.loss import NASNetLoss
from src.lr_generator import learning_rate
from src.network.cpu.kernels import use_own_kernels
from src.network.precision import Precision
from src.training.ema import MovingAverage, average_decay
from src.training.loss_scale import make_loss_scale
from src.training.optimizer import FlatRMSProp


class TrainStep(nn.Cell):
    """Preprocessing, forward pass, loss, backward pass, optimizer, moving averages.

    construct(images (N, H, W, 3) uint8, labels (N,) int32, color (N, 3) float32, dropout_mask (N, F) float32,
    learning_rate float32 scalar, average_decay float32 scalar) -> (loss, norm), float32 scalars: the loss of this
    rank's images and the global norm of the gradients. Every random number comes in as an input, so a step is a pure
    function of its inputs and the parameters.

    Args:
        network: NASNetAMobile.
        loss: function of (outputs of the network, labels) -> float32 scalar.
        optimizer: FlatRMSProp; its loss scale is used for the loss too.
        average: MovingAverage that each step updates, or None.
        frozen: cells of the network that stay in evaluation mode (their BatchNorms use the moving averages).
        accumulation_steps: number of batches whose gradients are averaged into one step; above 1 only `StepRunner`
            can run the step.
        precision: Precision of the forward and the backward pass.
    """

    def __init__(self, network, loss, optimizer, average=None, frozen=(), accumulation_steps=1,
                 precision=Precision()):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.preprocess = Preprocess()
        self.average = average
        self.frozen = frozen
        self.loss_scale = optimizer.loss_scale
        self.accumulation_steps = accumulation_steps
        self.precision = precision
        self.loss_and_gradients = ops.value_and_grad(self.scaled_loss, None, optimizer.parameters)

    def parts(self):
        """What a checkpoint must hold beside the network: objects with state() and load_state()."""
        return [part for part in (self.optimizer, self.average, self.loss_scale) if part is not None]

    def set_train(self, mode=True):
        """Set the training mode of all cells but the frozen ones, and the precision of the network."""
        super().set_train(mode)
        self.precision.for_training(self.network)
        for cell in self.frozen:
            cell.set_train(False)
        return self

    def construct(self, images, labels, color, dropout_mask, learning_rate, average_decay):
        return self.update(self.gradients(images, labels, color, dropout_mask), learning_rate, average_decay)

    def scaled_loss(self, images, labels, dropout_mask):
        """The loss times the loss scale, divided by the number of batches of a step."""
        loss = self.loss(self.network(images, dropout_mask), labels)
        return loss * (self.loss_scale.value / self.accumulation_steps)

    def gradients(self, images, labels, color, dropout_mask):
        """(scaled loss, flat gradient of the decayed parameters, flat gradient of the others)"""
        loss, gradients = self.loss_and_gradients(self.preprocess(images, color), labels, dropout_mask)
        return (loss,) + self.optimizer.vectors(gradients)

    def update(self, loss_and_gradients, learning_rate, average_decay):
        """Run optimizer and moving averages on what `gradients` returned; returns what `construct` returns."""
        loss, decayed, plain = loss_and_gradients
        loss = loss / self.loss_scale.value     # the optimizer may change the scale
        norm = self.optimizer.update(decayed, plain, learning_rate)
        if self.average is not None:
            norm = ops.depend(norm, self.average(ops.depend(average_decay, norm)))
        return loss, norm


class AddGradients(nn.Cell):
    """Adds loss and gradients of one batch to those of the batches before it; construct takes TrainStep's first four
    inputs."""

    def __init__(self, step, sums):
        super().__init__(auto_prefix=False)
        self.step = step
        self.sums = sums

    def construct(self, images, labels, color, dropout_mask):
        loss, decayed, plain = self.step.gradients(images, labels, color, dropout_mask)
        ops.assign(self.sums[0], self.sums[0] + loss)
        ops.assign(self.sums[1], self.sums[1] + decayed)
        ops.assign(self.sums[2], self.sums[2] + plain)
        return loss


class UpdateFromSums(nn.Cell):
    """construct(learning_rate, average_decay) -> (loss, norm) of the added batches; the sums are zero afterwards."""

    def __init__(self, step, sums):
        super().__init__(auto_prefix=False)
        self.step = step
        self.sums = sums

    def construct(self, learning_rate, average_decay):
        loss, norm = self.step.update((self.sums[0], self.sums[1], self.sums[2]), learning_rate, average_decay)
        # Zeros are assigned. A multiplication by zero would keep values that are not finite.
        ops.assign(self.sums[0], ops.zeros_like(loss))
        ops.assign(self.sums[1], ops.zeros_like(self.step.optimizer.decayed_moment))
        ops.assign(self.sums[2], ops.zeros_like(self.step.optimizer.plain_moment))
        return loss, norm


class StepRunner:
    """Runs a TrainStep on batches of the data set: runner(batches, epoch, step) -> (loss, norm, learning rate).

    `batches` is an iterator over src.dataset.Batch, from which it takes accumulation_steps. `epoch` and `step` count
    from 0. Loss and norm are tensors on the device, the learning rate is a float.

    The losses of the batches of a step are divided by accumulation_steps. So the sums of their gradients are those of
    one larger batch, but for BatchNorm's statistics, which belong to single batches. There are two graphs, so that
    the network is compiled once and ranks exchange gradients once in a step.

    Args:
        train_step: a TrainStep in training mode.
        config: batch_size, accumulation_steps, rank, group_size, random_seed, penultimate_filters,
            dropout_keep_prob, ema_decay and the keys of `learning_rate` as attributes.
        steps_per_epoch: number of steps of an epoch.
    """

    def __init__(self, train_step, config, steps_per_epoch):
        self.train_step, self.config, self.steps_per_epoch = train_step, config, steps_per_epoch
        if config.accumulation_steps > 1:
            optimizer = train_step.optimizer
            shapes = (('loss', ()), ('decayed', optimizer.decayed_moment.shape),
                      ('plain', optimizer.plain_moment.shape))
            sums = mindspore.ParameterTuple([
                Parameter(Tensor(np.zeros(shape, np.float32)), name='sum.' + name, requires_grad=False)
                for name, shape in shapes])
            self.add, self.update = AddGradients(train_step, sums), UpdateFromSums(train_step, sums)

    def __call__(self, batches, epoch, step):
        config, number = self.config, epoch * self.steps_per_epoch + step
        rate = learning_rate(number, self.steps_per_epoch, config)
        scalars = (Tensor(rate, mindspore.float32),
                   Tensor(average_decay(number, config.ema_decay), mindspore.float32))
        if config.accumulation_steps == 1:
            loss, norm = self.train_step(*self._inputs(next(batches), epoch, step, 0), *scalars)
        else:
            for part in range(config.accumulation_steps):
                self.add(*self._inputs(next(batches), epoch, step, part))
            loss, norm = self.update(*scalars)
        return loss, norm, rate

    def _inputs(self, batch, epoch, step, part):
        """Images, labels, colour factors and dropout mask of batch `part` of a step, on the device."""
        config = self.config
        mask = dropout_mask(config.random_seed, epoch, first_position(config, step, part), config.batch_size,
                            config.penultimate_filters, config.dropout_keep_prob)
        return Tensor(batch.images), Tensor(batch.labels), Tensor(batch.color), Tensor(mask)


def build_train_step(network, config, group=Group(), own_kernels=True):
    """The TrainStep that a configuration asks for, with the recipe's loss and optimizer.

    Args:
        network: NASNetAMobile with its weights.
        config: the keys of src/config.py as attributes.
        group: the ranks over which gradients are averaged.
        own_kernels: whether a CPU may use kernels.cc.
    """
    precision = Precision(config.amp_level)
    if own_kernels and precision.is_float32:
        use_own_kernels(network)
    frozen = ()
    if config.freeze == 'backbone':
        frozen = (network.stem_conv, network.stem_bn, network.chain)
        for cell in frozen:
            for parameter in cell.get_parameters():
                parameter.requires_grad = False
    loss = NASNetLoss(config.num_classes, config.label_smooth_factor, config.aux_factor)
    optimizer = FlatRMSProp(network.trainable_params(), config.weight_decay, config.momentum, config.rmsprop_decay,
                            config.opt_eps, config.clip_norm, make_loss_scale(config.loss_scale),
                            group.gradient_mean())
    average = MovingAverage(network) if config.ema_decay else None
    return TrainStep(network, loss, optimizer, average, frozen, config.accumulation_steps, precision)
