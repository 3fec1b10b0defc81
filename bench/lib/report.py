"""Tables of figures, as text and as JSON

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import datetime
import json
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

    def json(self):
        """For the report"""
        return {'median': self.median, 'low': self.low, 'high': self.high,
                'values': self.values}


def ratio(ours, theirs):
    """Ours divided by theirs, as text

    "equal" if the middle halves of the two Samples overlap
    """
    if ours.low <= theirs.high and theirs.low <= ours.high:
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


def save(name, text, figures):
    """Write a report to build/bench; returns the path of the text"""
    os.makedirs(trees.RESULTS, exist_ok=True)
    path = os.path.join(trees.RESULTS, name)
    with open(f'{path}.json', 'w', encoding='utf-8') as file:
        json.dump(figures, file, indent=1)
        file.write('\n')
    with open(f'{path}.txt', 'w', encoding='utf-8') as file:
        file.write(text)
    return f'{path}.txt'
