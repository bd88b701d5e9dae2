"""What a run keeps in its folder: checkpoints, the best one, the class list; and how a run finds its way back."""
import errno
import os
import socket
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from nasnet_a_mobile import NASNetAMobile
from src.checkpoints import run_folder
from src.checkpoints.checkpoint import Checkpoint, arrays_of, save
from src.checkpoints.run_folder import (
    BEST,
    START,
    RunFolder,
    check_room,
    checkpoint_path,
    find_checkpoint,
    keep_best,
    list_checkpoints,
    load_class_names,
    prune,
    resume,
    save_class_names,
)
from src.errors import UserError
from src.files import UNFINISHED
from src.training.optimizer import FlatRMSProp
from tests.helpers import small_config


def touch(folder, *names):
    """Make empty files; each is a second newer than the one before it."""
    for age, name in enumerate(reversed(names)):
        path = str(folder / name)
        open(path, 'wb').close()
        os.utime(path, (10 ** 9 - age, 10 ** 9 - age))


def names(*numbers):
    """File names of rank 0's checkpoints."""
    return ['nasnet-a-mobile-rank0-%s.ckpt' % number for number in numbers]


# Checkpoints

def test_names_are_epoch_and_steps():
    assert checkpoint_path('c', 0, 12, 10009) == os.path.join('c', 'nasnet-a-mobile-rank0-12_10009.ckpt')


def test_checkpoints_are_listed_by_number(tmp_path):
    touch(tmp_path, *names('9_7', '10_7', '11_10', '11_9'), 'nasnet-a-mobile-rank1-1_7.ckpt', 'mine.ckpt', BEST)
    found = list_checkpoints(str(tmp_path), 0)
    assert found == [str(tmp_path / name) for name in names('9_7', '10_7', '11_9', '11_10')]
    assert list_checkpoints(str(tmp_path / 'absent'), 0) == []


def test_only_the_newest_are_kept(tmp_path):
    touch(tmp_path, *names('1_7', '2_7', '9_7', '11_7', '10_7'), 'nasnet-a-mobile-rank1-1_7.ckpt', 'mine.ckpt')
    ended = subprocess.Popen(['true'])
    ended.wait()
    (tmp_path / ('%sa.ckpt-%s-%d' % (UNFINISHED, socket.gethostname(), ended.pid))).mkdir()
    prune(str(tmp_path), 0, 2, str(tmp_path / names('11_7')[0]), 7)
    assert sorted(os.listdir(str(tmp_path))) == ['mine.ckpt', 'nasnet-a-mobile-rank0-10_7.ckpt',
                                                 'nasnet-a-mobile-rank0-11_7.ckpt', 'nasnet-a-mobile-rank1-1_7.ckpt']


def test_fewer_checkpoints_within_epochs_are_kept_than_at_their_ends(tmp_path):
    touch(tmp_path, *names('1_2', '1_7', '2_2', '2_4', '2_6', '2_7', '3_2'))
    prune(str(tmp_path), 0, 100, str(tmp_path / names('3_2')[0]), 7)
    assert sorted(os.listdir(str(tmp_path))) == names('1_7', '2_4', '2_6', '2_7', '3_2')


def test_checkpoints_that_a_damaged_one_made_useless_are_the_oldest(tmp_path):
    touch(tmp_path, *names('1_7', '2_7', '9_7'))        # the run went on from 1_7 and has just written 2_7
    prune(str(tmp_path), 0, 2, str(tmp_path / names('2_7')[0]), 7)
    assert sorted(os.listdir(str(tmp_path))) == names('1_7', '2_7')


def test_the_best_checkpoint_is_kept_and_replaced(tmp_path):
    for number, content in (('1_7', b'first'), ('2_7', b'second')):
        path = tmp_path / names(number)[0]
        path.write_bytes(content)
        for _ in range(2):
            keep_best(str(path))
        assert (tmp_path / BEST).read_bytes() == content
    keep_best(str(tmp_path / names('3_7')[0]))          # a checkpoint that could not be written
    os.remove(str(path))
    assert (tmp_path / BEST).read_bytes() == b'second'
    assert sorted(os.listdir(str(tmp_path))) == sorted([BEST] + names('1_7'))


