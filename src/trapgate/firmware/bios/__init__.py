"""A PC's BIOS: what a boot sector finds in memory, and the services that it calls by software interrupts.

Interrupt vectors point at small routines in ROM (rom.py) at segment F000h, at the entry points of IBM's BIOS. A
routine writes to one port; the processor leaves native code there, and the service runs as plain Python on the guest's
registers (call.py) before the routine's IRET. One file per service:

- `video.py` INT 10h, with `screen.py`, which shows text memory on the console;
- `equipment.py` INT 11h and 12h; `serial.py` INT 14h; `system.py` INT 15h; `printer.py` INT 17h;
- `disk.py` and `extended_disk.py` INT 13h, with `drives.py`, the drives;
- `keyboard.py` INT 09h and 16h, with `keys.py`, the scan codes;
- `bootstrap.py` INT 18h and 19h; `time_of_day.py` INT 08h, 1Ah and 70h;
- `bios.py` puts them together; `disk_image.py` recognises what can be booted.

Sources of all: IBM PC AT Technical Reference (BIOS listing), Ralf Brown's Interrupt List 61; more in each file.
"""
