"""The run scripts under signals, closed terminals and kills; their logs, and which Python they take.

Real shells start real processes. A small program stands in for train.py and eval.py, except in the last test.
"""
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT, SMALL_FLAGS

STANDALONE, DISTRIBUTED = 'run_standalone_train_for_gpu.sh', 'run_distribute_train_for_gpu.sh'
START = {STANDALONE: ['0', 'data'], DISTRIBUTED: ['data']}
SHELLS = ['dash', 'bash', 'busybox sh', 'mksh', 'zsh']
# Makes the folder of a run, as train.py does, works for LENGTH seconds, and prints its last words after a signal.
PROGRAM = '''
import os, signal, sys, time
def end(number, _):
    time.sleep(0.5)
    print('last words', file=sys.stderr)
    os._exit(130 if number in (signal.SIGINT, signal.SIGUSR2) else 143)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, end)
print('a warning', file=sys.stderr)
if '--wrong' in sys.argv:
    sys.exit('error: a wrong flag')
flags = ' '.join(sys.argv).replace('=', ' ').split(' ')
folder = ([flags[i + 1] for i, flag in enumerate(flags) if flag == '--ckpt_path'] or ['checkpoint'])[-1]
os.makedirs(folder, exist_ok=True)
print('training on CPU: 8 images')
time.sleep(float(os.environ.get('LENGTH', 0)))
print('trained')
sys.exit(int(os.environ.get('STATUS', 0)))
'''
# Stands in for an interpreter; MODULES is what it can import.
INTERPRETER = '''#!/bin/sh
case "$*" in
*find_spec*) %s ;;
*'version_info[:2] <='*) exit 0 ;;
-c*) echo 3.11 ;;
'-m venv'*)
    echo "$*"; for last; do :; done
    rm -f "$last/bin/python"; mkdir -p "$last/bin"; cp "$0" "$last/bin/python" ;;
*) echo "$0: $*, PIP_USER=$PIP_USER" ;;
esac
'''


@pytest.fixture
def project(tmp_path):
    """A copy of the scripts in a folder with a space in its name, with small programs."""
    root = tmp_path / 'the project'
    shutil.copytree(os.path.join(ROOT, 'scripts'), str(root / 'scripts'), ignore=shutil.ignore_patterns('*.log'))
    for name in ('train.py', 'eval.py'):
        (root / name).write_text(PROGRAM)
    (root / 'data').mkdir()
    return root


def environment(**values):
    """An environment for the scripts without what activated environments leave in it."""
    inherited = {key: value for key, value in os.environ.items()
                 if key not in ('VIRTUAL_ENV', 'CONDA_PREFIX', 'PYTHON', 'LOG_DIR')}
    return dict(inherited, **dict({'PYTHON': sys.executable, 'PLATFORM': 'CPU', 'DEVICE_NUM': '2'}, **values))


def start(project, script, *flags, **values):
    """Start a script in the project's folder by dash -> Popen with stdout and stderr in one pipe."""
    return subprocess.Popen(['dash', 'scripts/' + script] + START.get(script, []) + list(flags), cwd=str(project),
                            env=environment(**values), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            universal_newlines=True)


def run(project, script, *flags, **values):
    """Run a script to its end -> (status, output)."""
    process = start(project, script, *flags, **values)
    output = process.communicate(timeout=60)[0]
    return process.returncode, output


def log(project, name='scripts/train.log'):
    """Text of a log, '' if there is none."""
    return (project / name).read_text() if (project / name).exists() else ''


def await_true(condition, seconds=20):
    """Wait until `condition` returns something true, and return that."""
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, 'nothing came within %d s' % seconds
        time.sleep(0.05)
    return condition()


def processes(project, word=''):
    """{process id: command line} of the processes whose command line names the project and contains `word`."""
    found = {}
    for path in glob.glob('/proc/[0-9]*/cmdline'):
        try:
            with open(path) as file:
                line = file.read().replace('\0', ' ')
        except OSError:
            continue
        if str(project) in line and word in line:
            found[int(path.split('/')[2])] = line
    return found


def await_end(project):
    """Wait until no process of the project is left."""
    await_true(lambda: not processes(project))


