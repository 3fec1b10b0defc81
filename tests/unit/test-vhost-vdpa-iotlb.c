/*
 * Tests of the vhost-vdpa IOTLB reconciler
 *
 * All but a few run against a strict model of the kernel and of the device
 * behind it.  The model holds one cell per page, so it needs none of
 * the interval arithmetic it judges, and it knows which messages must come:
 * each one is compared with the only one that is right at that point.
 *
 * The address space has a window of WIN pages at 0, one that ends at 2^64 - 1,
 * and between them two cells of almost 2^63 bytes, so that a range of all
 * 2^64 bytes can be modelled, too.
 *
 * Each invariant of the reconciler has a test of its own, "invariant/N-NAME",
 * with random histories; see "invariants" below.  The test "random" judges by
 * all of them at once, and by each message.
 *
 * VHOST_VDPA_IOTLB_SEED=N repeats a run of these tests, and
 * VHOST_VDPA_IOTLB_OPS=N sets their length.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "hw/virtio/vhost-vdpa-iotlb.h"

#define PAGE 4096ULL
#define WIN 32
#define GAP WIN
#define HIGH (WIN + 2)
#define NCELLS (HIGH + WIN)
#define NASIDS 3
#define NOWNERS 5

#define RO VHOST_VDPA_IOTLB_RO
#define WO VHOST_VDPA_IOTLB_WO
#define RW VHOST_VDPA_IOTLB_RW

typedef enum Kind {
    BEGIN,
    UNMAP,
    MAP,
    END,
    NKINDS,
} Kind;

typedef struct Cell {
    bool on;
    uint8_t perm;
    uint8_t owner;
    uint32_t discrete;  /* number of the discrete range it is in, or 0 */
    uint64_t uaddr;
} Cell;

typedef struct Entry {
    bool on;
    bool stale;         /* must be unmapped by the next commit */
    int last;
} Entry;

typedef struct Space {
    bool exists;        /* the kernel creates it with the first UPDATE */
    bool named;         /* the reconciler knows it */
    Cell desired[NCELLS];
    Cell programmed[NCELLS];
    Cell kernel[NCELLS];    /* as above, but for what a failure wiped out */
    Cell device[NCELLS];    /* the translations in use */
    Entry entry[NCELLS];    /* at its first cell */
    int entry_of[NCELLS];   /* first cell of the entry, or -1 */
    bool failed;
    VhostVDPAIOTLBFailure failure;
    uint64_t messages;
} Space;

typedef struct Piece {
    int first, last;
} Piece;

typedef struct Message {
    Kind kind;
    bool failed;
    int asid;
    int first, last;    /* cells */
} Message;

/* What one commit or withdrawal has to do, and has done */
typedef struct Run {
    bool active;
    bool withdraw;
    bool todo;          /* there is something to send */
    bool lone;          /* it is one message that needs no batch */
    bool stopped;       /* nothing may follow */
    bool begun, ended, adding;
    int asid;
    int open;           /* the address space with an open batch before */
    uint64_t budget, cut_align;
    Piece removals[NCELLS], additions[NCELLS];
    int n_removals, n_additions, removal, addition;
    bool goes[NCELLS];  /* in an entry that has to go */
    bool removed[NCELLS];
    bool refused[NCELLS];
    Cell before[NCELLS];
    int entry_before[NCELLS];
    uint64_t pages_mapped, pages_unmapped, pages_left;
    Message messages[4 * NCELLS];
    VhostVDPAIOTLBReport report;
    VhostVDPAIOTLBFailure failure;
} Run;

typedef struct World {
    VhostVDPAIOTLB *iotlb;
    bool batching;
    bool set_map;       /* the driver takes whole maps, at the end of a batch */
    bool wipes;         /* a failure at IOVA 0 drops all */
    unsigned judges;    /* bit N: judge by invariant N; 0: by each message */
    uint64_t small_limit, range_first, range_last;
    Space as[NASIDS];
    int batch;          /* address space with an open batch, or -1 */
    int in_batch;       /* removals and additions in it so far */
    uint32_t discrete;  /* discrete ranges so far */
    int refs[NOWNERS];
    GString *log;
    int fail_in[NKINDS];        /* 1: the next one */
    bool fail_always[NKINDS];
    int fail_nth;               /* of any kind; 1: the next one */
    unsigned fail_percent;
    int err;
    GRand *rand;
    Run run;
    uint64_t messages;
} World;

/* Rare events; the random test is worth little if it does not meet them */
typedef enum Event {
    SEEN_PIECES_KEPT,
    SEEN_OWNER_MOVED,
    SEEN_OUTSIDE,
    SEEN_ALL_64_BITS,
    SEEN_OVER_LIMIT,
    SEEN_CUT_BY_BUDGET,
    SEEN_KEPT_OVER_BUDGET,
    SEEN_WIPED,
    SEEN_CUT_ALIGNED,
    SEEN_CUT_NEVER_ALIGNED,
    SEEN_CUT_BEFORE,
    SEEN_END_FAILED,
    SEEN_ONLY_END,
    SEEN_KEPT_OPEN,
    SEEN_KEPT_OPEN_TWICE,
    SEEN_KEPT_OPEN_AFTER_REMOVAL,
    SEEN_OPEN_WITHDRAWN,
    SEEN_OPEN_RESET,
    SEEN_OPEN_AND_FAILED,
    SEEN_CLOSED_FOR_OTHER,
    SEEN_NOT_CLOSED_FOR_OTHER,
    SEEN_LONE_UNMAP,
    SEEN_LONE_MAP,
    SEEN_LONE_FAILED,
    SEEN_LONE_WITHDRAWN,
    SEEN_DISCRETE_NEIGHBOURS,
    SEEN_DISCRETE_IN_ONE_ENTRY,
    SEEN_HIDDEN_BY_ENTRY,
    SEEN_REMOVED_TOGETHER,
    SEEN_REMOVED_OVER_HOLE,
    SEEN_REMOVED_APART,
    SEEN_REMOVED_TOGETHER_FAILED,
    SEEN_REMOVED_ALL_64_BITS,
    SEEN_WITHDRAW_INCOMPLETE,
    SEEN_NOTHING_TO_DO,
    NEVENTS,
} Event;

static uint64_t seen[NEVENTS];

static char owners[NOWNERS];    /* only their addresses matter; 0 is NULL */

/* Where a failure happened */
static uint32_t seed;
static uint64_t history, step;

#define CHECK(cond) \
    do { \
        if (!(cond)) { \
            g_error("%s:%d: %s (VHOST_VDPA_IOTLB_SEED=%" PRIu32 ", history %" \
                    PRIu64 ", step %" PRIu64 ")", __func__, __LINE__, #cond, \
                    seed, history, step); \
        } \
    } while (0)

#define CHECK_IF(flag, cond) \
    do { \
        if (flag) { \
            CHECK(cond); \
        } \
    } while (0)

/* Geometry */

static uint64_t cell_first(int cell)
{
    if (cell < HIGH) {
        return cell == GAP + 1 ? 1ULL << 63 : cell * PAGE;
    }
    return (cell - NCELLS) * PAGE;
}

static uint64_t cell_last(int cell)
{
    return cell == NCELLS - 1 ? UINT64_MAX : cell_first(cell + 1) - 1;
}

static uint64_t cell_pages(int cell)
{
    return (cell_last(cell) - cell_first(cell)) / PAGE + 1;
}

/* The cell that starts at @first or ends at @last, of which one is given */
static int cell_at(uint64_t addr, bool last)
{
    for (int i = 0; i < NCELLS; i++) {
        if ((last ? cell_last(i) : cell_first(i)) == addr) {
            return i;
        }
    }
    CHECK(!"address is that of a cell");
    return -1;
}

static uint64_t saturated(uint64_t pages)
{
    return pages > UINT64_MAX / PAGE ? UINT64_MAX : pages * PAGE;
}

/* Page numbers of a range's ends, those of the upper half negative */
static int64_t page_first(uint64_t first)
{
    return (int64_t)first / (int64_t)PAGE;
}

static int64_t page_last(uint64_t last)
{
    return page_first(last + 1 - PAGE);
}

static bool usable(const World *w, int cell)
{
    return cell_first(cell) >= w->range_first &&
           cell_last(cell) <= w->range_last;
}

static bool same_memory(const Cell *a, const Cell *b)
{
    return a->on && b->on && a->uaddr == b->uaddr && a->perm == b->perm;
}

/* Is @cell more of the same memory than the one before it? */
static bool memory_goes_on(const Cell *cells, int cell)
{
    const Cell *a = &cells[cell - 1], *b = &cells[cell];
    uint64_t size = cell_last(cell - 1) - cell_first(cell - 1) + 1;

    return a->on && b->on && a->perm == b->perm && a->owner == b->owner &&
           b->uaddr && b->uaddr == a->uaddr + size;
}

/* Must @cell be in the same range as the one before it? */
static bool goes_on(const Cell *cells, int cell)
{
    return memory_goes_on(cells, cell) &&
           cells[cell - 1].discrete == cells[cell].discrete;
}

static void *owner_ptr(int owner)
{
    return owner ? &owners[owner] : NULL;
}

/* The model */

static void model_fail(World *w, VhostVDPAIOTLBStep st, int err, int asid,
                       uint64_t first, uint64_t last)
{
    if (!w->run.report.failures++) {
        w->run.failure = (VhostVDPAIOTLBFailure) {
            .step = st, .err = err, .asid = asid, .first = first, .last = last,
        };
    }
}

static bool entry_must_go(const World *w, const Space *s, int first)
{
    const Entry *e = &s->entry[first];

    if (e->stale) {
        return true;
    }
    for (int i = first; i <= e->last; i++) {
        if (!usable(w, i) || !same_memory(&s->desired[i], &s->programmed[i])) {
            return true;
        }
    }
    return false;
}

/*
 * One message removes all entries in its range, so it can go on up to one that
 * stays, but it starts and ends with one that goes.  What is removed is not
 * all 64 bits at once, because no message holds that size.
 *
 * @goes: cells of entries that have to go, or NULL
 */
static int find_removals(const World *w, const Space *s, bool all,
                         Piece *pieces, bool *goes)
{
    bool apart = true;
    int n = 0;

    for (int i = 0; i < NCELLS; i++) {
        if (!s->entry[i].on) {
            continue;
        }
        if (!all && !entry_must_go(w, s, i)) {
            apart = true;
            continue;
        }
        apart |= n && !pieces[n - 1].first && s->entry[i].last == NCELLS - 1;
        if (apart) {
            pieces[n++].first = i;
            apart = false;
        }
        pieces[n - 1].last = s->entry[i].last;
        for (int j = i; goes && j <= s->entry[i].last; j++) {
            goes[j] = true;
        }
    }
    return n;
}

/* Do @cell and the one before it, both to be added, go in one message? */
static bool one_piece(const World *w, const Space *s, int cell)
{
    return goes_on(s->desired, cell) && cell_first(cell) != w->small_limit;
}

/* Leave to another call what is over the budget */
static void apply_budget(const World *w, const Space *s, Run *run, bool *take)
{
    int cut = -1, start, aligned;
    uint64_t allowed = 0;

    for (int i = 0; i < NCELLS && cut < 0; i++) {
        if (take[i] && !run->removed[i]) {
            CHECK(i != GAP && i != GAP + 1);
            if (allowed == run->budget) {
                cut = i;
            } else {
                allowed++;
            }
        }
    }
    if (cut < 0) {
        return;
    }
    /* How far back does what is to be cut reach, and where is that best? */
    for (start = cut; start > 0 && take[start - 1] &&
         !run->removed[start - 1] && one_piece(w, s, start); start--) {
        allowed--;
    }
    aligned = cut;
    while (aligned > start && cell_first(aligned) & (run->cut_align - 1)) {
        aligned--;
    }
    if (aligned > start) {
        seen[SEEN_CUT_ALIGNED] += aligned != cut;
        cut = aligned;
    } else if (allowed) {
        seen[SEEN_CUT_BEFORE] += cut != start;
        cut = start;
    } else {
        seen[SEEN_CUT_NEVER_ALIGNED] += cut != start;
    }
    for (int i = cut; i < NCELLS; i++) {
        if (take[i] && !run->removed[i]) {
            take[i] = false;
            run->pages_left++;
            seen[SEEN_CUT_BY_BUDGET]++;
        }
        seen[SEEN_KEPT_OVER_BUDGET] += take[i];
    }
}

/*
 * @run: whose budget to obey, or NULL
 * @gone: whose removals to see as done, or NULL
 */
static int find_additions(const World *w, const Space *s, Run *run,
                          const Run *gone, Piece *pieces)
{
    bool take[NCELLS];
    bool all = true;
    int n = 0;

    for (int i = 0; i < NCELLS; i++) {
        take[i] = s->desired[i].on && usable(w, i) && s->entry_of[i] < 0;
    }
    for (int j = 0; gone && j < gone->n_removals; j++) {
        for (int i = gone->removals[j].first; i <= gone->removals[j].last;
             i++) {
            take[i] = s->desired[i].on && usable(w, i);
        }
    }
    if (run && run->budget != UINT64_MAX) {
        apply_budget(w, s, run, take);
    }
    for (int i = 0; i < NCELLS; i++) {
        if (!take[i]) {
            all = false;
        } else if (n && pieces[n - 1].last == i - 1 && take[i - 1] &&
                   one_piece(w, s, i)) {
            pieces[n - 1].last = i;
        } else {
            pieces[n++] = (Piece) { i, i };
        }
        seen[SEEN_DISCRETE_NEIGHBOURS] += run && i && take[i - 1] && take[i] &&
            memory_goes_on(s->desired, i) && !goes_on(s->desired, i);
    }
    if (all && n == 1) {
        pieces[0].last = GAP;
        pieces[1] = (Piece) { GAP + 1, NCELLS - 1 };
        n = 2;
        seen[SEEN_ALL_64_BITS] += !!run;
    }
    return n;
}

static void run_prepare(World *w, int asid, bool withdraw, uint64_t budget,
                        uint64_t cut_align)
{
    Space *s = &w->as[asid];
    Run *run = &w->run;
    Piece additions[NCELLS];
    int n_additions = 0;

    *run = (Run) {
        .active = true,
        .asid = asid,
        .open = w->batch,
        .withdraw = withdraw,
        .budget = budget,
        .cut_align = cut_align,
    };
    memcpy(run->before, s->programmed, sizeof(run->before));
    memcpy(run->entry_before, s->entry_of, sizeof(run->entry_before));
    s->named = true;

    for (int i = 0; i < NCELLS; i++) {
        run->report.entries_before += s->entry[i].on;
        s->entry[i].stale |= withdraw;
    }
    run->n_removals = find_removals(w, s, withdraw, run->removals, run->goes);
    if (!withdraw) {
        n_additions = find_additions(w, s, NULL, run, additions);
        for (int i = 0; i < NCELLS; i++) {
            if (s->desired[i].on && !usable(w, i)) {
                int first = i, last = i;

                /* The whole range it is part of is reported */
                while (first > 0 && goes_on(s->desired, first)) {
                    first--;
                }
                while (last < NCELLS - 1 && goes_on(s->desired, last + 1)) {
                    last++;
                }
                model_fail(w, VHOST_VDPA_IOTLB_STEP_RANGE, ERANGE, asid,
                           cell_first(first), cell_last(last));
                seen[SEEN_OUTSIDE]++;
                break;
            }
        }
    }
    run->todo = run->n_removals || n_additions || run->open == asid;
    run->lone = run->open != asid && run->n_removals + n_additions == 1 &&
                (run->n_removals || (additions[0].first == additions[0].last &&
                                     cell_pages(additions[0].first) == 1));
}

