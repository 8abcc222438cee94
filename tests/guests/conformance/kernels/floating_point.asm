; x87: environments, stack faults, precision, denormals, #MF; MMX; SSE: MXCSR, #XF, FXSAVE; POPCNT, LZCNT, SSE4a.
%include "prelude.inc"

%macro control 1
        mov word [value], %1
        fldcw [value]
%endmacro
%macro status_is 2      ; mask, wanted
        fnstsw ax
        movzx eax, ax
        and eax, %1
        is eax, %2
%endmacro
%macro mxcsr 1
        mov dword [value], %1
        ldmxcsr [value]
%endmacro
%macro mxcsr_is 1       ; the flags
        stmxcsr [value]
        mov eax, [value]
        and eax, 0x3F
        is eax, %1
%endmacro
%macro need 3           ; leaf, register, bit: skip without it
        mov eax, %1
        cpuid
        bt %2, %3
        skip_if nc, "not on this processor"
%endmacro

test_body:
        mov eax, cr4
        or eax, 0x600
        mov cr4, eax
        check "FNINIT: control word, status word, tags", "AMD APM vol. 3, FINIT"
        fninit
        fnstenv [area]
        movzx eax, word [area]
        is eax, 0x37F
        movzx eax, word [area + 4]
        is eax, 0
        movzx eax, word [area + 8]
        is eax, 0xFFFF
        end_check
        check "stack overflow: IE, SF, C1 = 1, the indefinite value", "AMD APM vol. 1, x87 Stack Fault; Intel SDM vol. 1, Stack Overflow or Underflow Exception"
        fninit
        times 9 fld1
        status_is 0x241, 0x241
        fstp qword [value]
        is [value + 4], 0xFFF80000
        end_check
        check "stack underflow: IE, SF, C1 = 0", "AMD APM vol. 1, x87 Stack Fault"
        fninit
        fxam
        fst dword [value]
        status_is 0x241, 0x41
        is [value], 0xFFC00000
        end_check
        check "FXAM: empty, zero, normal, infinity, NaN, denormal", "AMD APM vol. 3, FXAM"
        fninit
        fxam
        status_is 0x4500, 0x4100
        fldz
        fxam
        status_is 0x4500, 0x4000
        fld1
        fchs
        fxam
        status_is 0x4700, 0x600
        mov dword [value], 0x7F800000
        fld dword [value]
        fxam
        status_is 0x4500, 0x500
        mov dword [value], 0x7FC00000
        fld dword [value]
        fxam
        status_is 0x4500, 0x100
        fld tword [denormal80]
        fxam
        status_is 0x4500, 0x4400
        end_check
        check "precision control rounds to 24 and 53 bits", "AMD APM vol. 1, Precision Control (PC) Field"
        fninit
        control 0x07F
        fld1
        fild dword [three]
        fdivp
        fstp tword [value]
        is [value], 0
        is [value + 4], 0xAAAAAB00
        fninit
        control 0x27F
        fld1
        fild dword [three]
        fdivp
        fstp tword [value]
        is [value], 0xAAAAA800
        is [value + 4], 0xAAAAAAAA
        end_check
        check "a load of a denormal of 32 bits sets DE, of 80 bits does not", "AMD APM vol. 1, Denormalized-Operand Exception"
        fninit
        mov dword [value], 1
        fld dword [value]
        status_is 0x3F, 2
        fninit
        fld tword [denormal80]
        status_is 0x3F, 0
        end_check
        check "unmasked: #MF comes at the next waiting instruction", "AMD APM vol. 2, #MF - x87 Floating-Point Exception-Pending"
        fninit
        control 0x37B
        fld1
        fldz
        trying
        fdivp
        nop
        fnstsw ax
