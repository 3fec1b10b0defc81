"""What both QEMUs do on a real kernel's vhost-vDPA

The kernel runs in an emulated machine, where both QEMUs are by turns, each
with a guest that KVM, emulated as well, runs: see scripts/guest/lab.py. All is
slow there; what is counted is what it would be elsewhere, and what is timed
is good for a comparison at most.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import base64
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

from .. import calls, guest as soft_guest, report, trees
from ..machine import BenchError, Machine
from . import changes

sys.path.insert(0, os.path.join(trees.TOP, 'scripts'))

# pylint: disable=import-error,wrong-import-position
from guest import echo, lab, vm  # noqa: E402

TITLE = "on a real kernel's vhost-vDPA, in an emulated machine"

MAC = '52:54:00:76:64:70'
PEER = '52:54:00:76:64:71'
ADDRESS = '0000:00:10.0'
LIBRARY, COUNTS = '/calls.so', '/dev/shm/calls'
DRIVER = '/sys/bus/virtio/drivers/virtio_net'

# Each run is a QEMU on each side; fewer where they cannot be compared
RUNS, ALONE_RUNS, QUICK_RUNS = 5, 1, 1
RELOADS = STOPS = 5
# Frames until all works, and of what is timed; seconds until they are lost
FEW, MANY, LOST = 10, 1500, 5
SMALL, LARGE = 64, 1514


class Kind:
    """A kind of device

    version: of the kernel
    name: for tables
    append: what the kernel is told
    suspends: whether the device can be stopped while it works
    pins: whether the guest's memory is pinned
    peer: where frames go; None: to the NIC itself
    """

    def __init__(self, version, name, append='', suspends=True, pins=False):
        # pylint: disable=too-many-arguments,too-many-positional-arguments
        self.version = version
        self.name = f'Linux {version}, {name}'
        self.append = append
        self.suspends = suspends
        self.pins = pins
        self.peer = ''

    def machine_options(self):
        """Of the lab.Machine"""
        return {'append': self.append}

    def create(self, machine):
        """Make the device: the path of its node"""
        return machine.add_vdpa('vdpa0', 'vdpasim_net', 'mac', MAC)


class VpVdpa(Kind):
    """A NIC of the machine, which sends frames to this process"""

    def __init__(self, version):
        super().__init__(version, 'vp_vdpa', suspends=False, pins=True)
        self.peer = PEER

    def machine_options(self):
        nic = {'driver': 'virtio-net-pci', 'id': 'card', 'netdev': 'wire',
               'mac': MAC, 'addr': '0x10', 'disable-legacy': 'on',
               'iommu_platform': True, 'romfile': ''}
        return {'iommu': True,
                'arguments': ['-netdev', echo.Echo(PEER).netdev('wire'),
                              '-device', json.dumps(nic)]}

    def create(self, machine):
        return machine.add_vp_vdpa('vdpa0', ADDRESS)


def kinds():
    """All of them"""
    # Unmodified QEMU has rings of 1024 entries whatever it is told. Linux 6.1
    # lets it, Linux 6.12 refuses them, see patches
    return [Kind('6.1', 'vdpa_sim_net, physical addresses', pins=True),
            VpVdpa('6.1'),
            Kind('6.12', 'vdpa_sim_net, virtual addresses'),
            Kind('6.12', 'vdpa_sim_net, physical addresses',
                 'vdpa_sim.use_va=0', pins=True)]


def program(tree):
    """What a QEMU is called in the machine"""
    return f'qemu-{tree.name}'


class Life:
    """One guest, from QEMU's start to its end

    figures: {(operation, figure): number}; of a driver reload, and of a stop
             with its continuation, those of one
    error: why it came to an early end, or None
    """

    def __init__(self, machine, kind, node, tree, name):
        # pylint: disable=too-many-arguments,too-many-positional-arguments
        self.figures = {}
        self.error = None
        self._machine = machine
        self._kind = kind
        machine.check(f'rm -f {COUNTS}')
        arguments = lab.arguments(*lab.nic(node, MAC))
        guest = None
        try:
            start = time.perf_counter()
            guest = lab.Guest(machine, name, arguments, program=[
                *calls.launcher(LIBRARY, COUNTS), program(tree)])
            guest.boot()
            self._begin(guest)
            self.figures['start', 'works'] = time.perf_counter() - start
            self._measure(guest)
            guest.power_off()
            guest.close()
        except vm.GuestError as error:
            self.error = str(error)
            if guest:
                machine.run(f'kill -KILL {guest.pid}')
                machine.ended(name, 30)
                guest.close()

    def _calls(self):
        return calls.parse(base64.b64decode(
            self._machine.check(f'base64 {COUNTS}')))

    def _begin(self, guest):
        """Use the device, which the driver just got"""
        guest.check('await 20 test -e /sys/class/net/eth0', 40)
        guest.check('ip link set eth0 up')
        guest.frames(FEW, seconds=LOST, peer=self._kind.peer)

    def _of_calls(self, operation, found, times):
        for key in ('messages', 'updates', 'invalidates', 'markers',
                    'bytes_mapped', 'ioctls', 'ns', 'failed'):
            self.figures[operation, key] = found[key] / times

    def _measure(self, guest):
        before = self._calls()
        self._of_calls('start', before, 1)
        self.figures['start', 'time'] = before['ready'] - before['started']
        status = self._machine.check(f'cat /proc/{guest.pid}/status')
        self.figures.update({('start', key): value for key, value in
                             memory(status).items()})
        for size in SMALL, LARGE:
            took = guest.check(
                'start=$(now) && '
                f'frames eth0 {MANY} {size} {LOST} {self._kind.peer} && '
                'echo $(($(now) - start))', 120).splitlines()[-1]
            self.figures['frames', size] = MANY * 1000 / int(took)

        device = guest.check(f'cd {DRIVER} && echo virtio*')
        before = self._calls()
        times = reload_times(guest.check(
            f'reload {DRIVER} {device} {RELOADS}', 120))
        self._of_calls('reload', calls.since(before, self._calls()), RELOADS)
        self.figures['reload', 'time'] = statistics.median(times)
        self._begin(guest)

        if self._kind.suspends:
            before = self._calls()
            times = []
            for _ in range(STOPS):
                start = time.perf_counter_ns()
                guest.qmp('stop')
                guest.qmp('cont')
                times.append(time.perf_counter_ns() - start)
            self._of_calls('stop', calls.since(before, self._calls()), STOPS)
            self.figures['stop', 'time'] = statistics.median(times)
            guest.frames(FEW, seconds=LOST, peer=self._kind.peer)

    def json(self):
        """For the report"""
        figures = {}
        for (operation, key), value in self.figures.items():
            figures.setdefault(operation, {})[key] = value
        return {'figures': figures, 'error': self.error}


def memory(status):
    """Bytes that are pinned, and the most there were, by /proc/PID/status"""
    found = {}
    for line in status.splitlines():
        key, _, value = line.partition(':')
        if key in ('VmPin', 'VmHWM'):
            found[{'VmPin': 'pinned', 'VmHWM': 'peak'}[key]] = \
                int(value.split()[0]) << 10
    return found


def reload_times(said):
    """Nanoseconds of driver reloads, from what reload.c says"""
    return [sum(map(int, line.split())) for line in said.splitlines()]


MIB = 1 / (1 << 20)
OPERATIONS = {'start': "QEMU's start", 'reload': 'driver reload',
              'stop': 'stop and cont'}
# {(operation, figure): (text, unit, factor)}
FIGURES = {
    ('start', 'time'): ("from QEMU's start to DRIVER_OK", 'ms', 1e-6),
    ('start', 'works'): ("from QEMU's start until frames come back", 's', 1),
    ('start', 'pinned'): ('memory pinned', 'MiB', MIB),
    ('start', 'peak'): ('peak memory of QEMU', 'MiB', MIB),
    ('reload', 'time'): ('driver reload, as the guest sees it', 'ms', 1e-6),
    ('stop', 'time'): ('stop and cont', 'ms', 1e-6),
    **{(operation, key): (f'{name}, {text}', unit, factor)
       for operation, name in OPERATIONS.items()
       for key, (text, unit, factor) in {
           'messages': ('messages', 'messages', 1),
           'bytes_mapped': ('bytes mapped', 'MiB', MIB),
           'ioctls': ('ioctls', 'calls', 1),
           'failed': ('calls that fail', 'calls', 1),
           'ns': ('time in these calls', 'ms', 1e-6)}.items()},
    ('frames', SMALL): (f'frames of {SMALL} bytes', 'frames/s', 1),
    ('frames', LARGE): (f'frames of {LARGE} bytes', 'frames/s', 1),
}
MINOR = ('failed', 'ns', 'peak')


def rows_of(kind, lives):
    """Rows of a kind, of which there are {tree: [Life]}"""
    rows = []
    for (operation, key), (text, unit, factor) in FIGURES.items():
        samples = []
        for side in lives.values():
            values = [life.figures[operation, key] * factor for life in side
                      if (operation, key) in life.figures]
            samples.append(report.Sample(values) if values else None)
        if not any(sample and sample.high for sample in samples):
            continue
        floor = None
        if key == 'pinned' and kind.pins:
            floor = lab.GUEST_MEMORY
        rows.append(report.Row(f'{kind.name}: {text}', unit, *samples, floor,
                               operation == 'frames', key in MINOR))
    rows.append(report.Row(
        f'{kind.name}: works', 'of 1',
        *(report.Sample(int(not life.error) for life in side)
          for side in lives.values()), 1, True))
    return rows


class Setup(lab.Setup):
    """With both QEMUs, and the library that counts"""

    def __init__(self, version, folder):
        programs = []
        for tree in (trees.OURS, trees.THEIRS):
            link = os.path.join(folder, program(tree))
            if not os.path.exists(link):
                os.symlink(tree.qemu, link)
            programs.append(link)
        super().__init__(
            version, programs, 'bench',
            environment={**os.environ, 'QEMU_BUILD': trees.OURS.build},
            tools=['reload'], files=[f'{calls.build(folder)}={LIBRARY}'])


def measure(setup, kind, runs, progress):
    """{tree: [Life]} of a kind, in a machine of its own"""
    lives = {trees.OURS: [], trees.THEIRS: []}
    name = '-'.join(re.findall(r'[\w.]+', kind.name))
    with lab.Machine(setup, name, **kind.machine_options()) as machine:
        machine.boot()
        node = kind.create(machine)
        for number, tree in trees.by_turns(runs):
            if lives[tree] and not lives[tree][-1].figures:
                # It would not go better
                continue
            progress(f'kernel: {kind.name}, run {number + 1}, {tree.name}')
            lives[tree].append(Life(machine, kind, node, tree,
                                    f'{tree.name}{number + 1}'))
    return lives


def run(args, progress):
    """The part "kernel" """
    vm.REPORT = sys.stderr
    pairs = {'6.1': RUNS, '6.12': ALONE_RUNS}
    if args.quick:
        pairs = dict.fromkeys(pairs, QUICK_RUNS)
    rows, figures, errors = [], {}, []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for version, some in itertools.groupby(
                    kinds(), lambda kind: kind.version):
                setup = Setup(version, folder)
                for kind in some:
                    lives = measure(setup, kind, pairs[version], progress)
                    rows += rows_of(kind, lives)
                    figures[kind.name] = {
                        tree.name: [life.json() for life in side]
                        for tree, side in lives.items()}
                    errors += [
                        f'{kind.name}: {tree.name} comes to an early end: '
                        f'{life.error}' for tree, side in lives.items()
                        for life in side if life.error]
                setup.remove()
    except vm.GuestError as error:
        raise BenchError(str(error)) from error
    text = report.rows_text(
        f'Guests with {lab.GUEST_MEMORY} MiB in an emulated machine; runs '
        f'on each side: {json.dumps(pairs)}.\nOf reloads and stops, the mean '
        f'of {RELOADS} if it is counted, the median if timed.',
        [(row.name, row) for row in rows])
    return report.Part(rows, text + ''.join(f'{line}\n' for line in errors),
                       figures)


def check_calls():
    """What is counted is what the software device was asked for"""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'counts')

        def counted():
            with open(path, 'rb') as file:
                return calls.parse(file.read())

        settings, _ = changes.options(0)
        with Machine(trees.OURS, changes.DEVICE, settings,
                     launcher=calls.launcher(calls.build(folder),
                                             path)) as machine:
            driver = soft_guest.Guest(machine, True)
            driver.boot()
            first = counted()
            driver.shared.command(off=soft_guest.COMMAND_MEMORY)
            driver.shared.command(on=soft_guest.COMMAND_MEMORY)
            found = counted()
            wanted = [call for call in machine.transcript.new()
                      if call['call'] not in ('OPEN', 'CLOSE', 'MMAP')]
            machine.quit()
    messages = [call for call in wanted if call['call'].startswith('IOTLB_')]
    mapped = sum(call['args']['size'] for call in messages
                 if call['call'] == 'IOTLB_UPDATE')
    for key, value in {
            'messages': len(messages), 'bytes_mapped': mapped,
            'updates': sum(call['call'] == 'IOTLB_UPDATE'
                           for call in messages),
            'invalidates': sum(call['call'] == 'IOTLB_INVALIDATE'
                               for call in messages),
            'ioctls': len(wanted) - len(messages),
            'failed': sum(call['ret'] < 0 for call in wanted)}.items():
        if found[key] != value:
            wrong.append(f'{key} is {found[key]}, not {value}')
    if not found['messages'] or not 0 < found['started'] < found['ready'] or \
            not found['ns']:
        wrong.append(f'the counts are {found}')
    more = calls.since(first, found)
    if (more['updates'], more['invalidates'], more['ready']) != (1, 1, 0):
        wrong.append(f'a BAR off and on is {more}')
    return wrong


def check_reload():
    """The program that reloads a driver writes what it should"""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        tool = os.path.join(folder, 'reload')
        subprocess.run(['gcc', '-O2', '-Wall', '-Wextra', '-Werror', '-o',
                        tool, os.path.join(vm.HERE, 'reload.c')], check=True)
        command = [tool, folder, 'virtio0', '3']
        if subprocess.run(command, check=False,
                          capture_output=True).returncode != 1:
            wrong.append('without a driver, it does not fail')
        for name in ('unbind', 'bind'):
            with open(os.path.join(folder, name), 'wb'):
                pass
        done = subprocess.run(command, check=True, capture_output=True,
                              text=True)
        times = reload_times(done.stdout)
        if len(times) != 3 or min(times) <= 0:
            wrong.append(f'it says {done.stdout}')
        for name in ('unbind', 'bind'):
            with open(os.path.join(folder, name), 'rb') as file:
                found = file.read()
            if found != b'virtio0':
                wrong.append(f'{name} was given {found}')
    return wrong


class Known:
    """A Life of which only this is known"""

    def __init__(self, figures, error=None):
        self.figures = figures
        self.error = error


def check_rows():
    """What was found is in the table, as what it is"""
    wrong = []
    found = memory('Name:\tqemu\nVmHWM:\t   2048 kB\nVmPin:\t 163840 kB\n')
    if found != {'peak': 2 << 20, 'pinned': 160 << 20}:
        wrong.append(f'memory is {found}')
    if reload_times('5 7\n1 2\n') != [12, 3]:
        wrong.append(f'times are {reload_times("5 7")}')
    ours = Known({('start', 'pinned'): found['pinned'],
                  ('frames', SMALL): 300, ('reload', 'messages'): 0})
    theirs = Known({('frames', SMALL): 200, ('reload', 'messages'): 8},
                   'it ends')
    rows = {row.name: row for row in rows_of(
        Kind('6.12', 'kind', pins=True), {'ours': [ours], 'theirs': [theirs]})}
    # Both of what is in neither, or nothing for both, are left out
    cells = {name: row.cells() for name, row in rows.items()}
    wanted = {
        f'Linux 6.12, kind: {name}': row for name, row in {
            'memory pinned': ['MiB', '160', '', 'none', '', '-', '160',
                              '1.00', ''],
            'driver reload, messages': ['messages', '0', '', '8', '', '0.00',
                                        '-', '-', ''],
            f'frames of {SMALL} bytes': ['frames/s', '300', '', '200', '',
                                         '1.50', '-', '-', ''],
            'works': ['of 1', '1', '', '0', '', 'more', '1', '1.00', ''],
        }.items()}
    if cells != wanted:
        wrong.append(f'rows are {cells}')
    return wrong


TESTS = [('calls', check_calls, ()), ('reload', check_reload, ()),
         ('rows', check_rows, ())]
