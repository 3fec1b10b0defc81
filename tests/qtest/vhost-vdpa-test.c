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
#include <sys/resource.h>
#include <sys/syscall.h>
#include "libqtest.h"
#include "libvdpa-soft.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
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
#include "standard-headers/linux/virtio_iommu.h"
#include "standard-headers/linux/virtio_net.h"
#include "standard-headers/linux/virtio_pci.h"
#include "hw/pci/pci_regs.h"

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

static bool has_error(Test *t)
{
    g_auto(GStrv) lines = vdpa_soft_error_lines(t->soft);

    return t->errors < g_strv_length(lines);
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

static Nic *nic_new_intx(Test *t, int slot)
{
    QPCIAddress address = { .devfn = QPCI_DEVFN(slot, 0) };
    Nic *nic = g_new0(Nic, 1);

    nic->t = t;
    nic->ring_size = RING_SIZE;
    nic->pci = virtio_pci_new(t->bus, &address);
    g_assert_nonnull(nic->pci);
    nic->vdev = &nic->pci->vdev;
    qvirtio_pci_device_enable(nic->pci);
    return nic;
}

static Nic *nic_new(Test *t, int slot)
{
    Nic *nic = nic_new_intx(t, slot);

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
    if (nic->pci->pdev->msix_enabled) {
        qpci_msix_disable(nic->pci->pdev);
    }
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
    if (nic->pci->pdev->msix_enabled) {
        qvirtio_pci_set_msix_configuration_vector(nic->pci, alloc, 0);
    }
    for (i = 0; i < num; i++) {
        if (nic->ring_size) {
            nic_set_ring_size(nic, i, nic->ring_size);
        }
        nic->vq[i] = qvirtqueue_setup(nic->vdev, alloc, i);
        if (nic->pci->pdev->msix_enabled) {
            qvirtqueue_pci_msix_setup(nic->pci,
                                      container_of(nic->vq[i], QVirtQueuePCI,
                                                   vq), alloc, i + 1);
        }
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
    add(calls, "SET_VRING_CALL index=0 bound=yes");
    add(calls, "SET_VRING_CALL index=1 bound=yes");
    add(calls, "SET_VRING_CALL index=2 bound=yes");
    add(calls, "SET_CONFIG_CALL bound=yes");
}

static void add_enable(GPtrArray *calls)
{
    add(calls, "SET_VRING_ENABLE index=0 num=1");
    add(calls, "SET_VRING_ENABLE index=1 num=1");
    add(calls, "SET_VRING_ENABLE index=2 num=1");
}

static void add_doorbells(GPtrArray *calls, const Kind *kind)
{
    if (strstr(kind->soft, "doorbell")) {
        /* The guest has no page to put it at, so that is that */
        add(calls, "MMAP len=4096 offset=0");
        return;
    }
    add(calls, "MMAP len=4096 offset=0 -> 524");
    add(calls, "MMAP len=4096 offset=4096 -> 524");
    add(calls, "MMAP len=4096 offset=8192 -> 524");
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
    if (reset && !suspend) {
        /* Memory must not go while the device still uses it */
        add(calls, "SET_STATUS status=0x0");
    }
    if (reset && !(kind->accepted & BACKEND_PERSIST)) {
        add_mapping_messages(calls, kind, "IOTLB_INVALIDATE");
    }
    if (reset && suspend) {
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
        make_frame(b->frame[i], b->size[i], seed + i);
    }
}

static void batch_offer_tx(Nic *nic, Batch *b, unsigned pair)
{
    QVirtQueue *vq = nic_tx(nic, pair);
    unsigned i;

    for (i = 0; i < b->count; i++) {
        b->addr[i] = new_buffer(nic, b->frame[i], b->size[i]);
        b->head[i] = qvirtqueue_add(nic->t->qts, vq, b->addr[i],
                                    HEADER_SIZE + b->size[i], false, false);
        nic_offer(nic, vq, b->head[i]);
    }
}

static void batch_offer_rx(Nic *nic, Batch *b, unsigned pair)
{
    QVirtQueue *vq = nic_rx(nic, pair);
    unsigned i;

    for (i = 0; i < b->count; i++) {
        b->addr[i] = new_buffer(nic, NULL, b->size[i]);
        b->head[i] = qvirtqueue_add(nic->t->qts, vq, b->addr[i],
                                    HEADER_SIZE + b->size[i], true, false);
        nic_offer(nic, vq, b->head[i]);
    }
}

/* All buffers come back, in order, with @bytes(i) written to each */
static void batch_take(Nic *nic, Batch *b, QVirtQueue *vq, bool received)
{
    QTestState *qts = nic->t->qts;
    int64_t end = g_get_monotonic_time() + DEADLINE_US;
    unsigned i;

    for (i = 0; i < b->count; i++) {
        uint32_t head, len;

        while (!qvirtqueue_get_buf(qts, vq, &head, &len)) {
            g_assert_cmpint(g_get_monotonic_time(), <, end);
        }
        g_assert_cmpuint(head, ==, b->head[i]);
        g_assert_cmpuint(len, ==, received ? HEADER_SIZE + b->size[i] : 0);
        if (received) {
            assert_mem(nic->t, b->addr[i] + HEADER_SIZE, b->frame[i],
                       b->size[i]);
        }
        guest_free(&nic->t->alloc, b->addr[i]);
        g_free(b->frame[i]);
    }
    qvirtqueue_reset_pool(vq);
}

/* What waits in the rings while the guest stands still happens afterwards */
static void test_stop_pending(const void *opaque)
{
    Test *t = start(opaque);
    Nic *nic = start_nic(t, 0);
    Batch tx, rx;
    unsigned i;

    check_data(nic, 1);
    batch_init(&tx, 5, 10);
    batch_init(&rx, 5, 20);
    vdpa_soft_do(t->soft, "capture on");
    vdpa_soft_do(t->soft, "pause");
    batch_offer_tx(nic, &tx, 0);
    batch_offer_rx(nic, &rx, 0);
    stop_guest(t);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "captured"), ==, 0);
    vdpa_soft_do(t->soft, "unpause");
    continue_guest(t);
    vdpa_soft_wait(t->soft, "status == 15");
    assert_captured(t, tx.count, tx.frame, tx.size);
    batch_take(nic, &tx, nic_tx(nic, 0), false);
    for (i = 0; i < rx.count; i++) {
        g_autofree char *hex = to_hex(rx.frame[i], rx.size[i]);

        vdpa_soft_do(t->soft, "inject %s vq=0", hex);
    }
    batch_take(nic, &rx, nic_rx(nic, 0), true);
    check_data(nic, 3);
    if (nic_has(nic, VIRTIO_NET_F_CTRL_MAC_ADDR)) {
        /* Some devices forget this queue when they are suspended */
        g_assert_cmpuint(nic_control(nic, VIRTIO_NET_CTRL_MAC,
                                     VIRTIO_NET_CTRL_MAC_ADDR_SET,
                                     "\x52\x54\0\1\2\3", 6), ==,
                         VIRTIO_NET_OK);
    }
    nic_free(nic);
    end(t);
}

static void wait_needs_reset(Nic *nic)
{
    int64_t deadline = g_get_monotonic_time() + DEADLINE_US;

    while (!(nic_status(nic) & VIRTIO_CONFIG_S_NEEDS_RESET)) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    }
    /* A driver that does not read the status all the time is told as well */
    qvirtio_wait_config_isr(nic->vdev, DEADLINE_US);
}

/* QEMU is well, and the guest can have its device back */
static void check_recovery(Nic *nic)
{
    QDict *status;

    status = qtest_qmp_assert_success_ref(nic->t->qts,
                                          "{ 'execute': 'query-status' }");
    g_assert_cmpstr(qdict_get_str(status, "status"), ==, "running");
    qobject_unref(status);
    nic_start(nic, 0);
    check_data(nic, 90);
}

/* A device that can only begin at index 0 cannot go on elsewhere */
static void test_stop_only_from_start(void)
{
    Test *t = start("--like vp_vdpa --map any");
    Nic *nic = start_nic(t, 0);

    check_data(nic, 1);
    stop_guest(t);
    continue_guest(t);
    wait_needs_reset(nic);
    take_error(t, "'" NODE "'.*SET_VRING_BASE.*only start rings from the "
               "beginning");
    check_recovery(nic);
    nic_free(nic);
    end(t);
}

/* The user takes QEMU's side of the link down, and up again */
static void test_set_link(void)
{
    static const unsigned after_1[3] = { 1, 1, 0 };
    const Kind *kind = &kinds[0];
    Test *t = start("");
    Nic *nic = start_nic(t, 0);

    check_data(nic, 1);
    vdpa_soft_skip(t->soft);
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'set_link', 'arguments':"
                             "  { 'name': 'nic0', 'up': false } }");
    assert_calls(t, "link down", expect_stop(kind, after_1, false));
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'set_link', 'arguments':"
                             "  { 'name': 'nic0', 'up': true } }");
    assert_calls(t, "link up", expect_resume(kind));
    check_data(nic, 3);
    nic_free(nic);
    end(t);
}

/* The device itself says that it needs a reset */
static void test_device_needs_reset(void)
{
    Test *t = start("");
    Nic *nic = start_nic(t, 0);

    check_data(nic, 1);
    vdpa_soft_do(t->soft, "needs-reset");
    qvirtio_wait_config_isr(nic->vdev, DEADLINE_US);
    check_recovery(nic);
    nic_free(nic);
    end(t);
}

/* Nothing but the rings is set up anew, ten times over */
static void test_reload(void)
{
    Test *t = start("");
    Nic *nic = start_nic(t, 0);
    uint64_t mappings = vdpa_soft_number(t->soft, "mappings");
    uint64_t messages = vdpa_soft_number(t->soft, "messages");
    uint64_t first = 0;
    int i;

    for (i = 0; i < 10; i++) {
        uint64_t ioctls = vdpa_soft_number(t->soft, "ioctls");

        nic_start(nic, 0);
        ioctls = vdpa_soft_number(t->soft, "ioctls") - ioctls;
        first = first ?: ioctls;
        g_assert_cmpuint(ioctls, ==, first);
        check_data(nic, i);
    }
    g_assert_cmpuint(first, <=, 50);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "mappings"), ==, mappings);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "messages"), ==, messages);
    nic_free(nic);
    end(t);
}

/* A reset of a device that is not in use tells it nothing */
static void test_idle_reset(void)
{
    Test *t = start("");
    Nic *nic = nic_new(t, NIC_SLOT);

    vdpa_soft_skip(t->soft);
    qtest_system_reset(t->qts);
    stop_guest(t);
    continue_guest(t);
    assert_no_calls(t, "resets of an idle device");
    nic_free(nic);
    end(t);
}

/* --- Memory --- */

/** struct Range - a range of guest memory, both ends inclusive */
typedef struct Range64 {
    uint64_t first;
    uint64_t last;
    unsigned perm;
} Range64;

static int range_compare(gconstpointer a, gconstpointer b)
{
    const Range64 *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

static GArray *ranges_new(void)
{
    return g_array_new(false, false, sizeof(Range64));
}

/* Sort, and make one of those that touch */
static void ranges_merge(GArray *ranges)
{
    unsigned i;

    g_array_sort(ranges, range_compare);
    for (i = 1; i < ranges->len;) {
        Range64 *a = &g_array_index(ranges, Range64, i - 1);
        Range64 *b = &g_array_index(ranges, Range64, i);

        if (a->last + 1 == b->first && a->perm == b->perm) {
            a->last = b->last;
            g_array_remove_index(ranges, i);
        } else {
            g_assert_cmphex(a->last, <, b->first);
            i++;
        }
    }
}

/* What the guest has: the flat view that QEMU's CPUs use */
static GArray *guest_ranges(Test *t)
{
    g_autofree char *text = qtest_hmp(t->qts, "info mtree -f");
    g_auto(GStrv) lines = g_strsplit(text, "\r\n", -1);
    GArray *ranges = ranges_new();
    bool wanted = false;
    int i;

    for (i = 0; lines[i]; i++) {
        Range64 r;
        char kind[8];
        int prio;

        if (g_str_has_prefix(lines[i], "FlatView")) {
            wanted = false;
        } else if (g_str_has_prefix(lines[i], " AS \"memory\"")) {
            wanted = true;
        } else if (wanted &&
                   sscanf(lines[i], " %" SCNx64 "-%" SCNx64
                          " (prio %d, %7[^)])", &r.first, &r.last, &prio,
                          kind) == 4) {
            if (strcmp(kind, "ram") && strcmp(kind, "rom") &&
                strcmp(kind, "romd")) {
                continue;
            }
            r.perm = strcmp(kind, "ram") ? 1 : 3;
            g_array_append_val(ranges, r);
        }
    }
    g_assert_cmpuint(ranges->len, >, 0);
    ranges_merge(ranges);
    return ranges;
}

static GArray *device_ranges(Test *t)
{
    QDict *reply = vdpa_soft_request(t->soft, "mappings");
    GArray *ranges = ranges_new();
    const QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(reply, "entries"), e) {
        QDict *entry = qobject_to(QDict, qlist_entry_obj(e));
        Range64 r = {
            .first = qdict_get_int(entry, "first"),
            .last = qdict_get_int(entry, "last"),
            .perm = qdict_get_int(entry, "perm"),
        };

        g_array_append_val(ranges, r);
    }
    qobject_unref(reply);
    ranges_merge(ranges);
    return ranges;
}

