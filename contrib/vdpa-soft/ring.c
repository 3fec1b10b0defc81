/*
 * vdpa-soft: the device's side of a virtqueue, split or packed
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "ring.h"

#include <glib.h>
#include <stdatomic.h>
#include <string.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

/* Descriptors read from memory at once, at most */
#define WINDOW 64

/* Entries of the available ring read at once, at most */
#define HEADS 64

typedef enum Notify {
    NOTIFY_UNKNOWN,     /* what the driver sees is not ours */
    NOTIFY_QUIET,
    NOTIFY_ARMED,
} Notify;

/* One descriptor of either layout, in host byte order */
typedef struct Desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;      /* split: next descriptor; packed: buffer id */
} Desc;

/*
 * Both layouts begin alike (le64 address, le32 length); only the order of
 * the last two halves differs.
 */
typedef struct RawDesc {
    uint64_t addr;
    uint32_t len;
    uint16_t half[2];
} RawDesc;

G_STATIC_ASSERT(sizeof(RawDesc) == 16);
G_STATIC_ASSERT(sizeof(struct vring_desc) == sizeof(RawDesc));
G_STATIC_ASSERT(sizeof(struct vring_packed_desc) == sizeof(RawDesc));

typedef struct Used {
    uint32_t id;
    uint32_t len;
    uint16_t slot;      /* packed: where it goes */
    uint16_t flags;     /* packed */
} Used;

struct VsRing {
    const VsHost *host;
    VsRingConfig config;
    VsRingState state;
    bool started;           /* its memory may be accessed */
    bool broken;            /* but nothing more is taken from it */
    bool packed;
    bool event_idx;
    const char *error;

    Notify notify;
    /* Split: the driver's index when last loaded, and bits of its ring */
    uint16_t shadow_avail;
    uint16_t heads_first;
    uint16_t heads_count;
    uint16_t heads[HEADS];

    /*
     * Descriptors as they were after the driver published the chains that
     * refer to them: @win_count of them from @win_first.  In a packed
     * ring the first @win_avail were available on the lap of @win_wrap.
     */
    unsigned win_first;
    unsigned win_count;
    unsigned win_avail;
    bool win_wrap;
    RawDesc win[WINDOW];
    RawDesc *indirect;
    unsigned indirect_cap;

    VsSeg *seg;
    unsigned nseg;
    unsigned seg_cap;
    unsigned chain_max;

    /* Pushed, not yet shown */
    Used *pending;
    unsigned npending;
    unsigned pending_slots;
    /* Entries taken and not yet shown as used */
    unsigned out;
    uint16_t signalled_used;
    bool signalled_valid;
};

/* The driver broke a rule; what was taken before can still be returned */
static int stop_with(VsRing *ring, const char *why)
{
    ring->broken = !ring->config.lenient;
    ring->error = why;
    return -1;
}

/* Memory of the ring itself is not there */
static void fail_with(VsRing *ring, const char *why)
{
    ring->started &= ring->config.lenient;
    ring->npending = 0;
    ring->pending_slots = 0;
    ring->error = why;
}

static bool ring_load16(VsRing *ring, uint64_t addr, uint16_t *val)
{
    const VsHost *host = ring->host;

    if (!host->load16(host->opaque, ring->config.ring_asid, addr, val)) {
        fail_with(ring, "ring memory is not mapped for reading");
        return false;
    }
    *val = GUINT16_FROM_LE(*val);
    return true;
}

static bool ring_store16(VsRing *ring, uint64_t addr, uint16_t val)
{
    const VsHost *host = ring->host;

    if (!host->store16(host->opaque, ring->config.ring_asid, addr,
                       GUINT16_TO_LE(val))) {
        fail_with(ring, "ring memory is not mapped for writing");
        return false;
    }
    return true;
}

