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

from src.framework import Parameter, Tensor, mindspore, nn, ops
from src.training.flat import FlatLayout
from src.training.loss_scale import FixedLossScale

flatten = ops.MultitypeFuncGraph('flatten')
_assign_slice = ops.MultitypeFuncGraph('assign_slice')


@flatten.register('Tensor')
def _flatten_tensor(tensor):
    return tensor.reshape(-1)


@_assign_slice.register('Tensor', 'Number', 'Tensor')
def _assign_slice_tensor(flat, offset, parameter):
    # Not assign_sub: on an element of a ParameterTuple it crashes MindSpore 1.10.
    return ops.assign(parameter, ops.slice(flat, (offset,), (parameter.size,)).reshape(parameter.shape))


def is_decayed(parameter):
    """Whether weight decay applies: to convolution and dense weights, not to biases and BatchNorm (TF-Slim)."""
    return parameter.name.endswith('.weight')


class FlatRMSProp(nn.Cell):
    """TensorFlow 1's RMSProp with weight decay and clipping to a global norm.

    construct(gradients, learning_rate) -> global norm before clipping, a float32 scalar. `gradients` is a tuple in
    the order of `self.parameters`, `learning_rate` a float32 scalar tensor. Weight decay enters before clipping, as
    in TF-Slim, where it is part of the loss.

    Args:
        parameters: the Parameters to train.
        weight_decay, momentum, decay, eps: as in the formula above.
        clip_norm: largest global norm; 0: no clipping.
        loss_scale: see loss_scale.py; where it skips an update, neither parameters nor state change.
        reduce_mean: a function that averages a flat gradient over the ranks, or None.

    Attributes:
        parameters: the decayed ones first, then the others.
    """

    def __init__(self, parameters, weight_decay=0.0, momentum=0.9, decay=0.9, eps=1.0, clip_norm=0.0,
                 loss_scale=None, reduce_mean=None):
        super().__init__(auto_prefix=False)
        # Parameters of similar shape are neighbours, so that they can be joined before they are flattened.
        self.decayed = mindspore.ParameterTuple(sorted((p for p in parameters if is_decayed(p)),
                                                       key=lambda p: tuple(p.shape[1:])))
        self.decayed_runs = _runs(self.decayed)
        self.plain = mindspore.ParameterTuple([p for p in parameters if not is_decayed(p)])
        self.parameters = mindspore.ParameterTuple(tuple(self.decayed) + tuple(self.plain))
        self.split = len(self.decayed)
        self.decayed_layout, self.plain_layout = FlatLayout(self.decayed), FlatLayout(self.plain)
        self.decayed_offsets, self.plain_offsets = self.decayed_layout.offsets, self.plain_layout.offsets
        self.decayed_size, self.plain_size = self.decayed_layout.size, self.plain_layout.size
        self.decayed_mean_square = _vector('mean_square.decayed', 1, self.decayed_layout.size)
        self.decayed_moment = _vector('moment.decayed', 0, self.decayed_layout.size)
        self.plain_mean_square = _vector('mean_square.plain', 1, self.plain_layout.size)
        self.plain_moment = _vector('moment.plain', 0, self.plain_layout.size)
        self.weight_decay, self.momentum, self.decay, self.eps = weight_decay, momentum, decay, eps
        self.clip_norm = clip_norm
        self.loss_scale = FixedLossScale() if loss_scale is None else loss_scale
        self.reduce_mean = reduce_mean
        self.map = ops.HyperMap()
        self.rsqrt = ops.Rsqrt()

    def construct(self, gradients, learning_rate):
        decayed, plain = self.vectors(gradients)
        return self.update(decayed, plain, learning_rate)

    def vectors(self, gradients):
        """Gradients in the order of `self.parameters` as two flat vectors: of the decayed parameters, of the others."""
        return self.flat(gradients[:self.split]), self.flat(gradients[self.split:])

    def update(self, decayed, plain, learning_rate):
        """What `construct` does, with the gradients as two flat vectors."""
        decayed_weights, plain_weights = self.flat_weights(), self.flat(self.plain)
        decayed, plain = self.mean_gradients(decayed, plain)
        decayed = decayed + self.weight_decay * decayed_weights
        norm = ops.sqrt((decayed * decayed).sum() + (plain * plain).sum())
        if self.clip_norm > 0:
            factor = self.clip_norm / ops.maximum(norm, Tensor(self.clip_norm, mindspore.float32))
            decayed, plain = decayed * factor, plain * factor
        skip, norm = self.loss_scale(norm)
        # Not `-=`: MindSpore 2 makes it an in-place operation and then copies the vector for every slice.
        decayed_weights = decayed_weights - self.step(
            decayed, self.decayed_mean_square, self.decayed_moment, learning_rate, skip)
        plain_weights = plain_weights - self.step(
            plain, self.plain_mean_square, self.plain_moment, learning_rate, skip)
        self.map(ops.partial(_assign_slice, decayed_weights), self.decayed_offsets, self.decayed)
        self.map(ops.partial(_assign_slice, plain_weights), self.plain_offsets, self.plain)
        return norm

    def flat(self, tensors):
        """One vector of all elements of the tensors."""
        return ops.concat(self.map(flatten, tensors))

    def flat_weights(self):
        """One vector of the decayed weights. To reshape a parameter copies it, so a run of them is reshaped at once."""
        parts = ()
        for start, stop in self.decayed_runs:
            parts += (ops.concat(self.decayed[start:stop]).reshape(-1),)
        return ops.concat(parts)

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
        for prefix, vector, layout in self._vectors():
            arrays.update(layout.cut(vector.asnumpy(), prefix))
        return arrays

    def load_state(self, arrays):
        """Set the state from what `state` returned."""
        for prefix, vector, layout in self._vectors():
            vector.set_data(Tensor(layout.join(arrays, prefix)))

    def _vectors(self):
        return (('mean_square.', self.decayed_mean_square, self.decayed_layout),
                ('moment.', self.decayed_moment, self.decayed_layout),
                ('mean_square.', self.plain_mean_square, self.plain_layout),
                ('moment.', self.plain_moment, self.plain_layout))


def _runs(parameters):
    """((start, stop), ...) of consecutive parameters whose shapes differ only in the first dimension."""
    shapes = [tuple(p.shape[1:]) for p in parameters]
    starts = [i for i, shape in enumerate(shapes) if i == 0 or shape != shapes[i - 1]]
    return tuple(zip(starts, starts[1:] + [len(shapes)]))


def _vector(name, value, size):
    return Parameter(Tensor(np.full(size, value, np.float32)), name=name, requires_grad=False)
