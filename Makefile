# Everything a contributor runs. CI runs `make test` and nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.cache/bin:$(PATH)

.PHONY: docs help setup build release dist dist-twice demo demo-cluster demo-jit demo-aws test unit parity chaos campaigns simulate cluster bench bench-wiping unwiped advisory-facts fuzz fmt lint advisories clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
	    printf '  make %-12s %s\n' "$$name" "$$text"; done

setup: ## bring PostgreSQL, OpenBao and the tools (quick when they are there)
	@scripts/setup

build: ## build the plugin: target/debug/leasehold
	@cargo build --locked

release: ## build the plugin as it is shipped: target/release/leasehold
	@cargo build --locked --release

dist: ## build the release without a trace of where, and pack it in dist/: OCI image, Debian package, SBOM, checksums
	@scripts/dist

dist-twice: ## build and pack the last commit twice, in different places, and compare the checksums
	@scripts/dist --twice

demo: setup build ## see a user come and go: about ten seconds, everything cleaned up (KEEP=1 leaves it running)
	@scripts/demo

demo-jit: setup build ## see access asked for, agreed to, used, over and proven (KEEP=1 leaves it running)
	@scripts/demo-jit

demo-cluster: setup build ## see three nodes and a sidecar, and the active node killed: under a minute, everything cleaned up
	@scripts/demo-cluster

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

# Ten thousand are part of `make test`, without optimisation.
simulate: export LEASEHOLD_SIMULATION_SEEDS = $(or $(SEEDS),1000000)
simulate: ## the engine's core by SEEDS=1000000 seeds; one of them, told in all its steps: SEED=…
	@$(if $(SEED),LEASEHOLD_SIMULATION_SEED=$(SEED) LEASEHOLD_SIMULATION_TELLS=1 )cargo nextest run --locked \
	    --profile campaigns --lib --release --config 'profile.release.package.leasehold.opt-level=1' --success-output immediate -- simulation::whatever_happens

# The short form is part of `make test`.
cluster: export LEASEHOLD_CLUSTER_KILLS ?= 10
cluster: export LEASEHOLD_CLUSTER_SECONDS ?= 8
cluster: export LEASEHOLD_CLUSTER_TO_THE_END ?= 1
cluster: setup ## three nodes under load: ten failovers and an upgrade, about eight minutes
	@cargo nextest run --locked --profile cluster --test it --no-capture -- cluster::

docs: ## write the references in docs/ from the tables in the source
	@LEASEHOLD_WRITE_DOCS=1 cargo nextest run --locked --lib -- the_field_reference_is_up_to_date \
	    the_documented_metrics_are_those_that_there_are

bench: setup ## mints and revocations a second, beside the built-in engine: an hour and more (ARGS=--help: parts of it, or raft)
	@cargo bench --locked --bench creds -- $(ARGS)

bench-wiping: setup ## what wiping costs: mints a second beside a build that wipes only its own types
	@scripts/build-unwiped --release
	@cargo bench --locked --bench creds -- --beside target/unwiped/types $(ARGS)

unwiped: setup ## what wiping is for: copies of secrets in the memory of builds that wipe less
	@scripts/build-unwiped
	@LEASEHOLD_UNWIPED=target/unwiped cargo nextest run --locked --test it --no-capture -- notrace::what_wiping_is_for

advisory-facts: ## write tests/advisories.tsv anew from a clone of the RustSec database (DB=…)
	@scripts/advisory-facts $(DB)

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
	@rm -rf .cache dist
