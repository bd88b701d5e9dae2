"""The shell scripts: POSIX, from any directory, with the program's status and its log."""
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT

SCRIPTS = sorted(name for name in os.listdir(os.path.join(ROOT, 'scripts')) if name.endswith('.sh'))
RUNS = {'run_standalone_train_for_gpu.sh': ('train', ['0', 'DATA']),
        'run_eval_for_gpu.sh': ('eval', ['1', 'DATA', 'CKPT']),
        'run_eval_onnx.sh': ('eval', ['DATA', 'ONNX'])}
# Stands in for the interpreter: it prints its arguments, and ends as the test asks.
STUB = '''#!/bin/sh
case $1 in
-c) exec %s "$@" ;;
esac
echo "ran: $*"
echo "and on stderr" >&2
[ -z "$STUB_SLEEP" ] || { trap 'kill $!; echo stopped; exit 143' TERM; sleep "$STUB_SLEEP" & wait; }
exit "${STUB_STATUS:-0}"
'''


@pytest.fixture
def project(tmp_path):
    """A copy of the scripts in a folder with a space in its name, with a stub for the interpreter."""
    root = tmp_path / 'the project'
    shutil.copytree(os.path.join(ROOT, 'scripts'), str(root / 'scripts'), ignore=shutil.ignore_patterns('*.log'))
    stub = root / 'python'
    stub.write_text(STUB % sys.executable)
    stub.chmod(0o755)
    (root / 'some data').mkdir()
    for name in ('a.ckpt', 'an export.onnx'):
        (root / name).write_text('')
    return root


def shell(project, script, *arguments, **environment):
    """Run a script with dash from another directory -> CompletedProcess."""
    return subprocess.run(['dash', str(project / 'scripts' / script)] + list(arguments), cwd=str(project),
                          env=dict(os.environ, PYTHON='./python', **environment), timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)


def arguments_of(script):
    """Good arguments of a script, relative to the project."""
    files = {'DATA': 'some data', 'CKPT': 'a.ckpt', 'ONNX': 'an export.onnx'}
    return [files.get(word, word) for word in RUNS[script][1]]


@pytest.mark.parametrize('name', SCRIPTS)
def test_scripts_are_posix_and_clean(name):
    path = os.path.join('scripts', name)
    assert subprocess.run(['dash', '-n', path], cwd=ROOT).returncode == 0
    linter = os.path.join(os.path.dirname(sys.executable), 'shellcheck')
    result = subprocess.run([linter, '-x', '-s', 'sh', path], cwd=ROOT, stdout=subprocess.PIPE)
    assert result.returncode == 0, result.stdout.decode()


def test_the_dockerfile_is_clean():
    linter = os.path.join(os.path.dirname(sys.executable), 'hadolint')
    result = subprocess.run([linter, 'Dockerfile'], cwd=ROOT, stdout=subprocess.PIPE)
    assert result.returncode == 0, result.stdout.decode()


@pytest.mark.parametrize('name', sorted(RUNS))
@pytest.mark.parametrize('status', ['0', '7'])
def test_output_is_shown_and_logged_and_the_status_kept(project, name, status):
    program, _ = RUNS[name]
    result = shell(project, name, *arguments_of(name) + ['--batch_size', '4'], STUB_STATUS=status, PLATFORM='CPU')
    assert result.returncode == int(status)
    assert re.search(r'ran: \S*.*/%s\.py --platform CPU (--device_id \d )?--dataset_path some data' % program,
                     result.stdout)
    assert '--batch_size 4' in result.stdout and 'and on stderr' in result.stdout
    assert (project / 'scripts' / (program + '.log')).read_text() == result.stdout


