#!/bin/bash
# Builds the guest of the VM tests: a Debian root disk with containerd and runc, a kernel and a small initrd.
# Prints the directory that holds vmlinuz, initrd and root.img. The result is kept under target/vm, keyed by this script
# and the files it puts into the guest, so only the first run costs a minute or two.
#
#   integration/vm/image.sh            needs root, mmdebstrap, cpio, zstd, e2fsprogs, kmod (scripts/setup.sh vm)
#
# The mirror is the one that this machine's own apt uses where that is Debian's, else mmdebstrap's default; no mirror's
# name stays inside the image.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
cache=$(cd "$here/../.." && pwd)/target/vm
suite=${VM_SUITE:-trixie}
packages=systemd,systemd-sysv,udev,kmod,dbus,containerd,runc,iptables,nftables,iproute2,procps,busybox-static,curl,apparmor

main() {
    local key out
    key=$({ echo "$suite"; cat "$here/image.sh" "$here"/guest/*; } | sha256sum | cut -c1-16)
    out=$cache/$suite-$key
    if [ ! -e "$out/root.img" ]; then
        mkdir -p "$cache"
        work=$(mktemp -d "$cache/build.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        echo "vm: building the $suite guest" >&2
        root_tree "$work/root" "$work/kernel" >&2
        mkdir "$work/out"
        cp "$work"/kernel/boot/vmlinuz-* "$work/out/vmlinuz"
        configure "$work/root" "$work/kernel"
        initrd "$work/root" "$work/initrd" >"$work/out/initrd"
        disk "$work/root" "$work/out/root.img"
        rm -rf "$out" && mv "$work/out" "$out"
    fi
    echo "$out"
}

# The mirrors of this machine's own sources, as lines for mmdebstrap; nothing where the machine is not a Debian.
sources() {
    local file uri
    grep -q '^ID=debian$' /etc/os-release || return 0
    for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
        [ -e "$file" ] || continue
        for uri in $(sed -nE 's/^URIs: *//p; s/^deb +(\[[^]]*\] +)?([^ ]+) .*/\2/p' "$file" | sort -u); do
            case $uri in
                *security*) echo "deb $uri $suite-security main" ;;
                *) echo "deb $uri $suite main" ;;
            esac
        done
        return 0
    done
}

# A minimal Debian in $1; its newest kernel for virtual machines, unpacked but not installed, in $2.
root_tree() {
    local lines=()
    mapfile -t lines < <(sources)
    mkdir -p "$2"
    export KERNEL_DIR=$2
    mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" \
        --aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --customize-hook='
            set -eu
            export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
            kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n "s/ *Depends: //p" | head -1)
            cd "$KERNEL_DIR"
            apt-get -qq -o APT::Sandbox::User=root download "$kernel"
            dpkg-deb -x "$kernel"_*.deb .
            rm "$kernel"_*.deb' \
        "$suite" "$1" "${lines[@]}"
}

# Puts the kernel's modules and the payload's unit into the tree $1 and leaves out what no test needs.
configure() {
    local root=$1 kernel=$2 modules version unit
    for modules in "$kernel"/usr/lib/modules/* "$kernel"/lib/modules/*; do [ -d "$modules/kernel" ] && break; done
    version=${modules##*/}
    mkdir -p "$root/usr/lib/modules"
    cp -a "$modules" "$root/usr/lib/modules/"
    depmod -b "$root" "$version"
    install -m 755 "$here/guest/payload" "$root/usr/local/sbin/payload"
    install -m 644 "$here/guest/payload.service" "$here/guest/payload.target" "$root/etc/systemd/system/"
    # Under emulation each unit costs: masking what no test needs halves the boot.
    while read -r unit; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done <"$here/guest/masked-units"
    mkdir -p "$root/etc/systemd/system-generators"
    for unit in "$root"/usr/lib/systemd/system-generators/*; do
        ln -sf /dev/null "$root/etc/systemd/system-generators/${unit##*/}"
    done
    echo guest >"$root/etc/hostname"
    echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
    : >"$root/etc/fstab"
    rm -rf "$root"/etc/apt/sources.list* "$root/etc/resolv.conf" "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
}

# The initrd on standard output: busybox and the modules that the root disk needs, in the order of their dependencies.
initrd() {
    local root=$1 tree=$2 version order module n=0
    version=$(basename "$root"/usr/lib/modules/*)
    mkdir -p "$tree"/{bin,dev,proc,sys,mnt,modules}
    cp "$root/usr/bin/busybox" "$tree/bin/"
    ln -s busybox "$tree/bin/sh"
    install -m 755 "$here/guest/init" "$tree/init"
    order=$(for module in virtio_pci virtio_blk; do
        modprobe -d "$root" -S "$version" --show-depends "$module" # built-in ones are named too: no insmod line
    done | awk '/^insmod/ && !seen[$2]++ { print $2 }')
    for module in $order; do
        n=$((n + 1))
        case $module in
            *.xz) xz -dc "$module" ;;
            *.zst) zstd -dcq "$module" ;;
            *) cat "$module" ;;
        esac >"$tree/modules/$(printf %02d "$n").ko"
    done
    (cd "$tree" && find . | sort | cpio -o -H newc --quiet) | zstd -q -3
}

# The tree $1 as a raw ext4 file $2, with no loop device and no mount. A journal is of no use: a guest's writes are thrown away.
disk() {
    truncate -s 2G "$2"
    mke2fs -q -t ext4 -O ^has_journal,^metadata_csum_seed -E lazy_itable_init=1,nodiscard -m 0 -L root -d "$1" "$2"
}

main
