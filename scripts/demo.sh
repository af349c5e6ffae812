#!/bin/bash
# Runs examples/init-container-demo.yaml on berth and shows what it proves:
#
#   * ports 80 and 8080 of the pod both answer from outside the pod: the init container's redirect holds,
#   * the main container cannot change it: iptables is refused, and the two containers' capability sets say why,
#   * no pause process holds the pod's namespaces,
#   * and when the pod is gone, nothing of it is left.
#
#   scripts/demo.sh                  starts berth with a containerd of its own in a scratch directory, and removes both
#   scripts/demo.sh --socket PATH    uses the berth that listens there, and leaves it running
#       --restart COMMAND            restarts berth by COMMAND while the pod runs, which must not disturb it
#
# Environment: BERTH, the binary (target/release/berth by default), with containerd-shim-berth-v1 beside it; IMAGES, the
# directory of the stand-in images (target/images), which are imported where the real ones cannot be pulled. Ctrl-C removes
# everything too.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=BERTH,IMAGES,PATH -- "$0" "$@"
export PATH=$PATH:/usr/sbin:/sbin
. scripts/checks.sh

berth=${BERTH:-target/release/berth}
images=${IMAGES:-target/images}
manifest=examples/init-container-demo.yaml
pod=init-container-demo
socket=
restart=
scratch=
daemon=

while [ $# -gt 0 ]; do
    case $1 in
        --socket) socket=$2; shift 2 ;;
        --restart) restart=$2; shift 2 ;;
        *) echo "usage: $0 [--socket PATH] [--restart COMMAND]" >&2; exit 2 ;;
    esac
done
for binary in "$berth" "$(dirname "$berth")/containerd-shim-berth-v1"; do
    [ -x "$binary" ] || { echo "demo: no $binary: run make build" >&2; exit 1; }
done

main() {
    trap cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    if [ -z "$socket" ]; then start_berth; fi
    title "Images"
    image ikubernetes/admin-box:latest admin-box
    image ikubernetes/demoapp:v1.0 demoapp
    title "berth run -f $manifest --detach"
    berth run -f "$manifest" --detach || die "the pod is refused"
    within 120 runs || { berth get pods; berth logs "$pod" -c iptables-init; die "the pod does not run"; }
    berth get pods
    look_at_pod
    prove
    if [ -n "$restart" ]; then prove_restart; fi
    title "Removal"
    check "the pod is deleted" berth delete pod "$pod"
    check_nothing_left_of_pod
    if [ -n "$scratch" ]; then prove_down; fi
    count
}

# --- berth and its images

start_berth() {
    title "berth with its own containerd"
    scratch=$(mktemp -d /tmp/berth-demo.XXXXXX)
    socket=$scratch/berth.sock
    setsid "$berth" serve --root "$scratch/root" --state "$scratch/state" --socket "$socket" >"$scratch/log" 2>&1 &
    daemon=$! # in a session of its own: ctrl-C is for this script, which ends berth in order
    if ! within 30 berth get pods >/dev/null 2>&1; then
        tail -20 "$scratch/log"
        die "berth does not answer"
    fi
    echo "  in $scratch, as process $daemon"
}

berth() { "$berth" --socket "$socket" "$@"; }

image() { # image REFERENCE ARCHIVE: the real one where the network has it, else the stand-in
    if timeout 120 "$berth" --socket "$socket" image pull "$1" >/dev/null 2>&1; then
        echo "  $1: pulled"
        return
    fi
    [ -e "$images/$2.tar" ] || integration/images/build.sh "$images" >/dev/null || die "no stand-in for $1"
    berth image import "$images/$2.tar" >/dev/null || die "$2.tar is not imported"
    echo "  $1: cannot be pulled here, so a stand-in from integration/images"
}

# --- the pod, seen from the host

runs() { berth get pods | grep -qE "$pod +1/1 +Running"; }

# Finds the pod's address, its network namespace, the host's end of its link and the processes inside, from /proc and /sys alone.
look_at_pod() {
    local inside
    address=$(berth get pods | awk -v pod="$pod" '$0 ~ pod' | grep -oE '([0-9]+\.){3}[0-9]+' | head -1)
    [ -n "$address" ] || die "berth get pods shows no address"
    inside=$(in_main sh -c 'readlink /proc/1/ns/net; readlink /proc/1/ns/pid; cat /sys/class/net/eth0/iflink') || die "berth exec fails"
    { read -r netns; read -r pidns; read -r link; } <<<"$inside"
    processes=$(processes_in "$netns")
    main_pid=$(head -1 <<<"$processes")
    [ -n "$main_pid" ] || die "no process of the host is in the pod's network namespace $netns"
    cgroup=$(dirname "$(cgroup_of "$main_pid")") # the pod's, which holds the container's
    bridge=$(bridge_of "$link")
}

