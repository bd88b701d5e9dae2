"""A user's mistake becomes one sentence on stderr and an exit status, never a traceback."""


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
