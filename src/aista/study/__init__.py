"""Beyond the paper: when does alignment help, and why? One change at a time, judged on the dev set."""
