/*
 * vdpa-soft: the C library's functions that a client of a node may call
 *
 * Programs make these calls all the time, for other files.  What is paid for
 * those is one look into a table of descriptors that may be a node's; only
 * then does a system call tell for sure.  A descriptor that came by a way
 * not seen here (from another process, say) is recognised by the first vhost
 * ioctl or message on it.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Both spellings of a name are defined here, for programs built with and
 * without large files; the headers must not turn one into the other, nor
 * into a checked variant.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>
#include "compat.h"
#include "guard.h"
#include "node.h"
#include "preload.h"
#include "sysfile.h"
#include "transcript.h"

#define EXPORT __attribute__((visibility("default")))

/* Descriptors above this are not remembered: they are always asked about. */
#define MAX_FLAGGED 65536

/* Of the range for local use; no driver has it. */
#define NODE_MAJOR 240

static atomic_bool active;
static _Atomic uint8_t flagged[MAX_FLAGGED];

#define REAL(name) ({                                                   \
    static _Atomic(__typeof__(&name)) real_;                            \
    __typeof__(&name) f_ = atomic_load_explicit(&real_,                 \
                                                memory_order_relaxed);  \
    if (!f_) {                                                          \
        f_ = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                \
        if (!f_) {                                                      \
            abort();                                                    \
        }                                                               \
        atomic_store_explicit(&real_, f_, memory_order_relaxed);        \
    }                                                                   \
    f_;                                                                 \
})

static inline bool maybe_node(int fd)
{
    if (!atomic_load_explicit(&active, memory_order_relaxed) || fd < 0) {
        return false;
    }
    return fd >= MAX_FLAGGED ||
           atomic_load_explicit(&flagged[fd], memory_order_relaxed);
}

static void flag(int fd)
{
    if (fd >= 0 && fd < MAX_FLAGGED) {
        flagged[fd] = 1;
    }
}

static void unflag(int fd)
{
    if (fd >= 0 && fd < MAX_FLAGGED) {
        flagged[fd] = 0;
    }
}

/* Which node a descriptor that may be one's refers to, errno untouched */
static VsNode *find(int fd)
{
    int err = errno;
    VsNode *n = vs_node_by_fd(fd);

    if (n) {
        flag(fd);
    } else {
        unflag(fd);
    }
    errno = err;
    return n;
}

static VsNode *lookup(int fd)
{
    return maybe_node(fd) ? find(fd) : NULL;
}

static VsNode *by_path(const char *path)
{
    if (!atomic_load_explicit(&active, memory_order_relaxed) || !path) {
        return NULL;
    }
    return vs_node_by_path(path);
}

static int fail(int err)
{
    errno = err;
    return -1;
}

/* A negative errno becomes -1 and errno, anything else stays. */
static ssize_t result(ssize_t ret)
{
    return ret < 0 ? fail(-ret) : ret;
}

/*
 * Opening
 */

static int open_node(VsNode *n, int flags)
{
    int fd = vs_node_open(n, flags);

    if (fd >= 0) {
        flag(fd);
    }
    return result(fd);
}

/* Open what the program shall have instead of a file, if it shall */
static bool open_instead(const char *path, int flags, int *fd)
{
    VsNode *n = by_path(path);

    if (n) {
        *fd = open_node(n, flags);
        return true;
    }
    *fd = -1;
    if (atomic_load_explicit(&active, memory_order_relaxed) && path &&
        (flags & O_ACCMODE) == O_RDONLY) {
        *fd = vs_sysfile_open(path);
    }
    return *fd >= 0;
}

/* The third argument is there only with these flags, but harmless. */
#define MODE_ARG(flags) ({                      \
    mode_t mode_ = 0;                           \
    if ((flags) & (O_CREAT | O_TMPFILE)) {      \
        va_list ap_;                            \
        va_start(ap_, flags);                   \
        mode_ = va_arg(ap_, mode_t);            \
        va_end(ap_);                            \
    }                                           \
    mode_;                                      \
})

#define OPEN(name)                                                      \
    EXPORT int name(const char *path, int flags, ...)                   \
    {                                                                   \
        mode_t mode = MODE_ARG(flags);                                  \
        int fd;                                                         \
                                                                        \
        return open_instead(path, flags, &fd) ?                         \
               fd : REAL(name)(path, flags, mode);                      \
    }

