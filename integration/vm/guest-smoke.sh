#!/bin/bash
# In the guest of smoke.sh: installs berth as the README says, and runs the demo against it.
set -uo pipefail

uname -sr
echo "cgroup: $(stat -fc %T /sys/fs/cgroup), $(systemctl --version | head -1), $(containerd --version | awk '{ print $1, $3 }')"
install -m 755 berth /usr/local/bin/berth
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
if [ $code != 0 ]; then journalctl -u berth --no-pager | tail -60; fi
berth down && systemctl stop berth || code=1
if pgrep -a containerd; then
    echo "berth down left a containerd or a shim"
    code=1
fi
exit $code
