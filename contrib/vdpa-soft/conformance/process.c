/*
 * vhost-vdpa conformance: who may open and own a node, and for how long
 *
 * Of two processes one always waits for the other, so that the order of their
 * lines is the order of their calls.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "conformance.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define IOVA 0x10000

/*
 * Other processes.  Whoever is given a turn by the other one goes on.
 */

static int turn_in, turn_out;

static void give_turn(void)
{
    if (write(turn_out, "", 1) != 1) {
        die("cannot tell the other process: %s", strerror(errno));
    }
}

static void await_turn(void)
{
    char c;

    if (read(turn_in, &c, 1) != 1) {
        die("the other process is gone");
    }
}

/* Returns: its id; the child itself does not return */
static pid_t start_child(const char *prefix, void (*run)(void))
{
    int down[2], up[2];
    pid_t pid;

    if (pipe2(down, O_CLOEXEC) < 0 || pipe2(up, O_CLOEXEC) < 0) {
        die("cannot make a pipe: %s", strerror(errno));
    }
    pid = fork();
    if (pid < 0) {
        die("cannot fork: %s", strerror(errno));
    }
    if (pid == 0) {
        close(down[1]);
        close(up[0]);
        turn_in = down[0];
        turn_out = up[1];
        say_as(prefix);
        run();
        exit(0);
    }
    close(down[0]);
    close(up[1]);
    turn_in = up[0];
    turn_out = down[1];
    return pid;
}

static void end_child(pid_t pid)
{
    int status;

    if (waitpid(pid, &status, 0) != pid) {
        die("cannot wait for a child: %s", strerror(errno));
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        say("the child ended with status 0x%x", status);
    }
    close(turn_in);
    close(turn_out);
}

/* One that does all it does before this process goes on */
static void run_child(void (*run)(void))
{
    end_child(start_child("child: ", run));
}

static void keep_over_exec(int fd)
{
    if (fcntl(fd, F_SETFD, 0) < 0) {
        die("cannot let a descriptor be inherited: %s", strerror(errno));
    }
}

/* Execute this program again; process_main() will find @what. */
static void again(const char *what, int fd)
{
    char self[] = "/proc/self/exe", option[] = "--again", number[16], mode[32];
    char path[256];
    char *argv[] = { self, option, mode, number, path, NULL };

    snprintf(mode, sizeof(mode), "%s", what);
    snprintf(number, sizeof(number), "%d", fd);
    snprintf(path, sizeof(path), "%s", node_path);
    execv(self, argv);
    die("cannot execute %s: %s", self, strerror(errno));
}

/*
 * What somebody may do who has the node but does not own it
 */

static void message(uint8_t type, size_t bytes)
{
    iotlb_message(VHOST_IOTLB_MSG_V2, 0, type, IOVA, PAGE, 0, RW, bytes);
}

