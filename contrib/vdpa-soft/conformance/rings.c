/*
 * vhost-vdpa conformance: rings, kicks and calls
 *
 * The device is a network device that sends its frames back, with a control
 * queue: vdpa_sim_net.  Queue 0 receives, 1 transmits, 2 is control.
 *
 * Nothing here may be a matter of time.  What is to happen is awaited: a used
 * entry is there before its call, and a query of the status waits until the
 * device is not at work.  Whether something does not happen can only be asked
 * where it is certain that the device was at work and is not any more.  One
 * pass serves the control queue first and then the others, so a command tells
 * that; other kicks before it would mean more passes, and there are none.
 *
 * Nor may the device ever see addresses that nothing was mapped for yet: it
 * takes them for physical ones where memory is pinned.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "conformance.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Milliseconds an expected call may take */
#define DEADLINE 5000

#define RX 0
#define TX 1
#define CVQ 2

/* Where the memory is for the device, and what is in its pages */
#define IOVA 0x20000000ULL
#define PAGES 64
#define PAGE_DESC(vq) (3 * (vq))
#define PAGE_AVAIL(vq) (3 * (vq) + 1)
#define PAGE_USED(vq) (3 * (vq) + 2)
#define PAGE_OTHER 9        /* another ring */
#define PAGE_CTRL 12
#define PAGE_TX 16
#define PAGE_RX 40

/* Buffers that are small are that far from each other */
#define STRIDE 256

#define NUM 64              /* entries of the rings, if not said */
#define HEADER 12           /* of the virtio header, modern */
#define FRAME 72            /* bytes of a frame and its header, if not said */

#define RUNNING (S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK)

/* Without a zero: where one is, vdpa_sim stops comparing */
static const uint8_t own_mac[6] = { 0x52, 0x54, 0x11, 0x12, 0x34, 0x56 };
static const uint8_t nobody_mac[6] = { 2, 2, 2, 2, 2, 2 };
static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

typedef struct Queue {
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint64_t desc_iova;
    uint64_t avail_iova;
    uint64_t used_iova;
    unsigned num;
    uint16_t next;          /* the available index */
    uint16_t lost;          /* taken and never to be used */
    uint16_t shown;         /* the used index up to which all was printed */
    int kick;
    int call;
    bool came;              /* a call, since it was asked for */
} Queue;

static uint8_t *mem;
static Queue queue[3];
static unsigned commands;

/*
 * Calls that only prepare a case are printed if they fail
 */

static void must(const char *what, int err)
{
    if (err) {
        say("%s -> %s", what, error_name(err));
    }
}

static int quiet_ioctl(unsigned long cmd, const void *arg)
{
    return ioctl(node, cmd, arg) < 0 ? errno : 0;
}

static int quiet_state(unsigned long cmd, unsigned vq, uint32_t num)
{
    struct vhost_vring_state state = { .index = vq, .num = num };

    return quiet_ioctl(cmd, &state);
}

static int quiet_file(unsigned long cmd, unsigned vq, int fd)
{
    struct vhost_vring_file file = { .index = vq, .fd = fd };

    return quiet_ioctl(cmd, &file);
}

static void quiet_status(uint8_t status)
{
    must("SET_STATUS", quiet_ioctl(VHOST_VDPA_SET_STATUS, &status));
}

static void quiet_message(uint32_t asid, uint8_t type, uint64_t iova,
                          const void *addr, uint8_t perm)
{
    struct vhost_msg_v2 msg = {
        .type = VHOST_IOTLB_MSG_V2,
        .asid = asid,
        .iotlb = {
            .iova = iova,
            .size = PAGE,
            .uaddr = (uintptr_t)addr,
            .perm = perm,
            .type = type,
        },
    };

    if (write(node, &msg, sizeof(msg)) != sizeof(msg)) {
        say("message of type %u -> %s", type, error_name(errno));
    }
}

/* Wait until the device is not at work */
static void settle(void)
{
    uint8_t status = 0;

    must("GET_STATUS", quiet_ioctl(VHOST_VDPA_GET_STATUS, &status));
}

/*
 * Memory
 */

static uint64_t page_iova(unsigned page)
{
    return IOVA + page * PAGE;
}

/* Each page by itself, so that it can be taken away by itself */
static void map_pages(uint32_t asid, unsigned from, unsigned to)
{
    unsigned i;

    quiet_message(asid, VHOST_IOTLB_BATCH_BEGIN, 0, NULL, 0);
    for (i = from; i < to; i++) {
        quiet_message(asid, VHOST_IOTLB_UPDATE, page_iova(i), mem + i * PAGE,
                      RW);
    }
    quiet_message(asid, VHOST_IOTLB_BATCH_END, 0, NULL, 0);
}

static void map_again(unsigned page, uint8_t perm)
{
    iotlb_invalidate(0, page_iova(page), PAGE);
    iotlb_update(0, page_iova(page), PAGE, mem + page * PAGE, perm);
}

static uint8_t *buffer(unsigned page, unsigned i)
{
    return mem + page * PAGE + i * STRIDE;
}

static uint64_t buffer_iova(unsigned page, unsigned i)
{
    return page_iova(page) + i * STRIDE;
}

/*
 * Rings
 */

static void queue_at(unsigned vq, unsigned desc, unsigned avail,
                     unsigned used)
{
    Queue *q = &queue[vq];

    q->desc = (void *)(mem + desc * PAGE);
    q->avail = (void *)(mem + avail * PAGE);
    q->used = (void *)(mem + used * PAGE);
    q->desc_iova = page_iova(desc);
    q->avail_iova = page_iova(avail);
    q->used_iova = page_iova(used);
}

/* Empty rings, and eventfds if there are none */
static void queue_init(unsigned vq, unsigned num)
{
    static const char *const kick[] = { "kick0", "kick1", "kick2" };
    static const char *const call[] = { "call0", "call1", "call2" };
    Queue *q = &queue[vq];

    q->num = num;
    q->next = 0;
    q->lost = 0;
    q->shown = 0;
    memset(q->desc, 0, PAGE);
    memset(q->avail, 0, PAGE);
    memset(q->used, 0, PAGE);
    if (q->kick < 0) {
        q->kick = event_new(kick[vq]);
        q->call = event_new(call[vq]);
    }
}

static void queue_addr(unsigned vq)
{
    const Queue *q = &queue[vq];
    struct vhost_vring_addr addr = {
        .index = vq,
        .desc_user_addr = q->desc_iova,
        .avail_user_addr = q->avail_iova,
        .used_user_addr = q->used_iova,
    };

    must("SET_VRING_ADDR", quiet_ioctl(VHOST_SET_VRING_ADDR, &addr));
}

static void queue_files(unsigned vq)
{
    must("SET_VRING_CALL",
         quiet_file(VHOST_SET_VRING_CALL, vq, queue[vq].call));
    must("SET_VRING_KICK",
         quiet_file(VHOST_SET_VRING_KICK, vq, queue[vq].kick));
}

static void queue_enable(unsigned vq)
{
    must("SET_VRING_ENABLE",
         quiet_state(VHOST_VDPA_SET_VRING_ENABLE, vq, 1));
}

static void queue_up(unsigned vq, unsigned num)
{
    queue_init(vq, num);
    must("SET_VRING_NUM", quiet_state(VHOST_SET_VRING_NUM, vq, num));
    must("SET_VRING_BASE", quiet_state(VHOST_SET_VRING_BASE, vq, 0));
    queue_addr(vq);
    queue_files(vq);
    queue_enable(vq);
}

/*
 * Bring the device up, part by part
 */

static void open_node(void)
{
    uint64_t backend = BACKEND(IOTLB_MSG_V2) | BACKEND(IOTLB_BATCH) |
                       BACKEND(IOTLB_ASID);
    union {
        struct vhost_vdpa_config config;
        uint8_t bytes[sizeof(struct vhost_vdpa_config) + 6];
    } config = { .config = { .len = 6 } };
    unsigned i;

    node_open_owned();
    must("SET_BACKEND_FEATURES",
         quiet_ioctl(VHOST_SET_BACKEND_FEATURES, &backend));
    /* what an earlier case made of it is still there */
    memcpy(config.config.buf, own_mac, 6);
    must("SET_CONFIG", quiet_ioctl(VHOST_VDPA_SET_CONFIG, &config));
    mem = mem_shared("mem", PAGES);
    memset(queue, 0, sizeof(queue));
    for (i = 0; i < ARRAY_SIZE(queue); i++) {
        queue[i].kick = -1;
        queue[i].call = -1;
        queue_at(i, PAGE_DESC(i), PAGE_AVAIL(i), PAGE_USED(i));
    }
    commands = 0;
}

static void negotiate(uint64_t features)
{
    quiet_status(S_ACKNOWLEDGE);
    quiet_status(S_ACKNOWLEDGE | S_DRIVER);
    must("SET_FEATURES", quiet_ioctl(VHOST_SET_FEATURES, &features));
    quiet_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
}

