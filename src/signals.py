"""SIGINT and SIGTERM: the first asks a run to end after its step, the second ends it at once."""
import os
import signal
import time

import numpy as np

from src.group import group_sum

# mpirun passes on SIGUSR1 and SIGUSR2 alone; scripts/run_distribute_train_for_gpu.sh makes these of the others.
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143, signal.SIGUSR2: 130}


class StopRequest:
    """Notes that the process is asked to end; `status` is then 128 + the number of SIGTERM or SIGINT, before it 0."""

    def __init__(self):
        self.status = 0
        self.first = 0.0
        for number in STATUS:
            signal.signal(number, self._note)   # also where a shell started us with SIGINT ignored

    def agreed(self, group_size):
        """The status to end with, or 0 to go on: if one process is asked to end, then all are, at the same call."""
        if group_size == 1:
            return self.status
        asked = group_sum(np.array([self.status == 143, self.status == 130], np.int64), group_size)
        return 143 if asked[0] else 130 if asked[1] else 0

    def _note(self, number, _):
        # A Ctrl-C arrives twice when a script passes on what the terminal already sent.
        if self.status and time.time() - self.first > 0.5:
            os._exit(self.status)
        if not self.status:
            self.status, self.first = STATUS[number], time.time()
