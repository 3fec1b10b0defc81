/*
 * QTest testcase for vhost-vdpa behind a virtual IOMMU
 *
 * The guest's driver of the IOMMU decides what a software vDPA device can
 * reach, and at which address; the device tells what it was told, and counts
 * faults.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "libvdpa-fault.h"
#include "libvdpa-guest.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"
#include "qobject/qstring.h"
#include "standard-headers/linux/virtio_iommu.h"
#include "hw/pci/pci_regs.h"

#define IOMMU_NIC_OPTION VDPA_NIC_OPTION ",disable-legacy=on,iommu_platform=on"

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
#define VTD_INVALIDATE BIT_ULL(63)
#define VTD_ALL_CONTEXTS BIT_ULL(61)
#define VTD_ONE_CONTEXT (3ull << 61)
#define VTD_ALL_PAGES BIT_ULL(60)
#define VTD_DOMAIN (2ull << 60)
#define VTD_PAGES (3ull << 60)
#define VTD_LARGE BIT_ULL(7)
#define VTD_PASS_THROUGH (2ull << 2)

static uint64_t new_table(VdpaTest *t)
{
    uint64_t table = guest_alloc(&t->alloc, 4096);

    qtest_memset(t->qts, table, 0, 4096);
    return table;
}

/* Have intel-iommu translate, with a table of all buses */
static void enable_intel_iommu(VdpaTest *t, uint64_t root)
{
    qtest_writeq(t->qts, VTD_RTADDR, root);
    qtest_writel(t->qts, VTD_GCMD, VTD_ROOT_TABLE);
    qtest_writel(t->qts, VTD_GCMD, VTD_TRANSLATION);
    g_assert_cmphex(qtest_readl(t->qts, VTD_GSTS), ==,
                    VTD_TRANSLATION | VTD_ROOT_TABLE);
}

static void disable_intel_iommu(VdpaTest *t)
{
    qtest_writel(t->qts, VTD_GCMD, 0);
    g_assert_cmphex(qtest_readl(t->qts, VTD_GSTS) & VTD_TRANSLATION, ==, 0);
}

/* An IOMMU that the guest does not use changes nothing */
static void test_viommu_off(const void *nic_option)
{
    g_autofree char *args = g_strdup_printf("-M q35 -device intel-iommu "
                                            VDPA_NETDEV_OPTION "%s",
                                            (const char *)nic_option);
    VdpaTest *t = vdpa_start_qemu("--map any", args);
    VdpaNic *nic = vdpa_start_nic(t, 0);
    uint64_t messages = vdpa_soft_number(t->soft, "messages");

    g_assert_cmpint(vdpa_nic_has(nic, VIRTIO_F_ACCESS_PLATFORM), ==,
                    !!strstr(nic_option, "iommu_platform=on"));
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_start(nic, 0);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 3);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "messages"), ==, messages);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* An IOMMU that does not tell what the guest maps */
static void test_viommu_not_followed(void)
{
    const char *complaint = "'" VDPA_NODE "'.*cannot follow the virtual IOMMU.*"
                            "intel-iommu needs caching-mode=on";
    VdpaTest *t = vdpa_start_qemu("--map any", "-M q35 -device intel-iommu "
                                  VDPA_NETDEV_OPTION IOMMU_NIC_OPTION
                                  ",vectors=0");
    VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);

    /* The guest has it translate before the driver starts */
    enable_intel_iommu(t, new_table(t));
    vdpa_nic_prepare(nic, 0);
    vdpa_nic_set_driver_ok(nic);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, complaint);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), ==, 0);

    disable_intel_iommu(t);
    vdpa_nic_check_recovery(nic);
    vdpa_assert_memory_mapped(t);

    /* The same while it runs: what the guest took away is gone at least */
    enable_intel_iommu(t, new_table(t));
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, complaint);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "mappings"), ==, 0);
    disable_intel_iommu(t);
    vdpa_nic_check_recovery(nic);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Where the guest puts what it maps: memory is nowhere near */
#define IOVA_BASE (28 * GiB)
#define IOMMU_SLOT 5
#define VIRTIO_IOMMU_OPTIONS                                           \
    "-M q35 -device virtio-iommu-pci,addr=5 " VDPA_NETDEV_OPTION       \
    IOMMU_NIC_OPTION ",vectors=0"
#define IOMMU_DOMAIN 1

#define INTEL_IOMMU_OPTIONS                                            \
    "-M q35 -device intel-iommu,caching-mode=on " VDPA_NETDEV_OPTION   \
    IOMMU_NIC_OPTION ",vectors=0"

/**
 * struct Iommu - the guest's driver of an IOMMU, for one device
 * @nic: the device, whose rings get IOVAs
 * @slot: where the device is plugged in
 * @domain: which it is in
 * @bus: what the device's driver uses instead of @plain
 * @pci: virtio-iommu; NULL for intel-iommu
 * @shared: another one's @pci, @vq and @page
 * @page: for virtio-iommu's requests
 * @contexts: intel-iommu's table of the devices on the bus
 * @top: intel-iommu's uppermost table of pages
 * @levels: of those tables
 * @next: the address of the next mapping; they do not touch each other
 * @ranges: what is mapped
 * @gpas: to which memory of the guest
 */
typedef struct Iommu {
    VdpaTest *t;
    VdpaNic *nic;
    unsigned slot;
    unsigned domain;
    QVirtioBus bus;
    const QVirtioBus *plain;
    QVirtioPCIDevice *pci;
    QVirtQueue *vq;
    bool shared;
    uint64_t page;
    uint64_t contexts;
    uint64_t top;
    unsigned levels;
    uint64_t next;
    GArray *ranges;
    GArray *gpas;
} Iommu;

/* Send a request; @size is without the tail.  Returns the status. */
static uint8_t virtio_iommu_request(Iommu *iommu, const void *request,
                                    size_t size)
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
                           VDPA_DEADLINE_US);
    qtest_memread(qts, end, &tail, sizeof(tail));
    qvirtqueue_reset_pool(iommu->vq);
    return tail.status;
}

static void virtio_iommu_attach(Iommu *iommu, unsigned slot, unsigned domain,
                                uint32_t flags)
{
    struct virtio_iommu_req_attach request = {
        .head.type = VIRTIO_IOMMU_T_ATTACH,
        .domain = cpu_to_le32(domain),
        .endpoint = cpu_to_le32(QPCI_DEVFN(slot, 0)),
        .flags = cpu_to_le32(flags),
    };

    g_assert_cmpuint(virtio_iommu_request(
                         iommu, &request,
                         offsetof(struct virtio_iommu_req_attach, tail)),
                     ==, VIRTIO_IOMMU_S_OK);
}

static void virtio_iommu_detach(Iommu *iommu, unsigned slot, unsigned domain)
{
    struct virtio_iommu_req_detach request = {
        .head.type = VIRTIO_IOMMU_T_DETACH,
        .domain = cpu_to_le32(domain),
        .endpoint = cpu_to_le32(QPCI_DEVFN(slot, 0)),
    };

    g_assert_cmpuint(virtio_iommu_request(
                         iommu, &request,
                         offsetof(struct virtio_iommu_req_detach, tail)),
                     ==, VIRTIO_IOMMU_S_OK);
}

static uint8_t virtio_iommu_map(Iommu *iommu, unsigned domain, uint64_t first,
                                uint64_t last, uint64_t gpa, uint32_t flags)
{
    struct virtio_iommu_req_map request = {
        .head.type = VIRTIO_IOMMU_T_MAP,
        .domain = cpu_to_le32(domain),
        .virt_start = cpu_to_le64(first),
        .virt_end = cpu_to_le64(last),
        .phys_start = cpu_to_le64(gpa),
        .flags = cpu_to_le32(flags),
    };

    return virtio_iommu_request(iommu, &request,
                                offsetof(struct virtio_iommu_req_map, tail));
}

static uint8_t virtio_iommu_unmap(Iommu *iommu, unsigned domain,
                                  uint64_t first, uint64_t last)
{
    struct virtio_iommu_req_unmap request = {
        .head.type = VIRTIO_IOMMU_T_UNMAP,
        .domain = cpu_to_le32(domain),
        .virt_start = cpu_to_le64(first),
        .virt_end = cpu_to_le64(last),
    };

    return virtio_iommu_request(iommu, &request,
                                offsetof(struct virtio_iommu_req_unmap, tail));
}

/* Where the entry for an address is in the tables; 1 is that of 4 KiB pages */
static uint64_t intel_iommu_entry(Iommu *iommu, uint64_t iova, unsigned level)
{
    QTestState *qts = iommu->t->qts;
    uint64_t table = iommu->top;
    unsigned i;

    for (i = iommu->levels; ; i--) {
        uint64_t entry = table + (iova >> (3 + 9 * i) & 511) * 8;

        if (i == level) {
            return entry;
        }
        table = qtest_readq(qts, entry);
        if (!table) {
            table = new_table(iommu->t);
            qtest_writeq(qts, entry, table | 3);
        }
        g_assert_cmphex(table & VTD_LARGE, ==, 0);
        table &= ~0xfffull;
    }
}

/* Nothing changes for the device before intel-iommu is told of it */
static void intel_iommu_set(Iommu *iommu, uint64_t iova, unsigned level,
                            uint64_t gpa, unsigned perm)
{
    qtest_writeq(iommu->t->qts, intel_iommu_entry(iommu, iova, level),
                 perm ? gpa | perm | (level > 1 ? VTD_LARGE : 0) : 0);
}

static void intel_iommu_flush(Iommu *iommu, uint64_t what)
{
    QTestState *qts = iommu->t->qts;

    qtest_writeq(qts, VTD_IOTLB, VTD_INVALIDATE | what |
                 (uint64_t)iommu->domain << 32);
    g_assert_cmphex(qtest_readq(qts, VTD_IOTLB) & VTD_INVALIDATE, ==, 0);
}

/* @size is a power of two and @iova is aligned to it */
static void intel_iommu_flush_pages(Iommu *iommu, uint64_t iova, uint64_t size)
{
    qtest_writeq(iommu->t->qts, VTD_IVA, iova | (ctz64(size) - 12));
    intel_iommu_flush(iommu, VTD_PAGES);
}

/* Set what the device's transactions go through, and tell intel-iommu */
static void intel_iommu_set_context(Iommu *iommu, uint64_t low, uint64_t what)
{
    QTestState *qts = iommu->t->qts;
    unsigned devfn = QPCI_DEVFN(iommu->slot, 0);

    qtest_writeq(qts, iommu->contexts + devfn * 16 + 8,
                 iommu->domain << 8 | (iommu->levels - 2));
    qtest_writeq(qts, iommu->contexts + devfn * 16, low);
    qtest_writeq(qts, VTD_CCMD, VTD_INVALIDATE | what | devfn << 16);
    g_assert_cmphex(qtest_readq(qts, VTD_CCMD) & VTD_INVALIDATE, ==, 0);
}

/* Map at an address; @perm has the bits of IOTLB messages, 0 unmaps */
static void iommu_set(Iommu *iommu, uint64_t iova, uint64_t gpa, uint64_t size,
                      unsigned perm)
{
    uint64_t i, last = iova + size - 1;

    if (iommu->pci) {
        g_assert_cmpuint(
            perm ? virtio_iommu_map(iommu, iommu->domain, iova, last, gpa,
                                    (perm & 1 ? VIRTIO_IOMMU_MAP_F_READ : 0) |
                                    (perm & 2 ? VIRTIO_IOMMU_MAP_F_WRITE : 0)) :
                   virtio_iommu_unmap(iommu, iommu->domain, iova, last),
            ==, VIRTIO_IOMMU_S_OK);
        return;
    }
    for (i = 0; i < size; i += 4096) {
        intel_iommu_set(iommu, iova + i, 1, gpa + i, perm);
    }
    intel_iommu_flush_pages(iommu, iova, pow2ceil(size));
}

/* The guest unmapped all in another way */
static void iommu_forget(Iommu *iommu)
{
    g_array_set_size(iommu->ranges, 0);
    g_array_set_size(iommu->gpas, 0);
}

/* Returns the IOVA; @perm has the bits of IOTLB messages */
static uint64_t iommu_map(Iommu *iommu, uint64_t gpa, size_t size,
                          unsigned perm)
{
    VdpaRange r = {
        .first = iommu->next,
        .last = iommu->next + ROUND_UP(size, 4096) - 1,
        .perm = perm,
    };

    g_assert_cmphex(gpa % 4096, ==, 0);
    iommu_set(iommu, r.first, gpa, r.last - r.first + 1, perm);
    g_array_append_val(iommu->ranges, r);
    g_array_append_val(iommu->gpas, gpa);
    /* A mapping that is not aligned to its size, QEMU takes as several */
    iommu->next = ROUND_UP(r.last + 1 + 4096, 64 * KiB);
    return r.first;
}

