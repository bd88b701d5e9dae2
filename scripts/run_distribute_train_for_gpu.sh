#!/bin/sh
# Train data parallel on several GPUs. mpirun of Open MPI 4 or 5 starts one process (rank) for each GPU.
# Environment:
#   DEVICE_NUM            number of processes on all machines together (default 8)
#   CUDA_VISIBLE_DEVICES  the GPUs of this machine to use
#   HOSTFILE              a host file of Open MPI with one line `HOST slots=GPUS` for each machine; this folder must be
#                         at the same path on each machine
#   MPIRUN_FLAGS          more flags for mpirun
#   LOG_DIR               another folder than scripts/ for the logs
# PLATFORM=CPU DEVICE_NUM=2 runs without a GPU on this machine.
# Rank 0 shows its output and appends it to train.log in scripts/ and in ckpt_path. Rank N writes
# scripts/train_rankN.log on its machine.
# SIGTERM (status 143), Ctrl-C (status 130) and a closed terminal save a checkpoint and end all ranks. A second signal
# ends them at once.
here=$(dirname -- "$(readlink -f -- "$0" || echo "$0")")    # $0 may be a link
# shellcheck source=scripts/common.sh
. "$here/common.sh"
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
    if grep -q "$(printf '\r')" "$HOSTFILE"; then
        fail "HOSTFILE $HOSTFILE has line ends of Windows, which mpirun does not read: save it with line ends of Unix"
    fi
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

# forwarded: print the names of the variables that the ranks on other machines need too.
forwarded() {
    awk 'BEGIN {
        for (name in ENVIRON)
            if (name ~ /^(NCCL|MS|OMP|ONEDNN)_[A-Za-z0-9_]+$/ ||
                name ~ /^(CUDA_VISIBLE_DEVICES|CUDA_HOME|LD_LIBRARY_PATH|PATH)$/ ||
                name ~ /^(GLOG_v|XDG_CACHE_HOME|NVIDIA_TF32_OVERRIDE)$/) print name
    }' | sort
}

# record_ranks: record the input without what mpirun says about the status of a rank. rank.sh says it better, and an end
# that a signal has asked for is no mistake. The lines are matched one by one, because the output of a rank may come
# between them. All other words of mpirun stay.
# shellcheck disable=SC2329   # run_logged calls it
record_ranks() {
    {
        dropped=
        while IFS= read -r line || [ -n "$line" ]; do
            case $line in
            'mpirun: Forwarding signal '* | -----* | 'Primary job  terminated normally, but '* | \
                'a non-zero exit code. Per user-direction, the job has been aborted.' | \
                *' detected that one or more processes exited with non-zero status, thus causing' | \
                'the job to be terminated. The first process to do so was:' | \
                '  '*'Process name: ['* | '  '*'Exit code:    '[0-9]*)
                dropped=yes
                continue
                ;;
            '') [ -z "$dropped" ] || continue ;;
            *) dropped= ;;
            esac
            printf '%s\n' "$line"
        done
    } | record
}

choose_environment
find_run_folder "$@"
choose_log train
set -- sh "$ROOT/scripts/rank.sh" "${LOG%.log}" "$RUN_PYTHON" "$ROOT/train.py" --platform "$PLATFORM" \
    --is_distributed True --dataset_path "$data_dir" "$@"
set -f
# shellcheck disable=SC2086   # these are several words
set -- -n "$device_num" ${MPIRUN_FLAGS:-} "$@"
set +f
if [ -n "${HOSTFILE:-}" ]; then
    for name in $(forwarded); do
        set -- -x "$name" "$@"
    done
    set -- --hostfile "$HOSTFILE" "$@"
else
    set -- --oversubscribe "$@"     # more ranks than cores are allowed
fi
# A rank is not bound to one core, because it decodes images in several threads.
case " ${MPIRUN_FLAGS:-} " in *' --bind-to '*) ;; *) set -- --bind-to none "$@" ;; esac
[ "$(id -u)" != 0 ] || set -- --allow-run-as-root "$@"
# mpirun kills its ranks one second after SIGTERM or SIGINT, which is too short for a checkpoint. SIGUSR1 and SIGUSR2
# it only passes on. In a session of its own it does not get the Ctrl-C of the terminal. PROGRAM is empty: rank.sh says
# which rank a signal has killed.
RECORDER=record_ranks SEND_TERM=USR1 SEND_INT=USR2 PROGRAM=
run_logged setsid mpirun "$@"
code=$?
case $code in
138) exit 143 ;;        # the signal came before mpirun listened to it
140) exit 130 ;;
esac
exit "$code"
