"""Models on disk: the rave directory, safetensors files, adapters, and building a model from them."""
