"""9P2000.L, by which a guest mounts a folder of the host."""
