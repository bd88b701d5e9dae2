"""Counts the kernels that a function executes, and the time that they take, with the framework's own profiler."""
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
        ({kind of kernel: how many were executed}, seconds that a GPU worked on it or None where that is not recorded).
        That a GPU's seconds can be read has not been tried on one; the names are those in MindSpore's libraries.

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
            kinds = {row['op_type']: int(float(row['type_occurrences'])) for row in csv.DictReader(file)}
        return kinds, _device_seconds(folder)


def _device_seconds(folder):
    """Seconds of all kernels and copies in the table of a GPU's activities; None if there is no such table."""
    tables = glob.glob(os.path.join(folder, '**', 'gpu_activity_data_*.csv'), recursive=True)
    if not tables:
        return None
    with open(tables[0]) as file:
        return sum(float(row['total_duration(us)']) for row in csv.DictReader(file)) / 1e6
