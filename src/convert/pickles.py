"""Reads the pickle that describes the tensors of a PyTorch file. No code in it runs, and it cannot ask for memory."""
import collections
import pickle

# The numbers of a file are in its storages, and a pickle only describes them. The port's state dict of 1126 tensors
# is described by 240 kB, and a training checkpoint by about four times that. Objects of a pickle take up to a hundred
# times its bytes, so this bound means 200 MB.
LARGEST = 2 << 20
BFLOAT16 = 'bfloat16'       # NumPy does not have it. It is the upper half of a float32.
_STORAGES = {'DoubleStorage': '<f8', 'FloatStorage': '<f4', 'HalfStorage': '<f2', 'LongStorage': '<i8',
             'IntStorage': '<i4', 'ShortStorage': '<i2', 'CharStorage': 'i1', 'ByteStorage': 'u1', 'BoolStorage': '?',
             'BFloat16Storage': BFLOAT16}
# Offset and stride count numbers, not bytes. The dtype of a storage is text, or INERT if its type is not known.
Tensor = collections.namedtuple('Tensor', 'storage offset shape stride')
Storage = collections.namedtuple('Storage', 'key dtype')


class _Inert:
    """Stands for an object that no state dict needs, such as an argparse.Namespace. Nothing of it is kept."""

    def __call__(self, *_, **__):
        return self

    append = extend = add = __call__


INERT = _Inert()


def _build(unpickler):
    """Drop the state of an object. The state of a state dict holds only the versions of modules."""
    unpickler.stack.pop()


def _new_object(unpickler):
    unpickler.stack[-2:] = [INERT]


def _new_object_with_keywords(unpickler):
    unpickler.stack[-3:] = [INERT]


def _empty_set(unpickler):
    unpickler.append(INERT)


def _frozen_set(unpickler):
    unpickler.pop_mark()
    unpickler.append(INERT)


def _set_item(unpickler):
    unpickler.stack[-2:], item = [], unpickler.stack[-2:]
    _set(unpickler.stack[-1], item)


def _set_items(unpickler):
    items = unpickler.pop_mark()
    _set(unpickler.stack[-1], items)


def _set(target, items):
    """Put keys and values, which alternate in `items`, into a dict.

    Keys of other types are not needed, and to hash tuples inside tuples inside tuples can end the process.
    """
    if isinstance(target, dict):
        target.update((key, value) for key, value in zip(items[::2], items[1::2]) if type(key) in (str, int))


class _Instructions(dict):
    """{code of an instruction of a pickle: function(unpickler)}."""

    def __missing__(self, code):
        raise pickle.UnpicklingError('it has the pickle instruction %d, which no state dict needs' % code)


# These instructions do what they do in Python. Pickles of the protocols 2 to 5 need them.
_AS_USUAL = '''PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
    BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_TUPLE
    TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS ADDITEMS EMPTY_DICT BINPERSID GLOBAL STACK_GLOBAL REDUCE
    BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE'''.split()
_OTHERWISE = {'BUILD': _build, 'NEWOBJ': _new_object, 'NEWOBJ_EX': _new_object_with_keywords, 'SETITEM': _set_item,
              'SETITEMS': _set_items, 'EMPTY_SET': _empty_set, 'FROZENSET': _frozen_set}


class Unpickler(pickle._Unpickler):
    """Builds only what a state dict consists of. Every other class becomes INERT, so no code in a pickle can run.

    This is Python's own implementation. The one in C takes as much memory as a number in the file says, without
    asking whether the file has so many bytes or objects.

    Attributes:
        unknown: names of some of the classes that became INERT.
        dtypes: {key of a storage: dtype}.
    """
    dispatch = _Instructions((getattr(pickle, name)[0], pickle._Unpickler.dispatch[getattr(pickle, name)[0]])
                             for name in _AS_USUAL)
    dispatch.update((getattr(pickle, name)[0], function) for name, function in _OTHERWISE.items())

    def __init__(self, file):
        super().__init__(file)
        self.unknown, self.dtypes, self.pairs = [], {}, 0

    def find_class(self, module, name):
        """Return what stands for a class or a function."""
        if (module, name) == ('collections', 'OrderedDict'):
            return self.ordered_dict
        if (module, name) in (('torch._utils', '_rebuild_tensor'), ('torch._utils', '_rebuild_tensor_v2')):
            return self.tensor
        if module == 'torch._utils' and name in ('_rebuild_parameter', '_rebuild_parameter_with_state'):
            return lambda tensor, *_: tensor
        if module == 'torch' and name in _STORAGES:
            return _STORAGES[name]
        if len(self.unknown) < 3:       # The error message names them.
            self.unknown.append('%s.%s' % (module, name))
        return INERT

    def ordered_dict(self, pairs=()):
        """Return a dict. Python 2 gives the items here; the same items may come again and again, so they count."""
        self.pairs += len(pairs)
        if self.pairs > LARGEST:
            raise pickle.UnpicklingError('its dicts have more items than its pickle has bytes')
        result = {}
        for key, value in pairs:
            _set(result, (key, value))
        return result

    def tensor(self, storage, offset, shape, stride, *_):
        """Return a Tensor, if it is described by a storage and by numbers."""
        proper = (isinstance(storage, Storage) and type(shape) is tuple and type(stride) is tuple
                  and len(shape) == len(stride) <= 32
                  and all(type(number) is int and 0 <= number < 2 ** 63 for number in (offset,) + shape + stride))
        if not proper:
            raise pickle.UnpicklingError('a tensor in it has no proper shape')
        return Tensor(storage, offset, shape, stride)

    def persistent_load(self, pid):
        """Return the Storage of a persistent id ('storage', type, key, location, number of values)."""
        _, dtype, key = pid[:3]
        if type(key) not in (str, int):
            raise pickle.UnpicklingError('a storage in it has no proper key')
        self.dtypes[key] = dtype
        return Storage(key, dtype)
