"""PyTorch, onnxruntime and MindCV as workers of tools/benchmark.py; run by the interpreter PEER_PYTHON.

Needs torch and pretrainedmodels, or onnxruntime, or MindSpore and mindcv. PyTorch does the same work as the suite:
uint8 images in, colour jitter and normalisation, dropout, both heads, smoothed loss, global clip, RMSProp, loss and
norm read back.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from tools.rounds import serve  # noqa: E402  pylint: disable=wrong-import-position

try:
    import numpy as np
except ImportError as error:
    sys.exit('error: %s cannot import NumPy (%s)' % (sys.executable, error))

LUMA = (0.299, 0.587, 0.114)


def main(settings):
    """(facts, work) of the job that `settings` name."""
    job = {'step': torch_step, 'eval': torch_evaluation, 'onnxruntime': onnxruntime_evaluation,
           'mindcv_step': mindcv_step, 'mindcv_eval': mindcv_evaluation}[settings['job']]
    try:
        return job(settings)
    except ImportError as error:
        sys.exit('error: %s cannot import what it compares with (%s): install it there' % (sys.executable, error))


def synthetic(config):
    """Random images (N, S, S, 3) uint8, labels, colour factors (N, 3)."""
    random, size, count = np.random.RandomState(1), config['image_size'], config['batch_size']
    jitter = config['color_jitter']
    return (random.randint(0, 256, (count, size, size, 3)).astype(np.uint8),
            random.randint(0, config['num_classes'], count).astype(np.int64),
            random.uniform(1 - jitter, 1 + jitter, (count, 3)).astype(np.float32))


def port(config, device, layout):
    """The PyTorch port on `device`; its last pool, fixed to 7x7, becomes a mean.

    Weights and statistics like a trained network's: with those of a fresh one values vanish in evaluation, and
    arithmetic of denormal numbers takes a hundred times as long.
    """
    import torch
    from tests.golden import make_golden
    torch.backends.cudnn.benchmark = True
    model = make_golden.port_module().NASNetAMobile(num_classes=config['num_classes'],
                                                    penultimate_filters=config['penultimate_filters'])
    state = {name: tensor for name, tensor in model.state_dict().items() if 'num_batches' not in name}
    for name, shape in make_golden.our_names(state).items():
        state[make_golden.port_name(name)].copy_(torch.from_numpy(make_golden.draw.parameter(name, shape)))
    model.avg_pool = torch.nn.AdaptiveAvgPool2d(1)
    model.dropout.p = 1 - config['dropout_keep_prob']
    return model.to(device=device, memory_format=layout)


def auxiliary_head(config):
    """The suite's auxiliary head, as PyTorch modules."""
    from torch import nn
    channels, map_size = config['penultimate_filters'] // 2, -(-((config['image_size'] - 1) // 2) // 8)
    return nn.Sequential(
        nn.ReLU(), nn.AvgPool2d(5, 3), nn.Conv2d(channels, 128, 1, bias=False), nn.BatchNorm2d(128, 1e-3), nn.ReLU(),
        nn.Conv2d(128, 768, (map_size - 5) // 3 + 1, bias=False), nn.BatchNorm2d(768, 1e-3), nn.ReLU(), nn.Flatten(),
        nn.Linear(768, config['num_classes']))


def torch_setup(settings):
    """(facts, torch's device, torch's memory format)"""
    import torch
    if settings['platform'] == 'GPU' and not torch.cuda.is_available():
        sys.exit('error: PyTorch of %s finds no GPU: run with --platform CPU' % sys.executable)
    device = torch.device('cuda:%d' % settings['device_id'] if settings['platform'] == 'GPU' else 'cpu')
    layout = {'nchw': torch.contiguous_format, 'channels_last': torch.channels_last}[settings['layout']]
    name = 'PyTorch %s %s' % (torch.__version__, {'nchw': 'NCHW', 'channels_last': 'channels last'}[settings['layout']])
    return {'name': name, 'images': settings['config']['batch_size']}, device, layout


def preprocess(images, color, layout):
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [-1, 1], colours jittered by `color` (N, 3) or None."""
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


def torch_step(settings):
    """Training steps of PyTorch; its RMSProp puts epsilon outside the root, which costs the same."""
    import torch
    facts, device, layout = torch_setup(settings)
    config = settings['config']
    model, head = port(config, device, layout).train(), None
    outputs = {}
    model.cell_9.register_forward_hook(lambda _, __, output: outputs.update(auxiliary=output))
    if config['aux_factor']:
        head = auxiliary_head(config).to(device=device, memory_format=layout)
    parameters = list(model.parameters()) + (list(head.parameters()) if head else [])
    decayed, plain = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() == 1]
    optimizer = torch.optim.RMSprop([{'params': decayed, 'weight_decay': config['weight_decay']}, {'params': plain}],
                                    config['lr_init'], config['rmsprop_decay'], config['opt_eps'],
                                    momentum=config['momentum'], foreach=True)
    loss_function = torch.nn.CrossEntropyLoss(label_smoothing=config['label_smooth_factor'])
    images, labels, color = synthetic(config)

    def work():
        x = preprocess(torch.from_numpy(images).to(device), torch.from_numpy(color).to(device), layout)
        target = torch.from_numpy(labels).to(device)
        loss = loss_function(model(x), target)
        if head:
            loss = loss + config['aux_factor'] * loss_function(head(outputs['auxiliary']), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, config['clip_norm'] or float('inf'))
        optimizer.step()
        return loss.item(), norm.item()
    for _ in range(2):
        work()
    return facts, work


def torch_evaluation(settings):
    """uint8 images to logits by PyTorch."""
    import torch
    facts, device, layout = torch_setup(settings)
    model = port(settings['config'], device, layout).eval()
    images = synthetic(settings['config'])[0]

    def work():
        with torch.inference_mode():
            return model(preprocess(torch.from_numpy(images).to(device), None, layout)).cpu()
    for _ in range(2):
        work()
    return facts, work


def onnxruntime_evaluation(settings):
    """uint8 images to logits by onnxruntime, of the file that export.py wrote."""
    import onnxruntime
    provider = 'CUDAExecutionProvider' if settings['platform'] == 'GPU' else 'CPUExecutionProvider'
    if provider not in onnxruntime.get_available_providers():
        sys.exit('error: onnxruntime of %s has no %s: install onnxruntime-gpu there' % (sys.executable, provider))
    session = onnxruntime.InferenceSession(settings['path'], providers=[provider])
    images, name = synthetic(settings['config'])[0], session.get_inputs()[0].name

    def work():
        x = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) * np.float32(2 / 255) - np.float32(1)
        return session.run(None, {name: x})
    for _ in range(2):
        work()
    return {'name': 'onnxruntime %s' % onnxruntime.__version__, 'images': len(images)}, work


def mindcv_network(settings):
    """(facts, MindCV's nasnet_a_4x1056 with weights like a trained network's, images (N, 3, S, S) float32)"""
    if not settings['tuned']:       # MindSpore as it comes, not with what src/framework.py sets
        os.environ['ONEDNN_MAX_CPU_ISA'] = 'DEFAULT'
        os.environ['GOMP_SPINCOUNT'] = '300000'         # libgomp's own without OMP_WAIT_POLICY, which it overrides
    from src.framework import mindspore, use_device
    from mindcv.models import create_model
    from tests.golden.draw import parameter as draw
    config = settings['config']
    use_device(settings['platform'], settings['device_id'])
    network = create_model('nasnet_a_4x1056', num_classes=config['num_classes'])
    for parameter in network.get_parameters():
        parameter.set_data(mindspore.Tensor(draw(parameter.name, parameter.shape)))
    facts = {'name': 'MindCV, MindSpore %s%s' % (mindspore.__version__, ', tuned' * settings['tuned']),
             'images': config['batch_size']}
    images = synthetic(config)[0].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    return facts, network, np.ascontiguousarray(images)


def mindcv_step(settings):
    """Training steps of MindCV's network by MindSpore's own loss and RMSProp.

    Less than the suite's step: no auxiliary head, colour jitter, clipping or moving averages.
    """
    facts, network, images = mindcv_network(settings)
    from mindspore import Tensor, nn
    config = settings['config']
    network.set_train(True)
    decayed = [p for p in network.trainable_params() if len(p.shape) > 1]
    plain = [p for p in network.trainable_params() if len(p.shape) == 1]
    optimizer = nn.RMSProp([{'params': decayed, 'weight_decay': config['weight_decay']},
                            {'params': plain, 'weight_decay': 0.0}], config['lr_init'], config['rmsprop_decay'],
                           config['momentum'], config['opt_eps'])
    loss = nn.CrossEntropyLoss(label_smoothing=config['label_smooth_factor'])
    step = nn.TrainOneStepCell(nn.WithLossCell(network, loss), optimizer)
    labels = synthetic(config)[1].astype(np.int32)

    def work():
        return float(step(Tensor(images), Tensor(labels)).asnumpy())
    for _ in range(2):
        work()
    return facts, work


def mindcv_evaluation(settings):
    """float32 images to logits by MindCV's network."""
    facts, network, images = mindcv_network(settings)
    from mindspore import Tensor
    network.set_train(False)

    def work():
        return network(Tensor(images)).asnumpy()
    for _ in range(2):
        work()
    return facts, work


if __name__ == '__main__':
    serve(main)
