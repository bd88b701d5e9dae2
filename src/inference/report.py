"""Writes what an evaluation got right and wrong, as tables and pictures in a folder."""
import csv
import os
import threading

import numpy as np
from matplotlib.figure import Figure

from src.errors import UserError
from src.files import prepare_folder, unfinished_folder
from src.inference.class_names import probabilities
from src.input.image import decode, resize_centre_crop
from src.input.reading import read

SHOWN = 24          # number of images on the picture of mistakes
REMEDY = 'choose another --report'
MOST_LABELS = 50    # with more classes than this, the picture of the confusion matrix does not name them


class Report:
    """Collects the predictions of an evaluation and writes them.

    Pass the method `see` to `evaluate` (src/inference/evaluation.py), and then call `write`.

    Args:
        dataset: the ImageFolder that is evaluated. One process evaluates all its images.
        names: list of str, the readable name of each class.
    """

    def __init__(self, dataset, names):
        self.dataset, self.names = dataset, names
        # One tuple for each image: (index of the file, label, number of classes with a larger logit than the label's,
        # predicted class, its probability).
        self.rows = []

    def see(self, first, batch, logits):
        """Note the predictions of one batch.

        Args:
            first: index of the first file of the batch.
            batch: a Batch (src/dataset.py).
            logits: (B, K) float32.
        """
        shares = probabilities(logits)
        order = np.argsort(-logits, axis=1, kind='stable')
        for row in np.flatnonzero(batch.valid):
            label = int(batch.labels[row])
            self.rows.append((first + int(row), label, int(np.flatnonzero(order[row] == label)[0]),
                              int(order[row, 0]), float(shares[row, order[row, 0]])))

    def write(self, folder):
        """Write per_class.csv, confusion.csv, confusion.png, mistakes.csv and mistakes.png.

        Args:
            folder: path of the folder. It is made if it does not exist.

        Raises:
            SaveError: the folder cannot be written. The files of an earlier report stay as they were.
        """
        prepare_folder(folder, REMEDY)
        with unfinished_folder(folder, REMEDY) as unfinished:
            self._write_confusion(unfinished)
            self._write_per_class(unfinished)
            self._write_mistakes(unfinished)

    def _write_confusion(self, folder):
        """Write the confusion matrix: a row for each true class, a column for each predicted class."""
        matrix = np.zeros((len(self.names),) * 2, np.int64)
        for _, label, _, best, _ in self.rows:
            matrix[label, best] += 1
        _write_table(os.path.join(folder, 'confusion.csv'),
                     [['true / predicted'] + self.names]
                     + [[name] + row.tolist() for name, row in zip(self.names, matrix)])
        self._draw_confusion(matrix, os.path.join(folder, 'confusion.png'))

    def _write_per_class(self, folder):
        """Write how many images each class has, and the shares of them that are right among 1 and 5 predictions."""
        labels, ranks = np.array([row[1:3] for row in self.rows]).T
        table = [['label', 'class', 'images', 'top1', 'top5']]
        for label, name in enumerate(self.names):
            own = ranks[labels == label]
            table.append([label, name, len(own)] + (['%.6f' % (own < k).mean() for k in (1, 5)] if len(own) else
                                                    ['', '']))
        _write_table(os.path.join(folder, 'per_class.csv'), table)

    def _write_mistakes(self, folder):
        """Write the wrong predictions, the most confident ones first."""
        mistakes = sorted((row for row in self.rows if row[2]), key=lambda row: (-row[4], row[0]))
        _write_table(os.path.join(folder, 'mistakes.csv'),
                     [['file', 'true', 'predicted', 'probability', 'rank_of_true']]
                     + [[self._path(index), self.names[label], self.names[best], '%.6f' % share, rank + 1]
                        for index, label, rank, best, share in mistakes])
        self._draw_mistakes(mistakes[:SHOWN], os.path.join(folder, 'mistakes.png'))

    def _path(self, index):
        """Return the path of a file of the data set."""
        data = self.dataset
        return os.path.join(data.path, data.class_names[data.labels[index]], data.files[index])

    def _draw_confusion(self, matrix, path):
        """Draw the confusion matrix (K, K) int64, each row as shares of its true class, to a PNG file."""
        shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        count = len(self.names)
        side = 4 + 0.22 * min(count, MOST_LABELS)       # inches: room for a line of text for each class
        figure = Figure(figsize=(side + 1, side))
        axes = figure.subplots()
        picture = axes.imshow(shares, vmin=0, vmax=1, cmap='Blues', interpolation='nearest')
        figure.colorbar(picture, label='share of the true class')
        axes.set_xlabel('predicted')
        axes.set_ylabel('true')
        if count <= MOST_LABELS:
            axes.set_xticks(range(count))
            names = [drawable(name) for name in self.names]
            axes.set_xticklabels(names, rotation=90)
            axes.set_yticks(range(count))
            axes.set_yticklabels(names)
        figure.savefig(path, dpi=100, bbox_inches='tight')

    def _draw_mistakes(self, mistakes, path):
        """Draw the images of some mistakes, each with its true and its predicted class, to a PNG file."""
        columns = 6
        lines = max(1, -(-len(mistakes) // columns))
        figure = Figure(figsize=(2.2 * columns, 2.7 * lines))
        all_axes = figure.subplots(lines, columns, squeeze=False)
        for axes in all_axes.flat:
            axes.axis('off')
        file_system_fails = threading.Event()
        for axes, (index, label, _, best, share) in zip(all_axes.flat, mistakes):
            self._draw_image(axes, index, file_system_fails)
            axes.set_title('%s\n%s %.0f %%' % (drawable(self.names[label][:26]), drawable(self.names[best][:20]),
                                               100 * share), fontsize=8)
        figure.suptitle('%d most confident mistakes: true class above, prediction below' % len(mistakes))
        figure.savefig(path, dpi=100, bbox_inches='tight')


    def _draw_image(self, axes, index, file_system_fails):
        """Draw one file of the data set, or a grey square with a word if it cannot be read any more.

        The evaluation has read the file, and its result must not be lost because of a picture.

        Args:
            axes: Axes of matplotlib.
            index: index of the file.
            file_system_fails: threading.Event. It is set here when the file system fails. The files that come after
                this one are then tried only once.
        """
        size = self.dataset.config.image_size
        try:
            image, _ = read(self._path(index), decode, file_system_fails)
        except UserError:
            image = None
            file_system_fails.set()
        if image is not None:
            axes.imshow(resize_centre_crop(image, size))
            return
        axes.imshow(np.full((size, size, 3), 192, np.uint8))
        axes.text(size / 2, size / 2, 'unreadable', ha='center', va='center', fontsize=8)


def drawable(name):
    """Return a name in a form that matplotlib can draw.

    It cannot draw the bytes of a name that is not UTF-8; a question mark in a diamond stands for them. Without the
    backslash it would read the text between two dollar signs as a formula.
    """
    return name.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace').replace('$', r'\$')


def _write_table(path, rows):
    with open(path, 'w', newline='', encoding='utf-8', errors='surrogateescape') as file:
        csv.writer(file).writerows(rows)
