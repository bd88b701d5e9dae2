"""RMSProp as TensorFlow 1 defines it, on two flat vectors.

With g the gradient after weight decay and clipping:
    mean_square += (1 - decay) * (g^2 - mean_square)                  (starts at one)
    moment       = momentum * moment + lr * g / sqrt(mean_square + eps)
    weight      -= moment
(TensorFlow's ApplyRMSProp kernel.) The CPU kernel of MindSpore's nn.RMSProp adds eps outside the root, which is a
different step at NASNet's eps of 1. Plain operations compute the same on every device. On flat vectors they are
about ten kernels, instead of ten for each of 750 tensors.
"""
import numpy as np

from src.framework import Tensor, mindspore, nn, ops
from src.training.flat import FlatLayout, flat_parameter, read_from
from src.training.loss_scale import FixedLossScale

flatten = ops.MultitypeFuncGraph('flatten')
flatten_float32 = ops.MultitypeFuncGraph('flatten_float32')


@flatten.register('Tensor')
def _flatten_tensor(tensor):
    return tensor.reshape(-1)


@flatten_float32.register('Tensor')
def _flatten_tensor_float32(tensor):
    return tensor.reshape(-1).astype(mindspore.float32)


def is_decayed(parameter):
    """Whether weight decay applies: to convolution and dense weights, not to biases and BatchNorm (TF-Slim)."""
    return parameter.name.endswith('.weight')


