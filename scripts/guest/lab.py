"""A machine with a real vhost-vDPA, and QEMUs that run in it

The kernel of scripts/kernel runs under emulation, with devices of vdpa_sim,
VDUSE or vp_vdpa. What is to be tested runs in there: QEMU with a guest of its
own, whose kernel is the same and which KVM, emulated as well, makes fast. The
guest and QEMU's monitor are reached through the machine's own network: they
connect to this process.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import termios
import threading
import time
import tty

from guest import mkinitramfs, vm

# Debian's packages of the kernels' source are named after these
KERNELS = ['6.12', '6.1']

# Megabytes of the machine, and of a guest in it
MEMORY = 1536
GUEST_MEMORY = 160

# Whatever the kernel says at this level or a worse one is a failure
WARNING = 4

# Nothing continues after what the kernel itself takes for a bug. The console
# has what is a failure, also of a kernel that cannot be asked any more.
COMMAND_LINE = (f'loglevel={WARNING + 1} panic_on_warn=1 oops=panic '
                'tsc=nowatchdog')
KVM = 'kvm.ignore_msrs=1 kvm.report_ignored_msrs=0'

# Said because emulation is slow
SLOW = re.compile(r'hrtimer: interrupt took |kvm: user requested TSC rate ')

# Whose complaints count while a guest's kernel starts, which also tells what a
# small one lacks, and what is slow
DRIVERS = re.compile(r'virtio|\beth\d|\bvd[a-z]\b')

# A line of a kernel on its console, and the one after which it is not to be
# minded any more
SPOKEN = re.compile(r'\[ *\d+\.\d{6}\] (.*)')
LAST = re.compile(r'reboot: |sysrq: Trigger a crash')

# Programs that move data in the guest, and check them, in C
TOOLS = ['frames', 'blocks']

FIRMWARE = ['bios-256k.bin', 'qboot.rom', 'linuxboot_dma.bin', 'kvmvapic.bin']

# Guests look for further root buses as long as for all else when they start
GUEST_COMMAND_LINE = 'pci=lastbus=0'


class Setup(vm.Setup):
    """What machines of a run share; see there for the environment

    version: of the kernel, one of KERNELS
    programs: paths of further programs that the machine is to have; relative
        ones are QEMU's, where it was built
    name: of the run, whose logs are apart from those of others
    tools: names of further programs in C, which move no data
    files: further ones for the machine, SOURCE=TARGET
    """

    def __init__(self, version='6.12', programs=(), name='lab',
                 environment=os.environ, tools=(), files=()):
        # pylint: disable=too-many-arguments,too-many-positional-arguments
        self.version = version
        self.programs = list(programs)
        self.tools = [*TOOLS, *tools]
        self.files = list(files)
        self.name = name
        self.own_logs = environment.get('GUEST_LOGS')
        # Files that only QEMU needs
        self.made = []
        super().__init__({**environment, 'IOMMU': ''})

    def _prepare(self, cache):
        self.logs = os.path.join(self.own_logs or os.path.dirname(self.logs),
                                 f'kernel-{self.version}', self.name)
        os.makedirs(self.logs, exist_ok=True)
        kernels = os.path.join(os.path.abspath(cache), 'kernel')
        command = [os.path.join(vm.TOP, 'scripts/kernel/build')]
        environment = {**os.environ, 'KERNEL_CACHE': kernels}
        if subprocess.run([*command, self.version], stdout=vm.REPORT,
                          check=False, env=environment).returncode:
            raise vm.GuestError('the kernel could not be built')
        folder = subprocess.run([*command, '--folder', self.version],
                                stdout=subprocess.PIPE, check=True, text=True,
                                env=environment).stdout.strip()
        self.kernel = os.path.join(folder, 'bzImage')
        tools = [f'{self._compile(name)}=/usr/sbin/{name}'
                 for name in self.tools]
        guest = self.initramfs('guest.initramfs', files=tools)
        firmware = [f'{self._firmware(name)}=/firmware/{name}'
                    for name in FIRMWARE]
        programs = [os.path.join(os.path.dirname(self.qemu), program)
                    for program in self.programs]
        self.initrd = self.initramfs(
            'machine.initramfs', (), [self.qemu, 'vdpa', *programs],
            [f'{guest}=/guest.initramfs', f'{self.kernel}=/guest.kernel',
             *tools, *firmware, *self.files])
        # KVM may work here and still not within
        self.accel = 'tcg'
        # The machine's processors have to wait for ours. If it measures the
        # TSC meanwhile, its clock may be wrong by any factor; or right only
        # after a second look, when KVM has already told a guest of the first
        # one: then the guest's timers expire half a minute late
        khz = subprocess.run([self._compile('tsc')], check=True, text=True,
                             capture_output=True).stdout.strip()
        self.clock = f' tsc_early_khz={khz}' if khz else ''

    def _firmware(self, name):
        for folder in self.firmware:
            path = os.path.join(folder, name)
            if os.path.exists(path):
                return path
        raise vm.GuestError(f'no {name} in {" or ".join(self.firmware)}')

    def initramfs(self, name, *arguments, **options):
        """As in the base class"""
        self.made.append(os.path.join(self.logs, name))
        return super().initramfs(name, *arguments, **options)

    def remove(self):
        """Remove what is among the logs but is none, after a success"""
        for path in self.made:
            os.remove(path)
        self.made = []

    def _compile(self, name):
        """Path of one of our programs in C"""
        path = os.path.join(self.logs, name)
        source = os.path.join(vm.HERE, f'{name}.c')
        result = subprocess.run(
            ['gcc', '-static', '-O2', '-Wall', '-Wextra', '-Werror', '-o',
             path, source], check=False, capture_output=True, text=True)
        if result.returncode:
            raise vm.GuestError(f'{source} does not compile: {result.stderr}')
        self.made.append(path)
        return path


class Listener:
    """A place for something in a machine to connect to"""

    def __init__(self, peer):
        self.peer = peer
        self.socket = socket.create_server(('127.0.0.1', 0))
        self.channel = None

    def chardev(self, name):
        """QEMU's argument for a character device that connects"""
        return (f'socket,id={name},host={vm.HOST},'
                f'port={self.socket.getsockname()[1]},nodelay=on')

    def accept(self, seconds):
        """Wait for the peer: a Channel"""
        self.socket.settimeout(seconds)
        try:
            connection, _ = self.socket.accept()
        except socket.timeout:
            raise vm.GuestError(
                f'waited {seconds} s for {self.peer} to connect') from None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.close()
        return vm.Channel(connection, self.peer)

    def close(self):
        self.socket.close()


