; Shutdown: an exception that finds no handler for the double fault either.
%include "prelude.inc"
test_body:
        shutdown_check "a fault while a double fault is delivered: shutdown", "AMD APM vol. 2, #DF - Double-Fault Exception; Intel SDM vol. 3, Interrupt 8"
        xor eax, eax
        mov [value], eax
        mov [value + 4], eax
        lidt [value]            ; limit 0: no gate at all
        ud2
        end_shutdown_check
        ret
%include "finish.inc"
