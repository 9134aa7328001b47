"""State tracking in text: short stories and Python code in which things change places, with questions about the end."""
