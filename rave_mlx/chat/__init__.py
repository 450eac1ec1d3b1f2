"""Conversations: a session that reuses what it has read, and its saved transcript."""
