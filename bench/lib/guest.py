"""What a guest does to its machine, as far as a vDPA device notices

Firmware, an operating system that looks for devices, a driver of the
virtio-net device, and hotplug, on QEMU's "pc" machine.  The steps and their
order are those of common guests; what has no effect on guest memory or on the
device is left out.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import struct
import time

from .machine import DEADLINE, NODE, BenchError

MIB = 1 << 20

VGA_SLOT, SHARED_SLOT, NIC_SLOT = 2, 3, 4
# Where the firmware puts BARs
IO_BASE, MEMORY_BASE, ROM_BASE = 0xc000, 0xe0000000, 0xfeb00000

# Registers of a PCI device, of the host bridge, of a capability
COMMAND, BAR0, ROM_BAR, CAPABILITIES = 0x04, 0x10, 0x30, 0x34
COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER = 1, 2, 4
PAM, SMRAM = 0x59, 0x72
CAP_VENDOR, CAP_MSIX = 0x09, 0x11
CFG_COMMON, CFG_NOTIFY, CFG_DEVICE = 1, 2, 4

# Of the modern virtio device's common configuration
(DEVICE_FEATURE_SELECT, DEVICE_FEATURE, DRIVER_FEATURE_SELECT, DRIVER_FEATURE,
 CONFIG_MSIX, DEVICE_STATUS, QUEUE_SELECT, QUEUE_SIZE, QUEUE_MSIX,
 QUEUE_ENABLE, QUEUE_NOTIFY, QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE) = (
     0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x16, 0x18, 0x1a, 0x1c, 0x1e,
     0x20, 0x28, 0x30)
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8

# Features that the driver takes if they are there: checksums, MTU, MAC,
# segmentation, mergeable buffers, status, VERSION_1, ACCESS_PLATFORM
FEATURES = sum(1 << bit for bit in (0, 1, 3, 5, 7, 8, 11, 12, 15, 16, 32, 33))
# With several pairs of queues also a control queue, MQ
MANY_FEATURES = FEATURES | 1 << 17 | 1 << 22
# Commands of the control queue, and the answer of a device that obeys
CTRL_MQ, CTRL_MQ_PAIRS_SET, CTRL_OK = 4, 0, 0

# The memory that the driver's rings and buffers are in
RINGS = 64 * MIB
RING_STRIDE = 64 * 1024
RING_SIZE = 256
HEADER_SIZE = 12
# Flags of descriptors
RING_NEXT, RING_WRITE = 1, 2

# ACPI's registers for memory hotplug
DIMM_SELECT, DIMM_CONTROL, DIMM_EJECT = 0xa00, 0xa14, 8
# ACPI's register for PCI hotplug
PCI_EJECT = 0xae08


def _nic_properties(pairs):
    """Of the NIC, for that many pairs of queues"""
    if pairs == 1:
        return {}
    return {'mq': True, 'vectors': 2 * pairs + 2}


def options(memory, shared=0, slots=0, maximum=0, pairs=1):
    """Options of QEMU for the machine that this module drives

    @memory: bytes of guest memory
    @shared: bytes of memory shared with other guests (ivshmem); 0 for a
             machine without it, and without a graphics card
    @slots, @maximum: how many DIMMs can be added, and up to how many bytes
    @pairs: of queues that the NIC has
    """
    size = f'{memory // MIB}M'
    if slots:
        size += f',slots={slots},maxmem={maximum // MIB}M'
    result = [
        '-nodefaults', '-machine', 'pc,memory-backend=ram', '-m', size,
        '-object', f'memory-backend-memfd,id=ram,size={memory},share=on,'
        'reserve=off',
        '-netdev', f'vhost-vdpa,id=net0,vhostdev={NODE},queues={pairs}',
        '-device',
        f'virtio-net-pci,id=nic0,netdev=net0,romfile=,addr={NIC_SLOT}' +
        ''.join(f',{name}={"on" if value is True else value}'
                for name, value in _nic_properties(pairs).items()),
    ]
    if shared:
        result += [
            '-object',
            f'memory-backend-memfd,id=shared,size={shared},share=on',
            '-device', f'VGA,addr={VGA_SLOT}',
            '-device', f'ivshmem-plain,memdev=shared,addr={SHARED_SLOT}',
        ]
    return result


class Bar:
    """A base address register

    register: its number in the configuration space
    size: bytes
    io: it is in the I/O space
    wide: 64 bits
    address: where it is now
    """

    def __init__(self, register, size, io, wide):
        self.register = register
        self.size = size
        self.io = io
        self.wide = wide
        self.address = None


class Pci:
    """One function of a PCI device, by way of ports CF8 and CFC"""

    def __init__(self, machine, slot, function=0):
        self._machine = machine
        self._where = slot << 11 | function << 8
        self.bars = []

    def _select(self, register):
        address = 1 << 31 | self._where | register & ~3
        self._machine.qtest(f'outl 0xcf8 {address:#x}')
        return 0xcfc + (register & 3)

    def read(self, register, width='l'):
        """Read 1 (b), 2 (w) or 4 (l) bytes"""
        port = self._select(register)
        return int(self._machine.qtest(f'in{width} {port:#x}')[0], 16)

    def write(self, register, value, width='l'):
        """Write 1 (b), 2 (w) or 4 (l) bytes"""
        port = self._select(register)
        self._machine.qtest(f'out{width} {port:#x} {value:#x}')

    def command(self, on=0, off=0):
        """Change bits of the command register

        Returns the nanoseconds that the write took.
        """
        value = self.read(COMMAND, 'w') & ~off | on
        port = self._select(COMMAND)
        return self._machine.timed_qtest(f'outw {port:#x} {value:#x}')

    def size_bars(self):
        """Find out how large each BAR is, as firmware and kernels do"""
        command = self.read(COMMAND, 'w')
        self.write(COMMAND, command & ~(COMMAND_IO | COMMAND_MEMORY), 'w')
        bars = []
        register = BAR0
        while register < BAR0 + 24:
            old = self.read(register)
            self.write(register, 0xffffffff)
            mask = self.read(register)
            self.write(register, old)
            io, wide = bool(mask & 1), mask & 7 == 4
            if mask:
                size = -(mask & (~3 if io else ~15)) & 0xffffffff
                bars.append(Bar(register, size, io, wide))
            register += 8 if wide else 4
        self.write(COMMAND, command, 'w')
        return bars

    def place_bar(self, bar, address):
        """Give a BAR an address"""
        self.write(bar.register, address & 0xffffffff)
        if bar.wide:
            self.write(bar.register + 4, address >> 32)
        bar.address = address

    def capabilities(self):
        """(kind, register) of each capability"""
        register = self.read(CAPABILITIES, 'b')
        while register:
            yield self.read(register, 'b'), register
            register = self.read(register + 1, 'b')

    def bar(self, index):
        """The BAR with that index"""
        return next(bar for bar in self.bars
                    if bar.register == BAR0 + 4 * index)


class Guest:
    """The guest of a Machine

    @cards: whether there are a graphics card and shared memory
    @more: (slot, function) of further PCI devices
    @pairs: of queues that the NIC has
    @observe: called whenever the guest's memory map has changed
    @nic: a Nic in NIC_SLOT, if it is not as usual
    """

    def __init__(self, machine, cards, more=(), pairs=1,
                 observe=lambda: None, nic=None):
        # pylint: disable=too-many-arguments,too-many-positional-arguments
        self._machine = machine
        self._observe = observe
        self.bridge = Pci(machine, 0)
        self.vga = Pci(machine, VGA_SLOT)
        self.shared = Pci(machine, SHARED_SLOT)
        self.nic = nic or Nic(machine, NIC_SLOT, pairs)
        self._devices = [self.nic]
        self._cards = cards
        if cards:
            self._devices += [self.vga, self.shared]
        self._devices += [Pci(machine, *where) for where in more]

    def firmware(self):
        """What firmware does between reset and the boot loader"""
        # Copy itself to RAM, in place of ROM
        self.shadow(True)
        # Give each device its addresses
        io, memory = IO_BASE, MEMORY_BASE
        for device in self._devices:
            device.bars = device.size_bars()
            for bar in sorted(device.bars, key=lambda bar: -bar.size):
                if bar.io:
                    io = -(-io // bar.size) * bar.size
                    device.place_bar(bar, io)
                    io += bar.size
                else:
                    memory = -(-memory // bar.size) * bar.size
                    device.place_bar(bar, memory)
                    memory += bar.size
            device.command(on=COMMAND_IO | COMMAND_MEMORY)
        # Set up system management memory
        self.bridge.write(SMRAM, 0x4a, 'b')
        self.bridge.write(SMRAM, 0x0a, 'b')
        if self._cards:
            # Copy the code in the ROM of the graphics card
            self.vga.write(ROM_BAR, ROM_BASE | 1)
            self.vga.write(ROM_BAR, 0)
        # Protect itself
        self.shadow(False)

    def shadow(self, writable):
        """Make the RAM in place of ROM writable, or not"""
        self.bridge.write(PAM, 0x30 if writable else 0x10, 'b')
        for register in range(PAM + 1, PAM + 7):
            self.bridge.write(register, 0x33 if writable else 0x11, 'b')

    def kernel(self):
        """What a kernel does before it loads drivers: look at all BARs"""
        for device in self._devices:
            device.size_bars()

    def boot(self):
        """From reset to a NIC that works; returns what load() does"""
        self.firmware()
        self.kernel()
        return self.load()

    def load(self):
        """Load the NIC's driver

        Returns the nanoseconds from DRIVER_OK until the device has it.
        """
        taken = self.nic.load()
        self._observe()
        self.nic.send()
        return taken

    def unload(self):
        """Unload the NIC's driver; returns the nanoseconds of the reset"""
        return self.nic.unload()

    def reset(self):
        """What the reset button does; returns the nanoseconds it took"""
        start = time.perf_counter_ns()
        self._machine.qmp('system_reset')
        self._machine.event('RESET')
        return time.perf_counter_ns() - start

    def move_bar(self, device, index, address):
        """Move a BAR as a kernel does: with decoding off meanwhile

        Returns the nanoseconds that turning it off and on took.
        """
        taken = device.command(off=COMMAND_MEMORY)
        self._observe()
        device.place_bar(device.bar(index), address)
        taken += device.command(on=COMMAND_MEMORY)
        self._observe()
        return taken

    def add_dimm(self, slot, size):
        """Plug a DIMM; returns the nanoseconds that it took"""
        self._machine.qmp('object-add', **{
            'qom-type': 'memory-backend-memfd', 'id': f'memory{slot}',
            'size': size, 'share': True, 'reserve': False})
        start = time.perf_counter_ns()
        self._machine.qmp('device_add', driver='pc-dimm', id=f'dimm{slot}',
                          memdev=f'memory{slot}', slot=slot)
        taken = time.perf_counter_ns() - start
        self._observe()
        return taken

    def remove_dimm(self, slot):
        """Unplug a DIMM, with the guest's consent

        Returns the nanoseconds until it was gone.
        """
        start = time.perf_counter_ns()
        self._machine.qmp('device_del', id=f'dimm{slot}')
        self._machine.qtest(f'outl {DIMM_SELECT:#x} {slot:#x}')
        self._machine.qtest(f'outb {DIMM_CONTROL:#x} {DIMM_EJECT:#x}')
        self._machine.event('DEVICE_DELETED', device=f'dimm{slot}')
        taken = time.perf_counter_ns() - start
        self._machine.qmp('object-del', id=f'memory{slot}')
        self._observe()
        return taken

    def add_nic(self):
        """Plug the NIC, whose BARs the guest then places as before"""
        self._machine.qmp('netdev_add', type='vhost-vdpa', id='net0',
                          vhostdev=NODE, queues=self.nic.pairs)
        self._machine.qmp('device_add', driver='virtio-net-pci', id='nic0',
                          netdev='net0', romfile='', addr=f'{NIC_SLOT:x}',
                          **_nic_properties(self.nic.pairs))
        for bar in self.nic.bars:
            self.nic.place_bar(bar, bar.address)

    def remove_nic(self):
        """Unplug the NIC, with the guest's consent"""
        self._machine.qmp('device_del', id='nic0')
        self._machine.qtest(f'outl {PCI_EJECT:#x} {1 << NIC_SLOT:#x}')
        # "info mtree -f" may have left a reference to the PCI device behind
        self._machine.event('DEVICE_DELETED',
                            path='/machine/peripheral/nic0/virtio-backend')
        self._machine.qmp('netdev_del', id='net0')


