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
#include <sys/resource.h>
#include "libqtest.h"
#include "libvdpa-soft.h"
#include "qemu/bswap.h"
#include "qemu/iov.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "qobject/qstring.h"
#include "libqos/libqos-malloc.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "libqos/virtio.h"
#include "libqos/virtio-pci.h"
#include "standard-headers/linux/vhost_types.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_ids.h"
#include "standard-headers/linux/virtio_net.h"
#include "standard-headers/linux/virtio_pci.h"

#define NODE "/dev/vhost-vdpa-0"
#define GUEST_MAC "52:54:00:ab:cd:ef"
#define DEVICE_MAC "52:54:00:11:22:33"

#define RAM_OPTIONS                                               \
    "-object memory-backend-memfd,id=ram,size=128M,share=on "     \
    "-M pc,memory-backend=ram -m 128M,slots=2,maxmem=1G -nodefaults "
#define NETDEV_OPTION "-netdev vhost-vdpa,id=net0,vhostdev=" NODE " "
#define NIC_SLOT 4
#define NIC_OPTION                                                \
    "-device virtio-net-pci,id=nic0,netdev=net0,addr=4,romfile=,mac=" \
    GUEST_MAC

#define DEADLINE_US (VDPA_SOFT_DEADLINE_MS * 1000ll)

/* Virtqueues of the largest device of these tests: 4 pairs and control */
#define MAX_VQS 9
/* Rings that take long to set up make tests that take long */
#define RING_SIZE 64

#define BIT64(n) (1ull << (n))
/* What libqos has no driver for, or what changes how rings are used */
#define FEATURES_ON_DEMAND                                              \
    (BIT64(VIRTIO_RING_F_INDIRECT_DESC) | BIT64(VIRTIO_RING_F_EVENT_IDX) | \
     BIT64(VIRTIO_F_RING_PACKED) | BIT64(VIRTIO_NET_F_MRG_RXBUF) |      \
     BIT64(VIRTIO_NET_F_MQ) | QVIRTIO_F_BAD_FEATURE)

#define HEADER_SIZE sizeof(struct virtio_net_hdr_mrg_rxbuf)

/**
 * struct Test - a QEMU with a software vDPA device
 * @soft: the device
 * @bus: the guest's PCI bus
 * @alloc: the guest's memory
 * @errors: lines of QEMU's standard error that were expected
 * @faults: bad memory accesses of the device that the test is about
 */
typedef struct Test {
    VdpaSoft *soft;
    QTestState *qts;
    QPCIBus *bus;
    QGuestAllocator alloc;
    unsigned errors;
    uint64_t faults;
} Test;

/**
 * struct Nic - the guest's driver of the device
 * @features: negotiated
 * @ring_size: entries for each ring, or 0 to take what is offered
 */
typedef struct Nic {
    Test *t;
    QVirtioPCIDevice *pci;
    QVirtioDevice *vdev;
    uint64_t features;
    unsigned ring_size;
    unsigned num_vqs;
    QVirtQueue *vq[MAX_VQS];
} Nic;

/* --- Starting and ending QEMU --- */

static void attach_machine(Test *t)
{
    t->bus = qpci_new_pc(t->qts, NULL);
    pc_alloc_init(&t->alloc, t->qts, ALLOC_NO_FLAGS);
}

static void detach_machine(Test *t)
{
    alloc_destroy(&t->alloc);
    qpci_free_pc(t->bus);
}

/**
 * start_qemu() - start QEMU with a software device
 * @soft: options of the launcher
 * @qemu: options of QEMU, behind those of RAM_OPTIONS
 */
static Test *start_qemu(const char *soft, const char *qemu)
{
    Test *t = g_new0(Test, 1);
    g_autofree char *command = NULL;
    g_autofree char *args = NULL;

    t->soft = vdpa_soft_new();
    command = vdpa_soft_command(t->soft, soft, g_getenv("QTEST_QEMU_BINARY"));
    g_setenv("VHOST_VDPA_TEST_COMMAND", command, true);
    args = g_strdup_printf(RAM_OPTIONS "%s 2>%s", qemu, t->soft->errors);
    t->qts = qtest_init_with_env("VHOST_VDPA_TEST_COMMAND", args, true);
    vdpa_soft_connect(t->soft);
    attach_machine(t);
    return t;
}

