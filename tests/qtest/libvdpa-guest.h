/*
 * A guest with a software vDPA device: QEMU, a driver, its rings and memory
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_LIBVDPA_GUEST_H
#define TESTS_LIBVDPA_GUEST_H

#include "libqtest.h"
#include "libvdpa-soft.h"
#include "qemu/bitops.h"
#include "libqos/libqos-malloc.h"
#include "libqos/pci.h"
#include "libqos/virtio.h"
#include "libqos/virtio-pci.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_net.h"

#define VDPA_NODE "/dev/vhost-vdpa-0"
#define VDPA_GUEST_MAC "52:54:00:ab:cd:ef"
#define VDPA_DEVICE_MAC "52:54:00:11:22:33"

#define VDPA_RAM_OPTIONS                                               \
    "-object memory-backend-memfd,id=ram,size=128M,share=on "          \
    "-M pc,memory-backend=ram -m 128M,slots=2,maxmem=1G -nodefaults "
#define VDPA_NETDEV_OPTION                                             \
    "-netdev vhost-vdpa,id=net0,vhostdev=" VDPA_NODE " "
#define VDPA_NIC_SLOT 4
#define VDPA_NIC_OPTION                                                \
    "-device virtio-net-pci,id=nic0,netdev=net0,addr=4,romfile=,mac="  \
    VDPA_GUEST_MAC

#define VDPA_DEADLINE_US (VDPA_SOFT_DEADLINE_MS * 1000ll)

/* Virtqueues of the largest device of these tests: 4 pairs and control */
#define VDPA_MAX_VQS 9
/* Rings that take long to set up make tests that take long */
#define VDPA_RING_SIZE 64

/* What libqos has no driver for, or what changes how rings are used */
#define VDPA_FEATURES_ON_DEMAND                                        \
    (BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC) |                            \
     BIT_ULL(VIRTIO_RING_F_EVENT_IDX) |                                \
     BIT_ULL(VIRTIO_F_RING_PACKED) |                                   \
     BIT_ULL(VIRTIO_NET_F_MRG_RXBUF) |                                 \
     BIT_ULL(VIRTIO_NET_F_MQ) | QVIRTIO_F_BAD_FEATURE)

#define VDPA_HEADER_SIZE sizeof(struct virtio_net_hdr_mrg_rxbuf)

/**
 * struct VdpaTest - a QEMU with a software vDPA device
 * @soft: the device
 * @bus: the guest's PCI bus
 * @alloc: the guest's memory
 * @errors: lines of QEMU's standard error that were expected
 * @faults: bad memory accesses of the device that the test is about
 * @broken: events VHOST_VDPA_BROKEN so far
 * @broken_error: the cause that the last of them gave
 *
 * Both see what arrived with the reply to any QMP command, or before.
 */
typedef struct VdpaTest {
    VdpaSoft *soft;
    QTestState *qts;
    QPCIBus *bus;
    QGuestAllocator alloc;
    unsigned errors;
    uint64_t faults;
    unsigned broken;
    char *broken_error;

    /*< private >*/
    char *deleted;
    unsigned backend;
} VdpaTest;

/**
 * struct VdpaNic - the guest's driver of the device
 * @features: negotiated
 * @ring_size: entries for each ring, or 0 to take what is offered
 */
typedef struct VdpaNic {
    VdpaTest *t;
    QVirtioPCIDevice *pci;
    QVirtioDevice *vdev;
    uint64_t features;
    unsigned ring_size;
    unsigned num_vqs;
    QVirtQueue *vq[VDPA_MAX_VQS];
} VdpaNic;

/** struct VdpaRange - a range of guest memory, both ends inclusive */
typedef struct VdpaRange {
    uint64_t first;
    uint64_t last;
    unsigned perm;
} VdpaRange;

/* --- Starting and ending QEMU --- */

/**
 * vdpa_start_qemu() - start QEMU with a software device
 * @soft: options of the launcher
 * @qemu: options of QEMU, behind those of VDPA_RAM_OPTIONS
 *
 * Returns: what vdpa_end() ends and frees
 */
VdpaTest *vdpa_start_qemu(const char *soft, const char *qemu);

/** vdpa_start() - the same, with VDPA_NETDEV_OPTION and VDPA_NIC_OPTION */
VdpaTest *vdpa_start(const char *soft);

