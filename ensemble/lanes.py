"""Vectors of `LANES` int16, one for each of as many images, for the compiled loops of `ensemble/kernels.py`.

A value of this type stays in vector registers of the full width of the processor, unlike the elements of an array in a loop:
an addition, a minimum or a comparison of all lanes is four instructions with AVX-512, eight with AVX2. An index is
unsigned, so it is not tested for counting from the end. Numba's cache of a function that uses these does not notice a change
of this file: change the file of that function too.
"""

# Numba calls these with types and code builders of its own.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

LANES = 128
_WORD = 64  # lanes whose comparison is counted in one word

_INT16, _INT32 = ir.IntType(16), ir.IntType(32)
_VECTOR = ir.VectorType(_INT16, LANES)


class _Lanes(types.Type):
    """The type of these vectors in Numba."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


_LANES = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    """How LLVM keeps them."""

    def __init__(self, manager, of) -> None:
        super().__init__(manager, of, _VECTOR)


def _instructions(function) -> Callable[..., Any]:
    """A function of compiled loops, whose code `function` builds from the types of the arguments."""
    return intrinsic(function)


def _address(context, builder, array_type, array, at):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), _VECTOR.as_pointer())


@_instructions
def load(typing, array, at):
    """The lanes at array[at:] of a flat int16 array."""

    def code(context, builder, signature, arguments):
        return builder.load(_address(context, builder, signature.args[0], *arguments), align=2)

    return _LANES(array, types.uint64), code


@_instructions
def store(typing, array, at, lanes):
    """Writes lanes to array[at:] of a flat int16 array."""

    def code(context, builder, signature, arguments):
        builder.store(arguments[2], _address(context, builder, signature.args[0], *arguments[:2]), align=2)
        return context.get_dummy_value()

    return types.void(array, types.uint64, lanes), code


@_instructions
def add(typing, one, other):
    """The sum, lane by lane."""

    def code(context, builder, signature, arguments):
        return builder.add(*arguments)

    return _LANES(one, other), code


@_instructions
def subtract(typing, one, other):
    """The difference, lane by lane."""

    def code(context, builder, signature, arguments):
        return builder.sub(*arguments)

    return _LANES(one, other), code


@_instructions
def least(typing, one, other):
    """The smaller, lane by lane."""

    def code(context, builder, signature, arguments):
        return builder.select(builder.icmp_signed("<", *arguments), *arguments)

    return _LANES(one, other), code


@_instructions
def above(typing, lanes, limit):
    """The number of lanes that are greater than the int16 `limit`."""

    def code(context, builder, signature, arguments):
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(undefined, arguments[1], ir.Constant(_INT32, 0))
        everywhere = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
        greater = builder.icmp_signed(">", arguments[0], builder.shuffle_vector(first, undefined, everywhere))
        total = ir.Constant(ir.IntType(64), 0)
        for start in range(0, LANES, _WORD):
            part = ir.Constant(ir.VectorType(_INT32, _WORD), list(range(start, start + _WORD)))
            bits = builder.bitcast(builder.shuffle_vector(greater, greater, part), ir.IntType(_WORD))
            total = builder.add(total, builder.ctpop(bits))
        return total

    return types.int64(lanes, types.int16), code
