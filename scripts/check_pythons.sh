#!/bin/sh
# Tries the project with each version of Python that it promises and that is found: makes a new environment, runs the
# tests marked `smoke` in it, removes it, and prints a row of a table. The status is 0 if all of them passed.
# usage: sh scripts/check_pythons.sh [VERSION...]       for example 3.7 3.12; these must be found
# Environment:
#   CONSTRAINTS=use      installs the versions of constraints/X.Y.txt instead of the newest ones that fit
#   CONSTRAINTS=write    writes the versions that were installed into constraints/X.Y.txt if the tests pass
#   VENV                 another folder than the project's for the environments, each of which takes up to 5 GB
here=$(dirname -- "$(readlink -f -- "$0" || echo "$0")")    # $0 may be a link
# shellcheck source=scripts/common.sh
. "$here/common.sh"
case ${CONSTRAINTS:-} in '' | use | write) ;; *) fail "CONSTRAINTS must be use or write, got '$CONSTRAINTS'" ;; esac
for version in "$@"; do
    case $version in 3.[789] | 3.1[012]) ;; *) fail "VERSION must be 3.7 to 3.12, got '$version'" ;; esac
done
folder=${GIVEN_VENV:-$ROOT}
mkdir -p "$folder"
work=$(mktemp -d "$folder/.venv-check-XXXXXX") || fail "no folder can be made in $folder: set VENV to another folder"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# find_version VERSION: set PYTHON and INTERPRETER for python3.X. Its status says whether there is one.
find_version() {
    PYTHON=python$1
    INTERPRETER=$(interpreters | first usable)
}

# version_of NAME: print which version of a distribution the environment has.
version_of() {
    "$work/$version/bin/python" -m pip list --format=freeze 2>/dev/null | sed -n "s/^$1==//p"
}

# try: make an environment for VERSION and run the tests in it. It writes what the row of the table needs.
try() {
    GIVEN_VENV=$work/$version
    constraints=constraints/$version.txt        # relative, because pip takes no space in this variable
    cd "$ROOT" || exit
    [ "${CONSTRAINTS:-}" != use ] || { PIP_CONSTRAINT=$constraints && export PIP_CONSTRAINT; }
    start=$(date +%s)
    make_environment requirements-test.txt
    installed=$(date +%s)
    echo "$((installed - start)) s | not run | failed" >"$work/row"
    "$RUN_PYTHON" -m pytest -m smoke && result=passed || result=failed
    echo "$((installed - start)) s | $(($(date +%s) - installed)) s | $result" >"$work/row"
    [ "$result" = passed ] || exit 1
    if [ "${CONSTRAINTS:-}" = write ]; then
        mkdir -p constraints
        {
            echo '# Fixed versions for requirements-test.txt. docs/installation.md says how to write this file again.'
            "$RUN_PYTHON" -m pip freeze
        } >"$work/freeze" && mv "$work/freeze" "$constraints"
    fi
}

failed=0
: >"$work/table"
[ $# -gt 0 ] && wanted=$* || wanted='3.7 3.8 3.9 3.10 3.11 3.12'
for version in $wanted; do
    if ! find_version "$version"; then
        [ $# -eq 0 ] || failed=1
        echo "| $version | not found | | | | |" >>"$work/table"
        continue
    fi
    echo "== Python $version: $INTERPRETER"
    echo "not installed | not run | failed" >"$work/row"
    (try) || failed=1
    echo "| $version | $(version_of 'mindspore[-_a-z]*') | $(version_of numpy) | $(cat "$work/row") |" >>"$work/table"
    rm -rf "${work:?}/$version"
done
echo '| Python | MindSpore | NumPy | installed in | tests in | result |'
echo '|---|---|---|---|---|---|'
cat "$work/table"
exit $failed
