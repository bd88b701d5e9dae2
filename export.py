"""Export a checkpoint: python export.py --ckpt_file FILE --file_format MINDIR|AIR|ONNX --file_name NAME."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))      # Python leaves it out if PYTHONSAFEPATH is set
from src.cli import Parser
from src.startup import prepare


def parse(argv=None):
    """(flags, {configuration key: value}) of the command line."""
    parser = Parser('Export a checkpoint of NASNet-A-Mobile.')
    parser.add_argument('--ckpt_file', required=True, metavar='FILE', help='checkpoint of train.py')
    parser.add_argument('--file_format', required=True, choices=('MINDIR', 'AIR', 'ONNX'), help='what to write')
    parser.add_argument('--file_name', required=True, metavar='NAME', help='where to write, with or without the ending')
    parser.add_weights()
    parser.add_config_keys()
    return parser.parse(argv)


def main(argv=None):
    """Export a checkpoint, and compare the file with the network."""
    flags, given = parse(argv)
    prepare(given)      # before NumPy and MindSpore are imported below
    from src.inference.export import export_checkpoint
    export_checkpoint(flags, given)


if __name__ == '__main__':
    main()
