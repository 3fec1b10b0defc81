/*
 * vdpa-soft: how a node is made, as the launcher and the library see it
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include "compat.h"
#include "config.h"

/* Feature bits by number: headers of all supported ages know the names. */
typedef struct VsName {
    const char *name;
    uint64_t value;
} VsName;

static const VsName feature_names[] = {
    { "CSUM", 0 },
    { "GUEST_CSUM", 1 },
    { "CTRL_GUEST_OFFLOADS", 2 },
    { "MTU", 3 },
    { "MAC", 5 },
    { "GUEST_TSO4", 7 },
    { "GUEST_TSO6", 8 },
    { "GUEST_ECN", 9 },
    { "GUEST_UFO", 10 },
    { "HOST_TSO4", 11 },
    { "HOST_TSO6", 12 },
    { "HOST_ECN", 13 },
    { "HOST_UFO", 14 },
    { "MRG_RXBUF", 15 },
    { "STATUS", 16 },
    { "CTRL_VQ", 17 },
    { "CTRL_RX", 18 },
    { "CTRL_VLAN", 19 },
    { "CTRL_RX_EXTRA", 20 },
    { "GUEST_ANNOUNCE", 21 },
    { "MQ", 22 },
    { "CTRL_MAC_ADDR", 23 },
    { "NOTIFY_ON_EMPTY", 24 },
    { "LOG_ALL", 26 },
    { "ANY_LAYOUT", 27 },
    { "INDIRECT_DESC", 28 },
    { "EVENT_IDX", 29 },
    { "VERSION_1", 32 },
    { "ACCESS_PLATFORM", 33 },
    { "RING_PACKED", 34 },
    { "IN_ORDER", 35 },
    { "ORDER_PLATFORM", 36 },
    { "SR_IOV", 37 },
    { "NOTIFICATION_DATA", 38 },
    { "NOTIF_CONFIG_DATA", 39 },
    { "RING_RESET", 40 },
    { "HASH_REPORT", 57 },
    { "RSS", 60 },
    { "RSC_EXT", 61 },
    { "STANDBY", 62 },
    { "SPEED_DUPLEX", 63 },
};

#define BIT(n) (1ULL << (n))
#define F_MTU              BIT(3)
#define F_MAC              BIT(5)
#define F_MRG_RXBUF        BIT(15)
#define F_STATUS           BIT(16)
#define F_CTRL_VQ          BIT(17)
#define F_CTRL_RX          BIT(18)
#define F_CTRL_VLAN        BIT(19)
#define F_CTRL_RX_EXTRA    BIT(20)
#define F_GUEST_ANNOUNCE   BIT(21)
#define F_MQ               BIT(22)
#define F_CTRL_MAC_ADDR    BIT(23)
#define F_ANY_LAYOUT       BIT(27)
#define F_INDIRECT_DESC    BIT(28)
#define F_EVENT_IDX        BIT(29)
#define F_VERSION_1        BIT(32)
#define F_ACCESS_PLATFORM  BIT(33)
#define F_RING_PACKED      BIT(34)

#define F_MODERN (F_VERSION_1 | F_ACCESS_PLATFORM)
#define F_FULL (F_MODERN | F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS |     \
                F_CTRL_VQ | F_CTRL_RX | F_CTRL_VLAN | F_CTRL_RX_EXTRA | \
                F_GUEST_ANNOUNCE | F_CTRL_MAC_ADDR | F_ANY_LAYOUT |     \
                F_INDIRECT_DESC | F_EVENT_IDX | F_RING_PACKED)

#define E(name) { #name, name }
static const VsName errno_names[] = {
    E(EPERM), E(ENOENT), E(EINTR), E(EIO), E(ENXIO), E(E2BIG), E(EBADF),
    E(EAGAIN), E(ENOMEM), E(EACCES), E(EFAULT), E(EBUSY), E(EEXIST),
    E(EXDEV), E(ENODEV), E(EINVAL), E(ENFILE), E(EMFILE), E(ENOTTY),
    E(EFBIG), E(ENOSPC), E(ESPIPE), E(EROFS), E(EPIPE), E(EDOM), E(ERANGE),
    E(ENOSYS), E(EOVERFLOW), E(ENOBUFS), E(EOPNOTSUPP), E(ETIMEDOUT),
    E(ECANCELED), E(EPROTO), E(ECONNREFUSED), E(ECONNRESET), E(EALREADY),
    { "ENOTSUPP", VS_ENOTSUPP }, { "ENOTSUP", EOPNOTSUPP },
};
#undef E

