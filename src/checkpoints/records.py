"""Reads and writes MindSpore's .ckpt files, and reads protocol buffers in general, without MindSpore.

MindSpore 2.10 believes the shape that stands in a file. A file of 400 bytes whose shape says 10^9 numbers takes 4 GB,
and a shape that is too small lets it write outside its memory. Here the shape has to fit the bytes that are there.
MindSpore's own save_checkpoint changes the mode of its file, which some file systems refuse, and it hides the reason of
a failure. `write_records` writes the same bytes (a scalar as MindSpore 1.10 does).
"""
import numpy as np

# The types of mindspore.train.serialization. Text, and types that NumPy does not have, are left out.
_DTYPES = {'Int8': '<i1', 'UInt8': '<u1', 'Int16': '<i2', 'UInt16': '<u2', 'Int32': '<i4', 'UInt32': '<u4',
           'Int64': '<i8', 'UInt64': '<u8', 'Float16': '<f2', 'Float32': '<f4', 'Float64': '<f8', 'Bool': '?'}
_TYPES = {np.dtype(dtype).str: name for name, dtype in _DTYPES.items()}
_CRC_BYTES = 17     # MindSpore 2 may put b'crc_num' and a number of 10 bytes behind the records


def write_records(path, arrays):
    """Write {name: array} as a .ckpt file, which `read_records` and mindspore.load_checkpoint read.

    Raises:
        OSError: the file cannot be written. KeyError: a dtype has no type in MindSpore.
    """
    with open(path, 'wb') as file:
        for name, array in arrays.items():
            data = np.ascontiguousarray(array, array.dtype.newbyteorder('<'))
            shape = b''.join(b'\x08' + _number(size) for size in array.shape or (0,))      # () is written as (0,)
            head = shape + _field(2, _TYPES[data.dtype.str].encode()) + b'\x1a' + _number(data.nbytes)
            name = _field(1, name.encode())
            head = name + b'\x12' + _number(len(head) + data.nbytes) + head
            file.write(b'\x0a' + _number(len(head) + data.nbytes) + head)
            file.write(data.data)


def _number(value):
    """Return the bytes of a number of variable length: 7 bits in each, the lowest first."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _field(number, content):
    """Return the bytes of a field that holds bytes."""
    return _number(number << 3 | 2) + _number(len(content)) + content


def read_records(path):
    """Read a .ckpt file -> {name: array}.

    The memory is at most twice the bytes of the file, and about 500 bytes for each record.

    Raises:
        ValueError: the file does not consist of tensors that have the shapes that they claim.
    """
    with open(path, 'rb') as file:
        content = memoryview(file.read())
    if content[-_CRC_BYTES:][:7] == b'crc_num':
        content = content[:-_CRC_BYTES]
    tensors, last = {}, None
    for number, record in fields(content):
        if number != 1 or isinstance(record, int):
            raise ValueError('it has something else than records')
        name, tensor = bytes(blob(record, 1)).decode(), blob(record, 2)
        # MindSpore cuts a large tensor into records of one name that follow each other.
        if not name or name in tensors and name != last:
            raise ValueError('a record has no name, or the name of another record')
        dtype = _DTYPES.get(bytes(blob(tensor, 2)).decode())
        if dtype:
            last = name
            tensors.setdefault(name, (dtype, shape_of(tensor, 1), []))[2].append(blob(tensor, 3))
    if not tensors:
        raise ValueError('it has no tensors')
    return {name: _array(name, *tensor) for name, tensor in tensors.items()}


def _array(name, dtype, shape, parts):
    """Return the array of one tensor; `parts` are its bytes."""
    flat = np.frombuffer(bytearray().join(parts), dtype)
    try:
        return flat.reshape(() if shape == (0,) else shape)     # MindSpore writes the shape () as (0,)
    except (ValueError, TypeError, OverflowError):
        raise ValueError('%s has %d numbers, and its shape needs another number of them' % (name, flat.size))


def varint(data, position):
    """Read a number of variable length: return (number, position of the byte after it)."""
    value = 0
    for shift in range(0, 70, 7):       # a number has at most 64 bits, so it has at most 10 bytes
        if position >= len(data):
            raise ValueError('it is truncated')
        byte = data[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
    raise ValueError('a number in it is longer than 64 bits')


def fields(message):
    """Generate (number of the field, value) of a protocol buffer.

    A value is an int, or a memoryview of bytes. A nested message stays bytes. This is a generator because a list of
    many empty fields would take a hundred times the memory of the message.

    Raises:
        ValueError: the message is truncated or is no protocol buffer.
    """
    message, position = memoryview(message), 0
    while position < len(message):
        tag, position = varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = varint(message, position)
        else:
            if kind not in (1, 2, 5):
                raise ValueError('it is no protocol buffer')
            length, position = varint(message, position) if kind == 2 else ({1: 8, 5: 4}[kind], position)
            if length > len(message) - position:
                raise ValueError('it is truncated')
            value, position = message[position:position + length], position + length
        yield tag >> 3, value


def _last(message, number, default, kind):
    """Return the last value of a field; `default` if the message does not have it."""
    value = default
    for found, candidate in fields(message):
        if found == number:
            value = candidate
    if not isinstance(value, kind):
        raise ValueError('a field in it has another type')
    return value


def blob(message, number):
    """Return the last value of a field that holds bytes, as a memoryview; it is empty if the field is missing."""
    return _last(message, number, memoryview(b''), memoryview)


def integer(message, number, default=0):
    """Return the last value of a field that holds an int; `default` if the field is missing."""
    return _last(message, number, default, int)


def shape_of(message, number):
    """Return the tuple of all values of a field that holds ints."""
    shape = ()
    for found, value in fields(message):
        if found == number:
            shape += (value,)
            if not isinstance(value, int) or len(shape) > 32:       # NumPy has at most 32 dimensions
                raise ValueError('a shape in it is no shape')
    return shape
