#!/bin/sh
# Measures release hubs with simulated devices:
#
#   measure.sh [--hubs N] [--postgres] SCENARIO [ARGUMENTS…]   a scenario of `loadtest`
#   measure.sh bench [ARGUMENTS…]                              every budget, against floors that run beside the hub, and
#                                                              a second hub for what TLS takes
#
# One hub is embedded; with --postgres it has a Postgres, and several hubs have Redis and NATS too. All of it lives in a
# temporary folder and ends with this script. LOAD_PORT is the first of the ports that are used (18080), LOAD_PROGRAMS
# where the programs are (target/release).
set -eu
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

# A socket per device on each side.
ulimit -n "$(ulimit -H -n)"
programs=${LOAD_PROGRAMS:-${CARGO_TARGET_DIR:-target}/release}
folder=$(mktemp -d)
started=""
autogroup_switch=/proc/sys/kernel/sched_autogroup_enabled autogroup=""
finish() {
    # The hubs first: they say goodbye to the servers.
    for pid in $started; do kill "$pid" 2>/dev/null || true; done
    wait
    [ -z "$autogroup" ] || echo "$autogroup" >"$autogroup_switch"
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT TERM

hubs=1
postgres=""
while :; do
    case ${1:-} in
    --hubs) hubs=$2; shift 2 ;;
    --postgres) postgres=yes; shift ;;
    *) break ;;
    esac
done
[ "$hubs" -gt 1 ] && postgres=yes
scenario=${1:?which scenario of loadtest, or bench}
shift
port=${LOAD_PORT:-18080}

start() { # LOG PROGRAM ARGUMENTS…
    log=$folder/$1
    shift
    "$@" >"$log" 2>&1 &
    started="$! $started"
}

until_answers() { # WHAT LOG COMMAND…
    what=$1 log=$folder/$2 tries=0
    shift 2
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { echo "measure.sh: $what does not start:" >&2; cat "$log" >&2; exit 1; }
        sleep 0.1
    done
}

listens() { # PORT
    grep -q ":$(printf %04X "$1") 00000000:0000 0A" /proc/net/tcp
}

# Every connection of Postgres is a session of its own for the kernel, and to each of these it gives as much of the processors
# as to all hubs together, whatever was said of its processes. A run that is killed (SIGKILL) leaves the switch at 0.
let_processes_count_not_sessions() {
    [ "$(cat "$autogroup_switch" 2>/dev/null)" = 1 ] || return 0
    if echo 0 2>/dev/null >"$autogroup_switch"; then
        autogroup=1
    else
        echo "measure.sh: Postgres gets in the way of the hubs: $autogroup_switch is 1, and only root can change that" >&2
    fi
}

start_postgres() {
    tools=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort | tail -n 1)
    as=""
    if [ "$hubs" -gt 1 ]; then
        # Several hubs come before it on the processors: there it would have a machine of its own.
        as="chrt --idle 0"
        let_processes_count_not_sessions
    fi
    mkdir "$folder/postgres"
    # It refuses to run as root.
    if [ "$(id -u)" = 0 ]; then
        as="$as setpriv --reuid=postgres --regid=postgres --clear-groups"
        chmod 711 "$folder"
        chown postgres "$folder/postgres"
    fi
    (cd "$folder/postgres" && $as "$tools/initdb" --no-sync --auth=trust --username=postgres --encoding=UTF8 --locale=C \
        --pgdata "$folder/postgres" >/dev/null)
    start postgres.log $as "$tools/postgres" -D "$folder/postgres" -p $((port + 50)) -k "" -h 127.0.0.1 -c max_connections=400
    until_answers Postgres postgres.log "$tools/pg_isready" --quiet --host=127.0.0.1 --port $((port + 50))
    export MOORING_DATABASE_URL="postgres://postgres@127.0.0.1:$((port + 50))/postgres"
}

start_redis_and_nats() {
    start redis.log redis-server --bind 127.0.0.1 --save "" --appendonly no --dir "$folder" --port $((port + 51))
    start nats.log nats-server -a 127.0.0.1 -p $((port + 52))
    until_answers Redis redis.log redis-cli -p $((port + 51)) ping
    until_answers NATS nats.log listens $((port + 52))
    export MOORING_REDIS_URL="redis://127.0.0.1:$((port + 51))" MOORING_NATS_URL="nats://127.0.0.1:$((port + 52))"
    export MOORING_OBJECTS_URL="file:$folder/objects"
    mkdir -p "$folder/objects"
}

email=load@example.com
password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
as_operator() { # COMMAND…
    "$@" --user "$email" --password-stdin <<END
$password
END
}

add_operator() { # NUMBER
    mkdir -p "$folder/hub$1"
    echo "$password" | MOORING_DATA_DIR="$folder/hub$1" "$programs/mooring" user add "$email" --password-stdin >/dev/null
}

