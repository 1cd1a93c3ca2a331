#!/usr/bin/env bash
# What a machine with one GPU says of geoseg, in two parts of at most five minutes each.
#
#   tests/gpu/check.sh FOLDER           from a clone, in an environment with torch
#   SITE=site.tar.xz tests/gpu/check.sh FOLDER    packages that the machine lacks
#   MODELS="FOLDER …" tests/gpu/check.sh FOLDER    other models, which the second part
#                                      runs: those of `geoseg model import`, save_model
#
# The first call runs the tests and the table of the whole way, without compression and
# with LZW; the second, with the same FOLDER, every kind of answer, ZSTD, other networks,
# and the sweep of block and batch. Figures are in FOLDER/*.json.
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
needed += " psutil click segmentation_models_pytorch transformers torchvision"
lacks = [name for name in needed.split() if find_spec(name) is None]
raise SystemExit(f"this machine lacks {', '.join(lacks)}: see SITE" if lacks else None)
END
if [ ! -f "$out/whole.json" ]; then
    timeout 120 python3 -m pytest -q -n0 -p no:cacheprovider -o addopts= -W ignore \
        -k "cuda or gpu" tests/inference/test_stream.py \
        tests/inference/test_stream_answers.py tests/gpu
    timeout 170 python3 tests/benchmarks/bench_gpu.py --side 32768 --peers \
        --stages --compress none,lzw --out "$out/whole.json"
else
    # What there was no time for is left out; the figures before it are in the file.
    timeout 85 python3 tests/benchmarks/bench_answers.py --side 4096 \
        --out "$out/answers.json" || [ $? = 124 ]
    timeout 205 python3 tests/benchmarks/bench_gpu.py --side 16384 --compress zstd \
        --sweep --networks "${models[@]}" --out "$out/sweep.json" || [ $? = 124 ]
fi
