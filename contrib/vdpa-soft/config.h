/*
 * vdpa-soft: how a node is made, as the launcher and the library see it
 *
 * The launcher checks the user's options by setting them here; it then
 * hands the very same key=value lines to the library, which sets them again.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_CONFIG_H
#define VDPA_SOFT_CONFIG_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Environment of the launched program; N is the number of a node. */
#define VS_ENV_PID        "VDPA_SOFT_PID"       /* process of COMMAND */
#define VS_ENV_SESSION    "VDPA_SOFT_SESSION"   /* name of this run */
#define VS_ENV_CONTROL    "VDPA_SOFT_CONTROL"
#define VS_ENV_TRANSCRIPT "VDPA_SOFT_TRANSCRIPT"
#define VS_ENV_NODES      "VDPA_SOFT_NODES"     /* how many */
#define VS_ENV_NODE       "VDPA_SOFT_NODE_%u"   /* key=value lines */
#define VS_ENV_FD         "VDPA_SOFT_FD_%u"     /* client,device,inode */

#define VS_MAX_NODES 64
#define VS_MAX_PAIRS 64

/** enum VsLike - the kernel driver a node takes after */
typedef enum VsLike {
    VS_LIKE_SOFT,
    VS_LIKE_SIM,
    VS_LIKE_VDUSE,
    VS_LIKE_VP_VDPA,
    VS_LIKE_MLX5,
} VsLike;

/**
 * enum VsMap - which memory a mapping may name
 *
 * @VS_MAP_VA: shared mappings of files; the rest is skipped with success
 * @VS_MAP_PA: any memory; pinned, and charged against RLIMIT_MEMLOCK
 * @VS_MAP_ANY: any memory, unchecked; no kernel driver is like that
 */
typedef enum VsMap {
    VS_MAP_VA,
    VS_MAP_PA,
    VS_MAP_ANY,
} VsMap;

/** enum VsStray - what becomes of accepted features that are not offered */
typedef enum VsStray {
    VS_STRAY_REJECT,    /* SET_FEATURES fails */
    VS_STRAY_MASK,      /* silently dropped */
    VS_STRAY_REFUSE,    /* FEATURES_OK reads back clear */
} VsStray;

/** enum VsNum - what becomes of the ring sizes at a reset */
typedef enum VsNum {
    VS_NUM_FORGET,      /* none, until one is set */
    VS_NUM_KEEP,
    VS_NUM_DEFAULT,     /* the largest */
} VsNum;

/**
 * struct VsRule - fail a call
 *
 * @call: name of the call
 * @occurrence: which one fails, from 1; 0 when the rule is used up
 * @err: errno it fails with
 * @always: all later ones fail too
 * @seen: how many there have been
 */
typedef struct VsRule {
    char *call;
    uint64_t occurrence;
    int err;
    bool always;
    uint64_t seen;
} VsRule;

/** struct VsSlow - delay a call by @ms milliseconds */
typedef struct VsSlow {
    char *call;
    unsigned ms;
} VsSlow;

/**
 * struct VsNodeConfig - everything about a node that is fixed at its start
 *
 * Members up to @quirks_end come from options; the others from @like.
 */
typedef struct VsNodeConfig {
    VsLike like;
    char *path;
    unsigned pairs;
    uint8_t mac[6];
    bool mac_set;
    unsigned mtu;               /* 0: the device's default */
    char *wire;
    int fd;                     /* client fd at start, or -1 */

    VsMap map;
    bool set_map;               /* else each mapping reaches the device */
    bool platform_iommu;
    uint64_t chunk;             /* PA: bytes of the largest entry, or 0 */
    uint64_t memlock;           /* PA: the limit in bytes, if @memlock_set */
    bool memlock_set;           /* else RLIMIT_MEMLOCK */
    unsigned max_entries;       /* of an address space, 0: any number */
    bool persist;
    bool suspend;
    bool resume;
    bool vq_size;
    bool vq_size_set;
    bool groups;
    bool desc_group;
    bool doorbell;
    bool enable_after_driver_ok;
    bool passthrough;           /* IOVA = address before the first mapping */

    uint64_t features;
    uint64_t backend_features;
    uint32_t device_id;
    int64_t vqs;                /* GET_VQS_COUNT, or -1: as it is */
    unsigned vq_num;
    bool vq_num_checked;        /* larger rings are refused */
    int64_t config_size;        /* or -1: as it is */
    int max_pairs;              /* max_virtqueue_pairs, or -1: as it is */
    uint64_t iova_first;
    uint64_t iova_last;
    uint8_t refuse_status;
    bool fail_driver_ok;
    bool base_unsupported;
    bool busy;
    unsigned as_num;            /* address spaces */
    GArray *rules;              /* VsRule */
    GArray *slow;               /* VsSlow */
    unsigned slow_pin;          /* milliseconds per GiB */

    /* the driver's own ways */
    bool clean_map_on_reset;
    VsNum reset_num;
    bool reset_drops_call;
    bool reset_drops_config_call;
    bool config_irq;
    bool config_irq_driver_ok;  /* only under DRIVER_OK */
    bool config_irq_spurious;
    bool config_writable;
    bool need_access_platform;
    bool need_ctrl_vq_for_mq;
    VsStray stray;
    bool failure_shows;         /* a failing DRIVER_OK sets FAILED */
    bool status_resumes;
    bool size_driver_ok;        /* ring sizes are told only then */
    bool index_by_features;
    bool resume_leaves_ctrl;
    bool base_is_used;
    bool base_checked;
    size_t max_frame;
    bool simulator;             /* moves frames as vdpa_sim_net does */

    /* while options are being set */
    bool features_set;
    bool backend_set;
    uint64_t features_add;
    uint64_t features_no;
    bool capability_set[5];
} VsNodeConfig;

/** vs_node_config_new() - the defaults of node @index */
VsNodeConfig *vs_node_config_new(unsigned index);
void vs_node_config_free(VsNodeConfig *config);

/**
 * vs_node_config_set() - set one option
 * @config: the node
 * @key: the option's name without dashes in front; "like" must come first
 * @value: its value, "on" for an option that takes none
 * @error: receives a g_malloc'd sentence
 *
 * Returns: false if there is no such option or @value is not valid
 */
bool vs_node_config_set(VsNodeConfig *config, const char *key,
                        const char *value, char **error);

/**
 * vs_node_config_finish() - derive what depends on several options
 *
 * Returns: false, with a sentence in @error, if they contradict each other
 */
bool vs_node_config_finish(VsNodeConfig *config, char **error);

/** vs_option_takes_value() - 1, 0 for a flag, -1 for an unknown option */
int vs_option_takes_value(const char *key);

/**
 * vs_rule_parse() - parse the words of a failure rule
 * @occurrence: decimal, from 1
 * @err: errno as a name or a number
 *
 * Returns: false, with a sentence in @error, if a word is not valid
 */
bool vs_rule_parse(VsRule *rule, const char *call, const char *occurrence,
                   const char *err, bool always, char **error);

/** vs_errno_name() - "EFAULT"; "errno N" (static) for one without a name */
const char *vs_errno_name(int err);

/**
 * vs_parse_ms() - a decimal number of milliseconds up to an hour
 *
 * Returns: false if it is none
 */
bool vs_parse_ms(const char *text, unsigned *ms);

/** vs_parse_u64() - a whole decimal or 0x number, or @hex digits alone */
bool vs_parse_u64(const char *text, bool hex, uint64_t *value);

/** vs_call_is_valid() - whether a call of that name can be failed */
bool vs_call_is_valid(const char *call);

#endif
