/*
 * vhost-vdpa conformance: what the sections of cases share
 *
 * The program makes calls on a vhost-vdpa node and prints each with what came
 * of it.  It judges nothing: two transcripts are compared, a kernel's and the
 * software device's, or those of two kernels.  Hence a line says nothing that
 * differs from run to run: no address or descriptor of this process, no time.
 *
 * A case begins with no node open, memory or eventfd there, and what it leaves
 * is taken away after it.  What it prints may depend on no other case.
 *
 * All functions that print a line do so after the call.  Those that fail for a
 * reason that is not the node's, such as a lack of memory, end the program.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_CONFORMANCE_H
#define VDPA_CONFORMANCE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "compat.h"

#define PAGE UINT64_C(4096)

/* Status bits */
#define S_ACKNOWLEDGE 0x01
#define S_DRIVER      0x02
#define S_DRIVER_OK   0x04
#define S_FEATURES_OK 0x08
#define S_NEEDS_RESET 0x40
#define S_FAILED      0x80

/* Device features */
#define F_MTU             (1ULL << 3)
#define F_MAC             (1ULL << 5)
#define F_STATUS          (1ULL << 16)
#define F_CTRL_VQ         (1ULL << 17)
#define F_CTRL_MAC_ADDR   (1ULL << 23)
#define F_ANY_LAYOUT      (1ULL << 27)
#define F_VERSION_1       (1ULL << 32)
#define F_ACCESS_PLATFORM (1ULL << 33)
#define F_RING_PACKED     (1ULL << 34)
#define F_MODERN          (F_VERSION_1 | F_ACCESS_PLATFORM)

/* A backend feature, by the name of its bit */
#define BACKEND(name) (1ULL << VHOST_BACKEND_F_##name)

/* Permissions of a mapping */
#define RO 1
#define WO 2
#define RW 3

/**
 * Case - one case of a section
 * @name: without the section; lower case, words joined by '-'
 * @run: makes the calls
 */
typedef struct Case {
    const char *name;
    void (*run)(void);
} Case;

/* The sections, each ends with an entry without a name */
extern const Case calls_cases[];
extern const Case process_cases[];
extern const Case iotlb_cases[];
extern const Case rings_cases[];

/**
 * process_main() - what the program does where it executed itself
 *
 * Returns: the exit status
 */
int process_main(int argc, char **argv);

/*
 * The transcript
 */

/** say() - print one line, without its line break, whole */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** say_as() - what precedes each line from now on, "child: " say; "" again */
void say_as(const char *prefix);

/** left_out() - print that something is not tried, and why */
void left_out(const char *what, const char *why);

/**
 * error_name() - the name of an errno, or "0"
 *
 * Returns: a string that lives until the eighth call after this one
 */
const char *error_name(int error);

/**
 * result_name() - what a call returned: its number, or the name of its errno
 * @ret: what it returned; -1 stands for errno
 *
 * Returns: as error_name()
 */
const char *result_name(long ret);

/**
 * addr_name() - how an address is printed: "name[page]+offset" for memory of
 * mem_shared() and the like, else the number
 *
 * Returns: as error_name()
 */
const char *addr_name(uint64_t addr);

/** fd_name() - "name" of an eventfd or of name_fd(), else the number */
const char *fd_name(int fd);

/** name_fd() - how a descriptor is printed until the end of the case */
void name_fd(int fd, const char *name);

/** die() - end the program: its surroundings are not what it needs */
void die(const char *format, ...)
    __attribute__((format(printf, 1, 2), noreturn));

/*
 * The node
 */

/* As given to the program */
extern const char *node_path;

/* The open node, or -1.  A case may set it, and closes what it took away. */
extern int node;

/**
 * node_open() - open the node; O_CLOEXEC is added
 *
 * Returns: 0, with @node set, or an errno
 */
int node_open(int flags);

/** node_open_owned() - open for both and take ownership: two lines */
void node_open_owned(void);

/** node_close() - close @node, if open, and say so */
void node_close(void);

/**
 * node_write() - write to the node
 * @what: what is printed as the call
 *
 * Returns: what write() returned
 */
long node_write(const char *what, const void *data, size_t size);

/** node_writev() - the same with several buffers */
long node_writev(const char *what, const struct iovec *iov, int count);

/*
 * The ioctls.  Each prints "NAME ARGUMENTS -> RESULT WHAT-IT-GAVE" and returns
 * 0 or an errno.
 */

/**
 * call() - any ioctl
 * @what: what is printed as the call
 *
 * Nothing is printed of what it gave.
 */
int call(const char *what, unsigned long cmd, const void *arg);

