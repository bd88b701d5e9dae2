#!/bin/sh
# Makes the environment that the other scripts use, or completes it, and says which software for GPUs is here and what
# is missing. A second start installs nothing.
# Environment:
#   PYTHON    the interpreter to use, for example python3.9
#   VENV      another folder than .venv (.venv-X.Y with PYTHON) in the project's folder
# pip reads its own variables: PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER installs without a network from a folder of wheels,
# PIP_CONSTRAINT=constraints/X.Y.txt installs the versions that this file names.
here=$(dirname -- "$(readlink -f -- "$0" || echo "$0")")    # $0 may be a link
# shellcheck source=scripts/common.sh
. "$here/common.sh"
if [ $# -gt 0 ]; then
    echo "usage: sh $0" >&2
    exit 2
fi
make_environment requirements.txt
made=$RUN_PYTHON
echo "environment: $VENV ($("$made" --version))"
"$made" "$ROOT/tools/check_gpu.py" || exit
choose_environment
[ "$RUN_PYTHON" = "$made" ] ||
    echo "note: the scripts will use $RUN_PYTHON, because that environment is active and has MindSpore: leave it, or" \
        "set VENV=$VENV"