static bool ring_fetch(VsRing *ring, uint64_t addr, void *buf, size_t size)
{
    const VsHost *host = ring->host;

    if (!host->read(host->opaque, ring->config.ring_asid, addr, buf, size)) {
        fail_with(ring, "ring memory is not mapped for reading");
        return false;
    }
    return true;
}

static bool ring_write_back(VsRing *ring, uint64_t addr,
                            const void *buf, size_t size)
{
    const VsHost *host = ring->host;

    if (!host->write(host->opaque, ring->config.ring_asid, addr, buf, size)) {
        fail_with(ring, "ring memory is not mapped for writing");
        return false;
    }
    return true;
}

static uint64_t avail_flags_addr(const VsRing *ring)
{
    return ring->config.avail;
}

static uint64_t avail_idx_addr(const VsRing *ring)
{
    return ring->config.avail + 2;
}

static uint64_t avail_entry_addr(const VsRing *ring, unsigned slot)
{
    return ring->config.avail + 4 + 2 * (uint64_t)slot;
}

static uint64_t used_entry_addr(const VsRing *ring, unsigned slot)
{
    return ring->config.used + 4 + 8 * (uint64_t)slot;
}

static uint64_t desc_addr(const VsRing *ring, unsigned slot)
{
    return ring->config.desc + sizeof(RawDesc) * (uint64_t)slot;
}

static uint64_t packed_flags_addr(const VsRing *ring, unsigned slot)
{
    return desc_addr(ring, slot) + offsetof(struct vring_packed_desc, flags);
}

static Desc decode(const VsRing *ring, const RawDesc *raw)
{
    Desc d = {
        .addr = GUINT64_FROM_LE(raw->addr),
        .len = GUINT32_FROM_LE(raw->len),
        .flags = GUINT16_FROM_LE(raw->half[ring->packed ? 1 : 0]),
        .next = GUINT16_FROM_LE(raw->half[ring->packed ? 0 : 1]),
    };

    return d;
}

VsRing *vs_ring_new(const VsHost *host)
{
    VsRing *ring = g_new0(VsRing, 1);

    ring->host = host;
    ring->state.avail_wrap = true;
    ring->state.used_wrap = true;
    return ring;
}

void vs_ring_free(VsRing *ring)
{
    if (ring) {
        g_free(ring->indirect);
        g_free(ring->seg);
        g_free(ring->pending);
        g_free(ring);
    }
}

static bool spans(uint64_t addr, uint64_t size)
{
    return size - 1 <= UINT64_MAX - addr;
}

bool vs_ring_start(VsRing *ring, const VsRingConfig *config,
                   const VsRingState *state)
{
    uint64_t num = config->num;
    bool fits;

    ring->config = *config;
    ring->state = *state;
    ring->packed = config->features & (1ULL << VIRTIO_F_RING_PACKED);
    /* started by what follows; there is no lenience towards a size */
    ring->config.lenient = false;
    ring->event_idx = config->features & (1ULL << VIRTIO_RING_F_EVENT_IDX);
    ring->started = false;
    ring->broken = false;
    ring->error = NULL;
    ring->npending = 0;
    ring->pending_slots = 0;
    ring->out = 0;
    ring->nseg = 0;
    vs_ring_forget(ring);

    if (!num || num > VS_RING_MAX_NUM || (num & (num - 1))) {
        fail_with(ring, "its size is not a power of two up to 32768");
        return false;
    }
    if (ring->packed) {
        fits = spans(config->desc, 16 * num) && spans(config->avail, 4) &&
               spans(config->used, 4);
    } else {
        fits = spans(config->desc, 16 * num) &&
               spans(config->avail, 6 + 2 * num) &&
               spans(config->used, 6 + 8 * num);
    }
    if (!fits) {
        fail_with(ring, "it goes past the end of the address space");
        return false;
    }
    if ((config->avail | config->used) & 1 ||
        (ring->packed && config->desc & 1)) {
        fail_with(ring, "a part of it is at an odd address");
        return false;
    }
    if (ring->packed && (state->avail_idx >= num || state->used_idx >= num)) {
        fail_with(ring, "it was given an index past its end");
        return false;
    }

    ring->chain_max = MAX(num, VS_RING_MIN_CHAIN);
    ring->pending = g_renew(Used, ring->pending, num);
    ring->config.lenient = config->lenient && !ring->packed;
    ring->started = true;
    return true;
}

