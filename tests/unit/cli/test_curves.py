"""Curves of braille dots."""

from __future__ import annotations

from hms_tune.cli.views.curves import Curve, draw_curves


def test_a_falling_line_runs_from_the_upper_left_to_the_lower_right() -> None:
    falling = Curve("fold 1", [1, 2], [2.0, 1.0])
    lines = draw_curves([falling], width=40, height=5, title="KL").plain.split("\n")
    assert lines[0] == "KL  ━ fold 1"
    top, bottom = lines[1].split("│")[1], lines[5].split("│")[1]
    assert top[0] != "⠀"
    assert top[-1] == "⠀"
    assert bottom[0] == "⠀"
    assert bottom[-1] != "⠀"
    assert lines[1].split("│")[0].strip() == "2"
    assert lines[5].split("│")[0].strip() == "1"
    assert max(len(line) for line in lines) <= 40


def test_values_that_are_no_numbers_are_left_out() -> None:
    text = draw_curves([Curve("a", [1, 2], [float("nan")] * 2)], width=40, height=5, title="KL").plain
    assert text == "KL\nnothing to draw yet"
