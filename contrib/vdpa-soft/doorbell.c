/*
 * vdpa-soft: doorbell pages
 *
 * Nothing tells us of a store to a page, so a thread looks at it.  What it
 * looks for must differ from every queue index: the page is kept at 0xffff,
 * which no doorbell rings.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "compat.h"
#include "memory.h"
#include "node-int.h"
#include "transcript.h"

#define DOORBELL_IDLE 0xffff
#define DOORBELL_SPIN_NS 50000
#define DOORBELL_NAP_NS  100000

typedef struct Doorbell {
    struct Doorbell *next;
    VsNode *node;
    unsigned vq;
    void *addr;             /* where the client sees it */
    uint16_t *page;         /* where we do */
    int ref;                /* holds the node open */
} Doorbell;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    Doorbell *list;
    atomic_uint count;
    bool running;           /* the thread */
} doorbells = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .cond = PTHREAD_COND_INITIALIZER,
};

static void *doorbell_thread(void *opaque)
{
    const struct timespec nap = { .tv_nsec = DOORBELL_NAP_NS };
    int64_t seen = vs_clock_ns();

    for (;;) {
        bool found = false;
        Doorbell *d;

        pthread_mutex_lock(&doorbells.lock);
        while (!doorbells.list) {
            pthread_cond_wait(&doorbells.cond, &doorbells.lock);
        }
        for (d = doorbells.list; d; d = d->next) {
            VsNode *n = d->node;

            if (__atomic_load_n(d->page, __ATOMIC_RELAXED) == DOORBELL_IDLE ||
                __atomic_exchange_n(d->page, DOORBELL_IDLE,
                                    __ATOMIC_ACQ_REL) == DOORBELL_IDLE) {
                continue;
            }
            found = true;
            pthread_mutex_lock(&n->lock);
            if (n->open && n->net) {
                vs_driver_kick(n, d->vq);
            }
            pthread_mutex_unlock(&n->lock);
            vs_node_wake(n);
        }
        pthread_mutex_unlock(&doorbells.lock);
        /* stay awake a little after each doorbell, others follow it soon */
        if (found) {
            seen = vs_clock_ns();
        }
        if (vs_clock_ns() - seen > DOORBELL_SPIN_NS) {
            nanosleep(&nap, NULL);
        }
    }
    return NULL;
}

bool vs_doorbells_mapped(void)
{
    return doorbells.count;
}

static int doorbell_add(VsNode *n, int client, void *addr, int prot,
                        int flags, unsigned vq, void **result)
{
    const size_t size = vs_page_size();
    Doorbell *d = g_new0(Doorbell, 1);
    int ret = 0, fd = vs_fd_high(memfd_create("vdpa-doorbell", MFD_CLOEXEC));

    d->node = n;
    d->vq = vq;
    d->ref = -1;
    d->page = MAP_FAILED;
    d->addr = MAP_FAILED;
    if (fd < 0 || ftruncate(fd, size) < 0) {
        ret = -errno;
        goto out;
    }
    d->page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (d->page == MAP_FAILED) {
        ret = -errno;
        goto out;
    }
    *d->page = DOORBELL_IDLE;
    d->ref = fcntl(client, F_DUPFD_CLOEXEC, 512);
    if (d->ref < 0) {
        ret = -errno;
        goto out;
    }
    pthread_mutex_lock(&doorbells.lock);
    if (!doorbells.running) {
        ret = vs_thread_start("vdpa-soft-bell", doorbell_thread, NULL);
        doorbells.running = ret == 0;
    }
    pthread_mutex_unlock(&doorbells.lock);
    if (ret == 0) {
        d->addr = mmap(addr, size, prot, flags, fd, 0);
        if (d->addr == MAP_FAILED) {
            ret = -errno;
        }
    }
out:
    if (fd >= 0) {
        close(fd);
    }
    if (ret < 0) {
        if (d->page != MAP_FAILED) {
            munmap(d->page, size);
        }
        vs_close_fd(&d->ref);
        g_free(d);
        return ret;
    }
    pthread_mutex_lock(&doorbells.lock);
    d->next = doorbells.list;
    doorbells.list = d;
    doorbells.count++;
    pthread_cond_signal(&doorbells.cond);
    pthread_mutex_unlock(&doorbells.lock);
    *result = d->addr;
    return 0;
}

