/*
 * Print the frequency of the processor's time stamp counter, in kHz
 *
 * An emulated machine has the same counter, but cannot measure its frequency
 * while others keep the processors busy.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdint.h>
#include <stdio.h>
#include <time.h>

#ifdef __x86_64__

#define SAMPLES 1000
#define NS_PER_MS 1000000
#define NS_PER_S 1000000000ll

typedef struct Sample {
    int64_t ns;
    uint64_t ticks;
} Sample;

static int64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * NS_PER_S + time.tv_nsec;
}

/* The counter and the clock at one time: the closest of many looks at both */
static Sample sample(void)
{
    int64_t closest = INT64_MAX;
    Sample best = { 0 };
    int i;

    for (i = 0; i < SAMPLES; i++) {
        int64_t before = now();
        uint64_t ticks = __builtin_ia32_rdtsc();
        int64_t took = now() - before;

        if (took < closest) {
            closest = took;
            best = (Sample) { before + took / 2, ticks };
        }
    }
    return best;
}

int main(void)
{
    struct timespec pause = { .tv_nsec = 50 * NS_PER_MS };
    Sample first, last;

    first = sample();
    nanosleep(&pause, NULL);
    last = sample();
    printf("%llu\n", (unsigned long long)
           ((last.ticks - first.ticks) * NS_PER_MS / (last.ns - first.ns)));
    return 0;
}

#else

/* The machine's counter is another one */
int main(void)
{
    return 0;
}

#endif
