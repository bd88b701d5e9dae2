"""Moving averages of all parameters of a network, BatchNorm statistics included, as TF-Slim keeps them."""
from contextlib import contextmanager

from src.framework import Parameter, Tensor, mindspore, nn, ops
from src.training.flat import FlatLayout
from src.training.optimizer import flatten


def average_decay(step, decay):
    """Decay of the averages at global step `step` (from 0): min(decay, (1 + step) / (10 + step)), a float.

    This is the rule of tf.train.ExponentialMovingAverage(num_updates): early averages follow the weights closely, so
    that the initial weights are soon forgotten.
    """
    return min(decay, (1 + step) / (10 + step))


class MovingAverage(nn.Cell):
    """construct(decay float32 scalar): average += (1 - decay) * (parameter - average), on one flat vector."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.parameters = mindspore.ParameterTuple(tuple(network.get_parameters()))
        self.layout = FlatLayout(self.parameters)
        self.average = Parameter(Tensor(self.layout.join(self._values())), name='ema', requires_grad=False)
        self.map = ops.HyperMap()

    def construct(self, decay):
        now = ops.concat(self.map(flatten, self.parameters))
        return ops.assign(self.average, self.average + (now - self.average) * (1 - decay))

    def state(self):
        """{'ema.NAME': float32 array}"""
        return self.layout.cut(self.average.asnumpy(), 'ema.')

    def load_state(self, arrays):
        """Set the averages from what `state` returned."""
        self.average.set_data(Tensor(self.layout.join(arrays, 'ema.')))

    @contextmanager
    def applied(self):
        """Inside the block the network has the averages; afterwards it has its own values again."""
        values = {name: array.copy() for name, array in self._values().items()}
        self._set(self.layout.cut(self.average.asnumpy()))
        try:
            yield
        finally:
            self._set(values)

    def _values(self):
        return {p.name: p.asnumpy() for p in self.parameters}

    def _set(self, values):
        for parameter in self.parameters:
            parameter.set_data(Tensor(values[parameter.name]))
