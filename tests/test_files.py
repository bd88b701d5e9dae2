"""A file is whole or as it was, whatever kills its writer; leftovers go away, and only those; errors say what helps."""
import errno
import hashlib
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

from src.files import (
    FOREIGN_AGE,
    UNFINISHED,
    SaveError,
    append,
    digest,
    prepare_folder,
    remove_leftovers,
    save_error,
    sync,
    unfinished_folder,
    whole_file,
    write_text,
)
from tests.helpers import ROOT

REMEDY = 'choose another place'
HALF = '''
import sys, time
from src.files import whole_file
with whole_file(sys.argv[1], 'x') as unfinished:
    with open(unfinished, 'w') as file:
        file.write('half')
        file.flush()
        print('ready', flush=True)
        time.sleep(600)
'''


def names(folder):
    """Names of everything in a folder, hidden files included."""
    return sorted(os.listdir(str(folder)))


@pytest.fixture
def writer(tmp_path):
    """A process that has written half of tmp_path/a.txt."""
    process = subprocess.Popen([sys.executable, '-c', HALF, str(tmp_path / 'a.txt')], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'ready\n'
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


# Whole or as it was

def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / 'a.txt'
    for text in ('first', 'second'):
        before = path.read_text() if path.exists() else None
        with whole_file(str(path), REMEDY) as unfinished:
            with open(unfinished, 'w') as file:
                file.write(text)
            assert os.path.basename(unfinished) == 'a.txt'
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == text
        assert names(tmp_path) == ['a.txt']


def test_a_path_without_a_folder_is_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text('a.txt', 'text', REMEDY)
    assert names(tmp_path) == ['a.txt']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file(tmp_path, error):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(error):
        with whole_file(str(path), REMEDY) as unfinished:
            with open(unfinished, 'w') as file:
                file.write('half')
            raise error()
    assert path.read_text() == 'old' and names(tmp_path) == ['a.txt']


def test_a_kill_leaves_the_old_file_and_the_next_write_removes_the_rest(tmp_path, writer):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    rest = '%sa.txt-%s-%d' % (UNFINISHED, socket.gethostname(), writer.pid)
    assert path.read_text() == 'old' and names(tmp_path) == sorted([rest, 'a.txt'])
    write_text(str(tmp_path / 'b.txt'), 'new', REMEDY)
    assert names(tmp_path) == ['a.txt', 'b.txt']


def test_a_file_of_a_living_process_stays(tmp_path, writer):
    write_text(str(tmp_path / 'a.txt'), 'mine', REMEDY)
    rest = '%sa.txt-%s-%d' % (UNFINISHED, socket.gethostname(), writer.pid)
    assert names(tmp_path) == sorted([rest, 'a.txt'])
    assert (tmp_path / rest / 'a.txt').read_text() == 'half'


def test_files_of_another_host_stay_for_a_day(tmp_path):
    fresh, old, strange = ('%sa.txt-%s-1' % (UNFINISHED, host) for host in ('fresh-host', 'old-host', 'x'))
    strange = UNFINISHED + 'a.txt'      # the name that an earlier version gave
    for name in (fresh, old, strange):
        (tmp_path / name).mkdir()
    long_ago = time.time() - FOREIGN_AGE - 60
    os.utime(str(tmp_path / old), (long_ago, long_ago))
    remove_leftovers(str(tmp_path))
    assert names(tmp_path) == sorted([fresh, strange])
    os.utime(str(tmp_path / strange), (long_ago, long_ago))
    remove_leftovers(str(tmp_path))
    assert names(tmp_path) == [fresh]


def test_other_hidden_files_stay(tmp_path):
    for name in ('.hidden', 'unfinished-a-%s-1' % socket.gethostname()):
        (tmp_path / name).mkdir()
    before = names(tmp_path)
    remove_leftovers(str(tmp_path))
    assert names(tmp_path) == before


def test_several_files_appear_together_and_replace_older_ones(tmp_path):
    (tmp_path / 'a.txt').write_text('old')
    (tmp_path / 'other.txt').write_text('old')
    with unfinished_folder(str(tmp_path), REMEDY) as unfinished:
        for name in ('a.txt', 'b.txt'):
            with open(os.path.join(unfinished, name), 'w') as file:
                file.write('new')
        assert (tmp_path / 'a.txt').read_text() == 'old' and not (tmp_path / 'b.txt').exists()
    assert [(tmp_path / name).read_text() for name in names(tmp_path)] == ['new', 'new', 'old']
    with pytest.raises(KeyError):
        with unfinished_folder(str(tmp_path), REMEDY) as unfinished:
            with open(os.path.join(unfinished, 'a.txt'), 'w') as file:
                file.write('newer')
            raise KeyError
    assert (tmp_path / 'a.txt').read_text() == 'new' and names(tmp_path) == ['a.txt', 'b.txt', 'other.txt']


@pytest.mark.parametrize('umask,mode', [(0o077, 0o600), (0o002, 0o664)])
def test_the_umask_says_who_may_read_a_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(str(tmp_path / 'a.txt'), 'text', REMEDY)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(str(tmp_path / 'a.txt')).st_mode) == mode


