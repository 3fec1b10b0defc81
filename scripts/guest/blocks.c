/*
 * Write to a disk what can be recognized, and see whether it is there
 *
 * usage: blocks DISK fill SEED     write kept areas, then as "check"
 *        blocks DISK check SEED    read them: they hold just what was written
 *        blocks DISK load SEED     write and read other areas until SIGTERM
 *        blocks DISK clear         write zeroes there
 *        blocks DISK audit         look at what the last writes left there
 *
 * The disk is divided into ZONES zones, each with a kept area and one to load;
 * the first sector of the disk and the last one are in kept areas. A sector
 * says itself what it is: which one, written by whom, the how manieth time, and
 * the rest follows from that. Whatever is read is compared with it.
 *
 * A load has WORKERS requests on their way at any time, each of a process with
 * zones of its own: of a random size, at a random place, and read again now and
 * then. It prints a line when all of them work, and reads all that was written
 * once more before it ends. What a load leaves that was not allowed to end is
 * seen by the audit: each sector was written completely or not at all.
 *
 * No page cache is involved if the disk is a device.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECTOR 512
#define ZONES 32
#define WORKERS 8
#define MAGIC 0x6b6c622d61706476ull

/* Sectors of an area, of each kind, and of the longest request */
#define AREA 32
#define LONGEST 24

/* Requests of each worker before a load counts as begun */
#define BEGUN 4

typedef struct Sector {
    uint64_t magic;
    uint64_t seed;
    uint64_t number;
    uint64_t turn;
    uint64_t rest[SECTOR / 8 - 4];
} Sector;

_Static_assert(sizeof(Sector) == SECTOR, "sector");

/* What all workers count together */
typedef struct Counts {
    atomic_ulong requests;
    atomic_ulong sectors;
    atomic_ulong begun;
} Counts;

static const char *path;
static int disk;
static uint64_t disk_sectors;
static Counts *counts;
static volatile sig_atomic_t ending;

static void end(int signal)
{
    ending = signal;
}

