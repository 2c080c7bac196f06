"""Random sequences of registry operations and crashes, with invariants after each step."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mlflow import MlflowClient

from components.errors import UserError
from components.records.receipt import Receipt
from components.registry import history, model_versions, verdicts
from pipelines import promote as command
from tests.integration.versions import evaluate_version, register_version

pytestmark = pytest.mark.slow

_NUMBERS = itertools.count()


class Crash(BaseException):
    """The simulated death of the process."""


def test_alias_names_an_evaluated_version_and_follows_its_history(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Machine(RuleBasedStateMachine):
        @initialize()
        def start(self) -> None:
            self.name = f"machine-{next(_NUMBERS)}"
            self.receipts: dict[int, Receipt] = {}
            self.crashed = False
            self.register(0)

        @rule(seed=st.integers(0, 3))
        def register(self, seed: int) -> None:
            earlier = self.receipts.get(seed)
            self.receipts[seed] = register_version(client, 500 + seed, self.name)
            assert earlier in (None, self.receipts[seed])

        @rule(
            data=st.data(),
            num_correct=st.sampled_from([1200, 1600, 1800, 1900]),
            passed=st.sampled_from([True, True, False]),
        )
        def evaluate(self, data: Any, num_correct: int, passed: bool) -> None:
            evaluate_version(
                client,
                self.receipts[data.draw(st.sampled_from(sorted(self.receipts)))],
                num_correct,
                passed,
            )

        @rule(
            data=st.data(),
            override=st.sampled_from([None, None, None, "needed"]),
            crash=st.sampled_from(["", "", "append", "sync_alias"]),
        )
        def promote(self, data: Any, override: str | None, crash: str) -> None:
            version = self.receipts[data.draw(st.sampled_from(sorted(self.receipts)))].version
            self.attempt(
                crash, lambda: command.promote(version, "r", name=self.name, override=override)
            )

        @rule(crash=st.sampled_from(["", "", "append", "sync_alias"]))
        def rollback(self, crash: str) -> None:
            self.attempt(crash, lambda: command.rollback("r", name=self.name))

        def attempt(self, crash: str, action: Any) -> None:
            """Run an action. `crash` names the function of `history` in which the process dies."""
            with monkeypatch.context() as patch:
                if crash:
                    patch.setattr(history, crash, self.die)
                try:
                    action()
                except UserError:
                    return
                except Crash:
                    self.crashed = crash == "sync_alias" or self.crashed
                    return
            self.crashed = (
                self.crashed and history.get_alias_state(client, self.name, "champion").interrupted
            )

        def die(self, *_: Any) -> None:
            raise Crash

        @precondition(lambda self: self.crashed)
        @rule()
        def complete_interrupted_move(self) -> None:
            state = history.get_alias_state(client, self.name, "champion")
            if state.interrupted:
                history.sync_alias(client, self.name, "champion")
            self.crashed = False

        @invariant()
        def alias_and_history_agree(self) -> None:
            if not hasattr(self, "name"):
                return
            state = history.get_alias_state(client, self.name, "champion")
            assert state.current_version == state.expected_version or state.interrupted
            assert not state.interrupted or self.crashed
            if state.current_version is not None:
                verdicts.load_verified(
                    client, model_versions.get(client, self.name, state.current_version)
                )
            version = None
            for recorded in state.moves:
                move = recorded.move
                assert move.source == version, "each move begins where the one before it ended"
                version = move.target
                if move.undoes is None and move.override is None:
                    assert move.comparison is None or move.comparison.passed
            digests = [
                version.tags["kiln.sha256"]
                for version in model_versions.list_versions(client, self.name)
            ]
            assert len(digests) == len(set(digests)) == len(self.receipts)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=10, stateful_step_count=12, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
