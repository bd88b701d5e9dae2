"""One step of training as one compiled function of its inputs; what runs on the device is here."""
import numpy as np

from src.framework import Parameter, Tensor, mindspore, nn, ops, set_precision

# Rec. 601 luma, the weights Pillow's and torchvision's grey conversion use.
LUMA = (0.299, 0.587, 0.114)


class Preprocess(nn.Cell):
    """uint8 images to the network's input: float32, channels first, range [-1, 1].

    construct(images (N, H, W, 3) uint8, color (N, 3) float32 or None) -> (N, 3, H, W) float32. The
    columns of `color` scale brightness, contrast (about the image's mean grey) and saturation (about
    each pixel's grey), in this order and clipped after each, as torchvision's ColorJitter does.
    """

    # Each change of colour is an affine map of a pixel, so a matrix on (red, green, blue, 1): one product instead of
    # five operations on whole images, which a CPU would broadcast by lists of indices larger than the images.
    # White is 6, because ReLU6 clips by one kernel.
    WHITE = 6.0

    def __init__(self):
        super().__init__()
        self.keep_one = self.matrix(np.diag([0, 0, 0, 1]))
        self.factor = self.matrix(np.diag([1, 1, 1, 0]))
        self.offset = self.matrix([[0, 0, 0, 1]] * 3 + [[0, 0, 0, 0]])
        self.grey = self.matrix([[*LUMA, 0]] * 3)
        self.luma = Tensor((*LUMA, 0), mindspore.float32)
        self.clip = nn.ReLU6()

    @staticmethod
    def matrix(rows):
        """(1, rows, columns) float32"""
        return Tensor(np.array([rows], np.float32))

    def construct(self, images, color=None):
        x = ops.transpose(images.astype(mindspore.float32), (0, 3, 1, 2))
        if color is None:
            return x * (2 / 255.0) - 1      # 2 / 255 would be 0 in a graph of 1.10
        color = color.reshape(-1, 3, 1, 1)
        brightness, contrast, saturation = color[:, 0], color[:, 1], color[:, 2]
        shape = x.shape
        x = ops.concat((x, ops.ones((shape[0], 1) + shape[2:], mindspore.float32)), 1).reshape(shape[0], 4, -1)
        x = self.clip(ops.matmul(brightness * (self.WHITE / 255) * self.factor + self.keep_one, x))
        mean = (x.mean(2) * self.luma).sum(1).reshape(-1, 1, 1)
        x = self.clip(ops.matmul(contrast * self.factor + (1 - contrast) * mean * self.offset + self.keep_one, x))
        x = self.clip(ops.matmul(saturation * self.factor[:, :3] + (1 - saturation) * self.grey, x))
        return x.reshape(shape) * (2 / self.WHITE) - 1


class TrainStep(nn.Cell):
    """Preprocess, forward, loss, backward, optimizer.

    construct(images (N, H, W, 3) uint8, labels (N,) int32, color (N, 3) float32, dropout_mask
    (N, F) float32, learning_rate float32 scalar, average_decay float32 scalar or None) -> (loss, norm),
    float32 scalars. The loss is of this process's images. All randomness comes in as inputs, so a step
    is a pure function.

    Args:
        loss_scale: a number or a DynamicLossScale, the same as the optimizer's.
        accumulation_steps: batches whose mean gradient the optimizer takes; more than 1: see `AccumulatedStep`.
        amp_level: precision of forward and backward pass, see src/config.py.
        average: MovingAverage to be brought up to date by each step, or None.
        frozen: cells of the network that stay in evaluation mode (BatchNorm uses its moving averages).
    """

    def __init__(self, network, loss, optimizer, loss_scale=1, average=None, frozen=(), accumulation_steps=1,
                 amp_level='O0'):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.preprocess = Preprocess()
        self.average = average
        self.frozen = frozen
        self.dynamic_scale = None if isinstance(loss_scale, (int, float)) else loss_scale
        self.loss_scale = float(loss_scale) if self.dynamic_scale is None else None
        self.accumulation_steps = accumulation_steps
        self.amp_level = amp_level
        self.loss_and_gradients = ops.value_and_grad(self.scaled_loss, None, optimizer.parameters)

    def scaled_loss(self, images, labels, dropout_mask):
        return self.loss(self.network(images, dropout_mask), labels) * (self.scale() / self.accumulation_steps)

    def scale(self):
        return self.loss_scale if self.dynamic_scale is None else self.dynamic_scale.value

    def set_train(self, mode=True):
        super().set_train(mode)
        if self.amp_level != 'O0':      # read when the step is compiled, which is when it is first called
            set_precision(self.network, self.amp_level)
        for cell in self.frozen:
            cell.set_train(False)
        return self

    def construct(self, images, labels, color, dropout_mask, learning_rate, average_decay=None):
        return self.update(self.gradients(images, labels, color, dropout_mask), learning_rate, average_decay)

    def gradients(self, images, labels, color, dropout_mask):
        """(scaled loss, gradient of the decayed parameters, of the others), a scalar and two flat vectors."""
        loss, gradients = self.loss_and_gradients(self.preprocess(images, color), labels, dropout_mask)
        return (loss,) + self.optimizer.vectors(gradients)

    def update(self, loss_and_gradients, learning_rate, average_decay):
        """Optimizer and moving averages, with what `gradients` returned; what `construct` returns."""
        loss, decayed, plain = loss_and_gradients
        loss = loss / self.scale()      # before the optimizer changes it
        norm = self.optimizer.update(decayed, plain, learning_rate)
        if self.average is not None:
            norm = ops.depend(norm, self.average(ops.depend(average_decay, norm)))
        return loss, norm


