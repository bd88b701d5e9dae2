"""The loss is TensorFlow's label smoothing; the reference is float64."""
import numpy as np
import pytest

from src.framework import Tensor
from src.loss import CrossEntropySmooth, NASNetLoss


def smoothed_cross_entropy(logits, labels, smooth):
    """TensorFlow's definition in float64."""
    logits = logits.astype(np.float64)
    classes = logits.shape[1]
    targets = np.full(logits.shape, smooth / classes)
    targets[np.arange(len(labels)), labels] += 1 - smooth
    logits -= logits.max(1, keepdims=True)
    return -(targets * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1).mean()


@pytest.mark.parametrize('classes,smooth', [(2, 0.0), (10, 0.1), (1000, 0.1), (1000, 0.5)])
def test_loss_is_tensorflows_label_smoothing(mode, classes, smooth):
    random = np.random.RandomState(classes)
    logits = (5 * random.randn(8, classes)).astype(np.float32)
    labels = random.randint(0, classes, 8).astype(np.int32)
    loss = float(CrossEntropySmooth(classes, smooth)(Tensor(logits), Tensor(labels)).asnumpy())
    assert loss == pytest.approx(smoothed_cross_entropy(logits, labels, smooth), rel=1e-6)


def test_auxiliary_loss_is_added_with_its_factor(mode):
    random = np.random.RandomState(0)
    main, auxiliary = random.randn(2, 4, 10).astype(np.float32)
    labels = np.array([0, 3, 9, 5], np.int32)
    loss = NASNetLoss(10, 0.1, 0.4)((Tensor(main), Tensor(auxiliary)), Tensor(labels))
    expected = smoothed_cross_entropy(main, labels, 0.1) + 0.4 * smoothed_cross_entropy(auxiliary, labels, 0.1)
    assert float(loss.asnumpy()) == pytest.approx(expected, rel=1e-6)
    without_head = NASNetLoss(10, 0.1, 0.0)(Tensor(main), Tensor(labels))
    assert float(without_head.asnumpy()) == pytest.approx(smoothed_cross_entropy(main, labels, 0.1), rel=1e-6)
