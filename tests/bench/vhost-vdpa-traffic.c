/*
 * The driver of a virtio-net device, outside of QEMU: frames, and their times
 *
 * A guest's memory is a file that others can map, and a doorbell an eventfd,
 * so the part of a network driver that moves frames can be played by any
 * process.  This one does, in both directions, and is also who is at the other
 * end of the software device's wire.  What QEMU does meanwhile is seen as the
 * guest and the wire would see it, whether QEMU's threads are busy or not.
 *
 * The rings are split ones of RING_SIZE entries that somebody else gave to the
 * device; all else is done here.  Commands are lines of the standard input,
 * each is answered with a line of JSON; bench/lib/traffic.py knows them:
 *
 * driver SIZE            a driver was loaded; its buffers have SIZE bytes
 * kicks RX TX            QEMU's descriptors of the kick eventfds
 * stream PERIOD SIZE     send a frame in both directions, every PERIOD us
 * hold                   the guest is stopped
 * mark                   begin a period
 * report MS              end it, not before MS milliseconds have passed, with
 *                        the first frames in each direction that are sent now
 * end                    no more frames
 * flood DIRECTION SIZE MS QUIET
 *                        send as many as possible: "in", "out", or "both" at
 *                        once if what goes out comes in; QUIET: without
 *                        interrupts
 * ping COUNT             send one frame after the other
 * store COUNT ADDRESS VALUE
 *                        let the guest's processor store VALUE, of 16 bits
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <dirent.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <linux/perf_event.h>
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/processor.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "standard-headers/linux/virtio_ring.h"

/* Where things are in guest memory, from the address that was given */
#define RING_STRIDE 0x10000
#define AVAIL_OFFSET 0x4000
#define USED_OFFSET 0x8000
#define CONTROL_OFFSET 0x20000
#define MSI_OFFSET 0x30000
#define BUFFERS_OFFSET 0x100000
#define MEMORY_SIZE (64 * MiB)

#define RING_SIZE 256
#define HEADER_SIZE 12
#define FRAME_MIN 64
#define FRAME_MAX 65550
#define PREFIX_SIZE 4
#define MAGIC 0x76647061

enum { RX, TX, NUM_RINGS };

/* How long to wait for anything that is to happen at once */
#define DEADLINE_NS (5 * NANOSECONDS_PER_SECOND)
/* After how long without any frame there will not be another one */
#define GIVE_UP_NS (2 * NANOSECONDS_PER_SECOND)

typedef struct QEMU_PACKED Frame {
    uint8_t to[6];
    uint8_t from[6];
    uint16_t type;
    uint32_t magic;
    uint64_t number;
} Frame;

typedef struct Ring {
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t added;         /* chains given to the device so far */
    uint16_t taken;         /* and taken back */
    uint32_t *msi;          /* what an interrupt writes to */
    uint64_t buffers;       /* guest address */
    int kick;
} Ring;

/* What arrives somewhere, one after the other */
typedef struct Arrivals {
    uint64_t sent;          /* frames so far: the number of the next one */
    uint64_t next;          /* number of the next one that is to arrive */
    int64_t last;           /* when the last one did */
    int64_t longest;        /* between two of them, in this period */
    uint64_t count;         /* in this period */
    uint64_t lost;
    uint64_t bad;
    uint64_t marker;        /* number of a frame that is waited for */
} Arrivals;

typedef struct Traffic {
    pid_t pid;
    uint64_t base;          /* guest address */
    uint8_t *memory;        /* what is there */
    Ring ring[NUM_RINGS];
    unsigned buffer_size;
    int wire;
    GByteArray *to_wire;    /* of a frame that was sent in part */
    GByteArray *from_wire;
    uint8_t *frame;         /* a prefix and a frame */

    int64_t period;         /* of the stream; 0: there is none */
    unsigned size;
    int64_t tick;
    int64_t mark;
    bool held;
    Arrivals in, out, interrupts;
    int64_t report_at;      /* 0: none is due */
    int64_t give_up_at;
} Traffic;

