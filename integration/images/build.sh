#!/bin/bash
# Builds the images that tests, benchmarks and the demo run, as docker archives for `berth image import` or `ctr image import`:
#
#   integration/images/build.sh OUTDIR  ->  OUTDIR/{busybox,admin-box,demoapp,envoy}.tar
#
#   busybox:latest                busybox alone, its applets as hard links
#   ikubernetes/admin-box:latest  busybox, iptables in both flavours, curl
#   ikubernetes/demoapp:v1.0      the same and demoapp.rs as /usr/bin/python3, which is what it runs
#   envoyproxy/envoy-alpine:v1.14.1  busybox, and tinyproxy behind the command `envoy`, which is envoy.sh
#
# The programs are this machine's own, which scripts/setup.sh installs from Debian's or Ubuntu's packages, with the libraries
# that the dynamic loader would take, so that a program and its libraries always belong together. Same inputs, same bytes:
# an image's id changes only when what is in it does. Archives newer than this script, its sources and those programs are kept.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin LC_ALL=C

[ $# = 1 ] || { echo "usage: $0 OUTDIR" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)

busybox=$(command -v busybox) || { echo "images: no busybox: install busybox-static" >&2; exit 1; }
nft=$(command -v xtables-nft-multi) && legacy=$(command -v xtables-legacy-multi) || { echo "images: no iptables" >&2; exit 1; }
tinyproxy=$(command -v tinyproxy) || { echo "images: no tinyproxy: install tinyproxy-bin" >&2; exit 1; }
curl=$(command -v curl) || { echo "images: no curl" >&2; exit 1; }

main() {
    if fresh; then return 0; fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    busybox_root "$work/busybox"
    cp -a "$work/busybox" "$work/admin-box"
    network_tools "$work/admin-box"
    cp -a "$work/admin-box" "$work/demoapp"
    demoapp "$work/demoapp/usr/bin/python3"
    cp -a "$work/busybox" "$work/envoy"
    with_libraries "$work/envoy" "$tinyproxy"
    install -D -m 755 "$here/envoy.sh" "$work/envoy/usr/local/bin/envoy"
    mkdir -p "$work/envoy/etc/envoy"
    archive busybox busybox:latest '"Cmd":["sh"]'
    archive admin-box ikubernetes/admin-box:latest '"Cmd":["/bin/sh"]'
    archive demoapp ikubernetes/demoapp:v1.0 '"Entrypoint":["/usr/bin/python3"],"ExposedPorts":{"80/tcp":{}}'
    archive envoy envoyproxy/envoy-alpine:v1.14.1 '"Cmd":["envoy","-c","/etc/envoy/envoy.yaml"]'
}

fresh() {
    local archive input
    for archive in busybox admin-box demoapp envoy; do
        [ -e "$out/$archive.tar" ] || return 1
        for input in "$here"/{build.sh,demoapp.rs,envoy.sh} "$busybox" "$nft" "$curl" "$tinyproxy"; do
            [ "$out/$archive.tar" -nt "$input" ] || return 1
        done
    done
}

# A root with busybox, a hard link for each of its applets, and the few files that libraries look for.
busybox_root() {
    local root=$1 applet
    if LC_ALL=C ldd "$busybox" >/dev/null 2>&1; then
        echo "images: $busybox needs libraries: install busybox-static" >&2
        return 1
    fi
    mkdir -p "$root"/{usr/{bin,sbin,lib,lib64},dev,etc,home,proc,root,run,sys,tmp,var}
    chmod 1777 "$root/tmp"
    for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$root/$dir"; done
    ln -s ../run "$root/var/run"
    install -m 755 "$busybox" "$root/usr/bin/busybox"
    for applet in $("$busybox" --list); do
        [ -e "$root/usr/bin/$applet" ] || ln "$root/usr/bin/busybox" "$root/usr/bin/$applet"
    done
    echo 'root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin' >"$root/etc/passwd"
    echo 'root:x:0:
daemon:x:1:
nogroup:x:65534:' >"$root/etc/group"
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
}

# iptables over nf_tables, which is what plain `iptables` is, and over the old kernel interface, and curl.
network_tools() {
    local root=$1 tool extensions library
    with_libraries "$root" "$nft" "$legacy" "$curl"
    for tool in {iptables,ip6tables}{,-save,-restore}; do
        ln -s xtables-nft-multi "$root/usr/sbin/$tool"
        ln -s xtables-nft-multi "$root/usr/sbin/${tool/tables/tables-nft}"
        ln -s xtables-legacy-multi "$root/usr/sbin/${tool/tables/tables-legacy}"
    done
    # The extensions (REDIRECT, tcp, …) are loaded by name from a directory beside the library, which no ldd shows.
    library=$(ldd "$nft" | awk '/libxtables/ { print $3 }')
    extensions=$(dirname "$(readlink -f "$library")")/xtables
    mkdir -p "$root$extensions"
    cp -L "$extensions"/lib{xt,ipt,ip6t}_*.so "$root$extensions/"
    echo 'tcp 6 TCP
udp 17 UDP
icmp 1 ICMP' >"$root/etc/protocols"
}

# Copies programs and every library that the loader finds for them to the same places under root $1 (/lib is usr/lib there).
with_libraries() {
    local root=$1 program library
    shift
    for program; do
        install -D -m 755 "$program" "$root/usr/${program#/usr/}"
        for library in $(ldd "$program" | grep -oE '/[^ ]+'); do
            install -D -m 755 "$(readlink -f "$library")" "$root/usr/${library#/usr/}"
        done
    done
}

demoapp() {
    rm -f "$1"
    rustc --edition 2024 -O -C target-feature=+crt-static -C panic=abort -C strip=symbols -C link-arg=-Wl,--build-id=none \
        --remap-path-prefix "$here=/demoapp" -o "$1" "$here/demoapp.rs"
}

# The tree $work/NAME as a docker archive of one layer. `config` is the inside of the image's config object.
archive() {
    local name=$1 reference=$2 config=$3 stage=$work/$1.stage layer id
    mkdir -p "$stage"
    pack -C "$work/$name" -cf "$stage/layer.tar" .
    layer=$(digest "$stage/layer.tar")
    mkdir "$stage/$layer" && mv "$stage/layer.tar" "$stage/$layer/layer.tar"
    printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Env":["PATH=%s"],%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"integration/images/build.sh"}]}' \
        "$(architecture)" /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$config" "$layer" >"$stage/config"
    id=$(digest "$stage/config")
    mv "$stage/config" "$stage/$id.json"
    printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["%s/layer.tar"]}]' "$id" "$reference" "$layer" >"$stage/manifest.json"
    pack -C "$stage" -cf "$out/.$name.tar" manifest.json "$id.json" "$layer/layer.tar"
    mv "$out/.$name.tar" "$out/$name.tar"
    echo "images: $reference is sha256:${id:0:12} in $out/$name.tar"
}

pack() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu "$@"; }
digest() { sha256sum "$1" | cut -d' ' -f1; }
architecture() {
    case $(uname -m) in
        x86_64) echo amd64 ;;
        aarch64) echo arm64 ;;
        *) uname -m ;;
    esac
}

main
