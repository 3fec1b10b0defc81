/*
 * Send Ethernet frames that come back, and check each of them
 *
 * usage: frames NIC COUNT SIZE SECONDS [MAC]
 *
 * The frames go to MAC, by default to the NIC's own address, and have SIZE
 * bytes each, or all sizes by turns if that is 0. Each must come back as it
 * was, from MAC to the NIC, once, and in order; the next ones wait
 * while WINDOW of them are on their way, fewer than the buffers of any NIC.
 * Frames of another run, which may have been on their way since before a
 * reset, are not looked at.
 * SECONDS is how long nothing may arrive. After SIGTERM no more are sent, and
 * it ends when all are back.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* For experiments, by IEEE 802: whatever else is on the wire is not ours */
#define ETHER_TYPE 0x88b5
#define ADDRESS_SIZE 6
#define HEADER_SIZE 14
#define SHORTEST 60
#define LONGEST 1514
#define WINDOW 32

static volatile sig_atomic_t ending;
static uint32_t run;

static void end(int signal)
{
    ending = signal;
}

static void __attribute__((noreturn, format(printf, 1, 2)))
fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    exit(1);
}

/* What comes after the addresses of frame @number */
static void fill(uint8_t *frame, size_t size, uint32_t number)
{
    uint32_t state = number * 2654435761u + run;
    size_t i;

    frame[12] = ETHER_TYPE >> 8;
    frame[13] = ETHER_TYPE & 0xff;
    memcpy(frame + HEADER_SIZE, &run, sizeof(run));
    memcpy(frame + HEADER_SIZE + sizeof(run), &number, sizeof(number));
    for (i = HEADER_SIZE + sizeof(run) + sizeof(number); i < size; i++) {
        state = state * 1664525u + 1013904223u;
        frame[i] = state >> 24;
    }
}

static size_t size_of(uint32_t number, size_t size)
{
    /* A prime, so that neighbours differ and all sizes have their turn */
    return size ? size : SHORTEST + number * 37 % (LONGEST - SHORTEST + 1);
}

static bool ours(const uint8_t *frame, size_t size)
{
    return size >= HEADER_SIZE + sizeof(run) &&
           !memcmp(frame + HEADER_SIZE, &run, sizeof(run));
}

/* @addresses: to and from which it is to come */
static void check(const uint8_t *frame, size_t size, const uint8_t *addresses,
                  uint32_t number, size_t wanted)
{
    uint8_t expected[LONGEST];
    uint32_t found;
    size_t i;

    fill(expected, wanted, number);
    memcpy(&found, frame + HEADER_SIZE + sizeof(run), sizeof(found));
    if (found != number) {
        fail("frame %u came where %u was expected", found, number);
    }
    if (size != wanted) {
        fail("frame %u came with %zu bytes, it was sent with %zu", number,
             size, wanted);
    }
    if (memcmp(frame, addresses, 2 * ADDRESS_SIZE)) {
        fail("frame %u came with other addresses than those of its way back",
             number);
    }
    for (i = HEADER_SIZE; i < size; i++) {
        if (frame[i] != expected[i]) {
            fail("byte %zu of frame %u came as 0x%02x, it was sent as 0x%02x",
                 i, number, frame[i], expected[i]);
        }
    }
}

static int attach(const char *nic, uint8_t *address)
{
    struct sockaddr_ll link = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons(ETHER_TYPE),
    };
    struct ifreq request = { 0 };
    int fd = socket(AF_PACKET, SOCK_RAW, 0);

    if (fd < 0) {
        fail("no packet socket: %s", strerror(errno));
    }
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", nic);
    if (ioctl(fd, SIOCGIFHWADDR, &request)) {
        fail("%s: %s", nic, strerror(errno));
    }
    memcpy(address, request.ifr_hwaddr.sa_data, ADDRESS_SIZE);
    link.sll_ifindex = if_nametoindex(nic);
    if (bind(fd, (struct sockaddr *)&link, sizeof(link))) {
        fail("%s: %s", nic, strerror(errno));
    }
    return fd;
}

int main(int argc, char **argv)
{
    uint8_t own[ADDRESS_SIZE], peer[ADDRESS_SIZE], frame[LONGEST + 1];
    uint8_t back[2 * ADDRESS_SIZE];
    uint32_t count, sent = 0, received = 0;
    unsigned long long bytes = 0;
    int fd, size, seconds;
    struct timespec now;

    if (argc < 5 || argc > 6 || sscanf(argv[2], "%u", &count) != 1 ||
        sscanf(argv[3], "%d", &size) != 1 ||
        sscanf(argv[4], "%d", &seconds) != 1) {
        fail("usage: frames NIC COUNT SIZE SECONDS [MAC]");
    }
    if (size && (size < SHORTEST || size > LONGEST)) {
        fail("a frame has %d to %d bytes", SHORTEST, LONGEST);
    }
    fd = attach(argv[1], own);
    memcpy(peer, own, sizeof(peer));
    if (argc == 6 && sscanf(argv[5], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", peer,
                            peer + 1, peer + 2, peer + 3, peer + 4,
                            peer + 5) != ADDRESS_SIZE) {
        fail("%s is no MAC address", argv[5]);
    }

    memcpy(back, own, ADDRESS_SIZE);
    memcpy(back + ADDRESS_SIZE, peer, ADDRESS_SIZE);

    clock_gettime(CLOCK_REALTIME, &now);
    run = now.tv_sec * 1000003 + now.tv_nsec;

    sigaction(SIGTERM, &(struct sigaction) { .sa_handler = end }, NULL);
    while (received < count) {
        struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
        struct sockaddr_ll from;
        socklen_t length = sizeof(from);
        ssize_t got;

        if (ending) {
            count = sent;
        }
        while (sent < count && sent - received < WINDOW) {
            size_t out = size_of(sent, size);

            memcpy(frame, peer, ADDRESS_SIZE);
            memcpy(frame + ADDRESS_SIZE, own, ADDRESS_SIZE);
            fill(frame, out, sent);
            if (send(fd, frame, out, 0) != (ssize_t)out) {
                fail("frame %u was not sent: %s", sent, strerror(errno));
            }
            sent++;
        }
        switch (poll(&poll_fd, 1, seconds * 1000)) {
        case -1:
            continue;
        case 0:
            fail("nothing came for %d s: %u frames of %u sent were back",
                 seconds, received, sent);
        }
        got = recvfrom(fd, frame, sizeof(frame), 0, (struct sockaddr *)&from,
                       &length);
        if (got < 0) {
            fail("receiving: %s", strerror(errno));
        }
        /* A packet socket also sees what is sent */
        if (from.sll_pkttype == PACKET_OUTGOING || !ours(frame, got)) {
            continue;
        }
        check(frame, got, back, received, size_of(received, size));
        received++;
        bytes += got;
    }
    printf("%u frames, %llu bytes\n", received, bytes);
    return 0;
}
