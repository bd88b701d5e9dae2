"""This suite, and MindSpore's own input pipeline, as workers of tools/benchmark.py."""
import os
import sys
import time
from types import SimpleNamespace

STARTED = time.perf_counter(), time.process_time()
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from tools.rounds import serve  # noqa: E402  pylint: disable=wrong-import-position

PASSES = 4      # epochs in a timed stretch of the input, so that starting one weighs as little as in training


def main(settings):
    """(facts, work) of the job that `settings` name."""
    config = SimpleNamespace(**settings['config'])
    from src import framework
    framework.use_device(settings['platform'], settings['device_id'])
    config.amp_level = framework.precision(config.amp_level, settings['platform'])
    facts = {'name': 'this suite, MindSpore %s' % framework.mindspore.__version__}
    job = {'step': training_step, 'eval': evaluation, 'input': suite_input, 'mindspore_input': mindspore_input,
           'compile': compile_step, 'kernels': kernels, 'checkpoint': checkpoint, 'scale': scale,
           'mindspore_scale': mindspore_scale}[settings['job']]
    more, work = job(config, settings)
    return dict(facts, **more), work


def synthetic(config):
    """A batch of random images (N, S, S, 3) uint8, labels and colour factors."""
    import numpy as np
    random = np.random.RandomState(config.random_seed)
    images = random.randint(0, 256, (config.batch_size, config.image_size, config.image_size, 3)).astype(np.uint8)
    labels = random.randint(0, config.num_classes, config.batch_size).astype(np.int32)
    color = random.uniform(1 - config.color_jitter, 1 + config.color_jitter, (config.batch_size, 3))
    return images, labels, color.astype(np.float32)


def build_step(config, own_kernels=True):
    """A function that does what train.py does with a batch, up to reading loss and gradient norm.

    Without `own_kernels` it computes by MindSpore's operators alone, the form for a GPU.
    """
    from nasnet_a_mobile import Depthwise, initialize
    from src.build import build_network, build_train_step
    from src.draws import dropout_mask
    from src.ema import average_decay
    from src.framework import Tensor, mindspore
    from src.lr_generator import learning_rate
    from src.train_step import AccumulatedStep
    train_step = build_train_step(initialize(build_network(config, training=True), config.random_seed), config)
    for _, cell in () if own_kernels else train_step.network.cells_and_names():
        if isinstance(cell, Depthwise):
            cell.own_kernels = None
    train_step.set_train(True)
    run_step = AccumulatedStep(train_step)
    images, labels, color = synthetic(config)

    def scalar(value):
        return Tensor(value, mindspore.float32)

    def work():
        parts = ((Tensor(images), Tensor(labels), Tensor(color), Tensor(dropout_mask(
            config.random_seed, 0, part * config.batch_size, config.batch_size, config.penultimate_filters,
            config.dropout_keep_prob))) for part in range(config.accumulation_steps))
        loss, norm = run_step(parts, scalar(learning_rate(0, 1, config)), scalar(average_decay(0, config.ema_decay)))
        return float(loss.asnumpy()), float(norm.asnumpy())
    return work


def training_step(config, _):
    """Training steps after a warm-up."""
    work = build_step(config)
    for _ in range(2):
        work()
    return {'images': config.batch_size * config.accumulation_steps}, work


def kernels(config, settings):
    """Kernels of one training step."""
    from src.framework import without_chatter
    from tools.kernels import count_kernels
    work = build_step(config, settings['own_kernels'])
    work()
    with without_chatter():
        kinds = count_kernels(work)
    return {'kernels': sum(kinds.values()), 'kinds': dict(sorted(kinds.items(), key=lambda item: -item[1]))}, None


def compile_step(config, _):
    """Seconds of a start, and peak memory after: imports, building, the first step, the second."""
    from tools.rounds import peak_rss_mb
    seconds, cpu, memory = {}, {}, {}
    last = STARTED

    def lap(name):
        nonlocal last
        now = time.perf_counter(), time.process_time()
        seconds[name], cpu[name], memory[name] = now[0] - last[0], now[1] - last[1], peak_rss_mb()
        last = now
    lap('import')
    work = build_step(config)
    lap('build')
    work()
    lap('compile_and_first_step')
    work()
    lap('second_step')
    return {'seconds': seconds, 'cpu_seconds': cpu, 'peak_mb': memory}, None


