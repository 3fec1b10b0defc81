/*
 * vhost-vdpa: QEMU's vhost core on a vDPA device of the host
 *
 * The vhost core asks for one thing after the other, for each vhost_dev of a
 * device: a queue pair, the control queue.  The character device is one,
 * however, and changes state as a whole: when the first part of it is
 * configured, when the last part is started, when the first part is stopped.
 * A table says what each change of state consists of; the VhostOps below it
 * only trigger changes and set up rings in between.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "block/aio.h"
#include "exec/address-spaces.h"
#include "exec/cpu-common.h"
#include "hw/qdev-core.h"
#include "hw/virtio/vhost.h"
#include "hw/virtio/vhost-backend.h"
#include "hw/virtio/vhost-vdpa.h"
#include "hw/virtio/virtio-bus.h"
#include "hw/virtio/virtio-net.h"
#include "hw/virtio/virtio-qmp.h"
#include "qapi/error.h"
#include "qapi/qapi-events-virtio.h"
#include "qapi/visitor.h"
#include "qemu/error-report.h"
#include "qemu/host-utils.h"
#include "qemu/main-loop.h"
#include "qom/object.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_ids.h"
#include "system/runstate.h"
#include "vhost-vdpa-memory.h"
#include "vhost-vdpa-uapi.h"
#include "trace.h"

#define TYPE_VHOST_VDPA_DOORBELL "vhost-vdpa-doorbell"
OBJECT_DECLARE_SIMPLE_TYPE(VhostVDPADoorbell, VHOST_VDPA_DOORBELL)

#define TYPE_VHOST_VDPA_STATUS "vhost-vdpa-status"
OBJECT_DECLARE_SIMPLE_TYPE(VhostVDPAStatus, VHOST_VDPA_STATUS)

/**
 * struct VhostVDPAStatus - shows an open device to managers, read only
 * @shared: the device, or NULL once it is closed
 */
struct VhostVDPAStatus {
    Object parent_obj;
    VhostVDPAShared *shared;
};

/**
 * struct VhostVDPADoorbell - a page that notifies a virtqueue
 * @mr: the page, in the guest's notification area.  Owned by this object, so
 *      that both live until the last view of the guest's memory is gone
 * @page: the mapping of the device
 */
struct VhostVDPADoorbell {
    Object parent_obj;
    MemoryRegion mr;
    void *page;
};

/**
 * struct VhostVDPARing - a virtqueue as the device was told to use it
 *
 * @num: entries
 * @base: where it starts, in the encoding of SET_VRING_BASE
 * @desc: I/O virtual address of the descriptors
 * @avail: of the available ring, or the driver's event area
 * @used: of the used ring, or the device's event area
 * @call_fd: eventfd that the vhost core wants signalled, or -1
 * @configured: the above were accepted since the last reset
 * @enabled: the device was told to process it
 * @ran: it was processed since @base was set, so @base is out of date
 * @lost: it cannot be told how far the device got, or what it left out
 * @doorbell: what notifies it without QEMU, or NULL
 */
struct VhostVDPARing {
    uint32_t num;
    uint32_t base;
    uint64_t desc;
    uint64_t avail;
    uint64_t used;
    int call_fd;
    bool configured;
    bool enabled;
    bool ran;
    bool lost;
    VhostVDPADoorbell *doorbell;
};

/* Features without which vDPA drivers refuse to work, or work differently */
#define REQUIRED_FEATURES \
    (BIT_ULL(VIRTIO_F_VERSION_1) | BIT_ULL(VIRTIO_F_ACCESS_PLATFORM))

/*
 * Bits 28 to 49, which are reserved for transport and rings, and those of them
 * that pass through unchanged.  Of the others, RING_RESET has no ioctl, a kick
 * eventfd carries no notification data, and the rest is about transports that
 * the guest does not see.
 */
#define PASSED_TRANSPORT_FEATURES \
    (BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC) | BIT_ULL(VIRTIO_RING_F_EVENT_IDX) | \
     BIT_ULL(VIRTIO_F_VERSION_1) | BIT_ULL(VIRTIO_F_ACCESS_PLATFORM) | \
     BIT_ULL(VIRTIO_F_RING_PACKED) | BIT_ULL(VIRTIO_F_IN_ORDER) | \
     BIT_ULL(VIRTIO_F_ORDER_PLATFORM))
#define TRANSPORT_FEATURES MAKE_64BIT_MASK(28, 22)

/*
 * Everything that Linux defines up to 6.12.  Nothing depends on DESC_ASID yet,
 * and not on ENABLE_AFTER_DRIVER_OK as rings are always enabled before that.
 */
#define KNOWN_BACKEND_FEATURES \
    (BIT_ULL(VHOST_BACKEND_F_IOTLB_MSG_V2) | \
     BIT_ULL(VHOST_BACKEND_F_IOTLB_BATCH) | \
     BIT_ULL(VHOST_BACKEND_F_IOTLB_ASID) | \
     BIT_ULL(VHOST_BACKEND_F_SUSPEND) | \
     BIT_ULL(VHOST_BACKEND_F_RESUME) | \
     BIT_ULL(VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK) | \
     BIT_ULL(VHOST_BACKEND_F_DESC_ASID) | \
     BIT_ULL(VHOST_BACKEND_F_IOTLB_PERSIST))

/* Base of a fresh packed ring: both indices 0, both wrap counters 1 */
#define PACKED_RING_START 0x80008000

/* How long to wait for the next of the requests that a device still has */
#define FINISH_SECONDS 10
#define FINISH_POLL_US 200

/* The most a kernel can accept as ring size (drivers/vhost/vdpa.c) */
#define MAX_RING_ENTRIES 32768

/* There is something new to tell about the device */
static void changed(void *opaque)
{
    VhostVDPAShared *s = opaque;

    if (s->changed) {
        s->changed(s);
    }
}

static VhostVDPANode node(VhostVDPAShared *s)
{
    return (VhostVDPANode) { .fd = s->device_fd, .name = s->name };
}

static bool has_backend_feature(VhostVDPAShared *s, unsigned bit)
{
    return s->backend_features & BIT_ULL(bit);
}

/*
 * Iterate over the rings of the parts of a device that the guest uses.  The
 * others, such as queue pairs of a guest without multiqueue, do not count.
 */
#define FOR_EACH_RING(s, v, i)                                       \
    QTAILQ_FOREACH(v, &(s)->devs, entry)                             \
        for (i = 0; (v)->dev->started && i < (v)->dev->nvqs; i++)

static unsigned device_vq(VhostVDPA *v, unsigned guest_vq)
{
    if (v->control_vq &&
        (v->shared->features & (BIT_ULL(VIRTIO_NET_F_MQ) |
                                BIT_ULL(VIRTIO_NET_F_RSS)))) {
        return v->control_vq;
    }
    return guest_vq;
}

static unsigned ring_vq(VhostVDPA *v, unsigned i)
{
    return device_vq(v, v->dev->vq_index + i);
}

static VirtQueue *ring_virtqueue(VhostVDPA *v, unsigned i)
{
    return virtio_get_queue(v->shared->vdev, v->dev->vq_index + i);
}

static VhostVDPARing *find_ring(VhostVDPA *v, unsigned vq)
{
    unsigned i;

    for (i = 0; i < v->dev->nvqs; i++) {
        if (ring_vq(v, i) == vq) {
            return &v->rings[i];
        }
    }
    g_assert_not_reached();
}

/* Each of @list is "NAME: description" */
static void append_names(GString *names, const strList *list)
{
    for (; list; list = list->next) {
        g_string_append_printf(names, "%s%.*s", names->len ? ", " : "",
                               (int)strcspn(list->value, ":"), list->value);
    }
}

/* "VIRTIO_F_VERSION_1, VIRTIO_NET_F_MAC, bits 0x1000": for messages */
static char *feature_names(VhostVDPAShared *s, uint64_t features)
{
    /* Types that this QEMU can name features of; 9P stands for the others */
    bool known = (s->device_id == VIRTIO_ID_NET &&
                  object_class_by_name(TYPE_VIRTIO_NET)) ||
                 (s->device_id == VIRTIO_ID_BLOCK &&
                  object_class_by_name("virtio-blk-device"));
    VirtioDeviceFeatures *decoded =
        qmp_decode_features(known ? s->device_id : VIRTIO_ID_9P, features);
    GString *names = g_string_new(NULL);

    append_names(names, decoded->transports);
    append_names(names, decoded->dev_features);
    if (decoded->has_unknown_dev_features) {
        g_string_append_printf(names, "%sbits 0x%" PRIx64,
                               names->len ? ", " : "",
                               decoded->unknown_dev_features);
    }
    qapi_free_VirtioDeviceFeatures(decoded);
    return g_string_free(names, false);
}

/* --- Steps that changes of state are made of --- */

