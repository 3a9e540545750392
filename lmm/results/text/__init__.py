"""What is printed: the summary, notes, numbers set as R sets them."""
