#!/usr/bin/python3
"""Run the tests of the backend, and count

Each Job is one program: a test that speaks TAP, as QEMU's do, counts as many
tests as it reports; any other program counts as one. A program that dies,
hangs, reports fewer tests than it planned or none at all adds a failure.

The last line of the output is "N passed, N failed, N skipped"; the exit
status is 0 if something passed and nothing failed. Logs are kept.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import argparse
import concurrent.futures
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import graft  # noqa: E402

# QEMU's own tests that have to do with virtio-net, vhost or the monitor's
# view of devices, as its meson names them; "qos-test" has the vhost-user ones
QEMU_TESTS = [
    'qtest-x86_64/qom-test',
    'qtest-x86_64/device-introspect-test',
    'qtest-x86_64/qos-test',
    'qtest-x86_64/test-hmp',
    'qtest-x86_64/qmp-cmd-test',
    'qtest-x86_64/virtio-net-failover',
    'qtest-x86_64/virtio-balloon-test',
    'qtest-x86_64/netdev-socket',
    'qtest-x86_64/device-plug-test',
    # address ranges, which vhost and vfio share
    'test-interval-tree',
    'test-resv-mem',
    'test-virtio-dmabuf',
    'test-iov',
]

# Virtual IOMMUs that the guest's NIC is put behind, and the tests run then
GUEST_IOMMUS = {
    'intel-lazy': [],           # all
    'intel-strict': ['upload', 'stop-and-continue', 'rebind', 'mappings',
                     'domains'],
    'intel-passthrough': ['upload', 'bus-mastering', 'mappings'],
    # Lazy, too
    'virtio': ['upload', 'rebind', 'bus-mastering', 'mappings', 'domains'],
    'virtio-strict': ['upload', 'mappings'],
}

# Versions of the kernel whose own vhost-vDPA is tested; the kinds of device
# for scripts/kernel-tests, and the modes for scripts/conformance-tests
KERNELS = {
    '6.12': (['net', 'net-pa', 'net-single', 'blk', 'vp-doorbells', 'vduse'],
             ['va', 'pa', 'single']),
    '6.1': (['net-pa', 'net-single', 'blk', 'vp', 'vduse'], ['pa', 'single']),
}

# Deadlines are QEMU's, and longer: other work may share the machine
DEADLINE_FACTOR = 3
DEADLINE = 300
SANITIZED_FACTOR = 2

# Seconds that the longest jobs take. They begin first, so that none runs on
# when all others are done; nothing else depends on it.
SECONDS = {
    'docs': 120,
    'asan/qtest-x86_64/vhost-vdpa-test': 100,
    'guest': 80,
    'kernel-6.12/vduse': 68,
    'asan/qtest-x86_64/vhost-vdpa-memory-test': 65,
    'qtest-x86_64/qom-test': 65,
    'kernel-6.1/vduse': 64,
    'kernel-6.12/vp-doorbells': 58,
    'asan/qtest-x86_64/vhost-vdpa-iommu-test': 55,
    'qtest-x86_64/vhost-vdpa-test': 55,
    'qtest-x86_64/vhost-vdpa-memory-test': 50,
    'qtest-x86_64/vhost-vdpa-iommu-test': 47,
    'qtest-x86_64/virtio-net-failover': 46,
    'qtest-x86_64/device-introspect-test': 45,
    'kernel-6.12/blk': 44,
    'kernel-6.12/net': 42,
    'kernel-6.12/net-single': 42,
    'kernel-6.12/net-pa': 42,
    'kernel-6.1/blk': 41,
    'kernel-6.1/net-pa': 41,
    'kernel-6.1/net-single': 41,
    'kernel-6.1/vp': 40,
    'guest-intel-lazy': 38,
    'qtest-x86_64/qos-test': 33,
    'guest-intel-strict': 26,
    'qtest-x86_64/test-hmp': 25,
    'asan/qtest-x86_64/vhost-vdpa-large-test': 24,
    'guest-virtio': 22,
    'patches': 22,
    'qtest-x86_64/vhost-vdpa-large-test': 20,
    'kernel-6.12/make-run': 19,
    'guest-virtio-strict': 14,
    'graft': 13,
    'kernel-6.12/conformance-va': 12,
    'asan/test-vhost-vdpa-iotlb': 9,
    'guest-intel-passthrough': 9,
    'qtest-x86_64/qmp-cmd-test': 8,
    'make-run': 7,
    'asan/vdpa-soft-test-node': 7,
}

# What sanitizers say of a thing that they found, the first that is there
SANITIZER_ERRORS = [
    re.compile(r'__ubsan_handle_\w+ .*\n +#\d+ \S+ in .*'),
    re.compile(r'SUMMARY: .*'),
    re.compile(r'.+'),
]
# What they say without having found anything: QEMU's coroutines do tell when
# they switch stacks, and a child may look for leaks while its parent runs
SANITIZER_NOISE = re.compile(
    r"==\d+==WARNING: ASan doesn't fully support makecontext/swapcontext .*\n|"
    r'==\d+==Running thread \d+ was not suspended\. False leaks are .*\n')

TAP_RESULT = re.compile(r'(not )?ok\b\s*(\d+)?\s*-?\s*([^#]*)(?:#\s*(.*))?')
TAP_PLAN = re.compile(r'1\.\.(\d+)\s*(?:#\s*SKIP\b(.*))?$', re.I)


class Job:
    """One program to run

    @name: how the user calls it
    @command: arguments; the first is the program
    @cwd, @env: where it runs, and what is added to the environment
    @tap: whether it speaks TAP
    @deadline: seconds
    @sanitized: whether it, and what it starts, was built with sanitizers;
                each of their reports adds a failure, whatever the program
                makes of it
    """

    def __init__(self, name, command, cwd, env=None, tap=False,
                 deadline=DEADLINE, sanitized=False):
        self.name = name
        self.command = command
        self.cwd = cwd
        self.env = env or {}
        self.tap = tap
        self.deadline = deadline
        self.sanitized = sanitized


def sanitizer_options(folder):
    """The environment in which sanitizers report into a folder

    Not to the standard error, which tests of QEMU have in files of theirs
    """
    # A status that no test expects
    common = f"exitcode=99:log_path='{os.path.join(folder, 'process')}'"
    return {
        # The software device is preloaded, hence ahead of the sanitizer. Its
        # handlers of SIGSEGV and SIGBUS pass on what is not theirs.
        'ASAN_OPTIONS': f'{common}:detect_leaks=1:verify_asan_link_order=0:'
                        'handle_abort=1',
        # gcc's library of this one finds that of the other in its place when
        # it sets the path, and so reports to the standard error. The other
        # is to report as well, therefore, that this one aborts the program.
        'UBSAN_OPTIONS': f'{common}:halt_on_error=1:abort_on_error=1:'
                         'print_stacktrace=1',
    }


class Result:
    """What came of a Job"""

    def __init__(self, job, log):
        self.job = job
        self.log = log
        self.passed = 0
        self.failed = []
        self.skipped = []
        self.bailed = False
        self.seconds = 0

    def count_tap(self, text, ended):
        """Take the counts from TAP output

        @ended: whether the program came to its own end
        """
        plan = None
        seen = 0
        for line in text.splitlines():
            # A subtest is indented; its parent has a line of its own
            match = TAP_PLAN.match(line)
            if match:
                plan = int(match[1])
                if plan == 0:
                    self.skipped.append((match[2] or '').strip() or 'all')
                continue
            if line.startswith('Bail out!'):
                self.failed.append(line.strip())
                self.bailed = True
                continue
            match = TAP_RESULT.match(line)
            if not match:
                continue
            seen += 1
            name = match[3].strip()
            directive = match[4] or ''
            if re.match(r'skip', directive, re.I):
                self.skipped.append(f'{name}: {directive[4:].strip()}')
            elif match[1]:
                if not re.match(r'todo', directive, re.I):
                    self.failed.append(name)
            else:
                self.passed += 1
        if ended and not self.bailed and (plan is None or seen != plan):
            self.failed.append(
                f'{seen} of {"?" if plan is None else plan} tests reported')

    def take_reports(self, folder):
        """Move what sanitizers reported to the log, and count it"""
        with open(self.log, 'a', encoding='utf-8') as log:
            for name in sorted(os.listdir(folder)):
                with open(os.path.join(folder, name), encoding='utf-8',
                          errors='replace') as file:
                    text = SANITIZER_NOISE.sub('', file.read())
                if text.strip():
                    log.write(f'\n# sanitizers on {name}:\n{text}\n')
                    found = [error.search(text) for error in SANITIZER_ERRORS]
                    self.failed.append(' '.join(
                        next(match[0] for match in found if match).split()))
        shutil.rmtree(folder)

    def summary(self):
        """The counts in words"""
        counts = [f'{self.passed} ok']
        if self.failed:
            counts.append(f'{len(self.failed)} not ok')
        if self.skipped:
            counts.append(f'{len(self.skipped)} left out')
        return ', '.join(counts)


def kill(process):
    """End a program and all that it started"""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


class Runner:
    """Runs jobs, a few at a time, and reports as they end"""

    def __init__(self, logs, verbose):
        self.logs = logs
        self.verbose = verbose
        self.results = []
        self.running = {}
        self.lock = threading.Lock()
        self.stopping = False

    def run(self, job):
        """Run one Job to its end"""
        name = re.sub(r'[^\w.-]+', '-', job.name)
        result = Result(job, os.path.join(self.logs, f'{name}.log'))
        reports = os.path.join(self.logs, f'{name}.reports')
        environment = dict(job.env)
        if job.sanitized:
            os.makedirs(reports)
            environment.update(sanitizer_options(reports))
        start = time.monotonic()
        with open(result.log, 'wb') as log:
            head = ' '.join([f'{key}={shlex.quote(value)}'
                             for key, value in environment.items()]
                            + [shlex.quote(word) for word in job.command])
            log.write(f'# cd {job.cwd} && {head}\n'.encode())
            log.flush()
            with self.lock:
                if self.stopping:
                    return result
                try:
                    process = subprocess.Popen(
                        job.command, cwd=job.cwd,
                        env={**os.environ, **environment},
                        stdin=subprocess.DEVNULL, stdout=log,
                        stderr=subprocess.STDOUT, start_new_session=True)
                except OSError as error:
                    result.failed.append(f'cannot run it: {error}')
                    return result
                self.running[process.pid] = process
            try:
                status = process.wait(job.deadline)
            except subprocess.TimeoutExpired:
                status = None
            kill(process)
            with self.lock:
                del self.running[process.pid]
        result.seconds = time.monotonic() - start
        with open(result.log, encoding='utf-8', errors='replace') as log:
            text = log.read()
        if job.sanitized:
            result.take_reports(reports)
        if job.tap:
            result.count_tap(text, status is not None and status >= 0)
        if status is None:
            result.failed.append(f'not done after {job.deadline} seconds')
        elif status < 0 and not result.bailed:
            result.failed.append(f'died of {signal.Signals(-status).name}')
        elif status > 0 and not result.failed:
            result.failed.append(f'exit status {status}')
        elif status == 0 and not job.tap:
            result.passed = 1
        return result

    def report(self, result):
        """Tell the user about a job that ended"""
        word = 'FAIL' if result.failed else 'ok  '
        print(f'{word} {result.job.name}: {result.summary()} '
              f'({result.seconds:.1f} s)')
        for name in result.failed[:20]:
            print(f'     not ok: {name}')
        for name in result.skipped:
            print(f'     left out: {name}')
        if result.failed:
            with open(result.log, encoding='utf-8', errors='replace') as log:
                lines = log.read().splitlines()
            for line in lines[-12:]:
                print(f'     | {line[:200]}')
            print(f'     log: {os.path.relpath(result.log)}')
        elif self.verbose:
            with open(result.log, encoding='utf-8', errors='replace') as log:
                for line in log:
                    if TAP_RESULT.match(line):
                        print(f'     {line.rstrip()}')
        sys.stdout.flush()

    def run_all(self, jobs, parallel):
        """Run all jobs, the longest first, @parallel at a time"""
        jobs = sorted(jobs, key=lambda job: -SECONDS.get(job.name, 0))
        try:
            with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
                futures = [pool.submit(self.run, job) for job in jobs]
                for future in concurrent.futures.as_completed(futures):
                    result = future.result()
                    if not self.stopping:
                        self.results.append(result)
                        self.report(result)
        except KeyboardInterrupt:
            pass

    def stop(self):
        """End what runs: the user interrupted us"""
        with self.lock:
            self.stopping = True
            for process in self.running.values():
                kill(process)


def meson_tests(build):
    """{name: test} as QEMU's meson describes them"""
    path = os.path.join(build, 'meson-info', 'intro-tests.json')
    with open(path, encoding='utf-8') as file:
        return {test['name']: test for test in json.load(file)}


