/*
 * vdpa-soft: kicks and hang-ups
 *
 * The kernel calls a driver from within the write to its kick eventfd.  Here
 * a thread waits for the write, without consuming what was written; an ioctl
 * that comes before the thread does looks for itself.
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
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "node-int.h"

/* What an event is about: a socket of some node, or a virtqueue's kick */
#define VS_KEY_SOCKET UINT64_MAX
#define KEY(node, vq, gen) \
    ((uint64_t)(gen) << 32 | (uint64_t)(node) << 16 | (vq))

static pthread_mutex_t event_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int event_epoll = -1;     /* -1: there is no thread yet */

/*
 * Held from taking events to having acted on them, so that who has it knows
 * of all that was written before.
 */
static pthread_mutex_t take_lock = PTHREAD_MUTEX_INITIALIZER;

static void on_kick(uint64_t key)
{
    VsNode *n = vs_node_get(key >> 16 & 0xffff);
    unsigned vq = key & 0xffff;

    /* not the device's lock as well: a kick need not wait for a pass */
    pthread_mutex_lock(&n->lock);
    /* it may have been replaced after this event was fetched */
    if (n->open && n->net && n->vq[vq].kick_fd >= 0 &&
        n->vq[vq].kick_gen == key >> 32) {
        vs_driver_kick(n, vq);
    }
    pthread_mutex_unlock(&n->lock);
    vs_node_wake(n);
}

/*
 * Returns: whether some socket is to be looked at.  Unlike a kick that is
 * reported until it is dealt with, which can only be done without any lock.
 */
static bool take_events(int epoll)
{
    struct epoll_event event[64];
    bool socket = false, kick;
    int i, count;

    pthread_mutex_lock(&take_lock);
    do {
        kick = false;
        count = epoll_wait(epoll, event, G_N_ELEMENTS(event), 0);
        for (i = 0; i < count; i++) {
            if (event[i].data.u64 == VS_KEY_SOCKET) {
                socket = true;
            } else {
                kick = true;
                on_kick(event[i].data.u64);
            }
        }
    } while (kick && count == G_N_ELEMENTS(event));
    pthread_mutex_unlock(&take_lock);
    return socket;
}

static void *event_thread(void *opaque)
{
    struct pollfd p = { .fd = (intptr_t)opaque, .events = POLLIN };
    unsigned i;

    for (;;) {
        if (poll(&p, 1, -1) == 1 && take_events(p.fd)) {
            for (i = 0; i < vs_nodes_count(); i++) {
                vs_node_check_close(vs_node_get(i));
                vs_remote_accept(vs_node_get(i));
            }
        }
    }
    return NULL;
}

void vs_events_sync(void)
{
    if (event_epoll >= 0) {
        take_events(event_epoll);
    }
}

int vs_events_start(void)
{
    int fd, ret = 0;

    pthread_mutex_lock(&event_lock);
    if (event_epoll < 0) {
        fd = vs_fd_high(epoll_create1(EPOLL_CLOEXEC));
        if (fd < 0) {
            ret = -errno;
        } else {
            ret = vs_thread_start("vdpa-soft-kick", event_thread,
                                  (void *)(intptr_t)fd);
            if (ret < 0) {
                close(fd);
            } else {
                event_epoll = fd;
            }
        }
    }
    pthread_mutex_unlock(&event_lock);
    return ret;
}

void vs_events_fork(void)
{
    pthread_mutex_init(&event_lock, NULL);
    pthread_mutex_init(&take_lock, NULL);
    event_epoll = -1;
}

int vs_events_watch(int fd)
{
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLHUP,
        .data.u64 = VS_KEY_SOCKET,
    };

    return epoll_ctl(event_epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno
                                                                 : 0;
}

/* Forked children may share the file, so closing it is not enough. */
void vs_events_forget(int *fd)
{
    if (*fd >= 0) {
        epoll_ctl(event_epoll, EPOLL_CTL_DEL, *fd, NULL);
        close(*fd);
        *fd = -1;
    }
}

int vs_eventfd_get(const VsCaller *who, int fd, int *copy)
{
    char path[48], target[48];
    struct stat st;
    ssize_t len;
    int own;

    *copy = -1;
    if (fd == -1) {
        return 0;
    }
    own = vs_caller_descriptor(who, fd);
    if (own < 0) {
        return own;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", own);
    len = readlink(path, target, sizeof(target) - 1);
    if (len >= 0) {
        target[len] = 0;
        if (!strstr(target, "[eventfd")) {
            /* it may be a node's, on which close() is a call */
            syscall(SYS_close, own);
            return -EINVAL;
        }
    } else if (fstat(own, &st) == 0 && (st.st_mode & S_IFMT) != 0) {
        /* no /proc; an eventfd at least has no file type */
        syscall(SYS_close, own);
        return -EINVAL;
    }
    *copy = own;
    return 0;
}

/* What tells an eventfd from others, or -1 where the kernel does not tell */
static long eventfd_id(int fd)
{
    char path[48], *line = NULL;
    size_t size = 0;
    long id = -1;
    FILE *info;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    info = fopen(path, "re");
    if (!info) {
        return -1;
    }
    while (id < 0 && getline(&line, &size, info) > 0) {
        if (sscanf(line, "eventfd-id: %ld", &id) != 1) {
            id = -1;
        }
    }
    free(line);
    fclose(info);
    return id;
}

int vs_kick_set(VsNode *n, unsigned i, int fd)
{
    VsVq *vq = &n->vq[i];
    struct epoll_event event = { .events = EPOLLIN | EPOLLET };

    if (fd >= 0 && vq->kick_fd >= 0) {
        long id = eventfd_id(fd);

        if (id >= 0 && id == eventfd_id(vq->kick_fd)) {
            /* the same again is not looked at again */
            close(fd);
            return 0;
        }
    }
    vs_events_forget(&vq->kick_fd);
    vq->kick_gen++;
    if (fd < 0) {
        return 0;
    }
    /*
     * Edge-triggered: one event for each write, and one for what was
     * written before, though nobody ever reads.
     */
    event.data.u64 = KEY(n->index, i, vq->kick_gen);
    if (epoll_ctl(event_epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        int err = errno;

        close(fd);
        return -err;
    }
    vq->kick_fd = fd;
    return 0;
}