void vs_ring_stop(VsRing *ring)
{
    ring->started = false;
    ring->broken = false;
    ring->error = NULL;
    ring->npending = 0;
    ring->pending_slots = 0;
}

bool vs_ring_ok(const VsRing *ring)
{
    return ring->started && !ring->broken;
}

const char *vs_ring_error(const VsRing *ring)
{
    return ring->error;
}

void vs_ring_set_asid(VsRing *ring, uint32_t asid, uint32_t ring_asid)
{
    ring->config.asid = asid;
    ring->config.ring_asid = ring_asid;
    vs_ring_forget(ring);
}

void vs_ring_state(const VsRing *ring, VsRingState *state)
{
    *state = ring->state;
}

void vs_ring_set_state(VsRing *ring, const VsRingState *state)
{
    g_assert(!ring->npending);
    ring->state = *state;
    vs_ring_forget(ring);
    if (ring->started && ring->packed &&
        (state->avail_idx >= ring->config.num ||
         state->used_idx >= ring->config.num)) {
        fail_with(ring, "it was given an index past its end");
    }
}

void vs_ring_forget(VsRing *ring)
{
    ring->notify = NOTIFY_UNKNOWN;
    ring->shadow_avail = ring->state.avail_idx;
    ring->heads_count = 0;
    ring->win_count = 0;
    ring->win_avail = 0;
    ring->signalled_valid = false;
}

VsRingMark vs_ring_begin(VsRing *ring)
{
    VsRingMark mark = {
        .avail_idx = ring->state.avail_idx,
        .avail_wrap = ring->state.avail_wrap,
        .out = ring->out,
    };

    ring->nseg = 0;
    return mark;
}

void vs_ring_rewind(VsRing *ring, const VsRingMark *mark)
{
    ring->state.avail_idx = mark->avail_idx;
    ring->state.avail_wrap = mark->avail_wrap;
    ring->nseg = mark->nseg;
    ring->out = mark->out;
}

const VsSeg *vs_ring_seg(const VsRing *ring, unsigned i)
{
    return &ring->seg[i];
}

/* Add one descriptor's buffer to a chain; -1 if it may not follow */
static int chain_add(VsRing *ring, VsChain *chain, const Desc *d)
{
    bool writes = d->flags & VRING_DESC_F_WRITE;
    uint32_t *total = writes ? &chain->write_len : &chain->read_len;

    if (!d->len) {
        return ring->config.lenient ? 0 :
               stop_with(ring, "a buffer has no bytes");
    }
    if (!spans(d->addr, d->len)) {
        return stop_with(ring,
                         "a buffer goes past the end of the address space");
    }
    if (!writes && chain->nwrite) {
        return stop_with(ring, "a readable buffer follows a writable one");
    }
    if (chain->nread + chain->nwrite >= ring->chain_max) {
        return stop_with(ring, "a chain has too many buffers");
    }
    if (d->len > UINT32_MAX - *total) {
        return stop_with(ring, "a chain holds 4 GiB or more");
    }

    if (ring->nseg == ring->seg_cap) {
        ring->seg_cap = MAX(64, ring->seg_cap * 2);
        ring->seg = g_renew(VsSeg, ring->seg, ring->seg_cap);
    }
    ring->seg[ring->nseg].addr = d->addr;
    ring->seg[ring->nseg].len = d->len;
    ring->nseg++;
    *total += d->len;
    if (writes) {
        chain->nwrite++;
    } else {
        chain->nread++;
    }
    return 0;
}

