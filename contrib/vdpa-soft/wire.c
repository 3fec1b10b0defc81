/*
 * vdpa-soft: loopback and Unix socket wires
 *
 * On a Unix socket each frame is a big-endian 32-bit length and the frame,
 * which is what QEMU's "-netdev stream" speaks.  The peer may come, go and
 * come back; frames sent while it is away are lost, as on a cable.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Output waiting for the peer beyond which no more is taken, in bytes */
#define OUT_HIGH (256 * 1024)

/* Room for what the peer sent: a frame at least, many usually */
#define IN_SIZE (4 * (4 + VS_FRAME_MAX))

/* Pause before another attempt to connect, in milliseconds */
#define RETRY_MIN 20
#define RETRY_MAX 500

typedef struct UnixWire {
    VsWire wire;
    struct sockaddr_un addr;
    bool listening;
    int listen_fd;
    int fd;
    int retry;              /* milliseconds */
    int64_t retry_at;       /* of vs_now_ns() */
    bool was_busy;
    bool deaf;              /* the peer takes no more, but may have sent */
    size_t in_len;
    size_t in_pos;
    size_t out_pos;
    GByteArray *out;
    uint8_t in[IN_SIZE];
} UnixWire;

static UnixWire *unix_wire(VsWire *wire)
{
    return (UnixWire *)wire;
}

static void unix_wake_sender(UnixWire *w)
{
    if (w->was_busy) {
        w->was_busy = false;
        w->wire.host.writable(w->wire.host.opaque);
    }
}

static void unix_drop_output(UnixWire *w)
{
    g_byte_array_set_size(w->out, 0);
    w->out_pos = 0;
    unix_wake_sender(w);
}

static void unix_disconnect(UnixWire *w)
{
    if (w->fd >= 0) {
        close(w->fd);
        w->fd = -1;
    }
    w->deaf = false;
    w->in_len = 0;
    w->in_pos = 0;
    w->retry = RETRY_MIN;
    w->retry_at = 0;
    unix_drop_output(w);
}

/* Get a peer if one can be had at once */
static bool unix_connect(UnixWire *w)
{
    int fd;

    if (w->fd >= 0) {
        return true;
    }
    if (w->listening) {
        w->fd = accept4(w->listen_fd, NULL, NULL,
                        SOCK_NONBLOCK | SOCK_CLOEXEC);
        return w->fd >= 0;
    }
    if (vs_now_ns() < w->retry_at) {
        return false;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 &&
        connect(fd, (struct sockaddr *)&w->addr, sizeof(w->addr)) == 0) {
        w->fd = fd;
        w->retry = RETRY_MIN;
        return true;
    }
    if (fd >= 0) {
        close(fd);
    }
    w->retry_at = vs_now_ns() + w->retry * G_GINT64_CONSTANT(1000000);
    w->retry = MIN(w->retry * 2, RETRY_MAX);
    return false;
}

static void unix_flush(VsWire *wire)
{
    UnixWire *w = unix_wire(wire);

    while (w->fd >= 0 && w->out_pos < w->out->len) {
        ssize_t n = send(w->fd, w->out->data + w->out_pos,
                         w->out->len - w->out_pos,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno == EAGAIN || errno == EWOULDBLOCK) {
                return;
            }
            /* What it sent before it went is still to be read */
            w->deaf = true;
            unix_drop_output(w);
            return;
        }
        w->out_pos += n;
    }
    unix_drop_output(w);
}

static VsWireResult unix_send(VsWire *wire, const uint8_t *frame, size_t len)
{
    UnixWire *w = unix_wire(wire);
    uint32_t prefix = GUINT32_TO_BE((uint32_t)len);

    if (!unix_connect(w) || w->deaf) {
        return VS_WIRE_LOST;
    }
    if (w->out->len - w->out_pos > OUT_HIGH) {
        unix_flush(wire);
        if (w->out->len - w->out_pos > OUT_HIGH) {
            w->was_busy = true;
            return VS_WIRE_BUSY;
        }
        if (w->deaf) {
            return VS_WIRE_LOST;
        }
    }
    if (w->out_pos) {
        g_byte_array_remove_range(w->out, 0, w->out_pos);
        w->out_pos = 0;
    }
    g_byte_array_append(w->out, (uint8_t *)&prefix, sizeof(prefix));
    g_byte_array_append(w->out, frame, len);
    return VS_WIRE_SENT;
}

