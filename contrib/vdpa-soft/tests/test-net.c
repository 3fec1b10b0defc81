/*
 * vdpa-soft: tests of the virtio-net device and its wires
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "fake-driver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <linux/virtio_net.h>

/* Nothing here takes this long, except when it fails; in seconds */
#define DEADLINE 30

#define MAX_PAIRS 4
#define MAX_VQS (2 * MAX_PAIRS + 1)
#define RING 64
#define BUF 2048
#define HDR sizeof(struct virtio_net_hdr_mrg_rxbuf)

static const uint8_t dev_mac[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };
static const uint8_t peer_mac[6] = { 0x52, 0x54, 0x00, 0x65, 0x43, 0x21 };
static const uint8_t bcast_mac[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
static const uint8_t group_mac[6] = { 0x01, 0x00, 0x5e, 0x00, 0x00, 0x05 };

#define BASIC (FEATURE(VIRTIO_F_VERSION_1) | \
               FEATURE(VIRTIO_F_ACCESS_PLATFORM) | \
               FEATURE(VIRTIO_NET_F_MAC) | FEATURE(VIRTIO_NET_F_STATUS))
#define CONTROL (BASIC | FEATURE(VIRTIO_NET_F_CTRL_VQ) | \
                 FEATURE(VIRTIO_NET_F_CTRL_RX) | \
                 FEATURE(VIRTIO_NET_F_CTRL_RX_EXTRA) | \
                 FEATURE(VIRTIO_NET_F_CTRL_VLAN) | \
                 FEATURE(VIRTIO_NET_F_CTRL_MAC_ADDR) | \
                 FEATURE(VIRTIO_NET_F_GUEST_ANNOUNCE))
#define ALL (CONTROL | FEATURE(VIRTIO_NET_F_MQ) | \
             FEATURE(VIRTIO_NET_F_MTU) | FEATURE(VIRTIO_NET_F_CSUM) | \
             FEATURE(VIRTIO_NET_F_GUEST_CSUM) | \
             FEATURE(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) | \
             FEATURE(VIRTIO_NET_F_MRG_RXBUF) | \
             FEATURE(VIRTIO_RING_F_EVENT_IDX) | \
             FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | \
             FEATURE(VIRTIO_F_RING_PACKED))

/* The driver's end of one virtqueue */
typedef struct Queue {
    Drv drv;
    uint64_t buf[RING];     /* by token */
    bool busy[RING];
} Queue;

/* A device with its driver */
typedef struct Dev {
    Arena arena;
    GRand *rand;
    VsNet *net;
    unsigned pairs;
    uint64_t features;
    size_t hdr_len;
    bool indirect;
    unsigned nvqs;
    Queue q[MAX_VQS];

    /* Not glib's, which a thread sanitizer does not know */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    /* Below, protected by the lock */
    uint64_t generation;    /* of anything a test may wait for */
    bool only_calls;        /* just interrupts, for tests of those */
    uint64_t calls[MAX_VQS];
    unsigned config_changes;
    GPtrArray *sent;        /* GBytes */
} Dev;

static bool dev_read(void *opaque, uint32_t asid, uint64_t iova,
                     void *buf, size_t size)
{
    return arena_host_read(&((Dev *)opaque)->arena, asid, iova, buf, size);
}

static bool dev_write(void *opaque, uint32_t asid, uint64_t iova,
                      const void *buf, size_t size)
{
    return arena_host_write(&((Dev *)opaque)->arena, asid, iova, buf, size);
}

static bool dev_load16(void *opaque, uint32_t asid, uint64_t iova,
                       uint16_t *val)
{
    return arena_host_load16(&((Dev *)opaque)->arena, asid, iova, val);
}

static bool dev_store16(void *opaque, uint32_t asid, uint64_t iova,
                        uint16_t val)
{
    return arena_host_store16(&((Dev *)opaque)->arena, asid, iova, val);
}

static void dev_call(void *opaque, unsigned vq)
{
    Dev *dev = opaque;

    pthread_mutex_lock(&dev->lock);
    g_assert_cmpuint(vq, <, dev->nvqs);
    dev->calls[vq]++;
    dev->generation++;
    pthread_cond_broadcast(&dev->cond);
    pthread_mutex_unlock(&dev->lock);
}

static void dev_config_changed(void *opaque)
{
    Dev *dev = opaque;

    pthread_mutex_lock(&dev->lock);
    dev->config_changes++;
    dev->generation++;
    pthread_cond_broadcast(&dev->cond);
    pthread_mutex_unlock(&dev->lock);
}

static void dev_stats_changed(void *opaque)
{
    Dev *dev = opaque;

    pthread_mutex_lock(&dev->lock);
    if (!dev->only_calls) {
        dev->generation++;
        pthread_cond_broadcast(&dev->cond);
    }
    pthread_mutex_unlock(&dev->lock);
}

static void dev_transmitted(void *opaque, const void *frame, size_t len)
{
    Dev *dev = opaque;

    pthread_mutex_lock(&dev->lock);
    g_ptr_array_add(dev->sent, g_bytes_new(frame, len));
    pthread_mutex_unlock(&dev->lock);
}

static uint64_t dev_generation(Dev *dev)
{
    uint64_t generation;

    pthread_mutex_lock(&dev->lock);
    generation = dev->generation;
    pthread_mutex_unlock(&dev->lock);
    return generation;
}

/* Wait for something to happen after @generation was read */
static void dev_wait(Dev *dev, uint64_t generation)
{
    struct timespec end;

    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += DEADLINE;
    pthread_mutex_lock(&dev->lock);
    while (dev->generation == generation) {
        if (pthread_cond_timedwait(&dev->cond, &dev->lock, &end)) {
            g_error("nothing happened for %d seconds", DEADLINE);
        }
    }
    pthread_mutex_unlock(&dev->lock);
}

/* Wait until @cond, which something the device does makes true */
#define dev_wait_until(dev, cond) \
    do { \
        uint64_t seen_ = dev_generation(dev); \
        if (cond) { \
            break; \
        } \
        dev_wait(dev, seen_); \
    } while (true)

static VsVqStats dev_stats(Dev *dev, unsigned vq)
{
    VsVqStats stats;

    vs_net_vq_stats(dev->net, vq, &stats);
    return stats;
}

static unsigned dev_ctrl_vq(Dev *dev)
{
    return dev->features & FEATURE(VIRTIO_NET_F_MQ) ? 2 * dev->pairs : 2;
}

static void dev_setup_vq(Dev *dev, unsigned vq, uint16_t start)
{
    Queue *q = &dev->q[vq];
    Drv *d = &q->drv;
    unsigned i;

    drv_init(d, &dev->arena, dev->rand, dev->features, RING,
             d->packed ? start % RING : start);
    for (i = 0; i < RING; i++) {
        if (!q->buf[i]) {
            q->buf[i] = arena_alloc(&dev->arena, BUF, 1);
        }
        q->busy[i] = false;
    }
    vs_net_vq_set_num(dev->net, vq, RING);
    vs_net_vq_set_addr(dev->net, vq, d->desc, d->avail, d->used);
    vs_net_vq_set_base(dev->net, vq,
                       d->packed ? 0x80008000 | d->start | d->start << 16 :
                       d->start, d->packed);
    vs_net_vq_enable(dev->net, vq, true);
}

/* Negotiate, and set up and start all queues */
static void dev_start(Dev *dev, uint64_t features)
{
    unsigned i;

    dev->features = features;
    dev->indirect = features & FEATURE(VIRTIO_RING_F_INDIRECT_DESC);
    dev->hdr_len = features & (FEATURE(VIRTIO_F_VERSION_1) |
                               FEATURE(VIRTIO_NET_F_MRG_RXBUF)) ? HDR : 10;
    vs_net_set_features(dev->net, features);
    g_assert_cmphex(vs_net_features(dev->net), ==, features);
    for (i = 0; i < dev->nvqs; i++) {
        dev->q[i].drv.packed = features & FEATURE(VIRTIO_F_RING_PACKED);
        dev_setup_vq(dev, i, 65530);
    }
    vs_net_set_running(dev->net, true, false);
}

static void dev_stop(Dev *dev)
{
    unsigned i;

    vs_net_reset(dev->net);
    for (i = 0; i < dev->nvqs; i++) {
        drv_destroy(&dev->q[i].drv);
    }
}

static Dev *dev_new_as(VsNetConfig config)
{
    unsigned pairs = config.pairs;
    uint64_t offered = config.features;
    Dev *dev = g_new0(Dev, 1);
    VsHost host = {
        .opaque = dev,
        .read = dev_read,
        .write = dev_write,
        .load16 = dev_load16,
        .store16 = dev_store16,
        .call = dev_call,
        .config_changed = dev_config_changed,
        .stats_changed = dev_stats_changed,
        .transmitted = dev_transmitted,
    };
    uint32_t seed = g_test_rand_int();
    pthread_condattr_t attr;
    char *error = NULL;

    g_test_message("seed %u", seed);
    memcpy(config.mac, dev_mac, 6);
    dev->rand = g_rand_new_with_seed(seed);
    arena_init(&dev->arena, 8 << 20);
    pthread_mutex_init(&dev->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&dev->cond, &attr);
    pthread_condattr_destroy(&attr);
    dev->sent = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    dev->pairs = pairs;
    dev->net = vs_net_new(&config, &host, &error);
    g_assert_null(error);
    g_assert_nonnull(dev->net);
    dev->nvqs = vs_net_num_vqs(dev->net);
    g_assert_cmpuint(dev->nvqs, ==,
                     2 * pairs + !!(offered & FEATURE(VIRTIO_NET_F_CTRL_VQ)));
    return dev;
}

static Dev *dev_new(unsigned pairs, uint64_t offered, const char *wire,
                    uint16_t mtu)
{
    return dev_new_as((VsNetConfig) {
        .pairs = pairs,
        .features = offered,
        .mtu = mtu,
        .max_ring = 256,
        .wire = wire,
    });
}

static void dev_free(Dev *dev)
{
    dev_stop(dev);
    vs_net_free(dev->net);
    g_assert_cmpuint(dev->arena.faults, ==, 0);
    arena_destroy(&dev->arena);
    g_rand_free(dev->rand);
    g_ptr_array_free(dev->sent, TRUE);
    pthread_mutex_destroy(&dev->lock);
    pthread_cond_destroy(&dev->cond);
    g_free(dev);
}

static void dev_kick(Dev *dev, unsigned vq)
{
    if (drv_needs_kick(&dev->q[vq].drv)) {
        vs_net_vq_kick(dev->net, vq);
    }
}

static unsigned free_token(const Queue *q)
{
    unsigned t;

    for (t = 0; t < RING && q->busy[t]; t++) {
        /* The first that is free */
    }
    return t;
}

/* Make room for a chain: take back what the device is done with */
static unsigned dev_token(Dev *dev, unsigned vq, unsigned nseg, bool indirect)
{
    Queue *q = &dev->q[vq];
    unsigned t = free_token(q);
    uint32_t len;

    while (t == RING || !drv_room(&q->drv, nseg, indirect)) {
        dev_kick(dev, vq);
        dev_wait_until(dev, drv_get(&q->drv, &t, &len));
        q->busy[t] = false;
    }
    q->busy[t] = true;
    return t;
}

/* Give @n receive buffers of @len bytes to the device, if there is room */
static void dev_post(Dev *dev, unsigned pair, unsigned n, uint32_t len)
{
    Queue *q = &dev->q[2 * pair];

    while (n--) {
        bool indirect = dev->indirect && g_rand_boolean(dev->rand);
        unsigned nseg = len > HDR && g_rand_boolean(dev->rand) ? 2 : 1;
        unsigned t = free_token(q);
        VsSeg seg[2];

        if (t == RING || !drv_room(&q->drv, nseg, indirect)) {
            break;
        }
        q->busy[t] = true;
        seg[0] = (VsSeg) { q->buf[t], len };
        if (nseg == 2) {
            seg[0].len = g_rand_int_range(dev->rand, 1, len);
            seg[1].addr = seg[0].addr + seg[0].len;
            seg[1].len = len - seg[0].len;
        }
        drv_add(&q->drv, seg, 0, nseg, t, indirect);
    }
    dev_kick(dev, 2 * pair);
}

