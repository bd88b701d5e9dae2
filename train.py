"""Train NASNet-A-Mobile on a folder of images: python train.py --dataset_path DIR (see --help)."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))      # Python leaves it out if PYTHONSAFEPATH is set
from src.cli import Parser, boolean
from src.config import presets
from src.startup import prepare


def parse(argv=None):
    """(flags, {configuration key: value}) of the command line."""
    parser = Parser('Train NASNet-A-Mobile.')
    parser.add_argument('--dataset_path', required=True, metavar='DIR', help='training images, a folder per class')
    parser.add_argument('--eval_dataset_path', metavar='DIR', help='images to validate on after each epoch')
    parser.add_argument('--is_distributed', default=False, type=boolean, metavar='True|False',
                        help='this is one of several data-parallel processes, started by mpirun or msrun')
    parser.add_argument('--resume', metavar='FILE|auto',
                        help='continue from this checkpoint, or from the newest good one in ckpt_path')
    parser.add_argument('--other_images', default=False, type=boolean, metavar='True|False',
                        help='resume although the training images are not those of the checkpoint; the result is then '
                             'that of neither data set')
    parser.add_argument('--pretrained', metavar='FILE',
                        help='start from the weights of this checkpoint; classifiers of other classes are newly drawn')
    parser.add_argument('--preset', default='imagenet', choices=sorted(presets), help='values of src/config.py')
    parser.add_config_keys()
    return parser.parse(argv)


def main(argv=None):
    """Train as the command line says."""
    flags, given = parse(argv)
    prepare(given)      # before NumPy and MindSpore are imported below
    from src.training.trainer import train
    train(flags, given)


if __name__ == '__main__':
    main()