def meson_job(test, build, name=None, env=None):
    """The Job that "meson test" would run"""
    return Job(name or test['name'], test['cmd'], test['workdir'] or build,
               {**test['env'], **(env or {})}, test['protocol'] == 'tap',
               test['timeout'] * DEADLINE_FACTOR)


def own_meson_tests(tests):
    """Names of the tests in our repository, registered or not"""
    names = []
    for path in graft.repository_files():
        match = re.fullmatch(r'tests/unit/(test-[\w-]+)\.c', path)
        if match:
            names.append(match[1])
        match = re.fullmatch(r'tests/qtest/([\w-]+-test)\.c', path)
        if match:
            names.append(f'qtest-x86_64/{match[1]}')
    names += sorted(name for name, test in tests.items()
                    if any(suite.endswith(':vdpa-soft')
                           for suite in test['suite']))
    return names


def own_sources():
    """The paths of our C files"""
    return [path for path in graft.repository_files() if path.endswith('.c')]


def own_objects(build):
    """{path of a C file of ours: [its objects in the build folder]}"""
    objects = {path: [] for path in own_sources()}
    with open(os.path.join(build, 'compile_commands.json'),
              encoding='utf-8') as file:
        for entry in json.load(file):
            path = os.path.relpath(
                os.path.join(entry['directory'], entry['file']),
                os.path.join(build, os.pardir))
            if path in objects:
                objects[path].append(entry['output'])
    return objects