typedef bool VhostVDPAStep(VhostVDPAShared *s, Error **errp);

/* Before anything that another kind of file would understand as well */
static bool step_identify(VhostVDPAShared *s, Error **errp)
{
    VhostVDPANode n = node(s);

    return !vhost_vdpa_uapi_get_device_id(&n, &s->device_id, errp);
}

static bool step_take_ownership(VhostVDPAShared *s, Error **errp)
{
    VhostVDPANode n = node(s);

    return !vhost_vdpa_uapi_set_owner(&n, errp);
}

static bool step_negotiate_backend(VhostVDPAShared *s, Error **errp)
{
    VhostVDPANode n = node(s);
    uint64_t features;

    if (vhost_vdpa_uapi_get_backend_features(&n, &features, errp)) {
        return false;
    }
    features &= KNOWN_BACKEND_FEATURES;
    if (!(features & BIT_ULL(VHOST_BACKEND_F_IOTLB_MSG_V2))) {
        error_setg(errp, "vhost-vdpa device '%s': the kernel offers no "
                   "version 2 IOTLB messages; Linux 5.9 or later is required",
                   s->name);
        return false;
    }
    if (!(features & BIT_ULL(VHOST_BACKEND_F_IOTLB_ASID))) {
        features &= ~BIT_ULL(VHOST_BACKEND_F_DESC_ASID);
    }
    if (vhost_vdpa_uapi_set_backend_features(&n, features, errp)) {
        return false;
    }
    s->backend_features = features;
    return true;
}

typedef int VhostVDPAQuery(const VhostVDPANode *n, uint32_t *value,
                           Error **errp);

/* Ask for a number that older kernels cannot tell; @value is the default */
static bool query_u32(VhostVDPAShared *s, VhostVDPAQuery *query,
                      uint32_t *value, Error **errp)
{
    VhostVDPANode n = node(s);
    uint32_t fallback = *value;
    Error *err = NULL;
    int ret = query(&n, value, &err);

    if (ret && vhost_vdpa_uapi_unsupported(ret)) {
        *value = fallback;
        error_free(err);
        return true;
    }
    error_propagate(errp, err);
    return !ret;
}

static bool step_query_device(VhostVDPAShared *s, Error **errp)
{
    VhostVDPANode n = node(s);

    s->num_vqs = UINT32_MAX;
    s->num_groups = 1;
    s->num_as = 1;
    s->config_size = UINT32_MAX;
    if (vhost_vdpa_uapi_get_features(&n, &s->device_features, errp) ||
        vhost_vdpa_uapi_get_max_ring(&n, &s->max_ring, errp) ||
        !query_u32(s, vhost_vdpa_uapi_get_config_size, &s->config_size,
                   errp) ||
        !query_u32(s, vhost_vdpa_uapi_get_num_vqs, &s->num_vqs, errp)) {
        return false;
    }
    if (has_backend_feature(s, VHOST_BACKEND_F_IOTLB_ASID) &&
        (!query_u32(s, vhost_vdpa_uapi_get_num_groups, &s->num_groups,
                    errp) ||
         !query_u32(s, vhost_vdpa_uapi_get_num_as, &s->num_as, errp))) {
        return false;
    }
    if (!s->iova_range.last) {
        Error *err = NULL;
        int ret = vhost_vdpa_uapi_get_iova_range(&n, &s->iova_range, &err);

        if (ret && !vhost_vdpa_uapi_unsupported(ret)) {
            error_propagate(errp, err);
            return false;
        }
        if (ret) {
            /* Linux before 5.10 */
            error_free(err);
            s->iova_range.last = UINT64_MAX;
        }
    }
    return true;
}

static bool step_check_device(VhostVDPAShared *s, Error **errp)
{
    uint64_t missing = REQUIRED_FEATURES & ~s->device_features;

    if (missing) {
        g_autofree char *names = feature_names(s, missing);

        error_setg(errp, "vhost-vdpa device '%s': it does not offer %s, which "
                   "QEMU requires; if its features were restricted when it "
                   "was created ('vdpa dev add ... device_features'), add "
                   "what is missing", s->name, names);
        return false;
    }
    if (s->max_ring < 2 || s->max_ring > MAX_RING_ENTRIES ||
        !is_power_of_2(s->max_ring)) {
        error_setg(errp, "vhost-vdpa device '%s': it reports a largest ring "
                   "size of %u, which is not a power of 2 from 2 to %u; its "
                   "driver or firmware is faulty", s->name, s->max_ring,
                   MAX_RING_ENTRIES);
        return false;
    }
    if (s->iova_range.first > s->iova_range.last ||
        s->iova_range.last - s->iova_range.first <
        qemu_real_host_page_size() - 1) {
        error_setg(errp, "vhost-vdpa device '%s': it can use addresses 0x%"
                   PRIx64 " to 0x%" PRIx64 " only, which cannot hold a page "
                   "of guest memory; its driver or firmware is faulty",
                   s->name, (uint64_t)s->iova_range.first,
                   (uint64_t)s->iova_range.last);
        return false;
    }
    return true;
}

/* Memory that is discarded under a device's mapping would be lost to it */
static bool step_forbid_discard(VhostVDPAShared *s, Error **errp)
{
    int ret = ram_block_discard_disable(true);

    if (ret) {
        error_setg_errno(errp, -ret, "vhost-vdpa device '%s': guest memory "
                         "must not be discarded while a device uses it; "
                         "remove virtio-mem or the like from this guest",
                         s->name);
    }
    return !ret;
}

static bool step_allow_discard(VhostVDPAShared *s, Error **errp)
{
    ram_block_discard_disable(false);
    return true;
}

static void needs_reset_bh(void *opaque)
{
    VirtIODevice *vdev = opaque;

    /* It may have been unplugged, or reset, in the meantime */
    if (qdev_is_realized(DEVICE(vdev)) && vdev->broken &&
        virtio_vdev_has_feature(vdev, VIRTIO_F_VERSION_1)) {
        vdev->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
        /* A broken device is silent, but this the guest must hear */
        vdev->broken = false;
        virtio_notify_config(vdev);
        vdev->broken = true;
    }
    object_unref(OBJECT(vdev));
}

/* ID of the device that the user added, such as the PCI card around it */
static const char *user_id(VirtIODevice *vdev)
{
    DeviceState *dev = DEVICE(vdev);

    while (dev && !dev->id) {
        BusState *bus = qdev_get_parent_bus(dev);

        dev = bus ? bus->parent : NULL;
    }
    return dev ? dev->id : NULL;
}

/* Tell the user and the guest, once, that the device does not work */
static void device_broken(VhostVDPAShared *s, VirtIODevice *vdev, Error *err)
{
    if (!vdev->broken) {
        g_autofree char *path = object_get_canonical_path(OBJECT(vdev));

        virtio_error(vdev, "%s", error_get_pretty(err));
        g_free(s->last_error);
        s->last_error = g_strdup(error_get_pretty(err));
        qapi_event_send_vhost_vdpa_broken(user_id(vdev), path, s->name,
                                          s->last_error);
        changed(s);
        /*
         * If the guest is just writing the device status, what it writes
         * replaces NEEDS_RESET.
         */
        object_ref(OBJECT(vdev));
        aio_bh_schedule_oneshot(qemu_get_aio_context(), needs_reset_bh, vdev);
    }
    error_free(err);
}

static void memory_failed(void *opaque, Error *err)
{
    VhostVDPAShared *s = opaque;

    device_broken(s, s->vdev, err);
}

static void memory_mapped(void *opaque, Error *err);

static const VhostVDPAMemoryEvents memory_events = {
    .failed = memory_failed,
    .mapped = memory_mapped,
    .changed = changed,
};

static bool step_prepare_memory(VhostVDPAShared *s, Error **errp)
{
    VhostVDPANode n = node(s);

    s->memory = vhost_vdpa_memory_new(
        &n, s->iova_range.first, s->iova_range.last,
        has_backend_feature(s, VHOST_BACKEND_F_IOTLB_BATCH),
        &memory_events, s);
    return true;
}

static bool step_drop_memory(VhostVDPAShared *s, Error **errp)
{
    vhost_vdpa_memory_free(s->memory);
    s->memory = NULL;
    return true;
}

/* A device that failed to reset may have got over it */
static bool step_retry_reset(VhostVDPAShared *s, Error **errp)
{
    VhostVDPANode n = node(s);

    if (s->reset_failed && vhost_vdpa_uapi_set_status(&n, 0, errp)) {
        return false;
    }
    s->reset_failed = false;
    return true;
}

/*
 * Add bits to the device's status and see that all of them stick.  The status
 * is the device's as much as ours: to drop a bit that it raised is an error.
 */
