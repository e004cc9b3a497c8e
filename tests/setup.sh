#!/bin/sh
# Installs what building and testing need on Debian 12 beside Rust. Does nothing, quickly, when everything is there.
set -eu
PATH=$PATH:/usr/sbin:/sbin

missing=""
# need COMMAND PACKAGE…: the packages, unless the command is there.
need() {
    command=$1
    shift
    command -v "$command" >/dev/null 2>&1 || missing="$missing $*"
}

need gcc gcc libc6-dev
# For `make fuzz` alone: libFuzzer is built from its source.
need g++ g++
need make make
need pkg-config pkg-config
need openssl openssl
need setpriv util-linux
need tmux tmux
need redis-server redis-server
need nats-server nats-server
need dbus-daemon dbus-daemon
need dbus-send dbus-bin
need curl curl
need mender mender-client
need mender-connect mender-connect
need mender-artifact mender-artifact
need mender-cli mender-cli
/usr/bin/python3 -c "import aiosmtpd" 2>/dev/null || missing="$missing python3-aiosmtpd"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need initdb postgresql
[ -f /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"

for tool in cargo rustfmt cargo-clippy; do
    if ! command -v "$tool" >/dev/null 2>&1; then
        echo "tests/setup.sh: $tool is missing: install Rust with rustfmt and clippy first" >&2
        exit 1
    fi
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "tests/setup.sh: no apt-get here; install by other means:$missing" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || { echo "tests/setup.sh: be root, or have sudo, to install:$missing" >&2; exit 1; }
    as_root=sudo
fi
echo "tests/setup.sh: installing$missing"

# The tests start private servers; those of the packages stay down.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi
$as_root apt-get update -q
# shellcheck disable=SC2086 # a list of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
if [ -d /run/systemd/system ]; then
    $as_root systemctl disable --now mender-client mender-connect 2>/dev/null || true
fi
