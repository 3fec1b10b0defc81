/*
 * QTest testcase for vhost-vdpa: guests whose memory takes long to map
 *
 * The guest has 64 GiB, which nothing touches, and the software device takes
 * its time for each GiB, as a host that pins memory does.  How long that is
 * decides no test: what has to wait for the mapping is looked at while one that
 * would take very long is under way, which is then made fast.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libvdpa-fault.h"
#include "libvdpa-guest.h"
#include "qemu/units.h"
#include "qobject/qbool.h"
#include "qobject/qdict.h"
#include "qobject/qstring.h"

#define RAM_BYTES (64 * GiB)
#define LARGE_OPTIONS                                                  \
    "-object memory-backend-memfd,id=large,size=64G,share=on,"         \
    "reserve=off -M memory-backend=large -m 64G,slots=2,maxmem=128G "

/* Half a minute in all; calls to the device wait for 25 ms now and then */
#define SLOW "--map any --slow-pin 400 "

static VdpaTest *start_large(const char *soft, const char *qemu)
{
    g_autofree char *args = g_strdup_printf(LARGE_OPTIONS "%s", qemu);

    return vdpa_start_qemu(soft, args);
}

static VdpaTest *start_slow(const char *soft)
{
    g_autofree char *options = g_strdup_printf(SLOW "%s", soft);

    return start_large(options, VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
}

static uint64_t mapped(VdpaTest *t)
{
    return vdpa_soft_number(t->soft, "mapped-bytes");
}

/* What a manager sees */
static QObject *status_property(VdpaTest *t, const char *property)
{
    QDict *reply = qtest_qmp(t->qts, "{ 'execute': 'qom-get', 'arguments': {"
                             " 'path': '/backend/vhost-vdpa-status[0]',"
                             " 'property': %s } }", property);
    QObject *value = qdict_get(reply, "return");

    g_assert_nonnull(value);
    qobject_ref(value);
    qobject_unref(reply);
    return value;
}

/* What there is to map, as managers see it */
static uint64_t wanted_bytes(VdpaTest *t)
{
    QObject *memory = status_property(t, "memory");
    uint64_t bytes = qdict_get_int(qobject_to(QDict, memory), "wanted-bytes");

    qobject_unref(memory);
    return bytes;
}

static uint64_t wanted(VdpaTest *t)
{
    QObject *memory = status_property(t, "memory");
    QDict *figures = qobject_to(QDict, memory);
    uint64_t bytes = qdict_get_int(figures, "wanted-bytes");

    g_assert_cmpuint(bytes, >, RAM_BYTES - MiB);
    g_assert_cmpuint(qdict_get_int(figures, "mapped-bytes"), <=, bytes);
    qobject_unref(memory);
    return bytes;
}

static bool start_is_pending(VdpaTest *t)
{
    QObject *value = status_property(t, "start-pending");
    bool pending = qbool_get_bool(qobject_to(QBool, value));

    qobject_unref(value);
    return pending;
}

/* The driver is done, its device is not */
static void start_waiting(VdpaTest *t, VdpaNic *nic)
{
    vdpa_nic_prepare(nic, 0);
    vdpa_nic_set_driver_ok(nic);
    g_assert_true(start_is_pending(t));
}

static char *status_text(VdpaTest *t, const char *property)
{
    QObject *value = status_property(t, property);
    char *text = g_strdup(qstring_get_str(qobject_to(QString, value)));

    qobject_unref(value);
    return text;
}

/* Begun with calc-dirty-rate */
static void measure_ends(VdpaTest *t)
{
    bool ended = false;

    while (!ended) {
        QDict *reply = qtest_qmp(t->qts, "{ 'execute': 'query-dirty-rate' }");
        QDict *rate = qdict_get_qdict(reply, "return");

        ended = g_str_equal(qdict_get_str(rate, "status"), "measured");
        qobject_unref(reply);
    }
}

static void go_on(VdpaTest *t)
{
    vdpa_soft_do(t->soft, "slow-pin 0");
}

/* All memory, and nothing but memory, in so many batches */
static void assert_mapped_once(VdpaTest *t, unsigned batches)
{
    g_autoptr(GPtrArray) all = vdpa_soft_file_messages(t->soft);

    g_assert_cmpuint(mapped(t), ==, wanted(t));
    g_assert_cmpuint(vdpa_count_calls(all, "IOTLB_BATCH_BEGIN"), ==, batches);
    g_assert_cmpuint(vdpa_count_calls(all, "IOTLB_BATCH_END"), ==, batches);
    g_assert_cmpuint(vdpa_count_calls(all, "IOTLB_INVALIDATE"), ==, 0);
    g_assert_cmpuint(vdpa_count_calls(all, "IOTLB_UPDATE"), ==,
                     vdpa_soft_number(t->soft, "mappings"));
}

/* While memory is mapped, the monitor answers, again and again */
static void test_monitor(void)
{
    VdpaTest *t = start_large("--map any --slow-pin 20 ",
                              VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    unsigned answers = 0;
    uint64_t last = 0, now;
    VdpaNic *nic;

    do {
        qtest_qmp_assert_success(t->qts, "{ 'execute': 'query-status' }");
        now = mapped(t);
        answers += now > last && now < wanted(t);
        last = now;
    } while (now < wanted(t));
    /* Each of them came after another slice, and before the last */
    g_assert_cmpuint(answers, >=, 10);
    /* None of which takes much longer than the 25 ms that are intended */
    g_assert_cmpuint(vdpa_soft_number(t->soft, "largest-update"), <=, 2 * GiB);

    /* What is below 1 MiB comes with the driver */
    assert_mapped_once(t, 1);
    nic = vdpa_start_nic(t, 0);
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_assert_memory_mapped(t);
    assert_mapped_once(t, 2);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Where mapping costs nothing, it is done when QEMU is up */
static void test_fast(void)
{
    VdpaTest *t = start_large("--map any",
                              VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    uint64_t bytes;
    VdpaNic *nic;

    while (mapped(t) < wanted(t)) {
        ;
    }
    bytes = mapped(t);
    nic = vdpa_start_nic(t, 0);
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_assert_memory_mapped(t);
    assert_mapped_once(t, 2);
    /* All that was left for the driver's start */
    g_assert_cmpuint(mapped(t) - bytes, <=, MiB);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Before the switchover, the destination of a migration has all of it mapped */
static void test_incoming(void)
{
    VdpaTest *t = start_large("--map any --slow-pin 20", "-incoming defer "
                              VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    g_autofree char *state = NULL;
    QDict *status;

    while (mapped(t) < wanted(t)) {
        ;
    }
    assert_mapped_once(t, 1);
    state = status_text(t, "state");
    g_assert_cmpstr(state, ==, "owned");
    status = qtest_qmp(t->qts, "{ 'execute': 'query-status' }");
    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(status, "return"), "status"),
                    ==, "inmigrate");
    qobject_unref(status);
    vdpa_end(t);
}

/* A driver need not wait, but its device does */
static void test_start_waits(void)
{
    VdpaTest *t = start_slow("");
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);
    g_autofree char *before = NULL, *after = NULL, *state = NULL;
    g_autoptr(GPtrArray) calls = NULL;
    uint8_t *frame = g_malloc(100);
    size_t size = 100;
    QVirtQueue *vq;
    uint64_t addr;
    uint32_t head;
    unsigned i;

    vdpa_soft_do(t->soft, "capture on");
    vdpa_nic_prepare(nic, 0);
    vdpa_nic_set_driver_ok(nic);
    g_assert_cmphex(vdpa_nic_status(nic), ==, 0xf);
    g_assert_cmpuint(vdpa_soft_number(t->soft, "status"), ==, 0xb);
    g_assert_true(start_is_pending(t));
    before = qtest_hmp(t->qts, "info network");
    g_assert_nonnull(strstr(before, ",state=configured,start-pending,"));

    /* What it is told meanwhile is not lost */
    vdpa_make_frame(frame, size, 1);
    addr = vdpa_nic_new_buffer(nic, frame, size);
    vq = vdpa_nic_tx(nic, 0);
    head = qvirtqueue_add(t->qts, vq, addr, VDPA_HEADER_SIZE + size, false,
                          false);
    vdpa_nic_offer(nic, vq, head);
    g_assert_true(start_is_pending(t));
    g_assert_cmpuint(mapped(t), <, wanted(t));

    go_on(t);
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_nic_take(nic, vq, head);
    vdpa_assert_captured(t, 1, &frame, &size);
    guest_free(&t->alloc, addr);
    g_free(frame);
    g_assert_false(start_is_pending(t));
    state = status_text(t, "state");
    g_assert_cmpstr(state, ==, "running");
    after = qtest_hmp(t->qts, "info network");
    g_assert_nonnull(strstr(after, ",state=running,mapped-bytes="));
    vdpa_nic_check_data(nic, 2);

    /* Not even rings were enabled before */
    calls = vdpa_soft_file_messages(t->soft);
    for (i = calls->len; !g_str_has_prefix(calls->pdata[i - 1], "IOTLB"); i--) {
        ;
    }
    g_assert_cmpuint(i, <, calls->len);
    for (; i > 0; i--) {
        g_assert_false(g_str_has_prefix(calls->pdata[i - 1],
                                        "SET_VRING_ENABLE"));
        g_assert_cmpstr(calls->pdata[i - 1], !=, "SET_STATUS status=0xf");
    }
    vdpa_assert_memory_mapped(t);
    assert_mapped_once(t, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/** struct Kind - of virtio device, with options of device and QEMU */
typedef struct Kind {
    const char *name;
    const char *soft;
    const char *qemu;
    uint64_t features;
} Kind;

static const Kind kinds[] = {
    { "one-pair", SLOW, VDPA_NETDEV_OPTION VDPA_NIC_OPTION },
    { "two-pairs", SLOW "--queues 2",
      VDPA_NETDEV_OPTION VDPA_NIC_OPTION ",mq=on,vectors=6",
      BIT_ULL(VIRTIO_NET_F_MQ) },
    { "generic", SLOW, "-device vhost-vdpa-device-pci,id=nic0,addr=4,vhostdev="
      VDPA_NODE },
};

/* Whatever happens before the device could start */
static void test_stop_pending(const void *opaque)
{
    const Kind *kind = opaque;
    VdpaTest *t = start_large(kind->soft, kind->qemu);
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);

    /* The guest is paused, and continues */
    vdpa_nic_prepare(nic, kind->features);
    vdpa_nic_set_driver_ok(nic);
    g_assert_true(start_is_pending(t));
    vdpa_stop_guest(t);
    g_assert_false(start_is_pending(t));
    vdpa_continue_guest(t);
    g_assert_true(start_is_pending(t));

    /* The driver has second thoughts */
    vdpa_nic_negotiate(nic, kind->features);
    g_assert_false(start_is_pending(t));
    vdpa_nic_free_vqs(nic);
    vdpa_nic_prepare(nic, kind->features);
    vdpa_nic_set_driver_ok(nic);
    g_assert_true(start_is_pending(t));

    /* The machine is reset */
    qtest_system_reset(t->qts);
    g_assert_false(start_is_pending(t));
    vdpa_nic_free(nic);
    nic = vdpa_nic_new(t, VDPA_NIC_SLOT);
    vdpa_nic_prepare(nic, kind->features);
    vdpa_nic_set_driver_ok(nic);
    g_assert_true(start_is_pending(t));
    g_assert_cmpuint(mapped(t), <, wanted(t));

    go_on(t);
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_assert_memory_mapped(t);
    assert_mapped_once(t, 1);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/*
 * The dirty rate of the guest is measured.  To the vhost core that is a change
 * of features, and its backend is to go on as if nothing was.
 */
static void test_dirty_rate(void)
{
    VdpaTest *t = start_slow("");
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);

    start_waiting(t, nic);
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'calc-dirty-rate',"
                             " 'arguments': { 'calc-time': 1,"
                             " 'mode': 'dirty-bitmap' } }");
    measure_ends(t);

    go_on(t);
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_assert_memory_mapped(t);
    assert_mapped_once(t, 1);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

static void set_link(VdpaTest *t, const char *id, bool up)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'set_link', 'arguments':"
                             " { 'name': %s, 'up': %i } }", id, up);
}

/* The user pulls the plug before the device could start, and puts it back */
static void test_link(const void *soft)
{
    VdpaTest *t = start_slow(soft);
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);

    start_waiting(t, nic);
    set_link(t, "nic0", false);
    g_assert_false(start_is_pending(t));
    set_link(t, "nic0", true);
    g_assert_true(start_is_pending(t));
    go_on(t);
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* The card is unplugged before the device could start; another one comes */
static void test_unplug_pending(const void *soft)
{
    VdpaTest *t = start_slow(soft);
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);

    start_waiting(t, nic);
    vdpa_nic_free(nic);
    qpci_unplug_acpi_device_test(t->qts, "nic0", VDPA_NIC_SLOT);
    g_assert_false(start_is_pending(t));
    qtest_qmp_device_add(t->qts, "virtio-net-pci", "nic0", "{ 'netdev': 'net0',"
                         " 'addr': %s, 'mac': %s }",
                         stringify(VDPA_NIC_SLOT), VDPA_GUEST_MAC);
    nic = vdpa_nic_new(t, VDPA_NIC_SLOT);
    start_waiting(t, nic);
    go_on(t);
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Memory that comes and goes meanwhile */
static void test_hotplug(void)
{
    VdpaTest *t = start_slow("");
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);

    start_waiting(t, nic);
    go_on(t);
    vdpa_add_dimm(t, 64);
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 1);
    vdpa_remove_dimm(t);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 3);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Memory that goes just when the last of it is mapped does not stay behind */
