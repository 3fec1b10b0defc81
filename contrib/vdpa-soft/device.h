/*
 * vdpa-soft: boundary between the character device and the virtio-net device
 *
 * The node (node.c) owns files, ioctls, the IOTLB and the lock; the network
 * device (net.c) owns rings, frames and configuration bytes.  Either can be
 * tested without the other.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_DEVICE_H
#define VDPA_SOFT_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct VsNet VsNet;

/**
 * struct VsHost - what a device needs from the node that carries it
 *
 * All members are mandatory.  They are called with the device's lock held
 * (see vs_net_lock()), from any thread.
 *
 * @opaque: first argument of every callback
 * @read: copy @size bytes from device address @iova of address space @asid.
 *        Returns false, having counted a fault, if any byte of the range is
 *        not readable by the device.
 * @write: same, towards memory
 * @load16: 16-bit load with acquire semantics; @iova is 2-aligned
 * @store16: 16-bit store with release semantics; @iova is 2-aligned
 * @call: a completion interrupt for virtqueue @vq
 * @config_changed: bytes of the configuration space changed by themselves
 * @stats_changed: any number a person can wait for changed
 * @transmitted: a frame left the device towards its wire
 */
typedef struct VsHost {
    void *opaque;
    bool (*read)(void *opaque, uint32_t asid, uint64_t iova,
                 void *buf, size_t size);
    bool (*write)(void *opaque, uint32_t asid, uint64_t iova,
                  const void *buf, size_t size);
    bool (*load16)(void *opaque, uint32_t asid, uint64_t iova, uint16_t *val);
    bool (*store16)(void *opaque, uint32_t asid, uint64_t iova, uint16_t val);
    void (*call)(void *opaque, unsigned vq);
    void (*config_changed)(void *opaque);
    void (*stats_changed)(void *opaque);
    void (*transmitted)(void *opaque, const void *frame, size_t len);
} VsHost;

/**
 * struct VsNetConfig - how the device is made; constant afterwards
 *
 * @pairs: receive/transmit queue pairs, at least 1.  Virtqueues 2i and 2i+1
 *         are pair i; with CTRL_VQ offered, virtqueue 2 * @pairs is control
 *         (virtqueue 2 while the driver has not acknowledged MQ).
 * @features: device features offered, 64 bits
 * @mac: hardware address
 * @mtu: 0 for the default, 1500
 * @max_ring: largest ring size
 * @wire: "loopback", "unix:PATH", "unix-listen:PATH", "user[,OPTIONS]"
 * @max_frame: 0, or the most bytes a transmitted buffer may hold
 * @simulator: on the loopback wire, move frames as the kernel's simulator
 *             does: whatever is kicked, all queues are looked at; a frame
 *             goes with its sender's header, if it is for the device's
 *             address, into the next buffer, cut to fit; if there is none it
 *             is lost
 */
typedef struct VsNetConfig {
    unsigned pairs;
    uint64_t features;
    uint8_t mac[6];
    uint16_t mtu;
    unsigned max_ring;
    const char *wire;
    size_t max_frame;
    bool simulator;
} VsNetConfig;

/** struct VsVqStats - what is known of one virtqueue, for `stats` */
typedef struct VsVqStats {
    uint32_t num;
    bool enabled;
    uint16_t avail_idx;     /* next available entry the device will take */
    uint16_t used_idx;      /* next used entry the device will write */
    uint64_t kicks;
    uint64_t calls;
    uint64_t packets;       /* control queue: commands */
    uint64_t bytes;
    uint64_t dropped;
    uint64_t errors;
} VsVqStats;

/**
 * vs_net_new() - make a device, reset and stopped
 * @config: copied
 * @host: copied
 * @error: receives a g_malloc'd sentence on failure
 *
 * Starts the device's worker thread and opens its wire.
 *
 * Returns: the device, or NULL
 */
VsNet *vs_net_new(const VsNetConfig *config, const VsHost *host,
                  char **error);

/** vs_net_free() - stop the threads, close the wire, free everything */
void vs_net_free(VsNet *net);

/**
 * vs_net_lock() / vs_net_unlock() - the one lock of a device (recursive)
 *
 * Serialises the node's ioctls with ring processing: while it is held no
 * ring is touched and no DMA is made.  Every function below takes it itself
 * and may also be called with it held.
 */
void vs_net_lock(VsNet *net);
void vs_net_unlock(VsNet *net);

/** vs_net_reset() - virtio reset: features 0, queues disabled, indices 0.
 *  Ring sizes, MAC, link and statistics stay. */
void vs_net_reset(VsNet *net);

/** vs_net_set_features() - driver's features; unknown bits are masked */
void vs_net_set_features(VsNet *net, uint64_t features);
uint64_t vs_net_features(VsNet *net);

/**
 * vs_net_set_running() - whether rings are processed at all
 * @running: DRIVER_OK is set, and the device is neither suspended nor paused
 * @rescan: look at all enabled rings now, as if each had been kicked
 *
 * When it returns with @running false, no DMA is in progress and none will
 * start.
 */
void vs_net_set_running(VsNet *net, bool running, bool rescan);

void vs_net_vq_set_num(VsNet *net, unsigned vq, uint32_t num);
void vs_net_vq_set_addr(VsNet *net, unsigned vq,
                        uint64_t desc, uint64_t avail, uint64_t used);
/** @ring_asid: address space of the rings (the descriptor group's);
 *  @asid: of the buffers */
void vs_net_vq_set_asid(VsNet *net, unsigned vq,
                        uint32_t asid, uint32_t ring_asid);
/** encoding of SET_VRING_BASE / GET_VRING_BASE; @packed is the caller's to
 *  know, because it outlives a reset and the device's features do not */
void vs_net_vq_set_base(VsNet *net, unsigned vq, uint32_t base, bool packed);
uint32_t vs_net_vq_base(VsNet *net, unsigned vq, bool packed);
/** a 0 -> 1 edge takes over size, addresses, base and features; the ring is
 *  looked at when it is kicked.  One that has addresses but no size is in
 *  error, and never works. */
void vs_net_vq_enable(VsNet *net, unsigned vq, bool enable);
/** a doorbell; safe from any thread */
void vs_net_vq_kick(VsNet *net, unsigned vq);

/** vs_net_config_size() - bytes of struct virtio_net_config it presents */
size_t vs_net_config_size(VsNet *net);
/** bounds were checked by the caller; little-endian layout */
void vs_net_config_read(VsNet *net, size_t offset, void *buf, size_t size);
void vs_net_config_write(VsNet *net, size_t offset,
                         const void *buf, size_t size);

void vs_net_set_link(VsNet *net, bool up);      /* calls config_changed */
bool vs_net_link(VsNet *net);
void vs_net_announce(VsNet *net);               /* calls config_changed */
/** a frame as if from the wire; @vq is a receive queue, or -1 to steer */
void vs_net_inject(VsNet *net, const void *frame, size_t len, int vq);

unsigned vs_net_num_vqs(VsNet *net);
void vs_net_vq_stats(VsNet *net, unsigned vq, VsVqStats *stats);
unsigned vs_net_active_pairs(VsNet *net);
void vs_net_mac(VsNet *net, uint8_t mac[6]);
/** g_malloc'd JSON object members (no braces):
 *  "rx-mode":{...},"vlans":[...],"macs":[...] */
char *vs_net_rx_state_json(VsNet *net);

#endif
