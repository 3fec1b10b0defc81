"""What a device was told about memory, and what it had to be told

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import re

from .machine import BenchError

# A line of "info mtree -f" about memory that a device can reach
RAM_LINE = re.compile(
    r'  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (ram|nv-ram|rom)\): '
    r'(.*?)(?: @([0-9a-f]{16}))?(?: KVM)?$')
PAGE = 4096


class Extent:
    """Guest memory that one message can map

    first, last: guest physical addresses, both inclusive
    what: tells which bytes of which memory this is, and the permission; two
          neighbours with the same one are one
    """

    def __init__(self, first, last, what):
        self.first = first
        self.last = last
        self.what = what


def guest_memory(machine):
    """The guest's memory as QEMU's "info mtree" shows it, [Extent]"""
    extents = []
    for view in machine.hmp('info mtree -f').split('FlatView #')[1:]:
        if re.search(r'^ AS "memory"', view, re.M):
            break
    else:
        raise BenchError('"info mtree -f" shows no address space "memory"')
    for line in view.splitlines():
        match = RAM_LINE.match(line)
        if not match:
            continue
        first, last = int(match[1], 16), int(match[2], 16)
        if first % PAGE or (last + 1) % PAGE:
            continue
        what = (match[4], int(match[5] or '0', 16) - first, match[3] == 'rom')
        if extents and extents[-1].last + 1 == first and \
                extents[-1].what == what:
            extents[-1].last = last
        else:
            extents.append(Extent(first, last, what))
    return extents


def pieces(before, after):
    """Cut two lists of Extents where either has a boundary

    Yields (bytes, what before, what after, address), ascending; None stands
    for no memory.
    """
    cuts = sorted({cut for extent in before + after
                   for cut in (extent.first, extent.last + 1)})

    def at(extents, address):
        """What is at the address; asked in ascending order"""
        while extents and extents[0].last < address:
            extents.pop(0)
        if extents and extents[0].first <= address:
            return extents[0].what
        return None

    before, after = list(before), list(after)
    for first, end in zip(cuts, cuts[1:]):
        old, new = at(before, first), at(after, first)
        if old is not None or new is not None:
            yield end - first, old, new, first


class Floor:
    """The least that the uAPI lets a client do

    An ideal client knows the future.  It sends nothing that takes effect
    before the device can access memory: while the device has DRIVER_OK and
    the guest runs, all of the guest's memory is mapped, and nothing else.
    From one such moment to the next it sends one UPDATE for each run of
    memory that is new, because that is what one UPDATE can name, and one
    INVALIDATE for each run of memory that went away, which may have holes
    but nothing that stays.  A reset of a driver without IOTLB_PERSIST costs
    one INVALIDATE, of everything, and all UPDATEs again.  Batch markers are
    optional in the uAPI, and not counted.

    persist: whether mappings outlive a reset
    """

    def __init__(self, persist):
        self._persist = persist
        self._mapped = []
        self._lost = False
        self._figures = {}
        self.take()

    def take(self):
        """{name: number} of what was necessary since the last time"""
        taken = self._figures
        self._figures = {'messages': 0, 'bytes_mapped': 0,
                         'bytes_unmapped': 0}
        return taken

    def reset(self):
        """The device is reset"""
        self._lost = not self._persist

    def close(self):
        """The device is closed, which unmaps everything, and opened again"""
        self._mapped = []
        self._lost = False

    def observe(self, memory):
        """The device can access memory, and the guest's is [Extent]"""
        figures = self._figures
        if self._lost and self._mapped:
            figures['messages'] += 1
            figures['bytes_unmapped'] += sum(extent.last - extent.first + 1
                                             for extent in self._mapped)
            self._mapped = []
        self._lost = False
        going = False
        end = coming = None
        for size, old, new, first in pieces(self._mapped, memory):
            if old == new:
                going, coming = False, None
                continue
            if old is not None:
                figures['bytes_unmapped'] += size
                figures['messages'] += not going
                going = True
            if new is not None:
                figures['bytes_mapped'] += size
                figures['messages'] += new != coming or first != end
            coming, end = new, first + size
        self._mapped = memory


