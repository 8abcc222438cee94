"""PCI: configuration space, address decoding, interrupt routing, and the chips of Intel's 440FX chip set."""