static bool add_status(VhostVDPAShared *s, uint8_t bits, Error **errp)
{
    VhostVDPANode n = node(s);
    uint8_t wanted = s->virtio_status | bits, status;
    Error *err = NULL;

    vhost_vdpa_uapi_set_status(&n, wanted, &err);
    if (vhost_vdpa_uapi_get_status(&n, &status, err ? NULL : &err)) {
        error_propagate(errp, err);
        return false;
    }
    if (status & (VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET) ||
        (!err && (status & wanted) != wanted)) {
        error_free(err);
        error_setg(errp, "vhost-vdpa device '%s': it does not accept status "
                   "0x%x and remains at 0x%x; look at the host's kernel log",
                   s->name, bits, status);
        return false;
    }
    s->virtio_status = status;
    error_propagate(errp, err);
    return !err;
}

static bool step_acknowledge(VhostVDPAShared *s, Error **errp)
{
    /* As a reset left it */
    s->virtio_status = 0;
    return add_status(s, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER,
                      errp);
}

static bool step_send_features(VhostVDPAShared *s, Error **errp)
{
    VhostVDPANode n = node(s);
    Error *err = NULL;

    if (vhost_vdpa_uapi_set_features(&n, s->features, &err) ||
        !add_status(s, VIRTIO_CONFIG_S_FEATURES_OK, &err)) {
        g_autofree char *names = feature_names(s, s->features);

        error_setg(errp, "%s (the features are %s)", error_get_pretty(err),
                   names);
        error_free(err);
        return false;
    }
    return true;
}

/* A reset is to bind all groups to address space 0; not every driver does */
static bool step_bind_groups(VhostVDPAShared *s, Error **errp)
{
    VhostVDPANode n = node(s);
    uint32_t group;

    if (s->num_as < 2) {
        return true;
    }
    /* The kernel compares with the number of virtqueues as well */
    for (group = 0; group < MIN(s->num_groups, s->num_vqs); group++) {
        if (vhost_vdpa_uapi_set_group_asid(&n, group, VHOST_VDPA_GUEST_ASID,
                                           errp)) {
            return false;
        }
    }
    return true;
}

/* What is large goes on in the background, and holds up the start */
static bool step_map_memory(VhostVDPAShared *s, Error **errp)
{
    return vhost_vdpa_memory_map(s->memory, s->as, true, errp);
}

/*
 * So that the next start need not wait for it.  What fails, or failed before,
 * is tried again, and reported, by that start.
 */
static bool step_map_early(VhostVDPAShared *s, Error **errp)
{
    VhostVDPAMemoryInfo info;

    vhost_vdpa_memory_get_info(s->memory, &info);
    if (s->as == &address_space_memory && !s->reset_failed &&
        !info.last_error && !runstate_check(RUN_STATE_SHUTDOWN)) {
        vhost_vdpa_memory_map(s->memory, s->as, false, NULL);
    }
    return true;
}

static bool step_commit_memory(VhostVDPAShared *s, Error **errp)
{
    return vhost_vdpa_memory_commit(s->memory, s->as, errp);
}

/*
 * Drivers forget interrupts at a reset, and some allocate vectors at DRIVER_OK
 * for just the rings that have one by then.
 */
static bool step_send_interrupts(VhostVDPAShared *s, Error **errp)
{
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_GET_CLASS(s->vdev);
    VhostVDPANode n = node(s);
    VhostVDPA *v;
    unsigned i;

    FOR_EACH_RING(s, v, i) {
        VhostVDPARing *r = &v->rings[i];

        if (!r->configured) {
            continue;
        }
        if (!vdc->guest_notifier_mask) {
            /*
             * Nobody told us which to use since the last stop, and nobody
             * would look at the masked one.
             */
            EventNotifier *guest =
                virtio_queue_get_guest_notifier(ring_virtqueue(v, i));

            r->call_fd = event_notifier_get_wfd(guest);
        }
        if (vhost_vdpa_uapi_set_vring_call(&n, ring_vq(v, i), r->call_fd,
                                           errp)) {
            return false;
        }
    }
    if (s->config_call_fd >= 0) {
        return !vhost_vdpa_uapi_set_config_call(&n, s->config_call_fd, errp);
    }
    return true;
}

/*
 * All at once, right before DRIVER_OK: without ENABLE_AFTER_DRIVER_OK, many
 * devices look at this only then.  Also after a resume, when not every driver
 * brings all rings back by itself.
 */
static bool step_enable_rings(VhostVDPAShared *s, Error **errp)
{
    VhostVDPANode n = node(s);
    VhostVDPA *v;
    unsigned i;

    FOR_EACH_RING(s, v, i) {
        VhostVDPARing *r = &v->rings[i];

        if (!r->configured ||
            !virtio_queue_enabled(s->vdev, v->dev->vq_index + i)) {
            continue;
        }
        if (vhost_vdpa_uapi_set_vring_enable(&n, ring_vq(v, i), true, errp)) {
            return false;
        }
        r->enabled = true;
    }
    return true;
}

static bool step_driver_ok(VhostVDPAShared *s, Error **errp)
{
    VhostVDPA *v;
    unsigned i;

    vhost_vdpa_memory_set_running(s->memory, true);
    FOR_EACH_RING(s, v, i) {
        v->rings[i].ran = v->rings[i].enabled;
    }
    return add_status(s, VIRTIO_CONFIG_S_DRIVER_OK, errp);
}

static bool step_resume(VhostVDPAShared *s, Error **errp)
{
    VhostVDPANode n = node(s);

    vhost_vdpa_memory_set_running(s->memory, true);
    return !vhost_vdpa_uapi_resume(&n, errp);
}

static bool step_suspend(VhostVDPAShared *s, Error **errp)
{
    VhostVDPANode n = node(s);

    if (vhost_vdpa_uapi_suspend(&n, errp)) {
        return false;
    }
    vhost_vdpa_memory_set_running(s->memory, false);
    return true;
}

static uint16_t load_index(VhostVDPAShared *s, uint64_t ring)
{
    return address_space_lduw_le(s->as, ring + offsetof(struct vring_used, idx),
                                 MEMTXATTRS_UNSPECIFIED, NULL);
}

/*
 * Wait for what the device was asked for until now.  There is no call for
 * that, and the driver may want no interrupt.
 */
static bool finish_ring(VhostVDPA *v, unsigned i, Error **errp)
{
    VhostVDPAShared *s = v->shared;
    VhostVDPARing *r = &v->rings[i];
    uint16_t start = load_index(s, r->used), finished = 0;
    uint16_t requests = load_index(s, r->avail) - start;
    int64_t since = g_get_monotonic_time();

    QEMU_BUILD_BUG_ON(offsetof(struct vring_used, idx) !=
                      offsetof(struct vring_avail, idx));
    /* If there are more than fit, the guest has overwritten its ring */
    if (!requests || requests > r->num) {
        return true;
    }
    trace_vhost_vdpa_finish_requests(s->name, ring_vq(v, i), requests);
    /* A vCPU may have been stopped right before it would have done this */
    event_notifier_set(virtio_queue_get_host_notifier(ring_virtqueue(v, i)));
    while (finished < requests) {
        uint16_t now = load_index(s, r->used) - start;
        int64_t time = g_get_monotonic_time();

        /* A guest that sets it back does not make QEMU wait for ever */
        if (now > finished) {
            finished = now;
            since = time;
        } else if (time - since > FINISH_SECONDS * G_USEC_PER_SEC) {
            r->lost = true;
            error_setg(errp, "vhost-vdpa device '%s': it has not finished %u "
                       "requests of virtqueue %u, and none for %d s; it is "
                       "reset nevertheless, look at what the device, or its "
                       "VDUSE daemon, waits for", s->name,
                       requests - finished, ring_vq(v, i), FINISH_SECONDS);
            return false;
        } else {
            g_usleep(FINISH_POLL_US);
        }
    }
    return true;
}

/*
 * A disk may finish a request before an earlier one, and then cannot be told
 * where to go on.  Nor does every VDUSE daemon survive a reset before it has
 * finished all.  Requests of a network device can wait for ever, but are
 * finished in order, and may be lost.
 */
static bool step_finish_requests(VhostVDPAShared *s, Error **errp)
{
    Error *err = NULL;
    VhostVDPA *v;
    unsigned i;

    if (s->device_id != VIRTIO_ID_BLOCK ||
        s->features & BIT_ULL(VIRTIO_F_RING_PACKED)) {
        return true;
    }
    FOR_EACH_RING(s, v, i) {
        /* What one ring waits for, the others are likely to wait for too */
        if (v->rings[i].enabled && !err) {
            finish_ring(v, i, &err);
        } else if (v->rings[i].enabled) {
            v->rings[i].lost = true;
        }
    }
    error_propagate(errp, err);
    return !err;
}

