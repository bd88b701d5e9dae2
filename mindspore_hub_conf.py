"""How MindSpore Hub makes the network of this project."""
from nasnet_a_mobile import NASNetAMobile
from src.checkpoints.checkpoint import load, restore
from src.network.initialize import initialize

SEED = 1    # of the weights that are drawn


def create_network(name, *args, **kwargs):
    """Make a network by its name, as mindspore_hub.load does.

    Args:
        name: 'nasnet_a_mobile'.
        checkpoint: path of a checkpoint of this project; None: the weights are drawn as for a training. If the
            checkpoint has another number of classes, only the classifier is drawn.
        *args, **kwargs: arguments of NASNetAMobile, for example num_classes=10.

    Returns:
        A NASNetAMobile.

    Raises:
        NotImplementedError: the name is another one.
        UserError: the checkpoint cannot be read or does not fit.
    """
    if name != 'nasnet_a_mobile':
        raise NotImplementedError('this project has no network %r, only nasnet_a_mobile' % name)
    checkpoint = kwargs.pop('checkpoint', None)
    network = initialize(NASNetAMobile(*args, **kwargs), SEED)
    if checkpoint is not None:
        restore(load(checkpoint), network, new_classes=True)
    return network
