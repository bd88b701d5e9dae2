"""What trained weights are worth on new classes: python tools/finetune_demo.py DIR [train.py flags...].

Trains on five of the demo's classes, then on the three others, of which there are 12 images each, in three
ways with the same number of steps: from scratch, from the weights of the five classes, and from them with the
backbone frozen. Prints the best validation top-1 of each (150 images). Flags go to every training.
"""
import argparse
import csv
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
from src.errors import UserError  # noqa: E402  pylint: disable=wrong-import-position
from tools.make_demo_dataset import PATTERNS, make  # noqa: E402  pylint: disable=wrong-import-position

NEW = ('crosses', 'rings', 'vertical_stripes')
STEPS = ('--epoch_size', '15', '--batch_size', '12', '--bn_decay', '0.9')       # 3 steps an epoch


def train(data, run, *flags):
    """Train into `run` -> best validation top-1 of its metrics.csv, from 0 to 1."""
    subprocess.run([sys.executable, os.path.join(ROOT, 'train.py'), '--dataset_path', os.path.join(data, 'train'),
                    '--eval_dataset_path', os.path.join(data, 'val'), '--ckpt_path', run] + list(flags), check=True)
    with open(os.path.join(run, 'metrics.csv'), newline='') as file:
        return max(float(row['top1']) for row in csv.DictReader(file))


def main():
    """Four trainings and a table."""
    parser = argparse.ArgumentParser(description='Compare fine-tuning with training from scratch on new classes.')
    parser.add_argument('folder', metavar='DIR', help='new folder for images and checkpoints')
    flags, more = parser.parse_known_args()
    if os.path.isdir(flags.folder) and os.listdir(flags.folder):
        raise UserError('%s is not empty: choose a new folder' % flags.folder)
    old, new = os.path.join(flags.folder, 'old'), os.path.join(flags.folder, 'new')
    make(old, 80, 10, classes=sorted(set(PATTERNS) - set(NEW)))
    make(new, 12, 50, classes=NEW)
    before = os.path.join(flags.folder, 'before')
    print('on the five classes: %.4f' % train(old, before, '--preset', 'demo', '--num_classes', '5', *more))
    pretrained = ('--preset', 'finetune', '--pretrained', os.path.join(before, 'nasnet-a-mobile-best.ckpt'))
    results = [(name, train(new, os.path.join(flags.folder, name), *how + ('--num_classes', '3') + STEPS + tuple(more)))
               for name, how in (('scratch', ('--preset', 'demo')), ('finetuned', pretrained),
                                 ('frozen', pretrained + ('--freeze', 'backbone')))]
    for name, top1 in results:
        print('%-10s best validation top-1 %.1f %%' % (name, 100 * top1))


if __name__ == '__main__':
    main()
