"""Accuracy of a checkpoint on a folder of images: python eval.py --dataset_path DIR --checkpoint FILE."""
import os
import time

from src import framework
from src.build import build_network
from src.checkpoint import load, network_config, restore
from src.cli import Parser, make_config
from src.dataset import create_dataset, load_class_names
from src.evaluation import evaluate
from src.train_step import EvalStep


def parse(argv=None):
    """Flags, checkpoint, and configuration: the checkpoint's network under the command line's values."""
    parser = Parser('Evaluate a checkpoint of NASNet-A-Mobile.')
    parser.add_argument('--dataset_path', required=True, metavar='DIR', help='images, a folder per class')
    parser.add_argument('--checkpoint', required=True, metavar='FILE', help='checkpoint of train.py')
    parser.add_config_keys()
    flags, given = parser.parse(argv)
    checkpoint = load(flags.checkpoint)
    return flags, checkpoint, make_config(network_config(checkpoint), given)


def main(flags, checkpoint, config):
    """Print top-1 and top-5 accuracy."""
    framework.use_device(flags.platform, flags.device_id)
    network = build_network(config, training=False)
    restore(checkpoint, network)
    names = os.path.join(os.path.dirname(flags.checkpoint), 'classes.txt')
    dataset = create_dataset(flags.dataset_path, config, training=False,
                             class_names=load_class_names(names) if os.path.exists(names) else None)
    start = time.time()
    accuracy = evaluate(EvalStep(network), dataset)
    print('acc=%.2f%%(TOP1)' % (100 * accuracy.top1))
    print('acc=%.2f%%(TOP5)' % (100 * accuracy.top5))
    print('%d images, %d unreadable and left out, %.1f s with graph compilation, %.1f img/s'
          % (accuracy.images, accuracy.skipped, time.time() - start, accuracy.images_per_second))


if __name__ == '__main__':
    main(*parse())
