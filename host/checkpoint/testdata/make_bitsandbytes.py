"""Makes `bitsandbytes.safetensors`, which `src/tests/golden.rs` compares to the bit, from bitsandbytes itself.

    pip install bitsandbytes torch safetensors numpy
    python make_bitsandbytes.py

Written with bitsandbytes 0.50.2 and torch 2.15.0 on the CPU. The codes of the nested scales come from its portable
kernel, which like the one of CUDA takes the nearest entry of the map; its compiled one for the CPU searches a coarser
grid, and takes a neighbour of the nearest once in a thousand.
"""

from pathlib import Path

import bitsandbytes.functional as functional
import torch
from safetensors.torch import save_file

ROWS, INPUTS = 5, 150
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

tensors = {}


def keep(name, tensor):
    tensors[name] = tensor.detach().clone().contiguous()


def matrix(generator):
    """Normal numbers, some of them large; a row of zeros, so that whole blocks are zeros; a last block of 46."""
    numbers = torch.randn(ROWS, INPUTS, generator=generator)
    numbers[1] *= 40.0
    numbers[3] = 0.0
    return numbers


def nf4(name, numbers, nested):
    codes, state = functional.quantize_4bit(numbers, quant_type="nf4", compress_statistics=nested)
    keep(f"{name}.weight", codes)
    for part, tensor in state.as_dict(packed=True).items():
        keep(f"{name}.weight.{part}", tensor)
    keep(f"{name}.out", functional.dequantize_4bit(codes, state))
    state.dtype = torch.float32
    keep(f"{name}.wide", functional.dequantize_4bit(codes, state))


def int8(name, numbers):
    codes, absmax, _ = functional.int8_vectorwise_quant(numbers)
    keep(f"{name}.weight", codes)
    keep(f"{name}.SCB", absmax)
    keep(f"{name}.weight_format", torch.tensor(0, dtype=torch.uint8))
    keep(f"{name}.wide", functional.int8_vectorwise_dequant(codes, absmax))


def nested_scales(generator):
    """Of more than one block of 256, the last one short."""
    absmax = torch.rand(300, generator=generator) * 3.0
    offset = absmax.mean()
    # VE stands for any device that has no kernel of its own: it is given the portable one.
    kernel = torch.library.get_kernel("bitsandbytes::quantize_blockwise", "VE")
    code = functional.create_dynamic_map()
    keys = torch._C._dispatch_keys(absmax)
    codes, outer = kernel.call_boxed(keys, absmax - offset, code, 256)
    keep("scales.input", absmax)
    keep("scales.offset", offset.reshape(1))
    keep("scales.map", code)
    keep("scales.codes", codes)
    keep("scales.absmax", outer)


generator = torch.Generator().manual_seed(4)
for name, dtype in DTYPES.items():
    numbers = matrix(generator).to(dtype)
    keep(f"{name}.input", numbers)
    nf4(f"{name}.plain", numbers, nested=False)
    nf4(f"{name}.nested", numbers, nested=True)
    int8(f"{name}.int8", numbers)
nested_scales(generator)
save_file(tensors, Path(__file__).with_name("bitsandbytes.safetensors"))
