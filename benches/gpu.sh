#!/usr/bin/env bash
# Checks training on an NVIDIA GPU and measures its step beside PyTorch's.
#
#   benches/gpu.sh                      # everything; prints Markdown for docs/performance.md
#
# It trains a task for 300 steps with --device cuda and again on the CPU and compares the losses, in f32 and in
# 16 bits; checks that ONNX Runtime placed every node of the step graph but shape arithmetic on the GPU; times the
# step with both granularities and of the whole encoder, beside PyTorch's, eager and through torch.compile, where
# a PyTorch with CUDA can be had.
#
# It needs an NVIDIA driver for CUDA 13, cargo, and either pip or the libraries already unpacked. Environment:
#   ORT_GPU_DIR   directory that holds libonnxruntime.so.* and its CUDA provider library
#                 (default: onnxruntime-gpu, by pip)
#   CUDA_LIB_DIRS colon-separated directories of the CUDA 13 and cuDNN 9 libraries (default: by pip with
#                 onnxruntime-gpu; with ORT_GPU_DIR set: whatever the loader finds)
#   BASE          base bundle (default: the demo's, else fetched and imported here)
#   DATA          training texts (default: TREC, fetched here)
#   EXPORTER      the overmask-export to run (default: built here, release)
#   PYTHON        a Python whose torch has CUDA (default: benches/step.sh sets one up; "none": skip PyTorch)
#   STEPS         training steps (default 300, at most what 3 epochs of DATA have)
#   THREADS       CPU threads (default: all, at most 8)
#
# Exit codes: 0 all checks passed, 1 a check failed, 2 a wrong STEPS, 3 no base or data, 7 no GPU or a library is
# missing.
set -euo pipefail

ORT_VERSION=1.31.1

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
target=${CARGO_TARGET_DIR:-$root/target}
work=$target/gpu
steps=${STEPS:-300}
cpus=$(nproc)
threads=${THREADS:-$((cpus < 8 ? cpus : 8))}
granularities=(weight block:32x1)
failures=0

say() { echo "gpu.sh: $*" >&2; }
fail() {
    say "$1"
    exit "${2:-1}"
}

# --- the GPU ------------------------------------------------------------------------------------------------

command -v nvidia-smi >/dev/null ||
    fail "no NVIDIA GPU: nvidia-smi is not on the path (a driver for CUDA 13 brings it). Nothing was measured." 7
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1) || gpu=
[[ -n $gpu ]] ||
    fail "no NVIDIA GPU: nvidia-smi lists none (see what it prints by itself). Nothing was measured." 7
[[ $steps =~ ^[0-9]+$ && $steps -ge 25 ]] || fail "STEPS must be a number of at least 25, not '$steps'" 2
mkdir -p "$work"

# --- ONNX Runtime and the CUDA libraries --------------------------------------------------------------------

how_to_get() {
    cat >&2 <<EOF
gpu.sh: to bring them on a machine with pip (about 2 GB):
    python3 -m pip install --only-binary=:all: --target DIR 'onnxruntime-gpu[cuda,cudnn]==$ORT_VERSION' nvidia-cublas
then copy DIR here and run:
    ORT_GPU_DIR=DIR/onnxruntime/capi \\
    CUDA_LIB_DIRS=\$(find DIR/nvidia -type d -name lib | paste -sd:) benches/gpu.sh
EOF
}

cuda_lib_dirs=${CUDA_LIB_DIRS:-}
if [[ -z ${ORT_GPU_DIR:-} ]]; then
    libraries=$work/onnxruntime-gpu-$ORT_VERSION
    # The stamp is written last, so that an interrupted download starts again.
    if [[ ! -e $libraries/ready ]]; then
        if ! python3 -m pip --version >/dev/null 2>&1; then
            say "missing: onnxruntime-gpu $ORT_VERSION and the CUDA 13 libraries, and pip to fetch them"
            say "(apt-get install python3-pip)"
            how_to_get
            exit 7
        fi
        say "fetching onnxruntime-gpu $ORT_VERSION and the CUDA libraries by pip into $libraries"
        rm -rf "$libraries"
        python3 -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
            --target "$libraries" "onnxruntime-gpu[cuda,cudnn]==$ORT_VERSION" nvidia-cublas >&2 || {
            say "pip could not install onnxruntime-gpu $ORT_VERSION"
            how_to_get
            exit 7
        }
        touch "$libraries/ready"
    fi
    ORT_GPU_DIR=$libraries/onnxruntime/capi
    [[ -n $cuda_lib_dirs ]] ||
        cuda_lib_dirs=$(find "$libraries/nvidia" -type d -name lib | sort | paste -sd:)
