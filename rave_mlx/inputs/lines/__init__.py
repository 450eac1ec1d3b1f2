"""The printed lines of a page and their words: where they stand, told from its ink."""
