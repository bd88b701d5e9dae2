"""One step of training as one compiled function of its inputs; what runs on the device is here."""
from src.framework import Tensor, mindspore, nn, ops

# Rec. 601 luma, the weights Pillow's and torchvision's grey conversion use.
LUMA = (0.299, 0.587, 0.114)


class Preprocess(nn.Cell):
    """uint8 images to the network's input: float32, channels first, range [-1, 1].

    construct(images (N, H, W, 3) uint8, color (N, 3) float32 or None) -> (N, 3, H, W) float32. The
    columns of `color` scale brightness, contrast (about the image's mean grey) and saturation (about
    each pixel's grey), in this order and clipped after each, as torchvision's ColorJitter does.
    """

    def __init__(self):
        super().__init__()
        self.luma = Tensor(LUMA, mindspore.float32).reshape(1, 3, 1, 1)

    def construct(self, images, color=None):
        x = ops.transpose(images.astype(mindspore.float32), (0, 3, 1, 2)) * (1 / 255.0)
        if color is not None:
            color = color.reshape(-1, 3, 1, 1)
            x = self.clip(x * color[:, 0:1])
            mean = (x * self.luma).sum(1, keepdims=True).mean((2, 3), keep_dims=True)
            x = self.clip(mean + (x - mean) * color[:, 1:2])
            grey = (x * self.luma).sum(1, keepdims=True)
            x = self.clip(grey + (x - grey) * color[:, 2:3])
        return x * 2 - 1

    def clip(self, x):
        return ops.clip_by_value(x, Tensor(0, mindspore.float32), Tensor(1, mindspore.float32))


class TrainStep(nn.Cell):
    """Preprocess, forward, loss, backward, optimizer.

    construct(images (N, H, W, 3) uint8, labels (N,) int32, color (N, 3) float32, dropout_mask
    (N, F) float32, learning_rate float32 scalar, average_decay float32 scalar or None) -> (loss, norm),
    float32 scalars. The loss is of this process's images. All randomness comes in as inputs, so a step
    is a pure function.

    Args:
        average: MovingAverage to be brought up to date by each step, or None.
        frozen: cells of the network that stay in evaluation mode (BatchNorm uses its moving averages).
    """

    def __init__(self, network, loss, optimizer, loss_scale=1, average=None, frozen=()):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.preprocess = Preprocess()
        self.average = average
        self.frozen = frozen
        self.loss_scale = float(loss_scale)
        self.loss_and_gradients = ops.value_and_grad(self.scaled_loss, None, optimizer.parameters)

    def scaled_loss(self, images, labels, dropout_mask):
        return self.loss(self.network(images, dropout_mask), labels) * self.loss_scale

    def set_train(self, mode=True):
        super().set_train(mode)
        for cell in self.frozen:
            cell.set_train(False)
        return self

    def construct(self, images, labels, color, dropout_mask, learning_rate, average_decay=None):
        loss, gradients = self.loss_and_gradients(self.preprocess(images, color), labels, dropout_mask)
        norm = self.optimizer(gradients, learning_rate)
        if self.average is not None:
            norm = ops.depend(norm, self.average(ops.depend(average_decay, norm)))
        return loss / self.loss_scale, norm


class EvalStep(nn.Cell):
    """construct(images (N, H, W, 3) uint8) -> logits (N, K) of the network in evaluation mode."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network
        self.preprocess = Preprocess()
        self.has_auxiliary = network.auxiliary_head is not None

    def construct(self, images):
        outputs = self.network(self.preprocess(images))
        return outputs[0] if self.has_auxiliary else outputs