static void iommu_unmap(Iommu *iommu, uint64_t iova)
{
    unsigned i;

    for (i = 0; i < iommu->ranges->len; i++) {
        VdpaRange r = g_array_index(iommu->ranges, VdpaRange, i);

        if (r.first == iova) {
            g_array_remove_index(iommu->ranges, i);
            g_array_remove_index(iommu->gpas, i);
            iommu_set(iommu, r.first, 0, r.last - r.first + 1, 0);
            return;
        }
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

static Iommu *iommu_new_common(VdpaNic *nic)
{
    Iommu *iommu = g_new0(Iommu, 1);

    iommu->t = nic->t;
    iommu->nic = nic;
    iommu->slot = VDPA_NIC_SLOT;
    iommu->domain = IOMMU_DOMAIN;
    iommu->next = IOVA_BASE;
    iommu->ranges = vdpa_ranges_new();
    iommu->gpas = g_array_new(false, false, sizeof(uint64_t));
    iommu->plain = nic->vdev->bus;
    iommu->bus = *iommu->plain;
    iommu->bus.set_queue_address = iommu_set_queue_address;
    nic->vdev->bus = &iommu->bus;
    return iommu;
}

/* A driver of virtio-iommu; the device is in no domain yet */
static Iommu *iommu_new_detached(VdpaNic *nic)
{
    QPCIAddress address = { .devfn = QPCI_DEVFN(IOMMU_SLOT, 0) };
    VdpaTest *t = nic->t;
    Iommu *iommu = iommu_new_common(nic);
    QVirtioDevice *vdev;

    iommu->page = guest_alloc(&t->alloc, 4096);
    iommu->pci = virtio_pci_new(t->bus, &address);
    g_assert_nonnull(iommu->pci);
    vdev = &iommu->pci->vdev;
    qvirtio_pci_device_enable(iommu->pci);
    qvirtio_start_device(vdev);
    qvirtio_set_features(vdev, qvirtio_get_features(vdev) &
                         ~VDPA_FEATURES_ON_DEMAND);
    iommu->vq = qvirtqueue_setup(vdev, &t->alloc, 0);
    qvirtio_set_driver_ok(vdev);
    return iommu;
}

static Iommu *iommu_new(VdpaNic *nic)
{
    Iommu *iommu = iommu_new_detached(nic);

    virtio_iommu_attach(iommu, iommu->slot, iommu->domain, 0);
    return iommu;
}

/* The same IOMMU's driver, for a second device */
static Iommu *iommu_new_shared(const Iommu *other, VdpaNic *nic, unsigned slot,
                               unsigned domain)
{
    Iommu *iommu = iommu_new_common(nic);

    iommu->slot = slot;
    iommu->domain = domain;
    iommu->shared = true;
    iommu->pci = other->pci;
    iommu->vq = other->vq;
    iommu->page = other->page;
    virtio_iommu_attach(iommu, slot, domain, 0);
    return iommu;
}

/* @levels of tables: 3 for addresses of 39 bits, 4 for 48 */
static Iommu *intel_iommu_new_levels(VdpaNic *nic, unsigned levels)
{
    VdpaTest *t = nic->t;
    uint64_t root = new_table(t);
    Iommu *iommu = iommu_new_common(nic);

    iommu->contexts = new_table(t);
    iommu->top = new_table(t);
    iommu->levels = levels;
    qtest_writeq(t->qts, root, iommu->contexts | 1);
    enable_intel_iommu(t, root);
    intel_iommu_set_context(iommu, iommu->top | 1, VTD_ALL_CONTEXTS);
    intel_iommu_flush(iommu, VTD_ALL_PAGES);
    return iommu;
}

static Iommu *intel_iommu_new(VdpaNic *nic)
{
    return intel_iommu_new_levels(nic, 3);
}

static void iommu_free(Iommu *iommu)
{
    iommu->nic->vdev->bus = iommu->plain;
    if (iommu->pci && !iommu->shared) {
        qvirtqueue_cleanup(iommu->pci->vdev.bus, iommu->vq,
                           &iommu->t->alloc);
        qvirtio_pci_device_disable(iommu->pci);
        g_free(iommu->pci->pdev);
        g_free(iommu->pci);
        guest_free(&iommu->t->alloc, iommu->page);
    }
    g_array_unref(iommu->ranges);
    g_array_unref(iommu->gpas);
    g_free(iommu);
}

/* The device has what the guest mapped, and nothing else */
static void assert_iommu_mapped(Iommu *iommu)
{
    g_autoptr(GArray) device = vdpa_device_ranges(iommu->t);
    unsigned i;

    g_assert_cmpuint(device->len, ==, iommu->ranges->len);
    for (i = 0; i < device->len; i++) {
        VdpaRange *d = &g_array_index(device, VdpaRange, i);
        VdpaRange *r = &g_array_index(iommu->ranges, VdpaRange, i);

        g_assert_cmphex(d->first, ==, r->first);
        g_assert_cmphex(d->last, ==, r->last);
        g_assert_cmpuint(d->perm, ==, r->perm);
    }
}

/* The IOTLB messages since the last time */
static GPtrArray *iommu_messages(VdpaTest *t)
{
    g_autoptr(GPtrArray) calls = vdpa_soft_messages(t->soft);
    GPtrArray *messages = vdpa_no_calls();
    unsigned i;

    for (i = 0; i < calls->len; i++) {
        if (g_str_has_prefix(calls->pdata[i], "IOTLB_")) {
            vdpa_add_call(messages, "%s", (char *)calls->pdata[i]);
        }
    }
    return messages;
}

static void assert_no_iommu_messages(VdpaTest *t, const char *what)
{
    g_autoptr(GPtrArray) messages = iommu_messages(t);
    g_autoptr(GPtrArray) expected = vdpa_no_calls();

    vdpa_soft_assert_calls(what, messages, expected);
}

static void add_range(GPtrArray *calls, const char *message, const VdpaRange *r)
{
    g_autofree char *perm = strstr(message, "UPDATE") ?
                            g_strdup_printf(" perm=%u", r->perm) : NULL;

    vdpa_add_call(calls, "%s asid=0 iova=0x%" PRIx64 " size=0x%" PRIx64 "%s",
                  message, r->first, r->last - r->first + 1, perm ?: "");
}

/*
 * All that happened is that one range came, or went.  More than a page comes
 * in a batch, because the device could be given it in parts otherwise.
 */
static void assert_one_message(Iommu *iommu, const char *message,
                               const VdpaRange *r)
{
    g_autoptr(GPtrArray) calls = vdpa_soft_messages(iommu->t->soft);
    g_autoptr(GPtrArray) expected = vdpa_no_calls();
    bool batch = g_str_equal(message, "IOTLB_UPDATE") &&
                 r->last - r->first >= 4096;

    if (batch) {
        vdpa_add_call(expected, "IOTLB_BATCH_BEGIN asid=0");
    }
    add_range(expected, message, r);
    if (batch) {
        vdpa_add_call(expected, "IOTLB_BATCH_END asid=0");
    }
    vdpa_soft_assert_calls("one request", calls, expected);
}

/* The message that takes away all that the device has */
static char *removal(VdpaTest *t)
{
    QDict *reply = vdpa_soft_request(t->soft, "mappings");
    g_autoptr(GPtrArray) messages = vdpa_no_calls();
    VdpaRange all = { .first = UINT64_MAX };
    const QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(reply, "entries"), e) {
        QDict *entry = qobject_to(QDict, qlist_entry_obj(e));

        all.first = MIN(all.first, qdict_get_int(entry, "first"));
        all.last = MAX(all.last, qdict_get_int(entry, "last"));
    }
    qobject_unref(reply);
    g_assert_cmphex(all.first, <, all.last);
    add_range(messages, "IOTLB_INVALIDATE", &all);
    return g_strdup(messages->pdata[0]);
}

/*
 * How many entries the device has after @messages; each of those that remove
 * something takes whole entries
 */
static unsigned count_entries(GPtrArray *messages)
{
    g_autoptr(GArray) entries = g_array_new(false, false, sizeof(VdpaRange));
    unsigned i, j;

    for (i = 0; i < messages->len; i++) {
        const char *message = messages->pdata[i];
        bool first = false, last = false;
        VdpaRange r;
        uint64_t size;

        if (sscanf(message, "IOTLB_UPDATE asid=0 iova=0x%" SCNx64 " size=0x%"
                   SCNx64, &r.first, &size) == 2) {
            r.last = r.first + size - 1;
            g_array_append_val(entries, r);
        } else if (sscanf(message, "IOTLB_INVALIDATE asid=0 iova=0x%" SCNx64
                          " size=0x%" SCNx64, &r.first, &size) == 2) {
            r.last = r.first + size - 1;
            for (j = entries->len; j-- > 0; ) {
                VdpaRange *entry = &g_array_index(entries, VdpaRange, j);

                if (entry->first > r.last || entry->last < r.first) {
                    continue;
                }
                g_assert_cmphex(entry->first, >=, r.first);
                g_assert_cmphex(entry->last, <=, r.last);
                first |= entry->first == r.first;
                last |= entry->last == r.last;
                g_array_remove_index_fast(entries, j);
            }
            g_assert_true(first && last);
        }
    }
    return entries->len;
}

/* One batch does as @removal says, and maps what the guest mapped */
static void assert_replaced(Iommu *iommu, const char *removal)
{
    g_autoptr(GPtrArray) messages = iommu_messages(iommu->t);
    g_autoptr(GPtrArray) expected = vdpa_no_calls();
    unsigned i;

    vdpa_add_call(expected, "IOTLB_BATCH_BEGIN asid=0");
    vdpa_add_call(expected, "%s", removal);
    for (i = 0; i < iommu->ranges->len; i++) {
        add_range(expected, "IOTLB_UPDATE",
                  &g_array_index(iommu->ranges, VdpaRange, i));
    }
    vdpa_add_call(expected, "IOTLB_BATCH_END asid=0");
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
    size_t size = VDPA_HEADER_SIZE + IOMMU_FRAME_SIZE;

    b->tx = guest_alloc(&iommu->t->alloc, size);
    b->tx_iova = iommu_map(iommu, b->tx, size, 1);
    b->rx = guest_alloc(&iommu->t->alloc, size);
    b->rx_iova = iommu_map(iommu, b->rx, size, 2);
}

static void iommu_check_data(VdpaNic *nic, const IommuBuffers *b, unsigned seed)
{
    size_t frame_size = IOMMU_FRAME_SIZE, size = VDPA_HEADER_SIZE + frame_size;
    QVirtQueue *rx = vdpa_nic_rx(nic, 0), *tx = vdpa_nic_tx(nic, 0);
    uint8_t *frame = g_malloc(frame_size);
    g_autofree char *hex = NULL;
    QTestState *qts = nic->t->qts;
    uint32_t head;

    vdpa_make_frame(frame, frame_size, seed);
    qtest_memset(qts, b->tx, 0, VDPA_HEADER_SIZE);
    qtest_memwrite(qts, b->tx + VDPA_HEADER_SIZE, frame, frame_size);
    vdpa_soft_do(nic->t->soft, "capture on");
    head = qvirtqueue_add(qts, tx, b->tx_iova, size, false, false);
    vdpa_nic_offer(nic, tx, head);
    vdpa_nic_take(nic, tx, head);
    vdpa_assert_captured(nic->t, 1, &frame, &frame_size);
    vdpa_soft_do(nic->t->soft, "capture off");
    qvirtqueue_reset_pool(tx);

    vdpa_make_frame(frame, frame_size, seed + 1);
    hex = vdpa_to_hex(frame, frame_size);
    qtest_memset(qts, b->rx, 0xee, size);
    head = qvirtqueue_add(qts, rx, b->rx_iova, size, true, false);
    vdpa_nic_offer(nic, rx, head);
    vdpa_soft_do(nic->t->soft, "inject %s vq=0", hex);
    g_assert_cmpuint(vdpa_nic_take(nic, rx, head), ==, size);
    vdpa_nic_assert_header(nic, b->rx, 1);
    vdpa_assert_mem(nic->t, b->rx + VDPA_HEADER_SIZE, frame, frame_size);
    qvirtqueue_reset_pool(rx);
    g_free(frame);
}

static void set_bus_master(VdpaNic *nic, bool on)
{
    QPCIDevice *pci = nic->pci->pdev;
    uint16_t command = qpci_config_readw(pci, PCI_COMMAND);

    qpci_config_writew(pci, PCI_COMMAND, on ? command | PCI_COMMAND_MASTER :
                       command & ~PCI_COMMAND_MASTER);
}

/* The device reads what the guest has taken from it */
static void check_iommu_fault(VdpaNic *nic, uint64_t iova)
{
    QVirtQueue *vq = vdpa_nic_tx(nic, 0);
    const QListEntry *e;
    QDict *reply;
    uint32_t head;

    head = qvirtqueue_add(nic->t->qts, vq, iova, 100, false, false);
    vdpa_nic_offer(nic, vq, head);
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
    VdpaTest *t = vdpa_start_qemu(soft, VIRTIO_IOMMU_OPTIONS);
    VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
    g_autoptr(GPtrArray) all = NULL;
    g_autofree char *removed = NULL;
    IommuBuffers buffers, more;
    Iommu *iommu;
    VdpaRange r;

    /* The firmware knows nothing of it */
    vdpa_nic_start(nic, 0);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_negotiate(nic, 0);

    iommu = iommu_new(nic);
    removed = removal(t);
    vdpa_soft_skip(t->soft);
    vdpa_nic_prepare(nic, 0);
    g_assert_true(vdpa_nic_has(nic, VIRTIO_F_ACCESS_PLATFORM));
    iommu_buffers_map(iommu, &buffers);
    assert_no_iommu_messages(t, "what is mapped for an idle device");
    vdpa_nic_set_driver_ok(nic);
    vdpa_soft_wait(t->soft, "status == 15");
    assert_iommu_mapped(iommu);
    assert_replaced(iommu, removed);
    iommu_check_data(nic, &buffers, 3);

    /* Each request is carried out before the guest learns that it was */
    vdpa_soft_skip(t->soft);
    more.tx = guest_alloc(&t->alloc, 4 * 4096);
    more.tx_iova = iommu_map(iommu, more.tx, 4 * 4096, 3);
    r = g_array_index(iommu->ranges, VdpaRange, iommu->ranges->len - 1);
    assert_one_message(iommu, "IOTLB_UPDATE", &r);
    assert_iommu_mapped(iommu);
    more.rx = more.tx + 4096;
    more.rx_iova = more.tx_iova + 4096;
    iommu_check_data(nic, &more, 5);
    vdpa_assert_no_calls(t, "data");
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
    vdpa_stop_guest(t);
    vdpa_continue_guest(t);
    vdpa_soft_wait(t->soft, "status == 15");
    assert_no_iommu_messages(t, "a pause");
    iommu_check_data(nic, &buffers, 9);

    /* Nor does the device reach anything else */
    g_assert_cmpuint(vdpa_soft_number(t->soft, "faults"), ==, 0);
    iommu_unmap(iommu, more.tx_iova - 4000);
    assert_iommu_mapped(iommu);
    check_iommu_fault(nic, more.tx_iova);

    /* What the driver mapped is of no use to anybody after it */
    qvirtio_reset(nic->vdev);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "mappings"), ==, 0);
    while (iommu->ranges->len > 0) {
        iommu_unmap(iommu, g_array_index(iommu->ranges, VdpaRange, 0).first);
    }
    vdpa_nic_prepare(nic, 0);
    iommu_buffers_map(iommu, &buffers);
    vdpa_nic_set_driver_ok(nic);
    vdpa_soft_wait(t->soft, "status == 15");
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &buffers, 11);

    /* A device that may not access memory has none */
    vdpa_soft_skip(t->soft);
    set_bus_master(nic, false);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "mappings"), ==, 0);
    g_assert_cmphex(vdpa_nic_status(nic) & VIRTIO_CONFIG_S_DRIVER_OK, ==, 0);
    set_bus_master(nic, true);
    vdpa_nic_set_driver_ok(nic);
    vdpa_soft_wait(t->soft, "status == 15");
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &buffers, 13);

    /* Without a domain, all memory is the device's again */
    qvirtio_reset(nic->vdev);
    virtio_iommu_detach(iommu, iommu->slot, iommu->domain);
    iommu_free(iommu);
    vdpa_nic_start(nic, 0);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 15);
    all = vdpa_soft_file_messages(t->soft);
    g_assert_cmpuint(count_entries(all), ==,
                     vdpa_soft_number(t->soft, "mappings"));
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* The same with the other IOMMU, which tells of each page by itself */
static void test_viommu_intel(void)
{
    VdpaTest *t = vdpa_start_qemu("--map any", INTEL_IOMMU_OPTIONS);
    VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
    IommuBuffers buffers, more;
    Iommu *iommu;
    VdpaRange r;

    vdpa_nic_start(nic, 0);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_negotiate(nic, 0);

    iommu = intel_iommu_new(nic);
    vdpa_nic_prepare(nic, 0);
    iommu_buffers_map(iommu, &buffers);
    vdpa_nic_set_driver_ok(nic);
    vdpa_soft_wait(t->soft, "status == 15");
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &buffers, 3);

    vdpa_soft_skip(t->soft);
    iommu_buffers_map(iommu, &more);
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &more, 5);
    vdpa_soft_skip(t->soft);
    r = g_array_index(iommu->ranges, VdpaRange, iommu->ranges->len - 2);
    iommu_unmap(iommu, more.tx_iova);
    assert_one_message(iommu, "IOTLB_INVALIDATE", &r);
    r = g_array_index(iommu->ranges, VdpaRange, iommu->ranges->len - 1);
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
    vdpa_stop_guest(t);
    vdpa_continue_guest(t);
    vdpa_soft_wait(t->soft, "status == 15");
    set_bus_master(nic, false);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "mappings"), ==, 0);
    set_bus_master(nic, true);
    vdpa_nic_set_driver_ok(nic);
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
    vdpa_assert_memory_mapped(t);
    iommu_free(iommu);
    vdpa_nic_start(nic, 0);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 13);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* The guest is rebooted, and QEMU ends, with the device behind the IOMMU */
