/*
 * vdpa-soft: the control socket
 *
 * One thread accepts, and each client has a thread of its own, so that one
 * can wait for something while another makes it happen.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "json.h"
#include "node-int.h"
#include "transcript.h"

#define MAX_WORDS 8
/* a request that carries a frame in hexadecimal is the longest */
#define MAX_LINE  (1 << 18)
#define VERSION 1

static struct {
    pthread_mutex_t lock;
    int fd;
    char path[108];
    dev_t dev;              /* of the socket's name */
    ino_t ino;
} control = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .fd = -1,
};

/*
 * One request being answered.
 *
 * @word: the words of the request, without node=N; @count of them
 * @node: the one it is about
 * @reply: members of the JSON object, begun with "ok"
 * @error: why it failed; g_malloc'd
 */
typedef struct Request {
    char *word[MAX_WORDS];
    int count;
    VsNode *node;
    GString *reply;
    char *error;
} Request;

static void do_version(Request *r)
{
    vs_json_text(r->reply, "name", "vdpa-soft");
    vs_json_u64(r->reply, "version", VERSION);
    vs_json_u64(r->reply, "pid", getpid());
}

static void do_nodes(Request *r)
{
    unsigned i;

    vs_json_key(r->reply, "nodes");
    g_string_append_c(r->reply, '[');
    for (i = 0; i < vs_nodes_count(); i++) {
        g_string_append(r->reply, i ? ",{" : "{");
        vs_node_summary_json(vs_node_get(i), r->reply);
        g_string_append_c(r->reply, '}');
    }
    g_string_append_c(r->reply, ']');
}

static void do_transcript(Request *r)
{
    GString *entries = g_string_new(NULL);
    uint64_t since = 0;

    if (r->count == 2 &&
        (!g_str_has_prefix(r->word[1], "since=") ||
         !vs_parse_u64(r->word[1] + strlen("since="), false, &since))) {
        r->error = g_strdup_printf("'%s' is not since=NUMBER", r->word[1]);
    } else {
        vs_json_u64(r->reply, "next", vs_transcript_read(since, entries));
        vs_json_key(r->reply, "entries");
        g_string_append_printf(r->reply, "[%s]", entries->str);
    }
    g_string_free(entries, true);
}

static void do_clear(Request *r)
{
    unsigned i;

    vs_transcript_clear();
    for (i = 0; i < vs_nodes_count(); i++) {
        vs_node_clear(vs_node_get(i));
    }
}

static void do_stats(Request *r)
{
    vs_node_stats_json(r->node, r->reply);
}

static void do_mappings(Request *r)
{
    vs_node_mappings_json(r->node, r->reply);
}

static void do_faults(Request *r)
{
    vs_node_faults_json(r->node, r->reply);
}

static void do_captured(Request *r)
{
    vs_node_captured_json(r->node, r->reply);
}

/* Returns: 1, 0, or -1 having set the error */
static int choice(Request *r, const char *yes, const char *no)
{
    if (!strcmp(r->word[1], yes)) {
        return 1;
    }
    if (!strcmp(r->word[1], no)) {
        return 0;
    }
    r->error = g_strdup_printf("'%s' is neither %s nor %s", r->word[1], yes,
                               no);
    return -1;
}

static void do_link(Request *r)
{
    int up = choice(r, "up", "down");

    if (up >= 0) {
        vs_node_set_link(r->node, up, &r->error);
    }
}

static void do_capture(Request *r)
{
    int on = choice(r, "on", "off");

    if (on >= 0) {
        vs_node_set_capture(r->node, on);
    }
}

static void do_announce(Request *r)
{
    vs_node_announce(r->node, &r->error);
}

static void do_needs_reset(Request *r)
{
    vs_node_needs_reset(r->node, &r->error);
}

static void do_fail(Request *r)
{
    VsRule rule;

    if (r->count == 5 && strcmp(r->word[4], "always")) {
        r->error = g_strdup_printf("'%s' is not always", r->word[4]);
    } else if (vs_rule_parse(&rule, r->word[1], r->word[2], r->word[3],
                             r->count == 5, &r->error)) {
        vs_node_add_rule(r->node, &rule);
        g_free(rule.call);
    }
}

static void do_unfail(Request *r)
{
    vs_node_clear_rules(r->node);
}

