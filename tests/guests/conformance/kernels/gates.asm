; Call gates, interrupt gates and returns between rings.
%include "prelude.inc"

GATE  equ FREE
BAD   equ FREE + 8
CODE  equ CODE0
CALL32 equ 0xEC00       ; 32-bit call gate, DPL 3
CALL16 equ 0xE400

test_body:
        check "32-bit call gate from ring 3: stack of level 0 with parameters", "AMD APM vol. 2, Control Transfers through Call Gates"
        gate GATE, CODE, inner, CALL32 + 2
        trying
        user %$u
%$u:    push dword 0x11
        push dword 0x22
        call GATE:0xDEADBEEF
%$r:    int END
        tried
        is [ex_vector], NONE
        is [value], interrupt_stack - 24
        is [interrupt_stack - 24], %$back
        is [interrupt_stack - 20], CODE3
        is [interrupt_stack - 16], 0x22
        is [interrupt_stack - 12], 0x11
        is [interrupt_stack - 8], user_stack - 8
        is [interrupt_stack - 4], DATA3
        jmp %$end
%$back equ $
%$end:
        end_check
        ret
%include "finish.inc"
