#!/bin/bash
# Builds from the Go module proxy, into target/tools: crictl, and a containerd of the 2.x line with its ctr and stock shim
# (containerd-2/). Without Go the tests that need them are skipped, loudly; where CI is true that is an error.
set -euo pipefail
cd "$(dirname "$0")"
PATH=$PATH:/usr/local/go/bin
out=$(cd ../.. && pwd)/target/tools

main() {
    local crictl containerd
    # An old Go cannot read go.mod: the same as none.
    if ! crictl=$(go list -m -f '{{.Version}}' sigs.k8s.io/cri-tools) ||
        ! containerd=$(cd containerd-2 && go list -m -f '{{.Version}}' github.com/containerd/containerd/v2); then
        echo "tools: NO GO of the age that integration/tools asks: what is tested through crictl and on containerd 2 is SKIPPED" >&2
        [ "${CI:-}" != true ]
        exit
    fi
    if [ "$("$out/crictl" --version 2>/dev/null)" != "crictl version $crictl" ]; then
        echo "tools: building crictl $crictl"
        build "$out/crictl" sigs.k8s.io/cri-tools/pkg/version.Version="$crictl" "" sigs.k8s.io/cri-tools/cmd/crictl
    fi
    if ! is_built "$containerd"; then
        echo "tools: building containerd $containerd"
        cd containerd-2
        containerd_2 "$containerd"
    fi
}

# Without what no test uses, the CRI plugin first of all: that is half of the time.
containerd_2() { # containerd_2 VERSION
    local module=github.com/containerd/containerd/v2
    mkdir -p "$out/containerd-2"
    build "$out/containerd-2/" $module/version.Version="$1" no_cri,no_tracing,no_rdt,no_systemd,no_btrfs,no_devmapper,no_zfs \
        $module/cmd/containerd $module/cmd/containerd-shim-runc-v2 $module/cmd/ctr
}

is_built() { # is_built VERSION: all three, of that version
    local program
    for program in containerd containerd-shim-runc-v2 ctr; do
        [[ "$("$out/containerd-2/$program" -v 2>/dev/null)" == *" $1"* ]] || return 1
    done
}

build() { # build OUTPUT VARIABLE=VERSION TAGS PACKAGE...
    local output=$1 version=$2 tags=$3
    shift 3
    mkdir -p "$out"
    CGO_ENABLED=0 nice go build -trimpath -tags "$tags" -ldflags "-s -w -X $version" -o "$output" "$@"
}

main
