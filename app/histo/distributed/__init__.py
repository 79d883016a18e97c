"""Several processes and threads: who is who, who waits for whom."""
