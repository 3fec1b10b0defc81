/*
 * vdpa-soft: user-mode networking through libslirp
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "wire.h"

#ifdef VDPA_SOFT_SLIRP

#include <arpa/inet.h>
#include <pthread.h>
#include <string.h>
#include <libslirp.h>

typedef struct SlirpWire {
    VsWire wire;
    Slirp *slirp;
    GSList *timers;
    GArray *fds;            /* being filled, by prepare */
    unsigned first;         /* of ours in it */
    const struct pollfd *polled;
    unsigned npolled;
    bool filled;
} SlirpWire;

typedef struct SlirpTimer {
    SlirpTimerCb cb;
    void *opaque;
    int64_t expire;         /* milliseconds, -1 if not set */
} SlirpTimer;

/* libslirp keeps the time of day and name servers in globals */
static pthread_mutex_t slirp_lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t sw_send_packet(const void *buf, size_t len, void *opaque)
{
    SlirpWire *w = opaque;

    if (len <= VS_FRAME_MAX) {
        w->wire.host.receive(w->wire.host.opaque, buf, len, true);
    }
    return len;
}

static void sw_guest_error(const char *msg, void *opaque)
{
    (void)opaque;
    g_debug("vdpa-soft: user wire: %s", msg);
}

static int64_t sw_clock_get_ns(void *opaque)
{
    (void)opaque;
    return vs_now_ns();
}

static void *sw_timer_new(SlirpTimerCb cb, void *cb_opaque, void *opaque)
{
    SlirpWire *w = opaque;
    SlirpTimer *t = g_new0(SlirpTimer, 1);

    t->cb = cb;
    t->opaque = cb_opaque;
    t->expire = -1;
    w->timers = g_slist_prepend(w->timers, t);
    return t;
}

static void sw_timer_free(void *timer, void *opaque)
{
    SlirpWire *w = opaque;

    w->timers = g_slist_remove(w->timers, timer);
    g_free(timer);
}

static void sw_timer_mod(void *timer, int64_t expire_time, void *opaque)
{
    SlirpTimer *t = timer;

    (void)opaque;
    t->expire = expire_time;
}

/* The worker asks for the whole list of descriptors before each poll */
static void sw_poll_fd(int fd, void *opaque)
{
    (void)fd;
    (void)opaque;
}

/* Only the worker calls into libslirp, and it polls again afterwards */
static void sw_notify(void *opaque)
{
    (void)opaque;
}

static const SlirpCb sw_callbacks = {
    .send_packet = sw_send_packet,
    .guest_error = sw_guest_error,
    .clock_get_ns = sw_clock_get_ns,
    .timer_new = sw_timer_new,
    .timer_free = sw_timer_free,
    .timer_mod = sw_timer_mod,
    .register_poll_fd = sw_poll_fd,
    .unregister_poll_fd = sw_poll_fd,
    .notify = sw_notify,
};

static VsWireResult sw_send(VsWire *wire, const uint8_t *frame, size_t len)
{
    SlirpWire *w = (SlirpWire *)wire;

    pthread_mutex_lock(&slirp_lock);
    slirp_input(w->slirp, frame, len);
    pthread_mutex_unlock(&slirp_lock);
    return VS_WIRE_SENT;
}

static int sw_add_poll(int fd, int events, void *opaque)
{
    SlirpWire *w = opaque;
    struct pollfd pfd = { .fd = fd };

    if (events & SLIRP_POLL_IN) {
        pfd.events |= POLLIN;
    }
    if (events & SLIRP_POLL_OUT) {
        pfd.events |= POLLOUT;
    }
    if (events & SLIRP_POLL_PRI) {
        pfd.events |= POLLPRI;
    }
    g_array_append_val(w->fds, pfd);
    return w->fds->len - 1 - w->first;
}

static int sw_get_revents(int idx, void *opaque)
{
    SlirpWire *w = opaque;
    int events = 0;
    short revents;

    if (idx < 0 || (unsigned)idx >= w->npolled) {
        return 0;
    }
    revents = w->polled[idx].revents;
    if (revents & POLLIN) {
        events |= SLIRP_POLL_IN;
    }
    if (revents & POLLOUT) {
        events |= SLIRP_POLL_OUT;
    }
    if (revents & POLLPRI) {
        events |= SLIRP_POLL_PRI;
    }
    if (revents & POLLERR) {
        events |= SLIRP_POLL_ERR;
    }
    if (revents & POLLHUP) {
        events |= SLIRP_POLL_HUP;
    }
    return events;
}

