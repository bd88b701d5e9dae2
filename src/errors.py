"""A user's mistake becomes one sentence on stderr and an exit status, never a traceback."""
from contextlib import contextmanager


def one_line(text):
    """`text` with its line ends escaped: the name of a file may have some, and a sentence must stay one line."""
    return text.replace('\r', '\\r').replace('\n', '\\n')


class UserError(SystemExit):
    """A mistake that the user can mend. The sentence says what is wrong, where it is, and what to do.

    If nothing catches it, Python prints the text of a SystemExit on stderr, without a traceback, and ends the
    process with status 1.

    Attributes:
        sentence: the sentence without the leading "error: ".
    """

    def __init__(self, sentence):
        sentence = one_line(sentence)
        super().__init__('error: %s' % sentence)
        self.sentence = sentence


@contextmanager
def needed_for(what):
    """Turn a failed import in the block into a UserError; `what` needs the library, the beginning of the sentence."""
    try:
        yield
    except ImportError as error:
        raise UserError('%s needs a library that cannot be imported (%s): install requirements.txt' % (what, error))
