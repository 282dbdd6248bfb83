"""The three plans: the demo, the paper's tables and figures, the study of what would have to be different."""
