"""setup.sh and check_pythons.sh: environments are made, completed and removed; what cannot be made is one sentence."""
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests.helpers import ROOT

# Stands in for each interpreter. As an environment it has pip, MindSpore, and tests that end as the test asks.
STUB = '''#!/bin/sh
case "$*" in
-c*) exec "%s" "$@" ;;
'-m venv --clear '*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && echo >"$4/pyvenv.cfg" ;;
'-m pip list '*) printf 'numpy==1.2\\nmindspore-gpu==3.4\\n' ;;
'-m pip freeze') echo numpy==1.2 ;;
'-m pip install '*) echo "constraints: $PIP_CONSTRAINT" ;;
'-m pytest -m smoke') exit "${STUB_STATUS:-0}" ;;
esac
'''


def make_wheel(folder):
    """Write a wheel of the package `tiny` into a folder."""
    with zipfile.ZipFile(str(folder / 'tiny-1.0-py3-none-any.whl'), 'w') as wheel:
        wheel.writestr('mindspore.py', '')     # the scripts look for this module
        wheel.writestr('tiny-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n')
        wheel.writestr('tiny-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        wheel.writestr('tiny-1.0.dist-info/RECORD', '')


def make_source(folder):
    """Write an archive of the package `source`, of which there is no wheel; to build it leaves the file `built`."""
    (folder / 'setup.py').write_text('open(%r, "w")\n' % str(folder / 'built'))
    with tarfile.open(str(folder / 'source-1.0.tar.gz'), 'w:gz') as archive:
        archive.add(str(folder / 'setup.py'), 'source-1.0/setup.py')


def copy_scripts(root):
    """A project at `root` with the scripts and a stub for check_gpu.py."""
    shutil.copytree(os.path.join(ROOT, 'scripts'), str(root / 'scripts'), ignore=shutil.ignore_patterns('*.log'))
    (root / 'tools').mkdir()
    (root / 'tools' / 'check_gpu.py').write_text('print("the report")\n')
    return root


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A project whose one requirement is the package `tiny`, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp('setup')
    root = folder / 'the project'
    make_wheel(folder)
    make_source(folder)
    copy_scripts(root)
    require(root, 'tiny')
    return root


def require(root, package):
    """Let the project need one package."""
    with open(os.path.join(ROOT, 'requirements.txt')) as file:
        options = ''.join(line for line in file if line.startswith('-'))
    (root / 'requirements.txt').write_text(options + package + '\n')


def shell(script, **environment):
    """Run a script without a network or a home folder -> CompletedProcess."""
    kept = {'PATH': os.environ['PATH'], 'PYTHON': sys.executable, 'LANG': 'C', 'PIP_NO_INDEX': '1',
            'PIP_FIND_LINKS': str(script.parent.parent.parent)}
    return subprocess.run(['dash', str(script)] + environment.pop('arguments', []), env=dict(kept, **environment),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=300)


@pytest.fixture(scope='module')
def environment(project):
    """(folder of an environment that setup.sh has made, the finished process)"""
    folder = project.parent / 'an environment'
    return folder, shell(project / 'scripts' / 'setup.sh', VENV=str(folder))


def test_setup_installs_once_and_writes_nothing_into_the_project(project, environment):
    folder, process = environment
    assert process.returncode == 0, process.stderr
    assert process.stdout == ('installing requirements.txt into %s\nenvironment: %s (Python %s)\nthe report\n'
                              % (folder, folder, sys.version.split()[0]))
    assert subprocess.run([str(folder / 'bin' / 'python'), '-c', 'import mindspore']).returncode == 0
    again = shell(project / 'scripts' / 'setup.sh', VENV=str(folder))
    assert (again.returncode, again.stdout) == (0, process.stdout.split('\n', 1)[1])
    assert sorted(os.listdir(str(project))) == ['requirements.txt', 'scripts', 'tools']


def test_setup_says_which_active_environment_the_scripts_will_use(project, environment):
    active = project.parent / 'active'
    (active / 'bin').mkdir(parents=True)
    stub = active / 'bin' / 'python'
    stub.write_text('#!/bin/sh\nexec "%s" "$@"\n' % sys.executable)
    stub.chmod(0o755)
    (project / '.venv').symlink_to(environment[0])
    try:
        for name in ('VIRTUAL_ENV', 'CONDA_PREFIX'):
            process = shell(project / 'scripts' / 'setup.sh', PYTHON='', **{name: str(active)})
            assert process.returncode == 0 and process.stdout.split('\n')[0].startswith('environment: ')
            assert 'note: the scripts will use %s, because' % stub in process.stdout
    finally:
        (project / '.venv').unlink()


def test_a_package_without_a_wheel_is_one_sentence_and_nothing_is_built(project, environment):
    require(project, 'source')
    try:
        process = shell(project / 'scripts' / 'setup.sh', VENV=str(environment[0]))
    finally:
        require(project, 'tiny')
    assert process.returncode == 2
    assert re.match(r'error: the requirements of requirements.txt could not be installed .* each package must have one '
                    r'for Python 3\.\d+\.\d+ on \w+$', process.stderr.strip().split('\n')[-1])
    assert not (project.parent / 'built').exists()


def test_a_folder_that_is_no_environment_is_not_cleared(project, tmp_path):
    (tmp_path / 'letter').write_text('dear')
    process = shell(project / 'scripts' / 'setup.sh', VENV=str(tmp_path))
    assert process.returncode == 2 and os.listdir(str(tmp_path)) == ['letter']
    assert process.stderr == ('error: %s is not empty and no environment with pip: choose another folder in VENV\n'
                              % tmp_path)


@pytest.fixture
def stubs(tmp_path):
    """(project, PATH on which python3.8 and python3.12 are stubs and there is no other Python)"""
    root = copy_scripts(tmp_path / 'a project')
    programs = tmp_path / 'bin'
    programs.mkdir()
    for name in ('dash', 'sh', 'dirname', 'readlink', 'cat', 'cksum', 'mkdir', 'mktemp', 'date', 'sed', 'rm', 'ls',
                 'mv', 'expr', 'tr', 'uname', 'cp'):
        (programs / name).symlink_to(shutil.which(name))
    for name in ('python3.8', 'python3.12'):
        (programs / name).write_text(STUB % sys.executable)
        (programs / name).chmod(0o755)
    (root / 'requirements-test.txt').write_text('')
    return root, str(programs)


@pytest.mark.parametrize('status,use', [('0', 'write'), ('0', 'use'), ('1', 'write')])
def test_each_python_that_is_found_is_tried_in_an_environment_of_its_own(stubs, status, use):
    project, path = stubs
    process = shell(project / 'scripts' / 'check_pythons.sh', PATH=path, STUB_STATUS=status, CONSTRAINTS=use)
    assert process.returncode == int(status)
    rows = process.stdout.split('\n')[-7:-1]
    tried = {'3.8': [], '3.12': []}
    for version, row in zip(('3.7', '3.8', '3.9', '3.10', '3.11', '3.12'), rows):
        result = r'3\.4 \| 1\.2 \| \d+ s \| \d+ s \| %s' % ('failed' if status == '1' else 'passed')
        assert re.match(r'\| %s \| (%s|%s) \|$' % (version, result, r'not found[ |]*'), row)
        assert ('not found' in row) == (version not in tried)
    made = (project / 'constraints')
    wanted = ['3.12.txt', '3.8.txt'] if (status, use) == ('0', 'write') else []
    assert sorted(os.listdir(str(made))) == wanted if wanted else not made.exists()
    assert ('constraints: constraints/3.8.txt\n' in process.stdout) == (use == 'use')
    assert not [name for name in os.listdir(str(project)) if name.startswith('.venv')]


@pytest.mark.parametrize('arguments,constraints,status', [(['3.6'], '', 2), ([], 'maybe', 2), (['3.9'], '', 1)])
def test_a_wrong_version_and_an_absent_one_are_errors(stubs, arguments, constraints, status):
    project, path = stubs
    process = shell(project / 'scripts' / 'check_pythons.sh', PATH=path, CONSTRAINTS=constraints, arguments=arguments)
    assert process.returncode == status
    assert re.match(r'error: .*\n$', process.stderr) if status == 2 else '| 3.9 | not found' in process.stdout


def test_pip_is_told_that_this_is_no_package(tmp_path):
    for name in ('pyproject.toml', 'tools/no_package.py'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(os.path.join(ROOT, name), str(tmp_path / name))
    process = subprocess.run([sys.executable, '-m', 'pip', 'install', '--target', str(tmp_path / 'site'),
                              str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    assert process.returncode == 1 and 'error: this project is not a package: run its programs' in process.stdout
    assert not (tmp_path / 'site').exists()
