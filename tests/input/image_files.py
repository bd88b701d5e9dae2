"""Image files of many kinds, made in memory."""
import io
import struct
import zlib

import cv2
import numpy as np
import simplejpeg
from PIL import Image


def picture(height=75, width=100, seed=0):
    """Smooth colours, (height, width, 3) uint8."""
    noise = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


def encode(image, kind, **options):
    """Bytes of a file that Pillow writes. `image` is an array or a Pillow image."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rotated(kind):
    """A file whose EXIF data says that it must be turned by 90 degrees."""
    exif = Image.Exif()
    exif[274] = 6
    return encode(picture(), kind, exif=exif)


def with_segment(jpeg, code, body):
    """A JPEG with one more segment before all others."""
    return jpeg[:2] + bytes((0xff, code)) + struct.pack('>H', len(body) + 2) + body + jpeg[2:]


def without_segment(jpeg, code):
    """A JPEG without the first segment of this code."""
    begin = jpeg.index(bytes((0xff, code)))
    return jpeg[:begin] + jpeg[begin + 2 + int.from_bytes(jpeg[begin + 2:begin + 4], 'big'):]


def padded(jpeg, padding):
    """A JPEG with bytes before its end marker."""
    return jpeg[:-2] + padding + jpeg[-2:]


def chunk(kind, data):
    """A chunk of a PNG."""
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def with_chunk(png, kind, data):
    """A PNG with one more chunk behind the first one."""
    return png[:33] + chunk(kind, data) + png[33:]


def subsampled_jpeg(factors, seed=0, size=2):
    """A JPEG with any sampling factors. Pillow writes only three kinds of them.

    Each block of 8 x 8 samples has one random value.

    Args:
        factors: list of a (horizontal, vertical) factor for each component.
        size: height and width of the picture, in units of the largest factor of 8 samples.
    """
    random, previous = np.random.RandomState(seed), [0] * len(factors)
    numbers = []
    for _ in range(size * size):
        for component, (horizontal, vertical) in enumerate(factors):
            for value in random.randint(-500, 500, horizontal * vertical).tolist():
                numbers += [value - previous[component], None]      # None: the other 63 coefficients are 0.
                previous[component] = value
    width, height = (8 * size * max(factor[axis] for factor in factors) for axis in (0, 1))
    return _jpeg(0xc0, height, width, factors, numbers, b'\0\x3f\0')


def lossless_jpeg(image):
    """A lossless JPEG (frame SOF3) of an array (H, W) or (H, W, 3) uint8. The sample before predicts each sample."""
    samples = image.reshape(image.shape[0], image.shape[1], -1).astype(int)
    before = np.concatenate([np.concatenate([np.full_like(samples[:1, :1], 128), samples[:-1, :1]]),
                             samples[:, :-1]], 1)
    return _jpeg(0xc3, image.shape[0], image.shape[1], [(1, 1)] * samples.shape[2],
                 (samples - before).ravel().tolist(), b'\1\0\0')


def _jpeg(frame, height, width, factors, numbers, parameters):
    """A JPEG of numbers in Huffman code. All codes of their length have 4 bits. None is the code for `no more'."""
    bits = ''.join('0' if n is None else format(abs(n).bit_length(), '04b')
                   + (format(n if n > 0 else n + (1 << abs(n).bit_length()) - 1, '0%db' % abs(n).bit_length())
                      if n else '') for n in numbers)
    bits += '1' * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, 'big').replace(b'\xff', b'\xff\0')
    count = bytes([len(factors)])
    segments = [
        (0xdb, b'\0' + b'\1' * 64),
        (frame, b'\x08' + struct.pack('>HH', height, width) + count
         + b''.join(bytes((n + 1, 16 * h + v, 0)) for n, (h, v) in enumerate(factors))),
        (0xc4, b'\0' + b'\0\0\0\x0c' + bytes(12) + bytes(range(12))),   # twelve codes of 4 bits, for 0 to 11 bits
        (0xc4, b'\x10' + b'\1' + bytes(15) + b'\0'),                     # one code of 1 bit
        (0xda, count + b''.join(bytes((n + 1, 0)) for n in range(len(factors))) + parameters)]
    return b'\xff\xd8' + b''.join(bytes((0xff, code)) + struct.pack('>H', len(body) + 2) + body
                                  for code, body in segments) + scan + b'\xff\xd9'


def of_each_format(height=75, width=100):
    """{format: list of files of different kinds}."""
    image = picture(height, width)
    pillow = Image.fromarray(image)
    grey, inks, palette = pillow.convert('L'), pillow.convert('CMYK'), pillow.quantize(64)
    alpha = pillow.copy()
    alpha.putalpha(grey)
    deep = np.asarray(grey).astype(np.uint16) * 257
    frames = dict(save_all=True, append_images=[pillow.rotate(90), pillow.rotate(180)])
    jpeg = encode(pillow, 'JPEG')
    return {
        'JPEG': [jpeg, encode(grey, 'JPEG'), encode(inks, 'JPEG'), without_segment(encode(inks, 'JPEG'), 0xee),
                 encode(pillow, 'JPEG', progressive=True), rotated('JPEG'), padded(jpeg, bytes(20)),
                 encode(pillow, 'JPEG', icc_profile=bytes(3000)), jpeg + b'trailing', lossless_jpeg(image),
                 lossless_jpeg(np.asarray(grey)), subsampled_jpeg([(1, 4), (1, 1), (1, 1)]),
                 subsampled_jpeg([(2, 2), (2, 1), (1, 2)])]
                + [encode(pillow, 'JPEG', subsampling=number) for number in (0, 1, 2)]
                + [simplejpeg.encode_jpeg(image, colorsubsampling=name) for name in ('411', '440')],
        'PNG': [encode(each, 'PNG') for each in (pillow, grey, palette, alpha, pillow.convert('1'))]
               + [cv2.imencode('.png', deep)[1].tobytes(), rotated('PNG'), encode(pillow, 'PNG', **frames),
                  with_chunk(encode(pillow, 'PNG'), b'iCCP', b'icc\0\0' + zlib.compress(bytes(3000)))],
        'GIF': [encode(pillow, 'GIF'), encode(grey, 'GIF'), encode(pillow, 'GIF', **frames),
                encode(palette, 'GIF', transparency=3)],
        'BMP': [encode(each, 'BMP') for each in (pillow, grey, palette, pillow.convert('1'))],
        'WEBP': [encode(pillow, 'WEBP'), encode(pillow, 'WEBP', lossless=True), encode(alpha, 'WEBP'),
                 encode(pillow, 'WEBP', **frames), rotated('WEBP')],
        'TIFF': [encode(pillow, 'TIFF', compression=name)
                 for name in (None, 'tiff_lzw', 'tiff_adobe_deflate', 'jpeg', 'packbits')]
                + [encode(pillow.convert('1'), 'TIFF', compression='group4'), encode(Image.fromarray(deep), 'TIFF'),
                   encode(palette, 'TIFF'), encode(inks, 'TIFF'), encode(alpha, 'TIFF', compression='tiff_lzw'),
                   encode(pillow, 'TIFF', tiffinfo={274: 6})]}
