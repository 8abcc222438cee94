"""The processor: state, segmentation, paging, TLB, exceptions and interrupts."""