/* The device has exactly the guest's memory.  It has to be --map any. */
static void assert_memory_mapped(Test *t)
{
    g_autoptr(GArray) guest = guest_ranges(t);
    g_autoptr(GArray) device = device_ranges(t);
    unsigned i;

    for (i = 0; i < MIN(guest->len, device->len); i++) {
        Range64 *g = &g_array_index(guest, Range64, i);
        Range64 *d = &g_array_index(device, Range64, i);

        g_assert_cmphex(d->first, ==, g->first);
        g_assert_cmphex(d->last, ==, g->last);
        g_assert_cmpuint(d->perm, ==, g->perm);
    }
    g_assert_cmpuint(device->len, ==, guest->len);
}

/* Make 0xf0000 to 0xfffff (PAM 0) RAM, or ROM again */
static void set_pam(Test *t, uint8_t value)
{
    QPCIDevice *host = qpci_device_find(t->bus, 0);

    qpci_config_writeb(host, 0x59, value);
    g_free(host);
}

/* Only a few messages, and none about what is above 1 MiB */
static void assert_small_change(Test *t)
{
    g_autoptr(GPtrArray) calls = vdpa_soft_messages(t->soft);
    unsigned i;

    g_assert_cmpuint(calls->len, <=, 10);
    for (i = 0; i < calls->len; i++) {
        uint64_t iova, size;

        if (sscanf(calls->pdata[i], "IOTLB_%*[A-Z] asid=0 iova=0x%" SCNx64
                   " size=0x%" SCNx64, &iova, &size) == 2) {
            g_assert_cmphex(iova + size, <=, MiB);
        }
    }
}

static void test_memory_map(void)
{
    Test *t = start("--map any");
    Nic *nic;

    assert_memory_mapped(t);
    /* A device at rest need not follow each turn of the firmware */
    vdpa_soft_skip(t->soft);
    set_pam(t, 0x30);
    set_pam(t, 0);
    set_pam(t, 0x30);
    assert_no_calls(t, "firmware changes with an idle device");
    nic = start_nic(t, 0);
    assert_memory_mapped(t);
    check_data(nic, 1);

    vdpa_soft_skip(t->soft);
    set_pam(t, 0);
    assert_memory_mapped(t);
    assert_small_change(t);
    check_data(nic, 3);
    vdpa_soft_skip(t->soft);
    set_pam(t, 0);
    assert_no_calls(t, "a change to what is there already");
    nic_free(nic);
    end(t);
}

/* The same strings in both, whatever the order; @prefix is left out */
static void assert_same_ranges(GPtrArray *a, const char *prefix_a,
                               GPtrArray *b, const char *prefix_b)
{
    g_autoptr(GHashTable) set = g_hash_table_new_full(g_str_hash,
                                                      g_str_equal, g_free,
                                                      NULL);
    unsigned i;

    for (i = 0; i < a->len; i++) {
        g_auto(GStrv) words = g_strsplit(a->pdata[i], " perm", 2);

        if (g_str_has_prefix(a->pdata[i], prefix_a)) {
            g_hash_table_add(set, g_strdup(words[0] + strlen(prefix_a)));
        }
    }
    g_assert_cmpuint(g_hash_table_size(set), >, 0);
    for (i = 0; i < b->len; i++) {
        g_auto(GStrv) words = g_strsplit(b->pdata[i], " perm", 2);

        if (g_str_has_prefix(b->pdata[i], prefix_b) &&
            !g_hash_table_remove(set, words[0] + strlen(prefix_b))) {
            vdpa_soft_fail("'%s' is not expected", (char *)b->pdata[i]);
        }
    }
    g_assert_cmpuint(g_hash_table_size(set), ==, 0);
}

/* What was mapped is what is withdrawn, and what is mapped again */
static void test_reset_ranges(void)
{
    g_autoptr(GPtrArray) before = NULL, gone = NULL, after = NULL;
    Test *t = start("--map any --persist off");
    Nic *nic;

    before = vdpa_soft_messages(t->soft);
    nic = start_nic(t, 0);
    vdpa_soft_skip(t->soft);
    qvirtio_reset(nic->vdev);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "mappings"), ==, 0);
    gone = vdpa_soft_messages(t->soft);
    assert_same_ranges(before, "IOTLB_UPDATE", gone, "IOTLB_INVALIDATE");
    nic_start(nic, 0);
    after = vdpa_soft_messages(t->soft);
    assert_same_ranges(before, "IOTLB_UPDATE", after, "IOTLB_UPDATE");
    assert_memory_mapped(t);
    check_data(nic, 1);
    nic_free(nic);
    end(t);
}

static void add_dimm(Test *t, unsigned size_mb)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'object-add',"
                             "  'arguments': {"
                             "    'qom-type': 'memory-backend-memfd',"
                             "    'id': 'mem1', 'share': true,"
                             "    'size': %" PRIu64 " } }",
                             (uint64_t)size_mb * MiB);
    qtest_qmp_device_add(t->qts, "pc-dimm", "dimm1", "{ 'memdev': 'mem1' }");
}

/* The guest's part of taking a DIMM out: ACPI's memory hotplug registers */
static void remove_dimm(Test *t)
{
    qtest_qmp_device_del_send(t->qts, "dimm1");
    qtest_outl(t->qts, 0xa00, 0);
    qtest_outb(t->qts, 0xa14, 1 << 3);
    qtest_qmp_eventwait(t->qts, "DEVICE_DELETED");
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'object-del',"
                             "  'arguments': { 'id': 'mem1' } }");
}

static void test_hotplug_memory(void)
{
    const char *base = "0x100000000", *size = "0x4000000";
    Test *t = start("--map any");
    Nic *nic = start_nic(t, 0);
    g_autoptr(GPtrArray) calls = NULL;
    QVirtQueue *vq = nic_tx(nic, 0);
    GPtrArray *expected;
    uint8_t *frame = g_malloc(200);
    size_t frame_size = 200;
    uint32_t head;

    vdpa_soft_skip(t->soft);
    add_dimm(t, 64);
    expected = no_calls();
    add(expected, "IOTLB_BATCH_BEGIN asid=0");
    add(expected, "IOTLB_UPDATE asid=0 iova=%s size=%s perm=3", base, size);
    add(expected, "IOTLB_BATCH_END asid=0");
    calls = vdpa_soft_messages(t->soft);
    vdpa_soft_assert_calls("a new DIMM", calls, expected);
    g_ptr_array_unref(expected);
    assert_memory_mapped(t);

    /* The device reads from it */
    make_frame(frame, frame_size, 1);
    qtest_memset(t->qts, 4 * GiB, 0, HEADER_SIZE);
    qtest_memwrite(t->qts, 4 * GiB + HEADER_SIZE, frame, frame_size);
    vdpa_soft_do(t->soft, "capture on");
    head = qvirtqueue_add(t->qts, vq, 4 * GiB, HEADER_SIZE + frame_size,
                          false, false);
    nic_offer(nic, vq, head);
    nic_take(nic, vq, head);
    assert_captured(t, 1, &frame, &frame_size);
    qvirtqueue_reset_pool(vq);
    g_free(frame);

    remove_dimm(t);
    expected = no_calls();
    add(expected, "IOTLB_BATCH_BEGIN asid=0");
    add(expected, "IOTLB_INVALIDATE asid=0 iova=%s size=%s", base, size);
    add(expected, "IOTLB_BATCH_END asid=0");
    g_ptr_array_unref(calls);
    calls = vdpa_soft_messages(t->soft);
    vdpa_soft_assert_calls("a DIMM less", calls, expected);
    g_ptr_array_unref(expected);
    assert_memory_mapped(t);
    check_data(nic, 3);
    nic_free(nic);
    end(t);
}

/* A DIMM that is there before the guest uses the device */
static void test_hotplug_memory_idle(void)
{
    Test *t = start("--map any");
    Nic *nic;

    add_dimm(t, 64);
    nic = start_nic(t, 0);
    assert_memory_mapped(t);
    check_data(nic, 1);
    qvirtio_reset(nic->vdev);
    remove_dimm(t);
    /* Memory that is gone must not stay pinned */
    assert_memory_mapped(t);
    nic_start(nic, 0);
    assert_memory_mapped(t);
    check_data(nic, 3);
    nic_free(nic);
    end(t);
}

/* A DIMM that the device cannot have: the guest is told, not corrupted */
static void test_hotplug_memory_fails(void)
{
    Test *t = start("--map any");
    Nic *nic = start_nic(t, 0);

    vdpa_soft_do(t->soft, "fail IOTLB_UPDATE 1 EFAULT");
    add_dimm(t, 64);
    wait_needs_reset(nic);
    take_error(t, "'" NODE "'.*0x100000000.*64 MiB|'" NODE
               "'.*0x100000000.*0x103ffffff");
    /* It works the second time */
    check_recovery(nic);
    assert_memory_mapped(t);
    nic_free(nic);
    end(t);
}

/* Pinned memory, and a DIMM beyond RLIMIT_MEMLOCK */
static void test_memlock(void)
{
    struct rlimit old, limit;
    Nic *nic;
    Test *t;

    g_assert_cmpint(getrlimit(RLIMIT_MEMLOCK, &old), ==, 0);
    limit = old;
    /* What Linux lets every user have; QEMU inherits it from here */
    limit.rlim_cur = 8 * MiB;
    if (limit.rlim_max < limit.rlim_cur) {
        g_test_skip("RLIMIT_MEMLOCK is less than 8 MiB");
        return;
    }
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);
    t = start_qemu("--map pa", "-m 4M -object memory-backend-memfd,id=small,"
                   "size=4M,share=on -M memory-backend=small "
                   NETDEV_OPTION NIC_OPTION);
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &old), ==, 0);
    nic = start_nic(t, 0);
    check_data(nic, 1);
    assert_memory_mapped(t);
    add_dimm(t, 64);
    wait_needs_reset(nic);
    take_error(t, "'" NODE "'.*RLIMIT_MEMLOCK is 8388608 bytes.*7[0-9]{7} "
               "bytes");
    /* Without it, all is well again */
    remove_dimm(t);
    check_recovery(nic);
    assert_memory_mapped(t);
    nic_free(nic);
    end(t);
}

/* Memory that such a device silently leaves out */
static void test_private_memory(void)
{
    VdpaSoft *soft = vdpa_soft_new();
    g_auto(GStrv) lines = NULL;

    g_assert_cmpint(vdpa_soft_run(soft, "", "", "-M pc -m 64M -nodefaults "
                                  NETDEV_OPTION NIC_OPTION), ==, 0);
    lines = vdpa_soft_error_lines(soft);
    g_assert_cmpuint(g_strv_length(lines), ==, 1);
    g_assert_true(g_regex_match_simple("warning: vhost-vdpa device '" NODE
                                       "': 6[34] MiB .*memory-backend-memfd,"
                                       "share=on", lines[0], 0, 0));
    vdpa_soft_free(soft);
}

/* --- Virtual IOMMUs --- */

#define IOMMU_NIC_OPTION NIC_OPTION ",disable-legacy=on,iommu_platform=on"

/* Where Linux guests find the first unit, and what the test needs of it */
#define VTD_BASE 0xfed90000
#define VTD_GCMD (VTD_BASE + 0x18)
#define VTD_GSTS (VTD_BASE + 0x1c)
#define VTD_RTADDR (VTD_BASE + 0x20)
#define VTD_CCMD (VTD_BASE + 0x28)
#define VTD_IVA (VTD_BASE + 0xf0)
#define VTD_IOTLB (VTD_BASE + 0xf8)
#define VTD_TRANSLATION (1u << 31)
#define VTD_ROOT_TABLE (1u << 30)
#define VTD_INVALIDATE BIT64(63)
#define VTD_ALL_CONTEXTS BIT64(61)
#define VTD_ALL_PAGES BIT64(60)
#define VTD_PAGES (3ull << 60)

static uint64_t new_table(Test *t)
{
    uint64_t table = guest_alloc(&t->alloc, 4096);

    qtest_memset(t->qts, table, 0, 4096);
    return table;
}

/* Have intel-iommu translate, with a table of all buses */
static void enable_intel_iommu(Test *t, uint64_t root)
{
    qtest_writeq(t->qts, VTD_RTADDR, root);
    qtest_writel(t->qts, VTD_GCMD, VTD_ROOT_TABLE);
    qtest_writel(t->qts, VTD_GCMD, VTD_TRANSLATION);
    g_assert_cmphex(qtest_readl(t->qts, VTD_GSTS), ==,
                    VTD_TRANSLATION | VTD_ROOT_TABLE);
}

static void disable_intel_iommu(Test *t)
{
    qtest_writel(t->qts, VTD_GCMD, 0);
    g_assert_cmphex(qtest_readl(t->qts, VTD_GSTS) & VTD_TRANSLATION, ==, 0);
}

/* An IOMMU that the guest does not use changes nothing */
static void test_viommu_off(const void *nic_option)
{
    g_autofree char *args = g_strdup_printf("-M q35 -device intel-iommu "
                                            NETDEV_OPTION "%s",
                                            (const char *)nic_option);
    Test *t = start_qemu("--map any", args);
    Nic *nic = start_nic(t, 0);
    uint64_t messages = vdpa_soft_number(t->soft, "messages");

    g_assert_cmpint(nic_has(nic, VIRTIO_F_ACCESS_PLATFORM), ==,
                    !!strstr(nic_option, "iommu_platform=on"));
    assert_memory_mapped(t);
    check_data(nic, 1);
    nic_start(nic, 0);
    assert_memory_mapped(t);
    check_data(nic, 3);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "messages"), ==, messages);
    nic_free(nic);
    end(t);
}

