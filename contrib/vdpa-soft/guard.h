/*
 * vdpa-soft: access to memory that may not be there
 *
 * A device reaches memory that its driver may unmap at any time, and a
 * system call is given pointers that may be wrong.  Both must end in an
 * error, not in a signal that kills the program.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_GUARD_H
#define VDPA_SOFT_GUARD_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef int VsSigaction(int sig, const struct sigaction *act,
                        struct sigaction *old);

/**
 * vs_guard_install() - take over SIGSEGV and SIGBUS
 * @real: the C library's sigaction()
 *
 * What the program had installed, or installs later through
 * vs_guard_sigaction(), is run for every signal that is not ours.  May be
 * called again; only the first call does anything.
 */
void vs_guard_install(VsSigaction *real);

/**
 * vs_guard_sigaction() - the program's own sigaction() for a taken signal
 *
 * Returns: false if @sig is not taken: the caller asks the C library
 */
bool vs_guard_sigaction(int sig, const struct sigaction *act,
                        struct sigaction *old);

/**
 * vs_guard_dma_read() / vs_guard_dma_write() - copy between device and memory
 *
 * For device threads: the two signals are left unblocked in the caller.
 *
 * Returns: false if some byte could not be accessed; an unknown part of the
 *          range was then copied
 */
bool vs_guard_dma_read(void *dst, uint64_t addr, size_t size);
bool vs_guard_dma_write(uint64_t addr, const void *src, size_t size);

/** vs_guard_load16() / vs_guard_store16() - with acquire, release semantics */
bool vs_guard_load16(uint64_t addr, uint16_t *val);
bool vs_guard_store16(uint64_t addr, uint16_t val);

/**
 * vs_guard_from_user() / vs_guard_to_user() - a system call's arguments
 *
 * For any thread of the program, whose signal mask is left as it was.
 *
 * Returns: false if some byte could not be accessed
 */
bool vs_guard_from_user(void *dst, const void *user, size_t size);
bool vs_guard_to_user(void *user, const void *src, size_t size);

#endif
