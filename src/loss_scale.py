"""Dynamic loss scale: as large as float16 gradients allow, found while training."""
from src.framework import Parameter, Tensor, mindspore, nn, ops

FIRST = 2.0 ** 16
LARGEST = 2.0 ** 24
INTERVAL = 2000     # good steps between two doublings


class DynamicLossScale(nn.Cell):
    """Halves itself when gradients are not finite, doubles after `interval` steps in a row whose are.

    construct(norm float32 scalar) -> (overflow bool scalar, norm float32 scalar), where `norm` is the global norm
    of the gradients. Overflow means that the update must not be made; the norm is 0 then, or what it was if the
    scale has fallen below 1: then it is not the scale that is to blame.

    Args:
        first: the scale to begin with.
        interval: good steps between two doublings.
    """

    def __init__(self, first=FIRST, interval=INTERVAL):
        super().__init__(auto_prefix=False)
        self.value = Parameter(Tensor(first, mindspore.float32), name='loss_scale.value', requires_grad=False)
        self.good_steps = Parameter(Tensor(0, mindspore.float32), name='loss_scale.good_steps', requires_grad=False)
        self.interval = interval
        self.is_finite = ops.IsFinite()

    def construct(self, norm):
        good = self.is_finite(norm).astype(mindspore.float32)      # 1 or 0: scalars need no control flow
        good_steps = (self.good_steps + 1) * good
        double = (good_steps >= self.interval).astype(mindspore.float32)
        value = ops.minimum(self.value * (0.5 + 0.5 * good + double), Tensor(LARGEST, mindspore.float32))
        overflow = good < 0.5
        blameless = ops.logical_and(overflow, value >= 1)
        norm = ops.depend(norm, (ops.assign(self.value, value), ops.assign(self.good_steps, good_steps * (1 - double))))
        return overflow, ops.masked_fill(norm, blameless, Tensor(0, mindspore.float32))

    def state(self):
        """{'loss_scale.NAME': (1,) float32}"""
        return {p.name: p.asnumpy().reshape(1).copy() for p in (self.value, self.good_steps)}

    def load_state(self, arrays):
        """Set the state from what `state` returned."""
        for parameter in (self.value, self.good_steps):
            parameter.set_data(Tensor(arrays[parameter.name].reshape(())))
