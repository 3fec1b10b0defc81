"""A Linux guest on a QEMU of the build tree, driven from the host

The host and the guest's first process talk over the second serial port
(see "init"), so that no result depends on the NIC under test.  Everything
that can be waited for has a deadline; when one passes, the error names what
did not happen and the guest's console log.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import glob
import hashlib
import http.server
import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time

from guest import mkinitramfs

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))

# Seconds for a kernel to reach user space.  Emulation takes 3 on an idle
# machine, KVM that works about one
BOOT = 120
PROBE = 10

# The host, as seen by a guest behind user-mode networking
HOST = '10.0.2.2'

# Megabytes of a guest's memory
MEMORY = 512


class Iommu:
    """A virtual IOMMU that a guest's NIC is behind

    device: its device, for QEMU
    command_line: what the guest's kernel is told about it
    domain: type of the domain that this makes the NIC's
    modules: further ones that the guest's kernel needs
    """

    def __init__(self, device, command_line, domain, modules=()):
        self.device = device
        self.command_line = command_line
        self.domain = domain
        self.modules = modules


INTEL = 'intel-iommu,caching-mode=on'
IOMMUS = {
    'intel-strict': Iommu(INTEL, 'intel_iommu=on iommu.passthrough=0 '
                          'iommu.strict=1', 'DMA'),
    'intel-lazy': Iommu(INTEL, 'intel_iommu=on iommu.passthrough=0 '
                        'iommu.strict=0', 'DMA-FQ'),
    'intel-passthrough': Iommu(INTEL, 'intel_iommu=on iommu.passthrough=1',
                               'identity'),
    'virtio': Iommu('virtio-iommu-pci', 'iommu.passthrough=0 iommu.strict=0',
                    'DMA-FQ', ['virtio_iommu']),
    'virtio-strict': Iommu('virtio-iommu-pci',
                           'iommu.passthrough=0 iommu.strict=1', 'DMA',
                           ['virtio_iommu']),
    'virtio-passthrough': Iommu('virtio-iommu-pci', 'iommu.passthrough=1',
                                'identity', ['virtio_iommu']),
}


class GuestError(Exception):
    """Something did not happen as it should; the text is for a person"""


class Closed(GuestError):
    """The other end of a channel went away"""


# Where log() and step() write: not to a standard output that is TAP
REPORT = sys.stdout


class Refused(GuestError):
    """The software device did not do what it was asked for"""


def log(text):
    for line in text.splitlines():
        print(f'   {line}', file=REPORT, flush=True)


def step(text):
    print(f'== {text}', file=REPORT, flush=True)


def handle_signals():
    """Let a request to terminate take the same way out as an error"""
    def terminate(number, _):
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, terminate)


class Channel:
    """A connected socket, read with deadlines"""

    def __init__(self, sock, peer):
        self.sock = sock
        self.peer = peer
        self.buffer = b''

    def _fill(self, end, seconds, what):
        try:
            self.sock.settimeout(max(end - time.monotonic(), 0.001))
            data = self.sock.recv(65536)
        except socket.timeout:
            raise GuestError(f'waited {seconds} s for {what}') from None
        except ConnectionError:
            data = b''
        if not data:
            raise Closed(f'{self.peer} went away while waiting for {what}')
        self.buffer += data

    def line(self, seconds, what):
        """The next line, without its end"""
        end = time.monotonic() + seconds
        while b'\n' not in self.buffer:
            self._fill(end, seconds, what)
        line, self.buffer = self.buffer.split(b'\n', 1)
        return line.decode(errors='replace').rstrip('\r')

    def exactly(self, size, seconds, what):
        """The next size bytes"""
        end = time.monotonic() + seconds
        while len(self.buffer) < size:
            self._fill(end, seconds, what)
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def send(self, text, what):
        try:
            self.sock.settimeout(30)
            self.sock.sendall(text.encode() + b'\n')
        except (OSError, socket.timeout) as error:
            raise Closed(f'{self.peer} did not take {what}: {error}') from None

    def close(self):
        self.sock.close()


class SoftDevice:
    """The control socket of the software vDPA device"""

    def __init__(self, path):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise GuestError('cannot reach the software device on its '
                             f'control socket {path}: {error}') from None
        self.channel = Channel(sock, 'the software device')

    def request(self, text, seconds=10):
        """Send one request; the reply must be a success"""
        self.channel.send(text, f'the request "{text}"')
        reply = json.loads(self.channel.line(
            seconds, f"the software device's reply to \"{text}\""))
        if not reply['ok']:
            raise Refused(f'the software device answered "{text}" with '
                          f'"{reply["error"]}"')
        return reply

    def wait(self, key, operator, value, seconds=20):
        """Wait until a number of the device's statistics compares so"""
        self.request(f'wait {key} {operator} {value} {seconds * 1000}',
                     seconds + 5)

    def stats(self):
        return self.request('stats')

    def while_idle(self, look, seconds=20):
        """Have a look while no frame moves: the statistics, what look() gave

        Repeated until the device's counters are the same before and after.
        """
        end = time.monotonic() + seconds
        before = self.stats()
        while True:
            seen = look()
            after = self.stats()
            if packets(after) == packets(before):
                return after, seen
            if time.monotonic() > end:
                raise GuestError(f'waited {seconds} s for a moment without '
                                 'traffic, to compare counters')
            before = after

    def close(self):
        self.channel.close()


