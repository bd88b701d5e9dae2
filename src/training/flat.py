"""Parameters as parts of flat vectors, so that an optimizer needs a few operations and not a few for each tensor."""
import numpy as np

from src.framework import Parameter, Tensor, mindspore, nn, ops, read_only_scale, set_unseen
from src.network.layers import BatchNorm, Conv, Dense


class FlatLayout:
    """Where each parameter lies in a flat vector that holds all of them, one after another.

    Attributes:
        parameters: tuple of Parameters, in the order of the vector.
        offsets: tuple of the position of each one's first element.
        size: number of elements of the vector.
    """

    def __init__(self, parameters):
        self.parameters = tuple(parameters)
        ends = np.cumsum([0] + [p.size for p in self.parameters]).tolist()
        self.offsets, self.size = tuple(ends[:-1]), ends[-1]

    def cut(self, flat, prefix=''):
        """{prefix + name: array of the parameter's shape}, the parts of a flat numpy vector; they are copies."""
        return {prefix + p.name: flat[offset:offset + p.size].reshape(p.shape).copy()
                for p, offset in zip(self.parameters, self.offsets)}

    def join(self, arrays, prefix=''):
        """The flat float32 vector of the arrays that `cut` returned."""
        return np.concatenate([arrays[prefix + p.name].reshape(-1) for p in self.parameters])

    def join_values(self):
        """The flat float32 vector of the values that the parameters have now."""
        return self.join({p.name: p.asnumpy() for p in self.parameters})

    def set_values(self, flat):
        """Give the parameters the values of a flat numpy vector."""
        values = self.cut(flat)
        for parameter in self.parameters:
            parameter.set_data(Tensor(values[parameter.name]))

    def runs(self):
        """((number of the first, how many, offset of the first, size of each), ...) of consecutive equal parameters."""
        runs = []
        for number, (parameter, offset) in enumerate(zip(self.parameters, self.offsets)):
            if runs and parameter.shape == self.parameters[number - 1].shape:
                runs[-1][1] += 1
            else:
                runs.append([number, 1, offset, parameter.size])
        return tuple(map(tuple, runs))


def flat_parameter(name, values):
    """A Parameter for a flat float32 vector, which no gradient is asked for."""
    return Parameter(Tensor(values.astype(np.float32)), name=name, requires_grad=False)


def read_from(network, layout, flat, compute_type):
    """Let the layers of a network take the parameters of a layout from a flat vector, also in evaluation mode.

    The Parameters themselves then stay as they are while the vector is trained. `FlatRMSProp.write_parameters` gives
    them the values.

    Args:
        network: its layers are those of src/network/layers.py.
        layout: FlatLayout.
        flat: the Parameter that holds the vector.
        compute_type: in which number format convolutions and dense layers compute in training.

    Returns:
        The Parameters that receive the gradients, in the order of the layout.
    """
    places = {}
    for first, count, offset, size in layout.runs():
        for index in range(count):
            places[layout.parameters[first + index].name] = offset, size, count, index
    receivers = {}
    for _, cell in network.cells_and_names():
        for kind, names, number_format in ((Conv, ('weight',), compute_type), (Dense, ('weight', 'bias'), compute_type),
                                           (BatchNorm, ('gamma', 'beta'), mindspore.float32)):
            for name in names if isinstance(cell, kind) else ():
                parameter = getattr(cell, name)
                if parameter.name in places:
                    source = FlatSource(parameter, flat, places[parameter.name], number_format)
                    receivers[parameter.name] = source.receiver
                    set_unseen(cell, name + '_source', source)      # Else it would change the names in the layer.
        if isinstance(cell, BatchNorm):
            read_only_scale(cell.bn_train)
    return tuple(receivers[parameter.name] for parameter in layout.parameters)


class FlatSource(nn.Cell):
    """construct(like) -> the values that a flat vector has for a parameter, in the type of the tensor `like`.

    Equal slices and casts of the vector, in all layers, become one when MindSpore compiles the graph. So a run of
    equal parameters costs one slice and one Split, and float16 layers cast the vector once.

    Args:
        parameter: a Parameter.
        flat: the Parameter that holds the vector.
        place: (offset, size, count, index): `parameter` is number `index` of `count` parameters of `size` elements
            each. The first of them begins at `offset`.
        number_format: type of the gradient.

    Attributes:
        receiver: the Parameter that receives the gradient. It is `parameter`, or one like it of another type.
    """

    def __init__(self, parameter, flat, place, number_format):
        super().__init__(auto_prefix=False)
        receiver = parameter
        if number_format != parameter.dtype:
            receiver = Parameter(Tensor(np.zeros(parameter.shape), number_format), name='gradient.' + parameter.name)
        self.piece = Piece(parameter.shape, *place)
        set_unseen(self, 'receiver', receiver)      # Else they would be parameters of this cell.
        set_unseen(self, 'flat', flat)

    def construct(self, like):
        return self.piece(self.receiver, self.flat.astype(like.dtype))


class Piece(nn.Cell):
    """construct(receiver, vector (n,)) -> a part of the vector; see FlatSource. `receiver` only gets the gradient."""

    def __init__(self, shape, offset, size, count, index):
        super().__init__(auto_prefix=False)
        if mindspore.get_context('device_target') == 'CPU':
            offset, count, index = offset + index * size, 1, 0      # A CPU copies, and does not launch: no run for it.
        self.shape, self.offset, self.size, self.count, self.index = tuple(shape), offset, size, count, index

    def construct(self, receiver, vector):
        piece = ops.slice(vector, (self.offset,), (self.count * self.size,))
        if self.count > 1:
            piece = ops.Split(0, self.count)(piece)[self.index]
        return piece.reshape(self.shape)

    def bprop(self, receiver, vector, _, gradient):
        """The gradient of the receiver. Nobody asks for that of the vector."""
        return gradient, ops.zeros_like(vector)
