/*
 * vdpa-soft: run a program that finds software vDPA devices
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "config.h"

#define EXIT_USAGE 2

/*
 * One node being described: the options that are handed on, in the order
 * they were given but for --like, which the others modify.
 */
typedef struct NodeArgs {
    char *like;
    GString *options;       /* key=value lines */
} NodeArgs;

static const char usage[] =
"usage: vdpa-soft run [OPTION...] [--node [OPTION...]]... -- COMMAND [ARG...]\n"
"       vdpa-soft ctl SOCKET REQUEST...\n"
"\n"
"run: start COMMAND, which finds software vDPA devices at /dev/vhost-vdpa-N.\n"
"ctl: send a request to a control socket and print the reply.\n"
"\n"
"For all nodes:\n"
"  --control PATH        serve the control socket there\n"
"  --transcript FILE     append every call to FILE, as JSON lines\n"
"  --fail CALL:N:ERRNO[:always]\n"
"                        fail the Nth CALL of each node (and all later ones)\n"
"  --lib PATH            the library; default: beside this program\n"
"\n"
"For one node (--node begins another):\n"
"  --like KIND           soft (default), sim, vduse, vp_vdpa or mlx5\n"
"  --queues N            pairs of data queues\n"
"  --mac M, --mtu N      of the network device\n"
"  --wire W              loopback, unix:PATH, unix-listen:PATH or\n"
"                        user[,OPTION=VALUE...]\n"
"  --path PATH           where the node is, instead of /dev/vhost-vdpa-N\n"
"  --fd N                give COMMAND the open descriptor N of this node\n"
"  --map va|pa|any, --set-map, --dma-map, --chunk BYTES, --as-num N,\n"
"  --iova-range FIRST-LAST, --passthrough on|off,\n"
"  --memlock BYTES|unlimited, --max-entries N\n"
"                        how memory is mapped\n"
"  --persist, --suspend, --resume, --vq-size, --groups, --desc-group,\n"
"  --doorbell, --enable-after-driver-ok on|off\n"
"                        what the driver can do\n"
"  --features HEX, --add-feature BIT, --no-feature BIT,\n"
"  --backend-features HEX, --device-id N, --vqs N, --vq-num N,\n"
"  --config-size N, --max-pairs N\n"
"                        what the device says of itself\n"
"  --busy, --refuse-status BITS, --fail-driver-ok, --base-unsupported,\n"
"  --slow CALL=MS, --slow-pin MS\n"
"                        how it misbehaves\n";

static void G_GNUC_PRINTF(1, 2) G_GNUC_NORETURN die(const char *format, ...)
{
    va_list ap;

    fputs("vdpa-soft: ", stderr);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(EXIT_USAGE);
}

/* COMMAND may change its directory before it looks. */
static char *absolute(const char *path)
{
    return g_canonicalize_filename(path, NULL);
}

static char *absolute_wire(const char *wire)
{
    static const char *const prefix[] = { "unix:", "unix-listen:" };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(prefix); i++) {
        if (g_str_has_prefix(wire, prefix[i]) && wire[strlen(prefix[i])]) {
            g_autofree char *path = absolute(wire + strlen(prefix[i]));

            return g_strconcat(prefix[i], path, NULL);
        }
    }
    return g_strdup(wire);
}

static NodeArgs *add_node(GPtrArray *nodes)
{
    NodeArgs *node = g_new0(NodeArgs, 1);

    if (nodes->len == VS_MAX_NODES) {
        die("too many nodes: there can be %d", VS_MAX_NODES);
    }
    node->options = g_string_new(NULL);
    g_ptr_array_add(nodes, node);
    return node;
}

/* Check a node the way the library will see it. */
static VsNodeConfig *check_node(const NodeArgs *node, unsigned index)
{
    VsNodeConfig *config = vs_node_config_new(index);
    g_auto(GStrv) line = g_strsplit(node->options->str, "\n", -1);
    char *error = NULL;
    unsigned i;

    if (node->like &&
        !vs_node_config_set(config, "like", node->like, &error)) {
        die("node %u: %s", index, error);
    }
    for (i = 0; line[i]; i++) {
        char *eq = strchr(line[i], '=');

        if (eq) {
            *eq = 0;
            if (!vs_node_config_set(config, line[i], eq + 1, &error)) {
                die("node %u: %s", index, error);
            }
        }
    }
    if (!vs_node_config_finish(config, &error)) {
        die("node %u: %s", index, error);
    }
#ifndef VDPA_SOFT_SLIRP
    if (g_str_has_prefix(config->wire, "user")) {
        die("node %u: --wire user is not there: this vdpa-soft was built "
            "without libslirp", index);
    }
#endif
    return config;
}

/*
 * The pair of sockets that is an open node: the client's end gets the number
 * that was asked for, ours one that programs do not reach.
 */
