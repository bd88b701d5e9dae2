"""What a weight file may ask for. A file comes from anywhere, and the numbers in it are checked before they are used.

A compressed file, or one whose parts overlap, can name far more bytes than it has. So everything that is made of a
file is counted against an allowance, before memory is taken for it.
"""
import resource
import stat
import zipfile
from contextlib import contextmanager

# Weights hardly become smaller by compression: deflate takes 7 % off random float32 values, and 56 % off values of 16
# bits that are kept as float32. So no real weight file holds more than 8 times its own bytes.
TIMES = 8
# NASNet-A-Mobile has 7.7 million values with its auxiliary head, or 59 MiB with moving averages. So a file of this
# network is read however well it is compressed. Every computer that runs MindSpore has this memory.
LEAST = 64 << 20


class Allowance:
    """The number of bytes that may still be made of a file.

    Args:
        size: bytes of the file on the disk, or of all files of one checkpoint.
    """

    def __init__(self, size):
        self.size = size
        self.whole = self.left = max(TIMES * size, LEAST)

    def take(self, count):
        """Count `count` bytes. It raises ValueError if they are more than what is left."""
        self.left -= count
        if count < 0 or self.left < 0:
            raise ValueError('its contents would take more than %d MiB of memory, and the file has %s'
                             % (self.whole >> 20, '%d MiB' % (self.size >> 20) if self.size >> 20
                                else '%d bytes' % self.size))


@contextmanager
def address_limit(allowance):
    """Let the process have at most twice the whole allowance of new memory while the block runs.

    This is for libraries that take memory for a number in a file before they look whether the file has so many bytes.
    Their request fails, and they raise an error.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open('/proc/self/statm') as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = [used + 2 * allowance.whole] + [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def product(shape):
    """Return the number of elements of a shape. NumPy's product would overflow for a shape that a file made up."""
    count = 1
    for size in shape:
        count *= int(size)
    return count


def open_archive(path):
    """Open a zip file. It raises ValueError if a name in it leads out of it.

    Nothing is unpacked to the disk here. A file with such a name was still made to do harm, and the next program
    might unpack it.
    """
    archive = zipfile.ZipFile(path)
    for member in archive.infolist():
        parts = member.filename.replace('\\', '/').split('/')
        if parts[0] == '' or parts[0][1:2] == ':' or '..' in parts:     # /name, C:name, name/../..
            archive.close()
            raise ValueError('a name in it leads out of the archive: %r' % member.filename)
        if stat.S_ISLNK(member.external_attr >> 16):
            archive.close()
            raise ValueError('%r in it is a symbolic link' % member.filename)
    return archive


def read_member(archive, name, allowance, largest=None):
    """Return the bytes of a file in an archive.

    Args:
        archive: what `open_archive` returned.
        name: name of the file in it.
        allowance: Allowance; the bytes are counted before they are read.
        largest: number of bytes that such a file has at most, or None.

    Raises:
        ValueError: the file is missing, too large, or compressed by something else than deflate.
    """
    try:
        member = archive.getinfo(name)
    except KeyError:
        raise ValueError('it has no %s' % name)
    # The other methods of compression take memory that the file itself chooses.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError('%s in it is compressed by another method than deflate' % name)
    if largest is not None and member.file_size > largest:
        raise ValueError('%s in it has %d bytes, and a state dict needs at most %d' % (name, member.file_size, largest))
    allowance.take(member.file_size)
    with archive.open(member) as file:
        data = file.read(member.file_size)
    if len(data) != member.file_size:
        raise ValueError('%s in it is truncated' % name)
    return data