class Nic(Pci):
    """The virtio-net device and its driver

    @rings: where in guest memory the rings are
    @interrupts: where interrupts go, vector 0 first, if not to a processor
    @node: number of the software device's node

    pairs: of queues; with more than one, there is a control queue, too
    blocked: nanoseconds that the last write of DRIVER_OK took
    ready: when the device had DRIVER_OK, by time.perf_counter_ns()
    """

    def __init__(self, machine, slot, pairs=1, rings=RINGS, interrupts=None,
                 node=0):
        # pylint: disable=too-many-arguments,too-many-positional-arguments
        super().__init__(machine, slot)
        self.pairs = pairs
        self._rings = rings
        self._interrupts = interrupts
        self._node = node
        self._regions = {}
        self._features = 0
        self._multiplier = 0
        self._sent = 0
        self.blocked = self.ready = None

    def _find_regions(self):
        """Look where the parts of the device's configuration are"""
        self._regions = {}
        for kind, register in self.capabilities():
            if kind == CAP_VENDOR:
                part = self.read(register + 3, 'b')
                bar = self.read(register + 4, 'b')
                if part in (CFG_COMMON, CFG_NOTIFY, CFG_DEVICE):
                    self._regions[part] = (self.bar(bar).address +
                                           self.read(register + 8))
                if part == CFG_NOTIFY:
                    self._multiplier = self.read(register + 16)

    def _get(self, field, width):
        address = self._regions[CFG_COMMON] + field
        return int(self._machine.qtest(f'read{width} {address:#x}')[0], 16)

    def _set(self, field, value, width):
        address = self._regions[CFG_COMMON] + field
        return self._machine.timed_qtest(
            f'write{width} {address:#x} {value:#x}')

    def _add_status(self, bits):
        return self._set(DEVICE_STATUS,
                         self._get(DEVICE_STATUS, 'b') | bits, 'b')

    def _negotiate(self):
        features = 0
        for half in (0, 1):
            self._set(DEVICE_FEATURE_SELECT, half, 'l')
            features |= self._get(DEVICE_FEATURE, 'l') << 32 * half
        wanted = FEATURES if self.pairs == 1 else MANY_FEATURES
        self._features = features & wanted
        for half in (0, 1):
            self._set(DRIVER_FEATURE_SELECT, half, 'l')
            self._set(DRIVER_FEATURE,
                      self._features >> 32 * half & 0xffffffff, 'l')
        self._add_status(FEATURES_OK)
        if not self._get(DEVICE_STATUS, 'b') & FEATURES_OK:
            raise BenchError('the NIC refuses the features '
                             f'{self._features:#x}')

    def _enable_msix(self, vectors):
        register = next(register for kind, register in self.capabilities()
                        if kind == CAP_MSIX)
        where = self.read(register + 4)
        table = self.bar(where & 7).address + (where & ~7)
        for vector in range(vectors):
            entry = table + 16 * vector
            address = (0xfee00000 if self._interrupts is None
                       else self._interrupts + 4 * vector)
            self._machine.qtest(f'writel {entry:#x} {address:#x}')
            self._machine.qtest(f'writel {entry + 8:#x} {0x40 + vector:#x}')
            self._machine.qtest(f'writel {entry + 12:#x} 0')
        control = self.read(register + 2, 'w')
        self.write(register + 2, control | 0x8000, 'w')

    def _disable_msix(self):
        for kind, register in self.capabilities():
            if kind == CAP_MSIX:
                control = self.read(register + 2, 'w')
                self.write(register + 2, control & ~0x8000, 'w')

    def _set_up_queue(self, index):
        address = self._rings + index * RING_STRIDE
        # Rings that a former driver used
        self._machine.qtest(f'memset {address:#x} {RING_STRIDE:#x} 0')
        self._set(QUEUE_SELECT, index, 'w')
        self._set(QUEUE_SIZE, RING_SIZE, 'w')
        for field, part in ((QUEUE_DESC, 0), (QUEUE_DRIVER, 0x4000),
                            (QUEUE_DEVICE, 0x8000)):
            self._set(field, address + part, 'l')
            self._set(field + 4, 0, 'l')
        self._set(QUEUE_MSIX, index + 1, 'w')
        self._set(QUEUE_ENABLE, 1, 'w')

    def load(self):
        """All that a driver does up to a device that works

        Returns the nanoseconds from DRIVER_OK until the device has it.
        """
        self.command(on=COMMAND_MEMORY)
        self.command(on=COMMAND_MASTER)
        self._find_regions()
        self._set(DEVICE_STATUS, 0, 'b')
        self._add_status(ACKNOWLEDGE)
        self._add_status(DRIVER)
        self._negotiate()
        queues = 2 * self.pairs + (self.pairs > 1)
        self._enable_msix(1 + queues)
        self._set(CONFIG_MSIX, 0, 'w')
        for index in range(queues):
            self._set_up_queue(index)
        self._sent = 0
        status = self._get(DEVICE_STATUS, 'b') | DRIVER_OK
        start = time.perf_counter_ns()
        self.blocked = self._set(DEVICE_STATUS, status, 'b')
        self._machine.control.wait('status', '&', DRIVER_OK, self._node)
        self.ready = time.perf_counter_ns()
        if self.pairs > 1:
            self._use_all_pairs()
        return self.ready - start

    def _use_all_pairs(self):
        """Tell the device by its control queue to use all pairs of queues"""
        index = 2 * self.pairs
        ring = self._rings + index * RING_STRIDE
        buffer = ring + 0xc000
        # The command, how many pairs, and room for the answer
        command = struct.pack('<BBH', CTRL_MQ, CTRL_MQ_PAIRS_SET, self.pairs)
        self._write(buffer, command + b'\xff')
        self._write(ring,
                    struct.pack('<QIHH', buffer, 2, RING_NEXT, 1) +
                    struct.pack('<QIHH', buffer + 2, 2, RING_NEXT, 2) +
                    struct.pack('<QIHH', buffer + 4, 1, RING_WRITE, 0))
        self._offer(index, 1)
        # A driver polls, too
        end = time.monotonic() + DEADLINE
        while not self._read(ring + 0x8000 + 2, 2):
            if time.monotonic() > end:
                raise BenchError('the control queue of the NIC does not '
                                 f'answer within {DEADLINE} s')
        answer = self._read(buffer + 4, 1)
        if answer != CTRL_OK:
            raise BenchError(f'the NIC answers {answer} when it is to use '
                             f'{self.pairs} pairs of queues')

    def _offer(self, index, count):
        """Make a queue's first descriptor available for the @count-th time"""
        available = self._rings + index * RING_STRIDE + 0x4000
        self._write(available + 4 + 2 * ((count - 1) % RING_SIZE), bytes(2))
        self._write(available + 2, struct.pack('<H', count))
        self._machine.qtest(f'writew {self.doorbell(index):#x} {index:#x}')

    def doorbell(self, index):
        """Where in guest memory a virtqueue is notified"""
        self._set(QUEUE_SELECT, index, 'w')
        return self._regions[CFG_NOTIFY] + (self._get(QUEUE_NOTIFY, 'w') *
                                            self._multiplier)

    def send(self):
        """Send a frame, by the last queue, to see that the device works"""
        index = 2 * self.pairs - 1
        ring = self._rings + index * RING_STRIDE
        buffer = ring + 0xc000
        frame = bytes(HEADER_SIZE) + b'\xff' * 6 + bytes(54)
        self._write(buffer, frame)
        self._write(ring, struct.pack('<QIHH', buffer, len(frame), 0, 0))
        self._sent += 1
        self._offer(index, self._sent)
        self._machine.control.wait(f'vq.{index}.used-idx', '==', self._sent,
                                   self._node)

    def _read(self, address, size):
        words = self._machine.qtest(f'read {address:#x} {size:#x}')
        return int.from_bytes(bytes.fromhex(words[0][2:]), 'little')

    def _write(self, address, data):
        self._machine.qtest(f'write {address:#x} {len(data):#x} '
                            f'0x{data.hex()}')

    def unload(self):
        """All that a driver does at its end

        Returns the nanoseconds that the reset took.
        """
        taken = self._set(DEVICE_STATUS, 0, 'b')
        if self._get(DEVICE_STATUS, 'b'):
            raise BenchError('the NIC does not reset')
        self._disable_msix()
        self.command(off=COMMAND_MASTER)
        return taken
