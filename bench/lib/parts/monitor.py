"""How long QMP is silent while a device is given the memory of a large guest

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import json
import os
import socket
import threading
import time

from .. import guest, plot, report, trees
from ..machine import DEADLINE, BenchError, Machine

TITLE = 'how long QMP does not answer'

GIB = 1 << 30

# (GiB of guest memory, milliseconds that the host takes to pin one).  The one
# with 0 shows what is noise; in it, QEMU also has nothing to do for IDLE
# seconds
CASES = [(64, 0), (1, 20), (1, 100), (8, 20), (8, 100), (64, 20), (64, 100)]
IDLE = 3
# Those of --quick
QUICK = [(64, 0), (1, 100)]
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


def runs_of(wanted, size, slow):
    """How many runs of a case are to be made"""
    few = not slow or size * slow > LONG
    return min(wanted, LONG_RUNS) if few else wanted


MONITOR_COLUMNS = {
    'silence': 'ms without an answer of QMP',
    'write': 'ms that DRIVER_OK blocks',
    'device': 'ms from DRIVER_OK until the device runs',
}


MONITOR_ROWS = {
    'silence': 'silence of QMP',
    'write': 'DRIVER_OK blocks',
    'device': 'DRIVER_OK until the device runs',
}


def row_of(name, samples):
    """A Row of milliseconds, from {side: Sample}"""
    return report.Row(name, 'ms', *(sample.scaled(1e-6)
                                    for sample in samples.values()))


def plot_of(key, situation, figures):
    """The Plot of QMP's silence against the guest's memory"""
    series = {}
    for case in sorted(figures, key=lambda case: (case['ms_per_gib'],
                                                  case['gib'])):
        for side, sample in case[key]['silence'].items():
            series.setdefault(
                f'{side}, {case["ms_per_gib"]} ms per GiB', []).append(
                    (case['gib'], *(sample[which] / 1e6
                                    for which in ('median', 'low', 'high'))))
    return plot.Plot(f'monitor-{key}',
                     f'{situation}: longest silence of QMP',
                     'GiB of guest memory', 'ms', True, True, series)


def timed_cells(samples):
    """Columns of milliseconds, from {side: Sample}"""
    cells = []
    for sample in samples.values():
        cells += [report.milliseconds(sample.median),
                  report.spread(sample, report.milliseconds)]
    return [*cells, report.ratio(*samples.values())]


def run(args, progress):
    """The part "monitor" """
    columns = ['ours', 'range', 'theirs', 'range', 'ratio']
    fewer = min(args.runs, LONG_RUNS)
    table = report.Table(
        f'Silence of the monitor, {args.runs} runs on each side; {fewer} '
        f'where all memory takes none or more than {LONG} ms',
        [(heading, columns) for heading in MONITOR_COLUMNS.values()])
    start = report.Table('Start of QEMU, in the same runs', [
        ('ms until the first answer of QMP', columns)])
    figures, rows = [], []
    for size, slow in QUICK if args.quick else CASES:
        name = f'{size} GiB, {slow} ms each'
        runs = {trees.OURS: [], trees.THEIRS: []}
        for number, tree in trees.by_turns(runs_of(args.runs, size, slow)):
            progress(f'monitor: {name}, run {number + 1}, {tree.name}')
            runs[tree].append(Monitor(tree, size, slow))
        samples = {tree.name: report.Sample(one.first for one in side)
                   for tree, side in runs.items()}
        start.add(name, *timed_cells(samples))
        rows.append(row_of(f'{name}: first answer of QMP', samples))
        case = {'gib': size, 'ms_per_gib': slow,
                'first': {side: sample.json()
                          for side, sample in samples.items()}}
        for key, situation in SITUATIONS.items():
            case[key] = {}
            cells = []
            for what in MONITOR_COLUMNS:
                samples = {tree.name: report.Sample(
                    getattr(one.figures[key], what) for one in side)
                           for tree, side in runs.items()}
                cells += timed_cells(samples)
                rows.append(row_of(f'{name}: {situation}, '
                                   f'{MONITOR_ROWS[what]}', samples))
                case[key][what] = {side: sample.json()
                                   for side, sample in samples.items()}
            table.add(f'{name}: {situation}', *cells)
        if not slow:
            samples = {tree.name: report.Sample(one.idle for one in side)
                       for tree, side in runs.items()}
            table.add(f'{name}: idle, {IDLE} s',
                      *timed_cells(samples), *[''] * 2 * len(columns))
            rows.append(row_of(f'{name}: idle, silence of QMP', samples))
            case['idle'] = {side: sample.json()
                            for side, sample in samples.items()}
        figures.append(case)
    return report.Part(rows, f'{table.text()}\n{start.text()}', figures,
                       [plot_of(key, situation, figures)
                        for key, situation in SITUATIONS.items()])


def check_watch():
    """What the watch says of a monitor that is late with one answer"""
    asked, taken = [], []
    late, go_on = threading.Event(), threading.Event()

    def answer(peer):
        with peer.makefile('rw', encoding='utf-8') as file:
            file.write('{"QMP": {}}\n')
            for _ in file:
                asked.append(time.perf_counter_ns())
                if len(asked) == 3:
                    late.set()
                    go_on.wait(DEADLINE)
                taken.append(time.perf_counter_ns() - asked[-1])
                file.write('{"event": "RESUME"}\n{"return": {}}\n')
                file.flush()

    wrong = []
    with Watch() as watch:
        server = threading.Thread(target=answer, args=(watch.peer,))
        server.start()
        for period in range(2):
            before = len(asked)
            watch.longest = 1 << 62
            start = time.perf_counter_ns()
            watch.begin()
            late.wait(DEADLINE)
            end = time.perf_counter_ns()
            go_on.set()
            watch.end()
            total = time.perf_counter_ns() - start
            # The first one of all is not a question
            first = max(before, 1)
            if watch.answers != len(asked) - first:
                wrong.append(f'period {period}: {watch.answers} of '
                             f'{len(asked) - first} answers counted')
            if not max(taken[first:]) <= watch.longest <= total:
                wrong.append(f'period {period}: longest is {watch.longest}, '
                             f'of {total}, although {max(taken[first:])} '
                             'passed')
            if asked[-1] < end:
                wrong.append(f'period {period}: nothing asked at its end')
        if watch.first < taken[0]:
            wrong.append('the first answer comes before it is given')
    server.join()
    return wrong


def check_monitor():
    """Memory is mapped in slices, each time once, before the device runs"""
    memory = 2 * GIB
    # What the backend maps at once.  Slices are smaller, and the slower the
    # machine is the more so
    largest = GIB // 2
    wrong = []
    found = Monitor(trees.OURS, 2, 100)
    for situation, calls in found.calls.items():
        updates, runs = [], []
        for number, call in enumerate(calls):
            arguments = call['args']
            if call['call'] == 'IOTLB_UPDATE' and \
                    guest.MIB <= arguments['iova'] < memory:
                updates.append((number, arguments['size']))
            elif call['call'] == 'SET_STATUS' and \
                    arguments['status'] & guest.DRIVER_OK:
                runs.append(number)
        sizes = [size for _, size in updates]
        total = sum(sizes)
        if total != memory - guest.MIB:
            wrong.append(f'{situation}: {total} bytes above 1 MiB mapped, '
                         f'not {memory - guest.MIB}')
        if max(sizes, default=0) > largest:
            wrong.append(f'{situation}: slices of {sizes} bytes')
        if len(runs) != 1 or updates and runs[0] < updates[-1][0]:
            wrong.append(f'{situation}: DRIVER_OK is in {runs}, the last '
                         f'IOTLB_UPDATE in {updates[-1:]}')
    if found.figures.keys() != SITUATIONS.keys():
        wrong.append(f'figures are of {list(found.figures)}')
    return wrong


TESTS = [('watch', check_watch, ()), ('slices', check_monitor, ())]
