/*
 * vdpa-soft: a vhost-vdpa character device in user space
 *
 * A client's descriptor is one end of a pair of connected sockets, so that
 * duplicating, inheriting and passing it follow the kernel's own rules; the
 * last reference is gone when the other end, kept here, sees a hang-up.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <linux/virtio_net.h>
#include <time.h>
#include <unistd.h>
#include "compat.h"
#include "memory.h"
#include "node-int.h"
#include "transcript.h"

/* How long another process may take to see whether a node is closed */
#define ASK_DEADLINE_MS 5000

static struct {
    unsigned count;
    VsNode *node[VS_MAX_NODES];
    VsSigaction *real_sigaction;
    char session[64];
} vs;

int vs_thread_start(const char *name, void *(*run)(void *), void *arg)
{
    static const int kept[] = {
        SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS,
    };
    sigset_t set, old;
    pthread_t thread;
    size_t i;
    int ret;

    sigfillset(&set);
    for (i = 0; i < G_N_ELEMENTS(kept); i++) {
        sigdelset(&set, kept[i]);
    }
    pthread_sigmask(SIG_SETMASK, &set, &old);
    ret = pthread_create(&thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (ret) {
        return -ret;
    }
    pthread_setname_np(thread, name);
    pthread_detach(thread);
    return 0;
}

int vs_fd_high(int fd)
{
    int high;

    if (fd < 0) {
        return fd;
    }
    high = fcntl(fd, F_DUPFD_CLOEXEC, 512);
    if (high < 0) {
        return fd;
    }
    close(fd);
    return high;
}

int64_t vs_clock_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * VS_NSEC + ts.tv_nsec;
}

void vs_node_lock(VsNode *n)
{
    pthread_mutex_lock(&n->lock);
    if (n->net) {
        vs_net_lock(n->net);
    }
}

void vs_node_unlock(VsNode *n)
{
    if (n->net) {
        vs_net_unlock(n->net);
    }
    pthread_mutex_unlock(&n->lock);
}

void vs_node_wake(VsNode *n)
{
    pthread_mutex_lock(&n->wake_lock);
    n->wake_seq++;
    pthread_cond_broadcast(&n->wake);
    pthread_mutex_unlock(&n->wake_lock);
}

uint64_t vs_node_wake_seq(VsNode *n)
{
    uint64_t seq;

    pthread_mutex_lock(&n->wake_lock);
    seq = n->wake_seq;
    pthread_mutex_unlock(&n->wake_lock);
    return seq;
}

bool vs_node_wait(VsNode *n, uint64_t seq, int64_t deadline)
{
    struct timespec ts = {
        .tv_sec = deadline / VS_NSEC,
        .tv_nsec = deadline % VS_NSEC,
    };
    bool changed;

    pthread_mutex_lock(&n->wake_lock);
    while (n->wake_seq == seq &&
           pthread_cond_timedwait(&n->wake, &n->wake_lock, &ts) == 0) {
        /* woken for nothing */
    }
    changed = n->wake_seq != seq;
    pthread_mutex_unlock(&n->wake_lock);
    return changed;
}

void vs_close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

int vs_call_injected(VsNode *n, const char *name)
{
    int err = 0;
    guint i;

    pthread_mutex_lock(&n->lock);
    for (i = 0; i < n->cfg->rules->len; i++) {
        VsRule *rule = &g_array_index(n->cfg->rules, VsRule, i);

        if (strcmp(rule->call, name)) {
            continue;
        }
        rule->seen++;
        if (rule->seen == rule->occurrence ||
            (rule->always && rule->seen > rule->occurrence)) {
            err = err ? err : rule->err;
        }
    }
    pthread_mutex_unlock(&n->lock);
    return err;
}

void vs_call_sleep(VsNode *n, uint64_t ms)
{
    int64_t ns = vs_clock_ns() + ms * 1000000;
    struct timespec until = {
        .tv_sec = ns / VS_NSEC,
        .tv_nsec = ns % VS_NSEC,
    };
    bool exiting;

    if (!ms) {
        return;
    }
    pthread_mutex_lock(&n->wake_lock);
    while (!n->exiting &&
           pthread_cond_timedwait(&n->wake, &n->wake_lock, &until) == 0) {
        /* woken for something else */
    }
    exiting = n->exiting;
    pthread_mutex_unlock(&n->wake_lock);
    if (exiting) {
        pthread_mutex_unlock(&n->call_lock);
        for (;;) {
            pause();
        }
    }
}

