#!/bin/sh
# Run the tests: sh scripts/run_tests.sh [pytest arguments...]
here=$(dirname -- "$(readlink -f -- "$0" || echo "$0")")    # $0 may be a link
# shellcheck source=scripts/common.sh
. "$here/common.sh"
make_environment requirements-test.txt
cd "$ROOT" && exec "$RUN_PYTHON" -m pytest "$@"
