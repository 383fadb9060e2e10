"""A saved model's files, read inertly, and the card of what they say. No file is run or loaded here. It stands on `common`."""