/* Returns: false, having set the error, if @text is no such number */
static bool milliseconds(Request *r, const char *text, unsigned *ms)
{
    if (vs_parse_ms(text, ms)) {
        return true;
    }
    r->error = g_strdup_printf("'%s' is not a number of milliseconds up to "
                               "an hour", text);
    return false;
}

static void do_slow(Request *r)
{
    unsigned ms;

    if (!vs_call_is_valid(r->word[1])) {
        r->error = g_strdup_printf("'%s' is not a call", r->word[1]);
    } else if (milliseconds(r, r->word[2], &ms)) {
        vs_node_set_slow(r->node, r->word[1], ms);
    }
}

static void do_slow_pin(Request *r)
{
    unsigned ms;

    if (milliseconds(r, r->word[1], &ms)) {
        vs_node_set_slow_pin(r->node, ms);
    }
}

static void do_pause(Request *r)
{
    vs_node_set_paused(r->node, true);
}

static void do_unpause(Request *r)
{
    vs_node_set_paused(r->node, false);
}

static void do_inject(Request *r)
{
    size_t i, length = strlen(r->word[1]);
    g_autofree uint8_t *frame = g_malloc(length / 2 + 1);
    uint64_t vq;

    for (i = 0; i < length; i++) {
        int digit = g_ascii_xdigit_value(r->word[1][i]);

        if (digit < 0) {
            break;
        }
        frame[i / 2] = i % 2 ? frame[i / 2] << 4 | digit : digit;
    }
    if (i < length || length % 2 || length < 28) {
        r->error = g_strdup("the frame is not an even number of hexadecimal "
                            "digits, 28 at least");
    } else if (r->count == 2) {
        vs_node_inject(r->node, frame, length / 2, -1, &r->error);
    } else if (!g_str_has_prefix(r->word[2], "vq=") ||
               !vs_parse_u64(r->word[2] + 3, false, &vq) || vq > 65535) {
        r->error = g_strdup_printf("'%s' is not vq=NUMBER", r->word[2]);
    } else {
        vs_node_inject(r->node, frame, length / 2, vq, &r->error);
    }
}

/* Returns: 1 if it holds, 0 if not, -1 having set the error */
static int compare(Request *r, const VsValue *v, const char *op,
                   const char *text)
{
    uint64_t wanted;

    if (v->is_text) {
        if (strcmp(op, "==") && strcmp(op, "!=")) {
            r->error = g_strdup_printf("%s is not a number: it can be "
                                       "compared with == and != only",
                                       r->word[1]);
            return -1;
        }
        return !g_ascii_strcasecmp(v->text, text) == (op[0] == '=');
    }
    if (!strcmp(text, "true") || !strcmp(text, "false")) {
        wanted = text[0] == 't';
    } else if (!vs_parse_u64(text, false, &wanted)) {
        r->error = g_strdup_printf("'%s' is not a number", text);
        return -1;
    }
    if (!strcmp(op, "==")) {
        return v->number == wanted;
    } else if (!strcmp(op, "!=")) {
        return v->number != wanted;
    } else if (!strcmp(op, ">=")) {
        return v->number >= wanted;
    } else if (!strcmp(op, "<=")) {
        return v->number <= wanted;
    } else if (!strcmp(op, "&")) {
        return (v->number & wanted) != 0;
    } else if (!strcmp(op, "!&")) {
        return (v->number & wanted) == 0;
    }
    r->error = g_strdup_printf("'%s' is none of == != >= <= & !&", op);
    return -1;
}

static void value_text(const VsValue *v, char *text, size_t size)
{
    if (v->is_text) {
        snprintf(text, size, "\"%s\"", v->text);
    } else if (v->is_bool) {
        snprintf(text, size, "%s", v->number ? "true" : "false");
    } else {
        snprintf(text, size, "%llu", (unsigned long long)v->number);
    }
}

