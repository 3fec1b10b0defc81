/*
 * vdpa-soft: a vhost-vdpa character device in user space
 *
 * A client's descriptor is one end of a pair of connected sockets, so that
 * duplicating, inheriting and passing it follow the kernel's own rules; the
 * last reference is gone when the other end, kept here, sees a hang-up.
 *
 * Locks, in the order they are taken:
 *   call_lock   one call at a time, as the kernel's own mutex; held while a
 *               slow call sleeps
 *   lock        everything in VsNode that the control socket looks at
 *   the device's lock (vs_net_lock()), under which it calls back; what the
 *               callbacks read is changed only under it
 *   wake_lock, the transcript's lock: nothing is taken inside
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "compat.h"
#include "device.h"
#include "guard.h"
#include "iotlb.h"
#include "json.h"
#include "memory.h"
#include "node.h"
#include "transcript.h"

#define S_DRIVER_OK   0x04
#define S_FEATURES_OK 0x08
#define S_NEEDS_RESET 0x40
#define S_FAILED      0x80

#define F_CTRL_VQ         (1ULL << 17)
#define F_GUEST_ANNOUNCE  (1ULL << 21)
#define F_MQ              (1ULL << 22)
#define F_ACCESS_PLATFORM (1ULL << 33)
#define F_RING_PACKED     (1ULL << 34)

#define GROUP_DATA 0
#define GROUP_CTRL 1
#define GROUP_DESC 2
#define MAX_GROUPS 3

#define MAX_FAULTS   256
#define MAX_CAPTURED 16384
/* vhost_iotlb_msg behind its header: what a message must at least have */
#define MSG_BYTES    40

#define NSEC 1000000000LL

typedef struct Vq {
    int kick_fd;
    uint32_t kick_gen;      /* tells a kick of an earlier eventfd */
    int call_fd;
    bool call_installed;    /* the driver's own record, lost at a reset */
    int err_fd;
    uint32_t busyloop;
    bool ready;
} Vq;

typedef struct Fault {
    uint32_t asid;
    uint64_t iova;
    uint64_t size;
    bool write;
    const char *why;
} Fault;

typedef struct Doorbell {
    struct Doorbell *next;
    VsNode *node;
    unsigned vq;
    void *addr;             /* where the client sees it */
    uint16_t *page;         /* where we do */
    int ref;                /* holds the node open */
} Doorbell;

struct VsNode {
    unsigned index;
    VsNodeConfig *cfg;
    pthread_mutex_t call_lock;
    pthread_mutex_t lock;
    VsNet *net;             /* made at the first open */
    unsigned nvqs;
    unsigned ngroups;

    /* the open file */
    atomic_bool open;
    _Atomic uint64_t inode; /* of the client's end, 0 if not open */
    _Atomic uint64_t foreign;   /* of the parent's, in a forked child */
    int accmode;
    int server_fd;
    int busy_fd;            /* its name marks the node as open */
    bool inherited;         /* open since launch, no call made yet */

    /* the vhost layer */
    bool owned;
    uint64_t backend_acked;
    uint64_t features_copy; /* decides how ring bases are encoded */
    bool suspended;
    bool in_batch;
    uint32_t batch_asid;
    uint8_t fork_owner;
    VsIotlb **as;           /* NULL: never named */
    Vq *vq;
    int config_fd;

    /* the driver; config_installed and dtab are read by callbacks */
    uint8_t status;
    bool dev_suspended;
    bool paused;
    bool running;
    bool kick_pending;
    bool config_installed;
    uint32_t group_asid[MAX_GROUPS];
    VsIotlb **dtab;         /* translations the device uses */
    bool *dtab_default;     /* there are none yet: pass-through */

    /* counters; faults, calls and frames under the device's lock */
    uint64_t ioctls;
    uint64_t messages;
    uint64_t kicks;
    uint64_t config_interrupts;
    uint64_t fault_count;
    Fault fault[MAX_FAULTS];
    bool capture;
    GQueue captured;        /* GBytes */

    pthread_mutex_t wake_lock;
    pthread_cond_t wake;
    uint64_t wake_seq;
};

static struct {
    unsigned count;
    VsNode *node[VS_MAX_NODES];
    VsSigaction *real_sigaction;
    char session[64];
    pthread_mutex_t lock;
    atomic_int epoll;       /* -1: no thread serves the nodes yet */
    Doorbell *doorbells;
    atomic_uint doorbell_count;
    bool doorbell_thread;
    pthread_cond_t doorbell_cond;
} vs = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .doorbell_cond = PTHREAD_COND_INITIALIZER,
    .epoll = -1,
};

int vs_thread_start(const char *name, void *(*run)(void *), void *arg)
{
    static const int kept[] = {
        SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS,
    };
    sigset_t set, old;
    pthread_t thread;
    size_t i;
    int ret;

    sigfillset(&set);
    for (i = 0; i < G_N_ELEMENTS(kept); i++) {
        sigdelset(&set, kept[i]);
    }
    pthread_sigmask(SIG_SETMASK, &set, &old);
    ret = pthread_create(&thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (ret) {
        return -ret;
    }
    pthread_setname_np(thread, name);
    pthread_detach(thread);
    return 0;
}

int vs_fd_high(int fd)
{
    int high;

    if (fd < 0) {
        return fd;
    }
    high = fcntl(fd, F_DUPFD_CLOEXEC, 512);
    if (high < 0) {
        return fd;
    }
    close(fd);
    return high;
}

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NSEC + ts.tv_nsec;
}

static void node_lock(VsNode *n)
{
    pthread_mutex_lock(&n->lock);
    if (n->net) {
        vs_net_lock(n->net);
    }
}

static void node_unlock(VsNode *n)
{
    if (n->net) {
        vs_net_unlock(n->net);
    }
    pthread_mutex_unlock(&n->lock);
}

static void node_wake(VsNode *n)
{
    pthread_mutex_lock(&n->wake_lock);
    n->wake_seq++;
    pthread_cond_broadcast(&n->wake);
    pthread_mutex_unlock(&n->wake_lock);
}

uint64_t vs_node_wake_seq(VsNode *n)
{
    uint64_t seq;

    pthread_mutex_lock(&n->wake_lock);
    seq = n->wake_seq;
    pthread_mutex_unlock(&n->wake_lock);
    return seq;
}

bool vs_node_wait(VsNode *n, uint64_t seq, int64_t deadline)
{
    struct timespec ts = {
        .tv_sec = deadline / NSEC,
        .tv_nsec = deadline % NSEC,
    };
    bool changed;

    pthread_mutex_lock(&n->wake_lock);
    while (n->wake_seq == seq &&
           pthread_cond_timedwait(&n->wake, &n->wake_lock, &ts) == 0) {
        /* woken for nothing */
    }
    changed = n->wake_seq != seq;
    pthread_mutex_unlock(&n->wake_lock);
    return changed;
}

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
    n->fault[n->fault_count % MAX_FAULTS] = (Fault) {
        .asid = asid,
        .iova = iova,
        .size = size,
        .write = write,
        .why = why,
    };
    n->fault_count++;
    node_wake(n);
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

