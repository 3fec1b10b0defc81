#!/usr/bin/python3
"""Show how far a command is, from the counters in its output

Reads the output on standard input and keeps all of it in a log file. A
line that begins with a counter such as ninja's "[7/99]" moves the display:
on a terminal one line that changes in place, else a new line at each tenth
of the way, and every half minute. What takes less than a second is not
worth a word.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import argparse
import re
import shutil
import sys
import time

COUNTER = re.compile(r'\[(\d+)/(\d+)\]\s*(.*)')
SILENCE_MAX = 30
START_MIN = 1


class Display:
    """The counter as the user sees it"""

    def __init__(self, what, out):
        self.what = what
        self.out = out
        self.tty = out.isatty()
        self.tenth = 0
        self.start = self.shown = time.monotonic()
        self.dirty = False

    def show(self, done, total, detail):
        """Tell that done of total steps are behind us"""
        now = time.monotonic()
        if total == 0 or now - self.start < START_MIN:
            return
        percent = 100 * done // total
        text = f'   {self.what}: {done}/{total} ({percent} %)'
        if self.tty:
            width = shutil.get_terminal_size().columns - 1
            line = f'{text} {detail}'[:width]
            self.out.write(f'\r{line}\033[K')
            self.dirty = True
        else:
            if percent // 10 == self.tenth and \
                    now - self.shown < SILENCE_MAX:
                return
            self.tenth = percent // 10
            self.shown = now
            self.out.write(text + '\n')
        self.out.flush()

    def end(self):
        """Leave the terminal on a line of its own"""
        if self.dirty:
            self.out.write('\r\033[K')
            self.out.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--log', required=True,
                        help='file that gets all of the output')
    parser.add_argument('what', help='name of the step')
    args = parser.parse_args()

    display = Display(args.what, sys.stdout)
    with open(args.log, 'wb') as log:
        for line in sys.stdin.buffer:
            log.write(line)
            log.flush()
            match = COUNTER.match(line.decode('utf-8', 'replace'))
            if match:
                display.show(int(match[1]), int(match[2]), match[3])
    display.end()


if __name__ == '__main__':
    main()
