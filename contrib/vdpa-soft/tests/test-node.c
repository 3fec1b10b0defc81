/*
 * vdpa-soft: tests of the node, as any client sees it
 *
 * Each case runs this program again under the launcher, with the options the
 * case asks for.  There it uses nothing but what any program would: open(),
 * ioctl(), write() and the control socket.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "qemu/compiler.h"
#include "compat.h"

#define PATH "/dev/vhost-vdpa-0"
#define PAGE 4096
#define MIB (1ULL << 20)
#define GIB (1ULL << 30)

#define F_CTRL_VQ         (1ULL << 17)
#define F_MQ              (1ULL << 22)
#define F_VERSION_1       (1ULL << 32)
#define F_ACCESS_PLATFORM (1ULL << 33)
#define F_RING_PACKED     (1ULL << 34)
#define F_MODERN          (F_VERSION_1 | F_ACCESS_PLATFORM)

#define FIRST_DEADLINE_MS 20000

/* Milliseconds after which a test that waits for something has failed */
#define DEADLINE "20000"

#define BACKEND(name) (1ULL << VHOST_BACKEND_F_##name)

/* A call that must fail, with this errno */
#define g_assert_fails(call, error) do {                        \
        errno = 0;                                              \
        g_assert_cmpint((call), ==, -1);                        \
        g_assert_cmpint(errno, ==, (error));                    \
    } while (0)

#define g_assert_works(call) do {                               \
        long long ret_ = (call);                                \
        if (ret_ < 0) {                                         \
            g_error("%s: %s", #call, g_strerror(errno));        \
        }                                                       \
    } while (0)

/*
 * A client
 */

static int node;
static int control = -1;
/* volatile, or the compiler sees what is wrong with it */
static void *volatile nowhere = (void *)8;
/* volatile: as above */
static void *volatile beyond = (void *)-4096L;

/* Returns: the reply to a request, g_malloc'd, without its line break */
static char *ask(const char *format, ...) G_GNUC_PRINTF(1, 2);

static char *ask(const char *format, ...)
{
    GString *reply = g_string_new(NULL);
    g_autofree char *line = NULL;
    va_list ap;
    char c;

    if (control < 0) {
        struct sockaddr_un addr = { .sun_family = AF_UNIX };

        g_strlcpy(addr.sun_path, getenv("VDPA_SOFT_CONTROL"),
                  sizeof(addr.sun_path));
        control = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        g_assert_works(connect(control, (struct sockaddr *)&addr,
                               sizeof(addr)));
    }
    va_start(ap, format);
    line = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_assert_cmpint(send(control, line, strlen(line), 0), ==, strlen(line));
    g_assert_cmpint(send(control, "\n", 1, 0), ==, 1);
    while (recv(control, &c, 1, 0) == 1 && c != '\n') {
        g_string_append_c(reply, c);
    }
    return g_string_free(reply, false);
}

/* A request that must succeed */
#define tell(...) do {                                          \
        g_autofree char *reply_ = ask(__VA_ARGS__);             \
        if (!g_str_has_prefix(reply_, "{\"ok\":true")) {        \
            g_error("%s", reply_);                              \
        }                                                       \
    } while (0)

/* One whose reply must contain a text */
#define g_assert_reply(text, ...) do {                          \
        g_autofree char *reply_ = ask(__VA_ARGS__);             \
        if (!strstr(reply_, text)) {                            \
            g_error("no %s in %s", text, reply_);               \
        }                                                       \
    } while (0)

static void open_node(void)
{
    node = open(PATH, O_RDWR | O_CLOEXEC);
    g_assert_works(node);
}

static uint8_t get_status(void)
{
    uint8_t status;

    g_assert_works(ioctl(node, VHOST_VDPA_GET_STATUS, &status));
    return status;
}

static int set_status(uint8_t status)
{
    return ioctl(node, VHOST_VDPA_SET_STATUS, &status);
}

static int set_features(uint64_t features)
{
    return ioctl(node, VHOST_SET_FEATURES, &features);
}

static int set_backend(uint64_t features)
{
    return ioctl(node, VHOST_SET_BACKEND_FEATURES, &features);
}

static int vring(unsigned long cmd, uint32_t index, uint32_t num)
{
    struct vhost_vring_state state = { .index = index, .num = num };

    return ioctl(node, cmd, &state);
}

static int vring_get(unsigned long cmd, uint32_t index, uint32_t *num)
{
    struct vhost_vring_state state = { .index = index, .num = 0xdead };
    int ret = ioctl(node, cmd, &state);

    *num = state.num;
    return ret;
}

static int vring_fd(unsigned long cmd, uint32_t index, int fd)
{
    struct vhost_vring_file file = { .index = index, .fd = fd };

    return ioctl(node, cmd, &file);
}

static int vring_addr(uint32_t index, uint64_t desc, uint64_t avail,
                      uint64_t used)
{
    struct vhost_vring_addr addr = {
        .index = index,
        .desc_user_addr = desc,
        .avail_user_addr = avail,
        .used_user_addr = used,
    };

    return ioctl(node, VHOST_SET_VRING_ADDR, &addr);
}

static ssize_t msg_as(uint32_t asid, uint8_t type, uint64_t iova,
                      uint64_t size, const void *uaddr, uint8_t perm)
{
    struct vhost_msg_v2 msg = {
        .type = VHOST_IOTLB_MSG_V2,
        .asid = asid,
        .iotlb = {
            .iova = iova,
            .size = size,
            .uaddr = (uintptr_t)uaddr,
            .perm = perm,
            .type = type,
        },
    };

    return write(node, &msg, sizeof(msg));
}

static ssize_t map(uint64_t iova, uint64_t size, const void *uaddr)
{
    return msg_as(0, VHOST_IOTLB_UPDATE, iova, size, uaddr, 3);
}

static ssize_t unmap(uint64_t iova, uint64_t size)
{
    return msg_as(0, VHOST_IOTLB_INVALIDATE, iova, size, NULL, 0);
}

static void *shared(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    g_assert_true(p != MAP_FAILED);
    return p;
}

static void wait_value(const char *key, const char *op, uint64_t value)
{
    tell("wait %s %s %" G_GUINT64_FORMAT " " DEADLINE, key, op,
         (guint64)value);
}

/*
 * Opening and references
 */

static void case_open(void)
{
    struct stat st;
    struct statx stx;
    struct pollfd p;
    int other, flags;
    char byte;

    g_assert_works(stat(PATH, &st));
    g_assert_true(S_ISCHR(st.st_mode));
    g_assert_works(access(PATH, R_OK | W_OK));
    g_assert_works(statx(AT_FDCWD, PATH, 0, STATX_TYPE, &stx));
    g_assert_true(S_ISCHR(stx.stx_mode));
    open_node();
    g_assert_works(fstat(node, &st));
    g_assert_true(S_ISCHR(st.st_mode));
    flags = fcntl(node, F_GETFD);
    g_assert_true(flags & FD_CLOEXEC);
    g_assert_fails(open(PATH, O_RDWR), EBUSY);
    g_assert_fails(openat(AT_FDCWD, PATH, O_RDWR), EBUSY);
    g_assert_fails(read(node, &byte, 1), EINVAL);
    g_assert_fails(lseek(node, 0, SEEK_SET), ESPIPE);
    /* there are no positions, but they may be given */
    g_assert_fails(pread(node, &byte, 1, 0), EINVAL);
    g_assert_fails(pwrite(node, &byte, 1, 0), EINVAL);
    p = (struct pollfd) { .fd = node, .events = POLLIN | POLLOUT };
    g_assert_cmpint(poll(&p, 1, 0), ==, 1);
    g_assert_cmpint(p.revents, ==, POLLIN | POLLOUT);
    other = epoll_create1(EPOLL_CLOEXEC);
    g_assert_fails(epoll_ctl(other, EPOLL_CTL_ADD, node,
                             &(struct epoll_event) { .events = EPOLLIN }),
                   EPERM);
    g_assert_fails(epoll_ctl(other, EPOLL_CTL_DEL, node, NULL), EPERM);

    /* the last reference counts, whatever it is */
    g_assert_works(set_status(1));
    other = dup(node);
    g_assert_works(other);
    g_assert_works(close(node));
    g_assert_fails(open(PATH, O_RDWR), EBUSY);
    node = other;
    g_assert_cmpuint(get_status(), ==, 1);
    g_assert_works(dup2(STDOUT_FILENO, node));
    g_assert_fails(ioctl(node, VHOST_VDPA_GET_STATUS, &byte), ENOTTY);
    close(node);
    open_node();
    g_assert_cmpuint(get_status(), ==, 0);
    g_assert_works(close(node));
    g_assert_fails(ioctl(node, VHOST_VDPA_GET_STATUS, &byte), EBADF);
    g_assert_fails(open("/dev/vhost-vdpa-none", O_RDWR), ENOENT);
}

static void case_accmode(void)
{
    uint64_t features;

    node = open(PATH, O_RDONLY);
    g_assert_works(node);
    g_assert_cmpint(fcntl(node, F_GETFL) & O_ACCMODE, ==, O_RDONLY);
    g_assert_works(ioctl(node, VHOST_GET_FEATURES, &features));
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_fails(map(0, PAGE, shared(PAGE)), EBADF);
    g_assert_true(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, node, 0) ==
                  MAP_FAILED);
    g_assert_cmpint(errno, ==, EACCES);
    g_assert_true(mmap(NULL, PAGE, PROT_NONE, MAP_SHARED, node, 0) ==
                  MAP_FAILED);
    g_assert_cmpint(errno, ==, EINVAL);
    close(node);
    node = open(PATH, O_WRONLY | O_NONBLOCK);
    g_assert_works(node);
    g_assert_true(fcntl(node, F_GETFL) & O_NONBLOCK);
    g_assert_fails(read(node, &features, 8), EBADF);
    g_assert_true(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, node, 0) ==
                  MAP_FAILED);
    g_assert_cmpint(errno, ==, EACCES);
    g_assert_true(mmap(NULL, 0, PROT_WRITE, MAP_SHARED, node, 0) ==
                  MAP_FAILED);
    g_assert_cmpint(errno, ==, EINVAL);
}

typedef union Control {
    struct cmsghdr align;
    /* room for two, for alignment */
    char buf[CMSG_SPACE(2 * sizeof(int))];
} Control;

static void send_fds(int to, const int *fds, int count)
{
    Control u = { 0 };
    char byte = 0;
    struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = u.buf,
        .msg_controllen = sizeof(u.buf),
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    g_assert_works(sendmsg(to, &msg, 0));
}

static void send_fd(int to, int fd)
{
    send_fds(to, &fd, 1);
}

static int take_fd(int from)
{
    Control u = { 0 };
    char byte;
    struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = u.buf,
        .msg_controllen = sizeof(u.buf),
    };
    int fd;

    g_assert_cmpint(recvmsg(from, &msg, 0), ==, 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
    return fd;
}

static int pass_fd(int fd)
{
    int sv[2];

    g_assert_works(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
    send_fd(sv[0], fd);
    close(fd);
    fd = take_fd(sv[1]);
    close(sv[0]);
    close(sv[1]);
    return fd;
}

static void case_pass(void)
{
    int fd;

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(set_status(3));
    fd = pass_fd(node);
    node = fd;
    /* the first use may be a message */
    g_assert_cmpint(map(0, PAGE, shared(PAGE)), ==, 72);
    g_assert_cmpuint(get_status(), ==, 3);
    /* one that is never used is noticed too, only later */
    fd = pass_fd(node);
    node = -1;
    close(fd);
    wait_value("open", "==", 0);
    open_node();
}

typedef struct Config {
    uint32_t off;
    uint32_t len;
    uint8_t buf[64];
} Config;

/*
 * Other processes
 */

/* A turn is a byte; of two processes one always waits for the other's. */
static int other = -1;

static void give_turn(void)
{
    g_assert_cmpint(send(other, "", 1, MSG_NOSIGNAL), ==, 1);
}

static void await_turn(void)
{
    char byte;

    g_assert_cmpint(recv(other, &byte, 1, 0), ==, 1);
}

static pid_t start_child(void (*run)(void))
{
    int sv[2];
    pid_t pid;

    g_assert_works(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
    pid = fork();
    g_assert_works(pid);
    if (pid == 0) {
        close(sv[0]);
        other = sv[1];
        if (control >= 0) {
            /* the reply to one process is not for the other */
            close(control);
            control = -1;
        }
        run();
        exit(0);
    }
    close(sv[1]);
    other = sv[0];
    return pid;
}

static void end_child(pid_t pid)
{
    int status;

    g_assert_works(waitpid(pid, &status, 0));
    g_assert_cmpint(status, ==, 0);
    close(other);
}

/* What somebody may not do who has a node that another process owns */
static void check_not_owner(void)
{
    uint64_t word = 0;
    uint32_t num;
    char byte = 0;

    g_assert_fails(ioctl(node, VHOST_SET_OWNER), EBUSY);
    g_assert_fails(ioctl(node, VS_SET_FORK_FROM_OWNER, &byte), EBUSY);
    g_assert_fails(vring(VHOST_SET_VRING_NUM, 0, 256), EPERM);
    g_assert_fails(vring_get(VHOST_GET_VRING_BASE, 0, &num), EPERM);
    g_assert_fails(ioctl(node, _IO(0xAF, 0xee), NULL), EPERM);
    g_assert_fails(write(node, &word, 8), EINVAL);
    g_assert_fails(write(node, nowhere, 72), EINVAL);
    g_assert_fails(map(0, 0, &word), EINVAL);
    g_assert_fails(map(0, PAGE, shared(PAGE)), EFAULT);
    g_assert_fails(open(PATH, O_RDWR), EBUSY);
}

static void forked_child(void)
{
    Config config = { .len = 6 };
    uint64_t features;
    uint32_t num;
    struct pollfd p = { .fd = eventfd(0, EFD_CLOEXEC), .events = POLLIN };
    int bad;

    g_assert_works(ioctl(node, VHOST_GET_FEATURES, &features));
    g_assert_true(features & F_VERSION_1);
    g_assert_works(ioctl(node, VHOST_VDPA_GET_CONFIG_SIZE, &num));
    g_assert_cmpuint(num, >=, 12);
    g_assert_fails(ioctl(node, VHOST_GET_FEATURES, nowhere), EFAULT);
    check_not_owner();
    /* but the device is the same one */
    g_assert_cmpuint(get_status(), ==, 1);
    g_assert_works(set_status(3));
    g_assert_fails(set_status(1), EINVAL);
    g_assert_works(set_features(F_MODERN));
    g_assert_works(ioctl(node, VHOST_VDPA_GET_CONFIG, &config));
    g_assert_cmpmem(config.buf, 6,
                    ((uint8_t[]) { 0x52, 0x54, 0, 1, 2, 3 }), 6);
    g_assert_fails(ioctl(node, VHOST_VDPA_GET_CONFIG, nowhere), EFAULT);
    /* with the child's own memory and descriptors */
    g_assert_works(ioctl(node, VHOST_VDPA_SET_CONFIG_CALL, &p.fd));
    tell("link down");
    g_assert_cmpint(poll(&p, 1, FIRST_DEADLINE_MS), ==, 1);
    bad = 999;
    g_assert_fails(ioctl(node, VHOST_VDPA_SET_CONFIG_CALL, &bad), EBADF);
    g_assert_fails(ioctl(node, VHOST_VDPA_SET_CONFIG_CALL, &node), EINVAL);
    /* the device lives elsewhere */
    g_assert_true(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, node, 0) ==
                  MAP_FAILED);
    g_assert_cmpint(errno, ==, EINVAL);
    g_assert_true(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, node, 0) ==
                  MAP_FAILED);
    g_assert_cmpint(errno, ==, VS_ENOTSUPP);
    give_turn();
    await_turn();
    /* hold it until told */
    g_assert_cmpuint(get_status(), ==, 3);
    check_not_owner();
}