/* All removals have been sent, whatever came of them */
static void run_start_adding(World *w)
{
    Run *run = &w->run;
    Space *s = &w->as[run->asid];

    CHECK_IF(w->judges & 1, run->removal == run->n_removals);
    run->adding = true;
    if (!run->withdraw) {
        run->n_additions = find_additions(w, s, run, NULL, run->additions);
        for (int i = 0; i < NCELLS; i++) {
            seen[SEEN_HIDDEN_BY_ENTRY] += s->desired[i].on &&
                s->entry_of[i] >= 0 &&
                !same_memory(&s->desired[i], &s->programmed[i]);
        }
    }
}

/* Each message was compared with the right one; now the outcome as a whole */
static void judge_messages(World *w, bool ok,
                           const VhostVDPAIOTLBReport *report)
{
    Run *run = &w->run;
    bool in_batch = run->begun || run->open == run->asid;

    if (!run->stopped) {
        CHECK(run->addition == run->n_additions);
        CHECK(run->begun == (run->todo && run->open != run->asid &&
                             w->batching && !run->lone));
        CHECK(in_batch == (run->ended || w->batch == run->asid));
        CHECK(run->ended || !in_batch ||
              (run->pages_left && !run->report.failures));
    }
    CHECK(run->todo || !run->report.messages);

    CHECK(report->entries_before == run->report.entries_before);
    CHECK(report->entries_after == run->report.entries_after);
    CHECK(report->messages == run->report.messages);
    CHECK(report->maps == run->report.maps);
    CHECK(report->unmaps == run->report.unmaps);
    CHECK(report->bytes_mapped == run->report.bytes_mapped);
    CHECK(report->bytes_unmapped == run->report.bytes_unmapped);
    CHECK(report->bytes_left == run->report.bytes_left);
    CHECK(report->failures == run->report.failures);
}

/* 1. After a commit without error, programmed is exactly what is desired */
static void judge_exact(World *w, bool ok, const VhostVDPAIOTLBReport *report)
{
    const Space *s = &w->as[w->run.asid];

    if (!ok || report->bytes_left) {
        return;
    }
    for (int i = 0; i < NCELLS; i++) {
        bool want = !w->run.withdraw && s->desired[i].on;

        CHECK((s->entry_of[i] >= 0) == want);
        CHECK(s->device[i].on == want);
        CHECK(!want || same_memory(&s->desired[i], &s->programmed[i]));
        CHECK(!want || same_memory(&s->desired[i], &s->device[i]));
    }
}

/*
 * 2. What stays is not touched, unless its entry has to go, and then it is
 * back before the device is told
 */
static void judge_stay(World *w, bool ok, const VhostVDPAIOTLBReport *report)
{
    const Run *run = &w->run;
    const Space *s = &w->as[run->asid];

    for (int i = 0; i < NCELLS && !run->withdraw; i++) {
        int entry = run->entry_before[i];

        if (entry < 0) {
            continue;
        }
        if (!run->goes[i]) {
            CHECK(!run->removed[i] && s->entry_of[i] == entry);
            CHECK(same_memory(&run->before[i], &s->programmed[i]));
        } else if (run->removed[i] && usable(w, i) && !run->refused[i] &&
                   same_memory(&run->before[i], &s->desired[i])) {
            /* No batch begins or ends but around all of a commit */
            CHECK(s->entry_of[i] >= 0);
            CHECK(same_memory(&run->before[i], &s->programmed[i]));
            CHECK(run->begun || run->open == run->asid || !w->batching);
        }
    }
}

/*
 * 3. A removal names whole entries that have to go, from the first byte of the
 * first to the last byte of the last; two are one unless something stays
 * between them
 */
static void judge_whole(World *w, bool ok, const VhostVDPAIOTLBReport *report)
{
    const Run *run = &w->run;
    int prev_first = -1, prev_last = -1;

    for (int n = 0; n < run->report.messages; n++) {
        const Message *m = &run->messages[n];
        bool between = false;

        if (m->kind != UNMAP) {
            continue;
        }
        CHECK(run->goes[m->first] && run->entry_before[m->first] == m->first);
        CHECK(run->goes[m->last] && m->last > prev_last);
        CHECK(m->last == NCELLS - 1 ||
              run->entry_before[m->last + 1] != run->entry_before[m->last]);
        for (int i = m->first; i <= m->last; i++) {
            CHECK(run->goes[i] || run->entry_before[i] < 0);
        }
        for (int i = prev_last + 1; i < m->first; i++) {
            /* Whatever has to go is removed */
            CHECK(!run->goes[i]);
            between |= run->entry_before[i] >= 0;
        }
        CHECK(prev_last < 0 || between ||
              (!prev_first && m->last == NCELLS - 1));
        prev_first = m->first;
        prev_last = m->last;
    }
}

/*
 * 4. Nothing to do, nothing sent; no batch that is empty or useless, one for
 * all else; removals before additions
 */
static void judge_batches(World *w, bool ok,
                          const VhostVDPAIOTLBReport *report)
{
    const Run *run = &w->run;
    bool in_batch = run->open == run->asid, begun = false, ended = false;
    bool needed = report->bytes_left;
    int unmaps = 0, maps = 0;

    CHECK(run->todo || !report->messages);
    for (int n = 0; n < report->messages; n++) {
        const Message *m = &run->messages[n];

        if (m->asid != run->asid) {
            /* Another one's batch is closed, but only if it is in the way */
            CHECK(!n && m->kind == END && m->asid == run->open);
            CHECK(!m->failed || report->messages == 1);
            continue;
        }
        CHECK(!ended);
        switch (m->kind) {
        case BEGIN:
            CHECK(w->batching && !in_batch && !unmaps && !maps);
            /* It is not left empty */
            CHECK(m->failed == (n == report->messages - 1));
            begun = in_batch = !m->failed;
            break;
        case UNMAP:
            CHECK(!maps);
            unmaps++;
            break;
        case MAP:
            maps++;
            needed |= m->first != m->last || cell_pages(m->first) > 1;
            break;
        case END:
            CHECK(in_batch && (unmaps || maps || !begun));
            ended = true;
            break;
        default:
            g_assert_not_reached();
        }
    }
    needed |= unmaps + maps > 1;
    CHECK_IF(begun && ok, needed);
    CHECK_IF(!in_batch && w->batching, !needed || run->stopped);
    CHECK_IF(in_batch, ended != (report->bytes_left && ok));
}

/* 5. What can be one entry is, but for discrete ranges and low memory */
static void judge_entries(World *w, bool ok,
                          const VhostVDPAIOTLBReport *report)
{
    const Run *run = &w->run;
    const Cell *desired = w->as[run->asid].desired;

    for (int n = 0; n < report->messages; n++) {
        const Message *m = &run->messages[n], *next = m + 1;

        if (m->kind != MAP) {
            continue;
        }
        for (int i = m->first + 1; i <= m->last; i++) {
            CHECK(cell_first(i) != w->small_limit);
            CHECK(desired[i - 1].discrete == desired[i].discrete);
        }
        if (n + 1 < report->messages && next->kind == MAP &&
            next->first == m->last + 1) {
            /* The second half of all 64 bits does not fit into a message */
            CHECK(!goes_on(desired, next->first) ||
                  cell_first(next->first) == w->small_limit ||
                  (!m->first && next->last == NCELLS - 1));
        }
    }
}

/* 6. Only what was accepted is recorded, and all the rest was tried */
static void judge_accepted(World *w, bool ok,
                           const VhostVDPAIOTLBReport *report)
{
    const Run *run = &w->run;
    const Space *s = &w->as[run->asid];
    const VhostVDPAIOTLBFailure *failure;
    uint64_t left = 0, failures = 0;
    VhostVDPAIOTLBStats stats;

    for (int n = 0; n < report->messages; n++) {
        failures += run->messages[n].failed;
    }
    CHECK(report->failures - failures <= 1 && ok == !report->failures);
    for (int i = 0; i < NCELLS && !run->stopped && !run->withdraw; i++) {
        left += s->desired[i].on && usable(w, i) && s->entry_of[i] < 0 &&
                !run->refused[i] ? cell_pages(i) : 0;
    }
    CHECK(report->bytes_left == saturated(left));

    failure = vhost_vdpa_iotlb_failure(w->iotlb, run->asid);
    CHECK(ok == !failure);
    if (failure) {
        CHECK(failure->step == run->failure.step);
        CHECK(failure->err == run->failure.err);
        CHECK(failure->asid == run->failure.asid);
        CHECK(failure->first == run->failure.first);
        CHECK(failure->last == run->failure.last);
    }
    vhost_vdpa_iotlb_stats(w->iotlb, run->asid, &stats);
    CHECK(stats.entries == report->entries_after);
}

typedef void Judge(World *w, bool ok, const VhostVDPAIOTLBReport *report);

/*
 * The invariants of the reconciler.  Each has a test of its own, which runs
 * random histories and judges by nothing else (but the rules of the kernel);
 * the test "random" judges by all of them, and by each message.
 */
static const struct {
    const char *name;
    Judge *judge;
} invariants[] = {
    { NULL, judge_messages },
    { "1-exact", judge_exact },
    { "2-stay", judge_stay },
    { "3-whole", judge_whole },
    { "4-batches", judge_batches },
    { "5-entries", judge_entries },
    { "6-accepted", judge_accepted },
    /* "7-cost" is not about histories: see test_cost() */
};

static void run_judge(World *w, bool ok, const VhostVDPAIOTLBReport *report,
                      Error *err)
{
    Run *run = &w->run;
    Space *s = &w->as[run->asid];
    int entries = 0;

    if (!run->stopped && !run->adding) {
        run_start_adding(w);
    }
    if (!run->stopped && !run->withdraw) {
        for (int i = 0; i < NCELLS; i++) {
            if (same_memory(&s->desired[i], &s->programmed[i])) {
                bool moved = s->programmed[i].owner != s->desired[i].owner;

                seen[SEEN_OWNER_MOVED] += moved;
                s->programmed[i].owner = s->desired[i].owner;
            }
            seen[SEEN_DISCRETE_IN_ONE_ENTRY] += i && s->entry_of[i] >= 0 &&
                s->entry_of[i] == s->entry_of[i - 1] &&
                memory_goes_on(s->desired, i) && !goes_on(s->desired, i);
        }
    }
    for (int i = 0; i < NCELLS; i++) {
        entries += s->entry[i].on;
        seen[SEEN_PIECES_KEPT] += !run->withdraw && run->removed[i] &&
                                  same_memory(&run->before[i],
                                              &s->programmed[i]);
    }
    run->report.entries_after = entries;
    run->report.bytes_mapped = saturated(run->pages_mapped);
    run->report.bytes_unmapped = saturated(run->pages_unmapped);
    run->report.bytes_left = saturated(run->pages_left);

    for (int n = 0; n < ARRAY_SIZE(invariants); n++) {
        if (w->judges & 1 << n) {
            invariants[n].judge(w, ok, report);
        }
    }

    CHECK(ok == !err);
    if (err && w->judges & (1 << 0 | 1 << 6)) {
        g_autofree char *range =
            g_strdup_printf("0x%" PRIx64 "-0x%" PRIx64, run->failure.first,
                            run->failure.last);

        CHECK(!run->failure.last || strstr(error_get_pretty(err), range));
        CHECK(run->failure.step == VHOST_VDPA_IOTLB_STEP_RANGE ||
              g_str_has_suffix(error_get_pretty(err),
                               strerror(run->failure.err)));
    }

    seen[SEEN_WITHDRAW_INCOMPLETE] += run->withdraw && entries;
    seen[SEEN_NOTHING_TO_DO] += !run->report.messages;
    if (w->batch == run->asid && ok) {
        seen[SEEN_KEPT_OPEN]++;
        seen[SEEN_KEPT_OPEN_TWICE] += run->open == run->asid;
        seen[SEEN_KEPT_OPEN_AFTER_REMOVAL] += run->report.unmaps > 0;
    }
    if (run->open == run->asid) {
        seen[SEEN_ONLY_END] += run->report.messages == 1;
        seen[SEEN_OPEN_WITHDRAWN] += run->withdraw;
    }
    seen[SEEN_OPEN_AND_FAILED] += run->pages_left && run->ended;
    if (run->lone && !run->stopped) {
        seen[SEEN_LONE_UNMAP] += !run->withdraw && run->report.unmaps;
        seen[SEEN_LONE_MAP] += run->report.maps;
        seen[SEEN_LONE_FAILED] += !ok;
        seen[SEEN_LONE_WITHDRAWN] += run->withdraw;
    }

    s->failed = !ok;
    s->failure = run->failure;
    s->messages += run->report.messages;
    run->active = false;
}

/* The kernel: obeys, checks that it is asked for nothing it would refuse */

static bool model_fails(World *w, Kind kind, int asid, int first, int last)
{
    Run *run = &w->run;
    bool fail = w->fail_always[kind];

    CHECK(run->active && asid < NASIDS);
    fail |= w->fail_in[kind] && !--w->fail_in[kind];
    fail |= w->fail_nth && !--w->fail_nth;
    fail |= w->fail_percent &&
            g_rand_int_range(w->rand, 0, 100) < w->fail_percent;

    CHECK(run->report.messages < ARRAY_SIZE(run->messages));
    run->messages[run->report.messages++] = (Message) {
        .kind = kind,
        .failed = fail,
        .asid = asid,
        .first = first,
        .last = last,
    };
    w->messages++;
    return fail;
}