static void start_with(uint64_t features, unsigned num)
{
    open_node();
    map_pages(0, 0, PAGES);
    negotiate(features);
    queue_up(RX, num);
    queue_up(TX, num);
    if (features & F_CTRL_VQ) {
        queue_up(CVQ, NUM);
    }
    quiet_status(RUNNING);
    say("the device runs, features 0x%llx, rings of %u",
        (unsigned long long)features, num);
}

static void start(void)
{
    start_with(F_MODERN | F_CTRL_VQ | F_CTRL_MAC_ADDR, NUM);
}

/* After a reset, with nothing mapped again */
static void restart(void)
{
    unsigned i;

    negotiate(F_MODERN | F_CTRL_VQ | F_CTRL_MAC_ADDR);
    for (i = 0; i < ARRAY_SIZE(queue); i++) {
        queue_up(i, NUM);
    }
    quiet_status(RUNNING);
    say("the device runs again");
}

/*
 * Chains
 */

static void set_desc(unsigned vq, unsigned i, uint64_t addr, uint32_t len,
                     uint16_t flags, uint16_t next)
{
    queue[vq].desc[i].addr = addr;
    queue[vq].desc[i].len = len;
    queue[vq].desc[i].flags = flags;
    queue[vq].desc[i].next = next;
}

static void offer(unsigned vq, uint16_t head)
{
    Queue *q = &queue[vq];

    q->avail->ring[q->next & (q->num - 1)] = head;
    q->next++;
    __atomic_store_n(&q->avail->idx, q->next, __ATOMIC_RELEASE);
}

/* A frame to @to in buffer @i, descriptor @i; other bytes tell it apart */
static void put_frame(unsigned i, const uint8_t *to, unsigned size)
{
    uint8_t *at = buffer(PAGE_TX, i);
    unsigned k;

    memset(at, 0, HEADER);
    for (k = HEADER; k < size; k++) {
        at[k] = i + k;
    }
    memcpy(at + HEADER, to, 6);
    set_desc(TX, i, buffer_iova(PAGE_TX, i), size, 0, 0);
}

static void send_to(unsigned i, const uint8_t *to)
{
    put_frame(i, to, FRAME);
    offer(TX, i);
}

static void send(unsigned i)
{
    send_to(i, own_mac);
}

static void receive_in(unsigned i, unsigned size)
{
    memset(buffer(PAGE_RX, i), 0xee, STRIDE);
    set_desc(RX, i, buffer_iova(PAGE_RX, i), size, VRING_DESC_F_WRITE, 0);
    offer(RX, i);
}

static void receive(unsigned i)
{
    receive_in(i, STRIDE);
}

/* What is in receive buffer @rx: the frame of buffer @tx, and no more? */
static void compare(unsigned rx, unsigned tx, unsigned size)
{
    const uint8_t *got = buffer(PAGE_RX, rx);
    unsigned i;

    for (i = 0; i < size; i++) {
        if (got[i] != buffer(PAGE_TX, tx)[i]) {
            say("buffer %u: byte %u is not that of frame %u", rx, i, tx);
            return;
        }
    }
    if (got[size] != 0xee) {
        say("buffer %u: something is behind the %u bytes of frame %u", rx,
            size, tx);
        return;
    }
    say("buffer %u: the %u bytes of frame %u", rx, size, tx);
}

/*
 * Completions
 */

static void take_call(Queue *q)
{
    uint64_t value;

    if (read(q->call, &value, sizeof(value)) == sizeof(value)) {
        q->came = true;
    } else if (errno != EAGAIN) {
        die("%s: %s", fd_name(q->call), strerror(errno));
    }
}

/* Wait until @count entries of a queue are used, since it was set up */
static bool await(unsigned vq, uint16_t count)
{
    Queue *q = &queue[vq];
    struct pollfd p = { .fd = q->call, .events = POLLIN };

    while ((int16_t)(__atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE) -
                     count) < 0) {
        if (poll(&p, 1, DEADLINE) != 1) {
            say("queue %u: no call within the deadline", vq);
            return false;
        }
        take_call(q);
    }
    settle();
    return true;
}

/* Wait until all is used that was offered */
static bool await_all(unsigned vq)
{
    return await(vq, queue[vq].next - queue[vq].lost);
}

/* The used entries that were not printed yet */
static void show(unsigned vq)
{
    Queue *q = &queue[vq];
    uint16_t idx = __atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE);

    say("queue %u: used idx=%u flags=0x%x", vq, idx, q->used->flags);
    for (; q->shown != idx; q->shown++) {
        struct vring_used_elem *e = &q->used->ring[q->shown & (q->num - 1)];

        say("queue %u: used[%u] id=%u len=%u", vq,
            q->shown & (q->num - 1), e->id, e->len);
    }
}

static void show_both(void)
{
    show(TX);
    show(RX);
}

static void bases(void)
{
    vdpa_get_vring_base(RX, NULL);
    vdpa_get_vring_base(TX, NULL);
}

/* Since it was asked the last time.  How often is a matter of time. */
static void called(unsigned vq)
{
    Queue *q = &queue[vq];

    take_call(q);
    say("%s: %s", fd_name(q->call), q->came ? "came" : "did not come");
    q->came = false;
}

static void kick(unsigned vq)
{
    event_add(queue[vq].kick, 1);
}

/* Buffer @i there and back; @i is also how many there were before */
static bool round_trip(unsigned i)
{
    receive(i);
    send(i);
    kick(TX);
    if (!await_all(RX)) {
        return false;
    }
    show_both();
    compare(i, i, FRAME);
    return true;
}

/*
 * The control queue
 */

/* A command in two descriptors; returns the first */
static unsigned put_command(uint8_t class, uint8_t cmd, const void *data,
                            unsigned size)
{
    unsigned i = commands++ % (NUM / 2);
    uint8_t *at = mem + PAGE_CTRL * PAGE + i * 64;
    uint64_t iova = page_iova(PAGE_CTRL) + i * 64;

    at[0] = class;
    at[1] = cmd;
    memcpy(at + 2, data, size);
    at[63] = 0x77;
    set_desc(CVQ, 2 * i, iova, 2 + size, VRING_DESC_F_NEXT, 2 * i + 1);
    set_desc(CVQ, 2 * i + 1, iova + 63, 1, VRING_DESC_F_WRITE, 0);
    return 2 * i;
}

static uint8_t command_answer(unsigned desc)
{
    return mem[PAGE_CTRL * PAGE + desc / 2 * 64 + 63];
}

static void command(uint8_t class, uint8_t cmd, const void *data,
                    unsigned size)
{
    unsigned desc = put_command(class, cmd, data, size);

    offer(CVQ, desc);
    kick(CVQ);
    if (await_all(CVQ)) {
        show(CVQ);
        say("command %u %u with %u bytes: answer 0x%x", class, cmd, size,
            command_answer(desc));
    }
}

/*
 * Have the device make one pass, and wait for its end.  Nobody else may have
 * kicked it since it was last waited for.
 */
static void one_pass(void)
{
    unsigned desc = put_command(0x55, 0x55, "", 0);

    offer(CVQ, desc);
    say("one pass");
    must("kick", write(queue[CVQ].kick, &(uint64_t){ 1 }, 8) < 0 ? errno
                                                                  : 0);
    await_all(CVQ);
    queue[CVQ].shown = queue[CVQ].used->idx;
}

/*
 * There and back
 */

static void run_frame(void)
{
    start();
    bases();
    round_trip(0);
    bases();
    called(RX);
    called(TX);
    round_trip(1);
    bases();
}

/* The sender's header goes with the frame as it is */
static void run_header(void)
{
    struct virtio_net_hdr_mrg_rxbuf header = {
        .hdr = {
            .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
            .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
            .hdr_len = 1,
            .gso_size = 2,
            .csum_start = 3,
            .csum_offset = 4,
        },
        .num_buffers = 5,
    };

    start();
    receive(0);
    put_frame(0, own_mac, FRAME);
    memcpy(buffer(PAGE_TX, 0), &header, sizeof(header));
    offer(TX, 0);
    kick(TX);
    if (await(RX, 1)) {
        show_both();
        compare(0, 0, FRAME);
    }
}

static void run_header_legacy(void)
{
    /* of 10 bytes; the address follows it */
    start_with(F_ACCESS_PLATFORM, NUM);
    receive(0);
    put_frame(0, own_mac, FRAME);
    memcpy(buffer(PAGE_TX, 0) + 10, own_mac, 6);
    offer(TX, 0);
    kick(TX);
    if (await(RX, 1)) {
        show_both();
        compare(0, 0, FRAME);
    }
    /* it is not where it would be with the modern one */
    receive(1);
    send(1);
    memset(buffer(PAGE_TX, 1) + 10, 2, 2);
    kick(TX);
    if (await(TX, 2)) {
        show_both();
    }
}

static void run_many(void)
{
    unsigned i;

    start();
    for (i = 0; i < NUM; i++) {
        receive(i);
        send(i);
    }
    kick(TX);
    if (await(RX, NUM)) {
        show_both();
        for (i = 0; i < NUM; i++) {
            compare(i, i, FRAME);
        }
    }
    bases();
}

