"""Versions of the libraries that the bits of a step depend on."""
import cv2
import numpy
import PIL
import simplejpeg

from src.framework import mindspore


def versions():
    """{library: version} of MindSpore and of what makes its input."""
    return {'MindSpore': mindspore.__version__, 'NumPy': numpy.__version__, 'OpenCV': cv2.__version__,
            'Pillow': PIL.__version__, 'simplejpeg': getattr(simplejpeg, '__version__', 'unknown')}
