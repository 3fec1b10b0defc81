/*
 * vhost-vdpa: a vDPA network device of the host as the guest's network card
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "clients.h"
#include "hw/virtio/vhost-vdpa.h"
#include "hw/virtio/vhost.h"
#include "hw/virtio/virtio-net.h"
#include "monitor/monitor.h"
#include "net/net.h"
#include "net/vhost-vdpa.h"
#include "net/vhost_net.h"
#include "qapi/error.h"
#include "qapi/qapi-types-net.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "standard-headers/linux/virtio_ids.h"
#include "standard-headers/linux/virtio_net.h"
#include "trace.h"

/**
 * struct VDPANetDevice - one character device, shared by its net clients
 * @shared: the open device
 * @refs: net clients, plus one while they are being made
 * @label: the user's words for the device
 * @first: the client that tells about the device, or NULL
 * @mac: its address, in words, as of its last start; or NULL
 * @max_pairs: receive/transmit queue pairs that the device has
 * @pairs: those that the guest may use, at most @max_pairs
 * @control: it has a control queue
 */
typedef struct VDPANetDevice {
    VhostVDPAShared shared;
    unsigned refs;
    char *label;
    NetClientState *first;
    char *mac;
    unsigned max_pairs;
    unsigned pairs;
    bool control;
} VDPANetDevice;

/** struct VDPANetClient - a queue pair, or the control queue */
typedef struct VDPANetClient {
    NetClientState nc;
    VhostVDPA vdpa;
    VHostNetState *vhost_net;
    VDPANetDevice *device;
} VDPANetClient;

/*
 * Features that the guest gets only if the device has them, because the
 * device, not QEMU, implements them.  VIRTIO_NET_F_MAC and the like are
 * missing here: QEMU can show the guest those by itself.
 */
const int vdpa_feature_bits[] = {
    VIRTIO_F_ANY_LAYOUT,
    VIRTIO_F_IN_ORDER,
    VIRTIO_F_IOMMU_PLATFORM,
    VIRTIO_F_NOTIFICATION_DATA,
    VIRTIO_F_NOTIFY_ON_EMPTY,
    VIRTIO_F_ORDER_PLATFORM,
    VIRTIO_F_RING_PACKED,
    VIRTIO_F_RING_RESET,
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_F_CTRL_MAC_ADDR,
    VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_VLAN,
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GSO,
    VIRTIO_NET_F_GUEST_ANNOUNCE,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_UFO,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HASH_REPORT,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_UFO,
    VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_RSC_EXT,
    VIRTIO_NET_F_RSS,
    VIRTIO_NET_F_STATUS,
    VHOST_INVALID_FEATURE_BIT
};

static bool offers(VDPANetDevice *d, unsigned bit)
{
    return d->shared.device_features & BIT_ULL(bit);
}

static VDPANetClient *client(NetClientState *nc)
{
    assert(nc->info->type == NET_CLIENT_DRIVER_VHOST_VDPA);
    return DO_UPCAST(VDPANetClient, nc, nc);
}

VHostNetState *vhost_vdpa_get_vhost_net(NetClientState *nc)
{
    return client(nc)->vhost_net;
}

static void device_unref(VDPANetDevice *d)
{
    if (--d->refs) {
        return;
    }
    vhost_vdpa_shared_close(&d->shared);
    qemu_close(d->shared.device_fd);
    g_free(d->label);
    g_free(d->mac);
    g_free(d);
}

/* --- The net client --- */

/*
 * Only reached while the device does not run, say because the link is down:
 * what QEMU has to send, such as announcements, has no other way.
 */
static ssize_t vdpa_net_receive(NetClientState *nc, const uint8_t *buf,
                                size_t size)
{
    return size;
}

static bool vdpa_net_has_vnet_hdr(NetClientState *nc)
{
    return true;
}

static bool vdpa_net_has_ufo(NetClientState *nc)
{
    VDPANetDevice *d = client(nc)->device;

    return offers(d, VIRTIO_NET_F_HOST_UFO) ||
           offers(d, VIRTIO_NET_F_GUEST_UFO);
}

