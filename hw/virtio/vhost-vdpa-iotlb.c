/*
 * vhost-vdpa: what the device may reach, wanted and programmed
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "qemu/interval-tree.h"
#include "qapi/error.h"
#include "vhost-vdpa-iotlb.h"

/*
 * Each address space has four sets of ranges:
 *
 * desired     what the user wants, as few ranges as possible, but for discrete
 *             ones
 * programmed  the entries the kernel accepted, with the bounds they were
 *             mapped with, because an entry can only be removed whole
 * held        the pages of "programmed" by owner; each range is a reference.
 *             Apart from the entries, because memory that stays where it is
 *             can get another owner, which must not cost a message
 * dirty       where the first two may differ; a commit looks nowhere else.
 *             Elsewhere, each page is programmed as it is desired or, if
 *             it is outside the device's IOVA range, is not programmed.
 */

typedef struct IOTLBSpace IOTLBSpace;

typedef struct IOTLBNode {
    IntervalTreeNode it;
    uint64_t uaddr;
    void *owner;
    uint8_t perm;
    bool discrete;      /* desired: never one with its neighbours */
    bool stale;         /* programmed: has to go, whatever is desired */
    bool doomed;        /* programmed: about to be unmapped */
} IOTLBNode;

/* A set of ranges that do not overlap */
typedef struct IOTLBMap {
    IntervalTreeRoot root;
    IOTLBSpace *space;
    uint64_t nodes;
    uint64_t pages;
    bool linear;        /* uaddr advances with the address */
    bool counted;       /* each node is a reference to its owner */
} IOTLBMap;

struct IOTLBSpace {
    VhostVDPAIOTLB *iotlb;
    uint32_t asid;
    IOTLBMap desired;
    IOTLBMap programmed;
    IOTLBMap held;
    IOTLBMap dirty;
    /* References to drop as soon as the device knows of the removals */
    GPtrArray *limbo;
    bool failed;
    VhostVDPAIOTLBFailure failure;
    uint64_t messages;
    uint64_t pages_mapped;
    uint64_t lookups;
};

struct VhostVDPAIOTLB {
    const VhostVDPAIOTLBOps *ops;
    void *opaque;
    uint64_t small_limit;
    uint64_t page_size;
    bool batching;
    /* As the device gave it, for messages */
    uint64_t range_first;
    uint64_t range_last;
    /* The whole pages in it; nothing if first > last */
    uint64_t usable_first;
    uint64_t usable_last;
    /*
     * The address space whose batch is open, because part of a commit was left
     * for another call, or because the batch could not be closed.  There is
     * one at most: the kernel refuses messages for all others meanwhile.
     */
    IOTLBSpace *open;
    GPtrArray *spaces;
};

/* Doomed entries that one message removes, by their indices */
typedef struct IOTLBRemoval {
    guint first;
    guint last;
} IOTLBRemoval;

/* One commit or withdrawal */
typedef struct IOTLBRun {
    IOTLBSpace *space;
    VhostVDPAIOTLBReport report;
    VhostVDPAIOTLBFailure failure;      /* valid if report.failures */
    uint64_t pages_mapped;
    uint64_t pages_unmapped;
    uint64_t pages_left;
    uint64_t pages_new;                 /* allowed by the budget so far */
    uint64_t budget;                    /* pages still to be mapped anew */
    uint64_t cut_align;
    IOTLBMap removed;                   /* taken away by this run */
    IOTLBMap again;                     /* still dirty afterwards */
} IOTLBRun;

static uint64_t iotlb_pages(const VhostVDPAIOTLB *iotlb,
                            uint64_t first, uint64_t last)
{
    /* Not size / page_size: the largest size is no 64-bit number */
    return (last - first) / iotlb->page_size + 1;
}

static uint64_t iotlb_bytes(const VhostVDPAIOTLB *iotlb, uint64_t pages)
{
    return pages > UINT64_MAX / iotlb->page_size ? UINT64_MAX
                                                 : pages * iotlb->page_size;
}