enum {
    CAP_SUSPEND,
    CAP_RESUME,
    CAP_ENABLE,
    CAP_DESC,
    CAP_PERSIST,
};

static const unsigned capability_bit[] = {
    [CAP_SUSPEND] = VHOST_BACKEND_F_SUSPEND,
    [CAP_RESUME] = VHOST_BACKEND_F_RESUME,
    [CAP_ENABLE] = VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK,
    [CAP_DESC] = VHOST_BACKEND_F_DESC_ASID,
    [CAP_PERSIST] = VHOST_BACKEND_F_IOTLB_PERSIST,
};

static bool *capability(VsNodeConfig *config, unsigned cap)
{
    switch (cap) {
    case CAP_SUSPEND:
        return &config->suspend;
    case CAP_RESUME:
        return &config->resume;
    case CAP_ENABLE:
        return &config->enable_after_driver_ok;
    case CAP_DESC:
        return &config->desc_group;
    default:
        return &config->persist;
    }
}

const char *vs_errno_name(int err)
{
    static __thread char number[24];
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(errno_names); i++) {
        if (errno_names[i].value == (uint64_t)err) {
            return errno_names[i].name;
        }
    }
    snprintf(number, sizeof(number), "errno %d", err);
    return number;
}

bool vs_parse_u64(const char *text, bool hex, uint64_t *value)
{
    bool prefixed = g_str_has_prefix(text, "0x") ||
                    g_str_has_prefix(text, "0X");
    const char *digits = prefixed ? text + 2 : text;
    guint64 v;
    size_t i;

    for (i = 0; digits[i]; i++) {
        if (hex || prefixed ? !g_ascii_isxdigit(digits[i])
                            : !g_ascii_isdigit(digits[i])) {
            return false;
        }
    }
    if (i == 0) {
        return false;
    }
    errno = 0;
    v = g_ascii_strtoull(digits, NULL, hex || prefixed ? 16 : 10);
    if (errno) {
        return false;
    }
    *value = v;
    return true;
}

bool vs_parse_ms(const char *text, unsigned *ms)
{
    uint64_t v;

    if (!vs_parse_u64(text, false, &v) || v > 3600000) {
        return false;
    }
    *ms = v;
    return true;
}

/* close() of a device cannot fail, so CLOSE is none of them */
static const char *const call_names[] = {
    "OPEN", "MMAP", "SET_OWNER", "RESET_OWNER", "GET_FEATURES",
    "SET_FEATURES", "GET_BACKEND_FEATURES", "SET_BACKEND_FEATURES",
    "SET_MEM_TABLE", "SET_LOG_BASE", "SET_LOG_FD", "GET_DEVICE_ID",
    "GET_STATUS", "SET_STATUS", "GET_CONFIG", "SET_CONFIG",
    "GET_CONFIG_SIZE", "SET_CONFIG_CALL", "GET_VRING_NUM",
    "GET_VRING_SIZE", "SET_VRING_ENABLE", "SET_VRING_NUM", "SET_VRING_BASE",
    "GET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_KICK", "SET_VRING_CALL",
    "SET_VRING_ERR", "SET_VRING_ENDIAN", "GET_VRING_ENDIAN",
    "SET_VRING_BUSYLOOP_TIMEOUT", "GET_VRING_BUSYLOOP_TIMEOUT",
    "GET_IOVA_RANGE", "GET_AS_NUM", "GET_GROUP_NUM", "GET_VQS_COUNT",
    "GET_VRING_GROUP", "GET_VRING_DESC_GROUP", "SET_GROUP_ASID", "SUSPEND",
    "RESUME", "SET_FORK_FROM_OWNER", "GET_FORK_FROM_OWNER",
    "IOTLB_UPDATE", "IOTLB_INVALIDATE", "IOTLB_BATCH_BEGIN",
    "IOTLB_BATCH_END",
};

