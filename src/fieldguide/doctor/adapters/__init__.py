"""The doctor as a callback of other trainers, which are imported only when their file is."""
