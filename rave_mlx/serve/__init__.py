"""`rave-mlx serve`: an HTTP server with OpenAI's interface that batches, and that can show where the model looked.

`run.py` starts it, `app.py` puts it together. A request comes through `guard.py`, is checked (`chat_fields.py`,
`client_messages.py`), waits in line (`fair_queue.py`), and is answered by the model thread of `engine.py`; routes are
in the files named after them.
"""
