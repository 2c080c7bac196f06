"""What contenders rely on in Kiln, and the sums they make themselves."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.contenders import convolutions, first_step, gpu_step, in_turns, noop
from benchmarks.contenders.common import flipped, steady
from benchmarks.contenders.stepping import endless, make_stepper, noise, seconds_per_step
from components.paths import ROOT


def test_a_steady_rate_leaves_the_first_epoch_out() -> None:
    assert steady(100, [50.0, 1.0, 3.0]) == 50.0
    assert steady(100, [4.0]) == 25.0


def test_a_flip_is_drawn_for_each_image() -> None:
    images = torch.arange(64.0 * 4).reshape(64, 1, 1, 4)
    torch.manual_seed(0)
    found = flipped(images)
    turned = (found != images).flatten(1).any(1)
    assert 10 < turned.sum() < 54
    assert torch.equal(found[turned], images[turned].flip(-1))


def test_the_step_on_one_batch_sees_the_same_images_every_time() -> None:
    stepper = make_stepper(*noise("cnn", 12, 20), 8, 2, fixed=True)
    seconds_per_step(endless(stepper), 7)  # further than an epoch of three
    first = stepper.ahead.take((0, 0), torch.tensor([3, 1, 2, 0]))
    assert stepper.ahead.take((5, 1), torch.tensor([9, 8, 7, 6])) is first


def test_bare_convolutions_are_all_of_the_networks_own() -> None:
    network, images, recipe = noise("resnet20", 16, 4)
    stepper = make_stepper(network, images, recipe, 4, 1)
    calls: list[torch.Size] = []
    with pytest.MonkeyPatch.context() as patch:
        plain = convolutions.F.conv2d
        patch.setattr(convolutions.F, "conv2d", lambda x, *rest: calls.append(x.shape) or plain(x, *rest))
        sweep = convolutions.bare(stepper.state.model, torch.from_numpy(images.pixels), torch.float32)
        del calls[:]
        sweep()
    assert len(calls) == 19
    assert calls[0] == (4, 3, 16, 16)
    assert calls[-1] == (4, 64, 4, 4)


def test_operations_of_a_known_network() -> None:
    """torchvision gives ResNet-18 1.814e9 products of 224 x 224 x 3; backward makes twice as many, but none for the images."""
    network, _, _ = noise("resnet18", 224, 1)
    first = 64 * 3 * 7 * 7 * 112 * 112
    classes = 512 * 990  # ours has ten
    assert gpu_step.flops(network) == pytest.approx(2 * (3 * (1.814e9 - classes) - first), rel=1e-3)


def test_what_the_tracer_watches_is_there() -> None:
    spec = importlib.util.spec_from_file_location("tracer", ROOT / "benchmarks" / "trace" / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    tracer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tracer)
    for module, names in tracer.WATCHED.items():
        owner = importlib.import_module(module)
        for dotted in names:
            found = owner
            for part in dotted.split("."):
                found = getattr(found, part)
            assert callable(found)


def test_the_tracer_notes_the_first_call_and_the_time_of_imports(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    script = "from components.training import state, precision\ntry: precision.probe()\nexcept TypeError: pass"
    path = f"{ROOT / 'benchmarks' / 'trace'}:{ROOT}"
    subprocess.run([sys.executable, "-c", script], env={"KILN_BENCH_TRACE": str(trace), "PYTHONPATH": path}, check=True)
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    assert events[0]["what"].startswith("process ")
    names = [event["what"] for event in events]
    assert names.index("components.training.precision.probe begins") < names.index("components.training.precision.probe ends")
    assert 0.1 < events[-1]["imports"] < events[-1]["t"] - events[0]["t"] + 1


def test_phases_add_up_to_the_way_to_the_first_step() -> None:
    marks = ["ray.init begins", "ray.init ends", "components.orchestration.trainer.fit begins",
             "components.orchestration.worker.run begins", "components.training.loop.train begins",
             "components.training.state.State.advance ends"]  # fmt: skip
    events = [{"t": 10.0 + n, "pid": 1 + n // 3, "what": what, "imports": 0.5 * n} for n, what in enumerate(marks)]
    found = first_step.phases(events, 1, 8.0)
    imports = {key: found.pop(key) for key in ("imports of the driver, s", "imports of all, s")}
    assert sum(found.values()) == 15.0 - 8.0
    assert imports == {"imports of the driver, s": 1.0, "imports of all, s": 3.5}


def test_a_repro_that_ran_something_is_no_no_op() -> None:
    assert (
        noop.check("Stage 'a' didn't change, skipping\nStage 'b' didn't change, skipping\nData and pipelines are up to date.")
        == 2
    )
    with pytest.raises(SystemExit, match="not a no-op"):
        noop.check("Running stage 'a':\n> true\nStage 'b' didn't change, skipping")


def test_a_neighbour_who_disturbs_one_of_the_two_more_changes_its_share_and_not_the_ratio() -> None:
    ray, plain = [0.102] * 60 + [0.2] * 40, [0.1] * 90 + [0.2] * 10
    found = in_turns.compared([*ray, 3.0], plain)  # and one validation
    assert found["ratio"] == pytest.approx(0.1 / 0.102)
    assert (found["undisturbed"], found["torchrun_undisturbed"]) == (pytest.approx(0.6), pytest.approx(0.9))
    assert found["ratio_of_all"] == pytest.approx(0.11 / 0.1412)


def test_steps_belong_to_the_turn_that_they_lie_in_whole() -> None:
    steps = [0.0, 1.0, 2.0, 3.5, 4.5, 9.0, 10.0]
    assert in_turns.lengths(steps, [(0.5, 3.6), (4.0, 9.5)]) == [1.0, 1.5, 4.5]
