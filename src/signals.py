"""Ctrl-C and the signals that ask a process to end. Needs neither NumPy nor MindSpore, which start threads."""
import _thread
import os
import signal
import sys
import threading
import time

# mpirun passes only SIGUSR1 and SIGUSR2 on to its ranks. scripts/run_distribute_train_for_gpu.sh therefore sends
# SIGUSR1 for SIGTERM and SIGUSR2 for SIGINT.
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143, signal.SIGUSR2: 130}
SAME_CTRL_C = 0.5       # seconds within which a second signal is taken as a copy of the first


def keep_ctrl_c():
    """Make Ctrl-C end the process with status 130 and no traceback, also while MindSpore runs a graph.

    MindSpore 2 has a SIGINT handler of its own that turns Ctrl-C into SIGTERM. So SIGINT is blocked in this thread,
    all threads that start later inherit that, and one thread waits for the signal and hands it to Python. A program
    must call this before it imports NumPy or MindSpore: their threads would not inherit the blocking.

    A shell starts background jobs with SIGINT ignored. The handler that is set here makes them listen again.
    """
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def wait():
        while True:
            signal.sigwait({signal.SIGINT})
            _thread.interrupt_main()
    threading.Thread(target=wait, daemon=True).start()


class StopRequest:
    """Notes that this process is asked to end after its current step; a second signal ends it at once.

    Attributes:
        status: 0 until a signal comes, then the exit status: 143 for SIGTERM, 130 for SIGINT.
    """

    def __init__(self):
        self.status = 0
        self.first = 0.0
        for number in STATUS:
            signal.signal(number, self._note)

    def _note(self, number, _):
        # A Ctrl-C arrives twice: the terminal sends it to the script and to this process, and the script passes it on.
        if self.status and time.time() - self.first > SAME_CTRL_C:
            os._exit(self.status)
        if not self.status:
            self.status, self.first = STATUS[number], time.time()
