"""Tables of figures, as text and as JSON

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import datetime
import glob
import json
import math
import os
import platform
import statistics
import subprocess

from . import trees


class Sample:
    """A figure that was measured several times on one side

    median: of the values
    low, high: quartiles, the middle half of the values is between them
    exact: whether all values are the same
    """

    def __init__(self, values):
        self.values = list(values)
        if len(self.values) > 1:
            self.low, self.median, self.high = statistics.quantiles(
                self.values, n=4, method='inclusive')
        else:
            self.low = self.median = self.high = self.values[0]
        self.exact = min(self.values) == max(self.values)

    def scaled(self, factor):
        """The same in another unit"""
        return Sample(value * factor for value in self.values)

    def json(self):
        """For the report"""
        return {'median': self.median, 'low': self.low, 'high': self.high,
                'values': self.values}


# Two Samples differ by chance with less than this probability
CHANCE = 0.005


def by_chance(ours, theirs):
    """How probable it is that one Sample is that much lower by chance

    This is the test by Mann, Whitney and Wilcoxon: among all orders of the
    values of both sides, how many are as uneven, or more so?
    """
    low, high = sorted((ours.values, theirs.values), key=statistics.median)
    wrong = math.ceil(sum((one > other) + (one == other) / 2
                          for one in low for other in high))
    # orders[i][u]: orders of i of the lower values and some of the higher
    # ones, in which u pairs are the wrong way round.  The last value is one
    # of the higher ones, or a lower one that is above all of them
    orders = [[1] for _ in range(len(low) + 1)]
    for higher in range(1, len(high) + 1):
        for lower in range(1, len(low) + 1):
            last = orders[lower] + [0] * lower
            for pairs, number in enumerate(orders[lower - 1], higher):
                last[pairs] += number
            orders[lower] = last
    return sum(orders[-1][:wrong + 1]) / sum(orders[-1])


def equal(ours, theirs):
    """Whether two Samples do not differ

    That is, their middle halves overlap; or they vary, and differ no more
    than may be chance.  The latter is only asked if there are enough values,
    5 on each side, that it can tell.
    """
    if ours.low <= theirs.high and theirs.low <= ours.high:
        return True
    if ours.exact and theirs.exact:
        return False
    orders = math.comb(len(ours.values) + len(theirs.values),
                       len(ours.values))
    return 1 / orders < CHANCE <= by_chance(ours, theirs)


def ratio(ours, theirs):
    """Ours divided by theirs, as text; or "equal" """
    if equal(ours, theirs):
        return 'equal'
    if not theirs.median:
        return 'more'
    return f'{ours.median / theirs.median:.2f}'


def count(value):
    """A number, as text"""
    return f'{value:g}'


def mebibytes(value):
    """A number of bytes, as text"""
    return f'{value / (1 << 20):.1f}'


def microseconds(value):
    """A number of nanoseconds, as text"""
    return f'{value / 1000:.1f}'


def milliseconds(value):
    """A number of nanoseconds, as text"""
    return f'{value / 1000000:.1f}'


def spread(sample, show=microseconds):
    """The range of a Sample of nanoseconds, as text; @show tells the unit"""
    return f'{show(sample.low)}-{show(sample.high)}'


class Table:
    """Rows of text under two lines of headings

    @title: what it is about
    @groups: [(heading, [headings of its columns])], without the first column
    """

    def __init__(self, title, groups):
        self._title = title
        self._groups = groups
        self._rows = []

    def add(self, name, *cells):
        """Add a row"""
        self._rows.append([name, *cells])

    def text(self):
        """The table"""
        heads = ['', *(head for _, heads in self._groups for head in heads)]
        widths = [max(len(row[column]) for row in [heads, *self._rows])
                  for column in range(len(heads))]
        top = ' ' * widths[0]
        column = 1
        for heading, names in self._groups:
            last = column + len(names)
            width = max(sum(widths[column:last]) + 2 * (len(names) - 1),
                        len(heading))
            widths[column] += width - (sum(widths[column:last]) +
                                       2 * (len(names) - 1))
            top += '   ' + heading.center(width, '-' if len(names) > 1
                                          else ' ')
            column = last
        starts = set()
        column = 1
        for _, names in self._groups:
            starts.add(column)
            column += len(names)
        lines = [self._title, '', top.rstrip()]
        for row in [heads, *self._rows]:
            line = row[0].ljust(widths[0])
            for column, cell in enumerate(row[1:], 1):
                line += ' ' * (2 + (column in starts))
                line += cell.rjust(widths[column])
            lines.append(line.rstrip())
        return '\n'.join(lines) + '\n'


def number(value):
    """A number of any size, as text"""
    if value == int(value) or abs(value) >= 1000:
        return f'{value:.0f}'
    return f'{value:.3g}'


class Row:
    """One line of the one table: a figure, on both sides

    @name: what was measured
    @unit: of all values
    @ours, @theirs: Samples; None if that side cannot do this, or has nothing
                    like it
    @floor: the least (or most) that is possible; None if it is not known
    @more_is_better: as it says
    @minor: the one table shows it only if we are worse, because there are
            many like it; the text of its part has it
    """

    def __init__(self, name, unit, ours, theirs, floor=None,
                 more_is_better=False, minor=False):
        # pylint: disable=too-many-arguments,too-many-positional-arguments
        self.name = name
        self.unit = unit
        self.ours = ours
        self.theirs = theirs
        self.floor = floor
        self.minor = minor
        self._more_is_better = more_is_better

    @property
    def worse(self):
        """Whether we are worse, by more than the spread"""
        if self.ours is None or self.theirs is None:
            return self.theirs is not None
        if equal(self.ours, self.theirs):
            return False
        return ((self.ours.median < self.theirs.median) ==
                self._more_is_better)

    def cells(self):
        """Of ROW_COLUMNS"""
        cells = [self.unit]
        for sample in (self.ours, self.theirs):
            if sample is None:
                cells += ['none', '']
            else:
                cells += [number(sample.median),
                          '' if sample.low == sample.high else
                          f'{number(sample.low)}-{number(sample.high)}']
        both = self.ours is not None and self.theirs is not None
        cells += [ratio(self.ours, self.theirs) if both else '-',
                  '-' if self.floor is None else number(self.floor),
                  self._distance(), 'WORSE' if self.worse else '']
        return cells

    def _distance(self):
        """How far we are from the floor"""
        if self.floor is None or self.ours is None:
            return '-'
        if not self.floor:
            return 'more' if self.ours.median else '1.00'
        return f'{self.ours.median / self.floor:.2f}'

    def json(self):
        """For the report"""
        return {'name': self.name, 'unit': self.unit,
                'ours': self.ours and self.ours.json(),
                'theirs': self.theirs and self.theirs.json(),
                'floor': self.floor, 'worse': self.worse,
                'more_is_better': self._more_is_better}


class Part:
    """What a part of the benchmark found

    @rows: [Row]
    @text: tables with more than that, or ''
    @figures: all values, for JSON
    @plots: [plot.Plot]
    """

    def __init__(self, rows, text, figures, plots=()):
        self.rows = rows
        self.text = text
        self.figures = figures
        self.plots = list(plots)

    def json(self):
        """For the report"""
        return {'rows': [row.json() for row in self.rows],
                'figures': self.figures}


ROW_COLUMNS = [('', ['unit']), ('ours', ['median', 'range']),
               ('theirs', ['median', 'range']), ('', ['ratio']),
               ('', ['floor', 'ours/floor']), ('', ['verdict'])]


def the_table(parts):
    """The one table of all Parts, {name: Part}, as text

    After it comes what we are worse in.
    """
    rows = [(f'{name}: {row.name}', row)
            for name, part in parts.items() for row in part.rows]
    worse = [(name, row) for name, row in rows if row.worse]
    text = rows_text('All at a glance', [
        (name, row) for name, row in rows if row.worse or not row.minor])
    if not worse:
        return f'{text}\nNot worse in any of {len(rows)} rows.\n'
    return (f'{text}\n{rows_text("WORSE than theirs", worse)}\n'
            f'Worse in {len(worse)} of {len(rows)} rows.\n')


def rows_text(title, rows):
    """A table of [(name, Row)], as text"""
    table = Table(title, ROW_COLUMNS)
    for name, row in rows:
        table.add(name, *row.cells())
    return table.text()


def _processor():
    with open('/proc/cpuinfo', encoding='utf-8') as file:
        for line in file:
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    return platform.machine()


def _output(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          cwd=trees.TOP, check=False, text=True)
    return done.stdout.strip().splitlines()


def machine():
    """{name: text} of what the figures were measured on"""
    with open('/proc/meminfo', encoding='ascii') as file:
        kib = int(file.readline().split()[1])
    return {
        'date': datetime.datetime.now(datetime.timezone.utc)
                .strftime('%Y-%m-%d %H:%M UTC'),
        'processor': f'{os.cpu_count()} x {_processor()}',
        'memory': f'{kib / (1 << 20):.1f} GiB',
        'kernel': platform.release(),
        'compiler': (_output('gcc', '--version') or ['unknown'])[0],
        'QEMU': trees.OURS.version(),
        'commit': (_output('git', 'describe', '--always', '--dirty')
                   or ['unknown'])[0],
    }


def text_of(about, parts, titles):
    """The whole report, as text

    @about: {name: text} of the machine()
    @parts: {name: Part}
    @titles: {name: title}
    """
    texts = [''.join(f'{name}: {value}\n' for name, value in about.items())]
    for name, part in parts.items():
        if part.text:
            texts.append(f'{name}: {titles[name]}\n\n{part.text}')
    texts.append(the_table(parts))
    return '\n'.join(texts)


def save(text, about, parts, folder=trees.RESULTS):
    """Write a report, in place of the former one

    Returns the path of the text.
    """
    os.makedirs(folder, exist_ok=True)
    for path in glob.glob(os.path.join(folder, '*.svg')):
        os.unlink(path)
    path = os.path.join(folder, 'bench')
    with open(f'{path}.json', 'w', encoding='utf-8') as file:
        json.dump({'machine': about, **{name: part.json()
                                        for name, part in parts.items()}},
                  file, indent=1)
        file.write('\n')
    for part in parts.values():
        for plot in part.plots:
            with open(os.path.join(folder, f'{plot.name}.svg'), 'w',
                      encoding='utf-8') as file:
                file.write(plot.svg())
    with open(f'{path}.txt', 'w', encoding='utf-8') as file:
        file.write(text)
    return f'{path}.txt'
