/*
 * vdpa-soft: what the kernel would ask of the driver below it
 *
 * The driver is the part of a node that differs between devices: status,
 * features, virtqueues, and the translations the device really uses.  The
 * device calls back here for its memory and interrupts.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "compat.h"
#include "guard.h"
#include "node-int.h"

static void add_one(int fd)
{
    const uint64_t one = 1;

    /* a full counter (EAGAIN) is an interrupt that was not looked at yet */
    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {
        /* again */
    }
}

/*
 * Calls from the device, under its lock
 */

static void add_fault(VsNode *n, uint32_t asid, uint64_t iova, uint64_t size,
                      bool write, const char *why)
{
    n->fault[n->fault_count % VS_MAX_FAULTS] = (VsFault) {
        .asid = asid,
        .iova = iova,
        .size = size,
        .write = write,
        .why = why,
    };
    n->fault_count++;
    vs_node_wake(n);
}

/*
 * Find the memory behind a range.  @run receives how much of it is in one
 * piece.
 *
 * Returns: NULL, or what is wrong
 */
static const char *translate(VsNode *n, uint32_t asid, uint64_t iova,
                             uint64_t size, bool write, uint64_t *addr,
                             uint64_t *run)
{
    if (asid >= n->cfg->as_num) {
        return "no such address space";
    }
    if (iova + size - 1 < iova) {
        return "range wraps";
    }
    if (n->dtab_default[asid]) {
        if (n->cfg->map == VS_MAP_PA) {
            return "unmapped; would be a physical address";
        }
        *addr = iova;
        *run = size;
        return NULL;
    }
    switch (vs_iotlb_translate(n->dtab[asid], iova, size,
                               write ? VS_PERM_WO : VS_PERM_RO, addr, run)) {
    case VS_XLATE_OK:
        return NULL;
    case VS_XLATE_DENIED:
        return write ? "mapped read-only" : "mapped write-only";
    default:
        return "unmapped";
    }
}

static const char *copy(uint64_t addr, void *buf, size_t size, bool write)
{
    bool ok = write ? vs_guard_dma_write(addr, buf, size)
                    : vs_guard_dma_read(buf, addr, size);

    return ok ? NULL : "memory is gone or protected";
}

/* The same for a range that is in several pieces */
static const char *copy_pieces(VsNode *n, uint32_t asid, uint64_t iova,
                               uint8_t *buf, size_t size, bool write)
{
    uint64_t addr, run, done;
    const char *why = NULL;

    /* nothing is copied unless all of it can be translated */
    for (done = 0; !why && done < size; done += run) {
        why = translate(n, asid, iova + done, size - done, write, &addr,
                        &run);
    }
    for (done = 0; !why && done < size; done += run) {
        why = translate(n, asid, iova + done, size - done, write, &addr,
                        &run);
        if (!why) {
            why = copy(addr, buf + done, run, write);
        }
    }
    return why;
}

static bool dma(VsNode *n, uint32_t asid, uint64_t iova, void *buf,
                size_t size, bool write)
{
    uint64_t addr, run;
    const char *why;

    if (size == 0) {
        return true;
    }
    why = translate(n, asid, iova, size, write, &addr, &run);
    if (!why) {
        why = run == size ? copy(addr, buf, size, write)
                          : copy_pieces(n, asid, iova, buf, size, write);
    }
    if (why) {
        add_fault(n, asid, iova, size, write, why);
    }
    return !why;
}

static bool host_read(void *opaque, uint32_t asid, uint64_t iova, void *buf,
                      size_t size)
{
    return dma(opaque, asid, iova, buf, size, false);
}

static bool host_write(void *opaque, uint32_t asid, uint64_t iova,
                       const void *buf, size_t size)
{
    return dma(opaque, asid, iova, (void *)(uintptr_t)buf, size, true);
}

static bool host_16(VsNode *n, uint32_t asid, uint64_t iova, uint16_t *load,
                    uint16_t store)
{
    uint64_t addr, run;
    const char *why = translate(n, asid, iova, 2, !load, &addr, &run);
    bool ok;

    if (!why && (run < 2 || addr & 1)) {
        why = "16-bit access across mappings or unaligned in memory";
    }
    if (!why) {
        ok = load ? vs_guard_load16(addr, load)
                  : vs_guard_store16(addr, store);
        why = ok ? NULL : "memory is gone or protected";
    }
    if (why) {
        add_fault(n, asid, iova, 2, !load, why);
    }
    return !why;
}

static bool host_load16(void *opaque, uint32_t asid, uint64_t iova,
                        uint16_t *val)
{
    return host_16(opaque, asid, iova, val, 0);
}

static bool host_store16(void *opaque, uint32_t asid, uint64_t iova,
                         uint16_t val)
{
    return host_16(opaque, asid, iova, NULL, val);
}

static void host_call(void *opaque, unsigned vq)
{
    VsNode *n = opaque;

    if (vq < n->nvqs && n->vq[vq].call_installed && n->vq[vq].call_fd >= 0) {
        add_one(n->vq[vq].call_fd);
    }
}

