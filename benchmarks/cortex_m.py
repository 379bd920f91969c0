"""Run `net.c` on emulated Cortex-M cores: its answers, instructions, flash and memory.

QEMU with `-icount shift=0` advances its clock by a nanosecond an instruction, so the timer of the
core (SysTick) counts instructions, the same number in every run. They are not cycles: a core needs
one to three for an instruction.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
_SINGLE = ("-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
_V5 = ("-mfloat-abi=hard", "-mfpu=fpv5-sp-d16")


@dataclass(frozen=True)
class Core:
    """An emulated board."""

    machine: str
    options: tuple[str, ...]
    """Of the compiler."""
    code: int
    """Address of the vectors and of code and constants."""
    data: int
    """Address of memory."""
    samples: int
    """Address of the samples, which are loaded with the program."""
    megahertz: int
    """Of the timer."""


CORES = {
    "m3": Core("mps2-an385", ("-mcpu=cortex-m3",), 0, 0x20000000, 0x21000000, 25),
    "m4": Core("mps2-an386", ("-mcpu=cortex-m4", *_SINGLE), 0, 0x20000000, 0x21000000, 25),
    "m7": Core("mps2-an500", ("-mcpu=cortex-m7", *_V5), 0, 0x20000000, 0x60000000, 25),
    "m33": Core("mps2-an505", ("-mcpu=cortex-m33", *_V5), 0x10000000, 0x38000000, 0x80000000, 20),
    "m55": Core(
        "mps3-an547", ("-mcpu=cortex-m55", *_V5[:1]), 0x10000000, 0x30000000, 0x70000000, 32
    ),
}

_LINKER = """
MEMORY {{
    code (rx) : ORIGIN = {code:#x}, LENGTH = 512K
    data (rw) : ORIGIN = {data:#x}, LENGTH = 256K
    samples (r) : ORIGIN = {samples:#x}, LENGTH = 8M
}}
ENTRY(reset)
SECTIONS {{
    .text : {{ KEEP(*(.vectors)) *(.text* .rodata* .ARM.ex*) }} > code
    .samples : {{ KEEP(*(.samples)) }} > samples
    .data : {{ *(.data*) }} > data
    .bss (NOLOAD) : {{ *(.bss* COMMON) }} > data
    stack = ORIGIN(data) + LENGTH(data);
}}
"""

_PROGRAM = """
#include "net.h"
extern char stack[];
extern const uint8_t samples[];
static uint8_t arena[NET_ARENA_BYTES];
static float logits[COUNT * NET_CLASSES], probabilities[SHARES * NET_CLASSES];
static uint32_t ticks[2];
static int call(int number, const void *argument)
{
    register int r0 __asm__("r0") = number;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}
#define SYSTICK ((volatile uint32_t *)0xE000E010)
static uint32_t passed(uint32_t before) { return (before - SYSTICK[2]) & 0xFFFFFF; }
static void put(const char *name, uint32_t size, const void *data, uint32_t bytes)
{
    const void *opened[3], *given[3], *closed[1];
    opened[0] = name, opened[1] = (const void *)5, opened[2] = (const void *)size; /* wb */
    given[0] = closed[0] = (const void *)call(1, opened);
    given[1] = data, given[2] = (const void *)bytes;
    call(5, given);
    call(2, closed);
}
static void reset(void)
{
    uint32_t n, before;
    *(volatile uint32_t *)0xE000ED88 |= 0xF << 20; /* floating point on */
    __asm__ volatile("dsb\\nisb");
    SYSTICK[1] = 0xFFFFFF, SYSTICK[2] = 0, SYSTICK[0] = 5;
    before = SYSTICK[2];
    for (n = 0; n < 100000; n++)
        __asm__ volatile("nop");
    ticks[1] = passed(before);
    before = SYSTICK[2];
    for (n = 0; n < REPEATS; n++)
        net_logits((const void *)(samples + n * NET_INPUT_BYTES), arena, logits);
    ticks[0] = passed(before);
    for (n = 0; n < COUNT; n++) {
        const void *sample = samples + n * NET_INPUT_BYTES;
        net_logits(sample, arena, logits + n * NET_CLASSES);
        if (n < SHARES)
            net_probabilities(sample, arena, probabilities + n * NET_CLASSES);
    }
    put("logits", 6, logits, sizeof logits);
    put("probabilities", 13, probabilities, sizeof probabilities);
    put("ticks", 5, ticks, sizeof ticks);
    call(0x18, (const void *)0x20026); /* the application ends */
    for (;;) {}
}
__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {stack, reset};
"""


@dataclass(frozen=True)
class Emulated:
    """What a core answered."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    """Of the first eight samples at most."""
    instructions: int
    """Of one inference, mean of a few."""
    flash_bytes: int
    """Code and constants of the net, without start-up code and samples."""


def missing() -> str:
    """Which tool is not installed; empty if all are."""
    lacking = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
    return f"{' and '.join(lacking)} not installed" if lacking else ""


def emulate(
    folder: Path, core: str, samples: NDArray[Any], options: Sequence[str], repeats: int = 1
) -> Emulated:
    """Compile the files of a folder for a core and answer samples there.

    Parameters
    ----------
    folder : Path
        Of `net.c` and `net.h`.
    core : str
        One of `CORES`.
    samples : array (n, *shape)
        As the net reads them.
    options : sequence of str
        Of the compiler, such as `-O2`.
    repeats : int
        Inferences that are counted.

    Raises
    ------
    RuntimeError
        If the compiler or the emulator fails; with what it says.
    """
    board = CORES[core]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "link.ld").write_text(
            _LINKER.format(code=board.code, data=board.data, samples=board.samples)
        )
        (place / "main.c").write_text(_PROGRAM)
        np.ascontiguousarray(samples).tofile(place / "samples.bin")
        (place / "samples.s").write_text(
            '.section .samples,"a"\n.global samples\nsamples: .incbin "samples.bin"\n'
        )
        common = [COMPILER, *board.options, "-mthumb", "-std=c99", "-ffp-contract=off"]
        common += ["-ffunction-sections", "-fdata-sections", "-I", str(folder)]
        _run([*common, *options, "-c", str(folder / "net.c"), "-o", "net.o"], place)
        counts = [f"-DCOUNT={len(samples)}", f"-DREPEATS={repeats}"]
        shares = min(len(samples), 8)
        counts.append(f"-DSHARES={shares}")
        _run([*common, "-O1", *counts, "-c", "main.c", "samples.s"], place)
        linked = ["-nostdlib", "-T", "link.ld", "-Wl,--gc-sections,-Map=map", "-o", "net.elf"]
        _run([*common, *linked, "main.o", "samples.o", "net.o", "-lgcc"], place)
        quiet = ["-nographic", "-monitor", "none", "-serial", "none"]
        counted = ["-icount", "shift=0", "-semihosting-config", "enable=on,target=native"]
        _run([EMULATOR, "-M", board.machine, *quiet, *counted, "-kernel", "net.elf"], place)
        ticks, empty = (int(n) for n in np.fromfile(place / "ticks", np.uint32))
        answers = [
            np.fromfile(place / name, np.float32).reshape(count, -1)
            for name, count in (("logits", len(samples)), ("probabilities", shares))
        ]
        alone = ["-nostdlib", "-Wl,--gc-sections,--entry=net_probabilities", "-o", "alone.elf"]
        _run([*common, *alone, "net.o", "-lgcc"], place)
        sizes = _run(["arm-none-eabi-size", "alone.elf"], place).splitlines()[1].split()
    per_tick = 1000 / board.megahertz
    assert 150_000 < empty * per_tick < 500_000, f"{empty} ticks of 100,000 empty rounds"
    instructions = round(ticks * per_tick / repeats)
    return Emulated(answers[0], answers[1], instructions, int(sizes[0]) + int(sizes[1]))


def _run(command: list[str], place: Path) -> str:
    done = subprocess.run(
        command,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        said = re.sub(r"\s+", " ", done.stderr)[-400:]
        raise RuntimeError(f"{command[0]}: {said}")
    return done.stdout
