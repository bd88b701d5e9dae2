"""From the bytes of one image file to a uint8 RGB array of the size the network takes."""
import io
import math

import cv2
import numpy as np
import simplejpeg
from PIL import Image

cv2.setNumThreads(0)    # the threads are the data set's: a pool below each of them only costs

FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF')
MAX_PIXELS = 89478485   # 256 MiB decoded, Pillow's own bound: a small file may claim any size
ATTEMPTS = 10           # tries to fit a random crop before the centre is taken
CROP_DRAWS = 2 * ATTEMPTS + 3


def decode(data, buffer=None):
    """The image in `data`, the bytes of a whole file, (H, W, 3) uint8 RGB.

    The contents decide about the format, not the file's name. Grey becomes three equal channels, 16 bits
    lose their lower 8, transparency is dropped (the colours under it show, as in torchvision's
    ImageFolder), of an animation the first frame counts, EXIF rotation is ignored, as in all published
    ImageNet training. Any damage to a JPEG that its decoder notices at all counts as damage; BMP,
    WebP and some TIFF files carry nothing to notice overwritten bytes by.

    Args:
        buffer: function from a number of bytes to a uint8 vector of at least so many, where a JPEG's pixels may
            be put, which saves fetching memory for each image. None: into a new array.

    Raises:
        ValueError: no complete image of a known format; the message is the reason in a few words.
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
    # Only Pillow knows that Adobe stores inks inverted; simplejpeg has made sure that the file is whole.
    return _decode_with_pillow(data) if inks else image


def verify(data):
    """Raise the ValueError that `decode` would raise, in half its time: a JPEG is read at 1/8 scale, in grey."""
    try:
        if data.startswith(b'\xff\xd8'):
            simplejpeg.decode_jpeg(data, 'GRAY', min_height=1, min_width=1, min_factor=8, strict=True)
            return
    except ValueError:
        pass            # damaged, or inks: `decode` tells
    decode(data)


def _decode_with_pillow(data):
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError('more than %d pixels' % MAX_PIXELS)
    except Exception:       # damaged files make Pillow raise nearly anything, here and below
        raise ValueError('not an image (%s)' % ', '.join(FORMATS))
    _check_size(image.height, image.width)
    deep = image.mode.startswith('I;16') or image.mode == 'I' and image.format == 'PNG'
    if image.mode in ('I', 'F') and not deep:
        raise ValueError('%s with 32-bit pixels of unknown range' % image.format)
    try:
        if image.format == 'PNG':
            Image.open(io.BytesIO(data), formats=FORMATS).verify()      # checksums; `load` ignores them
        image.load()
        if deep:            # Pillow's convert would clip at 255 instead of scaling
            return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
        image.info.pop('transparency', None)
        return np.array(image.convert('RGB'))
    except Exception:
        raise ValueError('truncated or corrupt %s' % image.format)


def _check_size(height, width):
    if height * width > MAX_PIXELS:
        raise ValueError('%d x %d pixels, more than %d' % (width, height, MAX_PIXELS))


def random_resized_crop(image, size, draws, min_area, out=None):
    """A random part of `image` (H, W, 3), half of the time mirrored, (size, size, 3) uint8.

    The part is `crop_box`'s, scaled by bilinear interpolation without antialiasing.

    Args:
        draws: (CROP_DRAWS,) uniform numbers in [0, 1): those of `crop_box`, then one for the mirror.
        out: contiguous array for the result, which is returned; None: a new one.
    """
    draws = draws.tolist()
    top, left, height, width = crop_box(image.shape[0], image.shape[1], draws, min_area)
    part = image[top:top + height, left:left + width]
    if draws[-1] < 0.5:
        return cv2.flip(cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR), 1, out)
    return cv2.resize(part, (size, size), out, interpolation=cv2.INTER_LINEAR)


def crop_box(height, width, draws, min_area):
    """A random box in an image of height x width pixels: (top, left, height, width).

    Inception's rule (Szegedy et al., arXiv 1409.4842, section 6) in the form torchvision gave it: a share
    of the area uniform in [min_area, 1], width / height log-uniform in [3/4, 4/3], place uniform. When ten
    such boxes do not fit, the largest centred box of an allowed shape.

    Args:
        draws: share and shape of each attempt, then y and x, in [0, 1).
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
    """The middle of `image` (H, W, 3) at evaluation scale, (size, size, 3) uint8.

    Bit for bit torchvision's Resize(round(size * 256 / 224)) and CenterCrop(size) of a Pillow image, which
    published accuracies were measured with: antialiased bilinear, 256 and 224 at the usual size.
    """
    shorter = int(round(size * 256 / 224))
    # Only a square of the middle will show: a ribbon scaled over its whole length would fill the memory.
    longest = 16 * min(image.shape[:2])
    image = _centre(image, min(image.shape[0], longest), min(image.shape[1], longest))
    height, width = image.shape[:2]
    if width <= height:
        new = shorter, int(shorter * height / width)        # width, height; rounded down, as there
    else:
        new = int(shorter * width / height), shorter
    return _centre(np.asarray(Image.fromarray(image).resize(new, Image.BILINEAR)), size, size)


def _centre(image, height, width):
    top, left = int(round((image.shape[0] - height) / 2)), int(round((image.shape[1] - width) / 2))
    return image[top:top + height, left:left + width]
