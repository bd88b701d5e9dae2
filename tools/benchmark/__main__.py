"""Speed and memory of this suite and of its peers: python tools/benchmark [MODE] [flags] (see --help).

    step      the training step of the whole recipe, and the kernels it executes
    eval      uint8 images to logits
    input     the training pipeline beside MindSpore's operators in C++, on generated JPEGs of 500x375 pixels
    compile   from the start of a process through its second training step
    memory    largest resident memory of a process that trains
    scale     1.28 million files in 1,000 classes (hard links): time to a batch, and memory; `all` leaves it out

The data are generated. Each worker is a process of its own. It is warmed up, and then all workers are timed in turn,
so that a busy machine slows all of them; ratios are medians over the rounds. The environment variable PEER_PYTHON
names the interpreter that runs the peers.
"""
import json
import os
import shutil
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)
from src.cli import Parser, make_config, training_config
from src.startup import prepare

MODES = ('step', 'eval', 'input', 'compile', 'memory')      # of `all`
PEERS = ('pytorch', 'torch.compile', 'onnxruntime', 'openvino', 'mindcv')
BATCH_SIZE = 16         # if --batch_size is not given


def parse(argv=None):
    """(flags, {configuration key: value}) of the command line."""
    parser = Parser('Measure this suite and its peers.')
    parser.add_argument('mode', nargs='?', default='all', choices=MODES + ('all', 'scale'), help='what to measure')
    parser.add_argument('--peer', action='append', default=[], choices=PEERS,
                        help='compare with it (step, eval, memory); the interpreter PEER_PYTHON runs it')
    parser.add_argument('--rounds', default=7, type=int, metavar='N', help='timed rounds of each worker')
    parser.add_argument('--images', type=int, metavar='N',
                        help='files of input (512 if not given) or scale (1,280,000 if not given)')
    parser.add_argument('--json', metavar='FILE', help='write all figures to this file')
    parser.add_config_keys()
    flags, given = parser.parse(argv)
    given = dict({'batch_size': BATCH_SIZE}, **given)
    config = make_config(given)
    if flags.rounds < 1:
        parser.error('--rounds must be 1 or more, got %d' % flags.rounds)
    # The classes of scale have an image each.
    fewest = max(config.batch_size * config.accumulation_steps, 1000 if flags.mode == 'scale' else 1)
    if flags.images is not None and flags.images < fewest:
        parser.error('--images %d is too few: give %d or more' % (flags.images, fewest))
    if 'openvino' in flags.peer and flags.platform != 'CPU':
        parser.error('OpenVINO runs on CPUs only: leave --peer openvino out, or give --platform CPU')
    if flags.peer and not shutil.which(os.environ.get('PEER_PYTHON', '')):
        parser.error('--peer needs the environment variable PEER_PYTHON: a Python with the packages of the peer')
    has_port = not {'pytorch', 'torch.compile'}.isdisjoint(flags.peer)
    if has_port and config.cells_per_stage != 4:
        parser.error('the PyTorch port has four cells in each stage: leave --cells_per_stage out')
    if has_port and config.image_size % 32:
        parser.error('the PyTorch port takes multiples of 32 pixels: choose another --image_size')
    return flags, given


def main(argv=None):
    """Measure what the flags ask for, print it, and write the JSON file."""
    flags, given = parse(argv)
    prepare(given)      # The workers inherit NVIDIA_TF32_OVERRIDE, so the peers compute as exactly as the suite.
    from src.files import prepare_folder, write_text
    from tools.benchmark.machine import machine
    from tools.benchmark.measures import MEASURES
    config = training_config(given)
    remedy = 'choose another --json'
    if flags.json:
        prepare_folder(os.path.dirname(flags.json), remedy)
    here = machine(flags.platform, flags.device_id)
    figures = {'machine': here, 'config': vars(config)}
    print('%s%s, %d cores, %.0f GB, load %.2f at the start; Python %s; batch %d, %d pixels, %d rounds'
          % (here['gpu'] + '; ' if 'gpu' in here else '', here['cpu'], here['cores'], here['memory_gb'], here['load'],
             here['python'], config.batch_size, config.image_size, flags.rounds))
    for mode in MODES if flags.mode == 'all' else (flags.mode,):
        print('%s:' % mode, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            figures[mode] = MEASURES[mode](flags, config, folder)
    if 'step' in figures and 'input' in figures:
        speed = {mode: figures[mode]['subjects']['suite']['images_per_second'] for mode in ('step', 'input')}
        print('training here takes %.1f %% of the images per second that the input delivers'
              % (100 * speed['step'] / speed['input']))
    if flags.json:
        write_text(flags.json, json.dumps(figures, indent=1), remedy)


if __name__ == '__main__':
    main()
