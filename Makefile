# Everything a contributor runs. CI runs `make test` and nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.cache/bin:$(PATH)

.PHONY: docs help setup build release demo demo-jit demo-aws test unit parity chaos campaigns simulate bench fuzz fmt lint advisories clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
	    printf '  make %-12s %s\n' "$$name" "$$text"; done

setup: ## bring PostgreSQL, OpenBao and the tools (quick when they are there)
	@scripts/setup

build: ## build the plugin: target/debug/leasehold
	@cargo build --locked

release: ## build the plugin as it is shipped: target/release/leasehold
	@cargo build --locked --release

demo: setup build ## see a user come and go: about ten seconds, everything cleaned up (KEEP=1 leaves it running)
	@scripts/demo

demo-jit: setup build ## see access asked for, agreed to, used, over and proven (KEEP=1 leaves it running)
	@scripts/demo-jit

demo-aws: setup build ## see one of two sessions of an AWS role end: some ten seconds, everything cleaned up
	@scripts/demo-aws

test: setup lint ## all that must hold: format, lints, licences, every test
	@cargo nextest run --locked

unit: ## the tests that need no server
	@cargo nextest run --locked --lib --bins

parity: setup ## the table of requests against both engines, with the list of differences
	@cargo nextest run --locked --test it --no-capture -- parity::

# The short form is part of `make test`.
chaos: export LEASEHOLD_CHAOS_KILLS ?= 200
chaos: export LEASEHOLD_CHAOS_HOST_KILLS ?= 50
chaos: export LEASEHOLD_CHAOS_DATABASE_KILLS ?= 20
chaos: setup ## the kill campaign, long: about eight minutes (LEASEHOLD_CHAOS_SEED=… for another one like it)
	@cargo nextest run --locked --profile chaos --test it --no-capture -- chaos::

# The short form of each is part of `make test`.
campaigns: export LEASEHOLD_CAMPAIGN_LONG ?= 1
campaigns: setup ## faults of all kinds under load, long: some hours (LEASEHOLD_CAMPAIGN_SEED=… for others like them)
	@cargo nextest run --locked --profile campaigns --test it --no-capture -- faults::campaigns::

# Ten thousand are part of `make test`.
simulate: export LEASEHOLD_SIMULATION_SEEDS = $(or $(SEEDS),1000000)
simulate: ## the engine's core by SEEDS=1000000 seeds; one of them, told in all its steps: SEED=…
	@$(if $(SEED),LEASEHOLD_SIMULATION_SEED=$(SEED) LEASEHOLD_SIMULATION_TELLS=1 )cargo nextest run --locked \
	    --profile campaigns --lib --cargo-profile simulation --success-output immediate -- simulation::whatever_happens

docs: ## write docs/fields.md from the route table
	@LEASEHOLD_WRITE_DOCS=1 cargo nextest run --locked --lib -- the_field_reference_is_up_to_date

bench: setup ## mints and revocations a second, beside the built-in engine: about five minutes (ARGS=--help: less, or raft)
	@cargo bench --locked --bench creds -- $(ARGS)

fuzz: ## the fuzz targets, a million inputs each (RUNS=…), after a build of its own
	@scripts/fuzz

fmt: ## format the code
	@cargo fmt

lint: setup ## format, lints and licences, without changing anything
	@cargo fmt --check
	@cargo clippy --locked --all-targets --quiet -- -D warnings
	@cargo fetch --locked --quiet
	@cargo deny --offline --log-level error check --hide-inclusion-graph licenses bans sources

advisories: setup ## ask the RustSec database about the dependencies (needs a network)
	@cargo deny check advisories

clean: ## remove what was built and fetched
	@cargo clean
	@rm -rf .cache