void vs_call_delay(VsNode *n, const char *name)
{
    unsigned ms = 0;
    guint i;

    pthread_mutex_lock(&n->lock);
    for (i = 0; i < n->cfg->slow->len; i++) {
        VsSlow *slow = &g_array_index(n->cfg->slow, VsSlow, i);

        if (!strcmp(slow->call, name)) {
            ms = slow->ms;
        }
    }
    pthread_mutex_unlock(&n->lock);
    vs_call_sleep(n, ms);
}

/*
 * Open and close
 */

/*
 * A name in the abstract space is taken by one socket at a time and is free
 * again when that is gone, whatever became of its process.
 *
 * Returns: the size of the address
 */
static socklen_t abstract_name(struct sockaddr_un *addr, const char *format,
                               ...) G_GNUC_PRINTF(2, 3);

static socklen_t abstract_name(struct sockaddr_un *addr, const char *format,
                               ...)
{
    va_list ap;
    int len;

    memset(addr, 0, sizeof(*addr));
    addr->sun_family = AF_UNIX;
    va_start(ap, format);
    len = vsnprintf(addr->sun_path + 1, sizeof(addr->sun_path) - 1, format,
                    ap);
    va_end(ap);
    return offsetof(struct sockaddr_un, sun_path) + 1 +
           MIN(len, (int)sizeof(addr->sun_path) - 1);
}

/*
 * The last reference to a node may be gone without its server's having
 * noticed.  Have it look: when it has, or is gone, it closes the pipe.
 */
static void ask_server(const struct sockaddr_un *addr, socklen_t size)
{
    char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 0;
    struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
    struct msghdr msg = {
        .msg_name = (void *)(uintptr_t)addr,
        .msg_namelen = size,
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    struct pollfd p = { .events = 0 };
    int pipefd[2], fd;

    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || pipe2(pipefd, O_CLOEXEC) < 0) {
        vs_close_fd(&fd);
        return;
    }
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(pipefd[1]));
    memcpy(CMSG_DATA(c), &pipefd[1], sizeof(pipefd[1]));
    if (sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) == 1) {
        close(pipefd[1]);
        pipefd[1] = -1;
        p.fd = pipefd[0];
        while (poll(&p, 1, ASK_DEADLINE_MS) < 0 && errno == EINTR) {
            /* again */
        }
    }
    vs_close_fd(&pipefd[1]);
    close(pipefd[0]);
    close(fd);
}

/* In this process or in another of the same run */
static int claim(VsNode *n)
{
    struct sockaddr_un addr;
    socklen_t size = abstract_name(&addr, "vdpa-soft-%s-%u", vs.session,
                                   n->index);
    bool asked = false;
    int fd;

    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    while (bind(fd, (struct sockaddr *)&addr, size) < 0) {
        int err = errno;

        if (err != EADDRINUSE || asked) {
            close(fd);
            return err == EADDRINUSE ? -EBUSY : -err;
        }
        ask_server(&addr, size);
        asked = true;
    }
    n->busy_fd = vs_fd_high(fd);
    return 0;
}

/* By its name any process of the run knows a client's end as what it is. */
static void name_client(VsNode *n, int fd, int accmode)
{
    static atomic_uint number;
    struct sockaddr_un addr;
    socklen_t size;

    do {
        size = abstract_name(&addr, "vdpa-soft-%s-%u-open-%d-%d-%u",
                             vs.session, n->index, accmode, (int)getpid(),
                             number++);
    } while (bind(fd, (struct sockaddr *)&addr, size) < 0 &&
             errno == EADDRINUSE);
}

