/*
 * vhost-vdpa conformance: IOTLB messages
 *
 * What is mapped cannot be asked.  Here it shows in whether the same range
 * can be mapped again; what a device reaches through it is for the section
 * of the rings.
 *
 * Where memory is pinned an entry is stored for each physically contiguous
 * run.  So that nothing depends on it, what is to be several entries is the
 * same page several times, and what is to be one is one page.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "conformance.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* Where the cases map; a multiple of the page size far from 0 */
#define IOVA 0x10000000ULL

/*
 * As module parameter max_iotlb_entries of vhost_vdpa has it.  No more pages
 * may be locked, either, so where memory is pinned two limits are one.
 */
#define MAX_ENTRIES 2048

typedef struct Message {
    uint32_t version;
    uint32_t asid;
    uint64_t iova;
    uint64_t size;
    uint64_t uaddr;
    uint8_t perm;
    uint8_t type;
    uint8_t padding[38];
} Message;

_Static_assert(sizeof(Message) == sizeof(struct vhost_msg_v2),
               "a message has no other padding");

static Message message(uint8_t type, uint64_t iova, uint64_t size,
                       const void *addr, uint8_t perm)
{
    Message m = {
        .version = VHOST_IOTLB_MSG_V2,
        .iova = iova,
        .size = size,
        .uaddr = (uintptr_t)addr,
        .perm = perm,
        .type = type,
    };

    return m;
}

/* Open, own, and have the address space in messages count */
static void begin(void)
{
    node_open_owned();
    vdpa_set_backend_features(BACKEND(IOTLB_MSG_V2) | BACKEND(IOTLB_BATCH) |
                              BACKEND(IOTLB_ASID));
}

/* Whether a page is mapped at @iova: mapping it once more would fail */
static void probe(uint32_t asid, uint64_t iova, const void *page)
{
    if (iotlb_update(asid, iova, PAGE, page, RW) > 0) {
        iotlb_invalidate(asid, iova, PAGE);
    }
}

static void probe_pages(uint32_t asid, uint64_t iova, size_t pages,
                        const void *page)
{
    size_t i;

    for (i = 0; i < pages; i++) {
        probe(asid, iova + i * PAGE, page);
    }
}

static void clear(uint32_t asid)
{
    iotlb_invalidate(asid, 0, UINT64_MAX);
}

/* One page of a file at each of @pages addresses: as many entries */
static uint8_t *same_page(const char *name, size_t pages)
{
    uint8_t *mem = mem_private(name, pages);
    int fd = mem_file(1);
    size_t i;

    for (i = 0; i < pages; i++) {
        if (mmap(mem + i * PAGE, PAGE, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
            die("mmap: %s", strerror(errno));
        }
    }
    close(fd);
    return mem;
}

/* The hard limit stays, as not everybody can raise it again */
static void set_memlock(unsigned pages)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0) {
        die("getrlimit: %s", strerror(errno));
    }
    limit.rlim_cur = pages * PAGE;
    if (setrlimit(RLIMIT_MEMLOCK, &limit) < 0) {
        die("setrlimit: %s", strerror(errno));
    }
    say("memory lock limit: %u pages", pages);
}

/*
 * Form
 */

static void run_owner(void)
{
    uint8_t *page = mem_shared("page", 1);

    node_open(O_RDWR);
    iotlb_update(0, IOVA, PAGE, page, RW);
    iotlb_invalidate(0, IOVA, PAGE);
    iotlb_batch_begin(0);
    iotlb_batch_end(0);
    /* what is wrong with a message itself is seen first */
    iotlb_update(0, IOVA, 0, page, RW);
    iotlb_message(3, 0, VHOST_IOTLB_UPDATE, IOVA, PAGE, (uintptr_t)page, RW,
                  72);
    vdpa_set_owner();
    /* and nothing of all that created an address space */
    iotlb_invalidate(0, IOVA, PAGE);
    iotlb_update(0, IOVA, PAGE, page, RW);
    iotlb_invalidate(0, IOVA, PAGE);
}

static void run_access_mode(void)
{
    uint8_t *page = mem_shared("page", 1);

    node_open(O_RDONLY);
    vdpa_set_owner();
    iotlb_update(0, IOVA, PAGE, page, RW);
    node_close();
    node_open(O_WRONLY);
    vdpa_set_owner();
    iotlb_update(0, IOVA, PAGE, page, RW);
    iotlb_invalidate(0, IOVA, PAGE);
}

/* The size of a message is that of the struct, but 40 bytes count */
static void length(uint32_t version)
{
    static const size_t bytes[] = {
        0, 1, 3, 4, 5, 7, 8, 9, 32, 33, 34, 39, 40, 41, 71, 72,
    };
    uint8_t *page = mem_shared("page", 1);
    size_t i;

    begin();
    for (i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++) {
        if (iotlb_message(version, 0, VHOST_IOTLB_UPDATE, IOVA, PAGE,
                          (uintptr_t)page, RW, bytes[i]) > 0) {
            iotlb_message(version, 0, VHOST_IOTLB_INVALIDATE, IOVA, PAGE, 0,
                          0, bytes[i]);
        }
    }
}

static void run_length_v1(void)
{
    length(VHOST_IOTLB_MSG);
}

static void run_length_v2(void)
{
    length(VHOST_IOTLB_MSG_V2);
}

/* The same without an address space in the header */
static void run_length_v2_unacked(void)
{
    static const size_t bytes[] = { 4, 8, 39, 40, 72 };
    uint8_t *page = mem_shared("page", 1);
    size_t i;

    node_open_owned();
    for (i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++) {
        if (iotlb_message(VHOST_IOTLB_MSG_V2, 0, VHOST_IOTLB_UPDATE, IOVA,
                          PAGE, (uintptr_t)page, RW, bytes[i]) > 0) {
            iotlb_message(VHOST_IOTLB_MSG_V2, 0, VHOST_IOTLB_INVALIDATE,
                          IOVA, PAGE, 0, 0, bytes[i]);
        }
    }
}

