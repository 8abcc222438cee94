"""The processor connected to native code: entry points, callbacks, pins, time, and finding the code at an address.

The budget that native code counts down packs two numbers: (modelled cycles << 32) + instructions. Its cycle part is 0
at the cycle `_zero`, the next deadline; the instruction part starts at all ones (LOW), so that it never borrows.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Mapping

import trapgate.isa.system  # noqa: F401  (registers the Python forms)
from trapgate.arch import layout, vectors, vmcb
from trapgate.arch.costs import DEFAULT_COSTS, Costs
from trapgate.arch.costs import profile as cost_profile
from trapgate.arch.cpuid import CpuProfile
from trapgate.arch.paging import PF_I
from trapgate.arch.registers import CR4_TSD
from trapgate.cpu import tlb, walk_memory
from trapgate.cpu.access import MXCSR_MASKS
from trapgate.cpu.faults import Fault, Unimplemented, VmExit
from trapgate.cpu.lookup import NON_CANONICAL
from trapgate.cpu.mode import KeptMode, Mode
from trapgate.cpu.walk import NESTED_PAGE_FAULT
from trapgate.engine import native_calls
from trapgate.engine.block import Block, Translation
from trapgate.engine.blocks import BlockStore
from trapgate.engine.code_peek import CodePeek
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.hot.tier import HotTier
from trapgate.engine.profile import RunProfile
from trapgate.engine.record import CODE_SIZE
from trapgate.isa.decode import Decoder
from trapgate.isa.ir.value import signed
from trapgate.isa.processor import PYTHON_FORMS, PythonForm
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

LOW = 0xFFFF_FFFF
_M64 = (1 << 64) - 1
_CPL, _EXIT_BUDGET = layout.CPL >> 3, layout.EXIT_BUDGET >> 3
#: Cycles between samples, and so the longest stretch of native code: a request to stop the run is looked at in between.
SLICE = 1_000_000
#: Modes whose blocks are kept; one more, for the other privilege of the last, does not matter.
MOST_TRANSLATIONS = 256
#: How many of the last exceptions a report shows.
RECENT_EXCEPTIONS = 8


class NativeCore(CodePeek):
    """The processor connected to its native code. `acknowledge` gives the vector when INTR is taken.

    `hot` is when the hot tier is used (engine/hot/tier.py: HotTier.chosen).
    """

    def __init__(
        self,
        profile: CpuProfile,
        memory: PhysicalMemory,
        bus: Bus,
        clock: Clock,
        control: RunControl,
        handlers: HandlerStore,
        acknowledge: Callable[[], int],
        costs: Costs | None = None,
        hot: str | None = None,
        code_size: int | None = None,
    ) -> None:
        super().__init__(profile, memory.view, memory.base, bus, costs or cost_profile(DEFAULT_COSTS))
        self.memory, self.clock, self.control = memory, clock, control
        self._acknowledge = acknowledge
        self.handlers = handlers
        code_size = code_size or CODE_SIZE
        self.blocks = BlockStore(memory, handlers, code_size)
        self.hot = HotTier.chosen(self.blocks, handlers.folder, hot, code_size)
        self.blocks.finds_natively = self.hot is None or not self.hot.always
        self._exception_counts = {}
        self.interrupt_counts: dict[int, int] = {}
        #: #VMEXITs by exit code.
        self.exit_counts: dict[int, int] = {}
        self._recent_exceptions = deque(maxlen=RECENT_EXCEPTIONS)
        self.run_profile = RunProfile()
        self.instructions = 0
        #: Modelled cycles for which the processor has slept.
        self.idle_cycles = 0
        self.tsc_offset = 0
        self._zero = 0
        #: The cycle of the next sample.
        self._sample_at = 0
        self._intr = False
        self._nmi = False
        self._reset_wanted = False
        self._translations: dict[Mode, Translation] = {}
        self._decoders: dict[object, Decoder] = {}
        self._translation: Translation | None = None
        #: CPL for which native code's tables were chosen; the translations at CPL 0 and CPL 3 where it may change it.
        self._selected_cpl = 0
        self._privileges: tuple[Translation, Translation] | None = None
        self._forced = 0
        self._pending_error: BaseException | None = None
        self.ram_words = memory.view.cast("Q")
        #: Called when the processor has halted, with the cycles until the next event: a place to wait for real.
        self.on_idle: Callable[[int], None] = lambda cycles: None
        #: Asked when the processor has halted with IF clear: may an event of the clock bring NMI, SMI or INIT?
        self.expects_unmaskable: Callable[[], bool] = lambda: True
        self.is_ram = memory.is_ram
        # Fast entries may be wrong then. The modelled TLB does not care, and what was decoded there has been dropped.
        memory.on_layout = lambda physical, length: self.native_reset_fast(self.state.address)
        self.before_write = self._before_write
        self._connect()
        #: What carries out the instructions that have no native code.
        self.forms: Mapping[str, PythonForm] = PYTHON_FORMS
        self._python_forms = frozenset(PYTHON_FORMS)
        self.reset()
        if "DECODE_ASSISTS" not in profile.svm_features:
            self.q[layout.WORLD_EXITS >> 3] = 3 if "NRIP_SAVE" in profile.svm_features else 1

    # -- connecting native code

    def _connect(self) -> None:
        runtime = self.handlers.runtime
        prototype = ctypes.CFUNCTYPE
        word = ctypes.c_uint64
        native_calls.connect(self, runtime)
        self._enter = prototype(word, word, word, word)(runtime["enter"])
        self._translate_code = prototype(word, word, word, word)(runtime["translate_instruction"])
        nothing, pair = prototype(None), prototype(None, word, word)
        self._protect = pair(runtime["protect"])
        self._callbacks = (nothing(self._on_device_read), nothing(self._on_device_write), pair(self._on_code_write))
        set_ = self.state.set
        address = self.state.address
        for offset, callback in zip(
            (layout.ON_DEVICE_READ, layout.ON_DEVICE_WRITE, layout.ON_CODE_WRITE), self._callbacks, strict=True
        ):
            set_(offset, ctypes.cast(callback, ctypes.c_void_p).value or 0)
        set_(layout.SLOW_ACCESS, runtime["slow_access"])
        set_(layout.COMMIT, runtime["commit"])
        set_(layout.FETCH_PAGE, runtime["fetch_page"])
        set_(layout.FLUSH, runtime["flush"])
        set_(layout.LOOKUP, self.handlers.fixed["lookup"])
        set_(layout.LINK_LOG, self.blocks.log)
        set_(layout.RAM_BASE, self.memory.base)
        set_(layout.PAGE_KIND, self.memory.page_kind_address)
        set_(layout.CODE_MAP, self.memory.code_map_address)
        set_(layout.PAGE_COUNT, self.memory.page_count)
        costs = self.costs
        set_(layout.COST_L2_HIT, costs.l2_tlb_hit)
        set_(layout.UNMODELLED, int(not costs.models_translation))
        set_(layout.COST_PWC_HIT, costs.walk_cache_hit)
        set_(layout.COST_NESTED_TLB_HIT, costs.nested_tlb_hit)
        set_(layout.COST_EXCEPTION, costs.exception)
        set_(layout.ARENA, self.blocks.base)
        set_(layout.SIDE_TABLE, self.blocks.side_base)
        set_(layout.PWC_SIZE, costs.walk_cache_entries)
        set_(layout.NESTED_TLB_SIZE, costs.nested_tlb_entries)
        walk_memory.configure(self.state, costs)
        self._kept_by_reset = frozenset(
            (layout.ON_DEVICE_READ, layout.ON_DEVICE_WRITE, layout.ON_CODE_WRITE, layout.SLOW_ACCESS, layout.COMMIT,
             layout.FETCH_PAGE, layout.FLUSH, layout.RAM_BASE, layout.PAGE_KIND, layout.CODE_MAP, layout.PAGE_COUNT,
             layout.UNMODELLED, layout.COST_L2_HIT, layout.COST_PWC_HIT, layout.COST_NESTED_TLB_HIT, layout.PWC_SIZE,
             layout.NESTED_TLB_SIZE, layout.WORLD_EXITS, layout.LOOKUP, layout.LINK_LOG)
        )  # fmt: skip
        self.blocks.on_new_code_page = lambda page: self._protect(address, page)
        self.blocks.peek_page = self._peek_page
        self.memory.on_code_write = self.blocks.drop

    # -- pins (machine/pins.py)

    def set_intr(self, level: bool) -> None:
        """INTR."""
        self._intr = level
        self.pending_changed()

    def pulse_nmi(self) -> None:
        """NMI."""
        self._nmi = True
        self.pending_changed()

    def pending_changed(self) -> None:
        """What may interrupt has changed: native code looks at it where IF or the interrupt shadow changes."""
        self.q[layout.INTERRUPT_PENDING >> 3] = int(self._intr or self._nmi or self.v_irq)

    def pulse_smi(self) -> None:
        """SMI#: latched, and taken between two instructions outside SMM."""
        self.smi_pending = True

    def request_reset(self) -> None:
        """INIT#: before the next instruction."""
        self._reset_wanted = True

    def set_a20(self, enabled: bool) -> None:
        """A20M#."""
        self.state.set(layout.A20_MASK, -1 if enabled else ~(1 << 20))
        self.native_flush_all(self.state.address)
        self.native_reset_fast(self.state.address)
        self.refetch()

    # -- time

    def time_stamp(self) -> int:
        """The TSC now."""
        return self.clock.now + self.tsc_offset & _M64

    def set_time_stamp(self, value: int) -> None:
        """Write the TSC."""
        self.tsc_offset = value - self.clock.now
        if self.in_guest:
            self.tsc_offset += self.controls.tsc_offset  # which a guest's reads add, and writes do not heed (15.5.1)
        self.time_stamp_moved()

    def time_stamp_moved(self) -> None:
        """The offset of the TSC has changed."""
        self._set_zero(self._zero)

    def _set_zero(self, cycle: int) -> None:
        self._zero = cycle
        self.q[layout.TSC_AT_ZERO >> 3] = cycle + self.tsc_offset & _M64

    # -- callbacks from native code: they must not raise

    def _on_code_write(self, physical: int, size: int) -> None:
        try:
            self.blocks.drop(physical, size)
        except BaseException as error:
            self._remember(error)

    def _before_write(self, physical: int, size: int) -> None:
        code = self.memory.code_map
        if code[physical >> 12]:
            self.blocks.drop(physical, size)

    def _on_device_read(self) -> None:
        try:
            self._enter_device()
            q = self.q
            size, split = q[layout.BOUNCE_SIZE >> 3], q[layout.BOUNCE_SPLIT >> 3]
            first, second = q[layout.BOUNCE_FIRST >> 3], q[layout.BOUNCE_SECOND >> 3]
            value = self.read_physical(first, split)
            if size > split:
                value |= self.read_physical(second, size - split) << 8 * split
            self.state.bytes[layout.BOUNCE : layout.BOUNCE + size] = value.to_bytes(size, "little")
            self._leave_device()
        except BaseException as error:
            self._remember(error)

    def _on_device_write(self) -> None:
        try:
            self._enter_device()
            q = self.q
            size, split = q[layout.BOUNCE_SIZE >> 3], q[layout.BOUNCE_SPLIT >> 3]
            first, second = q[layout.BOUNCE_FIRST >> 3], q[layout.BOUNCE_SECOND >> 3]
            value = int.from_bytes(self.state.bytes[layout.BOUNCE : layout.BOUNCE + size], "little")
            self.write_physical(first, split, value & ((1 << 8 * split) - 1))
            if size > split:
                self.write_physical(second, size - split, value >> 8 * split)
            self._leave_device()
        except BaseException as error:
            self._remember(error)

    def _enter_device(self) -> None:
        """Give the clock the exact cycle of a memory-mapped access."""
        q = self.q
        if q[layout.CPL >> 3] != self._selected_cpl:
            self._follow_privilege()
        uop = q[layout.EXIT_UOP >> 3]
        budget = signed(q[layout.EXIT_BUDGET >> 3], 64)
        block = self.blocks.block_at(uop)
        self.instruction_rip = block.rip_of(uop)
        inside = block.cycles_before(block.index_of(uop))
        self.clock.now = self._zero - (budget >> 32) - self._forced + inside

    def _leave_device(self) -> None:
        """Let native code end at its block's end when the device changed what must happen soon."""
        q = self.q
        q[layout.EXIT_BUDGET >> 3] = q[layout.EXIT_BUDGET >> 3] - (self.charged << 32) & _M64
        self.charged = 0
        deadline = self.clock.deadline
        sooner = deadline is not None and deadline <= self._zero
        pins = self._intr or self._nmi or self.smi_pending or self._reset_wanted
        wanted = pins or self.control.request is not None
        if (sooner or wanted) and not self._forced:
            self._force_exit()

    def _force_exit(self) -> None:
        budget = signed(self.q[layout.EXIT_BUDGET >> 3], 64)
        cycles = (budget >> 32) + 1
        if cycles > 0:
            self._forced = cycles
            self.q[layout.EXIT_BUDGET >> 3] = budget - (cycles << 32) & _M64
            # A RDTSC at the block's end must not see the budget jump.
            self.q[layout.TSC_AT_ZERO >> 3] = self.q[layout.TSC_AT_ZERO >> 3] - cycles & _M64

    def _next_sample(self, now: int) -> int:
        """The cycle of the next sample; one that was due while native code was left for something else is not taken."""
        is_first, self._sample_at = not self._sample_at, now + SLICE
        if is_first and self.hot is not None:
            self._sample_at -= self.hot.phase(SLICE)
        return self._sample_at

    def run_native(self, uop: int, zero: int, room: int) -> int:
        """Run native code from a record on, with a budget of `room` cycles that is used up at cycle `zero`.

        Returns why it was left (engine/record.py). Time, instructions and privilege follow it.
        """
        code: int = self._enter(self.state.address, uop, (room << 32) + LOW)
        if self.q[_CPL] != self._selected_cpl:
            self._follow_privilege()
        self.count_native(zero)
        if self._forced or self._pending_error is not None:
            self.settle_native(zero)
        return code

    def count_native(self, zero: int) -> None:
        """Time and instructions, behind native code whose budget is used up at cycle `zero`."""
        budget = self.q[_EXIT_BUDGET]
        if budget >> 63:
            budget -= 1 << 64
        self.clock.now = zero - (budget >> 32)
        self.instructions += LOW - (budget & LOW)

    def settle_native(self, zero: int) -> None:
        """Behind native code whose budget was 0 at the cycle `zero`: what a device's callback has left behind."""
        if self._forced:
            self.clock.now -= self._forced
            self._forced = 0
            self._set_zero(zero)
        if self._pending_error is not None:
            error, self._pending_error = self._pending_error, None
            raise error

    def _remember(self, error: BaseException) -> None:
        if self._pending_error is None:
            self._pending_error = error
        self._force_exit()

    # -- finding code

    def keep_mode(self) -> KeptMode:
        """The present mode with its code, where the state block has what belongs to both."""
        mode, translation = self._mode, self._translation
        if mode is None or translation is None or translation.mode is not mode:
            return None
        return mode, translation, self.state.d[layout.MXCSR >> 2] & MXCSR_MASKS, self._privileges

    def take_mode(self, kept: KeptMode) -> None:
        """Go on in a mode that was kept."""
        self.redirected = True
        self._mode = None
        if kept is not None and self.is_current(kept):
            self._mode, translation, _, privileges = kept
            assert isinstance(translation, Translation)
            self._translation = translation
            self._privileges = privileges  # type: ignore[assignment]
            self._selected_cpl = translation.mode.decode.cpl
            if self.q[layout.CPL >> 3] != self._selected_cpl:
                self._follow_privilege()

    def is_current(self, kept: tuple[Mode, object, int, object]) -> bool:
        """Whether a mode that was kept is still what it was."""
        _, translation, masks, _ = kept
        assert isinstance(translation, Translation)
        return not translation.forgotten and masks == self.state.d[layout.MXCSR >> 2] & MXCSR_MASKS

    def _select(self) -> Translation:
        """Make the current mode's tables the ones that native code uses."""
        mode = self.mode()
        if len(self._translations) >= MOST_TRANSLATIONS and mode not in self._translations:
            self.blocks.drop_all()
            self.blocks.forget_translations()
            self._translations.clear()
        translation = self._translation_of(mode)
        self._mode = mode = translation.mode  # equal, and now the same
        q, base = self.q, self.state.address
        user = self.cpl == 3
        fast = tlb.FAST_ENTRIES * tlb.FAST_SIZE
        slow = self.slow_access_path()
        q[layout.DTLB >> 3] = base + (tlb.NEVER if slow else tlb.DATA.fast + fast * user)
        q[layout.ITLB >> 3] = base + tlb.INSTRUCTION.fast + fast * user
        q[layout.USER >> 3] = 4 if user else 0
        q[layout.CODE_BASE >> 3] = mode.code_base
        q[layout.CODE_LIMIT >> 3] = mode.code_limit
        q[layout.CODE_BITS >> 3] = mode.decode.bits
        q[layout.JUMP_CACHE >> 3] = translation.jump_cache
        self._translation = translation
        self._selected_cpl = q[layout.CPL >> 3]
        self._privileges = None if slow or self.runs_translated else self._other_privilege(translation)
        q[layout.PRIVILEGES_VALID >> 3] = int(self._privileges is not None)
        if self._privileges is not None:
            for i, one in enumerate(self._privileges):
                record = layout.PRIVILEGES + layout.PRIVILEGE_SIZE * i >> 3
                q[record] = base + tlb.DATA.fast + fast * i
                q[record + 1] = base + tlb.INSTRUCTION.fast + fast * i
                q[record + 2] = one.jump_cache
        return translation

    def _other_privilege(self, translation: Translation) -> tuple[Translation, Translation] | None:
        """Translations of flat 64-bit code at CPL 0 and 3 that differ in that alone; None where native code must not
        go from one to the other."""
        mode = translation.mode
        decode = mode.decode
        cpl = decode.cpl
        if decode.bits != 64 or cpl not in (0, 3) or decode.instruction_breakpoints or decode.deprivileged:
            return None
        if cpl == 3 and decode.io_allowed:
            return None
        time_stamp_allowed = cpl == 3 or not self.cr4 & CR4_TSD
        pair = translation.privileges.get(time_stamp_allowed)
        if pair is None:
            other = decode._replace(cpl=3 - cpl, io_allowed=cpl == 3, time_stamp_allowed=time_stamp_allowed)
            to = self._translation_of(mode._replace(decode=other))
            pair = translation.privileges[time_stamp_allowed] = (translation, to) if cpl == 0 else (to, translation)
        return pair

    def _follow_privilege(self) -> None:
        """Native code has changed the CPL: choose the translation that it now runs."""
        if self._privileges is None:
            return
        self._selected_cpl = cpl = self.q[layout.CPL >> 3]
        self._translation = self._privileges[cpl == 3]
        self._mode = self._translation.mode

    def _translation_of(self, mode: Mode) -> Translation:
        """The place for blocks of a mode."""
        translation = self._translations.get(mode)
        if translation is None:
            decoder: Decoder | None = self._decoders.get(mode.decode)
            if decoder is None:
                if len(self._decoders) >= 256:
                    self._decoders.clear()
                decoder = Decoder(mode.decode, self.profile.features, self._python_forms, self.costs.instructions)
                self._decoders[mode.decode] = decoder
            translation = self._translations[mode] = self.blocks.translation(mode, decoder)
        return translation

    def _find(self, rip: int, single: bool = False) -> Block:
        """The block at `rip` in the current mode; raises Fault when it cannot be fetched."""
        translation = self._translation
        if translation is None or self._mode is not translation.mode:
            translation = self._select()
        mode = translation.mode
        if mode.decode.bits == 64:
            linear = rip
        else:
            if rip > mode.code_limit:
                raise Fault(vectors.GP, 0)
            linear = mode.code_base + rip & 0xFFFF_FFFF
        page = self._fetch(linear)
        block = self.blocks.find(translation, rip, page, single)
        if not single:
            translation.latest[rip] = block
        return block

    def _fetch(self, linear: int) -> int:
        """Guest-physical page of code, through the modelled TLB."""
        q = self.q
        q[layout.STALL >> 3] = 0
        result = self._translate_code(self.state.address, linear, q[layout.USER >> 3] | PF_I)
        # Spent when the code is entered, as native code does at a page check: events wait until its block's end.
        self.charged += q[layout.STALL >> 3]
        if result == 0:
            vector = q[layout.FAULT_VECTOR >> 3]
            if vector == NESTED_PAGE_FAULT:
                raise VmExit(vmcb.EXIT_NPF, q[layout.FAULT_ERROR >> 3], q[layout.FAULT_ADDRESS >> 3], rip=self.rip)
            address = q[layout.FAULT_ADDRESS >> 3] if vector == vectors.PF else None
            raise Fault(vectors.GP if vector == NON_CANONICAL else vector, q[layout.FAULT_ERROR >> 3], address)
        physical = q[layout.TRANSLATED >> 3]
        if result == 1:
            raise Unimplemented("execution outside RAM", f"rip {self.rip:#x}, guest-physical {physical:#x}")
        return physical & ~0xFFF

    def instructions_done(self) -> int:
        """Instructions so far."""
        return self.instructions

    def keep_code(self) -> None:
        """Keep what was decoded, and where the run was found to be, for later runs."""
        self.blocks.save_templates()
        if self.hot is not None:
            self.hot.save()
