#!/usr/bin/env bash
# The training step of overmask-export beside PyTorch's, measured in turns in one run.
#
#   benches/step.sh                     # threads 1 and 2, masks of both granularities and the whole encoder; about 12 minutes
#   benches/step.sh --rounds 2 --steps 4 --threads 1 --granularity block:32x1
#   benches/step.sh --setup-only        # only PyTorch; prints the Python to use
#
# Options go to benches/compare_steps.py (see its --help). PyTorch comes by pip into a virtual environment
# under the target directory the first time (a large download; the tests never need it).
#
# Environment:
#   BASE       base bundle (default: the demo's, TARGET/demo/base)
#   EXPORTER   the overmask-export to time (default: built here, release)
#   PYTHON     a Python that already has torch and safetensors (default: the virtual environment)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
target=${CARGO_TARGET_DIR:-$root/target}
requirements=$root/benches/requirements.txt

fail() {
    echo "step.sh: $1" >&2
    exit "${2:-1}"
}

# Sets $python to one with torch; everything is said on stderr.
find_python() {
    if [[ -n ${PYTHON:-} ]]; then
        python=$PYTHON
        "$python" -c 'import torch, safetensors' ||
            fail "PYTHON=$PYTHON has no torch and safetensors: install them there or unset PYTHON" 7
        return
    fi
    local version venv
    version=$(sed -n 's/^torch==//p' "$requirements")
    venv=$target/torch-$version
    python=$venv/bin/python
    # The copy is made last, so that an interrupted set-up starts again, and so does one of other versions.
    if ! cmp -s "$requirements" "$venv/ready"; then
        command -v python3 >/dev/null ||
            fail "python3 is missing: apt-get install python3 python3-venv python3-pip" 7
        echo "installing PyTorch $version into $venv" >&2
        python3 -m venv "$venv" >&2 ||
            fail "no virtual environment could be made: apt-get install python3-venv" 7
        "$python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2 ||
            fail "pip could not install torch; set PYTHON to a Python that has it" 7
        cp "$requirements" "$venv/ready"
    fi
}

if [[ ${1:-} == --setup-only ]]; then
    find_python
    echo "$python"
    exit 0
fi

base=${BASE:-$target/demo/base}
[[ -e $base/base.json ]] ||
    fail "no base bundle in $base: run 'cargo xtask demo' first, or set BASE" 3
if [[ -z ${EXPORTER:-} ]]; then
    cargo build --release --quiet
    EXPORTER=$target/release/overmask-export
fi
find_python
exec "$python" benches/compare_steps.py --exporter "$EXPORTER" --base "$base" \
    --output "$target/bench/step.json" "$@"
