"""Transcripts of vhost-vdpa-conformance, and what they may differ in

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import contextlib
import difflib
import fnmatch
import os
import re
import signal
import subprocess

# The first line of a transcript
FORMAT = 'vhost-vdpa conformance, format 1'

# Lines of a difference that are shown of each case
SHOWN = 60

# What a kernel says of IOTLB messages and rings that are wrong on purpose. It
# tells of ten rings in five seconds, of which ones is a matter of time.
EXPECTED = re.compile('|'.join([
    r"vhost-vdpa-\d+: no iotlb for asid -?\d+",
    r"vhost-vdpa-\d+: can't find and alloc asid -?\d+",
    r'Unexpected (?:readable|writable) desc',
    r'Descriptor loop in \S+',
    r'Chained index \d+ > \d+',
    r'Strange indirect len \d+',
    r'Multilevel indirect \d+->\d+',
    r'Guest says index \d+ > \d+ is available',
    r'Failed to access avail idx at \S+',
    r'Failed to write 1 used entries \d+ at \S+',
    r'vringh_bad: \d+ callbacks suppressed',
]))


class FormatError(Exception):
    """A transcript, or a list of explanations, cannot be understood"""


def unexpected(messages):
    """Those of a kernel's messages that no case is there to cause"""
    return [message for message in messages
            if not EXPECTED.fullmatch(message.strip())]


def parse(text):
    """The cases of a transcript: {name: its lines, of the last maybe not all}
    """
    lines = text.splitlines()
    if not lines or lines[0] != FORMAT:
        raise FormatError(f'the first line is "{lines[0] if lines else ""}" '
                          f'instead of "{FORMAT}"')
    cases = {}
    name = None
    for line in lines[1:]:
        if line.startswith('== '):
            name = line[3:]
            if name in cases:
                raise FormatError(f'there are two cases {name}')
            cases[name] = []
        elif name is None:
            raise FormatError(f'"{line}" belongs to no case')
        else:
            cases[name].append(line)
    return cases


class Run:
    """One run of the program

    who: where it ran, for people
    text: all it printed
    status: its exit status, None if it did not end in time
    """

    def __init__(self, who, text, status):
        self.who = who
        self.status = status
        self.text = text
        self.cases = {}
        self.error = None
        try:
            self.cases = parse(text)
        except FormatError as error:
            self.error = str(error)

    def failure(self, names):
        """Why this is no whole transcript of these cases, or None"""
        last = '\n'.join(self.text.splitlines()[-3:])
        if self.status is None:
            return f'{self.who}: it did not end; the last that it printed ' \
                   f'was\n{last}'
        if self.status:
            return f'{self.who}: it ended with status {self.status}; the ' \
                   f'last that it printed was\n{last}'
        if self.error:
            return f'{self.who}: {self.error}'
        if [*self.cases] == [*names]:
            return None
        missing = [name for name in names if name not in self.cases]
        more = [name for name in self.cases if name not in names]
        return f'{self.who}: not the cases that the program has, in their ' \
               f'order; missing: {" ".join(missing) or "none"}; more: ' \
               f'{" ".join(more) or "none"}'


def run_program(who, command, seconds):
    """Run the program, or what runs it: a Run"""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          start_new_session=True) as process:
        try:
            text, _ = process.communicate(timeout=seconds)
            status = process.returncode
        except subprocess.TimeoutExpired as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            text, status = error.stdout or b'', None
    return Run(who, text.decode(errors='replace'), status)


# What stands for any text in a line of a change
PLACEHOLDER = re.compile(r'<([a-z]+)>')
REST = '...'


class Change:
    """Lines that differ, for one reason

    lines: as in a difference, "-" for the newer kernel's, "+" for the older
        one's, " " for both; "-..." are all lines up to the end of the case
    mode: the only one in which they are, or None
    cases: patterns of the cases in which they are
    used: those of the patterns in one of whose cases they were
    """

    def __init__(self, mode, cases, lines):
        self.mode = mode
        self.cases = cases
        self.used = set()
        known = set()
        new = [line[1:] for line in lines if line[0] in ' -']
        old = [line[1:] for line in lines if line[0] in ' +']
        if not new or new[0] == REST:
            raise FormatError('a change begins with a line to look for')
        if REST in old or REST in new[:-1]:
            raise FormatError('"..." can only be the last line, and one that '
                              'begins with "-"')
        # A line may begin with who made the call, which all of them do then
        patterns = [r'(?P<who>(?:\w+: )?)' + self._pattern(new[0], known)]
        for line in new[1:]:
            patterns.append(r'(?P=who)' + self._pattern(line, known)
                            if line != REST else r'(?s:.*)\Z')
        self.pattern = re.compile('^' + r'\n'.join(patterns) + '$', re.M)
        for line in old:
            for name in PLACEHOLDER.findall(line):
                if name not in known:
                    raise FormatError(f'no line to look for has <{name}>')
        self.old = old

    @staticmethod
    def _pattern(line, known):
        """A regular expression for a line"""
        text = ''
        for number, part in enumerate(PLACEHOLDER.split(line)):
            if number % 2 == 0:
                text += re.escape(part)
            elif part in known:
                text += f'(?P={part})'
            else:
                known.add(part)
                text += f'(?P<{part}>.*)'
        return text

    def _replacement(self, match):
        return '\n'.join(
            match['who'] + PLACEHOLDER.sub(lambda name: match[name[1]], line)
            for line in self.old)

    def apply(self, case, text):
        """The text of a case with the older kernel's lines"""
        patterns = {pattern for pattern in self.cases
                    if fnmatch.fnmatchcase(case, pattern)}
        if patterns:
            text, count = self.pattern.subn(self._replacement, text)
            if count:
                self.used |= patterns
        return text


