"""metrics.csv and its picture: both are whole, and several runs fit into one picture."""
import os
import sys

import pytest
from PIL import Image

from src.errors import UserError
from src.files import SaveError
from src.training import metrics
from src.training.metrics import COLUMNS, draw_curves, read_rows, write_metrics

BLUE, ORANGE, GREEN = (31, 119, 180), (255, 127, 14), (44, 160, 44)        # matplotlib's first three colours


def rows(count, top1='0.5', first=1):
    """Rows of metrics.csv. The first epoch of a process that is only one step long has no speed."""
    return [[str(epoch), str(4 * epoch), '%g' % (0.04 * 0.97 ** epoch), '%.6f' % (3 / epoch), '1.000000', top1, top1,
             '20', '0', '9.00' if epoch > first else ''] for epoch in range(first, first + count)]


def colors(path):
    """{colour: number of pixels} of a picture."""
    return {color: count for count, color in Image.open(str(path)).convert('RGB').getcolors(10 ** 6)}


def test_the_picture_is_1000_pixels_wide_and_metrics_csv_is_read_back(tmp_path):
    write_metrics(str(tmp_path), rows(3), 'choose another place')
    assert sorted(os.listdir(str(tmp_path))) == ['metrics.csv', 'metrics.png']
    assert Image.open(str(tmp_path / 'metrics.png')).size[0] == 1000
    assert colors(tmp_path / 'metrics.png')[BLUE] > 500         # five curves
    assert read_rows(str(tmp_path / 'metrics.csv')) == rows(3)


def test_both_files_are_written_only_for_a_new_epoch(tmp_path):
    def written():
        return {(name, os.stat(str(tmp_path / name)).st_mtime_ns) for name in ('metrics.csv', 'metrics.png')}
    write_metrics(str(tmp_path), rows(1), '')
    before = written()
    write_metrics(str(tmp_path), rows(1), '')
    assert written() == before
    write_metrics(str(tmp_path), rows(2), '')
    assert not written() & before


def test_a_kill_between_the_two_files_is_made_good(tmp_path, monkeypatch):
    write_metrics(str(tmp_path), rows(1), '')
    old = (tmp_path / 'metrics.png').read_bytes()
    monkeypatch.setattr(metrics, 'draw_curves', lambda *_: None)
    write_metrics(str(tmp_path), rows(2), '')
    monkeypatch.undo()
    assert (tmp_path / 'metrics.png').read_bytes() == old and read_rows(str(tmp_path / 'metrics.csv')) == rows(2)
    write_metrics(str(tmp_path), rows(2), '')
    assert (tmp_path / 'metrics.png').read_bytes() != old


def test_a_picture_that_cannot_be_written_costs_no_row(tmp_path):
    (tmp_path / 'metrics.png').mkdir()
    with pytest.raises(SaveError, match='metrics.png cannot be written .*: choose another place'):
        write_metrics(str(tmp_path), rows(2), 'choose another place')
    assert read_rows(str(tmp_path / 'metrics.csv')) == rows(2)


def test_without_matplotlib_there_is_one_warning_and_no_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    for count in (1, 2):
        write_metrics(str(tmp_path), rows(count), '')
    assert capsys.readouterr().err.count('\n') == 1
    assert os.listdir(str(tmp_path)) == ['metrics.csv'] and read_rows(str(tmp_path / 'metrics.csv')) == rows(2)


def test_an_error_of_matplotlib_is_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(metrics, 'draw_curves', lambda *_: 1 / 0)
    metrics._warn.cache_clear()
    write_metrics(str(tmp_path), rows(1), '')
    assert capsys.readouterr().err == 'warning: metrics.png is not drawn, matplotlib says: division by zero\n'
    assert read_rows(str(tmp_path / 'metrics.csv')) == rows(1)


def test_each_of_several_runs_has_a_colour_and_a_line_in_the_legend(tmp_path):
    one, three = str(tmp_path / 'one.png'), str(tmp_path / 'three.png')
    draw_curves([('a', rows(3))], one, '')
    # A name that a legend would leave out, letters that the font lacks, a formula, bytes that are not UTF-8; no
    # validation, and only one epoch.
    draw_curves([('_a', rows(3)), ('猫 $x$' * 40, rows(20, top1='')), ('\udcff', rows(1))], three, '')
    assert ORANGE not in colors(one) and all(colors(three)[color] > 20 for color in (BLUE, ORANGE, GREEN))
    assert Image.open(three).size[1] > Image.open(one).size[1]
    below = Image.open(three).convert('RGB').crop((0, 700, 1000, Image.open(three).size[1]))
    assert {BLUE, ORANGE, GREEN} <= {color for _, color in below.getcolors(10 ** 6)}


def test_more_runs_than_colours_of_matplotlib_are_told_apart(tmp_path):
    draw_curves([('run %d' % number, [row[:3] + ['%d' % number] + row[4:] for row in rows(3)])
                 for number in range(12)], str(tmp_path / 'a.png'), '')
    assert len({tuple(color) for color in metrics._colors(12)}) == 12


def test_columns_that_an_earlier_version_did_not_write_are_empty(tmp_path):
    (tmp_path / 'a.csv').write_text('epoch,step,learning_rate,loss,gradient_norm,top1,top5,images_per_second\n'
                                    '1,4,0.04,2.5,1,0.5,1,9.00\n')
    row, = read_rows(str(tmp_path / 'a.csv'))
    assert dict(zip(COLUMNS, row)) == {
        'epoch': '1', 'step': '4', 'learning_rate': '0.04', 'loss': '2.5', 'gradient_norm': '1', 'top1': '0.5',
        'top5': '1', 'validation_images': '', 'skipped_images': '', 'images_per_second': '9.00'}


@pytest.mark.parametrize('content,reason', [
    (None, 'No such file'), (b'', 'no columns epoch and loss'), (b'a,b\n1,2\n', 'no columns'), (b'\xff\xfe\x00', 'utf'),
    (b'epoch,loss\n', 'no epoch is done'), (b'epoch,loss\nx,2\n', 'invalid literal'), (b'epoch,loss\n1,y\n', 'float')])
def test_what_is_no_metrics_csv_is_one_sentence(tmp_path, content, reason):
    if content is not None:
        (tmp_path / 'a.csv').write_bytes(content)
    with pytest.raises(UserError, match=reason) as refused:
        read_rows(str(tmp_path / 'a.csv'))
    assert 'a.csv is of no use' in refused.value.sentence and '--ckpt_path' in refused.value.sentence
