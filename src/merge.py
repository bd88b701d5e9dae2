"""Which branches of a cell are computed as one, and how their common tensors are called.

Separable convolutions on the inputs of a cell become one: wider depthwise convolutions, one for each kernel size,
and one grouped pointwise convolution and one BatchNorm for all. These are the same products and sums in fewer,
larger kernels. Their tensors lie one after another in the first dimension of a common one, whose name lists them as
a shell does: cell_3.{block_0.left,block_1.left}.depthwise_1.weight. Files and everything a user sees know the plain
names alone; `split` and `join` are the boundary.
"""
from collections import namedtuple

import numpy as np

from src.framework import Tensor

# operation: 'sep', 'avg3', 'max3' or 'add'; reads: positions among the values of a cell; kernels, of 'sep' alone:
# ((size, (name of a branch, ...)), ...), in the order of the reads.
Step = namedtuple('Step', 'operation reads kernels')


def program(genotype, widths):
    """A cell as a sequence of steps over its values, which at first are its hidden states 0 and 1.

    Each Step appends its results to the values: 'sep' one for each value it reads, a pool one that all its branches
    share, 'add' (a block) one.

    Args:
        widths: channels of hidden states 0 and 1; only equal ones can be merged.

    Returns:
        (tuple of Steps, positions of the hidden states among the values)
    """
    def key(operation, state):
        if not operation.startswith('sep'):
            return operation, state
        return 'sep', ('input of width', widths[state]) if state < 2 else state
    branches = [[('block_%d.%s' % (number, side),) + branch for side, branch in zip(('left', 'right'), block)]
                for number, block in enumerate(genotype.blocks)]
    groups = {}
    for name, operation, state in sum(branches, []):
        groups.setdefault(key(operation, state), {}).setdefault(operation, []).append((name, state))
    steps, states, position, size = [], [0, 1], {}, 2
    for block in branches:
        for name, operation, state in block:
            if operation == 'none':
                position[name] = states[state]
            elif name not in position:                  # the first branch of a group computes it for all
                group = groups[key(operation, state)]
                members = sum(group.values(), [])
                if operation.startswith('sep'):
                    kernels = tuple((int(kind[-1]), tuple(name for name, _ in group[kind])) for kind in group)
                    steps.append(Step('sep', tuple(states[read] for _, read in members), kernels))
                    position.update((name, size + i) for i, (name, _) in enumerate(members))
                    size += len(members)
                else:
                    steps.append(Step(operation, (states[state],), ()))
                    position.update((name, size) for name, _ in members)
                    size += 1
        steps.append(Step('add', tuple(position[name] for name, _, _ in block), ()))
        states.append(size)
        size += 1
    return tuple(steps), tuple(states)


def common_name(names):
    """('a', 'b') -> '{a,b}', ('a',) -> 'a'"""
    return '{%s}' % ','.join(names) if len(names) > 1 else names[0]


def plain_names(name):
    """'x.{a,b}.y' -> ['x.a.y', 'x.b.y'], any other name -> [name]"""
    head, brace, rest = name.partition('{')
    inner, _, tail = rest.partition('}')
    return [head + part + tail for part in inner.split(',')] if brace else [name]


def split(arrays):
    """{name: array} -> the same under plain names; the arrays are views."""
    plain = {}
    for name, array in arrays.items():
        names = plain_names(name)
        plain.update(zip(names, np.split(array, len(names)) if len(names) > 1 else (array,)))
    return plain


def join(arrays, names):
    """{plain name: array} -> {name: array} of `names`, the inverse of `split`."""
    parts = {name: [arrays[plain] for plain in plain_names(name)] for name in names}
    return {name: np.concatenate(part) if len(part) > 1 else part[0] for name, part in parts.items()}


def plain_values(network):
    """{plain name: float32 array} of all parameters of a network."""
    return split({p.name: p.asnumpy() for p in network.get_parameters()})


def set_plain_values(network, arrays):
    """Set all parameters of a network from {plain name: float32 array}."""
    parameters = {p.name: p for p in network.get_parameters()}
    for name, array in join(arrays, parameters).items():
        parameters[name].set_data(Tensor(array))
