"""Show what trained weights are worth on new classes: python tools/finetune_demo.py DIR [train.py flags...].

It trains on five of the demo's classes. Then it trains on the three others, with 12 images of each, in three ways with
the same number of steps: from scratch, from the weights of the five classes, and from these weights with a frozen
backbone. It prints the best validation top-1 of each (150 images). The flags go to every training.
"""
import argparse
import csv
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
from src.checkpoints.run_folder import BEST
from src.errors import UserError
from tools.make_demo_dataset import PATTERNS, make

NEW = ('crosses', 'rings', 'vertical_stripes')      # the three classes
STEPS = ('--epoch_size', '15', '--batch_size', '12', '--bn_decay', '0.9')       # 3 steps in an epoch


def train(data, run, *flags):
    """Train on the data set `data` into the folder `run`; returns the best validation top-1, from 0 to 1."""
    command = [sys.executable, os.path.join(ROOT, 'train.py'), '--dataset_path', os.path.join(data, 'train'),
               '--eval_dataset_path', os.path.join(data, 'val'), '--ckpt_path', run]
    if subprocess.call(command + list(flags)):
        raise UserError('the training into %s failed: see above' % run)
    with open(os.path.join(run, 'metrics.csv'), newline='') as file:
        return max(float(row['top1']) for row in csv.DictReader(file))


def main():
    """Do the four trainings and print a table."""
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
    pretrained = ('--preset', 'finetune', '--pretrained', os.path.join(before, BEST))
    ways = (('scratch', ('--preset', 'demo')), ('finetuned', pretrained),
            ('frozen', pretrained + ('--freeze', 'backbone')))
    results = [(name, train(new, os.path.join(flags.folder, name), *way + ('--num_classes', '3') + STEPS + tuple(more)))
               for name, way in ways]
    for name, top1 in results:
        print('%-10s best validation top-1 %.1f %%' % (name, 100 * top1))


if __name__ == '__main__':
    main()
