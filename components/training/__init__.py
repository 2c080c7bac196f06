"""The training loop (torch alone) and what runs it on Ray (`worker`, `trainer`)."""
