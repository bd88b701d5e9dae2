"""Turn weights of another framework into a checkpoint.

    python tools/convert_weights.py --source FILE --output FILE.ckpt

It reads the state dict of the PyTorch port (.pth, safetensors), Keras's NASNetMobile (.h5, .weights.h5, .keras),
checkpoints of TF-Slim (V1 and V2), and those of public MindSpore code. The source must hold every tensor of the
network and no other. The state dict may be inside a training checkpoint. If the source is one of the published files
(docs/weights.md), the first line of the output says which.
"""
import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from src.checkpoints.checkpoint import save
from src.convert.foreign import FORMATS, read_weights
from src.convert.names import from_foreign
from src.convert.published import UNKNOWN, recognize
from src.errors import UserError
from src.progress import Progress
from src.startup import keep_output


def convert(source, kind, output, key=None):
    """Write a checkpoint that eval.py, export.py and train.py --pretrained read, and print what it holds.

    Args:
        source: path of a file; for TF-Slim V2 the part of the name that its files have in common.
        kind: one of FORMATS, or 'auto'.
        output: path that ends in .ckpt.
        key: which state dict of a PyTorch training checkpoint is meant; None: see `src.convert.pytorch.read_pytorch`.

    Raises:
        UserError: the source cannot be read or is another network, or `output` cannot be written.
    """
    if not output.endswith('.ckpt'):
        raise UserError('%s does not end in .ckpt: choose another --output' % output)
    if not os.path.isdir(os.path.dirname(output) or '.'):
        raise UserError('the folder of %s does not exist: choose another --output' % output)
    said = recognize(source) if os.path.isfile(source) or os.path.isfile(source + '.index') else UNKNOWN
    if said != UNKNOWN:     # before the file is read, because it may say why the file cannot be read
        print(said)
    with Progress('converting %s' % source):
        kind, arrays = read_weights(source, kind, key)
        try:
            arrays, config, remarks = from_foreign(kind, arrays)
        except UserError as error:
            raise UserError('%s: %s' % (source, error.sentence))
        save(output, arrays, {'config': config, 'source': '%s (%s)' % (os.path.basename(source), kind)},
             'choose another --output')
    if said == UNKNOWN:
        print(said)
    for remark in remarks:
        print('note: %s' % remark)
    print('%s: %d tensors of %s weights, %s classes%s' % (
        output, len(arrays), kind, config.get('num_classes', 'no'),
        ', auxiliary head' if 'auxiliary_head.full.weight' in arrays else ''))
    print('these weights need images in RGB and [-1, 1], the shorter side scaled to 256/224 of the size, then the '
          'centre cropped; eval.py does this')


def main():
    """Convert what the flags name."""
    keep_output()
    parser = argparse.ArgumentParser(description='Turn weights of another framework into a checkpoint.')
    parser.add_argument('--source', required=True, metavar='FILE',
                        help='weights; for TF-Slim V2 the common part of the files\' names')
    parser.add_argument('--output', required=True, metavar='FILE.ckpt', help='checkpoint to write')
    parser.add_argument('--format', default='auto', choices=('auto',) + FORMATS, help='format of the source')
    parser.add_argument('--key', help='which state dict of a PyTorch training checkpoint, for example state_dict_ema '
                                      '(default: the largest, and moving averages if there are any)')
    flags = parser.parse_args()
    convert(flags.source, flags.format, flags.output, flags.key)


if __name__ == '__main__':
    main()