def inference_network(config):
    """The network with weights and statistics like a trained one's: those of a fresh one let the values explode."""
    from src.build import build_network
    from src.merge import plain_values, set_plain_values
    from tests.golden.draw import parameter as draw
    network = build_network(config, training=False)
    set_plain_values(network, {name: draw(name, value.shape) for name, value in plain_values(network).items()})
    return network


def evaluation(config, _):
    """uint8 images to logits by the step of eval.py."""
    from src.depthwise import use_own_kernels
    from src.fold import fold
    from src.framework import Tensor
    from src.train_step import EvalStep
    step = EvalStep(use_own_kernels(fold(inference_network(config))))
    step.set_train(False)
    images = synthetic(config)[0]

    def work():
        return step(Tensor(images)).asnumpy()
    for _ in range(2):
        work()
    return {'images': config.batch_size}, work


def checkpoint(config, settings):
    """Write the network of `evaluation` as a checkpoint for export.py."""
    from src.checkpoint import save, state
    save(settings['path'], state(inference_network(config)), {'config': vars(config)})
    return {}, None


def suite_input(config, settings):
    """Epochs of train.py's batches: every augmentation that is made on the host, draws of the others included."""
    from src.dataset import create_dataset
    dataset = create_dataset(settings['folder'], config, training=True)

    def work():
        for epoch in range(PASSES):
            for batch in dataset.batches(epoch):
                assert batch.images.dtype == 'uint8'
    work()
    return {'images': PASSES * dataset.get_dataset_size() * config.batch_size}, work


def mindspore_input(config, settings):
    """The same from MindSpore's C++ operators: random crop while decoding, flip, uint8."""
    from mindspore import __version__, dataset as ds
    from mindspore.dataset import vision
    ds.config.set_seed(config.random_seed)
    workers = min(config.work_nums, os.cpu_count())

    def pipeline():
        data = ds.ImageFolderDataset(settings['folder'], num_parallel_workers=workers, shuffle=True)
        data = data.map([vision.RandomCropDecodeResize(config.image_size, scale=(config.crop_min_area, 1.0)),
                         vision.RandomHorizontalFlip()], 'image', num_parallel_workers=workers)
        return data.batch(config.batch_size, drop_remainder=True)
    steps = pipeline().get_dataset_size()

    def work():
        for image, _ in pipeline().repeat(PASSES).create_tuple_iterator(num_epochs=1, output_numpy=True):
            assert image.dtype == 'uint8'
    work()
    return {'name': 'MindSpore %s C++ map' % __version__, 'images': PASSES * steps * config.batch_size}, work


def scale(config, settings):
    """Seconds and memory of a large folder: scan, order of an epoch, first batch, a batch in mid-epoch."""
    from src.dataset import create_dataset
    from src.draws import epoch_order
    from tools.rounds import peak_rss_mb
    before, began = peak_rss_mb(), time.perf_counter()
    dataset = create_dataset(settings['folder'], config, training=True)
    scanned = time.perf_counter()
    next(dataset.batches(0))
    first = time.perf_counter()
    facts = {'files': dataset.num_images, 'classes': len(dataset.class_names),
             'scan_seconds': scanned - began, 'first_batch_seconds': first - began,
             'first_batch_mb': peak_rss_mb() - before, 'first_batch_peak_rss_mb': peak_rss_mb()}
    start = time.perf_counter()
    epoch_order(config.random_seed, 1, dataset.num_images)
    facts['epoch_order_seconds'] = time.perf_counter() - start
    start = time.perf_counter()
    next(dataset.batches(1, dataset.get_dataset_size() // 2))
    facts['mid_epoch_seconds'] = time.perf_counter() - start
    return facts, None


def mindspore_scale(config, settings):
    """The first batch of MindSpore's own reader in a full permutation."""
    from mindspore import __version__, dataset as ds
    from mindspore.dataset import vision
    from tools.rounds import peak_rss_mb
    workers = min(config.work_nums, os.cpu_count())
    before, began = peak_rss_mb(), time.perf_counter()
    data = ds.ImageFolderDataset(settings['folder'], num_parallel_workers=workers, shuffle=True)
    data = data.map([vision.RandomCropDecodeResize(config.image_size)], 'image', num_parallel_workers=workers)
    next(data.batch(config.batch_size).create_tuple_iterator(num_epochs=1, output_numpy=True))
    return {'name': 'MindSpore %s ImageFolderDataset' % __version__,
            'first_batch_seconds': time.perf_counter() - began, 'first_batch_mb': peak_rss_mb() - before,
            'first_batch_peak_rss_mb': peak_rss_mb()}, None


if __name__ == '__main__':
    serve(main)
