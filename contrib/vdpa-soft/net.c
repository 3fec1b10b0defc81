/*
 * vdpa-soft: a virtio network device
 *
 * One worker thread serves all queues of a device and its wire.  It works
 * in passes: under the device's lock it takes what the wire has, then a
 * bounded number of chains from each queue that has work, publishes what
 * was completed and interrupts at most once a queue.  Between passes the
 * lock is free, and first come is first served, so an ioctl waits for one
 * pass at most.
 *
 * Frames towards the driver that find no buffer wait in a backlog, one a
 * receive queue.  While it is full the wire is not read and, on the
 * loopback wire, nothing more is taken from the transmit queue: frames are
 * only dropped where there is nobody to hold back.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "device.h"
#include "ring.h"
#include "wire.h"

#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>

/* Up to the hash types: what the kernel's simulator presents */
#define CONFIG_SIZE 24

/* Backlog at which senders are held back, in frames */
#define BACKLOG_FULL 256

/* Backlog at which frames are dropped, for wires that do not wait */
#define BACKLOG_MAX 1024

/* Chains, or frames of a backlog, that one queue handles in a pass */
#define PASS_MAX 128

/* Frames kept for the next use, and the size of those that are */
#define POOL_MAX (2 * BACKLOG_FULL)
#define POOL_FRAME 2048

/* Room for a virtio header in front of every frame in our memory */
#define HEADROOM sizeof(struct virtio_net_hdr_mrg_rxbuf)

/* Addresses of each kind the filter holds; more means "all" */
#define MAC_TABLE_MAX 64

/* The longest command: two tables with some thousand addresses */
#define COMMAND_MAX 65536

/* Flows whose queue is remembered; those that collide share a memory */
#define FLOWS 1024

#define ETH_TYPE_OFFSET 12
#define ETH_VLAN 0x8100
#define ETH_IPV4 0x0800
#define ETH_IPV6 0x86dd

G_STATIC_ASSERT(CONFIG_SIZE ==
                offsetof(struct virtio_net_config, supported_hash_types) +
                sizeof(uint32_t));

/* A frame in our memory; HEADROOM bytes before @data are ours to write */
typedef struct Frame {
    uint8_t *data;
    size_t len;
    uint8_t flags;          /* VIRTIO_NET_HDR_F_* */
    uint16_t csum_start;
    uint16_t csum_offset;
} Frame;

typedef struct Queued Queued;
struct Queued {
    Queued *next;
    size_t room;
    Frame frame;
    uint8_t bytes[];
};

typedef struct Vq {
    VsRing *ring;
    /* What the next 0 -> 1 edge of @enabled takes over */
    uint32_t num;
    uint64_t desc;
    uint64_t avail;
    uint64_t used;
    uint32_t asid;
    uint32_t ring_asid;
    VsRingState base;

    bool enabled;
    bool work;              /* to be looked at in the next pass */
    bool kicked;            /* at least once since it was enabled */
    bool stalled;           /* transmit: waits for its destination */
    bool completed;         /* chains were pushed in this pass */
    bool failed;            /* its error was counted */

    /* Receive: waiting frames, oldest first */
    Queued *head;
    Queued **tail;
    unsigned backlog;

    /* Doorbells not seen by the worker; written by any thread */
    atomic_uint doorbells;

    uint64_t kicks;
    uint64_t calls;
    uint64_t packets;
    uint64_t bytes;
    uint64_t dropped;
    uint64_t errors;
} Vq;

typedef struct MacTable {
    unsigned n;
    bool overflow;
    uint8_t mac[MAC_TABLE_MAX][6];
} MacTable;

struct VsNet {
    VsNetConfig config;
    VsHost host;
    VsWire *wire;
    bool loopback;

    /* The lock, see vs_net_lock() */
    pthread_mutex_t mutex;
    pthread_cond_t turn;
    uint64_t next_ticket;
    uint64_t now_serving;
    pthread_t owner;
    unsigned depth;

    pthread_t thread;
    int wake_fd;
    GArray *fds;            /* struct pollfd; the worker's */
    atomic_bool woken;
    atomic_bool stop;

    /* All below is protected by the lock */
    uint64_t features;
    bool running;
    bool dirty;             /* numbers changed since stats_changed() */
    bool due;               /* simulator: there is to be a pass */
    bool link;
    struct virtio_net_config space;
    size_t hdr_len;
    bool mergeable;
    uint64_t offloads;      /* what the driver lets us leave undone */

    unsigned nvqs;
    Vq *vqs;
    VsChain *chains;        /* of one mergeable frame */
    unsigned chains_cap;

    bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
    MacTable unicast;
    MacTable multicast;
    uint32_t vlans[4096 / 32];
    unsigned active_pairs;
    uint16_t flows[FLOWS];  /* pair + 1 */

    Queued *pool;
    unsigned pool_count;
    uint8_t *tx_buf;
    uint8_t *rx_buf;
    uint8_t *command;
};

/*
 * The lock
 *
 * A mutex alone would let a busy worker take it again before a thread that
 * waits wakes up, so turns are numbered.
 */

void vs_net_lock(VsNet *net)
{
    pthread_mutex_lock(&net->mutex);
    if (net->depth && pthread_equal(net->owner, pthread_self())) {
        net->depth++;
    } else {
        uint64_t ticket = net->next_ticket++;

        while (ticket != net->now_serving) {
            pthread_cond_wait(&net->turn, &net->mutex);
        }
        net->owner = pthread_self();
        net->depth = 1;
    }
    pthread_mutex_unlock(&net->mutex);
}

void vs_net_unlock(VsNet *net)
{
    pthread_mutex_lock(&net->mutex);
    g_assert(net->depth && pthread_equal(net->owner, pthread_self()));
    if (--net->depth == 0) {
        net->now_serving++;
        if (net->now_serving != net->next_ticket) {
            pthread_cond_broadcast(&net->turn);
        }
    }
    pthread_mutex_unlock(&net->mutex);
}

/* Have the worker make a pass soon; from any thread */
static void wake(VsNet *net)
{
    if (!atomic_exchange(&net->woken, true)) {
        uint64_t one = 1;
        ssize_t ret;

        do {
            ret = write(net->wake_fd, &one, sizeof(one));
        } while (ret < 0 && errno == EINTR);
    }
}

static bool has(const VsNet *net, unsigned bit)
{
    return net->features & (1ULL << bit);
}

static bool offers(const VsNet *net, unsigned bit)
{
    return net->config.features & (1ULL << bit);
}

/*
 * Virtqueues
 */

/* Pairs the driver may use, active or not */
static unsigned usable_pairs(const VsNet *net)
{
    return has(net, VIRTIO_NET_F_MQ) ? net->config.pairs : 1;
}

static Vq *rx_vq(VsNet *net, unsigned pair)
{
    return &net->vqs[2 * pair];
}

static Vq *tx_vq(VsNet *net, unsigned pair)
{
    return &net->vqs[2 * pair + 1];
}

/* The control queue, or NULL while there is none */
static Vq *ctrl_vq(VsNet *net)
{
    if (!has(net, VIRTIO_NET_F_CTRL_VQ)) {
        return NULL;
    }
    return &net->vqs[2 * usable_pairs(net)];
}

/* Whether frames go the way they go in the kernel's simulator */
static bool is_simulator(const VsNet *net)
{
    return net->config.simulator && net->loopback &&
           !has(net, VIRTIO_F_RING_PACKED);
}

/* Whether a queue can hold frames, or will */
static bool vq_alive(const Vq *vq)
{
    return vq->enabled && vs_ring_ok(vq->ring);
}

