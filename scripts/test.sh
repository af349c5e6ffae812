#!/bin/bash
# Every check but the VM's: formatting, lints, the stand-in images, unit tests and integration tests, those of pods and shims
# on two containerds and two shims. As root, or with sudo for the test programs alone. Where CI is true nothing may be skipped.
# The last line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export PATH=$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0
failed=0

if [ "$(id -u)" != 0 ]; then
    # Cargo builds as the user; only the test programs become root.
    machine=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${machine}_RUNNER=sudo --preserve-env"
    sudo=sudo
fi

main() {
    step "formatting" cargo fmt --check
    step "lints" cargo clippy --quiet --locked --all-targets --all-features -- -D warnings
    step "crictl and containerd 2" integration/tools/build.sh
    step "stand-in images" integration/images/build.sh target/images
    step "stand-in images on stock containerd" ${sudo:-} integration/images/check.sh target/images
    tests "all, on the distribution's containerd and our shim" cargo test --locked --all-features --no-fail-fast
    matrix
    echo
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}

# The other shim and the other containerd: what pods do and survive on them, and what each shim is held to.
matrix() {
    local pods=(cargo test --locked --all-features --no-fail-fast --test cri --test crash)
    local behaviour=(cargo test --locked --all-features --no-fail-fast --test shim)
    local containerd=$PWD/target/tools/containerd-2/containerd
    tests "pods, on the stock shim" env BERTH_TEST_HANDLER=stock "${pods[@]}"
    tests "the stock shim itself" env BERTH_TEST_SHIM=stock "${behaviour[@]}"
    if [ ! -x "$containerd" ]; then
        echo "== SKIPPED: no containerd 2 at $containerd (make tools)"
        if [ "${CI:-}" = true ]; then failed=$((failed + 1)); fi
        return
    fi
    tests "pods, on containerd 2 and the stock shim" env BERTH_TEST_HANDLER=stock BERTH_TEST_CONTAINERD="$containerd" "${pods[@]}"
    tests "pods, on containerd 2" env BERTH_TEST_CONTAINERD="$containerd" "${pods[@]}"
    tests "our shim itself, on containerd 2" env BERTH_TEST_CONTAINERD="$containerd" "${behaviour[@]}"
    tests "the stock shim itself, on containerd 2" env BERTH_TEST_CONTAINERD="$containerd" BERTH_TEST_SHIM=stock "${behaviour[@]}"
}

# step TITLE COMMAND...: counts as one.
step() {
    local title=$1
    shift
    echo "== $title"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "== FAILED: $title"
    fi
}

# tests TITLE CARGO TEST...: counts what each test program counts; one that does not even build or that dies is a failure.
tests() {
    local good bad code
    echo "== tests: $1"
    shift
    "$@" 2>&1 | tee "$log"
    code=$?
    read -r good bad < <(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed;.*/\1 \2/p' "$log" |
        awk '{ good += $1; bad += $2 } END { print good + 0, bad + 0 }')
    if [ "$code" != 0 ] && [ "$bad" = 0 ]; then bad=1; fi
    passed=$((passed + good))
    failed=$((failed + bad))
}

main
