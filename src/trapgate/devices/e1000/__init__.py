"""Intel's 82540EM, a gigabit Ethernet card on PCI."""
