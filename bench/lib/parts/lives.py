"""Lives of guests, counted: messages, bytes, other calls

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

from .. import guest, report, trees
from ..machine import Machine
from ..mappings import Account, Phase

TITLE = 'what the device is told over lives of guests'

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
        account = Account(persist)
        self._account = account
        self._running = True
        device = kind.device + ['--persist', 'on' if persist else 'off']
        options = (guest.options(MEMORY, SHARED, DIMMS, 4 * MEMORY)
                   if cards else guest.options(MEMORY))
        with Machine(tree, device, options) as machine:
            self._machine = machine
            self._guest = guest.Guest(machine, cards, observe=self._observe)
            account.begin(machine)
            account.end_phase('start of QEMU')
            self._reload_often()
            if cards:
                self._change_memory()
                if kind.stops:
                    self._stop_and_continue()
            self.faults = machine.control('stats')['faults']
            self.complaints = len(machine.quit().splitlines())
            account.end_phase('exit')
        self.phases = account.phases
        self.total = Phase.sum('total', self.phases)
        self.peak = account.peak
        self.missing, self.excess = account.missing, account.excess

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

    def _observe(self):
        if self._running:
            self._account.observe()

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
        self._account.end_phase('boot')
        for _ in range(RELOADS):
            self._guest.unload()
            self._account.reset()
            self._guest.load()
        self._account.end_phase(f'{RELOADS} driver reloads')

    def _change_memory(self):
        self._guest.reset()
        self._account.reset()
        self._guest.boot()
        self._account.end_phase('reboot')
        for slot in range(DIMMS):
            self._guest.add_dimm(slot, DIMM_SIZE)
        self._account.end_phase(f'{DIMMS} DIMMs added')
        for slot in range(DIMMS):
            self._guest.remove_dimm(slot)
        self._account.end_phase(f'{DIMMS} DIMMs removed')
        self._move_bars(MOVES)
        self._account.end_phase(f'{2 * MOVES} BAR moves')

    def _stop_and_continue(self):
        self._stop()
        self._continue()
        self._account.end_phase('stop, cont')
        self._stop()
        self._move_bars(MOVES - 1)
        self._continue()
        self._account.end_phase(f'stop, {2 * MOVES - 2} BAR moves, cont')


def lives(quick):
    """All lives there are: (name, text, {argument of Life: value})

    @quick: only some
    """
    for kind_name, kind in list(KINDS.items())[:1 if quick else None]:
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


LIVES_COLUMNS = [
    ('messages', ['ours', 'theirs', 'ratio', 'floor']),
    ('MiB mapped', ['ours', 'theirs', 'ratio', 'floor']),
    ('MiB unmapped', ['ours', 'theirs', 'ratio', 'floor']),
    ('other calls', ['ours', 'theirs', 'ratio']),
]


def lives_cells(phases):
    """One row of LIVES_COLUMNS, from the [Phase] of either side"""
    cells = []
    for key, show in (('messages', report.count),
                      ('bytes_mapped', report.mebibytes),
                      ('bytes_unmapped', report.mebibytes),
                      ('ioctls', report.count)):
        samples = [report.Sample(phase.figures[key] for phase in side)
                   for side in phases]
        cells += [show(sample.median) + '~' * (not sample.exact)
                  for sample in samples]
        cells.append(report.ratio(*samples))
        if key != 'ioctls':
            cells.append(show(phases[0][0].figures[f'floor_{key}']))
    return cells


def lives_table(text, runs):
    """The table of a life, from {tree: [Life]}"""
    table = report.Table(text, LIVES_COLUMNS)
    for phases in zip(*(life.all_phases() for side in runs.values()
                        for life in side)):
        count = len(runs[trees.OURS])
        table.add(phases[0].name, *lives_cells([phases[:count],
                                                phases[count:]]))
    lines = table.text()
    for tree, side in runs.items():
        lines += (f'{tree.name}: at most '
                  f'{report.mebibytes(max(life.peak for life in side))} MiB '
                  'mapped at a time')
        for key, what in (
                ('missing', 'bytes of guest memory that the running device '
                 'could not reach'),
                ('excess', 'bytes that it could reach in vain'),
                ('faults', 'faults of the device'),
                ('complaints', 'lines on standard error')):
            value = max(getattr(life, key) for life in side)
            if value:
                lines += f'; {value} {what}'
        lines += '\n'
    return lines


def rows_of(name, runs):
    """Rows of a life, from {tree: [Life]}"""
    for key, what, unit, factor in (
            ('messages', 'messages', 'messages', 1),
            ('bytes_mapped', 'mapped', 'MiB', 1 / MIB),
            ('bytes_unmapped', 'unmapped', 'MiB', 1 / MIB),
            ('ioctls', 'other calls', 'calls', 1)):
        ours, theirs = (report.Sample(life.total.figures[key] * factor
                                      for life in side)
                        for side in runs.values())
        floor = runs[trees.OURS][0].total.figures.get(f'floor_{key}')
        yield report.Row(f'{name}, {what}', unit, ours, theirs,
                         None if floor is None else floor * factor)


def run(args, progress):
    """The part "lives" """
    texts, figures, rows = [], {}, []
    summary = report.Table('Lives of guests, from the start of QEMU to its '
                           'exit; each in detail below', LIVES_COLUMNS)
    for name, text, arguments in lives(args.quick):
        runs = {trees.OURS: [], trees.THEIRS: []}
        for number, tree in trees.by_turns(args.lives):
            progress(f'lives: {name}, run {number + 1}, {tree.name}')
            runs[tree].append(Life(tree, **arguments))
        texts.append(lives_table(f'{name}: {text}', runs))
        summary.add(name, *lives_cells([[life.total for life in side]
                                        for side in runs.values()]))
        figures[name] = {tree.name: [life.json() for life in side]
                         for tree, side in runs.items()}
        rows += rows_of(name, runs)
    return report.Part(rows, '\n'.join([summary.text(), *texts]), figures)


# Regions of RAM that the device reaches: low memory, the area of ROMs, the
# rest of RAM, the firmware; then the graphics card and ivshmem
PLAIN, CARDS = 4, 6
# The last two of the plain ones
START = (2, 0, 1)
# All others
BOOT = {False: (2, 0, 1), True: (4, 0, 1)}


def expected(persist, cards):
    """{phase: (UPDATEs, INVALIDATEs, batches)}"""
    regions = CARDS if cards else PLAIN
    # A message that removes all, a batch of additions, or nothing at all
    reset = (0, 0, 0) if persist else (regions, 1, 1)
    result = {
        'start of QEMU': START,
        'boot': BOOT[cards],
        f'{RELOADS} driver reloads':
        tuple(RELOADS * number for number in reset),
    }
    if cards:
        moves, few = 2 * MOVES, 2 * (MOVES - 1)
        result.update({
            # Both BARs go away while the device still runs.  A batch of one
            # INVALIDATE would be of no use.  What is mapped anew right after
            # the device's reset loses them, too
            'reboot': (2, 2, 1) if persist else
                      tuple(map(sum, zip(reset, (2, 2, 1)))),
            f'{DIMMS} DIMMs added': (DIMMS, 0, DIMMS),
            f'{DIMMS} DIMMs removed': (0, DIMMS, 0),
            f'{moves} BAR moves': (moves, moves, moves),
            'stop, cont': (0, 0, 0),
            # Additions wait for the next removal, or until the device runs;
            # all but the first removal are in a batch with one
            f'stop, {few} BAR moves, cont': (few, few, few),
        })
    result['exit'] = (0, 0, 0)
    return result


def check_life(persist, cards):
    """The figures of one life"""
    life = Life(trees.OURS, KINDS['sim'], persist, cards)
    found = {phase.name: (phase.figures['updates'],
                          phase.figures['invalidates'],
                          phase.figures['markers'] / 2)
             for phase in life.phases}
    wrong = [f'{name}: (UPDATEs, INVALIDATEs, batches) is '
             f'{found.get(name)}, not {wanted}'
             for name, wanted in expected(persist, cards).items()
             if found.get(name) != wanted]
    wrong += [f'{name} is not expected at all' for name in
              found.keys() - expected(persist, cards).keys()]
    for key in ('missing', 'excess', 'faults', 'complaints'):
        if getattr(life, key):
            wrong.append(f'{key} is {getattr(life, key)}, not 0')
    total = life.total.figures
    if total['failed']:
        wrong.append(f'{total["failed"]} messages were refused')
    # Nobody does better than the floor
    for name, value in (
            ('messages', total['updates'] + total['invalidates']),
            ('bytes_mapped', total['bytes_mapped']),
            ('bytes_unmapped', total['bytes_unmapped'])):
        if value < total[f'floor_{name}']:
            wrong.append(f'{name} is {value}, less than the floor of '
                         f'{total[f"floor_{name}"]}')
    if not total['floor_messages']:
        wrong.append('the floor is nothing')
    return wrong


TESTS = [(f'{"" if persist else "no-"}persist/{"all" if cards else "reloads"}',
          check_life, (persist, cards))
         for persist in (True, False) for cards in (False, True)]
