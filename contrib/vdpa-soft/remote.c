/*
 * vdpa-soft: calls of processes that have a node and do not serve it
 *
 * A descriptor may be inherited by a child, passed on, or kept over an
 * execution.  What is behind it stays where it is, in the process that opened
 * it; the others ask that one.
 *
 * A request is one byte to the node's own socket, and with it one end of a
 * pair of sockets, in which the call already is, so that nobody need wait for
 * it.  The server then makes the call as if it was its own, but for the
 * caller's memory and descriptors, which it asks for as it needs them, and for
 * the caller's being somebody else.
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
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "guard.h"
#include "node-int.h"

#define MAX_DATA 4096

/* How long a caller may take to answer, in milliseconds */
#define ANSWER_DEADLINE 10000

typedef enum Op {
    OP_IOCTL,       /* addr: argument, number: command, id */
    OP_WRITE,       /* number: bytes gathered or -errno, data, id */
    OP_LOAD,        /* of the caller's memory: addr, size */
    OP_STORE,       /* to it: addr, data */
    OP_DESCRIPTOR,  /* a copy of the caller's: number */
    OP_ANSWER,      /* to one of the three: number, data or a descriptor */
    OP_RESULT,      /* the call's: number */
} Op;

typedef struct Packet {
    uint32_t op;
    uint32_t size;      /* of data, or that is asked for */
    int64_t number;
    uint64_t addr;
    uint64_t id;
    uint8_t data[MAX_DATA];
} Packet;

#define PACKET_HEAD offsetof(Packet, data)

/* A message with one descriptor has room for another, for alignment */
#define CONTROL_SIZE CMSG_SPACE(sizeof(int))
#define CONTROL_FDS ((CONTROL_SIZE - CMSG_LEN(0)) / sizeof(int))

/*
 * Who somebody is
 */

static _Atomic uint64_t self_id;

void vs_caller_renew(void)
{
    uint64_t id = 0;

    if (getrandom(&id, sizeof(id), GRND_NONBLOCK) != sizeof(id)) {
        id = vs_clock_ns() ^ (uint64_t)getpid() << 40;
    }
    self_id = id ? id : 1;
}

VsCaller vs_caller_self(void)
{
    return (VsCaller) { .fd = -1, .id = self_id };
}

/*
 * Packets
 */

static bool send_packet(int fd, const Packet *p, int passed)
{
    char control[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec iov = {
        .iov_base = (void *)(uintptr_t)p,
        .iov_len = PACKET_HEAD + (p->op == OP_LOAD ? 0 : p->size),
    };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    ssize_t ret;

    if (passed >= 0) {
        struct cmsghdr *c;

        msg.msg_control = control;
        msg.msg_controllen = sizeof(control);
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(passed));
        memcpy(CMSG_DATA(c), &passed, sizeof(passed));
    }
    do {
        ret = sendmsg(fd, &msg, MSG_NOSIGNAL);
    } while (ret < 0 && errno == EINTR);
    return ret == (ssize_t)iov.iov_len;
}

/* Returns: a descriptor that came with a message, or -1 */
static int take_descriptor(struct msghdr *msg)
{
    struct cmsghdr *c = CMSG_FIRSTHDR(msg);
    int fds[CONTROL_FDS] = { -1 };
    size_t i, count;

    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
        return -1;
    }
    count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(fds[0]);
    count = MIN(count, CONTROL_FDS);
    memcpy(fds, CMSG_DATA(c), count * sizeof(fds[0]));
    for (i = 1; i < count; i++) {
        /* nobody of ours sends more than one */
        vs_close_fd(&fds[i]);
    }
    return fds[0];
}

/*
 * @flags: as for recvmsg()
 * @passed: receives a descriptor that came along, or -1; or NULL
 *
 * Returns: false if nothing more will come
 */
static bool receive_packet(int fd, Packet *p, int flags, int *passed)
{
    char control[CONTROL_SIZE] = { 0 };
    struct iovec iov = { .iov_base = p, .iov_len = sizeof(*p) };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = passed ? control : NULL,
        .msg_controllen = passed ? sizeof(control) : 0,
    };
    ssize_t ret;

    do {
        ret = recvmsg(fd, &msg, flags | MSG_CMSG_CLOEXEC);
    } while (ret < 0 && errno == EINTR);
    if (passed) {
        *passed = ret > 0 ? take_descriptor(&msg) : -1;
    }
    return ret >= (ssize_t)PACKET_HEAD &&
           p->size <= (p->op == OP_LOAD ? MAX_DATA
                                        : (size_t)ret - PACKET_HEAD);
}

