/*
 * vhost-vdpa conformance: the ioctls, with good and bad arguments, in every
 * state of the device
 *
 * The size of a ring, the configuration and whether a kick is pending outlive
 * even a close on vdpa_sim.  A case that looks at one of them sets it before.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "conformance.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Not in all headers */
#ifndef VHOST_NEW_WORKER
#define VHOST_NEW_WORKER _IOR(VHOST_VIRTIO, 0x8, uint32_t)
#define VHOST_FREE_WORKER _IOW(VHOST_VIRTIO, 0x9, uint32_t)
#define VHOST_ATTACH_VRING_WORKER _IOW(VHOST_VIRTIO, 0x15, uint64_t)
#define VHOST_GET_VRING_WORKER _IOWR(VHOST_VIRTIO, 0x16, uint64_t)
#endif
#define GET_FEATURES_ARRAY _IOR(VHOST_VIRTIO, 0x83, uint64_t)
#define SET_FEATURES_ARRAY _IOW(VHOST_VIRTIO, 0x83, uint64_t)

/* How many virtqueues the device has, see constants() */
#define NVQS 3

/* Every ioctl, and those that there are not */
static const struct {
    const char *name;
    unsigned long cmd;
    uint8_t size;
    bool queries;       /* writes to its argument */
    bool acts;          /* does something though the argument is bad */
} ioctls[] = {
    { "GET_FEATURES", VHOST_GET_FEATURES, 8, true },
    { "SET_FEATURES", VHOST_SET_FEATURES, 8 },
    { "SET_OWNER", VHOST_SET_OWNER, 0, false, true },
    { "RESET_OWNER", VHOST_RESET_OWNER, 0 },
    { "SET_MEM_TABLE", VHOST_SET_MEM_TABLE, 8 },
    { "SET_LOG_BASE", VHOST_SET_LOG_BASE, 8 },
    { "SET_LOG_FD", VHOST_SET_LOG_FD, 4 },
    { "NEW_WORKER", VHOST_NEW_WORKER, 4 },
    { "FREE_WORKER", VHOST_FREE_WORKER, 4 },
    { "ATTACH_VRING_WORKER", VHOST_ATTACH_VRING_WORKER, 8 },
    { "GET_VRING_WORKER", VHOST_GET_VRING_WORKER, 8 },
    { "SET_VRING_NUM", VHOST_SET_VRING_NUM, 8 },
    { "SET_VRING_ADDR", VHOST_SET_VRING_ADDR, 40 },
    { "SET_VRING_BASE", VHOST_SET_VRING_BASE, 8 },
    { "GET_VRING_BASE", VHOST_GET_VRING_BASE, 8, true },
    { "SET_VRING_ENDIAN", VHOST_SET_VRING_ENDIAN, 8 },
    { "GET_VRING_ENDIAN", VHOST_GET_VRING_ENDIAN, 8 },
    { "SET_VRING_KICK", VHOST_SET_VRING_KICK, 8 },
    { "SET_VRING_CALL", VHOST_SET_VRING_CALL, 8 },
    { "SET_VRING_ERR", VHOST_SET_VRING_ERR, 8 },
    { "SET_VRING_BUSYLOOP_TIMEOUT", VHOST_SET_VRING_BUSYLOOP_TIMEOUT, 8 },
    { "GET_VRING_BUSYLOOP_TIMEOUT", VHOST_GET_VRING_BUSYLOOP_TIMEOUT, 8,
      true },
    { "SET_BACKEND_FEATURES", VHOST_SET_BACKEND_FEATURES, 8 },
    { "GET_BACKEND_FEATURES", VHOST_GET_BACKEND_FEATURES, 8, true },
    { "GET_DEVICE_ID", VHOST_VDPA_GET_DEVICE_ID, 4, true },
    { "GET_STATUS", VHOST_VDPA_GET_STATUS, 1, true },
    { "SET_STATUS", VHOST_VDPA_SET_STATUS, 1 },
    { "GET_CONFIG", VHOST_VDPA_GET_CONFIG, 8 },
    { "SET_CONFIG", VHOST_VDPA_SET_CONFIG, 8 },
    { "SET_VRING_ENABLE", VHOST_VDPA_SET_VRING_ENABLE, 8 },
    { "GET_VRING_NUM", VHOST_VDPA_GET_VRING_NUM, 2, true },
    { "SET_CONFIG_CALL", VHOST_VDPA_SET_CONFIG_CALL, 4 },
    { "GET_IOVA_RANGE", VHOST_VDPA_GET_IOVA_RANGE, 16, true },
    { "GET_CONFIG_SIZE", VHOST_VDPA_GET_CONFIG_SIZE, 4, true },
    { "GET_AS_NUM", VHOST_VDPA_GET_AS_NUM, 4, true },
    { "GET_VRING_GROUP", VHOST_VDPA_GET_VRING_GROUP, 8, true },
    { "SET_GROUP_ASID", VHOST_VDPA_SET_GROUP_ASID, 8 },
    { "SUSPEND", VHOST_VDPA_SUSPEND, 0 },
    { "RESUME", VHOST_VDPA_RESUME, 0 },
    { "GET_VRING_DESC_GROUP", VHOST_VDPA_GET_VRING_DESC_GROUP, 8, true },
    { "GET_VQS_COUNT", VHOST_VDPA_GET_VQS_COUNT, 4, true },
    { "GET_GROUP_NUM", VHOST_VDPA_GET_GROUP_NUM, 4, true },
    { "GET_VRING_SIZE", VHOST_VDPA_GET_VRING_SIZE, 8, true },
    { "GET_FEATURES_ARRAY", GET_FEATURES_ARRAY, 8 },
    { "SET_FEATURES_ARRAY", SET_FEATURES_ARRAY, 8 },
    { "SET_FORK_FROM_OWNER", VS_SET_FORK_FROM_OWNER, 1 },
    { "GET_FORK_FROM_OWNER", VS_GET_FORK_FROM_OWNER, 1, true },
};

static void constants(void)
{
    node_open(O_RDWR);
    vdpa_get_device_id(NULL);
    vdpa_get_features(NULL);
    vdpa_get_backend_features(NULL);
    vdpa_get_vqs_count(NULL);
    vdpa_get_group_num(NULL);
    vdpa_get_as_num(NULL);
    vdpa_get_vring_num(NULL);
    vdpa_get_config_size(NULL);
    vdpa_get_iova_range(NULL, NULL);
}

/* A query stores as many bytes as its type has, and no more. */
static void widths(void)
{
    uint8_t data[64];
    size_t i, j, used;

    node_open_owned();
    for (i = 0; i < ARRAY_SIZE(ioctls); i++) {
        if (!ioctls[i].queries) {
            continue;
        }
        memset(data, 0x5a, sizeof(data));
        /* an index, where there is one */
        memset(data, 0, 4);
        if (ioctl(node, ioctls[i].cmd, data) < 0) {
            say("%s -> %s", ioctls[i].name, error_name(errno));
            continue;
        }
        for (used = 0, j = 0; j < sizeof(data); j++) {
            if (data[j] != (j < 4 ? 0 : 0x5a)) {
                used = j + 1;
            }
        }
        say("%s -> 0, writes within %zu bytes: %s", ioctls[i].name,
            (size_t)ioctls[i].size, used <= ioctls[i].size ? "yes" : "no");
    }
}