bool vs_call_is_valid(const char *call)
{
    uint64_t number;
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(call_names); i++) {
        if (!strcmp(call_names[i], call)) {
            return true;
        }
    }
    /* those without a name of their own */
    if (g_str_has_prefix(call, "IOCTL_0x")) {
        return strlen(call) == strlen("IOCTL_0x") + 8 &&
               vs_parse_u64(call + strlen("IOCTL_"), false, &number);
    }
    return g_str_has_prefix(call, "IOTLB_MSG_") &&
           vs_parse_u64(call + strlen("IOTLB_MSG_"), false, &number);
}

bool vs_rule_parse(VsRule *rule, const char *call, const char *occurrence,
                   const char *err, bool always, char **error)
{
    uint64_t number;
    size_t i;

    memset(rule, 0, sizeof(*rule));
    if (!vs_call_is_valid(call)) {
        *error = g_strdup_printf("'%s' is not a call that can fail; use a "
                                 "name from the transcript, such as "
                                 "SET_STATUS", call);
        return false;
    }
    if (!vs_parse_u64(occurrence, false, &rule->occurrence) ||
        rule->occurrence == 0) {
        *error = g_strdup_printf("occurrence '%s' of %s is not a number "
                                 "from 1", occurrence, call);
        return false;
    }
    for (i = 0; i < G_N_ELEMENTS(errno_names); i++) {
        if (!strcmp(errno_names[i].name, err)) {
            rule->err = errno_names[i].value;
        }
    }
    if (!rule->err) {
        if (!vs_parse_u64(err, false, &number) || number == 0 ||
            number > 4095) {
            *error = g_strdup_printf("errno '%s' for %s is neither a name "
                                     "such as EIO nor a number from 1 to "
                                     "4095", err, call);
            return false;
        }
        rule->err = number;
    }
    rule->call = g_strdup(call);
    rule->always = always;
    return true;
}

static bool parse_on_off(const char *value, bool *result)
{
    if (!strcmp(value, "on")) {
        *result = true;
    } else if (!strcmp(value, "off")) {
        *result = false;
    } else {
        return false;
    }
    return true;
}

static bool parse_mac(const char *value, uint8_t mac[6])
{
    unsigned i;

    for (i = 0; i < 6; i++) {
        if (!g_ascii_isxdigit(value[0]) || !g_ascii_isxdigit(value[1]) ||
            value[2] != (i == 5 ? '\0' : ':')) {
            return false;
        }
        mac[i] = g_ascii_xdigit_value(value[0]) * 16 +
                 g_ascii_xdigit_value(value[1]);
        value += 3;
    }
    return !(mac[0] & 1);
}

static bool parse_feature(const char *value, uint64_t *mask)
{
    const char *name = value;
    uint64_t bit;
    size_t i;

    if (g_str_has_prefix(name, "VIRTIO_NET_F_")) {
        name += strlen("VIRTIO_NET_F_");
    } else if (g_str_has_prefix(name, "VIRTIO_F_")) {
        name += strlen("VIRTIO_F_");
    }
    for (i = 0; i < G_N_ELEMENTS(feature_names); i++) {
        if (!g_ascii_strcasecmp(feature_names[i].name, name)) {
            *mask = BIT(feature_names[i].value);
            return true;
        }
    }
    if (!vs_parse_u64(value, false, &bit) || bit > 63) {
        return false;
    }
    *mask = BIT(bit);
    return true;
}

static bool parse_range(const char *value, uint64_t *first, uint64_t *last)
{
    g_auto(GStrv) part = g_strsplit(value, "-", 2);

    return part[0] && part[1] && vs_parse_u64(part[0], true, first) &&
           vs_parse_u64(part[1], true, last);
}

