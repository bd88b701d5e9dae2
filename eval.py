"""Accuracy of a trained network on a folder of images, or the classes of single images (see --help).

    python eval.py --dataset_path DIR --checkpoint FILE
    python eval.py --image FILE_OR_FOLDER... --checkpoint FILE
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))      # Python leaves it out if PYTHONSAFEPATH is set
from src.cli import Parser, boolean
from src.startup import prepare


def parse(argv=None):
    """(flags, {configuration key: value}) of the command line."""
    parser = Parser('Evaluate a checkpoint of NASNet-A-Mobile.')
    parser.add_argument('--dataset_path', metavar='DIR', help='images, a folder per class')
    parser.add_argument('--image', nargs='+', metavar='FILE_OR_FOLDER', help='classify these images instead')
    parser.add_argument('--checkpoint', required=True, metavar='FILE',
                        help='checkpoint of train.py, or an exported .onnx or .mindir file')
    parser.add_argument('--format', default='table', choices=('table', 'csv', 'json'),
                        help='how the classes of images are printed')
    parser.add_argument('--report', metavar='DIR',
                        help='write accuracy by class, confusion matrix and mistakes into this folder')
    parser.add_argument('--is_distributed', default=False, type=boolean, metavar='True|False',
                        help='this is one of several processes that share the images, started by mpirun or msrun')
    parser.add_weights()
    parser.add_config_keys()
    flags, given = parser.parse(argv)
    if (flags.dataset_path is None) == (flags.image is None):
        parser.error('give either --dataset_path DIR or --image FILE_OR_FOLDER...')
    if flags.report and flags.image:
        parser.error('--report needs --dataset_path: single images have no true class')
    if flags.is_distributed and (flags.image or flags.report):
        parser.error('--image and --report are for one process: leave --is_distributed out')
    return flags, given


def main(argv=None):
    """Evaluate or classify; returns the exit status, 1 if an image could not be classified."""
    flags, given = parse(argv)
    prepare(given)      # before NumPy and MindSpore are imported below
    if flags.image:
        from src.inference.classify import classify_images
        return classify_images(flags, given)
    from src.inference.evaluation import evaluate_checkpoint
    evaluate_checkpoint(flags, given)
    return 0


if __name__ == '__main__':
    sys.exit(main())
