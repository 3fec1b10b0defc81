HXCOMM Our lines of the command line's help and manual.
HXCOMM graft: help
    "-netdev vhost-vdpa,id=str[,vhostdev=path][,vhostfd=h][,queues=n]\n"
    "                let the guest use a vDPA network device of the host\n"
    "                use 'vhostdev=path' to open it, such as /dev/vhost-vdpa-0\n"
    "                use 'vhostfd=h' instead for a device that is open already\n"
    "                use 'queues=n' to limit the pairs of queues the guest gets\n"
    "                (default: all that the device has)\n"
HXCOMM graft: manual
``-netdev vhost-vdpa,id=id[,vhostdev=path][,vhostfd=h][,queues=n]``
    Let the guest use a vDPA network device of the host. The device
    processes the guest's virtqueues by itself; QEMU only sets it up.

    ``vhostdev=path``
        The character device to open, such as ``/dev/vhost-vdpa-0``.

    ``vhostfd=h``
        A device that is open already for reading and writing: the
        number of a file that QEMU inherited, or the name of one passed
        with ``getfd``. Exactly one of ``vhostdev`` and ``vhostfd`` is
        required.

    ``queues=n``
        How many pairs of queues the guest gets, at most as many as the
        device has, which is the default. The network card needs
        ``mq=on`` to use more than one.

    Example:

    .. parsed-literal::

        |qemu_system| -m 4G \\
            -object memory-backend-memfd,id=mem,size=4G,share=on \\
            -machine memory-backend=mem \\
            -netdev vhost-vdpa,id=net0,vhostdev=/dev/vhost-vdpa-0,queues=2 \\
            -device virtio-net-pci,netdev=net0,mq=on

    How to create a device, permissions, limits and what error messages
    mean: see :ref:`vhost_vdpa_guide`.