/*
 * Bad pointers
 */

/* Make all calls with one pointer. */
static void with_pointer(const char *what, const void *arg)
{
    char text[96];
    size_t i;

    for (i = 0; i < ARRAY_SIZE(ioctls); i++) {
        if (!ioctls[i].acts) {
            snprintf(text, sizeof(text), "%s %s", ioctls[i].name, what);
            call(text, ioctls[i].cmd, arg);
        }
    }
}

static void null_not_owner(void)
{
    node_open(O_RDWR);
    with_pointer("NULL", NULL);
}

static void null_owner(void)
{
    node_open_owned();
    with_pointer("NULL", NULL);
}

static void unmapped_not_owner(void)
{
    node_open(O_RDWR);
    with_pointer("nowhere", mem_nowhere());
}

static void unmapped_owner(void)
{
    node_open_owned();
    with_pointer("nowhere", mem_nowhere());
}

static void kernel_address(void)
{
    node_open_owned();
    with_pointer("beyond", (void *)-PAGE);
}

/*
 * What can be read of the argument is its first 4 bytes, zeroes; what follows
 * is in a page that is not there.
 */
static void straddling(void)
{
    uint8_t *mem = mem_private("page", 2);
    char text[96];
    size_t i;

    mprotect(mem + PAGE, PAGE, PROT_NONE);
    node_open_owned();
    for (i = 0; i < ARRAY_SIZE(ioctls); i++) {
        if (ioctls[i].size > 4) {
            /* a query may write what there is room for */
            memset(mem + PAGE - 4, 0, 4);
            snprintf(text, sizeof(text), "%s of which 4 bytes are there",
                     ioctls[i].name);
            call(text, ioctls[i].cmd, mem + PAGE - 4);
        }
    }
    /* an index that is out of range is seen before the rest is missed */
    for (i = 0; i < ARRAY_SIZE(ioctls); i++) {
        if (ioctls[i].size > 4 && ioctls[i].cmd != VHOST_SET_MEM_TABLE) {
            memset(mem + PAGE - 4, 0xff, 4);
            snprintf(text, sizeof(text), "%s of which 4 bytes are ones",
                     ioctls[i].name);
            call(text, ioctls[i].cmd, mem + PAGE - 4);
        }
    }
}

/* What is to be answered cannot be written. */
static void read_only(void)
{
    uint8_t *mem = mem_map("page", 1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
                           -1, 0);
    char text[96];
    size_t i;

    node_open_owned();
    for (i = 0; i < ARRAY_SIZE(ioctls); i++) {
        if (ioctls[i].queries) {
            snprintf(text, sizeof(text), "%s read-only", ioctls[i].name);
            call(text, ioctls[i].cmd, mem);
        }
    }
}

/*
 * Commands that there are not: which of four errors it is
 */

static const struct {
    const char *name;
    unsigned long cmd;
} unknown[] = {
    { "RESET_OWNER", VHOST_RESET_OWNER },
    { "SET_LOG_BASE", VHOST_SET_LOG_BASE },
    { "SET_LOG_FD", VHOST_SET_LOG_FD },
    { "NEW_WORKER", VHOST_NEW_WORKER },
    { "FREE_WORKER", VHOST_FREE_WORKER },
    { "ATTACH_VRING_WORKER", VHOST_ATTACH_VRING_WORKER },
    { "GET_VRING_WORKER", VHOST_GET_VRING_WORKER },
    { "SET_VRING_ENDIAN", VHOST_SET_VRING_ENDIAN },
    { "GET_VRING_ENDIAN", VHOST_GET_VRING_ENDIAN },
    { "GET_FEATURES_ARRAY", GET_FEATURES_ARRAY },
    { "SET_FEATURES_ARRAY", SET_FEATURES_ARRAY },
    { "NET_SET_BACKEND", VHOST_NET_SET_BACKEND },
    { "SCSI_GET_ABI_VERSION", VHOST_SCSI_GET_ABI_VERSION },
    { "VSOCK_SET_RUNNING", VHOST_VSOCK_SET_RUNNING },
    { "of one u32 more: GET_VRING_NUM", _IOR(VHOST_VIRTIO, 0x76, uint32_t) },
    { "of a u32: GET_STATUS", _IOR(VHOST_VIRTIO, 0x71, uint32_t) },
    { "of a u32: SET_STATUS", _IOW(VHOST_VIRTIO, 0x72, uint32_t) },
    { "of a u64: GET_DEVICE_ID", _IOR(VHOST_VIRTIO, 0x70, uint64_t) },
    { "of a u32: GET_FEATURES", _IOR(VHOST_VIRTIO, 0x00, uint32_t) },
    { "of a u32: SET_VRING_ENABLE", _IOW(VHOST_VIRTIO, 0x75, uint32_t) },
    { "with an argument: SUSPEND", _IOW(VHOST_VIRTIO, 0x7d, uint32_t) },
    { "other direction: SET_VRING_NUM", _IOR(VHOST_VIRTIO, 0x10, uint64_t) },
    { "other direction: GET_AS_NUM", _IOW(VHOST_VIRTIO, 0x7a, uint32_t) },
    { "number 0x7f without argument", _IO(VHOST_VIRTIO, 0x7f) },
    { "number 0xff", _IO(VHOST_VIRTIO, 0xff) },
    { "number 0xff that reads", _IOR(VHOST_VIRTIO, 0xff, uint64_t) },
    { "magic 0xae", _IO(0xae, 0x00) },
    { "0", 0 },
    { "0xffffffff", 0xffffffff },
    { "TCGETS", 0x5401 },
};

static void all_unknown(const char *how, const void *arg)
{
    char text[96];
    size_t i;

    for (i = 0; i < ARRAY_SIZE(unknown); i++) {
        snprintf(text, sizeof(text), "unknown: %s, %s", unknown[i].name, how);
        call(text, unknown[i].cmd, arg);
    }
}

static void unknown_not_owner(void)
{
    uint32_t arg[16] = { 0 };

    node_open(O_RDWR);
    all_unknown("NULL", NULL);
    all_unknown("index 0", arg);
}

static void unknown_owner(void)
{
    uint32_t arg[16] = { 0 };

    node_open_owned();
    all_unknown("NULL", NULL);
    all_unknown("index 0", arg);
    arg[0] = NVQS - 1;
    all_unknown("index 2", arg);
    arg[0] = NVQS;
    all_unknown("index 3", arg);
    arg[0] = UINT32_MAX;
    all_unknown("index -1", arg);
}

/*
 * Ownership, as far as one process sees it
 */

static void owner(void)
{
    node_open(O_RDWR);
    vdpa_get_vring_base(0, NULL);
    vdpa_get_vring_base(9, NULL);
    vdpa_set_vring_num(0, 256);
    vdpa_set_owner();
    vdpa_set_owner();
    vdpa_get_vring_base(0, NULL);
    vdpa_set_vring_num(0, 256);
    vdpa_set_status(0);
    vdpa_get_vring_base(0, NULL);
    vdpa_set_owner();
    call("SET_OWNER with an argument", VHOST_SET_OWNER, (void *)8);
    node_close();
    node_open(O_RDWR);
    vdpa_get_vring_base(0, NULL);
    call("SET_OWNER with an argument", VHOST_SET_OWNER, (void *)8);
    vdpa_get_vring_base(0, NULL);
}

