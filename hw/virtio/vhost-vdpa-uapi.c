/*
 * vhost-vdpa: the kernel interface, one function per ioctl and message
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "linux-headers/linux/vhost.h"
#include "qapi/error.h"
#include "vhost-vdpa-uapi.h"
#include "trace.h"

QEMU_BUILD_BUG_ON(sizeof(struct vhost_msg_v2) != 72);
QEMU_BUILD_BUG_ON(offsetof(struct vhost_msg_v2, iotlb) != 8);
QEMU_BUILD_BUG_ON(sizeof(struct vhost_vring_addr) != 40);
QEMU_BUILD_BUG_ON(offsetof(struct vhost_vring_addr, used_user_addr) != 16);
QEMU_BUILD_BUG_ON(offsetof(struct vhost_vdpa_config, buf) != 8);

/* One request: its name, and what it is for in a sentence "cannot ..." */
typedef struct VhostVDPARequest {
    unsigned long nr;
    const char *name;
    const char *purpose;
} VhostVDPARequest;

#define REQUEST(nr, purpose) (&(const VhostVDPARequest) { nr, #nr, purpose })

/* What a person can do about an error; the first row that fits is used */
static const struct {
    unsigned long nr;           /* 0: any */
    int err;                    /* 0: any */
    const char *advice;
} advices[] = {
    { VHOST_SET_OWNER, EBUSY,
      "the file was already in use; open it anew for each device" },
    { VHOST_GET_BACKEND_FEATURES, ENOTTY, "Linux 5.9 or later is required" },
    { VHOST_VDPA_GET_DEVICE_ID, EPERM, "is this a vhost-vdpa device?" },
    { 0, ENOTTY, "is this a vhost-vdpa device?" },
    { 0, EPERM,
      "the file is owned by another process; open it anew" },
    { 0, EBADF, "the file descriptor is not open, or not for writing" },
    { 0, ENODEV, "was the device removed from the host?" },
    { 0, ENXIO, "was the device removed from the host?" },
    { 0, EIO,
      "the device does not answer; look at the host's kernel log, and at the "
      "VDUSE daemon if it is one" },
    { VHOST_VDPA_GET_DEVICE_ID, 0, "is this a vhost-vdpa device?" },
    { VHOST_SET_FEATURES, 0,
      "the device refuses this set of virtio features; switch optional ones "
      "off on the guest's device" },
    { VHOST_SET_VRING_BASE, 0,
      "the device can only start rings from the beginning; reset the guest's "
      "driver" },
    { VHOST_SET_VRING_NUM, 0,
      "choose rx_queue_size and tx_queue_size that the device supports" },
    { 0, 0, "look at the host's kernel log" },
};

static const char *strerror_kernel(int err)
{
    return strerror(err == VHOST_VDPA_ENOTSUPP ? EOPNOTSUPP : err);
}

bool vhost_vdpa_uapi_unsupported(int err)
{
    switch (-err) {
    case ENOTTY:
    case EPERM:
    case EFAULT:
    case ENOBUFS:
    case EOPNOTSUPP:
    case VHOST_VDPA_ENOTSUPP:
        return true;
    default:
        return false;
    }
}

static int call(const VhostVDPANode *n, const VhostVDPARequest *request,
                void *arg, Error **errp)
{
    int err, i;

    if (ioctl(n->fd, request->nr, arg) >= 0) {
        return 0;
    }
    err = errno;
    for (i = 0; advices[i].nr || advices[i].err; i++) {
        if ((!advices[i].nr || advices[i].nr == request->nr) &&
            (!advices[i].err || advices[i].err == err)) {
            break;
        }
    }
    error_setg(errp, "vhost-vdpa device '%s': cannot %s (%s): %s; %s",
               n->name, request->purpose, request->name,
               strerror_kernel(err), advices[i].advice);
    return -err;
}

int vhost_vdpa_uapi_set_owner(const VhostVDPANode *n, Error **errp)
{
    int ret = call(n, REQUEST(VHOST_SET_OWNER, "take possession"), NULL, errp);

    trace_vhost_vdpa_set_owner(n->name, ret);
    return ret;
}

int vhost_vdpa_uapi_get_device_id(const VhostVDPANode *n, uint32_t *id,
                                  Error **errp)
{
    int ret = call(n, REQUEST(VHOST_VDPA_GET_DEVICE_ID,
                              "ask for the virtio device type"), id, errp);

    trace_vhost_vdpa_get_device_id(n->name, ret ? 0 : *id, ret);
    return ret;
}

