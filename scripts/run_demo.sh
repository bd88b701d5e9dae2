#!/bin/sh
# Makes the environment and a few images, trains a small network on them, evaluates it and exports it, in minutes.
# Everything goes into demo/ and .venv/, or into demo/ in the working folder if the project's folder cannot be written,
# and VENV. PLATFORM is CPU here unless it is set.
PLATFORM=${PLATFORM:-CPU}
export PLATFORM
here=$(dirname -- "$(readlink -f -- "$0" || echo "$0")")    # $0 may be a link
# shellcheck source=scripts/common.sh
. "$here/common.sh"
make_environment requirements.txt
PYTHON=$RUN_PYTHON
export PYTHON
demo=$ROOT/demo
[ -w "$ROOT" ] || demo=$(pwd)/demo
data=$demo/data
run=$demo/run-$(date +%Y%m%d-%H%M%S)
set -e
if [ ! -d "$data" ]; then
    mkdir -p "$demo"
    rm -rf "$data.unfinished"
    "$RUN_PYTHON" "$ROOT/tools/make_demo_dataset.py" "$data.unfinished" >/dev/null
    mv "$data.unfinished" "$data"
fi
sh "$ROOT/scripts/run_standalone_train_for_gpu.sh" 0 "$data/train" --eval_dataset_path "$data/val" \
    --preset demo --ckpt_path "$run" "$@"
# shellcheck disable=SC2012   # the names are plain
checkpoint=$(ls -t "$run"/nasnet-a-mobile-rank0-*.ckpt | head -n 1)
sh "$ROOT/scripts/run_eval_for_gpu.sh" 0 "$data/val" "$checkpoint"
for format in MINDIR ONNX; do
    "$RUN_PYTHON" "$ROOT/export.py" --platform "$PLATFORM" --ckpt_file "$checkpoint" --file_format "$format" \
        --file_name "$run/nasnet-a-mobile"
done
echo "images: $data"
echo "checkpoints, metrics.csv, classes.txt, train.log, exported network: $run"