class Tally:
    """What was sent, from the transcript of the software device

    messages: all IOTLB messages
    updates, invalidates, markers: of these, by kind
    failed: of these, refused
    ioctls: all other calls
    bytes_mapped, bytes_unmapped: in messages that were not refused
    """

    def __init__(self):
        self.messages = self.updates = self.invalidates = self.markers = 0
        self.failed = self.ioctls = 0
        self.bytes_mapped = self.bytes_unmapped = 0

    def add(self, calls, device):
        """Count calls, and tell them to the Device"""
        for call in calls:
            name = call['call']
            if name == 'CLOSE':
                device.close()
            if not name.startswith('IOTLB_'):
                self.ioctls += name not in ('OPEN', 'CLOSE', 'MMAP')
                continue
            self.messages += 1
            if call['ret'] < 0:
                self.failed += 1
                continue
            arguments = call['args']
            if name == 'IOTLB_UPDATE':
                self.updates += 1
                self.bytes_mapped += device.map(**arguments)
            elif name == 'IOTLB_INVALIDATE':
                self.invalidates += 1
                self.bytes_unmapped += device.unmap(**arguments)
            else:
                self.markers += 1


class Phase:
    """What a part of QEMU's life cost

    name: what it was
    figures: {name: number}; those of Tally, and those of Floor with "floor_"
             before the name
    """

    def __init__(self, name, figures):
        self.name = name
        self.figures = figures

    @classmethod
    def sum(cls, name, phases):
        """All phases together"""
        return cls(name, {key: sum(phase.figures[key] for phase in phases)
                          for key in phases[0].figures})


class Device:
    """What the device can reach

    peak: most bytes ever mapped at a time, which is what a device that pins
          memory would have pinned
    """

    def __init__(self):
        self._entries = {}
        self._bytes = 0
        self.peak = 0

    def map(self, asid, iova, size, uaddr, perm, **_):
        """A message IOTLB_UPDATE; returns the bytes mapped"""
        entries = self._entries.setdefault(asid, {})
        entries[iova] = (iova + size - 1, uaddr, perm)
        self._bytes += size
        self.peak = max(self.peak, self._bytes)
        return size

    def unmap(self, asid, iova, size, **_):
        """A message IOTLB_INVALIDATE; returns the bytes unmapped"""
        entries = self._entries.get(asid, {})
        last = iova + size - 1
        gone = [first for first, (end, _, _) in entries.items()
                if first <= last and end >= iova]
        total = sum(entries[first][0] - first + 1 for first in gone)
        for first in gone:
            del entries[first]
        self._bytes -= total
        return total

    def close(self):
        """Nobody has the device open any more"""
        self._entries = {}
        self._bytes = 0

    def difference(self, memory):
        """(bytes of guest memory that it cannot reach, bytes too many)

        @memory: the guest's memory, [Extent]
        """
        mapped = [Extent(first, last, True) for first, (last, _, _)
                  in sorted(self._entries.get(0, {}).items())]
        wanted = [Extent(extent.first, extent.last, True)
                  for extent in memory]
        missing = excess = 0
        for size, have, want, _ in pieces(mapped, wanted):
            missing += size if not have else 0
            excess += size if not want else 0
        return missing, excess


class Account:
    """What a QEMU's life costs, and what it has to

    @persist: whether mappings outlive a reset

    phases: [Phase] so far
    missing: most bytes of guest memory that a running device could not reach
    excess: most bytes that it could reach and should not
    """

    def __init__(self, persist):
        self._machine = None
        self._floor = Floor(persist)
        self._device = Device()
        self._tally = Tally()
        self.phases = []
        self.missing = self.excess = 0

    def begin(self, machine):
        """It is about this Machine"""
        self._machine = machine

    def reset(self):
        """The device was reset, which begins what comes"""
        self._floor.reset()

    def close(self):
        """The device was closed, before what comes"""
        self._floor.close()

    def observe(self):
        """The device can access memory, which may have changed"""
        self._read()
        memory = guest_memory(self._machine)
        self._floor.observe(memory)
        missing, excess = self._device.difference(memory)
        self.missing = max(self.missing, missing)
        self.excess = max(self.excess, excess)

    def end_phase(self, name):
        """What happened since the end of the former phase is a Phase"""
        self._read()
        floor = self._floor.take()
        self.phases.append(Phase(name, {
            **vars(self._tally),
            **{f'floor_{key}': value for key, value in floor.items()}}))
        self._tally = Tally()

    @property
    def peak(self):
        """Most bytes mapped at a time"""
        return self._device.peak

    def _read(self):
        """Take in what was sent"""
        calls = self._machine.transcript.new()
        self._tally.add(calls, self._device)