static void case_fork(void)
{
    uint32_t base;
    pid_t pid;

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(set_status(1));
    g_assert_works(vring(VHOST_SET_VRING_BASE, 0, 7));
    pid = start_child(forked_child);
    await_turn();
    g_assert_cmpuint(get_status(), ==, 3);
    g_assert_works(vring_get(VHOST_GET_VRING_BASE, 0, &base));
    g_assert_cmpuint(base, ==, 7);
    close(node);
    g_assert_fails(open(PATH, O_RDWR), EBUSY);
    give_turn();
    end_child(pid);
    open_node();
    g_assert_cmpuint(get_status(), ==, 0);
}

static void owning_child(void)
{
    uint32_t base;

    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(vring(VHOST_SET_VRING_BASE, 1, 9));
    g_assert_works(vring_get(VHOST_GET_VRING_BASE, 1, &base));
    g_assert_cmpuint(base, ==, 9);
    g_assert_works(vring(VHOST_SET_VRING_NUM, 0, 256));
    g_assert_works(vring_fd(VHOST_SET_VRING_KICK, 0,
                            eventfd(0, EFD_CLOEXEC)));
    g_assert_works(vring_fd(VHOST_SET_VRING_CALL, 0,
                            eventfd(0, EFD_CLOEXEC)));
    g_assert_fails(vring_fd(VHOST_SET_VRING_CALL, 0, other), EINVAL);
    g_assert_cmpint(msg_as(0, VHOST_IOTLB_BATCH_BEGIN, 0, 0, NULL, 0), ==,
                    72);
    g_assert_cmpint(msg_as(0, VHOST_IOTLB_BATCH_END, 0, 0, NULL, 0), ==, 72);
    /* unlike a kernel */
    g_assert_fails(map(0, PAGE, shared(PAGE)), EFAULT);
    g_assert_reply("the memory of another process", "transcript");
    give_turn();
    await_turn();
}

/* A child may become the owner as well. */
static void case_fork_owner(void)
{
    pid_t pid;

    open_node();
    pid = start_child(owning_child);
    await_turn();
    check_not_owner();
    g_assert_reply("\"owned\":true", "nodes");
    give_turn();
    end_child(pid);
    /* that it ended changes nothing */
    check_not_owner();
    close(node);
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(vring(VHOST_SET_VRING_BASE, 1, 9));
}

/* One that never heard of the node it is passed */
static void taking_child(void)
{
    node = take_fd(other);
    check_not_owner();
    g_assert_cmpuint(get_status(), ==, 3);
    g_assert_works(set_status(0));
    give_turn();
    await_turn();
    /* the last reference now */
    g_assert_cmpuint(get_status(), ==, 0);
    g_assert_fails(open(PATH, O_RDWR), EBUSY);
    close(node);
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_cmpint(map(0, PAGE, shared(PAGE)), ==, 72);
}

static void case_fork_pass(void)
{
    pid_t pid = start_child(taking_child);

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(set_status(3));
    send_fd(other, node);
    await_turn();
    g_assert_cmpuint(get_status(), ==, 0);
    g_assert_works(vring(VHOST_SET_VRING_BASE, 0, 7));
    close(node);
    give_turn();
    end_child(pid);
    open_node();
}

/* Where a program finds the node that is executed with it */
#define KEPT_FD 30

static void executing_child(void)
{
    g_autofree char *program = g_file_read_link("/proc/self/exe", NULL);

    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(vring(VHOST_SET_VRING_BASE, 1, 9));
    g_assert_works(dup2(node, KEPT_FD));
    execl(program, program, "--case", "executed", NULL);
    g_error("cannot execute %s: %s", program, g_strerror(errno));
}

static void case_executed(void)
{
    node = KEPT_FD;
    /* the first use may be anything that looks at the descriptor */
    g_assert_cmpint(fcntl(node, F_GETFL) & O_ACCMODE, ==, O_WRONLY);
    g_assert_fails(read(node, &(char) { 0 }, 1), EBADF);
    g_assert_cmpuint(get_status(), ==, 3);
    g_assert_works(set_status(7));
    /* another process than the one that owned the node */
    check_not_owner();
}

static void case_fork_exec(void)
{
    node = open(PATH, O_WRONLY | O_CLOEXEC);
    g_assert_works(node);
    g_assert_works(set_status(3));
    end_child(start_child(executing_child));
    g_assert_cmpuint(get_status(), ==, 7);
    check_not_owner();
    close(node);
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
}

static void ending_child(void)
{
    open_node();
    g_assert_works(set_status(3));
    send_fd(other, node);
    await_turn();
    /* without closing it */
}

/* A node ends with the process that opened it. */
static void case_fork_end(void)
{
    pid_t pid = start_child(ending_child);
    uint8_t status;

    node = take_fd(other);
    g_assert_cmpuint(get_status(), ==, 3);
    g_assert_fails(open(PATH, O_RDWR), EBUSY);
    give_turn();
    end_child(pid);
    g_assert_fails(ioctl(node, VHOST_VDPA_GET_STATUS, &status), EIO);
    g_assert_fails(map(0, PAGE, shared(PAGE)), EIO);
    close(node);
    open_node();
    g_assert_cmpuint(get_status(), ==, 0);
}

static void silent_child(void)
{
    struct pollfd p = { 0 };
    int sv[2];

    g_assert_works(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
    /* as if to ask for a call, which does not come */
    send_fd(node, sv[1]);
    g_assert_cmpuint(get_status(), ==, 3);
    /* nor is more kept of what comes than is of use */
    send_fds(node, (int [2]) { sv[1], sv[1] }, 2);
    g_assert_cmpuint(get_status(), ==, 3);
    close(sv[1]);
    p.fd = sv[0];
    g_assert_cmpint(poll(&p, 1, FIRST_DEADLINE_MS), ==, 1);
    g_assert_true(p.revents & POLLHUP);
}

/* One that asks for nothing, say because it was stopped, is not waited for. */
static void case_fork_silent(void)
{
    open_node();
    g_assert_works(set_status(3));
    end_child(start_child(silent_child));
    g_assert_cmpuint(get_status(), ==, 3);
}

/* A child that was forked before may have the node for itself. */
static void case_fork_first(void)
{
    int status;
    pid_t pid = fork();

    g_assert_works(pid);
    if (pid == 0) {
        open_node();
        g_assert_works(ioctl(node, VHOST_SET_OWNER));
        g_assert_cmpint(map(0, PAGE, shared(PAGE)), ==, 72);
        /* it has taken the control socket over */
        g_assert_reply("\"owned\":true", "nodes");
        exit(0);
    }
    g_assert_works(waitpid(pid, &status, 0));
    g_assert_cmpint(status, ==, 0);
    open_node();
}

static void case_fd(void)
{
    uint64_t features;
    int fd;

    node = 20;
    /* it is open already */
    g_assert_fails(open(PATH, O_RDWR), EBUSY);
    g_assert_works(ioctl(node, VHOST_GET_FEATURES, &features));
    g_assert_true(features & F_VERSION_1);
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_cmpint(map(0, PAGE, shared(PAGE)), ==, 72);
    fd = dup(node);
    close(node);
    g_assert_fails(open(PATH, O_RDWR), EBUSY);
    close(fd);
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
}

/* While the shell that started the program has the descriptor too */
static void case_fd_held(void)
{
    uint64_t features;

    node = 20;
    g_assert_works(ioctl(node, VHOST_GET_FEATURES, &features));
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_cmpint(map(0, PAGE, shared(PAGE)), ==, 72);
    close(node);
    g_assert_fails(open(PATH, O_RDWR), EBUSY);
}

static void case_fd_unused(void)
{
    g_assert_works(close(20));
    open_node();
}

static void case_two_nodes(void)
{
    int second = open("/dev/vhost-vdpa-1", O_RDWR);
    uint32_t id;

    g_assert_works(second);
    open_node();
    g_assert_works(ioctl(node, VHOST_VDPA_GET_DEVICE_ID, &id));
    g_assert_cmpuint(id, ==, 1);
    g_assert_works(ioctl(second, VHOST_VDPA_GET_DEVICE_ID, &id));
    g_assert_cmpuint(id, ==, 2);
    g_assert_works(set_status(1));
    close(second);
    g_assert_cmpuint(get_status(), ==, 1);
    g_assert_reply("\"path\":\"/dev/vhost-vdpa-1\",\"open\":false", "nodes");
}

/*
 * Dispatch
 */

static void case_dispatch(void)
{
    uint32_t big[16] = { 99 }, zero[16] = { 0 };
    void *const bad = nowhere;
    struct vhost_memory mem = { .nregions = 65 };
    struct vhost_memory none = { 0 };
    uint8_t byte;

    open_node();
    /* not the owner */
    g_assert_fails(vring(VHOST_SET_VRING_NUM, 0, 256), EPERM);
    g_assert_fails(ioctl(node, VHOST_RESET_OWNER), EPERM);
    g_assert_fails(ioctl(node, _IO(0xAF, 0xee), NULL), EPERM);
    g_assert_fails(map(0, PAGE, shared(PAGE)), EFAULT);
    g_assert_fails(ioctl(node, VHOST_SET_LOG_BASE, zero), ENOTTY);
    /* needs none */
    g_assert_works(set_status(1));
    g_assert_fails(ioctl(node, VHOST_GET_FEATURES, bad), EFAULT);
    g_assert_fails(ioctl(node, VHOST_VDPA_SET_STATUS, bad), EFAULT);

    byte = 2;
    g_assert_fails(ioctl(node, VS_SET_FORK_FROM_OWNER, &byte), EINVAL);
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_fails(ioctl(node, VHOST_SET_OWNER), EBUSY);
    g_assert_fails(ioctl(node, VS_SET_FORK_FROM_OWNER, &byte), EBUSY);
    g_assert_works(ioctl(node, VS_GET_FORK_FROM_OWNER, &byte));

    g_assert_fails(ioctl(node, _IO(0xAF, 0xee), NULL), EFAULT);
    g_assert_fails(ioctl(node, _IO(0xAF, 0xee), big), ENOBUFS);
    g_assert_fails(ioctl(node, _IO(0xAF, 0xee), zero), ENOTTY);
    /* the right number with another size is another command */
    g_assert_fails(ioctl(node, _IOR(0xAF, 0x71, uint32_t), zero), ENOTTY);
    g_assert_fails(vring(VHOST_SET_VRING_ENDIAN, 0, 0), ENOTTY);
    g_assert_fails(vring(VHOST_SET_VRING_NUM, 3, 0), ENOBUFS);
    g_assert_fails(ioctl(node, VHOST_SET_VRING_NUM, bad), EFAULT);

    g_assert_fails(ioctl(node, VHOST_SET_MEM_TABLE, &mem), E2BIG);
    mem.padding = 1;
    g_assert_fails(ioctl(node, VHOST_SET_MEM_TABLE, &mem), EOPNOTSUPP);
    g_assert_works(ioctl(node, VHOST_SET_MEM_TABLE, &none));
}

/*
 * Status, features, config
 */

static void case_status(void)
{
    open_node();
    g_assert_cmpuint(get_status(), ==, 0);
    g_assert_works(set_status(3));
    g_assert_fails(set_status(1), EINVAL);
    g_assert_cmpuint(get_status(), ==, 3);
    /* no order is enforced, unknown bits pass */
    g_assert_works(set_status(3 | 4 | 16));
    g_assert_cmpuint(get_status(), ==, 3 | 4 | 16);
    tell("needs-reset");
    g_assert_cmpuint(get_status(), ==, 3 | 4 | 16 | 0x40);
    g_assert_fails(set_status(3 | 4 | 16 | 8), EINVAL);
    g_assert_works(set_status(3 | 4 | 16 | 8 | 0x40));
    g_assert_works(set_status(0));
    g_assert_cmpuint(get_status(), ==, 0);
}

static void case_refuse(void)
{
    open_node();
    g_assert_works(set_features(F_MODERN));
    g_assert_works(set_status(3));
    g_assert_works(set_status(3 | 8));
    g_assert_cmpuint(get_status(), ==, 3);
}

static void case_fail_driver_ok(void)
{
    open_node();
    g_assert_works(set_status(3));
    g_assert_works(set_status(7));
    g_assert_cmpuint(get_status(), ==, 3 | 0x80);
    g_assert_fails(set_status(7), EINVAL);
    g_assert_works(set_status(0));
}

static void case_no_driver_ok(void)
{
    open_node();
    g_assert_works(set_status(3));
    g_assert_works(set_status(7));
    g_assert_cmpuint(get_status(), ==, 3);
    /* nothing else that came with it took either */
    g_assert_works(set_status(15));
    g_assert_cmpuint(get_status(), ==, 3);
}

static void case_features(void)
{
    uint64_t offered;

    open_node();
    g_assert_works(ioctl(node, VHOST_GET_FEATURES, &offered));
    g_assert_true(offered & F_RING_PACKED);
    g_assert_false(offered & F_MQ);
    g_assert_fails(set_features(F_VERSION_1), EINVAL);
    g_assert_fails(set_features(F_MODERN | 1ULL << 40), EINVAL);
    g_assert_works(set_features(F_MODERN));
    g_assert_works(set_features(F_MODERN | F_RING_PACKED));
    g_assert_works(set_status(11));
    /* before the argument is looked at */
    g_assert_fails(ioctl(node, VHOST_SET_FEATURES, NULL), EBUSY);
    g_assert_works(set_status(0));
    g_assert_fails(ioctl(node, VHOST_SET_FEATURES, NULL), EFAULT);
}

static void case_features_sim(void)
{
    uint64_t features;

    open_node();
    g_assert_works(ioctl(node, VHOST_GET_FEATURES, &features));
    g_assert_cmphex(features, ==, 0x308830028);
    g_assert_works(ioctl(node, VHOST_GET_BACKEND_FEATURES, &features));
    g_assert_cmphex(features, ==, 0x17e);
    g_assert_fails(set_features(0), EINVAL);
    /* what is not offered is dropped without a word */
    g_assert_works(set_features(F_MODERN | 1ULL << 40));
    g_assert_works(set_status(11));
    g_assert_cmpuint(get_status(), ==, 11);
}

static void case_features_vduse(void)
{
    uint64_t features;

    open_node();
    g_assert_works(ioctl(node, VHOST_GET_BACKEND_FEATURES, &features));
    g_assert_cmphex(features, ==, 0xe);
    g_assert_works(set_features(F_VERSION_1 | 1ULL << 40));
    g_assert_works(set_status(11));
    g_assert_cmpuint(get_status(), ==, 3);
    /* a reset leaves the driver none to refuse */
    g_assert_works(set_status(0));
    g_assert_works(set_status(11));
    g_assert_cmpuint(get_status(), ==, 11);
}

static void case_backend(void)
{
    uint64_t features;

    open_node();
    g_assert_works(ioctl(node, VHOST_GET_BACKEND_FEATURES, &features));
    g_assert_cmphex(features, ==, 0x1fe);
    g_assert_fails(set_backend(1ULL << 9), EOPNOTSUPP);
    g_assert_fails(set_backend(BACKEND(DESC_ASID)), EINVAL);
    g_assert_works(set_backend(features));
    g_assert_works(set_backend(0));
}

static void case_backend_less(void)
{
    uint64_t features;

    open_node();
    g_assert_works(ioctl(node, VHOST_GET_BACKEND_FEATURES, &features));
    g_assert_cmphex(features, ==, 0x0e);
    g_assert_fails(set_backend(BACKEND(SUSPEND)), EOPNOTSUPP);
    g_assert_fails(set_backend(BACKEND(IOTLB_PERSIST)), EOPNOTSUPP);
    g_assert_fails(set_backend(BACKEND(IOTLB_ASID) | BACKEND(DESC_ASID)),
                   EOPNOTSUPP);
    /* accepted on every device */
    g_assert_works(set_backend(BACKEND(ENABLE_AFTER_DRIVER_OK)));
    g_assert_works(set_status(7));
    g_assert_fails(ioctl(node, VHOST_VDPA_SUSPEND), EOPNOTSUPP);
    g_assert_fails(ioctl(node, VHOST_VDPA_RESUME), EOPNOTSUPP);
}

static void case_config(void)
{
    Config c = { .len = 6 };
    uint32_t size;
    int fd, bad[2];
    uint64_t count;

    open_node();
    g_assert_works(ioctl(node, VHOST_VDPA_GET_CONFIG_SIZE, &size));
    g_assert_cmpuint(size, >=, 12);
    g_assert_works(ioctl(node, VHOST_VDPA_GET_CONFIG, &c));
    g_assert_cmpmem(c.buf, 6, ((uint8_t[]) { 0x52, 0x54, 0, 1, 2, 3 }), 6);
    c.len = 0;
    g_assert_fails(ioctl(node, VHOST_VDPA_GET_CONFIG, &c), EINVAL);
    c.len = size + 1;
    g_assert_fails(ioctl(node, VHOST_VDPA_GET_CONFIG, &c), EINVAL);
    c.off = size;
    c.len = 1;
    g_assert_fails(ioctl(node, VHOST_VDPA_GET_CONFIG, &c), EINVAL);
    c.off = UINT32_MAX;
    c.len = 2;
    g_assert_fails(ioctl(node, VHOST_VDPA_SET_CONFIG, &c), EINVAL);
    c.off = 10;
    c.len = 2;
    g_assert_works(ioctl(node, VHOST_VDPA_GET_CONFIG, &c));
    g_assert_cmpuint(c.buf[0] | c.buf[1] << 8, ==, 1400);

    /* a bad descriptor takes the good one away */
    fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    g_assert_works(ioctl(node, VHOST_VDPA_SET_CONFIG_CALL, &fd));
    g_assert_works(set_features(F_MODERN | 1ULL << 16));
    g_assert_works(set_status(15));
    tell("link down");
    g_assert_works(read(fd, &count, sizeof(count)));
    g_assert_cmpuint(count, ==, 1);
    c.off = 6;
    g_assert_works(ioctl(node, VHOST_VDPA_GET_CONFIG, &c));
    g_assert_cmpuint(c.buf[0] & 1, ==, 0);
    g_assert_works(pipe(bad));
    g_assert_fails(ioctl(node, VHOST_VDPA_SET_CONFIG_CALL, &bad[0]), EINVAL);
    tell("link up");
    g_assert_fails(read(fd, &count, sizeof(count)), EAGAIN);
    g_assert_reply("\"config-interrupts\":1,", "stats");
    bad[0] = 9999;
    g_assert_fails(ioctl(node, VHOST_VDPA_SET_CONFIG_CALL, &bad[0]), EBADF);
}

/* Such a driver takes no interrupt of a device that is not in use */
static void case_config_irq_driver_ok(void)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t count;

    open_node();
    g_assert_works(ioctl(node, VHOST_VDPA_SET_CONFIG_CALL, &fd));
    g_assert_works(set_status(3));
    g_assert_works(set_features(F_MODERN | 1ULL << 16));
    g_assert_works(set_status(11));
    tell("link down");
    g_assert_fails(read(fd, &count, sizeof(count)), EAGAIN);
    g_assert_works(set_status(15));
    g_assert_fails(read(fd, &count, sizeof(count)), EAGAIN);
    tell("link up");
    g_assert_works(read(fd, &count, sizeof(count)));
    g_assert_cmpuint(count, ==, 1);
}