static void set_like(VsNodeConfig *c, VsLike like)
{
    c->like = like;

    /* soft: everything offered, every lenience withdrawn */
    c->map = VS_MAP_VA;
    c->set_map = true;
    c->platform_iommu = false;
    c->persist = true;
    c->suspend = true;
    c->resume = true;
    c->vq_size = true;
    c->groups = true;
    c->desc_group = true;
    c->doorbell = false;
    c->enable_after_driver_ok = true;
    c->passthrough = false;
    c->features = F_FULL;
    c->vq_num = 1024;
    c->vq_num_checked = false;
    c->as_num = 2;
    c->base_unsupported = false;
    c->clean_map_on_reset = true;
    c->reset_num = VS_NUM_FORGET;
    c->reset_drops_call = true;
    c->reset_drops_config_call = true;
    c->config_irq = true;
    c->config_irq_driver_ok = false;
    c->config_irq_spurious = false;
    c->config_writable = true;
    c->need_access_platform = true;
    c->need_ctrl_vq_for_mq = true;
    c->stray = VS_STRAY_REJECT;
    c->failure_shows = true;
    c->status_resumes = false;
    c->size_driver_ok = false;
    c->index_by_features = false;
    c->resume_leaves_ctrl = false;
    c->base_is_used = false;
    c->base_checked = false;
    c->max_frame = 0;
    c->simulator = false;

    switch (like) {
    case VS_LIKE_SOFT:
        break;
    case VS_LIKE_SIM:
        c->vq_size = false;
        c->desc_group = false;
        c->passthrough = true;
        c->features = F_MODERN | F_MTU | F_MAC | F_STATUS | F_CTRL_VQ |
                      F_CTRL_MAC_ADDR | F_ANY_LAYOUT;
        c->vq_num = 256;
        c->vq_num_checked = true;
        c->reset_drops_config_call = false;
        c->config_irq = false;
        c->need_ctrl_vq_for_mq = false;
        c->stray = VS_STRAY_MASK;
        c->reset_num = VS_NUM_KEEP;
        c->failure_shows = false;
        c->status_resumes = true;
        c->size_driver_ok = true;
        c->max_frame = 4096;
        c->simulator = true;
        break;
    case VS_LIKE_VDUSE:
        c->persist = false;
        c->suspend = false;
        c->resume = false;
        c->groups = false;
        c->desc_group = false;
        c->enable_after_driver_ok = false;
        c->features = F_MODERN | F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS |
                      F_ANY_LAYOUT | F_INDIRECT_DESC | F_EVENT_IDX |
                      F_RING_PACKED;
        c->vq_num = 1024;
        c->clean_map_on_reset = false;
        c->config_irq_driver_ok = true;
        c->config_writable = false;
        c->failure_shows = false;
        c->need_access_platform = false;
        c->need_ctrl_vq_for_mq = false;
        c->stray = VS_STRAY_REFUSE;
        break;
    case VS_LIKE_VP_VDPA:
        c->map = VS_MAP_PA;
        c->set_map = false;
        c->platform_iommu = true;
        c->suspend = false;
        c->resume = false;
        c->groups = false;
        c->desc_group = false;
        c->enable_after_driver_ok = false;
        c->vq_num = 256;
        c->base_unsupported = true;
        c->clean_map_on_reset = false;
        c->config_irq_driver_ok = true;
        c->reset_num = VS_NUM_DEFAULT;
        c->failure_shows = false;
        c->reset_drops_call = false;
        c->reset_drops_config_call = false;
        c->need_access_platform = false;
        c->need_ctrl_vq_for_mq = false;
        c->stray = VS_STRAY_REFUSE;
        break;
    case VS_LIKE_MLX5:
        c->map = VS_MAP_PA;
        c->vq_size = false;
        c->doorbell = true;
        c->passthrough = true;
        c->features = F_MODERN | F_MTU | F_MAC | F_STATUS | F_CTRL_VQ |
                      F_CTRL_MAC_ADDR | F_CTRL_VLAN | F_ANY_LAYOUT;
        c->vq_num = 256;
        c->reset_num = VS_NUM_DEFAULT;
        c->reset_drops_config_call = false;
        c->config_irq_spurious = true;
        c->config_writable = false;
        c->stray = VS_STRAY_MASK;
        c->index_by_features = true;
        c->resume_leaves_ctrl = true;
        c->base_is_used = true;
        c->base_checked = true;
        break;
    }
}

