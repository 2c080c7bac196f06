"""The order of computations: one module is one DVC stage or one human command."""
