/*
 * vhost-vdpa conformance: IOTLB messages
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "conformance.h"

static void update(void)
{
    uint8_t *page = mem_shared("page", 1);

    node_open_owned();
    iotlb_update(0, 0x10000, PAGE, page, RW);
    iotlb_update(0, 0x10000, PAGE, page, RW);
    iotlb_invalidate(0, 0x10000, PAGE);
}

const Case iotlb_cases[] = {
    { "update", update },
    { 0 }
};