/* More than the ring has entries, one after the other */
static void run_small_ring(void)
{
    unsigned i;

    start_with(F_MODERN, 4);
    for (i = 0; i < 10; i++) {
        receive_in(i % 4, STRIDE);
        send(i % 4);
        kick(TX);
        if (!await(RX, i + 1)) {
            return;
        }
        show_both();
        compare(i % 4, i % 4, FRAME);
    }
    bases();
}

static void run_smallest_ring(void)
{
    start_with(F_MODERN, 1);
    receive_in(0, STRIDE);
    send(0);
    kick(TX);
    if (await(RX, 1)) {
        show_both();
        compare(0, 0, FRAME);
    }
    receive_in(0, STRIDE);
    send(0);
    kick(TX);
    if (await(RX, 2)) {
        show_both();
    }
}

static void run_largest_ring(void)
{
    start_with(F_MODERN, 256);
    round_trip(0);
    set_desc(TX, 255, buffer_iova(PAGE_TX, 1), FRAME, 0, 0);
    put_frame(1, own_mac, FRAME);
    receive(1);
    offer(TX, 255);
    kick(TX);
    if (await(RX, 2)) {
        show_both();
        compare(1, 1, FRAME);
    }
}

/* Where both sides begin is what the base says */
static void run_base(void)
{
    unsigned vq, i;

    open_node();
    map_pages(0, 0, PAGES);
    negotiate(F_MODERN);
    for (vq = RX; vq <= TX; vq++) {
        queue_init(vq, NUM);
        must("SET_VRING_NUM", quiet_state(VHOST_SET_VRING_NUM, vq, NUM));
        queue[vq].next = 65534;
        queue[vq].shown = 65534;
        queue[vq].used->idx = 65534;
        vdpa_set_vring_base(vq, 65534);
        queue_addr(vq);
        queue_files(vq);
        queue_enable(vq);
    }
    bases();
    quiet_status(RUNNING);
    for (i = 0; i < 4; i++) {
        if (!round_trip(i)) {
            return;
        }
    }
    bases();
}

/* Set while a queue is enabled it counts at once, but not for what is used */
static void run_base_enabled(void)
{
    open_node();
    map_pages(0, 0, PAGES);
    negotiate(F_MODERN);
    queue_up(RX, NUM);
    queue_up(TX, NUM);
    vdpa_set_vring_base(TX, 5);
    queue[TX].next = 5;
    bases();
    quiet_status(RUNNING);
    round_trip(0);
    bases();
}

/*
 * What happens to frames
 */

static void run_filter(void)
{
    static const uint8_t multicast[6] = { 0x33, 0x33, 1, 2, 3, 4 };
    static const uint8_t other[6] = { 0x52, 0x54, 0x11, 0x12, 0x34, 0x57 };
    static const uint8_t another[6] = { 0x12, 0x54, 0x11, 0x12, 0x34, 0x56 };
    const uint8_t *to[] = { own_mac, broadcast, multicast, other, another };
    unsigned i;

    start();
    for (i = 0; i < ARRAY_SIZE(to); i++) {
        say("to %02x:%02x:%02x:%02x:%02x:%02x", to[i][0], to[i][1], to[i][2],
            to[i][3], to[i][4], to[i][5]);
        receive(i);
        send_to(i, to[i]);
        kick(TX);
        if (!await(TX, i + 1)) {
            return;
        }
        show_both();
    }
    /* one that is passed over uses up no buffer, and holds up no other */
    send_to(5, other);
    send_to(6, other);
    send(7);
    kick(TX);
    if (await(TX, 8)) {
        show_both();
        compare(3, 7, FRAME);
    }
    /* the address in the configuration is the one that counts */
    vdpa_set_config(0, 6, other);
    send_to(8, other);
    send(9);
    kick(TX);
    if (await(TX, 10)) {
        show_both();
        compare(4, 8, FRAME);
    }
    left_out("addresses with a byte that is 0",
             "vdpa_sim compares no further than to it");
}

static void run_short_frames(void)
{
    static const unsigned size[] = { 1, 12, 17, 18, 19 };
    unsigned i;

    start();
    for (i = 0; i < ARRAY_SIZE(size); i++) {
        say("%u bytes", size[i]);
        receive(i);
        put_frame(i, broadcast, FRAME);
        set_desc(TX, i, buffer_iova(PAGE_TX, i), size[i], 0, 0);
        offer(TX, i);
        kick(TX);
        if (!await(TX, i + 1)) {
            return;
        }
        show_both();
    }
    compare(0, 3, 18);
    compare(1, 4, 19);
}

static void run_long_frame(void)
{
    start();
    memset(mem + PAGE_TX * PAGE, 1, 3 * PAGE);
    put_frame(0, own_mac, 2 * PAGE);
    set_desc(TX, 0, page_iova(PAGE_TX), PAGE + 100, 0, 0);
    memset(mem + PAGE_RX * PAGE, 0xee, 3 * PAGE);
    set_desc(RX, 0, page_iova(PAGE_RX), 3 * PAGE, VRING_DESC_F_WRITE, 0);
    offer(RX, 0);
    offer(TX, 0);
    kick(TX);
    if (await(RX, 1)) {
        show_both();
        compare(0, 0, PAGE);
    }
}

static void run_short_buffer(void)
{
    static const unsigned size[] = { 1, 11, 12, 20, 71, 72 };
    unsigned i;

    start();
    for (i = 0; i < ARRAY_SIZE(size); i++) {
        receive_in(i, size[i]);
        send(i);
        kick(TX);
        if (!await(RX, i + 1)) {
            return;
        }
        show_both();
        compare(i, i, size[i]);
    }
}

/* A frame for which there is no buffer is lost, and it ends the pass */
static void run_no_buffer(void)
{
    start();
    send(0);
    send(1);
    kick(TX);
    if (await(TX, 1)) {
        show_both();
        bases();
    }
    receive(0);
    receive(1);
    one_pass();
    show_both();
    compare(0, 1, FRAME);
    send(2);
    kick(TX);
    if (await(RX, 2)) {
        show_both();
        compare(1, 2, FRAME);
    }
    bases();
}

/* In several pieces on both sides, cut differently */
static void run_pieces(void)
{
    unsigned i;

    start();
    put_frame(0, own_mac, FRAME);
    set_desc(TX, 0, buffer_iova(PAGE_TX, 0), 5, VRING_DESC_F_NEXT, 9);
    set_desc(TX, 9, buffer_iova(PAGE_TX, 0) + 5, 20, VRING_DESC_F_NEXT, 3);
    set_desc(TX, 3, buffer_iova(PAGE_TX, 0) + 25, FRAME - 25, 0, 0);
    memset(buffer(PAGE_RX, 0), 0xee, STRIDE);
    set_desc(RX, 7, buffer_iova(PAGE_RX, 0), 10,
             VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 8);
    set_desc(RX, 8, buffer_iova(PAGE_RX, 0) + 10, 1,
             VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 6);
    set_desc(RX, 6, buffer_iova(PAGE_RX, 0) + 11, 200, VRING_DESC_F_WRITE, 0);
    offer(RX, 7);
    offer(TX, 0);
    kick(TX);
    if (await(RX, 1)) {
        show_both();
        compare(0, 0, FRAME);
    }
    /* nothing in a descriptor is nothing */
    put_frame(1, own_mac, FRAME);
    set_desc(TX, 1, buffer_iova(PAGE_TX, 1), 0, VRING_DESC_F_NEXT, 10);
    set_desc(TX, 10, buffer_iova(PAGE_TX, 1), FRAME, 0, 0);
    memset(buffer(PAGE_RX, 1), 0xee, STRIDE);
    set_desc(RX, 1, buffer_iova(PAGE_RX, 1), 0,
             VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 11);
    set_desc(RX, 11, buffer_iova(PAGE_RX, 1), 100, VRING_DESC_F_WRITE, 0);
    offer(RX, 1);
    offer(TX, 1);
    kick(TX);
    if (await(RX, 2)) {
        show_both();
        compare(1, 1, FRAME);
    }
    /* a frame without any byte is no frame */
    set_desc(TX, 2, buffer_iova(PAGE_TX, 2), 0, 0, 0);
    offer(TX, 2);
    kick(TX);
    if (await(TX, 3)) {
        show_both();
    }
    /* as many as the ring has descriptors */
    put_frame(3, own_mac, FRAME);
    for (i = 0; i < NUM; i++) {
        bool last = i == NUM - 1;

        set_desc(TX, i, buffer_iova(PAGE_TX, 3) + i, last ? FRAME - i : 1,
                 last ? 0 : VRING_DESC_F_NEXT, i + 1);
    }
    receive(2);
    offer(TX, 0);
    kick(TX);
    if (await(RX, 3)) {
        show_both();
        compare(2, 3, FRAME);
    }
}

