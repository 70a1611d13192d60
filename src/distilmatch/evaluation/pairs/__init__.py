"""The report of a pair student beside its teacher: quality, agreement, speed."""