#define OPENAT(name)                                                    \
    EXPORT int name(int dir, const char *path, int flags, ...)          \
    {                                                                   \
        mode_t mode = MODE_ARG(flags);                                  \
        int fd;                                                         \
                                                                        \
        return open_instead(path, flags, &fd) ?                         \
               fd : REAL(name)(dir, path, flags, mode);                 \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

#ifdef __GLIBC__
#define OPEN_2(name)                                                    \
    EXPORT int name(const char *path, int flags)                        \
    {                                                                   \
        int fd;                                                         \
                                                                        \
        return open_instead(path, flags, &fd) ?                         \
               fd : REAL(name)(path, flags);                            \
    }

#define OPENAT_2(name)                                                  \
    EXPORT int name(int dir, const char *path, int flags)               \
    {                                                                   \
        int fd;                                                         \
                                                                        \
        return open_instead(path, flags, &fd) ?                         \
               fd : REAL(name)(dir, path, flags);                       \
    }

OPEN_2(__open_2)
OPEN_2(__open64_2)
OPENAT_2(__openat_2)
OPENAT_2(__openat64_2)
#endif

/*
 * Looking
 */

static bool is_empty(const char *path)
{
    return !path || !*path;
}

#define FILL_STAT(st, n) do {                                   \
        memset((st), 0, sizeof(*(st)));                         \
        (st)->st_mode = S_IFCHR | 0600;                         \
        (st)->st_nlink = 1;                                     \
        (st)->st_uid = geteuid();                               \
        (st)->st_gid = getegid();                               \
        (st)->st_rdev = makedev(NODE_MAJOR, vs_node_index(n));  \
        (st)->st_ino = vs_node_index(n) + 1;                    \
        (st)->st_blksize = 4096;                                \
    } while (0)

#define STAT(name, type)                                                \
    EXPORT int name(const char *path, type st)                         \
    {                                                                   \
        VsNode *n = by_path(path);                                      \
                                                                        \
        if (!n) {                                                       \
            return REAL(name)(path, st);                                \
        }                                                               \
        FILL_STAT(st, n);                                               \
        return 0;                                                       \
    }

#define FSTAT(name, type)                                               \
    EXPORT int name(int fd, type st)                                   \
    {                                                                   \
        VsNode *n = lookup(fd);                                         \
                                                                        \
        if (!n) {                                                       \
            return REAL(name)(fd, st);                                  \
        }                                                               \
        FILL_STAT(st, n);                                               \
        return 0;                                                       \
    }

#define FSTATAT(name, type)                                             \
    EXPORT int name(int dir, const char *path, type st, int flags)     \
    {                                                                   \
        VsNode *n = by_path(path);                                      \
                                                                        \
        if (!n && flags & AT_EMPTY_PATH && is_empty(path)) {            \
            n = lookup(dir);                                            \
        }                                                               \
        if (!n) {                                                       \
            return REAL(name)(dir, path, st, flags);                    \
        }                                                               \
        FILL_STAT(st, n);                                               \
        return 0;                                                       \
    }

/*
 * The kernel headers' <linux/stat.h> is of no interest here, and C libraries
 * before 2.33 have these functions only inline.
 */
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wnonnull"
STAT(stat, struct stat *)
STAT(stat64, struct stat64 *)
STAT(lstat, struct stat *)
STAT(lstat64, struct stat64 *)
FSTAT(fstat, struct stat *)
FSTAT(fstat64, struct stat64 *)
FSTATAT(fstatat, struct stat *)
FSTATAT(fstatat64, struct stat64 *)
#pragma GCC diagnostic pop
#endif

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 28)
EXPORT int statx(int dir, const char *restrict path, int flags,
                 unsigned mask, struct statx *restrict st)
{
    VsNode *n = by_path(path);

    if (!n && flags & AT_EMPTY_PATH && is_empty(path)) {
        n = lookup(dir);
    }
    if (!n) {
        return REAL(statx)(dir, path, flags, mask, st);
    }
    memset(st, 0, sizeof(*st));
    st->stx_mask = STATX_TYPE | STATX_MODE | STATX_NLINK | STATX_UID |
                   STATX_GID | STATX_INO;
    st->stx_mode = S_IFCHR | 0600;
    st->stx_nlink = 1;
    st->stx_uid = geteuid();
    st->stx_gid = getegid();
    st->stx_ino = vs_node_index(n) + 1;
    st->stx_rdev_major = NODE_MAJOR;
    st->stx_rdev_minor = vs_node_index(n);
    st->stx_blksize = 4096;
    return 0;
}
#endif