.wait:  fwait
        tried
        fnclex
        is [ex_vector], MF
        is [ex_rip], .wait
        end_check
        check "an unmasked divide by zero leaves the operands", "AMD APM vol. 1, Unmasked Responses"
        fninit
        control 0x37B
        fldz
        fld1
        fdiv st1
        fnstsw ax
        mov ebx, eax
        fnclex
        fstp dword [value]
        is [value], 0x3F800000
        and ebx, 0x8084
        is ebx, 0x8084
        end_check
        check "FNSTENV stores the control word, then masks exceptions", "AMD APM vol. 2, x87 Environment; Intel SDM vol. 1, x87 FPU State Image"
        fninit
        control 0x37B
.fld:   fld dword [three]
        fnstenv [area]
        fnstcw [value]
        movzx eax, word [value]
        is eax, 0x37F
        movzx eax, word [area]
        is eax, 0x37B
        end_check
        check "FSAVE of 32 bits is 108 bytes and initializes; FRSTOR brings all back", "AMD APM vol. 3, FSAVE; FRSTOR"
        fninit
        fldpi
        fld1
        mov dword [area + 108], 0x77777777
        fnsave [area]
        is [area + 108], 0x77777777
        status_is 0xFFFF, 0
        movzx eax, word [area + 8]
        is eax, 0x0FFF
        frstor [area]
        fstp dword [value]
        is [value], 0x3F800000
        fstp dword [value]
        is [value], 0x40490FDB
        end_check
        check "environments of 16 bits: 14 bytes", "AMD APM vol. 3, FSTENV"
        fninit
        fld1
        mov dword [area + 12], 0x77777777
        mov word [area + 14], 0x7777
        o16 fnstenv [area]
        movzx eax, word [area + 4]
        is eax, 0x3FFF
        movzx eax, word [area + 14]
        is eax, 0x7777
        end_check
        check "FIST of what does not fit: IE and the indefinite integer", "AMD APM vol. 3, FIST"
        fninit
        fld dword [huge]
        fist dword [value]
        status_is 1, 1
        is [value], 0x80000000
        fnclex
        fistp word [value]
        movzx eax, word [value]
        is eax, 0x8000
        end_check
        check "FBLD and FBSTP", "AMD APM vol. 3, FBLD; FBSTP"
        fninit
        mov dword [value], 0x87654321
        mov dword [value + 4], 0x09
        mov word [value + 8], 0x8000
        fbld [value]
        fbstp [value + 16]
        is [value + 16], 0x87654321
        movzx eax, word [value + 24]
        is eax, 0x8000
        end_check
        check "FPREM: C2 clear when done, quotient in C0, C3, C1", "AMD APM vol. 3, FPREM"
        fninit
        fild dword [three]
        fild dword [seventeen]
        fprem
        status_is 0x4700, 0x0300        ; 17 / 3 = 5: C0 = 1, C3 = 0, C1 = 1
        fistp dword [value]
        is [value], 2
        end_check
        check "CR0.EM: x87 is #NM, MMX and SSE are #UD", "AMD APM vol. 2, Emulation (EM) Bit"
        mov eax, cr0
        or eax, 4
        mov cr0, eax
        raises NM, 0, fld1
        raises UD, 0, emms
        raises UD, 0, xorps xmm0, xmm0
        mov eax, cr0
        and eax, ~4
        mov cr0, eax
        end_check
        check "CR0.TS: #NM for x87, MMX, SSE; FWAIT with MP alone", "AMD APM vol. 2, Task Switched (TS) Bit; Monitor Coprocessor (MP) Bit"
        mov eax, cr0
        or eax, 8
        mov cr0, eax
        raises NM, 0, fld1
        raises NM, 0, paddb mm0, mm1
        raises NM, 0, xorps xmm0, xmm0
        raises NM, 0, fwait
        mov eax, cr0
        and eax, ~2
        mov cr0, eax
        runs fwait
        mov eax, cr0
        and eax, ~8
        or eax, 2
        mov cr0, eax
        end_check
        check "CR4.OSFXSR clear: SSE is #UD, FXSAVE and MMX are not", "AMD APM vol. 2, OSFXSR Bit"
        mov eax, cr4
        and eax, ~0x200
        mov cr4, eax
        raises UD, 0, addps xmm0, xmm1
        runs fxsave [area]
        runs paddb mm0, mm1
        emms
        mov eax, cr4
        or eax, 0x200
        mov cr4, eax
        end_check
        check "an MMX instruction makes every tag valid, TOP 0; its exponent is all ones", "AMD APM vol. 1, MMX Instructions and the x87 Tag Word"
        fninit
        fld1
        movd mm0, eax
        fnstenv [area]
        movzx eax, word [area + 4]
        and eax, 0x3800
        is eax, 0
        fninit
        movq mm0, [three]
        fnsave [area]
        movzx eax, word [area + 28 + 8]
        is eax, 0xFFFF
        end_check
        check "EMMS empties the tags", "AMD APM vol. 3, EMMS"
        movd mm0, eax
        emms
        fnstenv [area]
        movzx eax, word [area + 8]
        is eax, 0xFFFF
        end_check
        check "FXSAVE: MXCSR, its mask, abridged tags, misaligned is #GP", "AMD APM vol. 3, FXSAVE"
        fninit
        fld1
        mxcsr 0x1F80
        fxsave [area]
        movzx eax, byte [area + 4]
        is eax, 0x80
        is [area + 24], 0x1F80
        mov eax, [area + 28]
        and eax, 0xFFBF
        is eax, 0xFFBF
        raises GP, 0, fxsave [area + 8]
        end_check
        check "FXRSTOR of reserved MXCSR bits is #GP", "AMD APM vol. 3, FXRSTOR"
        fxsave [area]
        or dword [area + 24], 0x40000
        raises GP, 0, fxrstor [area]
        end_check
        check "LDMXCSR of reserved bits is #GP", "AMD APM vol. 3, LDMXCSR"
        mov dword [value], 0x11F80
        raises GP, 0, ldmxcsr [value]
        end_check
        check "MXCSR: flags stay until they are cleared", "AMD APM vol. 1, MXCSR Register"
        mxcsr 0x1F80
        movss xmm0, [three_f]
        divss xmm0, [zero_f]
        mxcsr_is 4
        movss xmm0, [three_f]
        sqrtss xmm0, xmm0
        mxcsr_is 0x24
        end_check
        check "an unmasked exception is #XF at the instruction, the destination stays", "AMD APM vol. 2, #XF - SIMD Floating-Point Exception"
        mxcsr 0x1D80
        movss xmm0, [three_f]
        raises XF, 0, divss xmm0, [zero_f]
        movd eax, xmm0
        is eax, 0x40400000
        mxcsr_is 4
        mxcsr 0x1F80
        end_check
        check "an unmasked exception without CR4.OSXMMEXCPT is #UD", "AMD APM vol. 2, OSXMMEXCPT Bit"
        mov eax, cr4
        and eax, ~0x400
        mov cr4, eax
        mxcsr 0x1D80
        movss xmm0, [three_f]
        raises UD, 0, divss xmm0, [zero_f]
        mov eax, cr4
        or eax, 0x400
        mov cr4, eax
        mxcsr 0x1F80
        end_check
        check "a flag set by hand raises nothing by itself", "AMD APM vol. 1, MXCSR Register"
        mxcsr 0x1D84
        movss xmm0, [three_f]
        runs addss xmm0, xmm0
        mxcsr 0x1F80
        end_check
        check "DAZ takes a denormal for zero, FTZ makes a tiny result zero", "AMD APM vol. 1, Denormals-Are-Zeros; Flush-to-Zero"
        mxcsr 0x1FC0
        movd xmm0, [one_denormal]
        addss xmm0, xmm0
        movd eax, xmm0
        is eax, 0
        mxcsr_is 0
        mxcsr 0x9F80
        movd xmm0, [tiny]
        mulss xmm0, xmm0
        movd eax, xmm0
        is eax, 0
        mxcsr_is 0x30
        mxcsr 0x1F80
        end_check
        check "MOVAPS misaligned is #GP, MOVUPS is not", "AMD APM vol. 3, MOVAPS"
        raises GP, 0, movaps xmm0, [area + 4]
        runs movups xmm0, [area + 4]
        end_check
        check "CVTTSS2SI of NaN: the indefinite integer and IE", "AMD APM vol. 4, CVTTSS2SI"
        mxcsr 0x1F80
        movd xmm0, [nan_f]
        cvttss2si eax, xmm0
        is eax, 0x80000000
        mxcsr_is 1
        end_check
        check "MINSS and MAXSS give the second operand for NaN and for two zeros", "AMD APM vol. 4, MINSS"
        movd xmm0, [nan_f]
        movss xmm1, [three_f]
        minss xmm0, xmm1
        movd eax, xmm0
        is eax, 0x40400000
        movss xmm0, [three_f]
        movd xmm1, [nan_f]
        maxss xmm0, xmm1
        movd eax, xmm0
        is eax, [nan_f]
        end_check
        check "COMISS of NaN: ZF, PF and CF; UCOMISS of a quiet NaN without IE", "AMD APM vol. 4, UCOMISS"
        mxcsr 0x1F80
        movd xmm0, [nan_f]
        ucomiss xmm0, xmm0
        pushfd
        pop eax
        and eax, 0x8D5
        is eax, 0x45
        mxcsr_is 0
        comiss xmm0, xmm0
        mxcsr_is 1
        mxcsr 0x1F80
        end_check
        check "MASKMOVDQU with an empty mask", "AMD APM vol. 4, MASKMOVDQU"
        mov edi, area
        mov dword [area], 0x55
        pxor xmm1, xmm1
        pcmpeqd xmm0, xmm0
        maskmovdqu xmm0, xmm1
        is [area], 0x55
        end_check
        check "POPCNT: ZF of the source, other flags clear", "AMD APM vol. 3, POPCNT"
        need 1, ecx, 23
        mov ecx, 0xF0F0
        stc
        popcnt eax, ecx
        pushfd
        pop ebx
        is eax, 8
        and ebx, 0x8D5
        is ebx, 0
        end_check
        check "LZCNT: of 0 the width and CF; of the top bit 0 and ZF", "AMD APM vol. 3, LZCNT"
        need 0x80000001, ecx, 5
        xor ecx, ecx
        lzcnt eax, ecx
        pushfd
        pop ebx
        is eax, 32
        and ebx, 0x41
        is ebx, 1
        mov ecx, 0x80000000
        lzcnt eax, ecx
        pushfd
        pop ebx
        is eax, 0
        and ebx, 0x41
        is ebx, 0x40
        end_check
        check "EXTRQ and INSERTQ", "AMD APM vol. 4, EXTRQ; INSERTQ"
        need 0x80000001, ecx, 6
        mov dword [area], 0x89ABCDEF
        mov dword [area + 4], 0x01234567
        movq xmm0, [area]
        db 0x66, 0x0F, 0x78, 0xC0, 8, 4         ; EXTRQ XMM0, 8, 4
        movd eax, xmm0
        is eax, 0xDE
        movq xmm1, [area]
        db 0xF2, 0x0F, 0x78, 0xC8, 8, 16        ; INSERTQ XMM1, XMM0, 8, 16
        movd eax, xmm1
        is eax, 0x89DECDEF
        end_check
        check "CLFLUSH, PREFETCH, LFENCE, SFENCE and MFENCE run", "AMD APM vol. 3, CLFLUSH"
        trying
        clflush [area]
        prefetcht0 [0xFFFFFFFF]
        lfence
        sfence
        mfence
        tried
        is [ex_vector], NONE
        end_check
        ret
section .data
align 16
area:   times 160 dd 0
denormal80: dq 1
        dw 0
three:  dd 3, 0
seventeen: dd 17
huge:   dd 0x7F000000
three_f: dd 0x40400000
zero_f: dd 0
nan_f:  dd 0x7FC12345
one_denormal: dd 1
tiny:   dd 0x01000000
section .text
%include "finish.inc"
