"""A user's mistake becomes one sentence on stderr and an exit status, never a traceback."""
import sys


class UserError(Exception):
    """A mistake the user can mend; its text says what is wrong, where, and what to do."""


def run(main):
    """Run `main()` as a program and end the process with its status.

    A `UserError` is printed as one sentence on stderr and ends with status 1. Anything else is a
    defect of this suite and keeps its traceback.
    """
    try:
        status = main()
    except UserError as error:
        print('error: %s' % error, file=sys.stderr, flush=True)
        status = 1
    sys.exit(status)
