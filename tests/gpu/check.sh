#!/usr/bin/env bash
# What a machine with one GPU says of geoseg, in two parts of at most five minutes each.
#
#   tests/gpu/check.sh FOLDER           from a clone, in an environment with torch
#   SITE=site.tar.xz tests/gpu/check.sh FOLDER    packages that the machine lacks
#   MODELS="FOLDER …" tests/gpu/check.sh FOLDER    other models, which the second part
#                                      runs: those of `geoseg model import`, save_model
#
# The first call runs the tests and the table of the whole way, without compression and
# with LZW; the second, with the same FOLDER, a second start, every kind of answer,
# training, ZSTD, other networks, and the sweep of block and batch. A test that fails
# costs no figure. All of them are in FOLDER/check.json. Without a GPU both parts run
# small and slowly on the CPU, to try that they work.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
if [ -n "${SITE:-}" ] && [ ! -d "$out/site" ]; then
    mkdir "$out/site" && tar xJf "$SITE" -C "$out/site"
fi
export PYTHONPATH="$here:$here/tests/benchmarks:$out/site" PYTHONUNBUFFERED=1
export GEOSEG_CACHE_DIR="$out/cache"
models=()
for model in ${MODELS:-}; do models+=(--model "$(realpath "$model")"); done
cd "$here"
python3 - <<'END'
from importlib.util import find_spec
needed = "torch numba rasterio zarr dask distributed pydantic filelock hypothesis pytest"
needed += " psutil click segmentation_models_pytorch transformers torchvision lightning"
lacks = [name for name in needed.split() if find_spec(name) is None]
raise SystemExit(f"this machine lacks {', '.join(lacks)}: see SITE" if lacks else None)
END
if python3 -c 'import torch; raise SystemExit(not torch.cuda.is_available())'; then
    device=cuda sides=(32768 4096 16384) slower=1
else
    device=cpu sides=(1024 512 1024) slower=20
fi

within() { # SECONDS NAME COMMAND…: what there is no time for, or fails, is noted
    local seconds=$(($1 * slower)) name=$2 status=0
    shift 2
    timeout "$seconds" "$@" || status=$?
    echo "$status" >"$out/$name.status"
}

bench=tests/benchmarks
if [ ! -f "$out/whole.json" ]; then
    within 120 tests python3 -m pytest -q -p no:xdist -p no:cacheprovider -o addopts= \
        -W ignore -k "cuda or gpu" tests/inference/test_stream.py \
        tests/inference/test_stream_answers.py tests/gpu
    within 170 whole python3 $bench/bench_gpu.py --side "${sides[0]}" --peers \
        --stages --compress none,lzw --out "$out/whole.json"
else
    within 25 start python3 $bench/bench_gpu.py --start --out "$out/start.json"
    within 70 answers python3 $bench/bench_answers.py --device $device \
        --side "${sides[1]}" --out "$out/answers.json"
    within 45 train python3 $bench/bench_train.py $device "$out/train.json"
    within 155 sweep python3 $bench/bench_gpu.py --side "${sides[2]}" --compress zstd \
        --sweep --networks "${models[@]}" --out "$out/sweep.json"
fi
python3 - "$out" <<'END'
import json
import sys
from pathlib import Path

out = Path(sys.argv[1])
facts = {}
for name in ("tests", "whole", "start", "answers", "train", "sweep"):
    status, figures = out / f"{name}.status", out / f"{name}.json"
    if status.is_file():
        facts[name] = json.loads(figures.read_text()) if figures.is_file() else {}
        facts[name]["exit status"] = int(status.read_text())  # 124: no time was left
(out / "check.json").write_text(json.dumps(facts, indent=1))
print(f"{out}/check.json:", {name: told["exit status"] for name, told in facts.items()})
END
