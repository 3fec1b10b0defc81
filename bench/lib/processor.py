"""A program for the guest's processor, in place of firmware

It waits until a number is at traffic.CONTROL, then stores the third number
there to the address that is the second, as often as the first says, which it
then makes 0; and so on.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import struct

from .traffic import CONTROL

# Where the firmware's last 64 KiB are
BASE = 0xffff0000
SIZE = 0x10000
RESET = 0xfff0

# From real mode to 32 bits, with flat segments
ENTER = (
    b'\xfa'                                 # cli
    b'\x2e\x66\x0f\x01\x16\x58\x00'         # lgdtl %cs:0x58
    b'\x0f\x20\xc0'                         # movl %cr0, %eax
    b'\x0c\x01'                             # orb $1, %al
    b'\x0f\x22\xc0'                         # movl %eax, %cr0
    b'\x66\xea\x18\x00\xff\xff\x08\x00'     # ljmpl $8, $protected
)
PROTECTED = 0x18
PROGRAM = (
    b'\x66\xb8\x10\x00'                     # movw $16, %ax
    b'\x8e\xd8'                             # movw %ax, %ds
    b'\xbb' + struct.pack('<I', CONTROL) +  # movl $CONTROL, %ebx
    b'\xf3\x90'                             # wait: pause
    b'\x8b\x0b'                             # movl (%ebx), %ecx
    b'\xe3\xfa'                             # jecxz wait
    b'\x8b\x7b\x04'                         # movl 4(%ebx), %edi
    b'\x8b\x43\x08'                         # movl 8(%ebx), %eax
    b'\x66\x89\x07'                         # store: movw %ax, (%edi)
    b'\x49'                                 # decl %ecx
    b'\x75\xfa'                             # jnz store
    b'\x89\x0b'                             # movl %ecx, (%ebx)
    b'\xeb\xea'                             # jmp wait
)
GDT, GDTR = 0x40, 0x58
SEGMENTS = struct.pack('<QQQ', 0, 0x00cf9b000000ffff, 0x00cf93000000ffff)
REGISTER = struct.pack('<HI', len(SEGMENTS) - 1, BASE + GDT)
# jmp 0
START = b'\xe9' + struct.pack('<H', 0x10000 - RESET - 3)


def write_to(file):
    """Write the program to a file; returns its name, for option -bios"""
    image = bytearray(SIZE)
    for start, part in ((0, ENTER), (PROTECTED, PROGRAM), (GDT, SEGMENTS),
                        (GDTR, REGISTER), (RESET, START)):
        image[start:start + len(part)] = part
    file.write(image)
    file.flush()
    return file.name