static void run_indirect(void)
{
    struct vring_desc *table = (void *)buffer(PAGE_TX, 40);
    struct vring_desc *rx = (void *)buffer(PAGE_RX, 40);

    start();
    put_frame(0, own_mac, FRAME);
    memset(buffer(PAGE_RX, 0), 0xee, STRIDE);
    table = (void *)buffer(PAGE_TX, 40);
    table[0] = (struct vring_desc) {
        buffer_iova(PAGE_TX, 0), 30, VRING_DESC_F_NEXT, 2
    };
    table[2] = (struct vring_desc) {
        buffer_iova(PAGE_TX, 0) + 30, FRAME - 30, 0, 0
    };
    rx = (void *)buffer(PAGE_RX, 40);
    rx[0] = (struct vring_desc) {
        buffer_iova(PAGE_RX, 0), 200, VRING_DESC_F_WRITE, 0
    };
    set_desc(TX, 0, buffer_iova(PAGE_TX, 40), 3 * sizeof(table[0]),
             VRING_DESC_F_INDIRECT, 0);
    set_desc(RX, 0, buffer_iova(PAGE_RX, 40), sizeof(rx[0]),
             VRING_DESC_F_INDIRECT, 0);
    offer(RX, 0);
    offer(TX, 0);
    kick(TX);
    if (await(RX, 1)) {
        show_both();
        compare(0, 0, FRAME);
    }
    bases();
}

/*
 * Chains that are wrong
 */

/* One is offered as descriptor 0; then a good one follows */
static void bad_transmit(const char *what)
{
    say("%s", what);
    offer(TX, 0);
    one_pass();
    show_both();
    bases();
    /* it is gone, and the next is served */
    round_trip(queue[RX].next + 1);
}

static void run_bad_transmit(void)
{
    struct vring_desc *table;

    start();
    table = (void *)buffer(PAGE_TX, 40);
    put_frame(0, own_mac, FRAME);
    set_desc(TX, 0, buffer_iova(PAGE_TX, 0), FRAME, VRING_DESC_F_WRITE, 0);
    bad_transmit("a buffer to be written");
    set_desc(TX, 0, buffer_iova(PAGE_TX, 0), FRAME, VRING_DESC_F_NEXT, 0);
    bad_transmit("a loop");
    set_desc(TX, 0, buffer_iova(PAGE_TX, 0), FRAME, VRING_DESC_F_NEXT, NUM);
    bad_transmit("a chain that goes on behind the table");
    set_desc(TX, 0, buffer_iova(PAGE_TX, 40), 15, VRING_DESC_F_INDIRECT, 0);
    bad_transmit("a part of an indirect descriptor");
    table[0] = (struct vring_desc) {
        buffer_iova(PAGE_TX, 40), 16, VRING_DESC_F_INDIRECT, 0
    };
    set_desc(TX, 0, buffer_iova(PAGE_TX, 40), 16, VRING_DESC_F_INDIRECT, 0);
    bad_transmit("an indirect table in another");
    table[0] = (struct vring_desc) {
        buffer_iova(PAGE_TX, 0), FRAME, VRING_DESC_F_NEXT, 1
    };
    bad_transmit("a chain that goes on behind an indirect table");
    left_out("what the calls do then", "they do not tell of anything");
}

/* With it goes the frame that was to be put into it */
static void bad_receive(const char *what, unsigned i)
{
    say("%s", what);
    offer(RX, 0);
    queue[RX].lost++;
    send(i);
    one_pass();
    show_both();
    bases();
}

static void run_bad_receive(void)
{
    start();
    set_desc(RX, 0, buffer_iova(PAGE_RX, 0), STRIDE, 0, 0);
    bad_receive("a buffer to be read", 1);
    set_desc(RX, 0, buffer_iova(PAGE_RX, 0), STRIDE,
             VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 0);
    bad_receive("a loop", 2);
    set_desc(RX, 0, buffer_iova(PAGE_RX, 0), 0, VRING_DESC_F_WRITE, 0);
    bad_receive("a buffer of no bytes", 3);
    round_trip(4);
}

/* An index that the ring does not have holds it up */
static void run_bad_head(void)
{
    start();
    send(0);
    queue[TX].avail->ring[0] = NUM;
    receive(0);
    one_pass();
    show_both();
    bases();
    one_pass();
    show_both();
    queue[TX].avail->ring[0] = 0;
    one_pass();
    show_both();
    compare(0, 0, FRAME);
    bases();
    /* of the other ring it is a frame without a buffer */
    receive(1);
    queue[RX].avail->ring[1] = 0xffff;
    send(1);
    one_pass();
    show_both();
    bases();
    queue[RX].avail->ring[1] = 1;
    send(2);
    one_pass();
    show_both();
    compare(1, 2, FRAME);
}

/*
 * Kicks
 */

/* The pass that a kick causes is one over all queues */
static void run_kick_other(void)
{
    start();
    receive(0);
    send(0);
    kick(RX);
    if (await(RX, 1)) {
        show_both();
    }
    receive(1);
    send(1);
    one_pass();
    show_both();
}

/* Neither enabling a queue nor DRIVER_OK is a kick */
static void run_kick_early(void)
{
    unsigned vq;

    open_node();
    map_pages(0, 0, PAGES);
    negotiate(F_MODERN);
    for (vq = RX; vq <= TX; vq++) {
        queue_init(vq, NUM);
        must("SET_VRING_NUM", quiet_state(VHOST_SET_VRING_NUM, vq, NUM));
        must("SET_VRING_BASE", quiet_state(VHOST_SET_VRING_BASE, vq, 0));
        queue_addr(vq);
        queue_files(vq);
    }
    receive(0);
    send(0);
    kick(TX);
    kick(RX);
    vdpa_set_vring_enable(TX, 1);
    vdpa_set_vring_enable(RX, 1);
    vdpa_set_status(RUNNING);
    show_both();
    bases();
    kick(TX);
    if (await(RX, 1)) {
        show_both();
    }
    left_out("a kick of an enabled queue before DRIVER_OK",
             "whether the device sees it before that is a matter of time");
}

static void run_kick_disabled(void)
{
    start();
    round_trip(0);
    vdpa_set_vring_enable(TX, 0);
    receive(1);
    send(1);
    kick(TX);
    show_both();
    bases();
    vdpa_set_vring_enable(TX, 1);
    show_both();
    bases();
    kick(TX);
    if (await(RX, 2)) {
        show_both();
    }
}

/* What was in the counter before is one kick */
static void run_kick_before(void)
{
    int fd;

    start();
    receive(0);
    send(0);
    fd = event_new("kicked");
    event_add(fd, 3);
    vdpa_set_vring_kick(TX, fd);
    if (await(RX, 1)) {
        show_both();
    }
    receive(1);
    send(1);
    event_add(fd, 1);
    if (await(RX, 2)) {
        show_both();
    }
    /* and nobody takes anything out of it */
    event_take(fd);
}

static void run_kick_same(void)
{
    int fd;

    start();
    round_trip(0);
    receive(1);
    send(1);
    /* the same file again changes nothing, though its counter is not 0 */
    vdpa_set_vring_kick(TX, queue[TX].kick);
    fd = dup(queue[TX].kick);
    if (fd < 0) {
        die("dup: %s", strerror(errno));
    }
    name_fd(fd, "copy");
    vdpa_set_vring_kick(TX, fd);
    close(fd);
    show_both();
    bases();
    kick(TX);
    if (await(RX, 2)) {
        show_both();
    }
    event_take(queue[TX].kick);
}

static void run_kick_replaced(void)
{
    int fd;

    start();
    fd = event_new("new");
    vdpa_set_vring_kick(TX, fd);
    receive(0);
    send(0);
    kick(TX);
    show_both();
    bases();
    event_add(fd, 1);
    if (await(RX, 1)) {
        show_both();
    }
    vdpa_set_vring_kick(TX, -1);
    vdpa_set_vring_kick(TX, -1);
    receive(1);
    send(1);
    event_add(fd, 1);
    kick(TX);
    show_both();
    bases();
    /* it has a count again, so it kicks */
    vdpa_set_vring_kick(TX, fd);
    if (await(RX, 2)) {
        show_both();
    }
    event_take(fd);
    event_take(queue[TX].kick);
}

static void run_kick_bad(void)
{
    int pipe_fd[2];

    start();
    if (pipe(pipe_fd) < 0) {
        die("pipe: %s", strerror(errno));
    }
    name_fd(pipe_fd[0], "pipe");
    vdpa_set_vring_kick(TX, pipe_fd[0]);
    vdpa_set_vring_kick(TX, 1000);
    vdpa_set_vring_kick(TX, -2);
    close(pipe_fd[0]);
    close(pipe_fd[1]);
    /* the one that there is stays */
    round_trip(0);
}

static void run_kick_shared(void)
{
    start();
    vdpa_set_vring_kick(TX, queue[RX].kick);
    receive(0);
    send(0);
    kick(RX);
    if (await(RX, 1)) {
        show_both();
    }
    receive(1);
    send(1);
    event_add(queue[RX].kick, 1000);
    if (await(RX, 2)) {
        show_both();
    }
    event_take(queue[RX].kick);
    left_out("adding 0 to a kick eventfd", "a client has no reason to");
}

/*
 * Calls
 */

static void run_call_replaced(void)
{
    int new;

    start();
    round_trip(0);
    called(RX);
    new = event_new("new");
    vdpa_set_vring_call(RX, new);
    receive(1);
    send(1);
    kick(TX);
    event_wait(new);
    settle();
    show_both();
    called(RX);
}

