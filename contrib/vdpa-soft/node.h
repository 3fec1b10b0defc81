/*
 * vdpa-soft: a vhost-vdpa character device in user space
 *
 * Two layers are kept apart because they forget different things at a reset:
 * the vhost layer (owner, eventfds, IOTLB) and the driver below it (status,
 * features, translations).
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_NODE_H
#define VDPA_SOFT_NODE_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include "config.h"
#include "guard.h"

typedef struct VsNode VsNode;

/**
 * vs_nodes_init() - make the nodes that the environment describes
 * @real_sigaction: see vs_guard_install()
 *
 * Returns: how many there are; 0 if the program was not launched with any
 */
unsigned vs_nodes_init(VsSigaction *real_sigaction);

/** vs_nodes_exit() - the process ends: stop the devices, close the wires */
void vs_nodes_exit(void);

/** vs_nodes_open_fds() - call @found for each descriptor that is a node's */
void vs_nodes_open_fds(void (*found)(int fd));

/** vs_nodes_fork() - in a forked child, where no thread serves the nodes */
void vs_nodes_fork(void);

unsigned vs_nodes_count(void);
VsNode *vs_node_get(unsigned index);

/**
 * vs_nodes_memlock() - the least that --memlock of any node allows
 * @bytes: filled in; UINT64_MAX if there is no limit
 *
 * Returns: false if no node has that option
 */
bool vs_nodes_memlock(uint64_t *bytes);

/** vs_nodes_max_entries() - the least --max-entries of any node, 0: no limit */
unsigned vs_nodes_max_entries(void);

/** vs_node_by_path() - NULL if @path is not exactly a node's */
VsNode *vs_node_by_path(const char *path);

/**
 * vs_node_by_fd() - which node a descriptor refers to
 *
 * Returns: the node, or NULL; costs a system call
 */
VsNode *vs_node_by_fd(int fd);

unsigned vs_node_index(const VsNode *node);

/** vs_node_accmode() - O_RDONLY, O_WRONLY or O_RDWR, as it was opened */
int vs_node_accmode(const VsNode *node);

/**
 * vs_node_open() - open the node
 * @flags: as for open()
 *
 * Returns: a descriptor, or a negative errno
 */
int vs_node_open(VsNode *node, int flags);

/**
 * vs_node_ioctl(), vs_node_write(), vs_node_mmap() - a call on the node
 *
 * @fd: a descriptor of it
 *
 * From any thread; they serialise as in the kernel.  If another process serves
 * the node, it is asked.
 *
 * Returns: the result, or a negative errno
 */
int vs_node_ioctl(VsNode *node, int fd, uint32_t cmd, void *arg);
ssize_t vs_node_write(VsNode *node, int fd, const struct iovec *iov,
                      int count);
int vs_node_mmap(VsNode *node, int fd, void *addr, size_t length, int prot,
                 int flags, off_t offset, void **result);

/** vs_doorbells_mapped() - whether any doorbell page is mapped at all */
bool vs_doorbells_mapped(void);

/** vs_doorbells_unmap() - the program no longer has @addr..@addr + @length */
void vs_doorbells_unmap(void *addr, size_t length);

/**
 * vs_node_check_close() - see whether the last reference is gone
 *
 * If so the device has been reset when this returns.
 */
void vs_node_check_close(VsNode *node);

/**
 * struct VsValue - a scalar a person can ask for
 *
 * @text: NULL for a number
 */
typedef struct VsValue {
    uint64_t number;
    char text[32];
    bool is_text;
    bool is_bool;
} VsValue;

/**
 * vs_node_value() - one value by its name in `stats`, or "vq.N.FIELD"
 *
 * Returns: false if there is no such value
 */
bool vs_node_value(VsNode *node, const char *key, VsValue *value);

/** vs_node_wake_seq() - a number that changes with every value */
uint64_t vs_node_wake_seq(VsNode *node);

/**
 * vs_node_wait() - wait until vs_node_wake_seq() is no longer @seq
 * @deadline: CLOCK_MONOTONIC, in nanoseconds
 *
 * Returns: false if the deadline passed
 */
bool vs_node_wait(VsNode *node, uint64_t seq, int64_t deadline);

/* What the control socket shows: members of a JSON object, without braces */
void vs_node_summary_json(VsNode *node, GString *out);
void vs_node_stats_json(VsNode *node, GString *out);
void vs_node_mappings_json(VsNode *node, GString *out);
void vs_node_faults_json(VsNode *node, GString *out);
void vs_node_captured_json(VsNode *node, GString *out);

/*
 * What it can do.  Those that can fail return false then, with a sentence in
 * @error.
 */
void vs_node_clear(VsNode *node);
bool vs_node_set_link(VsNode *node, bool up, char **error);
bool vs_node_announce(VsNode *node, char **error);
bool vs_node_needs_reset(VsNode *node, char **error);
void vs_node_add_rule(VsNode *node, const VsRule *rule);
void vs_node_clear_rules(VsNode *node);
void vs_node_set_slow(VsNode *node, const char *call, unsigned ms);
void vs_node_set_slow_pin(VsNode *node, unsigned ms);
void vs_node_set_paused(VsNode *node, bool paused);
bool vs_node_inject(VsNode *node, const void *frame, size_t size, int vq,
                    char **error);
void vs_node_set_capture(VsNode *node, bool on);

/**
 * vs_control_start() - serve the control socket in this process
 *
 * Takes the path over from a process that served it before.  Does nothing
 * if this process already serves it, or no path was given.
 */
void vs_control_start(void);

/** vs_control_exit() - remove the socket if it is this process's */
void vs_control_exit(void);

/** vs_control_fork() - in a forked child: forget the parent's socket */
void vs_control_fork(void);

/**
 * vs_thread_start() - start a detached thread that takes no signals
 * @name: at most 15 characters
 *
 * Returns: 0 or a negative errno
 */
int vs_thread_start(const char *name, void *(*run)(void *), void *arg);

/** vs_fd_high() - move @fd away from the numbers a program would get */
int vs_fd_high(int fd);

#endif