def packets(stats):
    """Packets of each virtqueue, from the statistics of a device"""
    return [vq['packets'] for vq in stats['vqs']]


class Source:
    """An HTTP server on the host's loopback

    Serves one blob of pseudo-random bytes under any path, and remembers
    the SHA-256 of what is sent to it, by path.
    """

    def __init__(self, size, seed=1):
        self.data = random.Random(seed).randbytes(size)
        self.sha256 = hashlib.sha256(self.data).hexdigest()
        self.received = {}
        source = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header('Content-Length', str(len(source.data)))
                self.end_headers()
                self.wfile.write(source.data)

            def do_POST(self):
                left = int(self.headers['Content-Length'])
                digest = hashlib.sha256()
                while left:
                    data = self.rfile.read(min(left, 1 << 16))
                    if not data:
                        return
                    digest.update(data)
                    left -= len(data)
                source.received[self.path] = digest.hexdigest()
                self.send_response(200)
                self.send_header('Content-Length', '0')
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                # A client that went away; what it lacks is its own failure
                pass

        self.server = Server(('127.0.0.1', 0), Handler)
        threading.Thread(target=self.server.serve_forever,
                         daemon=True).start()

    def url(self, path='payload'):
        """Where a guest behind user-mode networking finds the blob"""
        return f'http://{HOST}:{self.server.server_address[1]}/{path}'

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Setup:
    """What all guests of a run share: programs, kernel, logs, accelerator

    Environment: QEMU_BUILD, the directory QEMU was built in; CACHE, where
    downloads are kept; GUEST_LOGS, where logs go; ACCEL, kvm or tcg, to
    have no choice made; SOFT_OPTIONS, further options of the software
    device, such as "--like mlx5"; IOMMU, one of IOMMUS for NICs to be behind,
    whose logs are kept apart.
    """

    def __init__(self, environment=os.environ):
        mode = environment.get('IOMMU', '')
        if mode and mode not in IOMMUS:
            raise GuestError(f'IOMMU={mode}: none of {", ".join(IOMMUS)}')
        self.iommu = IOMMUS.get(mode)
        build = environment.get('QEMU_BUILD') or \
            os.path.join(TOP, 'build/qemu/build')
        home = environment.get('XDG_CACHE_HOME') or \
            os.path.join(os.path.expanduser('~'), '.cache')
        cache = environment.get('CACHE') or \
            os.path.join(home, 'qemu-vhost-vdpa')
        self.logs = environment.get('GUEST_LOGS') or \
            os.path.join(TOP, 'build/logs/guest')
        if mode:
            self.logs = os.path.join(self.logs, mode)

        self.soft_options = shlex.split(environment.get('SOFT_OPTIONS', ''))
        self.qemu = self._program(build, 'qemu-system-x86_64')
        self.soft = os.path.join(build, 'contrib/vdpa-soft/vdpa-soft')
        self.packages = os.path.join(cache, 'guest')
        self._fetch()
        self.firmware = [self._only(pattern) for pattern in
                         ('seabios/usr/share/seabios',
                          'qemu-system-data/usr/share/qemu')]
        self.accel = environment.get('ACCEL')
        self._prepare(cache)

    def _prepare(self, _):
        """Have a kernel, an initramfs and an accelerator"""
        self.kernel = self._only('kernel/boot/vmlinuz-*')
        os.makedirs(self.logs, exist_ok=True)
        # What other devices need comes before the devices
        modules = self.iommu.modules if self.iommu else []
        self.initrd = self.initramfs('initramfs',
                                     [*modules, *mkinitramfs.MODULES])
        self.accel = self.accel or self._choose_accel()

    def initramfs(self, name, modules=(), programs=mkinitramfs.PROGRAMS,
                  files=()):
        """Build an initramfs among the logs: its path"""
        path = os.path.join(self.logs, name)
        try:
            mkinitramfs.build(self.packages, path, modules, programs, files)
        except (mkinitramfs.BuildError, OSError,
                subprocess.CalledProcessError) as error:
            raise GuestError(f'{path} could not be built: {error}') from None
        return path

    @staticmethod
    def _program(build, name):
        path = os.path.join(build, name)
        if not os.access(path, os.X_OK):
            raise GuestError(f'there is no {path}: build it first with '
                             '"make build", or set QEMU_BUILD to the '
                             'directory QEMU was built in')
        return path

    def soft_device(self):
        """Path of the software device's launcher"""
        return self._program(os.path.dirname(self.soft), 'vdpa-soft')

    def _fetch(self):
        result = subprocess.run([os.path.join(HERE, 'fetch'), self.packages],
                                stdout=REPORT, check=False)
        if result.returncode:
            raise GuestError("the guest's packages could not be fetched")

    def _only(self, pattern):
        paths = glob.glob(os.path.join(self.packages, pattern))
        if len(paths) != 1:
            raise GuestError(
                f'{self.packages} holds {len(paths)} files {pattern}, '
                'expected one: remove that directory to fetch it again')
        return paths[0]

    def _choose_accel(self):
        """KVM if a guest really boots with it, found out once a boot

        A /dev/kvm that opens proves little: in a virtual machine without
        working nesting, a guest may hang before its first instruction.
        """
        if not os.access('/dev/kvm', os.R_OK | os.W_OK):
            return 'tcg'
        with open('/proc/sys/kernel/random/boot_id',
                  encoding='ascii') as file:
            key = [file.read().strip(), self.kernel]
        verdict = os.path.join(self.packages, 'kvm')
        try:
            with open(verdict, encoding='utf-8') as file:
                known, works = json.load(file)
            if known == key:
                return 'kvm' if works else 'tcg'
        except (OSError, ValueError):
            pass
        step('trying whether a guest boots with KVM')
        try:
            with Guest(self, 'kvm-probe', [], accel='kvm', cpus=1) as guest:
                guest.boot(PROBE)
            works = True
            log('it does')
        except GuestError as error:
            works = False
            log(f'it does not ({str(error).splitlines()[0]}): emulation is '
                'used instead')
        with open(verdict, 'w', encoding='utf-8') as file:
            json.dump([key, works], file)
        return 'kvm' if works else 'tcg'


