#!/usr/bin/python3
"""Write the backend as a patch series for QEMU's mailing list

The result, one patch per group of files, is in build/patches/series; the
text for the cover letter beside it. QEMU compiles after every patch: those in
patches/ and the parts that stand alone come first, one patch then removes
QEMU's own vhost-vdpa files and puts ours in their place, its test follows.

With --check, apply the series with "git am" to the pristine tree, and
compare the result with what the graft makes of that tree.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import argparse
import fnmatch
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap

sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import graft  # noqa: E402


class Patch:
    """One patch of the series

    @subject: first line of the commit message
    @body: the rest of it
    @files: patterns of the files that are ours
    @parts: (shared file, part) pairs, "*" stands for all parts of the file
    @switch: this patch removes QEMU's own files
    """

    def __init__(self, subject, body, files=(), parts=(), switch=False):
        self.subject = subject
        self.body = textwrap.dedent(body).strip()
        self.files = files
        self.parts = parts
        self.switch = switch

    def has_file(self, path):
        """Whether the file belongs to this patch"""
        return any(fnmatch.fnmatchcase(path, pattern)
                   for pattern in self.files)

    def has_part(self, path, part):
        """Whether the part of a shared file belongs to this patch"""
        return (path, part) in self.parts or (path, '*') in self.parts


SERIES = [
    Patch('docs: describe vhost-vdpa', '''
        The page on the protocol said that more information would come later.
        Say what the kernel offers, in which order QEMU makes its calls, where
        drivers differ, and what the backend promises in return.

        Add a user guide: how to create a vDPA device, what it needs in
        permissions and locked memory, multiqueue, libvirt, and what to do
        about each error message.

        This comes first because the rest of the series is to be judged by it.
        ''',
          files=['docs/*'],
          parts=[('docs/system/device-emulation.rst', '*')]),
    Patch('contrib/vdpa-soft: add a vDPA device in software', '''
        Until now nobody could try vhost-vdpa, or test a change to it, without
        a vDPA device or a kernel module and root. vdpa-soft gives a program
        a node that behaves as /dev/vhost-vdpa-N does, by way of a preloaded
        library: a virtio-net device with a control queue, several queue
        pairs and a strict IOTLB, that can take the shape of each kind of
        kernel driver, keeps a transcript of all calls and fails those it is
        told to.
        ''',
          files=['contrib/vdpa-soft/*'],
          parts=[('meson.build', 'vdpa-soft')]),
    Patch('hw/virtio: add a reconciler for the IOTLB of a vDPA device', '''
        Keep two interval maps per address space, what the device shall reach
        and what the kernel was told and accepted, and send the smallest set
        of messages that turns the second into the first. It knows neither the
        memory API nor the character device, and so can be tested alone: the
        unit test compares each message of random histories with the only one
        that a model of one cell per page allows. A benchmark tells what a
        commit costs, depending on how much there is and how much changed.

        Nothing uses it yet.
        ''',
          files=['hw/virtio/vhost-vdpa-iotlb.*', 'tests/bench/*',
                 'tests/unit/*'],
          parts=[('tests/bench/meson.build', '*'),
                 ('tests/unit/meson.build', '*')]),
    Patch('hw/virtio: add one function per vhost-vdpa ioctl and message', '''
        Errors of the vhost-vdpa character device are often generic: most
        drivers' refusals arrive as EINVAL or EFAULT. Put each call in a
        function of its own that says which device, what was attempted, the
        likely cause and the remedy, and leaves a trace event.

        The file is compiled when the backend starts to use it.
        ''',
          files=['hw/virtio/vhost-vdpa-uapi.*']),
    Patch('hw/virtio: follow guest memory on behalf of a vDPA device', '''
        Translate the memory API's view into what the IOTLB reconciler shall
        make true, and decide when: a device that could not be given all of
        the guest's memory must not start.

        The file is compiled when the backend starts to use it.
        ''',
          files=['hw/virtio/vhost-vdpa-memory.*']),
    Patch('vhost-vdpa: replace the backend', '''
        Replace the VhostOps and the netdev by ones on top of the preceding
        parts: the device has one state machine, a table that says for each
        transition which calls it makes and what is undone when one of them
        fails; status is written by read-modify-write and read back; every
        error reaches the caller with its cause.

        -netdev vhost-vdpa now honours queues=. The shadow virtqueue, and
        with it migration, is not part of this backend yet: x-svq=on is
        refused and a migration blocker names the reason.
        ''',
          files=['hw/*', 'include/*', 'net/*'],
          parts=[('MAINTAINERS', '*'),
                 ('hw/virtio/meson.build', '*'),
                 ('hw/virtio/trace-events', '*'),
                 ('net/trace-events', '*'),
                 ('qapi/net.json', '*'),
                 ('qapi/virtio.json', '*'),
                 ('qemu-options.hx', '*')],
          switch=True),
    Patch('tests/qtest: test vhost-vdpa on the software device', '''
        Until now no test covered the backend. Start, stop, reset, hotplug,
        data both ways through the rings, the config interrupt, multiqueue,
        every kind of bad input, and a failure injected into each call of
        start-up; the calls are taken from the transcript, so that a new one
        cannot be forgotten.
        ''',
          files=['tests/*'],
          parts=[('tests/qtest/meson.build', '*')]),
]

COVER = '''
    vhost-vdpa: a new backend, with tests

    This series replaces the vhost-vdpa backend. The new one separates what
    was one file: a function per ioctl, an IOTLB reconciler that is tested
    alone, a listener that feeds it, the VhostOps on a state machine that is
    one table, and the netdev. A software vDPA device, also part of the
    series, makes all of it testable on any machine, and a qtest does so.

    It applies to QEMU {version}.
    '''


class Git:
    """A repository"""

    def __init__(self, path, identity=None):
        self.path = path
        self.environment = {
            **os.environ,
            'GIT_CONFIG_NOSYSTEM': '1',
            'GIT_TERMINAL_PROMPT': '0',
        }
        if identity:
            name, email = identity
            for who in ('AUTHOR', 'COMMITTER'):
                self.environment[f'GIT_{who}_NAME'] = name
                self.environment[f'GIT_{who}_EMAIL'] = email
            self.environment['GIT_CONFIG_GLOBAL'] = '/dev/null'

    def __call__(self, *arguments):
        command = ['git', '-C', self.path, '-c', 'core.autocrlf=false',
                   '-c', 'commit.gpgsign=false', '-c', 'gc.auto=0',
                   '-c', 'init.defaultBranch=main',
                   '-c', 'core.hooksPath=/dev/null', *arguments]
        done = subprocess.run(command, env=self.environment, check=False,
                              stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        output = done.stdout.decode('utf-8', 'replace')
        if done.returncode:
            raise graft.GraftError(f'git {" ".join(arguments[:2])} failed: '
                                   f'{output.strip()}')
        return output


def assign():
    """[(patch, paths)]: which patch each of our files belongs to"""
    groups = [(patch, []) for patch in SERIES]
    for path in graft.repository_files():
        for patch, paths in groups:
            if patch.has_file(path):
                paths.append(path)
                break
        else:
            raise graft.GraftError(f'{path} belongs to no patch of the '
                                   'series, see SERIES in scripts/patches.py')
    return groups


def put(folder, path, content, mode=0o644):
    """Write a file of the tree in folder, or remove it"""
    target = os.path.join(folder, path)
    if content is None:
        if os.path.exists(target):
            os.unlink(target)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, 'wb') as file:
        file.write(content)
    os.chmod(target, mode)


def make_series(tree, output, identity=None):
    """Write the series for the grafted @tree; returns the patches' paths"""
    original = graft.Tree(tree)
    if not original.manifest:
        raise graft.GraftError(f'{tree} is not grafted')
    shutil.rmtree(output, ignore_errors=True)
    os.makedirs(output)
    with tempfile.TemporaryDirectory() as folder:
        git = Git(folder, identity)
        git('init', '--quiet')
        shared = {}
        ours = graft.repository_files()
        improvements = graft.improvements(original)
        improved = [path for _, files in improvements for path in files]
        for path in set(graft.REMOVED + list(graft.SHARED) + improved + ours):
            content = original.original(path)
            if path in graft.SHARED:
                shared[path] = content
            if content is not None:
                put(folder, path, content)
        git('add', '--all')
        git('commit', '--quiet', '--message', 'QEMU')
        for path, _ in improvements:
            git('am', '--quiet', '--signoff', path)

        done = []
        for patch, paths in assign():
            done.append(patch)
            if patch.switch:
                for path in graft.REMOVED:
                    put(folder, path, None)
            for path in paths:
                source = os.path.join(graft.REPOSITORY, path)
                mode = 0o755 if os.access(source, os.X_OK) else 0o644
                put(folder, path, graft.read(source), mode)
            for path, content in shared.items():
                put(folder, path, graft.edited(
                    path, content,
                    only=lambda part, name=path: any(
                        earlier.has_part(name, part) for earlier in done)))
            git('add', '--all')
            if git('status', '--porcelain'):
                git('commit', '--quiet', '--signoff', '--message',
                    f'{patch.subject}\n\n{patch.body}\n')
        # A rewritten file is easier to read as all old, then all new lines
        git('format-patch', '--quiet', '--break-rewrites', '--no-renames',
            '--output-directory', os.path.abspath(output), '--root',
            f'HEAD~{int(git("rev-list", "--count", "HEAD")) - 1}..HEAD')
    return sorted(os.path.join(output, name) for name in os.listdir(output))