static bool vq_ready(const VsNet *net, const Vq *vq)
{
    return net->running && vq->kicked && vq_alive(vq);
}

/* Count the error of a ring that stopped by itself, once */
static void vq_check(VsNet *net, Vq *vq)
{
    if (vq->enabled && !vq->failed && !vs_ring_ok(vq->ring)) {
        vq->failed = true;
        vq->errors++;
        net->dirty = true;
        g_debug("vdpa-soft: virtqueue %td is broken: %s; it stays stopped "
                "until it is enabled again", vq - net->vqs,
                vs_ring_error(vq->ring));
    }
}

static void vq_push(VsNet *net, Vq *vq, const VsChain *chain,
                    uint32_t written)
{
    vs_ring_push(vq->ring, chain, written);
    vq->completed = true;
    net->dirty = true;
}

static void vq_flush(VsNet *net, unsigned i)
{
    Vq *vq = &net->vqs[i];

    if (vq->completed) {
        vq->completed = false;
        if (vs_ring_flush(vq->ring)) {
            vq->calls++;
            net->host.call(net->host.opaque, i);
        }
    }
    vq_check(net, vq);
}

/* Publish what was completed, interrupt, and note what broke */
static void flush(VsNet *net)
{
    unsigned i;

    for (i = 0; i < net->nvqs; i++) {
        vq_flush(net, i);
    }
}

/*
 * Frames that wait
 */

static Queued *queued_new(VsNet *net, const Frame *frame)
{
    Queued *q = net->pool;

    if (q && frame->len <= q->room) {
        net->pool = q->next;
        net->pool_count--;
    } else {
        size_t room = MAX(frame->len, POOL_FRAME);

        q = g_malloc(sizeof(*q) + HEADROOM + room);
        q->room = room;
    }
    q->next = NULL;
    q->frame = *frame;
    q->frame.data = q->bytes + HEADROOM;
    memcpy(q->frame.data, frame->data, frame->len);
    return q;
}

static void queued_free(VsNet *net, Queued *q)
{
    if (q->room == POOL_FRAME && net->pool_count < POOL_MAX) {
        q->next = net->pool;
        net->pool = q;
        net->pool_count++;
    } else {
        g_free(q);
    }
}

static void backlog_add(VsNet *net, Vq *vq, const Frame *frame)
{
    Queued *q = queued_new(net, frame);

    *vq->tail = q;
    vq->tail = &q->next;
    vq->backlog++;
}

static Queued *backlog_take(Vq *vq)
{
    Queued *q = vq->head;

    if (q) {
        vq->head = q->next;
        vq->backlog--;
        if (!vq->head) {
            vq->tail = &vq->head;
        }
    }
    return q;
}

static void backlog_drop(VsNet *net, Vq *vq)
{
    Queued *q;

    while ((q = backlog_take(vq))) {
        queued_free(net, q);
        vq->dropped++;
        net->dirty = true;
    }
}

/*
 * Looking into frames
 */

static uint16_t get_be16(const uint8_t *p)
{
    return p[0] << 8 | p[1];
}

static bool frame_is_tagged(const Frame *f)
{
    return f->len >= VS_FRAME_MIN + 4 &&
           get_be16(f->data + ETH_TYPE_OFFSET) == ETH_VLAN;
}

/* The same for both directions of a flow */
static uint32_t flow_hash(const Frame *f)
{
    const uint8_t *p = f->data + ETH_TYPE_OFFSET;
    const uint8_t *end = f->data + f->len;
    const uint8_t *l4 = NULL;
    uint32_t hash = 0;
    uint8_t proto = 0;
    uint16_t type;
    int i;

    if (frame_is_tagged(f)) {
        p += 4;
    }
    type = get_be16(p);
    p += 2;
    if (type == ETH_IPV4 && end - p >= 20 && (p[0] & 0xf) >= 5) {
        for (i = 0; i < 4; i++) {
            hash ^= (uint32_t)(p[12 + i] ^ p[16 + i]) << 8 * i;
        }
        proto = p[9];
        /* The ports are in the first fragment only */
        if (!(get_be16(p + 6) & 0x3fff)) {
            l4 = p + 4 * (p[0] & 0xf);
        }
    } else if (type == ETH_IPV6 && end - p >= 40) {
        for (i = 0; i < 16; i++) {
            hash ^= (uint32_t)(p[8 + i] ^ p[24 + i]) << 8 * (i % 4);
        }
        proto = p[6];
        l4 = p + 40;
    } else {
        for (i = 0; i < 6; i++) {
            hash ^= (uint32_t)(f->data[i] ^ f->data[6 + i]) << 8 * (i % 4);
        }
        hash ^= type;
    }
    if (l4 && (proto == 6 || proto == 17) && end - l4 >= 4) {
        hash ^= get_be16(l4) ^ get_be16(l4 + 2);
    }
    hash ^= (uint32_t)proto << 16;
    /* Spread close values over all bits */
    hash *= 0x9e3779b1;
    return hash ^ hash >> 15;
}

/* The receive queue for a frame from the wire */
static Vq *steer(VsNet *net, const Frame *f)
{
    unsigned pair = 0;

    if (net->active_pairs > 1) {
        uint32_t hash = flow_hash(f);

        pair = net->flows[hash % FLOWS];
        if (!pair || pair > net->active_pairs) {
            pair = hash % net->active_pairs;
        } else {
            pair--;
        }
    }
    return rx_vq(net, pair);
}

static void remember_flow(VsNet *net, unsigned pair, const Frame *f)
{
    if (usable_pairs(net) > 1) {
        net->flows[flow_hash(f) % FLOWS] = pair + 1;
    }
}

static bool mac_in(const MacTable *table, const uint8_t *mac)
{
    unsigned i;

    if (table->overflow) {
        return true;
    }
    for (i = 0; i < table->n; i++) {
        if (!memcmp(table->mac[i], mac, 6)) {
            return true;
        }
    }
    return false;
}

/* Whether the driver wants to have a frame from the wire */
static bool wanted(const VsNet *net, const Frame *f)
{
    static const uint8_t none[6];
    static const uint8_t all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    const uint8_t *to = f->data;

    if (net->promisc) {
        return true;
    }
    if (has(net, VIRTIO_NET_F_CTRL_VLAN) && frame_is_tagged(f)) {
        unsigned vid = get_be16(f->data + VS_FRAME_MIN) & 0xfff;

        if (!(net->vlans[vid / 32] & (1u << vid % 32))) {
            return false;
        }
    }
    if (!memcmp(to, all, 6)) {
        return !net->nobcast;
    }
    if (to[0] & 1) {
        if (net->nomulti) {
            return false;
        }
        /* Without a filter to set, there is none */
        return net->allmulti || !has(net, VIRTIO_NET_F_CTRL_RX) ||
               mac_in(&net->multicast, to);
    }
    if (net->nouni) {
        return false;
    }
    return net->alluni || !memcmp(to, net->space.mac, 6) ||
           !memcmp(net->space.mac, none, 6) || mac_in(&net->unicast, to);
}

static bool too_long(const VsNet *net, const Frame *f)
{
    size_t max = VS_FRAME_MIN + net->config.mtu;

    return has(net, VIRTIO_NET_F_MTU) &&
           f->len > max + (frame_is_tagged(f) ? 4 : 0);
}

