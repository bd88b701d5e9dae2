"""Every kind of file gives the right RGB image or a reason; crops follow the published rules."""
import io
import math
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from src.input.image import CROP_DRAWS, MAX_PIXELS, crop_box, decode, random_resized_crop, resize_centre_crop


def picture(height=75, width=100, seed=0):
    """Smooth colours, (height, width, 3) uint8."""
    noise = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


def encode(image, kind, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


JPEG = encode(picture(), 'JPEG', quality=95)
PNG = encode(picture(), 'PNG')


def test_a_jpeg_has_the_pixels_pillow_gives():
    image = decode(JPEG)
    assert image.shape == (75, 100, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(JPEG))))


@pytest.mark.parametrize('kind, options', [
    ('PNG', {}), ('BMP', {}), ('TIFF', {}), ('TIFF', {'compression': 'tiff_lzw'}),
    ('WEBP', {'lossless': True})])
def test_lossless_formats_give_the_picture(kind, options):
    np.testing.assert_array_equal(decode(encode(picture(), kind, **options)), picture())


@pytest.mark.parametrize('kind', ['GIF', 'WEBP'])
def test_lossy_formats_give_nearly_the_picture(kind):
    assert np.abs(decode(encode(picture(), kind)).astype(int) - picture()).mean() < 12


def test_an_animation_gives_its_first_frame():
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (50, 200)]
    assert (decode(encode(frames[0], 'GIF', save_all=True, append_images=frames[1:])) == 50).all()


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_grey_becomes_three_equal_channels(kind):
    grey = Image.fromarray(picture()).convert('L')
    image = decode(encode(grey, kind))
    assert image.shape == (75, 100, 3)
    assert (image == image[:, :, :1]).all()
    assert np.abs(image[:, :, 0].astype(int) - np.asarray(grey)).max() < 12


def test_a_cmyk_jpeg_has_its_colours():
    image = decode(encode(Image.fromarray(picture()).convert('CMYK'), 'JPEG', quality=98))
    assert np.abs(image.astype(int) - picture()).mean() < 3


def test_a_ycck_jpeg_is_what_pillow_says():
    data = encode(Image.fromarray(picture()).convert('CMYK'), 'JPEG')
    transform = data.index(b'Adobe') + 11       # 0: CMYK as it is, 2: YCCK
    data = data[:transform] + b'\2' + data[transform + 1:]
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert('RGB')))


@pytest.mark.parametrize('channels', [1, 3])
def test_a_16_bit_png_loses_its_lower_bits_and_keeps_its_scale(channels):
    deep = np.arange(200 * 300 * channels, dtype=np.uint16).reshape(200, 300, channels)
    image = decode(cv2.imencode('.png', deep)[1].tobytes())
    np.testing.assert_array_equal(image, np.broadcast_to((deep >> 8)[:, :, ::-1], (200, 300, 3)))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('transparency', [3, bytes(range(256))], ids=['one', 'table'])
def test_the_transparency_of_a_palette_is_dropped(transparency):
    image = Image.fromarray(picture()).quantize(64)
    np.testing.assert_array_equal(decode(encode(image, 'PNG', transparency=transparency)),
                                  np.asarray(image.convert('RGB')))


@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_alpha_is_dropped(kind):
    alpha = np.random.RandomState(1).randint(0, 256, (75, 100, 1)).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode(np.concatenate([picture(), alpha], 2), kind)), picture())


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_exif_rotation_is_ignored(kind):
    exif = Image.Exif()
    exif[274] = 6
    assert decode(encode(picture(), kind, exif=exif)).shape == (75, 100, 3)


def middle(data, count=40):
    """`data` with `count` bytes of its middle overwritten."""
    half = len(data) // 2
    return data[:half] + bytes(count) + data[half + count:]


