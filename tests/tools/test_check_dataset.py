"""tools/check_dataset.py says what the images of a data set are, and refuses what training and evaluation refuse."""
import io
import json
import os
import re
import struct
import time
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from src import progress
from src.cli import make_config
from src.dataset import create_dataset
from src.inference.classify import classify
from tests.helpers import run
from tests.input import image_files
from tests.input.image_files import encode, padded, picture, with_chunk, with_segment, without_segment
from tools import check_dataset

pytestmark = pytest.mark.filterwarnings('ignore')      # pytest takes back the filters of src/input/image.py
INKS = encode(Image.fromarray(picture()).convert('CMYK'), 'JPEG')
# What is odd in ImageNet, and what people put into data sets of their own: {name: (file, kinds)}.
ODD = {
    'png.JPEG': (encode(picture(), 'PNG'), ['PNG', 'PNG with the name of another format']),
    'inks.JPEG': (INKS, ['JPEG, CMYK']),
    'inks without marker.JPEG': (without_segment(INKS, 0xee), ['JPEG, CMYK without Adobe marker']),
    'grey.JPEG': (encode(picture()[:, :, 0], 'JPEG'), ['JPEG, grey']),
    'turned.JPEG': (image_files.rotated('JPEG'), ['JPEG, 4:2:0', 'EXIF rotation, not applied']),
    'profile.JPEG': (encode(picture(), 'JPEG', icc_profile=bytes(70000)), ['JPEG, 4:2:0', 'ICC profile, not applied']),
    'small.JPEG': (encode(picture(56, 75), 'JPEG'), ['JPEG, 4:2:0']),
    'large.JPEG': (encode(picture(1600, 2400), 'JPEG'), ['JPEG, 4:2:0']),
    '444.JPEG': (encode(picture(), 'JPEG', subsampling=0), ['JPEG, 4:4:4']),
    '422.JPEG': (encode(picture(), 'JPEG', subsampling=1), ['JPEG, 4:2:2']),
    '411.JPEG': (simplejpeg.encode_jpeg(picture(), colorsubsampling='411'), ['JPEG, 4:1:1']),
    '440.JPEG': (simplejpeg.encode_jpeg(picture(), colorsubsampling='440'), ['JPEG, 4:4:0']),
    '441.JPEG': (image_files.subsampled_jpeg([(1, 4), (1, 1), (1, 1)]), ['JPEG, unusual chroma sampling']),
    'more.JPEG': (encode(picture(), 'JPEG') + b'\nmore', ['JPEG, 4:2:0', 'bytes after the end']),
    'padded.JPEG': (padded(encode(picture(), 'JPEG'), bytes(245)), ['JPEG, 4:2:0']),
    'progressive.jpg': (encode(picture(), 'JPEG', progressive=True), ['JPEG, 4:2:0', 'progressive JPEG']),
    'text.png': (with_chunk(encode(picture(), 'PNG'), b'zTXt', b'a\0\0' + zlib.compress(bytes(2 << 20))),
                 ['PNG', 'metadata that Pillow cannot read']),
    'exif.jpg': (with_segment(encode(picture(), 'JPEG'), 0xe1, b'Exif\0\0II*\0\xff\xff\xff\xff'), ['JPEG, 4:2:0']),
    'a.tif': (encode(picture(), 'TIFF'), ['TIFF'])}