class Machine:
    """A Linux system that obeys, in a QEMU whose monitor answers

    agent, monitor: Channels to the two
    """

    def __init__(self, name, agent, monitor):
        self.name = name
        self.agent = agent
        self.monitor = monitor
        self.monitor_ready = False
        self.events = []

    def _explain(self, error):
        """The same error, with what else is known of it"""
        raise NotImplementedError

    def explain(self, text):
        """An error of this text, with what else is known"""
        return self._explain(GuestError(text))

    def boot(self, seconds=BOOT):
        """Wait until the guest obeys"""
        try:
            line = self.agent.line(seconds, "the guest's user space")
            if line != 'ready':
                raise GuestError(f'the guest said "{line}" instead of "ready"')
        except GuestError as error:
            raise self._explain(error) from None

    def tell(self, command):
        """Send a command that will not be answered"""
        try:
            self.agent.send(command, f'the command "{command}"')
        except GuestError as error:
            raise self._explain(error) from None

    def run(self, command, seconds=30):
        """Run a shell command in the guest: its status and its output"""
        self.tell(command)
        return self.answer(command, seconds)

    def answer(self, command, seconds=30):
        """Status and output of a command that was told to the guest"""
        what = f'the end of "{command}" in the guest'
        try:
            answer = self.agent.line(seconds, what).split()
            if answer == ['ready']:
                raise GuestError(f'the guest restarted during "{command}"')
            status, size = map(int, answer)
            output = self.agent.exactly(size, seconds, what)
        except GuestError as error:
            raise self._explain(error) from None
        return status, output.decode(errors='replace').rstrip('\n')

    def check(self, command, seconds=30):
        """Output of a shell command in the guest, which must succeed"""
        self.tell(command)
        return self.check_answer(command, seconds)

    def check_answer(self, command, seconds=30):
        """Output of a command that was told and must succeed"""
        status, output = self.answer(command, seconds)
        if status:
            raise self._explain(GuestError(
                f'"{command}" in the guest gave status {status}: {output}'))
        return output

    def counters(self, nic='eth0'):
        """The guest's own statistics of its NIC"""
        text = self.check(f'cd /sys/class/net/{nic}/statistics && '
                          'grep -H . *')
        return {key: int(value) for key, value in
                (line.split(':') for line in text.splitlines())}

    def fetch(self, source, seconds=120):
        """Have the guest get a blob and check it: milliseconds it took"""
        return self.fetched(source, self.begin_fetch(source, seconds),
                            seconds)

    def begin_fetch(self, source, seconds=120):
        """Have the guest begin to get a blob: what to give to fetched()"""
        command = f'fetch {source.url()} {seconds}'
        self.tell(command)
        return command

    def fetched(self, source, command, seconds=120):
        """Check a blob: milliseconds it took"""
        answer = self.check_answer(command, seconds + 60)
        milliseconds, sha256 = answer.split()
        self.same(sha256, source.sha256)
        return int(milliseconds)

    def same(self, arrived, sent):
        """Compare two checksums"""
        if arrived != sent:
            raise self._explain(GuestError(
                f'data sent with SHA-256 {sent} arrived with {arrived}'))

    def qmp(self, command, seconds=20, **arguments):
        """Ask QEMU's monitor: the value returned"""
        what = f'the monitor to answer "{command}"'
        try:
            if not self.monitor_ready:
                self.monitor_ready = True
                self.monitor.line(seconds, "the monitor's greeting")
                self.qmp('qmp_capabilities')
            self.monitor.send(json.dumps({'execute': command,
                                          'arguments': arguments}), what)
            while True:
                reply = json.loads(self.monitor.line(seconds, what))
                if 'error' in reply:
                    raise GuestError(f'the monitor refused "{command}": '
                                     f'{reply["error"]["desc"]}')
                if 'return' in reply:
                    return reply['return']
                self.events.append(reply)
        except GuestError as error:
            raise self._explain(error) from None

    def event(self, name, seconds=30, **data):
        """Wait for an event with this data, of now or not yet looked at"""
        def wanted(reply):
            return reply.get('event') == name and \
                data.items() <= reply.get('data', {}).items()

        what = f'the event {name} {data}'
        try:
            while not any(map(wanted, self.events)):
                self.events.append(json.loads(
                    self.monitor.line(seconds, what)))
        except GuestError as error:
            raise self._explain(error) from None
        self.events = [reply for reply in self.events if not wanted(reply)]

    def hmp(self, line):
        """Output of a command of the monitor for people"""
        text = self.qmp('human-monitor-command', **{'command-line': line})
        return text.replace('\r\n', '\n').rstrip('\n')


