"""What an evaluation got right and wrong, as tables and pictures in a folder."""
import csv
import os
import tempfile

import matplotlib
import numpy as np

from src.classify import probabilities
from src.dataset import read
from src.errors import UserError
from src.image import decode, resize_centre_crop

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402  pylint: disable=wrong-import-position

SHOWN = 24          # mistakes on the contact sheet
MOST_LABELS = 50    # classes up to which the picture of the confusion matrix names them


class Report:
    """Collects what `evaluate` shows it (pass `see`), then writes it.

    Args:
        dataset: the ImageFolder that is evaluated, by one process.
        names: what to call each class.
    """

    def __init__(self, dataset, names):
        self.dataset, self.names = dataset, names
        self.rows = []          # (index of the file, label, rank of the label, best class, its probability)

    def see(self, first, batch, logits):
        """Note a batch; `first` is the index of its first file."""
        shares = probabilities(logits)
        order = np.argsort(-logits, axis=1, kind='stable')
        for row in np.flatnonzero(batch.valid):
            label = int(batch.labels[row])
            self.rows.append((first + int(row), label, int(np.flatnonzero(order[row] == label)[0]),
                              int(order[row, 0]), float(shares[row, order[row, 0]])))

    def write(self, folder):
        """per_class.csv, confusion.csv, confusion.png, mistakes.csv and mistakes.png into `folder`.

        Raises:
            UserError: the folder cannot be written; files of an earlier report are as they were.
        """
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix='.unfinished-', dir=folder) as unfinished:
                matrix = self._confusion()
                self._per_class(os.path.join(unfinished, 'per_class.csv'))
                self._table(os.path.join(unfinished, 'confusion.csv'),
                            [['true / predicted'] + self.names]
                            + [[name] + row.tolist() for name, row in zip(self.names, matrix)])
                self._draw_confusion(matrix, os.path.join(unfinished, 'confusion.png'))
                mistakes = sorted((row for row in self.rows if row[2]), key=lambda row: (-row[4], row[0]))
                self._table(os.path.join(unfinished, 'mistakes.csv'),
                            [['file', 'true', 'predicted', 'probability', 'rank_of_true']]
                            + [[self._path(i), self.names[label], self.names[best], '%.6f' % share, rank + 1]
                               for i, label, rank, best, share in mistakes])
                self._draw_mistakes(mistakes[:SHOWN], os.path.join(unfinished, 'mistakes.png'))
                for name in os.listdir(unfinished):
                    os.replace(os.path.join(unfinished, name), os.path.join(folder, name))
        except OSError as error:
            raise UserError('the report folder %s cannot be written (%s): choose another --report'
                            % (folder, error.strerror or error))

    def _path(self, index):
        data = self.dataset
        return os.path.join(data.path, data.class_names[data.labels[index]], data.files[index])

    def _confusion(self):
        matrix = np.zeros((len(self.names),) * 2, np.int64)
        for _, label, _, best, _ in self.rows:
            matrix[label, best] += 1
        return matrix

    def _per_class(self, path):
        labels, ranks = np.array([row[1:3] for row in self.rows]).T
        table = [['label', 'class', 'images', 'top1', 'top5']]
        for label, name in enumerate(self.names):
            own = ranks[labels == label]
            table.append([label, name, len(own)] + (['%.6f' % (own < k).mean() for k in (1, 5)] if len(own) else
                                                    ['', '']))
        self._table(path, table)

    def _table(self, path, rows):
        with open(path, 'w', newline='', encoding='utf-8', errors='surrogateescape') as file:
            csv.writer(file).writerows(rows)

    def _draw_confusion(self, matrix, path):
        shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        count = len(self.names)
        side = 4 + 0.22 * min(count, MOST_LABELS)
        figure, axes = pyplot.subplots(figsize=(side + 1, side))
        picture = axes.imshow(shares, vmin=0, vmax=1, cmap='Blues', interpolation='nearest')
        figure.colorbar(picture, label='share of the true class')
        axes.set_xlabel('predicted')
        axes.set_ylabel('true')
        if count <= MOST_LABELS:
            axes.set_xticks(range(count))
            axes.set_xticklabels(self.names, rotation=90)
            axes.set_yticks(range(count))
            axes.set_yticklabels(self.names)
        figure.savefig(path, dpi=100, bbox_inches='tight')
        pyplot.close(figure)

    def _draw_mistakes(self, mistakes, path):
        columns = 6
        lines = max(1, -(-len(mistakes) // columns))
        figure, axes = pyplot.subplots(lines, columns, figsize=(2.2 * columns, 2.7 * lines), squeeze=False)
        for place in axes.flat:
            place.axis('off')
        for place, (index, label, _, best, share) in zip(axes.flat, mistakes):
            image, _ = read(self._path(index), decode)
            place.imshow(resize_centre_crop(image, self.dataset.config.image_size))
            place.set_title('%s\n%s %.0f %%' % (self.names[label][:26], self.names[best][:20], 100 * share), fontsize=8)
        figure.suptitle('%d most confident mistakes: true class above, prediction below' % len(mistakes))
        figure.savefig(path, dpi=100, bbox_inches='tight')
        pyplot.close(figure)
