/*
 * vdpa-soft: a store of IOVA mappings with the kernel's removal rules
 *
 * An array sorted by first byte.  Insertion moves memory, which is cheap for
 * the few thousand entries a client makes; look-up, which every DMA needs,
 * is a binary search with a one-entry cache in front.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <string.h>
#include <glib.h>
#include "iotlb.h"

struct VsIotlb {
    VsMapping *entry;
    size_t count;
    size_t alloc;
    uint64_t bytes;
    size_t hint;
    /*
     * Some entry overlaps another: the array is then sorted by first byte
     * but not by last, and searches have to look at all of it.
     */
    bool overlapping;
};

VsIotlb *vs_iotlb_new(void)
{
    return g_new0(VsIotlb, 1);
}

void vs_iotlb_free(VsIotlb *iotlb)
{
    if (iotlb) {
        g_free(iotlb->entry);
        g_free(iotlb);
    }
}

static bool touches(const VsMapping *m, uint64_t first, uint64_t last)
{
    return m->first <= last && m->last >= first;
}

/* The number of entries whose first byte is at or below @iova. */
static size_t upper_bound(const VsIotlb *iotlb, uint64_t iova)
{
    size_t low = 0, high = iotlb->count;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (iotlb->entry[mid].first <= iova) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

/*
 * Bounds, as indices, of the entries that can touch @first..@last.  Without
 * overlaps all between them do touch it.
 */
static void candidates(const VsIotlb *iotlb, uint64_t first, uint64_t last,
                       size_t *from, size_t *to)
{
    *to = upper_bound(iotlb, last);
    if (iotlb->overlapping) {
        *from = 0;
        return;
    }
    *from = upper_bound(iotlb, first);
    if (*from > 0 && iotlb->entry[*from - 1].last >= first) {
        (*from)--;
    }
    if (*from > *to) {
        /*
         * An empty range (last == first - 1): only an entry that begins
         * before it and ends behind it counts, and that one was not found.
         */
        *from = *to;
    }
}

bool vs_iotlb_overlaps(const VsIotlb *iotlb, uint64_t first, uint64_t last)
{
    size_t i, from, to;

    candidates(iotlb, first, last, &from, &to);
    for (i = from; i < to; i++) {
        if (touches(&iotlb->entry[i], first, last)) {
            return true;
        }
    }
    return false;
}

void vs_iotlb_add(VsIotlb *iotlb, const VsMapping *mapping)
{
    size_t pos = upper_bound(iotlb, mapping->first);

    if (vs_iotlb_overlaps(iotlb, mapping->first, mapping->last)) {
        iotlb->overlapping = true;
    }
    if (iotlb->count == iotlb->alloc) {
        iotlb->alloc = MAX(16, iotlb->alloc * 2);
        iotlb->entry = g_renew(VsMapping, iotlb->entry, iotlb->alloc);
    }
    memmove(&iotlb->entry[pos + 1], &iotlb->entry[pos],
            (iotlb->count - pos) * sizeof(VsMapping));
    iotlb->entry[pos] = *mapping;
    iotlb->count++;
    iotlb->bytes += mapping->last - mapping->first + 1;
}

size_t vs_iotlb_remove(VsIotlb *iotlb, uint64_t first, uint64_t last,
                       VsIotlbRemoved *removed, void *opaque)
{
    size_t i, from, to, keep;

    candidates(iotlb, first, last, &from, &to);
    keep = from;
    for (i = from; i < to; i++) {
        VsMapping *m = &iotlb->entry[i];

        if (!touches(m, first, last)) {
            iotlb->entry[keep++] = *m;
            continue;
        }
        if (removed) {
            removed(opaque, m);
        }
        iotlb->bytes -= m->last - m->first + 1;
    }
    if (keep < to) {
        memmove(&iotlb->entry[keep], &iotlb->entry[to],
                (iotlb->count - to) * sizeof(VsMapping));
    }
    iotlb->count -= to - keep;
    if (iotlb->count == 0) {
        iotlb->overlapping = false;
    }
    return to - keep;
}

void vs_iotlb_copy(VsIotlb *dst, const VsIotlb *src)
{
    if (dst->alloc < src->count) {
        dst->alloc = src->count;
        dst->entry = g_renew(VsMapping, dst->entry, dst->alloc);
    }
    if (src->count) {
        memcpy(dst->entry, src->entry, src->count * sizeof(VsMapping));
    }
    dst->count = src->count;
    dst->bytes = src->bytes;
    dst->overlapping = src->overlapping;
}

void vs_iotlb_clear(VsIotlb *iotlb)
{
    iotlb->count = 0;
    iotlb->bytes = 0;
    iotlb->overlapping = false;
}

static const VsMapping *find(VsIotlb *iotlb, uint64_t iova)
{
    size_t i;

    if (iotlb->overlapping) {
        for (i = 0; i < iotlb->count; i++) {
            if (touches(&iotlb->entry[i], iova, iova)) {
                return &iotlb->entry[i];
            }
        }
        return NULL;
    }
    if (iotlb->hint < iotlb->count &&
        touches(&iotlb->entry[iotlb->hint], iova, iova)) {
        return &iotlb->entry[iotlb->hint];
    }
    i = upper_bound(iotlb, iova);
    if (i == 0 || iotlb->entry[i - 1].last < iova) {
        return NULL;
    }
    iotlb->hint = i - 1;
    return &iotlb->entry[i - 1];
}

VsXlate vs_iotlb_translate(VsIotlb *iotlb, uint64_t iova, uint64_t size,
                           uint8_t perm, uint64_t *addr, uint64_t *run)
{
    const VsMapping *m = find(iotlb, iova);

    if (!m) {
        return VS_XLATE_UNMAPPED;
    }
    if ((m->perm & perm) != perm) {
        return VS_XLATE_DENIED;
    }
    *addr = m->addr + (iova - m->first);
    /* last - iova cannot overflow; adding 1 to it could */
    *run = m->last - iova >= size - 1 ? size : m->last - iova + 1;
    return VS_XLATE_OK;
}

size_t vs_iotlb_count(const VsIotlb *iotlb)
{
    return iotlb->count;
}

const VsMapping *vs_iotlb_get(const VsIotlb *iotlb, size_t i)
{
    return &iotlb->entry[i];
}

uint64_t vs_iotlb_bytes(const VsIotlb *iotlb)
{
    return iotlb->bytes;
}
