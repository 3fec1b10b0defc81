/*
 * QTest testcase for the vhost-vdpa backend
 *
 * QEMU runs with a software vDPA device, contrib/vdpa-soft.  A driver made of
 * libqos plays the guest; the device's control socket tells what the backend
 * told the device, what left it through its wire, and what it could not
 * reach.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include <sys/syscall.h>
#include "libqtest.h"
#include "libvdpa-fault.h"
#include "libvdpa-guest.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
#include "qemu/iov.h"
#include "qemu/units.h"
#include "qobject/qbool.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "qobject/qstring.h"
#include "standard-headers/linux/vhost_types.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_ids.h"
#include "standard-headers/linux/virtio_pci.h"

#define BACKEND_BATCH   BIT_ULL(VHOST_BACKEND_F_IOTLB_BATCH)
#define BACKEND_ASID    BIT_ULL(VHOST_BACKEND_F_IOTLB_ASID)
#define BACKEND_SUSPEND BIT_ULL(VHOST_BACKEND_F_SUSPEND)
#define BACKEND_RESUME  BIT_ULL(VHOST_BACKEND_F_RESUME)
#define BACKEND_PERSIST BIT_ULL(VHOST_BACKEND_F_IOTLB_PERSIST)

/**
 * struct Kind - a kind of device, by its backend features
 * @offered: backend features
 * @accepted: those that the backend is to use
 * @soft: launcher options besides --backend-features
 */
typedef struct Kind {
    const char *name;
    uint64_t offered;
    uint64_t accepted;
    const char *soft;
} Kind;

static const Kind kinds[] = {
    { "full", 0x1fe, 0x1fe, "" },
    { "unknown-features", 0xff000000000001fe, 0x1fe, "" },
    { "no-batch", 0x1fa, 0x1fa, "" },
    /* Descriptor groups are of no use without address spaces */
    { "no-asid", 0x1f6, 0x176, "" },
    { "no-persist", 0x0fe, 0x0fe, "" },
    { "no-resume", 0x1de, 0x1de, "" },
    { "no-resume-no-persist", 0x0de, 0x0de, "" },
    { "no-suspend", 0x1ce, 0x1ce, "" },
    { "no-suspend-no-batch-no-persist", 0x0ca, 0x0ca, "--dma-map" },
    { "no-base", 0x1de, 0x1de, "--fail GET_VRING_BASE:1:EOPNOTSUPP:always" },
    { "minimal", 0x002, 0x002, "--dma-map" },
    { "doorbell", 0x1fe, 0x1fe, "--doorbell on" },
};

static void add_mapping_messages(GPtrArray *calls, const Kind *kind)
{
    if (kind->accepted & BACKEND_BATCH) {
        vdpa_add_call(calls, "IOTLB_BATCH_BEGIN asid=0");
    }
    vdpa_add_call(calls, "IOTLB_UPDATE");
    if (kind->accepted & BACKEND_BATCH) {
        vdpa_add_call(calls, "IOTLB_BATCH_END asid=0");
    }
}

/* QEMU's start: become the owner, ask what it is, map the guest's memory */
static GPtrArray *expect_open(const Kind *kind)
{
    GPtrArray *calls = vdpa_no_calls();

    vdpa_add_call(calls, "OPEN flags=2");
    vdpa_add_call(calls, "GET_DEVICE_ID id=1");
    vdpa_add_call(calls, "SET_OWNER");
    vdpa_add_call(calls, "GET_BACKEND_FEATURES features=0x%" PRIx64,
                  kind->offered);
    vdpa_add_call(calls, "SET_BACKEND_FEATURES features=0x%" PRIx64,
                  kind->accepted);
    vdpa_add_call(calls, "GET_FEATURES features=0x738bf8028");
    vdpa_add_call(calls, "GET_VRING_NUM num=1024");
    vdpa_add_call(calls, "GET_CONFIG_SIZE size=0x18");
    vdpa_add_call(calls, "GET_VQS_COUNT num=3");
    if (kind->accepted & BACKEND_ASID) {
        vdpa_add_call(calls, "GET_GROUP_NUM num=%u",
                      kind->accepted & 0x80 ? 3 : 2);
        vdpa_add_call(calls, "GET_AS_NUM num=2");
    }
    vdpa_add_call(calls, "GET_IOVA_RANGE first=0x0 last=0xffffffffffffffff");
    /* For "info network" */
    vdpa_add_call(calls, "GET_CONFIG off=0 len=6");
    add_mapping_messages(calls, kind);
    /* The guest's MAC address */
    vdpa_add_call(calls, "SET_CONFIG off=0 len=6");
    return calls;
}

static void add_status(GPtrArray *calls, unsigned status)
{
    vdpa_add_call(calls, "SET_STATUS status=0x%x", status);
    vdpa_add_call(calls, "GET_STATUS status=0x%x", status);
}

static void add_ring(GPtrArray *calls, VdpaNic *nic, unsigned i, unsigned base)
{
    QVirtQueue *vq = nic->vq[i];

    vdpa_add_call(calls, "SET_VRING_NUM index=%u num=%u", i, vq->size);
    vdpa_add_call(calls, "SET_VRING_BASE index=%u num=%u", i, base);
    vdpa_add_call(calls, "SET_VRING_ADDR index=%u flags=0 desc=0x%" PRIx64
                  " avail=0x%" PRIx64 " used=0x%" PRIx64, i, vq->desc,
                  vq->avail, vq->used);
    vdpa_add_call(calls, "SET_VRING_KICK index=%u bound=yes", i);
}

static void add_interrupts(GPtrArray *calls)
{
    vdpa_add_call(calls, "SET_VRING_CALL index=0 bound=yes");
    vdpa_add_call(calls, "SET_VRING_CALL index=1 bound=yes");
    vdpa_add_call(calls, "SET_VRING_CALL index=2 bound=yes");
    vdpa_add_call(calls, "SET_CONFIG_CALL bound=yes");
}

static void add_enable(GPtrArray *calls)
{
    vdpa_add_call(calls, "SET_VRING_ENABLE index=0 num=1");
    vdpa_add_call(calls, "SET_VRING_ENABLE index=1 num=1");
    vdpa_add_call(calls, "SET_VRING_ENABLE index=2 num=1");
}

static void add_doorbells(GPtrArray *calls, const Kind *kind)
{
    if (strstr(kind->soft, "doorbell")) {
        /* The guest has no page to put it at, so that is that */
        vdpa_add_call(calls, "MMAP len=4096 offset=0");
        return;
    }
    /* What the driver lacks, it lacks for all of them */
    vdpa_add_call(calls, "MMAP len=4096 offset=0 -> 524");
}

/**
 * expect_start() - a start from the reset state
 * @base: where the three rings begin
 * @first: no driver has started the device before
 *
 * All memory that the firmware leaves alone is mapped already.
 */
static GPtrArray *expect_start(VdpaNic *nic, const Kind *kind,
                               const unsigned base[3], bool first)
{
    GPtrArray *calls = vdpa_no_calls();
    unsigned i;

    /* The address in "info network" may have changed */
    vdpa_add_call(calls, "GET_CONFIG off=0 len=6");
    add_status(calls, 3);
    vdpa_add_call(calls, "SET_FEATURES features=0x%" PRIx64,
                  (uint64_t)(nic->features |
                             BIT_ULL(VIRTIO_F_ACCESS_PLATFORM)));
    add_status(calls, 0xb);
    if (kind->accepted & BACKEND_ASID) {
        for (i = 0; i < (kind->accepted & 0x80 ? 3 : 2); i++) {
            vdpa_add_call(calls, "SET_GROUP_ASID group=%u asid=0", i);
        }
    }
    if (first) {
        add_mapping_messages(calls, kind);
    }
    add_ring(calls, nic, 0, base[0]);
    add_ring(calls, nic, 1, base[1]);
    vdpa_add_call(calls, "SET_CONFIG_CALL bound=yes");
    add_ring(calls, nic, 2, base[2]);
    add_interrupts(calls);
    add_enable(calls);
    add_status(calls, 0xf);
    add_doorbells(calls, kind);
    return calls;
}

static void add_get_base(GPtrArray *calls, const Kind *kind, unsigned i,
                         const unsigned base[3])
{
    if (strstr(kind->soft, "GET_VRING_BASE")) {
        vdpa_add_call(calls, "GET_VRING_BASE index=%u -> %d", i, EOPNOTSUPP);
    } else {
        vdpa_add_call(calls, "GET_VRING_BASE index=%u num=%u", i, base[i]);
    }
}

/**
 * expect_stop() - a stop, which the guest or the user asked for
 * @base: where the three rings stand
 * @reset: a reset is part of it
 */
static GPtrArray *expect_stop(const Kind *kind, const unsigned base[3],
                              bool reset)
{
    bool suspend = kind->accepted & BACKEND_SUSPEND;
    GPtrArray *calls = vdpa_no_calls();

    if (suspend) {
        vdpa_add_call(calls, "SUSPEND");
        add_get_base(calls, kind, 0, base);
        add_get_base(calls, kind, 1, base);
        vdpa_add_call(calls, "SET_CONFIG_CALL bound=no");
        add_get_base(calls, kind, 2, base);
    }
    if (reset && !suspend) {
        /* Memory must not go while the device still uses it */
        vdpa_add_call(calls, "SET_STATUS status=0x0");
    }
    if (reset && !(kind->accepted & BACKEND_PERSIST)) {
        /* A single message, which needs no batch */
        vdpa_add_call(calls, "IOTLB_INVALIDATE");
    }
    if (reset && suspend) {
        vdpa_add_call(calls, "SET_STATUS status=0x0");
    }
    if (reset && !(kind->accepted & BACKEND_PERSIST)) {
        add_mapping_messages(calls, kind);
    }
    if (!suspend) {
        /* A device that may still run must not be asked */
        vdpa_add_call(calls, "SET_CONFIG_CALL bound=no");
    }
    return calls;
}

static GPtrArray *expect_resume(const Kind *kind)
{
    GPtrArray *calls = vdpa_no_calls();

    vdpa_add_call(calls, "GET_CONFIG off=0 len=6");
    /* The vhost core made new eventfds */
    vdpa_add_call(calls, "SET_VRING_KICK index=0 bound=yes");
    vdpa_add_call(calls, "SET_VRING_KICK index=1 bound=yes");
    vdpa_add_call(calls, "SET_CONFIG_CALL bound=yes");
    vdpa_add_call(calls, "SET_VRING_KICK index=2 bound=yes");
    add_interrupts(calls);
    vdpa_add_call(calls, "RESUME");
    add_enable(calls);
    add_doorbells(calls, kind);
    return calls;
}

