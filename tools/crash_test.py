"""Kill training again and again and see that nothing is lost: python tools/crash_test.py [--kills 20] [--seed 1].

Trains the small network on real JPEGs once undisturbed, then once more, killed by SIGKILL in turn while a
checkpoint is being written, between two of them, and at any moment from the start on, and resumed by
--resume auto. After each kill every file under a checkpoint's name must be whole; at the end checkpoint and
metrics.csv must be the undisturbed run's, bit for bit.
"""
import argparse
import csv
import os
import random
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
from src import checkpoint  # noqa: E402  pylint: disable=wrong-import-position
from src.errors import UserError  # noqa: E402  pylint: disable=wrong-import-position
from tools.make_demo_dataset import make  # noqa: E402  pylint: disable=wrong-import-position

FLAGS = ('--platform CPU --penultimate_filters 96 --cells_per_stage 1 --num_classes 8 --image_size 72 --batch_size 8 '
         '--save_checkpoint_steps 1 --keep_checkpoint_max 3 --resume auto').split()
STEPS = 4       # of an epoch


def start(folder, images, epochs):
    """Start a training process."""
    return subprocess.Popen([sys.executable, os.path.join(ROOT, 'train.py'), '--dataset_path', images, '--ckpt_path',
                             folder, '--epoch_size', str(epochs)] + FLAGS, stdout=subprocess.DEVNULL)


def kill_somewhere(process, folder, draw, where):
    """Kill `process` in the 'write' of a checkpoint, in 'training' between saves, or 'anywhere' from its start on.

    Returns whether it left a half written checkpoint.
    """
    earlier, began = half_written(folder), time.time()
    moment = began + draw.uniform(0, 12) if where == 'anywhere' else None
    saves, seen = draw.randint(1, 3), set()
    while process.poll() is None and time.time() < began + 200:
        writing = half_written(folder) - earlier
        seen |= writing
        if where == 'training' and seen and moment is None:
            moment = time.time() + draw.uniform(0, 1.5)
        if where == 'write' and writing and len(seen) >= saves or moment is not None and time.time() >= moment:
            process.kill()
            break
        time.sleep(0.0005)
    process.wait()
    return bool(half_written(folder) - earlier)


def half_written(folder):
    """Checkpoints of which a part is on the disk, not under its name yet: {(name, inode of its folder)}."""
    found = set()
    for name in os.listdir(folder):
        if name.startswith(checkpoint.UNFINISHED):
            try:
                if os.listdir(os.path.join(folder, name)):
                    found.add((name, os.stat(os.path.join(folder, name)).st_ino))
            except OSError:         # moved meanwhile
                pass
    return found


def rows(folder):
    """Rows of metrics.csv without the speed."""
    with open(os.path.join(folder, 'metrics.csv'), newline='') as file:
        return [row[:-1] for row in csv.reader(file)]


def crash_test(kills, seed, work):
    """Returns (kills, kills in the middle of a write); raises UserError where a promise is broken."""
    epochs = 3 * kills      # enough that the run outlives its kills
    images, whole, killed = (os.path.join(work, name) for name in ('images', 'whole', 'killed'))
    make(images, STEPS, 1, seed)
    images = os.path.join(images, 'train')
    if start(whole, images, epochs).wait() != 0:
        raise UserError('the undisturbed run failed: see above')
    os.makedirs(killed)
    draw, done, in_write = random.Random(seed), 0, 0
    while done < kills:
        process = start(killed, images, epochs)
        in_write += kill_somewhere(process, killed, draw, ('write', 'training', 'anywhere')[done % 3])
        if process.returncode == 0:
            raise UserError('the run ended after %d kills: it is too short for %d' % (done, kills))
        if process.returncode != -9:
            raise UserError('after %d kills the run ended with %d: see above' % (done, process.returncode))
        done += 1
        newest = checkpoint.list_checkpoints(killed, 0)
        for path in newest:
            checkpoint.load(path)
        if done > 2 and not newest:
            raise UserError('no checkpoint is left after %d kills' % done)
        print('kill %d: newest checkpoint %s' % (done, os.path.basename(newest[-1]) if newest else 'none'), flush=True)
    if start(killed, images, epochs).wait() != 0:
        raise UserError('the last run failed: see above')
    name = os.path.basename(checkpoint.checkpoint_path('', 0, epochs, STEPS))
    one, other = (checkpoint.load(os.path.join(folder, name)).arrays for folder in (whole, killed))
    differing = [key for key in set(one) | set(other) if not np.array_equal(one.get(key), other.get(key))]
    if differing or rows(whole) != rows(killed):
        raise UserError('the resumed run is another one: %s' % (sorted(differing)[:3] or 'metrics.csv'))
    return done, in_write


def main():
    """Flags to `crash_test`."""
    parser = argparse.ArgumentParser(description='Kill and resume training; compare with an undisturbed run.')
    parser.add_argument('--kills', type=int, default=20, metavar='N')
    parser.add_argument('--seed', type=int, default=1, metavar='N')
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        done, in_write = crash_test(flags.kills, flags.seed, work)
    print('%d kills, %d of them while a checkpoint was being written: the same bits and the same metrics.csv'
          % (done, in_write))


if __name__ == '__main__':
    main()
