"""The hot tier: loops and functions as regions of native code, with the guest's registers in the host's."""