start_hub() { # NUMBER [https]
    start "hub$1.log" env MOORING_DATA_DIR="$folder/hub$1" \
        "$programs/mooring" serve --listen "127.0.0.1:$((port + $1))"
    hub_pid=$!
    hub_pids="${hub_pids:+$hub_pids,}$hub_pid"
    until_answers "hub $1" "hub$1.log" \
        as_operator "$programs/mooring" devices --server "${2:-http}://127.0.0.1:$((port + $1))"
}

start_tls_hub() { # NUMBER
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost \
        -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
        -keyout "$folder/key.pem" -out "$folder/cert.pem" 2>/dev/null
    # All that calls a hub from here trusts it.
    export SSL_CERT_FILE="$folder/cert.pem" MOORING_API__TLS_CERT="$folder/cert.pem" MOORING_API__TLS_KEY="$folder/key.pem"
    add_operator "$1"
    start_hub "$1" https
    unset MOORING_API__TLS_CERT MOORING_API__TLS_KEY
    hub_pids=${hub_pids%,*}
}

hub_pids=""
export MOORING_LOG=warn
# As often as the floor pings, or the least would be done less often.
if [ "$scenario" = bench ]; then export MOORING_API__SOCKETS__PING_EVERY=30s; fi
# All devices come from one address here, and at once; one operator listens and types for all.
export MOORING_API__AUTH_REQUEST_LIMIT__QUOTA=0 MOORING_API__LOGIN_LIMIT__QUOTA=0 MOORING_ACTORS__SESSIONS__PER_USER=100000
if [ -n "$postgres" ]; then start_postgres; fi
if [ "$hubs" -gt 1 ]; then start_redis_and_nats; fi
# Floors check the tokens that hubs sign.
openssl genpkey -algorithm ED25519 -out "$folder/device-tokens.pem" 2>/dev/null
export MOORING_ACTORS__DEVICE_KEY_FILE="$folder/device-tokens.pem"
add_operator 0
number=0
others=""
while [ "$number" -lt "$hubs" ]; do
    start_hub "$number"
    [ "$number" = 0 ] || others="$others --and-server http://127.0.0.1:$((port + number))"
    number=$((number + 1))
done

start_floor() { # NAME PORT ARGUMENTS…
    name=$1 floor_port=$2
    shift 2
    start "$name$floor_port.log" "$programs/floor" "$name" --listen "127.0.0.1:$floor_port" "$@"
    floor_pid=$!
    until_answers "floor $name" "$name$floor_port.log" listens "$floor_port"
}

case $scenario in
bench)
    start_floor http $((port + 60)) --key "$folder/device-tokens.pem"
    set -- --floor-http "http://127.0.0.1:$((port + 60))" --floor-http-pid "$floor_pid" "$@"
    start_floor relay $((port + 61))
    set -- --floor-relay "127.0.0.1:$((port + 61))" --floor-relay-pid "$floor_pid" "$@"
    start_floor websocket $((port + 62))
    set -- --floor-websocket "http://127.0.0.1:$((port + 62))" --floor-websocket-pid "$floor_pid" "$@"
    start_tls_hub 1
    set -- --tls-server "https://127.0.0.1:$((port + 1))" --tls-pid "$hub_pid" "$@"
    ;;
storm)
    number=0
    while [ "$number" -lt "$hubs" ]; do
        start_floor relay $((port + 70 + number))
        set -- --floor "127.0.0.1:$((port + 70 + number))" "$@"
        number=$((number + 1))
    done
    ;;
inventory)
    # Another hub on the same database, in which no report shares a transaction.
    if [ -n "$postgres" ]; then
        export MOORING_ACTORS__GATHER_REPORTS=false
        start_hub "$hubs"
        unset MOORING_ACTORS__GATHER_REPORTS
        set -- --against-single "http://127.0.0.1:$((port + hubs))" --single-pid "$hub_pid" "$@"
        hub_pids=${hub_pids%,*}
    fi
    ;;
esac
case $scenario in
keystrokes | searches) ;;
*) set -- --pid "$hub_pids" "$@" ;;
esac
case $scenario in
connect | storm) set -- $others "$@" ;;
esac
# What was for the hubs is not for the load test.
unset MOORING_LOG MOORING_API__AUTH_REQUEST_LIMIT__QUOTA MOORING_API__LOGIN_LIMIT__QUOTA MOORING_ACTORS__SESSIONS__PER_USER
unset MOORING_API__SOCKETS__PING_EVERY MOORING_ACTORS__DEVICE_KEY_FILE
unset MOORING_DATABASE_URL MOORING_REDIS_URL MOORING_NATS_URL MOORING_OBJECTS_URL
as_operator "$programs/loadtest" "$scenario" --server "http://127.0.0.1:$port" "$@"
