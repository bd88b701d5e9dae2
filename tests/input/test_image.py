"""Every kind of file gives the right RGB image or a reason; crops follow the published rules."""
import io
import itertools
import math
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from src.input.image import CROP_DRAWS, MAX_PIXELS, crop_box, decode, random_resized_crop, resize_centre_crop
from tests.helpers import ROOT
from tests.input import image_files
from tests.input.image_files import chunk, encode, padded, picture, rotated, with_chunk, with_segment, without_segment

pytestmark = pytest.mark.smoke

JPEG = encode(picture(), 'JPEG', quality=95)
PNG = encode(picture(), 'PNG')
SOUND = image_files.of_each_format()


def pillow_says(data):
    """The RGB pixels that Pillow reads."""
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


def has_its_own_test(data):
    """Whether an image is a lossless JPEG or has 16 bits."""
    return b'\xff\xc3' in data or Image.open(io.BytesIO(data)).mode.startswith('I')


@pytest.mark.parametrize('kind, number', [(kind, number) for kind, images in SOUND.items()
                                          for number, data in enumerate(images) if not has_its_own_test(data)])
def test_each_kind_of_file_has_the_pixels_pillow_gives(kind, number):
    data = SOUND[kind][number]
    image = decode(data)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    np.testing.assert_array_equal(image, pillow_says(data))


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
    assert decode(rotated(kind)).shape == (75, 100, 3)


@pytest.mark.parametrize('orientation, turned', [(1, picture()), (3, picture()[::-1, ::-1]),
                                                 (6, np.rot90(picture(), -1)), (8, np.rot90(picture()))])
def test_the_orientation_of_a_tiff_is_followed(orientation, turned):
    for compression in (None, 'tiff_lzw'):
        data = encode(picture(), 'TIFF', tiffinfo={274: orientation}, compression=compression)
        np.testing.assert_array_equal(decode(data), turned)


# The sampling factors of `cjpeg -sample`. The first four are also common elsewhere.
FACTORS = ['1x1,1x1,1x1', '2x1,1x1,1x1', '2x2,1x1,1x1', '4x1,1x1,1x1', '2x1,2x1,2x1', '1x4,1x1,1x1', '1x1,1x2,1x2',
           '4x2,1x1,1x1', '3x1,1x1,1x1', '2x2,1x1,2x2', '2x1,1x1,2x1', '1x1,2x2,2x2', '2x2,2x1,1x2', '2x4,1x1,1x1',
           '1x3,1x1,1x1', '2x1,1x2,1x2', '2x2,1x1,1x1,2x2', '1x2,1x1,1x1,1x2']


@pytest.mark.parametrize('factors', FACTORS)
def test_any_chroma_subsampling_is_read(factors):
    data = image_files.subsampled_jpeg([tuple(map(int, factor.split('x'))) for factor in factors.split(',')])
    assert decode(data).std() > 10
    np.testing.assert_array_equal(decode(data), pillow_says(data))
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == decode(data).shape
    with pytest.raises(ValueError, match='JPEG'):
        decode(data[:-5])


@pytest.mark.parametrize('original', [picture(), picture()[:, :, 0]], ids=['colours', 'grey'])
def test_a_lossless_jpeg_is_read_or_named(original):
    data = image_files.lossless_jpeg(original)
    try:
        image = decode(data)
    except ValueError as error:     # The libjpeg of Pillow 9 does not know this kind.
        assert int(Image.__version__.split('.')[0]) < 10 and str(error).startswith('truncated or corrupt JPEG (')
    else:
        np.testing.assert_array_equal(image, np.broadcast_to(original.reshape(75, 100, -1), (75, 100, 3)))
    with pytest.raises(ValueError):
        decode(data[:-200])


def jfif_version(major, minor):
    place = JPEG.index(b'JFIF\0') + 5
    return JPEG[:place] + bytes((major, minor)) + JPEG[place + 2:]


def changed(data, place, value):
    return data[:place] + bytes([value]) + data[place + 1:]


