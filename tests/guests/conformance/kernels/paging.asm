; Paging: accessed and dirty bits, WP, user and supervisor pages, PSE, PAE, reserved bits, global pages, INVLPG.
%include "prelude.inc"
DIRECTORY equ 0x200000
TABLE  equ 0x201000     ; for PAGES: entry n is page n, at 400000h + n * 1000h
PAGES  equ 0x800000
BASE   equ 0x400000

%macro entry 2          ; page of PAGES, entry; its translation goes
        mov dword [TABLE + 4 * %1], %2
        invlpg [PAGES + 0x1000 * %1]
%endmacro
%macro entry_is 2
        mov eax, [TABLE + 4 * %1]
        is eax, %2
%endmacro

test_body:
        call paging
        check "a read sets A, not D", "AMD APM vol. 2, Accessed (A) Bit; Dirty (D) Bit"
        entry 1, BASE + 0x1007
        mov eax, [PAGES + 0x1000]
        entry_is 1, BASE + 0x1027
        end_check
        check "a write sets A and D", "AMD APM vol. 2, Dirty (D) Bit"
        entry 1, BASE + 0x1007
        mov [PAGES + 0x1000], eax
        entry_is 1, BASE + 0x1067
        end_check
        check "a write after a read sets D", "AMD APM vol. 2, Dirty (D) Bit"
        entry 1, BASE + 0x1007
        mov eax, [PAGES + 0x1000]
        mov [PAGES + 0x1000], eax
        entry_is 1, BASE + 0x1067
        end_check
        check "a refused write sets no D", "AMD APM vol. 2, Dirty (D) Bit"
        mov eax, cr0
        or eax, 0x10000
        mov cr0, eax
        entry 1, BASE + 0x1005
        trying
        mov [PAGES + 0x1000], eax
        tried
        is [ex_vector], PF
        is [ex_error], 3
        mov eax, [TABLE + 4]
        and eax, 0x40
        is eax, 0
        end_check
        check "without WP level 0 writes read-only pages, and D is set", "AMD APM vol. 2, Write Protect (WP) Bit"
        mov eax, cr0
        and eax, ~0x10000
        mov cr0, eax
        entry 1, BASE + 0x1005
        runs mov [PAGES + 0x1000], eax
        entry_is 1, BASE + 0x1065
        end_check
        check "a change of WP acts at once", "AMD APM vol. 2, Write Protect (WP) Bit"
        mov eax, cr0
        and eax, ~0x10000
        mov cr0, eax
        entry 1, BASE + 0x1005
        mov [PAGES + 0x1000], ecx
        or eax, 0x10000
        mov cr0, eax
        trying
        mov [PAGES + 0x1000], ecx
        tried
        is [ex_vector], PF
        end_check
        check "a supervisor page from ring 3 is #PF with the user bit", "AMD APM vol. 2, Page-Fault Error Code"
        entry 1, BASE + 0x1003
        trying
        user %$u
%$u:    mov eax, [PAGES + 0x1000]
        tried
        is [ex_vector], PF
        is [ex_error], 5
        is [ex_cr2], PAGES + 0x1000
        end_check
        check "a read-only page from ring 3, whatever WP", "AMD APM vol. 2, Read/Write (R/W) Bit"
        mov eax, cr0
        and eax, ~0x10000
        mov cr0, eax
        entry 1, BASE + 0x1005
        trying
        user %$u
%$u:    mov [PAGES + 0x1000], eax
        tried
        is [ex_vector], PF
        is [ex_error], 7
        end_check
        check "the directory's rights count as much as the table's", "AMD APM vol. 2, Protection across Paging Levels"
        entry 1, BASE + 0x1007
        and dword [DIRECTORY + 8], ~4
        mov eax, cr3
        mov cr3, eax
        trying
        user %$u
%$u:    mov eax, [PAGES + 0x1000]
        tried
        or dword [DIRECTORY + 8], 4
        mov eax, cr3
        mov cr3, eax
        is [ex_vector], PF
        is [ex_error], 5
        end_check
        check "the GDT is read at level 0, whoever asks", "AMD APM vol. 2, Page-Protection Checks"
        entry 1, BASE + 0x1003
        mov esi, gdt
        mov edi, PAGES + 0x1000
        mov ecx, 128
        rep movsd
        mov word [value], 0x1FF
        mov dword [value + 2], PAGES + 0x1000
        lgdt [value]
        trying
        user %$u