static void not_owner(void)
{
    static const uint8_t mac[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };
    int event = event_new("event");
    uint32_t word = 0;
    uint64_t offered;

    vdpa_get_device_id(NULL);
    vdpa_get_features(NULL);
    vdpa_get_backend_features(&offered);
    vdpa_set_backend_features(offered);
    vdpa_set_backend_features(1ULL << 40);
    vdpa_get_status(NULL);
    vdpa_set_status(S_ACKNOWLEDGE);
    vdpa_get_status(NULL);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
    vdpa_set_status(S_DRIVER);
    vdpa_get_config_size(NULL);
    vdpa_set_config(0, sizeof(mac), mac);
    vdpa_get_config(0, sizeof(mac), NULL);
    vdpa_get_config(0, 25, NULL);
    vdpa_set_config_call(event);
    vdpa_set_config_call(-2);
    vdpa_set_config_call(-1);
    vdpa_get_vring_num(NULL);
    vdpa_get_iova_range(NULL, NULL);
    vdpa_get_as_num(NULL);
    vdpa_get_group_num(NULL);
    vdpa_get_vqs_count(NULL);
    vdpa_set_features(0);
    vdpa_set_features(F_MODERN);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
    vdpa_set_features(F_MODERN);
    vdpa_suspend();
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
    vdpa_get_status(NULL);
    vdpa_suspend();
    vdpa_resume();
    vdpa_set_status(0);
    vdpa_set_vring_num(0, 256);
    vdpa_set_vring_num(9, 256);
    vdpa_set_vring_base(0, 1);
    vdpa_get_vring_base(0, NULL);
    vdpa_set_vring_addr(0, 0, 0x1000, 0x2000, 0x3000, 0);
    vdpa_set_vring_kick(0, event);
    vdpa_set_vring_call(0, event);
    vdpa_set_vring_err(0, event);
    vdpa_set_vring_enable(0, 1);
    vdpa_get_vring_size(0, NULL);
    vdpa_get_vring_group(0, NULL);
    vdpa_get_vring_desc_group(0, NULL);
    vdpa_set_group_asid(0, 0);
    vdpa_set_vring_busyloop(0, 1);
    vdpa_get_vring_busyloop(0, NULL);
    call("SET_MEM_TABLE NULL", VHOST_SET_MEM_TABLE, NULL);
    call("RESET_OWNER", VHOST_RESET_OWNER, NULL);
    call("unknown", _IO(VHOST_VIRTIO, 0xff), &word);
    call("SET_LOG_FD", VHOST_SET_LOG_FD, &word);
    call("GET_STATUS NULL", VHOST_VDPA_GET_STATUS, NULL);
    call("SET_STATUS NULL", VHOST_VDPA_SET_STATUS, NULL);
    call("SET_FEATURES NULL", VHOST_SET_FEATURES, NULL);
    call("GET_CONFIG NULL", VHOST_VDPA_GET_CONFIG, NULL);
    call("SET_CONFIG nowhere", VHOST_VDPA_SET_CONFIG, mem_nowhere());
    call("GET_VRING_BASE NULL", VHOST_GET_VRING_BASE, NULL);
    message(VHOST_IOTLB_UPDATE, 72);
    message(VHOST_IOTLB_INVALIDATE, 72);
    message(VHOST_IOTLB_BATCH_BEGIN, 72);
    message(VHOST_IOTLB_BATCH_END, 72);
    message(99, 72);
    message(VHOST_IOTLB_INVALIDATE, 39);
    iotlb_message(7, 0, VHOST_IOTLB_UPDATE, IOVA, PAGE, 0, RW, 72);
    iotlb_message(VHOST_IOTLB_MSG_V2, 0, VHOST_IOTLB_UPDATE, IOVA, 0, 0, RW,
                  72);
    node_write("write from nowhere", mem_nowhere(), 72);
    event_close(event);
}

/* What only an owner may do */
static void as_owner(void)
{
    vdpa_set_vring_base(0, 0x11);
    vdpa_get_vring_base(0, NULL);
    vdpa_set_vring_num(0, 256);
    vdpa_set_vring_enable(0, 0);
    vdpa_get_vring_group(2, NULL);
    iotlb_batch_begin(0);
    iotlb_batch_end(0);
}

/*
 * Opening
 */

static void exclusive(void)
{
    int first;

    node_open(O_RDWR);
    first = node;
    node_open(O_RDWR);
    node_open(O_RDONLY);
    node_open(O_WRONLY | O_NONBLOCK);
    node = first;
    node_close();
    node_open(O_RDWR);
    vdpa_get_status(NULL);
}

static void open_by_other(void)
{
    /* the child has no copy of the descriptor */
    node_close();
    node_open(O_RDWR);
}

static void exclusive_of_processes(void)
{
    node_open_owned();
    vdpa_set_status(S_ACKNOWLEDGE);
    run_child(open_by_other);
    vdpa_get_status(NULL);
    node_close();
    run_child(open_by_other);
    node_open(O_RDWR);
    vdpa_get_status(NULL);
}

/*
 * Descriptors
 */

static void again_open(const char *when)
{
    int kept = node;

    say("%s:", when);
    if (node_open(O_RDWR) == 0) {
        node_close();
    }
    node = kept;
}

static void duplicates(void)
{
    int first, second, third;

    node_open_owned();
    vdpa_set_status(S_ACKNOWLEDGE);
    first = node;
    second = dup(first);
    third = fcntl(first, F_DUPFD_CLOEXEC, 100);
    node = second;
    vdpa_get_status(NULL);
    as_owner();
    node = third;
    vdpa_get_status(NULL);
    node = first;
    node_close();
    node = second;
    vdpa_get_status(NULL);
    vdpa_set_owner();
    again_open("one of three closed");
    node_close();
    node = third;
    vdpa_get_status(NULL);
    again_open("two of three closed");
    as_owner();
    node_close();
    node_open(O_RDWR);
    vdpa_get_status(NULL);
    as_owner();
}

