"""Count the kernels the framework executes, by its own profiler."""
import csv
import glob
import os
import tempfile
from collections import Counter

from src.framework import VERSION, mindspore, without_chatter


def count(work):
    """{kernel type: how many of it one call of `work` executes}; `work` must have been called before (compiled)."""
    with tempfile.TemporaryDirectory() as folder, without_chatter():      # 2.10's draws a bar
        if VERSION < (2, 0):
            profiler = mindspore.Profiler(output_path=folder)
            work()
            profiler.analyse()
        else:
            _profile(folder, work)
        tables = glob.glob(os.path.join(folder, '**', '*op_type_info*.csv'), recursive=True)
        kernels = Counter()
        for table in tables:
            with open(table, newline='') as file:
                for row in csv.DictReader(file):
                    kernels[row['op_type']] += int(row['type_occurrences'])
    return dict(kernels)


def _profile(folder, work):
    from mindspore.profiler import (ProfilerActivity, profile,  # pylint: disable=import-outside-toplevel
                                    tensorboard_trace_handler)
    known = {'CPU': ProfilerActivity.CPU, 'GPU': getattr(ProfilerActivity, 'GPU', ProfilerActivity.CPU)}
    activity = known.get(mindspore.get_context('device_target'), ProfilerActivity.CPU)
    with profile(activities=[activity], on_trace_ready=tensorboard_trace_handler(folder)) as profiler:
        work()
        profiler.step()
