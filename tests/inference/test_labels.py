"""What a label means: known from a class list or by names, or refused; and how classes are shown."""
import csv
import errno
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nasnet_a_mobile import NASNetAMobile
from src.checkpoints.checkpoint import Checkpoint, arrays_of, load, save
from src.checkpoints.run_folder import save_class_names
from src.errors import UserError
from src.inference.class_names import class_names, imagenet_names, readable, require_known_labels
from src.input import reading
from src.network.initialize import initialize
from tests.helpers import SMALL, run

CLASSES = 10


# Which folder is which class

def dataset(count):
    return SimpleNamespace(path='photos', class_names=['class %d' % number for number in range(count)])


@pytest.mark.parametrize('meta,remedy', [
    ({}, r'put the classes.txt of its training beside the checkpoint, or give a folder for each of the 10 classes$'),
    ({'source': 'weights.pth (pytorch)'}, 'which class: give a folder for each of the 10 classes$')])
def test_fewer_folders_than_classes_are_refused_without_a_list(tmp_path, meta, remedy):
    checkpoint = Checkpoint(str(tmp_path / 'a.ckpt'), {}, meta)
    names = class_names(checkpoint, CLASSES)
    assert names is None
    require_known_labels(dataset(10), names, checkpoint, CLASSES)
    for count in (9, 1):
        with pytest.raises(UserError, match='photos has %d class folders, but .*a.ckpt knows 10 classes and no list '
                                            '.*%s' % (count, remedy)):
            require_known_labels(dataset(count), names, checkpoint, CLASSES)


def test_a_list_or_imagenets_synsets_prove_the_labels(tmp_path):
    checkpoint = Checkpoint(str(tmp_path / 'a.ckpt'), {}, {})
    require_known_labels(dataset(3), class_names(checkpoint, 1000), checkpoint, 1000)
    save_class_names(str(tmp_path / 'classes.txt'), ['class %d' % number for number in range(CLASSES)])
    require_known_labels(dataset(3), class_names(checkpoint, CLASSES), checkpoint, CLASSES)
    # A list beside converted weights is of another training and proves nothing.
    converted = checkpoint._replace(meta={'source': 'weights.pth (pytorch)'})
    with pytest.raises(UserError, match='knows 10 classes and no list'):
        require_known_labels(dataset(3), class_names(converted, CLASSES), converted, CLASSES)


