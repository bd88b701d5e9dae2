"""The structure of the project: which module may import which, what importing does, sizes, and where things are.

import-linter checks such layers too, but only between packages: it refuses modules that are a single file outside a
package, as train.py and nasnet_a_mobile.py are. It also needs a newer Python than the oldest one that this project
supports.
"""
import ast
import glob
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.conftest import pytest_runtest_setup
from tests.helpers import ROOT

# The layers from top to bottom. A module imports only from its own layer and from layers below it. Within a layer no
# module imports another one in a circle. A name stands for a module, or for a package with everything in it.
LAYERS = (
    ('train', 'eval', 'export', 'mindspore_hub_conf', 'tools'),
    ('src.training',),
    ('src.inference', 'src.convert'),
    ('src.distributed',),
    ('src.checkpoints',),
    ('nasnet_a_mobile', 'src.network'),
    ('src.dataset', 'src.loss'),
    ('src.versions',),
    ('src.input',),
    ('src.framework',),
    ('src.cli', 'src.startup', 'src.lr_generator'),
    ('src.config', 'src.files', 'src.progress', 'src.signals'),
    ('src.errors',))
# These may be imported before the flags are parsed: they need neither NumPy nor MindSpore.
LIGHT = ('train', 'eval', 'export', 'src.cli', 'src.config', 'src.errors', 'src.lr_generator', 'src.signals',
         'src.startup', 'src.distributed.launch')
LONGEST_FUNCTION = 50
LONGEST_TRAINER_METHOD = 30
LONGEST_FILES = {'train.py': 80, 'eval.py': 80, 'export.py': 80, 'nasnet_a_mobile.py': 240}
# Where a reader looks for things.
ROOMS = {
    '.': 'README.md README_CN.md CONTRIBUTING.md LICENSE pyproject.toml requirements.txt requirements-test.txt '
         'Dockerfile train.py eval.py export.py mindspore_hub_conf.py nasnet_a_mobile.py',
    'docs': 'installation.md configuration.md curves.md distributed.md exactness.md images.md python.md speed.md '
            'troubleshooting.md weights.md',
    'scripts': 'run_standalone_train_for_gpu.sh run_distribute_train_for_gpu.sh run_eval_for_gpu.sh run_eval_onnx.sh '
               'run_tests.sh setup.sh check_pythons.sh',
    'src': 'config.py dataset.py loss.py lr_generator.py errors.py files.py cli.py framework.py progress.py signals.py',
    'src/input': 'folders.py reading.py image.py plain.py draws.py preprocess.py',
    'src/network': 'layers.py merge.py fold.py initialize.py build.py',
    'src/network/cpu': 'library.py kernels.py kernels.cc',
    'src/checkpoints': 'checkpoint.py run_folder.py',
    'src/distributed': 'launch.py group.py cpu_cluster.py',
    'src/training': 'trainer.py train_step.py optimizer.py loss_scale.py ema.py monitor.py metrics.py events.py '
                    'flat.py',
    'src/inference': 'evaluation.py classify.py report.py export.py exported.py',
    'src/convert': 'foreign.py names.py',
    'tools': 'check_dataset.py check_device.py check_gpu.py convert_weights.py crash_test.py make_demo_dataset.py '
             'plot_metrics.py',
    'tools/benchmark': '__main__.py',
    'tools/golden': 'reference.npz make_golden.py compare.py draw.py',
    'tests/golden': 'make_sources.py'}


def paths(*folders):
    """Paths of all Python files of the programs and of these folders, relative to the project."""
    found = ['train.py', 'eval.py', 'export.py', 'mindspore_hub_conf.py', 'nasnet_a_mobile.py']
    for folder in folders:
        found += glob.glob(os.path.join(ROOT, folder, '**', '*.py'), recursive=True)
    return [os.path.relpath(os.path.join(ROOT, path), ROOT) for path in found]


def module_name(path):
    """src/input/image.py -> src.input.image; src/input/__init__.py -> src.input"""
    name = path[:-len('.py')].replace(os.sep, '.')
    return name[:-len('.__init__')] if name.endswith('.__init__') else name


def read(path):
    """Text of a file of the project."""
    with open(os.path.join(ROOT, path), encoding='utf-8') as file:
        return file.read()


def imports(path, modules):
    """The modules of the project that a file imports, also within functions.

    Args:
        path: of the file.
        modules: names of all modules of the project. What is not among them is another library.
    """
    found = set()
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, '%s: imports are absolute' % path
            names = {'%s.%s' % (node.module, alias.name) for alias in node.names}
            found |= names & modules or {node.module}
    return found & modules


def graph():
    """{module: modules that it imports} of the programs, src and tools."""
    files = {module_name(path): path for path in paths('src', 'tools')}
    return {module: imports(path, set(files)) for module, path in files.items()}


def layer(module):
    """Position of a module in LAYERS."""
    for position, names in enumerate(LAYERS):
        if any(module == name or module.startswith(name + '.') for name in names):
            return position
    return None


def test_imports_only_point_downwards():
    modules = graph()
    assert len(modules) > 40 and modules['train'] >= {'src.cli', 'src.training.trainer'}
    # `import src` gives nothing, since src/__init__.py is only a docstring.
    strangers = [module for module in modules if layer(module) is None and module != 'src']
    assert strangers == [], 'these modules need a place in LAYERS'
    upwards = ['%s imports %s' % (module, other) for module, others in modules.items() for other in others
               if layer(other) is not None and layer(other) < layer(module)]
    assert upwards == []


