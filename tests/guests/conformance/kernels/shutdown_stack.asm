; Shutdown: a PUSH without room in real mode.
%include "prelude.inc"
test_body:
        shutdown_check "PUSH with SP = 1 in real mode: #SS cannot be pushed, shutdown", "Intel SDM vol. 2, PUSH; AMD APM vol. 2, #SS - Stack Exception"
        real push_odd
        end_shutdown_check
        ret
low_code
push_odd:
        mov ax, 0x2000
        mov ss, ax
        mov esp, 1
        push word 0x1234
        jmp leave_real
main_code
%include "finish.inc"
