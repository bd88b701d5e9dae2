"""The loss of the training recipe: cross entropy with label smoothing, also for the auxiliary head."""
from src.framework import Tensor, mindspore, nn, ops


class CrossEntropySmooth(nn.Cell):
    """Mean softmax cross entropy with smoothed labels.

    The target is 1 - s + s/K for the class of the label and s/K for every other class, where s is
    `smooth_factor` and K is `num_classes`. TensorFlow 1 defines label smoothing in the same way
    (tf.losses.softmax_cross_entropy).

    construct(logits (N, K) float16 or float32, labels (N,) int32) -> float32 scalar.

    Args:
        num_classes: K, an int.
        smooth_factor: s, a float from 0 to 1.
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
    """CrossEntropySmooth of the main logits, plus `aux_factor` times CrossEntropySmooth of the auxiliary logits.

    TF-Slim adds the auxiliary loss with weight 0.4 (`train_image_classifier.py`).

    construct(outputs, labels (N,) int32) -> float32 scalar. `outputs` is a pair (logits (N, K), auxiliary
    logits (N, K)), or only the logits (N, K) if `aux_factor` is 0.

    Args:
        num_classes: K, an int.
        smooth_factor: see CrossEntropySmooth.
        aux_factor: weight of the auxiliary loss, a float. 0: the network has no auxiliary head.
    """

    def __init__(self, num_classes, smooth_factor, aux_factor):
        super().__init__()
        self.cross_entropy = CrossEntropySmooth(num_classes, smooth_factor)
        self.aux_factor = aux_factor

    def construct(self, outputs, labels):
        if self.aux_factor == 0:
            return self.cross_entropy(outputs, labels)
        return self.cross_entropy(outputs[0], labels) + self.aux_factor * self.cross_entropy(outputs[1], labels)
