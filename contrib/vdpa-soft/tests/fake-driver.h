/*
 * vdpa-soft: the driver's side of a virtqueue, and memory for it
 *
 * For tests.  The driver keeps every rule of the specification itself, and
 * asserts that the device does; it chooses its descriptors at random so
 * that nothing can rely on their order.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_FAKE_DRIVER_H
#define VDPA_SOFT_FAKE_DRIVER_H

#include <glib.h>
#include <pthread.h>
#include <string.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "../ring.h"

#define FEATURE(bit) (1ULL << (bit))

/* Device addresses of the arena's first byte, and address spaces it has */
#define ARENA_BASE 0x7fff00000000ULL
#define ARENA_ASIDS 2

/* Most buffers in a chain of the fake driver */
#define DRV_SEGS 8

typedef struct Arena {
    pthread_mutex_t lock;
    size_t size;
    size_t brk;
    unsigned faults;
    unsigned accesses;      /* by the device */
    bool frozen;            /* the device must not access it now */
    /* What the device may not write, to catch it */
    uint64_t ro_first, ro_last;
    uint8_t *mem;
} Arena;

static inline void arena_init(Arena *a, size_t size)
{
    memset(a, 0, sizeof(*a));
    pthread_mutex_init(&a->lock, NULL);
    a->size = size;
    a->mem = g_malloc0(size);
    a->ro_first = UINT64_MAX;
}

static inline void arena_destroy(Arena *a)
{
    g_free(a->mem);
    pthread_mutex_destroy(&a->lock);
}

/* Zeroed memory, also where some was given back by lowering @brk */
static inline uint64_t arena_alloc(Arena *a, size_t size, size_t align)
{
    uint64_t addr;

    a->brk = (a->brk + align - 1) & ~(align - 1);
    addr = ARENA_BASE + a->brk;
    a->brk += size;
    g_assert_cmpuint(a->brk, <=, a->size);
    pthread_mutex_lock(&a->lock);
    memset(a->mem + (addr - ARENA_BASE), 0, size);
    pthread_mutex_unlock(&a->lock);
    return addr;
}

static inline bool arena_range(Arena *a, uint32_t asid, uint64_t iova,
                               size_t size)
{
    if (asid >= ARENA_ASIDS || iova < ARENA_BASE ||
        iova - ARENA_BASE > a->size ||
        size > a->size - (iova - ARENA_BASE)) {
        a->faults++;
        return false;
    }
    return true;
}

/* The driver's own accesses */

static inline void arena_get(Arena *a, uint64_t addr, void *buf, size_t size)
{
    pthread_mutex_lock(&a->lock);
    g_assert(arena_range(a, 0, addr, size));
    memcpy(buf, a->mem + (addr - ARENA_BASE), size);
    pthread_mutex_unlock(&a->lock);
}

static inline void arena_put(Arena *a, uint64_t addr, const void *buf,
                             size_t size)
{
    pthread_mutex_lock(&a->lock);
    g_assert(arena_range(a, 0, addr, size));
    if (size) {
        memcpy(a->mem + (addr - ARENA_BASE), buf, size);
    }
    pthread_mutex_unlock(&a->lock);
}

static inline uint16_t arena_get16(Arena *a, uint64_t addr)
{
    uint16_t val;

    arena_get(a, addr, &val, sizeof(val));
    return GUINT16_FROM_LE(val);
}

static inline void arena_put16(Arena *a, uint64_t addr, uint16_t val)
{
    val = GUINT16_TO_LE(val);
    arena_put(a, addr, &val, sizeof(val));
}

/* The device's, for struct VsHost; @opaque is the arena */

static inline bool arena_dma(Arena *a, uint32_t asid, uint64_t iova,
                             void *in, const void *out, size_t size)
{
    bool ok;

    pthread_mutex_lock(&a->lock);
    g_assert_false(a->frozen);
    a->accesses++;
    ok = arena_range(a, asid, iova, size);
    if (ok && in) {
        memcpy(in, a->mem + (iova - ARENA_BASE), size);
    } else if (ok && out) {
        g_assert(iova > a->ro_last || iova + size <= a->ro_first ||
                 a->ro_first > a->ro_last);
        memcpy(a->mem + (iova - ARENA_BASE), out, size);
    }
    pthread_mutex_unlock(&a->lock);
    return ok;
}

static inline bool arena_host_read(void *opaque, uint32_t asid, uint64_t iova,
                                   void *buf, size_t size)
{
    return arena_dma(opaque, asid, iova, buf, NULL, size);
}

