# What can be done here; `make` alone says so.

# Some of Debian's servers are where only root looks.
export PATH := $(PATH):/usr/sbin:/sbin
# End-to-end tests mostly wait, so more of them run than there are cores.
export RUST_TEST_THREADS ?= 4
# What a failing test says is what one looks for in the output of a run; `make test RUST_BACKTRACE=1` says whence, too.
export RUST_BACKTRACE = 0

.DEFAULT_GOAL := help
.PHONY: help run test setup lint build fuzz memory storm bench capacity

help: ## This list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 16

run: ## A hub with one demo device on this machine, built without optimisation so that it is there soonest
	cargo run --bin mooring -- demo

test: setup lint build ## Everything that CI checks; installs what the tests need (tests/setup.sh)
	cargo test --workspace --no-fail-fast

setup: ## Install what building and testing need on Debian 12 beside Rust
	@sh tests/setup.sh

lint: ## Formatting, clippy, documentation: no warning is let through
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

build:
	cargo build --workspace --bins

fuzz: setup ## Search for inputs that break what reads from strangers, SECONDS (60) for each target (tests/fuzz)
	sh tests/fuzz/run.sh all $(or $(SECONDS),60)

memory: ## Memory and processor time of a release hub per connected device, with 10,000 of them
	cargo build --release --bins
	sh tests/measure.sh idle --devices 10000

storm: ## How soon 10,000 devices are back, on a release hub, whose connections were all cut at once
	cargo build --release --bins
	sh tests/measure.sh storm --devices 10000 --within 60

bench: ## Every budget of a release hub against the least that a server has to do: a table, target/bench.json and .html
	cargo build --release --bins
	sh tests/measure.sh bench --json target/bench.json --html target/bench.html $(ARGUMENTS)

capacity: ## 90,000 devices on five release hubs for ten minutes, with a hundred terminals across nodes
	cargo build --release --bins
	sh tests/measure.sh --hubs 5 connect --devices 90000 --processes 5 --hold 600 --terminals 100 --patience 2400 \
		--json target/capacity.json --html target/capacity.html $(ARGUMENTS)
