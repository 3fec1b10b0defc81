/*
 * Run QEMU with a software vDPA device, and look at both from outside
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include <glib-unix.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "qapi/error.h"
#include "qobject/qbool.h"
#include "qobject/qjson.h"
#include "qobject/qnum.h"
#include "qobject/qstring.h"
#include "libvdpa-soft.h"

void vdpa_soft_fail(const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_printerr("Bail out! %s\n", text);
    /* Not g_error(): libqtest ends QEMU when it sees SIGABRT */
    abort();
}

static const char *launcher(void)
{
    return g_getenv("QTEST_VDPA_SOFT_BINARY") ?:
           "./contrib/vdpa-soft/vdpa-soft";
}

static struct sockaddr_un socket_address(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    g_assert_cmpuint(strlen(path), <, sizeof(addr.sun_path));
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    return addr;
}

/* The other end of the wire; frames wait there to be read, in vain */
static int open_wire(const char *path)
{
    struct sockaddr_un addr = socket_address(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(fd, 128), ==, 0);
    return fd;
}

VdpaSoft *vdpa_soft_new(void)
{
    VdpaSoft *s = g_new0(VdpaSoft, 1);
    g_autoptr(GError) err = NULL;

    s->dir = g_dir_make_tmp("vhost-vdpa-test-XXXXXX", &err);
    g_assert_no_error(err);
    s->control = g_strdup_printf("%s/control", s->dir);
    s->transcript = g_strdup_printf("%s/transcript", s->dir);
    s->errors = g_strdup_printf("%s/errors", s->dir);
    s->wire = g_strdup_printf("%s/wire", s->dir);
    s->wire_fd = open_wire(s->wire);
    s->fd = -1;
    s->rx = g_string_new(NULL);
    return s;
}

void vdpa_soft_free(VdpaSoft *s)
{
    if (!s) {
        return;
    }
    if (s->fd >= 0) {
        close(s->fd);
    }
    close(s->wire_fd);
    g_unlink(s->control);
    g_unlink(s->transcript);
    g_unlink(s->errors);
    g_unlink(s->wire);
    g_rmdir(s->dir);
    g_string_free(s->rx, true);
    g_free(s->control);
    g_free(s->transcript);
    g_free(s->errors);
    g_free(s->wire);
    g_free(s->dir);
    g_free(s);
}

char *vdpa_soft_command(VdpaSoft *s, const char *options, const char *qemu)
{
    return g_strdup_printf("%s run --control %s --transcript %s "
                           "--wire unix:%s %s -- %s",
                           launcher(), s->control, s->transcript, s->wire,
                           options, qemu);
}

/* Wait until all of a child's error output is there, that is, it ended */
static void read_to_end(int fd, GPid pid, const char *path)
{
    int64_t end = g_get_monotonic_time() + VDPA_SOFT_DEADLINE_MS * 1000;
    g_autoptr(GString) text = g_string_new(NULL);

    for (;;) {
        struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
        int64_t left = (end - g_get_monotonic_time()) / 1000;
        char buf[4096];
        ssize_t len;

        if (left <= 0 || RETRY_ON_EINTR(poll(&poll_fd, 1, left)) == 0) {
            kill(pid, SIGKILL);
            vdpa_soft_fail("QEMU did not end; its errors: %s", text->str);
        }
        len = RETRY_ON_EINTR(read(fd, buf, sizeof(buf)));
        g_assert_cmpint(len, >=, 0);
        if (len == 0) {
            break;
        }
        g_string_append_len(text, buf, len);
    }
    g_assert_true(g_file_set_contents(path, text->str, text->len, NULL));
}

