"""Accuracy: every image counts once, and of equal logits the one with the lower class number comes first."""
import io
import time
from types import SimpleNamespace

import numpy as np
import pytest

from src import progress
from src.dataset import Batch
from src.distributed.group import Group
from src.errors import UserError
from src.inference.evaluation import count_correct, evaluate


def test_of_equal_logits_the_lower_class_comes_first():
    logits, valid = np.zeros((4, 7), np.float32), np.ones(4, np.float32)
    assert count_correct(logits, np.array([0, 4, 5, 6]), valid).tolist() == [1, 2]
    logits[:, 6] = 1
    assert count_correct(logits, np.array([0, 4, 5, 6]), valid).tolist() == [1, 2]


def test_rows_without_an_image_do_not_count():
    logits = np.eye(4, dtype=np.float32)
    assert count_correct(logits, np.arange(4), np.array([1, 0, 1, 0])).tolist() == [2, 2]


class Images:
    """A data set of six images in batches of four. The last two rows have no image."""
    skipped = {'bad.png': 'empty file'}

    def batches(self, epoch):
        assert epoch == 0
        for first in (0, 4):
            rows = np.arange(first, first + 4)
            images = np.zeros((4, 8, 8, 3), np.uint8) + rows.astype(np.uint8).reshape(-1, 1, 1, 1)
            yield Batch(images, (rows % 6).astype(np.int32), None, (rows < 6).astype(np.float32))

    def require_few_bad(self, *_):
        """One is few."""

    def images_of_rank(self):
        return 6


def logits_of(images):
    """Give 8 logits. The largest one is of the label, except that class 3 is taken for class 7."""
    classes = images[:, 0, 0, 0].astype(int)
    return np.eye(8, dtype=np.float32)[np.where(classes == 3, 7, classes)]


def test_accuracy_is_over_the_images_that_could_be_read():
    seen = []
    accuracy = evaluate(logits_of, Images(), see=lambda first, batch, logits: seen.append((first, logits.shape)))
    assert (accuracy.top1, accuracy.top5) == (5 / 6, 1) and (accuracy.images, accuracy.skipped) == (6, 1)
    assert seen == [(0, (4, 8)), (4, (4, 8))]


def test_progress_shows_the_top_1_until_now(monkeypatch):
    def slow(images):
        time.sleep(1.2)
        return logits_of(images)
    monkeypatch.setattr(progress, 'SILENCE', 0)
    lines = io.StringIO()
    evaluate(slow, Images(), stream=lines)
    first, *_, last = lines.getvalue().split('\n')[:-1]
    assert first.startswith('evaluating: 0/6 images, compiling the network, 00:00:0')
    assert last.startswith('evaluating: 4/6 images, top-1 75.00%, 00:00:0')     # class 3 is taken for class 7


def test_accuracy_is_over_the_images_of_all_ranks():
    class Three(Group):
        """Rank 0 of 3. The other ranks have 4 images together, of which 1 is right, and 2 that were skipped."""

        def sum(self, counts):
            return counts + np.array([1, 1, 4, 2])
    accuracy = evaluate(logits_of, Images(), Three())
    assert (accuracy.top1, accuracy.top5) == (6 / 10, 7 / 10) and (accuracy.images, accuracy.skipped) == (10, 3)


def test_logits_that_are_not_finite_are_an_error():
    with pytest.raises(UserError, match='values that are not finite: the checkpoint is of a diverged run'):
        evaluate(lambda images: np.full((len(images), 8), np.nan), Images())


def test_a_data_set_without_a_readable_image_is_an_error():
    empty = SimpleNamespace(batches=lambda epoch: iter(()), skipped={}, require_few_bad=lambda *_: None,
                            images_of_rank=lambda: 0)
    with pytest.raises(UserError, match='no image of the data set could be read'):
        evaluate(logits_of, empty)