static inline bool arena_host_write(void *opaque, uint32_t asid,
                                    uint64_t iova, const void *buf,
                                    size_t size)
{
    return arena_dma(opaque, asid, iova, NULL, buf, size);
}

static inline bool arena_host_load16(void *opaque, uint32_t asid,
                                     uint64_t iova, uint16_t *val)
{
    g_assert_cmpuint(iova % 2, ==, 0);
    return arena_dma(opaque, asid, iova, val, NULL, sizeof(*val));
}

static inline bool arena_host_store16(void *opaque, uint32_t asid,
                                      uint64_t iova, uint16_t val)
{
    g_assert_cmpuint(iova % 2, ==, 0);
    return arena_dma(opaque, asid, iova, NULL, &val, sizeof(val));
}

/* One element that the driver made available */
typedef struct DrvElem {
    bool busy;
    unsigned token;
    unsigned ndesc;         /* ring entries it occupies */
    uint16_t desc[DRV_SEGS];
    uint64_t table;         /* indirect, or 0 */
} DrvElem;

typedef struct Drv {
    Arena *arena;
    GRand *rand;
    uint64_t features;
    bool packed;
    bool event_idx;
    unsigned num;
    uint64_t desc, avail, used;
    uint64_t tables;        /* one indirect table for each element */

    DrvElem *elem;          /* by head (split) or buffer id (packed) */
    uint16_t *free;
    unsigned nfree;
    unsigned nids;          /* packed: free ids at the front of @ids */
    uint16_t *ids;
    uint64_t added;         /* entries since the start; absolute */
    uint64_t taken;
    uint64_t kick_old;      /* @added at the last kick decision */
    uint16_t start;         /* index of absolute 0 */
} Drv;

static inline uint64_t drv_desc(const Drv *d, unsigned i)
{
    return d->desc + 16 * i;
}

/* Where absolute position @pos is in a packed ring, and on which lap */
static inline unsigned drv_slot(const Drv *d, uint64_t pos)
{
    return (d->start + pos) % d->num;
}

static inline bool drv_wrap(const Drv *d, uint64_t pos)
{
    return !((d->start + pos) / d->num % 2);
}

/**
 * drv_init() - lay out a ring in the arena
 * @start: index to begin at; below @num for a packed ring
 */
static inline void drv_init(Drv *d, Arena *arena, GRand *rand,
                            uint64_t features, unsigned num, uint16_t start)
{
    unsigned i;

    memset(d, 0, sizeof(*d));
    d->arena = arena;
    d->rand = rand;
    d->features = features;
    d->packed = features & FEATURE(VIRTIO_F_RING_PACKED);
    d->event_idx = features & FEATURE(VIRTIO_RING_F_EVENT_IDX);
    d->num = num;
    d->start = start;
    d->desc = arena_alloc(arena, 16 * num, 16);
    d->avail = arena_alloc(arena, d->packed ? 4 : 6 + 2 * num, 4);
    d->used = arena_alloc(arena, d->packed ? 4 : 6 + 8 * num, 4);
    d->tables = arena_alloc(arena, 16 * DRV_SEGS * num, 16);
    d->elem = g_new0(DrvElem, num);
    d->free = g_new0(uint16_t, num);
    d->ids = g_new0(uint16_t, num);
    d->nfree = num;
    d->nids = num;
    for (i = 0; i < num; i++) {
        d->free[i] = i;
        d->ids[i] = i;
    }
    if (d->packed) {
        /* Those before the start were used on this lap */
        for (i = 0; i < start; i++) {
            arena_put16(arena, drv_desc(d, i) + 14,
                        1 << VRING_PACKED_DESC_F_AVAIL |
                        1 << VRING_PACKED_DESC_F_USED);
        }
    } else {
        arena_put16(arena, d->avail + 2, start);
        arena_put16(arena, d->used + 2, start);
        if (d->event_idx) {
            arena_put16(arena, d->avail + 4 + 2 * num, start);
            arena_put16(arena, d->used + 4 + 8 * num, start);
        }
    }
}

static inline void drv_destroy(Drv *d)
{
    g_free(d->elem);
    g_free(d->free);
    g_free(d->ids);
}

static inline VsRingConfig drv_config(const Drv *d)
{
    return (VsRingConfig) {
        .features = d->features,
        .num = d->num,
        .desc = d->desc,
        .avail = d->avail,
        .used = d->used,
    };
}

static inline VsRingState drv_state(const Drv *d)
{
    return (VsRingState) {
        .avail_idx = d->start,
        .used_idx = d->start,
        .avail_wrap = true,
        .used_wrap = true,
    };
}

