"""Which branches of a cell are computed together, and the names of their tensors."""
import numpy as np

from nasnet_a_mobile import NORMAL_CELL, REDUCTION_CELL, Genotype, NASNetAMobile
from src.network.merge import join, program, split
from tests.helpers import SMALL
from tools.golden.compare import filled


def test_what_is_merged_follows_from_the_genotype():
    def merged(genotype, widths):
        return [step.kernels for step in program(genotype, widths)[0] if step.operation == 'sep']
    assert merged(NORMAL_CELL, (44, 44)) == [((5, ('block_0.left', 'block_1.left')),
                                              (3, ('block_0.right', 'block_1.right', 'block_4.left')))]
    assert merged(REDUCTION_CELL, (44, 44)) == [((5, ('block_0.left', 'block_2.right')),
                                                 (7, ('block_0.right', 'block_1.right'))), ((3, ('block_4.left',)),)]
    # The first stem cell: its two inputs differ in width.
    assert [len(kernels) for kernels in merged(REDUCTION_CELL, (11, 32))] == [1, 2, 1]
    fewer = Genotype(NORMAL_CELL.blocks[:4] + ((('avg3', 0), ('none', 0)),), NORMAL_CELL.concat)
    assert len(merged(fewer, (44, 44))[0][1][1]) == 2


def test_merged_tensors_are_split_to_plain_names_and_joined_again():
    network = filled(NASNetAMobile(10, 96, **SMALL))
    arrays = {p.name: p.asnumpy() for p in network.get_parameters()}
    plain = split(arrays)
    assert len(plain) > 2 * len(arrays) and not any('{' in name for name in plain)
    joined = join(plain, arrays)
    assert joined.keys() == arrays.keys()
    assert all(np.array_equal(joined[name], array) for name, array in arrays.items())