VsNodeConfig *vs_node_config_new(unsigned index)
{
    VsNodeConfig *c = g_new0(VsNodeConfig, 1);

    set_like(c, VS_LIKE_SOFT);
    c->path = g_strdup_printf("/dev/vhost-vdpa-%u", index);
    c->pairs = 1;
    /* the prefix of virtual machines; unique within a run */
    memcpy(c->mac, (const uint8_t[]) { 0x52, 0x54, 0, 0x5d, 0xfa, 0 }, 6);
    c->mac[5] = index + 1;
    c->wire = g_strdup("loopback");
    c->fd = -1;
    c->device_id = 1;
    c->vqs = -1;
    c->config_size = -1;
    c->max_pairs = -1;
    c->iova_last = UINT64_MAX;
    /* of the module vhost_vdpa: max_iotlb_entries */
    c->max_entries = 2048;
    c->rules = g_array_new(false, false, sizeof(VsRule));
    c->slow = g_array_new(false, false, sizeof(VsSlow));
    return c;
}

void vs_node_config_free(VsNodeConfig *config)
{
    guint i;

    if (!config) {
        return;
    }
    for (i = 0; i < config->rules->len; i++) {
        g_free(g_array_index(config->rules, VsRule, i).call);
    }
    for (i = 0; i < config->slow->len; i++) {
        g_free(g_array_index(config->slow, VsSlow, i).call);
    }
    g_array_free(config->rules, true);
    g_array_free(config->slow, true);
    g_free(config->path);
    g_free(config->wire);
    g_free(config);
}

/* The options; what is said of a bad value names what a good one is. */
enum {
    OPT_LIKE, OPT_PATH, OPT_QUEUES, OPT_MAC, OPT_MTU, OPT_WIRE, OPT_FD,
    OPT_MAP, OPT_SET_MAP, OPT_DMA_MAP, OPT_CHUNK, OPT_VQ_SIZE, OPT_GROUPS,
    OPT_DOORBELL, OPT_PASSTHROUGH, OPT_FEATURES, OPT_ADD_FEATURE,
    OPT_NO_FEATURE, OPT_BACKEND_FEATURES, OPT_DEVICE_ID, OPT_VQS,
    OPT_VQ_NUM, OPT_CONFIG_SIZE, OPT_MAX_PAIRS, OPT_IOVA_RANGE, OPT_AS_NUM,
    OPT_REFUSE_STATUS, OPT_FAIL_DRIVER_OK, OPT_BASE_UNSUPPORTED, OPT_BUSY,
    OPT_FAIL, OPT_SLOW, OPT_SLOW_PIN, OPT_MEMLOCK, OPT_MAX_ENTRIES,
    OPT_CAPABILITY,     /* + CAP_*; must be last */
};