static Test *start(const char *soft)
{
    return start_qemu(soft, NETDEV_OPTION NIC_OPTION);
}

/* See that one of QEMU's new complaints is this one */
static void take_error(Test *t, const char *pattern)
{
    g_auto(GStrv) lines = vdpa_soft_error_lines(t->soft);
    bool found = false;

    for (; t->errors < g_strv_length(lines); t->errors++) {
        found |= g_regex_match_simple(pattern, lines[t->errors], 0, 0);
    }
    if (!found) {
        g_autofree char *text = g_strjoinv("\n", lines);

        vdpa_soft_fail("no complaint is like '%s':\n%s", pattern, text);
    }
}

static void assert_no_error(Test *t)
{
    g_auto(GStrv) lines = vdpa_soft_error_lines(t->soft);

    if (t->errors < g_strv_length(lines)) {
        vdpa_soft_fail("QEMU complains: %s", lines[t->errors]);
    }
}

static void end(Test *t)
{
    g_autoptr(GPtrArray) calls = NULL;

    if (vdpa_soft_number(t->soft, "faults") != t->faults) {
        QDict *reply = vdpa_soft_request(t->soft, "faults");
        g_autoptr(GString) json = qobject_to_json(QOBJECT(reply));

        vdpa_soft_fail("bad memory accesses of the device: %s", json->str);
    }
    detach_machine(t);
    qtest_quit(t->qts);
    assert_no_error(t);
    /* A device that is not given back is lost to all others */
    calls = vdpa_soft_file_calls(t->soft);
    g_assert_cmpint(calls->len, >, 0);
    g_assert_cmpstr(calls->pdata[calls->len - 1], ==, "CLOSE");
    vdpa_soft_free(t->soft);
    g_free(t);
}

/* --- The guest's driver --- */

static uint8_t nic_status(Nic *nic)
{
    return nic->vdev->bus->get_status(nic->vdev);
}

static Nic *nic_new(Test *t, int slot)
{
    QPCIAddress address = { .devfn = QPCI_DEVFN(slot, 0) };
    Nic *nic = g_new0(Nic, 1);

    nic->t = t;
    nic->ring_size = RING_SIZE;
    nic->pci = virtio_pci_new(t->bus, &address);
    g_assert_nonnull(nic->pci);
    nic->vdev = &nic->pci->vdev;
    qvirtio_pci_device_enable(nic->pci);
    qpci_msix_enable(nic->pci->pdev);
    return nic;
}

static void nic_free_vqs(Nic *nic)
{
    unsigned i;

    for (i = 0; i < nic->num_vqs; i++) {
        qvirtqueue_cleanup(nic->vdev->bus, nic->vq[i], &nic->t->alloc);
    }
    nic->num_vqs = 0;
}

static void nic_free(Nic *nic)
{
    nic_free_vqs(nic);
    qpci_msix_disable(nic->pci->pdev);
    qvirtio_pci_device_disable(nic->pci);
    g_free(nic->pci->pdev);
    g_free(nic->pci);
    g_free(nic);
}

static bool nic_has(Nic *nic, unsigned feature)
{
    return nic->features & BIT64(feature);
}

/* Reset the device and agree on features */
static void nic_negotiate(Nic *nic, uint64_t wanted)
{
    nic_free_vqs(nic);
    qvirtio_reset(nic->vdev);
    qvirtio_set_acknowledge(nic->vdev);
    qvirtio_set_driver(nic->vdev);
    nic->features = qvirtio_get_features(nic->vdev) &
                    (wanted | ~FEATURES_ON_DEMAND);
    g_assert_cmphex(wanted & ~nic->features, ==, 0);
    qvirtio_set_features(nic->vdev, nic->features);
}

static void nic_set_ring_size(Nic *nic, unsigned index, unsigned size)
{
    nic->vdev->bus->queue_select(nic->vdev, index);
    qpci_io_writew(nic->pci->pdev, nic->pci->bar,
                   nic->pci->common_cfg_offset +
                   offsetof(struct virtio_pci_common_cfg, queue_size), size);
}

