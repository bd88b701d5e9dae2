"""Say what the images of a data set are: python tools/check_dataset.py DIR [--workers N] [--json FILE].

DIR holds one folder per class. Each file that training could not use is named with the reason. A summary follows: how
many files are of which kind, the smallest and the largest image, and the files that take longest to decode. The exit
status is 0 if every image file is good, and 1 if one is not.
"""
import argparse
import collections
import heapq
import io
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from loky import cpu_count
from PIL import Image

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from src.errors import one_line
from src.files import prepare_folder, write_text
from src.input.folders import scan
from src.input.image import FORMATS, decode
from src.input.plain import plain_jpeg, plain_png
from src.input.reading import read
from src.progress import Progress
from src.startup import keep_output

SLOWEST = 10
AT_ONCE = 4096      # files that are given to the threads together; a million at once would take a lot of memory
ENDINGS = {'.jpg': 'JPEG', '.jpeg': 'JPEG', '.tif': 'TIFF', '.tiff': 'TIFF', '.png': 'PNG', '.gif': 'GIF',
           '.bmp': 'BMP', '.webp': 'WEBP'}
# Sampling factors, horizontal and vertical, of brightness and of the two colours.
SAMPLINGS = {((2, 2), (1, 1), (1, 1)): '4:2:0', ((2, 1), (1, 1), (1, 1)): '4:2:2', ((1, 1), (1, 1), (1, 1)): '4:4:4',
             ((4, 1), (1, 1), (1, 1)): '4:1:1', ((1, 2), (1, 1), (1, 1)): '4:4:0'}


def check(path, workers):
    """Decode every image file of a data set, as training does, and print a line for each bad one.

    Args:
        path: folder that holds one folder for each class.
        workers: number of threads.

    Returns:
        A dict: 'files' and 'ignored', numbers of image files and other files; 'bad', {path: reason}; 'kinds', {kind:
        number of good files}; 'smallest', 'largest' and 'slowest', lists of what `examine` returns about images. The
        first two have one image, or none if all files are bad, and the last one has up to SLOWEST images.

    Raises:
        UserError: the folder holds no class folder with images, or the file system does not work.
    """
    folders, ignored = scan(path)
    files = [os.path.join(path, folder, name) for folder in sorted(folders) for name in folders[folder]]
    bad, kinds, smallest, largest, slowest = {}, collections.Counter(), [], [], []
    Image.init()        # Otherwise the first files would seem slow.
    with ThreadPoolExecutor(workers) as pool, Progress('decoding', len(files), 'images') as progress:
        for first in range(0, len(files), AT_ONCE):
            part = files[first:first + AT_ONCE]
            for file, (image, reason) in zip(part, pool.map(examine, part)):
                if reason is not None:
                    bad[file] = reason
                    progress.print('%s: %s' % (one_line(file), reason), sys.stdout)
                else:
                    kinds.update(image.pop('kinds'))
                    smallest = heapq.nsmallest(1, smallest + [image], key=_pixels)
                    largest = heapq.nlargest(1, largest + [image], key=_pixels)
                    slowest = heapq.nlargest(SLOWEST, slowest + [image], key=lambda image: image['seconds'])
                progress.update(note='%d bad' % len(bad) if bad else None)
    return {'files': len(files), 'ignored': ignored, 'bad': bad, 'kinds': dict(kinds.most_common()),
            'smallest': smallest, 'largest': largest, 'slowest': slowest}


def _pixels(image):
    return image['width'] * image['height']


def examine(path):
    """Decode one file.

    Returns:
        ({'file', 'width', 'height', 'seconds', 'kinds'}, None), where the seconds are the CPU time of decoding and the
        kinds are those of `kinds_of`; or (None, reason) if training could not use the file.
    """
    def facts(data):
        began = time.thread_time()
        height, width, _ = decode(data).shape
        seconds = round(time.thread_time() - began, 5)
        return {'file': path, 'width': width, 'height': height, 'seconds': seconds, 'kinds': kinds_of(data, path)}
    return read(path, facts)


