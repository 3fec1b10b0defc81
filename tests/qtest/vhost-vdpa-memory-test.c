/*
 * QTest testcase for the guest's memory behind vhost-vdpa
 *
 * QEMU runs with a software vDPA device, which tells what it can reach; that
 * has to be what QEMU says is there, whatever happens to the guest's memory.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include "libqtest.h"
#include "libvdpa-guest.h"
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"
#include "libqos/pci-pc.h"
#include "standard-headers/linux/vhost_types.h"
#include "standard-headers/linux/virtio_balloon.h"
#include "hw/pci/pci_regs.h"

/* Make 0xf0000 to 0xfffff (PAM 0) RAM, or ROM again */
static void set_pam(VdpaTest *t, uint8_t value)
{
    QPCIDevice *host = qpci_device_find(t->bus, 0);

    qpci_config_writeb(host, 0x59, value);
    g_free(host);
}

/* Only a few messages, and none about what is above 1 MiB */
static void assert_small_change(VdpaTest *t)
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
    VdpaTest *t = vdpa_start("--map any");
    g_autoptr(GArray) ranges = NULL;
    VdpaNic *nic;

    /* What is the firmware's comes with the first driver */
    ranges = vdpa_device_ranges(t);
    g_assert_cmpuint(ranges->len, ==, 2);
    g_assert_cmphex(g_array_index(ranges, VdpaRange, 0).first, ==, MiB);
    g_assert_cmphex(g_array_index(ranges, VdpaRange, 0).last, ==,
                    128 * MiB - 1);
    vdpa_soft_skip(t->soft);
    set_pam(t, 0x30);
    set_pam(t, 0);
    set_pam(t, 0x30);
    vdpa_assert_no_calls(t, "firmware changes with an idle device");
    nic = vdpa_start_nic(t, 0);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 1);

    /* A device at rest need not follow each turn of it later on, either */
    qvirtio_reset(nic->vdev);
    vdpa_soft_skip(t->soft);
    set_pam(t, 0);
    set_pam(t, 0x30);
    set_pam(t, 0);
    vdpa_assert_no_calls(t, "firmware changes with a device at rest");
    set_pam(t, 0x30);
    vdpa_nic_start(nic, 0);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 2);

    vdpa_soft_skip(t->soft);
    set_pam(t, 0);
    vdpa_assert_memory_mapped(t);
    assert_small_change(t);
    vdpa_nic_check_data(nic, 3);
    vdpa_soft_skip(t->soft);
    set_pam(t, 0);
    vdpa_assert_no_calls(t, "a change to what is there already");
    vdpa_nic_free(nic);
    vdpa_end(t);
}

static void test_hotplug_memory(void)
{
    const char *base = "0x100000000", *size = "0x4000000";
    VdpaTest *t = vdpa_start("--map any");
    VdpaNic *nic = vdpa_start_nic(t, 0);
    g_autoptr(GPtrArray) calls = NULL;
    QVirtQueue *vq = vdpa_nic_tx(nic, 0);
    GPtrArray *expected;
    uint8_t *frame = g_malloc(200);
    size_t frame_size = 200;
    uint32_t head;

    vdpa_soft_skip(t->soft);
    vdpa_add_dimm(t, 64);
    expected = vdpa_no_calls();
    vdpa_add_call(expected, "IOTLB_BATCH_BEGIN asid=0");
    vdpa_add_call(expected, "IOTLB_UPDATE asid=0 iova=%s size=%s perm=3", base,
                  size);
    vdpa_add_call(expected, "IOTLB_BATCH_END asid=0");
    calls = vdpa_soft_messages(t->soft);
    vdpa_soft_assert_calls("a new DIMM", calls, expected);
    g_ptr_array_unref(expected);
    vdpa_assert_memory_mapped(t);

    /* The device reads from it */
    vdpa_make_frame(frame, frame_size, 1);
    qtest_memset(t->qts, 4 * GiB, 0, VDPA_HEADER_SIZE);
    qtest_memwrite(t->qts, 4 * GiB + VDPA_HEADER_SIZE, frame, frame_size);
    vdpa_soft_do(t->soft, "capture on");
    head = qvirtqueue_add(t->qts, vq, 4 * GiB, VDPA_HEADER_SIZE + frame_size,
                          false, false);
    vdpa_nic_offer(nic, vq, head);
    vdpa_nic_take(nic, vq, head);
    vdpa_assert_captured(t, 1, &frame, &frame_size);
    qvirtqueue_reset_pool(vq);
    g_free(frame);

    vdpa_remove_dimm(t);
    expected = vdpa_no_calls();
    vdpa_add_call(expected, "IOTLB_INVALIDATE asid=0 iova=%s size=%s", base,
                  size);
    g_ptr_array_unref(calls);
    calls = vdpa_soft_messages(t->soft);
    vdpa_soft_assert_calls("a DIMM less", calls, expected);
    g_ptr_array_unref(expected);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 3);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A DIMM that is there before the guest uses the device */
static void test_hotplug_memory_idle(void)
{
    VdpaTest *t = vdpa_start("--map any");
    VdpaNic *nic;

    vdpa_add_dimm(t, 64);
    nic = vdpa_start_nic(t, 0);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 1);
    qvirtio_reset(nic->vdev);
    vdpa_remove_dimm(t);
    /* Memory that is gone must not stay pinned */
    vdpa_assert_memory_mapped(t);
    vdpa_nic_start(nic, 0);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 3);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A DIMM that the device cannot have: the guest is told, not corrupted */
static void test_hotplug_memory_fails(void)
{
    VdpaTest *t = vdpa_start("--map any");
    VdpaNic *nic = vdpa_start_nic(t, 0);

    vdpa_soft_do(t->soft, "fail IOTLB_UPDATE 1 EFAULT");
    vdpa_add_dimm(t, 64);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "'" VDPA_NODE "'.*0x100000000.*64 MiB|'" VDPA_NODE
                    "'.*0x100000000.*0x103ffffff");
    /* It works the second time */
    vdpa_nic_check_recovery(nic);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Pinned memory, and a DIMM beyond RLIMIT_MEMLOCK */
static void test_memlock(void)
{
    struct rlimit old, limit;
    VdpaNic *nic;
    VdpaTest *t;

    g_assert_cmpint(getrlimit(RLIMIT_MEMLOCK, &old), ==, 0);
    limit = old;
    /* What Linux lets every user have; QEMU inherits it from here */
    limit.rlim_cur = 8 * MiB;
    if (limit.rlim_max < limit.rlim_cur) {
        g_test_skip("RLIMIT_MEMLOCK is less than 8 MiB");
        return;
    }
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);
    t = vdpa_start_qemu("--map pa",
                        "-m 4M -object memory-backend-memfd,id=small,"
                        "size=4M,share=on -M memory-backend=small "
                        VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &old), ==, 0);
    nic = vdpa_start_nic(t, 0);
    vdpa_nic_check_data(nic, 1);
    vdpa_assert_memory_mapped(t);
    vdpa_add_dimm(t, 64);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "'" VDPA_NODE
                    "'.*RLIMIT_MEMLOCK is 8388608 bytes.*7[0-9]{7} bytes");
    /* Without it, all is well again */
    vdpa_remove_dimm(t);
    vdpa_nic_check_recovery(nic);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Memory that such a device silently leaves out */
static void test_private_memory(void)
{
    VdpaSoft *soft = vdpa_soft_new();
    g_auto(GStrv) lines = NULL;

    g_assert_cmpint(vdpa_soft_run(soft, "", "", "-M pc -m 64M -nodefaults "
                                  VDPA_NETDEV_OPTION VDPA_NIC_OPTION), ==, 0);
    lines = vdpa_soft_error_lines(soft);
    g_assert_cmpuint(g_strv_length(lines), ==, 1);
    g_assert_true(g_regex_match_simple("warning: vhost-vdpa device '" VDPA_NODE
                                       "': 6[34] MiB .*memory-backend-memfd,"
                                       "share=on", lines[0], 0, 0));
    vdpa_soft_free(soft);
}

