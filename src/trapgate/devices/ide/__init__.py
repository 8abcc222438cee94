"""IDE: the PIIX3's controller, ATA disks and ATAPI CD-ROM drives."""
