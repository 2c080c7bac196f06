"""What a model is worth: predictions, metrics, gates and plots, as pure functions of arrays."""
