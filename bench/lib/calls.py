"""Count what QEMU asks of a vDPA node, wherever the node is

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import struct
import subprocess

from .machine import BenchError

HERE = os.path.dirname(os.path.abspath(__file__))

# As the structure in calls.c
FIELDS = ('started', 'ready', 'updates', 'invalidates', 'markers',
          'bytes_mapped', 'ioctls', 'failed', 'ns')
LAYOUT = struct.Struct(f'={len(FIELDS)}Q')


def build(folder):
    """Compile the library: its path"""
    path = os.path.join(folder, 'calls.so')
    done = subprocess.run(
        ['gcc', '-shared', '-fPIC', '-O2', '-Wall', '-Wextra', '-Werror',
         '-o', path, os.path.join(HERE, 'calls.c')],
        check=False, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f'calls.c does not compile: {done.stderr}')
    return path


def launcher(library, file):
    """The beginning of the command line of a program to be counted"""
    return ['env', f'LD_PRELOAD={library}', f'CALLS={file}']


def parse(data):
    """{field: number} of a file's content; besides those, "messages" """
    if len(data) != LAYOUT.size:
        raise BenchError(f'calls are {len(data)} bytes, not {LAYOUT.size}')
    found = dict(zip(FIELDS, LAYOUT.unpack(data)))
    found['messages'] = (found['updates'] + found['invalidates'] +
                         found['markers'])
    return found


def since(before, after):
    """What came to one since the other"""
    return {key: value - before[key] for key, value in after.items()}
