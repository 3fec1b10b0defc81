/*
 * vdpa-soft: IOTLB messages
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "compat.h"
#include "guard.h"
#include "json.h"
#include "memory.h"
#include "node-int.h"
#include "transcript.h"

/* vhost_iotlb_msg behind its header: what a message must at least have */
#define MSG_BYTES 40

/* A day: what a message asks for may be any number of bytes */
#define MAX_PIN_MS (24 * 3600 * 1000)

typedef struct Removal {
    VsNode *n;
    uint32_t asid;
} Removal;

static void mapping_removed(void *opaque, const VsMapping *m)
{
    Removal *r = opaque;
    VsNode *n = r->n;

    vs_memory_release(m->pinned);
    if (!n->cfg->set_map) {
        n->dtab_default[r->asid] = false;
        vs_iotlb_remove(n->dtab[r->asid], m->first, m->last, NULL, NULL);
    }
}

void vs_remove_mappings(VsNode *n, uint32_t asid, uint64_t first,
                            uint64_t last)
{
    Removal r = { .n = n, .asid = asid };

    vs_iotlb_remove(n->as[asid], first, last, mapping_removed, &r);
}

typedef struct Update {
    VsNode *n;
    uint32_t asid;
    uint64_t iova;
    uint64_t uaddr;
    uint8_t perm;
    uint64_t charged;   /* pages that belong to no entry yet */
    uint64_t *pin_ms;
} Update;

static int add_mapping(Update *u, uint64_t offset, uint64_t size,
                       uint64_t pinned)
{
    VsNode *n = u->n;
    VsMapping m = {
        .first = u->iova + offset,
        .last = u->iova + offset + size - 1,
        .addr = u->uaddr + offset,
        .perm = u->perm,
        .pinned = pinned,
    };

    if (n->cfg->max_entries &&
        vs_iotlb_count(n->as[u->asid]) >= n->cfg->max_entries) {
        return -ENOSPC;
    }
    vs_iotlb_add(n->as[u->asid], &m);
    if (!n->cfg->set_map) {
        n->dtab_default[u->asid] = false;
        vs_iotlb_add(n->dtab[u->asid], &m);
    } else if (!n->in_batch) {
        vs_driver_push_map(n, u->asid);
    }
    return 0;
}

/* What was mapped of an update goes again; nothing else was there */
static void undo(Update *u, uint64_t iova, uint64_t size)
{
    VsNode *n = u->n;

    vs_remove_mappings(n, u->asid, iova, iova + size - 1);
    if (n->cfg->set_map && !n->in_batch) {
        vs_driver_push_map(n, u->asid);
    }
}

static char *too_many_entries(const VsNode *n)
{
    return g_strdup_printf("ENOSPC: the address space can hold %u entries, "
                           "and it has them", n->cfg->max_entries);
}

/*
 * Take the time that pinning takes.  The node is unlocked meanwhile, but no
 * other call gets in: the mappings stay as they are.
 *
 * What is less than a millisecond is left for later updates, so that neither
 * many small ones cost more than one that is as large as all of them, nor
 * less.
 */
static void pin(VsNode *n, uint64_t bytes, uint64_t *pin_ms)
{
    double ms = (double)bytes / (1 << 30) * n->cfg->slow_pin;
    double pinned_ms = n->pinned_ms + MIN(ms, MAX_PIN_MS);

    *pin_ms = (uint64_t)pinned_ms - (uint64_t)n->pinned_ms;
    if (*pin_ms) {
        n->pinning = bytes;
        vs_node_unlock(n);
        vs_node_wake(n);
        vs_call_sleep(n, *pin_ms);
        vs_node_lock(n);
        n->pinning = 0;
    }
    n->pinned_ms = pinned_ms;
}

static int count_piece(void *opaque, uint64_t offset, uint64_t size,
                       bool usable)
{
    uint64_t *bytes = opaque;

    *bytes += usable ? size : 0;
    return 0;
}

static int map_piece(void *opaque, uint64_t offset, uint64_t size,
                     bool usable)
{
    return usable ? add_mapping(opaque, offset, size, 0) : 0;
}

