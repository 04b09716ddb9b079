"""Formulas as drawings that stand in a line of text."""

import re

import pytest

from tools.formula import formula


def box(svg):
    """Left, top, width and height of a drawing; its height and depth in em."""
    view = [float(number) for number in re.search(r'viewBox="([^"]+)"', svg)[1].split()]
    height = float(re.search(r"height:([\d.]+)em", svg)[1])
    return view, height, float(re.search(r"vertical-align:([-\d.]+)em", svg)[1])


def test_a_formula_stands_on_the_line_in_the_texts_colour():
    (_, _, wide, high), height, depth = box(formula("x"))
    assert 0.4 < height < 0.7 and abs(depth) < 0.03  # a small letter without a tail
    (_, _, twice, same), *_ = box(formula("x x"))
    assert 1.8 * wide < twice < 2.4 * wide and same == high
    assert box(formula("f_w"))[2] < -0.1  # the index hangs below the line
    assert "fill" not in formula("x") and "#" not in formula("x")
    assert 'aria-label="a &lt; b"' in formula("a < b")


def test_a_formula_may_be_written_as_notebooks_write_it():
    assert box(formula(r"\tfrac12")) == box(formula(r"\frac{1}{2}"))


def test_what_matplotlib_cannot_draw_is_refused_by_name():
    with pytest.raises(ValueError, match="nosuchsymbol"):
        formula(r"\nosuchsymbol")
