/*
 * A guest with a software vDPA device: QEMU, a driver, its rings and memory
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "qobject/qjson.h"
#include "qobject/qnum.h"
#include "qobject/qstring.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "libvdpa-guest.h"
#include "standard-headers/linux/virtio_pci.h"

/* Where a PC's firmware tells that slots are to be emptied, and of which bus */
#define ACPI_PCI_EJECT 0xae08
#define ACPI_MEMORY_SLOT 0xa00
#define ACPI_MEMORY_CONTROL 0xa14
#define ACPI_MEMORY_EJECT (1 << 3)

/* --- Starting and ending QEMU --- */

static void attach_machine(VdpaTest *t)
{
    t->bus = qpci_new_pc(t->qts, NULL);
    pc_alloc_init(&t->alloc, t->qts, ALLOC_NO_FLAGS);
}

static void detach_machine(VdpaTest *t)
{
    alloc_destroy(&t->alloc);
    qpci_free_pc(t->bus);
}

static bool note_event(QTestState *qts, const char *name, QDict *event,
                       void *opaque)
{
    QDict *data = qdict_get_qdict(event, "data");
    VdpaTest *t = opaque;

    if (!strcmp(name, "VHOST_VDPA_BROKEN")) {
        t->broken++;
        g_free(t->broken_error);
        t->broken_error = g_strdup(qdict_get_str(data, "error"));
    } else if (!strcmp(name, "DEVICE_DELETED") &&
               qdict_haskey(data, "device")) {
        g_free(t->deleted);
        t->deleted = g_strdup(qdict_get_str(data, "device"));
    }
    return false;
}

VdpaTest *vdpa_start_qemu(const char *soft, const char *qemu)
{
    VdpaTest *t = g_new0(VdpaTest, 1);
    g_autofree char *command = NULL;
    g_autofree char *args = NULL;

    t->soft = vdpa_soft_new();
    command = vdpa_soft_command(t->soft, soft, g_getenv("QTEST_QEMU_BINARY"));
    g_setenv("VHOST_VDPA_TEST_COMMAND", command, true);
    args = g_strdup_printf(VDPA_RAM_OPTIONS "%s 2>%s", qemu, t->soft->errors);
    t->qts = qtest_init_with_env("VHOST_VDPA_TEST_COMMAND", args, true);
    qtest_qmp_set_event_callback(t->qts, note_event, t);
    vdpa_soft_connect(t->soft);
    attach_machine(t);
    return t;
}

VdpaTest *vdpa_start(const char *soft)
{
    return vdpa_start_qemu(soft, VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
}

void vdpa_take_error(VdpaTest *t, const char *pattern)
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

void vdpa_assert_one_error(VdpaTest *t)
{
    g_auto(GStrv) lines = vdpa_soft_error_lines(t->soft);
    unsigned count = g_strv_length(lines) - t->errors;

    if (count != 1) {
        g_autofree char *text = g_strjoinv("\n", lines + t->errors);

        vdpa_soft_fail("QEMU complains %u times:\n%s", count, text);
    }
}

bool vdpa_has_error(VdpaTest *t)
{
    g_auto(GStrv) lines = vdpa_soft_error_lines(t->soft);

    return t->errors < g_strv_length(lines);
}

void vdpa_assert_no_error(VdpaTest *t)
{
    g_auto(GStrv) lines = vdpa_soft_error_lines(t->soft);

    if (t->errors < g_strv_length(lines)) {
        vdpa_soft_fail("QEMU complains: %s", lines[t->errors]);
    }
}

void vdpa_quit(VdpaTest *t)
{
    g_autoptr(GPtrArray) calls = NULL;

    if (vdpa_soft_number(t->soft, "faults") != t->faults) {
        QDict *reply = vdpa_soft_request(t->soft, "faults");
        g_autoptr(GString) json = qobject_to_json(QOBJECT(reply));

        vdpa_soft_fail("bad memory accesses of the device: %s", json->str);
    }
    detach_machine(t);
    qtest_quit(t->qts);
    vdpa_assert_no_error(t);
    /* A device that is not given back is lost to all others */
    calls = vdpa_soft_file_calls(t->soft);
    g_assert_cmpint(calls->len, >, 0);
    g_assert_cmpstr(calls->pdata[calls->len - 1], ==, "CLOSE");
}

void vdpa_free(VdpaTest *t)
{
    vdpa_soft_free(t->soft);
    g_free(t->broken_error);
    g_free(t->deleted);
    g_free(t);
}

void vdpa_end(VdpaTest *t)
{
    vdpa_quit(t);
    vdpa_free(t);
}

void vdpa_stop_guest(VdpaTest *t)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'stop' }");
}

