/*
 * vdpa-soft: what open() becomes in a program built with _FORTIFY_SOURCE
 *
 * The C library has these, but declares them only where it uses them.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_PRELOAD_H
#define VDPA_SOFT_PRELOAD_H

int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags);

#endif