JPEG = ODD['444.JPEG'][0]
CONFIG = make_config({'batch_size': 1, 'num_classes': 2, 'image_size': 72, 'work_nums': 2, 'max_bad_images': 1.0})
BAD = {'cut.JPEG': JPEG[:-99], 'empty.JPEG': b'', 'page.jpg': b'<!DOCTYPE html>', 'cut.png': ODD['png.JPEG'][0][:-40],
       'zeros.JPEG': JPEG[:-1000] + bytes(998) + JPEG[-2:],
       'vast.JPEG': JPEG[:JPEG.index(b'\xff\xc0') + 5] + struct.pack('>HH', 60000, 60000)
       + JPEG[JPEG.index(b'\xff\xc0') + 9:],
       '12 bits.JPEG': JPEG[:JPEG.index(b'\xff\xc0') + 4] + b'\x0c' + JPEG[JPEG.index(b'\xff\xc0') + 5:],
       'lossless, cut.JPEG': image_files.lossless_jpeg(picture())[:-9]}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A data set with one class for each of two dictionaries above."""
    root = tmp_path_factory.mktemp('set')
    for label, files in (('bad', BAD), ('odd', {name: data for name, (data, _) in ODD.items()})):
        (root / label).mkdir()
        for name, data in files.items():
            (root / label / name).write_bytes(data)
    (root / 'odd' / 'notes.txt').write_text('')
    return root


@pytest.fixture(scope='module')
def report(folder):
    """What `check` says about it."""
    return check_dataset.check(str(folder), 2)


@pytest.mark.parametrize('name', sorted(ODD))
def test_the_odd_kinds_of_imagenet_are_read_and_named(name, tmp_path):
    data, kinds = ODD[name]
    path = tmp_path / name
    path.write_bytes(data)
    image, reason = check_dataset.examine(str(path))
    assert reason is None and image['kinds'] == kinds
    width, height = Image.open(io.BytesIO(data)).size if name != 'text.png' else (100, 75)
    assert (image['width'], image['height'], image['file']) == (width, height, str(path))


@pytest.mark.parametrize('name', sorted(set(ODD) - {'text.png'}))
def test_training_and_evaluation_see_the_pixels_of_an_odd_kind(name, tmp_path):
    data, _ = ODD[name]
    for folder in ('odd', 'plain'):
        (tmp_path / folder / 'class').mkdir(parents=True)
    (tmp_path / 'odd' / 'class' / name).write_bytes(data)
    Image.open(io.BytesIO(data)).convert('RGB').save(str(tmp_path / 'plain' / 'class' / 'a.bmp'))
    for training in (True, False):
        odd, plain = (next(create_dataset(str(tmp_path / folder), CONFIG, training).batches(0))
                      for folder in ('odd', 'plain'))
        assert odd.valid[0] == 1 and odd.images.std() > 2
        np.testing.assert_array_equal(odd.images, plain.images)


def zeros(images):
    """Logits of a network, all of them zero."""
    return np.zeros((len(images), 2), np.float32)


def test_training_evaluation_photographs_and_the_check_give_the_same_reasons(folder, report):
    assert {os.path.basename(path) for path in report['bad']} == set(BAD)
    for training in (True, False):
        dataset = create_dataset(str(folder), CONFIG, training)
        assert len(list(dataset.batches(0))) == len(ODD) + len(BAD)
        assert dataset.skipped == report['bad']
    files = [str(folder / label / name) for label in sorted(os.listdir(str(folder)))
             for name in sorted(os.listdir(str(folder / label))) if name != 'notes.txt']
    assert {file: reason for file, _, reason in classify(zeros, files, CONFIG) if reason} == report['bad']


def test_the_report_counts_kinds_and_names_extremes(report):
    assert (report['files'], report['ignored']) == (len(ODD) + len(BAD), 1)
    kinds = [kind for _, kinds in ODD.values() for kind in kinds]
    assert report['kinds'] == {kind: kinds.count(kind) for kind in kinds}
    assert list(report['kinds'].values()) == sorted(report['kinds'].values(), reverse=True)
    (smallest,), (largest,) = report['smallest'], report['largest']
    assert os.path.basename(smallest['file']) == '441.JPEG' and (smallest['width'], smallest['height']) == (16, 64)
    assert os.path.basename(largest['file']) == 'large.JPEG' and (largest['width'], largest['height']) == (2400, 1600)
    seconds = [image['seconds'] for image in report['slowest']]
    assert len(seconds) == 10 and seconds == sorted(seconds, reverse=True) and seconds[0] > 0
    assert report['slowest'][0] == largest


def test_the_summary_is_printed_and_written(folder, tmp_path):
    process = run('tools/check_dataset.py', folder, '--json', tmp_path / 'report.json')
    assert process.returncode == 1, process.stderr
    report = json.loads((tmp_path / 'report.json').read_text())
    lines = process.stdout.splitlines()
    assert lines[:len(BAD)] == ['%s: %s' % item for item in report['bad'].items()]
    assert lines[len(BAD)] == 'kinds of the good files (a file can be in several lines):'
    assert '        %d  JPEG, 4:2:0' % report['kinds']['JPEG, 4:2:0'] in lines
    assert 'largest: 2400 x 1600 pixels, %s' % (folder / 'odd' / 'large.JPEG') in lines
    place = lines.index('slowest to decode (CPU time):')
    assert re.match(r' +\d\.\d{3} s  2400 x 1600 pixels, .*large\.JPEG$', lines[place + 1])
    assert lines[place + 11:] == ['%d image files, %d bad, 1 other files ignored' % (len(ODD) + len(BAD), len(BAD))]


def test_a_data_set_without_a_good_file_has_a_report_too(tmp_path):
    (tmp_path / 'class').mkdir()
    (tmp_path / 'class' / 'a.jpg').write_bytes(b'')
    report = check_dataset.check(str(tmp_path), 1)
    assert report['kinds'] == {} and report['smallest'] == report['largest'] == report['slowest'] == []
    assert check_dataset.summary(report) == '1 image files, 1 bad, 0 other files ignored'


def test_a_long_check_is_not_silent(folder, monkeypatch, capsys):
    def slow(data, original=check_dataset.decode):
        time.sleep(0.05)
        return original(data)

    monkeypatch.setattr(check_dataset, 'decode', slow)
    monkeypatch.setattr(progress, 'SILENCE', 0.2)
    check_dataset.check(str(folder), 1)
    assert re.search(r'^decoding: \d+/%d images, \d bad, ' % (len(ODD) + len(BAD)), capsys.readouterr().err, re.M)
