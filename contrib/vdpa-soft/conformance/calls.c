/*
 * vhost-vdpa conformance: the ioctls, with good and bad arguments, in every
 * state of the device
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "conformance.h"
#include <fcntl.h>

static void constants(void)
{
    node_open(O_RDWR);
    vdpa_get_device_id(NULL);
    vdpa_get_features(NULL);
    vdpa_get_backend_features(NULL);
    vdpa_get_vqs_count(NULL);
    vdpa_get_group_num(NULL);
    vdpa_get_as_num(NULL);
    vdpa_get_vring_num(NULL);
    vdpa_get_config_size(NULL);
    vdpa_get_iova_range(NULL, NULL);
}

const Case calls_cases[] = {
    { "constants", constants },
    { 0 }
};
