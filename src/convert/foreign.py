"""Reads weight files of other frameworks as {name: array}, without those frameworks and without running their code.

PyTorch: zip files, the older pickle files, safetensors. Keras: HDF5 files (Keras 2 and 3) and .keras files.
TensorFlow: checkpoints V1 (one table with the values) and V2 (an index file and data files). MindSpore: .ckpt files.
"""
import os
import zipfile

from src.checkpoints.records import read_records
from src.convert.keras import read_keras
from src.convert.pytorch import read_pytorch
from src.convert.tensorflow import MAGIC, read_tensorflow
from src.errors import UserError

FORMATS = ('pytorch', 'keras', 'tf_slim', 'mindspore')


def read_weights(path, kind='auto', key=None):
    """Read the tensors of floating-point numbers from a weight file.

    The file may come from anywhere. It is refused if it asks for much more memory than it has bytes (limits.py), or
    refers to other files.

    Args:
        path: path of the file. For a TensorFlow V2 checkpoint it is the common prefix, or the .index file.
        kind: one of FORMATS, or 'auto': the contents of the file decide.
        key: which state dict of a PyTorch training checkpoint is meant (pytorch.py), or None.

    Returns:
        (one of FORMATS, {name in the file: float array}). Other tensors are left out.

    Raises:
        UserError: there is no such file, its format is unknown, or it is damaged or holds something else.
    """
    if os.path.isfile(path + '.index'):
        path += '.index'
    if not os.path.isfile(path):
        raise UserError('%s is not a file: give the path of a weight file' % path)
    if kind == 'auto':
        kind = _kind(path)
    if key is not None and (kind != 'pytorch' or path.endswith('.safetensors')):
        raise UserError('%s is no training checkpoint of PyTorch: leave --key out' % path)
    try:
        arrays = {'pytorch': lambda path: read_pytorch(path, key), 'keras': read_keras, 'tf_slim': read_tensorflow,
                  'mindspore': read_records}[kind](path)
    except UserError:
        raise
    except MemoryError:
        raise UserError('%s claims to be larger than the memory: it is damaged' % path)
    except Exception as error:      # On a damaged file the libraries that read it may raise errors of any type.
        raise UserError('%s cannot be read as a %s file (%s): check the download, or name another --format'
                        % (path, kind, str(error).split('\n')[0][:1000] or type(error).__name__))
    return kind, {name: array for name, array in arrays.items() if array.dtype.kind == 'f'}


def _kind(path):
    """Return the format of a file, one of FORMATS; its first and last bytes tell it."""
    with open(path, 'rb') as file:
        start = file.read(8)
        file.seek(max(0, os.path.getsize(path) - 8))
        end = file.read(8)
    if end == MAGIC:
        return 'tf_slim'
    if start == b'\x89HDF\r\n\x1a\n':
        return 'keras'
    if start.startswith(b'PK'):
        try:
            with zipfile.ZipFile(path) as archive:
                return 'keras' if 'config.json' in archive.namelist() else 'pytorch'
        except zipfile.BadZipFile:
            raise UserError('%s is damaged or was not copied whole: check the download' % path)
    if start.startswith(b'\x1f\x8b'):
        raise UserError('%s is a packed archive: unpack it (tar -xf) and give the weight file that is in it' % path)
    if start.startswith(b'\x80') or path.endswith('.safetensors'):
        return 'pytorch'
    if path.endswith('.ckpt'):
        return 'mindspore'
    raise UserError('%s is of no known format: give a PyTorch, safetensors, Keras, TensorFlow or MindSpore file' % path)
