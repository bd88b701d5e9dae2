"""What a program must do before it imports NumPy or MindSpore."""
import errno
import io
import os
import select
import sys

from src.errors import UserError
from src.signals import keep_ctrl_c


def prepare(given):
    """Prepare this process for NumPy and MindSpore, which must not have been imported yet.

    Ctrl-C and the output are kept (see `keep_ctrl_c` and `keep_output`). NVIDIA's libraries read NVIDIA_TF32_OVERRIDE
    when they are loaded: 0 keeps float32 as it is.

    Args:
        given: {configuration key: value} of the command line.
    """
    if given.get('tf32'):
        os.environ.pop('NVIDIA_TF32_OVERRIDE', None)
    else:
        os.environ['NVIDIA_TF32_OVERRIDE'] = '0'
    keep_output()
    keep_ctrl_c()


class Output(io.FileIO):
    """Standard output or standard error, which does not end the program when nobody takes what it writes.

    If its reader or its terminal has gone, what is written is dropped. If it is full, as another process can make it
    by setting it to non-blocking, it is waited for.

    Args:
        descriptor: 1 or 2.

    Raises (while writing):
        UserError: standard output cannot be written for another reason, as on a full disk. The result of a program
            would otherwise be lost without a sign. For standard error there is nobody left who could be told.
    """

    def __init__(self, descriptor):
        super().__init__(descriptor, 'w', closefd=False)
        self.has_gone = False

    def write(self, data):
        while not self.has_gone:
            try:
                written = super().write(data)
            except OSError as error:
                self.has_gone = True
                if self.fileno() == 1 and error.errno not in (errno.EPIPE, errno.EIO):
                    raise UserError('the output cannot be written (%s): make room, or send it to another place'
                                    % error.strerror)
            else:
                if written is not None:
                    return written
                select.select([], [self], [])
        return len(data)


def keep_output():
    """Let no output end the program: see `Output`. What the encoding lacks is escaped; a closed stream takes all."""
    for descriptor, name in ((1, 'stdout'), (2, 'stderr')):
        stream = getattr(sys, name)
        if stream is None:          # the program was started with this stream closed
            setattr(sys, name, open(os.devnull, 'w', errors='backslashreplace'))
        elif _descriptor(stream) == descriptor:         # and not what a caller has put in its place
            stream.flush()
            setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(Output(descriptor)), stream.encoding,
                                                'backslashreplace', line_buffering=True))


def _descriptor(stream):
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None
