"""Virtio 1.2: split virtqueues, the PCI transport, and devices."""