/* From QEMU's start to its end, on a kind of device */
static void test_sequence(const void *opaque)
{
    static const unsigned at_0[3] = {}, after_1[3] = { 1, 1, 0 },
                          after_2[3] = { 2, 2, 0 };
    const Kind *kind = opaque;
    bool resume = kind->accepted & BACKEND_RESUME;
    g_autofree char *soft =
        g_strdup_printf("--backend-features %" PRIx64 " %s", kind->offered,
                        kind->soft);
    VdpaTest *t = vdpa_start(soft);
    VdpaNic *nic;

    vdpa_assert_calls(t, "QEMU's start", expect_open(kind));

    nic = vdpa_start_nic(t, 0);
    vdpa_assert_calls(t, "the driver's start",
                      expect_start(nic, kind, at_0, true));
    vdpa_nic_check_data(nic, 1);
    vdpa_assert_no_calls(t, "data");

    vdpa_stop_guest(t);
    vdpa_assert_calls(t, "stop", expect_stop(kind, after_1, !resume));
    vdpa_continue_guest(t);
    vdpa_assert_calls(t, "cont", resume ? expect_resume(kind) :
                      expect_start(nic, kind, after_1, false));
    vdpa_nic_check_data(nic, 3);

    qvirtio_reset(nic->vdev);
    vdpa_assert_calls(t, "reset", expect_stop(kind, after_2, true));
    vdpa_nic_start(nic, 0);
    vdpa_assert_calls(t, "the driver's second start",
                      expect_start(nic, kind, at_0, false));
    vdpa_nic_check_data(nic, 5);

    qtest_system_reset(t->qts);
    vdpa_assert_calls(t, "system_reset", expect_stop(kind, after_1, true));
    vdpa_nic_free(nic);
    nic = vdpa_start_nic(t, 0);
    vdpa_assert_calls(t, "start after system_reset",
                      expect_start(nic, kind, at_0, false));
    vdpa_nic_check_data(nic, 7);

    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Suspend, resume, reset: nothing is lost --- */

/* Frames that the driver sent, or that it wants to receive */
typedef struct Batch {
    unsigned count;
    uint8_t *frame[8];
    size_t size[8];
    uint64_t addr[8];
    uint32_t head[8];
} Batch;

static void batch_init(Batch *b, unsigned count, unsigned seed)
{
    unsigned i;

    b->count = count;
    for (i = 0; i < count; i++) {
        b->size[i] = 80 + 50 * i;
        b->frame[i] = g_malloc(b->size[i]);
        vdpa_make_frame(b->frame[i], b->size[i], seed + i);
    }
}

static void batch_offer_tx(VdpaNic *nic, Batch *b, unsigned pair)
{
    QVirtQueue *vq = vdpa_nic_tx(nic, pair);
    unsigned i;

    for (i = 0; i < b->count; i++) {
        b->addr[i] = vdpa_nic_new_buffer(nic, b->frame[i], b->size[i]);
        b->head[i] = qvirtqueue_add(nic->t->qts, vq, b->addr[i],
                                    VDPA_HEADER_SIZE + b->size[i], false,
                                    false);
        vdpa_nic_offer(nic, vq, b->head[i]);
    }
}

static void batch_offer_rx(VdpaNic *nic, Batch *b, unsigned pair)
{
    QVirtQueue *vq = vdpa_nic_rx(nic, pair);
    unsigned i;

    for (i = 0; i < b->count; i++) {
        b->addr[i] = vdpa_nic_new_buffer(nic, NULL, b->size[i]);
        b->head[i] = qvirtqueue_add(nic->t->qts, vq, b->addr[i],
                                    VDPA_HEADER_SIZE + b->size[i], true, false);
        vdpa_nic_offer(nic, vq, b->head[i]);
    }
}

/* All buffers come back, in order, with @bytes(i) written to each */
static void batch_take(VdpaNic *nic, Batch *b, QVirtQueue *vq, bool received)
{
    QTestState *qts = nic->t->qts;
    int64_t end = g_get_monotonic_time() + VDPA_DEADLINE_US;
    unsigned i;

    for (i = 0; i < b->count; i++) {
        uint32_t head, len;

        while (!qvirtqueue_get_buf(qts, vq, &head, &len)) {
            g_assert_cmpint(g_get_monotonic_time(), <, end);
        }
        g_assert_cmpuint(head, ==, b->head[i]);
        g_assert_cmpuint(len, ==, received ? VDPA_HEADER_SIZE + b->size[i] : 0);
        if (received) {
            vdpa_assert_mem(nic->t, b->addr[i] + VDPA_HEADER_SIZE, b->frame[i],
                            b->size[i]);
        }
        guest_free(&nic->t->alloc, b->addr[i]);
        g_free(b->frame[i]);
    }
    qvirtqueue_reset_pool(vq);
}

static void set_mac(VdpaNic *nic)
{
    g_assert_cmpuint(vdpa_nic_control(nic, VIRTIO_NET_CTRL_MAC,
                                      VIRTIO_NET_CTRL_MAC_ADDR_SET,
                                      "\x52\x54\0\1\2\3", 6), ==,
                     VIRTIO_NET_OK);
}

/* What waits in the rings while the guest stands still happens afterwards */
static void test_stop_pending(const void *opaque)
{
    VdpaTest *t = vdpa_start(opaque);
    VdpaNic *nic = vdpa_start_nic(t, 0);
    Batch tx, rx;
    unsigned i;

    vdpa_nic_check_data(nic, 1);
    batch_init(&tx, 5, 10);
    batch_init(&rx, 5, 20);
    vdpa_soft_do(t->soft, "capture on");
    vdpa_soft_do(t->soft, "pause");
    batch_offer_tx(nic, &tx, 0);
    batch_offer_rx(nic, &rx, 0);
    vdpa_stop_guest(t);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "captured"), ==, 0);
    vdpa_soft_do(t->soft, "unpause");
    vdpa_continue_guest(t);
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_assert_captured(t, tx.count, tx.frame, tx.size);
    batch_take(nic, &tx, vdpa_nic_tx(nic, 0), false);
    for (i = 0; i < rx.count; i++) {
        g_autofree char *hex = vdpa_to_hex(rx.frame[i], rx.size[i]);

        vdpa_soft_do(t->soft, "inject %s vq=0", hex);
    }
    batch_take(nic, &rx, vdpa_nic_rx(nic, 0), true);
    vdpa_nic_check_data(nic, 3);
    if (vdpa_nic_has(nic, VIRTIO_NET_F_CTRL_MAC_ADDR)) {
        /* Some devices forget this queue when they are suspended */
        set_mac(nic);
    }
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* What was set through the control queue is lost: once, QEMU says so */
static void test_stop_loses_control(void)
{
    VdpaTest *t = vdpa_start("--resume off");
    VdpaNic *nic = vdpa_start_nic(t, 0);

    vdpa_nic_check_data(nic, 1);
    vdpa_stop_guest(t);
    vdpa_continue_guest(t);
    vdpa_nic_check_data(nic, 3);
    vdpa_assert_no_error(t);
    set_mac(nic);
    vdpa_stop_guest(t);
    vdpa_continue_guest(t);
    vdpa_nic_check_data(nic, 5);
    vdpa_take_error(t, "warning: vhost-vdpa device '" VDPA_NODE
                    "': it cannot be resumed, so what the guest set through "
                    "the control queue .* is lost");
    vdpa_stop_guest(t);
    vdpa_continue_guest(t);
    vdpa_nic_check_data(nic, 7);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/*
 * A device that can only begin at index 0 cannot go on elsewhere.  That its
 * settings are lost as well is nothing to tell: the driver begins anew.
 */
static void test_stop_only_from_start(void)
{
    VdpaTest *t = vdpa_start("--like vp_vdpa --map any");
    VdpaNic *nic = vdpa_start_nic(t, 0);

    vdpa_nic_check_data(nic, 1);
    set_mac(nic);
    vdpa_stop_guest(t);
    vdpa_continue_guest(t);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_assert_one_error(t);
    vdpa_take_error(t, "'" VDPA_NODE
                    "'.*SET_VRING_BASE.*only start rings from the beginning");
    vdpa_nic_check_recovery(nic);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* The user takes QEMU's side of the link down, and up again */
static void test_set_link(void)
{
    static const unsigned after_1[3] = { 1, 1, 0 };
    const Kind *kind = &kinds[0];
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_start_nic(t, 0);

    vdpa_nic_check_data(nic, 1);
    vdpa_soft_skip(t->soft);
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'set_link', 'arguments':"
                             "  { 'name': 'nic0', 'up': false } }");
    vdpa_assert_calls(t, "link down", expect_stop(kind, after_1, false));
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'set_link', 'arguments':"
                             "  { 'name': 'nic0', 'up': true } }");
    vdpa_assert_calls(t, "link up", expect_resume(kind));
    vdpa_nic_check_data(nic, 3);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* The device itself says that it needs a reset */
static void test_device_needs_reset(void)
{
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_start_nic(t, 0);

    vdpa_nic_check_data(nic, 1);
    vdpa_soft_do(t->soft, "needs-reset");
    qvirtio_wait_config_isr(nic->vdev, VDPA_DEADLINE_US);
    vdpa_nic_check_recovery(nic);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Nothing but the rings is set up anew, ten times over */
static void test_reload(void)
{
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_start_nic(t, 0);
    uint64_t mappings = vdpa_soft_number(t->soft, "mappings");
    uint64_t messages = vdpa_soft_number(t->soft, "messages");
    uint64_t first = 0;
    int i;

    for (i = 0; i < 10; i++) {
        uint64_t ioctls = vdpa_soft_number(t->soft, "ioctls");

        vdpa_nic_start(nic, 0);
        ioctls = vdpa_soft_number(t->soft, "ioctls") - ioctls;
        first = first ?: ioctls;
        g_assert_cmpuint(ioctls, ==, first);
        vdpa_nic_check_data(nic, i);
    }
    g_assert_cmpuint(first, <=, 50);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "mappings"), ==, mappings);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "messages"), ==, messages);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A reset of a device that is not in use tells it nothing */
static void test_idle_reset(void)
{
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);

    vdpa_soft_skip(t->soft);
    qtest_system_reset(t->qts);
    vdpa_stop_guest(t);
    vdpa_continue_guest(t);
    vdpa_assert_no_calls(t, "resets of an idle device");
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Data --- */

static void test_data_both_ways(void)
{
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_start_nic(t, 0);
    int i;

    for (i = 0; i < 3 * VDPA_RING_SIZE; i++) {
        vdpa_nic_check_tx(nic, 0, 60 + i, i);
        vdpa_nic_check_rx(nic, 0, 60 + 2 * i, i);
    }
    vdpa_nic_check_tx(nic, 0, 1514, i);
    vdpa_nic_check_rx(nic, 0, 1514, i);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A driver that takes the ring size that it is offered */
static void test_data_ring_size(void)
{
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);

    nic->ring_size = 0;
    vdpa_nic_start(nic, 0);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A larger one than the device claims to have works on some, with a warning */
static void test_data_ring_size_too_large(void)
{
    VdpaTest *t = vdpa_start("--vq-num 32");
    VdpaNic *nic = vdpa_start_nic(t, 0);

    vdpa_take_error(t, "warning: vhost-vdpa device '" VDPA_NODE
                    "'.*64 entries.*32.*rx_queue_size");
    vdpa_nic_check_data(nic, 1);
    /* Said once, not at each start */
    vdpa_nic_start(nic, 0);
    vdpa_nic_check_data(nic, 3);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

static void test_data_loopback(void)
{
    VdpaTest *t = vdpa_start("--wire loopback");
    VdpaNic *nic = vdpa_start_nic(t, 0);
    Batch tx, rx;

    batch_init(&rx, 5, 1);
    batch_init(&tx, 5, 1);
    batch_offer_rx(nic, &rx, 0);
    batch_offer_tx(nic, &tx, 0);
    batch_take(nic, &tx, vdpa_nic_tx(nic, 0), false);
    batch_take(nic, &rx, vdpa_nic_rx(nic, 0), true);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Two devices at once, joined by a wire: what one sends, the other gets */
static void test_data_two_devices(void)
{
    g_autofree char *dir = g_dir_make_tmp("vhost-vdpa-test-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "wire", NULL);
    g_autofree char *soft =
        g_strdup_printf("--wire unix-listen:%s --node --wire unix:%s", path,
                        path);
    VdpaTest *t = vdpa_start_qemu(soft, VDPA_NETDEV_OPTION VDPA_NIC_OPTION
                                  " -netdev vhost-vdpa,"
                                  "id=net1,vhostdev=/dev/vhost-vdpa-1 -device "
                                  "virtio-net-pci,netdev=net1,addr=5,romfile=");
    VdpaNic *nic = vdpa_start_nic(t, 0), *other =
        vdpa_nic_new(t, VDPA_NIC_SLOT + 1);
    QVirtQueue *vq;
    int i;

    vdpa_nic_start(other, 0);
    vdpa_soft_do(t->soft, "wait status == 15 %d node=1",
                 VDPA_SOFT_DEADLINE_MS);
    for (i = 0; i < 2; i++) {
        VdpaNic *from = i ? nic : other, *to = i ? other : nic;
        Batch tx, rx;

        batch_init(&rx, 4, i);
        batch_init(&tx, 4, i);
        batch_offer_rx(to, &rx, 0);
        batch_offer_tx(from, &tx, 0);
        vq = vdpa_nic_tx(from, 0);
        batch_take(from, &tx, vq, false);
        vq = vdpa_nic_rx(to, 0);
        batch_take(to, &rx, vq, true);
    }
    vdpa_nic_free(nic);
    vdpa_nic_free(other);
    vdpa_end(t);
    g_unlink(path);
    g_rmdir(dir);
}

/* Header and frame apart, behind one indirect descriptor */
static void test_data_indirect(void)
{
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_start_nic(t, BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC));
    QVirtQueue *vq = vdpa_nic_tx(nic, 0);
    size_t size = 500;
    g_autofree uint8_t *frame = g_malloc(size);
    QVRingIndirectDesc *table;
    uint64_t addr;
    uint32_t head;

    vdpa_make_frame(frame, size, 1);
    vdpa_soft_do(t->soft, "capture on");
    addr = vdpa_nic_new_buffer(nic, frame, size);
    table = qvring_indirect_desc_setup(t->qts, nic->vdev, &t->alloc, 3);
    qvring_indirect_desc_add(nic->vdev, t->qts, table, addr, VDPA_HEADER_SIZE,
                             false);
    qvring_indirect_desc_add(nic->vdev, t->qts, table, addr + VDPA_HEADER_SIZE,
                             100, false);
    qvring_indirect_desc_add(nic->vdev, t->qts, table,
                             addr + VDPA_HEADER_SIZE + 100, size - 100, false);
    head = qvirtqueue_add_indirect(t->qts, vq, table);
    vdpa_nic_offer(nic, vq, head);
    vdpa_nic_take(nic, vq, head);
    vdpa_assert_captured(t, 1, &frame, &size);
    g_free(table);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Notifications both ways are left out, until they are wanted */
static void test_data_event_index(void)
{
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_start_nic(t, BIT_ULL(VIRTIO_RING_F_EVENT_IDX));
    QVirtQueue *vq = vdpa_nic_tx(nic, 0);
    Batch tx;
    int i;

    for (i = 0; i < 2 * VDPA_RING_SIZE; i++) {
        vdpa_nic_check_data(nic, i);
    }
    /* An interrupt for the fifth buffer from here */
    batch_init(&tx, 5, 1);
    for (i = 0; i < tx.count; i++) {
        uint64_t calls = vdpa_soft_number(t->soft, "vq.1.calls");
        g_autofree char *condition =
            g_strdup_printf("vq.1.used-idx == %u", 2 * VDPA_RING_SIZE + i + 1);

        tx.addr[i] = vdpa_nic_new_buffer(nic, tx.frame[i], tx.size[i]);
        tx.head[i] = qvirtqueue_add(t->qts, vq, tx.addr[i],
                                    VDPA_HEADER_SIZE + tx.size[i], false,
                                    false);
        qvirtqueue_set_used_event(t->qts, vq, 2 * VDPA_RING_SIZE + 4);
        qvirtqueue_kick(t->qts, nic->vdev, vq, tx.head[i]);
        vdpa_soft_wait(t->soft, condition);
        g_assert_cmpuint(vdpa_soft_number(t->soft, "vq.1.calls"), ==,
                         calls + (i == 4));
    }
    qvirtio_wait_queue_isr(t->qts, nic->vdev, vq, VDPA_DEADLINE_US);
    batch_take(nic, &tx, vq, false);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A frame that fills several buffers */
static void test_data_mergeable(void)
{
    enum { BUFFER = 200, BUFFERS = 4, FRAME = 3 * BUFFER + 20 };
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_start_nic(t, BIT_ULL(VIRTIO_NET_F_MRG_RXBUF));
    QVirtQueue *vq = vdpa_nic_rx(nic, 0);
    g_autofree uint8_t *frame = g_malloc(FRAME);
    g_autofree char *hex = NULL;
    uint64_t addr = guest_alloc(&t->alloc, BUFFERS * BUFFER);
    int64_t deadline = g_get_monotonic_time() + VDPA_DEADLINE_US;
    uint32_t head, len;
    int i;

    vdpa_make_frame(frame, FRAME, 1);
    hex = vdpa_to_hex(frame, FRAME);
    for (i = 0; i < BUFFERS; i++) {
        head = qvirtqueue_add(t->qts, vq, addr + i * BUFFER, BUFFER, true,
                              false);
        g_assert_cmpuint(head, ==, i);
        vdpa_nic_offer(nic, vq, head);
    }
    vdpa_soft_do(t->soft, "inject %s vq=0", hex);
    qvirtio_wait_queue_isr(t->qts, nic->vdev, vq, VDPA_DEADLINE_US);
    for (i = 0; i < BUFFERS; i++) {
        while (!qvirtqueue_get_buf(t->qts, vq, &head, &len)) {
            g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        }
        g_assert_cmpuint(head, ==, i);
        g_assert_cmpuint(len, ==, MIN(BUFFER, VDPA_HEADER_SIZE + FRAME
                                              - i * BUFFER));
    }
    vdpa_nic_assert_header(nic, addr, BUFFERS);
    vdpa_assert_mem(t, addr + VDPA_HEADER_SIZE, frame, FRAME);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Without MSI-X: one interrupt line, and a register that says what for */
static void test_data_intx(void)
{
    VdpaTest *t = vdpa_start_qemu("", VDPA_NETDEV_OPTION VDPA_NIC_OPTION
                                  ",vectors=0");
    VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);

    vdpa_nic_start(nic, 0);
    vdpa_nic_check_data(nic, 1);
    vdpa_soft_do(t->soft, "link down");
    qvirtio_wait_config_isr(nic->vdev, VDPA_DEADLINE_US);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Queue pairs and the control queue --- */

static uint8_t set_pairs(VdpaNic *nic, unsigned pairs)
{
    uint16_t le_pairs = cpu_to_le16(pairs);

    return vdpa_nic_control(nic, VIRTIO_NET_CTRL_MQ,
                            VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &le_pairs,
                            sizeof(le_pairs));
}

static void test_multiqueue(void)
{
    /* The guest gets fewer pairs than the device has */
    VdpaTest *t = vdpa_start_qemu("--queues 4",
                                  "-netdev vhost-vdpa,id=net0,queues=3,"
                                  "vhostdev=" VDPA_NODE " " VDPA_NIC_OPTION
                                  ",mq=on,vectors=8");
    g_autoptr(GPtrArray) calls = NULL;
    VdpaNic *nic;
    unsigned i;

    vdpa_soft_skip(t->soft);
    nic = vdpa_start_nic(t, BIT_ULL(VIRTIO_NET_F_MQ));
    g_assert_cmpuint(vdpa_nic_pairs(nic), ==, 3);
    calls = vdpa_soft_calls(t->soft);
    /* The control queue is the device's last */
    for (i = 0; i <= 8; i++) {
        unsigned expected = i < 6 || i == 8;
        g_autofree char *num = g_strdup_printf("SET_VRING_NUM index=%u ", i);
        g_autofree char *enable = g_strdup_printf("SET_VRING_ENABLE index=%u "
                                                  "num=1", i);

        g_assert_cmpuint(vdpa_count_calls(calls, num), ==, expected);
        g_assert_cmpuint(vdpa_count_calls(calls, enable), ==, expected);
    }
    vdpa_nic_check_data(nic, 1);
    g_assert_cmpuint(set_pairs(nic, 3), ==, VIRTIO_NET_OK);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "active-pairs"), ==, 3);
    for (i = 0; i < 3; i++) {
        vdpa_nic_check_tx(nic, i, 100, i);
        vdpa_nic_check_rx(nic, i, 200, i);
        /* Each used its own rings */
        g_assert_cmpuint(qtest_readw(t->qts, vdpa_nic_tx(nic, i)->used + 2), ==,
                         i ? 1 : 2);
    }
    g_assert_cmpuint(set_pairs(nic, 1), ==, VIRTIO_NET_OK);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "active-pairs"), ==, 1);
    vdpa_nic_check_data(nic, 3);

    vdpa_stop_guest(t);
    vdpa_continue_guest(t);
    vdpa_nic_check_data(nic, 5);
    g_assert_cmpuint(set_pairs(nic, 2), ==, VIRTIO_NET_OK);
    vdpa_nic_check_tx(nic, 1, 100, 7);
    vdpa_nic_check_rx(nic, 1, 200, 7);

    /* A driver without MQ, whose control queue has another index */
    g_ptr_array_unref(calls);
    vdpa_soft_skip(t->soft);
    vdpa_nic_start(nic, 0);
    calls = vdpa_soft_calls(t->soft);
    g_assert_cmpuint(vdpa_count_calls(calls, "SET_VRING_ENABLE"), ==, 3);
    g_assert_cmpuint(vdpa_count_calls(calls, "SET_VRING_ENABLE index=2 "), ==,
                     1);
    vdpa_nic_check_data(nic, 9);
    g_assert_cmpuint(vdpa_nic_control(nic, VIRTIO_NET_CTRL_RX,
                                      VIRTIO_NET_CTRL_RX_PROMISC, "\1", 1), ==,
                     VIRTIO_NET_OK);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* As many pairs as there are, unless told otherwise */
static void test_multiqueue_all(void)
{
    VdpaTest *t = vdpa_start_qemu("--queues 4 --wire loopback",
                                  VDPA_NETDEV_OPTION VDPA_NIC_OPTION
                                  ",mq=on,vectors=10");
    VdpaNic *nic = vdpa_start_nic(t, BIT_ULL(VIRTIO_NET_F_MQ));
    unsigned i;

    g_assert_cmpuint(vdpa_nic_pairs(nic), ==, 4);
    g_assert_cmpuint(set_pairs(nic, 4), ==, VIRTIO_NET_OK);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "active-pairs"), ==, 4);
    for (i = 0; i < 4; i++) {
        Batch tx, rx;

        batch_init(&rx, 3, i);
        batch_init(&tx, 3, i);
        batch_offer_rx(nic, &rx, i);
        batch_offer_tx(nic, &tx, i);
        batch_take(nic, &tx, vdpa_nic_tx(nic, i), false);
        batch_take(nic, &rx, vdpa_nic_rx(nic, i), true);
    }
    vdpa_nic_free(nic);
    vdpa_end(t);
}

static void test_control(void)
{
    static const uint8_t mac[6] = { 0x52, 0x54, 0, 0x77, 0x66, 0x55 };
    uint16_t vlan = cpu_to_le16(5);
    g_autofree char *text = NULL;
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_start_nic(t, 0);
    QDict *stats;
    int i;

    g_assert_cmpuint(vdpa_nic_control(nic, VIRTIO_NET_CTRL_MAC,
                                      VIRTIO_NET_CTRL_MAC_ADDR_SET, mac,
                                      sizeof(mac)), ==, VIRTIO_NET_OK);
    text = vdpa_soft_text(t->soft, "mac");
    g_assert_cmpstr(text, ==, "52:54:00:77:66:55");
    /* The guest reads it back */
    for (i = 0; i < sizeof(mac); i++) {
        g_assert_cmphex(qvirtio_config_readb(nic->vdev, i), ==, mac[i]);
    }
    g_assert_cmpuint(vdpa_nic_control(nic, VIRTIO_NET_CTRL_VLAN,
                                      VIRTIO_NET_CTRL_VLAN_ADD, &vlan,
                                      sizeof(vlan)), ==, VIRTIO_NET_OK);
    stats = vdpa_soft_request(t->soft, "stats");
    g_assert_cmpuint(qlist_size(qdict_get_qlist(stats, "vlans")), ==, 1);
    qobject_unref(stats);
    /* What the device refuses, the guest sees refused */
    g_assert_cmpuint(vdpa_nic_control(nic, 77, 1, "", 1), ==, VIRTIO_NET_ERR);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Configuration space --- */

#define CONFIG(field) offsetof(struct virtio_net_config, field)

static void assert_mac(VdpaNic *nic, const char *expected)
{
    GString *mac = g_string_new(NULL);
    int i;

    for (i = 0; i < 6; i++) {
        g_string_append_printf(mac, "%s%02x", i ? ":" : "",
                               qvirtio_config_readb(nic->vdev, i));
    }
    g_assert_cmpstr(mac->str, ==, expected);
    g_string_free(mac, true);
}

/* Link and announce: the configuration changes, and the guest is told */
static void check_config_interrupt(VdpaNic *nic)
{
    VdpaSoft *soft = nic->t->soft;

    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==,
                    VIRTIO_NET_S_LINK_UP);
    vdpa_soft_do(soft, "link down");
    qvirtio_wait_config_isr(nic->vdev, VDPA_DEADLINE_US);
    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==, 0);
    vdpa_soft_do(soft, "link up");
    qvirtio_wait_config_isr(nic->vdev, VDPA_DEADLINE_US);
    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==,
                    VIRTIO_NET_S_LINK_UP);
    vdpa_soft_do(soft, "announce");
    qvirtio_wait_config_isr(nic->vdev, VDPA_DEADLINE_US);
    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==,
                    VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    g_assert_cmpuint(vdpa_nic_control(nic, VIRTIO_NET_CTRL_ANNOUNCE,
                                      VIRTIO_NET_CTRL_ANNOUNCE_ACK, "", 0), ==,
                     VIRTIO_NET_OK);
    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==,
                    VIRTIO_NET_S_LINK_UP);
}

