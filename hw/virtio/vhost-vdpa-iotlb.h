/*
 * vhost-vdpa: what the device may reach, wanted and programmed
 *
 * The reconciler keeps two interval maps per address space: "desired", what
 * the guest's memory looks like now, and "programmed", what the kernel was
 * told and accepted.  A commit sends the smallest set of messages that turns
 * the second into the first.  It knows neither the memory API nor the
 * character device: the messages leave through VhostVDPAIOTLBOps.
 *
 * Ranges are first/last, both inclusive, in bytes and page aligned: @first
 * is a multiple of the page size, and so is @last + 1, which wraps to 0 at the
 * top of the address space.  Anything else is a programming error and asserts.
 *
 * Nothing here locks: the user serialises all calls on one reconciler.  Which
 * thread makes them is no matter.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_VHOST_VDPA_IOTLB_H
#define HW_VIRTIO_VHOST_VDPA_IOTLB_H

typedef struct VhostVDPAIOTLB VhostVDPAIOTLB;

/**
 * VhostVDPAIOTLBPerm: what the device may do with a range
 *
 * The values are those of the uAPI (VHOST_ACCESS_RO, _WO, _RW).
 *
 * @VHOST_VDPA_IOTLB_RO: read
 * @VHOST_VDPA_IOTLB_WO: write
 * @VHOST_VDPA_IOTLB_RW: both
 */
typedef enum VhostVDPAIOTLBPerm {
    VHOST_VDPA_IOTLB_RO = 1,
    VHOST_VDPA_IOTLB_WO = 2,
    VHOST_VDPA_IOTLB_RW = 3,
} VhostVDPAIOTLBPerm;

/**
 * VhostVDPAIOTLBOps: how messages leave, and how memory is kept alive
 *
 * All message callbacks are mandatory and return 0, or a negative errno if the
 * message had no effect.  They must not call back into the reconciler.
 *
 * @batch_begin: open a batch for @asid; only called while batching is on, and
 *               no batch open
 * @batch_end: close it, which makes its changes effective.  An error leaves
 *             the batch open.
 * @map: let the device reach host memory at @uaddr through IOVA
 *       @first..@last of @asid.  @last - @first + 1 never overflows.
 * @unmap: take away all that is mapped in @first..@last, which is never a part
 *         of a range that was mapped, but can be several with holes between
 *         them.  It starts and ends where one of them does, and
 *         @last - @first + 1 never overflows.
 * @ref: @owner's memory starts being programmed; called after the message
 *       was accepted.  Calls nest.  Must not call back into the reconciler
 *       either.  Optional (together with @unref), never called for an owner of
 *       NULL.
 * @unref: opposite of @ref.  Called when the device can no longer reach the
 *         memory: after the end of the batch, or the lone message, that took
 *         it away, at the end of the function that sent it.  May call back
 *         into the reconciler.
 */
typedef struct VhostVDPAIOTLBOps {
    int (*batch_begin)(void *opaque, uint32_t asid);
    int (*batch_end)(void *opaque, uint32_t asid);
    int (*map)(void *opaque, uint32_t asid, uint64_t first, uint64_t last,
               uint64_t uaddr, uint8_t perm);
    int (*unmap)(void *opaque, uint32_t asid, uint64_t first, uint64_t last);
    void (*ref)(void *opaque, void *owner);
    void (*unref)(void *opaque, void *owner);
} VhostVDPAIOTLBOps;

/**
 * VhostVDPAIOTLBRange: one range, as told to a VhostVDPAIOTLBFunc
 *
 * @first: first byte, IOVA
 * @last: last byte, IOVA
 * @uaddr: host virtual address of @first
 * @owner: who keeps the memory alive, NULL if nobody; NULL for programmed
 *         ranges, whose pages can have different owners
 * @perm: what the device may do
 */
typedef struct VhostVDPAIOTLBRange {
    uint64_t first;
    uint64_t last;
    uint64_t uaddr;
    void *owner;
    VhostVDPAIOTLBPerm perm;
} VhostVDPAIOTLBRange;

