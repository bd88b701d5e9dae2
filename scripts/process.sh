# How the scripts run a program: its signals, its end and its log. common.sh and rank.sh source this file.

# run_logged makes the folder STATE for the time of its run. It holds:
#   output    the FIFO for the output of the program
#   alive     a FIFO that the script keeps open for writing: who reads it learns at once that the script has gone
#   stop      the exit status, written when a signal has asked for the end

# supervise AWAIT SIGNAL COMMAND...: run a command in the foreground and return its status. Meanwhile `child` is its
# process id. The function AWAIT returns when the process that a person or a scheduler stops has gone. If that happens
# while the command runs, the command gets SIGNAL.
supervise() {
    await=$1 last_signal=$2
    shift 2
    (
        exec 7>&- 8>&- 9>&-
        trap '' HUP         # the script sends SIGTERM for it
        [ ! -s "${STATE:+$STATE/stop}" ] || exit "$(cat "$STATE/stop")"
        PYTHONUNBUFFERED=1
        export PYTHONUNBUFFERED
        exec "$@"
    ) &
    child=$!
    end_after "$await" "$last_signal" "$child" &
    watcher=$!
    while :; do             # a trapped signal interrupts `wait` while the command still runs
        wait "$child" 2>/dev/null       # the shell must not report how the command ended
        code=$?
        kill -0 "$child" 2>/dev/null || break
    done
    child=
    { kill -KILL "$watcher"; wait "$watcher"; } 2>/dev/null
    return "$code"
}

# end_after AWAIT SIGNAL CHILD: when AWAIT has returned, send SIGNAL to CHILD, and SIGKILL a minute later.
end_after() {
    exec </dev/null >/dev/null 2>&1 3>&- 7>&- 8>&- 9>&-     # who waits for the output does not wait for this process
    trap '' INT TERM HUP USR1 USR2
    "$1"
    kill -"$2" "$3"
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        kill -0 "$3" || exit
        sleep 3
    done
    kill -KILL "$3"
}

# await_script: wait until the script has gone.
await_script() {
    # To open the FIFO also for writing does not wait, whether the script is still there or not.
    # shellcheck disable=SC2094
    command exec 7<>"$STATE/alive" 8<"$STATE/alive" 7>&- && read -r _ <&8
}

# signal_of STATUS: print the number of the signal that killed a command. It fails if no signal did, or one that asks a
# program to end.
signal_of() {
    case $1 in
    130 | 143) return 1 ;;
    129 | 13[0-9] | 14[0-9] | 15[0-9]) echo $(($1 - 128)) ;;
    *) return 1 ;;
    esac
}

# stop STATUS SIGNAL: the handler of a signal that asks for the end. The file comes first: a command that starts at this
# moment does not get the signal, but it finds the file.
stop() {
    echo "$1" >"$STATE/stop"
    [ -z "$child" ] || kill -"$2" "$child" 2>/dev/null
}

# choose_log NAME: set LOG to the file that the output is appended to, LOG_DIR/NAME.log. Two runs at once do not share
# it: the second one gets a log with its process id in the name.
choose_log() {
    LOG=$ROOT/scripts/$1.log
    note=
    if [ -n "${LOG_DIR:-}" ]; then
        mkdir -p "$LOG_DIR" 2>/dev/null
        LOG=$(CDPATH='' cd -- "$LOG_DIR" 2>/dev/null && pwd)/$1.log
        if [ ! -d "$LOG_DIR" ] || ! can_append "$LOG"; then
            fail "no log can be written into LOG_DIR $LOG_DIR: choose another folder"
        fi
    elif ! can_append "$LOG"; then
        note="$LOG cannot be written, so the log is $(pwd)/$1.log"
        LOG=$(pwd)/$1.log
        can_append "$LOG" ||
            fail "no log can be written into $ROOT/scripts or the working folder: set LOG_DIR to another folder"
    fi
    exec 9>>"$LOG"
    if command -v flock >/dev/null 2>&1; then
        flock -n 9 9>&9 2>/dev/null
        if [ $? = 1 ]; then         # another status says that this file system has no locks
            note="another run writes to $LOG, so the log is ${LOG%.log}-$$.log"
            LOG=${LOG%.log}-$$.log
        fi
    fi
}

