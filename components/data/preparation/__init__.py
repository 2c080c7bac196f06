"""From raw images to prepared splits: decode in a sandbox, select, assign splits, write, report."""
