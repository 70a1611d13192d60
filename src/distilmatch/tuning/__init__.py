"""Finding the recipe that fits a time budget and a target of speed or size."""