static void G_GNUC_PRINTF(1, 2) G_GNUC_NORETURN fail(const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fprintf(stderr, "%s\n", text);
    exit(EXIT_FAILURE);
}

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NANOSECONDS_PER_SECOND + ts.tv_nsec;
}

static void G_GNUC_PRINTF(1, 2) reply(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
}

/* --- Processor time of QEMU --- */

/*
 * Processors of many virtual machines count no cycles, and then the time that
 * the scheduler gave to each thread is all there is.
 */
typedef struct Usage {
    GHashTable *counters;   /* thread -> file that counts its cycles */
    uint64_t main;
    uint64_t all;
} Usage;

static int counter_new(pid_t thread)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_HARDWARE,
        .size = sizeof(attr),
        .config = PERF_COUNT_HW_CPU_CYCLES,
    };

    return syscall(SYS_perf_event_open, &attr, thread, -1, -1,
                   PERF_FLAG_FD_CLOEXEC);
}

static bool have_cycles(void)
{
    static int have = -1;

    if (have < 0) {
        int fd = counter_new(0);

        have = fd >= 0;
        if (have) {
            close(fd);
        }
    }
    return have;
}

static uint64_t thread_ns(pid_t pid, pid_t thread)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/schedstat", pid,
                                            thread);
    g_autofree char *text = NULL;

    /* A thread that has ended is not one that moves frames */
    return g_file_get_contents(path, &text, NULL, NULL) ?
           g_ascii_strtoull(text, NULL, 10) : 0;
}

static void usage_read(Traffic *t, Usage *u)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", t->pid);
    DIR *dir = opendir(path);
    struct dirent *entry;

    if (!dir) {
        fail("QEMU is gone");
    }
    u->main = u->all = 0;
    while ((entry = readdir(dir))) {
        pid_t thread = atoi(entry->d_name);
        uint64_t value = 0;

        if (!thread) {
            continue;
        }
        if (!have_cycles()) {
            value = thread_ns(t->pid, thread);
        } else {
            void *fd = g_hash_table_lookup(u->counters,
                                           GINT_TO_POINTER(thread));

            if (!fd) {
                fd = GINT_TO_POINTER(counter_new(thread));
                g_hash_table_insert(u->counters, GINT_TO_POINTER(thread), fd);
            }
            if (GPOINTER_TO_INT(fd) < 0 ||
                read(GPOINTER_TO_INT(fd), &value, sizeof(value)) !=
                sizeof(value)) {
                value = 0;
            }
        }
        u->all += value;
        if (thread == t->pid) {
            u->main = value;
        }
    }
    closedir(dir);
}

static void close_counter(void *fd)
{
    if (GPOINTER_TO_INT(fd) >= 0) {
        close(GPOINTER_TO_INT(fd));
    }
}

static void usage_begin(Traffic *t, Usage *u)
{
    u->counters = g_hash_table_new_full(NULL, NULL, NULL, close_counter);
    usage_read(t, u);
}

/* What was used since then */
static void usage_end(Traffic *t, Usage *u)
{
    uint64_t main_before = u->main, all_before = u->all;

    usage_read(t, u);
    u->main -= main_before;
    u->all -= all_before;
    g_hash_table_unref(u->counters);
}

/* --- Rings --- */

static void ring_init(Traffic *t, unsigned i)
{
    uint8_t *start = t->memory + i * RING_STRIDE;
    Ring *r = &t->ring[i];

    r->desc = (void *)start;
    r->avail = (void *)(start + AVAIL_OFFSET);
    r->used = (void *)(start + USED_OFFSET);
    /* Vector 0 is that of the configuration */
    r->msi = (uint32_t *)(t->memory + MSI_OFFSET) + 1 + i;
    r->kick = -1;
}

static uint8_t *ring_buffer(Traffic *t, unsigned i, unsigned slot)
{
    return t->memory + (t->ring[i].buffers - t->base) +
           slot * t->buffer_size;
}

/* Chains that the device has */
static unsigned ring_busy(Ring *r)
{
    return (uint16_t)(r->added - r->taken);
}

