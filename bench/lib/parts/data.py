"""What frames cost in passthrough, where they pass QEMU by

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import tempfile

from .. import guest, processor, report, trees
from ..machine import BenchError, Machine
from ..traffic import HUGE, INTERRUPTS, LARGE, SMALL, Traffic

TITLE = 'frames per second, processor time per frame, doorbells, interrupts'

MEMORY = 256 * guest.MIB

# Like a card that has doorbells, but for the control queue, with which
# unmodified QEMU may shadow
DEVICE = ['--like', 'mlx5', '--map', 'pa', '--memlock', 'unlimited',
          '--no-feature', 'CTRL_VQ', '--mtu', '65535']

SIZES = {SMALL: '64 bytes', LARGE: '1514 bytes', HUGE: '64 KiB'}
LOOPBACK, SOCKET = 'loopback', 'unix-listen:FOLDER/wire'
DIRECTIONS = {'both': 'out and in again', 'out': 'out', 'in': 'in'}

# Of what is measured in a run, the best is taken, because the machine's noise
# makes all of it worse
REPEAT = 3
# Milliseconds of each flood
FLOOD = 100
# Frames that are sent one after the other
PINGS = 1000
# Stores to a doorbell by way of QEMU, and to memory or a page of the device
RUNGS, STORES = 20000, 2000000
# Interrupts cost the more the smaller frames are
INTERRUPT_SIZE = SMALL


class Flood:
    """What one flood was like

    rate: frames per second
    each: cycles, or nanoseconds if they cannot be counted, that all threads of
          QEMU and the device used for each frame
    main: those of QEMU's main thread
    share: what that thread used in a millisecond
    calls: interrupts, until the last frame was gone
    busy: of QEMU's main thread, in all; added up as @calls are, while the
          others are the best of several times
    """

    def __init__(self, answer, calls):
        self.rate = answer['packets'] * 1e9 / answer['ns']
        self.each = answer['all'] / answer['packets']
        self.main = answer['main'] / answer['packets']
        self.share = answer['main'] * 1e6 / answer['ns']
        self.busy = answer['main']
        self.calls = calls

    def add(self, other):
        """What it was like once more"""
        self.rate = max(self.rate, other.rate)
        self.each = min(self.each, other.each)
        self.main = min(self.main, other.main)
        self.share = min(self.share, other.share)
        self.busy += other.busy
        self.calls += other.calls


class Data:
    """One run, of several QEMUs

    @tree: which of the two
    @flood: milliseconds
    @pings, @rungs, @stores: how many
    @sizes: of frames
    @repeat: how often

    floods: {(direction, size, quiet): Flood}
    ping: {'kick': nanoseconds from a kick until the frame is gone,
           'interrupt': or until the guest has an interrupt for that}
    store: {what: nanoseconds of the guest's processor for a store}
    mapped: whether the guest has pages of the device, if it may
    cycles: what Flood.each counts
    """

    def __init__(self, tree, flood=FLOOD, pings=PINGS, rungs=RUNGS,
                 stores=STORES, sizes=tuple(SIZES), repeat=REPEAT):
        # pylint: disable=too-many-arguments,too-many-positional-arguments
        self._tree = tree
        self._sizes = sizes
        self._flood_ms = flood
        self._repeat = repeat
        self.floods, self.ping, self.store = {}, {}, {}
        self.mapped = self.cycles = None
        with self._machine(LOOPBACK) as machine:
            self._prepare(machine)
            with self._traffic(machine) as traffic:
                traffic.loaded()
                answers = [traffic(f'ping {pings}') for _ in range(repeat)]
                self.ping = {key: min(answer[key] for answer in answers)
                             for key in answers[0]}
                self._floods(machine, traffic, 'both')
            machine.quit()
        with self._machine(SOCKET) as machine:
            self._prepare(machine)
            wire = os.path.join(machine.folder, 'wire')
            with self._traffic(machine, wire) as traffic:
                traffic.loaded()
                self._floods(machine, traffic, 'out')
                self._floods(machine, traffic, 'in')
            machine.quit()
        self._stores(False, rungs, stores)
        self._stores(True, stores, None)

    def _machine(self, wire):
        return Machine(self._tree, [*DEVICE, '--wire', wire],
                       guest.options(MEMORY))

    def _prepare(self, machine):
        nic = guest.Nic(machine, guest.NIC_SLOT, interrupts=INTERRUPTS)
        guest.Guest(machine, False, nic=nic).firmware()
        nic.load()
        return nic

    def _traffic(self, machine, wire=None):
        return Traffic(machine, MEMORY, wire, HUGE)

    def _floods(self, machine, traffic, direction):
        for size in self._sizes:
            for quiet in [True] + [False] * (size == INTERRUPT_SIZE):
                key = direction, size, quiet
                for _ in range(self._repeat):
                    flood = self._flood(machine, traffic, *key)
                    if key in self.floods:
                        self.floods[key].add(flood)
                    else:
                        self.floods[key] = flood

    def _flood(self, machine, traffic, direction, size, quiet):
        # pylint: disable=too-many-arguments,too-many-positional-arguments
        before = machine.control('stats')['vqs']
        answer = traffic(f'flood {direction} {size} {self._flood_ms} '
                         f'{int(quiet)}')
        self.cycles = answer['cycles']
        queues = list(zip(before, machine.control('stats')['vqs']))
        old, queue = queues[direction == 'out']
        known = queue['packets'] - old['packets']
        if not 0 < answer['packets'] <= known:
            raise BenchError(f'{answer["packets"]} frames were moved, of '
                             f'which the device knows {known}')
        return Flood(answer, sum(queue['calls'] - old['calls']
                                 for old, queue in queues))

    def _stores(self, mapped, count, plain):
        """Let the guest's processor ring the doorbell"""
        options = guest.options(MEMORY)
        if mapped:
            options += ['-global', 'virtio-net-pci.page-per-vq=on']
        with tempfile.NamedTemporaryFile() as firmware, \
                Machine(self._tree, [*DEVICE, '--wire', LOOPBACK],
                        options + ['-bios', processor.write_to(firmware)],
                        tcg=True) as machine:
            nic = self._prepare(machine)
            if mapped:
                self.mapped = any(call['call'] == 'MMAP' and not call['ret']
                                  for call in machine.transcript.new())
            with self._traffic(machine) as traffic:
                traffic.loaded()
                if plain:
                    self._time_stores(traffic, 'memory', plain,
                                      guest.RINGS - 4096, 0)
                before = machine.control('stats')['vqs'][1]['kicks']
                self._time_stores(traffic, 'mapped' if mapped else 'eventfd',
                                  count, nic.doorbell(1), 1)
                # It is really a doorbell
                machine.control.wait('vq.1.kicks', '>=', before + 1)
            machine.quit()

    def _time_stores(self, traffic, what, count, address, value):
        self.store[what] = min(
            traffic(f'store {count} {address} {value}')['ns'] / count
            for _ in range(self._repeat))

    def json(self):
        """For the report"""
        return {
            'floods': [{'direction': direction, 'size': size, 'quiet': quiet,
                        **vars(flood)}
                       for (direction, size, quiet), flood in
                       self.floods.items()],
            'ping': self.ping, 'store': self.store, 'mapped': self.mapped,
            'cycles': self.cycles}


STORE_ROWS = {
    'eventfd': 'doorbell by way of an eventfd, vCPU (TCG)',
    'mapped': 'doorbell in a page of the device, vCPU (TCG)',
}
PING_ROWS = {
    'kick': 'from a write to the kick eventfd until a frame is gone',
    'interrupt': 'the same until its interrupt, without irqfd',
}


def samples_of(runs, get):
    """[ours, theirs]: Samples of what @get returns for a Data"""
    return [report.Sample(get(one) for one in side)
            for side in runs.values()]


def flood_name(direction, size, quiet):
    """For tables"""
    return (f'{SIZES[size]} {DIRECTIONS[direction]}'
            f'{", interrupts" * (not quiet)}')


def run(args, progress):
    """The part "data" """
    runs = {trees.OURS: [], trees.THEIRS: []}
    for number, tree in trees.by_turns(args.runs):
        progress(f'data: run {number + 1}, {tree.name}')
        runs[tree].append(Data(tree))
    first = runs[trees.OURS][0]
    unit = 'cycles' if first.cycles else 'ns'
    rows = []
    for key in first.floods:
        name = flood_name(*key)
        rows.append(report.Row(
            name, 'frames/s',
            *samples_of(runs, lambda one, key=key: one.floods[key].rate),
            more_is_better=True))
        rows.append(report.Row(
            f'{name}, each', unit,
            *samples_of(runs, lambda one, key=key: one.floods[key].each)))
    rows.append(report.Row(
        "QEMU's main thread, without interrupts, at most", f'{unit}/ms',
        *samples_of(runs, lambda one: max(
            flood.share for key, flood in one.floods.items() if key[2])), 0))
    rows.append(report.Row(
        "QEMU's main thread for an interrupt", unit,
        *samples_of(runs, interrupt_cost)))
    for key, name in PING_ROWS.items():
        rows.append(report.Row(
            name, 'us',
            *samples_of(runs, lambda one, key=key: one.ping[key] / 1e3)))
    # What a store costs that nobody is to see
    floor = report.Sample(one.store['memory'] for side in runs.values()
                          for one in side).median
    for key, name in STORE_ROWS.items():
        rows.append(report.Row(
            name, 'ns',
            *samples_of(runs, lambda one, key=key: one.store[key]), floor))
    rows.append(report.Row(
        'pages of the device are mapped', 'of 1',
        *samples_of(runs, lambda one: int(one.mapped)), 1, True))
    return report.Part(
        rows, text_of(runs, unit),
        {tree.name: [one.json() for one in side]
         for tree, side in runs.items()})


def interrupt_cost(one):
    """What QEMU's main thread used for each interrupt"""
    floods = [flood for key, flood in one.floods.items() if not key[2]]
    return (sum(flood.busy for flood in floods) /
            sum(flood.calls for flood in floods))


def text_of(runs, unit):
    """What the rows do not tell"""
    columns = ['ours', 'range', 'theirs', 'range', 'ratio']
    table = report.Table(
        'Where frames, doorbells and interrupts pass QEMU by, both sides are '
        'equal by\nconstruction: with KVM, doorbells are ioeventfds or pages '
        'of the device, and\ninterrupts are irqfds. What is left to a '
        'backend is whether there is a page, and\nwhether QEMU has anything '
        f'to do. "{unit}" are those of all threads of QEMU and of\nthe '
        'software device, which are one process.', [
            ('frames/s', columns), (f'{unit} of a frame', columns),
            (f"{unit} of QEMU's main thread", columns)])
    for key in next(iter(runs.values()))[0].floods:
        cells = []
        for what in ('rate', 'each', 'main'):
            samples = samples_of(
                runs, lambda one, what=what, key=key:
                getattr(one.floods[key], what))
            for sample in samples:
                cells += [report.number(sample.median),
                          f'{report.number(sample.low)}-'
                          f'{report.number(sample.high)}']
            cells.append(report.ratio(*samples))
        table.add(flood_name(*key), *cells)
    return table.text()


def check():
    """Frames are moved in each direction, without QEMU; doorbells work"""
    wrong = []
    one = Data(trees.OURS, 10, 10, 10, 10, (SMALL, HUGE), 1)
    for key, flood in one.floods.items():
        if flood.rate <= 0 or flood.each <= 0:
            wrong.append(f'{flood_name(*key)}: {vars(flood)}')
        if key[2] == bool(flood.calls):
            wrong.append(f'{flood_name(*key)}: {flood.calls} interrupts')
    if len(one.floods) != 9:
        wrong.append(f'floods are {list(one.floods)}')
    if not all(value > 0
               for value in [*one.ping.values(), *one.store.values()]):
        wrong.append(f'{one.ping}, {one.store}')
    if not one.mapped:
        wrong.append('the guest has no page of the device')
    return wrong


TESTS = [('all', check, ())]
