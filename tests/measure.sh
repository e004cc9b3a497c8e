#!/bin/sh
# Measures a release hub with simulated devices: measure.sh idle|keystrokes|storm [ARGUMENTS…]
# The hub is embedded, lives in a temporary folder, and ends with this script.
set -eu
cd "$(dirname "$0")/.."

# A socket per device on each side.
ulimit -n "$(ulimit -H -n)"
programs=${CARGO_TARGET_DIR:-target}/release
folder=$(mktemp -d)
hub=""
trap '[ -z "$hub" ] || kill "$hub" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT INT TERM

scenario=${1:?idle, keystrokes or storm}
shift
port=${MOORING_PORT:-18080}
export MOORING_DATA_DIR="$folder" MOORING_LOG=warn
# All devices come from one address here, and at once.
export MOORING_API__AUTH_REQUEST_LIMIT__QUOTA=0 MOORING_API__LOGIN_LIMIT__QUOTA=0
password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
echo "$password" | "$programs/mooring" user add load@example.com --password-stdin >/dev/null
"$programs/mooring" serve --listen "127.0.0.1:$port" &
hub=$!
set -- "$scenario" --server "http://127.0.0.1:$port" --user load@example.com --password-stdin "$@"
[ "$scenario" = idle ] && set -- "$@" --pid "$hub"
tries=0
until "$programs/mooring" devices --server "http://127.0.0.1:$port" --user load@example.com --password-stdin \
    >/dev/null 2>&1 <<EOF
$password
EOF
do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] && kill -0 "$hub" || { echo "measure.sh: the hub does not start" >&2; exit 1; }
    sleep 0.1
done
unset MOORING_DATA_DIR MOORING_LOG MOORING_API__AUTH_REQUEST_LIMIT__QUOTA MOORING_API__LOGIN_LIMIT__QUOTA
echo "$password" | "$programs/loadtest" "$@"