static bool dma(VsNode *n, uint32_t asid, uint64_t iova, void *buf,
                size_t size, bool write)
{
    uint64_t addr, run, done;
    const char *why;
    bool ok;

    if (size == 0) {
        return true;
    }
    why = translate(n, asid, iova, size, write, &addr, &run);
    /* nothing is copied unless all of it can be translated */
    for (done = 0; !why && run < size - done; ) {
        done += run;
        why = translate(n, asid, iova + done, size - done, write, &addr,
                        &run);
    }
    for (done = 0; !why && done < size; done += run) {
        why = translate(n, asid, iova + done, size - done, write, &addr,
                        &run);
        if (!why) {
            ok = write ? vs_guard_dma_write(addr, (char *)buf + done, run)
                       : vs_guard_dma_read((char *)buf + done, addr, run);
            why = ok ? NULL : "memory is gone or protected";
        }
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

static void host_config_changed(void *opaque)
{
    VsNode *n = opaque;

    if (n->config_installed && n->config_fd >= 0 && n->cfg->config_irq &&
        (!n->cfg->config_irq_driver_ok || n->status & S_DRIVER_OK)) {
        n->config_interrupts++;
        add_one(n->config_fd);
    }
    node_wake(n);
}

static void host_stats_changed(void *opaque)
{
    node_wake(opaque);
}

static void host_transmitted(void *opaque, const void *frame, size_t len)
{
    VsNode *n = opaque;

    if (!n->capture) {
        return;
    }
    g_queue_push_tail(&n->captured, g_bytes_new(frame, len));
    if (n->captured.length > MAX_CAPTURED) {
        g_bytes_unref(g_queue_pop_head(&n->captured));
    }
    node_wake(n);
}

/*
 * The driver: what the kernel would ask the vDPA device
 */

/* The control queue's index depends on what was negotiated. */
static bool is_ctrl(const VsNode *n, unsigned vq)
{
    uint64_t features = n->net ? vs_net_features(n->net) : 0;

    if (!(n->cfg->features & F_CTRL_VQ)) {
        return false;
    }
    return vq == (features & F_MQ ? 2 * n->cfg->pairs : 2);
}

static unsigned vq_group(const VsNode *n, unsigned vq)
{
    return n->cfg->groups && is_ctrl(n, vq) ? GROUP_CTRL : GROUP_DATA;
}

static unsigned vq_desc_group(const VsNode *n, unsigned vq)
{
    return is_ctrl(n, vq) ? GROUP_CTRL : GROUP_DESC;
}

static void apply_asids(VsNode *n)
{
    bool split = n->cfg->desc_group &&
                 n->backend_acked & 1ULL << VHOST_BACKEND_F_DESC_ASID;
    unsigned i;

    for (i = 0; i < n->nvqs; i++) {
        uint32_t asid = n->group_asid[vq_group(n, i)];

        /* a client that knows of no descriptor groups has none */
        vs_net_vq_set_asid(n->net, i, asid,
                           split ? n->group_asid[vq_desc_group(n, i)]
                                 : asid);
    }
}

static void update_running(VsNode *n)
{
    bool run = n->status & S_DRIVER_OK && !n->dev_suspended && !n->paused;

    if (run != n->running) {
        n->running = run;
        vs_net_set_running(n->net, run, run && n->kick_pending);
        if (run) {
            n->kick_pending = false;
        }
    }
}

static void reset_map(VsNode *n, uint32_t asid)
{
    vs_iotlb_clear(n->dtab[asid]);
    n->dtab_default[asid] = n->cfg->passthrough &&
                            (n->cfg->like != VS_LIKE_MLX5 || asid == 0);
}

static void driver_reset(VsNode *n, bool clean_map)
{
    unsigned i;

    n->status = 0;
    n->dev_suspended = false;
    n->kick_pending = false;
    update_running(n);
    vs_net_reset(n->net);
    for (i = 0; i < n->nvqs; i++) {
        n->vq[i].ready = false;
        if (n->cfg->reset_drops_call) {
            n->vq[i].call_installed = false;
        }
    }
    if (n->cfg->reset_drops_config_call) {
        n->config_installed = false;
    }
    memset(n->group_asid, 0, sizeof(n->group_asid));
    apply_asids(n);
    if (clean_map && n->cfg->clean_map_on_reset) {
        for (i = 0; i < n->cfg->as_num; i++) {
            reset_map(n, i);
        }
    }
}

static void push_map(VsNode *n, uint32_t asid)
{
    n->dtab_default[asid] = false;
    vs_iotlb_copy(n->dtab[asid], n->as[asid]);
}

static bool index_valid(const VsNode *n, unsigned vq)
{
    uint64_t features = vs_net_features(n->net);

    if (!n->cfg->index_by_features || features & F_MQ) {
        return true;
    }
    return vq < (features & F_CTRL_VQ ? 3 : 2);
}

/*
 * IOTLB messages
 */

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

static void remove_mappings(VsNode *n, uint32_t asid, uint64_t first,
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
} Update;

static void add_mapping(Update *u, uint64_t offset, uint64_t size,
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

    vs_iotlb_add(n->as[u->asid], &m);
    if (!n->cfg->set_map) {
        n->dtab_default[u->asid] = false;
        vs_iotlb_add(n->dtab[u->asid], &m);
    } else if (!n->in_batch) {
        push_map(n, u->asid);
    }
}

static int map_piece(void *opaque, uint64_t offset, uint64_t size,
                     bool usable)
{
    if (usable) {
        add_mapping(opaque, offset, size, 0);
    }
    return 0;
}

static int map_pa(Update *u, uint64_t size, char **why)
{
    uint64_t in_page = u->iova % VS_PAGE_SIZE;
    uint64_t chunk = u->n->cfg->chunk;
    uint64_t pages, limit, held, offset;

    if (size + in_page + VS_PAGE_SIZE - 1 < size) {
        *why = g_strdup("EINVAL: too large to be rounded to pages");
        return -EINVAL;
    }
    pages = (size + in_page + VS_PAGE_SIZE - 1) / VS_PAGE_SIZE;
    if (!vs_memory_charge(pages, &limit, &held)) {
        *why = g_strdup_printf("ENOMEM: RLIMIT_MEMLOCK allows %" PRIu64
                               " bytes, %" PRIu64 " are locked and %" PRIu64
                               " more are asked for", limit * VS_PAGE_SIZE,
                               held * VS_PAGE_SIZE, pages * VS_PAGE_SIZE);
        return -ENOMEM;
    }
    /* each is rounded on its own: offsets that differ are lost, as there */
    u->iova -= in_page;
    u->uaddr -= u->uaddr % VS_PAGE_SIZE;
    size = pages * VS_PAGE_SIZE;
    if (!vs_memory_check(u->uaddr, size, u->perm & VS_PERM_WO)) {
        vs_memory_release(pages);
        *why = g_strdup_printf("EFAULT: not all of 0x%" PRIx64 "..0x%" PRIx64
                               " is mapped%s", u->uaddr, u->uaddr + size - 1,
                               u->perm & VS_PERM_WO ? " writable" : "");
        return -EFAULT;
    }
    for (offset = 0; offset < size; ) {
        uint64_t piece = size - offset;

        if (chunk) {
            piece = MIN(piece, chunk - (u->uaddr + offset) % chunk);
        }
        add_mapping(u, offset, piece, piece / VS_PAGE_SIZE);
        offset += piece;
    }
    return 0;
}

static int msg_update(VsNode *n, uint32_t asid,
                      const struct vhost_iotlb_msg *msg, char **why)
{
    uint64_t last = msg->iova + msg->size - 1;
    Update u = {
        .n = n,
        .asid = asid,
        .iova = msg->iova,
        .uaddr = msg->uaddr,
        .perm = msg->perm,
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
    switch (n->cfg->map) {
    case VS_MAP_PA:
        return map_pa(&u, msg->size, why);
    case VS_MAP_ANY:
        add_mapping(&u, 0, msg->size, 0);
        return 0;
    default:
        ret = vs_memory_walk(msg->uaddr, msg->size, map_piece, &u);
        if (ret < 0) {
            /* what was mapped of it goes again; nothing else was there */
            remove_mappings(n, asid, msg->iova, last);
            if (n->cfg->set_map && !n->in_batch) {
                push_map(n, asid);
            }
            *why = g_strdup_printf("EINVAL: no mapping of the process at or "
                                   "above some part of 0x%" PRIx64
                                   "..0x%" PRIx64, (uint64_t)msg->uaddr,
                                   (uint64_t)(msg->uaddr + msg->size - 1));
        }
        return ret;
    }
}

static int process_msg(VsNode *n, uint32_t asid,
                       const struct vhost_iotlb_msg *msg, char **why)
{
    int ret = 0;

    if (!n->owned) {
        *why = g_strdup("EPERM: the device has no owner");
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
        ret = msg_update(n, asid, msg, why);
        break;
    case VHOST_IOTLB_INVALIDATE:
        remove_mappings(n, asid, msg->iova, msg->iova + msg->size - 1);
        if (n->cfg->set_map && !n->in_batch) {
            push_map(n, asid);
        }
        break;
    case VHOST_IOTLB_BATCH_BEGIN:
        n->in_batch = true;
        n->batch_asid = asid;
        break;
    case VHOST_IOTLB_BATCH_END:
        if (n->in_batch && n->cfg->set_map) {
            push_map(n, asid);
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
 * Calls: transcript, injected failures, delays
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
 * @name: as in the transcript
 * @user: the client's argument
 * @data: its fixed part, read before the call if @in_ok
 * @args: members of the transcript's object
 * @bytes: configuration bytes, for the transcript
 * @why: a cause the kernel would not have told; g_malloc'd
 */
typedef struct Call {
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

/* Returns: the errno the call is to fail with, or 0 */
static int injected(VsNode *n, const char *name)
{
    int err = 0;
    guint i;

    pthread_mutex_lock(&n->lock);
    for (i = 0; i < n->cfg->rules->len; i++) {
        VsRule *rule = &g_array_index(n->cfg->rules, VsRule, i);

        if (strcmp(rule->call, name)) {
            continue;
        }
        rule->seen++;
        if (rule->seen == rule->occurrence ||
            (rule->always && rule->seen > rule->occurrence)) {
            err = err ? err : rule->err;
        }
    }
    pthread_mutex_unlock(&n->lock);
    return err;
}

static void delay(VsNode *n, const char *name)
{
    unsigned ms = 0;
    struct timespec until;
    int64_t ns;
    guint i;

    pthread_mutex_lock(&n->lock);
    for (i = 0; i < n->cfg->slow->len; i++) {
        VsSlow *slow = &g_array_index(n->cfg->slow, VsSlow, i);

        if (!strcmp(slow->call, name)) {
            ms = slow->ms;
        }
    }
    pthread_mutex_unlock(&n->lock);
    if (ms) {
        ns = now_ns() + ms * 1000000LL;
        until.tv_sec = ns / NSEC;
        until.tv_nsec = ns % NSEC;
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until,
                               NULL) == EINTR) {
            /* a signal does not make a device faster */
        }
    }
}

/*
 * The thread that waits for kicks and hang-ups
 */

#define KEY_HANGUP UINT64_MAX
#define KEY(node, vq, gen) \
    ((uint64_t)(gen) << 32 | (uint64_t)(node) << 16 | (vq))

static void ring_doorbell(VsNode *n, unsigned vq)
{
    n->kicks++;
    if (n->status & S_DRIVER_OK && !n->running) {
        n->kick_pending = true;
    }
    vs_net_vq_kick(n->net, vq);
}

static void on_kick(uint64_t key)
{
    VsNode *n = vs.node[key >> 16 & 0xffff];
    unsigned vq = key & 0xffff;

    node_lock(n);
    /* it may have been replaced after this event was fetched */
    if (n->open && n->net && n->vq[vq].kick_fd >= 0 &&
        n->vq[vq].kick_gen == key >> 32) {
        ring_doorbell(n, vq);
    }
    node_unlock(n);
    node_wake(n);
}

static void *event_thread(void *opaque)
{
    int epoll = (intptr_t)opaque;
    struct epoll_event event[64];

    for (;;) {
        int count = epoll_wait(epoll, event, G_N_ELEMENTS(event), -1);
        unsigned j;
        int i;

        for (i = 0; i < count; i++) {
            if (event[i].data.u64 != KEY_HANGUP) {
                on_kick(event[i].data.u64);
                continue;
            }
            for (j = 0; j < vs.count; j++) {
                vs_node_check_close(vs.node[j]);
            }
        }
    }
    return NULL;
}

static int start_events(void)
{
    int fd, ret = 0;

    pthread_mutex_lock(&vs.lock);
    if (vs.epoll < 0) {
        fd = vs_fd_high(epoll_create1(EPOLL_CLOEXEC));
        if (fd < 0) {
            ret = -errno;
        } else {
            ret = vs_thread_start("vdpa-soft-kick", event_thread,
                                  (void *)(intptr_t)fd);
            if (ret < 0) {
                close(fd);
            } else {
                vs.epoll = fd;
            }
        }
    }
    pthread_mutex_unlock(&vs.lock);
    return ret;
}

/* Forked children may share the file, so closing it is not enough. */
static void forget_fd(int *fd)
{
    if (*fd >= 0) {
        epoll_ctl(vs.epoll, EPOLL_CTL_DEL, *fd, NULL);
        close(*fd);
        *fd = -1;
    }
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/*
 * Take a reference on a client's eventfd.
 * @copy: receives a descriptor of our own, or -1 for @fd == -1
 *
 * Returns: 0 or a negative errno
 */
static int get_eventfd(int fd, int *copy)
{
    char path[48], target[48];
    struct stat st;
    ssize_t len;
    int own;

    *copy = -1;
    if (fd == -1) {
        return 0;
    }
    own = fcntl(fd, F_DUPFD_CLOEXEC, 512);
    if (own < 0 && errno != EBADF) {
        /* the limit may be below the numbers we like */
        own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
    if (own < 0) {
        return -errno;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", own);
    len = readlink(path, target, sizeof(target) - 1);
    if (len >= 0) {
        target[len] = 0;
        if (!strstr(target, "[eventfd")) {
            close(own);
            return -EINVAL;
        }
    } else if (fstat(own, &st) == 0 && (st.st_mode & S_IFMT) != 0) {
        /* no /proc; an eventfd at least has no file type */
        close(own);
        return -EINVAL;
    }
    *copy = own;
    return 0;
}

static int set_kick(VsNode *n, unsigned i, int fd)
{
    Vq *vq = &n->vq[i];
    struct epoll_event event = { .events = EPOLLIN | EPOLLET };

    forget_fd(&vq->kick_fd);
    vq->kick_gen++;
    if (fd < 0) {
        return 0;
    }
    /*
     * Edge-triggered: one event for each write, and one for what was
     * written before, though nobody ever reads.
     */
    event.data.u64 = KEY(n->index, i, vq->kick_gen);
    if (epoll_ctl(vs.epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        int err = errno;

        close(fd);
        return -err;
    }
    vq->kick_fd = fd;
    return 0;
}

/*
 * ioctls.  All of these are called with the node locked and return 0 or a
 * negative errno.
 */

static int copy_out(Call *c, size_t size)
{
    return vs_guard_to_user(c->user, &c->data, size) ? 0 : -EFAULT;
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
    if (n->cfg->backend_set && features & ~n->cfg->backend_features) {
        return -EOPNOTSUPP;
    }
    n->backend_acked = features;
    apply_asids(n);
    return 0;
}

static int ioctl_set_features(VsNode *n, Call *c)
{
    uint64_t features = c->data.u64;
    uint64_t stray = features & ~n->cfg->features;

    if (n->status & S_FEATURES_OK) {
        return -EBUSY;
    }
    if (!c->in_ok) {
        return -EFAULT;
    }
    if (n->cfg->need_access_platform && n->cfg->features & F_ACCESS_PLATFORM
        && !(features & F_ACCESS_PLATFORM)) {
        c->why = g_strdup("the driver insists on ACCESS_PLATFORM");
        return -EINVAL;
    }
    if (n->cfg->need_ctrl_vq_for_mq && features & F_MQ &&
        !(features & F_CTRL_VQ)) {
        c->why = g_strdup("MQ needs CTRL_VQ");
        return -EINVAL;
    }
    if (stray && n->cfg->stray == VS_STRAY_REJECT) {
        c->why = g_strdup_printf("0x%" PRIx64 " is not offered", stray);
        return -EINVAL;
    }
    vs_net_set_features(n->net, features);
    n->features_copy = n->cfg->stray == VS_STRAY_REFUSE ?
                       features : vs_net_features(n->net);
    apply_asids(n);
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
        driver_reset(n, !(n->backend_acked &
                          1ULL << VHOST_BACKEND_F_IOTLB_PERSIST));
        n->suspended = false;
        return 0;
    }
    if (before & ~status) {
        c->why = g_strdup_printf("status is %u: only 0 can take bits away",
                                 before);
        return -EINVAL;
    }
    start = status & ~before & S_DRIVER_OK;
    if (start && n->cfg->fail_driver_ok) {
        n->status |= S_FAILED;
        if (n->cfg->like == VS_LIKE_MLX5) {
            unsigned i;

            for (i = 0; i < n->cfg->as_num; i++) {
                reset_map(n, i);
            }
        }
        return 0;
    }
    status &= ~n->cfg->refuse_status | before;
    if (n->cfg->stray == VS_STRAY_REFUSE &&
        n->features_copy & ~n->cfg->features) {
        status &= ~S_FEATURES_OK | before;
    }
    n->status = status;
    if (status & S_DRIVER_OK && n->cfg->status_resumes && n->dev_suspended) {
        /* a status write wakes it, but nobody kicks the rings */
        n->dev_suspended = false;
        n->kick_pending = false;
    }
    update_running(n);
    if (start && status & S_DRIVER_OK && n->cfg->config_irq_spurious) {
        host_config_changed(n);
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
        if (!vs_guard_from_user(c->bytes->data, user, len)) {
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
    return vs_guard_to_user(user, c->bytes->data, len) ? 0 : -EFAULT;
}

static int ioctl_set_config_call(VsNode *n, Call *c)
{
    int fd, ret;

    if (!c->in_ok) {
        return -EFAULT;
    }
    ret = get_eventfd(c->data.fd, &fd);
    /* a bad descriptor still drops the good one */
    close_fd(&n->config_fd);
    n->config_installed = false;
    n->config_fd = fd;
    n->config_installed = fd >= 0;
    return ret;
}

static int ioctl_suspend(VsNode *n, bool suspend)
{
    unsigned i;

    if (!(n->status & S_DRIVER_OK)) {
        return 0;
    }
    if (suspend ? !n->cfg->suspend : !n->cfg->resume) {
        return -EOPNOTSUPP;
    }
    n->suspended = suspend;
    n->dev_suspended = suspend;
    if (suspend && n->cfg->resume_leaves_ctrl) {
        for (i = 0; i < n->nvqs; i++) {
            if (is_ctrl(n, i)) {
                n->vq[i].ready = false;
                vs_net_vq_enable(n->net, i, false);
            }
        }
    }
    update_running(n);
    if (!suspend && n->cfg->config_irq_spurious) {
        host_config_changed(n);
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
    return vs_guard_from_user(region, (char *)c->user + 8, size) ? 0
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
        if (n->owned) {
            return -EBUSY;
        }
        n->owned = true;
        return 0;
    case VS_SET_FORK_FROM_OWNER:
        if (n->owned) {
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
    if (!n->owned) {
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
    if (n->status & S_DRIVER_OK && !n->suspended) {
        c->why = g_strdup("addresses cannot change while the device runs");
        return -EINVAL;
    }
    if (!index_valid(n, i)) {
        return -EINVAL;
    }
    vs_net_vq_set_addr(n->net, i, a->desc_user_addr, a->avail_user_addr,
                       a->used_user_addr);
    return 0;
}

static int vring_set_base(VsNode *n, unsigned i, Call *c)
{
    bool packed = n->features_copy & F_RING_PACKED;
    uint32_t base = c->data.state.num;

    if (!packed && base > 0xffff) {
        return -EINVAL;
    }
    if (n->status & S_DRIVER_OK && !n->suspended) {
        c->why = g_strdup("the base cannot change while the device runs");
        return -EINVAL;
    }
    if (n->cfg->base_unsupported &&
        (!(n->status & S_FEATURES_OK) || n->vq[i].ready ||
         base != (packed ? 0x80008000 : 0))) {
        return -EOPNOTSUPP;
    }
    if (n->cfg->base_checked &&
        (!index_valid(n, i) || (n->vq[i].ready && n->running))) {
        return -EINVAL;
    }
    vs_net_vq_set_base(n->net, i, base);
    return 0;
}

static int vring_get_base(VsNode *n, unsigned i, Call *c)
{
    if (n->cfg->base_unsupported) {
        return -EOPNOTSUPP;
    }
    if (n->cfg->base_checked && !index_valid(n, i)) {
        return -EINVAL;
    }
    c->data.state.num = vs_net_vq_base(n->net, i);
    if (n->cfg->base_is_used && !(n->features_copy & F_RING_PACKED)) {
        VsVqStats stats;

        vs_net_vq_stats(n->net, i, &stats);
        c->data.state.num = stats.used_idx;
    }
    return copy_out(c, sizeof(c->data.state));
}

static int vring_set_file(VsNode *n, unsigned i, Call *c)
{
    Vq *vq = &n->vq[i];
    int fd, ret = get_eventfd(c->data.file.fd, &fd);

    if (ret < 0) {
        return ret;
    }
    switch (c->cmd) {
    case VHOST_SET_VRING_KICK:
        return set_kick(n, i, fd);
    case VHOST_SET_VRING_CALL:
        close_fd(&vq->call_fd);
        vq->call_fd = fd;
        vq->call_installed = fd >= 0;
        return 0;
    default:
        close_fd(&vq->err_fd);
        vq->err_fd = fd;
        return 0;
    }
}

static int vring_enable(VsNode *n, unsigned i, bool enable)
{
    uint64_t features = vs_net_features(n->net);

    if (n->cfg->index_by_features && (!features || !index_valid(n, i))) {
        return 0;
    }
    if (enable && n->status & S_DRIVER_OK &&
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

    if (num == 0 || num > 32768 || num & (num - 1)) {
        return -EINVAL;
    }
    if (index_valid(n, i)) {
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
    if (c->in_ok && c->info && arg_size(c->info->arg) >= 4) {
        i = state->index;
    } else if (!vs_guard_from_user(&i, c->user, sizeof(i))) {
        return -EFAULT;
    }
    if (i >= limit) {
        return -ENOBUFS;
    }
    if (c->info && c->info->in && !c->in_ok) {
        return -EFAULT;
    }

    switch (c->cmd) {
    case VHOST_VDPA_SET_VRING_ENABLE:
        return vring_enable(n, i, state->num);
    case VHOST_VDPA_GET_VRING_GROUP:
        if (!n->cfg->groups) {
            return -EOPNOTSUPP;
        }
        state->num = vq_group(n, i);
        return copy_out(c, sizeof(*state));
    case VHOST_VDPA_GET_VRING_DESC_GROUP:
        if (!n->cfg->desc_group) {
            return -EOPNOTSUPP;
        }
        state->num = vq_desc_group(n, i);
        return copy_out(c, sizeof(*state));
    case VHOST_VDPA_SET_GROUP_ASID:
        if (i >= n->ngroups || state->num >= n->cfg->as_num) {
            return -EINVAL;
        }
        if (!n->cfg->groups) {
            return -EOPNOTSUPP;
        }
        n->group_asid[i] = state->num;
        apply_asids(n);
        return 0;
    case VHOST_VDPA_GET_VRING_SIZE:
        if (!n->cfg->vq_size) {
            return -EOPNOTSUPP;
        }
        vs_net_vq_stats(n->net, i, &stats);
        state->num = stats.num ? stats.num : n->cfg->vq_num;
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

static void call_begin(Call *c, uint32_t cmd, void *user)
{
    size_t i;

    memset(c, 0, sizeof(*c));
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
        c->in_ok = vs_guard_from_user(&c->data, user,
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
    node_wake(n);
}

static int attach_inherited(VsNode *n);

int vs_node_ioctl(VsNode *n, uint32_t cmd, void *arg)
{
    Call c;
    int ret;

    if (n->foreign) {
        return -EPERM;
    }
    pthread_mutex_lock(&n->call_lock);
    ret = attach_inherited(n);
    if (ret < 0) {
        pthread_mutex_unlock(&n->call_lock);
        return ret;
    }
    call_begin(&c, cmd, arg);
    ret = -injected(n, c.name);
    delay(n, c.name);

    node_lock(n);
    n->ioctls++;
    if (!n->open) {
        /* another thread closed it while this one was on its way */
        ret = -EBADF;
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
    node_unlock(n);
    call_end(n, &c, ret);
    pthread_mutex_unlock(&n->call_lock);
    return ret;
}

/*
 * write()
 */

static void msg_args_json(uint32_t version, uint32_t asid,
                          const struct vhost_iotlb_msg *msg, GString *s)
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

ssize_t vs_node_write(VsNode *n, const struct iovec *iov, int count)
{
    uint8_t buf[MSG_BYTES] __attribute__((aligned(8))) = { 0 };
    struct vhost_iotlb_msg msg;
    char name_buf[24], *why = NULL;
    const char *name;
    GString *args;
    uint32_t version, asid;
    int got, err = 0, ret;

    if (n->foreign) {
        return -EFAULT;
    }
    pthread_mutex_lock(&n->call_lock);
    ret = attach_inherited(n);
    if (ret < 0) {
        pthread_mutex_unlock(&n->call_lock);
        return ret;
    }
    if (n->accmode == O_RDONLY) {
        pthread_mutex_unlock(&n->call_lock);
        return -EBADF;
    }
    got = gather(iov, count, buf);
    memcpy(&version, buf, sizeof(version));
    memcpy(&asid, buf + 4, sizeof(asid));
    memcpy(&msg, buf + 8, sizeof(msg));
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
    args = g_string_new(NULL);
    msg_args_json(version, asid, &msg, args);

    ret = injected(n, name);
    if (ret) {
        g_free(why);
        why = g_strdup("injected");
        err = ret;
    }
    delay(n, name);
    node_lock(n);
    n->messages++;
    if (!n->open) {
        err = EBADF;
    } else if (!err) {
        /* whatever is wrong with it, the caller is told the same */
        err = process_msg(n, asid, &msg, &why) < 0 ? EFAULT : 0;
    }
    node_unlock(n);
    vs_transcript_add(n->index, name, args->str,
                      err ? -1 : (int)sizeof(struct vhost_msg_v2), err, why);
    g_string_free(args, true);
    g_free(why);
    node_wake(n);
    pthread_mutex_unlock(&n->call_lock);
    return err ? -err : (ssize_t)sizeof(struct vhost_msg_v2);
}

/*
 * Open and close
 */

/* In this process or in another of the same run */
static int claim(VsNode *n)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd, len;

    /*
     * A name in the abstract space is taken by one socket at a time and is
     * free again when that is gone, whatever became of its process.
     */
    len = snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1,
                   "vdpa-soft-%s-%u", vs.session, n->index);
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    if (bind(fd, (struct sockaddr *)&addr,
             offsetof(struct sockaddr_un, sun_path) + 1 + len) < 0) {
        int err = errno;

        close(fd);
        return err == EADDRINUSE ? -EBUSY : -err;
    }
    n->busy_fd = vs_fd_high(fd);
    return 0;
}

static bool hung_up(int fd)
{
    struct pollfd p = { .fd = fd, .events = 0 };

    return poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLERR);
}

static int make_net(VsNode *n)
{
    const VsHost host = {
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
    VsNetConfig config = {
        .pairs = n->cfg->pairs,
        .features = n->cfg->features,
        .mtu = n->cfg->mtu,
        .max_ring = 32768,
        .wire = n->cfg->wire,
        .max_frame = n->cfg->max_frame,
    };
    char *error = NULL;

    if (n->net) {
        return 0;
    }
    memcpy(config.mac, n->cfg->mac, sizeof(config.mac));
    pthread_mutex_lock(&n->lock);
    n->net = vs_net_new(&config, &host, &error);
    pthread_mutex_unlock(&n->lock);
    if (!n->net) {
        fprintf(stderr, "vdpa-soft: %s: cannot make the device: %s\n",
                n->cfg->path, error ? error : "unknown error");
        g_free(error);
        return -ENXIO;
    }
    return 0;
}

/* The inode tells references to this open file from those to another. */
static uint64_t inode_of(int fd)
{
    struct statx st;

    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_INO | STATX_TYPE,
                &st) < 0 || (st.stx_mode & S_IFMT) != S_IFSOCK) {
        return 0;
    }
    return st.stx_ino;
}

/* The node is open; what was before is forgotten. */
static int opened(VsNode *n, uint64_t inode, int server, int flags)
{
    struct epoll_event event = {
        .events = EPOLLHUP,
        .data.u64 = KEY_HANGUP,
    };
    /* the socket has to look readable, as a device without poll() does */
    const char ready = 0;
    unsigned i;

    node_lock(n);
    n->server_fd = server;
    n->accmode = flags & O_ACCMODE;
    n->owned = false;
    n->backend_acked = 0;
    n->features_copy = 0;
    n->suspended = false;
    n->in_batch = false;
    n->fork_owner = 1;
    for (i = 0; i < n->nvqs; i++) {
        n->vq[i].busyloop = 0;
        /* stricter than vdpa_sim, whose ring sizes survive a close */
        vs_net_vq_set_num(n->net, i, 0);
    }
    driver_reset(n, false);
    n->inode = inode;
    n->inherited = false;
    n->open = true;
    node_unlock(n);
    if (send(server, &ready, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ||
        epoll_ctl(vs.epoll, EPOLL_CTL_ADD, server, &event) < 0) {
        return -errno;
    }
    return 0;
}

static void released(VsNode *n)
{
    unsigned i;

    node_lock(n);
    n->open = false;
    n->inode = 0;
    driver_reset(n, !(n->backend_acked &
                      1ULL << VHOST_BACKEND_F_IOTLB_PERSIST));
    for (i = 0; i < n->nvqs; i++) {
        Vq *vq = &n->vq[i];

        forget_fd(&vq->kick_fd);
        vq->kick_gen++;
        close_fd(&vq->call_fd);
        close_fd(&vq->err_fd);
        vq->call_installed = false;
    }
    close_fd(&n->config_fd);
    n->config_installed = false;
    for (i = 0; i < n->cfg->as_num; i++) {
        if (n->as[i]) {
            remove_mappings(n, i, 0, UINT64_MAX);
            vs_iotlb_free(n->as[i]);
            n->as[i] = NULL;
        }
        reset_map(n, i);
    }
    n->owned = false;
    n->backend_acked = 0;
    n->features_copy = 0;
    n->suspended = false;
    n->in_batch = false;
    node_unlock(n);
    vs_transcript_add(n->index, "CLOSE", "{}", 0, 0, NULL);
    forget_fd(&n->server_fd);
    close_fd(&n->busy_fd);
    node_wake(n);
}

/* Call with call_lock held. */
static void check_close_locked(VsNode *n)
{
    if (n->server_fd < 0 || !hung_up(n->server_fd)) {
        return;
    }
    if (n->inherited) {
        /* nobody ever used it */
        n->inherited = false;
        n->open = false;
        n->inode = 0;
        close_fd(&n->server_fd);
    } else if (n->open) {
        released(n);
    }
}

void vs_node_check_close(VsNode *n)
{
    if (n->open && !n->foreign) {
        pthread_mutex_lock(&n->call_lock);
        check_close_locked(n);
        pthread_mutex_unlock(&n->call_lock);
    }
}

static int bring_up(VsNode *n)
{
    int ret;

    vs_guard_install(vs.real_sigaction);
    vs_control_start();
    ret = start_events();
    return ret < 0 ? ret : make_net(n);
}

/*
 * A descriptor given to the program at its start: the first call on it shows
 * which process is to serve it.  Call with call_lock held.
 */
static int attach_inherited(VsNode *n)
{
    int ret;

    if (!n->inherited) {
        return 0;
    }
    ret = claim(n);
    if (ret < 0) {
        return ret;
    }
    ret = bring_up(n);
    if (ret < 0) {
        close_fd(&n->busy_fd);
        return ret;
    }
    fcntl(n->server_fd, F_SETFD, FD_CLOEXEC);
    ret = opened(n, n->inode, n->server_fd, O_RDWR);
    vs_transcript_add(n->index, "OPEN", "{\"inherited\":true}", 0, 0, NULL);
    return ret;
}

int vs_node_open(VsNode *n, int flags)
{
    int sv[2] = { -1, -1 }, ret, type = SOCK_STREAM;
    char args[32];

    pthread_mutex_lock(&n->call_lock);
    snprintf(args, sizeof(args), "{\"flags\":%d}", flags & O_ACCMODE);
    ret = -injected(n, "OPEN");
    delay(n, "OPEN");
    if (ret == 0 && n->cfg->busy) {
        ret = -EBUSY;
    }
    check_close_locked(n);
    if (ret == 0 && (n->open || n->foreign)) {
        ret = -EBUSY;
    }
    if (ret == 0) {
        ret = claim(n);
    }
    if (ret == 0) {
        ret = bring_up(n);
        if (flags & O_CLOEXEC) {
            type |= SOCK_CLOEXEC;
        }
        if (ret == 0 && socketpair(AF_UNIX, type, 0, sv) < 0) {
            ret = -errno;
        }
        if (ret == 0) {
            sv[1] = vs_fd_high(sv[1]);
            fcntl(sv[1], F_SETFD, FD_CLOEXEC);
            if (flags & O_NONBLOCK) {
                fcntl(sv[0], F_SETFL, O_RDWR | O_NONBLOCK);
            }
            ret = opened(n, inode_of(sv[0]), sv[1], flags);
            if (ret < 0) {
                n->open = false;
                n->inode = 0;
                n->server_fd = -1;
                close(sv[0]);
                close(sv[1]);
            }
        }
        if (ret < 0) {
            close_fd(&n->busy_fd);
        }
    }
    vs_transcript_add(n->index, "OPEN", args, ret < 0 ? -1 : 0,
                      ret < 0 ? -ret : 0, NULL);
    node_wake(n);
    pthread_mutex_unlock(&n->call_lock);
    return ret < 0 ? ret : sv[0];
}

/*
 * Doorbell pages
 *
 * Nothing tells us of a store to a page, so a thread looks at it.  What it
 * looks for must differ from every queue index: the page is kept at 0xffff,
 * which no doorbell rings.
 */

#define DOORBELL_IDLE 0xffff
#define DOORBELL_SPIN_NS 50000
#define DOORBELL_NAP_NS  100000

static void *doorbell_thread(void *opaque)
{
    const struct timespec nap = { .tv_nsec = DOORBELL_NAP_NS };
    int64_t seen = now_ns();

    for (;;) {
        bool found = false;
        Doorbell *d;

        pthread_mutex_lock(&vs.lock);
        while (!vs.doorbells) {
            pthread_cond_wait(&vs.doorbell_cond, &vs.lock);
        }
        for (d = vs.doorbells; d; d = d->next) {
            VsNode *n = d->node;

            if (__atomic_load_n(d->page, __ATOMIC_RELAXED) == DOORBELL_IDLE ||
                __atomic_exchange_n(d->page, DOORBELL_IDLE,
                                    __ATOMIC_ACQ_REL) == DOORBELL_IDLE) {
                continue;
            }
            found = true;
            node_lock(n);
            if (n->open && n->net) {
                ring_doorbell(n, d->vq);
            }
            node_unlock(n);
            node_wake(n);
        }
        pthread_mutex_unlock(&vs.lock);
        /* stay awake a little after each doorbell, others follow it soon */
        if (found) {
            seen = now_ns();
        }
        if (now_ns() - seen > DOORBELL_SPIN_NS) {
            nanosleep(&nap, NULL);
        }
    }
    return NULL;
}

bool vs_doorbells_mapped(void)
{
    return vs.doorbell_count;
}

static int doorbell_add(VsNode *n, int client, void *addr, int prot,
                        int flags, unsigned vq, void **result)
{
    long size = sysconf(_SC_PAGESIZE);
    Doorbell *d = g_new0(Doorbell, 1);
    int ret = 0, fd = vs_fd_high(memfd_create("vdpa-doorbell", MFD_CLOEXEC));

    d->node = n;
    d->vq = vq;
    d->ref = -1;
    d->page = MAP_FAILED;
    d->addr = MAP_FAILED;
    if (fd < 0 || ftruncate(fd, size) < 0) {
        ret = -errno;
        goto out;
    }
    d->page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (d->page == MAP_FAILED) {
        ret = -errno;
        goto out;
    }
    *d->page = DOORBELL_IDLE;
    d->ref = fcntl(client, F_DUPFD_CLOEXEC, 512);
    if (d->ref < 0) {
        ret = -errno;
        goto out;
    }
    pthread_mutex_lock(&vs.lock);
    if (!vs.doorbell_thread) {
        ret = vs_thread_start("vdpa-soft-bell", doorbell_thread, NULL);
        vs.doorbell_thread = ret == 0;
    }
    pthread_mutex_unlock(&vs.lock);
    if (ret == 0) {
        d->addr = mmap(addr, size, prot, flags, fd, 0);
        if (d->addr == MAP_FAILED) {
            ret = -errno;
        }
    }
out:
    if (fd >= 0) {
        close(fd);
    }
    if (ret < 0) {
        if (d->page != MAP_FAILED) {
            munmap(d->page, size);
        }
        close_fd(&d->ref);
        g_free(d);
        return ret;
    }
    pthread_mutex_lock(&vs.lock);
    d->next = vs.doorbells;
    vs.doorbells = d;
    vs.doorbell_count++;
    pthread_cond_signal(&vs.doorbell_cond);
    pthread_mutex_unlock(&vs.lock);
    *result = d->addr;
    return 0;
}

void vs_doorbells_unmap(void *addr, size_t length)
{
    uintptr_t start = (uintptr_t)addr;
    long size = sysconf(_SC_PAGESIZE);
    Doorbell **p, *gone = NULL;

    pthread_mutex_lock(&vs.lock);
    for (p = &vs.doorbells; *p; ) {
        Doorbell *d = *p;
        uintptr_t at = (uintptr_t)d->addr;

        if (at >= start && at - start < length) {
            *p = d->next;
            d->next = gone;
            gone = d;
            vs.doorbell_count--;
        } else {
            p = &d->next;
        }
    }
    pthread_mutex_unlock(&vs.lock);
    while (gone) {
        Doorbell *d = gone;

        gone = d->next;
        munmap(d->page, size);
        close(d->ref);
        vs_node_check_close(d->node);
        g_free(d);
    }
}

static int mmap_check(VsNode *n, size_t length, int prot, int flags,
                      off_t offset)
{
    long size = sysconf(_SC_PAGESIZE);
    uint64_t vq = offset / size;

    if (n->accmode != O_RDWR) {
        return -EACCES;
    }
    if (length == 0 || (length + size - 1) / size != 1 ||
        (flags & MAP_TYPE) == MAP_PRIVATE || prot & PROT_READ ||
        offset % size) {
        return -EINVAL;
    }
    if (!n->cfg->doorbell) {
        return -VS_ENOTSUPP;
    }
    if (vq >= n->nvqs) {
        return -EINVAL;
    }
    return n->cfg->like == VS_LIKE_MLX5 && is_ctrl(n, vq) ? -VS_ENOTSUPP : 0;
}

int vs_node_mmap(VsNode *n, int fd, void *addr, size_t length, int prot,
                 int flags, off_t offset, void **result)
{
    char args[96];
    int ret;

    if (n->foreign) {
        return -ENODEV;
    }
    pthread_mutex_lock(&n->call_lock);
    ret = attach_inherited(n);
    if (ret == 0) {
        ret = -injected(n, "MMAP");
        delay(n, "MMAP");
    }
    if (ret == 0) {
        node_lock(n);
        ret = mmap_check(n, length, prot, flags, offset);
        node_unlock(n);
    }
    if (ret == 0) {
        ret = doorbell_add(n, fd, addr, prot, flags,
                           offset / sysconf(_SC_PAGESIZE), result);
    }
    snprintf(args, sizeof(args), "{\"offset\":%lld,\"len\":%zu,\"prot\":%d}",
             (long long)offset, length, prot);
    vs_transcript_add(n->index, "MMAP", args, ret < 0 ? -1 : 0,
                      ret < 0 ? -ret : 0, NULL);
    node_wake(n);
    pthread_mutex_unlock(&n->call_lock);
    return ret;
}

/*
 * The nodes of the process
 */

unsigned vs_nodes_count(void)
{
    return vs.count;
}

VsNode *vs_node_get(unsigned index)
{
    return index < vs.count ? vs.node[index] : NULL;
}

VsNode *vs_node_by_path(const char *path)
{
    unsigned i;

    for (i = 0; i < vs.count; i++) {
        if (!strcmp(vs.node[i]->cfg->path, path)) {
            return vs.node[i];
        }
    }
    return NULL;
}

VsNode *vs_node_by_fd(int fd)
{
    uint64_t inode = 0;
    unsigned i;

    for (i = 0; i < vs.count; i++) {
        VsNode *n = vs.node[i];

        if (!n->inode && !n->foreign) {
            continue;
        }
        if (!inode) {
            inode = inode_of(fd);
            if (!inode) {
                return NULL;
            }
        }
        if (n->inode == inode || n->foreign == inode) {
            return n;
        }
    }
    return NULL;
}

unsigned vs_node_index(const VsNode *n)
{
    return n->index;
}

int vs_node_accmode(const VsNode *n)
{
    return n->inherited ? O_RDWR : n->accmode;
}

static void init_locks(VsNode *n)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&n->call_lock, NULL);
    pthread_mutex_init(&n->lock, NULL);
    pthread_mutex_init(&n->wake_lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&n->wake, &attr);
    pthread_condattr_destroy(&attr);
}

static VsNode *node_new(unsigned index, VsNodeConfig *cfg)
{
    VsNode *n = g_new0(VsNode, 1);
    unsigned i;

    n->index = index;
    n->cfg = cfg;
    n->nvqs = 2 * cfg->pairs + !!(cfg->features & F_CTRL_VQ);
    n->ngroups = !cfg->groups ? 1 : cfg->desc_group ? 3 : 2;
    init_locks(n);
    n->server_fd = -1;
    n->busy_fd = -1;
    n->config_fd = -1;
    n->vq = g_new0(Vq, n->nvqs);
    for (i = 0; i < n->nvqs; i++) {
        n->vq[i].kick_fd = -1;
        n->vq[i].call_fd = -1;
        n->vq[i].err_fd = -1;
    }
    n->as = g_new0(VsIotlb *, cfg->as_num);
    n->dtab = g_new0(VsIotlb *, cfg->as_num);
    n->dtab_default = g_new0(bool, cfg->as_num);
    for (i = 0; i < cfg->as_num; i++) {
        n->dtab[i] = vs_iotlb_new();
        reset_map(n, i);
    }
    g_queue_init(&n->captured);
    return n;
}

static VsNodeConfig *config_from_env(unsigned index)
{
    g_autofree char *name = g_strdup_printf(VS_ENV_NODE, index);
    const char *text = getenv(name);
    VsNodeConfig *cfg = vs_node_config_new(index);
    g_auto(GStrv) line = g_strsplit(text ? text : "", "\n", -1);
    char *error = NULL;
    unsigned i;

    for (i = 0; line[i] && !error; i++) {
        char *eq = strchr(line[i], '=');

        if (eq) {
            *eq = 0;
            vs_node_config_set(cfg, line[i], eq + 1, &error);
        }
    }
    if (error || !vs_node_config_finish(cfg, &error)) {
        fprintf(stderr, "vdpa-soft: node %u, in the environment variable "
                "%s: %s\n", index, name, error);
        g_free(error);
        vs_node_config_free(cfg);
        return NULL;
    }
    return cfg;
}

/* The pair of sockets the launcher made for --fd, if it is still there */
static void find_inherited(VsNode *n)
{
    g_autofree char *name = g_strdup_printf(VS_ENV_FD, n->index);
    const char *text = getenv(name);
    unsigned long long client, server;
    int fd;

    if (!text || sscanf(text, "%llu,%d,%llu", &client, &fd, &server) != 3 ||
        inode_of(fd) != server || hung_up(fd)) {
        return;
    }
    n->server_fd = fd;
    n->inode = client;
    n->inherited = true;
    n->open = true;
}

unsigned vs_nodes_init(VsSigaction *real_sigaction)
{
    const char *count = getenv(VS_ENV_NODES);
    const char *session = getenv(VS_ENV_SESSION);
    uint64_t wanted = 0;
    unsigned i;

    vs.real_sigaction = real_sigaction;
    if (!count || !session || !vs_parse_u64(count, false, &wanted)) {
        return 0;
    }
    g_strlcpy(vs.session, session, sizeof(vs.session));
    for (i = 0; i < MIN(wanted, VS_MAX_NODES); i++) {
        VsNodeConfig *cfg = config_from_env(i);

        if (!cfg) {
            break;
        }
        vs.node[i] = node_new(i, cfg);
        find_inherited(vs.node[i]);
        vs.count = i + 1;
    }
    return vs.count;
}

void vs_nodes_exit(void)
{
    unsigned i;

    for (i = 0; i < vs.count; i++) {
        VsNode *n = vs.node[i];
        VsNet *net;

        if (!n->net) {
            continue;
        }
        pthread_mutex_lock(&n->call_lock);
        check_close_locked(n);
        if (n->open) {
            /* the kernel would close what the program did not */
            released(n);
        }
        pthread_mutex_lock(&n->lock);
        net = n->net;
        n->net = NULL;
        pthread_mutex_unlock(&n->lock);
        vs_net_free(net);
        pthread_mutex_unlock(&n->call_lock);
    }
}

void vs_nodes_fork(void)
{
    unsigned i, j;

    pthread_mutex_init(&vs.lock, NULL);
    vs.epoll = -1;
    vs.doorbells = NULL;
    vs.doorbell_count = 0;
    vs.doorbell_thread = false;
    vs_memory_fork();
    vs_transcript_fork();
    for (i = 0; i < vs.count; i++) {
        VsNode *n = vs.node[i];
        uint64_t inode = n->inode;

        init_locks(n);
        if (n->inherited) {
            /* this process may be the one that uses it */
            continue;
        }
        if (!n->net) {
            continue;
        }
        /* what the parent had is not freed: its locks cannot be taken */
        close_fd(&n->server_fd);
        close_fd(&n->busy_fd);
        vs.node[i] = node_new(i, n->cfg);
        for (j = 0; j < n->nvqs; j++) {
            close_fd(&n->vq[j].kick_fd);
            close_fd(&n->vq[j].call_fd);
            close_fd(&n->vq[j].err_fd);
        }
        close_fd(&n->config_fd);
        vs.node[i]->foreign = inode;
    }
}

/*
 * What the control socket shows
 */

typedef enum Scalar {
    V_OPEN, V_OWNED, V_STATUS, V_FEATURES, V_BACKEND_FEATURES, V_SUSPENDED,
    V_PAUSED, V_LINK, V_FAULTS, V_KICKS, V_CONFIG_INTERRUPTS, V_ACTIVE_PAIRS,
    V_MAC, V_MAPPED_BYTES, V_MAPPINGS, V_MESSAGES, V_IOCTLS, V_CAPTURED,
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
        v->number = n->owned;
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
    node_lock(n);
    for (i = 0; i < G_N_ELEMENTS(scalar_name); i++) {
        if (!strcmp(scalar_name[i], key)) {
            scalar(n, i, v);
            found = true;
        }
    }
    if (!found) {
        found = vq_value(n, key, v);
    }
    node_unlock(n);
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
    node_lock(n);
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
    node_unlock(n);
}

void vs_node_stats_json(VsNode *n, GString *out)
{
    VsVqStats s;
    unsigned i;

    node_lock(n);
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
        g_string_append_c(out, '}');
    }
    g_string_append_c(out, ']');
    node_unlock(n);
}

void vs_node_mappings_json(VsNode *n, GString *out)
{
    bool comma = false;
    unsigned i;
    size_t j;

    vs_json_key(out, "entries");
    g_string_append_c(out, '[');
    node_lock(n);
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
    node_unlock(n);
    g_string_append_c(out, ']');
}

void vs_node_faults_json(VsNode *n, GString *out)
{
    uint64_t i, first;

    node_lock(n);
    first = n->fault_count > MAX_FAULTS ? n->fault_count - MAX_FAULTS : 0;
    vs_json_u64(out, "count", n->fault_count);
    vs_json_key(out, "entries");
    g_string_append_c(out, '[');
    for (i = first; i < n->fault_count; i++) {
        const Fault *f = &n->fault[i % MAX_FAULTS];

        g_string_append(out, i > first ? ",{" : "{");
        vs_json_u64(out, "asid", f->asid);
        vs_json_u64(out, "iova", f->iova);
        vs_json_u64(out, "size", f->size);
        vs_json_bool(out, "write", f->write);
        vs_json_text(out, "why", f->why);
        g_string_append_c(out, '}');
    }
    g_string_append_c(out, ']');
    node_unlock(n);
}

void vs_node_captured_json(VsNode *n, GString *out)
{
    bool comma = false;
    GBytes *frame;

    vs_json_key(out, "frames");
    g_string_append_c(out, '[');
    node_lock(n);
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
    node_unlock(n);
    g_string_append_c(out, ']');
    node_wake(n);
}

/*
 * What the control socket does
 */

void vs_node_clear(VsNode *n)
{
    node_lock(n);
    n->fault_count = 0;
    node_unlock(n);
    node_wake(n);
}

void vs_node_set_link(VsNode *n, bool up)
{
    node_lock(n);
    if (n->net) {
        vs_net_set_link(n->net, up);
    }
    node_unlock(n);
    node_wake(n);
}

bool vs_node_announce(VsNode *n, char **error)
{
    bool ok = false;

    node_lock(n);
    if (!n->net) {
        *error = g_strdup("the node was never opened");
    } else if (!(vs_net_features(n->net) & F_GUEST_ANNOUNCE)) {
        *error = g_strdup("GUEST_ANNOUNCE was not negotiated");
    } else {
        vs_net_announce(n->net);
        ok = true;
    }
    node_unlock(n);
    node_wake(n);
    return ok;
}

bool vs_node_needs_reset(VsNode *n, char **error)
{
    bool ok = false;

    node_lock(n);
    if (!n->net || !n->open) {
        *error = g_strdup("the node is not open");
    } else {
        n->status |= S_NEEDS_RESET;
        host_config_changed(n);
        ok = true;
    }
    node_unlock(n);
    node_wake(n);
    return ok;
}

void vs_node_add_rule(VsNode *n, const VsRule *rule)
{
    VsRule copy = *rule;

    copy.call = g_strdup(rule->call);
    node_lock(n);
    g_array_append_val(n->cfg->rules, copy);
    node_unlock(n);
}

void vs_node_clear_rules(VsNode *n)
{
    guint i;

    node_lock(n);
    for (i = 0; i < n->cfg->rules->len; i++) {
        g_free(g_array_index(n->cfg->rules, VsRule, i).call);
    }
    g_array_set_size(n->cfg->rules, 0);
    node_unlock(n);
}

void vs_node_set_slow(VsNode *n, const char *call, unsigned ms)
{
    guint i;

    node_lock(n);
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
    node_unlock(n);
}

void vs_node_set_paused(VsNode *n, bool paused)
{
    node_lock(n);
    n->paused = paused;
    if (n->net) {
        update_running(n);
    }
    node_unlock(n);
    node_wake(n);
}

bool vs_node_inject(VsNode *n, const void *frame, size_t size, int vq,
                    char **error)
{
    bool ok = false;

    node_lock(n);
    if (!n->net) {
        *error = g_strdup("the node was never opened");
    } else if (vq >= 0 && ((unsigned)vq >= n->nvqs || vq % 2 ||
                           (unsigned)vq >= 2 * n->cfg->pairs)) {
        *error = g_strdup_printf("virtqueue %d is not a receive queue", vq);
    } else {
        vs_net_inject(n->net, frame, size, vq);
        ok = true;
    }
    node_unlock(n);
    node_wake(n);
    return ok;
}

void vs_node_set_capture(VsNode *n, bool on)
{
    node_lock(n);
    n->capture = on;
    node_unlock(n);
}