static void run_several(void)
{
    uint8_t *page = mem_shared("page", 1);
    Message m[3];

    begin();
    m[0] = message(VHOST_IOTLB_UPDATE, IOVA, PAGE, page, RW);
    m[1] = message(VHOST_IOTLB_UPDATE, IOVA + PAGE, PAGE, page, RW);
    m[2] = m[0];
    node_write("two messages", m, 2 * sizeof(m[0]));
    probe(0, IOVA, page);
    probe(0, IOVA + PAGE, page);
    m[0].iova += 2 * PAGE;
    m[1].version = 77;
    node_write("one message and one of no version", m, 2 * sizeof(m[0]));
    node_write("a message of no version and one", m + 1, 2 * sizeof(m[0]));
    probe(0, IOVA + 2 * PAGE, page);
}

static void run_versions(void)
{
    static const uint32_t versions[] = {
        0, 1, 2, 3, 0x101, 0x80000001, UINT32_MAX,
    };
    uint8_t *page = mem_shared("page", 1);
    size_t i;

    begin();
    for (i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
        if (iotlb_message(versions[i], 0, VHOST_IOTLB_UPDATE, IOVA, PAGE,
                          (uintptr_t)page, RW, 72) > 0) {
            iotlb_message(versions[i], 0, VHOST_IOTLB_INVALIDATE, IOVA, PAGE,
                          0, 0, 72);
        }
    }
}

static void types(uint32_t version)
{
    static const uint8_t type[] = { 0, 1, 4, 5, 6, 7, 8, 127, 128, 255 };
    uint8_t *page = mem_shared("page", 1);
    size_t i;

    begin();
    /* before and after there is an address space */
    iotlb_message(version, 0, 0, IOVA, PAGE, (uintptr_t)page, RW, 72);
    iotlb_message(version, 0, 4, IOVA, PAGE, (uintptr_t)page, RW, 72);
    iotlb_update(0, IOVA, PAGE, page, RW);
    for (i = 0; i < sizeof(type); i++) {
        iotlb_message(version, 0, type[i], IOVA, PAGE, (uintptr_t)page, RW,
                      72);
    }
    probe(0, IOVA, page);
}

static void run_types_v1(void)
{
    types(VHOST_IOTLB_MSG);
}

static void run_types_v2(void)
{
    types(VHOST_IOTLB_MSG_V2);
}

/* The fields that a message does not need may hold anything */
static void run_fields(void)
{
    uint8_t *page = mem_shared("page", 1);
    Message m;

    begin();
    m = message(VHOST_IOTLB_BATCH_BEGIN, UINT64_MAX, 0, (void *)1, 0xff);
    memset(m.padding, 0xff, sizeof(m.padding));
    node_write("BATCH_BEGIN full of ones", &m, sizeof(m));
    m = message(VHOST_IOTLB_UPDATE, IOVA, PAGE, page, RW);
    memset(m.padding, 0xff, sizeof(m.padding));
    node_write("UPDATE with its padding full of ones", &m, sizeof(m));
    m = message(VHOST_IOTLB_BATCH_END, UINT64_MAX, UINT64_MAX, (void *)1,
                0xff);
    node_write("BATCH_END full of ones", &m, sizeof(m));
    m = message(VHOST_IOTLB_INVALIDATE, IOVA, PAGE, (void *)-1, 0xff);
    m.version = VHOST_IOTLB_MSG;
    m.asid = UINT32_MAX;
    node_write("INVALIDATE, v1, its padding full of ones", &m, sizeof(m));
    probe(0, IOVA, page);
}

/* Memory that ends @bytes after the address returned */
static uint8_t *before_a_hole(const char *name, size_t bytes)
{
    uint8_t *mem = mem_private(name, 2);

    if (munmap(mem + PAGE, PAGE) < 0) {
        die("munmap: %s", strerror(errno));
    }
    return mem + PAGE - bytes;
}

static void run_unreadable(void)
{
    static const size_t readable[] = { 0, 3, 4, 7, 8, 39, 40, 71 };
    uint8_t *page = mem_shared("page", 1);
    Message m = message(VHOST_IOTLB_UPDATE, IOVA, PAGE, page, RW);
    uint8_t *none = mem_map("none", 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
                            -1, 0);
    uint8_t *edge = before_a_hole("edge", 72);
    char what[64];
    size_t i;

    begin();
    for (i = 0; i < sizeof(readable) / sizeof(readable[0]); i++) {
        snprintf(what, sizeof(what), "UPDATE, %zu of 72 bytes readable",
                 readable[i]);
        memcpy(edge + 72 - readable[i], &m, readable[i]);
        if (node_write(what, edge + 72 - readable[i], 72) > 0) {
            iotlb_invalidate(0, IOVA, PAGE);
        }
    }
    node_write("nowhere", mem_nowhere(), 72);
    node_write("memory without access", none, 72);
    node_write("the null pointer", NULL, 72);
    node_write("the null pointer, no bytes", NULL, 0);
    node_write("an address of the kernel's", (void *)(UINT64_MAX - 0xfff),
               72);
    node_write("an address of nobody's", (void *)(1ULL << 63), 72);
    probe(0, IOVA, page);
}

static void run_vectors(void)
{
    uint8_t *page = mem_shared("page", 1);
    uint8_t *edge = before_a_hole("edge", 40);
    Message m = message(VHOST_IOTLB_UPDATE, IOVA, PAGE, page, RW);
    uint8_t *raw = (uint8_t *)&m;
    struct iovec one[72];
    size_t i;

    begin();
    for (i = 0; i < 72; i++) {
        one[i].iov_base = raw + i;
        one[i].iov_len = 1;
    }
    node_writev("no buffers", one, 0);
    node_writev("39 buffers of a byte", one, 39);
    if (node_writev("40 buffers of a byte", one, 40) > 0) {
        iotlb_invalidate(0, IOVA, PAGE);
    }
    if (node_writev("72 buffers of a byte", one, 72) > 0) {
        iotlb_invalidate(0, IOVA, PAGE);
    }
    one[0].iov_len = 8;
    one[1].iov_base = raw + 8;
    one[1].iov_len = 0;
    one[2].iov_base = raw + 8;
    one[2].iov_len = 64;
    if (node_writev("its header, nothing, the rest", one, 3) > 0) {
        iotlb_invalidate(0, IOVA, PAGE);
    }
    one[1].iov_base = mem_nowhere();
    if (node_writev("its header, nothing of nowhere, the rest", one, 3) > 0) {
        iotlb_invalidate(0, IOVA, PAGE);
    }
    one[1].iov_len = 1;
    node_writev("its header, a byte of nowhere, the rest", one, 3);
    one[1].iov_base = (void *)(UINT64_MAX - 0xfff);
    node_writev("its header, a byte of the kernel's, the rest", one, 3);
    memcpy(edge, raw, 40);
    one[0].iov_base = edge;
    one[0].iov_len = 40;
    one[1].iov_base = edge + 40;
    one[1].iov_len = 32;
    if (node_writev("40 bytes, 32 of a hole", one, 2) > 0) {
        iotlb_invalidate(0, IOVA, PAGE);
    }
    one[0].iov_len = 0;
    one[1].iov_len = 0;
    node_writev("two empty buffers", one, 2);
    probe(0, IOVA, page);
}

