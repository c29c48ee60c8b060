#!/usr/bin/env bash
# Tries the packages in systems of Debian 11, 12 and 13, arm64 in emulation: installed, run, upgraded, removed, purged.
#
#   cross/test-package.sh                            # three systems of arm64, one of amd64
#   cross/test-package.sh debian12-arm64
#
# It runs as root, in namespaces of its own (of processes, too), and changes nothing of the machine. The systems are made once, which takes
# some minutes each. There is no systemd in them: what the units start is run by hand. This machine's systemd-analyze, if
# there is one, checks the units themselves.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'TEXT'
usage: cross/test-package.sh [--base DIR --pack FILE] [--install] [ROOT]...

  --base, --pack  what is run (default: those of the demo in the target directory, else a tiny encoder, which
                  overmask-export imports and trains; for that it must be built, and find ONNX Runtime)
  --install       install with apt what this machine lacks for it
  ROOT            as cross/root.sh takes them
TEXT
}

fail() {
    echo "cross/test-package.sh: $*" >&2
    exit 1
}

base='' pack='' install=() roots=()
while [ $# -gt 0 ]; do
    case $1 in
        --base) base=${2:?$(usage)} && shift ;;
        --pack) pack=${2:?$(usage)} && shift ;;
        --install) install=(--install) ;;
        -h | --help) usage && exit ;;
        -*) usage >&2 && exit 2 ;;
        *) roots+=("$1") ;;
    esac
    shift