static void ring_add(Traffic *t, unsigned i, unsigned slot, unsigned len)
{
    Ring *r = &t->ring[i];

    r->desc[slot].addr = cpu_to_le64(r->buffers + slot * t->buffer_size);
    r->desc[slot].len = cpu_to_le32(len);
    r->desc[slot].flags = cpu_to_le16(i == RX ? VRING_DESC_F_WRITE : 0);
    r->avail->ring[r->added % RING_SIZE] = cpu_to_le16(slot);
    r->added++;
}

static void ring_kick(Ring *r)
{
    uint64_t one = 1;

    if (r->kick >= 0 && write(r->kick, &one, sizeof(one)) != sizeof(one)) {
        fail("cannot write to a kick eventfd: %s", strerror(errno));
    }
}

/* Let the device see what was added */
static void ring_publish(Ring *r)
{
    /* Entries before the index that covers them */
    smp_wmb();
    qatomic_set(&r->avail->idx, cpu_to_le16(r->added));
    /* The device asks for kicks, then looks at the index again */
    smp_mb();
    if (!(qatomic_read(&r->used->flags) &
          cpu_to_le16(VRING_USED_F_NO_NOTIFY))) {
        ring_kick(r);
    }
}

static bool ring_has_used(Ring *r)
{
    return le16_to_cpu(qatomic_read(&r->used->idx)) != r->taken;
}

/* Take back one chain: false if the device has finished none */
static bool ring_take(Ring *r, unsigned *slot, unsigned *len)
{
    struct vring_used_elem *e;

    if (!ring_has_used(r)) {
        return false;
    }
    /* The index before the entries it covers */
    smp_rmb();
    e = &r->used->ring[r->taken % RING_SIZE];
    *slot = le32_to_cpu(e->id);
    *len = le32_to_cpu(e->len);
    if (*slot >= RING_SIZE) {
        fail("the device used descriptor %u, of %u", *slot, RING_SIZE);
    }
    r->taken++;
    return true;
}

static void ring_interrupts(Ring *r, bool on)
{
    qatomic_set(&r->avail->flags,
                cpu_to_le16(on ? 0 : VRING_AVAIL_F_NO_INTERRUPT));
}

static bool ring_interrupted(Ring *r)
{
    return qatomic_read(r->msi) && qatomic_xchg(r->msi, 0);
}

/* --- Frames --- */

static void frame_init(void *to, uint64_t number)
{
    Frame f = {
        .to = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },
        .from = { 0x52, 0x54, 0, 0, 0, 1 },
        .type = cpu_to_be16(0x88b5),
        .magic = cpu_to_be32(MAGIC),
        .number = cpu_to_be64(number),
    };

    memcpy(to, &f, sizeof(f));
}

static void arrived(Arrivals *a, int64_t now)
{
    a->longest = MAX(a->longest, now - a->last);
    a->last = now;
    a->count++;
}

static void frame_arrived(Arrivals *a, const void *data, size_t len,
                          size_t expected, int64_t now)
{
    uint64_t number;
    Frame f;

    if (len != expected) {
        a->bad++;
        return;
    }
    memcpy(&f, data, sizeof(f));
    number = be64_to_cpu(f.number);
    if (be32_to_cpu(f.magic) != MAGIC || number < a->next ||
        number >= a->sent) {
        a->bad++;
        return;
    }
    a->lost += number - a->next;
    a->next = number + 1;
    arrived(a, now);
}

/* Receive buffers that were used go back */
static unsigned take_in(Traffic *t, size_t size, int64_t now)
{
    Ring *r = &t->ring[RX];
    unsigned slot, len, count = 0;

    while (count < RING_SIZE && ring_take(r, &slot, &len)) {
        frame_arrived(&t->in, ring_buffer(t, RX, slot) + HEADER_SIZE,
                      len - MIN(len, HEADER_SIZE), size, now);
        /* A frame that comes here once more is not the same again */
        memset(ring_buffer(t, RX, slot), 0, HEADER_SIZE + sizeof(Frame));
        ring_add(t, RX, slot, t->buffer_size);
        count++;
    }
    if (count && !t->held) {
        ring_publish(r);
    }
    return count;
}

