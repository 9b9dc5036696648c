"""Signals to stop: what they raise, and a loop that ends its step first."""

import contextlib
import os
import signal
import sys

import pytest

from minibert.support.signals import Stopped, StopSignals

TERM, INT = signal.SIGTERM, signal.SIGINT
CODES = {TERM: 143, INT: 130}
if hasattr(signal, "SIGHUP"):
    CODES[signal.SIGHUP] = 129


def test_stopped_is_a_keyboard_interrupt_and_not_an_exception():
    with pytest.raises(KeyboardInterrupt) as stop, contextlib.suppress(Exception):
        raise Stopped(TERM)
    assert stop.value.signal_number == TERM and str(stop.value) == "SIGTERM"


@pytest.mark.parametrize("number", CODES)
def test_a_loop_sees_a_signal_and_continues(capsys, number):
    with StopSignals() as signals:
        assert signals.received == 0
        signal.raise_signal(number)
        assert signals.received == number
    assert capsys.readouterr().err.startswith(f"{number.name}: stopping after this step")


def test_the_former_handlers_are_restored():
    def mine(number, frame):
        pass

    former = signal.signal(TERM, mine), signal.getsignal(INT)
    with StopSignals() as signals:
        assert signal.getsignal(TERM) != mine
    assert (signal.getsignal(TERM), signal.getsignal(INT)) == (mine, former[1])
    with StopSignals() as signals:
        signals.former[TERM] = None  # as Python reports a handler that C code has set
    assert signal.getsignal(TERM) == signal.SIG_DFL


@pytest.mark.parametrize(("first", "second"), [(TERM, INT), (INT, TERM)])
def test_a_second_signal_ends_a_loop_at_once(monkeypatch, first, second):
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(signal, "default_int_handler", None)  # as in a command, which has a handler of its own
    with pytest.raises(SystemExit) as end, StopSignals():
        signal.raise_signal(first)
        signal.raise_signal(second)
    assert end.value.code == CODES[second]


def test_a_second_ctrl_c_does_not_end_a_notebook():
    former = signal.signal(INT, signal.default_int_handler)  # as in a notebook; a worker of pytest may ignore Ctrl-C
    try:
        with pytest.raises(Stopped), StopSignals():
            signal.raise_signal(INT)
            signal.raise_signal(INT)
    finally:
        signal.signal(INT, former)


def test_work_that_is_safe_to_abandon_stops_at_once():
    with StopSignals() as signals:
        with signals.raising():
            pass
        signal.raise_signal(TERM)  # after the inner block: recorded again
        with pytest.raises(Stopped), signals.raising():
            pytest.fail("work began although a signal had arrived before")
    with StopSignals() as signals, pytest.raises(Stopped), signals.raising():
        signal.raise_signal(TERM)
