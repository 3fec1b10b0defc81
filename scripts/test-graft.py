#!/usr/bin/python3
"""Test the graft: what it does, undoes, and refuses (output is TAP)

Works on copies of the files that the graft touches, taken from a grafted
QEMU tree, and on a copy of this repository.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import traceback

sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import graft  # noqa: E402

VERSION = '10.0.13'


def put(folder, path, content):
    """Write a file, and the folders it is in"""
    target = os.path.join(folder, path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, 'wb') as file:
        file.write(content)


def snapshot(folder):
    """{path: all that must come back}, folders included"""
    found = {}
    for base, folders, names in os.walk(folder):
        for name in folders:
            found[os.path.relpath(os.path.join(base, name), folder)] = None
        for name in names:
            path = os.path.join(base, name)
            status = os.stat(path)
            found[os.path.relpath(path, folder)] = (
                graft.read(path), status.st_mode, status.st_mtime_ns)
    return found


class Case:
    """What each test starts from: a pristine tree and a repository"""

    def __init__(self, source, folder):
        self.folder = folder
        self.tree = os.path.join(folder, 'tree')
        self.repository = os.path.join(folder, 'repository')
        self.source = source
        original = graft.Tree(source)
        put(self.tree, 'VERSION', graft.read(os.path.join(source, 'VERSION')))
        put(self.tree, 'hw/virtio/virtio.c', b'/* untouched */\n')
        for path in graft.REMOVED + graft.REPLACED + list(graft.SHARED):
            put(self.tree, path, original.original(path))
        for name in graft.FOLDERS + ['scripts']:
            shutil.copytree(os.path.join(graft.REPOSITORY, name),
                            os.path.join(self.repository, name))
        for path in graft.SHARED:
            content = graft.read(os.path.join(graft.REPOSITORY, path))
            if content is not None:
                put(self.repository, path, content)
        for base, _, names in os.walk(self.tree):
            for name in names:
                os.utime(os.path.join(base, name), (1e9, 1e9))
        self.pristine = snapshot(self.tree)

    def run(self, *options):
        """Run the graft; returns its exit status and error message"""
        done = subprocess.run(
            ['/usr/bin/python3', '-B',
             os.path.join(self.repository, 'scripts', 'graft.py'),
             *options, self.tree],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            check=False)
        return done.returncode, done.stderr

    def graft(self, *options):
        """Graft, which must work; returns what the tree then holds"""
        status, error = self.run(*options)
        assert status == 0 and error == '', error
        return snapshot(self.tree)

    def refused(self, reason, *options):
        """Graft, which must be refused in one line and change nothing"""
        before = snapshot(self.tree)
        status, error = self.run(*options)
        assert status == 1, 'it was not refused'
        assert error.count('\n') == 1 and reason in error, error
        assert self.tree in error, error
        assert snapshot(self.tree) == before, 'the tree was changed'

    def module(self):
        """The repository's graft.py, to be interrupted at will"""
        spec = importlib.util.spec_from_file_location(
            'graft_copy', os.path.join(self.repository, 'scripts/graft.py'))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def without_state(files):
    """A snapshot without what the graft keeps for itself"""
    return {path: what for path, what in files.items()
            if not path.startswith(graft.STATE)}


def contents(files):
    """A snapshot without times"""
    return {path: what and what[:2]
            for path, what in without_state(files).items()}


def test_undo(case):
    """ungraft gives back the tree byte for byte, with modes and times"""
    assert case.graft() != case.pristine
    assert case.graft('--undo') == case.pristine


def test_incumbent_gone(case):
    """nothing of QEMU's own files is left"""
    after = case.graft()
    incumbent = {case.pristine[path][0] for path in graft.REMOVED}
    for path, what in without_state(after).items():
        assert not what or what[0] not in incumbent, path
    for path in graft.REMOVED:
        ours = os.path.exists(os.path.join(case.repository, path))
        assert (path in after) == ours, path


def test_all_of_ours(case):
    """every file of ours is there, and nothing else changed"""
    after = without_state(case.graft())
    ours = graft.repository_files(case.repository)
    assert 'hw/virtio/vhost-vdpa.c' in ours
    for path in ours:
        assert after[path][0] == graft.read(
            os.path.join(case.repository, path)), path
    for path, what in case.pristine.items():
        if path not in graft.REMOVED + graft.REPLACED + list(graft.SHARED):
            assert after[path] == what, path
    folders = {path for path, what in after.items() if what is None}
    for path in set(after) - set(case.pristine) - set(ours):
        assert path in folders, path