static void duplicate_over(void)
{
    int null, second;

    node_open_owned();
    vdpa_set_status(S_ACKNOWLEDGE);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0) {
        die("/dev/null: %s", strerror(errno));
    }
    /* it becomes the node, and so keeps it open */
    second = dup2(node, null);
    say("dup2 of the node -> %s", second == null ? "as asked" : "else");
    node_close();
    node = second;
    vdpa_get_status(NULL);
    as_owner();
    again_open("the other closed");
    /* and something else takes its place, which closes the node */
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    second = dup3(null, node, O_CLOEXEC);
    say("dup3 over the node -> %s", second == node ? "as asked" : "else");
    close(second);
    close(null);
    node = -1;
    node_open(O_RDWR);
    vdpa_get_status(NULL);
}

/*
 * Threads are one owner.
 */

static void *thread_own(void *opaque)
{
    vdpa_set_owner();
    return NULL;
}

static void *thread_use(void *opaque)
{
    as_owner();
    vdpa_set_owner();
    return NULL;
}

static void run_thread(void *(*run)(void *))
{
    pthread_t thread;
    int err = pthread_create(&thread, NULL, run, NULL);

    if (err) {
        die("cannot start a thread: %s", strerror(err));
    }
    pthread_join(thread, NULL);
}

static void threads(void)
{
    node_open(O_RDWR);
    run_thread(thread_own);
    as_owner();
    run_thread(thread_use);
    vdpa_set_owner();
}

#define ROUNDS 500

/* Calls of threads do not mix: nobody else sets this queue's base. */
static void *thread_bases(void *opaque)
{
    uint32_t vq = (uintptr_t)opaque, i, wrong = 0;

    for (i = 0; i < ROUNDS; i++) {
        struct vhost_vring_state state = { vq, i };

        wrong += ioctl(node, VHOST_SET_VRING_BASE, &state) != 0;
        state.num = 0;
        wrong += ioctl(node, VHOST_GET_VRING_BASE, &state) != 0 ||
                 state.index != vq || state.num != i;
    }
    return (void *)(uintptr_t)wrong;
}

static void threads_at_once(void)
{
    pthread_t thread[3];
    uintptr_t i;

    node_open_owned();
    for (i = 0; i < 3; i++) {
        if (pthread_create(&thread[i], NULL, thread_bases, (void *)i)) {
            die("cannot start a thread");
        }
    }
    for (i = 0; i < 3; i++) {
        void *wrong;

        pthread_join(thread[i], &wrong);
        say("thread %u: %d times base set and read, %u wrong", (unsigned)i,
            ROUNDS, (unsigned)(uintptr_t)wrong);
    }
}

/*
 * Forked children
 */

static void fork_of_owner(void)
{
    node_open_owned();
    vdpa_set_backend_features(BACKEND(IOTLB_MSG_V2));
    run_child(not_owner);
    /* what it did is there, and it did not end anything */
    vdpa_get_status(NULL);
    vdpa_set_owner();
    as_owner();
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
}

static void set_status_and_close(void)
{
    vdpa_get_status(NULL);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER | S_FAILED);
    node_close();
}

static void fork_sets_status(void)
{
    node_open_owned();
    vdpa_set_status(S_ACKNOWLEDGE);
    run_child(set_status_and_close);
    vdpa_get_status(NULL);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
    vdpa_set_status(0);
    vdpa_get_status(NULL);
    as_owner();
}

static void try_to_own(void)
{
    vdpa_set_owner();
    vdpa_get_vring_base(0, NULL);
}

static void fork_tries_to_own(void)
{
    node_open_owned();
    vdpa_set_vring_base(0, 3);
    run_child(try_to_own);
    vdpa_get_vring_base(0, NULL);
}

/* A child has as much right to become the owner. */
static void own_and_use(void)
{
    int event = event_new("event");

    vdpa_get_vring_base(0, NULL);
    vdpa_set_owner();
    as_owner();
    vdpa_set_vring_addr(0, 0, 0x1000, 0x2000, 0x3000, 0);
    vdpa_set_vring_kick(0, event);
    vdpa_set_vring_call(0, event);
    vdpa_set_vring_call(0, -2);
    vdpa_set_vring_kick(0, -1);
    vdpa_set_vring_base(9, 0);
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
    give_turn();
    await_turn();
    vdpa_get_vring_base(0, NULL);
}

