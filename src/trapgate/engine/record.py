"""The micro-op record: a decoded instruction as the cold tier runs it.

A block in the arena is

    header   page check: is the page of this code still mapped where the block was decoded from?
    records  one per instruction, 32 bytes each (a page check before an instruction that crosses into the next page)
    end      the last record, of an instruction that ends the block, has 64 bytes more

    offset  record                                  page check
     0      address of the handler                  the same
     8      four operand slots, u16 each            linear address of the page
    16      displacement, i32                       guest-physical address of the page
    20      immediate, i32
    24      link to the branch target's record, or a 64-bit immediate or address
    -- of the last record only
    32      a handler that reports the taken link as not yet made
    40      a handler that reports the link to the next instruction as not yet made
    48      link to the next instruction's record
    56      rip of the next instruction
    64      what the block costs: (modelled cycles << 32) + instructions
    72      64-bit immediate or address, where a call needs the link field as well
    80      rip of the branch target; of an indirect branch, the last one that was logged
    88      host address of the block's header, where native code may make its links; else 0
"""

HANDLER, SLOTS, DISPLACEMENT, IMMEDIATE, LINK = 0, 8, 16, 20, 24
PAGE_LINEAR, PAGE_PHYSICAL = 8, 16
UNLINKED_TARGET, UNLINKED_NEXT, NEXT_LINK, NEXT_IP, COST, TARGET_IP, HEADER = 32, 40, 48, 56, 64, 80, 88
RECORD_SIZE = 32
END_SIZE = 96
#: Instructions of a block at most.
MAX_INSTRUCTIONS = 64
#: Bytes of records at most, and of regions' machine code, where nothing else is asked for.
CODE_SIZE = 64 << 20

# Why native code was left (the value that it returns).
EXIT_BUDGET = 0  # the budget is used up; exit_uop is where to go on
EXIT_UNLINKED_TARGET = 1  # exit_uop is the record whose taken link is to be made
EXIT_UNLINKED_NEXT = 2  # the same for the link to the next instruction
EXIT_FAULT = 3  # exit_uop's instruction raised the exception in the fault fields
EXIT_PYTHON = 4  # exit_uop's instruction, which ended its block, is to be carried out in Python
EXIT_LOOKUP = 5  # go on at the state's rip
EXIT_STALE = 6  # exit_uop is a record of a block that is no longer valid
EXIT_PYTHON_INSIDE = 7  # exit_uop's instruction, inside its block, is to be carried out in Python
EXIT_WINDOW = 8  # the block of exit_uop ended in an instruction after which interrupts must be looked for
EXIT_REPEAT = 9  # exit_uop's string instruction was left between two turns because the budget is used up
EXIT_REFETCH = 10  # exit_uop's page check found another page

EXIT_PORT = 12  # as EXIT_PYTHON, for IN and OUT
EXIT_DELIVERED = 11  # a page fault was delivered, and the budget is used up; rip is that of its handler
