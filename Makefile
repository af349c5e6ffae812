# berth's commands. Each installs what it needs first (scripts/setup.sh), as root or through sudo.
#
#   make demo       build, start berth in a scratch directory, run the init-container pod and show the proof
#   make build      berth and containerd-shim-berth-v1, side by side in target/$(PROFILE)
#   make test       formatting, lints, unit and integration tests
#   make vm-smoke   the demo in a Debian 13 guest, with berth as a systemd unit
#   make bench      berth and containerd's CRI plugin in turns; ARGS="--exec-sync", "--probes", "--rounds 5" or --help
#   make images     the stand-in images, into target/images
#   make tools      crictl and a containerd 2, into target/tools

PROFILE ?= release
export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/sbin:/sbin
export BERTH := $(CURDIR)/target/$(PROFILE)/berth

cargo_profile := $(if $(filter release,$(PROFILE)),--release)

.PHONY: demo test vm-smoke bench setup build images tools

demo: setup build images
	scripts/demo.sh

test:
	scripts/setup.sh test
	scripts/test.sh

vm-smoke: build images
	scripts/setup.sh vm
	integration/vm/smoke.sh

bench:
	scripts/setup.sh bench
	scripts/bench.sh $(ARGS)

setup:
	scripts/setup.sh

build: setup
	cargo build --locked --bins $(cargo_profile)

images: setup
	integration/images/build.sh target/images

tools:
	integration/tools/build.sh
