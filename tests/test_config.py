"""The configuration: the keys and defaults that users rely on, and the answers to mistakes."""
import numpy as np
import pytest

import train
from nasnet_a_mobile import NASNetAMobile
from src.cli import make_config, replace, require_batch_statistics
from src.config import nasnet_a_mobile_config_gpu, presets, ranges
from src.errors import UserError
from src.framework import Tensor, mindspore
from tests.helpers import SMALL

PROMISED = {
    'random_seed': 1, 'rank': 0, 'group_size': 1, 'work_nums': 8, 'epoch_size': 500, 'keep_checkpoint_max': 100,
    'ckpt_path': './checkpoint/', 'is_save_on_master': 1, 'batch_size': 32, 'num_classes': 1000,
    'label_smooth_factor': 0.1, 'aux_factor': 0.4, 'lr_init': 0.04, 'lr_decay_rate': 0.97,
    'num_epoch_per_decay': 2.4, 'weight_decay': 0.00004, 'momentum': 0.9, 'opt_eps': 1.0, 'rmsprop_decay': 0.9,
    'loss_scale': 1, 'accumulation_steps': 1, 'amp_level': 'O0',
    'image_size': 224, 'bn_decay': 0.9997, 'dropout_keep_prob': 0.5, 'clip_norm': 10.0}

pytestmark = pytest.mark.smoke


def test_defaults_are_the_recipe():
    assert {key: nasnet_a_mobile_config_gpu.get(key) for key in PROMISED} == PROMISED


@pytest.mark.parametrize('name', sorted(presets))
def test_every_preset_is_valid(name):
    assert vars(make_config(presets[name])).keys() == nasnet_a_mobile_config_gpu.keys()


def test_every_number_has_a_range_that_holds_its_default():
    for key, default in nasnet_a_mobile_config_gpu.items():
        if not isinstance(default, (str, bool)):
            low, high = ranges[key]
            assert low <= default and (high is None or default <= high)
    assert set(ranges) <= set(nasnet_a_mobile_config_gpu)


def test_command_line_overrides_preset_overrides_default():
    flags, given = train.parse('--dataset_path d --preset demo --batch_size 64 --lr_init 1'.split())
    assert flags.preset == 'demo' and flags.platform == 'GPU' and not flags.is_distributed
    assert given == {'batch_size': 64, 'lr_init': 1}
    config = make_config(presets[flags.preset], given)
    assert (config.batch_size, config.num_classes, config.momentum) == (64, presets['demo']['num_classes'], 0.9)
    assert config.lr_init == 1.0 and isinstance(config.lr_init, float)


@pytest.mark.parametrize('flags,sentence', [
    ('--batchsize 3', 'unknown argument --batchsize: did you mean --batch_size?'),
    ('--batch_size x', "argument --batch_size: invalid int value: 'x'"),
    ('--batch_size 2.5', "argument --batch_size: invalid int value: '2.5'"),
    ('--platform TPU', "argument --platform: invalid choice: 'TPU'"),
    ('--preset dmo', "argument --preset: invalid choice: 'dmo'"),
    ('--is_distributed maybe', 'argument --is_distributed: must be True or False, got maybe'),
    ('--device_id -1', 'argument --device_id: must be 0 or more, got -1'),
    ('--frobnicate', 'unknown argument --frobnicate, see --help')])
def test_wrong_flags_are_one_sentence_and_status_2(capsys, flags, sentence):
    with pytest.raises(SystemExit) as stopped:
        train.parse(['--dataset_path', 'd'] + flags.split())
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count('\n') == 1


@pytest.mark.parametrize('values,sentence', [
    ({'batch_sise': 1}, 'unknown configuration key batch_sise: did you mean batch_size?'),
    ({'batch_size': -1}, 'batch_size must be 1 or more, got -1'),
    ({'batch_size': '8'}, "batch_size must be a whole number, got '8'"),
    ({'accumulation_steps': 0}, 'accumulation_steps must be 1 or more, got 0'),
    ({'amp_level': 'O1'}, 'amp_level must be O0 or O3, got O1'),
    ({'epoch_size': 0}, 'epoch_size must be 1 or more, got 0'),
    ({'label_smooth_factor': 1.5}, 'label_smooth_factor must be from 0 to 1, got 1.5'),
    ({'lr_init': float('nan')}, 'lr_init must be a number, got nan'),
    ({'penultimate_filters': 100}, 'penultimate_filters must be a multiple of 96, got 100'),
    ({'image_size': 64}, 'the auxiliary head needs image_size 67 or more, got 64'),
    ({'rank': 2, 'group_size': 2}, 'rank 2 is not below group_size 2')])
def test_wrong_values_are_one_sentence(values, sentence):
    with pytest.raises(UserError, match='^error: ') as stopped:
        make_config(values)
    assert sentence in str(stopped.value)


def test_a_batch_of_one_image_is_refused_where_batch_norm_sees_one_value():
    for values, remedy in (({}, '--aux_factor 0'), ({'accumulation_steps': 8}, '--aux_factor 0'),
                           ({'freeze': 'backbone'}, '--aux_factor 0'),
                           ({'aux_factor': 0.0, 'image_size': 34}, '--image_size 35 or more')):
        with pytest.raises(UserError, match='with batch_size 1.* has no variance .*%s' % remedy):
            require_batch_statistics(make_config({'batch_size': 1}, values))
        require_batch_statistics(make_config({'batch_size': 2}, values))
    for values in ({'image_size': 35}, {'image_size': 34, 'freeze': 'backbone'}):
        require_batch_statistics(make_config({'batch_size': 1, 'aux_factor': 0.0}, values))


@pytest.mark.parametrize('size,side', [(32, 1), (34, 1), (35, 2)])
def test_below_35_pixels_the_last_map_is_one_pixel(size, side):
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    network, shapes = NASNetAMobile(2, None, **SMALL), []
    network.chain[-1].register_forward_hook(lambda cell, inputs, output: shapes.append(output.shape))
    network(Tensor(np.zeros((1, 3, size, size), np.float32)))
    assert [shape[2:] for shape in shapes] == [(side, side)]


def test_a_configuration_is_only_read():
    config = make_config({'batch_size': 4})
    with pytest.raises(AttributeError, match=r'a configuration is only read: .* replace\(config, batch_size=...\)'):
        config.batch_size = 8
    assert config.batch_size == 4


def test_a_changed_configuration_is_another_one():
    config = make_config({'batch_size': 4})
    other = replace(config, batch_size=8, rank=1, group_size=2)
    assert (config.batch_size, other.batch_size, other.group_size) == (4, 8, 2)
    assert vars(other) == dict(vars(config), batch_size=8, rank=1, group_size=2)
    with pytest.raises(UserError, match='batch_size must be 1 or more, got 0'):
        replace(config, batch_size=0)


def test_the_default_configuration_does_not_change_with_one_that_is_made_of_it():
    before = dict(nasnet_a_mobile_config_gpu)
    make_config(presets['demo'], {'batch_size': 4})
    assert nasnet_a_mobile_config_gpu == before


def test_fine_tuning_is_gentle():
    preset = presets['finetune']
    assert preset['lr_init'] < 0.04 and preset['bn_decay'] < 0.9997 and preset['epoch_size'] < 100