static void test_viommu_reboot(void)
{
    VdpaTest *t = vdpa_start_qemu("--map any", VIRTIO_IOMMU_OPTIONS);
    IommuBuffers buffers;
    Iommu *iommu;
    VdpaNic *nic;
    int i;

    for (i = 0; i < 2; i++) {
        nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
        iommu = iommu_new(nic);
        vdpa_nic_start(nic, 0);
        iommu_buffers_map(iommu, &buffers);
        assert_iommu_mapped(iommu);
        iommu_check_data(nic, &buffers, 1);

        qtest_system_reset(t->qts);
        g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), ==, 0);
        iommu_free(iommu);
        vdpa_nic_free(nic);
        nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
        vdpa_nic_start(nic, 0);
        vdpa_assert_memory_mapped(t);
        vdpa_nic_check_data(nic, 3);
        qvirtio_reset(nic->vdev);
        vdpa_nic_free(nic);
    }
    nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
    iommu = iommu_new(nic);
    vdpa_nic_start(nic, 0);
    assert_iommu_mapped(iommu);
    /* These do not tell QEMU anything that would stop the device */
    iommu_free(iommu);
    vdpa_nic_free(nic);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), ==, 15);
    vdpa_end(t);
}

/* --- What the device has, exactly --- */

/**
 * struct Piece - a part of what the device can reach
 * @uaddr: of @first, in QEMU
 */
typedef struct Piece {
    uint64_t first;
    uint64_t last;
    uint64_t uaddr;
    unsigned perm;
} Piece;

static int piece_compare(gconstpointer a, gconstpointer b)
{
    const Piece *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

static GArray *pieces_new(void)
{
    return g_array_new(false, false, sizeof(Piece));
}

/* Sort, and make one of those that go on; they must not overlap */
static void pieces_merge(GArray *pieces)
{
    unsigned i;

    g_array_sort(pieces, piece_compare);
    for (i = 1; i < pieces->len;) {
        Piece *a = &g_array_index(pieces, Piece, i - 1);
        Piece *b = &g_array_index(pieces, Piece, i);

        g_assert_cmphex(a->last, <, b->first);
        if (a->last + 1 == b->first && a->perm == b->perm &&
            a->uaddr + (b->first - a->first) == b->uaddr) {
            a->last = b->last;
            g_array_remove_index(pieces, i);
        } else {
            i++;
        }
    }
}

/* Also what is no signed number */
static uint64_t get_u64(QDict *entry, const char *key)
{
    QNum *num = qobject_to(QNum, qdict_get(entry, key));
    uint64_t value;

    g_assert_nonnull(num);
    return qnum_get_try_uint(num, &value) ? value :
           (uint64_t)qnum_get_int(num);
}

/* What a device has, entry by entry */
static GArray *device_entries(VdpaTest *t, unsigned node)
{
    QDict *reply = vdpa_soft_request(t->soft, "mappings node=%u", node);
    GArray *pieces = pieces_new();
    const QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(reply, "entries"), e) {
        QDict *entry = qobject_to(QDict, qlist_entry_obj(e));
        Piece p = {
            .first = get_u64(entry, "first"),
            .last = get_u64(entry, "last"),
            .uaddr = get_u64(entry, "uaddr"),
            .perm = qdict_get_int(entry, "perm"),
        };

        g_array_append_val(pieces, p);
    }
    qobject_unref(reply);
    return pieces;
}

/*
 * The guest's memory by its own addresses, and where in QEMU it is: what a
 * device has before the guest uses the IOMMU.
 */
static GArray *guest_memory(VdpaTest *t)
{
    GArray *memory = device_entries(t, 0);

    vdpa_assert_memory_mapped(t);
    pieces_merge(memory);
    return memory;
}

/* What a mapping of @size bytes at @gpa comes to: its parts that are memory */
static void expect_mapped(GArray *expected, GArray *memory, uint64_t iova,
                          uint64_t gpa, uint64_t size, unsigned perm)
{
    unsigned i;

    for (i = 0; i < memory->len; i++) {
        const Piece *p = &g_array_index(memory, Piece, i);
        uint64_t first = MAX(p->first, gpa);
        uint64_t last = MIN(p->last, gpa + size - 1);
        Piece mapped = {
            .first = first - gpa + iova,
            .last = last - gpa + iova,
            .uaddr = p->uaddr + (first - p->first),
            .perm = p->perm & perm,
        };

        if (first <= last && mapped.perm) {
            g_array_append_val(expected, mapped);
        }
    }
}

static void assert_pieces(VdpaTest *t, unsigned node, GArray *wanted)
{
    g_autoptr(GArray) device = device_entries(t, node);
    g_autoptr(GArray) expected = g_array_copy(wanted);
    unsigned i;

    pieces_merge(device);
    pieces_merge(expected);
    for (i = 0; i < MIN(device->len, expected->len); i++) {
        const Piece *d = &g_array_index(device, Piece, i);
        const Piece *e = &g_array_index(expected, Piece, i);

        g_assert_cmphex(d->first, ==, e->first);
        g_assert_cmphex(d->last, ==, e->last);
        g_assert_cmphex(d->uaddr, ==, e->uaddr);
        g_assert_cmpuint(d->perm, ==, e->perm);
    }
    g_assert_cmpuint(device->len, ==, expected->len);
}

/* What the guest has in the IOMMU comes to */
static GArray *iommu_pieces(Iommu *iommu, GArray *memory)
{
    GArray *expected = pieces_new();
    unsigned i;

    for (i = 0; i < iommu->ranges->len; i++) {
        const VdpaRange *r = &g_array_index(iommu->ranges, VdpaRange, i);

        expect_mapped(expected, memory, r->first,
                      g_array_index(iommu->gpas, uint64_t, i),
                      r->last - r->first + 1, r->perm);
    }
    return expected;
}

/* The same, and where in QEMU it is */
static void assert_iommu_pieces(Iommu *iommu, GArray *memory, unsigned node)
{
    g_autoptr(GArray) expected = iommu_pieces(iommu, memory);

    assert_pieces(iommu->t, node, expected);
}

static void assert_nothing_mapped(VdpaTest *t, unsigned node)
{
    g_autoptr(GArray) nothing = pieces_new();

    assert_pieces(t, node, nothing);
}

/* Send a frame that is in the guest's memory, behind a header */
static void check_tx_from(VdpaNic *nic, uint64_t iova, uint64_t gpa,
                          size_t size)
{
    QVirtQueue *tx = vdpa_nic_tx(nic, 0);
    uint8_t *frame = g_malloc(size);
    uint32_t head;

    qtest_memread(nic->t->qts, gpa + VDPA_HEADER_SIZE, frame, size);
    vdpa_soft_do(nic->t->soft, "capture on");
    head = qvirtqueue_add(nic->t->qts, tx, iova, VDPA_HEADER_SIZE + size,
                          false, false);
    vdpa_nic_offer(nic, tx, head);
    vdpa_nic_take(nic, tx, head);
    vdpa_assert_captured(nic->t, 1, &frame, &size);
    vdpa_soft_do(nic->t->soft, "capture off");
    qvirtqueue_reset_pool(tx);
    g_free(frame);
}

/* All faults that the device counted are in this page, for this reason */
static void take_faults(VdpaTest *t, unsigned node, uint64_t page,
                        const char *why)
{
    QDict *reply;
    const QListEntry *e;

    vdpa_soft_do(t->soft, "wait faults >= 1 %d node=%u", VDPA_SOFT_DEADLINE_MS,
                 node);
    reply = vdpa_soft_request(t->soft, "faults node=%u", node);
    QLIST_FOREACH_ENTRY(qdict_get_qlist(reply, "entries"), e) {
        QDict *fault = qobject_to(QDict, qlist_entry_obj(e));

        g_assert_cmphex(get_u64(fault, "iova") & ~0xfffull, ==, page);
        g_assert_cmpstr(qdict_get_str(fault, "why"), ==, why);
    }
    qobject_unref(reply);
    vdpa_soft_do(t->soft, "clear node=%u", node);
}

