"""What a person sees of a run: lines, rows of metrics.csv, and the end of a diverged run."""
from types import SimpleNamespace

import numpy as np
import pytest

from src.errors import UserError
from src.framework import Tensor
from src.training.monitor import Monitor


def number(value):
    """A float32 scalar on the device."""
    return Tensor(np.float32(value))


def test_an_epoch_becomes_a_row_with_the_means_of_its_steps(capsys, tmp_path):
    earlier = ['1', '3', '0.1', '3.000000', '1.000000', '0.250000', '0.750000', '20', '0', '9.00']
    monitor = Monitor(str(tmp_path), epochs=2, steps=3, images=8, log_steps=1, rows=[earlier])
    with monitor.begin_epoch(2, sums=(1, 4.0, 2.0)):    # an earlier process has done one step
        for step, loss in ((1, 2.0), (2, 3.0)):
            monitor.step(2, step + 1, number(loss), number(5), 0.1)
    assert monitor.epoch_sums() == (3, 9.0, 12.0)
    monitor.end_epoch(2, 0.1, SimpleNamespace(top1=0.5, top5=1.0, images=20, skipped=0))
    assert monitor.rows[0] == earlier
    assert monitor.rows[1][:-1] == ['2', '6', '0.1', '3.000000', '4.000000', '0.500000', '1.000000', '20', '0']
    assert monitor.best() == (50.0, 2)
    assert 'validation top-1 50.00% top-5 100.00%, best top-1 50.00% in epoch 2' in capsys.readouterr().out
    monitor.write()
    lines = (tmp_path / 'metrics.csv').read_text().split('\n')
    assert lines[0].strip() == ('epoch,step,learning_rate,loss,gradient_norm,top1,top5,validation_images,'
                                'skipped_images,images_per_second')
    assert lines[1].strip() == ','.join(earlier) and lines[3] == ''


def test_of_equally_good_epochs_the_first_is_the_best():
    rows = [[str(epoch), '', '', '', '', top1, '', '20', '0', '']
            for epoch, top1 in ((1, '0.5'), (2, ''), (3, '0.5'), (4, '0.4'))]
    assert Monitor(None, 5, 3, 8, 1, rows).best() == (50.0, 1)
    assert Monitor(None, 5, 3, 8, 1).best() == (0, 0)


@pytest.mark.parametrize('loss,norm', [(np.nan, 1), (1, np.inf)])
def test_a_diverged_run_ends_before_its_checkpoint(tmp_path, loss, norm):
    monitor = Monitor(str(tmp_path), epochs=1, steps=9, images=8, log_steps=9)
    monitor.checkpoint = 'good.ckpt'
    with monitor.begin_epoch(1):
        monitor.step(1, 1, number(1), number(1), 0.1)
        monitor.step(1, 2, number(loss), number(norm), 0.1)     # not read yet, because no line is due
    with pytest.raises(UserError, match=r'training has diverged in epoch 1, step 2: .* is good\.ckpt; .*--lr_init'):
        monitor.epoch_sums()


@pytest.mark.parametrize('loss,scale,remedy', [(1, 2 ** 20, r'--loss_scale \(0: dynamic\)'), (1, 1, '--lr_init'),
                                               (np.nan, 2 ** 20, '--lr_init'), (1, 0, '--lr_init')])
def test_gradients_that_overflow_are_blamed_on_a_fixed_loss_scale(tmp_path, loss, scale, remedy):
    monitor = Monitor(str(tmp_path), epochs=1, steps=9, images=8, log_steps=9, loss_scale=scale)
    monitor.begin_epoch(1)
    with pytest.raises(UserError, match='checkpoint is none; start a new run with a lower %s$' % remedy):
        monitor.step(1, 1, number(loss), number(np.inf), 0.1)


def test_other_ranks_show_and_write_nothing(capsys):
    monitor = Monitor(None, epochs=1, steps=1, images=8, log_steps=1)
    with monitor.begin_epoch(1):
        monitor.step(1, 1, number(1), number(1), 0.1)
    monitor.end_epoch(1, 0.1)
    monitor.write()
    output = capsys.readouterr()
    assert output.out == output.err == ''


def test_time_spent_on_something_else_is_not_in_the_speed(tmp_path):
    monitor = Monitor(str(tmp_path), epochs=1, steps=5, images=8, log_steps=5)
    assert monitor.speed() == 0
    with monitor.begin_epoch(1):
        for step in range(2):
            monitor.step(1, step + 1, number(1), number(1), 0.1)
    monitor.clock -= 10         # as if ten seconds had passed
    assert monitor.speed() == pytest.approx(0.8, rel=0.05)
    monitor.pause(6)
    assert monitor.speed() == pytest.approx(2, rel=0.05)
