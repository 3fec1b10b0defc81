/*
 * vhost-vdpa: the kernel interface, one function per ioctl and message
 *
 * Every function reports which device, what was attempted, the cause, and
 * what can be done about it, and leaves one trace event.  None of them knows
 * when it may be called: that is the state machine's business.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_VHOST_VDPA_UAPI_H
#define HW_VIRTIO_VHOST_VDPA_UAPI_H

#include "standard-headers/linux/vhost_types.h"

/*
 * The errno for an operation that a vDPA driver does not have: the kernel
 * lets its internal ENOTSUPP through, which no C library knows.
 */
#define VHOST_VDPA_ENOTSUPP 524

/**
 * struct VhostVDPANode - an open character device, as messages call it
 * @fd: the file
 * @name: for messages and trace events; not owned
 */
typedef struct VhostVDPANode {
    int fd;
    const char *name;
} VhostVDPANode;

/**
 * vhost_vdpa_uapi_unsupported() - does an error mean "there is no such thing"
 * @err: negative errno of any function below
 *
 * An unknown ioctl is reported as ENOTTY, EPERM, EFAULT or ENOBUFS depending
 * on how far the kernel got, and an operation that the vDPA driver lacks as
 * EOPNOTSUPP or 524 (drivers/vhost/vdpa.c, drivers/vhost/vhost.c).
 */
bool vhost_vdpa_uapi_unsupported(int err);

/*
 * All of the following return 0 or a negative errno, and on failure set
 * @errp.  Those without arguments of their own act on the whole device.
 */
int vhost_vdpa_uapi_set_owner(const VhostVDPANode *n, Error **errp);
int vhost_vdpa_uapi_get_device_id(const VhostVDPANode *n, uint32_t *id,
                                  Error **errp);
int vhost_vdpa_uapi_get_features(const VhostVDPANode *n, uint64_t *features,
                                 Error **errp);
int vhost_vdpa_uapi_set_features(const VhostVDPANode *n, uint64_t features,
                                 Error **errp);
int vhost_vdpa_uapi_get_backend_features(const VhostVDPANode *n,
                                         uint64_t *features, Error **errp);
int vhost_vdpa_uapi_set_backend_features(const VhostVDPANode *n,
                                         uint64_t features, Error **errp);
int vhost_vdpa_uapi_get_status(const VhostVDPANode *n, uint8_t *status,
                               Error **errp);

/**
 * vhost_vdpa_uapi_set_status() - write the virtio device status
 * @n: the device
 * @status: all bits; 0 resets the device
 * @errp: set on failure
 *
 * Success says only that the request was delivered: a driver that refuses
 * it leaves bits out, so the caller must read the status back.
 */
int vhost_vdpa_uapi_set_status(const VhostVDPANode *n, uint8_t status,
                               Error **errp);

int vhost_vdpa_uapi_get_config_size(const VhostVDPANode *n, uint32_t *size,
                                    Error **errp);
int vhost_vdpa_uapi_get_config(const VhostVDPANode *n, uint32_t offset,
                               void *buf, uint32_t size, Error **errp);
int vhost_vdpa_uapi_set_config(const VhostVDPANode *n, uint32_t offset,
                               const void *buf, uint32_t size, Error **errp);

/* @fd is an eventfd, or -1 to unbind; the kernel takes its own reference */
int vhost_vdpa_uapi_set_config_call(const VhostVDPANode *n, int fd,
                                    Error **errp);

int vhost_vdpa_uapi_get_max_ring(const VhostVDPANode *n, uint16_t *entries,
                                 Error **errp);
int vhost_vdpa_uapi_get_num_vqs(const VhostVDPANode *n, uint32_t *num,
                                Error **errp);
int vhost_vdpa_uapi_get_num_groups(const VhostVDPANode *n, uint32_t *num,
                                   Error **errp);
int vhost_vdpa_uapi_get_num_as(const VhostVDPANode *n, uint32_t *num,
                               Error **errp);
int vhost_vdpa_uapi_get_iova_range(const VhostVDPANode *n,
                                   struct vhost_vdpa_iova_range *range,
                                   Error **errp);
int vhost_vdpa_uapi_set_group_asid(const VhostVDPANode *n, uint32_t group,
                                   uint32_t asid, Error **errp);
int vhost_vdpa_uapi_suspend(const VhostVDPANode *n, Error **errp);
int vhost_vdpa_uapi_resume(const VhostVDPANode *n, Error **errp);

/* @vq is the absolute virtqueue index, from 0, of the whole device */
int vhost_vdpa_uapi_set_vring_num(const VhostVDPANode *n, unsigned vq,
                                  uint32_t entries, Error **errp);
/* @base is the next available entry; packed rings have wrap counters in it */
int vhost_vdpa_uapi_set_vring_base(const VhostVDPANode *n, unsigned vq,
                                   uint32_t base, Error **errp);
int vhost_vdpa_uapi_get_vring_base(const VhostVDPANode *n, unsigned vq,
                                   uint32_t *base, Error **errp);
/* @desc, @avail and @used are I/O virtual addresses of the three parts */
int vhost_vdpa_uapi_set_vring_addr(const VhostVDPANode *n, unsigned vq,
                                   uint64_t desc, uint64_t avail,
                                   uint64_t used, Error **errp);
int vhost_vdpa_uapi_set_vring_kick(const VhostVDPANode *n, unsigned vq,
                                   int fd, Error **errp);
int vhost_vdpa_uapi_set_vring_call(const VhostVDPANode *n, unsigned vq,
                                   int fd, Error **errp);
int vhost_vdpa_uapi_set_vring_enable(const VhostVDPANode *n, unsigned vq,
                                     bool enable, Error **errp);

/**
 * vhost_vdpa_uapi_map_doorbell() - map the page that notifies a virtqueue
 * @n: the device, open for reading and writing
 * @vq: absolute virtqueue index
 * @size: page size in bytes
 * @page: where to put the page, to write the 16-bit @vq to
 *
 * Most devices have no such page, so failure is no error.  The mapping keeps
 * the device in use after its file is closed: munmap() it first.
 *
 * Returns: 0, or a negative errno; -VHOST_VDPA_ENOTSUPP if no other virtqueue
 * has such a page, either (drivers/vhost/vdpa.c, vhost_vdpa_mmap())
 */
int vhost_vdpa_uapi_map_doorbell(const VhostVDPANode *n, unsigned vq,
                                 size_t size, void **page);

/*
 * IOTLB messages, version 2.  Only the negative errno is returned: the
 * kernel reports nearly every cause as EFAULT, and the caller knows more of
 * the likely ones.  @size is in bytes and never 0.
 */
int vhost_vdpa_uapi_iotlb_update(const VhostVDPANode *n, uint32_t asid,
                                 uint64_t iova, uint64_t size,
                                 uint64_t uaddr, uint8_t perm);
int vhost_vdpa_uapi_iotlb_invalidate(const VhostVDPANode *n, uint32_t asid,
                                     uint64_t iova, uint64_t size);
int vhost_vdpa_uapi_iotlb_batch_begin(const VhostVDPANode *n, uint32_t asid);
int vhost_vdpa_uapi_iotlb_batch_end(const VhostVDPANode *n, uint32_t asid);

#endif
