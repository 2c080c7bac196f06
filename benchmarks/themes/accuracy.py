"""Speed and accuracy of whole trainings: `throughput` on all images, to the end of the schedule."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.model import Settings, Theme
from benchmarks.themes.throughput import build_theme


def theme(settings: Settings) -> Theme:
    throughput = build_theme(settings, settings.rows, settings.epochs or 4)
    name = throughput.name.replace("throughput", "accuracy")
    title = f"Whole trainings on Fashion-MNIST, {settings.network}"
    return replace(throughput, name=name, title=title)
