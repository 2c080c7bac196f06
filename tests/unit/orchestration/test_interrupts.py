"""SIGINT and SIGTERM during a training."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from components.orchestration.interrupts import collect_interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_collected_and_the_second_interrupts(number: signal.Signals) -> None:
    previous = signal.getsignal(number)
    with collect_interrupts() as interrupts:
        os.kill(os.getpid(), number)
        assert interrupts == [number]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == previous


def test_other_threads_collect_nothing_and_change_no_handler() -> None:
    previous = signal.getsignal(signal.SIGINT)
    collected: list[list[int]] = []

    def run() -> None:
        with collect_interrupts() as interrupts:
            collected.append(interrupts)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert collected == [[]]
    assert signal.getsignal(signal.SIGINT) == previous
