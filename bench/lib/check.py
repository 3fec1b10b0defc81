"""A test that the benchmark works, and that what it counts is as expected

The figures are exact: who changes one of them on purpose changes it here,
too.  Nothing depends on how long something takes.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import threading
import time
import traceback

from . import changes, commit, guest, lives, monitor, trees
from .machine import DEADLINE, BenchError
from .mappings import Extent, Floor

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
    # One batch of removals, one of additions, or nothing at all
    reset = (0, 0, 0) if persist else (regions, regions, 2)
    result = {
        'start of QEMU': START,
        'boot': BOOT[cards],
        f'{lives.RELOADS} driver reloads':
        tuple(lives.RELOADS * number for number in reset),
    }
    if cards:
        moves, few = 2 * lives.MOVES, 2 * (lives.MOVES - 1)
        result.update({
            # Both BARs go away while the device still runs.  A batch of one
            # INVALIDATE would be of no use.  What is mapped anew right after
            # the device's reset loses them, too
            'reboot': (2, 2, 1) if persist else
                      tuple(map(sum, zip(reset, (2, 2, 1)))),
            f'{lives.DIMMS} DIMMs added': (lives.DIMMS, 0, lives.DIMMS),
            f'{lives.DIMMS} DIMMs removed': (0, lives.DIMMS, 0),
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
    life = lives.Life(trees.OURS, lives.KINDS['sim'], persist, cards)
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


def check_floor():
    """The least that some changes of memory take, worked out by hand"""
    low, rom, high = (Extent(0, 0x9ffff, ('ram', 0, False)),
                      Extent(0xc0000, 0xfffff, ('ram', 0, True)),
                      Extent(0x100000, 0xfffffff, ('ram', 0, False)))
    writable = Extent(0xc0000, 0xfffffff, ('ram', 0, False))
    elsewhere = Extent(0, 0x9ffff, ('ram', 0x1000, False))
    # Memory, whether a reset came before, and: messages, bytes mapped, bytes
    # unmapped; without IOTLB_PERSIST
    steps = [
        ([low, rom, high], False, (3, 0xffe0000, 0)),
        # nothing to do
        ([low, rom, high], False, (0, 0, 0)),
        # its neighbours stay, though it touches one of them
        ([low, high], False, (1, 0, 0x40000)),
        # what is new is one run with nothing that stays
        ([low, writable], False, (1, 0x40000, 0)),
        # the same memory with another permission
        ([low, rom, high], False, (2, 0x40000, 0x40000)),
        # another place in host memory
        ([elsewhere, rom, high], False, (2, 0xa0000, 0xa0000)),
        # one INVALIDATE for two that go, with a hole between
        ([high], False, (1, 0, 0xe0000)),
        ([low, rom, high], False, (2, 0xe0000, 0)),
        # two, because what is between them stays
        ([rom], False, (2, 0, 0xffa0000)),
        # all over again
        ([low, rom], True, (3, 0xe0000, 0x40000)),
        ([], False, (1, 0, 0xe0000)),
        ([], True, (0, 0, 0)),
    ]
    wrong = []
    floor = Floor(False)
    for number, (memory, reset, wanted) in enumerate(steps):
        if reset:
            floor.reset()
        floor.observe(memory)
        found = tuple(floor.take().values())
        if found != wanted:
            wrong.append(f'step {number}: {found}, not {wanted}')
    floor = Floor(True)
    floor.observe([low])
    floor.take()
    floor.reset()
    floor.observe([low])
    if floor.take()['messages']:
        wrong.append('a reset with IOTLB_PERSIST costs something')
    return wrong


def check_changes():
    """Messages for single changes"""
    found = changes.Changes(trees.OURS, changes.REGIONS[0]).messages
    # INVALIDATE, and UPDATE with the two markers of a batch
    wanted = {'bar': 4, 'dimm': 3, 'reload': 0}
    return [] if found == wanted else [f'messages are {found}, not {wanted}']


def check_commit():
    """What a commit costs does not depend on what did not change"""
    few = commit.measure(100, 10, 3)[100, 10]
    many = commit.measure(100000, 10, 3)[100000, 10]
    wrong = []
    if few['lookups'] != many['lookups'] or not few['lookups']:
        wrong.append(f'10 changes take {few["lookups"]} lookups among 100 '
                     f'ranges, {many["lookups"]} among 100000')
    # An INVALIDATE and an UPDATE for each, and the markers
    if few['messages'] != 22 or many['messages'] != 22:
        wrong.append(f'10 changes take {few["messages"]} and '
                     f'{many["messages"]} messages, not 22')
    return wrong


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
    with monitor.Watch() as watch:
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
    memory = 2 * monitor.GIB
    # What the backend maps at once.  Slices are smaller, and the slower the
    # machine is the more so
    largest = monitor.GIB // 2
    wrong = []
    found = monitor.Monitor(trees.OURS, 2, 100)
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
    if found.figures.keys() != monitor.SITUATIONS.keys():
        wrong.append(f'figures are of {list(found.figures)}')
    return wrong


def main():
    """Run all tests; returns the exit status"""
    tests = [(f'lives/{"" if persist else "no-"}persist/'
              f'{"all" if cards else "reloads"}',
              check_life, (persist, cards))
             for persist in (True, False) for cards in (False, True)]
    tests += [('floor', check_floor, ()), ('changes', check_changes, ()),
              ('commit', check_commit, ()), ('watch', check_watch, ()),
              ('monitor', check_monitor, ())]
    failed = 0
    print(f'1..{len(tests)}', flush=True)
    for number, (name, function, arguments) in enumerate(tests, 1):
        try:
            wrong = function(*arguments)
        except (BenchError, OSError) as error:
            wrong = [str(error), *traceback.format_exc().splitlines()]
        for line in wrong:
            print(f'# {line}')
        print(f'{"not " * bool(wrong)}ok {number} {name}', flush=True)
        failed += bool(wrong)
    return 1 if failed else 0
