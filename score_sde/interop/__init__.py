"""The files of other programs: PyTorch, Flax and safetensors checkpoints, read as NumPy arrays.

A checkpoint from elsewhere is untrusted input. The readers execute nothing from a file, allocate no more than the file
can fill, and turn every unreadable file into a :class:`~score_sde.errors.UserError`. None of them needs PyTorch, Flax
or JAX.
"""

from score_sde.interop.flax_files import read_flax
from score_sde.interop.safetensors_files import read_safetensors, write_safetensors
from score_sde.interop.sniff import file_kind
from score_sde.interop.torch_files import read_torch

__all__ = ["file_kind", "read_flax", "read_safetensors", "read_torch", "write_safetensors"]