void vdpa_continue_guest(VdpaTest *t)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'cont' }");
}

void vdpa_unplug(VdpaTest *t, const char *id, uint16_t eject, uint32_t value)
{
    g_clear_pointer(&t->deleted, g_free);
    qtest_qmp_device_del_send(t->qts, id);
    qtest_outl(t->qts, eject, value);
    while (g_strcmp0(t->deleted, id)) {
        QDict *event = qtest_qmp_receive_dict(t->qts);

        note_event(t->qts, qdict_get_str(event, "event"), event, t);
        qobject_unref(event);
    }
}

void vdpa_unplug_nic(VdpaTest *t)
{
    vdpa_unplug(t, "nic0", ACPI_PCI_EJECT, 1 << VDPA_NIC_SLOT);
}

/* --- The guest's driver --- */

uint8_t vdpa_nic_status(VdpaNic *nic)
{
    return nic->vdev->bus->get_status(nic->vdev);
}

VdpaNic *vdpa_nic_new_intx(VdpaTest *t, int slot)
{
    QPCIAddress address = { .devfn = QPCI_DEVFN(slot, 0) };
    VdpaNic *nic = g_new0(VdpaNic, 1);

    nic->t = t;
    nic->ring_size = VDPA_RING_SIZE;
    nic->pci = virtio_pci_new(t->bus, &address);
    g_assert_nonnull(nic->pci);
    nic->vdev = &nic->pci->vdev;
    qvirtio_pci_device_enable(nic->pci);
    return nic;
}

VdpaNic *vdpa_nic_new(VdpaTest *t, int slot)
{
    VdpaNic *nic = vdpa_nic_new_intx(t, slot);

    qpci_msix_enable(nic->pci->pdev);
    return nic;
}

void vdpa_nic_free_vqs(VdpaNic *nic)
{
    unsigned i;

    for (i = 0; i < nic->num_vqs; i++) {
        qvirtqueue_cleanup(nic->vdev->bus, nic->vq[i], &nic->t->alloc);
    }
    nic->num_vqs = 0;
}

void vdpa_nic_free(VdpaNic *nic)
{
    vdpa_nic_free_vqs(nic);
    if (nic->pci->pdev->msix_enabled) {
        qpci_msix_disable(nic->pci->pdev);
    }
    qvirtio_pci_device_disable(nic->pci);
    g_free(nic->pci->pdev);
    g_free(nic->pci);
    g_free(nic);
}

bool vdpa_nic_has(VdpaNic *nic, unsigned feature)
{
    return nic->features & BIT_ULL(feature);
}

void vdpa_nic_negotiate(VdpaNic *nic, uint64_t wanted)
{
    vdpa_nic_free_vqs(nic);
    qvirtio_reset(nic->vdev);
    qvirtio_set_acknowledge(nic->vdev);
    qvirtio_set_driver(nic->vdev);
    nic->features = qvirtio_get_features(nic->vdev) &
                    (wanted | ~VDPA_FEATURES_ON_DEMAND);
    g_assert_cmphex(wanted & ~nic->features, ==, 0);
    qvirtio_set_features(nic->vdev, nic->features);
}

static void set_ring_size(VdpaNic *nic, unsigned index, unsigned size)
{
    nic->vdev->bus->queue_select(nic->vdev, index);
    qpci_io_writew(nic->pci->pdev, nic->pci->bar,
                   nic->pci->common_cfg_offset +
                   offsetof(struct virtio_pci_common_cfg, queue_size), size);
}