/* The buffers of the indirect table that @d is */
static int chain_add_table(VsRing *ring, VsChain *chain, const Desc *d)
{
    const VsHost *host = ring->host;
    unsigned n = d->len / sizeof(RawDesc);
    unsigned i = 0, seen = 0;

    if (!(ring->config.features & (1ULL << VIRTIO_RING_F_INDIRECT_DESC)) &&
        !ring->config.lenient) {
        return stop_with(ring, "an indirect table was not negotiated");
    }
    if (d->flags & VRING_DESC_F_NEXT) {
        return stop_with(ring, "a descriptor follows an indirect table");
    }
    if (!n || d->len % sizeof(RawDesc)) {
        return stop_with(ring, "an indirect table has a wrong size");
    }
    if (!ring->packed && n > 65536) {
        return stop_with(ring, "an indirect table has a wrong size");
    }
    if (ring->packed && n > ring->chain_max) {
        return stop_with(ring, "a chain has too many buffers");
    }
    if (!spans(d->addr, d->len)) {
        return stop_with(ring,
                         "an indirect table goes past the end of the "
                         "address space");
    }
    /* More than the longest chain cannot be reached without a loop */
    n = MIN(n, ring->chain_max);
    if (n > ring->indirect_cap) {
        ring->indirect_cap = n;
        ring->indirect = g_renew(RawDesc, ring->indirect, n);
    }
    if (!host->read(host->opaque, ring->config.asid, d->addr,
                    ring->indirect, n * sizeof(RawDesc))) {
        return stop_with(ring, "an indirect table is not mapped");
    }

    for (;;) {
        Desc e = decode(ring, &ring->indirect[i]);

        if (e.flags & VRING_DESC_F_INDIRECT) {
            return stop_with(ring, "an indirect table within another");
        }
        if (chain_add(ring, chain, &e) < 0) {
            return -1;
        }
        if (ring->packed) {
            /* Entries follow one another; NEXT means nothing here */
            if (++i == n) {
                return 0;
            }
            continue;
        }
        if (!(e.flags & VRING_DESC_F_NEXT)) {
            return 0;
        }
        if (e.next >= n) {
            return stop_with(ring, "an indirect descriptor points past "
                             "its table");
        }
        if (++seen >= n) {
            return stop_with(ring, "an indirect chain is a loop");
        }
        i = e.next;
    }
}

/*
 * Split rings
 */

/* Load the driver's index, and start over with what was read under it */
static int split_refresh(VsRing *ring)
{
    uint16_t avail;

    if (!ring_load16(ring, avail_idx_addr(ring), &avail)) {
        return -1;
    }
    if ((uint16_t)(avail - ring->state.avail_idx) + ring->out >
        ring->config.num && !ring->config.lenient) {
        return stop_with(ring, "the available index is more than a ring "
                         "ahead");
    }
    if (avail != ring->shadow_avail) {
        ring->shadow_avail = avail;
        ring->win_count = 0;
        /* Entries already read do not change before they are used */
    }
    return avail != ring->state.avail_idx;
}

static int split_head(VsRing *ring, uint16_t *head)
{
    uint16_t idx = ring->state.avail_idx;
    uint16_t offset = idx - ring->heads_first;

    if (offset >= ring->heads_count) {
        unsigned slot = idx & (ring->config.num - 1);
        unsigned n = (uint16_t)(ring->shadow_avail - idx);
        unsigned i;

        n = MIN(n, ring->config.num - slot);
        n = MIN(n, HEADS);
        ring->heads_count = 0;
        if (!ring_fetch(ring, avail_entry_addr(ring, slot), ring->heads,
                        n * sizeof(ring->heads[0]))) {
            return -1;
        }
        for (i = 0; i < n; i++) {
            ring->heads[i] = GUINT16_FROM_LE(ring->heads[i]);
        }
        ring->heads_first = idx;
        ring->heads_count = n;
        offset = 0;
    }
    *head = ring->heads[offset];
    return 0;
}

