/*
 * vdpa-soft: tests of the device's side of a virtqueue
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "fake-driver.h"

#define SEG_MAX 300
#define STEPS 6000

static VsHost arena_host(Arena *a)
{
    return (VsHost) {
        .opaque = a,
        .read = arena_host_read,
        .write = arena_host_write,
        .load16 = arena_host_load16,
        .store16 = arena_host_store16,
    };
}

/*
 * Random histories against a model
 */

typedef struct Buffer {
    bool busy;              /* the driver gave it and did not get it back */
    VsSeg seg[DRV_SEGS];
    unsigned nread, nwrite;
    uint32_t read_len, write_len;
    uint8_t out[DRV_SEGS * SEG_MAX];    /* what the device is to read */
    uint8_t in[DRV_SEGS * SEG_MAX];     /* what it wrote */
    uint32_t written;
} Buffer;

typedef struct History {
    Arena arena;
    VsHost host;
    GRand *rand;
    Drv drv;
    VsRing *ring;
    bool indirect;
    Buffer *buffer;         /* by token */

    /* Tokens in the order they were made available */
    unsigned *fifo;
    unsigned given, popped;

    /* Popped, not pushed: chain and token */
    VsChain *held;
    unsigned *held_token;
    unsigned nheld;

    /* Pushed tokens in order; those before @shown were flushed */
    unsigned *pushed;
    unsigned npushed, shown, got;

    /* The same in ring entries, which events count in */
    uint64_t pushed_entries, shown_entries;
    bool signalled;

    enum { WANT_ALL, WANT_NONE, WANT_AT } want;
    uint64_t want_at;

    enum { KICK_UNKNOWN, KICK_NEVER, KICK_NEXT } kick;
} History;

static const uint64_t wire_features =
    FEATURE(VIRTIO_F_VERSION_1) | FEATURE(VIRTIO_F_ACCESS_PLATFORM);

static void history_init(History *h, uint64_t features, unsigned num,
                         uint32_t seed)
{
    VsRingConfig config;
    VsRingState state;
    uint16_t start;
    unsigned t, i;

    memset(h, 0, sizeof(*h));
    h->rand = g_rand_new_with_seed(seed);
    arena_init(&h->arena, 65536 + num * (DRV_SEGS * (SEG_MAX + 16) + 256));
    h->host = arena_host(&h->arena);
    /* Indices pass 65535, and the end of a packed ring, early */
    if (features & FEATURE(VIRTIO_F_RING_PACKED)) {
        start = g_rand_int_range(h->rand, 0, num);
    } else {
        start = g_rand_int_range(h->rand, 65536 - STEPS / 8, 65536);
    }
    drv_init(&h->drv, &h->arena, h->rand, features, num, start);
    h->indirect = features & FEATURE(VIRTIO_RING_F_INDIRECT_DESC);
    h->buffer = g_new0(Buffer, num);
    for (t = 0; t < num; t++) {
        for (i = 0; i < DRV_SEGS; i++) {
            h->buffer[t].seg[i].addr = arena_alloc(&h->arena, SEG_MAX, 1);
        }
    }
    h->fifo = g_new0(unsigned, STEPS);
    h->held = g_new0(VsChain, num);
    h->held_token = g_new0(unsigned, num);
    h->pushed = g_new0(unsigned, STEPS);
    h->ring = vs_ring_new(&h->host);
    config = drv_config(&h->drv);
    state = drv_state(&h->drv);
    g_assert_true(vs_ring_start(h->ring, &config, &state));
}

static void history_destroy(History *h)
{
    vs_ring_free(h->ring);
    drv_destroy(&h->drv);
    arena_destroy(&h->arena);
    g_free(h->buffer);
    g_free(h->fifo);
    g_free(h->held);
    g_free(h->held_token);
    g_free(h->pushed);
    g_rand_free(h->rand);
}

static void step_add(History *h)
{
    bool indirect = h->indirect && g_rand_boolean(h->rand);
    unsigned n = g_rand_int_range(h->rand, 1,
                                  MIN(DRV_SEGS, h->drv.num) + 1);
    unsigned i, t;
    bool kick;
    Buffer *b;

    if (h->given == STEPS || !drv_room(&h->drv, n, indirect)) {
        return;
    }
    for (t = 0; h->buffer[t].busy; t++) {
        /* As there is room for a chain, a buffer is free */
    }
    b = &h->buffer[t];
    b->busy = true;
    b->nread = g_rand_int_range(h->rand, 0, n + 1);
    b->nwrite = n - b->nread;
    b->read_len = 0;
    b->write_len = 0;
    b->written = 0;
    for (i = 0; i < n; i++) {
        VsSeg *s = &b->seg[i];
        uint8_t bytes[SEG_MAX];
        unsigned k;

        s->len = g_rand_int_range(h->rand, 1, SEG_MAX + 1);
        for (k = 0; k < s->len; k++) {
            bytes[k] = i < b->nread ? g_rand_int(h->rand) : 0xee;
        }
        arena_put(&h->arena, s->addr, bytes, s->len);
        if (i < b->nread) {
            memcpy(b->out + b->read_len, bytes, s->len);
            b->read_len += s->len;
        } else {
            b->write_len += s->len;
        }
    }
    drv_add(&h->drv, b->seg, b->nread, b->nwrite, t, indirect);
    h->fifo[h->given++] = t;

    kick = drv_needs_kick(&h->drv);
    if (h->kick == KICK_NEXT) {
        g_assert_true(kick);
    } else if (h->kick == KICK_NEVER) {
        g_assert_false(kick);
    }
    if (h->kick == KICK_NEXT && h->drv.event_idx) {
        h->kick = KICK_UNKNOWN;
    }
}