/*
 * The limit that nodes enforce is the one that the client sees.  A sanitizer
 * asks for limits before it is ready for calls of code that it checks, or of
 * dlsym().
 */
#define GETRLIMIT(name, type)                                           \
    EXPORT __attribute__((no_sanitize("address")))                      \
    __attribute__((no_sanitize("undefined")))                           \
    int name(__rlimit_resource_t resource, type limit)                  \
    {                                                                   \
        struct rlimit64 now;                                            \
        uint64_t memlock;                                               \
                                                                        \
        if (syscall(SYS_prlimit64, 0, resource, NULL, &now) < 0) {      \
            return -1;                                                  \
        }                                                               \
        if (resource == RLIMIT_MEMLOCK && active &&                     \
            vs_nodes_memlock(&memlock)) {                               \
            now.rlim_cur = memlock;                                     \
        }                                                               \
        /* What is too large for the type is as good as unlimited */    \
        limit->rlim_cur = now.rlim_cur;                                 \
        if (limit->rlim_cur != now.rlim_cur) {                          \
            limit->rlim_cur = -1;                                       \
        }                                                               \
        limit->rlim_max = now.rlim_max;                                 \
        if (limit->rlim_max != now.rlim_max) {                          \
            limit->rlim_max = -1;                                       \
        }                                                               \
        return 0;                                                       \
    }

#ifdef __GLIBC__
GETRLIMIT(getrlimit, struct rlimit *)
GETRLIMIT(getrlimit64, struct rlimit64 *)
#endif

/* The node may be read and written by whoever runs the program. */
EXPORT int access(const char *path, int mode)
{
    if (by_path(path)) {
        return mode & X_OK ? fail(EACCES) : 0;
    }
    return REAL(access)(path, mode);
}

EXPORT int faccessat(int dir, const char *path, int mode, int flags)
{
    if (by_path(path)) {
        return mode & X_OK ? fail(EACCES) : 0;
    }
    return REAL(faccessat)(dir, path, mode, flags);
}

/*
 * Calls on a descriptor
 */

EXPORT int ioctl(int fd, unsigned long request, ...)
{
    uint32_t cmd = request;
    VsNode *n = NULL;
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);

    if (atomic_load_explicit(&active, memory_order_relaxed) &&
        (_IOC_TYPE(cmd) == VHOST_VIRTIO || maybe_node(fd))) {
        n = find(fd);
    }
    /* these are handled for every file, before its driver is asked */
    if (!n || cmd == FIOCLEX || cmd == FIONCLEX || cmd == FIONBIO ||
        cmd == FIOASYNC) {
        return REAL(ioctl)(fd, request, arg);
    }
    return result(vs_node_ioctl(n, fd, cmd, arg));
}

EXPORT ssize_t write(int fd, const void *buf, size_t count)
{
    VsNode *n = NULL;

    if (maybe_node(fd) ||
        (count == sizeof(struct vhost_msg_v2) &&
         atomic_load_explicit(&active, memory_order_relaxed))) {
        n = find(fd);
    }
    if (n) {
        struct iovec iov = {
            .iov_base = (void *)(uintptr_t)buf,
            .iov_len = count,
        };

        return result(vs_node_write(n, fd, &iov, 1));
    }
    return REAL(write)(fd, buf, count);
}

EXPORT ssize_t writev(int fd, const struct iovec *iov, int count)
{
    VsNode *n = lookup(fd);
    int i;

    if (n) {
        if (count < 0 || count > 1024) {
            return fail(EINVAL);
        }
        for (i = 0; i < count && !iov[i].iov_len; i++) {
            /* nothing in it */
        }
        if (i == count && vs_node_accmode(n) != O_RDONLY) {
            /* unlike write(), it does not ask the device then */
            return 0;
        }
        return result(vs_node_write(n, fd, iov, count));
    }
    return REAL(writev)(fd, iov, count);
}