static void test_config_interrupt(void)
{
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_start_nic(t, 0);

    check_config_interrupt(nic);
    /* The interrupt outlives resets and stops */
    vdpa_nic_start(nic, 0);
    check_config_interrupt(nic);
    vdpa_stop_guest(t);
    vdpa_continue_guest(t);
    check_config_interrupt(nic);
    qtest_system_reset(t->qts);
    vdpa_nic_free(nic);
    nic = vdpa_start_nic(t, 0);
    check_config_interrupt(nic);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A device that forgets the interrupt at each reset */
static void test_config_interrupt_forgotten(void)
{
    VdpaTest *t = vdpa_start("--like vduse");
    VdpaNic *nic = vdpa_start_nic(t, 0);
    int i;

    for (i = 0; i < 3; i++) {
        vdpa_soft_do(t->soft, "link down");
        qvirtio_wait_config_isr(nic->vdev, VDPA_DEADLINE_US);
        g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==,
                        0);
        vdpa_soft_do(t->soft, "link up");
        qvirtio_wait_config_isr(nic->vdev, VDPA_DEADLINE_US);
        vdpa_stop_guest(t);
        vdpa_continue_guest(t);
        vdpa_nic_start(nic, 0);
    }
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* The address given to QEMU, where the device takes it */
static void test_config_mac(void)
{
    VdpaTest *t = vdpa_start("--mac " VDPA_DEVICE_MAC);
    QDict *reply = vdpa_soft_request(t->soft, "transcript");
    g_autofree char *mac = vdpa_soft_text(t->soft, "mac");
    const QListEntry *e;
    bool found = false;
    VdpaNic *nic;

    g_assert_cmpstr(mac, ==, VDPA_GUEST_MAC);
    QLIST_FOREACH_ENTRY(qdict_get_qlist(reply, "entries"), e) {
        QDict *entry = qobject_to(QDict, qlist_entry_obj(e));

        if (!strcmp(qdict_get_str(entry, "call"), "SET_CONFIG")) {
            QDict *args = qdict_get_qdict(entry, "args");

            g_assert_false(found);
            g_assert_cmpuint(qdict_get_int(args, "off"), ==, 0);
            g_assert_cmpstr(qdict_get_str(args, "data"), ==, "525400abcdef");
            found = true;
        }
    }
    g_assert_true(found);
    qobject_unref(reply);
    nic = vdpa_start_nic(t, 0);
    assert_mac(nic, VDPA_GUEST_MAC);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* The device's own, where it does not */
static void test_config_mac_fixed(void)
{
    VdpaTest *t = vdpa_start("--like mlx5 --map any --mac " VDPA_DEVICE_MAC);
    VdpaNic *nic = vdpa_start_nic(t, 0);

    assert_mac(nic, VDPA_DEVICE_MAC);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* QEMU's, where there is none */
static void test_config_mac_none(void)
{
    VdpaTest *t = vdpa_start("--no-feature MAC --no-feature CTRL_MAC_ADDR");
    VdpaNic *nic = vdpa_start_nic(t, 0);

    assert_mac(nic, VDPA_GUEST_MAC);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A device with less than the guest can see is never asked for more */
static void test_config_bounds(void)
{
    VdpaTest *t =
        vdpa_start("--config-size 6 --no-feature MTU --no-feature STATUS");
    VdpaNic *nic = vdpa_start_nic(t, 0);
    g_autoptr(GPtrArray) calls = NULL;
    unsigned i;

    /* QEMU has the last word on what the device does not have */
    assert_mac(nic, VDPA_GUEST_MAC);
    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==,
                    VIRTIO_NET_S_LINK_UP);
    t->soft->seq = 0;
    calls = vdpa_soft_calls(t->soft);
    g_assert_cmpuint(vdpa_count_calls(calls, "GET_CONFIG off"), >, 0);
    for (i = 0; i < calls->len; i++) {
        unsigned off, len;

        if (sscanf(calls->pdata[i], "%*cET_CONFIG off=%u len=%u", &off,
                   &len) == 2) {
            g_assert_cmpuint(off + len, <=, 6);
        }
    }
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

static void test_config_mtu(void)
{
    VdpaTest *t = vdpa_start_qemu("--mtu 9000", VDPA_NETDEV_OPTION
                                  VDPA_NIC_OPTION ",host_mtu=1400");
    VdpaNic *nic = vdpa_start_nic(t, 0);

    /* What the device says counts, if QEMU's user wants one at all */
    g_assert_true(vdpa_nic_has(nic, VIRTIO_NET_F_MTU));
    g_assert_cmpuint(qvirtio_config_readw(nic->vdev, CONFIG(mtu)), ==, 9000);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Features --- */

/* The guest is not offered what cannot be delivered */
static void test_features_offered(void)
{
    static const unsigned device_only[] = {
        VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_CTRL_VLAN,
        VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_RING_F_INDIRECT_DESC, VIRTIO_NET_F_CTRL_RX,
    };
    uint64_t features;
    VdpaTest *t;
    VdpaNic *nic;
    int i;

    t = vdpa_start("--add-feature RING_RESET --add-feature NOTIFICATION_DATA "
                   "--add-feature SR_IOV");
    nic = vdpa_nic_new(t, VDPA_NIC_SLOT);
    features = qvirtio_get_features(nic->vdev);
    g_assert_cmphex(features & (BIT_ULL(VIRTIO_F_RING_RESET) |
                                BIT_ULL(VIRTIO_F_NOTIFICATION_DATA) |
                                BIT_ULL(VIRTIO_F_SR_IOV)), ==, 0);
    for (i = 0; i < ARRAY_SIZE(device_only); i++) {
        g_assert_cmphex(features & BIT_ULL(device_only[i]), !=, 0);
    }
    vdpa_nic_start(nic, 0);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);

    t = vdpa_start("--no-feature MRG_RXBUF --no-feature CTRL_VLAN "
                   "--no-feature GUEST_ANNOUNCE --no-feature EVENT_IDX "
                   "--no-feature INDIRECT_DESC --no-feature CTRL_RX");
    nic = vdpa_nic_new(t, VDPA_NIC_SLOT);
    features = qvirtio_get_features(nic->vdev);
    for (i = 0; i < ARRAY_SIZE(device_only); i++) {
        g_assert_cmphex(features & BIT_ULL(device_only[i]), ==, 0);
    }
    vdpa_nic_start(nic, 0);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A device without a control queue */
/* A command that the device has not got to is not QEMU's to carry out */
static void test_control_pending(void)
{
    /* Receive mode: not promiscuous */
    static const uint8_t command[] = { VIRTIO_NET_CTRL_RX,
                                       VIRTIO_NET_CTRL_RX_PROMISC, 0 };
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_start_nic(t, 0);
    QVirtQueue *vq = nic->vq[nic->num_vqs - 1];
    uint64_t addr = guest_alloc(&t->alloc, sizeof(command) + 1);
    uint64_t status = addr + sizeof(command);
    uint32_t head;

    vdpa_soft_do(t->soft, "pause");
    qtest_memwrite(t->qts, addr, command, sizeof(command));
    qtest_writeb(t->qts, status, 0xee);
    head = qvirtqueue_add(t->qts, vq, addr, sizeof(command), false, true);
    qvirtqueue_add(t->qts, vq, status, 1, true, false);
    vdpa_nic_offer(nic, vq, head);
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'stop' }");
    g_assert_cmphex(qtest_readb(t->qts, status), ==, 0xee);
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'cont' }");
    g_assert_cmphex(qtest_readb(t->qts, status), ==, 0xee);
    vdpa_soft_do(t->soft, "unpause");
    g_assert_cmpuint(vdpa_nic_take(nic, vq, head), ==, 1);
    g_assert_cmphex(qtest_readb(t->qts, status), ==, VIRTIO_NET_OK);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

static void test_features_no_control(void)
{
    VdpaTest *t = vdpa_start("--no-feature CTRL_VQ --no-feature CTRL_RX "
                             "--no-feature CTRL_VLAN "
                             "--no-feature CTRL_MAC_ADDR "
                             "--no-feature CTRL_RX_EXTRA "
                             "--no-feature GUEST_ANNOUNCE");
    VdpaNic *nic = vdpa_start_nic(t, 0);

    g_assert_false(vdpa_nic_has(nic, VIRTIO_NET_F_CTRL_VQ));
    g_assert_cmpuint(nic->num_vqs, ==, 2);
    vdpa_nic_check_data(nic, 1);
    vdpa_stop_guest(t);
    vdpa_continue_guest(t);
    vdpa_nic_check_data(nic, 3);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

static void test_features_refused(void)
{
    VdpaTest *t = vdpa_start("--refuse-status 8");
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);
    g_autoptr(GPtrArray) calls = NULL;

    vdpa_nic_prepare(nic, 0);
    vdpa_soft_skip(t->soft);
    vdpa_nic_set_driver_ok(nic);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "'" VDPA_NODE "'.*status 0x8 .*VIRTIO_NET_F_MAC.*"
                    "VIRTIO_F_VERSION_1|'" VDPA_NODE "'.*status 0x8 .*"
                    "VIRTIO_F_VERSION_1.*VIRTIO_NET_F_MAC");
    calls = vdpa_soft_calls(t->soft);
    g_assert_cmpuint(vdpa_count_calls(calls, "SET_VRING"), ==, 0);
    g_assert_cmpstr(calls->pdata[calls->len - 1], ==,
                    "SET_STATUS status=0x0");
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* The kernel refuses to drop what the device raised, and does not say why */
static void test_status_raised(void)
{
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);

    vdpa_soft_do(t->soft, "needs-reset");
    vdpa_nic_prepare(nic, 0);
    vdpa_nic_set_driver_ok(nic);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "'" VDPA_NODE "'.*status 0x3 and remains at 0x40; ");
    vdpa_nic_check_recovery(nic);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

static void test_driver_ok_refused(void)
{
    VdpaTest *t = vdpa_start("--fail-driver-ok");
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);

    vdpa_nic_prepare(nic, 0);
    vdpa_nic_set_driver_ok(nic);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "'" VDPA_NODE "'.*status 0x4 .*0x8b.*host's kernel log");
    g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), ==, 0);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A driver from before virtio 1.0 */
