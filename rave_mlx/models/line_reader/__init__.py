"""A small network that reads the picture of one printed line."""