static void check_chain(History *h, const VsChain *chain, const Buffer *b)
{
    unsigned i;

    g_assert_cmpuint(chain->nread, ==, b->nread);
    g_assert_cmpuint(chain->nwrite, ==, b->nwrite);
    g_assert_cmpuint(chain->read_len, ==, b->read_len);
    g_assert_cmpuint(chain->write_len, ==, b->write_len);
    for (i = 0; i < b->nread + b->nwrite; i++) {
        const VsSeg *s = vs_ring_seg(h->ring, chain->seg + i);

        g_assert_cmpuint(s->addr, ==, b->seg[i].addr);
        g_assert_cmpuint(s->len, ==, b->seg[i].len);
    }
}

/* Read all in pieces, and write some of it */
static void use_chain(History *h, const VsChain *chain, Buffer *b)
{
    uint8_t bytes[DRV_SEGS * SEG_MAX];
    uint32_t at, size;

    for (at = 0; at < b->read_len; at += size) {
        size = g_rand_int_range(h->rand, 1, b->read_len - at + 1);
        g_assert_true(vs_ring_read(h->ring, chain, at, bytes, size));
        g_assert_cmpmem(bytes, size, b->out + at, size);
    }
    g_assert_false(vs_ring_read(h->ring, chain, 1, bytes,
                                b->read_len ? b->read_len : 1));
    if (b->write_len) {
        b->written = g_rand_int_range(h->rand, 0, b->write_len + 1);
    }
    for (at = 0; at < b->written; at++) {
        b->in[at] = g_rand_int(h->rand);
    }
    for (at = 0; at < b->written; at += size) {
        size = g_rand_int_range(h->rand, 1, b->written - at + 1);
        g_assert_true(vs_ring_write(h->ring, chain, at, b->in + at, size));
    }
    g_assert_false(vs_ring_write(h->ring, chain, b->write_len, bytes, 1));
}

static void step_pop(History *h)
{
    unsigned waiting = h->given - h->popped;
    unsigned n = g_rand_int_range(h->rand, 1, 5);
    bool undo = g_rand_int_range(h->rand, 0, 4) == 0;
    VsRingMark mark = vs_ring_begin(h->ring);
    VsRingState before, after;
    VsChain chain[5];
    unsigned i;

    vs_ring_state(h->ring, &before);
    for (i = 0; i < n; i++) {
        int ret = vs_ring_pop(h->ring, &chain[i]);

        g_assert_cmpint(ret, ==, i < waiting);
        if (!ret) {
            break;
        }
    }
    n = i;
    /* Segments of all chains since the mark are there */
    for (i = 0; i < n; i++) {
        check_chain(h, &chain[i], &h->buffer[h->fifo[h->popped + i]]);
    }
    if (undo) {
        vs_ring_rewind(h->ring, &mark);
        vs_ring_state(h->ring, &after);
        g_assert_cmpuint(before.avail_idx, ==, after.avail_idx);
        g_assert_cmpuint(before.avail_wrap, ==, after.avail_wrap);
        return;
    }
    for (i = 0; i < n; i++) {
        unsigned t = h->fifo[h->popped++];

        use_chain(h, &chain[i], &h->buffer[t]);
        h->held[h->nheld] = chain[i];
        h->held_token[h->nheld++] = t;
    }
}

static void step_push(History *h)
{
    unsigned i, t;

    if (!h->nheld) {
        return;
    }
    i = g_rand_int_range(h->rand, 0, h->nheld);
    t = h->held_token[i];
    vs_ring_push(h->ring, &h->held[i], h->buffer[t].written);
    h->pushed_entries += h->held[i].slots;
    h->pushed[h->npushed++] = t;
    h->nheld--;
    h->held[i] = h->held[h->nheld];
    h->held_token[i] = h->held_token[h->nheld];
}

static void step_flush(History *h)
{
    bool any = h->npushed > h->shown;
    bool expect = false;
    bool notify = vs_ring_flush(h->ring);

    if (any && h->want == WANT_ALL) {
        expect = true;
    } else if (any && h->want == WANT_AT) {
        /* A packed ring cannot tell positions two laps apart */
        uint64_t laps = h->drv.packed ? 2 * h->drv.num : 65536;
        uint64_t pos = h->want_at;

        while (pos < h->shown_entries) {
            pos += laps;
        }
        expect = !h->signalled || pos < h->pushed_entries;
    } else if (any && h->drv.event_idx && !h->drv.packed) {
        /* There is no "never" in a split ring with event index */
        expect = !h->signalled;
    }
    g_assert_cmpint(notify, ==, expect);
    h->signalled |= any;
    h->shown = h->npushed;
    h->shown_entries = h->pushed_entries;
}

