/*
 * vhost-vdpa: the guest's memory, as the device is to see it
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/resource.h>
#include "block/thread-pool.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "exec/address-spaces.h"
#include "exec/ramblock.h"
#include "vhost-vdpa-iotlb.h"
#include "vhost-vdpa-memory.h"
#include "trace.h"

/*
 * Below 1 MiB a PC's firmware opens and closes windows all the time.  Entries
 * do not cross this line, so that those changes never cost a large remap.  Also
 * how much may be out of date while the device does not run.
 */
#define SMALL_LIMIT MiB

/*
 * Up to this much is mapped at once, which takes about 0.1 s where the host has
 * to find and clear the memory first.  What is more is mapped in slices by a
 * thread.  While a slice is mapped, the kernel lets nobody change this
 * process' address space, and changes of the guest's memory have to wait; so
 * one shall take SLICE_NS.  Large ones end where a large page does.
 */
#define AT_ONCE (512 * MiB)
#define SLICE_MIN (64 * MiB)
#define SLICE_MAX TiB
#define SLICE_NS (25 * SCALE_MS)
#define SLICE_ALIGN_MAX GiB
/* How long who wants to know of errors waits for the end, so as to see most */
#define PATIENCE_MS 40

/* What limits the entries of an address space, where the kernel has a limit */
#define MAX_ENTRIES "/sys/module/vhost_vdpa/parameters/max_iotlb_entries"

/**
 * struct VhostVDPAView - a window of the address space behind a vIOMMU
 * @m: whose it is
 * @mr: the vIOMMU's region
 * @offset: from an address inside @mr to the device's address
 * @notifier: called when the guest maps or unmaps something
 */
typedef struct VhostVDPAView {
    VhostVDPAMemory *m;
    MemoryRegion *mr;
    hwaddr offset;
    IOMMUNotifier notifier;
    QLIST_ENTRY(VhostVDPAView) entry;
} VhostVDPAView;

/**
 * struct VhostVDPASlice - a part of the guest's memory that a thread maps
 * @lock: for @busy
 * @idle: signalled when @busy becomes false
 * @busy: the thread works, and the reconciler is its own
 * @pending: it began, and its outcome was not looked at yet
 * @bytes: how much to map
 * @align: what its last address is to be a multiple of, if that can be
 * @ok, @report, @err, @ns: the outcome, and how long it took
 * @dropped: regions that the thread has no further use for
 * @bh: looks at the outcome
 *
 * All else, and all but the work itself, is under the BQL.
 */
typedef struct VhostVDPASlice {
    QemuMutex lock;
    QemuCond idle;
    bool busy;
    bool pending;
    uint64_t bytes;
    uint64_t align;
    bool ok;
    VhostVDPAIOTLBReport report;
    Error *err;
    int64_t ns;
    GPtrArray *dropped;
    QEMUBH *bh;
} VhostVDPASlice;

struct VhostVDPAMemory {
    VhostVDPANode node;
    VhostVDPAIOTLB *iotlb;      /* to be used after slice_wait() only */
    MemoryListener listener;
    MemoryListener low_listener;    /* of what is below SMALL_LIMIT */
    MemoryListener target;      /* of the memory that views lead to */
    bool target_changed;
    AddressSpace *as;           /* NULL until memory is followed */
    const VhostVDPAMemoryEvents *events;
    void *opaque;
    uint64_t private_bytes;     /* RAM no other process could share */
    int64_t pinned;             /* before the first mapping, KiB */
    bool low;                   /* what is below SMALL_LIMIT is wanted, too */
    bool running;
    bool mapping;               /* slices are mapped by a thread */
    bool replaying;             /* the listener is told what is there */
    bool in_transaction;        /* a commit of the listener is to follow */
    bool translated;            /* there has been a view of this @as */
    Error *view_error;          /* a vIOMMU that cannot be followed */
    QLIST_HEAD(, VhostVDPAView) views;
    bool checked_sharing;
    VhostVDPAIOTLBStats stats;  /* as of the last commit, or part of one */
    char *last_error;
    ThreadPool *pool;
    VhostVDPASlice slice;
    QEMUBH *changed_bh;
};

static int op_batch_begin(void *opaque, uint32_t asid)
{
    VhostVDPAMemory *m = opaque;

    return vhost_vdpa_uapi_iotlb_batch_begin(&m->node, asid);
}

static int op_batch_end(void *opaque, uint32_t asid)
{
    VhostVDPAMemory *m = opaque;

    return vhost_vdpa_uapi_iotlb_batch_end(&m->node, asid);
}

static int op_map(void *opaque, uint32_t asid, uint64_t first, uint64_t last,
                  uint64_t uaddr, uint8_t perm)
{
    VhostVDPAMemory *m = opaque;

    return vhost_vdpa_uapi_iotlb_update(&m->node, asid, first,
                                        last - first + 1, uaddr, perm);
}

static int op_unmap(void *opaque, uint32_t asid, uint64_t first, uint64_t last)
{
    VhostVDPAMemory *m = opaque;

    return vhost_vdpa_uapi_iotlb_invalidate(&m->node, asid, first,
                                            last - first + 1);
}