/**
 * vdpa_quit() - end QEMU
 *
 * Fails the test if the device counted faults other than @t->faults, if QEMU
 * complained about something that nobody took, or if it kept the device.
 * All that is left is what vdpa_soft_file_calls() and the like look at.
 */
void vdpa_quit(VdpaTest *t);

/** vdpa_free() - free what is left after vdpa_quit() */
void vdpa_free(VdpaTest *t);

/** vdpa_end() - vdpa_quit() and vdpa_free() */
void vdpa_end(VdpaTest *t);

/** vdpa_take_error() - see that one of QEMU's new complaints is this one */
void vdpa_take_error(VdpaTest *t, const char *pattern);

/** vdpa_assert_one_error() - there is just one complaint that nobody took */
void vdpa_assert_one_error(VdpaTest *t);

/** vdpa_has_error() - whether there is a complaint that nobody took */
bool vdpa_has_error(VdpaTest *t);

/** vdpa_assert_no_error() - fail if there is one */
void vdpa_assert_no_error(VdpaTest *t);

/** vdpa_stop_guest() - have the user stop the virtual machine */
void vdpa_stop_guest(VdpaTest *t);

/** vdpa_continue_guest() - have the user continue it */
void vdpa_continue_guest(VdpaTest *t);

/**
 * vdpa_unplug() - remove a device, with the help of the guest
 * @eject: port and value that the guest's firmware would write
 */
void vdpa_unplug(VdpaTest *t, const char *id, uint16_t eject, uint32_t value);

/** vdpa_unplug_nic() - remove the network card "nic0" */
void vdpa_unplug_nic(VdpaTest *t);

/* --- The guest's driver --- */

/** vdpa_nic_new() - find the device, with MSI-X; vdpa_nic_free() frees it */
VdpaNic *vdpa_nic_new(VdpaTest *t, int slot);

/** vdpa_nic_new_intx() - the same with pin interrupts */
VdpaNic *vdpa_nic_new_intx(VdpaTest *t, int slot);

/** vdpa_nic_free() - forget the device, which is not reset */
void vdpa_nic_free(VdpaNic *nic);

/** vdpa_nic_free_vqs() - free the rings, of a device that was reset */
void vdpa_nic_free_vqs(VdpaNic *nic);

/** vdpa_nic_negotiate() - reset the device and agree on features */
void vdpa_nic_negotiate(VdpaNic *nic, uint64_t wanted);

/**
 * vdpa_nic_prepare() - all up to what sets the device going
 * @wanted: those of VDPA_FEATURES_ON_DEMAND that are to be used
 *
 * With vdpa_nic_set_driver_ok(), for a device that may refuse that.
 */
void vdpa_nic_prepare(VdpaNic *nic, uint64_t wanted);

/** vdpa_nic_set_driver_ok() - set the device going, if that works */
void vdpa_nic_set_driver_ok(VdpaNic *nic);

/** vdpa_nic_start() - (re)start the driver; @wanted as vdpa_nic_prepare() */
void vdpa_nic_start(VdpaNic *nic, uint64_t wanted);

/** vdpa_start_nic() - vdpa_nic_new() in VDPA_NIC_SLOT, and vdpa_nic_start() */
VdpaNic *vdpa_start_nic(VdpaTest *t, uint64_t wanted);

/** vdpa_nic_status() - the device's status, as the guest sees it */
uint8_t vdpa_nic_status(VdpaNic *nic);

/** vdpa_nic_has() - whether a feature, by its number, was negotiated */
bool vdpa_nic_has(VdpaNic *nic, unsigned feature);

/** vdpa_nic_pairs() - number of pairs that the driver may use */
unsigned vdpa_nic_pairs(VdpaNic *nic);

QVirtQueue *vdpa_nic_rx(VdpaNic *nic, unsigned pair);
QVirtQueue *vdpa_nic_tx(VdpaNic *nic, unsigned pair);

/**
 * vdpa_nic_offer() - offer a chain, and have an interrupt for it
 * @head: its first descriptor, from qvirtqueue_add()
 */
void vdpa_nic_offer(VdpaNic *nic, QVirtQueue *vq, uint32_t head);

/**
 * vdpa_nic_take() - wait for the interrupt, then for the chain
 *
 * Returns: bytes that the device wrote to it
 */