static VsNode *by_name(int fd)
{
    struct sockaddr_un addr = { 0 };
    socklen_t size = sizeof(addr) - 1;
    size_t len = strlen(vs.session);
    unsigned index;
    int accmode;
    VsNode *n;

    if (getsockname(fd, (struct sockaddr *)&addr, &size) < 0 ||
        addr.sun_family != AF_UNIX || addr.sun_path[0] ||
        strncmp(addr.sun_path + 1, "vdpa-soft-", 10) ||
        strncmp(addr.sun_path + 11, vs.session, len) ||
        sscanf(addr.sun_path + 11 + len, "-%u-open-%d-", &index,
               &accmode) != 2) {
        return NULL;
    }
    n = vs_node_get(index);
    if (n && !n->open) {
        n->accmode = accmode;
    }
    return n;
}

static bool hung_up(int fd)
{
    struct pollfd p = { .fd = fd, .events = 0 };

    return poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLERR);
}

static int make_net(VsNode *n)
{
    VsNetConfig config = {
        .pairs = n->cfg->pairs,
        .features = n->cfg->features,
        .mtu = n->cfg->mtu,
        .max_ring = 32768,
        .wire = n->cfg->wire,
        .max_frame = n->cfg->max_frame,
        .simulator = n->cfg->simulator,
    };
    char *error = NULL;
    VsHost host;

    if (n->net) {
        return 0;
    }
    memcpy(config.mac, n->cfg->mac, sizeof(config.mac));
    vs_driver_host(n, &host);
    pthread_mutex_lock(&n->lock);
    n->net = vs_net_new(&config, &host, &error);
    if (n->net && n->cfg->max_pairs >= 0) {
        uint16_t pairs = GUINT16_TO_LE(n->cfg->max_pairs);

        vs_net_config_write(n->net, offsetof(struct virtio_net_config,
                                             max_virtqueue_pairs),
                            &pairs, sizeof(pairs));
    }
    pthread_mutex_unlock(&n->lock);
    if (!n->net) {
        fprintf(stderr, "vdpa-soft: %s: cannot make the device: %s\n",
                n->cfg->path, error ? error : "unknown error");
        g_free(error);
        return -ENXIO;
    }
    return 0;
}

/* The inode tells references to this open file from those to another. */
static uint64_t inode_of(int fd)
{
    struct statx st;

    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_INO | STATX_TYPE,
                &st) < 0 || (st.stx_mode & S_IFMT) != S_IFSOCK) {
        return 0;
    }
    return st.stx_ino;
}

