"""The names and the probabilities of the classes of a network."""
import os
from collections import Counter

import numpy as np

from src.checkpoints.run_folder import CLASS_NAMES, load_class_names
from src.errors import UserError


def imagenet_names():
    """Return {synset: readable name} of ImageNet's 1000 classes, in the order of their labels.

    The names are in imagenet_classes.txt beside this file, which also says where they are from.
    """
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'imagenet_classes.txt')
    with open(path, encoding='utf-8') as file:
        return dict(line.rstrip('\n').split(' ', 1) for line in file if not line.startswith('#'))


def class_names(checkpoint, num_classes):
    """Find the names of the class folders that a network was trained with.

    They are in the checkpoint, or, for checkpoints of earlier versions, in the class list beside it. Without a list,
    a network of 1000 classes is taken as one for ImageNet. A list beside converted weights is ignored, because
    another training wrote it.

    Args:
        checkpoint: a Checkpoint.
        num_classes: number of classes of the network.

    Returns:
        A list of str in the order of the labels, or None if the names are unknown.

    Raises:
        UserError: the list has more names than there are classes, or it cannot be read.
    """
    names = checkpoint.meta.get('class_names')
    if names is not None:
        if len(names) > num_classes:
            raise UserError('%s has the names of %d classes: set --num_classes %d'
                            % (checkpoint.path, len(names), len(names)))
        return list(names)
    path = os.path.join(os.path.dirname(checkpoint.path), CLASS_NAMES)
    if os.path.exists(path) and 'source' not in checkpoint.meta:
        names = load_class_names(path)
        if len(names) > num_classes:
            raise UserError('%s has %d names, but %s %d classes: put it back beside its own checkpoint'
                            % (path, len(names), checkpoint.path, num_classes))
        return names
    return list(imagenet_names()) if num_classes == 1000 else None


def require_known_labels(dataset, names, checkpoint, num_classes):
    """Check that the label of each class folder of a data set is known.

    Without a list of names, a label is the position of a folder among the sorted folders. If a folder is missing,
    all folders after it would get a wrong label, and the accuracy would be wrong without a sign of it.

    Args:
        dataset: the ImageFolder that is evaluated.
        names: what `class_names` returned for the network.
        checkpoint: the Checkpoint of the network.
        num_classes: number of classes of the network.

    Raises:
        UserError: there is no list of names, and the data set has fewer folders than the network has classes.
    """
    folders = len(dataset.class_names)
    if names is not None or folders == num_classes:
        return
    if 'source' in checkpoint.meta:     # A class list beside converted weights is of another training.
        remedy = 'give a folder for each of the %d classes' % num_classes
    else:
        remedy = 'put the %s of its training beside the checkpoint, or give a folder for each of the %d classes' % (
            CLASS_NAMES, num_classes)
    raise UserError('%s has %d class folders, but %s knows %d classes and no list of their names, so nobody can say '
                    'which folder is which class: %s' % (dataset.path, folders, checkpoint.path, num_classes, remedy))


def readable(names, num_classes):
    """Return what to show for each class, a list of `num_classes` different str.

    This is ImageNet's readable name if the folder is called like a synset of ImageNet, else the name of the folder.
    Classes without a folder are called by their number. If two classes would be shown by the same name, the number
    of the class follows it.

    Args:
        names: list of at most `num_classes` names of folders, or None.
        num_classes: number of classes of the network.
    """
    words = imagenet_names()
    names = list(names or ())
    names += ['class %d' % number for number in range(len(names), num_classes)]
    shown = [words.get(name, name) for name in names]
    count = Counter(shown)
    return ['%s (class %d)' % (name, number) if count[name] > 1 else name for number, name in enumerate(shown)]


def probabilities(logits):
    """Return the softmax of logits (N, K) float32 along the classes, (N, K) float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