static void run_call_unbound(void)
{
    start();
    round_trip(0);
    called(RX);
    vdpa_set_vring_call(RX, -1);
    receive(1);
    send(1);
    kick(TX);
    if (await(TX, 2)) {
        show_both();
    }
    called(RX);
    vdpa_set_vring_call(RX, queue[RX].call);
    called(RX);
    receive(2);
    send(2);
    kick(TX);
    event_wait(queue[RX].call);
    settle();
    show_both();
}

static void run_call_bad(void)
{
    start();
    vdpa_set_vring_call(RX, 1000);
    vdpa_set_vring_call(RX, -2);
    receive(0);
    send(0);
    kick(TX);
    event_wait(queue[RX].call);
    settle();
    show_both();
}

static void run_call_shared(void)
{
    start();
    vdpa_set_vring_call(TX, queue[RX].call);
    receive(0);
    send(0);
    kick(TX);
    if (await(RX, 1)) {
        show_both();
    }
    called(TX);
    called(RX);
    send(1);
    kick(TX);
    event_wait(queue[RX].call);
    settle();
    show_both();
}

/* Who asks for no interrupts gets none, except of the control queue */
static void run_call_suppressed(void)
{
    start();
    queue[RX].avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
    receive(0);
    send(0);
    kick(TX);
    if (await(TX, 1)) {
        show_both();
    }
    called(RX);
    queue[RX].avail->flags = 0;
    queue[TX].avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
    called(TX);
    receive(1);
    send(1);
    kick(TX);
    if (await(RX, 2)) {
        show_both();
    }
    called(TX);
    queue[CVQ].avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
    command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, own_mac, 6);
}

/* Nothing comes there, whatever happens */
static void run_err(void)
{
    int fd;

    start();
    fd = event_new("err");
    vdpa_set_vring_err(RX, fd);
    vdpa_set_vring_err(TX, fd);
    set_desc(TX, 0, buffer_iova(PAGE_TX, 0), FRAME, VRING_DESC_F_NEXT, 0);
    offer(TX, 0);
    one_pass();
    round_trip(1);
    event_take(fd);
}

/*
 * Enabling
 */

static void run_disable(void)
{
    unsigned i;

    start();
    for (i = 0; i < 3; i++) {
        round_trip(i);
    }
    vdpa_set_vring_enable(RX, 0);
    vdpa_set_vring_enable(TX, 0);
    bases();
    /* any number but 0 enables */
    vdpa_set_vring_enable(RX, 2);
    vdpa_set_vring_enable(TX, UINT32_MAX);
    bases();
    round_trip(3);
    /* once more means nothing */
    vdpa_set_vring_enable(RX, 1);
    vdpa_set_vring_enable(TX, 1);
    round_trip(4);
    bases();
}

/* Frames go nowhere unless both queues are enabled; commands do */
static void run_disable_one(void)
{
    start();
    vdpa_set_vring_enable(RX, 0);
    receive(0);
    send(0);
    one_pass();
    show_both();
    bases();
    vdpa_set_vring_enable(RX, 1);
    show_both();
    kick(TX);
    if (await(RX, 1)) {
        show_both();
    }
    vdpa_set_vring_enable(TX, 0);
    receive(1);
    send(1);
    one_pass();
    show_both();
    bases();
    vdpa_set_vring_enable(TX, 1);
    one_pass();
    show_both();
}

/*
 * What was taken and not used is not given back, and the next is used as if
 * it had been
 */
static void run_disable_lost(void)
{
    start();
    set_desc(TX, 0, buffer_iova(PAGE_TX, 0), FRAME, VRING_DESC_F_NEXT, 0);
    offer(TX, 0);
    one_pass();
    show_both();
    bases();
    vdpa_set_vring_enable(TX, 0);
    vdpa_set_vring_enable(TX, 1);
    bases();
    receive(1);
    send(1);
    kick(TX);
    if (await(RX, 1)) {
        show(RX);
        say("queue 1: used idx=%u, [1] id=%u", queue[TX].used->idx,
            queue[TX].used->ring[1].id);
    }
}

/* A size is taken over when a queue is enabled */
static void run_resize(void)
{
    start_with(F_MODERN | F_CTRL_VQ, 4);
    round_trip(0);
    round_trip(1);
    vdpa_set_vring_num(TX, 8);
    round_trip(2);
    round_trip(3);
    receive_in(0, STRIDE);
    send(0);
    kick(TX);
    if (await(RX, 5)) {
        show_both();
    }
    vdpa_set_vring_enable(TX, 0);
    vdpa_set_vring_enable(TX, 1);
    bases();
    /* the sixth is now the entry 5, not the entry 1 */
    queue[TX].num = 8;
    receive_in(1, STRIDE);
    put_frame(6, own_mac, FRAME);
    offer(TX, 6);
    kick(TX);
    if (await(RX, 6)) {
        show_both();
        compare(1, 6, FRAME);
    }
}

/*
 * Suspending.  Not all kernels can resume.
 */

/*
 * A kick that was remembered while the device was suspended is so until the
 * next resume, even if somebody else has the node by then.
 */
static void start_unkicked(void)
{
    start();
    quiet_ioctl(VHOST_VDPA_SUSPEND, NULL);
    quiet_ioctl(VHOST_VDPA_RESUME, NULL);
    /* a pass that this may have caused is over before the end of this */
    node_close();
    mem_gone(mem);
    event_close(queue[RX].kick);
    event_close(queue[RX].call);
    event_close(queue[TX].kick);
    event_close(queue[TX].call);
    event_close(queue[CVQ].kick);
    event_close(queue[CVQ].call);
    start();
}

static void run_suspend(void)
{
    start_unkicked();
    round_trip(0);
    vdpa_suspend();
    receive(1);
    send(1);
    kick(TX);
    show_both();
    bases();
    if (vdpa_resume()) {
        return;
    }
    if (await(RX, 2)) {
        show_both();
        compare(1, 1, FRAME);
    }
    bases();
}

/* A resume looks at the rings only if somebody kicked meanwhile */
static void run_suspend_unkicked(void)
{
    start_unkicked();
    vdpa_suspend();
    receive(0);
    send(0);
    if (vdpa_resume()) {
        return;
    }
    show_both();
    bases();
    kick(TX);
    if (await(RX, 1)) {
        show_both();
    }
    /* twice, and back once */
    vdpa_suspend();
    vdpa_suspend();
    receive(1);
    send(1);
    kick(RX);
    show_both();
    vdpa_resume();
    if (await(RX, 2)) {
        show_both();
    }
    vdpa_resume();
    round_trip(2);
}

/* A status ends it, too, but is no kick; and a later resume still is one */
static void run_suspend_status(void)
{
    start_unkicked();
    vdpa_suspend();
    receive(0);
    send(0);
    kick(TX);
    vdpa_set_status(RUNNING);
    show_both();
    bases();
    kick(TX);
    if (await(RX, 1)) {
        show_both();
    }
    /* the messages' side did not notice that it runs */
    vdpa_set_vring_base(TX, 1);
    round_trip(1);
    receive(2);
    send(2);
    if (vdpa_resume()) {
        return;
    }
    if (await(RX, 3)) {
        show_both();
    }
    vdpa_set_vring_base(TX, 3);
}

/* New addresses count from when the queue is enabled the next time */
static void run_suspend_addr(void)
{
    Queue old;

    start_unkicked();
    round_trip(0);
    vdpa_suspend();
    old = queue[TX];
    queue_at(TX, PAGE_OTHER, PAGE_OTHER + 1, PAGE_OTHER + 2);
    vdpa_set_vring_addr(TX, 0, queue[TX].desc_iova, queue[TX].avail_iova,
                        queue[TX].used_iova, 0);
    if (vdpa_resume()) {
        return;
    }
    queue[TX] = old;
    round_trip(1);
    queue_at(TX, PAGE_OTHER, PAGE_OTHER + 1, PAGE_OTHER + 2);
    queue[TX].used->idx = 2;
    vdpa_set_vring_enable(TX, 0);
    vdpa_set_vring_enable(TX, 1);
    round_trip(2);
    bases();
}

/* A new base counts at once, for what is available */
static void run_suspend_base(void)
{
    start_unkicked();
    round_trip(0);
    vdpa_suspend();
    vdpa_set_vring_base(TX, 5);
    bases();
    if (vdpa_resume()) {
        return;
    }
    queue[TX].next = 5;
    round_trip(1);
    bases();
    vdpa_set_vring_enable(TX, 0);
    vdpa_set_vring_enable(TX, 1);
    queue[TX].shown = 6;
    receive(2);
    send(2);
    kick(TX);
    if (await(RX, 3)) {
        show_both();
    }
}

static void run_suspend_enable(void)
{
    start_unkicked();
    vdpa_suspend();
    vdpa_set_vring_enable(TX, 0);
    receive(0);
    send(0);
    /* whether a queue is enabled does not matter for what a resume does */
    kick(TX);
    vdpa_set_vring_enable(TX, 1);
    show_both();
    if (vdpa_resume()) {
        return;
    }
    if (await(RX, 1)) {
        show_both();
    }
}

