"""The parts of the benchmark, one module each

A part has

TITLE   what it measures, in one line
run     function of the arguments of bench/run and of a function to which it
        tells how far it is; returns a report.Part
TESTS   [(name, function, arguments)] of bench/run --check.  The functions
        return what is wrong, a list of lines

Copyright (c) 2026 The vhost-vdpa backend authors

SPDX-License-Identifier: GPL-2.0-or-later
"""

import importlib

# In the order of the report
NAMES = [
    'control',
    'lives',
    'changes',
    'commit',
    'monitor',
    'blackout',
    'data',
    'instructions',
    'kernel',
]


def module(name):
    """The module of a part; both QEMUs' source must be there"""
    return importlib.import_module(f'{__name__}.{name}')
