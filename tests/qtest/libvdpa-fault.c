/*
 * Let each call of a guest's life with a vDPA device fail, and see it go on
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libvdpa-fault.h"

static void call_clear(gpointer opaque)
{
    g_free(((VdpaCall *)opaque)->name);
}

GArray *vdpa_fault_calls(GPtrArray *calls)
{
    g_autoptr(GHashTable) count = g_hash_table_new_full(g_str_hash,
                                                        g_str_equal, g_free,
                                                        NULL);
    GArray *result = g_array_new(false, false, sizeof(VdpaCall));
    unsigned i;

    g_array_set_clear_func(result, call_clear);
    for (i = 0; i < calls->len; i++) {
        g_auto(GStrv) words = g_strsplit(calls->pdata[i], " ", 2);
        unsigned n;

        if (!strcmp(words[0], "CLOSE")) {
            continue;
        }
        n = GPOINTER_TO_UINT(g_hash_table_lookup(count, words[0])) + 1;
        g_hash_table_replace(count, g_strdup(words[0]), GUINT_TO_POINTER(n));
        g_array_append_val(result, ((VdpaCall) { g_strdup(words[0]), n }));
    }
    return result;
}

static bool is_message(const VdpaCall *call)
{
    return g_str_has_prefix(call->name, "IOTLB_");
}

const char *vdpa_fault_error(const VdpaCall *call)
{
    return is_message(call) ? "EFAULT" : "EIO";
}

void vdpa_fault_assert_injected(GPtrArray *calls, const VdpaCall *call)
{
    g_autofree char *begin = g_strdup_printf("%s ", call->name);
    g_autofree char *result =
        g_strdup_printf(" -> %d", is_message(call) ? EFAULT : EIO);
    unsigned i;

    for (i = 0; i < calls->len; i++) {
        g_autofree char *text = g_strdup_printf("%s ", (char *)calls->pdata[i]);

        if (g_str_has_prefix(text, begin) &&
            g_str_has_suffix(calls->pdata[i], result)) {
            return;
        }
    }
    vdpa_soft_fail("%s did not fail", call->name);
}

char *vdpa_fault_pattern(const VdpaCall *call)
{
    static const char *const messages[][2] = {
        { "IOTLB_UPDATE", "cannot map IOVA 0x" },
        { "IOTLB_INVALIDATE", "cannot unmap IOVA 0x" },
        { "IOTLB_BATCH_BEGIN", "cannot begin a batch of IOTLB messages" },
        { "IOTLB_BATCH_END", "cannot end a batch of IOTLB messages" },
    };
    g_autofree char *attempt =
        g_strdup_printf("cannot .* \\(VHOST_(VDPA_)?%s\\)", call->name);
    const char *what = attempt;
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(messages); i++) {
        if (!strcmp(call->name, messages[i][0])) {
            what = messages[i][1];
        }
    }
    /* The generic device knows its file only */
    return g_strdup_printf("vhost-vdpa device '(" VDPA_NODE "|fd [0-9]+)': "
                           "%s.*: %s; ",
                           what, is_message(call) ? "Bad address" :
                           "Input/output error");
}

bool vdpa_fault_unfail(VdpaNic *nic, const VdpaCall *call)
{
    bool told = vdpa_nic_status(nic) & VIRTIO_CONFIG_S_NEEDS_RESET;
    VdpaTest *t = nic->t;

    vdpa_soft_do(t->soft, "unfail");
    if (told) {
        vdpa_nic_wait_needs_reset(nic);
    }
    if (call && (told || vdpa_has_error(t))) {
        g_autofree char *pattern = vdpa_fault_pattern(call);

        vdpa_take_error(t, pattern);
    }
    vdpa_assert_no_error(t);
    return told;
}