/* A reset ends it */
static void run_suspend_reset(void)
{
    start_unkicked();
    vdpa_suspend();
    vdpa_set_status(0);
    /* nothing is left of what was mapped for the device, or all is */
    iotlb_update(0, page_iova(PAGES), PAGE, mem, RW);
    iotlb_invalidate(0, 0, UINT64_MAX);
    map_pages(0, 0, PAGES);
    restart();
    vdpa_set_vring_base(TX, 0);
    round_trip(0);
}

/*
 * What the device cannot reach
 */

/*
 * One to another address.  Kernels before 6.12 take a frame that cannot be
 * read for the last one that could, if that is for the device.
 */
static void send_to_nobody(void)
{
    send_to(0, nobody_mac);
    kick(TX);
    await(TX, 1);
}

/* A frame that cannot be read is used up without anything else */
static void run_fault_transmit(void)
{
    start();
    receive(0);
    send_to_nobody();
    put_frame(16, own_mac, FRAME);
    iotlb_invalidate(0, page_iova(PAGE_TX + 1), PAGE);
    offer(TX, 16);
    kick(TX);
    if (await(TX, 2)) {
        show_both();
    }
    iotlb_update(0, page_iova(PAGE_TX + 1), PAGE, mem + (PAGE_TX + 1) * PAGE,
                 WO);
    offer(TX, 16);
    kick(TX);
    if (await(TX, 3)) {
        show_both();
    }
    map_again(PAGE_TX + 1, RO);
    offer(TX, 16);
    kick(TX);
    if (await(RX, 1)) {
        show_both();
        compare(0, 16, FRAME);
    }
    /* no permission at all, and one that does not exist */
    map_again(PAGE_TX + 1, 0);
    receive(1);
    send_to(0, nobody_mac);
    offer(TX, 16);
    kick(TX);
    if (await(TX, 6)) {
        show_both();
    }
    map_again(PAGE_TX + 1, 4);
    offer(TX, 16);
    kick(TX);
    if (await(TX, 7)) {
        show_both();
    }
}

/* One that cannot be written is lost, together with its buffer */
static void run_fault_receive(void)
{
    start();
    iotlb_invalidate(0, page_iova(PAGE_RX + 1), PAGE);
    receive(16);
    send(0);
    one_pass();
    show_both();
    bases();
    iotlb_update(0, page_iova(PAGE_RX + 1), PAGE, mem + (PAGE_RX + 1) * PAGE,
                 RO);
    receive(16);
    send(1);
    one_pass();
    show_both();
    bases();
    map_again(PAGE_RX + 1, WO);
    receive(16);
    send(2);
    kick(TX);
    if (await(RX, 1)) {
        show_both();
        compare(16, 2, FRAME);
    }
}

static void run_fault_desc(void)
{
    start();
    receive(0);
    send(0);
    iotlb_invalidate(0, page_iova(PAGE_DESC(TX)), PAGE);
    one_pass();
    show_both();
    bases();
    iotlb_update(0, page_iova(PAGE_DESC(TX)), PAGE,
                 mem + PAGE_DESC(TX) * PAGE, WO);
    send(1);
    one_pass();
    show_both();
    bases();
    map_again(PAGE_DESC(TX), RO);
    send(2);
    one_pass();
    show_both();
    compare(0, 2, FRAME);
}

static void run_fault_avail(void)
{
    start();
    receive(0);
    send(0);
    iotlb_invalidate(0, page_iova(PAGE_AVAIL(TX)), PAGE);
    one_pass();
    show_both();
    bases();
    iotlb_update(0, page_iova(PAGE_AVAIL(TX)), PAGE,
                 mem + PAGE_AVAIL(TX) * PAGE, WO);
    one_pass();
    show_both();
    bases();
    map_again(PAGE_AVAIL(TX), RO);
    one_pass();
    show_both();
    compare(0, 0, FRAME);
}

/* What cannot be told to be used is done nevertheless */
static void run_fault_used(void)
{
    start();
    receive(0);
    send(0);
    iotlb_invalidate(0, page_iova(PAGE_USED(TX)), PAGE);
    one_pass();
    show_both();
    compare(0, 0, FRAME);
    bases();
    iotlb_update(0, page_iova(PAGE_USED(TX)), PAGE,
                 mem + PAGE_USED(TX) * PAGE, RO);
    receive(1);
    send(1);
    one_pass();
    show_both();
    compare(1, 1, FRAME);
    bases();
    map_again(PAGE_USED(TX), RW);
    receive(2);
    send(2);
    one_pass();
    show_both();
    compare(2, 2, FRAME);
    left_out("a used ring that is only to be written",
             "vdpa_sim asks for the wrong permission");
}

/* A batch reaches the device at its end, or message by message */
static void run_batch(void)
{
    start();
    send_to_nobody();
    receive(0);
    receive(1);
    put_frame(16, own_mac, FRAME);
    iotlb_batch_begin(0);
    iotlb_invalidate(0, page_iova(PAGE_TX + 1), PAGE);
    offer(TX, 16);
    kick(TX);
    if (await(TX, 2)) {
        show_both();
    }
    iotlb_batch_end(0);
    send_to(0, nobody_mac);
    offer(TX, 16);
    kick(TX);
    if (await(TX, 4)) {
        show_both();
    }
    iotlb_batch_begin(0);
    iotlb_update(0, page_iova(PAGE_TX + 1), PAGE, mem + (PAGE_TX + 1) * PAGE,
                 RO);
    offer(TX, 16);
    kick(TX);
    if (await(TX, 5)) {
        show_both();
    }
    iotlb_batch_end(0);
    offer(TX, 16);
    kick(TX);
    if (await(TX, 6)) {
        show_both();
    }
}

/* A buffer may be in pages that are neighbours only for the device */
static void run_span(void)
{
    uint64_t iova = page_iova(PAGE_TX + 1) - 30;
    uint8_t *second;

    start();
    second = mem_shared("second", 1);
    send_to_nobody();
    iotlb_invalidate(0, page_iova(PAGE_TX + 1), PAGE);
    put_frame(0, own_mac, FRAME);
    memcpy(mem + (PAGE_TX + 1) * PAGE - 30, buffer(PAGE_TX, 0), 30);
    memcpy(second, buffer(PAGE_TX, 0) + 30, FRAME - 30);
    set_desc(TX, 0, iova, FRAME, 0, 0);
    receive(0);
    offer(TX, 0);
    kick(TX);
    if (await(TX, 2)) {
        show_both();
    }
    iotlb_update(0, page_iova(PAGE_TX + 1), PAGE, second, RO);
    offer(TX, 0);
    kick(TX);
    if (await(RX, 1)) {
        show_both();
        compare(0, 0, FRAME);
    }
}

/* Where the offsets in the page differ it is one or the other memory */
static void run_unaligned(void)
{
    unsigned i;

    start();
    iotlb_invalidate(0, page_iova(PAGE_TX + 1), PAGE);
    iotlb_update(0, page_iova(PAGE_TX + 1), 0x800,
                 mem + (PAGE_TX + 1) * PAGE + 0x800, RO);
    for (i = 16; i < 32; i++) {
        put_frame(i, own_mac, FRAME);
    }
    receive(0);
    offer(TX, 16);
    kick(TX);
    if (await(RX, 1)) {
        show_both();
        compare(0, 16, FRAME);
        compare(0, 24, FRAME);
    }
}

/* Whether memory is pinned, which leaves no room for anything else */
static bool pinned(void)
{
    struct rlimit limit, none;
    uint8_t *page = mem_shared("page", 1);
    long ret;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0) {
        die("getrlimit: %s", strerror(errno));
    }
    none = limit;
    none.rlim_cur = 0;
    setrlimit(RLIMIT_MEMLOCK, &none);
    node_open_owned();
    say("no memory may be locked");
    ret = iotlb_update(0, IOVA, PAGE, page, RW);
    node_close();
    setrlimit(RLIMIT_MEMLOCK, &limit);
    return ret < 0;
}