/* What the guest maps need not be memory, or not all of it */
static void test_not_memory(void)
{
    VdpaTest *t = vdpa_start_qemu("--map any", VIRTIO_IOMMU_OPTIONS);
    VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
    QPCIDevice *host = qpci_device_find(t->bus, 0);
    g_autoptr(GArray) memory = NULL, rings = NULL;
    const struct {
        uint64_t gpa, size;
        unsigned perm;
    } maps[] = {
        { 0, GiB, 3 },
        { 0, 4 * GiB, 3 },
        { 0, 4 * GiB, 2 },                  /* nothing of ROMs */
        { 96 * MiB, 64 * MiB, 3 },          /* RAM ends in between */
        { 4 * GiB - 64 * KiB, 128 * KiB, 3 },   /* as does ROM */
        { 0xb0000, 0x80000, 3 },            /* begins with no memory */
        { 0xf0000, 64 * KiB, 3 },           /* RAM, but no longer writable */
        { VTD_BASE, 64 * KiB, 3 },          /* nothing there */
        { 0xfed00000, 4096, 3 },            /* a timer */
        { BIT_ULL(52), MiB, 3 },
        { -64 * KiB, 64 * KiB, 3 },
    };
    const uint64_t rom = 0xf0000, rom_iova = 96 * GiB, top_iova = -4096ull;
    size_t size = 600;
    g_autofree uint8_t *frame = g_malloc(size);
    g_autofree char *hex = NULL;
    IommuBuffers buffers;
    Iommu *iommu;
    uint32_t head;
    unsigned i;

    /* PAM 0: reads are from RAM, writes are lost */
    vdpa_make_frame(frame, size, 0);
    qpci_config_writeb(host, 0x90, 0x30);
    qtest_memset(t->qts, rom, 0, VDPA_HEADER_SIZE);
    qtest_memwrite(t->qts, rom + VDPA_HEADER_SIZE, frame, size);
    qpci_config_writeb(host, 0x90, 0x10);
    g_free(host);
    vdpa_nic_start(nic, 0);
    memory = guest_memory(t);
    vdpa_nic_negotiate(nic, 0);
    iommu = iommu_new(nic);
    vdpa_nic_start(nic, 0);
    iommu_buffers_map(iommu, &buffers);
    rings = device_entries(t, 0);

    for (i = 0; i < ARRAY_SIZE(maps); i++) {
        uint64_t iova = ROUND_UP(64 * GiB, pow2ceil(maps[i].size));
        g_autoptr(GArray) expected = g_array_copy(rings);

        iommu_set(iommu, iova, maps[i].gpa, maps[i].size, maps[i].perm);
        expect_mapped(expected, memory, iova, maps[i].gpa, maps[i].size,
                      maps[i].perm);
        assert_pieces(t, 0, expected);
        iommu_check_data(nic, &buffers, i);
        iommu_set(iommu, iova, 0, maps[i].size, 0);
        assert_pieces(t, 0, rings);
    }

    /* At the last address there is */
    {
        g_autoptr(GArray) expected = g_array_copy(rings);

        iommu_set(iommu, top_iova, rom, 4096, 3);
        expect_mapped(expected, memory, top_iova, rom, 4096, 3);
        assert_pieces(t, 0, expected);
        check_tx_from(nic, top_iova, rom, size);
        iommu_set(iommu, top_iova, 0, 4096, 0);
        assert_pieces(t, 0, rings);
    }

    /* The device can read what the guest can, but not write it */
    iommu_set(iommu, rom_iova, rom, 4096, 3);
    check_tx_from(nic, rom_iova, rom, size);
    head = qvirtqueue_add(t->qts, vdpa_nic_rx(nic, 0), rom_iova,
                          VDPA_HEADER_SIZE + size, true, false);
    vdpa_nic_offer(nic, vdpa_nic_rx(nic, 0), head);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "faults"), ==, 0);
    vdpa_make_frame(frame, size, 1);
    hex = vdpa_to_hex(frame, size);
    vdpa_soft_do(t->soft, "inject %s vq=0", hex);
    take_faults(t, 0, rom_iova, "mapped read-only");
    vdpa_make_frame(frame, size, 0);
    vdpa_assert_mem(t, rom + VDPA_HEADER_SIZE, frame, size);

    /* All that there is at once, also in the tables of the guest */
    qvirtio_reset(nic->vdev);
    g_assert_cmpuint(virtio_iommu_unmap(iommu, iommu->domain, 0, UINT64_MAX),
                     ==, VIRTIO_IOMMU_S_OK);
    iommu_forget(iommu);
    vdpa_nic_start(nic, 0);
    iommu_buffers_map(iommu, &buffers);
    assert_iommu_mapped(iommu);
    iommu_check_data(nic, &buffers, 90);
    vdpa_soft_skip(t->soft);
    g_assert_cmpuint(virtio_iommu_unmap(iommu, iommu->domain, 0, UINT64_MAX),
                     ==, VIRTIO_IOMMU_S_OK);
    assert_nothing_mapped(t, 0);
    iommu_set(iommu, 0, 0, 0, 3);
    assert_pieces(t, 0, memory);
    qvirtio_reset(nic->vdev);
    virtio_iommu_detach(iommu, iommu->slot, iommu->domain);
    iommu_free(iommu);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/**
 * struct Kind - a machine for a test of all IOMMUs, and of none
 * @qemu: its options
 * @new: the guest's driver of its IOMMU, or NULL
 */
typedef struct Kind {
    const char *name;
    const char *qemu;
    Iommu *(*new)(VdpaNic *nic);
} Kind;

static const Kind kinds[] = {
    { "intel", INTEL_IOMMU_OPTIONS, intel_iommu_new },
    { "intel-ats", "-M q35 -device intel-iommu,caching-mode=on,device-iotlb=on "
      VDPA_NETDEV_OPTION IOMMU_NIC_OPTION ",vectors=0,ats=on",
      intel_iommu_new },
    { "virtio", VIRTIO_IOMMU_OPTIONS, iommu_new },
    { "generic", "-M q35 -device virtio-iommu-pci,addr=5 "
      "-device vhost-vdpa-device-pci,vhostdev=" VDPA_NODE ",addr=4,"
      "disable-legacy=on,iommu_platform=on", iommu_new },
    /* Without an IOMMU */
    { "none", "-M q35 " VDPA_NETDEV_OPTION VDPA_NIC_OPTION
      ",disable-legacy=on,vectors=0", NULL },
    { "platform", "-M q35 " VDPA_NETDEV_OPTION IOMMU_NIC_OPTION ",vectors=0",
      NULL },
};

#define NUM_IOMMU_CARDS 3
#define NUM_IOMMU_KINDS 4

/* All IOTLB messages since the last time are one batch of @count UPDATEs */
static void assert_batch(VdpaTest *t, unsigned count)
{
    g_autoptr(GPtrArray) messages = iommu_messages(t);

    g_assert_cmpuint(vdpa_count_calls(messages, "IOTLB_UPDATE"), ==, count);
    g_assert_cmpuint(vdpa_count_calls(messages, "IOTLB_BATCH_BEGIN"), ==, 1);
    g_assert_cmpuint(messages->len, ==, count + 2);
}

static void check_kind_data(VdpaNic *nic, Iommu *iommu,
                            const IommuBuffers *buffers, unsigned seed)
{
    if (iommu) {
        iommu_check_data(nic, buffers, seed);
    } else {
        vdpa_nic_check_data(nic, seed);
    }
}

/* One by one */
static void iommu_unmap_all(Iommu *iommu)
{
    while (iommu->ranges->len > 0) {
        iommu_unmap(iommu, g_array_index(iommu->ranges, VdpaRange, 0).first);
    }
}

/* For a driver that has done all the rest */
static void start_driver(VdpaNic *nic)
{
    vdpa_nic_set_driver_ok(nic);
    vdpa_soft_wait(nic->t->soft, "status == 15");
}

/* Only what is behind an IOMMU loses memory with the right to access it */
static void test_bus_master(const void *opaque)
{
    const Kind *kind = opaque;
    VdpaTest *t = vdpa_start_qemu("--map any", kind->qemu);
    VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
    Iommu *iommu = kind->new ? kind->new(nic) : NULL;
    g_autoptr(GPtrArray) messages = NULL, expected = vdpa_no_calls();
    g_autofree char *removed = NULL;
    g_autoptr(GArray) all = NULL;
    IommuBuffers buffers;

    vdpa_nic_start(nic, 0);
    if (iommu) {
        iommu_buffers_map(iommu, &buffers);
        assert_iommu_mapped(iommu);
    } else {
        vdpa_assert_memory_mapped(t);
    }
    all = device_entries(t, 0);
    removed = removal(t);
    check_kind_data(nic, iommu, &buffers, 1);

    /* While it runs */
    vdpa_soft_skip(t->soft);
    set_bus_master(nic, false);
    g_assert_cmphex(vdpa_nic_status(nic) & VIRTIO_CONFIG_S_DRIVER_OK, ==, 0);
    if (iommu) {
        assert_nothing_mapped(t, 0);
        vdpa_add_call(expected, "%s", removed);
        messages = iommu_messages(t);
        vdpa_soft_assert_calls("the loss of bus mastering", messages,
                               expected);
    } else {
        assert_no_iommu_messages(t, "the loss of bus mastering");
        assert_pieces(t, 0, all);
    }
    set_bus_master(nic, true);
    assert_no_iommu_messages(t, "bus mastering of a stopped device");
    start_driver(nic);
    assert_pieces(t, 0, all);
    if (iommu) {
        assert_batch(t, all->len);
    } else {
        assert_no_iommu_messages(t, "a start");
    }
    check_kind_data(nic, iommu, &buffers, 3);

    /* While the virtual machine is paused */
    vdpa_soft_skip(t->soft);
    vdpa_stop_guest(t);
    set_bus_master(nic, false);
    set_bus_master(nic, true);
    assert_no_iommu_messages(t, "bus mastering in a pause");
    vdpa_continue_guest(t);
    start_driver(nic);
    assert_pieces(t, 0, all);
    if (!iommu) {
        assert_no_iommu_messages(t, "a new start");
    }
    check_kind_data(nic, iommu, &buffers, 5);

    /* While the device is at rest */
    qvirtio_reset(nic->vdev);
    vdpa_soft_skip(t->soft);
    set_bus_master(nic, false);
    set_bus_master(nic, true);
    vdpa_assert_no_calls(t, "bus mastering of a device at rest");

    /* A driver that forgets about it at first */
    if (iommu) {
        iommu_unmap_all(iommu);
    }
    vdpa_nic_prepare(nic, 0);
    if (iommu) {
        iommu_buffers_map(iommu, &buffers);
    }
    set_bus_master(nic, false);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "faults"), ==, 0);
    start_driver(nic);
    if (iommu) {
        assert_nothing_mapped(t, 0);
        vdpa_soft_wait(t->soft, "faults >= 2");
        set_bus_master(nic, true);
        assert_iommu_mapped(iommu);
        /* Rings that it could not read, a device does not look at again */
        qvirtio_reset(nic->vdev);
        vdpa_soft_do(t->soft, "clear");
        iommu_unmap_all(iommu);
        vdpa_nic_start(nic, 0);
        iommu_buffers_map(iommu, &buffers);
        assert_iommu_mapped(iommu);
    }
    check_kind_data(nic, iommu, &buffers, 7);
    if (iommu) {
        iommu_free(iommu);
    }
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Devices of the guest's that nobody uses keep domains alive */
#define KEEPER_OPTIONS " -device pci-testdev,addr=6 -device pci-testdev,addr=7"
#define KEEPER_SLOT 6
#define OTHER_KEEPER_SLOT 7
#define OTHER_DOMAIN 2
#define BYPASS_DOMAIN 3

/* The guest decides, or not, about endpoints that are in no domain */
static void set_bypass(Iommu *iommu, bool bypass)
{
    qpci_io_writeb(iommu->pci->pdev, iommu->pci->bar,
                   iommu->pci->device_cfg_offset +
                   offsetof(struct virtio_iommu_config, bypass), bypass);
}

/* The same rings, and buffers elsewhere at the same addresses */
static void fill_other_domain(Iommu *iommu, Iommu *other, IommuBuffers *b)
{
    unsigned i;

    for (i = 0; i < iommu->ranges->len; i++) {
        VdpaRange r = g_array_index(iommu->ranges, VdpaRange, i);
        uint64_t gpa = g_array_index(iommu->gpas, uint64_t, i);
        uint64_t *buffer = r.first == b->tx_iova ? &b->tx :
                           r.first == b->rx_iova ? &b->rx : NULL;

        if (buffer) {
            gpa = *buffer = new_table(iommu->t);
        }
        iommu_set(other, r.first, gpa, r.last - r.first + 1, r.perm);
        g_array_append_val(other->ranges, r);
        g_array_append_val(other->gpas, gpa);
    }
    other->next = iommu->next;
}