def kernel_messages(system):
    """Warnings and worse of a system's kernel since the last time"""
    found = []
    for line in system.check('dmesg -r -c').splitlines():
        match = re.match(r'<(\d+)>(?:\[ *[\d.]+\] )?(.*)', line)
        if match and int(match[1]) & 7 <= WARNING and \
                not SLOW.match(match[2]):
            found.append(match[2])
    return found


class Machine(vm.Guest):
    """The machine; a context manager, whose end is the machine's

    setup: a Setup
    name: names its logs
    arguments: further ones for QEMU
    append: what its kernel is told, such as parameters of vdpa_sim
    iommu: whether there is one, which devices with iommu_platform are behind
    """

    system = 'The machine'

    def __init__(self, setup, name, arguments=(), append='', iommu=False):
        self.setup = setup
        nic = ['-netdev', 'user,id=lab',
               '-device', 'virtio-net-pci,netdev=lab,romfile=']
        if iommu:
            # For vhost-vdpa, an IOMMU must keep caches coherent
            nic = ['-device', 'intel-iommu,intremap=on,caching-mode=on,'
                   'snoop-control=on'] + nic
            append += ' intel_iommu=on iommu.passthrough=0'
        super().__init__(setup, name, [*nic, *arguments], accel='tcg',
                         memory=MEMORY,
                         append=f'{COMMAND_LINE}{setup.clock} {KVM} {append}')

    def boot(self, seconds=vm.BOOT):
        """Wait until the machine obeys, and has a network"""
        super().boot(seconds)
        self.check('mkdir -p /dev/shm /dev/hugepages && '
                   'mount -t tmpfs tmpfs /dev/shm')
        self.check('ip addr add 10.0.2.15/24 dev eth0 && '
                   'ip link set eth0 up')
        # Until here, they tell what a small kernel lacks
        kernel_messages(self)

    def vdpa(self, command, seconds=30):
        """Run the vdpa tool"""
        return self.check(f'vdpa {command}', seconds)

    def add_vdpa(self, name, management, *options):
        """Create a vDPA device: the path of its node"""
        self.vdpa(shlex.join(['dev', 'add', 'name', name,
                              'mgmtdev', management, *options]))
        return self.node(name)

    def add_vp_vdpa(self, name, address):
        """Have vp_vdpa drive a NIC of the machine: the path of its node"""
        folder = f'/sys/bus/pci/devices/{address}'
        self.check(f'echo {address} >{folder}/driver/unbind && '
                   f'echo vp-vdpa >{folder}/driver_override && '
                   f'echo {address} >/sys/bus/pci/drivers_probe')
        return self.add_vdpa(name, f'pci/{address}')

    def node(self, name):
        """The path of a vDPA device's node"""
        folder = f'/sys/bus/vdpa/devices/{name}'
        self.check(f'await 10 ls -d {folder}/vhost-vdpa-*', 30)
        found = self.check(f'ls -d {folder}/vhost-vdpa-*')
        return f'/dev/{os.path.basename(found)}'

    def start(self, name, command, memlock='unlimited'):
        """Run a program in the background: its process id

        memlock: kilobytes that it may have locked
        """
        # The shell that reaps it leaves its status to be found
        self.check(
            # A device that pins the guest's memory needs the limit raised
            f'rm -f /tmp/{name}.status; ulimit -l {memlock}; '
            f'{{ {shlex.join(command)} >/tmp/{name}.output 2>&1 & '
            f'echo $! >/tmp/{name}.pid; wait $!; '
            f'echo $? >/tmp/{name}.status.new; '
            f'mv /tmp/{name}.status.new /tmp/{name}.status; }} '
            '>/dev/null 2>&1 & ')
        self.check(f'await 10 test -s /tmp/{name}.pid', 30)
        return int(self.check(f'cat /tmp/{name}.pid'))

    def ended(self, name, seconds):
        """Wait for the end of a program: its status, or None"""
        if self.run(f'await {seconds} test -e /tmp/{name}.status',
                    seconds + 30)[0]:
            return None
        return int(self.check(f'cat /tmp/{name}.status'))

    def output(self, name):
        """What a program has said"""
        return self.check(f'cat /tmp/{name}.output')


