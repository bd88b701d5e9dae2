# The scripts beside this file source it, with `here` set to their folder. They run as `sh FILE` from any directory.
#
# Which Python they use:
# * VENV=FOLDER in the environment is the strongest. It is for a project's folder that cannot be written, or for an
#   environment that exists already.
# * PYTHON=INTERPRETER is the next. The environment .venv-X.Y of its version in the project's folder belongs to it, so
#   that both generations of the framework can be installed side by side. A path of an interpreter that has MindSpore
#   itself is used as it is. With VENV it only says which interpreter makes the environment.
# * Without both it is the active environment (VIRTUAL_ENV, CONDA_PREFIX) if it has MindSpore, else .venv in the
#   project's folder, else the first one that is found in PATH.
# * setup.sh, run_demo.sh and run_tests.sh install what they need, and therefore use only VENV, .venv or .venv-X.Y.
# PLATFORM (GPU, CPU or Ascend; default GPU) becomes the flag --platform.

[ -z "${ZSH_VERSION:-}" ] || emulate sh
# shellcheck disable=SC2154   # `here`
ROOT=$(CDPATH='' cd -- "$here/.." && pwd)
PLATFORM=${PLATFORM:-GPU}
GIVEN_VENV=${VENV:-}
case $GIVEN_VENV in '' | /*) ;; *) GIVEN_VENV=$(pwd)/$GIVEN_VENV ;; esac
# shellcheck source=scripts/process.sh
. "$ROOT/scripts/process.sh"

# fail TEXT: print one sentence and end with status 2.
fail() {
    echo "error: $*" >&2
    exit 2
}

# usable INTERPRETER: whether it runs and a wheel of the framework exists for its version.
usable() {
    "$1" -c 'import sys; sys.exit(not (3, 7) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

# has_mindspore INTERPRETER: whether it is usable and MindSpore is installed for it.
has_mindspore() {
    usable "$1" && "$1" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("mindspore") is None)' 2>/dev/null
}

# first TEST: print the first line of the input for which `TEST LINE` succeeds.
first() {
    while IFS= read -r line; do
        if "$1" "$line" </dev/null; then
            printf '%s\n' "$line"
            return
        fi
    done
    return 1
}

# active_interpreters: print the interpreters of the active environments.
active_interpreters() {
    [ -z "${VIRTUAL_ENV:-}" ] || printf '%s\n' "$VIRTUAL_ENV/bin/python"
    [ -z "${CONDA_PREFIX:-}" ] || printf '%s\n' "$CONDA_PREFIX/bin/python"
}

# interpreters: print the names of interpreters that may exist, the best one first.
interpreters() {
    if [ -z "${PYTHON:-}" ]; then
        active_interpreters
        printf '%s\n' python3.11 python3.12 python3.10 python3 python python3.9 python3.8 python3.7
        return
    fi
    printf '%s\n' "$PYTHON"
    # The shims of pyenv refuse to run a version that is installed but not chosen.
    if version=$(expr "$PYTHON" : 'python\(3\.[0-9]*\)$') && command -v pyenv >/dev/null 2>&1; then
        ls -d "$(pyenv root)/versions/$version."*/bin/python 2>/dev/null
    fi
}

# find_interpreter: set INTERPRETER, and VENV to the folder of its environment.
find_interpreter() {
    INTERPRETER=$(interpreters | first usable) ||
        fail "no suitable Python (${PYTHON:-tried $(interpreters | tr '\n' ' ')}): install Python 3.10-3.12 for" \
            "MindSpore 2, or 3.7-3.9 for MindSpore 1.10, and name it in PYTHON"
    VENV=${GIVEN_VENV:-$ROOT/.venv}
    [ -n "$GIVEN_VENV" ] || [ -z "${PYTHON:-}" ] ||
        VENV=$VENV-$("$INTERPRETER" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
}

# environments: print the interpreters of environments that may exist, the best one first.
environments() {
    [ -n "$GIVEN_VENV" ] || case ${PYTHON:-} in
    '') active_interpreters ;;
    */*) printf '%s\n' "$PYTHON" ;;
    esac
    printf '%s\n' "$VENV/bin/python"
    interpreters
}

# choose_environment: set RUN_PYTHON to an interpreter that has MindSpore. If there is none, the program says so.
choose_environment() {
    VENV=${GIVEN_VENV:-$ROOT/.venv}
    [ -z "${PYTHON:-}" ] || find_interpreter
    RUN_PYTHON=$(environments | first has_mindspore) && return
    find_interpreter
    RUN_PYTHON=$INTERPRETER
}

# make_environment FILE: make a virtual environment with the requirements of FILE and set RUN_PYTHON.
# A stamp holds which requirements are installed. So a second run installs nothing.
make_environment() {
    find_interpreter
    RUN_PYTHON=$VENV/bin/python
    stamp=$VENV/installed-$1
    wanted=$({ cat "$ROOT"/requirements*.txt && echo "${PIP_CONSTRAINT:-}"; } | cksum)
    usable "$RUN_PYTHON" && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
    echo "installing $1 into $VENV"
    if ! usable "$RUN_PYTHON" || ! "$RUN_PYTHON" -m pip --version >/dev/null 2>&1; then     # absent, or only half made
        [ -f "$VENV/pyvenv.cfg" ] || [ -z "$(ls -A "$VENV" 2>/dev/null)" ] ||
            fail "$VENV is not empty and no environment with pip: choose another folder in VENV"
        "$INTERPRETER" -m venv --clear "$VENV" ||
            fail "no environment could be made in $VENV, see above: choose another folder in VENV, or install what" \
                "makes environments (Debian: python3-venv)"
    fi
    # PIP_USER: pip cannot install for the user and into an environment at once.
    PIP_USER=0 "$RUN_PYTHON" -m pip install --quiet --disable-pip-version-check -r "$ROOT/$1" ||
        fail "the requirements of $1 could not be installed into $VENV, see above: only wheels are installed, so" \
            "each package must have one for $("$RUN_PYTHON" --version) on $(uname -m)"
    echo "$wanted" >"$stamp"
}

# check_device_id TEXT: fail unless TEXT is a number.
check_device_id() {
    case $1 in '' | *[!0-9]*) fail "DEVICE_ID must be a number from 0, got '$1'" ;; esac
}
