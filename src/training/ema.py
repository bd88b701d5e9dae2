"""Moving averages of all parameters of a network, BatchNorm statistics included, as TF-Slim keeps them."""
from contextlib import contextmanager

import numpy as np

from src.framework import Tensor, mindspore, nn, ops
from src.training.flat import FlatLayout, flat_parameter
from src.training.optimizer import flatten


def average_decay(step, decay):
    """Decay of the averages at global step `step` (from 0): min(decay, (1 + step) / (10 + step)), a float.

    This is the rule of tf.train.ExponentialMovingAverage(num_updates): early averages follow the weights closely, so
    that the initial weights are soon forgotten.
    """
    return min(decay, (1 + step) / (10 + step))


class MovingAverage(nn.Cell):
    """construct(decay, norm): average += (1 - decay) * (parameter - average), on one flat vector.

    `decay` is a float32 scalar. `norm` is what the optimizer returned. The parameters are read after it exists, because
    MindSpore does not know that BatchNorm writes its statistics (see read_only_scale in src/framework.py).

    Args:
        network: NASNetAMobile.
        optimizer: FlatRMSProp, which holds the weights that are trained.
    """

    def __init__(self, network, optimizer):
        super().__init__(auto_prefix=False)
        self.decayed_weights, self.plain_weights = optimizer.decayed_weights, optimizer.plain_weights
        trained = {p.name for p in optimizer.parameters}
        self.others = mindspore.ParameterTuple(tuple(p for p in network.get_parameters() if p.name not in trained))
        self.others_layout = FlatLayout(self.others)
        self.layout = FlatLayout(tuple(optimizer.parameters) + tuple(self.others))
        self.average = flat_parameter('ema', self._values())
        self.map = ops.HyperMap()

    def construct(self, decay, norm):
        others = self.map(flatten, ops.depend(self.others, norm))
        now = ops.concat((self.decayed_weights, self.plain_weights) + others)
        return ops.assign(self.average, self.average + (now - self.average) * (1 - decay))

    def state(self):
        """{'ema.NAME': float32 array}"""
        return self.layout.cut(self.average.asnumpy(), 'ema.')

    def load_state(self, arrays):
        """Set the averages from what `state` returned."""
        self.average.set_data(Tensor(self.layout.join(arrays, 'ema.')))

    @contextmanager
    def applied(self):
        """Inside the block the network computes with the averages; afterwards it has its own values again."""
        values = self._values()
        self._set(self.average.asnumpy())
        try:
            yield
        finally:
            self._set(values)

    def _values(self):
        """The values of all parameters as a flat vector."""
        return np.concatenate([self.decayed_weights.asnumpy(), self.plain_weights.asnumpy(),
                               self.others_layout.join_values()])

    def _set(self, values):
        """Set all parameters from a flat vector."""
        first, second = self.decayed_weights.size, self.decayed_weights.size + self.plain_weights.size
        self.decayed_weights.set_data(Tensor(values[:first]))
        self.plain_weights.set_data(Tensor(values[first:second]))
        self.others_layout.set_values(values[second:])
