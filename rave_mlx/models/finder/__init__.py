"""Finding the words of a page that answer a question: extractive question answering on words and where they stand."""