/* A device that moves between domains has what the guest mapped in each */
static void test_domains(const void *soft)
{
    VdpaTest *t = vdpa_start_qemu(soft, VIRTIO_IOMMU_OPTIONS KEEPER_OPTIONS);
    VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
    IommuBuffers buffers, others, later;
    g_autoptr(GArray) memory = NULL;
    g_autoptr(GPtrArray) messages = NULL;
    Iommu *iommu, *other;
    int i;

    vdpa_nic_start(nic, 0);
    memory = guest_memory(t);
    vdpa_nic_negotiate(nic, 0);
    iommu = iommu_new(nic);
    virtio_iommu_attach(iommu, KEEPER_SLOT, IOMMU_DOMAIN, 0);
    other = iommu_new_shared(iommu, nic, OTHER_KEEPER_SLOT, OTHER_DOMAIN);
    nic->vdev->bus = &iommu->bus;
    vdpa_nic_start(nic, 0);
    iommu_buffers_map(iommu, &buffers);
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 1);

    vdpa_soft_skip(t->soft);
    others = buffers;
    fill_other_domain(iommu, other, &others);
    assert_no_iommu_messages(t, "what is mapped in another domain");
    assert_iommu_pieces(iommu, memory, 0);

    /* From one to the other and back, while it runs */
    for (i = 0; i < 3; i++) {
        vdpa_soft_skip(t->soft);
        virtio_iommu_attach(iommu, VDPA_NIC_SLOT, OTHER_DOMAIN, 0);
        {
            g_autoptr(GPtrArray) moved = iommu_messages(t);

            /* There is nothing in between */
            g_assert_cmpuint(vdpa_count_calls(moved, "IOTLB_INVALIDATE"), ==,
                             iommu->ranges->len);
            g_assert_cmpuint(vdpa_count_calls(moved, "IOTLB_UPDATE"), ==,
                             other->ranges->len);
        }
        assert_iommu_pieces(other, memory, 0);
        iommu_check_data(nic, &others, 10 + 4 * i);
        virtio_iommu_attach(iommu, VDPA_NIC_SLOT, IOMMU_DOMAIN, 0);
        assert_iommu_pieces(iommu, memory, 0);
        iommu_check_data(nic, &buffers, 12 + 4 * i);
    }

    /* What changes meanwhile in a domain, it finds when it comes back */
    vdpa_soft_skip(t->soft);
    iommu_buffers_map(other, &later);
    iommu_unmap(other, others.tx_iova);
    assert_no_iommu_messages(t, "what is mapped in another domain");
    assert_iommu_pieces(iommu, memory, 0);
    virtio_iommu_attach(iommu, VDPA_NIC_SLOT, OTHER_DOMAIN, 0);
    assert_iommu_pieces(other, memory, 0);
    iommu_check_data(nic, &later, 30);

    /* In none, and in one that does not translate: all of the memory */
    virtio_iommu_detach(iommu, VDPA_NIC_SLOT, OTHER_DOMAIN);
    assert_pieces(t, 0, memory);
    vdpa_soft_skip(t->soft);
    virtio_iommu_attach(iommu, VDPA_NIC_SLOT, BYPASS_DOMAIN,
                        VIRTIO_IOMMU_ATTACH_F_BYPASS);
    assert_no_iommu_messages(t, "another way to bypass the IOMMU");
    assert_pieces(t, 0, memory);
    virtio_iommu_attach(iommu, VDPA_NIC_SLOT, IOMMU_DOMAIN, 0);
    assert_iommu_pieces(iommu, memory, 0);
    /* All goes at once, then all comes, however much is in the domain */
    messages = iommu_messages(t);
    g_assert_cmpuint(vdpa_count_calls(messages, "IOTLB_INVALIDATE"), ==, 1);
    g_assert_cmpuint(vdpa_count_calls(messages, "IOTLB_UPDATE"), ==,
                     iommu->ranges->len);
    g_assert_cmpuint(vdpa_count_calls(messages, "IOTLB_BATCH_BEGIN"), ==,
                     strstr(soft, "--backend-features") ? 0 : 1);
    iommu_check_data(nic, &buffers, 32);

    /* In none, of an IOMMU that lets nothing pass: nothing */
    set_bypass(iommu, false);
    assert_iommu_pieces(iommu, memory, 0);
    virtio_iommu_detach(iommu, VDPA_NIC_SLOT, IOMMU_DOMAIN);
    assert_nothing_mapped(t, 0);
    virtio_iommu_attach(iommu, VDPA_NIC_SLOT, OTHER_DOMAIN, 0);
    assert_iommu_pieces(other, memory, 0);
    iommu_check_data(nic, &later, 34);
    virtio_iommu_detach(iommu, VDPA_NIC_SLOT, OTHER_DOMAIN);
    set_bypass(iommu, true);
    assert_pieces(t, 0, memory);

    /* Nothing is lost, and nothing remains, however often it moves */
    for (i = 0; i < 50; i++) {
        virtio_iommu_attach(iommu, VDPA_NIC_SLOT, OTHER_DOMAIN, 0);
        virtio_iommu_detach(iommu, VDPA_NIC_SLOT, OTHER_DOMAIN);
    }
    assert_pieces(t, 0, memory);

    /* While it is at rest, nobody needs to know */
    qvirtio_reset(nic->vdev);
    vdpa_soft_skip(t->soft);
    virtio_iommu_attach(iommu, VDPA_NIC_SLOT, OTHER_DOMAIN, 0);
    virtio_iommu_attach(iommu, VDPA_NIC_SLOT, BYPASS_DOMAIN,
                        VIRTIO_IOMMU_ATTACH_F_BYPASS);
    virtio_iommu_attach(iommu, VDPA_NIC_SLOT, IOMMU_DOMAIN, 0);
    vdpa_assert_no_calls(t, "domains of a device at rest");
    iommu_unmap_all(iommu);
    vdpa_nic_start(nic, 0);
    iommu_buffers_map(iommu, &buffers);
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 36);
    qvirtio_reset(nic->vdev);
    other->plain = iommu->plain;
    iommu_free(other);
    iommu_free(iommu);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* One message, about a range of this size */
static void assert_change(Iommu *iommu, const char *message, uint64_t iova,
                          uint64_t size, unsigned perm)
{
    VdpaRange r = { .first = iova, .last = iova + size - 1, .perm = perm };

    assert_one_message(iommu, message, &r);
}

/* Record what the guest mapped in another way than with iommu_map() */
static void iommu_record(Iommu *iommu, uint64_t iova, uint64_t gpa,
                         uint64_t size, unsigned perm)
{
    VdpaRange r = { .first = iova, .last = iova + size - 1, .perm = perm };

    g_array_append_val(iommu->ranges, r);
    g_array_append_val(iommu->gpas, gpa);
}

static void iommu_erase(Iommu *iommu, uint64_t iova)
{
    unsigned i;

    for (i = 0; g_array_index(iommu->ranges, VdpaRange, i).first != iova; i++) {
        g_assert_cmpuint(i, <, iommu->ranges->len);
    }
    g_array_remove_index(iommu->ranges, i);
    g_array_remove_index(iommu->gpas, i);
}

/* Where addresses of interrupts begin; there are 1 MiB of them */
#define VTD_INTERRUPTS 0xfee00000ull

/* A page of a size that the tables can have: 4 KiB, 2 MiB, 1 GiB */
static uint64_t level_size(unsigned level)
{
    return 4096ull << 9 * (level - 1);
}

static void intel_map(Iommu *iommu, uint64_t iova, unsigned level,
                      uint64_t gpa, unsigned perm)
{
    intel_iommu_set(iommu, iova, level, gpa, perm);
    intel_iommu_flush_pages(iommu, iova, level_size(level));
    if (perm) {
        iommu_record(iommu, iova, gpa, level_size(level), perm);
    } else {
        iommu_erase(iommu, iova);
    }
}

/* Pages of all sizes, come and go as the guest's tables say */
static void test_intel_pages(const void *opaque)
{
    unsigned level, levels = GPOINTER_TO_UINT(opaque);
    uint64_t base = levels == 4 ? BIT_ULL(46) : 64 * GiB;
    const uint64_t dimm = 4 * GiB;
    VdpaTest *t = vdpa_start_qemu("--map any", INTEL_IOMMU_OPTIONS
                                  " -m 128M,slots=2,maxmem=4G");
    VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
    g_autoptr(GArray) memory = NULL;
    IommuBuffers buffers, large;
    uint64_t page, top;
    Iommu *iommu;

    /* For the largest pages, as 128 MiB of RAM have no room for one */
    vdpa_add_dimm(t, 1024);
    vdpa_nic_start(nic, 0);
    memory = guest_memory(t);
    vdpa_nic_negotiate(nic, 0);
    iommu = intel_iommu_new_levels(nic, levels);
    vdpa_nic_start(nic, 0);
    iommu_buffers_map(iommu, &buffers);
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 1);

    for (level = 1; level <= 3; level++) {
        uint64_t size = level_size(level), iova = base + size;

        /* Nothing happens before the guest says that it changed something */
        vdpa_soft_skip(t->soft);
        intel_iommu_set(iommu, iova, level, dimm, 3);
        vdpa_assert_no_calls(t, "a change that is not announced");
        intel_iommu_flush_pages(iommu, iova, size);
        iommu_record(iommu, iova, dimm, size, 3);
        assert_change(iommu, "IOTLB_UPDATE", iova, size, 3);
        assert_iommu_pieces(iommu, memory, 0);
        large.tx = dimm + size / 2;
        large.tx_iova = iova + size / 2;
        large.rx = dimm + size - 1000;
        large.rx_iova = iova + size - 1000;
        iommu_check_data(nic, &large, 10 + 2 * level);
        vdpa_soft_skip(t->soft);
        intel_iommu_flush_pages(iommu, iova, size);
        vdpa_assert_no_calls(t, "an announcement without a change");

        /* Its permission, in place */
        intel_iommu_set(iommu, iova, level, dimm, 1);
        intel_iommu_flush_pages(iommu, iova, size);
        iommu_erase(iommu, iova);
        iommu_record(iommu, iova, dimm, size, 1);
        assert_iommu_pieces(iommu, memory, 0);
        vdpa_soft_skip(t->soft);
        intel_map(iommu, iova, level, 0, 0);
        assert_change(iommu, "IOTLB_INVALIDATE", iova, size, 0);
        assert_iommu_pieces(iommu, memory, 0);
    }

    /* Small pages where a large one was, and the reverse */
    intel_map(iommu, base, 2, 32 * MiB, 3);
    assert_iommu_pieces(iommu, memory, 0);
    intel_map(iommu, base, 2, 0, 0);
    intel_map(iommu, base + MiB, 1, 34 * MiB, 2);
    intel_map(iommu, base + MiB + 4096, 1, 33 * MiB, 3);
    assert_iommu_pieces(iommu, memory, 0);
    intel_map(iommu, base + MiB, 1, 0, 0);
    intel_map(iommu, base + MiB + 4096, 1, 0, 0);
    qtest_writeq(t->qts, intel_iommu_entry(iommu, base, 2), 0);
    intel_iommu_flush_pages(iommu, base, 2 * MiB);
    assert_iommu_pieces(iommu, memory, 0);
    intel_map(iommu, base, 2, 36 * MiB, 3);
    assert_iommu_pieces(iommu, memory, 0);

    /* Of a page across the place of interrupts, what is not there */
    vdpa_soft_skip(t->soft);
    intel_map(iommu, VTD_INTERRUPTS, 2, 48 * MiB, 3);
    assert_change(iommu, "IOTLB_UPDATE", VTD_INTERRUPTS + MiB, MiB, 3);
    iommu_erase(iommu, VTD_INTERRUPTS);
    iommu_record(iommu, VTD_INTERRUPTS + MiB, 49 * MiB, MiB, 3);
    intel_map(iommu, VTD_INTERRUPTS - 4096, 1, 52 * MiB, 3);
    intel_map(iommu, VTD_INTERRUPTS + 2 * MiB, 1, 53 * MiB, 3);
    assert_iommu_pieces(iommu, memory, 0);
    /* Tables that have nothing there any more, announced for one page */
    qtest_writeq(t->qts, intel_iommu_entry(iommu, VTD_INTERRUPTS, 3), 0);
    vdpa_soft_skip(t->soft);
    intel_iommu_flush_pages(iommu, VTD_INTERRUPTS, 4096);
    iommu_erase(iommu, VTD_INTERRUPTS - 4096);
    iommu_erase(iommu, VTD_INTERRUPTS + MiB);
    iommu_erase(iommu, VTD_INTERRUPTS + 2 * MiB);
    assert_iommu_pieces(iommu, memory, 0);

    /* Another page at the same address: the device sees the new one */
    page = guest_alloc(&t->alloc, 4096);
    iommu_erase(iommu, buffers.tx_iova);
    intel_iommu_set(iommu, buffers.tx_iova, 1, page, 1);
    intel_iommu_flush_pages(iommu, buffers.tx_iova, 4096);
    iommu_record(iommu, buffers.tx_iova, page, 4096, 1);
    buffers.tx = page;
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 20);

    /* Several changes, announced for all of a domain, or of the IOMMU */
    intel_iommu_set(iommu, base, 2, 0, 0);
    intel_iommu_set(iommu, base + 4 * MiB, 1, 40 * MiB, 1);
    intel_iommu_set(iommu, base + 4 * MiB + 4096, 1, 40 * MiB + 4096, 1);
    assert_iommu_pieces(iommu, memory, 0);
    intel_iommu_flush(iommu, VTD_DOMAIN);
    iommu_erase(iommu, base);
    iommu_record(iommu, base + 4 * MiB, 40 * MiB, 8192, 1);
    assert_iommu_pieces(iommu, memory, 0);
    intel_iommu_set(iommu, base + 4 * MiB, 1, 0, 0);
    intel_iommu_set(iommu, base + 4 * MiB + 4096, 1, 0, 0);
    intel_iommu_set(iommu, base + 6 * MiB, 2, 42 * MiB, 3);
    intel_iommu_flush(iommu, VTD_ALL_PAGES);
    iommu_erase(iommu, base + 4 * MiB);
    iommu_record(iommu, base + 6 * MiB, 42 * MiB, 2 * MiB, 3);
    assert_iommu_pieces(iommu, memory, 0);
    vdpa_soft_skip(t->soft);
    intel_iommu_flush(iommu, VTD_ALL_PAGES);
    intel_iommu_flush(iommu, VTD_DOMAIN);
    intel_iommu_flush_pages(iommu, base + 128 * GiB, GiB);
    intel_iommu_flush_pages(iommu, 0, 4096);
    vdpa_assert_no_calls(t, "announcements without a change");
    iommu_check_data(nic, &buffers, 22);

    /* The device leaves its domain, and comes back */
    intel_iommu_set_context(iommu, 0, VTD_ONE_CONTEXT);
    assert_nothing_mapped(t, 0);
    intel_iommu_set_context(iommu, iommu->top | 1, VTD_ONE_CONTEXT);
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 24);

    /* It is passed through, and is not */
    intel_iommu_set_context(iommu, VTD_PASS_THROUGH | 1, VTD_ONE_CONTEXT);
    assert_pieces(t, 0, memory);
    intel_iommu_set_context(iommu, iommu->top | 1, VTD_ONE_CONTEXT);
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 26);

    /* Other tables, for another domain, and back */
    top = iommu->top;
    iommu->top = new_table(t);
    iommu->domain = OTHER_DOMAIN;
    intel_iommu_set(iommu, base, 2, 44 * MiB, 3);
    intel_iommu_set_context(iommu, iommu->top | 1, VTD_ONE_CONTEXT);
    {
        g_autoptr(GArray) expected = pieces_new();

        expect_mapped(expected, memory, base, 44 * MiB, 2 * MiB, 3);
        assert_pieces(t, 0, expected);
    }
    iommu->top = top;
    iommu->domain = IOMMU_DOMAIN;
    intel_iommu_set_context(iommu, iommu->top | 1, VTD_ALL_CONTEXTS);
    intel_iommu_flush(iommu, VTD_ALL_PAGES);
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 28);

    /* A new start finds what was there, or what is there by now */
    qvirtio_reset(nic->vdev);
    intel_map(iommu, base + GiB, 3, dimm, 3);
    vdpa_nic_start(nic, 0);
    iommu_buffers_map(iommu, &buffers);
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 30);
    disable_intel_iommu(t);
    assert_pieces(t, 0, memory);
    iommu_free(iommu);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Start the driver with what is mapped for a device at rest */