/* An IOMMU that does not tell what the guest maps */
static void test_viommu_not_followed(void)
{
    const char *complaint = "'" NODE "'.*cannot follow the virtual IOMMU.*"
                            "intel-iommu needs caching-mode=on";
    Test *t = start_qemu("--map any", "-M q35 -device intel-iommu "
                         NETDEV_OPTION IOMMU_NIC_OPTION ",vectors=0");
    Nic *nic = nic_new_intx(t, NIC_SLOT);

    /* The guest has it translate before the driver starts */
    enable_intel_iommu(t, new_table(t));
    nic_prepare(nic, 0);
    nic_set_driver_ok(nic);
    wait_needs_reset(nic);
    take_error(t, complaint);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), ==, 0);

    disable_intel_iommu(t);
    check_recovery(nic);
    assert_memory_mapped(t);

    /* The same while it runs: what the guest took away is gone at least */
    enable_intel_iommu(t, new_table(t));
    wait_needs_reset(nic);
    take_error(t, complaint);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "mappings"), ==, 0);
    disable_intel_iommu(t);
    check_recovery(nic);
    assert_memory_mapped(t);
    nic_free(nic);
    end(t);
}

/* Where the guest puts what it maps: memory is nowhere near */
#define IOVA_BASE (28 * GiB)
#define IOMMU_SLOT 5
#define VIRTIO_IOMMU_OPTIONS                                           \
    "-M q35 -device virtio-iommu-pci,addr=5 " NETDEV_OPTION            \
    IOMMU_NIC_OPTION ",vectors=0"
#define IOMMU_DOMAIN 1

/**
 * struct Iommu - the guest's driver of an IOMMU, for one device
 * @nic: the device, whose rings get IOVAs
 * @bus: what the device's driver uses instead of @plain
 * @pci: virtio-iommu; NULL for intel-iommu
 * @page: for virtio-iommu's requests; intel-iommu's table of pages
 * @next: the address of the next mapping; they do not touch each other
 * @ranges: what is mapped
 */
typedef struct Iommu {
    Test *t;
    Nic *nic;
    QVirtioBus bus;
    const QVirtioBus *plain;
    QVirtioPCIDevice *pci;
    QVirtQueue *vq;
    uint64_t page;
    uint64_t next;
    GArray *ranges;
} Iommu;

/* Send a request; @size is without the tail */
static void iommu_request(Iommu *iommu, const void *request, size_t size)
{
    struct virtio_iommu_req_tail tail = { .status = 0xee };
    QTestState *qts = iommu->t->qts;
    uint64_t end = iommu->page + size;
    uint32_t head;

    qtest_memwrite(qts, iommu->page, request, size);
    qtest_memwrite(qts, end, &tail, sizeof(tail));
    head = qvirtqueue_add(qts, iommu->vq, iommu->page, size, false, true);
    qvirtqueue_add(qts, iommu->vq, end, sizeof(tail), true, false);
    qvirtqueue_kick(qts, &iommu->pci->vdev, iommu->vq, head);
    qvirtio_wait_used_elem(qts, &iommu->pci->vdev, iommu->vq, head, NULL,
                           DEADLINE_US);
    qtest_memread(qts, end, &tail, sizeof(tail));
    g_assert_cmpuint(tail.status, ==, VIRTIO_IOMMU_S_OK);
    qvirtqueue_reset_pool(iommu->vq);
}

static void iommu_attach(Iommu *iommu, unsigned type)
{
    struct virtio_iommu_req_attach request = {
        .head.type = type,
        .domain = cpu_to_le32(IOMMU_DOMAIN),
        .endpoint = cpu_to_le32(QPCI_DEVFN(NIC_SLOT, 0)),
    };

    iommu_request(iommu, &request, offsetof(struct virtio_iommu_req_attach,
                                            tail));
}

/* Fill in, or empty, what intel-iommu looks up for a range, and tell it so */
static void intel_iommu_set(Iommu *iommu, const Range64 *r, uint64_t gpa)
{
    QTestState *qts = iommu->t->qts;
    unsigned order = ctz64(pow2ceil(r->last - r->first + 1)) - 12;
    uint64_t i;

    for (i = r->first; i < r->last; i += 4096) {
        g_assert_cmphex(i - IOVA_BASE, <, 2 * MiB);
        qtest_writeq(qts, iommu->page + (i - IOVA_BASE) / 4096 * 8,
                     r->perm ? (gpa + i - r->first) | r->perm : 0);
    }
    qtest_writeq(qts, VTD_IVA, r->first | order);
    qtest_writeq(qts, VTD_IOTLB, VTD_INVALIDATE | VTD_PAGES |
                 (uint64_t)IOMMU_DOMAIN << 32);
    g_assert_cmphex(qtest_readq(qts, VTD_IOTLB) & VTD_INVALIDATE, ==, 0);
}

/* Returns the IOVA; @perm has the bits of IOTLB messages */
static uint64_t iommu_map(Iommu *iommu, uint64_t gpa, size_t size,
                          unsigned perm)
{
    Range64 r = {
        .first = iommu->next,
        .last = iommu->next + ROUND_UP(size, 4096) - 1,
        .perm = perm,
    };
    struct virtio_iommu_req_map request = {
        .head.type = VIRTIO_IOMMU_T_MAP,
        .domain = cpu_to_le32(IOMMU_DOMAIN),
        .virt_start = cpu_to_le64(r.first),
        .virt_end = cpu_to_le64(r.last),
        .phys_start = cpu_to_le64(gpa),
        .flags = cpu_to_le32((perm & 1 ? VIRTIO_IOMMU_MAP_F_READ : 0) |
                             (perm & 2 ? VIRTIO_IOMMU_MAP_F_WRITE : 0)),
    };

    g_assert_cmphex(gpa % 4096, ==, 0);
    if (iommu->pci) {
        iommu_request(iommu, &request, offsetof(struct virtio_iommu_req_map,
                                                tail));
    } else {
        intel_iommu_set(iommu, &r, gpa);
    }
    g_array_append_val(iommu->ranges, r);
    /* A mapping that is not aligned to its size, QEMU takes as several */
    iommu->next = ROUND_UP(r.last + 1 + 4096, 64 * KiB);
    return r.first;
}

static void iommu_unmap(Iommu *iommu, uint64_t iova)
{
    struct virtio_iommu_req_unmap request = {
        .head.type = VIRTIO_IOMMU_T_UNMAP,
        .domain = cpu_to_le32(IOMMU_DOMAIN),
        .virt_start = cpu_to_le64(iova),
    };
    unsigned i;

    for (i = 0; i < iommu->ranges->len; i++) {
        Range64 r = g_array_index(iommu->ranges, Range64, i);

        if (r.first != iova) {
            continue;
        }
        g_array_remove_index(iommu->ranges, i);
        if (iommu->pci) {
            request.virt_end = cpu_to_le64(r.last);
            iommu_request(iommu, &request,
                          offsetof(struct virtio_iommu_req_unmap, tail));
        } else {
            r.perm = 0;
            intel_iommu_set(iommu, &r, 0);
        }
        return;
    }
    g_assert_not_reached();
}

static void iommu_set_queue_address(QVirtioDevice *d, QVirtQueue *vq)
{
    Iommu *iommu = container_of(d->bus, Iommu, bus);
    uint64_t iova = iommu_map(iommu, vq->desc,
                              qvring_size(vq->size, vq->align), 3);
    QVirtQueue there = *vq;

    there.desc = iova;
    there.avail = iova + vq->avail - vq->desc;
    there.used = iova + vq->used - vq->desc;
    iommu->plain->set_queue_address(d, &there);
}

static Iommu *iommu_new_common(Nic *nic)
{
    Iommu *iommu = g_new0(Iommu, 1);

    iommu->t = nic->t;
    iommu->nic = nic;
    iommu->next = IOVA_BASE;
    iommu->ranges = ranges_new();
    iommu->plain = nic->vdev->bus;
    iommu->bus = *iommu->plain;
    iommu->bus.set_queue_address = iommu_set_queue_address;
    nic->vdev->bus = &iommu->bus;
    return iommu;
}

static Iommu *iommu_new(Nic *nic)
{
    QPCIAddress address = { .devfn = QPCI_DEVFN(IOMMU_SLOT, 0) };
    Test *t = nic->t;
    Iommu *iommu = iommu_new_common(nic);
    QVirtioDevice *vdev;

    iommu->page = guest_alloc(&t->alloc, 4096);
    iommu->pci = virtio_pci_new(t->bus, &address);
    g_assert_nonnull(iommu->pci);
    vdev = &iommu->pci->vdev;
    qvirtio_pci_device_enable(iommu->pci);
    qvirtio_start_device(vdev);
    qvirtio_set_features(vdev, qvirtio_get_features(vdev) &
                         ~FEATURES_ON_DEMAND);
    iommu->vq = qvirtqueue_setup(vdev, &t->alloc, 0);
    qvirtio_set_driver_ok(vdev);
    iommu_attach(iommu, VIRTIO_IOMMU_T_ATTACH);
    return iommu;
}

static Iommu *intel_iommu_new(Nic *nic)
{
    unsigned devfn = QPCI_DEVFN(NIC_SLOT, 0);
    Test *t = nic->t;
    uint64_t root = new_table(t), context = new_table(t);
    uint64_t gigabytes = new_table(t), megabytes = new_table(t);
    Iommu *iommu = iommu_new_common(nic);

    iommu->page = new_table(t);
    qtest_writeq(t->qts, root, context | 1);
    qtest_writeq(t->qts, context + devfn * 16, gigabytes | 1);
    /* Tables of three levels */
    qtest_writeq(t->qts, context + devfn * 16 + 8, IOMMU_DOMAIN << 8 | 1);
    qtest_writeq(t->qts, gigabytes + IOVA_BASE / GiB * 8, megabytes | 3);
    qtest_writeq(t->qts, megabytes, iommu->page | 3);
    enable_intel_iommu(t, root);
    qtest_writeq(t->qts, VTD_CCMD, VTD_INVALIDATE | VTD_ALL_CONTEXTS);
    g_assert_cmphex(qtest_readq(t->qts, VTD_CCMD) & VTD_INVALIDATE, ==, 0);
    qtest_writeq(t->qts, VTD_IOTLB, VTD_INVALIDATE | VTD_ALL_PAGES);
    g_assert_cmphex(qtest_readq(t->qts, VTD_IOTLB) & VTD_INVALIDATE, ==, 0);
    return iommu;
}

static void iommu_free(Iommu *iommu)
{
    iommu->nic->vdev->bus = iommu->plain;
    if (iommu->pci) {
        qvirtqueue_cleanup(iommu->pci->vdev.bus, iommu->vq,
                           &iommu->t->alloc);
        qvirtio_pci_device_disable(iommu->pci);
        g_free(iommu->pci->pdev);
        g_free(iommu->pci);
    }
    guest_free(&iommu->t->alloc, iommu->page);
    g_array_unref(iommu->ranges);
    g_free(iommu);
}

/* The device has what the guest mapped, and nothing else */
static void assert_iommu_mapped(Iommu *iommu)
{
    g_autoptr(GArray) device = device_ranges(iommu->t);
    unsigned i;

    g_assert_cmpuint(device->len, ==, iommu->ranges->len);
    for (i = 0; i < device->len; i++) {
        Range64 *d = &g_array_index(device, Range64, i);
        Range64 *r = &g_array_index(iommu->ranges, Range64, i);

        g_assert_cmphex(d->first, ==, r->first);
        g_assert_cmphex(d->last, ==, r->last);
        g_assert_cmpuint(d->perm, ==, r->perm);
    }
}

/* The IOTLB messages since the last time */
static GPtrArray *iommu_messages(Iommu *iommu)
{
    g_autoptr(GPtrArray) calls = vdpa_soft_messages(iommu->t->soft);
    GPtrArray *messages = no_calls();
    unsigned i;

    for (i = 0; i < calls->len; i++) {
        if (g_str_has_prefix(calls->pdata[i], "IOTLB_")) {
            add(messages, "%s", (char *)calls->pdata[i]);
        }
    }
    return messages;
}

static void assert_no_iommu_messages(Iommu *iommu, const char *what)
{
    g_autoptr(GPtrArray) messages = iommu_messages(iommu);
    g_autoptr(GPtrArray) expected = no_calls();

    vdpa_soft_assert_calls(what, messages, expected);
}

static void add_range(GPtrArray *calls, const char *message, const Range64 *r)
{
    g_autofree char *perm = strstr(message, "UPDATE") ?
                            g_strdup_printf(" perm=%u", r->perm) : NULL;

    add(calls, "%s asid=0 iova=0x%" PRIx64 " size=0x%" PRIx64 "%s", message,
        r->first, r->last - r->first + 1, perm ?: "");
}

/* All that happened is that one range came, or went, in a batch of its own */
static void assert_one_message(Iommu *iommu, const char *message,
                               const Range64 *r)
{
    g_autoptr(GPtrArray) calls = vdpa_soft_messages(iommu->t->soft);
    g_autoptr(GPtrArray) expected = no_calls();

    add(expected, "IOTLB_BATCH_BEGIN asid=0");
    add_range(expected, message, r);
    add(expected, "IOTLB_BATCH_END asid=0");
    vdpa_soft_assert_calls("one request", calls, expected);
}