static void model_log(World *w, bool fail, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

static void model_log(World *w, bool fail, const char *fmt, ...)
{
    va_list ap;

    if (w->log) {
        va_start(ap, fmt);
        g_string_append_vprintf(w->log, fmt, ap);
        va_end(ap);
        g_string_append(w->log, fail ? " FAILS\n" : "\n");
    }
}

/* A driver that takes whole maps learns what the kernel knows */
static void model_push(World *w, Space *s)
{
    if (w->set_map) {
        memcpy(s->device, s->kernel, sizeof(s->device));
    }
}

/* So it does without a batch; one that takes single ranges always gets them */
static void model_changed(World *w, Space *s, int a, int b)
{
    if (!w->set_map) {
        memcpy(&s->device[a], &s->kernel[a], (b - a + 1) * sizeof(Cell));
    } else if (w->batch < 0) {
        model_push(w, s);
    }
}

static int model_begin(void *opaque, uint32_t asid)
{
    World *w = opaque;
    Run *run = &w->run;
    bool fail = model_fails(w, BEGIN, asid, 0, 0);

    model_log(w, fail, "begin %" PRIu32, asid);
    CHECK(w->batch < 0);
    CHECK_IF(w->judges & 1, asid == run->asid && run->todo && !run->lone);
    CHECK_IF(w->judges & 1, w->batching && !run->stopped && !run->begun);
    CHECK_IF(w->judges & 1, run->open != asid &&
             run->report.messages == 1 + (run->open >= 0));
    run->begun = !fail;
    run->stopped = fail;
    w->as[asid].exists = true;
    if (fail) {
        model_fail(w, VHOST_VDPA_IOTLB_STEP_BATCH_BEGIN, w->err, asid, 0, 0);
        return -w->err;
    }
    w->batch = asid;
    return 0;
}

static int model_end(void *opaque, uint32_t asid)
{
    World *w = opaque;
    Run *run = &w->run;
    bool fail = model_fails(w, END, asid, 0, 0);

    model_log(w, fail, "end %" PRIu32, asid);
    CHECK(w->as[asid].exists && w->batch == asid);
    if (asid != run->asid) {
        CHECK_IF(w->judges & 1, run->open == asid && run->todo);
        CHECK_IF(w->judges & 1, run->report.messages == 1);
        run->stopped = fail;
        seen[fail ? SEEN_NOT_CLOSED_FOR_OTHER : SEEN_CLOSED_FOR_OTHER]++;
    } else {
        CHECK_IF(w->judges & 1, run->begun || run->open == asid);
        CHECK_IF(w->judges & 1, !run->ended && !run->stopped);
        if (!run->adding) {
            run_start_adding(w);
        }
        CHECK_IF(w->judges & 1, run->addition == run->n_additions);
        CHECK_IF(w->judges & 1, !run->pages_left || run->report.failures);
        run->ended = true;
    }
    if (fail) {
        model_fail(w, VHOST_VDPA_IOTLB_STEP_BATCH_END, w->err, asid, 0, 0);
        seen[SEEN_END_FAILED]++;
        return -w->err;
    }
    w->batch = -1;
    model_push(w, &w->as[asid]);
    return 0;
}

static int model_unmap(void *opaque, uint32_t asid, uint64_t first,
                       uint64_t last)
{
    World *w = opaque;
    Run *run = &w->run;
    Space *s = &w->as[asid];
    int a = cell_at(first, false), b = cell_at(last, true);
    bool fail = model_fails(w, UNMAP, asid, a, b);

    model_log(w, fail, "unmap %" PRIu32 " [%" PRId64 ",%" PRId64 "]", asid,
              page_first(first), page_last(last));
    CHECK(s->exists && (w->batch < 0 || w->batch == asid));
    /* Not just a part of an entry that was mapped, nor an empty margin */
    CHECK(a <= b && last - first != UINT64_MAX);
    CHECK(s->entry[a].on && s->entry_of[b] >= 0);
    CHECK(s->entry[s->entry_of[b]].last == b);
    if (w->judges & 1) {
        CHECK(asid == run->asid && !run->stopped && !run->ended);
        CHECK(w->batch == asid || !w->batching || run->lone);
        CHECK(!run->adding && run->removal < run->n_removals);
        CHECK(a == run->removals[run->removal].first &&
              b == run->removals[run->removal].last);
    }
    seen[SEEN_REMOVED_APART] += run->removal > 0;
    seen[SEEN_REMOVED_ALL_64_BITS] += run->removal && b == NCELLS - 1 &&
        run->messages[run->report.messages - 2].kind == UNMAP &&
        !run->messages[run->report.messages - 2].first;
    run->removal++;
    if (fail) {
        model_fail(w, VHOST_VDPA_IOTLB_STEP_UNMAP, w->err, asid, first, last);
        seen[SEEN_REMOVED_TOGETHER_FAILED] += s->entry[a].last < b;
        return -w->err;
    }

    run->report.unmaps++;
    seen[SEEN_REMOVED_TOGETHER] += s->entry[a].last < b;
    for (int i = a; i <= b; i++) {
        if (s->entry_of[i] < 0) {
            seen[SEEN_REMOVED_OVER_HOLE]++;
            continue;
        }
        run->removed[i] = true;
        run->pages_unmapped += cell_pages(i);
        s->entry[i].on = false;
        s->entry_of[i] = -1;
        s->programmed[i].on = false;
        s->kernel[i].on = false;
    }
    model_changed(w, s, a, b);
    return 0;
}

static int model_map(void *opaque, uint32_t asid, uint64_t first,
                     uint64_t last, uint64_t uaddr, uint8_t perm)
{
    World *w = opaque;
    Run *run = &w->run;
    Space *s = &w->as[asid];
    int a = cell_at(first, false), b = cell_at(last, true);
    bool fail = model_fails(w, MAP, asid, a, b);

    model_log(w, fail, "map %" PRIu32 " [%" PRId64 ",%" PRId64 "] @%" PRId64
              " %s", asid, page_first(first), page_last(last),
              page_first(uaddr),
              perm == RW ? "rw" : perm == RO ? "ro" : "wo");
    CHECK(w->batch < 0 || w->batch == asid);
    CHECK(a <= b && last - first != UINT64_MAX);
    CHECK(first >= w->range_first && last <= w->range_last);
    CHECK(perm >= RO && perm <= RW);
    for (int i = a; i <= b; i++) {
        CHECK(s->entry_of[i] < 0 && !s->programmed[i].on);
    }
    if (!run->adding) {
        run_start_adding(w);
    }
    if (w->judges & 1) {
        CHECK(asid == run->asid && !run->stopped && !run->ended);
        CHECK(w->batch == asid || !w->batching || run->lone);
        CHECK(run->addition < run->n_additions);
        CHECK(a == run->additions[run->addition].first &&
              b == run->additions[run->addition].last);
        CHECK(uaddr == s->desired[a].uaddr && perm == s->desired[a].perm);
    }
    run->addition++;
    seen[SEEN_OVER_LIMIT] += first == w->small_limit && first &&
                             goes_on(s->desired, a);
    s->exists = true;
    if (fail) {
        model_fail(w, VHOST_VDPA_IOTLB_STEP_MAP, w->err, asid, first, last);
        for (int i = a; i <= b; i++) {
            run->refused[i] = true;
        }
        if (!first) {
            for (int i = 0; i < NCELLS; i++) {
                s->entry[i].stale = true;
                if (w->wipes) {
                    seen[SEEN_WIPED] += s->kernel[i].on;
                    s->kernel[i].on = false;
                }
            }
            model_changed(w, s, 0, NCELLS - 1);
        }
        return -w->err;
    }

    run->report.maps++;
    s->entry[a] = (Entry) { .on = true, .last = b };
    for (int i = a; i <= b; i++) {
        run->pages_mapped += cell_pages(i);
        s->entry_of[i] = a;
        s->programmed[i] = (Cell) {
            .on = true,
            .perm = perm,
            .owner = s->desired[i].owner,
            .uaddr = uaddr + (cell_first(i) - first),
        };
        s->kernel[i] = s->programmed[i];
    }
    model_changed(w, s, a, b);
    return 0;
}

static void model_ref(void *opaque, void *owner)
{
    World *w = opaque;

    CHECK((char *)owner > owners && (char *)owner < owners + NOWNERS);
    w->refs[(char *)owner - owners]++;
}

/* Who has to keep the memory of a programmed page */
static int cell_owner(const World *w, int asid, int i)
{
    const Space *s = &w->as[asid];
    const Run *run = &w->run;

    /* Ownership moves when a commit is done, which is about to be */
    if (run->active && !run->withdraw && run->asid == asid && !run->stopped &&
        same_memory(&s->desired[i], &s->programmed[i])) {
        return s->desired[i].owner;
    }
    return s->programmed[i].owner;
}

static void model_unref(void *opaque, void *owner)
{
    World *w = opaque;
    int o = (char *)owner - owners;

    CHECK(o > 0 && o < NOWNERS && w->refs[o] > 0);
    if (--w->refs[o]) {
        return;
    }
    for (int asid = 0; asid < NASIDS; asid++) {
        const Space *s = &w->as[asid];

        for (int i = 0; i < NCELLS; i++) {
            int owner_now = s->entry_of[i] < 0 ? 0 : cell_owner(w, asid, i);

            CHECK(owner_now != o);
            CHECK(!s->device[i].on || s->device[i].owner != o ||
                  same_memory(&s->device[i], &s->programmed[i]));
        }
    }
}

static const VhostVDPAIOTLBOps model_ops = {
    .batch_begin = model_begin,
    .batch_end = model_end,
    .map = model_map,
    .unmap = model_unmap,
    .ref = model_ref,
    .unref = model_unref,
};

/* What the reconciler says must be what the model knows */

typedef struct Visit {
    World *w;
    const Space *s;
    int next;
} Visit;

static bool visit_desired(const VhostVDPAIOTLBRange *range, void *data)
{
    Visit *v = data;
    int a = cell_at(range->first, false), b = cell_at(range->last, true);

    for (; v->next < a; v->next++) {
        CHECK(!v->s->desired[v->next].on);
    }
    CHECK(a == v->next);
    for (; v->next <= b; v->next++) {
        const Cell *cell = &v->s->desired[v->next];

        CHECK(cell->on && cell->perm == range->perm);
        CHECK(owner_ptr(cell->owner) == range->owner);
        CHECK(cell->uaddr ==
              range->uaddr + (cell_first(v->next) - range->first));
    }
    CHECK(b == NCELLS - 1 || !goes_on(v->s->desired, b + 1));
    return true;
}

static bool visit_programmed(const VhostVDPAIOTLBRange *range, void *data)
{
    Visit *v = data;
    int a = cell_at(range->first, false), b = cell_at(range->last, true);

    for (; v->next < a; v->next++) {
        CHECK(v->s->entry_of[v->next] < 0);
    }
    CHECK(a == v->next && !range->owner);
    CHECK(v->s->entry[a].on && v->s->entry[a].last == b);
    CHECK(range->uaddr == v->s->programmed[a].uaddr);
    CHECK(range->perm == v->s->programmed[a].perm);
    v->next = b + 1;
    return true;
}

static void world_check(World *w)
{
    bool owned[NOWNERS] = { false };
    uint64_t messages = 0;

    for (int asid = 0; asid < NASIDS; asid++) {
        Space *s = &w->as[asid];
        const VhostVDPAIOTLBFailure *failure;
        uint64_t desired = 0, programmed = 0, entries = 0;
        VhostVDPAIOTLBStats stats;
        Piece pieces[NCELLS];
        bool todo;
        Visit v;

        if (!s->named) {
            continue;
        }
        v = (Visit) { .w = w, .s = s };
        vhost_vdpa_iotlb_foreach_desired(w->iotlb, asid, visit_desired, &v);
        for (; v.next < NCELLS; v.next++) {
            CHECK(!s->desired[v.next].on);
        }
        v = (Visit) { .w = w, .s = s };
        vhost_vdpa_iotlb_foreach_programmed(w->iotlb, asid, visit_programmed,
                                            &v);
        for (; v.next < NCELLS; v.next++) {
            CHECK(s->entry_of[v.next] < 0);
        }

        for (int i = 0; i < NCELLS; i++) {
            desired += s->desired[i].on ? cell_pages(i) : 0;
            programmed += s->entry_of[i] >= 0 ? cell_pages(i) : 0;
            entries += s->entry[i].on;
            if (s->entry_of[i] >= 0) {
                owned[s->programmed[i].owner] = true;
            }
        }
        vhost_vdpa_iotlb_stats(w->iotlb, asid, &stats);
        CHECK(stats.bytes_desired == saturated(desired));
        CHECK(stats.bytes == saturated(programmed));
        CHECK(stats.entries == entries);
        CHECK(stats.messages == s->messages);
        messages += stats.messages;

        todo = w->batch == asid ||
               find_removals(w, s, false, pieces, NULL) ||
               find_additions(w, s, NULL, NULL, pieces);
        CHECK(vhost_vdpa_iotlb_dirty(w->iotlb, asid) == todo);

        failure = vhost_vdpa_iotlb_failure(w->iotlb, asid);
        CHECK(!failure == !s->failed);
        if (failure) {
            CHECK(failure->step == s->failure.step);
            CHECK(failure->err == s->failure.err);
            CHECK(failure->asid == s->failure.asid);
            CHECK(failure->first == s->failure.first);
            CHECK(failure->last == s->failure.last);
        }
    }

    CHECK(messages == w->messages);
    for (int o = 1; o < NOWNERS; o++) {
        CHECK(w->refs[o] || !owned[o]);
        CHECK(!w->refs[o] || owned[o] || w->batch >= 0);
    }
}

/* Operations on both */

static World *world_new(bool batching, uint64_t small_limit)
{
    World *w = g_new0(World, 1);

    w->batching = batching;
    w->set_map = true;
    w->judges = -1;
    w->small_limit = small_limit;
    w->range_last = UINT64_MAX;
    w->batch = -1;
    w->err = EFAULT;
    for (int asid = 0; asid < NASIDS; asid++) {
        for (int i = 0; i < NCELLS; i++) {
            w->as[asid].entry_of[i] = -1;
        }
    }
    w->iotlb = vhost_vdpa_iotlb_new(&model_ops, w, small_limit, PAGE);
    vhost_vdpa_iotlb_set_batching(w->iotlb, batching);
    return w;
}

/* A world whose messages are compared as text */
static World *world_new_logged(bool batching, uint64_t small_limit)
{
    World *w = world_new(batching, small_limit);

    w->log = g_string_new(NULL);
    return w;
}

/* Closing the device is what ends all access */
static void world_close(World *w)
{
    for (int asid = 0; asid < NASIDS; asid++) {
        Space *s = &w->as[asid];

        s->exists = false;
        s->failed = false;
        memset(s->programmed, 0, sizeof(s->programmed));
        memset(s->kernel, 0, sizeof(s->kernel));
        memset(s->device, 0, sizeof(s->device));
        memset(s->entry, 0, sizeof(s->entry));
        for (int i = 0; i < NCELLS; i++) {
            s->entry_of[i] = -1;
        }
    }
    w->batch = -1;
}

static void world_free(World *w)
{
    uint64_t messages = w->messages;

    world_close(w);
    vhost_vdpa_iotlb_free(w->iotlb);
    CHECK(w->messages == messages);
    for (int o = 0; o < NOWNERS; o++) {
        CHECK(!w->refs[o]);
    }
    if (w->log) {
        CHECK(!w->log->len);
        g_string_free(w->log, true);
    }
    g_free(w);
}

static bool world_add_cells(World *w, int asid, int a, int b, uint64_t uaddr,
                            VhostVDPAIOTLBPerm perm, int owner,
                            bool discrete)
{
    uint32_t number = discrete ? ++w->discrete : 0;
    Error *err = NULL;
    bool inside = true, ok;

    w->as[asid].named = true;
    for (int i = a; i <= b; i++) {
        w->as[asid].desired[i] = (Cell) {
            .on = true,
            .perm = perm,
            .owner = owner,
            .discrete = number,
            .uaddr = uaddr + (cell_first(i) - cell_first(a)),
        };
        inside &= usable(w, i);
    }
    ok = vhost_vdpa_iotlb_add(w->iotlb, asid, cell_first(a), cell_last(b),
                              uaddr, perm, owner_ptr(owner), discrete, &err);
    CHECK(ok == inside && ok == !err);
    error_free(err);
    return ok;
}

static void world_del_cells(World *w, int asid, int a, int b)
{
    for (int i = a; i <= b; i++) {
        w->as[asid].desired[i].on = false;
    }
    vhost_vdpa_iotlb_del(w->iotlb, asid, cell_first(a), cell_last(b));
}

static void world_clear(World *w, int asid)
{
    for (int i = 0; i < NCELLS; i++) {
        w->as[asid].desired[i].on = false;
    }
    vhost_vdpa_iotlb_clear(w->iotlb, asid);
}

static void world_set_range(World *w, uint64_t first, uint64_t last)
{
    w->range_first = first;
    w->range_last = last;
    vhost_vdpa_iotlb_set_range(w->iotlb, first, last);
}

static void world_set_batching(World *w, bool batching)
{
    w->batching = batching;
    vhost_vdpa_iotlb_set_batching(w->iotlb, batching);
}

static bool world_commit_some(World *w, int asid, uint64_t pages,
                              uint64_t align, Error **errp)
{
    VhostVDPAIOTLBReport report;
    Error *err = NULL;
    bool ok;

    run_prepare(w, asid, false, pages, align * PAGE);
    if (pages == UINT64_MAX) {
        ok = vhost_vdpa_iotlb_commit(w->iotlb, asid, &report, &err);
    } else {
        ok = vhost_vdpa_iotlb_commit_some(w->iotlb, asid, pages * PAGE,
                                          align * PAGE, &report, &err);
    }
    run_judge(w, ok, &report, err);
    error_propagate(errp, err);
    return ok;
}

static bool world_commit(World *w, int asid)
{
    Error *err = NULL;
    bool ok = world_commit_some(w, asid, UINT64_MAX, 1, &err);

    error_free(err);
    return ok;
}

static bool world_withdraw(World *w, int asid)
{
    VhostVDPAIOTLBReport report;
    Error *err = NULL;
    bool ok;

    run_prepare(w, asid, true, 0, PAGE);
    ok = vhost_vdpa_iotlb_withdraw(w->iotlb, asid, &report, &err);
    run_judge(w, ok, &report, err);
    error_free(err);
    return ok;
}

/* The driver forgets what it was told, unlike the kernel's vhost layer */
static void world_reset(World *w)
{
    for (int asid = 0; asid < NASIDS; asid++) {
        memset(w->as[asid].device, 0, sizeof(w->as[asid].device));
    }
    seen[SEEN_OPEN_RESET] += w->batch >= 0;
    for (int asid = 0; asid < NASIDS; asid++) {
        if (w->as[asid].named) {
            world_withdraw(w, asid);
        }
    }
}

/* For hand-written tests: pages, negative ones counted from 2^64 */

static int page_cell(int page)
{
    g_assert(page >= -WIN && page < WIN);
    return page < 0 ? NCELLS + page : page;
}

static bool add(World *w, int asid, int first, int last, int64_t upage,
                VhostVDPAIOTLBPerm perm, int owner)
{
    return world_add_cells(w, asid, page_cell(first), page_cell(last),
                           upage * PAGE, perm, owner, false);
}

static bool add_discrete(World *w, int asid, int first, int last,
                         int64_t upage, VhostVDPAIOTLBPerm perm, int owner)
{
    return world_add_cells(w, asid, page_cell(first), page_cell(last),
                           upage * PAGE, perm, owner, true);
}

static void del(World *w, int asid, int first, int last)
{
    world_del_cells(w, asid, page_cell(first), page_cell(last));
}

static void expect(World *w, const char *messages)
{
    world_check(w);
    g_assert_cmpstr(w->log->str, ==, messages);
    g_string_truncate(w->log, 0);
}

/* Hand-written tests */

static void test_empty(void)
{
    World *w = world_new_logged(true, 0);

    g_assert_false(vhost_vdpa_iotlb_dirty(w->iotlb, 0));
    g_assert_null(vhost_vdpa_iotlb_failure(w->iotlb, 7));
    g_assert_true(vhost_vdpa_iotlb_check(w->iotlb, 0, &error_abort));
    del(w, 0, 0, 9);
    world_clear(w, 0);
    g_assert_true(world_commit(w, 0));
    g_assert_true(world_withdraw(w, 0));
    expect(w, "");

    /* Gone before it was ever sent */
    add(w, 0, 1, 2, 100, RW, 1);
    del(w, 0, 0, 9);
    g_assert_true(world_commit(w, 0));
    expect(w, "");
    world_free(w);
    vhost_vdpa_iotlb_free(NULL);
}

static void test_batching(void)
{
    World *w = world_new_logged(true, 0);

    add(w, 0, 1, 2, 100, RO, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [1,2] @100 ro\n"
              "end 0\n");
    g_assert_true(world_commit(w, 0));
    expect(w, "");

    world_set_batching(w, false);
    add(w, 0, 4, 4, 104, WO, 1);
    del(w, 0, 1, 2);
    g_assert_true(world_commit(w, 0));
    expect(w, "unmap 0 [1,2]\n"
              "map 0 [4,4] @104 wo\n");
    world_free(w);
}

static void test_merge(void)
{
    World *w = world_new_logged(true, 0);

    add(w, 0, 4, 5, 104, RW, 1);
    add(w, 0, 0, 1, 100, RW, 1);
    add(w, 0, 2, 3, 102, RW, 1);    /* joins both */
    add(w, 0, 6, 6, 106, RO, 1);    /* other permission */
    add(w, 0, 7, 7, 107, RO, 2);    /* other owner */
    add(w, 0, 8, 8, 109, RO, 2);    /* other host memory */
    add(w, 0, 9, 9, 109, RO, 2);    /* same host memory as the one before */
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [0,5] @100 rw\n"
              "map 0 [6,6] @106 ro\n"
              "map 0 [7,7] @107 ro\n"
              "map 0 [8,8] @109 ro\n"
              "map 0 [9,9] @109 ro\n"
              "end 0\n");
    world_free(w);
}

