"""What native changes of privilege mean for the engine: modes at either level, blocks, the order of accesses."""

from __future__ import annotations

from collections.abc import Callable

from engine.assembly import assemble
from engine.harness import Guest
from engine.test_privilege import LSTAR, TURNS, prepare, run_both
from trapgate.arch import layout
from trapgate.engine.native_core import MOST_TRANSLATIONS


def test_the_time_stamp_is_forbidden_to_users_by_a_later_write(guest: Callable[[], Guest]) -> None:
    """CR4.TSD says nothing at CPL 0, but much at the CPL 3 that native code goes to from there."""
    program = assemble(
        64,
        """
        0f 31                 rdtsc
        0f 05                 syscall
        0f 31                 rdtsc
        bf 04 00 00 00        mov edi, 4
        0f 05                 syscall
        forbidden:
        0f 31                 rdtsc
        f4                    hlt
        90*239
        call:
        0f 20 e0              mov rax, cr4
        48 09 f8              or rax, rdi
        0f 22 e0              mov cr4, rax
        48 0f 07              sysret
        """,
    )

    def change(g: Guest) -> None:
        g.load(program)
        g.processor.write_msr(LSTAR, program["call"])
        g.set(rdi=0)

    native, _ = run_both(guest, change, 100)
    assert [(vector, rip) for vector, _, rip, _ in native.processor.recent_exceptions] == [(13, program["forbidden"])]


def test_iretq_accesses_memory_in_one_order(guest: Callable[[], Guest]) -> None:
    """With the stack's page next to be replaced in the TLB, and the GDT's not there, the order of its reads counts."""
    program = assemble(
        64,
        """
        bf 00 00 01 00     mov edi, 0x10000
        89 fe              mov esi, edi
        41 bc 20 00 00 00  mov r12d, 32
        again:
        48 89 e3           mov rbx, rsp
        0f 01 7c 24 f8     invlpg [rsp-8]
        8c d0              mov eax, ss
        50                 push rax
        53                 push rbx
        9c                 pushfq
        8c c8              mov eax, cs
        50                 push rax
        41 55              push r13  ; next
        44 89 e1           mov ecx, r12d
        touch:
        8b 06              mov eax, [rsi]
        81 c6 00 10 00 00  add esi, 0x1000
        81 fe 00 00 08 00  cmp esi, 0x80000
        0f 44 f7           cmove esi, edi
        ff c9              dec ecx
        75 eb              db 0x75, 0xeb  ; jnz touch
        48 cf              iretq
        next:
        41 ff c4           inc r12d
        41 83 fc 64        cmp r12d, byte 100
        75 c9              db 0x75, 0xc9  ; jnz again
        f4                 hlt
        """,
    )

    def change(g: Guest) -> None:
        g.enter_long(cpl=0).load(program)
        g.set(r13=program["next"])

    native, _ = run_both(guest, change, 100_000)
    assert native["r12"] == 100
    assert native.counter("dtlb_l2_hits") > 64


def test_both_privileges_are_among_the_modes_that_are_known(guest: Callable[[], Guest]) -> None:
    """When there are too many modes, all go; what is in use afterwards is dropped with the rest the next time."""
    g = guest()
    prepare(g)
    p = g.processor
    for base in range(MOST_TRANSLATIONS - 1):
        p._translation_of(p.mode()._replace(code_base=base + 1))
    g.run(100)
    assert p._privileges is not None
    assert set(p._privileges) <= set(p.blocks._translations)
    p.mode_changed()
    for base in range(MOST_TRANSLATIONS):
        p._translation_of(p.mode()._replace(code_base=base + 1))
    p.state.set(layout.CR0, p.cr0 | 8)  # TS makes it another mode
    p.mode_changed()
    g.run(100)
    assert set(p._privileges) == set(p.blocks._translations)
    p.blocks.drop_all()
    p.redirected = True
    g.run(3000)
    assert p.exception_counts == {14: TURNS, 13: 1}


def test_blocks_lead_to_blocks_of_their_own_mode(guest: Callable[[], Guest]) -> None:
    """Regions of the hot tier are made of them, and have one mode."""
    g = guest()
    prepare(g)
    g.run(3000)
    blocks = g.processor.blocks.valid_blocks()
    assert {block.translation.mode.decode.cpl for block in blocks} == {0, 3}
    assert all(to.translation is block.translation for block in blocks for to in g.processor.blocks.targets_of(block))
