"""The two QEMUs that are compared, from the same source

"ours" is the grafted tree in build/qemu; "theirs" is QEMU as it is, neither
grafted nor patched, in build/qemu-upstream.  Both are configured and compiled
alike, by scripts/build.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
BUILD = os.path.join(TOP, 'build')
RESULTS = os.path.join(BUILD, 'bench')

# The software device comes from our tree, and serves both
DEVICE = ['contrib/vdpa-soft/vdpa-soft', 'contrib/vdpa-soft/libvdpa-soft.so']
QEMU = 'qemu-system-x86_64'
# What else of our tree the parts of the benchmark use
PROGRAMS = [*DEVICE, 'tests/bench/vhost-vdpa-iotlb-bench',
            'tests/bench/vhost-vdpa-traffic']


class Tree:
    """A QEMU source tree and its build

    name: what tables call it
    source: the source tree
    build: the folder it is compiled in
    """

    def __init__(self, name, folder, options=(), build=None):
        self.name = name
        self.source = os.path.join(BUILD, folder)
        self.build = build or os.path.join(self.source, 'build')
        self._folder = folder
        self._options = options

    def again(self, name):
        """The same one with another name"""
        return Tree(name, self._folder, self._options, self.build)

    def compile(self, *targets):
        """Bring programs up to date"""
        # Nobody wants to know how fast a debug build is
        environment = {key: value for key, value in os.environ.items()
                       if key != 'DEBUG'}
        subprocess.run([os.path.join(TOP, 'scripts', 'build'),
                        *self._options, *targets],
                       stdin=subprocess.DEVNULL, env=environment, check=True)

    def path(self, name):
        """Path of something that was compiled"""
        return os.path.join(self.build, name)

    @property
    def qemu(self):
        """Path of QEMU"""
        return self.path(QEMU)

    def version(self):
        """QEMU's version"""
        with open(os.path.join(self.source, 'VERSION'),
                  encoding='ascii') as file:
            return file.read().strip()


OURS = Tree('ours', 'qemu', build=os.environ.get('QEMU_BUILD'))
THEIRS = Tree('theirs', 'qemu-upstream', ['--upstream'])


def by_turns(runs):
    """(run, tree), so that neither is always the first"""
    pair = [OURS, THEIRS]
    for run in range(runs):
        for tree in pair if run % 2 == 0 else reversed(pair):
            yield run, tree


def use_qemu_modules():
    """Make QEMU's own Python modules importable"""
    path = os.path.join(OURS.source, 'python')
    if path not in sys.path:
        sys.path.insert(0, path)
