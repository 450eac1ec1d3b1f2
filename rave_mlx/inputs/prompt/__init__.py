"""From chat messages to the token ids of a prompt, and what is known of every token."""