static int map_va(Update *u, uint64_t size, char **why)
{
    VsNode *n = u->n;
    uint64_t bytes = 0;
    int ret = vs_memory_walk(u->uaddr, size, count_piece, &bytes);

    if (ret == 0) {
        pin(n, bytes, u->pin_ms);
        /* again: another thread may have changed the process meanwhile */
        ret = vs_memory_walk(u->uaddr, size, map_piece, u);
    }
    if (ret < 0) {
        undo(u, u->iova, size);
        *why = ret == -ENOSPC ? too_many_entries(n) :
               g_strdup_printf("EINVAL: no mapping of the process at or "
                               "above some part of 0x%" PRIx64 "..0x%" PRIx64,
                               u->uaddr, u->uaddr + size - 1);
    }
    return ret;
}

/* One that may be contiguous in physical memory, as far as chunks go */
static int map_run(void *opaque, uint64_t offset, uint64_t size, bool usable)
{
    Update *u = opaque;
    const uint64_t page = vs_page_size();
    uint64_t chunk = u->n->cfg->chunk;
    uint64_t end = offset + size;
    int ret = 0;

    while (ret == 0 && offset < end) {
        uint64_t piece = end - offset;

        if (chunk) {
            piece = MIN(piece, chunk - (u->uaddr + offset) % chunk);
        }
        ret = add_mapping(u, offset, piece, piece / page);
        if (ret == 0) {
            u->charged -= piece / page;
        }
        offset += piece;
    }
    return ret;
}

static int no_run(void *opaque, uint64_t offset, uint64_t size, bool usable)
{
    return 0;
}

static int map_pa(Update *u, uint64_t size, char **why)
{
    const uint64_t page = vs_page_size();
    uint64_t iova = u->iova, asked = size;
    uint64_t in_page = u->iova % page;
    uint64_t memlock = u->n->cfg->memlock / page;
    uint64_t pages, limit, held;
    bool write = u->perm & VS_PERM_WO;
    int ret;

    if (size + in_page + page - 1 < size) {
        *why = g_strdup("EINVAL: too large to be rounded to pages");
        return -EINVAL;
    }
    pages = (size + in_page + page - 1) / page;
    if (!vs_memory_charge(pages, u->n->cfg->memlock_set ? &memlock : NULL,
                          &limit, &held)) {
        *why = g_strdup_printf("ENOMEM: %s allows %" PRIu64
                               " bytes, %" PRIu64 " are locked and %" PRIu64
                               " more are asked for",
                               u->n->cfg->memlock_set ? "--memlock" :
                               "RLIMIT_MEMLOCK", limit * page,
                               held * page, pages * page);
        return -ENOMEM;
    }
    u->charged = pages;
    /* each is rounded on its own: offsets that differ are lost, as there */
    u->iova -= in_page;
    u->uaddr -= u->uaddr % page;
    size = pages * page;
    ret = vs_memory_runs(u->uaddr, size, write, no_run, NULL);
    if (ret == 0) {
        pin(u->n, size, u->pin_ms);
        /* again: another thread may have changed the process meanwhile */
        ret = vs_memory_runs(u->uaddr, size, write, map_run, u);
    }
    if (ret < 0) {
        vs_memory_release(u->charged);
        undo(u, iova, asked);
        *why = ret == -ENOSPC ? too_many_entries(u->n) :
               g_strdup_printf("EFAULT: not all of 0x%" PRIx64 "..0x%" PRIx64
                               " is mapped%s", u->uaddr, u->uaddr + size - 1,
                               write ? " writable" : "");
    }
    return ret;
}