static void start_mapped(VdpaNic *nic, Iommu *iommu, IommuBuffers *buffers)
{
    vdpa_nic_prepare(nic, 0);
    iommu_buffers_map(iommu, buffers);
    start_driver(nic);
}

/* An address that the device cannot use: it says so, and nothing is lost */
static void test_out_of_range(const void *opaque)
{
    const Kind *kind = opaque;
    const char *complaint = "'" VDPA_NODE "'.*0x800000000-0x800000fff.*"
                            "range 0x0-0x7ffffffff.*aw-bits";
    VdpaTest *t = vdpa_start_qemu("--map any --iova-range 0-7ffffffff",
                                  kind->qemu);
    VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
    g_autoptr(GArray) memory = NULL;
    uint64_t far = 32 * GiB - 4096, gpa;
    IommuBuffers buffers;
    Iommu *iommu;
    int i;

    vdpa_nic_start(nic, 0);
    memory = guest_memory(t);
    vdpa_nic_negotiate(nic, 0);
    iommu = kind->new(nic);
    start_mapped(nic, iommu, &buffers);
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 1);

    /* The last page that it can use, then one more */
    gpa = guest_alloc(&t->alloc, 4 * 4096);
    iommu_set(iommu, far, gpa, 4096, 3);
    iommu_record(iommu, far, gpa, 4096, 3);
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 3);
    vdpa_soft_skip(t->soft);
    iommu_set(iommu, far + 4096, gpa + 4096, 4096, 3);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, complaint);
    assert_iommu_pieces(iommu, memory, 0);

    /* Not even a start works, until the guest has taken it back */
    for (i = 0; i < 2; i++) {
        vdpa_nic_prepare(nic, 0);
        vdpa_nic_set_driver_ok(nic);
        vdpa_nic_wait_needs_reset(nic);
        vdpa_take_error(t, complaint);
        g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), ==, 0);
    }
    qvirtio_reset(nic->vdev);
    iommu_set(iommu, far + 4096, 0, 4096, 0);
    iommu_unmap_all(iommu);
    start_mapped(nic, iommu, &buffers);
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 5);
    iommu_free(iommu);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

static uint64_t node_number(VdpaTest *t, unsigned node, const char *key)
{
    QDict *stats = vdpa_soft_request(t->soft, "stats node=%u", node);
    uint64_t value = get_u64(stats, key);

    qobject_unref(stats);
    return value;
}

/* One interrupt may stand for two rings: look at the ring itself */
static void poll_used(VdpaNic *nic, QVirtQueue *vq, uint32_t head,
                      uint32_t size)
{
    int64_t end = g_get_monotonic_time() + VDPA_DEADLINE_US;
    uint32_t got, len;

    while (!qvirtqueue_get_buf(nic->t->qts, vq, &got, &len)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
    g_assert_cmpuint(got, ==, head);
    g_assert_cmpuint(len, ==, size);
}

/* What the second device sends, its wire gives back to it */
static void check_looped_data(VdpaNic *nic, const IommuBuffers *b,
                              unsigned seed)
{
    size_t frame_size = IOMMU_FRAME_SIZE, size = VDPA_HEADER_SIZE + frame_size;
    QVirtQueue *rx = vdpa_nic_rx(nic, 0), *tx = vdpa_nic_tx(nic, 0);
    g_autofree uint8_t *frame = g_malloc(frame_size);
    QTestState *qts = nic->t->qts;
    uint32_t rx_head, tx_head;

    vdpa_make_frame(frame, frame_size, seed);
    qtest_memset(qts, b->tx, 0, VDPA_HEADER_SIZE);
    qtest_memwrite(qts, b->tx + VDPA_HEADER_SIZE, frame, frame_size);
    qtest_memset(qts, b->rx, 0xee, size);
    rx_head = qvirtqueue_add(qts, rx, b->rx_iova, size, true, false);
    vdpa_nic_offer(nic, rx, rx_head);
    tx_head = qvirtqueue_add(qts, tx, b->tx_iova, size, false, false);
    vdpa_nic_offer(nic, tx, tx_head);
    poll_used(nic, tx, tx_head, 0);
    poll_used(nic, rx, rx_head, size);
    vdpa_assert_mem(nic->t, b->rx + VDPA_HEADER_SIZE, frame, frame_size);
    qvirtqueue_reset_pool(tx);
    qvirtqueue_reset_pool(rx);
}

#define SECOND_NIC_SLOT 8

/* Two devices, each in a domain of its own, then both in one */
static void test_two_devices(void)
{
    VdpaTest *t = vdpa_start_qemu("--map any --node --map any",
                                  VIRTIO_IOMMU_OPTIONS KEEPER_OPTIONS
                                  " -netdev vhost-vdpa,id=net1,"
                                  "vhostdev=/dev/vhost-vdpa-1"
                                  " -device virtio-net-pci,netdev=net1,addr=8,"
                                  "romfile=,disable-legacy=on,"
                                  "iommu_platform=on,vectors=0");
    VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
    VdpaNic *second = vdpa_nic_new_intx(t, SECOND_NIC_SLOT);
    g_autoptr(GArray) memory = NULL;
    IommuBuffers buffers, others, shared;
    Iommu *iommu, *other;
    uint64_t messages;

    vdpa_nic_start(nic, 0);
    memory = guest_memory(t);
    vdpa_nic_negotiate(nic, 0);
    iommu = iommu_new(nic);
    other = iommu_new_shared(iommu, second, SECOND_NIC_SLOT, OTHER_DOMAIN);
    start_mapped(nic, iommu, &buffers);
    vdpa_nic_prepare(second, 0);
    iommu_buffers_map(other, &others);
    vdpa_nic_set_driver_ok(second);
    vdpa_soft_do(t->soft, "wait status == 15 %d node=1",
                 VDPA_SOFT_DEADLINE_MS);
    assert_iommu_pieces(iommu, memory, 0);
    /* The same addresses for other memory */
    g_assert_cmphex(buffers.tx_iova, ==, others.tx_iova);
    g_assert_cmphex(buffers.tx, !=, others.tx);
    {
        g_autoptr(GArray) device = device_entries(t, 1);
        g_autoptr(GArray) expected = iommu_pieces(other, memory);

        g_assert_cmpuint(device->len, ==, expected->len);
    }
    assert_iommu_pieces(other, memory, 1);
    iommu_check_data(nic, &buffers, 1);
    check_looped_data(second, &others, 3);

    /* What the one loses, the other does not even hear of */
    messages = node_number(t, 1, "messages");
    iommu_unmap(iommu, buffers.tx_iova);
    assert_iommu_pieces(iommu, memory, 0);
    assert_iommu_pieces(other, memory, 1);
    g_assert_cmpuint(node_number(t, 1, "messages"), ==, messages);
    check_looped_data(second, &others, 4);
    vdpa_nic_free_vqs(second);
    messages = node_number(t, 0, "messages");
    virtio_iommu_detach(iommu, SECOND_NIC_SLOT, OTHER_DOMAIN);
    g_assert_cmpuint(node_number(t, 0, "messages"), ==, messages);

    /* Both in one: what is there is the second's too, and what comes */
    virtio_iommu_attach(iommu, SECOND_NIC_SLOT, IOMMU_DOMAIN, 0);
    assert_iommu_pieces(iommu, memory, 1);
    shared.tx = guest_alloc(&t->alloc, 4096);
    shared.tx_iova = iommu_map(iommu, shared.tx, 4096, 3);
    shared.rx = guest_alloc(&t->alloc, 4096);
    shared.rx_iova = iommu_map(iommu, shared.rx, 4096, 3);
    assert_iommu_pieces(iommu, memory, 0);
    assert_iommu_pieces(iommu, memory, 1);
    iommu_check_data(nic, &shared, 5);
    vdpa_nic_negotiate(second, 0);
    second->vdev->bus = &iommu->bus;
    vdpa_nic_prepare(second, 0);
    vdpa_nic_set_driver_ok(second);
    vdpa_soft_do(t->soft, "wait status == 15 %d node=1",
                 VDPA_SOFT_DEADLINE_MS);
    assert_iommu_pieces(iommu, memory, 0);
    assert_iommu_pieces(iommu, memory, 1);
    check_looped_data(second, &shared, 7);
    iommu_unmap(iommu, shared.tx_iova);
    assert_iommu_pieces(iommu, memory, 0);
    assert_iommu_pieces(iommu, memory, 1);
    g_assert_cmpuint(node_number(t, 1, "faults"), ==, 0);
    second->vdev->bus = &other->bus;
    iommu_free(other);
    iommu_free(iommu);
    vdpa_nic_free(nic);
    vdpa_nic_free(second);
    vdpa_end(t);
}

/* An IOMMU, after a look at the guest's memory without it */
static Iommu *new_in_memory(const Kind *kind, VdpaNic *nic, GArray **memory)
{
    vdpa_nic_start(nic, 0);
    *memory = guest_memory(nic->t);
    vdpa_nic_negotiate(nic, 0);
    return kind->new(nic);
}

#define PAGES 256

/*
 * Pages that go on where the one before ends, in the guest's memory too: each
 * comes and goes alone, whether it came to a device that runs or at its start.
 */
static void test_many(const void *opaque)
{
    const Kind *kind = opaque;
    VdpaTest *t = vdpa_start_qemu("--map any", kind->qemu);
    VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
    const uint64_t base = IOVA_BASE + GiB, gpa = 64 * MiB;
    g_autoptr(GArray) memory = NULL;
    IommuBuffers buffers;
    uint64_t mappings, entries = 0;
    Iommu *iommu = new_in_memory(kind, nic, &memory);
    unsigned i, round;

    for (i = 0; i < PAGES; i++) {
        iommu_set(iommu, base + i * 4096, gpa + i * 4096, 4096, 3);
        iommu_record(iommu, base + i * 4096, gpa + i * 4096, 4096, 3);
    }
    start_mapped(nic, iommu, &buffers);
    mappings = vdpa_soft_number(t->soft, "mappings");
    /* A page is what intel-iommu tells of */
    for (i = 0; i < iommu->ranges->len; i++) {
        const VdpaRange *r = &g_array_index(iommu->ranges, VdpaRange, i);

        entries += iommu->pci ? 1 : (r->last - r->first + 1) / 4096;
    }
    g_assert_cmpuint(mappings, ==, entries);
    assert_iommu_pieces(iommu, memory, 0);

    for (round = 0; round < 2; round++) {
        /* One in the middle of others, the first, the last */
        const unsigned gone[] = { PAGES / 2, PAGES / 2 + 1, 0, PAGES - 1 };

        for (i = 0; i < ARRAY_SIZE(gone); i++) {
            uint64_t iova = base + gone[i] * 4096;

            vdpa_soft_skip(t->soft);
            iommu_set(iommu, iova, 0, 4096, 0);
            iommu_erase(iommu, iova);
            assert_change(iommu, "IOTLB_INVALIDATE", iova, 4096, 0);
            assert_iommu_pieces(iommu, memory, 0);
        }
        for (i = 0; i < ARRAY_SIZE(gone); i++) {
            uint64_t iova = base + gone[i] * 4096;
            uint64_t page = gpa + gone[i] * 4096;

            iommu_set(iommu, iova, page, 4096, 3);
            iommu_record(iommu, iova, page, 4096, 3);
            assert_change(iommu, "IOTLB_UPDATE", iova, 4096, 3);
            assert_iommu_pieces(iommu, memory, 0);
        }
    }
    g_assert_cmpuint(vdpa_soft_number(t->soft, "mappings"), ==, mappings);
    iommu_check_data(nic, &buffers, 1);

    if (iommu->pci) {
        /* Never mapped, or only in part: nothing changes */
        vdpa_soft_skip(t->soft);
        iommu_set(iommu, IOVA_BASE - GiB, 0, 64 * KiB, 0);
        iommu_set(iommu, 0, 0, IOVA_BASE, 0);
        iommu_set(iommu, BIT_ULL(63), 0, BIT_ULL(62), 0);
        g_assert_cmpuint(virtio_iommu_unmap(iommu, iommu->domain,
                                            buffers.tx_iova,
                                            buffers.tx_iova + 1023),
                         ==, VIRTIO_IOMMU_S_RANGE);
        /* Nor when there is something already */
        g_assert_cmpuint(virtio_iommu_map(iommu, iommu->domain,
                                          buffers.tx_iova,
                                          buffers.tx_iova + 4095, gpa,
                                          VIRTIO_IOMMU_MAP_F_READ), ==,
                         VIRTIO_IOMMU_S_INVAL);
        vdpa_assert_no_calls(t, "what is no change");
        assert_iommu_pieces(iommu, memory, 0);
        iommu_check_data(nic, &buffers, 3);
        vdpa_soft_skip(t->soft);
        iommu_set(iommu, 0, 0, 0, 0);
    } else {
        /* The whole table, and what leads there */
        qtest_writeq(t->qts, intel_iommu_entry(iommu, base, 3), 0);
        intel_iommu_flush_pages(iommu, base, GiB);
        for (i = 0; i < PAGES; i++) {
            iommu_erase(iommu, base + i * 4096);
        }
        assert_iommu_pieces(iommu, memory, 0);
        iommu_check_data(nic, &buffers, 5);
        qtest_writeq(t->qts, intel_iommu_entry(iommu, IOVA_BASE, 3), 0);
        vdpa_soft_skip(t->soft);
        intel_iommu_flush(iommu, VTD_DOMAIN);
    }
    assert_nothing_mapped(t, 0);
    {
        g_autoptr(GPtrArray) messages = iommu_messages(t);

        g_assert_cmpuint(vdpa_count_calls(messages, "IOTLB_UPDATE"), ==, 0);
    }
    g_assert_cmpuint(vdpa_soft_number(t->soft, "faults"), ==, 0);

    /* QEMU looks at the rings one last time, and so does not find them */
    qvirtio_reset(nic->vdev);
    vdpa_take_error(t, "virtio_iommu_translate no mapping|vtd_iova_to_slpte");
    iommu_forget(iommu);
    start_mapped(nic, iommu, &buffers);
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 7);
    iommu_free(iommu);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* The machine, or the guest's driver, resets the device with all it has */
static void test_reset(const void *opaque)
{
    const Kind *kind = opaque;
    VdpaTest *t = vdpa_start_qemu("--map any", kind->qemu);
    g_autoptr(GArray) memory = NULL;
    IommuBuffers buffers;
    unsigned i;

    for (i = 0; i < 3; i++) {
        VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
        Iommu *iommu;

        g_clear_pointer(&memory, g_array_unref);
        iommu = new_in_memory(kind, nic, &memory);
        start_mapped(nic, iommu, &buffers);
        assert_iommu_pieces(iommu, memory, 0);
        iommu_check_data(nic, &buffers, 1);
        /* A pause is not the end of it */
        vdpa_stop_guest(t);
        assert_iommu_pieces(iommu, memory, 0);
        vdpa_continue_guest(t);
        vdpa_soft_wait(t->soft, "status == 15");
        assert_iommu_pieces(iommu, memory, 0);
        /* By its driver, which leaves its mappings to the next one */
        qvirtio_reset(nic->vdev);
        assert_nothing_mapped(t, 0);
        start_mapped(nic, iommu, &buffers);
        assert_iommu_pieces(iommu, memory, 0);
        iommu_check_data(nic, &buffers, 3);
        if (i == 1) {
            /* The IOMMU first: QEMU's virtio-iommu keeps its domains then */
            if (iommu->pci) {
                qvirtio_reset(&iommu->pci->vdev);
                assert_iommu_pieces(iommu, memory, 0);
            } else {
                disable_intel_iommu(t);
                assert_pieces(t, 0, memory);
            }
        }
        qtest_system_reset(t->qts);
        g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), ==, 0);
        g_assert_cmpuint(vdpa_soft_number(t->soft, "faults"), ==, 0);
        iommu_free(iommu);
        vdpa_nic_free(nic);
    }
    vdpa_end(t);
}