static ssize_t read_node(VsNode *n)
{
    return fail(vs_node_accmode(n) == O_WRONLY ? EBADF : EINVAL);
}

EXPORT ssize_t read(int fd, void *buf, size_t count)
{
    VsNode *n = lookup(fd);

    return n ? read_node(n) : REAL(read)(fd, buf, count);
}

EXPORT ssize_t readv(int fd, const struct iovec *iov, int count)
{
    VsNode *n = lookup(fd);

    return n ? read_node(n) : REAL(readv)(fd, iov, count);
}

/* A node is no pipe: a position is taken, and means nothing. */
#define POSITIONED(name, data, number, off_type, instead)               \
    EXPORT ssize_t name(int fd, data buf, number count, off_type at)    \
    {                                                                   \
        VsNode *n = lookup(fd);                                         \
                                                                        \
        if (!n) {                                                       \
            return REAL(name)(fd, buf, count, at);                      \
        }                                                               \
        return at < 0 ? fail(EINVAL) : (instead);                       \
    }

POSITIONED(pread, void *, size_t, off_t, read_node(n))
POSITIONED(pread64, void *, size_t, off64_t, read_node(n))
POSITIONED(preadv, const struct iovec *, int, off_t, read_node(n))
POSITIONED(preadv64, const struct iovec *, int, off64_t, read_node(n))
POSITIONED(pwrite, const void *, size_t, off_t, write(fd, buf, count))
POSITIONED(pwrite64, const void *, size_t, off64_t, write(fd, buf, count))
POSITIONED(pwritev, const struct iovec *, int, off_t, writev(fd, buf, count))
POSITIONED(pwritev64, const struct iovec *, int, off64_t,
           writev(fd, buf, count))

EXPORT int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    if (lookup(fd)) {
        return fail(EPERM);
    }
    return REAL(epoll_ctl)(epfd, op, fd, event);
}

/*
 * References
 */

EXPORT int close(int fd)
{
    VsNode *n = lookup(fd);
    int ret, err;

    if (!n) {
        return REAL(close)(fd);
    }
    /* before the number can be anybody else's */
    unflag(fd);
    ret = REAL(close)(fd);
    err = errno;
    vs_node_check_close(n);
    errno = err;
    return ret;
}

static void check_all(void)
{
    int err = errno;
    unsigned i;

    for (i = 0; i < vs_nodes_count(); i++) {
        vs_node_check_close(vs_node_get(i));
    }
    errno = err;
}

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
EXPORT int close_range(unsigned first, unsigned last, int flags)
{
    int ret = REAL(close_range)(first, last, flags);

    if (ret == 0 && active) {
        check_all();
    }
    return ret;
}

EXPORT void closefrom(int first)
{
    REAL(closefrom)(first);
    if (active) {
        check_all();
    }
}
#endif

EXPORT int dup(int fd)
{
    bool node = lookup(fd);
    int ret = REAL(dup)(fd);

    if (node) {
        flag(ret);
    }
    return ret;
}

static void replaced(bool node, VsNode *old, int fd)
{
    int err = errno;

    if (node) {
        flag(fd);
    }
    if (old) {
        vs_node_check_close(old);
    }
    errno = err;
}

EXPORT int dup2(int fd, int to)
{
    bool node = lookup(fd);
    VsNode *old = lookup(to);
    int ret;

    if (old && fd != to) {
        unflag(to);
    }
    ret = REAL(dup2)(fd, to);
    replaced(node && ret >= 0, old, to);
    return ret;
}

EXPORT int dup3(int fd, int to, int flags)
{
    bool node = lookup(fd);
    VsNode *old = lookup(to);
    int ret;

    if (old && fd != to) {
        unflag(to);
    }
    ret = REAL(dup3)(fd, to, flags);
    replaced(node && ret >= 0, old, to);
    return ret;
}

static int fix_fcntl(int fd, int cmd, int ret)
{
    VsNode *n;

    if (ret < 0 || !maybe_node(fd)) {
        return ret;
    }
    if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC) {
        if (find(fd)) {
            flag(ret);
        }
    } else if (cmd == F_GETFL) {
        n = find(fd);
        if (n) {
            /* a socket is always open for both */
            return (ret & ~O_ACCMODE) | vs_node_accmode(n);
        }
    }
    return ret;
}