static void setup_vqs(VdpaNic *nic, unsigned num)
{
    QGuestAllocator *alloc = &nic->t->alloc;
    unsigned i;

    g_assert_cmpuint(num, <=, VDPA_MAX_VQS);
    if (nic->pci->pdev->msix_enabled) {
        qvirtio_pci_set_msix_configuration_vector(nic->pci, alloc, 0);
    }
    for (i = 0; i < num; i++) {
        if (nic->ring_size) {
            set_ring_size(nic, i, nic->ring_size);
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

unsigned vdpa_nic_pairs(VdpaNic *nic)
{
    return vdpa_nic_has(nic, VIRTIO_NET_F_MQ) ?
           qvirtio_config_readw(nic->vdev,
                                offsetof(struct virtio_net_config,
                                         max_virtqueue_pairs)) : 1;
}

void vdpa_nic_prepare(VdpaNic *nic, uint64_t wanted)
{
    vdpa_nic_negotiate(nic, wanted);
    setup_vqs(nic, 2 * vdpa_nic_pairs(nic) +
                       vdpa_nic_has(nic, VIRTIO_NET_F_CTRL_VQ));
}

void vdpa_nic_set_driver_ok(VdpaNic *nic)
{
    nic->vdev->bus->set_status(nic->vdev, vdpa_nic_status(nic) |
                               VIRTIO_CONFIG_S_DRIVER_OK);
}

void vdpa_nic_start(VdpaNic *nic, uint64_t wanted)
{
    vdpa_nic_prepare(nic, wanted);
    qvirtio_set_driver_ok(nic->vdev);
    vdpa_soft_wait(nic->t->soft, "status == 15");
}

VdpaNic *vdpa_start_nic(VdpaTest *t, uint64_t wanted)
{
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);

    vdpa_nic_start(nic, wanted);
    return nic;
}

QVirtQueue *vdpa_nic_rx(VdpaNic *nic, unsigned pair)
{
    return nic->vq[2 * pair];
}

QVirtQueue *vdpa_nic_tx(VdpaNic *nic, unsigned pair)
{
    return nic->vq[2 * pair + 1];
}

void vdpa_nic_offer(VdpaNic *nic, QVirtQueue *vq, uint32_t head)
{
    if (vq->event) {
        qvirtqueue_set_used_event(nic->t->qts, vq, vq->last_used_idx);
    }
    qvirtqueue_kick(nic->t->qts, nic->vdev, vq, head);
}

uint32_t vdpa_nic_take(VdpaNic *nic, QVirtQueue *vq, uint32_t head)
{
    uint32_t len;

    qvirtio_wait_used_elem(nic->t->qts, nic->vdev, vq, head, &len,
                           VDPA_DEADLINE_US);
    return len;
}

void vdpa_make_frame(uint8_t *frame, size_t size, unsigned seed)
{
    size_t i;

    memset(frame, 0xff, 6);
    memcpy(frame + 6, (const uint8_t[]) { 0x52, 0x54, 0, 0, 0, seed }, 6);
    stw_be_p(frame + 12, 0x88b5);
    for (i = 14; i < size; i++) {
        frame[i] = i * 7 + (i >> 8) + seed;
    }
}

char *vdpa_to_hex(const uint8_t *data, size_t size)
{
    GString *hex = g_string_new(NULL);
    size_t i;

    for (i = 0; i < size; i++) {
        g_string_append_printf(hex, "%02x", data[i]);
    }
    return g_string_free(hex, false);
}

void vdpa_assert_mem(VdpaTest *t, uint64_t addr, const uint8_t *expected,
                     size_t size)
{
    g_autofree uint8_t *data = g_malloc(size);

    qtest_memread(t->qts, addr, data, size);
    if (memcmp(data, expected, size)) {
        g_autofree char *got = vdpa_to_hex(data, size);
        g_autofree char *want = vdpa_to_hex(expected, size);

        vdpa_soft_fail("the guest's memory has %s\ninstead of %s", got, want);
    }
}

void vdpa_assert_captured(VdpaTest *t, unsigned count,
                          uint8_t *const *frames, const size_t *sizes)
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
        hex = vdpa_to_hex(frames[i], sizes[i]);
        g_assert_cmpstr(qstring_get_str(qobject_to(QString,
                                                   qlist_entry_obj(e))),
                        ==, hex);
        i++;
    }
    g_assert_cmpuint(i, ==, count);
    qobject_unref(reply);
}

uint64_t vdpa_nic_new_buffer(VdpaNic *nic, const uint8_t *frame, size_t size)
{
    uint64_t addr = guest_alloc(&nic->t->alloc, VDPA_HEADER_SIZE + size);

    qtest_memset(nic->t->qts, addr, 0, VDPA_HEADER_SIZE + size);
    if (frame) {
        qtest_memwrite(nic->t->qts, addr + VDPA_HEADER_SIZE, frame, size);
    }
    return addr;
}

void vdpa_nic_check_tx(VdpaNic *nic, unsigned pair, size_t size, unsigned seed)
{
    QVirtQueue *vq = vdpa_nic_tx(nic, pair);
    g_autofree uint8_t *frame = g_malloc(size);
    uint32_t head;
    uint64_t addr;

    vdpa_make_frame(frame, size, seed);
    vdpa_soft_do(nic->t->soft, "capture on");
    addr = vdpa_nic_new_buffer(nic, frame, size);
    head = qvirtqueue_add(nic->t->qts, vq, addr, VDPA_HEADER_SIZE + size, false,
                          false);
    vdpa_nic_offer(nic, vq, head);
    vdpa_nic_take(nic, vq, head);
    vdpa_assert_captured(nic->t, 1, &frame, &size);
    vdpa_soft_do(nic->t->soft, "capture off");
    qvirtqueue_reset_pool(vq);
    guest_free(&nic->t->alloc, addr);
}

