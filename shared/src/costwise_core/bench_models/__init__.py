"""What models cost, how long they take and how good they are, on the user's own prompts."""
