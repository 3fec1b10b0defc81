#!/usr/bin/python3
"""Test that "make check" counts right (output is TAP)

A test runner that counts a crash as a pass would make all tests worthless.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import contextlib
import io
import os
import sys
import tempfile
import time

sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import check  # noqa: E402

# name, shell script, whether it speaks TAP, passed, failed, skipped
PROGRAMS = [
    ('a program that succeeds', 'exit 0', False, 1, 0, 0),
    ('a program that fails', 'exit 3', False, 0, 1, 0),
    ('a program that dies', 'kill -SEGV $$', False, 0, 1, 0),
    ('tests that pass', 'echo 1..2; echo ok 1 /a; echo ok 2 /b',
     True, 2, 0, 0),
    ('a plan that comes last', 'echo ok 1 - a; echo ok 2 - b; echo 1..2',
     True, 2, 0, 0),
    ('one that fails', 'echo 1..2; echo not ok 1 /a; echo ok 2; exit 1',
     True, 1, 1, 0),
    ('one that fails, with status 0',
     'echo 1..2; echo not ok 1 /a; echo ok 2', True, 1, 1, 0),
    ('one that is skipped', 'echo 1..2; echo "ok 1 /a # SKIP why"; echo ok 2',
     True, 1, 0, 1),
    ('all skipped', 'echo "1..0 # SKIP why"', True, 0, 0, 1),
    ('comments and subtests', 'echo 1..1; echo "# ok 7"; echo "    ok 1"; '
     'echo "    not ok 2"; echo ok 1', True, 1, 0, 0),
    ('fewer than planned', 'echo 1..3; echo ok 1', True, 1, 1, 0),
    ('more than planned', 'echo 1..1; echo ok 1; echo ok 2', True, 2, 1, 0),
    ('no plan', 'echo ok 1', True, 1, 1, 0),
    ('no output', 'exit 0', True, 0, 1, 0),
    ('all pass, then an error', 'echo 1..1; echo ok 1; exit 5',
     True, 1, 1, 0),
    ('death in the middle', 'echo 1..3; echo ok 1; kill -ABRT $$',
     True, 1, 1, 0),
    ('death before the plan', 'kill -SEGV $$', True, 0, 1, 0),
    ('a test that gives up', 'echo 1..3; echo ok 1; echo "Bail out! why"; '
     'kill -ABRT $$', True, 1, 1, 0),
    ('a hang', 'echo 1..2; echo ok 1; sleep 1000', True, 1, 1, 0),
    ('a child that stays', 'sleep 1000 & echo 1..1; echo ok 1',
     True, 1, 0, 0),
]

# name, what a sanitizer writes while all tests pass, failed
REPORTS = [
    ('sanitizers that are silent', '', 0),
    ('the report of a bad access',
     '==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x60\n'
     '    #0 0x5 in f a.c:3\n'
     'SUMMARY: AddressSanitizer: heap-use-after-free a.c:3 in f\n', 1),
    ('the report of undefined behaviour',
     '==7==ERROR: AddressSanitizer: ABRT on unknown address 0x60\n'
     '    #7 0x5 in __ubsan_handle_shift_out_of_bounds ubsan.cpp:7\n'
     '    #8 0x5 in f a.c:3\n'
     'SUMMARY: AddressSanitizer: ABRT nptl/pthread_kill.c:44 in kill\n', 1),
    ('a report that is not known', 'LeakSanitizer has encountered a fatal '
     'error.\nHINT: none\n', 1),
    ('remarks about coroutines and a parent',
     "==7==WARNING: ASan doesn't fully support "
     'makecontext/swapcontext functions and may err\n'
     '==8==Running thread 7 was not suspended. False leaks are possible.\n',
     0),
]
REPORT = '''
path=${ASAN_OPTIONS#*log_path=\\'}
test -z "$1" || printf %s "$1" >"${path%%\\'*}.7"
echo 1..1; echo ok 1
'''


def run_all(folder, jobs, parallel):
    """Run jobs as "make check" does: the Runner"""
    runner = check.Runner(folder, False)
    with contextlib.redirect_stdout(io.StringIO()):
        runner.run_all(jobs, parallel)
    return runner


def outcome(runner):
    """What is counted in the end: passed, failed"""
    return (sum(result.passed for result in runner.results),
            sum(len(result.failed) for result in runner.results))


def test_total(folder):
    """several at a time"""
    jobs = [check.Job(f'job{i}', ['/bin/sh', '-c', f'exit {i % 2}'], folder)
            for i in range(10)]
    return outcome(run_all(folder, jobs, 4)) == (5, 5)


def test_limit(folder):
    """as many at a time as there may be, and no more"""
    path = os.path.join(folder, 'limit')
    # The first three end once there are three; none before another began
    script = ('echo + >>"$0"; '
              'until [ "$(grep -c + "$0")" -ge 3 ]; do sleep 0.1; done; '
              'echo - >>"$0"')
    jobs = [check.Job(f'job{i}', ['/bin/sh', '-c', script, path], folder,
                      deadline=60) for i in range(9)]
    runner = run_all(folder, jobs, 3)
    with open(path, encoding='utf-8') as file:
        signs = file.read().split()
    running = [signs[:end].count('+') - signs[:end].count('-')
               for end in range(1, len(signs) + 1)]
    return outcome(runner) == (9, 0) and max(running) == 3


def test_order(folder):
    """those that take longest begin first, the others as they come"""
    path = os.path.join(folder, 'order')
    known = sorted(check.SECONDS, key=check.SECONDS.get)
    short, middle, long = known[0], known[len(known) // 2], known[-1]
    names = ['new', short, long, 'newer', middle]
    jobs = [check.Job(name, ['/bin/sh', '-c', f'echo {name} >>"$0"', path],
                      folder) for name in names]
    runner = run_all(folder, jobs, 1)
    with open(path, encoding='utf-8') as file:
        began = file.read().split()
    return outcome(runner) == (5, 0) and \
        began == [long, middle, short, 'new', 'newer']


TESTS = [test_total, test_limit, test_order]


def main():
    print(f'1..{len(PROGRAMS) + len(REPORTS) + 1 + len(TESTS)}')
    failed = 0

    def report(number, good, name):
        nonlocal failed
        failed += not good
        print(f'{"ok" if good else "not ok"} {number} {name}', flush=True)

    with tempfile.TemporaryDirectory() as folder:
        runner = check.Runner(folder, False)
        for number, (name, script, tap, *counts) in enumerate(PROGRAMS, 1):
            job = check.Job(f'{number}', ['/bin/sh', '-c', script], folder,
                            tap=tap, deadline=3 if 'hang' in name else 60)
            start = time.monotonic()
            result = runner.run(job)
            found = [result.passed, len(result.failed), len(result.skipped)]
            if found != counts:
                print(f'# expected {counts}, counted {found}: '
                      f'{result.failed}')
            report(number, found == counts and
                   time.monotonic() - start < 60, name)

        for number, (name, text, count) in enumerate(REPORTS, number + 1):
            job = check.Job(f'{number}', ['/bin/sh', '-c', REPORT, 'sh', text],
                            folder, tap=True, sanitized=True)
            result = runner.run(job)
            with open(result.log, encoding='utf-8') as log:
                good = not count or text in log.read()
            report(number, good and result.passed == 1 and
                   len(result.failed) == count, name)

        number += 1
        job = check.Job('no such program', [os.path.join(folder, 'none')],
                        folder)
        result = runner.run(job)
        report(number, result.failed and not result.passed, job.name)

        for number, test in enumerate(TESTS, number + 1):
            report(number, test(folder), test.__doc__)
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