/* What the device has, as messages that take it away */
static GPtrArray *removals(Test *t)
{
    QDict *reply = vdpa_soft_request(t->soft, "mappings");
    GPtrArray *messages = no_calls();
    const QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(reply, "entries"), e) {
        QDict *entry = qobject_to(QDict, qlist_entry_obj(e));
        Range64 r = {
            .first = qdict_get_int(entry, "first"),
            .last = qdict_get_int(entry, "last"),
        };

        add_range(messages, "IOTLB_INVALIDATE", &r);
    }
    qobject_unref(reply);
    return messages;
}

/* One batch takes away what is in @removed, and maps what the guest mapped */
static void assert_replaced(Iommu *iommu, GPtrArray *removed)
{
    g_autoptr(GPtrArray) messages = iommu_messages(iommu);
    g_autoptr(GPtrArray) expected = no_calls();
    unsigned i;

    add(expected, "IOTLB_BATCH_BEGIN asid=0");
    for (i = 0; i < removed->len; i++) {
        add(expected, "%s", (char *)removed->pdata[i]);
    }
    for (i = 0; i < iommu->ranges->len; i++) {
        add_range(expected, "IOTLB_UPDATE",
                  &g_array_index(iommu->ranges, Range64, i));
    }
    add(expected, "IOTLB_BATCH_END asid=0");
    vdpa_soft_assert_calls("what the guest mapped", messages, expected);
}

/* Two buffers at IOVAs of their own, and frames in both directions */
typedef struct IommuBuffers {
    uint64_t tx;
    uint64_t tx_iova;
    uint64_t rx;
    uint64_t rx_iova;
} IommuBuffers;

#define IOMMU_FRAME_SIZE 700

static void iommu_buffers_map(Iommu *iommu, IommuBuffers *b)
{
    size_t size = HEADER_SIZE + IOMMU_FRAME_SIZE;

    b->tx = guest_alloc(&iommu->t->alloc, size);
    b->tx_iova = iommu_map(iommu, b->tx, size, 1);
    b->rx = guest_alloc(&iommu->t->alloc, size);
    b->rx_iova = iommu_map(iommu, b->rx, size, 2);
}

static void iommu_check_data(Nic *nic, const IommuBuffers *b, unsigned seed)
{
    size_t frame_size = IOMMU_FRAME_SIZE, size = HEADER_SIZE + frame_size;
    QVirtQueue *rx = nic_rx(nic, 0), *tx = nic_tx(nic, 0);
    uint8_t *frame = g_malloc(frame_size);
    g_autofree char *hex = NULL;
    QTestState *qts = nic->t->qts;
    uint32_t head;

    make_frame(frame, frame_size, seed);
    qtest_memset(qts, b->tx, 0, HEADER_SIZE);
    qtest_memwrite(qts, b->tx + HEADER_SIZE, frame, frame_size);
    vdpa_soft_do(nic->t->soft, "capture on");
    head = qvirtqueue_add(qts, tx, b->tx_iova, size, false, false);
    nic_offer(nic, tx, head);
    nic_take(nic, tx, head);
    assert_captured(nic->t, 1, &frame, &frame_size);
    vdpa_soft_do(nic->t->soft, "capture off");
    qvirtqueue_reset_pool(tx);

    make_frame(frame, frame_size, seed + 1);
    hex = to_hex(frame, frame_size);
    qtest_memset(qts, b->rx, 0xee, size);
    head = qvirtqueue_add(qts, rx, b->rx_iova, size, true, false);
    nic_offer(nic, rx, head);
    vdpa_soft_do(nic->t->soft, "inject %s vq=0", hex);
    g_assert_cmpuint(nic_take(nic, rx, head), ==, size);
    assert_header(nic, b->rx, 1);
    assert_mem(nic->t, b->rx + HEADER_SIZE, frame, frame_size);
    qvirtqueue_reset_pool(rx);
    g_free(frame);
}

static void set_bus_master(Nic *nic, bool on)
{
    QPCIDevice *pci = nic->pci->pdev;
    uint16_t command = qpci_config_readw(pci, PCI_COMMAND);

    qpci_config_writew(pci, PCI_COMMAND, on ? command | PCI_COMMAND_MASTER :
                       command & ~PCI_COMMAND_MASTER);
}

/* The device reads what the guest has taken from it */
static void check_iommu_fault(Nic *nic, uint64_t iova)
{
    QVirtQueue *vq = nic_tx(nic, 0);
    const QListEntry *e;
    QDict *reply;
    uint32_t head;

    head = qvirtqueue_add(nic->t->qts, vq, iova, 100, false, false);
    nic_offer(nic, vq, head);
    vdpa_soft_wait(nic->t->soft, "faults >= 1");
    reply = vdpa_soft_request(nic->t->soft, "faults");
    QLIST_FOREACH_ENTRY(qdict_get_qlist(reply, "entries"), e) {
        QDict *fault = qobject_to(QDict, qlist_entry_obj(e));

        g_assert_cmphex(qdict_get_int(fault, "iova"), ==, iova);
        g_assert_cmpstr(qdict_get_str(fault, "why"), ==, "unmapped");
    }
    qobject_unref(reply);
    nic->t->faults = vdpa_soft_number(nic->t->soft, "faults");
}

/* The guest decides what the device reaches, and at which address */
static void test_viommu(const void *soft)
{
    bool persist = !strstr(soft, "--persist off");
    Test *t = start_qemu(soft, VIRTIO_IOMMU_OPTIONS);
    Nic *nic = nic_new_intx(t, NIC_SLOT);
    g_autoptr(GPtrArray) removed = NULL, all = NULL;
    IommuBuffers buffers, more;
    Iommu *iommu;
    Range64 r;

    /* The firmware knows nothing of it */
    nic_start(nic, 0);
    assert_memory_mapped(t);
    check_data(nic, 1);
    nic_negotiate(nic, 0);

    iommu = iommu_new(nic);
    removed = removals(t);
    g_assert_cmpint(removed->len > 0, ==, persist);
    vdpa_soft_skip(t->soft);
    nic_prepare(nic, 0);
    g_assert_true(nic_has(nic, VIRTIO_F_ACCESS_PLATFORM));
    iommu_buffers_map(iommu, &buffers);
    assert_no_iommu_messages(iommu, "what is mapped for an idle device");
    nic_set_driver_ok(nic);
    vdpa_soft_wait(t->soft, "status == 15");
    assert_iommu_mapped(iommu);
    assert_replaced(iommu, removed);
    iommu_check_data(nic, &buffers, 3);

    /* Each request is carried out before the guest learns that it was */
    vdpa_soft_skip(t->soft);
    more.tx = guest_alloc(&t->alloc, 4 * 4096);
    more.tx_iova = iommu_map(iommu, more.tx, 4 * 4096, 3);
    r = g_array_index(iommu->ranges, Range64, iommu->ranges->len - 1);
    assert_one_message(iommu, "IOTLB_UPDATE", &r);
    assert_iommu_mapped(iommu);
    more.rx = more.tx + 4096;
    more.rx_iova = more.tx_iova + 4096;
    iommu_check_data(nic, &more, 5);
    assert_no_calls(t, "data");
    iommu_unmap(iommu, more.tx_iova);
    assert_one_message(iommu, "IOTLB_INVALIDATE", &r);
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &buffers, 7);

    /* A mapping of several parts, and buffers across their border */
    iommu->next += 4096;
    more.tx_iova = iommu_map(iommu, more.tx, 3 * 4096, 3) + 4000;
    more.rx_iova = more.tx_iova;
    more.tx += 4000;
    more.rx = more.tx;
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &more, 8);

    /* A pause changes nothing */
    vdpa_soft_skip(t->soft);
    stop_guest(t);
    continue_guest(t);
    vdpa_soft_wait(t->soft, "status == 15");
    assert_no_iommu_messages(iommu, "a pause");
    iommu_check_data(nic, &buffers, 9);

    /* Nor does the device reach anything else */
    g_assert_cmpuint(vdpa_soft_number(t->soft, "faults"), ==, 0);
    iommu_unmap(iommu, more.tx_iova - 4000);
    assert_iommu_mapped(iommu);
    check_iommu_fault(nic, more.tx_iova);

    /* A new start is for the same mappings, less those of old rings */
    qvirtio_reset(nic->vdev);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "mappings"), ==,
                     persist ? iommu->ranges->len : 0);
    while (iommu->ranges->len > 0) {
        iommu_unmap(iommu, g_array_index(iommu->ranges, Range64, 0).first);
    }
    nic_prepare(nic, 0);
    iommu_buffers_map(iommu, &buffers);
    nic_set_driver_ok(nic);
    vdpa_soft_wait(t->soft, "status == 15");
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &buffers, 11);

    /* A device that may not access memory has none */
    vdpa_soft_skip(t->soft);
    set_bus_master(nic, false);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "mappings"), ==, 0);
    g_assert_cmphex(nic_status(nic) & VIRTIO_CONFIG_S_DRIVER_OK, ==, 0);
    set_bus_master(nic, true);
    nic_set_driver_ok(nic);
    vdpa_soft_wait(t->soft, "status == 15");
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &buffers, 13);

    /* Without a domain, all memory is the device's again */
    qvirtio_reset(nic->vdev);
    iommu_attach(iommu, VIRTIO_IOMMU_T_DETACH);
    iommu_free(iommu);
    nic_start(nic, 0);
    assert_memory_mapped(t);
    check_data(nic, 15);
    all = vdpa_soft_file_messages(t->soft);
    g_assert_cmpuint(count_calls(all, "IOTLB_UPDATE"), ==,
                     count_calls(all, "IOTLB_INVALIDATE") +
                     vdpa_soft_number(t->soft, "mappings"));
    nic_free(nic);
    end(t);
}

/* The same with the other IOMMU, which tells of each page by itself */
static void test_viommu_intel(void)
{
    Test *t = start_qemu("--map any", "-M q35 "
                         "-device intel-iommu,caching-mode=on "
                         NETDEV_OPTION IOMMU_NIC_OPTION ",vectors=0");
    Nic *nic = nic_new_intx(t, NIC_SLOT);
    IommuBuffers buffers, more;
    Iommu *iommu;
    Range64 r;

    nic_start(nic, 0);
    assert_memory_mapped(t);
    check_data(nic, 1);
    nic_negotiate(nic, 0);

    iommu = intel_iommu_new(nic);
    nic_prepare(nic, 0);
    iommu_buffers_map(iommu, &buffers);
    nic_set_driver_ok(nic);
    vdpa_soft_wait(t->soft, "status == 15");
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &buffers, 3);

    vdpa_soft_skip(t->soft);
    iommu_buffers_map(iommu, &more);
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &more, 5);
    vdpa_soft_skip(t->soft);
    r = g_array_index(iommu->ranges, Range64, iommu->ranges->len - 2);
    iommu_unmap(iommu, more.tx_iova);
    assert_one_message(iommu, "IOTLB_INVALIDATE", &r);
    r = g_array_index(iommu->ranges, Range64, iommu->ranges->len - 1);
    iommu_unmap(iommu, more.rx_iova);
    assert_one_message(iommu, "IOTLB_INVALIDATE", &r);
    assert_iommu_mapped(iommu);
    /* Several pages, which the device may have as one */
    more.tx = guest_alloc(&t->alloc, 3 * 4096) + 4000;
    more.tx_iova = iommu_map(iommu, more.tx - 4000, 3 * 4096, 3) + 4000;
    more.rx = more.tx;
    more.rx_iova = more.tx_iova;
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &more, 7);
    stop_guest(t);
    continue_guest(t);
    vdpa_soft_wait(t->soft, "status == 15");
    set_bus_master(nic, false);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "mappings"), ==, 0);
    set_bus_master(nic, true);
    nic_set_driver_ok(nic);
    vdpa_soft_wait(t->soft, "status == 15");
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &more, 9);
    iommu_unmap(iommu, more.tx_iova - 4000);
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &buffers, 11);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "faults"), ==, 0);
    check_iommu_fault(nic, more.tx_iova);

    /* A guest that switches it off under a device that runs */
    disable_intel_iommu(t);
    assert_memory_mapped(t);
    iommu_free(iommu);
    nic_start(nic, 0);
    assert_memory_mapped(t);
    check_data(nic, 13);
    nic_free(nic);
    end(t);
}

/* The guest is rebooted, and QEMU ends, with the device behind the IOMMU */
static void test_viommu_reboot(void)
{
    Test *t = start_qemu("--map any", VIRTIO_IOMMU_OPTIONS);
    IommuBuffers buffers;
    Iommu *iommu;
    Nic *nic;
    int i;

    for (i = 0; i < 2; i++) {
        nic = nic_new_intx(t, NIC_SLOT);
        iommu = iommu_new(nic);
        nic_start(nic, 0);
        iommu_buffers_map(iommu, &buffers);
        assert_iommu_mapped(iommu);
        iommu_check_data(nic, &buffers, 1);

        qtest_system_reset(t->qts);
        g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), ==, 0);
        iommu_free(iommu);
        nic_free(nic);
        nic = nic_new_intx(t, NIC_SLOT);
        nic_start(nic, 0);
        assert_memory_mapped(t);
        check_data(nic, 3);
        qvirtio_reset(nic->vdev);
        nic_free(nic);
    }
    nic = nic_new_intx(t, NIC_SLOT);
    iommu = iommu_new(nic);
    nic_start(nic, 0);
    assert_iommu_mapped(iommu);
    /* These do not tell QEMU anything that would stop the device */
    iommu_free(iommu);
    nic_free(nic);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), ==, 15);
    end(t);
}