fi
library=$(find "$ORT_GPU_DIR" -maxdepth 1 -name 'libonnxruntime.so.*' | sort | tail -n 1)
provider=$ORT_GPU_DIR/libonnxruntime_providers_cuda.so
if [[ -z $library || ! -e $provider ]]; then
    say "missing in $ORT_GPU_DIR: libonnxruntime.so.* or libonnxruntime_providers_cuda.so"
    how_to_get
    exit 7
fi
loader_path=$ORT_GPU_DIR${cuda_lib_dirs:+:$cuda_lib_dirs}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# A missing library would otherwise only show as a provider that does not start.
missing=$(LD_LIBRARY_PATH=$loader_path ldd "$provider" | awk '/not found/ { print $1 }' | sort -u | paste -sd' ')
if [[ -n $missing ]]; then
    say "missing libraries of the CUDA provider: $missing (name their directories in CUDA_LIB_DIRS)"
    how_to_get
    exit 7
fi

# --- program, base, data ------------------------------------------------------------------------------------

if [[ -z ${EXPORTER:-} ]]; then
    command -v cargo >/dev/null || fail "cargo is missing: install a Rust toolchain, or set EXPORTER" 7
    cargo build --release --quiet
    EXPORTER=$target/release/overmask-export
fi
# The loader path is for our program alone: PyTorch brings CUDA libraries of another version.
overmask_export() {
    ORT_DYLIB_PATH=$library LD_LIBRARY_PATH=$loader_path "$EXPORTER" "$@"
}

base=${BASE:-$target/demo/base}
if [[ ! -e $base/base.json ]]; then
    [[ -z ${BASE:-} ]] || fail "no base bundle in BASE=$BASE" 3
    base=$work/base
    if [[ ! -e $base/base.json ]]; then
        overmask_export fetch minilm-l6 -o "$work/minilm-l6" >&2 || fail "the base could not be fetched; set BASE" 3
        overmask_export import hf "$work/minilm-l6" -o "$base" >&2 || fail "the base could not be imported; set BASE" 3
    fi
fi
data=${DATA:-$work/trec/train.jsonl}
if [[ ! -e $data ]]; then
    [[ -z ${DATA:-} ]] || fail "no file DATA=$DATA" 3
    overmask_export fetch trec -o "$work/trec" >&2 || fail "the data could not be fetched; set DATA" 3
fi

# --- training: placement, and losses beside the CPU's -------------------------------------------------------

train() { # device granularity name, then further options
    local device=$1 granularity=$2 name=$3
    shift 3
    overmask_export train --base "$base" --data "$data" --task classify --method mask \
        --granularity "$granularity" --effort fixed --epochs 3 --initial-sparsity 0.05 --seed 1 --device "$device" \
        -o "$work/$name.pack" "$@" >&2
}

check() { # passed? what
    if [[ $1 == 0 ]]; then
        echo "- passed: $2"
    else
        echo "- FAILED: $2"
        failures=$((failures + 1))
    fi
}

