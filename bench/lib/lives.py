"""Lives of guests, counted: messages, bytes, other calls

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

from . import guest
from .machine import Machine
from .mappings import Device, Floor, Tally, guest_memory

MIB = guest.MIB

MEMORY = 256 * MIB
SHARED = 4 * MIB
DIMMS = 4
DIMM_SIZE = 64 * MIB
RELOADS = 10
MOVES = 4

# Places for BARs, in turns; none is where the firmware puts one
PLACES = [0xf0000000, 0xd0000000]


class Kind:
    """A kind of vDPA driver, as the software device imitates it

    device: options of the software device
    stops: it can be stopped and continued, because it tells where its
           virtqueues are
    """

    def __init__(self, *device, stops=True):
        # Nothing is shadowed on either side without a control queue
        self.device = [*device, '--no-feature', 'CTRL_VQ']
        self.stops = stops


# Memory is not really pinned, so that the benchmark needs no privilege.
# QEMU cannot tell.  vp_vdpa is made to let queues be enabled after DRIVER_OK,
# because unmodified QEMU depends on it
KINDS = {
    'sim': Kind('--like', 'sim'),
    'mlx5': Kind('--like', 'mlx5', '--map', 'any'),
    'vp_vdpa': Kind('--like', 'vp_vdpa', '--map', 'any',
                    '--enable-after-driver-ok', 'on', stops=False),
}


class Phase:
    """What a part of a life cost

    name: what it was
    figures: {name: number}; those of Tally, and those of Floor with "floor_"
             before the name
    """

    def __init__(self, name, figures):
        self.name = name
        self.figures = figures

    @classmethod
    def sum(cls, name, phases):
        """All phases together"""
        return cls(name, {key: sum(phase.figures[key] for phase in phases)
                          for key in phases[0].figures})


class Life:
    """One run of QEMU, from its start to its exit

    phases: [Phase]
    total: Phase, their sum
    peak: most bytes mapped at a time
    missing: most bytes of guest memory that a running device could not reach
    excess: most bytes that it could reach and should not
    faults: bad accesses of the device
    complaints: number of lines that QEMU wrote on its standard error
    """

    def __init__(self, tree, kind, persist, cards):
        self._floor = Floor(persist)
        self._device = Device()
        self._tally = Tally()
        self._running = True
        self.phases = []
        self.missing = self.excess = self.faults = 0
        device = kind.device + ['--persist', 'on' if persist else 'off']
        options = (guest.options(MEMORY, SHARED, DIMMS, 4 * MEMORY)
                   if cards else guest.options(MEMORY))
        with Machine(tree, device, options) as machine:
            self._machine = machine
            self._guest = guest.Guest(machine, cards, observe=self._observe)
            self._end_phase('start of QEMU')
            self._reload_often()
            if cards:
                self._change_memory()
                if kind.stops:
                    self._stop_and_continue()
            self.faults = machine.control('stats')['faults']
            self.complaints = len(machine.quit().splitlines())
            self._end_phase('exit')
        self.total = Phase.sum('total', self.phases)
        self.peak = self._device.peak

    def all_phases(self):
        """The phases, and the total"""
        return self.phases + [self.total]

    def json(self):
        """For the report"""
        return {'phases': {phase.name: phase.figures
                           for phase in self.all_phases()},
                'peak': self.peak, 'missing': self.missing,
                'excess': self.excess, 'faults': self.faults,
                'complaints': self.complaints}

    def _read(self):
        """Take in what was sent"""
        calls = self._machine.transcript.new()
        self._tally.add(calls, self._device)

    def _end_phase(self, name):
        self._read()
        floor = self._floor.take()
        self.phases.append(Phase(name, {
            **vars(self._tally),
            **{f'floor_{key}': value for key, value in floor.items()}}))
        self._tally = Tally()

    def _observe(self):
        if not self._running:
            return
        self._read()
        memory = guest_memory(self._machine)
        self._floor.observe(memory)
        missing, excess = self._device.difference(memory)
        self.missing = max(self.missing, missing)
        self.excess = max(self.excess, excess)

    def _move_bars(self, times):
        for number in range(times):
            base = PLACES[number % len(PLACES)]
            self._guest.move_bar(self._guest.vga, 0, base)
            self._guest.move_bar(self._guest.shared, 2, base + 64 * MIB)

    def _stop(self):
        self._machine.qmp('stop')
        self._running = False

    def _continue(self):
        self._machine.qmp('cont')
        self._machine.control.wait('status', '&', guest.DRIVER_OK)
        self._running = True
        self._observe()
        self._guest.nic.send()

    def _reload_often(self):
        self._guest.boot()
        self._end_phase('boot')
        for _ in range(RELOADS):
            self._guest.unload()
            self._floor.reset()
            self._guest.load()
        self._end_phase(f'{RELOADS} driver reloads')

    def _change_memory(self):
        self._guest.reset()
        self._floor.reset()
        self._guest.boot()
        self._end_phase('reboot')
        for slot in range(DIMMS):
            self._guest.add_dimm(slot, DIMM_SIZE)
        self._end_phase(f'{DIMMS} DIMMs added')
        for slot in range(DIMMS):
            self._guest.remove_dimm(slot)
        self._end_phase(f'{DIMMS} DIMMs removed')
        self._move_bars(MOVES)
        self._end_phase(f'{2 * MOVES} BAR moves')

    def _stop_and_continue(self):
        self._stop()
        self._continue()
        self._end_phase('stop, cont')
        self._stop()
        self._move_bars(MOVES - 1)
        self._continue()
        self._end_phase(f'stop, {2 * MOVES - 2} BAR moves, cont')


def lives():
    """All lives there are: (name, text, {argument of Life: value})"""
    for kind_name, kind in KINDS.items():
        for persist in (True, False):
            for cards in (False, True):
                name = (f'{kind_name}-{"" if persist else "no-"}persist-'
                        f'{"all" if cards else "reloads"}')
                text = (f'like {kind_name}, with'
                        f'{"" if persist else "out"} IOTLB_PERSIST; '
                        f'{MEMORY // MIB} MiB')
                if cards:
                    text += ', graphics card, ivshmem'
                yield name, text, {'kind': kind, 'persist': persist,
                                   'cards': cards}
