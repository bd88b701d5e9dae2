"""From the bytes of one image file to a uint8 RGB array of the size that the network takes."""
import contextlib
import ctypes
import io
import logging
import math
import warnings

import cv2
import numpy as np
import simplejpeg
from PIL import Image, _imaging

from src.input.plain import PNG_SIGNATURE, plain_jpeg, plain_png

FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF')
MAX_PIXELS = 178956970  # 512 MiB after decoding, Pillow's own bound. Even a small file may claim any size.
# Parts of the reasons for which TurboJPEG and simplejpeg refuse a JPEG that may be whole. Some damage gives the same
# reasons, but then Pillow refuses the file too.
NOT_FOR_TURBOJPEG = ('subsampling', 'KeyError', 'color conversion', 'JPEG process')
ATTEMPTS = 10           # number of random crops that are tried before the centre is taken, as in torchvision
CROP_DRAWS = 2 * ATTEMPTS + 3   # random numbers for one crop: two for each attempt, two for the place, one mirror

# What Pillow and its libtiff have to say about a file is in the error that they raise, or says nothing about pixels.
warnings.filterwarnings('ignore', module=r'PIL\b')
logging.getLogger('PIL').addHandler(logging.NullHandler())
with contextlib.suppress(AttributeError):       # Pillow may have been built without libtiff.
    _libtiff = ctypes.CDLL(_imaging.__file__)
    _libtiff.TIFFSetErrorHandler(None)
    _libtiff.TIFFSetWarningHandler(None)


def decode(data, buffer=None):
    """Decode one image. Nothing else in this project decides whether a file is an image.

    The contents decide the format, and the file's name does not matter. A grey image gets three equal channels.
    Of 16 bits the upper 8 are kept. Transparency is dropped, so the colours under it show, as in torchvision's
    ImageFolder. The first frame of an animation is taken. EXIF rotation is ignored, as in all published ImageNet
    training. The orientation of a TIFF is a part of that format, and Pillow follows it.

    A JPEG is read only if TurboJPEG decodes it without any warning about pixels. What is wrong in metadata or after
    the pixels does not matter (src/input/plain.py). Some rare JPEGs are decoded by Pillow, because TurboJPEG does not
    know their kind: unusual chroma subsampling and lossless compression. In these, and in BMP, WebP and some TIFF
    files, overwritten bytes can stay unnoticed.

    Args:
        data: all bytes of a file.
        buffer: None, or a function that takes a number of bytes and returns a uint8 vector of at least this size.
            The pixels of a JPEG may be written there. This saves allocating memory for each image.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the data is not a complete image of a known format. The message says why, in one line, with the
            words of the library that decodes it.
    """
    if not data:
        raise ValueError('empty file')
    if data.startswith(b'\xff\xd8'):
        return _decode_jpeg(data, buffer)
    if data.startswith(PNG_SIGNATURE):
        data = plain_png(data)
    return _decode_with_pillow(data)


def _decode_jpeg(data, buffer):
    image, reason = _decode_strictly(data, buffer)
    if image is None:
        data = plain_jpeg(data)
        image, reason = _decode_strictly(data, buffer)
    if image is None and 'extraneous bytes before marker 0xd9' in reason:
        image, _ = _decode_strictly(plain_jpeg(data, padding=False), buffer)
    if image is None and any(part in reason for part in NOT_FOR_TURBOJPEG):
        image = _decode_with_pillow(data)
    if image is None:
        raise ValueError('truncated or corrupt JPEG (%s)' % reason)
    return image