class FlatRMSProp(nn.Cell):
    """TensorFlow 1's RMSProp with weight decay and clipping to a global norm.

    construct(gradients, learning_rate) -> global norm before clipping, a float32 scalar. `gradients` is a tuple in
    the order of `self.receivers`, `learning_rate` a float32 scalar tensor. Weight decay enters before clipping, as
    in TF-Slim, where it is part of the loss.

    It trains its own copy of the weights, in flat vectors. After a step the Parameters are old until `write_parameters`
    is called. Whoever sets Parameters must call `read_parameters`.

    Args:
        parameters: the Parameters to train.
        weight_decay, momentum, decay, eps: as in the formula above.
        clip_norm: largest global norm; 0: no clipping.
        loss_scale: see loss_scale.py; where it skips an update, neither parameters nor state change.
        reduce_mean: a function that averages a flat gradient over the ranks, or None.

    Attributes:
        parameters: the decayed ones first, then the others.
        receivers: the Parameters whose gradients `construct` gets, in the same order.
    """

    def __init__(self, parameters, weight_decay=0.0, momentum=0.9, decay=0.9, eps=1.0, clip_norm=0.0,
                 loss_scale=None, reduce_mean=None):
        super().__init__(auto_prefix=False)
        # Parameters of equal shape are neighbours, so that one operation can cut all of them off a vector.
        decayed, plain = ([p for p in parameters if is_decayed(p) == wanted] for wanted in (True, False))
        self.decayed_layout = FlatLayout(sorted(decayed, key=lambda p: p.shape[::-1]))
        self.plain_layout = FlatLayout(sorted(plain, key=lambda p: p.shape))
        self.split = len(decayed)
        self.decayed_size, self.plain_size = self.decayed_layout.size, self.plain_layout.size
        self.parameters = mindspore.ParameterTuple(self.decayed_layout.parameters + self.plain_layout.parameters)
        self.receivers = self.parameters
        self.decayed_weights, self.decayed_mean_square, self.decayed_moment = _vectors('decayed', self.decayed_layout)
        self.plain_weights, self.plain_mean_square, self.plain_moment = _vectors('plain', self.plain_layout)
        self.weight_decay, self.momentum, self.decay, self.eps = weight_decay, momentum, decay, eps
        self.clip_norm = clip_norm
        self.loss_scale = FixedLossScale() if loss_scale is None else loss_scale
        self.reduce_mean = reduce_mean
        self.map = ops.HyperMap()
        self.apply = ops.ApplyGradientDescent()
        self.rsqrt = ops.Rsqrt()

    def construct(self, gradients, learning_rate):
        decayed, plain = self.vectors(gradients)
        return self.update(decayed, plain, learning_rate)

    def vectors(self, gradients):
        """Gradients in the order of `self.receivers` as two flat vectors: of the decayed parameters, of the others."""
        decayed = ops.concat(self.map(flatten, gradients[:self.split])).astype(mindspore.float32)
        return decayed, ops.concat(self.map(flatten_float32, gradients[self.split:]))

    def update(self, decayed, plain, learning_rate):
        """What `construct` does, with the gradients as two flat vectors."""
        decayed, plain = self.mean_gradients(decayed, plain)
        decayed = decayed + self.weight_decay * self.decayed_weights
        norm = ops.sqrt((decayed * decayed).sum() + (plain * plain).sum())
        if self.clip_norm > 0:
            factor = self.clip_norm / ops.maximum(norm, Tensor(self.clip_norm, mindspore.float32))
            decayed, plain = decayed * factor, plain * factor
        skip, norm = self.loss_scale(norm)
        # In place, one kernel on a GPU. Assign would be two copies.
        self.apply(self.decayed_weights, 1.0, self.step(
            decayed, self.decayed_mean_square, self.decayed_moment, learning_rate, skip))
        self.apply(self.plain_weights, 1.0, self.step(
            plain, self.plain_mean_square, self.plain_moment, learning_rate, skip))
        return norm

    def read_parameters(self):
        """Take the weights from the Parameters, after these have been set from outside."""
        for weights, layout in self._weights():
            weights.set_data(Tensor(layout.join_values()))

    def write_parameters(self):
        """Give the Parameters the weights, for whoever reads them outside of the graph."""
        for weights, layout in self._weights():
            layout.set_values(weights.asnumpy())

    def read_by(self, network, compute_type):
        """Let the layers of a network read the weights of this optimizer, and compute in this number format."""
        self.receivers = mindspore.ParameterTuple(sum(
            (read_from(network, layout, weights, compute_type) for weights, layout in self._weights()), ()))

    def mean_gradients(self, decayed, plain):
        """The two flat gradients without the loss scale, averaged over the ranks.

        Both are averaged in one call: a graph of MindSpore 2.10 with two AllReduces does not compile for GPUs ("The
        pointer[send_actor] is null"), and one call costs less than two.
        """
        decayed, plain = self.loss_scale.unscale(decayed), self.loss_scale.unscale(plain)
        if self.reduce_mean is None:
            return decayed, plain
        both = self.reduce_mean(ops.concat((decayed, plain)))
        size = self.decayed_size
        return ops.slice(both, (0,), (size,)), ops.slice(both, (size,), (self.plain_size,))

    def step(self, gradient, mean_square, moment, learning_rate, skip):
        """Advance the state of one flat vector unless `skip`; returns what is subtracted from the weights."""
        going, momentum = 1, self.momentum
        if skip is not None:        # scalar factors keep the state as it is, because the vectors are long
            gradient = ops.masked_fill(gradient, skip, Tensor(0, mindspore.float32))
            going = 1 - skip.astype(mindspore.float32)
            momentum = self.momentum * going + (1 - going)
        new_square = mean_square + (gradient * gradient - mean_square) * ((1 - self.decay) * going)
        new_moment = momentum * moment + learning_rate * gradient * self.rsqrt(new_square + self.eps)
        ops.assign(mean_square, new_square)
        ops.assign(moment, new_moment)
        return new_moment if skip is None else new_moment * going

    def state(self):
        """{'mean_square.NAME': array, 'moment.NAME': array}, the state under the parameters' own names."""
        arrays = {}
        for prefix, vector, layout in self._states():
            arrays.update(layout.cut(vector.asnumpy(), prefix))
        return arrays

    def load_state(self, arrays):
        """Set the state from what `state` returned."""
        for prefix, vector, layout in self._states():
            vector.set_data(Tensor(layout.join(arrays, prefix)))

    def _states(self):
        return (('mean_square.', self.decayed_mean_square, self.decayed_layout),
                ('moment.', self.decayed_moment, self.decayed_layout),
                ('mean_square.', self.plain_mean_square, self.plain_layout),
                ('moment.', self.plain_moment, self.plain_layout))

    def _weights(self):
        return (self.decayed_weights, self.decayed_layout), (self.plain_weights, self.plain_layout)


def _vectors(name, layout):
    """The flat Parameters of a layout: weights, mean squares, moments."""
    return (flat_parameter('weights.' + name, layout.join_values()),
            flat_parameter('mean_square.' + name, np.ones(layout.size)),
            flat_parameter('moment.' + name, np.zeros(layout.size)))
