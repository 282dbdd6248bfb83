"""How everything is drawn: one canvas, and the pictures of results."""
