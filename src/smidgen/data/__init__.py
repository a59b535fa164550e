"""What models read: rows, messages, tokens, and the generated world."""