/* What the process has unmapped is gone for the device, too */
static void run_gone(void)
{
    if (pinned()) {
        left_out("memory that is unmapped while the device uses it",
                 "it has it, but the software device cannot");
        return;
    }
    start();
    receive(0);
    put_frame(16, own_mac, FRAME);
    if (munmap(mem + (PAGE_TX + 1) * PAGE, PAGE) < 0) {
        die("munmap: %s", strerror(errno));
    }
    offer(TX, 16);
    kick(TX);
    if (await(TX, 1)) {
        show_both();
    }
    if (mprotect(mem + (PAGE_RX + 1) * PAGE, PAGE, PROT_READ) < 0) {
        die("mprotect: %s", strerror(errno));
    }
    set_desc(RX, 1, page_iova(PAGE_RX + 1), STRIDE, VRING_DESC_F_WRITE, 0);
    /* the first buffer is still there */
    send(1);
    kick(TX);
    if (await(RX, 1)) {
        show_both();
    }
    offer(RX, 1);
    send(2);
    one_pass();
    show_both();
    bases();
    /* what is there now instead is what it has */
    if (mmap(mem + (PAGE_TX + 1) * PAGE, PAGE, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
        die("mmap: %s", strerror(errno));
    }
    put_frame(16, own_mac, FRAME);
    receive(2);
    offer(TX, 16);
    kick(TX);
    if (await(RX, 2)) {
        show_both();
        compare(2, 16, FRAME);
    }
}

/* A frame and its buffer by the process's own addresses */
static void offer_direct(unsigned i)
{
    receive(i);
    queue[RX].desc[i].addr = (uintptr_t)buffer(PAGE_RX, i);
    send(i);
    queue[TX].desc[i].addr = (uintptr_t)buffer(PAGE_TX, i);
}

static void round_trip_direct(unsigned i)
{
    offer_direct(i);
    kick(TX);
    if (await_all(RX)) {
        show_both();
        compare(i, i, FRAME);
    }
}

/* The same where it may be in vain; a command tells when that is decided */
static void try_direct(unsigned i)
{
    unsigned desc = put_command(0x55, 0x55, "", 0);

    offer_direct(i);
    queue[CVQ].desc[desc].addr += (uintptr_t)mem - IOVA;
    queue[CVQ].desc[desc + 1].addr += (uintptr_t)mem - IOVA;
    offer(CVQ, desc);
    kick(CVQ);
    if (await_all(CVQ)) {
        show(CVQ);
        say("answer 0x%x", command_answer(desc));
        show_both();
    }
    bases();
}

/* Where nothing was mapped yet, the device sees the process as it is */
static void run_pass_through(void)
{
    uint8_t *shared;
    unsigned vq;

    if (pinned()) {
        left_out("a device for which nothing was mapped",
                 "it would use physical memory");
        return;
    }
    open_node();
    mem_gone(mem);
    mem = mem_private("private", PAGES);
    shared = mem_shared("shared", 1);
    negotiate(F_MODERN | F_CTRL_VQ);
    for (vq = RX; vq <= CVQ; vq++) {
        struct vhost_vring_addr addr = { .index = vq };

        queue_at(vq, PAGE_DESC(vq), PAGE_AVAIL(vq), PAGE_USED(vq));
        queue_up(vq, NUM);
        vdpa_set_vring_enable(vq, 0);
        addr.desc_user_addr = (uintptr_t)queue[vq].desc;
        addr.avail_user_addr = (uintptr_t)queue[vq].avail;
        addr.used_user_addr = (uintptr_t)queue[vq].used;
        must("SET_VRING_ADDR", quiet_ioctl(VHOST_SET_VRING_ADDR, &addr));
        vdpa_set_vring_enable(vq, 1);
    }
    vdpa_set_group_asid(1, 1);
    vdpa_set_status(RUNNING);
    round_trip_direct(0);
    /* what maps nothing by itself changes nothing, but a batch's end may */
    iotlb_update(0, UINT64_MAX, 2, shared, RW);
    iotlb_batch_begin(0);
    round_trip_direct(1);
    iotlb_batch_end(0);
    try_direct(2);
    /* one mapping, and only that is left; not so in the other space */
    iotlb_update(0, IOVA, PAGE, shared, RW);
    try_direct(3);
    iotlb_invalidate(0, IOVA, PAGE);
    try_direct(4);
}

/*
 * Resets
 */

/* Translations stay, if that was agreed on; all else is to be set again */
static void run_reset_persist(void)
{
    start();
    if (vdpa_set_backend_features(BACKEND(IOTLB_ASID) |
                                  BACKEND(IOTLB_PERSIST))) {
        return;
    }
    round_trip(0);
    vdpa_set_status(0);
    bases();
    restart();
    round_trip(0);
    bases();
}

/*
 * If not, they are there again as soon as something is mapped, where the
 * device gets all of them at once, and else are not.  The control queue is in
 * another space, to tell that the device was at work.
 */
static void run_reset(void)
{
    start();
    round_trip(0);
    vdpa_set_status(0);
    bases();
    iotlb_update(0, page_iova(0), PAGE, mem, RW);
    iotlb_update(0, page_iova(PAGES), PAGE, mem, RW);
    map_pages(1, 0, PAGES);
    vdpa_set_group_asid(1, 1);
    restart();
    receive(0);
    send(0);
    one_pass();
    show_both();
    bases();
    /* what was unmapped before is as new */
    vdpa_set_status(0);
    iotlb_invalidate(0, 0, UINT64_MAX);
    iotlb_invalidate(1, 0, UINT64_MAX);
    map_pages(0, 0, PAGES);
    restart();
    round_trip(0);
}

/* Of the eventfds that for kicks goes on, that for calls does not */
static void run_reset_files(void)
{
    unsigned i;

    start();
    round_trip(0);
    called(RX);
    called(TX);
    vdpa_set_status(0);
    iotlb_invalidate(0, 0, UINT64_MAX);
    map_pages(0, 0, PAGES);
    negotiate(F_MODERN | F_CTRL_VQ);
    for (i = 0; i < ARRAY_SIZE(queue); i++) {
        queue_init(i, NUM);
        queue_addr(i);
        if (i == CVQ) {
            queue_files(i);
        }
        /* the size is also as it was */
        queue_enable(i);
    }
    quiet_status(RUNNING);
    receive(0);
    send(0);
    one_pass();
    show_both();
    called(RX);
    called(TX);
    vdpa_set_vring_call(RX, queue[RX].call);
    called(RX);
    receive(1);
    send(1);
    kick(TX);
    event_wait(queue[RX].call);
    settle();
    show_both();
    called(TX);
}

/* A kick that is meant for what was before the reset is lost */
static void run_reset_kick(void)
{
    start();
    round_trip(0);
    vdpa_set_status(0);
    kick(TX);
    kick(RX);
    kick(CVQ);
    iotlb_invalidate(0, 0, UINT64_MAX);
    map_pages(0, 0, PAGES);
    negotiate(F_MODERN | F_CTRL_VQ);
    queue_init(RX, NUM);
    queue_init(TX, NUM);
    receive(0);
    send(0);
    queue_addr(RX);
    queue_addr(TX);
    must("SET_VRING_CALL", quiet_file(VHOST_SET_VRING_CALL, RX,
                                      queue[RX].call));
    queue_enable(RX);
    queue_enable(TX);
    vdpa_set_status(RUNNING);
    show_both();
    bases();
    kick(TX);
    if (await(RX, 1)) {
        show_both();
    }
}

/*
 * Groups
 */

/* The same IOVAs are other memory in the other space */
static void run_groups(void)
{
    uint8_t *other;
    unsigned i;

    start();
    round_trip(0);
    other = mem_shared("other", PAGES);
    memcpy(other, mem, PAGES * PAGE);
    for (i = 0; i < PAGES; i++) {
        quiet_message(1, VHOST_IOTLB_UPDATE, page_iova(i), other + i * PAGE,
                      RW);
    }
    /* data queues go, the control queue stays, and is told so */
    vdpa_set_group_asid(0, 1);
    receive(1);
    send(1);
    one_pass();
    show_both();
    bases();
    memcpy(other + PAGE_AVAIL(RX) * PAGE, mem + PAGE_AVAIL(RX) * PAGE, PAGE);
    memcpy(other + PAGE_AVAIL(TX) * PAGE, mem + PAGE_AVAIL(TX) * PAGE, PAGE);
    memcpy(other + PAGE_DESC(RX) * PAGE, mem + PAGE_DESC(RX) * PAGE, PAGE);
    memcpy(other + PAGE_DESC(TX) * PAGE, mem + PAGE_DESC(TX) * PAGE, PAGE);
    memcpy(other + PAGE_TX * PAGE, mem + PAGE_TX * PAGE, PAGE);
    one_pass();
    show_both();
    say("other memory: used idx=%u and %u",
        ((struct vring_used *)(other + PAGE_USED(TX) * PAGE))->idx,
        ((struct vring_used *)(other + PAGE_USED(RX) * PAGE))->idx);
    memcpy(buffer(PAGE_RX, 1), other + PAGE_RX * PAGE + STRIDE, STRIDE);
    compare(1, 1, FRAME);
    bases();
    /* and back */
    vdpa_set_group_asid(0, 0);
    queue[TX].used->idx = 2;
    queue[RX].used->idx = 2;
    queue[TX].shown = 2;
    queue[RX].shown = 2;
    round_trip(2);
}

static void run_groups_control(void)
{
    static const uint8_t mac[6] = { 2, 2, 2, 2, 2, 2 };
    static const uint8_t mac2[6] = { 4, 4, 4, 4, 4, 4 };
    uint8_t *other;
    unsigned i;

    start();
    other = mem_shared("other", PAGES);
    for (i = 0; i < PAGES; i++) {
        quiet_message(1, VHOST_IOTLB_UPDATE, page_iova(i), other + i * PAGE,
                      RW);
    }
    vdpa_set_group_asid(1, 1);
    offer(CVQ, put_command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
                            mac, 6));
    memcpy(other, mem, PAGES * PAGE);
    memcpy(other + PAGE_CTRL * PAGE + 2, mac2, 6);
    /* the command that is obeyed is that in the other memory */
    kick(CVQ);
    event_wait(queue[CVQ].call);
    settle();
    vdpa_get_config(0, 6, NULL);
    show(CVQ);
    say("answer 0x%x, in the other memory 0x%x", command_answer(0),
        other[PAGE_CTRL * PAGE + 63]);
    vdpa_set_config(0, 6, own_mac);
    round_trip(0);
    /* a reset brings it back, and the next command is from here */
    vdpa_set_status(0);
    iotlb_invalidate(0, 0, UINT64_MAX);
    map_pages(0, 0, PAGES);
    restart();
    command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6);
    vdpa_get_config(0, 6, NULL);
}