static const struct {
    const char *name;
    int id;
    bool flag;
    const char *wants;
} options[] = {
    { "like", OPT_LIKE, false, "soft, sim, vduse, vp_vdpa or mlx5" },
    { "path", OPT_PATH, false, "an absolute path" },
    { "queues", OPT_QUEUES, false, "a number of pairs from 1 to 64" },
    { "mac", OPT_MAC, false,
      "a unicast address such as 52:54:00:12:34:56" },
    { "mtu", OPT_MTU, false, "a number from 68 to 65535" },
    { "wire", OPT_WIRE, false,
      "loopback, unix:PATH, unix-listen:PATH or user[,OPTION...]" },
    { "fd", OPT_FD, false, "a number from 3 to 1023" },
    { "map", OPT_MAP, false, "va, pa or any" },
    { "set-map", OPT_SET_MAP, true, "nothing" },
    { "dma-map", OPT_DMA_MAP, true, "nothing" },
    { "chunk", OPT_CHUNK, false, "0, or a multiple of 4096 in bytes" },
    { "memlock", OPT_MEMLOCK, false, "a number of bytes, or unlimited" },
    { "max-entries", OPT_MAX_ENTRIES, false,
      "a number up to 4294967295, 0 for any" },
    { "vq-size", OPT_VQ_SIZE, false, "on or off" },
    { "groups", OPT_GROUPS, false, "on or off" },
    { "doorbell", OPT_DOORBELL, false, "on or off" },
    { "passthrough", OPT_PASSTHROUGH, false, "on or off" },
    { "persist", OPT_CAPABILITY + CAP_PERSIST, false, "on or off" },
    { "suspend", OPT_CAPABILITY + CAP_SUSPEND, false, "on or off" },
    { "resume", OPT_CAPABILITY + CAP_RESUME, false, "on or off" },
    { "desc-group", OPT_CAPABILITY + CAP_DESC, false, "on or off" },
    { "enable-after-driver-ok", OPT_CAPABILITY + CAP_ENABLE, false,
      "on or off" },
    { "features", OPT_FEATURES, false, "64 bits in hexadecimal" },
    { "add-feature", OPT_ADD_FEATURE, false,
      "a bit from 0 to 63 or a name such as VERSION_1" },
    { "no-feature", OPT_NO_FEATURE, false,
      "a bit from 0 to 63 or a name such as VERSION_1" },
    { "backend-features", OPT_BACKEND_FEATURES, false,
      "64 bits in hexadecimal" },
    { "device-id", OPT_DEVICE_ID, false, "a 32-bit number" },
    { "vqs", OPT_VQS, false, "a 32-bit number" },
    { "vq-num", OPT_VQ_NUM, false, "a number from 0 to 65535" },
    { "config-size", OPT_CONFIG_SIZE, false, "a number from 0 to 4096" },
    { "max-pairs", OPT_MAX_PAIRS, false, "a number from 0 to 65535" },
    { "iova-range", OPT_IOVA_RANGE, false,
      "FIRST-LAST, both in hexadecimal" },
    { "as-num", OPT_AS_NUM, false, "a number from 1 to 16" },
    { "refuse-status", OPT_REFUSE_STATUS, false,
      "status bits, a number from 0 to 255" },
    { "fail-driver-ok", OPT_FAIL_DRIVER_OK, true, "nothing" },
    { "base-unsupported", OPT_BASE_UNSUPPORTED, true, "nothing" },
    { "busy", OPT_BUSY, true, "nothing" },
    { "fail", OPT_FAIL, false, "CALL:OCCURRENCE:ERRNO[:always]" },
    { "slow", OPT_SLOW, false, "CALL=MILLISECONDS" },
    { "slow-pin", OPT_SLOW_PIN, false,
      "a number of milliseconds up to an hour" },
};

int vs_option_takes_value(const char *key)
{
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(options); i++) {
        if (!strcmp(options[i].name, key)) {
            return !options[i].flag;
        }
    }
    return -1;
}

static bool set_fail(VsNodeConfig *c, const char *value, char **error)
{
    g_auto(GStrv) word = g_strsplit(value, ":", 4);
    guint n = g_strv_length(word);
    VsRule rule;

    if (n < 3 || (n == 4 && strcmp(word[3], "always"))) {
        return false;
    }
    if (!vs_rule_parse(&rule, word[0], word[1], word[2], n == 4, error)) {
        return false;
    }
    g_array_append_val(c->rules, rule);
    return true;
}

static bool set_slow(VsNodeConfig *c, const char *value)
{
    g_auto(GStrv) word = g_strsplit(value, "=", 2);
    VsSlow slow;

    if (g_strv_length(word) != 2 || !vs_call_is_valid(word[0]) ||
        !vs_parse_ms(word[1], &slow.ms)) {
        return false;
    }
    slow.call = g_strdup(word[0]);
    g_array_append_val(c->slow, slow);
    return true;
}

