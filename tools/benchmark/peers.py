"""A worker of the benchmark: PyTorch, onnxruntime, OpenVINO or MindCV, run by the interpreter that PEER_PYTHON names.

That interpreter needs torch and pretrainedmodels, or onnxruntime, or openvino, or MindSpore and mindcv; so each
function imports what it needs itself. PyTorch does the same work as the suite: uint8 images in, colour jitter and
normalisation, dropout, both heads, smoothed loss, clipping to a global norm, RMSProp, and reading loss and norm.
"""
import importlib.util
import os
import sys
from types import SimpleNamespace

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from tools.benchmark.rounds import serve

LUMA = (0.299, 0.587, 0.114)    # as in src/input/preprocess.py, which needs MindSpore


def main(settings):
    """Prepare the job that `settings` name; returns (facts, work) for `serve`.

    Args:
        settings: dict of `job`, `platform`, `device_id`, `config` (a dict of all keys of src/config.py), and what the
            job needs.
    """
    job = {'step': torch_step, 'eval': torch_evaluation, 'onnxruntime': onnxruntime_evaluation,
           'openvino': openvino_evaluation, 'mindcv_step': mindcv_step, 'mindcv_eval': mindcv_evaluation}[
               settings['job']]
    try:
        facts, work = job(SimpleNamespace(**settings['config']), settings)
    except ImportError as error:
        sys.exit('error: %s cannot import what the suite is compared with (%s): install it there'
                 % (sys.executable, error))
    work()      # compiles
    work()
    return facts, work


def random_batch(config):
    """tools/benchmark/data.py's; a function here, because NumPy may be missing."""
    from tools.benchmark import data
    return data.random_batch(config)


def torch_setup(config, settings):
    """(facts, torch's device, torch's memory format)"""
    import torch
    if settings['platform'] == 'GPU' and not torch.cuda.is_available():
        sys.exit('error: PyTorch of %s finds no GPU: run with --platform CPU' % sys.executable)
    torch.backends.cudnn.benchmark = True
    device = torch.device('cuda:%d' % settings['device_id'] if settings['platform'] == 'GPU' else 'cpu')
    layout, name = {'nchw': (torch.contiguous_format, 'NCHW'),
                    'channels_last': (torch.channels_last, 'channels last')}[settings['layout']]
    name = 'PyTorch %s %s%s' % (torch.__version__, name, ', torch.compile' * settings['compiled'])
    return {'name': name, 'images': config.batch_size}, device, layout


def torch_network(config):
    """The PyTorch port of the package pretrainedmodels, with drawn weights."""
    import torch

    from tools.benchmark.weights import like_trained
    package = importlib.util.find_spec('pretrainedmodels')
    if package is None:
        raise ImportError('no package pretrainedmodels')
    # Only this file of the package is loaded: the others need more packages.
    spec = importlib.util.spec_from_file_location(
        'port', os.path.join(os.path.dirname(package.origin), 'models', 'nasnet_mobile.py'))
    port = sys.modules[spec.name] = importlib.util.module_from_spec(spec)      # torch.compile looks for it there.
    spec.loader.exec_module(port)
    network = port.NASNetAMobile(num_classes=config.num_classes, penultimate_filters=config.penultimate_filters)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():      # BatchNorm also has whole numbers, which count batches.
            tensor.copy_(torch.from_numpy(like_trained(name, tuple(tensor.shape))))
    network.avg_pool = torch.nn.AdaptiveAvgPool2d(1)        # The port's own pool is fixed to 7x7.
    network.dropout.p = 1 - config.dropout_keep_prob
    return network


