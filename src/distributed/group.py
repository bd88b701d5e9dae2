"""The ranks of a run as a group: sums and means over them, and whether all of them do the same.

Every rank must call the methods of its group in the same order. They need only MindSpore's AllReduce of float32,
which every device has. A run of one process is a group of one: the same methods, without an exchange.
"""
import atexit
import glob
import hashlib
import json
import os
import sys
import traceback
from contextlib import contextmanager

import numpy as np

from src.cli import replace
from src.distributed import launch
from src.distributed.cpu_cluster import Cluster
from src.errors import UserError
from src.files import digest
from src.framework import Tensor, mindspore, nn, ops, use_device, without_chatter
from src.progress import Progress
from src.versions import versions

_MAY_DIFFER = ('rank', 'work_nums', 'ckpt_path')    # configuration keys that each rank may have its own value of
_PIECE = 4096       # sums of whole numbers below this stay exact in float32 for up to 4096 ranks
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class SumOverRanks(nn.Cell):
    """construct(x float32) -> the sum of x over all ranks."""

    def __init__(self):
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, x):
        return self.all_reduce(x)


class MeanOverRanks(nn.Cell):
    """construct(x float32) -> the mean of x over all ranks, of which there are `size`."""

    def __init__(self, size):
        super().__init__()
        self.all_reduce = ops.AllReduce()
        self.share = 1.0 / size

    def construct(self, x):
        return self.all_reduce(x) * self.share