/* Transmit, cut in pieces anywhere */
static void dev_send_hdr(Dev *dev, unsigned pair,
                         const struct virtio_net_hdr_mrg_rxbuf *hdr,
                         const void *frame, uint32_t len)
{
    unsigned vq = 2 * pair + 1;
    Queue *q = &dev->q[vq];
    bool indirect = dev->indirect && g_rand_boolean(dev->rand);
    uint32_t total = dev->hdr_len + len;
    uint32_t at = 0;
    unsigned nseg = 0;
    VsSeg seg[4];
    unsigned t;

    g_assert_cmpuint(total, <=, BUF);
    t = dev_token(dev, vq, G_N_ELEMENTS(seg), indirect);
    arena_put(&dev->arena, q->buf[t], hdr, dev->hdr_len);
    arena_put(&dev->arena, q->buf[t] + dev->hdr_len, frame, len);
    while (at < total) {
        seg[nseg].addr = q->buf[t] + at;
        seg[nseg].len = nseg == G_N_ELEMENTS(seg) - 1 ? total - at :
                        (uint32_t)g_rand_int_range(dev->rand, 1,
                                                   total - at + 1);
        at += seg[nseg].len;
        nseg++;
    }
    drv_add(&q->drv, seg, nseg, 0, t, indirect);
    dev_kick(dev, vq);
}

static void dev_send(Dev *dev, unsigned pair, const void *frame, uint32_t len)
{
    struct virtio_net_hdr_mrg_rxbuf hdr = { 0 };

    dev_send_hdr(dev, pair, &hdr, frame, len);
}

/* Wait until the device has taken all that was sent on a pair */
static void dev_wait_sent(Dev *dev, unsigned pair)
{
    Queue *q = &dev->q[2 * pair + 1];
    unsigned t;
    uint32_t len;

    while (q->drv.nfree < RING) {
        dev_wait_until(dev, drv_get(&q->drv, &t, &len));
        g_assert_cmpuint(len, ==, 0);
        q->busy[t] = false;
    }
}

/* A received buffer; asks for an interrupt before it waits */
static uint32_t dev_recv_buf(Dev *dev, unsigned pair, uint8_t *buf)
{
    Queue *q = &dev->q[2 * pair];
    unsigned t;
    uint32_t len;

    if (!drv_get(&q->drv, &t, &len)) {
        drv_want_interrupt(&q->drv, true, q->drv.taken);
        dev_wait_until(dev, drv_get(&q->drv, &t, &len));
        drv_want_interrupt(&q->drv, false, 0);
    }
    g_assert_cmpuint(len, <=, BUF);
    arena_get(&dev->arena, q->buf[t], buf, len);
    q->busy[t] = false;
    return len;
}

/* A received frame; returns its length without the header */
static uint32_t dev_recv_hdr(Dev *dev, unsigned pair, uint8_t *frame,
                             struct virtio_net_hdr_mrg_rxbuf *hdr)
{
    uint8_t buf[32 * BUF];
    uint32_t total = dev_recv_buf(dev, pair, buf);
    unsigned n = 1;

    memset(hdr, 0, sizeof(*hdr));
    g_assert_cmpuint(total, >=, dev->hdr_len);
    memcpy(hdr, buf, dev->hdr_len);
    if (dev->hdr_len == HDR) {
        n = GUINT16_FROM_LE(hdr->num_buffers);
        g_assert_cmpuint(n, >=, 1);
    }
    if (!(dev->features & FEATURE(VIRTIO_NET_F_MRG_RXBUF))) {
        g_assert_cmpuint(n, ==, 1);
    }
    while (--n) {
        /* All of a frame's buffers are there at once */
        Drv *d = &dev->q[2 * pair].drv;
        uint64_t taken = d->taken;

        total += dev_recv_buf(dev, pair, buf + total);
        g_assert_cmpuint(d->taken, >, taken);
    }
    g_assert_cmpuint(hdr->hdr.gso_type, ==, VIRTIO_NET_HDR_GSO_NONE);
    memcpy(frame, buf + dev->hdr_len, total - dev->hdr_len);
    return total - dev->hdr_len;
}

static uint32_t dev_recv(Dev *dev, unsigned pair, uint8_t *frame)
{
    struct virtio_net_hdr_mrg_rxbuf hdr;
    uint32_t len = dev_recv_hdr(dev, pair, frame, &hdr);

    g_assert_cmpuint(hdr.hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, ==, 0);
    return len;
}

/* Wait for exactly this frame */
static void dev_expect(Dev *dev, unsigned pair, const void *frame,
                       uint32_t len)
{
    uint8_t got[32 * BUF];
    uint32_t got_len = dev_recv(dev, pair, got);

    g_assert_cmpmem(got, got_len, frame, len);
}

/* A frame whose content follows from @n */
static void make_frame(uint8_t *frame, uint32_t len, const uint8_t *to,
                       uint32_t n)
{
    uint32_t i;

    g_assert_cmpuint(len, >=, 18);
    memcpy(frame, to, 6);
    memcpy(frame + 6, peer_mac, 6);
    frame[12] = 0x88;
    frame[13] = 0xb5;       /* for experiments */
    memcpy(frame + 14, &n, 4);
    for (i = 18; i < len; i++) {
        frame[i] = n * 7 + i + (i >> 8);
    }
}

/* An IPv4 UDP frame between two ports; returns its length */
static uint32_t make_udp(uint8_t *f, const uint8_t *to, uint32_t src,
                         uint32_t dst, uint16_t sport, uint16_t dport,
                         const void *data, uint16_t len)
{
    uint32_t sum = 0;
    unsigned i;

    memset(f, 0, 42);
    memcpy(f, to, 6);
    memcpy(f + 6, dev_mac, 6);
    f[12] = 0x08;
    f[14] = 0x45;
    f[16] = (28 + len) >> 8;
    f[17] = 28 + len;
    f[22] = 64;
    f[23] = 17;
    src = htonl(src);
    dst = htonl(dst);
    memcpy(f + 26, &src, 4);
    memcpy(f + 30, &dst, 4);
    for (i = 14; i < 34; i += 2) {
        sum += f[i] << 8 | f[i + 1];
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~((sum & 0xffff) + (sum >> 16));
    f[24] = sum >> 8;
    f[25] = sum;
    f[34] = sport >> 8;
    f[35] = sport;
    f[36] = dport >> 8;
    f[37] = dport;
    f[38] = (8 + len) >> 8;
    f[39] = 8 + len;
    memcpy(f + 42, data, len);
    return 42 + len;
}

/* One's complement sum of the UDP pseudo header, not inverted */
static uint16_t udp_pseudo_sum(const uint8_t *f)
{
    uint32_t sum = 17 + (f[38] << 8 | f[39]);
    unsigned i;

    for (i = 26; i < 34; i += 2) {
        sum += f[i] << 8 | f[i + 1];
    }
    sum = (sum & 0xffff) + (sum >> 16);
    return (sum & 0xffff) + (sum >> 16);
}

static bool udp_checksum_ok(const uint8_t *f, uint32_t len)
{
    uint32_t sum = udp_pseudo_sum(f);
    unsigned i;

    for (i = 34; i < len; i += 2) {
        sum += f[i] << 8 | (i + 1 < len ? f[i + 1] : 0);
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum == 0xffff && (f[40] || f[41]);
}

/* One command; returns the answer */
static uint8_t dev_command(Dev *dev, uint8_t class, uint8_t cmd,
                           const void *data, uint32_t len)
{
    unsigned vq = dev_ctrl_vq(dev);
    Queue *q = &dev->q[vq];
    unsigned t = dev_token(dev, vq, 3, false);
    uint8_t head[2] = { class, cmd };
    uint8_t ack = 0x77;
    unsigned n = 0;
    VsSeg seg[3];
    uint32_t used;

    g_assert_cmpuint(len, <, BUF - 3);
    arena_put(&dev->arena, q->buf[t], head, 2);
    arena_put(&dev->arena, q->buf[t] + 2, data, len);
    arena_put(&dev->arena, q->buf[t] + BUF - 1, &ack, 1);
    seg[n++] = (VsSeg) { q->buf[t], 2 };
    if (len) {
        seg[n++] = (VsSeg) { q->buf[t] + 2, len };
    }
    seg[n] = (VsSeg) { q->buf[t] + BUF - 1, 1 };
    drv_add(&q->drv, seg, n, 1, t, false);
    dev_kick(dev, vq);
    dev_wait_until(dev, drv_get(&q->drv, &t, &used));
    q->busy[t] = false;
    g_assert_cmpuint(used, ==, 1);
    arena_get(&dev->arena, q->buf[t] + BUF - 1, &ack, 1);
    return ack;
}

static void dev_must(Dev *dev, uint8_t class, uint8_t cmd, const void *data,
                     uint32_t len)
{
    g_assert_cmpuint(dev_command(dev, class, cmd, data, len), ==,
                     VIRTIO_NET_OK);
}

static void dev_must_not(Dev *dev, uint8_t class, uint8_t cmd,
                         const void *data, uint32_t len)
{
    g_assert_cmpuint(dev_command(dev, class, cmd, data, len), ==,
                     VIRTIO_NET_ERR);
}

static struct virtio_net_config dev_config(Dev *dev)
{
    struct virtio_net_config config;

    memset(&config, 0, sizeof(config));
    g_assert_cmpuint(vs_net_config_size(dev->net), ==, 24);
    vs_net_config_read(dev->net, 0, &config, 24);
    return config;
}

/*
 * Traffic
 */

static void run_loopback(uint64_t features, uint32_t buf_len, bool calls)
{
    const unsigned total = 1500;
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    uint8_t frame[BUF];
    unsigned sent = 0, got = 0;

    dev->only_calls = calls;
    dev_start(dev, features);
    drv_want_interrupt(&dev->q[0].drv, false, 0);
    while (got < total) {
        uint32_t len;

        dev_post(dev, 0, g_rand_int_range(dev->rand, 1, 12), buf_len);
        while (sent < total && sent - got < 24 &&
               g_rand_int_range(dev->rand, 0, 8)) {
            len = 18 + (sent * 37) % 1000;
            make_frame(frame, len, peer_mac, sent);
            dev_send(dev, 0, frame, len);
            sent++;
        }
        while (got < sent && g_rand_int_range(dev->rand, 0, 8)) {
            /* Enough buffers, or the wait below would be for ever */
            dev_post(dev, 0, 12, buf_len);
            len = 18 + (got * 37) % 1000;
            make_frame(frame, len, peer_mac, got);
            dev_expect(dev, 0, frame, len);
            got++;
        }
    }
    dev_wait_until(dev, dev_stats(dev, 0).packets == total);
    g_assert_cmpuint(dev_stats(dev, 1).packets, ==, total);
    g_assert_cmpuint(dev_stats(dev, 0).bytes, ==, dev_stats(dev, 1).bytes);
    g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, 0);
    g_assert_cmpuint(dev_stats(dev, 0).errors, ==, 0);
    g_assert_cmpuint(dev_stats(dev, 1).errors, ==, 0);
    g_assert_cmpuint(dev->sent->len, ==, total);
    dev_free(dev);
}

static void test_loopback(gconstpointer data)
{
    uint64_t features = BASIC | *(const uint64_t *)data;

    run_loopback(features, BUF, false);
    run_loopback(features | FEATURE(VIRTIO_NET_F_MRG_RXBUF), BUF, false);
    run_loopback(features | FEATURE(VIRTIO_NET_F_MRG_RXBUF), 128, false);
    run_loopback(features & ~FEATURE(VIRTIO_F_VERSION_1), BUF, false);
}

/* No interrupt that was asked for gets lost, nor one too few */
static void test_interrupts(gconstpointer data)
{
    const unsigned total = 500;
    uint64_t features = BASIC | *(const uint64_t *)data;
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    uint8_t frame[100];
    unsigned i;

    dev->only_calls = true;
    dev_start(dev, features);
    drv_want_interrupt(&dev->q[0].drv, false, 0);
    drv_want_interrupt(&dev->q[1].drv, false, 0);
    for (i = 0; i < total; i++) {
        Queue *tx = &dev->q[1];
        unsigned t;
        uint32_t len;

        dev_post(dev, 0, 1, BUF);
        make_frame(frame, sizeof(frame), peer_mac, i);
        drv_want_interrupt(&tx->drv, true, tx->drv.taken);
        dev_send(dev, 0, frame, sizeof(frame));
        dev_expect(dev, 0, frame, sizeof(frame));
        dev_wait_until(dev, drv_get(&tx->drv, &t, &len));
        tx->busy[t] = false;
        drv_want_interrupt(&tx->drv, false, 0);
    }
    dev_free(dev);
}

static void test_mergeable(void)
{
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    uint8_t frame[BUF], got[BUF];
    struct virtio_net_hdr_mrg_rxbuf hdr;

    dev_start(dev, BASIC | FEATURE(VIRTIO_NET_F_MRG_RXBUF));
    make_frame(frame, 1000, peer_mac, 1);

    /* 1012 bytes in buffers of 100, which come in two lots */
    dev_post(dev, 0, 10, 100);
    dev_send(dev, 0, frame, 1000);
    dev_wait_sent(dev, 0);
    g_assert_cmpuint(dev_stats(dev, 0).packets, ==, 0);
    g_assert_cmpuint(dev_stats(dev, 0).used_idx, ==, (uint16_t)65530);
    dev_post(dev, 0, 1, 100);
    g_assert_cmpuint(dev_recv_hdr(dev, 0, got, &hdr), ==, 1000);
    g_assert_cmpmem(got, 1000, frame, 1000);
    g_assert_cmpuint(GUINT16_FROM_LE(hdr.num_buffers), ==, 11);

    /* Exactly full */
    dev_post(dev, 0, 11, 92);
    dev_send(dev, 0, frame, 1000);
    g_assert_cmpuint(dev_recv_hdr(dev, 0, got, &hdr), ==, 1000);
    g_assert_cmpmem(got, 1000, frame, 1000);
    g_assert_cmpuint(GUINT16_FROM_LE(hdr.num_buffers), ==, 11);

    /* Of more buffers than the ring has, it can never be received */
    dev_post(dev, 0, RING / 2, HDR);
    dev_send(dev, 0, frame, 1000);
    dev_wait_sent(dev, 0);
    g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, 0);
    dev_post(dev, 0, RING / 2, HDR);
    dev_wait_until(dev, dev_stats(dev, 0).dropped == 1);
    g_assert_cmpuint(dev_stats(dev, 0).errors, ==, 1);
    dev_send(dev, 0, frame, 20);
    dev_expect(dev, 0, frame, 20);
    dev_free(dev);
}