static void sw_prepare(VsWire *wire, GArray *fds, int *timeout)
{
    SlirpWire *w = (SlirpWire *)wire;
    uint32_t wait = UINT32_MAX;
    int64_t now = vs_now_ns() / 1000000;
    GSList *l;

    /*
     * Not polling is how libslirp's peers are made to wait: their data
     * stays in the host's sockets.
     */
    w->filled = wire->host.can_receive(wire->host.opaque);
    if (!w->filled) {
        return;
    }

    w->fds = fds;
    w->first = fds->len;
    pthread_mutex_lock(&slirp_lock);
    slirp_pollfds_fill(w->slirp, &wait, sw_add_poll, w);
    pthread_mutex_unlock(&slirp_lock);
    w->fds = NULL;

    for (l = w->timers; l; l = l->next) {
        SlirpTimer *t = l->data;

        if (t->expire >= 0) {
            wait = MIN(wait, (uint32_t)CLAMP(t->expire - now, 0, INT_MAX));
        }
    }
    if (wait <= INT_MAX) {
        *timeout = *timeout < 0 ? (int)wait : MIN(*timeout, (int)wait);
    }
}

static void sw_run_timers(SlirpWire *w)
{
    int64_t now = vs_now_ns() / 1000000;
    GSList *l = w->timers;

    while (l) {
        SlirpTimer *t = l->data;

        if (t->expire >= 0 && t->expire <= now) {
            t->expire = -1;
            t->cb(t->opaque);
            /* The list may have changed */
            l = w->timers;
        } else {
            l = l->next;
        }
    }
}

static void sw_dispatch(VsWire *wire, const struct pollfd *fds, unsigned n)
{
    SlirpWire *w = (SlirpWire *)wire;

    if (!w->filled) {
        return;
    }
    w->filled = false;
    w->polled = fds;
    w->npolled = n;
    pthread_mutex_lock(&slirp_lock);
    slirp_pollfds_poll(w->slirp, 0, sw_get_revents, w);
    sw_run_timers(w);
    pthread_mutex_unlock(&slirp_lock);
    w->polled = NULL;
    w->npolled = 0;
}

static void sw_free(VsWire *wire)
{
    SlirpWire *w = (SlirpWire *)wire;

    pthread_mutex_lock(&slirp_lock);
    if (w->slirp) {
        slirp_cleanup(w->slirp);
    }
    pthread_mutex_unlock(&slirp_lock);
    g_slist_free_full(w->timers, g_free);
    g_free(w);
}

static const VsWireOps slirp_ops = {
    .send = sw_send,
    .prepare = sw_prepare,
    .dispatch = sw_dispatch,
    .free = sw_free,
};

/* "[ADDR]:PORT"; an empty address leaves @addr alone */
static bool parse_endpoint(const char *s, struct in_addr *addr, int *port)
{
    const char *colon = strrchr(s, ':');
    g_autofree char *host = NULL;
    guint64 n;

    if (!colon || !g_ascii_string_to_unsigned(colon + 1, 10, 1, 65535, &n,
                                              NULL)) {
        return false;
    }
    host = g_strndup(s, colon - s);
    *port = n;
    return !*host || inet_pton(AF_INET, host, addr) == 1;
}

/* tcp|udp:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT */
static bool add_hostfwd(SlirpWire *w, const SlirpConfig *cfg, const char *arg,
                        char **error)
{
    struct in_addr host = { .s_addr = htonl(INADDR_ANY) };
    struct in_addr guest = cfg->vdhcp_start;
    g_autofree char *left = NULL;
    const char *dash = strchr(arg, '-');
    bool udp = g_str_has_prefix(arg, "udp:");
    int host_port, guest_port;

    if (!dash || (!udp && !g_str_has_prefix(arg, "tcp:"))) {
        goto malformed;
    }
    left = g_strndup(arg + 4, dash - arg - 4);
    if (!parse_endpoint(left, &host, &host_port) ||
        !parse_endpoint(dash + 1, &guest, &guest_port)) {
        goto malformed;
    }
    if (slirp_add_hostfwd(w->slirp, udp, host, host_port,
                          guest, guest_port) < 0) {
        *error = g_strdup_printf("user wire: cannot listen for 'hostfwd=%s': "
                                 "is the host's port in use?", arg);
        return false;
    }
    return true;

malformed:
    *error = g_strdup_printf("user wire: 'hostfwd=%s' is not of the form "
                             "tcp|udp:[HOSTADDR]:PORT-[GUESTADDR]:PORT", arg);
    return false;
}

/* tcp:ADDR:PORT-unix:PATH */
static bool add_guestfwd(SlirpWire *w, const char *arg, char **error)
{
#if SLIRP_CHECK_VERSION(4, 2, 0)
    struct in_addr addr = { 0 };
    g_autofree char *left = NULL;
    const char *dash = strchr(arg, '-');
    int port;

    if (dash && g_str_has_prefix(arg, "tcp:") &&
        g_str_has_prefix(dash + 1, "unix:") && dash[6]) {
        left = g_strndup(arg + 4, dash - arg - 4);
        if (parse_endpoint(left, &addr, &port) && addr.s_addr) {
            if (slirp_add_unix(w->slirp, dash + 6, &addr, port) == 0) {
                return true;
            }
            *error = g_strdup_printf("user wire: 'guestfwd=%s' is refused: "
                                     "its address must be in the wire's "
                                     "network and not be in use", arg);
            return false;
        }
    }
    *error = g_strdup_printf("user wire: 'guestfwd=%s' is not of the form "
                             "tcp:ADDR:PORT-unix:PATH", arg);
#else
    (void)w;
    *error = g_strdup_printf("user wire: 'guestfwd=%s' needs libslirp 4.2 "
                             "or newer", arg);
#endif
    return false;
}

