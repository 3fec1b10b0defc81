/*
 * Run QEMU with a software vDPA device, and look at both from outside
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_LIBVDPA_SOFT_H
#define TESTS_LIBVDPA_SOFT_H

#include "qobject/qdict.h"
#include "qobject/qlist.h"

/* The longest that anything a test waits for may take, in milliseconds */
#define VDPA_SOFT_DEADLINE_MS 20000

/**
 * struct VdpaSoft - a run of QEMU under contrib/vdpa-soft's launcher
 *
 * @dir: temporary folder that goes away with it
 * @control: path of the control socket
 * @transcript: path of the transcript, which outlives QEMU
 * @wire: path of the socket that frames go to, unless the test has its own
 * @wire_fd: listens there; frames are kept for whoever accepts and reads
 * @errors: path of what QEMU wrote to its standard error
 * @seq: the last transcript entry that was looked at
 */
typedef struct VdpaSoft {
    char *dir;
    char *control;
    char *transcript;
    char *errors;
    char *wire;
    int wire_fd;
    uint64_t seq;

    /*< private >*/
    int fd;
    GString *rx;
} VdpaSoft;

/** vdpa_soft_fail() - end the test program, with a message */
void vdpa_soft_fail(const char *fmt, ...) G_GNUC_PRINTF(1, 2) G_GNUC_NORETURN;

VdpaSoft *vdpa_soft_new(void);
void vdpa_soft_free(VdpaSoft *s);

/**
 * vdpa_soft_command() - the command line that runs QEMU with the device
 * @options: the launcher's own
 * @qemu: the QEMU binary; its options are to follow
 *
 * To be run by a shell.  Returns: a g_malloc'd string
 */
char *vdpa_soft_command(VdpaSoft *s, const char *options, const char *qemu);

/**
 * vdpa_soft_run() - run a QEMU that is to end by itself
 * @before: shell commands to run first, each followed by a semicolon
 * @options: the launcher's own
 * @args: QEMU's
 *
 * A QEMU that starts up is told to quit and so ends with status 0.  What it
 * wrote to its standard error is in the file @errors.
 *
 * Returns: the exit status; fails the test if QEMU was killed by a signal, or
 * did not end within the deadline
 */
int vdpa_soft_run(VdpaSoft *s, const char *before, const char *options,
                  const char *args);

/** vdpa_soft_connect() - connect to the control socket of a running QEMU */
void vdpa_soft_connect(VdpaSoft *s);

/**
 * vdpa_soft_request() - send a control request, which must succeed
 *
 * Returns: the reply, to be unreferenced by the caller
 */
QDict *vdpa_soft_request(VdpaSoft *s, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

/** vdpa_soft_do() - send a control request for which "ok" is all there is */
void vdpa_soft_do(VdpaSoft *s, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/**
 * vdpa_soft_wait() - wait until a number of the device has a value
 * @condition: "KEY OP VALUE", as in the control request "wait"
 *
 * Fails the test, with the transcript, when the deadline has passed.
 */
void vdpa_soft_wait(VdpaSoft *s, const char *condition);

/** vdpa_soft_number() - a number of the device; @key as in "wait" */
uint64_t vdpa_soft_number(VdpaSoft *s, const char *key);

/** vdpa_soft_text() - a g_malloc'd text that is a member of "stats" */
char *vdpa_soft_text(VdpaSoft *s, const char *key);

/**
 * vdpa_soft_calls() - what the device was told since the last time
 *
 * Returns: strings such as "SET_VRING_NUM index=0 num=256"; a failed call
 * ends in its errno.  Several IOTLB_UPDATE or IOTLB_INVALIDATE messages that
 * follow each other are one string with the name only.
 */
GPtrArray *vdpa_soft_calls(VdpaSoft *s);

/** vdpa_soft_messages() - same, but each IOTLB message is one string */
GPtrArray *vdpa_soft_messages(VdpaSoft *s);

/** vdpa_soft_file_calls() - same as _calls(), all of a QEMU that has ended */
GPtrArray *vdpa_soft_file_calls(VdpaSoft *s);

/** vdpa_soft_file_messages() - the same as vdpa_soft_messages() is to that */
GPtrArray *vdpa_soft_file_messages(VdpaSoft *s);

/** vdpa_soft_skip() - look at nothing that was recorded so far */
void vdpa_soft_skip(VdpaSoft *s);

/** vdpa_soft_error_lines() - the lines of @errors */
char **vdpa_soft_error_lines(VdpaSoft *s);

/**
 * vdpa_soft_assert_calls() - fail, with a comparison, if calls differ
 * @what: what the calls are of, for the message
 * @expected: strings as vdpa_soft_calls() returns
 */
void vdpa_soft_assert_calls(const char *what, GPtrArray *calls,
                            GPtrArray *expected);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(VdpaSoft, vdpa_soft_free)

#endif
