"""Natural order of names, and templates of names that differ in a number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronq.model.layer_names import compress_names, expand_templates, natural_key

Q = "model.layers.{}.self_attn.q_proj"
NAMES = st.lists(
    st.one_of(
        st.builds(Q.format, st.integers(0, 40)),
        st.builds("h.{}.attn.{}.c_attn".format, st.integers(0, 12), st.integers(0, 3)),
        st.text("a0{}1-,.", min_size=1, max_size=8),
    )
)


@pytest.mark.parametrize(
    ("names", "templates"),
    [
        ([Q.format(i) for i in range(30)], ["model.layers.{0-29}.self_attn.q_proj"]),
        ([Q.format(i) for i in (0, 1, 3)], ["model.layers.{0-1,3}.self_attn.q_proj"]),
        ([Q.format(7)], ["model.layers.{7}.self_attn.q_proj"]),
        (["lm_head"], ["lm_head"]),
        (["h.0.x", "h.0.y", "h.1.x"], ["h.{0}.x", "h.{0}.y", "h.{1}.x"]),
        (["h.2.x", "h.1.x"], ["h.{2,1}.x"]),  # the order is kept, whatever it is
        (["h.0.e.1", "h.1.e.1"], ["h.{0-1}.e.1"]),  # only the first number counts
        (["h.01.x"], ["h.01.x"]),  # 01 would come back as 1
        ([], []),
    ],
)
def test_compress_names(names: list[str], templates: list[str]) -> None:
    assert compress_names(names) == templates
    assert expand_templates(templates) == names


@given(NAMES)
def test_expand_templates_inverts_compress_names(names: list[str]) -> None:
    """For every name without braces, which packing refuses."""
    packable = [name for name in names if "{" not in name and "}" not in name]
    assert expand_templates(compress_names(packable)) == packable


@pytest.mark.parametrize("template", ["x.{5-2}", "x.{0-100000}", "x.{0-99999999999999999999}"])
def test_templates_that_would_explode_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match="bad layer template"):
        expand_templates([template])


def test_many_small_templates_share_one_limit() -> None:
    assert len(expand_templates(["a.{0-4}", "b.{0-4}"], limit=10)) == 10
    with pytest.raises(ValueError, match="bad layer template 'b"):
        expand_templates(["a.{0-4}", "b.{0-5}"], limit=10)


def test_natural_order() -> None:
    names = ["lm_head", "layers.10.b", "layers.10.a", "layers.2.a"]
    assert sorted(names, key=natural_key) == ["layers.2.a", "layers.10.a", "layers.10.b", "lm_head"]


@given(st.lists(st.text("a019²٣.", max_size=6)))
def test_any_names_can_be_ordered(names: list[str]) -> None:
    """Also names with digits that int() refuses, or a number where another name has a word."""
    assert sorted(sorted(names, key=natural_key)) == sorted(names)
