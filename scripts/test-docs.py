#!/usr/bin/python3
"""Test that the documentation says what the code does

What can drift apart is taken from the code and looked for in the pages, and
the other way round: messages, calls, remedies, changes of state, backend
features, options and trace events. Speaks TAP.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import re
import sys

sys.dont_write_bytecode = True

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

BACKEND = 'hw/virtio/vhost-vdpa.c'
UAPI = 'hw/virtio/vhost-vdpa-uapi.c'
NETDEV = 'net/vhost-vdpa.c'
SOURCES = [BACKEND, UAPI, 'hw/virtio/vhost-vdpa-memory.c',
           'hw/virtio/vhost-vdpa-iotlb.c', NETDEV]
PROTOCOL = 'docs/interop/vhost-vdpa.rst'
GUIDE = 'docs/system/devices/vhost-vdpa.rst'

# Functions that tell the user something; the format is their first string
REPORTERS = re.compile(r'\b(?:error_(?:v?report|setg|setg_errno|prepend|'
                       r'append_hint)|(?:warn|info)_report(?:_once)?|'
                       r'virtio_error)\s*\(')
# A string in C, and what may stand between parts of it
STRING = r'"(?:[^"\\]|\\.)*"'
FORMAT = re.compile(STRING + r'(?:\s*(?:PRI[A-Za-z0-9]+|' + STRING + r'))*')
CONVERSION = re.compile(r'(?:0x)?%[-0-9.*]*(?:ll|l|h|hh|z|j)?[A-Za-z]')
PREFIX = re.compile(r"^vhost-vdpa(?: device '%s')?: ")
# Fewer letters do not tell one message from another
TELLING = 8


def read(path):
    """The text of a file of the repository"""
    with open(os.path.join(REPOSITORY, path), encoding='utf-8') as file:
        return file.read()


def without_comments(source):
    """C source with comments blanked out, strings left alone"""
    return re.sub(STRING + r'|/\*.*?\*/',
                  lambda m: m[0] if m[0][0] == '"' else ' ', source,
                  flags=re.S)


def unquote(text):
    """The value of adjacent C strings; PRI macros become conversions"""
    parts = re.finditer(STRING + r'|PRI(\w)\w*', text)
    value = ''.join(part[1] if part[1] else part[0][1:-1] for part in parts)
    return value.replace('\\"', '"').replace('\\n', '\n').replace('%%', '%')


def plain(text):
    """Text as a reader sees it: no markup, single spaces"""
    return ' '.join(text.replace('``', '').split())


def messages(source):
    """Formats of all messages in C source, in order"""
    formats = []
    for match in REPORTERS.finditer(source):
        start = FORMAT.search(source, match.end())
        assert start, source[match.start():match.start() + 60]
        formats.append(unquote(start[0]))
    return formats


def telling(text):
    """Whether text has words of its own"""
    words = CONVERSION.sub('', text)
    return len(re.sub(r'[^A-Za-z]', '', words)) >= TELLING


def pattern(text):
    """What the guide has to say for a message, or None if there is nothing

    That is the cause, up to the first semicolon; all, if there is no word in
    it. The guide has other words, or none, where the message has conversions.
    """
    text = PREFIX.sub('', text)
    cause = text.split(';')[0]
    if not telling(cause):
        cause = text
    if not telling(cause):
        return None
    words = [re.escape(plain(part)) for part in CONVERSION.split(cause)]
    return re.compile(r'\s*.*?\s*'.join(words).replace(r'\ ', ' '))


def tables(page):
    """All list-tables of a page: [[[cell]]] by table, row and column"""
    found = []
    rows = None
    margin = 0
    for line in page.splitlines():
        directive = re.match(r'( *)\.\. list-table::', line)
        indent = len(line) - len(line.lstrip())
        if directive:
            rows = []
            found.append(rows)
            margin = len(directive[1])
            continue
        if rows is None or not line.strip():
            continue
        if indent <= margin:
            rows = None
            continue
        cell = re.match(r' *(\* )?( *)-(?: (.*))?$', line)
        if cell and cell[1]:
            rows.append([cell[3] or ''])
        elif cell and rows and indent == margin + 5:
            rows[-1].append(cell[3] or '')
        elif rows:
            rows[-1][-1] += ' ' + line.strip()
    return [[[plain(cell) for cell in row] for row in rows] for rows in found]


def table(page, heading):
    """Rows below the heading of the one table that begins with it"""
    found = [rows for rows in tables(page)
             if rows and rows[0][:len(heading)] == heading]
    assert len(found) == 1, f'{len(found)} tables begin with {heading}'
    return found[0][1:]


def function(source, name):
    """The body of a C function, '' if it is not in this file"""
    match = re.search(r'^[^\n;]*\b' + name + r'\([^;{]*\)\s*^\{\n(.*?)^\}',
                      source, re.M | re.S)
    return match[1] if match else ''


def short(ioctl):
    """Name of a call as the pages have it"""
    return re.sub(r'^VHOST_(VDPA_)?', '', ioctl)


def requests(source):
    """[(call, purpose)] of the uAPI file"""
    return [(match[1], unquote(match[2])) for match in re.finditer(
        r'REQUEST\(\s*(VHOST_\w+),\s*(' + STRING + r')\s*\)', source)]


def remedies(uapi, netdev):
    """What messages advise, where the advice is not part of the format"""
    advices = re.search(r'\badvices\[\] = \{(.*?)\n\};', uapi, re.S)
    found = [unquote(match[0]) for match in FORMAT.finditer(advices[1])]
    returns = re.finditer(r'return (' + FORMAT.pattern + r');',
                          function(netdev, 'open_advice'))
    return found + [unquote(match[1]) for match in returns]


def transitions(source):
    """{(from, to): (steps, undo, state after a failure)} of the backend"""
    body = re.search(r'\btransitions\[\] = \{\n(.*?)\n\};', source, re.S)[1]
    for name, value in re.findall(
            r'^#define (\w+_STEPS)\b((?:.*\\\n)*.*)$', source, re.M):
        value = value.replace('\\\n', ' ').strip()
        body = re.sub(rf'\b{name}\b', value, body)
    assert '_STEPS' not in body, 'steps in a macro that was not found'

    def state(text, member):
        match = re.search(rf'\.{member} = VHOST_VDPA_(\w+)', text)
        return match[1].lower()

    def steps(text, member):
        match = re.search(rf'\.{member} = \{{(.*?)\}}', text, re.S)
        return re.findall(r'step_(\w+)', match[1]) if match else []

    return {(state(text, 'from'), state(text, 'to')):
            (steps(text, 'steps'), steps(text, 'undo'),
             state(text, 'otherwise'))
            for text in re.split(r'\}, \{', body)}


def step_calls(backend, uapi):
    """{step: calls} that each step makes, by itself or through helpers"""
    calls = {}
    for match in re.finditer(r'^(?:int|void \*)\s*vhost_vdpa_uapi_(\w+)\(',
                             uapi, re.M):
        body = function(uapi, f'vhost_vdpa_uapi_{match[1]}')
        calls[f'vhost_vdpa_uapi_{match[1]}'] = (
            {short(name) for name, _ in requests(body)} or
            {name + '()' for name in re.findall(r'\bmmap\b', body)})
    for name in 'map', 'commit', 'withdraw':
        calls[f'vhost_vdpa_memory_{name}'] = {'IOTLB messages'}
    calls['mmap'] = {'mmap()'}

    # A step does not change the state
    names = set(re.findall(r'^(?:static )?\w[\w ]*[ *](\w+)\([^;{]*\)\s*^\{',
                           backend, re.M)) - {'change_state'}
    bodies = {name: set(re.findall(r'\w+', function(backend, name)))
              for name in names}

    def closure(name, seen):
        found = set()
        for word in bodies[name]:
            found |= calls.get(word, set())
            if word in bodies and word not in seen:
                found |= closure(word, seen | {word})
        return found

    return {name[len('step_'):]: closure(name, {name})
            for name in names if name.startswith('step_')}


def trace_events():
    """Names of all our trace events"""
    names = set()
    for path in ('hw/virtio/trace-events', 'net/trace-events'):
        if os.path.exists(os.path.join(REPOSITORY, path)):
            names |= set(re.findall(r'^(vhost_vdpa_\w+)\(', read(path), re.M))
    return names


class Test:
    """What the tests share: sources, pages, and the findings of one test"""

    def __init__(self):
        self.source = {path: without_comments(read(path)) for path in SOURCES}
        self.protocol = read(PROTOCOL)
        self.guide = read(GUIDE)
        trouble = self.guide[self.guide.index('\nTroubleshooting\n'):]
        self.cells = [row[0] for rows in tables(trouble) for row in rows[1:]]
        self.used = set()
        self.found = []

    def expect(self, condition, finding):
        """Note a finding unless the condition holds"""
        if not condition:
            self.found.append(finding)

    def look_up(self, matches, what):
        """Expect a row of the guide's tables that matches"""
        rows = {i for i, cell in enumerate(self.cells) if matches(cell)}
        self.used |= rows
        self.expect(rows, f'not in {GUIDE}: {what}')

    def messages_of(self, path):
        """every message is in the guide"""
        formats = messages(self.source[path])
        self.expect(formats, f'no message found in {path}')
        for text in formats:
            wanted = pattern(text)
            if wanted:
                self.look_up(wanted.search, text)

    def additions(self):
        """what is put into messages is in the guide"""
        for path, least in (('hw/virtio/vhost-vdpa-iotlb.c', 1),
                            ('hw/virtio/vhost-vdpa-memory.c', 4)):
            texts = re.findall(r'(?:\bg_strdup_printf\(|\badvice =)\s*(' +
                               FORMAT.pattern + ')', self.source[path])
            self.expect(len(texts) >= least, f'{path}: found {texts}')
            for text in texts:
                wanted = pattern(unquote(text))
                self.look_up(wanted.search, unquote(text))

    def calls(self):
        """every call is in the guide, with what it is for"""
        rows = table(self.guide, ['Attempt', 'Call'])
        wanted = requests(self.source[UAPI])
        self.expect(wanted, 'no call found')
        for name, purpose in wanted:
            self.expect([purpose, name] in rows,
                        f'not in {GUIDE}: {purpose} ({name})')
            self.look_up(purpose.__eq__, purpose)
        for purpose, name in rows:
            self.expect((name, purpose) in wanted,
                        f'not in {UAPI}: {purpose} ({name})')

    def advice(self):
        """every remedy is in the guide"""
        found = remedies(self.source[UAPI], self.source[NETDEV])
        self.expect(len(found) > 10, f'only {len(found)} remedies found')
        for text in found:
            self.look_up(lambda cell, text=text: plain(text) in cell, text)

    def stale(self):
        """the guide has no row for what nobody says any more"""
        self.expect(len(self.cells) > 50, 'the tables were not found')
        for i, cell in enumerate(self.cells):
            self.expect(i in self.used, f'not in the sources: {cell}')

    def transitions(self):
        """every change of state is in the protocol, step by step"""
        code = transitions(self.source[BACKEND])
        rows = {}
        self.expect(code, 'no transition found')
        for cell, steps, failure in table(
                self.protocol, ['From, to', 'Steps, in this order']):
            match = re.fullmatch(r'(\w+) to (\w+)', cell)
            undo, _, otherwise = failure.partition('; then ')
            rows[(match[1], match[2])] = (
                steps.split(', '),
                [] if undo == 'go on' else undo.split(', '), otherwise)
            self.expect((undo == 'go on') == (match[2] == otherwise),
                        f'{cell}: "go on" is for those that cannot fail')
        for key in sorted(set(code) | set(rows)):
            self.expect(code.get(key) == rows.get(key),
                        f'{" to ".join(key)}: the code has {code.get(key)}, '
                        f'the page {rows.get(key)}')

    def states(self):
        """every state is in the protocol, as messages call it"""
        names = re.search(r'\bstate_names\[.*?\] = \{(.*?)\};',
                          self.source[BACKEND], re.S)[1]
        code = re.findall(r'"(\w+)"', names)
        rows = [row[0] for row in table(self.protocol,
                                        ['State', 'Device status'])]
        self.expect(code and code == rows, f'{code} are not {rows}')

    def steps(self):
        """every step is in the protocol, with the calls it makes"""
        code = step_calls(self.source[BACKEND], self.source[UAPI])
        used = {step for steps, undo, _ in
                transitions(self.source[BACKEND]).values()
                for step in steps + undo}
        rows = {row[0]: row[1]
                for row in table(self.protocol, ['Step', 'Calls'])}
        self.expect(set(rows) == used,
                    f'steps differ: {sorted(set(rows) ^ used)}')
        for step in sorted(used & set(rows)):
            calls = code[step]
            page = set() if rows[step] == 'none' else set(
                rows[step].split(', '))
            self.expect(calls == page, f'{step}: the code makes '
                        f'{sorted(calls)}, the page has {sorted(page)}')

    def backend_features(self):
        """every backend feature is in the protocol"""
        known = re.search(r'#define KNOWN_BACKEND_FEATURES(.*?[^\\])\n',
                          self.source[BACKEND], re.S)[1]
        code = re.findall(r'VHOST_BACKEND_F_(\w+)', known)
        rows = table(self.protocol, ['Bit', 'Name', 'Linux'])
        self.expect(code, 'no feature found')
        self.expect(code == [row[1] for row in rows],
                    f'{code} are not {[row[1] for row in rows]}')
        bits = [int(row[0]) for row in rows]
        self.expect(bits == sorted(set(bits)), f'bits are {bits}')

    def options(self):
        """every option of the netdev is in the guide and the help"""
        code = {name.replace('_', '-').replace('has-', '') for name in
                re.findall(r'\bopts->(\w+)', self.source[NETDEV])}
        guide = set(re.findall(r'^``([\w-]+)=\w+``$', self.guide, re.M))
        text = read('qemu-options.hx')
        self.expect(code, 'no option found')
        self.expect(code <= guide, f'not in {GUIDE}: {sorted(code - guide)}')
        for name in sorted(code):
            if not name.startswith('x-'):
                self.expect(text.count(f'[,{name}=') == 2,
                            f'not in help and manual: {name}')

    def soft(self):
        """options of vdpa-soft in the guide exist"""
        usage = re.search(r'\busage\[\] =(.*?)";\n',
                          read('contrib/vdpa-soft/launcher.c'), re.S)[1]
        section = re.search(r'\nTrying it without hardware\n(.*?)\n\n\w[^\n]*'
                            r'\n===', self.guide, re.S)[1]
        names = set(re.findall(r'(--[a-z][\w-]*)', section))
        self.expect(names, 'no option found')
        for name in sorted(names):
            self.expect(re.search(name + r'\b', usage),
                        f'vdpa-soft has no {name}')

    def traces(self):
        """trace events that the pages name exist"""
        labels = re.findall(r'^\.\. _(\w+):$', self.guide + self.protocol,
                            re.M)
        names = set(re.findall(r'\b(vhost_vdpa_(?:\w+\*?|\*))',
                               self.guide)) - set(labels)
        names |= set(re.findall(r'trace event\s+``(\w+)``', self.protocol))
        events = trace_events()
        self.expect(len(names) > 3, 'no trace event found')
        for name in sorted(names):
            self.expect(any(re.fullmatch(name.replace('*', '.*'), event)
                            for event in events),
                        f'there is no trace event {name}')


def main():
    test = Test()
    jobs = [(f'messages of {path} are in the guide',
             lambda path=path: test.messages_of(path)) for path in SOURCES]
    jobs += [(job.__doc__, job) for job in (
        test.additions, test.calls, test.advice, test.stale, test.states,
        test.transitions, test.steps, test.backend_features, test.options,
        test.soft, test.traces)]

    print(f'1..{len(jobs)}')
    failed = 0
    for number, (name, job) in enumerate(jobs, 1):
        test.found = []
        try:
            job()
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            # The code no longer looks as the test presumes
            test.found.append(f'{type(error).__name__}: {error}')
        failed += bool(test.found)
        print(f'{"not ok" if test.found else "ok"} {number} {name}')
        for line in test.found:
            print(f'# {line}')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