static void check_max_pairs(uint16_t pairs)
{
    Config c = { .off = 8, .len = 2 };

    open_node();
    g_assert_works(ioctl(node, VHOST_VDPA_GET_CONFIG, &c));
    g_assert_cmpuint(c.buf[0] | c.buf[1] << 8, ==, pairs);
    /* nothing else depends on it */
    g_assert_works(set_status(1));
    g_assert_works(set_status(0));
    g_assert_works(ioctl(node, VHOST_VDPA_GET_CONFIG, &c));
    g_assert_cmpuint(c.buf[0] | c.buf[1] << 8, ==, pairs);
    c = (Config) { .len = 6 };
    g_assert_works(ioctl(node, VHOST_VDPA_GET_CONFIG, &c));
    g_assert_cmpmem(c.buf, 5, ((uint8_t[]) { 0x52, 0x54, 0, 0x5d, 0xfa }), 5);
}

static void case_max_pairs_true(void)
{
    uint32_t num;

    check_max_pairs(2);
    g_assert_works(ioctl(node, VHOST_VDPA_GET_VQS_COUNT, &num));
    g_assert_cmpuint(num, ==, 5);
}

static void case_max_pairs_0(void)
{
    check_max_pairs(0);
}

static void case_max_pairs(void)
{
    uint32_t num;

    check_max_pairs(40000);
    g_assert_works(ioctl(node, VHOST_VDPA_GET_VQS_COUNT, &num));
    g_assert_cmpuint(num, ==, 5);
}

static void case_absurd(void)
{
    struct vhost_vdpa_iova_range range;
    Config c = { .off = 0, .len = 4 };
    uint32_t num;
    uint16_t size = 0;

    open_node();
    g_assert_works(ioctl(node, VHOST_VDPA_GET_VQS_COUNT, &num));
    g_assert_cmpuint(num, ==, 0);
    g_assert_works(ioctl(node, VHOST_VDPA_GET_VRING_NUM, &size));
    g_assert_cmpuint(size, ==, 65535);
    g_assert_works(ioctl(node, VHOST_VDPA_GET_IOVA_RANGE, &range));
    g_assert_cmphex(range.first, ==, 0x2000);
    g_assert_cmphex(range.last, ==, 0x1000);
    g_assert_works(ioctl(node, VHOST_VDPA_GET_CONFIG_SIZE, &num));
    g_assert_cmpuint(num, ==, 3);
    g_assert_fails(ioctl(node, VHOST_VDPA_GET_CONFIG, &c), EINVAL);
    c.len = 3;
    g_assert_works(ioctl(node, VHOST_VDPA_GET_CONFIG, &c));
    g_assert_works(ioctl(node, VHOST_VDPA_GET_DEVICE_ID, &num));
    g_assert_cmpuint(num, ==, 2);
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_fails(vring(VHOST_SET_VRING_NUM, 0, 256), ENOBUFS);
}

static void case_busy(void)
{
    g_assert_fails(open(PATH, O_RDWR), EBUSY);
    g_assert_reply("\"call\":\"OPEN\",\"args\":{\"flags\":2},\"ret\":-1,"
                   "\"errno\":16", "transcript");
}

/*
 * Virtqueues
 */

static void case_vring(void)
{
    uint32_t num;
    int pipefd[2], fd;

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_fails(vring(VHOST_SET_VRING_NUM, 0, 0), EINVAL);
    g_assert_fails(vring(VHOST_SET_VRING_NUM, 0, 100), EINVAL);
    g_assert_fails(vring(VHOST_SET_VRING_NUM, 0, 65536), EINVAL);
    g_assert_works(vring(VHOST_SET_VRING_NUM, 0, 32768));
    g_assert_works(vring_get(VHOST_VDPA_GET_VRING_SIZE, 0, &num));
    g_assert_cmpuint(num, ==, 32768);
    g_assert_fails(vring_addr(0, 0, 1, 0), EINVAL);
    g_assert_fails(vring_addr(0, 0, 0, 2), EINVAL);
    g_assert_works(vring_addr(0, 1, 2, 4));

    g_assert_fails(vring(VHOST_SET_VRING_BASE, 0, 0x10000), EINVAL);
    g_assert_works(vring(VHOST_SET_VRING_BASE, 0, 0xffff));
    g_assert_works(vring_get(VHOST_GET_VRING_BASE, 0, &num));
    g_assert_cmpuint(num, ==, 0xffff);
    /* the encoding outlives a reset */
    g_assert_works(set_features(F_MODERN | F_RING_PACKED));
    g_assert_works(vring(VHOST_SET_VRING_BASE, 0, 0x80058007));
    g_assert_works(vring_get(VHOST_GET_VRING_BASE, 0, &num));
    g_assert_cmphex(num, ==, 0x80058007);
    g_assert_works(set_status(0));
    g_assert_works(vring(VHOST_SET_VRING_BASE, 0, 0x80008000));
    g_assert_works(set_features(F_MODERN));
    g_assert_fails(vring(VHOST_SET_VRING_BASE, 0, 0x80008000), EINVAL);

    g_assert_works(pipe(pipefd));
    fd = eventfd(0, 0);
    g_assert_fails(vring_fd(VHOST_SET_VRING_KICK, 0, pipefd[0]), EINVAL);
    g_assert_fails(vring_fd(VHOST_SET_VRING_KICK, 0, node), EINVAL);
    g_assert_fails(vring_fd(VHOST_SET_VRING_KICK, 0, 9999), EBADF);
    g_assert_fails(vring_fd(VHOST_SET_VRING_CALL, 0, -2), EBADF);
    g_assert_fails(vring_fd(VHOST_SET_VRING_CALL, 3, fd), ENOBUFS);
    g_assert_works(vring_fd(VHOST_SET_VRING_KICK, 0, fd));
    g_assert_works(vring_fd(VHOST_SET_VRING_CALL, 0, fd));
    g_assert_works(vring_fd(VHOST_SET_VRING_ERR, 0, fd));
    g_assert_works(vring_fd(VHOST_SET_VRING_KICK, 0, -1));
    g_assert_works(vring(VHOST_SET_VRING_BUSYLOOP_TIMEOUT, 0, 7));
    g_assert_works(vring_get(VHOST_GET_VRING_BUSYLOOP_TIMEOUT, 0, &num));
    g_assert_cmpuint(num, ==, 7);

    /* fixed while it runs */
    g_assert_works(set_status(15));
    g_assert_fails(vring_addr(0, 0, 0, 0), EINVAL);
    g_assert_fails(vring(VHOST_SET_VRING_BASE, 0, 0), EINVAL);
    g_assert_works(ioctl(node, VHOST_VDPA_SUSPEND));
    g_assert_works(vring_addr(0, 0, 0, 0));
    g_assert_works(vring(VHOST_SET_VRING_BASE, 0, 0));
    g_assert_works(ioctl(node, VHOST_VDPA_RESUME));
    g_assert_fails(vring_addr(0, 0, 0, 0), EINVAL);
    g_assert_works(vring(VHOST_VDPA_SET_VRING_ENABLE, 0, 1));
}

static void case_num_checked(void)
{
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(vring(VHOST_SET_VRING_NUM, 0, 256));
    g_assert_fails(vring(VHOST_SET_VRING_NUM, 0, 512), EINVAL);
}

/* The vhost layer's idea of the ring outlives a reset, the index does not. */
static void case_base_reset(void)
{
    uint32_t num;

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(set_features(F_MODERN | F_RING_PACKED));
    g_assert_works(vring(VHOST_SET_VRING_BASE, 0, 0x80058007));
    g_assert_works(set_status(0));
    g_assert_works(vring_get(VHOST_GET_VRING_BASE, 0, &num));
    g_assert_cmphex(num, ==, 0x80008000);
    g_assert_works(vring(VHOST_SET_VRING_BASE, 0, 0x81238123));
    g_assert_works(vring_get(VHOST_GET_VRING_BASE, 0, &num));
    g_assert_cmphex(num, ==, 0x81238123);
    /* and a negotiation changes it, nothing else */
    g_assert_works(set_status(0));
    g_assert_works(set_features(F_MODERN));
    g_assert_works(vring_get(VHOST_GET_VRING_BASE, 0, &num));
    g_assert_cmphex(num, ==, 0);
    g_assert_works(set_features(F_MODERN | F_RING_PACKED));
    /* until it is closed */
    close(node);
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(vring_get(VHOST_GET_VRING_BASE, 0, &num));
    g_assert_cmphex(num, ==, 0);
    g_assert_fails(vring(VHOST_SET_VRING_BASE, 0, 0x81238123), EINVAL);
}

/* The size of ring 1 while it is set, and after a reset */
static void check_num(uint32_t after)
{
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(set_features(F_MODERN));
    g_assert_works(vring(VHOST_SET_VRING_NUM, 1, 64));
    wait_value("vq.1.num", "==", 64);
    g_assert_works(set_status(0));
    wait_value("vq.1.num", "==", after);
}

static void case_num_forgotten(void)
{
    uint32_t num;

    check_num(0);
    g_assert_works(vring_get(VHOST_VDPA_GET_VRING_SIZE, 1, &num));
    g_assert_cmpuint(num, ==, 1024);
}

