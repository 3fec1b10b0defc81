/*
 * vdpa-soft: files in which the kernel tells of what nodes do
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_SYSFILE_H
#define VDPA_SOFT_SYSFILE_H

/**
 * vs_sysfile_open() - open a file that would say something else with a kernel
 * @path: what the client opens, for reading
 *
 * These are the status of the process, whose VmPin is what its nodes pinned,
 * and the parameter that limits the entries of address spaces.  What is opened
 * is how they read now.
 *
 * Returns: a descriptor; -1 if @path is to be opened as it is, with errno
 *          untouched
 */
int vs_sysfile_open(const char *path);

#endif
