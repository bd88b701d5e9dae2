"""The one module that knows launchers: which of several processes this is, as mpirun or msrun says it.

mpirun (Open MPI) starts the ranks and MindSpore's NCCL backend finds the others by it. On the CPU MindSpore has
no backend for mpirun, so there the ranks form MindSpore's own cluster, the one that msrun forms for its ranks: a
scheduler, started by rank 0, and a few variables in the environment of each process.
"""
import os
import socket
import subprocess
import sys
import time
from collections import namedtuple

from src.errors import UserError

Place = namedtuple('Place', 'launcher rank size local_rank local_size')
PATIENCE = 120      # seconds for the scheduler to listen
ATTEMPTS = 6        # of MindSpore 1.10, whose cluster fails to form about once in four times


def place():
    """Where the launcher put this process -> Place, None without a launcher.

    What `rank` and `size` say is for the time before the group is formed; then the framework's count.
    local_size is None where the launcher does not say it.
    """
    environment = os.environ
    try:
        if 'OMPI_COMM_WORLD_RANK' in environment:
            return Place('mpirun', *(int(environment['OMPI_COMM_WORLD_' + name])
                                     for name in ('RANK', 'SIZE', 'LOCAL_RANK', 'LOCAL_SIZE')))
        if environment.get('MS_ROLE') in ('MS_WORKER', 'MS_SCHED'):
            rank = int(environment.get('RANK_ID', environment.get('MS_NODE_ID', 0)))
            return Place('msrun', rank, int(environment['MS_WORKER_NUM']), int(environment.get('DEVICE_ID', rank)),
                         None)
    except (KeyError, ValueError) as error:
        raise UserError('the launcher\'s environment is incomplete (%s): start with '
                        'scripts/run_distribute_train_for_gpu.sh or msrun' % error)
    return None


def require():
    """The Place; UserError if no launcher started this process."""
    found = place()
    if found is None:
        raise UserError('--is_distributed True, but neither mpirun nor msrun started this process: start with '
                        'scripts/run_distribute_train_for_gpu.sh, or leave the flag out')
    return found


class Cluster:
    """MindSpore's own cluster on the CPU, for ranks that mpirun started: `form` calls what joins it.

    What MindSpore reads of it, it reads when it joins, so the import of MindSpore may come before.
    """

    def __init__(self, found):
        if found.local_size != found.size:
            raise UserError('on the CPU all %d processes must be on one machine, %d are on this one: leave HOSTFILE '
                            'out' % (found.size, found.local_size))
        self.found = found
        self.attempt = int(os.environ.get('CLUSTER_ATTEMPT', 1))
        self.scheduler = None
        self.environment = dict(os.environ, CLUSTER_ATTEMPT=str(self.attempt + 1))

    def form(self, join):
        """Prepare the environment and call `join`; where it fails and may be tried again, start the program anew."""
        port = _publish_port(self.attempt) if self.found.rank == 0 else _await(lambda: _published_port(self.attempt))
        for name in [name for name in os.environ if name.startswith(('OMPI_', 'PMIX_'))]:
            del os.environ[name]        # MindSpore 1.10 would try MPI
        os.environ.update(MS_WORKER_NUM=str(self.found.size), MS_SCHED_HOST='127.0.0.1', MS_SCHED_PORT=str(port))
        if self.found.rank == 0:
            self.scheduler = _start_scheduler()
        os.environ.update(MS_ROLE='MS_WORKER', MS_NODE_ID=str(self.found.rank))
        _await(lambda: _listening(port))    # who comes earlier is sent away for half a minute
        try:
            join()
        except RuntimeError:
            if self.attempt == ATTEMPTS:
                raise
            if self.scheduler:
                self.scheduler.kill()
            # A process that failed to join cannot try again; the other ranks fail as well and do the same.
            os.execve(sys.executable, [sys.executable] + sys.argv, self.environment)


def _start_scheduler():
    """Start the scheduler and leave it: it ends after the last rank, or soon after the death of this one."""
    return subprocess.Popen([sys.executable, '-c', 'from src.group import schedule; schedule(%d)' % os.getpid()],
                            cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))), stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                            env=dict(os.environ, MS_ROLE='MS_SCHED', MS_NODE_ID='scheduler'))


def _publish_port(attempt):
    """A free port, written where the other ranks of this mpirun look."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    path = _port_file(attempt)
    with open(path + '.unfinished', 'w') as file:
        file.write(str(port))
    os.replace(path + '.unfinished', path)
    return port


def _published_port(attempt):
    try:
        with open(_port_file(attempt)) as file:
            return int(file.read())
    except OSError:
        return None


def _port_file(attempt):
    """In the folder of this mpirun, which is gone with it."""
    return os.path.join(os.environ['PMIX_SERVER_TMPDIR'], 'scheduler-port-%d' % attempt)


def _listening(port):
    """Whether some process of this machine listens on `port`; a connection would be taken for a rank."""
    with open('/proc/net/tcp') as table:
        sockets = [line.split() for line in table][1:]
    return any(fields[3] == '0A' and int(fields[1].split(':')[1], 16) == port for fields in sockets)


def _await(condition):
    """What `condition` returns once it is true."""
    end = time.time() + PATIENCE
    while time.time() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise UserError('the processes did not find each other within %d s: start again' % PATIENCE)