void vdpa_nic_assert_header(VdpaNic *nic, uint64_t addr, unsigned buffers)
{
    struct virtio_net_hdr_mrg_rxbuf expected = {
        .num_buffers = cpu_to_le16(buffers),
    };

    vdpa_assert_mem(nic->t, addr, (uint8_t *)&expected, sizeof(expected));
}

void vdpa_nic_check_rx(VdpaNic *nic, unsigned pair, size_t size, unsigned seed)
{
    QVirtQueue *vq = vdpa_nic_rx(nic, pair);
    g_autofree uint8_t *frame = g_malloc(size);
    g_autofree char *hex = NULL;
    uint32_t head;
    uint64_t addr;

    vdpa_make_frame(frame, size, seed);
    hex = vdpa_to_hex(frame, size);
    addr = vdpa_nic_new_buffer(nic, NULL, size);
    head = qvirtqueue_add(nic->t->qts, vq, addr, VDPA_HEADER_SIZE + size, true,
                          false);
    vdpa_nic_offer(nic, vq, head);
    vdpa_soft_do(nic->t->soft, "inject %s vq=%u", hex, 2 * pair);
    g_assert_cmpuint(vdpa_nic_take(nic, vq, head), ==, VDPA_HEADER_SIZE + size);
    vdpa_nic_assert_header(nic, addr, 1);
    vdpa_assert_mem(nic->t, addr + VDPA_HEADER_SIZE, frame, size);
    qvirtqueue_reset_pool(vq);
    guest_free(&nic->t->alloc, addr);
}

void vdpa_nic_check_data(VdpaNic *nic, unsigned seed)
{
    vdpa_nic_check_tx(nic, 0, 60, seed);
    vdpa_nic_check_rx(nic, 0, 300, seed + 1);
}

uint8_t vdpa_nic_control(VdpaNic *nic, uint8_t class, uint8_t command,
                         const void *data, size_t size)
{
    struct virtio_net_ctrl_hdr header = { .class = class, .cmd = command };
    QTestState *qts = nic->t->qts;
    QVirtQueue *vq = nic->vq[nic->num_vqs - 1];
    uint64_t addr = guest_alloc(&nic->t->alloc, sizeof(header) + size + 1);
    uint64_t status = addr + sizeof(header) + size;
    uint32_t head;
    uint8_t result;

    g_assert_true(vdpa_nic_has(nic, VIRTIO_NET_F_CTRL_VQ));
    qtest_memwrite(qts, addr, &header, sizeof(header));
    qtest_memwrite(qts, addr + sizeof(header), data, size);
    qtest_writeb(qts, status, 0xee);
    head = qvirtqueue_add(qts, vq, addr, sizeof(header) + size, false, true);
    qvirtqueue_add(qts, vq, status, 1, true, false);
    vdpa_nic_offer(nic, vq, head);
    g_assert_cmpuint(vdpa_nic_take(nic, vq, head), ==, 1);
    result = qtest_readb(qts, status);
    qvirtqueue_reset_pool(vq);
    guest_free(&nic->t->alloc, addr);
    return result;
}

void vdpa_nic_wait_needs_reset(VdpaNic *nic)
{
    int64_t deadline = g_get_monotonic_time() + VDPA_DEADLINE_US;

    while (!(vdpa_nic_status(nic) & VIRTIO_CONFIG_S_NEEDS_RESET)) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    }
    /* A driver that does not read the status all the time is told as well */
    qvirtio_wait_config_isr(nic->vdev, VDPA_DEADLINE_US);
}

void vdpa_nic_check_recovery(VdpaNic *nic)
{
    QDict *status;

    status = qtest_qmp_assert_success_ref(nic->t->qts,
                                          "{ 'execute': 'query-status' }");
    g_assert_cmpstr(qdict_get_str(status, "status"), ==, "running");
    qobject_unref(status);
    vdpa_nic_start(nic, 0);
    vdpa_nic_check_data(nic, 90);
}

/* --- What the device was told --- */

void vdpa_add_call(GPtrArray *calls, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_ptr_array_add(calls, g_strdup_vprintf(fmt, ap));
    va_end(ap);
}

GPtrArray *vdpa_no_calls(void)
{
    return g_ptr_array_new_with_free_func(g_free);
}