int vdpa_set_owner(void);
int vdpa_get_features(uint64_t *features);
int vdpa_set_features(uint64_t features);
int vdpa_get_backend_features(uint64_t *features);
int vdpa_set_backend_features(uint64_t features);
int vdpa_get_device_id(uint32_t *id);
int vdpa_get_status(uint8_t *status);
int vdpa_set_status(uint8_t status);
int vdpa_get_config(uint32_t off, uint32_t len, void *data);
int vdpa_set_config(uint32_t off, uint32_t len, const void *data);
int vdpa_get_config_size(uint32_t *size);
int vdpa_set_config_call(int fd);
int vdpa_get_vring_num(uint16_t *num);
int vdpa_get_iova_range(uint64_t *first, uint64_t *last);
int vdpa_get_as_num(uint32_t *num);
int vdpa_get_group_num(uint32_t *num);
int vdpa_get_vqs_count(uint32_t *num);
int vdpa_suspend(void);
int vdpa_resume(void);

int vdpa_set_vring_num(uint32_t vq, uint32_t num);
int vdpa_set_vring_base(uint32_t vq, uint32_t num);
int vdpa_get_vring_base(uint32_t vq, uint32_t *num);

/** vdpa_set_vring_addr() - IOVAs, which are printed as numbers */
int vdpa_set_vring_addr(uint32_t vq, uint32_t flags, uint64_t desc,
                        uint64_t avail, uint64_t used, uint64_t log);
int vdpa_set_vring_kick(uint32_t vq, int fd);
int vdpa_set_vring_call(uint32_t vq, int fd);
int vdpa_set_vring_err(uint32_t vq, int fd);
int vdpa_set_vring_enable(uint32_t vq, uint32_t enable);
int vdpa_get_vring_size(uint32_t vq, uint32_t *num);
int vdpa_get_vring_group(uint32_t vq, uint32_t *group);
int vdpa_get_vring_desc_group(uint32_t vq, uint32_t *group);
int vdpa_set_group_asid(uint32_t group, uint32_t asid);
int vdpa_set_vring_busyloop(uint32_t vq, uint32_t value);
int vdpa_get_vring_busyloop(uint32_t vq, uint32_t *value);

/* What a query gives may be NULL, here as above: then it is only printed. */

/*
 * Memory.  @name is what stands in the transcript, a constant.
 */

/** mem_shared() - @pages of zeroes that are a shared mapping of a file */
uint8_t *mem_shared(const char *name, size_t pages);

/** mem_private() - as malloc() would give it */
uint8_t *mem_private(const char *name, size_t pages);

/** mem_map() - any other kind, as mmap() */
uint8_t *mem_map(const char *name, size_t pages, int prot, int flags, int fd,
                 uint64_t offset);

/** mem_file() - a file of zeroes in memory, to be closed by the caller */
int mem_file(size_t pages);

/**
 * mem_gone() - unmap memory of the above, all of it
 *
 * Its addresses still have their name.
 */
void mem_gone(uint8_t *mem);

/** mem_nowhere() - an address at which nothing is mapped, "nowhere[0]+0" */
void *mem_nowhere(void);

/*
 * IOTLB messages.  Each prints a line and returns what write() returned.
 */

/** iotlb_update() - @asid counts only where the backend feature is acked */
long iotlb_update(uint32_t asid, uint64_t iova, uint64_t size,
                  const void *addr, uint8_t perm);
long iotlb_invalidate(uint32_t asid, uint64_t iova, uint64_t size);
long iotlb_batch_begin(uint32_t asid);
long iotlb_batch_end(uint32_t asid);

/**
 * iotlb_message() - any message
 * @version: VHOST_IOTLB_MSG or VHOST_IOTLB_MSG_V2 or neither
 * @bytes: how many are written, 72 are whole
 *
 * All is printed, as "IOTLB_MSG v2 type=2 asid=0 ...".
 */
long iotlb_message(uint32_t version, uint32_t asid, uint8_t type,
                   uint64_t iova, uint64_t size, uint64_t uaddr,
                   uint8_t perm, size_t bytes);

/*
 * Eventfds
 */

/**
 * event_new() - an eventfd that does not block
 * @name: what stands in the transcript, a constant
 */
int event_new(const char *name);

/** event_add() - add to its counter, as a kick does with 1 */
void event_add(int fd, uint64_t value);

/** event_take() - print its counter and make it 0 */
uint64_t event_take(int fd);

/**
 * event_wait() - wait until its counter is not 0; take it
 *
 * Prints only whether it was, since how often is a matter of time.
 *
 * Returns: the counter, 0 if nothing came within the deadline
 */
uint64_t event_wait(int fd);

/** event_close() - close it before the end of the case */
void event_close(int fd);

#endif