/* What the guest may be told to do even if there is no virtual IOMMU */
static void test_access_platform(void)
{
    VdpaTest *t = vdpa_start_qemu("", VDPA_NETDEV_OPTION VDPA_NIC_OPTION
                                  ",disable-legacy=on,iommu_platform=on");
    VdpaNic *nic = vdpa_start_nic(t, 0);

    g_assert_true(vdpa_nic_has(nic, VIRTIO_F_ACCESS_PLATFORM));
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Exactly what QEMU says is there --- */

/**
 * struct Section - a piece of RAM or ROM, as in "info mtree -f"
 * @perm: 1 to read, 3 to read and write
 * @name: of the memory region
 * @offset: of @first in the region
 */
typedef struct Section {
    uint64_t first;
    uint64_t last;
    unsigned perm;
    char *name;
    uint64_t offset;
} Section;

static void section_clear(gpointer opaque)
{
    g_free(((Section *)opaque)->name);
}

static void parse_section(const char *line, GArray *sections)
{
    Section section = {};
    char kind[8], *end;
    int prio, text = 0;

    if (sscanf(line, " %" SCNx64 "-%" SCNx64 " (prio %d, %7[^)]): %n",
               &section.first, &section.last, &prio, kind, &text) != 4 ||
        !text || (strcmp(kind, "ram") && strcmp(kind, "rom"))) {
        return;
    }
    section.perm = strcmp(kind, "ram") ? 1 : 3;
    section.name = g_strdup(line + text);
    end = strstr(section.name, " @");
    if (end) {
        section.offset = g_ascii_strtoull(end + 2, NULL, 16);
        *end = 0;
    }
    if (g_str_has_prefix(section.name, "system.flash")) {
        /* A device even where it can only be read; as for vhost and VFIO */
        section_clear(&section);
        return;
    }
    g_array_append_val(sections, section);
}

/* The RAM and ROM that the CPUs see, in order of address */
static GArray *guest_sections(VdpaTest *t)
{
    g_autofree char *text = qtest_hmp(t->qts, "info mtree -f");
    g_auto(GStrv) lines = g_strsplit(text, "\r\n", -1);
    GArray *sections = g_array_new(false, false, sizeof(Section));
    bool wanted = false;
    int i;

    g_array_set_clear_func(sections, section_clear);
    for (i = 0; lines[i]; i++) {
        if (g_str_has_prefix(lines[i], "FlatView")) {
            wanted = false;
        } else if (g_str_has_prefix(lines[i], " AS \"memory\"")) {
            wanted = true;
        } else if (wanted) {
            parse_section(lines[i], sections);
        }
    }
    g_assert_cmpuint(sections->len, >, 0);
    return sections;
}

/* Number of pieces of a region that the guest sees */
static unsigned count_sections(VdpaTest *t, const char *name)
{
    g_autoptr(GArray) sections = guest_sections(t);
    unsigned i, count = 0;

    for (i = 0; i < sections->len; i++) {
        count += !strcmp(g_array_index(sections, Section, i).name, name);
    }
    return count;
}

/* Where a region is that the guest sees in one piece */
static uint64_t section_address(VdpaTest *t, const char *name)
{
    g_autoptr(GArray) sections = guest_sections(t);
    unsigned i;

    g_assert_cmpuint(count_sections(t, name), ==, 1);
    for (i = 0; strcmp(g_array_index(sections, Section, i).name, name); i++) {
        /* not this one */
    }
    return g_array_index(sections, Section, i).first;
}

/**
 * struct Entry - what the device was told of a range
 * @uaddr: where QEMU has it
 */
typedef struct Entry {
    uint64_t first;
    uint64_t last;
    uint64_t uaddr;
    unsigned perm;
} Entry;

static int entry_compare(gconstpointer a, gconstpointer b)
{
    const Entry *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

/* All 64 bits of it */
static uint64_t get_number(QDict *dict, const char *key)
{
    QNum *num = qobject_to(QNum, qdict_get(dict, key));

    g_assert_nonnull(num);
    return qnum_get_uint(num);
}

static GArray *device_entries(VdpaTest *t)
{
    QDict *reply = vdpa_soft_request(t->soft, "mappings");
    GArray *entries = g_array_new(false, false, sizeof(Entry));
    const QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(reply, "entries"), e) {
        QDict *dict = qobject_to(QDict, qlist_entry_obj(e));
        Entry entry = {
            .first = get_number(dict, "first"),
            .last = get_number(dict, "last"),
            .uaddr = get_number(dict, "uaddr"),
            .perm = qdict_get_int(dict, "perm"),
        };

        g_array_append_val(entries, entry);
    }
    qobject_unref(reply);
    g_array_sort(entries, entry_compare);
    return entries;
}

static Entry *find_entry(GArray *entries, uint64_t addr)
{
    unsigned i;

    for (i = 0; i < entries->len; i++) {
        Entry *entry = &g_array_index(entries, Entry, i);

        if (entry->first <= addr && addr <= entry->last) {
            return entry;
        }
    }
    return NULL;
}

/* Memory backends that could be shared with a process have such names */
static bool is_shared(const char *name)
{
    return !strcmp(name, "ram") || g_str_has_prefix(name, "shm");
}

/*
 * Each page of a section is there, with its permission, and all pages of a
 * region are at one distance from where QEMU has the region.  Returns bytes.
 */
static uint64_t assert_section(const Section *section, GArray *entries,
                               GHashTable *bases)
{
    uint64_t page = qemu_real_host_page_size();
    uint64_t first = ROUND_UP(section->first, page);
    uint64_t end = ROUND_DOWN(section->last + 1, page), addr = first;

    if (first >= end || (section->offset ^ section->first) & (page - 1)) {
        /* No whole page */
        return 0;
    }
    while (addr < end) {
        Entry *entry = find_entry(entries, addr);
        uint64_t base, *known;

        if (!entry) {
            vdpa_soft_fail("the device lacks '%s' at 0x%" PRIx64,
                           section->name, addr);
        }
        if (entry->perm != section->perm) {
            vdpa_soft_fail("'%s' at 0x%" PRIx64 " has permission %u instead "
                           "of %u", section->name, addr, entry->perm,
                           section->perm);
        }
        base = entry->uaddr + (addr - entry->first) -
               (section->offset + addr - section->first);
        known = g_hash_table_lookup(bases, section->name);
        if (!known) {
            known = g_memdup2(&base, sizeof(base));
            g_hash_table_insert(bases, g_strdup(section->name), known);
        }
        if (*known != base) {
            vdpa_soft_fail("'%s' at 0x%" PRIx64 " is not where the rest of it "
                           "is", section->name, addr);
        }
        addr = entry->last + 1;
    }
    return end - first;
}

/**
 * assert_exact() - the device has all pages of RAM and ROM, and nothing else
 * @soft: the device's options, of which "va" means that what cannot be shared
 *        is left out
 */
static void assert_exact(VdpaTest *t, const char *soft)
{
    g_autoptr(GHashTable) bases = g_hash_table_new_full(g_str_hash,
                                                        g_str_equal, g_free,
                                                        g_free);
    g_autoptr(GArray) sections = guest_sections(t);
    g_autoptr(GArray) entries = device_entries(t);
    uint64_t wanted = 0, present = 0;
    unsigned i;

    for (i = 0; i < sections->len; i++) {
        Section *section = &g_array_index(sections, Section, i);

        if (!strstr(soft, "--map va") || is_shared(section->name)) {
            wanted += assert_section(section, entries, bases);
        }
    }
    for (i = 0; i < entries->len; i++) {
        Entry *entry = &g_array_index(entries, Entry, i);

        present += entry->last - entry->first + 1;
    }
    /* They cannot overlap, so nothing else is there */
    g_assert_cmphex(present, ==, wanted);
}

/* The device reads what the guest sees at @addr */
static void check_reads(VdpaNic *nic, uint64_t addr)
{
    QTestState *qts = nic->t->qts;
    QVirtQueue *vq = vdpa_nic_tx(nic, 0);
    uint64_t header = vdpa_nic_new_buffer(nic, NULL, 0);
    size_t size = 100;
    uint8_t *frame = g_malloc(size);
    uint32_t head;

    qtest_memread(qts, addr, frame, size);
    vdpa_soft_do(nic->t->soft, "capture on");
    head = qvirtqueue_add(qts, vq, header, VDPA_HEADER_SIZE, false, true);
    qvirtqueue_add(qts, vq, addr, size, false, false);
    vdpa_nic_offer(nic, vq, head);
    vdpa_nic_take(nic, vq, head);
    vdpa_assert_captured(nic->t, 1, &frame, &size);
    vdpa_soft_do(nic->t->soft, "capture off");
    qvirtqueue_reset_pool(vq);
    guest_free(&nic->t->alloc, header);
    g_free(frame);
}

/* The guest sees at @addr what the device writes there, and vice versa */
static void check_writes(VdpaNic *nic, uint64_t addr, unsigned seed)
{
    QTestState *qts = nic->t->qts;
    QVirtQueue *vq = vdpa_nic_rx(nic, 0);
    uint64_t header = vdpa_nic_new_buffer(nic, NULL, 0);
    uint8_t frame[100];
    g_autofree char *hex = NULL;
    uint32_t head;

    vdpa_make_frame(frame, sizeof(frame), seed);
    hex = vdpa_to_hex(frame, sizeof(frame));
    head = qvirtqueue_add(qts, vq, header, VDPA_HEADER_SIZE, true, true);
    qvirtqueue_add(qts, vq, addr, sizeof(frame), true, false);
    vdpa_nic_offer(nic, vq, head);
    vdpa_soft_do(nic->t->soft, "inject %s vq=0", hex);
    g_assert_cmpuint(vdpa_nic_take(nic, vq, head), ==,
                     VDPA_HEADER_SIZE + sizeof(frame));
    vdpa_assert_mem(nic->t, addr, frame, sizeof(frame));
    qvirtqueue_reset_pool(vq);
    guest_free(&nic->t->alloc, header);
    check_reads(nic, addr);
}

/* The device may not write there, and does not */
static void check_denied(VdpaNic *nic, uint64_t addr)
{
    QTestState *qts = nic->t->qts;
    QVirtQueue *vq = vdpa_nic_rx(nic, 0);
    uint64_t header = vdpa_nic_new_buffer(nic, NULL, 0);
    uint8_t frame[100];
    g_autofree char *hex = NULL;
    uint32_t head;

    vdpa_make_frame(frame, sizeof(frame), 1);
    hex = vdpa_to_hex(frame, sizeof(frame));
    head = qvirtqueue_add(qts, vq, header, VDPA_HEADER_SIZE, true, true);
    qvirtqueue_add(qts, vq, addr, sizeof(frame), true, false);
    vdpa_nic_offer(nic, vq, head);
    vdpa_soft_do(nic->t->soft, "inject %s vq=0", hex);
    g_assert_cmpuint(vdpa_nic_take(nic, vq, head), ==, 0);
    nic->t->faults++;
    g_assert_cmpuint(vdpa_soft_number(nic->t->soft, "faults"), ==,
                     nic->t->faults);
    qvirtqueue_reset_pool(vq);
    guest_free(&nic->t->alloc, header);
}

static bool address_is_ram(VdpaTest *t, uint64_t addr)
{
    g_autoptr(GArray) sections = guest_sections(t);
    unsigned i;

    for (i = 0; i < sections->len; i++) {
        Section *section = &g_array_index(sections, Section, i);

        if (section->first <= addr && addr <= section->last) {
            return section->perm == 3;
        }
    }
    return false;
}

/* --- What the device is told --- */

static bool parse_message(const char *call, const char *prefix, Entry *entry)
{
    g_autofree char *format =
        g_strdup_printf("%s asid=0 iova=0x%%" SCNx64 " size=0x%%" SCNx64,
                        prefix);
    uint64_t size;

    if (!g_str_has_prefix(call, prefix) ||
        sscanf(call, format, &entry->first, &size) != 2) {
        return false;
    }
    entry->last = entry->first + size - 1;
    return true;
}

/* The ranges that messages of one kind are about, in ascending order */
static GArray *message_ranges(GPtrArray *calls, const char *prefix)
{
    GArray *ranges = g_array_new(false, false, sizeof(Entry));
    unsigned i;

    for (i = 0; i < calls->len; i++) {
        Entry entry = {};

        if (parse_message(calls->pdata[i], prefix, &entry)) {
            g_array_append_val(ranges, entry);
        }
    }
    g_array_sort(ranges, entry_compare);
    return ranges;
}

/* What was mapped is what is withdrawn, at once, and what is mapped again */
static void test_reset_ranges(void)
{
    g_autoptr(GPtrArray) before = NULL, after = NULL;
    g_autoptr(GArray) had = NULL, gone = NULL, back = NULL;
    VdpaTest *t = vdpa_start("--map any --persist off");
    VdpaNic *nic;
    unsigned i;

    nic = vdpa_start_nic(t, 0);
    before = vdpa_soft_messages(t->soft);
    qvirtio_reset(nic->vdev);
    after = vdpa_soft_messages(t->soft);
    had = message_ranges(before, "IOTLB_UPDATE");
    gone = message_ranges(after, "IOTLB_INVALIDATE");
    back = message_ranges(after, "IOTLB_UPDATE");
    g_assert_cmpuint(had->len, >, 1);
    g_assert_cmpuint(gone->len, ==, 1);
    g_assert_cmphex(g_array_index(gone, Entry, 0).first, ==,
                    g_array_index(had, Entry, 0).first);
    g_assert_cmphex(g_array_index(gone, Entry, 0).last, ==,
                    g_array_index(had, Entry, had->len - 1).last);
    g_assert_cmpuint(back->len, ==, had->len);
    for (i = 0; i < had->len; i++) {
        g_assert_cmphex(g_array_index(back, Entry, i).first, ==,
                        g_array_index(had, Entry, i).first);
        g_assert_cmphex(g_array_index(back, Entry, i).last, ==,
                        g_array_index(had, Entry, i).last);
    }
    vdpa_assert_memory_mapped(t);
    vdpa_nic_start(nic, 0);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Nothing outside of a range was mapped or unmapped since the last time */
static void assert_only_changed(VdpaTest *t, uint64_t first, uint64_t last)
{
    g_autoptr(GPtrArray) calls = vdpa_soft_messages(t->soft);
    unsigned i;

    for (i = 0; i < calls->len; i++) {
        Entry entry;

        if ((parse_message(calls->pdata[i], "IOTLB_UPDATE", &entry) ||
             parse_message(calls->pdata[i], "IOTLB_INVALIDATE", &entry)) &&
            (entry.first < first || entry.last > last)) {
            vdpa_soft_fail("'%s' is about something else",
                           (char *)calls->pdata[i]);
        }
    }
}

static void assert_no_messages(VdpaTest *t, const char *what)
{
    g_autoptr(GPtrArray) calls = vdpa_soft_messages(t->soft);

    if (vdpa_count_calls(calls, "IOTLB_")) {
        vdpa_soft_fail("%s: there were %u messages", what,
                       vdpa_count_calls(calls, "IOTLB_"));
    }
}

/* --- What a guest does to its memory --- */

/* Registers of the host bridge */
#define PAM(n) (0x59 + (n))
#define SMRAM 0x72
#define SMRAM_CLOSED 0x02
#define SMRAM_OPEN 0x42

static void set_bridge(VdpaTest *t, uint8_t reg, uint8_t value)
{
    QPCIDevice *bridge = qpci_device_find(t->bus, 0);

    qpci_config_writeb(bridge, reg, value);
    g_free(bridge);
}

/* No device decodes memory at 0 */
#define NOWHERE 0

/* Place a BAR as guests do, which means that it is nowhere in between */
static void set_bar(VdpaTest *t, unsigned slot, unsigned reg, uint64_t addr)
{
    QPCIDevice *pci = qpci_device_find(t->bus, QPCI_DEVFN(slot, 0));
    uint16_t command = qpci_config_readw(pci, PCI_COMMAND);

    g_assert_nonnull(pci);
    qpci_config_writew(pci, PCI_COMMAND, command & ~PCI_COMMAND_MEMORY);
    if (reg != PCI_ROM_ADDRESS &&
        qpci_config_readl(pci, reg) & PCI_BASE_ADDRESS_MEM_TYPE_64) {
        qpci_config_writel(pci, reg + 4, addr >> 32);
    }
    qpci_config_writel(pci, reg, addr |
                       (reg == PCI_ROM_ADDRESS && addr != NOWHERE ?
                        PCI_ROM_ADDRESS_ENABLE : 0));
    qpci_config_writew(pci, PCI_COMMAND, command | PCI_COMMAND_MEMORY);
    g_free(pci);
}

#define SHM_SLOT 6
#define NEW_SLOT 8
#define SHM_REGISTERS PCI_BASE_ADDRESS_0
#define SHM_BAR PCI_BASE_ADDRESS_2
#define SHM_OPTIONS(id, size, slot)                                    \
    "-object memory-backend-memfd,id=" id ",share=on,size=" size       \
    " -device ivshmem-plain,id=dev-" id ",memdev=" id ",addr=" slot " "

/* Memory backends of a size that QEMU still has, whoever needs them */
static unsigned count_backends(VdpaTest *t, uint64_t size)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps",
                                            (int)qtest_pid(t->qts));
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    unsigned i, count = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", -1);
    for (i = 0; lines[i]; i++) {
        uint64_t start, end;

        if (strstr(lines[i], "/memfd:memory-backend-memfd") &&
            sscanf(lines[i], "%" SCNx64 "-%" SCNx64, &start, &end) == 2) {
            count += end - start == size;
        }
    }
    return count;
}

