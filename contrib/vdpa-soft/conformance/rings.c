/*
 * vhost-vdpa conformance: rings, kicks and calls
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "conformance.h"

static void bases(void)
{
    uint32_t vq;

    node_open_owned();
    for (vq = 0; vq < 4; vq++) {
        vdpa_get_vring_base(vq, NULL);
    }
}

const Case rings_cases[] = {
    { "bases", bases },
    { 0 }
};