# can_append FILE: whether FILE can be written to. It is made if it does not exist.
can_append() {
    (: >>"$1") 2>/dev/null
}

# run_logged COMMAND...: run a command in the foreground, show its output, append it to LOG, and return its status. The
# output goes through the function RECORDER. The command gets SEND_TERM for SIGTERM and for a closed terminal (SIGHUP),
# and SEND_INT for SIGINT. It ends when it is ready to end. If another signal kills it, a sentence says so of PROGRAM,
# unless PROGRAM is empty.
RECORDER=record SEND_TERM=TERM SEND_INT=INT PROGRAM='the program'
run_logged() {
    STATE=$(mktemp -d) || fail 'no temporary folder can be made: set TMPDIR to a folder that can be written'
    if ! mkfifo "$STATE/output" "$STATE/alive" 2>/dev/null; then
        rm -r "$STATE"
        fail "no FIFO can be made in $STATE: set TMPDIR to a folder on a disk of this machine"
    fi
    child=
    export STATE
    trap 'stop 130 "$SEND_INT"' INT
    trap 'stop 143 "$SEND_TERM"' TERM
    trap 'trap "" HUP; stop 143 "$SEND_TERM"' HUP       # the shell sends it and so does the kernel: one is enough
    if [ -t 1 ]; then       # the progress bar goes only to the terminal, and not into the log
        exec 3>&1
        PROGRESS_FD=3
        export PROGRESS_FD
    fi
    exec 7<>"$STATE/alive" 8<>"$STATE/output"       # also for reading, because then this does not wait for a reader
    (
        exec <"$STATE/output" 7>&- 8>&-
        trap '' INT TERM HUP QUIT PIPE      # the end of the output comes after the signal; tee inherits this
        "$RECORDER"
        rm -r "$STATE"
    ) &
    recorder=$!
    echo "=== $(date '+%Y-%m-%d %H:%M:%S'), process $$ on $(uname -n): $*${note:+
$note}" >&8
    supervise await_script "$SEND_TERM" "$@" >&8 2>&1
    code=$?
    if [ -n "$PROGRAM" ] && signal=$(signal_of "$code"); then
        echo "error: $PROGRAM was killed by signal $signal" >&8
    fi
    exec 7>&- 8>&-
    trap - INT TERM
    wait "$recorder"
    return "$code"
}

# record: show the input and append it to LOG. If RUN_FOLDER is set, append it also to RUN_FOLDER/train.log, but only
# after train.py has accepted the folder: a mistake writes nothing there.
record() {
    if [ -n "${RUN_FOLDER:-}" ]; then
        beginning=
        while IFS= read -r line || [ -n "$line" ]; do       # `read` leaves the lines after this one to tee
            printf '%s\n' "$line" 2>/dev/null       # the terminal may be gone
            printf '%s\n' "$line" >>"$LOG"
            beginning="$beginning$line
"
            case $line in
            'training on '*)        # train.py prints this after it has made the folder
                if [ -d "$RUN_FOLDER" ] && can_append "$RUN_FOLDER/train.log"; then
                    printf '%s' "$beginning" >>"$RUN_FOLDER/train.log"
                    set -- "$RUN_FOLDER/train.log"
                fi
                break
                ;;
            esac
        done
    fi
    tee -a "$LOG" "$@"
}

# find_run_folder FLAG...: set RUN_FOLDER to the folder that train.py takes for these flags. The last one counts.
find_run_folder() {
    RUN_FOLDER=checkpoint       # ckpt_path in src/config.py
    while [ $# -gt 0 ]; do
        case $1 in
        --ckpt_path) RUN_FOLDER=${2:-} ;;
        --ckpt_path=*) RUN_FOLDER=${1#*=} ;;
        esac
        shift
    done
    case $RUN_FOLDER in
    /*) ;;
    *) RUN_FOLDER=$(pwd)/$RUN_FOLDER ;;
    esac
}
