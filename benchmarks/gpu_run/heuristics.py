"""Part `heuristics`: Kiln's step with cuDNN's other heuristics, mode B."""

from __future__ import annotations

import os

from benchmarks.gpu_run import implementations
from benchmarks.gpu_run.cases import CNN, RESNET18, RESNET20
from benchmarks.gpu_run.parts import choose_device, parse_part_arguments
from benchmarks.gpu_run.results import Results, free_memory
from benchmarks.gpu_run.turns import FULL, Runner
from benchmarks.gpu_run.workload import Workload


def main() -> None:
    out, _ = parse_part_arguments()
    results = Results(out, "heuristics")
    os.environ["TORCH_CUDNN_USE_HEURISTIC_MODE_B"] = "1"
    for case in (CNN, RESNET20, RESNET18):
        with results.attempt(case.name):
            device = choose_device()
            workload = Workload(case, device)
            runners = {
                "kiln": Runner(implementations.build_kiln(workload), device),
                "graph": Runner(implementations.build_graph(workload), device),
            }
            for runner in runners.values():
                runner.warm_up(FULL)
            for _ in range(5):
                for runner in runners.values():
                    runner.take_turn()
            for name, runner in runners.items():
                results.add(case.name, implementation=name, **runner.turns.summarize(case.batch))
        free_memory()


if __name__ == "__main__":
    main()