/* Without MRG_RXBUF a frame that does not fit is dropped, the buffer kept */
static void test_small_buffers(void)
{
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    uint8_t frame[BUF];

    dev_start(dev, BASIC);
    make_frame(frame, 1000, peer_mac, 1);
    dev_post(dev, 0, 1, HDR + 100);
    dev_send(dev, 0, frame, 101);
    dev_wait_until(dev, dev_stats(dev, 0).dropped == 1);
    g_assert_cmpuint(dev_stats(dev, 0).errors, ==, 1);
    g_assert_cmpuint(dev_stats(dev, 0).packets, ==, 0);
    dev_send(dev, 0, frame, 100);
    dev_expect(dev, 0, frame, 100);
    g_assert_cmpuint(dev_stats(dev, 1).packets, ==, 2);

    /* Smaller than the header itself */
    dev_post(dev, 0, 1, HDR - 1);
    dev_send(dev, 0, frame, 20);
    dev_wait_until(dev, dev_stats(dev, 0).dropped == 2);
    dev_free(dev);
}

/* More frames than the backlog holds wait for buffers, and none is lost */
static void test_backlog(void)
{
    const unsigned total = 256 + RING / 4;
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    uint8_t frame[100];
    unsigned i;

    dev_start(dev, BASIC | FEATURE(VIRTIO_RING_F_EVENT_IDX));
    /* The ring is there, but empty */
    vs_net_vq_kick(dev->net, 0);
    for (i = 0; i < total; i++) {
        make_frame(frame, sizeof(frame), peer_mac, i);
        dev_send(dev, 0, frame, sizeof(frame));
    }
    dev_wait_until(dev, dev_stats(dev, 1).packets == 256);
    for (i = 0; i < total; i++) {
        dev_post(dev, 0, 1, BUF);
        make_frame(frame, sizeof(frame), peer_mac, i);
        dev_expect(dev, 0, frame, sizeof(frame));
    }
    dev_wait_until(dev, dev_stats(dev, 0).packets == total);
    g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, 0);
    dev_free(dev);
}

/* Transmit chains that are no frames are returned and counted */
static void test_bad_frames(void)
{
    struct virtio_net_hdr_mrg_rxbuf hdr = { 0 };
    Dev *dev = dev_new(1, ALL, "loopback", 1000);
    uint8_t frame[BUF];

    dev_start(dev, BASIC | FEATURE(VIRTIO_NET_F_MTU) |
              FEATURE(VIRTIO_NET_F_CSUM));
    dev_post(dev, 0, 8, BUF);
    make_frame(frame, 1500, peer_mac, 0);
    dev_send(dev, 0, frame, 13);                /* no frame */
    dev_send(dev, 0, frame, 1015);              /* above the MTU */
    hdr.hdr.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
    dev_send_hdr(dev, 0, &hdr, frame, 100);     /* not negotiated */
    hdr.hdr.gso_type = 0;
    hdr.hdr.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    hdr.hdr.csum_start = GUINT16_TO_LE(90);
    hdr.hdr.csum_offset = GUINT16_TO_LE(9);
    dev_send_hdr(dev, 0, &hdr, frame, 100);     /* outside the frame */
    hdr.hdr.csum_start = GUINT16_TO_LE(0xffff);
    hdr.hdr.csum_offset = GUINT16_TO_LE(0xffff);
    dev_send_hdr(dev, 0, &hdr, frame, 100);
    dev_wait_sent(dev, 0);
    dev_wait_until(dev, dev_stats(dev, 1).errors == 5);
    g_assert_cmpuint(dev_stats(dev, 1).packets, ==, 0);
    dev_send(dev, 0, frame, 1014);
    dev_expect(dev, 0, frame, 1014);
    /* A tag does not count */
    frame[12] = 0x81;
    frame[13] = 0;
    dev_send(dev, 0, frame, 1018);
    dev_expect(dev, 0, frame, 1018);
    dev_send(dev, 0, frame, 14);
    dev_expect(dev, 0, frame, 14);
    dev_free(dev);
}

/* A queue that breaks stops alone, and starts again when enabled again */
static void test_broken_queue(void)
{
    Dev *dev = dev_new(2, ALL, "loopback", 0);
    uint8_t frame[100];
    Drv *d;

    dev_start(dev, BASIC | FEATURE(VIRTIO_NET_F_MQ));
    make_frame(frame, sizeof(frame), peer_mac, 5);
    d = &dev->q[1].drv;
    arena_put16(&dev->arena, d->avail + 2,
                (uint16_t)(65530 + RING + 1));
    vs_net_vq_kick(dev->net, 1);
    dev_wait_until(dev, dev_stats(dev, 1).errors == 1);
    vs_net_vq_kick(dev->net, 1);
    dev_post(dev, 0, 1, BUF);
    dev_send(dev, 1, frame, sizeof(frame));
    dev_expect(dev, 0, frame, sizeof(frame));
    g_assert_cmpuint(dev_stats(dev, 1).errors, ==, 1);
    g_assert_true(dev_stats(dev, 1).enabled);

    vs_net_vq_enable(dev->net, 1, false);
    g_assert_cmpuint(vs_net_vq_base(dev->net, 1, false), ==, 65530);
    arena_put16(&dev->arena, d->avail + 2, 65530);
    vs_net_vq_enable(dev->net, 1, true);
    dev_post(dev, 0, 1, BUF);
    dev_send(dev, 0, frame, sizeof(frame));
    /* The ring may still say that it needs no doorbell */
    vs_net_vq_kick(dev->net, 1);
    dev_expect(dev, 0, frame, sizeof(frame));
    g_assert_cmpuint(dev_stats(dev, 1).errors, ==, 1);
    dev_free(dev);
}

/* Buffers that are not mapped cost that frame only */
static void test_unmapped_buffers(void)
{
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    VsSeg seg = { 0x1000, 200 };
    uint8_t frame[100];
    unsigned t;
    uint32_t len;

    dev_start(dev, BASIC);
    make_frame(frame, sizeof(frame), peer_mac, 5);

    drv_add(&dev->q[1].drv, &seg, 1, 0, RING - 1, false);
    dev_kick(dev, 1);
    dev_wait_until(dev, drv_get(&dev->q[1].drv, &t, &len));
    dev_wait_until(dev, dev_stats(dev, 1).errors == 1);

    drv_add(&dev->q[0].drv, &seg, 0, 1, RING - 1, false);
    dev_kick(dev, 0);
    dev_post(dev, 0, 1, BUF);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_send(dev, 0, frame, sizeof(frame));
    dev_wait_until(dev, drv_get(&dev->q[0].drv, &t, &len));
    g_assert_cmpuint(t, ==, RING - 1);
    g_assert_cmpuint(len, ==, 0);
    dev_expect(dev, 0, frame, sizeof(frame));
    dev_wait_until(dev, dev_stats(dev, 0).packets == 1);
    g_assert_cmpuint(dev_stats(dev, 0).errors, ==, 1);
    g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, 1);
    g_assert_cmpuint(dev->arena.faults, ==, 2);
    dev->arena.faults = 0;
    dev_free(dev);
}

static void dev_freeze(Dev *dev, bool frozen)
{
    pthread_mutex_lock(&dev->arena.lock);
    dev->arena.frozen = frozen;
    pthread_mutex_unlock(&dev->arena.lock);
}

typedef struct Suspender {
    Dev *dev;
    unsigned rounds;
    pthread_t thread;
} Suspender;

static void *suspender(void *opaque)
{
    Suspender *s = opaque;
    unsigned i;

    for (i = 0; i < s->rounds; i++) {
        vs_net_set_running(s->dev->net, false, false);
        dev_freeze(s->dev, true);
        sched_yield();
        dev_freeze(s->dev, false);
        /* Doorbells rung meanwhile are the node's to remember */
        vs_net_set_running(s->dev->net, true, true);
        sched_yield();
    }
    return NULL;
}

/* Stopped and started all the time, nothing is lost or touched while off */
static void test_suspend(gconstpointer data)
{
    const unsigned total = 2000;
    uint64_t features = BASIC | *(const uint64_t *)data;
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    Suspender s = { .dev = dev, .rounds = 500 };
    uint8_t frame[200];
    unsigned i;

    dev_start(dev, features);
    dev_post(dev, 0, RING / 2, BUF);
    g_assert_cmpint(pthread_create(&s.thread, NULL, suspender, &s), ==, 0);
    for (i = 0; i < total; i++) {
        if (i >= 16) {
            make_frame(frame, sizeof(frame), peer_mac, i - 16);
            dev_expect(dev, 0, frame, sizeof(frame));
            dev_post(dev, 0, 1, BUF);
        }
        make_frame(frame, sizeof(frame), peer_mac, i);
        dev_send(dev, 0, frame, sizeof(frame));
    }
    pthread_join(s.thread, NULL);
    for (i = total - 16; i < total; i++) {
        make_frame(frame, sizeof(frame), peer_mac, i);
        dev_expect(dev, 0, frame, sizeof(frame));
    }
    g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, 0);
    dev_free(dev);
}