def missing(name, why):
    """A Job that fails and says why, for a test that is not there"""
    return Job(name, ['/bin/sh', '-c', f'echo {shlex.quote(why)}; exit 1'],
               graft.REPOSITORY)


def clang_job(path, objects, build, log):
    """A Job that passes if clang compiled the C file"""
    if not objects:
        return missing(f'clang/{path}', f'nothing compiles {path}')
    source = os.path.join(build, os.pardir, path)
    script = f'ls -l {shlex.join(objects)} || exit\n'
    for name in objects:
        script += (f'test {shlex.quote(name)} -nt {shlex.quote(source)} || '
                   f'{{ echo see {shlex.quote(log)}; exit 1; }}\n')
    return Job(f'clang/{path}', ['/bin/sh', '-c', script], build)


def script_job(name, *arguments, **options):
    """A Job that runs a script of ours"""
    return Job(name, ['/usr/bin/python3', '-B', *arguments],
               graft.REPOSITORY, **options)


def make_jobs(build, logs, wanted):
    """All that "make check" runs, of which @wanted() says which to make"""
    tree = os.path.dirname(build)
    tests = meson_tests(build)
    jobs = []

    def script(name, *arguments, **options):
        if wanted(name):
            jobs.append(script_job(name, *arguments, **options))

    own = own_meson_tests(tests)
    for name in filter(wanted, own + QEMU_TESTS):
        if name not in tests:
            jobs.append(missing(name, f'{name} is not in this build of QEMU'))
            continue
        job = meson_job(tests[name], build)
        if name in QEMU_TESTS and name.startswith('qtest-'):
            # all of it: every machine and device, not a choice of them
            job.command = job.command + ['-m', 'slow']
        jobs.append(job)

    names = [name for name in own if wanted(f'asan/{name}')]
    if names:
        beside = os.path.join(tree, 'build-asan')
        tests = meson_tests(beside)
        for name in names:
            if name not in tests:
                jobs.append(missing(f'asan/{name}',
                                    f'{name} is not registered'))
                continue
            job = meson_job(tests[name], beside, f'asan/{name}')
            job.deadline *= SANITIZED_FACTOR
            job.sanitized = True
            jobs.append(job)
    script('asan/reports', 'scripts/test-sanitizers.py',
           os.path.join(tree, 'build-asan'), tap=True)

    paths = [path for path in own_sources() if wanted(f'clang/{path}')]
    if paths:
        beside = os.path.join(tree, 'build-clang')
        log = os.path.join(os.path.dirname(logs), 'compile-clang.log')
        objects = own_objects(beside)
        jobs += [clang_job(path, objects[path], beside, log)
                 for path in paths]

    script('guest', 'scripts/guest-tests', tap=True, deadline=900)
    for mode, names in GUEST_IOMMUS.items():
        script(f'guest-{mode}', 'scripts/guest-tests', '--iommu', mode, *names,
               tap=True, deadline=900)
    script('make-run', 'scripts/run-guest', deadline=600)
    jobs += [job for some in kernel_jobs().values() for job in some
             if wanted(job.name)]
    script('bench', 'bench/run', '--check', tap=True)
    script('check', 'scripts/test-check.py', tap=True)
    script('conformance', 'scripts/test-conformance.py', tap=True)
    script('graft', 'scripts/test-graft.py', tree, tap=True)
    # It copies tens of thousands of files
    script('patches', 'scripts/patches.py', '--check', tree, deadline=900)
    if wanted('docs'):
        jobs.append(docs_job(build))
    script('docs-and-code', 'scripts/test-docs.py', tap=True)
    checkpatch = os.path.join(tree, 'scripts', 'checkpatch.pl')
    for path in style_files():
        if wanted(f'checkpatch/{path}'):
            jobs.append(style_job(path, checkpatch, logs))
    return jobs


