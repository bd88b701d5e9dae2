"""Keeps Ctrl-C a SIGINT; being first of all, before a library has started a thread that could catch it."""
import _thread
import signal
import threading


def _keep_ctrl_c():
    """Bring Ctrl-C to Python's handler, also while MindSpore 2 runs a graph: there its own makes a SIGTERM of it.

    SIGINT is blocked in every thread, those of MindSpore and NumPy inherit that, and one thread waits for it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def wait():
        while True:
            signal.sigwait({signal.SIGINT})
            _thread.interrupt_main()
    threading.Thread(target=wait, daemon=True).start()


_keep_ctrl_c()