static bool vdpa_net_has_uso(NetClientState *nc)
{
    VDPANetDevice *d = client(nc)->device;

    return offers(d, VIRTIO_NET_F_HOST_USO) ||
           offers(d, VIRTIO_NET_F_GUEST_USO4) ||
           offers(d, VIRTIO_NET_F_GUEST_USO6);
}

/* Headers are between guest and device: little-endian since virtio 1.0 */
static int vdpa_net_set_vnet_le(NetClientState *nc, bool enable)
{
    return 0;
}

/*
 * Called when the guest's device is connected to this one, the first moment
 * in the life of a guest when its memory exists and an error has somewhere
 * to go.
 */
static bool vdpa_net_check_peer_type(NetClientState *nc, ObjectClass *oc,
                                     Error **errp)
{
    const char *driver = object_class_get_name(oc);

    if (!g_str_has_prefix(driver, "virtio-net-")) {
        error_setg(errp, "vhost-vdpa device '%s': it can only be used with "
                   "virtio-net devices, not with %s",
                   client(nc)->device->shared.name, driver);
        return false;
    }
    return vhost_vdpa_shared_map_memory(&client(nc)->device->shared, errp);
}

static void describe(VDPANetClient *c)
{
    VDPANetDevice *d = c->device;
    g_autoptr(GString) text = g_string_new(d->shared.name);
    VhostVDPAInfo info;

    if (!c->nc.is_datapath) {
        qemu_set_info_str(&c->nc, "%s,control-queue", d->shared.name);
        return;
    }
    g_string_append_printf(text, ",virtio-id=%u,pair=%u/%u%s",
                           d->shared.device_id, c->nc.queue_index + 1,
                           d->pairs, d->control ? ",control-queue" : "");
    if (!c->nc.queue_index) {
        vhost_vdpa_shared_get_info(&d->shared, &info);
        g_string_append_printf(text, "%s%s,state=%s%s,mapped-bytes=%" PRIu64
                               "/%" PRIu64 ",entries=%" PRIu64 ",messages=%"
                               PRIu64, d->mac ? ",mac=" : "", d->mac ?: "",
                               info.state,
                               info.start_pending ? ",start-pending" : "",
                               info.bytes, info.bytes_wanted, info.entries,
                               info.messages);
        if (info.last_error) {
            g_string_append_printf(text, ",last-error=%s", info.last_error);
        }
    }
    qemu_set_info_str(&c->nc, "%s", text->str);
}

/* The address may have been changed by the guest, or on the host */
static void read_mac(VDPANetDevice *d)
{
    struct virtio_net_config config = {};

    g_clear_pointer(&d->mac, g_free);
    if (offers(d, VIRTIO_NET_F_MAC) &&
        vhost_vdpa_read_config(&d->shared, &config, sizeof(config.mac),
                               NULL) == sizeof(config.mac)) {
        d->mac = qemu_mac_strdup_printf(config.mac);
    }
}

static int vdpa_net_start(NetClientState *nc)
{
    if (!nc->queue_index) {
        read_mac(client(nc)->device);
        describe(client(nc));
    }
    return 0;
}

static void device_changed(VhostVDPAShared *s)
{
    VDPANetDevice *d = s->opaque;

    if (d->first) {
        describe(client(d->first));
    }
}

static NetClientInfo vdpa_net_info = {
    .type = NET_CLIENT_DRIVER_VHOST_VDPA,
    .size = sizeof(VDPANetClient),
    .receive = vdpa_net_receive,
    .start = vdpa_net_start,
    .has_vnet_hdr = vdpa_net_has_vnet_hdr,
    .has_ufo = vdpa_net_has_ufo,
    .has_uso = vdpa_net_has_uso,
    .set_vnet_le = vdpa_net_set_vnet_le,
    .check_peer_type = vdpa_net_check_peer_type,
};

/*
 * Not as .cleanup: that is called at exit while network cards still exist, and
 * those go on asking for the vhost device.
 */
static void vdpa_net_destroy(NetClientState *nc)
{
    VDPANetClient *c = client(nc);

    if (c->device->first == nc) {
        c->device->first = NULL;
    }
    if (c->vhost_net) {
        vhost_net_cleanup(c->vhost_net);
        g_free(c->vhost_net);
    }
    device_unref(c->device);
    g_free(c);
}

