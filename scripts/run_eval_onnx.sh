#!/bin/sh
# Evaluate an exported ONNX file with onnxruntime. The output is also appended to scripts/eval.log.
# Environment:
#   PLATFORM   GPU (the default): on a GPU if the installed onnxruntime can use one; CPU: on the CPU
#   LOG_DIR    another folder than scripts/ for the log
here=$(dirname -- "$(readlink -f -- "$0" || echo "$0")")    # $0 may be a link
# shellcheck source=scripts/common.sh
. "$here/common.sh"
if [ $# -lt 2 ]; then
    echo "usage: sh $0 DATA_DIR FILE.onnx [eval.py flags...]" >&2
    exit 2
fi
data_dir=$1 network=$2
shift 2
[ -d "$data_dir" ] || fail "DATA_DIR $data_dir is not a folder"
[ -f "$network" ] || fail "FILE.onnx $network is not a file"
case $network in *.onnx) ;; *) fail "$network does not end in .onnx: evaluate it by scripts/run_eval_for_gpu.sh" ;; esac
choose_environment
choose_log eval
run_logged "$RUN_PYTHON" "$ROOT/eval.py" --platform "$PLATFORM" --dataset_path "$data_dir" --checkpoint "$network" "$@"
