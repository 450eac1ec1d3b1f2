"""Policies that edit or watch the attention of a pass: one published method a file."""
