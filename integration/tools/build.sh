#!/bin/bash
# Builds crictl from the Go module proxy into target/tools. Without Go the tests that need it are skipped, loudly; where CI is
# true that is an error.
set -euo pipefail
cd "$(dirname "$0")"
PATH=$PATH:/usr/local/go/bin
out=$(cd ../.. && pwd)/target/tools

# An old Go cannot read go.mod: the same as none.
if ! version=$(go list -m -f '{{.Version}}' sigs.k8s.io/cri-tools); then
    echo "tools: NO GO of the age that integration/tools/go.mod asks: what is tested through crictl is SKIPPED" >&2
    [ "${CI:-}" != true ]
    exit
fi
if [ "$("$out/crictl" --version 2>/dev/null)" != "crictl version $version" ]; then
    echo "tools: building crictl $version"
    mkdir -p "$out"
    CGO_ENABLED=0 nice go build -trimpath -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$version" \
        -o "$out/crictl" sigs.k8s.io/cri-tools/cmd/crictl
fi
