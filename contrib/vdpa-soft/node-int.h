/*
 * vdpa-soft: what the parts of a node share
 *
 * Locks, in the order they are taken:
 *   call_lock   one call at a time, as the kernel's own mutex; held while a
 *               slow call sleeps, and the mappings change only under it
 *   lock        everything in VsNode that the control socket looks at
 *   the device's lock (vs_net_lock()), under which it calls back; what the
 *               callbacks read is changed only under it
 *   wake_lock, the transcript's lock: nothing is taken inside
 * "Locked" below means with the last two of a node's own, vs_node_lock().
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_NODE_INT_H
#define VDPA_SOFT_NODE_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include "device.h"
#include "iotlb.h"
#include "node.h"

#define VS_S_DRIVER_OK 0x04
#define VS_S_FEATURES_OK 0x08
#define VS_S_NEEDS_RESET 0x40
#define VS_S_FAILED 0x80

#define VS_F_CTRL_VQ (1ULL << 17)
#define VS_F_GUEST_ANNOUNCE (1ULL << 21)
#define VS_F_MQ (1ULL << 22)
#define VS_F_ACCESS_PLATFORM (1ULL << 33)
#define VS_F_RING_PACKED (1ULL << 34)

#define VS_GROUP_DATA 0
#define VS_GROUP_CTRL 1
#define VS_GROUP_DESC 2
#define VS_MAX_GROUPS 3

#define VS_MAX_FAULTS 256
#define VS_MAX_CAPTURED 16384

#define VS_NSEC 1000000000LL

typedef struct VsVq {
    int kick_fd;
    uint32_t kick_gen;      /* tells a kick of an earlier eventfd */
    int call_fd;
    bool call_installed;    /* the driver's own record, lost at a reset */
    int err_fd;
    uint32_t busyloop;
    bool ready;
} VsVq;

typedef struct VsFault {
    uint32_t asid;
    uint64_t iova;
    uint64_t size;
    bool write;
    const char *why;
} VsFault;

struct VsNode {
    unsigned index;
    VsNodeConfig *cfg;
    pthread_mutex_t call_lock;
    pthread_mutex_t lock;
    VsNet *net;             /* made at the first open */
    unsigned nvqs;
    unsigned ngroups;

    /* the open file */
    atomic_bool open;
    _Atomic uint64_t inode; /* of the client's end, 0 if not open */
    _Atomic uint64_t foreign;   /* that of a node another process serves */
    int accmode;
    int server_fd;
    int busy_fd;            /* its name marks the node as open */
    bool inherited;         /* open since launch, no call made yet */

    /* the vhost layer */
    uint64_t owner;         /* see VsCaller; 0: nobody */
    uint64_t backend_acked;
    uint64_t features_copy; /* decides how ring bases are encoded */
    bool suspended;
    bool in_batch;
    uint32_t batch_asid;
    uint8_t fork_owner;
    VsIotlb **as;           /* NULL: never named */
    VsVq *vq;
    int config_fd;

    /* the driver; config_installed and dtab are read by callbacks */
    uint8_t status;
    bool stray;             /* it was given features it does not have */
    bool dev_suspended;
    bool paused;
    bool running;
    bool kick_pending;
    bool config_installed;
    uint32_t group_asid[VS_MAX_GROUPS];
    VsIotlb **dtab;         /* translations the device uses */
    bool *dtab_default;     /* there are none yet: pass-through */

    /* counters; faults, calls and frames under the device's lock */
    uint64_t ioctls;
    uint64_t messages;
    uint64_t largest_update;    /* bytes */
    uint64_t pinning;       /* bytes of the update that is waiting */
    double pinned_ms;       /* of all updates; waited in whole milliseconds */
    uint64_t kicks;
    uint64_t config_interrupts;
    uint64_t fault_count;
    VsFault fault[VS_MAX_FAULTS];
    bool capture;
    GQueue captured;        /* GBytes */

    pthread_mutex_t wake_lock;
    pthread_cond_t wake;
    uint64_t wake_seq;
    bool exiting;           /* the process ends: no call sleeps on */
};

/**
 * struct VsCaller - who makes a call
 * @fd: where to ask for its memory and descriptors; -1: it is this process
 * @id: tells a process from others, also from itself before an execution;
 *      never 0
 */
typedef struct VsCaller {
    int fd;
    uint64_t id;
} VsCaller;

/*
 * node.c
 */

void vs_node_lock(VsNode *n);
void vs_node_unlock(VsNode *n);

/** vs_node_wake() - some value changed; any thread, any lock */
void vs_node_wake(VsNode *n);

/**
 * vs_node_attach() - begin to serve a descriptor given at the start
 *
 * Which process is to serve it shows in the first call on it.  To be called
 * at the beginning of every call, with call_lock held.
 *
 * Returns: 0 or a negative errno, which is the result of the call
 */
int vs_node_attach(VsNode *n);

/**
 * vs_call_injected() - count a call and ask whether it is to fail
 *
 * Returns: the errno it is to fail with, or 0
 */
int vs_call_injected(VsNode *n, const char *name);

/** vs_call_delay() - sleep if the call is a slow one */
void vs_call_delay(VsNode *n, const char *name);

/**
 * vs_call_sleep() - let a call take some time
 * @ms: how many milliseconds
 *
 * With call_lock held, so that other calls wait, and none inside it.  Does
 * not return if the process ends meanwhile: no system call would.
 */
void vs_call_sleep(VsNode *n, uint64_t ms);

/** vs_clock_ns() - CLOCK_MONOTONIC in nanoseconds */
int64_t vs_clock_ns(void);

