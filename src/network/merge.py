"""Which branches of a cell are computed together, and how their common tensors are called.

The separable convolutions that read the inputs of a cell become one: a wider depthwise convolution for each kernel
size, one grouped pointwise convolution and one BatchNorm for all of them. The products and sums are the same, in
fewer and larger kernels. The tensors of the branches lie one after another in the first dimension of a common
tensor, and its name lists them as a shell would: cell_3.{block_0.left,block_1.left}.depthwise_1.weight. Files and
users see only the plain names. `split` and `join` are the boundary.
"""
from collections import namedtuple

import numpy as np

from src.framework import Tensor

# operation: 'sep', 'avg3', 'max3' or 'add'. reads: positions among the values of a cell. kernels: only of 'sep',
# ((size, (name of a branch, ...)), ...) in the order of the reads.
Step = namedtuple('Step', 'operation reads kernels')
_Branch = namedtuple('_Branch', 'name operation state')


def program(genotype, widths):
    """A cell as a sequence of steps over a list of values, which starts as its hidden states 0 and 1.

    Each Step appends its results to the values: 'sep' appends one for each value it reads, a pool appends one for all
    branches that use it, and 'add' (a block) appends one.

    Args:
        genotype: a Genotype of nasnet_a_mobile.py.
        widths: channels of hidden states 0 and 1. Only branches of equal width can be merged.

    Returns:
        (tuple of Steps, positions of the hidden states among the values)
    """
    blocks = [[_Branch('block_%d.%s' % (number, side), operation, state)
               for side, (operation, state) in zip(('left', 'right'), block)]
              for number, block in enumerate(genotype.blocks)]
    groups = _groups(sum(blocks, []), widths)
    steps, states, position, size = [], [0, 1], {}, 2
    for block in blocks:
        for branch in block:
            if branch.operation == 'none':
                position[branch.name] = states[branch.state]
            elif branch.name not in position:       # the first branch of a group computes the whole group
                members = groups[_key(branch, widths)]
                step, places = _merged_step(members, states)
                position.update((member.name, size + place) for member, place in zip(members, places))
                steps.append(step)
                size += 1 + max(places)
        steps.append(Step('add', tuple(position[branch.name] for branch in block), ()))
        states.append(size)
        size += 1
    return tuple(steps), tuple(states)


def _key(branch, widths):
    """Branches of equal key are computed together."""
    if not branch.operation.startswith('sep'):
        return branch.operation, branch.state
    return 'sep', ('input of width', widths[branch.state]) if branch.state < 2 else branch.state


def _groups(branches, widths):
    """{key: branches}; in a group, branches of the same kernel size are neighbours."""
    groups = {}
    for branch in branches:
        by_operation = groups.setdefault(_key(branch, widths), {})
        by_operation.setdefault(branch.operation, []).append(branch)
    return {key: sum(by_operation.values(), []) for key, by_operation in groups.items()}


def _merged_step(members, states):
    """(Step that computes a group of branches, place of each branch's value among the results of the step)"""
    operation = members[0].operation
    if not operation.startswith('sep'):
        return Step(operation, (states[members[0].state],), ()), [0] * len(members)
    kernels = {}
    for member in members:
        kernels.setdefault(int(member.operation[-1]), []).append(member.name)
    return (Step('sep', tuple(states[member.state] for member in members),
                 tuple((size, tuple(names)) for size, names in kernels.items())), range(len(members)))


def common_name(names):
    """('a', 'b') -> '{a,b}', ('a',) -> 'a'"""
    return '{%s}' % ','.join(names) if len(names) > 1 else names[0]


def plain_names(name):
    """'x.{a,b}.y' -> ['x.a.y', 'x.b.y']; any other name -> [name]"""
    head, brace, rest = name.partition('{')
    inner, _, tail = rest.partition('}')
    return [head + part + tail for part in inner.split(',')] if brace else [name]


def split(arrays):
    """{name: array} -> the same arrays under plain names; they are views."""
    plain = {}
    for name, array in arrays.items():
        names = plain_names(name)
        plain.update(zip(names, np.split(array, len(names)) if len(names) > 1 else (array,)))
    return plain


def join(arrays, names):
    """{plain name: array} -> {name: array} for these names, the inverse of `split`."""
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
