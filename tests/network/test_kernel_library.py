"""The compiled kernels in the user's cache: only what this user compiled is loaded, and damage is mended once."""
import ctypes
import os
import stat
import subprocess
import sys

import pytest

from src.network.cpu import library as compiling
from src.network.cpu.library import library
from tests.helpers import ROOT

pytestmark = pytest.mark.needs('c++')
AGAIN = 'src/network/cpu/kernels.cc is compiled again: %s %s\n'


def fresh():
    """What a new process would get from library()."""
    return library.__wrapped__()


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
    """Bytes of the compiled library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        with open(fresh(), 'rb') as file:
            return file.read()


@pytest.fixture
def cached(compiled, monkeypatch, tmp_path):
    """Path of the library in a cache of its own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    folder = tmp_path / 'nasnet_a_mobile'
    folder.mkdir(mode=0o700)
    path = folder / ('kernels-%s.so' % compiling._origin())
    path.write_bytes(compiled)
    path.chmod(0o600)
    return str(path)


def test_folder_and_file_belong_to_this_user_only(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'new'))
    before = os.umask(0)
    try:
        path = fresh()
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_good_library_is_not_compiled_again(cached, monkeypatch, capsys):
    monkeypatch.setattr(compiling, 'COMMAND', ('/nowhere',))
    monkeypatch.setattr(compiling, '_origin', lambda: os.path.basename(cached)[len('kernels-'):-len('.so')])
    assert fresh() == cached and capsys.readouterr().err == ''


def damage(path, kind, folder):
    """Change the library; returns what is said about it."""
    with open(path, 'rb') as file:
        content = file.read()
    if kind == 'truncated':
        os.truncate(path, len(content) // 2)
    elif kind == 'flipped':
        with open(path, 'wb') as file:
            file.write(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    elif kind == 'empty':
        os.truncate(path, 0)
    elif kind == 'link':
        os.rename(path, str(folder / 'other.so'))
        os.symlink(str(folder / 'other.so'), path)
        return 'is a link or belongs to another user'
    elif kind == 'link to nothing':
        os.remove(path)
        os.symlink(str(folder / 'nothing'), path)
        return 'is a link or belongs to another user'
    else:
        os.chmod(path, kind)
        return 'can be written by other users'
    return 'is damaged'


@pytest.mark.parametrize('kind', ['truncated', 'flipped', 'empty', 'link', 'link to nothing', 0o620, 0o602])
def test_a_library_that_cannot_be_trusted_is_compiled_again_once(cached, compiled, capsys, tmp_path, kind):
    reason = damage(cached, kind, tmp_path)
    assert fresh() == cached
    assert capsys.readouterr().err == AGAIN % (cached, reason)
    assert not os.path.islink(cached) and stat.S_IMODE(os.stat(cached).st_mode) == 0o600
    ctypes.CDLL(cached)
    assert os.path.getsize(cached) == len(compiled)
    assert fresh() == cached and capsys.readouterr().err == ''


def test_a_library_of_another_user_is_not_loaded(cached, monkeypatch):
    monkeypatch.setattr(os, 'geteuid', lambda: os.stat(cached).st_uid + 1)
    assert compiling._fault(cached) == 'is a link or belongs to another user'


def test_one_variable_turns_them_off(cached, monkeypatch, capsys):
    monkeypatch.setenv('CPU_KERNELS', '0')
    assert fresh() is None and capsys.readouterr() == ('', '')
    monkeypatch.setenv('CPU_KERNELS', '1')
    assert fresh() == str(cached)


def test_a_folder_of_another_user_is_not_used(cached, monkeypatch, capsys):
    monkeypatch.setattr(os, 'geteuid', lambda: os.stat(cached).st_uid + 1)
    monkeypatch.setattr(ctypes, 'CDLL', pytest.fail)
    assert fresh() is None
    said = capsys.readouterr().err
    assert '(%s is a link or belongs to another user); it needs' % os.path.dirname(cached) in said
    assert said.startswith('slower on this CPU') and said.count('\n') == 1


def test_a_folder_behind_a_link_is_not_used(cached, monkeypatch, capsys, tmp_path):
    (tmp_path / 'cache').mkdir()
    os.symlink(os.path.dirname(cached), str(tmp_path / 'cache' / 'nasnet_a_mobile'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(ctypes, 'CDLL', pytest.fail)
    assert fresh() is None and 'is a link or belongs to another user' in capsys.readouterr().err


def test_others_lose_the_right_to_write_in_the_folder(cached, monkeypatch, capsys):
    folder = os.path.dirname(cached)
    os.chmod(folder, 0o777)
    assert fresh() == cached and capsys.readouterr().err == ''
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    os.chmod(folder, 0o777)
    monkeypatch.setattr(os, 'chmod', lambda *_: None)       # a file system without modes
    assert fresh() is None and 'other users can write in %s' % folder in capsys.readouterr().err


def test_without_a_home_no_folder_is_made(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr(os.path, 'expanduser', lambda path: path)       # a user that /etc/passwd does not know
    assert fresh() is None and os.listdir(str(tmp_path)) == []
    assert '~/.cache/nasnet_a_mobile is no full path' in capsys.readouterr().err
    monkeypatch.setenv('XDG_CACHE_HOME', 'relative')
    assert fresh() is None and os.listdir(str(tmp_path)) == []


def test_a_truncated_library_does_not_end_the_process(cached, tmp_path):
    os.truncate(cached, os.path.getsize(cached) // 2)
    process = subprocess.run([sys.executable, '-c', 'from src.network.cpu.library import library; print(library())'],
                             cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                             env=dict(os.environ, XDG_CACHE_HOME=str(tmp_path)), timeout=300)
    assert process.returncode == 0 and process.stdout.strip() == cached
    assert AGAIN % (cached, 'is damaged') in process.stderr
