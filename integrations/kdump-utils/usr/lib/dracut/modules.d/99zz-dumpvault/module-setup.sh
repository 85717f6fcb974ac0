#!/bin/bash
# dracut module: puts dumpvault, and what it needs to seal this host's memory, into kdump's initramfs.
# Named 99zz so that it comes after 99kdumpbase, whose vmcore-dmesg it replaces.
# Installed by 'dumpvault integrate kdump-utils'.

# Only where it is asked for: kdump.conf has "dracut_args --add zz-dumpvault".
check() {
    return 255
}

depends() {
    echo base
}

install() {
    local binaries binary
    # shellcheck source=/dev/null
    . "$dracutsysrootdir/etc/dumpvault/crash.conf"
    # Copies modules, policy and keys; prints the binaries, whose libraries are dracut's to find.
    # shellcheck disable=SC2086,SC2154 # CAPTURE_OPTIONS are words; dracut sets initdir and moddir
    if ! binaries=$("$DUMPVAULT" integrate --image "$initdir" $CAPTURE_OPTIONS); then
        dfatal "dumpvault: the crash initramfs would not be able to seal a dump"
        exit 1
    fi
    for binary in $binaries; do
        inst "$binary" || exit 1
    done
    inst_simple /etc/dumpvault/crash.conf
    inst_multiple sync dirname mkdir cat
    inst_script /usr/sbin/dumpvault-collector
    # kdump writes the kernel log in the clear beside the dump; sealed dumps hold it already.
    rm -f "$initdir/sbin/vmcore-dmesg" "$initdir/usr/sbin/vmcore-dmesg"
    inst_script "$moddir/vmcore-dmesg.sh" /sbin/vmcore-dmesg
}
