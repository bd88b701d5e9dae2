"""Turn weights of another framework into a checkpoint.

    python tools/convert_weights.py --source FILE --output FILE.ckpt

Reads the PyTorch port's state dict (.pth, safetensors), Keras's NASNetMobile (.h5, .weights.h5, .keras),
TF-Slim's checkpoints (V1 and V2) and those of public MindSpore code. Every tensor of the network must be there
and none be left over.
"""
import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from src import checkpoint, foreign, names  # noqa: E402  pylint: disable=wrong-import-position
from src.errors import UserError  # noqa: E402  pylint: disable=wrong-import-position


def convert(source, kind, output):
    """Write `output`, a checkpoint that eval.py, export.py and train.py --pretrained take; prints what it did."""
    if not output.endswith('.ckpt'):
        raise UserError('%s does not end in .ckpt: choose another --output' % output)
    if not os.path.isdir(os.path.dirname(output) or '.'):
        raise UserError('the folder of %s does not exist: choose another --output' % output)
    kind, arrays = foreign.read_weights(source, kind)
    try:
        arrays, config, remarks = names.from_foreign(kind, arrays)
    except UserError as error:
        raise UserError('%s: %s' % (source, str(error)[len('error: '):]))
    checkpoint.save(output, arrays, {'config': config, 'source': '%s (%s)' % (os.path.basename(source), kind)})
    for remark in remarks:
        print('note: %s' % remark)
    print('%s: %d tensors of %s weights, %s classes%s' % (
        output, len(arrays), kind, config.get('num_classes', 'no'),
        ', auxiliary head' if 'auxiliary_head.full.weight' in arrays else ''))
    print('preprocessing that belongs to them: RGB in [-1, 1], shorter side to 256/224 of the size, centre crop; '
          'eval.py does it')


def main():
    """Flags to `convert`."""
    parser = argparse.ArgumentParser(description='Turn weights of another framework into a checkpoint.')
    parser.add_argument('--source', required=True, metavar='FILE', help='a file; of TF-Slim V2 the prefix')
    parser.add_argument('--output', required=True, metavar='FILE.ckpt')
    parser.add_argument('--format', default='auto', choices=('auto',) + foreign.FORMATS, help='of the source')
    flags = parser.parse_args()
    convert(flags.source, flags.format, flags.output)


if __name__ == '__main__':
    main()