static inline uint16_t drv_take_random(Drv *d, uint16_t *from, unsigned *n)
{
    unsigned i = g_rand_int_range(d->rand, 0, *n);
    uint16_t val = from[i];

    from[i] = from[--*n];
    return val;
}

static inline void drv_put_desc(Drv *d, uint64_t at, uint64_t addr,
                                uint32_t len, uint16_t a, uint16_t b)
{
    struct {
        uint64_t addr;
        uint32_t len;
        uint16_t half[2];
    } raw = {
        .addr = GUINT64_TO_LE(addr),
        .len = GUINT32_TO_LE(len),
        .half = { GUINT16_TO_LE(a), GUINT16_TO_LE(b) },
    };

    arena_put(d->arena, at, &raw, sizeof(raw));
}

/* Descriptor of either layout: @next is the buffer id if packed */
static inline void drv_put(Drv *d, uint64_t at, uint64_t addr, uint32_t len,
                           uint16_t flags, uint16_t next)
{
    if (d->packed) {
        drv_put_desc(d, at, addr, len, next, flags);
    } else {
        drv_put_desc(d, at, addr, len, flags, next);
    }
}

static inline uint16_t drv_packed_flags(const Drv *d, uint64_t pos)
{
    return drv_wrap(d, pos) ? 1 << VRING_PACKED_DESC_F_AVAIL
                            : 1 << VRING_PACKED_DESC_F_USED;
}

static inline bool drv_room(const Drv *d, unsigned nseg, bool indirect)
{
    unsigned need = indirect ? 1 : nseg;

    return d->nfree >= need && (!d->packed || d->nids);
}

/**
 * drv_add() - make a chain available
 * @seg: @nread readable segments followed by @nwrite writable ones
 * @token: what drv_get() is to return
 */
static inline void drv_add(Drv *d, const VsSeg *seg, unsigned nread,
                           unsigned nwrite, unsigned token, bool indirect)
{
    unsigned n = nread + nwrite;
    unsigned slots = indirect ? 1 : n;
    uint16_t desc[DRV_SEGS];
    DrvElem *e;
    uint16_t id;
    unsigned i;

    g_assert(n && n <= DRV_SEGS && drv_room(d, n, indirect));
    if (d->packed) {
        id = drv_take_random(d, d->ids, &d->nids);
        d->nfree -= slots;
    } else {
        for (i = 0; i < slots; i++) {
            desc[i] = drv_take_random(d, d->free, &d->nfree);
        }
        id = desc[0];
    }
    e = &d->elem[id];
    g_assert_false(e->busy);
    e->busy = true;
    e->token = token;
    e->ndesc = slots;
    memcpy(e->desc, desc, sizeof(desc));

    if (indirect) {
        uint64_t table = d->tables + 16 * DRV_SEGS * id;
        /* Split tables may be linked in any order, but begin at 0 */
        bool backwards = !d->packed && n > 2 && g_rand_boolean(d->rand);

        for (i = 0; i < n; i++) {
            unsigned at = backwards && i ? n - i : i;
            unsigned next = backwards ? n - 1 - i : i + 1;
            uint16_t flags = i < nread ? 0 : VRING_DESC_F_WRITE;

            if (!d->packed && i + 1 < n) {
                flags |= VRING_DESC_F_NEXT;
            }
            drv_put(d, table + 16 * at, seg[i].addr, seg[i].len, flags,
                    d->packed ? 0 : next);
        }
        if (d->packed) {
            drv_put(d, drv_desc(d, drv_slot(d, d->added)), table, 16 * n,
                    VRING_DESC_F_INDIRECT | drv_packed_flags(d, d->added),
                    id);
        } else {
            drv_put(d, drv_desc(d, id), table, 16 * n, VRING_DESC_F_INDIRECT,
                    0);
        }
    } else {
        /* The first of a packed chain last: its flags publish it */
        for (i = n; i-- > 0;) {
            uint16_t flags = i < nread ? 0 : VRING_DESC_F_WRITE;

            if (i + 1 < n) {
                flags |= VRING_DESC_F_NEXT;
            }
            if (d->packed) {
                uint64_t pos = d->added + i;

                drv_put(d, drv_desc(d, drv_slot(d, pos)), seg[i].addr,
                        seg[i].len, flags | drv_packed_flags(d, pos), id);
            } else {
                drv_put(d, drv_desc(d, desc[i]), seg[i].addr, seg[i].len,
                        flags, i + 1 < n ? desc[i + 1] : 0);
            }
        }
    }
    if (d->packed) {
        d->added += slots;
    } else {
        uint16_t idx = d->start + d->added;

        arena_put16(d->arena, d->avail + 4 + 2 * (idx % d->num), id);
        d->added++;
        arena_put16(d->arena, d->avail + 2, idx + 1);
    }
}

