"""The control plane: what operations cost, and how that grows

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import statistics
import time

from .. import guest, plot, report, trees
from ..machine import BenchError, Machine
from ..mappings import Account, Phase

TITLE = 'what operations cost, by memory, DIMMs and pairs of queues'

MIB, GIB = guest.MIB, 1 << 30

# A guest has a graphics card, memory shared with others, and a slot for one
# DIMM more
SHARED = 4 * MIB
DIMM_SIZE = 128 * MIB
# Each operation is done that often.  It may cost more the first time
COUNTED_TURNS, TIMED_TURNS = 2, 3
# Other places for the BAR than where the firmware puts it
PLACES = [0xf0000000, 0xd0000000]


class Size:
    """Of a guest

    gib: memory, without DIMMs
    dimms: how many there are from the start
    pairs: of queues
    minor: it is between others, see report.Row
    """

    def __init__(self, gib=1, dimms=0, pairs=1, minor=False):
        self.gib = gib
        self.dimms = dimms
        self.pairs = pairs
        self.minor = minor

    @property
    def name(self):
        """What is special"""
        if self.dimms:
            return f'{self.dimms} DIMM{"s" * (self.dimms > 1)}'
        if self.pairs > 1:
            return f'{self.pairs} pairs'
        return f'{self.gib} GiB'

    def options(self):
        """Options of QEMU"""
        maximum = self.gib * GIB + (self.dimms + 1) * DIMM_SIZE
        result = guest.options(self.gib * GIB, SHARED, self.dimms + 1,
                               # each DIMM is aligned
                               maximum + (self.dimms + 2) * GIB, self.pairs)
        for number in range(self.dimms):
            result += [
                '-object', f'memory-backend-memfd,id=memory{number},'
                f'size={DIMM_SIZE},share=on,reserve=off',
                '-device', f'pc-dimm,id=dimm{number},memdev=memory{number},'
                f'slot={number}',
            ]
        return result

    def device(self, persist):
        """Options of the software device

        Memory is not really pinned, so that the benchmark needs no privilege.
        """
        return ['--like', 'sim', '--queues', str(self.pairs),
                '--persist', 'on' if persist else 'off',
                *([] if self.pairs > 1 else ['--no-feature', 'CTRL_VQ'])]


SMALL = Size()
SIZES = [SMALL, Size(gib=4, minor=True), Size(gib=16, minor=True),
         Size(gib=64), Size(dimms=1, minor=True), Size(dimms=4, minor=True),
         Size(dimms=16, minor=True), Size(dimms=64),
         Size(pairs=4, minor=True), Size(pairs=16)]
# What a plot has on its x axis, and which sizes are on it
AXES = {
    'memory': ('GiB of guest memory', lambda size: size.gib,
               lambda size: not size.dimms and size.pairs == 1),
    'dimms': ('DIMMs', lambda size: size.dimms, lambda size: size.dimms),
    'pairs': ('pairs of queues', lambda size: size.pairs,
              lambda size: size.gib == 1 and not size.dimms),
}

START, LIFE = 'start', 'life'
OPERATIONS = {
    START: 'start of QEMU to DRIVER_OK',
    'reload': 'driver reload',
    'reboot': 'reboot',
    'stop': 'stop, cont',
    'dimm-add': 'DIMM added',
    'dimm-remove': 'DIMM removed',
    'bar': 'BAR moved',
    'nic': 'NIC unplugged and plugged',
}

# {figure: (text, unit, factor)}
COUNTS = {
    'messages': ('messages', 'messages', 1),
    'bytes_mapped': ('mapped', 'MiB', 1 / MIB),
    'ioctls': ('other calls', 'calls', 1),
}
TIMES = {
    'time': ('time', 'ms', 1e-6),
    'processor': ('processor time', 'ms', 1e-6),
    'memory': ('peak memory of QEMU', 'MiB', 1 / MIB),
}


class Control:
    """One run of QEMU, in which each operation is done several times

    @tree: which of the two
    @size: Size of the guest
    @persist: whether the device has IOTLB_PERSIST
    @counted: count what the device is told; otherwise, measure

    figures: {operation: {figure: [value each time]}}; the operation LIFE is
             all together.  What is timed takes, in nanoseconds,

             start   from before the start of QEMU until DRIVER_OK
             reload  the reset, and from the write of DRIVER_OK until the
                     device has it
             reboot  from system_reset to its event, and as just said
             stop    both commands, until the device runs
             DIMM    device_add; device_del, until DEVICE_DELETED
             bar     turning it off and on
             nic     from netdev_add until DRIVER_OK

             What of this the guest does is done step by step from outside,
             and takes either side equally long.
    peak: most bytes mapped at a time, if counted
    error: why it came to its end too early, or None
    problems: {what should not be: how much of it}
    """

    def __init__(self, tree, size, persist, counted):
        self.figures = {}
        self.peak = None
        self.error = None
        self.problems = {}
        self._size = size
        self._account = Account(persist) if counted else None
        self._running = True
        start = time.perf_counter_ns()
        try:
            with Machine(tree, size.device(persist), size.options(),
                         counted) as machine:
                self._machine = machine
                self._guest = guest.Guest(machine, True, pairs=size.pairs,
                                          observe=self._observe)
                if counted:
                    self._account.begin(machine)
                self._live(start, COUNTED_TURNS if counted else TIMED_TURNS)
        except BenchError as error:
            self.error = str(error)

    def _live(self, start, turns):
        machine = self._machine
        self._guest.boot()
        self._end_of(START, self._guest.nic.ready - start,
                     machine.all_processor_time())
        for turn in range(turns):
            for operation, function in (
                    ('reload', self._reload),
                    ('reboot', self._reboot),
                    ('stop', self._stop_and_continue),
                    ('dimm-add', self._add_dimm),
                    ('dimm-remove', self._remove_dimm),
                    ('bar', lambda place=turn % 2: self._move_bar(place)),
                    ('nic', self._replug)):
                before = machine.all_processor_time()
                taken = function()
                self._end_of(operation, taken,
                             machine.all_processor_time() - before)
        stats = machine.control('stats')
        self.problems['faults of the device'] = stats['faults']
        self.problems['pairs of queues that are not in use'] = \
            self._size.pairs - stats['active-pairs']
        if not self._account:
            self.figures[LIFE] = {
                'processor': [machine.all_processor_time()],
                'memory': [machine.peak_memory()]}
        self.problems['lines on standard error'] = \
            len(machine.quit().splitlines())
        if self._account:
            account = self._account
            account.end_phase('exit')
            self.peak = account.peak
            total = Phase.sum(LIFE, account.phases).figures
            self.figures[LIFE] = {key: [value]
                                  for key, value in total.items()}
            self.problems.update({
                'messages refused': total['failed'],
                'bytes of guest memory that the running device could not '
                'reach': account.missing,
                'bytes that it could reach in vain': account.excess})

    def _end_of(self, operation, taken, processor):
        """An operation is over, and the device works"""
        figures = {'time': taken, 'processor': processor}
        if self._account:
            self._account.end_phase(operation)
            figures = self._account.phases[-1].figures
        values = self.figures.setdefault(operation, {})
        for key, value in figures.items():
            values.setdefault(key, []).append(value)

    def _observe(self):
        if self._account and self._running:
            self._account.observe()

    def _reset(self):
        if self._account:
            self._account.reset()

    def _reload(self):
        taken = self._guest.unload()
        self._reset()
        return taken + self._guest.load()

    def _reboot(self):
        taken = self._guest.reset()
        self._reset()
        return taken + self._guest.boot()

    def _stop_and_continue(self):
        start = time.perf_counter_ns()
        self._machine.qmp('stop')
        self._running = False
        self._machine.qmp('cont')
        self._machine.control.wait('status', '&', guest.DRIVER_OK)
        self._machine.control.wait('suspended', '==', 0)
        taken = time.perf_counter_ns() - start
        self._running = True
        self._observe()
        self._guest.nic.send()
        return taken

    def _add_dimm(self):
        return self._guest.add_dimm(self._size.dimms, DIMM_SIZE)

    def _remove_dimm(self):
        return self._guest.remove_dimm(self._size.dimms)

    def _move_bar(self, place):
        taken = self._guest.move_bar(self._guest.shared, 2, PLACES[place])
        self._guest.nic.send()
        return taken

    def _replug(self):
        self._guest.unload()
        self._guest.remove_nic()
        if self._account:
            self._account.close()
        start = time.perf_counter_ns()
        self._guest.add_nic()
        self._guest.load()
        return self._guest.nic.ready - start


class Case:
    """All runs of one size

    @size: Size of the guest
    @persist: whether the device has IOTLB_PERSIST

    name: of both
    """

    def __init__(self, size, persist):
        self.size = size
        self.persist = persist
        self.name = f'{size.name}, {"" if persist else "no "}persist'
        self._counted = {trees.OURS.name: [], trees.THEIRS.name: []}
        self._timed = {trees.OURS.name: [], trees.THEIRS.name: []}

    def run(self, tree, counted):
        """Do one run"""
        runs = self._counted if counted else self._timed
        runs[tree.name].append(Control(tree, self.size, self.persist,
                                       counted))

    def sample(self, side, operation, figure):
        """A Sample, or None if that side cannot do this"""
        if figure in TIMES:
            # One value of each run: the first time may be another one
            values = [statistics.median(run.figures[operation][figure])
                      for run in self._timed[side]
                      if figure in run.figures.get(operation, {})]
        else:
            values = [value for run in self._counted[side]
                      for value in run.figures.get(operation, {})
                      .get(figure, [])]
        return report.Sample(values) if values else None

    def row(self, operation, figure):
        """A Row, or None if both sides have nothing of that"""
        text, unit, factor = {**COUNTS, **TIMES}[figure]
        ours, theirs = (
            sample and sample.scaled(factor) for sample in (
                self.sample(side, operation, figure)
                for side in (trees.OURS.name, trees.THEIRS.name)))
        if not any(sample and sample.high for sample in (ours, theirs)):
            return None
        floor = (self.sample(trees.OURS.name, operation, f'floor_{figure}')
                 if figure in COUNTS else None)
        if operation == LIFE:
            name = f'{self.name}: {text}'
        else:
            name = f'{self.name}: {OPERATIONS[operation]}, {text}'
        return report.Row(
            name, unit, ours, theirs,
            floor.scaled(factor).median if floor else None,
            minor=self.size.minor or (operation != LIFE and
                                      (self.size is not SMALL or
                                       figure not in ('messages', 'time'))))

    def rows(self):
        """All Rows"""
        pairs = [(LIFE, figure) for figure in
                 (*COUNTS, 'processor', 'memory')]
        pairs += [(operation, figure) for operation in OPERATIONS
                  for figure in (*COUNTS, 'time', 'processor')]
        return [row for row in (self.row(*pair) for pair in pairs) if row]

    def text(self):
        """The table of this case"""
        sides = ['ours', 'theirs', 'ratio']
        timed = ['ours', 'range', 'theirs', 'range', 'ratio']
        table = report.Table(self.name, [
            ('messages', [*sides, 'floor']), ('MiB mapped', [*sides, 'floor']),
            ('other calls', sides), ('ms', timed),
            ('ms of processor time', timed)])
        for operation, name in {**OPERATIONS, LIFE: 'all'}.items():
            cells = []
            for figure in (*COUNTS, 'time', 'processor'):
                row = self.row(operation, figure)
                # without the unit
                row = row.cells()[1:] if row else [''] * 8
                cells += [row[0], *row[1:2] * (figure in TIMES),
                          row[2], *row[3:4] * (figure in TIMES), row[4],
                          *row[5:6] * (figure in ('messages',
                                                  'bytes_mapped'))]
            table.add(name, *cells)
        return table.text() + ''.join(f'{line}\n' for line in self._remarks())

    def _remarks(self):
        """What the table does not say"""
        row = self.row(LIFE, 'memory')
        if row:
            cells = row.cells()
            yield (f'peak memory of QEMU: ours {cells[1]} MiB, theirs '
                   f'{cells[3]} MiB, ratio {cells[5]}')
        for side in (trees.OURS.name, trees.THEIRS.name):
            runs = self._counted[side] + self._timed[side]
            peak = max((run.peak or 0 for run in runs), default=0)
            if peak:
                yield (f'{side}: at most {report.mebibytes(peak)} MiB mapped '
                       'at a time')
            for error in sorted({run.error for run in runs if run.error}):
                yield f'{side} comes to an early end: {error}'
            for what in sorted({what for run in runs
                                for what in run.problems}):
                value = max(run.problems.get(what, 0) for run in runs)
                if value:
                    yield f'{side}: {value} {what}'

    def json(self):
        """For the report"""
        return {'gib': self.size.gib, 'dimms': self.size.dimms,
                'pairs': self.size.pairs, 'persist': self.persist,
                **{key: {side: [{'figures': run.figures,
                                 'peak': run.peak, 'error': run.error,
                                 'problems': run.problems} for run in some]
                         for side, some in runs.items()}
                   for key, runs in (('counted', self._counted),
                                     ('timed', self._timed))}}


# (axis, operation, figure), the title, and whether the y axis is logarithmic
PLOTS = [
    ('memory', LIFE, 'bytes_mapped', 'MiB mapped over a life', True),
    ('memory', START, 'time', 'Start of QEMU to DRIVER_OK', False),
    ('memory', 'reload', 'time', 'Driver reload', False),
    ('memory', LIFE, 'processor', 'Processor time of a life', False),
    ('dimms', LIFE, 'messages', 'Messages over a life', True),
    ('dimms', START, 'time', 'Start of QEMU to DRIVER_OK', False),
    ('dimms', 'reload', 'time', 'Driver reload', False),
    ('dimms', 'dimm-add', 'time', 'Adding another DIMM', False),
    ('dimms', LIFE, 'processor', 'Processor time of a life', False),
    ('pairs', LIFE, 'ioctls', 'Other calls over a life', True),
    ('pairs', START, 'time', 'Start of QEMU to DRIVER_OK', False),
    ('pairs', 'reload', 'time', 'Driver reload', False),
    ('pairs', 'stop', 'time', 'stop and cont', False),
    ('pairs', LIFE, 'processor', 'Processor time of a life', False),
]


def make_plot(cases, axis, operation, figure, title, log):
    """One of PLOTS, or None if there are too few sizes for a curve"""
    # pylint: disable=too-many-arguments,too-many-positional-arguments
    label, where, included = AXES[axis]
    _, unit, factor = {**COUNTS, **TIMES}[figure]
    series = {}

    def add(name, case, sample):
        """Add a point"""
        if sample:
            sample = sample.scaled(factor)
            series.setdefault(name, []).append(
                (where(case.size), sample.median, sample.low, sample.high))

    for case in cases:
        if included(case.size):
            kind = 'persist' if case.persist else 'no persist'
            for side in (trees.OURS.name, trees.THEIRS.name):
                add(f'{side}, {kind}', case,
                    case.sample(side, operation, figure))
            if figure in COUNTS:
                add(f'floor, {kind}', case, case.sample(
                    trees.OURS.name, operation, f'floor_{figure}'))
    if max(map(len, series.values()), default=0) < 2:
        return None
    return plot.Plot(f'control-{axis}-{operation}-{figure.replace("_", "-")}',
                     title, label, unit, True, log, series)


def run(args, progress):
    """The part "control" """
    sizes = [size for size in SIZES if not (args.quick and size.minor)]
    cases = [Case(size, persist) for size in sizes
             for persist in (True, False)]
    for case in cases:
        # What is counted may depend on how fast the machine is, too
        for counted in (True, False):
            for number, tree in trees.by_turns(args.runs):
                progress(f'control: {case.name}, '
                         f'{"counted" if counted else "timed"}, '
                         f'run {number + 1}, {tree.name}')
                case.run(tree, counted)
    return report.Part(
        [row for case in cases for row in case.rows()],
        '\n'.join(case.text() for case in cases),
        [case.json() for case in cases],
        [made for made in (make_plot(cases, *what) for what in PLOTS) if made])


# {operation: (UPDATEs, INVALIDATEs)} where it does not depend on how fast the
# machine is: much memory is mapped in several slices.  The BAR moves while
# the device runs, and with the reboot, because that moves it back
EXACT = {'stop': (0, 0), 'dimm-add': (1, 0), 'dimm-remove': (0, 1),
         'bar': (1, 1)}
PERSISTENT = {'reload': (0, 0), 'reboot': (2, 2)}


class Impossible(Size):
    """Of a guest whose device is in use already"""

    def device(self, persist):
        return [*super().device(persist), '--busy']


def check_control(size, persist):
    """One side alone: what it costs, and that the report has all of it"""
    case = Case(size, persist)
    for counted in (True, False):
        case.run(trees.OURS, counted)
    found = case.json()
    counted, timed = (found[kind][trees.OURS.name][0]
                      for kind in ('counted', 'timed'))
    wrong = []
    for one, turns in ((counted, COUNTED_TURNS), (timed, TIMED_TURNS)):
        if one['error']:
            return [one['error']]
        # QEMU warns that the device cannot reach the graphics card
        wrong += [f'{value} {what}' for what, value in one['problems'].items()
                  if value and what != 'lines on standard error']
        times = {operation: len(next(iter(figures.values())))
                 for operation, figures in one['figures'].items()}
        if times != {**{key: turns for key in OPERATIONS}, START: 1, LIFE: 1}:
            wrong.append(f'operations are {times}')
    for operation, figures in counted['figures'].items():
        exact = {**EXACT, **(PERSISTENT if persist else {})}.get(operation)
        for name in COUNTS:
            floor = figures.get(f'floor_{name}')
            if floor and any(map(int.__lt__, figures[name], floor)):
                wrong.append(f'{operation}: {name} is {figures[name]}, less '
                             f'than the floor of {floor}')
        messages = set(zip(figures['updates'], figures['invalidates']))
        if exact and messages != {exact}:
            wrong.append(f'{operation}: (UPDATEs, INVALIDATEs) is {messages}, '
                         f'not {exact}')
    # Nothing is mapped twice, and a DIMM comes to what is there at the start
    peak = counted['figures'][START]['bytes_mapped'][0] + DIMM_SIZE
    if counted['peak'] != peak:
        wrong.append(f'at most {counted["peak"]} bytes are mapped, not '
                     f'{peak}')
    for operation in (START, 'nic' if persist else 'reload'):
        figures = counted['figures'][operation]
        if figures['bytes_mapped'] != figures['floor_bytes_mapped'] or \
                min(figures['bytes_mapped']) < size.gib * GIB:
            wrong.append(f'{operation}: {figures["bytes_mapped"]} bytes are '
                         f'mapped, not {figures["floor_bytes_mapped"]}')
    for operation, figures in timed['figures'].items():
        wrong += [f'{operation}: {name} is {values}'
                  for name, values in figures.items() if min(values) <= 0]
    rows = case.rows()
    for what in (*OPERATIONS.values(), 'messages', 'peak memory of QEMU'):
        if not any(what in row.name for row in rows):
            wrong.append(f'no row tells of {what}')
    for row in rows:
        if not row.ours or row.theirs or row.worse:
            wrong.append(f'{row.name} is {row.json()}')
    return wrong


def check_impossible():
    """What a side cannot do is in the report"""
    case = Case(Impossible(), True)
    for counted in (True, False):
        case.run(trees.OURS, counted)
    error = case.json()['timed'][trees.OURS.name][0]['error']
    if not error or 'busy' not in error.lower():
        return [f'the error is {error}']
    return [] if error in case.text() else [f'no error in {case.text()}']


TESTS = [('dimm', check_control, (Size(dimms=1), True)),
         ('pairs', check_control, (Size(pairs=2), False)),
         ('impossible', check_impossible, ())]