static void run_size_zero(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    iotlb_update(0, IOVA, 0, page, RW);
    iotlb_message(VHOST_IOTLB_MSG, 0, VHOST_IOTLB_UPDATE, IOVA, 0,
                  (uintptr_t)page, RW, 72);
    /* it did not even create the address space */
    iotlb_invalidate(0, IOVA, PAGE);
    iotlb_update(0, 0, 0, NULL, 0);
    iotlb_update(5, IOVA, 0, page, RW);
}

/*
 * Address spaces
 */

static void run_asid(void)
{
    static const uint32_t bad[] = { 2, 3, 16, 17, 0x10000, UINT32_MAX };
    uint8_t *page = mem_shared("page", 1);
    size_t i;

    begin();
    iotlb_update(0, IOVA, PAGE, page, RW);
    iotlb_update(1, IOVA, PAGE, page, RW);
    iotlb_update(1, IOVA, PAGE, page, RW);
    iotlb_invalidate(0, IOVA, PAGE);
    probe(1, IOVA, page);
    probe(0, IOVA, page);
    clear(1);
    probe(1, IOVA, page);
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        iotlb_update(bad[i], IOVA, PAGE, page, RW);
        iotlb_invalidate(bad[i], IOVA, PAGE);
        iotlb_batch_begin(bad[i]);
        iotlb_batch_end(bad[i]);
    }
}

static void run_asid_unacked(void)
{
    uint8_t *page = mem_shared("page", 1);

    node_open_owned();
    /* it counts for nothing */
    iotlb_update(1, IOVA, PAGE, page, RW);
    iotlb_update(0, IOVA, PAGE, page, RW);
    iotlb_invalidate(UINT32_MAX, IOVA, PAGE);
    iotlb_update(0, IOVA, PAGE, page, RW);
    vdpa_set_backend_features(BACKEND(IOTLB_MSG_V2) | BACKEND(IOTLB_BATCH));
    iotlb_update(1, IOVA, PAGE, page, RW);
    vdpa_set_backend_features(BACKEND(IOTLB_ASID));
    iotlb_update(1, IOVA, PAGE, page, RW);
    iotlb_invalidate(1, IOVA, PAGE);
    probe(0, IOVA, page);
    vdpa_set_backend_features(0);
    iotlb_invalidate(1, IOVA, PAGE);
    probe(0, IOVA, page);
}

/* The first version has no address space, whatever is in its padding */
static void run_asid_v1(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    iotlb_message(VHOST_IOTLB_MSG, 1, VHOST_IOTLB_UPDATE, IOVA, PAGE,
                  (uintptr_t)page, RW, 72);
    probe(0, IOVA, page);
    iotlb_invalidate(1, IOVA, PAGE);
    iotlb_message(VHOST_IOTLB_MSG, UINT32_MAX, VHOST_IOTLB_INVALIDATE, IOVA,
                  PAGE, 0, 0, 72);
    probe(0, IOVA, page);
}

/* An address space is there from the first message that brings something */
static void run_lazy(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    iotlb_invalidate(0, IOVA, PAGE);
    iotlb_invalidate(0, 0, 0);
    iotlb_batch_end(0);
    iotlb_invalidate(1, IOVA, PAGE);
    iotlb_batch_end(1);
    /* even if that fails */
    iotlb_update(0, UINT64_MAX, 2, page, RW);
    iotlb_invalidate(0, IOVA, PAGE);
    iotlb_batch_end(0);
    iotlb_invalidate(1, IOVA, PAGE);
    iotlb_batch_begin(1);
    iotlb_batch_end(1);
    iotlb_invalidate(1, IOVA, PAGE);
    vdpa_set_status(0);
    iotlb_invalidate(0, IOVA, PAGE);
    iotlb_invalidate(1, IOVA, PAGE);
    node_close();
    begin();
    iotlb_invalidate(0, IOVA, PAGE);
    iotlb_invalidate(1, IOVA, PAGE);
}

/* One that fails as another's batch is open brings its address space, too */
static void run_lazy_batch(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    iotlb_batch_begin(0);
    iotlb_invalidate(1, IOVA, PAGE);
    iotlb_update(1, IOVA, PAGE, page, RW);
    iotlb_batch_end(0);
    iotlb_invalidate(1, IOVA, PAGE);
    probe(1, IOVA, page);
}

/*
 * Overlaps
 */

static void run_overlaps(void)
{
    uint8_t *mem = mem_shared("mem", 8);

    begin();
    iotlb_update(0, IOVA + 2 * PAGE, 3 * PAGE, mem + 2 * PAGE, RW);
    /* the same again, with other memory, with another permission */
    iotlb_update(0, IOVA + 2 * PAGE, 3 * PAGE, mem + 2 * PAGE, RW);
    iotlb_update(0, IOVA + 2 * PAGE, 3 * PAGE, mem, RW);
    iotlb_update(0, IOVA + 2 * PAGE, 3 * PAGE, mem + 2 * PAGE, RO);
    /* the first, a middle, the last page of it */
    iotlb_update(0, IOVA + 2 * PAGE, PAGE, mem, RW);
    iotlb_update(0, IOVA + 3 * PAGE, PAGE, mem, RW);
    iotlb_update(0, IOVA + 4 * PAGE, PAGE, mem, RW);
    iotlb_update(0, IOVA + 2 * PAGE, 2 * PAGE, mem, RW);
    iotlb_update(0, IOVA + 3 * PAGE, 2 * PAGE, mem, RW);
    /* from before, to behind, around */
    iotlb_update(0, IOVA + PAGE, 2 * PAGE, mem, RW);
    iotlb_update(0, IOVA + PAGE, 4 * PAGE, mem, RW);
    iotlb_update(0, IOVA + 4 * PAGE, 2 * PAGE, mem, RW);
    iotlb_update(0, IOVA + 2 * PAGE, 4 * PAGE, mem, RW);
    iotlb_update(0, IOVA + PAGE, 5 * PAGE, mem, RW);
    iotlb_update(0, 0, UINT64_MAX, mem, RW);
    /* a byte of its ends */
    iotlb_update(0, IOVA + PAGE, PAGE + 1, mem, RW);
    iotlb_update(0, IOVA + 5 * PAGE - 1, PAGE + 1, mem, RW);
    /* what is beside it is free */
    iotlb_update(0, IOVA + PAGE, PAGE, mem + PAGE, RW);
    iotlb_update(0, IOVA + 5 * PAGE, PAGE, mem + 5 * PAGE, RW);
    /* the ones that failed changed nothing */
    iotlb_update(0, IOVA, PAGE, mem, RW);
    iotlb_update(0, IOVA + 6 * PAGE, PAGE, mem, RW);
    probe_pages(0, IOVA, 8, mem);
    clear(0);
    probe_pages(0, IOVA, 8, mem);
}

