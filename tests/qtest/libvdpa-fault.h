/*
 * Let each call of a guest's life with a vDPA device fail, and see it go on
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_LIBVDPA_FAULT_H
#define TESTS_LIBVDPA_FAULT_H

#include "libvdpa-guest.h"

/**
 * struct VdpaCall - one call of a good run, which is to fail in another one
 * @name: as in the transcript
 * @occurrence: from 1
 */
typedef struct VdpaCall {
    char *name;
    unsigned occurrence;
} VdpaCall;

/**
 * struct VdpaFaultLoop - a part of a guest's life, for its calls to fail in
 * @prepare: brings the guest there
 * @run: the phase itself
 * @check: sees what became of a failure of a call, removes the cause, and sees
 *         that all works again.  Returns whether the guest was told that its
 *         device needs a reset.  For a good run, the call is NULL
 * @only: begin of the names of calls that are to fail, or NULL for all
 * @most: how often a call of one name is to fail, or 0 for each time
 * @once: nothing fails for good, as the first failure ends it all
 * @early: the failure is set up before @prepare, not between it and @run
 */
typedef struct VdpaFaultLoop {
    void (*prepare)(void *opaque);
    void (*run)(void *opaque);
    bool (*check)(void *opaque, const VdpaCall *call);
    const char *only;
    unsigned most;
    bool once;
    bool early;
} VdpaFaultLoop;

/**
 * vdpa_fault_calls() - number the calls of a good run, each name by itself
 * @calls: as vdpa_soft_messages() returns them
 *
 * close(), which does not fail, is left out.  Returns: an array of VdpaCall
 */
GArray *vdpa_fault_calls(GPtrArray *calls);

/** vdpa_fault_error() - the errno's name with which the kernel fails a call */
const char *vdpa_fault_error(const VdpaCall *call);

/** vdpa_fault_assert_injected() - the call was made, and failed */
void vdpa_fault_assert_injected(GPtrArray *calls, const VdpaCall *call);

/**
 * vdpa_fault_pattern() - what a message about a failed call is like
 *
 * Returns: a g_malloc'd regular expression.  It names the device, what was
 * attempted, and the cause
 */
char *vdpa_fault_pattern(const VdpaCall *call);

/**
 * vdpa_fault_unfail() - remove the cause
 *
 * Returns: whether the guest was told that its device needs a reset.  Sees
 * that QEMU's complaints are about @call.
 */
bool vdpa_fault_unfail(VdpaNic *nic, const VdpaCall *call);

/**
 * vdpa_fault_loop() - in each run one call fails, once, or from then on
 *
 * Fails the test if nothing was injected, if files are left open or memory is
 * left behind that was removed, or if VHOST_VDPA_BROKEN does not tell managers
 * what the guest was told, and only that.
 */
void vdpa_fault_loop(VdpaTest *t, const VdpaFaultLoop *loop, void *opaque);

/** vdpa_count_fds() - how many files QEMU has open */
unsigned vdpa_count_fds(VdpaTest *t);

/**
 * vdpa_wait_fds() - wait until QEMU has no more than @limit files open
 *
 * RCU closes what belongs to removed memory, which takes its time after a
 * hurry: also when @limit was counted, so that it may be too large.
 */
void vdpa_wait_fds(VdpaTest *t, unsigned limit);

#endif
