"""The order of computations: each module is one DVC stage or one command for the user."""
