"""What is compared. Each module has `theme(settings) -> Theme`."""
