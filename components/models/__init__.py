"""Networks: architectures, the module that is trained and served, and files of weights."""
