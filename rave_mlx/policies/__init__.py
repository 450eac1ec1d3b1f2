"""Policies that steer or observe where a model looks: one published method a file.

`base` is the interface, `run` brings policies through a decoder layer, `lower` does the arithmetic, `parse` reads
`--attention`, `registry` lists them.
"""
