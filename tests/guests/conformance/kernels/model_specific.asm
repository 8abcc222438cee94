; MSRs: MTRRs, PAT, machine check, TSC, APIC base; CPUID; TSC instructions and CR4.TSD.
%include "prelude.inc"
%macro read_msr 1
        mov ecx, %1
        rdmsr
%endmacro
%macro write_msr 3      ; number, high, low
        mov ecx, %1
        mov edx, %2
        mov eax, %3
        wrmsr
%endmacro
test_body:
        check "an MSR that is not there is #GP(0), read and written", "AMD APM vol. 3, RDMSR; WRMSR"
        mov ecx, 0x12345678
        raises GP, 0, rdmsr
        mov ecx, 0x12345678
        raises GP, 0, wrmsr
        end_check
        check "MTRRcap is read-only, and names 8 variable ranges", "AMD APM vol. 2, MTRR Capability Register"
        read_msr 0xFE
        and eax, 0x5FF
        is eax, 0x508
        mov ecx, 0xFE
        raises GP, 0, wrmsr
        end_check
        check "MTRRdefType: E, FE and a type; a reserved type is #GP", "AMD APM vol. 2, MTRR Default-Type Register"
        read_msr 0x2FF
        mov esi, eax
        write_msr 0x2FF, 0, 0xC06
        read_msr 0x2FF
        is eax, 0xC06
        mov ecx, 0x2FF
        xor edx, edx
        mov eax, 0xC02
        raises GP, 0, wrmsr
        write_msr 0x2FF, 0, esi
        end_check
        check "a variable MTRR holds base and mask", "AMD APM vol. 2, Variable-Range MTRRs"
        write_msr 0x20E, 0, 0xD0000001
        write_msr 0x20F, 0xFF, 0xF8000800
        read_msr 0x20E
        is eax, 0xD0000001
        is edx, 0
        read_msr 0x20F
        is eax, 0xF8000800
        is edx, 0xFF
        write_msr 0x20F, 0, 0
        write_msr 0x20E, 0, 0
        end_check
        check "fixed MTRRs hold eight types", "AMD APM vol. 2, Fixed-Range MTRRs"
        write_msr 0x26F, 0x06060505, 0x04040101
        read_msr 0x26F
        is eax, 0x04040101
        is edx, 0x06060505
        end_check
        check "PAT after reset is WB, WT, UC-, UC twice", "AMD APM vol. 2, PAT Register"
        read_msr 0x277
        is eax, 0x00070406
        is edx, 0x00070406
        end_check
        check "PAT: a reserved type is #GP", "AMD APM vol. 2, PAT Register"
        mov ecx, 0x277
        mov edx, 0x00070406
        mov eax, 0x00070402
        raises GP, 0, wrmsr
        end_check
        check "PAT holds the six types", "AMD APM vol. 2, PAT Register"
        write_msr 0x277, 0x06050401, 0x00070605
        read_msr 0x277
        is eax, 0x00070605
        is edx, 0x06050401
        write_msr 0x277, 0x00070406, 0x00070406
        end_check
        check "machine check: banks, status cleared by 0, #GP for another value", "AMD APM vol. 2, Machine-Check MSRs"
        read_msr 0x179
        movzx eax, al
        cmp eax, 1
        setae al
        movzx eax, al
        is eax, 1
        write_msr 0x401, 0, 0
        read_msr 0x401
        is eax, 0
        mov ecx, 0x401
        xor edx, edx
        mov eax, 5
        raises GP, 0, wrmsr
        end_check
        check "MCG_STATUS: MCIP is clear and can be written", "AMD APM vol. 2, Machine-Check Global-Status Register"
        read_msr 0x17A
        is eax, 0
        write_msr 0x17A, 0, 4
        read_msr 0x17A
        is eax, 4
        write_msr 0x17A, 0, 0
        end_check
        check "TSC counts, and can be set through its MSR", "AMD APM vol. 2, Time-Stamp Counter"
        rdtsc
        mov esi, eax
        mov edi, edx
        rdtsc
        sub eax, esi
        sbb edx, edi
        setc bl
        movzx ebx, bl
        is ebx, 0
        write_msr 0x10, 0x55, 0
        rdtsc
        is edx, 0x55
        end_check
        check "CR4.TSD: RDTSC is #GP at CPL 3, not at CPL 0", "AMD APM vol. 2, Time-Stamp Disable (TSD) Bit"
        mov eax, cr4
        or eax, 4
        mov cr4, eax
        runs rdtsc
        trying
        user %$u