class Explanation:
    """A reason, and the changes it explains"""

    def __init__(self, version, reason):
        self.version = version
        self.reason = reason
        self.changes = []

    def applies(self, release):
        """Whether the change is one that a kernel of this release lacks

        A version of three numbers is an update, in which it came.
        """
        version = numbers(self.version)
        return len(version) < 3 or numbers(release) < version


def numbers(release):
    """A version to be compared"""
    return [int(number)
            for number in re.match(r'[\d.]*\d', release)[0].split('.')]


# The lines of a list of explanations that are not lines of changes
HEAD = re.compile(r'([1-9]\d*\.\d+(?:\.\d+)?): (.+)')
PLACE = re.compile(r'(?:(\w+) )?at (.+)')


class Explanations:
    """All that explain the differences of a kernel; see linux-6.1.explained

    text: of that file
    release: of the kernel
    mode: of the device
    """

    def __init__(self, text, release, mode):
        self.all = []
        self.mode = None
        self.cases = []
        self.lines = []
        number = 0
        try:
            for number, line in enumerate(text.splitlines(), 1):
                self._take(line)
            self._end()
        except FormatError as error:
            raise FormatError(f'line {number}: {error}') from None
        self.all = [explanation for explanation in self.all
                    if explanation.applies(release)]
        for explanation in self.all:
            explanation.changes = [change for change in explanation.changes
                                   if change.mode in (None, mode)]

    def _take(self, line):
        """Understand one line of the file"""
        head = HEAD.fullmatch(line)
        place = PLACE.fullmatch(line)
        if head:
            self._end()
            self.all.append(Explanation(head[1], head[2]))
        elif line.startswith('  ') and self.all and not self.cases:
            self.all[-1].reason += f' {line.strip()}'
        elif place and self.all:
            if self.lines:
                self._end()
            if self.cases and place[1] != self.mode:
                raise FormatError('a change is in one mode, or in all')
            self.mode = place[1]
            self.cases += place[2].split()
        elif line[:1] in '-+ ' and line and self.cases:
            self.lines.append(line)
        elif line and not line.startswith('#'):
            raise FormatError(f'"{line}" is no reason, place or line of a '
                              'change')

    def _end(self):
        """Understand what came last as a whole"""
        if self.all and not self.lines:
            raise FormatError(f'"{self.all[-1].reason}" explains nothing')
        if self.lines:
            self.all[-1].changes.append(
                Change(self.mode, self.cases, self.lines))
        self.mode = None
        self.cases = []
        self.lines = []

    def apply(self, case, lines):
        """What the kernel has to say in a case

        lines: what newer ones say
        """
        text = '\n'.join(lines)
        for explanation in self.all:
            for change in explanation.changes:
                text = change.apply(case, text)
        return text.splitlines()

    def stale(self):
        """What explained nothing, of the cases that apply() was asked about

        One line each; all cases must have been.
        """
        return [f'in {case}, {explanation.version}: {explanation.reason}'
                for explanation in self.all
                for change in explanation.changes
                for case in change.cases if case not in change.used]


def difference(case, wanted, found, explanations=None):
    """How two runs differ in a case, or None

    wanted, found: the Runs; explanations are those of the second one
    """
    lost = [run.who for run in (wanted, found) if case not in run.cases]
    if lost:
        return f'it is not in the transcript of {" and ".join(lost)}'
    old, new = wanted.cases[case], found.cases[case]
    who = wanted.who
    if explanations:
        explained = explanations.apply(case, old)
        if explained != old:
            who += ', explained'
        old = explained
    if old == new:
        return None
    lines = [*difflib.unified_diff(old, new, who, found.who, lineterm='')]
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f'and {len(lines) - SHOWN} more lines']
    return '\n'.join(lines)


def results(names, wanted, found, explanations=None):
    """Compare two runs: a name, and what failed or None, for each test

    names: the cases that the program has
    """
    whole = True
    for run in (wanted, found):
        failure = run.failure(names)
        whole = whole and not failure
        yield f'the transcript of {run.who} is whole', failure
    for name in names:
        yield name, difference(name, wanted, found, explanations)
    if explanations:
        yield ('all explanations apply',
               '\n'.join(explanations.stale()) or None if whole else
               'it takes whole transcripts to tell')


def report(compared):
    """Print results() as TAP: how many tests failed"""
    failed = 0
    number = 0
    for number, (name, failure) in enumerate(compared, 1):
        for line in failure.splitlines() if failure else []:
            print(f'# {line}')
        failed += bool(failure)
        print(f'{"not ok" if failure else "ok"} {number} - {name}')
    print(f'1..{number}', flush=True)
    return failed
