"""Name every file that training could not use: python tools/check_dataset.py DIR [--workers N] [--json FILE].

DIR holds one folder per class. The exit status is 0 if every image file is good, and 1 if one is not.
"""
import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from src.errors import one_line
from src.files import write_text
from src.input.folders import scan
from src.input.image import verify
from src.input.reading import read
from src.startup import keep_output


def check(path, workers):
    """Read every image file of a data set with `workers` threads.

    Returns:
        ({path of a bad file: reason}, number of image files, number of other files)

    Raises:
        UserError: the folder holds no class folder with images, or the file system does not work.
    """
    folders, ignored = scan(path)
    files = [os.path.join(path, folder, name) for folder in sorted(folders) for name in folders[folder]]
    bad = {}
    with ThreadPoolExecutor(workers) as pool:
        reasons = pool.map(lambda file: read(file, verify)[1], files)
        for file, reason in zip(files, tqdm(reasons, total=len(files), unit='image', disable=None)):
            if reason is not None:
                bad[file] = reason
    return bad, len(files), ignored


def main():
    """Check what the flags name and print a line for each bad file; returns the exit status."""
    keep_output()
    parser = argparse.ArgumentParser(description='Name every image file that training could not use.')
    parser.add_argument('folder', metavar='DIR', help='data set, a folder per class')
    parser.add_argument('--workers', type=int, default=os.cpu_count(), metavar='N', help='threads')
    parser.add_argument('--json', metavar='FILE', help='also write {"files", "ignored", "bad": {path: reason}}')
    flags = parser.parse_args()
    if flags.workers < 1:
        parser.error('--workers must be 1 or more, got %d' % flags.workers)
    bad, count, ignored = check(flags.folder, flags.workers)
    for file, reason in bad.items():
        print('%s: %s' % (one_line(file), reason))
    print('%d image files, %d bad, %d other files ignored' % (count, len(bad), ignored))
    if flags.json:
        write_text(flags.json, json.dumps({'files': count, 'ignored': ignored, 'bad': bad}, indent=1),
                   'choose another --json')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