%$u:    rdtsc
        tried
        mov ebx, [ex_vector]
        mov eax, cr4
        and eax, ~4
        mov cr4, eax
        is ebx, GP
        end_check
        check "RDTSCP gives TSC_AUX", "AMD APM vol. 3, RDTSCP"
        mov eax, 0x80000001
        cpuid
        bt edx, 27
        skip_if nc, "no RDTSCP"
        write_msr 0xC0000103, 0, 0x1234
        rdtscp
        is ecx, 0x1234
        end_check
        check "RDPMC at CPL 3 needs CR4.PCE", "AMD APM vol. 3, RDPMC"
        trying
        user %$u
%$u:    xor ecx, ecx
        rdpmc
        tried
        is [ex_vector], GP
        end_check
        check "APIC base: enabled, bootstrap processor, FEE00000h", "AMD APM vol. 2, APIC Base Address Register"
        read_msr 0x1B
        and eax, 0xFFFFF900
        is eax, 0xFEE00900
        end_check
        check "CPUID's APIC bit follows the APIC base register", "AMD APM vol. 2, APIC Base Address Register"
        read_msr 0x1B
        mov esi, eax
        and eax, ~0x800
        wrmsr
        mov eax, 1
        cpuid
        mov edi, edx
        shr edi, 9
        and edi, 1
        mov ecx, 0x1B
        xor edx, edx
        mov eax, esi
        wrmsr
        is edi, 0
        end_check
        check "reserved bits of CR4 and EFER are #GP(0)", "AMD APM vol. 2, CR4 Register; EFER Register"
        mov eax, cr4
        or eax, 0x80000000
        raises GP, 0, mov cr4, eax
        read_msr 0xC0000080
        or eax, 0x80000000
        raises GP, 0, wrmsr
        end_check
        check "MOV to and from CR1, CR5 and CR9 is #UD", "AMD APM vol. 3, MOV CRn"
        raises UD, 0, db 0x0F, 0x20, 0xC8
        raises UD, 0, db 0x0F, 0x22, 0xE8
        end_check
        check "CR0: NW without CD is #GP", "AMD APM vol. 2, CR0 Register"
        mov eax, cr0
        or eax, 0x20000000
        raises GP, 0, mov cr0, eax
        end_check
        check "CR0.ET reads 1 whatever is written", "AMD APM vol. 2, Extension Type (ET) Bit"
        mov eax, cr0
        and eax, ~0x10
        mov cr0, eax
        mov eax, cr0
        and eax, 0x10
        is eax, 0x10
        end_check
        check "CPUID is there: EFLAGS.ID can be toggled", "AMD APM vol. 3, CPUID"
        pushfd
        pop ebx
        mov ecx, ebx
        xor ecx, 0x200000
        push ecx
        popfd
        pushfd
        pop ecx
        push ebx
        popfd
        xor ecx, ebx
        and ecx, 0x200000
        is ecx, 0x200000
        end_check
        check "WBINVD and INVD run at CPL 0; WBINVD is #GP at CPL 3", "AMD APM vol. 3, WBINVD"
        runs wbinvd
        trying
        user %$u
%$u:    wbinvd
        tried
        is [ex_vector], GP
        end_check
        check "SYSENTER with a null CS MSR is #GP(0)", "AMD APM vol. 3, SYSENTER; SYSEXIT"
        write_msr 0x174, 0, 0
        raises GP, 0, sysenter
        end_check
        ret
%include "finish.inc"
