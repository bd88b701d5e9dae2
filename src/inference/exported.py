"""Exported files (.onnx, .mindir): the note that they carry, their fixed sizes, and the function that they compute.

Both formats are protocol buffers, and field 6 of both is the string `doc_string`. It holds the note, a JSON object with
the names of the classes, so a file that is moved keeps them, and other programs can read them.
"""
import json
import os
import sys

from src.checkpoints.checkpoint import Checkpoint
from src.errors import UserError
from src.framework import ModelProto, Tensor, mindspore, nn, without_chatter

ENDINGS = ('.onnx', '.mindir')


def is_exported(path):
    """Whether the name of a file is that of an exported network that can be run here."""
    return path.endswith(ENDINGS)


def add_note(path, note):
    """Write a dict of JSON values into an exported file; `load_exported` gives it back.

    Where a field of a protocol buffer comes twice, the last one counts. So the note is added at the end of the file,
    and the rest of the file, which may be large, stays as it is.
    """
    os.chmod(path, 0o644)           # MindSpore writes files that nobody may change
    with open(path, 'ab') as file:
        file.write(ModelProto(doc_string=json.dumps(note)).SerializeToString())


def load_exported(path):
    """Read what an exported file says about itself -> Checkpoint without arrays.

    Its meta is the note of the file, {} if it has none, with meta['config']: num_classes, image_size, and batch_size
    if the file fixes it.

    Raises:
        UserError: there is no such file, it is damaged, it is another network, or onnxruntime is missing.
    """
    if not os.path.isfile(path):
        raise UserError('the exported network %s is not a file: give the path of a file that export.py wrote' % path)
    inputs, outputs, text = (_describe_onnx if path.endswith('.onnx') else _describe_mindir)(path)
    try:
        batch, channels, height, width = inputs[0]
        _, classes = outputs[0]
        fits = len(inputs) == len(outputs) == 1 and channels == 3 and height == width and min(height, classes) > 0
    except (ValueError, TypeError, IndexError):     # TypeError: a size that the file leaves open is a str or None
        fits = False
    if not fits:
        raise UserError('%s is another network: its inputs are %s and its outputs %s, not one (N, 3, S, S) and one '
                        '(N, classes); give a file that export.py wrote' % (path, inputs, outputs))
    config = {'num_classes': classes, 'image_size': height}
    if isinstance(batch, int) and batch > 0:
        config['batch_size'] = batch
    return Checkpoint(path, {}, dict(_note(text), config=config))


def _note(text):
    """The note in a doc_string; {} if another program wrote it."""
    try:
        note = json.loads(text)
        names = note.get('class_names')
    except (ValueError, AttributeError, RecursionError):
        return {}
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        note = dict(note, class_names=None)
    return {key: note[key] for key in ('class_names', 'source') if note.get(key) is not None}


def _describe_onnx(path):
    session = _session(path, ['CPUExecutionProvider'])
    return ([each.shape for each in session.get_inputs()], [each.shape for each in session.get_outputs()],
            session.get_modelmeta().description)


def _describe_mindir(path):
    model = ModelProto()
    try:
        with open(path, 'rb') as file:
            model.ParseFromString(file.read())
    except Exception as error:      # protobuf raises errors of several types on a damaged file
        raise _unreadable(path, error)
    inputs, outputs = ([list(tensor.dims) for value in values for tensor in value.tensor]
                       for values in (model.graph.input, model.graph.output))
    return inputs, outputs, model.doc_string


def run_exported(path, platform='CPU', device_id=0):
    """Return the function images (N, 3, H, W) float32 -> logits (N, K) float32 that an exported file computes.

    MindSpore runs a MINDIR file on the device that is in use. onnxruntime runs an ONNX file: on a GPU if `platform` is
    GPU and the installed onnxruntime can use one, else on the CPU.

    Raises:
        UserError: the file is damaged, or onnxruntime is missing.
    """
    if not path.endswith('.onnx'):
        try:
            with without_chatter():
                network = nn.GraphCell(mindspore.load(path))
        except (RuntimeError, ValueError) as error:
            raise _unreadable(path, error)
        return lambda images: network(Tensor(images)).asnumpy()
    providers = ['CPUExecutionProvider']
    if platform == 'GPU':
        providers.insert(0, ('CUDAExecutionProvider', {'device_id': device_id}))
    session = _session(path, providers)
    if platform == 'GPU' and session.get_providers()[0] != 'CUDAExecutionProvider':
        print('warning: the installed onnxruntime cannot use a GPU: %s runs on the CPU' % path, file=sys.stderr,
              flush=True)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _session(path, providers):
    """An InferenceSession of onnxruntime, with those of `providers` that are installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError('%s needs onnxruntime (%s): install it by python -m pip install "onnxruntime~=1.14"'
                        % (path, error))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3      # only errors
    # Else idle threads keep spinning: they doubled the CPU time, and images are decoded on the same cores.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    known = onnxruntime.get_available_providers()
    usable = [each for each in providers if (each if isinstance(each, str) else each[0]) in known]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=usable)
    except Exception as error:          # onnxruntime has many types of errors
        raise _unreadable(path, error)
    return session


def _unreadable(path, error):
    return UserError('%s cannot be read (%s): it is damaged or no exported network; export it again'
                     % (path, str(error).strip().split('\n')[0] or type(error).__name__))