class Group:
    """A run of one process.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """
    rank, size = 0, 1

    def configure(self, config):
        """`config` with the rank and the size of this group, a new Config.

        Raises:
            UserError: `config` asks for several processes, but no launcher has started them.
        """
        if config.group_size > 1 and self.size == 1:
            raise UserError('group_size %d without --is_distributed True: leave it to the launcher, start with '
                            'scripts/run_distribute_train_for_gpu.sh' % config.group_size)
        return replace(config, rank=self.rank, group_size=self.size)

    def gradient_mean(self):
        """A cell that averages a flat gradient over the ranks; None if there is nothing to average."""
        return None

    def _all_reduce(self, values):
        """The sum of a float32 array over all ranks."""
        return values

    def sum(self, counts):
        """The exact sum over all ranks of an int64 array of whole numbers from 0 to 2^24."""
        pieces = np.concatenate([counts % _PIECE, counts // _PIECE]).astype(np.float32)
        low, high = np.split(self._all_reduce(pieces).astype(np.int64), 2)
        return low + high * _PIECE

    def mean(self, values):
        """The mean over all ranks of a float32 array, the same bits on each rank."""
        return self._all_reduce(values) / np.float32(self.size)

    def barrier(self):
        """Return when all ranks have come here."""
        self.sum(np.zeros(1, np.int64))

    def take_rank_0s(self, parameters):
        """Set these parameters on each rank to rank 0's values, the same bits."""
        values = [p.asnumpy().reshape(-1) for p in parameters]
        flat = np.concatenate(values)
        flat = self._all_reduce(flat if self.rank == 0 else np.zeros_like(flat))
        if self.rank > 0:
            for parameter, part in zip(parameters, np.split(flat, np.cumsum([len(v) for v in values])[:-1])):
                parameter.set_data(Tensor(part.reshape(parameter.shape)))

    def gather(self, text):
        """The texts of all ranks, a list by rank."""
        data = np.frombuffer(text.encode(), np.uint8)
        sizes = np.zeros(self.size, np.int64)
        sizes[self.rank] = len(data)
        sizes = self.sum(sizes)
        table = np.zeros((self.size, max(sizes)), np.int64)
        table[self.rank, :len(data)] = data
        table = self.sum(table.reshape(-1)).reshape(table.shape).astype(np.uint8)
        return [row[:size].tobytes().decode() for row, size in zip(table, sizes)]

    def leave(self, status):
        """Called when nothing is left to do but to end this process with `status`. A group may end it here."""

    def require_agreement(self, config, arrays, facts):
        """UserError on every rank, with the first difference named, unless all ranks are going to do the same.

        Args:
            config: configuration of this rank.
            arrays: {name: array} of everything that the run starts from.
            facts: {name: what JSON can express} of what else must be equal.
        """
        facts = dict(facts, **{key: value for key, value in vars(config).items() if key not in _MAY_DIFFER})
        facts['parameters'] = digest(arrays).tobytes().hex()[:16]
        facts.update(('version of ' + library, version) for library, version in versions().items())
        facts['code'] = _digest_of_code()
        places = [json.loads(text) for text in self.gather(json.dumps(facts))]
        for rank, there in enumerate(places):
            for key in sorted(set(there) | set(places[0]), key=lambda key: (key != 'code', key)):
                if there.get(key) != places[0].get(key):
                    raise UserError('rank %d differs from rank 0 in %s (%s, rank 0 has %s): give all ranks the same '
                                    'command, files and versions' % (rank, key, there.get(key), places[0].get(key)))


class RankGroup(Group):
    """One of several processes, after they have joined. See Group.

    Args:
        rank, size: see Group.
        cluster: the Cluster that this rank has joined, or None if the device's own library connects the ranks.
    """

    def __init__(self, rank, size, cluster=None):
        self.rank, self.size, self.cluster = rank, size, cluster
        self._sum = SumOverRanks()

    def leave(self, status):
        if self.cluster:
            self.cluster.leave(status)

    def gradient_mean(self):
        return MeanOverRanks(self.size)

    def _all_reduce(self, values):
        return self._sum(Tensor(np.asarray(values, np.float32))).asnumpy()


def _digest_of_code():
    code = hashlib.sha256()
    patterns = ('*.py', os.path.join('src', '**', '*.py'), os.path.join('src', '**', '*.cc'))
    for path in sorted(path for pattern in patterns
                       for path in glob.glob(os.path.join(_ROOT, pattern), recursive=True)):
        with open(path, 'rb') as file:
            code.update(file.read())
    return code.hexdigest()[:16]


def join(platform, device_id=0, is_distributed=False):
    """Use the device of this process and, if the run is distributed, join the other ranks -> Group.

    Args:
        platform: 'GPU', 'CPU' or 'Ascend'.
        device_id: the device of a run of one process. In a group each rank uses the device of its local rank.
        is_distributed: whether mpirun or msrun started this process as one of several.

    Raises:
        UserError: there is no such device, a launcher started this process as one of several and it is not
            distributed or the other way round, or the group cannot be formed.
    """
    if not is_distributed:
        place = launch.place()
        if place and place.size > 1:
            raise UserError('%s has started %d processes, but --is_distributed True is missing: without it each of '
                            'them would be a run of its own' % (place.launcher, place.size))
        use_device(platform, device_id)
        return Group()
    place = launch.require()
    use_device(platform, place.local_rank, place.local_size or 1)
    atexit.register(_silence_farewell)
    try:
        # MindSpore's words are dropped meanwhile, by closing descriptor 2; these go past it.
        with os.fdopen(os.dup(2), 'w') as terminal, \
                Progress('joining a group of %d processes' % place.size, stream=terminal, shown=place.rank == 0):
            if platform == 'CPU' and place.launcher == 'mpirun':
                cluster = Cluster(place)
                cluster.form(_init_quietly)
                # MindSpore 1.10 numbers its ranks by arrival. Any numbering works, so the one that users see is taken.
                return RankGroup(place.rank, mindspore.communication.get_group_size(), cluster)
            mindspore.communication.init('nccl' if platform == 'GPU' else None)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError('the group of %d processes cannot be formed (%s): start again, or without '
                        '--is_distributed True' % (place.size, str(error).strip().split('\n')[0]))
    return RankGroup(mindspore.communication.get_rank(), mindspore.communication.get_group_size())


def _init_quietly():
    with without_chatter():
        mindspore.communication.init()


def _silence_farewell():
    """Close stderr: MindSpore's cluster writes log lines at exit whatever its log level is."""
    sys.stderr.flush()
    with open(os.devnull, 'wb') as nowhere:
        os.dup2(nowhere.fileno(), 2)


@contextmanager
def ending_together(group):
    """The end of the ranks. The block is everything that a program does in its group.

    If the block fails, this rank ends at once, and the launcher ends the other ranks. MindSpore's own shutdown would
    wait for them, and they may be waiting for this one in an exchange. After any other end of the block the rank leaves
    the group; a rank of the CPU cluster ends there.
    """
    try:
        yield
    except BaseException as error:
        orderly = isinstance(error, SystemExit) and error.code in (None, 0, 130, 143)
        if group.size > 1 and not orderly:
            if isinstance(error, SystemExit):
                print(error, file=sys.stderr)
            else:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        if orderly:
            group.leave(error.code or 0)
        raise
    group.leave(0)
