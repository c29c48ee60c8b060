#!/usr/bin/env bash
# Builds the program `overmask` for a board, on an x86-64 workstation:
#
#   cross/build.sh                                  # aarch64-jp5: one program for JetPack 5, 6 and 7
#   cross/build.sh --target aarch64-musl --engines native
#
# What is missing (rustup's target, zig as the linker) is set up in the target directory. The linker takes the symbols
# of an old glibc, and the build fails if the program asks for a newer one after all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'TEXT'
usage: cross/build.sh [--target NAME] [--engines LIST] [--setup]

  --target   aarch64-jp5   glibc 2.31: JetPack 5 and all later ones, Debian 11 (default)
             aarch64-jp6   glibc 2.35: JetPack 6, Ubuntu 22.04
             aarch64-jp7   glibc 2.39: JetPack 7, Ubuntu 24.04
             aarch64-musl  static, without ONNX Runtime, which needs a dynamic loader
             x86_64        glibc 2.31
  --engines  of native, ort and tract, with commas between (default: native,ort; with musl: native); the server
             (`overmask serve`) is always in
  --setup    set up what is missing, and build nothing
TEXT
}

fail() {
    echo "cross/build.sh: $*" >&2
    exit 1
}

target=aarch64-jp5 engines='' setup=''
while [ $# -gt 0 ]; do
    case $1 in
        --target) target=${2:?$(usage)} && shift ;;
        --engines) engines=${2:?$(usage)} && shift ;;
        --setup) setup=yes ;;
        -h | --help) usage && exit ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift
done

case $target in
    aarch64-jp5) triple=aarch64-unknown-linux-gnu glibc=2.31 ;;
    aarch64-jp6) triple=aarch64-unknown-linux-gnu glibc=2.35 ;;
    aarch64-jp7) triple=aarch64-unknown-linux-gnu glibc=2.39 ;;
    aarch64-musl) triple=aarch64-unknown-linux-musl glibc= ;;
    x86_64) triple=x86_64-unknown-linux-gnu glibc=2.31 ;;
    *) usage >&2 && exit 2 ;;
esac
engines=${engines:-$([ -n "$glibc" ] && echo native,ort || echo native)}
case ,$engines, in
    *,ort,*) [ -n "$glibc" ] || fail "the engine ort needs a dynamic loader; build aarch64-jp5, or without it" ;;
esac

work=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
tools=$work/cross/tools
if ! [ -x "$tools/bin/cargo-zigbuild" ]; then
    echo "cross/build.sh: fetching zig and cargo-zigbuild into $tools" >&2
    python3 -m venv "$tools" || fail "python3 with venv is missing (Debian and Ubuntu: apt install python3-venv)"
    "$tools/bin/pip" install --quiet --disable-pip-version-check ziglang==0.17.1 cargo-zigbuild==0.24.1
fi
rustup target list --installed | grep -qx "$triple" || rustup target add "$triple"
[ -z "$setup" ] || exit 0

PATH=$tools/bin:$PATH cargo zigbuild --profile dist --target "$triple${glibc:+.$glibc}" \
    --package overmask-program --no-default-features --features "$engines,serve"

program=$work/$triple/dist/overmask
if [ -n "$glibc" ]; then
    command -v readelf >/dev/null || fail "readelf is missing (Debian and Ubuntu: apt install binutils)"
    highest=$(readelf -W --version-info "$program" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
    newest=$(printf '%s\n' "$highest" "GLIBC_$glibc" | sort -V | tail -n 1)
    [ "$newest" = "GLIBC_$glibc" ] || fail "$program asks for $highest; $target has GLIBC_$glibc"
    echo "highest symbol ${highest:-none}, of $glibc that are there" >&2
fi
out=$work/cross/$target/overmask
mkdir -p "${out%/*}"
cp "$program" "$out"
echo "$out: $(stat -c %s "$out") bytes, engines $engines" >&2