/* On a machine where cards can be taken out */
#define PC_NIC "{ 'netdev': 'net0', 'addr': '4', 'romfile': '',"           \
    " 'disable-legacy': 'on', 'iommu_platform': true, 'vectors': 0 }"

static const Kind hotplug_kind = {
    "virtio", "-M pc -device virtio-iommu-pci,addr=5 " VDPA_NETDEV_OPTION,
    iommu_new,
};

/* A card comes behind an IOMMU that is in use, works, and goes as it works */
static void test_hotplug(void)
{
    const Kind *kind = &hotplug_kind;
    VdpaTest *t = vdpa_start_qemu("--map any", kind->qemu);
    g_autoptr(GArray) memory = NULL;
    IommuBuffers buffers;
    Iommu *iommu = NULL;
    VdpaNic *nic;
    unsigned i;

    for (i = 0; i < 3; i++) {
        qtest_qmp_device_add(t->qts, "virtio-net-pci", "nic0", PC_NIC);
        nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
        if (!iommu) {
            iommu = new_in_memory(kind, nic, &memory);
        } else {
            /* The same driver of the IOMMU, for another card */
            iommu->nic = nic;
            nic->vdev->bus = &iommu->bus;
        }
        start_mapped(nic, iommu, &buffers);
        assert_iommu_pieces(iommu, memory, 0);
        iommu_check_data(nic, &buffers, i);
        qpci_unplug_acpi_device_test(t->qts, "nic0", VDPA_NIC_SLOT);
        assert_nothing_mapped(t, 0);
        /* What the guest changes now, is nobody's */
        vdpa_soft_skip(t->soft);
        if (i == 1) {
            iommu_unmap_all(iommu);
        }
        assert_no_iommu_messages(t, "a card that is gone");
        nic->vdev->bus = iommu->plain;
        vdpa_nic_free_vqs(nic);
        if (i == 2) {
            iommu_free(iommu);
        }
        g_free(nic->pci->pdev);
        g_free(nic->pci);
        g_free(nic);
    }
    vdpa_end(t);
}

/* Map, or unmap, 1 GiB: a page of intel-iommu's */
static void set_gigabyte(Iommu *iommu, uint64_t iova, uint64_t gpa,
                         unsigned perm)
{
    if (iommu->pci) {
        iommu_set(iommu, iova, gpa, GiB, perm);
    } else {
        intel_iommu_set(iommu, iova, 3, gpa, perm);
        intel_iommu_flush_pages(iommu, iova, GiB);
    }
    if (perm) {
        iommu_record(iommu, iova, gpa, GiB, perm);
    } else {
        iommu_erase(iommu, iova);
    }
}

/*
 * So much is mapped that a start takes its time, and the guest goes on to map
 * and unmap meanwhile
 */
static void test_large_start(const void *opaque)
{
    const Kind *kind = opaque;
    const uint64_t base = 64 * GiB, dimm = 4 * GiB;
    g_autofree char *args = g_strdup_printf("%s -m 128M,slots=2,maxmem=8G",
                                            kind->qemu);
    VdpaTest *t = vdpa_start_qemu("--map any", args);
    VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
    g_autoptr(GArray) memory = NULL;
    IommuBuffers buffers, more;
    Iommu *iommu;

    vdpa_add_dimm(t, 2048);
    vdpa_nic_start(nic, 0);
    vdpa_soft_wait(t->soft, "mapped-bytes >= 2147483648");
    memory = guest_memory(t);
    vdpa_nic_negotiate(nic, 0);
    iommu = kind->new(nic);
    set_gigabyte(iommu, base, dimm, 3);
    set_gigabyte(iommu, base + GiB, dimm + GiB, 3);
    vdpa_nic_prepare(nic, 0);
    iommu_buffers_map(iommu, &buffers);
    /* A minute for all of it, which is not the time that this takes */
    vdpa_soft_do(t->soft, "slow-pin 30000");
    vdpa_nic_set_driver_ok(nic);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), !=, 15);
    set_gigabyte(iommu, base, 0, 0);
    iommu_buffers_map(iommu, &more);
    iommu_unmap(iommu, more.tx_iova);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), !=, 15);
    vdpa_soft_do(t->soft, "slow-pin 0");
    vdpa_soft_wait(t->soft, "status == 15");
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 1);
    more.tx = dimm + GiB + 4096;
    more.tx_iova = base + GiB + 4096;
    iommu_check_data(nic, &more, 3);
    /* Of a device that runs, at once */
    set_gigabyte(iommu, base + GiB, 0, 0);
    assert_iommu_pieces(iommu, memory, 0);
    iommu_check_data(nic, &buffers, 5);
    iommu_free(iommu);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A card that goes while what the guest mapped for it is still being mapped */
static void test_large_unplug(void)
{
    const Kind *kind = &hotplug_kind;
    g_autofree char *args = g_strdup_printf("%s -m 128M,slots=2,maxmem=8G",
                                            kind->qemu);
    VdpaTest *t = vdpa_start_qemu("--map any", args);
    VdpaNic *nic;
    Iommu *iommu;

    vdpa_add_dimm(t, 2048);
    qtest_qmp_device_add(t->qts, "virtio-net-pci", "nic0", PC_NIC);
    nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
    vdpa_nic_negotiate(nic, 0);
    iommu = kind->new(nic);
    set_gigabyte(iommu, 64 * GiB, 4 * GiB, 3);
    set_gigabyte(iommu, 65 * GiB, 5 * GiB, 3);
    vdpa_nic_prepare(nic, 0);
    vdpa_soft_do(t->soft, "slow-pin 30000");
    vdpa_nic_set_driver_ok(nic);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), !=, 15);
    qpci_unplug_acpi_device_test(t->qts, "nic0", VDPA_NIC_SLOT);
    assert_nothing_mapped(t, 0);
    vdpa_soft_do(t->soft, "slow-pin 0");
    vdpa_soft_skip(t->soft);
    iommu_unmap_all(iommu);
    assert_no_iommu_messages(t, "a card that is gone");
    nic->vdev->bus = iommu->plain;
    vdpa_nic_free_vqs(nic);
    iommu_free(iommu);
    g_free(nic->pci->pdev);
    g_free(nic->pci);
    g_free(nic);
    vdpa_end(t);
}

/* What the device has at an address; NULL if it has nothing there */
static const Piece *find_piece(GArray *pieces, uint64_t iova)
{
    unsigned i;

    for (i = 0; i < pieces->len; i++) {
        const Piece *p = &g_array_index(pieces, Piece, i);

        if (p->first <= iova && iova <= p->last) {
            return p;
        }
    }
    return NULL;
}

/* The device may do this with a range and all of it, in one piece */
static void assert_range(VdpaTest *t, uint64_t iova, uint64_t size,
                         unsigned perm)
{
    g_autoptr(GArray) device = device_entries(t, 0);
    const Piece *p;

    pieces_merge(device);
    p = find_piece(device, iova);
    g_assert_cmpuint(p ? p->perm : 0, ==, perm);
    if (p) {
        g_assert_cmphex(p->first, ==, iova);
        g_assert_cmphex(p->last, ==, iova + size - 1);
    }
}