static void doorbell_finalize(Object *obj)
{
    VhostVDPADoorbell *d = VHOST_VDPA_DOORBELL(obj);

    munmap(d->page, qemu_real_host_page_size());
}

static const TypeInfo doorbell_info = {
    .name = TYPE_VHOST_VDPA_DOORBELL,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(VhostVDPADoorbell),
    .instance_finalize = doorbell_finalize,
};

static VhostVDPADoorbell *doorbell_new(void *page, unsigned vq)
{
    size_t size = qemu_real_host_page_size();
    g_autofree char *name = g_strdup_printf("vhost-vdpa-doorbell-%u", vq);
    VhostVDPADoorbell *d =
        VHOST_VDPA_DOORBELL(object_new(TYPE_VHOST_VDPA_DOORBELL));

    d->page = page;
    memory_region_init_ram_device_ptr(&d->mr, OBJECT(d), name, size, page);
    return d;
}

/* Let the guest notify the device without leaving guest mode, if possible */
static bool step_map_doorbells(VhostVDPAShared *s, Error **errp)
{
    VhostVDPANode n = node(s);
    VhostVDPA *v;
    unsigned i;

    memory_region_transaction_begin();
    FOR_EACH_RING(s, v, i) {
        VhostVDPARing *r = &v->rings[i];
        unsigned guest_vq = v->dev->vq_index + i;
        VhostVDPADoorbell *d;
        void *page;
        int ret;

        /* The guest writes the index that it knows */
        if (!r->enabled || ring_vq(v, i) != guest_vq) {
            continue;
        }
        ret = vhost_vdpa_uapi_map_doorbell(&n, guest_vq,
                                           qemu_real_host_page_size(), &page);
        if (ret == -VHOST_VDPA_ENOTSUPP) {
            /* The driver has none, or none of this size */
            goto out;
        }
        if (ret) {
            continue;
        }
        d = doorbell_new(page, guest_vq);
        if (virtio_queue_set_host_notifier_mr(s->vdev, guest_vq, &d->mr,
                                              true)) {
            /* The guest has no page for each queue: page-per-vq=off */
            object_unref(OBJECT(d));
            goto out;
        }
        r->doorbell = d;
    }
out:
    memory_region_transaction_commit();
    return true;
}

