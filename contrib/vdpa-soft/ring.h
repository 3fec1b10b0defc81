/*
 * vdpa-soft: the device's side of a virtqueue, split or packed
 *
 * A ring takes chains of buffers that a driver made available, gives them
 * back used, and decides when to tell the driver.  It touches memory only
 * through struct VsHost, and believes nothing it reads there: whatever the
 * driver wrote that the virtio specification forbids stops the ring, with
 * a reason, until it is started again.
 *
 * A ring has no lock; its caller holds the device's.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_RING_H
#define VDPA_SOFT_RING_H

#include "device.h"

/** Largest ring a ring index can describe, in entries */
#define VS_RING_MAX_NUM 32768

/** Chains may always have this many buffers, however small the ring */
#define VS_RING_MIN_CHAIN 1024

/**
 * struct VsRingState - where both sides of a ring are
 *
 * Wrap counters belong to packed rings and stay true in split ones.
 */
typedef struct VsRingState {
    uint16_t avail_idx;     /* next entry to take */
    uint16_t used_idx;      /* next entry to give back */
    bool avail_wrap;
    bool used_wrap;
} VsRingState;

/**
 * struct VsRingConfig - all that a ring takes over when it starts
 *
 * @features: negotiated features
 * @num: entries, a power of two of at most VS_RING_MAX_NUM
 * @desc: descriptor table, or the packed ring
 * @avail: available ring, or the packed driver event area
 * @used: used ring, or the packed device event area
 * @ring_asid: address space of those three
 * @asid: address space of the buffers and of indirect tables
 * @lenient: do as the kernel's simulator, which lets a driver get away with
 *           much: see vs_ring_pop()
 */
typedef struct VsRingConfig {
    uint64_t features;
    uint32_t num;
    uint64_t desc;
    uint64_t avail;
    uint64_t used;
    uint32_t ring_asid;
    uint32_t asid;
    bool lenient;
} VsRingConfig;

/** struct VsSeg - one contiguous buffer; @len is never 0 */
typedef struct VsSeg {
    uint64_t addr;
    uint32_t len;
} VsSeg;

/**
 * struct VsChain - one element of a ring, taken and not yet given back
 *
 * @seg: first of @nread readable segments followed by @nwrite writable
 *       ones, as an index for vs_ring_seg()
 * @read_len: bytes in the readable segments
 * @write_len: bytes in the writable segments
 * @id: how the driver knows the chain
 * @slots: entries of a packed ring it occupies
 */
typedef struct VsChain {
    unsigned seg;
    unsigned nread;
    unsigned nwrite;
    uint32_t read_len;
    uint32_t write_len;
    uint16_t id;
    uint16_t slots;
} VsChain;

/** struct VsRingMark - a point vs_ring_rewind() can go back to */
typedef struct VsRingMark {
    uint16_t avail_idx;
    bool avail_wrap;
    unsigned nseg;
    unsigned out;
} VsRingMark;

typedef struct VsRing VsRing;

/**
 * vs_ring_new() - make a stopped ring
 * @host: borrowed; must outlive the ring
 */
VsRing *vs_ring_new(const VsHost *host);
void vs_ring_free(VsRing *ring);

/**
 * vs_ring_start() - take over a configuration and begin at @state
 *
 * Reads no memory.  A configuration no ring can have leaves it stopped.
 *
 * Returns: false if it is stopped; vs_ring_error() tells why
 */
bool vs_ring_start(VsRing *ring, const VsRingConfig *config,
                   const VsRingState *state);
void vs_ring_stop(VsRing *ring);

/** vs_ring_ok() - started, and nothing malformed was seen since */
bool vs_ring_ok(const VsRing *ring);

/** vs_ring_error() - why the ring stopped by itself, or NULL */
const char *vs_ring_error(const VsRing *ring);

/** vs_ring_set_asid() - move a ring to other address spaces */
void vs_ring_set_asid(VsRing *ring, uint32_t asid, uint32_t ring_asid);

/** vs_ring_state() - present indices; also valid of a stopped ring */
void vs_ring_state(const VsRing *ring, VsRingState *state);

/** vs_ring_set_state() - go on from @state; nothing may be in flight */
void vs_ring_set_state(VsRing *ring, const VsRingState *state);

/**
 * vs_ring_forget() - drop what is cached of the driver's memory
 *
 * To be called when somebody else may have served the ring, such as at
 * resume.
 */
void vs_ring_forget(VsRing *ring);

/**
 * vs_ring_begin() - forget the segments of earlier chains
 *
 * Returns: the mark of this point
 */
VsRingMark vs_ring_begin(VsRing *ring);

/**
 * vs_ring_rewind() - undo the vs_ring_pop()s since @mark
 *
 * None of the chains may have been given back.
 */
void vs_ring_rewind(VsRing *ring, const VsRingMark *mark);

/**
 * vs_ring_pop() - take the next available chain
 *
 * A lenient split ring does not stop.  A malformed chain is taken and lost, an
 * index that is out of range, or memory that is not there, is tried again.
 * It takes indirect tables that were not negotiated, and buffers without any
 * bytes, which it skips.
 *
 * Returns: 1 with @chain filled, 0 if none is available, -1 if the ring is
 * stopped, now or before, or the next chain of a lenient one is malformed
 */
int vs_ring_pop(VsRing *ring, VsChain *chain);

/**
 * vs_ring_seg() - segment @i of those that chains refer to
 *
 * Valid until the next vs_ring_begin() or vs_ring_pop().
 */
const VsSeg *vs_ring_seg(const VsRing *ring, unsigned i);

/**
 * vs_ring_read() - copy from the readable part of a chain
 * @offset: bytes to skip
 *
 * Returns: false if the chain is shorter or the memory is not there
 */
bool vs_ring_read(VsRing *ring, const VsChain *chain, uint32_t offset,
                  void *buf, uint32_t size);

/** vs_ring_write() - same, to the writable part */
bool vs_ring_write(VsRing *ring, const VsChain *chain, uint32_t offset,
                   const void *buf, uint32_t size);

/**
 * vs_ring_push() - give a chain back
 * @written: bytes written into it
 *
 * The driver sees nothing before vs_ring_flush(), and then sees all chains
 * pushed since the last one at once.
 */
void vs_ring_push(VsRing *ring, const VsChain *chain, uint32_t written);

/**
 * vs_ring_flush() - show the pushed chains to the driver
 *
 * If its memory is not there, a lenient ring goes on as if the chains had not
 * been pushed.
 *
 * Returns: true if the driver is to be interrupted
 */
bool vs_ring_flush(VsRing *ring);

/** vs_ring_quiet() - tell the driver that kicks are not needed for now */
void vs_ring_quiet(VsRing *ring);

/**
 * vs_ring_arm() - ask for a kick when the driver adds to what vs_ring_pop()
 * has found so far
 *
 * Returns: true if something was added meanwhile, without a kick to come:
 * the caller must look again
 */
bool vs_ring_arm(VsRing *ring);

#endif