static void case_num_kept(void)
{
    check_num(64);
    /* but not over a close, which a client must not rely on */
    close(node);
    open_node();
    wait_value("vq.1.num", "==", 0);
}

static void case_num_default(void)
{
    check_num(256);
    g_assert_works(vring(VHOST_SET_VRING_NUM, 1, 64));
    close(node);
    open_node();
    wait_value("vq.1.num", "==", 256);
}

/* vdpa_sim tells ring sizes only if it maps each by itself. */
static void case_size_sim(void)
{
    uint32_t num;

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(set_features(F_MODERN));
    g_assert_works(vring(VHOST_SET_VRING_NUM, 1, 64));
    g_assert_works(vring_get(VHOST_VDPA_GET_VRING_SIZE, 1, &num));
    g_assert_cmpuint(num, ==, 256);
    g_assert_works(set_status(15));
    g_assert_works(vring_get(VHOST_VDPA_GET_VRING_SIZE, 1, &num));
    g_assert_cmpuint(num, ==, 64);
}

static void case_no_size(void)
{
    uint32_t num;

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_fails(vring_get(VHOST_VDPA_GET_VRING_SIZE, 1, &num),
                   EOPNOTSUPP);
}

static void case_base_unsupported(void)
{
    uint32_t num;

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(set_features(F_MODERN));
    g_assert_fails(vring(VHOST_SET_VRING_BASE, 0, 0), EOPNOTSUPP);
    g_assert_works(set_status(11));
    g_assert_works(vring(VHOST_SET_VRING_BASE, 0, 0));
    g_assert_fails(vring(VHOST_SET_VRING_BASE, 0, 1), EOPNOTSUPP);
    g_assert_works(vring(VHOST_VDPA_SET_VRING_ENABLE, 0, 1));
    g_assert_fails(vring(VHOST_SET_VRING_BASE, 0, 0), EOPNOTSUPP);
    g_assert_fails(vring_get(VHOST_GET_VRING_BASE, 0, &num), EOPNOTSUPP);
}

static void case_mlx5_indices(void)
{
    uint32_t num;

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_fails(vring_get(VHOST_VDPA_GET_VRING_SIZE, 0, &num),
                   EOPNOTSUPP);
    /* nothing is known of queue 2 yet; silence is all there is */
    g_assert_works(vring(VHOST_SET_VRING_NUM, 2, 64));
    g_assert_fails(vring_addr(2, 0, 0, 0), EINVAL);
    g_assert_works(vring(VHOST_VDPA_SET_VRING_ENABLE, 0, 1));
    g_assert_reply("\"value\":false",
                   "wait vq.0.enabled == false " DEADLINE);
    g_assert_fails(set_features(F_MODERN | F_MQ), EINVAL);
    g_assert_works(set_features(F_MODERN | F_MQ | F_CTRL_VQ));
    g_assert_works(vring_addr(2, 0, 0, 0));
    g_assert_works(vring_get(VHOST_VDPA_GET_VRING_GROUP, 4, &num));
    g_assert_cmpuint(num, ==, 1);
    g_assert_works(set_features(F_MODERN | F_CTRL_VQ));
    g_assert_works(vring_get(VHOST_VDPA_GET_VRING_GROUP, 2, &num));
    g_assert_cmpuint(num, ==, 1);
}

static void case_groups(void)
{
    uint32_t num;

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(ioctl(node, VHOST_VDPA_GET_GROUP_NUM, &num));
    g_assert_cmpuint(num, ==, 3);
    g_assert_works(ioctl(node, VHOST_VDPA_GET_AS_NUM, &num));
    g_assert_cmpuint(num, ==, 2);
    g_assert_works(vring_get(VHOST_VDPA_GET_VRING_GROUP, 1, &num));
    g_assert_cmpuint(num, ==, 0);
    g_assert_works(vring_get(VHOST_VDPA_GET_VRING_GROUP, 2, &num));
    g_assert_cmpuint(num, ==, 1);
    g_assert_works(vring_get(VHOST_VDPA_GET_VRING_DESC_GROUP, 0, &num));
    g_assert_cmpuint(num, ==, 2);
    g_assert_works(vring(VHOST_VDPA_SET_GROUP_ASID, 1, 1));
    g_assert_fails(vring(VHOST_VDPA_SET_GROUP_ASID, 1, 2), EINVAL);
    g_assert_fails(vring(VHOST_VDPA_SET_GROUP_ASID, 3, 0), ENOBUFS);
}

static void case_no_groups(void)
{
    uint32_t num;

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(ioctl(node, VHOST_VDPA_GET_GROUP_NUM, &num));
    g_assert_cmpuint(num, ==, 1);
    g_assert_works(ioctl(node, VHOST_VDPA_GET_AS_NUM, &num));
    g_assert_cmpuint(num, ==, 1);
    g_assert_fails(vring_get(VHOST_VDPA_GET_VRING_GROUP, 0, &num),
                   EOPNOTSUPP);
    g_assert_fails(vring_get(VHOST_VDPA_GET_VRING_DESC_GROUP, 0, &num),
                   EOPNOTSUPP);
    g_assert_fails(vring(VHOST_VDPA_SET_GROUP_ASID, 0, 0), EOPNOTSUPP);
    g_assert_fails(vring(VHOST_VDPA_SET_GROUP_ASID, 1, 0), EINVAL);
}

/*
 * IOTLB messages
 */

static void case_msg(void)
{
    uint8_t buf[200] = { 0 };
    struct vhost_msg v1 = {
        .type = VHOST_IOTLB_MSG,
        .iotlb = { .iova = 0x100000, .size = PAGE, .perm = 3,
                   .type = VHOST_IOTLB_UPDATE },
    };
    struct vhost_msg_v2 v2 = {
        .type = VHOST_IOTLB_MSG_V2,
        .iotlb = { .iova = 0x200000, .size = PAGE, .perm = 3,
                   .type = VHOST_IOTLB_UPDATE },
    };
    struct iovec iov[2];
    char *mem = shared(4 * PAGE);

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_fails(write(node, buf, 0), EINVAL);
    g_assert_fails(write(node, buf, 3), EINVAL);
    g_assert_fails(write(node, buf, 72), EINVAL);
    g_assert_fails(write(node, &v2, 39), EINVAL);
    g_assert_fails(write(node, nowhere, 72), EINVAL);
    g_assert_fails(write(node, beyond, 72), EFAULT);
    v2.iotlb.uaddr = (uintptr_t)mem;
    v1.iotlb.uaddr = (uintptr_t)mem;
    g_assert_cmpint(write(node, &v2, 40), ==, 72);
    g_assert_cmpint(write(node, &v1, sizeof(v1)), ==, 72);
    /* scattered; and only the first of two is looked at */
    v2.iotlb.iova = 0x300000;
    memcpy(buf, &v2, 72);
    v2.iotlb.iova = 0x400000;
    memcpy(buf + 72, &v2, 72);
    iov[0] = (struct iovec) { .iov_base = buf, .iov_len = 33 };
    iov[1] = (struct iovec) { .iov_base = buf + 33, .iov_len = 111 };
    g_assert_cmpint(writev(node, iov, 2), ==, 72);
    g_assert_reply("\"mappings\":3,", "stats");

    g_assert_fails(map(0, 0, mem), EINVAL);
    /* everything else is EFAULT */
    g_assert_fails(map(0x200000, PAGE, mem), EFAULT);
    g_assert_fails(map(0x200800, 1, mem), EFAULT);
    g_assert_fails(map(UINT64_MAX, 2, mem), EFAULT);
    g_assert_fails(msg_as(0, 1, 0, PAGE, mem, 3), EFAULT);
    g_assert_fails(msg_as(0, 9, 0, PAGE, mem, 3), EFAULT);
    g_assert_cmpint(map(UINT64_MAX - PAGE + 1, PAGE, mem), ==, 72);

    /* whole entries go */
    g_assert_cmpint(map(0x10000, 4 * PAGE, mem), ==, 72);
    g_assert_cmpint(unmap(0x11000, 1), ==, 72);
    g_assert_reply("\"mappings\":4,", "stats");
    g_assert_cmpint(unmap(0x11000, 1), ==, 72);
    /* nothing at 0 is everything */
    g_assert_cmpint(unmap(0, 0), ==, 72);
    g_assert_reply("\"mapped-bytes\":0,\"mappings\":0,", "stats");
}

static void case_as(void)
{
    char *mem = shared(PAGE);

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    /* unacknowledged: the field is not looked at */
    g_assert_cmpint(msg_as(7, VHOST_IOTLB_UPDATE, 0, PAGE, mem, 1), ==, 72);
    g_assert_works(set_backend(0x1fe));
    g_assert_fails(msg_as(2, VHOST_IOTLB_UPDATE, 0, PAGE, mem, 1), EFAULT);
    /* an address space begins with its first mapping or batch */
    g_assert_fails(msg_as(1, VHOST_IOTLB_INVALIDATE, 0, PAGE, 0, 0), EFAULT);
    g_assert_fails(msg_as(1, VHOST_IOTLB_BATCH_END, 0, 0, 0, 0), EFAULT);
    g_assert_cmpint(msg_as(1, VHOST_IOTLB_BATCH_BEGIN, 0, 0, 0, 0), ==, 72);
    g_assert_cmpint(msg_as(1, VHOST_IOTLB_BATCH_BEGIN, 0, 0, 0, 0), ==, 72);
    g_assert_fails(msg_as(0, VHOST_IOTLB_INVALIDATE, 0, PAGE, 0, 0), EFAULT);
    /* and survives a reset */
    g_assert_works(set_status(0));
    g_assert_fails(msg_as(0, VHOST_IOTLB_BATCH_BEGIN, 0, 0, 0, 0), EFAULT);
    g_assert_cmpint(msg_as(1, VHOST_IOTLB_UPDATE, 0, PAGE, mem, 2), ==, 72);
    g_assert_cmpint(msg_as(1, VHOST_IOTLB_BATCH_END, 0, 0, 0, 0), ==, 72);
    g_assert_cmpint(msg_as(1, VHOST_IOTLB_BATCH_END, 0, 0, 0, 0), ==, 72);
    g_assert_cmpint(msg_as(0, VHOST_IOTLB_BATCH_END, 0, 0, 0, 0), ==, 72);
    g_assert_reply("\"mappings\":2,", "stats");
    close(node);
    open_node();
    g_assert_reply("\"mappings\":0,", "stats");
}

