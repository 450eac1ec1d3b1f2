"""Pages to text: how each model is asked to transcribe a page, and what its answer becomes."""