static void op_ref(void *opaque, void *owner)
{
    memory_region_ref(owner);
}

static void op_unref(void *opaque, void *owner)
{
    VhostVDPAMemory *m = opaque;

    if (m->slice.busy) {
        /* In the thread, where a region must not come to its end */
        g_ptr_array_add(m->slice.dropped, owner);
    } else {
        memory_region_unref(owner);
    }
}

static const VhostVDPAIOTLBOps iotlb_ops = {
    .batch_begin = op_batch_begin,
    .batch_end = op_batch_end,
    .map = op_map,
    .unmap = op_unmap,
    .ref = op_ref,
    .unref = op_unref,
};

/* Memory this process has pinned for devices, in KiB, or -1 if unknown */
static int64_t pinned_kib(void)
{
    g_autofree char *status = NULL;
    const char *line;
    int64_t kib;

    if (!g_file_get_contents("/proc/self/status", &status, NULL, NULL)) {
        return -1;
    }
    line = strstr(status, "\nVmPin:");
    if (!line || qemu_strtoi64(line + strlen("\nVmPin:"), &line, 10, &kib)) {
        return -1;
    }
    return kib;
}

/*
 * A driver that works with virtual addresses pins nothing and silently leaves
 * out what it cannot share (drivers/vhost/vdpa.c, vhost_vdpa_va_map()).
 * Nothing tells such a driver apart but that the pinned memory did not grow.
 */
static void check_sharing(VhostVDPAMemory *m)
{
    int64_t pinned = pinned_kib();

    m->checked_sharing = true;
    if (m->private_bytes && pinned >= 0 && pinned == m->pinned) {
        g_autofree char *size = size_to_str(m->private_bytes);

        warn_report("vhost-vdpa device '%s': %s of guest memory are private "
                    "to QEMU, and the device seems unable to access such "
                    "memory; use -object memory-backend-memfd,share=on for "
                    "the guest's RAM", m->node.name, size);
    }
}

/* How much more this process may pin, of what @limit, and with what @pinned */
static uint64_t memlock_room(uint64_t *limit, uint64_t *pinned)
{
    struct rlimit rlimit;

    *limit = UINT64_MAX;
    *pinned = MAX(pinned_kib(), 0) * KiB;
    if (getrlimit(RLIMIT_MEMLOCK, &rlimit) ||
        rlimit.rlim_cur == RLIM_INFINITY) {
        return UINT64_MAX;
    }
    *limit = rlimit.rlim_cur;
    return *limit - MIN(*pinned, *limit);
}

/* How many entries the kernel keeps for an address space, 0 if unknown */
static unsigned max_entries(void)
{
    g_autofree char *text = NULL;
    unsigned entries;

    if (!g_file_get_contents(MAX_ENTRIES, &text, NULL, NULL) ||
        qemu_strtoui(g_strchomp(text), NULL, 10, &entries)) {
        return 0;
    }
    return entries;
}

/*
 * What is known of why the kernel may have refused to map something, or NULL:
 * it reports nearly everything as EFAULT.
 *
 * The limit of locked memory is on all that the process has pinned, for
 * whatever device, and asked for before anything else; but only by drivers that
 * pin memory, for which all that is mapped is pinned. Those take an entry for
 * each run of physical pages, others one or more for each of ours
 * (drivers/vhost/vdpa.c, vhost_vdpa_pa_map(), vhost_vdpa_va_map()).
 */
static char *explain_map(const VhostVDPAIOTLBFailure *failure,
                         const VhostVDPAIOTLBStats *stats)
{
    const unsigned entries = max_entries();
    uint64_t limit, pinned;
    uint64_t room = memlock_room(&limit, &pinned);

    if (failure->last - failure->first >= room && pinned >= stats->bytes) {
        return g_strdup_printf(
            "RLIMIT_MEMLOCK is %" PRIu64 " bytes, of which %" PRIu64
            " are in use, but the guest's memory is %" PRIu64 " bytes: "
            "raise the limit (ulimit -l, LimitMEMLOCK=, or libvirt's "
            "<memtune> <hard_limit>)", limit, pinned, stats->bytes_desired);
    }
    if (entries && stats->entries >= entries) {
        return g_strdup_printf(
            "the kernel keeps %u entries for an address space, which are in "
            "use: raise max_iotlb_entries of its module vhost_vdpa", entries);
    }
    if (entries) {
        return g_strdup_printf(
            "the memory may not be writable or not be of a kind that devices "
            "can access, or the host's IOMMU has no room, or more than %u "
            "entries would be needed: use huge pages for the guest's memory "
            "(hugetlb=on), raise max_iotlb_entries of the kernel's module "
            "vhost_vdpa, or look at the host's kernel log", entries);
    }
    return NULL;
}

