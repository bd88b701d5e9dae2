"""One step of training as one compiled function of its inputs. Everything that runs on the device is here."""
import numpy as np

from src.dataset import first_position
from src.distributed.group import Group
from src.framework import Parameter, Tensor, mindspore, nn, ops, set_unseen, to_device
from src.input.draws import dropout_mask
from src.input.preprocess import Preprocess
from src.loss import NASNetLoss
from src.lr_generator import learning_rate
from src.network.cpu.kernels import use_own_kernels
from src.training.ema import MovingAverage, average_decay
from src.training.loss_scale import make_loss_scale
from src.training.optimizer import FlatRMSProp

COMPUTE_TYPES = {'O0': mindspore.float32, 'O3': mindspore.float16}      # of each amp_level


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
        compute_type: the number format of the forward and the backward pass; weights, loss, and everything that happens
            to the gradients are float32.
    """

    def __init__(self, network, loss, optimizer, average=None, frozen=(), accumulation_steps=1,
                 compute_type=mindspore.float32):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.preprocess = Preprocess()
        self.average = average
        self.frozen = frozen
        self.loss_scale = optimizer.loss_scale
        self.accumulation_steps = accumulation_steps
        self.compute_type = compute_type
        self.loss_and_gradients = ops.value_and_grad(self.scaled_loss, None, optimizer.receivers)

    def parts(self):
        """What a checkpoint must hold beside the network: objects with state() and load_state()."""
        return [part for part in (self.optimizer, self.average, self.loss_scale) if part is not None]

    def set_train(self, mode=True):
        """Set the training mode of all cells but the frozen ones."""
        super().set_train(mode)
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
        images = self.preprocess(images, color).astype(self.compute_type)
        loss, gradients = self.loss_and_gradients(images, labels, dropout_mask)
        return (loss,) + self.optimizer.vectors(gradients)

    def update(self, loss_and_gradients, learning_rate, average_decay):
        """Run optimizer and moving averages on what `gradients` returned; returns what `construct` returns."""
        loss, decayed, plain = loss_and_gradients
        loss = loss / self.loss_scale.value     # the optimizer may change the scale
        norm = self.optimizer.update(decayed, plain, learning_rate)
        if self.average is not None:
            norm = ops.depend(norm, self.average(average_decay, norm))
        return loss, norm


def pack(rate, decay, labels, color, dropout_mask):
    """What a step gets beside the images, as one float32 vector, which holds each label exactly.

    A GPU waits for each input that is copied to it, so a step has only two.
    """
    return np.concatenate([np.ravel(part).astype(np.float32) for part in (rate, decay, labels, color, dropout_mask)])


def unpack(packed, n):
    """What was packed for a batch of n images, for use in a construct: learning rate and decay (), labels (n,) int32,
    color (n, 3), dropout mask (n, F)."""
    labels = ops.slice(packed, (2,), (n,)).astype(mindspore.int32)
    color = ops.slice(packed, (2 + n,), (3 * n,)).reshape(n, 3)
    first = 2 + 4 * n
    mask = ops.slice(packed, (first,), (packed.shape[0] - first,)).reshape(n, -1)
    return ops.slice(packed, (0,), (1,)).reshape(()), ops.slice(packed, (1,), (1,)).reshape(()), labels, color, mask


class GraphOfStep(nn.Cell):
    """What is compiled of a TrainStep.

    At each call MindSpore visits all cells below the one that is called. It does not see the step, so it does not visit
    its 900 cells, which took 1 ms (1.10) or 4 ms (2.10).
    """

    def __init__(self, step):
        super().__init__(auto_prefix=False)
        set_unseen(self, 'step', step)


class PackedStep(GraphOfStep):
    """A TrainStep with packed inputs: construct(images, packed) -> what TrainStep returns."""

    def construct(self, images, packed):
        learning_rate, average_decay, labels, color, dropout_mask = unpack(packed, images.shape[0])
        return self.step(images, labels, color, dropout_mask, learning_rate, average_decay)


class AddGradients(GraphOfStep):
    """Adds loss and gradients of one batch to those of the batches before it: construct(images, packed) -> loss."""

    def __init__(self, step, sums):
        super().__init__(step)
        self.sums = sums

    def construct(self, images, packed):
        _, _, labels, color, dropout_mask = unpack(packed, images.shape[0])
        loss, decayed, plain = self.step.gradients(images, labels, color, dropout_mask)
        ops.assign(self.sums[0], self.sums[0] + loss)
        ops.assign(self.sums[1], self.sums[1] + decayed)
        ops.assign(self.sums[2], self.sums[2] + plain)
        return loss


class UpdateFromSums(GraphOfStep):
    """construct(rates (2,), learning rate and average decay) -> (loss, norm) of the added batches; the sums are zero
    afterwards."""

    def __init__(self, step, sums):
        super().__init__(step)
        self.sums = sums

    def construct(self, rates):
        loss, norm = self.step.update((self.sums[0], self.sums[1], self.sums[2]), rates[0], rates[1])
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
        self.packed_step = PackedStep(train_step)
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
        rates = rate, average_decay(number, config.ema_decay)
        if config.accumulation_steps == 1:
            loss, norm = self.packed_step(*self._inputs(next(batches), epoch, step, 0, rates))
        else:
            for part in range(config.accumulation_steps):
                self.add(*self._inputs(next(batches), epoch, step, part, rates))
            loss, norm = self.update(to_device(np.array(rates, np.float32)))
        return loss, norm, rate

    def _inputs(self, batch, epoch, step, part, rates):
        """Images and packed vector of batch `part` of a step, on the device."""
        config = self.config
        mask = dropout_mask(config.random_seed, epoch, first_position(config, step, part), config.batch_size,
                            config.penultimate_filters, config.dropout_keep_prob)
        return to_device(batch.images), to_device(pack(*rates, batch.labels, batch.color, mask))


def build_train_step(network, config, group=Group(), own_kernels=True):
    """The TrainStep that a configuration asks for, with the recipe's loss and optimizer.

    Args:
        network: NASNetAMobile with its weights.
        config: the keys of src/config.py as attributes.
        group: the ranks over which gradients are averaged.
        own_kernels: whether a CPU may use kernels.cc.
    """
    compute_type = COMPUTE_TYPES[config.amp_level]
    if own_kernels and compute_type == mindspore.float32:
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
    optimizer.read_by(network, compute_type)
    average = MovingAverage(network, optimizer) if config.ema_decay else None
    return TrainStep(network, loss, optimizer, average, frozen, config.accumulation_steps, compute_type)
