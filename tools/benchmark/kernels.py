"""Counts the kernels that a function executes, with the framework's own profiler."""
import csv
import glob
import os
import tempfile

import mindspore


class NotCounted(Exception):
    """The profiler does not work on this machine; the message says why."""


def count_kernels(run):
    """Count the kernels that `run()` executes.

    MindSpore 1.10 can start its profiler only once in a process.

    Args:
        run: function without arguments. It waits for its result (asnumpy), and all it runs is compiled already.

    Returns:
        {kind of kernel: how many were executed}

    Raises:
        NotCounted: the profiler does not work. On a GPU it needs the library libcupti of CUDA.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            profiler = mindspore.Profiler(output_path=folder)
            run()
            # 2.10 writes the table of kernels in `stop`, 1.10 writes it in `analyse`.
            getattr(profiler, 'stop' if mindspore.__version__ >= '2' else 'analyse')()
        except Exception as error:      # The class of the error depends on the version and on what is missing.
            raise NotCounted('the profiler failed: %s' % (str(error).strip() or repr(error)).split('\n')[0])
        tables = glob.glob(os.path.join(folder, '**', '*op_type_info*.csv'), recursive=True)
        if not tables:
            raise NotCounted('the profiler wrote no table of kernels')
        with open(tables[0]) as file:
            return {row['op_type']: int(float(row['type_occurrences'])) for row in csv.DictReader(file)}
