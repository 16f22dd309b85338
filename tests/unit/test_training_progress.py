"""The display of a training on a terminal, and its JSON lines."""

import io
import json
import math
from types import SimpleNamespace

import pytest

from penstock.core.nouns import Fit, Stream
from penstock.progress import Course, CourseLines, fed_for, heard_for

FIT = Fit("table", SimpleNamespace(epochs=4))


class Clock:
    """A clock that is moved by hand."""

    now = 100.0

    def __call__(self):
        return self.now


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def lines(stream):
    return [json.loads(line, parse_constant=pytest.fail) for line in stream.getvalue().splitlines()]


def test_json_lines_say_how_it_goes():
    clock, stream = Clock(), io.StringIO()
    display = CourseLines(stream)
    display.begin(Course.of(FIT, clock))
    clock.now += 10
    display.heard({"epoch": 0.5, "loss": 3.0, "likeness": math.nan})
    clock.now += 20
    display.heard({"epoch": 1.5, "loss": 2.0, "likeness": 0.75})
    display.end(ok=True)
    begin, first, second, end = lines(stream)
    assert [line["event"] for line in (begin, first, second, end)] == ["begin", "progress", "progress", "end"]
    assert begin["epochs"] == 4
    assert begin["seconds_left"] is None
    assert (first["loss"], first["likeness"], first["seconds"], first["seconds_left"]) == (3.0, None, 10, None)
    assert (second["epoch"], second["seconds_left"]) == (1.5, 50), (
        "an epoch takes twenty seconds, two and a half are left"
    )
    assert end["ok"] is True
    assert end["likeness"] == 0.75


def test_the_pace_of_a_training_that_goes_on_is_that_of_its_new_part():
    clock = Clock()
    course = Course.of(FIT, clock)
    course.add({"epoch": 3.0})
    clock.now += 5
    course.add({"epoch": 3.5})
    assert course.seconds_left() == 5


def test_a_training_without_epochs_has_no_end_in_sight():
    course = Course.of(Fit("other", SimpleNamespace()))
    course.add({"epoch": 1.0})
    course.add({"epoch": 2.0})
    assert course.seconds_left() is None


def test_a_training_that_stops_is_told_as_stopped():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), heard_for(stream, FIT):
        raise KeyboardInterrupt
    assert lines(stream)[-1]["ok"] is False


def test_the_terminal_shows_epochs_and_what_is_told():
    screen = Screen()
    with heard_for(screen, FIT) as heard:
        heard({"epoch": 2.5, "loss": 1.25, "likeness": 0.875})
        heard.__self__._live.refresh()
    text = screen.getvalue()
    for words in ("table", "epoch 2.50 of 4", "loss 1.25, likeness 0.875", "table is trained"):
        assert words in text


def test_the_terminal_says_that_what_was_published_is_kept():
    screen = Screen()
    with pytest.raises(ValueError, match="no"), heard_for(screen, FIT):
        raise ValueError("no")
    assert "table has stopped; what was published is kept" in screen.getvalue()


def test_a_stream_tells_how_far_its_solver_is():
    screen, pipe = Screen(), io.StringIO()
    stream = Stream("channel", source=None, into=None)
    for where in (screen, pipe):
        with fed_for(where, stream) as heard:
            heard({"solver_time": 0.5, "end_time": 2.0, "planes": 10})
            if where is screen:
                heard.__self__._live.refresh()
    for words in ("channel", "solver_time 0.50 of 2", "planes 10", "channel has ended"):
        assert words in screen.getvalue()
    begin, said, end = lines(pipe)
    assert (begin["stream"], begin["end_time"]) == ("channel", None)
    assert (said["solver_time"], said["end_time"], said["planes"]) == (0.5, 2.0, 10)
    assert end["ok"] is True