def kernel_jobs():
    """{version: [the Jobs that need that kernel]}"""
    jobs = {}
    for version, (kinds, modes) in KERNELS.items():
        arguments = ['--kernel', version]
        jobs[version] = [
            script_job(f'kernel-{version}/{kind}', 'scripts/kernel-tests',
                       *arguments, kind, tap=True) for kind in kinds]
        jobs[version] += [
            script_job(f'kernel-{version}/conformance-{mode}',
                       'scripts/conformance-tests', *arguments, mode, tap=True)
            for mode in modes]
    version = next(iter(KERNELS))
    jobs[version].append(script_job(
        f'kernel-{version}/make-run', 'scripts/run-guest',
        env={'WHERE': 'kernel-lab'}))
    return jobs


def docs_job(build):
    """A Job that makes the manual, the rest of QEMU's build, and looks at it

    It takes one processor more than a minute, hence beside the tests.
    """
    lock = os.path.join(graft.REPOSITORY, 'build', '.lock')
    script = ('flock "$0" ninja -C "$1" && '
              'exec /usr/bin/python3 -B scripts/check-docs.py "$1"')
    return Job('docs', ['/bin/sh', '-c', script, lock, build],
               graft.REPOSITORY, deadline=1800)


def workers(processors):
    """How many jobs to run at a time

    Many of them wait half of the time, for a guest or for QEMU.
    """
    return processors + (processors + 1) // 2


