#!/bin/sh
# Train data parallel on several GPUs. mpirun of Open MPI 4 or 5 starts one process (rank) for each GPU.
# Environment:
#   DEVICE_NUM            number of processes on all machines together (default 8)
#   CUDA_VISIBLE_DEVICES  the GPUs of this machine to use
#   HOSTFILE              a host file of Open MPI with one line `HOST slots=GPUS` for each machine; this folder must be
#                         at the same path on each machine
# PLATFORM=CPU DEVICE_NUM=2 runs without a GPU on this machine.
# Rank 0 shows its output and appends it to scripts/train.log. Rank N writes scripts/train_rankN.log on its machine.
# SIGTERM (status 143) and Ctrl-C (status 130) save a checkpoint and end all ranks. A second signal ends them at once.
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"
if [ $# -lt 1 ]; then
    echo "usage: sh $0 DATA_DIR [train.py flags...]" >&2
    exit 2
fi
data_dir=$1
shift
device_num=${DEVICE_NUM:-8}
case $device_num in '' | *[!0-9]* | 0*) fail "DEVICE_NUM must be a number from 1, got '$device_num'" ;; esac
[ -d "$data_dir" ] || fail "DATA_DIR $data_dir is not a folder"
if [ -n "${HOSTFILE:-}" ]; then
    [ -f "$HOSTFILE" ] || fail "HOSTFILE $HOSTFILE is not a file"
    slots=$(sed -n 's/^[^#]*[[:space:]]slots *= *\([0-9]*\).*/\1/p' "$HOSTFILE" |
        awk '{ sum += $1 } END { print sum + 0 }')
    [ "$slots" -ge "$device_num" ] ||
        fail "HOSTFILE $HOSTFILE has $slots slots, fewer than DEVICE_NUM $device_num: give each line slots=GPUS"
fi
command -v mpirun >/dev/null 2>&1 || fail 'mpirun is not installed: install Open MPI 4 or 5 (Debian: openmpi-bin)'
version=$(mpirun --version 2>/dev/null | head -n 1)
case $version in
*'(Open MPI) '[45].* | *'(Open MPI) '[45]) ;;
*) fail "mpirun is not of Open MPI 4 or 5 (it says '$version'): install that (Debian: openmpi-bin)" ;;
esac
choose_environment

# Ranks are not bound to one core each, because each decodes images in several threads.
set -- --quiet --bind-to none -n "$device_num" sh "$ROOT/scripts/rank.sh" "$RUN_PYTHON" "$ROOT/train.py" \
    --platform "$PLATFORM" --is_distributed True --dataset_path "$data_dir" "$@"
for name in CUDA_VISIBLE_DEVICES LD_LIBRARY_PATH CUDA_HOME PATH; do
    if [ -n "${HOSTFILE:-}" ] && eval "[ -n \"\${$name:-}\" ]"; then
        set -- -x "$name" "$@"
    fi
done
if [ -n "${HOSTFILE:-}" ]; then
    set -- --hostfile "$HOSTFILE" "$@"
else
    set -- --oversubscribe "$@"     # more ranks than cores are allowed
fi
[ "$(id -u)" != 0 ] || set -- --allow-run-as-root "$@"
# mpirun kills its ranks one second after SIGTERM or SIGINT, which is too short for a checkpoint. SIGUSR1 and SIGUSR2
# it only passes on. In a session of its own it does not get the terminal's Ctrl-C.
PASS_ON='INT:USR2 TERM:USR1 HUP:USR1'
run_logged "$ROOT/scripts/train.log" setsid mpirun "$@"
