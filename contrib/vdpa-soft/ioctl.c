/*
 * vdpa-soft: the ioctls
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "compat.h"
#include "json.h"
#include "node-int.h"
#include "transcript.h"

/*
 * What is known of each, for the transcript
 */

typedef enum Arg {
    ARG_NONE,
    ARG_U8, ARG_U16, ARG_U32, ARG_U64,
    ARG_FD, ARG_STATE, ARG_FILE, ARG_ADDR, ARG_CONFIG, ARG_RANGE, ARG_MEM,
} Arg;

typedef struct CallInfo {
    const char *name;
    uint32_t cmd;
    Arg arg;
    bool in;            /* the argument is read */
    bool out;           /* the argument is written */
    const char *key;    /* what it is called in the transcript */
} CallInfo;

#define CALL(name, arg, in, out, key) \
    { #name, VHOST_##name, arg, in, out, key }
#define VCALL(name, arg, in, out, key) \
    { #name, VHOST_VDPA_##name, arg, in, out, key }
static const CallInfo calls[] = {
    CALL(GET_FEATURES, ARG_U64, false, true, "features"),
    CALL(SET_FEATURES, ARG_U64, true, false, "features"),
    CALL(SET_OWNER, ARG_NONE, false, false, NULL),
    CALL(RESET_OWNER, ARG_NONE, false, false, NULL),
    CALL(SET_MEM_TABLE, ARG_MEM, true, false, NULL),
    CALL(SET_LOG_BASE, ARG_U64, true, false, "base"),
    CALL(SET_LOG_FD, ARG_FD, true, false, NULL),
    CALL(SET_VRING_NUM, ARG_STATE, true, false, "num"),
    CALL(SET_VRING_ADDR, ARG_ADDR, true, false, NULL),
    CALL(SET_VRING_BASE, ARG_STATE, true, false, "num"),
    CALL(GET_VRING_BASE, ARG_STATE, true, true, "num"),
    CALL(SET_VRING_ENDIAN, ARG_STATE, true, false, "num"),
    CALL(GET_VRING_ENDIAN, ARG_STATE, true, false, "num"),
    CALL(SET_VRING_KICK, ARG_FILE, true, false, NULL),
    CALL(SET_VRING_CALL, ARG_FILE, true, false, NULL),
    CALL(SET_VRING_ERR, ARG_FILE, true, false, NULL),
    CALL(SET_VRING_BUSYLOOP_TIMEOUT, ARG_STATE, true, false, "num"),
    CALL(GET_VRING_BUSYLOOP_TIMEOUT, ARG_STATE, true, true, "num"),
    CALL(SET_BACKEND_FEATURES, ARG_U64, true, false, "features"),
    CALL(GET_BACKEND_FEATURES, ARG_U64, false, true, "features"),
    VCALL(GET_DEVICE_ID, ARG_U32, false, true, "id"),
    VCALL(GET_STATUS, ARG_U8, false, true, "status"),
    VCALL(SET_STATUS, ARG_U8, true, false, "status"),
    VCALL(GET_CONFIG, ARG_CONFIG, true, true, NULL),
    VCALL(SET_CONFIG, ARG_CONFIG, true, false, NULL),
    VCALL(SET_VRING_ENABLE, ARG_STATE, true, false, "num"),
    VCALL(GET_VRING_NUM, ARG_U16, false, true, "num"),
    VCALL(SET_CONFIG_CALL, ARG_FD, true, false, NULL),
    VCALL(GET_IOVA_RANGE, ARG_RANGE, false, true, NULL),
    VCALL(GET_CONFIG_SIZE, ARG_U32, false, true, "size"),
    VCALL(GET_AS_NUM, ARG_U32, false, true, "num"),
    VCALL(GET_VRING_GROUP, ARG_STATE, true, true, "group"),
    VCALL(SET_GROUP_ASID, ARG_STATE, true, false, "asid"),
    VCALL(SUSPEND, ARG_NONE, false, false, NULL),
    VCALL(RESUME, ARG_NONE, false, false, NULL),
    VCALL(GET_VRING_DESC_GROUP, ARG_STATE, true, true, "group"),
    VCALL(GET_VQS_COUNT, ARG_U32, false, true, "num"),
    VCALL(GET_GROUP_NUM, ARG_U32, false, true, "num"),
    VCALL(GET_VRING_SIZE, ARG_STATE, true, true, "num"),
    { "SET_FORK_FROM_OWNER", VS_SET_FORK_FROM_OWNER, ARG_U8, true, false,
      "value" },
    { "GET_FORK_FROM_OWNER", VS_GET_FORK_FROM_OWNER, ARG_U8, false, true,
      "value" },
};
#undef CALL
#undef VCALL

typedef union ArgData {
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    int fd;
    struct vhost_vring_state state;
    struct vhost_vring_file file;
    struct vhost_vring_addr addr;
    struct { uint32_t off, len; } config;
    struct vhost_vdpa_iova_range range;
    struct { uint32_t nregions, padding; } mem;
} ArgData;

/*
 * One call under way.
 *
 * @who: made it
 * @name: as in the transcript
 * @user: the client's argument
 * @data: its fixed part, read before the call if @in_ok
 * @args: members of the transcript's object
 * @bytes: configuration bytes, for the transcript
 * @why: a cause the kernel would not have told; g_malloc'd
 */
typedef struct Call {
    const VsCaller *who;
    const char *name;
    char name_buf[32];
    uint32_t cmd;
    const CallInfo *info;
    void *user;
    ArgData data;
    bool in_ok;
    GByteArray *bytes;
    char *why;
} Call;

static size_t arg_size(Arg arg)
{
    static const size_t size[] = {
        [ARG_U8] = 1, [ARG_U16] = 2, [ARG_U32] = 4, [ARG_U64] = 8,
        [ARG_FD] = sizeof(int),
        [ARG_STATE] = sizeof(struct vhost_vring_state),
        [ARG_FILE] = sizeof(struct vhost_vring_file),
        [ARG_ADDR] = sizeof(struct vhost_vring_addr),
        [ARG_CONFIG] = 8, [ARG_MEM] = 8,
        [ARG_RANGE] = sizeof(struct vhost_vdpa_iova_range),
    };

    return size[arg];
}

static void call_args_json(const Call *c, bool with_out, GString *s)
{
    const CallInfo *info = c->info;
    const ArgData *d = &c->data;
    bool known = info && ((info->in && c->in_ok) || (info->out && with_out));

    g_string_append_c(s, '{');
    if (known) {
        switch (info->arg) {
        case ARG_U8:
            vs_json_u64(s, info->key, d->u8);
            break;
        case ARG_U16:
            vs_json_u64(s, info->key, d->u16);
            break;
        case ARG_U32:
            vs_json_u64(s, info->key, d->u32);
            break;
        case ARG_U64:
            vs_json_u64(s, info->key, d->u64);
            break;
        case ARG_FD:
            vs_json_bool(s, "bound", d->fd != -1);
            break;
        case ARG_FILE:
            vs_json_u64(s, "index", d->file.index);
            vs_json_bool(s, "bound", d->file.fd != -1);
            break;
        case ARG_STATE:
            vs_json_u64(s, info->cmd == VHOST_VDPA_SET_GROUP_ASID ?
                        "group" : "index", d->state.index);
            /* what a query will write is not an argument of its failure */
            if (!info->out || with_out) {
                vs_json_u64(s, info->key, d->state.num);
            }
            break;
        case ARG_ADDR:
            vs_json_u64(s, "index", d->addr.index);
            vs_json_u64(s, "flags", d->addr.flags);
            vs_json_u64(s, "desc", d->addr.desc_user_addr);
            vs_json_u64(s, "avail", d->addr.avail_user_addr);
            vs_json_u64(s, "used", d->addr.used_user_addr);
            break;
        case ARG_CONFIG:
            vs_json_u64(s, "off", d->config.off);
            vs_json_u64(s, "len", d->config.len);
            if (c->bytes && (with_out || !info->out)) {
                vs_json_key(s, "data");
                vs_json_hex(s, c->bytes->data, c->bytes->len);
            }
            break;
        case ARG_RANGE:
            vs_json_u64(s, "first", d->range.first);
            vs_json_u64(s, "last", d->range.last);
            break;
        case ARG_MEM:
            vs_json_u64(s, "nregions", d->mem.nregions);
            break;
        case ARG_NONE:
            break;
        }
    }
    g_string_append_c(s, '}');
}

/*
 * ioctls.  All of these are called with the node locked and return 0 or a
 * negative errno.
 */

static int copy_out(Call *c, size_t size)
{
    return vs_caller_store(c->who, c->user, &c->data, size) ? 0 : -EFAULT;
}

static int ioctl_set_backend_features(VsNode *n, Call *c)
{
    const struct {
        unsigned bit;
        bool offered;
    } optional[] = {
        { VHOST_BACKEND_F_SUSPEND, n->cfg->suspend },
        { VHOST_BACKEND_F_RESUME, n->cfg->resume },
        { VHOST_BACKEND_F_DESC_ASID, n->cfg->desc_group },
        { VHOST_BACKEND_F_IOTLB_PERSIST, n->cfg->persist },
    };
    const uint64_t known = 0x1fe;
    uint64_t features = c->data.u64;
    size_t i;

    if (!c->in_ok) {
        return -EFAULT;
    }
    if (features & ~known) {
        return -EOPNOTSUPP;
    }
    if (features & 1ULL << VHOST_BACKEND_F_DESC_ASID &&
        !(features & 1ULL << VHOST_BACKEND_F_IOTLB_ASID)) {
        return -EINVAL;
    }
    for (i = 0; i < G_N_ELEMENTS(optional); i++) {
        if (features & 1ULL << optional[i].bit && !optional[i].offered) {
            return -EOPNOTSUPP;
        }
    }
    if (n->cfg->backend_set &&
        features & ~(n->cfg->backend_features |
                     1ULL << VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK)) {
        return -EOPNOTSUPP;
    }
    n->backend_acked = features;
    return 0;
}

static int ioctl_set_features(VsNode *n, Call *c)
{
    uint64_t features = c->data.u64;
    uint64_t stray = features & ~n->cfg->features;

    if (n->status & VS_S_FEATURES_OK) {
        return -EBUSY;
    }
    if (!c->in_ok) {
        return -EFAULT;
    }
    if (n->cfg->need_access_platform && n->cfg->features & VS_F_ACCESS_PLATFORM
        && !(features & VS_F_ACCESS_PLATFORM)) {
        c->why = g_strdup("the driver insists on ACCESS_PLATFORM");
        return -EINVAL;
    }
    if (n->cfg->need_ctrl_vq_for_mq && features & VS_F_MQ &&
        !(features & VS_F_CTRL_VQ)) {
        c->why = g_strdup("MQ needs CTRL_VQ");
        return -EINVAL;
    }
    if (stray && n->cfg->stray == VS_STRAY_REJECT) {
        c->why = g_strdup_printf("0x%" PRIx64 " is not offered", stray);
        return -EINVAL;
    }
    vs_net_set_features(n->net, features);
    n->stray = stray && n->cfg->stray == VS_STRAY_REFUSE;
    n->features_copy = n->cfg->stray == VS_STRAY_REFUSE ?
                       features : vs_net_features(n->net);
    vs_driver_apply_asids(n);
    return 0;
}

static int ioctl_set_status(VsNode *n, Call *c)
{
    uint8_t status = c->data.u8, before = n->status;
    bool start;

    if (!c->in_ok) {
        return -EFAULT;
    }
    if (status == 0) {
        vs_driver_reset(n, !(n->backend_acked &
                          1ULL << VHOST_BACKEND_F_IOTLB_PERSIST));
        n->suspended = false;
        return 0;
    }
    if (before & ~status) {
        c->why = g_strdup_printf("status is %u: only 0 can take bits away",
                                 before);
        return -EINVAL;
    }
    start = status & ~before & VS_S_DRIVER_OK;
    if (start && n->cfg->fail_driver_ok) {
        if (n->cfg->failure_shows) {
            n->status |= VS_S_FAILED;
        }
        if (n->cfg->like == VS_LIKE_MLX5) {
            unsigned i;

            for (i = 0; i < n->cfg->as_num; i++) {
                vs_driver_reset_map(n, i);
            }
        }
        return 0;
    }
    status &= ~n->cfg->refuse_status | before;
    if (n->stray) {
        status &= ~VS_S_FEATURES_OK | before;
    }
    n->status = status;
    if (status & VS_S_DRIVER_OK && n->cfg->status_resumes && n->dev_suspended) {
        bool pending = n->kick_pending;

        /* a status write wakes it, but leaves kicks to a later resume */
        n->dev_suspended = false;
        n->kick_pending = false;
        vs_driver_update_running(n);
        n->kick_pending = pending;
    }
    vs_driver_update_running(n);
    if (start && status & VS_S_DRIVER_OK && n->cfg->config_irq_spurious) {
        vs_driver_config_changed(n);
    }
    return 0;
}

static size_t config_size(const VsNode *n)
{
    return n->cfg->config_size >= 0 ? (size_t)n->cfg->config_size
                                    : vs_net_config_size(n->net);
}

static int ioctl_config(VsNode *n, Call *c, bool write)
{
    uint32_t off = c->data.config.off, len = c->data.config.len;
    size_t real = vs_net_config_size(n->net), size = config_size(n), part;
    uint8_t *user = (uint8_t *)c->user + 8;

    if (!c->in_ok) {
        return -EFAULT;
    }
    if (len == 0 || off > size || len > size - off) {
        return -EINVAL;
    }
    c->bytes = g_byte_array_new();
    g_byte_array_set_size(c->bytes, len);
    memset(c->bytes->data, 0, len);
    /* bytes the network device does not have read as zero */
    part = off < real ? MIN(len, real - off) : 0;
    if (write) {
        if (!vs_caller_load(c->who, c->bytes->data, user, len)) {
            return -EFAULT;
        }
        if (part && n->cfg->config_writable) {
            vs_net_config_write(n->net, off, c->bytes->data, part);
        }
        return 0;
    }
    if (part) {
        vs_net_config_read(n->net, off, c->bytes->data, part);
    }
    return vs_caller_store(c->who, user, c->bytes->data, len) ? 0 : -EFAULT;
}

static int ioctl_set_config_call(VsNode *n, Call *c)
{
    int fd, ret;

    if (!c->in_ok) {
        return -EFAULT;
    }
    ret = vs_eventfd_get(c->who, c->data.fd, &fd);
    /* a bad descriptor still drops the good one */
    vs_close_fd(&n->config_fd);
    n->config_installed = false;
    n->config_fd = fd;
    n->config_installed = fd >= 0;
    return ret;
}

static int ioctl_suspend(VsNode *n, bool suspend)
{
    unsigned i;

    if (!(n->status & VS_S_DRIVER_OK)) {
        return 0;
    }
    if (suspend ? !n->cfg->suspend : !n->cfg->resume) {
        return -EOPNOTSUPP;
    }
    n->suspended = suspend;
    n->dev_suspended = suspend;
    if (suspend && n->cfg->resume_leaves_ctrl) {
        for (i = 0; i < n->nvqs; i++) {
            if (vs_driver_is_ctrl(n, i)) {
                n->vq[i].ready = false;
                vs_net_vq_enable(n->net, i, false);
            }
        }
    }
    if (!suspend && n->running && n->kick_pending) {
        /* it was not suspended any more */
        n->kick_pending = false;
        vs_net_set_running(n->net, true, true);
    }
    vs_driver_update_running(n);
    if (!suspend && n->cfg->config_irq_spurious) {
        vs_driver_config_changed(n);
    }
    return 0;
}

static int ioctl_mem_table(Call *c)
{
    g_autofree struct vhost_memory_region *region = NULL;
    size_t size;

    if (!c->in_ok) {
        return -EFAULT;
    }
    if (c->data.mem.padding) {
        return -EOPNOTSUPP;
    }
    if (c->data.mem.nregions > 64) {
        return -E2BIG;
    }
    size = c->data.mem.nregions * sizeof(*region);
    region = g_malloc(size);
    return vs_caller_load(c->who, region, (char *)c->user + 8, size) ? 0
                                                                     : -EFAULT;
}

/* Those that need no owner.  Returns 1 if the command is another kind. */
static int ioctl_vdpa(VsNode *n, Call *c)
{
    ArgData *d = &c->data;

    switch (c->cmd) {
    case VHOST_SET_BACKEND_FEATURES:
        return ioctl_set_backend_features(n, c);
    case VHOST_GET_BACKEND_FEATURES:
        d->u64 = n->cfg->backend_features;
        return copy_out(c, 8);
    case VHOST_GET_FEATURES:
        d->u64 = n->cfg->features;
        return copy_out(c, 8);
    case VHOST_SET_FEATURES:
        return ioctl_set_features(n, c);
    case VHOST_SET_LOG_BASE:
    case VHOST_SET_LOG_FD:
        return -ENOTTY;
    case VHOST_VDPA_GET_DEVICE_ID:
        d->u32 = n->cfg->device_id;
        return copy_out(c, 4);
    case VHOST_VDPA_GET_STATUS:
        d->u8 = n->status;
        return copy_out(c, 1);
    case VHOST_VDPA_SET_STATUS:
        return ioctl_set_status(n, c);
    case VHOST_VDPA_GET_CONFIG:
        return ioctl_config(n, c, false);
    case VHOST_VDPA_SET_CONFIG:
        return ioctl_config(n, c, true);
    case VHOST_VDPA_GET_VRING_NUM:
        d->u16 = n->cfg->vq_num;
        return copy_out(c, 2);
    case VHOST_VDPA_SET_CONFIG_CALL:
        return ioctl_set_config_call(n, c);
    case VHOST_VDPA_GET_IOVA_RANGE:
        d->range.first = n->cfg->iova_first;
        d->range.last = n->cfg->iova_last;
        return copy_out(c, sizeof(d->range));
    case VHOST_VDPA_GET_CONFIG_SIZE:
        d->u32 = config_size(n);
        return copy_out(c, 4);
    case VHOST_VDPA_GET_AS_NUM:
        d->u32 = n->cfg->as_num;
        return copy_out(c, 4);
    case VHOST_VDPA_GET_GROUP_NUM:
        d->u32 = n->ngroups;
        return copy_out(c, 4);
    case VHOST_VDPA_GET_VQS_COUNT:
        d->u32 = n->cfg->vqs >= 0 ? (uint32_t)n->cfg->vqs : n->nvqs;
        return copy_out(c, 4);
    case VHOST_VDPA_SUSPEND:
        return ioctl_suspend(n, true);
    case VHOST_VDPA_RESUME:
        return ioctl_suspend(n, false);
    default:
        return 1;
    }
}

/* Those of the common vhost layer.  Returns 1 for another kind. */
static int ioctl_common(VsNode *n, Call *c)
{
    switch (c->cmd) {
    case VHOST_SET_OWNER:
        if (n->owner) {
            return -EBUSY;
        }
        n->owner = c->who->id;
        return 0;
    case VS_SET_FORK_FROM_OWNER:
        if (n->owner) {
            return -EBUSY;
        }
        if (!c->in_ok) {
            return -EFAULT;
        }
        if (c->data.u8 > 1) {
            return -EINVAL;
        }
        n->fork_owner = c->data.u8;
        return 0;
    case VS_GET_FORK_FROM_OWNER:
        c->data.u8 = n->fork_owner;
        return copy_out(c, 1);
    }
    if (n->owner != c->who->id) {
        return -EPERM;
    }
    return c->cmd == VHOST_SET_MEM_TABLE ? ioctl_mem_table(c) : 1;
}

static int vring_set_addr(VsNode *n, unsigned i, Call *c)
{
    const struct vhost_vring_addr *a = &c->data.addr;

    if (a->flags & ~(1u << VHOST_VRING_F_LOG)) {
        return -EOPNOTSUPP;
    }
    if (a->avail_user_addr & 1 || a->used_user_addr & 3 ||
        a->log_guest_addr & 3) {
        return -EINVAL;
    }
    if (n->status & VS_S_DRIVER_OK && !n->suspended) {
        c->why = g_strdup("addresses cannot change while the device runs");
        return -EINVAL;
    }
    if (!vs_driver_index_valid(n, i)) {
        return -EINVAL;
    }
    vs_net_vq_set_addr(n->net, i, a->desc_user_addr, a->avail_user_addr,
                       a->used_user_addr);
    return 0;
}

static int vring_set_base(VsNode *n, unsigned i, Call *c)
{
    bool packed = n->features_copy & VS_F_RING_PACKED;
    uint32_t base = c->data.state.num;

    if (!packed && base > 0xffff) {
        return -EINVAL;
    }
    if (n->status & VS_S_DRIVER_OK && !n->suspended) {
        c->why = g_strdup("the base cannot change while the device runs");
        return -EINVAL;
    }
    if (n->cfg->base_unsupported &&
        (!(n->status & VS_S_FEATURES_OK) || n->vq[i].ready ||
         base != (packed ? 0x80008000 : 0))) {
        return -EOPNOTSUPP;
    }
    if (n->cfg->base_checked &&
        (!vs_driver_index_valid(n, i) || (n->vq[i].ready && n->running))) {
        return -EINVAL;
    }
    vs_net_vq_set_base(n->net, i, base, packed);
    return 0;
}

static int vring_get_base(VsNode *n, unsigned i, Call *c)
{
    bool packed = n->features_copy & VS_F_RING_PACKED;

    if (n->cfg->base_unsupported) {
        return -EOPNOTSUPP;
    }
    if (n->cfg->base_checked && !vs_driver_index_valid(n, i)) {
        return -EINVAL;
    }
    c->data.state.num = vs_net_vq_base(n->net, i, packed);
    if (n->cfg->base_is_used && !packed) {
        VsVqStats stats;

        vs_net_vq_stats(n->net, i, &stats);
        c->data.state.num = stats.used_idx;
    }
    return copy_out(c, sizeof(c->data.state));
}

static int vring_set_file(VsNode *n, unsigned i, Call *c)
{
    VsVq *vq = &n->vq[i];
    int fd, ret = vs_eventfd_get(c->who, c->data.file.fd, &fd);

    if (ret < 0) {
        return ret;
    }
    switch (c->cmd) {
    case VHOST_SET_VRING_KICK:
        return vs_kick_set(n, i, fd);
    case VHOST_SET_VRING_CALL:
        vs_close_fd(&vq->call_fd);
        vq->call_fd = fd;
        vq->call_installed = fd >= 0;
        return 0;
    default:
        vs_close_fd(&vq->err_fd);
        vq->err_fd = fd;
        return 0;
    }
}

static int vring_enable(VsNode *n, unsigned i, bool enable)
{
    uint64_t features = vs_net_features(n->net);

    if (n->cfg->index_by_features &&
        (!features || !vs_driver_index_valid(n, i))) {
        return 0;
    }
    if (enable && n->status & VS_S_DRIVER_OK &&
        !n->cfg->enable_after_driver_ok) {
        /* such a driver looks at it once, at DRIVER_OK */
        return 0;
    }
    n->vq[i].ready = enable;
    vs_net_vq_enable(n->net, i, enable);
    return 0;
}

static int vring_set_num(VsNode *n, unsigned i, Call *c)
{
    uint32_t num = c->data.state.num;

    if (num == 0 || num > 32768 || num & (num - 1) ||
        (n->cfg->vq_num_checked && num > n->cfg->vq_num)) {
        return -EINVAL;
    }
    if (vs_driver_index_valid(n, i)) {
        vs_net_vq_set_num(n->net, i, num);
    }
    return 0;
}

static int ioctl_vring(VsNode *n, Call *c)
{
    struct vhost_vring_state *state = &c->data.state;
    VsVqStats stats;
    uint32_t limit = n->nvqs, i;

    if (n->cfg->vqs >= 0 && n->cfg->vqs < limit) {
        limit = n->cfg->vqs;
    }
    if (c->cmd == VHOST_SET_VRING_NUM && !c->in_ok) {
        return -EFAULT;
    }
    if (c->in_ok && c->info && arg_size(c->info->arg) >= 4) {
        i = state->index;
    } else if (!vs_caller_load(c->who, &i, c->user, sizeof(i))) {
        return -EFAULT;
    }
    if (i >= limit) {
        return -ENOBUFS;
    }
    if (!c->in_ok && c->info && c->info->in) {
        if (!c->info->out && c->info->cmd != VHOST_SET_VRING_ENDIAN &&
            c->info->cmd != VHOST_GET_VRING_ENDIAN) {
            return -EFAULT;
        }
        /* of a query, nothing but the index is read */
        state->index = i;
    }

    switch (c->cmd) {
    case VHOST_VDPA_SET_VRING_ENABLE:
        return vring_enable(n, i, state->num);
    case VHOST_VDPA_GET_VRING_GROUP:
        if (!n->cfg->groups) {
            return -EOPNOTSUPP;
        }
        state->num = vs_driver_group(n, i);
        return copy_out(c, sizeof(*state));
    case VHOST_VDPA_GET_VRING_DESC_GROUP:
        if (!n->cfg->desc_group) {
            return -EOPNOTSUPP;
        }
        state->num = vs_driver_desc_group(n, i);
        return copy_out(c, sizeof(*state));
    case VHOST_VDPA_SET_GROUP_ASID:
        if (i >= n->ngroups || state->num >= n->cfg->as_num) {
            return -EINVAL;
        }
        if (!n->cfg->groups) {
            return -EOPNOTSUPP;
        }
        n->group_asid[i] = state->num;
        vs_driver_apply_asids(n);
        return 0;
    case VHOST_VDPA_GET_VRING_SIZE:
        if (!n->cfg->vq_size) {
            return -EOPNOTSUPP;
        }
        vs_net_vq_stats(n->net, i, &stats);
        if (n->cfg->size_driver_ok ? !(n->status & VS_S_DRIVER_OK)
                                   : !stats.num) {
            stats.num = n->cfg->vq_num;
        }
        state->num = stats.num;
        return copy_out(c, sizeof(*state));
    case VHOST_GET_VRING_BASE:
        return vring_get_base(n, i, c);
    case VHOST_SET_VRING_BASE:
        return vring_set_base(n, i, c);
    case VHOST_SET_VRING_NUM:
        return vring_set_num(n, i, c);
    case VHOST_SET_VRING_ADDR:
        return vring_set_addr(n, i, c);
    case VHOST_SET_VRING_KICK:
    case VHOST_SET_VRING_CALL:
    case VHOST_SET_VRING_ERR:
        return vring_set_file(n, i, c);
    case VHOST_SET_VRING_BUSYLOOP_TIMEOUT:
        n->vq[i].busyloop = state->num;
        return 0;
    case VHOST_GET_VRING_BUSYLOOP_TIMEOUT:
        state->num = n->vq[i].busyloop;
        return copy_out(c, sizeof(*state));
    default:
        return -ENOTTY;
    }
}

static void call_begin(Call *c, const VsCaller *who, uint32_t cmd, void *user)
{
    size_t i;

    memset(c, 0, sizeof(*c));
    c->who = who;
    c->cmd = cmd;
    c->user = user;
    for (i = 0; i < G_N_ELEMENTS(calls); i++) {
        if (calls[i].cmd == cmd) {
            c->info = &calls[i];
            c->name = c->info->name;
        }
    }
    if (!c->info) {
        snprintf(c->name_buf, sizeof(c->name_buf), "IOCTL_0x%08X", cmd);
        c->name = c->name_buf;
    } else if (c->info->in) {
        c->in_ok = vs_caller_load(who, &c->data, user,
                                  arg_size(c->info->arg));
    }
}

static void call_end(VsNode *n, Call *c, int ret)
{
    GString *args = g_string_new(NULL);

    call_args_json(c, ret == 0, args);
    vs_transcript_add(n->index, c->name, args->str, ret < 0 ? -1 : ret,
                      ret < 0 ? -ret : 0, c->why);
    g_string_free(args, true);
    if (c->bytes) {
        g_byte_array_free(c->bytes, true);
    }
    g_free(c->why);
    vs_node_wake(n);
}

int vs_node_ioctl_for(VsNode *n, const VsCaller *who, uint32_t cmd, void *arg)
{
    Call c;
    int ret;

    pthread_mutex_lock(&n->call_lock);
    call_begin(&c, who, cmd, arg);
    ret = -vs_call_injected(n, c.name);
    vs_call_delay(n, c.name);
    /* what it does to a kick depends on which was first */
    vs_events_sync();

    vs_node_lock(n);
    n->ioctls++;
    if (!n->open) {
        /*
         * Another thread closed it while this one was on its way, or the
         * server did while another process has the descriptor still.
         */
        ret = who->fd >= 0 ? -EIO : -EBADF;
    } else if (ret == 0) {
        ret = ioctl_vdpa(n, &c);
        if (ret == 1) {
            ret = ioctl_common(n, &c);
        }
        if (ret == 1) {
            ret = ioctl_vring(n, &c);
        }
    } else {
        c.why = g_strdup("injected");
    }
    vs_node_unlock(n);
    call_end(n, &c, ret);
    pthread_mutex_unlock(&n->call_lock);
    return ret;
}

int vs_node_ioctl(VsNode *n, int fd, uint32_t cmd, void *arg)
{
    VsCaller self = vs_caller_self();
    int ret = vs_node_served(n, fd);

    if (ret < 0) {
        return ret;
    }
    return ret ? vs_node_ioctl_for(n, &self, cmd, arg)
               : vs_remote_ioctl(fd, cmd, arg);
}