/**
 * VhostVDPAIOTLBFunc: called for ranges in ascending order
 *
 * @range: the range, valid during the call
 * @data: what was given to the iterator
 *
 * Must not change the reconciler.  Returns false to stop.
 */
typedef bool (*VhostVDPAIOTLBFunc)(const VhostVDPAIOTLBRange *range,
                                   void *data);

/**
 * VhostVDPAIOTLBReport: what a commit or withdrawal did
 *
 * @entries_before: ranges programmed before
 * @entries_after: ranges programmed after
 * @messages: messages sent, batch markers and refused ones included
 * @maps: map messages accepted
 * @unmaps: unmap messages accepted, each of which can remove several ranges
 * @bytes_mapped: bytes in @maps
 * @bytes_unmapped: bytes in the ranges that @unmaps removed
 * @bytes_left: bytes that vhost_vdpa_iotlb_commit_some() left for another call
 *              because its budget was used up; ranges that failed are not
 *              in it
 * @failures: messages refused, plus one if memory lies outside the device's
 *            IOVA range
 *
 * Byte counts stop at UINT64_MAX.
 */
typedef struct VhostVDPAIOTLBReport {
    uint64_t entries_before;
    uint64_t entries_after;
    uint64_t messages;
    uint64_t maps;
    uint64_t unmaps;
    uint64_t bytes_mapped;
    uint64_t bytes_unmapped;
    uint64_t bytes_left;
    uint64_t failures;
} VhostVDPAIOTLBReport;

/**
 * VhostVDPAIOTLBStep: the step of a commit that failed
 *
 * @VHOST_VDPA_IOTLB_STEP_RANGE: memory outside the device's IOVA range
 * @VHOST_VDPA_IOTLB_STEP_BATCH_BEGIN: opening the batch; nothing was sent
 * @VHOST_VDPA_IOTLB_STEP_UNMAP: taking a range away
 * @VHOST_VDPA_IOTLB_STEP_MAP: mapping a range
 * @VHOST_VDPA_IOTLB_STEP_BATCH_END: closing the batch
 */
typedef enum VhostVDPAIOTLBStep {
    VHOST_VDPA_IOTLB_STEP_RANGE,
    VHOST_VDPA_IOTLB_STEP_BATCH_BEGIN,
    VHOST_VDPA_IOTLB_STEP_UNMAP,
    VHOST_VDPA_IOTLB_STEP_MAP,
    VHOST_VDPA_IOTLB_STEP_BATCH_END,
} VhostVDPAIOTLBStep;

/**
 * VhostVDPAIOTLBFailure: the first failure of a commit or withdrawal
 *
 * @step: what was attempted
 * @err: positive errno; ERANGE for %VHOST_VDPA_IOTLB_STEP_RANGE
 * @asid: address space of the message that failed
 * @first: first byte of the range concerned; 0 for batch markers
 * @last: last byte; 0 for batch markers
 */
typedef struct VhostVDPAIOTLBFailure {
    VhostVDPAIOTLBStep step;
    int err;
    uint32_t asid;
    uint64_t first;
    uint64_t last;
} VhostVDPAIOTLBFailure;

/**
 * VhostVDPAIOTLBStats: present state and running totals
 *
 * @ranges_desired: ranges desired; touching ranges that go on in host memory
 *                  with equal permission and owner count as one, unless they
 *                  are discrete
 * @bytes_desired: bytes desired
 * @entries: ranges programmed
 * @bytes: bytes programmed
 * @messages: messages ever sent, refused ones included
 * @bytes_mapped: bytes ever mapped
 * @lookups: searches, insertions and removals ever done on the trees, each of
 *           which costs O(log n)
 *
 * Byte counts stop at UINT64_MAX.
 */
typedef struct VhostVDPAIOTLBStats {
    uint64_t ranges_desired;
    uint64_t bytes_desired;
    uint64_t entries;
    uint64_t bytes;
    uint64_t messages;
    uint64_t bytes_mapped;
    uint64_t lookups;
} VhostVDPAIOTLBStats;