def test_the_list_in_a_checkpoint_wins_over_the_file_beside_it(tmp_path):
    names = ['class 0', os.fsdecode(b'caf\xe9'), 'class 2']
    save(str(tmp_path / 'a.ckpt'), {'x': np.zeros(1, np.float32)}, {'class_names': names})
    save_class_names(str(tmp_path / 'classes.txt'), ['another', 'training'])
    checkpoint = load(str(tmp_path / 'a.ckpt'))
    assert class_names(checkpoint, CLASSES) == names
    with pytest.raises(UserError, match='a.ckpt has the names of 3 classes: set --num_classes 3'):
        class_names(checkpoint, 2)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A checkpoint of ten classes without a list, and images of class 1 to class 9: the first folder is missing."""
    folder = tmp_path_factory.mktemp('labels')
    for number in range(1, CLASSES):
        images = folder / 'val' / ('class %d' % number)
        images.mkdir(parents=True)
        Image.new('RGB', (80, 80), (20 * number, 99, 99)).save(str(images / '0.png'))
    network = initialize(NASNetAMobile(CLASSES, None, **SMALL), 1)
    save(str(folder / 'a.ckpt'), arrays_of(network), {'config': dict(SMALL, num_classes=CLASSES, image_size=72)})
    return folder


def evaluated(place, *flags):
    return run('eval.py', '--platform', 'CPU', '--checkpoint', place / 'a.ckpt', '--dataset_path', place / 'val',
               *flags)


def test_eval_refuses_labels_that_it_cannot_know(place):
    process = evaluated(place)
    assert process.returncode == 1 and process.stdout == '' and process.stderr.count('\n') == 1
    assert re.match(r'error: \S+val has 9 class folders, but \S+a.ckpt knows 10 classes and no list', process.stderr)


@pytest.mark.slow
def test_eval_with_a_list_gives_each_folder_its_own_label(place, tmp_path):
    for name in ('a.ckpt', 'val'):
        os.symlink(str(place / name), str(tmp_path / name))
    save_class_names(str(tmp_path / 'classes.txt'), ['class %d' % number for number in range(CLASSES)])
    process = evaluated(tmp_path, '--report', tmp_path / 'report')
    assert process.returncode == 0, process.stderr
    with open(str(tmp_path / 'report' / 'per_class.csv'), newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['label'], row['class'], row['images']) for row in rows] == [
        (str(number), 'class %d' % number, str(int(number > 0))) for number in range(CLASSES)]


# How classes are shown

def test_no_two_classes_of_imagenet_have_the_same_name():
    names = imagenet_names()
    assert len(set(names.values())) == 1000
    assert (names['n02012849'], names['n03126707']) == ('crane (bird)', 'crane (machine)')
    assert (names['n03710637'], names['n03710721']) == ('maillot', 'maillot, tank suit')


def test_names_that_would_be_shown_twice_get_the_number_of_the_class():
    assert readable(['n01440764', 'tench', 'dog'], 4) == ['tench (class 0)', 'tench (class 1)', 'dog', 'class 3']
    shown = readable(['class 1'], 2)
    assert shown == ['class 1 (class 0)', 'class 1 (class 1)']


# The report

def make_report(folder, names):
    """A Report over three wrong predictions; the files of the first two cannot be read any more."""
    from src.inference.report import Report
    for name in names:
        os.makedirs(os.path.join(folder, name))
    Image.new('RGB', (80, 80), (250, 10, 10)).save(os.path.join(folder, names[2], '0.png'))
    with open(os.path.join(folder, names[1], '0.png'), 'wb') as file:
        file.write(b'overwritten')
    open(os.path.join(folder, names[0], 'other'), 'w').close()
    data = SimpleNamespace(path=folder, class_names=names, labels=np.arange(3), files=['0.png'] * 3,
                           config=SimpleNamespace(image_size=72))
    report = Report(data, names)
    report.rows = [(index, index, 1, (index + 1) % 3, 0.9 - 0.1 * index) for index in range(3)]
    return report


def colours(path):
    with Image.open(str(path)) as picture:
        return {colour: count for count, colour in picture.convert('RGB').getcolors(1 << 24)}


def test_a_picture_that_has_become_unreadable_is_a_grey_square(tmp_path):
    report = make_report(str(tmp_path / 'data'), ['a', 'b', 'c'])
    report.write(str(tmp_path / 'report'))
    found = colours(tmp_path / 'report' / 'mistakes.png')
    assert found[(192, 192, 192)] > 1.5 * found[(250, 10, 10)] > 1000       # two grey squares, one red one


def test_a_file_system_that_fails_costs_no_report(tmp_path, monkeypatch):
    report = make_report(str(tmp_path / 'data'), ['a', 'b', 'c'])
    pauses = (0.01, 0.02)
    monkeypatch.setattr(reading, 'PAUSES', pauses)
    attempts = []

    def fail(path, *_, **__):
        attempts.append(path)
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(reading, 'open', fail, raising=False)
    report.write(str(tmp_path / 'report'))
    assert len(attempts) == len(pauses) + 1 + 2         # all attempts for the first picture, one for each other
    assert (tmp_path / 'report' / 'confusion.csv').exists()
    assert (250, 10, 10) not in colours(tmp_path / 'report' / 'mistakes.png')


def test_names_that_matplotlib_cannot_draw_as_they_are(tmp_path):
    """Bytes that are not UTF-8, and what it would read as a formula, whole and broken."""
    names = [os.fsdecode(b'caf\xe9'), '$x^2$ and $', r'$\frac{$']
    report = make_report(str(tmp_path / 'data'), names)
    report.write(str(tmp_path / 'report'))
    assert len(colours(tmp_path / 'report' / 'confusion.png')) > 20
    with open(str(tmp_path / 'report' / 'per_class.csv'), 'rb') as file:
        assert b'caf\xe9' in file.read()
