"""The documentation names things that exist, and says the same in English and in Chinese. It needs no MindSpore."""
import glob
import os
import re
from collections import Counter

import pytest

from src.config import nasnet_a_mobile_config_gpu, presets

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENGLISH = sorted(['README.md'] + [os.path.relpath(path, ROOT) for path in glob.glob(os.path.join(ROOT, 'docs', '*.md'))
                                  if not path.endswith('_CN.md')])
CHINESE = [path.replace('.md', '_CN.md') for path in ENGLISH]
PAGES = ENGLISH + CHINESE + ['CONTRIBUTING.md']
# The ModelZoo's sections in the ModelZoo's order.
SECTIONS = ['Contents', 'NASNet Description', 'Model Architecture', 'Dataset', 'Environment Requirements',
            'Quick Start', 'Script Description', 'Script and Sample Code', 'Script Parameters', 'Training Process',
            'Evaluation Process', 'Export Process', 'Model Description', 'Performance', 'Training Performance',
            'Evaluation Performance', 'Description of Random Situation', 'ModelZoo Homepage', 'License']
SECTIONS_CN = ['目录', 'NASNet概述', '模型架构', '数据集', '环境要求', '快速入门', '脚本说明', '脚本及样例代码',
               '脚本参数', '训练过程', '评估过程', '导出过程', '模型描述', '性能', '训练性能', '评估性能',
               '随机情况说明', 'ModelZoo主页', '许可证']
# Flags of msrun, mpirun and docker.
FLAGS_OF_LAUNCHERS = {'worker_num', 'local_worker_num', 'master_port', 'join', 'log_dir', 'bind-to',
                      'allow-run-as-root', 'gpus', 'cpus', 'shm-size'}
FOLDERS = 'scripts|src|tools|tests|docs'


def read(path):
    """Text of a file of the project."""
    with open(os.path.join(ROOT, path), encoding='utf-8') as file:
        return file.read()


def fences(text):
    """[(language, content)] of the fenced blocks of a page."""
    return re.findall(r'^```(\w*)\n(.*?)^```$', text, re.M | re.S)


def commands(page):
    """The commands of the `sh` blocks of a page, each in one line, without comments."""
    lines = ''.join(content for language, content in fences(read(page)) if language == 'sh')
    lines = re.sub(r'\s+#.*', '', lines.replace('\\\n', ' '), flags=re.M).split('\n')
    return [' '.join(line.split()) for line in lines if line.strip()]


def numbers(page):
    """How often each number stands in a page, numbers of commands and links included, digits in names (O2) not."""
    return Counter(re.findall(r'(?<![A-Za-z0-9_])\d+(?:[.,]\d+)*(?:e-?\d+)?', read(page)))


def headings(page):
    """The headings of a page, without the blocks in fences."""
    return re.findall(r'^#+ (.*)$', re.sub(r'^```.*?^```$', '', read(page), flags=re.M | re.S), re.M)


def anchors(page):
    """The anchors that GitHub makes of the headings of a page."""
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings(page)}


def rows(page):
    """The rows of the tables of a page, as lists of cells."""
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in read(page).split('\n')
            if line.startswith('|')]


@pytest.mark.parametrize('page,sections', [('README.md', SECTIONS), ('README_CN.md', SECTIONS_CN)])
def test_readme_is_short_and_has_the_sections_of_the_modelzoo(page, sections):
    text = read(page)
    assert text.count('\n') <= 160
    assert headings(page)[1:] == sections
    status = text.index('**Status**' if page == 'README.md' else '**状态**')
    assert text[:status].count('\n') < 10


@pytest.mark.parametrize('english', ENGLISH)
def test_both_languages_have_the_same_commands_and_numbers(english):
    chinese = english.replace('.md', '_CN.md')
    assert commands(chinese) == commands(english)
    one, other = numbers(english), numbers(chinese)
    assert one == other, 'only in English: %s; only in Chinese: %s' % (dict(one - other), dict(other - one))
    assert len(headings(chinese)) == len(headings(english))
    assert [len(row) for row in rows(chinese)] == [len(row) for row in rows(english)]


