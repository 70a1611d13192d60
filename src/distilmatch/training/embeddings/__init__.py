"""The embedding job: contrastive distillation of a sentence encoder, then contrastive fine-tuning."""