static void give_fd(VsNodeConfig *config, unsigned index)
{
    g_autofree char *name = g_strdup_printf(VS_ENV_FD, index);
    g_autofree char *value = NULL;
    struct stat client, server;
    int sv[2], far;

    if (fcntl(config->fd, F_GETFD) >= 0) {
        die("node %u: --fd %d: that descriptor is already open; choose "
            "another number", index, config->fd);
    }
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, sv) < 0) {
        die("node %u: --fd %d: cannot make it: %s", index, config->fd,
            strerror(errno));
    }
    far = fcntl(sv[1], F_DUPFD, 600);
    if (far < 0) {
        far = fcntl(sv[1], F_DUPFD, 3);
    }
    if (far < 0 || far == config->fd || fstat(sv[0], &client) < 0 ||
        fstat(far, &server) < 0) {
        die("node %u: --fd %d: cannot place it: %s; is the limit of open "
            "files (ulimit -n) too low?", index, config->fd,
            strerror(errno));
    }
    close(sv[1]);
    if (sv[0] != config->fd) {
        if (dup2(sv[0], config->fd) < 0) {
            die("node %u: --fd %d: cannot place it: %s; is the limit of "
                "open files (ulimit -n) too low?", index, config->fd,
                strerror(errno));
        }
        close(sv[0]);
    }
    value = g_strdup_printf("%llu,%d,%llu",
                            (unsigned long long)client.st_ino, far,
                            (unsigned long long)server.st_ino);
    setenv(name, value, 1);
}

static void export_nodes(GPtrArray *nodes, const GString *fails)
{
    g_autofree char *count = g_strdup_printf("%u", nodes->len);
    VsNodeConfig *config[VS_MAX_NODES];
    unsigned i, j;

    for (i = 0; i < nodes->len; i++) {
        NodeArgs *node = nodes->pdata[i];

        g_string_append(node->options, fails->str);
        config[i] = check_node(node, i);
        for (j = 0; j < i; j++) {
            if (!strcmp(config[i]->path, config[j]->path)) {
                die("nodes %u and %u have the same path, %s; give one "
                    "another with --path", j, i, config[i]->path);
            }
            if (config[i]->fd >= 0 && config[i]->fd == config[j]->fd) {
                die("nodes %u and %u have the same --fd %d", j, i,
                    config[i]->fd);
            }
        }
    }
    for (i = 0; i < nodes->len; i++) {
        const NodeArgs *node = nodes->pdata[i];
        g_autofree char *name = g_strdup_printf(VS_ENV_NODE, i);
        g_autofree char *text = g_strdup_printf("like=%s\n%s",
                                                node->like ?: "soft",
                                                node->options->str);

        setenv(name, text, 1);
        if (config[i]->fd >= 0) {
            give_fd(config[i], i);
        }
        vs_node_config_free(config[i]);
    }
    setenv(VS_ENV_NODES, count, 1);
}

static void export_session(void)
{
    g_autofree char *pid = g_strdup_printf("%d", (int)getpid());
    g_autofree char *session = NULL;
    uint64_t random = 0;

    /* the pid alone would do, were it not the same in every container */
    if (getrandom(&random, sizeof(random), 0) < 0) {
        random = g_get_real_time();
    }
    session = g_strdup_printf("%d-%llx", (int)getpid(),
                              (unsigned long long)random);
    setenv(VS_ENV_PID, pid, 1);
    setenv(VS_ENV_SESSION, session, 1);
}

static void export_control(const char *control)
{
    g_autofree char *path = absolute(control);
    g_autofree char *dir = g_path_get_dirname(path);
    struct stat st;

    /* room for what is added while the socket is made */
    if (strlen(path) > 96) {
        die("--control %s: the path is too long for a socket: %zu bytes, 96 "
            "are allowed", path, strlen(path));
    }
    if (access(dir, W_OK) < 0) {
        die("--control %s: cannot make a socket in %s: %s", path, dir,
            strerror(errno));
    }
    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
        die("--control %s: it exists and is not a socket", path);
    }
    setenv(VS_ENV_CONTROL, path, 1);
}

static void export_transcript(const char *transcript)
{
    g_autofree char *path = absolute(transcript);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);

    if (fd < 0) {
        die("--transcript %s: cannot append to it: %s", path,
            strerror(errno));
    }
    close(fd);
    setenv(VS_ENV_TRANSCRIPT, path, 1);
}

static void export_lib(const char *lib)
{
    g_autofree char *path = NULL;
    g_autofree char *preload = NULL;
    const char *old = getenv("LD_PRELOAD");

    if (lib) {
        path = absolute(lib);
    } else {
        g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
        g_autofree char *dir = g_path_get_dirname(self ?: ".");

        path = g_build_filename(dir, "libvdpa-soft.so", NULL);
    }
    if (access(path, R_OK) < 0) {
        die("cannot read the library %s: %s; name it with --lib", path,
            strerror(errno));
    }
    if (strpbrk(path, ": \t\n")) {
        die("the library's path '%s' has a space or a colon, which "
            "LD_PRELOAD cannot hold", path);
    }
    /* last, because a sanitizer's run time insists on being first */
    preload = old && *old ? g_strconcat(old, ":", path, NULL)
                          : g_strdup(path);
    setenv("LD_PRELOAD", preload, 1);
}