/* A descriptor of a chain that is available */
static int split_desc(VsRing *ring, unsigned i, Desc *d)
{
    if (i - ring->win_first >= ring->win_count) {
        unsigned waiting = (uint16_t)(ring->shadow_avail -
                                      ring->state.avail_idx);
        unsigned n = CLAMP(4 * waiting, 4, WINDOW);

        n = MIN(n, ring->config.num - i);
        ring->win_count = 0;
        if (!ring_fetch(ring, desc_addr(ring, i), ring->win,
                        n * sizeof(RawDesc))) {
            return -1;
        }
        ring->win_first = i;
        ring->win_count = n;
    }
    *d = decode(ring, &ring->win[i - ring->win_first]);
    return 0;
}

static int split_pop(VsRing *ring, VsChain *chain)
{
    unsigned seen = 0;
    uint16_t i;
    Desc d;

    if (ring->shadow_avail == ring->state.avail_idx) {
        int more = split_refresh(ring);

        if (more <= 0) {
            return more;
        }
    }
    if (split_head(ring, &i) < 0) {
        return -1;
    }
    if (i >= ring->config.num) {
        return stop_with(ring, "an available descriptor is past the table");
    }
    chain->id = i;
    chain->slots = 1;
    ring->state.avail_idx++;

    for (;;) {
        if (i >= ring->config.num) {
            return stop_with(ring, "a descriptor index is past the table");
        }
        if (++seen > ring->config.num) {
            return stop_with(ring, "a descriptor chain is a loop");
        }
        if (split_desc(ring, i, &d) < 0) {
            return -1;
        }
        if (d.flags & VRING_DESC_F_INDIRECT) {
            if (chain_add_table(ring, chain, &d) < 0) {
                return -1;
            }
            break;
        }
        if (chain_add(ring, chain, &d) < 0) {
            return -1;
        }
        if (!(d.flags & VRING_DESC_F_NEXT)) {
            break;
        }
        i = d.next;
    }
    return 1;
}

static bool split_flush(VsRing *ring)
{
    uint32_t mask = ring->config.num - 1;
    uint16_t first = ring->state.used_idx - ring->npending;
    uint16_t old, flags, event;
    bool notify;
    unsigned i;

    for (i = 0; i < ring->npending;) {
        struct vring_used_elem elem[WINDOW];
        unsigned slot = (uint16_t)(first + i) & mask;
        unsigned n = MIN(ring->npending - i, ring->config.num - slot);
        unsigned k;

        n = MIN(n, WINDOW);
        for (k = 0; k < n; k++) {
            elem[k].id = GUINT32_TO_LE(ring->pending[i + k].id);
            elem[k].len = GUINT32_TO_LE(ring->pending[i + k].len);
        }
        if (!ring_write_back(ring, used_entry_addr(ring, slot), elem,
                             n * sizeof(elem[0]))) {
            ring->state.used_idx = first;
            return false;
        }
        i += n;
    }
    /* A release: whoever sees the index sees the entries */
    if (!ring_store16(ring, ring->config.used + 2, ring->state.used_idx)) {
        ring->state.used_idx = first;
        return false;
    }

    /*
     * Pairs with the barrier between a driver's asking for interrupts and
     * its last look at the used index: one of the two sees the other.
     */
    atomic_thread_fence(memory_order_seq_cst);

    if (!ring->event_idx) {
        return ring_load16(ring, avail_flags_addr(ring), &flags) &&
               !(flags & VRING_AVAIL_F_NO_INTERRUPT);
    }
    if (!ring_load16(ring, avail_entry_addr(ring, ring->config.num),
                     &event)) {
        return false;
    }
    old = ring->signalled_used;
    notify = !ring->signalled_valid ||
             vring_need_event(event, ring->state.used_idx, old);
    ring->signalled_used = ring->state.used_idx;
    ring->signalled_valid = true;
    return notify;
}