scripts = pytest.mark.parametrize('script', [
    STANDALONE, pytest.param(DISTRIBUTED, marks=pytest.mark.needs('mpirun'))])


# --- signals ------------------------------------------------------------------------------------------------


@scripts
@pytest.mark.parametrize('number,status', [(signal.SIGHUP, 143), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_program_and_the_log_is_whole(project, script, number, status):
    process = start(project, script, LENGTH='60')
    await_true(lambda: 'training on' in log(project))
    time.sleep(0.5)             # the other rank
    process.send_signal(number)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == status
    assert output.endswith('last words\n')
    assert output == log(project) == log(project, 'checkpoint/train.log')
    await_end(project)


@scripts
def test_a_closed_terminal_ends_the_program_and_the_log_is_whole(project, script):
    master, terminal = os.openpty()
    name = os.ttyname(terminal)

    def own_terminal():
        os.setsid()
        os.close(os.open(name, os.O_RDWR))      # the first terminal that a session opens becomes its own
    process = subprocess.Popen(['dash', 'scripts/' + script] + START[script], cwd=str(project), stdin=terminal,
                               stdout=terminal, stderr=terminal, env=environment(LENGTH='60'),
                               preexec_fn=own_terminal)
    os.close(terminal)
    await_true(lambda: 'training on' in log(project))
    time.sleep(0.5)
    os.close(master)
    assert process.wait(timeout=30) == 143
    await_true(lambda: 'last words\n' in log(project) and 'last words\n' in log(project, 'checkpoint/train.log'))
    await_end(project)


def test_a_reader_that_goes_away_does_not_end_the_program(project):
    process = start(project, STANDALONE, LENGTH='2')
    assert process.stdout.readline().startswith('=== ')
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert log(project).endswith('training on CPU: 8 images\ntrained\n')


@pytest.mark.slow
@scripts
def test_a_signal_at_any_moment_of_the_start_leaves_no_process(project, script):
    for delay in range(0, 600, 40 if script == STANDALONE else 60):
        process = start(project, script, LENGTH='20')
        time.sleep(delay / 1000)
        process.terminate()
        began = time.time()
        process.communicate(timeout=30)
        # Before the script listens to signals, SIGTERM ends it as it ends any process.
        assert process.returncode in (143, -signal.SIGTERM), delay
        assert time.time() - began < 10, delay
        await_end(project)


@pytest.mark.slow
@scripts
def test_kill_of_the_script_ends_the_program(project, script):
    temporary = project / 'tmp'
    temporary.mkdir()
    process = start(project, script, LENGTH='60', TMPDIR=str(temporary))
    await_true(lambda: 'training on' in log(project))
    time.sleep(0.5)
    process.kill()
    process.communicate(timeout=30)     # the pipe is open until the last process has ended
    await_end(project)
    assert log(project).endswith('last words\n') and log(project, 'checkpoint/train.log').endswith('last words\n')
    assert not list(temporary.glob('tmp.*'))


@pytest.mark.slow
@pytest.mark.needs('mpirun')
def test_kill_of_mpirun_ends_the_ranks(project):
    process = start(project, DISTRIBUTED, LENGTH='60')
    await_true(lambda: 'training on' in log(project) and 'training on' in log(project, 'scripts/train_rank1.log'))
    mpirun, = [number for number, line in processes(project).items() if re.match('(mpirun|prterun) ', line)]
    os.kill(mpirun, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == 137
    await_end(project)
    assert log(project, 'scripts/train_rank1.log').endswith('last words\n')


def test_a_killed_program_is_one_sentence(project):
    process = start(project, STANDALONE, LENGTH='60')
    await_true(lambda: 'training on' in log(project))
    program, = [number for number, line in processes(project).items() if line.startswith(sys.executable)]
    os.kill(program, signal.SIGKILL)
    assert process.communicate(timeout=30)[0].endswith('\nerror: the program was killed by signal 9\n')
    assert process.returncode == 137 and 'killed by signal 9' in log(project, 'checkpoint/train.log')


@pytest.mark.parametrize('shell', SHELLS)
def test_other_shells(project, shell):
    if shutil.which(shell.split()[0]) is None:
        pytest.skip('%s is not installed' % shell)
    process = subprocess.Popen(shell.split() + ['scripts/' + STANDALONE] + START[STANDALONE], cwd=str(project),
                               env=environment(LENGTH='60'), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               universal_newlines=True)
    await_true(lambda: 'training on' in log(project))
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=30)[0] == log(project, 'checkpoint/train.log')
    assert process.returncode == 143 and log(project).endswith('last words\n')


# --- logs ---------------------------------------------------------------------------------------------------


def test_the_first_line_of_a_log_says_which_python_and_program(project):
    process = start(project, STANDALONE, '--batch_size', '4')
    output = process.communicate(timeout=30)[0]
    assert re.match(r'=== \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, process %d on \S+: %s %s/train\.py --platform CPU '
                    r'--device_id 0 --dataset_path data --batch_size 4\n' % (process.pid, sys.executable, project),
                    output)


@scripts
@pytest.mark.parametrize('flags,folder', [
    ((), 'checkpoint'), (('--ckpt_path', 'a b'), 'a b'), (('--ckpt_path=one/',), 'one'),
    (('--ckpt_path', 'one', '--ckpt_path=two'), 'two'), (('--ckpt_path=one', '--ckpt_path', '-x'), '-x')])
def test_the_log_lies_also_beside_the_checkpoints(project, script, flags, folder):
    if ' ' in folder or '-' in folder:
        (project / folder).mkdir()      # the small program does not understand such names
    status, output = run(project, script, *flags)
    assert status == 0 and output == log(project) == log(project, folder + '/train.log')
    assert run(project, script, *flags)[1] in log(project, folder + '/train.log')
    assert log(project, folder + '/train.log').startswith(output)
    assert len(list(project.glob('*/train.log'))) == 2


def test_a_mistake_writes_nothing_beside_the_checkpoints(project):
    (project / 'checkpoint').mkdir()
    status, output = run(project, STANDALONE, '--wrong')
    assert status == 1 and output.endswith('a warning\nerror: a wrong flag\n')
    assert log(project) == output and os.listdir(str(project / 'checkpoint')) == []


@pytest.mark.slow
@scripts
def test_two_runs_at_once_have_their_own_logs(project, script):
    first = start(project, script, '--ckpt_path', 'one', LENGTH='4')
    await_true(lambda: 'training on' in log(project))
    second = start(project, script, '--ckpt_path', 'two')
    outputs = [process.communicate(timeout=30)[0] for process in (second, first)]
    own = 'scripts/train-%d.log' % second.pid
    assert [log(project, own), log(project)] == outputs
    assert [log(project, 'two/train.log'), log(project, 'one/train.log')] == outputs
    assert 'another run writes to %s/scripts/train.log, so the log is %s/%s\n' % (project, project, own) in outputs[0]
    if script == DISTRIBUTED:
        assert log(project, own.replace('.log', '_rank1.log')).count('=== ') == 1
        assert log(project, 'scripts/train_rank1.log').count('=== ') == 1
    assert run(project, script)[1] in log(project)      # the third run finds train.log free again


@scripts
def test_logs_of_an_installation_that_cannot_be_written(project, script, tmp_path):
    (project / 'scripts' / 'train.log').mkdir()     # stands in for a folder that is only readable: root may write there
    status, output = run(project, script)
    assert status == 0 and log(project, 'train.log') == output
    assert '%s/scripts/train.log cannot be written, so the log is %s/train.log\n' % (project, project) in output
    status, output = run(project, script, LOG_DIR='new/logs')
    assert status == 0 and log(project, 'new/logs/train.log') == output and 'cannot be written' not in output
    if script == DISTRIBUTED:
        assert log(project, 'train_rank1.log').endswith('trained\n')
        assert log(project, 'new/logs/train_rank1.log').endswith('trained\n')
    (project / 'file').write_text('')
    assert run(project, script, LOG_DIR='file') == (
        2, 'error: no log can be written into LOG_DIR file: choose another folder\n')


def test_a_system_without_fifos_is_one_sentence(project):
    mkfifo = project / 'bin' / 'mkfifo'
    mkfifo.parent.mkdir()
    mkfifo.write_text('#!/bin/sh\necho mkfifo: no >&2\nexit 1\n')
    mkfifo.chmod(0o755)
    status, output = run(project, STANDALONE, PATH='%s:%s' % (mkfifo.parent, os.environ['PATH']))
    assert status == 2 and re.match(r'error: no FIFO can be made in \S+: set TMPDIR to .*\n$', output)


# --- which Python -------------------------------------------------------------------------------------------


def interpreter(path, has_mindspore):
    """Write a stub of an interpreter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(INTERPRETER % ('exit 0' if has_mindspore else 'exit 1'))
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize('active', ['VIRTUAL_ENV', 'CONDA_PREFIX'])
def test_the_active_environment_is_preferred_if_it_has_mindspore(project, active):
    path = '%s:%s' % (project / 'bin', os.environ['PATH'])
    found = interpreter(project / 'bin' / 'python3.11', True)
    chosen = interpreter(project / 'the active' / 'bin' / 'python', True)
    values = {'PATH': path, 'PYTHON': '', active: str(project / 'the active')}
    assert ': %s %s/train.py ' % (chosen, project) in run(project, STANDALONE, **values)[1]
    own = interpreter(project / '.venv' / 'bin' / 'python', True)
    assert ': %s %s/train.py ' % (chosen, project) in run(project, STANDALONE, **values)[1]
    interpreter(project / 'the active' / 'bin' / 'python', False)
    assert ': %s %s/train.py ' % (own, project) in run(project, STANDALONE, **values)[1]
    os.remove(own)
    assert ': python3.11 %s/train.py ' % project in run(project, STANDALONE, **values)[1]
    os.remove(found)


def test_python_is_stronger_than_the_active_environment(project):
    active = interpreter(project / 'active' / 'bin' / 'python', True)
    named = interpreter(project / 'my venv' / 'bin' / 'python', True)
    values = {'VIRTUAL_ENV': os.path.dirname(os.path.dirname(active)), 'PYTHON': named}
    assert ': %s %s/train.py ' % (named, project) in run(project, STANDALONE, **values)[1]
    # An interpreter without MindSpore stands for the environment of its version.
    interpreter(project / 'my venv' / 'bin' / 'python', False)
    own = interpreter(project / '.venv-3.11' / 'bin' / 'python', True)
    assert ': %s %s/train.py ' % (own, project) in run(project, STANDALONE, **values)[1]


def test_an_environment_whose_interpreter_has_gone_starts_over(project):
    named = interpreter(project / 'my python' / 'python3.11', False)
    for name in ('requirements.txt', 'requirements-test.txt'):
        (project / name).write_text('')
    (project / '.venv-3.11' / 'bin').mkdir(parents=True)
    (project / '.venv-3.11' / 'bin' / 'python').symlink_to('/nonexistent/python3.11')
    (project / '.venv-3.11' / 'pyvenv.cfg').write_text('')
    status, output = run(project, 'run_tests.sh', PYTHON=named, PIP_USER='1')
    assert status == 0
    assert '-m venv --clear %s/.venv-3.11\n' % project in output
    assert re.search(r'/\.venv-3\.11/bin/python: -m pip install .*requirements-test\.txt, PIP_USER=0\n', output)
    assert '-m pytest' in output
    # What a person has installed into a good environment stays there.
    (project / '.venv-3.11' / 'installed-requirements-test.txt').write_text('other')
    status, output = run(project, 'run_tests.sh', PYTHON=named)
    assert status == 0 and '-m venv' not in output and '-m pip install' in output


def test_a_link_to_a_script(project, tmp_path):
    link = tmp_path / 'bin' / 'train'
    link.parent.mkdir()
    link.symlink_to(os.path.relpath(str(project / 'scripts' / STANDALONE), str(link.parent)))
    assert subprocess.call(['dash', str(link), '0', 'data'], cwd=str(project), env=environment(),
                           stdout=subprocess.DEVNULL) == 0
    assert log(project).endswith('trained\n')


# --- mpirun -------------------------------------------------------------------------------------------------


def arguments_of_mpirun(project, **values):
    """(status, output) of the distributed script with an mpirun that prints its arguments."""
    mpirun = project / 'bin' / 'mpirun'
    mpirun.parent.mkdir(exist_ok=True)
    mpirun.write_text('#!/bin/sh\n[ "$1" != --version ] || { echo "mpirun (Open MPI) 4.1.4"; exit; }\necho "ran $*"\n')
    mpirun.chmod(0o755)
    return run(project, DISTRIBUTED, PATH='%s:%s' % (mpirun.parent, os.environ['PATH']), **values)


def test_ranks_on_other_machines_get_the_variables_that_matter(project):
    (project / 'hosts').write_text('one slots=2\n')
    forwarded = ['CUDA_VISIBLE_DEVICES', 'GLOG_v', 'LD_LIBRARY_PATH', 'MS_BUILD_PROCESS_NUM', 'NCCL_DEBUG',
                 'NCCL_SOCKET_IFNAME', 'NVIDIA_TF32_OVERRIDE', 'OMP_NUM_THREADS', 'ONEDNN_MAX_CPU_ISA',
                 'XDG_CACHE_HOME']
    values = dict({name: '1' for name in forwarded}, OTHER='a\nNCCL_FAKE=1', CUDA_VISIBLE_DEVICES='')
    status, output = arguments_of_mpirun(project, HOSTFILE='hosts', **values)
    assert status == 0
    found = set(re.findall(r'-x (\w+)', output))
    assert found >= set(forwarded) | {'PATH'} and not found & {'OTHER', 'NCCL_FAKE', 'HOME'}
    assert '-x' not in arguments_of_mpirun(project, **values)[1]


def test_more_flags_for_mpirun(project):
    output = arguments_of_mpirun(project, MPIRUN_FLAGS='--mca btl_tcp_if_include * --bind-to core')[1]
    assert '-n 2 --mca btl_tcp_if_include * --bind-to core sh ' in output and '--bind-to none' not in output
    assert '--bind-to none' in arguments_of_mpirun(project)[1]


def test_a_host_file_with_line_ends_of_windows_is_one_sentence(project):
    (project / 'hosts').write_bytes(b'localhost slots=2\r\n')
    status, output = arguments_of_mpirun(project, HOSTFILE='hosts')
    assert status == 2 and re.match(r'error: HOSTFILE hosts has line ends of Windows.*\n$', output)


@pytest.mark.slow
@pytest.mark.needs('mpirun')
def test_the_words_of_mpirun_are_shown_but_not_what_rank_sh_says_better(project):
    (project / 'hosts').write_text('localhost slots=2 foo=\n')
    status, output = run(project, DISTRIBUTED, HOSTFILE='hosts')
    assert status != 0 and 'parse error in the hostfile' in output
    status, output = run(project, DISTRIBUTED, MPIRUN_FLAGS='--nonsense')
    assert status != 0 and re.search('unknown option|unrecognized option', output)
    status, output = run(project, DISTRIBUTED, STATUS='7')
    assert status == 7
    assert output.split('\n')[1:] == ['a warning', 'training on CPU: 8 images', 'trained', '']


def test_a_rank_that_cannot_write_its_log_shows_its_output(project):
    process = subprocess.run(['dash', 'scripts/rank.sh', 'absent/train', sys.executable, 'train.py'], cwd=str(project),
                             env=environment(OMPI_COMM_WORLD_RANK='1'), stderr=subprocess.PIPE, timeout=30,
                             universal_newlines=True)
    assert process.returncode == 0 and process.stderr.endswith('trained\n')
    assert re.match(r'warning: rank 1 on \S+ cannot write absent/train_rank1\.log: ', process.stderr)


# --- a real training ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_closed_terminal_costs_a_real_training_no_step(image_folder, tmp_path):
    process = subprocess.Popen(['dash', os.path.join(ROOT, 'scripts', STANDALONE), '0', str(image_folder / 'train'),
                                '--epoch_size', '100', '--ckpt_path', 'run'] + SMALL_FLAGS, cwd=str(tmp_path),
                               env=environment(LOG_DIR='logs'), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               universal_newlines=True)
    await_true(lambda: 'step 2/4' in log(tmp_path, 'run/train.log'), 300)
    process.send_signal(signal.SIGHUP)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143
    assert output == log(tmp_path, 'run/train.log') == log(tmp_path, 'logs/train.log')
    last = re.search(r'\nstopped by a signal; this goes on: .* --resume (\S+\.ckpt)\n$', output)
    assert last and (tmp_path / last.group(1)).exists()
