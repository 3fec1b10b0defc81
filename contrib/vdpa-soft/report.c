/*
 * vdpa-soft: what the control socket shows of a node, and does
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdio.h>
#include <string.h>
#include "json.h"
#include "node-int.h"

/*
 * What the control socket shows
 */

typedef enum Scalar {
    V_OPEN, V_OWNED, V_STATUS, V_FEATURES, V_BACKEND_FEATURES, V_SUSPENDED,
    V_PAUSED, V_LINK, V_FAULTS, V_KICKS, V_CONFIG_INTERRUPTS, V_ACTIVE_PAIRS,
    V_MAC, V_MAPPED_BYTES, V_MAPPINGS, V_LARGEST_UPDATE, V_PINNING,
    V_PINNED_MS, V_MESSAGES, V_IOCTLS, V_CAPTURED,
} Scalar;

static const char *const scalar_name[] = {
    [V_OPEN] = "open",
    [V_OWNED] = "owned",
    [V_STATUS] = "status",
    [V_FEATURES] = "features",
    [V_BACKEND_FEATURES] = "backend-features",
    [V_SUSPENDED] = "suspended",
    [V_PAUSED] = "paused",
    [V_LINK] = "link",
    [V_FAULTS] = "faults",
    [V_KICKS] = "kicks",
    [V_CONFIG_INTERRUPTS] = "config-interrupts",
    [V_ACTIVE_PAIRS] = "active-pairs",
    [V_MAC] = "mac",
    [V_MAPPED_BYTES] = "mapped-bytes",
    [V_MAPPINGS] = "mappings",
    [V_LARGEST_UPDATE] = "largest-update",
    [V_PINNING] = "pinning",
    [V_PINNED_MS] = "pinned-ms",
    [V_MESSAGES] = "messages",
    [V_IOCTLS] = "ioctls",
    [V_CAPTURED] = "captured",
};

