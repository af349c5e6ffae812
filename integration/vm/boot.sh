#!/bin/bash
# Boots the guest of image.sh with a directory as its payload, whose run.sh is the test; its exit code is the result.
# A guest that panics, hangs or ends without a word has failed.
#
#   integration/vm/boot.sh IMAGEDIR PAYLOADDIR       env: VM_ACCEL=auto|kvm|tcg, VM_TIMEOUT (seconds), VM_MEMORY (MiB)
#
# The root disk is a snapshot that is thrown away: boots may share it. There is no network card.
set -euo pipefail
image=$1
payload=$2

accelerator() {
    # kvm_pvm offers /dev/kvm without the processor's help; unmodified kernels do not boot there, and QEMU does not fall back.
    if [ "${VM_ACCEL:-auto}" != auto ]; then
        echo "$VM_ACCEL"
    elif [ -r /dev/kvm ] && [ -w /dev/kvm ] && [ ! -d /sys/module/kvm_pvm ] && grep -qE '^flags.* (vmx|svm)( |$)' /proc/cpuinfo; then
        echo kvm
    else
        echo tcg
    fi
}

accel=$(accelerator)
case $accel in
    kvm) machine=(-accel kvm -cpu host) ;;
    tcg) machine=(-accel "tcg,thread=multi,tb-size=512" -cpu qemu64) ;;
    *) echo "vm: VM_ACCEL is auto, kvm or tcg, not $accel" >&2; exit 2 ;;
esac

run=$(mktemp -d "${TMPDIR:-/tmp}/berth-vm.XXXXXX")
trap 'rm -rf "$run"' EXIT
# The disk is longer than the archive by its padding to whole sectors; tar stops at its own end mark.
tar -C "$payload" -cf "$run/payload.tar" .
truncate -s %1M "$run/payload.tar"

echo "vm: booting under $accel" >&2
start=$(date +%s)
code=0
timeout --foreground -k 5 "${VM_TIMEOUT:-600}" qemu-system-x86_64 "${machine[@]}" \
    -M q35 -m "${VM_MEMORY:-2048}" -smp 2 -nodefaults -no-user-config -display none -no-reboot -nic none \
    -kernel "$image/vmlinuz" -initrd "$image/initrd" \
    -append "console=ttyS0 panic=-1 net.ifnames=0 systemd.unit=payload.target systemd.show_status=false quiet" \
    -drive "if=none,id=root,file=$image/root.img,format=raw,snapshot=on,cache=unsafe" \
    -device virtio-blk-pci,serial=root,drive=root \
    -drive "if=none,id=payload,file=$run/payload.tar,format=raw,readonly=on" \
    -device virtio-blk-pci,serial=payload,drive=payload \
    -device virtio-serial-pci -chardev "file,id=result,path=$run/result" -device virtserialport,chardev=result,name=result \
    -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng \
    -serial stdio </dev/null 2>"$run/qemu.err" | tr -d '\000\r' || code=${PIPESTATUS[0]}
echo "vm: the guest ended after $(($(date +%s) - start)) s (qemu's exit code $code)" >&2

if [ "$(cat "$run/result" 2>/dev/null)" != "EXIT 0" ]; then
    echo "vm: FAILED: $(cat "$run/result" 2>/dev/null || echo "no result came from the guest")" >&2
    cat "$run/qemu.err" >&2
    exit 1
fi
