/*
 * vhost-vdpa: the guest's memory, as the device is to see it
 *
 * Between QEMU's memory API and the reconciler: turns the sections of an
 * address space into desired ranges, and decides when they are sent.
 *
 * All functions are called with the BQL held.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_VHOST_VDPA_MEMORY_H
#define HW_VIRTIO_VHOST_VDPA_MEMORY_H

#include "exec/memory.h"
#include "vhost-vdpa-uapi.h"

/* Address space of the guest's memory; the only one without shadow queues */
#define VHOST_VDPA_GUEST_ASID 0

typedef struct VhostVDPAMemory VhostVDPAMemory;

/**
 * struct VhostVDPAMemoryEvents - what its user is told
 * @failed: a change did not reach a running device.  The callee owns the error,
 *          which names the device, the range and the cause
 * @mapped: mapping in the background is over.  The error is NULL if the device
 *          now has all memory; the callee owns it
 * @changed: what vhost_vdpa_memory_get_info() tells may have changed
 */
typedef struct VhostVDPAMemoryEvents {
    void (*failed)(void *opaque, Error *err);
    void (*mapped)(void *opaque, Error *err);
    void (*changed)(void *opaque);
} VhostVDPAMemoryEvents;

/**
 * struct VhostVDPAMemoryInfo - figures for people and managers
 * @bytes: mapped now
 * @bytes_wanted: to be mapped, if all goes well
 * @entries: ranges they are made of
 * @messages: IOTLB messages sent since the device was opened
 * @bytes_mapped: all bytes ever mapped since the device was opened
 * @last_error: why the device could not be given all memory the last time it
 *              was tried, or NULL if it was; owned by the memory
 */
typedef struct VhostVDPAMemoryInfo {
    uint64_t bytes;
    uint64_t bytes_wanted;
    uint64_t entries;
    uint64_t messages;
    uint64_t bytes_mapped;
    const char *last_error;
} VhostVDPAMemoryInfo;

/**
 * vhost_vdpa_memory_new() - follow no memory yet
 * @node: the device; @node->name must stay valid
 * @first: first address the device can use
 * @last: last address the device can use, inclusive
 * @batching: the backend offers VHOST_BACKEND_F_IOTLB_BATCH
 * @events: called with the BQL held; must stay valid
 * @opaque: for @events
 *
 * Returns: to be freed with vhost_vdpa_memory_free()
 */
VhostVDPAMemory *vhost_vdpa_memory_new(const VhostVDPANode *node,
                                       uint64_t first, uint64_t last,
                                       bool batching,
                                       const VhostVDPAMemoryEvents *events,
                                       void *opaque);

/**
 * vhost_vdpa_memory_free() - stop following, without a message
 * @m: may be NULL.  The file is about to be closed, which drops all mappings
 */
void vhost_vdpa_memory_free(VhostVDPAMemory *m);

/**
 * vhost_vdpa_memory_map() - begin to give the device the memory of @as
 * @m: what to bring up to date
 * @as: the address space of the device's accesses, which can be one behind a
 *      virtual IOMMU; following it starts with the first call, and moves when
 *      the address space is another one
 * @low: begin to follow what is below 1 MiB, too, if that was not done yet.
 *       Before the guest's first driver, firmware changes it all the time
 * @errp: names the device, the range that failed and the likely causes; NULL
 *        not to wait for the first of them
 *
 * Pinning memory takes the host long.  So what is large is mapped in slices by
 * a thread, while the monitor and the guest go on;
 * vhost_vdpa_memory_is_mapping() then tells so, and an event that it is over.
 * For a device that does not run.
 *
 * Returns: false if something failed already
 */
bool vhost_vdpa_memory_map(VhostVDPAMemory *m, AddressSpace *as, bool low,
                           Error **errp);

/** vhost_vdpa_memory_is_mapping() - does @m map in the background? */
bool vhost_vdpa_memory_is_mapping(VhostVDPAMemory *m);

/**
 * vhost_vdpa_memory_commit() - make the device see @as exactly, at once
 * @m: what to bring up to date
 * @as: as for vhost_vdpa_memory_map()
 * @errp: names the device, the range that failed and the likely causes
 *
 * Returns: true if the device now has all of @as
 */
bool vhost_vdpa_memory_commit(VhostVDPAMemory *m, AddressSpace *as,
                              Error **errp);

/**
 * vhost_vdpa_memory_unfollow() - let go of the address space
 * @m: the memory
 *
 * For one that may cease to exist, as that of a PCI device does.  Sends
 * nothing; the next vhost_vdpa_memory_commit() sends what is different then.
 *
 * Returns: true if a virtual IOMMU translated the device's accesses, which
 * means that what is mapped is of use for nobody but the guest's driver
 */
bool vhost_vdpa_memory_unfollow(VhostVDPAMemory *m);

/**
 * vhost_vdpa_memory_set_running() - does the device access memory
 * @m: the memory
 * @running: changes must reach the device at once
 *
 * While it does not run, changes are left for the next
 * vhost_vdpa_memory_commit(), unless 1 MiB or more are gone.
 */
void vhost_vdpa_memory_set_running(VhostVDPAMemory *m, bool running);

/**
 * vhost_vdpa_memory_withdraw() - unmap everything
 * @m: the memory
 * @errp: names the device, the range that failed and the cause
 *
 * For a reset that does not keep the device's translations.  The next
 * vhost_vdpa_memory_map() maps all of it again.
 */
bool vhost_vdpa_memory_withdraw(VhostVDPAMemory *m, Error **errp);

/** vhost_vdpa_memory_get_info() - present figures */
void vhost_vdpa_memory_get_info(VhostVDPAMemory *m, VhostVDPAMemoryInfo *info);

#endif