/* What the guest may be told to do even if there is no virtual IOMMU */
static void test_access_platform(void)
{
    Test *t = start_qemu("", NETDEV_OPTION NIC_OPTION
                         ",disable-legacy=on,iommu_platform=on");
    Nic *nic = start_nic(t, 0);

    g_assert_true(nic_has(nic, VIRTIO_F_ACCESS_PLATFORM));
    check_data(nic, 1);
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

/* A driver that takes the ring size that it is offered */
static void test_data_ring_size(void)
{
    Test *t = start("");
    Nic *nic = nic_new(t, NIC_SLOT);

    nic->ring_size = 0;
    nic_start(nic, 0);
    check_data(nic, 1);
    nic_free(nic);
    end(t);
}

/* A larger one than the device claims to have works on some, with a warning */
static void test_data_ring_size_too_large(void)
{
    Test *t = start("--vq-num 32");
    Nic *nic = start_nic(t, 0);

    take_error(t, "warning: vhost-vdpa device '" NODE "'.*64 entries.*32.*"
               "rx_queue_size");
    check_data(nic, 1);
    /* Said once, not at each start */
    nic_start(nic, 0);
    check_data(nic, 3);
    nic_free(nic);
    end(t);
}

static void test_data_loopback(void)
{
    Test *t = start("--wire loopback");
    Nic *nic = start_nic(t, 0);
    Batch tx, rx;

    batch_init(&rx, 5, 1);
    batch_init(&tx, 5, 1);
    batch_offer_rx(nic, &rx, 0);
    batch_offer_tx(nic, &tx, 0);
    batch_take(nic, &tx, nic_tx(nic, 0), false);
    batch_take(nic, &rx, nic_rx(nic, 0), true);
    nic_free(nic);
    end(t);
}

/* Two devices at once, joined by a wire: what one sends, the other gets */
static void test_data_two_devices(void)
{
    g_autofree char *dir = g_dir_make_tmp("vhost-vdpa-test-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "wire", NULL);
    g_autofree char *soft =
        g_strdup_printf("--wire unix-listen:%s --node --wire unix:%s", path,
                        path);
    Test *t = start_qemu(soft, NETDEV_OPTION NIC_OPTION " -netdev vhost-vdpa,"
                         "id=net1,vhostdev=/dev/vhost-vdpa-1 -device "
                         "virtio-net-pci,netdev=net1,addr=5,romfile=");
    Nic *nic = start_nic(t, 0), *other = nic_new(t, NIC_SLOT + 1);
    QVirtQueue *vq;
    int i;

    nic_start(other, 0);
    vdpa_soft_do(t->soft, "wait status == 15 %d node=1",
                 VDPA_SOFT_DEADLINE_MS);
    for (i = 0; i < 2; i++) {
        Nic *from = i ? nic : other, *to = i ? other : nic;
        Batch tx, rx;

        batch_init(&rx, 4, i);
        batch_init(&tx, 4, i);
        batch_offer_rx(to, &rx, 0);
        batch_offer_tx(from, &tx, 0);
        vq = nic_tx(from, 0);
        batch_take(from, &tx, vq, false);
        vq = nic_rx(to, 0);
        batch_take(to, &rx, vq, true);
    }
    nic_free(nic);
    nic_free(other);
    end(t);
    g_unlink(path);
    g_rmdir(dir);
}

/* Header and frame apart, behind one indirect descriptor */
static void test_data_indirect(void)
{
    Test *t = start("");
    Nic *nic = start_nic(t, BIT64(VIRTIO_RING_F_INDIRECT_DESC));
    QVirtQueue *vq = nic_tx(nic, 0);
    size_t size = 500;
    g_autofree uint8_t *frame = g_malloc(size);
    QVRingIndirectDesc *table;
    uint64_t addr;
    uint32_t head;

    make_frame(frame, size, 1);
    vdpa_soft_do(t->soft, "capture on");
    addr = new_buffer(nic, frame, size);
    table = qvring_indirect_desc_setup(t->qts, nic->vdev, &t->alloc, 3);
    qvring_indirect_desc_add(nic->vdev, t->qts, table, addr, HEADER_SIZE,
                             false);
    qvring_indirect_desc_add(nic->vdev, t->qts, table, addr + HEADER_SIZE,
                             100, false);
    qvring_indirect_desc_add(nic->vdev, t->qts, table,
                             addr + HEADER_SIZE + 100, size - 100, false);
    head = qvirtqueue_add_indirect(t->qts, vq, table);
    nic_offer(nic, vq, head);
    nic_take(nic, vq, head);
    assert_captured(t, 1, &frame, &size);
    g_free(table);
    nic_free(nic);
    end(t);
}

/* Notifications both ways are left out, until they are wanted */
static void test_data_event_index(void)
{
    Test *t = start("");
    Nic *nic = start_nic(t, BIT64(VIRTIO_RING_F_EVENT_IDX));
    QVirtQueue *vq = nic_tx(nic, 0);
    Batch tx;
    int i;

    for (i = 0; i < 2 * RING_SIZE; i++) {
        check_data(nic, i);
    }
    /* An interrupt for the fifth buffer from here */
    batch_init(&tx, 5, 1);
    for (i = 0; i < tx.count; i++) {
        uint64_t calls = vdpa_soft_number(t->soft, "vq.1.calls");
        g_autofree char *condition =
            g_strdup_printf("vq.1.used-idx == %u", 2 * RING_SIZE + i + 1);

        tx.addr[i] = new_buffer(nic, tx.frame[i], tx.size[i]);
        tx.head[i] = qvirtqueue_add(t->qts, vq, tx.addr[i],
                                    HEADER_SIZE + tx.size[i], false, false);
        qvirtqueue_set_used_event(t->qts, vq, 2 * RING_SIZE + 4);
        qvirtqueue_kick(t->qts, nic->vdev, vq, tx.head[i]);
        vdpa_soft_wait(t->soft, condition);
        g_assert_cmpuint(vdpa_soft_number(t->soft, "vq.1.calls"), ==,
                         calls + (i == 4));
    }
    qvirtio_wait_queue_isr(t->qts, nic->vdev, vq, DEADLINE_US);
    batch_take(nic, &tx, vq, false);
    nic_free(nic);
    end(t);
}

/* A frame that fills several buffers */
static void test_data_mergeable(void)
{
    enum { BUFFER = 200, BUFFERS = 4, FRAME = 3 * BUFFER + 20 };
    Test *t = start("");
    Nic *nic = start_nic(t, BIT64(VIRTIO_NET_F_MRG_RXBUF));
    QVirtQueue *vq = nic_rx(nic, 0);
    g_autofree uint8_t *frame = g_malloc(FRAME);
    g_autofree char *hex = NULL;
    uint64_t addr = guest_alloc(&t->alloc, BUFFERS * BUFFER);
    int64_t deadline = g_get_monotonic_time() + DEADLINE_US;
    uint32_t head, len;
    int i;

    make_frame(frame, FRAME, 1);
    hex = to_hex(frame, FRAME);
    for (i = 0; i < BUFFERS; i++) {
        head = qvirtqueue_add(t->qts, vq, addr + i * BUFFER, BUFFER, true,
                              false);
        g_assert_cmpuint(head, ==, i);
        nic_offer(nic, vq, head);
    }
    vdpa_soft_do(t->soft, "inject %s vq=0", hex);
    qvirtio_wait_queue_isr(t->qts, nic->vdev, vq, DEADLINE_US);
    for (i = 0; i < BUFFERS; i++) {
        while (!qvirtqueue_get_buf(t->qts, vq, &head, &len)) {
            g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        }
        g_assert_cmpuint(head, ==, i);
        g_assert_cmpuint(len, ==, MIN(BUFFER, HEADER_SIZE + FRAME -
                                      i * BUFFER));
    }
    assert_header(nic, addr, BUFFERS);
    assert_mem(t, addr + HEADER_SIZE, frame, FRAME);
    nic_free(nic);
    end(t);
}

/* Without MSI-X: one interrupt line, and a register that says what for */
static void test_data_intx(void)
{
    Test *t = start_qemu("", NETDEV_OPTION NIC_OPTION ",vectors=0");
    Nic *nic = nic_new_intx(t, NIC_SLOT);

    nic_start(nic, 0);
    check_data(nic, 1);
    vdpa_soft_do(t->soft, "link down");
    qvirtio_wait_config_isr(nic->vdev, DEADLINE_US);
    nic_free(nic);
    end(t);
}

/* --- Queue pairs and the control queue --- */

static uint8_t set_pairs(Nic *nic, unsigned pairs)
{
    uint16_t le_pairs = cpu_to_le16(pairs);

    return nic_control(nic, VIRTIO_NET_CTRL_MQ,
                       VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &le_pairs,
                       sizeof(le_pairs));
}

static void test_multiqueue(void)
{
    /* The guest gets fewer pairs than the device has */
    Test *t = start_qemu("--queues 4", "-netdev vhost-vdpa,id=net0,queues=3,"
                         "vhostdev=" NODE " " NIC_OPTION ",mq=on,vectors=8");
    g_autoptr(GPtrArray) calls = NULL;
    Nic *nic;
    unsigned i;

    vdpa_soft_skip(t->soft);
    nic = start_nic(t, BIT64(VIRTIO_NET_F_MQ));
    g_assert_cmpuint(nic_pairs(nic), ==, 3);
    calls = vdpa_soft_calls(t->soft);
    /* The control queue is the device's last */
    for (i = 0; i <= 8; i++) {
        unsigned expected = i < 6 || i == 8;
        g_autofree char *num = g_strdup_printf("SET_VRING_NUM index=%u ", i);
        g_autofree char *enable = g_strdup_printf("SET_VRING_ENABLE index=%u "
                                                  "num=1", i);

        g_assert_cmpuint(count_calls(calls, num), ==, expected);
        g_assert_cmpuint(count_calls(calls, enable), ==, expected);
    }
    check_data(nic, 1);
    g_assert_cmpuint(set_pairs(nic, 3), ==, VIRTIO_NET_OK);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "active-pairs"), ==, 3);
    for (i = 0; i < 3; i++) {
        check_tx(nic, i, 100, i);
        check_rx(nic, i, 200, i);
        /* Each used its own rings */
        g_assert_cmpuint(qtest_readw(t->qts, nic_tx(nic, i)->used + 2), ==,
                         i ? 1 : 2);
    }
    g_assert_cmpuint(set_pairs(nic, 1), ==, VIRTIO_NET_OK);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "active-pairs"), ==, 1);
    check_data(nic, 3);

    stop_guest(t);
    continue_guest(t);
    check_data(nic, 5);
    g_assert_cmpuint(set_pairs(nic, 2), ==, VIRTIO_NET_OK);
    check_tx(nic, 1, 100, 7);
    check_rx(nic, 1, 200, 7);

    /* A driver without MQ, whose control queue has another index */
    g_ptr_array_unref(calls);
    vdpa_soft_skip(t->soft);
    nic_start(nic, 0);
    calls = vdpa_soft_calls(t->soft);
    g_assert_cmpuint(count_calls(calls, "SET_VRING_ENABLE"), ==, 3);
    g_assert_cmpuint(count_calls(calls, "SET_VRING_ENABLE index=2 "), ==, 1);
    check_data(nic, 9);
    g_assert_cmpuint(nic_control(nic, VIRTIO_NET_CTRL_RX,
                                 VIRTIO_NET_CTRL_RX_PROMISC, "\1", 1), ==,
                     VIRTIO_NET_OK);
    nic_free(nic);
    end(t);
}

/* As many pairs as there are, unless told otherwise */
static void test_multiqueue_all(void)
{
    Test *t = start_qemu("--queues 4 --wire loopback", NETDEV_OPTION
                         NIC_OPTION ",mq=on,vectors=10");
    Nic *nic = start_nic(t, BIT64(VIRTIO_NET_F_MQ));
    unsigned i;

    g_assert_cmpuint(nic_pairs(nic), ==, 4);
    g_assert_cmpuint(set_pairs(nic, 4), ==, VIRTIO_NET_OK);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "active-pairs"), ==, 4);
    for (i = 0; i < 4; i++) {
        Batch tx, rx;

        batch_init(&rx, 3, i);
        batch_init(&tx, 3, i);
        batch_offer_rx(nic, &rx, i);
        batch_offer_tx(nic, &tx, i);
        batch_take(nic, &tx, nic_tx(nic, i), false);
        batch_take(nic, &rx, nic_rx(nic, i), true);
    }
    nic_free(nic);
    end(t);
}

