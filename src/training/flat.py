"""Parameters as parts of one flat vector."""
import numpy as np


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