/* RCU frees what is no longer needed, a little later */
static void wait_no_backend(VdpaTest *t, uint64_t size)
{
    int64_t deadline = g_get_monotonic_time() + VDPA_DEADLINE_US;

    while (count_backends(t, size)) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    }
}

static void add_backend(VdpaTest *t, const char *id, uint64_t size)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'object-add',"
                             "  'arguments': {"
                             "    'qom-type': 'memory-backend-memfd',"
                             "    'id': %s, 'share': true,"
                             "    'size': %" PRIu64 " } }", id, size);
}

static void remove_backend(VdpaTest *t, const char *id)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'object-del',"
                             "  'arguments': { 'id': %s } }", id);
}

/*
 * All that RCU is to free by now is freed.  It keeps the order, so that is so
 * when something is gone that nobody else ever knew; and what is freed may
 * have held something else.
 */
static void flush_rcu(VdpaTest *t)
{
    const uint64_t size = 28 * KiB;
    int i;

    for (i = 0; i < 4; i++) {
        add_backend(t, "unused", size);
        g_assert_cmpuint(count_backends(t, size), ==, 1);
        remove_backend(t, "unused");
        wait_no_backend(t, size);
    }
}

/*
 * A PCI device whose BAR is RAM, and needs to be placed.  "info mtree -f" takes
 * a reference to a flat view for each of its address spaces, and drops only one
 * (QEMU 10.0), so that memory it showed never goes, and needs another name.
 */
static void add_shm(VdpaTest *t, unsigned number, uint64_t size)
{
    g_autofree char *id = g_strdup_printf("shm-%u", number);

    add_backend(t, id, size);
    qtest_qmp_device_add(t->qts, "ivshmem-plain", "new",
                         "{ 'memdev': %s, 'addr': '0x8' }", id);
}

static void remove_shm(VdpaTest *t, unsigned number)
{
    g_autofree char *id = g_strdup_printf("shm-%u", number);

    qpci_unplug_acpi_device_test(t->qts, "new", NEW_SLOT);
    remove_backend(t, id);
}

/* What belongs to another device is not the guest's RAM, and can't be shared */
static void test_private_video(void)
{
    VdpaTest *t = vdpa_start_qemu("", "-device VGA,addr=8 "
                                  VDPA_NETDEV_OPTION);
    VdpaNic *nic;

    set_bar(t, NEW_SLOT, PCI_BASE_ADDRESS_0, 0xd0000000);
    qtest_qmp_device_add(t->qts, "virtio-net-pci", "nic0",
                         "{ 'netdev': 'net0', 'addr': '0x4' }");
    nic = vdpa_start_nic(t, 0);
    vdpa_nic_check_data(nic, 1);
    vdpa_assert_no_error(t);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/*
 * Whether QEMU may lock what a small guest needs; drivers that pin memory ask.
 * The limit is what Linux lets every user have.
 */
static bool may_lock(const char *soft)
{
    const rlim_t needed = 8 * MiB;
    struct rlimit limit;

    if (!strstr(soft, "--map pa")) {
        return true;
    }
    g_assert_cmpint(getrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);
    if (limit.rlim_cur < needed && limit.rlim_max >= needed) {
        limit.rlim_cur = needed;
        g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);
    }
    if (limit.rlim_cur < needed) {
        g_test_skip("RLIMIT_MEMLOCK is less than 8 MiB");
    }
    return limit.rlim_cur >= needed;
}

/* A guest that has what libqos needs, and is soon compared */
#define SMALL_OPTIONS                                                  \
    "-m 2M -object memory-backend-memfd,id=shm-ram,size=2M,share=on "  \
    "-M memory-backend=shm-ram "

/*
 * A DIMM that would need more entries than the kernel keeps for an address
 * space. The locked memory is not to blame for it: a driver of the first kind
 * does not lock any, and the second one may lock all.
 */
static void test_max_entries(const void *opaque)
{
    static const char * const soft[] = {
        [false] = "--map va --max-entries %u",
        /* The kernel's default, and memory in the worst order */
        [true] = "--map pa --chunk 4096 --memlock unlimited "
                 "--max-entries %u",
    };
    static const char * const messages[] = {
        [false] = "address space 0: Bad address; the kernel keeps %u entries "
                  "for an address space, which are in use: raise "
                  "max_iotlb_entries of its module vhost_vdpa$",
        [true] = "address space 0: Bad address; the memory [^;]*more than %u "
                 "entries would be needed: use huge pages for the guest's "
                 "memory \\(hugetlb=on\\), raise max_iotlb_entries",
    };
    const bool pinned = opaque;
    g_autofree char *range = g_strdup_printf("'" VDPA_NODE "': cannot map IOVA "
                                             "0x100000000-0x103ffffff .*");
    g_autofree char *options = NULL, *message = NULL, *pattern = NULL;
    struct rlimit old, limit;
    unsigned entries = 2048;
    VdpaNic *nic;
    VdpaTest *t;

    if (!pinned) {
        /* As many as there are without the DIMM */
        t = vdpa_start_qemu("--map va", SMALL_OPTIONS VDPA_NETDEV_OPTION
                            VDPA_NIC_OPTION);
        nic = vdpa_start_nic(t, 0);
        entries = vdpa_soft_number(t->soft, "mappings");
        vdpa_nic_free(nic);
        vdpa_end(t);
    }
    options = g_strdup_printf(soft[pinned], entries);
    message = g_strdup_printf(messages[pinned], entries);
    pattern = g_strconcat(range, message, NULL);

    g_assert_cmpint(getrlimit(RLIMIT_MEMLOCK, &old), ==, 0);
    limit = old;
    limit.rlim_cur = MIN(limit.rlim_max, MiB);
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);
    t = vdpa_start_qemu(options, SMALL_OPTIONS VDPA_NETDEV_OPTION
                        VDPA_NIC_OPTION);
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &old), ==, 0);
    nic = vdpa_start_nic(t, 0);
    vdpa_nic_check_data(nic, 1);
    vdpa_add_dimm(t, 64);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, pattern);
    /* Without it, all is well again */
    vdpa_remove_dimm(t);
    vdpa_nic_check_recovery(nic);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

#define VGA_SLOT 5
#define VGA_OPTIONS "-device VGA,addr=5,vgamem_mb=1,romfile= "
#define VGA_BAR PCI_BASE_ADDRESS_0
#define VGA_BASE 0xd0000000

/* --- The listener --- */

/* Bridge registers and all that they can do to 0xa0000 to 0xfffff */
static void test_windows(const void *opaque)
{
    const char *soft = opaque;
    unsigned reg, value;
    VdpaNic *nic;
    VdpaTest *t;

    if (!may_lock(soft)) {
        return;
    }
    t = vdpa_start_qemu(soft, SMALL_OPTIONS VGA_OPTIONS VDPA_NETDEV_OPTION
                        VDPA_NIC_OPTION);
    nic = vdpa_start_nic(t, 0);
    assert_exact(t, soft);
    for (reg = PAM(0); reg <= PAM(6); reg++) {
        /* Bits 4 and 5 are a window, 0 and 1 are another one */
        static const uint8_t values[] = {
            0x10, 0x11, 0x30, 0x13, 0x31, 0x33, 0x23, 0x01, 0x03, 0x00,
        };

        for (value = 0; value < ARRAY_SIZE(values); value++) {
            vdpa_soft_skip(t->soft);
            set_bridge(t, reg, values[value]);
            assert_exact(t, soft);
            assert_small_change(t);
        }
    }
    vdpa_nic_check_data(nic, 1);

    /* ROM, RAM that is read-only, and RAM, beside each other */
    set_bridge(t, PAM(0), 0x30);
    set_bridge(t, PAM(1), 0x31);
    assert_exact(t, soft);
    check_writes(nic, 0xff000, 1);
    check_writes(nic, 0xc4f00, 2);
    check_reads(nic, 0xc0000);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "faults"), ==, 0);
    check_denied(nic, 0xc3f00);

    /* The same bytes, without a hole: read-only from now on */
    vdpa_soft_skip(t->soft);
    set_bridge(t, PAM(0), 0x10);
    assert_exact(t, soft);
    assert_small_change(t);
    check_reads(nic, 0xff000);
    check_denied(nic, 0xff000);

    /* 0xa0000 is the VGA card's, or RAM for all, not only for SMM */
    g_assert_false(address_is_ram(t, 0xa0000));
    set_bridge(t, SMRAM, SMRAM_OPEN);
    g_assert_true(address_is_ram(t, 0xa0000));
    assert_exact(t, soft);
    check_writes(nic, 0x9ffd0, 3);
    check_writes(nic, 0xbff00, 4);
    set_bridge(t, SMRAM, SMRAM_CLOSED);
    assert_exact(t, soft);
    check_writes(nic, 0x9ff00, 5);
    vdpa_nic_check_data(nic, 6);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A PCI device in RAM, registers in it, RAM in RAM, a ROM of half a KiB */
#define SPLIT_A 0xc0000000
#define SPLIT_SIZE (64 * KiB)
#define SPLIT_AWAY 0xc0100000
#define SPLIT_B_SLOT 7

static const struct {
    unsigned reg;
    uint64_t addr;
    unsigned pieces;        /* of the RAM at SPLIT_A */
} splits[] = {
    /* Registers within a page, at the end and at the beginning of one */
    { SHM_REGISTERS, SPLIT_A + 0x2100, 2 },
    { SHM_REGISTERS, SPLIT_A + 0x2f00, 2 },
    { SHM_REGISTERS, SPLIT_A + 0x8000, 2 },
    { SHM_REGISTERS, SPLIT_A, 1 },
    { SHM_REGISTERS, SPLIT_A + SPLIT_SIZE - 0x100, 1 },
    { SHM_REGISTERS, SPLIT_AWAY, 1 },
    { SHM_BAR, SPLIT_A + 0x5000, 2 },
    { SHM_REGISTERS, SPLIT_A + 0x7100, 3 },
    { SHM_BAR, SPLIT_A + 0x6000, 3 },
    { SHM_BAR, SPLIT_A, 2 },
    { SHM_BAR, SPLIT_AWAY + 0x10000, 2 },
    { SHM_REGISTERS, SPLIT_AWAY, 1 },
    { PCI_ROM_ADDRESS, SPLIT_AWAY + 0x20800, 1 },
    { PCI_ROM_ADDRESS, SPLIT_A + 0x4800, 2 },
    { PCI_ROM_ADDRESS, NOWHERE, 1 },
};