def style_job(path, checkpatch, logs):
    """A Job that passes if checkpatch.pl finds nothing in the file"""
    folder = graft.REPOSITORY
    name = path
    if re.match(r'contrib/[^/]+/tests/', path):
        # checkpatch.pl allows g_assert_cmpint() and the like in a test, but
        # only knows QEMU's own folders of tests
        name = os.path.join('tests', 'unit', os.path.basename(path))
        folder = os.path.join(logs, 'style')
        os.makedirs(os.path.join(folder, os.path.dirname(name)),
                    exist_ok=True)
        shutil.copy(os.path.join(graft.REPOSITORY, path),
                    os.path.join(folder, name))
    return Job(f'checkpatch/{path}',
               ['perl', checkpatch, '--no-tree', '--terse', '--no-signoff',
                '--file', name], folder)


def style_files():
    """Files whose style QEMU's checkpatch.pl can judge"""
    paths = graft.repository_files()
    for folder in ('scripts', 'bench'):
        for base, folders, names in os.walk(os.path.join(graft.REPOSITORY,
                                                         folder)):
            folders[:] = [name for name in folders if name != '__pycache__']
            paths += [os.path.relpath(os.path.join(base, name),
                                      graft.REPOSITORY) for name in names]
    return sorted(path for path in paths
                  if path.endswith(('.c', '.h', '.py', '.sh')))