static void do_wait(Request *r)
{
    const char *key = r->word[1];
    int64_t deadline;
    uint64_t ms;
    VsValue v;
    char text[64];

    if (!vs_parse_u64(r->word[4], false, &ms) || ms > 86400000) {
        r->error = g_strdup_printf("'%s' is not a number of milliseconds up "
                                   "to a day", r->word[4]);
        return;
    }
    deadline = vs_clock_ns() + ms * 1000000LL;
    for (;;) {
        /* taken first: a change after it ends the wait at once */
        uint64_t seq = vs_node_wake_seq(r->node);
        int holds;

        if (!vs_node_value(r->node, key, &v)) {
            r->error = g_strdup_printf("there is no value '%s'", key);
            return;
        }
        holds = compare(r, &v, r->word[2], r->word[3]);
        if (holds < 0) {
            return;
        }
        value_text(&v, text, sizeof(text));
        if (holds) {
            vs_json_key(r->reply, "value");
            g_string_append(r->reply, text);
            return;
        }
        if (!vs_node_wait(r->node, seq, deadline)) {
            r->error = g_strdup_printf("timeout: %s is %s", key, text);
            return;
        }
    }
}

static void do_help(Request *r);

static const struct {
    const char *name;
    int min;            /* arguments */
    int max;
    void (*run)(Request *r);
    const char *usage;
} commands[] = {
    { "version", 0, 0, do_version, "version" },
    { "help", 0, 0, do_help, "help" },
    { "nodes", 0, 0, do_nodes, "nodes" },
    { "transcript", 0, 1, do_transcript, "transcript [since=SEQ]" },
    { "clear", 0, 0, do_clear, "clear" },
    { "stats", 0, 0, do_stats, "stats" },
    { "mappings", 0, 0, do_mappings, "mappings" },
    { "faults", 0, 0, do_faults, "faults" },
    { "link", 1, 1, do_link, "link up|down" },
    { "announce", 0, 0, do_announce, "announce" },
    { "needs-reset", 0, 0, do_needs_reset, "needs-reset" },
    { "fail", 3, 4, do_fail, "fail CALL OCCURRENCE ERRNO [always]" },
    { "unfail", 0, 0, do_unfail, "unfail" },
    { "slow", 2, 2, do_slow, "slow CALL MS" },
    { "slow-pin", 1, 1, do_slow_pin, "slow-pin MS" },
    { "pause", 0, 0, do_pause, "pause" },
    { "unpause", 0, 0, do_unpause, "unpause" },
    { "inject", 1, 2, do_inject, "inject HEX [vq=N]" },
    { "capture", 1, 1, do_capture, "capture on|off" },
    { "captured", 0, 0, do_captured, "captured" },
    { "wait", 4, 4, do_wait, "wait KEY OP VALUE TIMEOUT_MS" },
};

static void do_help(Request *r)
{
    size_t i;

    vs_json_key(r->reply, "requests");
    g_string_append_c(r->reply, '[');
    for (i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (i) {
            g_string_append_c(r->reply, ',');
        }
        vs_json_string(r->reply, commands[i].usage);
    }
    g_string_append_c(r->reply, ']');
}

static void run(Request *r)
{
    size_t i;

    if (r->count == 0) {
        r->error = g_strdup("empty request; 'help' lists them");
        return;
    }
    for (i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (strcmp(commands[i].name, r->word[0])) {
            continue;
        }
        if (r->count - 1 < commands[i].min ||
            r->count - 1 > commands[i].max) {
            r->error = g_strdup_printf("usage: %s [node=N]",
                                       commands[i].usage);
            return;
        }
        commands[i].run(r);
        return;
    }
    r->error = g_strdup_printf("there is no request '%s'; 'help' lists them",
                               r->word[0]);
}

/* Split the line and take node=N out of it. */
static bool parse(Request *r, char *line)
{
    char *save = NULL, *word;
    uint64_t index;

    r->node = vs_node_get(0);
    for (word = strtok_r(line, " \t\r\n", &save); word;
         word = strtok_r(NULL, " \t\r\n", &save)) {
        if (g_str_has_prefix(word, "node=")) {
            if (!vs_parse_u64(word + 5, false, &index) ||
                index >= vs_nodes_count()) {
                r->error = g_strdup_printf("there is no node %s; there are "
                                           "%u, from 0", word + 5,
                                           vs_nodes_count());
                return false;
            }
            r->node = vs_node_get(index);
        } else if (r->count == MAX_WORDS) {
            r->error = g_strdup("too many words");
            return false;
        } else {
            r->word[r->count++] = word;
        }
    }
    return true;
}