/* Doorbells count from any thread, but a stopped device does not react */
static void test_kick_while_stopped(void)
{
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    uint8_t frame[100];

    dev_start(dev, BASIC);
    vs_net_set_running(dev->net, false, false);
    make_frame(frame, sizeof(frame), peer_mac, 1);
    dev_freeze(dev, true);
    vs_net_vq_kick(dev->net, 1);
    dev_wait_until(dev, dev_stats(dev, 1).kicks == 1);
    dev_freeze(dev, false);
    dev_post(dev, 0, 1, BUF);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_wait_until(dev, dev_stats(dev, 1).kicks == 2);
    g_assert_cmpuint(dev_stats(dev, 1).packets, ==, 0);
    vs_net_set_running(dev->net, true, true);
    dev_expect(dev, 0, frame, sizeof(frame));
    dev_free(dev);
}

/* A doorbell counts although the device was stopped before it was seen */
static void test_kick_then_stop(void)
{
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    uint8_t frame[100];
    unsigned i;

    dev_start(dev, BASIC);
    for (i = 0; i < 200; i++) {
        make_frame(frame, sizeof(frame), peer_mac, i);
        dev_post(dev, 0, 1, BUF);
        dev_send(dev, 0, frame, sizeof(frame));
        vs_net_set_running(dev->net, false, false);
        vs_net_set_running(dev->net, true, false);
        dev_expect(dev, 0, frame, sizeof(frame));
    }
    dev_free(dev);
}

/* A ring that another takes over where this one left it */
static void test_base(gconstpointer data)
{
    uint64_t features = BASIC | *(const uint64_t *)data;
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    uint8_t frame[100];
    unsigned i, k, vq;

    dev_start(dev, features);
    for (i = 0; i < 100; i++) {
        for (k = 0; k < 3; k++) {
            make_frame(frame, sizeof(frame), peer_mac, 3 * i + k);
            dev_post(dev, 0, 1, BUF);
            dev_send(dev, 0, frame, sizeof(frame));
            dev_expect(dev, 0, frame, sizeof(frame));
        }
        dev_wait_sent(dev, 0);
        uint32_t base[2];

        vs_net_set_running(dev->net, false, false);
        for (vq = 0; vq < 2; vq++) {
            VsVqStats s = dev_stats(dev, vq);

            base[vq] = vs_net_vq_base(dev->net, vq, dev->q[vq].drv.packed);
            g_assert_cmpuint(base[vq] & 0x7fff, ==, s.avail_idx & 0x7fff);
            g_assert_cmpuint(s.avail_idx, ==, s.used_idx);
        }
        vs_net_reset(dev->net);
        for (vq = 0; vq < 2; vq++) {
            Drv *d = &dev->q[vq].drv;

            g_assert_cmphex(vs_net_vq_base(dev->net, vq, d->packed), ==,
                            d->packed ? 0x80008000 : 0);
            vs_net_vq_set_num(dev->net, vq, RING);
            vs_net_vq_set_addr(dev->net, vq, d->desc, d->avail, d->used);
            vs_net_vq_set_base(dev->net, vq, base[vq], d->packed);
            g_assert_cmphex(vs_net_vq_base(dev->net, vq, d->packed), ==,
                            base[vq]);
        }
        /* It is the caller who knows how they are encoded */
        vs_net_set_features(dev->net, features);
        for (vq = 0; vq < 2; vq++) {
            Drv *d = &dev->q[vq].drv;

            vs_net_vq_enable(dev->net, vq, true);
            g_assert_cmphex(vs_net_vq_base(dev->net, vq, d->packed), ==,
                            base[vq]);
        }
        vs_net_set_running(dev->net, true, false);
        vs_net_vq_kick(dev->net, 0);
        vs_net_vq_kick(dev->net, 1);
    }
    dev_free(dev);
}

/* Queues are looked at when they are kicked, not when they are enabled */
static void test_no_scan(void)
{
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    uint8_t frame[100];
    VsSeg seg;
    Queue *q;

    dev_start(dev, BASIC);
    make_frame(frame, sizeof(frame), peer_mac, 1);
    /* A receive buffer without a doorbell */
    q = &dev->q[0];
    q->busy[0] = true;
    seg = (VsSeg) { q->buf[0], BUF };
    drv_add(&q->drv, &seg, 0, 1, 0, false);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_wait_sent(dev, 0);
    g_assert_cmpuint(dev_stats(dev, 0).packets, ==, 0);
    vs_net_vq_kick(dev->net, 0);
    dev_expect(dev, 0, frame, sizeof(frame));

    vs_net_vq_enable(dev->net, 0, false);
    g_assert_false(dev_stats(dev, 0).enabled);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_wait_sent(dev, 0);
    g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, 1);
    dev_free(dev);
}

/* A queue that was never set up can be enabled, and does nothing */
static void test_not_set_up(void)
{
    Dev *dev = dev_new(2, ALL, "loopback", 0);
    uint8_t frame[100];
    unsigned i;

    dev_start(dev, CONTROL | FEATURE(VIRTIO_NET_F_MQ));
    for (i = 2; i < 4; i++) {
        vs_net_vq_enable(dev->net, i, false);
        vs_net_vq_set_num(dev->net, i, 0);
        vs_net_vq_set_addr(dev->net, i, 0, 0, 0);
        vs_net_vq_enable(dev->net, i, true);
        vs_net_vq_kick(dev->net, i);
    }
    dev_post(dev, 0, 1, BUF);
    make_frame(frame, sizeof(frame), peer_mac, 1);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_expect(dev, 0, frame, sizeof(frame));
    for (i = 2; i < 4; i++) {
        g_assert_true(dev_stats(dev, i).enabled);
        g_assert_cmpuint(dev_stats(dev, i).errors, ==, 0);
    }
    /* One with a size that cannot be is an error */
    vs_net_vq_enable(dev->net, 2, false);
    vs_net_vq_set_num(dev->net, 2, 3);
    vs_net_vq_enable(dev->net, 2, true);
    dev_wait_until(dev, dev_stats(dev, 2).errors == 1);
    /* And so is one whose size was forgotten */
    vs_net_vq_enable(dev->net, 3, false);
    vs_net_vq_set_addr(dev->net, 3, 16, 2, 4);
    vs_net_vq_enable(dev->net, 3, true);
    dev_wait_until(dev, dev_stats(dev, 3).errors == 1);
    dev_free(dev);
}

static void test_asid(void)
{
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    uint8_t frame[100];

    dev_start(dev, BASIC);
    make_frame(frame, sizeof(frame), peer_mac, 1);
    dev_post(dev, 0, 2, BUF);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_expect(dev, 0, frame, sizeof(frame));
    /* There is no address space 5 to find buffers in */
    vs_net_vq_set_asid(dev->net, 1, 5, 0);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_wait_until(dev, dev_stats(dev, 1).errors == 1);
    dev_wait_sent(dev, 0);
    vs_net_vq_set_asid(dev->net, 1, 1, 1);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_expect(dev, 0, frame, sizeof(frame));
    /* Nor rings */
    vs_net_vq_set_asid(dev->net, 1, 0, 5);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_wait_until(dev, dev_stats(dev, 1).errors == 2);
    g_assert_cmpuint(dev->arena.faults, >=, 2);
    dev->arena.faults = 0;
    dev_free(dev);
}

static void inject(Dev *dev, const uint8_t *to, uint32_t n, int vq)
{
    uint8_t frame[100];

    make_frame(frame, sizeof(frame), to, n);
    vs_net_inject(dev->net, frame, sizeof(frame), vq);
}

/* Fill a ring with what no driver should put there */
static void make_noise(Dev *dev, unsigned vq)
{
    Queue *q = &dev->q[vq];
    Drv *d = &q->drv;
    unsigned i, k;

    for (i = 0; i < RING; i++) {
        uint64_t addr = q->buf[g_rand_int_range(dev->rand, 0, RING)];
        uint32_t len = g_rand_int_range(dev->rand, 0, BUF);
        /* How far from the start the slot is */
        unsigned pos = (i + RING - d->start % RING) % RING;
        uint16_t flags = 0;
        uint8_t head[16];

        for (k = 0; k < 3; k++) {
            flags |= g_rand_int_range(dev->rand, 0, 6) == 0 ? 1 << k : 0;
        }
        switch (g_rand_int_range(dev->rand, 0, 12)) {
        case 0:
            addr = d->tables + 16 * g_rand_int_range(dev->rand, 0, RING);
            len = 16 * g_rand_int_range(dev->rand, 0, 8);
            break;
        case 1:
            addr = d->desc;
            break;
        case 2:
            addr = (uint64_t)g_rand_int(dev->rand) << 32;
            len = g_rand_int(dev->rand);
            break;
        }
        drv_put(d, d->tables + 16 * i, q->buf[i], len,
                flags & ~VRING_DESC_F_INDIRECT, i + 1);
        drv_put(d, drv_desc(d, i), addr, len,
                d->packed ? flags | drv_packed_flags(d, pos) : flags,
                g_rand_int_range(dev->rand, 0, RING + 1));
        for (k = 0; k < sizeof(head); k++) {
            head[k] = g_rand_int_range(dev->rand, 0, 5);
        }
        arena_put(&dev->arena, q->buf[i], head, sizeof(head));
        if (!d->packed) {
            arena_put16(&dev->arena, d->avail + 4 + 2 * i,
                        g_rand_int_range(dev->rand, 0, RING));
        }
    }
    if (!d->packed) {
        arena_put16(&dev->arena, d->avail + 2,
                    d->start + g_rand_int_range(dev->rand, 0, RING + 2));
    }
}

/* Whatever a driver does, the device survives it and serves the next one */
static void test_noise(gconstpointer data)
{
    bool packed = data;
    Dev *dev = dev_new(2, ALL, "loopback", 0);
    uint64_t packed_bit = FEATURE(VIRTIO_F_RING_PACKED);
    uint8_t frame[100];
    unsigned round, vq;
    uint64_t broken = 0, served = 0;
    size_t brk = 0;

    for (round = 0; round < 300; round++) {
        uint64_t kicks[MAX_VQS];
        uint64_t features = g_rand_int(dev->rand) |
                            (uint64_t)g_rand_int(dev->rand) << 32;

        features = ((features & ALL) | CONTROL) & ~packed_bit;
        dev_start(dev, features | (packed ? packed_bit : 0));
        for (vq = 0; vq < dev->nvqs; vq++) {
            make_noise(dev, vq);
            kicks[vq] = dev_stats(dev, vq).kicks;
        }
        for (vq = 0; vq < dev->nvqs; vq++) {
            inject(dev, vq % 2 ? dev_mac : bcast_mac, round, -1);
            vs_net_vq_kick(dev->net, vq);
        }
        for (vq = 0; vq < dev->nvqs; vq++) {
            dev_wait_until(dev, dev_stats(dev, vq).kicks > kicks[vq]);
        }
        dev_stop(dev);
        /* Buffers are kept, rings are laid out again */
        if (round) {
            dev->arena.brk = brk;
        } else {
            brk = dev->arena.brk;
        }
    }
    for (vq = 0; vq < dev->nvqs; vq++) {
        broken += dev_stats(dev, vq).errors;
        served += dev_stats(dev, vq).packets;
    }
    g_assert_cmpuint(broken, >, 300);
    g_assert_cmpuint(served, >, 300);
    dev->arena.faults = 0;

    dev_start(dev, BASIC | (packed ? packed_bit : 0));
    dev_post(dev, 0, 1, BUF);
    make_frame(frame, sizeof(frame), peer_mac, 1);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_expect(dev, 0, frame, sizeof(frame));
    dev_free(dev);
}