static char *new_rom(size_t size)
{
    g_autofree uint8_t *rom = g_malloc(size);
    g_autoptr(GError) err = NULL;
    char *path;
    int fd;

    vdpa_make_frame(rom, size, 1);
    memcpy(rom, (const uint8_t[]) { 0x55, 0xaa, size / 512 }, 3);
    fd = g_file_open_tmp("vhost-vdpa-test-XXXXXX", &path, &err);
    g_assert_no_error(err);
    g_assert_cmpint(write(fd, rom, size), ==, size);
    close(fd);
    return path;
}

static void test_split(void)
{
    const char *soft = "--map any";
    g_autofree char *rom_a = new_rom(8 * KiB), *rom_b = new_rom(512);
    g_autofree char *args =
        g_strdup_printf(SMALL_OPTIONS
                        SHM_OPTIONS("shm-a", "64K", "6,romfile=%s")
                        SHM_OPTIONS("shm-b", "4K", "7,romfile=%s")
                        VDPA_NETDEV_OPTION VDPA_NIC_OPTION, rom_a, rom_b);
    VdpaTest *t = vdpa_start_qemu(soft, args);
    VdpaNic *nic = vdpa_start_nic(t, 0);
    unsigned i, faults;

    g_unlink(rom_a);
    g_unlink(rom_b);
    set_bar(t, SHM_SLOT, SHM_BAR, SPLIT_A);
    assert_exact(t, soft);
    /* A ROM right behind it, for which pages are large enough */
    set_bar(t, SHM_SLOT, PCI_ROM_ADDRESS, SPLIT_A + SPLIT_SIZE);
    assert_exact(t, soft);
    check_reads(nic, SPLIT_A + SPLIT_SIZE);
    check_reads(nic, SPLIT_A + SPLIT_SIZE + 8 * KiB - 100);
    check_denied(nic, SPLIT_A + SPLIT_SIZE);
    check_writes(nic, SPLIT_A + SPLIT_SIZE - 100, 1);
    for (i = 0; i < ARRAY_SIZE(splits); i++) {
        vdpa_soft_skip(t->soft);
        set_bar(t, SPLIT_B_SLOT, splits[i].reg, splits[i].addr);
        g_assert_cmpuint(count_sections(t, "shm-a"), ==, splits[i].pieces);
        assert_exact(t, soft);
        assert_only_changed(t, SPLIT_A, SPLIT_AWAY + 0x20fff);
        check_writes(nic, SPLIT_A + 0x1f00, i);
        check_writes(nic, SPLIT_A + 0x3000, i + 1);
        check_writes(nic, SPLIT_A + 0xef00, i + 2);
        if (splits[i].reg == SHM_BAR) {
            check_writes(nic, splits[i].addr, i + 3);
        }
    }
    /* What is not a page of RAM is not reached */
    faults = t->faults;
    set_bar(t, SPLIT_B_SLOT, SHM_REGISTERS, SPLIT_A + 0x2100);
    check_denied(nic, SPLIT_A + 0x2100);
    g_assert_cmpuint(t->faults, ==, faults + 1);

    /* The same at rest, which the next start has to know */
    for (i = 0; i < ARRAY_SIZE(splits); i++) {
        qvirtio_reset(nic->vdev);
        set_bar(t, SPLIT_B_SLOT, splits[i].reg, splits[i].addr);
        vdpa_nic_start(nic, 0);
        assert_exact(t, soft);
        check_writes(nic, SPLIT_A + 0xef00, i + 2);
    }
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* VGA memory appears a second time where old programs look for it */
static void set_chain4(VdpaTest *t, bool on)
{
    qtest_outb(t->qts, 0x3ce, 6);           /* graphics: 64 KiB at 0xa0000 */
    qtest_outb(t->qts, 0x3cf, 1 << 2);
    qtest_outb(t->qts, 0x3c4, 2);           /* sequencer: all planes */
    qtest_outb(t->qts, 0x3c5, 0xf);
    qtest_outb(t->qts, 0x3c4, 4);           /* sequencer: chain 4 */
    qtest_outb(t->qts, 0x3c5, on ? 8 : 0);
}

static void test_alias(void)
{
    const char *soft = "--map any";
    VdpaTest *t = vdpa_start_qemu(soft, SMALL_OPTIONS VGA_OPTIONS
                                  VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    VdpaNic *nic = vdpa_start_nic(t, 0);
    uint8_t data[100];

    set_bar(t, VGA_SLOT, VGA_BAR, VGA_BASE);
    g_assert_cmpuint(count_sections(t, "vga.vram"), ==, 1);
    assert_exact(t, soft);
    vdpa_soft_skip(t->soft);
    set_chain4(t, true);
    g_assert_cmpuint(count_sections(t, "vga.vram"), ==, 2);
    assert_exact(t, soft);
    assert_small_change(t);
    check_writes(nic, 0xa0100, 1);
    qtest_memread(t->qts, 0xa0100, data, sizeof(data));
    vdpa_assert_mem(t, VGA_BASE + 0x100, data, sizeof(data));
    check_reads(nic, VGA_BASE + 0x100);
    check_writes(nic, VGA_BASE + 0x100, 2);
    check_reads(nic, 0xa0100);

    /* One of the two goes, and the other one stays */
    set_bar(t, VGA_SLOT, VGA_BAR, VGA_BASE + 64 * MiB);
    g_assert_cmpuint(count_sections(t, "vga.vram"), ==, 2);
    assert_exact(t, soft);
    check_reads(nic, 0xa0100);
    check_reads(nic, VGA_BASE + 64 * MiB + 0x100);
    set_chain4(t, false);
    g_assert_cmpuint(count_sections(t, "vga.vram"), ==, 1);
    assert_exact(t, soft);
    check_writes(nic, VGA_BASE + 64 * MiB + 0x100, 3);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* RAM wherever 64 bits can say; QEMU itself has no BAR in the last page */
static void test_top(const void *opaque)
{
    static const uint64_t places[] = {
        0xfffffffffffe0000, 0x8000000000000000, 0x7fffffffffff0000,
        1ull << 52, 0xfffffffff0000000, 0xc0000000, 0xfffffffffffe0000,
    };
    const char *soft = opaque;
    VdpaTest *t = vdpa_start_qemu(soft, SMALL_OPTIONS
                                  SHM_OPTIONS("shm-a", "64K", "6")
                                  VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    VdpaNic *nic = vdpa_start_nic(t, 0);
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(places); i++) {
        set_bar(t, SHM_SLOT, SHM_BAR, places[i]);
        g_assert_cmphex(section_address(t, "shm-a"), ==, places[i]);
        assert_exact(t, soft);
        check_writes(nic, places[i], i);
        check_writes(nic, places[i] + 64 * KiB - 100, i + 1);
    }
    vdpa_nic_start(nic, 0);
    assert_exact(t, soft);
    check_writes(nic, places[0], 100);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* RAM that comes up where the device cannot reach it */
static void test_out_of_range(void)
{
    const char *soft = "--map any --iova-range 0-ffffffff";
    VdpaTest *t = vdpa_start_qemu(soft, SMALL_OPTIONS
                                  SHM_OPTIONS("shm-a", "64K", "6")
                                  VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    VdpaNic *nic = vdpa_start_nic(t, 0);

    set_bar(t, SHM_SLOT, SHM_BAR, 0xc0000000);
    assert_exact(t, soft);
    set_bar(t, SHM_SLOT, SHM_BAR, 1ull << 40);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "'" VDPA_NODE "'.*0x10000000000.*0x1000000ffff.*"
                    "0xffffffff");
    /* Nor can the driver start it again until the cause is gone */
    vdpa_nic_prepare(nic, 0);
    vdpa_nic_set_driver_ok(nic);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "'" VDPA_NODE "'.*0x10000000000.*0x1000000ffff.*"
                    "0xffffffff.*machine type");
    set_bar(t, SHM_SLOT, SHM_BAR, 0xc0000000);
    vdpa_nic_check_recovery(nic);
    assert_exact(t, soft);
    check_writes(nic, 0xc0000000, 1);

    vdpa_add_dimm(t, 64);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "'" VDPA_NODE "'.*0x100000000.*0x103ffffff.*"
                    "0xffffffff");
    vdpa_remove_dimm(t);
    vdpa_nic_check_recovery(nic);
    assert_exact(t, soft);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Doorbells of a device are no memory for another one, nor for itself */
static void test_device_memory(void)
{
    const char *soft = "--map any --doorbell on";
    VdpaTest *t = vdpa_start_qemu(soft, VDPA_NETDEV_OPTION VDPA_NIC_OPTION
                                  ",page-per-vq=on");
    VdpaNic *nic = vdpa_start_nic(t, 0);
    g_autofree char *tree = qtest_hmp(t->qts, "info mtree -f");
    int i;

    /* "device RAM" is what the CPUs have, too */
    g_assert_true(g_regex_match_simple("ramd\\): vhost-vdpa-doorbell", tree,
                                       0, 0));
    assert_exact(t, soft);
    for (i = 0; i < 3; i++) {
        vdpa_soft_skip(t->soft);
        vdpa_stop_guest(t);
        vdpa_continue_guest(t);
        vdpa_soft_wait(t->soft, "status == 15");
        assert_no_messages(t, "doorbells that go and come");
        assert_exact(t, soft);
        vdpa_nic_check_data(nic, i);
    }
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Flash turns from memory into registers, but is a device in either case */
static void test_flash(void)
{
    const char *soft = "--map any";
    VdpaTest *t = vdpa_start_qemu(soft, "-blockdev null-co,node-name=flash,"
                                  "size=262144,read-zeroes=on "
                                  "-M pflash0=flash "
                                  VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    VdpaNic *nic = vdpa_start_nic(t, 0);
    uint64_t flash = 4 * GiB - 256 * KiB;
    int i;

    for (i = 0; i < 3; i++) {
        assert_exact(t, soft);
        vdpa_soft_skip(t->soft);
        qtest_writeb(t->qts, flash, 0x70);          /* read the status */
        g_assert_cmphex(qtest_readb(t->qts, flash), !=, 0);
        assert_exact(t, soft);
        vdpa_nic_check_data(nic, 1);
        qtest_writeb(t->qts, flash, 0xff);          /* read memory */
        g_assert_cmphex(qtest_readb(t->qts, flash), ==, 0);
        assert_no_messages(t, "flash that is read");
        nic->vdev->bus->set_status(nic->vdev, 0);
        vdpa_nic_start(nic, 0);
    }
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Bus mastering is about the vIOMMU, of which there is none here */
static void test_bus_master(void)
{
    const char *soft = "--map any";
    VdpaTest *t = vdpa_start_qemu(soft, VDPA_NETDEV_OPTION VDPA_NIC_OPTION
                                  ",disable-legacy=on,iommu_platform=on");
    VdpaNic *nic = vdpa_start_nic(t, 0);
    QPCIDevice *pci = nic->pci->pdev;
    uint16_t command = qpci_config_readw(pci, PCI_COMMAND);
    int i;

    g_assert_true(vdpa_nic_has(nic, VIRTIO_F_ACCESS_PLATFORM));
    for (i = 0; i < 3; i++) {
        assert_exact(t, soft);
        vdpa_soft_skip(t->soft);
        qpci_config_writew(pci, PCI_COMMAND, command & ~PCI_COMMAND_MASTER);
        g_assert_cmphex(vdpa_nic_status(nic) & VIRTIO_CONFIG_S_DRIVER_OK, ==,
                        0);
        qpci_config_writew(pci, PCI_COMMAND, command);
        vdpa_nic_set_driver_ok(nic);
        vdpa_soft_wait(t->soft, "status == 15");
        assert_no_messages(t, "bus mastering");
        vdpa_nic_check_data(nic, i);
    }
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Who holds memory that is gone --- */

#define SHM_NEW_BASE 0xc8000000

/*
 * QEMU keeps memory exactly as long as the device has it.  Not for memory that
 * "info mtree -f" showed, see add_shm().
 */
static void assert_held(VdpaTest *t, uint64_t addr, uint64_t size, bool held)
{
    g_autoptr(GArray) entries = device_entries(t);

    g_assert_cmpint(find_entry(entries, addr) != NULL, ==, held);
    if (held) {
        flush_rcu(t);
        g_assert_cmpuint(count_backends(t, size), ==, 1);
    } else {
        wait_no_backend(t, size);
    }
}

static void add_removable_shm(VdpaTest *t)
{
    add_shm(t, 0, 64 * KiB);
    set_bar(t, NEW_SLOT, SHM_BAR, SHM_NEW_BASE);
}

static void remove_removable_shm(VdpaTest *t)
{
    remove_shm(t, 0);
}

static void add_removable_dimm(VdpaTest *t)
{
    vdpa_add_dimm(t, 64);
}

/**
 * struct Removable - RAM that the guest can lose
 * @addr: where it is
 */
typedef struct Removable {
    uint64_t addr;
    uint64_t size;
    void (*add)(VdpaTest *t);
    void (*remove)(VdpaTest *t);
} Removable;

static const Removable removable_shm = {
    SHM_NEW_BASE, 64 * KiB, add_removable_shm, remove_removable_shm,
};

static const Removable removable_dimm = {
    4 * GiB, 64 * MiB, add_removable_dimm, vdpa_remove_dimm,
};

/* A removal that the kernel refuses */
static void fail_removal(VdpaNic *nic, const Removable *r)
{
    g_autofree char *complaint =
        g_strdup_printf("'" VDPA_NODE "'.*0x%" PRIx64, r->addr);
    VdpaTest *t = nic->t;

    r->add(t);
    vdpa_soft_do(t->soft, "fail IOTLB_INVALIDATE 1 EFAULT always");
    r->remove(t);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, complaint);
    assert_held(t, r->addr, r->size, true);
}

static void test_references(const void *opaque)
{
    const Removable *r = opaque;
    VdpaTest *t = vdpa_start("--map any");
    VdpaNic *nic = vdpa_start_nic(t, 0);
    int i;

    for (i = 0; i < 2; i++) {
        r->add(t);
        assert_held(t, r->addr, r->size, true);
        check_writes(nic, r->addr, 1);
        r->remove(t);
        assert_held(t, r->addr, r->size, false);
    }

    fail_removal(nic, r);
    vdpa_soft_do(t->soft, "unfail");
    vdpa_nic_check_recovery(nic);
    assert_exact(t, "--map any");
    assert_held(t, r->addr, r->size, false);

    /* Closing the device needs no removals */
    fail_removal(nic, r);
    vdpa_nic_free(nic);
    qpci_unplug_acpi_device_test(t->qts, "nic0", VDPA_NIC_SLOT);
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'netdev_del',"
                             "  'arguments': { 'id': 'net0' } }");
    wait_no_backend(t, r->size);
    vdpa_end(t);
}

/*
 * Removals that the kernel took, but not the end of their batch: drivers that
 * get whole maps go on with the old one.
 */
static void test_references_batch(void)
{
    VdpaTest *t = vdpa_start_qemu("--map any --set-map",
                                  SHM_OPTIONS("shm-b", "4K", "7")
                                  VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    VdpaNic *nic = vdpa_start_nic(t, 0);
    const uint64_t size = 64 * KiB;

    add_shm(t, 0, size);
    set_bar(t, NEW_SLOT, SHM_BAR, SHM_NEW_BASE);
    /* One message needs no batch, but two do, between which something stays */
    set_bar(t, SPLIT_B_SLOT, SHM_BAR, SHM_NEW_BASE + size / 2);
    vdpa_soft_do(t->soft, "fail IOTLB_BATCH_END 1 EFAULT");
    remove_shm(t, 0);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "'" VDPA_NODE "'.*batch");
    flush_rcu(t);
    g_assert_cmpuint(count_backends(t, size), ==, 1);
    vdpa_nic_check_recovery(nic);
    assert_exact(t, "--map any");
    assert_held(t, SHM_NEW_BASE, size, false);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A removal while the device is at rest may be told to it at once, or later */
static void test_references_at_rest(const void *opaque)
{
    static const uint64_t sizes[] = { 64 * KiB, 2 * MiB };
    const char *soft = opaque;
    VdpaTest *t = vdpa_start(soft);
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);
    int i, j;

    /* Before the first start, and then between two */
    for (i = 0; i < 2; i++) {
        for (j = 0; j < ARRAY_SIZE(sizes); j++) {
            g_autoptr(GArray) entries = NULL;

            add_shm(t, 0, sizes[j]);
            set_bar(t, NEW_SLOT, SHM_BAR, SHM_NEW_BASE);
            if (i > 0) {
                vdpa_nic_start(nic, 0);
                check_writes(nic, SHM_NEW_BASE, i);
                qvirtio_reset(nic->vdev);
            }
            remove_shm(t, 0);
            entries = device_entries(t);
            assert_held(t, SHM_NEW_BASE, sizes[j],
                        find_entry(entries, SHM_NEW_BASE));
            vdpa_nic_start(nic, 0);
            assert_exact(t, soft);
            assert_held(t, SHM_NEW_BASE, sizes[j], false);
            vdpa_nic_check_data(nic, i);
            qvirtio_reset(nic->vdev);
        }
    }
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Resets --- */

static unsigned find_call(GPtrArray *calls, unsigned from, const char *prefix)
{
    unsigned i;

    for (i = from; i < calls->len; i++) {
        if (g_str_has_prefix(calls->pdata[i], prefix)) {
            return i;
        }
    }
    vdpa_soft_fail("there is no %s", prefix);
}

/* Messages that name ranges, or batches, between two calls */
static unsigned count_between(GPtrArray *calls, unsigned from, unsigned to,
                              const char *prefix)
{
    unsigned i, count = 0;

    for (i = from; i < to; i++) {
        count += g_str_has_prefix(calls->pdata[i], prefix);
    }
    return count;
}

/*
 * The device was told at once to forget @before, before it was reset, and has
 * it back before it runs; it was told exactly that.
 */
static void assert_forgotten(GPtrArray *calls, GArray *before, bool batching)
{
    unsigned reset = find_call(calls, 0, "SET_STATUS status=0x0");
    unsigned run = find_call(calls, reset, "SET_STATUS status=0xf");
    unsigned gone = 0, back = 0, i;

    for (i = 0; i < calls->len; i++) {
        Entry entry;

        if (parse_message(calls->pdata[i], "IOTLB_INVALIDATE", &entry)) {
            g_assert_cmpuint(i, <, reset);
            g_assert_cmphex(entry.first, ==,
                            g_array_index(before, Entry, 0).first);
            g_assert_cmphex(entry.last, ==,
                            g_array_index(before, Entry,
                                          before->len - 1).last);
            gone++;
        } else if (parse_message(calls->pdata[i], "IOTLB_UPDATE", &entry)) {
            g_assert_cmpuint(i, >, reset);
            g_assert_cmpuint(i, <, run);
            back++;
            g_assert_nonnull(find_entry(before, entry.first));
            g_assert_cmphex(find_entry(before, entry.first)->first, ==,
                            entry.first);
            g_assert_cmphex(find_entry(before, entry.first)->last, ==,
                            entry.last);
        }
    }
    g_assert_cmpuint(gone, ==, 1);
    g_assert_cmpuint(back, ==, before->len);
    g_assert_cmpuint(count_between(calls, 0, reset, "IOTLB_BATCH_BEGIN"), ==,
                     0);
    g_assert_cmpuint(count_between(calls, reset, run, "IOTLB_BATCH_BEGIN"),
                     ==, batching);
    g_assert_cmpuint(vdpa_count_calls(calls, "IOTLB_BATCH_BEGIN"), ==,
                     vdpa_count_calls(calls, "IOTLB_BATCH_END"));
}

/* Whoever resets the device, the driver or the machine; options end in hex */
static void test_reset(const void *opaque)
{
    const char *soft = opaque;
    uint64_t features = g_ascii_strtoull(strrchr(soft, ' '), NULL, 16);
    bool persist = features & BIT_ULL(VHOST_BACKEND_F_IOTLB_PERSIST);
    bool batching = features & BIT_ULL(VHOST_BACKEND_F_IOTLB_BATCH);
    VdpaTest *t = vdpa_start(soft);
    VdpaNic *nic = vdpa_start_nic(t, 0);
    int i;

    for (i = 0; i < 4; i++) {
        g_autoptr(GArray) before = device_entries(t);
        g_autoptr(GPtrArray) calls = NULL;

        vdpa_soft_skip(t->soft);
        if (i & 1) {
            qtest_system_reset(t->qts);
            vdpa_nic_free(nic);
            nic = vdpa_start_nic(t, 0);
        } else {
            vdpa_nic_start(nic, 0);
        }
        calls = vdpa_soft_messages(t->soft);
        if (persist) {
            g_assert_cmpuint(vdpa_count_calls(calls, "IOTLB_"), ==, 0);
        } else {
            assert_forgotten(calls, before, batching);
        }
        assert_exact(t, soft);
        vdpa_nic_check_data(nic, i);
    }
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* What firmware does before the guest's own driver comes */
static void run_firmware(VdpaTest *t)
{
    unsigned reg, i;

    for (i = 0; i < 3; i++) {
        for (reg = PAM(0); reg <= PAM(6); reg++) {
            set_bridge(t, reg, reg == PAM(0) ? 0x30 : 0x33);
        }
        /* The firmware copies itself, and locks what it copied */
        for (reg = PAM(0); reg <= PAM(6); reg++) {
            set_bridge(t, reg, reg == PAM(0) ? 0x10 : 0x11);
        }
        set_bridge(t, SMRAM, SMRAM_OPEN);
        set_bridge(t, SMRAM, SMRAM_CLOSED);
    }
}

/* Boot, eleven driver loads, reboot, in what the interface needs at least */
static void test_guest_life(void)
{
    VdpaTest *t = vdpa_start_qemu("--map any", "-object memory-backend-memfd,"
                                  "id=large,size=256M,share=on "
                                  "-M memory-backend=large -m 256M "
                                  VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    g_autoptr(GPtrArray) calls = NULL;
    uint64_t bytes = 0;
    VdpaNic *nic;
    unsigned i;

    run_firmware(t);
    nic = vdpa_nic_new(t, VDPA_NIC_SLOT);
    for (i = 0; i < 11; i++) {
        vdpa_nic_start(nic, 0);
        vdpa_nic_check_data(nic, i);
        assert_exact(t, "--map any");
        if (i == 5) {
            qtest_system_reset(t->qts);
            vdpa_nic_free(nic);
            run_firmware(t);
            nic = vdpa_nic_new(t, VDPA_NIC_SLOT);
        }
    }
    vdpa_nic_free(nic);
    vdpa_quit(t);

    calls = vdpa_soft_file_messages(t->soft);
    for (i = 0; i < calls->len; i++) {
        Entry entry;

        if (g_str_has_prefix(calls->pdata[i], "IOTLB_")) {
            g_test_message("%s", (char *)calls->pdata[i]);
        }
        if (parse_message(calls->pdata[i], "IOTLB_UPDATE", &entry)) {
            bytes += entry.last - entry.first + 1;
        }
    }
    g_test_message("%u messages, %" PRIu64 " bytes",
                   vdpa_count_calls(calls, "IOTLB_"), bytes);
    /* Two batches: of two pieces, and of what is below 1 MiB */
    g_assert_cmpuint(vdpa_count_calls(calls, "IOTLB_"), <=, 9);
    /* All of the RAM, ROM, and windows of both below 1 MiB */
    g_assert_cmpuint(bytes, >, 255 * MiB);
    g_assert_cmpuint(bytes, <=, 257 * MiB);
    vdpa_free(t);
}

/* --- Errors at run time --- */

/* For as long as there is a cause, and no longer; and told but once */
static void test_cause_removed(void)
{
    const char *soft = "--map any", *complaint =
        "'" VDPA_NODE "'.*0x100000000.*0x103ffffff";
    VdpaTest *t = vdpa_start(soft);
    VdpaNic *nic = vdpa_start_nic(t, 0);

    vdpa_soft_do(t->soft, "fail IOTLB_UPDATE 1 EFAULT always");
    vdpa_add_dimm(t, 64);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, complaint);
    add_shm(t, 0, 64 * KiB);
    set_bar(t, NEW_SLOT, SHM_BAR, SHM_NEW_BASE);
    set_bar(t, NEW_SLOT, SHM_BAR, SHM_NEW_BASE + MiB);
    vdpa_assert_no_error(t);

    vdpa_nic_prepare(nic, 0);
    vdpa_nic_set_driver_ok(nic);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "'" VDPA_NODE "'.*(0x100000000|0xc8100000)");
    g_assert_cmphex(vdpa_soft_number(t->soft, "status") & 4, ==, 0);

    vdpa_soft_do(t->soft, "unfail");
    vdpa_nic_check_recovery(nic);
    assert_exact(t, soft);
    check_writes(nic, 4 * GiB, 1);
    check_writes(nic, SHM_NEW_BASE + MiB, 2);
    remove_shm(t, 0);
    vdpa_remove_dimm(t);
    assert_exact(t, soft);
    vdpa_nic_check_data(nic, 3);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Memory that others would discard --- */

#define VIRTIO_MEM_BACKEND                                             \
    "-object memory-backend-memfd,id=vmem,size=64M,share=on "

static void test_virtio_mem_first(void)
{
    VdpaTest *t = vdpa_start_qemu("", VIRTIO_MEM_BACKEND
                                  "-device virtio-mem-pci,id=vmem0,"
                                  "memdev=vmem ");
    QDict *reply = qtest_qmp(t->qts, "{ 'execute': 'netdev_add',"
                             "  'arguments': { 'type': 'vhost-vdpa',"
                             "    'id': 'net0', 'vhostdev': '" VDPA_NODE
                             "' } }");
    const char *text;

    g_assert_true(qdict_haskey(reply, "error"));
    text = qdict_get_str(qdict_get_qdict(reply, "error"), "desc");
    if (!g_regex_match_simple("'" VDPA_NODE "'.*discard.*remove virtio-mem",
                              text, 0, 0)) {
        vdpa_soft_fail("QEMU says: %s", text);
    }
    qobject_unref(reply);
    vdpa_end(t);
}

static void assert_no_virtio_mem(VdpaTest *t)
{
    QDict *reply = qtest_qmp(t->qts, "{ 'execute': 'device_add',"
                             "  'arguments': { 'driver': 'virtio-mem-pci',"
                             "    'id': 'vmem0', 'memdev': 'vmem' } }");

    g_assert_true(qdict_haskey(reply, "error"));
    g_assert_nonnull(strstr(qdict_get_str(qdict_get_qdict(reply, "error"),
                                          "desc"), "iscarding RAM"));
    qobject_unref(reply);
}

static void test_virtio_mem_second(void)
{
    const char *soft = "--map any";
    VdpaTest *t = vdpa_start_qemu(soft, VIRTIO_MEM_BACKEND VDPA_NETDEV_OPTION
                                  VDPA_NIC_OPTION);
    VdpaNic *nic;

    assert_no_virtio_mem(t);
    nic = vdpa_start_nic(t, 0);
    assert_no_virtio_mem(t);
    assert_exact(t, soft);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);

    /* Without the vDPA device, nothing stands against it */
    qpci_unplug_acpi_device_test(t->qts, "nic0", VDPA_NIC_SLOT);
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'netdev_del',"
                             "  'arguments': { 'id': 'net0' } }");
    qtest_qmp_device_add(t->qts, "virtio-mem-pci", "vmem0",
                         "{ 'memdev': 'vmem' }");
    vdpa_end(t);
}

/* Pages that the guest gives away stay where the device has them */
static void test_balloon(void)
{
    const char *soft = "--map any";
    VdpaTest *t = vdpa_start_qemu(soft, "-device virtio-balloon-pci,addr=5 "
                                  VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    QPCIAddress address = { .devfn = QPCI_DEVFN(5, 0) };
    VdpaNic *nic = vdpa_start_nic(t, 0);
    QVirtioPCIDevice *balloon = virtio_pci_new(t->bus, &address);
    QVirtioDevice *vdev = &balloon->vdev;
    uint64_t page = guest_alloc(&t->alloc, 4 * KiB);
    uint64_t list = guest_alloc(&t->alloc, 4 * KiB);
    uint8_t data[4 * KiB];
    QVirtQueue *vq;
    uint32_t head;

    vdpa_make_frame(data, sizeof(data), 1);
    qtest_memwrite(t->qts, page, data, sizeof(data));
    qvirtio_pci_device_enable(balloon);
    qvirtio_start_device(vdev);
    qvirtio_set_features(vdev, qvirtio_get_features(vdev) &
                         BIT_ULL(VIRTIO_F_VERSION_1));
    vq = qvirtqueue_setup(vdev, &t->alloc, 0);
    qvirtio_set_driver_ok(vdev);
    vdpa_soft_skip(t->soft);
    qtest_writel(t->qts, list, page >> VIRTIO_BALLOON_PFN_SHIFT);
    head = qvirtqueue_add(t->qts, vq, list, 4, false, false);
    qvirtqueue_kick(t->qts, vdev, vq, head);
    qvirtio_wait_used_elem(t->qts, vdev, vq, head, NULL, VDPA_DEADLINE_US);

    assert_no_messages(t, "a balloon");
    vdpa_assert_mem(t, page, data, sizeof(data));
    check_reads(nic, page);
    check_writes(nic, page + 2 * KiB, 3);
    assert_exact(t, soft);
    qvirtqueue_cleanup(vdev->bus, vq, &t->alloc);
    qvirtio_pci_device_disable(balloon);
    g_free(balloon->pdev);
    g_free(balloon);
    guest_free(&t->alloc, list);
    guest_free(&t->alloc, page);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Changes under traffic --- */

/* Numbered frames, whose content follows from the number */
#define FRAME_MAX 400
#define BUFFER_SIZE 512
#define TRAFFIC_DEPTH 48
#define NUMBER_OFFSET 14

static size_t numbered_frame(uint8_t *frame, uint32_t number)
{
    size_t size = 60 + number * 37 % (FRAME_MAX - 60);

    vdpa_make_frame(frame, size, number);
    stl_be_p(frame + NUMBER_OFFSET, number);
    return size;
}

/**
 * struct Traffic - frames in both directions, as fast as they go
 * @wire: the socket at the other end, which a thread serves
 * @stop: tells the thread to end
 * @problem: what the thread found, if anything
 * @received: frames the thread received; changes while it runs
 * @next: the number of the one it expects
 * @jump: the number that may come instead, as a reset loses frames
 * @rx: buffers of the receive queue, by the head of their chain
 * @tx: the same of the transmit queue
 * @extra: where buffers with an odd number shall be, or NOWHERE
 * @rx_count: frames that the guest received, or that were lost
 * @rx_jump: the next one may come after lost ones
 * @tx_count: frames that the guest offered
 */
typedef struct Traffic {
    VdpaNic *nic;
    int wire;
    int stop[2];
    GThread *thread;
    char *problem;
    unsigned received;
    uint32_t next;
    uint32_t jump;

    uint64_t area;
    uint64_t rx[TRAFFIC_DEPTH];
    uint64_t tx[TRAFFIC_DEPTH];
    uint64_t extra;
    uint32_t rx_count;
    bool rx_jump;
    uint32_t tx_count;
} Traffic;

static bool is_frame(const uint8_t *data, size_t size, uint32_t number)
{
    uint8_t expected[FRAME_MAX];

    return size == numbered_frame(expected, number) &&
           !memcmp(data, expected, size);
}

/* The thread: frames that the guest sent */
static bool take_frames(Traffic *tr, GByteArray *in)
{
    size_t pos = 0;

    while (in->len - pos >= 4 &&
           in->len - pos >= 4 + ldl_be_p(in->data + pos)) {
        size_t size = ldl_be_p(in->data + pos);

        if (!is_frame(in->data + pos + 4, size, tr->next)) {
            tr->next = qatomic_read(&tr->jump);
        }
        if (!is_frame(in->data + pos + 4, size, tr->next)) {
            qatomic_set(&tr->problem,
                        g_strdup_printf("frame %u from the guest is wrong",
                                        tr->next));
            return false;
        }
        tr->next++;
        qatomic_inc(&tr->received);
        pos += 4 + size;
    }
    g_byte_array_remove_range(in, 0, pos);
    return true;
}

static gpointer traffic_thread(gpointer opaque)
{
    Traffic *tr = opaque;
    g_autoptr(GByteArray) in = g_byte_array_new();
    uint8_t out[4 + FRAME_MAX], data[16 * KiB];
    size_t size = 0, done = 0;
    uint32_t number = 0;

    for (;;) {
        struct pollfd fds[] = {
            { .fd = tr->stop[0], .events = POLLIN },
            { .fd = tr->wire, .events = POLLIN | POLLOUT },
        };
        ssize_t len;

        g_assert_cmpint(RETRY_ON_EINTR(poll(fds, 2, -1)), >, 0);
        if (fds[0].revents) {
            return NULL;
        }
        if (fds[1].revents & POLLIN) {
            len = recv(tr->wire, data, sizeof(data), MSG_DONTWAIT);
            if (len <= 0) {
                qatomic_set(&tr->problem, g_strdup("the wire was cut"));
                return NULL;
            }
            g_byte_array_append(in, data, len);
            if (!take_frames(tr, in)) {
                return NULL;
            }
        }
        if (fds[1].revents & POLLOUT) {
            if (done == size) {
                size = 4 + numbered_frame(out + 4, number++);
                stl_be_p(out, size - 4);
                done = 0;
            }
            len = send(tr->wire, out + done, size - done,
                       MSG_DONTWAIT | MSG_NOSIGNAL);
            done += MAX(len, 0);
        }
    }
}

/* Where buffer @i of both queues is to be */
static uint64_t buffer_address(Traffic *tr, unsigned i, bool rx)
{
    return (i & 1 && tr->extra != NOWHERE ? tr->extra : tr->area) +
           (2 * i + rx) * BUFFER_SIZE;
}

static void offer_rx(Traffic *tr, uint32_t head)
{
    QTestState *qts = tr->nic->t->qts;
    QVirtQueue *vq = vdpa_nic_rx(tr->nic, 0);

    tr->rx[head] = buffer_address(tr, head, true);
    qtest_writeq(qts, vq->desc + 16 * head, tr->rx[head]);
    qvirtqueue_kick(qts, tr->nic->vdev, vq, head);
}

static void offer_tx(Traffic *tr, uint32_t head)
{
    QTestState *qts = tr->nic->t->qts;
    QVirtQueue *vq = vdpa_nic_tx(tr->nic, 0);
    uint8_t buffer[VDPA_HEADER_SIZE + FRAME_MAX] = {};
    size_t size = VDPA_HEADER_SIZE +
                  numbered_frame(buffer + VDPA_HEADER_SIZE, tr->tx_count++);

    tr->tx[head] = buffer_address(tr, head, false);
    qtest_memwrite(qts, tr->tx[head], buffer, size);
    qtest_writeq(qts, vq->desc + 16 * head, tr->tx[head]);
    qtest_writel(qts, vq->desc + 16 * head + 8, size);
    qvirtqueue_kick(qts, tr->nic->vdev, vq, head);
}

/* Take what the device is done with, check it, and offer it again */
static void traffic_pump(Traffic *tr)
{
    VdpaTest *t = tr->nic->t;
    uint8_t expected[FRAME_MAX];
    uint32_t head, len;

    /* One at a time: there is no end of either */
    if (qvirtqueue_get_buf(t->qts, vdpa_nic_rx(tr->nic, 0), &head, &len)) {
        uint64_t frame = tr->rx[head] + VDPA_HEADER_SIZE;
        size_t size;

        if (tr->rx_jump) {
            uint32_t number;

            qtest_memread(t->qts, frame + NUMBER_OFFSET, &number, 4);
            number = be32_to_cpu(number);
            g_assert_cmpuint(number, >=, tr->rx_count);
            tr->rx_count = number;
            tr->rx_jump = false;
        }
        size = numbered_frame(expected, tr->rx_count++);
        g_assert_cmpuint(len, ==, VDPA_HEADER_SIZE + size);
        vdpa_assert_mem(t, frame, expected, size);
        offer_rx(tr, head);
    }
    if (qvirtqueue_get_buf(t->qts, vdpa_nic_tx(tr->nic, 0), &head, &len)) {
        offer_tx(tr, head);
    }
}

/* Until so many more frames have arrived, at both ends */
static void traffic_wait(Traffic *tr, unsigned frames)
{
    int64_t deadline = g_get_monotonic_time() + VDPA_DEADLINE_US;
    unsigned rx = tr->rx_count + frames;
    unsigned tx = qatomic_read(&tr->received) + frames;

    while (tr->rx_count < rx || qatomic_read(&tr->received) < tx) {
        const char *problem = qatomic_read(&tr->problem);

        traffic_pump(tr);
        if (problem || g_get_monotonic_time() > deadline) {
            vdpa_soft_fail("no frames any more: %s",
                           problem ?: "nothing is known about it");
        }
    }
}

static void traffic_fill(Traffic *tr)
{
    QTestState *qts = tr->nic->t->qts;
    unsigned i;

    for (i = 0; i < TRAFFIC_DEPTH; i++) {
        g_assert_cmpuint(qvirtqueue_add(qts, vdpa_nic_rx(tr->nic, 0), 0,
                                        VDPA_HEADER_SIZE + FRAME_MAX, true,
                                        false), ==, i);
        offer_rx(tr, i);
        g_assert_cmpuint(qvirtqueue_add(qts, vdpa_nic_tx(tr->nic, 0), 0, 0,
                                        false, false), ==, i);
        offer_tx(tr, i);
    }
}

static void traffic_start(Traffic *tr, VdpaNic *nic)
{
    tr->nic = nic;
    tr->extra = NOWHERE;
    tr->area = guest_alloc(&nic->t->alloc, 2 * TRAFFIC_DEPTH * BUFFER_SIZE);
    tr->wire = accept(nic->t->soft->wire_fd, NULL, NULL);
    g_assert_cmpint(tr->wire, >=, 0);
    g_assert_true(g_unix_open_pipe(tr->stop, FD_CLOEXEC, NULL));
    traffic_fill(tr);
    tr->thread = g_thread_new("wire", traffic_thread, tr);
}

/* The guest's driver is loaded again; the other end knows nothing of it */
static void traffic_restart(Traffic *tr, const char *soft)
{
    VdpaTest *t = tr->nic->t;

    qatomic_set(&tr->jump, tr->tx_count);
    vdpa_nic_start(tr->nic, 0);
    tr->rx_jump = true;
    traffic_fill(tr);
    traffic_wait(tr, TRAFFIC_DEPTH);
    assert_exact(t, soft);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "faults"), ==, 0);
    vdpa_soft_skip(t->soft);
}

static void traffic_stop(Traffic *tr)
{
    g_assert_cmpint(write(tr->stop[1], "", 1), ==, 1);
    g_thread_join(tr->thread);
    if (tr->problem) {
        vdpa_soft_fail("%s", tr->problem);
    }
    close(tr->stop[0]);
    close(tr->stop[1]);
    close(tr->wire);
    guest_free(&tr->nic->t->alloc, tr->area);
}

static bool overlaps(const Entry *entry, uint64_t first, uint64_t size)
{
    return entry->first < first + size && first <= entry->last;
}

/* Whether the device has something in a range that it may use at any moment */
static bool in_use(Traffic *tr, const Entry *entry)
{
    unsigned i;

    for (i = 0; i < tr->nic->num_vqs; i++) {
        QVirtQueue *vq = tr->nic->vq[i];

        if (overlaps(entry, vq->desc, qvring_size(vq->size, vq->align))) {
            return true;
        }
    }
    for (i = 0; i < TRAFFIC_DEPTH; i++) {
        if (overlaps(entry, tr->rx[i], BUFFER_SIZE) ||
            overlaps(entry, tr->tx[i], BUFFER_SIZE)) {
            return true;
        }
    }
    return false;
}

/*
 * After a change: what the device needs was there all the time; it has what
 * is there now; and frames go on.
 */
static void traffic_check(Traffic *tr, const char *soft, const char *what)
{
    VdpaTest *t = tr->nic->t;
    g_autoptr(GPtrArray) calls = vdpa_soft_messages(t->soft);
    unsigned i;

    for (i = 0; i < calls->len; i++) {
        Entry entry;

        if (parse_message(calls->pdata[i], "IOTLB_INVALIDATE", &entry) &&
            in_use(tr, &entry)) {
            vdpa_soft_fail("%s: '%s' takes away what is in use", what,
                           (char *)calls->pdata[i]);
        }
    }
    assert_exact(t, soft);
    traffic_wait(tr, 3);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "faults"), ==, 0);
    vdpa_soft_skip(t->soft);
}

/* Use memory that came, or no longer what is to go */
static void traffic_move(Traffic *tr, uint64_t extra)
{
    int64_t deadline = g_get_monotonic_time() + VDPA_DEADLINE_US;
    unsigned moved;

    tr->extra = extra;
    do {
        unsigned i;

        traffic_wait(tr, 1);
        for (moved = 0, i = 0; i < TRAFFIC_DEPTH; i++) {
            moved += tr->rx[i] == buffer_address(tr, i, true) &&
                     tr->tx[i] == buffer_address(tr, i, false);
        }
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    } while (moved < TRAFFIC_DEPTH);
}

/* ACPI's memory hotplug registers, for a DIMM that is not the first */
static void remove_second_dimm(VdpaTest *t)
{
    qtest_qmp_device_del_send(t->qts, "dimm2");
    qtest_outl(t->qts, 0xa00, 1);
    qtest_outb(t->qts, 0xa14, 1 << 3);
    qtest_qmp_eventwait(t->qts, "DEVICE_DELETED");
    remove_backend(t, "shm-2");
}

/*
 * Small enough for what Linux lets every user lock, 8 MiB.  Behind the RAM is
 * a DIMM that stays, and in front of it a PCI device.
 */
#define TRAFFIC_OPTIONS                                                \
    SMALL_OPTIONS                                                      \
    "-object memory-backend-memfd,id=shm-1,size=2M,share=on "          \
    "-device pc-dimm,id=dimm1,memdev=shm-1 "                           \
    SHM_OPTIONS("shm-a", "64K", "6") SHM_OPTIONS("shm-b", "4K", "7")   \
    VGA_OPTIONS VDPA_NETDEV_OPTION VDPA_NIC_OPTION

#define TRAFFIC_SHM 0xc0000000

static void change_hotplug(Traffic *tr, const char *soft)
{
    VdpaTest *t = tr->nic->t;
    int i;

    for (i = 0; i < 2; i++) {
        add_backend(t, "shm-2", 2 * MiB);
        qtest_qmp_device_add(t->qts, "pc-dimm", "dimm2",
                             "{ 'memdev': 'shm-2' }");
        traffic_check(tr, soft, "a new DIMM");
        traffic_move(tr, section_address(t, "shm-2"));
        traffic_check(tr, soft, "buffers in a new DIMM");
        /* The other one is as near as can be */
        traffic_move(tr, section_address(t, "shm-1"));
        if (i > 0) {
            traffic_restart(tr, soft);
        }
        remove_second_dimm(t);
        traffic_check(tr, soft, "a DIMM less");

        add_shm(t, 10 + i, 64 * KiB);
        set_bar(t, NEW_SLOT, SHM_BAR, SHM_NEW_BASE);
        traffic_check(tr, soft, "a new PCI device");
        traffic_move(tr, SHM_NEW_BASE);
        traffic_move(tr, NOWHERE);
        remove_shm(t, 10 + i);
        traffic_check(tr, soft, "a PCI device less");
    }
}

static void change_bars(Traffic *tr, const char *soft)
{
    VdpaTest *t = tr->nic->t;
    int i;

    set_bar(t, SHM_SLOT, SHM_BAR, TRAFFIC_SHM);
    traffic_check(tr, soft, "a BAR that is placed");
    traffic_move(tr, TRAFFIC_SHM);
    traffic_restart(tr, soft);
    for (i = 0; i < 2; i++) {
        /* Right behind, and in front of, what is in use */
        set_bar(t, VGA_SLOT, VGA_BAR, TRAFFIC_SHM + MiB);
        traffic_check(tr, soft, "VGA memory that is placed");
        set_bar(t, SPLIT_B_SLOT, SHM_BAR, TRAFFIC_SHM + 64 * KiB);
        traffic_check(tr, soft, "a BAR behind another one");
        set_bar(t, SPLIT_B_SLOT, SHM_BAR, TRAFFIC_SHM - 4 * KiB);
        traffic_check(tr, soft, "a BAR in front of another one");
        set_bar(t, VGA_SLOT, VGA_BAR, TRAFFIC_SHM + (2 + i) * 16 * MiB);
        traffic_check(tr, soft, "VGA memory that moves");
        set_chain4(t, i == 0);
        traffic_check(tr, soft, "VGA memory at a second place");
    }
    traffic_move(tr, NOWHERE);
    for (i = 0; i < 4; i++) {
        set_bar(t, SHM_SLOT, SHM_BAR, i & 1 ? TRAFFIC_SHM : 0xfffffffffffe0000);
        traffic_check(tr, soft, "a BAR that moves");
    }
    set_bar(t, SPLIT_B_SLOT, SHM_REGISTERS, TRAFFIC_SHM + 0x4100);
    traffic_check(tr, soft, "a BAR with a hole");
    set_bar(t, SPLIT_B_SLOT, SHM_REGISTERS, NOWHERE);
    traffic_check(tr, soft, "a BAR without a hole");
}

/* All that firmware makes of ROM is RAM, up to and beside 1 MiB */
static void open_windows(VdpaTest *t)
{
    unsigned reg;

    for (reg = PAM(0); reg <= PAM(6); reg++) {
        set_bridge(t, reg, 0x33);
    }
}

static void change_windows(Traffic *tr, const char *soft)
{
    static const uint8_t values[] = { 0x13, 0x30, 0x03, 0x11 };
    VdpaTest *t = tr->nic->t;
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(values); i++) {
        set_bridge(t, PAM(0), values[i]);
        traffic_check(tr, soft, "a window below 1 MiB");
        set_bridge(t, PAM(i + 1), values[i]);
        traffic_check(tr, soft, "a window");
    }
    set_bridge(t, SMRAM, SMRAM_OPEN);
    traffic_check(tr, soft, "a window that is open");
    set_bridge(t, SMRAM, SMRAM_CLOSED);
    traffic_check(tr, soft, "a window that is closed");
}

static void test_traffic(const void *opaque)
{
    const char *soft = opaque;
    Traffic tr = {};
    VdpaTest *t;
    VdpaNic *nic;

    if (!may_lock(soft)) {
        return;
    }
    t = vdpa_start_qemu(soft, TRAFFIC_OPTIONS);
    open_windows(t);
    nic = vdpa_start_nic(t, 0);
    assert_exact(t, soft);
    traffic_start(&tr, nic);
    traffic_wait(&tr, TRAFFIC_DEPTH);
    vdpa_soft_skip(t->soft);
    change_hotplug(&tr, soft);
    change_bars(&tr, soft);
    change_windows(&tr, soft);
    traffic_stop(&tr);
    g_test_message("%u frames received, %u sent", tr.rx_count, tr.received);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Registers of the other host bridge, and what they can hide from all */
#define Q35_SMRAM 0x9d
#define Q35_SMRAM_ENABLED 0x0a
#define Q35_ESMRAMC 0x9e
#define Q35_TSEG_1M 0x01
#define Q35_TSEG_NONE 0x00

/*
 * A part of what is one entry goes, and the kernel knows entries as a whole
 * only: the rest of it has to be there again at the end of the same batch,
 * which is when drivers that get whole maps look.
 */
static void test_split_in_use(void)
{
    const char *soft = "--map any --set-map";
    VdpaTest *t = vdpa_start_qemu(soft, "-M q35 " VDPA_NETDEV_OPTION
                                  VDPA_NIC_OPTION);
    VdpaNic *nic = vdpa_start_nic(t, 0);
    g_autoptr(GPtrArray) calls = NULL;
    g_autoptr(GPtrArray) expected = vdpa_no_calls();
    Traffic tr = {};
    int i;

    traffic_start(&tr, nic);
    traffic_wait(&tr, TRAFFIC_DEPTH);
    assert_exact(t, soft);
    set_bridge(t, Q35_SMRAM, Q35_SMRAM_ENABLED);
    vdpa_soft_skip(t->soft);
    set_bridge(t, Q35_ESMRAMC, Q35_TSEG_1M);
    vdpa_add_call(expected, "IOTLB_BATCH_BEGIN asid=0");
    vdpa_add_call(expected, "IOTLB_INVALIDATE asid=0 iova=0x100000 "
                  "size=0x7f00000");
    vdpa_add_call(expected, "IOTLB_UPDATE asid=0 iova=0x100000 "
                  "size=0x7e00000 perm=3");
    vdpa_add_call(expected, "IOTLB_BATCH_END asid=0");
    calls = vdpa_soft_messages(t->soft);
    vdpa_soft_assert_calls("a hole in RAM", calls, expected);
    g_assert_false(address_is_ram(t, 127 * MiB));
    assert_exact(t, soft);
    traffic_wait(&tr, TRAFFIC_DEPTH);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "faults"), ==, 0);

    /* From now on there are two entries, and what is in use stays */
    for (i = 0; i < 4; i++) {
        set_bridge(t, Q35_ESMRAMC, i & 1 ? Q35_TSEG_1M : Q35_TSEG_NONE);
        traffic_check(&tr, soft, "a hole in RAM that comes and goes");
    }
    traffic_stop(&tr);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Kinds of driver, and all combinations of what matters for memory */
static void add_traffic_tests(void)
{
    static const char *const likes[] = {
        "sim", "vduse", "vp_vdpa", "mlx5", "soft",
    };
    static const char *const maps[] = { "va", "pa", "any" };
    static const char *const ways[] = { "set-map", "dma-map" };
    static const struct {
        const char *name;
        const char *options;
    } features[] = {
        { "all", "" },
        { "no-batch", "--backend-features 1fa" },
        { "no-persist", "--backend-features 0fe" },
        { "no-batch-no-persist", "--backend-features 0fa" },
    };
    unsigned i, j, k;

    for (i = 0; i < ARRAY_SIZE(likes); i++) {
        bool pa = !strcmp(likes[i], "vp_vdpa") || !strcmp(likes[i], "mlx5");
        g_autofree char *path =
            g_strdup_printf("vhost-vdpa/memory/traffic/like-%s", likes[i]);

        qtest_add_data_func_full(path,
                                 g_strdup_printf("--like %s --map %s",
                                                 likes[i], pa ? "pa" : "va"),
                                 test_traffic, g_free);
    }
    for (i = 0; i < ARRAY_SIZE(maps); i++) {
        for (j = 0; j < ARRAY_SIZE(ways); j++) {
            for (k = 0; k < ARRAY_SIZE(features); k++) {
                g_autofree char *path =
                    g_strdup_printf("vhost-vdpa/memory/traffic/%s-%s-%s",
                                    maps[i], ways[j], features[k].name);

                qtest_add_data_func_full(path,
                                         g_strdup_printf("--map %s --%s %s",
                                                         maps[i], ways[j],
                                                         features[k].options),
                                         test_traffic, g_free);
            }
        }
    }
}

/* What needs a PCI device whose BAR is RAM */
static void add_shm_tests(void)
{
    qtest_add_func("vhost-vdpa/memory/split", test_split);
    qtest_add_data_func("vhost-vdpa/memory/top", "--map any", test_top);
    qtest_add_data_func("vhost-vdpa/memory/top-va", "--map va --dma-map",
                        test_top);
    qtest_add_func("vhost-vdpa/memory/out-of-range", test_out_of_range);
    qtest_add_data_func("vhost-vdpa/memory/references", &removable_shm,
                        test_references);
    qtest_add_func("vhost-vdpa/memory/references-batch",
                   test_references_batch);
    qtest_add_data_func("vhost-vdpa/memory/references-at-rest", "--map any",
                        test_references_at_rest);
    qtest_add_data_func("vhost-vdpa/memory/references-no-persist",
                        "--map any --backend-features 0fe",
                        test_references_at_rest);
    qtest_add_func("vhost-vdpa/memory/cause-removed", test_cause_removed);
}

/* Bytes of the guest's memory from @first on */
static uint64_t guest_bytes(VdpaTest *t, uint64_t first)
{
    g_autoptr(GArray) ranges = vdpa_guest_ranges(t);
    uint64_t bytes = 0;
    unsigned i;

    for (i = 0; i < ranges->len; i++) {
        VdpaRange *r = &g_array_index(ranges, VdpaRange, i);

        if (r->last >= first) {
            bytes += r->last - MAX(r->first, first) + 1;
        }
    }
    return bytes;
}

/* What managers and people are told is what the device has */
static void assert_figures(VdpaTest *t, uint64_t wanted, uint64_t total)
{
    QDict *reply = qtest_qmp(t->qts, "{ 'execute': 'qom-get', 'arguments': {"
                             " 'path': '/backend/vhost-vdpa-status[0]',"
                             " 'property': 'memory' } }");
    QDict *figures = qdict_get_qdict(reply, "return");
    uint64_t mapped = vdpa_soft_number(t->soft, "mapped-bytes");
    uint64_t entries = vdpa_soft_number(t->soft, "mappings");
    uint64_t messages = vdpa_soft_number(t->soft, "messages");
    g_autofree char *text = qtest_hmp(t->qts, "info network");
    g_autofree char *expected = NULL;

    g_assert_cmpuint(qdict_get_int(figures, "wanted-bytes"), ==, wanted);
    g_assert_cmpuint(qdict_get_int(figures, "mapped-bytes"), ==, mapped);
    g_assert_cmpuint(qdict_get_int(figures, "entries"), ==, entries);
    g_assert_cmpuint(qdict_get_int(figures, "messages"), ==, messages);
    g_assert_cmpuint(qdict_get_int(figures, "total-mapped-bytes"), ==, total);
    expected = g_strdup_printf(",mapped-bytes=%" PRIu64 "/%" PRIu64 ",entries=%"
                               PRIu64 ",messages=%" PRIu64 "\r\n", mapped,
                               wanted, entries, messages);
    g_assert_nonnull(strstr(text, expected));
    qobject_unref(reply);
}

static void test_figures(void)
{
    VdpaTest *t = vdpa_start("--map any");
    uint64_t high = guest_bytes(t, MiB), ram = guest_bytes(t, 0);
    uint64_t dimm = 64 * MiB;
    VdpaNic *nic;

    /* Until a driver starts, what is below 1 MiB is nobody's */
    assert_figures(t, high, high);
    /* At rest, memory that is new is wanted, but need not be mapped yet */
    vdpa_add_dimm(t, dimm / MiB);
    assert_figures(t, high + dimm, high);
    nic = vdpa_start_nic(t, 0);
    vdpa_assert_memory_mapped(t);
    assert_figures(t, guest_bytes(t, 0), ram + dimm);
    vdpa_remove_dimm(t);
    vdpa_assert_memory_mapped(t);
    assert_figures(t, guest_bytes(t, 0), ram + dimm);
    nic->vdev->bus->set_status(nic->vdev, 0);
    vdpa_add_dimm(t, dimm / MiB);
    assert_figures(t, guest_bytes(t, 0), ram + dimm);
    vdpa_remove_dimm(t);
    assert_figures(t, guest_bytes(t, 0), ram + dimm);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("vhost-vdpa/memory/map", test_memory_map);
    qtest_add_func("vhost-vdpa/memory/reset-ranges", test_reset_ranges);
    qtest_add_func("vhost-vdpa/memory/hotplug", test_hotplug_memory);
    qtest_add_func("vhost-vdpa/memory/hotplug-idle",
                   test_hotplug_memory_idle);
    qtest_add_func("vhost-vdpa/memory/hotplug-fails",
                   test_hotplug_memory_fails);
    qtest_add_func("vhost-vdpa/memory/memlock", test_memlock);
    qtest_add_data_func("vhost-vdpa/memory/max-entries/va", (void *)false,
                        test_max_entries);
    qtest_add_data_func("vhost-vdpa/memory/max-entries/pa", (void *)true,
                        test_max_entries);
    qtest_add_func("vhost-vdpa/memory/private", test_private_memory);
    qtest_add_func("vhost-vdpa/memory/private-video", test_private_video);
    qtest_add_func("vhost-vdpa/memory/access-platform",
                   test_access_platform);
    qtest_add_func("vhost-vdpa/memory/device-memory", test_device_memory);
    qtest_add_func("vhost-vdpa/memory/flash", test_flash);
    qtest_add_func("vhost-vdpa/memory/bus-master", test_bus_master);
    if (qtest_has_device("VGA")) {
        qtest_add_data_func("vhost-vdpa/memory/windows", "--map any",
                            test_windows);
        qtest_add_data_func("vhost-vdpa/memory/windows-dma-map",
                            "--map pa --dma-map", test_windows);
        qtest_add_func("vhost-vdpa/memory/alias", test_alias);
    }
    if (qtest_has_device("ivshmem-plain")) {
        add_shm_tests();
    }

    qtest_add_data_func("vhost-vdpa/memory/references-dimm", &removable_dimm,
                        test_references);
    qtest_add_data_func("vhost-vdpa/memory/reset/all",
                        "--map any --backend-features 1fe", test_reset);
    qtest_add_data_func("vhost-vdpa/memory/reset/no-batch",
                        "--map any --backend-features 1fa", test_reset);
    qtest_add_data_func("vhost-vdpa/memory/reset/no-persist",
                        "--map any --backend-features 0fe", test_reset);
    qtest_add_data_func("vhost-vdpa/memory/reset/no-batch-no-persist",
                        "--map any --dma-map --backend-features 0fa",
                        test_reset);
    qtest_add_func("vhost-vdpa/memory/guest-life", test_guest_life);
    qtest_add_func("vhost-vdpa/memory/figures", test_figures);

    if (qtest_has_device("virtio-mem-pci")) {
        qtest_add_func("vhost-vdpa/memory/virtio-mem-first",
                       test_virtio_mem_first);
        qtest_add_func("vhost-vdpa/memory/virtio-mem-second",
                       test_virtio_mem_second);
    }
    if (qtest_has_device("virtio-balloon-pci")) {
        qtest_add_func("vhost-vdpa/memory/balloon", test_balloon);
    }
    if (qtest_has_machine("q35")) {
        qtest_add_func("vhost-vdpa/memory/split-in-use", test_split_in_use);
    }
    if (qtest_has_device("VGA") && qtest_has_device("ivshmem-plain")) {
        add_traffic_tests();
    }
    return g_test_run();
}
