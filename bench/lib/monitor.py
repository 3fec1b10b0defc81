"""How long QMP is silent while a device is given the memory of a large guest

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import json
import os
import socket
import threading
import time

from . import guest
from .machine import DEADLINE, BenchError, Machine

GIB = 1 << 30

# (GiB of guest memory, milliseconds that the host takes to pin one).  The one
# with 0 shows what is noise; in it, QEMU also has nothing to do for IDLE
# seconds
CASES = [(64, 0), (1, 20), (1, 100), (8, 20), (8, 100), (64, 20), (64, 100)]
IDLE = 3
# Runs at most of that, and where to map all takes more than LONG milliseconds
LONG, LONG_RUNS = 1000, 2

# Memory is not really pinned, so that the benchmark needs no privilege
DEVICE = ['--like', 'sim', '--map', 'any', '--no-feature', 'CTRL_VQ',
          '--persist', 'off']

SITUATIONS = {
    'start': 'start of QEMU',
    'reload': 'driver reload',
    'plug': 'NIC plugged',
}


class Watch:
    """Asks QMP again and again, by a thread and a connection of its own

    To be used in a "with" statement, around that of the Machine which has its
    options.

    peer: the end of the connection that QEMU has
    first: nanoseconds from the first begin() to the first answer of QEMU
    longest: most nanoseconds from one answer to the next, or from begin() to
             the first one; in the last period, and without what is in @first
    answers: how many there were in the last period
    """

    def __init__(self):
        self._socket, self.peer = socket.socketpair()
        self._socket.settimeout(DEADLINE)
        self._file = self._socket.makefile('r', encoding='utf-8')
        os.set_inheritable(self.peer.fileno(), True)
        self._thread = None
        self._ending = False
        self._error = None
        self.first = None
        self.longest = self.answers = 0

    @property
    def options(self):
        """Options of QEMU"""
        return ['-chardev', f'socket,id=watch,fd={self.peer.fileno()}',
                '-mon', 'chardev=watch,mode=control']

    def begin(self):
        """Begin a period"""
        self.longest = self.answers = 0
        self._ending = False
        self._thread = threading.Thread(target=self._run,
                                        args=(time.perf_counter_ns(),))
        self._thread.start()

    def end(self):
        """End the period, with the next answer to a new question"""
        self._ending = True
        self._thread.join()
        self._thread = None
        if self._error:
            raise BenchError(f'QMP does not answer: {self._error}')

    def _ask(self, command):
        self._socket.sendall(f'{{"execute": "{command}"}}\n'.encode())
        while True:
            # There are a greeting and events, too
            line = self._file.readline()
            if not line:
                raise OSError('the connection is closed')
            if 'return' in json.loads(line):
                return time.perf_counter_ns()

    def _run(self, start):
        try:
            last = start
            if self.first is None:
                last = self._ask('qmp_capabilities')
                self.first = last - start
            ending = False
            while not ending:
                # One that is asked after the end of what is to be measured
                ending = self._ending
                now = self._ask('query-status')
                self.longest = max(self.longest, now - last)
                self.answers += 1
                last = now
        except (OSError, ValueError) as error:
            self._error = error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._ending = True
        self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread:
            self._thread.join()
        self._file.close()
        self._socket.close()
        self.peer.close()


class Figures:
    """What one situation took, in nanoseconds

    @watch: after the end of the situation
    @nic: whose driver was loaded in it, which returned @device

    silence: the longest time without an answer of QMP
    write: how long the guest's processor waited for its write of DRIVER_OK
    device: from that write until the device has DRIVER_OK
    """

    def __init__(self, watch, nic, device):
        self.silence = watch.longest
        self.write = nic.blocked
        self.device = device


class Monitor:
    """One run of QEMU

    @tree: which of the two
    @size: of the guest's memory, in GiB
    @slow: milliseconds that it takes to pin one GiB

    first: nanoseconds from QEMU's start to the first answer of QMP
    figures: {situation: Figures}
    idle: if nothing is slow, nanoseconds of silence while there is no reason
    calls: {situation: what the device recorded}
    """

    def __init__(self, tree, size, slow):
        self.figures = {}
        self.calls = {}
        self.idle = None
        options = guest.options(size * GIB)
        device = [*DEVICE, '--slow-pin', str(slow)]
        with Watch() as watch:
            self._watch = watch
            watch.begin()
            with Machine(tree, device, options + watch.options) as machine:
                self._machine = machine
                self._guest = guest.Guest(machine, False)
                self._guest.firmware()
                self._guest.kernel()
                self._load('start')
                self.first = watch.first
                watch.begin()
                self._guest.unload()
                self._load('reload')
                self._guest.unload()
                self._guest.remove_nic()
                machine.transcript.new()
                watch.begin()
                self._guest.add_nic()
                self._load('plug')
                if not slow:
                    watch.begin()
                    time.sleep(IDLE)
                    watch.end()
                    self.idle = watch.longest
                machine.quit()

    def _load(self, situation):
        nic = self._guest.nic
        device = nic.load()
        self._watch.end()
        self.figures[situation] = Figures(self._watch, nic, device)
        self.calls[situation] = self._machine.transcript.new()
        nic.send()


def runs(wanted, size, slow):
    """How many runs of a case are to be made"""
    few = not slow or size * slow > LONG
    return min(wanted, LONG_RUNS) if few else wanted