static void test_legacy_driver(void)
{
    VdpaTest *t = vdpa_start_qemu("", VDPA_NETDEV_OPTION VDPA_NIC_OPTION
                                  ",disable-modern=off,disable-legacy=off");
    QPCIAddress address = { .devfn = QPCI_DEVFN(VDPA_NIC_SLOT, 0) };
    QVirtioPCIDevice *pci = virtio_pci_new(t->bus, &address);
    g_autoptr(GPtrArray) calls = NULL;
    QPCIBar bar;

    qpci_device_enable(pci->pdev);
    bar = qpci_iomap(pci->pdev, 0, NULL);
    g_assert_true(bar.is_io);
    vdpa_soft_skip(t->soft);
    qpci_io_writel(pci->pdev, bar, VIRTIO_PCI_GUEST_FEATURES, 0);
    qpci_io_writeb(pci->pdev, bar, VIRTIO_PCI_STATUS,
                   VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                   VIRTIO_CONFIG_S_DRIVER_OK);
    vdpa_take_error(t, "'" VDPA_NODE "'.*legacy");
    calls = vdpa_soft_calls(t->soft);
    g_assert_cmpuint(vdpa_count_calls(calls, "SET_"), ==, 0);
    g_free(pci->pdev);
    g_free(pci);
    vdpa_end(t);
}

static void test_migration_blocked(void)
{
    VdpaTest *t = vdpa_start("");
    QDict *error;

    error = qtest_qmp_assert_failure_ref(t->qts, "{ 'execute': 'migrate',"
                                         "'arguments': {"
                                         "'uri': 'exec:cat>/dev/null' } }");
    g_assert_nonnull(strstr(qdict_get_str(error, "desc"), VDPA_NODE));
    g_assert_nonnull(strstr(qdict_get_str(error, "desc"),
                            "shadow virtqueues"));
    qobject_unref(error);
    vdpa_end(t);
}

/* --- Doorbells --- */

static bool doorbell_mapped(VdpaTest *t)
{
    g_autofree char *text = qtest_hmp(t->qts, "info mtree -f");

    return strstr(text, "vhost-vdpa-doorbell-1");
}

static void test_doorbell(void)
{
    VdpaTest *t = vdpa_start_qemu("--doorbell on", VDPA_NETDEV_OPTION
                                  VDPA_NIC_OPTION ",page-per-vq=on");
    VdpaNic *nic = vdpa_start_nic(t, 0);
    int i;

    g_assert_true(doorbell_mapped(t));
    for (i = 0; i < 10; i++) {
        vdpa_nic_check_data(nic, i);
    }
    vdpa_stop_guest(t);
    g_assert_false(doorbell_mapped(t));
    vdpa_continue_guest(t);
    g_assert_true(doorbell_mapped(t));
    vdpa_nic_check_data(nic, 20);
    qvirtio_reset(nic->vdev);
    g_assert_false(doorbell_mapped(t));
    vdpa_nic_start(nic, 0);
    vdpa_nic_check_data(nic, 22);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Where the guest has no page for each queue, eventfds have to do */
static void test_doorbell_unused(void)
{
    VdpaTest *t = vdpa_start("--doorbell on");
    VdpaNic *nic = vdpa_start_nic(t, 0);

    g_assert_false(doorbell_mapped(t));
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Hotplug of the network card --- */

static void add_netdev(VdpaTest *t)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'netdev_add',"
                             "  'arguments': { 'type': 'vhost-vdpa',"
                             "    'id': 'net0', 'vhostdev': '" VDPA_NODE
                             "' } }");
}

static void add_nic(VdpaTest *t)
{
    qtest_qmp_device_add(t->qts, "virtio-net-pci", "nic0",
                         "{ 'netdev': 'net0', 'addr': '0x4', 'romfile': '',"
                         "  'mac': '" VDPA_GUEST_MAC
                         "', 'page-per-vq': true }");
}

static void remove_nic(VdpaTest *t)
{
    qpci_unplug_acpi_device_test(t->qts, "nic0", VDPA_NIC_SLOT);
}

/* The guest's driver of a card that is gone */
static void forget_nic(VdpaNic *nic)
{
    vdpa_nic_free_vqs(nic);
    g_free(nic->pci->pdev);
    g_free(nic->pci);
    g_free(nic);
}

static void remove_netdev(VdpaTest *t)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'netdev_del',"
                             "  'arguments': { 'id': 'net0' } }");
}

static unsigned count_mappings(VdpaTest *t)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps",
                                            (int)qtest_pid(t->qts));
    g_autofree char *text = NULL;
    unsigned count = 0;
    const char *p;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    for (p = text; *p; p++) {
        count += *p == '\n';
    }
    return count;
}

static uint64_t resident_kib(VdpaTest *t)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status",
                                            (int)qtest_pid(t->qts));
    g_autofree char *text = NULL;
    uint64_t kib;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpint(sscanf(strstr(text, "RssAnon:"), "RssAnon: %" SCNu64,
                           &kib), ==, 1);
    return kib;
}

/* RCU frees memory a little later */
static void wait_resident(VdpaTest *t, uint64_t limit_kib)
{
    int64_t deadline = g_get_monotonic_time() + VDPA_DEADLINE_US;

#ifdef QEMU_SANITIZE_ADDRESS
    /* Keeps what was freed, but reports leaks by itself */
    return;
#endif
    while (resident_kib(t) > limit_kib) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    }
}

static void test_hotplug_many(void)
{
    enum { ROUNDS = 100, WARM = 10 };
    VdpaTest *t = vdpa_start_qemu("--doorbell on", "");
    unsigned fds = 0, maps = 0;
    uint64_t kib = 0;
    int i;

    for (i = 0; i < ROUNDS; i++) {
        add_netdev(t);
        add_nic(t);
        if (i % 10 == 9) {
            /* Now and then with a guest that uses it until the end */
            VdpaNic *nic = vdpa_start_nic(t, 0);

            vdpa_nic_check_data(nic, i);
            remove_nic(t);
            forget_nic(nic);
        } else {
            remove_nic(t);
        }
        remove_netdev(t);
        vdpa_soft_wait(t->soft, "open == 0");
        vdpa_soft_do(t->soft, "clear");
        if (i == WARM) {
            fds = vdpa_count_fds(t);
            maps = count_mappings(t);
            kib = resident_kib(t);
        }
    }
    vdpa_wait_fds(t, fds);
    g_assert_cmpuint(count_mappings(t), <=, maps + 10);
    wait_resident(t, kib + 1024);
    vdpa_end(t);
}

/* The host's side goes first */
static void test_hotplug_netdev_first(void)
{
    VdpaTest *t = vdpa_start("");
    VdpaNic *nic = vdpa_start_nic(t, 0);

    vdpa_nic_check_data(nic, 1);
    remove_netdev(t);
    /* The card is still there, without a link */
    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)) &
                    VIRTIO_NET_S_LINK_UP, ==, 0);
    qvirtio_reset(nic->vdev);
    vdpa_nic_prepare(nic, 0);
    vdpa_nic_set_driver_ok(nic);
    vdpa_nic_free(nic);
    remove_nic(t);
    vdpa_soft_wait(t->soft, "open == 0");
    add_netdev(t);
    add_nic(t);
    nic = vdpa_start_nic(t, 0);
    vdpa_nic_check_data(nic, 3);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Ways to name the device --- */

static void check_works(VdpaTest *t, uint64_t wanted, unsigned pairs)
{
    VdpaNic *nic = vdpa_start_nic(t, wanted);
    unsigned i;

    g_assert_cmpuint(vdpa_nic_pairs(nic), ==, pairs);
    if (pairs > 1) {
        g_assert_cmpuint(set_pairs(nic, pairs), ==, VIRTIO_NET_OK);
    }
    for (i = 0; i < pairs; i++) {
        vdpa_nic_check_tx(nic, i, 100, i);
        vdpa_nic_check_rx(nic, i, 100, i);
    }
    vdpa_nic_free(nic);
}

#define ADD_FD "-add-fd set=0,fd=33,opaque=net0-vdpa "
#define SANDBOX "-sandbox on,obsolete=deny,elevateprivileges=deny," \
    "spawn=deny,resourcecontrol=deny "

static bool has_sandbox(void)
{
    g_autoptr(VdpaSoft) soft = vdpa_soft_new();

    if (vdpa_soft_run(soft, "", "", "-M none -sandbox off")) {
        g_test_skip("QEMU was built without seccomp");
        return false;
    }
    return true;
}

/*
 * start_sandboxed() - as vdpa_start_qemu(), with the sandbox
 *
 * At its end a sanitizer looks for leaks from a process beside QEMU, which
 * the sandbox forbids.
 */
static VdpaTest *start_sandboxed(const char *soft, const char *qemu)
{
    g_autofree char *options = g_strdup(g_getenv("ASAN_OPTIONS"));
    g_autofree char *args = g_strconcat(SANDBOX, qemu, NULL);
    VdpaTest *t;

    if (options) {
        g_autofree char *fewer = g_strconcat(options, ":detect_leaks=0", NULL);

        g_setenv("ASAN_OPTIONS", fewer, true);
    }
    t = vdpa_start_qemu(soft, args);
    if (options) {
        g_setenv("ASAN_OPTIONS", options, true);
    }
    return t;
}

static void test_fd_number(void)
{
    VdpaTest *t = vdpa_start_qemu("--fd 33",
                                  "-netdev vhost-vdpa,id=net0,vhostfd=33 "
                                  VDPA_NIC_OPTION);

    check_works(t, 0, 1);
    vdpa_end(t);
}

static void test_fdset(void)
{
    VdpaTest *t;

    if (!has_sandbox()) {
        return;
    }
    t = start_sandboxed("--fd 33", ADD_FD
                        "-netdev '{\"type\":\"vhost-vdpa\","
                        "\"vhostdev\":\"/dev/fdset/0\",\"id\":\"net0\"}' "
                        VDPA_NIC_OPTION);
    check_works(t, 0, 1);
    vdpa_end(t);
}

static void test_fdset_queues(void)
{
    VdpaTest *t;

    if (!has_sandbox()) {
        return;
    }
    t = start_sandboxed("--fd 33 --queues 2", ADD_FD
                        "-netdev '{\"type\":\"vhost-vdpa\",\"queues\":2,"
                        "\"vhostdev\":\"/dev/fdset/0\",\"id\":\"net0\"}' "
                        VDPA_NIC_OPTION ",mq=on,vectors=6");
    check_works(t, BIT_ULL(VIRTIO_NET_F_MQ), 2);
    vdpa_end(t);
}

/* The sandbox and all that makes a large device */
static void test_sandbox(void)
{
    VdpaTest *t;
    VdpaNic *nic;

    if (!has_sandbox()) {
        return;
    }
    t = start_sandboxed("--doorbell on",
                        VDPA_NETDEV_OPTION VDPA_NIC_OPTION
                        ",page-per-vq=on");
    nic = vdpa_start_nic(t, 0);
    vdpa_nic_check_data(nic, 1);
    vdpa_stop_guest(t);
    vdpa_continue_guest(t);
    vdpa_add_dimm(t, 64);
    vdpa_nic_check_data(nic, 3);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Passed over QMP, under a name: what libvirt does for hotplug */
static void test_fd_getfd(void)
{
    VdpaTest *t = vdpa_start_qemu("--fd 33", "");
    int pidfd = syscall(SYS_pidfd_open, qtest_pid(t->qts), 0);
    int fd = syscall(SYS_pidfd_getfd, pidfd, 33, 0);

    if (fd < 0 && (errno == EPERM || errno == ENOSYS)) {
        g_test_skip("a process must not take files of its children here");
        qtest_qmp_assert_success(t->qts, "{ 'execute': 'netdev_add',"
                                 "  'arguments': { 'type': 'vhost-vdpa',"
                                 "    'id': 'net0', 'vhostfd': '33' } }");
        vdpa_end(t);
        return;
    }
    g_assert_cmpint(fd, >=, 0);
    qtest_qmp_fds_assert_success(t->qts, &fd, 1, "{ 'execute': 'getfd',"
                                 "  'arguments': { 'fdname': 'vdpa' } }");
    close(fd);
    close(pidfd);
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'netdev_add',"
                             "  'arguments': { 'type': 'vhost-vdpa',"
                             "    'id': 'net0', 'vhostfd': 'vdpa' } }");
    add_nic(t);
    check_works(t, 0, 1);
    vdpa_end(t);
}

/* --- What managers see --- */

/* Whether the object tree has something below @path */
static bool has_child(VdpaTest *t, const char *path, const char *name)
{
    QDict *reply = qtest_qmp(t->qts, "{ 'execute': 'qom-list', 'arguments':"
                             "  { 'path': %s } }", path);
    const QListEntry *e;
    bool found = false;

    if (qdict_haskey(reply, "return")) {
        QLIST_FOREACH_ENTRY(qdict_get_qlist(reply, "return"), e) {
            QDict *child = qobject_to(QDict, qlist_entry_obj(e));

            found |= !strcmp(qdict_get_str(child, "name"), name);
        }
    }
    qobject_unref(reply);
    return found;
}

