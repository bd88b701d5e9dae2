# Sourced by the scripts beside it, which run as `sh FILE` from any directory.
#
# The Python environment is .venv in the project's folder. PYTHON=INTERPRETER in the environment chooses
# another interpreter and the environment .venv-X.Y of its version, so that both framework generations can
# live side by side. PLATFORM (GPU, CPU or Ascend; default GPU) is what --platform is set to.

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
PLATFORM=${PLATFORM:-GPU}

# fail TEXT: one sentence, status 2.
fail() {
    echo "error: $*" >&2
    exit 2
}

# usable INTERPRETER: it runs and one of the framework's wheels exists for it.
usable() {
    "$1" -c 'import sys; sys.exit(not (3, 7) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

# versions_of_pyenv X.Y: the interpreters X.Y* that pyenv holds, which its shims may refuse to run.
versions_of_pyenv() {
    command -v pyenv >/dev/null 2>&1 && ls -d "$(pyenv root)/versions/$1"*/bin/python 2>/dev/null
}

# find_interpreter: sets INTERPRETER and VENV.
find_interpreter() {
    if [ -n "${PYTHON:-}" ]; then
        candidates=$PYTHON
        version=$(expr "$PYTHON" : '.*python\(3\.[0-9]*\)$') && candidates="$PYTHON $(versions_of_pyenv "$version.")"
    else
        candidates='python3.11 python3.12 python3.10 python3 python python3.9 python3.8 python3.7'
    fi
    for INTERPRETER in $candidates; do
        if usable "$INTERPRETER"; then
            VENV=$ROOT/.venv
            [ -z "${PYTHON:-}" ] ||
                VENV=$VENV-$("$INTERPRETER" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
            return
        fi
    done
    fail "no suitable Python (${PYTHON:-tried $candidates}): install Python 3.10-3.12 for MindSpore 2, or" \
        "3.7-3.9 for MindSpore 1.10, and name it in PYTHON"
}

# make_environment FILE: a virtual environment with the requirements of FILE; sets RUN_PYTHON.
# A stamp says which requirements are in, so a second run installs nothing and a broken one starts over.
make_environment() {
    find_interpreter
    RUN_PYTHON=$VENV/bin/python
    stamp=$VENV/installed-$1
    wanted=$(cat "$ROOT"/requirements*.txt | cksum)
    if [ ! -x "$RUN_PYTHON" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing $1 into $VENV"
        if ! "$INTERPRETER" -m venv "$VENV" ||
            ! "$RUN_PYTHON" -m pip install --quiet --disable-pip-version-check -r "$ROOT/$1"; then
            fail "the requirements of $1 could not be installed into $VENV: see the message above"
        fi
        echo "$wanted" >"$stamp"
    fi
}

# choose_environment: the environment if it was made, else the interpreter as it is; sets RUN_PYTHON.
choose_environment() {
    find_interpreter
    RUN_PYTHON=$VENV/bin/python
    [ -x "$RUN_PYTHON" ] || RUN_PYTHON=$INTERPRETER
}

# check_device_id TEXT
check_device_id() {
    case $1 in '' | *[!0-9]*) fail "DEVICE_ID must be a number from 0, got '$1'" ;; esac
}

# run_logged FILE COMMAND...: run in the foreground, show the output and append it to FILE; returns the
# command's status. Signals are passed on, as PASS_ON says, and the command may end in its own time.
PASS_ON='INT:INT TERM:TERM HUP:TERM'     # a closed terminal is to lose nothing
run_logged() {
    log=$1
    shift
    if [ -t 1 ]; then   # the progress bar goes to the terminal alone, lines to the log as well
        exec 3>&1
        PROGRESS_FD=3
        export PROGRESS_FD
    fi
    fifo=$(mktemp -d) || fail 'no temporary folder can be made: set TMPDIR'
    mkfifo "$fifo/output"
    tee -a "$log" <"$fifo/output" &
    reader=$!
    PYTHONUNBUFFERED=1 "$@" >"$fifo/output" 2>&1 &
    child=$!
    for pair in $PASS_ON; do
        # shellcheck disable=SC2064
        trap "kill -${pair#*:} $child 2>/dev/null" "${pair%:*}"
    done
    while :; do         # a trapped signal ends `wait` before the command has ended
        wait "$child"
        status=$?
        kill -0 "$child" 2>/dev/null || break
    done
    trap - INT TERM HUP
    wait "$reader"
    rm -r "$fifo"
    return "$status"
}
