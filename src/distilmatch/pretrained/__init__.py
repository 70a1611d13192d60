"""What a pre-trained encoder is: its name, its folder, its family's layers, and whether a student can be made of it."""
