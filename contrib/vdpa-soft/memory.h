/*
 * vdpa-soft: what memory a mapping may name
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_MEMORY_H
#define VDPA_SOFT_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** vs_page_size() - of the kernel, in bytes */
size_t vs_page_size(void);

/**
 * typedef VsVmaFn - one piece of a walk
 * @first: offset of the piece from where the walk began
 * @size: its bytes
 * @usable: it lies in a shared mapping of a file
 *
 * Returns: 0 to go on, or a negative errno that ends the walk
 */
typedef int VsVmaFn(void *opaque, uint64_t offset, uint64_t size,
                    bool usable);

/**
 * vs_memory_walk() - cut a range at the borders of the process's mappings
 *
 * As the kernel does it: a hole belongs to the mapping above it.
 *
 * Returns: 0; -EINVAL if nothing is mapped at or above some part; what @fn
 *          returned
 */
int vs_memory_walk(uint64_t addr, uint64_t size, VsVmaFn *fn, void *opaque);

/**
 * vs_memory_runs() - cut a range where its physical memory cannot go on
 * @write: it is to be written, else read
 * @fn: called for each piece, all of them usable
 *
 * What is contiguous in physical memory cannot be known here.  A mapping of
 * the process is taken to be, and the next one to go on if it is of what
 * follows in the same file.
 *
 * Returns: 0; -EFAULT, with nothing done, if not all of it is mapped as it is
 *          to be used; what @fn returned
 */
int vs_memory_runs(uint64_t addr, uint64_t size, bool write, VsVmaFn *fn,
                   void *opaque);

/**
 * vs_memory_charge() - charge pages against the process's memory lock limit
 * @limit: the limit in pages, or NULL for RLIMIT_MEMLOCK
 * @allowed: receives the limit in pages
 * @held: receives the pages charged before
 *
 * Returns: false, with nothing charged, if the limit would be exceeded
 */
bool vs_memory_charge(uint64_t pages, const uint64_t *limit,
                      uint64_t *allowed, uint64_t *held);

/** vs_memory_release() - give charged pages back */
void vs_memory_release(uint64_t pages);

/** vs_memory_charged() - the pages charged now */
uint64_t vs_memory_charged(void);

/** vs_memory_fork() - in a forked child, which has nothing charged */
void vs_memory_fork(void);

#endif