/* Over several entries and the gaps between them */
static void run_overlaps_several(void)
{
    uint8_t *mem = mem_shared("mem", 8);

    begin();
    iotlb_update(0, IOVA + PAGE, PAGE, mem + PAGE, RW);
    iotlb_update(0, IOVA + 3 * PAGE, PAGE, mem + 3 * PAGE, RW);
    iotlb_update(0, IOVA + 5 * PAGE, PAGE, mem + 5 * PAGE, RW);
    iotlb_update(0, IOVA, 7 * PAGE, mem, RW);
    iotlb_update(0, IOVA + 2 * PAGE, 3 * PAGE, mem, RW);
    iotlb_update(0, IOVA + 2 * PAGE, 2 * PAGE, mem, RW);
    iotlb_update(0, IOVA + 2 * PAGE, PAGE, mem, RW);
    iotlb_update(0, IOVA + 4 * PAGE, PAGE, mem, RW);
    probe_pages(0, IOVA, 7, mem);
}

/* The same memory may be mapped as often as one likes, elsewhere */
static void run_aliases(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    iotlb_update(0, IOVA, PAGE, page, RW);
    iotlb_update(0, IOVA + PAGE, PAGE, page, RO);
    iotlb_update(0, IOVA + 2 * PAGE, PAGE, page, WO);
    iotlb_update(1, IOVA, PAGE, page, RW);
    iotlb_invalidate(0, IOVA + PAGE, PAGE);
    probe(0, IOVA, page);
    probe(0, IOVA + PAGE, page);
    probe(0, IOVA + 2 * PAGE, page);
    probe(1, IOVA, page);
}

/*
 * Invalidations
 */

static void run_invalidate_exact(void)
{
    uint8_t *mem = same_page("mem", 4);

    begin();
    iotlb_update(0, IOVA, 4 * PAGE, mem, RW);
    iotlb_invalidate(0, IOVA, 4 * PAGE);
    probe_pages(0, IOVA, 4, mem);
    /* nothing is there any more */
    iotlb_invalidate(0, IOVA, 4 * PAGE);
    iotlb_invalidate(0, IOVA + 100 * PAGE, PAGE);
    iotlb_invalidate(0, 0, PAGE);
}

/* Each entry that is touched goes, whole, and no other */
static void run_invalidate_partial(void)
{
    uint8_t *mem = same_page("mem", 4);

    begin();
    iotlb_update(0, IOVA, 4 * PAGE, mem, RW);
    iotlb_invalidate(0, IOVA + PAGE + 0x100, 0x10);
    probe_pages(0, IOVA, 4, mem);
    iotlb_invalidate(0, IOVA, 1);
    probe_pages(0, IOVA, 4, mem);
    iotlb_invalidate(0, IOVA + 4 * PAGE - 1, 1);
    probe_pages(0, IOVA, 4, mem);
    clear(0);
    iotlb_update(0, IOVA, 4 * PAGE, mem, RW);
    /* the last byte of one, the first of another */
    iotlb_invalidate(0, IOVA + 2 * PAGE - 1, 2);
    probe_pages(0, IOVA, 4, mem);
    clear(0);
    iotlb_update(0, IOVA, 4 * PAGE, mem, RW);
    /* just beside them */
    iotlb_invalidate(0, IOVA - 1, 1);
    iotlb_invalidate(0, IOVA + 4 * PAGE, PAGE);
    probe_pages(0, IOVA, 4, mem);
}

static void run_invalidate_wide(void)
{
    uint8_t *mem = same_page("mem", 5);

    begin();
    iotlb_update(0, IOVA, 2 * PAGE, mem, RW);
    iotlb_update(0, IOVA + 3 * PAGE, 2 * PAGE, mem + 3 * PAGE, RW);
    iotlb_invalidate(0, IOVA - PAGE, 100 * PAGE);
    probe_pages(0, IOVA, 5, mem);
    iotlb_update(0, IOVA, 2 * PAGE, mem, RW);
    iotlb_update(0, IOVA + 3 * PAGE, 2 * PAGE, mem + 3 * PAGE, RW);
    /* over a gap, a part of both ends */
    iotlb_invalidate(0, IOVA + PAGE + 1, 2 * PAGE);
    probe_pages(0, IOVA, 5, mem);
    iotlb_invalidate(0, 0, UINT64_MAX);
    probe_pages(0, IOVA, 5, mem);
}

static void run_invalidate_zero(void)
{
    uint8_t *mem = same_page("mem", 3);

    begin();
    iotlb_update(0, IOVA, 3 * PAGE, mem, RW);
    iotlb_update(1, IOVA, 3 * PAGE, mem, RW);
    /* between two entries, at the ends, beside them: none has both bytes */
    iotlb_invalidate(0, IOVA + PAGE, 0);
    iotlb_invalidate(0, IOVA, 0);
    iotlb_invalidate(0, IOVA + 3 * PAGE, 0);
    iotlb_invalidate(0, IOVA - PAGE, 0);
    iotlb_invalidate(0, IOVA + 5 * PAGE, 0);
    probe_pages(0, IOVA, 3, mem);
    /* inside one */
    iotlb_invalidate(0, IOVA + PAGE + 0x800, 0);
    probe_pages(0, IOVA, 3, mem);
    iotlb_invalidate(0, IOVA + 1, 0);
    probe_pages(0, IOVA, 3, mem);
    iotlb_invalidate(0, UINT64_MAX, 0);
    probe_pages(0, IOVA, 3, mem);
    /* at the very beginning it is everything */
    iotlb_invalidate(0, 0, 0);
    probe_pages(0, IOVA, 3, mem);
    probe_pages(1, IOVA, 3, mem);
}

