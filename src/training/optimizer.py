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


@flatten.register('Tensor')
def _flatten_tensor(tensor):
    return tensor.reshape(-1)


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
        # Parameters of equal shape are neighbours, so that one operation can join or split all of them.
        decayed, plain = ([p for p in parameters if is_decayed(p) == wanted] for wanted in (True, False))
        self.decayed = mindspore.ParameterTuple(sorted(decayed, key=lambda p: p.shape[::-1]))
        self.plain = mindspore.ParameterTuple(sorted(plain, key=lambda p: p.shape))
        self.parameters = mindspore.ParameterTuple(tuple(self.decayed) + tuple(self.plain))
        self.split = len(self.decayed)
        self.decayed_layout, self.plain_layout = FlatLayout(self.decayed), FlatLayout(self.plain)
        self.decayed_runs, self.plain_runs = _runs(self.decayed_layout), _runs(self.plain_layout)
        self.joined = _joined(self.decayed)
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
        self.apply = ops.ApplyGradientDescent()
        self.rsqrt = ops.Rsqrt()

    def construct(self, gradients, learning_rate):
        decayed, plain = self.vectors(gradients)
        return self.update(decayed, plain, learning_rate)

    def vectors(self, gradients):
        """Gradients in the order of `self.parameters` as two flat vectors: of the decayed parameters, of the others."""
        return self.flat(gradients[:self.split]), self.flat(gradients[self.split:])

    def update(self, decayed, plain, learning_rate):
        """What `construct` does, with the gradients as two flat vectors."""
        decayed, plain = self.mean_gradients(decayed, plain)
        decayed = decayed + self.weight_decay * self.flat_weights()
        norm = ops.sqrt((decayed * decayed).sum() + (plain * plain).sum())
        if self.clip_norm > 0:
            factor = self.clip_norm / ops.maximum(norm, Tensor(self.clip_norm, mindspore.float32))
            decayed, plain = decayed * factor, plain * factor
        skip, norm = self.loss_scale(norm)
        self.subtract(self.step(decayed, self.decayed_mean_square, self.decayed_moment, learning_rate, skip),
                      self.decayed, self.decayed_runs)
        self.subtract(self.step(plain, self.plain_mean_square, self.plain_moment, learning_rate, skip),
                      self.plain, self.plain_runs)
        return norm

    def flat(self, tensors):
        """One vector of all elements of the tensors."""
        return ops.concat(self.map(flatten, tensors))

    def flat_weights(self):
        """One vector of the decayed weights. To reshape a parameter copies it, so many of them are reshaped at once."""
        parts = ()
        for start, stop in self.joined:
            parts += (ops.concat(self.decayed[start:stop]).reshape(-1),)
        return ops.concat(parts)

    def subtract(self, change, parameters, runs):
        """Subtract a flat vector from parameters, in place.

        On a GPU ApplyGradientDescent is one kernel, and Assign would be two copies. A run of equal parameters is cut
        by one Split instead of a slice for each.
        """
        for start, count, offset, size in runs:
            pieces = (ops.slice(change, (offset,), (count * size,)),)
            if count > 1:
                pieces = ops.Split(0, count)(pieces[0])
            for i in range(count):
                parameter = parameters[start + i]
                self.apply(parameter, 1.0, pieces[i].reshape(parameter.shape))
        return change       # MindSpore 1.10 wants every function to return something

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


def _runs(layout):
    """((number of the first, how many, offset of the first, size of each), ...) of consecutive equal parameters."""
    runs = []
    for number, (parameter, offset) in enumerate(zip(layout.parameters, layout.offsets)):
        if runs and parameter.shape == layout.parameters[number - 1].shape:
            runs[-1][1] += 1
        else:
            runs.append([number, 1, offset, parameter.size])
    return tuple(map(tuple, runs))


def _joined(parameters):
    """((start, stop), ...) of consecutive parameters whose shapes differ only in the first dimension."""
    shapes = [tuple(p.shape[1:]) for p in parameters]
    starts = [i for i, shape in enumerate(shapes) if i == 0 or shape != shapes[i - 1]]
    return tuple(zip(starts, starts[1:] + [len(shapes)]))


def _vector(name, value, size):
    return Parameter(Tensor(np.full(size, value, np.float32)), name=name, requires_grad=False)
