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
#include <sys/resource.h>
#include "libqtest.h"
#include "libvdpa-guest.h"
#include "qemu/units.h"

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
    VdpaNic *nic;

    vdpa_assert_memory_mapped(t);
    /* A device at rest need not follow each turn of the firmware */
    vdpa_soft_skip(t->soft);
    set_pam(t, 0x30);
    set_pam(t, 0);
    set_pam(t, 0x30);
    vdpa_assert_no_calls(t, "firmware changes with an idle device");
    nic = vdpa_start_nic(t, 0);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 1);

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
    VdpaTest *t = vdpa_start("--map any --persist off");
    VdpaNic *nic;

    before = vdpa_soft_messages(t->soft);
    nic = vdpa_start_nic(t, 0);
    vdpa_soft_skip(t->soft);
    qvirtio_reset(nic->vdev);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "mappings"), ==, 0);
    gone = vdpa_soft_messages(t->soft);
    assert_same_ranges(before, "IOTLB_UPDATE", gone, "IOTLB_INVALIDATE");
    vdpa_nic_start(nic, 0);
    after = vdpa_soft_messages(t->soft);
    assert_same_ranges(before, "IOTLB_UPDATE", after, "IOTLB_UPDATE");
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 1);
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

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("vhost-vdpa/memory/map", test_memory_map);
    qtest_add_func("vhost-vdpa/memory/reset", test_reset_ranges);
    qtest_add_func("vhost-vdpa/memory/hotplug", test_hotplug_memory);
    qtest_add_func("vhost-vdpa/memory/hotplug-idle",
                   test_hotplug_memory_idle);
    qtest_add_func("vhost-vdpa/memory/hotplug-fails",
                   test_hotplug_memory_fails);
    qtest_add_func("vhost-vdpa/memory/memlock", test_memlock);
    qtest_add_func("vhost-vdpa/memory/private", test_private_memory);
    qtest_add_func("vhost-vdpa/memory/access-platform",
                   test_access_platform);
    return g_test_run();
}