static char *answer(char *line)
{
    Request r = { .reply = g_string_new("{\"ok\":true") };

    if (parse(&r, line)) {
        run(&r);
    }
    if (r.error) {
        g_string_assign(r.reply, "{\"ok\":false");
        vs_json_text(r.reply, "error", r.error);
        g_free(r.error);
    }
    g_string_append(r.reply, "}\n");
    return g_string_free(r.reply, false);
}

static bool send_all(int fd, const char *text)
{
    size_t size = strlen(text);

    while (size) {
        ssize_t done = send(fd, text, size, MSG_NOSIGNAL);

        if (done < 0) {
            if (errno == EINTR) {
                continue;
            }
            return false;
        }
        text += done;
        size -= done;
    }
    return true;
}

static void *client_thread(void *opaque)
{
    int fd = (intptr_t)opaque;
    GString *in = g_string_new(NULL);
    char buf[4096], *end;
    bool ok = true;
    ssize_t got;

    while (ok) {
        got = recv(fd, buf, sizeof(buf), 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            break;
        }
        g_string_append_len(in, buf, got);
        while (ok && (end = memchr(in->str, '\n', in->len))) {
            char *reply;

            *end = 0;
            reply = answer(in->str);
            g_string_erase(in, 0, end + 1 - in->str);
            ok = send_all(fd, reply);
            g_free(reply);
        }
        if (ok && in->len > MAX_LINE) {
            send_all(fd, "{\"ok\":false,\"error\":\"line too long\"}\n");
            ok = false;
        }
    }
    g_string_free(in, true);
    close(fd);
    return NULL;
}

static void *accept_thread(void *opaque)
{
    int listener = (intptr_t)opaque;

    for (;;) {
        int fd = vs_fd_high(accept4(listener, NULL, NULL, SOCK_CLOEXEC));

        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED) {
                continue;
            }
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
                /* until the program closes something; nobody tells us */
                struct timespec nap = { .tv_nsec = 10000000 };

                nanosleep(&nap, NULL);
                continue;
            }
            return NULL;
        }
        if (vs_thread_start("vdpa-soft-ctl", client_thread,
                            (void *)(intptr_t)fd) < 0) {
            close(fd);
        }
    }
}

/* Returns: a listening socket that has taken @path over, or -1 */
static int listen_at(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct stat st;
    int fd, err;

    /*
     * Made under another name and moved: there is no moment at which a
     * client finds nothing, and an older process's socket is replaced.
     */
    if ((size_t)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s.%d", path,
                         (int)getpid()) >= sizeof(addr.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    fd = vs_fd_high(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (fd < 0) {
        return -1;
    }
    unlink(addr.sun_path);
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        goto fail;
    }
    if (listen(fd, 16) < 0 || rename(addr.sun_path, path) < 0 ||
        stat(path, &st) < 0) {
        err = errno;
        unlink(addr.sun_path);
        errno = err;
        goto fail;
    }
    control.dev = st.st_dev;
    control.ino = st.st_ino;
    return fd;

fail:
    err = errno;
    close(fd);
    errno = err;
    return -1;
}

void vs_control_start(void)
{
    const char *path = getenv(VS_ENV_CONTROL);
    int fd;

    if (!path) {
        return;
    }
    pthread_mutex_lock(&control.lock);
    if (control.fd < 0) {
        fd = listen_at(path);
        if (fd < 0 || vs_thread_start("vdpa-soft-ctl", accept_thread,
                                      (void *)(intptr_t)fd) < 0) {
            fprintf(stderr, "vdpa-soft: cannot serve the control socket %s: "
                    "%s; is its directory writable?\n", path,
                    strerror(errno));
            if (fd >= 0) {
                close(fd);
            }
        } else {
            control.fd = fd;
            g_strlcpy(control.path, path, sizeof(control.path));
        }
    }
    pthread_mutex_unlock(&control.lock);
}

void vs_control_exit(void)
{
    struct stat st;

    /* unless another process has taken it over */
    if (control.fd >= 0 && stat(control.path, &st) == 0 &&
        st.st_dev == control.dev && st.st_ino == control.ino) {
        unlink(control.path);
    }
}

void vs_control_fork(void)
{
    pthread_mutex_init(&control.lock, NULL);
    if (control.fd >= 0) {
        close(control.fd);
        control.fd = -1;
    }
}
