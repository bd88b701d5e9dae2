"""From flags to a configuration: typed and range-checked, with the nearest known name for a misspelt one."""
import argparse
import difflib
import math
import sys
from types import SimpleNamespace

from src.config import choices, nasnet_a_mobile_config_gpu, ranges
from src.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse with one flag for each configuration key. A mistake is answered by one sentence and status 2."""

    def __init__(self, description):
        super().__init__(description=description, allow_abbrev=False,
                         formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        self.add_argument('--platform', default='GPU', choices=('GPU', 'CPU', 'Ascend'), help='where to run')
        self.add_argument('--device_id', default=0, type=_at_least_zero, metavar='N', help='which device of it')

    def add_weights(self):
        """Add --weights, for the programs that use a checkpoint."""
        self.add_argument('--weights', choices=('ema', 'raw'),
                          help='ema: moving averages (the default if the checkpoint has them); raw: the weights '
                               'that the training steps changed')

    def add_config_keys(self):
        """Add one flag for each key of src/config.py. Keys that are not given are absent from the result."""
        group = self.add_argument_group('configuration (defaults: src/config.py)')
        for key, default in nasnet_a_mobile_config_gpu.items():
            group.add_argument('--' + key, type=boolean if isinstance(default, bool) else type(default),
                               default=argparse.SUPPRESS, metavar='VALUE',
                               help='default %s' % default)

    def parse(self, argv=None):
        """Return (flags of the program, {configuration key: given value}). A mistake ends the process with 2."""
        flags, unknown = self.parse_known_args(argv)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split('=')[0], known, 1, 0.7)
            self.error('unknown argument %s%s' % (unknown[0], ': did you mean %s?' % near[0] if near else
                                                  ', see --help'))
        flags = vars(flags)
        given = {key: flags.pop(key) for key in nasnet_a_mobile_config_gpu if key in flags}
        make_config({key: value for key, value in given.items() if key not in _CHECKED_TOGETHER})
        return SimpleNamespace(**flags), given

    def error(self, message):
        sys.stderr.write('error: %s\n' % message)
        sys.exit(2)


# Whether a value of these fits depends on other values, which a preset or a checkpoint may bring.
_CHECKED_TOGETHER = ('image_size', 'aux_factor', 'rank', 'group_size')


def _at_least_zero(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError('must be 0 or more, got %s' % text)
    return value


_at_least_zero.__name__ = 'int'     # argparse shows this name when the text is not a number


def boolean(text):
    """True or False in any case."""
    if text.lower() not in ('true', 'false'):
        raise argparse.ArgumentTypeError('must be True or False, got %s' % text)
    return text.lower() == 'true'


class Config:
    """A configuration: the keys of src/config.py as attributes that cannot be set. `make_config` makes it."""

    def __init__(self, values):
        self.__dict__.update(values)

    def __setattr__(self, key, value):
        raise AttributeError('a configuration is only read: make another one by replace(config, %s=...)' % key)


def make_config(*layers):
    """The default configuration with the values of each dict of `layers` over it, as a Config.

    Raises:
        UserError: an unknown key, or a value of another type or out of range; the sentence says what is allowed.
    """
    values = dict(nasnet_a_mobile_config_gpu)
    for layer in layers:
        for key, value in layer.items():
            if key not in values:
                near = difflib.get_close_matches(key, values, 1, 0.7)
                raise UserError('unknown configuration key %s%s'
                                % (key, ': did you mean %s?' % near[0] if near else ''))
            values[key] = _checked(key, value)
    if values['penultimate_filters'] % 96:
        raise UserError('penultimate_filters must be a multiple of 96, got %d' % values['penultimate_filters'])
    if values['aux_factor'] and values['image_size'] < 67:
        raise UserError('the auxiliary head needs image_size 67 or more, got %d: enlarge it or set --aux_factor 0'
                        % values['image_size'])
    if values['rank'] >= values['group_size']:
        raise UserError('rank %(rank)d is not below group_size %(group_size)d' % values)
    return Config(values)


def training_config(*layers):
    """`make_config`, with a dynamic loss scale where float16 would underflow and no layer gives a loss scale."""
    config = make_config(*layers)
    if config.amp_level != 'O0' and not any('loss_scale' in layer for layer in layers):
        config = replace(config, loss_scale=0)
    return config


def require_batch_statistics(config):
    """UserError if a BatchNorm that is trained would see only one value of each channel: it has no variance.

    That is so where a batch has one image and the map one pixel: at the end of the auxiliary head, whatever the size
    of the images is, and in the last cells for images below 35 pixels. Gradients of several batches do not help.
    """
    if config.batch_size > 1:
        return
    if config.aux_factor:
        raise UserError('with batch_size 1, BatchNorm has no variance in the auxiliary head: set --batch_size 2 or '
                        'more, or --aux_factor 0')
    # The first convolution makes (S - 1) // 2 of S pixels, and four reductions halve that and round up.
    if (config.image_size - 1) // 2 <= 16 and config.freeze == 'none':
        raise UserError('with batch_size 1 and image_size %d, BatchNorm has no variance in the last cells: set '
                        '--batch_size 2 or more, or --image_size 35 or more' % config.image_size)


def replace(config, **values):
    """A new Config with some values changed; `config` stays as it is. Raises what `make_config` raises."""
    return make_config(vars(config), values)


def _checked(key, value):
    kind = type(nasnet_a_mobile_config_gpu[key])
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind or isinstance(value, float) and not math.isfinite(value):
        raise UserError('%s must be %s, got %r' % (key, {'int': 'a whole number', 'float': 'a number', 'str': 'a text',
                                                         'bool': 'True or False'}[kind.__name__], value))
    if value not in choices.get(key, (value,)):
        raise UserError('%s must be %s, got %s' % (key, ' or '.join(choices[key]), value))
    low, high = ranges.get(key, (None, None))
    if low is not None and value < low or high is not None and value > high:
        raise UserError('%s must be %s, got %s' % (key, 'from %s to %s' % (low, high) if high is not None
                                                   else '%s or more' % low, value))
    return value