void vs_doorbells_unmap(void *addr, size_t length)
{
    uintptr_t start = (uintptr_t)addr;
    const size_t size = vs_page_size();
    Doorbell **p, *gone = NULL;

    pthread_mutex_lock(&doorbells.lock);
    for (p = &doorbells.list; *p; ) {
        Doorbell *d = *p;
        uintptr_t at = (uintptr_t)d->addr;

        if (at >= start && at - start < length) {
            *p = d->next;
            d->next = gone;
            gone = d;
            doorbells.count--;
        } else {
            p = &d->next;
        }
    }
    pthread_mutex_unlock(&doorbells.lock);
    while (gone) {
        Doorbell *d = gone;

        gone = d->next;
        munmap(d->page, size);
        close(d->ref);
        vs_node_check_close(d->node);
        g_free(d);
    }
}

static int mmap_check(VsNode *n, size_t length, int prot, int flags,
                      off_t offset)
{
    const size_t size = vs_page_size();
    uint64_t vq = offset / size;
    bool shared = (flags & MAP_TYPE) != MAP_PRIVATE;

    if (length == 0 || offset % size) {
        return -EINVAL;
    }
    if (n->accmode == O_WRONLY ||
        (n->accmode == O_RDONLY && shared && prot & PROT_WRITE)) {
        return -EACCES;
    }
    /* what may not be written is not shared, as far as a driver sees it */
    if ((length + size - 1) / size != 1 || !shared || prot & PROT_READ ||
        n->accmode == O_RDONLY) {
        return -EINVAL;
    }
    if (!n->cfg->doorbell) {
        return -VS_ENOTSUPP;
    }
    if (vq >= n->nvqs) {
        return -EINVAL;
    }
    if (n->cfg->like == VS_LIKE_MLX5 && vs_driver_is_ctrl(n, vq)) {
        return -VS_ENOTSUPP;
    }
    return 0;
}

int vs_node_mmap(VsNode *n, int fd, void *addr, size_t length, int prot,
                 int flags, off_t offset, void **result)
{
    char args[96];
    int ret = vs_node_served(n, fd);

    if (ret <= 0) {
        if (ret == 0) {
            /* a page could be had, but the device would not see it */
            ret = mmap_check(n, length, prot, flags, offset);
        }
        return ret < 0 ? ret : -VS_ENOTSUPP;
    }
    pthread_mutex_lock(&n->call_lock);
    ret = -vs_call_injected(n, "MMAP");
    vs_call_delay(n, "MMAP");
    if (ret == 0) {
        vs_node_lock(n);
        ret = mmap_check(n, length, prot, flags, offset);
        vs_node_unlock(n);
    }
    if (ret == 0) {
        ret = doorbell_add(n, fd, addr, prot, flags,
                           offset / vs_page_size(), result);
    }
    snprintf(args, sizeof(args), "{\"offset\":%lld,\"len\":%zu,\"prot\":%d}",
             (long long)offset, length, prot);
    vs_transcript_add(n->index, "MMAP", args, ret < 0 ? -1 : 0,
                      ret < 0 ? -ret : 0, NULL);
    vs_node_wake(n);
    pthread_mutex_unlock(&n->call_lock);
    return ret;
}

void vs_doorbells_fork(void)
{
    pthread_mutex_init(&doorbells.lock, NULL);
    pthread_cond_init(&doorbells.cond, NULL);
    doorbells.list = NULL;
    doorbells.count = 0;
    doorbells.running = false;
}
