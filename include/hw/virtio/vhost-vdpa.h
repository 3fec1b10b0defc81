/*
 * vhost-vdpa: a virtio device driven by a vDPA device of the host
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_VHOST_VDPA_H
#define HW_VIRTIO_VHOST_VDPA_H

#include "hw/virtio/vhost.h"
#include "hw/virtio/virtio.h"
#include "standard-headers/linux/vhost_types.h"

struct VhostVDPAMemory;
typedef struct VhostVDPARing VhostVDPARing;
typedef struct VhostVDPAShared VhostVDPAShared;
typedef struct vhost_vdpa VhostVDPA;

/**
 * enum VhostVDPAState - what an open character device has been told so far
 *
 * @VHOST_VDPA_CLOSED: nothing; also a device that failed to become ours
 * @VHOST_VDPA_OWNED: backend features are negotiated, the virtio status is 0
 * @VHOST_VDPA_CONFIGURED: FEATURES_OK was accepted, rings can be set up
 * @VHOST_VDPA_RUNNING: DRIVER_OK was accepted, the device accesses memory
 * @VHOST_VDPA_SUSPENDED: DRIVER_OK, but all rings stand still
 *
 * The legal moves are a table in hw/virtio/vhost-vdpa.c.
 */
typedef enum VhostVDPAState {
    VHOST_VDPA_CLOSED,
    VHOST_VDPA_OWNED,
    VHOST_VDPA_CONFIGURED,
    VHOST_VDPA_RUNNING,
    VHOST_VDPA_SUSPENDED,
    VHOST_VDPA_STATE__MAX,
} VhostVDPAState;

/**
 * struct VhostVDPAShared - one open character device
 *
 * Shared by every struct vhost_vdpa made on it.  May be allocated zeroed with
 * only @device_fd and @iova_range filled in: vhost_vdpa_shared_open() then
 * runs when the first vhost_dev is initialized.  All access is under the BQL.
 *
 * @device_fd: the character device, open for reading and writing; stays the
 *             property of whoever opened it
 * @iova_range: addresses the device can use, both ends inclusive
 * @label: NULL, or the user's words for the device, which are used where the
 *         path of the file is not known; not owned
 * @name: how messages call the device; set while it is open
 * @merge_config: NULL to show the guest the device's configuration space as
 *                it is; or called to move the @size bytes read into
 *                @guest, which holds what QEMU would show by itself
 * @changed: NULL, or called when vhost_vdpa_shared_get_info() has news
 * @opaque: for the user of @merge_config and @changed
 */
struct VhostVDPAShared {
    int device_fd;
    struct vhost_vdpa_iova_range iova_range;
    const char *label;
    char *name;
    void (*merge_config)(VhostVDPAShared *s, uint8_t *guest,
                         const uint8_t *device, size_t size);
    void (*changed)(VhostVDPAShared *s);
    void *opaque;

    /*< private >*/
    VhostVDPAState state;
    bool open;
    bool reset_failed;          /* to be tried again before the next use */
    bool start_pending;         /* runs as soon as it has all memory */
    bool warned_ring;           /* of rings larger than @max_ring */
    bool control_lost;          /* unless the start that follows fails */
    bool warned_control;        /* of that */
    uint32_t device_id;
    uint32_t num_vqs;           /* UINT32_MAX: the kernel cannot tell */
    uint32_t num_groups;
    uint32_t num_as;
    uint32_t config_size;       /* UINT32_MAX: the kernel cannot tell */
    uint8_t virtio_status;      /* accepted since the last reset */
    uint16_t max_ring;
    uint64_t device_features;
    uint64_t backend_features;
    uint64_t features;          /* accepted by FEATURES_OK */
    int config_call_fd;         /* -1: none */
    VirtIODevice *vdev;         /* may be gone while closed, owned, suspended */
    AddressSpace *as;           /* to be seen by the device; NULL: not known */
    struct VhostVDPAMemory *memory;
    char *last_error;           /* why it broke the last time */
    Object *status;             /* shows figures to managers */
    QTAILQ_HEAD(, vhost_vdpa) devs;
};