static bool step_unmap_doorbells(VhostVDPAShared *s, Error **errp)
{
    size_t size = qemu_real_host_page_size();
    VhostVDPA *v;
    unsigned i;

    memory_region_transaction_begin();
    FOR_EACH_RING(s, v, i) {
        if (v->rings[i].doorbell) {
            virtio_queue_set_host_notifier_mr(s->vdev, v->dev->vq_index + i,
                                              &v->rings[i].doorbell->mr,
                                              false);
        }
    }
    memory_region_transaction_commit();

    FOR_EACH_RING(s, v, i) {
        VhostVDPADoorbell *d = g_steal_pointer(&v->rings[i].doorbell);

        if (!d) {
            continue;
        }
        /*
         * The device's page would keep its file open after a close.  A vCPU
         * that found it before it was removed may write to any other page.
         */
        if (mmap(d->page, size, PROT_READ | PROT_WRITE,
                 MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
            d->page) {
            warn_report("vhost-vdpa device '%s': cannot replace a doorbell "
                        "page: %s; the device may stay busy for a moment",
                        s->name, strerror(errno));
        }
        object_unref(OBJECT(d));
    }
    return true;
}

/* Kicks from before DRIVER_OK, or while suspended, are lost on some devices */
static bool step_kick_rings(VhostVDPAShared *s, Error **errp)
{
    VhostVDPA *v;
    unsigned i;

    FOR_EACH_RING(s, v, i) {
        if (v->rings[i].enabled) {
            event_notifier_set(
                virtio_queue_get_host_notifier(ring_virtqueue(v, i)));
        }
    }
    return true;
}

/*
 * The kernel never takes kicks out of an eventfd.  QEMU would find them there
 * when it takes the rings back, and do what is the device's to do, like
 * carrying out a control command.
 */
static bool step_drain_kicks(VhostVDPAShared *s, Error **errp)
{
    VhostVDPA *v;
    unsigned i;

    FOR_EACH_RING(s, v, i) {
        event_notifier_test_and_clear(
            virtio_queue_get_host_notifier(ring_virtqueue(v, i)));
    }
    return true;
}

/*
 * Whether a driver keeps its translations at a reset is anybody's guess unless
 * the backend says so; the vhost layer always keeps its own and would refuse
 * to map them a second time.  A device that does not let itself be reset, when
 * the guest is about to use the memory for something else, loses it anyhow.  So
 * does one whose driver had it translated by an IOMMU of the guest's.
 */
static bool step_withdraw_memory(VhostVDPAShared *s, Error **errp)
{
    vhost_vdpa_memory_set_running(s->memory, false);
    if (has_backend_feature(s, VHOST_BACKEND_F_IOTLB_PERSIST) &&
        s->as && !s->reset_failed) {
        return true;
    }
    return vhost_vdpa_memory_withdraw(s->memory, errp);
}

static bool step_reset(VhostVDPAShared *s, Error **errp)
{
    VhostVDPANode n = node(s);
    VhostVDPA *v;
    unsigned i;
    int ret = vhost_vdpa_uapi_set_status(&n, 0, errp);

    s->reset_failed = ret;
    QTAILQ_FOREACH(v, &s->devs, entry) {
        for (i = 0; i < v->dev->nvqs; i++) {
            v->rings[i].configured = false;
            v->rings[i].enabled = false;
        }
    }
    return !ret;
}

/* --- The state machine --- */

static const char *const state_names[VHOST_VDPA_STATE__MAX] = {
    [VHOST_VDPA_CLOSED] = "closed",
    [VHOST_VDPA_OWNED] = "owned",
    [VHOST_VDPA_CONFIGURED] = "configured",
    [VHOST_VDPA_RUNNING] = "running",
    [VHOST_VDPA_SUSPENDED] = "suspended",
};

/**
 * struct VhostVDPATransition - a legal change of state
 *
 * @from: state before
 * @to: state afterwards
 * @steps: what it consists of, in the order that every vDPA driver accepts.
 *         The first that fails ends it
 * @undo: what is done when a step failed; errors are ignored
 * @otherwise: state after a failure
 *
 * Those that lead away from the guest's memory never stop half way: there
 * each step is taken, and the first error reported.
 */
typedef struct VhostVDPATransition {
    VhostVDPAState from;
    VhostVDPAState to;
    VhostVDPAStep *steps[8];
    VhostVDPAStep *undo[5];
    VhostVDPAState otherwise;
} VhostVDPATransition;

/* The order that the kernel's interface asks for, for a device at rest */
#define RESET_STEPS \
    { step_withdraw_memory, step_reset, step_withdraw_memory, \
      step_map_early }
/* One that may be working must not lose memory that it was given */
#define RESET_RUNNING_STEPS \
    { step_unmap_doorbells, step_finish_requests, step_reset, \
      step_withdraw_memory, step_drain_kicks, step_map_early }
/* The same, of one that nobody wants to use at once */
#define RESET_UNSUSPENDED_STEPS \
    { step_unmap_doorbells, step_finish_requests, step_reset, \
      step_withdraw_memory, step_drain_kicks }
/* What made a change of state fail will most likely last */
#define GIVE_UP_STEPS \
    { step_unmap_doorbells, step_reset, step_withdraw_memory, \
      step_drain_kicks }
/* The kernel resets and unmaps when the file is closed, which follows */
#define CLOSE_STEPS { step_drop_memory, step_allow_discard }

static const VhostVDPATransition transitions[] = {
    {
        .from = VHOST_VDPA_CLOSED, .to = VHOST_VDPA_OWNED,
        .steps = { step_identify, step_take_ownership,
                   step_negotiate_backend, step_query_device,
                   step_check_device, step_prepare_memory,
                   step_forbid_discard },
        .undo = { step_drop_memory },
        .otherwise = VHOST_VDPA_CLOSED,
    }, {
        .from = VHOST_VDPA_OWNED, .to = VHOST_VDPA_CONFIGURED,
        .steps = { step_retry_reset, step_acknowledge, step_send_features,
                   step_bind_groups, step_map_memory },
        .undo = GIVE_UP_STEPS,
        .otherwise = VHOST_VDPA_OWNED,
    }, {
        .from = VHOST_VDPA_CONFIGURED, .to = VHOST_VDPA_RUNNING,
        .steps = { step_commit_memory, step_send_interrupts,
                   step_enable_rings, step_driver_ok, step_map_doorbells,
                   step_kick_rings },
        .undo = GIVE_UP_STEPS,
        .otherwise = VHOST_VDPA_OWNED,
    }, {
        .from = VHOST_VDPA_RUNNING, .to = VHOST_VDPA_SUSPENDED,
        .steps = { step_unmap_doorbells, step_suspend, step_drain_kicks },
        .undo = RESET_UNSUSPENDED_STEPS,
        .otherwise = VHOST_VDPA_OWNED,
    }, {
        .from = VHOST_VDPA_SUSPENDED, .to = VHOST_VDPA_RUNNING,
        .steps = { step_commit_memory, step_send_interrupts, step_resume,
                   step_enable_rings, step_map_doorbells, step_kick_rings },
        .undo = GIVE_UP_STEPS,
        .otherwise = VHOST_VDPA_OWNED,
    }, {
        .from = VHOST_VDPA_CONFIGURED, .to = VHOST_VDPA_OWNED,
        .steps = RESET_STEPS,
        .otherwise = VHOST_VDPA_OWNED,
    }, {
        .from = VHOST_VDPA_RUNNING, .to = VHOST_VDPA_OWNED,
        .steps = RESET_RUNNING_STEPS,
        .otherwise = VHOST_VDPA_OWNED,
    }, {
        .from = VHOST_VDPA_SUSPENDED, .to = VHOST_VDPA_OWNED,
        .steps = RESET_STEPS,
        .otherwise = VHOST_VDPA_OWNED,
    }, {
        .from = VHOST_VDPA_OWNED, .to = VHOST_VDPA_CLOSED,
        .steps = CLOSE_STEPS,
        .otherwise = VHOST_VDPA_CLOSED,
    }, {
        .from = VHOST_VDPA_CONFIGURED, .to = VHOST_VDPA_CLOSED,
        .steps = CLOSE_STEPS,
        .otherwise = VHOST_VDPA_CLOSED,
    }, {
        .from = VHOST_VDPA_SUSPENDED, .to = VHOST_VDPA_CLOSED,
        .steps = CLOSE_STEPS,
        .otherwise = VHOST_VDPA_CLOSED,
    },
};

/**
 * change_state() - the one way from a state to another
 * @s: the device
 * @to: the state wanted; there is a transition to it from the present one
 * @errp: names the device, what was attempted, and the cause
 *
 * Returns: true if @to was reached without an error
 */
static bool change_state(VhostVDPAShared *s, VhostVDPAState to, Error **errp)
{
    const VhostVDPATransition *t = transitions;
    VhostVDPAState from = s->state;
    bool keep_going, ok = true;
    int i;

    while (t->from != from || t->to != to) {
        t++;
        assert(t < transitions + ARRAY_SIZE(transitions));
    }
    keep_going = t->to == t->otherwise;
    for (i = 0; i < ARRAY_SIZE(t->steps) && t->steps[i] &&
                (ok || keep_going); i++) {
        Error *err = NULL;

        if (!t->steps[i](s, &err)) {
            ok = false;
            error_propagate(errp, err);
            /* Only the first error is the cause */
            errp = NULL;
        }
    }
    if (!ok) {
        for (i = 0; i < ARRAY_SIZE(t->undo) && t->undo[i]; i++) {
            t->undo[i](s, NULL);
        }
    }
    s->state = ok ? t->to : t->otherwise;
    s->start_pending = false;
    if (s->state == VHOST_VDPA_RUNNING) {
        g_clear_pointer(&s->last_error, g_free);
    }
    trace_vhost_vdpa_state(s->name, state_names[from], state_names[s->state],
                           ok);
    changed(s);
    return ok;
}

/* Reset a device that is set up for a guest's driver but does not run */
static bool reset_idle(VhostVDPAShared *s, Error **errp)
{
    return (s->state != VHOST_VDPA_CONFIGURED &&
            s->state != VHOST_VDPA_SUSPENDED) ||
           change_state(s, VHOST_VDPA_OWNED, errp);
}

/* --- What managers see of an open device --- */

void vhost_vdpa_shared_get_info(VhostVDPAShared *s, VhostVDPAInfo *info)
{
    VhostVDPAMemoryInfo memory;

    vhost_vdpa_memory_get_info(s->memory, &memory);
    *info = (VhostVDPAInfo) {
        .state = state_names[s->state],
        .start_pending = s->start_pending,
        .bytes = memory.bytes,
        .bytes_wanted = memory.bytes_wanted,
        .bytes_mapped = memory.bytes_mapped,
        .entries = memory.entries,
        .messages = memory.messages,
        .last_error = memory.last_error ?: s->last_error,
    };
}

static VhostVDPAInfo status_info(Object *obj)
{
    VhostVDPAStatus *status = VHOST_VDPA_STATUS(obj);
    VhostVDPAInfo info = { .state = state_names[VHOST_VDPA_CLOSED] };

    if (status->shared) {
        vhost_vdpa_shared_get_info(status->shared, &info);
    }
    return info;
}

static char *status_get_device(Object *obj, Error **errp)
{
    VhostVDPAStatus *status = VHOST_VDPA_STATUS(obj);

    return g_strdup(status->shared ? status->shared->name : "");
}

static char *status_get_state(Object *obj, Error **errp)
{
    return g_strdup(status_info(obj).state);
}

static char *status_get_last_error(Object *obj, Error **errp)
{
    return g_strdup(status_info(obj).last_error ?: "");
}

static bool status_get_start_pending(Object *obj, Error **errp)
{
    return status_info(obj).start_pending;
}

/* All figures of one moment */
static void status_get_memory(Object *obj, Visitor *v, const char *name,
                              void *opaque, Error **errp)
{
    VhostVDPAInfo info = status_info(obj);

    if (!visit_start_struct(v, name, NULL, 0, errp)) {
        return;
    }
    if (visit_type_uint64(v, "mapped-bytes", &info.bytes, errp) &&
        visit_type_uint64(v, "wanted-bytes", &info.bytes_wanted, errp) &&
        visit_type_uint64(v, "entries", &info.entries, errp) &&
        visit_type_uint64(v, "messages", &info.messages, errp) &&
        visit_type_uint64(v, "total-mapped-bytes", &info.bytes_mapped,
                          errp)) {
        visit_check_struct(v, errp);
    }
    visit_end_struct(v, NULL);
}

static void status_class_init(ObjectClass *oc, void *data)
{
    object_class_property_add_str(oc, "device", status_get_device, NULL);
    object_class_property_set_description(oc, "device",
        "the character device");
    object_class_property_add_str(oc, "state", status_get_state, NULL);
    object_class_property_set_description(oc, "state",
        "owned, configured, running or suspended");
    object_class_property_add_bool(oc, "start-pending",
                                   status_get_start_pending, NULL);
    object_class_property_set_description(oc, "start-pending",
        "it is to run as soon as the guest's memory is mapped");
    object_class_property_add(oc, "memory", "struct",
                              status_get_memory, NULL, NULL, NULL);
    object_class_property_set_description(oc, "memory",
        "what the device can reach, and what that took");
    object_class_property_add_str(oc, "last-error", status_get_last_error,
                                  NULL);
    object_class_property_set_description(oc, "last-error",
        "why it is broken or lacks memory, or an empty string");
}

static const TypeInfo status_info_type = {
    .name = TYPE_VHOST_VDPA_STATUS,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(VhostVDPAStatus),
    .class_init = status_class_init,
};

static void register_types(void)
{
    type_register_static(&doorbell_info);
    type_register_static(&status_info_type);
}

type_init(register_types)

/* --- Life of an open device --- */

int vhost_vdpa_get_iova_range(int device_fd,
                              struct vhost_vdpa_iova_range *iova_range)
{
    g_autofree char *name = g_strdup_printf("fd %d", device_fd);
    VhostVDPANode n = { .fd = device_fd, .name = name };
    int ret = vhost_vdpa_uapi_get_iova_range(&n, iova_range, NULL);

    if (ret && vhost_vdpa_uapi_unsupported(ret)) {
        *iova_range = (struct vhost_vdpa_iova_range) { .last = UINT64_MAX };
        return 0;
    }
    return ret;
}

/* The path of the file says more than "/dev/fdset/2" */
static char *device_name(VhostVDPAShared *s)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", s->device_fd);
    g_autofree char *path = g_file_read_link(link, NULL);

    if (path && g_str_has_prefix(path, "/dev/")) {
        return g_steal_pointer(&path);
    }
    return s->label ? g_strdup(s->label) :
                      g_strdup_printf("fd %d", s->device_fd);
}

bool vhost_vdpa_shared_open(VhostVDPAShared *s, Error **errp)
{
    if (s->open) {
        return true;
    }
    QTAILQ_INIT(&s->devs);
    s->config_call_fd = -1;
    s->name = device_name(s);
    if (!change_state(s, VHOST_VDPA_OWNED, errp)) {
        g_clear_pointer(&s->name, g_free);
        return false;
    }
    s->open = true;
    s->status = object_new(TYPE_VHOST_VDPA_STATUS);
    VHOST_VDPA_STATUS(s->status)->shared = s;
    object_property_add_child(object_get_container("backend"),
                              TYPE_VHOST_VDPA_STATUS "[*]", s->status);
    trace_vhost_vdpa_open(s->name, s->device_id, s->device_features,
                          s->backend_features, s->num_vqs);
    return true;
}

