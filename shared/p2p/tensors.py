"""This module packs and reads tensors as hivemind sends them, with the standard library alone.

A tensor on the wire is a buffer of little-endian numbers, a shape, a dtype by name and a compression. Nothing is
built by a name in the message: a form that is not known is refused. The shape is compared with the expected one
before the buffer is read, so a claim of any size costs nothing.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from typing import TYPE_CHECKING, Any

from shared.p2p.hivemind import runtime_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

DTYPES = ("float32", "float16", "bfloat16")
_NONE: int = runtime_pb2.CompressionType.NONE
_FLOAT16: int = runtime_pb2.CompressionType.FLOAT16
_SHOWN = 16
"""Sizes and characters of a stranger's that an error shows."""


class WrongTensorError(ValueError):
    """The tensor is wrong: of another shape than expected, or with a buffer that does not match its own shape."""


class UnreadTensorError(ValueError):
    """The tensor may be right, in a form that this monitor does not read."""


def pack(values: array[float], shape: Sequence[int]) -> Any:
    """Return a float32 tensor message (`runtime_pb2.Tensor`) without compression."""
    return runtime_pb2.Tensor(
        buffer=_little_endian(values).tobytes(), size=shape, requires_grad=False, dtype="float32", compression=_NONE
    )


def empty(dtype: str = "float32") -> Any:
    """Return the tensor that petals reads as "not given"."""
    return runtime_pb2.Tensor(size=[0], requires_grad=False, dtype=dtype, compression=_NONE)


def read(tensor: Any, shape: Sequence[int]) -> array[float]:
    """Return a tensor message's numbers as float32, NaN and infinity among them.

    Raises `WrongTensorError` where its shape is not `shape` or its buffer has another length, `UnreadTensorError`
    for a dtype or compression that this monitor does not read.
    """
    if list(tensor.size) != list(shape):
        raise WrongTensorError(f"shape {list(tensor.size[:_SHOWN])}, expected {list(shape)}")
    if tensor.dtype not in DTYPES:
        raise UnreadTensorError(f"dtype {tensor.dtype[:_SHOWN]!r} is none of {', '.join(DTYPES)}")
    count, held = math.prod(shape), len(tensor.buffer)
    if tensor.compression == _FLOAT16:
        if held != 2 * count:
            raise WrongTensorError(f"{held} bytes for {count} values of float16")
        return _from_float16(tensor.buffer, count)
    if tensor.compression != _NONE:
        name = runtime_pb2.CompressionType.keys()[1:]
        raise UnreadTensorError(f"compression {tensor.compression}; of {', '.join(name)} only FLOAT16 is read")
    # hivemind sends bfloat16 as float32, unless HIVEMIND_USE_LEGACY_BFLOAT16 is off.
    if tensor.dtype != "float16" and held == 4 * count:
        return _little_endian(array("f", tensor.buffer))
    if tensor.dtype == "bfloat16" and held == 2 * count:
        return _from_bfloat16(tensor.buffer)
    if tensor.dtype == "float16" and held == 2 * count:
        return _from_float16(tensor.buffer, count)
    raise WrongTensorError(f"{held} bytes for {count} values of {tensor.dtype}")


def _from_float16(buffer: bytes, count: int) -> array[float]:
    return array("f", struct.unpack(f"<{count}e", buffer))


def _from_bfloat16(buffer: bytes) -> array[float]:
    """A bfloat16 is the upper half of a float32."""
    wide = bytearray(2 * len(buffer))
    wide[2::4], wide[3::4] = buffer[0::2], buffer[1::2]
    return _little_endian(array("f", bytes(wide)))


def _little_endian(values: array[float]) -> array[float]:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values