static unsigned take_back_out(Traffic *t)
{
    unsigned slot, len, count = 0;

    while (ring_take(&t->ring[TX], &slot, &len)) {
        count++;
    }
    return count;
}

/* Slots are used in turns; the device finishes frames in order */
static void add_out(Traffic *t, size_t size)
{
    Ring *r = &t->ring[TX];
    unsigned slot = r->added % RING_SIZE;

    frame_init(ring_buffer(t, TX, slot) + HEADER_SIZE, t->out.sent++);
    ring_add(t, TX, slot, HEADER_SIZE + size);
}

static void flush_to_wire(Traffic *t)
{
    while (t->to_wire->len) {
        ssize_t n = send(t->wire, t->to_wire->data, t->to_wire->len,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0) {
            if (errno == EAGAIN || errno == EINTR) {
                return;
            }
            fail("cannot send to the wire: %s", strerror(errno));
        }
        g_byte_array_remove_range(t->to_wire, 0, n);
    }
}

static void send_in(Traffic *t)
{
    flush_to_wire(t);
    /* The device holds us back: there will be a gap in what arrives */
    if (!t->to_wire->len) {
        stl_be_p(t->frame, t->size);
        frame_init(t->frame + PREFIX_SIZE, t->in.sent++);
        g_byte_array_append(t->to_wire, t->frame, PREFIX_SIZE + t->size);
        flush_to_wire(t);
    }
}

static void take_from_wire(Traffic *t)
{
    GByteArray *a = t->from_wire;
    size_t at = 0, have = a->len;
    int64_t now;
    ssize_t n;

    if (t->wire < 0) {
        return;
    }
    g_byte_array_set_size(a, have + 256 * KiB);
    n = recv(t->wire, a->data + have, 256 * KiB, MSG_DONTWAIT);
    if (!n || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        fail("the wire is cut");
    }
    have += MAX(n, 0);
    now = now_ns();
    while (have - at >= PREFIX_SIZE) {
        size_t len = ldl_be_p(a->data + at);

        if (have - at < PREFIX_SIZE + len) {
            break;
        }
        frame_arrived(&t->out, a->data + at + PREFIX_SIZE, len, t->size, now);
        at += PREFIX_SIZE + len;
    }
    memmove(a->data, a->data + at, have - at);
    g_byte_array_set_size(a, have - at);
}

/* --- The stream --- */

static void stream_look(Traffic *t)
{
    int64_t now = now_ns();

    take_in(t, t->size, now);
    if (ring_interrupted(&t->ring[RX])) {
        arrived(&t->interrupts, now);
    }
    take_back_out(t);
    take_from_wire(t);
}

/* Time in which this program did not run, and sent nothing, is no gap */
static void stream_excuse(Traffic *t)
{
    int64_t late = now_ns() - t->tick;

    if (late > t->period) {
        t->in.last += late;
        t->out.last += late;
        t->interrupts.last += late;
    }
}

static void stream_tick(Traffic *t)
{
    int64_t now = now_ns();

    send_in(t);
    if (!t->held && ring_busy(&t->ring[TX]) < RING_SIZE) {
        add_out(t, t->size);
        ring_publish(&t->ring[TX]);
    }
    t->tick += t->period;
    if (t->tick < now) {
        /* Late frames are not made up for, they would hide a gap */
        t->tick = now + t->period;
    }
}

static void begin_period(Arrivals *a)
{
    a->longest = 0;
    a->count = a->lost = a->bad = 0;
}

static void mark(Traffic *t)
{
    begin_period(&t->in);
    begin_period(&t->out);
    begin_period(&t->interrupts);
    t->mark = now_ns();
}

static void print_arrivals(const char *name, Arrivals *a, int64_t now)
{
    printf("\"%s\":{\"gap\":%" PRId64 ",\"count\":%" PRIu64 ",\"lost\":%"
           PRIu64 ",\"bad\":%" PRIu64 "},", name,
           MAX(a->longest, now - a->last), a->count, a->lost, a->bad);
}

