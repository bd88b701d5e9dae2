"""Image files with random damage: python tests/input/fuzz.py [--files N] [--first N] [--keep FOLDER].

Each file must give a picture or one reason. What must never happen: another exception, a crash, words on stderr from a
library, a decoder that hangs. A file depends only on its number, and on the libraries that wrote the sound files.
"""
import argparse
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)
from src.input.image import decode
from src.input.plain import PNG_SIGNATURE
from src.progress import Progress
from tests.input.image_files import chunk, of_each_format

LONGEST = 20        # seconds of CPU time for one file
WORK = ('import sys; sys.path.insert(0, sys.argv[1]); from tests.input.fuzz import work; '
        'work(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])')


def mutant(sound, number):
    """File `number`: one of the sound files with one to six pieces of damage.

    Args:
        sound: {format: list of bytes}. The number of the file chooses the format in turn.
        number: an int from 0.

    Returns:
        (format, bytes).
    """
    rng = random.Random(number)
    kind = sorted(sound)[number % len(sound)]
    data = bytearray(rng.choice(sound[kind]))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        damage(data, rng, sound)
    if kind == 'PNG' and rng.random() < 0.5:    # With the old checksums most damage would end there.
        data = with_right_checksums(bytes(data))
    return kind, bytes(data)


def damage(data, rng, sound):
    """Change a bytearray in one of ten ways, half of them in its first 300 bytes."""
    place = rng.randrange(min(len(data), rng.choice((300, len(data)))) + 1)
    size = rng.choice((1, 2, 4, 40, 512))
    noise = bytes(rng.randrange(256) for _ in range(size))
    way = rng.randrange(10)
    if way == 0 and place < len(data):
        data[place] ^= 1 << rng.randrange(8)
    elif way == 1:
        data[place:place + size] = noise[:len(data) - place]
    elif way == 2:
        data[place:place + size] = bytes(len(data[place:place + size]))
    elif way == 3:
        data[place:place] = noise
    elif way == 4:
        del data[place:place + size]
    elif way == 5:
        del data[place:]
    elif way == 6:      # a length or a size that is nothing, huge, or just wrong
        data[place:place + 4] = rng.choice((bytes(4), b'\xff' * 4, b'\x7f\xff\xff\xff', b'\0\0\xff\xff', noise[:4]))
    elif way == 7:
        data[place:place + size] = data[:size]
    elif way == 8:      # a part of another file
        other = rng.choice(rng.choice(sorted(sound.values())))
        begin = rng.randrange(len(other))
        data[place:place + size] = other[begin:begin + size]
    else:               # a JPEG's marker
        data[place:place + 2] = bytes((0xff, rng.randrange(0xc0, 0x100)))


def with_right_checksums(png):
    """A PNG whose chunks have the checksums of their contents, as far as there are chunks."""
    parts, position = [png[:8]], 8
    while png.startswith(PNG_SIGNATURE) and position + 12 <= len(png):
        length, kind = struct.unpack_from('>I4s', png, position)
        parts.append(chunk(kind, png[position + 8:position + 8 + length]))
        position += length + 12
    return b''.join(parts + [png[position:]])


def fault(data):
    """Decode a file as the threads of a data set do. Returns what is wrong with the answer; None: nothing."""
    began = time.process_time()
    try:
        image = decode(data, lambda size: np.empty(size, np.uint8))
        wrong = None if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size else \
            'an array %s of shape %s' % (image.dtype, image.shape)
    except ValueError as error:
        reason = str(error)
        wrong = 'no reason: %r' % reason if not 5 < len(reason) < 300 or '\n' in reason or ' at 0x' in reason else None
    except BaseException as error:
        return repr(error)
    seconds = time.process_time() - began
    return wrong or ('took %.0f s' % seconds if seconds > LONGEST else None)


def work(first, last, place):
    """Decode the files first..last - 1 and print each fault. The file `place` always holds the number at work."""
    sound = of_each_format()
    with open(place, 'r+b', buffering=0) as file:
        for number in range(first, last):
            os.pwrite(file.fileno(), b'%010d' % number, 0)
            wrong = fault(mutant(sound, number)[1])
            if wrong:
                print('file %d: %s' % (number, wrong), flush=True)


def run_worker(first, last, folder, progress):
    """Let a new process do `work`.

    Returns:
        (list of lines about faults, the number of the first file that is left).
    """
    place, out, errors = (os.path.join(folder, name) for name in ('place', 'out', 'errors'))
    with open(place, 'wb') as file:
        file.write(b'%010d' % first)
    with open(out, 'wb') as stdout, open(errors, 'wb') as stderr:
        child = subprocess.Popen([sys.executable, '-c', WORK, ROOT, str(first), str(last), place],
                                 stdout=stdout, stderr=stderr)
    done = first
    while child.poll() is None:
        time.sleep(0.1)
        with open(place) as file:
            number = int(file.read())
        progress.update(number - done)
        done = number
    with open(place) as file:
        number = int(file.read())
    with open(out) as file:
        faults = file.read().splitlines()
    with open(errors, errors='replace') as file:
        faults += ['on stderr up to file %d: %s' % (number, line) for line in file.read().splitlines()]
    if child.returncode:
        faults.append('file %d: the process ended with %d' % (number, child.returncode))
    return faults, number + 1


def main():
    """Let processes decode the files, one after the other until none crashes; returns the exit status."""
    parser = argparse.ArgumentParser(description='Decode image files with random damage.')
    parser.add_argument('--files', type=int, default=20000, metavar='N', help='number of files')
    parser.add_argument('--first', type=int, default=0, metavar='N', help='number of the first file')
    parser.add_argument('--keep', metavar='FOLDER', help='write the files of the faults into this folder')
    flags = parser.parse_args()
    faults, number, last = [], flags.first, flags.first + flags.files
    with tempfile.TemporaryDirectory() as folder, Progress('decoding', flags.files, 'files') as progress:
        while number < last:
            found, number = run_worker(number, last, folder, progress)
            faults += found
    for line in faults:
        print(line)
    for number in {int(number) for line in faults for number in re.findall(r'^file (\d+):', line) if flags.keep}:
        kind, data = mutant(of_each_format(), number)
        os.makedirs(flags.keep, exist_ok=True)
        with open(os.path.join(flags.keep, '%d.%s' % (number, kind.lower())), 'wb') as file:
            file.write(data)
    print('%d files, %d faults' % (flags.files, len(faults)))
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
