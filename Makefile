# Bulkhead's front door: `make help` lists what there is. Each target does the
# whole of what it needs, and what is done already is not done again.
#
# Whole nodes are tested in the test host, a disposable QEMU machine (see
# tests/host/README.md), and, without virtual machines, in namespaces
# (tests/e2e/apart.sh): this machine's own network, mounts and control groups stay as
# they are.

# Rust by rustup is found even in a shell that was never told.
export PATH := $(PATH):$(HOME)/.cargo/bin

TARGET   := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
PROGRAMS := $(TARGET)/programs
TESTHOST := $(TARGET)/debug/testhost
# Written to by commands in the test host; everything else there is forgotten.
RESULTS  := $(TARGET)/results

# A command in a test host of its own: it knows where the programs and the
# results are, and ends after so many seconds.
IN_HOST = mkdir -p $(RESULTS) && $(TESTHOST) run --share $(RESULTS) \
	--env BULKHEAD_BIN_DIR=$(PROGRAMS) --env BULKHEAD_RESULTS=$(RESULTS) --env CI

say = @printf '\n== %s: %s\n' '$(1)' '$(2)'

.PHONY: help setup kernel lint unit build host e2e conformance fuzz test demo bench clean
# The phases share two processors and one cargo lock: one after the other.
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

setup: ## install what building and testing need (Debian 12)
	$(call say,setup,packages and the kernel of the test host and Rust)
	tests/host/setup.sh

kernel: setup ## build the guest kernel, cached in ~/.cache/bulkhead
	$(call say,kernel,the guest kernel from Debian source)
	guest-kernel/build.sh

lint: setup ## formatting, clippy and documentation, all without a warning
	$(call say,lint,cargo fmt and clippy and doc)
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -q -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --workspace --no-deps -q

unit: setup ## unit tests: they need no virtual machine
	$(call say,unit,cargo test)
	proto/cri/fetch-debian-proto.sh
	cargo test --locked --workspace -q

build: setup kernel ## build every program
	$(call say,build,the daemon and the VMM and the agent and the tests)
	tests/host/build.sh

host: setup ## build the test host's command
	$(call say,host,the command that boots the test host)
	cargo build --locked -q -p bulkhead-testhost

e2e: build host ## whole-node tests, in test hosts
	$(call say,e2e,whole-node tests in test hosts)
	tests/e2e/run.sh $(TESTHOST) $(PROGRAMS) $(RESULTS)

conformance: build host ## critest, brought along as BULKHEAD_CRITEST=…: docs/conformance.md
	$(call say,conformance,critest in the test host)
	@test -x "$(BULKHEAD_CRITEST)" || { echo "say where critest is: BULKHEAD_CRITEST=/path make conformance"; exit 2; }
	shell=$$(tests/conformance/shell.sh) && $(IN_HOST) --env BULKHEAD_CRITEST --timeout 7200 -- \
		$(PROGRAMS)/bulkhead-e2e conformance --shell $$shell

fuzz: setup ## every fuzz target for a short while
	$(call say,fuzz,each fuzz target for a short while)
	tests/fuzz/run.sh

test: setup lint unit kernel build e2e fuzz ## all of the above: what CI runs
	$(call say,test,all passed)

demo: build host ## a pod in its own microVM, from an image to its removal
	$(call say,demo,a pod in its own microVM)
	$(IN_HOST) --timeout 600 -- $(PROGRAMS)/bulkhead-e2e demo

bench: build host ## benchmarks beside peers; tables here, JSON in target/results
	$(call say,bench,the start of a microVM beside QEMU)
	$(IN_HOST) --timeout 1800 -- $(PROGRAMS)/bulkhead-bench start --json $(RESULTS)/start.json
	$(call say,bench,a CRI load beside containerd with runc and with runsc)
	peers=$$(tests/bench/peers.sh) && $(IN_HOST) --timeout 3600 -- \
		$(PROGRAMS)/bulkhead-bench cri --beside $$peers --json $(RESULTS)/cri.json
	$(call say,bench,what each layer of an image costs)
	$(IN_HOST) --timeout 1800 -- $(PROGRAMS)/bulkhead-bench layers --json $(RESULTS)/layers.json
	$(call say,bench,the writer of layers beside mkfs.erofs)
	cargo build --quiet --release --locked -p bulkhead-erofs --example tar2erofs
	mkfs=$$(tests/bench/mkfs.sh) && $(PROGRAMS)/bulkhead-bench writer --mkfs $$mkfs \
		--ours $(TARGET)/release/examples/tar2erofs --json $(RESULTS)/writer.json
	$(call say,bench,pulls of images beside containerd)
	peers=$$(tests/bench/peers.sh) && status=0 && \
	pulls="$(PROGRAMS)/bulkhead-bench pull --bin-dir $(PROGRAMS) --beside $$peers" && \
	{ tests/e2e/apart.sh $$pulls --json $(RESULTS)/pull.json || status=$$?; } && \
	if [ $$status = 125 ]; then \
		$(IN_HOST) --timeout 3600 -- $$pulls --json $(RESULTS)/pull.json; \
	else exit $$status; fi

clean: ## remove what cargo built; caches in ~/.cache/bulkhead stay
	cargo clean
