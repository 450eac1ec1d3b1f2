"""A second, closer look: where a model looked, what to cut out there, and the cut from the original's pixels.

What the generation-level methods share (`attention.policies.carve`, `attention.policies.funnel`): `profile` lets the
model answer and keeps where every token of the answer looked, `maps` lays that over the page, `regions` finds the part
that matters, `crops` cuts it out of the original and reads it anew. They are policies that rewrite a conversation
before it is read (`Policy.revise`), so everything after them, gates and other policies included, stays as it is."""
