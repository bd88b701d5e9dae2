#!/bin/sh
# Train on one device. The output is also appended to train.log in scripts/ and in ckpt_path.
# Environment:
#   LOG_DIR    another folder than scripts/ for the log
# SIGTERM (status 143), Ctrl-C (status 130) and a closed terminal save a checkpoint and end the training.
here=$(dirname -- "$(readlink -f -- "$0" || echo "$0")")    # $0 may be a link
# shellcheck source=scripts/common.sh
. "$here/common.sh"
if [ $# -lt 2 ]; then
    echo "usage: sh $0 DEVICE_ID DATA_DIR [train.py flags...]" >&2
    exit 2
fi
check_device_id "$1"
device_id=$1 data_dir=$2
shift 2
[ -d "$data_dir" ] || fail "DATA_DIR $data_dir is not a folder"
choose_environment
find_run_folder "$@"
choose_log train
run_logged "$RUN_PYTHON" "$ROOT/train.py" --platform "$PLATFORM" --device_id "$device_id" \
    --dataset_path "$data_dir" "$@"
