"""Expressions on layers' names: the same results as Python's, at a bounded cost."""

from __future__ import annotations

import re
import time

import pytest

from kronq.errors import FormatError
from kronq.model.adapter import Recipe
from kronq.model.layer_expressions import NameMatcher
from kronq.readers.peft_config import PeftConfig

NAME = "model.layers.11.self_attn.q_proj"
USUAL = [
    "q_proj",
    r"model\.layers\.\d+\.self_attn\.q_proj",
    r"layers\.(0|1|1[0-5])\..*\.(q|k|v)_proj",
    r".*\.self_attn\..*",
    "^(?!.*vision).*q_proj$",
    r"(.*\.)?layers\.\d{1,2}\.(?:self_attn|mlp)\.[a-z]_proj",
    "k_proj",
]
SLOW = [
    "(a+)+$",
    "(a|a)*c",
    "(.*)*c",
    "(a|b|ab)*c",
    "(x+x+)+y",
    r"(\w+\s?)*\d$",
    ".*.*.*.*.*.*.*.*c",
    "a?" * 40 + "a" * 40 + "c",
    "(a|a)" * 40 + "c",
    "(?:(?:(?:){60000}){60000}){60000}",
    "(?:(?:(?:a?){900}){900}){900}c",
]


@pytest.mark.parametrize("expression", USUAL)
def test_usual_expressions_match_as_in_python(expression: str) -> None:
    search, peft = NameMatcher(), NameMatcher(peft=True)
    for _ in range(1000):
        assert search.matches(expression, NAME) == bool(re.search(expression, NAME))
    assert peft.matches(expression, NAME) == bool(re.match(rf"(.*\.)?({expression})$", NAME))


@pytest.mark.parametrize("expression", SLOW)
def test_slow_expressions_are_refused(expression: str) -> None:
    name = "a" * 60
    start = time.perf_counter()
    with pytest.raises(ValueError, match="could take too long"):
        NameMatcher(peft=True).matches(expression, name)
    with pytest.raises(FormatError, match="rank_pattern has a bad expression"):
        PeftConfig({"r": 1, "rank_pattern": {expression: 2}}).rank(name)
    with pytest.raises(FormatError, match="could take too long"):
        Recipe("rtn", 4, layer_bits={expression: 8}).bits_for(name)
    assert time.perf_counter() - start < 1


def test_many_layers_share_one_bound() -> None:
    matcher = NameMatcher()
    start = time.perf_counter()
    with pytest.raises(ValueError, match="could take too long"):
        for layer in range(100_000):
            matcher.matches(".*a.*a.*c", f"{'a' * 100}{layer}")
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("expression", ["(", "a{2,1}", "a" * 1001])
def test_a_bad_expression_is_a_value_error(expression: str) -> None:
    with pytest.raises(ValueError, match="not a regular expression"):
        NameMatcher().matches(expression, NAME)