class AddGradients(nn.Cell):
    """construct(as TrainStep's first four): loss and gradients of one batch added to those before it."""

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
    """construct(learning_rate, average_decay) -> (loss, gradient norm); the sums are zero again."""

    def __init__(self, step, sums):
        super().__init__(auto_prefix=False)
        self.step = step
        self.sums = sums

    def construct(self, learning_rate, average_decay):
        loss, norm = self.step.update((self.sums[0], self.sums[1], self.sums[2]), learning_rate, average_decay)
        # Zeros, not a factor of zero: what is not finite would stay.
        ops.assign(self.sums[0], ops.zeros_like(loss))
        ops.assign(self.sums[1], ops.zeros_like(self.step.optimizer.decayed_moment))
        ops.assign(self.sums[2], ops.zeros_like(self.step.optimizer.plain_moment))
        return loss, norm


class AccumulatedStep:
    """A TrainStep over batches that come one after another: `step(parts, learning_rate, average_decay)`.

    `parts` iterates over accumulation_steps tuples of TrainStep's first four inputs; the rest is TrainStep's. The
    losses are divided by accumulation_steps, so the sums of their gradients are what one batch of so many times
    the size has (but for BatchNorm's statistics, which are of single batches). Two graphs, so that
    the network is compiled once, and devices exchange gradients once a step.
    """

    def __init__(self, step):
        self.step = step
        if step.accumulation_steps > 1:
            optimizer = step.optimizer
            sums = mindspore.ParameterTuple([
                Parameter(Tensor(np.zeros(shape, np.float32)), name='sum.' + name, requires_grad=False)
                for name, shape in (('loss', ()), ('decayed', optimizer.decayed_moment.shape),
                                    ('plain', optimizer.plain_moment.shape))])
            self.add, self.update = AddGradients(step, sums), UpdateFromSums(step, sums)

    def __call__(self, parts, learning_rate, average_decay):
        if self.step.accumulation_steps == 1:
            return self.step(*next(parts), learning_rate, average_decay)
        for part in parts:
            self.add(*part)
        return self.update(learning_rate, average_decay)


class EvalStep(nn.Cell):
    """construct(images (N, H, W, 3) uint8) -> logits (N, K) of the network in evaluation mode and float32."""

    def __init__(self, network, amp_level='O0'):
        super().__init__(auto_prefix=False)
        self.network = network
        self.amp_level = amp_level      # that the network is trained at
        self.preprocess = Preprocess()
        self.has_auxiliary = network.auxiliary_head is not None

    def construct(self, images):
        outputs = self.network(self.preprocess(images))
        return outputs[0] if self.has_auxiliary else outputs

    def set_train(self, mode=True):
        super().set_train(mode)
        if self.amp_level != 'O0':
            set_precision(self.network, 'O0')
        return self