%$u:    push dword DATA3
        pop fs
        int END
        tried
        lgdt [gdtr]
        is [ex_vector], END
        end_check
        check "a missing page is not kept by the TLB: no INVLPG after it appears", "AMD APM vol. 2, Translation-Lookaside Buffer"
        entry 1, 0
        trying
        mov eax, [PAGES + 0x1000]
        tried
        is [ex_vector], PF
        is [ex_error], 0
        mov dword [TABLE + 4], BASE + 0x1007
        runs mov eax, [PAGES + 0x1000]
        end_check
        check "INVLPG makes a changed entry count", "AMD APM vol. 3, INVLPG"
        mov dword [BASE + 0x1000], 1
        mov dword [BASE + 0x2000], 2
        entry 1, BASE + 0x1007
        mov eax, [PAGES + 0x1000]
        mov dword [TABLE + 4], BASE + 0x2007
        invlpg [PAGES + 0x1FFF]
        mov eax, [PAGES + 0x1000]
        is eax, 2
        end_check
        check "a write of CR3 makes changed entries count", "AMD APM vol. 2, TLB Management"
        entry 1, BASE + 0x1007
        mov eax, [PAGES + 0x1000]
        mov dword [TABLE + 4], BASE + 0x2007
        mov eax, cr3
        mov cr3, eax
        mov eax, [PAGES + 0x1000]
        is eax, 2
        end_check
        check "clearing CR4.PGE flushes global pages too", "AMD APM vol. 2, Global Pages"
        mov eax, cr4
        or eax, 0x80
        mov cr4, eax
        entry 1, BASE + 0x1107
        mov eax, [PAGES + 0x1000]
        mov dword [TABLE + 4], BASE + 0x2107
        mov eax, cr4
        and eax, ~0x80
        mov cr4, eax
        mov eax, [PAGES + 0x1000]
        is eax, 2
        end_check
        check "INVLPG takes global pages", "AMD APM vol. 3, INVLPG"
        mov eax, cr4
        or eax, 0x80
        mov cr4, eax
        entry 1, BASE + 0x1107
        mov eax, [PAGES + 0x1000]
        mov dword [TABLE + 4], BASE + 0x2107
        invlpg [PAGES + 0x1000]
        mov ebx, [PAGES + 0x1000]
        entry 1, BASE + 0x1007
        mov eax, cr4
        and eax, ~0x80
        mov cr4, eax
        is ebx, 2
        end_check
        check "INVLPG at CPL 3 is #GP, with a register #UD", "AMD APM vol. 3, INVLPG"
        trying
        user %$u