/*
 * Hand over the frames that are complete, while there is room for them.
 * Returns false if the peer does not speak the protocol.
 */
static bool unix_deliver(UnixWire *w, bool *complete)
{
    VsWireHost *host = &w->wire.host;

    for (;;) {
        size_t have = w->in_len - w->in_pos;
        uint32_t len;

        *complete = false;
        if (have < sizeof(len)) {
            return true;
        }
        memcpy(&len, w->in + w->in_pos, sizeof(len));
        len = GUINT32_FROM_BE(len);
        if (len > VS_FRAME_MAX) {
            return false;
        }
        if (have < sizeof(len) + len) {
            return true;
        }
        *complete = true;
        if (!host->can_receive(host->opaque)) {
            return true;
        }
        host->receive(host->opaque, w->in + w->in_pos + sizeof(len), len,
                      false);
        w->in_pos += sizeof(len) + len;
    }
}

static void unix_receive(UnixWire *w)
{
    bool complete;
    ssize_t n;

    if (!unix_deliver(w, &complete)) {
        unix_disconnect(w);
        return;
    }
    if (complete) {
        return;
    }
    if (w->in_pos) {
        memmove(w->in, w->in + w->in_pos, w->in_len - w->in_pos);
        w->in_len -= w->in_pos;
        w->in_pos = 0;
    }
    n = recv(w->fd, w->in + w->in_len, IN_SIZE - w->in_len, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK ||
                  errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        unix_disconnect(w);
        return;
    }
    w->in_len += n;
    if (!unix_deliver(w, &complete)) {
        unix_disconnect(w);
    }
}

/* Whether a frame waits here, because there was no room when it came */
static bool unix_holds_frame(const UnixWire *w)
{
    size_t have = w->in_len - w->in_pos;
    uint32_t len;

    if (have < sizeof(len)) {
        return false;
    }
    memcpy(&len, w->in + w->in_pos, sizeof(len));
    return have - sizeof(len) >= GUINT32_FROM_BE(len);
}

static void unix_prepare(VsWire *wire, GArray *fds, int *timeout)
{
    UnixWire *w = unix_wire(wire);
    struct pollfd pfd = { .fd = w->fd };

    if (w->fd < 0 && unix_connect(w)) {
        pfd.fd = w->fd;
    }
    if (w->fd < 0) {
        if (w->listening) {
            pfd.fd = w->listen_fd;
            pfd.events = POLLIN;
        } else {
            int64_t wait = (w->retry_at - vs_now_ns()) / 1000000 + 1;

            wait = CLAMP(wait, 0, RETRY_MAX);
            *timeout = *timeout < 0 ? wait : MIN(*timeout, wait);
        }
    } else {
        if (wire->host.can_receive(wire->host.opaque)) {
            pfd.events |= POLLIN;
            /* The peer need not send anything for that */
            if (unix_holds_frame(w)) {
                *timeout = 0;
            }
        }
        if (w->out_pos < w->out->len) {
            pfd.events |= POLLOUT;
        }
    }
    /* Without an event to wait for, a hang-up would wake for nothing */
    if (pfd.events) {
        g_array_append_val(fds, pfd);
    }
}

static void unix_dispatch(VsWire *wire, const struct pollfd *fds, unsigned n)
{
    UnixWire *w = unix_wire(wire);

    if (w->fd < 0) {
        unix_connect(w);
        return;
    }
    if (n && fds[0].fd == w->fd) {
        if (fds[0].revents & (POLLOUT | POLLERR)) {
            unix_flush(wire);
        }
        if (fds[0].events & POLLIN &&
            (unix_holds_frame(w) ||
             fds[0].revents & (POLLIN | POLLHUP | POLLERR))) {
            unix_receive(w);
        }
    }
}