class Guest(vm.Machine):
    """A guest on a QEMU in a Machine; a context manager

    machine: where it runs
    name: names its logs
    arguments: further ones for QEMU, such as its NIC's
    memory: megabytes
    shared: whether its memory is, as every device needs that is not hardware
    append: what its kernel is told
    memlock: kilobytes of it that may be locked
    firmware: the default is the quickest
    terminal: whether its console is to be used by attach()
    program: the beginning of the command line, without options of QEMU
    """

    def __init__(self, machine, name, arguments, memory=GUEST_MEMORY,
                 shared=True, append='', memlock='unlimited',
                 firmware='qboot.rom', terminal=False,
                 program=('qemu-system-x86_64',)):
        self.machine = machine
        self.console = os.path.join(machine.setup.logs,
                                    f'{machine.name}-{name}.console')
        listeners = [Listener('the guest'), Listener("QEMU's monitor"),
                     Listener("the guest's console")]
        agent, monitor, console = listeners
        ram = ('memory-backend-memfd,share=on' if shared else
               'memory-backend-ram')
        command = [
            *program, '-name', name,
            '-L', '/firmware', '-bios', firmware,
            '-nodefaults', '-no-user-config', '-display', 'none',
            '-machine', 'q35,accel=kvm,memory-backend=ram',
            # A timer that does not need both to agree on the TSC's frequency
            '-cpu', 'host,tsc-deadline=off',
            '-object', f'{ram},id=ram,size={memory}M',
            '-m', f'{memory}M,slots=4,maxmem=2G',
            '-kernel', '/guest.kernel', '-initrd', '/guest.initramfs',
            '-append', f'console=ttyS0 panic=-1 {COMMAND_LINE} '
            f'{GUEST_COMMAND_LINE} {append}',
            '-chardev', console.chardev('console') + (
                ',mux=on' if terminal else ''),
            '-serial', 'chardev:console',
            # A serial port takes the emulated machine long for each byte
            '-chardev', agent.chardev('agent'),
            '-device', 'virtio-serial-pci,id=serial0,max_ports=2',
            '-device', 'virtserialport,bus=serial0.0,nr=1,chardev=agent',
            '-chardev', monitor.chardev('monitor'),
            '-mon', 'chardev=monitor,mode=control',
            # Unlike the root bus, a port takes and gives back its card
            '-device', 'pcie-root-port,id=port0',
            *arguments]
        if terminal:
            command += ['-mon', 'chardev=console,mode=readline']
        self.process = name
        self.heard = 0
        self.complaints = []
        # What is on the console since boot() or last_words()
        self.spoken = b''
        self.speaks = threading.Condition()
        self.marks = 0
        self.pid = machine.start(name, command, memlock)
        try:
            channels = [self._accept(listener) for listener in
                        (console, agent, monitor)]
        finally:
            for listener in listeners:
                listener.close()
        super().__init__(name, *channels[1:])
        self.log = channels[0]
        self.attached = False
        self.logger = threading.Thread(target=self._log, daemon=True)
        self.logger.start()

    def _accept(self, listener):
        """Wait for a connection of QEMU, or for its early end"""
        start = time.monotonic()
        while True:
            try:
                return listener.accept(1)
            except vm.GuestError:
                status = self.machine.ended(self.process, 0)
                waited = time.monotonic() - start
                if status is not None or waited > 60:
                    raise vm.GuestError(
                        f'waited {waited:.0f} s for {listener.peer} to '
                        'connect\nQEMU in the machine ' +
                        ('goes on' if status is None else
                         f'ended with status {status}') +
                        f'\n{self.machine.output(self.process)}') from None

    def _log(self):
        """Write the console's output down"""
        with open(self.console, 'wb') as file:
            while True:
                try:
                    data = self.log.sock.recv(65536)
                except OSError:
                    return
                if not data:
                    return
                file.write(data)
                file.flush()
                with self.speaks:
                    self.spoken += data
                    self.speaks.notify_all()
                if self.attached:
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()

    def attach(self):
        """Have this terminal be the guest's console until QEMU ends"""
        settings = None
        if sys.stdin.isatty():
            settings = termios.tcgetattr(sys.stdin)
            tty.setraw(sys.stdin)
        self.attached = True
        try:
            keys = threading.Thread(target=self._keys, daemon=True)
            keys.start()
            self.logger.join()
        finally:
            self.attached = False
            if settings:
                termios.tcsetattr(sys.stdin, termios.TCSANOW, settings)

    def _keys(self):
        """Send what is typed to the console"""
        while True:
            try:
                data = os.read(sys.stdin.fileno(), 4096)
                if not data:
                    return
                self.log.sock.sendall(data)
            except OSError:
                return

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            # After a failure, the machine may not answer
            if kind is None and self.machine.ended(self.process, 0) is None:
                self.kill()
        finally:
            self.close()

    def close(self):
        """Let go of the connections"""
        for channel in self.agent, self.monitor, self.log:
            channel.close()

    def _explain(self, error):
        text = [str(error)]
        try:
            if isinstance(error, vm.Closed):
                status = self.machine.ended(self.process, 5)
                text.append('QEMU in the machine ' + (
                    'goes on' if status is None else
                    f'ended with status {status}'))
            said = self.machine.output(self.process)
            if said:
                text.append(f"QEMU's messages: {said}")
            said = kernel_messages(self.machine)
            if said:
                text.append("The machine's kernel said: " + '; '.join(said))
        except vm.GuestError as second:
            text.append(f'Then the machine failed: {second}')
        text.append(f"The guest's console log: {self.console}")
        text.append(f"The machine's console log: {self.machine.console}")
        return vm.GuestError('\n'.join(text))

    def boot(self, seconds=vm.BOOT):
        """Wait until the guest obeys"""
        super().boot(seconds)
        self.complaints += filter(DRIVERS.search, kernel_messages(self))
        # One that restarted cannot be asked for what it said before
        said = self._hear()
        if self.marks > 1:
            self.complaints += said

    def _hear(self):
        """What its kernel said on the console until now, before its last line

        As kernel_messages(), for one that cannot be asked any more.
        """
        self.marks += 1
        mark = f'heard {self.marks}\r\n'.encode()
        self.check(f'echo heard {self.marks} >/dev/console')
        with self.speaks:
            if not self.speaks.wait_for(lambda: mark in self.spoken, 30):
                raise self._explain(vm.GuestError(
                    'waited 30 s for what was written to the console'))
            said, _, self.spoken = self.spoken.partition(mark)
        return self._warnings(said)

    def last_words(self):
        """The same, of one whose QEMU ended"""
        self.logger.join(30)
        if self.logger.is_alive():
            raise self._explain(vm.GuestError(
                "waited 30 s for the end of the guest's console"))
        said, self.spoken = self.spoken, b''
        return self._warnings(said)

    @staticmethod
    def _warnings(said):
        """What there is of a kernel in a console's output"""
        found = []
        for line in said.decode(errors='replace').splitlines():
            match = SPOKEN.match(line)
            if match and LAST.match(match[1]):
                break
            if match and not SLOW.match(match[1]):
                found.append(match[1])
        return found

    def kernel_messages(self):
        """As that function, and what drivers said while the guest started"""
        found = self.complaints + kernel_messages(self)
        self.complaints = []
        return found

    def messages(self):
        """What QEMU has said, but for what was expected"""
        return self.machine.output(self.process)[self.heard:].strip()

    def expect_messages(self, pattern):
        """QEMU must have said what this regular expression matches"""
        said = self.messages()
        if not re.fullmatch(pattern, said, re.DOTALL):
            raise self._explain(vm.GuestError(
                f'QEMU said "{said}" instead of "{pattern}"'))
        self.heard = len(self.machine.output(self.process))

    def wait(self, seconds=60):
        """Wait for QEMU's own end, which must be a good one"""
        status = self.machine.ended(self.process, seconds)
        if status is None:
            raise self._explain(vm.GuestError(
                f'waited {seconds} s for QEMU to end'))
        if status:
            raise self._explain(vm.GuestError(
                f'QEMU ended with status {status}'))

    def kill(self, signal='KILL'):
        """End QEMU at once, and wait until it is gone"""
        self.machine.check(f'kill -{signal} {self.pid}')
        if self.machine.ended(self.process, 30) is None:
            raise self._explain(vm.GuestError(
                f'waited 30 s for QEMU to end by SIG{signal}'))

    def power_off(self, seconds=60):
        """Let the guest end"""
        self.tell('poweroff -f')
        self.wait(seconds)

    def frames(self, count, size=0, nic='eth0', seconds=30, peer=''):
        """Send frames that come back, and check them: what the guest says"""
        return self.check(f'frames {nic} {count} {size} {seconds} {peer}',
                          seconds + 30)


def nic(node, mac=None, **options):
    """QEMU's arguments for a NIC on a node"""
    netdev = {'type': 'vhost-vdpa', 'id': 'net0', 'vhostdev': node}
    device = {'driver': 'virtio-net-pci', 'id': 'nic0', 'netdev': 'net0',
              'bus': 'port0', 'romfile': '', **options}
    if mac:
        device['mac'] = mac
    return netdev, device


def arguments(netdev, device):
    """The same as a command line"""
    return ['-netdev', json.dumps(netdev), '-device', json.dumps(device)]
