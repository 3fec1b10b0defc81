"""How long a running device moves no frames, because QEMU does something else

The stream goes in both directions all the time.  None of what happens is
about the device, except that the virtual machine is stopped and continued.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os

from .. import guest, report, trees
from ..machine import BenchError, Machine
from ..traffic import INTERRUPTS, SMALL, Traffic

TITLE = 'how long a device moves no frames, and how many are lost'

MIB = guest.MIB
MEMORY = 1024 * MIB
SHARED = 4 * MIB
DIMM_SIZE = 64 * MIB

# Microseconds from one frame to the next, in each direction.  What is to be
# seen has to be longer
PERIOD = 200
# Milliseconds that each observation takes at least, and how many there are of
# each thing in a run: the shortest gap is taken, because the machine's noise
# only makes it longer
WINDOW = 100
REPEAT = 3

# Where the guest puts BARs: none is where the firmware does
PLACES = [0xf0000000, 0xd0000000]
PLUGGED_PLACE = 0xd8000000
OTHER_PLACE = 0xdc000000
PLUGGED_SLOT, OTHER_SLOT = 5, 6
# Nanoseconds, no more than a report waits for the stream to come back
PAUSED = 1000000000
# The rings of another NIC, which nobody uses
OTHER_RINGS = 200 * MIB


OPERATIONS = {
    'idle': 'nothing',
    'dimm-add': 'DIMM added',
    'dimm-remove': 'DIMM removed',
    'bar-move': 'BAR of a graphics card moved',
    'bar-toggle': 'BAR of shared memory off and on',
    'rom': 'ROM area made RAM, and ROM again',
    'plug': 'shared memory plugged, BAR placed',
    'unplug': 'shared memory unplugged',
    'other-plug': 'another vDPA NIC plugged',
    'other-load': 'driver of another NIC loaded',
    'other-unload': 'driver of another NIC unloaded',
    'other-unplug': 'another vDPA NIC unplugged',
    'stop': 'stop, cont',
}
RESTART = ['idle', 'stop']
MEMORY_CHANGES = [name for name in OPERATIONS if name != 'stop']


class Case:
    """A kind of device

    name: for people
    device: options of the software device
    only: names of the operations that are of interest
    """

    def __init__(self, name, *device, only=tuple(OPERATIONS)):
        self.name = name
        self.device = [*device, '--no-feature', 'CTRL_VQ']
        self.only = only


# One that uses addresses of the process, and takes no time for that; one
# whose memory the host pins, 10 GiB in a second; one that besides is told of
# each change at once, so that a batch is not one change, and that cannot be
# stopped and continued.  It is made to let queues be enabled after DRIVER_OK,
# because unmodified QEMU depends on it
SIM = ['--like', 'sim', '--map', 'va']
MLX5 = ['--like', 'mlx5', '--map', 'pa', '--memlock', 'unlimited',
        '--slow-pin', '100']
VP_VDPA = ['--like', 'vp_vdpa', '--map', 'pa', '--memlock', 'unlimited',
           '--slow-pin', '100', '--enable-after-driver-ok', 'on']
CASES = [
    Case('sim', *SIM, '--persist', 'on'),
    Case('mlx5', *MLX5, '--persist', 'on'),
    Case('vp_vdpa', *VP_VDPA, only=MEMORY_CHANGES),
    # Only a reset makes a difference
    Case('sim, no persist', *SIM, '--persist', 'off', only=RESTART),
    Case('mlx5, no persist', *MLX5, '--persist', 'off', only=RESTART),
    # Devices that cannot be suspended are reset when the guest is stopped
    Case('mlx5, no suspend', *MLX5, '--persist', 'on', '--suspend', 'off',
         '--resume', 'off', only=RESTART),
    Case('mlx5, no suspend, no persist', *MLX5, '--persist', 'off',
         '--suspend', 'off', '--resume', 'off', only=RESTART),
]

class Figures:
    """What was seen while one thing happened

    gap: nanoseconds without a frame, in that direction in which they are more
    interrupt: nanoseconds without an interrupt
    lost: frames
    bad: frames that arrived otherwise than they were sent
    count: frames that arrived, in and out
    faults: bad accesses of the device
    dead: no frame came any more, until the driver was loaded again; @gap is
          then how long that was observed
    """

    def __init__(self, answer, faults):
        ways = answer['in'], answer['out']
        self.gap = max(way['gap'] for way in ways)
        self.interrupt = answer['interrupts']['gap']
        self.lost = sum(way['lost'] for way in ways)
        self.bad = sum(way['bad'] for way in ways)
        self.count = [way['count'] for way in ways]
        self.faults = faults
        self.dead = not answer['back']

    def add(self, other):
        """What was seen when it happened once more"""
        self.gap = min(self.gap, other.gap)
        self.interrupt = min(self.interrupt, other.interrupt)
        self.lost += other.lost
        self.bad += other.bad
        self.count = [sum(pair) for pair in zip(self.count, other.count)]
        self.faults += other.faults
        self.dead |= other.dead

    def json(self):
        """For the report"""
        return vars(self)


class Blackout:
    """One run of QEMU

    @tree: which of the two
    @case: a Case
    @window: milliseconds of an observation
    @repeat: how often all is done

    figures: {operation: Figures}
    """

    def __init__(self, tree, case, window=WINDOW, repeat=REPEAT):
        self._window = window
        self.figures = {}
        options = guest.options(MEMORY, SHARED, 2, 4 * MEMORY)
        # One of the operations is to plug the device of the second node
        device = [*case.device, '--wire', 'unix-listen:FOLDER/wire', '--node',
                  *case.device]
        with Machine(tree, device, options) as machine:
            self._machine = machine
            self._nic = guest.Nic(machine, guest.NIC_SLOT,
                                  interrupts=INTERRUPTS)
            self._other = None
            self._guest = guest.Guest(machine, True, nic=self._nic)
            self._guest.firmware()
            self._guest.kernel()
            with Traffic(machine, MEMORY,
                         os.path.join(machine.folder, 'wire')) as traffic:
                self._traffic = traffic
                self._load()
                for _ in range(repeat):
                    for name in case.only:
                        self._observe(name)
                traffic('end')
            machine.quit()

    def _load(self):
        """Load the driver, and begin the stream"""
        self._nic.load()
        self._traffic.loaded()
        self._traffic(f'stream {PERIOD} {SMALL}')
        # All is warm when this comes back
        if not self._traffic('report 20')['back']:
            raise BenchError('there is a stream of frames, but none arrives')

    def _faults(self):
        return self._machine.control('stats')['faults']

    def _observe(self, name):
        function = getattr(self, '_' + name.replace('-', '_'))
        before = self._faults()
        self._traffic('mark')
        function()
        answer = self._traffic(f'report {self._window}')
        figures = Figures(answer, self._faults() - before)
        if name in self.figures:
            self.figures[name].add(figures)
        else:
            self.figures[name] = figures
        if not answer['back']:
            self._nic.unload()
            self._load()

    def _idle(self):
        pass

    def _dimm_add(self):
        self._guest.add_dimm(0, DIMM_SIZE)

    def _dimm_remove(self):
        self._guest.remove_dimm(0)

    def _bar_move(self):
        for place in PLACES:
            self._guest.move_bar(self._guest.vga, 0, place)

    def _bar_toggle(self):
        self._guest.shared.command(off=guest.COMMAND_MEMORY)
        self._guest.shared.command(on=guest.COMMAND_MEMORY)

    def _rom(self):
        self._guest.shadow(True)
        self._guest.shadow(False)

    def _plug(self):
        # QEMU does not let a second device have the memory of a former one
        self._machine.qmp('object-add', **{
            'qom-type': 'memory-backend-memfd', 'id': 'plugged-memory',
            'size': SHARED, 'share': True})
        self._machine.qmp('device_add', driver='ivshmem-plain', id='plugged',
                          memdev='plugged-memory', addr=f'{PLUGGED_SLOT:x}')
        plugged = guest.Pci(self._machine, PLUGGED_SLOT)
        plugged.bars = plugged.size_bars()
        self._guest.move_bar(plugged, 2, PLUGGED_PLACE)

    def _remove(self, name, slot):
        self._machine.qmp('device_del', id=name)
        self._machine.qtest(f'outl {guest.PCI_EJECT:#x} {1 << slot:#x}')
        self._machine.event('DEVICE_DELETED', device=name)

    def _unplug(self):
        self._remove('plugged', PLUGGED_SLOT)
        self._machine.qmp('object-del', id='plugged-memory')

    def _other_plug(self):
        self._machine.qmp('netdev_add', type='vhost-vdpa', id='net1',
                          vhostdev='/dev/vhost-vdpa-1')
        self._machine.qmp('device_add', driver='virtio-net-pci', id='nic1',
                          netdev='net1', romfile='', addr=f'{OTHER_SLOT:x}')
        self._other = guest.Nic(self._machine, OTHER_SLOT,
                                rings=OTHER_RINGS, node=1)
        self._other.bars = self._other.size_bars()
        place = OTHER_PLACE
        for bar in self._other.bars:
            if not bar.io:
                self._other.place_bar(bar, place)
                place += max(bar.size, MIB)

    def _other_load(self):
        self._other.load()

    def _other_unload(self):
        self._other.unload()

    def _other_unplug(self):
        self._remove('nic1', OTHER_SLOT)
        self._machine.qmp('netdev_del', id='net1')

    def _stop(self):
        # The guest's driver does nothing, but the wire goes on
        self._traffic('hold')
        self._machine.qmp('stop')
        self._machine.qmp('cont')
        self._machine.control.wait('status', '&', guest.DRIVER_OK)
        self._traffic.kicks()


TOTALS = [
    ('lost', 'frames lost, in all of these', 'frames'),
    ('faults', 'DMA faults, in all of these', 'faults'),
    ('dead', 'the stream ends', 'times'),
]
COLUMNS = ['ours', 'range', 'theirs', 'range', 'ratio']


def timed_cells(samples):
    """Columns of milliseconds, from {side: Sample}"""
    cells = []
    for sample in samples:
        cells += [report.milliseconds(sample.median),
                  report.spread(sample, report.milliseconds)]
    return [*cells, report.ratio(*samples)]


def run_case(case, args, progress):
    """{tree: [Blackout]}"""
    runs = {trees.OURS: [], trees.THEIRS: []}
    for number, tree in trees.by_turns(args.runs):
        progress(f'blackout: {case.name}, run {number + 1}, {tree.name}')
        runs[tree].append(Blackout(tree, case))
    return runs


def run(args, progress):
    """The part "blackout" """
    table = report.Table(
        f'A frame in each direction every {PERIOD} us, {args.runs} runs on '
        f'each side.  Each thing is\nobserved {REPEAT} times in a run, for '
        f'{WINDOW} ms at least: gaps are the shortest of these,\nlost frames '
        'and faults are added up.  "dead": in how many runs no frame came any'
        '\nmore until the driver was loaded again.  Interrupts go by way of '
        "QEMU's main thread,\nas without irqfd; with irqfd, they come when "
        'frames do', [
            ('ms without a frame', COLUMNS),
            ('ms without an interrupt', COLUMNS),
            ('frames lost', ['ours', 'theirs']),
            ('DMA faults', ['ours', 'theirs']),
            ('dead', ['ours', 'theirs'])])
    rows, figures = [], {}
    for case in CASES:
        runs = run_case(case, args, progress)
        figures[case.name] = {tree.name: [
            {name: one.json() for name, one in life.figures.items()}
            for life in side] for tree, side in runs.items()}
        names = list(runs[trees.OURS][0].figures)
        # What the machine does by itself, whoever runs on it
        noise = report.Sample(life.figures['idle'].gap / 1e6
                              for side in runs.values() for life in side)
        rows.append(report.Row(f'{case.name}: {OPERATIONS["idle"]}, no frame '
                               'for (noise of both)', 'ms', noise, noise))
        # What is shorter than that and a frame more cannot be told from it, so
        # no gap is longer than another if neither is longer than this
        floor = noise.high + PERIOD / 1e3
        for name in names:
            sides = [[life.figures[name] for life in side]
                     for side in runs.values()]
            gaps, interrupts, lost, faults = (
                [report.Sample(getattr(one, key) for one in side)
                 for side in sides]
                for key in ('gap', 'interrupt', 'lost', 'faults'))
            table.add(f'{case.name}: {OPERATIONS[name]}',
                      *timed_cells(gaps), *timed_cells(interrupts),
                      *(report.count(sample.median) for sample in lost),
                      *(report.count(sample.median) for sample in faults),
                      *(f'{sum(one.dead for one in side)}/{len(side)}'
                        for side in sides))
            if name != 'idle':
                rows.append(report.Row(
                    f'{case.name}: {OPERATIONS[name]}, no frame for', 'ms',
                    *(report.Sample(max(value / 1e6, floor)
                                    for value in sample.values)
                      for sample in gaps), floor))
        # All of a life together
        for key, what, unit in TOTALS:
            rows.append(report.Row(
                f'{case.name}: {what}', unit, *(
                    report.Sample(sum(getattr(one, key)
                                      for one in life.figures.values())
                                  for life in side)
                    for side in runs.values()), 0))
        rows.append(report.Row(
            f'{case.name}: longest time without an interrupt', 'ms', *(
                report.Sample(max(one.interrupt
                                  for one in life.figures.values()) / 1e6
                              for life in side)
                for side in runs.values())))
    return report.Part(rows, table.text(), figures)


def check(case):
    """Each thing is seen, no frame is lost, and the device makes no fault"""
    wrong = []
    found = Blackout(trees.OURS, case, 0, 1).figures
    for name in case.only:
        figures = found.get(name)
        if not figures:
            wrong.append(f'{name} was not observed')
            continue
        for key in ('lost', 'bad', 'faults', 'dead'):
            if getattr(figures, key):
                wrong.append(f'{name}: {key} is {getattr(figures, key)}')
        if not all(figures.count):
            wrong.append(f'{name}: {figures.count} frames arrived')
    return wrong


def check_gap():
    """A device that pauses, and one that loses frames, is seen"""
    wrong = []
    with Machine(trees.OURS, [*CASES[0].device, '--wire',
                              'unix-listen:FOLDER/wire'],
                 guest.options(MEMORY)) as machine:
        nic = guest.Nic(machine, guest.NIC_SLOT, interrupts=INTERRUPTS)
        guest.Guest(machine, False, nic=nic).firmware()
        with Traffic(machine, MEMORY,
                     os.path.join(machine.folder, 'wire')) as traffic:
            nic.load()
            traffic.loaded()
            traffic(f'stream {PERIOD} {SMALL}')
            traffic('report 20')
            traffic('mark')
            machine.control('pause')
            paused = traffic('report 30')
            if paused['back'] or paused['in']['gap'] < PAUSED:
                wrong.append(f'paused: {paused}')
            machine.control('unpause')
            if not traffic('report 30')['back']:
                wrong.append('there is no stream after a pause')
            traffic('mark')
            machine.control('link down')
            traffic('report 10')
            machine.control('link up')
            down = traffic('report 30')
            for way in 'in', 'out':
                if not down[way]['lost']:
                    wrong.append(f'link down, {way}: {down}')
        machine.quit()
    return wrong


TESTS = [('gap', check_gap, ()), ('all', check, (CASES[2],)),
         ('restart', check, (CASES[-1],))]
