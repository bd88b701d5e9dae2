"""SIGINT and SIGTERM: the first asks a run to end after its step, the second ends it at once."""
import os
import signal
import time


class StopRequest:
    """Becomes true when the process is asked to end; `status` is then 128 + the signal's number."""

    def __init__(self):
        self.status = 0
        self.first = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)   # also where a shell started us with SIGINT ignored

    def __bool__(self):
        return self.status != 0

    def _note(self, number, _):
        # A Ctrl-C arrives twice when a script passes on what the terminal already sent.
        if self.status and time.time() - self.first > 0.5:
            os._exit(self.status)
        if not self.status:
            self.status, self.first = 128 + number, time.time()
