#!/usr/bin/python3
"""Test that transcripts are compared right (output is TAP)

Nothing is booted: the transcripts are made up here.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import contextlib
import io
import os
import re
import sys
import time

sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import conformance  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EXPLAINED = os.path.join(
    TOP, 'contrib/vdpa-soft/conformance/linux-6.1.explained')

NAMES = ['calls/one', 'calls/two', 'rings/three']
GOOD = f'''{conformance.FORMAT}
== calls/one
open O_RDWR -> 0
GET_STATUS -> 0 status=0x0
== calls/two
open O_RDWR -> 0
child: RESUME -> 0
RESUME -> 0
SET_VRING_BASE 0 num=0x3 -> EINVAL
GET_VRING_BASE 0 -> 0 num=0x1
SET_VRING_BASE 0 num=0x3 -> EPERM
== rings/three
open O_RDWR -> 0
RESUME -> 0
queue 0: used idx=2 flags=0x0
queue 1: used idx=2 flags=0x0
'''
# What an older kernel prints instead
OLD = GOOD.replace('RESUME -> 0', 'RESUME -> EFAULT').replace(
    'num=0x3 -> EINVAL\nGET_VRING_BASE 0 -> 0 num=0x1',
    'num=0x3 -> 0\nGET_VRING_BASE 0 -> 0 num=0x3').split('queue 0')[0]
# How that is explained
REASONS = '''# A comment

6.3: there is no RESUME, which is
  a reason of two lines
at calls/two
-RESUME -> 0
+RESUME -> EFAULT
at rings/*
 open O_RDWR -> 0
-RESUME -> 0
-...
+RESUME -> EFAULT

6.8: a base may be set
at calls/two
-SET_VRING_BASE <vq> num=<new> -> EINVAL
-GET_VRING_BASE <vq> -> 0 num=<old>
+SET_VRING_BASE <vq> num=<new> -> 0
+GET_VRING_BASE <vq> -> 0 num=<new>
'''
UPDATE = '''
6.1.178: an update's
at calls/one
-GET_STATUS -> 0 status=0x0
+GET_STATUS -> EIO
'''
MODE = '''
6.5: a mode's
single at calls/one
-GET_STATUS -> 0 status=0x0
+GET_STATUS -> EIO
'''
EIO = 'GET_STATUS -> EIO'


def changed(old, new, text=GOOD):
    """A transcript in which a text that is there once is another one"""
    assert text.count(old) == 1, old
    return text.replace(old, new)


def failures(wanted, found, reasons=None, release='6.1.176', mode='pa',
             statuses=(0, 0)):
    """The names of the tests that fail"""
    explanations = reasons and conformance.Explanations(reasons, release,
                                                        mode)
    runs = [conformance.Run(who, text, status) for who, text, status in
            zip(('new', 'old'), (wanted, found), statuses)]
    return [name for name, failure in
            conformance.results(NAMES, *runs, explanations) if failure]


WHOLE = ['the transcript of new is whole', 'the transcript of old is whole']
ALL = 'all explanations apply'
TWICE = '== calls/two'
ONE = GOOD[GOOD.index('== calls/one'):GOOD.index(TWICE)]
TWO = GOOD[GOOD.index(TWICE):GOOD.index('== rings')]
LAST = GOOD[GOOD.index('== rings'):]

# name, what failures() is given, which tests are to fail
COMPARISONS = [
    ('transcripts that are the same', (GOOD, GOOD), []),
    ('a line that is another one', (GOOD, changed('status=0x0', 'status=0x1')),
     ['calls/one']),
    ('a line of the newer one that is another one',
     (changed('status=0x0', 'status=0x1'), GOOD), ['calls/one']),
    ('a line that is not there', (GOOD, changed('queue 1: used idx=2 '
                                                'flags=0x0\n', '')),
     ['rings/three']),
    ('a line more', (GOOD, GOOD + 'queue 2: used idx=2 flags=0x0\n'),
     ['rings/three']),
    ('lines in another order', (GOOD, changed('queue 0', 'queue 2').replace(
        'queue 1', 'queue 0').replace('queue 2', 'queue 1')),
     ['rings/three']),
    ('a line that is there twice', (GOOD, changed(
        'GET_STATUS -> 0 status=0x0\n', 2 * 'GET_STATUS -> 0 status=0x0\n')),
     ['calls/one']),
    ('a case that is not there', (GOOD, changed(TWO, '')),
     [WHOLE[1], 'calls/two']),
    ('one the newer one has not', (changed(TWO, ''), GOOD),
     [WHOLE[0], 'calls/two']),
    ('one that neither has', (changed(TWO, ''), changed(TWO, '')),
     [*WHOLE, 'calls/two']),
    ('the last case that is not there', (GOOD, changed(LAST, '')),
     [WHOLE[1], 'rings/three']),
    ('a case more', (GOOD, GOOD + '== rings/four\n'), [WHOLE[1]]),
    ('a case twice', (GOOD, GOOD + LAST), [WHOLE[1], *NAMES]),
    ('cases in another order', (GOOD, changed(ONE + TWO, TWO + ONE)),
     [WHOLE[1]]),
    ('an end in a case', (GOOD, GOOD[:GOOD.index('queue 1')], None,
                          '', '', (0, 1)), [WHOLE[1], 'rings/three']),
    ('an end in the same case of both', (GOOD[:-20], GOOD[:-20], None,
                                         '', '', (1, 1)), WHOLE),
    ('a bad status', (GOOD, GOOD, None, '', '', (0, 3)), [WHOLE[1]]),
    ('a bad status on the software device',
     (GOOD, GOOD, None, '', '', (-11, 0)), [WHOLE[0]]),
    ('one that does not end', (GOOD, GOOD, None, '', '', (0, None)),
     [WHOLE[1]]),
    ('one that prints nothing', (GOOD, ''), [WHOLE[1], *NAMES]),
    ('neither prints anything', ('', ''), [*WHOLE, *NAMES]),
    ('another format', (GOOD, changed('format 1', 'format 2')),
     [WHOLE[1], *NAMES]),
    ('something before the first case',
     (GOOD, changed('== calls/one', 'oops\n== calls/one')),
     [WHOLE[1], *NAMES]),

    ('differences that are explained', (GOOD, OLD, REASONS), []),
    ('the same ones without explanations', (GOOD, OLD),
     ['calls/two', 'rings/three']),
    ('one more in a case that is explained',
     (GOOD, changed('-> EPERM', '-> 0', OLD), REASONS), ['calls/two']),
    ('one more in another case',
     (GOOD, changed('status=0x0', 'status=0x1', OLD), REASONS),
     ['calls/one']),
    ('an explained line in another case',
     (changed('status=0x0', 'status=0x0\nRESUME -> 0'),
      changed('status=0x0', 'status=0x0\nRESUME -> EFAULT', OLD), REASONS),
     ['calls/one']),
    ('one of two explained lines that does not differ',
     (GOOD, changed('child: RESUME -> EFAULT', 'child: RESUME -> 0', OLD),
      REASONS), ['calls/two']),
    ('explained differences that are not there', (GOOD, GOOD, REASONS),
     ['calls/two', 'rings/three']),
    ('explained lines that are not there',
     (GOOD.replace('RESUME', 'SUSPEND'), OLD.replace('RESUME', 'SUSPEND'),
      REASONS), ['calls/two', 'rings/three', ALL]),
    ('explained lines that are nowhere',
     (GOOD, OLD, REASONS + MODE.replace('single ', '').replace('STATUS', 'X')),
     [ALL]),
    ('an explanation for a case that is not there',
     (GOOD, OLD, REASONS.replace('rings/*', 'rings/* calls/six')), [ALL]),
    ('an explanation for a pattern of cases that are not there',
     (GOOD, OLD, REASONS.replace('rings/*', 'rings/*\nat six/*')), [ALL]),
    ('an explanation for a case in which nothing is like it',
     (GOOD, OLD, changed('at calls/two\n-RESUME', 'at calls/one calls/two\n'
                         '-RESUME', REASONS)), [ALL]),
    ('an end in a case, all else being explained',
     (GOOD, OLD, REASONS, '6.1.176', 'pa', (0, 1)), [WHOLE[1], ALL]),
    ('lines after those up to the end',
     (GOOD, OLD + 'queue 0: used idx=2 flags=0x0\n', REASONS),
     ['rings/three']),
    ('an explained value that is another one',
     (GOOD, changed('-> 0 num=0x3', '-> 0 num=0x1', OLD), REASONS),
     ['calls/two']),
    ('values that ought to be the same',
     (GOOD.replace('GET_VRING_BASE 0', 'GET_VRING_BASE 1'),
      OLD.replace('GET_VRING_BASE 0', 'GET_VRING_BASE 1'), REASONS),
     ['calls/two', ALL]),
    ('lines of different processes',
     (changed('GET_VRING', 'child: GET_VRING'),
      changed('GET_VRING', 'child: GET_VRING', OLD), REASONS),
     ['calls/two', ALL]),
    ('a line that only ends like an explained one',
     (GOOD.replace('RESUME -> 0', 'not RESUME -> 0'),
      OLD.replace('RESUME -> EFAULT', 'not RESUME -> EFAULT'), REASONS),
     ['calls/two', 'rings/three', ALL]),

    ('what an update changed, before it',
     (GOOD, changed('GET_STATUS -> 0 status=0x0', EIO, OLD),
      REASONS + UPDATE), []),
    ('the same when nothing changed', (GOOD, OLD, REASONS + UPDATE),
     ['calls/one']),
    ('what an update changed, with it',
     (GOOD, OLD, REASONS + UPDATE, '6.1.178'), []),
    ('the same, which changed nothing',
     (GOOD, changed('GET_STATUS -> 0 status=0x0', EIO, OLD),
      REASONS + UPDATE, '6.1.178-rt1'), ['calls/one']),
    ('what an update changed, long before it',
     (GOOD, changed('GET_STATUS -> 0 status=0x0', EIO, OLD),
      REASONS + UPDATE, '6.1.20'), []),
    ('what differs in a mode, in it',
     (GOOD, changed('GET_STATUS -> 0 status=0x0', EIO, OLD), REASONS + MODE,
      '6.1.176', 'single'), []),
    ('the same in another one',
     (GOOD, changed('GET_STATUS -> 0 status=0x0', EIO, OLD), REASONS + MODE,
      '6.1.176', 'pa'), ['calls/one']),
    ('what does not differ in another mode',
     (GOOD, OLD, REASONS + MODE, '6.1.176', 'pa'), []),
]

# name, lists of explanations that are not understood, where it is
BAD = [
    ('a line of a change without a place', '6.3: a\n-b\n', 2),
    ('a place without a reason', 'at a\n-b\n+c\n', 1),
    ('a reason without a change', '6.3: a\nat b\n', 2),
    ('a reason without anything, and another one',
     '6.3: a\n6.4: b\nat c\n-d\n', 2),
    ('two modes of a change', '6.3: a\npa at b\nsingle at c\n-d\n', 3),
    ('nothing to look for', '6.3: a\nat b\n+c\n', 3),
    ('all lines of a case', '6.3: a\nat b\n-...\n', 3),
    ('lines after the end', '6.3: a\nat b\n-c\n-...\n-d\n', 5),
    ('the end of the older one', '6.3: a\nat b\n-c\n+...\n', 4),
    ('a value from nowhere', '6.3: a\nat b\n-c <d>\n+c <e>\n', 4),
    ('text', '6.3: a\nat b\n-c\nfoo\n', 4),
    ('a reason without a version', 'at last: a\nat b\n-c\n', 1),
]

MESSAGES = [
    'vhost-vdpa-0: no iotlb for asid 3',
    "vhost-vdpa-0: can't find and alloc asid -1",
    'Unexpected readable desc',
    ' Descriptor loop in 00000000a75ccf5a',
    'vringh_bad: 12 callbacks suppressed',
]
UNEXPECTED = [
    'BUG: kernel NULL pointer dereference, address: 0000000000000008',
    'vhost-vdpa-0: no iotlb for asid 3 and more',
    'Unexpected desc',
    'Guest says index 64 > 64 is available, oops',
    'INFO: task program:77 blocked for more than 120 seconds.',
    '',
]

# name, shell script that runs, its status, what it printed
PROGRAMS = [
    ('a program that ends', 'echo a; echo b >&2', 0, 'a\nb\n'),
    ('one that fails', 'echo a; exit 3', 3, 'a\n'),
    ('one that dies', 'echo a; kill -SEGV $$', -11, 'a\n'),
    ('one that does not end', 'echo a; sleep 1000', None, 'a\n'),
    ('one whose child does not', 'echo a; sleep 1000 & exit 0', None, 'a\n'),
]


def test_file():
    """the explanations there are can be understood"""
    with open(EXPLAINED, encoding='utf-8') as file:
        text = file.read()
    return all(conformance.Explanations(text, '6.1.176', mode).all
               for mode in ('pa', 'single'))


def test_messages():
    """a kernel's messages that are expected, and others"""
    return conformance.unexpected(MESSAGES + UNEXPECTED) == UNEXPECTED