def test_no_modules_import_each_other_in_a_circle():
    modules, done = graph(), set()

    def visit(module, path):
        assert module not in path, ' -> '.join(path[path.index(module):] + (module,))
        if module not in done:
            for other in modules[module]:
                visit(other, path + (module,))
            done.add(module)
    for module in modules:
        visit(module, ())


def test_the_check_of_imports_sees_every_form(tmp_path):
    source = tmp_path / 'a.py'
    source.write_text('import src.files, os\nfrom src import cli\nfrom src.errors import UserError\n'
                      'def f():\n    from src.input.image import decode\n')
    modules = {'src', 'src.files', 'src.cli', 'src.errors', 'src.input.image'}
    assert imports(str(source), modules) == {'src.files', 'src.cli', 'src.errors', 'src.input.image'}


OBSERVE = '''
import importlib, signal, sys, threading
before = signal.pthread_sigmask(signal.SIG_BLOCK, ()), [signal.getsignal(n) for n in range(1, signal.NSIG)]
tasks = lambda: len(__import__('os').listdir('/proc/self/task'))
assert tasks() == 1
for name in sys.argv[2:]:
    importlib.import_module(name)
after = signal.pthread_sigmask(signal.SIG_BLOCK, ()), [signal.getsignal(n) for n in range(1, signal.NSIG)]
assert before == after, 'signals'
assert threading.active_count() == 1, threading.enumerate()
if sys.argv[1] == 'light':
    assert tasks() == 1
    assert not {'numpy', 'mindspore', 'cv2'} & set(sys.modules), 'heavy modules'
'''


def observe(kind, modules):
    """Import modules in a new process; it ends with an error if that does anything."""
    process = subprocess.run([sys.executable, '-c', OBSERVE, kind, *modules], cwd=ROOT, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, universal_newlines=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, '', '')


@pytest.mark.parametrize('module', LIGHT)
def test_importing_a_light_module_does_nothing_and_loads_no_heavy_one(module):
    observe('light', [module])


@pytest.mark.smoke
def test_importing_any_module_prints_nothing_and_leaves_signals_and_python_threads_alone():
    observe('heavy', sorted({module_name(path) for path in paths('src')}))


def functions(path):
    """[(name, lines, whether it is a method of Trainer)] of all functions of a file, their docstrings included."""
    tree = ast.parse(read(path))
    # ast knows the last line of a node only from Python 3.8 on. The last line of what it holds is enough.
    found, trainer = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == 'Trainer':
            trainer = {id(child) for child in node.body}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            last = max(getattr(child, 'end_lineno', child.lineno) for child in ast.walk(node)
                       if hasattr(child, 'lineno'))
            found.append((node.name, last - node.lineno + 1, id(node) in trainer))
    return found


@pytest.mark.parametrize('path', sorted(paths('src')))
def test_functions_are_short(path):
    long = [(name, lines) for name, lines, of_trainer in functions(path)
            if lines > (LONGEST_TRAINER_METHOD if of_trainer else LONGEST_FUNCTION)]
    assert long == []


def test_the_trainer_is_measured():
    methods = [name for name, _, of_trainer in functions('src/training/trainer.py') if of_trainer]
    assert {'run', 'train_epoch', 'save', 'validate'} <= set(methods)


@pytest.mark.parametrize('path', sorted(LONGEST_FILES))
def test_programs_and_network_are_short(path):
    assert read(path).count('\n') <= LONGEST_FILES[path]


@pytest.mark.parametrize('path', sorted(path for path in paths('src', 'tools', 'tests')
                                        if os.path.basename(path) == '__init__.py'))
def test_each_package_says_in_one_sentence_what_is_in_it(path):
    tree = ast.parse(read(path))
    sentence = ast.get_docstring(tree)
    assert len(tree.body) == 1 and sentence
    assert sentence.endswith('.') and '. ' not in sentence and '\n' not in sentence


def test_each_folder_of_modules_is_a_package():
    folders = {os.path.dirname(path) for path in paths('src', 'tools', 'tests')} - {''}
    assert [folder for folder in sorted(folders) if not os.path.exists(os.path.join(ROOT, folder, '__init__.py'))] == []


@pytest.mark.parametrize('folder', sorted(ROOMS))
def test_things_are_where_a_reader_looks_for_them(folder):
    missing = [name for name in ROOMS[folder].split() if not os.path.exists(os.path.join(ROOT, folder, name))]
    assert missing == []


def test_the_linter_finds_nothing():
    ruff = os.path.join(os.path.dirname(sys.executable), 'ruff')
    process = subprocess.run([ruff, 'check', '--no-cache', '--output-format', 'concise', '.'], cwd=ROOT,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    assert process.returncode == 0, process.stdout


@pytest.mark.parametrize('ci,answer', [('true', pytest.fail.Exception), ('', pytest.skip.Exception)])
def test_a_missing_program_is_a_failure_only_in_ci(monkeypatch, ci, answer):
    item = SimpleNamespace(iter_markers=lambda name: [SimpleNamespace(args=('dash', 'mpirun'))])
    monkeypatch.setenv('CI', ci)
    monkeypatch.setattr(shutil, 'which', lambda program: '/bin/dash' if program == 'dash' else None)
    with pytest.raises(answer, match=r'mpirun is not installed \(Debian: apt-get install openmpi-bin\)'):
        pytest_runtest_setup(item)
    monkeypatch.setattr(shutil, 'which', lambda program: '/bin/' + program)
    pytest_runtest_setup(item)