void vhost_vdpa_shared_close(VhostVDPAShared *s)
{
    if (!s->open) {
        return;
    }
    assert(QTAILQ_EMPTY(&s->devs));
    VHOST_VDPA_STATUS(s->status)->shared = NULL;
    object_unparent(s->status);
    object_unref(s->status);
    s->changed = NULL;
    change_state(s, VHOST_VDPA_CLOSED, NULL);
    g_clear_pointer(&s->name, g_free);
    g_clear_pointer(&s->last_error, g_free);
    s->open = false;
}

bool vhost_vdpa_shared_map_memory(VhostVDPAShared *s, Error **errp)
{
    /* Whoever suspended it is gone without a reset, like an unplugged card */
    if (!reset_idle(s, errp)) {
        return false;
    }
    s->as = &address_space_memory;
    return vhost_vdpa_memory_map(s->memory, s->as, false, errp);
}

int vhost_vdpa_read_config(VhostVDPAShared *s, void *config, size_t size,
                           Error **errp)
{
    VhostVDPANode n = node(s);
    int ret;

    size = MIN(size, s->config_size);
    if (!size) {
        return 0;
    }
    ret = vhost_vdpa_uapi_get_config(&n, 0, config, size, errp);
    return ret ? ret : size;
}

/* --- VhostOps --- */

/*
 * A start that failed goes on to its end, on a device that is broken: the vhost
 * core is not to fall back on QEMU's own virtio, which has no way to the
 * network here, and the guest's reset cleans up as after any other start.
 */
static int start_failed(VhostVDPAShared *s, VirtIODevice *vdev, Error *err)
{
    device_broken(s, vdev, err);
    reset_idle(s, NULL);
    return 0;
}

static void warn_of_lost_control_state(VhostVDPAShared *s)
{
    if (s->control_lost && !s->warned_control) {
        warn_report("vhost-vdpa device '%s': it cannot be resumed, so what "
                    "the guest set through the control queue (queue pairs, "
                    "filters) is lost until its driver does so again",
                    s->name);
        s->warned_control = true;
    }
}

/*
 * The guest's driver is done with setting up the device.  It may use it from
 * now on, but not count on an answer: kicks stay in their eventfds until
 * the device runs.
 */
static int start(VhostVDPAShared *s, VirtIODevice *vdev)
{
    Error *err = NULL;

    /* For one that was suspended, there is most often nothing to wait for */
    s->start_pending = s->state == VHOST_VDPA_CONFIGURED &&
                       vhost_vdpa_memory_is_mapping(s->memory);
    if (s->start_pending) {
        trace_vhost_vdpa_start_pending(s->name);
        changed(s);
    } else if (!change_state(s, VHOST_VDPA_RUNNING, &err)) {
        return start_failed(s, vdev, err);
    } else {
        warn_of_lost_control_state(s);
    }
    return 0;
}

static void memory_mapped(void *opaque, Error *err)
{
    VhostVDPAShared *s = opaque;

    if (s->start_pending) {
        if (err) {
            start_failed(s, s->vdev, err);
        } else {
            start(s, s->vdev);
        }
    } else if (err) {
        warn_report("%s", error_get_pretty(err));
        warn_report("vhost-vdpa device '%s': the guest will not be able to "
                    "use it until the cause is removed", s->name);
        error_free(err);
    }
}

static int vhost_vdpa_init(struct vhost_dev *dev, void *opaque, Error **errp)
{
    VhostVDPA *v = opaque;
    VhostVDPAShared *s = v->shared;
    bool opened = s->open;
    Error *err = NULL;
    unsigned i;

    if (!vhost_vdpa_shared_open(s, &err)) {
        goto fail;
    }
    v->dev = dev;
    v->rings = g_new0(VhostVDPARing, dev->nvqs);
    for (i = 0; i < dev->nvqs; i++) {
        v->rings[i].call_fd = -1;
    }
    dev->opaque = v;
    dev->backend_cap = s->backend_features;
    QTAILQ_INSERT_TAIL(&s->devs, v, entry);
    trace_vhost_vdpa_init(s->name, dev->vq_index, dev->nvqs);

    /* Who opens the device through us has no chance to do this */
    if (!opened && !vhost_vdpa_shared_map_memory(s, &err)) {
        goto fail;
    }

    error_setg(&dev->migration_blocker, "vhost-vdpa device '%s': live "
               "migration needs shadow virtqueues, which this version does "
               "not have", s->name);
    return 0;

fail:
    if (errp) {
        error_propagate(errp, err);
    } else {
        /* The generic device would otherwise report an errno only */
        error_report_err(err);
    }
    return -EINVAL;
}

static int vhost_vdpa_cleanup(struct vhost_dev *dev)
{
    VhostVDPA *v = dev->opaque;
    VhostVDPAShared *s;

    if (!v) {
        /* Failed before it became one of ours */
        return 0;
    }
    s = v->shared;
    trace_vhost_vdpa_cleanup(s->name, dev->vq_index, dev->nvqs);
    QTAILQ_REMOVE(&s->devs, v, entry);
    g_clear_pointer(&v->rings, g_free);
    v->dev = NULL;
    dev->opaque = NULL;
    if (QTAILQ_EMPTY(&s->devs)) {
        vhost_vdpa_shared_close(s);
    }
    return 0;
}

static int vhost_vdpa_memslots_limit(struct vhost_dev *dev)
{
    /* The kernel sets no limit to the number of mappings */
    return INT_MAX;
}

static int vhost_vdpa_set_owner(struct vhost_dev *dev)
{
    /* Done when the device was opened */
    return 0;
}

static int vhost_vdpa_get_features(struct vhost_dev *dev, uint64_t *features)
{
    VhostVDPA *v = dev->opaque;

    *features = v->shared->device_features &
                (PASSED_TRANSPORT_FEATURES | ~TRANSPORT_FEATURES);
    return 0;
}

/* Did the last start set up any of these rings? */
static bool took_part(VhostVDPA *v)
{
    unsigned i;

    for (i = 0; i < v->dev->nvqs; i++) {
        if (v->rings[i].configured) {
            return true;
        }
    }
    return false;
}

/* Does the device stand exactly where the guest's rings stand? */
static bool can_resume(VhostVDPAShared *s, VirtIODevice *vdev,
                       uint64_t features)
{
    VhostVDPA *v;
    unsigned i;

    if (s->vdev != vdev || s->features != features) {
        return false;
    }
    QTAILQ_FOREACH(v, &s->devs, entry) {
        for (i = 0; took_part(v) && i < v->dev->nvqs; i++) {
            unsigned n = v->dev->vq_index + i;
            VhostVDPARing *r = &v->rings[i];
            hwaddr desc = virtio_queue_get_desc_addr(vdev, n);

            if (r->configured != !!desc || r->lost) {
                return false;
            }
            if (r->configured &&
                (r->num != virtio_queue_get_num(vdev, n) ||
                 r->desc != desc ||
                 r->avail != virtio_queue_get_avail_addr(vdev, n) ||
                 r->used != virtio_queue_get_used_addr(vdev, n) ||
                 r->base != virtio_queue_get_last_avail_idx(vdev, n) ||
                 r->enabled != virtio_queue_enabled(vdev, n))) {
                return false;
            }
        }
    }
    return true;
}

/*
 * A device that has to be set up anew forgets what the guest's driver told it
 * through the control queue, and the driver does not know.
 */
static bool loses_control_state(VhostVDPAShared *s)
{
    uint32_t unused = s->features & BIT_ULL(VIRTIO_F_RING_PACKED) ?
                      PACKED_RING_START : 0;
    VhostVDPA *v;

    QTAILQ_FOREACH(v, &s->devs, entry) {
        if (v->control_vq && v->rings[0].num && v->rings[0].base != unused) {
            return true;
        }
    }
    return false;
}

static void forget_lost_rings(VhostVDPAShared *s)
{
    VhostVDPA *v;
    unsigned i;

    QTAILQ_FOREACH(v, &s->devs, entry) {
        for (i = 0; i < v->dev->nvqs; i++) {
            v->rings[i].lost = false;
        }
    }
}