static void case_va(void)
{
    char *mem = shared(4 * PAGE), *private;

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    private = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* skipped, and yet */
    g_assert_cmpint(map(0, PAGE, private), ==, 72);
    g_assert_reply("\"entries\":[]", "mappings");
    /* a piece for each mapping of the process */
    g_assert_true(mmap(mem + PAGE, PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
                  MAP_FAILED);
    g_assert_cmpint(map(0x10000, 4 * PAGE, mem), ==, 72);
    g_assert_reply("\"first\":65536,\"last\":69631,", "mappings");
    g_assert_reply("\"first\":73728,\"last\":81919,", "mappings");
    g_assert_reply("\"mappings\":2,", "stats");
    /* nothing above */
    g_assert_fails(map(0x100000, PAGE, (void *)0xfffffffffffff000), EFAULT);
    g_assert_reply("\"mappings\":2,", "stats");
}

/* The kilobytes that the kernel says are pinned for devices */
static unsigned pinned_kib(void)
{
    g_autofree char *text = NULL;
    const char *line;

    g_assert_true(g_file_get_contents("/proc/self/status", &text, NULL, NULL));
    line = strstr(text, "\nVmPin:");
    g_assert_nonnull(line);
    g_assert_nonnull(strstr(line, " kB\nVmHWM:"));
    return g_ascii_strtoull(line + strlen("\nVmPin:"), NULL, 10);
}

static void case_pa(void)
{
    struct rlimit limit = { 16 * PAGE, 16 * PAGE };
    char *mem = mmap(NULL, 32 * PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *readonly = mmap(NULL, PAGE, PROT_READ,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_works(setrlimit(RLIMIT_MEMLOCK, &limit));
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_cmpint(map(0, 10 * PAGE, mem), ==, 72);
    g_assert_fails(map(0x100000, 7 * PAGE, mem), EFAULT);
    g_assert_reply("RLIMIT_MEMLOCK allows 65536 bytes", "transcript");
    g_assert_cmpint(map(0x100000, 6 * PAGE, mem), ==, 72);
    g_assert_cmpuint(pinned_kib(), ==, 64);
    g_assert_fails(map(0x200000, 1, mem), EFAULT);
    g_assert_cmpint(unmap(0, 1), ==, 72);
    g_assert_cmpuint(pinned_kib(), ==, 24);
    g_assert_reply("\"mapped-bytes\":24576,\"mappings\":1,", "stats");

    /* rounded, each on its own */
    g_assert_cmpint(map(0x200800, 0x800, mem + 0x10), ==, 72);
    g_assert_fails(map(0x200000, 0x800, mem), EFAULT);
    g_assert_reply("\"mapped-bytes\":28672,\"mappings\":2,", "stats");
    g_assert_cmpint(unmap(0x200000, 1), ==, 72);
    g_assert_reply("\"mappings\":1,", "stats");

    g_assert_fails(map(0x300000, PAGE, readonly), EFAULT);
    g_assert_cmpint(msg_as(0, VHOST_IOTLB_UPDATE, 0x300000, PAGE, readonly,
                           1), ==, 72);
    munmap(mem + 31 * PAGE, PAGE);
    g_assert_fails(map(0x400000, 2 * PAGE, mem + 30 * PAGE), EFAULT);
    /* all of it is given back */
    close(node);
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_cmpint(map(0, 16 * PAGE, mem), ==, 72);
}

static void case_pa_chunk(void)
{
    char *mem = shared(8 * PAGE);

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_cmpint(map(0x1000, 8 * PAGE, mem), ==, 72);
    g_assert_reply("\"mapped-bytes\":32768,", "stats");
    /* what a partial removal takes with it is not more than a chunk */
    g_assert_cmpint(unmap(0x1000, 1), ==, 72);
    g_assert_reply("\"count\":0", "faults");
    g_assert_cmpint(unmap(0x1000, 4 * PAGE), ==, 72);
    g_assert_cmpint(unmap(0x5000, 4 * PAGE), ==, 72);
    g_assert_reply("\"mapped-bytes\":0,\"mappings\":0,", "stats");
}

/* An address space holds so many entries, however they come about */
static void case_entries(void)
{
    char *mem = shared(2 * PAGE);
    int fd = memfd_create("entries", MFD_CLOEXEC);
    g_autofree char *limit = NULL;

    g_assert_true(g_file_get_contents(
        "/sys/module/vhost_vdpa/parameters/max_iotlb_entries", &limit, NULL,
        NULL));
    g_assert_cmpstr(limit, ==, "3\n");
    /* one page twice is two entries, pinned or not */
    g_assert_works(ftruncate(fd, PAGE));
    g_assert_true(mmap(mem, PAGE, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED);
    g_assert_true(mmap(mem + PAGE, PAGE, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED);
    close(fd);
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_cmpint(map(0x1000, PAGE, mem), ==, 72);
    g_assert_cmpint(map(0x10000, PAGE, mem), ==, 72);
    g_assert_fails(map(0x20000, 2 * PAGE, mem), EFAULT);
    g_assert_reply("\"mapped-bytes\":8192,\"mappings\":2,", "stats");
    g_assert_cmpint(map(0x20000, PAGE, mem), ==, 72);
    g_assert_fails(map(0x30000, PAGE, mem), EFAULT);
    g_assert_cmpint(unmap(0x10000, 1), ==, 72);
    g_assert_cmpint(unmap(0x1000, 1), ==, 72);
    g_assert_cmpint(map(0x30000, 2 * PAGE, mem), ==, 72);
    g_assert_reply("\"mapped-bytes\":12288,\"mappings\":3,", "stats");
    g_assert_cmpint(unmap(0x30000, 1), ==, 72);
    g_assert_reply("\"mapped-bytes\":8192,\"mappings\":2,", "stats");
}

static void case_range(void)
{
    char *mem = shared(2 * PAGE);

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_fails(map(0, PAGE, mem), EFAULT);
    g_assert_cmpint(map(0x1000, PAGE, mem), ==, 72);
    g_assert_fails(map(0x2000, 2 * PAGE, mem), EFAULT);
    g_assert_cmpint(map(0x2000, PAGE, mem), ==, 72);
    /* removal is not range-checked */
    g_assert_cmpint(unmap(0, UINT64_MAX), ==, 72);
    g_assert_reply("\"mappings\":0,", "stats");
}

/*
 * A ring: one transmit chain that comes back in one receive chain
 */

typedef struct Desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
} Desc;

#define RING_NUM 8

/* One queue's page: descriptors, available and used ring, and a buffer */
typedef struct Queue {
    Desc desc[RING_NUM];
    uint16_t avail_flags, avail_idx, avail[RING_NUM];
    uint16_t pad[6];
    uint16_t used_flags, used_idx;
    struct { uint32_t id, len; } used[RING_NUM];
    uint8_t buffer[2048] __attribute__((aligned(16)));
} Queue;

#define IOVA 0x100000
#define FRAME (12 + 60)

static Queue *queues;
static int kick[3] = { -1, -1, -1 }, call[3] = { -1, -1, -1 };

static uint64_t queue_iova(unsigned vq, size_t offset)
{
    return IOVA + vq * PAGE + offset;
}

static Queue *queue(unsigned vq)
{
    return (Queue *)((char *)queues + vq * PAGE);
}

static void set_up_queue(unsigned vq)
{
    g_assert_works(vring(VHOST_SET_VRING_NUM, vq, RING_NUM));
    g_assert_works(vring(VHOST_SET_VRING_BASE, vq, 0));
    g_assert_works(vring_addr(vq, queue_iova(vq, 0),
                              queue_iova(vq, offsetof(Queue, avail_flags)),
                              queue_iova(vq, offsetof(Queue, used_flags))));
    if (kick[vq] < 0) {
        kick[vq] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        call[vq] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    }
    g_assert_works(vring_fd(VHOST_SET_VRING_CALL, vq, call[vq]));
    g_assert_works(vring_fd(VHOST_SET_VRING_KICK, vq, kick[vq]));
    g_assert_works(vring(VHOST_VDPA_SET_VRING_ENABLE, vq, 1));
}

static void offer(unsigned vq)
{
    Queue *q = queue(vq);
    uint16_t i = q->avail_idx;

    q->desc[i % RING_NUM] = (Desc) {
        .addr = queue_iova(vq, offsetof(Queue, buffer)),
        .len = vq ? FRAME : sizeof(q->buffer),
        .flags = vq ? 0 : 2,
    };
    q->avail[i % RING_NUM] = i % RING_NUM;
    __atomic_store_n(&q->avail_idx, i + 1, __ATOMIC_RELEASE);
}

static void ring_bell(unsigned vq)
{
    const uint64_t one = 1;

    g_assert_cmpint(write(kick[vq], &one, sizeof(one)), ==, sizeof(one));
}

static void fill_frame(uint8_t seed)
{
    Queue *tx = queue(1);
    unsigned i;

    memset(tx->buffer, 0, 12);
    memset(tx->buffer + 12, 0xff, 6);
    for (i = 18; i < FRAME; i++) {
        tx->buffer[i] = seed + i;
    }
    memset(queue(0)->buffer, 0, FRAME);
}

static void wait_call(unsigned vq)
{
    struct pollfd p = { .fd = call[vq], .events = POLLIN };
    uint64_t count;

    g_assert_cmpint(poll(&p, 1, FIRST_DEADLINE_MS), ==, 1);
    g_assert_works(read(call[vq], &count, sizeof(count)));
}

static void set_up(uint64_t backend)
{
    queues = shared(3 * PAGE);
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(set_backend(backend));
    g_assert_works(set_status(3));
    g_assert_works(set_features(F_MODERN));
    g_assert_works(set_status(11));
    g_assert_cmpint(map(IOVA, 3 * PAGE, queues), ==, 72);
    set_up_queue(0);
    set_up_queue(1);
}

static void round_trip(uint8_t seed)
{
    Queue *rx = queue(0);
    uint16_t used = rx->used_idx;

    fill_frame(seed);
    offer(0);
    offer(1);
    ring_bell(0);
    ring_bell(1);
    wait_call(0);
    g_assert_cmpuint(__atomic_load_n(&rx->used_idx, __ATOMIC_ACQUIRE), ==,
                     (uint16_t)(used + 1));
    g_assert_cmpuint(rx->used[used % RING_NUM].len, ==, FRAME);
    g_assert_cmpmem(rx->buffer + 12, 60, queue(1)->buffer + 12, 60);
}

static void case_data(void)
{
    uint32_t base;
    unsigned i;

    set_up(0x1fe);
    g_assert_works(set_status(15));
    for (i = 0; i < 20; i++) {
        round_trip(i);
    }
    g_assert_works(ioctl(node, VHOST_VDPA_SUSPEND));
    g_assert_works(vring_get(VHOST_GET_VRING_BASE, 1, &base));
    g_assert_cmpuint(base, ==, 20);
    g_assert_works(ioctl(node, VHOST_VDPA_RESUME));
    round_trip(100);
    /* the eventfd is never consumed: it has counted every kick */
    {
        uint64_t count;

        g_assert_works(read(kick[1], &count, sizeof(count)));
        g_assert_cmpuint(count, ==, 21);
    }
    g_assert_reply("\"faults\":0,", "stats");
    g_assert_reply("\"value\":21", "wait vq.1.packets == 21 " DEADLINE);
}

/* Kicks while suspended or paused are remembered, others are lost. */
static void case_kicks(void)
{
    set_up(0x1fe);
    fill_frame(1);
    offer(0);
    offer(1);
    ring_bell(1);
    wait_value("kicks", ">=", 1);
    g_assert_works(set_status(15));
    /* neither the status nor an enable looks at the rings */
    g_assert_works(vring(VHOST_VDPA_SET_VRING_ENABLE, 0, 0));
    g_assert_works(vring(VHOST_VDPA_SET_VRING_ENABLE, 0, 1));
    g_assert_works(ioctl(node, VHOST_VDPA_SUSPEND));
    g_assert_reply("\"avail-idx\":0,", "stats");
    ring_bell(1);
    wait_value("kicks", ">=", 2);
    g_assert_reply("\"avail-idx\":0,", "stats");
    g_assert_works(ioctl(node, VHOST_VDPA_RESUME));
    wait_call(0);

    tell("pause");
    fill_frame(2);
    offer(0);
    offer(1);
    ring_bell(1);
    wait_value("kicks", ">=", 3);
    g_assert_reply("\"avail-idx\":1,", "stats");
    tell("unpause");
    wait_call(0);
    g_assert_cmpuint(queue(0)->buffer[20], ==, 22);

    /* what was written before it was set is one kick */
    g_assert_works(vring_fd(VHOST_SET_VRING_KICK, 1, -1));
    fill_frame(3);
    offer(0);
    offer(1);
    ring_bell(1);
    ring_bell(1);
    g_assert_works(vring_fd(VHOST_SET_VRING_KICK, 1, kick[1]));
    wait_value("kicks", "==", 4);
    wait_call(0);
    g_assert_reply("\"kicks\":4,", "stats");
    /* the same eventfd again is not looked at again */
    g_assert_works(vring_fd(VHOST_SET_VRING_KICK, 1, kick[1]));
    g_assert_works(vring(VHOST_SET_VRING_NUM, 1, RING_NUM));
    g_assert_reply("\"kicks\":4,", "stats");
    ring_bell(1);
    wait_value("kicks", "==", 5);
}

/* A kick belongs to the status it was written in, whoever sees it when. */
static void case_kicks_early(void)
{
    unsigned i;

    set_up(0x1fe);
    for (i = 0; i < 300; i++) {
        offer(1);
        ring_bell(1);
        g_assert_works(set_status(15));
        g_assert_works(ioctl(node, VHOST_VDPA_SUSPEND));
        g_assert_reply("\"value\":0", "wait vq.1.avail-idx == 0 1");
        g_assert_works(set_status(0));
        memset(queues, 0, 3 * PAGE);
        g_assert_works(set_features(F_MODERN));
        g_assert_works(set_status(11));
        set_up_queue(0);
        set_up_queue(1);
    }
}

static void offer_one(uint8_t seed)
{
    fill_frame(seed);
    offer(0);
    offer(1);
    ring_bell(0);
    ring_bell(1);
}

static void case_faults(void)
{
    set_up(0x1fe);
    g_assert_works(set_status(15));
    round_trip(0);
    /* unmapped under the running device */
    g_assert_cmpint(unmap(IOVA, 3 * PAGE), ==, 72);
    offer_one(1);
    wait_value("faults", ">=", 1);
    g_assert_reply("\"why\":\"unmapped\"", "faults");
    tell("clear");
    g_assert_reply("\"count\":0,\"entries\":[]", "faults");

    /* mapped without the permission */
    g_assert_works(set_status(0));
    memset(queues, 0, 3 * PAGE);
    g_assert_cmpint(msg_as(0, VHOST_IOTLB_UPDATE, IOVA, 3 * PAGE, queues, 1),
                    ==, 72);
    g_assert_works(set_features(F_MODERN));
    g_assert_works(set_status(11));
    set_up_queue(0);
    set_up_queue(1);
    g_assert_works(set_status(15));
    offer_one(2);
    wait_value("faults", ">=", 1);
    g_assert_reply("\"write\":true,\"why\":\"mapped read-only\"", "faults");
}

/* Not munmap(), after which another thread can be given the addresses */
static void lose_queues(void)
{
    g_assert_true(mmap(queues, 3 * PAGE, PROT_NONE,
                       MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
                  queues);
}

/* Memory that vanishes behind a mapping is a fault, not a crash. */
static void case_vanish(void)
{
    int fd = memfd_create("vanish", MFD_CLOEXEC);
    void *lost;

    g_assert_works(ftruncate(fd, PAGE));
    lost = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    set_up(0x1fe);
    g_assert_works(set_status(15));
    lose_queues();
    ring_bell(1);
    wait_value("faults", ">=", 1);
    g_assert_reply("memory is gone or protected", "faults");
    /* SIGBUS: behind the end of the file */
    tell("clear");
    g_assert_works(set_status(0));
    g_assert_works(ftruncate(fd, 0));
    g_assert_cmpint(unmap(0, 0), ==, 72);
    g_assert_cmpint(map(IOVA, PAGE, lost), ==, 72);
    g_assert_works(set_features(F_MODERN));
    g_assert_works(set_status(11));
    set_up_queue(0);
    set_up_queue(1);
    g_assert_works(set_status(15));
    ring_bell(0);
    ring_bell(1);
    wait_value("faults", ">=", 1);
    g_assert_reply("\"why\":", "faults");
}

/* volatile: a signal handler writes it */
static volatile sig_atomic_t caught;

static void on_fault(int sig, siginfo_t *info, void *context)
{
    static char page[PAGE] __attribute__((aligned(PAGE)));

    caught = sig;
    /* let the store happen, elsewhere */
    if (mmap((void *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1)),
             sizeof(page), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
        _exit(3);
    }
}

/* The program's own handlers work as if nobody else had any. */
static void case_signals(void)
{
    struct sigaction act = {
        .sa_sigaction = on_fault,
        .sa_flags = SA_SIGINFO,
    };
    struct sigaction before, old;
    char *hole = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                      0);
    int status;
    pid_t pid;

    g_assert_works(sigaction(SIGSEGV, NULL, &before));
    g_assert_true(signal(SIGBUS, SIG_DFL) != SIG_ERR);
    set_up(0x1fe);
    g_assert_works(sigaction(SIGSEGV, NULL, &old));
    g_assert_true(old.sa_handler == before.sa_handler);
    g_assert_works(sigaction(SIGSEGV, &act, NULL));
    /* volatile: the store must be made, for its fault */
    *(volatile char *)hole = 1;
    g_assert_cmpint(caught, ==, SIGSEGV);
    g_assert_works(sigaction(SIGSEGV, NULL, &old));
    g_assert_true(old.sa_sigaction == on_fault);
    g_assert_true(signal(SIGBUS, SIG_IGN) == SIG_DFL);
    raise(SIGBUS);
    g_assert_true(signal(SIGBUS, SIG_DFL) == SIG_IGN);

    pid = fork();
    g_assert_works(pid);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit) { 0, 0 });
        signal(SIGSEGV, SIG_DFL);
        munmap(hole, PAGE);
        /* volatile: as above */
        *(volatile char *)hole = 1;
        _exit(0);
    }
    g_assert_works(waitpid(pid, &status, 0));
    g_assert_true(WIFSIGNALED(status));
    g_assert_cmpint(WTERMSIG(status), ==, SIGSEGV);
    pid = fork();
    g_assert_works(pid);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit) { 0, 0 });
        raise(SIGBUS);
        _exit(0);
    }
    g_assert_works(waitpid(pid, &status, 0));
    g_assert_true(WIFSIGNALED(status));
    g_assert_cmpint(WTERMSIG(status), ==, SIGBUS);
    /* and the device's still do */
    g_assert_works(set_status(15));
    lose_queues();
    ring_bell(1);
    wait_value("faults", ">=", 1);
}

