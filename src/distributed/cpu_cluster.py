"""MindSpore's own cluster, for ranks on a CPU that mpirun started: python -m src.distributed.cpu_cluster PID.

On a GPU the ranks find each other through mpirun and NCCL. On a CPU MindSpore has no such way. There the ranks form
the cluster that msrun forms for its ranks: it needs a scheduler process, which rank 0 starts, and a few variables in
the environment of each process. Run as a program this module is the scheduler for the rank with process id PID.
"""
import os
import socket
import subprocess
import sys
import threading
import time

from src.errors import UserError
from src.files import write_text

PATIENCE = 120      # seconds to wait until the scheduler listens
ATTEMPTS = 6        # the cluster of MindSpore 1.10 fails to form in about one of four starts
FAREWELL = 10       # seconds that the scheduler stays for the other ranks after rank 0 has ended
_REMEDY = 'set TMPDIR to a folder that can be written'
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Cluster:
    """The cluster that this rank is to join.

    MindSpore reads the environment when it joins, so it may have been imported before.

    Args:
        place: the Place of this process.

    Raises:
        UserError: the ranks are on several machines.
    """

    def __init__(self, place):
        if place.local_size != place.size:
            raise UserError('on the CPU all %d processes must be on one machine, %d are on this one: leave HOSTFILE '
                            'out' % (place.size, place.local_size))
        self.place = place
        self.shared = os.environ['PMIX_SERVER_TMPDIR']     # mpirun removes this folder when it ends
        self.attempt = int(os.environ.get('CLUSTER_ATTEMPT', 1))
        self.scheduler = None
        self.next_environment = dict(os.environ, CLUSTER_ATTEMPT=str(self.attempt + 1))

    def form(self, join):
        """Prepare the environment and call `join`, which joins the cluster.

        If `join` fails and attempts are left, this process starts its program again.
        """
        port = self._port()
        for name in [name for name in os.environ if name.startswith(('OMPI_', 'PMIX_'))]:
            del os.environ[name]        # they would make MindSpore 1.10 use MPI
        os.environ.update(MS_WORKER_NUM=str(self.place.size), MS_SCHED_HOST='127.0.0.1', MS_SCHED_PORT=str(port))
        if self.place.rank == 0:
            self.scheduler = _start_scheduler()
        os.environ.update(MS_ROLE='MS_WORKER', MS_NODE_ID=str(self.place.rank))
        _await(lambda: _is_listening(port))     # a rank that connects earlier is refused for 30 seconds
        try:
            join()
        except RuntimeError:
            if self.attempt == ATTEMPTS:
                raise
            if self.scheduler:
                self.scheduler.kill()
            # MindSpore cannot join twice in one process. The other ranks fail too and also start again.
            os.execve(sys.executable, [sys.executable] + sys.argv, self.next_environment)

    def leave(self, status):
        """End this process with `status`, and before a status of 0 wait until all ranks have come here.

        At the usual end of a process MindSpore closes the cluster. With version 1.10 that ends in a segmentation fault
        in about one of ten runs: the thread that serves the connections crashes while the main thread closes them.
        """
        if status == 0:     # after another status mpirun ends the other ranks
            # Files, because MindSpore may not have sent this rank's part of the last exchange yet.
            marks = [os.path.join(self.shared, 'leaves-%d' % rank) for rank in range(self.place.size)]
            write_text(marks[self.place.rank], '', _REMEDY)
            while not all(os.path.exists(mark) for mark in marks):
                time.sleep(0.05)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def _port(self):
        """The scheduler's port. Rank 0 chooses it and writes it where the other ranks of this mpirun look."""
        path = os.path.join(self.shared, 'scheduler-port-%d' % self.attempt)
        if self.place.rank == 0:
            port = free_port()
            write_text(path, str(port), _REMEDY)
            return port
        return _await(lambda: _read_port(path))


def free_port():
    """A TCP port of this machine that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def _read_port(path):
    try:
        with open(path) as file:
            return int(file.read())
    except OSError:
        return None


def _start_scheduler():
    """Start the scheduler process. It ends after the last rank, or soon after the death of this process."""
    # Python looks into its working folder, unless PYTHONSAFEPATH is set.
    path = _ROOT + os.pathsep + os.environ.get('PYTHONPATH', '')
    return subprocess.Popen([sys.executable, '-m', 'src.distributed.cpu_cluster', str(os.getpid())], cwd=_ROOT,
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            start_new_session=True, env=dict(os.environ, MS_ROLE='MS_SCHED', MS_NODE_ID='scheduler',
                                                             PYTHONPATH=path))


def _is_listening(port):
    """Whether a process of this machine listens on `port`. To connect would be taken for a rank."""
    with open('/proc/net/tcp') as table:
        sockets = [line.split() for line in table][1:]
    return any(fields[3] == '0A' and int(fields[1].split(':')[1], 16) == port for fields in sockets)


def _await(condition):
    """Wait until `condition` returns something true, and return that."""
    end = time.time() + PATIENCE
    while time.time() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise UserError('the processes did not find each other within %d s: start again' % PATIENCE)


def schedule(parent):
    """Be the scheduler of the cluster until the ranks have ended.

    Args:
        parent: process id of rank 0.
    """
    from src.framework import mindspore, use_device

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        time.sleep(FAREWELL)
        os._exit(0)
    threading.Thread(target=watch, daemon=True).start()
    use_device('CPU')
    mindspore.communication.init()


if __name__ == '__main__':
    schedule(int(sys.argv[1]))