static void __attribute__((noreturn, format(printf, 1, 2)))
fail(const char *format, ...)
{
    char text[256];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    /* At once, as several processes may have something to say */
    printf("%s: %s\n", path, text);
    exit(1);
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static void compose(Sector *sector, uint64_t seed, uint64_t number,
                    uint64_t turn)
{
    uint64_t state = seed ^ number << 32 ^ turn;
    size_t i;

    sector->magic = MAGIC;
    sector->seed = seed;
    sector->number = number;
    sector->turn = turn;
    for (i = 0; i < sizeof(sector->rest) / 8; i++) {
        sector->rest[i] = next_random(&state);
    }
}

/* Is the sector as somebody wrote it to this place? */
static void check_whole(const Sector *found, uint64_t number)
{
    Sector wanted;

    compose(&wanted, found->seed, found->number, found->turn);
    if (found->magic != MAGIC || found->number != number) {
        fail("sector %" PRIu64 " holds nothing that was written there: it "
             "begins with %016" PRIx64 " %016" PRIx64 " %016" PRIx64, number,
             found->magic, found->seed, found->number);
    }
    if (memcmp(found, &wanted, sizeof(wanted))) {
        fail("sector %" PRIu64 " is only in part what was written there",
             number);
    }
}

static void check(const Sector *found, uint64_t seed, uint64_t number,
                  uint64_t turn)
{
    check_whole(found, number);
    if (found->seed != seed || found->turn != turn) {
        fail("sector %" PRIu64 " holds write %" PRIu64 " of %016" PRIx64
             ", expected %" PRIu64 " of %016" PRIx64, number, found->turn,
             found->seed, turn, seed);
    }
}

static void transfer(bool write, Sector *sectors, uint64_t first, size_t count)
{
    size_t size = count * SECTOR;
    ssize_t done = write ? pwrite(disk, sectors, size, first * SECTOR) :
                           pread(disk, sectors, size, first * SECTOR);

    if (done != (ssize_t)size) {
        fail("%s sectors %" PRIu64 " to %" PRIu64 " gave %zd: %s",
             write ? "writing" : "reading", first, first + count - 1, done,
             done < 0 ? strerror(errno) : "too short");
    }
}

static Sector *allocate(size_t count)
{
    void *sectors;

    /* The alignment that access without a page cache needs */
    if (posix_memalign(&sectors, 4096, count * SECTOR)) {
        fail("no memory");
    }
    return sectors;
}

/* First sector of a zone's area: kept ones end where the disk ends */
static uint64_t kept_area(unsigned zone)
{
    return (disk_sectors - AREA) * zone / (ZONES - 1);
}

static uint64_t load_area(unsigned zone)
{
    return kept_area(zone) + (zone < ZONES - 1 ? AREA : -AREA);
}

static void keep(uint64_t seed, bool write)
{
    Sector *sectors = allocate(AREA);
    unsigned zone, i;

    for (zone = 0; zone < ZONES; zone++) {
        uint64_t first = kept_area(zone);

        if (write) {
            for (i = 0; i < AREA; i++) {
                compose(&sectors[i], seed, first + i, zone);
            }
        }
        transfer(write, sectors, first, AREA);
        for (i = 0; !write && i < AREA; i++) {
            check(&sectors[i], seed, first + i, zone);
        }
    }
    if (write && fsync(disk)) {
        fail("flushing: %s", strerror(errno));
    }
    free(sectors);
}

static void clear(void)
{
    Sector *sectors = allocate(AREA);
    unsigned zone;

    memset(sectors, 0, AREA * SECTOR);
    for (zone = 0; zone < ZONES; zone++) {
        transfer(true, sectors, load_area(zone), AREA);
    }
    free(sectors);
}

static void audit(void)
{
    Sector *sectors = allocate(AREA);
    unsigned zone, i, written = 0;
    size_t byte;

    for (zone = 0; zone < ZONES; zone++) {
        uint64_t first = load_area(zone);

        transfer(false, sectors, first, AREA);
        for (i = 0; i < AREA; i++) {
            const uint8_t *bytes = (const uint8_t *)&sectors[i];

            for (byte = 0; byte < SECTOR && !bytes[byte]; byte++) {
                continue;
            }
            if (byte < SECTOR) {
                check_whole(&sectors[i], first + i);
                written++;
            }
        }
    }
    printf("%u sectors were written\n", written);
    free(sectors);
}

/* A request, and what should be there afterwards: @turns, 0 if unknown */
static void work(uint64_t *random, uint64_t seed, uint64_t first,
                 uint64_t *turns, uint64_t turn, Sector *sectors)
{
    unsigned start = next_random(random) % AREA;
    unsigned count = 1 + next_random(random) % LONGEST;
    unsigned i;

    count = count > AREA - start ? AREA - start : count;
    for (i = 0; i < count; i++) {
        turns[start + i] = turn;
        compose(&sectors[i], seed, first + start + i, turn);
    }
    transfer(true, sectors, first + start, count);
    atomic_fetch_add(&counts->requests, 1);
    atomic_fetch_add(&counts->sectors, count);
    if (next_random(random) % 3) {
        return;
    }
    transfer(false, sectors, first, AREA);
    atomic_fetch_add(&counts->requests, 1);
    for (i = 0; i < AREA; i++) {
        if (turns[i]) {
            check(&sectors[i], seed, first + i, turns[i]);
        }
    }
}

static void run_worker(uint64_t seed, unsigned worker)
{
    uint64_t turns[ZONES / WORKERS][AREA] = { 0 };
    uint64_t random = seed + worker, turn = 0;
    Sector *sectors = allocate(AREA);
    unsigned zone, i;

    seed += worker;
    while (!ending) {
        zone = next_random(&random) % (ZONES / WORKERS);
        turn++;
        work(&random, seed, load_area(zone * WORKERS + worker), turns[zone],
             turn, sectors);
        if (turn == BEGUN &&
            atomic_fetch_add(&counts->begun, 1) == WORKERS - 1) {
            printf("begun\n");
            fflush(stdout);
        }
        if (!(turn % 16) && fsync(disk)) {
            fail("flushing: %s", strerror(errno));
        }
    }
    for (zone = 0; zone < ZONES / WORKERS; zone++) {
        uint64_t first = load_area(zone * WORKERS + worker);

        transfer(false, sectors, first, AREA);
        for (i = 0; i < AREA; i++) {
            if (turns[zone][i]) {
                check(&sectors[i], seed, first + i, turns[zone][i]);
            }
        }
    }
    free(sectors);
}

static int load(uint64_t seed)
{
    struct sigaction action = { .sa_handler = end, .sa_flags = SA_RESTART };
    pid_t workers[WORKERS];
    int status, signal, result = 0;
    unsigned i;
    sigset_t set;

    counts = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counts == MAP_FAILED) {
        fail("no memory");
    }
    sigaction(SIGTERM, &action, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (i = 0; i < WORKERS; i++) {
        workers[i] = fork();
        if (workers[i] < 0) {
            fail("no process: %s", strerror(errno));
        }
        if (!workers[i]) {
            sigprocmask(SIG_UNBLOCK, &set, NULL);
            run_worker(seed, i);
            exit(0);
        }
    }
    /* Before it is wanted, only a failure ends one */
    sigwait(&set, &signal);
    for (i = 0; i < WORKERS; i++) {
        kill(workers[i], SIGTERM);
    }
    for (i = 0; i < WORKERS; i++) {
        if (waitpid(workers[i], &status, 0) != workers[i] || status) {
            result = 1;
        }
    }
    if (!result) {
        printf("%lu requests, %lu sectors written\n", counts->requests,
               counts->sectors);
    }
    return result;
}

static void open_disk(void)
{
    struct stat info;
    off_t size;

    disk = open(path, O_RDWR);
    if (disk < 0 || fstat(disk, &info)) {
        fail("%s", strerror(errno));
    }
    if (S_ISBLK(info.st_mode) &&
        fcntl(disk, F_SETFL, O_RDWR | O_DIRECT) < 0) {
        fail("it cannot be used without page cache: %s", strerror(errno));
    }
    size = lseek(disk, 0, SEEK_END);
    if (size < ZONES * 2 * AREA * SECTOR) {
        fail("it has %jd bytes, too few", (intmax_t)size);
    }
    disk_sectors = size / SECTOR;
}

int main(int argc, char **argv)
{
    const char *command = argc > 2 ? argv[2] : "";
    uint64_t seed = 0;

    path = argc > 1 ? argv[1] : "blocks";
    if (argc < 3 || argc > 4 ||
        (argc == 4 && sscanf(argv[3], "%" SCNu64, &seed) != 1)) {
        fail("usage: blocks DISK fill|check|load SEED, or "
             "blocks DISK clear|audit");
    }
    open_disk();
    if (!strcmp(command, "fill")) {
        keep(seed, true);
        keep(seed, false);
    } else if (!strcmp(command, "check")) {
        keep(seed, false);
    } else if (!strcmp(command, "load")) {
        return load(seed);
    } else if (!strcmp(command, "clear")) {
        clear();
    } else if (!strcmp(command, "audit")) {
        audit();
    } else {
        fail("it has no command \"%s\"", command);
    }
    return 0;
}
