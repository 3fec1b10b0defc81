/*
 * vdpa-soft: tests of the store of IOVA mappings
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <glib.h>
#include <stdbool.h>
#include <string.h>
#include "iotlb.h"

/*
 * The model: every entry in the order it was added.  It is looked through
 * from end to end, with no idea of order or cache.
 */
typedef struct Model {
    GArray *entries;
} Model;

static bool model_touches(const VsMapping *m, uint64_t first, uint64_t last)
{
    return m->first <= last && m->last >= first;
}

static bool model_overlaps(const Model *model, uint64_t first, uint64_t last)
{
    guint i;

    for (i = 0; i < model->entries->len; i++) {
        if (model_touches(&g_array_index(model->entries, VsMapping, i),
                          first, last)) {
            return true;
        }
    }
    return false;
}

static size_t model_remove(Model *model, uint64_t first, uint64_t last)
{
    size_t count = 0;
    guint i = 0;

    while (i < model->entries->len) {
        if (model_touches(&g_array_index(model->entries, VsMapping, i),
                          first, last)) {
            g_array_remove_index(model->entries, i);
            count++;
        } else {
            i++;
        }
    }
    return count;
}

static const VsMapping *model_find(const Model *model, uint64_t iova)
{
    guint i;

    for (i = 0; i < model->entries->len; i++) {
        const VsMapping *m = &g_array_index(model->entries, VsMapping, i);

        if (model_touches(m, iova, iova)) {
            return m;
        }
    }
    return NULL;
}

