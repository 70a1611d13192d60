"""What a match is made of: how pairs are scored, and what is written of what was found."""
