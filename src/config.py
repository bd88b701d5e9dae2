"""Everything that can be set, with the value it has when nobody sets it.

Sources of the values: [slim] TF-Slim, `research/slim/nets/nasnet/nasnet.py` and `train_image_classifier.py`;
[paper] arXiv 1707.07012, section A.1. A preset changes a few keys, and the command line changes single keys
(`--batch_size 64`). `src/cli.py` puts them together.
"""

nasnet_a_mobile_config_gpu = {
    # Run
    'random_seed': 1,             # weights, order, augmentation and dropout follow from it
    'rank': 0,                    # number of this process among group_size; the launcher sets it
    'group_size': 1,              # number of data-parallel processes (ranks); the launcher sets it
    'work_nums': 8,               # threads that decode images, at most as many as processors
    'epoch_size': 500,            # epochs to train
    'log_steps': 100,             # steps between two lines of the log
    'tensorboard': False,         # True: also write event files for TensorBoard into ckpt_path

    # Checkpoints
    'save_checkpoint_steps': 0,   # steps between checkpoints within an epoch; 0: only as save_checkpoint_minutes says
    'save_checkpoint_minutes': 10.0,  # minutes between checkpoints within an epoch, so that a crash costs at most so
                                  # much; to write one takes less than a second. Only the newest 3 of them are kept.
                                  # 0: only as save_checkpoint_steps says
    'keep_checkpoint_max': 100,   # number of newest checkpoints that are kept
    'ckpt_path': './checkpoint/', # folder of checkpoints, class list, metrics.csv and metrics.png
    'on_save_error': 'stop',      # if a file of the run cannot be written: stop, or continue and try the next time
    'is_save_on_master': 1,       # 1: only rank 0 writes checkpoints; 0: every rank writes its own

    # Data
    'batch_size': 32,             # images of one batch on one rank [slim]
    'accumulation_steps': 1,      # number of batches whose gradients are averaged into one step; BatchNorm sees
                                  # each batch separately
    'num_classes': 1000,          # ImageNet
    'image_size': 224,            # height and width of the images that the network gets, in pixels
    'crop_min_area': 0.08,        # smallest share of an image's area that a training crop shows (Inception)
    'on_bad_image': 'skip',       # an unreadable file: skip (name it and take another one) or stop
    'max_bad_images': 0.01,       # with skip: the largest share of unreadable files. A few broken downloads do no
                                  # harm, but more than 1 % means that something is wrong with the data set. Three
                                  # files are allowed in a data set of any size (src/dataset.py).
    'color_jitter': 0.4,          # brightness, contrast and saturation are scaled by 1 - this to 1 + this; 0: off

    # Network
    'penultimate_filters': 1056,  # channels before the classifier, 24 times the filters of the first stage [paper]
    'cells_per_stage': 4,         # normal cells in each of the three stages: 4 @ 1056 [paper]
    'bn_decay': 0.9997,           # decay of BatchNorm's moving averages [slim]
    'dropout_keep_prob': 0.5,     # share of the features that dropout keeps before the classifier [slim]
    'freeze': 'none',             # backbone: only the classifiers are trained

    # Loss
    'label_smooth_factor': 0.1,   # probability that is spread evenly over all classes [slim]
    'aux_factor': 0.4,            # weight of the auxiliary head's loss [slim]; 0: no auxiliary head

    # Optimizer: RMSProp as TensorFlow 1 defines it
    'lr_init': 0.04,              # learning rate of the first epochs for one rank [slim]
    'lr_decay_rate': 0.97,        # the learning rate is multiplied by this ... [slim]
    'num_epoch_per_decay': 2.4,   # ... each time this number of epochs has passed, in a staircase [slim]
    'weight_decay': 0.00004,      # L2 of convolution and dense weights, not of biases and BatchNorm [slim]
    'momentum': 0.9,              # [slim]
    'opt_eps': 1.0,               # epsilon inside the square root [slim]
    'rmsprop_decay': 0.9,         # decay of the mean square [slim]
    'clip_norm': 10.0,            # gradients are scaled down to this global norm [paper]; 0: off
    'ema_decay': 0.0,             # decay of the moving averages of the weights, 0.9999 in TF-Slim; 0: no averages
    'loss_scale': 1,              # multiplies the loss before the backward pass and divides the gradients after it;
                                  # 0: dynamic, halved when gradients overflow, doubled after 2000 good steps. With
                                  # float16 (amp_level O3) it is 0 unless it is given
    'amp_level': 'O0',            # O0: float32. O3: the network computes in float16. Weights, BatchNorm's statistics,
                                  # loss, optimizer and evaluation are float32 at both levels.
    'tf32': False,                # True: GPUs from Ampere on round the factors of float32 convolutions and dense
                                  # layers to 10 bits, which is faster; logits of size 3 change by about 9e-4
}