def kinds_of(data, path):
    """What is special about an image file that `decode` accepts.

    Args:
        data: its bytes.
        path: only its ending counts.

    Returns:
        A list of str. The first one is the format, with the colours of a JPEG. Each other one is a peculiarity.
    """
    is_jpeg, peculiar = data.startswith(b'\xff\xd8'), []
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:       # Pillow stumbles over metadata that `decode` leaves out.
        image = Image.open(io.BytesIO(plain_jpeg(data) if is_jpeg else plain_png(data)), formats=FORMATS)
        peculiar = ['metadata that Pillow cannot read']
    name = 'JPEG' if is_jpeg else image.format      # Pillow calls a JPEG with several pictures MPO.
    if name != ENDINGS.get(os.path.splitext(path)[1].lower(), name):
        peculiar.append('%s with the name of another format' % name)
    if is_jpeg and image.info.get('progressive'):
        peculiar.append('progressive JPEG')
    if 'icc_profile' in image.info:
        peculiar.append('ICC profile, not applied')
    if is_jpeg and _orientation(image) not in (None, 1):
        peculiar.append('EXIF rotation, not applied')
    if is_jpeg and not data.endswith(b'\xff\xd9') or name == 'PNG' and data[-8:-4] != b'IEND':
        peculiar.append('bytes after the end')
    return ['JPEG, ' + _colours(image) if is_jpeg else name] + peculiar


def _colours(jpeg):
    """Colours and chroma sampling of a JPEG that Pillow has opened."""
    if len(jpeg.layer) == 1:
        return 'grey'
    if len(jpeg.layer) == 4:
        return 'CMYK' if 'adobe' in jpeg.info else 'CMYK without Adobe marker'
    return SAMPLINGS.get(tuple((horizontal, vertical) for _, horizontal, vertical, _ in jpeg.layer),
                         'unusual chroma sampling')


def _orientation(image):
    """The EXIF orientation, or None if there is none or the EXIF data is damaged."""
    try:
        return image.getexif().get(274)
    except Exception:
        return None


def summary(report):
    """What `check` returns, as text for a person."""
    lines = []
    if report['kinds']:
        lines += ['kinds of the good files (a file can be in several lines):']
        lines += ['%9d  %s' % (count, kind) for kind, count in report['kinds'].items()]
        lines += ['%s: %s' % (name, _show(image)) for name in ('smallest', 'largest') for image in report[name]]
        lines += ['slowest to decode (CPU time):'] + [
            '%7.3f s  %s' % (image['seconds'], _show(image)) for image in report['slowest']]
    lines += ['%d image files, %d bad, %d other files ignored' % (report['files'], len(report['bad']),
                                                                  report['ignored'])]
    return '\n'.join(lines)


def _show(image):
    return '%d x %d pixels, %s' % (image['width'], image['height'], one_line(image['file']))


def main():
    """Check what the flags name and print the result; returns the exit status."""
    keep_output()
    parser = argparse.ArgumentParser(description='Name every image file that training could not use, and say what '
                                                 'kinds of images a data set has.')
    parser.add_argument('folder', metavar='DIR', help='data set, a folder per class')
    parser.add_argument('--workers', type=int, default=cpu_count(), metavar='N', help='threads')
    parser.add_argument('--json', metavar='FILE', help='also write all results to this file')
    flags = parser.parse_args()
    if flags.workers < 1:
        parser.error('--workers must be 1 or more, got %d' % flags.workers)
    remedy = 'choose another --json'
    if flags.json:
        prepare_folder(os.path.dirname(flags.json), remedy)
    report = check(flags.folder, flags.workers)
    print(summary(report))
    if flags.json:
        write_text(flags.json, json.dumps(report, indent=1), remedy)
    return 1 if report['bad'] else 0


if __name__ == '__main__':
    sys.exit(main())
