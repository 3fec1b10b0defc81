"""Frames through a NIC, by a program that is the guest's driver and the wire

See tests/bench/vhost-vdpa-traffic.c, which is a process of its own: it does
not care what QEMU, or this script, is busy with.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import json
import os
import subprocess

from . import guest, trees
from .machine import BenchError

PROGRAM = 'tests/bench/vhost-vdpa-traffic'

# Where interrupts go, so that the program sees them, and where a guest's
# processor is told what to do
INTERRUPTS = guest.RINGS + 0x30000
CONTROL = guest.RINGS + 0x20000
# The rest of what the program needs is behind the rings
SIZE = 64 * guest.MIB

SMALL, LARGE, HUGE = 64, 1514, 65549


def memory_file(pid, size):
    """The file that guest memory of @size bytes is in, as a path"""
    folder = f'/proc/{pid}/fd'
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        try:
            if ('memfd:' in os.readlink(path) and
                    os.stat(path).st_size == size):
                return path
        except FileNotFoundError:
            pass
    raise BenchError(f'process {pid} has no memfd of {size} bytes')


class Traffic:
    """The program, for the NIC of one machine

    To be used in a "with" statement, within that of the Machine.

    @machine: its NIC, node 0, has to write interrupts to INTERRUPTS
    @memory: bytes of guest memory
    @wire: path of the device's wire, or None if nobody is to be there
    @frame: bytes of the largest frame
    """

    def __init__(self, machine, memory, wire=None, frame=LARGE):
        self._machine = machine
        self._frame = frame
        command = [trees.OURS.path(PROGRAM), str(machine.pid),
                   memory_file(machine.pid, memory), str(guest.RINGS),
                   *[wire] * bool(wire)]
        # pylint: disable=consider-using-with
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)

    def __call__(self, command):
        """Give a command; returns what it answers"""
        try:
            self._process.stdin.write(f'{command}\n')
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f'{os.path.basename(PROGRAM)}, at "{command}": '
                             f'{self._process.stderr.read().strip()}')
        return json.loads(line)

    def loaded(self):
        """A driver was loaded, whose rings are empty"""
        self(f'driver {self._frame}')
        self.kicks()

    def kicks(self):
        """The device was started, perhaps with other eventfds; kick it"""
        queues = self._machine.control('stats')['vqs']
        try:
            fds = [queues[index]['kick-fd'] for index in range(2)]
        except KeyError as error:
            raise BenchError('the device has no eventfd for kicks') from error
        self(f'kicks {fds[0]} {fds[1]}')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()
