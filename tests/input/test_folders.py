"""What belongs to a data set: classes whose names can be told apart, and no folders of systems; the rest is said."""
import os
import subprocess
import sys
import unicodedata

import pytest

from src.errors import UserError
from src.input.folders import SYSTEM_FOLDERS, look_alike, scan
from tests.helpers import ROOT


def make(root, *files):
    """Make empty files below a folder; returns its path."""
    for file in files:
        path = os.path.join(str(root), file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, 'w').close()
    return str(root)


def test_folders_of_systems_are_no_classes(tmp_path, capsys):
    names = ['lost+found', '@eaDir', '__MACOSX', '$RECYCLE.BIN', '$Recycle.Bin', 'System Volume Information',
             '#recycle', '@Recycle', '#snapshot', '.Trash-1000']
    assert {name.lower() for name in names if name[0] != '.'} == set(SYSTEM_FOLDERS)
    root = make(tmp_path, 'cat/0.jpg', 'dog/0.jpg', 'dog/@eaDir/0.jpg/SYNOPHOTO_THUMB_XL.jpg',
                *('%s/thumbnail.jpg' % name for name in names))
    assert scan(root) == ({'cat': ['0.jpg'], 'dog': ['0.jpg']}, len(names) + 1)
    assert capsys.readouterr().err == ''


def test_a_folder_that_only_root_may_read_is_no_obstacle(tmp_path, monkeypatch):
    root = make(tmp_path, 'cat/0.jpg', 'lost+found/0')

    def scandir(path, original=os.scandir):
        if path.endswith('lost+found'):
            raise PermissionError(13, 'Permission denied', path)
        return original(path)
    monkeypatch.setattr(os, 'scandir', scandir)
    assert scan(root) == ({'cat': ['0.jpg']}, 1)


def test_images_in_folders_inside_a_class_are_said(tmp_path, capsys):
    root = make(tmp_path, 'cat/0.jpg', 'cat/part1/1.jpg', 'cat/part2/more/2.PNG', 'cat/.cache/3.jpg', 'cat/texts/a.txt',
                'dog/0.jpg')
    assert scan(root) == ({'cat': ['0.jpg'], 'dog': ['0.jpg']}, 4)
    assert capsys.readouterr().err == (
        'warning: folders inside the class folders of {0} hold images, which are not used ({0}/cat/part1, '
        '{0}/cat/part2/more; 2 in all): move these images up into the class folder\n'.format(root))


def test_a_class_with_all_images_in_a_folder_below_is_told(tmp_path):
    root = make(tmp_path, 'train/cat/0.jpg', 'train/dog/0.jpg')
    with pytest.raises(UserError) as refused:
        scan(root)
    assert refused.value.sentence == (
        'the class folder {0}/train has no image itself, but {0}/train/cat has: give {0}/train if its folders are the '
        'classes, else move the images up'.format(root))


@pytest.mark.parametrize('target', ['absent', 'fox'])
def test_a_class_that_is_a_link_to_nothing_or_to_itself_is_said(tmp_path, capsys, target):
    root = make(tmp_path, 'cat/0.jpg')
    os.symlink(target, os.path.join(root, 'fox'))
    os.symlink('..', os.path.join(root, 'cat', 'up'))       # must not lead around in a circle
    assert scan(root) == ({'cat': ['0.jpg']}, 2)
    assert capsys.readouterr().err == ('warning: links in {0} lead to nothing ({0}/fox; 1 in all): mend or remove '
                                       'them\n'.format(root))


@pytest.mark.parametrize('name', ['do\nts', 'dots\n', 'do\rts', 'dots\r'])
def test_a_line_end_in_the_name_of_a_class_is_refused(tmp_path, name):
    root = make(tmp_path, 'cat/0.jpg', name + '/0.jpg')
    with pytest.raises(UserError) as refused:
        scan(root)
    escaped = name.replace('\n', '\\n').replace('\r', '\\r')
    assert refused.value.sentence == 'the class folder %s/%s has a line end in its name: rename it' % (root, escaped)


def test_a_line_end_in_the_name_of_a_file_breaks_no_line(tmp_path):
    make(tmp_path, 'cat/a\nb.jpg')
    process = subprocess.run([sys.executable, os.path.join(ROOT, 'tools', 'check_dataset.py'), str(tmp_path)],
                             stdout=subprocess.PIPE, universal_newlines=True)
    assert process.stdout.split('\n')[0].startswith('%s/cat/a\\nb.jpg: ' % tmp_path)
    assert process.stdout.count('\n') == 2


def test_two_classes_that_look_the_same_are_refused(tmp_path):
    root = make(tmp_path, *('%s/0.jpg' % unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD')))
    with pytest.raises(UserError, match=r"names that look the same, 'cafe\\u0301' and 'caf\\xe9': put their images"):
        scan(root)
    assert set(scan(make(tmp_path / 'letters', 'a/0.jpg', 'A/0.jpg'))[0]) == {'a', 'A'}


def test_names_that_look_alike():
    names = ['dog', 'caf\xe9', ' Cat']
    assert look_alike('cafe\u0301', names) == 'caf\xe9' and look_alike('cat', names) == ' Cat'
    assert look_alike('dog', names) is None and look_alike('cow', names) is None
