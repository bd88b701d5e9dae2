"""Which branches of a cell are computed as one, and how their common tensors are called.

Separable convolutions of one kernel size on the inputs of a cell become one wider convolution: the same
products and sums in fewer, larger kernels. Their tensors lie one after another in the first dimension of a
common one, whose name lists them as a shell does: cell_3.{block_0.left,block_1.left}.bn_1.gamma. Files and
everything a user sees know the plain names alone; `split` and `join` are the boundary.
"""
from collections import namedtuple

import numpy as np

from src.framework import Tensor

# reads: positions among the values of a cell; names: 'block_0.left', ... one for each result, () for a sum.
Step = namedtuple('Step', 'operation reads names')


def program(genotype, widths):
    """A cell as a sequence of steps over its values, which at first are its hidden states 0 and 1.

    Each Step appends its results to the values: a separable convolution one for each value it reads, a pool one
    that all its branches share, 'add' (a block) one.

    Args:
        widths: channels of hidden states 0 and 1; only equal ones can be merged.

    Returns:
        (tuple of Steps, positions of the hidden states among the values)
    """
    def key(operation, state):
        return (operation, widths[state]) if operation.startswith('sep') and state < 2 else (operation, -state)
    groups = {}
    for number, block in enumerate(genotype.blocks):
        for side, branch in zip(('left', 'right'), block):
            groups.setdefault(key(*branch), []).append(('block_%d.%s' % (number, side), branch[1]))
    steps, states, results, size = [], [0, 1], {}, 2
    for number, block in enumerate(genotype.blocks):
        reads = ()
        for side, (operation, state) in zip(('left', 'right'), block):
            if operation == 'none':
                reads += (states[state],)
                continue
            group = groups.pop(key(operation, state), ())       # its first branch computes them all
            if group and operation.startswith('sep'):
                steps.append(Step(operation, tuple(states[read] for _, read in group), tuple(name for name, _ in group)))
                results.update((name, size + i) for i, (name, _) in enumerate(group))
                size += len(group)
            elif group:
                steps.append(Step(operation, (states[state],), ()))
                results.update((name, size) for name, _ in group)
                size += 1
            reads += (results['block_%d.%s' % (number, side)],)
        steps.append(Step('add', reads, ()))
        states.append(size)
        size += 1
    return tuple(steps), tuple(states)


def common_name(names):
    """('a', 'b') -> '{a,b}', ('a',) -> 'a'"""
    return ','.join(names).join('{}') if len(names) > 1 else ''.join(names)


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
    return {name: np.concatenate([arrays[plain] for plain in plain_names(name)]) for name in names}


def plain_values(network):
    """{plain name: float32 array} of all parameters of a network."""
    return split({p.name: p.asnumpy() for p in network.get_parameters()})


def set_plain_values(network, arrays):
    """Set all parameters of a network from {plain name: float32 array}."""
    parameters = {p.name: p for p in network.get_parameters()}
    for name, array in join(arrays, parameters).items():
        parameters[name].set_data(Tensor(array))
