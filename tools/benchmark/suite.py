"""A worker of the benchmark: this suite, and MindSpore's own input pipeline.

The functions import what they need themselves, because `compile` measures the time of imports.
"""
import itertools
import os
import sys
import time

STARTED = time.perf_counter(), time.process_time()
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from tools.benchmark.machine import gpu_memory_mb
from tools.benchmark.rounds import peak_rss_mb, serve

# Epochs in one timed round of the input pipeline. Starting an epoch then weighs about as little as in training.
EPOCHS = 4


def main(settings, jobs=None):
    """Prepare the job that `settings` name; returns (facts, work) for `serve`.

    Args:
        jobs: {name of a job: function of (config, settings) that returns (facts, work)}; None: those of this file.
        settings: dict of `job`, `platform`, `device_id`, `config` (a dict of all keys of src/config.py), and what the
            job needs.
    """
    from src.cli import make_config
    from src.startup import prepare
    prepare(settings['config'])
    from src.framework import mindspore, use_device
    use_device(settings['platform'], settings['device_id'])
    jobs = jobs or {'step': training_step, 'kernels': kernels, 'compile': start_of_training, 'eval': evaluation,
                    'checkpoint': checkpoint, 'input': suite_input, 'mindspore_input': mindspore_input,
                    'scale': suite_scale, 'mindspore_scale': mindspore_scale}
    facts, work = jobs[settings['job']](make_config(settings['config']), settings)
    return dict({'name': 'this suite, MindSpore %s' % mindspore.__version__}, **facts), work


def build_step(config, own_kernels=True, network=None):
    """Build the network and its training step.

    Args:
        network: what is trained; None: a new network with initial weights.
        own_kernels: False: use only MindSpore's operators on a CPU too, as on a GPU.

    Returns:
        A function that does one training step as train.py does it, and reads the loss and the gradient norm. Its
        attribute `run` does not read them, and `train_step` is the TrainStep.
    """
    import numpy as np

    from src.dataset import Batch
    from src.network.build import build_network
    from src.network.initialize import initialize
    from src.training.train_step import StepRunner, build_train_step
    from tools.benchmark.data import random_batch
    if network is None:
        network = initialize(build_network(config, training=True), config.random_seed)
    train_step = build_train_step(network, config, own_kernels=own_kernels)
    train_step.set_train(True)
    run_step = StepRunner(train_step, config, 1)
    batch = Batch(*random_batch(config), np.ones(config.batch_size, np.float32))

    def run():
        return run_step(itertools.repeat(batch), 0, 0)[:2]

    def work():
        loss, norm = run()
        return float(loss.asnumpy()), float(norm.asnumpy())
    work.run, work.train_step = run, train_step
    return work


def warm(work):
    """Call `work` twice, which compiles all of it; returns `work`."""
    work()
    work()
    return work


def training_step(config, settings):
    """Training steps."""
    work = warm(build_step(config))
    memory = gpu_memory_mb(settings['device_id']) if settings['platform'] == 'GPU' else None
    return {'images': config.batch_size * config.accumulation_steps, 'gpu_memory_mb': memory}, work


def kernels(config, settings):
    """The kernels of one training step by kind and the seconds that a GPU worked, or why they cannot be counted."""
    from src.framework import without_chatter
    from tools.benchmark.kernels import NotCounted, count_kernels
    work = warm(build_step(config, settings['own_kernels']))
    try:
        with without_chatter():
            kinds, seconds = count_kernels(work)
    except NotCounted as error:
        return {'not_counted': str(error)}, None
    return {'kernels': sum(kinds.values()), 'kinds': dict(sorted(kinds.items(), key=lambda item: -item[1])),
            'device_seconds': seconds}, None


def start_of_training(config, _):
    """Seconds, CPU seconds and peak memory of the parts of a start: imports, building, the first and second step."""
    seconds, cpu_seconds, memory = {}, {}, {}
    last = STARTED

    def lap(name):
        nonlocal last
        now = time.perf_counter(), time.process_time()
        seconds[name], cpu_seconds[name], memory[name] = now[0] - last[0], now[1] - last[1], peak_rss_mb()
        last = now
    lap('import')
    work = build_step(config)
    lap('build')
    work()
    lap('compile_and_first_step')
    work()
    lap('second_step')
    return {'seconds': seconds, 'cpu_seconds': cpu_seconds, 'peak_mb': memory}, None


def inference_network(config):
    """The network without its auxiliary head, with drawn weights."""
    from src.network.build import build_network
    from src.network.merge import plain_values, set_plain_values
    from tools.benchmark.weights import like_trained
    network = build_network(config, training=False)
    set_plain_values(network, {name: like_trained(name, value.shape) for name, value in plain_values(network).items()})
    return network


