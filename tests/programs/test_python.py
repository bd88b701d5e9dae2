"""The network, the data and the loss from Python, as docs/python.md shows, and mindspore_hub_conf.py."""
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from mindspore_hub_conf import create_network
from src.checkpoints.checkpoint import arrays_of, load, network_config, restore, save
from src.errors import UserError
from tests.helpers import ROOT, SMALL
from tools.make_demo_dataset import PATTERNS, make


def code(page):
    """The only block of Python of a page."""
    with open(os.path.join(ROOT, 'docs', page), encoding='utf-8') as file:
        block, = re.findall(r'^```python\n(.*?)^```$', file.read(), re.M | re.S)
    return block


def test_the_example_is_short_and_the_same_in_both_languages():
    assert code('python.md') == code('python_CN.md')
    assert code('python.md').count('\n') <= 30


@pytest.mark.slow
def test_the_example_of_the_page_trains_evaluates_and_saves(tmp_path):
    names = sorted(PATTERNS)[:5]
    make(str(tmp_path / 'flowers'), 4, 1, classes=names)
    process = subprocess.run([sys.executable, '-c', code('python.md')], cwd=str(tmp_path), timeout=600,
                             env=dict(os.environ, PYTHONPATH=ROOT), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             universal_newlines=True)
    assert process.returncode == 0, process.stderr
    losses = [float(loss) for loss in re.findall(r'loss is (\S+)', process.stdout)]
    assert len(losses) == 6 and np.isfinite(losses).all()       # 20 images in batches of 8, three epochs
    top1 = float(re.search(r"{'top-1': (\S+)}", process.stdout).group(1))
    assert round(top1 * 5) == pytest.approx(top1 * 5)           # of five images
    checkpoint = load(str(tmp_path / 'own.ckpt'))
    assert checkpoint.meta['class_names'] == names
    restore(checkpoint, create_network('nasnet_a_mobile', num_classes=5, cells_per_stage=1))    # names and shapes fit
    assert network_config(checkpoint) == {'num_classes': 5, 'image_size': 96, 'penultimate_filters': 1056,
                                          'cells_per_stage': 1}


def test_the_hub_makes_a_network_and_takes_weights_from_a_checkpoint(tmp_path):
    first = create_network('nasnet_a_mobile', num_classes=4, **SMALL)
    changed = {name: value + 1 for name, value in arrays_of(first).items()}
    path = str(tmp_path / 'a.ckpt')
    save(path, changed, {})
    for classes in (4, 3):
        again = arrays_of(create_network('nasnet_a_mobile', num_classes=classes, checkpoint=path, **SMALL))
        different = {name for name in changed if not np.array_equal(again[name], changed[name])}
        assert different == (set() if classes == 4 else {'classifier.weight', 'classifier.bias'})
        assert again['classifier.weight'].shape[0] == classes
    with pytest.raises(NotImplementedError, match="no network 'resnet50', only nasnet_a_mobile"):
        create_network('resnet50')
    with pytest.raises(UserError, match='is not a file'):
        create_network('nasnet_a_mobile', checkpoint=str(tmp_path / 'absent.ckpt'), **SMALL)