static int do_run(int argc, char **argv)
{
    GPtrArray *nodes = g_ptr_array_new();
    NodeArgs *node = add_node(nodes);
    GString *fails = g_string_new(NULL);
    const char *control = NULL, *transcript = NULL, *lib = NULL;
    int i;

    unsetenv(VS_ENV_CONTROL);
    unsetenv(VS_ENV_TRANSCRIPT);
    for (i = 0; i < argc && strcmp(argv[i], "--"); i++) {
        g_autofree char *key = NULL;
        const char *value;
        bool global;
        char *eq;
        int takes;

        if (!strcmp(argv[i], "--help")) {
            fputs(usage, stdout);
            return 0;
        }
        if (!strcmp(argv[i], "--node")) {
            node = add_node(nodes);
            continue;
        }
        if (!g_str_has_prefix(argv[i], "--")) {
            die("'%s' is not an option; the command goes behind --",
                argv[i]);
        }
        key = g_strdup(argv[i] + 2);
        eq = strchr(key, '=');
        if (eq) {
            *eq++ = 0;
        }
        global = !strcmp(key, "control") || !strcmp(key, "transcript") ||
                 !strcmp(key, "lib");
        takes = global ? 1 : vs_option_takes_value(key);
        if (takes < 0) {
            die("there is no option --%s; see vdpa-soft --help", key);
        }
        if (!takes) {
            if (eq) {
                die("--%s takes no value", key);
            }
            value = "on";
        } else if (eq) {
            value = eq;
        } else {
            if (i + 1 >= argc || !strcmp(argv[i + 1], "--")) {
                die("--%s needs a value", key);
            }
            value = argv[++i];
        }
        if (strchr(value, '\n')) {
            die("the value of --%s has a line break", key);
        }
        if (!strcmp(key, "control")) {
            control = argv[i] + (eq ? strlen("--control=") : 0);
        } else if (!strcmp(key, "transcript")) {
            transcript = argv[i] + (eq ? strlen("--transcript=") : 0);
        } else if (!strcmp(key, "lib")) {
            lib = argv[i] + (eq ? strlen("--lib=") : 0);
        } else if (!strcmp(key, "like")) {
            g_free(node->like);
            node->like = g_strdup(value);
        } else if (!strcmp(key, "fail")) {
            g_string_append_printf(fails, "fail=%s\n", value);
        } else if (!strcmp(key, "wire")) {
            g_autofree char *wire = absolute_wire(value);

            g_string_append_printf(node->options, "wire=%s\n", wire);
        } else {
            g_string_append_printf(node->options, "%s=%s\n", key, value);
        }
    }
    if (i >= argc - 1) {
        die("no command to run; it goes behind --, as in: vdpa-soft run -- "
            "COMMAND");
    }
    export_nodes(nodes, fails);
    export_session();
    if (control) {
        export_control(control);
    }
    if (transcript) {
        export_transcript(transcript);
    }
    export_lib(lib);
    execvp(argv[i + 1], &argv[i + 1]);
    fprintf(stderr, "vdpa-soft: cannot run %s: %s\n", argv[i + 1],
            strerror(errno));
    return errno == ENOENT ? 127 : 126;
}

static int do_ctl(int argc, char **argv)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    GString *request = g_string_new(NULL);
    GString *reply = g_string_new(NULL);
    char buf[4096];
    ssize_t got;
    int fd, i;

    if (argc < 2) {
        die("usage: vdpa-soft ctl SOCKET REQUEST...; the request 'help' "
            "lists them");
    }
    if (strlen(argv[0]) >= sizeof(addr.sun_path)) {
        die("%s: the path is too long for a socket", argv[0]);
    }
    strcpy(addr.sun_path, argv[0]);
    for (i = 1; i < argc; i++) {
        g_string_append_printf(request, "%s%s", i > 1 ? " " : "", argv[i]);
    }
    g_string_append_c(request, '\n');
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        die("%s: cannot connect: %s; is the program with the nodes running?",
            argv[0], strerror(errno));
    }
    if (send(fd, request->str, request->len, MSG_NOSIGNAL) !=
        (ssize_t)request->len) {
        die("%s: cannot send: %s", argv[0], strerror(errno));
    }
    while (!memchr(reply->str, '\n', reply->len)) {
        got = recv(fd, buf, sizeof(buf), 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            die("%s: the program ended before it answered", argv[0]);
        }
        g_string_append_len(reply, buf, got);
    }
    fwrite(reply->str, 1, reply->len, stdout);
    return g_str_has_prefix(reply->str, "{\"ok\":true") ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc >= 2 && !strcmp(argv[1], "run")) {
        return do_run(argc - 2, argv + 2);
    }
    if (argc >= 2 && !strcmp(argv[1], "ctl")) {
        return do_ctl(argc - 2, argv + 2);
    }
    if (argc >= 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        fputs(usage, stdout);
        return 0;
    }
    fputs(usage, stderr);
    return EXIT_USAGE;
}
