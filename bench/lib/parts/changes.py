"""Changes of memory in a QEMU with many regions of RAM: time and messages

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import statistics

from .. import guest, plot, report, trees
from ..machine import Machine

TITLE = 'how long a change of memory takes, with many regions'

MIB = guest.MIB

# How many regions there are besides those of the smallest guest: DIMMs, for
# which QEMU has 256 slots, and shared memory of PCI devices
REGIONS = [0, 60, 440]
MAX_DIMMS = 250
DIMM_SIZE = 2 * MIB
SHARED_SIZE = 4096
FIRST_SLOT, FUNCTIONS = 5, 8

# The device learns of each entry at once, and so takes no time for those
# that stay
DEVICE = ['--like', 'sim', '--map', 'any', '--dma-map', '--no-feature',
          'CTRL_VQ', '--persist', 'on']

TOGGLES = 20
PLUGS = 4
RELOADS = 10


class Operation:
    """What is measured

    name: for people
    floor: number of messages that the uAPI requires
    """

    def __init__(self, name, floor):
        self.name = name
        self.floor = floor


OPERATIONS = {
    'bar': Operation('BAR off and on', 2),
    'dimm': Operation('DIMM plugged', 1),
    'reload': Operation('driver reload', 0),
}


def options(regions):
    """Options of QEMU, and where its further PCI devices are"""
    dimms = min(regions, MAX_DIMMS)
    result = guest.options(256 * MIB, 4 * MIB, MAX_DIMMS + 1, 4096 * MIB)
    for number in range(dimms):
        result += [
            '-object', f'memory-backend-memfd,id=memory{number},'
            f'size={DIMM_SIZE},share=on',
            '-device', f'pc-dimm,id=dimm{number},memdev=memory{number},'
            f'slot={number}',
        ]
    more = [(FIRST_SLOT + number // FUNCTIONS, number % FUNCTIONS)
            for number in range(regions - dimms)]
    for slot, function in more:
        name = f'shared{slot}-{function}'
        result += [
            '-object',
            f'memory-backend-memfd,id={name},size={SHARED_SIZE},share=on',
            '-device', f'ivshmem-plain,memdev={name},'
            f'addr={slot:x}.{function},multifunction=on',
        ]
    return result, more


class Changes:
    """One run of QEMU

    regions: of RAM, that the device can reach
    times: {operation: median nanoseconds until the answer}; of a driver
           reload, the two steps that matter, the reset and DRIVER_OK
    processor: {operation: nanoseconds QEMU's main thread ran, mean}
    messages: {operation: IOTLB messages, mean}
    """

    def __init__(self, tree, regions):
        self.times = {}
        self.processor = {}
        self.messages = {}
        settings, more = options(regions)
        with Machine(tree, DEVICE, settings) as machine:
            self._machine = machine
            self._guest = guest.Guest(machine, True, more)
            self._guest.boot()
            self.regions = machine.control('stats')['mappings']
            self._measure('bar', TOGGLES, self._toggle)
            self._measure('dimm', PLUGS, self._plug, self._unplug)
            self._measure('reload', RELOADS, self._reload)
            self._guest.nic.send()
            machine.quit()

    def _measure(self, name, times, function, undo=lambda: None):
        """Call @function, which returns nanoseconds, and @undo"""
        taken = []
        processor = messages = 0
        for _ in range(times):
            self._machine.transcript.new()
            start = self._machine.processor_time()
            taken.append(function())
            processor += self._machine.processor_time() - start
            messages += sum(call['call'].startswith('IOTLB_')
                            for call in self._machine.transcript.new())
            undo()
        self.times[name] = statistics.median(taken)
        self.processor[name] = processor / times
        self.messages[name] = messages / times

    def _toggle(self):
        return (self._guest.shared.command(off=guest.COMMAND_MEMORY) +
                self._guest.shared.command(on=guest.COMMAND_MEMORY))

    def _plug(self):
        return self._guest.add_dimm(MAX_DIMMS, DIMM_SIZE)

    def _unplug(self):
        self._guest.remove_dimm(MAX_DIMMS)

    def _reload(self):
        nic = self._guest.nic
        return nic.unload() + nic.load()


FIGURES = {
    'times': ('until the answer', 'us', 1e-3),
    'processor': ('processor time', 'us', 1e-3),
    'messages': ('messages', 'messages', 1),
}


def plot_of(key, operation, figures):
    """The Plot of an operation's time against the number of regions"""
    return plot.Plot(
        f'changes-{key}', f'{operation.name}: time until the answer',
        'regions of RAM', 'us', True, False,
        {side: [(figure['regions'], *(figure['times'][side][which] / 1000
                                      for which in ('median', 'low', 'high')))
                for figure in figures
                if figure['operation'] == operation.name]
         for side in (trees.OURS.name, trees.THEIRS.name)})


def run(args, progress):
    """The part "changes" """
    columns = ['ours', 'range', 'theirs', 'range', 'ratio']
    table = report.Table(
        f'Changes of memory, {args.runs} runs on each side', [
            ('us until the answer', columns),
            ('us of processor time', columns),
            ('messages', ['ours', 'theirs', 'ratio', 'floor'])])
    figures, rows = [], []
    for regions in REGIONS[:1 if args.quick else None]:
        runs = {trees.OURS: [], trees.THEIRS: []}
        for number, tree in trees.by_turns(args.runs):
            progress(f'changes: {regions} regions more, run {number + 1}, '
                     f'{tree.name}')
            runs[tree].append(Changes(tree, regions))
        # the least a device can know of; programmed entries are as many
        total = runs[trees.OURS][0].regions
        for key, operation in OPERATIONS.items():
            figure = {'regions': total, 'operation': operation.name}
            cells = []
            name = f'{total} regions: {operation.name}'
            for what, (text, unit, factor) in FIGURES.items():
                samples = {tree.name: report.Sample(
                    getattr(one, what)[key] for one in side)
                           for tree, side in runs.items()}
                rows.append(report.Row(
                    f'{name}, {text}', unit,
                    *(sample.scaled(factor) for sample in samples.values()),
                    operation.floor if what == 'messages' else None))
                figure[what] = {name: sample.json()
                                for name, sample in samples.items()}
                for sample in samples.values():
                    if what == 'messages':
                        cells.append(report.count(sample.median) +
                                     '~' * (not sample.exact))
                    else:
                        cells += [report.microseconds(sample.median),
                                  report.spread(sample)]
                cells.append(report.ratio(*samples.values()))
            cells.append(report.count(operation.floor))
            figure['floor'] = operation.floor
            table.add(name, *cells)
            figures.append(figure)
    return report.Part(rows, table.text(), figures,
                       [plot_of(key, operation, figures)
                        for key, operation in OPERATIONS.items()])


def check_changes():
    """Messages for single changes"""
    found = Changes(trees.OURS, REGIONS[0]).messages
    # INVALIDATE, and UPDATE with the two markers of a batch
    wanted = {'bar': 4, 'dimm': 3, 'reload': 0}
    return [] if found == wanted else [f'messages are {found}, not {wanted}']


TESTS = [('messages', check_changes, ())]