static int msg_update(VsNode *n, const VsCaller *who, uint32_t asid,
                      const struct vhost_iotlb_msg *msg, uint64_t *pin_ms,
                      char **why)
{
    uint64_t last = msg->iova + msg->size - 1;
    Update u = {
        .n = n,
        .asid = asid,
        .iova = msg->iova,
        .uaddr = msg->uaddr,
        .perm = msg->perm,
        .pin_ms = pin_ms,
    };
    int ret;

    if (last < msg->iova || msg->iova < n->cfg->iova_first ||
        last > n->cfg->iova_last) {
        *why = g_strdup_printf("EINVAL: outside the IOVA range 0x%" PRIx64
                               "..0x%" PRIx64, n->cfg->iova_first,
                               n->cfg->iova_last);
        return -EINVAL;
    }
    if (vs_iotlb_overlaps(n->as[asid], msg->iova, last)) {
        *why = g_strdup("EEXIST: part of the range is mapped already");
        return -EEXIST;
    }
    if (who->fd >= 0) {
        *why = g_strdup("EFAULT: the memory of another process cannot be "
                        "reached; let the process that opens the node own it");
        return -EFAULT;
    }
    switch (n->cfg->map) {
    case VS_MAP_PA:
        ret = map_pa(&u, msg->size, why);
        break;
    case VS_MAP_ANY:
        pin(n, msg->size, pin_ms);
        ret = add_mapping(&u, 0, msg->size, 0);
        if (ret < 0) {
            *why = too_many_entries(n);
        }
        break;
    default:
        ret = map_va(&u, msg->size, why);
        break;
    }
    if (ret == 0) {
        n->largest_update = MAX(n->largest_update, msg->size);
    }
    return ret;
}

static int process_msg(VsNode *n, const VsCaller *who, uint32_t asid,
                       const struct vhost_iotlb_msg *msg, uint64_t *pin_ms,
                       char **why)
{
    int ret = 0;

    if (n->owner != who->id) {
        *why = g_strdup(n->owner ? "EPERM: another process owns the device"
                                 : "EPERM: the device has no owner");
        return -EPERM;
    }
    if (asid >= n->cfg->as_num) {
        *why = g_strdup_printf("EINVAL: there are %u address spaces",
                               n->cfg->as_num);
        return -EINVAL;
    }
    if (!n->as[asid] && (msg->type == VHOST_IOTLB_UPDATE ||
                         msg->type == VHOST_IOTLB_BATCH_BEGIN)) {
        n->as[asid] = vs_iotlb_new();
    }
    if (n->in_batch && n->batch_asid != asid) {
        *why = g_strdup_printf("EINVAL: a batch is open in address space %u",
                               n->batch_asid);
        return -EINVAL;
    }
    if (!n->as[asid]) {
        *why = g_strdup("EINVAL: nothing was ever mapped in this address "
                        "space");
        return -EINVAL;
    }

    switch (msg->type) {
    case VHOST_IOTLB_UPDATE:
        ret = msg_update(n, who, asid, msg, pin_ms, why);
        break;
    case VHOST_IOTLB_INVALIDATE:
        vs_remove_mappings(n, asid, msg->iova, msg->iova + msg->size - 1);
        if (n->cfg->set_map && !n->in_batch) {
            vs_driver_push_map(n, asid);
        }
        break;
    case VHOST_IOTLB_BATCH_BEGIN:
        n->in_batch = true;
        n->batch_asid = asid;
        break;
    case VHOST_IOTLB_BATCH_END:
        if (n->in_batch && n->cfg->set_map) {
            vs_driver_push_map(n, asid);
        }
        n->in_batch = false;
        break;
    default:
        *why = g_strdup_printf("EINVAL: unknown message type %u", msg->type);
        ret = -EINVAL;
        break;
    }
    return ret;
}

/*
 * write()
 */

static void msg_args_json(uint32_t version, uint32_t asid,
                          const struct vhost_iotlb_msg *msg, uint64_t pin_ms,
                          GString *s)
{
    g_string_append_c(s, '{');
    if (version == VHOST_IOTLB_MSG) {
        vs_json_u64(s, "version", 1);
    }
    vs_json_u64(s, "asid", asid);
    if (msg->type == VHOST_IOTLB_UPDATE ||
        msg->type == VHOST_IOTLB_INVALIDATE) {
        vs_json_u64(s, "iova", msg->iova);
        vs_json_u64(s, "size", msg->size);
    }
    if (msg->type == VHOST_IOTLB_UPDATE) {
        vs_json_u64(s, "uaddr", msg->uaddr);
        vs_json_u64(s, "perm", msg->perm);
        if (pin_ms) {
            vs_json_u64(s, "pin-ms", pin_ms);
        }
    }
    g_string_append_c(s, '}');
}

