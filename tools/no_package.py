"""The answer to `pip install .`: pyproject.toml names this module as what builds a package, and there is none to build.

CONTRIBUTING.md has the reason.
"""
import sys


def refuse(*_, **__):
    """End the build with one sentence, which pip shows."""
    sys.exit('error: this project is not a package: run its programs in its folder, and install what they need with '
             'sh scripts/setup.sh or python -m pip install -r requirements.txt')


# The first function that pip calls, for a wheel, for `-e` and for an archive of the sources; then those that it needs.
get_requires_for_build_wheel = get_requires_for_build_editable = get_requires_for_build_sdist = refuse
build_wheel = build_editable = build_sdist = refuse