int vdpa_soft_run(VdpaSoft *s, const char *before, const char *options,
                  const char *args)
{
    static const char quit[] = "{'execute': 'qmp_capabilities'}\n"
                               "{'execute': 'quit'}\n";
    const char *qemu = g_getenv("QTEST_QEMU_BINARY");
    g_autofree char *command = vdpa_soft_command(s, options, qemu);
    g_autofree char *line =
        g_strdup_printf("%s exec %s -accel qtest -display none -qmp stdio %s",
                        before, command, args);
    char *argv[] = { (char *)"/bin/sh", (char *)"-c", line, NULL };
    g_autoptr(GError) err = NULL;
    int in[2], errors[2], null, status;
    GPid pid;

    g_test_message("%s", line);
    /*
     * The requests are there before QEMU is, and do not end, lest the monitor
     * forget them before it gets to them.
     */
    g_assert_true(g_unix_open_pipe(in, FD_CLOEXEC, NULL));
    g_assert_true(g_unix_open_pipe(errors, FD_CLOEXEC, NULL));
    g_assert_cmpint(write(in[1], quit, strlen(quit)), ==, strlen(quit));
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    g_spawn_async_with_fds(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL,
                           NULL, &pid, in[0], null, errors[1], &err);
    g_assert_no_error(err);
    close(errors[1]);
    read_to_end(errors[0], pid, s->errors);
    close(errors[0]);
    close(in[0]);
    close(in[1]);
    close(null);
    g_assert_cmpint(RETRY_ON_EINTR(waitpid(pid, &status, 0)), ==, pid);
    g_spawn_close_pid(pid);
    if (!WIFEXITED(status)) {
        g_auto(GStrv) lines = vdpa_soft_error_lines(s);
        g_autofree char *text = g_strjoinv("\n", lines);

        vdpa_soft_fail("QEMU was killed by signal %d; its errors: %s",
                       WTERMSIG(status), text);
    }
    return WEXITSTATUS(status);
}

void vdpa_soft_connect(VdpaSoft *s)
{
    struct sockaddr_un addr = socket_address(s->control);
    struct timeval timeout = { .tv_sec = VDPA_SOFT_DEADLINE_MS / 1000 + 10 };

    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(s->fd, >=, 0);
    g_assert_cmpint(setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout,
                               sizeof(timeout)), ==, 0);
    if (connect(s->fd, (struct sockaddr *)&addr, sizeof(addr))) {
        vdpa_soft_fail("cannot connect to the software vDPA device at %s: %s",
                       s->control, g_strerror(errno));
    }
}

static QDict *receive(VdpaSoft *s)
{
    QDict *reply;
    char *eol;

    while (!(eol = memchr(s->rx->str, '\n', s->rx->len))) {
        char buf[65536];
        ssize_t len = RETRY_ON_EINTR(recv(s->fd, buf, sizeof(buf), 0));

        if (len <= 0) {
            vdpa_soft_fail("the software vDPA device does not answer: %s",
                           len ? g_strerror(errno) : "QEMU is gone");
        }
        g_string_append_len(s->rx, buf, len);
    }
    *eol = 0;
    reply = qobject_to(QDict, qobject_from_json(s->rx->str, &error_abort));
    g_assert_nonnull(reply);
    g_string_erase(s->rx, 0, eol + 1 - s->rx->str);
    return reply;
}

static QDict *request(VdpaSoft *s, const char *line)
{
    g_autofree char *text = g_strdup_printf("%s\n", line);
    size_t done = 0, size = strlen(text);

    while (done < size) {
        ssize_t len = RETRY_ON_EINTR(send(s->fd, text + done, size - done,
                                          MSG_NOSIGNAL));

        if (len < 0) {
            vdpa_soft_fail("cannot send '%s' to the software vDPA device: %s",
                           line, g_strerror(errno));
        }
        done += len;
    }
    return receive(s);
}

static QDict *G_GNUC_PRINTF(2, 0) vrequest(VdpaSoft *s, const char *fmt,
                                           va_list ap)
{
    g_autofree char *line = g_strdup_vprintf(fmt, ap);
    QDict *reply = request(s, line);

    if (!qdict_get_bool(reply, "ok")) {
        vdpa_soft_fail("the software vDPA device refuses '%s': %s", line,
                       qdict_get_str(reply, "error"));
    }
    return reply;
}

QDict *vdpa_soft_request(VdpaSoft *s, const char *fmt, ...)
{
    QDict *reply;
    va_list ap;

    va_start(ap, fmt);
    reply = vrequest(s, fmt, ap);
    va_end(ap);
    return reply;
}

void vdpa_soft_do(VdpaSoft *s, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    qobject_unref(vrequest(s, fmt, ap));
    va_end(ap);
}

/* Numbers of 64 bits, of which many are signed ones for QNum */
static uint64_t number(QObject *value)
{
    QNum *num = qobject_to(QNum, value);
    uint64_t u;
    int64_t i;

    g_assert_nonnull(num);
    if (qnum_get_try_uint(num, &u)) {
        return u;
    }
    g_assert_true(qnum_get_try_int(num, &i));
    return i;
}