static void step_get(History *h)
{
    unsigned n = g_rand_int_range(h->rand, 1, 5);
    unsigned t;
    uint32_t len;

    while (n--) {
        uint8_t bytes[DRV_SEGS * SEG_MAX];
        uint32_t at = 0;
        Buffer *b;
        unsigned i;

        if (!drv_get(&h->drv, &t, &len)) {
            g_assert_cmpuint(h->got, ==, h->shown);
            return;
        }
        g_assert_cmpuint(h->got, <, h->shown);
        g_assert_cmpuint(t, ==, h->pushed[h->got]);
        h->got++;
        b = &h->buffer[t];
        g_assert_cmpuint(len, ==, b->written);
        for (i = b->nread; i < b->nread + b->nwrite; i++) {
            arena_get(&h->arena, b->seg[i].addr, bytes + at, b->seg[i].len);
            at += b->seg[i].len;
        }
        g_assert_cmpmem(bytes, len, b->in, len);
        for (; len < at; len++) {
            g_assert_cmphex(bytes[len], ==, 0xee);
        }
        b->busy = false;
    }
}

static void step_want(History *h)
{
    bool want = g_rand_boolean(h->rand);

    h->want_at = h->drv.taken + g_rand_int_range(h->rand, 0, h->drv.num);
    drv_want_interrupt(&h->drv, want, h->want_at);
    h->want = !want ? WANT_NONE : h->drv.event_idx ? WANT_AT : WANT_ALL;
}

static void step_arm(History *h)
{
    if (g_rand_boolean(h->rand)) {
        vs_ring_quiet(h->ring);
        if (h->drv.packed || !h->drv.event_idx) {
            h->kick = KICK_NEVER;
        } else if (h->kick != KICK_NEXT) {
            h->kick = KICK_UNKNOWN;
        }
    } else {
        bool more = vs_ring_arm(h->ring);

        g_assert_cmpint(more, ==, h->given > h->popped);
        h->kick = more && h->drv.event_idx ? KICK_UNKNOWN : KICK_NEXT;
    }
}

static void run_history(uint64_t features, unsigned num)
{
    uint32_t seed = g_test_rand_int();
    History h;
    unsigned i;

    g_test_message("ring of %u, features 0x%" G_GINT64_MODIFIER "x, seed %u",
                   num, features, seed);
    history_init(&h, features, num, seed);
    if (h.drv.event_idx && !h.drv.packed) {
        /* Zeroed memory asks for an interrupt at the first entry */
        h.want = WANT_AT;
    }
    for (i = 0; i < STEPS; i++) {
        switch (g_rand_int_range(h.rand, 0, 10)) {
        case 0 ... 2:
            step_add(&h);
            break;
        case 3:
            step_pop(&h);
            break;
        case 4 ... 5:
            step_push(&h);
            break;
        case 6:
            step_flush(&h);
            break;
        case 7:
            step_get(&h);
            break;
        case 8:
            step_want(&h);
            break;
        case 9:
            step_arm(&h);
            break;
        }
    }
    /* All comes back in the end */
    while (h.popped < h.given) {
        step_pop(&h);
    }
    while (h.nheld) {
        step_push(&h);
    }
    step_flush(&h);
    while (h.got < h.given) {
        step_get(&h);
    }
    g_assert_cmpuint(h.drv.nfree, ==, num);
    g_assert_cmpuint(h.arena.faults, ==, 0);
    g_assert_cmpuint(h.given, >, STEPS / 100);
    g_assert_true(vs_ring_ok(h.ring));
    history_destroy(&h);
}

static void test_random(gconstpointer data)
{
    static const unsigned sizes[] = { 1, 2, 4, 8, 64, 256 };
    uint64_t features = wire_features | *(const uint64_t *)data;
    unsigned i;

    for (i = 0; i < G_N_ELEMENTS(sizes); i++) {
        run_history(features, sizes[i]);
    }
}

/* The available and used index of a split ring both pass 65535 */
static void test_index_wrap(void)
{
    const unsigned rounds = 70000;
    GRand *rand = g_rand_new_with_seed(1);
    VsRingConfig config;
    VsRingState state;
    VsRing *ring;
    VsHost host;
    Arena a;
    Drv d;
    unsigned i, token;
    uint32_t len;
    VsSeg seg;

    arena_init(&a, 65536);
    host = arena_host(&a);
    drv_init(&d, &a, rand, wire_features | FEATURE(VIRTIO_RING_F_EVENT_IDX),
             16, 0);
    seg.addr = arena_alloc(&a, 16, 1);
    seg.len = 16;
    ring = vs_ring_new(&host);
    config = drv_config(&d);
    state = drv_state(&d);
    g_assert_true(vs_ring_start(ring, &config, &state));

    for (i = 0; i < rounds; i++) {
        VsChain chain, none;

        g_assert_false(vs_ring_arm(ring));
        drv_add(&d, &seg, 0, 1, i, false);
        g_assert_true(drv_needs_kick(&d));
        vs_ring_begin(ring);
        g_assert_cmpint(vs_ring_pop(ring, &chain), ==, 1);
        g_assert_cmpint(vs_ring_pop(ring, &none), ==, 0);
        vs_ring_push(ring, &chain, 7);
        drv_want_interrupt(&d, true, i);
        g_assert_true(vs_ring_flush(ring));
        g_assert_true(drv_get(&d, &token, &len));
        g_assert_cmpuint(token, ==, i);
        g_assert_cmpuint(len, ==, 7);
        g_assert_false(drv_get(&d, &token, &len));
    }
    vs_ring_state(ring, &state);
    g_assert_cmpuint(state.avail_idx, ==, rounds % 65536);
    g_assert_cmpuint(state.used_idx, ==, rounds % 65536);

    vs_ring_free(ring);
    drv_destroy(&d);
    arena_destroy(&a);
    g_rand_free(rand);
}

