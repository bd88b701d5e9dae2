#!/bin/sh
# Train on several devices of this machine, data parallel, started by mpirun; the log is scripts/train.log.
# DEVICE_NUM (default 8) in the environment is the number of processes.
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"
if [ $# -lt 1 ]; then
    echo "usage: sh $0 DATA_DIR [train.py flags...]" >&2
    exit 2
fi
data_dir=$1
shift
device_num=${DEVICE_NUM:-8}
case $device_num in '' | *[!0-9]* | 0) fail "DEVICE_NUM must be a number from 1, got '$device_num'" ;; esac
[ -d "$data_dir" ] || fail "DATA_DIR $data_dir is not a folder"
command -v mpirun >/dev/null 2>&1 || fail 'mpirun is not installed: install Open MPI 4'
choose_environment
root_flag=
[ "$(id -u)" != 0 ] || root_flag=--allow-run-as-root
# shellcheck disable=SC2086
run_logged "$ROOT/scripts/train.log" mpirun $root_flag -n "$device_num" "$RUN_PYTHON" "$ROOT/train.py" \
    --platform "$PLATFORM" --is_distributed True --dataset_path "$data_dir" "$@"