static void show_argument(const char *key, QObject *value, GString *out)
{
    switch (qobject_type(value)) {
    case QTYPE_QBOOL:
        g_string_append_printf(out, " %s=%s", key,
                               qbool_get_bool(qobject_to(QBool, value)) ?
                               "yes" : "no");
        return;
    case QTYPE_QSTRING:
        g_string_append_printf(out, " %s=%s", key,
                               qstring_get_str(qobject_to(QString, value)));
        return;
    case QTYPE_QNUM:
        break;
    default:
        g_assert_not_reached();
    }
    if (!strcmp(key, "features") || !strcmp(key, "status") ||
        !strcmp(key, "desc") || !strcmp(key, "avail") ||
        !strcmp(key, "used") || !strcmp(key, "iova") ||
        !strcmp(key, "size") || !strcmp(key, "first") ||
        !strcmp(key, "last")) {
        g_string_append_printf(out, " %s=0x%" PRIx64, key, number(value));
    } else {
        g_string_append_printf(out, " %s=%" PRIu64, key, number(value));
    }
}

/* Host addresses are of no interest: they are different in each run */
static char *show_call(QDict *entry)
{
    static const char *const keys[] = {
        "group", "asid", "index", "num", "flags", "desc", "avail", "used",
        "id", "features", "status", "bound", "off", "len", "first", "last",
        "iova", "size", "perm", "offset",
    };
    GString *out = g_string_new(qdict_get_str(entry, "call"));
    QDict *args = qdict_get_qdict(entry, "args");
    int i, err = number(qdict_get(entry, "errno"));

    for (i = 0; i < ARRAY_SIZE(keys); i++) {
        QObject *value = args ? qdict_get(args, keys[i]) : NULL;

        if (value) {
            show_argument(keys[i], value, out);
        }
    }
    if (err) {
        g_string_append_printf(out, " -> %d", err);
    }
    return g_string_free(out, false);
}

static void add_call(GPtrArray *calls, QDict *entry, bool collapse)
{
    const char *name = qdict_get_str(entry, "call");
    const char *last = calls->len ? calls->pdata[calls->len - 1] : "";
    bool failed = number(qdict_get(entry, "errno"));

    if (!collapse || failed || (strcmp(name, "IOTLB_UPDATE") &&
                                strcmp(name, "IOTLB_INVALIDATE"))) {
        g_ptr_array_add(calls, show_call(entry));
    } else if (strcmp(name, last)) {
        g_ptr_array_add(calls, g_strdup(name));
    }
}

static GPtrArray *new_calls(VdpaSoft *s, bool collapse)
{
    GPtrArray *calls = g_ptr_array_new_with_free_func(g_free);
    QDict *reply = vdpa_soft_request(s, "transcript since=%" PRIu64, s->seq);
    const QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(reply, "entries"), e) {
        add_call(calls, qobject_to(QDict, qlist_entry_obj(e)), collapse);
    }
    s->seq = number(qdict_get(reply, "next"));
    qobject_unref(reply);
    return calls;
}

GPtrArray *vdpa_soft_calls(VdpaSoft *s)
{
    return new_calls(s, true);
}

GPtrArray *vdpa_soft_messages(VdpaSoft *s)
{
    return new_calls(s, false);
}

void vdpa_soft_skip(VdpaSoft *s)
{
    g_ptr_array_unref(new_calls(s, true));
}

static GPtrArray *file_calls(VdpaSoft *s, bool collapse)
{
    GPtrArray *calls = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    int i;

    if (!g_file_get_contents(s->transcript, &text, NULL, NULL)) {
        return calls;
    }
    lines = g_strsplit(text, "\n", -1);
    for (i = 0; lines[i] && lines[i][0]; i++) {
        QDict *entry = qobject_to(QDict, qobject_from_json(lines[i],
                                                           &error_abort));

        add_call(calls, entry, collapse);
        qobject_unref(entry);
    }
    return calls;
}

GPtrArray *vdpa_soft_file_calls(VdpaSoft *s)
{
    return file_calls(s, true);
}

GPtrArray *vdpa_soft_file_messages(VdpaSoft *s)
{
    return file_calls(s, false);
}

