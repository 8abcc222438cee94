"""The processor: exceptions, their delivery, and the modelled TLB."""
