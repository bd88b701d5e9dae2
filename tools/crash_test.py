"""Kill training many times and check that nothing is lost: python tools/crash_test.py [--kills 20] [--seed 1].

It trains the small network on real JPEGs once without a disturbance. Then it trains once more and kills this run with
SIGKILL, in turn while a checkpoint is being written, between two checkpoints, and at any moment after the start; each
time --resume auto continues the run. After each kill, every file with the name of a checkpoint must be whole. At the
end, the last checkpoint, metrics.csv and the points for TensorBoard must be the same bits as without the kills.
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
from src.checkpoints.checkpoint import load
from src.checkpoints.run_folder import checkpoint_path, list_checkpoints
from src.errors import UserError
from src.files import UNFINISHED
from src.training.events import list_event_files, read_events
from tools.make_demo_dataset import make

FLAGS = ('--platform CPU --penultimate_filters 96 --cells_per_stage 1 --num_classes 8 --image_size 72 --batch_size 8 '
         '--save_checkpoint_steps 1 --keep_checkpoint_max 3 --tensorboard True --resume auto').split()
STEPS = 4               # of an epoch: each of the 8 classes has 4 images
EPOCHS_PER_KILL = 3     # The run must last longer than its kills.
PATIENCE = 200          # seconds after which a run that was not killed is left to end


def start(folder, images, epochs):
    """Start a training process that keeps its checkpoints in `folder`."""
    return subprocess.Popen([sys.executable, os.path.join(ROOT, 'train.py'), '--dataset_path', images, '--ckpt_path',
                             folder, '--epoch_size', str(epochs)] + FLAGS, stdout=subprocess.DEVNULL)


def kill_at(process, folder, draw, when):
    """Kill a training process at a random moment.

    Args:
        folder: where its checkpoints go.
        draw: random.Random that chooses the moment.
        when: 'write': while a checkpoint is being written; 'training': between two checkpoints; 'anywhere': at any
            moment after the start.

    Returns:
        Whether a half-written checkpoint is left.
    """
    before, began = half_written(folder), time.time()
    moment = began + draw.uniform(0, 12) if when == 'anywhere' else None
    saves, seen = draw.randint(1, 3), set()
    while process.poll() is None and time.time() < began + PATIENCE:
        writing = half_written(folder) - before
        seen |= writing
        if when == 'training' and seen and moment is None:
            moment = time.time() + draw.uniform(0, 1.5)
        if when == 'write' and writing and len(seen) >= saves or moment is not None and time.time() >= moment:
            process.kill()
            break
        time.sleep(0.0005)
    process.wait()
    return bool(half_written(folder) - before)


def half_written(folder):
    """The unfinished folders in which a part of a checkpoint lies: {(name, inode)}.

    The inode tells two folders apart that had the same name one after the other.
    """
    found = set()
    for name in os.listdir(folder):
        if name.startswith(UNFINISHED + 'nasnet-a-mobile-'):
            try:
                if os.listdir(os.path.join(folder, name)):
                    found.add((name, os.stat(os.path.join(folder, name)).st_ino))
            except OSError:         # The process has finished it meanwhile.
                pass
    return found


def metrics(folder):
    """The rows of metrics.csv without the speed."""
    with open(os.path.join(folder, 'metrics.csv'), newline='') as file:
        return [row[:-1] for row in csv.reader(file)]


def points(folder):
    """[(step, name, value)] of all event files of a run, without the speed. The value of images is a PNG as bytes."""
    return [(event.step, value.tag, value.image.encoded_image_string or value.simple_value)
            for path in list_event_files(folder).values() for _, event in read_events(path)
            for value in event.summary.value if not value.tag.endswith('images_per_second')]


def kill_and_resume(kills, draw, folder, images, epochs):
    """Train into `folder`, kill and resume the run `kills` times, then let it end.

    Returns:
        How many kills left a half-written checkpoint.

    Raises:
        UserError: the run ended by itself, or a checkpoint is damaged or lost.
    """
    in_write = 0
    for number in range(kills):
        process = start(folder, images, epochs)
        in_write += kill_at(process, folder, draw, ('write', 'training', 'anywhere')[number % 3])
        if process.returncode == 0:
            raise UserError('the run ended after %d kills: it is too short for %d' % (number, kills))
        if process.returncode != -9:
            raise UserError('after %d kills the run ended with status %d: see above' % (number, process.returncode))
        paths = list_checkpoints(folder, 0)
        for path in paths:
            load(path)
        if number >= 2 and not paths:
            raise UserError('no checkpoint is left after %d kills' % (number + 1))
        print('kill %d: newest checkpoint %s' % (number + 1, os.path.basename(paths[-1]) if paths else 'none'),
              flush=True)
    if start(folder, images, epochs).wait() != 0:
        raise UserError('the last run failed: see above')
    return in_write


def crash_test(kills, seed, work):
    """Compare an undisturbed run with one that is killed and resumed.

    Args:
        kills: how many times.
        seed: of the images and of the moments.
        work: empty folder for images and checkpoints.

    Returns:
        How many kills left a half-written checkpoint.

    Raises:
        UserError: something was lost or differs.
    """
    epochs = EPOCHS_PER_KILL * kills
    images, whole, killed = (os.path.join(work, name) for name in ('images', 'whole', 'killed'))
    make(images, STEPS, 1, seed)
    images = os.path.join(images, 'train')
    if start(whole, images, epochs).wait() != 0:
        raise UserError('the undisturbed run failed: see above')
    os.makedirs(killed)
    in_write = kill_and_resume(kills, random.Random(seed), killed, images, epochs)
    one, other = (load(checkpoint_path(folder, 0, epochs, STEPS)).arrays for folder in (whole, killed))
    differing = [key for key in set(one) | set(other) if not np.array_equal(one.get(key), other.get(key))]
    differing += [read.__name__ for read in (metrics, points) if read(whole) != read(killed)]
    if differing:
        raise UserError('the resumed run differs from the undisturbed one in %s' % ', '.join(sorted(differing)[:3]))
    return in_write


def main():
    """Do the test that the flags describe."""
    parser = argparse.ArgumentParser(description='Kill and resume training; compare it with an undisturbed run.')
    parser.add_argument('--kills', type=int, default=20, metavar='N', help='how many times (default 20)')
    parser.add_argument('--seed', type=int, default=1, metavar='N', help='of the images and the moments (default 1)')
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        in_write = crash_test(flags.kills, flags.seed, work)
    print('%d kills, %d of them while a checkpoint was being written: the same bits, metrics.csv and points for '
          'TensorBoard' % (flags.kills, in_write))


if __name__ == '__main__':
    main()