class Guest(Machine):
    """One virtual machine; a context manager, whose end is the guest's

    setup: what it is made from
    name: names its logs
    arguments: further ones for QEMU, such as its NIC's
    launcher: command line that QEMU's is appended to
    append: what its kernel is told besides
    terminal: the console is this process' terminal
    system: what to call it
    """

    system = 'The guest'

    def __init__(self, setup, name, arguments, launcher=(), accel=None,
                 cpus=2, memory=MEMORY, append='', terminal=False):
        ours, agent = self._channel('the guest')
        monitor_here, monitor = self._channel("QEMU's monitor")
        super().__init__(name, ours, monitor_here)
        self.console = os.path.join(setup.logs, f'{name}.console')
        self.messages = os.path.join(setup.logs, f'{name}.stderr')
        accel = accel or setup.accel
        log_to = f'id=console,logfile={self.console}'
        console = (f'stdio,mux=on,signal=off,{log_to}' if terminal else
                   f'null,{log_to}')
        command_line = f'console=ttyS0 panic=-1 mitigations=off {append}'
        if setup.iommu:
            command_line += f' {setup.iommu.command_line}'
            # Only what comes later in the command is behind it
            arguments = ['-device', setup.iommu.device, *arguments]
        command = [
            # QEMU must not outlive this process
            'setpriv', '--pdeathsig', 'KILL', '--',
            *launcher, setup.qemu,
            '-name', name, '-nodefaults', '-no-user-config',
            '-display', 'none',
            '-machine', f'q35,accel={accel},memory-backend=ram',
            '-cpu', 'host' if accel == 'kvm' else 'max',
            '-smp', str(cpus),
            '-object', f'memory-backend-memfd,id=ram,size={memory}M,share=on',
            '-kernel', setup.kernel, '-initrd', setup.initrd,
            '-append', command_line,
            '-chardev', console, '-serial', 'chardev:console',
            '-chardev', f'socket,id=agent,fd={agent.fileno()}',
            '-serial', 'chardev:agent',
            '-chardev', f'socket,id=monitor,fd={monitor.fileno()}',
            '-mon', 'chardev=monitor,mode=control',
            *arguments]
        for directory in setup.firmware:
            command += ['-L', directory]
        if terminal:
            command += ['-mon', 'chardev=console,mode=readline']
        with open(os.path.join(setup.logs, f'{name}.command'), 'w',
                  encoding='utf-8') as file:
            file.write(shlex.join(command) + '\n')
        # What QEMU does to the terminal it undoes itself, unless it is killed
        self.terminal = None
        if terminal and sys.stdin.isatty():
            self.terminal = termios.tcgetattr(sys.stdin)
        if os.path.exists(self.console):
            os.remove(self.console)
        with open(self.messages, 'wb') as messages:
            # pylint: disable=consider-using-with
            self.process = subprocess.Popen(
                command, pass_fds=(agent.fileno(), monitor.fileno()),
                stdin=None if terminal else subprocess.DEVNULL,
                stdout=None if terminal else messages, stderr=messages)
        agent.close()
        monitor.close()

    @staticmethod
    def _channel(peer):
        ours, theirs = socket.socketpair()
        return Channel(ours, peer), theirs

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.terminal:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, self.terminal)
        self.agent.close()
        self.monitor.close()

    def _explain(self, error):
        """The same error, with what is known of QEMU's end and the logs"""
        text = str(error)
        if isinstance(error, Closed):
            try:
                status = self.process.wait(10)
                text = f'QEMU ended with status {status}: {text}'
            except subprocess.TimeoutExpired:
                pass
        said = self.said()
        if said:
            text += f"\nQEMU's messages: {said}"
        if os.path.exists(self.console):
            text += f"\n{self.system}'s console log: {self.console}"
        return GuestError(text)

    def said(self):
        """What QEMU has said"""
        with open(self.messages, encoding='utf-8',
                  errors='replace') as messages:
            return messages.read().strip()

    def wait(self, seconds=None):
        """Wait for QEMU's own end, which must be a good one"""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self._explain(GuestError(
                f'waited {seconds} s for QEMU to end')) from None
        if status:
            raise self._explain(GuestError(
                f'QEMU ended with status {status}'))

    def attach(self):
        """The terminal is the guest's console already"""

    def power_off(self, seconds=60):
        self.tell('poweroff -f')
        self.wait(seconds)


