"""Loss scales: the loss is multiplied before the backward pass, so that small float16 gradients do not become zero.

A scale has one interface, whether it is fixed or dynamic:
    value                  what the loss is multiplied with: a number or a float32 Parameter
    unscale(gradient)      the gradient without the scale
    construct(norm)        (whether the update must be skipped, norm): a bool scalar, or None for "never"; `norm` is
                           the global norm of the gradients, a float32 scalar
    state(), load_state()  what a checkpoint must hold
    number()               `value` as a float of Python; to read it waits for the device
"""
from src.framework import Parameter, Tensor, mindspore, nn, ops

FIRST = 2.0 ** 16
LARGEST = 2.0 ** 24
INTERVAL = 2000     # good steps between two doublings


def make_loss_scale(value):
    """The loss scale for the configuration key `loss_scale`: a number above 0, or 0 for a dynamic scale."""
    return FixedLossScale(value) if value else DynamicLossScale()


class FixedLossScale(nn.Cell):
    """A constant scale. It never skips an update, so gradients that are not finite end the run."""

    def __init__(self, value=1):
        super().__init__(auto_prefix=False)
        self.value = float(value)
        self.inverse = 1.0 / self.value

    def construct(self, norm):
        return None, norm

    def unscale(self, gradient):
        """`gradient` without the scale."""
        return gradient * self.inverse

    def number(self):
        """`value` as a float."""
        return self.value

    def state(self):
        """A constant has no state."""
        return {}

    def load_state(self, arrays):
        """Nothing is to be set."""


class DynamicLossScale(nn.Cell):
    """A scale as large as float16 gradients allow; it is found while training.

    It is halved when gradients are not finite, and that update is skipped. It is doubled after `interval` good steps
    in a row. After a skipped update `construct` returns the norm 0. If the scale has fallen below 1, the norm stays
    as it is, because then the scale is not the reason and the run must end.

    Args:
        first: the scale of the first step.
        interval: number of good steps between two doublings.
    """

    def __init__(self, first=FIRST, interval=INTERVAL):
        super().__init__(auto_prefix=False)
        self.value = Parameter(Tensor(first, mindspore.float32), name='loss_scale.value', requires_grad=False)
        self.good_steps = Parameter(Tensor(0, mindspore.float32), name='loss_scale.good_steps', requires_grad=False)
        self.interval = interval
        self.is_finite = ops.IsFinite()

    def construct(self, norm):
        good = self.is_finite(norm).astype(mindspore.float32)      # 1 or 0, so that no control flow is needed
        good_steps = (self.good_steps + 1) * good
        double = (good_steps >= self.interval).astype(mindspore.float32)
        value = ops.minimum(self.value * (0.5 + 0.5 * good + double), Tensor(LARGEST, mindspore.float32))
        overflow = good < 0.5
        scale_is_reason = ops.logical_and(overflow, value >= 1)
        norm = ops.depend(norm, (ops.assign(self.value, value), ops.assign(self.good_steps, good_steps * (1 - double))))
        return overflow, ops.masked_fill(norm, scale_is_reason, Tensor(0, mindspore.float32))

    def unscale(self, gradient):
        """`gradient` without the scale."""
        return gradient / self.value

    def number(self):
        """`value` as a float; to read it waits for the device."""
        return float(self.value.asnumpy())

    def state(self):
        """{'loss_scale.value': (1,) float32, 'loss_scale.good_steps': (1,) float32}"""
        return {p.name: p.asnumpy().reshape(1).copy() for p in (self.value, self.good_steps)}

    def load_state(self, arrays):
        """Set the state from what `state` returned."""
        for parameter in (self.value, self.good_steps):
            parameter.set_data(Tensor(arrays[parameter.name].reshape(())))