/* One byte; a kernel without the calls takes four, a virtqueue's index */
static void fork_from(uint8_t value)
{
    uint8_t arg[4] = { value };
    char text[64];

    snprintf(text, sizeof(text), "SET_FORK_FROM_OWNER %u", value);
    call(text, VS_SET_FORK_FROM_OWNER, arg);
    arg[0] = 0x5a;
    if (call("GET_FORK_FROM_OWNER", VS_GET_FORK_FROM_OWNER, arg) == 0) {
        say("value=%u", arg[0]);
    }
}

static void fork_owner(void)
{
    node_open(O_RDWR);
    fork_from(1);
    fork_from(0);
    fork_from(2);
    fork_from(255);
    vdpa_set_status(0);
    fork_from(1);
    fork_from(0);
    vdpa_set_owner();
    fork_from(0);
    fork_from(1);
    call("SET_FORK_FROM_OWNER NULL", VS_SET_FORK_FROM_OWNER, NULL);
    node_close();
    node_open_owned();
    fork_from(2);
}

static void mem_table(uint32_t nregions, uint32_t padding)
{
    static uint64_t table[1 + 4 * 65];
    char text[64];

    memset(table, 0, sizeof(table));
    memcpy(table, &nregions, sizeof(nregions));
    memcpy((uint32_t *)table + 1, &padding, sizeof(padding));
    snprintf(text, sizeof(text), "SET_MEM_TABLE nregions=%" PRIu32
             " padding=%" PRIu32, nregions, padding);
    call(text, VHOST_SET_MEM_TABLE, table);
}

static void mem_tables(void)
{
    uint8_t *mem = mem_private("page", 2);

    node_open(O_RDWR);
    mem_table(0, 0);
    vdpa_set_owner();
    mem_table(0, 0);
    mem_table(0, 1);
    mem_table(1, 0);
    mem_table(64, 0);
    mem_table(65, 0);
    mem_table(UINT32_MAX, 0);
    mem_table(UINT32_MAX, 1);
    mprotect(mem + PAGE, PAGE, PROT_NONE);
    mem[PAGE - 8] = 1;
    call("SET_MEM_TABLE nregions=1, which is not there", VHOST_SET_MEM_TABLE,
         mem + PAGE - 8);
    mem[PAGE - 8] = 0;
    call("SET_MEM_TABLE nregions=0, nothing follows", VHOST_SET_MEM_TABLE,
         mem + PAGE - 8);
}

/*
 * Status
 */

static void status_one(uint8_t status)
{
    vdpa_set_status(status);
    vdpa_get_status(NULL);
}

