"""Experiments: a plan says what data, runs, tables and figures; one runner runs it; one page shows it."""
