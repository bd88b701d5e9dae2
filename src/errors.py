"""A user's mistake becomes one sentence on stderr and an exit status, never a traceback."""


class UserError(SystemExit):
    """A mistake the user can mend: the sentence says what is wrong, where, and what to do.

    Uncaught, it ends the process with the sentence on stderr and status 1: Python prints the text of a
    SystemExit and no traceback.
    """

    def __init__(self, sentence):
        super().__init__('error: %s' % sentence)