void vdpa_soft_wait(VdpaSoft *s, const char *condition)
{
    g_autofree char *line = g_strdup_printf("wait %s %d", condition,
                                            VDPA_SOFT_DEADLINE_MS);
    QDict *reply = request(s, line);

    if (!qdict_get_bool(reply, "ok")) {
        g_autoptr(GPtrArray) calls = NULL;
        int i;

        s->seq = 0;
        calls = vdpa_soft_calls(s);
        for (i = MAX(0, (int)calls->len - 60); i < calls->len; i++) {
            g_printerr("# %s\n", (char *)calls->pdata[i]);
        }
        vdpa_soft_fail("waited in vain for '%s': %s", condition,
                       qdict_get_str(reply, "error"));
    }
    qobject_unref(reply);
}

/* What "key" of the "wait" request means in the answer to "stats" */
static QObject *find_value(QDict *stats, const char *key)
{
    g_auto(GStrv) parts = g_strsplit(key, ".", 3);

    if (!strcmp(parts[0], "vq")) {
        const QListEntry *e;

        QLIST_FOREACH_ENTRY(qdict_get_qlist(stats, "vqs"), e) {
            QDict *vq = qobject_to(QDict, qlist_entry_obj(e));

            if (qdict_get_int(vq, "index") == atoi(parts[1])) {
                return qdict_get(vq, parts[2]);
            }
        }
        g_assert_not_reached();
    }
    return qdict_get(stats, key);
}

uint64_t vdpa_soft_number(VdpaSoft *s, const char *key)
{
    QDict *stats = vdpa_soft_request(s, "stats");
    QObject *value = find_value(stats, key);
    uint64_t result;

    g_assert_nonnull(value);
    result = qobject_type(value) == QTYPE_QBOOL ?
             qbool_get_bool(qobject_to(QBool, value)) : number(value);
    qobject_unref(stats);
    return result;
}

char *vdpa_soft_text(VdpaSoft *s, const char *key)
{
    QDict *stats = vdpa_soft_request(s, "stats");
    char *text = g_strdup(qdict_get_str(stats, key));

    qobject_unref(stats);
    return text;
}

char **vdpa_soft_error_lines(VdpaSoft *s)
{
    g_autofree char *text = NULL;

    /* The shell that started QEMU has made it */
    g_assert_true(g_file_get_contents(s->errors, &text, NULL, NULL));
    g_strchomp(text);
    return text[0] ? g_strsplit(text, "\n", -1) : g_new0(char *, 1);
}

static bool same_call(GPtrArray *calls, guint i, GPtrArray *expected, guint j)
{
    return i < calls->len && j < expected->len &&
           !strcmp(calls->pdata[i], expected->pdata[j]);
}

/* Longest common subsequence: what is left is what differs */
static void print_difference(GPtrArray *calls, GPtrArray *expected)
{
    guint n = calls->len, m = expected->len, width = m + 1, i, j;
    /* [i * width + j]: what is common behind @i of one and @j of the other */
    g_autofree unsigned *common = g_new0(unsigned, (n + 1) * width);

    for (i = n; i-- > 0;) {
        for (j = m; j-- > 0;) {
            common[i * width + j] =
                same_call(calls, i, expected, j) ?
                common[(i + 1) * width + j + 1] + 1 :
                MAX(common[(i + 1) * width + j], common[i * width + j + 1]);
        }
    }
    for (i = 0, j = 0; i < n || j < m;) {
        if (same_call(calls, i, expected, j)) {
            g_printerr("#   %s\n", (char *)calls->pdata[i++]);
            j++;
        } else if (j == m ||
                   (i < n && common[(i + 1) * width + j] >=
                    common[i * width + j + 1])) {
            g_printerr("# + %s\n", (char *)calls->pdata[i++]);
        } else {
            g_printerr("# - %s\n", (char *)expected->pdata[j++]);
        }
    }
}

void vdpa_soft_assert_calls(const char *what, GPtrArray *calls,
                            GPtrArray *expected)
{
    bool same = calls->len == expected->len;
    guint i;

    for (i = 0; same && i < calls->len; i++) {
        same = !strcmp(calls->pdata[i], expected->pdata[i]);
    }
    if (!same) {
        g_printerr("# calls of %s (+ unexpected, - missing):\n", what);
        print_difference(calls, expected);
        vdpa_soft_fail("%s: the device was not told what it should be", what);
    }
}