/* Say what may be the cause of a failure, and what to do about it */
static void explain(VhostVDPAMemory *m, Error *cause, Error **errp)
{
    const VhostVDPAIOTLBFailure *failure =
        vhost_vdpa_iotlb_failure(m->iotlb, VHOST_VDPA_GUEST_ASID);
    const char *advice = "look at the host's kernel log";
    g_autofree char *known = NULL;
    VhostVDPAIOTLBStats stats;

    vhost_vdpa_iotlb_stats(m->iotlb, VHOST_VDPA_GUEST_ASID, &stats);
    if ((!failure || failure->step == VHOST_VDPA_IOTLB_STEP_RANGE) &&
        !QLIST_EMPTY(&m->views)) {
        advice = "the guest's driver of the virtual IOMMU chose it: set "
                 "aw-bits of that to what the device can use";
    } else if (!failure || failure->step == VHOST_VDPA_IOTLB_STEP_RANGE) {
        advice = "give the guest less memory, or a machine type that puts it "
                 "at addresses the device can use";
    } else if (failure->step == VHOST_VDPA_IOTLB_STEP_MAP &&
               (failure->err == EFAULT || failure->err == ENOMEM)) {
        advice = "the memory may not be writable or not be of a kind that "
                 "devices can access, or the host's IOMMU has no room: look "
                 "at the host's kernel log";
        known = explain_map(failure, &stats);
        advice = known ?: advice;
    }
    error_setg(errp, "vhost-vdpa device '%s': %s; %s", m->node.name,
               error_get_pretty(cause), advice);
    error_free(cause);
}

/* Take note of what a commit, or part of one, did */
static void account(VhostVDPAMemory *m, const VhostVDPAIOTLBReport *report,
                    int64_t ns, bool ok)
{
    vhost_vdpa_iotlb_stats(m->iotlb, VHOST_VDPA_GUEST_ASID, &m->stats);
    if (report->messages) {
        trace_vhost_vdpa_memory_commit(m->node.name, VHOST_VDPA_GUEST_ASID,
                                       report->entries_before,
                                       report->entries_after,
                                       report->messages, report->bytes_mapped,
                                       ns, ok);
    }
}

static void announce(VhostVDPAMemory *m)
{
    if (QLIST_EMPTY(&m->views)) {
        m->events->changed(m->opaque);
    } else {
        /* Guests map and unmap buffers at a high rate */
        qemu_bh_schedule(m->changed_bh);
    }
}

/* @err: why memory is missing, or NULL if none is */
static void set_last_error(VhostVDPAMemory *m, Error *err)
{
    g_free(m->last_error);
    m->last_error = err ? g_strdup(error_get_pretty(err)) : NULL;
    announce(m);
}

static void changed_bh(void *opaque)
{
    VhostVDPAMemory *m = opaque;

    m->events->changed(m->opaque);
}

static void finish(VhostVDPAMemory *m)
{
    if (!m->checked_sharing && m->stats.bytes_mapped) {
        check_sharing(m);
    }
}

/* --- Mapping in the background --- */

/* In the thread: the reconciler is ours, the BQL is not */
static int slice_work(void *opaque)
{
    VhostVDPAMemory *m = opaque;
    VhostVDPASlice *slice = &m->slice;
    int64_t start = get_clock();

    slice->ok = vhost_vdpa_iotlb_commit_some(
        m->iotlb, VHOST_VDPA_GUEST_ASID, slice->bytes, slice->align,
        &slice->report, &slice->err);
    slice->ns = get_clock() - start;

    qemu_mutex_lock(&slice->lock);
    slice->busy = false;
    qemu_bh_schedule(slice->bh);
    qemu_cond_signal(&slice->idle);
    qemu_mutex_unlock(&slice->lock);
    return 0;
}

/* Wait for the reconciler.  It can change hands only while we have the BQL */
static void slice_wait(VhostVDPAMemory *m)
{
    VhostVDPASlice *slice = &m->slice;

    if (slice->pending) {
        QEMU_LOCK_GUARD(&slice->lock);
        while (slice->busy) {
            qemu_cond_wait(&slice->idle, &slice->lock);
        }
    }
}

/* The same, but not after @end; returns false then */
static bool slice_wait_until(VhostVDPAMemory *m, int64_t end)
{
    VhostVDPASlice *slice = &m->slice;
    bool in_time = true;

    QEMU_LOCK_GUARD(&slice->lock);
    while (slice->busy && in_time) {
        int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

        in_time = now < end && qemu_cond_timedwait(&slice->idle, &slice->lock,
                                                   end - now);
    }
    return !slice->busy;
}

static void slice_begin(VhostVDPAMemory *m)
{
    VhostVDPASlice *slice = &m->slice;

    assert(!slice->pending);
    slice->busy = true;
    slice->pending = true;
    if (!m->pool) {
        m->pool = thread_pool_new();
        thread_pool_set_max_threads(m->pool, 1);
    }
    thread_pool_submit(m->pool, slice_work, m, NULL);
}