static void fork_owns(void)
{
    pid_t pid;

    node_open(O_RDWR);
    pid = start_child("child: ", own_and_use);
    await_turn();
    vdpa_set_owner();
    as_owner();
    vdpa_get_status(NULL);
    give_turn();
    end_child(pid);
    left_out("IOTLB_UPDATE by an owner that did not open the node",
             "a device in user space cannot reach its memory");
    /* the owner is gone, but nobody else becomes it */
    vdpa_set_owner();
    as_owner();
    vdpa_get_status(NULL);
    node_close();
    node_open_owned();
    as_owner();
}

static void hold(void)
{
    give_turn();
    await_turn();
    vdpa_get_status(NULL);
    vdpa_get_vring_base(0, NULL);
    node_close();
    give_turn();
    await_turn();
}

/* The child has the last reference. */
static void fork_closes_last(void)
{
    pid_t pid;
    int kept;

    node_open_owned();
    vdpa_set_status(S_ACKNOWLEDGE);
    pid = start_child("child: ", hold);
    await_turn();
    node_close();
    kept = node;
    node_open(O_RDWR);
    node = kept;
    give_turn();
    await_turn();
    node_open(O_RDWR);
    vdpa_get_status(NULL);
    vdpa_set_owner();
    as_owner();
    give_turn();
    end_child(pid);
    vdpa_get_status(NULL);
}

static void hold_until_exit(void)
{
    give_turn();
    await_turn();
}

/* It ends, without closing anything. */
static void fork_ends_last(void)
{
    pid_t pid;

    node_open_owned();
    vdpa_set_status(S_ACKNOWLEDGE);
    pid = start_child("child: ", hold_until_exit);
    await_turn();
    node_close();
    node_open(O_RDWR);
    give_turn();
    end_child(pid);
    node_open(O_RDWR);
    vdpa_get_status(NULL);
}

/* Both it and the one that opened the node may open it again. */
static void open_when_free(void)
{
    node_close();
    give_turn();
    await_turn();
    node_open(O_RDWR);
    vdpa_get_status(NULL);
    vdpa_set_owner();
    as_owner();
    give_turn();
    await_turn();
    node_close();
}

static void fork_opens(void)
{
    pid_t pid;

    node_open_owned();
    vdpa_set_status(S_ACKNOWLEDGE);
    pid = start_child("child: ", open_when_free);
    await_turn();
    node_close();
    give_turn();
    await_turn();
    node_open(O_RDWR);
    give_turn();
    end_child(pid);
    node_open_owned();
    vdpa_get_status(NULL);
    as_owner();
}

/*
 * The owner ends, the one it forked goes on.
 */

static int gone[2];

static void orphan(void)
{
    char c;

    say_as("orphan: ");
    close(gone[1]);
    /* until the others are gone, or have closed the node */
    if (read(gone[0], &c, 1) != 0) {
        die("nobody wrote this");
    }
    vdpa_get_status(NULL);
    vdpa_set_owner();
    as_owner();
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
    vdpa_get_status(NULL);
    again_open("with the node in hand");
    node_close();
    node_open_owned();
    vdpa_get_status(NULL);
    as_owner();
}

static void owner_that_ends(void)
{
    pid_t pid;

    vdpa_set_owner();
    vdpa_set_status(S_ACKNOWLEDGE);
    vdpa_set_vring_base(0, 5);
    pid = fork();
    if (pid < 0) {
        die("cannot fork: %s", strerror(errno));
    }
    if (pid == 0) {
        orphan();
        exit(0);
    }
    /* leave everything as it is */
}

static void owner_ends(void)
{
    int done[2];
    char c;

    left_out("the end of the process that opened the node",
             "a device in user space ends with it");
    if (pipe2(done, O_CLOEXEC) < 0 || pipe2(gone, O_CLOEXEC) < 0) {
        die("cannot make a pipe: %s", strerror(errno));
    }
    node_open(O_RDWR);
    run_child(owner_that_ends);
    vdpa_set_owner();
    node_close();
    close(gone[0]);
    close(gone[1]);
    close(done[1]);
    /* until the orphan is gone as well */
    if (read(done[0], &c, 1) != 0) {
        die("nobody wrote this");
    }
    close(done[0]);
    node_open(O_RDWR);
    vdpa_get_status(NULL);
}