static void status(void)
{
    unsigned i;

    node_open(O_RDWR);
    vdpa_get_status(NULL);
    /* the usual way */
    status_one(S_ACKNOWLEDGE);
    status_one(S_ACKNOWLEDGE | S_DRIVER);
    status_one(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
    status_one(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
    /* nothing is taken away */
    status_one(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
    status_one(S_DRIVER_OK);
    status_one(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
    /* but all at once */
    status_one(0);
    status_one(0);
    /* any bit, in any order, defined or not */
    for (i = 0; i < 8; i++) {
        status_one(1 << i);
        status_one(0);
    }
    for (i = 8; i > 0; i--) {
        status_one(0xff & ~((1 << (i - 1)) - 1));
    }
    status_one(0xfe);
    status_one(0xff);
    status_one(0);
    status_one(0xff);
}

static void status_removal(void)
{
    node_open_owned();
    status_one(S_NEEDS_RESET);
    status_one(S_ACKNOWLEDGE);
    status_one(S_ACKNOWLEDGE | S_NEEDS_RESET);
    status_one(0);
    status_one(S_FAILED | S_DRIVER);
    status_one(S_FAILED);
    status_one(S_DRIVER);
    status_one(S_FAILED | S_DRIVER | S_ACKNOWLEDGE);
    status_one(0);
}

/*
 * Features
 */

static void features(void)
{
    uint64_t offered;
    unsigned bit;

    node_open(O_RDWR);
    vdpa_get_features(&offered);
    vdpa_set_features(0);
    vdpa_set_features(F_VERSION_1);
    vdpa_set_features(offered & ~F_ACCESS_PLATFORM);
    vdpa_set_features(F_ACCESS_PLATFORM);
    vdpa_set_features(F_MODERN);
    vdpa_set_features(offered);
    /* what is not offered is masked */
    vdpa_set_features(UINT64_MAX);
    vdpa_set_features(UINT64_MAX & ~F_ACCESS_PLATFORM);
    for (bit = 0; bit < 64; bit++) {
        vdpa_set_features(F_ACCESS_PLATFORM | 1ULL << bit);
    }
    vdpa_get_features(NULL);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
    vdpa_set_features(F_MODERN);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
    vdpa_get_status(NULL);
    vdpa_set_features(F_MODERN);
    vdpa_set_features(0);
    call("SET_FEATURES NULL", VHOST_SET_FEATURES, NULL);
    vdpa_get_features(NULL);
    vdpa_set_status(0);
    vdpa_set_features(0);
    vdpa_set_features(F_MODERN);
    /* FEATURES_OK is not asked for */
    vdpa_set_status(S_DRIVER_OK);
    vdpa_set_features(F_MODERN);
    vdpa_set_features(0);
}

/* FEATURES_OK without a word about features */
static void features_never_set(void)
{
    node_open_owned();
    status_one(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
    status_one(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
    vdpa_set_vring_enable(0, 1);
    status_one(0);
    /* refused features leave what there was */
    vdpa_set_features(0);
    status_one(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
    vdpa_set_features(F_MODERN);
}

/* The device has no packed rings, so bases stay those of split ones. */
static void features_packed(void)
{
    node_open_owned();
    vdpa_set_features(F_MODERN | F_RING_PACKED);
    vdpa_set_vring_base(0, 0x80008000);
    vdpa_set_vring_base(0, 0x8000);
    vdpa_get_vring_base(0, NULL);
}

static void backend_features(void)
{
    uint64_t offered;
    unsigned bit;

    node_open(O_RDWR);
    vdpa_get_backend_features(&offered);
    vdpa_set_backend_features(0);
    vdpa_set_backend_features(offered);
    vdpa_set_backend_features(UINT64_MAX);
    for (bit = 0; bit < 64; bit++) {
        vdpa_set_backend_features(1ULL << bit);
    }
    vdpa_set_backend_features(BACKEND(DESC_ASID) | BACKEND(IOTLB_ASID));
    vdpa_set_backend_features(BACKEND(DESC_ASID) | BACKEND(IOTLB_BATCH));
    vdpa_set_backend_features(BACKEND(DESC_ASID) | 1);
    vdpa_set_backend_features(BACKEND(SUSPEND) | BACKEND(RESUME));
    vdpa_set_backend_features(BACKEND(IOTLB_PERSIST) | BACKEND(RESUME));
    /* in any state */
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
    vdpa_set_features(F_MODERN);
    vdpa_set_backend_features(offered);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
    vdpa_set_backend_features(0);
    vdpa_set_backend_features(offered);
    vdpa_get_backend_features(NULL);
    vdpa_set_status(0);
    vdpa_get_backend_features(NULL);
}

/*
 * Configuration
 */

/* What the device was made with; the MTU is the default */
static const uint8_t mac[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };
static const uint8_t mtu[2] = { 0xdc, 0x05 };

static void set_config(void)
{
    vdpa_set_config(0, sizeof(mac), mac);
    vdpa_set_config(10, sizeof(mtu), mtu);
}

static void config(void)
{
    static const struct {
        uint32_t off, len;
    } bad[] = {
        { 0, 0 }, { 0, 25 }, { 0, 4096 }, { 1, 24 }, { 23, 2 }, { 24, 0 },
        { 24, 1 }, { 25, 0 }, { 25, 1 }, { UINT32_MAX, 1 },
        { UINT32_MAX - 3, 8 },
    };
    struct {
        uint32_t off, len;
        uint8_t data[16];
    } huge = { 0, UINT32_MAX, { 0 } };
    uint8_t data[4096] = { 0 };
    size_t i;

    node_open(O_RDWR);
    set_config();
    vdpa_get_config(0, 24, NULL);
    vdpa_get_config(0, 1, NULL);
    vdpa_get_config(5, 1, NULL);
    vdpa_get_config(6, 4, NULL);
    vdpa_get_config(5, 7, NULL);
    vdpa_get_config(23, 1, NULL);
    for (i = 0; i < ARRAY_SIZE(bad); i++) {
        vdpa_get_config(bad[i].off, bad[i].len, NULL);
    }
    for (i = 0; i < ARRAY_SIZE(bad); i++) {
        vdpa_set_config(bad[i].off, bad[i].len, data);
    }
    call("GET_CONFIG off=0 len=-1", VHOST_VDPA_GET_CONFIG, &huge);
    call("SET_CONFIG off=0 len=-1", VHOST_VDPA_SET_CONFIG, &huge);
    huge.off = 24;
    call("GET_CONFIG off=24 len=-1", VHOST_VDPA_GET_CONFIG, &huge);
    huge.off = 1;
    call("GET_CONFIG off=1 len=-1", VHOST_VDPA_GET_CONFIG, &huge);
}

static void config_pointers(void)
{
    uint8_t *mem = mem_private("page", 2);
    uint32_t head[2] = { 0, 6 };

    mprotect(mem + PAGE, PAGE, PROT_NONE);
    node_open(O_RDWR);
    set_config();
    memcpy(mem + PAGE - 8, head, sizeof(head));
    call("GET_CONFIG off=0 len=6, no room", VHOST_VDPA_GET_CONFIG,
         mem + PAGE - 8);
    call("SET_CONFIG off=0 len=6, no data", VHOST_VDPA_SET_CONFIG,
         mem + PAGE - 8);
    memcpy(mem + PAGE - 12, head, sizeof(head));
    call("GET_CONFIG off=0 len=6, room for 4", VHOST_VDPA_GET_CONFIG,
         mem + PAGE - 12);
    call("SET_CONFIG off=0 len=6, data of 4", VHOST_VDPA_SET_CONFIG,
         mem + PAGE - 12);
    head[1] = 0;
    memcpy(mem + PAGE - 8, head, sizeof(head));
    call("GET_CONFIG off=0 len=0, no room", VHOST_VDPA_GET_CONFIG,
         mem + PAGE - 8);
    call("SET_CONFIG off=0 len=0, no data", VHOST_VDPA_SET_CONFIG,
         mem + PAGE - 8);
    vdpa_get_config(0, 6, NULL);
}

static void config_write(void)
{
    static const uint8_t ones[24] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    };
    uint8_t saved[24];

    node_open(O_RDWR);
    set_config();
    if (vdpa_get_config(0, sizeof(saved), saved)) {
        return;
    }
    vdpa_set_config(0, 6, ones);
    vdpa_get_config(0, 24, NULL);
    vdpa_set_config(3, 5, ones);
    vdpa_get_config(0, 24, NULL);
    /* it stays over a reset and a close */
    vdpa_set_status(0);
    vdpa_get_config(0, 24, NULL);
    node_close();
    node_open(O_RDWR);
    vdpa_get_config(0, 24, NULL);
    vdpa_set_config(0, 24, ones);
    vdpa_get_config(0, 24, NULL);
    vdpa_set_config(0, sizeof(saved), saved);
    vdpa_get_config(0, 24, NULL);
    /* in any state */
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
    vdpa_set_features(F_MODERN);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
    vdpa_set_config(0, 6, ones);
    vdpa_get_config(0, 6, NULL);
    vdpa_set_config(0, sizeof(saved), saved);
    vdpa_get_config(0, 6, NULL);
}

static void config_call(void)
{
    int event = event_new("event"), other = event_new("other"), pipe_fd[2];

    if (pipe(pipe_fd) < 0) {
        die("cannot make a pipe: %s", strerror(errno));
    }
    name_fd(pipe_fd[0], "pipe");
    node_open(O_RDWR);
    name_fd(node, "node");
    vdpa_set_config_call(-1);
    vdpa_set_config_call(event);
    vdpa_set_config_call(event);
    vdpa_set_config_call(other);
    vdpa_set_config_call(-2);
    vdpa_set_config_call(INT32_MAX);
    vdpa_set_config_call(INT32_MIN);
    vdpa_set_config_call(100000);
    vdpa_set_config_call(pipe_fd[0]);
    vdpa_set_config_call(node);
    vdpa_set_config_call(event);
    vdpa_set_owner();
    vdpa_set_config_call(-1);
    vdpa_set_config_call(event);
    vdpa_set_config(0, sizeof(mac), mac);
    event_take(event);
    vdpa_set_status(0);
    vdpa_set_config_call(other);
    event_take(event);
    event_take(other);
    vdpa_set_config_call(-1);
    close(pipe_fd[0]);
    close(pipe_fd[1]);
}

/*
 * Virtqueues
 */

static void ready_features(uint64_t bits)
{
    vdpa_set_status(S_ACKNOWLEDGE);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
    vdpa_set_features(bits);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
}

static void driver_ok(void)
{
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
}

static const uint32_t indices[] = {
    0, 1, 2, 3, 4, 0xffff, 0x10000, 0x80000000, 0xffffffff,
};

static void vring_indices(void)
{
    int event = event_new("event");
    size_t i;

    node_open_owned();
    for (i = 0; i < ARRAY_SIZE(indices); i++) {
        uint32_t vq = indices[i];

        vdpa_set_vring_num(vq, 256);
        vdpa_set_vring_base(vq, 7);
        vdpa_get_vring_base(vq, NULL);
        vdpa_set_vring_addr(vq, 0, 0x1000, 0x2000, 0x3000, 0);
        vdpa_set_vring_kick(vq, event);
        vdpa_set_vring_call(vq, event);
        vdpa_set_vring_err(vq, event);
        vdpa_set_vring_enable(vq, 1);
        vdpa_set_vring_enable(vq, 0);
        vdpa_get_vring_size(vq, NULL);
        vdpa_get_vring_group(vq, NULL);
        vdpa_get_vring_desc_group(vq, NULL);
        vdpa_set_vring_busyloop(vq, 5);
        vdpa_get_vring_busyloop(vq, NULL);
    }
}

static void vring_num(void)
{
    static const uint32_t nums[] = {
        0, 1, 2, 3, 4, 5, 64, 127, 128, 255, 256, 257, 512, 1024, 4096,
        16384, 32768, 32769, 49152, 65535, 65536, 65537, 131072, 0x80000000,
        0xffffffff, 256,
    };
    uint32_t vq;
    size_t i;

    node_open_owned();
    for (i = 0; i < ARRAY_SIZE(nums); i++) {
        vdpa_set_vring_num(0, nums[i]);
    }
    for (vq = 1; vq < NVQS; vq++) {
        vdpa_set_vring_num(vq, 0);
        vdpa_set_vring_num(vq, 128);
        vdpa_set_vring_num(vq, 256);
    }
    /* in any state */
    ready_features(F_MODERN);
    vdpa_set_vring_num(0, 128);
    driver_ok();
    vdpa_set_vring_num(0, 64);
    vdpa_set_vring_num(0, 3);
    vdpa_suspend();
    vdpa_set_vring_num(0, 256);
    vdpa_set_status(0);
    vdpa_set_vring_num(0, 128);
    vdpa_set_vring_num(0, 256);
}

/* Where the driver tells sizes, which depends on the mode */
static void vring_sizes(void)
{
    uint32_t vq;

    node_open_owned();
    for (vq = 0; vq < NVQS; vq++) {
        vdpa_set_vring_num(vq, 64);
        vdpa_get_vring_size(vq, NULL);
    }
    ready_features(F_MODERN);
    vdpa_get_vring_size(0, NULL);
    driver_ok();
    for (vq = 0; vq < NVQS; vq++) {
        vdpa_get_vring_size(vq, NULL);
    }
    vdpa_set_vring_num(0, 128);
    vdpa_get_vring_size(0, NULL);
    vdpa_suspend();
    vdpa_get_vring_size(0, NULL);
    vdpa_set_status(0);
    vdpa_get_vring_size(0, NULL);
    /* what was set outlives the reset */
    status_one(S_DRIVER_OK);
    vdpa_get_vring_size(0, NULL);
    vdpa_get_vring_size(1, NULL);
    for (vq = 0; vq < NVQS; vq++) {
        vdpa_set_vring_num(vq, 256);
    }
}

static void vring_base(void)
{
    static const uint32_t bases[] = {
        0, 1, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x10001,
        0x80008000, 0xffffffff,
    };
    size_t i;

    node_open_owned();
    for (i = 0; i < ARRAY_SIZE(bases); i++) {
        vdpa_set_vring_base(0, bases[i]);
        vdpa_get_vring_base(0, NULL);
    }
    vdpa_get_vring_base(1, NULL);
    vdpa_get_vring_base(2, NULL);
    vdpa_set_vring_base(2, 11);
    vdpa_get_vring_base(2, NULL);
    /* enabling keeps it, disabling too */
    vdpa_set_vring_num(0, 256);
    vdpa_set_vring_base(0, 0x1234);
    vdpa_set_vring_addr(0, 0, 0x1000, 0x2000, 0x3000, 0);
    vdpa_set_vring_enable(0, 1);
    vdpa_get_vring_base(0, NULL);
    vdpa_set_vring_base(0, 0x2345);
    vdpa_get_vring_base(0, NULL);
    vdpa_set_vring_enable(0, 0);
    vdpa_get_vring_base(0, NULL);
    ready_features(F_MODERN);
    vdpa_get_vring_base(0, NULL);
    vdpa_set_vring_base(0, 0x3456);
    vdpa_get_vring_base(0, NULL);
    vdpa_set_vring_enable(0, 1);
    driver_ok();
    vdpa_get_vring_base(0, NULL);
    vdpa_set_vring_base(0, 0x4567);
    vdpa_get_vring_base(0, NULL);
    vdpa_set_vring_base(0, 0x10000);
    vdpa_set_vring_enable(0, 0);
    vdpa_set_vring_base(0, 0x4567);
    vdpa_get_vring_base(0, NULL);
    vdpa_suspend();
    vdpa_set_vring_base(0, 0x5678);
    vdpa_get_vring_base(0, NULL);
    vdpa_resume();
    vdpa_set_vring_base(0, 0x6789);
    vdpa_get_vring_base(0, NULL);
    vdpa_set_status(0);
    vdpa_get_vring_base(0, NULL);
    vdpa_get_vring_base(2, NULL);
    vdpa_set_vring_base(0, 0x789a);
    node_close();
    node_open_owned();
    vdpa_get_vring_base(0, NULL);
}

static void vring_addr(void)
{
    unsigned i;

    node_open_owned();
    vdpa_set_vring_addr(0, 0, 0, 0, 0, 0);
    vdpa_set_vring_addr(0, 0, 0x1000, 0x2000, 0x3000, 0);
    /* log: nobody does, but it may be asked for */
    vdpa_set_vring_addr(0, 1, 0x1000, 0x2000, 0x3000, 0x4000);
    for (i = 1; i < 32; i++) {
        vdpa_set_vring_addr(0, 1u << i, 0x1000, 0x2000, 0x3000, 0);
    }
    vdpa_set_vring_addr(0, 3, 0x1000, 0x2001, 0x3000, 0);
    for (i = 0; i < 16; i++) {
        vdpa_set_vring_addr(0, 0, 0x1000 + i, 0x2000, 0x3000, 0);
    }
    for (i = 0; i < 8; i++) {
        vdpa_set_vring_addr(0, 0, 0x1000, 0x2000 + i, 0x3000, 0);
    }
    for (i = 0; i < 8; i++) {
        vdpa_set_vring_addr(0, 0, 0x1000, 0x2000, 0x3000 + i, 0);
    }
    for (i = 0; i < 8; i++) {
        vdpa_set_vring_addr(0, 0, 0x1000, 0x2000, 0x3000, 0x4000 + i);
    }
    for (i = 0; i < 8; i++) {
        vdpa_set_vring_addr(0, 1, 0x1000, 0x2000, 0x3000, 0x4000 + i);
    }
    vdpa_set_vring_addr(0, 0, UINT64_MAX - 15, UINT64_MAX - 1,
                        UINT64_MAX - 3, 0);
    vdpa_set_vring_addr(0, 0, UINT64_MAX, 0, 0, UINT64_MAX - 3);
    vdpa_set_vring_addr(0, 0, 0x1000, 0x1000, 0x1000, 0);
    ready_features(F_MODERN);
    vdpa_set_vring_addr(0, 0, 0x1000, 0x2000, 0x3000, 0);
    driver_ok();
    vdpa_set_vring_addr(0, 0, 0x1000, 0x2000, 0x3000, 0);
    vdpa_set_vring_addr(0, 2, 0x1000, 0x2000, 0x3000, 0);
    vdpa_set_vring_addr(3, 0, 0x1000, 0x2000, 0x3000, 0);
    vdpa_suspend();
    vdpa_set_vring_addr(0, 0, 0x1000, 0x2000, 0x3000, 0);
    vdpa_set_vring_addr(0, 0, 0x1000, 0x2001, 0x3000, 0);
    vdpa_resume();
    vdpa_set_vring_addr(0, 0, 0x1000, 0x2000, 0x3000, 0);
    vdpa_set_status(0);
    vdpa_set_vring_addr(0, 0, 0x1000, 0x2000, 0x3000, 0);
}

static void vring_file(int (*set)(uint32_t, int))
{
    int event = event_new("event"), other = event_new("other");
    int closed = event_new("closed"), pipe_fd[2];
    uint32_t vq;

    if (pipe(pipe_fd) < 0) {
        die("cannot make a pipe: %s", strerror(errno));
    }
    name_fd(pipe_fd[0], "pipe");
    node_open_owned();
    name_fd(node, "node");
    for (vq = 0; vq <= NVQS; vq++) {
        set(vq, -1);
        set(vq, event);
        set(vq, event);
        set(vq, other);
        set(vq, -2);
        set(vq, INT32_MIN);
        set(vq, INT32_MAX);
        set(vq, 100000);
        set(vq, pipe_fd[0]);
        set(vq, node);
        set(vq, event);
        set(vq, -1);
    }
    close(closed);
    set(0, closed);
    set(0, event);
    set(1, event);
    /* in any state */
    ready_features(F_MODERN);
    set(0, other);
    driver_ok();
    set(0, event);
    set(0, -2);
    set(0, -1);
    set(0, event);
    vdpa_suspend();
    set(0, other);
    vdpa_resume();
    set(0, event);
    vdpa_set_status(0);
    set(0, event);
    /* nothing comes of it without rings */
    event_add(event, 1);
    event_take(event);
    event_take(other);
    set(0, -1);
    set(1, -1);
    close(pipe_fd[0]);
    close(pipe_fd[1]);
}

static void vring_kick(void)
{
    vring_file(vdpa_set_vring_kick);
}

static void vring_call(void)
{
    vring_file(vdpa_set_vring_call);
}

static void vring_err(void)
{
    vring_file(vdpa_set_vring_err);
}

static void vring_enable(void)
{
    uint32_t vq;

    node_open_owned();
    for (vq = 0; vq < NVQS; vq++) {
        vdpa_set_vring_enable(vq, 1);
        vdpa_set_vring_enable(vq, 1);
        vdpa_set_vring_enable(vq, 2);
        vdpa_set_vring_enable(vq, 0xffffffff);
        vdpa_set_vring_enable(vq, 0);
        vdpa_set_vring_enable(vq, 0);
    }
    ready_features(F_MODERN);
    vdpa_set_vring_enable(0, 1);
    driver_ok();
    vdpa_set_vring_enable(1, 1);
    vdpa_set_vring_enable(0, 0);
    vdpa_suspend();
    vdpa_set_vring_enable(0, 1);
    vdpa_resume();
    vdpa_set_vring_enable(0, 0);
    vdpa_set_status(0);
    vdpa_set_vring_enable(0, 1);
}

static void groups(void)
{
    static const uint32_t asids[] = { 0, 1, 2, 3, 0xffff, 0xffffffff };
    uint32_t vq, group;
    size_t i;

    node_open(O_RDWR);
    vdpa_get_vring_group(0, NULL);
    vdpa_set_group_asid(0, 0);
    vdpa_set_owner();
    for (vq = 0; vq <= NVQS; vq++) {
        vdpa_get_vring_group(vq, NULL);
        vdpa_get_vring_desc_group(vq, NULL);
    }
    for (group = 0; group < 5; group++) {
        for (i = 0; i < ARRAY_SIZE(asids); i++) {
            vdpa_set_group_asid(group, asids[i]);
        }
    }
    vdpa_set_group_asid(0xffffffff, 0);
    /* in any state */
    ready_features(F_MODERN | F_CTRL_VQ);
    vdpa_get_vring_group(2, NULL);
    vdpa_set_group_asid(1, 1);
    driver_ok();
    vdpa_set_group_asid(1, 0);
    vdpa_set_group_asid(2, 0);
    vdpa_set_group_asid(1, 2);
    vdpa_suspend();
    vdpa_set_group_asid(1, 1);
    vdpa_set_status(0);
    vdpa_set_group_asid(1, 1);
}

static void busyloop(void)
{
    uint32_t vq;

    node_open_owned();
    for (vq = 0; vq < NVQS; vq++) {
        vdpa_get_vring_busyloop(vq, NULL);
        vdpa_set_vring_busyloop(vq, vq + 1);
        vdpa_set_vring_busyloop(vq, 0xffffffff - vq);
        vdpa_get_vring_busyloop(vq, NULL);
    }
    vdpa_set_status(0);
    vdpa_get_vring_busyloop(0, NULL);
    ready_features(F_MODERN);
    driver_ok();
    vdpa_set_vring_busyloop(0, 9);
    vdpa_get_vring_busyloop(0, NULL);
    node_close();
    node_open_owned();
    vdpa_get_vring_busyloop(0, NULL);
}

/*
 * Suspend and resume
 */

static void suspend(void)
{
    node_open(O_RDWR);
    /* no owner is needed, and nothing is done before DRIVER_OK */
    vdpa_suspend();
    vdpa_resume();
    vdpa_set_owner();
    vdpa_set_status(S_ACKNOWLEDGE);
    vdpa_suspend();
    vdpa_resume();
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
    vdpa_set_features(F_MODERN);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
    vdpa_suspend();
    driver_ok();
    /* so it is not suspended */
    vdpa_set_vring_base(0, 1);
    vdpa_resume();
    vdpa_set_vring_base(0, 1);
    vdpa_suspend();
    vdpa_suspend();
    vdpa_get_status(NULL);
    vdpa_set_vring_base(0, 1);
    vdpa_set_vring_addr(0, 0, 0x1000, 0x2000, 0x3000, 0);
    vdpa_resume();
    vdpa_resume();
    vdpa_set_vring_base(0, 2);
    vdpa_get_vring_base(0, NULL);
    call("SUSPEND with an argument", VHOST_VDPA_SUSPEND, (void *)8);
    vdpa_set_vring_base(0, 3);
    call("RESUME with an argument", VHOST_VDPA_RESUME, (void *)8);
    vdpa_set_vring_base(0, 4);
    vdpa_get_vring_base(0, NULL);
}

/* The mark is of the vhost layer, which only RESUME and a reset take away. */
static void suspend_status(void)
{
    node_open_owned();
    ready_features(F_MODERN);
    driver_ok();
    vdpa_suspend();
    vdpa_set_vring_base(0, 1);
    driver_ok();
    vdpa_set_vring_base(0, 2);
    status_one(0xff);
    vdpa_set_vring_base(0, 3);
    vdpa_get_vring_base(0, NULL);
    vdpa_set_status(0);
    vdpa_set_vring_base(0, 4);
    ready_features(F_MODERN);
    driver_ok();
    vdpa_set_vring_base(0, 5);
    vdpa_get_vring_base(0, NULL);
    vdpa_suspend();
    node_close();
    node_open_owned();
    status_one(S_DRIVER_OK);
    vdpa_set_vring_base(0, 6);
    vdpa_get_vring_base(0, NULL);
}

/*
 * Each call in each state, with arguments that have nothing wrong
 */

static void everything(void)
{
    int event = event_new("event");
    uint64_t backend;
    uint8_t now = 0;

    vdpa_get_device_id(NULL);
    vdpa_get_features(NULL);
    vdpa_get_backend_features(&backend);
    vdpa_set_backend_features(backend);
    vdpa_get_status(&now);
    vdpa_set_status(now | S_ACKNOWLEDGE);
    vdpa_get_config_size(NULL);
    vdpa_set_config(0, sizeof(mac), mac);
    vdpa_get_config(0, sizeof(mac), NULL);
    vdpa_set_config_call(event);
    vdpa_get_vring_num(NULL);
    vdpa_get_iova_range(NULL, NULL);
    vdpa_get_as_num(NULL);
    vdpa_get_group_num(NULL);
    vdpa_get_vqs_count(NULL);
    mem_table(0, 0);
    vdpa_set_vring_num(1, 256);
    vdpa_set_vring_base(1, 0x77);
    vdpa_get_vring_base(1, NULL);
    vdpa_set_vring_addr(1, 0, 0x1000, 0x2000, 0x3000, 0);
    vdpa_set_vring_kick(1, event);
    vdpa_set_vring_call(1, event);
    vdpa_set_vring_err(1, event);
    vdpa_get_vring_size(1, NULL);
    vdpa_get_vring_group(1, NULL);
    vdpa_get_vring_desc_group(1, NULL);
    vdpa_set_group_asid(0, 0);
    vdpa_set_vring_busyloop(1, 3);
    vdpa_get_vring_busyloop(1, NULL);
    vdpa_set_vring_enable(1, 1);
    vdpa_set_vring_enable(1, 0);
    fork_from(1);
    vdpa_suspend();
    vdpa_resume();
    vdpa_set_features(F_MODERN);
    vdpa_get_status(NULL);
    vdpa_set_owner();
    vdpa_set_status(0);
    vdpa_get_status(NULL);
}

static void state_closed_owner(void)
{
    node_open_owned();
    node_close();
    node_open(O_RDWR);
    everything();
}

static void state_no_owner(void)
{
    node_open(O_RDWR);
    everything();
}

static void state_no_owner_driver_ok(void)
{
    node_open(O_RDWR);
    ready_features(F_MODERN);
    driver_ok();
    everything();
}

static void state_owner(void)
{
    node_open_owned();
    everything();
}

static void state_acknowledge(void)
{
    node_open_owned();
    vdpa_set_status(S_ACKNOWLEDGE);
    everything();
}

static void state_driver(void)
{
    node_open_owned();
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
    everything();
}

static void state_features(void)
{
    node_open_owned();
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
    vdpa_set_features(F_MODERN);
    everything();
}

static void state_features_ok(void)
{
    node_open_owned();
    ready_features(F_MODERN);
    everything();
}

static void state_driver_ok(void)
{
    node_open_owned();
    ready_features(F_MODERN);
    driver_ok();
    everything();
}

static void state_suspended(void)
{
    node_open_owned();
    ready_features(F_MODERN);
    driver_ok();
    vdpa_suspend();
    everything();
}

static void state_resumed(void)
{
    node_open_owned();
    ready_features(F_MODERN);
    driver_ok();
    vdpa_suspend();
    vdpa_resume();
    everything();
}

static void state_reset(void)
{
    node_open_owned();
    ready_features(F_MODERN);
    driver_ok();
    vdpa_set_status(0);
    everything();
}

static void state_reset_suspended(void)
{
    node_open_owned();
    ready_features(F_MODERN);
    driver_ok();
    vdpa_suspend();
    vdpa_set_status(0);
    everything();
}

static void state_failed(void)
{
    node_open_owned();
    ready_features(F_MODERN);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_FAILED);
    everything();
}

static void state_needs_reset(void)
{
    node_open_owned();
    ready_features(F_MODERN);
    driver_ok();
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK |
                    S_NEEDS_RESET);
    everything();
}

/*
 * What a reset forgets and what it keeps
 */

static void reset(void)
{
    uint8_t *page = mem_shared("page", 1);
    int event = event_new("event");
    /* one byte, see fork_from() */
    uint8_t value[4] = { 1 };

    node_open(O_RDWR);
    call("SET_FORK_FROM_OWNER 1", VS_SET_FORK_FROM_OWNER, value);
    vdpa_set_owner();
    vdpa_set_backend_features(BACKEND(IOTLB_ASID) | BACKEND(IOTLB_BATCH) |
                              BACKEND(IOTLB_MSG_V2));
    ready_features(F_MODERN);
    vdpa_set_vring_num(0, 64);
    vdpa_set_vring_base(0, 9);
    vdpa_set_vring_addr(0, 0, 0x1000, 0x2000, 0x3000, 0);
    vdpa_set_vring_busyloop(0, 9);
    vdpa_set_vring_kick(0, event);
    vdpa_set_vring_call(0, event);
    iotlb_update(0, 0x100000, PAGE, page, RW);
    iotlb_update(1, 0x100000, PAGE, page, RW);
    iotlb_batch_begin(1);
    vdpa_set_vring_enable(0, 1);
    driver_ok();
    vdpa_suspend();

    vdpa_set_status(0);
    vdpa_get_status(NULL);
    vdpa_get_vring_base(0, NULL);
    vdpa_get_vring_busyloop(0, NULL);
    vdpa_get_vring_size(0, NULL);
    if (call("GET_FORK_FROM_OWNER", VS_GET_FORK_FROM_OWNER, value) == 0) {
        say("value=%u", value[0]);
    }
    vdpa_set_owner();
    /* the batch is open, the messages' address spaces are known */
    iotlb_update(0, 0x200000, PAGE, page, RW);
    iotlb_update(1, 0x200000, PAGE, page, RW);
    iotlb_batch_end(1);
    /* what was mapped is */
    iotlb_update(0, 0x100000, PAGE, page, RW);
    iotlb_update(1, 0x100000, PAGE, page, RW);
    iotlb_invalidate(0, 0x100000, PAGE);
    iotlb_update(0, 0x100000, PAGE, page, RW);
    /* not suspended */
    ready_features(F_MODERN);
    driver_ok();
    vdpa_set_vring_base(0, 1);
    vdpa_set_vring_num(0, 256);

    node_close();
    node_open_owned();
    vdpa_get_vring_base(0, NULL);
    vdpa_get_vring_busyloop(0, NULL);
    iotlb_invalidate(0, 0x100000, PAGE);
    iotlb_update(1, 0x100000, PAGE, page, RW);
    iotlb_update(0, 0x100000, PAGE, page, RW);
    iotlb_update(0, 0x200000, PAGE, page, RW);
}

/* An open node is not reset by who is refused. */
static void reset_busy(void)
{
    int first;

    node_open_owned();
    ready_features(F_MODERN);
    first = node;
    node_open(O_RDWR);
    node = first;
    vdpa_get_status(NULL);
    vdpa_set_owner();
    node_close();
    node_open(O_RDWR);
    vdpa_get_status(NULL);
}

/*
 * The other things that can be done to a file
 */

static void poll_node(void)
{
    struct pollfd p = {
        .fd = node,
        .events = POLLIN | POLLOUT | POLLPRI | POLLERR | POLLHUP |
                  POLLRDNORM | POLLWRNORM | POLLRDBAND,
    };
    int ret = poll(&p, 1, 0);

    say("poll -> %s revents=0x%x", result_name(ret), p.revents);
    p.events = 0;
    ret = poll(&p, 1, 0);
    say("poll for nothing -> %s revents=0x%x", result_name(ret), p.revents);
    left_out("poll for POLLWRBAND",
             "the software device's descriptor is a socket, which has it");
}

static void select_node(void)
{
    struct timeval none = { 0 };
    fd_set in, out, except;
    int ret;

    if (node >= FD_SETSIZE) {
        die("descriptor %d is too large for select()", node);
    }
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_ZERO(&except);
    FD_SET(node, &in);
    FD_SET(node, &out);
    FD_SET(node, &except);
    ret = select(node + 1, &in, &out, &except, &none);
    say("select -> %s%s%s%s", result_name(ret),
        FD_ISSET(node, &in) ? " in" : "", FD_ISSET(node, &out) ? " out" : "",
        FD_ISSET(node, &except) ? " except" : "");
}

static void epoll_node(void)
{
    struct epoll_event event = { .events = EPOLLIN };
    int fd = epoll_create1(EPOLL_CLOEXEC);

    say("epoll_ctl ADD -> %s",
        result_name(epoll_ctl(fd, EPOLL_CTL_ADD, node, &event)));
    say("epoll_ctl MOD -> %s",
        result_name(epoll_ctl(fd, EPOLL_CTL_MOD, node, &event)));
    say("epoll_ctl DEL -> %s",
        result_name(epoll_ctl(fd, EPOLL_CTL_DEL, node, NULL)));
    close(fd);
}

static void file_operations(void)
{
    static const struct iovec nothing = { 0 };
    uint8_t data[256] = { 0 };
    struct iovec iov = { data, sizeof(data) };
    struct vhost_msg_v2 msg = { 0 };
    struct stat st;

    node_open_owned();
    say("read -> %s", result_name(read(node, data, sizeof(data))));
    say("read 0 bytes -> %s", result_name(read(node, data, 0)));
    say("read to nowhere -> %s", result_name(read(node, mem_nowhere(), 8)));
    say("readv -> %s", result_name(readv(node, &iov, 1)));
    say("readv of nothing -> %s", result_name(readv(node, &nothing, 0)));
    say("pread -> %s", result_name(pread(node, data, sizeof(data), 0)));
    say("preadv -> %s", result_name(preadv(node, &iov, 1, 0)));
    say("pwrite -> %s", result_name(pwrite(node, data, sizeof(data), 0)));
    say("pwritev -> %s", result_name(pwritev(node, &iov, 1, 0)));
    msg.type = VHOST_IOTLB_MSG_V2;
    msg.iotlb.type = VHOST_IOTLB_BATCH_BEGIN;
    iov.iov_base = &msg;
    iov.iov_len = sizeof(msg);
    say("pwrite of a message -> %s",
        result_name(pwrite(node, &msg, sizeof(msg), 4096)));
    say("pwritev of a message -> %s", result_name(pwritev(node, &iov, 1, 0)));
    say("pwrite at -1 -> %s",
        result_name(pwrite(node, &msg, sizeof(msg), -1)));
    say("lseek SET -> %s", result_name(lseek(node, 0, SEEK_SET)));
    say("lseek CUR -> %s", result_name(lseek(node, 0, SEEK_CUR)));
    say("lseek END -> %s", result_name(lseek(node, 0, SEEK_END)));
    say("lseek 99 -> %s", result_name(lseek(node, 0, 99)));
    say("ftruncate -> %s", result_name(ftruncate(node, 0)));
    say("fsync -> %s", result_name(fsync(node)));
    say("fdatasync -> %s", result_name(fdatasync(node)));
    say("fallocate -> %s", result_name(fallocate(node, 0, 0, 1)));
    say("fstat -> %s", result_name(fstat(node, &st)));
    say("a character device: %s", S_ISCHR(st.st_mode) ? "yes" : "no");
    say("isatty -> %d", isatty(node));
    poll_node();
    select_node();
    epoll_node();
    left_out("splice, sendfile, io_uring",
             "the software device does not see them");
}

static void flags(const char *what)
{
    int now = fcntl(node, F_GETFL);

    say("%s: mode=%d nonblock=%s append=%s", what, now & O_ACCMODE,
        now & O_NONBLOCK ? "yes" : "no", now & O_APPEND ? "yes" : "no");
}

/* What a descriptor was opened for counts for read() and write() alone. */
static void open_modes(void)
{
    static const int modes[] = {
        O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_NONBLOCK,
    };
    uint8_t *page = mem_shared("page", 1), data[8];
    size_t i;

    for (i = 0; i < ARRAY_SIZE(modes); i++) {
        node_open(modes[i]);
        flags("opened");
        vdpa_set_owner();
        vdpa_get_features(NULL);
        vdpa_set_status(S_ACKNOWLEDGE);
        vdpa_get_status(NULL);
        vdpa_set_vring_num(0, 256);
        vdpa_get_vring_base(0, NULL);
        iotlb_update(0, 0x1000, PAGE, page, RW);
        iotlb_message(0, 0, 0, 0, 0, 0, 0, 72);
        node_write("write 0 bytes", data, 0);
        say("read -> %s", result_name(read(node, data, sizeof(data))));
        node_close();
    }
    node_open(O_RDWR);
    say("F_SETFL O_NONBLOCK -> %s",
        result_name(fcntl(node, F_SETFL, O_NONBLOCK)));
    flags("not blocking");
    vdpa_set_owner();
    iotlb_update(0, 0x1000, PAGE, page, RW);
    say("read -> %s", result_name(read(node, data, sizeof(data))));
}

const Case calls_cases[] = {
    { "constants", constants },
    { "widths", widths },
    { "null-not-owner", null_not_owner },
    { "null-owner", null_owner },
    { "unmapped-not-owner", unmapped_not_owner },
    { "unmapped-owner", unmapped_owner },
    { "kernel-address", kernel_address },
    { "straddling", straddling },
    { "read-only", read_only },
    { "unknown-not-owner", unknown_not_owner },
    { "unknown-owner", unknown_owner },
    { "owner", owner },
    { "fork-owner", fork_owner },
    { "mem-table", mem_tables },
    { "status", status },
    { "status-removal", status_removal },
    { "features", features },
    { "features-never-set", features_never_set },
    { "features-packed", features_packed },
    { "backend-features", backend_features },
    { "config", config },
    { "config-pointers", config_pointers },
    { "config-write", config_write },
    { "config-call", config_call },
    { "vring-indices", vring_indices },
    { "vring-num", vring_num },
    { "vring-size", vring_sizes },
    { "vring-base", vring_base },
    { "vring-addr", vring_addr },
    { "vring-kick", vring_kick },
    { "vring-call", vring_call },
    { "vring-err", vring_err },
    { "vring-enable", vring_enable },
    { "groups", groups },
    { "busyloop", busyloop },
    { "suspend", suspend },
    { "suspend-status", suspend_status },
    { "state-closed-owner", state_closed_owner },
    { "state-no-owner", state_no_owner },
    { "state-no-owner-driver-ok", state_no_owner_driver_ok },
    { "state-owner", state_owner },
    { "state-acknowledge", state_acknowledge },
    { "state-driver", state_driver },
    { "state-features", state_features },
    { "state-features-ok", state_features_ok },
    { "state-driver-ok", state_driver_ok },
    { "state-suspended", state_suspended },
    { "state-resumed", state_resumed },
    { "state-reset", state_reset },
    { "state-reset-suspended", state_reset_suspended },
    { "state-failed", state_failed },
    { "state-needs-reset", state_needs_reset },
    { "reset", reset },
    { "reset-busy", reset_busy },
    { "file-operations", file_operations },
    { "open-modes", open_modes },
    { 0 }
};