void vdpa_assert_calls(VdpaTest *t, const char *what, GPtrArray *expected)
{
    g_autoptr(GPtrArray) calls = vdpa_soft_calls(t->soft);

    vdpa_soft_assert_calls(what, calls, expected);
    g_ptr_array_unref(expected);
}

void vdpa_assert_no_calls(VdpaTest *t, const char *what)
{
    vdpa_assert_calls(t, what, vdpa_no_calls());
}

unsigned vdpa_count_calls(GPtrArray *calls, const char *prefix)
{
    unsigned i, count = 0;

    for (i = 0; i < calls->len; i++) {
        count += g_str_has_prefix(calls->pdata[i], prefix);
    }
    return count;
}

/* --- The guest's memory --- */

static int range_compare(gconstpointer a, gconstpointer b)
{
    const VdpaRange *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

GArray *vdpa_ranges_new(void)
{
    return g_array_new(false, false, sizeof(VdpaRange));
}

void vdpa_ranges_merge(GArray *ranges)
{
    unsigned i;

    g_array_sort(ranges, range_compare);
    for (i = 1; i < ranges->len;) {
        VdpaRange *a = &g_array_index(ranges, VdpaRange, i - 1);
        VdpaRange *b = &g_array_index(ranges, VdpaRange, i);

        if (a->last + 1 == b->first && a->perm == b->perm) {
            a->last = b->last;
            g_array_remove_index(ranges, i);
        } else {
            g_assert_cmphex(a->last, <, b->first);
            i++;
        }
    }
}

GArray *vdpa_guest_ranges(VdpaTest *t)
{
    g_autofree char *text = qtest_hmp(t->qts, "info mtree -f");
    g_auto(GStrv) lines = g_strsplit(text, "\r\n", -1);
    GArray *ranges = vdpa_ranges_new();
    bool wanted = false;
    int i;

    for (i = 0; lines[i]; i++) {
        VdpaRange r;
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
    vdpa_ranges_merge(ranges);
    return ranges;
}

GArray *vdpa_device_ranges(VdpaTest *t)
{
    QDict *reply = vdpa_soft_request(t->soft, "mappings");
    GArray *ranges = vdpa_ranges_new();
    const QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(reply, "entries"), e) {
        QDict *entry = qobject_to(QDict, qlist_entry_obj(e));
        VdpaRange r = {
            .first = qnum_get_uint(qobject_to(QNum,
                                              qdict_get(entry, "first"))),
            .last = qnum_get_uint(qobject_to(QNum,
                                             qdict_get(entry, "last"))),
            .perm = qdict_get_int(entry, "perm"),
        };

        g_array_append_val(ranges, r);
    }
    qobject_unref(reply);
    vdpa_ranges_merge(ranges);
    return ranges;
}

void vdpa_assert_memory_mapped(VdpaTest *t)
{
    g_autoptr(GArray) guest = vdpa_guest_ranges(t);
    g_autoptr(GArray) device = vdpa_device_ranges(t);
    unsigned i;

    for (i = 0; i < MIN(guest->len, device->len); i++) {
        VdpaRange *g = &g_array_index(guest, VdpaRange, i);
        VdpaRange *d = &g_array_index(device, VdpaRange, i);

        g_assert_cmphex(d->first, ==, g->first);
        g_assert_cmphex(d->last, ==, g->last);
        g_assert_cmpuint(d->perm, ==, g->perm);
    }
    g_assert_cmpuint(device->len, ==, guest->len);
}

/*
 * QEMU 10.0 finds the file of a memfd backend by its ID.  RCU may close that of
 * a removed one when a new one has it already, so no two have the same.
 */
void vdpa_add_dimm(VdpaTest *t, unsigned size_mb)
{
    g_autofree char *id = g_strdup_printf("mem%u", ++t->backend + 1);

    qtest_qmp_assert_success(t->qts, "{ 'execute': 'object-add',"
                             "  'arguments': {"
                             "    'qom-type': 'memory-backend-memfd',"
                             "    'id': %s, 'share': true,"
                             "    'size': %" PRIu64 " } }", id,
                             (uint64_t)size_mb * MiB);
    qtest_qmp_device_add(t->qts, "pc-dimm", "dimm1", "{ 'memdev': %s }", id);
}

void vdpa_remove_dimm(VdpaTest *t)
{
    g_autofree char *id = g_strdup_printf("mem%u", t->backend + 1);

    qtest_outl(t->qts, ACPI_MEMORY_SLOT, 0);
    vdpa_unplug(t, "dimm1", ACPI_MEMORY_CONTROL, ACPI_MEMORY_EJECT);
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'object-del',"
                             "  'arguments': { 'id': %s } }", id);
}
