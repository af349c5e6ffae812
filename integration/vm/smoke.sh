#!/bin/bash
# Boots a Debian 13 guest (cgroup v2, systemd, containerd 1.7), installs berth there as the systemd unit of deploy/, and runs
# the demo against it, with a restart of the unit in the middle (guest-smoke.sh); then looks at the shim
# (guest-shim.sh) and at commands in containers (guest-exec.sh).
#
#   integration/vm/smoke.sh       env: BERTH, the binary (target/release/berth), with the shim beside it; and what boot.sh reads
#
# Ends with `N passed, N failed`, the guest's own counts.
set -euo pipefail
cd "$(dirname "$0")/../.."
berth=${BERTH:-target/release/berth}

# The guest's image needs root. So does nothing else here, but one door is simpler than two.
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=BERTH,VM_ACCEL,VM_TIMEOUT,VM_MEMORY,VM_SUITE -- "$0" "$@"

image=$(integration/vm/image.sh)
work=$(mktemp -d /tmp/berth-smoke.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/payload/{scripts,target}
cp -r examples deploy "$work/payload/"
cp scripts/demo.sh scripts/checks.sh "$work/payload/scripts/"
cp integration/vm/guest-smoke.sh "$work/payload/run.sh"
cp integration/vm/guest-shim.sh integration/vm/guest-exec.sh integration/vm/shim-pod.yaml "$work/payload/"
cp -r target/images "$work/payload/target/"
# Symbols are a debug build's bulk, and the guest has no use for them.
for binary in "$berth" "$(dirname "$berth")/containerd-shim-berth-v1"; do
    strip -o "$work/payload/$(basename "$binary")" "$binary"
done

code=0
integration/vm/boot.sh "$image" "$work/payload" | tee "$work/log" || code=1
read -r good bad < <(awk '/^[0-9]+ passed, [0-9]+ failed$/ { good += $1; bad += $3 } END { print good + 0, bad + 0 }' "$work/log")
# A guest that died or hung has failed, whatever it counted before.
if [ "$code" != 0 ] && [ "$bad" = 0 ]; then bad=1; fi
echo "$good passed, $bad failed"
exit "$code"