/* --- Configuration space --- */

/*
 * Fields belong to features.  What the device does not have, it leaves at 0,
 * so there the guest is better off with what QEMU has to say.
 */
static void merge_config(VhostVDPAShared *s, uint8_t *guest,
                         const uint8_t *device, size_t size)
{
    static const struct {
        size_t offset;
        size_t size;
        uint64_t features;      /* any of them */
    } fields[] = {
#define FIELD(name, features) \
        { offsetof(struct virtio_net_config, name), \
          sizeof_field(struct virtio_net_config, name), features }
        FIELD(mac, BIT_ULL(VIRTIO_NET_F_MAC)),
        FIELD(status, BIT_ULL(VIRTIO_NET_F_STATUS)),
        FIELD(max_virtqueue_pairs,
              BIT_ULL(VIRTIO_NET_F_MQ) | BIT_ULL(VIRTIO_NET_F_RSS)),
        FIELD(mtu, BIT_ULL(VIRTIO_NET_F_MTU)),
        FIELD(speed, BIT_ULL(VIRTIO_NET_F_SPEED_DUPLEX)),
        FIELD(duplex, BIT_ULL(VIRTIO_NET_F_SPEED_DUPLEX)),
        FIELD(rss_max_key_size,
              BIT_ULL(VIRTIO_NET_F_RSS) | BIT_ULL(VIRTIO_NET_F_HASH_REPORT)),
        FIELD(rss_max_indirection_table_length, BIT_ULL(VIRTIO_NET_F_RSS)),
        FIELD(supported_hash_types,
              BIT_ULL(VIRTIO_NET_F_RSS) | BIT_ULL(VIRTIO_NET_F_HASH_REPORT)),
#undef FIELD
    };
    static const uint8_t no_mac[ETH_ALEN];
    VDPANetDevice *d = s->opaque;
    int i;

    for (i = 0; i < ARRAY_SIZE(fields); i++) {
        size_t offset = fields[i].offset;

        if (!(s->device_features & fields[i].features) ||
            offset + fields[i].size > size) {
            continue;
        }
        if (!offset && !memcmp(device, no_mac, sizeof(no_mac))) {
            /* Nobody gave the device an address */
            continue;
        }
        if (offset == offsetof(struct virtio_net_config, status)) {
            /* The link is up if neither host nor user says otherwise */
            stw_le_p(guest + offset,
                     lduw_le_p(device + offset) &
                     (lduw_le_p(guest + offset) | ~VIRTIO_NET_S_LINK_UP));
            continue;
        }
        if (offset == offsetof(struct virtio_net_config,
                               max_virtqueue_pairs)) {
            stw_le_p(guest + offset, MIN(d->pairs,
                                         lduw_le_p(device + offset)));
            continue;
        }
        memcpy(guest + offset, device + offset, fields[i].size);
    }
}

/* --- Options --- */

/* What a person can do about a path that cannot be opened */
static const char *open_advice(const char *path, int err)
{
    if (g_str_has_prefix(path, "/dev/fdset/")) {
        return "pass the device, open for reading and writing, with -add-fd "
               "or add-fd";
    }
    switch (err) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
        return "is the vhost_vdpa module loaded, and the device created "
               "('vdpa dev add')?";
    case EACCES:
    case EPERM:
        return "give QEMU's user read and write access to it";
    case EBUSY:
        return "another process, or another -netdev, uses it";
    case EIO:
        return "the device does not answer; look at the host's kernel log";
    default:
        return "check the path";
    }
}

