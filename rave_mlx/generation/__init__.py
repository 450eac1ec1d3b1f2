"""From a prompt to an answer: prefill, decoding, sampling and logits processors."""
