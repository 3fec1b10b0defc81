/*
 * vhost-vdpa conformance: the program, and one function per call
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "conformance.h"
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* What the lines mean; another number whenever that changes */
#define FORMAT 1

/* Seconds a case may take, and milliseconds an event may */
#define CASE_DEADLINE 60
#define EVENT_DEADLINE 5000

/* Memory that a case may have locked, in bytes */
#define MEMLOCK (2048 * PAGE)

#define MAX_NAMED 64
#define MAX_LINE 4096

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static const struct {
    const char *name;
    const Case *cases;
} sections[] = {
    { "calls", calls_cases },
    { "process", process_cases },
    { "iotlb", iotlb_cases },
    { "rings", rings_cases },
};

const char *node_path;
int node = -1;

static const char *line_prefix = "";

/* What the case has; each entry is in use if it has a name */
static struct {
    const char *name;
    uint8_t *addr;
    size_t size;
    bool mapped;
} memory[MAX_NAMED];

static struct {
    const char *name;
    int fd;
    bool event;
} named_fd[MAX_NAMED];

/*
 * The transcript
 */

void die(const char *format, ...)
{
    va_list ap;

    fputs("vhost-vdpa-conformance: ", stderr);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

void say(const char *format, ...)
{
    char line[MAX_LINE];
    int err = errno;
    va_list ap;

    va_start(ap, format);
    vsnprintf(line, sizeof(line), format, ap);
    va_end(ap);
    /* one write, so that processes and threads do not mix their lines */
    printf("%s%s\n", line_prefix, line);
    if (fflush(stdout)) {
        die("cannot write the transcript: %s", strerror(errno));
    }
    errno = err;
}

void say_as(const char *prefix)
{
    line_prefix = prefix;
}

void left_out(const char *what, const char *why)
{
    say("-- left out: %s (%s)", what, why);
}

/* Returns: the next of a few buffers, so that one call may use some */
static char *buffer(size_t *size)
{
    static _Thread_local char text[8][64];
    static _Thread_local unsigned next;

    *size = sizeof(text[0]);
    return text[next++ % ARRAY_SIZE(text)];
}

const char *error_name(int error)
{
    static const struct {
        int error;
        const char *name;
    } names[] = {
#define NAME(e) { e, #e }
        NAME(E2BIG), NAME(EACCES), NAME(EAGAIN), NAME(EBADF), NAME(EBUSY),
        NAME(EEXIST), NAME(EFAULT), NAME(EINTR), NAME(EINVAL), NAME(EIO),
        NAME(ENOBUFS), NAME(ENODEV), NAME(ENOENT), NAME(ENOMEM),
        NAME(ENOSPC), NAME(ENOSYS), NAME(ENOTTY), NAME(ENXIO),
        NAME(EOPNOTSUPP), NAME(EOVERFLOW), NAME(EPERM), NAME(ERANGE),
        NAME(ESPIPE),
#undef NAME
        { VS_ENOTSUPP, "ENOTSUPP" },
    };
    size_t i, size;
    char *text;

    for (i = 0; i < ARRAY_SIZE(names); i++) {
        if (names[i].error == error) {
            return names[i].name;
        }
    }
    text = buffer(&size);
    snprintf(text, size, "%d", error);
    return text;
}

const char *result_name(long ret)
{
    char *text;
    size_t size;

    if (ret == -1) {
        return error_name(errno);
    }
    text = buffer(&size);
    snprintf(text, size, "%ld", ret);
    return text;
}

const char *addr_name(uint64_t addr)
{
    size_t i, size;
    char *text = buffer(&size);

    for (i = 0; i < MAX_NAMED; i++) {
        uint64_t offset = addr - (uintptr_t)memory[i].addr;

        if (memory[i].name && offset < memory[i].size) {
            snprintf(text, size, "%s[%" PRIu64 "]+%" PRIu64, memory[i].name,
                     offset / PAGE, offset % PAGE);
            return text;
        }
    }
    snprintf(text, size, "0x%" PRIx64, addr);
    return text;
}

const char *fd_name(int fd)
{
    size_t i, size;
    char *text;

    for (i = 0; i < MAX_NAMED; i++) {
        if (named_fd[i].name && named_fd[i].fd == fd) {
            return named_fd[i].name;
        }
    }
    text = buffer(&size);
    snprintf(text, size, "%d", fd);
    return text;
}

static void add_fd(int fd, const char *name, bool event)
{
    size_t i;

    for (i = 0; i < MAX_NAMED; i++) {
        if (!named_fd[i].name) {
            named_fd[i].name = name;
            named_fd[i].fd = fd;
            named_fd[i].event = event;
            return;
        }
    }
    die("a case has more than %d descriptors", MAX_NAMED);
}

void name_fd(int fd, const char *name)
{
    add_fd(fd, name, false);
}

/*
 * The node
 */

int node_open(int flags)
{
    static const char *const mode[] = {
        [O_RDONLY] = "O_RDONLY", [O_WRONLY] = "O_WRONLY", [O_RDWR] = "O_RDWR",
    };
    int fd = open(node_path, flags | O_CLOEXEC);

    say("open %s%s -> %s", mode[flags & O_ACCMODE],
        flags & O_NONBLOCK ? "|O_NONBLOCK" : "",
        error_name(fd < 0 ? errno : 0));
    if (fd < 0) {
        return errno;
    }
    if (node >= 0) {
        /* only a node that is not exclusive gets here */
        close(node);
    }
    node = fd;
    return 0;
}

void node_open_owned(void)
{
    if (node_open(O_RDWR)) {
        die("%s: cannot open it: %s", node_path, strerror(errno));
    }
    vdpa_set_owner();
}

void node_close(void)
{
    if (node >= 0) {
        say("close -> %s", result_name(close(node)));
        node = -1;
    }
}

long node_write(const char *what, const void *data, size_t size)
{
    long ret = write(node, data, size);

    say("%s -> %s", what, result_name(ret));
    return ret;
}

long node_writev(const char *what, const struct iovec *iov, int count)
{
    long ret = writev(node, iov, count);

    say("%s -> %s", what, result_name(ret));
    return ret;
}

/*
 * The ioctls
 */

/* Returns: 0 or an errno, which also is in errno */
static int node_ioctl(unsigned long cmd, const void *arg)
{
    return ioctl(node, cmd, arg) < 0 ? errno : 0;
}

int call(const char *what, unsigned long cmd, const void *arg)
{
    long ret = ioctl(node, cmd, arg);

    say("%s -> %s", what, result_name(ret));
    return ret < 0 ? errno : 0;
}

/* A query of one number; @value may be NULL */
#define QUERY(function, cmd, type, what, format)                        \
    int function(__typeof__(type) *value)                               \
    {                                                                   \
        type v = 0;                                                     \
        int err = node_ioctl(VHOST_##cmd, &v);                          \
                                                                        \
        if (err) {                                                      \
            say(what " -> %s", error_name(err));                        \
        } else {                                                        \
            say(what " -> 0 " format, v);                               \
        }                                                               \
        if (value) {                                                    \
            *value = v;                                                 \
        }                                                               \
        return err;                                                     \
    }

QUERY(vdpa_get_features, GET_FEATURES, uint64_t, "GET_FEATURES",
      "features=0x%" PRIx64)
QUERY(vdpa_get_backend_features, GET_BACKEND_FEATURES, uint64_t,
      "GET_BACKEND_FEATURES", "features=0x%" PRIx64)
QUERY(vdpa_get_device_id, VDPA_GET_DEVICE_ID, uint32_t, "GET_DEVICE_ID",
      "id=%" PRIu32)
QUERY(vdpa_get_status, VDPA_GET_STATUS, uint8_t, "GET_STATUS",
      "status=0x%x")
QUERY(vdpa_get_config_size, VDPA_GET_CONFIG_SIZE, uint32_t,
      "GET_CONFIG_SIZE", "size=%" PRIu32)
QUERY(vdpa_get_vring_num, VDPA_GET_VRING_NUM, uint16_t, "GET_VRING_NUM",
      "num=%u")
QUERY(vdpa_get_as_num, VDPA_GET_AS_NUM, uint32_t, "GET_AS_NUM",
      "num=%" PRIu32)
QUERY(vdpa_get_group_num, VDPA_GET_GROUP_NUM, uint32_t, "GET_GROUP_NUM",
      "num=%" PRIu32)
QUERY(vdpa_get_vqs_count, VDPA_GET_VQS_COUNT, uint32_t, "GET_VQS_COUNT",
      "num=%" PRIu32)

int vdpa_set_owner(void)
{
    return call("SET_OWNER", VHOST_SET_OWNER, NULL);
}

int vdpa_suspend(void)
{
    return call("SUSPEND", VHOST_VDPA_SUSPEND, NULL);
}

int vdpa_resume(void)
{
    return call("RESUME", VHOST_VDPA_RESUME, NULL);
}

int vdpa_set_features(uint64_t features)
{
    int err = node_ioctl(VHOST_SET_FEATURES, &features);

    say("SET_FEATURES 0x%" PRIx64 " -> %s", features, error_name(err));
    return err;
}

int vdpa_set_backend_features(uint64_t features)
{
    int err = node_ioctl(VHOST_SET_BACKEND_FEATURES, &features);

    say("SET_BACKEND_FEATURES 0x%" PRIx64 " -> %s", features,
        error_name(err));
    return err;
}

int vdpa_set_status(uint8_t status)
{
    int err = node_ioctl(VHOST_VDPA_SET_STATUS, &status);

    say("SET_STATUS 0x%x -> %s", status, error_name(err));
    return err;
}

/* A request for some bytes of the configuration; free() it */
static struct vhost_vdpa_config *config_new(uint32_t off, uint32_t len)
{
    struct vhost_vdpa_config *config = calloc(1, sizeof(*config) + len);

    if (!config) {
        die("no memory for %" PRIu32 " bytes", len);
    }
    config->off = off;
    config->len = len;
    return config;
}

/* Returns: bytes in hexadecimal; free() it */
static char *hex(const void *data, size_t len)
{
    const uint8_t *bytes = data;
    char *text = malloc(2 * len + 1);
    size_t i;

    if (!text) {
        die("no memory for %zu bytes", 2 * len + 1);
    }
    text[0] = 0;
    for (i = 0; i < len; i++) {
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    }
    return text;
}

int vdpa_get_config(uint32_t off, uint32_t len, void *data)
{
    struct vhost_vdpa_config *config = config_new(off, len);
    int err = node_ioctl(VHOST_VDPA_GET_CONFIG, config);

    if (err) {
        say("GET_CONFIG off=%" PRIu32 " len=%" PRIu32 " -> %s", off, len,
            error_name(err));
    } else {
        char *text = hex(config->buf, len);

        say("GET_CONFIG off=%" PRIu32 " len=%" PRIu32 " -> 0 %s", off, len,
            text);
        free(text);
        if (data) {
            memcpy(data, config->buf, len);
        }
    }
    free(config);
    return err;
}

int vdpa_set_config(uint32_t off, uint32_t len, const void *data)
{
    struct vhost_vdpa_config *config = config_new(off, len);
    char *text = hex(data, len);
    int err;

    memcpy(config->buf, data, len);
    err = node_ioctl(VHOST_VDPA_SET_CONFIG, config);
    say("SET_CONFIG off=%" PRIu32 " len=%" PRIu32 " %s -> %s", off, len,
        text, error_name(err));
    free(text);
    free(config);
    return err;
}

int vdpa_set_config_call(int fd)
{
    int err = node_ioctl(VHOST_VDPA_SET_CONFIG_CALL, &fd);

    say("SET_CONFIG_CALL fd=%s -> %s", fd_name(fd), error_name(err));
    return err;
}

int vdpa_get_iova_range(uint64_t *first, uint64_t *last)
{
    struct vhost_vdpa_iova_range range = { 0 };
    int err = node_ioctl(VHOST_VDPA_GET_IOVA_RANGE, &range);

    if (err) {
        say("GET_IOVA_RANGE -> %s", error_name(err));
    } else {
        say("GET_IOVA_RANGE -> 0 first=0x%" PRIx64 " last=0x%" PRIx64,
            (uint64_t)range.first, (uint64_t)range.last);
    }
    if (first) {
        *first = range.first;
    }
    if (last) {
        *last = range.last;
    }
    return err;
}

/* A call with a vhost_vring_state that only sets */
#define SET_STATE(function, cmd, format)                                \
    int function(uint32_t index, uint32_t num)                          \
    {                                                                   \
        struct vhost_vring_state state = { index, num };                \
        int err = node_ioctl(VHOST_##cmd, &state);                      \
                                                                        \
        say(format " -> %s", index, num, error_name(err));              \
        return err;                                                     \
    }

SET_STATE(vdpa_set_vring_num, SET_VRING_NUM,
          "SET_VRING_NUM %" PRIu32 " num=%" PRIu32)
SET_STATE(vdpa_set_vring_base, SET_VRING_BASE,
          "SET_VRING_BASE %" PRIu32 " num=0x%" PRIx32)
SET_STATE(vdpa_set_vring_enable, VDPA_SET_VRING_ENABLE,
          "SET_VRING_ENABLE %" PRIu32 " num=%" PRIu32)
SET_STATE(vdpa_set_group_asid, VDPA_SET_GROUP_ASID,
          "SET_GROUP_ASID %" PRIu32 " asid=%" PRIu32)
SET_STATE(vdpa_set_vring_busyloop, SET_VRING_BUSYLOOP_TIMEOUT,
          "SET_VRING_BUSYLOOP_TIMEOUT %" PRIu32 " num=%" PRIu32)

/* One that queries; what is not overwritten shows as 0x5a5a5a5a */
#define GET_STATE(function, cmd, what, format)                          \
    int function(uint32_t index, uint32_t *num)                         \
    {                                                                   \
        struct vhost_vring_state state = { index, 0x5a5a5a5a };         \
        int err = node_ioctl(VHOST_##cmd, &state);                      \
                                                                        \
        if (err) {                                                      \
            say(what " %" PRIu32 " -> %s", index, error_name(err));     \
        } else if (state.index != index) {                              \
            say(what " %" PRIu32 " -> 0 index=%" PRIu32 " " format,     \
                index, state.index, state.num);                         \
        } else {                                                        \
            say(what " %" PRIu32 " -> 0 " format, index, state.num);    \
        }                                                               \
        if (num) {                                                      \
            *num = state.num;                                           \
        }                                                               \
        return err;                                                     \
    }

GET_STATE(vdpa_get_vring_base, GET_VRING_BASE, "GET_VRING_BASE",
          "num=0x%" PRIx32)
GET_STATE(vdpa_get_vring_size, VDPA_GET_VRING_SIZE, "GET_VRING_SIZE",
          "num=%" PRIu32)
GET_STATE(vdpa_get_vring_group, VDPA_GET_VRING_GROUP, "GET_VRING_GROUP",
          "group=%" PRIu32)
GET_STATE(vdpa_get_vring_desc_group, VDPA_GET_VRING_DESC_GROUP,
          "GET_VRING_DESC_GROUP", "group=%" PRIu32)
GET_STATE(vdpa_get_vring_busyloop, GET_VRING_BUSYLOOP_TIMEOUT,
          "GET_VRING_BUSYLOOP_TIMEOUT", "num=%" PRIu32)

int vdpa_set_vring_addr(uint32_t vq, uint32_t flags, uint64_t desc,
                        uint64_t avail, uint64_t used, uint64_t log)
{
    struct vhost_vring_addr addr = {
        .index = vq,
        .flags = flags,
        .desc_user_addr = desc,
        .used_user_addr = used,
        .avail_user_addr = avail,
        .log_guest_addr = log,
    };
    int err = node_ioctl(VHOST_SET_VRING_ADDR, &addr);

    say("SET_VRING_ADDR %" PRIu32 " flags=0x%" PRIx32 " desc=0x%" PRIx64
        " avail=0x%" PRIx64 " used=0x%" PRIx64 " log=0x%" PRIx64 " -> %s",
        vq, flags, desc, avail, used, log, error_name(err));
    return err;
}

static int set_vring_file(const char *what, unsigned long cmd, uint32_t vq,
                          int fd)
{
    struct vhost_vring_file file = { vq, fd };
    int err = node_ioctl(cmd, &file);

    say("%s %" PRIu32 " fd=%s -> %s", what, vq, fd_name(fd),
        error_name(err));
    return err;
}

int vdpa_set_vring_kick(uint32_t vq, int fd)
{
    return set_vring_file("SET_VRING_KICK", VHOST_SET_VRING_KICK, vq, fd);
}

int vdpa_set_vring_call(uint32_t vq, int fd)
{
    return set_vring_file("SET_VRING_CALL", VHOST_SET_VRING_CALL, vq, fd);
}

int vdpa_set_vring_err(uint32_t vq, int fd)
{
    return set_vring_file("SET_VRING_ERR", VHOST_SET_VRING_ERR, vq, fd);
}

/*
 * Memory
 */

static uint8_t *add_memory(const char *name, void *addr, size_t pages)
{
    size_t i;

    if (addr == MAP_FAILED) {
        die("cannot map the %zu pages \"%s\": %s", pages, name,
            strerror(errno));
    }
    for (i = 0; i < MAX_NAMED; i++) {
        if (!memory[i].name) {
            memory[i].name = name;
            memory[i].addr = addr;
            memory[i].size = pages * PAGE;
            memory[i].mapped = true;
            return addr;
        }
    }
    die("a case has more than %d pieces of memory", MAX_NAMED);
}

int mem_file(size_t pages)
{
    int fd = memfd_create("conformance", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, pages * PAGE) < 0) {
        die("cannot make a file of %zu pages in memory: %s", pages,
            strerror(errno));
    }
    return fd;
}

uint8_t *mem_map(const char *name, size_t pages, int prot, int flags, int fd,
                 uint64_t offset)
{
    return add_memory(name, mmap(NULL, pages * PAGE, prot, flags, fd, offset),
                      pages);
}

uint8_t *mem_shared(const char *name, size_t pages)
{
    int fd = mem_file(pages);
    uint8_t *mem = mem_map(name, pages, PROT_READ | PROT_WRITE, MAP_SHARED,
                           fd, 0);

    close(fd);
    return mem;
}

uint8_t *mem_private(const char *name, size_t pages)
{
    return mem_map(name, pages, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

void mem_gone(uint8_t *mem)
{
    size_t i;

    for (i = 0; i < MAX_NAMED; i++) {
        if (memory[i].name && memory[i].addr == mem && memory[i].mapped) {
            memory[i].mapped = false;
            if (munmap(mem, memory[i].size) < 0) {
                die("cannot unmap \"%s\": %s", memory[i].name,
                    strerror(errno));
            }
        }
    }
}

void *mem_nowhere(void)
{
    size_t i;

    for (i = 0; i < MAX_NAMED; i++) {
        if (memory[i].name && !strcmp(memory[i].name, "nowhere")) {
            return memory[i].addr;
        }
    }
    /* reserved, so that nothing else is put there */
    return mem_map("nowhere", 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                   0);
}

/*
 * IOTLB messages
 */

static long send_message(uint32_t version, uint32_t asid, uint8_t type,
                         uint64_t iova, uint64_t size, uint64_t uaddr,
                         uint8_t perm, size_t bytes)
{
    union {
        uint8_t bytes[2 * sizeof(struct vhost_msg_v2)];
        struct vhost_msg_v2 v2;
    } msg = {
        /* both versions have everything at the same place */
        .v2 = {
            .type = version,
            .asid = asid,
            .iotlb = {
                .iova = iova,
                .size = size,
                .uaddr = uaddr,
                .perm = perm,
                .type = type,
            },
        },
    };

    if (bytes > sizeof(msg)) {
        die("a message has at most %zu bytes", sizeof(msg));
    }
    return write(node, &msg, bytes);
}

static const char *perm_name(uint8_t perm)
{
    static const char *const names[] = { "none", "ro", "wo", "rw" };
    size_t size;
    char *text;

    if (perm < ARRAY_SIZE(names)) {
        return names[perm];
    }
    text = buffer(&size);
    snprintf(text, size, "perm=%u", perm);
    return text;
}

long iotlb_message(uint32_t version, uint32_t asid, uint8_t type,
                   uint64_t iova, uint64_t size, uint64_t uaddr,
                   uint8_t perm, size_t bytes)
{
    long ret = send_message(version, asid, type, iova, size, uaddr, perm,
                            bytes);

    say("IOTLB_MSG v%" PRIu32 " type=%u asid=%" PRIu32 " iova=0x%" PRIx64
        " size=0x%" PRIx64 " uaddr=%s %s bytes=%zu -> %s", version, type,
        asid, iova, size, addr_name(uaddr), perm_name(perm), bytes,
        result_name(ret));
    return ret;
}

long iotlb_update(uint32_t asid, uint64_t iova, uint64_t size,
                  const void *addr, uint8_t perm)
{
    long ret = send_message(VHOST_IOTLB_MSG_V2, asid, VHOST_IOTLB_UPDATE,
                            iova, size, (uintptr_t)addr, perm,
                            sizeof(struct vhost_msg_v2));

    say("IOTLB_UPDATE asid=%" PRIu32 " iova=0x%" PRIx64 " size=0x%" PRIx64
        " uaddr=%s %s -> %s", asid, iova, size, addr_name((uintptr_t)addr),
        perm_name(perm), result_name(ret));
    return ret;
}

long iotlb_invalidate(uint32_t asid, uint64_t iova, uint64_t size)
{
    long ret = send_message(VHOST_IOTLB_MSG_V2, asid, VHOST_IOTLB_INVALIDATE,
                            iova, size, 0, 0, sizeof(struct vhost_msg_v2));

    say("IOTLB_INVALIDATE asid=%" PRIu32 " iova=0x%" PRIx64
        " size=0x%" PRIx64 " -> %s", asid, iova, size, result_name(ret));
    return ret;
}

long iotlb_batch_begin(uint32_t asid)
{
    long ret = send_message(VHOST_IOTLB_MSG_V2, asid,
                            VHOST_IOTLB_BATCH_BEGIN, 0, 0, 0, 0,
                            sizeof(struct vhost_msg_v2));

    say("IOTLB_BATCH_BEGIN asid=%" PRIu32 " -> %s", asid, result_name(ret));
    return ret;
}

long iotlb_batch_end(uint32_t asid)
{
    long ret = send_message(VHOST_IOTLB_MSG_V2, asid, VHOST_IOTLB_BATCH_END,
                            0, 0, 0, 0, sizeof(struct vhost_msg_v2));

    say("IOTLB_BATCH_END asid=%" PRIu32 " -> %s", asid, result_name(ret));
    return ret;
}

/*
 * Eventfds
 */

int event_new(const char *name)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    if (fd < 0) {
        die("cannot make an eventfd: %s", strerror(errno));
    }
    add_fd(fd, name, true);
    return fd;
}

void event_add(int fd, uint64_t value)
{
    ssize_t ret = write(fd, &value, sizeof(value));

    say("add %" PRIu64 " to %s -> %s", value, fd_name(fd), result_name(ret));
}

uint64_t event_take(int fd)
{
    uint64_t value = 0;
    ssize_t ret = read(fd, &value, sizeof(value));

    if (ret < 0 && errno != EAGAIN) {
        say("%s: %s", fd_name(fd), error_name(errno));
    } else {
        say("%s: %" PRIu64, fd_name(fd), value);
    }
    return value;
}

uint64_t event_wait(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    uint64_t value = 0;

    if (poll(&p, 1, EVENT_DEADLINE) != 1 ||
        read(fd, &value, sizeof(value)) != sizeof(value)) {
        say("%s: nothing within the deadline", fd_name(fd));
        return 0;
    }
    say("%s: came", fd_name(fd));
    return value;
}

void event_close(int fd)
{
    size_t i;

    for (i = 0; i < MAX_NAMED; i++) {
        if (named_fd[i].name && named_fd[i].event && named_fd[i].fd == fd) {
            close(fd);
            named_fd[i].name = NULL;
        }
    }
}

/*
 * The program
 */

static void clean_up(void)
{
    size_t i;

    say_as("");
    if (node >= 0) {
        close(node);
        node = -1;
    }
    for (i = 0; i < MAX_NAMED; i++) {
        if (memory[i].name && memory[i].mapped) {
            munmap(memory[i].addr, memory[i].size);
        }
        memory[i].name = NULL;
        if (named_fd[i].name && named_fd[i].event) {
            close(named_fd[i].fd);
        }
        named_fd[i].name = NULL;
    }
}

static void too_late(int sig)
{
    static const char text[] =
        "vhost-vdpa-conformance: a case did not end within its deadline\n";

    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
        /* the exit status tells */
    }
    _exit(1);
}

/*
 * What may be locked is to be the same everywhere, and at each case's start.
 * A process may nearly always have that much.
 */
static void limit_memory(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0) {
        die("getrlimit: %s", strerror(errno));
    }
    if (limit.rlim_max < MEMLOCK) {
        limit.rlim_max = MEMLOCK;
    }
    limit.rlim_cur = MEMLOCK;
    if (setrlimit(RLIMIT_MEMLOCK, &limit) < 0) {
        die("cannot set the limit of locked memory to %llu bytes: %s; the "
            "hard one (ulimit -H -l) must not be lower",
            (unsigned long long)MEMLOCK, strerror(errno));
    }
}

/* Let the kernel's log have the name of a case, which may be its last */
static void log_case(const char *name)
{
    /* it is open only meanwhile: a case may look at what is */
    int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);

    if (fd < 0 || dprintf(fd, "<6>vhost-vdpa-conformance: %s\n", name) < 0) {
        die("cannot write to /dev/kmsg: %s; leave out --kmsg",
            strerror(errno));
    }
    close(fd);
}

static void run(const char *section, const Case *c, bool list,
                const char *only, bool kmsg)
{
    char name[128];

    snprintf(name, sizeof(name), "%s/%s", section, c->name);
    if (only && fnmatch(only, name, 0)) {
        return;
    }
    if (list) {
        printf("%s\n", name);
        return;
    }
    say("== %s", name);
    if (kmsg) {
        log_case(name);
    }
    alarm(CASE_DEADLINE);
    limit_memory();
    c->run();
    clean_up();
    alarm(0);
}

static void usage(FILE *to)
{
    fputs("usage: vhost-vdpa-conformance [--list] [--only GLOB] [--kmsg] "
          "NODE\n\n"
          "Make all the calls that a vhost-vdpa node knows, and print what\n"
          "came of them.\n\n"
          "  --list       only print the names of the cases\n"
          "  --only GLOB  only those whose name, \"calls/status\" say,\n"
          "               matches GLOB\n"
          "  --kmsg       write the name of each to the kernel's log, too\n"
          "  NODE         /dev/vhost-vdpa-0, say; nobody else may use it, or\n"
          "               need what its device is configured to\n", to);
}

int main(int argc, char **argv)
{
    const struct sigaction late = { .sa_handler = too_late };
    const char *only = NULL;
    bool list = false, kmsg = false;
    const Case *c;
    size_t s;
    int i;

    if (argc > 1 && !strcmp(argv[1], "--again")) {
        return process_main(argc - 2, argv + 2);
    }
    for (i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--list")) {
            list = true;
        } else if (!strcmp(argv[i], "--only") && i + 1 < argc) {
            only = argv[++i];
        } else if (!strcmp(argv[i], "--kmsg")) {
            kmsg = true;
        } else if (!strcmp(argv[i], "--help")) {
            usage(stdout);
            return 0;
        } else if (argv[i][0] == '-' || node_path) {
            usage(stderr);
            return 2;
        } else {
            node_path = argv[i];
        }
    }
    if (!node_path && !list) {
        usage(stderr);
        return 2;
    }
    if (!list) {
        say("vhost-vdpa conformance, format %d", FORMAT);
        sigaction(SIGALRM, &late, NULL);
    }
    for (s = 0; s < ARRAY_SIZE(sections); s++) {
        for (c = sections[s].cases; c->name; c++) {
            run(sections[s].name, c, list, only, kmsg);
        }
    }
    return 0;
}
