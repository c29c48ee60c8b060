#!/usr/bin/env bash
# Packs the program for a device: a Debian package, and an archive for systems without dpkg.
#
#   cross/package.sh                                 # target/cross/dist/overmask_VERSION_arm64.deb
#   cross/package.sh --target x86_64                 # target/cross/dist/overmask_VERSION_amd64.deb
#
# The same program and commit give the same bytes (SOURCE_DATE_EPOCH: the commit's time when it is not set).
# cross/test-package.sh tries what comes out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
umask 022

usage() {
    cat <<'TEXT'
usage: cross/package.sh [--target NAME] [--engines LIST] [--version VERSION]

  --target   aarch64-jp5 (default) or x86_64, of those of cross/build.sh: they run wherever glibc is 2.31 or newer
  --engines  build with these, as cross/build.sh takes them; else the program that lies there is taken, if there is one
  --version  of the package, when it is not to be the program's own
TEXT
}

fail() {
    echo "cross/package.sh: $*" >&2
    exit 1
}

target=aarch64-jp5 engines='' version=''
while [ $# -gt 0 ]; do
    case $1 in
        --target) target=${2:?$(usage)} ;;
        --engines) engines=${2:?$(usage)} ;;
        --version) version=${2:?$(usage)} ;;
        -h | --help) usage && exit ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift 2
done
case $target in
    aarch64-jp5) machine=aarch64 architecture=arm64 ;;
    x86_64) machine=x86_64 architecture=amd64 ;;
    *) usage >&2 && exit 2 ;;
esac
command -v dpkg-deb >/dev/null || fail "dpkg-deb is missing (its package is called dpkg, on other systems, too)"

work=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
program=$work/cross/$target/overmask
if [ -n "$engines" ] || ! [ -x "$program" ]; then
    cross/build.sh --target "$target" ${engines:+--engines "$engines"}
fi

# The program itself prints its manual and its completions, so that they are this program's.
run=("$program")
if [ "$(uname -m)" != "$machine" ]; then
    [ "$machine" = aarch64 ] || fail "a program for x86_64 is packed on such a machine: it prints its own manual"
    command -v qemu-aarch64-static >/dev/null ||
        fail "qemu-aarch64-static is missing (apt install qemu-user-static): the program prints its own manual"
    run=(qemu-aarch64-static -L "$(cross/root.sh debian11-arm64)" "$program")
fi
own=$(cargo pkgid --package overmask-program | sed 's/.*[#@]//')
printed=$("${run[@]}" --version) || fail "$program does not run here"
[ "$printed" = "overmask $own" ] || fail "$program is \"$printed\", this is $own: build it again with cross/build.sh"
version=${version:-$own}

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)} || fail "no git repository: set SOURCE_DATE_EPOCH"
export SOURCE_DATE_EPOCH
out=$work/cross/dist
mkdir -p "$out"
place=$(mktemp -d)
trap 'rm -r "$place"' EXIT

# $1 and below are as they are in /usr; $2: where zsh looks for completions there.
fill() {
    local usr=$1 zsh=$2 doc=$1/share/doc/overmask
    install -D "$program" "$usr/bin/overmask"
    mkdir -p "$usr/share/man/man1" "$doc"
    manual "$usr/share/man/man1"
    "${run[@]}" completions bash | install -D -m 644 /dev/stdin "$usr/share/bash-completion/completions/overmask"
    "${run[@]}" completions zsh | install -D -m 644 /dev/stdin "$usr/share/zsh/$zsh/_overmask"
    "${run[@]}" completions fish | install -D -m 644 /dev/stdin "$usr/share/fish/vendor_completions.d/overmask.fish"
    tail -n +3 LICENSE-MIT | sed '/./,$!d' | cat cross/package/copyright - >"$doc/copyright"
    cross/licences.py "$machine-unknown-linux-gnu" "${engines:-native,ort},serve" | gzip -9n >"$doc/third-party.gz"
}

# The manual pages of a command, whose words are the arguments after the directory, and of those below it.
manual() {
    local directory=$1 words=("${@:2}") page names name
    page=$(IFS=- && echo "overmask${words[*]:+-${words[*]}}")
    "${run[@]}" man "${words[@]}" >"$directory/$page.1"
    mapfile -t names < <(sed -n '/^\.SH SUBCOMMANDS/,/^\.SH [^S]/{s/\\-/-/g;s/^\(overmask.*\)(1)$/\1/p}' \
        "$directory/$page.1")
    for name in "${names[@]}"; do
        [ "$name" = "$page-help" ] || manual "$directory" "${words[@]}" "${name#"$page-"}"
    done
    gzip -9n "$directory/$page.1"
}

debian() {
    local root=$place/debian version=${version/-/\~} maintainer
    maintainer="${DEBFULLNAME:-The Overmask developers} <${DEBEMAIL:-overmask@overmask.invalid}>"
    mkdir "$root"
    fill "$root/usr" vendor-completions
    gzip -9n <CHANGELOG.md >"$root/usr/share/doc/overmask/NEWS.gz"
    gzip -9n >"$root/usr/share/doc/overmask/changelog.gz" <<TEXT
overmask ($version) unstable; urgency=medium

  * What changed is in NEWS.gz.

 -- $maintainer  $(date --utc --rfc-email --date "@$SOURCE_DATE_EPOCH")
TEXT
    mkdir -p "$root/usr/lib/systemd/system"
    install -m 644 cross/package/overmask*.{service,socket} "$root/usr/lib/systemd/system"
    install -D -m 644 cross/package/overmask.conf "$root/etc/overmask/overmask.conf"
    mkdir -p "$root/etc/overmask/keys" "$root/DEBIAN"
    install cross/package/{postinst,prerm,postrm} "$root/DEBIAN"
    echo /etc/overmask/overmask.conf >"$root/DEBIAN/conffiles"
    (cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
    cat >"$root/DEBIAN/control" <<TEXT
Package: overmask
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(du --summarize --block-size=1024 --apparent-size --exclude DEBIAN "$root" | cut -f 1)
Depends: libc6 (>= 2.31), adduser
Section: science
Priority: optional
Description: runs text tasks that are masks on one frozen encoder
 One text encoder lies on the device; each task is a small file, a pack, that
 says which of its weights are zero. This program labels texts with packs,
 checks packs and their signatures, and measures how fast they run.
 .
 Bases and packs are made with overmask-export, on a workstation. At boot
 overmask-verify.service checks the store that they were flashed into, and
 overmask.service answers its tasks, on a Unix socket or HTTP.
 .
 The engine "ort" loads the ONNX Runtime library, which is not part of this
 package: ORT_DYLIB_PATH names it.
TEXT
    find "$root" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
    # Debian 11 unpacks no zstd, which is what Ubuntu's dpkg-deb takes by itself.
    dpkg-deb --root-owner-group -Zxz --build "$root" "$out/overmask_${version}_$architecture.deb" >&2
    echo "$out/overmask_${version}_$architecture.deb"
}

archive() {
    local name=overmask-$version-$machine-linux
    local root=$place/$name
    mkdir "$root"
    fill "$root" site-functions # as in /usr/local
    cp LICENSE-APACHE CHANGELOG.md "$root/share/doc/overmask"
    mkdir "$root/share/doc/overmask/examples"
    cp cross/package/overmask*.{service,socket,conf} "$root/share/doc/overmask/examples"
    tar --create --directory "$place" --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        --mtime "@$SOURCE_DATE_EPOCH" "$name" | gzip -9n >"$out/$name.tar.gz"
    echo "$out/$name.tar.gz"
}

debian
archive
