#!/bin/sh
# One rank of run_distribute_train_for_gpu.sh; mpirun starts it: sh rank.sh LOG COMMAND... It runs a command and says
# which rank has failed. The output of rank 0 is shown. Rank N appends its output to LOG_rankN.log.
# shellcheck source=scripts/process.sh
. "$(dirname -- "$0")/process.sh"

# await_mpirun: wait until mpirun has gone.
# shellcheck disable=SC2329   # supervise calls it
await_mpirun() {
    while kill -0 "$PPID"; do sleep 2; done
}

rank=$OMPI_COMM_WORLD_RANK
log=$1_rank$rank.log
shift
trap : TERM USR1 USR2       # mpirun sends these to the command too; this script waits for it
if [ "$rank" = 0 ]; then
    log=
elif ! can_append "$log"; then
    echo "warning: rank $rank on $(uname -n) cannot write $log: its output is shown here" >&2
    log=
fi
if [ -z "$log" ]; then
    supervise await_mpirun TERM "$@" >&2     # one stream keeps the order, and it is no terminal, as stdout may be
else
    echo "=== $(date '+%Y-%m-%d %H:%M:%S'), rank $rank, process $$ on $(uname -n): $*" >>"$log"
    supervise await_mpirun TERM "$@" >>"$log" 2>&1
fi
code=$?
case $code in
138) code=143 ;;      # SIGUSR1 or SIGUSR2 came before the program listened to them
140) code=130 ;;
esac
if signal=$(signal_of "$code"); then
    echo "error: rank $rank on $(uname -n) was killed by signal $signal: start again with --resume auto" >&2
elif [ -n "$log" ] && [ "$code" != 0 ] && [ "$code" != 143 ] && [ "$code" != 130 ]; then
    trap '' TERM
    sleep 3             # if all ranks fail alike, rank 0 says it, and mpirun kills this rank meanwhile
    echo "error: rank $rank on $(uname -n) ended with status $code ($log): $(tail -n 1 "$log")" >&2
fi
exit "$code"