/* Translations and callbacks over a reset, PERSIST acknowledged or not */
static void again(void)
{
    g_assert_works(set_status(0));
    memset(queues, 0, 3 * PAGE);
    g_assert_works(set_status(3));
    g_assert_works(set_features(F_MODERN));
    g_assert_works(set_status(11));
    set_up_queue(0);
    set_up_queue(1);
    g_assert_works(set_status(15));
}

static void case_persist(void)
{
    set_up(0x1fe);
    g_assert_works(set_status(15));
    round_trip(1);
    again();
    round_trip(2);
    g_assert_reply("\"faults\":0,", "stats");
}

/* Behind a platform IOMMU a reset never cleans the map. */
static void case_keeps_map(void)
{
    set_up(0x0e);
    g_assert_works(set_status(15));
    round_trip(1);
    again();
    round_trip(2);
    g_assert_reply("\"faults\":0,", "stats");
}

static void case_no_persist(void)
{
    char *other;

    set_up(0x0fe);
    g_assert_works(set_status(15));
    round_trip(1);
    again();
    offer_one(2);
    wait_value("faults", ">=", 1);
    /* the vhost layer still has it, so it cannot be mapped again */
    g_assert_fails(map(IOVA, 3 * PAGE, queues), EFAULT);
    /* but any other mapping brings it back to the device */
    other = shared(PAGE);
    g_assert_cmpint(map(0x900000, PAGE, other), ==, 72);
    tell("clear");
    again();
    g_assert_cmpint(unmap(0x900000, PAGE), ==, 72);
    round_trip(3);
}

static void case_call_dropped(void)
{
    uint64_t count;

    set_up(0x1fe);
    g_assert_works(set_status(15));
    round_trip(1);
    g_assert_works(set_status(0));
    memset(queues, 0, 3 * PAGE);
    g_assert_works(set_features(F_MODERN));
    g_assert_works(set_status(11));
    set_up_queue(0);
    set_up_queue(1);
    g_assert_works(set_status(0));
    /* everything is set again but the call eventfd */
    memset(queues, 0, 3 * PAGE);
    g_assert_works(set_features(F_MODERN));
    g_assert_works(set_status(11));
    call[0] = -1;
    set_up_queue(1);
    g_assert_works(vring(VHOST_SET_VRING_NUM, 0, RING_NUM));
    g_assert_works(vring_addr(0, queue_iova(0, 0),
                              queue_iova(0, offsetof(Queue, avail_flags)),
                              queue_iova(0, offsetof(Queue, used_flags))));
    g_assert_works(vring(VHOST_VDPA_SET_VRING_ENABLE, 0, 1));
    g_assert_works(set_status(15));
    while (read(call[1], &count, sizeof(count)) > 0) {
        /* those of before */
    }
    offer_one(1);
    wait_value("vq.0.used-idx", "==", 1);
    g_assert_reply("\"faults\":0,", "stats");
}

static void case_asid_data(void)
{
    set_up(0x1fe);
    /* the data group moves to another address space, which is empty */
    g_assert_works(vring(VHOST_VDPA_SET_GROUP_ASID, 0, 1));
    g_assert_cmpint(msg_as(1, VHOST_IOTLB_UPDATE, IOVA, 3 * PAGE, queues, 3),
                    ==, 72);
    g_assert_cmpint(unmap(IOVA, 3 * PAGE), ==, 72);
    g_assert_works(set_status(15));
    /* its rings are a group of their own, still in the first */
    ring_bell(1);
    wait_value("faults", ">=", 1);
    g_assert_reply("\"asid\":0,", "faults");
    tell("clear");
    again();
    g_assert_works(vring(VHOST_VDPA_SET_GROUP_ASID, 0, 1));
    g_assert_works(vring(VHOST_VDPA_SET_GROUP_ASID, 2, 1));
    round_trip(1);
    g_assert_reply("\"faults\":0,", "stats");
}

/* Acknowledging DESC_ASID tells the device nothing new. */
static void case_asid_unacked(void)
{
    set_up(0x17e);
    g_assert_works(vring(VHOST_VDPA_SET_GROUP_ASID, 0, 1));
    g_assert_cmpint(msg_as(1, VHOST_IOTLB_UPDATE, IOVA, 3 * PAGE, queues, 3),
                    ==, 72);
    g_assert_cmpint(unmap(IOVA, 3 * PAGE), ==, 72);
    g_assert_works(set_status(15));
    ring_bell(1);
    wait_value("faults", ">=", 1);
    g_assert_reply("\"asid\":0,", "faults");
}

/* A client that sets a ring up again after a reset, but not its size */
static void case_num_missing(void)
{
    set_up(0x1fe);
    g_assert_works(set_status(15));
    round_trip(1);
    g_assert_works(set_status(0));
    memset(queues, 0, 3 * PAGE);
    g_assert_works(set_features(F_MODERN));
    g_assert_works(set_status(11));
    set_up_queue(0);
    g_assert_works(vring_addr(1, queue_iova(1, 0),
                              queue_iova(1, offsetof(Queue, avail_flags)),
                              queue_iova(1, offsetof(Queue, used_flags))));
    g_assert_works(vring(VHOST_VDPA_SET_VRING_ENABLE, 1, 1));
    g_assert_works(set_status(15));
    offer_one(2);
    wait_value("vq.1.errors", "==", 1);
    /* two before and two now: ring 0's eventfd is the same as before */
    wait_value("kicks", "==", 4);
    g_assert_reply("\"value\":0", "wait vq.1.avail-idx == 0 1");
    g_assert_reply("\"value\":0", "wait vq.0.errors == 0 1");
    g_assert_reply("\"faults\":0,", "stats");
}

static void case_batch_data(void)
{
    set_up(0x1fe);
    g_assert_works(set_status(15));
    round_trip(1);
    g_assert_cmpint(msg_as(0, VHOST_IOTLB_BATCH_BEGIN, 0, 0, 0, 0), ==, 72);
    g_assert_cmpint(unmap(IOVA, 3 * PAGE), ==, 72);
    g_assert_reply("\"entries\":[]", "mappings");
    /* the device has the old translation until the end */
    round_trip(2);
    g_assert_cmpint(msg_as(0, VHOST_IOTLB_BATCH_END, 0, 0, 0, 0), ==, 72);
    offer_one(3);
    wait_value("faults", ">=", 1);
}

static void case_dma_map_data(void)
{
    set_up(0x1fe);
    g_assert_works(set_status(15));
    round_trip(1);
    g_assert_cmpint(msg_as(0, VHOST_IOTLB_BATCH_BEGIN, 0, 0, 0, 0), ==, 72);
    g_assert_cmpint(unmap(IOVA, 3 * PAGE), ==, 72);
    /* applied at once, batch or not */
    offer_one(3);
    wait_value("faults", ">=", 1);
}

static void case_passthrough(void)
{
    unsigned vq;

    queues = shared(3 * PAGE);
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(set_features(F_MODERN));
    g_assert_works(set_status(11));
    for (vq = 0; vq < 2; vq++) {
        set_up_queue(vq);
        g_assert_works(vring_addr(vq, (uintptr_t)queue(vq),
                                  (uintptr_t)&queue(vq)->avail_flags,
                                  (uintptr_t)&queue(vq)->used_flags));
        g_assert_works(vring(VHOST_VDPA_SET_VRING_ENABLE, vq, 0));
        g_assert_works(vring(VHOST_VDPA_SET_VRING_ENABLE, vq, 1));
    }
    g_assert_works(set_status(15));
    fill_frame(1);
    memset(queue(1)->buffer + 12, 0xff, 6);
    for (vq = 0; vq < 2; vq++) {
        offer(vq);
        queue(vq)->desc[0].addr = (uintptr_t)queue(vq)->buffer;
    }
    ring_bell(0);
    ring_bell(1);
    wait_call(0);
    g_assert_reply("\"faults\":0,", "stats");
    /* the first mapping ends it */
    g_assert_cmpint(map(0, PAGE, shared(PAGE)), ==, 72);
    ring_bell(1);
    wait_value("faults", ">=", 1);
}

static void case_inject(void)
{
    g_autofree char *reply = NULL;

    set_up(0x1fe);
    g_assert_works(set_status(15));
    offer(0);
    ring_bell(0);
    tell("inject ffffffffffff5254000102030800"
         "000102030405060708090a0b0c0d0e0f"
         "000102030405060708090a0b0c0d0e0f"
         "000102030405060708090a0b0c0d vq=0");
    wait_call(0);
    g_assert_cmpuint(queue(0)->buffer[12 + 14 + 5], ==, 5);
    g_assert_reply("\"ok\":false", "inject zz");
    g_assert_reply("\"ok\":false", "inject ffffffffffff5254000102030800 vq=1");

    tell("capture on");
    round_trip(9);
    wait_value("captured", "==", 1);
    reply = ask("captured");
    g_assert_nonnull(strstr(reply, "{\"ok\":true,\"frames\":[\"ffffffffffff"));
    g_assert_reply("\"frames\":[]", "captured");
}

/*
 * Doorbells
 */

static void case_no_doorbell(void)
{
    open_node();
    g_assert_true(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, node, 0) ==
                  MAP_FAILED);
    g_assert_cmpint(errno, ==, VS_ENOTSUPP);
}

static void case_doorbell(void)
{
    /* volatile: each store rings, though nobody reads */
    volatile uint16_t *bell, *rx_bell;
    unsigned i;

    set_up(0x1fe);
#define BAD_MAP(len, prot, flags, offset) do {                              \
        g_assert_true(mmap(NULL, len, prot, flags, node, offset) ==         \
                      MAP_FAILED);                                          \
        g_assert_cmpint(errno, ==, EINVAL);                                 \
    } while (0)
    BAD_MAP(2 * PAGE, PROT_WRITE, MAP_SHARED, 0);
    BAD_MAP(PAGE, PROT_WRITE, MAP_PRIVATE, 0);
    BAD_MAP(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
    BAD_MAP(PAGE, PROT_WRITE, MAP_SHARED, 3 * PAGE);
    bell = mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, node, 1 * PAGE);
    g_assert_true(bell != MAP_FAILED);
    rx_bell = mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, node, 0);
    g_assert_true(rx_bell != MAP_FAILED);
    g_assert_works(set_status(15));
    *rx_bell = 0;
    wait_value("kicks", "==", 1);
    for (i = 0; i < 3; i++) {
        fill_frame(i);
        offer(0);
        offer(1);
        /* the same value each time */
        *bell = 1;
        wait_call(0);
    }
    wait_value("kicks", "==", 4);
    /* the mapping holds the node */
    g_assert_works(munmap((void *)(uintptr_t)rx_bell, PAGE));
    g_assert_works(close(node));
    g_assert_fails(open(PATH, O_RDWR), EBUSY);
    g_assert_works(munmap((void *)(uintptr_t)bell, PAGE));
    open_node();
    g_assert_cmpuint(get_status(), ==, 0);
}

/*
 * Failures and the transcript
 */

static void case_fail(void)
{
    uint64_t features;
    char *mem = shared(PAGE);

    /* of the launcher: the second OPEN, and GET_FEATURES from the first on */
    open_node();
    close(node);
    g_assert_fails(open(PATH, O_RDWR), EIO);
    open_node();
    g_assert_fails(ioctl(node, VHOST_GET_FEATURES, &features), EOPNOTSUPP);
    g_assert_fails(ioctl(node, VHOST_GET_FEATURES, &features), EOPNOTSUPP);
    tell("unfail");
    g_assert_works(ioctl(node, VHOST_GET_FEATURES, &features));

    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    tell("fail IOTLB_UPDATE 2 EFAULT");
    g_assert_cmpint(map(0, PAGE, mem), ==, 72);
    g_assert_fails(map(0x1000, PAGE, mem), EFAULT);
    g_assert_reply("\"mappings\":1,", "stats");
    g_assert_cmpint(map(0x1000, PAGE, mem), ==, 72);
    tell("fail SET_STATUS 1 524");
    g_assert_fails(set_status(1), 524);
    g_assert_cmpuint(get_status(), ==, 0);
    tell("fail IOCTL_0x0000AFEE 1 EXDEV");
    g_assert_fails(ioctl(node, _IO(0xAF, 0xee), NULL), EXDEV);
    g_assert_reply("\"ok\":false", "fail SET_STATUS 0 EIO");
    g_assert_reply("\"ok\":false", "fail SET_STATUS 1 EWHAT");
    g_assert_reply("\"ok\":false", "fail CLOSE 1 EIO");
    tell("slow SET_STATUS 1");
    g_assert_works(set_status(1));
}

/* All names that the transcript knows are names for `fail`. */
static void case_names(void)
{
    unsigned long cmd[] = {
        VHOST_SET_OWNER, VHOST_RESET_OWNER, VHOST_GET_FEATURES,
        VHOST_SET_FEATURES, VHOST_GET_BACKEND_FEATURES,
        VHOST_SET_BACKEND_FEATURES, VHOST_SET_MEM_TABLE, VHOST_SET_LOG_BASE,
        VHOST_SET_LOG_FD, VHOST_VDPA_GET_DEVICE_ID, VHOST_VDPA_GET_STATUS,
        VHOST_VDPA_SET_STATUS, VHOST_VDPA_GET_CONFIG, VHOST_VDPA_SET_CONFIG,
        VHOST_VDPA_GET_CONFIG_SIZE, VHOST_VDPA_SET_CONFIG_CALL,
        VHOST_VDPA_GET_VRING_NUM, VHOST_VDPA_GET_VRING_SIZE,
        VHOST_VDPA_SET_VRING_ENABLE, VHOST_SET_VRING_NUM,
        VHOST_SET_VRING_BASE, VHOST_GET_VRING_BASE, VHOST_SET_VRING_ADDR,
        VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR,
        VHOST_SET_VRING_ENDIAN, VHOST_GET_VRING_ENDIAN,
        VHOST_SET_VRING_BUSYLOOP_TIMEOUT, VHOST_GET_VRING_BUSYLOOP_TIMEOUT,
        VHOST_VDPA_GET_IOVA_RANGE, VHOST_VDPA_GET_AS_NUM,
        VHOST_VDPA_GET_GROUP_NUM, VHOST_VDPA_GET_VQS_COUNT,
        VHOST_VDPA_GET_VRING_GROUP, VHOST_VDPA_GET_VRING_DESC_GROUP,
        VHOST_VDPA_SET_GROUP_ASID, VHOST_VDPA_SUSPEND, VHOST_VDPA_RESUME,
        VS_SET_FORK_FROM_OWNER, VS_GET_FORK_FROM_OWNER, _IO(0xAF, 0xee),
    };
    uint8_t type;
    size_t i;

    open_node();
    for (i = 0; i < G_N_ELEMENTS(cmd) + 7; i++) {
        g_autofree char *reply = NULL, *name = NULL;
        const char *found;
        bool ioctl_call = i < G_N_ELEMENTS(cmd);
        uint64_t arg[8] = { 0 };

        tell("clear");
        type = ioctl_call ? 0 : i - G_N_ELEMENTS(cmd) + 1;
#define AGAIN() (ioctl_call ? ioctl(node, cmd[i], arg) : \
                 msg_as(0, type, 0, PAGE, arg, 0))
        (void)!AGAIN();
        reply = ask("transcript");
        found = strstr(reply, "\"call\":\"");
        g_assert_nonnull(found);
        name = g_strndup(found + 8, strcspn(found + 8, "\""));
        tell("fail %s 1 EXDEV", name);
        g_assert_fails(AGAIN(), EXDEV);
#undef AGAIN
    }
}

