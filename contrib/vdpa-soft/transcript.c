/*
 * vdpa-soft: the record of every call
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "json.h"
#include "transcript.h"

/* Entries are kept as text: they are written once and read as they are. */
static struct {
    pthread_mutex_t lock;
    GQueue entries;
    uint64_t next;          /* sequence number of the next entry */
    int fd;
    char *path;
} transcript = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .entries = G_QUEUE_INIT,
    .next = 1,
    .fd = -1,
};

int vs_transcript_open(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    int high;

    if (fd < 0) {
        return -errno;
    }
    /* the program's own descriptors get the numbers they would have got */
    high = fcntl(fd, F_DUPFD_CLOEXEC, 512);
    if (high >= 0) {
        close(fd);
        fd = high;
    }
    transcript.fd = fd;
    transcript.path = g_strdup(path);
    return 0;
}

static void write_line(const char *text, size_t size)
{
    while (size) {
        ssize_t done = write(transcript.fd, text, size);

        if (done < 0) {
            if (errno == EINTR) {
                continue;
            }
            fprintf(stderr, "vdpa-soft: --transcript %s: cannot write: %s; "
                    "it ends here, and is incomplete\n", transcript.path,
                    g_strerror(errno));
            close(transcript.fd);
            transcript.fd = -1;
            return;
        }
        text += done;
        size -= done;
    }
}

void vs_transcript_add(unsigned node, const char *call, const char *args,
                       int64_t ret, int err, const char *why)
{
    GString *s = g_string_sized_new(160);

    pthread_mutex_lock(&transcript.lock);
    g_string_append_c(s, '{');
    vs_json_u64(s, "seq", transcript.next++);
    vs_json_u64(s, "node", node);
    vs_json_text(s, "call", call);
    g_string_append_printf(s, ",\"args\":%s,\"ret\":%" G_GINT64_FORMAT
                           ",\"errno\":%d", args, (gint64)ret, err);
    if (why) {
        vs_json_text(s, "why", why);
    }
    g_string_append(s, "}\n");
    if (transcript.fd >= 0) {
        /* one write, so that lines of several processes do not mix */
        write_line(s->str, s->len);
    }
    g_string_truncate(s, s->len - 1);
    g_queue_push_tail(&transcript.entries, g_string_free(s, false));
    if (transcript.entries.length > VS_TRANSCRIPT_MAX) {
        g_free(g_queue_pop_head(&transcript.entries));
    }
    pthread_mutex_unlock(&transcript.lock);
}

uint64_t vs_transcript_read(uint64_t since, GString *out)
{
    uint64_t last, wanted;
    bool comma = false;
    GList *l = NULL;

    pthread_mutex_lock(&transcript.lock);
    last = transcript.next - 1;
    wanted = since < last ? last - since : 0;
    wanted = MIN(wanted, transcript.entries.length);
    if (wanted) {
        l = g_queue_peek_nth_link(&transcript.entries,
                                  transcript.entries.length - wanted);
    }
    for (; l; l = l->next) {
        if (comma) {
            g_string_append_c(out, ',');
        }
        g_string_append(out, l->data);
        comma = true;
    }
    pthread_mutex_unlock(&transcript.lock);
    return last;
}

void vs_transcript_clear(void)
{
    pthread_mutex_lock(&transcript.lock);
    g_queue_clear_full(&transcript.entries, g_free);
    pthread_mutex_unlock(&transcript.lock);
}

void vs_transcript_fork(void)
{
    pthread_mutex_init(&transcript.lock, NULL);
    g_queue_init(&transcript.entries);
    transcript.next = 1;
}