static void try_report(Traffic *t)
{
    int64_t now = now_ns();
    bool back = t->in.next > t->in.marker && t->out.next > t->out.marker;

    if (!t->report_at || now < t->report_at ||
        (!back && now < t->give_up_at)) {
        return;
    }
    t->report_at = 0;
    putchar('{');
    print_arrivals("in", &t->in, now);
    print_arrivals("out", &t->out, now);
    print_arrivals("interrupts", &t->interrupts, now);
    reply("\"ns\":%" PRId64 ",\"back\":%s}", now - t->mark,
          back ? "true" : "false");
}

static void do_stream(Traffic *t, unsigned period, unsigned size)
{
    int64_t now = now_ns();

    if (t->wire < 0) {
        fail("a stream needs a wire");
    }
    t->size = size;
    t->in.last = t->out.last = t->interrupts.last = t->tick = now;
    ring_interrupts(&t->ring[RX], true);
    ring_interrupts(&t->ring[TX], false);
    t->period = period * 1000ll;
    mark(t);
    reply("{}");
}

static void do_report(Traffic *t, unsigned ms)
{
    int64_t now = now_ns();

    if (!t->period) {
        fail("there is no stream");
    }
    t->in.marker = t->in.sent;
    t->out.marker = t->out.sent;
    t->report_at = MAX(t->mark + ms * 1000000ll, now);
    t->give_up_at = t->report_at + GIVE_UP_NS;
}

/* --- As fast as possible --- */

typedef struct Feeder {
    Traffic *t;
    unsigned size;
    bool stop;
    bool done;              /* then @sent is how many frames there were */
    uint64_t sent;
} Feeder;

/* Takes all that arrives */
static void *eat(void *opaque)
{
    g_autofree uint8_t *buffer = g_malloc(256 * KiB);
    Feeder *f = opaque;

    while (!qatomic_read(&f->stop)) {
        struct pollfd p = { .fd = f->t->wire, .events = POLLIN };

        if (poll(&p, 1, 10) == 1 &&
            recv(p.fd, buffer, 256 * KiB, MSG_DONTWAIT) == 0) {
            fail("the wire is cut");
        }
    }
    return NULL;
}

/* Sends whole frames over and over, many at once */
static void *feed(void *opaque)
{
    Feeder *f = opaque;
    size_t stride = PREFIX_SIZE + f->size;
    unsigned count = MAX(1, 64 * KiB / stride), i;
    g_autofree uint8_t *block = g_malloc0(count * stride);
    uint64_t total = 0;
    size_t at = 0;

    for (i = 0; i < count; i++) {
        stl_be_p(block + i * stride, f->size);
        frame_init(block + i * stride + PREFIX_SIZE, 0);
    }
    while (!qatomic_read(&f->stop) || at % stride) {
        struct pollfd p = { .fd = f->t->wire, .events = POLLOUT };
        size_t end = count * stride;
        ssize_t n;

        if (qatomic_read(&f->stop)) {
            /* only what is left of a frame */
            end = QEMU_ALIGN_UP(at, stride);
        }
        n = send(p.fd, block + at, end - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            total += n;
            at = (at + n) % (count * stride);
        } else if (errno == EAGAIN) {
            poll(&p, 1, 10);
        } else if (errno != EINTR) {
            fail("cannot send to the wire: %s", strerror(errno));
        }
    }
    f->sent = total / stride;
    qatomic_store_release(&f->done, true);
    return NULL;
}

static unsigned flood_in(Traffic *t)
{
    Ring *r = &t->ring[RX];
    unsigned slot, len, count = 0;

    while (ring_take(r, &slot, &len)) {
        ring_add(t, RX, slot, t->buffer_size);
        count++;
    }
    if (count) {
        ring_publish(r);
    }
    return count;
}

static unsigned flood_out(Traffic *t, unsigned size)
{
    Ring *r = &t->ring[TX];
    unsigned count = take_back_out(t), added = 0;

    while (size && ring_busy(r) < RING_SIZE) {
        ring_add(t, TX, r->added % RING_SIZE, HEADER_SIZE + size);
        added++;
    }
    if (added) {
        ring_publish(r);
    }
    return count;
}

