#!/bin/bash
# In the guest of smoke.sh: installs berth as deploy/berth.service says, runs the demo against it, and looks at the shim
# and at commands in containers.
set -uo pipefail

uname -sr
echo "cgroup: $(stat -fc %T /sys/fs/cgroup), $(systemctl --version | head -1), $(containerd --version | awk '{ print $1, $3 }')"
install -m 755 berth containerd-shim-berth-v1 /usr/local/bin/
install -m 644 deploy/berth.service /etc/systemd/system/berth.service
install -D -m 644 deploy/config.toml /etc/berth/config.toml
systemctl daemon-reload
systemctl start berth
for _ in $(seq 300); do
    berth get pods >/dev/null 2>&1 && break
    sleep 0.2
done
BERTH=/usr/local/bin/berth scripts/demo.sh --socket /run/berth/berth.sock --restart 'systemctl restart berth'
code=$?
bash ./guest-shim.sh || code=1
bash ./guest-exec.sh || code=1
if [ $code != 0 ]; then
    journalctl -u berth --no-pager | tail -60
    tail -v -n 40 /run/berth/shims/*/shim.log
fi
berth down && systemctl stop berth || code=1
# The shim of ctr's containers lingers for a moment.
for _ in $(seq 100); do
    pgrep containerd >/dev/null || break
    sleep 0.2
done
if pgrep -a containerd; then
    echo "berth down left a containerd or a shim"
    code=1
fi
exit $code
