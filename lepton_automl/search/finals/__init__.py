"""Train the best trials to the end and select the one that ships."""