/* Look at the outcome of a slice.  Returns false if it failed */
static bool slice_end(VhostVDPAMemory *m, Error **errp)
{
    VhostVDPASlice *slice = &m->slice;
    g_autoptr(GPtrArray) dropped = slice->dropped;

    slice_wait(m);
    slice->pending = false;
    slice->dropped = g_ptr_array_new();
    for (guint i = 0; i < dropped->len; i++) {
        memory_region_unref(g_ptr_array_index(dropped, i));
    }
    account(m, &slice->report, slice->ns, slice->ok);
    if (slice->report.bytes_mapped) {
        /* In MiB, as bytes times nanoseconds are too many for 64 bits */
        uint64_t fit = slice->report.bytes_mapped / MiB * SLICE_NS /
                       MAX(slice->ns, 1);

        slice->bytes = MIN(MAX(fit, SLICE_MIN / MiB), SLICE_MAX / MiB) * MiB;
        slice->align = MIN(pow2floor(slice->bytes), SLICE_ALIGN_MAX);
    }
    error_propagate(errp, g_steal_pointer(&slice->err));
    return slice->ok;
}

/* Do without the thread from now on */
static void stop_mapping(VhostVDPAMemory *m)
{
    m->mapping = false;
    if (m->slice.pending) {
        slice_end(m, NULL);
    }
    g_clear_pointer(&m->pool, thread_pool_free);
}

/*
 * Map slice after slice, and look on for @ms.  Changes while the last one was
 * mapped need one more.  Returns false if one failed, which ends it all.
 */
static bool map_slices(VhostVDPAMemory *m, int ms, Error **errp)
{
    int64_t end = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + ms;
    Error *cause = NULL, *err = NULL;

    do {
        if (!m->slice.pending) {
            slice_begin(m);
        }
        if (!slice_wait_until(m, end)) {
            return true;
        }
    } while (slice_end(m, &cause) &&
             vhost_vdpa_iotlb_dirty(m->iotlb, VHOST_VDPA_GUEST_ASID));

    stop_mapping(m);
    if (cause) {
        explain(m, cause, &err);
        set_last_error(m, err);
        error_propagate(errp, err);
        return false;
    }
    finish(m);
    set_last_error(m, NULL);
    return true;
}

static void slice_bh(void *opaque)
{
    VhostVDPAMemory *m = opaque;
    Error *err = NULL;

    if (!m->slice.pending) {
        /* Somebody did not want to wait for us */
        return;
    }
    map_slices(m, 0, &err);
    if (m->mapping) {
        announce(m);
    } else {
        trace_vhost_vdpa_memory_mapped(m->node.name, m->stats.bytes, !err);
        m->events->mapped(m->opaque, err);
    }
}

/* --- Commits --- */

/* Is there anything that keeps all that is wanted from being mapped? */
static bool check(VhostVDPAMemory *m, Error **errp)
{
    Error *err = NULL;

    if (m->view_error) {
        error_propagate(errp, error_copy(m->view_error));
        return false;
    }
    if (!vhost_vdpa_iotlb_check(m->iotlb, VHOST_VDPA_GUEST_ASID, &err)) {
        explain(m, err, errp);
        return false;
    }
    return true;
}

static bool commit_now(VhostVDPAMemory *m, Error **errp)
{
    VhostVDPAIOTLBReport report;
    int64_t start = get_clock();
    Error *err = NULL;
    bool ok;

    /*
     * Before a start, do not pin gigabytes for nothing.  A device that runs
     * must be told at least what is gone, whatever else is wrong.
     */
    if (!m->running && !check(m, errp)) {
        return false;
    }
    ok = vhost_vdpa_iotlb_commit(m->iotlb, VHOST_VDPA_GUEST_ASID, &report,
                                 &err);
    account(m, &report, get_clock() - start, ok);
    if (!ok) {
        explain(m, err, errp);
        return false;
    }
    if (m->view_error) {
        error_propagate(errp, error_copy(m->view_error));
        return false;
    }
    finish(m);
    return true;
}

static bool commit(VhostVDPAMemory *m, Error **errp)
{
    Error *err = NULL;
    bool ok;

    stop_mapping(m);
    ok = commit_now(m, &err);
    set_last_error(m, err);
    error_propagate(errp, err);
    return ok;
}

/* Begin to map all that is wanted, or do so if it is not much */
static bool map_wanted(VhostVDPAMemory *m, Error **errp)
{
    uint64_t missing, room, limit, pinned;
    Error *err = NULL;

    vhost_vdpa_iotlb_stats(m->iotlb, VHOST_VDPA_GUEST_ASID, &m->stats);
    missing = m->stats.bytes_desired -
              (m->stats.bytes -
               vhost_vdpa_iotlb_obsolete(m->iotlb, VHOST_VDPA_GUEST_ASID));
    trace_vhost_vdpa_memory_map(m->node.name, m->stats.bytes_desired, missing);
    if (missing <= AT_ONCE) {
        return commit(m, errp);
    }
    if (!check(m, &err)) {
        set_last_error(m, err);
        error_propagate(errp, err);
        return false;
    }

    m->mapping = true;
    m->slice.bytes = SLICE_MIN;
    m->slice.align = SLICE_MIN;
    room = memlock_room(&limit, &pinned);
    if (errp && missing > room) {
        /*
         * Ask for too much right away.  A kernel that has to pin it refuses
         * before it does; if there is no need to pin, it does not take long.
         * Less than all of it, aligned, would not be too much.
         */
        m->slice.bytes += room;
        m->slice.align = qemu_real_host_page_size();
        slice_begin(m);
        slice_wait(m);
    }
    return map_slices(m, errp ? PATIENCE_MS : 0, errp);
}

