"""Random numbers are pure functions of (seed, epoch, position), plausible, and the same everywhere."""
import numpy as np
import pytest

from src.input.draws import COLOR, CROP, DROPOUT, ORDER, dropout_mask, epoch_order, uniforms


def test_the_numbers_are_the_same_on_every_machine_and_version():
    assert epoch_order(1, 0, 10).tolist() == ORDER_1_0
    np.testing.assert_array_equal(uniforms(1, 2, CROP, 3, 1, 3), [UNIFORMS_1_2_CROP_3])


@pytest.mark.parametrize('count', [0, 1, 2, 1000])
def test_an_order_is_a_permutation(count):
    order = epoch_order(7, 3, count)
    assert order.dtype == np.int64 and sorted(order) == list(range(count))


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(epoch_order(seed, epoch, 100)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@pytest.mark.parametrize('columns', [1, 3, 4, 23])
def test_a_row_depends_only_on_its_position(columns):
    whole = uniforms(1, 5, CROP, 0, 40, columns)
    assert whole.shape == (40, columns) and whole.dtype == np.float64
    for first, rows in ((0, 1), (17, 1), (8, 32), (39, 1), (5, 0)):
        np.testing.assert_array_equal(uniforms(1, 5, CROP, first, rows, columns), whole[first:first + rows])


def test_no_number_comes_twice():
    drawn = [uniforms(seed, epoch, stream, 0, 50, 5) for seed in (0, 1) for epoch in (0, 1)
             for stream in (ORDER, CROP, COLOR, DROPOUT)]
    assert np.unique(drawn).size == 2 * 2 * 4 * 50 * 5


def test_numbers_are_uniform():
    drawn = uniforms(0, 0, CROP, 0, 5000, 20)
    assert drawn.min() >= 0 and drawn.max() < 1
    # The bounds are five standard errors: of 5000 numbers in a column, and of 100,000 numbers in ten bins.
    assert np.abs(drawn.mean(0) - 0.5).max() < 5 * np.sqrt(1 / 12 / 5000)
    assert np.abs(np.histogram(drawn, 10, (0, 1))[0] - 10000).max() < 5 * 100
    neighbours = np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(1e5)


def test_the_largest_seeds_epochs_and_positions_work():
    assert uniforms(2 ** 31 - 1, 10 ** 6, CROP, 2 ** 50, 2, 23).shape == (2, 23)


@pytest.mark.parametrize('keep_prob', [0.25, 0.5, 0.9])
def test_a_dropout_mask_keeps_its_share_and_the_mean(keep_prob):
    mask = dropout_mask(1, 0, 0, 100, 1056, keep_prob)
    assert mask.shape == (100, 1056) and mask.dtype == np.float32
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / keep_prob)}
    assert abs(mask.mean() - 1) < 5 * np.sqrt((1 / keep_prob - 1) / mask.size)


def test_a_dropout_mask_of_keep_prob_one_is_ones():
    assert (dropout_mask(1, 0, 0, 8, 96, 1.0) == 1).all()


def test_a_dropout_row_depends_only_on_its_position():
    np.testing.assert_array_equal(dropout_mask(1, 4, 6, 3, 96, 0.5), dropout_mask(1, 4, 0, 10, 96, 0.5)[6:9])


ORDER_1_0 = [3, 5, 2, 9, 7, 0, 8, 6, 1, 4]
UNIFORMS_1_2_CROP_3 = [0.5244794198342909, 0.8160846990878203, 0.5905581336189876]