/*
 * Commands
 */

static void run_command_mac(void)
{
    static const uint8_t mac[8] = { 2, 3, 4, 5, 6, 7, 8, 9 };

    start();
    command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6);
    vdpa_get_config(0, 6, NULL);
    called(CVQ);
    /* it counts for frames */
    receive(0);
    send(0);
    send_to(1, mac);
    kick(TX);
    if (await(TX, 2)) {
        show_both();
        compare(0, 1, FRAME);
    }
    command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac + 1, 7);
    vdpa_get_config(0, 6, NULL);
    command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 0);
    vdpa_get_config(0, 6, NULL);
    command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac + 1, 6);
    vdpa_get_config(0, 6, NULL);
    /* it stays after a reset */
    vdpa_set_status(0);
    vdpa_get_config(0, 6, NULL);
    left_out("what a command with a part of an address leaves of the old one",
             "nobody should care");
}

static void run_command_other(void)
{
    static const uint8_t data[8] = { 1 };

    start();
    command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, data, 8);
    command(VIRTIO_NET_CTRL_MAC, 2, data, 6);
    command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, data, 1);
    command(VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, data, 2);
    command(VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, data, 0);
    command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, data, 2);
    command(0xff, 0xff, data, 0);
    vdpa_get_config(0, 6, NULL);
    left_out("several commands in one pass",
             "vdpa_sim answers one with the answer to another");
}

/* In other pieces, and without room for the answer */
static void run_command_pieces(void)
{
    static const uint8_t mac[6] = { 2, 3, 4, 5, 6, 7 };
    uint64_t iova = page_iova(PAGE_CTRL) + 30 * 64;
    uint8_t *at;
    unsigned i;

    start();
    at = mem + PAGE_CTRL * PAGE + 30 * 64;
    at[0] = VIRTIO_NET_CTRL_MAC;
    at[1] = VIRTIO_NET_CTRL_MAC_ADDR_SET;
    memcpy(at + 2, mac, 6);
    memset(at + 8, 0x77, 8);
    for (i = 0; i < 8; i++) {
        set_desc(CVQ, i, iova + i, 1, VRING_DESC_F_NEXT, i + 1);
    }
    set_desc(CVQ, 8, iova + 8, 4, VRING_DESC_F_WRITE, 0);
    offer(CVQ, 0);
    kick(CVQ);
    if (await(CVQ, 1)) {
        show(CVQ);
        say("answer 0x%x 0x%x", at[8], at[9]);
        vdpa_get_config(0, 6, NULL);
    }
    at[2] = 8;
    set_desc(CVQ, 0, iova, 8, 0, 0);
    offer(CVQ, 0);
    kick(CVQ);
    if (await(CVQ, 2)) {
        show(CVQ);
        vdpa_get_config(0, 6, NULL);
    }
    /* not even a header: nothing ever comes of it, but of the next */
    set_desc(CVQ, 0, iova, 1, VRING_DESC_F_NEXT, 8);
    offer(CVQ, 0);
    queue[CVQ].lost++;
    receive(0);
    send(0);
    vdpa_set_config(0, 6, own_mac);
    kick(CVQ);
    if (await(RX, 1)) {
        show_both();
        show(CVQ);
        vdpa_get_vring_base(CVQ, NULL);
    }
    commands = 8;
    command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6);
}

/* Who has not agreed on a control queue has none */
static void run_command_unnegotiated(void)
{
    static const uint8_t mac[6] = { 2, 3, 4, 5, 6, 7 };
    unsigned vq;

    open_node();
    map_pages(0, 0, PAGES);
    negotiate(F_MODERN);
    for (vq = RX; vq <= CVQ; vq++) {
        queue_up(vq, NUM);
    }
    quiet_status(RUNNING);
    offer(CVQ, put_command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
                            mac, 6));
    receive(0);
    send(0);
    kick(CVQ);
    if (await(RX, 1)) {
        show_both();
        show(CVQ);
    }
    vdpa_get_vring_base(CVQ, NULL);
    vdpa_get_config(0, 6, NULL);
}

/* Who has not agreed on this command can give it nevertheless */
static void run_command_mac_unnegotiated(void)
{
    static const uint8_t mac[6] = { 2, 3, 4, 5, 6, 7 };

    start_with(F_MODERN | F_CTRL_VQ, NUM);
    command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6);
    vdpa_get_config(0, 6, NULL);
}

static void run_command_alone(void)
{
    static const uint8_t mac[6] = { 2, 3, 4, 5, 6, 7 };

    start();
    vdpa_set_vring_enable(RX, 0);
    vdpa_set_vring_enable(TX, 0);
    command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6);
    vdpa_set_vring_enable(CVQ, 0);
    vdpa_get_vring_base(CVQ, NULL);
    vdpa_set_vring_enable(CVQ, 1);
    command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, own_mac, 6);
    vdpa_get_vring_base(CVQ, NULL);
}

static void run_command_fault(void)
{
    static const uint8_t mac[6] = { 2, 3, 4, 5, 6, 7 };
    unsigned desc;

    start();
    /* data that cannot be read */
    desc = put_command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac,
                       0);
    set_desc(CVQ, desc, page_iova(PAGE_CTRL), 2, VRING_DESC_F_NEXT, 20);
    set_desc(CVQ, 20, page_iova(PAGES + 5), 6, VRING_DESC_F_NEXT, desc + 1);
    offer(CVQ, desc);
    kick(CVQ);
    if (await(CVQ, 1)) {
        show(CVQ);
        say("answer 0x%x", command_answer(desc));
        vdpa_get_config(0, 6, NULL);
    }
    command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6);
    left_out("an answer that cannot be written",
             "vdpa_sim takes the error for a length");
}

const Case rings_cases[] = {
    { "frame", run_frame },
    { "header", run_header },
    { "header-legacy", run_header_legacy },
    { "many", run_many },
    { "small-ring", run_small_ring },
    { "smallest-ring", run_smallest_ring },
    { "largest-ring", run_largest_ring },
    { "base", run_base },
    { "base-enabled", run_base_enabled },
    { "filter", run_filter },
    { "short-frames", run_short_frames },
    { "long-frame", run_long_frame },
    { "short-buffer", run_short_buffer },
    { "no-buffer", run_no_buffer },
    { "pieces", run_pieces },
    { "indirect", run_indirect },
    { "bad-transmit", run_bad_transmit },
    { "bad-receive", run_bad_receive },
    { "bad-head", run_bad_head },
    { "kick-other", run_kick_other },
    { "kick-early", run_kick_early },
    { "kick-disabled", run_kick_disabled },
    { "kick-before", run_kick_before },
    { "kick-same", run_kick_same },
    { "kick-replaced", run_kick_replaced },
    { "kick-bad", run_kick_bad },
    { "kick-shared", run_kick_shared },
    { "call-replaced", run_call_replaced },
    { "call-unbound", run_call_unbound },
    { "call-bad", run_call_bad },
    { "call-shared", run_call_shared },
    { "call-suppressed", run_call_suppressed },
    { "err", run_err },
    { "disable", run_disable },
    { "disable-one", run_disable_one },
    { "disable-lost", run_disable_lost },
    { "resize", run_resize },
    { "suspend", run_suspend },
    { "suspend-unkicked", run_suspend_unkicked },
    { "suspend-status", run_suspend_status },
    { "suspend-addr", run_suspend_addr },
    { "suspend-base", run_suspend_base },
    { "suspend-enable", run_suspend_enable },
    { "suspend-reset", run_suspend_reset },
    { "fault-transmit", run_fault_transmit },
    { "fault-receive", run_fault_receive },
    { "fault-desc", run_fault_desc },
    { "fault-avail", run_fault_avail },
    { "fault-used", run_fault_used },
    { "batch", run_batch },
    { "span", run_span },
    { "unaligned", run_unaligned },
    { "gone", run_gone },
    { "pass-through", run_pass_through },
    { "reset-persist", run_reset_persist },
    { "reset", run_reset },
    { "reset-files", run_reset_files },
    { "reset-kick", run_reset_kick },
    { "groups", run_groups },
    { "groups-control", run_groups_control },
    { "command-mac", run_command_mac },
    { "command-other", run_command_other },
    { "command-pieces", run_command_pieces },
    { "command-unnegotiated", run_command_unnegotiated },
    { "command-mac-unnegotiated", run_command_mac_unnegotiated },
    { "command-alone", run_command_alone },
    { "command-fault", run_command_fault },
    { NULL, NULL }
};
