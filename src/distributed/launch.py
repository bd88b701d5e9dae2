"""The one module that knows launchers: which of several processes this is, as mpirun or msrun says it."""
import os
from collections import namedtuple

from src.errors import UserError

Place = namedtuple('Place', 'launcher rank size local_rank local_size')


def place():
    """Where the launcher put this process -> Place, or None if no launcher started it.

    `rank` and `size` serve until the group is formed; then the framework's own count is used. `local_size` is None
    if the launcher does not say how many processes this machine has.
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
    """The Place of this process; UserError if no launcher started it."""
    found = place()
    if found is None:
        raise UserError('--is_distributed True, but neither mpirun nor msrun started this process: start with '
                        'scripts/run_distribute_train_for_gpu.sh, or leave the flag out')
    return found
