"""The loss of the recipe: label-smoothed cross entropy, plus the auxiliary head's."""
from src.framework import Tensor, mindspore, nn, ops


class CrossEntropySmooth(nn.Cell):
    """Mean softmax cross entropy against targets 1 - s + s/K for the label and s/K elsewhere.

    TensorFlow's definition of label smoothing (tf.losses.softmax_cross_entropy).
    construct(logits (N, K) float, labels (N,) int32) -> float32 scalar.
    """

    def __init__(self, num_classes, smooth_factor):
        super().__init__()
        self.num_classes = num_classes
        self.on_value = Tensor(1 - smooth_factor + smooth_factor / num_classes, mindspore.float32)
        self.off_value = Tensor(smooth_factor / num_classes, mindspore.float32)
        self.one_hot = ops.OneHot()
        self.cross_entropy = nn.SoftmaxCrossEntropyWithLogits(sparse=False, reduction='mean')

    def construct(self, logits, labels):
        targets = self.one_hot(labels, self.num_classes, self.on_value, self.off_value)
        return self.cross_entropy(logits.astype(mindspore.float32), targets)


class NASNetLoss(nn.Cell):
    """CrossEntropySmooth of the network's output: logits, or (logits, auxiliary logits).

    The auxiliary logits count `aux_factor` times, on top (TF-Slim: slim.losses weights=0.4).
    """

    def __init__(self, num_classes, smooth_factor, aux_factor):
        super().__init__()
        self.cross_entropy = CrossEntropySmooth(num_classes, smooth_factor)
        self.aux_factor = aux_factor

    def construct(self, outputs, labels):
        if self.aux_factor == 0:
            return self.cross_entropy(outputs, labels)
        return self.cross_entropy(outputs[0], labels) + self.aux_factor * self.cross_entropy(outputs[1], labels)
