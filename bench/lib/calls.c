/*
 * Count what a program asks of a vhost-vDPA node, as a preloaded library
 *
 * The file that CALLS names is made to hold the Calls below. Nothing is kept
 * apart by node.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_FDS 4096
#define NS_PER_S 1000000000ull

/* See calls.py */
typedef struct Calls {
    /* By CLOCK_MONOTONIC: start of the program, the first DRIVER_OK */
    uint64_t started;
    uint64_t ready;
    uint64_t updates;
    uint64_t invalidates;
    /* Markers of batches */
    uint64_t markers;
    /* Bytes that were mapped, however often */
    uint64_t mapped;
    uint64_t ioctls;
    uint64_t failed;
    /* Nanoseconds in all these calls */
    uint64_t ns;
} Calls;

static Calls nowhere, *calls = &nowhere;
/* Those that took an ioctl of vhost */
static bool nodes[MAX_FDS];
static int (*real_ioctl)(int fd, unsigned long request, ...);
static ssize_t (*real_write)(int fd, const void *data, size_t size);

static uint64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * NS_PER_S + time.tv_nsec;
}

static void add(uint64_t *number, uint64_t more)
{
    __atomic_fetch_add(number, more, __ATOMIC_RELAXED);
}

static void *original(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);

    if (!found) {
        fprintf(stderr, "calls: there is no function %s to count\n", name);
        abort();
    }
    return found;
}

static void __attribute__((constructor)) begin(void)
{
    const char *path = getenv("CALLS");
    int fd;

    real_ioctl = original("ioctl");
    real_write = original("write");
    if (!path) {
        return;
    }
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(*calls))) {
        perror(path);
        abort();
    }
    calls = mmap(NULL, sizeof(*calls), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                 0);
    if (calls == MAP_FAILED) {
        perror(path);
        abort();
    }
    close(fd);
    calls->started = now();
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
    va_list args;
    void *arg;
    uint64_t start;
    int ret;

    va_start(args, request);
    arg = va_arg(args, void *);
    va_end(args);
    /* Libraries may need it before this one's turn to begin */
    if (!real_ioctl) {
        real_ioctl = original("ioctl");
    }
    if (_IOC_TYPE(request) != VHOST_VIRTIO) {
        return real_ioctl(fd, request, arg);
    }

    start = now();
    ret = real_ioctl(fd, request, arg);
    add(&calls->ns, now() - start);
    add(&calls->ioctls, 1);
    if (ret < 0) {
        add(&calls->failed, 1);
        return ret;
    }
    if (fd >= 0 && fd < MAX_FDS) {
        nodes[fd] = true;
    }
    if (request == VHOST_VDPA_SET_STATUS && !calls->ready &&
        *(const uint8_t *)arg & VIRTIO_CONFIG_S_DRIVER_OK) {
        calls->ready = now();
    }
    return ret;
}

static void count(const struct vhost_msg_v2 *message)
{
    switch (message->iotlb.type) {
    case VHOST_IOTLB_UPDATE:
        add(&calls->updates, 1);
        add(&calls->mapped, message->iotlb.size);
        break;
    case VHOST_IOTLB_INVALIDATE:
        add(&calls->invalidates, 1);
        break;
    case VHOST_IOTLB_BATCH_BEGIN:
    case VHOST_IOTLB_BATCH_END:
        add(&calls->markers, 1);
        break;
    }
}

EXPORT ssize_t write(int fd, const void *data, size_t size)
{
    uint64_t start;
    ssize_t ret;

    if (!real_write) {
        real_write = original("write");
    }
    if (fd < 0 || fd >= MAX_FDS || !nodes[fd] ||
        size != sizeof(struct vhost_msg_v2)) {
        return real_write(fd, data, size);
    }

    start = now();
    ret = real_write(fd, data, size);
    add(&calls->ns, now() - start);
    if (ret < 0) {
        add(&calls->failed, 1);
    }
    count(data);
    return ret;
}