ICC = b'ICC_PROFILE\0'
# libjpeg or Pillow has something to say about each of these, but not about pixels: (file, file with the same pixels).
CMYK = encode(Image.fromarray(picture()).convert('CMYK'), 'JPEG')
PROGRESSIVE = encode(picture(), 'JPEG', progressive=True)
HARMLESS = {
    'JFIF 0.02': (jfif_version(0, 2), JPEG),
    'JFIF 32.23': (jfif_version(32, 23), JPEG),
    'ICC: piece 1 of 2': (with_segment(JPEG, 0xe2, ICC + b'\1\2' + bytes(100)), JPEG),
    'ICC: piece 0 of 0': (with_segment(JPEG, 0xe2, ICC + b'\0\0' + bytes(100)), JPEG),
    'ICC: piece 1 twice': (with_segment(with_segment(JPEG, 0xe2, ICC + b'\1\2abc'), 0xe2, ICC + b'\1\2abc'), JPEG),
    'Adobe transform 7': (with_segment(without_segment(JPEG, 0xe0), 0xee, b'Adobe\0\x64\0\0\0\0\7'), JPEG),
    'Adobe marker is cut': (with_segment(JPEG, 0xee, b'Adobe\0'), JPEG),
    'inks: Adobe transform 7': (changed(CMYK, CMYK.index(b'Adobe') + 11, 7),
                                changed(CMYK, CMYK.index(b'Adobe') + 11, 2)),
    'inks: JFIF 3.0': (with_segment(CMYK, 0xe0, b'JFIF\0\3\0\0\0\1\0\1\0\0'), CMYK),
    'inks: Photoshop data is cut': (with_segment(CMYK, 0xed, b'Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\x10\0'), CMYK),
    'bytes between segments': (JPEG[:2] + b'\0\1\2\xff\0\3' + JPEG[2:], JPEG),
    'scan parameters of no meaning': (JPEG.replace(b'\3\x11\0\x3f\0', b'\3\x11\1\x3e\x21'), JPEG),
    '10 zeros before the end': (padded(JPEG, bytes(10)), JPEG),
    '258 zeros before the end': (padded(JPEG, bytes(258)), JPEG),
    'spaces before the end': (padded(JPEG, b' ' * 100), JPEG),
    'fill bytes before the end': (padded(JPEG, b'\xff\xff\xff'), JPEG),
    'one byte before the end': (padded(JPEG, b'\x7f'), JPEG),
    'progressive: zeros before the end': (padded(PROGRESSIVE, bytes(100)), PROGRESSIVE),
    'all of it': (b'\xff\xd8\0' + with_segment(padded(jfif_version(9, 9), bytes(50)), 0xe2, ICC + b'\1\2')[2:]
                  + b'and more', JPEG),
    'two JPEGs': (JPEG + JPEG[::-1] + PROGRESSIVE, JPEG),
    'broken EXIF': (with_segment(JPEG, 0xe1, b'Exif\0\0II*\0\xff\xff\xff\xff'), JPEG),
    'png: profile of 2 MiB': (with_chunk(PNG, b'iCCP', b'icc\0\0' + zlib.compress(bytes(2 << 20))), PNG),
    'png: profile of another kind': (with_chunk(PNG, b'iCCP', b'icc\0\1' + zlib.compress(bytes(20))), PNG),
    'png: text of 2 MiB': (with_chunk(PNG, b'zTXt', b'text\0\0' + zlib.compress(bytes(2 << 20))), PNG),
    'png: 70 texts of 1 MiB': (PNG[:33] + 70 * chunk(b'zTXt', b'text\0\0' + zlib.compress(bytes(1 << 20))) + PNG[33:],
                               PNG),
    'png: checksum of a text': (PNG[:33] + chunk(b'tEXt', b'a\0b')[:-1] + b'?' + PNG[33:], PNG),
    'png: bytes after the end': (PNG + b'and more', PNG),
    'png: EXIF that is none': (with_chunk(PNG, b'eXIf', b'nothing'), PNG),
    'png: animation of no frames': (with_chunk(PNG, b'acTL', bytes(8)), PNG),
}


@pytest.mark.parametrize('case', sorted(HARMLESS))
def test_what_says_nothing_about_pixels_is_no_damage(case):
    data, same = HARMLESS[case]
    assert data != same
    np.testing.assert_array_equal(decode(data), pillow_says(same))
    buffer = np.empty(100000, np.uint8)
    np.testing.assert_array_equal(decode(data, lambda size: buffer), pillow_says(same))