/*
 * Control
 */

static void check_rx_state(Dev *dev, const char *what, bool there)
{
    g_autofree char *json = vs_net_rx_state_json(dev->net);

    if (!!strstr(json, what) != there) {
        g_error("%s%s in %s", there ? "no " : "", what, json);
    }
}

/* Frames go as in the kernel's simulator: nothing waits, nothing is made */
static void test_simulator(void)
{
    struct virtio_net_hdr_mrg_rxbuf hdr = { .num_buffers = 7 };
    Dev *dev = dev_new_as((VsNetConfig) {
        .pairs = 1,
        .features = BASIC,
        .max_ring = 256,
        .wire = "loopback",
        .max_frame = 4096,
        .simulator = true,
    });
    uint8_t frame[60], buf[BUF];

    dev_start(dev, BASIC);
    make_frame(frame, sizeof(frame), dev_mac, 1);
    /* without a buffer it is lost, with one it is not kept for later */
    dev_send(dev, 0, frame, sizeof(frame));
    dev_wait_sent(dev, 0);
    g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, 1);
    dev_post(dev, 0, 2, HDR + 20);
    make_frame(frame, sizeof(frame), peer_mac, 2);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_wait_sent(dev, 0);
    dev_wait_until(dev, dev_stats(dev, 0).dropped == 2);

    /* the header is the sender's, and what does not fit is cut off */
    make_frame(frame, sizeof(frame), bcast_mac, 3);
    dev_send_hdr(dev, 0, &hdr, frame, sizeof(frame));
    g_assert_cmpuint(dev_recv_buf(dev, 0, buf), ==, HDR + 20);
    g_assert_cmpmem(buf, HDR, &hdr, HDR);
    g_assert_cmpmem(buf + HDR, 20, frame, 20);
    dev_wait_sent(dev, 0);
    g_assert_cmpuint(dev_stats(dev, 0).packets, ==, 1);
    g_assert_cmpuint(dev_stats(dev, 1).packets, ==, 3);
    g_assert_cmpuint(dev_stats(dev, 0).errors, ==, 0);
    dev_free(dev);
}

static void test_ctrl_modes(void)
{
    static const struct {
        uint8_t cmd;
        const char *name;
    } modes[] = {
        { VIRTIO_NET_CTRL_RX_PROMISC, "promisc" },
        { VIRTIO_NET_CTRL_RX_ALLMULTI, "allmulti" },
        { VIRTIO_NET_CTRL_RX_ALLUNI, "alluni" },
        { VIRTIO_NET_CTRL_RX_NOMULTI, "nomulti" },
        { VIRTIO_NET_CTRL_RX_NOUNI, "nouni" },
        { VIRTIO_NET_CTRL_RX_NOBCAST, "nobcast" },
    };
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    uint8_t on[2] = { 1, 1 }, off = 0;
    unsigned i;

    dev_start(dev, CONTROL);
    for (i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_autofree char *yes = g_strdup_printf("\"%s\":true", modes[i].name);

        check_rx_state(dev, yes, false);
        dev_must(dev, VIRTIO_NET_CTRL_RX, modes[i].cmd, on, 1);
        check_rx_state(dev, yes, true);
        dev_must_not(dev, VIRTIO_NET_CTRL_RX, modes[i].cmd, NULL, 0);
        dev_must_not(dev, VIRTIO_NET_CTRL_RX, modes[i].cmd, on, 2);
        check_rx_state(dev, yes, true);
        dev_must(dev, VIRTIO_NET_CTRL_RX, modes[i].cmd, &off, 1);
        check_rx_state(dev, yes, false);
    }
    dev_must_not(dev, VIRTIO_NET_CTRL_RX, 6, on, 1);
    dev_must_not(dev, 99, 0, on, 1);
    dev_must_not(dev, VIRTIO_NET_CTRL_MQ, 0, on, 2);

    /* Commands of features that were not negotiated */
    dev_stop(dev);
    dev_start(dev, BASIC | FEATURE(VIRTIO_NET_F_CTRL_VQ));
    for (i = 0; i < G_N_ELEMENTS(modes); i++) {
        dev_must_not(dev, VIRTIO_NET_CTRL_RX, modes[i].cmd, on, 1);
    }
    dev_must_not(dev, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
                 peer_mac, 6);
    dev_must_not(dev, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, on, 2);
    dev_must_not(dev, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK,
                 NULL, 0);
    dev_must_not(dev, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
                 VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, "\0\0\0\0\0\0\0", 8);
    dev_free(dev);
}

static void test_ctrl_mac(void)
{
    /* Two tables: one unicast, two multicast addresses */
    static const uint8_t table[] = {
        1, 0, 0, 0, 2, 0, 0, 0, 0, 1,
        2, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1, 1, 0, 0x5e, 0, 0, 2,
    };
    uint8_t large[8 + 65 * 6] = { 65 };
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    struct virtio_net_config config;
    uint8_t mac[6];
    unsigned i;

    dev_start(dev, CONTROL);
    dev_must(dev, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
             peer_mac, 6);
    vs_net_mac(dev->net, mac);
    g_assert_cmpmem(mac, 6, peer_mac, 6);
    config = dev_config(dev);
    g_assert_cmpmem(config.mac, 6, peer_mac, 6);
    for (i = 0; i < 6; i++) {
        dev_must_not(dev, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
                     dev_mac, i);
    }
    vs_net_mac(dev->net, mac);
    g_assert_cmpmem(mac, 6, peer_mac, 6);

    dev_must(dev, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET,
             table, sizeof(table));
    check_rx_state(dev, "\"macs\":[\"02:00:00:00:00:01\","
                   "\"01:00:5e:00:00:01\",\"01:00:5e:00:00:02\"]", true);
    for (i = 0; i < sizeof(table); i++) {
        dev_must_not(dev, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET,
                     table, i);
    }
    check_rx_state(dev, "01:00:5e:00:00:02", true);
    /* A count beyond all bounds */
    large[3] = 0xff;
    dev_must_not(dev, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET,
                 large, sizeof(large));
    /* More than the filter holds means all */
    large[3] = 0;
    dev_must(dev, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET,
             large, sizeof(large));
    check_rx_state(dev, "\"unicast-overflow\":true", true);
    check_rx_state(dev, "\"multicast-overflow\":false", true);
    dev_must_not(dev, VIRTIO_NET_CTRL_MAC, 2, large, 6);

    /* Tables are empty after a reset; the address stays */
    dev_stop(dev);
    dev_start(dev, CONTROL);
    check_rx_state(dev, "\"macs\":[]", true);
    check_rx_state(dev, "\"unicast-overflow\":false", true);
    vs_net_mac(dev->net, mac);
    g_assert_cmpmem(mac, 6, peer_mac, 6);
    dev_free(dev);
}

static void test_ctrl_vlan(void)
{
    static const uint8_t vid5[] = { 5, 0, 0 }, vid4095[] = { 0xff, 0x0f };
    static const uint8_t vid4096[] = { 0, 0x10 };
    Dev *dev = dev_new(1, ALL, "loopback", 0);

    dev_start(dev, CONTROL);
    dev_must(dev, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, vid5, 2);
    dev_must(dev, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, vid4095, 2);
    check_rx_state(dev, "\"vlans\":[5,4095]", true);
    dev_must(dev, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_DEL, vid4095, 2);
    check_rx_state(dev, "\"vlans\":[5]", true);
    dev_must_not(dev, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD,
                 vid4096, 2);
    dev_must_not(dev, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD,
                 vid5, 1);
    dev_must_not(dev, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD,
                 vid5, 3);
    dev_must_not(dev, VIRTIO_NET_CTRL_VLAN, 2, vid5, 2);
    dev_free(dev);
}

/* Commands that lack a part */
static void test_ctrl_malformed(void)
{
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    Queue *q;
    VsSeg seg[2];
    unsigned t;
    uint32_t len;
    uint8_t ack;

    dev_start(dev, CONTROL);
    q = &dev->q[2];
    /* No room for the answer */
    seg[0] = (VsSeg) { q->buf[0], 3 };
    drv_add(&q->drv, seg, 1, 0, 0, false);
    dev_kick(dev, 2);
    dev_wait_until(dev, drv_get(&q->drv, &t, &len));
    g_assert_cmpuint(len, ==, 0);
    dev_wait_until(dev, dev_stats(dev, 2).errors == 1);
    /* No command at all, then half of one */
    seg[0] = (VsSeg) { q->buf[1], 1 };
    drv_add(&q->drv, seg, 0, 1, 0, false);
    dev_kick(dev, 2);
    dev_wait_until(dev, drv_get(&q->drv, &t, &len));
    g_assert_cmpuint(len, ==, 1);
    arena_get(&dev->arena, q->buf[1], &ack, 1);
    g_assert_cmpuint(ack, ==, VIRTIO_NET_ERR);
    seg[0] = (VsSeg) { q->buf[0], 1 };
    seg[1] = (VsSeg) { q->buf[1], 1 };
    drv_add(&q->drv, seg, 1, 1, 0, false);
    dev_kick(dev, 2);
    dev_wait_until(dev, drv_get(&q->drv, &t, &len));
    g_assert_cmpuint(len, ==, 1);
    dev_wait_until(dev, dev_stats(dev, 2).errors == 3);
    /* One that cannot be read is answered, as the answer can be written */
    seg[0] = (VsSeg) { 0x1000, 3 };
    drv_add(&q->drv, seg, 1, 1, 0, false);
    dev_kick(dev, 2);
    dev_wait_until(dev, drv_get(&q->drv, &t, &len));
    g_assert_cmpuint(len, ==, 1);
    arena_get(&dev->arena, q->buf[1], &ack, 1);
    g_assert_cmpuint(ack, ==, VIRTIO_NET_ERR);
    dev_wait_until(dev, dev_stats(dev, 2).errors == 4);
    /* One whose answer cannot be written is returned empty */
    seg[0] = (VsSeg) { q->buf[0], 3 };
    seg[1] = (VsSeg) { 0x1000, 1 };
    drv_add(&q->drv, seg, 1, 1, 0, false);
    dev_kick(dev, 2);
    dev_wait_until(dev, drv_get(&q->drv, &t, &len));
    g_assert_cmpuint(len, ==, 0);
    dev_wait_until(dev, dev_stats(dev, 2).errors == 5);
    g_assert_cmpuint(dev->arena.faults, ==, 2);
    dev->arena.faults = 0;
    /* It goes on */
    dev_must(dev, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, "\1", 1);
    dev_free(dev);
}

/* The frame @n arrives and not one of those before it */
static void expect_injected(Dev *dev, unsigned pair, const uint8_t *to,
                            uint32_t n)
{
    uint8_t frame[100];

    make_frame(frame, sizeof(frame), to, n);
    dev_expect(dev, pair, frame, sizeof(frame));
}

