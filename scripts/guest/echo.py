"""The other end of a machine's NIC, which sends back what the guest sends

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import itertools
import socket
import struct
import threading

from guest import vm

# See frames.c
ETHER_TYPE = 0x88b5
ADDRESSES = 12
HEADER = 14
SHORTEST = 60
LONGEST = 1514

# Of the program's run, and of the frame
NUMBERS = struct.Struct('<II')

# Precedes each frame on the socket
LENGTH = struct.Struct('!I')


def content(run, number, size):
    """What a frame has after its Ethernet header"""
    states = itertools.accumulate(
        itertools.repeat(None, size - HEADER - NUMBERS.size),
        lambda state, _: (state * 1664525 + 1013904223) & 0xffffffff,
        initial=(number * 2654435761 + run) & 0xffffffff)
    next(states)
    return NUMBERS.pack(run, number) + bytes(state >> 24 for state in states)


class Echo:
    """Checks each frame and sends it back, to where it came from

    Only those of frames.c count. QEMU connects: a machine after the other,
    none of which is to outlive the next one's start.

    mac: the address that it answers for
    """

    def __init__(self, mac):
        self.mac = bytes.fromhex(mac.replace(':', ''))
        self.lock = threading.Lock()
        self.run = None
        self.frames = 0
        self.bytes = 0
        self.failure = None
        self.socket = socket.create_server(('127.0.0.1', 0))
        threading.Thread(target=self._serve, daemon=True).start()

    def netdev(self, name):
        """QEMU's argument for a netdev that connects"""
        port = self.socket.getsockname()[1]
        return (f'stream,id={name},server=off,addr.type=inet,'
                f'addr.host=127.0.0.1,addr.port={port}')

    def said(self):
        """What came of the last run, in the words of frames.c

        Raises GuestError if any frame of this machine was wrong.
        """
        with self.lock:
            if self.failure:
                raise vm.GuestError("what is behind the machine's NIC got "
                                    f'{self.failure}')
            return f'{self.frames} frames, {self.bytes} bytes'

    def _serve(self):
        while True:
            connection, _ = self.socket.accept()
            # After a failure there is another machine
            with self.lock:
                self.failure = None
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY,
                                      1)
                try:
                    self._echo(connection)
                except ConnectionError:
                    # A machine that was ended: nobody waits for the answer
                    pass

    def _echo(self, connection):
        buffer = b''
        while True:
            data = connection.recv(1 << 16)
            if not data:
                return
            buffer += data
            at = 0
            answer = []
            while len(buffer) - at >= LENGTH.size:
                start = at + LENGTH.size
                end = start + LENGTH.unpack_from(buffer, at)[0]
                if end > len(buffer):
                    break
                frame = buffer[start:end]
                at = end
                if int.from_bytes(frame[ADDRESSES:HEADER], 'big') == \
                        ETHER_TYPE:
                    self._look(frame)
                    answer += [LENGTH.pack(len(frame)), frame[6:12],
                               frame[:6], frame[ADDRESSES:]]
            buffer = buffer[at:]
            connection.sendall(b''.join(answer))

    def _look(self, frame):
        failure = None
        run = number = None
        if SHORTEST <= len(frame) <= LONGEST:
            run, number = NUMBERS.unpack_from(frame, HEADER)
            if frame[:6] != self.mac:
                failure = f'frame {number}, which is for {frame[:6].hex(":")}'
            elif frame[HEADER:] != content(run, number, len(frame)):
                failure = f'frame {number} with a wrong content'
        else:
            failure = f'a frame of {len(frame)} bytes'
        with self.lock:
            if run != self.run:
                self.run = run
                self.frames = 0
                self.bytes = 0
            self.frames += 1
            self.bytes += len(frame)
            self.failure = self.failure or failure
