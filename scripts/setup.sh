#!/bin/bash
# Installs what building and running berth needs and this machine lacks; changes nothing where all of it is there.
#
#   scripts/setup.sh [test] [vm] [bench]      also what the integration tests, the VM tests or the benchmark need
#
# On Debian and Ubuntu apt installs what is missing, Rust comes by rustup where cargo is absent or older than Cargo.toml asks.
# A containerd is installed only where there is none: another one, Docker's say, is never replaced. Go, for crictl, is not
# installed: distributions' are too old. On other systems this names what to install and fails.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive

# What is looked for (a command, or a file by its whole path) and the package that brings it.
base='
    runc:runc iptables:iptables nft:nftables ip:iproute2 curl:curl busybox:busybox-static tinyproxy:tinyproxy-bin
    protoc:protobuf-compiler cc:gcc /usr/include/stdio.h:libc6-dev /etc/ssl/certs/ca-certificates.crt:ca-certificates make:make strip:binutils
    containerd:containerd /usr/include/seccomp.h:libseccomp-dev'
test='docker-registry:docker-registry'
bench='/usr/lib/cni/bridge:containernetworking-plugins'
vm='qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap cpio:cpio zstd:zstd depmod:kmod xz:xz-utils mke2fs:e2fsprogs
    /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring'

main() {
    local wanted=$base group missing
    for group; do
        case $group in
            test | vm | bench) wanted+=" ${!group}" ;;
            *) echo "usage: $0 [test] [vm] [bench]" >&2; exit 2 ;;
        esac
    done
    missing=$(missing_packages "$wanted")
    if [ -n "$missing" ]; then packages $missing; fi
    if ! rust_is_new_enough; then rust; fi
}

missing_packages() {
    local pair
    for pair in $1; do
        case $pair in
            /*) [ -e "${pair%%:*}" ] || echo "${pair##*:}" ;;
            *) command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}" ;;
        esac
    done
}

packages() {
    if ! command -v apt-get >/dev/null; then
        echo "setup: install what is missing, then run this again (by the names of Debian's packages): $*" >&2
        exit 1
    fi
    echo "setup: installing $*"
    as_root apt-get -qq update
    # No recommended packages: none is needed here.
    as_root apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

rust_is_new_enough() {
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    have=$(cargo --version 2>/dev/null | awk '{ print $2 }') || return 1
    [ -n "$have" ] && printf '%s\n%s\n' "$wanted" "$have" | sort -CV
}

rust() {
    if ! command -v rustup >/dev/null; then
        echo "setup: installing Rust by rustup"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y -q --profile minimal --component rustfmt,clippy --no-modify-path
    else
        echo "setup: updating Rust"
        rustup -q toolchain install stable --profile minimal --component rustfmt,clippy
        rustup -q default stable
    fi
    rust_is_new_enough || { echo "setup: cargo is still older than Cargo.toml asks: $(cargo --version)" >&2; exit 1; }
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo --preserve-env=DEBIAN_FRONTEND "$@"
    else
        echo "setup: not root, and there is no sudo; as root: $*" >&2
        exit 1
    fi
}

main "$@"