/**
 * struct vhost_vdpa - the part of a device that one vhost_dev drives
 *
 * A queue pair, the control queue, or all of a generic device.  Zeroed by its
 * owner but for the first two members; the rest is the backend's.
 *
 * @shared: the device, which must outlive this
 * @control_vq: 0, or for a control queue its index for the device once
 *              VIRTIO_NET_F_MQ or _RSS was negotiated; the guest may have been
 *              given fewer queue pairs, and knows another one
 */
struct vhost_vdpa {
    VhostVDPAShared *shared;
    unsigned control_vq;

    /*< private >*/
    struct vhost_dev *dev;
    VhostVDPARing *rings;
    QTAILQ_ENTRY(vhost_vdpa) entry;
};

/**
 * vhost_vdpa_get_iova_range() - the addresses a device can use
 * @device_fd: the character device
 * @iova_range: filled in on success
 *
 * A kernel before 5.10 cannot tell; the answer is then all of 64 bits.
 * Reference: VHOST_VDPA_GET_IOVA_RANGE, include/uapi/linux/vhost.h.
 *
 * Returns: 0, or a negative errno
 */
int vhost_vdpa_get_iova_range(int device_fd,
                              struct vhost_vdpa_iova_range *iova_range);

/**
 * vhost_vdpa_shared_open() - become the owner of a device and ask what it is
 * @s: @device_fd is set; @iova_range is filled in unless set
 * @errp: names the device, what was attempted and what to do about it
 *
 * Negotiates backend features and reads everything that stays constant while
 * the file is open.  Rejects a device this backend cannot drive correctly.
 * Does nothing when already open.  Called with the BQL held.
 *
 * Returns: true on success.  On failure the file must be closed
 */
bool vhost_vdpa_shared_open(VhostVDPAShared *s, Error **errp);

/**
 * vhost_vdpa_shared_close() - forget a device
 * @s: no struct vhost_vdpa is left on it
 *
 * Nothing is sent: closing @device_fd, which is the caller's part, resets the
 * device and drops all mappings.  Does nothing when not open.  @s is not freed.
 */
void vhost_vdpa_shared_close(VhostVDPAShared *s);

/**
 * vhost_vdpa_shared_map_memory() - give the device the guest's memory
 * @s: an open device
 * @errp: names the device, the range that failed and the likely causes
 *
 * From now on the device's IOTLB follows the guest's memory.  Done before a
 * guest driver needs it because pinning memory takes long; so long that more
 * than 512 MiB are mapped in the background, and a driver that starts the
 * device has to wait.  Called with the BQL held.
 *
 * Returns: false if something failed already
 */
bool vhost_vdpa_shared_map_memory(VhostVDPAShared *s, Error **errp);

/**
 * struct VhostVDPAInfo - what there is to tell about a device
 * @state: name of its enum VhostVDPAState, in lower case
 * @start_pending: it is to run as soon as it has all of the guest's memory
 * @bytes: memory that is mapped, bytes
 * @bytes_wanted: memory that is to be mapped, bytes
 * @bytes_mapped: all that was ever mapped since it was opened, bytes
 * @entries: ranges that are mapped
 * @messages: IOTLB messages sent since it was opened
 * @last_error: why it broke, or lacks memory; NULL; valid while the BQL is held
 */
typedef struct VhostVDPAInfo {
    const char *state;
    bool start_pending;
    uint64_t bytes;
    uint64_t bytes_wanted;
    uint64_t bytes_mapped;
    uint64_t entries;
    uint64_t messages;
    const char *last_error;
} VhostVDPAInfo;

/**
 * vhost_vdpa_shared_get_info() - state and figures of an open device
 * @s: an open device
 * @info: filled in
 *
 * Called with the BQL held.
 */
void vhost_vdpa_shared_get_info(VhostVDPAShared *s, VhostVDPAInfo *info);

/**
 * vhost_vdpa_read_config() - read the configuration space
 * @s: an open device
 * @config: receives the bytes from offset 0
 * @size: bytes wanted; no more than the device has are written
 * @errp: names the device and the cause
 *
 * Read in one go, as the kernel offers no generation count that could tell
 * two reads apart.  Not passed through @merge_config.
 *
 * Returns: bytes read, or a negative errno
 */
int vhost_vdpa_read_config(VhostVDPAShared *s, void *config, size_t size,
                           Error **errp);

#endif