# What some file systems cannot do

def refuse(monkeypatch, name, number, only=lambda path: True):
    """Let a function of os raise an OSError with this number for some paths or open files."""
    original = getattr(os, name)

    def function(target, *arguments, **keywords):
        path = os.readlink('/proc/self/fd/%d' % target) if isinstance(target, int) else target
        if only(path):
            raise OSError(number, os.strerror(number))
        return original(target, *arguments, **keywords)
    monkeypatch.setattr(os, name, function)


@pytest.mark.parametrize('number', [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_modes_gets_files(tmp_path, monkeypatch, number):
    refuse(monkeypatch, 'chmod', number)
    write_text(str(tmp_path / 'a.txt'), 'text', REMEDY)
    assert (tmp_path / 'a.txt').read_text() == 'text'


@pytest.mark.parametrize('number', [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
@pytest.mark.parametrize('only', [os.path.isdir, os.path.isfile])
def test_a_file_system_that_cannot_flush_gets_files(tmp_path, monkeypatch, number, only):
    refuse(monkeypatch, 'fsync', number, only)
    write_text(str(tmp_path / 'a.txt'), 'text', REMEDY)
    assert (tmp_path / 'a.txt').read_text() == 'text' and names(tmp_path) == ['a.txt']


def test_a_folder_whose_list_may_not_be_read_is_not_flushed(tmp_path, monkeypatch):
    refuse(monkeypatch, 'open', errno.EACCES)       # root may read every folder
    sync(str(tmp_path))


@pytest.mark.parametrize('number', [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_to_flush_leaves_the_old_file(tmp_path, monkeypatch, number):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    refuse(monkeypatch, 'fsync', number)
    with pytest.raises(SaveError, match='cannot be written .%s.: ' % os.strerror(number)):
        write_text(str(path), 'new', REMEDY)
    assert path.read_text() == 'old'


def test_text_is_written_as_it_is(tmp_path):
    text = 'größer\u2028猫\r\n\udcff\n'        # \udcff stands for a byte that is not UTF-8
    write_text(str(tmp_path / 'a.txt'), text, REMEDY)
    assert (tmp_path / 'a.txt').read_bytes() == text.encode('utf-8', 'surrogateescape')


# Appending

def test_bytes_are_appended(tmp_path):
    path = tmp_path / 'a.bin'
    for part in (b'one', b'', b'two'):
        append(str(path), part, REMEDY)
    assert path.read_bytes() == b'onetwo'


@pytest.mark.parametrize('content', [b'old', None])
def test_a_disk_that_becomes_full_while_bytes_are_appended_leaves_the_file_as_it_was(tmp_path, content):
    path = tmp_path / 'a.bin'
    if content:
        path.write_bytes(content)
    code = ('import sys\nfrom src.files import SaveError, append\ntry:\n    append(sys.argv[1], b"x" * 10000, '
            '"choose another place")\nexcept SaveError as error:\n    print(error.sentence)')
    process = subprocess.run([sys.executable, '-c', code, str(path)], cwd=ROOT, stdout=subprocess.PIPE,
                             universal_newlines=True,
                             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))
    assert process.stdout == '%s cannot be written (File too large): make room or choose another place\n' % path
    assert path.read_bytes() == content if content else not path.exists()


# Errors

def test_only_a_full_disk_is_answered_by_making_room():
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        error = save_error('a.txt', OSError(number, os.strerror(number)), REMEDY)
        assert error.sentence == 'a.txt cannot be written (%s): make room or choose another place' % os.strerror(number)
    for number in (errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
        error = save_error('a.txt', OSError(number, os.strerror(number)), REMEDY)
        assert error.sentence == 'a.txt cannot be written (%s): choose another place' % os.strerror(number)
    error = save_error('a.png', OSError('without a number'), REMEDY)        # libraries raise such too
    assert error.sentence == 'a.png cannot be written (without a number): choose another place'


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    code = ('import sys\nfrom src.files import SaveError, write_text\ntry:\n    write_text(sys.argv[1], "x" * 10000, '
            '"choose another place")\nexcept SaveError as error:\n    print(error.sentence)')
    process = subprocess.run([sys.executable, '-c', code, str(path)], cwd=ROOT, stdout=subprocess.PIPE,
                             universal_newlines=True,
                             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))
    assert process.stdout == '%s cannot be written (File too large): make room or choose another place\n' % path
    assert path.read_text() == 'old' and names(tmp_path) == ['a.txt']


def test_a_folder_that_is_absent_is_named(tmp_path):
    path = str(tmp_path / 'absent' / 'a.txt')
    with pytest.raises(SaveError) as refused:
        write_text(path, 'text', REMEDY)
    assert refused.value.sentence == '%s cannot be written (No such file or directory): choose another place' % path
    with pytest.raises(SaveError, match='absent cannot be written'):
        with unfinished_folder(os.path.dirname(path), REMEDY):
            pass


def test_a_folder_is_prepared_before_the_work(tmp_path, monkeypatch):
    prepare_folder(str(tmp_path / 'a' / 'b'), 'choose another')
    assert os.listdir(str(tmp_path / 'a' / 'b')) == []
    monkeypatch.chdir(tmp_path)
    prepare_folder('', 'choose another')
    assert os.listdir(str(tmp_path)) == ['a']
    (tmp_path / 'file').touch()
    for folder in (tmp_path / 'file', '/proc'):
        with pytest.raises(SaveError, match=r'^error: %s cannot be written \(.*\): choose another$' % folder):
            prepare_folder(str(folder), 'choose another')


# Digests

def test_a_digest_covers_names_types_shapes_and_bytes():
    arrays = {'b': np.arange(4, dtype=np.int64), 'a': np.float32([[1, 2]])}
    expected = hashlib.sha256(b'a float32 (1, 2);' + np.float32([1, 2]).tobytes() + b'b int64 (4,);'
                              + np.arange(4).tobytes())
    found = digest(arrays)
    assert found.dtype == np.uint8 and found.tobytes() == expected.digest()
    assert digest(dict(sorted(arrays.items()))).tobytes() == found.tobytes()
    for changed in (dict(arrays, a=np.float32([1, 2])), dict(arrays, a=np.float32([[1, 3]])),
                    dict(arrays, a=np.float64([[1, 2]])), {'b': arrays['b'], 'c': arrays['a']}):
        assert digest(changed).tobytes() != found.tobytes()
    assert digest({'b': arrays['b'], 'a': np.float32([[1, 0, 2, 0]])[:, ::2]}).tobytes() == found.tobytes()