static void test_filter(void)
{
    static const uint8_t table[] = {
        1, 0, 0, 0, 0x52, 0x54, 0x00, 0x65, 0x43, 0x21,
        1, 0, 0, 0, 0x01, 0x00, 0x5e, 0x00, 0x00, 0x05,
    };
    static const struct {
        uint8_t cmd;            /* of VIRTIO_NET_CTRL_RX */
        /* What passes: own address, other, broadcast, multicast */
        bool own, other, bcast, group;
    } rows[] = {
        { VIRTIO_NET_CTRL_RX_PROMISC, true, true, true, true },
        { VIRTIO_NET_CTRL_RX_ALLMULTI, true, false, true, true },
        { VIRTIO_NET_CTRL_RX_ALLUNI, true, true, true, false },
        { VIRTIO_NET_CTRL_RX_NOMULTI, true, false, true, false },
        { VIRTIO_NET_CTRL_RX_NOUNI, false, false, true, false },
        { VIRTIO_NET_CTRL_RX_NOBCAST, true, false, false, false },
        { 0xff, true, false, true, false },
    };
    const uint8_t *to[] = { dev_mac, peer_mac, bcast_mac, group_mac };
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    uint64_t dropped = 0;
    unsigned i, k, n = 0;

    dev_start(dev, CONTROL);
    dev_post(dev, 0, RING / 2, BUF);
    for (i = 0; i < G_N_ELEMENTS(rows); i++) {
        bool pass[] = {
            rows[i].own, rows[i].other, rows[i].bcast, rows[i].group,
        };

        if (rows[i].cmd != 0xff) {
            dev_must(dev, VIRTIO_NET_CTRL_RX, rows[i].cmd, "\1", 1);
        }
        for (k = 0; k < 4; k++) {
            inject(dev, to[k], ++n, k % 2 ? -1 : 0);
            if (pass[k]) {
                expect_injected(dev, 0, to[k], n);
                dev_post(dev, 0, 1, BUF);
            } else {
                g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, ++dropped);
            }
        }
        if (rows[i].cmd != 0xff) {
            dev_must(dev, VIRTIO_NET_CTRL_RX, rows[i].cmd, "\0", 1);
        }
    }
    /* Through the tables; "no" is stronger */
    dev_must(dev, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET,
             table, sizeof(table));
    inject(dev, peer_mac, ++n, -1);
    expect_injected(dev, 0, peer_mac, n);
    inject(dev, group_mac, ++n, -1);
    expect_injected(dev, 0, group_mac, n);
    dev_must(dev, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOMULTI, "\1", 1);
    inject(dev, group_mac, ++n, -1);
    g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, ++dropped);
    /* A changed address is the one that counts */
    dev_must(dev, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
             "\2\0\0\0\0\7", 6);
    inject(dev, dev_mac, ++n, -1);
    g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, ++dropped);
    inject(dev, (const uint8_t *)"\2\0\0\0\0\7", ++n, -1);
    expect_injected(dev, 0, (const uint8_t *)"\2\0\0\0\0\7", n);
    /* Too short to be a frame, and no queue to receive it */
    vs_net_inject(dev->net, dev_mac, 6, -1);
    g_assert_cmpuint(dev_stats(dev, 0).errors, ==, 1);
    inject(dev, bcast_mac, ++n, 1);
    inject(dev, bcast_mac, ++n, 2);
    inject(dev, bcast_mac, ++n, 1000);
    inject(dev, bcast_mac, ++n, 0);
    expect_injected(dev, 0, bcast_mac, n);
    dev_free(dev);
}

static void test_filter_vlan(void)
{
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    uint8_t frame[100];

    dev_start(dev, CONTROL);
    dev_post(dev, 0, 4, BUF);
    make_frame(frame, sizeof(frame), dev_mac, 1);
    frame[12] = 0x81;
    frame[13] = 0;
    frame[14] = 0xe0;       /* a priority, which does not matter */
    frame[15] = 5;
    vs_net_inject(dev->net, frame, sizeof(frame), -1);
    g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, 1);
    dev_must(dev, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, "\5\0", 2);
    vs_net_inject(dev->net, frame, sizeof(frame), -1);
    dev_expect(dev, 0, frame, sizeof(frame));
    dev_must(dev, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_DEL, "\5\0", 2);
    vs_net_inject(dev->net, frame, sizeof(frame), -1);
    g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, 2);

    /* Not negotiated, it lets all pass */
    dev_stop(dev);
    dev_start(dev, CONTROL & ~FEATURE(VIRTIO_NET_F_CTRL_VLAN));
    dev_post(dev, 0, 4, BUF);
    vs_net_inject(dev->net, frame, sizeof(frame), -1);
    dev_expect(dev, 0, frame, sizeof(frame));
    dev_free(dev);
}

static void test_link_and_announce(void)
{
    Dev *dev = dev_new(2, ALL, "loopback", 9000);
    struct virtio_net_config config = dev_config(dev);
    uint8_t frame[100];

    g_assert_cmpmem(config.mac, 6, dev_mac, 6);
    g_assert_cmpuint(GUINT16_FROM_LE(config.status), ==,
                     VIRTIO_NET_S_LINK_UP);
    g_assert_cmpuint(GUINT16_FROM_LE(config.max_virtqueue_pairs), ==, 2);
    g_assert_cmpuint(GUINT16_FROM_LE(config.mtu), ==, 9000);
    g_assert_cmpuint(config.supported_hash_types, ==, 0);

    dev_start(dev, CONTROL);
    dev_post(dev, 0, 4, BUF);
    make_frame(frame, sizeof(frame), peer_mac, 1);
    vs_net_set_link(dev->net, false);
    g_assert_cmpuint(dev->config_changes, ==, 1);
    g_assert_false(vs_net_link(dev->net));
    g_assert_cmpuint(dev_config(dev).status, ==, 0);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_wait_sent(dev, 0);
    g_assert_cmpuint(dev_stats(dev, 1).dropped, ==, 1);
    inject(dev, dev_mac, 1, -1);
    g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, 1);
    vs_net_set_link(dev->net, false);
    g_assert_cmpuint(dev->config_changes, ==, 1);
    vs_net_set_link(dev->net, true);
    g_assert_cmpuint(dev->config_changes, ==, 2);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_expect(dev, 0, frame, sizeof(frame));

    vs_net_announce(dev->net);
    g_assert_cmpuint(dev->config_changes, ==, 3);
    g_assert_cmpuint(GUINT16_FROM_LE(dev_config(dev).status), ==,
                     VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    dev_must_not(dev, VIRTIO_NET_CTRL_ANNOUNCE, 1, NULL, 0);
    dev_must_not(dev, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK,
                 "x", 1);
    dev_must(dev, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK,
             NULL, 0);
    g_assert_cmpuint(GUINT16_FROM_LE(dev_config(dev).status), ==,
                     VIRTIO_NET_S_LINK_UP);
    g_assert_cmpuint(dev->config_changes, ==, 3);

    /* Written bytes stay, except those of the status */
    memset(&config, 0xaa, sizeof(config));
    vs_net_config_write(dev->net, 0, &config, 24);
    config.status = GUINT16_TO_LE(VIRTIO_NET_S_LINK_UP);
    vs_net_config_read(dev->net, 0, frame, 24);
    g_assert_cmpmem(frame, 24, &config, 24);
    dev_free(dev);
}

static void test_config_features(void)
{
    Dev *dev = dev_new(2, BASIC & ~FEATURE(VIRTIO_NET_F_STATUS),
                       "loopback", 9000);
    struct virtio_net_config config = dev_config(dev);

    g_assert_cmpuint(config.status, ==, 0);
    g_assert_cmpuint(config.max_virtqueue_pairs, ==, 0);
    g_assert_cmpuint(config.mtu, ==, 0);
    dev_start(dev, BASIC & ~FEATURE(VIRTIO_NET_F_STATUS));
    /* Bits that were not offered are not accepted */
    vs_net_set_features(dev->net, UINT64_MAX);
    g_assert_cmphex(vs_net_features(dev->net), ==,
                    BASIC & ~FEATURE(VIRTIO_NET_F_STATUS));
    dev_free(dev);
}

/*
 * Several queue pairs
 */

static void set_pairs(Dev *dev, uint16_t pairs)
{
    pairs = GUINT16_TO_LE(pairs);
    dev_must(dev, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
             &pairs, 2);
}

static void test_multiqueue(void)
{
    Dev *dev = dev_new(4, ALL, "loopback", 0);
    static const uint16_t bad[] = { 0, 5, 0x8000, 0xffff };
    uint8_t frame[100];
    unsigned i, round;
    uint32_t len;

    dev_start(dev, CONTROL | FEATURE(VIRTIO_NET_F_MQ));
    g_assert_cmpuint(vs_net_active_pairs(dev->net), ==, 1);
    for (i = 0; i < G_N_ELEMENTS(bad); i++) {
        uint16_t pairs = GUINT16_TO_LE(bad[i]);

        dev_must_not(dev, VIRTIO_NET_CTRL_MQ,
                     VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs, 2);
    }
    dev_must_not(dev, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
                 "\2", 1);
    dev_must_not(dev, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_RSS_CONFIG,
                 "\2", 2);
    g_assert_cmpuint(vs_net_active_pairs(dev->net), ==, 1);
    for (i = 0; i < 4; i++) {
        dev_post(dev, i, 32, BUF);
    }

    /* Only the first pair receives */
    make_frame(frame, sizeof(frame), peer_mac, 1);
    dev_send(dev, 3, frame, sizeof(frame));
    dev_expect(dev, 0, frame, sizeof(frame));

    set_pairs(dev, 4);
    g_assert_cmpuint(vs_net_active_pairs(dev->net), ==, 4);
    for (i = 0; i < 4; i++) {
        make_frame(frame, sizeof(frame), peer_mac, i);
        dev_send(dev, i, frame, sizeof(frame));
        dev_expect(dev, i, frame, sizeof(frame));
    }

    /* What comes from the wire follows what its flow last sent on */
    for (round = 0; round < 8; round++) {
        for (i = 0; i < 4; i++) {
            unsigned pair = (i + round) % 4;

            len = make_udp(frame, peer_mac, 0x0a000001, 0x0a000002,
                           1000 + i, 53, "question", 8);
            dev_send(dev, pair, frame, len);
            dev_expect(dev, pair, frame, len);
            len = make_udp(frame, dev_mac, 0x0a000002, 0x0a000001,
                           53, 1000 + i, "answer", 6);
            vs_net_inject(dev->net, frame, len, -1);
            dev_expect(dev, pair, frame, len);
            dev_post(dev, pair, 2, BUF);
        }
    }

    /* Unknown flows are spread, each to one queue */
    for (i = 0; i < 64; i++) {
        len = make_udp(frame, dev_mac, 0x0a000003, 0x0a000001,
                       2000 + 97 * i, 80, "hello", 5);
        vs_net_inject(dev->net, frame, len, -1);
    }
    for (i = 0; i < 4; i++) {
        uint64_t n = dev_stats(dev, 2 * i).packets;

        g_assert_cmpuint(n, >, 10 + 8 * 2);
    }

    /* Fewer again: flows of the others move */
    set_pairs(dev, 2);
    for (i = 0; i < 16; i++) {
        uint64_t before = dev_stats(dev, 4).packets +
                          dev_stats(dev, 6).packets;

        len = make_udp(frame, dev_mac, 0x0a000002, 0x0a000001,
                       53, 1000 + i, "answer", 6);
        vs_net_inject(dev->net, frame, len, -1);
        g_assert_cmpuint(dev_stats(dev, 4).packets +
                         dev_stats(dev, 6).packets, ==, before);
    }
    for (i = 0; i < 4; i++) {
        g_assert_cmpuint(dev_stats(dev, 2 * i).dropped, ==, 0);
    }
    dev_free(dev);
}

/* Without MQ the control queue is the third, and one pair is used */
static void test_multiqueue_off(void)
{
    Dev *dev = dev_new(4, ALL, "loopback", 0);
    uint8_t frame[100];

    dev_start(dev, CONTROL);
    dev_must_not(dev, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
                 "\1\0", 2);
    dev_must(dev, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, "\1", 1);
    g_assert_cmpuint(dev_stats(dev, 2).packets, ==, 2);
    dev_post(dev, 0, 1, BUF);
    make_frame(frame, sizeof(frame), peer_mac, 1);
    dev_send(dev, 0, frame, sizeof(frame));
    dev_expect(dev, 0, frame, sizeof(frame));
    dev_free(dev);
}

/* Frames that wait for a queue that goes out of use are not lost */
static void test_multiqueue_backlog(void)
{
    Dev *dev = dev_new(2, ALL, "loopback", 0);
    uint8_t frame[100];
    unsigned i;

    dev_start(dev, CONTROL | FEATURE(VIRTIO_NET_F_MQ));
    set_pairs(dev, 2);
    for (i = 0; i < 10; i++) {
        make_frame(frame, sizeof(frame), peer_mac, i);
        dev_send(dev, 1, frame, sizeof(frame));
    }
    dev_wait_sent(dev, 1);
    set_pairs(dev, 1);
    dev_post(dev, 0, 10, BUF);
    for (i = 0; i < 10; i++) {
        make_frame(frame, sizeof(frame), peer_mac, i);
        dev_expect(dev, 0, frame, sizeof(frame));
    }
    dev_free(dev);
}

