#!/bin/sh
# Searches for inputs that break a reader, guided by coverage (libFuzzer). On stable Rust: no sanitizer, which safe code
# needs little of, but the same counters that cargo-fuzz asks the compiler for.
#
#   tests/fuzz/run.sh                    every target, 60 s each
#   tests/fuzz/run.sh message            one target, 60 s
#   tests/fuzz/run.sh message 600        one target, 10 minutes
#   tests/fuzz/run.sh all 1800           every target, half an hour each, two side by side
#
# New inputs that reach new code go to tests/fuzz/found/TARGET, inputs that break something to tests/fuzz/artifacts.
# To see one of the latter again: tests/fuzz/run.sh message FILE
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
wanted=${1:-all}
argument=${2:-60}
targets=$(for file in src/bin/*.rs; do basename "$file" .rs; done)
if [ "$wanted" != all ]; then
    if [ ! -f "src/bin/$wanted.rs" ]; then
        echo "tests/fuzz/run.sh: no target $wanted; there are:" $targets >&2
        exit 2
    fi
    targets=$wanted
fi

# A target given by name keeps build scripts and macros, which run on this machine, free of counters.
machine=$(rustc -vV | sed -n 's/^host: //p')
target_dir=${CARGO_TARGET_DIR:-$here/target}
counters="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
counters="$counters -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
counters="$counters -Cllvm-args=-sanitizer-coverage-trace-compares"
# The versions that the hub is built with, and none of our own to keep up to date.
cp ../../Cargo.lock Cargo.lock
RUSTFLAGS="$counters" CARGO_TARGET_DIR="$target_dir" cargo build --release --target "$machine" --bins

# run TARGET: searches from what is known; prints its counters at the end.
run() {
    program="$target_dir/$machine/release/$1"
    mkdir -p "found/$1" artifacts
    dictionary=""
    [ ! -f "$1.dict" ] || dictionary="-dict=$1.dict"
    if "$program" "found/$1" "corpus/$1" $dictionary -artifact_prefix="artifacts/$1-" -max_len=16384 -timeout=10 \
        -rss_limit_mb=2048 -max_total_time="$argument" -print_final_stats=1 >"artifacts/$1.log" 2>&1; then
        grep -E 'INITED|DONE' "artifacts/$1.log" | sed "s/^/$1: /"
    else
        tail -n 40 "artifacts/$1.log" | sed "s/^/$1: /"
        return 1
    fi
}

if [ -f "$argument" ]; then
    exec "$target_dir/$machine/release/$wanted" "$argument"
fi
failed=""
set -- $targets
while [ $# -gt 0 ]; do
    run "$1" & first=$!
    second=""
    if [ $# -gt 1 ]; then
        run "$2" & second=$!
    fi
    wait "$first" || failed="$failed $1"
    if [ -n "$second" ]; then
        wait "$second" || failed="$failed $2"
        shift
    fi
    shift
done
if [ -n "$failed" ]; then
    echo "tests/fuzz/run.sh: broken:$failed; the inputs are in tests/fuzz/artifacts" >&2
    exit 1
fi