static void split_quiet(VsRing *ring)
{
    if (!ring->event_idx) {
        ring_store16(ring, ring->config.used, VRING_USED_F_NO_NOTIFY);
    } else if (ring->notify == NOTIFY_UNKNOWN) {
        /* Not asking again is enough; the flags are to be 0 */
        ring_store16(ring, ring->config.used, 0);
    }
}

static bool split_arm(VsRing *ring)
{
    Notify zero = ring->event_idx ? NOTIFY_QUIET : NOTIFY_ARMED;

    if (ring->notify != NOTIFY_ARMED && ring->notify != zero &&
        !ring_store16(ring, ring->config.used, 0)) {
        return false;
    }
    if (ring->event_idx &&
        !ring_store16(ring, used_entry_addr(ring, ring->config.num),
                      ring->state.avail_idx)) {
        return false;
    }
    /* Pairs with the driver's, between its index and its look at this */
    atomic_thread_fence(memory_order_seq_cst);
    return split_refresh(ring) > 0;
}

/*
 * Packed rings
 */

static bool packed_is_avail(uint16_t flags, bool wrap)
{
    bool avail = flags & (1 << VRING_PACKED_DESC_F_AVAIL);
    bool used = flags & (1 << VRING_PACKED_DESC_F_USED);

    return avail == wrap && used != wrap;
}

/* 1 if the descriptor at the available index starts a chain, and cached */
static int packed_refresh(VsRing *ring)
{
    unsigned slot = ring->state.avail_idx;
    bool wrap = ring->state.avail_wrap;
    unsigned n, i;
    uint16_t flags;

    if (ring->win_wrap == wrap &&
        slot - ring->win_first < ring->win_avail) {
        return 1;
    }
    if (!ring_load16(ring, packed_flags_addr(ring, slot), &flags)) {
        return -1;
    }
    if (!packed_is_avail(flags, wrap)) {
        return 0;
    }

    /*
     * The copy of a descriptor may be older than the flags beside it.
     * So read twice: flags seen in the first copy vouch for the second.
     */
    n = MIN(WINDOW, ring->config.num - slot);
    ring->win_count = 0;
    ring->win_avail = 0;
    if (!ring_fetch(ring, desc_addr(ring, slot), ring->win,
                    n * sizeof(RawDesc))) {
        return -1;
    }
    for (i = 1; i < n; i++) {
        Desc d = decode(ring, &ring->win[i]);

        if (!packed_is_avail(d.flags, wrap)) {
            break;
        }
    }
    atomic_thread_fence(memory_order_acquire);
    if (!ring_fetch(ring, desc_addr(ring, slot), ring->win,
                    i * sizeof(RawDesc))) {
        return -1;
    }
    ring->win_first = slot;
    ring->win_count = i;
    ring->win_avail = i;
    ring->win_wrap = wrap;
    return 1;
}

static int packed_pop(VsRing *ring, VsChain *chain)
{
    unsigned slot = ring->state.avail_idx;
    bool wrap = ring->state.avail_wrap;
    unsigned seen = 0;
    int more = packed_refresh(ring);
    Desc d;

    if (more <= 0) {
        return more;
    }

    for (;;) {
        if (++seen > ring->config.num) {
            return stop_with(ring, "a descriptor chain is a loop");
        }
        if (wrap == ring->win_wrap &&
            slot - ring->win_first < ring->win_count) {
            d = decode(ring, &ring->win[slot - ring->win_first]);
        } else {
            RawDesc raw;

            if (!ring_fetch(ring, desc_addr(ring, slot), &raw, sizeof(raw))) {
                return -1;
            }
            d = decode(ring, &raw);
        }
        if (++slot == ring->config.num) {
            slot = 0;
            wrap = !wrap;
        }
        if (d.flags & VRING_DESC_F_INDIRECT) {
            if (chain_add_table(ring, chain, &d) < 0) {
                return -1;
            }
            break;
        }
        if (chain_add(ring, chain, &d) < 0) {
            return -1;
        }
        if (!(d.flags & VRING_DESC_F_NEXT)) {
            break;
        }
    }
    if (seen > ring->config.num - ring->out) {
        return stop_with(ring, "an entry is available again before it was "
                         "used");
    }
    /* The last descriptor's is the buffer id of the chain */
    chain->id = d.next;
    chain->slots = seen;
    ring->state.avail_idx = slot;
    ring->state.avail_wrap = wrap;
    return 1;
}

