#!/usr/bin/env bash
# Runs the kernels' tests on an emulated processor with AVX-512, for people whose own has none: README.md, beside this.
set -euo pipefail
[[ "${BOCHS:=bochs}" != */* ]] || BOCHS="$(realpath "$BOCHS")"
cd "$(dirname "$0")/../.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
LIMIT="${LIMIT:-1800}" # seconds
dir="$CARGO_TARGET_DIR/emulate"
mkdir -p "$dir"

vga=/usr/share/bochs/VGABIOS-lgpl-latest # Debian has it, or not, by its version; Bochs's own source does
[ -e "$vga" ] || vga="$(dirname "$BOCHS")/bios/VGABIOS-lgpl/VGABIOS-lgpl-latest.bin"
missing=
for need in "xorriso xorriso" "cpio cpio" "strip binutils" "apt-get apt" "/bin/busybox busybox-static" \
    "/usr/lib/ISOLINUX/isolinux.bin isolinux" "/usr/lib/syslinux/modules/bios/ldlinux.c32 syslinux-common" \
    "/usr/share/bochs/BIOS-bochs-latest bochsbios" "$vga vgabios"; do
    read -r file package <<<"$need"
    [ -e "$file" ] || command -v "$file" >/dev/null || missing+=" $package"
done
[ -z "$missing" ] || { echo "missing: sudo apt-get install$missing" >&2; exit 1; }
model=sapphire_rapids
grep -qx "$model" <<<"$("$BOCHS" --help cpu 2>&1)" ||
    { echo "missing: Bochs 3.0 or later without a display, as BOCHS=PATH; tools/README.md says how to build it" >&2; exit 1; }

# A kernel: Debian's, unpacked but not installed.
if ! [ -e "$dir/vmlinuz" ]; then
    package="$(apt-cache depends linux-image-cloud-amd64 | grep -om1 'linux-image-[0-9].*')"
    (cd "$dir" && apt-get download "$package" && dpkg -x "$package"_*.deb linux)
    cp "$dir"/linux/boot/vmlinuz-* "$dir/vmlinuz"
fi

# A disk in memory with the tests and the libraries that they load.
programs() { # file names of the test programs, as cargo lists them
    cargo test --release -p bonsai-runtime "$@" --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | grep /deps/
}
kernels="$(programs --test kernels)"
unit="$(programs --lib)"
root="$dir/root"
rm -rf "$root" "$dir/iso"
mkdir -p "$root/bin" "$root/proc" "$root/tmp" "$dir/iso"
cp /bin/busybox "$root/bin/sh"
strip -o "$root/kernels" "$kernels"
strip -o "$root/unit" "$unit"
# shellcheck disable=SC2046
cp -L --parents $(ldd "$kernels" "$unit" | grep -o '/[^ :]*so[^ :]*' | sort -u) "$root"
cat >"$root/init" <<'INIT'
#!/bin/sh
cd /tmp
/kernels --nocapture --test-threads=1
echo "EXIT kernels $?"
/unit cpu:: --test-threads=1
echo "EXIT unit $?"
echo FINISHED
while :; do :; done
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet --owner=0:0) | gzip -1 >"$dir/iso/initrd"
cp "$dir/vmlinuz" "$dir/iso/linux"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$dir/iso"
# No `fsrm`: where fast strings are off, as here, Linux 6.1's memmove is wrong on processors that have it.
cat >"$dir/iso/isolinux.cfg" <<'CFG'
default linux
label linux
kernel linux
append initrd=initrd console=ttyS0 quiet nokaslr mitigations=off clearcpuid=fsrm
CFG
xorriso -as mkisofs -quiet -o "$dir/boot.iso" -b isolinux.bin -c boot.cat \
    -no-emul-boot -boot-load-size 4 -boot-info-table "$dir/iso" 2>/dev/null

cat >"$dir/bochsrc" <<CFG
display_library: nogui
memory: guest=512, host=512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=$vga
boot: cdrom
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=boot.iso, status=inserted
cpu: model=$model, count=1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1
clock: sync=none, time0=1700000000
com1: enabled=1, mode=file, dev=serial.log
log: bochs.log
panic: action=fatal
error: action=report
info: action=report
debug: action=ignore
CFG
cd "$dir"
: >serial.log
echo "booting a $model (serial line: $dir/serial.log)"
started=$SECONDS
"$BOCHS" -q -f bochsrc </dev/null >/dev/null 2>&1 &
emulator=$!
trap 'kill $emulator 2>/dev/null' EXIT
while ! grep -aqE "^FINISHED|Kernel panic" serial.log; do
    kill -0 $emulator 2>/dev/null || { echo "the emulator ended: $dir/bochs.log" >&2; exit 1; }
    ((SECONDS - started < LIMIT)) || { echo "not finished after $LIMIT s" >&2; exit 1; }
    sleep 1
done
tr -d '\r\0' <serial.log | grep -avE '^test cpu' | grep -aE '^test |levels: |^EXIT|panicked|Kernel panic' || true
echo "took $((SECONDS - started)) s"
result() { grep -aqE "$1" <<<"$(tr -d '\r\0' <serial.log)"; }
result '^EXIT kernels 0$' && result '^EXIT unit 0$' && result 'levels: .*avx-vnni avx512' && echo "ok: $model"
