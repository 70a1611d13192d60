"""The report on a student: its quality and its speed beside its teacher's, in figures, in Markdown and as a plot."""