static uint64_t sum_bytes(uint64_t a, uint64_t b)
{
    uint64_t sum;

    return uadd64_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static bool iotlb_aligned(const VhostVDPAIOTLB *iotlb,
                          uint64_t first, uint64_t last)
{
    uint64_t mask = iotlb->page_size - 1;

    return first <= last && !(first & mask) && !((last + 1) & mask);
}

/* Sets of ranges */

static void map_init(IOTLBMap *map, IOTLBSpace *space)
{
    *map = (IOTLBMap) { .space = space };
}

static IOTLBNode *map_node(IntervalTreeNode *it)
{
    return it ? container_of(it, IOTLBNode, it) : NULL;
}

static IOTLBNode *map_first(IOTLBMap *map, uint64_t first, uint64_t last)
{
    map->space->lookups++;
    return map_node(interval_tree_iter_first(&map->root, first, last));
}

static IOTLBNode *map_next(IOTLBMap *map, IOTLBNode *node,
                           uint64_t first, uint64_t last)
{
    map->space->lookups++;
    return map_node(interval_tree_iter_next(&node->it, first, last));
}

static void map_link(IOTLBMap *map, IOTLBNode *node)
{
    map->space->lookups++;
    map->nodes++;
    map->pages += iotlb_pages(map->space->iotlb, node->it.start,
                              node->it.last);
    interval_tree_insert(&node->it, &map->root);
}

static void map_unlink(IOTLBMap *map, IOTLBNode *node)
{
    map->space->lookups++;
    map->nodes--;
    map->pages -= iotlb_pages(map->space->iotlb, node->it.start,
                              node->it.last);
    interval_tree_remove(&node->it, &map->root);
}

static IOTLBNode *map_new_node(IOTLBMap *map, uint64_t first, uint64_t last,
                               uint64_t uaddr, uint8_t perm, void *owner)
{
    VhostVDPAIOTLB *iotlb = map->space->iotlb;
    IOTLBNode *node = g_new0(IOTLBNode, 1);

    node->it.start = first;
    node->it.last = last;
    node->uaddr = uaddr;
    node->perm = perm;
    node->owner = owner;
    map_link(map, node);

    if (map->counted && owner && iotlb->ops->ref) {
        iotlb->ops->ref(iotlb->opaque, owner);
    }
    return node;
}

/* @node is not linked */
static void map_free_node(IOTLBMap *map, IOTLBNode *node)
{
    if (map->counted && node->owner) {
        g_ptr_array_add(map->space->limbo, node->owner);
    }
    g_free(node);
}

static uint64_t map_uaddr(const IOTLBMap *map, const IOTLBNode *node,
                          uint64_t addr)
{
    return node->uaddr + (map->linear ? addr - node->it.start : 0);
}

/* Remove [first, last]; nodes that reach out of it keep the rest */
static void map_cut(IOTLBMap *map, uint64_t first, uint64_t last)
{
    IOTLBNode *node;

    while ((node = map_first(map, first, last))) {
        uint64_t node_first = node->it.start;
        uint64_t node_last = node->it.last;

        map_unlink(map, node);
        if (node_first < first && node_last > last) {
            IOTLBNode *tail = map_new_node(map, last + 1, node_last,
                                           map_uaddr(map, node, last + 1),
                                           node->perm, node->owner);

            tail->discrete = node->discrete;
        }
        if (node_first < first) {
            node->it.last = first - 1;
            map_link(map, node);
        } else if (node_last > last) {
            node->uaddr = map_uaddr(map, node, last + 1);
            node->it.start = last + 1;
            map_link(map, node);
        } else {
            map_free_node(map, node);
        }
    }
}

static bool map_same(const IOTLBNode *node, uint8_t perm, void *owner)
{
    return node->perm == perm && node->owner == owner;
}

/* Set [first, last], whatever there is around it */
static IOTLBNode *map_put_alone(IOTLBMap *map, uint64_t first, uint64_t last,
                                uint64_t uaddr, uint8_t perm, void *owner)
{
    map_cut(map, first, last);
    return map_new_node(map, first, last, uaddr, perm, owner);
}

/* Set [first, last], joining it with neighbours it goes on with */
static void map_put(IOTLBMap *map, uint64_t first, uint64_t last,
                    uint64_t uaddr, uint8_t perm, void *owner)
{
    uint64_t uaddr_next = uaddr;
    IOTLBNode *left = NULL, *right = NULL;

    map_cut(map, first, last);

    if (first > 0) {
        left = map_first(map, first - 1, first - 1);
    }
    if (last < UINT64_MAX) {
        right = map_first(map, last + 1, last + 1);
    }
    if (map->linear) {
        uaddr_next += last - first + 1;
    }
    /* Host memory does not go on from its last byte to address 0 */
    if (left && (left->discrete || !map_same(left, perm, owner) ||
                 map_uaddr(map, left, first) != uaddr ||
                 (map->linear && !uaddr))) {
        left = NULL;
    }
    if (right && (right->discrete || !map_same(right, perm, owner) ||
                  right->uaddr != uaddr_next ||
                  (map->linear && !uaddr_next))) {
        right = NULL;
    }

    if (right) {
        map_unlink(map, right);
        last = right->it.last;
    }
    if (left) {
        map_unlink(map, left);
        left->it.last = last;
        map_link(map, left);
        if (right) {
            map_free_node(map, right);
        }
    } else if (right) {
        right->it.start = first;
        right->uaddr = uaddr;
        map_link(map, right);
    } else {
        map_new_node(map, first, last, uaddr, perm, owner);
    }
}

static void map_clear(IOTLBMap *map)
{
    map_cut(map, 0, UINT64_MAX);
}

static void dirty_put(IOTLBMap *map, uint64_t first, uint64_t last)
{
    map_put(map, first, last, 0, 0, NULL);
}

/* Address spaces */

static IOTLBSpace *iotlb_find(VhostVDPAIOTLB *iotlb, uint32_t asid)
{
    for (guint i = 0; i < iotlb->spaces->len; i++) {
        IOTLBSpace *space = g_ptr_array_index(iotlb->spaces, i);

        if (space->asid == asid) {
            return space;
        }
    }
    return NULL;
}

static IOTLBSpace *iotlb_get(VhostVDPAIOTLB *iotlb, uint32_t asid)
{
    IOTLBSpace *space = iotlb_find(iotlb, asid);

    if (space) {
        return space;
    }

    space = g_new0(IOTLBSpace, 1);
    space->iotlb = iotlb;
    space->asid = asid;
    map_init(&space->desired, space);
    map_init(&space->programmed, space);
    map_init(&space->held, space);
    map_init(&space->dirty, space);
    space->desired.linear = true;
    space->programmed.linear = true;
    space->held.counted = true;
    space->limbo = g_ptr_array_new();

    g_ptr_array_add(iotlb->spaces, space);
    return space;
}

/*
 * Drop references, unless the device may still be able to reach the memory.
 * To be called last, because dropping one may lead back into the reconciler.
 */
static void space_release(IOTLBSpace *space)
{
    VhostVDPAIOTLB *iotlb = space->iotlb;
    g_autoptr(GPtrArray) limbo = NULL;

    if (!space->limbo->len || iotlb->open == space) {
        return;
    }
    limbo = space->limbo;
    space->limbo = g_ptr_array_new();
    for (guint i = 0; iotlb->ops->unref && i < limbo->len; i++) {
        iotlb->ops->unref(iotlb->opaque, g_ptr_array_index(limbo, i));
    }
}

/* Something desired that no message can bring to the device, or NULL */
static IOTLBNode *space_outside(IOTLBSpace *space)
{
    VhostVDPAIOTLB *iotlb = space->iotlb;
    IOTLBNode *node = NULL;

    if (iotlb->usable_first > iotlb->usable_last) {
        return map_first(&space->desired, 0, UINT64_MAX);
    }
    if (iotlb->usable_first > 0) {
        node = map_first(&space->desired, 0, iotlb->usable_first - 1);
    }
    if (!node && iotlb->usable_last < UINT64_MAX) {
        node = map_first(&space->desired, iotlb->usable_last + 1, UINT64_MAX);
    }
    return node;
}

/* Does @desired ask for what @entry has at @addr, which is in both? */
static bool node_matches(IOTLBSpace *space, const IOTLBNode *desired,
                         const IOTLBNode *entry, uint64_t addr)
{
    return desired->perm == entry->perm &&
           map_uaddr(&space->desired, desired, addr) ==
           map_uaddr(&space->programmed, entry, addr);
}

/* Is each page of [first, last], part of @entry, desired as it is? */
static bool space_matches(IOTLBSpace *space, const IOTLBNode *entry,
                          uint64_t first, uint64_t last)
{
    VhostVDPAIOTLB *iotlb = space->iotlb;
    IOTLBNode *node;

    if (first < iotlb->usable_first || last > iotlb->usable_last) {
        return false;
    }

    node = map_first(&space->desired, first, last);
    while (node && node->it.start <= first &&
           node_matches(space, node, entry, first)) {
        if (node->it.last >= last) {
            return true;
        }
        first = node->it.last + 1;
        node = map_next(&space->desired, node, first, last);
    }
    return false;
}

/* Bytes of [first, last], part of @entry, that are not desired as they are */
static uint64_t space_unmatched(IOTLBSpace *space, const IOTLBNode *entry,
                                uint64_t first, uint64_t last)
{
    VhostVDPAIOTLB *iotlb = space->iotlb;
    uint64_t pages = iotlb_pages(iotlb, first, last);
    IOTLBNode *node;

    first = MAX(first, iotlb->usable_first);
    last = MIN(last, iotlb->usable_last);
    for (node = first <= last ? map_first(&space->desired, first, last) : NULL;
         node; node = map_next(&space->desired, node, first, last)) {
        uint64_t a = MAX(first, node->it.start);
        uint64_t b = MIN(last, node->it.last);

        if (node_matches(space, node, entry, a)) {
            pages -= iotlb_pages(iotlb, a, b);
        }
    }
    return iotlb_bytes(iotlb, pages);
}

/*
 * Find the entries that have to go.
 *
 * With @doomed, collects all of them in ascending order.  Returns whether
 * there are any.
 */
static bool space_find_doomed(IOTLBSpace *space, GPtrArray *doomed)
{
    IOTLBNode *dirty, *entry;
    bool found = false;

    for (dirty = map_first(&space->dirty, 0, UINT64_MAX); dirty;
         dirty = map_next(&space->dirty, dirty, 0, UINT64_MAX)) {
        uint64_t first = dirty->it.start, last = dirty->it.last;

        for (entry = map_first(&space->programmed, first, last); entry;
             entry = map_next(&space->programmed, entry, first, last)) {
            if (entry->doomed ||
                (!entry->stale &&
                 space_matches(space, entry, MAX(first, entry->it.start),
                               MIN(last, entry->it.last)))) {
                continue;
            }
            found = true;
            if (!doomed) {
                return true;
            }
            entry->doomed = true;
            g_ptr_array_add(doomed, entry);
        }
    }
    return found;
}

/*
 * Divide all doomed entries, in ascending order, into as few removals as there
 * can be.  A message removes every entry in its range, so nothing that stays
 * may be between two of one removal, but there may be a hole.
 *
 * Returns IOTLBRemoval in ascending order.
 */
static GArray *space_join_doomed(IOTLBSpace *space, const GPtrArray *doomed)
{
    GArray *removals = g_array_new(false, false, sizeof(IOTLBRemoval));
    IOTLBNode *first = NULL, *prev = NULL;

    for (guint i = 0; i < doomed->len; i++) {
        IOTLBNode *entry = g_ptr_array_index(doomed, i);
        IOTLBRemoval removal = { .first = i, .last = i };

        /* The size of all IOVAs is one more than a message can hold */
        if (prev && entry->it.last - first->it.start < UINT64_MAX &&
            map_next(&space->programmed, prev, prev->it.start,
                     UINT64_MAX) == entry) {
            g_array_index(removals, IOTLBRemoval, removals->len - 1).last = i;
        } else {
            g_array_append_val(removals, removal);
            first = entry;
        }
        prev = entry;
    }
    return removals;
}

/* Append [first, last], part of @node, in pieces that make good entries */
static void space_add_pieces(IOTLBSpace *space, const IOTLBNode *node,
                             uint64_t first, uint64_t last, GArray *pieces)
{
    uint64_t limit = space->iotlb->small_limit;

    while (true) {
        VhostVDPAIOTLBRange piece = {
            .first = first,
            .last = last,
            .uaddr = map_uaddr(&space->desired, node, first),
            .owner = node->owner,
            .perm = node->perm,
        };

        if (first < limit && last >= limit) {
            piece.last = limit - 1;
        } else if (first == 0 && last == UINT64_MAX) {
            /* The size of all IOVAs is one more than a message can hold */
            piece.last = INT64_MAX;
        }
        g_array_append_val(pieces, piece);
        if (piece.last == last) {
            break;
        }
        first = piece.last + 1;
    }
}

/*
 * Find what is desired, but not programmed, and can be.  Doomed entries count
 * as gone.
 *
 * Returns VhostVDPAIOTLBRange in ascending order.  Pieces that touch and could
 * be one are one: "desired" has joined what goes together, and as missing
 * pages are dirty, touching ones are in the same dirty range.
 */
static GArray *space_find_missing(IOTLBSpace *space)
{
    VhostVDPAIOTLB *iotlb = space->iotlb;
    GArray *missing = g_array_new(false, false, sizeof(VhostVDPAIOTLBRange));
    IOTLBNode *dirty, *node, *entry;

    for (dirty = map_first(&space->dirty, 0, UINT64_MAX); dirty;
         dirty = map_next(&space->dirty, dirty, 0, UINT64_MAX)) {
        uint64_t first = MAX(dirty->it.start, iotlb->usable_first);
        uint64_t last = MIN(dirty->it.last, iotlb->usable_last);

        if (first > last) {
            continue;
        }
        for (node = map_first(&space->desired, first, last); node;
             node = map_next(&space->desired, node, first, last)) {
            uint64_t pos = MAX(first, node->it.start);
            uint64_t end = MIN(last, node->it.last);
            bool covered = false;

            for (entry = map_first(&space->programmed, pos, end);
                 entry && !covered;
                 entry = map_next(&space->programmed, entry, pos, end)) {
                if (entry->doomed) {
                    continue;
                }
                if (entry->it.start > pos) {
                    space_add_pieces(space, node, pos, entry->it.start - 1,
                                     missing);
                }
                if (entry->it.last >= end) {
                    covered = true;
                } else {
                    pos = entry->it.last + 1;
                }
            }
            if (!covered) {
                space_add_pieces(space, node, pos, end, missing);
            }
        }
    }
    return missing;
}

/* Commits and withdrawals */

static void run_init(IOTLBRun *run, IOTLBSpace *space, uint64_t budget,
                     uint64_t cut_align)
{
    *run = (IOTLBRun) {
        .space = space,
        .budget = budget,
        .cut_align = cut_align,
        .report.entries_before = space->programmed.nodes,
    };
    map_init(&run->removed, space);
    map_init(&run->again, space);
}

static void run_fail(IOTLBRun *run, VhostVDPAIOTLBStep step, int ret,
                     uint32_t asid, uint64_t first, uint64_t last)
{
    assert(ret < 0);
    if (!run->report.failures++) {
        run->failure = (VhostVDPAIOTLBFailure) {
            .step = step,
            .err = -ret,
            .asid = asid,
            .first = first,
            .last = last,
        };
    }
}

static bool run_send_begin(IOTLBRun *run, IOTLBSpace *space)
{
    VhostVDPAIOTLB *iotlb = space->iotlb;
    int ret;

    run->report.messages++;
    ret = iotlb->ops->batch_begin(iotlb->opaque, space->asid);
    if (ret) {
        run_fail(run, VHOST_VDPA_IOTLB_STEP_BATCH_BEGIN, ret, space->asid,
                 0, 0);
        return false;
    }
    iotlb->open = space;
    return true;
}

static bool run_send_end(IOTLBRun *run, IOTLBSpace *space)
{
    VhostVDPAIOTLB *iotlb = space->iotlb;
    int ret;

    run->report.messages++;
    ret = iotlb->ops->batch_end(iotlb->opaque, space->asid);
    if (ret) {
        run_fail(run, VHOST_VDPA_IOTLB_STEP_BATCH_END, ret, space->asid,
                 0, 0);
        return false;
    }
    iotlb->open = NULL;
    return true;
}

/*
 * Open a batch, unless it is open, or there is a @lone message to be sent,
 * which needs none.  Returns false if no further message may be sent.
 */
static bool run_begin(IOTLBRun *run, bool lone)
{
    IOTLBSpace *space = run->space;
    VhostVDPAIOTLB *iotlb = space->iotlb;

    if (iotlb->open == space) {
        return true;
    }
    /* The kernel refuses our messages as long as another batch is open */
    if (iotlb->open && !run_send_end(run, iotlb->open)) {
        return false;
    }
    return !iotlb->batching || lone || run_send_begin(run, space);
}

/* Close the batch, unless it is to be continued by another call */
static void run_end(IOTLBRun *run)
{
    IOTLBSpace *space = run->space;

    if (space->iotlb->open == space &&
        (!run->pages_left || run->report.failures)) {
        run_send_end(run, space);
    }
}

static void run_unmap(IOTLBRun *run, const GPtrArray *doomed,
                      const IOTLBRemoval *removal)
{
    IOTLBSpace *space = run->space;
    VhostVDPAIOTLB *iotlb = space->iotlb;
    IOTLBNode *entry = g_ptr_array_index(doomed, removal->first);
    uint64_t first = entry->it.start, last;
    int ret;

    entry = g_ptr_array_index(doomed, removal->last);
    last = entry->it.last;

    run->report.messages++;
    ret = iotlb->ops->unmap(iotlb->opaque, space->asid, first, last);
    if (ret) {
        run_fail(run, VHOST_VDPA_IOTLB_STEP_UNMAP, ret, space->asid,
                 first, last);
    } else {
        run->report.unmaps++;
        map_cut(&space->held, first, last);
    }

    for (guint i = removal->first; i <= removal->last; i++) {
        entry = g_ptr_array_index(doomed, i);
        first = entry->it.start;
        last = entry->it.last;

        if (ret) {
            entry->doomed = false;
            dirty_put(&run->again, first, last);
        } else {
            run->pages_unmapped += iotlb_pages(iotlb, first, last);
            dirty_put(&run->removed, first, last);
            map_unlink(&space->programmed, entry);
            map_free_node(&space->programmed, entry);
        }
    }
}

/* Returns whether all of @removals were accepted */
static bool run_unmap_all(IOTLBRun *run, const GPtrArray *doomed,
                          const GArray *removals)
{
    for (guint i = 0; i < removals->len; i++) {
        run_unmap(run, doomed, &g_array_index(removals, IOTLBRemoval, i));
    }
    return run->report.unmaps == removals->len;
}

/*
 * Some kernels, when they fail to map the first piece of a range at IOVA 0
 * of a device that works with virtual addresses, clean up with a range that
 * means "all" instead of "nothing".  Whether it happened cannot be seen, so
 * all entries have to be unmapped (which succeeds for those that are gone)
 * and mapped again.
 */
static void run_distrust(IOTLBRun *run)
{
    IOTLBMap *programmed = &run->space->programmed;
    IOTLBNode *entry;

    for (entry = map_first(programmed, 0, UINT64_MAX); entry;
         entry = map_next(programmed, entry, 0, UINT64_MAX)) {
        entry->stale = true;
        dirty_put(&run->again, entry->it.start, entry->it.last);
    }
}

/* Map [first, last], part of @piece */
static void run_map(IOTLBRun *run, const VhostVDPAIOTLBRange *piece,
                    uint64_t first, uint64_t last)
{
    IOTLBSpace *space = run->space;
    VhostVDPAIOTLB *iotlb = space->iotlb;
    uint64_t uaddr = piece->uaddr + (first - piece->first);
    int ret;

    run->report.messages++;
    ret = iotlb->ops->map(iotlb->opaque, space->asid, first, last, uaddr,
                          piece->perm);
    if (ret) {
        run_fail(run, VHOST_VDPA_IOTLB_STEP_MAP, ret, space->asid,
                 first, last);
        dirty_put(&run->again, first, last);
        if (first == 0) {
            run_distrust(run);
        }
        return;
    }

    run->report.maps++;
    run->pages_mapped += iotlb_pages(iotlb, first, last);
    map_new_node(&space->programmed, first, last, uaddr, piece->perm, NULL);
    map_put(&space->held, first, last, 0, 0, piece->owner);
}

/*
 * Where to stop if only @pages of those from @pos on are allowed: where the
 * caller likes it best, unless this commit would then get nowhere
 */
static uint64_t run_cut(const IOTLBRun *run, uint64_t pos, uint64_t pages)
{
    uint64_t cut = pos + pages * run->space->iotlb->page_size;
    uint64_t aligned = ROUND_DOWN(cut, run->cut_align);

    if (aligned > pos) {
        return aligned;
    }
    return run->pages_new ? pos : cut;
}

/*
 * Map as much of @piece as the budget allows; what this run took away before
 * does not count.
 */
static void run_map_some(IOTLBRun *run, const VhostVDPAIOTLBRange *piece)
{
    VhostVDPAIOTLB *iotlb = run->space->iotlb;
    uint64_t from = piece->first;       /* not mapped yet from here ... */
    uint64_t pos = piece->first;        /* ... but allowed up to here */

    while (true) {
        IOTLBNode *removed = map_first(&run->removed, pos, piece->last);
        bool back = removed && removed->it.start <= pos;
        uint64_t last = piece->last;

        if (back) {
            last = MIN(last, removed->it.last);
        } else {
            uint64_t pages;

            if (removed) {
                last = removed->it.start - 1;
            }
            pages = iotlb_pages(iotlb, pos, last);
            if (pages > run->budget) {
                uint64_t cut = run_cut(run, pos, run->budget);

                if (cut > from) {
                    run_map(run, piece, from, cut - 1);
                }
                run->pages_left += iotlb_pages(iotlb, cut, last);
                dirty_put(&run->again, cut, last);
                from = last + 1;
                pages = run->budget;
            }
            run->budget -= pages;
            run->pages_new += pages;
        }
        if (last == piece->last) {
            break;
        }
        pos = last + 1;
    }
    /* One past the end can be 0 */
    if (from - 1 != piece->last) {
        run_map(run, piece, from, piece->last);
    }
}

/*
 * Where memory stays programmed, but has got another owner, hold that one.
 */
static void run_sync_owners(IOTLBRun *run)
{
    IOTLBSpace *space = run->space;
    IOTLBNode *dirty, *entry, *node, *held;

    for (dirty = map_first(&space->dirty, 0, UINT64_MAX); dirty;
         dirty = map_next(&space->dirty, dirty, 0, UINT64_MAX)) {
        uint64_t first = dirty->it.start, last = dirty->it.last;

        for (node = map_first(&space->desired, first, last); node;
             node = map_next(&space->desired, node, first, last)) {
            uint64_t node_first = MAX(first, node->it.start);
            uint64_t node_last = MIN(last, node->it.last);

            for (entry = map_first(&space->programmed, node_first, node_last);
                 entry; entry = map_next(&space->programmed, entry,
                                         node_first, node_last)) {
                uint64_t a = MAX(node_first, entry->it.start);
                uint64_t b = MIN(node_last, entry->it.last);

                if (!node_matches(space, node, entry, a)) {
                    continue;
                }
                held = map_first(&space->held, a, b);
                if (held->owner != node->owner || held->it.last < b) {
                    map_put(&space->held, a, b, 0, 0, node->owner);
                }
            }
        }
    }
}

static void error_set_failure(Error **errp, const VhostVDPAIOTLB *iotlb,
                              const VhostVDPAIOTLBFailure *failure,
                              uint64_t failures)
{
    g_autofree char *more = NULL;

    if (failures > 1) {
        more = g_strdup_printf(" (first of %" PRIu64 " failures)", failures);
    } else {
        more = g_strdup("");
    }

    switch (failure->step) {
    case VHOST_VDPA_IOTLB_STEP_RANGE:
        error_setg(errp, "memory at IOVA 0x%" PRIx64 "-0x%" PRIx64
                   " of address space %" PRIu32 " is outside the device's"
                   " IOVA range 0x%" PRIx64 "-0x%" PRIx64 "%s",
                   failure->first, failure->last, failure->asid,
                   iotlb->range_first, iotlb->range_last, more);
        break;
    case VHOST_VDPA_IOTLB_STEP_BATCH_BEGIN:
    case VHOST_VDPA_IOTLB_STEP_BATCH_END:
        error_setg_errno(errp, failure->err, "cannot %s a batch of IOTLB"
                         " messages for address space %" PRIu32 "%s",
                         failure->step == VHOST_VDPA_IOTLB_STEP_BATCH_BEGIN ?
                         "begin" : "end", failure->asid, more);
        break;
    case VHOST_VDPA_IOTLB_STEP_UNMAP:
    case VHOST_VDPA_IOTLB_STEP_MAP:
        error_setg_errno(errp, failure->err, "cannot %s IOVA 0x%" PRIx64
                         "-0x%" PRIx64 " (%" PRIu64 " bytes) of address"
                         " space %" PRIu32 "%s",
                         failure->step == VHOST_VDPA_IOTLB_STEP_MAP ?
                         "map" : "unmap", failure->first, failure->last,
                         failure->last - failure->first + 1, failure->asid,
                         more);
        break;
    default:
        g_assert_not_reached();
    }
}

/* @open is the address space whose batch was open before */
static bool run_finish(IOTLBRun *run, IOTLBSpace *open,
                       VhostVDPAIOTLBReport *report, Error **errp)
{
    IOTLBSpace *space = run->space;
    VhostVDPAIOTLB *iotlb = space->iotlb;
    bool ok = !run->report.failures;

    map_clear(&run->removed);
    map_clear(&run->again);

    run->report.entries_after = space->programmed.nodes;
    run->report.bytes_mapped = iotlb_bytes(iotlb, run->pages_mapped);
    run->report.bytes_unmapped = iotlb_bytes(iotlb, run->pages_unmapped);
    run->report.bytes_left = iotlb_bytes(iotlb, run->pages_left);
    space->messages += run->report.messages;
    space->pages_mapped += run->pages_mapped;
    space->failed = !ok;
    space->failure = run->failure;

    if (report) {
        *report = run->report;
    }
    if (!ok) {
        error_set_failure(errp, iotlb, &run->failure, run->report.failures);
    }

    if (open && open != space) {
        space_release(open);
    }
    space_release(space);
    return ok;
}

/*
 * Does this one message do without a batch?  A driver that takes whole maps
 * gets one for a removal, but for an addition, where the memory is pinned, one
 * for each physically contiguous part; there is just one part in a page.
 */
static bool lone_message(const VhostVDPAIOTLB *iotlb, const GArray *removals,
                         const GArray *missing)
{
    const VhostVDPAIOTLBRange *piece;

    if (removals->len + missing->len != 1) {
        return false;
    }
    if (removals->len) {
        return true;
    }
    piece = &g_array_index(missing, VhostVDPAIOTLBRange, 0);
    return iotlb_pages(iotlb, piece->first, piece->last) == 1;
}

static bool space_commit(IOTLBSpace *space, uint64_t budget,
                         uint64_t cut_align, VhostVDPAIOTLBReport *report,
                         Error **errp)
{
    VhostVDPAIOTLB *iotlb = space->iotlb;
    IOTLBSpace *open = iotlb->open;
    g_autoptr(GPtrArray) doomed = g_ptr_array_new();
    g_autoptr(GArray) removals = NULL;
    g_autoptr(GArray) missing = NULL;
    IOTLBNode *outside;
    IOTLBMap old;
    IOTLBRun run;

    run_init(&run, space, budget, cut_align);

    outside = space_outside(space);
    if (outside) {
        run_fail(&run, VHOST_VDPA_IOTLB_STEP_RANGE, -ERANGE, space->asid,
                 outside->it.start, outside->it.last);
    }

    /* What is left of an entry that has to go will be missing, too */
    space_find_doomed(space, doomed);
    for (guint i = 0; i < doomed->len; i++) {
        IOTLBNode *entry = g_ptr_array_index(doomed, i);

        dirty_put(&space->dirty, entry->it.start, entry->it.last);
    }
    removals = space_join_doomed(space, doomed);
    missing = space_find_missing(space);

    if (removals->len || missing->len || open == space) {
        if (!run_begin(&run, lone_message(iotlb, removals, missing))) {
            for (guint i = 0; i < doomed->len; i++) {
                IOTLBNode *entry = g_ptr_array_index(doomed, i);

                entry->doomed = false;
            }
            return run_finish(&run, open, report, errp);
        }

        if (!run_unmap_all(&run, doomed, removals)) {
            /* An entry that stays hides what should replace it */
            g_array_free(missing, true);
            missing = space_find_missing(space);
        }
        for (guint i = 0; i < missing->len; i++) {
            run_map_some(&run, &g_array_index(missing, VhostVDPAIOTLBRange,
                                              i));
        }
        run_end(&run);
    }

    run_sync_owners(&run);

    /* All else is clean now; run_finish() disposes of the old set */
    old = space->dirty;
    space->dirty = run.again;
    run.again = old;
    return run_finish(&run, open, report, errp);
}

static bool space_withdraw(IOTLBSpace *space, VhostVDPAIOTLBReport *report,
                           Error **errp)
{
    IOTLBSpace *open = space->iotlb->open;
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    g_autoptr(GArray) removals = NULL;
    IOTLBNode *entry;
    IOTLBRun run;

    run_init(&run, space, 0, space->iotlb->page_size);
    /*
     * What cannot be unmapped now is useless all the same, because the driver
     * forgets it; so let the next commit unmap it first.
     */
    for (entry = map_first(&space->programmed, 0, UINT64_MAX); entry;
         entry = map_next(&space->programmed, entry, 0, UINT64_MAX)) {
        entry->stale = true;
        g_ptr_array_add(all, entry);
    }
    dirty_put(&space->dirty, 0, UINT64_MAX);
    removals = space_join_doomed(space, all);

    if ((removals->len || open == space) &&
        run_begin(&run, removals->len == 1)) {
        run_unmap_all(&run, all, removals);
        run_end(&run);
    }
    return run_finish(&run, open, report, errp);
}

static void map_foreach(IOTLBMap *map, VhostVDPAIOTLBFunc func, void *data)
{
    IOTLBNode *node;

    for (node = map_first(map, 0, UINT64_MAX); node;
         node = map_next(map, node, 0, UINT64_MAX)) {
        VhostVDPAIOTLBRange range = {
            .first = node->it.start,
            .last = node->it.last,
            .uaddr = node->uaddr,
            .owner = node->owner,
            .perm = node->perm,
        };

        if (!func(&range, data)) {
            break;
        }
    }
}

/* The public interface */

VhostVDPAIOTLB *vhost_vdpa_iotlb_new(const VhostVDPAIOTLBOps *ops,
                                     void *opaque, uint64_t small_limit,
                                     uint64_t page_size)
{
    VhostVDPAIOTLB *iotlb = g_new0(VhostVDPAIOTLB, 1);

    assert(ops->batch_begin && ops->batch_end && ops->map && ops->unmap);
    assert(!ops->ref == !ops->unref);
    assert(page_size > 1 && is_power_of_2(page_size));
    assert(!(small_limit & (page_size - 1)));

    iotlb->ops = ops;
    iotlb->opaque = opaque;
    iotlb->small_limit = small_limit;
    iotlb->page_size = page_size;
    iotlb->range_last = UINT64_MAX;
    iotlb->usable_last = UINT64_MAX;
    iotlb->spaces = g_ptr_array_new();
    return iotlb;
}

void vhost_vdpa_iotlb_free(VhostVDPAIOTLB *iotlb)
{
    if (!iotlb) {
        return;
    }
    iotlb->open = NULL;
    for (guint i = 0; i < iotlb->spaces->len; i++) {
        IOTLBSpace *space = g_ptr_array_index(iotlb->spaces, i);

        map_clear(&space->programmed);
        map_clear(&space->held);
        space_release(space);
    }
    /* Dropping references may have led back to any of them */
    for (guint i = 0; i < iotlb->spaces->len; i++) {
        IOTLBSpace *space = g_ptr_array_index(iotlb->spaces, i);

        map_clear(&space->desired);
        map_clear(&space->dirty);
        g_ptr_array_free(space->limbo, true);
        g_free(space);
    }
    g_ptr_array_free(iotlb->spaces, true);
    g_free(iotlb);
}

void vhost_vdpa_iotlb_set_batching(VhostVDPAIOTLB *iotlb, bool batching)
{
    iotlb->batching = batching;
}

void vhost_vdpa_iotlb_set_range(VhostVDPAIOTLB *iotlb,
                                uint64_t first, uint64_t last)
{
    uint64_t page_size = iotlb->page_size;

    assert(first <= last);
    if (first == iotlb->range_first && last == iotlb->range_last) {
        return;
    }
    iotlb->range_first = first;
    iotlb->range_last = last;

    /* Inwards to whole pages */
    iotlb->usable_first = ROUND_UP(first, page_size);
    iotlb->usable_last = QEMU_ALIGN_DOWN(last, page_size);
    if (last - iotlb->usable_last == page_size - 1) {
        iotlb->usable_last = last;
    } else {
        iotlb->usable_last--;
    }
    if (iotlb->usable_first < first || iotlb->usable_last > last ||
        iotlb->usable_first > iotlb->usable_last) {
        /* One of them wrapped around, or both met */
        iotlb->usable_first = 1;
        iotlb->usable_last = 0;
    }

    for (guint i = 0; i < iotlb->spaces->len; i++) {
        IOTLBSpace *space = g_ptr_array_index(iotlb->spaces, i);

        dirty_put(&space->dirty, 0, UINT64_MAX);
    }
}

bool vhost_vdpa_iotlb_add(VhostVDPAIOTLB *iotlb, uint32_t asid,
                          uint64_t first, uint64_t last, uint64_t uaddr,
                          VhostVDPAIOTLBPerm perm, void *owner, bool discrete,
                          Error **errp)
{
    IOTLBSpace *space = iotlb_get(iotlb, asid);
    IOTLBNode *node;

    assert(iotlb_aligned(iotlb, first, last));
    assert(!(uaddr & (iotlb->page_size - 1)));
    assert(last - first <= UINT64_MAX - uaddr);
    assert(perm >= VHOST_VDPA_IOTLB_RO && perm <= VHOST_VDPA_IOTLB_RW);

    node = map_first(&space->desired, first, last);
    if (!node || node->it.start > first || node->it.last < last ||
        map_uaddr(&space->desired, node, first) != uaddr ||
        !map_same(node, perm, owner) || node->discrete != discrete ||
        (discrete && (node->it.start < first || node->it.last > last))) {
        if (discrete) {
            node = map_put_alone(&space->desired, first, last, uaddr, perm,
                                 owner);
            node->discrete = true;
        } else {
            map_put(&space->desired, first, last, uaddr, perm, owner);
        }
        dirty_put(&space->dirty, first, last);
    }

    if (first < iotlb->usable_first || last > iotlb->usable_last) {
        VhostVDPAIOTLBFailure failure = {
            .step = VHOST_VDPA_IOTLB_STEP_RANGE,
            .err = ERANGE,
            .asid = asid,
            .first = first,
            .last = last,
        };

        error_set_failure(errp, iotlb, &failure, 1);
        return false;
    }
    return true;
}

void vhost_vdpa_iotlb_del(VhostVDPAIOTLB *iotlb, uint32_t asid,
                          uint64_t first, uint64_t last)
{
    IOTLBSpace *space = iotlb_find(iotlb, asid);
    IOTLBNode *node;

    assert(iotlb_aligned(iotlb, first, last));
    if (!space) {
        return;
    }

    for (node = map_first(&space->desired, first, last); node;
         node = map_next(&space->desired, node, first, last)) {
        dirty_put(&space->dirty, MAX(first, node->it.start),
                  MIN(last, node->it.last));
    }
    map_cut(&space->desired, first, last);
}

void vhost_vdpa_iotlb_clear(VhostVDPAIOTLB *iotlb, uint32_t asid)
{
    vhost_vdpa_iotlb_del(iotlb, asid, 0, UINT64_MAX);
}

bool vhost_vdpa_iotlb_check(VhostVDPAIOTLB *iotlb, uint32_t asid,
                            Error **errp)
{
    IOTLBSpace *space = iotlb_find(iotlb, asid);
    IOTLBNode *outside = space ? space_outside(space) : NULL;

    if (outside) {
        VhostVDPAIOTLBFailure failure = {
            .step = VHOST_VDPA_IOTLB_STEP_RANGE,
            .err = ERANGE,
            .asid = asid,
            .first = outside->it.start,
            .last = outside->it.last,
        };

        error_set_failure(errp, iotlb, &failure, 1);
    }
    return !outside;
}

bool vhost_vdpa_iotlb_dirty(VhostVDPAIOTLB *iotlb, uint32_t asid)
{
    IOTLBSpace *space = iotlb_find(iotlb, asid);

    g_autoptr(GArray) missing = space ? space_find_missing(space) : NULL;

    return space && (iotlb->open == space || missing->len ||
                     space_find_doomed(space, NULL));
}

uint64_t vhost_vdpa_iotlb_obsolete(VhostVDPAIOTLB *iotlb, uint32_t asid)
{
    IOTLBSpace *space = iotlb_find(iotlb, asid);
    IOTLBNode *dirty, *entry;
    uint64_t bytes = 0;

    if (!space) {
        return 0;
    }
    for (dirty = map_first(&space->dirty, 0, UINT64_MAX); dirty;
         dirty = map_next(&space->dirty, dirty, 0, UINT64_MAX)) {
        uint64_t first = dirty->it.start, last = dirty->it.last;

        for (entry = map_first(&space->programmed, first, last); entry;
             entry = map_next(&space->programmed, entry, first, last)) {
            bytes = sum_bytes(bytes,
                              space_unmatched(space, entry,
                                              MAX(first, entry->it.start),
                                              MIN(last, entry->it.last)));
        }
    }
    return bytes;
}

bool vhost_vdpa_iotlb_commit(VhostVDPAIOTLB *iotlb, uint32_t asid,
                             VhostVDPAIOTLBReport *report, Error **errp)
{
    return space_commit(iotlb_get(iotlb, asid), UINT64_MAX, iotlb->page_size,
                        report, errp);
}

bool vhost_vdpa_iotlb_commit_some(VhostVDPAIOTLB *iotlb, uint32_t asid,
                                  uint64_t max_bytes, uint64_t cut_align,
                                  VhostVDPAIOTLBReport *report, Error **errp)
{
    assert(max_bytes >= iotlb->page_size);
    assert(is_power_of_2(cut_align) && cut_align >= iotlb->page_size);
    return space_commit(iotlb_get(iotlb, asid),
                        max_bytes == UINT64_MAX ? UINT64_MAX
                                                : max_bytes / iotlb->page_size,
                        cut_align, report, errp);
}

bool vhost_vdpa_iotlb_withdraw(VhostVDPAIOTLB *iotlb, uint32_t asid,
                               VhostVDPAIOTLBReport *report, Error **errp)
{
    return space_withdraw(iotlb_get(iotlb, asid), report, errp);
}

const VhostVDPAIOTLBFailure *
vhost_vdpa_iotlb_failure(VhostVDPAIOTLB *iotlb, uint32_t asid)
{
    IOTLBSpace *space = iotlb_find(iotlb, asid);

    return space && space->failed ? &space->failure : NULL;
}

void vhost_vdpa_iotlb_foreach_desired(VhostVDPAIOTLB *iotlb, uint32_t asid,
                                      VhostVDPAIOTLBFunc func, void *data)
{
    IOTLBSpace *space = iotlb_find(iotlb, asid);

    if (space) {
        map_foreach(&space->desired, func, data);
    }
}

void vhost_vdpa_iotlb_foreach_programmed(VhostVDPAIOTLB *iotlb, uint32_t asid,
                                         VhostVDPAIOTLBFunc func, void *data)
{
    IOTLBSpace *space = iotlb_find(iotlb, asid);

    if (space) {
        map_foreach(&space->programmed, func, data);
    }
}

void vhost_vdpa_iotlb_stats(VhostVDPAIOTLB *iotlb, uint32_t asid,
                            VhostVDPAIOTLBStats *stats)
{
    IOTLBSpace *space = iotlb_find(iotlb, asid);

    *stats = (VhostVDPAIOTLBStats) { 0 };
    if (space) {
        stats->ranges_desired = space->desired.nodes;
        stats->bytes_desired = iotlb_bytes(iotlb, space->desired.pages);
        stats->entries = space->programmed.nodes;
        stats->bytes = iotlb_bytes(iotlb, space->programmed.pages);
        stats->messages = space->messages;
        stats->bytes_mapped = iotlb_bytes(iotlb, space->pages_mapped);
        stats->lookups = space->lookups;
    }
}