/* The argument may be an integer or a pointer; the kernel knows which. */
#define FCNTL(name)                                             \
    EXPORT int name(int fd, int cmd, ...)                       \
    {                                                           \
        va_list ap;                                             \
        void *arg;                                              \
                                                                \
        va_start(ap, cmd);                                      \
        arg = va_arg(ap, void *);                               \
        va_end(ap);                                             \
        return fix_fcntl(fd, cmd, REAL(name)(fd, cmd, arg));    \
    }

FCNTL(fcntl)
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 28)
FCNTL(fcntl64)
#endif

/*
 * Doorbells
 */

static void *map_node(VsNode *n, int fd, void *addr, size_t length, int prot,
                      int flags, off64_t offset)
{
    void *page;
    int ret = vs_node_mmap(n, fd, addr, length, prot, flags, offset, &page);

    if (ret < 0) {
        errno = -ret;
        return MAP_FAILED;
    }
    return page;
}

#define MMAP(name, off_type)                                            \
    EXPORT void *name(void *addr, size_t length, int prot, int flags,   \
                      int fd, off_type offset)                          \
    {                                                                   \
        VsNode *n = flags & MAP_ANONYMOUS ? NULL : lookup(fd);          \
        void *p;                                                        \
                                                                        \
        if (n) {                                                        \
            return map_node(n, fd, addr, length, prot, flags, offset);  \
        }                                                               \
        p = REAL(name)(addr, length, prot, flags, fd, offset);          \
        if (flags & MAP_FIXED && p != MAP_FAILED &&                     \
            vs_doorbells_mapped()) {                                    \
            vs_doorbells_unmap(p, length);                              \
        }                                                               \
        return p;                                                       \
    }

MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

EXPORT int munmap(void *addr, size_t length)
{
    int err, ret = REAL(munmap)(addr, length);

    if (ret == 0 && vs_doorbells_mapped()) {
        err = errno;
        vs_doorbells_unmap(addr, length);
        errno = err;
    }
    return ret;
}

/*
 * Signals that device threads need
 */

static int real_sigaction(int sig, const struct sigaction *act,
                          struct sigaction *old)
{
    return REAL(sigaction)(sig, act, old);
}

EXPORT int sigaction(int sig, const struct sigaction *act,
                     struct sigaction *old)
{
    if (vs_guard_sigaction(sig, act, old)) {
        return 0;
    }
    return real_sigaction(sig, act, old);
}

/* Not by its name, which style forbids to use */
EXPORT sighandler_t vs_signal(int sig, sighandler_t handler)
    __asm__("signal");

sighandler_t vs_signal(int sig, sighandler_t handler)
{
    struct sigaction act = {
        .sa_handler = handler,
        .sa_flags = SA_RESTART,
    };
    struct sigaction old;

    sigemptyset(&act.sa_mask);
    if (vs_guard_sigaction(sig, &act, &old)) {
        return old.sa_handler;
    }
    return REAL(signal)(sig, handler);
}

/*
 * Life of the process
 */

static void forked(void)
{
    vs_control_fork();
    vs_nodes_fork();
}

static void __attribute__((constructor)) loaded(void)
{
    const char *pid = getenv(VS_ENV_PID);
    const char *transcript = getenv(VS_ENV_TRANSCRIPT);

    if (!vs_nodes_init(real_sigaction)) {
        return;
    }
    active = true;
    pthread_atfork(NULL, NULL, forked);
    /* left by the program that executed this one, or by its parent */
    vs_nodes_open_fds(flag);
    if (transcript) {
        int ret = vs_transcript_open(transcript);

        if (ret < 0) {
            fprintf(stderr, "vdpa-soft: --transcript %s: cannot append to "
                    "it: %s; the calls of process %d will be missing there\n",
                    transcript, strerror(-ret), (int)getpid());
        }
    }
    /*
     * The program the launcher started serves the control socket at once;
     * its children only if they use a node.
     */
    if (pid && atoll(pid) == getpid()) {
        vs_control_start();
    }
}

static void __attribute__((destructor)) unloaded(void)
{
    if (active) {
        vs_nodes_exit();
        vs_control_exit();
    }
}
