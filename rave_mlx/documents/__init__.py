"""Reading whole files and folders: transcription of pages, extraction of fields, and runs that can be resumed."""
