#!/bin/sh
# Evaluate a checkpoint on one device. The output is also appended to scripts/eval.log.
# Environment:
#   LOG_DIR    another folder than scripts/ for the log
here=$(dirname -- "$(readlink -f -- "$0" || echo "$0")")    # $0 may be a link
# shellcheck source=scripts/common.sh
. "$here/common.sh"
if [ $# -lt 3 ]; then
    echo "usage: sh $0 DEVICE_ID DATA_DIR PATH_CHECKPOINT [eval.py flags...]" >&2
    exit 2
fi
check_device_id "$1"
device_id=$1 data_dir=$2 checkpoint=$3
shift 3
[ -d "$data_dir" ] || fail "DATA_DIR $data_dir is not a folder"
[ -f "$checkpoint" ] || fail "PATH_CHECKPOINT $checkpoint is not a file"
choose_environment
choose_log eval
run_logged "$RUN_PYTHON" "$ROOT/eval.py" --platform "$PLATFORM" --device_id "$device_id" \
    --dataset_path "$data_dir" --checkpoint "$checkpoint" "$@"
