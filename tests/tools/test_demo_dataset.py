"""The demo's images: all classes are there and readable, equal seeds give equal files, and no file is overwritten."""
import os

import numpy as np

from src.input.image import decode
from tests.helpers import run


def test_demo_images(tmp_path):
    for name in ('a', 'b'):
        assert run('tools/make_demo_dataset.py', tmp_path / name, '--train', 2, '--val', 1).returncode == 0
    classes = sorted(os.listdir(str(tmp_path / 'a' / 'train')))
    assert len(classes) == 8 and sorted(os.listdir(str(tmp_path / 'a' / 'val'))) == classes
    shapes = set()
    for split, count in (('train', 2), ('val', 1)):
        for label in classes:
            files = sorted(os.listdir(str(tmp_path / 'a' / split / label)))
            assert len(files) == count
            for file in files:
                data = (tmp_path / 'a' / split / label / file).read_bytes()
                assert data == (tmp_path / 'b' / split / label / file).read_bytes()
                image = decode(data)
                assert image.std() > 10
                shapes.add(image.shape)
    assert len(shapes) > 20 and min(np.min(shape[:2]) for shape in shapes) >= 50
    again = run('tools/make_demo_dataset.py', tmp_path / 'a')
    assert again.returncode == 1 and again.stderr.startswith('error: ') and 'is not empty' in again.stderr