/* A ring that is stopped and started elsewhere goes on where it was */
static void test_restart(gconstpointer data)
{
    uint64_t features = wire_features | *(const uint64_t *)data;
    GRand *rand = g_rand_new_with_seed(1);
    VsRingConfig config;
    VsRingState state;
    VsRing *ring;
    VsHost host;
    unsigned i, k, token;
    uint32_t len;
    VsSeg seg[3];
    Arena a;
    Drv d;

    arena_init(&a, 65536);
    host = arena_host(&a);
    drv_init(&d, &a, rand, features, 8, 5);
    for (i = 0; i < 3; i++) {
        seg[i].addr = arena_alloc(&a, 16, 1);
        seg[i].len = 16;
    }
    config = drv_config(&d);
    state = drv_state(&d);
    for (i = 0; i < 100; i++) {
        VsChain chain[2];

        ring = vs_ring_new(&host);
        g_assert_true(vs_ring_start(ring, &config, &state));
        for (k = 0; k < 2; k++) {
            drv_add(&d, seg, 1, 2, 2 * i + k, false);
            vs_ring_begin(ring);
            g_assert_cmpint(vs_ring_pop(ring, &chain[k]), ==, 1);
        }
        for (k = 0; k < 2; k++) {
            vs_ring_push(ring, &chain[k], 32);
        }
        vs_ring_flush(ring);
        for (k = 0; k < 2; k++) {
            g_assert_true(drv_get(&d, &token, &len));
            g_assert_cmpuint(token, ==, 2 * i + k);
        }
        vs_ring_state(ring, &state);
        vs_ring_free(ring);
    }
    g_assert_cmpuint(a.faults, ==, 0);
    drv_destroy(&d);
    arena_destroy(&a);
    g_rand_free(rand);
}

/*
 * Rings that break the rules
 */

#define BAD_NUM 8
#define BAD_LEN 64

typedef struct Bad {
    Arena arena;
    VsHost host;
    GRand *rand;
    Drv drv;
    uint64_t buf;
    uint64_t table;         /* room for 2048 descriptors */
    VsRingConfig config;
} Bad;

typedef struct BadCase {
    const char *name;
    void (*make)(Bad *bad);
} BadCase;

/* Descriptor @i; in a packed ring also available, with id @i */
static void bad_desc(Bad *b, unsigned i, uint64_t addr, uint32_t len,
                     uint16_t flags, uint16_t next)
{
    if (b->drv.packed) {
        flags |= 1 << VRING_PACKED_DESC_F_AVAIL;
        next = i;
    }
    drv_put(&b->drv, drv_desc(&b->drv, i), addr, len, flags, next);
}

static void bad_entry(Bad *b, unsigned i, uint64_t addr, uint32_t len,
                      uint16_t flags, uint16_t next)
{
    drv_put(&b->drv, b->table + 16 * i, addr, len, flags, next);
}

/* Make @head available in a split ring */
static void bad_avail(Bad *b, uint16_t head)
{
    if (!b->drv.packed) {
        arena_put16(&b->arena, b->drv.avail + 4, head);
        arena_put16(&b->arena, b->drv.avail + 2, 1);
    }
}

static void bad_head(Bad *b)
{
    bad_desc(b, 0, b->buf, BAD_LEN, 0, 0);
    bad_avail(b, BAD_NUM);
}

static void bad_next(Bad *b)
{
    bad_desc(b, 0, b->buf, BAD_LEN, VRING_DESC_F_NEXT, BAD_NUM);
    bad_avail(b, 0);
}

static void bad_loop(Bad *b)
{
    unsigned i;

    for (i = 0; i < BAD_NUM; i++) {
        bad_desc(b, i, b->buf, BAD_LEN, VRING_DESC_F_NEXT, (i + 1) % BAD_NUM);
    }
    bad_avail(b, 3);
}

static void bad_self_loop(Bad *b)
{
    bad_desc(b, 2, b->buf, BAD_LEN, VRING_DESC_F_NEXT, 2);
    bad_avail(b, 2);
}

static void bad_ahead(Bad *b)
{
    bad_desc(b, 0, b->buf, BAD_LEN, 0, 0);
    bad_avail(b, 0);
    arena_put16(&b->arena, b->drv.avail + 2, BAD_NUM + 1);
}

static void bad_behind(Bad *b)
{
    bad_avail(b, 0);
    arena_put16(&b->arena, b->drv.avail + 2, 0xffff);
}

static void bad_order(Bad *b)
{
    bad_desc(b, 0, b->buf, BAD_LEN, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE,
             1);
    bad_desc(b, 1, b->buf, BAD_LEN, 0, 0);
    bad_avail(b, 0);
}

static void bad_empty(Bad *b)
{
    bad_desc(b, 0, b->buf, 0, 0, 0);
    bad_avail(b, 0);
}

static void bad_overflow(Bad *b)
{
    bad_desc(b, 0, UINT64_MAX - BAD_LEN + 2, BAD_LEN, 0, 0);
    bad_avail(b, 0);
}

