"""TensorBoard's files: each point once, also after a resume from an earlier checkpoint and after a kill."""
import io
import os

import numpy as np
import pytest
from PIL import Image

from src import files
from src.files import SaveError
from src.training.events import EventFile, list_event_files, read_events
from tools.crash_test import points

FIRST = 'events.out.tfevents.000001.nasnet-a-mobile'


def write(folder, steps, last, epochs=0, length=4):
    """What a process writes that goes on after `steps` steps and `epochs` epochs and ends after the step `last`."""
    events = EventFile(str(folder), steps, epochs * length)
    if events.is_first:
        events.add_images(np.zeros((2, 3, 8, 8), np.float32))
    for step in range(steps + 1, last + 1):
        events.add(step, 'training', {'loss': 1 / step, 'images_per_second': steps})
        if step % length == 0:
            events.add(step, 'validation', {'top1': step / 100})
    return events


def test_points_are_read_back(tmp_path):
    write(tmp_path, 0, 4)
    found = points(str(tmp_path))
    assert [(step, name) for step, name, _ in found] == [(1, 'training/images')] + [
        (step, 'training/loss') for step in (1, 2, 3, 4)] + [(4, 'validation/top1')]
    assert found[2][2] == 0.5 and os.listdir(str(tmp_path)) == [FIRST]
    begin = [event for _, event in read_events(str(tmp_path / FIRST))][:2]
    assert begin[0].file_version == 'brain.Event:2' and begin[1].session_log.status == begin[1].session_log.START


@pytest.mark.parametrize('steps,epochs', [(6, 1), (8, 2), (8, 1), (3, 0)])
def test_a_resumed_run_has_the_points_of_an_undisturbed_one(tmp_path, steps, epochs):
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    whole.mkdir(), resumed.mkdir()
    write(whole, 0, 12)
    write(resumed, 0, 10)               # it was killed long after its last checkpoint, of `steps` and `epochs`
    events = EventFile(str(resumed), steps, 4 * epochs)
    assert not events.is_first
    if steps == 4 * (epochs + 1):       # that checkpoint came before the validation
        events.add(steps, 'validation', {'top1': steps / 100})
    write(resumed, steps, 12, steps // 4)
    assert points(str(resumed)) == points(str(whole))


def test_a_new_run_keeps_nothing_of_one_that_left_no_checkpoint(tmp_path):
    write(tmp_path, 0, 3)
    write(tmp_path, 0, 2)
    assert [step for step, _, _ in points(str(tmp_path))] == [1, 1, 2]
    assert list(list_event_files(str(tmp_path))) == [2]         # its number is new, for a TensorBoard that is running


def test_a_record_that_a_kill_cut_off_is_removed(tmp_path):
    write(tmp_path, 0, 2)
    expected = points(str(tmp_path))
    whole = (tmp_path / FIRST).read_bytes()
    for rest in (b'\x01', b'\0' * 40, whole[:-1][-30:], whole[:20]):
        (tmp_path / FIRST).write_bytes(whole + rest)
        assert not EventFile(str(tmp_path), 2, 0).is_first
        assert (tmp_path / FIRST).read_bytes() == whole and points(str(tmp_path)) == expected


def test_files_of_others_stay(tmp_path):
    for name in ('events.out.tfevents.1700000000.host', 'events.out.tfevents.x.nasnet-a-mobile'):
        (tmp_path / name).write_text('of others')
    write(tmp_path, 0, 1)
    write(tmp_path, 0, 1)
    assert len(os.listdir(str(tmp_path))) == 3
    assert (tmp_path / 'events.out.tfevents.1700000000.host').read_text() == 'of others'


def test_images_are_what_the_network_gets(tmp_path):
    images = np.stack([np.full((3, 8, 8), value, np.float32) for value in (-1, 0.5, 1)])
    images[2, 1:] = -1          # red
    EventFile(str(tmp_path), 0, 0).add_images(images)
    (_, name, picture), = points(str(tmp_path))
    pixels = np.array(Image.open(io.BytesIO(picture)))
    assert name == 'training/images' and pixels.shape[2] == 3
    assert [pixels[4, column].tolist() for column in (4, 12, 20)] == [[0, 0, 0], [191, 191, 191], [255, 0, 0]]


def test_a_full_disk_costs_no_point_that_was_written(tmp_path, monkeypatch):
    events = write(tmp_path, 0, 2)
    before = (tmp_path / FIRST).read_bytes()

    def full(_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(files, 'sync', full)
    with pytest.raises(SaveError, match='nasnet-a-mobile cannot be written .No space left on device.: make room'):
        events.add(3, 'training', {'loss': 1})
    monkeypatch.undo()
    assert (tmp_path / FIRST).read_bytes() == before
    events.add(3, 'training', {'loss': 1})
    assert points(str(tmp_path))[-1] == (3, 'training/loss', 1)