static void test_small_limit(void)
{
    World *w = world_new_logged(true, 16 * PAGE);

    add(w, 0, 0, 31, 100, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [0,15] @100 rw\n"
              "map 0 [16,31] @116 rw\n"
              "end 0\n");

    /* What happens below does not touch what is above */
    add(w, 0, 12, 15, 112, RO, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [0,15]\n"
              "map 0 [0,11] @100 rw\n"
              "map 0 [12,15] @112 ro\n"
              "end 0\n");
    add(w, 0, 12, 15, 112, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [12,15]\n"
              "map 0 [12,15] @112 rw\n"
              "end 0\n");
    world_free(w);
}

static void test_obsolete(void)
{
    World *w = world_new_logged(true, 16 * PAGE);

    g_assert_cmpuint(vhost_vdpa_iotlb_obsolete(w->iotlb, 0), ==, 0);
    add(w, 0, 0, 31, 100, RW, 1);
    g_assert_cmpuint(vhost_vdpa_iotlb_obsolete(w->iotlb, 0), ==, 0);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [0,15] @100 rw\n"
              "map 0 [16,31] @116 rw\n"
              "end 0\n");

    /* Gone, elsewhere, other permission; come back; new */
    del(w, 0, 30, 31);
    g_assert_cmpuint(vhost_vdpa_iotlb_obsolete(w->iotlb, 0), ==, 2 * PAGE);
    add(w, 0, 14, 16, 300, RW, 1);
    g_assert_cmpuint(vhost_vdpa_iotlb_obsolete(w->iotlb, 0), ==, 5 * PAGE);
    add(w, 0, 20, 20, 120, RO, 1);
    g_assert_cmpuint(vhost_vdpa_iotlb_obsolete(w->iotlb, 0), ==, 6 * PAGE);
    add(w, 0, 14, 16, 114, RW, 1);
    g_assert_cmpuint(vhost_vdpa_iotlb_obsolete(w->iotlb, 0), ==, 3 * PAGE);
    del(w, 0, 0, 29);
    add(w, 0, 0, 31, 100, RW, 2);
    g_assert_cmpuint(vhost_vdpa_iotlb_obsolete(w->iotlb, 0), ==, 0);
    del(w, 0, 0, 31);
    g_assert_cmpuint(vhost_vdpa_iotlb_obsolete(w->iotlb, 0), ==, 32 * PAGE);
    g_assert_true(world_commit(w, 0));
    expect(w, "unmap 0 [0,31]\n");
    g_assert_cmpuint(vhost_vdpa_iotlb_obsolete(w->iotlb, 0), ==, 0);

    /* What the device can no longer use; all there can be */
    add(w, 0, 0, 9, 100, RW, 1);
    g_assert_true(world_commit(w, 0));
    world_set_range(w, 2 * PAGE, 8 * PAGE - 1);
    g_assert_cmpuint(vhost_vdpa_iotlb_obsolete(w->iotlb, 0), ==, 4 * PAGE);
    world_set_range(w, 10 * PAGE, UINT64_MAX);
    g_assert_cmpuint(vhost_vdpa_iotlb_obsolete(w->iotlb, 0), ==, 10 * PAGE);
    world_set_range(w, 0, UINT64_MAX);
    world_add_cells(w, 0, 0, NCELLS - 1, 0, RW, 1, false);
    g_assert_true(world_commit(w, 0));
    g_assert_cmphex(vhost_vdpa_iotlb_obsolete(w->iotlb, 0), ==, 0);
    world_clear(w, 0);
    g_assert_cmphex(vhost_vdpa_iotlb_obsolete(w->iotlb, 0), ==, UINT64_MAX);
    g_string_truncate(w->log, 0);
    world_free(w);
}

static void test_growth(void)
{
    World *w = world_new_logged(true, 0);

    add(w, 0, 4, 9, 104, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [4,9] @104 rw\n"
              "end 0\n");
    add(w, 0, 10, 11, 110, RW, 1);
    add(w, 0, 2, 3, 102, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [2,3] @102 rw\n"
              "map 0 [10,11] @110 rw\n"
              "end 0\n");

    /* Said again as a whole: nothing new in it */
    add(w, 0, 2, 11, 102, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "");

    /* Only the entry that is hit changes */
    del(w, 0, 11, 11);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [10,11]\n"
              "map 0 [10,10] @110 rw\n"
              "end 0\n");
    world_free(w);
}

static void test_split(void)
{
    World *w = world_new_logged(true, 0);

    add(w, 0, 0, 9, 100, RW, 1);
    g_assert_true(world_commit(w, 0));
    g_string_truncate(w->log, 0);

    del(w, 0, 9, 9);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [0,9]\n"
              "map 0 [0,8] @100 rw\n"
              "end 0\n");
    del(w, 0, 4, 4);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [0,8]\n"
              "map 0 [0,3] @100 rw\n"
              "map 0 [5,8] @105 rw\n"
              "end 0\n");
    add(w, 0, 6, 6, 200, RW, 2);
    add(w, 0, 1, 1, 101, RO, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [0,8]\n"
              "map 0 [0,0] @100 rw\n"
              "map 0 [1,1] @101 ro\n"
              "map 0 [2,3] @102 rw\n"
              "map 0 [5,5] @105 rw\n"
              "map 0 [6,6] @200 rw\n"
              "map 0 [7,8] @107 rw\n"
              "end 0\n");

    /* One removal, one addition over the edges of several entries */
    del(w, 0, 3, 7);
    add(w, 0, 3, 8, 103, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [6,6]\n"
              "map 0 [4,4] @104 rw\n"
              "map 0 [6,6] @106 rw\n"
              "end 0\n");
    world_free(w);
}

static void test_nothing_changed(void)
{
    World *w = world_new_logged(true, 0);

    add(w, 0, 0, 9, 100, RW, 1);
    add(w, 0, 10, 19, 200, RO, 2);
    g_assert_true(world_commit(w, 0));
    g_string_truncate(w->log, 0);

    world_clear(w, 0);
    g_assert_true(vhost_vdpa_iotlb_dirty(w->iotlb, 0));
    add(w, 0, 5, 9, 105, RW, 1);
    add(w, 0, 10, 19, 200, RO, 2);
    add(w, 0, 0, 4, 100, RW, 1);
    g_assert_false(vhost_vdpa_iotlb_dirty(w->iotlb, 0));
    g_assert_true(world_commit(w, 0));
    expect(w, "");
    world_free(w);
}

static void test_owner(void)
{
    World *w = world_new_logged(true, 0);

    add(w, 0, 0, 9, 100, RW, 1);
    g_assert_cmpint(w->refs[1], ==, 0);
    g_assert_true(world_commit(w, 0));
    g_assert_cmpint(w->refs[1], >, 0);
    g_string_truncate(w->log, 0);

    /* No longer desired, but still programmed */
    world_clear(w, 0);
    g_assert_cmpint(w->refs[1], >, 0);

    /* The same memory, partly with another owner, needs no message */
    add(w, 0, 0, 3, 100, RW, 1);
    add(w, 0, 4, 5, 104, RW, 2);
    add(w, 0, 6, 9, 106, RW, 0);
    g_assert_true(world_commit(w, 0));
    g_assert_cmpint(w->refs[1], >, 0);
    g_assert_cmpint(w->refs[2], >, 0);
    expect(w, "");

    /* The old owner goes as the last page does */
    add(w, 0, 0, 9, 100, RW, 3);
    g_assert_true(world_commit(w, 0));
    g_assert_cmpint(w->refs[1], ==, 0);
    g_assert_cmpint(w->refs[2], ==, 0);
    expect(w, "");

    world_clear(w, 0);
    g_assert_true(world_commit(w, 0));
    g_assert_cmpint(w->refs[3], ==, 0);
    expect(w, "unmap 0 [0,9]\n");
    world_free(w);
}

static void test_top(void)
{
    World *w = world_new_logged(true, 0);

    add(w, 0, -4, -1, 100, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [-4,-1] @100 rw\n"
              "end 0\n");
    del(w, 0, -2, -2);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [-4,-1]\n"
              "map 0 [-4,-3] @100 rw\n"
              "map 0 [-1,-1] @103 rw\n"
              "end 0\n");

    /* Neither end of the address space is a neighbour of the other */
    add(w, 0, 0, 0, 104, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "map 0 [0,0] @104 rw\n");
    world_free(w);
}

static void test_host_wrap(void)
{
    World *w = world_new_logged(false, 0);

    /* Host memory does not go on from its end to its start */
    add(w, 0, 4, 5, -2, RW, 1);
    add(w, 0, 6, 7, 0, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "map 0 [4,5] @-2 rw\n"
              "map 0 [6,7] @0 rw\n");
    world_clear(w, 0);
    g_assert_true(world_commit(w, 0));
    g_string_truncate(w->log, 0);
    add(w, 0, 6, 7, 0, RW, 1);
    add(w, 0, 4, 5, -2, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "map 0 [4,5] @-2 rw\n"
              "map 0 [6,7] @0 rw\n");
    world_free(w);
}

static void test_all_64_bits(void)
{
    VhostVDPAIOTLBStats stats;
    World *w = world_new_logged(true, 0);

    world_add_cells(w, 0, 0, NCELLS - 1, 0, RW, 1, false);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [0,2251799813685247] @0 rw\n"
              "map 0 [-2251799813685248,-1] @-2251799813685248 rw\n"
              "end 0\n");
    vhost_vdpa_iotlb_stats(w->iotlb, 0, &stats);
    g_assert_cmphex(stats.bytes, ==, UINT64_MAX);
    g_assert_cmpuint(stats.ranges_desired, ==, 1);
    del(w, 0, 3, 3);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [0,2251799813685247]\n"
              "map 0 [0,2] @0 rw\n"
              "map 0 [4,2251799813685247] @4 rw\n"
              "end 0\n");
    world_clear(w, 0);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [0,2251799813685247]\n"
              "unmap 0 [-2251799813685248,-1]\n"
              "end 0\n");
    world_free(w);

    w = world_new_logged(true, 16 * PAGE);
    world_add_cells(w, 0, 0, NCELLS - 1, 0, RW, 1, false);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [0,15] @0 rw\n"
              "map 0 [16,-1] @16 rw\n"
              "end 0\n");
    world_free(w);
}