@pytest.mark.needs('git')
def test_a_checkout_of_windows_keeps_the_line_ends(project, tmp_path):
    shutil.copy(os.path.join(ROOT, '.gitattributes'), str(project))
    (project / 'a.npz').write_bytes(b'binary\n')
    me = ['-c', 'user.name=x', '-c', 'user.email=x@localhost']
    for words in (['init', '-q'], ['add', '.'], me + ['commit', '-qm', 'x']):
        subprocess.check_call(['git', '-C', str(project)] + words)
    clone = tmp_path / 'clone'
    subprocess.check_call(['git', 'clone', '-q', '-c', 'core.autocrlf=true', '-c', 'core.eol=crlf', str(project),
                           str(clone)])
    for name in SCRIPTS + ['common.sh', 'process.sh']:
        assert (clone / 'scripts' / name).read_bytes() == (project / 'scripts' / name).read_bytes()
    assert (clone / 'a.npz').read_bytes() == b'binary\n'


def test_platform_is_gpu_by_default(project):
    environment = {key: value for key, value in os.environ.items() if key != 'PLATFORM'}
    result = subprocess.run(['dash', str(project / 'scripts' / 'run_eval_for_gpu.sh')]
                            + arguments_of('run_eval_for_gpu.sh'), cwd=str(project), stdout=subprocess.PIPE,
                            env=dict(environment, PYTHON='./python'), universal_newlines=True)
    assert '--platform GPU' in result.stdout


@pytest.mark.parametrize('name,arguments', [
    ('run_standalone_train_for_gpu.sh', ['0']), ('run_standalone_train_for_gpu.sh', ['x', 'some data']),
    ('run_standalone_train_for_gpu.sh', ['0', 'absent']), ('run_eval_for_gpu.sh', ['0', 'some data']),
    ('run_eval_for_gpu.sh', ['0', 'some data', 'absent.ckpt']), ('run_eval_onnx.sh', ['some data']),
    ('run_eval_onnx.sh', ['some data', 'absent.onnx']), ('run_eval_onnx.sh', ['some data', 'a.ckpt']),
    ('run_distribute_train_for_gpu.sh', []),
    ('run_distribute_train_for_gpu.sh', ['absent'])])
def test_wrong_arguments_are_status_2_and_one_line(project, name, arguments):
    result = shell(project, name, *arguments)
    assert result.returncode == 2 and result.stdout == ''
    assert re.match(r'(usage: sh|error: ).*\n$', result.stderr)
    assert not list((project / 'scripts').glob('*.log'))


def test_a_signal_is_passed_on_and_waited_for(project):
    name = 'run_standalone_train_for_gpu.sh'
    process = subprocess.Popen(['dash', str(project / 'scripts' / name)] + arguments_of(name), cwd=str(project),
                               env=dict(os.environ, PYTHON='./python', STUB_SLEEP='60'), stdout=subprocess.PIPE,
                               universal_newlines=True)
    assert process.stdout.readline().startswith('=== ') and process.stdout.readline().startswith('ran: ')
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=20)[0]
    assert process.returncode == 143 and 'stopped' in output


def with_mpirun(project, version, status=3):
    """PATH with an mpirun that says it is `version`, and prints its arguments."""
    mpirun = project / 'bin' / 'mpirun'
    mpirun.parent.mkdir(exist_ok=True)
    mpirun.write_text('#!/bin/sh\n[ "$1" != --version ] || { echo "%s"; exit; }\necho "mpirun $*"\nexit %d\n'
                      % (version, status))
    mpirun.chmod(0o755)
    return str(mpirun.parent) + os.pathsep + os.environ['PATH']


