"""The channel between workers and driver, without Ray: the actor's class and the failures."""

from __future__ import annotations

import asyncio

from components.orchestration.event_channel import EventActor, Failure, repeated_failure
from components.orchestration.events import Heartbeat, WorkersStarted


def test_events_arrive_once_and_in_order() -> None:
    async def scenario() -> None:
        actor = EventActor()
        await actor.put(WorkersStarted(2))
        await actor.put(Heartbeat())
        assert await actor.take(0) == [WorkersStarted(2), Heartbeat()]
        assert await actor.take(0) == []

    asyncio.run(scenario())


def test_take_waits_for_the_first_event() -> None:
    async def scenario() -> None:
        actor = EventActor()
        waiting = asyncio.create_task(actor.take(60))
        await asyncio.sleep(0)
        assert not waiting.done()
        await actor.put(Heartbeat())
        assert await asyncio.wait_for(waiting, 10) == [Heartbeat()]

    asyncio.run(scenario())


def test_every_put_after_a_stop_request_returns_it() -> None:
    async def scenario() -> None:
        actor = EventActor()
        assert not await actor.put(Heartbeat())
        await actor.request_stop()
        assert await actor.put(Heartbeat())
        assert await actor.put(Heartbeat())

    asyncio.run(scenario())


def test_a_repeated_failure_is_fatal_whatever_its_numbers() -> None:
    first = Failure.of(ValueError("bad row 17 at 0x7f00"))
    other = Failure.of(ValueError("bad column 3"))
    again = Failure.of(ValueError("bad row 99 at 0x8a11"))
    assert repeated_failure([first, other]) is None
    expected = "training failed the same way 2 times: ValueError: bad row 17 at 0x7f00"
    assert repeated_failure([first, other, again]) == expected


def test_notes_of_an_error_are_part_of_its_text() -> None:
    error = RuntimeError("boom")
    error.add_note("(epoch 2, step 6 of 8)")
    elsewhere = RuntimeError("boom")
    elsewhere.add_note("(epoch 2, step 7 of 8)")
    assert Failure.of(error).text == "RuntimeError: boom (epoch 2, step 6 of 8)"
    assert repeated_failure([Failure.of(error), Failure.of(elsewhere)]) is None