static void scalar(VsNode *n, Scalar what, VsValue *v)
{
    uint8_t mac[6];
    unsigned i;

    memset(v, 0, sizeof(*v));
    switch (what) {
    case V_OPEN:
        v->is_bool = true;
        v->number = n->open;
        break;
    case V_OWNED:
        v->is_bool = true;
        v->number = n->owner != 0;
        break;
    case V_STATUS:
        v->number = n->status;
        break;
    case V_FEATURES:
        v->number = n->net ? vs_net_features(n->net) : 0;
        break;
    case V_BACKEND_FEATURES:
        v->number = n->backend_acked;
        break;
    case V_SUSPENDED:
        v->is_bool = true;
        v->number = n->suspended;
        break;
    case V_PAUSED:
        v->is_bool = true;
        v->number = n->paused;
        break;
    case V_LINK:
        v->is_bool = true;
        v->number = n->net ? vs_net_link(n->net) : true;
        break;
    case V_FAULTS:
        v->number = n->fault_count;
        break;
    case V_KICKS:
        v->number = n->kicks;
        break;
    case V_CONFIG_INTERRUPTS:
        v->number = n->config_interrupts;
        break;
    case V_ACTIVE_PAIRS:
        v->number = n->net ? vs_net_active_pairs(n->net) : 1;
        break;
    case V_MAC:
        memcpy(mac, n->cfg->mac, sizeof(mac));
        if (n->net) {
            vs_net_mac(n->net, mac);
        }
        v->is_text = true;
        snprintf(v->text, sizeof(v->text), "%02x:%02x:%02x:%02x:%02x:%02x",
                 mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
        break;
    case V_MAPPED_BYTES:
    case V_MAPPINGS:
        for (i = 0; i < n->cfg->as_num; i++) {
            if (n->as[i]) {
                v->number += what == V_MAPPINGS ? vs_iotlb_count(n->as[i])
                                                : vs_iotlb_bytes(n->as[i]);
            }
        }
        break;
    case V_LARGEST_UPDATE:
        v->number = n->largest_update;
        break;
    case V_PINNING:
        v->number = n->pinning;
        break;
    case V_PINNED_MS:
        v->number = n->pinned_ms;
        break;
    case V_MESSAGES:
        v->number = n->messages;
        break;
    case V_IOCTLS:
        v->number = n->ioctls;
        break;
    case V_CAPTURED:
        v->number = n->captured.length;
        break;
    }
}

static void vq_stats(VsNode *n, unsigned i, VsVqStats *s)
{
    memset(s, 0, sizeof(*s));
    if (n->net) {
        vs_net_vq_stats(n->net, i, s);
    }
}

static bool vq_value(VsNode *n, const char *key, VsValue *v)
{
    static const struct {
        const char *name;
        size_t offset;
        size_t size;
    } field[] = {
#define FIELD(name, member) \
        { name, offsetof(VsVqStats, member), sizeof(((VsVqStats *)0)->member) }
        FIELD("num", num), FIELD("enabled", enabled),
        FIELD("avail-idx", avail_idx), FIELD("used-idx", used_idx),
        FIELD("kicks", kicks), FIELD("calls", calls),
        FIELD("packets", packets), FIELD("bytes", bytes),
        FIELD("dropped", dropped), FIELD("errors", errors),
#undef FIELD
    };
    VsVqStats stats;
    char *dot;
    guint64 index;
    size_t i;

    if (!g_str_has_prefix(key, "vq.") || !g_ascii_isdigit(key[3])) {
        return false;
    }
    index = g_ascii_strtoull(key + 3, &dot, 10);
    if (*dot != '.' || index >= n->nvqs) {
        return false;
    }
    vq_stats(n, index, &stats);
    for (i = 0; i < G_N_ELEMENTS(field); i++) {
        const char *p = (const char *)&stats + field[i].offset;

        if (strcmp(field[i].name, dot + 1)) {
            continue;
        }
        switch (field[i].size) {
        case 1:
            v->is_bool = true;
            v->number = *(const bool *)p;
            return true;
        case 2:
            v->number = *(const uint16_t *)p;
            return true;
        case 4:
            v->number = *(const uint32_t *)p;
            return true;
        default:
            v->number = *(const uint64_t *)p;
            return true;
        }
    }
    return false;
}

bool vs_node_value(VsNode *n, const char *key, VsValue *v)
{
    bool found = false;
    size_t i;

    memset(v, 0, sizeof(*v));
    vs_node_lock(n);
    for (i = 0; i < G_N_ELEMENTS(scalar_name); i++) {
        if (!strcmp(scalar_name[i], key)) {
            scalar(n, i, v);
            found = true;
        }
    }
    if (!found) {
        found = vq_value(n, key, v);
    }
    vs_node_unlock(n);
    return found;
}

static void scalar_json(VsNode *n, Scalar what, GString *out)
{
    VsValue v;

    scalar(n, what, &v);
    if (v.is_text) {
        vs_json_text(out, scalar_name[what], v.text);
    } else if (v.is_bool) {
        vs_json_bool(out, scalar_name[what], v.number);
    } else {
        vs_json_u64(out, scalar_name[what], v.number);
    }
}

void vs_node_summary_json(VsNode *n, GString *out)
{
    vs_node_lock(n);
    vs_json_u64(out, "node", n->index);
    vs_json_text(out, "path", n->cfg->path);
    scalar_json(n, V_OPEN, out);
    scalar_json(n, V_OWNED, out);
    scalar_json(n, V_STATUS, out);
    vs_json_u64(out, "device-id", n->cfg->device_id);
    vs_json_u64(out, "pairs", n->cfg->pairs);
    vs_json_u64(out, "vqs", n->nvqs);
    vs_json_text(out, "wire", n->cfg->wire);
    scalar_json(n, V_MAC, out);
    vs_node_unlock(n);
}

void vs_node_stats_json(VsNode *n, GString *out)
{
    VsVqStats s;
    unsigned i;

    vs_node_lock(n);
    for (i = 0; i < G_N_ELEMENTS(scalar_name); i++) {
        scalar_json(n, i, out);
    }
    vs_json_u64(out, "device-features", n->cfg->features);
    if (n->net) {
        char *state = vs_net_rx_state_json(n->net);

        g_string_append_printf(out, ",%s", state);
        g_free(state);
    }
    vs_json_key(out, "vqs");
    g_string_append_c(out, '[');
    for (i = 0; i < n->nvqs; i++) {
        vq_stats(n, i, &s);
        g_string_append(out, i ? ",{" : "{");
        vs_json_u64(out, "index", i);
        vs_json_u64(out, "num", s.num);
        vs_json_bool(out, "enabled", s.enabled);
        vs_json_u64(out, "avail-idx", s.avail_idx);
        vs_json_u64(out, "used-idx", s.used_idx);
        vs_json_u64(out, "kicks", s.kicks);
        vs_json_u64(out, "calls", s.calls);
        vs_json_u64(out, "packets", s.packets);
        vs_json_u64(out, "bytes", s.bytes);
        vs_json_u64(out, "dropped", s.dropped);
        vs_json_u64(out, "errors", s.errors);
        if (n->vq[i].kick_fd >= 0) {
            vs_json_u64(out, "kick-fd", n->vq[i].kick_fd);
        }
        g_string_append_c(out, '}');
    }
    g_string_append_c(out, ']');
    vs_node_unlock(n);
}

void vs_node_mappings_json(VsNode *n, GString *out)
{
    bool comma = false;
    unsigned i;
    size_t j;

    vs_json_key(out, "entries");
    g_string_append_c(out, '[');
    vs_node_lock(n);
    for (i = 0; i < n->cfg->as_num; i++) {
        for (j = 0; n->as[i] && j < vs_iotlb_count(n->as[i]); j++) {
            const VsMapping *m = vs_iotlb_get(n->as[i], j);

            g_string_append(out, comma ? ",{" : "{");
            vs_json_u64(out, "asid", i);
            vs_json_u64(out, "first", m->first);
            vs_json_u64(out, "last", m->last);
            vs_json_u64(out, "uaddr", m->addr);
            vs_json_u64(out, "perm", m->perm);
            g_string_append_c(out, '}');
            comma = true;
        }
    }
    vs_node_unlock(n);
    g_string_append_c(out, ']');
}

void vs_node_faults_json(VsNode *n, GString *out)
{
    uint64_t i, first;

    vs_node_lock(n);
    first = n->fault_count > VS_MAX_FAULTS ? n->fault_count - VS_MAX_FAULTS : 0;
    vs_json_u64(out, "count", n->fault_count);
    vs_json_key(out, "entries");
    g_string_append_c(out, '[');
    for (i = first; i < n->fault_count; i++) {
        const VsFault *f = &n->fault[i % VS_MAX_FAULTS];

        g_string_append(out, i > first ? ",{" : "{");
        vs_json_u64(out, "asid", f->asid);
        vs_json_u64(out, "iova", f->iova);
        vs_json_u64(out, "size", f->size);
        vs_json_bool(out, "write", f->write);
        vs_json_text(out, "why", f->why);
        g_string_append_c(out, '}');
    }
    g_string_append_c(out, ']');
    vs_node_unlock(n);
}

void vs_node_captured_json(VsNode *n, GString *out)
{
    bool comma = false;
    GBytes *frame;

    vs_json_key(out, "frames");
    g_string_append_c(out, '[');
    vs_node_lock(n);
    while ((frame = g_queue_pop_head(&n->captured))) {
        gsize size;
        const void *data = g_bytes_get_data(frame, &size);

        if (comma) {
            g_string_append_c(out, ',');
        }
        vs_json_hex(out, data, size);
        g_bytes_unref(frame);
        comma = true;
    }
    vs_node_unlock(n);
    g_string_append_c(out, ']');
    vs_node_wake(n);
}

/*
 * What the control socket does
 */

void vs_node_clear(VsNode *n)
{
    vs_node_lock(n);
    n->fault_count = 0;
    vs_node_unlock(n);
    vs_node_wake(n);
}

bool vs_node_set_link(VsNode *n, bool up, char **error)
{
    bool ok = false;

    vs_node_lock(n);
    if (!n->net) {
        *error = g_strdup("the node was never opened");
    } else {
        vs_net_set_link(n->net, up);
        ok = true;
    }
    vs_node_unlock(n);
    vs_node_wake(n);
    return ok;
}

bool vs_node_announce(VsNode *n, char **error)
{
    bool ok = false;

    vs_node_lock(n);
    if (!n->net) {
        *error = g_strdup("the node was never opened");
    } else if (!(vs_net_features(n->net) & VS_F_GUEST_ANNOUNCE)) {
        *error = g_strdup("GUEST_ANNOUNCE was not negotiated");
    } else {
        vs_net_announce(n->net);
        ok = true;
    }
    vs_node_unlock(n);
    vs_node_wake(n);
    return ok;
}

bool vs_node_needs_reset(VsNode *n, char **error)
{
    bool ok = false;

    vs_node_lock(n);
    if (!n->net || !n->open) {
        *error = g_strdup("the node is not open");
    } else {
        n->status |= VS_S_NEEDS_RESET;
        vs_driver_config_changed(n);
        ok = true;
    }
    vs_node_unlock(n);
    vs_node_wake(n);
    return ok;
}

void vs_node_add_rule(VsNode *n, const VsRule *rule)
{
    VsRule copy = *rule;

    copy.call = g_strdup(rule->call);
    vs_node_lock(n);
    g_array_append_val(n->cfg->rules, copy);
    vs_node_unlock(n);
}

void vs_node_clear_rules(VsNode *n)
{
    guint i;

    vs_node_lock(n);
    for (i = 0; i < n->cfg->rules->len; i++) {
        g_free(g_array_index(n->cfg->rules, VsRule, i).call);
    }
    g_array_set_size(n->cfg->rules, 0);
    vs_node_unlock(n);
}

void vs_node_set_slow(VsNode *n, const char *call, unsigned ms)
{
    guint i;

    vs_node_lock(n);
    for (i = 0; i < n->cfg->slow->len; i++) {
        VsSlow *slow = &g_array_index(n->cfg->slow, VsSlow, i);

        if (!strcmp(slow->call, call)) {
            slow->ms = ms;
            break;
        }
    }
    if (i == n->cfg->slow->len) {
        VsSlow slow = { .call = g_strdup(call), .ms = ms };

        g_array_append_val(n->cfg->slow, slow);
    }
    vs_node_unlock(n);
}

void vs_node_set_slow_pin(VsNode *n, unsigned ms)
{
    vs_node_lock(n);
    n->cfg->slow_pin = ms;
    vs_node_unlock(n);
}

void vs_node_set_paused(VsNode *n, bool paused)
{
    vs_node_lock(n);
    n->paused = paused;
    if (n->net) {
        vs_driver_update_running(n);
    }
    vs_node_unlock(n);
    vs_node_wake(n);
}

bool vs_node_inject(VsNode *n, const void *frame, size_t size, int vq,
                    char **error)
{
    bool ok = false;

    vs_node_lock(n);
    if (!n->net) {
        *error = g_strdup("the node was never opened");
    } else if (vq >= 0 && ((unsigned)vq >= n->nvqs || vq % 2 ||
                           (unsigned)vq >= 2 * n->cfg->pairs)) {
        *error = g_strdup_printf("virtqueue %d is not a receive queue", vq);
    } else {
        vs_net_inject(n->net, frame, size, vq);
        ok = true;
    }
    vs_node_unlock(n);
    vs_node_wake(n);
    return ok;
}

void vs_node_set_capture(VsNode *n, bool on)
{
    vs_node_lock(n);
    n->capture = on;
    vs_node_unlock(n);
}
