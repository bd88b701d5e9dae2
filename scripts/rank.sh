#!/bin/sh
# One rank of run_distribute_train_for_gpu.sh; mpirun starts it. It runs a command and says which rank has failed. The
# output of rank 0 is shown, the output of the other ranks goes into a log.
rank=$OMPI_COMM_WORLD_RANK
log=$(dirname -- "$0")/train_rank$rank.log
trap : TERM USR1 USR2       # mpirun sends these to the command too; this script waits for it
if [ "$rank" = 0 ]; then
    PYTHONUNBUFFERED=1 "$@" &
else
    PYTHONUNBUFFERED=1 "$@" >>"$log" 2>&1 &
fi
child=$!
while :; do
    wait "$child" 2>/dev/null      # the shell must not report the signal
    status=$?
    kill -0 "$child" 2>/dev/null || break
done
case $status in
138) status=143 ;;      # SIGUSR1 or SIGUSR2 came before the program listened to them
140) status=130 ;;
esac
case $status in
0 | 130 | 143) ;;
13[0-9] | 14[0-9] | 15[0-9])
    echo "error: rank $rank on $(uname -n) was killed by signal $((status - 128)): start again with --resume auto" >&2
    ;;
*)
    if [ "$rank" != 0 ]; then
        sleep 3         # if all ranks fail alike, rank 0 says it and mpirun ends this rank meanwhile
        echo "error: rank $rank on $(uname -n) ended with status $status ($log): $(tail -n 1 "$log")" >&2
    fi
    ;;
esac
exit "$status"
