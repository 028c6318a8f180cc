"""The picture of a schedule says what the schedule does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from fieldguide.report.schedule import ROWS, Course, courses, draw_schedule, headline, schedule_text
from fieldguide.train.recipe import OptimizerRecipe, Recipe, ScheduleRecipe

CYCLE = Recipe(
    optimizer=OptimizerRecipe(lr=0.5, weight_decay=0.1),
    schedule=ScheduleRecipe(name="one_cycle", weight_decay_final=2.0),
)


def test_courses_are_what_the_optimizer_gets():
    found = {course.name: course.values for course in courses(CYCLE, 100)}
    assert [*found] == ["learning rate", "weight decay", "momentum"]
    assert max(found["learning rate"]) == pytest.approx(0.5)
    assert found["learning rate"].index(max(found["learning rate"])) == 29
    assert (found["weight decay"][0], found["weight decay"][-1]) == pytest.approx((0.1, 0.2), abs=1e-3)
    assert found["momentum"][29] == pytest.approx(0.85)
    assert [course.name for course in courses(Recipe(), 10)] == ["learning rate", "weight decay"]


def bars(text):
    """How high each column stands, in eighths of a row."""
    rows = [line.partition("│")[2] for line in text.splitlines() if "│" in line]
    width = max(map(len, rows))
    return [sum(" ▁▂▃▄▅▆▇█".index(row[i : i + 1] or " ") for row in rows) for i in range(width)]


@settings(max_examples=25)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=40).filter(lambda values: max(values) > 1e-6))
def test_the_columns_are_as_high_as_the_values(values):
    course = Course("learning rate", tuple(values))
    text = schedule_text(course, 64)
    high = bars(text)
    expected = [round(8 * ROWS * (v - course.floor) / ((max(values) - course.floor) or 1)) for v in values]
    assert high + [0] * (len(values) - len(high)) == expected
    assert max(map(len, text.splitlines())) <= 80


def test_a_spike_of_one_step_in_ten_thousand_is_seen():
    values = [0.0] * 10_000
    values[7777] = 1.0
    high = bars(schedule_text(Course("learning rate", tuple(values)), 60))
    assert max(high) == 8 * ROWS
    assert high.index(max(high)) == 7777 * 60 // 10_000


def test_the_png_shows_only_what_moves(tmp_path):
    one = imread(draw_schedule(courses(Recipe(), 50), "cosine", tmp_path / "one.png"))
    three = imread(draw_schedule(courses(CYCLE, 50), "one cycle", tmp_path / "three.png"))
    assert three.shape[0] > one.shape[0] + 200
    assert np.ptp(three[..., :3], axis=-1).max() > 0.3


def test_a_constant_has_a_picture_too(tmp_path):
    flat = Recipe(schedule=ScheduleRecipe(name="constant", warmup=0.0))
    assert draw_schedule(courses(flat, 5), "constant", tmp_path / "flat.png").stat().st_size > 5000
    assert "step 5" in schedule_text(courses(flat, 5)[0])
    told = headline(Recipe(schedule=ScheduleRecipe(name="plateau", plateau_epochs=3, gamma=0.25)), 5)
    assert told == "plateau over 5 steps; ×0.25 after every 3 epochs that bring nothing better"
