"""What a model is given: pictures turned into patches, and messages turned into token ids."""