int vhost_vdpa_uapi_get_features(const VhostVDPANode *n, uint64_t *features,
                                 Error **errp)
{
    int ret = call(n, REQUEST(VHOST_GET_FEATURES, "ask for virtio features"),
                   features, errp);

    trace_vhost_vdpa_get_features(n->name, ret ? 0 : *features, ret);
    return ret;
}

int vhost_vdpa_uapi_set_features(const VhostVDPANode *n, uint64_t features,
                                 Error **errp)
{
    int ret = call(n, REQUEST(VHOST_SET_FEATURES, "set virtio features"),
                   &features, errp);

    trace_vhost_vdpa_set_features(n->name, features, ret);
    return ret;
}

int vhost_vdpa_uapi_get_backend_features(const VhostVDPANode *n,
                                         uint64_t *features, Error **errp)
{
    int ret = call(n, REQUEST(VHOST_GET_BACKEND_FEATURES,
                              "ask for vhost backend features"),
                   features, errp);

    trace_vhost_vdpa_get_backend_features(n->name, ret ? 0 : *features, ret);
    return ret;
}

int vhost_vdpa_uapi_set_backend_features(const VhostVDPANode *n,
                                         uint64_t features, Error **errp)
{
    int ret = call(n, REQUEST(VHOST_SET_BACKEND_FEATURES,
                              "set vhost backend features"),
                   &features, errp);

    trace_vhost_vdpa_set_backend_features(n->name, features, ret);
    return ret;
}

int vhost_vdpa_uapi_get_status(const VhostVDPANode *n, uint8_t *status,
                               Error **errp)
{
    int ret = call(n, REQUEST(VHOST_VDPA_GET_STATUS, "read the device status"),
                   status, errp);

    trace_vhost_vdpa_get_status(n->name, ret ? 0 : *status, ret);
    return ret;
}

int vhost_vdpa_uapi_set_status(const VhostVDPANode *n, uint8_t status,
                               Error **errp)
{
    int ret = call(n, status ? REQUEST(VHOST_VDPA_SET_STATUS,
                                       "write the device status")
                             : REQUEST(VHOST_VDPA_SET_STATUS, "reset it"),
                   &status, errp);

    trace_vhost_vdpa_set_status(n->name, status, ret);
    return ret;
}

int vhost_vdpa_uapi_get_config_size(const VhostVDPANode *n, uint32_t *size,
                                    Error **errp)
{
    int ret = call(n, REQUEST(VHOST_VDPA_GET_CONFIG_SIZE,
                              "ask for the configuration space's size"),
                   size, errp);

    trace_vhost_vdpa_get_config_size(n->name, ret ? 0 : *size, ret);
    return ret;
}

int vhost_vdpa_uapi_get_config(const VhostVDPANode *n, uint32_t offset,
                               void *buf, uint32_t size, Error **errp)
{
    g_autofree struct vhost_vdpa_config *config =
        g_malloc0(offsetof(struct vhost_vdpa_config, buf) + size);
    int ret;

    config->off = offset;
    config->len = size;
    ret = call(n, REQUEST(VHOST_VDPA_GET_CONFIG,
                          "read the configuration space"), config, errp);
    if (!ret) {
        memcpy(buf, config->buf, size);
    }
    trace_vhost_vdpa_get_config(n->name, offset, size, ret);
    return ret;
}

int vhost_vdpa_uapi_set_config(const VhostVDPANode *n, uint32_t offset,
                               const void *buf, uint32_t size, Error **errp)
{
    g_autofree struct vhost_vdpa_config *config =
        g_malloc0(offsetof(struct vhost_vdpa_config, buf) + size);
    int ret;

    config->off = offset;
    config->len = size;
    memcpy(config->buf, buf, size);
    ret = call(n, REQUEST(VHOST_VDPA_SET_CONFIG,
                          "write the configuration space"), config, errp);
    trace_vhost_vdpa_set_config(n->name, offset, size, ret);
    return ret;
}

int vhost_vdpa_uapi_set_config_call(const VhostVDPANode *n, int fd,
                                    Error **errp)
{
    int ret = call(n, REQUEST(VHOST_VDPA_SET_CONFIG_CALL,
                              "set the configuration interrupt"), &fd, errp);

    trace_vhost_vdpa_set_config_call(n->name, fd, ret);
    return ret;
}

int vhost_vdpa_uapi_get_max_ring(const VhostVDPANode *n, uint16_t *entries,
                                 Error **errp)
{
    int ret = call(n, REQUEST(VHOST_VDPA_GET_VRING_NUM,
                              "ask for the largest ring size"),
                   entries, errp);

    trace_vhost_vdpa_get_max_ring(n->name, ret ? 0 : *entries, ret);
    return ret;
}

