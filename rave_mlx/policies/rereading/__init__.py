"""Policies that read the page again: crops of it, other sizes of it, or the conversation without it.

`policy` is their interface. What they share: `answer_attention` lets the model answer and keeps where every token of
the answer looked, `page_maps` lays that over the page, `regions` finds the part that matters, `crops` cuts it out of
the original and reads it anew, `auxiliary_pass` follows an answer with another reading. They change what is read, or
the logits, so everything after them, gates and other policies included, stays as it is.
"""