/* The node is open; what was before is forgotten. */
static int opened(VsNode *n, uint64_t inode, int server, int flags)
{
    /* the socket has to look readable, as a device without poll() does */
    const char ready = 0;
    unsigned i;
    int ret;

    vs_node_lock(n);
    n->server_fd = server;
    n->accmode = flags & O_ACCMODE;
    n->owner = 0;
    n->backend_acked = 0;
    n->features_copy = 0;
    n->suspended = false;
    n->in_batch = false;
    n->fork_owner = 1;
    for (i = 0; i < n->nvqs; i++) {
        n->vq[i].busyloop = 0;
        /* stricter than vdpa_sim, whose ring sizes survive a close */
        vs_net_vq_set_num(n->net, i, 0);
    }
    vs_driver_reset(n, false);
    n->inode = inode;
    n->foreign = 0;
    n->inherited = false;
    n->open = true;
    vs_node_unlock(n);
    if (send(server, &ready, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        return -errno;
    }
    ret = vs_events_watch(n->busy_fd);
    return ret < 0 ? ret : vs_events_watch(server);
}

static void released(VsNode *n)
{
    unsigned i;

    vs_node_lock(n);
    n->open = false;
    n->inode = 0;
    vs_driver_reset(n, !(n->backend_acked &
                      1ULL << VHOST_BACKEND_F_IOTLB_PERSIST));
    for (i = 0; i < n->nvqs; i++) {
        VsVq *vq = &n->vq[i];

        vs_events_forget(&vq->kick_fd);
        vq->kick_gen++;
        vs_close_fd(&vq->call_fd);
        vs_close_fd(&vq->err_fd);
        vq->call_installed = false;
    }
    vs_close_fd(&n->config_fd);
    n->config_installed = false;
    for (i = 0; i < n->cfg->as_num; i++) {
        if (n->as[i]) {
            vs_remove_mappings(n, i, 0, UINT64_MAX);
            vs_iotlb_free(n->as[i]);
            n->as[i] = NULL;
        }
        vs_driver_reset_map(n, i);
    }
    n->owner = 0;
    n->backend_acked = 0;
    n->features_copy = 0;
    n->suspended = false;
    n->in_batch = false;
    vs_node_unlock(n);
    vs_transcript_add(n->index, "CLOSE", "{}", 0, 0, NULL);
    vs_events_forget(&n->server_fd);
    vs_events_forget(&n->busy_fd);
    vs_node_wake(n);
}

void vs_node_check_close_locked(VsNode *n)
{
    if (n->server_fd < 0 || !hung_up(n->server_fd)) {
        return;
    }
    if (n->inherited) {
        /* nobody ever used it */
        n->inherited = false;
        n->open = false;
        n->inode = 0;
        vs_close_fd(&n->server_fd);
    } else if (n->open) {
        released(n);
    }
}

void vs_node_check_close(VsNode *n)
{
    if (n->open) {
        pthread_mutex_lock(&n->call_lock);
        vs_node_check_close_locked(n);
        pthread_mutex_unlock(&n->call_lock);
    }
}

static int bring_up(VsNode *n)
{
    int ret;

    vs_guard_install(vs.real_sigaction);
    vs_control_start();
    ret = vs_events_start();
    return ret < 0 ? ret : make_net(n);
}

int vs_node_attach(VsNode *n)
{
    int ret;

    if (!n->inherited) {
        return 0;
    }
    ret = claim(n);
    if (ret < 0) {
        return ret;
    }
    ret = bring_up(n);
    if (ret < 0) {
        vs_close_fd(&n->busy_fd);
        return ret;
    }
    fcntl(n->server_fd, F_SETFD, FD_CLOEXEC);
    ret = opened(n, n->inode, n->server_fd, O_RDWR);
    vs_transcript_add(n->index, "OPEN", "{\"inherited\":true}", 0, 0, NULL);
    return ret;
}

int vs_node_open(VsNode *n, int flags)
{
    int sv[2] = { -1, -1 }, ret, type = SOCK_STREAM;
    char args[32];

    pthread_mutex_lock(&n->call_lock);
    snprintf(args, sizeof(args), "{\"flags\":%d}", flags & O_ACCMODE);
    ret = -vs_call_injected(n, "OPEN");
    vs_call_delay(n, "OPEN");
    if (ret == 0 && n->cfg->busy) {
        ret = -EBUSY;
    }
    vs_node_check_close_locked(n);
    if (ret == 0 && n->open) {
        ret = -EBUSY;
    }
    if (ret == 0) {
        ret = claim(n);
    }
    if (ret == 0) {
        ret = bring_up(n);
        if (flags & O_CLOEXEC) {
            type |= SOCK_CLOEXEC;
        }
        if (ret == 0 && socketpair(AF_UNIX, type, 0, sv) < 0) {
            ret = -errno;
        }
        if (ret == 0) {
            sv[1] = vs_fd_high(sv[1]);
            fcntl(sv[1], F_SETFD, FD_CLOEXEC);
            name_client(n, sv[0], flags & O_ACCMODE);
            if (flags & O_NONBLOCK) {
                fcntl(sv[0], F_SETFL, O_RDWR | O_NONBLOCK);
            }
            ret = opened(n, inode_of(sv[0]), sv[1], flags);
            if (ret < 0) {
                n->open = false;
                n->inode = 0;
                n->server_fd = -1;
                close(sv[0]);
                close(sv[1]);
            }
        }
        if (ret < 0) {
            vs_close_fd(&n->busy_fd);
        }
    }
    vs_transcript_add(n->index, "OPEN", args, ret < 0 ? -1 : 0,
                      ret < 0 ? -ret : 0, NULL);
    vs_node_wake(n);
    pthread_mutex_unlock(&n->call_lock);
    return ret < 0 ? ret : sv[0];
}

/*
 * The nodes of the process
 */

unsigned vs_nodes_count(void)
{
    return vs.count;
}

VsNode *vs_node_get(unsigned index)
{
    return index < vs.count ? vs.node[index] : NULL;
}

bool vs_nodes_memlock(uint64_t *bytes)
{
    bool found = false;
    unsigned i;

    *bytes = UINT64_MAX;
    for (i = 0; i < vs.count; i++) {
        const VsNodeConfig *cfg = vs.node[i]->cfg;

        if (cfg->memlock_set) {
            *bytes = MIN(*bytes, cfg->memlock);
            found = true;
        }
    }
    return found;
}

unsigned vs_nodes_max_entries(void)
{
    unsigned entries = 0;
    unsigned i;

    for (i = 0; i < vs.count; i++) {
        unsigned limit = vs.node[i]->cfg->max_entries;

        if (limit && (!entries || limit < entries)) {
            entries = limit;
        }
    }
    return entries;
}

VsNode *vs_node_by_path(const char *path)
{
    unsigned i;

    for (i = 0; i < vs.count; i++) {
        if (!strcmp(vs.node[i]->cfg->path, path)) {
            return vs.node[i];
        }
    }
    return NULL;
}

VsNode *vs_node_by_fd(int fd)
{
    uint64_t inode = inode_of(fd);
    unsigned i;

    if (!inode) {
        return NULL;
    }
    for (i = 0; i < vs.count; i++) {
        VsNode *n = vs.node[i];

        if (n->inode == inode || n->foreign == inode) {
            return n;
        }
    }
    return by_name(fd);
}

int vs_node_served(VsNode *n, int fd)
{
    int ret = 0;

    if (n->inode != inode_of(fd)) {
        return 0;
    }
    if (n->inherited) {
        pthread_mutex_lock(&n->call_lock);
        ret = vs_node_attach(n);
        if (ret == -EBUSY && n->inherited) {
            /* another process was the first */
            n->inherited = false;
            n->open = false;
            n->foreign = n->inode;
            n->inode = 0;
            n->accmode = O_RDWR;
            vs_close_fd(&n->server_fd);
        }
        pthread_mutex_unlock(&n->call_lock);
        if (ret == -EBUSY) {
            return 0;
        }
    }
    return ret < 0 ? ret : 1;
}

unsigned vs_node_index(const VsNode *n)
{
    return n->index;
}

int vs_node_accmode(const VsNode *n)
{
    return n->inherited ? O_RDWR : n->accmode;
}

static void init_locks(VsNode *n)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&n->call_lock, NULL);
    pthread_mutex_init(&n->lock, NULL);
    pthread_mutex_init(&n->wake_lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&n->wake, &attr);
    pthread_condattr_destroy(&attr);
}

