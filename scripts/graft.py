#!/usr/bin/python3
"""Put the vhost-vdpa backend into a QEMU 10.0 source tree, or take it out

What the graft does to a tree is all in the tables below:

  - REMOVED files, QEMU's own vhost-vdpa code, are deleted;
  - files under the FOLDERS of this repository are copied to the same path
    (REPLACED names those that QEMU has a file of its own for);
  - SHARED files, which belong to the whole of QEMU, are edited: each Edit
    replaces QEMU's vhost-vdpa lines, or adds lines beside a known one.

The new lines of a shared file are in the file of the same path in this
repository. Where a file needs several edits, or commentary, it is cut into
parts by lines such as "# graft: NAME"; what comes before the first of them
is commentary. Without such a line the whole file is the one part.

Small improvements of other QEMU files are no part of the graft, but patches
of their own in patches/. With --patches those that fit the tree are applied,
and taken out again, together with it.

The originals and a manifest are kept in the tree, in .vhost-vdpa-graft, so
that --undo gives back the tree byte for byte, and so that a second graft
starts from the originals. Files that do not change are not written, which
keeps a build in the tree up to date.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STATE = '.vhost-vdpa-graft'
SERIES = '10.0'
# From this patch level on, a version is a development snapshot of the next
DEVELOPMENT = 50
HASHES = 'scripts/graft.sha256'
PATCHES = 'patches'

REMOVED = [
    'hw/virtio/vhost-iova-tree.c',
    'hw/virtio/vhost-iova-tree.h',
    'hw/virtio/vhost-shadow-virtqueue.c',
    'hw/virtio/vhost-shadow-virtqueue.h',
    'hw/virtio/vhost-vdpa.c',
    'include/hw/virtio/vhost-vdpa.h',
    'net/vhost-vdpa.c',
]

REPLACED = [
    'docs/interop/vhost-vdpa.rst',
    'include/net/vhost-vdpa.h',
    'net/vhost-vdpa-stub.c',
]

FOLDERS = ['contrib', 'docs', 'hw', 'include', 'net', 'tests']


class GraftError(Exception):
    """Why a tree is refused, as one sentence for the user"""


class Edit:
    """One change to a shared file

    @part: name of the lines that go in, or None if lines only go away
    @start: the whole text of the line at which the edit begins
    @end: pattern of the first line after what is replaced
    @where: 'replace', 'before' or 'after'
    """

    def __init__(self, part, start, end=None, where='replace'):
        self.part = part
        self.start = start
        self.end = end
        self.where = where

    def apply(self, path, lines, new):
        """Return @lines of the file @path with the lines @new put in"""
        found = [i for i, line in enumerate(lines)
                 if line.rstrip('\n') == self.start]
        if len(found) != 1:
            raise GraftError(
                f'its {path} is not as in QEMU {SERIES}: expected one line '
                f'"{self.start.strip()}", found {len(found)}')
        first = found[0]
        if self.where == 'before':
            return lines[:first] + new + ['\n'] * bool(new) + lines[first:]
        if self.where == 'after':
            return lines[:first + 1] + new + lines[first + 1:]
        last = first + 1
        if self.end:
            while last < len(lines) and not re.match(self.end, lines[last]):
                last += 1
            while lines[last - 1] == '\n':
                last -= 1
        return lines[:first] + new + lines[last:]


class Rename:
    """Take one word out of a line of a shared file"""

    part = None

    def __init__(self, start, result):
        self.start = start
        self.result = result

    def apply(self, path, lines, new):
        """Like Edit.apply()"""
        return Edit(None, self.start).apply(path, lines, [self.result + '\n'])


# An Edit without where= replaces: from the line given to the one before the
# first that matches the pattern
SHARED = {
    'MAINTAINERS': [
        Edit('vhost-vdpa', 'vhost-shadow-virtqueue', r'\n'),
    ],
    'docs/system/device-emulation.rst': [
        Edit('vhost-vdpa', '   devices/vhost-user-rng.rst', where='after'),
    ],
    'hw/virtio/meson.build': [
        Rename("  specific_virtio_ss.add(files('vhost-backend.c', "
               "'vhost-iova-tree.c'))",
               "  specific_virtio_ss.add(files('vhost-backend.c'))"),
        Edit('vhost-vdpa', '  if have_vhost_vdpa', r'else'),
    ],
    'hw/virtio/trace-events': [
        Edit('vhost-vdpa', '# vhost-vdpa.c', r'\n'),
    ],
    'meson.build': [
        Edit('vdpa-soft', "subdir('scripts')", where='before'),
    ],
    'net/trace-events': [
        Edit('vhost-vdpa', '# vhost-vdpa.c', r'\n'),
    ],
    'qapi/net.json': [
        Edit('queues', '# @queues: number of queues to be created for '
             'multiqueue vhost-vdpa', r'#\n'),
    ],
    'qapi/virtio.json': [
        Edit('events', "  'data': { 'unused-iothread-vq-mapping': "
             "['IOThreadVirtQueueMapping'] } }", where='after'),
    ],
    'qemu-options.hx': [
        Edit('help', '    "-netdev vhost-vdpa,id=str[,vhostdev=/path/to/dev]'
             '[,vhostfd=h]\\n"', r'#endif'),
        Edit('manual', '``-netdev vhost-vdpa[,vhostdev=/path/to/dev]'
             '[,vhostfd=h]``', r'``-netdev hubport'),
    ],
    'tests/bench/meson.build': [
        Edit('benchmarks', 'benchs = {}', where='before'),
    ],
    'tests/qtest/meson.build': [
        Edit('tests', 'qtest_executables = {}', where='before'),
        Edit('environment', "  qtest_env.set('PYTHON', python.full_path())",
             where='before'),
    ],
    'tests/unit/meson.build': [
        Edit('tests', 'test_env = environment()', where='before'),
    ],
}

PART = re.compile(r'(?:#|\.\.|HXCOMM) graft: (\S+)\n')


def read(path):
    """Content of a file as bytes, or None if there is none"""
    try:
        with open(path, 'rb') as file:
            return file.read()
    except FileNotFoundError:
        return None


def digest(content):
    """SHA-256 of bytes as hexadecimal digits; None stays None"""
    return None if content is None else hashlib.sha256(content).hexdigest()


def repository_files(repository=REPOSITORY):
    """The paths of all files that are ours as a whole"""
    paths = []
    for folder in FOLDERS:
        for base, folders, names in os.walk(os.path.join(repository, folder)):
            folders[:] = sorted(name for name in folders
                                if name[0] != '.' and name != '__pycache__')
            for name in sorted(names):
                path = os.path.relpath(os.path.join(base, name), repository)
                if name[0] in '.#' or name.endswith(('~', '.orig', '.rej',
                                                     '.pyc')):
                    continue
                if path not in SHARED:
                    paths.append(path)
    return paths


def shared_parts(path, repository=REPOSITORY):
    """Our lines of the shared file @path: {part: lines}, {} if there are none

    A file that is not cut into parts has one with the name None.
    """
    content = read(os.path.join(repository, path))
    if content is None:
        return {}
    parts = {}
    current = None
    lines = content.decode('utf-8').splitlines(keepends=True)
    if not any(PART.fullmatch(line) for line in lines):
        parts[None] = lines
    for line in lines:
        match = PART.fullmatch(line)
        if match:
            current = parts.setdefault(match[1], [])
        elif current is not None:
            current.append(line)
    for lines in parts.values():
        while lines and lines[-1] == '\n':
            lines.pop()
    return parts


def edited(path, original, repository=REPOSITORY, only=None):
    """Content of the shared file @path after our edits

    @original: bytes of QEMU's file
    @only: None, or a predicate of a part's name (None for an edit that only
           takes lines away): which edits to make
    """
    parts = shared_parts(path, repository)
    lines = original.decode('utf-8').splitlines(keepends=True)
    for edit in SHARED[path]:
        if only and not only(edit.part):
            continue
        new = []
        if edit.part:
            if edit.part in parts:
                new = parts[edit.part]
            elif None in parts and len(SHARED[path]) == 1:
                new = parts[None]
            elif edit.where != 'replace':
                continue
        lines = edit.apply(path, lines, new)
    return ''.join(lines).encode('utf-8')


def applied(patch, original):
    """Files after a patch in "git format-patch" form, None if it does not fit

    @patch: its text
    @original: function that returns the content of a file before it
    """
    files = {}
    path = old = new = None

    def finish():
        """Replace the lines of one hunk, which must be there once"""
        if old is None:
            return True
        lines = files[path]
        found = [i for i in range(len(lines) - len(old) + 1)
                 if lines[i:i + len(old)] == old]
        if len(found) == 1:
            files[path] = (lines[:found[0]] + new +
                           lines[found[0] + len(old):])
        return len(found) == 1

    for line in patch.splitlines(keepends=True):
        if line.startswith(('diff --git ', '@@ ')):
            if not finish():
                return None
            old = new = None
            if line[0] == '@':
                old, new = [], []
        elif old is not None:
            if line[0] in ' -':
                old.append(line[1:])
            if line[0] in ' +':
                new.append(line[1:])
        elif line.startswith('+++ b/'):
            path = line[len('+++ b/'):].rstrip('\n')
            content = original(path)
            if content is None:
                return None
            files[path] = content.decode('utf-8').splitlines(keepends=True)
    if not finish():
        return None
    return {name: ''.join(lines).encode('utf-8')
            for name, lines in files.items()}


def improvements(tree):
    """[(path of a patch, {file: content after it})] for those that fit"""
    result = []
    contents = {}
    folder = os.path.join(REPOSITORY, PATCHES)
    for name in sorted(os.listdir(folder) if os.path.isdir(folder) else []):
        if not name.endswith('.patch'):
            continue
        path = os.path.join(folder, name)
        files = applied(
            read(path).decode('utf-8'),
            lambda name: contents.get(name) or tree.original(name))
        if files is not None:
            contents.update(files)
            result.append((path, files))
    return result


def known_hashes(version):
    """SHA-256 of the files we touch in a pristine tree, {} if not recorded"""
    hashes = {}
    current = None
    content = read(os.path.join(REPOSITORY, HASHES)) or b''
    for line in content.decode('ascii').splitlines():
        if line.startswith('# QEMU '):
            current = line[len('# QEMU '):]
        elif current == version and line:
            value, path = line.split(None, 1)
            hashes[path] = value
    return hashes


def tree_version(tree):
    """Version of the QEMU tree, after a check that it is one we can graft"""
    content = read(os.path.join(tree, 'VERSION'))
    if content is None or not os.path.isdir(os.path.join(tree, 'hw/virtio')):
        raise GraftError('it is not a QEMU source tree')
    version = content.decode('ascii', 'replace').strip()
    match = re.fullmatch(re.escape(SERIES) + r'\.(\d+)', version)
    if not match or int(match[1]) >= DEVELOPMENT:
        raise GraftError(f'it is QEMU {version}, but the backend is for '
                         f'QEMU {SERIES}.z')
    return version


def check_pristine(tree):
    """Refuse a tree that is not a QEMU we know, or that somebody changed"""
    version = tree_version(tree)
    touched = REMOVED + [path for path in SHARED]
    for path in touched:
        if not os.path.isfile(os.path.join(tree, path)):
            raise GraftError(f'it was modified: QEMU {version} has a file '
                             f'{path}, this tree does not')
    for path, value in known_hashes(version).items():
        if digest(read(os.path.join(tree, path))) != value:
            raise GraftError(f'it was modified: its {path} is not that of '
                             f'QEMU {version}')
    for path in repository_files():
        if path in REMOVED or path in REPLACED:
            continue
        if os.path.lexists(os.path.join(tree, path)):
            raise GraftError(f'it was modified: QEMU {version} has no file '
                             f'{path}')
    if os.path.exists(os.path.join(tree, '.git')) and shutil.which('git'):
        status = subprocess.run(
            ['git', '-C', tree, 'status', '--porcelain',
             '--untracked-files=no', '--ignore-submodules=all', '--']
            + touched + REPLACED,
            stdout=subprocess.PIPE, check=False, text=True)
        if status.returncode == 0 and status.stdout:
            path = status.stdout.splitlines()[0][3:]
            raise GraftError(f'it was modified: its {path} has changes that '
                             'are not committed')


class Tree:
    """A QEMU tree and what the graft did to it"""

    def __init__(self, path):
        self.path = path
        self.manifest_path = self.at(STATE, 'manifest.json')
        content = read(self.manifest_path)
        # {'files': {path: {'original': sha or None, 'mtime': ns,
        #                   'expected': [sha or None]}},
        #  'folders': [path], 'version': text}
        self.manifest = json.loads(content) if content else None

    def at(self, *parts):
        """Path of something in the tree"""
        return os.path.join(self.path, *parts)

    def original(self, path):
        """QEMU's own content of the file, None if QEMU has none"""
        if self.manifest and path in self.manifest['files']:
            if self.manifest['files'][path]['original'] is None:
                return None
            return read(self.at(STATE, 'original', path))
        return read(self.at(path))

    def check_grafted(self, force):
        """Refuse a grafted tree in which somebody changed our files"""
        if force:
            return
        for path, entry in self.manifest['files'].items():
            if digest(read(self.at(path))) not in entry['expected']:
                raise GraftError(
                    f'its {path} was changed since the graft; move the '
                    'change to the repository, or give FORCE=1 to lose it')

    def check_new(self, path, force):
        """Refuse to lose a file that is where a new one of ours goes"""
        if path in self.manifest['files'] or path in SHARED or \
                path in REMOVED or path in REPLACED or \
                not os.path.lexists(self.at(path)):
            return
        if not force:
            raise GraftError(
                f'its {path} is not from the graft; remove it, or give '
                'FORCE=1 to lose it')
        os.unlink(self.at(path))

    def save_manifest(self):
        """Write the manifest, whole or not at all"""
        os.makedirs(self.at(STATE), exist_ok=True)
        temporary = self.manifest_path + '.new'
        with open(temporary, 'w', encoding='utf-8') as file:
            json.dump(self.manifest, file, indent=1, sort_keys=True)
            file.write('\n')
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.manifest_path)

    def keep_original(self, path):
        """Make sure that QEMU's own file can be brought back"""
        files = self.manifest['files']
        if path in files:
            return
        content = read(self.at(path))
        entry = {'original': digest(content), 'expected': [digest(content)]}
        if content is not None:
            entry['mtime'] = os.stat(self.at(path)).st_mtime_ns
            copy = self.at(STATE, 'original', path)
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copy2(self.at(path), copy)
        files[path] = entry

    def note_folder(self, path):
        """Remember which folders of a new file's @path will be ours"""
        path = os.path.dirname(path)
        if path and not os.path.isdir(self.at(path)):
            self.note_folder(path)
            if path not in self.manifest['folders']:
                self.manifest['folders'].append(path)

    def write(self, path, content, like):
        """Write a file unless it is already there with this content"""
        if read(self.at(path)) == content:
            return False
        os.makedirs(os.path.dirname(self.at(path)), exist_ok=True)
        temporary = self.at(STATE, 'new')
        with open(temporary, 'wb') as file:
            file.write(content)
        shutil.copymode(like, temporary)
        os.replace(temporary, self.at(path))
        return True

    def restore(self, path):
        """Bring back QEMU's own file, or its absence"""
        entry = self.manifest['files'][path]
        if entry['original'] is None:
            if os.path.lexists(self.at(path)):
                os.unlink(self.at(path))
            return
        copy = self.at(STATE, 'original', path)
        if read(self.at(path)) != read(copy):
            shutil.copy2(copy, self.at(path))
        os.utime(self.at(path), ns=(entry['mtime'], entry['mtime']))

    def drop_empty_folders(self, used):
        """Remove folders that the graft made and that nothing is in"""
        for path in sorted(self.manifest['folders'], reverse=True):
            if any(name.startswith(path + '/') for name in used):
                continue
            try:
                os.rmdir(self.at(path))
            except FileNotFoundError:
                pass
            except OSError:
                continue
            self.manifest['folders'].remove(path)


