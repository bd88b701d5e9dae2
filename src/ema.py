"""Moving averages of all parameters of a network, BatchNorm statistics included, as TF-Slim keeps them."""
from contextlib import contextmanager

import numpy as np

from src.framework import Parameter, Tensor, mindspore, nn, ops
from src.optimizer import flatten


def average_decay(step, decay):
    """Decay of global step `step` (from 0): min(decay, (1 + step) / (10 + step)), a float.

    The rule of tf.train.ExponentialMovingAverage(num_updates): early averages follow the weights closely, so
    that the initial ones are soon forgotten.
    """
    return min(decay, (1 + step) / (10 + step))


class MovingAverage(nn.Cell):
    """construct(decay float32 scalar): average += (1 - decay) * (parameter - average), on one flat vector."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.parameters = mindspore.ParameterTuple(tuple(network.get_parameters()))
        self.average = Parameter(Tensor(self.flat()), name='ema', requires_grad=False)
        self.map = ops.HyperMap()

    def construct(self, decay):
        now = ops.concat(self.map(flatten, self.parameters))
        return ops.assign(self.average, self.average + (now - self.average) * (1 - decay))

    def flat(self):
        """All parameters as they are, one float32 vector."""
        return np.concatenate([p.asnumpy().reshape(-1) for p in self.parameters])

    def state(self):
        """{'ema.NAME': array}"""
        return {'ema.' + name: array for name, array in self._split(self.average.asnumpy())}

    def load_state(self, arrays):
        """Set the averages from what `state` returned."""
        self.average.set_data(Tensor(np.concatenate([arrays['ema.' + p.name].reshape(-1) for p in self.parameters])))

    @contextmanager
    def applied(self):
        """The network has the averages instead of its own values meanwhile."""
        own = self.flat()
        self._set(self.average.asnumpy())
        try:
            yield
        finally:
            self._set(own)

    def _set(self, flat):
        for (_, array), parameter in zip(self._split(flat), self.parameters):
            parameter.set_data(Tensor(array))

    def _split(self, flat):
        ends = np.cumsum([p.size for p in self.parameters])
        return [(p.name, flat[end - p.size:end].reshape(p.shape).copy()) for p, end in zip(self.parameters, ends)]
