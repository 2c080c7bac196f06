"""Throughput and accuracy of whole trainings: the contenders of `throughput`, on all images to the end of the schedule."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.model import Settings, Theme
from benchmarks.themes.throughput import build


def theme(settings: Settings) -> Theme:
    built = build(settings, settings.rows, settings.epochs or 4)
    name = built.name.replace("throughput", "accuracy")
    return replace(built, name=name, title=f"Whole trainings on Fashion-MNIST, {settings.network}")
