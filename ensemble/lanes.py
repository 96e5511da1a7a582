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
from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

LANES = 128
_WORD = 64  # lanes whose comparison is one word
WORDS = LANES // _WORD

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
        counts = [builder.ctpop(word) for word in _greater(builder, *arguments)]
        return reduce(builder.add, counts)

    return types.int64(lanes, types.int16), code


@_instructions
def mark(typing, lanes, limit, words):
    """Writes to `words`, uint64 [WORDS], the bits of the lanes that are at most `limit` and at least -`limit`."""

    def code(context, builder, signature, arguments):
        lanes, limit, words = arguments
        data = context.make_array(signature.args[2])(context, builder, words).data
        over = _greater(builder, lanes, limit)
        for w, word in enumerate(_greater(builder, lanes, builder.not_(limit))):  # more than -limit - 1
            near = builder.and_(word, builder.not_(over[w]))
            builder.store(near, builder.gep(data, [ir.Constant(_INT32, w)]))
        return context.get_dummy_value()

    return types.void(lanes, types.int16, words), code


@_instructions
def lowest(typing, word):
    """The index of the lowest bit that is set in a uint64, which is not 0."""

    def code(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), code


def _greater(builder, lanes, limit) -> list[Any]:
    """Words with the bits of the lanes that are greater than `limit`."""
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, limit, ir.Constant(_INT32, 0))
    everywhere = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
    greater = builder.icmp_signed(">", lanes, builder.shuffle_vector(first, undefined, everywhere))
    words = []
    for start in range(0, LANES, _WORD):
        part = ir.Constant(ir.VectorType(_INT32, _WORD), list(range(start, start + _WORD)))
        words.append(builder.bitcast(builder.shuffle_vector(greater, greater, part), ir.IntType(_WORD)))
    return words