/**
 * vhost_vdpa_iotlb_new: create a reconciler without any address space
 *
 * @ops: callbacks; must outlive the reconciler
 * @opaque: first argument of every callback
 * @small_limit: IOVA at which low memory, made of small ranges that change
 *               often, ends (1 MiB on x86), or 0 if there is no such
 *               thing.  No programmed range crosses it.  Page aligned.
 * @page_size: bytes, a power of two
 *
 * Batching is off, and the IOVA range is that of the largest device, 0 to
 * UINT64_MAX.  An address space comes into being when it is first named.
 *
 * Returns the reconciler; free it with vhost_vdpa_iotlb_free().
 */
VhostVDPAIOTLB *vhost_vdpa_iotlb_new(const VhostVDPAIOTLBOps *ops,
                                     void *opaque, uint64_t small_limit,
                                     uint64_t page_size);

/**
 * vhost_vdpa_iotlb_free: free a reconciler
 *
 * @iotlb: the reconciler, or NULL
 *
 * Sends no message, because closing the device drops everything; the device
 * must be closed, or unable to access memory, by then.  Drops all references;
 * what that leads to may change what is desired, but must not commit it.
 */
void vhost_vdpa_iotlb_free(VhostVDPAIOTLB *iotlb);

/**
 * vhost_vdpa_iotlb_set_batching: use batches from the next commit on
 *
 * @iotlb: the reconciler
 * @batching: whether the backend offers VHOST_BACKEND_F_IOTLB_BATCH
 */
void vhost_vdpa_iotlb_set_batching(VhostVDPAIOTLB *iotlb, bool batching);

/**
 * vhost_vdpa_iotlb_set_range: tell which IOVAs the device can use
 *
 * @iotlb: the reconciler
 * @first: first byte the device can use; need not be page aligned
 * @last: last byte, not below @first; need not be page aligned
 *
 * Pages that are not completely inside the range can not be programmed.
 * Changing the range makes the next commit look at everything, O(n).
 */
void vhost_vdpa_iotlb_set_range(VhostVDPAIOTLB *iotlb,
                                uint64_t first, uint64_t last);

/**
 * vhost_vdpa_iotlb_add: desire a range
 *
 * @iotlb: the reconciler
 * @asid: address space
 * @first: first byte, IOVA
 * @last: last byte, IOVA
 * @uaddr: host virtual address of @first, page aligned; the range must not
 *         wrap in host memory
 * @perm: what the device may do
 * @owner: who keeps the memory alive, or NULL.  References are held while the
 *         range is programmed; until then the user sees to it that @owner
 *         stays valid as long as the range is desired.
 * @discrete: the range will go as it comes, in one piece: never let it share
 *            an entry with a neighbour.  What the driver of a virtual IOMMU
 *            maps in one step it unmaps in one step; an entry that held more
 *            would have to be removed and the rest, which the device is
 *            using, mapped again.
 * @errp: where to put an error, which names both ranges
 *
 * Replaces whatever was desired in the range.  Sends no message.  What is
 * programmed already, and the same memory with the same permission, stays as
 * it is even if it is not divided as @discrete asks for.
 *
 * Returns true; or false if part of the range is outside the device's IOVA
 * range.  The range is desired nevertheless, so that each commit fails with
 * the same error until it is deleted: a caller that cannot report an error
 * here may pass NULL and ignore the result.
 */
bool vhost_vdpa_iotlb_add(VhostVDPAIOTLB *iotlb, uint32_t asid,
                          uint64_t first, uint64_t last, uint64_t uaddr,
                          VhostVDPAIOTLBPerm perm, void *owner, bool discrete,
                          Error **errp);

/**
 * vhost_vdpa_iotlb_del: desire nothing in a range
 *
 * @iotlb: the reconciler
 * @asid: address space
 * @first: first byte, IOVA
 * @last: last byte, IOVA
 *
 * The range may cover any part of what is desired, or nothing of it.
 * Sends no message.
 */
void vhost_vdpa_iotlb_del(VhostVDPAIOTLB *iotlb, uint32_t asid,
                          uint64_t first, uint64_t last);