static void bad_huge(Bad *b)
{
    bad_desc(b, 0, b->buf, UINT32_MAX, VRING_DESC_F_NEXT, 1);
    bad_desc(b, 1, b->buf, 1, 0, 0);
    bad_avail(b, 0);
}

static void bad_not_negotiated(Bad *b)
{
    b->config.features &= ~FEATURE(VIRTIO_RING_F_INDIRECT_DESC);
    bad_entry(b, 0, b->buf, BAD_LEN, 0, 0);
    bad_desc(b, 0, b->table, 16, VRING_DESC_F_INDIRECT, 0);
    bad_avail(b, 0);
}

static void bad_table_size(Bad *b)
{
    bad_entry(b, 0, b->buf, BAD_LEN, 0, 0);
    bad_desc(b, 0, b->table, 17, VRING_DESC_F_INDIRECT, 0);
    bad_avail(b, 0);
}

static void bad_table_empty(Bad *b)
{
    bad_desc(b, 0, b->table, 0, VRING_DESC_F_INDIRECT, 0);
    bad_avail(b, 0);
}

static void bad_table_next(Bad *b)
{
    bad_entry(b, 0, b->buf, BAD_LEN, 0, 0);
    bad_desc(b, 0, b->table, 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT,
             1);
    bad_desc(b, 1, b->buf, BAD_LEN, 0, 0);
    bad_avail(b, 0);
}

static void bad_table_unmapped(Bad *b)
{
    bad_desc(b, 0, 0x1000, 32, VRING_DESC_F_INDIRECT, 0);
    bad_avail(b, 0);
}

static void bad_table_overflow(Bad *b)
{
    bad_desc(b, 0, UINT64_MAX - 16, 32, VRING_DESC_F_INDIRECT, 0);
    bad_avail(b, 0);
}

static void bad_nested(Bad *b)
{
    bad_entry(b, 0, b->table, 16, VRING_DESC_F_INDIRECT, 0);
    bad_desc(b, 0, b->table, 16, VRING_DESC_F_INDIRECT, 0);
    bad_avail(b, 0);
}

static void bad_table_loop(Bad *b)
{
    bad_entry(b, 0, b->buf, BAD_LEN, VRING_DESC_F_NEXT, 1);
    bad_entry(b, 1, b->buf, BAD_LEN, VRING_DESC_F_NEXT, 0);
    bad_desc(b, 0, b->table, 32, VRING_DESC_F_INDIRECT, 0);
    bad_avail(b, 0);
}

static void bad_table_far(Bad *b)
{
    bad_entry(b, 0, b->buf, BAD_LEN, VRING_DESC_F_NEXT, 2);
    bad_desc(b, 0, b->table, 32, VRING_DESC_F_INDIRECT, 0);
    bad_avail(b, 0);
}

static void bad_table_long(Bad *b)
{
    unsigned i;

    for (i = 0; i < 2048; i++) {
        bad_entry(b, i, b->buf, BAD_LEN, VRING_DESC_F_NEXT, i + 1);
    }
    bad_desc(b, 0, b->table, 2048 * 16, VRING_DESC_F_INDIRECT, 0);
    bad_avail(b, 0);
}

static void bad_table_order(Bad *b)
{
    bad_entry(b, 0, b->buf, BAD_LEN, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE,
              1);
    bad_entry(b, 1, b->buf, BAD_LEN, 0, 0);
    bad_desc(b, 0, b->table, 32, VRING_DESC_F_INDIRECT, 0);
    bad_avail(b, 0);
}

static void bad_table_entry_empty(Bad *b)
{
    bad_entry(b, 0, b->buf, 0, 0, 0);
    bad_desc(b, 0, b->table, 16, VRING_DESC_F_INDIRECT, 0);
    bad_avail(b, 0);
}

static void bad_desc_unmapped(Bad *b)
{
    bad_avail(b, 0);
    b->config.desc = 0x1000;
}

static void bad_avail_unmapped(Bad *b)
{
    b->config.avail = 0x1000;
}

static const BadCase bad_both[] = {
    { "loop", bad_loop },
    { "order", bad_order },
    { "empty", bad_empty },
    { "overflow", bad_overflow },
    { "huge", bad_huge },
    { "indirect-not-negotiated", bad_not_negotiated },
    { "indirect-size", bad_table_size },
    { "indirect-empty", bad_table_empty },
    { "indirect-next", bad_table_next },
    { "indirect-unmapped", bad_table_unmapped },
    { "indirect-overflow", bad_table_overflow },
    { "indirect-nested", bad_nested },
    { "indirect-long", bad_table_long },
    { "indirect-order", bad_table_order },
    { "indirect-entry-empty", bad_table_entry_empty },
    { "desc-unmapped", bad_desc_unmapped },
};

static const BadCase bad_split[] = {
    { "head", bad_head },
    { "next", bad_next },
    { "self-loop", bad_self_loop },
    { "ahead", bad_ahead },
    { "behind", bad_behind },
    { "indirect-loop", bad_table_loop },
    { "indirect-far", bad_table_far },
    { "avail-unmapped", bad_avail_unmapped },
};

static void bad_init(Bad *b, uint64_t features)
{
    memset(b, 0, sizeof(*b));
    b->rand = g_rand_new_with_seed(1);
    arena_init(&b->arena, 1 << 20);
    b->host = arena_host(&b->arena);
    drv_init(&b->drv, &b->arena, b->rand, features, BAD_NUM, 0);
    b->buf = arena_alloc(&b->arena, BAD_LEN, 1);
    b->table = arena_alloc(&b->arena, 2048 * 16, 16);
    b->config = drv_config(&b->drv);
}