/*
 * Why the device is not given what a region holds, or NULL if it is.  Does not
 * change as long as the region exists.  Flash is no RAM for QEMU.
 */
static const char *region_unwanted(MemoryRegion *mr)
{
    if (!memory_region_is_ram(mr)) {
        return "not RAM";
    }
    if (memory_region_is_ram_device(mr)) {
        return "device memory";
    }
    if (memory_region_is_protected(mr)) {
        return "protected";
    }
    return NULL;
}

static uint64_t section_first(const MemoryRegionSection *section)
{
    return section->offset_within_address_space;
}

static uint64_t section_last(const MemoryRegionSection *section)
{
    return section_first(section) +
           int128_get64(int128_sub(section->size, int128_one()));
}

static void skip(VhostVDPAMemory *m, const MemoryRegionSection *section,
                 const char *why)
{
    trace_vhost_vdpa_memory_skip(m->node.name, section->mr->name,
                                 section_first(section),
                                 section_last(section), why);
}

/*
 * The whole host pages of a section of RAM, and where they are.  Returns NULL,
 * or why the device cannot be given any.
 */
static const char *section_pages(const MemoryRegionSection *section,
                                 uint64_t *first, uint64_t *last,
                                 uint64_t *uaddr)
{
    uint64_t page = qemu_real_host_page_size();
    uint64_t start = section_first(section);
    uint64_t end = section_last(section);

    *uaddr = (uintptr_t)memory_region_get_ram_ptr(section->mr) +
             section->offset_within_region;
    if ((*uaddr ^ start) & (page - 1)) {
        /* The kernel would round both down and map the wrong bytes */
        return "host and guest page offsets differ";
    }
    *first = ROUND_UP(start, page);
    /* Unsigned wrap makes this right at the top of the address space, too */
    *last = ROUND_DOWN(end + 1, page) - 1;
    if (*first < start || end - start < page - 1 || *first > *last) {
        return "less than a page";
    }
    *uaddr += *first - start;
    return NULL;
}

/* Large RAM of the guest's, not of a device, that nobody else could share */
static uint64_t private_ram(const MemoryRegionSection *section, uint64_t size)
{
    return !section->readonly && size >= MiB &&
           !qemu_ram_is_shared(section->mr->ram_block) &&
           !object_dynamic_cast(memory_region_owner(section->mr),
                                TYPE_DEVICE) ? size : 0;
}

static VhostVDPAIOTLBPerm memory_perm(const MemoryRegion *mr, bool readonly)
{
    return readonly || mr->readonly ? VHOST_VDPA_IOTLB_RO :
                                      VHOST_VDPA_IOTLB_RW;
}

/* Send what changed, now or, if the device is at rest, mostly later */
static void send_changes(VhostVDPAMemory *m)
{
    uint64_t wanted = m->stats.bytes_desired;
    Error *err = NULL;

    /* The next slice takes along what changes while slices are mapped */
    if (m->replaying || m->mapping) {
        return;
    }
    /*
     * A device at rest need not know each turn of the firmware, which opens
     * windows in RAM and sizes BARs on top of it.  But a DIMM that is gone
     * must not stay pinned until the device runs again.
     */
    if (!m->running &&
        vhost_vdpa_iotlb_obsolete(m->iotlb, VHOST_VDPA_GUEST_ASID) <
        SMALL_LIMIT) {
        vhost_vdpa_iotlb_stats(m->iotlb, VHOST_VDPA_GUEST_ASID, &m->stats);
        if (m->stats.bytes_desired != wanted) {
            announce(m);
        }
        return;
    }
    if (!m->running) {
        /* What is missing is tried again, and reported, at the next start */
        map_wanted(m, NULL);
    } else if (!commit(m, &err)) {
        m->events->failed(m->opaque, err);
    }
}

/* The guest mapped @section, which has the IOVA as its address by now */
static void view_map_section(VhostVDPAMemory *m,
                             const MemoryRegionSection *section,
                             IOMMUAccessFlags flags)
{
    MemoryRegion *mr = section->mr;
    unsigned perm = memory_perm(mr, section->readonly) & flags;
    const char *why = region_unwanted(mr);
    uint64_t first, last, uaddr;

    if (!why && !perm) {
        why = "no access";
    }
    if (!why) {
        why = section_pages(section, &first, &last, &uaddr);
    }
    if (why) {
        skip(m, section, why);
        return;
    }
    trace_vhost_vdpa_memory_add(m->node.name, mr->name, first, last, uaddr,
                                perm);
    vhost_vdpa_iotlb_add(m->iotlb, VHOST_VDPA_GUEST_ASID, first, last, uaddr,
                         perm, mr, true, NULL);
}

