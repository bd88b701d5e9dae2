"""metrics.csv, which has a row for each epoch of a run, and metrics.png, which shows its curves."""
import csv
import functools
import io
import logging
import math
import os
import sys
import warnings

from src.errors import UserError
from src.files import SaveError, whole_file, write_text

METRICS, PICTURE = 'metrics.csv', 'metrics.png'
# top1 and top5 are over `validation_images` images; `skipped_images` bad ones are not among these. The speed stays the
# last column: it is the only one that differs between two runs of the same bits.
COLUMNS = ('epoch', 'step', 'learning_rate', 'loss', 'gradient_norm', 'top1', 'top5', 'validation_images',
           'skipped_images', 'images_per_second')
# The panels of the picture: a title and the columns that are drawn, the first by a line and the second by dashes.
PANELS = (('mean training loss', ('loss',)), ('learning rate', ('learning_rate',)),
          ('validation top-1 (line) and top-5 (dashes), %', ('top1', 'top5')),
          ('images per second', ('images_per_second',)))
MOST_MARKERS = 60       # With more epochs than this the points touch each other, so only lines are drawn.
MOST_LETTERS = 60       # of the name of a run: two names fit side by side


def write_metrics(folder, rows, remedy):
    """Bring metrics.csv and metrics.png of a run up to date. A file that is already stays as it is.

    Args:
        folder: of the run.
        rows: list of rows, each a list of text in the order of COLUMNS.
        remedy: the end of the sentence if a file cannot be written.

    Raises:
        SaveError: the folder cannot be written or the disk is full. The file that could not be written is as it was.
    """
    path, picture, text = os.path.join(folder, METRICS), os.path.join(folder, PICTURE), io.StringIO(newline='')
    csv.writer(text).writerows([COLUMNS] + list(rows))
    if not rows:
        return
    if _read(path) != text.getvalue():
        write_text(path, text.getvalue(), remedy)
    if os.path.exists(picture) and os.path.getmtime(picture) >= os.path.getmtime(path):
        return
    try:
        draw_curves([('', rows)], picture, remedy)
    except ImportError as error:
        _warn('%s is not drawn (%s): install requirements.txt' % (PICTURE, error))
    except SaveError:
        raise
    except Exception as error:      # matplotlib has many of them, for example for a wrong MPLBACKEND
        _warn('%s is not drawn, matplotlib says: %s' % (PICTURE, error))


@functools.lru_cache(None)      # so each sentence comes only once
def _warn(sentence):
    print('warning: %s' % sentence, file=sys.stderr, flush=True)


def _read(path):
    """The text of a file, or None if it cannot be read."""
    try:
        with open(path, encoding='utf-8', newline='') as file:
            return file.read()
    except (OSError, ValueError):
        return None


def read_rows(path):
    """Read metrics.csv: its rows without the heading, lists of text in the order of COLUMNS.

    Columns that an earlier version of this program did not write are empty.

    Raises:
        UserError: the file cannot be read, or it is no metrics.csv with at least one epoch.
    """
    try:
        with open(path, encoding='utf-8', newline='') as file:
            table = csv.DictReader(file)
            if not {'epoch', 'loss'} <= set(table.fieldnames or ()):
                raise ValueError('it has no columns epoch and loss')
            rows = [[row.get(column) or '' for column in COLUMNS] for row in table]
        for row in rows:
            int(row[0]), [float(value) for value in row if value]
        if not rows:
            raise ValueError('no epoch is done')
    except (OSError, ValueError, csv.Error) as error:
        raise UserError('%s is of no use (%s): give the folder of a run, its --ckpt_path, with at least one epoch'
                        % (path, getattr(error, 'strerror', None) or error))
    return rows


def draw_curves(runs, path, remedy):
    """Draw the curves of runs into a PNG file, 1,000 pixels wide.

    Args:
        runs: list of (name, rows). With several runs, each has a colour, and their names are below the panels.
        path: of the file.
        remedy: the end of the sentence if it cannot be written.

    Raises:
        SaveError: the file cannot be written. It is as it was.
        ImportError: matplotlib is not installed.
    """
    logging.getLogger('matplotlib').setLevel(logging.ERROR)     # It reports where it keeps its list of fonts.
    from matplotlib.figure import Figure  # takes 0.3 s to import
    lines = -(-len(runs) // 2) if len(runs) > 1 else 0      # of the legend
    height = 7.2 + 0.22 * lines
    figure = Figure(figsize=(10, height))
    figure.subplots_adjust(left=0.08, right=0.98, top=1 - 0.4 / height, bottom=(0.6 + 0.22 * lines) / height,
                           hspace=0.3, wspace=0.18)
    panels = list(zip(figure.subplots(2, 2).flat, PANELS))
    last = max(int(row[0]) for _, rows in runs for row in rows)
    handles = [_draw_run(panels, rows, color, last <= MOST_MARKERS or len(rows) == 1)
               for (_, rows), color in zip(runs, _colors(len(runs)))]
    for axes, (title, columns) in panels:
        _finish(axes, title, columns, last)
    if lines:
        figure.legend(handles, [_label(name) for name, _ in runs], loc='lower center', ncol=2, frameon=False,
                      fontsize=9)
    with warnings.catch_warnings(), whole_file(path, remedy) as unfinished:
        warnings.simplefilter('ignore', UserWarning)        # A letter that the font lacks becomes a square.
        figure.savefig(unfinished, dpi=100, format='png')


def _draw_run(panels, rows, color, with_markers):
    """Draw the rows of one run into all panels; returns one of its lines for the legend."""
    epochs, marker = [int(row[0]) for row in rows], 'o' if with_markers else None
    for axes, (_, columns) in panels:
        for column, style in zip(columns, ('-', '--')):
            place, factor = COLUMNS.index(column), 100 if column.startswith('top') else 1
            values = [factor * float(row[place]) if row[place] else math.nan for row in rows]
            line, = axes.plot(epochs, values, style, color=color, marker=marker, markersize=3, linewidth=1.3)
    return line


def _finish(axes, title, columns, last):
    """Set the title, the grid and the scales of a panel; `last` is the last epoch."""
    axes.set_title(title, fontsize=11)
    axes.set_xlabel('epoch')
    axes.grid(True, alpha=0.3)
    axes.set_xlim(min(0.5, 1 - last / 40), max(last + 0.5, last * 41 / 40))     # from epoch 1, with a margin
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    values = [value for line in axes.get_lines() for value in line.get_ydata() if value > 0]
    if columns == ('learning_rate',) and values and max(values) > 10 * min(values):
        axes.set_yscale('log')      # A rate that falls by factors would look like zero for most of the run.
    if columns == ('images_per_second',):
        axes.set_ylim(0, 1.1 * max(values, default=1))


def _colors(count):
    """A colour for each of `count` runs."""
    if count <= 10:
        return ['C%d' % number for number in range(count)]      # matplotlib's own ten
    from matplotlib.colors import hsv_to_rgb
    return [hsv_to_rgb((number / count, 0.9, 0.8 - 0.3 * (number % 2))) for number in range(count)]


def _label(name):
    """The end of a run's name in a form that a legend can show. It leaves out names that begin with an underscore."""
    from src.inference.report import drawable
    return ' ' + drawable(name if len(name) <= MOST_LETTERS else '...' + name[3 - MOST_LETTERS:])