/* The IOMMU's tables stay as they are, but the memory they lead to does not */
static void test_memory_changes(const void *opaque)
{
    const Kind *kind = opaque;
    const uint64_t rom = 0xf0000, dimm = 4 * GiB;
    const uint64_t rom_iova = 64 * GiB, dimm_iova = 65 * GiB;
    VdpaTest *t = vdpa_start_qemu("--map any", kind->qemu);
    VdpaNic *nic = vdpa_nic_new_intx(t, VDPA_NIC_SLOT);
    QPCIDevice *host = qpci_device_find(t->bus, 0);
    g_autoptr(GArray) memory = NULL;
    size_t size = 600;
    g_autofree uint8_t *frame = g_malloc(size);
    IommuBuffers buffers;
    Iommu *iommu = new_in_memory(kind, nic, &memory);
    unsigned i;

    start_mapped(nic, iommu, &buffers);
    iommu_set(iommu, rom_iova, rom, 64 * KiB, 3);
    iommu_set(iommu, dimm_iova, dimm, MiB, 3);
    assert_range(t, rom_iova, 64 * KiB, 1);
    assert_range(t, dimm_iova, MiB, 0);

    for (i = 0; i < 2; i++) {
        /* RAM takes the place of a ROM, as firmware does it */
        vdpa_soft_skip(t->soft);
        qpci_config_writeb(host, 0x90, 0x30);
        assert_range(t, rom_iova, 64 * KiB, 3);
        {
            g_autoptr(GPtrArray) messages = iommu_messages(t);

            /* Of no other mapping */
            g_assert_cmpuint(vdpa_count_calls(messages, "IOTLB_INVALIDATE"),
                             ==, 1);
            g_assert_cmpuint(vdpa_count_calls(messages, "IOTLB_UPDATE"),
                             ==, iommu->pci ? 1 : 16);
        }
        vdpa_make_frame(frame, size, i);
        qtest_memset(t->qts, rom, 0, VDPA_HEADER_SIZE);
        qtest_memwrite(t->qts, rom + VDPA_HEADER_SIZE, frame, size);
        check_tx_from(nic, rom_iova, rom, size);
        qpci_config_writeb(host, 0x90, 0x10);
        assert_range(t, rom_iova, 64 * KiB, 1);
        check_tx_from(nic, rom_iova, rom, size);
        qpci_config_writeb(host, 0x90, 0);
        assert_range(t, rom_iova, 64 * KiB, 1);
        iommu_check_data(nic, &buffers, i);

        /* Memory comes where the guest mapped it already, and goes */
        vdpa_add_dimm(t, 64);
        assert_range(t, dimm_iova, MiB, 3);
        qtest_memset(t->qts, dimm, 0, VDPA_HEADER_SIZE);
        qtest_memwrite(t->qts, dimm + VDPA_HEADER_SIZE, frame, size);
        check_tx_from(nic, dimm_iova, dimm, size);
        vdpa_remove_dimm(t);
        assert_range(t, dimm_iova, MiB, 0);
        iommu_check_data(nic, &buffers, 2 + i);
    }

    /* What the guest has not announced yet may go early, and must go then */
    if (!iommu->pci) {
        iommu_set(iommu, dimm_iova + MiB, buffers.rx, 4096, 3);
        assert_range(t, dimm_iova + MiB, 4096, 3);
        intel_iommu_set(iommu, dimm_iova + MiB, 1, 0, 0);
        assert_range(t, dimm_iova + MiB, 4096, 3);
        qpci_config_writeb(host, 0x90, 0x30);
        intel_iommu_flush_pages(iommu, dimm_iova + MiB, 4096);
        assert_range(t, dimm_iova + MiB, 4096, 0);
        qpci_config_writeb(host, 0x90, 0);
    }

    /* What could not be mapped is forgotten with the memory it was */
    vdpa_add_dimm(t, 64);
    iommu_set(iommu, dimm_iova, 0, MiB, 0);
    vdpa_soft_do(t->soft, "fail IOTLB_UPDATE 1 EFAULT");
    iommu_set(iommu, dimm_iova, dimm, 4096, 3);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "'" VDPA_NODE "'.*0x1040000000");
    vdpa_remove_dimm(t);
    vdpa_soft_skip(t->soft);
    iommu_set(iommu, dimm_iova + MiB, buffers.tx, 4096, 3);
    assert_change(iommu, "IOTLB_UPDATE", dimm_iova + MiB, 4096, 3);
    assert_range(t, dimm_iova, 4096, 0);
    qvirtio_reset(nic->vdev);
    start_mapped(nic, iommu, &buffers);
    iommu_check_data(nic, &buffers, 4);
    g_free(host);
    iommu_free(iommu);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Failures of every call --- */

/**
 * struct IommuFault - a guest that goes through a phase again and again
 * @buffers: of its driver
 * @more: memory that comes and goes
 * @iova: where the device has it
 * @lost: what the guest had mapped before it took the device out of its
 *        domain, or NULL
 * @lost_gpas: to which memory
 * @attached: the device was put into the domain again, which is empty
 */
typedef struct IommuFault {
    VdpaTest *t;
    VdpaNic *nic;
    Iommu *iommu;
    IommuBuffers buffers;
    uint64_t more;
    uint64_t iova;
    GArray *lost;
    GArray *lost_gpas;
    bool attached;
} IommuFault;

#define MORE_SIZE (4 * 4096)

/* The driver is loaded anew; all but the start of the device */
static void fault_prepare_start(void *opaque)
{
    IommuFault *f = opaque;

    qvirtio_reset(f->nic->vdev);
    while (f->iommu->ranges->len > 0) {
        iommu_unmap(f->iommu,
                    g_array_index(f->iommu->ranges, VdpaRange, 0).first);
    }
    if (f->buffers.tx) {
        guest_free(&f->t->alloc, f->buffers.tx);
        guest_free(&f->t->alloc, f->buffers.rx);
    }
    vdpa_nic_prepare(f->nic, 0);
    iommu_buffers_map(f->iommu, &f->buffers);
}

static void fault_run_start(void *opaque)
{
    IommuFault *f = opaque;

    vdpa_nic_set_driver_ok(f->nic);
}

static void fault_check_works(IommuFault *f)
{
    assert_iommu_mapped(f->iommu);
    iommu_check_data(f->nic, &f->buffers, 1);
}

static void fault_start(void *opaque)
{
    IommuFault *f = opaque;

    fault_prepare_start(f);
    fault_run_start(f);
    vdpa_soft_wait(f->t->soft, "status == 15");
    fault_check_works(f);
}

static void fault_run_map(void *opaque)
{
    IommuFault *f = opaque;

    f->iova = iommu_map(f->iommu, f->more, MORE_SIZE, 3);
}

static void fault_prepare_unmap(void *opaque)
{
    fault_start(opaque);
    fault_run_map(opaque);
}

static void fault_run_unmap(void *opaque)
{
    IommuFault *f = opaque;

    iommu_unmap(f->iommu, f->iova);
}

static void fault_run_detach(void *opaque)
{
    IommuFault *f = opaque;

    virtio_iommu_detach(f->iommu, f->iommu->slot, f->iommu->domain);
    /* A domain that nobody is in is gone */
    f->lost = g_steal_pointer(&f->iommu->ranges);
    f->lost_gpas = g_steal_pointer(&f->iommu->gpas);
    f->iommu->ranges = vdpa_ranges_new();
    f->iommu->gpas = g_array_new(false, false, sizeof(uint64_t));
}

static void fault_prepare_attach(void *opaque)
{
    fault_start(opaque);
    fault_run_detach(opaque);
}

static void fault_run_attach(void *opaque)
{
    IommuFault *f = opaque;

    virtio_iommu_attach(f->iommu, f->iommu->slot, f->iommu->domain, 0);
    f->attached = true;
}

static void fault_run_reset(void *opaque)
{
    IommuFault *f = opaque;

    qvirtio_reset(f->nic->vdev);
}

static void fault_run_bus_master(void *opaque)
{
    IommuFault *f = opaque;

    set_bus_master(f->nic, false);
    set_bus_master(f->nic, true);
}

/* The rings are in use, so they have to be somewhere */
static void fault_attach_again(IommuFault *f)
{
    unsigned i;

    if (!f->attached) {
        fault_run_attach(f);
    }
    f->attached = false;
    iommu_forget(f->iommu);
    for (i = 0; i < f->lost->len; i++) {
        VdpaRange r = g_array_index(f->lost, VdpaRange, i);
        uint64_t gpa = g_array_index(f->lost_gpas, uint64_t, i);

        iommu_set(f->iommu, r.first, gpa, r.last - r.first + 1, r.perm);
        g_array_append_val(f->iommu->ranges, r);
        g_array_append_val(f->iommu->gpas, gpa);
    }
    g_clear_pointer(&f->lost, g_array_unref);
    g_clear_pointer(&f->lost_gpas, g_array_unref);
}

/* The guest is told, or its device has what it mapped; in the end it has */
static bool fault_check(void *opaque, const VdpaCall *call)
{
    IommuFault *f = opaque;
    bool told = vdpa_fault_unfail(f->nic, call);
    bool running = !told &&
                   vdpa_nic_status(f->nic) & VIRTIO_CONFIG_S_DRIVER_OK;

    if (running && f->lost && !f->attached) {
        vdpa_assert_memory_mapped(f->t);
    } else if (running) {
        assert_iommu_mapped(f->iommu);
    }
    if (f->lost) {
        fault_attach_again(f);
    }
    if (running) {
        fault_check_works(f);
    }
    fault_start(f);
    return told;
}

static const struct {
    const char *name;
    VdpaFaultLoop loop;
} fault_phases[] = {
    { "start", { fault_prepare_start, fault_run_start, fault_check,
                 "IOTLB_" } },
    { "map", { fault_start, fault_run_map, fault_check } },
    { "unmap", { fault_prepare_unmap, fault_run_unmap, fault_check } },
    { "detach", { fault_start, fault_run_detach, fault_check } },
    { "attach", { fault_prepare_attach, fault_run_attach, fault_check } },
    { "reset", { fault_start, fault_run_reset, fault_check, "IOTLB_" } },
    { "bus-master", { fault_start, fault_run_bus_master, fault_check,
                      "IOTLB_" } },
};

static void test_faults(const void *opaque)
{
    IommuFault f = {
        .t = vdpa_start_qemu("--map any", VIRTIO_IOMMU_OPTIONS),
    };

    f.nic = vdpa_nic_new_intx(f.t, VDPA_NIC_SLOT);
    f.iommu = iommu_new(f.nic);
    f.more = guest_alloc(&f.t->alloc, MORE_SIZE);
    vdpa_fault_loop(f.t, opaque, &f);
    iommu_free(f.iommu);
    vdpa_nic_free(f.nic);
    vdpa_end(f.t);
}

static void add_kinds(const char *name, const Kind *k, unsigned count,
                      GTestDataFunc function)
{
    unsigned i;

    for (i = 0; i < count; i++) {
        g_autofree char *path = g_strdup_printf("vhost-vdpa/iommu/%s/%s", name,
                                                k[i].name);

        qtest_add_data_func(path, &k[i], function);
    }
}

int main(int argc, char **argv)
{
    unsigned i;

    g_test_init(&argc, &argv, NULL);
    if (!qtest_has_machine("q35") || !qtest_has_device("intel-iommu") ||
        !qtest_has_device("virtio-iommu-pci")) {
        return 0;
    }
    qtest_add_data_func("vhost-vdpa/memory/viommu-off", IOMMU_NIC_OPTION,
                        test_viommu_off);
    qtest_add_data_func("vhost-vdpa/memory/viommu-none",
                        VDPA_NIC_OPTION ",disable-legacy=on,"
                        "iommu_platform=off", test_viommu_off);
    qtest_add_func("vhost-vdpa/memory/viommu-not-followed",
                   test_viommu_not_followed);
    qtest_add_func("vhost-vdpa/memory/viommu-intel", test_viommu_intel);
    qtest_add_data_func("vhost-vdpa/memory/viommu", "--map any", test_viommu);
    qtest_add_data_func("vhost-vdpa/memory/viommu-no-persist",
                        "--map any --persist off", test_viommu);
    qtest_add_func("vhost-vdpa/memory/viommu-reboot", test_viommu_reboot);
    qtest_add_func("vhost-vdpa/iommu/not-memory", test_not_memory);
    add_kinds("bus-master", kinds, ARRAY_SIZE(kinds), test_bus_master);
    qtest_add_data_func("vhost-vdpa/iommu/domains/batch", "--map any",
                        test_domains);
    qtest_add_data_func("vhost-vdpa/iommu/domains/like-sim",
                        "--like sim --map any", test_domains);
    qtest_add_data_func("vhost-vdpa/iommu/domains/like-vduse",
                        "--like vduse --map any", test_domains);
    qtest_add_data_func("vhost-vdpa/iommu/domains/like-vp-vdpa",
                        "--like vp_vdpa --memlock unlimited", test_domains);
    qtest_add_data_func("vhost-vdpa/iommu/domains/like-mlx5",
                        "--like mlx5 --memlock unlimited", test_domains);
    qtest_add_data_func("vhost-vdpa/iommu/domains/no-batch",
                        "--map any --dma-map --backend-features 1fa",
                        test_domains);
    qtest_add_data_func("vhost-vdpa/iommu/pages/39-bits", GUINT_TO_POINTER(3),
                        test_intel_pages);
    qtest_add_data_func("vhost-vdpa/iommu/pages/48-bits", GUINT_TO_POINTER(4),
                        test_intel_pages);
    add_kinds("out-of-range", kinds, NUM_IOMMU_CARDS, test_out_of_range);
    qtest_add_func("vhost-vdpa/iommu/two-devices", test_two_devices);
    add_kinds("many", kinds, NUM_IOMMU_KINDS, test_many);
    add_kinds("reset", kinds, NUM_IOMMU_KINDS, test_reset);
    qtest_add_func("vhost-vdpa/iommu/hotplug", test_hotplug);
    qtest_add_func("vhost-vdpa/iommu/large-unplug", test_large_unplug);
    add_kinds("large-start", kinds, 1, test_large_start);
    add_kinds("large-start", &kinds[2], 1, test_large_start);
    add_kinds("memory-changes", kinds, NUM_IOMMU_CARDS, test_memory_changes);
    for (i = 0; i < ARRAY_SIZE(fault_phases); i++) {
        g_autofree char *path = g_strdup_printf("vhost-vdpa/iommu/fault/%s",
                                                fault_phases[i].name);

        qtest_add_data_func(path, &fault_phases[i].loop, test_faults);
    }
    return g_test_run();
}
