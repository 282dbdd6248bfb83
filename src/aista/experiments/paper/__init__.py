"""The paper: what it reports, which runs its tables and figures need, and what is made of ours."""