static bool set_option(VsNodeConfig *c, int id, const char *value,
                       char **error)
{
    static const char *const likes[] = {
        [VS_LIKE_SOFT] = "soft", [VS_LIKE_SIM] = "sim",
        [VS_LIKE_VDUSE] = "vduse", [VS_LIKE_VP_VDPA] = "vp_vdpa",
        [VS_LIKE_MLX5] = "mlx5",
    };
    static const char *const maps[] = {
        [VS_MAP_VA] = "va", [VS_MAP_PA] = "pa", [VS_MAP_ANY] = "any",
    };
    uint64_t v = 0;
    bool on;
    size_t i;

    switch (id) {
    case OPT_LIKE:
        for (i = 0; i < G_N_ELEMENTS(likes); i++) {
            if (!strcmp(likes[i], value)) {
                set_like(c, i);
                return true;
            }
        }
        return false;
    case OPT_PATH:
        if (value[0] != '/' || strchr(value, '\n')) {
            return false;
        }
        g_free(c->path);
        c->path = g_strdup(value);
        return true;
    case OPT_QUEUES:
        if (!vs_parse_u64(value, false, &v) || v < 1 || v > VS_MAX_PAIRS) {
            return false;
        }
        c->pairs = v;
        return true;
    case OPT_MAC:
        c->mac_set = true;
        return parse_mac(value, c->mac);
    case OPT_MTU:
        if (!vs_parse_u64(value, false, &v) || v < 68 || v > 65535) {
            return false;
        }
        c->mtu = v;
        return true;
    case OPT_WIRE:
        if (strchr(value, '\n') ||
            (strcmp(value, "loopback") && strcmp(value, "user") &&
             !g_str_has_prefix(value, "user,") &&
             !(g_str_has_prefix(value, "unix:") && value[5]) &&
             !(g_str_has_prefix(value, "unix-listen:") && value[12]))) {
            return false;
        }
        g_free(c->wire);
        c->wire = g_strdup(value);
        return true;
    case OPT_FD:
        if (!vs_parse_u64(value, false, &v) || v < 3 || v > 1023) {
            return false;
        }
        c->fd = v;
        return true;
    case OPT_MAP:
        for (i = 0; i < G_N_ELEMENTS(maps); i++) {
            if (!strcmp(maps[i], value)) {
                c->map = i;
                return true;
            }
        }
        return false;
    case OPT_SET_MAP:
    case OPT_DMA_MAP:
        c->set_map = id == OPT_SET_MAP;
        return true;
    case OPT_CHUNK:
        return vs_parse_u64(value, false, &c->chunk) && c->chunk % 4096 == 0;
    case OPT_MEMLOCK:
        c->memlock_set = true;
        c->memlock = UINT64_MAX;
        return !strcmp(value, "unlimited") ||
               vs_parse_u64(value, false, &c->memlock);
    case OPT_MAX_ENTRIES:
        if (!vs_parse_u64(value, false, &v) || v > UINT32_MAX) {
            return false;
        }
        c->max_entries = v;
        return true;
    case OPT_VQ_SIZE:
        c->vq_size_set = true;
        return parse_on_off(value, &c->vq_size);
    case OPT_GROUPS:
        return parse_on_off(value, &c->groups);
    case OPT_DOORBELL:
        return parse_on_off(value, &c->doorbell);
    case OPT_PASSTHROUGH:
        return parse_on_off(value, &c->passthrough);
    case OPT_FEATURES:
        c->features_set = true;
        return vs_parse_u64(value, true, &c->features);
    case OPT_ADD_FEATURE:
        if (!parse_feature(value, &v)) {
            return false;
        }
        c->features_add |= v;
        c->features_no &= ~v;
        return true;
    case OPT_NO_FEATURE:
        if (!parse_feature(value, &v)) {
            return false;
        }
        c->features_no |= v;
        c->features_add &= ~v;
        return true;
    case OPT_BACKEND_FEATURES:
        c->backend_set = true;
        return vs_parse_u64(value, true, &c->backend_features);
    case OPT_DEVICE_ID:
        if (!vs_parse_u64(value, false, &v) || v > UINT32_MAX) {
            return false;
        }
        c->device_id = v;
        return true;
    case OPT_VQS:
        if (!vs_parse_u64(value, false, &v) || v > UINT32_MAX) {
            return false;
        }
        c->vqs = v;
        return true;
    case OPT_VQ_NUM:
        if (!vs_parse_u64(value, false, &v) || v > UINT16_MAX) {
            return false;
        }
        c->vq_num = v;
        return true;
    case OPT_CONFIG_SIZE:
        if (!vs_parse_u64(value, false, &v) || v > 4096) {
            return false;
        }
        c->config_size = v;
        return true;
    case OPT_MAX_PAIRS:
        if (!vs_parse_u64(value, false, &v) || v > UINT16_MAX) {
            return false;
        }
        c->max_pairs = v;
        return true;
    case OPT_IOVA_RANGE:
        return parse_range(value, &c->iova_first, &c->iova_last);
    case OPT_AS_NUM:
        if (!vs_parse_u64(value, false, &v) || v < 1 || v > 16) {
            return false;
        }
        c->as_num = v;
        return true;
    case OPT_REFUSE_STATUS:
        if (!vs_parse_u64(value, false, &v) || v > 255) {
            return false;
        }
        c->refuse_status = v;
        return true;
    case OPT_FAIL_DRIVER_OK:
        c->fail_driver_ok = true;
        return true;
    case OPT_BASE_UNSUPPORTED:
        c->base_unsupported = true;
        return true;
    case OPT_BUSY:
        c->busy = true;
        return true;
    case OPT_FAIL:
        return set_fail(c, value, error);
    case OPT_SLOW:
        return set_slow(c, value);
    case OPT_SLOW_PIN:
        return vs_parse_ms(value, &c->slow_pin);
    default:
        if (!parse_on_off(value, &on)) {
            return false;
        }
        *capability(c, id - OPT_CAPABILITY) = on;
        c->capability_set[id - OPT_CAPABILITY] = true;
        return true;
    }
}

