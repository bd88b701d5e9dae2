# The scripts beside this file source it. They run as `sh FILE` from any directory.
#
# The Python environment is .venv in the project's folder. PYTHON=INTERPRETER in the environment chooses another
# interpreter, and with it the environment .venv-X.Y of its version, so that both generations of the framework can be
# installed side by side. PLATFORM (GPU, CPU or Ascend; default GPU) becomes the flag --platform.

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
PLATFORM=${PLATFORM:-GPU}

# fail TEXT: print one sentence and end with status 2.
fail() {
    echo "error: $*" >&2
    exit 2
}

# usable INTERPRETER: whether it runs and a wheel of the framework exists for its version.
usable() {
    "$1" -c 'import sys; sys.exit(not (3, 7) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

# versions_of_pyenv X.Y: the interpreters X.Y* of pyenv, which its shims may refuse to run.
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

# make_environment FILE: makes a virtual environment with the requirements of FILE and sets RUN_PYTHON.
# A stamp holds which requirements are installed: a second run installs nothing, and a broken one starts over.
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

# choose_environment: sets RUN_PYTHON to the environment's Python, or to the interpreter if there is no environment.
choose_environment() {
    find_interpreter
    RUN_PYTHON=$VENV/bin/python
    [ -x "$RUN_PYTHON" ] || RUN_PYTHON=$INTERPRETER
}

# check_device_id TEXT: fails unless TEXT is a number.
check_device_id() {
    case $1 in '' | *[!0-9]*) fail "DEVICE_ID must be a number from 0, got '$1'" ;; esac
}

# run_logged FILE COMMAND...: runs a command in the foreground, shows its output, appends it to FILE, and returns the
# command's status. Signals are passed on as PASS_ON says. Then the command ends when it is ready to end.
PASS_ON='INT:INT TERM:TERM HUP:TERM'    # RECEIVED:SENT; a closed terminal (HUP) must not lose steps
run_logged() {
    log=$1
    shift
    if [ -t 1 ]; then   # the progress bar goes only to the terminal, and not into the log
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
    while :; do         # a trapped signal interrupts `wait` while the command still runs
        wait "$child"
        status=$?
        kill -0 "$child" 2>/dev/null || break
    done
    trap - INT TERM HUP
    wait "$reader"
    rm -r "$fifo"
    return "$status"
}