def torch_auxiliary_head(config):
    """The suite's auxiliary head as PyTorch modules; it takes the output of the last cell of the second stage."""
    from torch import nn
    channels, map_size = config.penultimate_filters // 2, -(-((config.image_size - 1) // 2) // 8)
    return nn.Sequential(
        nn.ReLU(), nn.AvgPool2d(5, 3), nn.Conv2d(channels, 128, 1, bias=False), nn.BatchNorm2d(128, 1e-3), nn.ReLU(),
        nn.Conv2d(128, 768, (map_size - 5) // 3 + 1, bias=False), nn.BatchNorm2d(768, 1e-3), nn.ReLU(), nn.Flatten(),
        nn.Linear(768, config.num_classes))


def torch_preprocess(images, color, layout):
    """Images to the network's input, as the suite's Preprocess.

    Args:
        images: (N, H, W, 3) uint8.
        color: (N, 3) float32, factors of brightness, contrast and saturation; None: no change of colour.

    Returns:
        (N, 3, H, W) float32 in [-1, 1], in the memory format `layout`.
    """
    import torch
    x = images.permute(0, 3, 1, 2).to(torch.float32) / 255
    if color is not None:
        luma, color = torch.tensor(LUMA, device=x.device).view(1, 3, 1, 1), color.view(-1, 3, 1, 1)
        x = (x * color[:, :1]).clamp(0, 1)
        mean = (x * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
        x = (mean + (x - mean) * color[:, 1:2]).clamp(0, 1)
        grey = (x * luma).sum(1, keepdim=True)
        x = (grey + (x - grey) * color[:, 2:]).clamp(0, 1)
    return (x * 2 - 1).contiguous(memory_format=layout)


def torch_optimizer(config, parameters):
    """PyTorch's RMSProp. It adds epsilon outside the root and not inside as the suite, which takes the same time."""
    import torch
    kernels, others = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() == 1]
    return torch.optim.RMSprop([{'params': kernels, 'weight_decay': config.weight_decay}, {'params': others}],
                               config.lr_init, config.rmsprop_decay, config.opt_eps, momentum=config.momentum,
                               foreach=True)


def torch_step(config, settings):
    """Training steps of PyTorch."""
    import torch
    facts, device, layout = torch_setup(config, settings)
    network, head, outputs = torch_network(config).to(device=device, memory_format=layout).train(), None, {}
    parameters = list(network.parameters())
    if config.aux_factor:
        # The port counts cells differently: its cell_9 is the suite's cell_7.
        network.cell_9.register_forward_hook(lambda _, __, output: outputs.update(cell_9=output))
        head = torch_auxiliary_head(config).to(device=device, memory_format=layout)
        parameters += list(head.parameters())
    optimizer = torch_optimizer(config, parameters)
    loss_function = torch.nn.CrossEntropyLoss(label_smoothing=config.label_smooth_factor)
    images, labels, color = random_batch(config)

    def forward(images, color, target):
        loss = loss_function(network(torch_preprocess(images, color, layout)), target)
        if head is not None:
            loss = loss + config.aux_factor * loss_function(head(outputs['cell_9']), target)
        return loss
    if settings['compiled']:
        forward = torch.compile(forward)

    def work():
        loss = forward(torch.from_numpy(images).to(device), torch.from_numpy(color).to(device),
                       torch.from_numpy(labels).to(device, torch.int64))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm or float('inf'))
        optimizer.step()
        return loss.item(), norm.item()
    return facts, work


def torch_evaluation(config, settings):
    """uint8 images to logits by PyTorch."""
    import torch
    facts, device, layout = torch_setup(config, settings)
    network = torch_network(config).to(device=device, memory_format=layout).eval()
    images = random_batch(config)[0]

    def forward(images):
        return network(torch_preprocess(images, None, layout))
    if settings['compiled']:
        forward = torch.compile(forward, options={'freezing': True})    # The weights become constants.

    def work():
        with torch.no_grad():
            return forward(torch.from_numpy(images).to(device)).cpu()
    return facts, work


