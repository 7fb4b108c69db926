# What one does with this source tree. `make` alone lists it.

# Programs that the demo and the tests start; tests/install.sh knows their packages.
DEMO_NEEDS := cc slapd ldapadd nsd openssl
TEST_NEEDS := $(DEMO_NEEDS) systemd-analyze faketime samba mdb_copy ns-slapd dscreate setpriv promtool

# DEMO=once: the demo ends by itself.
DEMO ?=

.DEFAULT_GOAL := help
.PHONY: help demo build test console-test kerberos lint doc soak bench deny bless

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Show Homeward at work on a real OpenLDAP in a temporary folder (DEMO=once: end by itself)
	@tests/install.sh $(DEMO_NEEDS)
	@echo "Building; the first time this takes a few minutes."
	@cargo build --bin homeward --example demo
	@cargo run --quiet --example demo -- $(DEMO)

build: ## Build the program as it is installed: target/release/homeward
	cargo build --release --bin homeward

test: ## Check everything: format, lints, tests, documentation
	tests/install.sh $(TEST_NEEDS)
	$(MAKE) lint
	cargo test --lib
	cargo test --bins --tests
	cargo test --doc
	$(MAKE) doc

console-test: ## Look at the console in headless Chromium (needs node and npm; screens in target/console-test)
	@command -v npm >/dev/null || { echo "node and npm are missing; install them: apt-get install nodejs npm"; exit 1; }
	tests/install.sh $(DEMO_NEEDS) chromium
	mkdir -p target/console-test && cp tests/console/package.json target/console-test/
	npm install --prefix target/console-test --no-audit --no-fund --no-package-lock --silent
	cargo build --bin homeward --example console-test
	cargo run --quiet --example console-test

lint: ## Check the format and the lints
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

doc: ## Build the documentation of the code; a warning is an error
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

kerberos: ## Test binding by Kerberos (a build of its own, with the feature gssapi)
	tests/install.sh samba ldapadd openssl krb5-config
	cargo clippy --all-targets --features gssapi -- -D warnings
	cargo test --features gssapi --lib directory::kerberos
	cargo test --features gssapi --test kerberos

soak: ## Run the tests with many more seeds
	tests/install.sh $(TEST_NEEDS)
	HOMEWARD_SOAK=1 HOMEWARD_SEEDS=5000 cargo test --tests

bench: ## Measure beside the directory's own tools (release build); results in target/bench/results.json
	tests/install.sh $(DEMO_NEEDS) samba mdb_copy
	cargo build --release --bin homeward --example bench
	cargo run --quiet --release --example bench

deny: ## Check dependencies: bans, licences, sources, and advisories where their database can be had (needs cargo-deny)
	@command -v cargo-deny >/dev/null || { echo "cargo-deny is missing; install it: cargo install --locked cargo-deny"; exit 1; }
	cargo deny --all-features check bans licenses sources
	@echo "Bans, licences and sources are fine. Advisories:"
	@if cargo deny fetch db >/dev/null 2>&1; then cargo deny --all-features check advisories; \
	else echo "NOT CHECKED: the advisory database (github.com/RustSec/advisory-db) is out of reach; repeat with a network: make deny"; fi

bless: ## Take what the program prints now as what it should print; then read the difference
	HOMEWARD_BLESS=1 cargo test --tests
	git diff --stat
