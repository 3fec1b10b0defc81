"""What a commit costs: the reconciler alone, without QEMU

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import re
import shutil
import subprocess
import tempfile

from . import trees
from .machine import BenchError

PROGRAM = 'tests/bench/vhost-vdpa-iotlb-bench'
# The function in it that does nothing but commit
FUNCTION = 'bench_commit*'


def _run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False, text=True)
    if done.returncode:
        raise BenchError(f'{" ".join(command)} fails with status '
                         f'{done.returncode}: {done.stderr.strip()}')
    return done


def measure(ranges=None, changes=None, repetitions=None):
    """Run the program

    Returns {(ranges, changes): {'lookups': number, 'messages': number,
    'change': nanoseconds, 'commit': nanoseconds}}, the times being medians.
    """
    command = [trees.OURS.path(PROGRAM)]
    for option, value in (('-n', ranges), ('-k', changes),
                          ('-r', repetitions)):
        if value is not None:
            command += [option, str(value)]
    result = {}
    for line in _run(*command).stdout.splitlines()[1:]:
        words = [int(word) for word in line.split()]
        result[words[0], words[1]] = {
            'lookups': words[2], 'messages': words[3], 'change': words[4],
            'commit': words[7]}
    return result


def instructions(ranges, changes):
    """How many instructions one commit executes, by valgrind"""
    if not shutil.which('valgrind'):
        raise BenchError('to count instructions needs valgrind: install the '
                         'package valgrind, or leave out --instructions')
    with tempfile.TemporaryDirectory() as folder:
        done = _run('valgrind', '--tool=callgrind',
                    f'--callgrind-out-file={folder}/out',
                    f'--toggle-collect={FUNCTION}', trees.OURS.path(PROGRAM),
                    '-n', str(ranges), '-k', str(changes), '-r', '1')
    match = re.search(r'Collected *: *(\d+)', done.stderr)
    if not match or match[1] == '0':
        raise BenchError(f'valgrind saw no {FUNCTION}: {done.stderr}')
    return int(match[1])
