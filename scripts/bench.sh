#!/bin/bash
# Measures berth and containerd's CRI plugin in turns on this machine: pods, with --exec-sync commands, with --probes pods that
# are probed; or with --shims our shim and containerd's. Arguments go to the benchmark (--help tells them). Removes what it
# made. Needs the CNI plugins beside what berth needs, and is worth most on a machine with nothing else to do.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin

cargo build --quiet --release --locked --bins
# The client need not be fast: its own share of a call is small, and the same for both. This way it shares the tests' build.
cargo build --quiet --locked --example bench
if [ "$(id -u)" != 0 ]; then
    sudo=sudo
fi
exec ${sudo:-} target/debug/examples/bench --berth "$PWD/target/release/berth" \
    --shim "$PWD/target/release/containerd-shim-berth-v1" "$@"
