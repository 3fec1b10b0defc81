/*
 * vdpa-soft: what memory a mapping may name
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include "memory.h"

typedef struct VsVma {
    uint64_t start;
    uint64_t end;       /* exclusive */
    uint64_t offset;    /* in its file */
    uint64_t inode;     /* 0: no file */
    unsigned major;
    unsigned minor;
    bool readable;
    bool writable;
    bool shared;
} VsVma;

static pthread_mutex_t charge_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t charged;

size_t vs_page_size(void)
{
    return getauxval(AT_PAGESZ);
}

/*
 * The mappings that end above @addr and begin below @end, and the first one
 * above; NULL if the process may not see its own list.
 */
static GArray *read_vmas(uint64_t addr, uint64_t end)
{
    GArray *vmas;
    char *line = NULL;
    size_t size = 0;
    FILE *maps = fopen("/proc/self/maps", "re");

    if (!maps) {
        return NULL;
    }
    vmas = g_array_new(false, false, sizeof(VsVma));
    while (getline(&line, &size, maps) > 0) {
        char perm[5];
        VsVma vma;

        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %"
                   SCNu64, &vma.start, &vma.end, perm, &vma.offset,
                   &vma.major, &vma.minor, &vma.inode) != 7) {
            continue;
        }
        /* vsyscall is only shown here: it is not the process's own */
        if (vma.end <= addr || strstr(line, "[vsyscall]")) {
            continue;
        }
        vma.readable = perm[0] == 'r';
        vma.writable = perm[1] == 'w';
        /* anonymous shared memory is a file too, of the kernel's own */
        vma.shared = perm[3] == 's';
        g_array_append_val(vmas, vma);
        if (vma.start >= end) {
            break;
        }
    }
    free(line);
    fclose(maps);
    return vmas;
}

int vs_memory_walk(uint64_t addr, uint64_t size, VsVmaFn *fn, void *opaque)
{
    g_autoptr(GArray) vmas = NULL;
    uint64_t offset = 0, end = addr + size;
    guint i = 0;
    int ret;

    vmas = read_vmas(addr, end < addr ? UINT64_MAX : end);
    if (!vmas) {
        /* no /proc: believe what is said */
        return fn(opaque, 0, size, true);
    }
    while (offset < size) {
        uint64_t at = addr + offset, piece;
        VsVma *vma;

        while (i < vmas->len && g_array_index(vmas, VsVma, i).end <= at) {
            i++;
        }
        if (i == vmas->len || at < addr) {
            return -EINVAL;
        }
        vma = &g_array_index(vmas, VsVma, i);
        piece = MIN(size - offset, vma->end - at);
        ret = fn(opaque, offset, piece, vma->shared);
        if (ret < 0) {
            return ret;
        }
        offset += piece;
    }
    return 0;
}

/* Whether what is behind the end of @a goes on in @b */
static bool continues(const VsVma *a, const VsVma *b)
{
    return a->inode && a->inode == b->inode && a->major == b->major &&
           a->minor == b->minor && a->shared == b->shared &&
           a->offset + (a->end - a->start) == b->offset;
}

int vs_memory_runs(uint64_t addr, uint64_t size, bool write, VsVmaFn *fn,
                   void *opaque)
{
    g_autoptr(GArray) vmas = NULL;
    uint64_t at = addr, end = addr + size, run;
    guint i;
    int ret;

    if (end < addr) {
        return -EFAULT;
    }
    vmas = read_vmas(addr, end);
    if (!vmas) {
        /* no /proc: believe what is said */
        return fn(opaque, 0, size, true);
    }
    for (i = 0; i < vmas->len && at < end; i++) {
        VsVma *vma = &g_array_index(vmas, VsVma, i);

        /* as pinning has it: what is written need not be readable */
        if (vma->start > at || !(write ? vma->writable : vma->readable)) {
            return -EFAULT;
        }
        at = vma->end;
    }
    if (at < end) {
        return -EFAULT;
    }
    for (i = 0, run = addr; run < end; i++) {
        VsVma *vma = &g_array_index(vmas, VsVma, i);

        if (vma->end < end && continues(vma, vma + 1)) {
            continue;
        }
        at = MIN(vma->end, end);
        ret = fn(opaque, run - addr, at - run, true);
        if (ret < 0) {
            return ret;
        }
        run = at;
    }
    return 0;
}

bool vs_memory_charge(uint64_t pages, const uint64_t *limit,
                      uint64_t *allowed, uint64_t *held)
{
    struct rlimit rlimit;
    bool ok;

    /* Not getrlimit(), which tells the client of the limits of other nodes */
    *allowed = UINT64_MAX;
    if (limit) {
        *allowed = *limit;
    } else if (prlimit(0, RLIMIT_MEMLOCK, NULL, &rlimit) == 0 &&
               rlimit.rlim_cur != RLIM_INFINITY) {
        *allowed = rlimit.rlim_cur / vs_page_size();
    }
    pthread_mutex_lock(&charge_lock);
    *held = charged;
    ok = charged <= *allowed && pages <= *allowed - charged;
    if (ok) {
        charged += pages;
    }
    pthread_mutex_unlock(&charge_lock);
    return ok;
}

void vs_memory_release(uint64_t pages)
{
    pthread_mutex_lock(&charge_lock);
    charged -= pages;
    pthread_mutex_unlock(&charge_lock);
}

uint64_t vs_memory_charged(void)
{
    uint64_t pages;

    pthread_mutex_lock(&charge_lock);
    pages = charged;
    pthread_mutex_unlock(&charge_lock);
    return pages;
}

void vs_memory_fork(void)
{
    pthread_mutex_init(&charge_lock, NULL);
    charged = 0;
}