def _decode_strictly(data, buffer):
    """Return (image, None), or (None, reason) if TurboJPEG has anything to say about a JPEG."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except Exception as error:      # also a KeyError, because simplejpeg has no name for 4:4:1
        return None, _words(error)
    _check_size(height, width)
    inks = colorspace in ('CMYK', 'YCCK')
    try:
        pixels = None if buffer is None or inks else buffer(height * width * 3)
        image = simplejpeg.decode_jpeg(data, 'CMYK' if inks else 'RGB', strict=True, buffer=pixels)
    except ValueError as error:
        return None, _words(error)
    # Adobe stores the inks inverted, and only Pillow knows this. So Pillow decodes the image again, after simplejpeg
    # has made sure that the file is complete.
    return (_decode_with_pillow(plain_jpeg(data)) if inks else image), None


def _decode_with_pillow(data):
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError('more than %d pixels' % MAX_PIXELS)
    except Exception:       # On damaged files Pillow raises errors of nearly any type, here and below.
        raise ValueError(_why_not_opened(data))
    _check_size(image.height, image.width)
    deep = image.mode.startswith('I;16') or image.mode == 'I' and image.format == 'PNG'
    if image.mode in ('I', 'F') and not deep:
        raise ValueError('%s with 32-bit pixels of unknown range' % image.format)
    try:
        image.load()
        if deep:            # Pillow's convert would clip 16-bit values at 255 instead of scaling them.
            return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
        image.info.pop('transparency', None)
        return np.array(image.convert('RGB'))
    except Exception as error:
        raise ValueError('truncated or corrupt %s (%s)' % (image.format, _words(error)))


def _why_not_opened(data):
    """Say why Pillow opens no image. It asks all its readers, and keeps the reason of the right one to itself."""
    for name in FORMATS:
        reader, accepts = Image.OPEN[name]
        if accepts(data[:16]):
            try:
                reader(io.BytesIO(data), '')
            except Exception as error:
                return 'truncated or corrupt %s (%s)' % (name, _words(error))
    return 'not an image (%s)' % ', '.join(FORMATS)


def _words(error):
    """The message of an exception in one line, with its type where the message says little without it."""
    words = ' '.join(str(error).split())
    return words if ' ' in words else ('%s %s' % (type(error).__name__, words)).rstrip()


def _check_size(height, width):
    if height * width > MAX_PIXELS:
        raise ValueError('%d x %d pixels, more than %d' % (width, height, MAX_PIXELS))


def random_resized_crop(image, size, draws, min_area, out=None):
    """Cut out a random part of an image, scale it, and mirror it with probability 1/2.

    `crop_box` chooses the part. It is scaled by bilinear interpolation without antialiasing.

    Args:
        image: (H, W, 3) uint8.
        size: height and width of the result in pixels.
        draws: (CROP_DRAWS,) float64, uniform numbers in [0, 1). The last one decides about the mirror, and the
            others are for `crop_box`.
        min_area: see `crop_box`.
        out: None, or a contiguous array (size, size, 3) uint8 that takes the result.

    Returns:
        (size, size, 3) uint8; this is `out` if `out` is given.
    """
    draws = draws.tolist()
    top, left, height, width = crop_box(image.shape[0], image.shape[1], draws, min_area)
    part = image[top:top + height, left:left + width]
    if draws[-1] < 0.5:
        return cv2.flip(cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR), 1, out)
    return cv2.resize(part, (size, size), out, interpolation=cv2.INTER_LINEAR)


def crop_box(height, width, draws, min_area):
    """Choose a random box in an image.

    This is Inception's rule (Szegedy et al., arXiv 1409.4842, section 6) in the form of torchvision's
    RandomResizedCrop. The box's share of the image's area is uniform in [min_area, 1]. The logarithm of its
    width / height is uniform in [log(3/4), log(4/3)]. Its place is uniform. If none of ATTEMPTS such boxes fits into
    the image, the box is the largest centred one whose width / height is in [3/4, 4/3].

    Args:
        height, width: size of the image in pixels.
        draws: list of at least 2 * ATTEMPTS + 2 numbers in [0, 1): area and shape for each attempt, then the
            vertical and the horizontal place.
        min_area: smallest share of the image's area, a float in (0, 1].

    Returns:
        (top, left, height, width) of the box in pixels.
    """
    for share, shape in zip(draws[0:2 * ATTEMPTS:2], draws[1:2 * ATTEMPTS:2]):
        area = height * width * (min_area + (1 - min_area) * share)
        aspect = math.exp((2 * shape - 1) * math.log(4 / 3))
        w, h = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
        if 0 < w <= width and 0 < h <= height:
            y, x = draws[2 * ATTEMPTS:2 * ATTEMPTS + 2]
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    w, h = min(width, int(round(height * 4 / 3))), min(height, int(round(width * 4 / 3)))
    return (height - h) // 2, (width - w) // 2, h, w


def resize_centre_crop(image, size):
    """Scale an image for evaluation and cut out its centre.

    The result has the same bits as torchvision's Resize(round(size * 256 / 224)) and CenterCrop(size) of a Pillow
    image. Published accuracies were measured with these. At the usual size the shorter side is scaled to 256
    pixels and the crop has 224. The interpolation is bilinear with antialiasing.

    Args:
        image: (H, W, 3) uint8.
        size: height and width of the result in pixels.

    Returns:
        (size, size, 3) uint8.
    """
    shorter = int(round(size * 256 / 224))
    # The result shows only a square of the middle. So a very long image is shortened first: scaled as a whole, it
    # could fill the memory.
    longest = 16 * min(image.shape[:2])
    image = _centre(image, min(image.shape[0], longest), min(image.shape[1], longest))
    height, width = image.shape[:2]
    if width <= height:
        new_size = shorter, int(shorter * height / width)       # (width, height), rounded down as torchvision does
    else:
        new_size = int(shorter * width / height), shorter
    return _centre(np.asarray(Image.fromarray(image).resize(new_size, Image.BILINEAR)), size, size)


def _centre(image, height, width):
    top, left = int(round((image.shape[0] - height) / 2)), int(round((image.shape[1] - width) / 2))
    return image[top:top + height, left:left + width]