int vhost_vdpa_uapi_get_num_vqs(const VhostVDPANode *n, uint32_t *num,
                                Error **errp)
{
    int ret = call(n, REQUEST(VHOST_VDPA_GET_VQS_COUNT,
                              "ask for the number of virtqueues"), num, errp);

    trace_vhost_vdpa_get_num_vqs(n->name, ret ? 0 : *num, ret);
    return ret;
}

int vhost_vdpa_uapi_get_num_groups(const VhostVDPANode *n, uint32_t *num,
                                   Error **errp)
{
    int ret = call(n, REQUEST(VHOST_VDPA_GET_GROUP_NUM,
                              "ask for the number of virtqueue groups"),
                   num, errp);

    trace_vhost_vdpa_get_num_groups(n->name, ret ? 0 : *num, ret);
    return ret;
}

int vhost_vdpa_uapi_get_num_as(const VhostVDPANode *n, uint32_t *num,
                               Error **errp)
{
    int ret = call(n, REQUEST(VHOST_VDPA_GET_AS_NUM,
                              "ask for the number of address spaces"),
                   num, errp);

    trace_vhost_vdpa_get_num_as(n->name, ret ? 0 : *num, ret);
    return ret;
}

int vhost_vdpa_uapi_get_iova_range(const VhostVDPANode *n,
                                   struct vhost_vdpa_iova_range *range,
                                   Error **errp)
{
    int ret = call(n, REQUEST(VHOST_VDPA_GET_IOVA_RANGE,
                              "ask for the range of usable addresses"),
                   range, errp);

    trace_vhost_vdpa_get_iova_range(n->name, ret ? 0 : range->first,
                                    ret ? 0 : range->last, ret);
    return ret;
}

int vhost_vdpa_uapi_set_group_asid(const VhostVDPANode *n, uint32_t group,
                                   uint32_t asid, Error **errp)
{
    struct vhost_vring_state state = { .index = group, .num = asid };
    int ret = call(n, REQUEST(VHOST_VDPA_SET_GROUP_ASID,
                              "bind a virtqueue group to an address space"),
                   &state, errp);

    trace_vhost_vdpa_set_group_asid(n->name, group, asid, ret);
    return ret;
}

int vhost_vdpa_uapi_suspend(const VhostVDPANode *n, Error **errp)
{
    int ret = call(n, REQUEST(VHOST_VDPA_SUSPEND, "suspend it"), NULL, errp);

    trace_vhost_vdpa_suspend(n->name, ret);
    return ret;
}

int vhost_vdpa_uapi_resume(const VhostVDPANode *n, Error **errp)
{
    int ret = call(n, REQUEST(VHOST_VDPA_RESUME, "resume it"), NULL, errp);

    trace_vhost_vdpa_resume(n->name, ret);
    return ret;
}

int vhost_vdpa_uapi_set_vring_num(const VhostVDPANode *n, unsigned vq,
                                  uint32_t entries, Error **errp)
{
    struct vhost_vring_state state = { .index = vq, .num = entries };
    int ret = call(n, REQUEST(VHOST_SET_VRING_NUM, "set a ring's size"),
                   &state, errp);

    trace_vhost_vdpa_set_vring_num(n->name, vq, entries, ret);
    return ret;
}

int vhost_vdpa_uapi_set_vring_base(const VhostVDPANode *n, unsigned vq,
                                   uint32_t base, Error **errp)
{
    struct vhost_vring_state state = { .index = vq, .num = base };
    int ret = call(n, REQUEST(VHOST_SET_VRING_BASE,
                              "set where a ring continues"), &state, errp);

    trace_vhost_vdpa_set_vring_base(n->name, vq, base, ret);
    return ret;
}

int vhost_vdpa_uapi_get_vring_base(const VhostVDPANode *n, unsigned vq,
                                   uint32_t *base, Error **errp)
{
    struct vhost_vring_state state = { .index = vq };
    int ret = call(n, REQUEST(VHOST_GET_VRING_BASE,
                              "ask where a ring stands"), &state, errp);

    if (!ret) {
        *base = state.num;
    }
    trace_vhost_vdpa_get_vring_base(n->name, vq, state.num, ret);
    return ret;
}

int vhost_vdpa_uapi_set_vring_addr(const VhostVDPANode *n, unsigned vq,
                                   uint64_t desc, uint64_t avail,
                                   uint64_t used, Error **errp)
{
    struct vhost_vring_addr addr = {
        .index = vq,
        .desc_user_addr = desc,
        .used_user_addr = used,
        .avail_user_addr = avail,
    };
    int ret = call(n, REQUEST(VHOST_SET_VRING_ADDR,
                              "set a ring's addresses"), &addr, errp);

    trace_vhost_vdpa_set_vring_addr(n->name, vq, desc, avail, used, ret);
    return ret;
}