static int vhost_vdpa_set_features(struct vhost_dev *dev, uint64_t features)
{
    VhostVDPA *v = dev->opaque;
    VhostVDPAShared *s = v->shared;
    VirtIODevice *vdev = dev->vdev;
    /* A new driver has not yet got this bit in when the device starts */
    bool same_driver = vdev->status & VIRTIO_CONFIG_S_DRIVER_OK;
    Error *err = NULL;

    /*
     * The first part asks for all; control queues have no features of their
     * own.  Once started, it is only about dirty logging, which no device has.
     */
    if (dev->vq_index || s->state == VHOST_VDPA_RUNNING || s->start_pending) {
        return 0;
    }
    if (vdev->broken) {
        /* Reported already; the guest has to reset it first */
        reset_idle(s, NULL);
        return 0;
    }
    features &= ~BIT_ULL(VHOST_F_LOG_ALL);
    /* Shown to the guest whatever the device has, so not in what was acked */
    if (s->device_id == VIRTIO_ID_NET) {
        features |= vdev->guest_features & s->device_features &
                    BIT_ULL(VIRTIO_NET_F_MAC);
    }
    /* Without a vIOMMU, bus mastering is no reason to unmap everything */
    s->as = vhost_dev_has_iommu(dev) ? vdev->dma_as : &address_space_memory;
    s->control_lost = false;
    if (!same_driver) {
        forget_lost_rings(s);
    } else if (s->state == VHOST_VDPA_SUSPENDED &&
               can_resume(s, vdev, features)) {
        return 0;
    } else {
        s->control_lost = loses_control_state(s);
    }
    /* Also what a start left behind that failed in the vhost core */
    reset_idle(s, NULL);
    if (!(features & BIT_ULL(VIRTIO_F_VERSION_1))) {
        error_setg(&err, "vhost-vdpa device '%s': the guest's driver uses the "
                   "legacy interface, which vDPA devices do not have; use a "
                   "driver for virtio 1.0, or disable-legacy=on", s->name);
    } else {
        s->features = features;
        s->vdev = vdev;
        change_state(s, VHOST_VDPA_CONFIGURED, &err);
    }
    return err ? start_failed(s, vdev, err) : 0;
}

/* The kernel ignores the table: all translations come from IOTLB messages */
static int vhost_vdpa_set_mem_table(struct vhost_dev *dev,
                                    struct vhost_memory *mem)
{
    return 0;
}

/*
 * Only reached by who measures the guest's dirty rate, as migration is
 * blocked: what the device writes is missing there.
 */
static int vhost_vdpa_set_log_base(struct vhost_dev *dev, uint64_t base,
                                   struct vhost_log *log)
{
    return 0;
}

/*
 * The vhost core tells what the guest's IOMMU unmaps.  So does the memory
 * listener, which also knows what is mapped.
 */
static int vhost_vdpa_send_device_iotlb_msg(struct vhost_dev *dev,
                                            struct vhost_iotlb_msg *msg)
{
    return 0;
}

static int vhost_vdpa_get_vq_index(struct vhost_dev *dev, int idx)
{
    return device_vq(dev->opaque, idx);
}

static int vhost_vdpa_vq_get_addr(struct vhost_dev *dev,
                                  struct vhost_vring_addr *addr,
                                  struct vhost_virtqueue *vq)
{
    /* The device sees the guest's memory at the guest's own addresses */
    addr->desc_user_addr = vq->desc_phys;
    addr->avail_user_addr = vq->avail_phys;
    addr->used_user_addr = vq->used_phys;
    return 0;
}

static int vhost_vdpa_set_vring_num(struct vhost_dev *dev,
                                    struct vhost_vring_state *ring)
{
    VhostVDPA *v = dev->opaque;
    VhostVDPAShared *s = v->shared;
    VhostVDPARing *r = find_ring(v, ring->index);
    VhostVDPANode n = node(s);
    Error *err = NULL;

    if (s->state != VHOST_VDPA_CONFIGURED) {
        return 0;
    }
    if (ring->num > s->max_ring && !s->warned_ring) {
        /* Many drivers report a constant, and can do more */
        warn_report("vhost-vdpa device '%s': the guest uses %u entries for "
                    "virtqueue %u, but the device says that it can do %u; if "
                    "it does not work, set rx_queue_size and tx_queue_size, "
                    "or queue-size, to that", s->name, ring->num, ring->index,
                    s->max_ring);
        s->warned_ring = true;
    }
    if (vhost_vdpa_uapi_set_vring_num(&n, ring->index, ring->num, &err)) {
        return start_failed(s, dev->vdev, err);
    }
    r->num = ring->num;
    return 0;
}

static int vhost_vdpa_set_vring_base(struct vhost_dev *dev,
                                     struct vhost_vring_state *ring)
{
    VhostVDPA *v = dev->opaque;
    VhostVDPAShared *s = v->shared;
    VhostVDPARing *r = find_ring(v, ring->index);
    VhostVDPANode n = node(s);
    Error *err = NULL;

    if (s->state == VHOST_VDPA_OWNED) {
        /* Broken, so this is where the ring stays */
        r->base = ring->num;
        r->ran = false;
    }
    if (s->state != VHOST_VDPA_CONFIGURED) {
        return 0;
    }
    if (r->lost && virtio_vdev_has_feature(dev->vdev, VIRTIO_F_RING_PACKED)) {
        error_setg(&err, "vhost-vdpa device '%s': it could not tell how far it "
                   "got in packed virtqueue %u before it was stopped, so the "
                   "guest's driver must reset it; packed=off avoids this",
                   s->name, ring->index);
    } else if (r->lost) {
        error_setg(&err, "vhost-vdpa device '%s': it had not finished its "
                   "requests in virtqueue %u when it was stopped, so the "
                   "guest's driver must reset it", s->name, ring->index);
    }
    if (err) {
        return start_failed(s, dev->vdev, err);
    }
    if (vhost_vdpa_uapi_set_vring_base(&n, ring->index, ring->num, &err)) {
        return start_failed(s, dev->vdev, err);
    }
    r->base = ring->num;
    r->ran = false;
    return 0;
}

static int vhost_vdpa_set_vring_addr(struct vhost_dev *dev,
                                     struct vhost_vring_addr *addr)
{
    VhostVDPA *v = dev->opaque;
    VhostVDPAShared *s = v->shared;
    VhostVDPARing *r = find_ring(v, addr->index);
    VhostVDPANode n = node(s);
    Error *err = NULL;

    if (s->state != VHOST_VDPA_CONFIGURED) {
        return 0;
    }
    if (vhost_vdpa_uapi_set_vring_addr(&n, addr->index, addr->desc_user_addr,
                                       addr->avail_user_addr,
                                       addr->used_user_addr, &err)) {
        return start_failed(s, dev->vdev, err);
    }
    r->desc = addr->desc_user_addr;
    r->avail = addr->avail_user_addr;
    r->used = addr->used_user_addr;
    r->configured = true;
    return 0;
}

static int vhost_vdpa_set_vring_kick(struct vhost_dev *dev,
                                     struct vhost_vring_file *file)
{
    VhostVDPA *v = dev->opaque;
    VhostVDPAShared *s = v->shared;
    VhostVDPANode n = node(s);
    Error *err = NULL;

    if (s->state == VHOST_VDPA_OWNED) {
        return 0;
    }
    /* Also while suspended: each start of the vhost core makes new ones */
    if (vhost_vdpa_uapi_set_vring_kick(&n, file->index, file->fd, &err)) {
        return start_failed(s, dev->vdev, err);
    }
    return 0;
}

static int vhost_vdpa_set_vring_call(struct vhost_dev *dev,
                                     struct vhost_vring_file *file)
{
    VhostVDPA *v = dev->opaque;
    VhostVDPAShared *s = v->shared;
    VhostVDPANode n = node(s);
    Error *err = NULL;
    int ret;

    find_ring(v, file->index)->call_fd = file->fd;
    if (s->state != VHOST_VDPA_RUNNING) {
        /* Sent when the device starts, which has to be done anyway */
        return 0;
    }
    ret = vhost_vdpa_uapi_set_vring_call(&n, file->index, file->fd, &err);
    if (ret) {
        error_report_err(err);
    }
    return ret;
}

static int vhost_vdpa_set_vring_enable(struct vhost_dev *dev, int enable)
{
    /* All rings are enabled right before DRIVER_OK, disabled by the reset */
    return 0;
}

/*
 * What the device completed is all that counts for a device that cannot say
 * where it stands.  Right as long as it uses buffers in order, which is what
 * the kernel's interface presumes everywhere.
 */
static bool recover_base(VhostVDPA *v, unsigned guest_vq, unsigned vq,
                         uint32_t *base)
{
    VirtIODevice *vdev = v->dev->vdev;

    if (virtio_vdev_has_feature(vdev, VIRTIO_F_RING_PACKED)) {
        return false;
    }
    virtio_queue_restore_last_avail_idx(vdev, guest_vq);
    *base = virtio_queue_get_last_avail_idx(vdev, guest_vq);
    trace_vhost_vdpa_base_recovered(v->shared->name, vq, *base);
    return true;
}

