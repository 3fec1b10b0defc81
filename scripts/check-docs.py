#!/usr/bin/python3
"""Check that our pages are in QEMU's manual, as a build with -W made it

QEMU's build runs Sphinx with warnings as errors, and fails without the
manual. What is left to see: that it did so here, that the manual is newer
than our pages, and that a reader can get to each of them.

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import json
import os
import re
import sys

sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import graft  # noqa: E402


def options(build):
    """{option: value} of the configured build"""
    path = os.path.join(build, 'meson-info', 'intro-buildoptions.json')
    with open(path, encoding='utf-8') as file:
        return {option['name']: option['value'] for option in json.load(file)}


def main():
    build = sys.argv[1]
    found = []

    if options(build).get('werror') is not True:
        found.append('the manual was built without -W')

    manual = os.path.join(build, 'docs', 'manual')
    pages = [path for path in graft.repository_files()
             if re.match(r'docs/.*\.rst$', path)]
    for page in pages:
        name = re.sub(r'^docs/(.*)\.rst$', r'\1.html', page)
        html = os.path.join(manual, name)
        if not os.path.exists(html):
            found.append(f'{page} is not in the manual')
            continue
        if os.path.getmtime(html) < os.path.getmtime(
                os.path.join(graft.REPOSITORY, page)):
            found.append(f'the manual has an old {page}')
        index = {'interop': 'interop/index.html',
                 'system': 'system/device-emulation.html'
                 }.get(name.split('/')[0])
        if index:
            target = os.path.relpath(name, os.path.dirname(index))
            with open(os.path.join(manual, index), encoding='utf-8') as file:
                if f'href="{target}"' not in file.read():
                    found.append(f'{index} has no link to {page}')
    for line in found:
        print(line)
    if not pages:
        sys.exit('there is no page of ours')
    if found:
        sys.exit(1)
    print(f'{len(pages)} pages: {" ".join(pages)}')


if __name__ == '__main__':
    main()
