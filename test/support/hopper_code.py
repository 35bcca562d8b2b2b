"""Compile the attention kernel for an H100, which needs none, and say what came out.

Run by test_hopper_code.py in a Python of its own: where kernels are interpreted they
can't be compiled. Prints one JSON object a case.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from espnet_mtla.attention import EntryLayout
from espnet_mtla.attention.decoding.backend import triton as host
from espnet_mtla.attention.decoding.backend.triton_kernels import attend_kernel
from espnet_mtla.attention.decoding.backend.triton_plan import plan

CASES = {
    "latent, 8 queries": (EntryLayout(1, 288, 288, 0, 256), 8),
    "latent, 160 queries": (EntryLayout(1, 288, 288, 0, 256), 160),
    "heads, 20 queries": (EntryLayout(8, 128, 64, 64, 64), 20),
}
POINTERS = {
    "q_ptr": "*bf16",
    "entry_ptr": "*bf16",
    "visible_ptr": "*i64",
    "out_ptr": "*bf16",
    "lse_ptr": "*fp32",
}


def compile_case(layout: EntryLayout, queries: int) -> dict[str, int]:
    """Counts of the instructions that matter, and bytes that spilled to memory."""
    launch = plan(layout, 2, groups=64, queries=queries, slots=250, processors=132)
    fixed = host.constants(layout, torch.bfloat16, launch)
    names = attend_kernel.arg_names
    whole = {n: "i32" for n in names if n not in fixed and n not in POINTERS}
    types = {**whole, **POINTERS, "scale": "fp32"}
    types |= dict.fromkeys(fixed, "constexpr")
    # Strides of the cache and of whole rows are multiples of 16 at these widths.
    even = [*POINTERS, *(n for n in whole if n.startswith(("q_", "entry_")))]
    source = ASTSource(
        attend_kernel,
        {name: types[name] for name in names},
        {(names.index(name),): value for name, value in fixed.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in even},
    )
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    code = made.asm["ptx"]
    tile = launch.block_s * layout.width * 2
    return {
        "copies": len(re.findall(r"cp\.async\.cg\.shared\.global .*0x10", code)),
        "copies of one tile a stage": launch.stages * tile // (launch.warps * 32 * 16),
        "wgmma": len(re.findall(r"wgmma\.mma_async", code)),
        "mma": len(re.findall(r"mma\.sync", code)),
        "shared": made.metadata.shared,
        "spills in a loop": spills_in_loops(made.asm["cubin"]),
    }


def spills_in_loops(cubin: bytes) -> int:
    """Reads and writes of local memory, where spilled registers go, in loops."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-sass", file.name]
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/ +([^;]+);", shown.stdout)
    code = [(int(address, 16), instruction) for address, instruction in lines]
    loops = []
    for address, instruction in code:
        jump = re.search(r"\bBRA(?:\.\w+)* .*?0x([0-9a-f]+)", instruction)
        # The last instruction jumps to itself, and is never reached.
        if jump is not None and int(jump[1], 16) < address:
            loops.append(range(int(jump[1], 16), address))
    assert loops, "the machine code has no loop over tiles"
    spills = [address for address, text in code if re.search(r"\b(LDL|STL)\b", text)]
    return sum(any(address in loop for loop in loops) for address in spills)


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        print(json.dumps({"case": name, **compile_case(*CASES[name])}))
