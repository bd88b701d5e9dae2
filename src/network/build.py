"""The network that a configuration asks for."""
from nasnet_a_mobile import NASNetAMobile


def build_network(config, training):
    """A NASNetAMobile. It has an auxiliary head only in training, and only if that counts (aux_factor above 0)."""
    return NASNetAMobile(config.num_classes, config.image_size if training and config.aux_factor else None,
                         config.penultimate_filters, config.cells_per_stage, config.bn_decay)
