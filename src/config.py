"""Everything that can be set, with the value it has when nobody sets it.

Sources: [slim] TF-Slim `research/slim/nets/nasnet/nasnet.py` and `train_image_classifier.py`;
[paper] arXiv 1707.07012, section A.1. A preset overrides a few keys, the command line
overrides single keys (`--batch_size 64`); `src/cli.py` does both.
"""

nasnet_a_mobile_config_gpu = {
    # Run
    'random_seed': 1,             # weights, order, augmentation and dropout all follow from it
    'rank': 0,                    # this process among group_size; set by the launcher when distributed
    'group_size': 1,              # number of data-parallel processes; set by the launcher likewise
    'work_nums': 8,               # threads that decode images, at most the machine's cores
    'epoch_size': 500,            # epochs to train
    'log_steps': 100,             # steps between two lines of the log

    # Checkpoints
    'save_checkpoint_steps': 0,   # steps between checkpoints within an epoch; 0: at the end of each epoch alone
    'keep_checkpoint_max': 100,   # newest checkpoints kept
    'ckpt_path': './checkpoint/', # folder of checkpoints, class list and metrics.csv
    'on_save_error': 'stop',      # a checkpoint cannot be written: stop, or continue and try the next one
    'is_save_on_master': 1,       # 1: rank 0 alone writes checkpoints; 0: every rank writes its own

    # Data
    'batch_size': 32,             # images a process reads and runs at once [slim]
    'accumulation_steps': 1,      # so many batches make one step: their mean gradient; BatchNorm sees single ones
    'num_classes': 1000,          # ImageNet
    'image_size': 224,            # pixels, height and width of a training and evaluation image
    'crop_min_area': 0.08,        # smallest share of an image that a training crop shows (Inception's)
    'on_bad_image': 'skip',       # an unreadable file: skip (name it, take another) or stop
    'color_jitter': 0.4,          # brightness, contrast and saturation are scaled by 1 -/+ this; 0: off

    # Network
    'penultimate_filters': 1056,  # channels before the classifier, 24 x the first stage's filters [paper]
    'cells_per_stage': 4,         # normal cells in each of the three stages [paper]: 4 @ 1056
    'bn_decay': 0.9997,           # decay of the BatchNorm moving averages [slim]
    'dropout_keep_prob': 0.5,     # share of features kept before the classifier [slim]

    'freeze': 'none',             # backbone: train the classifiers alone, the rest stays as it is

    # Loss
    'label_smooth_factor': 0.1,   # probability spread evenly over all classes [slim]
    'aux_factor': 0.4,            # weight of the auxiliary head's loss [slim]; 0: no auxiliary head

    # Optimizer: RMSProp as TensorFlow 1 defines it
    'lr_init': 0.04,              # learning rate of the first epochs for each process [slim]
    'lr_decay_rate': 0.97,        # the learning rate is multiplied by this ... [slim]
    'num_epoch_per_decay': 2.4,   # ... once in so many epochs, in a staircase [slim]
    'weight_decay': 0.00004,      # L2 on convolution and dense weights alone [slim]
    'momentum': 0.9,              # [slim]
    'opt_eps': 1.0,               # inside the root [slim]
    'rmsprop_decay': 0.9,         # decay of the mean square [slim]
    'clip_norm': 10.0,            # gradients are scaled down to this global norm [paper]; 0: off
    'ema_decay': 0.0,             # decay of the moving averages of the weights, TF-Slim's is 0.9999; 0: none
    'loss_scale': 1,              # multiplies the loss before, divides the gradients after the backward pass;
                                  # 0: dynamic, halved when they overflow, doubled after 2000 steps without
    'amp_level': 'O0',            # O0: float32. O2: convolutions and dense layers compute in float16, BatchNorm
                                  # and the rest in float32. O3: the whole network in float16. auto: O2 on a GPU or
                                  # an Ascend, O0 on a CPU. Weights, loss, optimizer, evaluation: always float32
}

# A preset is a small dict over the defaults.
presets = {
    'imagenet': {},
    # Minutes on two cores for a few hundred small images: full width, but one cell a stage and mild
    # regularisation. Moving averages must follow within a hundred steps, hence bn_decay.
    'demo': {
        'epoch_size': 20,
        'log_steps': 10,
        'keep_checkpoint_max': 2,
        'num_classes': 8,
        'image_size': 72,
        'batch_size': 16,
        'crop_min_area': 0.35,
        'cells_per_stage': 1,
        'bn_decay': 0.9,
        'dropout_keep_prob': 0.9,
        'lr_init': 0.015,
        'lr_decay_rate': 0.88,
        'num_epoch_per_decay': 1.0,
    },
    # Own classes from trained weights (--pretrained), a few thousand images.
    'finetune': {
        'epoch_size': 30,           # the features are there: tens of epochs, not hundreds
        'log_steps': 10,
        'keep_checkpoint_max': 3,
        'crop_min_area': 0.25,      # a small set has few views of an object: do not cut it to pieces
        'bn_decay': 0.99,           # averages of the new images after some hundred steps instead of ten thousand
        'lr_init': 0.01,            # a quarter: new classifiers learn, old features move slowly
        'lr_decay_rate': 0.9,       # to 1/20 of it over the 30 epochs
        'num_epoch_per_decay': 1.0,
        'weight_decay': 0.0001,     # more, for fewer images to fit by heart
    },
}

choices = {'on_bad_image': ('skip', 'stop'), 'on_save_error': ('stop', 'continue'),
           'freeze': ('none', 'backbone'), 'amp_level': ('O0', 'O2', 'O3', 'auto')}

# What a resumed run may set anew: nothing that changes which bits come out of a step.
free_on_resume = ('rank', 'work_nums', 'epoch_size', 'log_steps', 'save_checkpoint_steps', 'keep_checkpoint_max',
                  'ckpt_path', 'is_save_on_master', 'on_bad_image', 'on_save_error')

# (smallest, largest) allowed value; None: no bound. A key that is absent is free.
ranges = {
    'random_seed': (0, 2 ** 31 - 1), 'rank': (0, None), 'group_size': (1, None), 'work_nums': (1, None),
    'epoch_size': (1, None), 'log_steps': (1, None), 'save_checkpoint_steps': (0, None),
    'keep_checkpoint_max': (1, None), 'is_save_on_master': (0, 1), 'batch_size': (1, None),
    'accumulation_steps': (1, None), 'num_classes': (2, None), 'image_size': (32, 4096),
    'crop_min_area': (0.01, 1), 'color_jitter': (0, 1), 'penultimate_filters': (96, None),
    'cells_per_stage': (1, None), 'bn_decay': (0, 1), 'dropout_keep_prob': (0.01, 1),
    'label_smooth_factor': (0, 1), 'aux_factor': (0, None), 'lr_init': (0, None), 'lr_decay_rate': (0, 1),
    'num_epoch_per_decay': (0.001, None), 'weight_decay': (0, None), 'momentum': (0, 1), 'opt_eps': (0, None),
    'rmsprop_decay': (0, 1), 'ema_decay': (0, 0.999999), 'clip_norm': (0, None), 'loss_scale': (0, None),
}