static void test_control(void)
{
    static const uint8_t mac[6] = { 0x52, 0x54, 0, 0x77, 0x66, 0x55 };
    uint16_t vlan = cpu_to_le16(5);
    g_autofree char *text = NULL;
    Test *t = start("");
    Nic *nic = start_nic(t, 0);
    QDict *stats;
    int i;

    g_assert_cmpuint(nic_control(nic, VIRTIO_NET_CTRL_MAC,
                                 VIRTIO_NET_CTRL_MAC_ADDR_SET, mac,
                                 sizeof(mac)), ==, VIRTIO_NET_OK);
    text = vdpa_soft_text(t->soft, "mac");
    g_assert_cmpstr(text, ==, "52:54:00:77:66:55");
    /* The guest reads it back */
    for (i = 0; i < sizeof(mac); i++) {
        g_assert_cmphex(qvirtio_config_readb(nic->vdev, i), ==, mac[i]);
    }
    g_assert_cmpuint(nic_control(nic, VIRTIO_NET_CTRL_VLAN,
                                 VIRTIO_NET_CTRL_VLAN_ADD, &vlan,
                                 sizeof(vlan)), ==, VIRTIO_NET_OK);
    stats = vdpa_soft_request(t->soft, "stats");
    g_assert_cmpuint(qlist_size(qdict_get_qlist(stats, "vlans")), ==, 1);
    qobject_unref(stats);
    /* What the device refuses, the guest sees refused */
    g_assert_cmpuint(nic_control(nic, 77, 1, "", 1), ==, VIRTIO_NET_ERR);
    check_data(nic, 1);
    nic_free(nic);
    end(t);
}

/* --- Configuration space --- */

#define CONFIG(field) offsetof(struct virtio_net_config, field)

static void assert_mac(Nic *nic, const char *expected)
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
static void check_config_interrupt(Nic *nic)
{
    VdpaSoft *soft = nic->t->soft;

    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==,
                    VIRTIO_NET_S_LINK_UP);
    vdpa_soft_do(soft, "link down");
    qvirtio_wait_config_isr(nic->vdev, DEADLINE_US);
    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==, 0);
    vdpa_soft_do(soft, "link up");
    qvirtio_wait_config_isr(nic->vdev, DEADLINE_US);
    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==,
                    VIRTIO_NET_S_LINK_UP);
    vdpa_soft_do(soft, "announce");
    qvirtio_wait_config_isr(nic->vdev, DEADLINE_US);
    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==,
                    VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    g_assert_cmpuint(nic_control(nic, VIRTIO_NET_CTRL_ANNOUNCE,
                                 VIRTIO_NET_CTRL_ANNOUNCE_ACK, "", 0), ==,
                     VIRTIO_NET_OK);
    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==,
                    VIRTIO_NET_S_LINK_UP);
}

static void test_config_interrupt(void)
{
    Test *t = start("");
    Nic *nic = start_nic(t, 0);

    check_config_interrupt(nic);
    /* The interrupt outlives resets and stops */
    nic_start(nic, 0);
    check_config_interrupt(nic);
    stop_guest(t);
    continue_guest(t);
    check_config_interrupt(nic);
    qtest_system_reset(t->qts);
    nic_free(nic);
    nic = start_nic(t, 0);
    check_config_interrupt(nic);
    check_data(nic, 1);
    nic_free(nic);
    end(t);
}

/* A device that forgets the interrupt at each reset */
static void test_config_interrupt_forgotten(void)
{
    Test *t = start("--like vduse");
    Nic *nic = start_nic(t, 0);
    int i;

    for (i = 0; i < 3; i++) {
        vdpa_soft_do(t->soft, "link down");
        qvirtio_wait_config_isr(nic->vdev, DEADLINE_US);
        g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==,
                        0);
        vdpa_soft_do(t->soft, "link up");
        qvirtio_wait_config_isr(nic->vdev, DEADLINE_US);
        stop_guest(t);
        continue_guest(t);
        nic_start(nic, 0);
    }
    nic_free(nic);
    end(t);
}

/* The address given to QEMU, where the device takes it */
static void test_config_mac(void)
{
    Test *t = start("--mac " DEVICE_MAC);
    QDict *reply = vdpa_soft_request(t->soft, "transcript");
    g_autofree char *mac = vdpa_soft_text(t->soft, "mac");
    const QListEntry *e;
    bool found = false;
    Nic *nic;

    g_assert_cmpstr(mac, ==, GUEST_MAC);
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
    nic = start_nic(t, 0);
    assert_mac(nic, GUEST_MAC);
    nic_free(nic);
    end(t);
}

/* The device's own, where it does not */
static void test_config_mac_fixed(void)
{
    Test *t = start("--like mlx5 --map any --mac " DEVICE_MAC);
    Nic *nic = start_nic(t, 0);

    assert_mac(nic, DEVICE_MAC);
    nic_free(nic);
    end(t);
}

/* QEMU's, where there is none */
static void test_config_mac_none(void)
{
    Test *t = start("--no-feature MAC --no-feature CTRL_MAC_ADDR");
    Nic *nic = start_nic(t, 0);

    assert_mac(nic, GUEST_MAC);
    nic_free(nic);
    end(t);
}

/* A device with less than the guest can see is never asked for more */
static void test_config_bounds(void)
{
    Test *t = start("--config-size 6 --no-feature MTU --no-feature STATUS");
    Nic *nic = start_nic(t, 0);
    g_autoptr(GPtrArray) calls = NULL;
    unsigned i;

    /* QEMU has the last word on what the device does not have */
    assert_mac(nic, GUEST_MAC);
    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)), ==,
                    VIRTIO_NET_S_LINK_UP);
    t->soft->seq = 0;
    calls = vdpa_soft_calls(t->soft);
    g_assert_cmpuint(count_calls(calls, "GET_CONFIG off"), >, 0);
    for (i = 0; i < calls->len; i++) {
        unsigned off, len;

        if (sscanf(calls->pdata[i], "%*cET_CONFIG off=%u len=%u", &off,
                   &len) == 2) {
            g_assert_cmpuint(off + len, <=, 6);
        }
    }
    check_data(nic, 1);
    nic_free(nic);
    end(t);
}

static void test_config_mtu(void)
{
    Test *t = start_qemu("--mtu 9000", NETDEV_OPTION NIC_OPTION
                         ",host_mtu=1400");
    Nic *nic = start_nic(t, 0);

    /* What the device says counts, if QEMU's user wants one at all */
    g_assert_true(nic_has(nic, VIRTIO_NET_F_MTU));
    g_assert_cmpuint(qvirtio_config_readw(nic->vdev, CONFIG(mtu)), ==, 9000);
    nic_free(nic);
    end(t);
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
    Test *t;
    Nic *nic;
    int i;

    t = start("--add-feature RING_RESET --add-feature NOTIFICATION_DATA "
              "--add-feature SR_IOV");
    nic = nic_new(t, NIC_SLOT);
    features = qvirtio_get_features(nic->vdev);
    g_assert_cmphex(features & (BIT64(VIRTIO_F_RING_RESET) |
                                BIT64(VIRTIO_F_NOTIFICATION_DATA) |
                                BIT64(VIRTIO_F_SR_IOV)), ==, 0);
    for (i = 0; i < ARRAY_SIZE(device_only); i++) {
        g_assert_cmphex(features & BIT64(device_only[i]), !=, 0);
    }
    nic_start(nic, 0);
    check_data(nic, 1);
    nic_free(nic);
    end(t);

    t = start("--no-feature MRG_RXBUF --no-feature CTRL_VLAN "
              "--no-feature GUEST_ANNOUNCE --no-feature EVENT_IDX "
              "--no-feature INDIRECT_DESC --no-feature CTRL_RX");
    nic = nic_new(t, NIC_SLOT);
    features = qvirtio_get_features(nic->vdev);
    for (i = 0; i < ARRAY_SIZE(device_only); i++) {
        g_assert_cmphex(features & BIT64(device_only[i]), ==, 0);
    }
    nic_start(nic, 0);
    check_data(nic, 1);
    nic_free(nic);
    end(t);
}

/* A device without a control queue */
/* A command that the device has not got to is not QEMU's to carry out */
static void test_control_pending(void)
{
    /* Receive mode: not promiscuous */
    static const uint8_t command[] = { VIRTIO_NET_CTRL_RX,
                                       VIRTIO_NET_CTRL_RX_PROMISC, 0 };
    Test *t = start("");
    Nic *nic = start_nic(t, 0);
    QVirtQueue *vq = nic->vq[nic->num_vqs - 1];
    uint64_t addr = guest_alloc(&t->alloc, sizeof(command) + 1);
    uint64_t status = addr + sizeof(command);
    uint32_t head;

    vdpa_soft_do(t->soft, "pause");
    qtest_memwrite(t->qts, addr, command, sizeof(command));
    qtest_writeb(t->qts, status, 0xee);
    head = qvirtqueue_add(t->qts, vq, addr, sizeof(command), false, true);
    qvirtqueue_add(t->qts, vq, status, 1, true, false);
    nic_offer(nic, vq, head);
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'stop' }");
    g_assert_cmphex(qtest_readb(t->qts, status), ==, 0xee);
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'cont' }");
    g_assert_cmphex(qtest_readb(t->qts, status), ==, 0xee);
    vdpa_soft_do(t->soft, "unpause");
    g_assert_cmpuint(nic_take(nic, vq, head), ==, 1);
    g_assert_cmphex(qtest_readb(t->qts, status), ==, VIRTIO_NET_OK);
    check_data(nic, 1);
    nic_free(nic);
    end(t);
}

static void test_features_no_control(void)
{
    Test *t = start("--no-feature CTRL_VQ --no-feature CTRL_RX "
                    "--no-feature CTRL_VLAN --no-feature CTRL_MAC_ADDR "
                    "--no-feature CTRL_RX_EXTRA --no-feature GUEST_ANNOUNCE");
    Nic *nic = start_nic(t, 0);

    g_assert_false(nic_has(nic, VIRTIO_NET_F_CTRL_VQ));
    g_assert_cmpuint(nic->num_vqs, ==, 2);
    check_data(nic, 1);
    stop_guest(t);
    continue_guest(t);
    check_data(nic, 3);
    nic_free(nic);
    end(t);
}

static void test_features_refused(void)
{
    Test *t = start("--refuse-status 8");
    Nic *nic = nic_new(t, NIC_SLOT);
    g_autoptr(GPtrArray) calls = NULL;

    nic_prepare(nic, 0);
    vdpa_soft_skip(t->soft);
    nic_set_driver_ok(nic);
    wait_needs_reset(nic);
    take_error(t, "'" NODE "'.*status 0x8 .*VIRTIO_NET_F_MAC.*"
               "VIRTIO_F_VERSION_1|'" NODE "'.*status 0x8 .*"
               "VIRTIO_F_VERSION_1.*VIRTIO_NET_F_MAC");
    calls = vdpa_soft_calls(t->soft);
    g_assert_cmpuint(count_calls(calls, "SET_VRING"), ==, 0);
    g_assert_cmpstr(calls->pdata[calls->len - 1], ==,
                    "SET_STATUS status=0x0");
    nic_free(nic);
    end(t);
}

static void test_driver_ok_refused(void)
{
    Test *t = start("--fail-driver-ok");
    Nic *nic = nic_new(t, NIC_SLOT);

    nic_prepare(nic, 0);
    nic_set_driver_ok(nic);
    wait_needs_reset(nic);
    take_error(t, "'" NODE "'.*status 0x4 .*0x8b.*host's kernel log");
    g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), ==, 0);
    nic_free(nic);
    end(t);
}

/* A driver from before virtio 1.0 */
static void test_legacy_driver(void)
{
    Test *t = start_qemu("", NETDEV_OPTION NIC_OPTION
                         ",disable-modern=off,disable-legacy=off");
    QPCIAddress address = { .devfn = QPCI_DEVFN(NIC_SLOT, 0) };
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
    take_error(t, "'" NODE "'.*legacy");
    calls = vdpa_soft_calls(t->soft);
    g_assert_cmpuint(count_calls(calls, "SET_"), ==, 0);
    g_free(pci->pdev);
    g_free(pci);
    end(t);
}

static void test_migration_blocked(void)
{
    Test *t = start("");
    QDict *error;

    error = qtest_qmp_assert_failure_ref(t->qts, "{ 'execute': 'migrate',"
                                         "'arguments': {"
                                         "'uri': 'exec:cat>/dev/null' } }");
    g_assert_nonnull(strstr(qdict_get_str(error, "desc"), NODE));
    g_assert_nonnull(strstr(qdict_get_str(error, "desc"),
                            "shadow virtqueues"));
    qobject_unref(error);
    end(t);
}

/* --- Doorbells --- */

static bool doorbell_mapped(Test *t)
{
    g_autofree char *text = qtest_hmp(t->qts, "info mtree -f");

    return strstr(text, "vhost-vdpa-doorbell-1");
}

static void test_doorbell(void)
{
    Test *t = start_qemu("--doorbell on",
                         NETDEV_OPTION NIC_OPTION ",page-per-vq=on");
    Nic *nic = start_nic(t, 0);
    int i;

    g_assert_true(doorbell_mapped(t));
    for (i = 0; i < 10; i++) {
        check_data(nic, i);
    }
    stop_guest(t);
    g_assert_false(doorbell_mapped(t));
    continue_guest(t);
    g_assert_true(doorbell_mapped(t));
    check_data(nic, 20);
    qvirtio_reset(nic->vdev);
    g_assert_false(doorbell_mapped(t));
    nic_start(nic, 0);
    check_data(nic, 22);
    nic_free(nic);
    end(t);
}

/* Where the guest has no page for each queue, eventfds have to do */
static void test_doorbell_unused(void)
{
    Test *t = start("--doorbell on");
    Nic *nic = start_nic(t, 0);

    g_assert_false(doorbell_mapped(t));
    check_data(nic, 1);
    nic_free(nic);
    end(t);
}

