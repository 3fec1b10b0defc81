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
 * VhostVDPAMemoryFailed - a change of memory did not reach a running device
 * @opaque: as given to vhost_vdpa_memory_new()
 * @err: names the device, the range and the cause; the callee owns it
 */
typedef void VhostVDPAMemoryFailed(void *opaque, Error *err);

/**
 * vhost_vdpa_memory_new() - follow no memory yet
 * @node: the device; @node->name must stay valid
 * @first: first address the device can use
 * @last: last address the device can use, inclusive
 * @batching: the backend offers VHOST_BACKEND_F_IOTLB_BATCH
 * @failed: called when a change cannot be sent while the device runs
 * @opaque: for @failed
 *
 * Returns: to be freed with vhost_vdpa_memory_free()
 */
VhostVDPAMemory *vhost_vdpa_memory_new(const VhostVDPANode *node,
                                       uint64_t first, uint64_t last,
                                       bool batching,
                                       VhostVDPAMemoryFailed *failed,
                                       void *opaque);

/**
 * vhost_vdpa_memory_free() - stop following, without a message
 * @m: may be NULL.  The file is about to be closed, which drops all mappings
 */
void vhost_vdpa_memory_free(VhostVDPAMemory *m);

/**
 * vhost_vdpa_memory_commit() - make the device see @as exactly
 * @m: what to bring up to date
 * @as: the address space of the device's accesses, which can be one behind a
 *      virtual IOMMU; following it starts with the first call, and moves when
 *      the address space is another one
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
 */
void vhost_vdpa_memory_unfollow(VhostVDPAMemory *m);

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
 * vhost_vdpa_memory_commit() maps all of it again.
 */
bool vhost_vdpa_memory_withdraw(VhostVDPAMemory *m, Error **errp);

#endif