done
[ "${base:+given}" = "${pack:+given}" ] || fail "--base and --pack belong together"
[ ${#roots[@]} -gt 0 ] || roots=(debian11-arm64 debian12-arm64 debian13-arm64 debian12-amd64)

work=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
place=$(mktemp -d "$work/cross/try.XXXXXX")
trap 'rm -rf --one-file-system "$place" "$work"/cross/dist/*+upgrade*' EXIT

# A tiny encoder and a head that has learnt a little.
tiny() {
    local export=$work/release/overmask-export i
    [ -x "$export" ] || fail "no base: give --base and --pack, or run cargo xtask demo, or cargo xtask setup"
    for i in {1..20}; do
        printf '{"text":"good film %d","label":"up"}\n{"text":"bad film %d","label":"down"}\n' "$i" "$i"
    done >"$place/texts.jsonl"
    "$export" --quiet import hf tests/fixtures/tiny-bert -o "$place/base"
    "$export" --quiet train --base "$place/base" --data "$place/texts.jsonl" --method head --max-tokens 16 \
        --max-steps 6 --threads 1 -o "$place/tiny.pack"
    base=$place/base pack=$place/tiny.pack
}
if [ -z "$base" ]; then
    base=$work/demo/base pack=$work/demo/trec.pack
    if ! [ -e "$base" ] || ! [ -e "$pack" ]; then tiny; fi
fi
[ -e "$base/base.json" ] || fail "$base holds no base.json"

# What happens in a system. The package's scripts find no systemd running, as in an image that is being made.
cat >"$place/try.sh" <<'TEXT'
set -eu
cd /try

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# $1: owner, group and mode that are wanted; the others: files.
belongs() {
    wanted=$1 && shift
    for file; do
        found=$(stat -c '%U:%G %a' "$file")
        [ "$found" = "$wanted" ] || fail "$file is $found, not $wanted"
    done
}

# All files, and who is known. dpkg's own books, logs and the copies that accounts leave behind apart.
everything() {
    find / -xdev \( -path /proc -o -path /dev -o -path /sys -o -path /run -o -path /try \
        -o -path /var/lib/dpkg -o -path /var/log -o -name 'passwd-' -o -name 'group-' -o -name 'shadow-' \
        -o -name 'gshadow-' -o -name '*.lock' \) -prune -o -printf '%p %u:%g %m %l\n' | sort
    sort /etc/passwd /etc/group
}

as_service() {
    runuser -u overmask -- env -i PATH=/usr/bin:/bin OVERMASK_CACHE=/var/cache/overmask "$@"
}

everything >before

dpkg --install first.deb
[ "$(overmask --version)" = "overmask $(cat version)" ] || fail "another version runs"
belongs 'root:root 755' /usr/bin/overmask /etc/overmask /etc/overmask/keys
belongs 'root:root 644' /etc/overmask/overmask.conf /usr/lib/systemd/system/overmask-verify.service \
    /usr/lib/systemd/system/overmask.service /usr/lib/systemd/system/overmask.socket \
    /usr/share/man/man1/overmask.1.gz /usr/share/man/man1/overmask-serve.1.gz
belongs 'overmask:overmask 750' /var/lib/overmask /var/cache/overmask
for unit in overmask-verify.service overmask.service; do
    [ -L /etc/systemd/system/multi-user.target.wants/$unit ] || fail "$unit is not enabled"
done
[ ! -e /etc/systemd/system/sockets.target.wants/overmask.socket ] || fail "the socket is enabled"

chmod -R a+rX base a.pack
as_service overmask store init
as_service overmask flash --base base a.pack
as_service overmask run "Where is Lima?" >answer
[ -s answer ] || fail "no answer"
# What a unit does, as it is written there.
unit() {
    sed -n 's/^ExecStart=//p' "/usr/lib/systemd/system/$1" >unit.sh
    [ -s unit.sh ] || fail "no command in $1"
    as_service OVERMASK_STORE=/var/lib/overmask OVERMASK_SERVE_OPTIONS="${2-}" sh unit.sh
}
unit overmask-verify.service || fail "the unit's command says $?"
if runuser -u nobody -- ls /var/lib/overmask 2>/dev/null; then fail "anybody can read packs"; fi
as_service overmask store policy --require-signature true >policy
code=0
unit overmask-verify.service || code=$?
[ $code = 4 ] || [ $code = 5 ] || fail "without a key to trust the unit's command says $code"
as_service overmask store policy --require-signature false >policy
echo '{"id": 1, "text": "Where is Lima?"}' >question
unit overmask.service --stdio <question >reply || fail "the server says $?"
grep -q "$(cut -f 1 answer)" reply || fail "the server answers $(cat reply)"
# Asks a socket ($1) a line, or a request of HTTP, from stdin; who asks is what follows.
ask() {
    asked=$1 && shift
    runuser "$@" -- perl -MIO::Socket::UNIX -e '
        alarm 60;
        my $socket = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "$ARGV[0]: $!\n";
        print $socket <STDIN>;
        print my $reply = <$socket>;
        print <$socket> if $reply =~ /^HTTP/;' "$asked"
}
# The server that this shell has started behind a socket ($1): waits until it is there.
started() {
    for _ in $(seq 300); do if [ -S "$1" ]; then return; fi; sleep 0.1; done
    fail "no socket $1"
}
# Its process; `pidof` would find the emulator.
server() {
    for process in /proc/[0-9]*; do
        case $(tr '\0' ' ' <"$process/cmdline") in
            *'overmask serve '*) echo "${process#/proc/}" ;;
        esac 2>/dev/null
    done
}
# And ends it.
ended() {
    kill -TERM $(server) && wait $! || fail "the server ends with $?"
}
install -d -o overmask -g overmask -m 0750 /run/overmask
# What the unit says itself.
options=$(sed -n 's/^Environment="OVERMASK_SERVE_OPTIONS=\(.*\)"$/\1/p' /usr/lib/systemd/system/overmask.service)
unit overmask.service "$options" &
socket=/run/overmask/overmask.sock
started $socket
belongs 'overmask:overmask 600' $socket
ask $socket -u overmask <question >reply || fail "the socket says $?"
grep -q "$(cut -f 1 answer)" reply || fail "the socket answers $(cat reply)"
printf 'POST /v1/run HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n' \
    "$(wc -c <question)" | cat - question | ask $socket -u overmask >reply || fail "HTTP says $?"
grep -q "$(cut -f 1 answer)" reply || fail "HTTP answers $(cat reply)"
kill -HUP $(server)
ask $socket -u overmask <question | grep -q "$(cut -f 1 answer)" || fail "no answer after a reload"
if ask $socket -u nobody <question 2>/dev/null; then fail "anybody can ask"; fi
ended
[ ! -e $socket ] || fail "the server leaves its socket"

# As systemd starts it with the unit of the socket, whose file and group are written there.
said() {
    sed -n "s/^$1=//p" /usr/lib/systemd/system/overmask.socket
}
socket=$(said ListenStream)
cat >activate.pl <<'PERL'
use IO::Socket::UNIX;
use POSIX;
$^F = 3;
my $path = shift;
my $socket = IO::Socket::UNIX->new(Local => $path, Listen => 9) or die "$path: $!\n";
POSIX::dup2(fileno $socket, 3) unless fileno $socket == 3;
($ENV{LISTEN_FDS}, $ENV{LISTEN_PID}) = (1, $$);
chown scalar getpwnam("overmask"), scalar getgrnam($ENV{GROUP}), $path or die "$path: $!\n";
chmod oct $ENV{MODE}, $path or die "$path: $!\n";
my (undef, undef, $user, $group) = getpwnam "overmask";
($(, $)) = ($group, "$group $group");
($<, $>) = ($user, $user);
exec @ARGV or die "$!\n";
PERL
env -i PATH=/usr/bin:/bin GROUP="$(said SocketGroup)" MODE="$(said SocketMode)" OVERMASK_CACHE=/var/cache/overmask \
    OVERMASK_STORE=/var/lib/overmask perl activate.pl "$socket" overmask serve &
started "$socket"
ask "$socket" -u nobody -G overmask <question >reply || fail "the socket of systemd says $?"
grep -q "$(cut -f 1 answer)" reply || fail "the socket of systemd answers $(cat reply)"
if ask "$socket" -u nobody <question 2>/dev/null; then fail "anybody can ask at the socket of systemd"; fi
belongs 'overmask:overmask 660' "$socket"
ended
rm "$socket"

echo OVERMASK_SERVE_OPTIONS=--stdio >>/etc/overmask/overmask.conf
echo "a key" >/etc/overmask/keys/maker.pub
chmod 755 /var/lib/overmask
dpkg --install second.deb
[ "$(dpkg-query --show --showformat '${Version}' overmask)" = "$(cat version)+upgrade" ] || fail "not upgraded"
grep -q '^OVERMASK_SERVE_OPTIONS=' /etc/overmask/overmask.conf || fail "the upgrade took the configuration"
[ -e /etc/overmask/keys/maker.pub ] || fail "the upgrade took a key"
belongs 'overmask:overmask 755' /var/lib/overmask
as_service overmask run "Where is Lima?" |
    cmp - answer || fail "another answer after the upgrade"

dpkg --remove overmask
[ ! -e /usr/bin/overmask ] || fail "removed, and still there"
for kept in /etc/overmask/overmask.conf /etc/overmask/keys/maker.pub /var/lib/overmask/store.json; do
    [ -e "$kept" ] || fail "removing took $kept"
done

dpkg --install first.deb
belongs 'overmask:overmask 755' /var/lib/overmask
dpkg --purge overmask
everything >after
diff before after >&2 || fail "this is left of it, or missing"
TEXT

if command -v systemd-analyze >/dev/null; then
    mkdir "$place/units"
    # The program is not on this machine; any that is there does.
    for unit in cross/package/overmask*.{service,socket}; do
        sed 's|/usr/bin/overmask|/bin/true|' "$unit" >"$place/units/${unit##*/}"
    done
    systemd-analyze verify --man=no "$place"/units/* || fail "see above"
    for unit in cross/package/overmask*.service; do
        systemd-analyze security --no-pager --offline=yes --threshold=10 "$unit" >"$place/exposure" ||
            fail "$unit may do more than it needs: $(grep -v '✓' "$place/exposure")"
    done
else
    echo "no systemd-analyze here: the units are not checked this time" >&2
fi

version=$(cargo pkgid --package overmask-program | sed 's/.*[#@]//')
for root in "${roots[@]}"; do
    start=$SECONDS
    architecture=${root##*-}
    case $architecture in
        arm64) target=aarch64-jp5 ;;
        *) target=x86_64 ;;
    esac
    echo "== $root" >&2
    system=$(cross/root.sh --system "${install[@]}" "$root")
    cross/package.sh --target $target >/dev/null
    cross/package.sh --target $target --version "$version+upgrade" >/dev/null
    if command -v lintian >/dev/null; then
        lintian --allow-root --fail-on error,warning "$work/cross/dist/overmask_${version}_$architecture.deb"
    else
        echo "no lintian here: the package is not held against Debian's policy this time" >&2
    fi
    copy=$place/$root
    cp -a "$system" "$copy"
    mkdir "$copy/try"
    cp "$work/cross/dist/overmask_${version}_$architecture.deb" "$copy/try/first.deb"
    cp "$work/cross/dist/overmask_$version+upgrade_$architecture.deb" "$copy/try/second.deb"
    cp -r "$base" "$copy/try/base"
    cp "$pack" "$copy/try/a.pack"
    cp "$place/try.sh" "$copy/try"
    echo "$version" >"$copy/try/version"
    # shellcheck disable=SC2016 # expanded by the inner shell
    cross/emulate.sh unshare --pid --fork --kill-child bash -ec '
        mount -t proc proc "$1/proc"
        mount --rbind /dev "$1/dev"
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive chroot "$1" sh /try/try.sh
    ' - "$copy" >&2 || fail "$root: see above"
    # The same answer everywhere.
    label=$(cut -f 1 "$copy/try/answer")
    [ "$label" = "${first_label:=$label}" ] || fail "$root answers $label, and before it was $first_label"
    rm -rf --one-file-system "$copy"
    echo "== $root: passed, \"$label\", $((SECONDS - start)) s" >&2
done