def test_a_file_system_without_links_gets_a_copy(monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(95, 'Operation not supported')
    monkeypatch.setattr(os, 'link', refuse)
    path = tmp_path / names('1_7')[0]
    path.write_bytes(b'first')
    keep_best(str(path))
    assert (tmp_path / BEST).read_bytes() == b'first' and not os.path.samefile(str(path), str(tmp_path / BEST))


def test_a_folder_with_checkpoints_is_only_opened_to_resume(tmp_path):
    folder = str(tmp_path / 'new' / 'folder')
    RunFolder(folder, 0, START, resuming=False).release()
    assert os.listdir(folder) == []
    for name in (BEST, names('1_7')[0]):
        touch(tmp_path, name)
        with pytest.raises(UserError, match='%s is of an earlier run: .*--resume auto' % name):
            RunFolder(str(tmp_path), 0, START, resuming=False)
        RunFolder(str(tmp_path), 0, START, resuming=True).release()


def test_an_owned_folder_is_refused_until_it_is_released(tmp_path):
    owner = RunFolder(str(tmp_path), 0, START, resuming=False)
    with pytest.raises(UserError, match=r'another run owns the folder .* \(process %d on ' % os.getpid()):
        RunFolder(str(tmp_path), 0, START, resuming=True)
    owner.release()
    assert os.listdir(str(tmp_path)) == []
    RunFolder(str(tmp_path), 0, START, resuming=False).release()


def test_a_refused_run_leaves_no_lock(tmp_path):
    touch(tmp_path, BEST)
    with pytest.raises(UserError, match='of an earlier run'):
        RunFolder(str(tmp_path), 0, START, resuming=False)
    assert os.listdir(str(tmp_path)) == [BEST]


def test_a_file_system_without_locks_is_used_without_one(monkeypatch, capsys, tmp_path):
    def refuse(*_):
        raise OSError(errno.ENOLCK, 'No locks available')
    monkeypatch.setattr(run_folder.fcntl, 'flock', refuse)
    folder = RunFolder(str(tmp_path), 0, START, resuming=False)
    assert folder.lock is None
    assert 'has no locks (No locks available): do not start a second run there' in capsys.readouterr().err


def test_no_room_is_said_at_the_start(monkeypatch, tmp_path):
    network = NASNetAMobile(auxiliary_size=224)
    arrays = arrays_of(network, FlatRMSProp(network.trainable_params()))
    check_room(str(tmp_path), arrays)
    monkeypatch.setattr(run_folder.shutil, 'disk_usage', lambda folder: SimpleNamespace(total=1 << 30, free=80 << 20))
    with pytest.raises(UserError, match='has 80 MiB free, a checkpoint takes 88 MiB: make room'):
        check_room(str(tmp_path), arrays)
    monkeypatch.setattr(run_folder.shutil, 'disk_usage', lambda folder: SimpleNamespace(total=1 << 30, free=100 << 20))
    check_room(str(tmp_path), arrays)
    with pytest.raises(UserError, match='has 100 MiB free, a checkpoint takes 176 MiB: make room'):
        check_room(str(tmp_path), arrays, 2)
    monkeypatch.setattr(run_folder.shutil, 'disk_usage', lambda folder: SimpleNamespace(total=0, free=0))
    check_room(str(tmp_path), arrays)       # the file system does not know


# The way back

def written(folder, number, rank=0):
    """Write a small checkpoint; returns its path."""
    path = checkpoint_path(str(folder), rank, *number)
    save(path, {'a': np.full(3, number[0], np.float32)}, {})
    return path


def test_auto_takes_the_newest_good_checkpoint(capsys, tmp_path):
    assert find_checkpoint('auto', str(tmp_path), 0) is None
    paths = [written(tmp_path, number) for number in ((1, 4), (2, 4), (10, 4))]
    assert find_checkpoint('auto', str(tmp_path), 0).path == paths[2]
    assert capsys.readouterr().err == ''
    with open(paths[2], 'wb') as file:
        file.write(b'damaged')
    assert find_checkpoint('auto', str(tmp_path), 0).path == paths[1]
    assert capsys.readouterr().err.startswith('warning: %s' % paths[2])
    assert find_checkpoint(paths[0], 'elsewhere', 0).path == paths[0]


def test_all_ranks_prefer_the_checkpoint_of_rank_0(tmp_path):
    path = written(tmp_path, (2, 4), rank=1)
    assert find_checkpoint('auto', str(tmp_path), 1).path == path
    path = written(tmp_path, (1, 4))
    assert find_checkpoint('auto', str(tmp_path), 1).path == path


def test_a_run_with_only_damaged_checkpoints_does_not_start_again(tmp_path):
    touch(tmp_path, *names('7_4'))
    with pytest.raises(UserError, match='none of the 1 checkpoints in .* can be used'):
        find_checkpoint('auto', str(tmp_path), 0)


def test_a_run_resumes_only_from_its_own_checkpoints():
    config = small_config()
    images = SimpleNamespace(num_images=32, class_names=['a', 'b'], describe=lambda: '32 images')
    there = Checkpoint('a.ckpt', {}, {'config': vars(config), 'images': 32, 'epoch': 3, 'sums': [1, 2.0, 3.0]})
    other = SimpleNamespace(num_images=31, class_names=['a', 'b'], describe=lambda: '31 images')
    for its_config, its_images, sentence in (
            (small_config(lr_init=1.0), images, r'a\.ckpt is of another run \(lr_init 0\.04 there, 1\.0 here\): set'),
            (config, other, r'\(32 training images there, 31 here')):
        with pytest.raises(UserError, match=sentence):
            resume(there, its_config, its_images, False, None)
    with pytest.raises(UserError, match='holds no position to resume from: it was not written by train.py'):
        resume(there._replace(meta={'config': vars(config)}), config, images, False, None)


# The class list

def test_a_class_list_comes_back_as_it_was(tmp_path):
    path = str(tmp_path / 'classes.txt')
    for classes in (['n01440764', 'mit Leerzeichen', ' größer\u2028\x85猫\udce9\t'], ['one']):
        save_class_names(path, classes)
        assert load_class_names(path) == classes
    assert os.listdir(str(tmp_path)) == ['classes.txt']


@pytest.mark.parametrize('content', [
    'café\r\n猫\r\n'.encode(), b'\xef\xbb\xbf' + 'café\n猫\n'.encode(), 'café\n猫'.encode(), 'café\n猫\n\n'.encode(),
    b'\xef\xbb\xbf' + 'café\r\n猫'.encode(), 'café\r\n猫\r\n'.encode('utf-16'),
    b'\xfe\xff' + 'café\n猫'.encode('utf-16-be')])
def test_a_class_list_comes_back_from_windows(tmp_path, content):
    (tmp_path / 'classes.txt').write_bytes(content)
    assert load_class_names(str(tmp_path / 'classes.txt')) == ['café', '猫']


@pytest.mark.parametrize('text,fault', [('', 'line 1 is empty'), ('\n', 'line 1 is empty'),
                                        ('a\n\nb\n', 'line 2 is empty'), ('a\nb\na\n', 'line 3 is the same as line 1')])
def test_a_file_that_is_no_class_list_is_named(tmp_path, text, fault):
    (tmp_path / 'classes.txt').write_text(text)
    with pytest.raises(UserError, match=r'classes.txt is not a list of different class names, .* \(%s\): give' % fault):
        load_class_names(str(tmp_path / 'classes.txt'))


def test_names_of_classes_that_look_the_same_are_told_apart():
    config = small_config()
    images = SimpleNamespace(num_images=32, class_names=['cafe\u0301', '猫'], describe=lambda: '32 images')
    there = Checkpoint('a.ckpt', {}, {'config': vars(config), 'images': 32, 'epoch': 3, 'sums': [1, 2.0, 3.0],
                                      'class_names': ['caf\xe9', '猫']})
    with pytest.raises(UserError, match=r"only there: 'caf\\xe9'; only here: 'cafe\\u0301'\): set the same"):
        resume(there, config, images, False, None)
    with pytest.raises(UserError, match=r"only there: '狗'; only here: 'cafe\u0301'\): set the same"):
        resume(there._replace(meta=dict(there.meta, class_names=['狗', '猫'])), config, images, False, None)


def test_a_class_list_that_cannot_be_read_or_written_is_named(tmp_path):
    with pytest.raises(UserError, match='no.txt cannot be read .No such file or directory.: give the one'):
        load_class_names(str(tmp_path / 'no.txt'))
    with pytest.raises(UserError, match='cannot be written .No such file or directory.: choose another folder'):
        save_class_names(str(tmp_path / 'no' / 'classes.txt'), ['a'])
