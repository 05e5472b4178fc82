"""Specifications of chips, from their makers' public documentation.

All numbers are for one chip and dense products; data sheets that count structured sparsity state twice as much. Link
rates are one-directional, half of the bidirectional rates of data sheets.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from score_sde.errors import UserError, unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """The rates and sizes of one chip for the :mod:`roofline <score_sde.plan.roofline>`."""

    name: str
    platform: str  # platform of JAX: tpu, cuda or cpu
    bfloat16: float  # FLOP/s of products of bfloat16 numbers
    float32: float  # FLOP/s of products of float32 numbers at JAX's default precision
    memory: float  # bytes
    bandwidth: float  # bytes/s to and from the memory
    links: float  # bytes/s sent by the chip over the links of a domain
    domain: int  # number of chips joined by these links
    network: float | None  # bytes/s sent by the chip to other domains; None if not stated by its maker
    source: str

    def peak(self, dtype: str) -> float:
        """FLOP/s of products in a number type.

        >>> CHIPS["a100"].peak("float32") / CHIPS["a100"].peak("bfloat16")
        0.5
        """
        return self.bfloat16 if dtype == "bfloat16" else self.float32

    def share(self, parts: int) -> "Chip":
        """One of several equal parts that the compiler treats as devices, such as the two cores of a TPU v4.

        >>> CHIPS["v4"].share(2).memory == CHIPS["v4"].memory / 2
        True
        """
        rates = ("bfloat16", "float32", "memory", "bandwidth", "links", "network")
        divided = {name: getattr(self, name) / parts for name in rates if getattr(self, name) is not None}
        return dataclasses.replace(self, **divided, domain=self.domain * parts)


# The network's bytes/s are a pod's bits/s over 8 and its number of chips, or the bits/s of a chip's own port over 8. By
# default, float32 products on a TPU are rounded to bfloat16 and computed in one pass.
_NUMBERS = """
name  platform  bfloat16  float32   memory         bandwidth  links  domain  network
v4    tpu       275e12    275e12    34359738368    1200e9     300e9  4096    -
v5e   tpu       197e12    197e12    16e9           819e9      200e9  256     3.125e9
v5p   tpu       459e12    459e12    102005473280   2765e9     600e9  6144    6.25e9
v6e   tpu       918e12    918e12    32e9           1600e9     400e9  256     12.5e9
a100  cuda      312e12    156e12    80e9           2039e9     300e9  8       25e9
h100  cuda      989e12    494.5e12  80e9           3350e9     450e9  8       50e9
"""
_SOURCES = {
    "v4": "docs.cloud.google.com/tpu/docs/v4: 275 TFLOP/s, 32 GiB, 1200 GB/s, 4096 chips per pod; 6 links of 50 GB/s: "
    "Jouppi et al. 2023, arXiv 2304.01433, table 4",
    "v5e": "docs.cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 16 GB, 819 GB/s, interconnect 400 GB/s bidirectional, 256 "
    "chips per pod, data center network 6.4 Tb/s per pod",
    "v5p": "docs.cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 95 GiB, 2765 GB/s, interconnect 1200 GB/s bidirectional, "
    "slices of up to 6144 chips, data center network 50 Gb/s per chip",
    "v6e": "docs.cloud.google.com/tpu/docs/v6e: 918 TFLOP/s, 32 GB, 1600 GB/s, interconnect 800 GB/s bidirectional, "
    "256 chips per pod, data center network 25.6 Tb/s per pod",
    "a100": "NVIDIA A100 80GB SXM data sheet: 312 TFLOP/s bfloat16, 156 TF32, 80 GB, 2039 GB/s, NVLink 600 GB/s "
    "bidirectional; DGX A100: 8 GPUs with one 200 Gb/s port each",
    "h100": "NVIDIA H100 SXM data sheet, without sparsity: 989 TFLOP/s bfloat16, 494.5 TF32, 80 GB, 3350 GB/s, NVLink "
    "900 GB/s bidirectional; DGX H100: 8 GPUs with one 400 Gb/s port each",
}


def _chips() -> Iterator[Chip]:
    columns, *lines = (line.split() for line in _NUMBERS.strip().splitlines())
    for name, platform, *texts in lines:
        numbers: dict[str, Any] = {
            column: None if text == "-" else float(text) for column, text in zip(columns[2:], texts, strict=True)
        }
        numbers["domain"] = int(numbers["domain"])
        yield Chip(name=name, platform=platform, source=_SOURCES[name], **numbers)


CHIPS = {chip.name: chip for chip in _chips()}
NAMES = (*CHIPS, "cpu")


def find_chip(name: str) -> Chip:
    """Look up a chip by name; ``cpu`` measures this machine.

    Raises:
        UserError: For an unknown name, with the nearest one.

    >>> find_chip("v5e").memory / 1e9
    16.0
    """
    if name not in NAMES:
        raise unknown("chip", name, NAMES)
    return CHIPS[name] if name in CHIPS else this_machine()


def this_machine(*, size: int = 1024, repeats: int = 3) -> Chip:
    """The processors of this machine as one chip: the best rates over a few matrix products and vector sums.

    The network is assumed to have 10 Gb/s and is not measured.

    The matrices have ``size`` rows, and the vectors 16,000 times as many numbers.

    Raises:
        UserError: If the system does not report its memory.
    """
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        raise UserError("This system does not say how much memory it has; name another --config.plan.chip.")
    device = jax.devices("cpu")[0]
    square = jax.device_put(jnp.ones((size, size)), device)
    vector = jax.device_put(jnp.ones(size * 16_000), device)

    def seconds(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
        taken = []
        for _ in range(repeats + 1):  # the first compiles
            start = time.perf_counter()
            jax.block_until_ready(function(x))
            taken.append(time.perf_counter() - start)
        return min(taken[1:])

    flops = 2.0 * size**3 / seconds(jax.jit(lambda x: x @ x), square)
    return Chip(
        name="cpu",
        platform="cpu",
        bfloat16=flops,
        float32=flops,
        memory=float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        bandwidth=2.0 * vector.nbytes / seconds(jax.jit(lambda x: x + 1.0), vector),
        links=1.25e9,
        domain=1,
        network=1.25e9,
        source="measured here: products of float32 matrices, sums of vectors, size of the memory; the network of 10 "
        "Gb/s is assumed",
    )