/*
 * Checksums
 */

static void send_udp_partial(Dev *dev, unsigned len)
{
    struct virtio_net_hdr_mrg_rxbuf hdr = { 0 };
    uint8_t frame[BUF], data[1000];
    uint16_t sum;
    unsigned i;
    uint32_t n;

    for (i = 0; i < len; i++) {
        data[i] = g_rand_int(dev->rand);
    }
    n = make_udp(frame, dev_mac, 0x0a000001, 0x0a000002, 7, 9, data, len);
    sum = udp_pseudo_sum(frame);
    frame[40] = sum >> 8;
    frame[41] = sum;
    hdr.hdr.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    hdr.hdr.csum_start = GUINT16_TO_LE(34);
    hdr.hdr.csum_offset = GUINT16_TO_LE(6);
    dev_send_hdr(dev, 0, &hdr, frame, n);
}

static void test_checksum(void)
{
    Dev *dev = dev_new(1, ALL, "loopback", 0);
    struct virtio_net_hdr_mrg_rxbuf hdr;
    uint64_t offloads = 0;
    uint8_t frame[BUF];
    unsigned i;
    uint32_t len;

    /* A driver that does not take partial ones gets them completed */
    dev_start(dev, CONTROL | FEATURE(VIRTIO_NET_F_CSUM));
    for (i = 0; i < 300; i++) {
        dev_post(dev, 0, 1, BUF);
        send_udp_partial(dev, i);
        len = dev_recv_hdr(dev, 0, frame, &hdr);
        g_assert_cmpuint(len, ==, 42 + i);
        g_assert_cmpuint(hdr.hdr.flags, ==, 0);
        g_assert_true(udp_checksum_ok(frame, len));
    }

    /* One that does gets what it sent, until it changes its mind */
    dev_stop(dev);
    dev_start(dev, CONTROL | FEATURE(VIRTIO_NET_F_CSUM) |
              FEATURE(VIRTIO_NET_F_GUEST_CSUM) |
              FEATURE(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS));
    dev_post(dev, 0, 4, BUF);
    send_udp_partial(dev, 100);
    dev_recv_hdr(dev, 0, frame, &hdr);
    g_assert_cmpuint(hdr.hdr.flags, ==, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    g_assert_cmpuint(GUINT16_FROM_LE(hdr.hdr.csum_start), ==, 34);
    g_assert_cmpuint(GUINT16_FROM_LE(hdr.hdr.csum_offset), ==, 6);
    dev_must(dev, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
             VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, &offloads, 8);
    send_udp_partial(dev, 100);
    len = dev_recv_hdr(dev, 0, frame, &hdr);
    g_assert_cmpuint(hdr.hdr.flags, ==, 0);
    g_assert_true(udp_checksum_ok(frame, len));
    offloads = GUINT64_TO_LE(FEATURE(VIRTIO_NET_F_GUEST_TSO4));
    dev_must_not(dev, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
                 VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, &offloads, 8);
    dev_must_not(dev, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
                 VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, &offloads, 7);
    dev_free(dev);
}

/*
 * Wires
 */

static char *temp_dir(void)
{
    GError *err = NULL;
    char *dir = g_dir_make_tmp("vdpa-soft-XXXXXX", &err);

    g_assert_no_error(err);
    return dir;
}

static void test_unix(void)
{
    g_autofree char *dir = temp_dir();
    g_autofree char *listen = g_strdup_printf("unix-listen:%s/w", dir);
    g_autofree char *connect = g_strdup_printf("unix:%s/w", dir);
    const unsigned total = 1000;
    uint8_t frame[BUF];
    unsigned i, k;
    Dev *dev[2];

    dev[0] = dev_new(1, ALL, listen, 0);
    dev[1] = dev_new(1, ALL, connect, 0);
    for (i = 0; i < 2; i++) {
        dev_start(dev[i], BASIC | FEATURE(VIRTIO_RING_F_EVENT_IDX));
        dev_post(dev[i], 0, RING / 2, BUF);
    }
    /* Both directions, 16 in flight */
    for (i = 0; i < total + 16; i++) {
        for (k = 0; k < 2; k++) {
            if (i < total) {
                make_frame(frame, 100 + i, bcast_mac, 2 * i + k);
                dev_send(dev[k], 0, frame, 100 + i);
            }
            if (i >= 16) {
                make_frame(frame, 84 + i, bcast_mac, 2 * (i - 16) + !k);
                dev_expect(dev[k], 0, frame, 84 + i);
                dev_post(dev[k], 0, 1, BUF);
            }
        }
    }
    /* A device that nothing can receive in makes the other wait */
    vs_net_set_running(dev[1]->net, false, false);
    dev_freeze(dev[1], true);
    for (i = 0; i < 100; i++) {
        make_frame(frame, 1000, bcast_mac, i);
        dev_send(dev[0], 0, frame, 1000);
    }
    dev_freeze(dev[1], false);
    vs_net_set_running(dev[1]->net, true, false);
    for (i = 0; i < 100; i++) {
        make_frame(frame, 1000, bcast_mac, i);
        dev_expect(dev[1], 0, frame, 1000);
        dev_post(dev[1], 0, 1, BUF);
    }
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(dev_stats(dev[i], 0).dropped, ==, 0);
        g_assert_cmpuint(dev_stats(dev[i], 1).dropped, ==, 0);
        dev_free(dev[i]);
    }
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static int peer_connect(const char *dir)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct timeval patience = { .tv_sec = DEADLINE };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));

    g_snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/w", dir);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==,
                    0);
    return fd;
}

static void peer_write(int fd, const void *buf, size_t len)
{
    g_assert_cmpint(send(fd, buf, len, MSG_NOSIGNAL), ==, len);
}

static void peer_read(int fd, void *buf, size_t len)
{
    g_assert_cmpint(recv(fd, buf, len, MSG_WAITALL), ==, len);
}

static int peer_read_eof(int fd)
{
    char byte;

    return recv(fd, &byte, 1, 0);
}