/**
 * vhost_vdpa_iotlb_clear: desire nothing in an address space
 *
 * @iotlb: the reconciler
 * @asid: address space
 */
void vhost_vdpa_iotlb_clear(VhostVDPAIOTLB *iotlb, uint32_t asid);

/**
 * vhost_vdpa_iotlb_check: can all that is desired be programmed?
 *
 * @iotlb: the reconciler
 * @asid: address space
 * @errp: where to put an error, which names both ranges
 *
 * Tells without sending anything, hence before gigabytes are pinned in vain.
 *
 * Returns false if something desired is outside the device's IOVA range.
 */
bool vhost_vdpa_iotlb_check(VhostVDPAIOTLB *iotlb, uint32_t asid,
                            Error **errp);

/**
 * vhost_vdpa_iotlb_dirty: would a commit send a message?
 *
 * @iotlb: the reconciler
 * @asid: address space
 *
 * A commit that sends nothing still has to be made: it reports memory outside
 * the IOVA range and moves references between owners of the same memory.
 */
bool vhost_vdpa_iotlb_dirty(VhostVDPAIOTLB *iotlb, uint32_t asid);

/**
 * vhost_vdpa_iotlb_obsolete: how much does the device have in vain?
 *
 * @iotlb: the reconciler
 * @asid: address space
 *
 * For a user that leaves small changes for later, but not memory that is gone.
 *
 * Returns the bytes programmed that are not desired, or not as they are; at
 * most UINT64_MAX.
 */
uint64_t vhost_vdpa_iotlb_obsolete(VhostVDPAIOTLB *iotlb, uint32_t asid);

/**
 * vhost_vdpa_iotlb_commit: make programmed what is desired
 *
 * @iotlb: the reconciler
 * @asid: address space
 * @report: where to put what was done, or NULL; filled in on failure, too
 * @errp: where to put the first failure: range, size and cause.  Does not name
 *        the device; the caller does.
 *
 * Sends removals, then additions, each in ascending order, inside one batch if
 * batching is on; sends nothing if there is nothing to do.  The cost is
 * O(k log n) for k ranges that changed since the last commit.
 *
 * One message removes all ranges that have to go up to the next that stays,
 * whatever holes there are between them, unless it were all 64 bits: no message
 * holds that size.
 *
 * A batch makes a driver that takes whole maps take one, instead of one for
 * each message.  So there is never an empty batch, nor one of a single message
 * that makes it take one anyway: a removal, or the addition of a page.  (A
 * larger addition makes it take one for each physically contiguous part of the
 * memory.)
 *
 * A range that was programmed and still is desired stays untouched, unless
 * it is part of an entry another part of which has to go; then what
 * is left of the entry is mapped again in the same batch.
 *
 * A message that fails does not keep the others from being sent: one bad range
 * shall not cost a running device the rest of its memory.  What was not
 * accepted is tried again by each following commit:
 * - a range that could not be mapped stays missing;
 * - ranges that could not be unmapped stay as they are, together with their
 *   references, and new ranges that overlap them stay missing;
 * - if the batch could not be opened, nothing was sent;
 * - if it could not be closed, the kernel has recorded the changes, but the
 *   device may not know them: the references of what was taken away are kept,
 *   the batch stays open, and the next commit goes on in it and closes it even
 *   if there is nothing else to send;
 * - if mapping a range at IOVA 0 failed, kernels may have dropped everything
 *   else in the address space without a word; the next commit unmaps and
 *   maps again what was programmed at that time.
 *
 * Returns true if all that is desired, and nothing else, is programmed.
 */
bool vhost_vdpa_iotlb_commit(VhostVDPAIOTLB *iotlb, uint32_t asid,
                             VhostVDPAIOTLBReport *report, Error **errp);