def test_shared_lines(case):
    """of a shared file only QEMU's vhost-vdpa lines go away"""
    after = case.graft()
    for path in graft.SHARED:
        new = after[path][0].decode().splitlines()
        for line in case.pristine[path][0].decode().splitlines():
            if line in new:
                continue
            assert 'vdpa' in line or 'shadow' in line or \
                'vhost-iova-tree' in line or path in (
                    'MAINTAINERS', 'qapi/net.json', 'qemu-options.hx'), \
                f'{path}: {line}'


def test_every_part_used(case):
    """every part of our shared files is in the tree, whole"""
    after = case.graft()
    for path in graft.SHARED:
        parts = graft.shared_parts(path, case.repository)
        # a file of ours may do without trace events
        assert parts or path == 'net/trace-events', path
        known = {edit.part for edit in graft.SHARED[path]}
        for part, lines in parts.items():
            assert part is None or part in known, f'{path}: part {part}'
            assert ''.join(lines).encode() in after[path][0], path
            assert lines, f'{path}: part {part} is empty'


def test_again(case):
    """a second graft writes nothing"""
    first = without_state(case.graft())
    assert without_state(case.graft()) == first


def test_change(case):
    """after a change only the file that changed is written"""
    first = without_state(case.graft())
    path = 'hw/virtio/vhost-vdpa.c'
    with open(os.path.join(case.repository, path), 'ab') as file:
        file.write(b'/* new */\n')
    second = without_state(case.graft())
    assert second[path][0].endswith(b'/* new */\n')
    del first[path], second[path]
    assert first == second


def test_come_and_go(case):
    """files and folders that appear in or leave the repository follow"""
    put(case.repository, 'contrib/new/file.c', b'int x;\n')
    assert case.graft()['contrib/new/file.c'][0] == b'int x;\n'
    shutil.rmtree(os.path.join(case.repository, 'contrib/new'))
    after = case.graft()
    assert 'contrib/new/file.c' not in after and 'contrib/new' not in after
    os.unlink(os.path.join(case.repository, 'net/vhost-vdpa.c'))
    assert 'net/vhost-vdpa.c' not in case.graft()
    assert case.graft('--undo') == case.pristine


PATCH = """\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
Subject: [PATCH] virtio: say more

---
diff --git a/hw/virtio/virtio.c b/hw/virtio/virtio.c
--- a/hw/virtio/virtio.c
+++ b/hw/virtio/virtio.c
@@ -1 +1,2 @@
 {known}
+/* improved */
"""


def test_patches(case):
    """patches that fit are applied when asked for, and taken out again"""
    put(case.repository, 'patches/0001-fits.patch',
        PATCH.format(known='/* untouched */').encode())
    put(case.repository, 'patches/0002-fits-on-top.patch',
        PATCH.format(known='/* improved */').encode())
    put(case.repository, 'patches/0003-does-not-fit.patch',
        PATCH.format(known='/* unknown */').encode())
    plain = without_state(case.graft())
    path = 'hw/virtio/virtio.c'
    assert plain[path] == case.pristine[path]
    for _ in range(2):
        patched = without_state(case.graft('--patches'))
        assert patched[path][0] == \
            b'/* untouched */\n/* improved */\n/* improved */\n'
    assert {name for name in plain if plain[name] != patched[name]} == {path}
    assert without_state(case.graft())[path] == case.pristine[path]
    case.graft('--patches')
    assert case.graft('--undo') == case.pristine


def test_own_patches(case):
    """the patches of this repository fit the source it is built from"""
    folder = os.path.join(graft.REPOSITORY, graft.PATCHES)
    names = [name for name in os.listdir(folder) if name.endswith('.patch')]
    assert names
    fitting = graft.improvements(graft.Tree(case.source))
    assert len(fitting) == len(names), fitting


def test_interrupted(case):
    """a graft that was interrupted anywhere can be repeated or undone"""
    whole = contents(case.graft())
    case.graft('--undo')
    writes = 0
    while True:
        writes += 1
        module = case.module()
        real = module.Tree.write
        left = [writes]

        def write(*arguments, real=real, left=left):
            if left[0] == 0:
                raise KeyboardInterrupt
            done = real(*arguments)
            left[0] -= done
            return done

        module.Tree.write = write
        try:
            module.graft(case.tree)
            break
        except KeyboardInterrupt:
            pass
        if writes % 2:
            assert contents(case.graft()) == whole, writes
        assert case.graft('--undo') == case.pristine, writes
    assert writes > len(graft.SHARED)