/*
 * The guest mapped @iova..@last to its memory at @gpa.  That can be of several
 * kinds, with gaps in between, and what is no RAM the device cannot be given.
 */
static void view_map(VhostVDPAMemory *m, uint64_t iova, uint64_t last,
                     hwaddr gpa, IOMMUAccessFlags flags)
{
    uint64_t page = qemu_real_host_page_size();

    vhost_vdpa_iotlb_del(m->iotlb, VHOST_VDPA_GUEST_ASID,
                         ROUND_DOWN(iova, page),
                         ROUND_DOWN(last, page) + page - 1);
    while (true) {
        /* All 64 bits are one byte more than fit */
        hwaddr size = MIN(last - iova, INT64_MAX) + 1;
        MemoryRegionSection section =
            memory_region_find(get_system_memory(), gpa, size);

        if (section.mr) {
            hwaddr gap = section_first(&section) - gpa;

            size = gap + int128_get64(section.size);
            section.offset_within_address_space = iova + gap;
            view_map_section(m, &section, flags);
            memory_region_unref(section.mr);
        }
        if (last - iova < size) {
            break;
        }
        iova += size;
        gpa += size;
    }
}

/* Called with the BQL held, also for each mapping when a view is replayed */
static void view_notify(IOMMUNotifier *notifier, IOMMUTLBEntry *entry)
{
    VhostVDPAView *view = container_of(notifier, VhostVDPAView, notifier);
    VhostVDPAMemory *m = view->m;
    uint64_t page = qemu_real_host_page_size();
    uint64_t iova = entry->iova + view->offset;
    uint64_t last = iova + entry->addr_mask;

    slice_wait(m);
    if (entry->perm == IOMMU_NONE) {
        trace_vhost_vdpa_memory_del(m->node.name, view->mr->name, iova, last);
        vhost_vdpa_iotlb_del(m->iotlb, VHOST_VDPA_GUEST_ASID,
                             ROUND_DOWN(iova, page),
                             ROUND_DOWN(last, page) + page - 1);
    } else if (entry->target_as == &address_space_memory) {
        view_map(m, iova, last, entry->translated_addr, entry->perm);
    }
    if (!m->in_transaction) {
        send_changes(m);
    }
}

static void view_add(VhostVDPAMemory *m, MemoryRegionSection *section)
{
    IOMMUMemoryRegion *iommu = IOMMU_MEMORY_REGION(section->mr);
    VhostVDPAView *view = g_new0(VhostVDPAView, 1);
    hwaddr first = section->offset_within_region;
    hwaddr last = first + int128_get64(int128_sub(section->size,
                                                  int128_one()));
    Error *err = NULL;

    slice_wait(m);
    m->translated = true;
    view->m = m;
    view->mr = section->mr;
    view->offset = section->offset_within_address_space - first;
    iommu_notifier_init(&view->notifier, view_notify,
                        IOMMU_NOTIFIER_IOTLB_EVENTS, first, last,
                        memory_region_iommu_attrs_to_index(
                            iommu, MEMTXATTRS_UNSPECIFIED));
    if (memory_region_register_iommu_notifier(section->mr, &view->notifier,
                                              &err)) {
        if (!m->view_error) {
            error_setg(&m->view_error, "vhost-vdpa device '%s': cannot follow "
                       "the virtual IOMMU: %s; intel-iommu needs "
                       "caching-mode=on", m->node.name,
                       error_get_pretty(err));
        }
        error_free(err);
        g_free(view);
        return;
    }
    memory_region_ref(section->mr);
    QLIST_INSERT_HEAD(&m->views, view, entry);
    memory_region_iommu_replay(iommu, &view->notifier);
}

/*
 * The memory that a guest's IOMMU leads to changed, of which notifiers say
 * nothing.  Look again where all mappings lead.
 */
static void views_replay(VhostVDPAMemory *m)
{
    VhostVDPAView *view;

    QLIST_FOREACH(view, &m->views, entry) {
        memory_region_unmap_iommu_notifier_range(&view->notifier);
        memory_region_iommu_replay(IOMMU_MEMORY_REGION(view->mr),
                                   &view->notifier);
    }
}

static void view_del(VhostVDPAMemory *m, MemoryRegionSection *section)
{
    uint64_t page = qemu_real_host_page_size();
    VhostVDPAView *view;

    slice_wait(m);
    QLIST_FOREACH(view, &m->views, entry) {
        if (view->mr == section->mr &&
            view->notifier.start == section->offset_within_region) {
            memory_region_unregister_iommu_notifier(view->mr,
                                                    &view->notifier);
            memory_region_unref(view->mr);
            QLIST_REMOVE(view, entry);
            g_free(view);
            break;
        }
    }
    vhost_vdpa_iotlb_del(m->iotlb, VHOST_VDPA_GUEST_ASID,
                         ROUND_DOWN(section_first(section), page),
                         ROUND_DOWN(section_last(section), page) + page - 1);
}

