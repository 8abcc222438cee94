; trapgate-guest: a multiboot 1 kernel that takes a processor through its modes and says on COM1 what
; worked, then times one operation at a time. Written for AMD family 10h (2007) and what came after.
;
; Command line: `tests`, `loops` or `all` (default); `loops=PERCENT` scales the loops' iterations.
; Ends through isa-debug-exit: value 0 if every test held, 1 if not.

%include "common/constants.inc"
%include "common/modes.inc"
%include "common/multiboot.inc"
%include "memory.inc"

    section .text
    multiboot_header IMAGE_BASE, WHOLE_FILE, bss_end, start

%include "common/cmdline.inc"
%include "common/serial.inc"
%include "descriptors.inc"
%include "runner.inc"
%include "start.inc"
%include "exceptions.inc"
%include "exceptions32.inc"
%include "exceptions64.inc"

%include "real/tour.inc"
%include "protected/tour.inc"
%include "long/tour.inc"
%include "loops/table.inc"

    section .bss
    alignb PAGE
bss_end:
