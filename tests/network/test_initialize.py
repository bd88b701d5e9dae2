"""The initial weights are TF-Slim's, and a function of the seed and the name."""
import math

import numpy as np

from nasnet_a_mobile import NASNetAMobile
from src.network.initialize import initialize, truncated_normal
from src.network.merge import plain_values

FIRST_CLASSIFIER_WEIGHTS = [0.01798534020781517, -0.02202436327934265, -0.04347020760178566]


def test_initial_weights_are_tf_slims_and_a_function_of_seed_and_name():
    network = initialize(NASNetAMobile(auxiliary_size=224), 1)
    values = plain_values(network)
    again = plain_values(initialize(NASNetAMobile(), 1))
    assert all(np.array_equal(values[name], value) for name, value in again.items())
    other = initialize(NASNetAMobile(), 2)
    assert not np.array_equal(values['classifier.weight'], other.classifier.weight.asnumpy())
    # Every version of MindSpore and of NumPy gives these bits.
    assert values['classifier.weight'][0, :3].tolist() == FIRST_CLASSIFIER_WEIGHTS
    for name, value in values.items():
        if name.endswith('weight'):
            fan_out = (np.prod(value.shape[2:]) if 'depthwise' in name else value.size / value.shape[1])
            # A normal distribution that is cut off at two deviations has the standard deviation 0.8796.
            spread = 0.8796 * np.sqrt(2.6 / fan_out)
            assert abs(value.std() - spread) < 5 * spread / np.sqrt(value.size), name
            assert np.abs(value).max() <= 2 * np.sqrt(2.6 / fan_out) * 1.000001, name
        else:
            assert set(np.unique(value)) == {1.0 if name.endswith(('gamma', 'moving_variance')) else 0.0}, name


def test_draws_are_a_normal_distribution_that_is_cut_off():
    count = 200000
    draws = truncated_normal(np.random.Philox(key=[1, 2]), count)
    assert draws.shape == (count,) and draws.dtype == np.float64
    assert np.abs(draws).max() <= 2 and np.abs(draws).max() > 1.999
    # The moments of a normal distribution that is cut off at two deviations.
    density, inside = math.exp(-2) / math.sqrt(2 * math.pi), math.erf(math.sqrt(2))
    variance = 1 - 4 * density / inside
    fourth = 3 * variance - 16 * density / inside
    assert abs(draws.mean()) < 5 * math.sqrt(variance / count)
    assert abs(draws.var() - variance) < 5 * math.sqrt((fourth - variance ** 2) / count)
    # The share of the draws below some values.
    for value in (-1.5, -0.5, 0, 1, 1.9):
        share = 0.5 + math.erf(value / math.sqrt(2)) / (2 * inside)
        assert abs((draws < value).mean() - share) < 5 * math.sqrt(share * (1 - share) / count)
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / math.sqrt(count)


def test_draws_use_only_raw_words():
    """NumPy promises the stream of the raw words, and not that of its distributions."""
    class Words:
        """Gives small words, which stand for the candidate -2 with the chance 0."""

        def random_raw(self, count):
            return np.arange(count, dtype=np.uint64)
    np.testing.assert_array_equal(truncated_normal(Words(), 3), [-2] * 3)
