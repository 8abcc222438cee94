"""What stands behind serial and parallel ports and virtio consoles: files, pseudo-terminals, sockets."""