def evaluation(config, _):
    """uint8 images to logits, by the step of eval.py."""
    from src.framework import Tensor
    from src.inference.evaluation import EvalStep
    from src.network.cpu.kernels import use_own_kernels
    from src.network.fold import fold
    from tools.benchmark.data import random_batch
    step = EvalStep(use_own_kernels(fold(inference_network(config))))
    step.set_train(False)
    images = random_batch(config)[0]

    def work():
        return step(Tensor(images)).asnumpy()
    return {'images': config.batch_size}, warm(work)


def checkpoint(config, settings):
    """Write the network of `evaluation` to settings['path'], a checkpoint that export.py reads."""
    from src.checkpoints.checkpoint import arrays_of, save
    save(settings['path'], arrays_of(inference_network(config)), {'config': vars(config)})
    return {}, None


def suite_input(config, settings):
    """Epochs of the batches that train.py reads: decoding, crops and mirrors, and the drawn factors of colour."""
    from src.dataset import create_dataset
    dataset = create_dataset(settings['folder'], config, training=True)

    def work():
        for epoch in range(EPOCHS):
            for batch in dataset.batches(epoch):
                assert batch.images.dtype == 'uint8'
    work()
    return {'images': EPOCHS * dataset.get_dataset_size() * config.accumulation_steps * config.batch_size}, work


def mindspore_input(config, settings):
    """The same images from MindSpore's operators in C++: random crop while decoding, mirror, uint8."""
    from mindspore import __version__
    pipeline = mindspore_pipeline(config, settings, mirror=True)
    steps = pipeline().get_dataset_size()

    def work():
        for image, _ in pipeline().repeat(EPOCHS).create_tuple_iterator(num_epochs=1, output_numpy=True):
            assert image.dtype == 'uint8'
    work()
    return {'name': 'MindSpore %s C++ map' % __version__, 'images': EPOCHS * steps * config.batch_size}, work


def mindspore_pipeline(config, settings, mirror):
    """A function that makes MindSpore's own pipeline of the images in settings['folder']."""
    from loky import cpu_count
    from mindspore import dataset
    from mindspore.dataset import vision
    dataset.config.set_seed(config.random_seed)
    workers = min(config.work_nums, cpu_count())
    operators = [vision.RandomCropDecodeResize(config.image_size, scale=(config.crop_min_area, 1.0))]
    if mirror:
        operators.append(vision.RandomHorizontalFlip())

    def make():
        data = dataset.ImageFolderDataset(settings['folder'], num_parallel_workers=workers, shuffle=True)
        data = data.map(operators, 'image', num_parallel_workers=workers)
        return data.batch(config.batch_size, drop_remainder=True)
    return make


def suite_scale(config, settings):
    """Seconds and memory of a large folder: the scan, the order of an epoch, the first batch, one in mid-epoch."""
    from src.dataset import create_dataset
    from src.input.draws import epoch_order
    before, began = peak_rss_mb(), time.perf_counter()
    dataset = create_dataset(settings['folder'], config, training=True)
    scanned = time.perf_counter()
    next(dataset.batches(0))
    first = time.perf_counter()
    facts = {'files': dataset.num_images, 'classes': len(dataset.class_names),
             'scan_seconds': scanned - began, 'first_batch_seconds': first - began,
             'first_batch_mb': peak_rss_mb() - before, 'first_batch_peak_rss_mb': peak_rss_mb()}
    began = time.perf_counter()
    epoch_order(config.random_seed, 1, dataset.num_images)
    facts['epoch_order_seconds'] = time.perf_counter() - began
    began = time.perf_counter()
    next(dataset.batches(1, dataset.get_dataset_size() // 2))
    facts['mid_epoch_seconds'] = time.perf_counter() - began
    return facts, None


def mindspore_scale(config, settings):
    """Seconds and memory until the first batch of MindSpore's own reader, which shuffles all files too."""
    from mindspore import __version__
    pipeline = mindspore_pipeline(config, settings, mirror=False)
    before, began = peak_rss_mb(), time.perf_counter()
    next(pipeline().create_tuple_iterator(num_epochs=1, output_numpy=True))
    return {'name': 'MindSpore %s ImageFolderDataset' % __version__,
            'first_batch_seconds': time.perf_counter() - began, 'first_batch_mb': peak_rss_mb() - before,
            'first_batch_peak_rss_mb': peak_rss_mb()}, None


if __name__ == '__main__':
    serve(main)