@pytest.mark.parametrize('case', sorted(HARMLESS))
def test_damage_is_not_hidden_by_what_says_nothing_about_pixels(case):
    data, same = HARMLESS[case]
    begin = data.index(same[len(same) // 2:len(same) // 2 + 20])
    with pytest.raises(ValueError, match='truncated or corrupt (JPEG|PNG) [(]'):
        decode(data[:begin] + bytes(40) + data[begin + 40:])
    with pytest.raises(ValueError, match='truncated or corrupt (JPEG|PNG) [(]'):
        decode(data[:begin])


@pytest.mark.parametrize('value, count', itertools.product((0, 0xff, 0x20, 0xaa), (12, 100, 600)))
def test_a_lost_end_is_not_taken_for_padding(value, count):
    for data in (JPEG, PROGRESSIVE, encode(picture(seed=1), 'JPEG', subsampling=0)):
        with pytest.raises(ValueError, match='truncated or corrupt JPEG'):
            decode(data[:-count] + bytes([value]) * (count - 2) + data[-2:])


def test_bytes_that_damage_leaves_over_are_not_taken_for_padding():
    # The only thing that libjpeg says about many of these is "extraneous bytes before marker 0xd9".
    data = encode(picture(300, 400), 'JPEG')
    random, begin, left_over = np.random.RandomState(0), data.index(b'\xff\xda') + 14, 0
    for place in random.randint(begin, len(data) - 10, 100):
        damaged = data[:place] + random.bytes(4) + data[place + 4:]
        try:
            decode(damaged)
        except ValueError as error:
            left_over += 'extraneous bytes before marker 0xd9' in str(error)
        else:       # Where nothing is said, the damage left no trace but in the pixels.
            simplejpeg.decode_jpeg(damaged, strict=True)
    assert left_over > 20


def test_large_photographs_are_read_up_to_the_bound_and_no_further():
    photograph = encode(Image.new('L', (12000, 7500), 77), 'JPEG')
    assert decode(photograph)[::7499, ::11999].tolist() == [[[77] * 3] * 2] * 2
    huge = JPEG[:JPEG.index(b'\xff\xc0') + 5] + struct.pack('>HH', 20000, 10000) + JPEG[JPEG.index(b'\xff\xc0') + 9:]
    for data in (huge, HUGE):
        with pytest.raises(ValueError, match='^10000 x 20000 pixels, more than %d$|^more than %d pixels$'
                           % (MAX_PIXELS, MAX_PIXELS)):
            decode(data)


CHATTER = {
    'tiff with a damaged strip': lambda: middle(encode(picture(), 'TIFF', compression='tiff_lzw')),
    'tiff with an unknown tag': lambda: encode(picture(), 'TIFF', compression='tiff_lzw', tiffinfo={64999: 'a'}),
    'tiff with too many samples': lambda: encode(picture(), 'TIFF').replace(b'\x15\1\3\0\1\0\0\0\3',
                                                                           b'\x15\1\3\0\1\0\0\0\xff'),
    'broken exif': lambda: with_segment(JPEG, 0xe1, b'Exif\0\0II*\0\xff\xff\xff\xff'),
    'palette': lambda: encode(Image.fromarray(picture()).quantize(64), 'PNG', transparency=bytes(range(64))),
    'warned jpeg': lambda: jfif_version(0, 2)}


def test_the_libraries_print_nothing(tmp_path):
    for name, make in CHATTER.items():
        (tmp_path / name).write_bytes(make())
    code = ('import sys, threading; from PIL import Image; from src.input.image import decode\n'
            'Image.MAX_IMAGE_PIXELS = 5000     # Pillow warns about more pixels, and refuses twice as many.\n'
            'def work():\n'
            '    for path in sys.argv[1:]:\n'
            '        with open(path, "rb") as file: data = file.read()\n'
            '        try: decode(data)\n'
            '        except ValueError as error: print(error)\n'
            'thread = threading.Thread(target=work); thread.start(); thread.join()\n')
    process = subprocess.run([sys.executable, '-W', 'default', '-c', code]
                             + [str(tmp_path / name) for name in CHATTER], cwd=ROOT, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, universal_newlines=True)
    assert (process.returncode, process.stderr) == (0, '')
    assert process.stdout.count('truncated or corrupt TIFF') == 2, process.stdout


def middle(data, count=40):
    """`data` with `count` bytes of its middle overwritten."""
    half = len(data) // 2
    return data[:half] + bytes(count) + data[half + count:]


HUGE = (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 20000, 10000, 8, 2, 0, 0, 0))
        + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b''))
UNREADABLE = {
    'empty': (b'', 'empty file'),
    'text': (b'this is not an image', 'not an image'),
    'web page': (b'<!DOCTYPE html><html>404</html>', 'not an image'),
    'jpeg: two bytes': (JPEG[:2], 'not an image'),
    'jpeg: half the header': (JPEG[:150], 'truncated or corrupt JPEG'),
    'jpeg: half': (JPEG[:len(JPEG) // 2], 'truncated or corrupt JPEG'),
    'jpeg: all but 200 bytes': (JPEG[:-200], 'truncated or corrupt JPEG'),
    'jpeg: all but 2 bytes': (JPEG[:-2], 'truncated or corrupt JPEG'),
    'jpeg: overwritten': (middle(JPEG), 'truncated or corrupt JPEG'),
    'cmyk: all but 200 bytes': (CMYK[:-200], 'truncated or corrupt JPEG'),
    'cmyk: overwritten': (middle(CMYK), 'truncated or corrupt JPEG'),
    'png: no end': (PNG[:-12], 'truncated or corrupt PNG'),
    'png: half': (PNG[:len(PNG) // 2], 'truncated or corrupt PNG'),
    'png: all but 200 bytes': (PNG[:-200], 'truncated or corrupt PNG'),
    'png: overwritten': (middle(PNG), 'truncated or corrupt PNG'),
    'png: one bit': (middle(PNG, 0)[:-30] + bytes([PNG[-30] ^ 1]) + PNG[-29:], 'truncated or corrupt PNG'),
    'gif: half': (lambda gif: gif[:len(gif) // 2], 'GIF'),
    'webp: half': (lambda webp: webp[:len(webp) // 2], 'WEBP'),
    'bmp: half': (lambda bmp: bmp[:len(bmp) // 2], 'truncated or corrupt BMP'),
    'tiff: half': (lambda tiff: tiff[:len(tiff) // 2], 'TIFF'),
    'huge': (HUGE, 'more than %d' % MAX_PIXELS),
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