/* No range is refused, and one that wraps is what is behind and before it */
static void run_invalidate_range(void)
{
    uint8_t *mem = same_page("mem", 3);

    begin();
    iotlb_update(0, IOVA, 3 * PAGE, mem, RW);
    iotlb_update(0, 0, PAGE, mem, RW);
    iotlb_update(0, UINT64_MAX - PAGE + 1, PAGE, mem, RW);
    iotlb_invalidate(0, IOVA + 3 * PAGE, UINT64_MAX);
    probe_pages(0, IOVA, 3, mem);
    iotlb_invalidate(0, IOVA + PAGE + 0x10, UINT64_MAX - 0x10);
    probe_pages(0, IOVA, 3, mem);
    iotlb_invalidate(0, IOVA + PAGE + 0x900, UINT64_MAX - 0x7fe);
    probe_pages(0, IOVA, 3, mem);
    iotlb_invalidate(0, 1, UINT64_MAX - 1);
    probe(0, 0, mem);
    probe(0, IOVA, mem);
    probe(0, UINT64_MAX - PAGE + 1, mem);
    iotlb_update(0, UINT64_MAX - PAGE + 1, PAGE, mem, RW);
    iotlb_update(0, 0, PAGE, mem, RW);
    iotlb_invalidate(0, UINT64_MAX, 1);
    probe(0, 0, mem);
    probe(0, UINT64_MAX - PAGE + 1, mem);
}

/*
 * The IOVA range
 */

static void run_range(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    vdpa_get_iova_range(NULL, NULL);
    iotlb_update(0, 0, PAGE, page, RW);
    iotlb_update(0, UINT64_MAX - PAGE + 1, PAGE, page, RW);
    iotlb_update(0, UINT64_MAX - PAGE + 1, PAGE, page, RW);
    iotlb_update(0, UINT64_MAX - 2 * PAGE + 1, PAGE, page, RW);
    iotlb_update(0, 1ULL << 63, PAGE, page, RW);
    /* past the end */
    clear(0);
    iotlb_invalidate(0, UINT64_MAX, 1);
    iotlb_update(0, UINT64_MAX - PAGE + 1, PAGE + 1, page, RW);
    iotlb_update(0, UINT64_MAX, 2, page, RW);
    iotlb_update(0, UINT64_MAX, UINT64_MAX, page, RW);
    iotlb_update(0, PAGE, UINT64_MAX, page, RW);
    iotlb_update(0, PAGE, UINT64_MAX - PAGE + 2, page, RW);
    /* not past it, but there is no such memory */
    iotlb_update(0, PAGE, UINT64_MAX - PAGE + 1, page, RW);
    iotlb_update(0, PAGE, UINT64_MAX - PAGE, page, RW);
    iotlb_update(0, 0, UINT64_MAX, page, RW);
    probe(0, 0, page);
    probe(0, PAGE, page);
    probe(0, UINT64_MAX - PAGE + 1, page);
}

/*
 * Batches
 */

static void run_batch(void)
{
    uint8_t *mem = mem_shared("mem", 3);

    begin();
    iotlb_batch_begin(0);
    iotlb_update(0, IOVA, PAGE, mem, RW);
    iotlb_update(0, IOVA + PAGE, PAGE, mem + PAGE, RW);
    /* what is in the batch counts at once */
    iotlb_update(0, IOVA, PAGE, mem, RW);
    iotlb_invalidate(0, IOVA, PAGE);
    iotlb_update(0, IOVA, PAGE, mem + 2 * PAGE, RW);
    iotlb_batch_end(0);
    probe_pages(0, IOVA, 3, mem);
    iotlb_batch_begin(1);
    iotlb_update(1, IOVA, PAGE, mem, RW);
    iotlb_batch_end(1);
    probe_pages(1, IOVA, 2, mem);
}

static void run_batch_empty(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    iotlb_batch_begin(0);
    iotlb_batch_end(0);
    iotlb_batch_begin(0);
    iotlb_batch_begin(0);
    iotlb_batch_end(0);
    iotlb_batch_end(0);
    iotlb_batch_end(0);
    iotlb_update(0, IOVA, PAGE, page, RW);
    iotlb_batch_begin(0);
    iotlb_batch_end(0);
    probe(0, IOVA, page);
    iotlb_batch_begin(1);
    iotlb_batch_end(1);
}

/* An END without BEGIN is none; neither does it end another's batch */
static void run_batch_end(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    iotlb_update(0, IOVA, PAGE, page, RW);
    iotlb_update(1, IOVA, PAGE, page, RW);
    iotlb_batch_end(0);
    iotlb_batch_end(1);
    iotlb_batch_begin(0);
    iotlb_batch_end(1);
    iotlb_update(1, IOVA + PAGE, PAGE, page, RW);
    iotlb_batch_end(0);
    iotlb_update(1, IOVA + PAGE, PAGE, page, RW);
}

/* While one is open there is only one address space */
static void run_batch_other(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    iotlb_update(0, IOVA, PAGE, page, RW);
    iotlb_update(1, IOVA, PAGE, page, RW);
    iotlb_batch_begin(1);
    iotlb_update(0, IOVA + PAGE, PAGE, page, RW);
    iotlb_invalidate(0, IOVA, PAGE);
    iotlb_batch_begin(0);
    iotlb_batch_end(0);
    iotlb_update(2, IOVA, PAGE, page, RW);
    iotlb_message(VHOST_IOTLB_MSG, 1, VHOST_IOTLB_INVALIDATE, IOVA, PAGE, 0,
                  0, 72);
    iotlb_message(VHOST_IOTLB_MSG_V2, 0, 77, IOVA, PAGE, 0, 0, 72);
    iotlb_message(VHOST_IOTLB_MSG_V2, 1, 77, IOVA, PAGE, 0, 0, 72);
    iotlb_invalidate(1, IOVA, PAGE);
    probe(1, IOVA, page);
    iotlb_batch_end(1);
    probe(0, IOVA, page);
    probe(0, IOVA + PAGE, page);
    probe(1, IOVA, page);
}

