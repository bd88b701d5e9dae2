"""Name every file training could not use: python tools/check_dataset.py DIR [--workers N] [--json FILE].

Ends with 0 when every image file is good, 1 when one is not. DIR holds one folder per class.
"""
import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from src.dataset import read, scan  # noqa: E402  pylint: disable=wrong-import-position
from src.errors import UserError  # noqa: E402  pylint: disable=wrong-import-position
from src.image import verify  # noqa: E402  pylint: disable=wrong-import-position


def check(path, workers):
    """({path: reason} of the bad files, number of image files, number of other files) of a data set."""
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
    """Flags, check, one line for each bad file."""
    parser = argparse.ArgumentParser(description='Name every image file that training could not use.')
    parser.add_argument('folder', metavar='DIR', help='data set, a folder per class')
    parser.add_argument('--workers', type=int, default=os.cpu_count(), metavar='N', help='threads')
    parser.add_argument('--json', metavar='FILE', help='write {"files", "ignored", "bad": {path: reason}} as well')
    flags = parser.parse_args()
    if flags.workers < 1:
        parser.error('--workers must be 1 or more, got %d' % flags.workers)
    bad, count, ignored = check(flags.folder, flags.workers)
    for file, reason in bad.items():
        print('%s: %s' % (file, reason))
    print('%d image files, %d bad, %d other files ignored' % (count, len(bad), ignored))
    if flags.json:
        try:
            with open(flags.json, 'w') as output:
                json.dump({'files': count, 'ignored': ignored, 'bad': bad}, output, indent=1)
        except OSError as error:
            raise UserError('%s cannot be written (%s): choose another file' % (flags.json, error.strerror))
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
