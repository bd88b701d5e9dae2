"""What a program must do before it imports NumPy or MindSpore."""
import os
import sys

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


def keep_output():
    """Let no output end the program: a name that the encoding lacks is escaped, and a closed stream takes nothing."""
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is None:          # the program was started with this stream closed
            setattr(sys, name, open(os.devnull, 'w', errors='backslashreplace'))
        elif hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