/* Whatever QEMU had to tell managers, it has told them */
static void check_event(VdpaTest *t, const VdpaCall *call, unsigned expected)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'query-status' }");
    g_assert_cmpuint(t->broken, ==, expected);
    if (expected) {
        g_autofree char *pattern = vdpa_fault_pattern(call);

        if (!g_regex_match_simple(pattern, t->broken_error, 0, 0)) {
            vdpa_soft_fail("the event's cause is not like '%s': %s", pattern,
                           t->broken_error);
        }
    }
}

static bool is_wanted(const VdpaFaultLoop *loop, const VdpaCall *call)
{
    return (!loop->only || g_str_has_prefix(call->name, loop->only)) &&
           (!loop->most || call->occurrence <= loop->most);
}

static void inject(VdpaTest *t, const VdpaCall *call, bool always)
{
    vdpa_assert_no_error(t);
    vdpa_soft_skip(t->soft);
    vdpa_soft_do(t->soft, "fail %s %u %s%s", call->name, call->occurrence,
                 vdpa_fault_error(call), always ? " always" : "");
}

/* Memory of the guest's that QEMU has, whoever needs it */
static unsigned count_backends(VdpaTest *t)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps",
                                            (int)qtest_pid(t->qts));
    g_autofree char *text = NULL;
    unsigned count = 0;
    const char *p;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    for (p = text; (p = strstr(p, "/memfd:memory-backend-")); p++) {
        count++;
    }
    return count;
}

static void wait_backends(VdpaTest *t, unsigned limit)
{
    int64_t deadline = g_get_monotonic_time() + VDPA_DEADLINE_US;

    while (count_backends(t) > limit) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    }
}

void vdpa_fault_loop(VdpaTest *t, const VdpaFaultLoop *loop, void *opaque)
{
    g_autoptr(GPtrArray) good = NULL;
    g_autoptr(GArray) list = NULL;
    unsigned i, fds, backends, injected = 0, told = 0;

    /* The second time is like all that follow */
    for (i = 0; i < 2; i++) {
        g_clear_pointer(&good, g_ptr_array_unref);
        t->broken = 0;
        vdpa_soft_skip(t->soft);
        loop->prepare(opaque);
        if (!loop->early) {
            vdpa_soft_skip(t->soft);
        }
        loop->run(opaque);
        good = vdpa_soft_messages(t->soft);
        g_assert_false(loop->check(opaque, NULL));
        check_event(t, NULL, 0);
    }
    list = vdpa_fault_calls(good);
    fds = vdpa_count_fds(t);
    backends = count_backends(t);
    for (i = 0; i < 2 * list->len; i++) {
        const VdpaCall *call = &g_array_index(list, VdpaCall, i / 2);
        bool always = i % 2, is_told;
        g_autoptr(GPtrArray) calls = NULL;

        /* What fails for good from the second time on is much like that */
        if (!is_wanted(loop, call) ||
            (always && (loop->once || call->occurrence > 1))) {
            continue;
        }
        g_test_message("%s %u%s", call->name, call->occurrence,
                       always ? " always" : "");
        t->broken = 0;
        if (loop->early) {
            inject(t, call, always);
        }
        loop->prepare(opaque);
        if (!loop->early) {
            inject(t, call, always);
        }
        loop->run(opaque);
        calls = vdpa_soft_messages(t->soft);
        vdpa_fault_assert_injected(calls, call);
        injected++;
        is_told = loop->check(opaque, call);
        vdpa_assert_no_error(t);
        check_event(t, call, is_told);
        told += is_told;
    }
    g_test_message("%u failures injected, the guest was told of %u",
                   injected, told);
    g_assert_cmpuint(injected, >, 0);
    vdpa_wait_fds(t, fds);
    wait_backends(t, backends);
}

unsigned vdpa_count_fds(VdpaTest *t)
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

void vdpa_wait_fds(VdpaTest *t, unsigned limit)
{
    int64_t deadline = g_get_monotonic_time() + VDPA_DEADLINE_US;

    while (vdpa_count_fds(t) > limit) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    }
}
