/*
 * vdpa-soft: files in which the kernel tells of what nodes do
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "memory.h"
#include "node.h"
#include "sysfile.h"

#define STATUS "/proc/self/status"
#define MAX_ENTRIES "/sys/module/vhost_vdpa/parameters/max_iotlb_entries"
#define PINNED "VmPin:"

/* With what the process pinned otherwise, such as by io_uring */
static bool write_status(FILE *to)
{
    const uint64_t pinned = vs_memory_charged() * (vs_page_size() / 1024);
    /* Not open(), which is the client's */
    FILE *from = fopen(STATUS, "re");
    char *line = NULL;
    size_t size = 0;

    if (!from) {
        return false;
    }
    while (getline(&line, &size, from) > 0) {
        if (strncmp(line, PINNED, strlen(PINNED)) == 0) {
            uint64_t more = g_ascii_strtoull(line + strlen(PINNED), NULL, 10);

            fprintf(to, PINNED "\t%8" PRIu64 " kB\n", pinned + more);
        } else {
            fputs(line, to);
        }
    }
    free(line);
    fclose(from);
    return true;
}

static bool write_max_entries(FILE *to)
{
    const unsigned entries = vs_nodes_max_entries();

    return entries && fprintf(to, "%u\n", entries) > 0;
}

int vs_sysfile_open(const char *path)
{
    bool (*write_file)(FILE *);
    char *text = NULL;
    int err = errno;
    size_t size;
    FILE *file;
    int fd = -1;

    if (!strcmp(path, STATUS)) {
        write_file = write_status;
    } else if (!strcmp(path, MAX_ENTRIES)) {
        write_file = write_max_entries;
    } else {
        return -1;
    }
    file = open_memstream(&text, &size);
    if (file) {
        bool written = write_file(file);

        if (fclose(file) == 0 && written) {
            fd = memfd_create("vdpa-sysfile", MFD_CLOEXEC);
        }
        if (fd >= 0 && pwrite(fd, text, size, 0) != (ssize_t)size) {
            close(fd);
            fd = -1;
        }
    }
    free(text);
    errno = err;
    return fd;
}