/*
 * Execution of another program
 */

static void exec_keep(void)
{
    vdpa_set_owner();
    vdpa_set_backend_features(BACKEND(IOTLB_MSG_V2));
    vdpa_set_status(S_ACKNOWLEDGE);
    vdpa_set_vring_base(0, 5);
    as_owner();
    keep_over_exec(node);
    again("keep", node);
}

static void exec_kept(void)
{
    vdpa_get_status(NULL);
    vdpa_set_owner();
    as_owner();
    vdpa_set_status(0);
    not_owner();
    again_open("with the node in hand");
    node_close();
    node_open(O_RDWR);
}

/* The owner executes another program, which has the node. */
static void exec_of_owner(void)
{
    left_out("execution by the process that opened the node",
             "a device in user space ends with it");
    node_open(O_RDWR);
    run_child(exec_keep);
    vdpa_get_status(NULL);
    vdpa_set_owner();
    as_owner();
    node_close();
    node_open_owned();
    vdpa_get_status(NULL);
    as_owner();
}

/* Closed by the execution, which so resets the device. */
static void exec_close(void)
{
    node_open_owned();
    vdpa_set_status(S_ACKNOWLEDGE);
    again("closed", node);
}

static void exec_closed(void)
{
    say("GET_STATUS of what was closed -> %s",
        result_name(ioctl(node, VHOST_VDPA_GET_STATUS, mem_nowhere())));
    node = -1;
    node_open_owned();
    vdpa_get_status(NULL);
    as_owner();
}

static void exec_closes(void)
{
    run_child(exec_close);
    node_open_owned();
    vdpa_get_status(NULL);
}

/* A program that cannot be executed changes nothing. */
static void exec_fails(void)
{
    char no_program[] = "/nonexistent/program";
    char *argv[] = { no_program, NULL };

    node_open_owned();
    vdpa_set_status(S_ACKNOWLEDGE);
    keep_over_exec(node);
    say("execv -> %s", result_name(execv(no_program, argv)));
    vdpa_get_status(NULL);
    vdpa_set_owner();
    as_owner();
    node_close();
    node_open(O_RDWR);
    vdpa_get_status(NULL);
}

/* The child of an owner executes another program, which has the node. */
static void exec_child(void)
{
    keep_over_exec(node);
    again("child", node);
}

static void exec_of_child(void)
{
    pid_t pid;

    node_open_owned();
    vdpa_set_status(S_ACKNOWLEDGE);
    pid = start_child("child: ", exec_child);
    end_child(pid);
    vdpa_get_status(NULL);
    vdpa_set_owner();
    as_owner();
}

static void executed_child(void)
{
    vdpa_get_status(NULL);
    vdpa_set_owner();
    as_owner();
    vdpa_set_status(S_ACKNOWLEDGE | S_DRIVER);
    again_open("with the node in hand");
    node_close();
    node_open(O_RDWR);
}

/*
 * A descriptor passed to a process that was there before
 */

static int passage[2];

static void pass(int fd)
{
    char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 0;
    struct iovec iov = { &byte, 1 };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(fd));
    memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    if (sendmsg(passage[0], &msg, 0) != 1) {
        die("cannot pass a descriptor: %s", strerror(errno));
    }
}

static int passed(void)
{
    char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte;
    struct iovec iov = { &byte, 1 };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    int fd;

    if (recvmsg(passage[1], &msg, MSG_CMSG_CLOEXEC) != 1 ||
        !CMSG_FIRSTHDR(&msg)) {
        die("no descriptor was passed");
    }
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
    return fd;
}

static void take(void)
{
    node = passed();
    not_owner();
    give_turn();
    await_turn();
    /* now it is the only one */
    vdpa_get_status(NULL);
    vdpa_set_owner();
    as_owner();
    node_open(O_RDWR);
    node_close();
    node_open_owned();
    as_owner();
}

static void passing(void)
{
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, passage) < 0) {
        die("cannot make a pair of sockets: %s", strerror(errno));
    }
    pid = start_child("taker: ", take);
    node_open_owned();
    vdpa_set_backend_features(BACKEND(IOTLB_MSG_V2));
    pass(node);
    await_turn();
    vdpa_get_status(NULL);
    as_owner();
    node_close();
    give_turn();
    end_child(pid);
    node_open_owned();
    as_owner();
    close(passage[0]);
    close(passage[1]);
}

