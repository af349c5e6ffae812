#!/bin/bash
# In the guest of smoke.sh, with berth running as a unit: commands in containers (docs/exec.md) on cgroup v2 and under
# AppArmor, held against `runc exec` on the same container.
set -uo pipefail
. scripts/checks.sh

address=/run/berth/containerd/containerd.sock
binary=/usr/local/bin/containerd-shim-berth-v1
image=docker.io/ikubernetes/admin-box:latest

main() {
    title "commands in a container"
    containerd run --detach --runtime $binary --apparmor-default-profile berth-exec-check --seccomp --memory-limit 67108864 \
        --env NAME=value "$image" alike sleep 1000000 || die "the container does not run"
    pid=$(task_pid alike)
    group=/sys/fs/cgroup$(cut -d: -f3 "/proc/$pid/cgroup")
    check "the container is confined by AppArmor" grep -q '^berth-exec-check (enforce)' "/proc/$pid/attr/current"
    for file in status attr/current mountinfo oom_score_adj environ uid_map setgroups; do
        check "/proc/self/$file is as with runc" same cat "/proc/self/$file"
    done
    check "namespaces are as with runc" same ls -ln /proc/self/ns
    check "user, groups, directory and mask are as with runc" same sh -c 'id; pwd; umask; env'
    check "a refused system call is as with runc" same sh -c 'unshare -m true 2>&1; mount -t tmpfs x /mnt 2>&1; date -s 2020-01-01 2>&1; true'
    check "a command has a group of its own below the container's" own_group
    check "no group is left" within 5 no_groups
    title "a timeout, or a client that goes"
    berth run -f shim-pod.yaml --detach || die "the pod is refused"
    within 60 berth exec shim-check -c counter -- true || die "the pod does not run"
    timeout 2 berth exec shim-check -c counter -- sh -c 'setsid sh -c "sleep 7777 & sleep 7777" & (sleep 7777 &); sleep 7777'
    check "it ends with all that it started" within 5 nobody 'sleep 7777'
    check "no group is left" within 5 no_groups
    title "a container that gives out its controllers"
    mkdir "$group/inner" && echo "$pid" >"$group/inner/cgroup.procs" && echo +memory >"$group/cgroup.subtree_control"
    check "a command joins the group of its first process" in_group_of_first
    echo -memory >"$group/cgroup.subtree_control" && echo "$pid" >"$group/cgroup.procs" && rmdir "$group/inner"
    title "a frozen container"
    echo 1 >"$group/cgroup.freeze"
    check "it takes no command, and says so" refused
    check "others do" berth exec shim-check -c counter -- true
    echo 0 >"$group/cgroup.freeze"
    check "it takes commands again" within 5 by_berth true
    berth delete pod shim-check --grace-period 0 >/dev/null 2>&1 || berth delete pod shim-check
    containerd tasks kill -s SIGKILL alike
    within 10 containerd tasks delete alike
    containerd containers delete alike
    count
}

containerd() { ctr -a $address -n k8s.io "$@"; }
task_pid() { containerd tasks ls | awk -v id="$1" '$1 == id { print $2 }'; }

number=0
by_berth() {
    number=$((number + 1))
    containerd tasks exec --exec-id "e$number-$RANDOM" alike "$@"
}

by_runc() { runc --root /run/containerd/runc/k8s.io exec alike "$@"; }

# What passes, and what this shell and not the container decides (limits and signals that are inherited), does not count.
normal() {
    tr '\0' '\n' | grep -avE '^(Tgid|Ngid|Pid|NS[a-z]*|Vm[A-Za-z]*|Rss[A-Za-z]*|FDSize|Sig[A-Za-z]*|Shd[A-Za-z]*|[a-z]*voluntary_ctxt_switches):' |
        sed -E 's/ (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +[0-9]+ [0-9:]+ / /'
}

same() {
    # ctr loses the output of a short command now and then.
    for _ in 1 2 3 4 5; do
        by_berth "$@" 2>&1 | normal >ours
        [ ! -s ours ] || break
    done
    by_runc "$@" 2>&1 | normal >theirs
    [ -s theirs ] && diff ours theirs
}

group_of_command() {
    local line
    for _ in 1 2 3 4 5; do
        line=$(by_berth sh -c 'cat /proc/self/cgroup; sleep 0.1')
        [ -z "$line" ] || break
    done
    cut -d: -f3 <<<"$line"
}

# As the container sees it, which may have a view of its own.
in_group_of_first() {
    local seen
    seen=$(group_of_command)
    echo "  $seen, $(by_runc cat /proc/1/cgroup)"
    [ -n "$seen" ] && [ "0::$seen" = "$(by_runc cat /proc/1/cgroup)" ]
}

own_group() { group_of_command | tee /dev/stderr | grep -q '/berth-exec-[0-9]*-[0-9]*$'; }
no_groups() { [ -z "$(find /sys/fs/cgroup -name 'berth-exec-*')" ]; }
nobody() { ! pgrep -f "^$1" >/dev/null; }
refused() { [[ "$(by_berth true 2>&1)" == *"the container is paused"* ]]; }

main