static void packed_push(VsRing *ring, Used *used, const VsChain *chain)
{
    VsRingState *s = &ring->state;
    uint16_t flags = used->len ? VRING_DESC_F_WRITE : 0;

    if (s->used_wrap) {
        flags |= 1 << VRING_PACKED_DESC_F_AVAIL;
        flags |= 1 << VRING_PACKED_DESC_F_USED;
    }
    used->slot = s->used_idx;
    used->flags = flags;

    if (chain->slots >= ring->config.num - s->used_idx) {
        s->used_idx -= ring->config.num - chain->slots;
        s->used_wrap = !s->used_wrap;
    } else {
        s->used_idx += chain->slots;
    }
}

static bool packed_flush(VsRing *ring)
{
    unsigned i = ring->npending;
    uint16_t flags, event;
    uint16_t new, old;

    /*
     * A driver looks at used descriptors in order, so all but the first
     * may be complete before the first is; its flags come last of all.
     */
    while (i--) {
        const Used *used = &ring->pending[i];
        struct vring_packed_desc desc = {
            .len = GUINT32_TO_LE(used->len),
            .id = GUINT16_TO_LE(used->id),
            .flags = GUINT16_TO_LE(used->flags),
        };
        size_t from = offsetof(struct vring_packed_desc, len);
        size_t size = sizeof(desc) - from - (i ? 0 : sizeof(desc.flags));

        if (!ring_write_back(ring, desc_addr(ring, used->slot) + from,
                             (uint8_t *)&desc + from, size)) {
            return false;
        }
    }
    if (!ring_store16(ring, packed_flags_addr(ring, ring->pending[0].slot),
                      ring->pending[0].flags)) {
        return false;
    }

    /* As for split rings */
    atomic_thread_fence(memory_order_seq_cst);

    if (!ring_load16(ring, ring->config.avail + 2, &flags)) {
        return false;
    }
    if (flags == VRING_PACKED_EVENT_FLAG_DISABLE) {
        return false;
    }
    if (flags != VRING_PACKED_EVENT_FLAG_DESC || !ring->event_idx) {
        return true;
    }
    if (!ring_load16(ring, ring->config.avail, &event)) {
        return false;
    }
    new = ring->state.used_idx;
    old = new - ring->pending_slots;
    /* Count the event's slot on the lap that the used index is on */
    if (event >> VRING_PACKED_EVENT_F_WRAP_CTR == ring->state.used_wrap) {
        event &= (1 << VRING_PACKED_EVENT_F_WRAP_CTR) - 1;
    } else {
        event &= (1 << VRING_PACKED_EVENT_F_WRAP_CTR) - 1;
        event -= ring->config.num;
    }
    return !ring->signalled_valid || vring_need_event(event, new, old);
}

static void packed_quiet(VsRing *ring)
{
    ring_store16(ring, ring->config.used + 2,
                 VRING_PACKED_EVENT_FLAG_DISABLE);
}

static bool packed_arm(VsRing *ring)
{
    uint16_t flags = VRING_PACKED_EVENT_FLAG_ENABLE;

    if (ring->event_idx) {
        uint16_t at = ring->state.avail_idx |
                      ring->state.avail_wrap << VRING_PACKED_EVENT_F_WRAP_CTR;

        if (!ring_store16(ring, ring->config.used, at)) {
            return false;
        }
        flags = VRING_PACKED_EVENT_FLAG_DESC;
    }
    if (ring->notify != NOTIFY_ARMED &&
        !ring_store16(ring, ring->config.used + 2, flags)) {
        return false;
    }
    /* As for split rings */
    atomic_thread_fence(memory_order_seq_cst);
    return packed_refresh(ring) > 0;
}

