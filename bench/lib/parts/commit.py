"""What a commit costs: the reconciler alone, without QEMU

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import subprocess

from .. import plot, report, trees
from ..machine import BenchError

TITLE = 'what a commit of the reconciler costs, by itself'

PROGRAM = 'tests/bench/vhost-vdpa-iotlb-bench'


def execute(*command):
    """Run a command; returns what it said, raises if it fails"""
    done = subprocess.run(command, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False, text=True)
    if done.returncode:
        raise BenchError(f'{" ".join(command)} fails with status '
                         f'{done.returncode}: {done.stderr.strip()}')
    return done.stdout


def measure(ranges=None, changes=None, repetitions=None):
    """Run the program

    Returns {(ranges, changes): {'lookups': number, 'messages': number,
    'change': nanoseconds, 'commit': nanoseconds}}, the times being medians.
    """
    command = [trees.OURS.path(PROGRAM)]
    for option, value in (('-n', ranges), ('-k', changes),
                          ('-r', repetitions)):
        if value is not None:
            command += [option, str(value)]
    result = {}
    for line in execute(*command).splitlines()[1:]:
        words = [int(word) for word in line.split()]
        result[words[0], words[1]] = {
            'lookups': words[2], 'messages': words[3], 'change': words[4],
            'commit': words[7]}
    return result


def run(args, progress):
    """The part "commit" """
    results = []
    for number in range(args.runs):
        progress(f'commit: run {number + 1}')
        results.append(measure())
    groups = [('', ['tree lookups']), ('messages', ['sent', 'floor']),
              ('us to record the changes', ['median', 'range']),
              ('us to commit', ['median', 'range', 'per change'])]
    table = report.Table('Processor time of the reconciler alone; ours only, '
                         f'{args.runs} runs', groups)
    figures, rows = [], []
    for ranges, changes in results[0]:
        values = [result[ranges, changes] for result in results]
        samples = {key: report.Sample(value[key] for value in values)
                   for key in values[0]}
        cells = [report.count(samples[key].median) +
                 '~' * (not samples[key].exact)
                 for key in ('lookups', 'messages')]
        # An INVALIDATE and an UPDATE each
        cells.append(report.count(2 * changes))
        for key in ('change', 'commit'):
            cells += [report.microseconds(samples[key].median),
                      report.spread(samples[key])]
        cells.append(report.microseconds(samples['commit'].median / changes))
        figure = {'ranges': ranges, 'changes': changes,
                  **{key: sample.json() for key, sample in samples.items()}}
        table.add(f'{changes} of {ranges}', *cells)
        figures.append(figure)
        name = f'{changes} of {ranges} ranges'
        rows += [
            report.Row(f'{name}, messages', 'messages', samples['messages'],
                       None, 2 * changes),
            report.Row(f'{name}, time', 'us',
                       samples['commit'].scaled(1e-3), None)]
    return report.Part(rows, table.text(), figures, [plot.Plot(
        'commit', 'What a commit costs', 'ranges that the device has',
        'us', True, True,
        {f'{changes} change{"s" * (changes > 1)}': [
            (figure['ranges'], *(figure['commit'][key] / 1000
                                 for key in ('median', 'low', 'high')))
            for figure in figures if figure['changes'] == changes]
         for changes in sorted({changes for _, changes in results[0]})})])


def check_commit():
    """What a commit costs does not depend on what did not change"""
    few = measure(100, 10, 3)[100, 10]
    many = measure(100000, 10, 3)[100000, 10]
    wrong = []
    if few['lookups'] != many['lookups'] or not few['lookups']:
        wrong.append(f'10 changes take {few["lookups"]} lookups among 100 '
                     f'ranges, {many["lookups"]} among 100000')
    # An INVALIDATE and an UPDATE for each, and the markers
    if few['messages'] != 22 or many['messages'] != 22:
        wrong.append(f'10 changes take {few["messages"]} and '
                     f'{many["messages"]} messages, not 22')
    return wrong


TESTS = [('messages', check_commit, ())]
