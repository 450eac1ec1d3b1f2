"""From a picture or a PDF page to the patches that a vision tower reads."""
