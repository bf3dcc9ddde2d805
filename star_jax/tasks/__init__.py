"""Tasks: questions, how they are hinted at, how an answer is read, and the data."""