%$u:    invlpg [PAGES]
        tried
        is [ex_vector], GP
        raises UD, 0, db 0x0F, 0x01, 0xF8 + 2
        end_check
        check "an access across two pages: CR2 is the first byte of the missing one", "AMD APM vol. 2, CR2 Register"
        entry 1, BASE + 0x1007
        entry 2, 0
        trying
        mov eax, [PAGES + 0x1FFD]
        tried
        is [ex_cr2], PAGES + 0x2000
        trying
        mov [PAGES + 0x1FFE], eax
        tried
        is [ex_error], 2
        is [ex_cr2], PAGES + 0x2000
        end_check
        check "an instruction across two pages: a fault of the second names its first byte", "AMD APM vol. 2, CR2 Register"
        entry 2, 0
        mov byte [PAGES + 0x1FFF], 0xB8         ; MOV EAX, imm32
        trying
        jmp CODE0:PAGES + 0x1FFF
        tried
        is [ex_vector], PF
        is [ex_cr2], PAGES + 0x2000
        is [ex_rip], PAGES + 0x1FFF
        end_check
        check "4 MB pages: D in the directory, reserved bits are #PF", "AMD APM vol. 2, 4-Mbyte Page Translation"
        mov dword [DIRECTORY + 12], 0x400087
        mov eax, cr3
        mov cr3, eax
        mov dword [BASE + 0x123450], 0x5A5A
        mov eax, [0xC00000 + 0x123450]
        is eax, 0x5A5A
        mov [0xC00000 + 0x123450], ebx
        mov eax, [DIRECTORY + 12]
        is eax, 0x4000E7
        or dword [DIRECTORY + 12], 0x200000
        mov eax, cr3
        mov cr3, eax
        trying
        mov eax, [0xC00000]
        tried
        mov dword [DIRECTORY + 12], 0xC00087
        mov eax, cr3
        mov cr3, eax
        is [ex_vector], PF
        is [ex_error], 9
        end_check
        check "PS without CR4.PSE is an ordinary entry", "AMD APM vol. 2, Page-Size Extensions (PSE) Bit"
        ; The directory's entry 3 names TABLE with the PS bit; all other 4 MB pages are not used while PSE is clear.
        call without_pse
        is eax, 0x77
        end_check
        check "PAE: three levels; a reserved bit of an entry is #PF", "AMD APM vol. 2, PAE Paging"
        call paging_off
        call pae
        mov dword [BASE + 0x1000], 0x1234
        mov eax, [PAGES + 0x1000]
        is eax, 0x1234
        mov eax, [0x20B000 + 8]         ; A of the table's entry
        and eax, 0x20
        is eax, 0x20
        mov dword [0x20B000 + 12], 0x00010000
        invlpg [PAGES + 0x1000]
        trying
        mov eax, [PAGES + 0x1000]
        tried
        mov dword [0x20B000 + 12], 0
        is [ex_vector], PF
        end_check
        check "PAE: the directory pointers are read when CR3 is written", "AMD APM vol. 2, Page-Directory-Pointer Entries; Intel SDM vol. 3, PDPTE Registers"
        mov dword [0x208000 + 8], 0     ; the second GB disappears from memory only
        invlpg [0x40000000]
        mov eax, [0x40007000]
        mov eax, cr3
        mov cr3, eax
        trying
        mov eax, [0x40007000]
        tried
        is [ex_vector], PF
        end_check
        check "PAE: reserved bits in a directory pointer make MOV CR3 #GP", "AMD APM vol. 2, CR3 Register; vol. 3, MOV CRn"
        mov dword [0x208000 + 16], 0x209003     ; R/W is reserved
        mov eax, cr3
        trying
        mov cr3, eax
        tried
        mov dword [0x208000 + 16], 0
        is [ex_vector], GP
        is [ex_error], 0
        end_check
        check "PG with PE clear is #GP", "AMD APM vol. 2, Paging Enable (PG) Bit"
        call paging_off
        trying
        real pg_without_pe
        tried
        is [ex_vector], GP
        end_check
        ret

paging_off:
        push eax
        mov eax, cr0
        and eax, 0x7FFFFFFF
        mov cr0, eax
        mov eax, cr4
        and eax, ~0xB0
        mov cr4, eax
        pop eax
        ret
paging: mov edi, DIRECTORY
        xor ecx, ecx
.fill:  mov eax, ecx
        shl eax, 22
        or eax, 0x87
        mov [edi + ecx * 4], eax
        inc ecx
        cmp ecx, 1024
        jne .fill
        mov dword [DIRECTORY + 8], TABLE + 7
        xor ecx, ecx
.table: mov eax, ecx
        shl eax, 12
        add eax, BASE + 7
        mov [TABLE + ecx * 4], eax
        inc ecx
        cmp ecx, 1024
        jne .table
        mov cr3, edi
        mov eax, cr4
        or al, 0x10
        mov cr4, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        ret
pae:    mov edi, 0x208000
        mov ecx, 0x5000 / 4
        xor eax, eax
        rep stosd
        mov dword [0x208000], 0x209001
        mov dword [0x208008], 0x20A001
        mov eax, 0x87
        xor ecx, ecx
.fill:  mov [0x209000 + ecx * 8], eax
        mov [0x20A000 + ecx * 8], eax
        add eax, 0x200000
        inc ecx
        cmp ecx, 512
        jne .fill
        mov dword [0x209000 + 8 * (PAGES >> 21)], 0x20B007
        mov eax, BASE + 7
        xor ecx, ecx
.table: mov [0x20B000 + ecx * 8], eax
        add eax, 0x1000
        inc ecx
        cmp ecx, 512
        jne .table
        mov eax, cr4
        or al, 0x20
        mov cr4, eax
        mov eax, 0x208000
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        ret
without_pse:            ; runs in the first 4 MB, which get a table of their own
        call paging_off
        mov edi, 0x202000
        mov eax, 7
        mov ecx, 1024
.fill:  mov [edi], eax
        add edi, 4
        add eax, 0x1000
        loop .fill
        mov dword [DIRECTORY], 0x202007
        mov dword [DIRECTORY + 12], TABLE + 0x87
        mov dword [TABLE], BASE + 7
        mov dword [BASE], 0x77
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        mov eax, [0xC00000]
        push eax
        call paging_off
        mov dword [DIRECTORY], 0x87
        pop eax
        ret
low_code
pg_without_pe:
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        jmp leave_real
main_code
%include "finish.inc"
