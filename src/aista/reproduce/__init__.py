"""The paper's tables and figures from one command: which runs they need, how they are run, what came out."""
