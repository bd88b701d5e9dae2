"""Accuracy of a checkpoint on a folder of images, or the classes of single images (see --help).

    python eval.py --dataset_path DIR --checkpoint FILE
    python eval.py --image FILE_OR_FOLDER... --checkpoint FILE
"""
import sys
import time

from src import group
from src.build import build_network
from src.checkpoint import NO_AUXILIARY_HEAD, load, network_config, restore, state
from src.classify import class_names, classify, find_images, readable, show
from src.cli import Parser, boolean, make_config
from src.dataset import create_dataset
from src.depthwise import use_own_kernels
from src.evaluation import evaluate
from src.fold import fold
from src.train_step import EvalStep


def parse(argv=None):
    """Flags, checkpoint, and configuration: the checkpoint's network under the command line's values."""
    parser = Parser('Evaluate a checkpoint of NASNet-A-Mobile.')
    parser.add_argument('--dataset_path', metavar='DIR', help='images, a folder per class')
    parser.add_argument('--image', nargs='+', metavar='FILE_OR_FOLDER', help='classify these instead')
    parser.add_argument('--checkpoint', required=True, metavar='FILE', help='checkpoint of train.py')
    parser.add_argument('--format', default='table', choices=('table', 'csv', 'json'), help='of the classes of images')
    parser.add_argument('--report', metavar='DIR', help='write per-class accuracy, confusion matrix and mistakes there')
    parser.add_argument('--is_distributed', default=False, type=boolean, metavar='True|False',
                        help='one of several processes that share the images, started by mpirun or msrun')
    parser.add_weights()
    parser.add_config_keys()
    flags, given = parser.parse(argv)
    if (flags.dataset_path is None) == (flags.image is None):
        parser.error('give either --dataset_path DIR or --image FILE_OR_FOLDER...')
    if flags.report and flags.image:
        parser.error('--report needs --dataset_path: single images have no true class')
    if flags.is_distributed and (flags.image or flags.report):
        parser.error('--image and --report are for one process: leave --is_distributed out')
    checkpoint = load(flags.checkpoint)
    return flags, checkpoint, make_config(NO_AUXILIARY_HEAD, network_config(checkpoint), given)


def main(flags, checkpoint, config):
    """Print accuracies, or the best classes of images; returns the exit status."""
    group.enter(flags, config)
    folders = class_names(checkpoint, config.num_classes)
    names = readable(folders, config.num_classes)
    files = flags.image and find_images(flags.image)
    network = build_network(config, training=False)
    restore(checkpoint, network, flags.weights)
    step = EvalStep(use_own_kernels(fold(network)))
    if flags.image:
        config.batch_size = min(config.batch_size, len(files))
        return 1 if show(classify(step, files, config), names, flags.format) else 0
    dataset = create_dataset(flags.dataset_path, config, training=False, class_names=folders)
    if config.group_size > 1:
        group.require_agreement(config, state(network), {'images': dataset.describe()})
    report = None
    if flags.report:
        from src.report import Report       # matplotlib takes a second
        report = Report(dataset, names)
    start = time.time()
    accuracy = evaluate(step, dataset, report and report.see)
    if config.rank > 0:
        return 0
    print('acc=%.2f%%(TOP1)' % (100 * accuracy.top1))
    print('acc=%.2f%%(TOP5)' % (100 * accuracy.top5))
    print('%d images, %d unreadable and left out, %.1f s with graph compilation, %.1f img/s'
          % (accuracy.images, accuracy.skipped, time.time() - start, accuracy.images_per_second))
    if report:
        report.write(flags.report)
        print('report: %s' % flags.report)
    return 0


if __name__ == '__main__':
    with group.failing_for_all():
        sys.exit(main(*parse()))
