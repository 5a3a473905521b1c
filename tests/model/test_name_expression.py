"""The expression matches exactly its names, and PEFT selects exactly these layers by it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronq.model.name_expression import expand_name_expression, name_expression

KINDS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
BLOCKS = [f"model.layers.{i}.{kind}" for i in range(32) for kind in KINDS]
SETS = {
    "all": BLOCKS,
    "first six": BLOCKS[:18],
    "every third": BLOCKS[::3],
    "one": BLOCKS[5:6],
    "mixed": [*BLOCKS[:20:2], *BLOCKS[20:30], "lm_head"],
    "experts": [f"layers.{i}.experts.{j}.w{k}" for i in (3, 4) for j in range(12) for k in (1, 2)],
    "no numbers": ["lm_head", "embed_tokens", "a+b(c)"],
    "long numbers": [f"h.{i}.c" for i in (0, 7, 99, 100, 101, 1000, 12345)],
    "zeros": ["h.00.c", "h.0.c", "h.007.c"],
}


@pytest.mark.parametrize("names", SETS.values(), ids=SETS)
def test_it_matches_these_names_and_no_other(names: list[str]) -> None:
    expression = name_expression(names)
    others = {*BLOCKS, *(f"model.layers.{i}.mlp.up_proj" for i in range(40)), *names}
    others |= {f"{name}x" for name in names} | {f"x{name}" for name in names}
    others |= {re.sub(r"\d+", lambda m: str(int(m[0]) + 1), name) for name in others}
    found = {name for name in others if re.fullmatch(expression, name)}
    assert found == set(names)
    assert sorted(expand_name_expression(expression, limit=10_000)) == sorted(names)


@given(st.sets(st.text(st.sampled_from("ab.019"), min_size=1, max_size=6), min_size=1, max_size=12))
def test_any_names(names: set[str]) -> None:
    expanded = expand_name_expression(name_expression(sorted(names)), limit=10_000)
    assert sorted(expanded) == sorted(names)


def test_it_is_short() -> None:
    assert len(name_expression(BLOCKS)) < 120


@pytest.mark.parametrize("expression", [".*q_proj", r"h\.\d+", "a+", "[^a]", "(", "^a$", "[a]{3}"])
def test_what_stands_for_no_list_of_names(expression: str) -> None:
    assert expand_name_expression(expression, limit=1000) is None
    assert expand_name_expression("[0-9][0-9][0-9][0-9]", limit=1000) is None
    assert expand_name_expression("|".join(["[0-9][0-9][0-9]"] * 40), limit=1000) is None
    assert expand_name_expression("(" * 200 + "a" + ")" * 200, limit=1000) in (["a"], None)
