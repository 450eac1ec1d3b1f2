"""Policies that steer or watch where a model looks, switched with `--attention`: one published method a file.

`policy` is the interface, `methods` holds what edits or watches attention, `rereading` what reads the page again.
`runtime` brings policies through a decoder layer, `scores` does the arithmetic, `parse` reads `--attention`, `registry`
lists them.
"""