/* Whether a batch of address space 0 is open */
static void probe_batch(const void *page)
{
    probe(1, IOVA + 99 * PAGE, page);
}

static void run_batch_failure(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    iotlb_batch_begin(0);
    iotlb_update(0, IOVA, PAGE, page, RW);
    iotlb_update(0, IOVA, PAGE, page, RW);
    probe_batch(page);
    iotlb_update(0, IOVA, 0, page, RW);
    probe_batch(page);
    iotlb_message(VHOST_IOTLB_MSG_V2, 0, 77, IOVA, PAGE, 0, 0, 72);
    probe_batch(page);
    iotlb_update(0, UINT64_MAX, 2, page, RW);
    probe_batch(page);
    iotlb_batch_end(0);
    probe_batch(page);
    probe(0, IOVA, page);
}

static void run_batch_reset(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    vdpa_set_status(S_ACKNOWLEDGE);
    iotlb_batch_begin(0);
    iotlb_update(0, IOVA, PAGE, page, RW);
    vdpa_set_status(0);
    probe_batch(page);
    iotlb_batch_begin(0);
    probe(0, IOVA, page);
    iotlb_batch_end(0);
    probe_batch(page);
    iotlb_batch_begin(0);
    node_close();
    begin();
    probe_batch(page);
    probe(0, IOVA, page);
}

/* Backend features are not needed for batches, nor do they end one */
static void run_batch_unacked(void)
{
    uint8_t *page = mem_shared("page", 1);

    node_open_owned();
    iotlb_batch_begin(0);
    iotlb_update(0, IOVA, PAGE, page, RW);
    vdpa_set_backend_features(BACKEND(IOTLB_ASID));
    probe_batch(page);
    vdpa_set_backend_features(0);
    iotlb_batch_end(7);
    vdpa_set_backend_features(BACKEND(IOTLB_ASID));
    probe_batch(page);
}

/*
 * What the state of the device has to do with it
 */

static void run_states(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    vdpa_set_status(S_ACKNOWLEDGE);
    iotlb_update(0, IOVA, PAGE, page, RW);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
    iotlb_invalidate(0, IOVA, PAGE);
    vdpa_set_features(F_MODERN);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
    iotlb_update(0, IOVA, PAGE, page, RW);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
    iotlb_update(0, IOVA + PAGE, PAGE, page, RW);
    iotlb_invalidate(0, IOVA, PAGE);
    vdpa_suspend();
    iotlb_update(0, IOVA, PAGE, page, RW);
    iotlb_invalidate(0, IOVA + PAGE, PAGE);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK |
                    S_FAILED);
    probe(0, IOVA, page);
    probe(0, IOVA + PAGE, page);
}

static void reset_keeps(uint64_t backend_features)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    vdpa_set_backend_features(backend_features);
    iotlb_update(0, IOVA, PAGE, page, RW);
    iotlb_update(1, IOVA + PAGE, PAGE, page, RW);
    vdpa_set_status(S_ACKNOWLEDGE);
    vdpa_set_status(0);
    /* the messages' side keeps them all */
    probe(0, IOVA, page);
    probe(1, IOVA + PAGE, page);
    probe(1, IOVA, page);
    vdpa_set_status(0);
    iotlb_invalidate(0, IOVA, PAGE);
    probe(0, IOVA, page);
    node_close();
    begin();
    probe(0, IOVA, page);
    probe(1, IOVA + PAGE, page);
}

static void run_reset(void)
{
    reset_keeps(BACKEND(IOTLB_ASID));
}

static void run_reset_persist(void)
{
    reset_keeps(BACKEND(IOTLB_ASID) | BACKEND(IOTLB_PERSIST));
}

/*
 * Permissions and kinds of memory
 */

static void run_permissions(void)
{
    static const uint8_t perm[] = { 0, RO, WO, RW, 4, 7, 0x80, 0xff };
    uint8_t *page = mem_shared("page", 1);
    size_t i;

    begin();
    for (i = 0; i < sizeof(perm); i++) {
        iotlb_update(0, IOVA, PAGE, page, perm[i]);
        probe(0, IOVA, page);
        iotlb_invalidate(0, IOVA, PAGE);
    }
}

static void permissions_of(uint8_t *mem, uint8_t *page)
{
    static const uint8_t perm[] = { RO, WO, RW, 0 };
    size_t i;

    for (i = 0; i < sizeof(perm); i++) {
        iotlb_update(0, IOVA, PAGE, mem, perm[i]);
        probe(0, IOVA, page);
        iotlb_invalidate(0, IOVA, PAGE);
    }
}

/* Memory that the process itself may not read or write */
static void run_protection(void)
{
    int fd = mem_file(1);
    uint8_t *page = mem_shared("page", 1);
    uint8_t *ro = mem_map("ro", 1, PROT_READ, MAP_SHARED, fd, 0);
    uint8_t *wo = mem_map("wo", 1, PROT_WRITE, MAP_SHARED, fd, 0);
    uint8_t *none = mem_map("none", 1, PROT_NONE, MAP_SHARED, fd, 0);
    uint8_t *anon = mem_map("anon", 1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
                            -1, 0);

    close(fd);
    begin();
    permissions_of(ro, page);
    permissions_of(wo, page);
    permissions_of(none, page);
    permissions_of(anon, page);
}

static void kind(uint8_t *mem, uint8_t *page)
{
    iotlb_update(0, IOVA, PAGE, mem, RW);
    probe(0, IOVA, page);
    clear(0);
}

static void run_kinds(void)
{
    const int rw = PROT_READ | PROT_WRITE;
    int fd = mem_file(4);
    uint8_t *page = mem_shared("page", 1);
    uint8_t *touched = mem_private("touched", 1);

    memset(touched, 1, PAGE);
    begin();
    kind(page, page);
    kind(mem_private("private", 1), page);
    kind(touched, page);
    kind(mem_map("shared-anonymous", 1, rw, MAP_SHARED | MAP_ANONYMOUS, -1,
                 0), page);
    kind(mem_map("private-file", 1, rw, MAP_PRIVATE, fd, 0), page);
    kind(mem_map("shared-file", 1, rw, MAP_SHARED, fd, 3 * PAGE), page);
    close(fd);
    left_out("hugetlbfs and memory of devices", "not everywhere there");
}