static bool has_status(VdpaTest *t, unsigned index)
{
    g_autofree char *name = g_strdup_printf("vhost-vdpa-status[%u]", index);

    return has_child(t, "/backend", name);
}

/* Of a device that is open; to be unreferenced by the caller */
static QObject *get_status(VdpaTest *t, unsigned index, const char *property)
{
    g_autofree char *path = g_strdup_printf("/backend/vhost-vdpa-status[%u]",
                                            index);
    QDict *reply = qtest_qmp(t->qts, "{ 'execute': 'qom-get', 'arguments':"
                             "  { 'path': %s, 'property': %s } }", path,
                             property);
    QObject *value = qdict_get(reply, "return");

    g_assert_nonnull(value);
    qobject_ref(value);
    qobject_unref(reply);
    return value;
}

static char *status_text(VdpaTest *t, unsigned index, const char *property)
{
    QObject *value = get_status(t, index, property);
    char *text = g_strdup(qstring_get_str(qobject_to(QString, value)));

    qobject_unref(value);
    return text;
}

static uint64_t soft_number(VdpaTest *t, unsigned node, const char *key)
{
    QDict *reply = vdpa_soft_request(t->soft, "stats node=%u", node);
    uint64_t value = qdict_get_int(reply, key);

    qobject_unref(reply);
    return value;
}

/*
 * What QEMU says of a device is what the device itself counts.  That counted
 * @before messages when it was opened.
 */
static void assert_counted(VdpaTest *t, unsigned node, uint64_t wanted,
                           uint64_t before)
{
    g_autofree char *path = g_strdup_printf("/dev/vhost-vdpa-%u,virtio-id",
                                            node);
    g_autofree char *info = qtest_hmp(t->qts, "info network");
    g_autofree char *state = status_text(t, node, "state");
    g_autofree char *error = status_text(t, node, "last-error");
    QObject *object = get_status(t, node, "memory");
    QDict *memory = qobject_to(QDict, object);
    uint64_t bytes = soft_number(t, node, "mapped-bytes");
    uint64_t mappings = soft_number(t, node, "mappings");
    uint64_t messages = soft_number(t, node, "messages") - before;
    const char *line = strstr(info, path);

    g_assert_cmpuint(bytes, >, 0);
    g_assert_cmpuint(qdict_get_int(memory, "mapped-bytes"), ==, bytes);
    g_assert_cmpuint(qdict_get_int(memory, "wanted-bytes"), ==, wanted);
    g_assert_cmpuint(qdict_get_int(memory, "entries"), ==, mappings);
    g_assert_cmpuint(qdict_get_int(memory, "messages"), ==, messages);
    if (line) {
        g_autofree char *text = g_strndup(line, strcspn(line, "\r\n"));
        g_autofree char *expected =
            g_strdup_printf(",state=%s,mapped-bytes=%" PRIu64 "/%" PRIu64
                            ",entries=%" PRIu64 ",messages=%" PRIu64 "%s",
                            state, bytes, wanted, mappings, messages,
                            *error ? ",last-error=" : "");
        const char *end = strstr(text, expected);

        /* There is room for the beginning of an error only */
        if (!end || !g_str_has_prefix(error, end + strlen(expected)) ||
            (*error && !end[strlen(expected)])) {
            vdpa_soft_fail("'info network' does not end in '%s%s': %s",
                           expected, error, text);
        }
    }
    qobject_unref(object);
}

/* The same of one that has all that it shall have */
static void check_figures_since(VdpaTest *t, unsigned node, uint64_t before)
{
    g_autofree char *error = status_text(t, node, "last-error");

    g_assert_cmpstr(error, ==, "");
    assert_counted(t, node, soft_number(t, node, "mapped-bytes"), before);
}

static void check_figures(VdpaTest *t, unsigned node)
{
    check_figures_since(t, node, 0);
}

/* All that was ever mapped for the only device, by its transcript */
static uint64_t total_mapped(VdpaTest *t)
{
    g_autoptr(GPtrArray) all = vdpa_soft_file_messages(t->soft);
    uint64_t total = 0, size;
    unsigned i;

    for (i = 0; i < all->len; i++) {
        const char *message = all->pdata[i];

        if (g_str_has_prefix(message, "IOTLB_UPDATE") &&
            !strstr(message, " -> ")) {
            g_assert_cmpint(sscanf(strstr(message, " size="), " size=%" SCNx64,
                                   &size), ==, 1);
            total += size;
        }
    }
    return total;
}

static void check_life(VdpaTest *t, const char *expected_state)
{
    g_autofree char *state = status_text(t, 0, "state");
    g_autofree char *device = status_text(t, 0, "device");
    QObject *pending = get_status(t, 0, "start-pending");
    QObject *memory = get_status(t, 0, "memory");

    check_figures(t, 0);
    g_assert_cmpstr(device, ==, VDPA_NODE);
    g_assert_cmpstr(state, ==, expected_state);
    g_assert_false(qbool_get_bool(qobject_to(QBool, pending)));
    g_assert_cmpuint(qdict_get_int(qobject_to(QDict, memory),
                                   "total-mapped-bytes"), ==, total_mapped(t));
    qobject_unref(pending);
    qobject_unref(memory);
}

static void test_figures(const void *soft)
{
    const uint64_t dimm = 64 * MiB;
    VdpaTest *t = vdpa_start(soft);
    g_autofree char *error = NULL;
    uint64_t bytes;
    VdpaNic *nic;

    check_life(t, "owned");
    nic = vdpa_start_nic(t, 0);
    check_life(t, "running");
    bytes = soft_number(t, 0, "mapped-bytes");
    vdpa_stop_guest(t);
    check_life(t, "suspended");
    vdpa_continue_guest(t);
    check_life(t, "running");
    vdpa_add_dimm(t, 64);
    g_assert_cmpuint(soft_number(t, 0, "mapped-bytes"), ==, bytes + dimm);
    check_life(t, "running");
    vdpa_remove_dimm(t);
    check_life(t, "running");

    vdpa_soft_do(t->soft, "fail IOTLB_UPDATE 1 EFAULT always");
    vdpa_add_dimm(t, 64);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "cannot map");
    g_assert_cmpuint(soft_number(t, 0, "mapped-bytes"), ==, bytes);
    assert_counted(t, 0, bytes + dimm, 0);
    error = status_text(t, 0, "last-error");
    g_assert_true(g_regex_match_simple("'" VDPA_NODE "': cannot map IOVA "
                                       "0x100000000-0x103ffffff", error, 0, 0));
    vdpa_soft_do(t->soft, "unfail");
    vdpa_nic_check_recovery(nic);
    check_life(t, "running");
    qvirtio_reset(nic->vdev);
    check_life(t, "owned");
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Each device has an object for as long as it is open */
static void test_status_objects(void)
{
    VdpaTest *t = vdpa_start_qemu("--map any --node --map any", "");
    int i;

    for (i = 0; i < 2; i++) {
        uint64_t before[] = { soft_number(t, 0, "messages"),
                              soft_number(t, 1, "messages") };
        g_autofree char *first = NULL, *second = NULL;

        g_assert_false(has_status(t, 0));
        add_netdev(t);
        first = status_text(t, 0, "device");
        g_assert_cmpstr(first, ==, VDPA_NODE);
        g_assert_false(has_status(t, 1));
        qtest_qmp_device_add(t->qts, "vhost-vdpa-device-pci", "other",
                             "{ 'addr': '0x5',"
                             "  'vhostdev': '/dev/vhost-vdpa-1' }");
        g_assert_true(has_status(t, 1));
        check_figures_since(t, 1, before[1]);
        second = status_text(t, 1, "device");
        g_assert_cmpstr(second, !=, "");
        g_assert_cmpstr(second, !=, first);
        add_nic(t);
        check_figures_since(t, 0, before[0]);
        check_figures_since(t, 1, before[1]);
        if (i) {
            remove_nic(t);
            remove_netdev(t);
            g_assert_false(has_status(t, 0));
            check_figures_since(t, 1, before[1]);
            vdpa_unplug(t, "other", 0xae08, 1 << 5);
        } else {
            vdpa_unplug(t, "other", 0xae08, 1 << 5);
            g_assert_false(has_status(t, 1));
            check_figures_since(t, 0, before[0]);
            remove_nic(t);
            remove_netdev(t);
        }
        g_assert_false(has_status(t, 0));
        g_assert_false(has_status(t, 1));
    }
    vdpa_end(t);
}

#ifdef CONFIG_TRACE_LOG
/* The commits that left a trace so far */
typedef struct Commit {
    uint64_t before;
    uint64_t after;
    uint64_t messages;
    uint64_t bytes;
    int64_t ns;
    int ok;
} Commit;

static GArray *traced_commits(const char *path)
{
    const char *event = "vhost_vdpa_memory_commit " VDPA_NODE ": asid 0 ";
    GArray *commits = g_array_new(false, false, sizeof(Commit));
    g_autofree char *text = NULL;
    const char *line;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    for (line = text; (line = strstr(line, event)); ) {
        Commit c;

        line += strlen(event);
        g_assert_cmpint(sscanf(line, "entries %" SCNu64 " -> %" SCNu64
                               " messages %" SCNu64 " bytes %" SCNu64
                               " in %" SCNd64 " ns ok %d", &c.before, &c.after,
                               &c.messages, &c.bytes, &c.ns, &c.ok), ==, 6);
        g_array_append_val(commits, c);
    }
    return commits;
}

/**
 * struct Traced - what was seen of the commits that left a trace
 * @path: of the file
 * @commits: number of them
 * @entries: that the device has
 * @messages: that it got
 * @bytes: that were mapped, each time they were
 */
typedef struct Traced {
    VdpaTest *t;
    char *path;
    unsigned commits;
    uint64_t entries;
    uint64_t messages;
    uint64_t bytes;
} Traced;

/* One more commit left a trace, and it tells what the device saw of it */
static void check_commit(Traced *traced, bool ok)
{
    g_autoptr(GArray) commits = traced_commits(traced->path);
    uint64_t messages = vdpa_soft_number(traced->t->soft, "messages");
    uint64_t bytes = total_mapped(traced->t);
    const Commit *c;

    g_assert_cmpuint(commits->len, ==, traced->commits + 1);
    c = &g_array_index(commits, Commit, traced->commits);
    g_assert_cmpuint(c->before, ==, traced->entries);
    traced->entries = vdpa_soft_number(traced->t->soft, "mappings");
    g_assert_cmpuint(c->after, ==, traced->entries);
    g_assert_cmpuint(c->messages, ==, messages - traced->messages);
    g_assert_cmpuint(c->bytes, ==, bytes - traced->bytes);
    g_assert_cmpint(c->ns, >, 0);
    g_assert_cmpint(c->ok, ==, ok);
    traced->messages = messages;
    traced->bytes = bytes;
    traced->commits++;
}

static void test_trace_commit(void)
{
    g_autofree char *dir = g_dir_make_tmp("vhost-vdpa-test-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "trace", NULL);
    g_autofree char *args =
        g_strdup_printf(VDPA_NETDEV_OPTION VDPA_NIC_OPTION
                        " -trace vhost_vdpa_memory_commit -D %s", path);
    VdpaTest *t = vdpa_start_qemu("--map any", args);
    Traced traced = { .t = t, .path = path };
    VdpaNic *nic;

    check_commit(&traced, true);
    g_assert_cmpuint(traced.bytes, >=, 127 * MiB);
    nic = vdpa_start_nic(t, 0);
    if (vdpa_soft_number(t->soft, "messages") > traced.messages) {
        /* What the first driver needed besides */
        check_commit(&traced, true);
    }
    vdpa_add_dimm(t, 64);
    check_commit(&traced, true);
    /* What needs no message leaves no trace */
    vdpa_nic_start(nic, 0);
    vdpa_remove_dimm(t);
    check_commit(&traced, true);
    vdpa_soft_do(t->soft, "fail IOTLB_UPDATE 1 EFAULT");
    vdpa_add_dimm(t, 64);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "cannot map");
    check_commit(&traced, false);
    vdpa_nic_check_recovery(nic);
    check_commit(&traced, true);
    vdpa_nic_free(nic);
    vdpa_end(t);
    g_unlink(path);
    g_rmdir(dir);
}
#endif

/* The file is named, however QEMU got at it */
static void test_info_network(void)
{
    VdpaTest *t = vdpa_start_qemu("--queues 2 --mac " VDPA_DEVICE_MAC,
                                  VDPA_NETDEV_OPTION VDPA_NIC_OPTION
                                  ",mq=on,vectors=6,mac=" VDPA_DEVICE_MAC);
    g_autofree char *text = NULL;

    text = qtest_hmp(t->qts, "info network");
    if (!g_regex_match_simple("net0: index=0,type=vhost-vdpa," VDPA_NODE
                              ",virtio-id=1,pair=1/2,.*mac=" VDPA_DEVICE_MAC,
                              text, G_REGEX_CASELESS, 0) ||
        !g_regex_match_simple("net0: index=1,type=vhost-vdpa," VDPA_NODE
                              ",virtio-id=1,pair=2/2", text, 0, 0) ||
        !g_regex_match_simple("net0: index=2,type=vhost-vdpa," VDPA_NODE
                              ",control-queue", text, 0, 0)) {
        vdpa_soft_fail("info network says: %s", text);
    }
    vdpa_end(t);
}

/* --- The generic device --- */

static void test_generic(void)
{
    VdpaTest *t = vdpa_start_qemu("", "-device vhost-vdpa-device-pci,id=nic0,"
                                  "addr=4,vhostdev=" VDPA_NODE " ");
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);

    g_assert_cmpuint(nic->vdev->device_type, ==, VIRTIO_ID_NET);
    vdpa_nic_start(nic, 0);
    vdpa_nic_check_data(nic, 1);
    check_config_interrupt(nic);
    g_assert_cmpuint(qvirtio_config_readw(nic->vdev, CONFIG(mtu)), ==, 1500);
    vdpa_stop_guest(t);
    vdpa_continue_guest(t);
    vdpa_nic_check_data(nic, 3);
    vdpa_nic_start(nic, 0);
    vdpa_nic_check_data(nic, 5);
    qtest_system_reset(t->qts);
    vdpa_nic_free(nic);
    nic = vdpa_start_nic(t, 0);
    vdpa_nic_check_data(nic, 7);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/*
 * A disk's requests are to be finished before it is reset, as it cannot tell
 * which of them are.  The device still is a network device, so that it depends
 * on the wire when a request is.
 */
#define DISK_DEVICE "-device vhost-vdpa-device-pci,id=nic0,addr=4,vhostdev=" \
                    VDPA_NODE " "
#define DISK_OPTIONS "--device-id 2 "
#define UNSUSPENDED "--suspend off --resume off"

