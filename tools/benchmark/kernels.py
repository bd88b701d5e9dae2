"""How many kernels a function executes, by the framework's own profiler."""
import csv
import glob
import os
import tempfile

import mindspore


def count_kernels(run):
    """{kind of kernel: how many of them `run()` executes}; everything must have been compiled before.

    `run` must wait for its result (asnumpy). The profiler starts once per process on MindSpore 1.10.
    """
    with tempfile.TemporaryDirectory() as folder:
        profiler = mindspore.Profiler(output_path=folder)
        run()
        # 2.10 writes the table of the kernels when it stops, 1.10 when it analyses.
        getattr(profiler, 'stop' if mindspore.__version__ >= '2' else 'analyse')()
        (table,) = glob.glob(os.path.join(folder, '**', '*op_type_info*.csv'), recursive=True)
        with open(table) as file:
            return {row['op_type']: int(float(row['type_occurrences'])) for row in csv.DictReader(file)}