in_main() { berth exec "$pod" -c demo -- "$@"; }

processes_in() { # processes_in net:[INODE]
    local process
    for process in /proc/[0-9]*; do
        [ "$(readlink "$process/ns/net" 2>/dev/null)" = "$1" ] && echo "${process#/proc/}"
    done
    true
}

# The directory of a process's cgroup: cgroup v2's where it has a path of its own, else that of the memory controller.
cgroup_of() {
    local path mount
    path=$(awk -F: '$2 ~ /(^|,)memory(,|$)/ { print $3 }' "/proc/$1/cgroup")
    mount=/sys/fs/cgroup/memory
    if [ -z "$path" ]; then
        path=$(sed -n 's/^0:://p' "/proc/$1/cgroup")
        mount=/sys/fs/cgroup
    fi
    echo "$mount$path"
}

# The bridge that the link with index $1 is a port of; nothing on another network.
bridge_of() {
    local port
    for port in /sys/class/net/*; do
        if [ "$(cat "$port/ifindex")" = "$1" ] && [ -e "$port/master" ]; then basename "$(readlink "$port/master")"; fi
    done
}

# --- the proof

prove() {
    title "From outside the pod"
    check "port 80 answers" greets 80
    check "port 8080 answers: the init container's REDIRECT is in force" greets 8080
    title "Inside the main container"
    check "iptables is refused" refuses_iptables
    check "8080 still answers" greets 8080
    title "Capabilities"
    show_capabilities
    check "the init container had NET_ADMIN, effective, permitted and bounding" init_had NET_ADMIN
    check "the main container has it in none of its five sets" main_lacks 12 # CAP_NET_ADMIN of linux/capability.h
    title "Processes in the pod's network namespace"
    show_processes
    check "they all belong to the main container: there is no pause process" no_stranger
}

greets() {
    local answer
    answer=$(curl -s --noproxy '*' --max-time 10 --retry 5 --retry-connrefused --retry-delay 1 "http://$address:$1/")
    echo "  http://$address:$1/ -> $answer"
    [[ $answer == *"demoapp v1.0"*"ServerIP: $address!"* ]]
}

refuses_iptables() {
    local answer
    if answer=$(in_main iptables -t nat -L 2>&1); then
        echo "$answer"
        return 1
    fi
    sed 's/^/    /' <<<"$answer"
    grep -qi 'permi' <<<"$answer"
}

show_capabilities() {
    local set mask
    # The init container has ended: what it was given is in its OCI spec, which containerd keeps with its record.
    init_record=$(record_with "--dport 8080")
    echo "  iptables-init, by its record in containerd:"
    for set in effective permitted bounding; do echo "    $set: $(init_set "$set")"; done
    echo "  demo, by the kernel (/proc/$main_pid/status):"
    while read -r set mask; do echo "    $set $mask: $(names_of "$mask")"; done < <(grep ^Cap "/proc/$main_pid/status")
}

# The record of the container whose arguments contain $1, from whichever containerd berth has started.
record_with() {
    local address namespace id record
    for address in $(find "$(dirname "$socket")" -name '*containerd*.sock' -type s); do
        for namespace in $(ctr -a "$address" namespaces ls -q); do
            for id in $(ctr -a "$address" -n "$namespace" containers ls -q); do
                record=$(ctr -a "$address" -n "$namespace" containers info "$id")
                if [[ $record == *"$1"* ]]; then
                    echo "$record"
                    return
                fi
            done
        done
    done
}

# A capability set in the init container's record, as words without CAP_.
init_set() {
    sed -n "/\"capabilities\": {/,/}/p" <<<"$init_record" | sed -n "/\"$1\"/,/]/p" | grep -oE 'CAP_[A-Z_]+' | sed 's/CAP_//' | xargs
}

init_had() {
    local set
    for set in effective permitted bounding; do [[ " $(init_set "$set") " == *" $1 "* ]] || return 1; done
}

main_lacks() {
    local mask sets
    mapfile -t sets < <(awk '/^Cap/ { print $2 }' "/proc/$main_pid/status")
    [ ${#sets[@]} = 5 ] || return 1
    for mask in "${sets[@]}"; do (((16#$mask >> $1 & 1) == 0)) || return 1; done
}

# The names of a mask's bits, in the order of linux/capability.h.
names_of() {
    local names=(CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
        NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
        SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
        MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE)
    local bit words=()
    for bit in "${!names[@]}"; do
        if ((16#$1 >> bit & 1)); then words+=("${names[bit]}"); fi
    done
    echo "${words[*]:-none}"
}

show_processes() {
    local process
    for process in $processes; do
        echo "    $process $(tr '\0' ' ' <"/proc/$process/cmdline")"
    done
}

no_stranger() {
    local process
    [ -n "$processes" ] || return 1
    for process in $processes; do
        [ "$(readlink "/proc/$process/ns/pid")" = "$pidns" ] || return 1
    done
}

prove_restart() {
    title "berth restarts: $restart"
    local before
    before=$(stat -c %Y.%i "/proc/$main_pid")
    sh -c "$restart" || die "the restart fails"
    within 60 berth get pods >/dev/null 2>&1 || die "berth does not answer any more"
    check "the container is the same process, $main_pid" [ "$(stat -c %Y.%i "/proc/$main_pid" 2>/dev/null)" = "$before" ]
    check "berth still lists the pod" lists_pod
    check "port 8080 still answers" greets 8080
    check "exec still works" in_main true
}

lists_pod() { berth get pods | tee /dev/stderr | grep -q "$pod.*$address"; }

check_nothing_left_of_pod() {
    check "no process in its network namespace" within 5 no_process
    check "its namespaces are no longer pinned" within 5 no_pin
    check "its link is gone" within 5 no_link
    check "its cgroup is gone" within 5 [ ! -e "$cgroup" ]
}

no_process() { [ -z "$(processes_in "$netns")" ]; }
no_pin() { ! grep -qF " $netns " /proc/self/mountinfo; }
no_link() { ! cat /sys/class/net/*/ifindex | grep -qx "$link"; }

