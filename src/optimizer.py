"""RMSProp as TensorFlow 1 defines it, on two flat vectors.

With g the gradient after weight decay and clipping:
    mean_square += (1 - decay) * (g^2 - mean_square)                  (starts at one)
    moment       = momentum * moment + lr * g / sqrt(mean_square + eps)
    weight      -= moment
(TensorFlow's ApplyRMSProp kernel.) MindSpore's own CPU kernel of nn.RMSProp adds eps outside the
root, a different step at NASNet's eps of 1. Plain operations are the same on every backend; done on
flat vectors they are about ten kernels instead of ten for each of 750 tensors.
"""
import numpy as np

from src.framework import Parameter, Tensor, mindspore, nn, ops

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
    """Weight decay applies to convolution and dense weights, not to biases and BatchNorm (TF-Slim)."""
    return parameter.name.endswith('.weight')


class FlatRMSProp(nn.Cell):
    """TF1 RMSProp with weight decay and global-norm clipping.

    construct(gradients, learning_rate) -> global norm before clipping (float32 scalar); `gradients`
    is a tuple in the order of `self.parameters` (decayed ones first), `learning_rate` a float32
    scalar tensor. With `reduce_mean`, a function of a flat vector, gradients are averaged over
    devices in two calls. `loss_scale` is a number or a DynamicLossScale, which may forbid the update: then
    neither parameters nor state change.

    Weight decay enters before clipping, as in TF-Slim, where it is part of the loss.
    """

    def __init__(self, parameters, weight_decay=0.0, momentum=0.9, decay=0.9, eps=1.0, clip_norm=0.0,
                 loss_scale=1.0, reduce_mean=None):
        super().__init__(auto_prefix=False)
        # Of like shape side by side, so that they can be joined before they are flattened.
        self.decayed = mindspore.ParameterTuple(sorted((p for p in parameters if is_decayed(p)),
                                                       key=lambda p: tuple(p.shape[1:])))
        self.decayed_runs = _runs(self.decayed)
        self.plain = mindspore.ParameterTuple([p for p in parameters if not is_decayed(p)])
        self.parameters = mindspore.ParameterTuple(tuple(self.decayed) + tuple(self.plain))
        self.split = len(self.decayed)
        self.decayed_offsets, decayed_size = _offsets(self.decayed)
        self.plain_offsets, plain_size = _offsets(self.plain)
        self.decayed_mean_square = _vector('mean_square.decayed', 1, decayed_size)
        self.decayed_moment = _vector('moment.decayed', 0, decayed_size)
        self.plain_mean_square = _vector('mean_square.plain', 1, plain_size)
        self.plain_moment = _vector('moment.plain', 0, plain_size)
        self.weight_decay, self.momentum, self.decay, self.eps = weight_decay, momentum, decay, eps
        self.clip_norm = clip_norm
        self.dynamic_scale = None if isinstance(loss_scale, (int, float)) else loss_scale
        self.inverse_scale = 1.0 / loss_scale if self.dynamic_scale is None else None
        self.reduce_mean = reduce_mean
        self.map = ops.HyperMap()
        self.rsqrt = ops.Rsqrt()

    def construct(self, gradients, learning_rate):
        decayed, plain = self.vectors(gradients)
        return self.update(decayed, plain, learning_rate)

    def vectors(self, gradients):
        """Gradients in the order of `self.parameters` as two flat vectors."""
        return self.flat(gradients[:self.split]), self.flat(gradients[self.split:])

    def update(self, decayed, plain, learning_rate):
        """`construct` of gradients as two flat vectors."""
        decayed_weights, plain_weights = self.flat_weights(), self.flat(self.plain)
        decayed = self.average(decayed) + self.weight_decay * decayed_weights
        plain = self.average(plain)
        norm = ops.sqrt((decayed * decayed).sum() + (plain * plain).sum())
        if self.clip_norm > 0:
            factor = self.clip_norm / ops.maximum(norm, Tensor(self.clip_norm, mindspore.float32))
            decayed, plain = decayed * factor, plain * factor
        stop = None
        if self.dynamic_scale is not None:
            stop, norm = self.dynamic_scale(norm)
        # Not `-=`: MindSpore 2 makes it an in-place operation and then copies the vector for every slice.
        decayed_weights = decayed_weights - self.step(
            decayed, self.decayed_mean_square, self.decayed_moment, learning_rate, stop)
        plain_weights = plain_weights - self.step(
            plain, self.plain_mean_square, self.plain_moment, learning_rate, stop)
        self.map(ops.partial(_assign_slice, decayed_weights), self.decayed_offsets, self.decayed)
        self.map(ops.partial(_assign_slice, plain_weights), self.plain_offsets, self.plain)
        return norm

    def flat(self, tensors):
        """One vector of all elements."""
        return ops.concat(self.map(flatten, tensors))

    def flat_weights(self):
        """One vector of the decayed weights. A reshaped parameter is a copy, so those of a run share one reshape."""
        parts = ()
        for start, stop in self.decayed_runs:
            parts += (ops.concat(self.decayed[start:stop]).reshape(-1),)
        return ops.concat(parts)

    def average(self, gradient):
        """The flat gradient with the loss scale removed, averaged over devices."""
        if self.dynamic_scale is None:
            gradient = gradient * self.inverse_scale
        else:
            gradient = gradient / self.dynamic_scale.value
        return gradient if self.reduce_mean is None else self.reduce_mean(gradient)

    def step(self, gradient, mean_square, moment, learning_rate, stop=None):
        """Advance the state of one flat vector, unless `stop`; returns what is subtracted from the weights."""
        going, momentum = 1, self.momentum
        if stop is not None:        # factors that leave the state as it is, because the vectors are long
            gradient = ops.masked_fill(gradient, stop, Tensor(0, mindspore.float32))
            going = 1 - stop.astype(mindspore.float32)
            momentum = self.momentum * going + (1 - going)
        new_square = mean_square + (gradient * gradient - mean_square) * ((1 - self.decay) * going)
        new_moment = momentum * moment + learning_rate * gradient * self.rsqrt(new_square + self.eps)
        ops.assign(mean_square, new_square)
        ops.assign(moment, new_moment)
        return new_moment if stop is None else new_moment * going

    def state(self):
        """The state under the parameters' own names: {'mean_square.NAME': array, 'moment.NAME': array}."""
        arrays = {}
        for kind, vector, parameters in self._vectors():
            flat, start = vector.asnumpy(), 0
            for parameter in parameters:
                arrays['%s.%s' % (kind, parameter.name)] = \
                    flat[start:start + parameter.size].reshape(parameter.shape)
                start += parameter.size
        return arrays

    def load_state(self, arrays):
        """Set the state from what `state` returned."""
        for kind, vector, parameters in self._vectors():
            parts = [arrays['%s.%s' % (kind, p.name)].reshape(-1) for p in parameters]
            vector.set_data(Tensor(np.concatenate(parts)))

    def _vectors(self):
        return (('mean_square', self.decayed_mean_square, self.decayed),
                ('moment', self.decayed_moment, self.decayed),
                ('mean_square', self.plain_mean_square, self.plain),
                ('moment', self.plain_moment, self.plain))


def _offsets(parameters):
    """Where each parameter starts in the flat vector, and the vector's size."""
    ends = np.cumsum([p.size for p in parameters])
    return tuple(int(end) - p.size for end, p in zip(ends, parameters)), int(ends[-1])


def _runs(parameters):
    """((start, stop), ...) of consecutive parameters that differ in their first dimension alone."""
    shapes = [tuple(p.shape[1:]) for p in parameters]
    starts = [i for i, shape in enumerate(shapes) if i == 0 or shape != shapes[i - 1]]
    return tuple(zip(starts, starts[1:] + [len(shapes)]))


def _vector(name, value, size):
    return Parameter(Tensor(np.full(size, value, np.float32)), name=name, requires_grad=False)
