"""A test that the benchmark works, and that what it counts is as expected

The figures are exact: who changes one of them on purpose changes it here, or
in the part, too.  Nothing depends on how long something takes.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import json
import os
import tempfile
import traceback
from xml.etree import ElementTree

from . import parts
from .machine import BenchError
from .mappings import Extent, Floor
from .plot import Plot
from .report import Part, Row, Sample, by_chance, equal, save, text_of


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


def check_chance():
    """How probable an order of values is, worked out by hand"""
    wrong = []
    for ours, theirs, ways, of in (
            # the only order of six that is as uneven
            ([1, 2, 3], [4, 5, 6], 1, 20),
            ([4, 5, 6], [1, 2, 3], 1, 20),
            # 3 is above one: this order or a more uneven one
            ([1, 2, 4], [3, 5, 6], 2, 20),
            ([1, 5, 6], [2, 3, 4], 7, 20),
            # half a pair, which is taken for a whole one
            ([1, 2, 3], [3, 5, 6], 2, 20),
            ([1, 2], [3, 4, 5], 1, 10)):
        found = by_chance(Sample(ours), Sample(theirs))
        if abs(found - ways / of) > 1e-9:
            wrong.append(f'{ours} and {theirs}: {found}, not {ways}/{of}')
    fast, slow = Sample(range(7)), Sample(range(7, 14))
    # Quartiles apart, but three values on the wrong side
    other = Sample([2, 3, 4, 6, 20, 20, 20, 20])
    mixed = Sample([0, 1, 1, 1.5, 1.8, 5, 20])
    if equal(fast, slow) or not equal(mixed, other):
        wrong.append('what is apart is equal, or what is mixed is not')
    if mixed.high >= other.low:
        wrong.append('quartiles overlap')
    return wrong


def check_rows():
    """What the one table says of a figure, and what it repeats"""
    five, six, wide = Sample([5]), Sample([6]), Sample([4, 5, 6, 7, 8])
    # Row, and: ratio, distance from the floor, verdict
    cases = [
        (Row('more', 'u', six, five, 4), '1.20', '1.50', 'WORSE'),
        (Row('less', 'u', five, six, 5), '0.83', '1.00', ''),
        (Row('same', 'u', five, five, 0), 'equal', 'more', ''),
        (Row('spread', 'u', six, wide), 'equal', '-', ''),
        (Row('rate less', 'u', five, six, 10, True), '0.83', '0.50', 'WORSE'),
        (Row('rate more', 'u', six, five, None, True), '1.20', '-', ''),
        (Row('from nothing', 'u', five, Sample([0])), 'more', '-', 'WORSE'),
        (Row('to nothing', 'u', Sample([0]), five, 0), '0.00', '1.00', ''),
        (Row('theirs cannot', 'u', five, None, 5), '-', '1.00', ''),
        (Row('ours cannot', 'u', None, five, 5), '-', '-', 'WORSE'),
        (Row('nobody can', 'u', None, None), '-', '-', ''),
    ]
    wrong = []
    for row, ratio, distance, verdict in cases:
        cells = row.cells()
        if (cells[5], cells[7], cells[8]) != (ratio, distance, verdict):
            wrong.append(f'{row.name}: {cells}, not {ratio}, {distance}, '
                         f'{verdict}')
    wrong += check_chance()
    minor = Row('hidden', 'u', five, six, minor=True)
    worse = Row('shown', 'u', six, five, minor=True)
    text = text_of({}, {'part': Part([minor, worse], '', {})}, {})
    if 'part: hidden ' in text or text.count('part: shown ') != 2 or \
            'Worse in 1 of 2 rows.' not in text:
        wrong.append(f'minor rows are {text}')
    part = Part([row for row, *_ in cases], 'its own text\n', {'key': [1]})
    text = text_of({'machine': 'a name'}, {'part': part}, {'part': 'title'})
    for row, _, _, verdict in cases:
        # The second time is in the list of those
        wanted = 2 if verdict else 1
        if text.count(f'part: {row.name} ') != wanted:
            wrong.append(f'{row.name} is not there {wanted} times: {text}')
    for words in ('machine: a name', 'part: title', 'its own text',
                  'Worse in 4 of 11 rows.'):
        if words not in text:
            wrong.append(f'"{words}" is not there: {text}')
    better = text_of({}, {'part': Part([cases[1][0]], '', {})}, {})
    if 'WORSE' in better or 'Not worse in any of 1 rows.' not in better:
        wrong.append(f'what is better looks worse: {better}')
    return wrong


def check_plots():
    """A plot is XML, and shows all points where they belong"""
    name = '{http://www.w3.org/2000/svg}'
    points = [(1, 0, 0, 0), (4, 2, 1, 3), (64, 4000, 4000, 4000)]
    wrong = []
    for log in (False, True):
        series = {'ours <&>': points, 'theirs': points[1:],
                  'floor': [(1, 1, 1, 1), (64, 1, 1, 1)], 'none': []}
        plot = Plot('a-name', 'A <title> & more', 'x', 'y', log, log, series)
        root = ElementTree.fromstring(plot.svg())
        drawn = {}
        for group in root.findall(f'{name}g'):
            marks = group.findall(f'{name}g')
            drawn[group.find(f'{name}title').text] = [
                mark.find(f'{name}path').get('d') for mark in marks]
        found = {label: len(marks) for label, marks in drawn.items()}
        if found != {'ours <&>': 3, 'theirs': 2, 'floor': 2}:
            wrong.append(f'the points are {found}')
            continue
        places = [[float(part) for part in mark[1:].split('a')[0].split()]
                  for mark in drawn['ours <&>']]
        if not (places[0][0] < places[1][0] < places[2][0] and
                places[0][1] > places[1][1] > places[2][1]):
            wrong.append(f'the points are at {places}')
        texts = [element.text for element in root.iter(f'{name}text')]
        for wanted in ('A <title> & more', 'x', 'y', '1', '4', '64', '0'):
            if wanted not in texts:
                wrong.append(f'"{wanted}" is not among {texts}')
        if sum('dashed' in element.get('class', '')
               for element in root.iter(f'{name}path')) != 2:
            wrong.append('the floor is not dashed')
        for x, y in places:
            if not (0 < x < float(root.get('width')) and
                    0 < y < float(root.get('height'))):
                wrong.append(f'{x}, {y} is outside')
    return wrong


def check_save():
    """A report replaces the former one, with its plots"""
    wrong = []
    row = Row('row', 'u', Sample([1, 2, 3]), None, 1)
    with tempfile.TemporaryDirectory() as folder:
        for name in ('former', 'now'):
            series = {'ours': [(1, 1, 1, 1)]}
            plot = Plot(name, 'title', 'x', 'y', False, False, series)
            path = save(f'text {name}\n', {'machine': name},
                        {'part': Part([row], '', {'key': name}, [plot])},
                        folder)
        found = sorted(os.listdir(folder))
        if found != ['bench.json', 'bench.txt', 'now.svg']:
            wrong.append(f'files are {found}')
        with open(path, encoding='utf-8') as file:
            if file.read() != 'text now\n':
                wrong.append('the text is another one')
        with open(os.path.join(folder, 'bench.json'),
                  encoding='utf-8') as file:
            saved = json.load(file)
        if (saved['machine'] != {'machine': 'now'} or
                saved['part']['figures'] != {'key': 'now'} or
                saved['part']['rows'][0]['ours']['values'] != [1, 2, 3]):
            wrong.append(f'JSON is {saved}')
    return wrong


FRAME = [('frame/floor', check_floor, ()), ('frame/rows', check_rows, ()),
         ('frame/plots', check_plots, ()), ('frame/save', check_save, ())]


def main(names):
    """Run the tests of the frame and of some parts

    Returns the exit status.
    """
    tests = list(FRAME)
    for name in names:
        tests += [(f'{name}/{test}', function, arguments) for
                  test, function, arguments in parts.module(name).TESTS]
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