static void add_pages(VhostVDPAMemory *m, const MemoryRegionSection *section,
                      uint64_t first, uint64_t last, uint64_t uaddr)
{
    MemoryRegion *mr = section->mr;
    VhostVDPAIOTLBPerm perm = memory_perm(mr, section->readonly);

    trace_vhost_vdpa_memory_add(m->node.name, mr->name, first, last, uaddr,
                                perm);
    slice_wait(m);
    /* What the device cannot reach is reported by the commit */
    vhost_vdpa_iotlb_add(m->iotlb, VHOST_VDPA_GUEST_ASID, first, last, uaddr,
                         perm, mr, false, NULL);
}

static void region_add(MemoryListener *listener, MemoryRegionSection *section)
{
    VhostVDPAMemory *m = container_of(listener, VhostVDPAMemory, listener);
    MemoryRegion *mr = section->mr;
    const char *why = region_unwanted(mr);
    uint64_t first, last, uaddr;

    if (memory_region_is_iommu(mr)) {
        view_add(m, section);
        return;
    }
    if (!why) {
        why = section_pages(section, &first, &last, &uaddr);
    }
    if (why) {
        skip(m, section, why);
        return;
    }
    if (first != section_first(section) || last != section_last(section)) {
        skip(m, section, "all but the whole pages of it");
    }
    m->private_bytes += private_ram(section, last - first + 1);
    if (!m->low && first < SMALL_LIMIT) {
        if (last < SMALL_LIMIT) {
            return;
        }
        uaddr += SMALL_LIMIT - first;
        first = SMALL_LIMIT;
    }
    add_pages(m, section, first, last, uaddr);
}

/* The part of a section that region_add() left out while @m->low was not set */
static void low_region_add(MemoryListener *listener,
                           MemoryRegionSection *section)
{
    VhostVDPAMemory *m = container_of(listener, VhostVDPAMemory, low_listener);
    uint64_t first, last, uaddr;

    if (!region_unwanted(section->mr) &&
        !section_pages(section, &first, &last, &uaddr) &&
        first < SMALL_LIMIT) {
        add_pages(m, section, first, MIN(last, SMALL_LIMIT - 1), uaddr);
    }
}

static void region_del(MemoryListener *listener, MemoryRegionSection *section)
{
    VhostVDPAMemory *m = container_of(listener, VhostVDPAMemory, listener);
    uint64_t first, last, uaddr;

    if (memory_region_is_iommu(section->mr)) {
        view_del(m, section);
        return;
    }
    if (region_unwanted(section->mr) ||
        section_pages(section, &first, &last, &uaddr)) {
        return;
    }
    trace_vhost_vdpa_memory_del(m->node.name, section->mr->name, first, last);
    m->private_bytes -= private_ram(section, last - first + 1);
    slice_wait(m);
    vhost_vdpa_iotlb_del(m->iotlb, VHOST_VDPA_GUEST_ASID, first, last);
}

static void memory_begin(MemoryListener *listener)
{
    VhostVDPAMemory *m = container_of(listener, VhostVDPAMemory, listener);

    m->in_transaction = true;
}

static void memory_commit(MemoryListener *listener)
{
    VhostVDPAMemory *m = container_of(listener, VhostVDPAMemory, listener);

    m->in_transaction = false;
    send_changes(m);
}

static void target_region(MemoryListener *listener,
                          MemoryRegionSection *section)
{
    VhostVDPAMemory *m = container_of(listener, VhostVDPAMemory, target);

    m->target_changed |= memory_region_is_ram(section->mr) &&
                         !memory_region_is_ram_device(section->mr);
}

static void target_commit(MemoryListener *listener)
{
    VhostVDPAMemory *m = container_of(listener, VhostVDPAMemory, target);
    bool changed = m->target_changed;

    m->target_changed = false;
    if (!changed || m->replaying || QLIST_EMPTY(&m->views)) {
        return;
    }
    m->in_transaction = true;
    views_replay(m);
    m->in_transaction = false;
    send_changes(m);
}