@pytest.mark.parametrize('version', ['mpirun (Open MPI) 4.1.4', 'mpirun (Open MPI) 5.0.3'])
def test_distributed_training_starts_as_many_processes_as_asked(project, version):
    path = with_mpirun(project, version)
    (project / 'hosts').write_text('one slots=8\ntwo slots=8\n')
    for given, expected in (({}, '--oversubscribe .*-n 8'), ({'DEVICE_NUM': '2'}, '--oversubscribe .*-n 2'),
                            ({'DEVICE_NUM': '16', 'HOSTFILE': 'hosts', 'CUDA_VISIBLE_DEVICES': '0,1'},
                             '--hostfile hosts .*-x CUDA_VISIBLE_DEVICES .*-n 16')):
        result = shell(project, 'run_distribute_train_for_gpu.sh', 'some data', '--epoch_size', '2', PATH=path, **given)
        assert result.returncode == 3
        assert re.search(r'mpirun .*%s .*rank\.sh .*train\.py .*--is_distributed True .*--epoch_size 2' % expected,
                         result.stdout)
        assert (project / 'scripts' / 'train.log').read_text().endswith(result.stdout)


def test_too_few_slots_are_one_sentence(project):
    (project / 'hosts').write_text('one slots=4\n# two slots=8\nthree slots = 3\n')
    result = shell(project, 'run_distribute_train_for_gpu.sh', 'some data', HOSTFILE='hosts')
    assert result.returncode == 2 and result.stdout == ''
    assert result.stderr == ('error: HOSTFILE hosts has 7 slots, fewer than DEVICE_NUM 8: '
                             'give each line slots=GPUS\n')


def test_an_mpirun_of_another_kind_is_one_sentence(project):
    for version in ('HYDRA build details', 'mpirun (Open MPI) 1.10.2', 'mpirun (Open MPI) 40.0'):
        result = shell(project, 'run_distribute_train_for_gpu.sh', 'some data', PATH=with_mpirun(project, version))
        assert result.returncode == 2 and result.stdout == ''
        assert re.match(r'error: mpirun is not of Open MPI 4 or 5 .*\n$', result.stderr)


@pytest.mark.parametrize('rank,status,log,terminal', [
    (0, '7', False, ''), (1, '7', True, r'error: rank 1 on \S+ ended with status 7 \(.*\): and on stderr\n'),
    (1, '143', True, ''), (1, '137', True, r'error: rank 1 on \S+ was killed by signal 9: .*\n'),
    (0, '137', False, r'error: rank 0 on \S+ was killed by signal 9: .*\n')])
def test_a_rank_logs_and_says_how_it_ended(project, rank, status, log, terminal):
    result = shell(project, 'rank.sh', str(project / 'scripts' / 'train'), './python', 'x',
                   OMPI_COMM_WORLD_RANK=str(rank), STUB_STATUS=status)
    assert result.returncode == int(status) and result.stdout == ''
    assert ('ran: ' not in result.stderr) == log == (project / 'scripts' / 'train_rank1.log').exists()
    assert re.match('(ran: .*\nand on stderr\n)?%s$' % terminal, result.stderr)


def test_an_unsuitable_interpreter_is_one_sentence(project):
    old = project / 'python'
    old.write_text('#!/bin/sh\nexit 1\n')
    for name, arguments in (('run_tests.sh', []), ('run_standalone_train_for_gpu.sh', ['0', 'some data'])):
        result = shell(project, name, *arguments)
        assert result.returncode == 2 and 'no suitable Python' in result.stderr
        assert result.stderr.count('\n') == 1


def test_a_second_start_installs_nothing(project):
    version = '%d.%d' % sys.version_info[:2]
    for name in ('requirements.txt', 'requirements-test.txt'):
        shutil.copy(os.path.join(ROOT, name), str(project / name))
    environment = project / ('.venv-' + version)
    (environment / 'bin').mkdir(parents=True)
    shutil.copy(str(project / 'python'), str(environment / 'bin' / 'python'))
    command = '(cat requirements*.txt && echo) | cksum'
    wanted = subprocess.run(command, shell=True, cwd=str(project), stdout=subprocess.PIPE)
    (environment / 'installed-requirements-test.txt').write_bytes(wanted.stdout)
    result = shell(project, 'run_tests.sh', '-k', 'nothing')
    assert result.returncode == 0 and result.stdout == 'ran: -m pytest -k nothing\n'
