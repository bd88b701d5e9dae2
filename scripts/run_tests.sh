#!/bin/sh
# Run the tests, two at once: sh scripts/run_tests.sh [pytest arguments...]
# Most tests keep one core busy and need up to 3 GB. `-n 8` as an argument runs eight at once, `-n 0` one after another.
here=$(dirname -- "$(readlink -f -- "$0" || echo "$0")")    # $0 may be a link
# shellcheck source=scripts/common.sh
. "$here/common.sh"
make_environment requirements-test.txt
cd "$ROOT" && exec "$RUN_PYTHON" -m pytest -n 2 --dist loadfile "$@"
