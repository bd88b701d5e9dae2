"""The network and its training step as a configuration asks for them."""
from nasnet_a_mobile import NASNetAMobile
from src.depthwise import use_own_kernels
from src.ema import MovingAverage
from src.group import GroupMean
from src.loss import NASNetLoss
from src.loss_scale import DynamicLossScale
from src.optimizer import FlatRMSProp
from src.train_step import TrainStep


def build_network(config, training):
    """NASNetAMobile; the auxiliary head exists in training alone, and only when it counts (aux_factor)."""
    return NASNetAMobile(config.num_classes, config.image_size if training and config.aux_factor else None,
                         config.penultimate_filters, config.cells_per_stage, config.bn_decay)


def build_train_step(network, config):
    """TrainStep with the recipe's loss and optimizer; `freeze` and `ema_decay` as the configuration says."""
    frozen = ()
    if config.freeze == 'backbone':
        frozen = (network.stem_conv, network.stem_bn, network.chain)
        for cell in frozen:
            for parameter in cell.get_parameters():
                parameter.requires_grad = False
    loss = NASNetLoss(config.num_classes, config.label_smooth_factor, config.aux_factor)
    loss_scale = config.loss_scale or DynamicLossScale()
    optimizer = FlatRMSProp(network.trainable_params(), config.weight_decay, config.momentum, config.rmsprop_decay,
                            config.opt_eps, config.clip_norm, loss_scale,
                            GroupMean(config.group_size) if config.group_size > 1 else None)
    average = MovingAverage(network) if config.ema_decay else None
    if config.amp_level == 'O0':
        use_own_kernels(network)
    return TrainStep(network, loss, optimizer, loss_scale, average, frozen, config.accumulation_steps,
                     config.amp_level)