/*
 * Both
 */

int vs_ring_pop(VsRing *ring, VsChain *chain)
{
    VsRingMark mark = {
        .avail_idx = ring->state.avail_idx,
        .avail_wrap = ring->state.avail_wrap,
        .nseg = ring->nseg,
        .out = ring->out,
    };
    int ret;

    if (!vs_ring_ok(ring)) {
        return -1;
    }
    memset(chain, 0, sizeof(*chain));
    chain->seg = ring->nseg;
    ret = ring->packed ? packed_pop(ring, chain) : split_pop(ring, chain);
    if (ring->config.lenient) {
        /* what was taken stays so; what is lost would be out for ever */
        return ret;
    }
    if (ret <= 0) {
        vs_ring_rewind(ring, &mark);
    } else {
        ring->out += chain->slots;
    }
    return ret;
}

static bool chain_copy(VsRing *ring, unsigned seg, unsigned n,
                       uint32_t offset, void *in, const void *out,
                       uint32_t size)
{
    const VsHost *host = ring->host;
    uint32_t asid = ring->config.asid;
    unsigned i;

    for (i = seg; size && i < seg + n; i++) {
        const VsSeg *s = &ring->seg[i];
        uint64_t addr = s->addr + offset;
        uint32_t len;

        if (offset >= s->len) {
            offset -= s->len;
            continue;
        }
        len = MIN(size, s->len - offset);
        offset = 0;
        if (in) {
            if (!host->read(host->opaque, asid, addr, in, len)) {
                return false;
            }
            in = (uint8_t *)in + len;
        } else {
            if (!host->write(host->opaque, asid, addr, out, len)) {
                return false;
            }
            out = (const uint8_t *)out + len;
        }
        size -= len;
    }
    return size == 0;
}

bool vs_ring_read(VsRing *ring, const VsChain *chain, uint32_t offset,
                  void *buf, uint32_t size)
{
    return chain_copy(ring, chain->seg, chain->nread, offset, buf, NULL,
                      size);
}

bool vs_ring_write(VsRing *ring, const VsChain *chain, uint32_t offset,
                   const void *buf, uint32_t size)
{
    return chain_copy(ring, chain->seg + chain->nread, chain->nwrite, offset,
                      NULL, buf, size);
}

void vs_ring_push(VsRing *ring, const VsChain *chain, uint32_t written)
{
    Used *used;

    if (!ring->started) {
        return;
    }
    /* Holds as vs_ring_pop() never lets more than a ring of them out */
    g_assert(ring->npending < ring->config.num);
    used = &ring->pending[ring->npending++];
    used->id = chain->id;
    used->len = written;
    if (ring->packed) {
        packed_push(ring, used, chain);
    } else {
        ring->state.used_idx++;
    }
    ring->pending_slots += chain->slots;
}

bool vs_ring_flush(VsRing *ring)
{
    bool notify;

    if (!ring->started || !ring->npending) {
        return false;
    }
    if (ring->packed) {
        notify = packed_flush(ring);
        ring->signalled_valid = true;
    } else {
        notify = split_flush(ring);
    }
    if (!ring->config.lenient) {
        ring->out -= ring->pending_slots;
    }
    ring->npending = 0;
    ring->pending_slots = 0;
    return notify;
}

void vs_ring_quiet(VsRing *ring)
{
    if (!vs_ring_ok(ring) || ring->notify == NOTIFY_QUIET) {
        return;
    }
    if (ring->packed) {
        packed_quiet(ring);
    } else {
        split_quiet(ring);
    }
    ring->notify = NOTIFY_QUIET;
}

bool vs_ring_arm(VsRing *ring)
{
    bool more;

    if (!vs_ring_ok(ring)) {
        return false;
    }
    more = ring->packed ? packed_arm(ring) : split_arm(ring);
    ring->notify = NOTIFY_ARMED;
    return more;
}
