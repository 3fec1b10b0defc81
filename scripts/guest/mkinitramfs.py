#!/usr/bin/python3
"""Build the initramfs of a test guest from unpacked Debian packages

The guest holds busybox, the modules asked for with all they depend on, the
programs asked for with their shared libraries, and any further file.  What
was built on this machine may be among the programs.  The initramfs is written
uncompressed: under emulation, the guest would need longer to unpack it than
the host needs to read it.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import argparse
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))

MODULES = ['virtio_pci', 'virtio_net', '8021q']
PROGRAMS = ['ethtool']


class BuildError(Exception):
    """A piece of the guest is missing; the text says which"""


def module_name(path):
    """Name of the module in a file, as modules refer to each other"""
    name = re.sub(r'\.ko(\.xz)?$', '', os.path.basename(path))
    return name.replace('-', '_')


class Modules:
    """The modules of an unpacked kernel package"""

    def __init__(self, kernel):
        # /lib in Debian 12, /usr/lib in Debian 13
        roots = [os.path.join(kernel, lib, 'modules')
                 for lib in ('lib', 'usr/lib')]
        trees = [os.path.join(root, release)
                 for root in roots if os.path.isdir(root)
                 for release in os.listdir(root)]
        if len(trees) != 1:
            raise BuildError(f'{kernel} holds {len(trees)} module trees, '
                             'expected one: remove it to fetch it again')
        self.files = {}
        for folder, _, names in os.walk(trees[0]):
            for name in names:
                if re.search(r'\.ko(\.xz)?$', name):
                    self.files[module_name(name)] = os.path.join(folder, name)
        with open(os.path.join(trees[0], 'modules.builtin'),
                  encoding='ascii') as builtin:
            self.builtin = {module_name(line.strip()) for line in builtin}

    def read(self, name):
        """The module itself, uncompressed"""
        path = self.files[name]
        with (lzma.open if path.endswith('.xz') else open)(path, 'rb') as file:
            return file.read()

    def ordered(self, names):
        """Names and contents of modules, each after those it depends on"""
        order = {}

        def add(name):
            if name in order or name in self.builtin:
                return
            if name not in self.files:
                raise BuildError(f'the kernel has no module {name}')
            content = self.read(name)
            depends = re.search(rb'\0depends=([^\0]*)\0', content)
            for other in depends[1].decode().split(',') if depends else []:
                if other:
                    add(other.replace('-', '_'))
            order[name] = content

        for name in names:
            add(name)
        return order


class Packages:
    """All unpacked packages, to find programs and libraries in"""

    def __init__(self, directory):
        self.directory = os.path.realpath(directory)
        self.files = {}
        for folder, _, names in os.walk(self.directory):
            if f'{os.sep}modules{os.sep}' not in folder:
                for name in names:
                    path = os.path.join(folder, name)
                    self.files.setdefault(name, []).append(path)

    def find(self, name, folders):
        """Path of a file of this name in one of the folders of a system"""
        for path in self.files.get(name, []):
            # An absolute link would lead to a file of this machine
            if re.search(rf'/({folders})$', os.path.dirname(path)) \
                    and os.path.realpath(path).startswith(self.directory):
                return path
        raise BuildError(f'no {name} in the packages of {self.directory}')

    def program(self, name):
        return self.find(name, 's?bin')

    def library(self, name):
        return self.find(name, r'lib(64|/[a-z0-9_]+-linux-gnu)')

    def libraries(self, path, others=None):
        """Paths of all shared libraries that a program needs, by name

        others: {name: path} of libraries that are in no package
        """
        found = {}
        todo = [path]
        while todo:
            text = subprocess.run(['readelf', '-W', '-d', '-l', todo.pop()],
                                  check=True, capture_output=True,
                                  text=True).stdout
            names = re.findall(r'\(NEEDED\).*\[(.*)\]', text)
            names += [os.path.basename(loader) for loader in
                      re.findall(r'program interpreter: (.*)\]', text)]
            for name in names:
                if name not in found:
                    try:
                        found[name] = self.library(name)
                    except BuildError:
                        if name not in (others or {}):
                            raise
                        found[name] = others[name]
                    todo.append(found[name])
        return found


def libraries_here(path):
    """{name: path} of the libraries that a program uses on this machine"""
    text = subprocess.run(['ldd', path], check=False, capture_output=True,
                          text=True).stdout
    return dict(re.findall(r'^\s*(\S+) => (/\S+)', text, re.M))


def install(root, path, target, mode=0o755):
    """Copy a file, following links, to a place below root"""
    target = os.path.join(root, target.lstrip('/'))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(path, target)
    os.chmod(target, mode)


def install_program(root, unpacked, path, target):
    """Copy a program and its libraries"""
    install(root, path, target)
    for library, where in unpacked.libraries(
            path, libraries_here(path)).items():
        # The program interpreter is found by its full path
        folder = 'lib64' if library.startswith('ld-') else 'lib'
        install(root, where, f'{folder}/{library}')


def populate(root, packages, modules, programs, files):
    """Lay out the guest's file system"""
    unpacked = Packages(packages)
    install(root, unpacked.program('busybox'), 'bin/busybox')
    install(root, os.path.join(HERE, 'init'), 'init')
    install(root, os.path.join(HERE, 'functions'), 'functions', 0o644)
    install(root, os.path.join(HERE, 'udhcpc.script'), 'etc/udhcpc.script')

    order = Modules(os.path.join(packages, 'kernel')).ordered(modules) \
        if modules else {}
    os.makedirs(os.path.join(root, 'modules'))
    for name, content in order.items():
        with open(os.path.join(root, 'modules', f'{name}.ko'), 'wb') as file:
            file.write(content)
    with open(os.path.join(root, 'modules/order'), 'w',
              encoding='ascii') as file:
        file.writelines(f'{name}.ko\n' for name in order)

    for name in programs:
        path = name if '/' in name else unpacked.program(name)
        install_program(root, unpacked, path,
                        f'usr/sbin/{os.path.basename(name)}')

    for file in files:
        source, _, target = file.partition('=')
        if not target:
            raise BuildError(f'--file {file}: expected SOURCE=TARGET')
        install(root, source, target,
                0o755 if os.access(source, os.X_OK) else 0o644)


