"""Plots of figures, as SVG

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import math
import re
from xml.sax.saxutils import escape

# All in pixels
WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 86, 20, 48, 56
LINE = 18
MARK = 4
# On a logarithmic axis, between the 0 and the lowest other value
GAP = 30
# About the width of a character
CHARACTER = 7.2
# At most, to the next tick of an axis
TICKS = 9

# Of series in turns, then of a floor; on a light page and on a dark one.  They
# differ for the colour-blind, and in grey; so do the marks
LIGHT = ['#0060a8', '#c44e00', '#00805c', '#a03c82', '#7a6a00', '#555555']
DARK = ['#5cb2f2', '#ff9a52', '#37c99d', '#e68ac8', '#e0cd4e', '#b8b8b8']


def _colours(page, ink, grid, series, floor):
    """CSS, without variables because few viewers know them"""
    lines = [f'.page {{ fill: {page} }}', f'.grid {{ stroke: {grid} }}',
             f'.axis {{ stroke: {ink} }}', f'text {{ fill: {ink} }}']
    for name, colour in [*enumerate(series), ('floor', floor)]:
        lines += [f'.line{name} {{ stroke: {colour} }}',
                  f'.mark{name} {{ fill: {colour} }}']
    return '\n'.join(lines)


STYLE = f"""
{_colours('#ffffff', '#222222', '#dddddd', LIGHT, '#777777')}
@media (prefers-color-scheme: dark) {{
{_colours('#16181c', '#e4e4e4', '#3a3d42', DARK, '#9a9a9a')}
}}
.grid, .axis, .bar {{ stroke-width: 1 }}
.axis, .line, .bar {{ fill: none }}
.dashed {{ stroke-dasharray: 6 4 }}
text {{ font: 12px sans-serif }}
.title {{ font-size: 14px; font-weight: bold }}
"""


def _short(value):
    """A number, as a label of an axis"""
    for limit, suffix in ((1e9, 'G'), (1e6, 'M'), (1e4, 'k')):
        if abs(value) >= limit:
            return f'{value / {"G": 1e9, "M": 1e6, "k": 1e3}[suffix]:g}' \
                   f'{suffix}'
    return f'{value:g}'


class Axis:
    """Where the values of one axis are

    @values: all that are to be shown
    @log: it is logarithmic; what is not above 0 has a place of its own
    @start, @end: the pixels between which it is
    @few: take the values themselves as ticks, if they are few
    """

    def __init__(self, values, log, start, end, few=False):
        self._log = log
        self._start, self._end = start, end
        self._first = start
        self.zero = log and min(values) <= 0
        if log:
            above = [value for value in values if value > 0] or [1]
            low, high = math.log10(min(above)), math.log10(max(above))
            if not few:
                low, high = math.floor(low + 1e-9), math.ceil(high - 1e-9)
            if self.zero:
                self._first += GAP if end > start else -GAP
        else:
            low, high = min(0, *values), max(0, *values)
        if high <= low:
            low, high = low - (few and log) / 2, high + 1
        self._low, self._high = low, high
        self.ticks = sorted(set(values))
        if not few or len(self.ticks) > TICKS:
            self.ticks = self._log_ticks() if log else self._even_ticks()
        if not log:
            self._high = max(high, self.ticks[-1])

    def _even_ticks(self):
        step = 10 ** math.floor(math.log10(self._high - self._low))
        for part in (0.1, 0.2, 0.5, 1):
            if (self._high - self._low) / (step * part) <= TICKS - 2:
                step *= part
                break
        first = math.floor(self._low / step + 1e-9)
        last = math.ceil(self._high / step - 1e-9)
        return [float(f'{number * step:.6g}')
                for number in range(first, last + 1)]

    def _log_ticks(self):
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        parts = (1, 2, 5) if len(decades) < 4 else (1,)
        every = -(-len(decades) // TICKS)
        ticks = [part * 10.0 ** decade for decade in decades[::every]
                 for part in parts]
        return [0] * self.zero + [
            tick for tick in ticks
            if self._low - 1e-9 <= math.log10(tick) <= self._high + 1e-9]

    def place(self, value):
        """The pixel of a value"""
        if self._log:
            if value <= 0:
                return self._start
            value = math.log10(value)
        share = (value - self._low) / (self._high - self._low)
        return self._first + share * (self._end - self._first)


class Plot:
    """A plot

    @name: of the file, without .svg
    @title: what is to be seen
    @x_label, @y_label: of the axes, with the unit
    @log_x, @log_y: which axes are logarithmic
    @series: {label: [(x, median, low, high)]}, ascending.  One whose label
             begins with "floor" is dashed
    """

    def __init__(self, name, title, x_label, y_label, log_x, log_y, series):
        # pylint: disable=too-many-arguments,too-many-positional-arguments
        if not re.fullmatch(r'[a-z0-9-]+', name):
            raise ValueError(f'{name} is no name of a plot')
        self.name = name
        self._title = title
        self._labels = x_label, y_label
        self._logs = log_x, log_y
        self._series = {label: points for label, points in series.items()
                        if points}
        if not self._series:
            raise ValueError(f'the plot {name} has no points')

    def _legend(self):
        """[(label, x, y)], and the height of all"""
        places = []
        x, y = LEFT, TOP
        for label in self._series:
            width = 34 + CHARACTER * len(label) + 18
            if x > LEFT and x + width > WIDTH - RIGHT:
                x, y = LEFT, y + LINE
            places.append((label, x, y))
            x += width
        return places, y + LINE - TOP

    def svg(self):
        """The plot, as text"""
        legend, space = self._legend()
        top, bottom = TOP + space, HEIGHT - BOTTOM
        points = [point for series in self._series.values()
                  for point in series]
        x_axis = Axis([point[0] for point in points], self._logs[0],
                      LEFT + 12, WIDTH - RIGHT - 12, few=True)
        y_axis = Axis([value for point in points for value in point[1:]],
                      self._logs[1], bottom, top)
        lines = [
            '<svg xmlns="http://www.w3.org/2000/svg" role="img" '
            f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}">',
            f'<title>{escape(self._title)}</title>',
            f'<style>{STYLE}</style>',
            f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
            f'<text class="title" x="{WIDTH / 2:g}" y="24" '
            f'text-anchor="middle">{escape(self._title)}</text>',
        ]
        lines += self._axes(x_axis, y_axis, top, bottom)
        number = 0
        for label, x, y in legend:
            lines.append(f'<g class="series"><title>{escape(label)}</title>')
            lines += self._draw(number, label, x_axis, y_axis)
            lines += self._stroke(number, label,
                                  [(x, y - 4), (x + 28, y - 4)])
            lines.append(self._mark(number, label, x + 14, y - 4))
            lines.append(f'<text x="{x + 34:.1f}" y="{y}">{escape(label)}'
                         '</text></g>')
            number += not label.startswith('floor')
        lines.append('</svg>')
        return '\n'.join(lines) + '\n'

    def _axes(self, x_axis, y_axis, top, bottom):
        right = WIDTH - RIGHT
        lines = []
        for tick in y_axis.ticks:
            y = y_axis.place(tick)
            lines += [f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>',
                      f'<text x="{LEFT - 8}" y="{y + 4:.1f}" '
                      f'text-anchor="end">{_short(tick)}</text>']
        for tick in x_axis.ticks:
            x = x_axis.place(tick)
            lines += [f'<path class="axis" d="M{x:.1f} {bottom}v5"/>',
                      f'<text x="{x:.1f}" y="{bottom + 20}" '
                      f'text-anchor="middle">{_short(tick)}</text>']
        middle = (top + bottom) / 2
        return lines + [
            f'<path class="axis" d="M{LEFT} {top}V{bottom}H{right}"/>',
            f'<text x="{(LEFT + right) / 2:g}" y="{HEIGHT - 14}" '
            f'text-anchor="middle">{escape(self._labels[0])}</text>',
            f'<text transform="translate(20 {middle:g}) rotate(-90)" '
            f'text-anchor="middle">{escape(self._labels[1])}</text>']

    @staticmethod
    def _colour(number, label):
        """The number of the colour, which ends the name of a class"""
        return 'floor' if label.startswith('floor') else number % len(LIGHT)

    def _stroke(self, number, label, places):
        dashed = ' dashed' * label.startswith('floor')
        path = 'L'.join(f'{x:.1f} {y:.1f}' for x, y in places)
        colour = self._colour(number, label)
        # So that what is the same is seen below the next line
        width = 1.5 if dashed else max(1.5, 5 - 1.2 * number)
        return [f'<path class="line line{colour}{dashed}" '
                f'stroke-width="{width:g}" d="M{path}"/>']

    def _mark(self, number, label, x, y):
        shape = [f'M{x - MARK:.1f} {y:.1f}a{MARK} {MARK} 0 1 0 {2 * MARK} 0'
                 f'a{MARK} {MARK} 0 1 0 {-2 * MARK} 0z',
                 f'M{x - MARK:.1f} {y - MARK:.1f}h{2 * MARK}v{2 * MARK}'
                 f'h{-2 * MARK}z',
                 f'M{x:.1f} {y - MARK - 1:.1f}l{MARK + 1} {2 * MARK}'
                 f'h{-2 * MARK - 2}z'][number % 3]
        return (f'<path class="mark{self._colour(number, label)}" '
                f'd="{shape}"/>')

    def _draw(self, number, label, x_axis, y_axis):
        points = self._series[label]
        places = [(x_axis.place(x), y_axis.place(median))
                  for x, median, _, _ in points]
        lines = self._stroke(number, label, places)
        for (x, y), (value, median, low, high) in zip(places, points):
            if low != high:
                ends = y_axis.place(low), y_axis.place(high)
                lines.append(
                    f'<path class="bar line{self._colour(number, label)}" '
                    f'd="M{x - MARK:.1f} {ends[0]:.1f}h{2 * MARK}m{-MARK} 0'
                    f'V{ends[1]:.1f}m{-MARK} 0h{2 * MARK}"/>')
            lines.append(f'<g><title>{escape(label)}, {value:g}: {median:g}'
                         f'</title>{self._mark(number, label, x, y)}</g>')
        return lines