static VsNode *node_new(unsigned index, VsNodeConfig *cfg)
{
    VsNode *n = g_new0(VsNode, 1);
    unsigned i;

    n->index = index;
    n->cfg = cfg;
    n->nvqs = 2 * cfg->pairs + !!(cfg->features & VS_F_CTRL_VQ);
    n->ngroups = !cfg->groups ? 1 : cfg->desc_group ? 3 : 2;
    init_locks(n);
    n->server_fd = -1;
    n->busy_fd = -1;
    n->config_fd = -1;
    n->vq = g_new0(VsVq, n->nvqs);
    for (i = 0; i < n->nvqs; i++) {
        n->vq[i].kick_fd = -1;
        n->vq[i].call_fd = -1;
        n->vq[i].err_fd = -1;
    }
    n->as = g_new0(VsIotlb *, cfg->as_num);
    n->dtab = g_new0(VsIotlb *, cfg->as_num);
    n->dtab_default = g_new0(bool, cfg->as_num);
    for (i = 0; i < cfg->as_num; i++) {
        n->dtab[i] = vs_iotlb_new();
        vs_driver_reset_map(n, i);
    }
    g_queue_init(&n->captured);
    return n;
}

static VsNodeConfig *config_from_env(unsigned index)
{
    g_autofree char *name = g_strdup_printf(VS_ENV_NODE, index);
    const char *text = getenv(name);
    VsNodeConfig *cfg = vs_node_config_new(index);
    g_auto(GStrv) line = g_strsplit(text ? text : "", "\n", -1);
    char *error = NULL;
    unsigned i;

    for (i = 0; line[i] && !error; i++) {
        char *eq = strchr(line[i], '=');

        if (eq) {
            *eq = 0;
            vs_node_config_set(cfg, line[i], eq + 1, &error);
        }
    }
    if (error || !vs_node_config_finish(cfg, &error)) {
        fprintf(stderr, "vdpa-soft: node %u, in the environment variable "
                "%s: %s\n", index, name, error);
        g_free(error);
        vs_node_config_free(cfg);
        return NULL;
    }
    return cfg;
}

