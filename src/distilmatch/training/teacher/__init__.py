"""Fine-tuning of a cross-encoder teacher: its rows, its dev set, one training, and the search for the best one."""
