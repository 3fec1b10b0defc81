"""How many instructions QEMU executes, and the reconciler alone

What is counted is not timed: another machine gives the same figures, if
compiler and libraries are the same.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import collections
import os
import re
import shutil
import subprocess
import tempfile

from .. import guest, report, trees
from ..machine import BenchError, Machine
from . import changes, commit

TITLE = 'instructions that operations take'

# Valgrind needs more than one of them to tell what repeats
RUNS = 2

# What a processor of the guest waits for, and what monitor commands and
# changes of the guest's state do about devices.  Each runs in QEMU's main
# thread here, and is never within another one
FUNCTIONS = ['virtio_pci_common_write', 'pci_host_config_write_common',
             'vm_state_notify', 'qmp_device_add',
             # What ours puts off: theirs has nothing of these names
             'slice_bh', 'changed_bh']

# How often this tries again depends on another thread
RACING = {'qemu_event_set'}

# The function of the benchmark of commits that does nothing else
COMMIT = 'bench_commit*'
# (ranges, changes)
COMMITS = [(10, 1), (1000, 1), (100000, 1), (1000, 10), (100000, 10),
           (1000, 1000), (100000, 1000)]
QUICK_COMMITS = [(10, 1), (1000, 1), (1000, 10)]

NAME = re.compile(r'(\(\d+\))(?: (.*))?')
COST = re.compile(r'[-+*\d]')


class Counts:
    """What a file of callgrind says

    own: instructions of QEMU's executable
    all: the same with those of libraries, but for the software device
    calls: how often the software device was called
    """

    def __init__(self, lines, executable=trees.QEMU,
                 device=os.path.basename(trees.DEVICE[1])):
        self._names = {}
        # {(object, function): instructions}
        self.costs = collections.Counter()
        self.calls = 0
        self._device = device
        inside = self._read(lines)
        self.own = sum(cost for (where, function), cost in self.costs.items()
                       if where == executable and function not in RACING)
        self.all = sum(self.costs.values()) - inside - sum(
            self.costs[executable, function] for function in RACING)

    def _name(self, kind, text):
        """A name, which is written once, and only its number afterwards"""
        match = NAME.match(text)
        if match[2] is not None:
            self._names[kind, match[1]] = os.path.basename(match[2])
        return self._names[kind, match[1]]

    def _read(self, lines):
        """Fill in @costs; returns those of all calls of the device"""
        where = function = callee = calls = None
        inside = 0
        for line in lines:
            key, _, value = line.rstrip('\n').partition('=')
            if key == 'ob':
                where = self._name('object', value)
            elif key == 'cob':
                callee = self._name('object', value)
            elif key == 'fn':
                function = self._name('function', value)
            elif key == 'cfn':
                self._name('function', value)
            elif key == 'calls':
                calls = int(value.split()[0])
            elif COST.match(line):
                words = line.split()
                cost = int(words[1]) if len(words) > 1 else 0
                if calls is None:
                    self.costs[where, function] += cost
                    continue
                # With all that is done on its behalf
                if self._device == callee and where != self._device:
                    self.calls += calls
                    inside += cost
                calls = callee = None
        return inside


def valgrind(*options):
    """A command line that counts the instructions of another one"""
    if not shutil.which('valgrind') or not shutil.which('vgdb'):
        raise BenchError('to count instructions needs valgrind: install the '
                         'package valgrind, or leave out this part')
    return ['valgrind', '--tool=callgrind', *options]


class Counted:
    """One run of QEMU, whose driver starts when its memory map is known

    @tree: which of the two
    @regions: of RAM, besides those of the smallest guest

    regions: of RAM, that the device can reach
    counts: {operation: Counts}
    """

    def __init__(self, tree, regions):
        self.counts = {}
        self._dumps = 0
        options, more = changes.options(regions)
        with tempfile.TemporaryDirectory() as folder:
            self._files = os.path.join(folder, 'callgrind')
            wrapper = valgrind(
                # The launcher of the software device becomes QEMU
                '--trace-children=yes', '--instr-atstart=no',
                f'--callgrind-out-file={self._files}',
                *(f'--toggle-collect={name}' for name in FUNCTIONS))
            with Machine(tree, changes.DEVICE, options,
                         launcher=wrapper) as machine:
                self._machine = machine
                self._guest = guest.Guest(machine, True, more)
                self._guest.firmware()
                self._guest.kernel()
                self._ask('instrumentation', 'on')
                self._count('load', self._guest.load)
                self.regions = machine.control('stats')['mappings']
                for name, function, undo in (
                        ('reload', self._reload, None),
                        ('stop', self._stop, None),
                        ('bar', self._bar, None),
                        ('dimm', self._add_dimm, self._remove_dimm)):
                    # The first time may be another one
                    for _ in range(2):
                        self._count(name, function)
                        if undo:
                            undo()
                self._guest.nic.send()
                machine.quit()

    def _ask(self, *command):
        """Have callgrind do something"""
        done = subprocess.run(
            ['vgdb', f'--pid={self._machine.pid}', *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, check=False, text=True, timeout=60)
        if done.returncode:
            raise BenchError(f'vgdb {" ".join(command)} fails with status '
                             f'{done.returncode}: {done.stdout.strip()}')

    def _count(self, name, function):
        self._ask('zero')
        function()
        self._ask('dump', name)
        self._dumps += 1
        with open(f'{self._files}.{self._dumps}', encoding='utf-8') as file:
            self.counts[name] = Counts(file)

    def _reload(self):
        self._guest.unload()
        self._guest.load()

    def _stop(self):
        self._machine.qmp('stop')
        self._machine.qmp('cont')

    def _bar(self):
        self._guest.shared.command(off=guest.COMMAND_MEMORY)
        self._guest.shared.command(on=guest.COMMAND_MEMORY)

    def _add_dimm(self):
        self._guest.add_dimm(changes.MAX_DIMMS, changes.DIMM_SIZE)

    def _remove_dimm(self):
        self._guest.remove_dimm(changes.MAX_DIMMS)

    def json(self):
        """For the report"""
        return {'regions': self.regions,
                'counts': {key: {'own': counts.own, 'all': counts.all,
                                 'device calls': counts.calls}
                           for key, counts in self.counts.items()}}


OPERATIONS = {'load': 'driver start', 'reload': 'driver reload',
              'stop': 'stop and cont', 'bar': 'BAR off and on',
              'dimm': 'DIMM plugged'}


def count_commit(ranges, number):
    """Counts of one commit"""
    with tempfile.TemporaryDirectory() as folder:
        command = valgrind(f'--callgrind-out-file={folder}/out',
                           f'--toggle-collect={COMMIT}')
        command += [trees.OURS.path(commit.PROGRAM), '-n', str(ranges),
                    '-k', str(number), '-r', '1']
        commit.execute(*command)
        with open(f'{folder}/out', encoding='utf-8') as file:
            return Counts(file, os.path.basename(commit.PROGRAM))


def cell(sample):
    """For tables: what does not repeat is marked"""
    return f'{"" if sample.exact else "~"}{sample.median:.0f}'


def operations(regions, progress):
    """The rows, lines of the table and figures of QEMUs with many regions"""
    runs = {trees.OURS: [], trees.THEIRS: []}
    for number, tree in trees.by_turns(RUNS):
        progress(f'instructions: {regions} regions more, run {number + 1}, '
                 f'{tree.name}')
        runs[tree].append(Counted(tree, regions))
    rows, lines = [], []
    total = runs[trees.OURS][0].regions
    for key, operation in OPERATIONS.items():
        name = f'{total} regions: {operation}'
        cells = []
        for which, text in (('own', ''), ('all', ', with libraries'),
                            ('calls', None)):
            samples = [report.Sample(getattr(one.counts[key], which)
                                     for one in side)
                       for side in runs.values()]
            cells += [*map(cell, samples), report.ratio(*samples)]
            if text is not None:
                rows.append(report.Row(f'{name}{text}', 'instructions',
                                       *samples, minor=which == 'all'))
        lines.append((name, *cells))
    return rows, lines, {tree.name: [one.json() for one in side]
                         for tree, side in runs.items()}


def run(args, progress):
    """The part "instructions" """
    columns = ['ours', 'theirs', 'ratio']
    table = report.Table(
        "Instructions of QEMU's main thread where a processor of the guest "
        'waits for it,\nor a monitor command concerns devices; "QEMU" is the '
        'executable alone. The software\ndevice is not among the libraries. '
        'In those, most of the rest is memory allocation,\nwhich depends on '
        f'what other threads allocate. {RUNS} runs on each side.',
        [('QEMU', columns), ('with libraries', columns),
         ('calls of the device', columns)])
    rows, figures = [], {'operations': [], 'commits': []}
    for regions in changes.REGIONS[:1 if args.quick else None]:
        more, lines, found = operations(regions, progress)
        rows += more
        figures['operations'].append(found)
        for line in lines:
            table.add(*line)
    commits = report.Table(
        'The reconciler alone; ours only. That memory allocation takes longer '
        'among\n100,000 ranges is because of what was freed when they were '
        'made.', [('', ['instructions']), ('', ['per change']),
                 ('', ['with libraries'])])
    for ranges, number in QUICK_COMMITS if args.quick else COMMITS:
        progress(f'instructions: commit of {number} changes among {ranges}')
        counts = [count_commit(ranges, number) for _ in range(RUNS)]
        sample = report.Sample(one.own for one in counts)
        libraries = report.Sample(one.all for one in counts)
        name = f'commit of {number} of {ranges} ranges'
        rows.append(report.Row(name, 'instructions', sample, None))
        commits.add(name, cell(sample), f'{sample.median / number:.0f}',
                    cell(libraries))
        figures['commits'].append({'ranges': ranges, 'changes': number,
                                   'own': sample.json(),
                                   'all': libraries.json()})
    return report.Part(rows, f'{table.text()}\n{commits.text()}', figures)


# The device is called by QEMU and by a library, calls a library itself, and
# is a part of one of its own calls; names are numbered
PROFILE = '''events: Ir
fl=(1) some.c
ob=(1) /a/qemu-system-x86_64
fn=(1) one
10 100
cob=(2) /b/libvdpa-soft.so
cfi=(2) other.c
cfn=(2) ioctl
calls=3 20
+1 5000
* 7
cob=(3) /c/libc.so.6
cfn=(3) malloc
calls=1 1
12 40
fn=(4) qemu_event_set
13 9

ob=(2)
fn=(2)
20 3000
cob=(3)
cfn=(3)
calls=9 1
21 2000
cob=(2)
cfn=(5) inner
calls=1 30
22 1
fn=(5)
30 1

ob=(3)
fn=(3)
1 1040
+2 50
cob=(2)
cfn=(2)
calls=1 20
3 6
'''


def check_parsing():
    """A profile is told apart as it should be"""
    counts = Counts(PROFILE.splitlines())
    found = counts.own, counts.all, counts.calls
    # The executable, without what races; all but calls of the device
    total = 100 + 7 + 3000 + 1 + 1040 + 50
    wanted = 107, total - 5000 - 6, 4
    return [] if found == wanted else [f'it is {found}, not {wanted}']


def check_repeats():
    """What was counted in QEMU is not nothing, and about the same again

    Now and then, threads meet, and it differs by some ten instructions.
    """
    one, other = (Counted(trees.OURS, 0) for _ in range(2))
    wrong = []
    for key in OPERATIONS:
        first, second = (run.counts[key] for run in (one, other))
        if abs(first.own - second.own) > first.own / 1000 or \
                not 0 < first.own < first.all:
            wrong.append(f'{key}: {first.own}, then {second.own} instructions,'
                         f' {first.all} with libraries')
    return wrong


def check_commit():
    """A commit takes no longer because there is more that does not change"""
    few, many = (count_commit(ranges, 1).own for ranges in (100, 1000))
    if not 0 < few <= many < 2 * few:
        return [f'a change takes {few} instructions among 100 ranges, {many} '
                'among 1000']
    return []


TESTS = [('parsing', check_parsing, ()), ('repeats', check_repeats, ()),
         ('commit', check_commit, ())]