prove_down() {
    check "berth down ends berth's own containerd" berth down
    kill "$daemon" 2>/dev/null
    check "berth has ended" within 10 ended "$daemon"
    wait "$daemon" 2>/dev/null
    daemon=
    check "no process of it is left" within 5 no_process_of_scratch
    check "no mount of it is left" within 5 no_mount_of_scratch
    check "its bridge and its nftables table are gone" no_bridge
    check "its cgroups are gone" no_cgroup
}

ended() { [ ! -e "/proc/$1" ] || grep -qs "^State:.*Z" "/proc/$1/status"; }
# berth's daemon, its containerd and the shims are all given paths in the scratch directory.
processes_of_scratch() {
    local process
    for process in /proc/[0-9]*; do
        { [[ $(tr '\0' ' ' <"$process/cmdline") == *"$scratch"* ]] && echo "${process#/proc/}"; } 2>/dev/null
    done
    true
}
no_process_of_scratch() { [ -z "$(processes_of_scratch)" ]; }
no_mount_of_scratch() { ! grep -qF " $scratch" /proc/self/mountinfo; }

no_bridge() { [ -z "$bridge" ] || { [ ! -e "/sys/class/net/$bridge" ] && ! nft list ruleset | grep -qF "\"$bridge\""; }; }
no_cgroup() { [ ! -e "$(dirname "$cgroup")" ]; }

# Whatever happened, leaves nothing: asks berth first, then takes away by hand what a broken berth has left.
cleanup() {
    trap '' INT TERM HUP
    if [ -n "$scratch" ]; then
        if [ -n "$daemon" ] && ! ended "$daemon"; then
            berth delete pod "$pod" >/dev/null 2>&1
            berth down >/dev/null 2>&1
            kill "$daemon" 2>/dev/null
            within 10 ended "$daemon" || kill -KILL "$daemon"
            wait "$daemon" 2>/dev/null
        fi
        local process
        for process in $(processes_of_scratch); do kill -KILL "$process" 2>/dev/null; done
        awk -v dir="$scratch/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r umount -l
        rm -rf --one-file-system "$scratch"
    elif berth get pods 2>/dev/null | grep -q "$pod"; then
        berth delete pod "$pod" >/dev/null 2>&1
    fi
}

main