static void case_transcript(void)
{
    struct vhost_vring_state state = { .index = 2, .num = 9 };
    g_autofree char *file = NULL;

    tell("clear");
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_works(set_status(1));
    g_assert_works(ioctl(node, VHOST_VDPA_GET_VRING_GROUP, &state));
    g_assert_cmpint(msg_as(5, VHOST_IOTLB_UPDATE, 0x1000, PAGE,
                           shared(PAGE), 1), ==, 72);
    g_assert_fails(unmap(1, 0) == 72 ? set_status(4) : 0, EINVAL);
    close(node);
    g_assert_reply("{\"ok\":true,\"next\":8,\"entries\":["
        "{\"seq\":1,\"node\":0,\"call\":\"OPEN\",\"args\":{\"flags\":2},"
        "\"ret\":0,\"errno\":0},"
        "{\"seq\":2,\"node\":0,\"call\":\"SET_OWNER\",\"args\":{},"
        "\"ret\":0,\"errno\":0},"
        "{\"seq\":3,\"node\":0,\"call\":\"SET_STATUS\","
        "\"args\":{\"status\":1},\"ret\":0,\"errno\":0},"
        "{\"seq\":4,\"node\":0,\"call\":\"GET_VRING_GROUP\","
        "\"args\":{\"index\":2,\"group\":1},\"ret\":0,\"errno\":0},"
        "{\"seq\":5,\"node\":0,\"call\":\"IOTLB_UPDATE\","
        "\"args\":{\"asid\":0,\"iova\":4096,\"size\":4096,\"uaddr\":",
        "transcript");
    g_assert_reply("\"entries\":[{\"seq\":6,\"node\":0,"
        "\"call\":\"IOTLB_INVALIDATE\",\"args\":{\"asid\":0,\"iova\":1,"
        "\"size\":0},\"ret\":72,\"errno\":0},"
        "{\"seq\":7,\"node\":0,\"call\":\"SET_STATUS\","
        "\"args\":{\"status\":4},\"ret\":-1,\"errno\":22,",
        "transcript since=5");
    g_assert_reply("\"entries\":[]", "transcript since=8");
    g_assert_reply("\"entries\":[]", "transcript since=99");
    tell("clear");
    g_assert_reply("\"next\":8,\"entries\":[]", "transcript");
    open_node();
    g_assert_reply("[{\"seq\":9,", "transcript");
    g_assert_true(g_file_get_contents(getenv("VDPA_SOFT_TRANSCRIPT"), &file,
                                      NULL, NULL));
    g_assert_nonnull(strstr(file, "\"seq\":1,"));
    g_assert_nonnull(strstr(file, "\"call\":\"CLOSE\",\"args\":{},\"ret\":0,"
                            "\"errno\":0}\n{\"seq\":9,"));
}

static void case_control(void)
{
    g_assert_reply("\"name\":\"vdpa-soft\"", "version");
    /* before anything was opened */
    g_assert_reply("\"open\":false,\"owned\":false,\"status\":0", "nodes");
    g_assert_reply("\"vqs\":[{\"index\":0,", "stats");
    g_assert_reply("\"ok\":false", "what");
    g_assert_reply("\"ok\":false", " ");
    g_assert_reply("usage: link up|down", "link");
    g_assert_reply("neither up nor down", "link sideways");
    g_assert_reply("there is no node 1", "stats node=1");
    g_assert_reply("timeout: status is 0", "wait status == 1 1");
    g_assert_reply("no value 'nothing'", "wait nothing == 1 1");
    g_assert_reply("is none of", "wait status <> 1 1");
    g_assert_reply("\"value\":\"52:54:00:01:02:03\"",
                   "wait mac == 52:54:00:01:02:03 1");
    g_assert_reply("\"value\":0", "wait status !& 4 1");
    g_assert_reply("never opened", "link down");
    g_assert_reply("never opened", "inject ffffffffffff5254000102030800");
    open_node();
    g_assert_reply("\"value\":true", "wait open == true 1");
    g_assert_reply("\"value\":true", "wait link != 0 node=0 1");
}

static void *raise_status(void *opaque)
{
    g_assert_works(set_status(1));
    return NULL;
}

static void case_wait(void)
{
    GThread *thread;
    unsigned i;

    open_node();
    for (i = 0; i < 50; i++) {
        g_assert_works(set_status(0));
        thread = g_thread_new("status", raise_status, NULL);
        wait_value("status", "==", 1);
        g_thread_join(thread);
    }
}

/* What is not a node's works as ever. */
static void case_others(void)
{
    int fds[2], fd = open("/dev/null", O_RDWR);
    char buf[80] = { 0 };
    int n;

    open_node();
    g_assert_works(fd);
    g_assert_cmpint(write(fd, buf, 72), ==, 72);
    g_assert_fails(ioctl(fd, VHOST_GET_FEATURES, buf), ENOTTY);
    close(fd);
    fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    if (fd >= 0) {
        struct stat st;

        g_assert_works(fstat(fd, &st));
        g_assert_cmpuint(st.st_mode & 07777, ==, 0600);
        close(fd);
    }
    g_assert_works(pipe(fds));
    g_assert_cmpint(write(fds[1], buf, 72), ==, 72);
    g_assert_works(ioctl(fds[0], FIONREAD, &n));
    g_assert_cmpint(n, ==, 72);
    g_assert_cmpint(read(fds[0], buf, 80), ==, 72);
    fd = fcntl(fds[0], F_DUPFD_CLOEXEC, 100);
    g_assert_cmpint(fd, ==, 100);
    g_assert_works(ioctl(node, FIOCLEX));
}

/*
 * Time and threads
 */

static void *sparse_memfd(size_t size, int *fd)
{
    void *p;

    *fd = memfd_create("sparse", MFD_CLOEXEC);
    g_assert_works(*fd);
    g_assert_works(ftruncate(*fd, size));
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
             *fd, 0);
    g_assert_true(p != MAP_FAILED);
    return p;
}

/* 512 ms per GiB: half a millisecond per MiB */
static void case_slow_pin(void)
{
    char *mem = shared(8 * MIB);
    void *private;
    unsigned i;

    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_reply("\"largest-update\":0,\"pinning\":0,\"pinned-ms\":0,",
                   "stats");
    g_assert_cmpint(map(0, 4 * MIB, mem), ==, 72);
    g_assert_reply(",\"perm\":3,\"pin-ms\":2}", "transcript since=2");
    /* what a millisecond has too much is not lost */
    g_assert_cmpint(map(4 * MIB, MIB, mem + 4 * MIB), ==, 72);
    g_assert_reply(",\"perm\":3}", "transcript since=3");
    wait_value("pinned-ms", "==", 2);
    for (i = 0; i < MIB / PAGE; i++) {
        g_assert_cmpint(map(5 * MIB + i * PAGE, PAGE,
                            mem + 5 * MIB + i * PAGE), ==, 72);
    }
    wait_value("pinned-ms", "==", 3);

    /* neither what fails costs anything, nor removals, nor what is skipped */
    g_assert_fails(map(0, 4 * MIB, mem), EFAULT);
    g_assert_cmpint(unmap(0, 8 * MIB), ==, 72);
    private = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_cmpint(map(0, 4 * MIB, private), ==, 72);
    g_assert_reply("\"mapped-bytes\":0,\"mappings\":0,"
                   "\"largest-update\":4194304,\"pinning\":0,"
                   "\"pinned-ms\":3,\"messages\":261,", "stats");

    tell("slow-pin 0");
    g_assert_cmpint(map(0, 8 * MIB, mem), ==, 72);
    g_assert_cmpint(unmap(0, 8 * MIB), ==, 72);
    wait_value("pinned-ms", "==", 3);
    wait_value("largest-update", "==", 8 * MIB);
    tell("slow-pin 1024");
    g_assert_cmpint(map(0, 8 * MIB, mem), ==, 72);
    wait_value("pinned-ms", "==", 11);
    g_assert_reply("not a number of milliseconds", "slow-pin x");
    g_assert_reply("not a number of milliseconds", "slow-pin 3600001");
    g_assert_reply("usage: slow-pin MS", "slow-pin");
}

static void *map_gib(void *mem)
{
    g_assert_cmpint(map(GIB, GIB, mem), ==, 72);
    return NULL;
}

/* The node is held, the control socket and what is mapped already are not. */
static void case_slow_pin_holds(void)
{
    GThread *thread;
    void *mem;
    int fd;

    mem = sparse_memfd(GIB, &fd);
    set_up(0);
    g_assert_works(set_status(15));
    tell("slow-pin 1000");
    tell("clear");
    thread = g_thread_new("pin", map_gib, mem);
    wait_value("pinning", "==", GIB);
    round_trip(1);
    g_assert_cmpuint(get_status(), ==, 15);
    g_assert_reply("\"call\":\"IOTLB_UPDATE\",\"args\":{\"asid\":0,"
                   "\"iova\":1073741824,\"size\":1073741824,",
                   "transcript");
    wait_value("pinning", "==", 0);
    wait_value("pinned-ms", "==", 1000);
    g_thread_join(thread);
}

/* The process ends long before its update would. */
static void case_slow_pin_exit(void)
{
    void *mem;
    int fd;

    mem = sparse_memfd(GIB, &fd);
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_thread_unref(g_thread_new("pin", map_gib, mem));
    wait_value("pinning", "==", GIB);
}

/* More than the machine has, at once and in pieces; nobody touches it. */
static void case_large(void)
{
    const uint64_t size = 64 * GIB;
    struct stat st;
    uint64_t at;
    char *mem;
    int fd;

    mem = sparse_memfd(size, &fd);
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_cmpint(map(0, size, mem), ==, 72);
    wait_value("mapped-bytes", "==", size);
    wait_value("mappings", "==", 1);
    wait_value("largest-update", "==", size);
    wait_value("pinned-ms", "==", 64);
    g_assert_cmpint(unmap(0, size), ==, 72);
    g_assert_cmpint(msg_as(0, VHOST_IOTLB_BATCH_BEGIN, 0, 0, NULL, 0), ==,
                    72);
    for (at = 0; at < size; at += GIB) {
        g_assert_cmpint(map(at, GIB, mem + at), ==, 72);
    }
    g_assert_cmpint(msg_as(0, VHOST_IOTLB_BATCH_END, 0, 0, NULL, 0), ==, 72);
    wait_value("mapped-bytes", "==", size);
    wait_value("mappings", "==", 64);
    wait_value("pinned-ms", "==", 128);
    g_assert_works(fstat(fd, &st));
    g_assert_cmpint(st.st_blocks, ==, 0);
}

static void case_memlock(void)
{
    char *mem = shared(17 * PAGE);
    struct rlimit limit;

    g_assert_works(getrlimit(RLIMIT_MEMLOCK, &limit));
    g_assert_cmpuint(limit.rlim_cur, ==, 16 * PAGE);
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_cmpint(map(0, 16 * PAGE, mem), ==, 72);
    g_assert_fails(map(0x100000, PAGE, mem + 16 * PAGE), EFAULT);
    g_assert_reply("--memlock allows 65536 bytes, 65536 are locked and 4096 "
                   "more", "transcript");
}

#define THREADS 4
#define ROUNDS 500
#define PAGES 3

static char *thread_mem;

/* All threads want the same pages: what one does decides for the others. */
static void *map_and_unmap(void *opaque)
{
    unsigned i, done = 0;

    for (i = 0; i < ROUNDS; i++) {
        uint64_t iova = i % PAGES * PAGE;

        if (map(iova, PAGE, thread_mem + iova) == 72) {
            done++;
        } else {
            g_assert_cmpint(errno, ==, EFAULT);
        }
        if (i % 2) {
            g_assert_cmpint(unmap(iova, PAGE), ==, 72);
        }
    }
    return GUINT_TO_POINTER(done);
}

/* Calls of many threads take effect one by one, as the transcript says. */
static void case_threads(void)
{
    bool mapped[PAGES] = { false };
    g_autofree char *file = NULL;
    g_auto(GStrv) line = NULL;
    GThread *thread[THREADS];
    unsigned i, done = 0, last = 0;

    thread_mem = shared(PAGES * PAGE);
    open_node();
    g_assert_works(ioctl(node, VHOST_SET_OWNER));
    g_assert_cmpint(msg_as(0, VHOST_IOTLB_BATCH_BEGIN, 0, 0, NULL, 0), ==,
                    72);
    for (i = 0; i < THREADS; i++) {
        thread[i] = g_thread_new("map", map_and_unmap, NULL);
    }
    for (i = 0; i < ROUNDS; i++) {
        g_assert_works(set_status(i % 2));
        g_assert_cmpuint(get_status(), ==, i % 2);
    }
    for (i = 0; i < THREADS; i++) {
        done += GPOINTER_TO_UINT(g_thread_join(thread[i]));
    }

    g_assert_true(g_file_get_contents(getenv("VDPA_SOFT_TRANSCRIPT"), &file,
                                      NULL, NULL));
    line = g_strsplit(file, "\n", -1);
    for (i = 0; line[i] && *line[i]; i++) {
        const char *iova = strstr(line[i], "\"iova\":");
        uint64_t page;

        g_assert_cmpuint(g_ascii_strtoull(line[i] + strlen("{\"seq\":"), NULL,
                                          10), ==, ++last);
        if (!iova) {
            continue;
        }
        page = g_ascii_strtoull(iova + strlen("\"iova\":"), NULL, 10) / PAGE;
        g_assert_cmpuint(page, <, PAGES);
        if (!strstr(line[i], "\"IOTLB_UPDATE\"")) {
            mapped[page] = false;
            continue;
        }
        if (!!strstr(line[i], "\"errno\":0}") == mapped[page]) {
            g_error("page %" PRIu64 " was %smapped, and yet: %s", page,
                    mapped[page] ? "" : "not ", line[i]);
        }
        done -= !mapped[page];
        mapped[page] = true;
    }
    g_assert_cmpuint(done, ==, 0);
    for (i = 0; i < PAGES; i++) {
        done += mapped[i];
    }
    wait_value("mappings", "==", done);
    wait_value("messages", "==", 1 + THREADS * (ROUNDS + ROUNDS / 2));
    /* OPEN and SET_OWNER besides */
    g_assert_cmpuint(last, ==, 3 + 2 * ROUNDS +
                     THREADS * (ROUNDS + ROUNDS / 2));
}