def list_targets(kind, build, wanted):
    """What ninja shall make in the build folder of that kind"""
    if kind == 'clang':
        objects = own_objects(build)
        return [name for path in own_sources() if wanted(f'clang/{path}')
                for name in objects[path]]
    tests = meson_tests(build)
    names = set()
    for name in own_meson_tests(tests):
        if name in tests and wanted(f'asan/{name}'):
            names.add(os.path.relpath(tests[name]['cmd'][0], build))
            names.update(targets_of(build, tests[name]['depends']))
    if wanted('asan/reports'):
        names.update(['qemu-system-x86_64', 'contrib/vdpa-soft/vdpa-soft',
                      'contrib/vdpa-soft/libvdpa-soft.so'])
    return sorted(names)


def needed(kind, build, wanted):
    """Whether a test that is wanted needs the build of that kind"""
    if kind == 'clang':
        return any(wanted(f'clang/{path}') for path in own_sources())
    return any(wanted(f'asan/{name}')
               for name in ['reports', *own_meson_tests(meson_tests(build))])


def targets_of(build, identities):
    """Paths of the files that meson's targets make"""
    path = os.path.join(build, 'meson-info', 'intro-targets.json')
    with open(path, encoding='utf-8') as file:
        for target in json.load(file):
            if target['id'] in identities:
                for name in target['filename']:
                    yield os.path.relpath(name, build)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--build', required=True,
                        help='build folder in a grafted QEMU tree')
    parser.add_argument('--needs', metavar='KIND',
                        help='only say, by the exit status, whether a build '
                             'of that kind (clang, asan) is needed as well')
    parser.add_argument('--list-targets', metavar='KIND',
                        help='only print what to compile in such a build')
    parser.add_argument('--list-kernels', action='store_true',
                        help='only print which versions are needed')
    parser.add_argument('--logs', help='where logs go')
    parser.add_argument('--parallel', type=int, default=os.cpu_count(),
                        help='how many processors to keep busy')
    parser.add_argument('--only', default='',
                        help='run only the jobs whose name contains this, '
                             'or matches it as a shell pattern')
    parser.add_argument('--verbose', action='store_true')
    args = parser.parse_args()

    def wanted(name):
        return args.only in name or fnmatch.fnmatch(name, args.only)

    args.build = os.path.abspath(args.build)
    if args.needs:
        sys.exit(0 if needed(args.needs, args.build, wanted) else 1)
    if args.list_kernels:
        print('\n'.join(version for version, jobs in kernel_jobs().items()
                        if any(wanted(job.name) for job in jobs)))
        return
    if args.list_targets:
        print('\n'.join(list_targets(args.list_targets, args.build, wanted)))
        return
    args.logs = os.path.abspath(args.logs)
    shutil.rmtree(args.logs, ignore_errors=True)
    os.makedirs(args.logs)
    jobs = make_jobs(args.build, args.logs, wanted)
    runner = Runner(args.logs, args.verbose)

    def interrupted(*_):
        runner.stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    runner.run_all(jobs, workers(max(1, args.parallel)))

    passed = sum(result.passed for result in runner.results)
    failed = sum(len(result.failed) for result in runner.results)
    skipped = sum(len(result.skipped) for result in runner.results)
    if runner.stopping:
        print('interrupted: not all tests were run')
    bad = [result.job.name for result in runner.results if result.failed]
    if bad:
        print('failed: ' + ' '.join(bad))
    print(f'{passed} passed, {failed} failed, {skipped} skipped')
    sys.exit(0 if passed and not failed and not runner.stopping else 1)


if __name__ == '__main__':
    main()