static void bad_destroy(Bad *b)
{
    drv_destroy(&b->drv);
    arena_destroy(&b->arena);
    g_rand_free(b->rand);
}

/* A stopped ring says why, and touches no memory */
static void check_stopped(VsRing *ring, Arena *a)
{
    unsigned accesses = a->accesses;
    VsChain chain;

    g_assert_false(vs_ring_ok(ring));
    g_assert_nonnull(vs_ring_error(ring));
    g_assert_cmpint(vs_ring_pop(ring, &chain), ==, -1);
    g_assert_false(vs_ring_flush(ring));
    g_assert_false(vs_ring_arm(ring));
    vs_ring_quiet(ring);
    g_assert_cmpuint(a->accesses, ==, accesses);
}

static void run_bad(const BadCase *c, bool packed)
{
    uint64_t features = wire_features |
                        FEATURE(VIRTIO_RING_F_INDIRECT_DESC) |
                        FEATURE(VIRTIO_RING_F_EVENT_IDX) |
                        (packed ? FEATURE(VIRTIO_F_RING_PACKED) : 0);
    VsRingState state = { .avail_wrap = true, .used_wrap = true };
    VsChain chain;
    VsRing *ring;
    VsSeg seg;
    Bad b;

    g_test_message("%s", c->name);
    bad_init(&b, features);
    ring = vs_ring_new(&b.host);
    c->make(&b);
    g_assert_true(vs_ring_start(ring, &b.config, &state));
    vs_ring_begin(ring);
    g_assert_cmpint(vs_ring_pop(ring, &chain), ==, -1);
    check_stopped(ring, &b.arena);
    /* What was malformed was not taken */
    vs_ring_state(ring, &state);
    g_assert_cmpuint(state.avail_idx, ==, 0);
    g_assert_true(state.avail_wrap);
    bad_destroy(&b);

    /* Nothing stays behind */
    bad_init(&b, features);
    seg.addr = b.buf;
    seg.len = BAD_LEN;
    drv_add(&b.drv, &seg, 1, 0, 5, true);
    g_assert_true(vs_ring_start(ring, &b.config, &state));
    vs_ring_begin(ring);
    g_assert_cmpint(vs_ring_pop(ring, &chain), ==, 1);
    g_assert_cmpuint(chain.read_len, ==, BAD_LEN);
    vs_ring_push(ring, &chain, 0);
    vs_ring_flush(ring);
    g_assert_true(vs_ring_ok(ring));
    g_assert_null(vs_ring_error(ring));
    g_assert_cmpuint(b.arena.faults, ==, 0);
    vs_ring_free(ring);
    bad_destroy(&b);
}

static void test_bad_split(void)
{
    unsigned i;

    for (i = 0; i < G_N_ELEMENTS(bad_both); i++) {
        run_bad(&bad_both[i], false);
    }
    for (i = 0; i < G_N_ELEMENTS(bad_split); i++) {
        run_bad(&bad_split[i], false);
    }
}

static void test_bad_packed(void)
{
    unsigned i;

    for (i = 0; i < G_N_ELEMENTS(bad_both); i++) {
        run_bad(&bad_both[i], true);
    }
}

static void test_bad_start(void)
{
    static const VsRingConfig bad[] = {
        { .num = 0 },
        { .num = 3 },
        { .num = 65536 },
        { .num = 256, .desc = UINT64_MAX - 4096 + 2 },
        { .num = 256, .avail = UINT64_MAX - 100 },
        { .num = 256, .used = UINT64_MAX - 100 },
        { .num = 256, .avail = 1 },
        { .num = 256, .used = 3 },
        { .num = 256, .desc = 1, .features = FEATURE(VIRTIO_F_RING_PACKED) },
        { .num = 4, .features = FEATURE(VIRTIO_F_RING_PACKED) },
    };
    /* Past the end of the last of them only */
    VsRingState state = { .avail_idx = 4, .used_idx = 0 };
    VsHost host;
    unsigned i;
    Arena a;

    arena_init(&a, 4096);
    host = arena_host(&a);
    for (i = 0; i < G_N_ELEMENTS(bad); i++) {
        VsRing *ring = vs_ring_new(&host);

        g_assert_false(vs_ring_start(ring, &bad[i], &state));
        check_stopped(ring, &a);
        g_assert_cmpuint(a.accesses, ==, 0);
        vs_ring_free(ring);
    }
    arena_destroy(&a);
}

/* The used ring, or device event area, is not there when it is needed */
static void test_bad_used(gconstpointer data)
{
    bool packed = data;
    VsRingState state = { .avail_wrap = true, .used_wrap = true };
    uint64_t features = wire_features |
                        (packed ? FEATURE(VIRTIO_F_RING_PACKED) : 0);
    VsChain chain;
    VsRing *ring;
    VsSeg seg;
    Bad b;

    bad_init(&b, features);
    seg.addr = b.buf;
    seg.len = BAD_LEN;
    drv_add(&b.drv, &seg, 1, 0, 5, false);
    b.config.used = 0x1000;
    ring = vs_ring_new(&b.host);
    g_assert_true(vs_ring_start(ring, &b.config, &state));
    vs_ring_begin(ring);
    g_assert_cmpint(vs_ring_pop(ring, &chain), ==, 1);
    if (packed) {
        vs_ring_quiet(ring);
    } else {
        vs_ring_push(ring, &chain, 0);
        g_assert_false(vs_ring_flush(ring));
    }
    g_assert_cmpuint(b.arena.faults, ==, 1);
    check_stopped(ring, &b.arena);
    vs_ring_free(ring);
    bad_destroy(&b);
}

