"""From the bytes of one image file to a uint8 RGB array of the size that the network takes."""
import io
import math

import cv2
import numpy as np
import simplejpeg
from PIL import Image

FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF')
MAX_PIXELS = 89478485   # 256 MiB after decoding, Pillow's own bound. Even a small file may claim any size.
ATTEMPTS = 10           # number of random crops that are tried before the centre is taken, as in torchvision
CROP_DRAWS = 2 * ATTEMPTS + 3   # random numbers for one crop: two for each attempt, two for the place, one mirror


def decode(data, buffer=None):
    """Decode one image.

    The contents decide the format, and the file's name does not matter. A grey image gets three equal channels.
    Of 16 bits the upper 8 are kept. Transparency is dropped, so the colours under it show, as in torchvision's
    ImageFolder. The first frame of an animation is taken. EXIF rotation is ignored, as in all published ImageNet
    training.

    Every damage that the JPEG decoder reports at all makes a JPEG unreadable. BMP, WebP and some TIFF files have no
    checksum, so overwritten bytes in them can stay unnoticed.

    Args:
        data: all bytes of a file.
        buffer: None, or a function that takes a number of bytes and returns a uint8 vector of at least this size.
            The pixels of a JPEG may be written there. This saves allocating memory for each image.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the data is not a complete image of a known format. The message says why in a few words.
    """
    if not data:
        raise ValueError('empty file')
    if not data.startswith(b'\xff\xd8'):
        return _decode_with_pillow(data)
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        raise ValueError('damaged JPEG header')
    _check_size(height, width)
    inks = colorspace in ('CMYK', 'YCCK')
    try:
        pixels = None if buffer is None or inks else buffer(height * width * 3)
        image = simplejpeg.decode_jpeg(data, 'CMYK' if inks else 'RGB', strict=True, buffer=pixels)
    except ValueError as error:
        raise ValueError('truncated or corrupt JPEG (%s)' % error)
    # Adobe stores the inks inverted, and only Pillow knows this. So Pillow decodes the image again, after simplejpeg
    # has made sure that the file is complete.
    return _decode_with_pillow(data) if inks else image


def verify(data):
    """Check that `decode` accepts an image. This takes half the time, because a JPEG is read at 1/8 scale in grey.

    Args:
        data: all bytes of a file.

    Raises:
        ValueError: the error that `decode` raises.
    """
    try:
        if data.startswith(b'\xff\xd8'):
            simplejpeg.decode_jpeg(data, 'GRAY', min_height=1, min_width=1, min_factor=8, strict=True)
            return
    except ValueError:
        pass            # The JPEG is damaged, or its colours are inks. `decode` finds out which.
    decode(data)


def _decode_with_pillow(data):
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError('more than %d pixels' % MAX_PIXELS)
    except Exception:       # On damaged files Pillow raises errors of nearly any type, here and below.
        raise ValueError('not an image (%s)' % ', '.join(FORMATS))
    _check_size(image.height, image.width)
    deep = image.mode.startswith('I;16') or image.mode == 'I' and image.format == 'PNG'
    if image.mode in ('I', 'F') and not deep:
        raise ValueError('%s with 32-bit pixels of unknown range' % image.format)
    try:
        if image.format == 'PNG':
            Image.open(io.BytesIO(data), formats=FORMATS).verify()      # Only this checks checksums, not `load`.
        image.load()
        if deep:            # Pillow's convert would clip 16-bit values at 255 instead of scaling them.
            return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
        image.info.pop('transparency', None)
        return np.array(image.convert('RGB'))
    except Exception:
        raise ValueError('truncated or corrupt %s' % image.format)


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