static void unix_free(VsWire *wire)
{
    UnixWire *w = unix_wire(wire);

    w->was_busy = false;
    unix_disconnect(w);
    if (w->listen_fd >= 0) {
        close(w->listen_fd);
        unlink(w->addr.sun_path);
    }
    g_byte_array_free(w->out, TRUE);
    g_free(w);
}

static const VsWireOps unix_ops = {
    .send = unix_send,
    .flush = unix_flush,
    .prepare = unix_prepare,
    .dispatch = unix_dispatch,
    .free = unix_free,
};

/* Remove a socket that its owner left behind, but nothing else */
static void unlink_if_stale(const struct sockaddr_un *addr)
{
    struct stat st;
    int fd;

    if (lstat(addr->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        return;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return;
    }
    if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 &&
        errno == ECONNREFUSED) {
        unlink(addr->sun_path);
    }
    close(fd);
}

static bool unix_listen(UnixWire *w, char **error)
{
    unlink_if_stale(&w->addr);
    w->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                          0);
    if (w->listen_fd >= 0 &&
        bind(w->listen_fd, (struct sockaddr *)&w->addr,
             sizeof(w->addr)) == 0) {
        if (listen(w->listen_fd, 1) == 0) {
            return true;
        }
        *error = g_strdup_printf("cannot listen on the wire's socket '%s': "
                                 "%s", w->addr.sun_path, g_strerror(errno));
        unlink(w->addr.sun_path);
    } else {
        *error = g_strdup_printf("cannot create the wire's socket '%s': %s; "
                                 "choose a path that does not exist, in a "
                                 "directory you may write to",
                                 w->addr.sun_path, g_strerror(errno));
    }
    if (w->listen_fd >= 0) {
        close(w->listen_fd);
    }
    return false;
}

static VsWire *unix_new(const char *path, bool listening,
                        const VsWireHost *host, char **error)
{
    UnixWire *w;

    if (!*path || strlen(path) >= sizeof(w->addr.sun_path)) {
        *error = g_strdup_printf("the path of a Unix socket wire must have "
                                 "1 to %zu characters: '%s'",
                                 sizeof(w->addr.sun_path) - 1, path);
        return NULL;
    }
    w = g_new0(UnixWire, 1);
    w->wire.ops = &unix_ops;
    w->wire.host = *host;
    w->addr.sun_family = AF_UNIX;
    strcpy(w->addr.sun_path, path);
    w->listening = listening;
    w->listen_fd = -1;
    w->fd = -1;
    w->retry = RETRY_MIN;
    if (listening && !unix_listen(w, error)) {
        g_free(w);
        return NULL;
    }
    w->out = g_byte_array_new();
    unix_connect(w);
    return &w->wire;
}

static void loopback_free(VsWire *wire)
{
    g_free(wire);
}

static const VsWireOps loopback_ops = {
    .free = loopback_free,
};

bool vs_wire_is_loopback(const VsWire *wire)
{
    return wire->ops == &loopback_ops;
}

VsWire *vs_wire_new(const char *spec, uint16_t mtu, const VsWireHost *host,
                    char **error)
{
    if (!spec || g_str_equal(spec, "loopback")) {
        VsWire *wire = g_new0(VsWire, 1);

        wire->ops = &loopback_ops;
        wire->host = *host;
        return wire;
    }
    if (g_str_has_prefix(spec, "unix:")) {
        return unix_new(spec + strlen("unix:"), false, host, error);
    }
    if (g_str_has_prefix(spec, "unix-listen:")) {
        return unix_new(spec + strlen("unix-listen:"), true, host, error);
    }
    if (g_str_equal(spec, "user")) {
        return vs_wire_slirp_new("", mtu, host, error);
    }
    if (g_str_has_prefix(spec, "user,")) {
        return vs_wire_slirp_new(spec + strlen("user,"), mtu, host, error);
    }
    *error = g_strdup_printf("there is no wire '%s'; use loopback, unix:PATH, "
                             "unix-listen:PATH or user[,OPTIONS]", spec);
    return NULL;
}

void vs_wire_free(VsWire *wire)
{
    if (wire) {
        wire->ops->free(wire);
    }
}
