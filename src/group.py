"""The data-parallel processes as a group: forming it, sums and means over it, whether all do the same.

Every process must call these in the same order. MindSpore's AllReduce of float32 is all they need, the one
collective that every backend has.
"""
import atexit
import glob
import hashlib
import json
import os
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from functools import lru_cache

import numpy as np

from src import framework, launch
from src.checkpoint import digest
from src.errors import UserError
from src.framework import Tensor, mindspore, nn, ops

_OWN = ('rank', 'work_nums', 'ckpt_path')      # configuration that each process may have its own way
_joined = False     # whether this process is in a group
_PIECE = 4096       # sums of numbers below this are exact in float32, for as many processes


def enter(flags, config):
    """Use the device and, with --is_distributed, join the group; sets config.rank, group_size and amp_level."""
    global _joined
    framework.use_device(flags.platform, flags.device_id, flags.is_distributed)
    config.amp_level = framework.precision(config.amp_level, flags.platform)
    if flags.is_distributed:
        config.rank, config.group_size = join(flags.platform)
        _joined = True
    elif config.group_size > 1:
        raise UserError('group_size %d without --is_distributed True: leave it to the launcher, start with '
                        'scripts/run_distribute_train_for_gpu.sh' % config.group_size)


@contextmanager
def failing_for_all():
    """A process of a group that fails meanwhile ends at once: MindSpore's own goodbye waits for the others.

    Those may be waiting for it in an exchange; the launcher ends them.
    """
    try:
        yield
    except BaseException as error:
        orderly = isinstance(error, SystemExit) and error.code in (None, 0, 130, 143)
        if _joined and not orderly:
            if isinstance(error, SystemExit):
                print(error, file=sys.stderr)
            else:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        raise


def join(platform):
    """Join the processes that mpirun or msrun started; returns (rank, group size)."""
    place = launch.require()
    atexit.register(_hush)
    try:
        if platform == 'CPU' and place.launcher == 'mpirun':
            launch.Cluster(place).form(_init_quietly)
            # MindSpore 1.10 counts its ranks by arrival; any order will do, so the terminal's is taken.
            return place.rank, mindspore.communication.get_group_size()
        mindspore.communication.init('nccl' if platform == 'GPU' else None)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError('the group of %d processes cannot be formed (%s): start again, or without '
                        '--is_distributed True' % (place.size, str(error).strip().split('\n')[0]))
    return mindspore.communication.get_rank(), mindspore.communication.get_group_size()


def _init_quietly():
    with framework.without_chatter():
        mindspore.communication.init()


def schedule(parent):
    """Be the scheduler of the cluster, for the rank that is process `parent`."""
    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        time.sleep(10)      # the other ranks may be saying goodbye
        os._exit(0)
    threading.Thread(target=watch, daemon=True).start()
    framework.use_device('CPU')
    mindspore.communication.init()


def _hush():
    """MindSpore's cluster says goodbye in log lines, whatever its log level: everything else has been said."""
    sys.stderr.flush()
    with open(os.devnull, 'wb') as nowhere:
        os.dup2(nowhere.fileno(), 2)


class GroupMean(nn.Cell):
    """construct(x) -> the mean of x over all processes; of group size 1 the sum."""

    def __init__(self, group_size):
        super().__init__()
        self.all_reduce = ops.AllReduce()
        self.share = 1.0 / group_size

    def construct(self, x):
        return self.all_reduce(x) * self.share


@lru_cache(None)
def _sum():
    return GroupMean(1)


def _all_reduce(values):
    return _sum()(Tensor(np.asarray(values, np.float32))).asnumpy()


def group_sum(values, group_size):
    """The exact sum over all processes of a numpy array of whole numbers from 0 to 2^24."""
    if group_size == 1:
        return values
    low, high = np.split(_all_reduce(np.concatenate([values % _PIECE, values // _PIECE])).astype(np.int64), 2)
    return (low + high * _PIECE).astype(values.dtype)


def wait(group_size):
    """Return once all processes have come here."""
    group_sum(np.zeros(1, np.int64), group_size)


def group_mean(values, group_size):
    """The mean over all processes of a float32 vector; the same bits on each."""
    return values if group_size == 1 else _all_reduce(values) / np.float32(group_size)


def follow_rank_0(parameters, config):
    """Set these parameters to rank 0's values, which stay the same bits; for what each rank computes its own way."""
    if config.group_size == 1:
        return
    values = [p.asnumpy().reshape(-1) for p in parameters]
    flat = np.concatenate(values)
    flat = _all_reduce(flat if config.rank == 0 else np.zeros_like(flat))
    if config.rank > 0:
        for parameter, part in zip(parameters, np.split(flat, np.cumsum([len(value) for value in values])[:-1])):
            parameter.set_data(Tensor(part.reshape(parameter.shape)))


def gather(text, rank, group_size):
    """The texts of all processes, by rank."""
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = np.zeros(group_size, np.int64)
    sizes[rank] = len(data)
    sizes = group_sum(sizes, group_size)
    table = np.zeros((group_size, max(sizes)), np.int64)
    table[rank, :len(data)] = data
    table = group_sum(table.reshape(-1), group_size).reshape(table.shape).astype(np.uint8)
    return [row[:size].tobytes().decode() for row, size in zip(table, sizes)]


def require_agreement(config, arrays, facts):
    """UserError on every process, naming the first difference, if not all are to do the same.

    Args:
        config: of this process.
        arrays: {name: array} of all it starts from.
        facts: {name: what JSON can say} of what else must be the same.
    """
    facts = dict(facts, **{key: value for key, value in vars(config).items() if key not in _OWN})
    facts['parameters'] = digest(arrays).tobytes().hex()[:16]
    facts['version of MindSpore'] = mindspore.__version__
    facts['code'] = _digest_of_code()
    places = [json.loads(text) for text in gather(json.dumps(facts), config.rank, config.group_size)]
    for rank, there in enumerate(places):
        for key in sorted(set(there) | set(places[0]), key=lambda key: (key != 'code', key)):
            if there.get(key) != places[0].get(key):
                raise UserError('rank %d differs from rank 0 in %s (%s, rank 0 has %s): give all ranks the same '
                                'command, files and versions' % (rank, key, there.get(key), places[0].get(key)))


def _digest_of_code():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = hashlib.sha256()
    places = (os.path.join(root, *place) for place in (('*.py',), ('src', '*.py'), ('src', '*.cc')))
    for path in sorted(sum(map(glob.glob, places), [])):
        with open(path, 'rb') as file:
            code.update(file.read())
    return code.hexdigest()[:16]