def test_report():
    """a failure is printed with what differs, and counted"""
    runs = [conformance.Run(who, text, 0) for who, text in
            (('new', GOOD), ('old', changed('status=0x0', 'status=0x1')))]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        failed = conformance.report(conformance.results(NAMES, *runs))
    lines = output.getvalue().splitlines()
    return failed == 1 and [line for line in lines if line[0] != '#'] == [
        f'ok 1 - {WHOLE[0]}', f'ok 2 - {WHOLE[1]}', 'not ok 3 - calls/one',
        'ok 4 - calls/two', 'ok 5 - rings/three', '1..5'] and \
        '# -GET_STATUS -> 0 status=0x0' in lines and \
        '# +GET_STATUS -> 0 status=0x1' in lines


def test_limit():
    """of a long difference, the beginning is printed"""
    runs = [conformance.Run(who, GOOD + 1000 * line, 0)
            for who, line in (('new', 'a\n'), ('old', 'b\n'))]
    lines = conformance.difference('rings/three', *runs).splitlines()
    return 10 < len(lines) < 100 and '-a' in lines


TESTS = [test_file, test_messages, test_report, test_limit]


def line_of(text):
    """Which line of a list of explanations is not understood, or None"""
    try:
        conformance.Explanations(text, '6.1.176', 'pa')
    except conformance.FormatError as error:
        return int(re.match(r'line (\d+): ', str(error))[1])
    return None


def main():
    print(f'1..{len(COMPARISONS) + len(BAD) + len(PROGRAMS) + len(TESTS)}')
    number = 0
    failed = 0

    def report(name, found, wanted=True):
        nonlocal number, failed
        number += 1
        if found != wanted:
            print(f'# {found} instead of {wanted}')
            failed += 1
        print(f'{"ok" if found == wanted else "not ok"} {number} {name}',
              flush=True)

    for name, arguments, wanted in COMPARISONS:
        report(name, failures(*arguments), wanted)
    for name, text, wanted in BAD:
        report(f'not understood: {name}', line_of(text), wanted)
    for name, script, *wanted in PROGRAMS:
        seconds = 60 if wanted[0] is not None else 5
        start = time.monotonic()
        run = conformance.run_program('it', ['/bin/sh', '-c', script],
                                      seconds)
        assert time.monotonic() - start < 60
        report(name, [run.status, run.text], wanted)
    for test in TESTS:
        report(test.__doc__, test())
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