/* Do what VIRTIO_NET_HDR_F_NEEDS_CSUM asks for; its range was checked */
static void complete_checksum(Frame *f)
{
    uint8_t *at = f->data + f->csum_start + f->csum_offset;
    const uint8_t *p = f->data + f->csum_start;
    const uint8_t *end = f->data + f->len;
    uint64_t sum = 0;
    uint16_t csum;

    for (; end - p >= 4; p += 4) {
        uint32_t word;

        memcpy(&word, p, sizeof(word));
        sum += word;
    }
    if (end - p >= 2) {
        uint16_t word;

        memcpy(&word, p, sizeof(word));
        sum += word;
        p += 2;
    }
    if (end > p) {
        uint8_t last[2] = { *p, 0 };
        uint16_t word;

        memcpy(&word, last, sizeof(word));
        sum += word;
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    csum = ~sum;
    /* In UDP 0 means "none"; in TCP both zeros are equal */
    if (!csum) {
        csum = 0xffff;
    }
    memcpy(at, &csum, sizeof(csum));
    f->flags &= ~VIRTIO_NET_HDR_F_NEEDS_CSUM;
}

/*
 * Receiving
 */

typedef enum RxResult {
    RX_DONE,
    RX_WAIT,        /* no buffers yet; the driver will kick */
    RX_LOST,        /* counted */
} RxResult;

static RxResult rx_lose(VsNet *net, Vq *vq)
{
    vq->dropped++;
    net->dirty = true;
    return RX_LOST;
}

/* Take chains for @total bytes into net->chains; *@n is how many */
static RxResult rx_collect(VsNet *net, Vq *vq, size_t total, unsigned *n)
{
    VsRing *ring = vq->ring;
    VsRingMark start = vs_ring_begin(ring);
    size_t have = 0;

    *n = 0;
    while (have < total) {
        VsChain *chain;
        int ret;

        if (*n == net->chains_cap) {
            net->chains_cap = MAX(64, 2 * net->chains_cap);
            net->chains = g_renew(VsChain, net->chains, net->chains_cap);
        }
        chain = &net->chains[*n];
        ret = vs_ring_pop(ring, chain);
        if (ret < 0) {
            return rx_lose(net, vq);
        }
        if (ret == 0) {
            /* A frame that needs the whole ring will not fit later */
            if (*n == vq->num) {
                goto too_small;
            }
            if (vs_ring_arm(ring)) {
                vs_ring_quiet(ring);
                continue;
            }
            if (!vs_ring_ok(ring)) {
                return rx_lose(net, vq);
            }
            vs_ring_rewind(ring, &start);
            return RX_WAIT;
        }
        have += chain->write_len;
        ++*n;
        if (!chain->write_len || (*n == 1 && have < net->hdr_len) ||
            (!net->mergeable && have < total)) {
            goto too_small;
        }
    }
    return RX_DONE;

too_small:
    vs_ring_rewind(ring, &start);
    vq->errors++;
    return rx_lose(net, vq);
}

/* Write one frame into the driver's buffers */
static RxResult rx_put(VsNet *net, Vq *vq, Frame *f)
{
    struct virtio_net_hdr_mrg_rxbuf hdr = { 0 };
    size_t total = net->hdr_len + f->len;
    uint8_t *src = f->data - net->hdr_len;
    bool ok = true;
    unsigned n, i;
    RxResult ret;

    if (f->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM &&
        !(net->offloads & (1ULL << VIRTIO_NET_F_GUEST_CSUM))) {
        complete_checksum(f);
    }

    if (!is_simulator(net)) {
        vs_ring_quiet(vq->ring);
    }
    ret = rx_collect(net, vq, total, &n);
    if (ret != RX_DONE) {
        return ret;
    }

    hdr.hdr.gso_type = VIRTIO_NET_HDR_GSO_NONE;
    if (net->offloads & (1ULL << VIRTIO_NET_F_GUEST_CSUM)) {
        hdr.hdr.flags = f->flags;
        if (f->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
            hdr.hdr.csum_start = GUINT16_TO_LE(f->csum_start);
            hdr.hdr.csum_offset = GUINT16_TO_LE(f->csum_offset);
        }
    }
    hdr.num_buffers = GUINT16_TO_LE(n);
    memcpy(src, &hdr, net->hdr_len);

    for (i = 0; i < n; i++) {
        const VsChain *chain = &net->chains[i];
        uint32_t len = MIN(total, chain->write_len);

        ok = ok && vs_ring_write(vq->ring, chain, 0, src, len);
        vq_push(net, vq, chain, ok ? len : 0);
        src += len;
        total -= len;
    }
    if (!ok) {
        vq->errors++;
        return rx_lose(net, vq);
    }
    vq->packets++;
    vq->bytes += f->len;
    return RX_DONE;
}

/* A frame arrived for a queue: now, later or never */
static void rx_frame(VsNet *net, Vq *vq, Frame *f)
{
    if (!vq_alive(vq)) {
        rx_lose(net, vq);
        return;
    }
    if (!vq->backlog && vq_ready(net, vq)) {
        if (rx_put(net, vq, f) != RX_WAIT) {
            return;
        }
    }
    if (vq->backlog >= BACKLOG_MAX) {
        rx_lose(net, vq);
        return;
    }
    backlog_add(net, vq, f);
}

/* What waits goes into the buffers that there are now */
static void rx_pass(VsNet *net, unsigned pair)
{
    Vq *vq = rx_vq(net, pair);
    unsigned done = 0;

    while (vq->head && done < PASS_MAX && vs_ring_ok(vq->ring)) {
        if (rx_put(net, vq, &vq->head->frame) == RX_WAIT) {
            break;
        }
        queued_free(net, backlog_take(vq));
        done++;
    }
    if (done == PASS_MAX && vq->head) {
        vq->work = true;
    }
}

/*
 * From the wire
 */

static bool net_can_receive(void *opaque)
{
    VsNet *net = opaque;
    unsigned pair;

    if (!net->running) {
        return false;
    }
    for (pair = 0; pair < net->active_pairs; pair++) {
        Vq *vq = rx_vq(net, pair);

        if (vq_alive(vq) && vq->backlog < BACKLOG_FULL) {
            return true;
        }
    }
    return false;
}

static void net_receive_to(VsNet *net, const uint8_t *frame, size_t len,
                           bool checked, Vq *vq)
{
    Frame f = {
        .data = net->rx_buf + HEADROOM,
        .len = len,
        .flags = checked ? VIRTIO_NET_HDR_F_DATA_VALID : 0,
    };

    if (len < VS_FRAME_MIN || len > VS_FRAME_MAX) {
        vq = vq ? vq : rx_vq(net, 0);
        vq->errors++;
        rx_lose(net, vq);
        return;
    }
    memcpy(f.data, frame, len);
    if (!vq) {
        vq = steer(net, &f);
    }
    if (!net->link || too_long(net, &f) || !wanted(net, &f)) {
        rx_lose(net, vq);
        return;
    }
    rx_frame(net, vq, &f);
}

static void net_receive(void *opaque, const uint8_t *frame, size_t len,
                        bool checked)
{
    net_receive_to(opaque, frame, len, checked, NULL);
}

static void net_writable(void *opaque)
{
    VsNet *net = opaque;
    unsigned i;

    for (i = 0; i < net->config.pairs; i++) {
        Vq *vq = tx_vq(net, i);

        if (vq->stalled) {
            vq->stalled = false;
            vq->work = true;
        }
    }
}

/*
 * Transmitting
 */

/* Read a chain as a frame; false if it cannot be one */
static bool tx_read(VsNet *net, Vq *vq, const VsChain *chain, Frame *f)
{
    struct virtio_net_hdr_mrg_rxbuf hdr = { 0 };
    uint8_t *buf = net->tx_buf + HEADROOM - net->hdr_len;
    uint32_t size = chain->read_len;

    if (net->config.max_frame && size > net->config.max_frame) {
        vq->errors++;
        size = net->config.max_frame;
    }
    if (size < net->hdr_len + VS_FRAME_MIN ||
        size > net->hdr_len + VS_FRAME_MAX ||
        !vs_ring_read(vq->ring, chain, 0, buf, size)) {
        return false;
    }
    memcpy(&hdr, buf, net->hdr_len);
    f->data = net->tx_buf + HEADROOM;
    f->len = size - net->hdr_len;
    f->flags = 0;
    if (hdr.hdr.gso_type != VIRTIO_NET_HDR_GSO_NONE || too_long(net, f)) {
        return false;
    }
    if (has(net, VIRTIO_NET_F_CSUM) &&
        hdr.hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        f->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        f->csum_start = GUINT16_FROM_LE(hdr.hdr.csum_start);
        f->csum_offset = GUINT16_FROM_LE(hdr.hdr.csum_offset);
        if ((size_t)f->csum_start + f->csum_offset + 2 > f->len) {
            return false;
        }
    }
    return true;
}

/* The receive queue at the other end of the loopback wire */
static Vq *loopback_end(VsNet *net, unsigned pair)
{
    return pair < net->active_pairs ? rx_vq(net, pair) : NULL;
}

static VsWireResult tx_send(VsNet *net, unsigned pair, Frame *f)
{
    if (!net->link) {
        return VS_WIRE_LOST;
    }
    if (net->loopback) {
        Vq *to = loopback_end(net, pair);

        net->host.transmitted(net->host.opaque, f->data, f->len);
        rx_frame(net, to ? to : steer(net, f), f);
        return VS_WIRE_SENT;
    }
    if (f->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        complete_checksum(f);
    }
    return net->wire->ops->send(net->wire, f->data, f->len);
}

/* Whether the loopback wire has no room for a frame of this pair */
static bool tx_blocked(VsNet *net, unsigned pair)
{
    unsigned i;
    Vq *to;

    if (!net->loopback || !net->link) {
        return false;
    }
    to = loopback_end(net, pair);
    if (to) {
        return vq_alive(to) && to->backlog >= BACKLOG_FULL;
    }
    /* It will be steered; any queue may be the one */
    for (i = 0; i < net->active_pairs; i++) {
        to = rx_vq(net, i);
        if (vq_alive(to) && to->backlog >= BACKLOG_FULL) {
            return true;
        }
    }
    return false;
}

static void tx_pass(VsNet *net, unsigned pair)
{
    Vq *vq = tx_vq(net, pair);
    VsRing *ring = vq->ring;
    unsigned done;

    vs_ring_quiet(ring);
    for (done = 0; done < PASS_MAX; done++) {
        VsWireResult sent = VS_WIRE_LOST;
        VsRingMark mark;
        VsChain chain;
        Frame f;
        int ret;

        if (tx_blocked(net, pair)) {
            vq->stalled = true;
            return;
        }
        mark = vs_ring_begin(ring);
        ret = vs_ring_pop(ring, &chain);
        if (ret == 0 && vs_ring_arm(ring)) {
            vs_ring_quiet(ring);
            ret = vs_ring_pop(ring, &chain);
        }
        if (ret <= 0) {
            return;
        }
        if (!tx_read(net, vq, &chain, &f)) {
            vq->errors++;
        } else {
            remember_flow(net, pair, &f);
            sent = tx_send(net, pair, &f);
            if (sent == VS_WIRE_BUSY) {
                vs_ring_rewind(ring, &mark);
                vq->stalled = true;
                return;
            }
            if (sent == VS_WIRE_SENT) {
                vq->packets++;
                vq->bytes += f.len;
                if (!net->loopback) {
                    net->host.transmitted(net->host.opaque, f.data, f.len);
                }
            } else {
                vq->dropped++;
            }
        }
        vq_push(net, vq, &chain, 0);
    }
    vq->work = true;
}

/* A receive queue can take frames again: let its senders go on */
static void unstall(VsNet *net)
{
    unsigned i;

    if (!net->loopback) {
        return;
    }
    for (i = 0; i < net->config.pairs; i++) {
        Vq *vq = tx_vq(net, i);

        if (vq->stalled && !tx_blocked(net, i)) {
            vq->stalled = false;
            vq->work = true;
        }
    }
}

/*
 * Control
 */

static void set_active_pairs(VsNet *net, unsigned pairs)
{
    unsigned i;

    net->active_pairs = pairs;
    for (i = pairs; i < net->config.pairs; i++) {
        Vq *vq = rx_vq(net, i);
        Queued *q;

        /* What waits for a queue that is out of use goes to another */
        while ((q = backlog_take(vq))) {
            rx_frame(net, steer(net, &q->frame), &q->frame);
            queued_free(net, q);
        }
    }
    unstall(net);
}

static bool ctrl_rx(VsNet *net, uint8_t cmd, const uint8_t *data, size_t len)
{
    bool *modes[] = {
        [VIRTIO_NET_CTRL_RX_PROMISC] = &net->promisc,
        [VIRTIO_NET_CTRL_RX_ALLMULTI] = &net->allmulti,
        [VIRTIO_NET_CTRL_RX_ALLUNI] = &net->alluni,
        [VIRTIO_NET_CTRL_RX_NOMULTI] = &net->nomulti,
        [VIRTIO_NET_CTRL_RX_NOUNI] = &net->nouni,
        [VIRTIO_NET_CTRL_RX_NOBCAST] = &net->nobcast,
    };
    unsigned needs = cmd > VIRTIO_NET_CTRL_RX_ALLMULTI ?
                     VIRTIO_NET_F_CTRL_RX_EXTRA : VIRTIO_NET_F_CTRL_RX;

    if (cmd >= G_N_ELEMENTS(modes) || !has(net, needs) || len != 1) {
        return false;
    }
    *modes[cmd] = data[0] != 0;
    return true;
}

/* One of the two tables of TABLE_SET; false if it is cut off */
static bool parse_macs(const uint8_t **data, size_t *len, MacTable *table)
{
    uint32_t n;

    memset(table, 0, sizeof(*table));
    if (*len < sizeof(n)) {
        return false;
    }
    memcpy(&n, *data, sizeof(n));
    n = GUINT32_FROM_LE(n);
    *data += sizeof(n);
    *len -= sizeof(n);
    if (n > *len / 6) {
        return false;
    }
    if (n > MAC_TABLE_MAX) {
        table->overflow = true;
    } else {
        table->n = n;
        memcpy(table->mac, *data, 6 * (size_t)n);
    }
    *data += 6 * (size_t)n;
    *len -= 6 * (size_t)n;
    return true;
}

static bool ctrl_mac(VsNet *net, uint8_t cmd, const uint8_t *data, size_t len)
{
    MacTable unicast, multicast;

    switch (cmd) {
    case VIRTIO_NET_CTRL_MAC_TABLE_SET:
        if (!has(net, VIRTIO_NET_F_CTRL_RX) ||
            !parse_macs(&data, &len, &unicast) ||
            !parse_macs(&data, &len, &multicast) || len) {
            return false;
        }
        net->unicast = unicast;
        net->multicast = multicast;
        return true;
    case VIRTIO_NET_CTRL_MAC_ADDR_SET:
        if (is_simulator(net) ? len < 6 :
            !has(net, VIRTIO_NET_F_CTRL_MAC_ADDR) || len != 6) {
            return false;
        }
        memcpy(net->space.mac, data, 6);
        return true;
    default:
        return false;
    }
}

static bool get_le16(const uint8_t *data, size_t len, uint16_t *val)
{
    if (len != sizeof(*val)) {
        return false;
    }
    memcpy(val, data, sizeof(*val));
    *val = GUINT16_FROM_LE(*val);
    return true;
}

static bool ctrl_vlan(VsNet *net, uint8_t cmd, const uint8_t *data,
                      size_t len)
{
    uint16_t vid;

    if (!has(net, VIRTIO_NET_F_CTRL_VLAN) || !get_le16(data, len, &vid) ||
        vid >= 4096) {
        return false;
    }
    switch (cmd) {
    case VIRTIO_NET_CTRL_VLAN_ADD:
        net->vlans[vid / 32] |= 1u << vid % 32;
        return true;
    case VIRTIO_NET_CTRL_VLAN_DEL:
        net->vlans[vid / 32] &= ~(1u << vid % 32);
        return true;
    default:
        return false;
    }
}

static bool ctrl_announce(VsNet *net, uint8_t cmd, size_t len)
{
    if (cmd != VIRTIO_NET_CTRL_ANNOUNCE_ACK || len ||
        !has(net, VIRTIO_NET_F_GUEST_ANNOUNCE)) {
        return false;
    }
    net->space.status &= ~GUINT16_TO_LE(VIRTIO_NET_S_ANNOUNCE);
    return true;
}

static bool ctrl_mq(VsNet *net, uint8_t cmd, const uint8_t *data, size_t len)
{
    uint16_t pairs;

    if (cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET ||
        !has(net, VIRTIO_NET_F_MQ) || !get_le16(data, len, &pairs) ||
        pairs < VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN ||
        pairs > net->config.pairs) {
        return false;
    }
    set_active_pairs(net, pairs);
    return true;
}

/* Offloads that the driver may switch */
static uint64_t guest_offloads(const VsNet *net)
{
    return net->features & (1ULL << VIRTIO_NET_F_GUEST_CSUM |
                            1ULL << VIRTIO_NET_F_GUEST_TSO4 |
                            1ULL << VIRTIO_NET_F_GUEST_TSO6 |
                            1ULL << VIRTIO_NET_F_GUEST_ECN |
                            1ULL << VIRTIO_NET_F_GUEST_UFO);
}

static bool ctrl_offloads(VsNet *net, uint8_t cmd, const uint8_t *data,
                          size_t len)
{
    uint64_t offloads;

    if (cmd != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET ||
        !has(net, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) ||
        len != sizeof(offloads)) {
        return false;
    }
    memcpy(&offloads, data, sizeof(offloads));
    offloads = GUINT64_FROM_LE(offloads);
    if (offloads & ~guest_offloads(net)) {
        return false;
    }
    net->offloads = offloads;
    return true;
}

static bool ctrl_command(VsNet *net, const uint8_t *data, size_t len)
{
    uint8_t class = data[0];
    uint8_t cmd = data[1];

    data += 2;
    len -= 2;
    switch (class) {
    case VIRTIO_NET_CTRL_RX:
        return ctrl_rx(net, cmd, data, len);
    case VIRTIO_NET_CTRL_MAC:
        return ctrl_mac(net, cmd, data, len);
    case VIRTIO_NET_CTRL_VLAN:
        return ctrl_vlan(net, cmd, data, len);
    case VIRTIO_NET_CTRL_ANNOUNCE:
        return ctrl_announce(net, cmd, len);
    case VIRTIO_NET_CTRL_MQ:
        return ctrl_mq(net, cmd, data, len);
    case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
        return ctrl_offloads(net, cmd, data, len);
    default:
        return false;
    }
}

/* One command; false if its chain has no room for an answer or is gone */
static bool ctrl_chain(VsNet *net, Vq *vq, const VsChain *chain)
{
    uint8_t ack = VIRTIO_NET_ERR;

    if (!chain->write_len) {
        return false;
    }
    if (chain->read_len < 2 || chain->read_len > COMMAND_MAX ||
        !vs_ring_read(vq->ring, chain, 0, net->command, chain->read_len)) {
        vq->errors++;
    } else if (ctrl_command(net, net->command, chain->read_len)) {
        ack = VIRTIO_NET_OK;
    }
    return vs_ring_write(vq->ring, chain, 0, &ack, sizeof(ack));
}

static void ctrl_pass(VsNet *net, Vq *vq)
{
    VsRing *ring = vq->ring;
    unsigned done;

    vs_ring_quiet(ring);
    for (done = 0; done < PASS_MAX; done++) {
        VsChain chain;
        bool ok;
        int ret;

        vs_ring_begin(ring);
        ret = vs_ring_pop(ring, &chain);
        if (ret == 0 && vs_ring_arm(ring)) {
            vs_ring_quiet(ring);
            ret = vs_ring_pop(ring, &chain);
        }
        if (ret <= 0) {
            return;
        }
        ok = ctrl_chain(net, vq, &chain);
        if (ok) {
            vq->packets++;
            vq->bytes += chain.read_len;
        } else {
            vq->errors++;
        }
        vq_push(net, vq, &chain, ok ? 1 : 0);
    }
    vq->work = true;
}

/*
 * As the kernel's simulator has it
 *
 * Chains that it cannot do anything with it takes and forgets, so a client
 * that offers such ones misses them, as it would there.
 */

/* Give one chain back, and interrupt: nothing waits for the end of a pass */
static void sim_complete(VsNet *net, Vq *vq, const VsChain *chain,
                         uint32_t written, bool always)
{
    vs_ring_push(vq->ring, chain, written);
    net->dirty = true;
    if (vs_ring_flush(vq->ring) || always) {
        vq->calls++;
        net->host.call(net->host.opaque, vq - net->vqs);
    }
}

static void sim_error(VsNet *net, Vq *vq)
{
    vq->errors++;
    net->dirty = true;
}

static void sim_commands(VsNet *net, Vq *vq)
{
    unsigned done;

    for (done = 0; done < PASS_MAX; done++) {
        uint8_t ack = VIRTIO_NET_ERR;
        uint32_t size, room;
        VsChain chain;
        int ret;

        vs_ring_begin(vq->ring);
        ret = vs_ring_pop(vq->ring, &chain);
        if (ret <= 0) {
            vq->errors += ret < 0;
            return;
        }
        size = MIN(chain.read_len, COMMAND_MAX);
        if (size < 2 || !vs_ring_read(vq->ring, &chain, 0, net->command, 2)) {
            sim_error(net, vq);
            return;
        }
        if (vs_ring_read(vq->ring, &chain, 2, net->command + 2, size - 2) &&
            ctrl_command(net, net->command, size)) {
            ack = VIRTIO_NET_OK;
        }
        vq->packets++;
        vq->bytes += chain.read_len;
        room = MIN(chain.write_len, sizeof(ack));
        if (!vs_ring_write(vq->ring, &chain, 0, &ack, room)) {
            sim_error(net, vq);
            room = 0;
        }
        sim_complete(net, vq, &chain, room, true);
    }
    net->due = true;
}

/* Whether a frame is for the device; the header is before it */
static bool sim_accepts(const VsNet *net, const uint8_t *buf, size_t size)
{
    const uint8_t *to = buf + net->hdr_len;

    return size >= net->hdr_len + 6 &&
           (to[0] & 1 || !memcmp(to, net->space.mac, 6));
}

static void sim_frames(VsNet *net, unsigned pair)
{
    Vq *rx = rx_vq(net, pair);
    Vq *tx = tx_vq(net, pair);
    unsigned done;

    for (done = 0; done < PASS_MAX; done++) {
        VsChain from, to;
        uint32_t size, len;
        int ret;

        vs_ring_begin(tx->ring);
        ret = vs_ring_pop(tx->ring, &from);
        if (ret == 0) {
            return;
        }
        if (ret < 0 || from.nwrite) {
            sim_error(net, tx);
            return;
        }
        size = MIN(from.read_len, VS_FRAME_MAX);
        if (net->config.max_frame) {
            size = MIN(size, net->config.max_frame);
        }
        if (!size || !vs_ring_read(tx->ring, &from, 0, net->tx_buf, size)) {
            sim_error(net, tx);
            sim_complete(net, tx, &from, 0, false);
            continue;
        }
        tx->packets++;
        if (size > net->hdr_len) {
            tx->bytes += size - net->hdr_len;
            net->host.transmitted(net->host.opaque,
                                  net->tx_buf + net->hdr_len,
                                  size - net->hdr_len);
        }
        if (!net->link || !sim_accepts(net, net->tx_buf, size)) {
            rx_lose(net, rx);
            sim_complete(net, tx, &from, 0, false);
            continue;
        }

        vs_ring_begin(rx->ring);
        ret = vs_ring_pop(rx->ring, &to);
        if (ret <= 0 || to.nread) {
            rx_lose(net, rx);
            sim_complete(net, tx, &from, 0, false);
            return;
        }
        len = MIN(size, to.write_len);
        if (!len || !vs_ring_write(rx->ring, &to, 0, net->tx_buf, len)) {
            sim_error(net, rx);
            return;
        }
        rx->packets++;
        rx->bytes += len > net->hdr_len ? len - net->hdr_len : 0;
        sim_complete(net, tx, &from, 0, false);
        sim_complete(net, rx, &to, len, false);
    }
    net->due = true;
}

static void sim_pass(VsNet *net)
{
    Vq *ctrl = ctrl_vq(net);
    unsigned i;

    net->due = false;
    for (i = 0; i < net->nvqs; i++) {
        net->vqs[i].work = false;
        if (vq_alive(&net->vqs[i])) {
            /* what the driver wrote meanwhile counts, wherever it is */
            vs_ring_forget(net->vqs[i].ring);
        }
    }
    if (ctrl && vq_alive(ctrl)) {
        sim_commands(net, ctrl);
    }
    for (i = 0; i < usable_pairs(net); i++) {
        if (vq_alive(rx_vq(net, i))) {
            /* frames that were injected */
            rx_pass(net, i);
            net->due |= rx_vq(net, i)->work;
            rx_vq(net, i)->work = false;
        }
        if (vq_alive(rx_vq(net, i)) && vq_alive(tx_vq(net, i))) {
            sim_frames(net, i);
        }
    }
}

/*
 * The worker
 */

/* Doorbells since the last look; they count only for a running device */
static void take_doorbells(VsNet *net)
{
    unsigned i;

    for (i = 0; i < net->nvqs; i++) {
        Vq *vq = &net->vqs[i];
        unsigned n = atomic_exchange(&vq->doorbells, 0);

        if (n) {
            vq->kicks += n;
            net->dirty = true;
            if (net->running && vq->enabled) {
                vq->kicked = true;
                vq->work = true;
                net->due = true;
            }
        }
    }
}

static bool take_work(const VsNet *net, Vq *vq)
{
    bool work = vq->work && vq_ready(net, vq);

    if (work) {
        vq->work = false;
    }
    return work;
}

/* Returns true if there is more to do at once */
static bool pass(VsNet *net)
{
    Vq *ctrl = ctrl_vq(net);
    bool more = false;
    unsigned i;

    take_doorbells(net);
    if (net->running && is_simulator(net)) {
        if (net->due) {
            sim_pass(net);
        }
    } else if (net->running) {
        /* A command that was queued before a frame applies to it */
        if (ctrl && take_work(net, ctrl)) {
            ctrl_pass(net, ctrl);
        }
        for (i = 0; i < usable_pairs(net); i++) {
            if (take_work(net, rx_vq(net, i))) {
                rx_pass(net, i);
            }
        }
        unstall(net);
        for (i = 0; i < usable_pairs(net); i++) {
            if (take_work(net, tx_vq(net, i))) {
                tx_pass(net, i);
            }
        }
    }
    if (net->wire->ops->flush) {
        net->wire->ops->flush(net->wire);
    }
    flush(net);
    if (is_simulator(net)) {
        more = net->due && net->running;
    }
    for (i = 0; i < net->nvqs; i++) {
        more |= net->vqs[i].work && vq_ready(net, &net->vqs[i]);
    }
    if (net->dirty) {
        net->dirty = false;
        net->host.stats_changed(net->host.opaque);
    }
    return more;
}

static void *worker(void *opaque)
{
    VsNet *net = opaque;
    GArray *fds = net->fds;
    const VsWireOps *wire = net->wire->ops;
    bool more = false;

    while (!atomic_load(&net->stop)) {
        struct pollfd wake_pfd = { .fd = net->wake_fd, .events = POLLIN };
        int timeout = -1;
        struct pollfd *p;

        g_array_set_size(fds, 0);
        g_array_append_val(fds, wake_pfd);
        if (wire->prepare) {
            vs_net_lock(net);
            wire->prepare(net->wire, fds, &timeout);
            vs_net_unlock(net);
        }
        p = (struct pollfd *)(void *)fds->data;
        if (poll(p, fds->len, more ? 0 : timeout) < 0) {
            unsigned i;

            for (i = 0; i < fds->len; i++) {
                p[i].revents = 0;
            }
        }
        if (p[0].revents) {
            uint64_t count;
            ssize_t ret;

            do {
                ret = read(net->wake_fd, &count, sizeof(count));
            } while (ret < 0 && errno == EINTR);
            /* Before the pass: what comes later wakes us again */
            atomic_store(&net->woken, false);
        }

        vs_net_lock(net);
        if (wire->dispatch) {
            wire->dispatch(net->wire, p + 1, fds->len - 1);
        }
        more = pass(net);
        vs_net_unlock(net);
    }
    return NULL;
}

static bool start_worker(VsNet *net)
{
    sigset_t all, old;
    int ret;

    /*
     * Made here: a program that forks after it opened the node must not
     * find the allocator locked by a thread that it does not know of.
     */
    net->fds = g_array_new(FALSE, FALSE, sizeof(struct pollfd));
    /*
     * The program's signals are its own threads' business, except those
     * that memory accesses of this thread raise.
     */
    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    ret = pthread_create(&net->thread, NULL, worker, net);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ret == 0;
}

/*
 * The interface
 */

static void reset_state(VsNet *net)
{
    static const VsRingState start = {
        .avail_wrap = true,
        .used_wrap = true,
    };
    unsigned i;

    net->features = 0;
    net->running = false;
    net->due = false;
    net->hdr_len = sizeof(struct virtio_net_hdr);
    net->mergeable = false;
    net->offloads = 0;
    net->promisc = false;
    net->allmulti = false;
    net->alluni = false;
    net->nomulti = false;
    net->nouni = false;
    net->nobcast = false;
    memset(&net->unicast, 0, sizeof(net->unicast));
    memset(&net->multicast, 0, sizeof(net->multicast));
    memset(net->vlans, 0, sizeof(net->vlans));
    memset(net->flows, 0, sizeof(net->flows));
    net->active_pairs = 1;
    net->space.status &= ~GUINT16_TO_LE(VIRTIO_NET_S_ANNOUNCE);

    for (i = 0; i < net->nvqs; i++) {
        Vq *vq = &net->vqs[i];

        vs_ring_stop(vq->ring);
        vq->enabled = false;
        vq->work = false;
        vq->kicked = false;
        vq->stalled = false;
        vq->completed = false;
        vq->failed = false;
        vq->desc = 0;
        vq->avail = 0;
        vq->used = 0;
        vq->asid = 0;
        vq->ring_asid = 0;
        vq->base = start;
        backlog_drop(net, vq);
    }
}

VsNet *vs_net_new(const VsNetConfig *config, const VsHost *host,
                  char **error)
{
    VsWireHost wire_host = {
        .can_receive = net_can_receive,
        .receive = net_receive,
        .writable = net_writable,
    };
    VsNet *net;
    unsigned i;

    if (!config->pairs || config->pairs > VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX) {
        *error = g_strdup_printf("a network device has 1 to %d queue pairs, "
                                 "not %u", VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX,
                                 config->pairs);
        return NULL;
    }

    net = g_new0(VsNet, 1);
    net->config = *config;
    net->config.wire = NULL;
    if (!net->config.mtu) {
        net->config.mtu = 1500;
    }
    net->host = *host;
    pthread_mutex_init(&net->mutex, NULL);
    pthread_cond_init(&net->turn, NULL);
    net->tx_buf = g_malloc(HEADROOM + VS_FRAME_MAX);
    net->rx_buf = g_malloc(HEADROOM + VS_FRAME_MAX);
    net->command = g_malloc(COMMAND_MAX);
    net->nvqs = 2 * config->pairs + (offers(net, VIRTIO_NET_F_CTRL_VQ) ? 1
                                                                       : 0);
    net->vqs = g_new0(Vq, net->nvqs);
    for (i = 0; i < net->nvqs; i++) {
        net->vqs[i].ring = vs_ring_new(&net->host);
        net->vqs[i].tail = &net->vqs[i].head;
    }

    net->link = true;
    memcpy(net->space.mac, config->mac, 6);
    if (offers(net, VIRTIO_NET_F_STATUS)) {
        net->space.status = GUINT16_TO_LE(VIRTIO_NET_S_LINK_UP);
    }
    if (offers(net, VIRTIO_NET_F_MQ)) {
        net->space.max_virtqueue_pairs = GUINT16_TO_LE(config->pairs);
    }
    if (offers(net, VIRTIO_NET_F_MTU)) {
        net->space.mtu = GUINT16_TO_LE(net->config.mtu);
    }
    if (offers(net, VIRTIO_NET_F_SPEED_DUPLEX)) {
        net->space.speed = GUINT32_TO_LE(10000);
        net->space.duplex = 1;
    }
    reset_state(net);

    net->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (net->wake_fd < 0) {
        *error = g_strdup_printf("cannot create an eventfd for the device: "
                                 "%s", g_strerror(errno));
        vs_net_free(net);
        return NULL;
    }
    wire_host.opaque = net;
    net->wire = vs_wire_new(config->wire, net->config.mtu, &wire_host, error);
    if (!net->wire) {
        vs_net_free(net);
        return NULL;
    }
    net->loopback = vs_wire_is_loopback(net->wire);
    if (!start_worker(net)) {
        *error = g_strdup("cannot start a thread for the device");
        vs_wire_free(net->wire);
        net->wire = NULL;
        vs_net_free(net);
        return NULL;
    }
    return net;
}

void vs_net_free(VsNet *net)
{
    unsigned i;

    if (!net) {
        return;
    }
    /* A device without a wire is one that was never finished */
    if (net->wire) {
        atomic_store(&net->stop, true);
        wake(net);
        pthread_join(net->thread, NULL);
        vs_wire_free(net->wire);
    }
    if (net->wake_fd >= 0) {
        close(net->wake_fd);
    }
    for (i = 0; i < net->nvqs; i++) {
        backlog_drop(net, &net->vqs[i]);
        vs_ring_free(net->vqs[i].ring);
    }
    while (net->pool) {
        Queued *q = net->pool;

        net->pool = q->next;
        g_free(q);
    }
    if (net->fds) {
        g_array_free(net->fds, TRUE);
    }
    g_free(net->vqs);
    g_free(net->chains);
    g_free(net->tx_buf);
    g_free(net->rx_buf);
    g_free(net->command);
    pthread_cond_destroy(&net->turn);
    pthread_mutex_destroy(&net->mutex);
    g_free(net);
}

void vs_net_reset(VsNet *net)
{
    vs_net_lock(net);
    take_doorbells(net);
    reset_state(net);
    vs_net_unlock(net);
    wake(net);
}

void vs_net_set_features(VsNet *net, uint64_t features)
{
    vs_net_lock(net);
    net->features = features & net->config.features;
    net->mergeable = has(net, VIRTIO_NET_F_MRG_RXBUF);
    net->hdr_len = net->mergeable || has(net, VIRTIO_F_VERSION_1) ?
                   sizeof(struct virtio_net_hdr_mrg_rxbuf) :
                   sizeof(struct virtio_net_hdr);
    net->offloads = guest_offloads(net);
    vs_net_unlock(net);
}

uint64_t vs_net_features(VsNet *net)
{
    uint64_t features;

    vs_net_lock(net);
    features = net->features;
    vs_net_unlock(net);
    return features;
}

void vs_net_set_running(VsNet *net, bool running, bool rescan)
{
    unsigned i;

    vs_net_lock(net);
    /* Those rung so far were rung in the old state */
    take_doorbells(net);
    if (running && !net->running) {
        for (i = 0; i < net->nvqs; i++) {
            if (vq_alive(&net->vqs[i])) {
                vs_ring_forget(net->vqs[i].ring);
            }
        }
    }
    net->running = running;
    if (running && rescan) {
        for (i = 0; i < net->nvqs; i++) {
            Vq *vq = &net->vqs[i];

            if (vq->enabled) {
                vq->kicked = true;
                vq->work = true;
                net->due = true;
            }
        }
    }
    vs_net_unlock(net);
    wake(net);
}

void vs_net_vq_set_num(VsNet *net, unsigned vq, uint32_t num)
{
    vs_net_lock(net);
    if (vq < net->nvqs) {
        net->vqs[vq].num = num;
    }
    vs_net_unlock(net);
}

void vs_net_vq_set_addr(VsNet *net, unsigned vq,
                        uint64_t desc, uint64_t avail, uint64_t used)
{
    vs_net_lock(net);
    if (vq < net->nvqs) {
        net->vqs[vq].desc = desc;
        net->vqs[vq].avail = avail;
        net->vqs[vq].used = used;
    }
    vs_net_unlock(net);
}

void vs_net_vq_set_asid(VsNet *net, unsigned vq,
                        uint32_t asid, uint32_t ring_asid)
{
    vs_net_lock(net);
    if (vq < net->nvqs) {
        Vq *q = &net->vqs[vq];

        q->asid = asid;
        q->ring_asid = ring_asid;
        if (vq_alive(q)) {
            vs_ring_set_asid(q->ring, asid, ring_asid);
        }
    }
    vs_net_unlock(net);
}

static void vq_state(const Vq *vq, VsRingState *state)
{
    if (vq->enabled) {
        vs_ring_state(vq->ring, state);
    } else {
        *state = vq->base;
    }
}

void vs_net_vq_set_base(VsNet *net, unsigned vq, uint32_t base, bool packed)
{
    vs_net_lock(net);
    if (vq < net->nvqs) {
        Vq *q = &net->vqs[vq];
        VsRingState state;

        vq_state(q, &state);
        if (packed) {
            state.avail_idx = base & 0x7fff;
            state.avail_wrap = base >> 15 & 1;
            state.used_idx = base >> 16 & 0x7fff;
            state.used_wrap = base >> 31;
        } else {
            state.avail_idx = base;
        }
        if (q->enabled) {
            vs_ring_set_state(q->ring, &state);
        } else {
            q->base = state;
        }
    }
    vs_net_unlock(net);
}

uint32_t vs_net_vq_base(VsNet *net, unsigned vq, bool packed)
{
    uint32_t base = 0;

    vs_net_lock(net);
    if (vq < net->nvqs) {
        VsRingState state;

        vq_state(&net->vqs[vq], &state);
        base = state.avail_idx;
        if (packed) {
            base |= (uint32_t)state.avail_wrap << 15;
            base |= (uint32_t)state.used_idx << 16;
            base |= (uint32_t)state.used_wrap << 31;
        }
    }
    vs_net_unlock(net);
    return base;
}

void vs_net_vq_enable(VsNet *net, unsigned vq, bool enable)
{
    vs_net_lock(net);
    if (vq < net->nvqs && net->vqs[vq].enabled != enable) {
        Vq *q = &net->vqs[vq];

        take_doorbells(net);
        if (enable) {
            VsRingConfig config = {
                .features = net->features,
                .num = q->num,
                .desc = q->desc,
                .avail = q->avail,
                .used = q->used,
                .ring_asid = q->ring_asid,
                .asid = q->asid,
                .lenient = is_simulator(net),
            };

            /* Nothing is in flight, so a split ring's are equal */
            if (!has(net, VIRTIO_F_RING_PACKED)) {
                q->base.used_idx = q->base.avail_idx;
            }
            vs_ring_start(q->ring, &config, &q->base);
        } else {
            vs_ring_state(q->ring, &q->base);
            vs_ring_stop(q->ring);
            backlog_drop(net, q);
        }
        q->enabled = enable;
        q->work = false;
        q->kicked = false;
        q->stalled = false;
        /* One that was never set up is not an error, just of no use */
        q->failed = !q->num && !q->desc && !q->avail && !q->used;
        net->dirty = true;
    }
    vs_net_unlock(net);
    wake(net);
}

void vs_net_vq_kick(VsNet *net, unsigned vq)
{
    if (vq < net->nvqs) {
        atomic_fetch_add(&net->vqs[vq].doorbells, 1);
        wake(net);
    }
}

size_t vs_net_config_size(VsNet *net)
{
    (void)net;
    return CONFIG_SIZE;
}

void vs_net_config_read(VsNet *net, size_t offset, void *buf, size_t size)
{
    vs_net_lock(net);
    memcpy(buf, (uint8_t *)&net->space + offset, size);
    vs_net_unlock(net);
}

void vs_net_config_write(VsNet *net, size_t offset,
                         const void *buf, size_t size)
{
    uint16_t status;

    vs_net_lock(net);
    /* The driver may leave anything here, but the link is ours */
    status = net->space.status;
    memcpy((uint8_t *)&net->space + offset, buf, size);
    net->space.status = status;
    vs_net_unlock(net);
}

void vs_net_set_link(VsNet *net, bool up)
{
    uint16_t bit = GUINT16_TO_LE(VIRTIO_NET_S_LINK_UP);

    vs_net_lock(net);
    if (net->link != up) {
        net->link = up;
        if (offers(net, VIRTIO_NET_F_STATUS)) {
            net->space.status = (net->space.status & ~bit) | (up ? bit : 0);
        }
        unstall(net);
        net->dirty = true;
        net->host.config_changed(net->host.opaque);
    }
    vs_net_unlock(net);
    wake(net);
}

bool vs_net_link(VsNet *net)
{
    bool link;

    vs_net_lock(net);
    link = net->link;
    vs_net_unlock(net);
    return link;
}

void vs_net_announce(VsNet *net)
{
    vs_net_lock(net);
    net->space.status |= GUINT16_TO_LE(VIRTIO_NET_S_ANNOUNCE);
    net->dirty = true;
    net->host.config_changed(net->host.opaque);
    vs_net_unlock(net);
    wake(net);
}

void vs_net_inject(VsNet *net, const void *frame, size_t len, int vq)
{
    vs_net_lock(net);
    if (vq < 0 || ((unsigned)vq < 2 * net->config.pairs && vq % 2 == 0)) {
        net_receive_to(net, frame, len, false,
                       vq < 0 ? NULL : &net->vqs[vq]);
        /* Nothing may be left to publish when the device is stopped */
        flush(net);
    }
    vs_net_unlock(net);
    wake(net);
}

unsigned vs_net_num_vqs(VsNet *net)
{
    return net->nvqs;
}

void vs_net_vq_stats(VsNet *net, unsigned vq, VsVqStats *stats)
{
    memset(stats, 0, sizeof(*stats));
    vs_net_lock(net);
    if (vq < net->nvqs) {
        const Vq *q = &net->vqs[vq];
        VsRingState state;

        vq_state(q, &state);
        stats->num = q->num;
        stats->enabled = q->enabled;
        stats->avail_idx = state.avail_idx;
        stats->used_idx = state.used_idx;
        stats->kicks = q->kicks;
        stats->calls = q->calls;
        stats->packets = q->packets;
        stats->bytes = q->bytes;
        stats->dropped = q->dropped;
        stats->errors = q->errors;
    }
    vs_net_unlock(net);
}

unsigned vs_net_active_pairs(VsNet *net)
{
    unsigned pairs;

    vs_net_lock(net);
    pairs = net->active_pairs;
    vs_net_unlock(net);
    return pairs;
}

void vs_net_mac(VsNet *net, uint8_t mac[6])
{
    vs_net_lock(net);
    memcpy(mac, net->space.mac, 6);
    vs_net_unlock(net);
}

static void json_macs(GString *s, const MacTable *table, bool *first)
{
    unsigned i;

    for (i = 0; i < table->n; i++) {
        const uint8_t *m = table->mac[i];

        g_string_append_printf(s, "%s\"%02x:%02x:%02x:%02x:%02x:%02x\"",
                               *first ? "" : ",",
                               m[0], m[1], m[2], m[3], m[4], m[5]);
        *first = false;
    }
}

char *vs_net_rx_state_json(VsNet *net)
{
    GString *s = g_string_new(NULL);
    bool first = true;
    unsigned i;

    vs_net_lock(net);
    const struct {
        const char *name;
        bool on;
    } modes[] = {
        { "promisc", net->promisc },
        { "allmulti", net->allmulti },
        { "alluni", net->alluni },
        { "nomulti", net->nomulti },
        { "nouni", net->nouni },
        { "nobcast", net->nobcast },
        { "unicast-overflow", net->unicast.overflow },
        { "multicast-overflow", net->multicast.overflow },
    };

    g_string_append(s, "\"rx-mode\":{");
    for (i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_string_append_printf(s, "%s\"%s\":%s", i ? "," : "",
                               modes[i].name, modes[i].on ? "true" : "false");
    }
    g_string_append(s, "},\"vlans\":[");
    for (i = 0; i < 4096; i++) {
        if (net->vlans[i / 32] & (1u << i % 32)) {
            g_string_append_printf(s, "%s%u", first ? "" : ",", i);
            first = false;
        }
    }
    first = true;
    g_string_append(s, "],\"macs\":[");
    json_macs(s, &net->unicast, &first);
    json_macs(s, &net->multicast, &first);
    g_string_append_c(s, ']');
    vs_net_unlock(net);
    return g_string_free(s, FALSE);
}
