/*
 * Benchmark of the vhost-vdpa IOTLB reconciler: what a commit costs
 *
 * A reconciler has n ranges programmed, none of which touches another.  Of
 * these, k are moved to another place in host memory, which takes two messages
 * each; then follows a commit.  The messages go nowhere.
 *
 * Each line of the output is about one n and k: how many tree lookups and
 * messages all of that took, which is the same in each run, and the processor
 * time of the calls that tell the reconciler about the changes and of the
 * commit, in nanoseconds: median, least and most of several repetitions.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#ifdef CONFIG_MALLOC_TRIM
#include <malloc.h>
#endif
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "hw/virtio/vhost-vdpa-iotlb.h"

#define RANGE_SIZE (64 * KiB)
#define RANGE_STRIDE (128 * KiB)
/* Above what is special about low memory */
#define FIRST_IOVA (1 * MiB)
#define SMALL_LIMIT (1 * MiB)
#define PAGE_SIZE (4 * KiB)
/* Where the two places of the ranges in host memory begin */
#define HOST_BASE (1 * TiB)
#define HOST_STEP (1 * TiB)

#define MAX_RANGES 10000000
#define MAX_REPEATS 100000

typedef struct Bench {
    VhostVDPAIOTLB *iotlb;
    unsigned ranges;
    bool *moved;            /* which of its two places each range is at */
} Bench;

static int no_batch(void *opaque, uint32_t asid)
{
    return 0;
}

static int no_map(void *opaque, uint32_t asid, uint64_t first, uint64_t last,
                  uint64_t uaddr, uint8_t perm)
{
    return 0;
}

static int no_unmap(void *opaque, uint32_t asid, uint64_t first, uint64_t last)
{
    return 0;
}

static const VhostVDPAIOTLBOps ops = {
    .batch_begin = no_batch,
    .batch_end = no_batch,
    .map = no_map,
    .unmap = no_unmap,
};

static int64_t cpu_time(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void add_range(Bench *b, unsigned i)
{
    uint64_t first = FIRST_IOVA + i * RANGE_STRIDE;
    uint64_t uaddr = HOST_BASE + b->moved[i] * HOST_STEP + i * RANGE_STRIDE;

    vhost_vdpa_iotlb_add(b->iotlb, 0, first, first + RANGE_SIZE - 1, uaddr,
                         VHOST_VDPA_IOTLB_RW, NULL, false, &error_abort);
}

/* Not inline, so that a profiler can be told to look at this alone */
static void __attribute__((noinline))
bench_change(Bench *b, unsigned changes)
{
    unsigned i;

    for (i = 0; i < changes; i++) {
        /* all over the address space */
        unsigned range = (uint64_t)i * b->ranges / changes;

        b->moved[range] = !b->moved[range];
        add_range(b, range);
    }
}

static void __attribute__((noinline)) bench_commit(Bench *b)
{
    vhost_vdpa_iotlb_commit(b->iotlb, 0, NULL, &error_abort);
}

static void bench_init(Bench *b, unsigned ranges)
{
    unsigned i;

    b->ranges = ranges;
    b->moved = g_new0(bool, ranges);
    b->iotlb = vhost_vdpa_iotlb_new(&ops, NULL, SMALL_LIMIT, PAGE_SIZE);
    vhost_vdpa_iotlb_set_batching(b->iotlb, true);
    for (i = 0; i < ranges; i++) {
        add_range(b, i);
    }
    vhost_vdpa_iotlb_commit(b->iotlb, 0, NULL, &error_abort);
#ifdef CONFIG_MALLOC_TRIM
    /* Let the allocator finish with what was freed here */
    malloc_trim(0);
#endif
}

static void bench_end(Bench *b)
{
    vhost_vdpa_iotlb_free(b->iotlb);
    g_free(b->moved);
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

static void print_times(int64_t *times, unsigned count)
{
    qsort(times, count, sizeof(*times), compare);
    printf("  %9" PRId64 " %9" PRId64 " %9" PRId64, times[count / 2], times[0],
           times[count - 1]);
}

static void measure(Bench *b, unsigned changes, unsigned repeats)
{
    g_autofree int64_t *change = g_new(int64_t, repeats);
    g_autofree int64_t *commit = g_new(int64_t, repeats);
    VhostVDPAIOTLBStats before, after;
    uint64_t lookups = 0, messages = 0;
    unsigned i;

    for (i = 0; i < repeats; i++) {
        int64_t start, middle;

        vhost_vdpa_iotlb_stats(b->iotlb, 0, &before);
        start = cpu_time();
        bench_change(b, changes);
        middle = cpu_time();
        bench_commit(b);
        commit[i] = cpu_time() - middle;
        change[i] = middle - start;
        vhost_vdpa_iotlb_stats(b->iotlb, 0, &after);
        /* The trees are not the same each time, hence the worst case */
        lookups = MAX(lookups, after.lookups - before.lookups);
        messages = MAX(messages, after.messages - before.messages);
    }
    printf("%7u %7u %9" PRIu64 " %9" PRIu64, b->ranges, changes, lookups,
           messages);
    print_times(change, repeats);
    print_times(commit, repeats);
    printf("\n");
}

static void usage(const char *name)
{
    printf("usage: %s [-n RANGES] [-k CHANGES] [-r REPETITIONS]\n"
           "By default: 10 to 100000 ranges, 1 to 1000 changes, "
           "31 repetitions\n", name);
}

static unsigned number(const char *name, const char *text, unsigned max)
{
    unsigned value;

    if (qemu_strtoui(text, NULL, 10, &value) || !value || value > max) {
        fprintf(stderr, "%s: %s is not a number from 1 to %u\n", name, text,
                max);
        exit(EXIT_FAILURE);
    }
    return value;
}

int main(int argc, char **argv)
{
    unsigned ranges = 0, changes = 0, repeats = 31, n, k;
    int c;

    while ((c = getopt(argc, argv, "n:k:r:h")) >= 0) {
        switch (c) {
        case 'n':
            ranges = number(argv[0], optarg, MAX_RANGES);
            break;
        case 'k':
            changes = number(argv[0], optarg, MAX_RANGES);
            break;
        case 'r':
            repeats = number(argv[0], optarg, MAX_REPEATS);
            break;
        default:
            usage(argv[0]);
            return c == 'h' ? EXIT_SUCCESS : EXIT_FAILURE;
        }
    }
    if (ranges && changes > ranges) {
        fprintf(stderr, "%s: more changes than ranges\n", argv[0]);
        return EXIT_FAILURE;
    }

    printf("%7s %7s %9s %9s  %29s  %29s\n", "ranges", "changes", "lookups",
           "messages", "changes: median, least, most",
           "commit: median, least, most");
    for (n = ranges ?: 10; n <= (ranges ?: 100000); n *= 10) {
        Bench b;

        bench_init(&b, n);
        for (k = changes ?: 1; k <= MIN(n, changes ?: 1000); k *= 10) {
            measure(&b, k, repeats);
        }
        bench_end(&b);
    }
    return EXIT_SUCCESS;
}