/* A lenient ring loses what is wrong, and goes on */
static void test_lenient(void)
{
    VsRingState state = { .avail_wrap = true, .used_wrap = true };
    VsChain chain;
    VsRing *ring;
    Bad b;

    bad_init(&b, wire_features);
    b.config.lenient = true;
    b.config.used = 0x1000;
    /* a loop, and a buffer behind one of no bytes */
    drv_put(&b.drv, drv_desc(&b.drv, 0), b.buf, BAD_LEN, VRING_DESC_F_NEXT,
            0);
    drv_put(&b.drv, drv_desc(&b.drv, 1), b.buf, 0, VRING_DESC_F_NEXT, 2);
    drv_put(&b.drv, drv_desc(&b.drv, 2), b.buf, BAD_LEN, 0, 0);
    arena_put16(&b.arena, b.config.avail + 4, 0);
    arena_put16(&b.arena, b.config.avail + 6, b.config.num);
    arena_put16(&b.arena, b.config.avail + 2, 2);
    ring = vs_ring_new(&b.host);
    g_assert_true(vs_ring_start(ring, &b.config, &state));

    vs_ring_begin(ring);
    g_assert_cmpint(vs_ring_pop(ring, &chain), ==, -1);
    vs_ring_state(ring, &state);
    g_assert_cmpuint(state.avail_idx, ==, 1);
    g_assert_cmpint(vs_ring_pop(ring, &chain), ==, -1);
    vs_ring_state(ring, &state);
    g_assert_cmpuint(state.avail_idx, ==, 1);
    g_assert_true(vs_ring_ok(ring));

    /* an index that is corrected is as good as any */
    arena_put16(&b.arena, b.config.avail + 6, 1);
    vs_ring_forget(ring);
    vs_ring_begin(ring);
    g_assert_cmpint(vs_ring_pop(ring, &chain), ==, 1);
    g_assert_cmpuint(chain.nread, ==, 1);
    g_assert_cmpuint(chain.read_len, ==, BAD_LEN);

    /* what cannot be shown as used counts as not used */
    vs_ring_push(ring, &chain, 0);
    g_assert_false(vs_ring_flush(ring));
    g_assert_cmpuint(b.arena.faults, ==, 1);
    vs_ring_state(ring, &state);
    g_assert_cmpuint(state.used_idx, ==, 0);
    g_assert_true(vs_ring_ok(ring));
    g_assert_cmpint(vs_ring_pop(ring, &chain), ==, 0);
    vs_ring_free(ring);
    bad_destroy(&b);
}

/* A driver that never waits for its entries cannot make us hold too many */
static void test_bad_greedy(gconstpointer data)
{
    bool packed = data;
    VsRingState state = { .avail_wrap = true, .used_wrap = true };
    uint64_t features = wire_features |
                        (packed ? FEATURE(VIRTIO_F_RING_PACKED) : 0);
    VsChain chain;
    VsRing *ring;
    unsigned i;
    Bad b;

    bad_init(&b, features);
    for (i = 0; i < BAD_NUM; i++) {
        bad_desc(&b, i, b.buf, BAD_LEN, 0, 0);
    }
    if (!packed) {
        arena_put16(&b.arena, b.drv.avail + 2, BAD_NUM);
    }
    ring = vs_ring_new(&b.host);
    g_assert_true(vs_ring_start(ring, &b.config, &state));
    for (i = 0; i < BAD_NUM; i++) {
        vs_ring_begin(ring);
        g_assert_cmpint(vs_ring_pop(ring, &chain), ==, 1);
        vs_ring_push(ring, &chain, 0);
    }
    if (packed) {
        for (i = 0; i < BAD_NUM; i++) {
            drv_put(&b.drv, drv_desc(&b.drv, i), b.buf, BAD_LEN,
                    1 << VRING_PACKED_DESC_F_USED, i);
        }
    } else {
        arena_put16(&b.arena, b.drv.avail + 2, BAD_NUM + 1);
    }
    vs_ring_begin(ring);
    g_assert_cmpint(vs_ring_pop(ring, &chain), ==, -1);
    g_assert_false(vs_ring_ok(ring));
    /* What it had been given in good order comes back */
    g_assert_true(vs_ring_flush(ring));
    if (packed) {
        g_assert_cmphex(arena_get16(&b.arena, drv_desc(&b.drv, 0) + 14), ==,
                        1 << VRING_PACKED_DESC_F_AVAIL |
                        1 << VRING_PACKED_DESC_F_USED);
    } else {
        g_assert_cmpuint(arena_get16(&b.arena, b.drv.used + 2), ==, BAD_NUM);
    }
    check_stopped(ring, &b.arena);
    vs_ring_free(ring);
    bad_destroy(&b);
}