static const char *msg_name(unsigned type, char *buf, size_t size)
{
    switch (type) {
    case VHOST_IOTLB_UPDATE:
        return "IOTLB_UPDATE";
    case VHOST_IOTLB_INVALIDATE:
        return "IOTLB_INVALIDATE";
    case VHOST_IOTLB_BATCH_BEGIN:
        return "IOTLB_BATCH_BEGIN";
    case VHOST_IOTLB_BATCH_END:
        return "IOTLB_BATCH_END";
    default:
        snprintf(buf, size, "IOTLB_MSG_%u", type);
        return buf;
    }
}

/*
 * Gather at most MSG_BYTES of the client's buffers.
 *
 * Returns: how many were there; those behind an unreadable one are not
 */
static int gather(const struct iovec *iov, int count, uint8_t *buf)
{
    size_t got = 0;
    int i;

    for (i = 0; i < count && got < MSG_BYTES; i++) {
        size_t want = MIN(iov[i].iov_len, MSG_BYTES - got);

        if ((intptr_t)iov[i].iov_base < 0) {
            /* not an address of a process */
            return -EFAULT;
        }
        if (want && !vs_guard_from_user(buf + got, iov[i].iov_base, want)) {
            return got;
        }
        got += want;
    }
    return got;
}

ssize_t vs_node_write_for(VsNode *n, const VsCaller *who, int got,
                          const uint8_t *buf)
{
    uint8_t whole[MSG_BYTES] = { 0 };
    struct vhost_iotlb_msg msg;
    char name_buf[24], *why = NULL;
    const char *name;
    GString *args;
    uint32_t version, asid;
    uint64_t pin_ms = 0;
    int err = 0, ret;

    pthread_mutex_lock(&n->call_lock);
    memcpy(whole, buf, CLAMP(got, 0, MSG_BYTES));
    memcpy(&version, whole, sizeof(version));
    memcpy(&asid, whole + 4, sizeof(asid));
    memcpy(&msg, whole + 8, sizeof(msg));
    if (got < MSG_BYTES ||
        (version != VHOST_IOTLB_MSG && version != VHOST_IOTLB_MSG_V2) ||
        (msg.type == VHOST_IOTLB_UPDATE && msg.size == 0)) {
        err = got < 0 ? -got : EINVAL;
    }
    if (got < MSG_BYTES) {
        memset(&msg, 0, sizeof(msg));
        why = g_strdup_printf("only %d readable bytes of a message",
                              MAX(got, 0));
    }
    if (version != VHOST_IOTLB_MSG_V2 ||
        !(n->backend_acked & 1ULL << VHOST_BACKEND_F_IOTLB_ASID)) {
        asid = 0;
    }
    name = msg_name(msg.type, name_buf, sizeof(name_buf));

    ret = vs_call_injected(n, name);
    if (ret) {
        g_free(why);
        why = g_strdup("injected");
        err = ret;
    }
    vs_call_delay(n, name);
    vs_node_lock(n);
    n->messages++;
    if (!n->open) {
        err = who->fd >= 0 ? EIO : EBADF;
    } else if (!err) {
        /* whatever is wrong with it, the caller is told the same */
        err = process_msg(n, who, asid, &msg, &pin_ms, &why) < 0 ? EFAULT : 0;
    }
    vs_node_unlock(n);
    args = g_string_new(NULL);
    msg_args_json(version, asid, &msg, pin_ms, args);
    vs_transcript_add(n->index, name, args->str,
                      err ? -1 : (int)sizeof(struct vhost_msg_v2), err, why);
    g_string_free(args, true);
    g_free(why);
    vs_node_wake(n);
    pthread_mutex_unlock(&n->call_lock);
    return err ? -err : (ssize_t)sizeof(struct vhost_msg_v2);
}

ssize_t vs_node_write(VsNode *n, int fd, const struct iovec *iov, int count)
{
    VsCaller self = vs_caller_self();
    uint8_t buf[MSG_BYTES] = { 0 };
    int got, ret = vs_node_served(n, fd);

    if (ret < 0) {
        return ret;
    }
    if (vs_node_accmode(n) == O_RDONLY) {
        return -EBADF;
    }
    vs_nodes_guard();
    got = gather(iov, count, buf);
    return ret ? vs_node_write_for(n, &self, got, buf)
               : vs_remote_write(fd, got, buf);
}