def test_other_release(case):
    """another 10.0.z is accepted, whatever its own vhost-vdpa.c holds"""
    put(case.tree, 'VERSION', b'10.0.49\n')
    put(case.tree, 'hw/virtio/vhost-vdpa.c', b'/* fixed */\n')
    case.graft()


def test_other_release_differs(case):
    """another 10.0.z is refused if the lines to replace are not there"""
    put(case.tree, 'VERSION', b'10.0.49\n')
    put(case.tree, 'hw/virtio/meson.build', b'# all new\n')
    case.refused('its hw/virtio/meson.build is not as in QEMU 10.0')


def test_wrong_versions(case):
    """other versions of QEMU are refused"""
    for version in ('9.2.0', '10.1.0', '10.0.50', '10.0', '11.0.13',
                    '10.0.13-rc1'):
        put(case.tree, 'VERSION', version.encode() + b'\n')
        case.refused(f'it is QEMU {version}, but the backend is for')


def test_not_qemu(case):
    """what is not a QEMU tree is refused"""
    os.unlink(os.path.join(case.tree, 'VERSION'))
    case.refused('it is not a QEMU source tree')


def test_modified(case):
    """a tree that was changed where we touch it is refused"""
    for path in graft.REMOVED + list(graft.SHARED):
        content = graft.read(os.path.join(case.tree, path))
        put(case.tree, path, content + b'/* mine */\n')
        case.refused(f'it was modified: its {path} is not that of')
        os.unlink(os.path.join(case.tree, path))
        case.refused(f'it was modified: QEMU {VERSION} has a file {path}')
        put(case.tree, path, content)
    case.graft()


def test_occupied(case):
    """a tree that already has a file where ours go is refused"""
    put(case.tree, 'hw/virtio/vhost-vdpa-uapi.c', b'')
    case.refused('has no file hw/virtio/vhost-vdpa-uapi.c')


def test_uncommitted(case):
    """a git work tree with changes of its own is refused"""
    put(case.tree, 'VERSION', b'10.0.49\n')
    environment = {**os.environ, 'GIT_CONFIG_GLOBAL': '/dev/null'}
    for command in (['init', '--quiet'], ['add', '--all'],
                    ['-c', 'user.name=T', '-c', 'user.email=t@localhost',
                     'commit', '--quiet', '--message', 'QEMU']):
        subprocess.run(['git', '-C', case.tree, *command], check=True,
                       env=environment)
    put(case.tree, 'net/vhost-vdpa.c', b'/* mine */\n')
    # "git status" refreshes the index, which is no change of the tree
    status, error = case.run()
    assert status == 1 and 'net/vhost-vdpa.c has changes that are not ' \
        'committed' in error, error


def test_changed_inside(case):
    """changes made inside of a grafted tree are not lost by accident"""
    first = contents(case.graft())
    put(case.tree, 'net/vhost-vdpa.c', b'/* mine */\n')
    case.refused('its net/vhost-vdpa.c was changed since the graft')
    case.refused('its net/vhost-vdpa.c was changed since the graft', '--undo')
    assert contents(case.graft('--force')) == first
    put(case.tree, 'net/vhost-vdpa.c', b'/* mine */\n')
    assert case.graft('--undo', '--force') == case.pristine


def test_placed_inside(case):
    """nor is a file that was put where a new one of ours goes"""
    case.graft()
    put(case.tree, 'contrib/new.c', b'/* mine */\n')
    put(case.repository, 'contrib/new.c', b'/* ours */\n')
    case.refused('its contrib/new.c is not from the graft')
    assert case.graft('--force')['contrib/new.c'][0] == b'/* ours */\n'
    assert case.graft('--undo') == case.pristine


def test_undo_nothing(case):
    """there is nothing to undo in a tree that is not grafted"""
    case.refused('it is not grafted', '--undo')


def test_check_only(case):
    """--check says the same and touches nothing"""
    case.graft('--check')
    assert snapshot(case.tree) == case.pristine
    put(case.tree, 'meson.build', b'')
    case.refused('it was modified', '--check')


def main():
    source = sys.argv[1]
    tests = [value for name, value in globals().items()
             if name.startswith('test_')]
    print(f'1..{len(tests)}', flush=True)
    failed = 0
    for number, test in enumerate(tests, 1):
        with tempfile.TemporaryDirectory() as folder:
            word = 'ok'
            try:
                test(Case(source, folder))
            except Exception:  # pylint: disable=broad-exception-caught
                word = 'not ok'
                failed += 1
                for line in traceback.format_exc().splitlines():
                    print(f'# {line}')
            print(f'{word} {number} {test.__doc__}', flush=True)
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