static void test_range(void)
{
    Error *err = NULL;
    World *w = world_new_logged(true, 0);

    world_set_range(w, 2 * PAGE, 10 * PAGE - 1);
    add(w, 0, 2, 9, 102, RW, 1);
    g_assert_true(vhost_vdpa_iotlb_check(w->iotlb, 0, &error_abort));
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [2,9] @102 rw\n"
              "end 0\n");

    g_assert_false(vhost_vdpa_iotlb_add(w->iotlb, 1, 12 * PAGE, 13 * PAGE - 1,
                                        0, RW, NULL, false, &err));
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "memory at IOVA 0xc000-0xcfff of address space 1 is"
                    " outside the device's IOVA range 0x2000-0x9fff");
    error_free_or_abort(&err);
    vhost_vdpa_iotlb_clear(w->iotlb, 1);

    /* The inside is mapped; the error stays as long as its cause */
    g_assert_false(add(w, 0, 9, 11, 209, RW, 2));
    for (int i = 0; i < 2; i++) {
        g_assert_false(vhost_vdpa_iotlb_check(w->iotlb, 0, &err));
        g_assert_cmpstr(error_get_pretty(err), ==,
                        "memory at IOVA 0x9000-0xbfff of address space 0 is"
                        " outside the device's IOVA range 0x2000-0x9fff");
        error_free_or_abort(&err);
        g_assert_false(world_commit_some(w, 0, UINT64_MAX, 1, &err));
        g_assert_cmpstr(error_get_pretty(err), ==,
                        "memory at IOVA 0x9000-0xbfff of address space 0 is"
                        " outside the device's IOVA range 0x2000-0x9fff");
        error_free_or_abort(&err);
        expect(w, i ? "" : "begin 0\n"
                           "unmap 0 [2,9]\n"
                           "map 0 [2,8] @102 rw\n"
                           "map 0 [9,9] @209 rw\n"
                           "end 0\n");
    }
    g_assert_false(vhost_vdpa_iotlb_dirty(w->iotlb, 0));

    /* A device with more room */
    world_set_range(w, 0, 11 * PAGE + 1);
    g_assert_false(world_commit(w, 0));
    expect(w, "map 0 [10,10] @210 rw\n");
    world_set_range(w, 0, UINT64_MAX);
    g_assert_true(world_commit(w, 0));
    expect(w, "map 0 [11,11] @211 rw\n");

    /* One with less */
    world_set_range(w, 2 * PAGE + 1, 8 * PAGE - 2);
    g_assert_false(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [2,11]\n"
              "map 0 [3,6] @103 rw\n"
              "end 0\n");
    del(w, 0, 7, 11);
    g_assert_false(world_commit(w, 0));
    del(w, 0, 0, 2);
    g_assert_true(world_commit(w, 0));
    expect(w, "");

    /* Ranges without any whole page */
    static const struct {
        uint64_t first, last;
    } none[] = {
        { 0, PAGE - 2 },
        { 1, PAGE - 1 },
        { 3 * PAGE, 3 * PAGE },
        { 3 * PAGE + 1, 5 * PAGE - 2 },
        { UINT64_MAX - 4094, UINT64_MAX },
        { UINT64_MAX, UINT64_MAX },
        { UINT64_MAX - 4095, UINT64_MAX - 1 },
    };
    for (int i = 0; i < ARRAY_SIZE(none); i++) {
        world_free(w);
        w = world_new_logged(true, 0);
        world_set_range(w, none[i].first, none[i].last);
        add(w, 0, 0, 9, 100, RW, 1);
        add(w, 0, -9, -1, 100, RW, 1);
        g_assert_false(vhost_vdpa_iotlb_check(w->iotlb, 0, NULL));
        g_assert_false(world_commit(w, 0));
        expect(w, "");
    }
    /* And with just one */
    world_set_range(w, UINT64_MAX - 4095, UINT64_MAX);
    g_assert_false(world_commit(w, 0));
    expect(w, "map 0 [-1,-1] @108 rw\n");
    world_free(w);
}

static void test_map_fails(void)
{
    Error *err = NULL;
    World *w = world_new_logged(true, 0);

    add(w, 0, 2, 3, 100, RW, 1);
    add(w, 0, 5, 6, 200, RW, 2);
    add(w, 0, 8, 9, 300, RW, 3);
    w->fail_in[MAP] = 2;
    w->err = ENOMEM;
    g_assert_false(world_commit_some(w, 0, UINT64_MAX, 1, &err));
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "cannot map IOVA 0x5000-0x6fff (8192 bytes) of address"
                    " space 0: Cannot allocate memory");
    error_free_or_abort(&err);
    g_assert_cmpint(w->refs[2], ==, 0);
    expect(w, "begin 0\n"
              "map 0 [2,3] @100 rw\n"
              "map 0 [5,6] @200 rw FAILS\n"
              "map 0 [8,9] @300 rw\n"
              "end 0\n");

    w->fail_always[MAP] = true;
    add(w, 0, 11, 11, 400, RW, 4);
    g_assert_false(world_commit_some(w, 0, UINT64_MAX, 1, &err));
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "cannot map IOVA 0x5000-0x6fff (8192 bytes) of address"
                    " space 0 (first of 2 failures): Cannot allocate memory");
    error_free_or_abort(&err);
    expect(w, "begin 0\n"
              "map 0 [5,6] @200 rw FAILS\n"
              "map 0 [11,11] @400 rw FAILS\n"
              "end 0\n");

    /* No longer wanted: no longer tried */
    w->fail_always[MAP] = false;
    del(w, 0, 5, 5);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [6,6] @201 rw\n"
              "map 0 [11,11] @400 rw\n"
              "end 0\n");
    world_free(w);
}

static void test_unmap_fails(void)
{
    Error *err = NULL;
    World *w = world_new_logged(true, 0);

    add(w, 0, 2, 9, 102, RW, 1);
    g_assert_true(world_commit(w, 0));
    g_string_truncate(w->log, 0);

    /* What is in the way stays missing, the rest is done */
    del(w, 0, 2, 9);
    add(w, 0, 1, 4, 201, RW, 2);
    add(w, 0, 8, 9, 108, RW, 1);
    add(w, 0, 10, 10, 110, RW, 1);
    w->fail_in[UNMAP] = 1;
    g_assert_false(world_commit_some(w, 0, UINT64_MAX, 1, &err));
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "cannot unmap IOVA 0x2000-0x9fff (32768 bytes) of address"
                    " space 0: Bad address");
    error_free_or_abort(&err);
    expect(w, "begin 0\n"
              "unmap 0 [2,9] FAILS\n"
              "map 0 [1,1] @201 rw\n"
              "map 0 [10,10] @110 rw\n"
              "end 0\n");
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [2,9]\n"
              "map 0 [2,4] @202 rw\n"
              "map 0 [8,9] @108 rw\n"
              "end 0\n");

    /* Wanted back before the second attempt: all is well as it is */
    del(w, 0, 8, 10);
    w->fail_always[UNMAP] = true;
    g_assert_false(world_commit(w, 0));
    expect(w, "unmap 0 [8,10] FAILS\n");
    add(w, 0, 8, 10, 108, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "");
    world_free(w);
}

static void test_begin_fails(void)
{
    Error *err = NULL;
    World *w = world_new_logged(true, 0);

    add(w, 0, 2, 3, 100, RW, 1);
    w->fail_in[BEGIN] = 1;
    w->err = EPERM;
    g_assert_false(world_commit_some(w, 0, UINT64_MAX, 1, &err));
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "cannot begin a batch of IOTLB messages for address space"
                    " 0: Operation not permitted");
    error_free_or_abort(&err);
    expect(w, "begin 0 FAILS\n");
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [2,3] @100 rw\n"
              "end 0\n");
    world_free(w);
}

static void test_end_fails(void)
{
    Error *err = NULL;
    World *w = world_new_logged(true, 0);

    add(w, 0, 2, 3, 100, RW, 1);
    g_assert_true(world_commit(w, 0));
    g_string_truncate(w->log, 0);

    /* The device may still use what the kernel took away: keep it alive */
    del(w, 0, 2, 3);
    add(w, 0, 5, 5, 200, RW, 2);
    w->fail_in[END] = 1;
    g_assert_false(world_commit_some(w, 0, UINT64_MAX, 1, &err));
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "cannot end a batch of IOTLB messages for address space"
                    " 0: Bad address");
    error_free_or_abort(&err);
    g_assert_cmpint(w->refs[1], >, 0);
    g_assert_true(vhost_vdpa_iotlb_dirty(w->iotlb, 0));
    expect(w, "begin 0\n"
              "unmap 0 [2,3]\n"
              "map 0 [5,5] @200 rw\n"
              "end 0 FAILS\n");

    /* Another address space has nothing to send: nothing is sent */
    g_assert_true(world_commit(w, 1));
    expect(w, "");
    g_assert_cmpint(w->refs[1], >, 0);

    /* It has, but the first batch is in the way, and stays there */
    add(w, 1, 7, 7, 300, RW, 3);
    w->fail_in[END] = 1;
    g_assert_false(world_commit_some(w, 1, UINT64_MAX, 1, &err));
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "cannot end a batch of IOTLB messages for address space"
                    " 0: Bad address");
    error_free_or_abort(&err);
    expect(w, "end 0 FAILS\n");
    g_assert_cmpint(w->refs[1], >, 0);
    add(w, 1, 8, 8, 301, RW, 3);
    w->fail_in[BEGIN] = 1;
    g_assert_false(world_commit(w, 1));
    expect(w, "end 0\n"
              "begin 1 FAILS\n");
    g_assert_cmpint(w->refs[1], ==, 0);
    g_assert_true(world_commit(w, 1));
    expect(w, "begin 1\n"
              "map 1 [7,8] @300 rw\n"
              "end 1\n");
    g_assert_cmpint(w->refs[1], ==, 0);
    g_assert_false(vhost_vdpa_iotlb_dirty(w->iotlb, 0));
    g_assert_true(world_commit(w, 0));
    expect(w, "");

    /* On its own it closes the batch, even if batches were given up since */
    del(w, 0, 5, 5);
    add(w, 0, 6, 6, 400, RW, 4);
    w->fail_in[END] = 1;
    g_assert_false(world_commit(w, 0));
    g_string_truncate(w->log, 0);
    world_set_batching(w, false);
    g_assert_true(world_commit(w, 0));
    expect(w, "end 0\n");
    g_assert_cmpint(w->refs[2], ==, 0);
    world_free(w);
}

static void test_withdraw(void)
{
    World *w = world_new_logged(true, 0);

    add(w, 0, 2, 3, 100, RW, 1);
    g_assert_true(world_commit(w, 0));
    add(w, 0, 4, 5, 102, RW, 1);
    add(w, 0, 7, 7, 200, RO, 2);
    g_assert_true(world_commit(w, 0));
    g_string_truncate(w->log, 0);

    g_assert_true(world_withdraw(w, 0));
    expect(w, "unmap 0 [2,7]\n");
    g_assert_cmpint(w->refs[1] + w->refs[2], ==, 0);
    g_assert_true(world_withdraw(w, 0));
    expect(w, "");

    /* Mapped again, in as few entries as there can be */
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [2,5] @100 rw\n"
              "map 0 [7,7] @200 ro\n"
              "end 0\n");

    /* What resisted is useless to the device, so it has to go */
    w->fail_in[UNMAP] = 1;
    g_assert_false(world_withdraw(w, 0));
    expect(w, "unmap 0 [2,7] FAILS\n");
    g_assert_cmpint(w->refs[1], >, 0);
    g_assert_cmpint(w->refs[2], >, 0);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [2,7]\n"
              "map 0 [2,5] @100 rw\n"
              "map 0 [7,7] @200 ro\n"
              "end 0\n");

    /* It does not fit into one message */
    add(w, 0, 0, 0, 300, RW, 3);
    add(w, 0, -1, -1, 400, RW, 4);
    g_assert_true(world_commit(w, 0));
    g_string_truncate(w->log, 0);
    w->fail_in[BEGIN] = 1;
    g_assert_false(world_withdraw(w, 0));
    expect(w, "begin 0 FAILS\n");
    w->fail_in[UNMAP] = 1;
    g_assert_false(world_withdraw(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [0,7] FAILS\n"
              "unmap 0 [-1,-1]\n"
              "end 0\n");
    g_assert_cmpint(w->refs[4], ==, 0);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [0,7]\n"
              "map 0 [0,0] @300 rw\n"
              "map 0 [2,5] @100 rw\n"
              "map 0 [7,7] @200 ro\n"
              "map 0 [-1,-1] @400 rw\n"
              "end 0\n");
    w->fail_in[END] = 1;
    g_assert_false(world_withdraw(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [0,7]\n"
              "unmap 0 [-1,-1]\n"
              "end 0 FAILS\n");
    g_assert_cmpint(w->refs[1], >, 0);
    g_assert_true(world_withdraw(w, 0));
    expect(w, "end 0\n");
    g_assert_cmpint(w->refs[1], ==, 0);
    world_free(w);
}

static void test_remove_together(void)
{
    World *w = world_new_logged(true, 0);
    VhostVDPAIOTLBReport report;

    /* Neighbours, a hole, something that stays, and more */
    for (int page = 0; page < 12; page++) {
        add_discrete(w, 0, page, page, 100 + page, RW, 1 + page % 4);
    }
    del(w, 0, 2, 3);
    g_assert_true(world_commit(w, 0));
    g_string_truncate(w->log, 0);
    del(w, 0, 1, 4);
    del(w, 0, 6, 8);
    del(w, 0, 10, 10);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [1,4]\n"
              "unmap 0 [6,8]\n"
              "unmap 0 [10,10]\n"
              "end 0\n");

    /* What comes is no hindrance: it is mapped later */
    add(w, 0, 2, 2, 302, RW, 1);
    add(w, 0, 7, 7, 307, RW, 2);
    del(w, 0, 0, 0);
    del(w, 0, 5, 5);
    del(w, 0, 9, 9);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [0,9]\n"
              "map 0 [2,2] @302 rw\n"
              "map 0 [7,7] @307 rw\n"
              "end 0\n");

    /* All of them stay if they cannot go, and each can be wanted back */
    del(w, 0, 2, 2);
    del(w, 0, 7, 7);
    w->fail_in[UNMAP] = 1;
    g_assert_false(world_commit(w, 0));
    expect(w, "unmap 0 [2,7] FAILS\n");
    g_assert_cmpint(w->refs[1], ==, 1);
    g_assert_cmpint(w->refs[2], ==, 1);
    add(w, 0, 7, 7, 307, RW, 2);
    g_assert_true(world_commit(w, 0));
    expect(w, "unmap 0 [2,2]\n");
    g_assert_cmpint(w->refs[1], ==, 0);
    g_assert_cmpint(w->refs[2], ==, 1);

    /* Holes are no bytes that were unmapped, and nothing to be tried again */
    add(w, 0, 20, 20, 120, RW, 1);
    add(w, 0, -3, -2, 200, RW, 3);
    g_assert_true(world_commit(w, 0));
    g_string_truncate(w->log, 0);
    world_clear(w, 0);
    w->fail_in[UNMAP] = 1;
    g_assert_false(world_commit(w, 0));
    expect(w, "unmap 0 [7,-2] FAILS\n");
    add(w, 0, 15, 15, 115, RW, 1);
    run_prepare(w, 0, false, UINT64_MAX, PAGE);
    g_assert_true(vhost_vdpa_iotlb_commit(w->iotlb, 0, &report, &error_abort));
    run_judge(w, true, &report, NULL);
    g_assert_cmpuint(report.unmaps, ==, 1);
    g_assert_cmpuint(report.bytes_unmapped, ==, 5 * PAGE);
    expect(w, "begin 0\n"
              "unmap 0 [7,-2]\n"
              "map 0 [15,15] @115 rw\n"
              "end 0\n");

    /* New memory in a hole is new to a step's limit, what was removed is not */
    del(w, 0, 15, 15);
    add(w, 0, 1, 1, 101, RW, 1);
    add(w, 0, 9, 9, 109, RW, 1);
    g_assert_true(world_commit(w, 0));
    g_string_truncate(w->log, 0);
    add(w, 0, 1, 1, 201, RW, 1);
    add(w, 0, 4, 5, 204, RW, 1);
    add(w, 0, 9, 9, 209, RW, 1);
    g_assert_true(world_commit_some(w, 0, 1, 1, &error_abort));
    expect(w, "begin 0\n"
              "unmap 0 [1,9]\n"
              "map 0 [1,1] @201 rw\n"
              "map 0 [4,4] @204 rw\n"
              "map 0 [9,9] @209 rw\n");
    g_assert_true(world_commit(w, 0));
    expect(w, "map 0 [5,5] @205 rw\n"
              "end 0\n");
    world_free(w);
}

static void test_free(void)
{
    World *w = world_new_logged(true, 0);

    /* With all that still programmed, and a batch that could not be closed */
    add(w, 0, 2, 3, 100, RW, 1);
    add(w, 1, 2, 3, 200, RW, 2);
    g_assert_true(world_commit(w, 0));
    g_assert_true(world_commit(w, 1));
    del(w, 0, 2, 2);
    w->fail_in[END] = 1;
    g_assert_false(world_commit(w, 0));
    g_string_truncate(w->log, 0);
    world_free(w);

    /* With one that was left open */
    w = world_new_logged(true, 0);
    add(w, 0, 2, 3, 100, RW, 1);
    g_assert_true(world_commit(w, 0));
    del(w, 0, 2, 2);
    add(w, 0, 4, 9, 104, RW, 1);
    g_assert_true(world_commit_some(w, 0, 1, 1, &error_abort));
    g_string_truncate(w->log, 0);
    world_free(w);
}