static int vhost_vdpa_get_vring_base(struct vhost_dev *dev,
                                     struct vhost_vring_state *ring)
{
    VhostVDPA *v = dev->opaque;
    VhostVDPAShared *s = v->shared;
    VhostVDPARing *r = find_ring(v, ring->index);
    unsigned guest_vq = dev->vq_index + (r - v->rings);
    VhostVDPANode n = node(s);
    uint32_t base;

    if (r->ran) {
        if ((s->state != VHOST_VDPA_SUSPENDED ||
             vhost_vdpa_uapi_get_vring_base(&n, ring->index, &base, NULL)) &&
            !recover_base(v, guest_vq, ring->index, &base)) {
            /* Of no importance to a driver that starts anew */
            r->lost = true;
            base = r->base;
        }
        r->base = base;
        r->ran = s->state == VHOST_VDPA_SUSPENDED;
    }
    ring->num = r->base;
    return 0;
}

/* The parts of a device start and stop in order; this is the last */
static bool is_last_part(struct vhost_dev *dev)
{
    return dev->vq_index + dev->nvqs == dev->vq_index_end;
}

static int vhost_vdpa_start(VhostVDPA *v)
{
    VhostVDPAShared *s = v->shared;

    if (!is_last_part(v->dev) || s->state == VHOST_VDPA_OWNED) {
        return 0;
    }
    return start(s, v->dev->vdev);
}

static void vhost_vdpa_stop(VhostVDPA *v)
{
    VhostVDPAShared *s = v->shared;
    Error *err = NULL;

    switch (s->state) {
    case VHOST_VDPA_RUNNING:
        /*
         * Rings can only be asked where they are while the device stands
         * still; where it cannot be made to, it must not write any more.
         */
        if (has_backend_feature(s, VHOST_BACKEND_F_SUSPEND)) {
            change_state(s, VHOST_VDPA_SUSPENDED, &err);
        } else {
            change_state(s, VHOST_VDPA_OWNED, &err);
        }
        break;
    case VHOST_VDPA_CONFIGURED:
        /* It waits for memory, or another part failed and is not stopped */
        change_state(s, VHOST_VDPA_OWNED, &err);
        break;
    default:
        break;
    }
    if (err) {
        error_report_err(err);
    }
}

static int vhost_vdpa_dev_start(struct vhost_dev *dev, bool started)
{
    VhostVDPA *v = dev->opaque;

    if (started) {
        return vhost_vdpa_start(v);
    }
    vhost_vdpa_stop(v);
    return 0;
}

/*
 * The last call of a stop: rings were asked where they stand.  A guest that
 * was paused, or whose link was set down, will go on where it was, and the
 * device need not be set up again.  A guest that resets its device does not,
 * but vhost_vdpa_reset_device() will be told.
 */
static void vhost_vdpa_reset_status(struct vhost_dev *dev)
{
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_GET_CLASS(dev->vdev);
    VhostVDPA *v = dev->opaque;
    VhostVDPAShared *s = v->shared;
    bool told_of_resets = vdc->get_vhost;
    Error *err = NULL;

    if (!is_last_part(dev)) {
        return;
    }
    if (s->as && s->as != &address_space_memory) {
        /* It is the guest's device's, and nobody tells us when that goes */
        s->as = vhost_vdpa_memory_unfollow(s->memory) ? NULL :
                                                        &address_space_memory;
        if (s->state == VHOST_VDPA_OWNED) {
            step_withdraw_memory(s, NULL);
            step_map_early(s, NULL);
        }
    }
    /* Of what a card that is unplugged had translated, nobody has any use */
    if ((!has_backend_feature(s, VHOST_BACKEND_F_RESUME) ||
         (dev->vdev->vm_running && !told_of_resets) ||
         (!s->as && !qdev_is_realized(DEVICE(dev->vdev)))) &&
        !reset_idle(s, &err)) {
        error_report_err(err);
    }
}

/* The guest, or the machine, resets the virtio device */
static int vhost_vdpa_reset_device(struct vhost_dev *dev)
{
    VhostVDPA *v = dev->opaque;
    Error *err = NULL;

    if (!reset_idle(v->shared, &err)) {
        error_report_err(err);
        return -EIO;
    }
    return 0;
}

static int vhost_vdpa_get_config(struct vhost_dev *dev, uint8_t *config,
                                 uint32_t config_len, Error **errp)
{
    VhostVDPA *v = dev->opaque;
    VhostVDPAShared *s = v->shared;
    g_autofree uint8_t *bytes = g_malloc0(config_len);
    Error *err = NULL;
    int ret = vhost_vdpa_read_config(s, bytes, config_len, &err);

    if (ret < 0) {
        if (errp) {
            error_propagate(errp, err);
        } else {
            error_report_err(err);
        }
        /* The one value that every caller takes for an error */
        return -1;
    }
    if (s->merge_config) {
        s->merge_config(s, config, bytes, ret);
    } else {
        memcpy(config, bytes, ret);
    }
    return 0;
}

static int vhost_vdpa_set_config(struct vhost_dev *dev, const uint8_t *data,
                                 uint32_t offset, uint32_t size,
                                 uint32_t flags)
{
    VhostVDPA *v = dev->opaque;
    VhostVDPAShared *s = v->shared;
    VhostVDPANode n = node(s);
    Error *err = NULL;
    int ret;

    /* What the guest can see but the device does not have is QEMU's own */
    if (offset >= s->config_size) {
        return 0;
    }
    size = MIN(size, s->config_size - offset);
    if (!size) {
        return 0;
    }
    ret = vhost_vdpa_uapi_set_config(&n, offset, data, size, &err);
    if (ret) {
        error_report_err(err);
    }
    return ret;
}

static int vhost_vdpa_set_config_call(struct vhost_dev *dev, int fd)
{
    VhostVDPA *v = dev->opaque;
    VhostVDPAShared *s = v->shared;
    VhostVDPANode n = node(s);
    Error *err = NULL;
    int ret;

    /* Each part of the device asks for the same */
    if (fd == s->config_call_fd) {
        return 0;
    }
    if (s->state == VHOST_VDPA_OWNED && fd >= 0) {
        /* Broken; should it start after all, it is sent then */
        s->config_call_fd = fd;
        return 0;
    }
    ret = vhost_vdpa_uapi_set_config_call(&n, fd, &err);
    if (ret) {
        error_report_err(err);
    }
    /* On failure the kernel has already dropped the old one */
    s->config_call_fd = ret ? -1 : fd;
    return ret;
}

static int vhost_vdpa_get_device_id(struct vhost_dev *dev, uint32_t *dev_id)
{
    VhostVDPA *v = dev->opaque;

    *dev_id = v->shared->device_id;
    return 0;
}

static bool vhost_vdpa_force_iommu(struct vhost_dev *dev)
{
    /* The device always works through its IOTLB, the guest may not know */
    return true;
}

const VhostOps vdpa_ops = {
    .backend_type = VHOST_BACKEND_TYPE_VDPA,
    .vhost_backend_init = vhost_vdpa_init,
    .vhost_backend_cleanup = vhost_vdpa_cleanup,
    .vhost_backend_memslots_limit = vhost_vdpa_memslots_limit,
    .vhost_set_owner = vhost_vdpa_set_owner,
    .vhost_get_features = vhost_vdpa_get_features,
    .vhost_set_features = vhost_vdpa_set_features,
    .vhost_set_mem_table = vhost_vdpa_set_mem_table,
    .vhost_set_log_base = vhost_vdpa_set_log_base,
    .vhost_send_device_iotlb_msg = vhost_vdpa_send_device_iotlb_msg,
    .vhost_get_vq_index = vhost_vdpa_get_vq_index,
    .vhost_vq_get_addr = vhost_vdpa_vq_get_addr,
    .vhost_set_vring_num = vhost_vdpa_set_vring_num,
    .vhost_set_vring_base = vhost_vdpa_set_vring_base,
    .vhost_get_vring_base = vhost_vdpa_get_vring_base,
    .vhost_set_vring_addr = vhost_vdpa_set_vring_addr,
    .vhost_set_vring_kick = vhost_vdpa_set_vring_kick,
    .vhost_set_vring_call = vhost_vdpa_set_vring_call,
    .vhost_set_vring_enable = vhost_vdpa_set_vring_enable,
    .vhost_dev_start = vhost_vdpa_dev_start,
    .vhost_reset_status = vhost_vdpa_reset_status,
    .vhost_reset_device = vhost_vdpa_reset_device,
    .vhost_get_config = vhost_vdpa_get_config,
    .vhost_set_config = vhost_vdpa_set_config,
    .vhost_set_config_call = vhost_vdpa_set_config_call,
    .vhost_get_device_id = vhost_vdpa_get_device_id,
    .vhost_force_iommu = vhost_vdpa_force_iommu,
};
