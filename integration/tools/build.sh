#!/bin/bash
# Builds crictl from the Go module proxy into target/tools. Without Go the tests that need it are skipped, loudly; where CI is
# true that is an error.
set -euo pipefail
cd "$(dirname "$0")"
PATH=$PATH:/usr/local/go/bin
out=$(cd ../.. && pwd)/target/tools

if ! command -v go >/dev/null; then
    echo "tools: NO GO: crictl cannot be built, and what is tested through it is SKIPPED (install golang)" >&2
    [ "${CI:-}" = true ] && exit 1
    exit 0
fi
version=$(go list -m -f '{{.Version}}' sigs.k8s.io/cri-tools)
if [ "$("$out/crictl" --version 2>/dev/null)" != "crictl version $version" ]; then
    echo "tools: building crictl $version"
    mkdir -p "$out"
    CGO_ENABLED=0 nice go build -trimpath -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$version" \
        -o "$out/crictl" sigs.k8s.io/cri-tools/cmd/crictl
fi
