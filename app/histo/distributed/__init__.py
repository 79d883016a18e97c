"""Several processes and threads: ranks, collective operations, launching, prefetching."""