static gint by_first(gconstpointer a, gconstpointer b)
{
    const VsMapping *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

static void check_same(const VsIotlb *iotlb, const Model *model)
{
    uint64_t bytes = 0;
    guint i;

    g_array_sort(model->entries, by_first);
    g_assert_cmpuint(vs_iotlb_count(iotlb), ==, model->entries->len);
    for (i = 0; i < model->entries->len; i++) {
        const VsMapping *want = &g_array_index(model->entries, VsMapping, i);
        const VsMapping *have = vs_iotlb_get(iotlb, i);

        g_assert_cmphex(have->first, ==, want->first);
        g_assert_cmphex(have->last, ==, want->last);
        g_assert_cmphex(have->addr, ==, want->addr);
        g_assert_cmpuint(have->perm, ==, want->perm);
        bytes += want->last - want->first + 1;
    }
    g_assert_cmphex(vs_iotlb_bytes(iotlb), ==, bytes);
}

static void check_translate(VsIotlb *iotlb, const Model *model,
                            uint64_t iova, uint64_t size, uint8_t perm)
{
    const VsMapping *want = model_find(model, iova);
    uint64_t addr = 0, run = 0;
    VsXlate got = vs_iotlb_translate(iotlb, iova, size, perm, &addr, &run);

    if (!want) {
        g_assert_cmpint(got, ==, VS_XLATE_UNMAPPED);
    } else if ((want->perm & perm) != perm) {
        g_assert_cmpint(got, ==, VS_XLATE_DENIED);
    } else {
        g_assert_cmpint(got, ==, VS_XLATE_OK);
        g_assert_cmphex(addr, ==, want->addr + (iova - want->first));
        g_assert_cmphex(run, ==, MIN(size - 1, want->last - iova) + 1);
    }
}

/*
 * Random histories in two small windows, at both ends of the 64-bit space,
 * so that ranges meet, touch and overlap all the time.
 */
#define WINDOW 64

static uint64_t pick(void)
{
    uint64_t offset = g_test_rand_int_range(0, WINDOW);

    return g_test_rand_bit() ? offset : UINT64_MAX - offset;
}

static void random_history(void)
{
    const bool overlapping = g_test_rand_bit();
    VsIotlb *iotlb = vs_iotlb_new(), *copy = vs_iotlb_new();
    Model model = {
        .entries = g_array_new(false, false, sizeof(VsMapping)),
    };
    unsigned step;

    for (step = 0; step < 2000; step++) {
        uint64_t a = pick(), b = pick(), first = MIN(a, b), last = MAX(a, b);

        switch (g_test_rand_int_range(0, 8)) {
        case 0 ... 4:
            if (last - first > WINDOW) {
                last = first + g_test_rand_int_range(0, 4);
                if (last < first) {
                    last = UINT64_MAX;
                }
            }
            g_assert_cmpint(vs_iotlb_overlaps(iotlb, first, last), ==,
                            model_overlaps(&model, first, last));
            /* with overlaps the lowest wins: keep the model unambiguous */
            if (!model_overlaps(&model, first, last)) {
                VsMapping m = {
                    .first = first,
                    .last = last,
                    .addr = g_test_rand_int(),
                    .perm = g_test_rand_int_range(1, 4),
                };

                vs_iotlb_add(iotlb, &m);
                g_array_append_val(model.entries, m);
            }
            break;
        case 5:
            /* INVALIDATE of nothing: last is one before first */
            last = first - 1;
            G_GNUC_FALLTHROUGH;
        case 6:
            if (first == 0 && last == UINT64_MAX && overlapping) {
                break;      /* not every time */
            }
            g_assert_cmpuint(vs_iotlb_remove(iotlb, first, last, NULL, NULL),
                             ==, model_remove(&model, first, last));
            break;
        default:
            vs_iotlb_copy(copy, iotlb);
            check_same(copy, &model);
            break;
        }
        check_same(iotlb, &model);
        check_translate(iotlb, &model, pick(),
                        1 + g_test_rand_int_range(0, WINDOW),
                        g_test_rand_int_range(0, 4));
    }
    g_array_free(model.entries, true);
    vs_iotlb_free(iotlb);
    vs_iotlb_free(copy);
}

static void test_random(void)
{
    unsigned i;

    for (i = 0; i < 40; i++) {
        random_history();
    }
}

static void add(VsIotlb *iotlb, uint64_t first, uint64_t last)
{
    VsMapping m = {
        .first = first,
        .last = last,
        .addr = 0x100000 + first,
        .perm = VS_PERM_RW,
    };

    vs_iotlb_add(iotlb, &m);
}

static void count_removed(void *opaque, const VsMapping *m)
{
    *(uint64_t *)opaque += m->last - m->first + 1;
}

static void test_whole_entries_go(void)
{
    VsIotlb *iotlb = vs_iotlb_new();
    uint64_t bytes = 0;

    add(iotlb, 0x1000, 0x4fff);
    add(iotlb, 0x5000, 0x5fff);
    add(iotlb, 0x8000, 0x8fff);
    g_assert_cmpuint(vs_iotlb_remove(iotlb, 0x4fff, 0x5000, count_removed,
                                     &bytes), ==, 2);
    g_assert_cmphex(bytes, ==, 0x5000);
    g_assert_cmpuint(vs_iotlb_count(iotlb), ==, 1);
    /* nothing there */
    g_assert_cmpuint(vs_iotlb_remove(iotlb, 0, 0x7fff, NULL, NULL), ==, 0);
    vs_iotlb_free(iotlb);
}

static void test_size_zero(void)
{
    VsIotlb *iotlb = vs_iotlb_new();

    add(iotlb, 0x1000, 0x1fff);
    add(iotlb, 0x2000, 0x2fff);
    add(iotlb, UINT64_MAX - 0xfff, UINT64_MAX);
    /* between two entries there is no byte that both sides share */
    g_assert_cmpuint(vs_iotlb_remove(iotlb, 0x2000, 0x1fff, NULL, NULL), ==,
                     0);
    g_assert_cmpuint(vs_iotlb_remove(iotlb, 0x2800, 0x27ff, NULL, NULL), ==,
                     1);
    g_assert_cmpuint(vs_iotlb_count(iotlb), ==, 2);
    /* (0, 0) is everything */
    g_assert_cmpuint(vs_iotlb_remove(iotlb, 0, (uint64_t)0 - 1, NULL, NULL),
                     ==, 2);
    g_assert_cmpuint(vs_iotlb_bytes(iotlb), ==, 0);
    vs_iotlb_free(iotlb);
}

static void test_full_range(void)
{
    VsIotlb *iotlb = vs_iotlb_new();
    uint64_t addr, run;

    add(iotlb, 0, UINT64_MAX);
    g_assert_cmpint(vs_iotlb_translate(iotlb, 0, UINT64_MAX, VS_PERM_RW,
                                       &addr, &run), ==, VS_XLATE_OK);
    g_assert_cmphex(run, ==, UINT64_MAX);
    g_assert_cmpint(vs_iotlb_translate(iotlb, UINT64_MAX, 1, VS_PERM_RO,
                                       &addr, &run), ==, VS_XLATE_OK);
    g_assert_cmphex(run, ==, 1);
    g_assert_cmphex(addr, ==, 0xfffff);
    g_assert_true(vs_iotlb_overlaps(iotlb, 5, 5));
    vs_iotlb_free(iotlb);
}

/* Two sub-page neighbours that were rounded onto each other */
static void test_overlap(void)
{
    VsIotlb *iotlb = vs_iotlb_new();
    uint64_t addr, run;

    add(iotlb, 0x1000, 0x3fff);
    add(iotlb, 0x2000, 0x2fff);
    add(iotlb, 0x6000, 0x6fff);
    g_assert_cmpint(vs_iotlb_translate(iotlb, 0x3800, 0x1000, VS_PERM_RW,
                                       &addr, &run), ==, VS_XLATE_OK);
    g_assert_cmphex(addr, ==, 0x103800);
    g_assert_cmphex(run, ==, 0x800);
    /* the entry that begins lower is found though another one is nearer */
    g_assert_cmpuint(vs_iotlb_remove(iotlb, 0x3000, 0x3000, NULL, NULL), ==,
                     1);
    g_assert_cmphex(vs_iotlb_get(iotlb, 0)->first, ==, 0x2000);
    g_assert_cmpuint(vs_iotlb_remove(iotlb, 0, 0x5fff, NULL, NULL), ==, 1);
    g_assert_cmpuint(vs_iotlb_count(iotlb), ==, 1);
    vs_iotlb_free(iotlb);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vdpa-soft/iotlb/whole-entries", test_whole_entries_go);
    g_test_add_func("/vdpa-soft/iotlb/size-zero", test_size_zero);
    g_test_add_func("/vdpa-soft/iotlb/full-range", test_full_range);
    g_test_add_func("/vdpa-soft/iotlb/overlap", test_overlap);
    g_test_add_func("/vdpa-soft/iotlb/random", test_random);
    return g_test_run();
}
