/*
 * vdpa-soft: what a network device is plugged into
 *
 * A wire is driven by the device's worker thread alone, with the device's
 * lock held.  It never blocks.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_WIRE_H
#define VDPA_SOFT_WIRE_H

#include <glib.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Longest ethernet frame a wire carries, in bytes; QEMU's own limit */
#define VS_FRAME_MAX (4096 + 65536)

/** Shortest: two addresses and a type */
#define VS_FRAME_MIN 14

typedef enum VsWireResult {
    VS_WIRE_SENT,
    VS_WIRE_LOST,       /* nobody is there to receive it */
    VS_WIRE_BUSY,       /* not taken; @writable is called when to try again */
} VsWireResult;

/**
 * struct VsWireHost - what a wire needs from its device
 *
 * @can_receive: whether @receive would find room; a wire that can make its
 *               peer wait does so while it is false
 * @receive: a frame arrived; @checked if its checksums are known to be right
 * @writable: a send that was refused may be tried again
 */
typedef struct VsWireHost {
    void *opaque;
    bool (*can_receive)(void *opaque);
    void (*receive)(void *opaque, const uint8_t *frame, size_t len,
                    bool checked);
    void (*writable)(void *opaque);
} VsWireHost;

typedef struct VsWire VsWire;

/**
 * struct VsWireOps - one kind of wire; members but @free are optional
 *
 * @send: towards the peer
 * @flush: nothing more will be sent in this pass
 * @prepare: append to @fds what to poll for; lower *@timeout (milliseconds,
 *           -1 for ever) if something is due earlier
 * @dispatch: @fds are the @n entries appended by @prepare, polled
 */
typedef struct VsWireOps {
    VsWireResult (*send)(VsWire *wire, const uint8_t *frame, size_t len);
    void (*flush)(VsWire *wire);
    void (*prepare)(VsWire *wire, GArray *fds, int *timeout);
    void (*dispatch)(VsWire *wire, const struct pollfd *fds, unsigned n);
    void (*free)(VsWire *wire);
} VsWireOps;

struct VsWire {
    const VsWireOps *ops;
    VsWireHost host;
};

/**
 * vs_wire_new() - open a wire
 * @spec: as in struct VsNetConfig
 * @mtu: most bytes of payload in a frame
 * @host: copied
 * @error: receives a g_malloc'd sentence on failure
 *
 * Returns: the wire, or NULL
 */
VsWire *vs_wire_new(const char *spec, uint16_t mtu, const VsWireHost *host,
                    char **error);
void vs_wire_free(VsWire *wire);

/** vs_wire_is_loopback() - a wire whose two ends are the device's own */
bool vs_wire_is_loopback(const VsWire *wire);

/**
 * vs_wire_slirp_new() - user-mode networking
 * @options: what follows "user,", or ""
 *
 * Fails, saying so, if it was built without libslirp (VDPA_SOFT_SLIRP).
 */
VsWire *vs_wire_slirp_new(const char *options, uint16_t mtu,
                          const VsWireHost *host, char **error);

/** vs_now_ns() - a clock that only goes forward, in nanoseconds */
static inline int64_t vs_now_ns(void)
{
    return g_get_monotonic_time() * 1000;
}

#endif