VhostVDPAMemory *vhost_vdpa_memory_new(const VhostVDPANode *node,
                                       uint64_t first, uint64_t last,
                                       bool batching,
                                       const VhostVDPAMemoryEvents *events,
                                       void *opaque)
{
    VhostVDPAMemory *m = g_new0(VhostVDPAMemory, 1);

    QLIST_INIT(&m->views);
    m->node = *node;
    m->events = events;
    m->opaque = opaque;
    /* A device that cannot have it is to be refused at once */
    m->low = first > 0;
    m->listener = (MemoryListener) {
        .name = "vhost-vdpa",
        .priority = MEMORY_LISTENER_PRIORITY_DEV_BACKEND,
        .begin = memory_begin,
        .region_add = region_add,
        .region_del = region_del,
        .commit = memory_commit,
    };
    m->low_listener = (MemoryListener) {
        .name = "vhost-vdpa-low",
        .priority = MEMORY_LISTENER_PRIORITY_DEV_BACKEND,
        .region_add = low_region_add,
    };
    m->target = (MemoryListener) {
        .name = "vhost-vdpa-target",
        .priority = MEMORY_LISTENER_PRIORITY_DEV_BACKEND,
        .region_add = target_region,
        .region_del = target_region,
        .commit = target_commit,
    };
    m->iotlb = vhost_vdpa_iotlb_new(&iotlb_ops, m, SMALL_LIMIT,
                                    qemu_real_host_page_size());
    vhost_vdpa_iotlb_set_batching(m->iotlb, batching);
    vhost_vdpa_iotlb_set_range(m->iotlb, first, last);
    qemu_mutex_init(&m->slice.lock);
    qemu_cond_init(&m->slice.idle);
    m->slice.dropped = g_ptr_array_new();
    /* Not from a nested event loop, as what follows can be a start */
    m->slice.bh = aio_bh_new(iohandler_get_aio_context(), slice_bh, m);
    m->changed_bh = aio_bh_new(iohandler_get_aio_context(), changed_bh, m);
    return m;
}

bool vhost_vdpa_memory_unfollow(VhostVDPAMemory *m)
{
    stop_mapping(m);
    /* Unregistering reports every section as removed: nothing is to be sent */
    m->replaying = true;
    if (m->as) {
        if (m->as != &address_space_memory) {
            memory_listener_unregister(&m->target);
        }
        memory_listener_unregister(&m->listener);
        m->as = NULL;
    }
    m->replaying = false;
    vhost_vdpa_iotlb_clear(m->iotlb, VHOST_VDPA_GUEST_ASID);
    m->private_bytes = 0;
    g_clear_pointer(&m->view_error, error_free);
    return m->translated;
}

void vhost_vdpa_memory_free(VhostVDPAMemory *m)
{
    if (m) {
        vhost_vdpa_memory_unfollow(m);
        vhost_vdpa_iotlb_free(m->iotlb);
        qemu_bh_delete(m->slice.bh);
        qemu_bh_delete(m->changed_bh);
        g_ptr_array_free(m->slice.dropped, true);
        qemu_cond_destroy(&m->slice.idle);
        qemu_mutex_destroy(&m->slice.lock);
        g_free(m->last_error);
        g_free(m);
    }
}

/*
 * The memory below SMALL_LIMIT is left out, which the firmware has yet to
 * arrange, until @low is true for the first time.
 */
static void follow(VhostVDPAMemory *m, AddressSpace *as, bool low)
{
    if (m->as == as) {
        if (low && !m->low) {
            /* Not all over again, as slices may be under way */
            m->low = true;
            memory_listener_register(&m->low_listener, as);
            memory_listener_unregister(&m->low_listener);
        }
        return;
    }
    vhost_vdpa_memory_unfollow(m);
    m->low |= low;
    if (!m->checked_sharing) {
        m->pinned = pinned_kib();
    }
    m->translated = false;
    /* Registering replays the whole address space; one commit takes all */
    m->replaying = true;
    memory_listener_register(&m->listener, as);
    if (as != &address_space_memory) {
        memory_listener_register(&m->target, &address_space_memory);
    }
    m->replaying = false;
    m->as = as;
}

bool vhost_vdpa_memory_map(VhostVDPAMemory *m, AddressSpace *as, bool low,
                           Error **errp)
{
    assert(!m->running);
    follow(m, as, low);
    return m->mapping || map_wanted(m, errp);
}

bool vhost_vdpa_memory_is_mapping(VhostVDPAMemory *m)
{
    return m->mapping;
}

bool vhost_vdpa_memory_commit(VhostVDPAMemory *m, AddressSpace *as,
                              Error **errp)
{
    follow(m, as, true);
    return commit(m, errp);
}

void vhost_vdpa_memory_set_running(VhostVDPAMemory *m, bool running)
{
    m->running = running;
}

bool vhost_vdpa_memory_withdraw(VhostVDPAMemory *m, Error **errp)
{
    VhostVDPAIOTLBReport report;
    int64_t start = get_clock();
    Error *cause = NULL, *err = NULL;
    bool ok;

    stop_mapping(m);
    ok = vhost_vdpa_iotlb_withdraw(m->iotlb, VHOST_VDPA_GUEST_ASID, &report,
                                   &cause);
    account(m, &report, get_clock() - start, ok);
    if (ok) {
        announce(m);
    } else {
        explain(m, cause, &err);
        set_last_error(m, err);
        error_propagate(errp, err);
    }
    return ok;
}

void vhost_vdpa_memory_get_info(VhostVDPAMemory *m, VhostVDPAMemoryInfo *info)
{
    *info = (VhostVDPAMemoryInfo) {
        .bytes = m->stats.bytes,
        .bytes_wanted = m->stats.bytes_desired,
        .entries = m->stats.entries,
        .messages = m->stats.messages,
        .bytes_mapped = m->stats.bytes_mapped,
        .last_error = m->last_error,
    };
}