def graft(path, force=False, patches=False):
    """Put our files into the tree @path; returns how many were written

    @patches: apply what fits of patches/, too
    """
    tree = Tree(path)
    if tree.manifest:
        if tree_version(path) != tree.manifest['version']:
            raise GraftError('it was grafted as QEMU '
                             f'{tree.manifest["version"]}, and is now '
                             f'another version: start from a fresh tree')
        tree.check_grafted(force)
        for name in repository_files():
            tree.check_new(name, force)
    else:
        check_pristine(path)
        tree.manifest = {'files': {}, 'folders': [],
                         'version': tree_version(path)}

    # What every file we touch shall hold, and the file to take the mode from
    wanted = {name: (None, None) for name in REMOVED}
    for name in repository_files():
        source = os.path.join(REPOSITORY, name)
        wanted[name] = (read(source), source)
    for name in SHARED:
        content = edited(name, tree.original(name))
        wanted[name] = (content, tree.at(name))
    for _, files in improvements(tree) if patches else []:
        for name, content in files.items():
            assert name not in SHARED and name not in REPLACED
            wanted[name] = (content, tree.at(name))

    # The manifest first, with every content that a file can have on the way:
    # an interrupted graft can then be repeated or undone
    gone = [name for name in tree.manifest['files'] if name not in wanted]
    for name in wanted:
        tree.keep_original(name)
        tree.note_folder(name)
    for name, entry in tree.manifest['files'].items():
        possible = {entry['original'], *entry['expected']}
        if name in wanted:
            possible.add(digest(wanted[name][0]))
        if name in REMOVED:
            possible.add(None)
        entry['expected'] = sorted(possible, key=str)
    tree.save_manifest()

    written = 0
    for name in gone:
        tree.restore(name)
    for name in REMOVED:
        content = read(tree.at(name))
        if content is not None and (
                wanted[name][0] is None or
                digest(content) == tree.manifest['files'][name]['original']):
            os.unlink(tree.at(name))
    for name, (content, like) in wanted.items():
        if content is not None:
            written += tree.write(name, content, like)

    for name in gone:
        del tree.manifest['files'][name]
    for name, (content, _) in wanted.items():
        tree.manifest['files'][name]['expected'] = [digest(content)]
    tree.drop_empty_folders([name for name, (content, _) in wanted.items()
                             if content is not None])
    tree.save_manifest()
    return written