/* --- Hotplug of the network card --- */

static void add_netdev(Test *t)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'netdev_add',"
                             "  'arguments': { 'type': 'vhost-vdpa',"
                             "    'id': 'net0', 'vhostdev': '" NODE "' } }");
}

static void add_nic(Test *t)
{
    qtest_qmp_device_add(t->qts, "virtio-net-pci", "nic0",
                         "{ 'netdev': 'net0', 'addr': '0x4', 'romfile': '',"
                         "  'mac': '" GUEST_MAC "', 'page-per-vq': true }");
}

static void remove_nic(Test *t)
{
    qpci_unplug_acpi_device_test(t->qts, "nic0", NIC_SLOT);
}

static void remove_netdev(Test *t)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'netdev_del',"
                             "  'arguments': { 'id': 'net0' } }");
}

static unsigned count_fds(Test *t)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd",
                                            (int)qtest_pid(t->qts));
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    unsigned count = 0;

    g_assert_nonnull(dir);
    while (g_dir_read_name(dir)) {
        count++;
    }
    return count;
}

static unsigned count_mappings(Test *t)
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

static uint64_t resident_kib(Test *t)
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

/*
 * RCU closes what belongs to removed doorbells, which takes its time after a
 * hurry: also when @limit was counted, so that it may be two too large.
 */
static void wait_fds(Test *t, unsigned limit)
{
    int64_t deadline = g_get_monotonic_time() + DEADLINE_US;

    while (count_fds(t) > limit) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    }
}

/* The same is true of memory */
static void wait_resident(Test *t, uint64_t limit_kib)
{
    int64_t deadline = g_get_monotonic_time() + DEADLINE_US;

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
    Test *t = start_qemu("--doorbell on", "");
    unsigned fds = 0, maps = 0;
    uint64_t kib = 0;
    int i;

    for (i = 0; i < ROUNDS; i++) {
        add_netdev(t);
        add_nic(t);
        if (i % 10 == 9) {
            /* Now and then with a guest that uses it until the end */
            Nic *nic = start_nic(t, 0);

            check_data(nic, i);
            remove_nic(t);
            nic_free_vqs(nic);
            g_free(nic->pci->pdev);
            g_free(nic->pci);
            g_free(nic);
        } else {
            remove_nic(t);
        }
        remove_netdev(t);
        vdpa_soft_wait(t->soft, "open == 0");
        vdpa_soft_do(t->soft, "clear");
        if (i == WARM) {
            fds = count_fds(t);
            maps = count_mappings(t);
            kib = resident_kib(t);
        }
    }
    wait_fds(t, fds);
    g_assert_cmpuint(count_mappings(t), <=, maps + 10);
    wait_resident(t, kib + 1024);
    end(t);
}

/* The host's side goes first */
static void test_hotplug_netdev_first(void)
{
    Test *t = start("");
    Nic *nic = start_nic(t, 0);

    check_data(nic, 1);
    remove_netdev(t);
    /* The card is still there, without a link */
    g_assert_cmphex(qvirtio_config_readw(nic->vdev, CONFIG(status)) &
                    VIRTIO_NET_S_LINK_UP, ==, 0);
    qvirtio_reset(nic->vdev);
    nic_prepare(nic, 0);
    nic_set_driver_ok(nic);
    nic_free(nic);
    remove_nic(t);
    vdpa_soft_wait(t->soft, "open == 0");
    add_netdev(t);
    add_nic(t);
    nic = start_nic(t, 0);
    check_data(nic, 3);
    nic_free(nic);
    end(t);
}

/* --- Ways to name the device --- */

static void check_works(Test *t, uint64_t wanted, unsigned pairs)
{
    Nic *nic = start_nic(t, wanted);
    unsigned i;

    g_assert_cmpuint(nic_pairs(nic), ==, pairs);
    if (pairs > 1) {
        g_assert_cmpuint(set_pairs(nic, pairs), ==, VIRTIO_NET_OK);
    }
    for (i = 0; i < pairs; i++) {
        check_tx(nic, i, 100, i);
        check_rx(nic, i, 100, i);
    }
    nic_free(nic);
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

static void test_fd_number(void)
{
    Test *t = start_qemu("--fd 33", "-netdev vhost-vdpa,id=net0,vhostfd=33 "
                         NIC_OPTION);

    check_works(t, 0, 1);
    end(t);
}

static void test_fdset(void)
{
    Test *t;

    if (!has_sandbox()) {
        return;
    }
    t = start_qemu("--fd 33", ADD_FD SANDBOX
                   "-netdev '{\"type\":\"vhost-vdpa\","
                   "\"vhostdev\":\"/dev/fdset/0\",\"id\":\"net0\"}' "
                   NIC_OPTION);
    check_works(t, 0, 1);
    end(t);
}

static void test_fdset_queues(void)
{
    Test *t;

    if (!has_sandbox()) {
        return;
    }
    t = start_qemu("--fd 33 --queues 2", ADD_FD SANDBOX
                   "-netdev '{\"type\":\"vhost-vdpa\",\"queues\":2,"
                   "\"vhostdev\":\"/dev/fdset/0\",\"id\":\"net0\"}' "
                   NIC_OPTION ",mq=on,vectors=6");
    check_works(t, BIT64(VIRTIO_NET_F_MQ), 2);
    end(t);
}

/* The sandbox and all that makes a large device */
static void test_sandbox(void)
{
    Test *t;
    Nic *nic;

    if (!has_sandbox()) {
        return;
    }
    t = start_qemu("--doorbell on", SANDBOX NETDEV_OPTION NIC_OPTION
                   ",page-per-vq=on");
    nic = start_nic(t, 0);
    check_data(nic, 1);
    stop_guest(t);
    continue_guest(t);
    add_dimm(t, 64);
    check_data(nic, 3);
    nic_free(nic);
    end(t);
}

/* Passed over QMP, under a name: what libvirt does for hotplug */
static void test_fd_getfd(void)
{
    Test *t = start_qemu("--fd 33", "");
    int pidfd = syscall(SYS_pidfd_open, qtest_pid(t->qts), 0);
    int fd = syscall(SYS_pidfd_getfd, pidfd, 33, 0);

    if (fd < 0 && (errno == EPERM || errno == ENOSYS)) {
        g_test_skip("a process must not take files of its children here");
        qtest_qmp_assert_success(t->qts, "{ 'execute': 'netdev_add',"
                                 "  'arguments': { 'type': 'vhost-vdpa',"
                                 "    'id': 'net0', 'vhostfd': '33' } }");
        end(t);
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
    end(t);
}

/* The file is named, however QEMU got at it */
static void test_info_network(void)
{
    Test *t = start_qemu("--queues 2 --mac " DEVICE_MAC, NETDEV_OPTION
                         NIC_OPTION ",mq=on,vectors=6,mac=" DEVICE_MAC);
    g_autofree char *text = NULL;

    text = qtest_hmp(t->qts, "info network");
    if (!g_regex_match_simple("net0: index=0,type=vhost-vdpa," NODE
                              ",virtio-id=1,pair=1/2,.*mac=" DEVICE_MAC,
                              text, G_REGEX_CASELESS, 0) ||
        !g_regex_match_simple("net0: index=1,type=vhost-vdpa," NODE
                              ",virtio-id=1,pair=2/2", text, 0, 0) ||
        !g_regex_match_simple("net0: index=2,type=vhost-vdpa," NODE
                              ",control-queue", text, 0, 0)) {
        vdpa_soft_fail("info network says: %s", text);
    }
    end(t);
}

/* --- The generic device --- */

static void test_generic(void)
{
    Test *t = start_qemu("", "-device vhost-vdpa-device-pci,id=nic0,addr=4,"
                         "vhostdev=" NODE " ");
    Nic *nic = nic_new(t, NIC_SLOT);

    g_assert_cmpuint(nic->vdev->device_type, ==, VIRTIO_ID_NET);
    nic_start(nic, 0);
    check_data(nic, 1);
    check_config_interrupt(nic);
    g_assert_cmpuint(qvirtio_config_readw(nic->vdev, CONFIG(mtu)), ==, 1500);
    stop_guest(t);
    continue_guest(t);
    check_data(nic, 3);
    nic_start(nic, 0);
    check_data(nic, 5);
    qtest_system_reset(t->qts);
    nic_free(nic);
    nic = start_nic(t, 0);
    check_data(nic, 7);
    nic_free(nic);
    end(t);
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
#define BAD_DEVICE NETDEV_OPTION NIC_OPTION

static const BadInput bad_inputs[] = {
    /* What cannot be opened */
    { "no-such-path", "", "", BAD_NETDEV("vhostdev=/dev/vhost-vdpa-9"),
      "'/dev/vhost-vdpa-9'.*No such file.*vdpa dev add" },
    { "permission", "", "--fail OPEN:1:EACCES", BAD_DEVICE,
      "'" NODE "'.*Permission denied.*give QEMU's user read and write "
      "access" },
    { "busy", "", "--busy", BAD_DEVICE,
      "'" NODE "'.*busy.*another process, or another -netdev, uses it" },
    { "used-twice", "", "", NETDEV_OPTION "-netdev vhost-vdpa,id=net1,"
      "vhostdev=" NODE,
      "'" NODE "'.*busy.*another process, or another -netdev, uses it" },
    { "gone", "", "--fail OPEN:1:ENXIO", BAD_DEVICE,
      "'" NODE "'.*No such device.*vdpa dev add" },
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
      "'" NODE "'.*2 \\(block device\\).*vhost-vdpa-device-pci" },
    { "other-device", "", "--device-id 16", BAD_DEVICE,
      "'" NODE "'.*type is 16,.*vhost-vdpa-device-pci" },

    /* What was not said right */
    { "both", "", "--fd 33", BAD_NETDEV("vhostdev=" NODE ",vhostfd=33"),
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
    { "shadow", "", "", BAD_NETDEV("vhostdev=" NODE ",x-svq=on"),
      "x-svq=on is not available.*leave the option out" },
    { "other-card", "", "", NETDEV_OPTION "-device e1000,netdev=net0",
      "'" NODE "'.*virtio-net.*e1000" },

    /* Queue pairs */
    { "queues-0", "", "--queues 2", BAD_NETDEV("vhostdev=" NODE ",queues=0"),
      "'" NODE "'.*queues=0.*use 1 to 2" },
    { "queues-negative", "", "--queues 2",
      BAD_NETDEV("vhostdev=" NODE ",queues=-1"),
      "'" NODE "'.*queues=-1.*use 1 to 2" },
    { "queues-too-many", "", "--queues 2",
      BAD_NETDEV("vhostdev=" NODE ",queues=3"),
      "'" NODE "'.*queues=3.*2 queue pairs.*max_vqp" },
    { "queues-too-many-of-1", "", "",
      BAD_NETDEV("vhostdev=" NODE ",queues=2"),
      "'" NODE "'.*queues=2.*1 queue pair;.*max_vqp" },
    { "queues-huge", "", "--queues 2",
      BAD_NETDEV("vhostdev=" NODE ",queues=4294967298"),
      "'" NODE "'.*queues=4294967298.*2 queue pairs" },

    /* Devices that cannot be right */
    { "no-version-1", "", "--no-feature VERSION_1", BAD_DEVICE,
      "'" NODE "'.*VIRTIO_F_VERSION_1.*device_features" },
    { "no-access-platform", "", "--no-feature ACCESS_PLATFORM", BAD_DEVICE,
      "'" NODE "'.*VIRTIO_F_(ACCESS|IOMMU)_PLATFORM.*device_features" },
    { "no-msg-v2", "", "--backend-features 1fc", BAD_DEVICE,
      "'" NODE "'.*Linux 5.9" },
    { "no-queues", "", "--vqs 0", BAD_DEVICE,
      "'" NODE "'.*0 virtqueues.*driver or firmware is faulty" },
    { "few-queues", "", "--vqs 2", BAD_DEVICE,
      "'" NODE "'.*2 virtqueues.*need 3.*driver or firmware is faulty" },
    { "pairs-0", "", "--queues 2 --max-pairs 0", BAD_DEVICE,
      "'" NODE "'.*0 queue pairs.*driver or firmware is faulty" },
    { "pairs-absurd", "", "--queues 2 --max-pairs 32769", BAD_DEVICE,
      "'" NODE "'.*32769 queue pairs.*driver or firmware is faulty" },
    { "pairs-too-many", "", "--queues 2 --max-pairs 512", BAD_DEVICE,
      "'" NODE "'.*512 queue pairs.*511 at most.*max_vqp" },
    { "pairs-without-queues", "", "--queues 2 --max-pairs 3", BAD_DEVICE,
      "'" NODE "'.*5 virtqueues.*3 queue pairs.*driver or firmware is "
      "faulty" },
    { "ring-size-0", "", "--vq-num 0", BAD_DEVICE,
      "'" NODE "'.*ring size of 0,.*driver or firmware is faulty" },
    { "ring-size-1", "", "--vq-num 1", BAD_DEVICE,
      "'" NODE "'.*ring size of 1,.*driver or firmware is faulty" },
    { "ring-size-odd", "", "--vq-num 257", BAD_DEVICE,
      "'" NODE "'.*ring size of 257,.*driver or firmware is faulty" },
    { "ring-size-max", "", "--vq-num 65535", BAD_DEVICE,
      "'" NODE "'.*ring size of 65535,.*driver or firmware is faulty" },
    { "iova-inverted", "", "--iova-range ffffffff-1000", BAD_DEVICE,
      "'" NODE "'.*0xffffffff to 0x1000.*driver or firmware is faulty" },
    { "iova-tiny", "", "--iova-range 1000-1fff", BAD_DEVICE,
      "'" NODE "'.*0x1000 ?(to|-) ?0x1fff" },
    { "iova-less-than-a-page", "", "--iova-range 1000-1ffe", BAD_DEVICE,
      "'" NODE "'.*0x1000 to 0x1ffe.*driver or firmware is faulty" },
    { "config-short", "", "--config-size 8", BAD_DEVICE,
      "'" NODE "'.*8 bytes.*need 12.*driver or firmware is faulty" },
    { "config-short-mq", "", "--config-size 8 --queues 2 --no-feature MTU",
      BAD_DEVICE,
      "'" NODE "'.*8 bytes.*need 10.*driver or firmware is faulty" },
    { "config-none", "", "--config-size 0", BAD_DEVICE,
      "'" NODE "'.*0 bytes.*driver or firmware is faulty" },

    /* Memory */
    { "iova-too-small", "", "--map any --iova-range 0-3ffffff", BAD_DEVICE,
      "'" NODE "'.*0x0 ?(to|-) ?0x3ffffff.*" },
    { "iova-too-high", "", "--map any --iova-range 100000-ffffffffffff",
      BAD_DEVICE, "'" NODE "'.*0x100000 ?(to|-) ?0xffffffffffff" },
    { "memlock", "ulimit -S -l 64;", "--map pa", BAD_DEVICE,
      "'" NODE "'.*RLIMIT_MEMLOCK is 65536 bytes.*1[0-9]{8} bytes.*"
      "ulimit -l" },
    { "memory", "", "--fail IOTLB_UPDATE:2:EFAULT", BAD_DEVICE,
      "'" NODE "'.*0xc0000-0xdffff.*(kernel log|raise the limit)" },

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
    g_autofree char *args = g_strconcat(RAM_OPTIONS, some_args, NULL);
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
    opens = count_calls(calls, "OPEN") - count_calls(calls, "OPEN flags=2 ->");
    g_assert_cmpint(count_calls(calls, "CLOSE"), >=, opens);
    vdpa_soft_free(soft);
}

/* Whoever calls the backend for this device adds an error of its own */
static void test_bad_generic(void)
{
    VdpaSoft *soft = vdpa_soft_new();
    g_auto(GStrv) lines = NULL;

    g_assert_cmpint(vdpa_soft_run(soft, "", "--no-feature VERSION_1",
                                  RAM_OPTIONS "-device vhost-vdpa-device-pci,"
                                  "vhostdev=" NODE), ==, 1);
    lines = vdpa_soft_error_lines(soft);
    g_assert_cmpuint(g_strv_length(lines), ==, 2);
    g_assert_true(g_regex_match_simple("vhost-vdpa device '.*'.*"
                                       "VIRTIO_F_VERSION_1.*device_features",
                                       lines[0], 0, 0));
    vdpa_soft_free(soft);
}

/* --- Failures of every call --- */

/**
 * struct Call - one call of a good run, which is to fail in another one
 * @name: as in the transcript
 * @occurrence: from 1
 */
typedef struct Call {
    char *name;
    unsigned occurrence;
} Call;

static void call_clear(gpointer opaque)
{
    g_free(((Call *)opaque)->name);
}

/* Number the calls of a good run, each name by itself */
static GArray *number_calls(GPtrArray *calls)
{
    g_autoptr(GHashTable) count = g_hash_table_new_full(g_str_hash,
                                                        g_str_equal, g_free,
                                                        NULL);
    GArray *result = g_array_new(false, false, sizeof(Call));
    unsigned i;

    g_array_set_clear_func(result, call_clear);
    for (i = 0; i < calls->len; i++) {
        g_auto(GStrv) words = g_strsplit(calls->pdata[i], " ", 2);
        unsigned n;

        if (!strcmp(words[0], "CLOSE")) {
            /* close() does not fail */
            continue;
        }
        n = GPOINTER_TO_UINT(g_hash_table_lookup(count, words[0])) + 1;
        g_hash_table_replace(count, g_strdup(words[0]), GUINT_TO_POINTER(n));
        g_array_append_val(result, ((Call) { g_strdup(words[0]), n }));
    }
    return result;
}

/* As the kernel reports it */
static const char *error_of(const Call *call)
{
    return g_str_has_prefix(call->name, "IOTLB_") ? "EFAULT" : "EIO";
}

/* The call was made, and failed */
static void assert_injected(GPtrArray *calls, const Call *call)
{
    const char *result = g_str_has_prefix(call->name, "IOTLB_") ? " -> 14" :
                         " -> 5";
    unsigned i;

    for (i = 0; i < calls->len; i++) {
        if (g_str_has_prefix(calls->pdata[i], call->name) &&
            g_str_has_suffix(calls->pdata[i], result)) {
            return;
        }
    }
    vdpa_soft_fail("%s did not fail", call->name);
}

/*
 * What QEMU can do without: the MAC address in "info network", and the
 * device's knowledge of the guest's
 */
static bool is_optional_at_start(const Call *call)
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
                                  RAM_OPTIONS BAD_DEVICE), ==, 0);
    good = vdpa_soft_file_messages(soft);
    vdpa_soft_free(soft);
    list = number_calls(good);
    for (i = 0; i < list->len; i++) {
        const Call *call = &g_array_index(list, Call, i);
        g_autofree char *options =
            g_strdup_printf("%s --fail %s:%u:%s", soft_options, call->name,
                            call->occurrence, error_of(call));
        g_autofree char *line = NULL;
        g_autoptr(GPtrArray) calls = NULL;
        int status;

        soft = vdpa_soft_new();
        status = vdpa_soft_run(soft, "", options, RAM_OPTIONS BAD_DEVICE);
        calls = vdpa_soft_file_messages(soft);
        assert_injected(calls, call);
        if (!is_optional_at_start(call) || status) {
            line = check_refused(soft, status);
            g_assert_nonnull(strstr(line, "vhost-vdpa device '" NODE "'"));
            refused++;
        } else {
            g_auto(GStrv) lines = vdpa_soft_error_lines(soft);

            g_assert_cmpuint(g_strv_length(lines), <=, 1);
        }
        if (strcmp(call->name, "OPEN")) {
            g_assert_cmpuint(count_calls(calls, "CLOSE"), ==, 1);
        }
        vdpa_soft_free(soft);
    }
    g_test_message("%u failures injected, %u of them refused", list->len,
                   refused);
    g_assert_cmpuint(refused, >=, 15);
}