static void test_iova_0(void)
{
    World *w = world_new_logged(true, 4 * PAGE);

    add(w, 0, 0, 9, 100, RW, 1);
    g_assert_true(world_commit(w, 0));
    g_string_truncate(w->log, 0);

    /* The kernel drops [4,9], too */
    add(w, 0, 2, 2, 102, RO, 1);
    w->wipes = true;
    w->fail_in[MAP] = 1;
    g_assert_false(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [0,3]\n"
              "map 0 [0,1] @100 rw FAILS\n"
              "map 0 [2,2] @102 ro\n"
              "map 0 [3,3] @103 rw\n"
              "end 0\n");
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [4,9]\n"
              "map 0 [0,1] @100 rw\n"
              "map 0 [4,9] @104 rw\n"
              "end 0\n");
    world_free(w);
}

static void test_steps(void)
{
    World *w = world_new_logged(true, 0);

    /* One batch for all steps */
    add(w, 0, 0, 9, 100, RW, 1);
    add(w, 0, 20, 21, 200, RW, 2);
    for (int i = 0; i < 3; i++) {
        g_assert_true(vhost_vdpa_iotlb_dirty(w->iotlb, 0));
        g_assert_true(world_commit_some(w, 0, 4, 1, &error_abort));
        g_assert_cmpuint(w->run.pages_left, ==, 8 - 4 * i);
        expect(w, i == 0 ? "begin 0\n"
                           "map 0 [0,3] @100 rw\n" :
                  i == 1 ? "map 0 [4,7] @104 rw\n" :
                           "map 0 [8,9] @108 rw\n"
                           "map 0 [20,21] @200 rw\n"
                           "end 0\n");
    }
    g_assert_false(vhost_vdpa_iotlb_dirty(w->iotlb, 0));

    /* What a removal takes along is back at once, however small the step */
    add(w, 0, 10, 12, 110, RW, 1);
    add(w, 0, 19, 19, 199, RW, 2);
    del(w, 0, 0, 0);
    del(w, 0, 20, 20);
    add(w, 0, 22, 25, 202, RW, 2);
    g_assert_true(world_commit_some(w, 0, 1, 1, &error_abort));
    expect(w, "begin 0\n"
              "unmap 0 [0,3]\n"
              "unmap 0 [20,21]\n"
              "map 0 [1,3] @101 rw\n"
              "map 0 [10,10] @110 rw\n"
              "map 0 [21,21] @201 rw\n");
    g_assert_true(world_commit(w, 0));
    expect(w, "map 0 [11,12] @111 rw\n"
              "map 0 [19,19] @199 rw\n"
              "map 0 [22,25] @202 rw\n"
              "end 0\n");
    world_free(w);
}

static void test_steps_aligned(void)
{
    World *w = world_new_logged(true, 0);

    /* The first piece is what there is up to a multiple of 8 */
    add(w, 0, 3, 26, 103, RW, 1);
    add(w, 0, 29, 31, 200, RW, 2);
    g_assert_true(world_commit_some(w, 0, 8, 8, &error_abort));
    expect(w, "begin 0\n"
              "map 0 [3,7] @103 rw\n");
    g_assert_true(world_commit_some(w, 0, 8, 8, &error_abort));
    expect(w, "map 0 [8,15] @108 rw\n");
    g_assert_true(world_commit_some(w, 0, 8, 8, &error_abort));
    expect(w, "map 0 [16,23] @116 rw\n");
    /* A range that cannot be cut well can wait */
    g_assert_true(world_commit_some(w, 0, 5, 8, &error_abort));
    g_assert_cmpuint(w->run.pages_left, ==, 3);
    expect(w, "map 0 [24,26] @124 rw\n");
    /* But not for ever */
    g_assert_true(world_commit_some(w, 0, 2, 8, &error_abort));
    expect(w, "map 0 [29,30] @200 rw\n");
    g_assert_true(world_commit_some(w, 0, 2, 1 << 20, &error_abort));
    expect(w, "map 0 [31,31] @202 rw\n"
              "end 0\n");

    /* What is back at once is no progress */
    del(w, 0, 4, 4);
    add(w, 0, 27, 28, 127, RW, 1);
    add(w, 0, 1, 2, 101, RW, 1);
    g_assert_true(world_commit_some(w, 0, 1, 16, &error_abort));
    expect(w, "begin 0\n"
              "unmap 0 [3,7]\n"
              "map 0 [1,1] @101 rw\n"
              "map 0 [3,3] @103 rw\n"
              "map 0 [5,7] @105 rw\n");
    g_assert_true(world_commit_some(w, 0, 3, 16, &error_abort));
    expect(w, "map 0 [2,2] @102 rw\n"
              "map 0 [27,28] @127 rw\n"
              "end 0\n");
    world_free(w);
}

static void test_open_batch(void)
{
    World *w = world_new_logged(true, 0);

    add(w, 0, 0, 9, 100, RW, 1);
    g_assert_true(world_commit(w, 0));
    g_string_truncate(w->log, 0);

    /* The device can use what is gone until the end of the batch */
    world_clear(w, 0);
    add(w, 0, 10, 13, 210, RW, 2);
    g_assert_true(world_commit_some(w, 0, 2, 1, &error_abort));
    g_assert_cmpint(w->refs[1], >, 0);
    expect(w, "begin 0\n"
              "unmap 0 [0,9]\n"
              "map 0 [10,11] @210 rw\n");
    /* Others that have nothing to send do not mind */
    g_assert_true(world_commit(w, 1));
    g_assert_true(world_withdraw(w, 1));
    g_assert_cmpint(w->refs[1], >, 0);
    expect(w, "");
    /* Nothing left to do but to close it */
    del(w, 0, 12, 13);
    g_assert_true(vhost_vdpa_iotlb_dirty(w->iotlb, 0));
    g_assert_true(world_commit_some(w, 0, 2, 1, &error_abort));
    g_assert_cmpint(w->refs[1], ==, 0);
    g_assert_false(vhost_vdpa_iotlb_dirty(w->iotlb, 0));
    expect(w, "end 0\n");

    /* Another address space cannot wait; the first goes on in a new batch */
    del(w, 0, 11, 11);
    add(w, 0, 12, 20, 212, RW, 2);
    g_assert_true(world_commit_some(w, 0, 2, 1, &error_abort));
    add(w, 1, 1, 1, 300, RW, 3);
    add(w, 1, 3, 4, 302, RW, 3);
    g_assert_true(world_commit_some(w, 1, 1, 1, &error_abort));
    g_assert_true(world_commit_some(w, 0, 3, 1, &error_abort));
    g_assert_true(world_commit(w, 1));
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [10,11]\n"
              "map 0 [10,10] @210 rw\n"
              "map 0 [12,13] @212 rw\n"
              "end 0\n"
              "begin 1\n"
              "map 1 [1,1] @300 rw\n"
              "end 1\n"
              "begin 0\n"
              "map 0 [14,16] @214 rw\n"
              "end 0\n"
              "begin 1\n"
              "map 1 [3,4] @302 rw\n"
              "end 1\n"
              "begin 0\n"
              "map 0 [17,20] @217 rw\n"
              "end 0\n");

    /* A withdrawal goes on in it; a reset has not closed it */
    add(w, 0, 22, 29, 400, RW, 1);
    g_assert_true(world_commit_some(w, 0, 4, 1, &error_abort));
    world_reset(w);
    expect(w, "begin 0\n"
              "map 0 [22,25] @400 rw\n"
              "unmap 0 [10,25]\n"
              "end 0\n"
              "unmap 1 [1,4]\n");
    g_assert_cmpint(w->refs[1] + w->refs[2] + w->refs[3], ==, 0);

    /* A failure closes it, and what was left is left */
    w->fail_in[MAP] = 2;
    g_assert_false(world_commit_some(w, 0, 5, 1, NULL));
    g_assert_cmpuint(w->run.pages_left, ==, 13);
    expect(w, "begin 0\n"
              "map 0 [10,10] @210 rw\n"
              "map 0 [12,15] @212 rw FAILS\n"
              "end 0\n");
    g_assert_true(world_commit_some(w, 0, 15, 1, &error_abort));
    expect(w, "begin 0\n"
              "map 0 [12,20] @212 rw\n"
              "map 0 [22,27] @400 rw\n");
    /* Batches given up while one is open: it is still closed */
    world_set_batching(w, false);
    g_assert_true(world_commit(w, 0));
    expect(w, "map 0 [28,29] @406 rw\n"
              "end 0\n");
    del(w, 0, 12, 16);
    add(w, 0, 1, 3, 101, RW, 1);
    g_assert_true(world_commit_some(w, 0, 2, 1, &error_abort));
    g_assert_true(world_commit_some(w, 0, 2, 1, &error_abort));
    expect(w, "unmap 0 [12,20]\n"
              "map 0 [1,2] @101 rw\n"
              "map 0 [17,20] @217 rw\n"
              "map 0 [3,3] @103 rw\n");
    world_free(w);
}

static void test_lone_message(void)
{
    World *w = world_new_logged(true, 0);

    /* A page */
    add(w, 0, 4, 4, 104, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "map 0 [4,4] @104 rw\n");

    /* The memory of more need not be contiguous */
    add(w, 0, 6, 7, 106, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [6,7] @106 rw\n"
              "end 0\n");

    /* An entry of any size; the device knows at once */
    del(w, 0, 4, 5);
    w->fail_in[UNMAP] = 1;
    g_assert_false(world_commit(w, 0));
    expect(w, "unmap 0 [4,4] FAILS\n");
    del(w, 0, 6, 7);
    add(w, 0, 4, 4, 104, RW, 1);
    g_assert_cmpint(w->refs[1], ==, 2);
    g_assert_true(world_commit(w, 0));
    g_assert_cmpint(w->refs[1], ==, 1);
    expect(w, "unmap 0 [6,7]\n");

    /* One that another replaces is two messages, unless it is stuck */
    add(w, 0, 4, 4, 304, RW, 3);
    w->fail_in[UNMAP] = 1;
    g_assert_false(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [4,4] FAILS\n"
              "end 0\n");
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [4,4]\n"
              "map 0 [4,4] @304 rw\n"
              "end 0\n");
    g_assert_true(world_withdraw(w, 0));
    expect(w, "unmap 0 [4,4]\n");
    w->fail_in[MAP] = 1;
    g_assert_false(world_commit(w, 0));
    expect(w, "map 0 [4,4] @304 rw FAILS\n");
    g_assert_true(world_commit_some(w, 0, 1, 1, &error_abort));
    expect(w, "map 0 [4,4] @304 rw\n");

    /* The first of several steps is not alone */
    add(w, 0, 8, 9, 108, RW, 1);
    g_assert_true(world_commit_some(w, 0, 1, 1, &error_abort));
    g_assert_true(world_commit_some(w, 0, 1, 1, &error_abort));
    expect(w, "begin 0\n"
              "map 0 [8,8] @108 rw\n"
              "map 0 [9,9] @109 rw\n"
              "end 0\n");
    /* It is when another address space closed the batch */
    add(w, 0, 11, 12, 111, RW, 1);
    g_assert_true(world_commit_some(w, 0, 1, 1, &error_abort));
    add(w, 1, 0, 0, 200, RW, 2);
    g_assert_true(world_commit(w, 1));
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [11,11] @111 rw\n"
              "end 0\n"
              "map 1 [0,0] @200 rw\n"
              "map 0 [12,12] @112 rw\n");
    world_free(w);
}

static void test_discrete(void)
{
    VhostVDPAIOTLBStats stats;
    World *w = world_new_logged(true, 0);

    /* Neighbours of each kind, which could all be one entry */
    add(w, 0, 0, 1, 100, RW, 1);
    add_discrete(w, 0, 2, 3, 102, RW, 1);
    add_discrete(w, 0, 4, 5, 104, RW, 1);
    add(w, 0, 6, 7, 106, RW, 1);
    add(w, 0, 8, 9, 108, RW, 1);
    vhost_vdpa_iotlb_stats(w->iotlb, 0, &stats);
    g_assert_cmpuint(stats.ranges_desired, ==, 4);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [0,1] @100 rw\n"
              "map 0 [2,3] @102 rw\n"
              "map 0 [4,5] @104 rw\n"
              "map 0 [6,9] @106 rw\n"
              "end 0\n");

    /* Each goes as it came */
    del(w, 0, 4, 5);
    g_assert_true(world_commit(w, 0));
    expect(w, "unmap 0 [4,5]\n");

    /* The same again, as a whole or another division, is nothing new */
    add_discrete(w, 0, 2, 3, 102, RW, 1);
    g_assert_true(world_commit(w, 0));
    add(w, 0, 0, 3, 100, RW, 1);
    add_discrete(w, 0, 6, 6, 106, RW, 1);
    add_discrete(w, 0, 7, 9, 107, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "");
    vhost_vdpa_iotlb_stats(w->iotlb, 0, &stats);
    g_assert_cmpuint(stats.ranges_desired, ==, 3);
    add_discrete(w, 0, 8, 8, 108, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "");

    /* It shows as soon as it has to be mapped again */
    del(w, 0, 6, 6);
    del(w, 0, 1, 2);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [0,9]\n"
              "map 0 [0,0] @100 rw\n"
              "map 0 [3,3] @103 rw\n"
              "map 0 [7,7] @107 rw\n"
              "map 0 [8,8] @108 rw\n"
              "map 0 [9,9] @109 rw\n"
              "end 0\n");

    /* Over several; a part of one */
    add_discrete(w, 0, 10, 19, 110, RW, 1);
    g_assert_true(world_commit(w, 0));
    g_string_truncate(w->log, 0);
    del(w, 0, 8, 10);
    del(w, 0, 14, 15);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "unmap 0 [8,19]\n"
              "map 0 [11,13] @111 rw\n"
              "map 0 [16,19] @116 rw\n"
              "end 0\n");
    add_discrete(w, 0, 14, 15, 114, RW, 1);
    g_assert_true(world_withdraw(w, 0));
    g_string_truncate(w->log, 0);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [0,0] @100 rw\n"
              "map 0 [3,3] @103 rw\n"
              "map 0 [7,7] @107 rw\n"
              "map 0 [11,13] @111 rw\n"
              "map 0 [14,15] @114 rw\n"
              "map 0 [16,19] @116 rw\n"
              "end 0\n");

    /* No longer divided, as far as what is programmed has to change */
    add(w, 0, 11, 21, 111, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [20,21] @120 rw\n"
              "end 0\n");
    g_assert_true(world_withdraw(w, 0));
    g_string_truncate(w->log, 0);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [0,0] @100 rw\n"
              "map 0 [3,3] @103 rw\n"
              "map 0 [7,7] @107 rw\n"
              "map 0 [11,21] @111 rw\n"
              "end 0\n");
    world_free(w);

    /* Low memory is apart all the same, and so is the top */
    w = world_new_logged(true, 16 * PAGE);
    add_discrete(w, 0, 14, 17, 114, RW, 1);
    add_discrete(w, 0, -4, -3, 200, RW, 1);
    add_discrete(w, 0, -2, -1, 202, RW, 1);
    g_assert_true(world_commit(w, 0));
    expect(w, "begin 0\n"
              "map 0 [14,15] @114 rw\n"
              "map 0 [16,17] @116 rw\n"
              "map 0 [-4,-3] @200 rw\n"
              "map 0 [-2,-1] @202 rw\n"
              "end 0\n");
    world_free(w);
}