/* The peer is somebody else: pieces, nonsense, going and coming back */
static void test_unix_peer(void)
{
    g_autofree char *dir = temp_dir();
    g_autofree char *listen = g_strdup_printf("unix-listen:%s/w", dir);
    Dev *dev = dev_new(1, ALL, listen, 0);
    uint8_t msg[4 + 100], got[4 + 100];
    unsigned i;
    int fd;

    dev_start(dev, BASIC);
    dev_post(dev, 0, 8, BUF);
    memcpy(msg, "\0\0\0\x64", 4);
    make_frame(msg + 4, 100, dev_mac, 3);

    /* Nobody there: lost, and counted */
    dev_send(dev, 0, msg + 4, 100);
    dev_wait_sent(dev, 0);
    g_assert_cmpuint(dev_stats(dev, 1).dropped, ==, 1);
    g_assert_cmpuint(dev_stats(dev, 1).packets, ==, 0);

    fd = peer_connect(dir);
    for (i = 0; i < sizeof(msg); i++) {
        peer_write(fd, msg + i, 1);
    }
    dev_expect(dev, 0, msg + 4, 100);
    dev_send(dev, 0, msg + 4, 100);
    peer_read(fd, got, sizeof(got));
    g_assert_cmpmem(got, sizeof(got), msg, sizeof(msg));

    /* A frame and a half, and away */
    peer_write(fd, msg, sizeof(msg));
    peer_write(fd, msg, 50);
    close(fd);
    dev_expect(dev, 0, msg + 4, 100);

    /* The next one starts with a frame of its own */
    fd = peer_connect(dir);
    peer_write(fd, msg, sizeof(msg));
    dev_expect(dev, 0, msg + 4, 100);

    /* A length that cannot be ends the conversation */
    peer_write(fd, "\xff\xff\xff\xff", 4);
    g_assert_cmpint(peer_read_eof(fd), ==, 0);
    close(fd);
    /* One that is too short costs that frame only */
    fd = peer_connect(dir);
    peer_write(fd, "\0\0\0\3abc\0\0\0\0", 11);
    peer_write(fd, msg, sizeof(msg));
    dev_expect(dev, 0, msg + 4, 100);
    g_assert_cmpuint(dev_stats(dev, 0).errors, ==, 2);
    close(fd);
    dev_free(dev);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static int peer_accept(int listener)
{
    struct timeval patience = { .tv_sec = DEADLINE };
    int fd;

    setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &patience,
               sizeof(patience));
    fd = accept(listener, NULL, NULL);
    g_assert_cmpint(fd, >=, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return fd;
}

/* The peer listens only after the device was made, and goes and comes back */
static void test_unix_reconnect(void)
{
    g_autofree char *dir = temp_dir();
    g_autofree char *connect = g_strdup_printf("unix:%s/w", dir);
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    Dev *dev = dev_new(1, ALL, connect, 0);
    uint8_t msg[4 + 100], got[4 + 100];
    int listener, fd;
    unsigned i;

    dev_start(dev, BASIC);
    dev_post(dev, 0, 8, BUF);
    memcpy(msg, "\0\0\0\x64", 4);
    make_frame(msg + 4, 100, dev_mac, 3);
    dev_send(dev, 0, msg + 4, 100);
    dev_wait_sent(dev, 0);
    g_assert_cmpuint(dev_stats(dev, 1).dropped, ==, 1);

    g_snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/w", dir);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(listener, (struct sockaddr *)&addr, sizeof(addr)),
                    ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    for (i = 0; i < 3; i++) {
        fd = peer_accept(listener);
        peer_write(fd, msg, sizeof(msg));
        dev_expect(dev, 0, msg + 4, 100);
        dev_send(dev, 0, msg + 4, 100);
        peer_read(fd, got, sizeof(got));
        g_assert_cmpmem(got, sizeof(got), msg, sizeof(msg));
        close(fd);
    }
    close(listener);
    dev_free(dev);
    g_assert_cmpint(g_unlink(addr.sun_path), ==, 0);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

/* Far more than sockets and our own buffer hold together */
#define BUSY_TOTAL 3000

static void *busy_sender(void *opaque)
{
    Dev *dev = opaque;
    uint8_t frame[1400];
    unsigned i;

    for (i = 0; i < BUSY_TOTAL; i++) {
        make_frame(frame, sizeof(frame), peer_mac, i);
        dev_send(dev, 0, frame, sizeof(frame));
    }
    dev_wait_sent(dev, 0);
    return NULL;
}

/* The peer is slow to read: the driver waits, and nothing is lost */
static void test_unix_busy(void)
{
    g_autofree char *dir = temp_dir();
    g_autofree char *listen = g_strdup_printf("unix-listen:%s/w", dir);
    Dev *dev = dev_new(1, ALL, listen, 0);
    uint8_t frame[1400], got[4 + 1400];
    pthread_t thread;
    unsigned i;
    int fd;

    dev_start(dev, BASIC);
    fd = peer_connect(dir);
    g_assert_cmpint(pthread_create(&thread, NULL, busy_sender, dev), ==, 0);
    /* As many as are taken at least with nobody reading */
    dev_wait_until(dev, dev_stats(dev, 1).packets > 180);
    g_assert_cmpuint(dev_stats(dev, 1).packets, <, BUSY_TOTAL);
    for (i = 0; i < BUSY_TOTAL; i++) {
        make_frame(frame, sizeof(frame), peer_mac, i);
        peer_read(fd, got, sizeof(got));
        g_assert_cmpmem(got, 4, "\0\0\x05\x78", 4);
        g_assert_cmpmem(got + 4, sizeof(frame), frame, sizeof(frame));
    }
    pthread_join(thread, NULL);
    g_assert_cmpuint(dev_stats(dev, 1).packets, ==, BUSY_TOTAL);
    g_assert_cmpuint(dev_stats(dev, 1).dropped, ==, 0);
    close(fd);
    dev_free(dev);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

/* What was read, but found no room, arrives even if the peer says no more */
static void test_unix_backlog(void)
{
    g_autofree char *dir = temp_dir();
    g_autofree char *listen = g_strdup_printf("unix-listen:%s/w", dir);
    Dev *dev = dev_new(1, ALL, listen, 0);
    uint8_t msg[256 + RING][4 + 100];
    const unsigned total = G_N_ELEMENTS(msg);
    unsigned i;
    int fd;

    fd = peer_connect(dir);
    for (i = 0; i < total; i++) {
        memcpy(msg[i], "\0\0\0\x64", 4);
        make_frame(msg[i] + 4, 100, dev_mac, i);
    }
    peer_write(fd, msg, sizeof(msg));
    /* Now all of it is read at once */
    dev_start(dev, BASIC);
    vs_net_vq_kick(dev->net, 0);
    for (i = 0; i < total; i++) {
        dev_post(dev, 0, 1, BUF);
        dev_expect(dev, 0, msg[i] + 4, 100);
    }
    g_assert_cmpuint(dev_stats(dev, 0).packets, ==, total);
    g_assert_cmpuint(dev_stats(dev, 0).dropped, ==, 0);
    close(fd);
    dev_free(dev);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static void expect_no_device(unsigned pairs, const char *wire,
                             const char *sentence)
{
    VsNetConfig config = { .pairs = pairs, .wire = wire };
    VsHost host = { 0 };
    char *error = NULL;

    g_assert_null(vs_net_new(&config, &host, &error));
    g_assert_nonnull(error);
    if (!strstr(error, sentence)) {
        g_error("no '%s' in: %s", sentence, error);
    }
    g_free(error);
}

static void test_bad_wires(void)
{
    char *path = g_strdup_printf("unix:%0200d", 0);

    expect_no_device(0, "loopback", "queue pairs");
    expect_no_device(1, "copper", "there is no wire 'copper'");
    expect_no_device(1, "unix:", "must have 1 to");
    expect_no_device(1, path, "must have 1 to");
    expect_no_device(1, "unix-listen:/nonexistent/w", "No such file");
#ifdef VDPA_SOFT_SLIRP
    expect_no_device(1, "user,hub=1", "no option 'hub=1'");
    expect_no_device(1, "user,net=10.0.2", "net=10.0.2");
    expect_no_device(1, "user,net=10.0.2.0/30", "4 to 27 bits");
    expect_no_device(1, "user,restrict=maybe", "on or off");
    expect_no_device(1, "user,hostfwd=tcp:1-:x", "is not of the form");
    expect_no_device(1, "user,hostfwd=sctp::1-:1", "is not of the form");
    expect_no_device(1, "user,guestfwd=tcp:10.0.2.9:1-x", "not of the form");
    expect_no_device(1, "user,guestfwd=tcp:10.9.9.9:1-unix:/x", "is refused");
#else
    expect_no_device(1, "user", "without libslirp");
#endif
    g_free(path);
}

#ifdef VDPA_SOFT_SLIRP

static void make_arp(uint8_t *f, const char *who)
{
    memset(f, 0, 42);
    memcpy(f, bcast_mac, 6);
    memcpy(f + 6, dev_mac, 6);
    memcpy(f + 12, "\x08\x06\0\1\x08\0\6\4\0\1", 10);
    memcpy(f + 22, dev_mac, 6);
    inet_pton(AF_INET, "10.0.2.15", f + 28);
    inet_pton(AF_INET, who, f + 38);
}

/* The next frame that is not of another kind */
static uint32_t recv_type(Dev *dev, uint8_t *frame, uint16_t type)
{
    uint32_t len;

    do {
        dev_post(dev, 0, 1, BUF);
        len = dev_recv(dev, 0, frame);
        g_assert_cmpuint(len, >=, 14);
        if (frame[12] == 0x08 && frame[13] == 0x06 && frame[21] == 1) {
            /* It asks for us: answer as a driver's host would */
            uint8_t reply[42];

            make_arp(reply, "0.0.0.0");
            reply[21] = 2;
            memcpy(reply, frame + 6, 6);
            memcpy(reply + 32, frame + 22, 10);
            dev_send(dev, 0, reply, sizeof(reply));
        }
    } while ((frame[12] << 8 | frame[13]) != type ||
             (type == 0x0806 && frame[21] != 2));
    return len;
}

/* The host answers at 10.0.2.2, and datagrams go both ways */
static void test_user(void)
{
    Dev *dev = dev_new(1, ALL, "user", 0);
    struct sockaddr_in addr = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t addr_len = sizeof(addr);
    uint8_t frame[BUF], host_mac[6], data[100];
    struct timeval patience = { .tv_sec = DEADLINE };
    uint32_t len;
    unsigned i;
    int fd;

    dev_start(dev, BASIC);
    make_arp(frame, "10.0.2.2");
    dev_send(dev, 0, frame, 42);
    recv_type(dev, frame, 0x0806);
    g_assert_cmpmem(frame + 28, 4, "\x0a\0\2\2", 4);
    memcpy(host_mac, frame + 22, 6);

    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, addr_len), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&addr, &addr_len), ==,
                    0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    for (i = 0; i < 50; i++) {
        g_autofree char *text = g_strdup_printf("datagram %u", i);
        struct sockaddr_in from;
        socklen_t from_len = sizeof(from);

        len = make_udp(frame, host_mac, 0x0a00020f, 0x0a000202, 4000,
                       ntohs(addr.sin_port), text, strlen(text));
        dev_send(dev, 0, frame, len);
        g_assert_cmpint(recvfrom(fd, data, sizeof(data), 0,
                                 (struct sockaddr *)&from, &from_len), ==,
                        strlen(text));
        g_assert_cmpmem(data, strlen(text), text, strlen(text));
        data[0] = 'D';
        g_assert_cmpint(sendto(fd, data, strlen(text), 0,
                               (struct sockaddr *)&from, from_len), ==,
                        strlen(text));
        len = recv_type(dev, frame, 0x0800);
        g_assert_cmpuint(len, >=, 42 + strlen(text));
        g_assert_cmpuint(frame[42], ==, 'D');
        g_assert_cmpmem(frame + 43, strlen(text) - 1, text + 1,
                        strlen(text) - 1);
    }
    close(fd);
    dev_free(dev);
}

/* Somebody on the host connects to a forwarded port */
static void test_user_hostfwd(void)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t addr_len = sizeof(addr);
    g_autofree char *wire = NULL;
    g_autofree char *same = NULL;
    uint8_t frame[BUF];
    Dev *dev;
    int fd;

    /* A port that is free now */
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, addr_len), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&addr, &addr_len), ==,
                    0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    same = g_strdup_printf("user,hostfwd=tcp:127.0.0.1:%u-:80",
                           ntohs(addr.sin_port));
    expect_no_device(1, same, "in use");
    close(fd);

    wire = g_strdup_printf("user,net=10.0.2.0/24,hostfwd=tcp:127.0.0.1:%u-"
                           "10.0.2.15:80", ntohs(addr.sin_port));
    dev = dev_new(1, ALL, wire, 0);
    dev_start(dev, BASIC);
    dev_post(dev, 0, 4, BUF);
    /* Let it know where we are */
    make_arp(frame, "10.0.2.2");
    dev_send(dev, 0, frame, 42);
    recv_type(dev, frame, 0x0806);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==,
                    0);
    recv_type(dev, frame, 0x0800);
    g_assert_cmpuint(frame[23], ==, 6);
    g_assert_cmpuint(frame[36] << 8 | frame[37], ==, 80);
    g_assert_cmpuint(frame[47] & 0x12, ==, 0x02);   /* SYN */
    close(fd);
    dev_free(dev);
}

#endif

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        uint64_t features;
    } kinds[] = {
        { "split", 0 },
        { "split-event", FEATURE(VIRTIO_RING_F_EVENT_IDX) },
        { "split-all", FEATURE(VIRTIO_RING_F_INDIRECT_DESC) |
                       FEATURE(VIRTIO_RING_F_EVENT_IDX) },
        { "packed", FEATURE(VIRTIO_F_RING_PACKED) },
        { "packed-event", FEATURE(VIRTIO_F_RING_PACKED) |
                          FEATURE(VIRTIO_RING_F_EVENT_IDX) },
        { "packed-all", FEATURE(VIRTIO_F_RING_PACKED) |
                        FEATURE(VIRTIO_RING_F_INDIRECT_DESC) |
                        FEATURE(VIRTIO_RING_F_EVENT_IDX) },
    };
    static const struct {
        const char *name;
        GTestDataFunc func;
    } by_kind[] = {
        { "loopback", test_loopback },
        { "interrupts", test_interrupts },
        { "suspend", test_suspend },
        { "base", test_base },
    };
    unsigned i, k;

    g_test_init(&argc, &argv, NULL);
    for (i = 0; i < G_N_ELEMENTS(kinds); i++) {
        for (k = 0; k < G_N_ELEMENTS(by_kind); k++) {
            g_autofree char *path = g_strdup_printf("/net/%s/%s",
                                                    by_kind[k].name,
                                                    kinds[i].name);

            g_test_add_data_func(path, &kinds[i].features, by_kind[k].func);
        }
    }
    g_test_add_func("/net/mergeable", test_mergeable);
    g_test_add_func("/net/small-buffers", test_small_buffers);
    g_test_add_func("/net/backlog", test_backlog);
    g_test_add_func("/net/bad-frames", test_bad_frames);
    g_test_add_func("/net/broken-queue", test_broken_queue);
    g_test_add_func("/net/unmapped-buffers", test_unmapped_buffers);
    g_test_add_func("/net/kick-while-stopped", test_kick_while_stopped);
    g_test_add_func("/net/kick-then-stop", test_kick_then_stop);
    g_test_add_func("/net/no-scan", test_no_scan);
    g_test_add_func("/net/not-set-up", test_not_set_up);
    g_test_add_func("/net/asid", test_asid);
    g_test_add_data_func("/net/noise/split", NULL, test_noise);
    g_test_add_data_func("/net/noise/packed", (void *)1, test_noise);
    g_test_add_func("/net/simulator", test_simulator);
    g_test_add_func("/net/control/modes", test_ctrl_modes);
    g_test_add_func("/net/control/mac", test_ctrl_mac);
    g_test_add_func("/net/control/vlan", test_ctrl_vlan);
    g_test_add_func("/net/control/malformed", test_ctrl_malformed);
    g_test_add_func("/net/filter/modes", test_filter);
    g_test_add_func("/net/filter/vlan", test_filter_vlan);
    g_test_add_func("/net/config/link-announce", test_link_and_announce);
    g_test_add_func("/net/config/features", test_config_features);
    g_test_add_func("/net/multiqueue/steering", test_multiqueue);
    g_test_add_func("/net/multiqueue/off", test_multiqueue_off);
    g_test_add_func("/net/multiqueue/backlog", test_multiqueue_backlog);
    g_test_add_func("/net/checksum", test_checksum);
    g_test_add_func("/net/wire/unix", test_unix);
    g_test_add_func("/net/wire/unix-peer", test_unix_peer);
    g_test_add_func("/net/wire/unix-reconnect", test_unix_reconnect);
    g_test_add_func("/net/wire/unix-busy", test_unix_busy);
    g_test_add_func("/net/wire/unix-backlog", test_unix_backlog);
    g_test_add_func("/net/wire/bad", test_bad_wires);
#ifdef VDPA_SOFT_SLIRP
    g_test_add_func("/net/wire/user", test_user);
    g_test_add_func("/net/wire/user-hostfwd", test_user_hostfwd);
#endif
    return g_test_run();
}
