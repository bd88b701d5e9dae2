"""eval.py on single images, and its report, with the small network."""
import csv
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from nasnet_a_mobile import NASNetAMobile
from src.checkpoints.checkpoint import Checkpoint, arrays_of, save
from src.errors import UserError
from src.inference.class_names import class_names, imagenet_names, readable
from src.inference.report import Report
from src.network.initialize import initialize
from tests.helpers import IMPATIENT, SMALL, run


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint of four classes with its class list; two synsets are among the names."""
    folder = tmp_path_factory.mktemp('trained')
    network = initialize(NASNetAMobile(4, None, **SMALL), 1)
    path = folder / 'a.ckpt'
    save(str(path), arrays_of(network), {'config': dict(SMALL, num_classes=4, image_size=72)})
    (folder / 'classes.txt').write_text('class 0\nclass 1\nn01440764\nn01443537\n')
    return path


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Two good images and a bad one."""
    folder = tmp_path_factory.mktemp('photos')
    for number in range(2):
        pixels = np.random.RandomState(number).randint(0, 256, (90, 120, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(str(folder / ('%d.png' % number)))
    (folder / 'broken.jpg').write_bytes(b'no image')
    (folder / 'notes.txt').write_text('')
    return folder


def classified(trained, *flags):
    """Run eval.py with the checkpoint `trained` -> CompletedProcess."""
    return run(*IMPATIENT, 'eval.py', '--platform', 'CPU', '--checkpoint', trained, *flags)


@pytest.mark.slow
def test_a_folder_of_photos_as_json_csv_and_table(trained, photos):
    process = classified(trained, '--image', photos, '--format', 'json')
    assert re.match(r'classifying: 0/3 images, compiling the network, 00:\d\d:\d\d so far\n', process.stderr)
    warning = re.sub('^classifying: .*\n', '', process.stderr, flags=re.M)
    assert process.returncode == 1 and warning == 'warning: %s: not an image (%s)\n' % (
        photos / 'broken.jpg', 'JPEG, PNG, GIF, BMP, WEBP, TIFF')
    rows = [json.loads(line) for line in process.stdout.strip().split('\n')]
    assert [row['file'] for row in rows] == [str(photos / '0.png'), str(photos / '1.png')]
    for row in rows:
        assert {best['class'] for best in row['classes']} == {'class 0', 'class 1', 'tench', 'goldfish'}
        shares = [best['probability'] for best in row['classes']]
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=1e-5)
    process = classified(trained, '--image', photos / '0.png', photos / '1.png', '--format', 'csv')
    assert process.returncode == 0, process.stderr
    table = list(csv.DictReader(io.StringIO(process.stdout)))
    assert [(row['file'], row['class_1']) for row in table] == [(row['file'], row['classes'][0]['class'])
                                                                for row in rows]
    assert float(table[0]['probability_1']) == pytest.approx(rows[0]['classes'][0]['probability'], abs=2e-6)
    process = classified(trained, '--image', photos / '0.png')
    lines = process.stdout.rstrip('\n').split('\n')
    assert lines[0] == str(photos / '0.png') and len(lines) == 5
    assert all(re.match(r'  (class \d|tench|goldfish) +\d+\.\d\d %$', line) for line in lines[1:])


def test_names_that_are_not_utf_8_are_escaped():
    code = ('import os\nfrom src.startup import keep_output\nkeep_output()\nfrom src.inference.classify import show\n'
            'name = os.fsdecode(b"caf\\xe9")\nresults = [(name, [(0, 0.75)], None), (name, None, "no image")]\n'
            'print([show(results, [name], style) for style in ("table", "csv", "json")])')
    process = run('-c', code, env=dict(os.environ, PYTHONIOENCODING='utf-8:strict'))    # a locale like en_US.UTF-8
    assert process.returncode == 0, process.stderr
    assert process.stdout.split('\n')[:5] == [r'caf\udce9', r'  caf\udce9   75.00 %', 'file,class_1,probability_1',
                                              r'caf\udce9,caf\udce9,0.750000', process.stdout.split('\n')[4]]
    assert r'"file": "caf\udce9"' in process.stdout and process.stdout.endswith('[1, 1, 1]\n')
    assert process.stderr == 'warning: caf\\udce9: no image\n' * 3


def test_imagenets_names_are_for_checkpoints_without_a_list(tmp_path):
    names = imagenet_names()
    assert len(names) == 1000 == len(set(names)) and list(names) == sorted(names)
    assert (names['n01440764'], names['n02123045'], names['n15075141']) == ('tench', 'tabby', 'toilet tissue')
    plain = Checkpoint(str(tmp_path / 'a.ckpt'), {}, {})
    converted = plain._replace(meta={'source': 'weights.pth (pytorch)'})
    assert readable(class_names(plain, 1000), 1000)[0] == 'tench'
    assert readable(class_names(plain, 3), 3) == ['class 0', 'class 1', 'class 2']
    (tmp_path / 'classes.txt').write_text('dog\ncat\n')
    assert readable(class_names(plain, 3), 3) == ['dog', 'cat', 'class 2']
    assert readable(class_names(converted, 1000), 1000)[0] == 'tench'
    with pytest.raises(UserError, match='has 2 names, but .*a.ckpt 1 classes'):
        class_names(plain, 1)


@pytest.mark.slow
def test_report(trained, tmp_path):
    data = tmp_path / 'data'
    random = np.random.RandomState(0)
    for name, count in (('class 0', 3), ('class 1', 4), ('n01440764', 5)):      # the fourth class has no image
        (data / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(random.randint(0, 256, (80, 90, 3)).astype(np.uint8)).save(
                str(data / name / ('%d.png' % number)))
    (data / 'class 1' / 'broken.png').write_bytes(b'')
    process = classified(trained, '--dataset_path', data, '--report', tmp_path / 'report', '--batch_size', 5)
    assert process.returncode == 0, process.stderr
    top1 = float(re.search(r'^acc=(\S+)%\(TOP1\)', process.stdout, re.M).group(1)) / 100
    report = tmp_path / 'report'
    assert {path.name for path in report.iterdir()} == {'per_class.csv', 'confusion.csv', 'confusion.png',
                                                        'mistakes.csv', 'mistakes.png'}
    with open(str(report / 'confusion.csv'), newline='') as file:
        rows = list(csv.reader(file))
    assert rows[0] == ['true / predicted', 'class 0', 'class 1', 'tench', 'goldfish']
    matrix = np.array([row[1:] for row in rows[1:]], int)
    assert matrix.sum(1).tolist() == [3, 4, 5, 0] and np.trace(matrix) / 12 == pytest.approx(top1, abs=1e-4)
    with open(str(report / 'per_class.csv'), newline='') as file:
        classes = list(csv.DictReader(file))
    assert [row['images'] for row in classes] == ['3', '4', '5', '0']
    assert [float(row['top1']) for row in classes[:3]] == pytest.approx(
        (np.diag(matrix) / np.maximum(matrix.sum(1), 1))[:3].tolist(), abs=1e-6)
    assert classes[3]['top1'] == '' and all(row['top5'] == '1.000000' for row in classes[:3])
    with open(str(report / 'mistakes.csv'), newline='') as file:
        mistakes = list(csv.DictReader(file))
    assert len(mistakes) == 12 - np.trace(matrix) > 0
    shares = [float(row['probability']) for row in mistakes]
    assert shares == sorted(shares, reverse=True)
    for row in mistakes:
        assert row['true'] != row['predicted'] and row['file'].startswith(str(data))
    for name in ('confusion.png', 'mistakes.png'):
        with Image.open(str(report / name)) as picture:
            assert min(picture.size) > 200 and len(picture.convert('RGB').getcolors(1 << 24)) > 20


def test_report_of_1000_classes_is_drawn(tmp_path):
    report = Report(None, ['class %d' % number for number in range(1000)])
    report.rows = [(0, 3, 0, 3, 0.5)]
    report.write(str(tmp_path))
    assert (tmp_path / 'confusion.png').stat().st_size > 1000
