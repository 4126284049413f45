#!/usr/bin/env bash
# Tests everything here that can be tested without a phone, in less than ten minutes:
#
#   python3 -m venv .venv-test && .venv-test/bin/pip install -q -e ".[test]"
#   PYTHON=.venv-test/bin/python tflite/test_all.sh [PART ...]
#
# Parts: scripts native java arm trials apk web golden gate (all, if none is named). What is built
# or fetched is kept in tflite/build and tflite/web/node_modules. A part whose tools are
# missing is skipped and says why; README.md names the Debian packages. Exit status: 1 if a
# part failed.
set -uo pipefail
python=${PYTHON:-python3}
[[ $python != */* ]] || python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
export PYTHON=$python
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PARTS=(scripts native java arm trials apk web golden gate)
MEGABYTE=1000000
build=$PWD/tflite/build
export KERAS_BACKEND=tensorflow CUDA_VISIBLE_DEVICES=-1 TF_CPP_MIN_LOG_LEVEL=3 COLUMNS=120

skip() {
  echo "skipped: $*" >&2
  return 3
}

need() {
  local tool
  for tool in "$@"; do
    command -v "$tool" > /dev/null || { skip "$tool is missing"; return 3; }
  done
}

tests() { "$python" -m pytest -q -rs "$@"; }

# Folders of cases for all methods, made anew in every run.
golden_folders() {
  [ -d "$build/golden" ] && return
  "$python" -m tests.tflite.golden_files "$build/golden" > /dev/null
}

scripts() {
  tests tests/tflite --ignore=tests/tflite/test_golden.py --ignore=tests/tflite/test_native.py \
    --ignore=tests/tflite/test_trials_elsewhere.py
}

native() {
  need cmake cc || return
  cmake -S tflite/native -B "$build/native" -DSTRICT=ON > /dev/null &&
    cmake --build "$build/native" > /dev/null && tests tests/tflite/test_native*.py
}

java() {
  need javac java cmake cc || return
  tflite/android/desktop/check.sh build && golden_folders &&
    tflite/android/desktop/check.sh model "$build/golden"
}

arm() {
  golden_folders && "$python" tflite/arm/emulate.py golden "$build"/golden/*-{float32,int8}
}

# After native, java and arm, which build and fetch.
trials() { tests tests/tflite/test_trials_elsewhere.py; }

pictures() {
  mkdir -p "$build/pictures"
  "$python" - "$build/pictures" << 'PYTHON'
import sys

import numpy as np
from PIL import Image

for seed in range(3):
    pixels = np.random.default_rng(seed).integers(0, 256, (240, 320, 3), np.uint8)
    Image.fromarray(pixels).save(f"{sys.argv[1]}/{seed}.jpg")
PYTHON
}

# With a model of more than a megabyte; its size is the figure.
apk() {
  golden_folders && pictures || return
  tflite/android/build_offline.sh "$build/golden/anytime-float32/model.tflite" \
    "$build/pictures" "$build/app.apk" || return
  local size
  size=$(stat -c %s "$build/app.apk")
  echo "APK: $size bytes; at most 20 MB"
  ((size <= 20 * MEGABYTE))
}

web() {
  need node npm || return
  (cd tflite/web && { [ -d node_modules ] || npm ci --silent; } && npm test --silent) ||
    return
  need "${CHROMIUM:-chromium}" || return
  golden_folders && pictures &&
    node tflite/web/browser.mjs --model "$build/golden/gated-float32/model.tflite" \
      --picture "$build/pictures/0.jpg" --screenshot "$build/page.png"
}

golden() { tests tests/tflite/test_golden.py; }

# Instructions are the same from run to run, so limits can be tight.
gate() {
  "$python" tflite/arm/emulate.py gated --rates 1,0.5,0.25 --at_most 1.05,0.56,0.32 &&
    "$python" tflite/arm/emulate.py gated --stem cifar --quantization dynamic \
      --rates 1,0.5,0.25 --at_most 1.13,0.60,0.36
}

wanted=("$@")
[ $# -gt 0 ] || wanted=("${PARTS[@]}")
for part in "${wanted[@]}"; do
  [[ " ${PARTS[*]} " == *" $part "* ]] ||
    { echo "A part must be one of: ${PARTS[*]}. Received: $part" >&2; exit 2; }
done
"$python" -c 'import keras_dyngate, tensorflow, ai_edge_litert, pytest' ||
  { echo "PYTHON must have keras_dyngate[test] installed. Received: $python" >&2; exit 1; }
LITERT_LIBRARY=$("$python" -c 'import ai_edge_litert as a; print(list(a.__path__)[0])')/libLiteRt.so
export LITERT_LIBRARY
rm -rf "$build/golden"
failed=0 summary=()
for part in "${wanted[@]}"; do
  echo "== $part"
  start=$SECONDS
  "$part"
  status=$?
  case $status in
    0) verdict=passed ;;
    3) verdict=skipped ;;
    *) verdict="FAILED (status $status)" failed=1 ;;
  esac
  summary+=("$(printf '%-8s %4d s  %s' "$part" $((SECONDS - start)) "$verdict")")
done
printf '%s\n' "== summary" "${summary[@]}" "$SECONDS s in all"
exit $failed