/*
 * In the server: what a call needs of who made it
 */

/* Returns: whether it answered, with a number of 0 or more */
static bool ask(const VsCaller *who, Packet *p, int *passed)
{
    struct pollfd readable = { .fd = who->fd, .events = POLLIN };
    int ret;

    if (!send_packet(who->fd, p, -1)) {
        return false;
    }
    do {
        ret = poll(&readable, 1, ANSWER_DEADLINE);
    } while (ret < 0 && errno == EINTR);
    return ret == 1 && receive_packet(who->fd, p, 0, passed) &&
           p->op == OP_ANSWER && p->number >= 0;
}

bool vs_caller_load(const VsCaller *who, void *dst, const void *user,
                    size_t size)
{
    size_t done, part;

    if (who->fd < 0) {
        return vs_guard_from_user(dst, user, size);
    }
    for (done = 0; done < size; done += part) {
        Packet p = {
            .op = OP_LOAD,
            .addr = (uintptr_t)user + done,
            .size = part = MIN(size - done, MAX_DATA),
        };

        if (!ask(who, &p, NULL) || p.size != part) {
            return false;
        }
        memcpy((uint8_t *)dst + done, p.data, part);
    }
    return true;
}

bool vs_caller_store(const VsCaller *who, void *user, const void *src,
                     size_t size)
{
    size_t done, part;

    if (who->fd < 0) {
        return vs_guard_to_user(user, src, size);
    }
    for (done = 0; done < size; done += part) {
        Packet p = {
            .op = OP_STORE,
            .addr = (uintptr_t)user + done,
            .size = part = MIN(size - done, MAX_DATA),
        };

        memcpy(p.data, (const uint8_t *)src + done, part);
        if (!ask(who, &p, NULL)) {
            return false;
        }
    }
    return true;
}

int vs_caller_descriptor(const VsCaller *who, int fd)
{
    Packet p = { .op = OP_DESCRIPTOR, .number = fd };
    int own = -1;

    if (who->fd >= 0) {
        if (ask(who, &p, &own) && own >= 0) {
            return vs_fd_high(own);
        }
        /* it may have come with an answer that is none */
        vs_close_fd(&own);
        return -EBADF;
    }
    own = fcntl(fd, F_DUPFD_CLOEXEC, 512);
    if (own < 0 && errno != EBADF) {
        /* the limit may be below the numbers we like */
        own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
    return own < 0 ? -errno : own;
}

/*
 * In the caller
 */

/*
 * Returns: our end of a pair of sockets whose other end the server has, with
 *          the call in it, or a negative errno
 */
static int reach(int fd, const Packet *call)
{
    char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 0;
    struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    struct pollfd writable = { .fd = fd, .events = POLLOUT };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    ssize_t ret;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return -errno;
    }
    send_packet(pair[0], call, -1);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(pair[1]));
    memcpy(CMSG_DATA(c), &pair[1], sizeof(pair[1]));
    do {
        ret = sendmsg(fd, &msg, MSG_NOSIGNAL);
        if (ret < 0 && errno == EAGAIN) {
            poll(&writable, 1, -1);
        }
    } while (ret < 0 && (errno == EINTR || errno == EAGAIN));
    ret = ret < 0 ? -EIO : 0;
    close(pair[1]);
    if (ret < 0) {
        /* whoever had the device is gone, and did not close it properly */
        close(pair[0]);
        return ret;
    }
    return vs_fd_high(pair[0]);
}

static void answer(int fd, Packet *p)
{
    void *addr = (void *)(uintptr_t)p->addr;
    int passed = -1;
    bool ok;

    switch (p->op) {
    case OP_LOAD:
        ok = vs_guard_from_user(p->data, addr, p->size);
        if (!ok) {
            p->size = 0;
        }
        break;
    case OP_STORE:
        ok = vs_guard_to_user(addr, p->data, p->size);
        p->size = 0;
        break;
    default:
        passed = p->number;
        ok = fcntl(passed, F_GETFD) >= 0;
        p->size = 0;
        break;
    }
    p->op = OP_ANSWER;
    p->number = ok ? 0 : -1;
    send_packet(fd, p, ok ? passed : -1);
}