/* Whatever is in memory, a ring ends with an answer */
static void test_noise(gconstpointer data)
{
    bool packed = data;
    uint32_t seed = g_test_rand_int();
    GRand *rand = g_rand_new_with_seed(seed);
    unsigned round;

    g_test_message("seed %u", seed);
    for (round = 0; round < 2000; round++) {
        uint64_t features = wire_features |
                            FEATURE(VIRTIO_RING_F_INDIRECT_DESC) |
                            (packed ? FEATURE(VIRTIO_F_RING_PACKED) : 0) |
                            (g_rand_boolean(rand) ?
                             FEATURE(VIRTIO_RING_F_EVENT_IDX) : 0);
        VsRingState state = { .avail_wrap = true, .used_wrap = true };
        unsigned i, k, pops;
        VsChain chain;
        VsRing *ring;
        Bad b;

        bad_init(&b, features);
        /* Plausible parts in implausible combinations */
        for (i = 0; i < BAD_NUM + 8; i++) {
            static const uint32_t lens[] = { 0, 1, 16, 32, 48, 64, 65536 };
            uint16_t flags = 0;
            uint64_t addr = g_rand_boolean(rand) ? b.buf : b.table;

            for (k = 0; k < 3; k++) {
                flags |= g_rand_int_range(rand, 0, 4) == 0 ? 1 << k : 0;
            }
            if (g_rand_int_range(rand, 0, 20) == 0) {
                addr = g_rand_int(rand);
            }
            k = g_rand_int_range(rand, 0, G_N_ELEMENTS(lens));
            if (i < BAD_NUM) {
                bad_desc(&b, i, addr, lens[k], flags,
                         g_rand_int_range(rand, 0, BAD_NUM + 1));
            } else {
                bad_entry(&b, i - BAD_NUM, addr, lens[k], flags,
                          g_rand_int_range(rand, 0, 9));
            }
        }
        if (!packed) {
            for (i = 0; i < BAD_NUM; i++) {
                arena_put16(&b.arena, b.drv.avail + 4 + 2 * i,
                            g_rand_int_range(rand, 0, BAD_NUM + 1));
            }
            arena_put16(&b.arena, b.drv.avail + 2,
                        g_rand_int_range(rand, 0, BAD_NUM + 2));
        }
        ring = vs_ring_new(&b.host);
        g_assert_true(vs_ring_start(ring, &b.config, &state));
        for (pops = 0; pops <= BAD_NUM; pops++) {
            uint8_t bytes[64];

            vs_ring_begin(ring);
            if (vs_ring_pop(ring, &chain) <= 0) {
                break;
            }
            vs_ring_read(ring, &chain, 0, bytes, MIN(chain.read_len, 64));
            vs_ring_write(ring, &chain, 0, bytes, MIN(chain.write_len, 1));
            vs_ring_push(ring, &chain, 1);
        }
        g_assert_cmpuint(pops, <=, BAD_NUM);
        vs_ring_flush(ring);
        vs_ring_arm(ring);
        vs_ring_free(ring);
        bad_destroy(&b);
    }
    g_rand_free(rand);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        uint64_t features;
    } kinds[] = {
        { "split", 0 },
        { "split/event", FEATURE(VIRTIO_RING_F_EVENT_IDX) },
        { "split/indirect", FEATURE(VIRTIO_RING_F_INDIRECT_DESC) },
        { "split/indirect-event", FEATURE(VIRTIO_RING_F_INDIRECT_DESC) |
                                  FEATURE(VIRTIO_RING_F_EVENT_IDX) },
        { "packed", FEATURE(VIRTIO_F_RING_PACKED) },
        { "packed/event", FEATURE(VIRTIO_F_RING_PACKED) |
                          FEATURE(VIRTIO_RING_F_EVENT_IDX) },
        { "packed/indirect", FEATURE(VIRTIO_F_RING_PACKED) |
                             FEATURE(VIRTIO_RING_F_INDIRECT_DESC) },
        { "packed/indirect-event", FEATURE(VIRTIO_F_RING_PACKED) |
                                   FEATURE(VIRTIO_RING_F_INDIRECT_DESC) |
                                   FEATURE(VIRTIO_RING_F_EVENT_IDX) },
    };
    unsigned i;

    g_test_init(&argc, &argv, NULL);
    for (i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *random = g_strdup_printf("/ring/random/%s",
                                                  kinds[i].name);
        g_autofree char *restart = g_strdup_printf("/ring/restart/%s",
                                                   kinds[i].name);

        g_test_add_data_func(random, &kinds[i].features, test_random);
        g_test_add_data_func(restart, &kinds[i].features, test_restart);
    }
    g_test_add_func("/ring/index-wrap", test_index_wrap);
    g_test_add_func("/ring/bad/split", test_bad_split);
    g_test_add_func("/ring/bad/packed", test_bad_packed);
    g_test_add_func("/ring/bad/start", test_bad_start);
    g_test_add_data_func("/ring/bad/used/split", NULL, test_bad_used);
    g_test_add_data_func("/ring/bad/used/packed", (void *)1, test_bad_used);
    g_test_add_func("/ring/lenient", test_lenient);
    g_test_add_data_func("/ring/bad/greedy/split", NULL, test_bad_greedy);
    g_test_add_data_func("/ring/bad/greedy/packed", (void *)1,
                         test_bad_greedy);
    g_test_add_data_func("/ring/noise/split", NULL, test_noise);
    g_test_add_data_func("/ring/noise/packed", (void *)1, test_noise);
    return g_test_run();
}
