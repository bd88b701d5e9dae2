"""What a program must do before it imports NumPy or MindSpore."""
import os
import sys

from src.signals import keep_ctrl_c


def prepare(given):
    """Prepare this process for NumPy and MindSpore, which must not have been imported yet.

    Ctrl-C is kept (see `keep_ctrl_c`). NVIDIA's libraries read NVIDIA_TF32_OVERRIDE when they are loaded: 0 keeps
    float32 as it is. Output never ends a program: a name that the terminal's encoding lacks is escaped, and a closed
    stdout or stderr is replaced by nothing.

    Args:
        given: {configuration key: value} of the command line.
    """
    if given.get('tf32'):
        os.environ.pop('NVIDIA_TF32_OVERRIDE', None)
    else:
        os.environ['NVIDIA_TF32_OVERRIDE'] = '0'
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is None:          # the program was started with the stream closed
            setattr(sys, name, open(os.devnull, 'w'))
        elif hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
    keep_ctrl_c()