/*
 * The cases and the options they run with; NULL if only another test does
 */

static const struct {
    const char *name;
    void (*run)(void);
    const char *options;
} cases[] = {
    { "open", case_open, "" },
    { "accmode", case_accmode, "" },
    { "pass", case_pass, "" },
    { "fork", case_fork, "--mac 52:54:00:01:02:03" },
    { "fork-doorbell", case_fork, "--mac 52:54:00:01:02:03 --doorbell on" },
    { "fork-owner", case_fork_owner, "" },
    { "fork-pass", case_fork_pass, "" },
    { "fork-first", case_fork_first, "" },
    { "fork-exec", case_fork_exec, "" },
    { "executed", case_executed, NULL },
    { "fork-end", case_fork_end, "" },
    { "fork-silent", case_fork_silent, "" },
    { "fd", case_fd, "--fd 20" },
    { "fd-held", case_fd_held, NULL },
    { "fd-unused", case_fd_unused, "--fd 20" },
    { "two-nodes", case_two_nodes, "--node --device-id 2" },
    { "dispatch", case_dispatch, "" },
    { "status", case_status, "" },
    { "refuse-status", case_refuse, "--refuse-status 8" },
    { "fail-driver-ok", case_fail_driver_ok, "--fail-driver-ok" },
    { "fail-driver-ok-mlx5", case_fail_driver_ok,
      "--fail-driver-ok --like mlx5" },
    { "fail-driver-ok-sim", case_no_driver_ok,
      "--fail-driver-ok --like sim" },
    { "fail-driver-ok-vduse", case_no_driver_ok,
      "--fail-driver-ok --like vduse" },
    { "fail-driver-ok-vp-vdpa", case_no_driver_ok,
      "--fail-driver-ok --like vp_vdpa" },
    { "features", case_features, "" },
    { "features-sim", case_features_sim, "--like sim" },
    { "features-vduse", case_features_vduse, "--like vduse" },
    { "backend", case_backend, "" },
    { "backend-less", case_backend_less, "--backend-features 0x0e" },
    { "config", case_config, "--mac 52:54:00:01:02:03 --mtu 1400" },
    { "config-irq-vp-vdpa", case_config_irq_driver_ok, "--like vp_vdpa" },
    { "config-irq-vduse", case_config_irq_driver_ok, "--like vduse" },
    { "max-pairs-true", case_max_pairs_true, "--queues 2" },
    { "max-pairs-0", case_max_pairs_0, "--queues 2 --max-pairs 0" },
    { "max-pairs", case_max_pairs, "--queues 2 --max-pairs 40000" },
    { "absurd", case_absurd, "--vqs 0 --vq-num 65535 --config-size 3 "
      "--iova-range 2000-1000 --device-id 2" },
    { "busy", case_busy, "--busy" },
    { "vring", case_vring, "" },
    { "base-reset", case_base_reset, "" },
    { "base-reset-vduse", case_base_reset, "--like vduse" },
    { "num-soft", case_num_forgotten, "" },
    { "num-vduse", case_num_forgotten, "--like vduse" },
    { "num-sim", case_num_kept, "--like sim" },
    { "num-sim-checked", case_num_checked, "--like sim" },
    { "num-vp-vdpa", case_num_default, "--like vp_vdpa" },
    { "num-mlx5", case_num_default, "--like mlx5" },
    { "num-missing", case_num_missing, "" },
    { "size-sim", case_no_size, "--like sim" },
    { "size-sim-dma-map", case_size_sim, "--like sim --dma-map" },
    { "size-sim-off", case_no_size, "--dma-map --vq-size off --like sim" },
    { "base-unsupported", case_base_unsupported, "--base-unsupported" },
    { "mlx5-indices", case_mlx5_indices, "--like mlx5 --queues 2 --map va" },
    { "groups", case_groups, "" },
    { "no-groups", case_no_groups, "--like vduse" },
    { "messages", case_msg, "--map any" },
    { "address-spaces", case_as, "" },
    { "va", case_va, "" },
    { "pa", case_pa, "--map pa" },
    { "pa-chunk", case_pa_chunk, "--map pa --chunk 8192" },
    { "entries", case_entries, "--max-entries 3" },
    { "entries-pa", case_entries, "--map pa --max-entries 3" },
    { "iova-range", case_range, "--iova-range 0x1000-0x2fff" },
    { "data", case_data, "" },
    { "data-pa", case_data, "--map pa" },
    { "data-dma-map", case_data, "--dma-map" },
    { "keeps-map", case_keeps_map, "--like vp_vdpa" },
    { "kicks", case_kicks, "" },
    { "kicks-early", case_kicks_early, "" },
    { "faults", case_faults, "" },
    { "vanish", case_vanish, "" },
    { "signals", case_signals, "" },
    { "persist", case_persist, "" },
    { "no-persist", case_no_persist, "" },
    { "call-dropped", case_call_dropped, "" },
    { "asid-data", case_asid_data, "" },
    { "asid-unacked", case_asid_unacked, "" },
    { "batch-data", case_batch_data, "" },
    { "dma-map-data", case_dma_map_data, "--dma-map" },
    { "passthrough", case_passthrough, "--passthrough on" },
    { "inject", case_inject, "" },
    { "no-doorbell", case_no_doorbell, "" },
    { "doorbell", case_doorbell, "--doorbell on" },
    { "fail", case_fail, "--fail OPEN:2:EIO "
      "--fail GET_FEATURES:1:EOPNOTSUPP:always" },
    { "names", case_names, "" },
    { "transcript", case_transcript, "" },
    { "control", case_control, "--mac 52:54:00:01:02:03" },
    { "wait", case_wait, "" },
    { "others", case_others, "" },
    { "slow-pin", case_slow_pin, "--slow-pin 512" },
    { "slow-pin-holds", case_slow_pin_holds, "" },
    { "slow-pin-holds-pa", case_slow_pin_holds,
      "--like vp_vdpa --memlock unlimited" },
    { "slow-pin-exit", case_slow_pin_exit, "--slow-pin 3600000" },
    { "large-va", case_large, "--slow-pin 1" },
    { "large-va-dma-map", case_large, "--dma-map --slow-pin 1" },
    { "large-pa", case_large, "--map pa --memlock 68719476736 --slow-pin 1" },
    { "large-pa-dma-map", case_large,
      "--like vp_vdpa --memlock unlimited --slow-pin 1" },
    { "large-any", case_large, "--map any --slow-pin 1" },
    { "memlock", case_memlock, "--map pa --memlock 65536" },
    { "threads", case_threads, "" },
    { "threads-pa", case_threads, "--like vp_vdpa --memlock unlimited" },
};

/*
 * The parent
 */

static const char *self;
static char *launcher;
static char *directory;

static char *run_launcher(const char *options, const char *command,
                          int *status)
{
    g_autofree char *line = NULL;
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) argv = NULL;
    char *err = NULL;

    line = g_strdup_printf("%s run %s -- %s", launcher, options, command);
    g_assert_true(g_shell_parse_argv(line, NULL, &argv, NULL));
    if (!g_spawn_sync(NULL, argv, NULL, 0, NULL, NULL, NULL, &err, status,
                      &error)) {
        g_error("%s: %s", line, error->message);
    }
    return err;
}

static void run_case(gconstpointer data)
{
    size_t i = GPOINTER_TO_SIZE(data);
    g_autofree char *options = NULL, *command = NULL, *err = NULL;
    int status;

    options = g_strdup_printf("--control %s/control --transcript "
                              "%s/%s.jsonl %s", directory, directory,
                              cases[i].name, cases[i].options);
    command = g_strdup_printf("%s --case %s", self, cases[i].name);
    err = run_launcher(options, command, &status);
    if (status) {
        g_test_message("status 0x%x", status);
        g_test_message("%s", err);
        g_test_fail();
    }
}

static void test_launcher(void)
{
    static const struct {
        const char *options;
        const char *says;
    } bad[] = {
        { "--nonsense", "no option --nonsense" },
        { "--queues 0", "a number of pairs" },
        { "--queues -1", "a number of pairs" },
        { "--queues 65", "a number of pairs" },
        { "--queues", "needs a value" },
        { "--busy=1", "takes no value" },
        { "--mac 01:00:00:00:00:00", "unicast" },
        { "--mac 52:54:00:00:00", "unicast" },
        { "--mtu 67", "68 to 65535" },
        { "--wire tcp:1", "loopback, unix:PATH" },
        { "--wire unix:", "loopback, unix:PATH" },
        { "--like e1000", "soft, sim, vduse, vp_vdpa or mlx5" },
        { "--like vduse --queues 2", "no control queue" },
        { "--groups off --desc-group on", "needs --groups on" },
        { "--persist maybe", "on or off" },
        { "--fail SET_STATUS", "CALL:OCCURRENCE:ERRNO" },
        { "--fail SET_STATUS:0:EIO", "not a number from 1" },
        { "--fail SET_STATUS:1:EWHAT", "neither a name" },
        { "--fail CLOSE:1:EIO", "not a call that can fail" },
        { "--fail SETSTATUS:1:EIO", "not a call that can fail" },
        { "--fail IOCTL_0x12:1:EIO", "not a call that can fail" },
        { "--slow SET_STATUS", "CALL=MILLISECONDS" },
        { "--slow-pin 3600001", "milliseconds up to an hour" },
        { "--memlock lots", "a number of bytes, or unlimited" },
        { "--add-feature 64", "a bit from 0 to 63" },
        { "--features 1g", "hexadecimal" },
        { "--iova-range 1000", "FIRST-LAST" },
        { "--vq-num 65536", "0 to 65535" },
        { "--max-pairs 65536", "0 to 65535" },
        { "--max-pairs -1", "0 to 65535" },
        { "--fd 0", "3 to 1023" },
        { "--fd 9 --node --fd 9", "same --fd" },
        { "--path /dev/x --node --path /dev/x", "same path" },
        { "--control /nowhere/at/all", "cannot make a socket" },
        { "--transcript /nowhere/at/all", "cannot append" },
        { "--lib /nowhere/lib.so", "cannot read the library" },
        { "extra", "is not an option" },
    };
    g_autofree char *err = NULL;
    size_t i;
    int status;

    for (i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *text = run_launcher(bad[i].options, "true",
                                             &status);

        if (!WIFEXITED(status) || WEXITSTATUS(status) != 2 ||
            !strstr(text, bad[i].says) ||
            !g_str_has_prefix(text, "vdpa-soft: ") ||
            strchr(text, '\n') != text + strlen(text) - 1) {
            g_test_message("%s: status 0x%x, says: %s", bad[i].options,
                           status, text);
            g_test_fail();
        }
    }
    /* the command's own status is the launcher's */
    g_free(run_launcher("", "sh -c 'exit 42'", &status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 42);
    err = run_launcher("", "/nowhere/command", &status);
    g_assert_cmpint(WEXITSTATUS(status), ==, 127);
    g_assert_nonnull(strstr(err, "cannot run /nowhere/command"));
}

/* A shell between the launcher and the program, by exec and as parent */
static void test_shell(void)
{
    static const struct {
        const char *options;
        const char *form;
    } runs[] = {
        { "--fd 20", "sh -c 'exec %s --case fd'" },
        { "--fd 20", "sh -c '%s --case fd-held; exit $?'" },
        { "", "sh -c 'exec %s --case data'" },
        { "", "sh -c 'true; %s --case data; exit $?'" },
    };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(runs); i++) {
        g_auto(GStrv) part = g_strsplit(runs[i].form, "%s", 2);
        g_autofree char *command = g_strjoinv(self, part);
        g_autofree char *options = NULL, *err = NULL;
        int status;

        options = g_strdup_printf("--control %s/control %s", directory,
                                  runs[i].options);
        err = run_launcher(options, command, &status);
        if (status) {
            g_test_message("%s: status 0x%x", command, status);
            g_test_message("%s", err);
            g_test_fail();
        }
    }
}

/* A transcript that cannot be kept is told, once, and stops nothing. */
static void test_transcript_lost(void)
{
    static const struct {
        const char *options;
        const char *form;
        const char *says;
    } runs[] = {
        { "--transcript /dev/full", "%s --case data",
          "/dev/full: cannot write: No space left" },
        { "", "env VDPA_SOFT_TRANSCRIPT=/nowhere/at/all %s --case data",
          "/nowhere/at/all: cannot append to it: No such file" },
    };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(runs); i++) {
        g_auto(GStrv) part = g_strsplit(runs[i].form, "%s", 2);
        g_autofree char *command = g_strjoinv(self, part);
        g_autofree char *options = NULL, *err = NULL;
        const char *said;
        int status;

        options = g_strdup_printf("--control %s/control %s", directory,
                                  runs[i].options);
        err = run_launcher(options, command, &status);
        said = strstr(err, runs[i].says);
        if (status || !said || strstr(said + 1, runs[i].says)) {
            g_test_message("%s: status 0x%x, says: %s", command, status,
                           err);
            g_test_fail();
        }
    }
}

int main(int argc, char **argv)
{
    g_autofree char *env = g_strdup(getenv("VDPA_SOFT"));
    size_t i;
    int ret;

    if (argc == 3 && !strcmp(argv[1], "--case")) {
        for (i = 0; i < G_N_ELEMENTS(cases); i++) {
            if (!strcmp(cases[i].name, argv[2])) {
                cases[i].run();
                return 0;
            }
        }
        return 4;
    }
    g_test_init(&argc, &argv, NULL);
    self = g_file_read_link("/proc/self/exe", NULL);
    if (env) {
        launcher = g_strdup(env);
    } else {
        g_autofree char *dir = g_path_get_dirname(self);

        launcher = g_build_filename(dir, "vdpa-soft", NULL);
    }
    directory = g_dir_make_tmp("vdpa-soft-XXXXXX", NULL);
    g_test_add_func("/vdpa-soft/launcher", test_launcher);
    g_test_add_func("/vdpa-soft/shell", test_shell);
    g_test_add_func("/vdpa-soft/transcript-lost", test_transcript_lost);
    for (i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/vdpa-soft/node/%s",
                                                cases[i].name);

#ifdef QEMU_SANITIZE_ADDRESS
        /* In the child of a program with threads, its allocator may hang */
        if (g_str_has_prefix(cases[i].name, "fork")) {
            continue;
        }
#endif
        if (cases[i].options) {
            g_test_add_data_func(path, GSIZE_TO_POINTER(i), run_case);
        }
    }
    ret = g_test_run();
    for (i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *file = g_strdup_printf("%s/%s.jsonl", directory,
                                                cases[i].name);

        unlink(file);
    }
    rmdir(directory);
    return ret;
}