static void test_address_spaces(void)
{
    VhostVDPAIOTLBStats stats;
    Error *err = NULL;
    World *w = world_new_logged(true, 0);

    /* The same memory and the same IOVA in each: they do not meet */
    add(w, 2, 1, 2, 101, RW, 1);
    add(w, 0, 1, 2, 101, RW, 1);
    add(w, 1, 1, 2, 101, RO, 1);
    for (int asid = 0; asid < NASIDS; asid++) {
        g_assert_true(world_commit(w, asid));
        g_assert_cmpint(w->refs[1], ==, asid + 1);
    }
    expect(w, "begin 0\n"
              "map 0 [1,2] @101 rw\n"
              "end 0\n"
              "begin 1\n"
              "map 1 [1,2] @101 ro\n"
              "end 1\n"
              "begin 2\n"
              "map 2 [1,2] @101 rw\n"
              "end 2\n");

    /* Nor do their failures */
    del(w, 1, 1, 1);
    del(w, 2, 1, 2);
    w->fail_in[UNMAP] = 1;
    g_assert_false(world_commit_some(w, 1, UINT64_MAX, 1, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "address space 1:"));
    error_free_or_abort(&err);
    g_assert_true(world_commit(w, 2));
    g_assert_nonnull(vhost_vdpa_iotlb_failure(w->iotlb, 1));
    g_assert_null(vhost_vdpa_iotlb_failure(w->iotlb, 2));
    expect(w, "begin 1\n"
              "unmap 1 [1,2] FAILS\n"
              "end 1\n"
              "unmap 2 [1,2]\n");
    vhost_vdpa_iotlb_stats(w->iotlb, 1, &stats);
    g_assert_cmpuint(stats.entries, ==, 1);
    g_assert_cmpuint(stats.bytes, ==, 2 * PAGE);
    g_assert_cmpuint(stats.ranges_desired, ==, 1);
    g_assert_cmpuint(stats.bytes_desired, ==, PAGE);
    g_assert_cmpuint(stats.bytes_mapped, ==, 2 * PAGE);
    g_assert_cmpuint(stats.messages, ==, 6);
    vhost_vdpa_iotlb_stats(w->iotlb, NASIDS, &stats);
    g_assert_cmpuint(stats.messages + stats.entries + stats.lookups, ==, 0);
    world_free(w);
}

/* Dropping the last reference leads back into the reconciler */

typedef struct Reentry {
    VhostVDPAIOTLB *iotlb;
    unsigned maps, unmaps, refs;
    bool freeing;
} Reentry;

static int reentry_batch(void *opaque, uint32_t asid)
{
    return 0;
}

static int reentry_map(void *opaque, uint32_t asid, uint64_t first,
                       uint64_t last, uint64_t uaddr, uint8_t perm)
{
    ((Reentry *)opaque)->maps++;
    return 0;
}

static int reentry_unmap(void *opaque, uint32_t asid, uint64_t first,
                         uint64_t last)
{
    ((Reentry *)opaque)->unmaps++;
    return 0;
}

static void reentry_ref(void *opaque, void *owner)
{
    ((Reentry *)opaque)->refs++;
}

static void reentry_unref(void *opaque, void *owner)
{
    Reentry *r = opaque;

    r->refs--;
    if (owner == &owners[1]) {
        vhost_vdpa_iotlb_del(r->iotlb, 0, 4 * PAGE, 5 * PAGE - 1);
        vhost_vdpa_iotlb_add(r->iotlb, 1, 0, PAGE - 1, PAGE, RW, &owners[3],
                             false, &error_abort);
        if (!r->freeing) {
            vhost_vdpa_iotlb_commit(r->iotlb, 0, NULL, &error_abort);
            vhost_vdpa_iotlb_commit(r->iotlb, 1, NULL, &error_abort);
        }
    }
}

static const VhostVDPAIOTLBOps reentry_ops = {
    .batch_begin = reentry_batch,
    .batch_end = reentry_batch,
    .map = reentry_map,
    .unmap = reentry_unmap,
    .ref = reentry_ref,
    .unref = reentry_unref,
};

static void test_reentry(void)
{
    Reentry r = { 0 };

    r.iotlb = vhost_vdpa_iotlb_new(&reentry_ops, &r, 0, PAGE);
    vhost_vdpa_iotlb_add(r.iotlb, 0, 0, 2 * PAGE - 1, PAGE, RW, &owners[1],
                         false, &error_abort);
    vhost_vdpa_iotlb_add(r.iotlb, 0, 4 * PAGE, 5 * PAGE - 1, 9 * PAGE, RW,
                         &owners[2], false, &error_abort);
    vhost_vdpa_iotlb_commit(r.iotlb, 0, NULL, &error_abort);
    vhost_vdpa_iotlb_del(r.iotlb, 0, 0, 2 * PAGE - 1);
    vhost_vdpa_iotlb_commit(r.iotlb, 0, NULL, &error_abort);
    g_assert_cmpuint(r.maps, ==, 3);
    g_assert_cmpuint(r.unmaps, ==, 2);
    g_assert_cmpuint(r.refs, ==, 1);

    /* Even when all are dropped */
    vhost_vdpa_iotlb_add(r.iotlb, 2, 0, PAGE - 1, PAGE, RW, &owners[1],
                         false, &error_abort);
    vhost_vdpa_iotlb_commit(r.iotlb, 2, NULL, &error_abort);
    vhost_vdpa_iotlb_add(r.iotlb, 0, 4 * PAGE, 5 * PAGE - 1, PAGE, RW,
                         &owners[2], false, &error_abort);
    r.freeing = true;
    vhost_vdpa_iotlb_free(r.iotlb);
    g_assert_cmpuint(r.refs, ==, 0);
}

/* Every state of four pages to every other */
static void test_exhaustive(void)
{
    static const struct {
        int64_t upage;
        VhostVDPAIOTLBPerm perm;
        int owner;
        bool discrete;
    } kind[4] = {
        { },
        { 100, RW, 1 },
        { 100, RO, 1 },
        { 300, RW, 2 },
    }, discrete[4] = {
        { },
        { 100, RW, 1 },
        { 100, RW, 1, true },
        { 100, RW, 2, true },
    };

    for (history = 0; history < 1 << 17; history++) {
        World *w = world_new(history & 1, 0);

        for (int round = 0; round < 2; round++) {
            for (int page = 0; page < 4; page++) {
                int k = history >> (8 * round + 2 * page) & 3;

                if (k && history >> 16) {
                    world_add_cells(w, 0, page, page,
                                    (discrete[k].upage + page) * PAGE,
                                    discrete[k].perm, discrete[k].owner,
                                    discrete[k].discrete);
                } else if (k) {
                    add(w, 0, page, page, kind[k].upage + page, kind[k].perm,
                        kind[k].owner);
                } else {
                    del(w, 0, page, page);
                }
            }
            g_assert_true(world_commit(w, 0));
            world_check(w);
        }
        world_free(w);
    }
    history = 0;
}

/* A fixed life in which each message, one after the other, fails once */
static void test_fail_each(void)
{
    uint64_t messages = UINT64_MAX;

    for (int nth = 1; nth - 1 <= messages; nth++) {
        World *w = world_new(true, 4 * PAGE);

        w->fail_nth = nth;
        w->wipes = nth & 1;
        add(w, 0, 0, 9, 100, RW, 1);
        add(w, 0, 12, 13, 200, RO, 2);
        add(w, 1, 0, 3, 300, RW, 3);
        world_commit(w, 0);
        world_check(w);
        world_commit(w, 1);
        world_check(w);
        /* Steps, which another address space interrupts */
        add(w, 0, 20, 25, 300, RW, 3);
        add_discrete(w, 0, 26, 27, 306, RW, 3);
        add_discrete(w, 0, 28, 29, 308, RW, 3);
        world_commit_some(w, 0, 2, 2, NULL);
        world_check(w);
        world_commit_some(w, 0, 3, 2, NULL);
        world_check(w);
        del(w, 1, 1, 1);
        world_commit_some(w, 1, 1, 1, NULL);
        world_check(w);
        world_commit_some(w, 0, 4, 2, NULL);
        world_check(w);
        /* A message alone */
        del(w, 0, 26, 27);
        world_commit(w, 0);
        world_check(w);
        add_discrete(w, 0, 27, 27, 307, RW, 3);
        world_commit(w, 0);
        world_check(w);
        /* Removals together, and apart */
        for (int page = -8; page < 0; page++) {
            add_discrete(w, 0, page, page, 400 + page, RW, 4);
        }
        world_commit(w, 0);
        world_check(w);
        del(w, 0, -7, -6);
        del(w, 0, -4, -4);
        del(w, 0, -2, -2);
        world_commit(w, 0);
        world_check(w);
        add(w, 0, 2, 2, 102, RO, 1);
        add(w, 0, 12, 13, 200, RO, 4);
        add(w, 0, 14, 15, 202, RO, 2);
        world_commit(w, 0);
        world_check(w);
        add(w, 0, 16, 18, 400, RW, 4);
        world_commit_some(w, 0, 1, 1, NULL);
        world_check(w);
        world_withdraw(w, 0);
        world_check(w);
        world_withdraw(w, 1);
        world_check(w);
        del(w, 0, 5, 6);
        world_commit(w, 0);
        world_check(w);
        world_commit(w, 1);
        world_check(w);
        world_clear(w, 1);
        world_commit(w, 1);
        world_check(w);

        /* Whatever happened, one commit without a failure puts it right */
        if (w->fail_nth) {
            messages = w->messages;
        }
        g_assert_true(world_commit(w, 0));
        g_assert_true(world_commit(w, 1));
        g_assert_false(vhost_vdpa_iotlb_dirty(w->iotlb, 0));
        g_assert_false(vhost_vdpa_iotlb_dirty(w->iotlb, 1));
        world_check(w);
        world_free(w);
    }
    g_assert_cmpuint(messages, >, 60);
}

/* Random histories */

static int random_cell(GRand *r, const int *hot)
{
    if (g_rand_boolean(r)) {
        return hot[g_rand_int_range(r, 0, 4)];
    }
    return g_rand_int_range(r, 0, NCELLS);
}

static void random_add(World *w, GRand *r, int asid, const int *hot,
                       bool spread, bool discrete)
{
    static const VhostVDPAIOTLBPerm perms[] = { RW, RW, RW, RO, WO };
    VhostVDPAIOTLBPerm perm = perms[g_rand_int_range(r, 0, ARRAY_SIZE(perms))];
    int a = random_cell(r, hot);
    int b = g_rand_boolean(r) ? random_cell(r, hot)
                              : a + g_rand_int_range(r, 0, 5);
    int owner = g_rand_int_range(r, 0, NOWNERS);
    int base = g_rand_int_range(r, 0, 3);
    int window;

    if (a > b) {
        int swap = a;

        a = b;
        b = swap;
    }
    b = MIN(b, NCELLS - 1);
    if (spread && !g_rand_int_range(r, 0, 8)) {
        a = g_rand_boolean(r) ? 0 : a;
        b = g_rand_boolean(r) ? NCELLS - 1 : b;
    }
    if (a < HIGH && b >= GAP) {
        if (spread) {
            /* Large enough for host memory only where it is by its address */
            world_add_cells(w, asid, a, b, cell_first(a), perm, 1, discrete);
            return;
        }
        if (a >= GAP) {
            return;
        }
        b = GAP - 1;
    }
    /* Memory of one base goes on from range to range, and has one owner */
    window = a < GAP ? a : a - HIGH;
    if (g_rand_int_range(r, 0, 8)) {
        owner = 1 + base;
    }
    world_add_cells(w, asid, a, b,
                    base == 0 ? window * PAGE :
                    base == 1 ? (1000 + window) * PAGE :
                    (window - WIN) * PAGE, perm, owner, discrete);
}

static void random_range(World *w, GRand *r)
{
    int a = g_rand_int_range(r, 0, NCELLS), b = g_rand_int_range(r, 0, NCELLS);
    uint64_t first, last;

    if (g_rand_boolean(r)) {
        world_set_range(w, 0, UINT64_MAX);
        return;
    }
    /* Its ends are inside the windows, so no cell is cut */
    if (a == GAP || a == GAP + 1 || b == GAP || b == GAP + 1) {
        return;
    }
    first = cell_first(MIN(a, b));
    last = cell_last(MAX(a, b));
    if (g_rand_boolean(r)) {
        first += g_rand_int_range(r, 0, PAGE);
        last -= g_rand_int_range(r, 0, PAGE);
    }
    if (first <= last) {
        world_set_range(w, first, last);
    }
}

/* What is said to be desired and programmed is no matter of most invariants */
static void random_check(World *w)
{
    if (w->judges & (1 << 0 | 1 << 6)) {
        world_check(w);
    }
}

/*
 * One history, judged as @judges says.  Returns the number of operations.
 */
static uint64_t random_history(GRand *r, unsigned judges)
{
    /* Add, delete, clear, commit, withdraw, range, batching, reset */
    int weight[] = { 40, 25, 1, 30, 2, 2, 1, 2 };
    uint64_t ops = g_rand_int_range(r, 100, 1000);
    bool spread = g_rand_boolean(r);
    int asids = g_rand_int_range(r, 1, NASIDS + 1);
    int failing = g_rand_int_range(r, 0, 4);
    int discrete = g_rand_int_range(r, 0, 3);
    int hot[4], sum = 0;
    World *w = world_new(g_rand_boolean(r),
                         g_rand_int_range(r, 0, 3) * 12 * PAGE);

    w->rand = r;
    w->judges = judges;
    w->set_map = g_rand_boolean(r);
    w->wipes = g_rand_boolean(r);
    for (int i = 0; i < ARRAY_SIZE(hot); i++) {
        hot[i] = g_rand_int_range(r, 0, NCELLS);
    }
    for (int i = 4; i < ARRAY_SIZE(weight); i++) {
        weight[i] = g_rand_boolean(r) ? weight[i] : 0;
    }
    for (int i = 0; i < ARRAY_SIZE(weight); i++) {
        sum += weight[i];
    }

    for (step = 0; step < ops; step++) {
        int asid = g_rand_int_range(r, 0, asids);
        int dice = g_rand_int_range(r, 0, sum);
        int op = 0, a, b;

        while (dice >= weight[op]) {
            dice -= weight[op++];
        }
        w->fail_percent = !failing || g_rand_boolean(r) ? 0 :
                          failing == 3 ? 40 : 5;
        w->err = g_rand_boolean(r) ? EFAULT : ENOMEM;
        switch (op) {
        case 0:
            random_add(w, r, asid, hot, spread,
                       discrete && g_rand_int_range(r, 0, 3) < discrete);
            break;
        case 1:
            a = random_cell(r, hot);
            b = random_cell(r, hot);
            if (g_rand_boolean(r)) {
                b = MIN(a + g_rand_int_range(r, 0, 5), NCELLS - 1);
            }
            world_del_cells(w, asid, MIN(a, b), MAX(a, b));
            break;
        case 2:
            world_clear(w, asid);
            break;
        case 3:
            if (!spread && g_rand_boolean(r)) {
                world_commit_some(w, asid, g_rand_int_range(r, 1, 8),
                                  1 << g_rand_int_range(r, 0, 4), NULL);
            } else {
                world_commit(w, asid);
            }
            break;
        case 4:
            world_withdraw(w, asid);
            break;
        case 5:
            random_range(w, r);
            break;
        case 6:
            world_set_batching(w, !w->batching);
            break;
        case 7:
            world_reset(w);
            break;
        }
        random_check(w);
    }

    /* Left alone, it gets everywhere at once */
    w->fail_percent = 0;
    world_set_range(w, 0, UINT64_MAX);
    for (int asid = 0; asid < asids; asid++) {
        CHECK(world_commit(w, asid));
        random_check(w);
    }
    for (int asid = 0; asid < asids; asid++) {
        CHECK(!vhost_vdpa_iotlb_dirty(w->iotlb, asid));
        world_clear(w, asid);
        CHECK(world_commit(w, asid));
        random_check(w);
    }
    for (int o = 0; o < NOWNERS; o++) {
        CHECK(!w->refs[o]);
    }
    world_free(w);
    return ops;
}