def with_checksum(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


CMYK = encode(Image.fromarray(picture()).convert('CMYK'), 'JPEG')
HUGE = (b'\x89PNG\r\n\x1a\n' + with_checksum(b'IHDR', struct.pack('>IIBBBBB', 10000, 10000, 8, 2, 0, 0, 0))
        + with_checksum(b'IDAT', zlib.compress(b'')) + with_checksum(b'IEND', b''))
UNREADABLE = {
    'empty': (b'', 'empty file'),
    'text': (b'this is not an image', 'not an image'),
    'web page': (b'<!DOCTYPE html><html>404</html>', 'not an image'),
    'jpeg: two bytes': (JPEG[:2], 'damaged JPEG header'),
    'jpeg: half the header': (JPEG[:150], 'damaged JPEG header'),
    'jpeg: half': (JPEG[:len(JPEG) // 2], 'truncated or corrupt JPEG'),
    'jpeg: all but 200 bytes': (JPEG[:-200], 'truncated or corrupt JPEG'),
    'jpeg: all but 2 bytes': (JPEG[:-2], 'truncated or corrupt JPEG'),
    'jpeg: overwritten': (middle(JPEG), 'truncated or corrupt JPEG'),
    'cmyk: all but 200 bytes': (CMYK[:-200], 'truncated or corrupt JPEG'),
    'cmyk: overwritten': (middle(CMYK), 'truncated or corrupt JPEG'),
    'png: half': (PNG[:len(PNG) // 2], 'truncated or corrupt PNG'),
    'png: all but 200 bytes': (PNG[:-200], 'truncated or corrupt PNG'),
    'png: overwritten': (middle(PNG), 'truncated or corrupt PNG'),
    'png: one bit': (middle(PNG, 0)[:-30] + bytes([PNG[-30] ^ 1]) + PNG[-29:], 'truncated or corrupt PNG'),
    'gif: half': (lambda gif: gif[:len(gif) // 2], 'GIF'),
    'webp: half': (lambda webp: webp[:len(webp) // 2], 'WEBP'),
    'bmp: half': (lambda bmp: bmp[:len(bmp) // 2], 'truncated or corrupt BMP'),
    'tiff: half': (lambda tiff: tiff[:len(tiff) // 2], 'TIFF'),
    'huge': (HUGE, '10000 x 10000 pixels, more than %d' % MAX_PIXELS),
    'tiff: numbers': (encode(np.ones((5, 5), np.float32), 'TIFF'), 'TIFF with 32-bit pixels'),
}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('case', sorted(UNREADABLE))
def test_a_damaged_file_raises_with_its_reason(case):
    data, reason = UNREADABLE[case]
    if callable(data):
        data = data(encode(picture(), case.split(':')[0].upper()))
    with pytest.raises(ValueError) as caught:
        decode(data)
    assert reason in str(caught.value)


@pytest.mark.parametrize('shape', [(1, 1), (1, 300), (300, 1), (3, 2000), (224, 224), (256, 256), (50, 40)])
def test_any_shape_gives_the_size_asked_for(shape):
    image = picture(*shape)
    draws = np.random.RandomState(0).uniform(size=CROP_DRAWS)
    for result in (random_resized_crop(image, 64, draws, 0.08), resize_centre_crop(image, 64)):
        assert result.shape == (64, 64, 3) and result.dtype == np.uint8


def test_a_ribbon_costs_no_more_than_its_middle():
    ribbon = np.zeros((1, 2000000, 3), np.uint8)
    ribbon[:, 1000000 - 200:1000000 + 200] = 255
    assert (resize_centre_crop(ribbon, 64) == 255).all()


@pytest.mark.parametrize('shape', [(375, 500), (500, 375), (333, 500), (224, 224), (100, 37), (257, 256)])
@pytest.mark.parametrize('size', [72, 224, 299])
def test_evaluation_shows_what_resize_and_centre_crop_of_a_pillow_image_show(shape, size):
    image = picture(*shape)
    height, width = shape
    shorter = {72: 82, 224: 256, 299: 342}[size]
    new_height, new_width = shorter * height // min(shape), shorter * width // min(shape)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.BILINEAR)
    left, top = int(round((new_width - size) / 2.)), int(round((new_height - size) / 2.))
    np.testing.assert_array_equal(resize_centre_crop(image, size),
                                  np.asarray(resized.crop((left, top, left + size, top + size))))


def boxes(height, width, min_area, count=4000):
    return np.array([crop_box(height, width, draws.tolist(), min_area)
                     for draws in np.random.RandomState(0).uniform(size=(count, CROP_DRAWS))])


def test_crops_have_the_area_shape_and_place_of_the_rule():
    # In a large square nearly no attempt fails for shares below 3/4, so the shares are distributed as they are drawn.
    top, left, height, width = boxes(3000, 3000, 0.08).T
    share, aspect = height * width / 9e6, width / height
    assert share.min() > 0.0799 and share.max() <= 1
    assert aspect.min() > 0.7495 and aspect.max() < 1.3345
    small = share[share < 0.7]
    assert abs(small.mean() - 0.39) < 0.015                     # uniform over 0.08..0.7
    assert abs(np.log(aspect).mean()) < 0.015                   # as many are higher than wide as the other way round
    assert abs((np.log(aspect) < math.log(4 / 3) / 2).mean() - 0.75) < 0.03
    free = (height < 2000) & (width < 2000)
    assert abs((top[free] / (3000 - height[free])).mean() - 0.5) < 0.02
    assert abs((left[free] / (3000 - width[free])).mean() - 0.5) < 0.02


@pytest.mark.parametrize('shape', [(375, 500), (7, 5), (1, 1), (1000, 3), (2, 400)])
def test_crops_lie_inside_the_image(shape):
    top, left, height, width = boxes(shape[0], shape[1], 0.08, 500).T
    assert (top >= 0).all() and (left >= 0).all() and (height > 0).all() and (width > 0).all()
    assert (top + height <= shape[0]).all() and (left + width <= shape[1]).all()


@pytest.mark.parametrize('shape, box', [((30, 300), (0, 130, 30, 40)), ((300, 30), (130, 0, 40, 30)),
                                        ((90, 100), (0, 0, 90, 100))])
def test_when_no_attempt_fits_the_centre_is_taken(shape, box):
    assert crop_box(shape[0], shape[1], [0.999] * CROP_DRAWS, 1) == box


def test_half_of_the_crops_are_mirrored_and_nothing_else_changes():
    image = picture()
    draws = np.random.RandomState(0).uniform(size=CROP_DRAWS)
    results = [random_resized_crop(image, 32, np.append(draws[:-1], mirror), 0.08) for mirror in (0.499, 0.5)]
    np.testing.assert_array_equal(results[0], results[1][:, ::-1])
    assert not np.array_equal(*results)


def test_a_crop_is_the_box_scaled():
    image = picture(40, 40)
    draws = np.full(CROP_DRAWS, 0.5)
    top, left, height, width = crop_box(40, 40, draws.tolist(), 0.25)
    assert height == width
    np.testing.assert_array_equal(random_resized_crop(image, height, draws, 0.25),
                                  image[top:top + height, left:left + width])


def test_decoding_leaves_threads_to_the_data_set():
    assert cv2.getNumThreads() == 1 or os.cpu_count() == 1


def test_given_memory_changes_nothing():
    memory = np.empty(100000, np.uint8)
    image = decode(JPEG, lambda size: memory)
    assert np.shares_memory(image, memory)
    np.testing.assert_array_equal(image, decode(JPEG))
    out = np.zeros((3, 48, 48, 3), np.uint8)
    for mirror in (0.2, 0.8):
        draws = np.full(CROP_DRAWS, mirror)
        random_resized_crop(image, 48, draws, 0.25, out[1])
        np.testing.assert_array_equal(out[1], random_resized_crop(image, 48, draws, 0.25))
    assert not out[[0, 2]].any()