def check_identity():
    """Refuse to sign patches off in nobody's name"""
    for key in ('user.name', 'user.email'):
        done = subprocess.run(['git', '-C', graft.REPOSITORY, 'config', key],
                              stdout=subprocess.PIPE, check=False)
        variable = {'user.name': 'GIT_AUTHOR_NAME',
                    'user.email': 'GIT_AUTHOR_EMAIL'}[key]
        if not done.stdout.strip() and not os.environ.get(variable):
            raise graft.GraftError(
                'patches carry your Signed-off-by, and git does not know who '
                f'you are: set it with "git config --global {key} ..."')
    name = os.environ.get('GIT_AUTHOR_NAME') or subprocess.check_output(
        ['git', '-C', graft.REPOSITORY, 'config', 'user.name'],
        text=True).strip()
    email = os.environ.get('GIT_AUTHOR_EMAIL') or subprocess.check_output(
        ['git', '-C', graft.REPOSITORY, 'config', 'user.email'],
        text=True).strip()
    return name, email


def copy_pristine(tree, target):
    """Copy the sources of a grafted tree, without builds, and ungraft it"""
    builds = {name for name in os.listdir(tree) if name.startswith('build')
              and os.path.isdir(os.path.join(tree, name))}

    def ignore(folder, names):
        return {name for name in names
                if name == '__pycache__' or name == '.git' or
                (folder == tree and name in builds)}

    shutil.copytree(tree, target, symlinks=True, ignore=ignore)
    graft.ungraft(target, force=True)


