"""Training: the fine-tuning of a teacher, and the distillation of a student in two stages."""
