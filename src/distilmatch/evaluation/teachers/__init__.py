"""What a teacher's fine-tuning tried and chose, as a page."""