static void nic_setup_vqs(Nic *nic, unsigned num)
{
    QGuestAllocator *alloc = &nic->t->alloc;
    unsigned i;

    g_assert_cmpuint(num, <=, MAX_VQS);
    qvirtio_pci_set_msix_configuration_vector(nic->pci, alloc, 0);
    for (i = 0; i < num; i++) {
        if (nic->ring_size) {
            nic_set_ring_size(nic, i, nic->ring_size);
        }
        nic->vq[i] = qvirtqueue_setup(nic->vdev, alloc, i);
        qvirtqueue_pci_msix_setup(nic->pci,
                                  container_of(nic->vq[i], QVirtQueuePCI, vq),
                                  alloc, i + 1);
    }
    nic->num_vqs = num;
}

/* Number of pairs that the driver may use */
static unsigned nic_pairs(Nic *nic)
{
    return nic_has(nic, VIRTIO_NET_F_MQ) ?
           qvirtio_config_readw(nic->vdev,
                                offsetof(struct virtio_net_config,
                                         max_virtqueue_pairs)) : 1;
}

/* All up to what sets the device going; for a device that may refuse that */
static void nic_prepare(Nic *nic, uint64_t wanted)
{
    nic_negotiate(nic, wanted);
    nic_setup_vqs(nic, 2 * nic_pairs(nic) +
                  nic_has(nic, VIRTIO_NET_F_CTRL_VQ));
}