bool vs_node_config_set(VsNodeConfig *config, const char *key,
                        const char *value, char **error)
{
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(options); i++) {
        char *reason = NULL;

        if (strcmp(options[i].name, key)) {
            continue;
        }
        if (set_option(config, options[i].id, value, &reason)) {
            return true;
        }
        *error = reason ? reason :
                 g_strdup_printf("--%s '%s' is not valid: it takes %s", key,
                                 value, options[i].wants);
        return false;
    }
    *error = g_strdup_printf("there is no option --%s", key);
    return false;
}

bool vs_node_config_finish(VsNodeConfig *c, char **error)
{
    const uint64_t always = BIT(VHOST_BACKEND_F_IOTLB_MSG_V2) |
                            BIT(VHOST_BACKEND_F_IOTLB_BATCH) |
                            BIT(VHOST_BACKEND_F_IOTLB_ASID);
    unsigned i;

    if (c->platform_iommu && c->map != VS_MAP_PA) {
        /* only the hardware's own translation is a platform IOMMU */
        c->platform_iommu = false;
    }
    if (c->like == VS_LIKE_SIM && !c->vq_size_set) {
        /* the two come together */
        c->vq_size = !c->set_map;
    }
    if (!c->groups) {
        if (c->desc_group && c->capability_set[CAP_DESC]) {
            *error = g_strdup("--desc-group on needs --groups on: the rings "
                              "have no group of their own without groups");
            return false;
        }
        c->desc_group = false;
        c->as_num = 1;
    }
    if (c->backend_set) {
        /* the bits say what the driver can do, unless an option does */
        for (i = 0; i < G_N_ELEMENTS(capability_bit); i++) {
            if (!c->capability_set[i]) {
                *capability(c, i) =
                    c->backend_features & BIT(capability_bit[i]);
            }
        }
        if (!c->groups) {
            c->desc_group = false;
        }
    } else {
        c->backend_features = always;
        for (i = 0; i < G_N_ELEMENTS(capability_bit); i++) {
            if (*capability(c, i)) {
                c->backend_features |= BIT(capability_bit[i]);
            }
        }
    }
    if (!c->features_set && c->pairs > 1) {
        c->features |= F_MQ | F_CTRL_VQ;
        if (c->like == VS_LIKE_VDUSE) {
            *error = g_strdup_printf("--queues %u does not go with --like "
                                     "vduse: it has no control queue, which "
                                     "more than one pair needs", c->pairs);
            return false;
        }
    }
    c->features |= c->features_add;
    c->features &= ~c->features_no;
    return true;
}
