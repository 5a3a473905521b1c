"""Seeded changes of ONNX models by their structure: a value, a missing one, one elsewhere."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import onnx

STRINGS = ("", "x", "../x", "a\0b", "kronq_slots.json", "/etc/passwd", "-1", "9" * 20, "q" * 300)
NUMBERS = (0, 1, -1, 2, 3, 22, 2**31, 2**62, -(2**40))
ENUMS = (0, 1, 2, 7, 10, 16, 22, 99)


def messages(message: Any) -> Iterator[Any]:
    """Yields a protobuf message and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            inner = [value] if hasattr(value, "ListFields") else value
            for each in inner:
                yield from messages(each)


def mutate(rng: random.Random, model: onnx.ModelProto) -> None:
    """Changes one field of one message: a value, a missing one, one too many, one elsewhere."""
    message = rng.choice([*messages(model)])
    present = [field for field, _ in message.ListFields()]
    some = present if present and rng.random() < 0.75 else [*message.DESCRIPTOR.fields]
    field = rng.choice(some)
    value = getattr(message, field.name)
    repeated = hasattr(value, "append")
    if rng.random() < 0.3:
        message.ClearField(field.name)
    elif field.message_type is not None:
        change_messages(rng, value) if repeated else value.SetInParent()
    elif repeated:
        change_values(rng, value, any_value(rng, field))
    else:
        setattr(message, field.name, any_value(rng, field))


def change_messages(rng: random.Random, values: Any) -> None:
    if not values:
        values.add()
        return
    i, j = (rng.randrange(len(values)) for _ in range(2))
    kind = rng.choice(["delete", "repeat", "add", "swap"])
    if kind == "delete":
        del values[i]
    elif kind == "repeat":
        values.add().CopyFrom(values[i])
    elif kind == "add":
        values.add()
    else:
        first = type(values[i])()
        first.CopyFrom(values[i])
        values[i].CopyFrom(values[j])
        values[j].CopyFrom(first)


def change_values(rng: random.Random, values: Any, value: object) -> None:
    if values and rng.random() < 0.7:
        i = rng.randrange(len(values))
        if rng.random() < 0.5:
            del values[i]
        else:
            values[i] = value
    else:
        values.append(value)


def any_value(rng: random.Random, field: Any) -> object:
    if field.enum_type is not None:
        return rng.choice([n for n in ENUMS if n in field.enum_type.values_by_number] or [0])
    if field.cpp_type == field.CPPTYPE_STRING:
        text = rng.choice(STRINGS)
        return text.encode() if field.type == field.TYPE_BYTES else text
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice([0.0, -1.0, float("nan"), float("inf")])
    fits = 2**31 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 2**63
    unsigned = field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64)
    return rng.choice([n for n in NUMBERS if -fits <= n < fits and (n >= 0 or not unsigned)])


def change_model(rng: random.Random, data: bytes) -> bytes:
    """Changes one field of a model's file."""
    model = onnx.ModelProto()
    model.ParseFromString(data)
    mutate(rng, model)
    return model.SerializeToString()