static void nic_set_driver_ok(Nic *nic)
{
    nic->vdev->bus->set_status(nic->vdev,
                               nic_status(nic) | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* (Re)start the driver, with @wanted of the FEATURES_ON_DEMAND */
static void nic_start(Nic *nic, uint64_t wanted)
{
    nic_prepare(nic, wanted);
    qvirtio_set_driver_ok(nic->vdev);
    vdpa_soft_wait(nic->t->soft, "status == 15");
}

static Nic *start_nic(Test *t, uint64_t wanted)
{
    Nic *nic = nic_new(t, NIC_SLOT);

    nic_start(nic, wanted);
    return nic;
}

static QVirtQueue *nic_rx(Nic *nic, unsigned pair)
{
    return nic->vq[2 * pair];
}

static QVirtQueue *nic_tx(Nic *nic, unsigned pair)
{
    return nic->vq[2 * pair + 1];
}

/* Offer a chain that begins at descriptor @head, and have an interrupt */
static void nic_offer(Nic *nic, QVirtQueue *vq, uint32_t head)
{
    if (vq->event) {
        qvirtqueue_set_used_event(nic->t->qts, vq, vq->last_used_idx);
    }
    qvirtqueue_kick(nic->t->qts, nic->vdev, vq, head);
}

/* Wait for the interrupt, then for the chain; returns bytes written to it */
static uint32_t nic_take(Nic *nic, QVirtQueue *vq, uint32_t head)
{
    uint32_t len;

    qvirtio_wait_used_elem(nic->t->qts, nic->vdev, vq, head, &len,
                           DEADLINE_US);
    return len;
}

/* A frame to everybody, of a type that is free for experiments */
static void make_frame(uint8_t *frame, size_t size, unsigned seed)
{
    size_t i;

    memset(frame, 0xff, 6);
    memcpy(frame + 6, (const uint8_t[]) { 0x52, 0x54, 0, 0, 0, seed }, 6);
    stw_be_p(frame + 12, 0x88b5);
    for (i = 14; i < size; i++) {
        frame[i] = i * 7 + (i >> 8) + seed;
    }
}

static char *to_hex(const uint8_t *data, size_t size)
{
    GString *hex = g_string_new(NULL);
    size_t i;

    for (i = 0; i < size; i++) {
        g_string_append_printf(hex, "%02x", data[i]);
    }
    return g_string_free(hex, false);
}

static void assert_mem(Test *t, uint64_t addr, const uint8_t *expected,
                       size_t size)
{
    g_autofree uint8_t *data = g_malloc(size);

    qtest_memread(t->qts, addr, data, size);
    if (memcmp(data, expected, size)) {
        g_autofree char *got = to_hex(data, size);
        g_autofree char *want = to_hex(expected, size);

        vdpa_soft_fail("the guest's memory has %s\ninstead of %s", got, want);
    }
}

/* Exactly these frames went to the wire */
static void assert_captured(Test *t, unsigned count, uint8_t *const *frames,
                            const size_t *sizes)
{
    g_autofree char *condition = g_strdup_printf("captured >= %u", count);
    const QListEntry *e;
    QDict *reply;
    unsigned i = 0;

    vdpa_soft_wait(t->soft, condition);
    reply = vdpa_soft_request(t->soft, "captured");
    QLIST_FOREACH_ENTRY(qdict_get_qlist(reply, "frames"), e) {
        g_autofree char *hex = NULL;

        g_assert_cmpuint(i, <, count);
        hex = to_hex(frames[i], sizes[i]);
        g_assert_cmpstr(qstring_get_str(qobject_to(QString,
                                                   qlist_entry_obj(e))),
                        ==, hex);
        i++;
    }
    g_assert_cmpuint(i, ==, count);
    qobject_unref(reply);
}

/* A buffer with an empty header and, behind it, @size bytes of @frame */
static uint64_t new_buffer(Nic *nic, const uint8_t *frame, size_t size)
{
    uint64_t addr = guest_alloc(&nic->t->alloc, HEADER_SIZE + size);

    qtest_memset(nic->t->qts, addr, 0, HEADER_SIZE + size);
    if (frame) {
        qtest_memwrite(nic->t->qts, addr + HEADER_SIZE, frame, size);
    }
    return addr;
}

/* Send a frame and see that it, and only it, leaves the device */
static void check_tx(Nic *nic, unsigned pair, size_t size, unsigned seed)
{
    QVirtQueue *vq = nic_tx(nic, pair);
    g_autofree uint8_t *frame = g_malloc(size);
    uint32_t head;
    uint64_t addr;

    make_frame(frame, size, seed);
    vdpa_soft_do(nic->t->soft, "capture on");
    addr = new_buffer(nic, frame, size);
    head = qvirtqueue_add(nic->t->qts, vq, addr, HEADER_SIZE + size, false,
                          false);
    nic_offer(nic, vq, head);
    nic_take(nic, vq, head);
    assert_captured(nic->t, 1, &frame, &size);
    vdpa_soft_do(nic->t->soft, "capture off");
    qvirtqueue_reset_pool(vq);
    guest_free(&nic->t->alloc, addr);
}

/* What stands in front of a received frame */
static void assert_header(Nic *nic, uint64_t addr, unsigned buffers)
{
    struct virtio_net_hdr_mrg_rxbuf expected = {
        .num_buffers = cpu_to_le16(buffers),
    };

    assert_mem(nic->t, addr, (uint8_t *)&expected, sizeof(expected));
}

/* Have a frame come from the wire and see it in the guest's memory */
static void check_rx(Nic *nic, unsigned pair, size_t size, unsigned seed)
{
    QVirtQueue *vq = nic_rx(nic, pair);
    g_autofree uint8_t *frame = g_malloc(size);
    g_autofree char *hex = NULL;
    uint32_t head;
    uint64_t addr;

    make_frame(frame, size, seed);
    hex = to_hex(frame, size);
    addr = new_buffer(nic, NULL, size);
    head = qvirtqueue_add(nic->t->qts, vq, addr, HEADER_SIZE + size, true,
                          false);
    nic_offer(nic, vq, head);
    vdpa_soft_do(nic->t->soft, "inject %s vq=%u", hex, 2 * pair);
    g_assert_cmpuint(nic_take(nic, vq, head), ==, HEADER_SIZE + size);
    assert_header(nic, addr, 1);
    assert_mem(nic->t, addr + HEADER_SIZE, frame, size);
    qvirtqueue_reset_pool(vq);
    guest_free(&nic->t->alloc, addr);
}

static void check_data(Nic *nic, unsigned seed)
{
    check_tx(nic, 0, 60, seed);
    check_rx(nic, 0, 300, seed + 1);
}

/* A command of the control queue; returns the device's answer */
static uint8_t nic_control(Nic *nic, uint8_t class, uint8_t command,
                           const void *data, size_t size)
{
    struct virtio_net_ctrl_hdr header = { .class = class, .cmd = command };
    QTestState *qts = nic->t->qts;
    QVirtQueue *vq = nic->vq[nic->num_vqs - 1];
    uint64_t addr = guest_alloc(&nic->t->alloc, sizeof(header) + size + 1);
    uint64_t status = addr + sizeof(header) + size;
    uint32_t head;
    uint8_t result;

    g_assert_true(nic_has(nic, VIRTIO_NET_F_CTRL_VQ));
    qtest_memwrite(qts, addr, &header, sizeof(header));
    qtest_memwrite(qts, addr + sizeof(header), data, size);
    qtest_writeb(qts, status, 0xee);
    head = qvirtqueue_add(qts, vq, addr, sizeof(header) + size, false, true);
    qvirtqueue_add(qts, vq, status, 1, true, false);
    nic_offer(nic, vq, head);
    g_assert_cmpuint(nic_take(nic, vq, head), ==, 1);
    result = qtest_readb(qts, status);
    qvirtqueue_reset_pool(vq);
    guest_free(&nic->t->alloc, addr);
    return result;
}

/* --- What the device was told --- */

static void G_GNUC_PRINTF(2, 3) add(GPtrArray *calls, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_ptr_array_add(calls, g_strdup_vprintf(fmt, ap));
    va_end(ap);
}

static GPtrArray *no_calls(void)
{
    return g_ptr_array_new_with_free_func(g_free);
}

/*
 * See that since the last time, the device was told @expected, and that only.
 * Takes @expected.
 */
static void assert_calls(Test *t, const char *what, GPtrArray *expected)
{
    g_autoptr(GPtrArray) calls = vdpa_soft_calls(t->soft);

    vdpa_soft_assert_calls(what, calls, expected);
    g_ptr_array_unref(expected);
}

static void assert_no_calls(Test *t, const char *what)
{
    assert_calls(t, what, no_calls());
}

static unsigned count_calls(GPtrArray *calls, const char *prefix)
{
    unsigned i, count = 0;

    for (i = 0; i < calls->len; i++) {
        count += g_str_has_prefix(calls->pdata[i], prefix);
    }
    return count;
}

#define BACKEND_BATCH   BIT64(VHOST_BACKEND_F_IOTLB_BATCH)
#define BACKEND_ASID    BIT64(VHOST_BACKEND_F_IOTLB_ASID)
#define BACKEND_SUSPEND BIT64(VHOST_BACKEND_F_SUSPEND)
#define BACKEND_RESUME  BIT64(VHOST_BACKEND_F_RESUME)
#define BACKEND_PERSIST BIT64(VHOST_BACKEND_F_IOTLB_PERSIST)

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

static void add_mapping_messages(GPtrArray *calls, const Kind *kind,
                                 const char *message)
{
    if (kind->accepted & BACKEND_BATCH) {
        add(calls, "IOTLB_BATCH_BEGIN asid=0");
    }
    add(calls, "%s", message);
    if (kind->accepted & BACKEND_BATCH) {
        add(calls, "IOTLB_BATCH_END asid=0");
    }
}

/* QEMU's start: become the owner, ask what it is, map the guest's memory */
static GPtrArray *expect_open(const Kind *kind)
{
    GPtrArray *calls = no_calls();

    add(calls, "OPEN flags=2");
    add(calls, "GET_DEVICE_ID id=1");
    add(calls, "SET_OWNER");
    add(calls, "GET_BACKEND_FEATURES features=0x%" PRIx64, kind->offered);
    add(calls, "SET_BACKEND_FEATURES features=0x%" PRIx64, kind->accepted);
    add(calls, "GET_FEATURES features=0x738bf8028");
    add(calls, "GET_VRING_NUM num=1024");
    add(calls, "GET_CONFIG_SIZE size=0x18");
    add(calls, "GET_VQS_COUNT num=3");
    if (kind->accepted & BACKEND_ASID) {
        add(calls, "GET_GROUP_NUM num=%u", kind->accepted & 0x80 ? 3 : 2);
        add(calls, "GET_AS_NUM num=2");
    }
    add(calls, "GET_IOVA_RANGE first=0x0 last=0xffffffffffffffff");
    /* For "info network" */
    add(calls, "GET_CONFIG off=0 len=6");
    add_mapping_messages(calls, kind, "IOTLB_UPDATE");
    /* The guest's MAC address */
    add(calls, "SET_CONFIG off=0 len=6");
    return calls;
}

static void add_status(GPtrArray *calls, unsigned from, unsigned to)
{
    add(calls, "GET_STATUS status=0x%x", from);
    add(calls, "SET_STATUS status=0x%x", to);
    add(calls, "GET_STATUS status=0x%x", to);
}

static void add_ring(GPtrArray *calls, Nic *nic, unsigned i, unsigned base)
{
    QVirtQueue *vq = nic->vq[i];

    add(calls, "SET_VRING_NUM index=%u num=%u", i, vq->size);
    add(calls, "SET_VRING_BASE index=%u num=%u", i, base);
    add(calls, "SET_VRING_ADDR index=%u flags=0 desc=0x%" PRIx64 " avail=0x%"
        PRIx64 " used=0x%" PRIx64, i, vq->desc, vq->avail, vq->used);
    add(calls, "SET_VRING_KICK index=%u bound=yes", i);
}

static void add_interrupts(GPtrArray *calls)
{
    add(calls, "SET_VRING_CALL index=2 bound=yes");
    add(calls, "SET_VRING_CALL index=0 bound=yes");
    add(calls, "SET_VRING_CALL index=1 bound=yes");
    add(calls, "SET_CONFIG_CALL bound=yes");
}

static void add_enable(GPtrArray *calls)
{
    add(calls, "SET_VRING_ENABLE index=2 num=1");
    add(calls, "SET_VRING_ENABLE index=0 num=1");
    add(calls, "SET_VRING_ENABLE index=1 num=1");
}

static void add_doorbells(GPtrArray *calls, const Kind *kind)
{
    const char *result = strstr(kind->soft, "doorbell") ? "" : " -> 524";

    add(calls, "MMAP len=4096 offset=8192%s", result);
    add(calls, "MMAP len=4096 offset=0%s", result);
    add(calls, "MMAP len=4096 offset=4096%s", result);
}

/**
 * expect_start() - a start from the reset state
 * @base: where the three rings begin
 * @remap: the IOTLB was emptied
 */
static GPtrArray *expect_start(Nic *nic, const Kind *kind,
                               const unsigned base[3], bool remap)
{
    GPtrArray *calls = no_calls();
    unsigned i;

    /* The address in "info network" may have changed */
    add(calls, "GET_CONFIG off=0 len=6");
    add_status(calls, 0, 1);
    add_status(calls, 1, 3);
    add(calls, "SET_FEATURES features=0x%" PRIx64,
        (uint64_t)(nic->features | BIT64(VIRTIO_F_ACCESS_PLATFORM)));
    add_status(calls, 3, 0xb);
    if (kind->accepted & BACKEND_ASID) {
        for (i = 0; i < (kind->accepted & 0x80 ? 3 : 2); i++) {
            add(calls, "SET_GROUP_ASID group=%u asid=0", i);
        }
    }
    if (remap) {
        add_mapping_messages(calls, kind, "IOTLB_UPDATE");
    }
    add_ring(calls, nic, 0, base[0]);
    add_ring(calls, nic, 1, base[1]);
    add(calls, "SET_CONFIG_CALL bound=yes");
    add_ring(calls, nic, 2, base[2]);
    add_interrupts(calls);
    add_enable(calls);
    add_status(calls, 0xb, 0xf);
    add_doorbells(calls, kind);
    return calls;
}

static void add_get_base(GPtrArray *calls, const Kind *kind, unsigned i,
                         const unsigned base[3])
{
    if (strstr(kind->soft, "GET_VRING_BASE")) {
        add(calls, "GET_VRING_BASE index=%u -> %d", i, EOPNOTSUPP);
    } else {
        add(calls, "GET_VRING_BASE index=%u num=%u", i, base[i]);
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
    GPtrArray *calls = no_calls();

    if (suspend) {
        add(calls, "SUSPEND");
        add_get_base(calls, kind, 0, base);
        add_get_base(calls, kind, 1, base);
        add(calls, "SET_CONFIG_CALL bound=no");
        add_get_base(calls, kind, 2, base);
    }
    if (reset) {
        if (!(kind->accepted & BACKEND_PERSIST)) {
            add_mapping_messages(calls, kind, "IOTLB_INVALIDATE");
        }
        add(calls, "SET_STATUS status=0x0");
    }
    if (!suspend) {
        /* A device that may still run must not be asked */
        add(calls, "SET_CONFIG_CALL bound=no");
    }
    return calls;
}

static GPtrArray *expect_resume(const Kind *kind)
{
    GPtrArray *calls = no_calls();

    add(calls, "GET_CONFIG off=0 len=6");
    /* The vhost core made new eventfds */
    add(calls, "SET_VRING_KICK index=0 bound=yes");
    add(calls, "SET_VRING_KICK index=1 bound=yes");
    add(calls, "SET_CONFIG_CALL bound=yes");
    add(calls, "SET_VRING_KICK index=2 bound=yes");
    add_interrupts(calls);
    add(calls, "RESUME");
    add_enable(calls);
    add_doorbells(calls, kind);
    return calls;
}

static void stop_guest(Test *t)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'stop' }");
}

static void continue_guest(Test *t)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'cont' }");
}

