"""From uint8 images to the input of the network, computed on the device as a part of the compiled step."""
import numpy as np

from src.framework import Tensor, mindspore, nn, ops

# Weights of red, green and blue in grey: the luma of ITU-R recommendation BT.601. The grey conversions of Pillow
# and torchvision use the same weights.
LUMA = (0.299, 0.587, 0.114)


def network_input(images):
    """Return, by NumPy, what Preprocess makes of images without colour factors: the same bits.

    Args:
        images: (N, H, W, 3) uint8 RGB.

    Returns:
        (N, 3, H, W) float32 in [-1, 1].
    """
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) * np.float32(2 / 255) - np.float32(1)


class Preprocess(nn.Cell):
    """Turns uint8 images into the network's input: float32, channels first, range [-1, 1].

    construct(images (N, H, W, 3) uint8 RGB, color (N, 3) float32 or None) -> (N, 3, H, W) float32.

    The three columns of `color` are factors of brightness, of contrast (relative to the mean grey of the image) and
    of saturation (relative to the grey of each pixel). They are applied in this order, and the result is clipped
    after each, as torchvision's ColorJitter does. None leaves the colours as they are.
    """

    # Each change of colour is an affine map of a pixel, so it is written as a matrix that multiplies
    # (red, green, blue, 1). One matrix product replaces five operations on whole images. On a CPU, MindSpore
    # broadcasts each of those operations by lists of indices that are larger than the images.
    # Meanwhile white has the value 6, because then the single operation ReLU6 clips to the range from black to white.
    WHITE = 6.0

    def __init__(self):
        super().__init__()
        self.keep_one = self.matrix(np.diag([0, 0, 0, 1]))
        self.factor = self.matrix(np.diag([1, 1, 1, 0]))
        self.offset = self.matrix([[0, 0, 0, 1]] * 3 + [[0, 0, 0, 0]])
        self.grey = self.matrix([[*LUMA, 0]] * 3)
        self.luma = Tensor((*LUMA, 0), mindspore.float32)
        self.clip = nn.ReLU6()

    @staticmethod
    def matrix(rows):
        """Return the matrix as a Tensor, (1, rows, columns) float32."""
        return Tensor(np.array([rows], np.float32))

    def construct(self, images, color=None):
        x = ops.transpose(images.astype(mindspore.float32), (0, 3, 1, 2))
        if color is None:
            return x * (2 / 255.0) - 1      # In a graph of MindSpore 1.10, 2 / 255 without the point would be 0.
        color = color.reshape(-1, 3, 1, 1)
        brightness, contrast, saturation = color[:, 0], color[:, 1], color[:, 2]
        shape = x.shape
        x = ops.concat((x, ops.ones((shape[0], 1) + shape[2:], mindspore.float32)), 1).reshape(shape[0], 4, -1)
        x = self.clip(ops.matmul(brightness * (self.WHITE / 255) * self.factor + self.keep_one, x))
        mean = (x.mean(2) * self.luma).sum(1).reshape(-1, 1, 1)
        x = self.clip(ops.matmul(contrast * self.factor + (1 - contrast) * mean * self.offset + self.keep_one, x))
        x = self.clip(ops.matmul(saturation * self.factor[:, :3] + (1 - saturation) * self.grey, x))
        return x.reshape(shape) * (2 / self.WHITE) - 1
