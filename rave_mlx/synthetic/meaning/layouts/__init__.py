"""Documents by kind: each file writes one family of them on a `paper.Paper`."""
