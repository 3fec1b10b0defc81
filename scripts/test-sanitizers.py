#!/usr/bin/python3
"""Test that a fault of QEMU does not escape the sanitizers (output is TAP)

A library with the fault is preloaded into the QEMU that the tests of "make
check" use, beside the software device. QEMU's standard error and exit status
are thrown away: some tests expect errors. The fault must be counted, and be
found in the log.

usage: test-sanitizers.py FOLDER
  FOLDER  where QEMU was built with sanitizers

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import shlex
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import check  # noqa: E402

# name, what the library does, what is said about it
FAULTS = [
    ('nothing', '', None),
    ('a leak', 'p = malloc(48); p = NULL;', 'detected memory leaks'),
    ('a use after free', 'p = malloc(48); free((char *)p); p[1] = 1;',
     'heap-use-after-free'),
    ('an overflow', 'p = malloc(n); p[n] = 1;', 'heap-buffer-overflow'),
    ('an address that is not mapped', 'p = (char *)8; *p = 1;',
     'AddressSanitizer: SEGV'),
    ('a shift too far', 'n = 1 << n;', '__ubsan_handle_shift_out_of_bounds'),
]

SOURCE = '''
#include <stdlib.h>

static char *volatile p;
static volatile int n = 48;

void fault(void);

void __attribute__((noinline)) fault(void)
{
    %s
}

static void __attribute__((constructor)) loaded(void)
{
    /* not in the shell that starts QEMU, nor in the launcher */
    if (p == NULL && getenv("VDPA_SOFT_PID")) {
        fault();
    }
}
'''


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    build = os.path.abspath(sys.argv[1])
    failed = 0
    print(f'1..{len(FAULTS)}')
    with tempfile.TemporaryDirectory() as folder:
        runner = check.Runner(folder, False)
        for number, (name, code, said) in enumerate(FAULTS, 1):
            library = os.path.join(folder, f'{number}.so')
            subprocess.run(
                ['gcc', '-shared', '-fPIC', '-g', '-o', library, '-x', 'c',
                 '-fsanitize=address,undefined', '-'],
                input=SOURCE % code, encoding='utf-8', check=True)
            command = [os.path.join(build, 'contrib/vdpa-soft/vdpa-soft'),
                       'run', '--',
                       os.path.join(build, 'qemu-system-x86_64'),
                       '-accel', 'qtest', '-M', 'none', '-display', 'none',
                       '-qmp', 'stdio']
            quit_qemu = '{"execute":"qmp_capabilities"}{"execute":"quit"}'
            job = check.Job(f'{number}', [
                '/bin/sh', '-c', f'echo {shlex.quote(quit_qemu)} | '
                f'LD_PRELOAD={shlex.quote(library)} {shlex.join(command)} '
                '2>/dev/null; echo 1..1; echo ok 1'],
                build, tap=True, sanitized=True)
            result = runner.run(job)
            with open(result.log, encoding='utf-8', errors='replace') as log:
                text = log.read()
            good = result.passed == 1
            if said:
                good = good and result.failed and said in text
            else:
                good = good and not result.failed and '"return": {}' in text
            if not good:
                failed += 1
                print(f'# {result.failed}', *text.splitlines(), sep='\n# ')
            print(f'{"ok" if good else "not ok"} {number} {name}', flush=True)
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
