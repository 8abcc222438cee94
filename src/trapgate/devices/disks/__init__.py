"""Back ends of disks: images on the host, and overlays that keep a guest's writes in memory."""
