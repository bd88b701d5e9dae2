#!/bin/sh
# One rank of run_distribute_train_for_gpu.sh, started by mpirun: runs a command, its output in a log unless it is
# rank 0, and says which rank it was that failed.
rank=$OMPI_COMM_WORLD_RANK
log=$(dirname -- "$0")/train_rank$rank.log
trap : TERM USR1 USR2       # these reach the command too, and this waits for it
if [ "$rank" = 0 ]; then
    PYTHONUNBUFFERED=1 "$@" &
else
    PYTHONUNBUFFERED=1 "$@" >>"$log" 2>&1 &
fi
child=$!
while :; do
    wait "$child" 2>/dev/null      # without the shell's word on a signal
    status=$?
    kill -0 "$child" 2>/dev/null || break
done
case $status in
138) status=143 ;;      # SIGUSR1 and SIGUSR2 before the program listened to them
140) status=130 ;;
esac
case $status in
0 | 130 | 143) ;;
13[0-9] | 14[0-9] | 15[0-9])
    echo "error: rank $rank on $(uname -n) was killed by signal $((status - 128)): start again with --resume auto" >&2
    ;;
*)
    if [ "$rank" != 0 ]; then
        sleep 3         # what is wrong on every rank is said by rank 0, and mpirun ends this one
        echo "error: rank $rank on $(uname -n) ended with status $status ($log): $(tail -n 1 "$log")" >&2
    fi
    ;;
esac
exit "$status"