def make_tree(tree, series, target, identity):
    """Apply the series to a pristine copy of @tree in @target"""
    copy_pristine(tree, target)
    git = Git(target, identity)
    git('init', '--quiet')
    # QEMU's .gitignore must not hide a file
    git('add', '--all', '--force')
    git('commit', '--quiet', '--message', 'QEMU')
    git('tag', 'pristine')
    git('am', '--quiet', '--whitespace=error-all', *map(os.path.abspath,
                                                        series))
    return git


def snapshot(folder):
    """{path: (mode, content hash)} of all files in a folder"""
    files = {}
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders
                      if name not in ('.git', graft.STATE)]
        for name in names:
            path = os.path.join(base, name)
            if os.path.islink(path):
                what = ('link', os.readlink(path))
            else:
                what = (os.access(path, os.X_OK),
                        graft.digest(graft.read(path)))
            files[os.path.relpath(path, folder)] = what
    return files


def check(tree):
    """Apply the series to a pristine copy, compare with the copy grafted"""
    identity = ('Tester', 'tester@localhost')
    with tempfile.TemporaryDirectory(dir=os.path.dirname(
            os.path.abspath(tree))) as folder:
        series = make_series(tree, os.path.join(folder, 'series'), identity)
        applied = os.path.join(folder, 'applied')
        git = make_tree(tree, series, applied, identity)
        print(f'{len(series)} patches apply with git am')

        for number, patch in enumerate(series, 1):
            text = graft.read(patch).decode('utf-8')
            if '\nSigned-off-by: ' not in text:
                raise graft.GraftError(f'patch {number} is not signed off')
        subjects = git('log', '--format=%s', 'pristine..HEAD').splitlines()
        if len(subjects) != len(series):
            raise graft.GraftError(f'{len(series)} patches gave '
                                   f'{len(subjects)} commits')

        # Back to the pristine files: a second copy takes longer than all else
        left = snapshot(applied)
        git('checkout', '--quiet', 'pristine')
        graft.graft(applied, patches=True)
        right = snapshot(applied)
        if left != right:
            different = sorted(path for path in left.keys() | right.keys()
                               if left.get(path) != right.get(path))
            raise graft.GraftError('the series and the graft give different '
                                   f'trees: {" ".join(different)}')
        print(f'the result equals the grafted tree, {len(left)} files')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--check', action='store_true',
                        help='apply the series and compare')
    parser.add_argument('--apply', metavar='FOLDER',
                        help='apply the series to a new tree in FOLDER')
    parser.add_argument('--output', default=os.path.join(
        graft.REPOSITORY, 'build', 'patches', 'series'))
    parser.add_argument('tree', metavar='TREE', help='grafted QEMU tree')
    args = parser.parse_args()

    tree = os.path.abspath(args.tree)
    try:
        if args.check:
            check(tree)
            return
        if args.apply:
            identity = ('Tester', 'tester@localhost')
            shutil.rmtree(args.apply, ignore_errors=True)
            series = make_series(tree, args.output, identity)
            make_tree(tree, series, args.apply, identity)
            return
        series = make_series(tree, args.output, check_identity())
        version = graft.tree_version(tree)
        with open(os.path.join(os.path.dirname(args.output),
                               'cover-letter.txt'), 'w',
                  encoding='utf-8') as file:
            file.write(textwrap.dedent(COVER).strip().format(version=version)
                       + '\n')
        print(f'{len(series)} patches for QEMU {version}:')
        for path in series:
            print(f'   {os.path.relpath(path)}')
        print(f'apply with: git am {os.path.relpath(args.output)}/*.patch')
    except graft.GraftError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
