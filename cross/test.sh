#!/usr/bin/env bash
# Tests the aarch64 build in user-mode emulation: the kernels' and the library's own tests, and the program end to end
# beside this machine's (tests/tests/device/emulated.rs).
#
#   cross/test.sh                                    # four processors with glibc 2.31; glibc 2.36 and 2.41; large pages
#   cross/test.sh --quick                            # the oldest processor and glibc: what .ci/run runs
#
# It needs what `cargo xtask setup` sets up, and qemu-user-static.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'TEXT'
usage: cross/test.sh [--quick] [--pack FILE] [--install]

  --quick    one processor, one glibc, without the library's own tests and ONNX Runtime
  --pack     a pack that was learnt on the tests' base (all-MiniLM-L6-v2), to be run beside made-up ones
  --install  install with apt what this machine lacks for it
TEXT
}

fail() {
    echo "cross/test.sh: $*" >&2
    exit 1
}

quick='' pack='' install=()
while [ $# -gt 0 ]; do
    case $1 in
        --quick) quick=yes ;;
        --pack) pack=$(realpath "${2:?$(usage)}") && shift ;;
        --install) install=(--install) ;;
        -h | --help) usage && exit ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift
done

# What Jetson Nano and TX2, Raspberry Pi 4, Raspberry Pi 5 and (nearly) Orin have, and all that the emulator knows.
processors=(cortex-a57 cortex-a72 cortex-a76 max)
roots=(debian11-arm64 debian12-arm64 debian13-arm64)
crates=(--package overmask-kernels --package overmask) features=native,ort tests=emulated::
if [ -n "$quick" ]; then
    processors=(cortex-a57) roots=(debian11-arm64) crates=(--package overmask-kernels) features=native
    tests=emulated::native
fi

missing=()
command -v qemu-aarch64-static >/dev/null || missing+=(qemu-user-static)
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
    [ ${#install[@]} -gt 0 ] || fail "missing: ${missing[*]} (apt install ${missing[*]}, or --install as root)"
    apt-get update --quiet >&2
    apt-get install --quiet --yes --no-install-recommends "${missing[@]}" >&2
fi
for root in "${roots[@]}"; do cross/root.sh "${install[@]}" "$root" >/dev/null; done

step() {
    local start=$SECONDS
    echo "== $*" >&2
    "$@"
    echo "== $((SECONDS - start)) s" >&2
}

cross/build.sh --setup
work=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
export PATH=$work/cross/tools/bin:$PATH
target=aarch64-unknown-linux-gnu
list=$work/cross/tests.txt
cargo zigbuild --release --tests --target $target.2.31 "${crates[@]}" --message-format json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' >"$list"
[ -s "$list" ] || fail "no tests were built"
step cargo zigbuild --quiet --release --target $target.2.31 --package overmask-program --no-default-features \
    --features $features

# ONNX Runtime of that processor.
[ -n "$quick" ] || "$work/release/overmask-export" fetch onnxruntime --platform linux-aarch64 \
    -o "$work/cross/onnxruntime-aarch64"
library=$(echo "$work"/cross/onnxruntime-aarch64/libonnxruntime.so.*)

# The program on a processor, with the libraries of a root and pages of so many bytes.
end_to_end() {
    local processor=$1 root=$2 page=${3:-4096} program=$work/cross/emulated-$1-$2
    cat >"$program" <<TEXT
#!/bin/sh
exec qemu-aarch64-static -cpu $processor -p $page -L "$(cross/root.sh "$root")" "$work/$target/release/overmask" "\$@"
TEXT
    chmod +x "$program"
    OVERMASK_EMULATED=$program OVERMASK_EMULATED_ORT=$library OVERMASK_PACK=$pack \
        step cargo test --quiet --release --workspace --exclude overmask-benches --test device -- --ignored "$tests"
}

for processor in "${processors[@]}"; do
    emulator="qemu-aarch64-static -cpu $processor -L $(cross/root.sh "${roots[0]}")"
    # Some tests start themselves again.
    export OVERMASK_EMULATOR=$emulator
    # shellcheck disable=SC2086 # words of a command
    while read -r test; do step $emulator "$test" --quiet; done <"$list"
    end_to_end "$processor" "${roots[0]}"
done
[ -z "$quick" ] || exit 0
for root in "${roots[@]:1}"; do end_to_end cortex-a76 "$root"; done
# Kernels of boards have larger pages, too, and maps must lie on their borders.
for page in 16384 65536; do end_to_end cortex-a76 "${roots[0]}" $page; done