/**
 * vhost_vdpa_iotlb_commit_some: do part of a commit
 *
 * @iotlb: the reconciler
 * @asid: address space
 * @max_bytes: how much memory to map that was not mapped before, at least one
 *             page; UINT64_MAX for no limit
 * @cut_align: where to cut a range for which @max_bytes is not enough: at
 *             multiples of this power of two, in IOVA; at least a page
 * @report: as for vhost_vdpa_iotlb_commit()
 * @errp: as for vhost_vdpa_iotlb_commit()
 *
 * Lets a caller that must stay responsive map a large guest in steps.  Does
 * all removals, and maps again what these took away, whatever @max_bytes
 * is; then new memory in ascending order.  The range at which the limit is
 * reached is cut at a multiple of @cut_align, or left to the next call as a
 * whole; if nothing new could be mapped that way, it is cut at the very page.
 * Go on while @bytes_left of the report is not 0, but not after an error.
 *
 * All steps share one batch: a call that leaves something and has no failure
 * leaves the batch open, too, and the next commit or withdrawal of @asid goes
 * on in it.  It closes it when nothing is left, or after a failure; so does a
 * commit or withdrawal of another address space that has something to send.  A
 * reset of the device makes no difference.  Until the end of the batch, some
 * devices do not know of its changes, and what they take away stays referenced.
 *
 * Returns true if no message failed, all that is desired is inside the IOVA
 * range, and all was sent that @max_bytes allows.
 */
bool vhost_vdpa_iotlb_commit_some(VhostVDPAIOTLB *iotlb, uint32_t asid,
                                  uint64_t max_bytes, uint64_t cut_align,
                                  VhostVDPAIOTLBReport *report, Error **errp);

/**
 * vhost_vdpa_iotlb_withdraw: unmap all that is programmed
 *
 * @iotlb: the reconciler
 * @asid: address space
 * @report: as for vhost_vdpa_iotlb_commit()
 * @errp: where to put the first failure
 *
 * For a reset that makes the driver, but not the vhost layer, forget
 * its translations (no VHOST_BACKEND_F_IOTLB_PERSIST).  What is desired stays
 * desired, and the next commit maps it again.  One message does, unless ranges
 * at both ends of the 64 bits make it two, in one batch; and none is sent if
 * nothing is programmed, but for the end of a batch that is open.
 *
 * Returns true; or false if a message failed.  What could not be unmapped is
 * then unmapped, and mapped again if desired, by the next commit.
 */
bool vhost_vdpa_iotlb_withdraw(VhostVDPAIOTLB *iotlb, uint32_t asid,
                               VhostVDPAIOTLBReport *report, Error **errp);

/**
 * vhost_vdpa_iotlb_failure: why the last commit or withdrawal failed
 *
 * @iotlb: the reconciler
 * @asid: address space
 *
 * Returns the first failure of the last commit or withdrawal of @asid, valid
 * until the next one; or NULL if that succeeded.
 */
const VhostVDPAIOTLBFailure *
vhost_vdpa_iotlb_failure(VhostVDPAIOTLB *iotlb, uint32_t asid);

/**
 * vhost_vdpa_iotlb_foreach_desired: visit what is desired
 *
 * @iotlb: the reconciler
 * @asid: address space
 * @func: called for each range, in ascending order
 * @data: second argument of @func
 */
void vhost_vdpa_iotlb_foreach_desired(VhostVDPAIOTLB *iotlb, uint32_t asid,
                                      VhostVDPAIOTLBFunc func, void *data);

/**
 * vhost_vdpa_iotlb_foreach_programmed: visit what the kernel accepted
 *
 * @iotlb: the reconciler
 * @asid: address space
 * @func: called for each range, in ascending order, with the bounds it was
 *        mapped with
 * @data: second argument of @func
 */
void vhost_vdpa_iotlb_foreach_programmed(VhostVDPAIOTLB *iotlb, uint32_t asid,
                                         VhostVDPAIOTLBFunc func, void *data);

/**
 * vhost_vdpa_iotlb_stats: figures of one address space
 *
 * @iotlb: the reconciler
 * @asid: address space
 * @stats: where to put them
 */
void vhost_vdpa_iotlb_stats(VhostVDPAIOTLB *iotlb, uint32_t asid,
                            VhostVDPAIOTLBStats *stats);

#endif /* HW_VIRTIO_VHOST_VDPA_IOTLB_H */