uint32_t vdpa_nic_take(VdpaNic *nic, QVirtQueue *vq, uint32_t head);

/**
 * vdpa_nic_new_buffer() - an empty header and a frame behind it
 * @frame: @size bytes, or NULL to leave them as they are
 *
 * Returns: the address; guest_free() frees it
 */
uint64_t vdpa_nic_new_buffer(VdpaNic *nic, const uint8_t *frame, size_t size);

/** vdpa_nic_assert_header() - what stands in front of a received frame */
void vdpa_nic_assert_header(VdpaNic *nic, uint64_t addr, unsigned buffers);

/** vdpa_nic_check_tx() - send a frame: it, and only it, leaves the device */
void vdpa_nic_check_tx(VdpaNic *nic, unsigned pair, size_t size,
                       unsigned seed);

/** vdpa_nic_check_rx() - a frame comes from the wire to the guest's memory */
void vdpa_nic_check_rx(VdpaNic *nic, unsigned pair, size_t size,
                       unsigned seed);

/** vdpa_nic_check_data() - a frame in each direction, on the first pair */
void vdpa_nic_check_data(VdpaNic *nic, unsigned seed);

/** vdpa_nic_control() - a command of the control queue; returns its ack */
uint8_t vdpa_nic_control(VdpaNic *nic, uint8_t class, uint8_t command,
                         const void *data, size_t size);

/** vdpa_nic_wait_needs_reset() - wait until the guest is told of it */
void vdpa_nic_wait_needs_reset(VdpaNic *nic);

/** vdpa_nic_check_recovery() - QEMU is well; the guest has its device back */
void vdpa_nic_check_recovery(VdpaNic *nic);

/* --- Frames --- */

/** vdpa_make_frame() - to everybody, of a type that is for experiments */
void vdpa_make_frame(uint8_t *frame, size_t size, unsigned seed);

/** vdpa_to_hex() - bytes as a g_malloc'd text */
char *vdpa_to_hex(const uint8_t *data, size_t size);

/** vdpa_assert_mem() - the guest's memory at @addr has these bytes */
void vdpa_assert_mem(VdpaTest *t, uint64_t addr, const uint8_t *expected,
                     size_t size);

/** vdpa_assert_captured() - exactly these frames went to the wire */
void vdpa_assert_captured(VdpaTest *t, unsigned count,
                          uint8_t *const *frames, const size_t *sizes);

/* --- What the device was told --- */

/** vdpa_no_calls() - an empty list of calls */
GPtrArray *vdpa_no_calls(void);

/** vdpa_add_call() - append a call, as vdpa_soft_calls() writes it */
void vdpa_add_call(GPtrArray *calls, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

/**
 * vdpa_assert_calls() - since the last time, the device was told this only
 * @what: what the calls are of, for the message
 * @expected: strings as vdpa_soft_calls() returns; taken
 */
void vdpa_assert_calls(VdpaTest *t, const char *what, GPtrArray *expected);

/** vdpa_assert_no_calls() - the same with nothing at all */
void vdpa_assert_no_calls(VdpaTest *t, const char *what);

/** vdpa_count_calls() - number of those that begin with @prefix */
unsigned vdpa_count_calls(GPtrArray *calls, const char *prefix);

/* --- The guest's memory --- */

/** vdpa_ranges_new() - an empty array of VdpaRange */
GArray *vdpa_ranges_new(void);

/** vdpa_ranges_merge() - sort, and make one of those that touch */
void vdpa_ranges_merge(GArray *ranges);

/** vdpa_guest_ranges() - what the guest has: the CPUs' flat view, merged */
GArray *vdpa_guest_ranges(VdpaTest *t);

/** vdpa_device_ranges() - what the device can reach, merged */
GArray *vdpa_device_ranges(VdpaTest *t);

/**
 * vdpa_assert_memory_mapped() - the device has exactly the guest's memory
 *
 * The device has to be --map any or pa.
 */
void vdpa_assert_memory_mapped(VdpaTest *t);

/** vdpa_add_dimm() - plug in a DIMM, "dimm1", of which there can be one */
void vdpa_add_dimm(VdpaTest *t, unsigned size_mb);

/**
 * vdpa_remove_dimm() - take it out, with the help of the guest
 *
 * Also one with the memory backend "mem1" that QEMU was started with.
 */
void vdpa_remove_dimm(VdpaTest *t);

#endif