/** vs_nodes_guard() - be ready for bad pointers, as vs_guard_install() */
void vs_nodes_guard(void);

/** vs_node_check_close_locked() - as vs_node_check_close(), call_lock held */
void vs_node_check_close_locked(VsNode *n);

/**
 * vs_node_served() - whether it is this process that serves a descriptor
 * @fd: one of @n
 *
 * A descriptor from before the start is attached to.
 *
 * Returns: 1, 0 if another process does, or a negative errno
 */
int vs_node_served(VsNode *n, int fd);

/** vs_close_fd() - close *@fd unless it is -1, and make it so */
void vs_close_fd(int *fd);

/*
 * driver.c: what the kernel would ask the vDPA device.  All locked, but for
 * vs_driver_kick().
 */

/** vs_driver_host() - what the network device is to call */
void vs_driver_host(VsNode *n, VsHost *host);

/** vs_driver_is_ctrl() - whether @vq is the control queue, as negotiated */
bool vs_driver_is_ctrl(const VsNode *n, unsigned vq);
unsigned vs_driver_group(const VsNode *n, unsigned vq);
unsigned vs_driver_desc_group(const VsNode *n, unsigned vq);

/** vs_driver_apply_asids() - after anything the address spaces depend on */
void vs_driver_apply_asids(VsNode *n);

/** vs_driver_update_running() - after a change of status or suspension */
void vs_driver_update_running(VsNode *n);

/** vs_driver_reset_map() - forget the translations of an address space */
void vs_driver_reset_map(VsNode *n, uint32_t asid);

/** vs_driver_push_map() - take over the vhost layer's translations */
void vs_driver_push_map(VsNode *n, uint32_t asid);

/** vs_driver_reset() - @clean_map: if the driver is one that would */
void vs_driver_reset(VsNode *n, bool clean_map);

/** vs_driver_index_valid() - mlx5 knows its queues only by the features */
bool vs_driver_index_valid(const VsNode *n, unsigned vq);

/** vs_driver_kick() - a doorbell of @vq; n->lock is enough */
void vs_driver_kick(VsNode *n, unsigned vq);

/** vs_driver_config_changed() - a config interrupt, if it has them */
void vs_driver_config_changed(VsNode *n);

/*
 * message.c
 */

/** vs_remove_mappings() - whole entries that touch the range; locked */
void vs_remove_mappings(VsNode *n, uint32_t asid, uint64_t first,
                        uint64_t last);

/*
 * event.c: the thread that waits for kicks and hang-ups
 */

/** vs_events_start() - 0 or a negative errno; again does no harm */
int vs_events_start(void);

/** vs_events_fork() - in a forked child */
void vs_events_fork(void);

/**
 * vs_events_sync() - let the kicks that were written so far arrive
 *
 * With call_lock held, and none of the locks inside it.
 */
void vs_events_sync(void);

/**
 * vs_events_watch() - look at the nodes when a socket hangs up or has a
 *                     message
 *
 * Returns: 0 or a negative errno
 */
int vs_events_watch(int fd);

/** vs_events_forget() - stop waiting for *@fd and close it, unless -1 */
void vs_events_forget(int *fd);

/**
 * vs_eventfd_get() - take a reference on a client's eventfd
 * @fd: as the caller names it
 * @copy: receives a descriptor of our own, or -1 for @fd == -1
 *
 * Returns: 0 or a negative errno
 */
int vs_eventfd_get(const VsCaller *who, int fd, int *copy);

/**
 * vs_kick_set() - replace the kick eventfd of a virtqueue; locked
 * @fd: owned, or -1
 *
 * Returns: 0 or a negative errno
 */
int vs_kick_set(VsNode *n, unsigned vq, int fd);

/*
 * ioctl.c, message.c: calls, whoever makes them
 */

/** vs_node_ioctl_for() - as vs_node_ioctl() in the process that serves @n */
int vs_node_ioctl_for(VsNode *n, const VsCaller *who, uint32_t cmd,
                      void *arg);

/**
 * vs_node_write_for() - as vs_node_write() there
 * @got: how many bytes there are, at most 40, or a negative errno
 */
ssize_t vs_node_write_for(VsNode *n, const VsCaller *who, int got,
                          const uint8_t *buf);

/*
 * remote.c: calls from one process to another
 */

/** vs_caller_self() - this process */
VsCaller vs_caller_self(void);

/** vs_caller_renew() - this process is another one from now on */
void vs_caller_renew(void);

/**
 * vs_caller_load() / vs_caller_store() - the memory of who makes a call
 *
 * Returns: false if some byte could not be accessed
 */
bool vs_caller_load(const VsCaller *who, void *dst, const void *user,
                    size_t size);
bool vs_caller_store(const VsCaller *who, void *user, const void *src,
                     size_t size);

/** vs_caller_descriptor() - a copy of the caller's, or a negative errno */
int vs_caller_descriptor(const VsCaller *who, int fd);

/**
 * vs_remote_ioctl() / vs_remote_write() - have a call made by the server
 * @fd: the descriptor of the node
 * @got: as for vs_node_write_for()
 *
 * Returns: the result or a negative errno; -EIO if there is no server
 */
int vs_remote_ioctl(int fd, uint32_t cmd, void *arg);
ssize_t vs_remote_write(int fd, int got, const uint8_t *buf);

/** vs_remote_accept() - begin to answer what other processes asked for */
void vs_remote_accept(VsNode *n);

/** vs_remote_fork() - in a forked child, which has no thread for that */
void vs_remote_fork(void);

/** vs_doorbells_fork() - in a forked child, which has no doorbell thread */
void vs_doorbells_fork(void);

#endif
