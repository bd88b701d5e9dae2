"""tools/check_gpu.py: what is found, what is missing, and how to get it. tests/gpu runs it on the null CUDA too."""
import pytest

from src.errors import UserError
from tests.helpers import run
from tools import check_gpu


def program(path, says):
    """Write a program that prints a text whatever it is asked."""
    path.parent.mkdir(exist_ok=True)
    path.write_text('#!/bin/sh\necho "%s"\n' % says)
    path.chmod(0o755)


def test_a_library_that_the_loader_does_not_find_is_named():
    assert check_gpu.load(['libc.so.6']) == 'found'
    with pytest.raises(UserError, match='libabsent.so.11: cannot open'):
        check_gpu.load(['libc.so.6', 'libabsent.so.11'])


def test_only_a_compiler_of_cuda_11_is_taken(tmp_path, monkeypatch):
    monkeypatch.delenv('CUDA_HOME', raising=False)
    with pytest.raises(UserError, match='CUDA_HOME is not set'):
        check_gpu.compiler()
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    with pytest.raises(UserError, match='bin/nvcc: No such file'):
        check_gpu.compiler()
    program(tmp_path / 'bin' / 'nvcc', 'Cuda compilation tools, release 12.4, V12.4.131')
    with pytest.raises(UserError, match='bin/nvcc is 12.4'):
        check_gpu.compiler()
    program(tmp_path / 'bin' / 'nvcc', 'Cuda compilation tools, release 11.8, V11.8.89')
    assert check_gpu.compiler() == '11.8'


@pytest.mark.parametrize('says,answer', [('mpirun (Open MPI) 4.1.4', 'Open MPI: 4.1.4'),
                                         ('mpirun (Open MPI) 1.10.2', r'Open MPI: missing (mpirun is 1.10.2)'),
                                         ('HYDRA build details', 'Open MPI: missing (mpirun is of another kind)')])
def test_each_missing_part_is_named_once_with_the_way_to_get_it(tmp_path, monkeypatch, capsys, says, answer):
    def missing():
        raise UserError('there is none')
    program(tmp_path / 'mpirun', says)
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(check_gpu, 'parts', lambda: [('driver', lambda: 'found', 'get a driver'),
                                                     ('CUDA', missing, 'get CUDA'), ('cuDNN', missing, 'get CUDA')])
    monkeypatch.setattr(check_gpu, 'prepare', lambda given: None)
    monkeypatch.setattr('sys.argv', ['check_gpu.py'])
    check_gpu.main()
    launcher = ['    apt-get install openmpi-bin (Debian, Ubuntu)'] * ('missing' in answer)
    assert capsys.readouterr().out.split('\n')[:-1] == [
        'driver: found', 'CUDA: missing (there is none)', 'cuDNN: missing (there is none)', answer,
        'one GPU: missing', '    get CUDA', '8 GPUs: missing', '    get CUDA'] + launcher


def test_it_is_no_failure_that_parts_are_missing():
    process = run('tools/check_gpu.py')
    assert process.returncode == 0 and process.stderr == ''
    for name in ('NVIDIA driver', 'CUDA 11', 'cuDNN 8', 'Open MPI', 'one GPU', '8 GPUs'):
        assert '\n%s: ' % name in '\n' + process.stdout
