#!/bin/bash
# In the guest of smoke.sh, with berth running as a unit: what the shim does on cgroup v2 and under systemd, and that
# nothing is lost or invented when it is killed.
set -uo pipefail
. scripts/checks.sh

address=/run/berth/containerd/containerd.sock
binary=/usr/local/bin/containerd-shim-berth-v1

main() {
    trap 'kill $events 2>/dev/null' EXIT
    ctr -a $address events >events 2>&1 &
    events=$!
    title "berth run -f shim-pod.yaml"
    berth run -f shim-pod.yaml --detach || die "the pod is refused"
    within 60 says hungry OOMKilled 137 || { berth get pods -o json; die "no container is killed for memory"; }
    check "a container that took too much memory says so" says hungry OOMKilled 137
    check "containerd is told of it" within 5 grep -q /tasks/oom events
    look
    check "one shim holds the pod" [ "$(wc -w <<<"$shim")" = 1 ]
    echo "  process $shim, $(awk '/^Pss:/ { print $2 }' "/proc/$shim/smaps_rollup") KiB, in $(cut -d: -f3 "/proc/$shim/cgroup")"
    check "the container has the memory limit's group" grep -q "$id" "/proc/$pid/cgroup"
    use_ctr
    title "systemctl restart berth"
    systemctl restart berth
    within 60 answers || die "berth does not answer any more"
    check "the shim is the same process" [ "$(find_shim)" = "$shim" ]
    check "so is the container" same
    title "kill -9 of the shim"
    kill -9 "$shim"
    goes_on
    check "berth has noticed" told "a shim ended; starting another"
    title "kill -9 of berth and the shim at once"
    look
    kill -9 "$(systemctl show -P MainPID berth)" "$shim"
    within 60 answers || die "berth does not come back"
    goes_on
    title "The end"
    berth exec shim-check -c counter -- touch /end
    check_end
    check "no line is lost or repeated" in_order
    check "the pod is deleted" berth delete pod shim-check
    check "without a pod, the shim leaves" within 10 left
    count
}

answers() { berth get pods >/dev/null 2>&1; }

find_shim() { pgrep -f "^$binary .*-place /run/berth/shims/.* serve$"; }

tasks() { ctr -a $address -n k8s.io tasks "$@"; }

running() { tasks ls | awk '$3 == "RUNNING" { print $1, $2 }'; }

# Who holds the counter, its container and its process.
look() {
    shim=$(find_shim)
    read -r id pid <<<"$(running)"
    began=$(began)
}

began() { cut -d' ' -f22 "/proc/$pid/stat" 2>/dev/null; }
same() { [ -n "$began" ] && [ "$(began)" = "$began" ]; }

container() { # container NAME KEY: of what berth tells
    berth get pods shim-check -o json | tr -d '\n' | grep -oE "\{[^{}]*\"name\": \"$1\"[^{}]*\}" | grep -oE "\"$2\": \"?[^\",]*" | sed 's/.*: "*//'
}

says() { [ "$(container "$1" reason) $(container "$1" exitCode)" = "$2 $3" ]; }

use_ctr() {
    title "ctr"
    tasks ls
    check "it lists the task" known
    check "it tells the group's figures" has "memory.usage" tasks metrics "$id"
    check "it runs a command" has "^line-of-exec" tasks exec --exec-id by-ctr "$id" echo line-of-exec
    plain=$(ctr -a $address -n k8s.io run --rm --runtime $binary docker.io/ikubernetes/admin-box:latest plain sh -c 'echo plain; exit 4')
    check "it runs a container by the shim's path, and is told its code" [ "$? $plain" = "4 plain" ]
}

has() { # has PATTERN COMMAND...
    local pattern=$1
    shift
    "$@" | tee /dev/stderr | grep -q "$pattern"
}

# After the death of the shim: there is another, and nothing else has changed.
goes_on() {
    local lines
    lines=$(count_lines)
    check "another shim is there" within 20 another
    check "the container is the same process" same
    check "its log goes on" within 10 longer_than "$lines"
    check "no line is lost or repeated" in_order
    check "containerd has the task again" within 20 known
    check "exec works" berth exec shim-check -c counter -- true
    tail -n 5 /run/berth/shims/0/shim.log
}

known() { [ "$(running)" = "$id $pid" ]; }
another() { local now; now=$(find_shim) && [ "$now" != "$shim" ]; }
told() { journalctl -u berth --no-pager | grep -q "$1"; }
count_lines() { berth logs shim-check -c counter | wc -l; }
longer_than() { [ "$(count_lines)" -gt "$1" ]; }
in_order() { berth logs shim-check -c counter | awk '$2 != NR { print "  line", NR, "is", $0; exit 1 }'; }

# A container that ends under a shim that did not start it: its code is known from Linux 6.15 on (PIDFD_GET_INFO). Before,
# the shim and its new parent race for it; it is true or unknown, and never invented.
check_end() {
    if [ "$(printf '%s\n' 6.15 "$(uname -r)" | sort -V | head -1)" = 6.15 ]; then
        check "the code of the container is true" within 20 says counter Error 3
    else
        check "the code of the container is true or unknown" within 20 true_or_unknown
    fi
    echo "  code $(container counter exitCode), reason $(container counter reason)"
}

true_or_unknown() { says counter Error 3 || says counter Unknown 255; }

left() { ! find_shim >/dev/null && [ ! -e /run/berth/shims/0 ]; }

main
