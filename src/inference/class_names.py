"""The names of the classes of a network."""
import os

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

    They are in the class list beside the checkpoint. Without a list, a network of 1000 classes is taken as one for
    ImageNet. A list beside converted weights is ignored, because another training wrote it.

    Args:
        checkpoint: a Checkpoint.
        num_classes: number of classes of the network.

    Returns:
        A list of str in the order of the labels, or None if the names are unknown.

    Raises:
        UserError: the list has more names than there are classes, or it cannot be read.
    """
    path = os.path.join(os.path.dirname(checkpoint.path), CLASS_NAMES)
    if os.path.exists(path) and 'source' not in checkpoint.meta:
        names = load_class_names(path)
        if len(names) > num_classes:
            raise UserError('%s has %d names, but %s %d classes: put it back beside its own checkpoint'
                            % (path, len(names), checkpoint.path, num_classes))
        return names
    return list(imagenet_names()) if num_classes == 1000 else None


def readable(names, num_classes):
    """Return what to show for each class, a list of `num_classes` str.

    This is ImageNet's readable name if the folder is called like a synset of ImageNet, else the name of the folder.
    Classes without a folder are called by their number.

    Args:
        names: list of at most `num_classes` names of folders, or None.
        num_classes: number of classes of the network.
    """
    words = imagenet_names()
    names = list(names or ())
    names += ['class %d' % number for number in range(len(names), num_classes)]
    return [words.get(name, name) for name in names]
