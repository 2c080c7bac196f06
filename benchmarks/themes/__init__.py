"""One module per comparison. Each has `theme(settings) -> Theme`."""