void vs_driver_config_changed(VsNode *n)
{
    if (n->config_installed && n->config_fd >= 0 && n->cfg->config_irq &&
        (!n->cfg->config_irq_driver_ok || n->status & VS_S_DRIVER_OK)) {
        n->config_interrupts++;
        add_one(n->config_fd);
    }
    vs_node_wake(n);
}

static void host_config_changed(void *opaque)
{
    vs_driver_config_changed(opaque);
}

static void host_stats_changed(void *opaque)
{
    vs_node_wake(opaque);
}

static void host_transmitted(void *opaque, const void *frame, size_t len)
{
    VsNode *n = opaque;

    if (!n->capture) {
        return;
    }
    g_queue_push_tail(&n->captured, g_bytes_new(frame, len));
    if (n->captured.length > VS_MAX_CAPTURED) {
        g_bytes_unref(g_queue_pop_head(&n->captured));
    }
    vs_node_wake(n);
}

void vs_driver_host(VsNode *n, VsHost *host)
{
    *host = (VsHost) {
        .opaque = n,
        .read = host_read,
        .write = host_write,
        .load16 = host_load16,
        .store16 = host_store16,
        .call = host_call,
        .config_changed = host_config_changed,
        .stats_changed = host_stats_changed,
        .transmitted = host_transmitted,
    };
}

/*
 * Requests
 */

/* The control queue's index depends on what was negotiated. */
bool vs_driver_is_ctrl(const VsNode *n, unsigned vq)
{
    uint64_t features = n->net ? vs_net_features(n->net) : 0;

    if (!(n->cfg->features & VS_F_CTRL_VQ)) {
        return false;
    }
    return vq == (features & VS_F_MQ ? 2 * n->cfg->pairs : 2);
}

unsigned vs_driver_group(const VsNode *n, unsigned vq)
{
    return n->cfg->groups && vs_driver_is_ctrl(n, vq) ? VS_GROUP_CTRL
                                                      : VS_GROUP_DATA;
}

unsigned vs_driver_desc_group(const VsNode *n, unsigned vq)
{
    return vs_driver_is_ctrl(n, vq) ? VS_GROUP_CTRL : VS_GROUP_DESC;
}

void vs_driver_apply_asids(VsNode *n)
{
    unsigned i;

    for (i = 0; i < n->nvqs; i++) {
        uint32_t asid = n->group_asid[vs_driver_group(n, i)];

        /* whether the client knows of descriptor groups or not */
        vs_net_vq_set_asid(n->net, i, asid, n->cfg->desc_group ?
                           n->group_asid[vs_driver_desc_group(n, i)] : asid);
    }
}

void vs_driver_update_running(VsNode *n)
{
    bool run = n->status & VS_S_DRIVER_OK && !n->dev_suspended && !n->paused;

    if (run != n->running) {
        n->running = run;
        vs_net_set_running(n->net, run, run && n->kick_pending);
        if (run) {
            n->kick_pending = false;
        }
    }
}

void vs_driver_reset_map(VsNode *n, uint32_t asid)
{
    vs_iotlb_clear(n->dtab[asid]);
    n->dtab_default[asid] = n->cfg->passthrough &&
                            (n->cfg->like != VS_LIKE_MLX5 || asid == 0);
}

void vs_driver_reset(VsNode *n, bool clean_map)
{
    unsigned i;

    n->status = 0;
    n->stray = false;
    n->dev_suspended = false;
    n->kick_pending = false;
    vs_driver_update_running(n);
    vs_net_reset(n->net);
    for (i = 0; i < n->nvqs; i++) {
        n->vq[i].ready = false;
        if (n->cfg->reset_num != VS_NUM_KEEP) {
            vs_net_vq_set_num(n->net, i, n->cfg->reset_num == VS_NUM_FORGET ?
                              0 : n->cfg->vq_num);
        }
        if (n->cfg->reset_drops_call) {
            n->vq[i].call_installed = false;
        }
    }
    if (n->cfg->reset_drops_config_call) {
        n->config_installed = false;
    }
    memset(n->group_asid, 0, sizeof(n->group_asid));
    vs_driver_apply_asids(n);
    if (clean_map && n->cfg->clean_map_on_reset) {
        for (i = 0; i < n->cfg->as_num; i++) {
            vs_driver_reset_map(n, i);
        }
    }
}

void vs_driver_push_map(VsNode *n, uint32_t asid)
{
    n->dtab_default[asid] = false;
    vs_iotlb_copy(n->dtab[asid], n->as[asid]);
}

bool vs_driver_index_valid(const VsNode *n, unsigned vq)
{
    uint64_t features = vs_net_features(n->net);

    if (!n->cfg->index_by_features || features & VS_F_MQ) {
        return true;
    }
    return vq < (features & VS_F_CTRL_VQ ? 3 : 2);
}

void vs_driver_kick(VsNode *n, unsigned vq)
{
    n->kicks++;
    if (n->status & VS_S_DRIVER_OK && !n->running) {
        n->kick_pending = true;
    }
    vs_net_vq_kick(n->net, vq);
}