/* Memory of several kinds in a row */
static void run_kinds_mixed(void)
{
    uint8_t *page = mem_shared("page", 1);
    uint8_t *mem = mem_private("mem", 5);
    int fd = mem_file(5);

    if (mmap(mem, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
             0) == MAP_FAILED ||
        mmap(mem + 2 * PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd,
             3 * PAGE) == MAP_FAILED ||
        mmap(mem + 4 * PAGE, PAGE, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        die("mmap: %s", strerror(errno));
    }
    close(fd);
    begin();
    iotlb_update(0, IOVA, 5 * PAGE, mem, RO);
    probe_pages(0, IOVA, 5, page);
    iotlb_update(0, IOVA, 5 * PAGE, mem, RO);
    /* from the middle of a page on, to that of another */
    clear(0);
    iotlb_update(0, IOVA + 0x800, 4 * PAGE, mem + 0x800, RO);
    probe_pages(0, IOVA, 5, page);
    clear(0);
    iotlb_update(0, IOVA, 5 * PAGE, mem, RW);
    probe_pages(0, IOVA, 5, page);
}

/* Every second page of shared memory is not there */
static uint8_t *holes(const char *name, size_t pages)
{
    uint8_t *mem = mem_shared(name, pages);
    size_t i;

    for (i = 1; i < pages; i += 2) {
        if (munmap(mem + i * PAGE, PAGE) < 0) {
            die("munmap: %s", strerror(errno));
        }
    }
    return mem;
}

static void run_holes(void)
{
    uint8_t *page = mem_shared("page", 1);
    uint8_t *mem = holes("mem", 5);

    begin();
    iotlb_update(0, IOVA, 5 * PAGE, mem, RW);
    probe_pages(0, IOVA, 5, page);
    clear(0);
    iotlb_update(0, IOVA, PAGE, mem, RW);
    iotlb_update(0, IOVA + 2 * PAGE, PAGE, mem + 2 * PAGE, RW);
    clear(0);
    /* what a failure leaves of its neighbours, and of itself */
    iotlb_update(0, IOVA + 5 * PAGE, PAGE, page, RW);
    iotlb_update(0, IOVA - PAGE, PAGE, page, RW);
    iotlb_update(0, IOVA, 5 * PAGE, mem, RW);
    probe_pages(0, IOVA - PAGE, 7, page);
}

/* Where no process has memory */
static void run_nowhere(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    iotlb_update(0, IOVA, PAGE, (void *)(1ULL << 47), RW);
    iotlb_update(0, IOVA, PAGE, (void *)(1ULL << 63), RW);
    iotlb_update(0, IOVA, PAGE, (void *)(UINT64_MAX - PAGE + 1), RW);
    iotlb_update(0, IOVA, 2 * PAGE, (void *)(UINT64_MAX - PAGE + 1), RW);
    iotlb_update(0, IOVA, 1, (void *)UINT64_MAX, RW);
    probe(0, IOVA, page);
}

static void run_gone(void)
{
    uint8_t *mem = mem_shared("mem", 2);
    uint8_t *page = mem_shared("page", 1);

    begin();
    iotlb_update(0, IOVA, 2 * PAGE, mem, RW);
    mem_gone(mem);
    probe_pages(0, IOVA, 2, page);
    iotlb_invalidate(0, IOVA, 2 * PAGE);
    probe_pages(0, IOVA, 2, page);
}

/* Neither address nor size need be multiples of anything */
static void run_unaligned(void)
{
    uint8_t *mem = same_page("mem", 4);

    begin();
    iotlb_update(0, IOVA + 0x123, 0x10, mem + 0x123, RW);
    probe(0, IOVA, mem);
    /* beside what was asked for */
    iotlb_update(0, IOVA + 0x200, 0x10, mem + 0x200, RW);
    iotlb_invalidate(0, IOVA + 0x800, 1);
    iotlb_update(0, IOVA + 0x123, 0x10, mem + 0x123, RW);
    clear(0);
    /* over a border */
    iotlb_update(0, IOVA + PAGE - 8, 16, mem + PAGE - 8, RW);
    probe_pages(0, IOVA, 3, mem);
    clear(0);
    /* where the offsets in the page differ, that of the IOVA counts */
    iotlb_update(0, IOVA, PAGE, mem + 0x800, RW);
    probe_pages(0, IOVA, 2, mem);
    clear(0);
    iotlb_update(0, IOVA + 0x800, PAGE, mem, RW);
    probe_pages(0, IOVA, 3, mem);
    clear(0);
    iotlb_update(0, IOVA, 1, mem + 1, RW);
    iotlb_update(0, IOVA + PAGE, PAGE + 1, mem + PAGE, RW);
    probe_pages(0, IOVA, 4, mem);
}

/* Two parts of one page */
static void run_neighbours(void)
{
    uint8_t *page = mem_shared("page", 1);

    begin();
    iotlb_update(0, IOVA, 0x800, page, RW);
    iotlb_update(0, IOVA + 0x800, 0x800, page + 0x800, RW);
    iotlb_invalidate(0, IOVA, 1);
    iotlb_update(0, IOVA, 0x800, page, RW);
    clear(0);
    /* and the other way round */
    iotlb_update(0, IOVA + 0x800, 0x800, page + 0x800, RW);
    iotlb_update(0, IOVA, 0x800, page, RW);
    clear(0);
    iotlb_update(0, IOVA, 1, page, RW);
    iotlb_update(0, IOVA + PAGE - 1, 1, page, RW);
    clear(0);
    /* parts of two pages that are neighbours */
    iotlb_update(0, IOVA, 0x800, page, RW);
    iotlb_update(0, IOVA + PAGE + 0x800, 0x800, page, RW);
    iotlb_update(0, IOVA + 0x800, PAGE, page, RW);
}

/*
 * Limits
 */

/* Pages are charged where they are pinned, whoever asks */
static void run_memlock(void)
{
    uint8_t *mem = same_page("mem", 6);

    begin();
    set_memlock(0);
    iotlb_update(0, IOVA, PAGE, mem, RW);
    clear(0);
    set_memlock(4);
    iotlb_update(0, IOVA, 5 * PAGE, mem, RW);
    clear(0);
    iotlb_update(0, IOVA, 4 * PAGE, mem, RW);
    iotlb_update(0, IOVA + 4 * PAGE, PAGE, mem + 4 * PAGE, RW);
    iotlb_update(1, IOVA, PAGE, mem, RW);
    iotlb_invalidate(0, IOVA, PAGE);
    iotlb_update(1, IOVA, PAGE, mem, RW);
    iotlb_update(1, IOVA + PAGE, PAGE, mem, RW);
    /* the same page is charged each time */
    clear(0);
    clear(1);
    iotlb_update(0, IOVA, PAGE, mem, RW);
    iotlb_update(0, IOVA + PAGE, PAGE, mem, RW);
    iotlb_update(1, IOVA, 2 * PAGE, mem, RW);
    iotlb_update(1, IOVA + 2 * PAGE, PAGE, mem, RW);
    clear(0);
    clear(1);
    /* a part of a page is a page, of two pages two */
    iotlb_update(0, IOVA + PAGE - 1, 2, mem + PAGE - 1, RW);
    iotlb_update(0, IOVA + 2 * PAGE, 2 * PAGE + 1, mem, RW);
    iotlb_update(0, IOVA + 2 * PAGE, PAGE + 1, mem, RW);
    iotlb_update(0, IOVA + 5 * PAGE, 1, mem, RW);
}

static void run_memlock_later(void)
{
    uint8_t *mem = same_page("mem", 4);

    begin();
    set_memlock(4);
    iotlb_update(0, IOVA, 4 * PAGE, mem, RW);
    /* what is there stays */
    set_memlock(1);
    probe(0, IOVA, mem);
    iotlb_invalidate(0, IOVA, 2 * PAGE);
    iotlb_update(0, IOVA, PAGE, mem, RW);
    iotlb_invalidate(0, IOVA + 2 * PAGE, 2 * PAGE);
    iotlb_update(0, IOVA, PAGE, mem, RW);
    /* a reset gives nothing back, a close does */
    vdpa_set_status(0);
    iotlb_update(0, IOVA + PAGE, PAGE, mem, RW);
    node_close();
    begin();
    iotlb_update(0, IOVA + PAGE, PAGE, mem, RW);
    /* nor does a failure keep anything */
    clear(0);
    iotlb_update(0, IOVA, PAGE, (void *)(1ULL << 47), RW);
    iotlb_update(0, IOVA, PAGE, mem, RW);
}

/* Map pages one by one without a line for each; returns how many it took */
static unsigned fill(uint32_t asid, unsigned count, const uint8_t *page)
{
    unsigned i;

    for (i = 0; i < count; i++) {
        Message m = message(VHOST_IOTLB_UPDATE, IOVA + i * PAGE, PAGE, page,
                            RW);

        m.asid = asid;
        if (write(node, &m, sizeof(m)) < 0) {
            break;
        }
    }
    say("%u pages of %u mapped, each by a message", i, count);
    return i;
}

static void run_entries(void)
{
    uint8_t *page = mem_shared("page", 1);
    uint8_t *mem = same_page("mem", 3);

    begin();
    iotlb_batch_begin(0);
    if (fill(0, MAX_ENTRIES + 1, page) <= MAX_ENTRIES) {
        iotlb_update(0, IOVA - PAGE, PAGE, page, RW);
        iotlb_invalidate(0, IOVA, PAGE);
        iotlb_invalidate(0, IOVA + PAGE, PAGE);
        /* two are free: three do not fit, and leave nothing behind */
        iotlb_update(0, IOVA - 4 * PAGE, 3 * PAGE, mem, RW);
        iotlb_update(0, IOVA - 4 * PAGE, 2 * PAGE, mem, RW);
        iotlb_update(0, IOVA, PAGE, page, RW);
    }
    iotlb_batch_end(0);
    /* each address space has its own, but what is locked counts together */
    iotlb_invalidate(0, IOVA + 2 * PAGE, PAGE);
    iotlb_update(1, IOVA, PAGE, page, RW);
    clear(0);
    iotlb_update(0, IOVA, PAGE, page, RW);
}

const Case iotlb_cases[] = {
    { "owner", run_owner },
    { "access-mode", run_access_mode },
    { "length-v1", run_length_v1 },
    { "length-v2", run_length_v2 },
    { "length-v2-unacked", run_length_v2_unacked },
    { "several", run_several },
    { "versions", run_versions },
    { "types-v1", run_types_v1 },
    { "types-v2", run_types_v2 },
    { "fields", run_fields },
    { "unreadable", run_unreadable },
    { "vectors", run_vectors },
    { "size-zero", run_size_zero },
    { "asid", run_asid },
    { "asid-unacked", run_asid_unacked },
    { "asid-v1", run_asid_v1 },
    { "lazy", run_lazy },
    { "lazy-batch", run_lazy_batch },
    { "overlaps", run_overlaps },
    { "overlaps-several", run_overlaps_several },
    { "aliases", run_aliases },
    { "invalidate-exact", run_invalidate_exact },
    { "invalidate-partial", run_invalidate_partial },
    { "invalidate-wide", run_invalidate_wide },
    { "invalidate-zero", run_invalidate_zero },
    { "invalidate-range", run_invalidate_range },
    { "range", run_range },
    { "batch", run_batch },
    { "batch-empty", run_batch_empty },
    { "batch-end", run_batch_end },
    { "batch-other", run_batch_other },
    { "batch-failure", run_batch_failure },
    { "batch-reset", run_batch_reset },
    { "batch-unacked", run_batch_unacked },
    { "states", run_states },
    { "reset", run_reset },
    { "reset-persist", run_reset_persist },
    { "permissions", run_permissions },
    { "protection", run_protection },
    { "kinds", run_kinds },
    { "kinds-mixed", run_kinds_mixed },
    { "holes", run_holes },
    { "nowhere", run_nowhere },
    { "gone", run_gone },
    { "unaligned", run_unaligned },
    { "neighbours", run_neighbours },
    { "memlock", run_memlock },
    { "memlock-later", run_memlock_later },
    { "entries", run_entries },
    { NULL, NULL }
};