static void test_unplug_last(void)
{
    g_autofree char *before = NULL, *after = NULL;
    uint64_t ram, dimm = 64 * MiB;
    VdpaTest *t = vdpa_start_qemu("--map any --slow-pin 4000",
        "-object memory-backend-memfd,id=large,size=640M,share=on "
        "-M memory-backend=large -m 640M,slots=2,maxmem=2G "
        "-object memory-backend-memfd,id=mem1,size=64M,share=on "
        "-device pc-dimm,id=dimm1,memdev=mem1 "
        VDPA_NETDEV_OPTION VDPA_NIC_OPTION);

    ram = wanted_bytes(t) - dimm;
    before = g_strdup_printf("mapped-bytes >= %" PRIu64, ram);
    after = g_strdup_printf("mapped-bytes == %" PRIu64, ram);
    vdpa_soft_wait(t->soft, before);
    vdpa_remove_dimm(t);
    g_assert_cmpuint(wanted_bytes(t), ==, ram);
    vdpa_soft_wait(t->soft, after);
    vdpa_end(t);
}

/*
 * Much memory comes while the device is at rest, and need not be mapped yet.
 * When some goes, all changes are sent, for which nobody has to wait.
 */
static void test_hotplug_at_rest(const void *paused)
{
    VdpaTest *t = vdpa_start_qemu("--map any",
        "-object memory-backend-memfd,id=large,size=640M,share=on "
        "-M memory-backend=large -m 640M,slots=2,maxmem=16G "
        "-object memory-backend-memfd,id=mem1,size=64M,share=on "
        "-device pc-dimm,id=dimm1,memdev=mem1 "
        "-object memory-backend-memfd,id=mem2,size=8G,share=on,reserve=off "
        VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    VdpaNic *nic = vdpa_start_nic(t, 0);

    vdpa_soft_wait(t->soft, "status == 15");
    if (paused) {
        vdpa_stop_guest(t);
    } else {
        vdpa_nic_negotiate(nic, 0);
        vdpa_nic_free_vqs(nic);
    }
    vdpa_soft_do(t->soft, "slow-pin 30000");
    qtest_qmp_device_add(t->qts, "pc-dimm", "dimm2", "{ 'memdev': 'mem2' }");
    vdpa_remove_dimm(t);
    g_assert_cmpuint(mapped(t), <, wanted_bytes(t));
    go_on(t);
    if (paused) {
        vdpa_continue_guest(t);
    } else {
        vdpa_nic_start(nic, 0);
    }
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_nic_check_data(nic, 1);
    vdpa_assert_memory_mapped(t);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* The user gives up while memory is mapped, with and without a driver */
static void test_quit(const void *opaque)
{
    bool pending = opaque;
    VdpaTest *t = start_large(SLOW,
                              VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);

    if (pending) {
        start_waiting(t, nic);
    }
    g_assert_cmpuint(mapped(t), <, wanted(t));
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* A card that is plugged in need not wait, nor does the monitor */
static void test_device_add(void)
{
    VdpaTest *t = start_large(SLOW, "");
    VdpaNic *nic;

    qtest_qmp_assert_success(t->qts, "{ 'execute': 'netdev_add', 'arguments':"
                             " { 'id': 'net0', 'type': 'vhost-vdpa',"
                             " 'vhostdev': %s } }", VDPA_NODE);
    qtest_qmp_device_add(t->qts, "virtio-net-pci", "nic0", "{ 'netdev': 'net0',"
                         " 'addr': %s, 'mac': %s }",
                         stringify(VDPA_NIC_SLOT), VDPA_GUEST_MAC);
    g_assert_cmpuint(mapped(t), <, wanted(t));
    nic = vdpa_nic_new(t, VDPA_NIC_SLOT);
    start_waiting(t, nic);
    go_on(t);
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_assert_memory_mapped(t);
    assert_mapped_once(t, 1);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* Where a reset costs the mappings, they are made again right after it */
static void test_reset(void)
{
    VdpaTest *t = start_large("--map any --persist off",
                              VDPA_NETDEV_OPTION VDPA_NIC_OPTION);
    VdpaNic *nic = vdpa_start_nic(t, 0);

    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_nic_check_data(nic, 1);
    vdpa_soft_do(t->soft, "slow-pin 400");
    vdpa_nic_negotiate(nic, 0);
    vdpa_nic_free_vqs(nic);
    start_waiting(t, nic);
    go_on(t);
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 3);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

static void expect_broken(VdpaTest *t)
{
    g_autoptr(QDict) event = qtest_qmp_eventwait_ref(t->qts,
                                                     "VHOST_VDPA_BROKEN");
    QDict *data = qdict_get_qdict(event, "data");

    g_assert_cmpstr(qdict_get_str(data, "device"), ==, "nic0");
    g_assert_cmpstr(qdict_get_str(data, "path"), ==,
                    "/machine/peripheral/nic0/virtio-backend");
    g_assert_cmpstr(qdict_get_str(data, "vhost-device"), ==, VDPA_NODE);
    g_assert_nonnull(strstr(qdict_get_str(data, "error"), "cannot map"));
}

/* It fails when QEMU is up already: whoever needs it is told */
static void test_fails(void)
{
    g_autofree char *none = NULL, *error = NULL, *later = NULL;
    VdpaTest *t = start_slow("");
    VdpaNic *nic = vdpa_nic_new(t, VDPA_NIC_SLOT);

    none = status_text(t, "last-error");
    g_assert_cmpstr(none, ==, "");
    start_waiting(t, nic);
    vdpa_soft_do(t->soft, "fail IOTLB_UPDATE 1 EFAULT always");
    go_on(t);
    expect_broken(t);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "'" VDPA_NODE "'.*cannot map.*");
    g_assert_cmpuint(vdpa_soft_number(t->soft, "status") &
                     VIRTIO_CONFIG_S_DRIVER_OK, ==, 0);
    error = status_text(t, "last-error");
    g_assert_nonnull(strstr(error, "cannot map"));

    /* A driver that tries again is told again */
    vdpa_nic_negotiate(nic, 0);
    vdpa_nic_free_vqs(nic);
    vdpa_nic_prepare(nic, 0);
    vdpa_nic_set_driver_ok(nic);
    expect_broken(t);
    vdpa_nic_wait_needs_reset(nic);
    vdpa_take_error(t, "'" VDPA_NODE "'.*cannot map.*");

    vdpa_soft_do(t->soft, "unfail");
    vdpa_nic_negotiate(nic, 0);
    vdpa_nic_free_vqs(nic);
    vdpa_nic_prepare(nic, 0);
    vdpa_nic_set_driver_ok(nic);
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 1);
    later = status_text(t, "last-error");
    g_assert_cmpstr(later, ==, "");
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* The same before there is a driver that could be told */
static void test_fails_idle(void)
{
    VdpaTest *t = start_slow("");
    g_autofree char *error = NULL;
    VdpaNic *nic;

    vdpa_soft_do(t->soft, "fail IOTLB_UPDATE 1 EFAULT");
    go_on(t);
    while (!vdpa_has_error(t)) {
        /* Answers as long as QEMU lives */
        qtest_qmp_assert_success(t->qts, "{ 'execute': 'query-status' }");
    }
    error = status_text(t, "last-error");
    g_assert_nonnull(strstr(error, "cannot map"));
    vdpa_take_error(t, "warning: vhost-vdpa device '" VDPA_NODE
                    "'.*cannot map");
    nic = vdpa_start_nic(t, 0);
    vdpa_soft_wait(t->soft, "status == 15");
    vdpa_assert_memory_mapped(t);
    vdpa_nic_check_data(nic, 1);
    vdpa_nic_free(nic);
    vdpa_end(t);
}

/* --- Failures of every call while memory is mapped in the background --- */

/**
 * struct LargeFault - a guest whose memory is mapped again and again
 * @driver: its driver waits for that
 */
typedef struct LargeFault {
    VdpaTest *t;
    VdpaNic *nic;
    bool driver;
} LargeFault;

/* A reset costs the mappings, so that is when they are made again */
static void prepare_early(void *opaque)
{
    LargeFault *l = opaque;

    vdpa_soft_do(l->t->soft, "slow-pin 400");
    if (l->driver) {
        vdpa_nic_prepare(l->nic, 0);
        vdpa_nic_set_driver_ok(l->nic);
    } else {
        vdpa_nic_negotiate(l->nic, 0);
    }
}

static void prepare_background(void *opaque)
{
    LargeFault *l = opaque;

    prepare_early(l);
    /* The thread has sent what comes before */
    vdpa_soft_wait(l->t->soft, "pinning >= 1");
    g_assert_cmpint(start_is_pending(l->t), ==, l->driver);
    g_assert_cmpuint(mapped(l->t), <, wanted(l->t));
}

static bool failed(VdpaTest *t)
{
    g_autofree char *error = status_text(t, "last-error");

    return *error;
}

/* Until all is mapped and the driver has its device, or it went wrong */
static void run_background(void *opaque)
{
    LargeFault *l = opaque;

    go_on(l->t);
    /* A failure from before the driver's start may be overcome */
    while (start_is_pending(l->t) ||
           (!failed(l->t) && mapped(l->t) < wanted(l->t))) {
        ;
    }
}

static bool check_background(void *opaque, const VdpaCall *call)
{
    LargeFault *l = opaque;
    bool told;

    if (call && failed(l->t)) {
        /* Also if nobody was there to be told */
        g_autofree char *pattern = vdpa_fault_pattern(call);
        g_autofree char *error = status_text(l->t, "last-error");

        if (!g_regex_match_simple(pattern, error, 0, 0)) {
            vdpa_soft_fail("the last error is not like '%s': %s", pattern,
                           error);
        }
    }
    told = vdpa_fault_unfail(l->nic, call);
    vdpa_nic_start(l->nic, 0);
    vdpa_assert_memory_mapped(l->t);
    vdpa_nic_check_data(l->nic, 1);
    g_assert_false(failed(l->t));
    return told;
}

static const VdpaFaultLoop fault_loops[] = {
    { prepare_background, run_background, check_background, .most = 1 },
    /* What is sent before the thread begins to work */
    { prepare_early, run_background, check_background,
      .only = "IOTLB_BATCH", .early = true },
};

static void test_faults(const void *opaque)
{
    LargeFault l = {
        .t = start_large("--map any --persist off",
                         VDPA_NETDEV_OPTION VDPA_NIC_OPTION),
        .driver = opaque,
    };
    unsigned i;

    l.nic = vdpa_start_nic(l.t, 0);
    for (i = 0; i < ARRAY_SIZE(fault_loops); i++) {
        vdpa_fault_loop(l.t, &fault_loops[i], &l);
    }
    vdpa_nic_free(l.nic);
    vdpa_end(l.t);
}

/* A limit that cannot suffice is found before anything is pinned */
static void test_memlock(void)
{
    VdpaSoft *soft = vdpa_soft_new();
    g_auto(GStrv) lines = NULL;

    g_assert_cmpint(vdpa_soft_run(soft, "ulimit -S -l 64;",
                                  "--map pa --slow-pin 400",
                                  "-M pc -nodefaults " LARGE_OPTIONS
                                  VDPA_NETDEV_OPTION VDPA_NIC_OPTION), ==, 1);
    lines = vdpa_soft_error_lines(soft);
    g_assert_cmpuint(g_strv_length(lines), ==, 1);
    g_assert_true(g_regex_match_simple("'" VDPA_NODE "'.*RLIMIT_MEMLOCK is "
                                       "65536 bytes.*687[0-9]{8} bytes",
                                       lines[0], 0, 0));
    vdpa_soft_free(soft);
}

/*
 * One that suffices for much is found before that much is pinned: what goes
 * beyond the limit is asked for at once, whatever size slices are best.
 */
static void test_memlock_half(void)
{
    VdpaSoft *soft = vdpa_soft_new();
    g_autoptr(GPtrArray) calls = NULL;
    g_auto(GStrv) lines = NULL;
    g_autofree char *options =
        g_strdup_printf("--map pa --slow-pin 100 --memlock %" PRIu64,
                        RAM_BYTES / 2 + 512 * MiB);
    uint64_t pinned = 0, size = 0;
    unsigned i;

    g_assert_cmpint(vdpa_soft_run(soft, "", options,
                                  "-M pc -nodefaults " LARGE_OPTIONS
                                  VDPA_NETDEV_OPTION VDPA_NIC_OPTION), ==, 1);
    lines = vdpa_soft_error_lines(soft);
    g_assert_cmpuint(g_strv_length(lines), ==, 1);
    g_assert_true(g_regex_match_simple("'" VDPA_NODE "'.*cannot map", lines[0],
                                       0, 0));
    calls = vdpa_soft_file_messages(soft);
    for (i = 0; i < calls->len; i++) {
        if (sscanf(calls->pdata[i], "IOTLB_UPDATE asid=0 iova=0x%*x size=0x%"
                   SCNx64, &size) == 1) {
            pinned += size;
        }
    }
    /* The last one was refused; what is below 4 GiB stands by itself */
    pinned -= size;
    g_assert_cmpuint(size, >, RAM_BYTES / 2 + 512 * MiB - pinned);
    g_assert_cmpuint(pinned, <, 4 * GiB);
    vdpa_soft_free(soft);
}

int main(int argc, char **argv)
{
    unsigned i;

    g_test_init(&argc, &argv, NULL);
    qtest_add_func("vhost-vdpa/large/monitor", test_monitor);
    qtest_add_func("vhost-vdpa/large/fast", test_fast);
    qtest_add_func("vhost-vdpa/large/incoming", test_incoming);
    qtest_add_func("vhost-vdpa/large/start-waits", test_start_waits);
    for (i = 0; i < ARRAY_SIZE(kinds); i++) {
        g_autofree char *path =
            g_strdup_printf("vhost-vdpa/large/stop-pending/%s", kinds[i].name);

        qtest_add_data_func(path, &kinds[i], test_stop_pending);
    }
    qtest_add_func("vhost-vdpa/large/dirty-rate", test_dirty_rate);
    qtest_add_data_func("vhost-vdpa/large/link", "", test_link);
    qtest_add_data_func("vhost-vdpa/large/link-forgets", "--persist off",
                        test_link);
    qtest_add_data_func("vhost-vdpa/large/unplug-pending", "",
                        test_unplug_pending);
    qtest_add_data_func("vhost-vdpa/large/unplug-pending-forgets",
                        "--persist off", test_unplug_pending);
    qtest_add_func("vhost-vdpa/large/hotplug", test_hotplug);
    qtest_add_func("vhost-vdpa/large/unplug-last", test_unplug_last);
    qtest_add_data_func("vhost-vdpa/large/hotplug-at-rest", NULL,
                        test_hotplug_at_rest);
    qtest_add_data_func("vhost-vdpa/large/hotplug-paused", "",
                        test_hotplug_at_rest);
    qtest_add_data_func("vhost-vdpa/large/quit", NULL, test_quit);
    qtest_add_data_func("vhost-vdpa/large/quit-pending", "", test_quit);
    qtest_add_func("vhost-vdpa/large/device-add", test_device_add);
    qtest_add_func("vhost-vdpa/large/reset", test_reset);
    qtest_add_func("vhost-vdpa/large/fails", test_fails);
    qtest_add_func("vhost-vdpa/large/fails-idle", test_fails_idle);
    qtest_add_func("vhost-vdpa/large/memlock", test_memlock);
    qtest_add_func("vhost-vdpa/large/memlock-half", test_memlock_half);
    qtest_add_data_func("vhost-vdpa/large/fault/driver", GUINT_TO_POINTER(1),
                        test_faults);
    qtest_add_data_func("vhost-vdpa/large/fault/no-driver", NULL, test_faults);
    return g_test_run();
}
