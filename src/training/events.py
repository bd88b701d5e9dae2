"""TensorBoard's event files of a run: points of curves and the images of the first batch, each of them once.

A file is a row of records: the length of the data, its checksum, the data, its checksum. tensorboardX has the data and
the checksum. Its own writer is not used: it has a thread, which would wait for ever on a full disk.
"""
import os
import re
import struct
import time

import numpy as np
from google.protobuf.message import DecodeError
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from src.checkpoints.checkpoint import REMEDY
from src.files import append, save_error, whole_file

# TensorBoard looks for the word in the middle, and reads a folder in the order of the names.
NAME = 'events.out.tfevents.%06d.nasnet-a-mobile'
_LENGTH, _CHECKSUM = struct.Struct('<Q'), struct.Struct('<I')


class EventFile:
    """What this process tells TensorBoard about a run.

    Each process of a run has a file of its own. A process that goes on with a run removes from the files of earlier
    ones what they have written after the checkpoint that it goes on from. So each point is there once, and the curves
    are those of an undisturbed run.

    Args:
        folder: of the run.
        steps: number of steps of the run that are done. Points of later steps are removed.
        steps_of_epochs: number of steps of the epochs that are done, with their validation. Later validations are
            removed.

    Attributes:
        is_first: whether no earlier process of the run has left anything.

    Raises:
        SaveError: a file of an earlier process cannot be read or written.
    """

    def __init__(self, folder, steps, steps_of_epochs):
        earlier = list_event_files(folder)
        self.path = os.path.join(folder, NAME % (1 + max(earlier, default=0)))
        self.steps = steps
        left = [_shorten(path, steps, steps_of_epochs) for path in earlier.values()]
        self.is_first = not any(left)

    def add(self, step, kind, values):
        """Append points.

        Args:
            step: number of the step in the run, from 1.
            kind: 'training' or 'validation'.
            values: {name of the curve: number}.

        Raises:
            SaveError: nothing was appended.
        """
        self._append(step, Summary(value=[Summary.Value(tag='%s/%s' % (kind, name), simple_value=value)
                                          for name, value in values.items()]))

    def add_images(self, images):
        """Append what the network gets in step 1, (N, 3, H, W) float32 in [-1, 1]. Raises what `add` raises."""
        pixels = np.round((images + 1) * 127.5).clip(0, 255).astype(np.uint8)
        self._append(1, summary.image('training/images', pixels, dataformats='NCHW'))

    def _append(self, step, content):
        events = [Event(step=step, wall_time=time.time(), summary=content)]
        if not os.path.exists(self.path):
            start = {'step': self.steps + 1, 'wall_time': time.time()}
            # A TensorBoard that is running forgets by the second one what was removed from the earlier files.
            events = [Event(file_version='brain.Event:2', **start),
                      Event(session_log=SessionLog(status=SessionLog.START), **start)] + events
        append(self.path, b''.join(_record(event.SerializeToString()) for event in events), REMEDY)


def list_event_files(folder):
    """{number: path} of the files of all processes of a run, sorted."""
    pattern = re.compile(NAME.replace('.', r'\.').replace('%06d', r'(\d+)') + '$')
    found = [match for match in map(pattern.match, sorted(os.listdir(folder))) if match]
    return {int(match.group(1)): os.path.join(folder, match.group()) for match in found}


def _record(data):
    length = _LENGTH.pack(len(data))
    return b''.join((length, _CHECKSUM.pack(masked_crc32c(length)), data, _CHECKSUM.pack(masked_crc32c(data))))


def read_events(path):
    """Generate (record as bytes, Event) of an event file. A kill may have cut the last record off; it is left out."""
    with open(path, 'rb') as file:
        data = file.read()
    position = 0
    while position + 12 <= len(data):
        length = data[position:position + 8]
        begin = position + 12
        end = begin + _LENGTH.unpack(length)[0]
        if data[position + 8:begin] != _CHECKSUM.pack(masked_crc32c(length)) or end + 4 > len(data):
            return
        try:
            event = Event.FromString(data[begin:end])
        except DecodeError:
            return
        yield data[position:end + 4], event
        position = end + 4


def _shorten(path, steps, steps_of_epochs):
    """Remove later points and a record that was cut off from an event file; returns whether a point is left.

    A file without a point is deleted.
    """
    try:
        kept, points = [], 0
        for record, event in read_events(path):
            names = [value.tag for value in event.summary.value]
            last = steps_of_epochs if any(name.startswith('validation/') for name in names) else steps
            if not names or event.step <= last:     # without names it is the beginning of the file
                kept.append(record)
                points += len(names)
        if not points:
            os.remove(path)
        elif sum(map(len, kept)) < os.path.getsize(path):
            with whole_file(path, REMEDY) as unfinished, open(unfinished, 'wb') as file:
                file.writelines(kept)
    except OSError as error:
        raise save_error(path, error, REMEDY)
    return points > 0
