/*
 * vdpa-soft: the record of every call
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_TRANSCRIPT_H
#define VDPA_SOFT_TRANSCRIPT_H

#include <glib.h>
#include <stdint.h>

/** The oldest entries are forgotten beyond this many */
#define VS_TRANSCRIPT_MAX (1u << 18)

/**
 * vs_transcript_open() - also append every entry to a file
 * @path: created if missing
 *
 * Returns: 0 or a negative errno
 */
int vs_transcript_open(const char *path);

/**
 * vs_transcript_add() - record a call; from any thread
 * @node: number of the node
 * @call: name of the call
 * @args: JSON object
 * @ret: what the call returns
 * @err: errno, or 0
 * @why: what the kernel would not have told, or NULL
 */
void vs_transcript_add(unsigned node, const char *call, const char *args,
                       int64_t ret, int err, const char *why);

/**
 * vs_transcript_read() - append entries to @out, separated by commas
 * @since: sequence number after which to begin; 0 for all
 *
 * Returns: the sequence number to give as @since next time
 */
uint64_t vs_transcript_read(uint64_t since, GString *out);

/** vs_transcript_clear() - forget the entries; numbering goes on */
void vs_transcript_clear(void);

/** vs_transcript_fork() - in a forked child: start an empty one */
void vs_transcript_fork(void);

#endif
