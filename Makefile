# The commands of this repository. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# Given to the broker by `make run`: make run ARGS="--log-format json"
ARGS ?=
# What the load generator measures; `make bench BENCH_ARGS=--help` lists the choices.
BENCH_ARGS ?=
# Seconds for each fuzz target after its seeds have been run; 0 runs the seeds only.
FUZZ_SECONDS ?=
# For `make soak`.
HOURS ?= 1

.NOTPARALLEL:

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Start the broker on port 5672
	$(CARGO) run --release -p leveret -- $(ARGS)

.PHONY: test
test: check unit interop fuzz ## Everything that CI runs: check, unit, interop, fuzz

.PHONY: check
check: ## Format, lints, dependencies, house rules
	$(CARGO) fmt --all -- --check
	$(CARGO) metadata --locked --format-version 1 >/dev/null
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	tools/cargo-deny --log-level error check bans licenses sources
	$(CARGO) test --locked -p leveret-tidy

.PHONY: unit
unit: ## Tests of all crates, simulation included
	$(CARGO) test --locked --workspace

.PHONY: interop
interop: ## Real clients of other languages against the real binary
	$(CARGO) build --locked --release -p leveret
	interop-tests/run

.PHONY: fuzz
fuzz: ## Fuzz targets: all seeds, then FUZZ_SECONDS each on new input, without it a fixed number of runs
	tools/fuzz $(FUZZ_SECONDS)

.PHONY: bench
bench: ## Measure against the relay, and RabbitMQ if it is installed
	$(CARGO) build --locked --release -p leveret -p leveret-perf
	$(CARGO) run --locked --release -p leveret-perf -- bench $(BENCH_ARGS)

.PHONY: nightly
nightly: ## Up to 2 hours: known advisories, 100 times the property tests, 1,000 kills, 5 minutes a fuzz target
	tools/cargo-deny check advisories
	STORAGE_TIMES=60 TIMED_TIMES=30 PROPTEST_CASES=25600 $(CARGO) test --locked --workspace
	DURABILITY_KILLS=1000 $(CARGO) test --locked -p leveret --test durability kill -- --nocapture
	$(MAKE) interop
	$(MAKE) fuzz FUZZ_SECONDS=300

.PHONY: soak
soak: ## Repeat the interop programs for HOURS hours, until one fails
	end=$$(( $$(date +%s) + $(HOURS) * 3600 )); \
	while [ "$$(date +%s)" -lt "$$end" ]; do interop-tests/run; done

.PHONY: docs
docs: ## Documentation of all crates, in target/doc
	$(CARGO) doc --locked --workspace --no-deps

.PHONY: setup
setup: ## Install what `make test` needs beside the toolchains (Debian; needs root)
	tools/setup