/* ADDR[/BITS]: the network; hosts keep their usual numbers in it */
static bool set_net(SlirpConfig *cfg, const char *arg, char **error)
{
    const char *slash = strchr(arg, '/');
    g_autofree char *host = NULL;
    struct in_addr addr;
    guint64 bits = 24;
    uint32_t mask;

    host = slash ? g_strndup(arg, slash - arg) : g_strdup(arg);
    /* Host number 15 is the guest's, so at least 5 bits of them */
    if (inet_pton(AF_INET, host, &addr) != 1 ||
        (slash && !g_ascii_string_to_unsigned(slash + 1, 10, 4, 27, &bits,
                                              NULL))) {
        *error = g_strdup_printf("user wire: 'net=%s' is not of the form "
                                 "ADDR/BITS with 4 to 27 bits", arg);
        return false;
    }
    mask = ~0u << (32 - bits);
    cfg->vnetmask.s_addr = htonl(mask);
    cfg->vnetwork.s_addr = addr.s_addr & cfg->vnetmask.s_addr;
    cfg->vhost.s_addr = cfg->vnetwork.s_addr | htonl(2);
    cfg->vnameserver.s_addr = cfg->vnetwork.s_addr | htonl(3);
    cfg->vdhcp_start.s_addr = cfg->vnetwork.s_addr | htonl(15);
    return true;
}

static bool set_bool(int *val, const char *name, const char *arg,
                     char **error)
{
    if (g_str_equal(arg, "on") || g_str_equal(arg, "yes")) {
        *val = 1;
    } else if (g_str_equal(arg, "off") || g_str_equal(arg, "no")) {
        *val = 0;
    } else {
        *error = g_strdup_printf("user wire: '%s=%s' must be on or off",
                                 name, arg);
        return false;
    }
    return true;
}

VsWire *vs_wire_slirp_new(const char *options, uint16_t mtu,
                          const VsWireHost *host, char **error)
{
    g_auto(GStrv) opts = g_strsplit(options, ",", -1);
    SlirpConfig cfg = {
        .version = 1,
        .in_enabled = true,
        /* The most that libslirp can be told */
        .if_mtu = MIN(mtu, 65521),
        .if_mru = MIN(mtu, 65521),
    };
    SlirpWire *w;
    int i;

    set_net(&cfg, "10.0.2.0/24", error);
    for (i = 0; opts[i]; i++) {
        const char *o = opts[i];

        if (g_str_has_prefix(o, "net=")) {
            if (!set_net(&cfg, o + 4, error)) {
                return NULL;
            }
        } else if (g_str_has_prefix(o, "restrict=")) {
            if (!set_bool(&cfg.restricted, "restrict", o + 9, error)) {
                return NULL;
            }
        } else if (*o && !g_str_has_prefix(o, "hostfwd=") &&
                   !g_str_has_prefix(o, "guestfwd=")) {
            *error = g_strdup_printf("user wire: there is no option '%s'; "
                                     "use net=, restrict=, hostfwd= or "
                                     "guestfwd=", o);
            return NULL;
        }
    }

    w = g_new0(SlirpWire, 1);
    w->wire.ops = &slirp_ops;
    w->wire.host = *host;
    pthread_mutex_lock(&slirp_lock);
    w->slirp = slirp_new(&cfg, &sw_callbacks, w);
    pthread_mutex_unlock(&slirp_lock);
    if (!w->slirp) {
        *error = g_strdup("user wire: libslirp cannot be started");
        sw_free(&w->wire);
        return NULL;
    }
    for (i = 0; opts[i]; i++) {
        const char *o = opts[i];

        if ((g_str_has_prefix(o, "hostfwd=") &&
             !add_hostfwd(w, &cfg, o + 8, error)) ||
            (g_str_has_prefix(o, "guestfwd=") &&
             !add_guestfwd(w, o + 9, error))) {
            sw_free(&w->wire);
            return NULL;
        }
    }
    return &w->wire;
}

#else /* !VDPA_SOFT_SLIRP */

VsWire *vs_wire_slirp_new(const char *options, uint16_t mtu,
                          const VsWireHost *host, char **error)
{
    (void)options;
    (void)mtu;
    (void)host;
    *error = g_strdup("the user wire is not available: vdpa-soft was built "
                      "without libslirp; install its development files and "
                      "build again, or use another wire");
    return NULL;
}

#endif