/**
 * struct Phase - a part of a guest's life, for its calls to fail in
 * @prepare: brings the guest there
 * @run: the phase itself
 */
typedef struct Phase {
    const char *name;
    const char *soft;
    void (*prepare)(Nic *nic);
    void (*run)(Nic *nic);
} Phase;

static void prepare_start(Nic *nic)
{
    nic_prepare(nic, 0);
}

static void run_start(Nic *nic)
{
    nic_set_driver_ok(nic);
}

static void prepare_running(Nic *nic)
{
    nic_start(nic, 0);
    check_data(nic, 1);
}

static void run_stop_and_continue(Nic *nic)
{
    stop_guest(nic->t);
    continue_guest(nic->t);
}

static void run_reset(Nic *nic)
{
    qvirtio_reset(nic->vdev);
}

static void run_system_reset(Nic *nic)
{
    Test *t = nic->t;

    qtest_system_reset(t->qts);
    /* The BARs are gone, so this is a new card to the driver */
    nic_free_vqs(nic);
    nic->pci->pdev->msix_enabled = false;
    qvirtio_pci_device_enable(nic->pci);
    qpci_msix_enable(nic->pci->pdev);
}

static const Phase phases[] = {
    { "start", "--map any", prepare_start, run_start },
    { "start-no-persist", "--map any --persist off --doorbell on",
      prepare_start, run_start },
    { "stop-continue", "--map any", prepare_running, run_stop_and_continue },
    { "stop-continue-no-resume", "--map any --resume off --persist off",
      prepare_running, run_stop_and_continue },
    { "stop-continue-no-suspend", "--map any --resume off --suspend off",
      prepare_running, run_stop_and_continue },
    { "reset", "--map any", prepare_running, run_reset },
    { "reset-no-persist", "--map any --persist off", prepare_running,
      run_reset },
    { "system-reset", "--map any", prepare_running, run_system_reset },
};

/* See that the new complaints are about the device, and what was attempted */
static void take_fault_errors(Test *t, const Call *call)
{
    g_autofree char *pattern =
        g_strdup_printf("vhost-vdpa device '" NODE "'.*(VHOST_(VDPA_)?%s|"
                        "IOTLB|iotlb|map|batch|0x)", call->name);

    take_error(t, pattern);
}

/* After a failure the guest is told, or its device works; in the end it does */
static bool check_after_fault(Nic *nic, const Call *call)
{
    Test *t = nic->t;
    bool told = nic_status(nic) & VIRTIO_CONFIG_S_NEEDS_RESET;

    vdpa_soft_do(t->soft, "unfail");
    if (told) {
        wait_needs_reset(nic);
        take_fault_errors(t, call);
    } else {
        if (nic_status(nic) & VIRTIO_CONFIG_S_DRIVER_OK) {
            check_data(nic, 1);
        }
        if (has_error(t)) {
            take_fault_errors(t, call);
        }
    }
    check_recovery(nic);
    assert_no_error(t);
    /* The device holds what QEMU believes it to hold */
    assert_memory_mapped(t);
    return told;
}

/* In each run one call of the phase fails, once, or from then on */
static void test_fault_phase(const void *opaque)
{
    const Phase *phase = opaque;
    Test *t = start(phase->soft);
    Nic *nic = nic_new(t, NIC_SLOT);
    g_autoptr(GPtrArray) good = NULL;
    g_autoptr(GArray) list = NULL;
    unsigned i, fds, injected = 0, told = 0;

    /* The second time is like all that follow */
    for (i = 0; i < 2; i++) {
        phase->prepare(nic);
        vdpa_soft_skip(t->soft);
        phase->run(nic);
    }
    good = vdpa_soft_messages(t->soft);
    list = number_calls(good);
    g_assert_cmpuint(list->len, >, 0);
    nic_start(nic, 0);
    fds = count_fds(t);
    for (i = 0; i < 2 * list->len; i++) {
        const Call *call = &g_array_index(list, Call, i / 2);
        const char *always = i % 2 ? "always" : "";
        g_autoptr(GPtrArray) calls = NULL;

        if (i % 2 && call->occurrence > 1) {
            continue;
        }
        g_test_message("%s %u %s", call->name, call->occurrence, always);
        phase->prepare(nic);
        assert_no_error(t);
        vdpa_soft_skip(t->soft);
        vdpa_soft_do(t->soft, "fail %s %u %s %s", call->name,
                     call->occurrence, error_of(call), always);
        phase->run(nic);
        calls = vdpa_soft_messages(t->soft);
        assert_injected(calls, call);
        injected++;
        told += check_after_fault(nic, call);
    }
    g_test_message("%u failures injected, the guest was told of %u",
                   injected, told);
    g_assert_cmpuint(count_fds(t), ==, fds);
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
    qtest_add_func("vhost-vdpa/stop/like-vp-vdpa", test_stop_only_from_start);
    qtest_add_func("vhost-vdpa/stop/set-link", test_set_link);
    qtest_add_func("vhost-vdpa/stop/device-needs-reset",
                   test_device_needs_reset);

    qtest_add_func("vhost-vdpa/memory/map", test_memory_map);
    qtest_add_func("vhost-vdpa/memory/reset", test_reset_ranges);
    qtest_add_func("vhost-vdpa/memory/hotplug", test_hotplug_memory);
    qtest_add_func("vhost-vdpa/memory/hotplug-idle",
                   test_hotplug_memory_idle);
    qtest_add_func("vhost-vdpa/memory/hotplug-fails",
                   test_hotplug_memory_fails);
    qtest_add_func("vhost-vdpa/memory/memlock", test_memlock);
    qtest_add_func("vhost-vdpa/memory/private", test_private_memory);

    if (qtest_has_machine("q35") && qtest_has_device("intel-iommu")) {
        qtest_add_data_func("vhost-vdpa/memory/viommu-off", IOMMU_NIC_OPTION,
                            test_viommu_off);
        qtest_add_data_func("vhost-vdpa/memory/viommu-none",
                            NIC_OPTION ",disable-legacy=on,"
                            "iommu_platform=off", test_viommu_off);
        qtest_add_func("vhost-vdpa/memory/viommu-not-followed",
                       test_viommu_not_followed);
        qtest_add_func("vhost-vdpa/memory/viommu-intel", test_viommu_intel);
    }
    if (qtest_has_machine("q35") && qtest_has_device("virtio-iommu-pci")) {
        qtest_add_data_func("vhost-vdpa/memory/viommu", "--map any",
                            test_viommu);
        qtest_add_data_func("vhost-vdpa/memory/viommu-no-persist",
                            "--map any --persist off", test_viommu);
        qtest_add_func("vhost-vdpa/memory/viommu-reboot",
                       test_viommu_reboot);
    }
    qtest_add_func("vhost-vdpa/memory/access-platform",
                   test_access_platform);

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
    qtest_add_func("vhost-vdpa/generic", test_generic);

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