static int open_device(const NetdevVhostVDPAOptions *opts, char **label,
                       Error **errp)
{
    Error *err = NULL;
    int fd, flags;

    if (!!opts->vhostdev == !!opts->vhostfd) {
        error_setg(errp, "vhost-vdpa: exactly one of vhostdev=PATH and "
                   "vhostfd=FD is required, to name the device");
        return -1;
    }
    if (opts->vhostdev) {
        *label = g_strdup(opts->vhostdev);
        errno = 0;
        fd = qemu_open(opts->vhostdev, O_RDWR, &err);
        if (fd < 0) {
            int cause = errno;

            error_setg(errp, "vhost-vdpa device '%s': %s; %s", *label,
                       error_get_pretty(err),
                       open_advice(opts->vhostdev, cause));
            error_free(err);
        }
        return fd;
    }

    *label = g_strdup_printf("vhostfd=%s", opts->vhostfd);
    fd = monitor_fd_param(monitor_cur(), opts->vhostfd, &err);
    if (fd < 0) {
        error_setg(errp, "vhost-vdpa device '%s': %s; give the number of an "
                   "open file, or the name of one passed with getfd", *label,
                   error_get_pretty(err));
        error_free(err);
        return -1;
    }
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) != O_RDWR) {
        error_setg(errp, "vhost-vdpa device '%s': the file is %s; open the "
                   "device for reading and writing", *label,
                   flags < 0 ? "not open" : "not open for both reading and "
                   "writing");
        if (flags >= 0) {
            close(fd);
        }
        return -1;
    }
    /* A helper that QEMU starts would keep the device busy */
    qemu_set_cloexec(fd);
    return fd;
}

/* Bytes that the device must have for the features it offers */
static size_t required_config(VDPANetDevice *d)
{
    if (offers(d, VIRTIO_NET_F_MTU)) {
        return endof(struct virtio_net_config, mtu);
    }
    if (offers(d, VIRTIO_NET_F_MQ) || offers(d, VIRTIO_NET_F_RSS)) {
        return endof(struct virtio_net_config, max_virtqueue_pairs);
    }
    if (offers(d, VIRTIO_NET_F_STATUS)) {
        return endof(struct virtio_net_config, status);
    }
    return offers(d, VIRTIO_NET_F_MAC) ? ETH_ALEN : 0;
}

/* How many queue pairs there are, and how many the guest gets */
static bool count_queues(VDPANetDevice *d, const NetdevVhostVDPAOptions *opts,
                         Error **errp)
{
    VhostVDPAShared *s = &d->shared;
    struct virtio_net_config config = {};
    size_t required = required_config(d);
    unsigned vqs;

    if (s->config_size < required) {
        error_setg(errp, "vhost-vdpa device '%s': its configuration space of "
                   "%u bytes is too short for the features it offers, which "
                   "need %zu; its driver or firmware is faulty", s->name,
                   s->config_size, required);
        return false;
    }
    d->control = offers(d, VIRTIO_NET_F_CTRL_VQ);
    d->max_pairs = 1;
    if (offers(d, VIRTIO_NET_F_MQ) || offers(d, VIRTIO_NET_F_RSS)) {
        if (vhost_vdpa_read_config(s, &config, required, errp) < 0) {
            return false;
        }
        d->max_pairs = le16_to_cpu(config.max_virtqueue_pairs);
        if (d->max_pairs < VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN ||
            d->max_pairs > VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX) {
            error_setg(errp, "vhost-vdpa device '%s': it reports %u queue "
                       "pairs, but the virtio specification allows %u to "
                       "%u; its driver or firmware is faulty", s->name,
                       d->max_pairs, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN,
                       VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX);
            return false;
        }
    }
    if (2 * d->max_pairs >= VIRTIO_QUEUE_MAX) {
        /* The index of its control queue would be none for QEMU */
        error_setg(errp, "vhost-vdpa device '%s': it has %u queue pairs, but "
                   "QEMU can handle %u at most; create it with fewer ('vdpa "
                   "dev add ... max_vqp')", s->name, d->max_pairs,
                   (VIRTIO_QUEUE_MAX - 1) / 2);
        return false;
    }
    vqs = 2 * d->max_pairs + d->control;
    if (s->num_vqs != UINT32_MAX && s->num_vqs < vqs) {
        error_setg(errp, "vhost-vdpa device '%s': it has %u virtqueues, but "
                   "%u queue pairs%s need %u; its driver or firmware is "
                   "faulty", s->name, s->num_vqs, d->max_pairs,
                   d->control ? " and a control queue" : "", vqs);
        return false;
    }

    d->pairs = d->max_pairs;
    if (opts->has_queues) {
        if (opts->queues < 1) {
            error_setg(errp, "vhost-vdpa device '%s': queues=%" PRId64 " is "
                       "not a number of queue pairs; use 1 to %u", s->name,
                       opts->queues, d->pairs);
            return false;
        }
        if (opts->queues > d->pairs) {
            error_setg(errp, "vhost-vdpa device '%s': queues=%" PRId64 " was "
                       "asked for, but the device has %u queue pair%s; use "
                       "at most that many, or create the device with more "
                       "('vdpa dev add ... max_vqp')", s->name, opts->queues,
                       d->pairs, d->pairs > 1 ? "s" : "");
            return false;
        }
        d->pairs = opts->queues;
    }
    return true;
}