# A preset is a small dict over the defaults.
presets = {
    'imagenet': {},
    # A few hundred small images, minutes on two cores: full width, but one cell in each stage and mild
    # regularisation. BatchNorm's averages must follow within a hundred steps, hence bn_decay.
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
        'epoch_size': 30,           # the features are trained already: tens of epochs are enough
        'log_steps': 10,
        'keep_checkpoint_max': 3,
        'crop_min_area': 0.25,      # a small set shows an object in few views, so crops keep more of it
        'bn_decay': 0.99,           # the averages fit the new images after some hundred steps
        'lr_init': 0.01,            # a quarter of the default: classifiers learn, features change slowly
        'lr_decay_rate': 0.9,       # after 30 epochs the rate is 1/20 of its first value
        'num_epoch_per_decay': 1.0,
        'weight_decay': 0.0001,     # more than the default, because few images are easily learned by heart
    },
}

# A layer over a checkpoint's configuration for evaluation and export: they build no auxiliary head, so its smallest
# image size does not apply to them.
without_auxiliary_head = {'aux_factor': 0.0}

choices = {'on_bad_image': ('skip', 'stop'), 'on_save_error': ('stop', 'continue'),
           'freeze': ('none', 'backbone'), 'amp_level': ('O0', 'O3')}

# Keys that a resumed run may change, because no bit of a step's result depends on them.
free_on_resume = ('rank', 'work_nums', 'epoch_size', 'log_steps', 'tensorboard', 'save_checkpoint_steps',
                  'save_checkpoint_minutes', 'keep_checkpoint_max', 'ckpt_path', 'is_save_on_master', 'on_bad_image',
                  'max_bad_images', 'on_save_error')

# (smallest, largest) allowed value. None means no bound. Every key with a number has a row.
ranges = {
    'random_seed': (0, 2 ** 31 - 1), 'rank': (0, None), 'group_size': (1, None), 'work_nums': (1, None),
    'epoch_size': (1, None), 'log_steps': (1, None), 'save_checkpoint_steps': (0, None),
    'save_checkpoint_minutes': (0, None),
    'keep_checkpoint_max': (1, None), 'is_save_on_master': (0, 1), 'batch_size': (1, None),
    'accumulation_steps': (1, None), 'num_classes': (2, None), 'image_size': (32, 4096),
    'crop_min_area': (0.01, 1), 'max_bad_images': (0, 1), 'color_jitter': (0, 1),
    'penultimate_filters': (96, None), 'cells_per_stage': (1, None), 'bn_decay': (0, 1), 'dropout_keep_prob': (0.01, 1),
    'label_smooth_factor': (0, 1), 'aux_factor': (0, None), 'lr_init': (0, None), 'lr_decay_rate': (0, 1),
    'num_epoch_per_decay': (0.001, None), 'weight_decay': (0, None), 'momentum': (0, 1), 'opt_eps': (0, None),
    'rmsprop_decay': (0, 1), 'ema_decay': (0, 0.999999), 'clip_norm': (0, None), 'loss_scale': (0, None),
}
