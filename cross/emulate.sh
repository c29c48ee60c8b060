#!/usr/bin/env bash
# Runs a command in which programs for 64-bit ARM run, too, wherever they are started, by qemu's user-mode emulation:
#
#   cross/emulate.sh chroot "$(cross/root.sh --system debian12-arm64)" sh
#
# The handler is registered in user and mount namespaces of their own (Linux 6.7 or newer) and goes with them: nothing
# of the machine changes. Users keep their numbers, so that files belong to whom they belong. QEMU_CPU names the
# processor.
set -euo pipefail

fail() {
    echo "cross/emulate.sh: $*" >&2
    exit 1
}

misc=/proc/sys/fs/binfmt_misc
case ${1-} in
    '' | -h | --help) echo "usage: cross/emulate.sh COMMAND [ARGUMENT]..." >&2 && exit 2 ;;
    # In the namespaces, before and after they have a table of users; only from then on is this root.
    --unmapped)
        until grep -q . /proc/self/uid_map; do sleep 0.02; done
        exec "$0" --mapped "${@:2}"
        ;;
    --mapped)
        mount -t binfmt_misc binfmt_misc $misc ||
            fail "no handler can be registered: it takes Linux 6.7 or newer, or one that is there already" \
                "(Debian and Ubuntu: apt install qemu-user-static binfmt-support)"
        # ELF, 64 bits, little endian, executable or shared object, for AArch64; F: the emulator is opened now, so that
        # a root without it finds it.
        printf '%s' ':qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:' \
            '\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:' \
            "$(command -v qemu-aarch64-static):F" >$misc/register
        exec "${@:2}"
        ;;
esac

[ "$(id -u)" = 0 ] || fail "must run as root"
command -v qemu-aarch64-static >/dev/null ||
    fail "qemu-aarch64-static is missing (Debian and Ubuntu: apt install qemu-user-static)"
# One that is there for the whole machine does as well.
if grep -qs '^flags:.*F' $misc/qemu-aarch64; then exec unshare --mount "$@"; fi

# A process cannot write the table of its own namespace; one outside does, as soon as this one has become `unshare`.
# shellcheck disable=SC2016 # expanded by the inner shell
(bash -c '
    while [ -e "/proc/$1" ]; do
        { echo 0 0 65536 >"/proc/$1/gid_map" && echo 0 0 65536 >"/proc/$1/uid_map"; } 2>/dev/null && break
        sleep 0.02
    done' - $$ </dev/null >/dev/null 2>&1 &)
exec unshare --user --mount "$0" --unmapped "$@"
