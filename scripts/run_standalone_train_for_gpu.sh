#!/bin/sh
# Train on one device. The output is also appended to scripts/train.log.
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"
if [ $# -lt 2 ]; then
    echo "usage: sh $0 DEVICE_ID DATA_DIR [train.py flags...]" >&2
    exit 2
fi
check_device_id "$1"
device_id=$1 data_dir=$2
shift 2
[ -d "$data_dir" ] || fail "DATA_DIR $data_dir is not a folder"
choose_environment
run_logged "$ROOT/scripts/train.log" "$RUN_PYTHON" "$ROOT/train.py" --platform "$PLATFORM" \
    --device_id "$device_id" --dataset_path "$data_dir" "$@"