class Nic:
    """A virtio NIC of a guest

    netdev: its netdev, without the id
    pairs: queue pairs
    bus: where it is plugged
    iommu: the one it is behind, or None
    """

    def __init__(self, netdev, pairs=1, bus='pcie.0', iommu=None):
        self.netdev = {'id': 'net0', **netdev}
        self.device = {'driver': 'virtio-net-pci', 'id': 'nic0',
                       'netdev': 'net0', 'bus': bus, 'romfile': ''}
        if pairs > 1:
            self.netdev['queues'] = pairs
            # An interrupt per virtqueue, for control, for configuration
            self.device.update(mq=True, vectors=2 * pairs + 2)
        if iommu:
            self.device.update({'iommu_platform': True,
                                'disable-legacy': 'on'})

    def arguments(self):
        """QEMU's arguments for it"""
        return ['-netdev', json.dumps(self.netdev),
                '-device', json.dumps(self.device)]


class Node:
    """A node of the software device, and the guest's NIC on it

    pairs: queue pairs of the device, all of them used by the guest
    bus: where the NIC is plugged
    options: further ones of the software device
    """

    path = '/dev/vhost-vdpa-0'
    # As made: QEMU gives the device the MAC of the NIC
    mac = '52:54:00:76:64:70'

    def __init__(self, setup, name, pairs=1, bus='pcie.0', options=()):
        # A socket's path must be short, so not among the logs
        self.directory = tempfile.mkdtemp(prefix='vdpa-')
        self.socket = os.path.join(self.directory, 'control')
        self.transcript = os.path.join(setup.logs, f'{name}.transcript')
        if os.path.exists(self.transcript):
            os.remove(self.transcript)
        self.launcher = [setup.soft_device(), 'run',
                         '--control', self.socket,
                         '--transcript', self.transcript,
                         '--queues', str(pairs), '--mac', self.mac,
                         '--wire', 'user', *setup.soft_options, *options, '--']
        self.nic = Nic({'type': 'vhost-vdpa', 'vhostdev': self.path}, pairs,
                       bus, setup.iommu)
        self.device = None

    def connect(self):
        """Open the control socket; QEMU must run by now"""
        self.device = SoftDevice(self.socket)
        return self.device

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.device:
            self.device.close()
        shutil.rmtree(self.directory, ignore_errors=True)
