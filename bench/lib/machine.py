"""A QEMU without a guest, on a software vDPA device

QEMU runs with -accel qtest: what a guest would do comes from here, step by
step, so that the same script has the same effect in each run.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import asyncio
import json
import os
import shutil
import socket
import tempfile
import time

from . import trees

trees.use_qemu_modules()

# pylint: disable=import-error,wrong-import-position
from qemu.machine.machine import VMLaunchFailure  # noqa: E402
from qemu.machine.qtest import QEMUQtestMachine  # noqa: E402
from qemu.qmp import QMPError  # noqa: E402

# Seconds for anything that is waited for
DEADLINE = 60

NODE = '/dev/vhost-vdpa-0'


class BenchError(Exception):
    """Why there is no figure; the text is for a person"""


class Transcript:
    """The calls that the software device recorded in a file"""

    def __init__(self, path):
        self._path = path
        self._offset = 0

    def new(self):
        """Calls since the last time; each is there before it returns"""
        with open(self._path, 'rb') as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b'\n') + 1
        self._offset += end
        return [json.loads(line) for line in data[:end].splitlines()]


class Control:
    """The control socket of the software device"""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE)
        self._socket.connect(path)
        self._file = self._socket.makefile('r', encoding='utf-8')

    def __call__(self, request):
        """Make a request; returns the reply, or raises BenchError"""
        self._socket.sendall(f'{request}\n'.encode())
        reply = json.loads(self._file.readline() or '{"error":"it is gone"}')
        if not reply.get('ok'):
            raise BenchError(f'the software device does not obey "{request}":'
                             f' {reply.get("error")}')
        return reply

    def wait(self, key, operator, value, node=0):
        """Wait until the comparison holds"""
        self(f'wait {key} {operator} {value} {DEADLINE * 1000} node={node}')

    def close(self):
        """Close the connection"""
        self._file.close()
        self._socket.close()


class TcgMachine(QEMUQtestMachine):
    """A QEMU that runs a guest, besides what it is told by qtest"""

    @property
    def _base_args(self):
        return ['tcg' if arg == 'qtest' and previous == '-accel' else arg
                for previous, arg in zip(['', *super()._base_args],
                                         super()._base_args)]


class Machine:
    """One run of QEMU

    @tree: which of the two
    @device: options of the software device; in them, FOLDER is a folder that
             goes away with the machine
    @options: options of QEMU
    @recorded: whether there is a transcript, which takes time to write
    @tcg: let the guest's processor run
    @launcher: the beginning of a command line that runs all that

    transcript: Transcript, None if there is none
    """

    def __init__(self, tree, device, options, recorded=True, tcg=False,
                 launcher=()):
        # pylint: disable=too-many-arguments,too-many-positional-arguments
        self.folder = tempfile.mkdtemp(prefix='vhost-vdpa-bench-')
        control = os.path.join(self.folder, 'control')
        self.transcript = None
        if recorded:
            transcript = os.path.join(self.folder, 'transcript')
            with open(transcript, 'wb'):
                pass
            self.transcript = Transcript(transcript)
            device = ['--transcript', transcript, *device]
        self.control = None
        self._qemu = (TcgMachine if tcg else QEMUQtestMachine)(
            tree.qemu, ['-qtest-log', os.devnull, *options],
            name=f'qemu-{tree.name}',
            wrapper=[*launcher, trees.OURS.path(trees.DEVICE[0]), 'run',
                     '--control', control,
                     *(option.replace('FOLDER', self.folder)
                       for option in device), '--'],
            base_temp_dir=self.folder)
        self._name = tree.name
        try:
            self._qemu.launch()
            self.control = Control(control)
        except VMLaunchFailure as error:
            self.kill()
            raise BenchError(f'QEMU ({tree.name}) does not start: '
                             f'{error.output}') from error
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self):
        """QEMU's process"""
        return self._qemu.get_pid()

    def qmp(self, command, **arguments):
        """Execute a QMP command; returns its result, raises if it fails"""
        try:
            return self._qemu.cmd(command, arguments)
        except QMPError as error:
            raise BenchError(f'QEMU ({self._name}) does not execute '
                             f'"{command}": {error}') from error

    def hmp(self, command):
        """Execute a command of the human monitor; returns its output"""
        return self.qmp('human-monitor-command', **{'command-line': command})

    def event(self, name, **data):
        """Wait for an event, with that data among what it has"""
        try:
            # It takes a whole number for no deadline at all
            self._qemu.event_wait(name, float(DEADLINE),
                                  {'data': data} if data else None)
        except asyncio.TimeoutError as error:
            raise BenchError(f'QEMU ({self._name}) sent no event {name} '
                             f'within {DEADLINE} s') from error

    def qtest(self, command):
        """Execute a command of the qtest protocol; returns its words"""
        words = self._qemu.qtest(command).split()
        if words[:1] != ['OK']:
            raise BenchError(f'QEMU ({self._name}) answers the qtest command '
                             f'"{command}" with {words}')
        return words[1:]

    def timed_qtest(self, command):
        """Same; returns the nanoseconds until the answer"""
        start = time.perf_counter_ns()
        self.qtest(command)
        return time.perf_counter_ns() - start

    def processor_time(self):
        """Nanoseconds that the main thread of QEMU has run so far"""
        with open(f'/proc/{self.pid}/task/{self.pid}/schedstat',
                  encoding='ascii') as file:
            return int(file.read().split()[0])

    def all_processor_time(self):
        """Nanoseconds that all threads of QEMU have run so far

        In the kernel, too, and with those that have ended.
        """
        # The clock of a process, see clock_getcpuclockid()
        return time.clock_gettime_ns(~self.pid << 3 | 2)

    def peak_memory(self):
        """Most bytes of memory that QEMU ever had"""
        with open(f'/proc/{self.pid}/status', encoding='ascii') as file:
            for line in file:
                if line.startswith('VmHWM:'):
                    return int(line.split()[1]) * 1024
        raise BenchError(f'QEMU ({self._name}) does not show VmHWM')

    def quit(self):
        """Let QEMU come to its end; returns what it wrote on stderr"""
        if self.control:
            self.control.close()
            self.control = None
        self._qemu.shutdown(timeout=DEADLINE)
        if self._qemu.exitcode():
            raise BenchError(f'QEMU ({self._name}) ends with '
                             f'{self._qemu.exitcode()}: '
                             f'{self._qemu.get_log()}')
        return self._qemu.get_log()

    def kill(self):
        """End QEMU at once, and remove what it left; may be repeated"""
        if self.control:
            self.control.close()
            self.control = None
        self._qemu.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
