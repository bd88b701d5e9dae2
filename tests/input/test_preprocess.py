"""The input of the network and its colours, against float64."""
import numpy as np

from src.framework import Tensor
from src.input.preprocess import LUMA, Preprocess


def test_preprocess_against_float64(mode):
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (3, 9, 7, 3)).astype(np.uint8)
    color = random.uniform(0.6, 1.4, (3, 3)).astype(np.float32)
    x = images.transpose(0, 3, 1, 2) / 255.0
    plain = Preprocess()(Tensor(images)).asnumpy()
    np.testing.assert_allclose(plain, 2 * x - 1, atol=1e-6)
    luma = np.reshape(LUMA, (1, 3, 1, 1))
    brightness, contrast, saturation = color.astype(np.float64).T.reshape(3, 3, 1, 1, 1)
    x = np.clip(x * brightness, 0, 1)
    mean = (x * luma).sum(1, keepdims=True).mean((2, 3), keepdims=True)
    x = np.clip(mean + (x - mean) * contrast, 0, 1)
    grey = (x * luma).sum(1, keepdims=True)
    x = np.clip(grey + (x - grey) * saturation, 0, 1)
    np.testing.assert_allclose(Preprocess()(Tensor(images), Tensor(color)).asnumpy(), 2 * x - 1, atol=1e-6)