static void do_flood(Traffic *t, const char *direction, unsigned size,
                     unsigned ms, bool quiet)
{
    bool in = !strcmp(direction, "in"), both = !strcmp(direction, "both");
    Feeder feeder = { .t = t, .size = size };
    uint64_t received = 0, sent = 0, all;
    GThread *thread = NULL;
    int64_t start, now, end;
    bool idle = false;
    Usage usage;
    unsigned i;

    if (both != (t->wire < 0)) {
        fail("frames go %s", both ? "to a wire" : "nowhere");
    }
    for (i = 0; i < NUM_RINGS; i++) {
        ring_interrupts(&t->ring[i], !quiet);
    }
    for (i = 0; i < RING_SIZE; i++) {
        frame_init(ring_buffer(t, TX, i) + HEADER_SIZE, 0);
    }
    usage_begin(t, &usage);
    start = now_ns();
    end = start + ms * 1000000ll;
    if (!both) {
        thread = g_thread_new("wire", in ? feed : eat, &feeder);
    }
    do {
        unsigned came = flood_in(t), gone = in ? 0 : flood_out(t, size);

        received += came;
        sent += gone;
        if (!came && !gone) {
            /* On a machine with few processors the device needs this one */
            sched_yield();
        }
        now = now_ns();
    } while (now < end);
    usage_end(t, &usage);

    /* Nothing is left for the next one */
    all = received;
    end = now + DEADLINE_NS;
    if (in) {
        qatomic_set(&feeder.stop, true);
    }
    while (!idle && now_ns() < end) {
        bool done;

        sched_yield();
        done = qatomic_load_acquire(&feeder.done);
        i = flood_in(t);
        all += i;
        flood_out(t, 0);
        idle = !ring_busy(&t->ring[TX]) && !i &&
               (!in || (done && all >= feeder.sent));
    }
    qatomic_set(&feeder.stop, true);
    if (thread) {
        g_thread_join(thread);
    }
    if (!idle || (in && all != feeder.sent)) {
        fail("of %" PRIu64 " frames %" PRIu64 " arrived, %u have not gone",
             feeder.sent, all, ring_busy(&t->ring[TX]));
    }
    reply("{\"ns\":%" PRId64 ",\"packets\":%" PRIu64 ",\"main\":%" PRIu64
          ",\"all\":%" PRIu64 ",\"cycles\":%s}", now - start,
          both || in ? received : sent, usage.main, usage.all,
          have_cycles() ? "true" : "false");
}

/* --- One after the other --- */