static NetClientState *new_client(VDPANetDevice *d, NetClientState *peer,
                                  const char *name, unsigned pair)
{
    bool control = pair == d->pairs;
    NetClientState *nc = control ?
        qemu_new_net_control_client(&vdpa_net_info, peer, TYPE_VHOST_VDPA,
                                    name) :
        qemu_new_net_client(&vdpa_net_info, peer, TYPE_VHOST_VDPA, name);
    VDPANetClient *c = client(nc);
    VhostNetOptions options = {
        .backend_type = VHOST_BACKEND_TYPE_VDPA,
        .net_backend = nc,
        .opaque = &c->vdpa,
        .nvqs = control ? 1 : 2,
    };

    nc->destructor = vdpa_net_destroy;
    nc->queue_index = pair;
    c->device = d;
    d->refs++;
    c->vdpa.shared = &d->shared;
    c->vdpa.control_vq = control ? 2 * d->max_pairs : 0;
    if (!pair) {
        d->first = nc;
        read_mac(d);
    }
    describe(c);
    c->vhost_net = vhost_net_init(&options);
    return nc;
}

int net_init_vhost_vdpa(const Netdev *netdev, const char *name,
                        NetClientState *peer, Error **errp)
{
    const NetdevVhostVDPAOptions *opts = &netdev->u.vhost_vdpa;
    g_autofree char *label = NULL;
    NetClientState *first = NULL;
    VDPANetDevice *d;
    int fd, ret = -1;
    unsigned i;

    if (opts->x_svq) {
        error_setg(errp, "vhost-vdpa: x-svq=on is not available: this version "
                   "has no shadow virtqueues yet; leave the option out");
        return -1;
    }
    fd = open_device(opts, &label, errp);
    if (fd < 0) {
        return -1;
    }

    d = g_new0(VDPANetDevice, 1);
    d->refs = 1;
    d->label = g_steal_pointer(&label);
    d->shared.device_fd = fd;
    d->shared.label = d->label;
    d->shared.merge_config = merge_config;
    d->shared.changed = device_changed;
    d->shared.opaque = d;

    if (!vhost_vdpa_shared_open(&d->shared, errp)) {
        goto out;
    }
    if (d->shared.device_id != VIRTIO_ID_NET) {
        error_setg(errp, "vhost-vdpa device '%s': its virtio device type is "
                   "%u%s, but -netdev needs a network device (%u); use "
                   "-device vhost-vdpa-device-pci,vhostdev=PATH for it",
                   d->shared.name, d->shared.device_id,
                   d->shared.device_id == VIRTIO_ID_BLOCK ?
                   " (block device)" : "", VIRTIO_ID_NET);
        goto out;
    }
    if (!count_queues(d, opts, errp)) {
        goto out;
    }
    for (i = 0; i < d->pairs + d->control; i++) {
        NetClientState *nc = new_client(d, peer, name, i);

        first = first ?: nc;
        if (!client(nc)->vhost_net) {
            error_setg(errp, "vhost-vdpa device '%s': cannot set up virtqueue "
                       "%u for the reason reported before", d->shared.name,
                       2 * i);
            /* Takes the others along */
            qemu_del_net_client(first);
            goto out;
        }
    }
    ret = 0;

out:
    device_unref(d);
    return ret;
}