/* Whether what was added since the last call asks for a doorbell */
static inline bool drv_needs_kick(Drv *d)
{
    uint64_t from = d->kick_old;

    d->kick_old = d->added;
    if (from == d->added) {
        return false;
    }
    if (d->packed) {
        uint16_t flags = arena_get16(d->arena, d->used + 2);
        uint16_t event = arena_get16(d->arena, d->used);
        uint64_t pos;

        g_assert_cmpuint(flags, <=, VRING_PACKED_EVENT_FLAG_DESC);
        if (flags != VRING_PACKED_EVENT_FLAG_DESC) {
            return flags == VRING_PACKED_EVENT_FLAG_ENABLE;
        }
        g_assert(d->event_idx);
        g_assert_cmpuint(event & 0x7fff, <, d->num);
        for (pos = from; pos < d->added; pos++) {
            if (drv_slot(d, pos) == (event & 0x7fff) &&
                drv_wrap(d, pos) == event >> 15) {
                return true;
            }
        }
        return false;
    }
    if (d->event_idx) {
        uint16_t event = arena_get16(d->arena, d->used + 4 + 8 * d->num);

        g_assert_cmpuint(arena_get16(d->arena, d->used), ==, 0);
        return vring_need_event(event, d->start + d->added, d->start + from);
    }
    return !(arena_get16(d->arena, d->used) & VRING_USED_F_NO_NOTIFY);
}

/**
 * drv_get() - take the next used element
 *
 * Asserts that the device returned something it had been given.
 */
static inline bool drv_get(Drv *d, unsigned *token, uint32_t *len)
{
    DrvElem *e;
    uint32_t id;
    unsigned i;

    if (d->packed) {
        uint64_t at = drv_desc(d, drv_slot(d, d->taken));
        uint16_t flags = arena_get16(d->arena, at + 14);
        bool wrap = drv_wrap(d, d->taken);

        if (!!(flags & 1 << VRING_PACKED_DESC_F_AVAIL) != wrap ||
            !!(flags & 1 << VRING_PACKED_DESC_F_USED) != wrap) {
            return false;
        }
        id = arena_get16(d->arena, at + 12);
        arena_get(d->arena, at + 8, len, sizeof(*len));
        *len = GUINT32_FROM_LE(*len);
        g_assert_cmpuint(!!(flags & VRING_DESC_F_WRITE), ==, *len > 0);
    } else {
        struct vring_used_elem elem;
        uint16_t idx = d->start + d->taken;

        if (arena_get16(d->arena, d->used + 2) == idx) {
            return false;
        }
        arena_get(d->arena, d->used + 4 + 8 * (idx % d->num), &elem,
                  sizeof(elem));
        id = GUINT32_FROM_LE(elem.id);
        *len = GUINT32_FROM_LE(elem.len);
    }
    g_assert_cmpuint(id, <, d->num);
    e = &d->elem[id];
    g_assert_true(e->busy);
    e->busy = false;
    *token = e->token;
    if (d->packed) {
        d->taken += e->ndesc;
        d->nfree += e->ndesc;
        d->ids[d->nids++] = id;
    } else {
        d->taken++;
        for (i = 0; i < e->ndesc; i++) {
            d->free[d->nfree++] = e->desc[i];
        }
    }
    return true;
}

/* Ask for an interrupt when absolute position @pos was used, or for none */
static inline void drv_want_interrupt(Drv *d, bool want, uint64_t pos)
{
    if (d->packed) {
        if (!want) {
            arena_put16(d->arena, d->avail + 2,
                        VRING_PACKED_EVENT_FLAG_DISABLE);
        } else if (!d->event_idx) {
            arena_put16(d->arena, d->avail + 2,
                        VRING_PACKED_EVENT_FLAG_ENABLE);
        } else {
            arena_put16(d->arena, d->avail,
                        drv_slot(d, pos) | drv_wrap(d, pos) << 15);
            arena_put16(d->arena, d->avail + 2,
                        VRING_PACKED_EVENT_FLAG_DESC);
        }
    } else if (d->event_idx) {
        /* "None" is a position that was passed */
        arena_put16(d->arena, d->avail + 4 + 2 * d->num,
                    d->start + (want ? pos : d->taken - 1));
    } else {
        arena_put16(d->arena, d->avail,
                    want ? 0 : VRING_AVAIL_F_NO_INTERRUPT);
    }
}

#endif