/*
 * Doorbells, which this device does not have
 */

static void map(const char *what, size_t size, int prot, int flags,
                off_t offset)
{
    void *page = mmap(NULL, size, prot, flags, node, offset);

    say("mmap %s -> %s", what, error_name(page == MAP_FAILED ? errno : 0));
    if (page != MAP_FAILED) {
        munmap(page, size);
    }
}

static void doorbells(void)
{
    static const char *const modes[] = { "O_RDONLY", "O_WRONLY", "O_RDWR" };
    int mode;

    for (mode = 0; mode < 3; mode++) {
        node_open(mode);
        say("%s:", modes[mode]);
        map("page 0", PAGE, PROT_WRITE, MAP_SHARED, 0);
        map("page 1", PAGE, PROT_WRITE, MAP_SHARED, PAGE);
        map("page 2", PAGE, PROT_WRITE, MAP_SHARED, 2 * PAGE);
        map("page 3", PAGE, PROT_WRITE, MAP_SHARED, 3 * PAGE);
        map("page 65535", PAGE, PROT_WRITE, MAP_SHARED, 65535 * PAGE);
        map("page 65536", PAGE, PROT_WRITE, MAP_SHARED, 65536 * PAGE);
        map("two pages", 2 * PAGE, PROT_WRITE, MAP_SHARED, 0);
        map("part of a page", 100, PROT_WRITE, MAP_SHARED, 0);
        map("nothing", 0, PROT_WRITE, MAP_SHARED, 0);
        map("from within a page", PAGE, PROT_WRITE, MAP_SHARED, 8);
        map("to read", PAGE, PROT_READ, MAP_SHARED, 0);
        map("to read and write", PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
            0);
        map("for nothing", PAGE, PROT_NONE, MAP_SHARED, 0);
        map("privately", PAGE, PROT_WRITE, MAP_PRIVATE, 0);
        map("privately to read", PAGE, PROT_READ, MAP_PRIVATE, 0);
        map("two pages, privately to read", 2 * PAGE, PROT_READ, MAP_PRIVATE,
            0);
        node_close();
    }
    node_open_owned();
    map("as the owner", PAGE, PROT_WRITE, MAP_SHARED, 0);
    vdpa_set_status(S_DRIVER_OK);
    map("under DRIVER_OK", PAGE, PROT_WRITE, MAP_SHARED, 0);
    /* nothing of this holds the node open */
    node_close();
    node_open(O_RDWR);
}

static void map_in_child(void)
{
    map("page 0", PAGE, PROT_WRITE, MAP_SHARED, 0);
    map("two pages", 2 * PAGE, PROT_WRITE, MAP_SHARED, 0);
    map("to read", PAGE, PROT_READ, MAP_SHARED, 0);
}

static void doorbells_of_child(void)
{
    node_open_owned();
    run_child(map_in_child);
    map_in_child();
}

int process_main(int argc, char **argv)
{
    if (argc != 3) {
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    node = atoi(argv[1]);
    node_path = argv[2];
    if (!strcmp(argv[0], "keep")) {
        say_as("executed: ");
        exec_kept();
    } else if (!strcmp(argv[0], "closed")) {
        say_as("executed: ");
        exec_closed();
    } else if (!strcmp(argv[0], "child")) {
        say_as("executed child: ");
        executed_child();
    } else {
        return 2;
    }
    return 0;
}

const Case process_cases[] = {
    { "exclusive", exclusive },
    { "exclusive-of-processes", exclusive_of_processes },
    { "duplicates", duplicates },
    { "duplicate-over", duplicate_over },
    { "threads", threads },
    { "threads-at-once", threads_at_once },
    { "fork-of-owner", fork_of_owner },
    { "fork-sets-status", fork_sets_status },
    { "fork-tries-to-own", fork_tries_to_own },
    { "fork-owns", fork_owns },
    { "fork-closes-last", fork_closes_last },
    { "fork-ends-last", fork_ends_last },
    { "fork-opens", fork_opens },
    { "owner-ends", owner_ends },
    { "exec-of-owner", exec_of_owner },
    { "exec-closes", exec_closes },
    { "exec-fails", exec_fails },
    { "exec-of-child", exec_of_child },
    { "passing", passing },
    { "doorbells", doorbells },
    { "doorbells-of-child", doorbells_of_child },
    { 0 }
};
