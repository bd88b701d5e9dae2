#!/bin/sh
# Run the tests: sh scripts/run_tests.sh [pytest arguments...]
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"
make_environment requirements-test.txt
cd "$ROOT" && exec "$RUN_PYTHON" -m pytest "$@"