int vhost_vdpa_uapi_set_vring_kick(const VhostVDPANode *n, unsigned vq,
                                   int fd, Error **errp)
{
    struct vhost_vring_file file = { .index = vq, .fd = fd };
    int ret = call(n, REQUEST(VHOST_SET_VRING_KICK,
                              "set a ring's notification"), &file, errp);

    trace_vhost_vdpa_set_vring_kick(n->name, vq, fd, ret);
    return ret;
}

int vhost_vdpa_uapi_set_vring_call(const VhostVDPANode *n, unsigned vq,
                                   int fd, Error **errp)
{
    struct vhost_vring_file file = { .index = vq, .fd = fd };
    int ret = call(n, REQUEST(VHOST_SET_VRING_CALL,
                              "set a ring's interrupt"), &file, errp);

    trace_vhost_vdpa_set_vring_call(n->name, vq, fd, ret);
    return ret;
}

int vhost_vdpa_uapi_set_vring_enable(const VhostVDPANode *n, unsigned vq,
                                     bool enable, Error **errp)
{
    struct vhost_vring_state state = { .index = vq, .num = enable };
    int ret = call(n, REQUEST(VHOST_VDPA_SET_VRING_ENABLE,
                              "enable or disable a ring"), &state, errp);

    trace_vhost_vdpa_set_vring_enable(n->name, vq, enable, ret);
    return ret;
}

int vhost_vdpa_uapi_map_doorbell(const VhostVDPANode *n, unsigned vq,
                                 size_t size, void **page)
{
    int ret;

    /* Write-only and shared, or the kernel refuses (drivers/vhost/vdpa.c) */
    *page = mmap(NULL, size, PROT_WRITE, MAP_SHARED, n->fd, (off_t)vq * size);
    ret = *page == MAP_FAILED ? -errno : 0;
    trace_vhost_vdpa_map_doorbell(n->name, vq, ret);
    return ret;
}

/*
 * One message.  The kernel answers 72 whatever was consumed, so any positive
 * value is success (drivers/vhost/vhost.c, vhost_chr_write_iter()).
 */
static int iotlb_send(const VhostVDPANode *n, struct vhost_msg_v2 *msg)
{
    ssize_t ret;

    msg->type = VHOST_IOTLB_MSG_V2;
    ret = write(n->fd, msg, sizeof(*msg));
    if (ret < 0) {
        return -errno;
    }
    return ret ? 0 : -EIO;
}

int vhost_vdpa_uapi_iotlb_update(const VhostVDPANode *n, uint32_t asid,
                                 uint64_t iova, uint64_t size,
                                 uint64_t uaddr, uint8_t perm)
{
    struct vhost_msg_v2 msg = {
        .asid = asid,
        .iotlb = {
            .iova = iova,
            .size = size,
            .uaddr = uaddr,
            .perm = perm,
            .type = VHOST_IOTLB_UPDATE,
        },
    };
    int ret = iotlb_send(n, &msg);

    trace_vhost_vdpa_iotlb_update(n->name, asid, iova, size, uaddr, perm, ret);
    return ret;
}

int vhost_vdpa_uapi_iotlb_invalidate(const VhostVDPANode *n, uint32_t asid,
                                     uint64_t iova, uint64_t size)
{
    struct vhost_msg_v2 msg = {
        .asid = asid,
        .iotlb = {
            .iova = iova,
            .size = size,
            .type = VHOST_IOTLB_INVALIDATE,
        },
    };
    int ret = iotlb_send(n, &msg);

    trace_vhost_vdpa_iotlb_invalidate(n->name, asid, iova, size, ret);
    return ret;
}

int vhost_vdpa_uapi_iotlb_batch_begin(const VhostVDPANode *n, uint32_t asid)
{
    struct vhost_msg_v2 msg = {
        .asid = asid,
        .iotlb = { .type = VHOST_IOTLB_BATCH_BEGIN },
    };
    int ret = iotlb_send(n, &msg);

    trace_vhost_vdpa_iotlb_batch_begin(n->name, asid, ret);
    return ret;
}

int vhost_vdpa_uapi_iotlb_batch_end(const VhostVDPANode *n, uint32_t asid)
{
    struct vhost_msg_v2 msg = {
        .asid = asid,
        .iotlb = { .type = VHOST_IOTLB_BATCH_END },
    };
    int ret = iotlb_send(n, &msg);

    trace_vhost_vdpa_iotlb_batch_end(n->name, asid, ret);
    return ret;
}