/* From QEMU's start to its end, on a kind of device */
static void test_sequence(const void *opaque)
{
    static const unsigned at_0[3] = {}, after_1[3] = { 1, 1, 0 },
                          after_2[3] = { 2, 2, 0 };
    const Kind *kind = opaque;
    bool persist = kind->accepted & BACKEND_PERSIST;
    bool resume = kind->accepted & BACKEND_RESUME;
    g_autofree char *soft =
        g_strdup_printf("--backend-features %" PRIx64 " %s", kind->offered,
                        kind->soft);
    Test *t = start(soft);
    Nic *nic;

    assert_calls(t, "QEMU's start", expect_open(kind));

    nic = start_nic(t, 0);
    assert_calls(t, "the driver's start",
                 expect_start(nic, kind, at_0, false));
    check_data(nic, 1);
    assert_no_calls(t, "data");

    stop_guest(t);
    assert_calls(t, "stop", expect_stop(kind, after_1, !resume));
    continue_guest(t);
    assert_calls(t, "cont", resume ? expect_resume(kind) :
                 expect_start(nic, kind, after_1, !persist));
    check_data(nic, 3);

    qvirtio_reset(nic->vdev);
    assert_calls(t, "reset", expect_stop(kind, after_2, true));
    nic_start(nic, 0);
    assert_calls(t, "the driver's second start",
                 expect_start(nic, kind, at_0, !persist));
    check_data(nic, 5);

    qtest_system_reset(t->qts);
    assert_calls(t, "system_reset", expect_stop(kind, after_1, true));
    nic_free(nic);
    nic = start_nic(t, 0);
    assert_calls(t, "start after system_reset",
                 expect_start(nic, kind, at_0, !persist));
    check_data(nic, 7);

    nic_free(nic);
    end(t);
}

/* --- Data --- */

static void test_data_both_ways(void)
{
    Test *t = start("");
    Nic *nic = start_nic(t, 0);
    int i;

    for (i = 0; i < 3 * RING_SIZE; i++) {
        check_tx(nic, 0, 60 + i, i);
        check_rx(nic, 0, 60 + 2 * i, i);
    }
    check_tx(nic, 0, 1514, i);
    check_rx(nic, 0, 1514, i);
    nic_free(nic);
    end(t);
}

static void add_tests(void)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(kinds); i++) {
        g_autofree char *path = g_strdup_printf("vhost-vdpa/sequence/%s",
                                                kinds[i].name);

        qtest_add_data_func(path, &kinds[i], test_sequence);
    }
    qtest_add_func("vhost-vdpa/data/both-ways", test_data_both_ways);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_tests();
    return g_test_run();
}