static VdpaNic *start_disk(VdpaTest **t, const char *soft, const char *qemu)
{
    g_autofree char *options = g_strconcat(DISK_OPTIONS, soft, NULL);
    g_autofree char *args = g_strconcat(DISK_DEVICE, qemu, NULL);
    VdpaNic *nic;

    *t = vdpa_start_qemu(options, args);
    nic = vdpa_nic_new(*t, VDPA_NIC_SLOT);
    g_assert_cmpuint(nic->vdev->device_type, ==, VIRTIO_ID_BLOCK);
    vdpa_nic_start(nic, 0);
    vdpa_nic_check_data(nic, 1);
    return nic;
}

#ifdef CONFIG_TRACE_LOG
static void wait_for_line(VdpaTest *t, const char *pattern)
{
    int64_t end = g_get_monotonic_time() + VDPA_DEADLINE_US;

    while (!vdpa_has_error(t)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
    vdpa_take_error(t, pattern);
}

typedef struct DiskFinishes {
    const char *path;
    const char *soft;
    const char *command;
    const char *error;
} DiskFinishes;

static const DiskFinishes disk_finishes[] = {
    { "stop", UNSUSPENDED, "stop" },
    { "reset", UNSUSPENDED, "system_reset" },
    { "failed-suspend", "--fail SUSPEND:1:EIO", "stop", "VHOST_VDPA_SUSPEND" },
};

static void test_disk_finishes(const void *opaque)
{
    const DiskFinishes *data = opaque;
    VdpaTest *t;
    VdpaNic *nic = start_disk(&t, data->soft,
                              "-trace vhost_vdpa_finish_requests ");
    QDict *reply;
    Batch tx;

    batch_init(&tx, 5, 10);
    vdpa_soft_do(t->soft, "capture on");
    vdpa_soft_do(t->soft, "pause");
    batch_offer_tx(nic, &tx, 0);
    vdpa_soft_skip(t->soft);
    qtest_qmp_send(t->qts, "{ 'execute': %s }", data->command);
    wait_for_line(t, "vhost_vdpa_finish_requests.*: vq 1 has 5 requests");
    if (!data->error) {
        vdpa_assert_no_calls(t, "waiting");
    }
    vdpa_soft_do(t->soft, "unpause");
    reply = qtest_qmp_receive(t->qts);
    g_assert_true(qdict_haskey(reply, "return"));
    qobject_unref(reply);
    vdpa_soft_wait(t->soft, "status == 0");
    if (data->error) {
        vdpa_take_error(t, data->error);
    }
    vdpa_assert_captured(t, tx.count, tx.frame, tx.size);
    batch_take(nic, &tx, vdpa_nic_tx(nic, 0), false);
    if (g_str_equal(data->command, "stop")) {
        vdpa_continue_guest(t);
        vdpa_soft_wait(t->soft, "status == 15");
        vdpa_nic_check_data(nic, 3);
        vdpa_nic_free(nic);
    } else {
        vdpa_nic_free(nic);
        nic = vdpa_start_nic(t, 0);
        vdpa_nic_check_data(nic, 5);
        vdpa_nic_free(nic);
    }
    vdpa_end(t);
}
#endif

/* A vCPU may be stopped when it has made a request, but not yet notified */
static void test_disk_notifies(void)
{
    VdpaTest *t;
    VdpaNic *nic = start_disk(&t, UNSUSPENDED, "");
    QVirtQueue *vq = vdpa_nic_tx(nic, 0);
    uint64_t index = vq->avail + offsetof(struct vring_avail, idx);
    uint16_t made = qtest_readw(t->qts, index);
    Batch tx;

    batch_init(&tx, 1, 10);
    vdpa_soft_do(t->soft, "capture on");
    tx.addr[0] = vdpa_nic_new_buffer(nic, tx.frame[0], tx.size[0]);
    tx.head[0] = qvirtqueue_add(t->qts, vq, tx.addr[0],
                                VDPA_HEADER_SIZE + tx.size[0], false, false);
    qtest_writew(t->qts, vq->avail + offsetof(struct vring_avail, ring[made]),
                 tx.head[0]);
    qtest_writew(t->qts, index, made + 1);
    vdpa_stop_guest(t);
    vdpa_assert_captured(t, tx.count, tx.frame, tx.size);
    vdpa_continue_guest(t);
    vdpa_soft_wait(t->soft, "status == 15");
    batch_take(nic, &tx, vq, false);
    vdpa_nic_check_data(nic, 3);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Nor is a device waited for that does nothing any more */
static void test_disk_stuck(void)
{
    VdpaTest *t;
    VdpaNic *nic = start_disk(&t, UNSUSPENDED, "");
    Batch rx;
    unsigned i;

    batch_init(&rx, 5, 20);
    batch_offer_rx(nic, &rx, 0);
    vdpa_stop_guest(t);
    vdpa_take_error(t, "it has not finished 5 requests of virtqueue 0, and "
                    "none for 10 s; it is reset nevertheless");
    vdpa_continue_guest(t);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "it had not finished its requests in virtqueue 0 when "
                    "it was stopped, so the guest's driver must reset it");
    for (i = 0; i < rx.count; i++) {
        guest_free(&t->alloc, rx.addr[i]);
        g_free(rx.frame[i]);
    }
    vdpa_nic_check_recovery(nic);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* What looks like requests, but cannot be */
static void test_disk_overwritten(void)
{
    VdpaTest *t;
    VdpaNic *nic = start_disk(&t, UNSUSPENDED, "");
    QVirtQueue *vq = vdpa_nic_tx(nic, 0);

    qtest_writew(t->qts, vq->avail + offsetof(struct vring_avail, idx),
                 1 + vq->size + 1);
    qtest_system_reset(t->qts);
    vdpa_soft_wait(t->soft, "status == 0");
    vdpa_nic_free(nic);
    nic = vdpa_start_nic(t, 0);
    vdpa_nic_check_data(nic, 3);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Bad input --- */

/**
 * struct BadInput - a QEMU that must not start
 * @before: shell commands
 * @soft: options of the device
 * @args: options of QEMU besides the machine
 * @error: regular expression that the only line of standard error matches,
 *         behind the name of the device
 */
typedef struct BadInput {
    const char *name;
    const char *before;
    const char *soft;
    const char *args;
    const char *error;
} BadInput;

#define BAD_NETDEV(options) "-netdev vhost-vdpa,id=net0," options " "
#define BAD_DEVICE VDPA_NETDEV_OPTION VDPA_NIC_OPTION

static const BadInput bad_inputs[] = {
    /* What cannot be opened */
    { "no-such-path", "", "", BAD_NETDEV("vhostdev=/dev/vhost-vdpa-9"),
      "'/dev/vhost-vdpa-9'.*No such file.*vdpa dev add" },
    { "permission", "", "--fail OPEN:1:EACCES", BAD_DEVICE,
      "'" VDPA_NODE "'.*Permission denied.*give QEMU's user read and write "
      "access" },
    { "busy", "", "--busy", BAD_DEVICE,
      "'" VDPA_NODE "'.*busy.*another process, or another -netdev, uses it" },
    { "used-twice", "", "", VDPA_NETDEV_OPTION "-netdev vhost-vdpa,id=net1,"
      "vhostdev=" VDPA_NODE,
      "'" VDPA_NODE "'.*busy.*another process, or another -netdev, uses it" },
    { "gone", "", "--fail OPEN:1:ENXIO", BAD_DEVICE,
      "'" VDPA_NODE "'.*No such device.*vdpa dev add" },
    { "directory", "", "", BAD_NETDEV("vhostdev=/dev"),
      "'/dev'.*Is a directory.*check the path" },
    { "no-fdset", "", "", BAD_NETDEV("vhostdev=/dev/fdset/7"),
      "'/dev/fdset/7'.*-add-fd" },

    /* What is something else */
    { "null", "", "", BAD_NETDEV("vhostdev=/dev/null"),
      "'/dev/null'.*is this a vhost-vdpa device\\?" },
    { "file", "", "", BAD_NETDEV("vhostdev=$errors"),
      "'[^']*/errors'.*is this a vhost-vdpa device\\?" },
    { "fd-of-null", "exec 5<>/dev/null;", "", BAD_NETDEV("vhostfd=5"),
      "'/dev/null'.*is this a vhost-vdpa device\\?" },
    { "block-device", "", "--device-id 2", BAD_DEVICE,
      "'" VDPA_NODE "'.*2 \\(block device\\).*vhost-vdpa-device-pci" },
    { "other-device", "", "--device-id 16", BAD_DEVICE,
      "'" VDPA_NODE "'.*type is 16,.*vhost-vdpa-device-pci" },

    /* What was not said right */
    { "both", "", "--fd 33", BAD_NETDEV("vhostdev=" VDPA_NODE ",vhostfd=33"),
      "exactly one of vhostdev=PATH and vhostfd=FD" },
    { "neither", "", "", "-netdev vhost-vdpa,id=net0 ",
      "exactly one of vhostdev=PATH and vhostfd=FD" },
    { "empty-path", "", "", BAD_NETDEV("vhostdev="),
      "''.*No such file.*" },
    { "fd-not-open", "", "", BAD_NETDEV("vhostfd=77"),
      "'vhostfd=77'.*open" },
    { "fd-negative", "", "", BAD_NETDEV("vhostfd=-1"),
      "'vhostfd=-1'.*give the number of an open file" },
    { "fd-name", "", "", BAD_NETDEV("vhostfd=card"),
      "'vhostfd=card'.*give the number of an open file, or the name of one "
      "passed with getfd" },
    { "fd-read-only", "exec 5</dev/null;", "", BAD_NETDEV("vhostfd=5"),
      "'vhostfd=5'.*reading and writing" },
    { "shadow", "", "", BAD_NETDEV("vhostdev=" VDPA_NODE ",x-svq=on"),
      "x-svq=on is not available.*leave the option out" },
    { "other-card", "", "", VDPA_NETDEV_OPTION "-device e1000,netdev=net0",
      "'" VDPA_NODE "'.*virtio-net.*e1000" },

    /* Queue pairs */
    { "queues-0", "", "--queues 2", BAD_NETDEV("vhostdev=" VDPA_NODE
                                               ",queues=0"),
      "'" VDPA_NODE "'.*queues=0.*use 1 to 2" },
    { "queues-negative", "", "--queues 2",
      BAD_NETDEV("vhostdev=" VDPA_NODE ",queues=-1"),
      "'" VDPA_NODE "'.*queues=-1.*use 1 to 2" },
    { "queues-too-many", "", "--queues 2",
      BAD_NETDEV("vhostdev=" VDPA_NODE ",queues=3"),
      "'" VDPA_NODE "'.*queues=3.*2 queue pairs.*max_vqp" },
    { "queues-too-many-of-1", "", "",
      BAD_NETDEV("vhostdev=" VDPA_NODE ",queues=2"),
      "'" VDPA_NODE "'.*queues=2.*1 queue pair;.*max_vqp" },
    { "queues-huge", "", "--queues 2",
      BAD_NETDEV("vhostdev=" VDPA_NODE ",queues=4294967298"),
      "'" VDPA_NODE "'.*queues=4294967298.*2 queue pairs" },

    /* Devices that cannot be right */
    { "no-version-1", "", "--no-feature VERSION_1", BAD_DEVICE,
      "'" VDPA_NODE "'.*VIRTIO_F_VERSION_1.*device_features" },
    { "no-access-platform", "", "--no-feature ACCESS_PLATFORM", BAD_DEVICE,
      "'" VDPA_NODE "'.*VIRTIO_F_(ACCESS|IOMMU)_PLATFORM.*device_features" },
    { "no-msg-v2", "", "--backend-features 1fc", BAD_DEVICE,
      "'" VDPA_NODE "'.*Linux 5.9" },
    { "no-queues", "", "--vqs 0", BAD_DEVICE,
      "'" VDPA_NODE "'.*0 virtqueues.*driver or firmware is faulty" },
    { "few-queues", "", "--vqs 2", BAD_DEVICE,
      "'" VDPA_NODE "'.*2 virtqueues.*need 3.*driver or firmware is faulty" },
    { "pairs-0", "", "--queues 2 --max-pairs 0", BAD_DEVICE,
      "'" VDPA_NODE "'.*0 queue pairs.*driver or firmware is faulty" },
    { "pairs-absurd", "", "--queues 2 --max-pairs 32769", BAD_DEVICE,
      "'" VDPA_NODE "'.*32769 queue pairs.*driver or firmware is faulty" },
    { "pairs-too-many", "", "--queues 2 --max-pairs 512", BAD_DEVICE,
      "'" VDPA_NODE "'.*512 queue pairs.*511 at most.*max_vqp" },
    { "pairs-without-queues", "", "--queues 2 --max-pairs 3", BAD_DEVICE,
      "'" VDPA_NODE "'.*5 virtqueues.*3 queue pairs.*driver or firmware is "
      "faulty" },
    { "ring-size-0", "", "--vq-num 0", BAD_DEVICE,
      "'" VDPA_NODE "'.*ring size of 0,.*driver or firmware is faulty" },
    { "ring-size-1", "", "--vq-num 1", BAD_DEVICE,
      "'" VDPA_NODE "'.*ring size of 1,.*driver or firmware is faulty" },
    { "ring-size-odd", "", "--vq-num 257", BAD_DEVICE,
      "'" VDPA_NODE "'.*ring size of 257,.*driver or firmware is faulty" },
    { "ring-size-max", "", "--vq-num 65535", BAD_DEVICE,
      "'" VDPA_NODE "'.*ring size of 65535,.*driver or firmware is faulty" },
    { "iova-inverted", "", "--iova-range ffffffff-1000", BAD_DEVICE,
      "'" VDPA_NODE "'.*0xffffffff to 0x1000.*driver or firmware is faulty" },
    { "iova-tiny", "", "--iova-range 1000-1fff", BAD_DEVICE,
      "'" VDPA_NODE "'.*0x1000 ?(to|-) ?0x1fff" },
    { "iova-less-than-a-page", "", "--iova-range 1000-1ffe", BAD_DEVICE,
      "'" VDPA_NODE "'.*0x1000 to 0x1ffe.*driver or firmware is faulty" },
    { "config-short", "", "--config-size 8", BAD_DEVICE,
      "'" VDPA_NODE "'.*8 bytes.*need 12.*driver or firmware is faulty" },
    { "config-short-mq", "", "--config-size 8 --queues 2 --no-feature MTU",
      BAD_DEVICE,
      "'" VDPA_NODE "'.*8 bytes.*need 10.*driver or firmware is faulty" },
    { "config-none", "", "--config-size 0", BAD_DEVICE,
      "'" VDPA_NODE "'.*0 bytes.*driver or firmware is faulty" },

    /* Memory */
    { "iova-too-small", "", "--map any --iova-range 0-3ffffff", BAD_DEVICE,
      "'" VDPA_NODE "'.*0x0 ?(to|-) ?0x3ffffff.*" },
    { "iova-too-high", "", "--map any --iova-range 100000-ffffffffffff",
      BAD_DEVICE, "'" VDPA_NODE "'.*0x100000 ?(to|-) ?0xffffffffffff" },
    { "memlock", "ulimit -S -l 64;", "--map pa", BAD_DEVICE,
      "'" VDPA_NODE "'.*RLIMIT_MEMLOCK is 65536 bytes.*1[0-9]{8} bytes.*"
      "ulimit -l" },
    { "memory", "", "--fail IOTLB_UPDATE:2:EFAULT", BAD_DEVICE,
      "'" VDPA_NODE "'.*0xfffc0000-0xffffffff.*(kernel log|raise the limit)" },

    /* The generic device */
    { "generic-no-such-path", "", "",
      "-device vhost-vdpa-device-pci,vhostdev=/dev/vhost-vdpa-9",
      "/dev/vhost-vdpa-9.*No such file" },
};

/* The one line that a QEMU left, which must not have started */
static char *check_refused(VdpaSoft *soft, int status)
{
    g_auto(GStrv) lines = vdpa_soft_error_lines(soft);

    if (status != 1 || g_strv_length(lines) != 1) {
        g_autofree char *text = g_strjoinv("\n", lines);

        vdpa_soft_fail("QEMU ended with status %d and these errors:\n%s",
                       status, text);
    }
    return g_strdup(lines[0]);
}

static void test_bad_input(const void *opaque)
{
    const BadInput *bad = opaque;
    VdpaSoft *soft = vdpa_soft_new();
    g_auto(GStrv) parts = g_strsplit(bad->args, "$errors", 2);
    g_autofree char *some_args = g_strjoinv(soft->errors, parts);
    g_autofree char *args = g_strconcat(VDPA_RAM_OPTIONS, some_args, NULL);
    g_autofree char *pattern = g_strconcat("vhost-vdpa.*", bad->error, NULL);
    g_autoptr(GPtrArray) calls = NULL;
    g_autofree char *line = NULL;
    int opens, status;

    g_assert_true(g_file_set_contents(soft->errors, "", 0, NULL));
    status = vdpa_soft_run(soft, bad->before, bad->soft, args);
    line = check_refused(soft, status);
    if (!g_regex_match_simple(pattern, line, 0, 0)) {
        vdpa_soft_fail("the error is not like '%s': %s", pattern, line);
    }
    /* Whatever was opened was closed */
    calls = vdpa_soft_file_calls(soft);
    opens = vdpa_count_calls(calls, "OPEN") -
        vdpa_count_calls(calls, "OPEN flags=2 ->");
    g_assert_cmpint(vdpa_count_calls(calls, "CLOSE"), >=, opens);
    vdpa_soft_free(soft);
}

/* Whoever calls the backend for this device adds an error of its own */
static void test_bad_generic(void)
{
    VdpaSoft *soft = vdpa_soft_new();
    g_auto(GStrv) lines = NULL;

    g_assert_cmpint(vdpa_soft_run(soft, "", "--no-feature VERSION_1",
                                  VDPA_RAM_OPTIONS
                                  "-device vhost-vdpa-device-pci,vhostdev="
                                  VDPA_NODE), ==, 1);
    lines = vdpa_soft_error_lines(soft);
    g_assert_cmpuint(g_strv_length(lines), ==, 2);
    g_assert_true(g_regex_match_simple("vhost-vdpa device '.*'.*"
                                       "VIRTIO_F_VERSION_1.*device_features",
                                       lines[0], 0, 0));
    vdpa_soft_free(soft);
}

/* --- Failures of every call --- */

/*
 * What QEMU can do without: the MAC address in "info network", and the
 * device's knowledge of the guest's
 */
static bool is_optional_at_start(const VdpaCall *call)
{
    return !strcmp(call->name, "GET_CONFIG") ||
           !strcmp(call->name, "SET_CONFIG");
}

/* QEMU's start: it ends with one error, unless it can go on */
static void test_fault_qemu_start(const void *opaque)
{
    const char *soft_options = opaque;
    VdpaSoft *soft = vdpa_soft_new();
    g_autoptr(GPtrArray) good = NULL;
    g_autoptr(GArray) list = NULL;
    unsigned i, refused = 0;

    g_assert_cmpint(vdpa_soft_run(soft, "", soft_options,
                                  VDPA_RAM_OPTIONS BAD_DEVICE), ==, 0);
    good = vdpa_soft_file_messages(soft);
    vdpa_soft_free(soft);
    list = vdpa_fault_calls(good);
    for (i = 0; i < list->len; i++) {
        const VdpaCall *call = &g_array_index(list, VdpaCall, i);
        g_autofree char *options =
            g_strdup_printf("%s --fail %s:%u:%s", soft_options, call->name,
                            call->occurrence, vdpa_fault_error(call));
        g_autofree char *line = NULL;
        g_autoptr(GPtrArray) calls = NULL;
        int status;

        soft = vdpa_soft_new();
        status = vdpa_soft_run(soft, "", options, VDPA_RAM_OPTIONS BAD_DEVICE);
        calls = vdpa_soft_file_messages(soft);
        vdpa_fault_assert_injected(calls, call);
        if (!is_optional_at_start(call) || status) {
            line = check_refused(soft, status);
            g_assert_nonnull(strstr(line, "vhost-vdpa device '" VDPA_NODE "'"));
            refused++;
        } else {
            g_auto(GStrv) lines = vdpa_soft_error_lines(soft);

            g_assert_cmpuint(g_strv_length(lines), <=, 1);
        }
        if (strcmp(call->name, "OPEN")) {
            g_assert_cmpuint(vdpa_count_calls(calls, "CLOSE"), ==, 1);
        }
        vdpa_soft_free(soft);
    }
    g_test_message("%u failures injected, %u of them refused", list->len,
                   refused);
    g_assert_cmpuint(refused, >=, 15);
}

/**
 * struct Phase - a part of a guest's life, for its calls to fail in
 * @soft: options of the device
 * @qemu: options of QEMU; NULL for a card of one queue pair
 * @wanted: features that the guest's driver uses
 * @loop: of a FaultGuest
 */
typedef struct Phase {
    const char *name;
    const char *soft;
    const char *qemu;
    uint64_t wanted;
    VdpaFaultLoop loop;
} Phase;

/**
 * struct FaultGuest - a guest that lives through a phase again and again
 * @nic: its driver, or NULL while there is no card
 * @error: how a QMP command failed, or NULL
 * @rounds: how often it was looked at
 */
typedef struct FaultGuest {
    VdpaTest *t;
    const Phase *phase;
    VdpaNic *nic;
    char *error;
    unsigned rounds;
} FaultGuest;

static void prepare_start(void *opaque)
{
    FaultGuest *g = opaque;

    vdpa_nic_prepare(g->nic, g->phase->wanted);
}

static void run_start(void *opaque)
{
    FaultGuest *g = opaque;

    vdpa_nic_set_driver_ok(g->nic);
}

/* The driver is loaded, and all that it could want works */
static void start_guest(FaultGuest *g)
{
    unsigned i, pairs;

    vdpa_nic_start(g->nic, g->phase->wanted);
    pairs = vdpa_nic_pairs(g->nic);
    if (pairs > 1) {
        g_assert_cmpuint(set_pairs(g->nic, pairs), ==, VIRTIO_NET_OK);
    }
    for (i = 0; i < pairs; i++) {
        vdpa_nic_check_tx(g->nic, i, 60, i);
        vdpa_nic_check_rx(g->nic, i, 300, i + 1);
    }
}

static void prepare_running(void *opaque)
{
    start_guest(opaque);
}

static void run_stop_and_continue(void *opaque)
{
    FaultGuest *g = opaque;

    vdpa_stop_guest(g->t);
    vdpa_continue_guest(g->t);
}

static void run_reset(void *opaque)
{
    FaultGuest *g = opaque;

    qvirtio_reset(g->nic->vdev);
}

static void run_system_reset(void *opaque)
{
    FaultGuest *g = opaque;

    qtest_system_reset(g->t->qts);
    /* The BARs are gone, so this is a new card to the driver */
    vdpa_nic_free_vqs(g->nic);
    g->nic->pci->pdev->msix_enabled = false;
    qvirtio_pci_device_enable(g->nic->pci);
    qpci_msix_enable(g->nic->pci->pdev);
}

/* No less than is wanted, and no more */
static void assert_all_mapped(VdpaTest *t)
{
    QObject *memory = get_status(t, 0, "memory");

    g_assert_cmpuint(qdict_get_int(qobject_to(QDict, memory),
                                   "wanted-bytes"), ==,
                     vdpa_soft_number(t->soft, "mapped-bytes"));
    qobject_unref(memory);
}

/* After a failure the guest is told, or its device works; in the end it does */
static bool unfail_guest(FaultGuest *g, const VdpaCall *call)
{
    bool told = vdpa_fault_unfail(g->nic, call);

    if (!told && vdpa_nic_status(g->nic) & VIRTIO_CONFIG_S_DRIVER_OK) {
        assert_all_mapped(g->t);
        vdpa_nic_check_data(g->nic, 1);
    }
    start_guest(g);
    return told;
}

static bool check_guest(void *opaque, const VdpaCall *call)
{
    FaultGuest *g = opaque;
    bool told = unfail_guest(g, call);

    /* The device holds what QEMU believes it to hold */
    vdpa_assert_memory_mapped(g->t);
    return told;
}

/* --- The same with memory that comes and goes --- */

static void run_add_dimm(void *opaque)
{
    FaultGuest *g = opaque;

    vdpa_add_dimm(g->t, 64);
}

static void run_remove_dimm(void *opaque)
{
    FaultGuest *g = opaque;

    vdpa_remove_dimm(g->t);
}

/* What is broken already may fail again, but that is nothing new */
static void run_replace_dimm(void *opaque)
{
    run_add_dimm(opaque);
    run_remove_dimm(opaque);
    run_add_dimm(opaque);
}

static void prepare_dimm(void *opaque)
{
    run_add_dimm(opaque);
    start_guest(opaque);
}

static void prepare_dimm_rest(void *opaque)
{
    FaultGuest *g = opaque;

    prepare_dimm(g);
    qvirtio_reset(g->nic->vdev);
}

static void run_add_dimm_and_start(void *opaque)
{
    run_add_dimm(opaque);
    run_start(opaque);
}

/* Whoever does not learn of it from the guest can ask */
static bool unfail_dimm(FaultGuest *g, const VdpaCall *call)
{
    if (call && !(vdpa_nic_status(g->nic) & VIRTIO_CONFIG_S_NEEDS_RESET)) {
        g_autofree char *pattern = vdpa_fault_pattern(call);
        g_autofree char *error = status_text(g->t, 0, "last-error");

        g_assert_true(g_regex_match_simple(pattern, error, 0, 0));
    }
    return unfail_guest(g, call);
}

static bool check_added_dimm(void *opaque, const VdpaCall *call)
{
    FaultGuest *g = opaque;
    bool told = unfail_dimm(g, call);

    /* "info mtree" would keep the DIMM for good */
    check_figures(g->t, 0);
    vdpa_remove_dimm(g->t);
    vdpa_assert_memory_mapped(g->t);
    return told;
}

static bool check_removed_dimm(void *opaque, const VdpaCall *call)
{
    FaultGuest *g = opaque;
    bool told = unfail_dimm(g, call);

    vdpa_assert_memory_mapped(g->t);
    return told;
}

/* --- The same with cards that come and go --- */

/* Returns how it failed, or NULL */
static char *qmp_error(QDict *reply)
{
    QDict *error = qdict_get_qdict(reply, "error");
    char *text = error ? g_strdup(qdict_get_str(error, "desc")) : NULL;

    qobject_unref(reply);
    return text;
}

static char *try_add_netdev(VdpaTest *t)
{
    return qmp_error(qtest_qmp(t->qts, "{ 'execute': 'netdev_add',"
                               "  'arguments': { 'type': 'vhost-vdpa',"
                               "    'id': 'net0', 'vhostdev': %s } }",
                               VDPA_NODE));
}

static char *try_add_nic(VdpaTest *t)
{
    return qmp_error(qtest_qmp(t->qts, "{ 'execute': 'device_add',"
                               "  'arguments': {"
                               "    'driver': 'virtio-net-pci', 'id': 'nic0',"
                               "    'netdev': 'net0', 'addr': '0x4',"
                               "    'romfile': '', 'mac': %s } }",
                               VDPA_GUEST_MAC));
}

static char *try_add_generic(VdpaTest *t)
{
    return qmp_error(qtest_qmp(t->qts, "{ 'execute': 'device_add',"
                               "  'arguments': {"
                               "    'driver': 'vhost-vdpa-device-pci',"
                               "    'id': 'nic0', 'addr': '0x4',"
                               "    'vhostdev': %s } }", VDPA_NODE));
}

static void new_nic(FaultGuest *g)
{
    g->nic = vdpa_nic_new(g->t, VDPA_NIC_SLOT);
    start_guest(g);
}

static void unplug_nic(FaultGuest *g)
{
    vdpa_unplug_nic(g->t);
    g_clear_pointer(&g->nic, forget_nic);
}

/* Nothing of the device is left, nor of the guest's memory with it */
static void assert_gone(FaultGuest *g)
{
    g_autofree char *text = qtest_hmp(g->t->qts, "info network");

    vdpa_soft_wait(g->t->soft, "open == 0");
    g_assert_cmpuint(vdpa_soft_number(g->t->soft, "mapped-bytes"), ==, 0);
    g_assert_false(has_status(g->t, 0));
    g_assert_false(has_child(g->t, "/machine/peripheral", "nic0"));
    g_assert_null(strstr(text, "net0"));
}

/* The driver uses the card to the end, after which all is as before */
static void remove_all(FaultGuest *g, bool generic)
{
    unplug_nic(g);
    if (!generic) {
        remove_netdev(g->t);
    }
    assert_gone(g);
    g_clear_pointer(&g->error, g_free);
    /* It would stay as long as something refers to it */
    vdpa_remove_dimm(g->t);
    g->rounds++;
}

static void prepare_netdev_add(void *opaque)
{
    run_add_dimm(opaque);
}

static void run_netdev_add(void *opaque)
{
    FaultGuest *g = opaque;

    g->error = try_add_netdev(g->t);
}

static void prepare_device_add(void *opaque)
{
    FaultGuest *g = opaque;

    run_add_dimm(g);
    add_netdev(g->t);
}

static void run_device_add(void *opaque)
{
    FaultGuest *g = opaque;

    g->error = try_add_nic(g->t);
}

static void run_generic_add(void *opaque)
{
    FaultGuest *g = opaque;

    g->error = try_add_generic(g->t);
}

/* That of a card's first driver is the one that maps what is small */
static void prepare_first_start(void *opaque)
{
    FaultGuest *g = opaque;

    prepare_device_add(g);
    add_nic(g->t);
    g->nic = vdpa_nic_new(g->t, VDPA_NIC_SLOT);
    prepare_start(g);
}

static void prepare_unplug(void *opaque)
{
    FaultGuest *g = opaque;

    prepare_device_add(g);
    add_nic(g->t);
    new_nic(g);
}

static void run_device_del(void *opaque)
{
    unplug_nic(opaque);
}

static void run_netdev_del(void *opaque)
{
    FaultGuest *g = opaque;

    remove_netdev(g->t);
}

/* A command failed and says why, or it succeeded, with a warning */
static void check_command(FaultGuest *g, const VdpaCall *call)
{
    g_autofree char *pattern = call ? vdpa_fault_pattern(call) : NULL;

    vdpa_soft_do(g->t->soft, "unfail");
    if (g->error) {
        g_assert_nonnull(call);
        if (!strcmp(call->name, "OPEN")) {
            g_assert_nonnull(strstr(g->error, "Could not open '" VDPA_NODE
                                    "': Input/output error"));
        } else if (!g_regex_match_simple(pattern, g->error, 0, 0)) {
            vdpa_soft_fail("the error is not like '%s': %s", pattern,
                           g->error);
        }
    } else if (call && vdpa_has_error(g->t)) {
        vdpa_take_error(g->t, pattern);
    }
    vdpa_assert_no_error(g->t);
}

static bool check_netdev_add(void *opaque, const VdpaCall *call)
{
    FaultGuest *g = opaque;

    check_command(g, call);
    if (g->error) {
        assert_gone(g);
        add_netdev(g->t);
    } else if (call) {
        g_autofree char *text = qtest_hmp(g->t->qts, "info network");

        /* The one thing that is of no importance to anybody else */
        g_assert_cmpstr(call->name, ==, "GET_CONFIG");
        g_assert_nonnull(strstr(text, VDPA_NODE));
        g_assert_null(strstr(text, ",mac="));
    }
    add_nic(g->t);
    new_nic(g);
    remove_all(g, false);
    return false;
}

static bool check_device_add(void *opaque, const VdpaCall *call)
{
    FaultGuest *g = opaque;

    check_command(g, call);
    if (g->error) {
        g_assert_false(has_child(g->t, "/machine/peripheral", "nic0"));
        if (g->rounds % 2) {
            /* A user who gives up */
            remove_netdev(g->t);
            assert_gone(g);
            add_netdev(g->t);
        }
        add_nic(g->t);
    }
    new_nic(g);
    remove_all(g, false);
    return false;
}

static bool check_first_start(void *opaque, const VdpaCall *call)
{
    FaultGuest *g = opaque;
    bool told = unfail_guest(g, call);

    remove_all(g, false);
    return told;
}

static bool check_device_del(void *opaque, const VdpaCall *call)
{
    FaultGuest *g = opaque;

    check_command(g, call);
    add_nic(g->t);
    new_nic(g);
    remove_all(g, false);
    return false;
}

static bool check_netdev_del(void *opaque, const VdpaCall *call)
{
    FaultGuest *g = opaque;

    check_command(g, call);
    unplug_nic(g);
    assert_gone(g);
    add_netdev(g->t);
    add_nic(g->t);
    new_nic(g);
    remove_all(g, false);
    return false;
}

/*
 * What vdpa-dev.c asks for by itself fails without the device's name, and what
 * fails in the backend is on standard error.
 */
static bool check_generic_add(void *opaque, const VdpaCall *call)
{
    FaultGuest *g = opaque;

    vdpa_soft_do(g->t->soft, "unfail");
    if (g->error) {
        g_assert_nonnull(call);
        if (vdpa_has_error(g->t)) {
            g_autofree char *pattern = vdpa_fault_pattern(call);

            vdpa_take_error(g->t, pattern);
        } else {
            g_assert_nonnull(strstr(g->error, "Input/output error"));
            g_assert_true(strstr(g->error, "vhost-vdpa-device: ") ||
                          strstr(g->error, VDPA_NODE));
        }
        assert_gone(g);
        g_clear_pointer(&g->error, g_free);
        g->error = try_add_generic(g->t);
    } else {
        g_assert_null(call);
    }
    g_assert_cmpstr(g->error, ==, NULL);
    new_nic(g);
    remove_all(g, true);
    return false;
}

#define NO_DEVICE ""
#define TWO_PAIRS VDPA_NETDEV_OPTION VDPA_NIC_OPTION ",mq=on,vectors=6"
#define GENERIC_DEVICE                                                 \
    "-device vhost-vdpa-device-pci,id=nic0,addr=4,vhostdev=" VDPA_NODE
#define MQ BIT_ULL(VIRTIO_NET_F_MQ)

static const Phase phases[] = {
    { "start", "--map any", NULL, 0,
      { prepare_start, run_start, check_guest } },
    { "start-no-persist", "--map any --persist off --doorbell on", NULL, 0,
      { prepare_start, run_start, check_guest } },
    { "stop-continue", "--map any", NULL, 0,
      { prepare_running, run_stop_and_continue, check_guest } },
    { "stop-continue-no-resume", "--map any --resume off --persist off", NULL,
      0, { prepare_running, run_stop_and_continue, check_guest } },
    { "stop-continue-no-suspend", "--map any --resume off --suspend off",
      NULL, 0, { prepare_running, run_stop_and_continue, check_guest } },
    { "reset", "--map any", NULL, 0,
      { prepare_running, run_reset, check_guest } },
    { "reset-no-persist", "--map any --persist off", NULL, 0,
      { prepare_running, run_reset, check_guest } },
    { "system-reset", "--map any", NULL, 0,
      { prepare_running, run_system_reset, check_guest } },

    { "queues-start", "--map any --queues 2", TWO_PAIRS, MQ,
      { prepare_start, run_start, check_guest,
        .once = true } },
    { "queues-stop-continue", "--map any --queues 2", TWO_PAIRS, MQ,
      { prepare_running, run_stop_and_continue, check_guest,
        .once = true } },
    { "queues-reset", "--map any --queues 2 --persist off", TWO_PAIRS, MQ,
      { prepare_running, run_reset, check_guest,
        .once = true } },

    { "generic-start", "--map any", GENERIC_DEVICE, 0,
      { prepare_start, run_start, check_guest } },
    { "generic-device-add", "--map any", NO_DEVICE, 0,
      { prepare_netdev_add, run_generic_add, check_generic_add,
        .once = true } },

    { "netdev-add", "--map any", NO_DEVICE, 0,
      { prepare_netdev_add, run_netdev_add, check_netdev_add,
        .once = true } },
    { "device-add", "--map any", NO_DEVICE, 0,
      { prepare_device_add, run_device_add, check_device_add } },
    { "first-start", "--map any", NO_DEVICE, 0,
      { prepare_first_start, run_start, check_first_start, "IOTLB_" } },
    { "device-del", "--map any --persist off", NO_DEVICE, 0,
      { prepare_unplug, run_device_del, check_device_del } },
    { "netdev-del", "--map any", NO_DEVICE, 0,
      { prepare_unplug, run_netdev_del, check_netdev_del } },

    { "dimm-add", "--map any", NULL, 0,
      { prepare_running, run_add_dimm, check_added_dimm } },
    { "dimm-remove", "--map any", NULL, 0,
      { prepare_dimm, run_remove_dimm, check_removed_dimm } },
    { "dimm-replace", "--map any", NULL, 0,
      { prepare_running, run_replace_dimm, check_added_dimm } },
    { "dimm-add-rest", "--map any", NULL, 0,
      { prepare_start, run_add_dimm_and_start, check_added_dimm, "IOTLB_" } },
    { "dimm-remove-rest", "--map any", NULL, 0,
      { prepare_dimm_rest, run_remove_dimm, check_removed_dimm } },
    { "dimm-add-no-batch", "--map any --backend-features 1fa", NULL, 0,
      { prepare_running, run_add_dimm, check_added_dimm } },
};

static void test_fault_phase(const void *opaque)
{
    const Phase *phase = opaque;
    FaultGuest g = {
        .t = vdpa_start_qemu(phase->soft, phase->qemu ?:
                             VDPA_NETDEV_OPTION VDPA_NIC_OPTION),
        .phase = phase,
    };

    if (g_strcmp0(phase->qemu, NO_DEVICE)) {
        g.nic = vdpa_nic_new(g.t, VDPA_NIC_SLOT);
    }
    vdpa_fault_loop(g.t, &phase->loop, &g);
    g_clear_pointer(&g.nic, vdpa_nic_free);
    g_free(g.error);
    vdpa_end(g.t);
}
static void add_tests(void)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(kinds); i++) {
        g_autofree char *path = g_strdup_printf("vhost-vdpa/sequence/%s",
                                                kinds[i].name);

        qtest_add_data_func(path, &kinds[i], test_sequence);
    }
    qtest_add_func("vhost-vdpa/sequence/reload", test_reload);
    qtest_add_func("vhost-vdpa/sequence/idle", test_idle_reset);

    qtest_add_data_func("vhost-vdpa/stop/resume", "", test_stop_pending);
    qtest_add_data_func("vhost-vdpa/stop/no-resume", "--resume off",
                        test_stop_pending);
    qtest_add_data_func("vhost-vdpa/stop/no-suspend",
                        "--suspend off --resume off", test_stop_pending);
    qtest_add_data_func("vhost-vdpa/stop/no-base",
                        "--fail GET_VRING_BASE:1:EOPNOTSUPP:always",
                        test_stop_pending);
    qtest_add_data_func("vhost-vdpa/stop/like-sim", "--like sim",
                        test_stop_pending);
    qtest_add_data_func("vhost-vdpa/stop/like-vduse", "--like vduse",
                        test_stop_pending);
    qtest_add_data_func("vhost-vdpa/stop/like-mlx5", "--like mlx5 --map any",
                        test_stop_pending);
    qtest_add_func("vhost-vdpa/stop/loses-control", test_stop_loses_control);
    qtest_add_func("vhost-vdpa/stop/like-vp-vdpa", test_stop_only_from_start);
    qtest_add_func("vhost-vdpa/stop/set-link", test_set_link);
    qtest_add_func("vhost-vdpa/stop/device-needs-reset",
                   test_device_needs_reset);

    qtest_add_func("vhost-vdpa/data/both-ways", test_data_both_ways);
    qtest_add_func("vhost-vdpa/data/two-devices", test_data_two_devices);
    qtest_add_func("vhost-vdpa/data/ring-size", test_data_ring_size);
    qtest_add_func("vhost-vdpa/data/ring-size-too-large",
                   test_data_ring_size_too_large);
    qtest_add_func("vhost-vdpa/data/loopback", test_data_loopback);
    qtest_add_func("vhost-vdpa/data/indirect", test_data_indirect);
    qtest_add_func("vhost-vdpa/data/event-index", test_data_event_index);
    qtest_add_func("vhost-vdpa/data/mergeable", test_data_mergeable);
    qtest_add_func("vhost-vdpa/data/intx", test_data_intx);

    qtest_add_func("vhost-vdpa/queues/some", test_multiqueue);
    qtest_add_func("vhost-vdpa/queues/all", test_multiqueue_all);
    qtest_add_func("vhost-vdpa/queues/control", test_control);
    qtest_add_func("vhost-vdpa/queues/control-pending", test_control_pending);

    qtest_add_func("vhost-vdpa/config/interrupt", test_config_interrupt);
    qtest_add_func("vhost-vdpa/config/interrupt-forgotten",
                   test_config_interrupt_forgotten);
    qtest_add_func("vhost-vdpa/config/mac", test_config_mac);
    qtest_add_func("vhost-vdpa/config/mac-fixed", test_config_mac_fixed);
    qtest_add_func("vhost-vdpa/config/mac-none", test_config_mac_none);
    qtest_add_func("vhost-vdpa/config/bounds", test_config_bounds);
    qtest_add_func("vhost-vdpa/config/mtu", test_config_mtu);

    qtest_add_func("vhost-vdpa/features/offered", test_features_offered);
    qtest_add_func("vhost-vdpa/features/no-control",
                   test_features_no_control);
    qtest_add_func("vhost-vdpa/features/refused", test_features_refused);
    qtest_add_func("vhost-vdpa/start/status-raised", test_status_raised);
    qtest_add_func("vhost-vdpa/features/driver-ok-refused",
                   test_driver_ok_refused);
    qtest_add_func("vhost-vdpa/features/legacy", test_legacy_driver);
    qtest_add_func("vhost-vdpa/migration/blocked", test_migration_blocked);

    qtest_add_func("vhost-vdpa/doorbell/used", test_doorbell);
    qtest_add_func("vhost-vdpa/doorbell/unused", test_doorbell_unused);

    qtest_add_func("vhost-vdpa/hotplug/many", test_hotplug_many);
    qtest_add_func("vhost-vdpa/hotplug/netdev-first",
                   test_hotplug_netdev_first);

    qtest_add_func("vhost-vdpa/fd/number", test_fd_number);
    qtest_add_func("vhost-vdpa/fd/set", test_fdset);
    qtest_add_func("vhost-vdpa/fd/set-queues", test_fdset_queues);
    qtest_add_func("vhost-vdpa/fd/sandbox", test_sandbox);
    qtest_add_func("vhost-vdpa/fd/getfd", test_fd_getfd);
    qtest_add_func("vhost-vdpa/info-network", test_info_network);
    qtest_add_data_func("vhost-vdpa/figures/persist", "--map any",
                        test_figures);
    qtest_add_data_func("vhost-vdpa/figures/no-persist",
                        "--map any --persist off", test_figures);
    qtest_add_func("vhost-vdpa/figures/objects", test_status_objects);
#ifdef CONFIG_TRACE_LOG
    qtest_add_func("vhost-vdpa/figures/trace", test_trace_commit);
#endif
    qtest_add_func("vhost-vdpa/generic", test_generic);
#ifdef CONFIG_TRACE_LOG
    for (i = 0; i < ARRAY_SIZE(disk_finishes); i++) {
        g_autofree char *path = g_strdup_printf("vhost-vdpa/disk/finishes/%s",
                                                disk_finishes[i].path);

        qtest_add_data_func(path, &disk_finishes[i], test_disk_finishes);
    }
#endif
    qtest_add_func("vhost-vdpa/disk/notifies", test_disk_notifies);
    qtest_add_func("vhost-vdpa/disk/stuck", test_disk_stuck);
    qtest_add_func("vhost-vdpa/disk/overwritten", test_disk_overwritten);

    for (i = 0; i < ARRAY_SIZE(bad_inputs); i++) {
        g_autofree char *path = g_strdup_printf("vhost-vdpa/bad-input/%s",
                                                bad_inputs[i].name);

        if (!strstr(bad_inputs[i].args, "e1000") ||
            qtest_has_device("e1000")) {
            qtest_add_data_func(path, &bad_inputs[i], test_bad_input);
        }
    }
    qtest_add_func("vhost-vdpa/bad-input/generic", test_bad_generic);
    qtest_add_data_func("vhost-vdpa/fault/qemu-start", "",
                        test_fault_qemu_start);
    qtest_add_data_func("vhost-vdpa/fault/qemu-start-queues", "--queues 2",
                        test_fault_qemu_start);
    for (i = 0; i < ARRAY_SIZE(phases); i++) {
        g_autofree char *path = g_strdup_printf("vhost-vdpa/fault/%s",
                                                phases[i].name);

        qtest_add_data_func(path, &phases[i], test_fault_phase);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_tests();
    return g_test_run();
}
