/*
 * Take a device from its driver, give it back, and tell how long that took
 *
 * usage: reload DRIVER DEVICE COUNT
 *
 * DRIVER is its folder in sysfs. Prints a line for each time: nanoseconds
 * until the driver had let go of the device, and until it had it again.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ll

static long long now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * NS_PER_S + time.tv_nsec;
}

/* Nanoseconds until the driver has done it */
static long long tell(const char *driver, const char *file, const char *device)
{
    char path[PATH_MAX];
    long long start;
    int fd;

    snprintf(path, sizeof(path), "%s/%s", driver, file);
    fd = open(path, O_WRONLY);
    start = now();
    if (fd < 0 || write(fd, device, strlen(device)) < 0) {
        perror(path);
        exit(1);
    }
    start = now() - start;
    close(fd);
    return start;
}

int main(int argc, char **argv)
{
    int count;

    if (argc != 4 || sscanf(argv[3], "%d", &count) != 1) {
        fprintf(stderr, "usage: reload DRIVER DEVICE COUNT\n");
        return 2;
    }
    while (count-- > 0) {
        long long unbind = tell(argv[1], "unbind", argv[2]);

        printf("%lld %lld\n", unbind, tell(argv[1], "bind", argv[2]));
    }
    return 0;
}
