"""Any sequence of register, evaluate, promote, roll back, crash and try again leaves the registry in order."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from components.errors import UserError
from components.records.registry import Receipt
from components.registry import history, model_versions
from pipelines import promote as verb
from tests.integration.versions import judge, make

_NUMBERS = itertools.count()


class Crash(BaseException):
    """The process ends here."""


def test_whatever_is_tried_the_alias_names_a_judged_version_and_the_history_leads_there(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Machine(RuleBasedStateMachine):
        @initialize()
        def fresh(self) -> None:
            self.name = f"machine-{next(_NUMBERS)}"
            self.receipts: dict[int, Receipt] = {}
            self.crashed = False
            self.register(0)

        @rule(seed=st.integers(0, 3))
        def register(self, seed: int) -> None:
            again = self.receipts.get(seed)
            self.receipts[seed] = make(client, 500 + seed, self.name)
            assert again in (None, self.receipts[seed])

        @rule(data=st.data(), right=st.sampled_from([1200, 1600, 1800, 1900]), passed=st.sampled_from([True, True, False]))
        def evaluate(self, data: Any, right: int, passed: bool) -> None:
            judge(client, self.receipts[data.draw(st.sampled_from(sorted(self.receipts)))], right, passed)

        @rule(
            data=st.data(),
            override=st.sampled_from([None, None, None, "needed"]),
            crash=st.sampled_from(["", "", "write", "set"]),
        )
        def promote(self, data: Any, override: str | None, crash: str) -> None:
            version = self.receipts[data.draw(st.sampled_from(sorted(self.receipts)))].version
            self.attempt(crash, lambda: verb.promote(version, "r", name=self.name, override=override))

        @rule(crash=st.sampled_from(["", "", "write", "set"]))
        def rollback(self, crash: str) -> None:
            self.attempt(crash, lambda: verb.rollback("r", name=self.name))

        def attempt(self, crash: str, action: Any) -> None:
            """Does it, dying before the move is written or before the alias is set; trying again mends."""
            with monkeypatch.context() as patch:
                if crash:
                    patch.setattr(history, {"write": "append", "set": "follow"}[crash], self.die)
                try:
                    action()
                except UserError:
                    return
                except Crash:
                    self.crashed = crash == "set" or self.crashed
                    return
            self.crashed = self.crashed and history.state(client, self.name, "champion").interrupted

        def die(self, *_: Any) -> None:
            raise Crash

        @precondition(lambda self: self.crashed)
        @rule()
        def try_again(self) -> None:
            current = history.state(client, self.name, "champion")
            if current.interrupted:
                history.follow(client, self.name, "champion")
            self.crashed = False

        @invariant()
        def in_order(self) -> None:
            if not hasattr(self, "name"):
                return
            current = history.state(client, self.name, "champion")
            assert current.now == current.expected or current.interrupted
            assert not current.interrupted or self.crashed
            if current.now is not None:
                model_versions.intact(model_versions.get(client, self.name, current.now))
            holder = None
            for entry in current.entries:
                move = entry.move
                assert move.source == holder, "the history replays without a gap"
                holder = move.target
                if move.undoes is None and move.override is None:
                    assert move.comparison is None or move.comparison.passed, "nothing worse moved in silence"
            digests = [version.tags["kiln.sha256"] for version in model_versions.versions(client, self.name)]
            assert len(digests) == len(set(digests)) == len(self.receipts)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=10, stateful_step_count=12, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