def test_every_page_has_both_languages():
    found = {os.path.relpath(path, ROOT) for path in glob.glob(os.path.join(ROOT, 'docs', '*'))}
    assert found == {page for page in ENGLISH + CHINESE if page.startswith('docs')}
    assert os.path.exists(os.path.join(ROOT, 'README_CN.md'))


@pytest.mark.parametrize('page', PAGES)
def test_paths_named_in_a_page_exist(page):
    text = re.sub(r'https?://[^\s)]*', '', read(page))
    for path in re.findall(r'(?<![A-Za-z0-9_/.-])(?:%s)/[A-Za-z0-9_./-]*[A-Za-z0-9_]' % FOLDERS, text):
        is_log = re.match(r'scripts/\w+\.log$', path)       # a run writes it
        assert os.path.exists(os.path.join(ROOT, path)) or is_log, path
    files = {os.path.basename(path) for folder in FOLDERS.split('|')
             for path in glob.glob(os.path.join(ROOT, folder, '**', '*'), recursive=True)}
    files.update(os.listdir(ROOT))
    for name in re.findall(r'(?<![A-Za-z0-9_.-])[A-Za-z0-9_-]+\.(?:py|sh|cc|toml)(?![A-Za-z0-9])', text):
        assert name in files, name


@pytest.mark.parametrize('page', PAGES)
def test_flags_named_in_a_page_exist(page):
    sources = ['train.py', 'eval.py', 'export.py', os.path.join('src', 'cli.py')]
    sources += glob.glob(os.path.join(ROOT, 'tools', '**', '*.py'), recursive=True)
    known = {flag for source in sources for flag in re.findall(r'[\'"]--([A-Za-z][\w-]*)[\'"]', read(source))}
    known |= set(nasnet_a_mobile_config_gpu) | FLAGS_OF_LAUNCHERS
    assert set(re.findall(r'(?<![\w-])--([A-Za-z][\w-]*)', read(page))) <= known


@pytest.mark.parametrize('page', ['docs/configuration.md', 'docs/configuration_CN.md'])
def test_every_configuration_key_is_explained_with_its_default(page):
    explained = {row[0].strip('`'): row[1] for row in rows(page) if row[0].startswith('`')}
    assert list(explained) == list(nasnet_a_mobile_config_gpu)
    for key, default in nasnet_a_mobile_config_gpu.items():
        found = explained[key]
        assert (found if isinstance(default, bool) else type(default)(found)) == (
            str(default) if isinstance(default, bool) else default), key
    for preset in re.findall(r'--preset (\w+)', read(page)):
        assert preset in presets


@pytest.mark.parametrize('page', ['README.md', 'README_CN.md'])
def test_defaults_in_the_readme_are_those_of_the_configuration(page):
    table = [row for row in rows(page) if re.match(r'`\w+`, `\w+`$', row[0])]
    assert len(table) >= 4
    for row in table:
        for key, default in zip(re.findall(r'\w+', row[0]), row[1].split(', ')):
            assert type(nasnet_a_mobile_config_gpu[key])(default) == nasnet_a_mobile_config_gpu[key], key


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_to_a_page_of_the_same_language(page):
    for text, link in re.findall(r'\[([^\]]*)\]\(([^)\s]+)\)', read(page)):
        if re.match('https?://', link):
            continue
        path, _, anchor = link.partition('#')
        target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        assert os.path.exists(os.path.join(ROOT, target)), link
        assert not anchor or anchor in anchors(target), link
        if target in ENGLISH + CHINESE:
            same_language = target.endswith('_CN.md') == page.endswith('_CN.md')
            assert same_language != (text in ('中文', 'English')), link


@pytest.mark.parametrize('page', ['docs/commands.md', 'docs/commands_CN.md'])
def test_what_ran_each_command_is_said(page):
    shown = {command for each in ENGLISH + ['CONTRIBUTING.md'] for command in commands(each)}
    table = {row[0].strip('`'): row[1] for row in rows(page) if row[0].startswith('`')}
    assert set(table) == shown
    for command, runs in table.items():
        tests = re.findall(r'`([^`:]+)::(\w+)`', runs)
        assert tests or re.search('CI|by hand|手工', runs), command
        for path, function in tests:
            assert re.search(r'^def %s\(' % function, read(path), re.M), '%s::%s' % (path, function)
