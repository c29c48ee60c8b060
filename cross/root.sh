#!/usr/bin/env bash
# Makes a root file system of another Debian release and architecture, once, for tests in user-mode emulation, and
# prints its path:
#
#   root=$(cross/root.sh debian11-arm64)
#   qemu-aarch64-static -cpu cortex-a76 -L "$root" target/cross/aarch64-jp5/overmask --version
#
# It lies in the target directory. Debian's mirror is the one that the machine's own apt sources name. There are no
# roots of Ubuntu: glibc 2.31 (JetPack 5), 2.36 and 2.41 have Ubuntu 22.04's 2.35 (JetPack 6) and 24.04's 2.39
# (JetPack 7) between them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'TEXT'
usage: cross/root.sh [--libs | --system] [--install] [--mirror URI] NAME

  NAME       debian11-arm64, debian12-arm64, debian13-arm64 (glibc 2.31, 2.36, 2.41), or the same with -amd64
  --libs     the libraries that a program needs: libc6, libgcc-s1, libstdc++6 (default; seconds, no root needed)
  --system   a system with a shell and dpkg, in which packages can be installed (minutes, as root)
  --install  install with apt what this machine lacks for it
  --mirror   Debian's mirror, where this machine's apt sources have none
TEXT
}

fail() {
    echo "cross/root.sh: $*" >&2
    exit 1
}

form=libs install='' mirror='' name=''
while [ $# -gt 0 ]; do
    case $1 in
        --libs) form=libs ;;
        --system) form=system ;;
        --install) install=yes ;;
        --mirror) mirror=${2:?$(usage)} && shift ;;
        -h | --help) usage && exit ;;
        -*) usage >&2 && exit 2 ;;
        *) name=$1 ;;
    esac
    shift
done

case $name in
    debian11-*) suite=bullseye ;;
    debian12-*) suite=bookworm ;;
    debian13-*) suite=trixie ;;
    *) usage >&2 && exit 2 ;;
esac
case $name in
    *-arm64) architecture=arm64 ;;
    *-amd64) architecture=amd64 ;;
    *) usage >&2 && exit 2 ;;
esac

work=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
root=$work/cross/roots/$name$([ $form = libs ] || echo "-$form")
if [ -d "$root" ]; then
    echo "$root"
    exit
fi

# Packages of this machine, as "package:what it brings".
needs=(apt:/usr/bin/apt-get debian-archive-keyring:/usr/share/keyrings/debian-archive-keyring.gpg)
if [ $form = system ]; then
    [ "$(id -u)" = 0 ] || fail "--system must run as root"
    needs+=(mmdebstrap:/usr/bin/mmdebstrap qemu-user-static:/usr/bin/qemu-aarch64-static)
fi
missing=()
for need in "${needs[@]}"; do
    [ -e "${need#*:}" ] || missing+=("${need%%:*}")
done
if [ ${#missing[@]} -gt 0 ]; then
    [ -n "$install" ] || fail "missing: ${missing[*]} (apt install ${missing[*]}, or --install as root)"
    apt-get update --quiet >&2
    apt-get install --quiet --yes --no-install-recommends "${missing[@]}" >&2
fi

# Whatever apt would fetch for this machine, whichever way its sources are written.
if [ -z "$mirror" ]; then
    mirror=$(apt-get update --print-uris | sed -n "s|^'\([^']*/debian\)/dists/.*|\1|p" | head -n 1)
    [ -n "$mirror" ] || fail "this machine's apt sources name no mirror of Debian; --mirror URI does"
fi

mkdir -p "${root%/*}"
new=$(mktemp -d "$root.XXXXXX")
trap 'rm -rf --one-file-system "$new"' EXIT
chmod 755 "$new"
echo "cross/root.sh: making $root" >&2
if [ $form = libs ]; then
    apt=$new/apt
    mkdir -p "$apt/lists/partial" "$new/root"
    : >"$apt/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
    options=(-qq -o APT::Architecture="$architecture" -o APT::Architectures="$architecture"
        -o APT::Sandbox::User=root
        -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt"
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
    apt-get "${options[@]}" update >&2
    (cd "$apt" && apt-get "${options[@]}" download libc6 libgcc-s1 libstdc++6 >&2)
    for package in "$apt"/*.deb; do dpkg-deb --extract "$package" "$new/root"; done
    # On a system of today /lib is a link into /usr; the packages of Debian 11 and 12 have directories there, and so the
    # libraries in two places.
    for directory in lib lib64; do
        if [ -d "$new/root/$directory" ]; then
            mkdir -p "$new/root/usr/$directory"
            cp -a "$new/root/$directory/." "$new/root/usr/$directory"
            rm -r "${new:?}/root/$directory"
        fi
        if [ -d "$new/root/usr/$directory" ]; then ln -s "usr/$directory" "$new/root/$directory"; fi
    done
    # The loader is named by an absolute link, which would lead out of here.
    find "$new/root/usr" -type l -lname '/*' | while read -r link; do
        ln -sfr "$new/root$(readlink "$link")" "$link"
    done
    # ONNX Runtime reads it, and crashes at load where it finds the one of an x86-64 machine: a Cortex-A76.
    if [ "$architecture" = arm64 ]; then
        mkdir "$new/root/proc"
        for processor in 0 1 2 3; do
            cat <<TEXT
processor	: $processor
BogoMIPS	: 108.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x4
CPU part	: 0xd0b
CPU revision	: 1

TEXT
        done >"$new/root/proc/cpuinfo"
    fi
else
    # Nothing but what is essential, and what the package of `overmask` depends on.
    cross/emulate.sh mmdebstrap --quiet --mode=root --skip=check/qemu,chroot/mount/proc,chroot/mount/sys \
        --variant=essential --include=adduser --architectures="$architecture" --format=directory \
        "$suite" "$new/root" \
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >&2
fi
mv --no-target-directory "$new/root" "$root"
echo "$root"