# Compares two files of one loss a line (the last number of a line is the loss). The masks are thresholds of
# scores, so a rounding difference grows: the first losses must agree closely, then the means of 25 steps.
compare_losses() { # gpu-file cpu-file steps largest-difference-of-the-first
    awk -v steps="$3" -v apart_first="$4" '
        { gsub(/[^0-9eE+.\-]+/, " "); n = split($0, part, " "); value = part[n] }
        value !~ /^[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?$/ { next }
        FNR == NR { gpu[++g] = value + 0; next }
        { cpu[++c] = value + 0 }
        function off(a, b) { return a > b ? a - b : b - a }
        END {
            if (g != steps || c != steps) {
                printf "expected %d losses, the GPU run has %d, the CPU run %d", steps, g, c
                exit 1
            }
            for (i = 1; i <= 5; i++) if (off(gpu[i], cpu[i]) > first) first = off(gpu[i], cpu[i])
            for (i = 1; i + 24 <= steps; i += 25) {
                a = b = 0
                for (k = i; k < i + 25; k++) { a += gpu[k] / 25; b += cpu[k] / 25 }
                apart = off(a, b)
                if (apart > window) window = apart
                if (apart > 0.03 + 0.1 * b) wrong = 1
            }
            printf "first 5 losses within %.2e, means of 25 steps within %.3f, last mean %.3f on the GPU and %.3f on the CPU", first, window, a, b
            exit (first > apart_first || wrong) ? 1 : 0
        }' "$1" "$2"
}

echo "GPU: $gpu; ONNX Runtime $(basename "$library" | sed 's/^libonnxruntime\.so\.//'); $threads CPU threads"
echo
for granularity in "${granularities[@]}"; do
    name=${granularity//:/-}
    ok=0
    rm -f "$work/$name-cpu.losses"
    train cpu "$granularity" "$name-cpu" --threads "$threads" --max-steps "$steps" \
        --log-losses "$work/$name-cpu.losses" || ok=1
    check "$ok" "$granularity: the CPU's run"
    for precision in f32 f16 bf16; do
        ok=0
        train cuda "$granularity" "placement-$name" --precision "$precision" --max-steps 1 || ok=1
        check "$ok" "$granularity, $precision: every node of the step graph but shape arithmetic is on the GPU"
        ok=0
        rm -f "$work/$name-$precision.losses"
        train cuda "$granularity" "$name-$precision" --precision "$precision" --max-steps "$steps" \
            --log-losses "$work/$name-$precision.losses" || ok=1
        if [[ $ok == 0 ]]; then
            # 16 bits round the first losses by more.
            first=$([[ $precision == f32 ]] && echo 1e-2 || echo 5e-2)
            losses=$(compare_losses "$work/$name-$precision.losses" "$work/$name-cpu.losses" "$steps" "$first") || ok=1
        else
            losses="a run failed, see above"
        fi
        check "$ok" "$granularity, $precision: the GPU's losses follow the CPU's in f32 over $steps steps ($losses)"
    done
done

# --- step time, beside PyTorch's ----------------------------------------------------------------------------

echo
python=
why=
if [[ ${PYTHON:-} == none ]]; then
    why="PYTHON=none"
elif ! python=$(benches/step.sh --setup-only); then
    python=
    why="PyTorch could not be set up"
elif ! "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then
    python=
    why="this PyTorch finds no CUDA device"
fi
if [[ -n $python ]]; then
    # Full f32 products on both sides, then PyTorch with TF32 products, then 16 bits on both sides; each eager
    # and compiled.
    for way in "" "--tf32" "--compile" "--tf32 --compile" "--precision bf16" "--precision bf16 --compile"; do
        [[ -z $way ]] || printf '\nWith %s:\n\n' "$way"
        # shellcheck disable=SC2086 # several words, or none at all
        ORT_DYLIB_PATH=$library "$python" benches/compare_steps.py --exporter "$EXPORTER" --base "$base" \
            --exporter-library-path "$loader_path" --device cuda --threads "$threads" \
            --steps 50 --rounds 3 --output "$work/step-cuda${way//[- ]/}.json" $way ||
            failures=$((failures + 1))
    done
else
    say "PyTorch: $why"
    echo "| granularity | overmask ms | PyTorch ms |"
    echo "| --- | --- | --- |"
    for granularity in "${granularities[@]}"; do
        time=$(overmask_export bench-step --base "$base" --batch 16 --tokens 64 --threads "$threads" \
            --granularity "$granularity" --steps 200 --device cuda --json |
            sed -n 's/.*"median_ms": *\([0-9.]*\).*/\1/p') || time=
        [[ -n $time ]] || failures=$((failures + 1))
        echo "| $granularity | ${time:-failed} | not measured: $why |"
    done
fi

if [[ $failures != 0 ]]; then
    say "$failures check(s) failed"
    exit 1
fi
