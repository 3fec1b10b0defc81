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


def main():
    print(f'1..{len(PROGRAMS) + 2}')
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

        number = len(PROGRAMS) + 1
        job = check.Job('no such program', [os.path.join(folder, 'none')],
                        folder)
        result = runner.run(job)
        report(number, result.failed and not result.passed, job.name)

        jobs = [check.Job(f'job{i}', ['/bin/sh', '-c', f'exit {i % 2}'],
                          folder) for i in range(10)]
        with contextlib.redirect_stdout(io.StringIO()):
            runner.run_all(jobs, 4)
        report(number + 1,
               sum(result.passed for result in runner.results) == 5 and
               sum(len(result.failed) for result in runner.results) == 5,
               'several at a time')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
