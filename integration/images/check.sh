#!/bin/bash
# Proves the stand-in images on stock containerd, so that a failing test elsewhere is never the image's fault: both flavours of
# iptables redirect a port, the demo application answers and switches its health, the proxy passes on, and SIGTERM ends it as PID 1.
#
#   integration/images/check.sh [DIR]       as root; DIR is what build.sh made, target/images by default
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
images=$(cd "${1:-target/images}" && pwd) || exit 1
PATH=$PATH:/usr/sbin:/sbin
id=berth-images-$$
netns=$id
inside=10.251.$((RANDOM % 256)).2
outside=${inside%.2}.1
work=$(mktemp -d /tmp/berth-images.XXXXXX)
passed=0
failed=0

cleanup() {
    local name
    for name in app proxy; do
        ctr task kill -s KILL "$name" >/dev/null 2>&1
        for _ in $(seq 50); do ctr task ls -q 2>/dev/null | grep -q "$name" || break; sleep 0.1; done
        ctr task rm -f "$name" >/dev/null 2>&1
        ctr container rm "$name" >/dev/null 2>&1
    done
    [ -n "${daemon:-}" ] && kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null
    ip netns del "$netns" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

ctr() { command ctr -a "$work/containerd.sock" -n images "$@"; }

check() { # check TITLE COMMAND...
    local title=$1
    shift
    if "$@"; then echo "  ✓ $title"; passed=$((passed + 1)); else echo "  ✗ $title"; failed=$((failed + 1)); fi
}

start_containerd() {
    cat >"$work/config.toml" <<EOF
version = 2
root = "$work/root"
state = "$work/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "$work/containerd.sock"
EOF
    containerd -c "$work/config.toml" >"$work/log" 2>&1 &
    daemon=$!
    for _ in $(seq 100); do ctr version >/dev/null 2>&1 && return; sleep 0.1; done
    cat "$work/log" >&2
    exit 1
}

start_network() {
    ip netns add "$netns"
    ip -n "$netns" link set lo up
    ip link add "bi$$" type veth peer name eth0 netns "$netns"
    ip addr add "$outside/24" dev "bi$$"
    ip link set "bi$$" up
    ip -n "$netns" addr add "$inside/24" dev eth0
    ip -n "$netns" link set eth0 up
}

run() { # run IMAGE [CTR OPTIONS --] COMMAND...: once, in the pod's network namespace
    local image=$1 options=()
    shift
    while [[ $1 == --* ]]; do options+=("$1"); shift; [[ $1 == -- ]] && { shift; break; }; [[ $1 == --* ]] || { options+=("$1"); shift; }; done
    ctr run --rm "${options[@]}" --with-ns "network:/run/netns/$netns" "docker.io/$image" "run-$RANDOM$RANDOM" "$@"
}

imports() { ctr image import "$images/$1.tar" >"$work/import" 2>&1 || { cat "$work/import"; return 1; }; }
get() { curl -s --max-time 5 "$@"; }
greets() { [[ $(get "http://$inside:$1/") == "iKubernetes demoapp v1.0 !! ClientIP: $outside, ServerName: "*", ServerIP: $inside!" ]]; }
redirects() {
    run ikubernetes/admin-box:latest --cap-add CAP_NET_ADMIN --cap-add CAP_NET_RAW \
        sh -c "$1 -t nat -A PREROUTING -p tcp --dport $2 -j REDIRECT --to-port 80" && greets "$2"
}
refused() { ! run ikubernetes/admin-box:latest sh -c "$1 -t nat -L" >/dev/null 2>"$work/refusal" && grep -qi 'permi' "$work/refusal"; }
says() { [ "$(get -w ' %{http_code}' "http://$inside/$1")" = "$2" ]; }
switches() {
    says "$1" 'OK 200' && get -d "$1=fail" "http://$inside/$1" >/dev/null && says "$1" "fail $2" &&
        get -d "$1=OK" "http://$inside/$1" >/dev/null && says "$1" 'OK 200'
}
proxies() { # the v3 way of writing it; tests/pods uses the v2 one
    ctr run -d --with-ns "network:/run/netns/$netns" docker.io/envoyproxy/envoy-alpine:v1.14.1 proxy sh -c '
        echo "static_resources:
  listeners:
  - address:
      socket_address:
        address: 0.0.0.0
        port_value: 8090
  clusters:
  - name: app
    load_assignment:
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 80}}}}]}]
" >/etc/envoy/envoy.yaml && exec envoy -c /etc/envoy/envoy.yaml' || return 1
    sleep 0.5
    get -i "http://$inside:8090/" >"$work/proxied"
    grep -q '^Via: .*envoy' "$work/proxied" && grep -q 'ClientIP: 127.0.0.1' "$work/proxied"
}
stalled_client() {
    exec 9<>"/dev/tcp/$inside/80" && greets 80
    local result=$?
    exec 9>&-
    return $result
}
has_process() { ctr task exec --exec-id "e$RANDOM" app sh -c "$1"; }
ends_on_sigterm() {
    local code
    ctr task kill -s TERM app
    timeout 5 tail --pid="$(cat "$work/pid")" -f /dev/null || return 1
    code=$(ctr task rm app 2>&1)
    [ -z "$code" ] # ctr names the code only when it is not 0
}

echo "images: on $(containerd --version | awk '{ print $1, $3 }'), $(runc --version | head -1)"
start_containerd
start_network
for name in busybox admin-box demoapp envoy; do
    check "$name imports" imports "$name"
done
check "busybox runs its applets" run library/busybox:latest sh -c '[ a == a ] && id -u >/dev/null'
check "the demo application starts" ctr run -d --with-ns "network:/run/netns/$netns" --pid-file "$work/pid" docker.io/ikubernetes/demoapp:v1.0 app
sleep 0.5
check "80 greets" greets 80
check "iptables (nf_tables) redirects 8080" redirects iptables 8080
check "iptables-nft redirects 8081" redirects iptables-nft 8081
check "iptables-legacy redirects 8082" redirects iptables-legacy 8082
check "iptables without NET_ADMIN is refused" refused iptables
check "iptables-legacy without NET_ADMIN is refused" refused iptables-legacy
check "livez switches" switches livez 506
check "readyz switches" switches readyz 507
check "envoy proxies" proxies
check "a stalled client stops nobody" stalled_client
check "the process is python3, PID 1" has_process '[ "$(cat /proc/1/comm)" == python3 ]'
check "killall knows it" has_process 'killall -0 python3'
check "curl and sh probe it" has_process '[ "$(curl -s 127.0.0.1/livez)" == "OK" ]'
check "SIGTERM ends it as PID 1, with code 0" ends_on_sigterm
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