/* The pair of sockets the launcher made for --fd, if it is still there */
static void find_inherited(VsNode *n)
{
    g_autofree char *name = g_strdup_printf(VS_ENV_FD, n->index);
    const char *text = getenv(name);
    unsigned long long client, server;
    int fd;

    if (!text || sscanf(text, "%llu,%d,%llu", &client, &fd, &server) != 3 ||
        inode_of(fd) != server || hung_up(fd)) {
        return;
    }
    n->server_fd = fd;
    n->inode = client;
    n->inherited = true;
    n->open = true;
}

unsigned vs_nodes_init(VsSigaction *real_sigaction)
{
    const char *count = getenv(VS_ENV_NODES);
    const char *session = getenv(VS_ENV_SESSION);
    uint64_t wanted = 0;
    unsigned i;

    vs.real_sigaction = real_sigaction;
    vs_caller_renew();
    if (!count || !session || !vs_parse_u64(count, false, &wanted)) {
        return 0;
    }
    g_strlcpy(vs.session, session, sizeof(vs.session));
    for (i = 0; i < MIN(wanted, VS_MAX_NODES); i++) {
        VsNodeConfig *cfg = config_from_env(i);

        if (!cfg) {
            break;
        }
        vs.node[i] = node_new(i, cfg);
        find_inherited(vs.node[i]);
        vs.count = i + 1;
    }
    return vs.count;
}

void vs_nodes_guard(void)
{
    vs_guard_install(vs.real_sigaction);
}

void vs_nodes_open_fds(void (*found)(int fd))
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    int fd;

    while (dir && (entry = readdir(dir))) {
        if (sscanf(entry->d_name, "%d", &fd) == 1 && by_name(fd)) {
            found(fd);
        }
    }
    if (dir) {
        closedir(dir);
    }
}

void vs_nodes_exit(void)
{
    unsigned i;

    for (i = 0; i < vs.count; i++) {
        VsNode *n = vs.node[i];
        VsNet *net;

        if (!n->net) {
            continue;
        }
        /* a kernel would not finish a slow call of a process that ends */
        pthread_mutex_lock(&n->wake_lock);
        n->exiting = true;
        pthread_cond_broadcast(&n->wake);
        pthread_mutex_unlock(&n->wake_lock);
        pthread_mutex_lock(&n->call_lock);
        vs_node_check_close_locked(n);
        if (n->open) {
            /* the kernel would close what the program did not */
            released(n);
        }
        pthread_mutex_lock(&n->lock);
        net = n->net;
        n->net = NULL;
        pthread_mutex_unlock(&n->lock);
        vs_net_free(net);
        pthread_mutex_unlock(&n->call_lock);
    }
}

void vs_nodes_fork(void)
{
    unsigned i, j;

    vs_caller_renew();
    vs_events_fork();
    vs_doorbells_fork();
    vs_memory_fork();
    vs_remote_fork();
    vs_transcript_fork();
    for (i = 0; i < vs.count; i++) {
        VsNode *n = vs.node[i];
        uint64_t inode = n->inode;

        init_locks(n);
        if (n->inherited) {
            /* this process may be the one that uses it */
            continue;
        }
        if (!n->net) {
            continue;
        }
        /* what the parent had is not freed: its locks cannot be taken */
        vs_close_fd(&n->server_fd);
        vs_close_fd(&n->busy_fd);
        vs.node[i] = node_new(i, n->cfg);
        for (j = 0; j < n->nvqs; j++) {
            vs_close_fd(&n->vq[j].kick_fd);
            vs_close_fd(&n->vq[j].call_fd);
            vs_close_fd(&n->vq[j].err_fd);
        }
        vs_close_fd(&n->config_fd);
        vs.node[i]->foreign = inode;
        vs.node[i]->accmode = n->accmode;
    }
}