static int compare_ns(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

/*
 * Median time from a kick until the frame is gone, or until the interrupt for
 * that.  Whoever waits for both may see both only when all is done, because
 * the threads that do it took its processor.
 */
static int64_t ping(Traffic *t, unsigned count, bool interrupts)
{
    g_autofree int64_t *times = g_new(int64_t, count);
    Ring *r = &t->ring[TX];
    unsigned i;

    ring_interrupts(&t->ring[RX], false);
    ring_interrupts(r, interrupts);
    for (i = 0; i < count; i++) {
        unsigned slot = r->added % RING_SIZE;
        int64_t start;

        frame_init(ring_buffer(t, TX, slot) + HEADER_SIZE, 0);
        ring_add(t, TX, slot, HEADER_SIZE + FRAME_MIN);
        start = now_ns();
        ring_publish(r);
        while (interrupts ? !ring_interrupted(r) : !ring_has_used(r)) {
            if (now_ns() > start + DEADLINE_NS) {
                fail("a frame has not %s", interrupts ? "been reported"
                                                      : "gone");
            }
            cpu_relax();
        }
        times[i] = now_ns() - start;
        take_back_out(t);
        flood_in(t);
    }
    qsort(times, count, sizeof(*times), compare_ns);
    return times[count / 2];
}

static void do_ping(Traffic *t, unsigned count)
{
    int64_t gone = ping(t, count, false);

    reply("{\"kick\":%" PRId64 ",\"interrupt\":%" PRId64 "}", gone,
          ping(t, count, true));
}

/* What the program in bench/lib/processor.py waits for */
typedef struct Control {
    uint32_t count;
    uint32_t address;
    uint32_t value;
} Control;

static void do_store(Traffic *t, unsigned count, unsigned address,
                     unsigned value)
{
    Control *c = (Control *)(t->memory + CONTROL_OFFSET);
    int64_t start = now_ns();
    Usage usage;

    c->address = cpu_to_le32(address);
    c->value = cpu_to_le32(value);
    usage_begin(t, &usage);
    qatomic_store_release(&c->count, cpu_to_le32(count));
    while (qatomic_read(&c->count)) {
        if (now_ns() > start + 10 * DEADLINE_NS) {
            fail("the guest's processor does not end");
        }
        g_usleep(50);
    }
    start = now_ns() - start;
    usage_end(t, &usage);
    reply("{\"ns\":%" PRId64 ",\"all\":%" PRIu64 ",\"cycles\":%s}", start,
          usage.all, have_cycles() ? "true" : "false");
}

/* --- Commands --- */

static void do_driver(Traffic *t, unsigned size)
{
    unsigned i;

    t->buffer_size = ROUND_UP(HEADER_SIZE + size, 64);
    if (BUFFERS_OFFSET + NUM_RINGS * RING_SIZE * (uint64_t)t->buffer_size >
        MEMORY_SIZE) {
        fail("buffers of %u bytes do not fit", size);
    }
    t->held = false;
    for (i = 0; i < NUM_RINGS; i++) {
        Ring *r = &t->ring[i];

        r->added = r->taken = 0;
        *r->msi = 0;
        r->buffers = t->base + BUFFERS_OFFSET +
                     i * RING_SIZE * t->buffer_size;
        memset(ring_buffer(t, i, 0), 0, RING_SIZE * t->buffer_size);
    }
    for (i = 0; i < RING_SIZE; i++) {
        ring_add(t, RX, i, t->buffer_size);
    }
    ring_interrupts(&t->ring[RX], true);
    ring_publish(&t->ring[RX]);
    reply("{}");
}

static int take_descriptor(Traffic *t, int fd)
{
    int process = syscall(SYS_pidfd_open, t->pid, 0);
    int own = process < 0 ? -1 : syscall(SYS_pidfd_getfd, process, fd, 0);

    if (own < 0) {
        fail("cannot take descriptor %d of process %d: %s; it takes Linux "
             "5.6, and where kernel.yama.ptrace_scope is not 0, root", fd,
             t->pid, strerror(errno));
    }
    close(process);
    return own;
}

static void do_kicks(Traffic *t, int rx, int tx)
{
    int fds[NUM_RINGS] = { rx, tx };
    unsigned i;

    t->held = false;
    for (i = 0; i < NUM_RINGS; i++) {
        Ring *r = &t->ring[i];

        if (r->kick >= 0) {
            close(r->kick);
        }
        r->kick = take_descriptor(t, fds[i]);
        /* What was added while the guest was stopped */
        smp_wmb();
        qatomic_set(&r->avail->idx, cpu_to_le16(r->added));
        ring_kick(r);
    }
    reply("{}");
}

static void check_size(unsigned size)
{
    if (size < FRAME_MIN || size > FRAME_MAX) {
        fail("frames have %u to %u bytes", FRAME_MIN, FRAME_MAX);
    }
}

static void command(Traffic *t, const char *line)
{
    unsigned a, b, c;
    char word[8];

    if (sscanf(line, "driver %u", &a) == 1) {
        check_size(a);
        do_driver(t, a);
    } else if (!t->buffer_size) {
        fail("no driver was loaded before \"%s\"", line);
    } else if (sscanf(line, "kicks %u %u", &a, &b) == 2) {
        do_kicks(t, a, b);
    } else if (sscanf(line, "stream %u %u", &a, &b) == 2 && a) {
        check_size(b);
        do_stream(t, a, b);
    } else if (!strcmp(line, "hold")) {
        t->held = true;
        reply("{}");
    } else if (!strcmp(line, "mark")) {
        mark(t);
        reply("{}");
    } else if (sscanf(line, "report %u", &a) == 1) {
        do_report(t, a);
    } else if (!strcmp(line, "end")) {
        t->period = 0;
        reply("{}");
    } else if (sscanf(line, "flood %7s %u %u %u", word, &a, &b, &c) == 4) {
        check_size(a);
        do_flood(t, word, a, b, c);
    } else if (sscanf(line, "ping %u", &a) == 1 && a) {
        do_ping(t, a);
    } else if (sscanf(line, "store %u %u %u", &a, &b, &c) == 3 && a) {
        do_store(t, a, b, c);
    } else {
        fail("there is no command \"%s\"", line);
    }
}

static void loop(Traffic *t)
{
    g_autoptr(GString) input = g_string_new(NULL);

    for (;;) {
        struct pollfd p[2] = {
            { .fd = STDIN_FILENO, .events = POLLIN },
            { .fd = t->wire, .events = POLLIN },
        };
        struct timespec timeout = { 0 };
        char *end;

        if (t->period) {
            int64_t left = MAX(0, t->tick - now_ns());

            timeout.tv_sec = left / NANOSECONDS_PER_SECOND;
            timeout.tv_nsec = left % NANOSECONDS_PER_SECOND;
        }
        if (ppoll(p, t->period ? 2 : 1, t->period ? &timeout : NULL,
                  NULL) < 0 && errno != EINTR) {
            fail("cannot poll: %s", strerror(errno));
        }
        if (t->period) {
            stream_excuse(t);
            stream_look(t);
            if (now_ns() >= t->tick) {
                stream_tick(t);
            }
            try_report(t);
        }
        if (p[0].revents) {
            char text[256];
            ssize_t n = read(STDIN_FILENO, text, sizeof(text));

            if (n <= 0) {
                return;
            }
            g_string_append_len(input, text, n);
        }
        while ((end = strchr(input->str, '\n'))) {
            *end = 0;
            command(t, input->str);
            g_string_erase(input, 0, end + 1 - input->str);
        }
    }
}

static int wire_connect(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof(addr.sun_path)) {
        fail("the path of the wire is too long: %s", path);
    }
    pstrcpy(addr.sun_path, sizeof(addr.sun_path), path);
    if (fd < 0 ||
        connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        fail("cannot connect to the wire %s: %s", path, strerror(errno));
    }
    return fd;
}

