"""Draw the curves of several runs into one picture: python tools/plot_metrics.py RUN... [--output FILE.png].

A RUN is the folder of a run (its --ckpt_path) or a metrics.csv. The picture has the panels of metrics.png: loss,
learning rate, validation accuracy and speed. Runs that are still training can be drawn too.
"""
import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from src.errors import UserError, needed_for
from src.startup import keep_output
from src.training.metrics import METRICS, draw_curves, read_rows


def main():
    """Draw what the flags name."""
    keep_output()
    parser = argparse.ArgumentParser(description='Draw the curves of several runs into one picture.')
    parser.add_argument('runs', nargs='+', metavar='RUN', help='folder of a run (its --ckpt_path), or a metrics.csv')
    parser.add_argument('--output', default='metrics.png', metavar='FILE.png', help='picture to write (default: '
                                                                                    'metrics.png in this folder)')
    flags = parser.parse_args()
    if not flags.output.lower().endswith('.png'):
        raise UserError('%s does not end in .png: choose another --output' % flags.output)
    runs = [(run, read_rows(os.path.join(run, METRICS) if os.path.isdir(run) else run)) for run in flags.runs]
    with needed_for('the picture'):
        draw_curves(runs, flags.output, 'choose another --output')
    for name, rows in runs:
        print('%s: %d epochs, last loss %s' % (name, int(rows[-1][0]), rows[-1][3]))
    print('picture: %s' % flags.output)


if __name__ == '__main__':
    main()
