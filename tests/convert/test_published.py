"""The published weight files are recognized, and the page shows the facts that the tool knows."""
import gzip
import hashlib
import os
import re
from fnmatch import fnmatch

import pytest

from src.convert import published
from src.convert.published import PUBLISHED, Published, recognize
from src.errors import UserError
from tests.helpers import ROOT
from tools.convert_weights import convert


@pytest.mark.parametrize('page,unknown', [('weights.md', 'not known'), ('weights_CN.md', '未知')])
def test_the_page_shows_what_the_tool_knows(page, unknown):
    with open(os.path.join(ROOT, 'docs', page), encoding='utf-8') as file:
        text = file.read()
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.split('\n')
            if re.match(r'\| \[`[^`]+`\]\(https?:', line)]
    assert len(rows) == len(PUBLISHED)
    for row, entry in zip(rows, PUBLISHED):
        assert fnmatch(re.match(r'\[`([^`]+)`', row[0]).group(1), entry.names[0])
        assert row[2] == (unknown if entry.size is None else format(entry.size, ','))
        assert re.findall(r'[0-9.]+(?= %)', row[3]) == [str(value) for value in entry.accuracy or ()]
        assert row[4].rstrip('.') == ('%s `%s`' % entry.digest if entry.digest else unknown)


def test_no_name_is_of_two_files():
    for entry in PUBLISHED:
        for name in entry.names:
            concrete = name.replace('[3-9]', '5')
            assert [other for other in PUBLISHED if any(fnmatch(concrete, each) for each in other.names)] == [entry]


@pytest.mark.parametrize('algorithm,length', [('MD5', 32), ('SHA-256', 8)])
def test_the_digest_decides_whatever_the_name_is(tmp_path, monkeypatch, algorithm, length):
    content = b'weights'
    digest = hashlib.new(algorithm.replace('-', '').lower(), content).hexdigest()[:length]
    monkeypatch.setattr(published, 'PUBLISHED', (
        Published('A', ('a.h5',), None, None, None), Published('B', ('b.h5',), 7, (algorithm, digest), None)))
    for name in ('b.h5', 'a.h5', 'renamed'):
        (tmp_path / name).write_bytes(content)
        assert recognize(str(tmp_path / name)) == 'recognized: b.h5 of B (its %s is the published one)' % algorithm
    (tmp_path / 'b.h5').write_bytes(content + b'x')
    assert re.match('not recognized: it is called like b.h5 of B, but has 8 bytes instead of 7, %s [0-9a-f]{%d} '
                    'instead of %s; ' % (algorithm, length, digest), recognize(str(tmp_path / 'b.h5')))
    (tmp_path / 'a.h5').write_bytes(content + b'x')
    assert recognize(str(tmp_path / 'a.h5')).startswith('perhaps a.h5 of A: only the name can be compared')
    (tmp_path / 'renamed').write_bytes(content + b'x')
    assert recognize(str(tmp_path / 'renamed')).startswith('not recognized: no published file ')


def test_the_tool_says_what_it_recognized_before_it_reads(tmp_path, capsys):
    half = tmp_path / 'nasnet_mobile.h5'
    half.write_bytes(b'\x89HDF\r\n\x1a\n and no more')
    with pytest.raises(UserError, match='cannot be read as a keras file'):
        convert(str(half), 'auto', str(tmp_path / 'a.ckpt'))
    assert capsys.readouterr().out.startswith(
        'not recognized: it is called like NASNet-mobile.h5 of Keras, with its classifier, but has 20 bytes instead of '
        '24227760, MD5 ')
    (tmp_path / 'model.ckpt.index').write_bytes(b'')
    with pytest.raises(UserError):
        convert(str(tmp_path / 'model.ckpt'), 'auto', str(tmp_path / 'a.ckpt'))
    assert capsys.readouterr().out.startswith('perhaps model.ckpt of TF-Slim: only the name can be compared')
    with pytest.raises(UserError, match='absent.h5 is not a file'):
        convert(str(tmp_path / 'absent.h5'), 'auto', str(tmp_path / 'a.ckpt'))
    assert capsys.readouterr().out == ''


def test_a_packed_archive_must_be_unpacked(tmp_path):
    path = tmp_path / 'nasnet-a_mobile_04_10_2017.tar.gz'
    path.write_bytes(gzip.compress(b'model.ckpt'))
    with pytest.raises(UserError, match='is a packed archive: unpack it'):
        convert(str(path), 'auto', str(tmp_path / 'a.ckpt'))