def network_input(images):
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in [-1, 1]"""
    import numpy as np
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) * np.float32(2 / 255) - np.float32(1)


def onnxruntime_evaluation(config, settings):
    """uint8 images to logits by onnxruntime, with the file settings['path'] that export.py wrote."""
    import onnxruntime
    provider = 'CUDAExecutionProvider' if settings['platform'] == 'GPU' else 'CPUExecutionProvider'
    if provider not in onnxruntime.get_available_providers():
        sys.exit('error: onnxruntime of %s has no %s: install onnxruntime-gpu there' % (sys.executable, provider))
    session = onnxruntime.InferenceSession(settings['path'], providers=[provider])
    images, name = random_batch(config)[0], session.get_inputs()[0].name

    def work():
        return session.run(None, {name: network_input(images)})
    return {'name': 'onnxruntime %s' % onnxruntime.__version__, 'images': len(images)}, work


def openvino_evaluation(config, settings):
    """uint8 images to logits by OpenVINO on a CPU, with the file settings['path'] that export.py wrote."""
    import openvino
    # Else it computes in bfloat16 on processors that can, and this is a comparison in float32.
    network = openvino.Core().compile_model(settings['path'], 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    images = random_batch(config)[0]

    def work():
        return network(network_input(images))[0]
    return {'name': 'OpenVINO %s' % openvino.__version__.split('-')[0], 'images': len(images)}, work


def mindcv_network(config, settings):
    """(facts, MindCV's nasnet_a_4x1056 with drawn weights, images (N, 3, S, S) float32, labels (N,) int32)"""
    if not settings['tuned']:       # MindSpore's own settings instead of those that src/framework.py chooses
        os.environ['ONEDNN_MAX_CPU_ISA'] = 'DEFAULT'
        # libgomp's own value as long as OMP_WAIT_POLICY is not set; it has priority over OMP_WAIT_POLICY.
        os.environ['GOMP_SPINCOUNT'] = '300000'
    from src.framework import mindspore, use_device
    use_device(settings['platform'], settings['device_id'])     # MindCV must find MindSpore prepared.
    import numpy as np
    from mindcv.models import create_model

    from tools.benchmark.weights import like_trained
    network = create_model('nasnet_a_4x1056', num_classes=config.num_classes)
    for parameter in network.get_parameters():
        parameter.set_data(mindspore.Tensor(like_trained(parameter.name, parameter.shape)))
    facts = {'name': 'MindCV, MindSpore %s%s' % (mindspore.__version__, ', tuned' * settings['tuned']),
             'images': config.batch_size}
    images, labels, _ = random_batch(config)
    return facts, network, np.ascontiguousarray(images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1), labels


def mindcv_step(config, settings):
    """Training steps of MindCV's network with MindSpore's own loss and RMSProp.

    They do less work than the suite's: no auxiliary head, no change of colours, no clipping, no moving averages.
    """
    facts, network, images, labels = mindcv_network(config, settings)
    from mindspore import Tensor, nn
    network.set_train(True)
    kernels = [p for p in network.trainable_params() if len(p.shape) > 1]
    others = [p for p in network.trainable_params() if len(p.shape) == 1]
    optimizer = nn.RMSProp([{'params': kernels, 'weight_decay': config.weight_decay},
                            {'params': others, 'weight_decay': 0.0}], config.lr_init, config.rmsprop_decay,
                           config.momentum, config.opt_eps)
    loss = nn.CrossEntropyLoss(label_smoothing=config.label_smooth_factor)
    step = nn.TrainOneStepCell(nn.WithLossCell(network, loss), optimizer)

    def work():
        return float(step(Tensor(images), Tensor(labels)).asnumpy())
    return facts, work


def mindcv_evaluation(config, settings):
    """float32 images to logits by MindCV's network."""
    facts, network, images, _ = mindcv_network(config, settings)
    from mindspore import Tensor
    network.set_train(False)

    def work():
        return network(Tensor(images)).asnumpy()
    return facts, work


if __name__ == '__main__':
    serve(main)
