/*
 * vdpa-soft: a store of IOVA mappings with the kernel's removal rules
 *
 * Ranges are given as first and last byte, both inclusive, so that one may
 * end at the last byte of the 64-bit space.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_IOTLB_H
#define VDPA_SOFT_IOTLB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VS_PERM_RO 1u
#define VS_PERM_WO 2u
#define VS_PERM_RW 3u

/**
 * struct VsMapping - one stored entry
 *
 * @first: first IOVA
 * @last: last IOVA, inclusive
 * @addr: address in the process of @first
 * @perm: VS_PERM_* bits, from the device's point of view
 * @pinned: pages charged against the memory lock limit for it
 */
typedef struct VsMapping {
    uint64_t first;
    uint64_t last;
    uint64_t addr;
    uint64_t pinned;
    uint8_t perm;
} VsMapping;

/**
 * enum VsXlate - outcome of a translation
 *
 * @VS_XLATE_OK: translated
 * @VS_XLATE_UNMAPPED: nothing is mapped at the address
 * @VS_XLATE_DENIED: something is, without the permission asked for
 */
typedef enum VsXlate {
    VS_XLATE_OK,
    VS_XLATE_UNMAPPED,
    VS_XLATE_DENIED,
} VsXlate;

typedef struct VsIotlb VsIotlb;

typedef void VsIotlbRemoved(void *opaque, const VsMapping *mapping);

/** vs_iotlb_new() - an empty store; callers serialise access themselves */
VsIotlb *vs_iotlb_new(void);

/** vs_iotlb_free() - @iotlb may be NULL */
void vs_iotlb_free(VsIotlb *iotlb);

/** vs_iotlb_overlaps() - whether any entry touches @first..@last */
bool vs_iotlb_overlaps(const VsIotlb *iotlb, uint64_t first, uint64_t last);

/**
 * vs_iotlb_add() - store an entry
 *
 * Overlap is the caller's business, who tests for it.  Of entries that do, a
 * translation uses the one with the lowest @first.
 */
void vs_iotlb_add(VsIotlb *iotlb, const VsMapping *mapping);

/**
 * vs_iotlb_remove() - remove every entry that touches a range, whole
 * @first: first IOVA
 * @last: last IOVA; @first - 1 for an empty range, which touches an entry
 *        that holds both bytes, and everything if @first is 0
 * @removed: called for each entry before it goes, or NULL
 * @opaque: first argument of @removed
 *
 * Returns: how many entries went
 */
size_t vs_iotlb_remove(VsIotlb *iotlb, uint64_t first, uint64_t last,
                       VsIotlbRemoved *removed, void *opaque);

/** vs_iotlb_copy() - make @dst hold exactly what @src holds */
void vs_iotlb_copy(VsIotlb *dst, const VsIotlb *src);

/** vs_iotlb_clear() - remove everything */
void vs_iotlb_clear(VsIotlb *iotlb);

/**
 * vs_iotlb_translate() - find the memory behind an IOVA
 * @iova: device address
 * @size: bytes wanted, not 0; must not wrap
 * @perm: VS_PERM_* bits, all of which the entry must have
 * @addr: receives the address in the process
 * @run: receives how many of @size bytes are contiguous there, at least 1
 */
VsXlate vs_iotlb_translate(VsIotlb *iotlb, uint64_t iova, uint64_t size,
                           uint8_t perm, uint64_t *addr, uint64_t *run);

/** vs_iotlb_count() - number of entries */
size_t vs_iotlb_count(const VsIotlb *iotlb);

/** vs_iotlb_get() - entry @i in ascending order; valid until a change */
const VsMapping *vs_iotlb_get(const VsIotlb *iotlb, size_t i);

/** vs_iotlb_bytes() - sum of the sizes of all entries, modulo 2^64 */
uint64_t vs_iotlb_bytes(const VsIotlb *iotlb);

#endif