/* Let the server make a call.  Returns: what came of it */
static int64_t request(int fd, const Packet *call)
{
    Packet p;
    int64_t ret;
    int conn;

    vs_nodes_guard();
    conn = reach(fd, call);
    if (conn < 0) {
        return conn;
    }
    ret = -EIO;
    while (receive_packet(conn, &p, 0, NULL)) {
        if (p.op == OP_RESULT) {
            ret = p.number;
            break;
        }
        answer(conn, &p);
    }
    close(conn);
    return ret;
}

int vs_remote_ioctl(int fd, uint32_t cmd, void *arg)
{
    Packet p = {
        .op = OP_IOCTL,
        .number = cmd,
        .addr = (uintptr_t)arg,
        .id = self_id,
    };

    return request(fd, &p);
}

ssize_t vs_remote_write(int fd, int got, const uint8_t *buf)
{
    Packet p = {
        .op = OP_WRITE,
        .number = got,
        .size = MAX(got, 0),
        .id = self_id,
    };

    memcpy(p.data, buf, p.size);
    return request(fd, &p);
}

/*
 * In the server: a thread for such calls, one after the other
 */

typedef struct Service {
    VsNode *n;
    int fd;
} Service;

/* What is accepted is written to the second one */
static int services[2] = { -1, -1 };

static void serve(Service *s)
{
    VsCaller who = { .fd = s->fd };
    Packet p;

    if (!receive_packet(s->fd, &p, MSG_DONTWAIT, NULL)) {
        return;
    }
    who.id = p.id;
    switch (p.op) {
    case OP_IOCTL:
        p.number = vs_node_ioctl_for(s->n, &who, p.number,
                                     (void *)(uintptr_t)p.addr);
        break;
    case OP_WRITE:
        p.number = vs_node_write_for(s->n, &who, p.number, p.data);
        break;
    default:
        p.number = -EINVAL;
        break;
    }
    p.op = OP_RESULT;
    p.size = 0;
    send_packet(s->fd, &p, -1);
}

static void *service_thread(void *opaque)
{
    int from = (intptr_t)opaque;
    Service s;

    while (read(from, &s, sizeof(s)) == sizeof(s)) {
        serve(&s);
        close(s.fd);
    }
    return NULL;
}

/* Only in the thread for events */
static bool start_service(void)
{
    if (services[0] >= 0) {
        return true;
    }
    if (pipe2(services, O_CLOEXEC) < 0) {
        return false;
    }
    services[0] = vs_fd_high(services[0]);
    services[1] = vs_fd_high(services[1]);
    if (vs_thread_start("vdpa-soft-call", service_thread,
                        (void *)(intptr_t)services[0]) < 0) {
        vs_remote_fork();
        return false;
    }
    return true;
}

void vs_remote_fork(void)
{
    vs_close_fd(&services[0]);
    vs_close_fd(&services[1]);
}

static void refuse(int fd, int err)
{
    Packet p = { .op = OP_RESULT, .number = -err };

    send_packet(fd, &p, -1);
    close(fd);
}

/* Returns: false if there is no message; @fd: a descriptor in it, or -1 */
static bool next_message(int socket, int *fd)
{
    char control[CONTROL_SIZE] = { 0 }, byte;
    struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };

    *fd = -1;
    if (socket < 0 ||
        recvmsg(socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0) {
        return false;
    }
    *fd = take_descriptor(&msg);
    return true;
}

void vs_remote_accept(VsNode *n)
{
    Service s = { .n = n };
    int fd;

    if (!n->open) {
        return;
    }
    pthread_mutex_lock(&n->call_lock);
    while (next_message(n->server_fd, &fd)) {
        if (fd < 0) {
            /* somebody took the node for a socket */
            continue;
        }
        s.fd = vs_fd_high(fd);
        if (!start_service() ||
            write(services[1], &s, sizeof(s)) != sizeof(s)) {
            refuse(s.fd, ENOMEM);
        }
    }
    /* Who would open the node waits until we looked whether it is closed. */
    while (next_message(n->busy_fd, &fd)) {
        vs_node_check_close_locked(n);
        vs_close_fd(&fd);
    }
    pthread_mutex_unlock(&n->call_lock);
}
