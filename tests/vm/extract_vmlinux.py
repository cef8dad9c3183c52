#!/usr/bin/env python3
"""extract_vmlinux.py vmlinuz out: the ELF file inside a compressed kernel, which qemu starts directly.

Linux/x86 boot protocol 2.08 and later: the setup code has setup_sects (byte 0x1f1) sectors of 512
bytes after the boot sector; payload_offset (0x248) counts from their end, payload_length is at 0x24c.
"""
import bz2
import lzma
import struct
import subprocess
import sys
import zlib


def payload(image):
    start = ((image[0x1f1] or 4) + 1) * 512 + struct.unpack_from("<I", image, 0x248)[0]
    return image[start:start + struct.unpack_from("<I", image, 0x24c)[0]]


def unpack(data):
    if data.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data)
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(data)
    if data.startswith(b"BZh"):
        return bz2.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):  # the last 4 bytes are the length, not zstd's
        return subprocess.run(["zstd", "-dc"], input=data[:-4], stdout=subprocess.PIPE,
                              check=True).stdout
    sys.exit("%s: no known compression (%s)" % (sys.argv[1], data[:8].hex()))


with open(sys.argv[1], "rb") as source:
    kernel = unpack(payload(source.read()))
if not kernel.startswith(b"\x7fELF"):
    sys.exit("%s: what is inside is no ELF file" % sys.argv[1])
with open(sys.argv[2], "wb") as out:
    out.write(kernel)
