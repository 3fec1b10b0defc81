/*
 * vhost-vdpa conformance: who may open and own a node, and for how long
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "conformance.h"
#include <fcntl.h>

static void exclusive(void)
{
    int first;

    node_open(O_RDWR);
    first = node;
    node_open(O_RDWR);
    node = first;
    node_close();
    node_open(O_RDWR);
    vdpa_get_status(NULL);
}

int process_main(int argc, char **argv)
{
    return 2;
}

const Case process_cases[] = {
    { "exclusive", exclusive },
    { 0 }
};