static void G_GNUC_NORETURN help(void)
{
    fprintf(stderr,
            "usage: vhost-vdpa-traffic PID FILE ADDRESS [WIRE]\n"
            "  PID      of QEMU\n"
            "  FILE     the guest's memory\n"
            "  ADDRESS  where in it the rings are, followed by %d MiB\n"
            "  WIRE     path of the socket that is the device's wire\n",
            (int)(MEMORY_SIZE / MiB));
    exit(EXIT_FAILURE);
}

int main(int argc, char **argv)
{
    Traffic *t = g_new0(Traffic, 1);
    unsigned i;
    int fd;

    if (argc < 4 || argc > 5 ||
        qemu_strtoi(argv[1], NULL, 10, &t->pid) < 0 ||
        qemu_strtou64(argv[3], NULL, 0, &t->base) < 0) {
        help();
    }
    fd = open(argv[2], O_RDWR | O_CLOEXEC);
    t->memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
                     fd, t->base);
    if (fd < 0 || t->memory == MAP_FAILED) {
        fail("cannot map guest memory %s: %s", argv[2], strerror(errno));
    }
    close(fd);
    /* A tick is shorter than what timers are usually late by */
    prctl(PR_SET_TIMERSLACK, 1);
    t->wire = argc > 4 ? wire_connect(argv[4]) : -1;
    t->to_wire = g_byte_array_new();
    t->from_wire = g_byte_array_new();
    t->frame = g_malloc0(PREFIX_SIZE + FRAME_MAX);
    for (i = 0; i < NUM_RINGS; i++) {
        ring_init(t, i);
    }
    loop(t);
    return EXIT_SUCCESS;
}