def ungraft(path, force=False):
    """Give back the tree as it was before graft()"""
    tree = Tree(path)
    if not tree.manifest:
        tree_version(path)
        raise GraftError('it is not grafted')
    tree.check_grafted(force)
    for name in tree.manifest['files']:
        tree.restore(name)
    tree.drop_empty_folders([])
    shutil.rmtree(tree.at(STATE))


def record(path):
    """Print the hashes of all that we touch in a pristine tree"""
    version = tree_version(path)
    print(f'# QEMU {version}')
    for name in sorted(REMOVED + REPLACED + list(SHARED)):
        print(f'{digest(read(os.path.join(path, name)))}  {name}')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    action = parser.add_mutually_exclusive_group()
    action.add_argument('--undo', action='store_true',
                        help='take the backend out again')
    action.add_argument('--check', action='store_true',
                        help='only say whether TREE would be accepted')
    action.add_argument('--record', action='store_true',
                        help='print the hashes for ' + HASHES)
    parser.add_argument('--force', action='store_true',
                        help='overwrite changes made since the last graft')
    parser.add_argument('--patches', action='store_true',
                        help='apply the patches in ' + PATCHES + '/, too')
    parser.add_argument('--name', help='how messages call TREE')
    parser.add_argument('tree', metavar='TREE', help='QEMU source tree')
    args = parser.parse_args()

    try:
        if args.record:
            record(args.tree)
        elif args.check:
            check_pristine(args.tree)
        elif args.undo:
            ungraft(args.tree, args.force)
            print(f'   {args.tree} is QEMU\'s own again')
        else:
            written = graft(args.tree, args.force, args.patches)
            if written:
                print(f'   {written} files written to {args.tree}')
    except GraftError as error:
        sys.exit(f'error: {args.name or args.tree} is refused: {error}.')


if __name__ == '__main__':
    main()