def archive(root, output):
    """Pack the tree below root, owned by root whoever runs this"""
    names = ['.']
    for folder, folders, files in os.walk(root):
        names += [os.path.relpath(os.path.join(folder, name), root)
                  for name in folders + files]
    # Complete or not there at all: another guest may be about to boot it
    partial = f'{output}.{os.getpid()}'
    try:
        with open(partial, 'wb') as file:
            subprocess.run(['cpio', '--quiet', '-o', '-0', '-H', 'newc',
                            '-R', '0:0', '--reproducible'],
                           input='\0'.join(sorted(names)).encode(),
                           stdout=file, cwd=root, check=True)
        os.replace(partial, output)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def build(packages, output, modules=MODULES, programs=PROGRAMS, files=()):
    """Write the initramfs

    programs: names of those in the packages, paths of those that are not
    """
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        populate(root, packages, modules, programs, files)
        archive(root, output)


def main():
    parser = argparse.ArgumentParser(
        description='Build the initramfs of a test guest.')
    parser.add_argument('packages',
                        help='directory filled by the script "fetch"')
    parser.add_argument('output', help='file to write')
    parser.add_argument('--module', action='append', default=[],
                        metavar='NAME', help='a further kernel module')
    parser.add_argument('--program', action='append', default=[],
                        metavar='NAME',
                        help='a further program of the packages')
    parser.add_argument('--file', action='append', default=[],
                        metavar='SOURCE=TARGET', help='a further file')
    args = parser.parse_args()
    try:
        build(args.packages, args.output, [*args.module, *MODULES],
              [*args.program, *PROGRAMS], args.file)
    except (BuildError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f'mkinitramfs: {args.output} not built: {error}')


if __name__ == '__main__':
    main()