static void random_histories(unsigned judges, uint64_t want)
{
    const char *env_seed = g_getenv("VHOST_VDPA_IOTLB_SEED");
    const char *env_ops = g_getenv("VHOST_VDPA_IOTLB_OPS");
    uint64_t ops = 0;
    int rarest = 0;
    GRand *r;

    if (env_ops) {
        want = g_ascii_strtoull(env_ops, NULL, 0);
    }
    seed = env_seed ? g_ascii_strtoull(env_seed, NULL, 0) : g_test_rand_int();
    g_test_message("VHOST_VDPA_IOTLB_SEED=%" PRIu32, seed);
    memset(seen, 0, sizeof(seen));
    r = g_rand_new_with_seed(seed);
    for (history = 0; ops < want; history++) {
        ops += random_history(r, judges);
    }
    g_rand_free(r);
    for (int i = 1; i < NEVENTS; i++) {
        rarest = seen[i] < seen[rarest] ? i : rarest;
    }
    g_test_message("%" PRIu64 " operations in %" PRIu64 " histories; event %d, "
                   "the rarest, happened %" PRIu64 " times", ops, history,
                   rarest, seen[rarest]);
    if (ops >= 100000) {
        CHECK(seen[rarest]);
    }
    history = step = seed = 0;
}

static void test_random(void)
{
    random_histories(-1, 120000);
}

static void test_invariant(const void *data)
{
    random_histories(1 << GPOINTER_TO_INT(data), 100000);
}

/* Cost */

typedef struct Count {
    uint64_t messages;
} Count;

static int count_batch(void *opaque, uint32_t asid)
{
    ((Count *)opaque)->messages++;
    return 0;
}

static int count_map(void *opaque, uint32_t asid, uint64_t first,
                     uint64_t last, uint64_t uaddr, uint8_t perm)
{
    ((Count *)opaque)->messages++;
    return 0;
}

static int count_unmap(void *opaque, uint32_t asid, uint64_t first,
                       uint64_t last)
{
    ((Count *)opaque)->messages++;
    return 0;
}

static const VhostVDPAIOTLBOps count_ops = {
    .batch_begin = count_batch,
    .batch_end = count_batch,
    .map = count_map,
    .unmap = count_unmap,
};

static uint64_t lookups(VhostVDPAIOTLB *iotlb)
{
    VhostVDPAIOTLBStats stats;

    vhost_vdpa_iotlb_stats(iotlb, 0, &stats);
    return stats.lookups;
}

/* All 64 bits in steps, for which the cells of the model are too large */

typedef struct Sweep {
    uint64_t next;      /* where the next addition starts */
    unsigned maps, unmaps, begins, ends;
} Sweep;

static int sweep_begin(void *opaque, uint32_t asid)
{
    ((Sweep *)opaque)->begins++;
    return 0;
}

static int sweep_end(void *opaque, uint32_t asid)
{
    ((Sweep *)opaque)->ends++;
    return 0;
}

static int sweep_map(void *opaque, uint32_t asid, uint64_t first,
                     uint64_t last, uint64_t uaddr, uint8_t perm)
{
    Sweep *sweep = opaque;

    g_assert_cmphex(first, ==, sweep->next);
    g_assert_cmphex(uaddr, ==, first);
    sweep->next = last + 1;
    sweep->maps++;
    return 0;
}

static int sweep_unmap(void *opaque, uint32_t asid, uint64_t first,
                       uint64_t last)
{
    ((Sweep *)opaque)->unmaps++;
    return 0;
}

static const VhostVDPAIOTLBOps sweep_ops = {
    .batch_begin = sweep_begin,
    .batch_end = sweep_end,
    .map = sweep_map,
    .unmap = sweep_unmap,
};

static void test_steps_all_64_bits(void)
{
    static const struct {
        uint64_t limit, bytes, align;
        unsigned steps, maps;
    } cases[] = {
        { 0, 1ULL << 62, PAGE, 4, 4 },
        { 0, 1ULL << 62, 1ULL << 63, 4, 4 },
        { 0, 3ULL << 62, 1ULL << 63, 2, 2 },
        { 0, 3ULL << 62, 1ULL << 62, 2, 3 },
        { 0, UINT64_MAX - PAGE, PAGE, 2, 3 },
        { 256 * PAGE, 1ULL << 63, 1ULL << 63, 2, 3 },
        { 256 * PAGE, 1ULL << 63, PAGE, 2, 3 },
    };

    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        Sweep sweep = { 0 };
        VhostVDPAIOTLB *iotlb = vhost_vdpa_iotlb_new(&sweep_ops, &sweep,
                                                     cases[i].limit, PAGE);
        VhostVDPAIOTLBReport report;
        unsigned steps = 0;

        vhost_vdpa_iotlb_set_batching(iotlb, true);
        vhost_vdpa_iotlb_add(iotlb, 0, 0, UINT64_MAX, 0, RW, NULL, false,
                             &error_abort);
        do {
            vhost_vdpa_iotlb_commit_some(iotlb, 0, cases[i].bytes,
                                         cases[i].align, &report,
                                         &error_abort);
            g_assert_cmphex(report.bytes_left, ==, -sweep.next);
            steps++;
        } while (report.bytes_left);
        g_assert_cmpuint(steps, ==, cases[i].steps);
        g_assert_cmpuint(sweep.maps, ==, cases[i].maps);

        /* What is left of a large range is back at once */
        vhost_vdpa_iotlb_del(iotlb, 0, 0, PAGE - 1);
        sweep.next = PAGE;
        sweep.maps = 0;
        vhost_vdpa_iotlb_commit_some(iotlb, 0, PAGE, PAGE, &report,
                                     &error_abort);
        g_assert_cmpuint(report.bytes_left, ==, 0);
        g_assert_cmpuint(sweep.unmaps, ==, 1);
        g_assert_cmpuint(sweep.maps, ==, 1);
        g_assert_cmpuint(sweep.begins, ==, 2);
        g_assert_cmpuint(sweep.ends, ==, 2);
        vhost_vdpa_iotlb_free(iotlb);
    }
}

/* A space with @n ranges, each the first of four pages */
#define COST_BASE 1000
#define COST_LIMIT 256
/*
 * Tree operations that one change and its share of a commit may take.  About
 * 110 were seen, for one that hits four ranges.
 */
#define COST_CHANGE 250

static VhostVDPAIOTLB *cost_new(Count *count, uint64_t n, bool discrete)
{
    VhostVDPAIOTLB *iotlb = vhost_vdpa_iotlb_new(&count_ops, count,
                                                 COST_LIMIT * PAGE, PAGE);

    vhost_vdpa_iotlb_set_batching(iotlb, true);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t first = (COST_BASE + 4 * i) * PAGE;

        vhost_vdpa_iotlb_add(iotlb, 0, first, first + PAGE - 1, first, RW,
                             &owners[1], discrete, &error_abort);
    }
    return iotlb;
}

/*
 * The number of tree operations, each O(log n), that five changes cost must
 * not depend on how much does not change.
 */
static void test_scale(void)
{
    uint64_t first_cost = 0, first_idle = 0;

    for (uint64_t n = 100; n <= 100000; n *= 10) {
        Count count = { 0 };
        VhostVDPAIOTLB *iotlb = cost_new(&count, n, false);
        uint64_t big = (4 * n + COST_BASE) * PAGE;
        uint64_t mid = (COST_BASE + n / 2 * 4) * PAGE;
        uint64_t before, cost, idle;

        /* One range dwarfs the others */
        vhost_vdpa_iotlb_add(iotlb, 0, big, big + (1ULL << 40) - 1, big, RW,
                             &owners[1], false, &error_abort);
        vhost_vdpa_iotlb_commit(iotlb, 0, NULL, &error_abort);
        g_assert_cmpuint(count.messages, ==, n + 3);

        before = lookups(iotlb);
        count.messages = 0;
        vhost_vdpa_iotlb_commit(iotlb, 0, NULL, &error_abort);
        g_assert_false(vhost_vdpa_iotlb_dirty(iotlb, 0));
        idle = lookups(iotlb) - before;
        g_assert_cmpuint(count.messages, ==, 0);

        before = lookups(iotlb);
        vhost_vdpa_iotlb_add(iotlb, 0, mid + PAGE, mid + 2 * PAGE - 1, 0, RW,
                             NULL, false, &error_abort);
        vhost_vdpa_iotlb_add(iotlb, 0, mid - 4 * PAGE, mid - 3 * PAGE - 1,
                             mid, RO, NULL, false, &error_abort);
        vhost_vdpa_iotlb_del(iotlb, 0, mid + 4 * PAGE, mid + 7 * PAGE - 1);
        vhost_vdpa_iotlb_del(iotlb, 0, big + 512 * PAGE, big + 513 * PAGE - 1);
        vhost_vdpa_iotlb_add(iotlb, 0, 8 * PAGE, 10 * PAGE - 1, 0, RW, NULL,
                             false, &error_abort);
        vhost_vdpa_iotlb_commit(iotlb, 0, NULL, &error_abort);
        cost = lookups(iotlb) - before;
        /* Two markers, three unmaps, five maps */
        g_assert_cmpuint(count.messages, ==, 10);

        g_test_message("%" PRIu64 " ranges: %" PRIu64 " tree operations, idle %"
                       PRIu64, n, cost, idle);
        if (n == 100) {
            first_cost = cost;
            first_idle = idle;
            g_assert_cmpuint(cost, >, 10);
            g_assert_cmpuint(cost, <, 300);
        }
        g_assert_cmpuint(cost, <=, first_cost);
        g_assert_cmpuint(idle, <=, first_idle);
        vhost_vdpa_iotlb_free(iotlb);
    }
}

/*
 * 7. k random changes cost O(k log n), whatever n is, by themselves and with
 * the commit or the steps that follow
 */
static void test_cost(void)
{
    const char *env_seed = g_getenv("VHOST_VDPA_IOTLB_SEED");
    GRand *r;

    seed = env_seed ? g_ascii_strtoull(env_seed, NULL, 0) : g_test_rand_int();
    g_test_message("VHOST_VDPA_IOTLB_SEED=%" PRIu32, seed);
    r = g_rand_new_with_seed(seed);
    for (uint64_t n = 100; n <= 100000; n *= 10) {
        Count count = { 0 };
        bool discrete = g_rand_boolean(r);
        VhostVDPAIOTLB *iotlb = cost_new(&count, n, discrete);
        double worst = 0;

        /* Mapping everything is n changes */
        vhost_vdpa_iotlb_commit(iotlb, 0, NULL, &error_abort);
        CHECK(count.messages == n + 2);
        CHECK(lookups(iotlb) <= COST_CHANGE * n);

        for (step = 0; step < 200; step++) {
            int k = 1 << g_rand_int_range(r, 0, 6);
            uint64_t before = lookups(iotlb);
            VhostVDPAIOTLBReport report;
            bool all = g_rand_boolean(r);

            for (int i = 0; i < k; i++) {
                /* A page, or some that reach to the next range or not */
                uint64_t first = COST_BASE + g_rand_int_range(r, 0, 4 * n);
                uint64_t last = first + g_rand_int_range(r, 0, 3);

                if (g_rand_boolean(r)) {
                    vhost_vdpa_iotlb_del(iotlb, 0, first * PAGE,
                                         last * PAGE + PAGE - 1);
                } else {
                    vhost_vdpa_iotlb_add(iotlb, 0, first * PAGE,
                                         last * PAGE + PAGE - 1, first * PAGE,
                                         g_rand_boolean(r) ? RW : RO, NULL,
                                         g_rand_boolean(r), &error_abort);
                }
            }
            if (all) {
                vhost_vdpa_iotlb_commit(iotlb, 0, NULL, &error_abort);
            } else {
                /* Half of it each time: the number of steps is no factor */
                do {
                    vhost_vdpa_iotlb_commit_some(iotlb, 0, (k + 1) * PAGE,
                                                 PAGE, &report, &error_abort);
                } while (report.bytes_left);
            }
            worst = MAX(worst, (double)(lookups(iotlb) - before) / k);
            CHECK(lookups(iotlb) - before <= COST_CHANGE * k);
        }
        step = 0;
        g_test_message("%" PRIu64 " ranges: at most %.1f tree operations for a"
                       " change", n, worst);
        vhost_vdpa_iotlb_free(iotlb);
    }
    g_rand_free(r);
    seed = 0;
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/vhost-vdpa-iotlb/empty", test_empty);
    g_test_add_func("/vhost-vdpa-iotlb/batching", test_batching);
    g_test_add_func("/vhost-vdpa-iotlb/merge", test_merge);
    g_test_add_func("/vhost-vdpa-iotlb/small-limit", test_small_limit);
    g_test_add_func("/vhost-vdpa-iotlb/obsolete", test_obsolete);
    g_test_add_func("/vhost-vdpa-iotlb/growth", test_growth);
    g_test_add_func("/vhost-vdpa-iotlb/split", test_split);
    g_test_add_func("/vhost-vdpa-iotlb/nothing-changed", test_nothing_changed);
    g_test_add_func("/vhost-vdpa-iotlb/owner", test_owner);
    g_test_add_func("/vhost-vdpa-iotlb/top", test_top);
    g_test_add_func("/vhost-vdpa-iotlb/host-wrap", test_host_wrap);
    g_test_add_func("/vhost-vdpa-iotlb/all-64-bits", test_all_64_bits);
    g_test_add_func("/vhost-vdpa-iotlb/range", test_range);
    g_test_add_func("/vhost-vdpa-iotlb/map-fails", test_map_fails);
    g_test_add_func("/vhost-vdpa-iotlb/unmap-fails", test_unmap_fails);
    g_test_add_func("/vhost-vdpa-iotlb/begin-fails", test_begin_fails);
    g_test_add_func("/vhost-vdpa-iotlb/end-fails", test_end_fails);
    g_test_add_func("/vhost-vdpa-iotlb/withdraw", test_withdraw);
    g_test_add_func("/vhost-vdpa-iotlb/remove-together",
                    test_remove_together);
    g_test_add_func("/vhost-vdpa-iotlb/free", test_free);
    g_test_add_func("/vhost-vdpa-iotlb/iova-0", test_iova_0);
    g_test_add_func("/vhost-vdpa-iotlb/steps", test_steps);
    g_test_add_func("/vhost-vdpa-iotlb/steps-aligned", test_steps_aligned);
    g_test_add_func("/vhost-vdpa-iotlb/steps-all-64-bits",
                    test_steps_all_64_bits);
    g_test_add_func("/vhost-vdpa-iotlb/open-batch", test_open_batch);
    g_test_add_func("/vhost-vdpa-iotlb/lone-message", test_lone_message);
    g_test_add_func("/vhost-vdpa-iotlb/discrete", test_discrete);
    g_test_add_func("/vhost-vdpa-iotlb/address-spaces", test_address_spaces);
    g_test_add_func("/vhost-vdpa-iotlb/reentry", test_reentry);
    g_test_add_func("/vhost-vdpa-iotlb/exhaustive", test_exhaustive);
    g_test_add_func("/vhost-vdpa-iotlb/fail-each", test_fail_each);
    g_test_add_func("/vhost-vdpa-iotlb/random", test_random);
    for (int i = 1; i < ARRAY_SIZE(invariants); i++) {
        g_autofree char *path =
            g_strdup_printf("/vhost-vdpa-iotlb/invariant/%s",
                            invariants[i].name);

        g_test_add_data_func(path, GINT_TO_POINTER(i), test_invariant);
    }
    g_test_add_func("/vhost-vdpa-iotlb/invariant/7-cost", test_cost);
    g_test_add_func("/vhost-vdpa-iotlb/scale", test_scale);

    return g_test_run();
}
